"""Arithmetic of two operands, elementwise with broadcasting."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array, is_array
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import log
from nanotorch.primitive import Elementwise, Traced, apply


class Add(Elementwise):
    """y = a + b"""

    in_place = True
    vjp = (lambda g: g, lambda g: g)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.add(a, b, out=out)


class Sub(Elementwise):
    """y = a - b"""

    in_place = True
    vjp = (lambda g: g, lambda g: -g)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.subtract(a, b, out=out)


class Rsub(Elementwise):
    """y = b - a"""

    backward_name = "RsubBackward1"
    in_place = True
    vjp = (lambda g: -g, lambda g: g)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.subtract(b, a, out=out)


class Mul(Elementwise):
    """y = a * b"""

    in_place = True
    vjp = (lambda g, b: g * b, lambda g, a: g * a)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.multiply(a, b, out=out)


class Div(Elementwise):
    """y = a / b"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, b: g / b, lambda g, a, b: -g * ((a / b) / b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.true_divide(a, b, out=out)


class FloorDivide(Elementwise):
    """y = floor(a / b)"""

    in_place = True

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.floor_divide(a, b, out=out)


class Remainder(Elementwise):
    """y = a - b * floor(a / b), of the sign of b"""

    in_place = True
    vjp = (lambda g: g, lambda g, a, b: -g * floor_divide(a, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.remainder(a, b, out=out)


class Fmod(Elementwise):
    """y = a - b * trunc(a / b), of the sign of a"""

    in_place = True
    vjp = (lambda g: g, lambda g, a, b: -g * apply(TruncDivide, a, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.fmod(a, b, out=out)


class TruncDivide(Elementwise):
    """y = trunc(a / b)"""

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if a.dtype.kind in "iu":
            quotient = xp.floor_divide(xp.absolute(a), xp.absolute(b), dtype=a.dtype)
            return xp.multiply(quotient, xp.sign(a) * xp.sign(b), out=out)
        return xp.trunc(xp.true_divide(a, b), out=out)


class Pow(Elementwise):
    """y = a ** exponent, a number"""

    vjp = (lambda g, a, exponent: power_slope(g, a, exponent),)

    @staticmethod
    def kernel(xp: Any, a: Array, *, exponent: float, out: Array | None = None) -> Array:
        if exponent == 2:
            return xp.square(a, out=out)
        if a.dtype.kind in "fc":
            if exponent == 0.5:
                return xp.sqrt(a, out=out)
            if exponent == 3:
                return xp.multiply(xp.square(a), a, out=out)
            if exponent == -1:
                return xp.reciprocal(a, out=out)
        return xp.power(a, exponent, out=out)


class PowTensor(Elementwise):
    """y = a ** b"""

    backward_name = "PowBackward1"
    vjp = (
        lambda g, a, b: where(b == 0, 0.0, g * (b * a ** (b - 1))),
        lambda g, a, b, y: g * where((a == 0) & (b >= 0), 0.0, y * log(a)),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.power(a, b, out=out)


class PowBase(Elementwise):
    """y = base ** a, base a number"""

    backward_name = "PowBackward2"
    vjp = (lambda g, a, y, base: g * power_base_slope(a, y, base),)

    @staticmethod
    def kernel(xp: Any, a: Array, *, base: float, out: Array | None = None) -> Array:
        if isinstance(base, float) and a.dtype.kind in "iub":
            a = a.astype(xp.float32)
        return xp.power(a.dtype.type(base), a, out=out)


class Maximum(Elementwise):
    """y = max(a, b); where they are equal each gets half of the gradient"""

    in_place = True
    vjp = (
        lambda g, a, b: g * share(a > b, a == b),
        lambda g, a, b: g * share(b > a, a == b),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.maximum(a, b, out=out)


class Minimum(Elementwise):
    """y = min(a, b); where they are equal each gets half of the gradient"""

    in_place = True
    vjp = (
        lambda g, a, b: g * share(a < b, a == b),
        lambda g, a, b: g * share(b < a, a == b),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.minimum(a, b, out=out)


class Atan2(Elementwise):
    """y = the angle of the point (b, a)"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, a, b: g * b / (a * a + b * b), lambda g, a, b: g * -a / (a * a + b * b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.arctan2(a, b, out=out)


def share(wins: Any, ties: Any) -> Any:
    """1 where the operand wins, 1/2 where both are equal, else 0."""
    return where(ties, 0.5, where(wins, 1.0, 0.0))


def power_slope(g: Any, a: Any, exponent: float) -> Any:
    """g * d(a ** exponent)/da; 0 for the exponent 0, even at a = 0."""
    if exponent == 0:
        return g * 0
    if exponent == 1:
        return g * 1
    return g * (exponent * (a if exponent == 2 else power(a, exponent - 1)))


def power_base_slope(a: Any, y: Any, base: float) -> Any:
    """d(base ** a)/da = y log(base), taken as 0 for the base 0 with a >= 0."""
    if base == 0:
        return where(a >= 0, 0.0, y * float("-inf"))
    return y * log(y * 0 + base)


def add(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """a + alpha * b, elementwise with broadcasting."""
    return apply(Add, a, b if alpha == 1 else b * alpha)


def sub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """a - alpha * b, elementwise with broadcasting; refused for booleans, as in PyTorch."""
    return apply(Sub, a, b if alpha == 1 else b * alpha)


def rsub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """b - alpha * a."""
    return apply(Rsub, a if alpha == 1 else a * alpha, b)


def mul(a: Any, b: Any) -> Any:
    """a * b, elementwise with broadcasting."""
    return apply(Mul, a, b)


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; integers give floats, unless `rounding_mode` is "floor" or "trunc"."""
    if rounding_mode is None:
        return apply(Div, a, b)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            f"div: rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}"
        )
    return apply(FloorDivide if rounding_mode == "floor" else TruncDivide, a, b)


def floor_divide(a: Any, b: Any) -> Any:
    """floor(a / b); not differentiable."""
    return apply(FloorDivide, a, b)


def remainder(a: Any, b: Any) -> Any:
    """The remainder of a / b with the sign of b, as Python's %."""
    return apply(Remainder, a, b)


def fmod(a: Any, b: Any) -> Any:
    """The remainder of a / b with the sign of a, as C's fmod."""
    return apply(Fmod, a, b)


def power(a: Any, exponent: Any) -> Any:
    """a ** exponent, where either may be a number. Integers to a negative integer power are refused."""
    if isinstance(exponent, Traced) or is_array(exponent):
        if isinstance(a, Traced) or is_array(a):
            return apply(PowTensor, a, exponent)
        return apply(PowBase, exponent, base=a)
    if isinstance(exponent, float) and not exponent.is_integer() or isinstance(exponent, complex):
        kind = getattr(a, "_array", a).dtype.kind
        if kind in "iub":
            return apply(PowTensor, a, exponent)
    elif isinstance(exponent, float) and getattr(a, "_array", a).dtype.kind in "iub":
        return apply(PowTensor, a, exponent)
    return apply(Pow, a, exponent=exponent)


def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, elementwise; NaN where either is NaN."""
    return apply(Maximum, a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, elementwise; NaN where either is NaN."""
    return apply(Minimum, a, b)


def atan2(a: Any, b: Any) -> Any:
    """The angle in radians of the point (b, a), in (-pi, pi]."""
    return apply(Atan2, a, b)


def lerp(start: Any, end: Any, weight: Any) -> Any:
    """start + weight * (end - start)."""
    return start + weight * (end - start)


def addcmul(x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value * a * b."""
    return x + (a * b if value == 1 else value * (a * b))


def addcdiv(x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value * a / b."""
    return x + (a / b if value == 1 else value * (a / b))
