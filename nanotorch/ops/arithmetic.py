"""Arithmetic of two operands, elementwise with broadcasting."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array, is_array, result_type
from nanotorch.ops.casting import cast, into, zeros_like
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import exp, log
from nanotorch.primitive import BinaryUfunc, Elementwise, Traced, apply, function


class Add(BinaryUfunc):
    """y = a + b"""

    ufunc = "add"
    vjp = (lambda g: g, lambda g: g)


class Sub(BinaryUfunc):
    """y = a - b"""

    ufunc = "subtract"
    vjp = (lambda g: g, lambda g: -g)


class Rsub(Elementwise):
    """y = b - a"""

    backward_name = "RsubBackward1"
    in_place = True
    vjp = (lambda g: -g, lambda g: g)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.subtract(b, a, out=out)


class Mul(BinaryUfunc):
    """y = a * b"""

    ufunc = "multiply"
    vjp = (lambda g, b: g * b, lambda g, a: g * a)


mul = function(Mul)


class Div(BinaryUfunc):
    """y = a / b"""

    ufunc = "true_divide"
    promotes = "floating"
    vjp = (lambda g, b: g / b, lambda g, a, b: -g * ((a / b) / b))


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
    """y = a ** b; integers to negative powers are rounded towards 0"""

    backward_name = "PowBackward1"
    in_place = True
    vjp = (
        lambda g, a, b: where(b == 0, 0.0, g * (b * a ** (b - 1))),
        lambda g, a, b, y: g * where((a == 0) & (b >= 0), 0.0, y * log(a)),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if a.dtype.kind == "i" and (b < 0).any():
            unit = xp.where(a == -1, 1 - 2 * (b % 2), a == 1)
            return into(
                xp, xp.where(b < 0, unit, xp.power(a, xp.maximum(b, 0))).astype(a.dtype), out
            )
        return xp.power(a, b, out=out)


class PowBase(Elementwise):
    """y = base ** a, base a number"""

    backward_name = "PowBackward2"
    vjp = (lambda g, a, y, base: g * power_base_slope(a, y, base),)

    @staticmethod
    def kernel(xp: Any, a: Array, *, base: float, out: Array | None = None) -> Array:
        return PowTensor.kernel(xp, xp.full_like(a, base), a, out=out)


class Maximum(BinaryUfunc):
    """y = max(a, b); where they are equal each gets half of the gradient"""

    ufunc = "maximum"
    vjp = (
        lambda g, a, b: share(g, a > b, a == b),
        lambda g, a, b: share(g, b > a, a == b),
    )


maximum = function(Maximum)


class Minimum(BinaryUfunc):
    """y = min(a, b); where they are equal each gets half of the gradient"""

    ufunc = "minimum"
    vjp = (
        lambda g, a, b: share(g, a < b, a == b),
        lambda g, a, b: share(g, b < a, a == b),
    )


minimum = function(Minimum)


class Atan2(BinaryUfunc):
    """y = the angle of the point (b, a)"""

    ufunc = "arctan2"
    promotes = "floating"
    vjp = (
        lambda g, a, b: g * over_square(b, a, b),
        lambda g, a, b: g * over_square(-a, a, b),
    )


atan2 = function(Atan2)


class Lerp(Elementwise):
    """y = a + weight * (b - a), weight a number"""

    in_place = True
    vjp = (lambda g, weight: g * (1 - weight), lambda g, weight: g * weight)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, *, weight: float, out: Array | None = None) -> Array:
        return xp.add(a, (b - a) * weight, out=out)


class LerpTensor(Elementwise):
    """y = a + weight * (b - a)"""

    backward_name = "LerpBackward1"
    in_place = True
    vjp = (
        lambda g, weight: g * (1 - weight),
        lambda g, weight: g * weight,
        lambda g, a, b: g * (b - a),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, weight: Array, out: Array | None = None) -> Array:
        return xp.add(a, (b - a) * weight, out=out)


class Hypot(BinaryUfunc):
    """y = sqrt(a * a + b * b)"""

    ufunc = "hypot"
    vjp = (lambda g, a, y: g * (a / y), lambda g, b, y: g * (b / y))


hypot = function(Hypot)


class Logaddexp(BinaryUfunc):
    """y = log(exp(a) + exp(b))"""

    ufunc = "logaddexp"
    promotes = "floating"
    vjp = (
        lambda g, a, b: g / (1 + exp(b - a)),
        lambda g, a, b: g / (1 + exp(a - b)),
    )


logaddexp = function(Logaddexp)


def share(g: Any, wins: Any, ties: Any) -> Any:
    """g where the operand wins, half of it where both are equal, else 0."""
    return where(ties, g * 0.5, where(wins, g, 0))


def power_slope(g: Any, a: Any, exponent: float) -> Any:
    """g * d(a ** exponent)/da; 0 for the exponent 0, even at a = 0."""
    if exponent == 0:
        return zeros_like(g)
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
    return apply(Add, a, b if alpha == 1 else times(b, alpha))


def sub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """a - alpha * b, elementwise with broadcasting; refused for booleans, as in PyTorch."""
    return apply(Sub, a, b if alpha == 1 else times(b, alpha))


def rsub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """b - alpha * a."""
    return apply(Rsub, a if alpha == 1 else times(a, alpha), b)


def times(x: Any, alpha: float) -> Any:
    """x * alpha in the dtype of x; integers refuse an alpha that is none."""
    kind = getattr(x, "dtype", None)
    if kind is None:
        return x * alpha
    if isinstance(alpha, float) and not kind.is_floating_point:
        raise RuntimeError(
            "For integral input tensors, argument alpha must not be a floating point number."
        )
    return cast(x * alpha, kind.numpy)


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; integers give floats, unless `rounding_mode` is "floor" or "trunc"."""
    if rounding_mode is None:
        return apply(Div, a, b)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            f"div: rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}"
        )
    return apply(FloorDivide if rounding_mode == "floor" else TruncDivide, a, b)


def power(a: Any, exponent: Any) -> Any:
    """a ** exponent, of which one may be a number; integers to a number below 0 are refused."""
    if isinstance(exponent, Traced) or is_array(exponent):
        if isinstance(a, Traced) or is_array(a):
            return apply(PowTensor, a, exponent)
        return apply(PowBase, cast(exponent, result_type(a, exponent).numpy), base=a)
    kind = getattr(a, "_array", a).dtype.kind
    if kind == "b" or (kind in "ui" and not isinstance(exponent, int)):
        a = cast(a, result_type(a, exponent).numpy)
    return apply(Pow, a, exponent=exponent)


def xlogy(a: Any, b: Any) -> Any:
    """a * log(b), and 0 where a is 0."""
    zero = a == 0
    return where(zero, 0.0, a * log(where(zero, 1.0, b)))


def over_square(x: Any, a: Any, b: Any) -> Any:
    """x / (a * a + b * b), and 0 where a and b are 0."""
    square = a * a + b * b
    return where(square == 0, 0, x / where(square == 0, 1, square))


def lerp(start: Any, end: Any, weight: Any) -> Any:
    """start + weight * (end - start); all tensors of one dtype."""
    same_dtype(start, end, weight)
    if isinstance(weight, Traced) or is_array(weight):
        return apply(LerpTensor, start, end, weight)
    return apply(Lerp, start, end, weight=weight)


def same_dtype(start: Any, *others: Any) -> None:
    """Refuses operands of lerp whose dtype is not that of the first."""
    for other in others:
        if getattr(other, "dtype", start.dtype) != start.dtype:
            raise RuntimeError(f"lerp: expected dtype {start.dtype}, but got dtype {other.dtype}")


def addcmul(x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value * a * b."""
    return x + (a * b if value == 1 else value * (a * b))


def addcdiv(x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value * a / b."""
    return x + (a / b if value == 1 else value * (a / b))
