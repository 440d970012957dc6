"""Functions of two operands beyond arithmetic, elementwise with broadcasting."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array, is_array, result_type
from nanotorch.ops.casting import cast, into, zeros_like
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import exp, sign
from nanotorch.ops.operand_dtypes import alike
from nanotorch.primitive import Elementwise, Rule, Traced, Ufunc, apply, function


class Maximum(Ufunc):
    """y = max(a, b); where they are equal each gets half of the gradient"""

    ufunc = "maximum"
    vjp = (
        lambda g, a, b: share(g, a < b, a == b),
        lambda g, a, b: share(g, b < a, a == b),
    )


maximum = function(Maximum)


class Minimum(Ufunc):
    """y = min(a, b); where they are equal each gets half of the gradient"""

    ufunc = "minimum"
    vjp = (
        lambda g, a, b: share(g, a > b, a == b),
        lambda g, a, b: share(g, b > a, a == b),
    )


minimum = function(Minimum)


class Atan2(Ufunc):
    """y = the angle of the point (b, a)"""

    ufunc = "arctan2"
    promotes = "floating"
    vjp = (
        lambda g, a, b: g * over_square(b, a, b),
        lambda g, a, b: g * over_square(-a, a, b),
    )


atan2 = function(Atan2)


class Lerp(Elementwise):
    """y = a + weight * (b - a), weight a number; from b on where that is nearer, as in PyTorch"""

    in_place = True
    vjp = (lambda g, weight: g * (1 - weight), lambda g, weight: g * weight)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, *, weight: float, out: Array | None = None) -> Array:
        if abs(weight) < 0.5:
            return xp.add(a, (b - a) * weight, out=out)
        return xp.subtract(b, (b - a) * (1 - weight), out=out)


class LerpTensor(Elementwise):
    """y = a + weight * (b - a), from b on where that is nearer, as in PyTorch"""

    backward_name = "LerpBackward1"
    in_place = True
    vjp = (
        lambda g, weight: g * (1 - weight),
        lambda g, weight: g * weight,
        lambda g, a, b: g * (b - a),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, weight: Array, out: Array | None = None) -> Array:
        near, way = xp.absolute(weight) < 0.5, b - a
        return into(xp, xp.where(near, a + way * weight, b - way * (1 - weight)), out)


class Copysign(Ufunc):
    """y = |a| with the sign of b, of which -0.0 has one as well"""

    ufunc = "copysign"
    promotes = "floating"
    vjp = (lambda g, a, y: g * (sign(a) * sign(y)), lambda g: zeros_like(g))


copysign = function(Copysign)


class Hypot(Ufunc):
    """y = sqrt(a * a + b * b)"""

    ufunc = "hypot"
    vjp = (lambda g, a, y: g * (a / y), lambda g, b, y: g * (b / y))


hypot = function(Hypot)


class Logaddexp(Elementwise):
    """y = log(exp(a) + exp(b)) = max(a, b) + log(1 + exp(-|a - b|))"""

    promotes = "floating"
    vjp = (
        lambda g, a, b: g / (1 + exp(b - a)),
        lambda g, a, b: g / (1 + exp(a - b)),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        tail = xp.log1p(xp.exp(-distance(xp, a, b)))
        return xp.add(xp.maximum(a, b), tail, out=out)


logaddexp = function(Logaddexp)


class Xlogy(Elementwise):
    """y = a * log(b), and 0 where a is 0 and b a number"""

    promotes = "floating"
    vjp = (
        lambda g, a, b: where((a == 0) & (b <= 0), 0.0, xlogy(g, b)),
        lambda g, a, b: g * (a / b),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        y = xp.where((a == 0) & (b == b), 0, a * xp.log(b))
        return into(xp, y.astype(xp.result_type(a, b)), out)


xlogy: Rule = function(Xlogy)


def distance(xp: Any, a: Any, b: Any) -> Array:
    """|a - b|; 0 of two infinities that are equal."""
    return xp.where(a == b, 0, xp.absolute(a - b))


def share(g: Any, loses: Any, ties: Any) -> Any:
    """0 where the operand loses, half of g where both are equal, else g: also of NaN."""
    return where(ties, g * 0.5, where(loses, 0, g))


def over_square(x: Any, a: Any, b: Any) -> Any:
    """x / (a * a + b * b), and 0 where a and b are 0."""
    square = a * a + b * b
    return where(square == 0, 0, x / where(square == 0, 1, square))


def lerp(start: Any, end: Any, weight: Any) -> Any:
    """start + weight * (end - start); all tensors of one dtype."""
    alike("lerp", start, end, weight)
    if isinstance(weight, Traced) or is_array(weight):
        return apply(LerpTensor, start, end, weight)
    return apply(Lerp, start, end, weight=weight)


def addcmul(x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value * a * b."""
    return x + multiple(x, a, b, value)


def multiple(x: Any, a: Any, b: Any, value: float) -> Any:
    """value * a * b, in the dtype of its sum with x."""
    kind = result_type(x, a, b)
    product = (a if a.dtype is kind else cast(a, kind.numpy)) * b
    return product if value == 1 else value * product


def addcdiv(x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value * a / b."""
    return x + (a / b if value == 1 else value * (a / b))
