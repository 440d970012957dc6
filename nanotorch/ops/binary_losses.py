"""Cross-entropy between two classes, given the logits of their probabilities."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array, clipped, constant
from nanotorch.ops.activations import logistic, softplus, stable_sigmoid
from nanotorch.ops.loss_reductions import (
    check_reduction,
    divided,
    divisor,
    reduced,
    same_size,
    scaled,
    total,
)
from nanotorch.ops.operand_dtypes import needs_floats
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
        if xp is HOST:
            y = reduced(xp, loss, reduction, out)
            if not (y != y if reduction != "none" else (y != y).any()):
                return y
        # An infinite logit is right or infinitely wrong; inf - inf and 0 * inf say neither.
        right = xp.where(target == (x > 0), x.dtype.type(0), x.dtype.type("inf"))
        return reduced(xp, xp.where(xp.isinf(x), right, loss), reduction, out)

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
    y = xp.negative(xp.absolute(x))
    xp.exp(y, out=y)
    xp.log1p(y, out=y)
    return xp.add(y, clipped(xp, x, 0, float("inf")), out=y)


def bce_logits_slope(x: Any, target: Any, weight: Any, pos_weight: Any) -> Any:
    """d loss/dx = sigmoid(x) - target, weighted."""
    if pos_weight is None:
        slope = logistic(x) - target
    else:
        slope = logistic(x) * (1 + (pos_weight - 1) * target) - pos_weight * target
    return slope if weight is None else slope * weight


def bce_curvature(x: Any, target: Any, weight: Any, pos_weight: Any) -> Any:
    """d^2 loss/dx^2 = sigmoid(x) sigmoid(-x), weighted."""
    curvature = logistic(x) * logistic(-x)
    if pos_weight is not None:
        curvature = curvature * (1 + (pos_weight - 1) * target)
    return curvature if weight is None else curvature * weight


def bce_mixed_slope(x: Any, weight: Any, pos_weight: Any) -> Any:
    """d^2 loss/dx d target = -1, weighted."""
    if pos_weight is None:
        return -1 if weight is None else -weight
    slope = logistic(x) * (pos_weight - 1) - pos_weight
    return slope if weight is None else slope * weight


def bce_target_slope(x: Any, weight: Any, pos_weight: Any) -> Any:
    """d loss/d target = log(1 - sigmoid(x)) - log sigmoid(x) = -x, weighted."""
    slope = -x if pos_weight is None else pos_weight * softplus(-x) - softplus(x)
    return slope if weight is None else slope * weight


def binary_cross_entropy_with_logits(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """The cross-entropy between targets in [0, 1] and the probabilities sigmoid(x), x of any shape.

    `weight` (broadcast to x) weighs each element, `pos_weight` (broadcast to x) the positive part.
    """
    check_reduction(reduction)
    same_size(x, target, "binary_cross_entropy_with_logits")
    needs_floats("binary_cross_entropy_with_logits", x)
    if hasattr(target, "_array") and target._array.dtype.kind not in "fV":
        raise RuntimeError(
            f"binary_cross_entropy_with_logits: expected a target of dtype {x.dtype}, got "
            f"{target.dtype}; convert it with target.to(input.dtype)"
        )
    return apply(BinaryCrossEntropyWithLogits, x, target, weight, pos_weight, reduction=reduction)
