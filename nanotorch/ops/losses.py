"""Losses. `reduction` is "none", "mean" or "sum"."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import (
    HOST,
    Array,
    broadcast_shapes,
    clipped,
    constant,
    counting,
    dtype_of,
)
from nanotorch.backend.order_of_memory import usual
from nanotorch.ops.casting import cast
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import abs, exp, log, sign
from nanotorch.ops.keys import all_below
from nanotorch.ops.loss_reductions import (
    check_reduction,
    divided,
    divisor,
    reduced,
    same_size,
    scaled,
    total,
)
from nanotorch.ops.operand_dtypes import alike, needs_floats, real_floats
from nanotorch.ops.pairs import xlogy
from nanotorch.ops.sums import sum
from nanotorch.primitive import Elementwise, Linear, Primitive, apply


class MseLoss(Primitive):
    """y = (x - target) ** 2"""

    promotes = "common"
    vjp = (
        lambda g, x, target, reduction: mse_cotangent(g, x, target, reduction),
        lambda g, x, target, reduction: mse_cotangent(g, target, x, reduction),
    )
    jvp = (
        lambda t, x, target, reduction: total(2 * (x - target) * t, reduction),
        lambda t, x, target, reduction: total(2 * (target - x) * t, reduction),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, target: Array, *, reduction: str, out: Array | None = None
    ) -> Array:
        return reduced(xp, xp.square(x - target), reduction, out)

    @classmethod
    def title(cls) -> str:
        return "mse_loss"


def mse_cotangent(g: Any, x: Any, target: Any, reduction: str) -> Any:
    """The cotangent of x, given that of the losses, their mean or their sum."""
    shape = broadcast_shapes(x.shape, target.shape)
    return apply(MseLossReverse, g, x, target, divisor=divisor(shape, reduction))


class MseLossReverse(Elementwise):
    """y = g / divisor * 2 (x - target), the cotangent of x"""

    backward_name = "MseLossBackwardBackward0"
    promotes = None
    vjp = (
        lambda h, x, target, divisor: divided(h * (2 * (x - target)), divisor),
        lambda h, g, divisor: divided(2 * h * g, divisor),
        lambda h, g, divisor: divided(-2 * h * g, divisor),
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, target: Array, *, divisor: float | None,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        return xp.multiply(divided(g, divisor), 2 * (x - target), out=out)


class BinaryCrossEntropy(Primitive):
    """y = -weight * (target * log x + (1 - target) * log(1 - x)), the logarithms at least -100"""

    vjp = (
        lambda g, x, target, weight, reduction: (
            scaled(g, x, reduction) * weighted((x - target) / floor((1 - x) * x), weight)
        ),
        lambda g, x, weight, reduction: (
            scaled(g, x, reduction) * weighted(log(1 - x) - log(x), weight)
        ),
        None,
    )
    jvp = (
        lambda t, x, target, weight, reduction: total(
            t * weighted((x - target) / floor((1 - x) * x), weight), reduction
        ),
        lambda t, x, weight, reduction: total(t * weighted(log(1 - x) - log(x), weight), reduction),
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, target: Array, weight: Any, *, reduction: str, out: Array | None = None
    ) -> Array:
        # Only where reading the values costs no waiting for a device.
        if xp is HOST:
            for name, values in (("input", x), ("target", target)):
                if not ((values >= 0) & (values <= 1)).all():
                    raise RuntimeError(f"all elements of {name} should be between 0 and 1")
        positive = clipped(xp, xp.log(x), -100, math.inf)
        negative = clipped(xp, xp.log1p(-x), -100, math.inf)
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


class NllLoss(Linear):
    """y = -the sum of weight[t] * x[i, t] for t = target[i]; the mean divides by the sum of
    weight[t]"""

    vjp = (
        lambda g, x_shape, target, weight, ignore_index, reduction: apply(
            NllLossReverse, g, target, weight,
            ignore_index=ignore_index, reduction=reduction, shape=tuple(x_shape),
        ),
        None,
        None,
    )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, x: Array, target: Array, weight: Any, *, ignore_index: int, reduction: str,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        if xp is HOST and weight is None and are_plain(x, target, ignore_index):
            picked = at_classes(x, target)
            return reduced(xp, xp.negative(picked, out=picked), reduction, out)
        place, factor = class_places(xp, x.shape, x.dtype, target, weight, ignore_index)
        loss = usual(xp, xp.negative(x[place]))
        if factor is not None:
            # Not even an infinity or NaN counts where the target is to be ignored.
            loss = xp.where(target == ignore_index, loss.dtype.type(0), loss * factor)
            if reduction == "mean":
                return xp.true_divide(loss.sum(), factor.sum(), out=out)
        return reduced(xp, loss, reduction, out)

    @classmethod
    def title(cls) -> str:
        return "nll_loss"


class NllLossReverse(Linear):
    """y = the cotangent of x in NllLoss: -weight[t] * g at the targets' places, 0 elsewhere"""

    vjp = (
        lambda g, target, weight, ignore_index, reduction: apply(
            NllLoss, g, target, weight, ignore_index=ignore_index, reduction=reduction
        ),
        None,
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, target: Array, weight: Any, *, ignore_index: int, reduction: str,
        shape: tuple[int, ...], out: Array | None = None,
    ) -> Array:  # fmt: skip
        if out is None:
            out = xp.zeros(shape, g.dtype)
        else:
            out.fill(0)
        if xp is HOST and weight is None and are_plain(out, target, ignore_index):
            if reduction == "mean":
                g = xp.true_divide(g, constant(g, target.size))
            xp.put(out.reshape(-1), flat_places(out, target), xp.negative(g), mode="clip")
            return out
        place, factor = class_places(xp, shape, g.dtype, target, weight, ignore_index)
        if reduction == "mean":
            g = g / (target.size or float("nan") if factor is None else factor.sum())
        if factor is not None:  # for nothing but ignored targets g is NaN by now
            g = xp.where(target == ignore_index, g.dtype.type(0), g * factor)
        out[place] = -g
        return out


def are_plain(x: Array, target: Array, ignore_index: int) -> bool:
    """Whether x (N, C) lies in one piece, and the targets are classes of which none is ignored."""
    if x.ndim != 2 or not x.size or not x.flags.c_contiguous or target.dtype.kind != "i":
        return False
    classes = x.shape[1]
    return not 0 <= ignore_index < classes and all_below(target, classes)


def flat_places(x: Array, target: Array) -> Array:
    """Where the targets lie in x (N, C), counted through its rows."""
    return HOST.add(target, counting(x.size, x.shape[1]))


def at_classes(x: Array, target: Array) -> Array:
    """The element of each row of x (N, C), an array of the host, that its target names."""
    return x.reshape(-1).take(flat_places(x, target), mode="clip")


def class_places(
    xp: Any, shape: tuple[int, ...], dtype: Any, target: Array, weight: Any, ignore_index: int
) -> tuple[Any, Any]:
    """Where the targets lie in x (N, C, …) or (C), and the weight of each: 0 for the ignored.

    The weights are None where all are 1. On the CPU classes that do not exist are refused.
    """
    count = shape[0 if len(shape) == 1 else 1]
    classes, factor = target, None
    if xp is HOST and all_below(target, count) and not 0 <= ignore_index < count:
        if weight is not None:
            factor = weight[target]
    else:
        ignored = target == ignore_index
        classes = xp.where(ignored, 0, target)
        if xp is HOST and not all_below(classes, count):
            wrong = classes[(classes < 0) | (classes >= count)].flat[0]
            raise IndexError(f"Target {wrong} is out of bounds for {count} classes")
        factor = xp.where(
            ignored, dtype.type(0), dtype.type(1) if weight is None else weight[classes]
        )
    if len(shape) == 1:
        return (classes,), factor
    if len(shape) == 2:
        return (xp.arange(shape[0]), classes), factor
    grid = list(xp.ogrid[tuple(slice(n) for n in target.shape)])
    return (grid[0], classes, *grid[1:]), factor


def binary_cross_entropy(x: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """The cross-entropy between targets in [0, 1] and probabilities x in [0, 1], of one shape."""
    check_reduction(reduction)
    same_size(x, target, "binary_cross_entropy")
    alike("binary_cross_entropy", x, target)
    return apply(BinaryCrossEntropy, x, target, weight, reduction=reduction)


def mse_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """(x - target) ** 2, of shapes that broadcast."""
    check_reduction(reduction)
    real_floats("mse_loss", x, target)
    return apply(MseLoss, x, target, reduction=reduction)


def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """|x - target|, of shapes that broadcast."""
    check_reduction(reduction)
    return total(abs(x - target), reduction)


def nll_loss(
    x: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """-x at the target classes: x (C), (N, C) or (N, C, d1, …) log-probabilities, target ints.

    `weight` (C) weighs the classes; targets equal to `ignore_index` do not count.
    """
    check_reduction(reduction)
    target = check_classes(x, target, weight, "nll_loss")
    needs_floats("nll_loss", x)
    alike("nll_loss", x, weight)
    return apply(NllLoss, x, target, weight, ignore_index=ignore_index, reduction=reduction)


def check_classes(x: Any, target: Any, weight: Any, op: str) -> Any:
    """The target; refuses wrong dtypes and shapes, and weights that are not one for each class."""
    if not hasattr(target, "_array"):
        return target
    targets, shape = target._array, x._array.shape
    if targets.dtype.char not in "lqB":
        raise RuntimeError(
            f"{op}: expected target of dtype Long or Byte, got {dtype_of(targets.dtype).title}"
        )
    if not shape:
        raise ValueError(f"{op}: expected an input of 1 or more dimensions, got 0")
    expected = () if len(shape) == 1 else (shape[0], *shape[2:])
    single = len(shape) == 1 and targets.shape == (1,)  # one sample without its dimension
    if targets.shape != expected and not single:
        samples = targets.ndim == 1 if len(shape) == 1 else targets.shape[:1] != shape[:1]
        raise (ValueError if samples else RuntimeError)(  # as PyTorch tells them apart
            f"{op}: expected target of shape {expected} for input of shape {shape}, got "
            f"{targets.shape}"
        )
    count = shape[0 if len(shape) == 1 else 1]
    if weight is not None and tuple(weight.shape) != (count,):
        raise RuntimeError(
            f"{op}: expected one weight for each of the {count} classes, got weights of shape "
            f"{tuple(weight.shape)}"
        )
    return target.reshape(()) if single else target


def huber_loss(x: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """(x - target) ** 2 / 2 within delta, delta * (|x - target| - delta / 2) beyond."""
    check_reduction(reduction)
    if not delta > 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    real_floats("huber_loss", x, target)
    kind = getattr(x, "_array", x).dtype
    if kind.kind not in "fV":
        raise RuntimeError(f"huber_loss: expected a floating point input, got {x.dtype}")
    return total(cast(quadratic_within(x - target, delta), kind), reduction)


class QuadraticWithin(Elementwise):
    """y = x ** 2 / 2 within delta, delta * (|x| - delta / 2) beyond"""

    vjp = (lambda g, x, delta: where(abs(x) >= delta, g * (delta * sign(x)), g * x),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, delta: float, out: Array | None = None) -> Array:
        near = clipped(xp, x, -delta, delta)
        return xp.multiply(near, x - 0.5 * near, out=out)


def quadratic_within(x: Any, delta: float) -> Any:
    """x ** 2 / 2 within delta, delta * (|x| - delta / 2) beyond."""
    return apply(QuadraticWithin, x, delta=delta)


def smooth_l1_loss(x: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """(x - target) ** 2 / (2 beta) within beta, |x - target| - beta / 2 beyond."""
    check_reduction(reduction)
    if not beta >= 0:
        raise RuntimeError(f"smooth_l1_loss does not support negative values for beta, got {beta}")
    real_floats("smooth_l1_loss", x, target)
    if beta == 0:
        return total(abs(x - target), reduction)
    loss = quadratic_within(x - target, beta)
    return total(loss if beta == 1 else loss / beta, reduction)


def kl_div(x: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """target * (log target - x), x log-probabilities; "batchmean" divides by the first size."""
    if reduction != "batchmean":
        check_reduction(reduction)
    needs_floats("kl_div", x)
    needs_floats("kl_div", target)
    if log_target:
        loss = exp(target) * (target - x)
    else:
        loss = xlogy(target, target) - target * x
    if reduction == "batchmean":
        return sum(loss) / (x.shape[0] if x.ndim else 1)
    return total(loss, reduction)
