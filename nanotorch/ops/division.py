"""Division that rounds, and its remainders."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.arithmetic import Div
from nanotorch.ops.casting import zeros_like
from nanotorch.primitive import Elementwise, apply, function


class Quotient(Elementwise):
    """What integers cannot be divided by 0 in: `quotient` is NumPy's name of it."""

    __slots__ = ()
    in_place = True
    quotient = ""

    def __init_subclass__(cls) -> None:
        name = cls.quotient

        def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
            refuse_zero(xp, a, b)
            return getattr(xp, name)(a, b, out=out)

        if name:
            cls.kernel = staticmethod(kernel)  # type: ignore[method-assign]
        super().__init_subclass__()


class FloorDivide(Quotient):
    """y = floor(a / b)"""

    exact_numbers = True
    quotient = "floor_divide"
    vjp = (lambda g: zeros_like(g), lambda g: zeros_like(g))


floor_divide = function(FloorDivide)


class Remainder(Quotient):
    """y = a - b * floor(a / b), of the sign of b; 0 has the sign of a, as in PyTorch"""

    vjp = (lambda g: g, lambda g, a, b: -g * floor_divide(a, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if refuse_zero(xp, a, b):
            return xp.remainder(a, b, out=out)
        y = xp.remainder(a, b)
        return xp.copysign(y, xp.where(y == 0, a, y), out=out)


remainder = function(Remainder)


class Fmod(Quotient):
    """y = a - b * trunc(a / b), of the sign of a"""

    quotient = "fmod"
    vjp = (lambda g: g, lambda g, a, b: -g * apply(TruncDivide, a, b))


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
