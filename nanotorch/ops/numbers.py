"""Further functions of one or two numbers, element by element."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import Array, dtypes, get_default_dtype
from nanotorch.ops.casting import cast, into, zeros_like
from nanotorch.ops.comparisons import selected, where
from nanotorch.ops.elementwise import exp2
from nanotorch.ops.outputs import named
from nanotorch.ops.pairs import distance
from nanotorch.ops.powers import power
from nanotorch.ops.shapes import alias
from nanotorch.primitive import Elementwise, Traced, Ufunc, apply, function


class Fmax(Ufunc):
    """y = max(a, b), and of a number and NaN the number; a gets the gradient of equal ones"""

    ufunc = "fmax"
    vjp = (
        lambda g, a, b: where((a >= b) | (b != b), g, 0),
        lambda g, a, b: where((a >= b) | (b != b), 0, g),
    )


fmax = function(Fmax)


class Fmin(Ufunc):
    """y = min(a, b), and of a number and NaN the number; a gets the gradient of equal ones"""

    ufunc = "fmin"
    vjp = (
        lambda g, a, b: where((a <= b) | (b != b), g, 0),
        lambda g, a, b: where((a <= b) | (b != b), 0, g),
    )


fmin = function(Fmin)


class Heaviside(Ufunc):
    """y = 0 where a < 0, 1 where a > 0, else b; without a derivative"""

    ufunc = "heaviside"


class Nextafter(Elementwise):
    """y = the number of its dtype that follows a in the direction of b"""

    rearranges = True  # the next one of halves is none of float32
    in_place = True
    vjp = (lambda g, a, b: where(a != b, g, 0), lambda g: zeros_like(g))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if a.itemsize > 2:
            return xp.nextafter(a, b, out=out)
        return into(xp, next_half(xp, *xp.broadcast_arrays(a, b)), out)


def next_half(xp: Any, a: Array, b: Array) -> Array:
    """The next one of halves, by their bits, a sign and a size: CuPy gives NaN, and NumPy the first
    of two zeros."""
    bits = a.view(xp.int16)
    grows = (b > a) == (bits >= 0)
    y = xp.where(a == 0, xp.where(b > 0, 1, -32767), bits + xp.where(grows, 1, -1))
    y = xp.where(a == b, b.view(xp.int16), y)
    return xp.where((a != a) | (b != b), 32767, y).astype(xp.int16).view(a.dtype)


nextafter = function(Nextafter)


class Logaddexp2(Elementwise):
    """y = log2(2 ** a + 2 ** b) = max(a, b) + log2(1 + 2 ** -|a - b|)"""

    promotes = "floating"
    vjp = (
        lambda g, a, b: g / (1 + exp2(b - a)),
        lambda g, a, b: g / (1 + exp2(a - b)),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        tail = xp.log1p(xp.exp2(-distance(xp, a, b))) * (1 / math.log(2))
        return xp.add(xp.maximum(a, b), tail, out=out)


logaddexp2 = function(Logaddexp2)


class Sinc(Elementwise):
    """y = the derivative of that order (0: itself) of sin(pi x) / (pi x), which is 1 at 0"""

    promotes = "floating"
    vjp = (lambda g, x, order: g * apply(Sinc, x, order=order + 1),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, order: int, out: Array | None = None) -> Array:
        z = math.pi * x
        near = abs(z) <= 1 + order
        far = xp.where(near, math.pi, z)
        y = xp.sin(far) / far
        for k in range(1, order + 1):  # z s^(k) + k s^(k - 1) = sin^(k), s being sin(z) / z
            y = (xp.sin(far + k * math.pi / 2) - k * y) / far
        y = xp.where(near, sinc_series(xp.where(near, z, 0), order), y)
        return into(xp, (y * math.pi**order).astype(x.dtype), out)


def sinc_series(z: Array, order: int) -> Array:
    """The derivative of that order of sin(z) / z, by its power series: for z near 0."""
    total, first = 0 * z, (order + 1) // 2
    for k in range(first + 10 + 2 * order, first - 1, -1):
        power = 2 * k - order
        total = total * z * z + (-1) ** k / ((2 * k + 1) * math.factorial(power))
    return total * z if order % 2 else total


def sinc(x: Any) -> Any:
    """sin(pi x) / (pi x), and 1 at 0."""
    return apply(Sinc, x, order=0)


class Mantissa(Elementwise):
    """y = x / 2 ** k, in [0.5, 1) for a whole k"""

    backward_name = "FrexpBackward0"
    vjp = (lambda g, x: g / power_of_two(x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return into(xp, xp.frexp(x)[0], out)


class Exponent(Elementwise):
    """y = the whole k for which x / 2 ** k is in [0.5, 1), int32"""

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return into(xp, xp.frexp(x)[1], out)


class Signbit(Elementwise):
    """y = whether x is below 0, or -0"""

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return into(xp, xp.signbit(x) if x.dtype.kind == "f" else x < 0, out)


signbit = function(Signbit)


class Conj(Ufunc):
    """y = the complex conjugate of x"""

    ufunc = "conjugate"
    vjp = (lambda g: conj(g),)


class Angle(Elementwise):
    """y = the angle of x: of real numbers 0 or, below 0, pi"""

    promotes = "floating"
    vjp = (lambda g, x: angle_slope(g, x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        if x.dtype.kind == "c":
            return into(xp, xp.angle(x), out)
        y = xp.multiply(x < 0, math.pi, dtype=x.dtype)
        return selected(xp, x != x, x, y, out)


angle = function(Angle)


def angle_slope(g: Any, x: Any) -> Any:
    """g times i x / |x|²; 0 of real numbers, and at 0."""
    if getattr(x, "_array", x).dtype.kind != "c":
        return zeros_like(g)
    return g * (1j * x / where(x == 0, 1.0, abs(x) ** 2))


def power_of_two(x: Any) -> Any:
    """2 ** k for the exponents k of x, in its dtype."""
    return exp2(cast(apply(Exponent, x), getattr(x, "_array", x).dtype))


FREXP = named("frexp", "mantissa", "exponent")


def heaviside(x: Any, values: Any) -> Any:
    """0 where x < 0, 1 where x > 0, else `values`; both of one dtype."""
    if x.dtype != values.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    return apply(Heaviside, x, values)


def frexp(x: Any) -> Any:
    """(mantissa, exponent) with x = mantissa * 2 ** exponent, the mantissa's size in [0.5, 1)."""
    if getattr(x, "_array", x).dtype.kind in "biu":
        raise RuntimeError("torch.frexp() only supports floating-point dtypes")
    return FREXP(apply(Mantissa, x), apply(Exponent, x))


def ldexp(x: Any, other: Any) -> Any:
    """x * 2 ** other."""
    return x * power(2.0, other)


def float_power(x: Any, exponent: Any) -> Any:
    """x ** exponent in float64, of which one may be a number."""
    wide = dtypes.float64.numpy
    x, exponent = (cast(v, wide) if isinstance(v, Traced) else v for v in (x, exponent))
    return power(x, float(exponent) if isinstance(exponent, int) else exponent)


def positive(x: Any) -> Any:
    """x itself; booleans have no sign."""
    if x.dtype is dtypes.bool_:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return alias(x)


def floated(x: Any) -> Any:
    """x, whole numbers in the default dtype."""
    kind = getattr(x, "_array", x).dtype.kind
    return cast(x, get_default_dtype().numpy) if kind in "biu" else x


def deg2rad(x: Any) -> Any:
    """Degrees as radians."""
    return floated(x) * (math.pi / 180)


def rad2deg(x: Any) -> Any:
    """Radians as degrees."""
    return floated(x) * (180 / math.pi)


def isposinf(x: Any) -> Any:
    """Where x is infinity."""
    return x == math.inf


def isneginf(x: Any) -> Any:
    """Where x is minus infinity."""
    return x == -math.inf


def isreal(x: Any) -> Any:
    """Where the imaginary part of x is 0: everywhere in real tensors."""
    is_complex = getattr(x, "_array", x).dtype.kind == "c"
    return x == conj(x) if is_complex else (x == x) | (x != x)


def conj(x: Any) -> Any:
    """The complex conjugate; real tensors themselves."""
    return apply(Conj, x) if getattr(x, "_array", x).dtype.kind == "c" else x


conj_physical = conj


def resolve_conj(x: Any) -> Any:
    """x itself: here a conjugate is computed at once."""
    return x


resolve_neg = resolve_conj
