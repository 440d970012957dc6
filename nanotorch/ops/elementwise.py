"""Functions of one operand, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nanotorch.backend import HOST, Array, clipped, dtype_of, finfo, fitting, result_type
from nanotorch.backend.halves import HALVES
from nanotorch.ops.casting import cast, into, zeros_like
from nanotorch.ops.comparisons import where
from nanotorch.primitive import Elementwise, Traced, Ufunc, apply, function

Function = Callable[..., Any]


class Neg(Ufunc):
    """y = -x"""

    ufunc = "negative"
    vjp = (lambda g: -g,)


neg = function(Neg)


class Abs(Ufunc):
    """y = |x|; the slope at 0 is 0"""

    ufunc = "absolute"
    vjp = (lambda g, x: g * sgn(x),)


abs = function(Abs)


class Reciprocal(Ufunc):
    """y = 1 / x"""

    ufunc = "reciprocal"
    promotes = "floating"
    vjp = (lambda g, y: -g * (y * y),)


reciprocal = function(Reciprocal)


class Exp(Ufunc):
    """y = e ** x"""

    ufunc = "exp"
    promotes = "floating"
    vjp = (lambda g, y: g * y,)


exp = function(Exp)


class Exp2(Ufunc):
    """y = 2 ** x"""

    ufunc = "exp2"
    promotes = "floating"
    vjp = (lambda g, y: g * (y * math.log(2)),)


exp2 = function(Exp2)


class Expm1(Ufunc):
    """y = e ** x - 1"""

    ufunc = "expm1"
    promotes = "floating"
    vjp = (lambda g, y: g * (y + 1),)


expm1 = function(Expm1)


class Log(Ufunc):
    """y = log x"""

    ufunc = "log"
    promotes = "floating"
    vjp = (lambda g, x: g / x,)


log = function(Log)


class Log2(Ufunc):
    """y = log x, to the base 2"""

    ufunc = "log2"
    promotes = "floating"
    vjp = (lambda g, x: g / (x * math.log(2)),)


log2 = function(Log2)


class Log10(Ufunc):
    """y = log x, to the base 10"""

    ufunc = "log10"
    promotes = "floating"
    vjp = (lambda g, x: g / (x * math.log(10)),)


log10 = function(Log10)


class Log1p(Ufunc):
    """y = log(1 + x)"""

    ufunc = "log1p"
    promotes = "floating"
    vjp = (lambda g, x: g / (x + 1),)


log1p = function(Log1p)


class Sqrt(Ufunc):
    """y = the square root of x"""

    ufunc = "sqrt"
    promotes = "floating"
    vjp = (lambda g, y: g / (2 * y),)


sqrt = function(Sqrt)


class Rsqrt(Elementwise):
    """y = 1 / the square root of x"""

    promotes = "floating"
    in_place = True
    vjp = (lambda g, y: g * (-0.5 * y * y * y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.reciprocal(xp.sqrt(x, out=out), out=out)


rsqrt = function(Rsqrt)


class Sin(Ufunc):
    """y = sin x"""

    ufunc = "sin"
    promotes = "floating"
    vjp = (lambda g, x: g * cos(x),)


sin = function(Sin)


class Cos(Ufunc):
    """y = cos x"""

    ufunc = "cos"
    promotes = "floating"
    vjp = (lambda g, x: g * -sin(x),)


cos: Function = function(Cos)


class Tan(Ufunc):
    """y = tan x"""

    ufunc = "tan"
    promotes = "floating"
    vjp = (lambda g, y: g * (y * y + 1),)


tan = function(Tan)


class Asin(Ufunc):
    """y = the angle in [-pi/2, pi/2] whose sine is x"""

    ufunc = "arcsin"
    promotes = "floating"
    vjp = (lambda g, x: g * rsqrt(1 - x * x),)


asin = function(Asin)


class Acos(Ufunc):
    """y = the angle in [0, pi] whose cosine is x"""

    ufunc = "arccos"
    promotes = "floating"
    vjp = (lambda g, x: g * -rsqrt(1 - x * x),)


acos = function(Acos)


class Atan(Ufunc):
    """y = the angle in (-pi/2, pi/2) whose tangent is x"""

    ufunc = "arctan"
    promotes = "floating"
    vjp = (lambda g, x: g / (x * x + 1),)


atan = function(Atan)


class Sinh(Ufunc):
    """y = sinh x"""

    ufunc = "sinh"
    promotes = "floating"
    vjp = (lambda g, x: g * cosh(x),)


sinh = function(Sinh)


class Cosh(Ufunc):
    """y = cosh x"""

    ufunc = "cosh"
    promotes = "floating"
    vjp = (lambda g, x: g * sinh(x),)


cosh: Function = function(Cosh)


class Asinh(Ufunc):
    """y = the number whose hyperbolic sine is x"""

    ufunc = "arcsinh"
    promotes = "floating"
    vjp = (lambda g, x: g * rsqrt(x * x + 1),)


asinh = function(Asinh)


class Acosh(Ufunc):
    """y = the number >= 0 whose hyperbolic cosine is x"""

    ufunc = "arccosh"
    promotes = "floating"
    vjp = (lambda g, x: g * rsqrt(x * x - 1),)


acosh = function(Acosh)


class Atanh(Ufunc):
    """y = the number whose hyperbolic tangent is x"""

    ufunc = "arctanh"
    promotes = "floating"
    vjp = (lambda g, x: g / (1 - x * x),)


atanh = function(Atanh)


class Tanh(Ufunc):
    """y = tanh x"""

    ufunc = "tanh"
    promotes = "floating"
    vjp = (lambda g, y: g * (1 - y * y),)


tanh = function(Tanh)


class Rounding(Elementwise):
    """A step function, of slope 0, which leaves integers as they are."""

    __slots__ = ()
    ufunc = ""
    in_place = True
    vjp = (lambda g: zeros_like(g),)

    def __init_subclass__(cls) -> None:
        name = cls.ufunc

        def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
            if x.dtype.kind in "iu":
                return x.copy() if out is None else into(xp, x, out)
            return getattr(xp, name)(x, out=out)

        cls.kernel = staticmethod(kernel)  # type: ignore[method-assign]
        super().__init_subclass__()


class Sign(Elementwise):
    """y = -1, 0 or 1; 0 for NaN, as in PyTorch"""

    in_place = True
    vjp = (lambda g: zeros_like(g),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        if x.dtype.kind == "b":
            return x.copy() if out is None else into(xp, x, out)
        if xp is HOST:  # which takes booleans as bytes in half the time
            y = HOST.subtract((x > 0).view("i1"), (x < 0).view("i1"))
            return y.astype(x.dtype) if out is None else into(xp, y, out)
        return xp.subtract(x > 0, x < 0, dtype=x.dtype, out=out)


sign: Function = function(Sign)


class Unit(Elementwise):
    """y = x / |x| for complex x, 0 at 0; the slope is that across the circle of units"""

    vjp = (lambda g, x, y: (g - g.conj() * (y * y).conj()) / where(x == 0, math.inf, 2 * abs(x)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.divide(x, xp.where(x == 0, 1, xp.abs(x)), out=out)


def sgn(x: Any) -> Any:
    """x / |x|, and 0 at 0: the sign of real numbers."""
    return apply(Unit if getattr(x, "_array", x).dtype.kind == "c" else Sign, x)


class Floor(Rounding):
    """y = the largest whole number <= x"""

    ufunc = "floor"


floor = function(Floor)


class Ceil(Rounding):
    """y = the smallest whole number >= x"""

    ufunc = "ceil"


ceil = function(Ceil)


class Trunc(Rounding):
    """y = x without its fraction"""

    ufunc = "trunc"


trunc = function(Trunc)


class Round(Rounding):
    """y = x rounded to the nearest whole number, halves to even"""

    ufunc = "rint"


class RoundDecimals(Elementwise):
    """y = x rounded to `decimals` places, halves to even"""

    backward_name = "RoundBackward1"
    vjp = (lambda g: zeros_like(g),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, decimals: int, out: Array | None = None) -> Array:
        return xp.round(x, decimals, out=out)


class Clamp(Elementwise):
    """y = x held within [low, high], numbers; the slope is 1 within, the bounds included"""

    backward_name = "ClampBackward1"
    vjp = (lambda g, x, low, high: where(within(x, low, high), g, 0),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, low: float | None, high: float | None, out: Array | None = None
    ) -> Array:
        if x.dtype.kind == "f":
            low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
            return clipped(xp, x, low, high, out)
        if x.dtype.kind in "iu":
            low, high = fitting(low, x.dtype), fitting(high, x.dtype)
        if low is None:
            return xp.minimum(x, high, out=out)
        if high is None:
            return xp.maximum(x, low, out=out)
        return xp.minimum(xp.maximum(x, low), high, out=out)


class AtLeast(Ufunc):
    """y = max(a, b); where they are equal a gets the gradient"""

    ufunc = "maximum"
    backward_name = "ClampBackward0"
    vjp = (lambda g, a, b: where(a >= b, g, 0), lambda g, a, b: where(a < b, g, 0))


class AtMost(Ufunc):
    """y = min(a, b); where they are equal a gets the gradient"""

    ufunc = "minimum"
    backward_name = "ClampBackward0"
    vjp = (lambda g, a, b: where(a <= b, g, 0), lambda g, a, b: where(a > b, g, 0))


class Logit(Elementwise):
    """y = log(x / (1 - x)); the slope is NaN outside of [0, 1]"""

    promotes = "floating"
    vjp = (
        lambda g, x: g * where((x < 0) | (x > 1), float("nan"), 1 / (x * (1 - x) + 0.0)),
    )  # not -0

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.log(xp.true_divide(x, 1 - x), out=out)


class NanToNum(Elementwise):
    """y = x with numbers in place of NaN and the infinities"""

    vjp = (lambda g, x: where((x - x) == 0, g, 0),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, nan: float, posinf: float | None, neginf: float | None,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        y = xp.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)
        return into(xp, y, out)


def within(x: Any, low: float | None, high: float | None) -> Any:
    """Where x lies in [low, high]; None is no bound."""
    if low is None:
        return x <= high
    return x >= low if high is None else (x >= low) & (x <= high)


def round(x: Any, *, decimals: int = 0) -> Any:
    """x rounded to `decimals` places, halves to even."""
    return apply(RoundDecimals, x, decimals=decimals) if decimals else apply(Round, x)


def frac(x: Any) -> Any:
    """x less its whole part."""
    return x - trunc(x)


def logit(x: Any, eps: float | None = None) -> Any:
    """log(x / (1 - x)); x is first held within [eps, 1 - eps] where eps is given."""
    return apply(Logit, x if eps is None else clamp(x, eps, 1 - eps))


def nan_to_num(
    x: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """x with `nan` for NaN and, by default, the largest finite numbers for the infinities."""
    kind = getattr(x, "_array", x).dtype
    if kind.char in HALVES:  # which are computed in float32, of larger numbers
        limits = finfo(dtype_of(kind))
        posinf = limits.max if posinf is None else posinf
        neginf = limits.min if neginf is None else neginf
    return apply(NanToNum, x, nan=nan, posinf=posinf, neginf=neginf)


def square(x: Any) -> Any:
    """x * x."""
    return x**2


def clamp_min(x: Any, min: Any) -> Any:
    """x, or `min` where that is greater."""
    return clamp(x, min=min)


def clamp_max(x: Any, max: Any) -> Any:
    """x, or `max` where that is less."""
    return clamp(x, max=max)


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """x held within [min, max]: numbers or tensors, either of which may be left out."""
    if min is None and max is None:
        raise RuntimeError("clamp: At least one of 'min' or 'max' must not be None")
    if not isinstance(min, Traced) and not isinstance(max, Traced):
        kind = getattr(x, "_array", x).dtype
        if kind.kind in "bui":
            kind = result_type(x, *(v for v in (min, max) if v is not None)).numpy
            x = cast(x, kind)
        if kind.kind not in "iu":  # whose bounds are wrapped where they are used
            min, max = fitting(min, kind), fitting(max, kind)
        return apply(Clamp, x, low=min, high=max)
    if min is not None:
        x = apply(AtLeast, x, min)
    return x if max is None else apply(AtMost, x, max)
