"""Comparisons, logic and selection. Their outputs are booleans; only `where` has a derivative."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    constant,
    dtype_of,
    fitting,
    get_default_dtype,
    is_array,
    result_type,
)
from nanotorch.backend.dtypes import bool_
from nanotorch.ops.casting import cast, into
from nanotorch.ops.operand_dtypes import alike
from nanotorch.primitive import Linear, Traced, Ufunc, apply, function

FEW = 2048  # elements, of which `where` takes less time than several calls


class Eq(Ufunc):
    """y = (a == b)"""

    ufunc = "equal"


eq = function(Eq)


class Ne(Ufunc):
    """y = (a != b)"""

    ufunc = "not_equal"


ne = function(Ne)


class Lt(Ufunc):
    """y = (a < b)"""

    ufunc = "less"


lt = function(Lt)


class Le(Ufunc):
    """y = (a <= b)"""

    ufunc = "less_equal"


le = function(Le)


class Gt(Ufunc):
    """y = (a > b)"""

    ufunc = "greater"


gt = function(Gt)


class Ge(Ufunc):
    """y = (a >= b)"""

    ufunc = "greater_equal"


ge = function(Ge)


class LogicalAnd(Ufunc):
    """y = a and b"""

    ufunc = "logical_and"


logical_and = function(LogicalAnd)


class LogicalOr(Ufunc):
    """y = a or b"""

    ufunc = "logical_or"


logical_or = function(LogicalOr)


class LogicalXor(Ufunc):
    """y = either a or b"""

    ufunc = "logical_xor"


logical_xor = function(LogicalXor)


class LogicalNot(Ufunc):
    """y = not a"""

    ufunc = "logical_not"


logical_not = function(LogicalNot)


class BitwiseAnd(Ufunc):
    """y = a & b, of integers or booleans"""

    ufunc = "bitwise_and"


bitwise_and = function(BitwiseAnd)


class BitwiseOr(Ufunc):
    """y = a | b, of integers or booleans"""

    ufunc = "bitwise_or"


bitwise_or = function(BitwiseOr)


class BitwiseXor(Ufunc):
    """y = a ^ b, of integers or booleans"""

    ufunc = "bitwise_xor"


bitwise_xor = function(BitwiseXor)


class BitwiseNot(Ufunc):
    """y = ~a, of integers or booleans"""

    ufunc = "invert"


bitwise_not = function(BitwiseNot)


class LeftShift(Ufunc):
    """y = a * 2 ** b, of integers"""

    ufunc = "left_shift"


bitwise_left_shift = function(LeftShift)


class RightShift(Ufunc):
    """y = floor(a / 2 ** b), of integers"""

    ufunc = "right_shift"


bitwise_right_shift = function(RightShift)


class Isnan(Ufunc):
    """y = a is not a number"""

    ufunc = "isnan"


isnan = function(Isnan)


class Isinf(Ufunc):
    """y = a is infinite"""

    ufunc = "isinf"


isinf = function(Isinf)


class Isfinite(Ufunc):
    """y = a is neither infinite nor NaN"""

    ufunc = "isfinite"


isfinite = function(Isfinite)


def selected(xp: Any, condition: Array, a: Any, b: Any, out: Array | None = None) -> Array:
    """y = a where condition, else b; of many floats on the host by their bits.

    That takes no branches: where elements alternate, it is ten times as fast as `where`.
    """
    arrays = [x for x in (a, b) if is_array(x)]
    if xp is not HOST or max(x.size for x in (condition, *arrays)) < FEW:
        return into(xp, xp.where(condition, a, b), out)
    dtype = arrays[0].dtype
    if dtype.char not in "fd" or condition.dtype.kind != "b" or arrays[-1].dtype != dtype:
        return into(xp, xp.where(condition, a, b), out)
    if type(a) is int and a == 0:
        condition, a, b = xp.logical_not(condition), b, a
    mask = condition.astype(f"i{dtype.itemsize}")
    y = None if out is None else out.view(mask.dtype)
    alike = all(x.flags.c_contiguous and x.shape == mask.shape for x in (mask, *arrays))
    own = mask if alike else None  # what is broadcast, or turned, takes memory of its own

    def bits(x: Any) -> Any:
        return (x if is_array(x) else constant(arrays[0], x)).view(mask.dtype)

    if type(b) is int and b == 0:  # the bits of a, times 1 or 0
        y = xp.multiply(bits(a), mask, out=own if y is None else y)
    else:  # b ^ ((a ^ b) & mask), where the mask is all ones or all zeros
        both = xp.bitwise_xor(bits(a), bits(b))
        both = xp.bitwise_and(both, xp.negative(mask, out=mask), out=own)
        y = xp.bitwise_xor(both, bits(b), out=own if y is None else y)
    return y.view(dtype) if out is None else out


class Where(Linear):
    """y = a where condition, else b"""

    moves = "numbers"
    vjp = (
        None,
        lambda g, condition: where(condition, g, 0),
        lambda g, condition: where(condition, 0, g),
    )

    @staticmethod
    def kernel(xp: Any, condition: Array, a: Array, b: Array, out: Array | None = None) -> Array:
        if type(a) is type(b) is HOST.ndarray and a.dtype is b.dtype and condition.size < FEW:
            return into(xp, xp.where(condition, a, b), out)  # as in most cases: saves a list
        kinds = [x.dtype for x in (a, b) if is_array(x)]
        if kinds and kinds[0].char in "fd" and kinds == [kinds[0]] * len(kinds):
            return selected(xp, condition, a, b, out)
        y = xp.where(condition, a, b)
        if not kinds and y.dtype.kind == "f":
            y = y.astype(get_default_dtype().numpy)
        elif kinds and kinds[0].char == "E" and kinds == [kinds[0]] * len(kinds):
            y = y.astype(kinds[0])  # which Python numbers widen, and CuPy in any case
        return into(xp, y, out)


class MaskedFill(Linear):
    """y = value where mask, else x"""

    rearranges = True
    moves = "numbers"
    of_one_dtype = True
    vjp = (
        lambda g, mask: where(mask, 0, g),
        None,
        lambda g, mask: where(mask, g, 0),
    )

    @staticmethod
    def kernel(xp: Any, x: Array, mask: Array, value: Any, out: Array | None = None) -> Array:
        if out is None:
            out = xp.empty(xp.broadcast_shapes(x.shape, mask.shape), x.dtype)
        xp.copyto(out, x)
        if xp is HOST and hasattr(value, "dtype") and value.dtype != out.dtype:
            value = value.item()  # which PyTorch converts as a number, too
        xp.copyto(out, fitting(value, out.dtype), where=mask, casting="unsafe")
        return out


def where(condition: Any, a: Any = None, b: Any = None) -> Any:
    """a where `condition` (bool), else b, broadcast; the condition alone gives its nonzero()."""
    if a is None and b is None:
        return nonzero(condition, as_tuple=True)
    if isinstance(condition, Traced) and condition._array.dtype.kind not in "bu":
        raise RuntimeError(
            f"where: expected a boolean condition, got {dtype_of(condition._array.dtype)}"
        )
    if isinstance(a, Traced) and isinstance(b, Traced) and a._array.dtype is b._array.dtype:
        return apply(Where, condition, a, b)
    arrays = [isinstance(v, Traced) or is_array(v) for v in (a, b)]
    if any(arrays) and getattr(a, "dtype", None) != getattr(b, "dtype", None):
        kind = result_type(a, b)
        # A number beyond the limits of halves becomes infinite, beyond those of others is refused.
        if kind.itemsize != 2:
            a, b = fitting(a, kind.numpy), fitting(b, kind.numpy)
        a = cast(a, kind.numpy) if arrays[0] else a
        b = cast(b, kind.numpy) if arrays[1] else b
    return apply(Where, condition, a, b)


def where_else(x: Any, condition: Any, other: Any) -> Any:
    """x where `condition` (bool), else other, broadcast."""
    return where(condition, x, other)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x with `value` (a number or a 0-dim tensor) where `mask` (bool, broadcast) is true."""
    if getattr(mask, "_array", mask).dtype.kind != "b":
        raise RuntimeError(f"masked_fill: expected a boolean mask, got {mask.dtype}")
    return apply(MaskedFill, x, mask, value)


def nonzero(x: Any, *, as_tuple: bool = False) -> Any:
    """The indices of the nonzero elements: int64 (n, dims), or one 1-dim tensor per dim."""
    array = x._array
    places = array.nonzero() if array.ndim else array.reshape(1).nonzero()
    rows = array_module(array).stack(places)  # one behind the other in memory, as in PyTorch
    return tuple(x._wrap(row) for row in rows) if as_tuple else x._wrap(rows[: array.ndim].T)


def isclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Any:
    """Where |a - b| <= atol + rtol * |b|, or both are equal infinities (or, if asked, both NaN)."""
    alike("isclose", a, b)
    if a.dtype is bool_:
        return a == b
    close = (a == b) | ((abs(a - b) <= atol + rtol * abs(b)) & isfinite(b))
    return close | (isnan(a) & isnan(b)) if equal_nan else close


def allclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether every element of a is close to that of b, as `isclose` says."""
    return bool(isclose(a, b, rtol, atol, equal_nan).all())


def equal(a: Any, b: Any) -> bool:
    """Whether a and b have the same shape and the same elements."""
    return a.shape == b.shape and bool((a == b).all())
