"""Functions of one operand, element by element."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import Array
from nanotorch.ops.comparisons import where
from nanotorch.primitive import Elementwise, Traced, apply


class Neg(Elementwise):
    """y = -x"""

    in_place = True
    vjp = (lambda g: -g,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.negative(x, out=out)


class Abs(Elementwise):
    """y = |x|; the slope at 0 is 0"""

    in_place = True
    vjp = (lambda g, x: g * sign(x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.absolute(x, out=out)


class Sign(Elementwise):
    """y = -1, 0 or 1"""

    in_place = True
    vjp = (lambda g: g * 0,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.sign(x, out=out)


class Reciprocal(Elementwise):
    """y = 1 / x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: -g * (y * y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.reciprocal(x, out=out)


class Exp(Elementwise):
    """y = e ** x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g * y,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.exp(x, out=out)


class Exp2(Elementwise):
    """y = 2 ** x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g * (y * math.log(2)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.exp2(x, out=out)


class Expm1(Elementwise):
    """y = e ** x - 1"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g * (y + 1),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.expm1(x, out=out)


class Log(Elementwise):
    """y = log x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g / x,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.log(x, out=out)


class Log2(Elementwise):
    """y = log x, to the base 2"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g / (x * math.log(2)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.log2(x, out=out)


class Log10(Elementwise):
    """y = log x, to the base 10"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g / (x * math.log(10)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.log10(x, out=out)


class Log1p(Elementwise):
    """y = log(1 + x)"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g / (x + 1),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.log1p(x, out=out)


class Sqrt(Elementwise):
    """y = the square root of x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g / (2 * y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.sqrt(x, out=out)


class Rsqrt(Elementwise):
    """y = 1 / the square root of x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g * (-0.5 * y * y * y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        out = xp.sqrt(x, out=out)
        return xp.reciprocal(out, out=out if getattr(out, "ndim", 0) else None)


class Sin(Elementwise):
    """y = sin x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g * cos(x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.sin(x, out=out)


class Cos(Elementwise):
    """y = cos x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g * -sin(x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.cos(x, out=out)


class Tan(Elementwise):
    """y = tan x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g * (y * y + 1),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.tan(x, out=out)


class Asin(Elementwise):
    """y = the angle in [-pi/2, pi/2] whose sine is x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g * rsqrt(1 - x * x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.arcsin(x, out=out)


class Acos(Elementwise):
    """y = the angle in [0, pi] whose cosine is x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g * -rsqrt(1 - x * x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.arccos(x, out=out)


class Atan(Elementwise):
    """y = the angle in (-pi/2, pi/2) whose tangent is x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g / (x * x + 1),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.arctan(x, out=out)


class Sinh(Elementwise):
    """y = sinh x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g * cosh(x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.sinh(x, out=out)


class Cosh(Elementwise):
    """y = cosh x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, x: g * sinh(x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.cosh(x, out=out)


class Tanh(Elementwise):
    """y = tanh x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g * (1 - y * y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.tanh(x, out=out)


class Erf(Elementwise):
    """y = 2 / sqrt(pi) * the integral of exp(-t * t) for t from 0 to x

    By Abramowitz and Stegun 7.1.5 (the Taylor series) for |x| < 2 and 7.1.14 (the continued fraction of
    erfc) beyond, in float64: the error is below 1e-15.
    """

    promotes = "floating"
    vjp = (lambda g, x: g * (2 / math.sqrt(math.pi) * exp(-(x * x))),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        z = xp.abs(x).astype(xp.float64)
        near, square = xp.minimum(z, 2.0), xp.minimum(z, 2.0) ** 2
        term = series = xp.ones_like(z)
        for n in range(1, 40):  # e^(-z^2) * sum of (2 z^2)^n / (2n + 1)!!, all terms positive
            term = term * (2 * square / (2 * n + 1))
            series = series + term
        small = 2 / math.sqrt(math.pi) * near * xp.exp(-square) * series
        far = xp.maximum(z, 2.0)
        fraction = far
        for n in range(60, 0, -1):
            fraction = far + n / 2 / fraction
        large = 1 - xp.exp(-xp.minimum(far, 30.0) ** 2) / (math.sqrt(math.pi) * fraction)
        y = xp.where(z < 2, small, large) * xp.sign(x)
        y = xp.where(xp.isnan(x), x, y).astype(x.dtype)
        if out is None:
            return y
        xp.copyto(out, y)
        return out


class Floor(Elementwise):
    """y = the largest whole number <= x"""

    in_place = True
    vjp = (lambda g: g * 0,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.floor(x, out=out)


class Ceil(Elementwise):
    """y = the smallest whole number >= x"""

    in_place = True
    vjp = (lambda g: g * 0,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.ceil(x, out=out)


class Trunc(Elementwise):
    """y = x without its fraction"""

    in_place = True
    vjp = (lambda g: g * 0,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.trunc(x, out=out)


class Round(Elementwise):
    """y = x rounded to `decimals` places, halves to even"""

    vjp = (lambda g: g * 0,)

    @staticmethod
    def kernel(xp: Any, x: Array, *, decimals: int = 0, out: Array | None = None) -> Array:
        if decimals == 0:
            return xp.rint(x, out=out) if x.dtype.kind == "f" else x.copy()
        return xp.round(x, decimals, out=out)


class Clamp(Elementwise):
    """y = x held within [low, high], numbers; the slope is 1 within, the bounds included"""

    backward_name = "ClampBackward1"
    vjp = (lambda g, x, low, high: where(within(x, low, high), g, 0),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, low: float | None, high: float | None, out: Array | None = None
    ) -> Array:
        if low is None:
            return xp.minimum(x, high, out=out)
        if high is None:
            return xp.maximum(x, low, out=out)
        return xp.minimum(xp.maximum(x, low), high, out=out)


class NanToNum(Elementwise):
    """y = x with numbers in place of NaN and the infinities"""

    vjp = (lambda g, x: where((x - x) == 0, g, 0),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, nan: float, posinf: float | None, neginf: float | None,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        y = xp.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)
        if out is None:
            return y
        xp.copyto(out, y)
        return out


def within(x: Any, low: float | None, high: float | None) -> Any:
    """Where x lies in [low, high]; None is no bound."""
    if low is None:
        return x <= high
    return x >= low if high is None else (x >= low) & (x <= high)


def neg(x: Any) -> Any:
    """-x; refused for booleans, as in PyTorch."""
    return apply(Neg, x)


def abs(x: Any) -> Any:
    """|x|."""
    return apply(Abs, x)


def sign(x: Any) -> Any:
    """-1, 0 or 1, by the sign of x."""
    return apply(Sign, x)


def reciprocal(x: Any) -> Any:
    """1 / x."""
    return apply(Reciprocal, x)


def exp(x: Any) -> Any:
    """e ** x."""
    return apply(Exp, x)


def exp2(x: Any) -> Any:
    """2 ** x."""
    return apply(Exp2, x)


def expm1(x: Any) -> Any:
    """e ** x - 1, accurate near 0."""
    return apply(Expm1, x)


def log(x: Any) -> Any:
    """The natural logarithm of x."""
    return apply(Log, x)


def log2(x: Any) -> Any:
    """The logarithm of x to the base 2."""
    return apply(Log2, x)


def log10(x: Any) -> Any:
    """The logarithm of x to the base 10."""
    return apply(Log10, x)


def log1p(x: Any) -> Any:
    """log(1 + x), accurate near 0."""
    return apply(Log1p, x)


def sqrt(x: Any) -> Any:
    """The square root of x; NaN below 0."""
    return apply(Sqrt, x)


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return apply(Rsqrt, x)


def sin(x: Any) -> Any:
    """The sine of x in radians."""
    return apply(Sin, x)


def cos(x: Any) -> Any:
    """The cosine of x in radians."""
    return apply(Cos, x)


def tan(x: Any) -> Any:
    """The tangent of x in radians."""
    return apply(Tan, x)


def asin(x: Any) -> Any:
    """The angle in radians whose sine is x."""
    return apply(Asin, x)


def acos(x: Any) -> Any:
    """The angle in radians whose cosine is x."""
    return apply(Acos, x)


def atan(x: Any) -> Any:
    """The angle in radians whose tangent is x."""
    return apply(Atan, x)


def sinh(x: Any) -> Any:
    """The hyperbolic sine of x."""
    return apply(Sinh, x)


def cosh(x: Any) -> Any:
    """The hyperbolic cosine of x."""
    return apply(Cosh, x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of x."""
    return apply(Tanh, x)


def erf(x: Any) -> Any:
    """The error function of x."""
    return apply(Erf, x)


def floor(x: Any) -> Any:
    """The largest whole number <= x."""
    return apply(Floor, x)


def ceil(x: Any) -> Any:
    """The smallest whole number >= x."""
    return apply(Ceil, x)


def trunc(x: Any) -> Any:
    """x without its fraction."""
    return apply(Trunc, x)


def round(x: Any, *, decimals: int = 0) -> Any:
    """x rounded to `decimals` places, halves to even."""
    return apply(Round, x, decimals=decimals)


def nan_to_num(
    x: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """x with `nan` for NaN and, by default, the largest finite numbers for the infinities."""
    return apply(NanToNum, x, nan=nan, posinf=posinf, neginf=neginf)


def square(x: Any) -> Any:
    """x * x."""
    return x**2


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """x held within [min, max]: numbers or tensors, either of which may be left out."""
    if min is None and max is None:
        raise RuntimeError("clamp: At least one of 'min' or 'max' must not be None")
    if not isinstance(min, Traced) and not isinstance(max, Traced):
        return apply(Clamp, x, low=min, high=max)
    if min is not None:
        x = where(x < min, min, x)
    return x if max is None else where(x > max, max, x)
