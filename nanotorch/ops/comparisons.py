"""Comparisons, logic and selection. Their outputs are booleans; only `where` has a derivative."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array, array_module, get_default_dtype, is_array, result_type
from nanotorch.ops.casting import cast
from nanotorch.primitive import Elementwise, Linear, Traced, apply


class Eq(Elementwise):
    """y = (a == b)"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.equal(a, b, out=out)


class Ne(Elementwise):
    """y = (a != b)"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.not_equal(a, b, out=out)


class Lt(Elementwise):
    """y = (a < b)"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.less(a, b, out=out)


class Le(Elementwise):
    """y = (a <= b)"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.less_equal(a, b, out=out)


class Gt(Elementwise):
    """y = (a > b)"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.greater(a, b, out=out)


class Ge(Elementwise):
    """y = (a >= b)"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.greater_equal(a, b, out=out)


class LogicalAnd(Elementwise):
    """y = a and b"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.logical_and(a, b, out=out)


class LogicalOr(Elementwise):
    """y = a or b"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.logical_or(a, b, out=out)


class LogicalXor(Elementwise):
    """y = either a or b"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.logical_xor(a, b, out=out)


class LogicalNot(Elementwise):
    """y = not a"""

    @staticmethod
    def kernel(xp: Any, a: Array, out: Array | None = None) -> Array:
        return xp.logical_not(a, out=out)


class BitwiseAnd(Elementwise):
    """y = a & b, of integers or booleans"""

    in_place = True

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.bitwise_and(a, b, out=out)


class BitwiseOr(Elementwise):
    """y = a | b, of integers or booleans"""

    in_place = True

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.bitwise_or(a, b, out=out)


class BitwiseXor(Elementwise):
    """y = a ^ b, of integers or booleans"""

    in_place = True

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.bitwise_xor(a, b, out=out)


class BitwiseNot(Elementwise):
    """y = ~a, of integers or booleans"""

    in_place = True

    @staticmethod
    def kernel(xp: Any, a: Array, out: Array | None = None) -> Array:
        return xp.invert(a, out=out)


class IsNaN(Elementwise):
    """y = a is not a number"""

    @staticmethod
    def kernel(xp: Any, a: Array, out: Array | None = None) -> Array:
        return xp.isnan(a, out=out)


class IsInf(Elementwise):
    """y = a is infinite"""

    @staticmethod
    def kernel(xp: Any, a: Array, out: Array | None = None) -> Array:
        return xp.isinf(a, out=out)


class IsFinite(Elementwise):
    """y = a is neither infinite nor NaN"""

    @staticmethod
    def kernel(xp: Any, a: Array, out: Array | None = None) -> Array:
        return xp.isfinite(a, out=out)


class Where(Linear):
    """y = a where condition, else b"""

    vjp = (
        None,
        lambda g, condition: where(condition, g, 0),
        lambda g, condition: where(condition, 0, g),
    )

    @staticmethod
    def kernel(xp: Any, condition: Array, a: Array, b: Array, out: Array | None = None) -> Array:
        y = xp.where(condition, a, b)
        if not is_array(a) and not is_array(b) and y.dtype.kind == "f":
            y = y.astype(get_default_dtype().numpy)
        if out is None:
            return y
        xp.copyto(out, y)
        return out


class MaskedFill(Linear):
    """y = value where mask, else x"""

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
        xp.copyto(out, value, where=mask, casting="unsafe")
        return out


def where(condition: Any, a: Any = None, b: Any = None) -> Any:
    """a where `condition` (bool), else b, broadcast together; with the condition alone, its nonzero()."""
    if a is None and b is None:
        return nonzero(condition, as_tuple=True)
    arrays = [isinstance(v, Traced) or is_array(v) for v in (a, b)]
    if any(arrays) and getattr(a, "dtype", None) != getattr(b, "dtype", None):
        kind = result_type(a, b)
        a = cast(a, kind.numpy) if arrays[0] else a
        b = cast(b, kind.numpy) if arrays[1] else b
    return apply(Where, condition, a, b)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x with `value` (a number or a 0-dim tensor) where `mask` (bool, broadcast) is true."""
    if getattr(mask, "_array", mask).dtype.kind != "b":
        raise RuntimeError(f"masked_fill: expected a boolean mask, got {mask.dtype}")
    return apply(MaskedFill, x, mask, value)


def nonzero(x: Any, *, as_tuple: bool = False) -> Any:
    """The indices of the nonzero elements: an int64 tensor (n, dims), or one 1-dim tensor per dim."""
    array = x._array
    places = array.nonzero() if array.ndim else array.reshape(1).nonzero()
    if as_tuple:
        return tuple(x._wrap(p) for p in places)
    columns = [p.reshape(-1, 1) for p in places[: array.ndim]]
    if not columns:
        return x._wrap(places[0].reshape(-1, 1)[:, :0])
    return x._wrap(array_module(array).concatenate(columns, axis=1))


def eq(a: Any, b: Any) -> Any:
    """a == b, elementwise."""
    return apply(Eq, a, b)


def ne(a: Any, b: Any) -> Any:
    """a != b, elementwise."""
    return apply(Ne, a, b)


def lt(a: Any, b: Any) -> Any:
    """a < b, elementwise."""
    return apply(Lt, a, b)


def le(a: Any, b: Any) -> Any:
    """a <= b, elementwise."""
    return apply(Le, a, b)


def gt(a: Any, b: Any) -> Any:
    """a > b, elementwise."""
    return apply(Gt, a, b)


def ge(a: Any, b: Any) -> Any:
    """a >= b, elementwise."""
    return apply(Ge, a, b)


def logical_and(a: Any, b: Any) -> Any:
    """a and b, elementwise; numbers count as true where nonzero."""
    return apply(LogicalAnd, a, b)


def logical_or(a: Any, b: Any) -> Any:
    """a or b, elementwise; numbers count as true where nonzero."""
    return apply(LogicalOr, a, b)


def logical_xor(a: Any, b: Any) -> Any:
    """Either a or b but not both, elementwise."""
    return apply(LogicalXor, a, b)


def logical_not(a: Any) -> Any:
    """not a, elementwise."""
    return apply(LogicalNot, a)


def bitwise_and(a: Any, b: Any) -> Any:
    """a & b of integers or booleans."""
    return apply(BitwiseAnd, a, b)


def bitwise_or(a: Any, b: Any) -> Any:
    """a | b of integers or booleans."""
    return apply(BitwiseOr, a, b)


def bitwise_xor(a: Any, b: Any) -> Any:
    """a ^ b of integers or booleans."""
    return apply(BitwiseXor, a, b)


def bitwise_not(a: Any) -> Any:
    """~a of integers or booleans."""
    return apply(BitwiseNot, a)


def isnan(a: Any) -> Any:
    """Where a is NaN."""
    return apply(IsNaN, a)


def isinf(a: Any) -> Any:
    """Where a is infinite."""
    return apply(IsInf, a)


def isfinite(a: Any) -> Any:
    """Where a is finite."""
    return apply(IsFinite, a)


def isclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Any:
    """Where |a - b| <= atol + rtol * |b|, or both are equal infinities (or, if asked, both NaN)."""
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
