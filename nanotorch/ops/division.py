"""Division that rounds, and its remainders."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array
from nanotorch.ops.arithmetic import Div
from nanotorch.ops.casting import zeros_like
from nanotorch.primitive import BinaryUfunc, Elementwise, apply, function


class FloorDivide(BinaryUfunc):
    """y = floor(a / b)"""

    ufunc = "floor_divide"
    vjp = (lambda g: zeros_like(g), lambda g: zeros_like(g))


floor_divide = function(FloorDivide)


class Remainder(BinaryUfunc):
    """y = a - b * floor(a / b), of the sign of b"""

    ufunc = "remainder"
    vjp = (lambda g: g, lambda g, a, b: -g * floor_divide(a, b))


remainder = function(Remainder)


class Fmod(BinaryUfunc):
    """y = a - b * trunc(a / b), of the sign of a"""

    ufunc = "fmod"
    vjp = (lambda g: g, lambda g, a, b: -g * apply(TruncDivide, a, b))


fmod = function(Fmod)


class TruncDivide(Elementwise):
    """y = trunc(a / b)"""

    vjp = (lambda g: zeros_like(g), lambda g: zeros_like(g))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if a.dtype.kind in "iu":
            quotient = xp.floor_divide(xp.absolute(a), xp.absolute(b), dtype=a.dtype)
            return xp.multiply(quotient, xp.sign(a) * xp.sign(b), out=out)
        return xp.trunc(xp.true_divide(a, b), out=out)


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; integers give floats, unless `rounding_mode` is "floor" or "trunc"."""
    if rounding_mode is None:
        return apply(Div, a, b)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            f"div: rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}"
        )
    return apply(FloorDivide if rounding_mode == "floor" else TruncDivide, a, b)
