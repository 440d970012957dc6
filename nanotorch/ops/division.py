"""Division that rounds, and its remainders."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.arithmetic import Div
from nanotorch.ops.casting import into, zeros_like
from nanotorch.primitive import Elementwise, apply, function


class FloorDivide(Elementwise):
    """y = floor(a / b)"""

    exact_numbers = True
    in_place = True
    vjp = (lambda g: zeros_like(g), lambda g: zeros_like(g))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if refuse_zero(xp, a, b) or xp is HOST:
            return xp.floor_divide(a, b, out=out)
        rest, above = rest_of(xp, a, b)
        whole, quotient = xp.rint((a - rest) / b), xp.true_divide(a, b)
        y = xp.where(whole - above == 0, xp.copysign(0.0, quotient), whole - above)
        return into(xp, xp.where((rest != rest) & (b == 0), quotient, y), out)


floor_divide = function(FloorDivide)


class Remainder(Elementwise):
    """y = a - b * floor(a / b), of the sign of b; 0 has the sign of a, as in PyTorch"""

    in_place = True
    vjp = (lambda g: g, lambda g, a, b: -g * floor_divide(a, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if refuse_zero(xp, a, b):
            return xp.remainder(a, b, out=out)
        if xp is not HOST:
            rest, above = rest_of(xp, a, b)
            return into(xp, xp.where(above, rest + b, rest), out)
        y = xp.remainder(a, b)
        return xp.copysign(y, xp.where(y == 0, a, y), out=out)


remainder = function(Remainder)


class Fmod(Elementwise):
    """y = a - b * trunc(a / b), of the sign of a"""

    in_place = True
    vjp = (lambda g: g, lambda g, a, b: -g * apply(TruncDivide, a, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if not refuse_zero(xp, a, b) or xp is HOST:
            return xp.fmod(a, b, out=out)
        return xp.subtract(a, TruncDivide.kernel(xp, a, b) * b, out=out)  # CuPy's is of float64


fmod = function(Fmod)


class TruncDivide(Elementwise):
    """y = trunc(a / b)"""

    vjp = (lambda g: zeros_like(g), lambda g: zeros_like(g))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if not refuse_zero(xp, a, b):
            return xp.trunc(xp.true_divide(a, b), out=out)
        quotient = xp.floor_divide(a, b)
        negative = (xp.remainder(a, b) != 0) & ((a < 0) != (b < 0))  # where it was rounded down
        return xp.add(quotient, negative, out=out, dtype=quotient.dtype)


def rest_of(xp: Any, a: Array, b: Array) -> tuple[Array, Array]:
    """What floats on a GPU leave when divided, of the sign of a, and where b has the other sign.

    CuPy's own functions take floor(a / b), which is rounded before.
    """
    rest = xp.fmod(a, b)
    return rest, (rest != 0) & ((b < 0) != (rest < 0))


def refuse_zero(xp: Any, a: Any, b: Any) -> bool:
    """Whether a and b are integers; RuntimeError for booleans, and, on the CPU, for a b of 0."""
    kinds = {x.dtype.kind if hasattr(x, "dtype") else "if"[type(x) is float] for x in (a, b)}
    if kinds == {"b"}:
        raise RuntimeError("division: expected numbers, got booleans")
    if kinds - {"i", "u", "b"}:
        return False
    if xp is HOST and not xp.all(b) and (not hasattr(a, "size") or a.size):
        raise RuntimeError("ZeroDivisionError: integers cannot be divided by 0")
    return True


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; integers give floats, unless `rounding_mode` is "floor" or "trunc"."""
    if rounding_mode is None:
        return apply(Div, a, b)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            f"div: rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}"
        )
    return apply(FloorDivide if rounding_mode == "floor" else TruncDivide, a, b)
