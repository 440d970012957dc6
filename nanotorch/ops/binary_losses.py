"""Cross-entropy between two classes, given probabilities or the logits of them."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array, constant
from nanotorch.ops.activations import sigmoid, softplus, stable_sigmoid
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import log
from nanotorch.ops.loss_reductions import divided, divisor, reduced, scaled, total
from nanotorch.primitive import Elementwise, Primitive, apply


class BinaryCrossEntropyWithLogits(Primitive):
    """y = -weight * (pos_weight * target * log sigmoid(x) + (1 - target) * log(1 - sigmoid(x)))"""

    vjp = (
        lambda g, x, target, weight, pos_weight, reduction: apply(
            BinaryCrossEntropyWithLogitsReverse, g, x, target, weight, pos_weight,
            divisor=divisor(x.shape, reduction),
        ),
        lambda g, x, weight, pos_weight, reduction: (
            scaled(g, x, reduction) * bce_target_slope(x, weight, pos_weight)
        ),
        None,
        None,
    )  # fmt: skip
    jvp = (
        lambda t, x, target, weight, pos_weight, reduction: total(
            t * bce_logits_slope(x, target, weight, pos_weight), reduction
        ),
        lambda t, x, weight, pos_weight, reduction: total(
            t * bce_target_slope(x, weight, pos_weight), reduction
        ),
        None,
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, target: Array, weight: Any, pos_weight: Any, *, reduction: str,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        if pos_weight is None:
            loss = xp.subtract(log1p_exp(xp, x), x * target)
        else:
            loss = log1p_exp(xp, xp.negative(x))
            loss = loss * (1 + (pos_weight - 1) * target) + (1 - target) * x
        if weight is not None:
            loss = loss * weight
        return reduced(xp, loss, reduction, out)

    @classmethod
    def title(cls) -> str:
        return "binary_cross_entropy_with_logits"


class BinaryCrossEntropyWithLogitsReverse(Elementwise):
    """y = g / divisor * weight * (sigmoid(x) - target), the cotangent of the logits x"""

    promotes = None
    vjp = (
        lambda h, x, target, weight, pos_weight, divisor: divided(
            h * bce_logits_slope(x, target, weight, pos_weight), divisor
        ),
        lambda h, g, x, target, weight, pos_weight, divisor: (
            h * divided(g, divisor) * bce_curvature(x, target, weight, pos_weight)
        ),
        lambda h, g, x, weight, pos_weight, divisor: (
            h * divided(g, divisor) * bce_mixed_slope(x, weight, pos_weight)
        ),
        None,
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, target: Array, weight: Any, pos_weight: Any, *,
        divisor: float | None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        g = divided(g, divisor)
        if weight is not None or pos_weight is not None or not x.ndim:
            slope = bce_logits_slope(x, target, weight, pos_weight)
            return xp.multiply(g, slope, out=out)
        y = xp.subtract(stable_sigmoid(xp, x, out), target, out=out)
        return xp.multiply(g, y, out=y)


def log1p_exp(xp: Any, x: Array) -> Array:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which neither overflows nor loses small
    values.

    Of few elements by one function, of many by several that cost less per element.
    """
    if x.size <= 100:
        return xp.logaddexp(x, constant(x, 0))
    y = xp.copysign(x, constant(x, -1))
    xp.exp(y, out=y)
    xp.log1p(y, out=y)
    return xp.add(y, xp.maximum(x, 0), out=y)


def bce_logits_slope(x: Any, target: Any, weight: Any, pos_weight: Any) -> Any:
    """d loss/dx = sigmoid(x) - target, weighted."""
    if pos_weight is None:
        slope = sigmoid(x) - target
    else:
        slope = sigmoid(x) * (1 + (pos_weight - 1) * target) - pos_weight * target
    return slope if weight is None else slope * weight


def bce_curvature(x: Any, target: Any, weight: Any, pos_weight: Any) -> Any:
    """d^2 loss/dx^2 = sigmoid(x) (1 - sigmoid(x)), weighted."""
    s = sigmoid(x)
    curvature = s * (1 - s)
    if pos_weight is not None:
        curvature = curvature * (1 + (pos_weight - 1) * target)
    return curvature if weight is None else curvature * weight


def bce_mixed_slope(x: Any, weight: Any, pos_weight: Any) -> Any:
    """d^2 loss/dx d target = -1, weighted."""
    if pos_weight is None:
        return -1 if weight is None else -weight
    slope = sigmoid(x) * (pos_weight - 1) - pos_weight
    return slope if weight is None else slope * weight


def bce_target_slope(x: Any, weight: Any, pos_weight: Any) -> Any:
    """d loss/d target = log(1 - sigmoid(x)) - log sigmoid(x) = -x, weighted."""
    slope = -x if pos_weight is None else pos_weight * softplus(-x) - softplus(x)
    return slope if weight is None else slope * weight


class BinaryCrossEntropy(Primitive):
    """y = -weight * (target * log x + (1 - target) * log(1 - x)), the logarithms at least -100"""

    vjp = (
        lambda g, x, target, weight, reduction: (
            scaled(g, x, reduction) * weighted((x - target) / floor((1 - x) * x), weight)
        ),
        lambda g, x, weight, reduction: (
            scaled(g, x, reduction) * weighted(bounded_log(1 - x) - bounded_log(x), weight)
        ),
        None,
    )
    jvp = (
        lambda t, x, target, weight, reduction: total(
            t * weighted((x - target) / floor((1 - x) * x), weight), reduction
        ),
        lambda t, x, weight, reduction: total(
            t * weighted(bounded_log(1 - x) - bounded_log(x), weight), reduction
        ),
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, target: Array, weight: Any, *, reduction: str, out: Array | None = None
    ) -> Array:
        # Only where reading the values costs no waiting for a device.
        if xp is HOST and ((x < 0) | (x > 1)).any():
            raise ValueError("all elements of input should be between 0 and 1")
        one = x.dtype.type(1)
        positive = xp.maximum(xp.log(xp.maximum(x, xp.finfo(x.dtype).tiny)), -100)
        negative = xp.maximum(xp.log1p(-xp.minimum(x, one - xp.finfo(x.dtype).epsneg)), -100)
        positive, negative = xp.where(x > 0, positive, -100), xp.where(x < 1, negative, -100)
        loss = ((target - 1) * negative - target * positive).astype(x.dtype)
        if weight is not None:
            loss = loss * weight
        return reduced(xp, loss, reduction, out)

    @classmethod
    def title(cls) -> str:
        return "binary_cross_entropy"


def weighted(x: Any, weight: Any) -> Any:
    """x * weight, where there is one."""
    return x if weight is None else x * weight


def floor(x: Any) -> Any:
    """x, at least 1e-12: keeps the slope finite at probabilities 0 and 1."""
    return where(x < 1e-12, 1e-12, x)


def bounded_log(x: Any) -> Any:
    """log x, at least -100."""
    return where(x <= 3.8e-44, -100.0, log(where(x <= 3.8e-44, 1.0, x)))
