"""The cross-entropy between the softmax of logits and classes, or their probabilities."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array, constant, counting
from nanotorch.backend.halves import kernel_of
from nanotorch.backend.order_of_memory import is_narrow
from nanotorch.ops.activations import (
    LogSoftmax,
    LogSoftmaxReverse,
    SoftmaxReverse,
    largest_along,
    log_softmax,
    rows_of,
    softmax,
    totals,
)
from nanotorch.ops.comparisons import where
from nanotorch.ops.loss_reductions import check_reduction, reduced
from nanotorch.ops.losses import (
    NllLoss,
    NllLossReverse,
    are_plain,
    check_classes,
    class_places,
    flat_places,
    nll_loss,
)
from nanotorch.ops.operand_dtypes import alike
from nanotorch.ops.sums import sum
from nanotorch.primitive import Primitive, apply


class CrossEntropyTerms(Primitive):
    """y = what the loss and its reverse share: exp(x) up to a factor for each sample, less the sum
    of them at the target's class; then these factors; then the losses

    The kernels of CrossEntropy alone know how it lies in y; those of a device may share something
    else.
    """

    @staticmethod
    def kernel(
        xp: Any, x: Array, target: Array, weight: Any, *, ignore_index: int, reduction: str,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        dim = class_dimension(x)
        if xp is not HOST:
            return kernel_of(LogSoftmax, xp, x)(xp, x, dim=dim, out=out)
        if out is None:
            out = HOST.empty((*x.shape[:dim], x.shape[dim] + 2, *x.shape[dim + 1 :]), x.dtype)
        losses(x, target, weight, ignore_index, reduction, out.reshape(-1), True)
        return out

    @classmethod
    def title(cls) -> str:
        return "cross_entropy"


class CrossEntropy(Primitive):
    """y = -weight[t] * log softmax(x)[i, t] for t = target[i]; the mean divides by the sum of
    weight[t]

    `terms`: the CrossEntropyTerms of the others, where a gradient may be wanted.
    """

    backward_name = "NllLossBackward0"
    vjp = (
        lambda g, x, terms, target, weight, ignore_index, reduction: apply(
            CrossEntropyReverse, g, x, terms, target, weight,
            ignore_index=ignore_index, reduction=reduction,
        ),
        None,
        None,
        None,
    )  # fmt: skip
    jvp = (
        lambda t, x, target, weight, ignore_index, reduction: slope_along(
            t, x, target, weight, ignore_index, reduction
        ),
        None,
        None,
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, terms: Any, target: Array, weight: Any, *, ignore_index: int,
        reduction: str, out: Array | None = None,
    ) -> Array:  # fmt: skip
        how: dict[str, Any] = {"ignore_index": ignore_index, "reduction": reduction}
        if xp is not HOST:
            if terms is None:
                terms = CrossEntropyTerms.kernel(xp, x, target, weight, **how)
            return kernel_of(NllLoss, xp, x)(xp, terms, target, weight, **how, out=out)
        if terms is None:
            space = HOST.empty(x.size + 2 * target.size, x.dtype)
            loss = losses(x, target, weight, ignore_index, reduction, space, False)
        else:
            loss = terms.reshape(-1)[-target.size :].reshape(target.shape)
        return reduced(xp, loss, reduction, out)

    @classmethod
    def title(cls) -> str:
        return "cross_entropy"


class CrossEntropyReverse(Primitive):
    """y = weight[t] * g * (softmax(x) - 1 at the targets' classes), the cotangent of x"""

    backward_name = "LogSoftmaxBackwardDataBackward0"
    vjp = (
        lambda h, x, target, weight, ignore_index, reduction: slope_along(
            h, x, target, weight, ignore_index, reduction
        ),
        lambda h, g, x, target, weight, ignore_index, reduction: curvature_along(
            h, g, x, target, weight, ignore_index, reduction
        ),
        None,
        None,
        None,
    )
    jvp = (
        lambda t, x, terms, target, weight, ignore_index, reduction: apply(
            CrossEntropyReverse, t, x, terms, target, weight,
            ignore_index=ignore_index, reduction=reduction,
        ),
        lambda t, g, x, target, weight, ignore_index, reduction: curvature_along(
            t, g, x, target, weight, ignore_index, reduction
        ),
        None,
        None,
        None,
    )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, terms: Any, target: Array, weight: Any, *, ignore_index: int,
        reduction: str, out: Array | None = None,
    ) -> Array:  # fmt: skip
        dim = class_dimension(x)
        how: dict[str, Any] = {"ignore_index": ignore_index, "reduction": reduction}
        if terms is None:
            terms = CrossEntropyTerms.kernel(xp, x, target, weight, **how)
        if xp is not HOST:
            g = kernel_of(NllLossReverse, xp, g)(xp, g, target, weight, **how, shape=x.shape)
            return kernel_of(LogSoftmaxReverse, xp, x)(xp, g, terms, dim=dim, out=out)
        if reduction == "mean":
            g = g / constant(g, target.size)
        terms, size = terms.reshape(-1), x.size
        factor = terms[size : size + target.size].reshape(target.shape) * g
        if is_narrow(x, 1):
            y = HOST.multiply(terms[:size].reshape(x.shape[::-1]), factor)
            return rows_of(HOST, y, out)
        if dim:
            factor = factor.reshape((*target.shape[:1], 1, *target.shape[1:]))
        return HOST.multiply(terms[:size].reshape(x.shape), factor, out=out)

    @classmethod
    def title(cls) -> str:
        return "cross_entropy_reverse"


def losses(
    x: Array, target: Array, weight: Any, ignore_index: int, reduction: str, terms: Array,
    for_reverse: bool,
) -> Array:  # fmt: skip
    """The cross-entropy of each sample, weighted; of a mean, by weights whose mean is 1.

    It lies at the end of `terms`, whose other parts are those of CrossEntropyTerms or, where these
    are not wanted, memory to work in.
    """
    size, n, narrow = x.size, target.size, is_narrow(x, 1)
    e, loss = terms[:size], terms[size + n :]
    rows = e.reshape(x.shape[::-1]).T if narrow else e.reshape(x.shape)
    if weight is not None or not are_plain(x, target, ignore_index):
        factor, loss = (part.reshape(target.shape) for part in (terms[size : size + n], loss))
        weighted_losses(x, target, weight, ignore_index, reduction, rows, factor, loss)
        return loss
    if narrow:
        HOST.copyto(rows, x)
        columns = rows.T
        HOST.subtract(columns, HOST.maximum.reduce(columns, axis=0), out=columns)
        places = HOST.add(HOST.multiply(target, constant(target, n)), counting(n))
    else:
        HOST.subtract(x, largest_along(HOST, x, 1), out=rows)
        places = flat_places(x, target)
    picked = e.take(places, mode="clip")
    HOST.exp(e, out=e)
    total = totals(HOST, rows, 1)
    if for_reverse:
        HOST.subtract.at(e, places, total)
        HOST.reciprocal(total, out=terms[size : size + n])
    HOST.log(total, out=total)
    return HOST.subtract(total, picked, out=loss)


def weighted_losses(
    x: Array, target: Array, weight: Any, ignore_index: int, reduction: str, e: Array,
    factor: Array, loss: Array,
) -> None:  # fmt: skip
    """Fills e, factor and loss for x of any dimensions, some of whose targets may be ignored."""
    dim, kind = class_dimension(x), x.dtype.type
    place, weights = class_places(HOST, x.shape, x.dtype, target, weight, ignore_index)
    HOST.subtract(x, largest_along(HOST, x, dim), out=e)
    picked = e[place]
    total = totals(HOST, HOST.exp(e, out=e), dim)
    e[place] -= total
    loss[...] = HOST.log(total) - picked
    factor[...] = 1 / total
    if weights is None:
        return
    # Not even an infinity or NaN counts where the target is to be ignored.
    ignored, share = target == ignore_index, kind(1)
    if reduction == "mean":
        share = kind(target.size) / weights.sum()
    loss[...] = HOST.where(ignored, kind(0), loss * weights) * share
    factor[...] = HOST.where(ignored, kind(0), factor * weights * share)


def class_dimension(x: Array) -> int:
    """The dimension of x (C) or (N, C, …) that counts the classes."""
    return 0 if x.ndim == 1 else 1


def slope_along(t: Any, x: Any, target: Any, weight: Any, ignore_index: int, reduction: str) -> Any:
    """The sum of t times the slope of the loss: the loss of the tangent of log softmax(x)."""
    dim = class_dimension(x)
    t = t - sum(t * softmax(x, dim), dim, True)
    return apply(NllLoss, t, target, weight, ignore_index=ignore_index, reduction=reduction)


def curvature_along(
    t: Any, g: Any, x: Any, target: Any, weight: Any, ignore_index: int, reduction: str
) -> Any:
    """t times the second derivative of g * the loss: softmax's slope, weighted as its sample is."""
    dim = class_dimension(x)
    slope = apply(
        NllLossReverse, g, target, weight,
        ignore_index=ignore_index, reduction=reduction, shape=tuple(x.shape),
    )  # fmt: skip
    return apply(SoftmaxReverse, t * -sum(slope, dim, True), softmax(x, dim), dim=dim)


def cross_entropy(
    x: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """-log softmax(x) at the target classes, x (C), (N, C) or (N, C, d1, …) logits.

    Targets are class numbers (ints) or, of x's shape, class probabilities. `label_smoothing` in [0,
    1] mixes them with the uniform distribution.
    """
    check_reduction(reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    of_classes = getattr(target, "_array", target).dtype.kind not in "fV"
    if of_classes and getattr(x, "_array", x).shape == getattr(target, "_array", target).shape:
        raise RuntimeError(
            f"cross_entropy: expected class numbers without the dimension of classes, or floating "
            f"probabilities, got {target.dtype} of the input's shape {tuple(x.shape)}"
        )
    dim = class_dimension(x)
    if label_smoothing == 0.0 and of_classes and share_terms(x):
        target = check_classes(x, target, weight, "nll_loss")
        if weight is not None:
            alike("nll_loss", x, weight)
        how: dict[str, Any] = {"ignore_index": ignore_index, "reduction": reduction}
        terms = (
            apply(CrossEntropyTerms, x, target, weight, **how)
            if getattr(x, "requires_grad", False)
            else None
        )
        return apply(CrossEntropy, x, terms, target, weight, **how)
    logs = log_softmax(x, dim)
    if not of_classes:
        return probability_loss(logs, target, weight, reduction, label_smoothing, dim)
    loss = nll_loss(logs, target, weight, ignore_index, reduction)
    if label_smoothing == 0.0:
        return loss
    shape = [1] * x.ndim
    shape[dim] = -1
    logs_weighted = logs if weight is None else logs * weight.reshape(tuple(shape))
    smooth = where(target == ignore_index, 0.0, -sum(logs_weighted, dim))
    if reduction == "mean":
        kept = target != ignore_index
        if weight is None:
            count = sum(kept)
        else:
            count = sum(where(kept, weight[where(kept, target, 0)], 0.0))
        smooth = sum(smooth) / count
    elif reduction == "sum":
        smooth = sum(smooth)
    return (1 - label_smoothing) * loss + label_smoothing / x.shape[dim] * smooth


def share_terms(x: Any) -> bool:
    """Whether the loss of x and its slope share terms: not of halves, which are rounded after each
    of two steps, as in PyTorch."""
    array = getattr(x, "_array", x)
    return bool(array.dtype.char in "fd" and array.ndim and array.size)


def probability_loss(
    logs: Any, target: Any, weight: Any, reduction: str, label_smoothing: float, dim: int
) -> Any:
    """Cross-entropy against class probabilities; the mean is over samples, not over elements."""
    if tuple(target.shape) != tuple(logs.shape):
        raise RuntimeError(
            f"cross_entropy: expected class probabilities of shape {tuple(logs.shape)}, "
            f"got {tuple(target.shape)}"
        )
    if weight is not None and tuple(weight.shape) != (logs.shape[dim],):
        raise RuntimeError(
            f"cross_entropy: expected one weight for each of the {logs.shape[dim]} classes, got "
            f"weights of shape {tuple(weight.shape)}"
        )
    if label_smoothing > 0.0:
        target = target * (1 - label_smoothing) + label_smoothing / logs.shape[dim]
    product = logs * target
    if weight is not None:
        shape = [1] * logs.ndim
        shape[dim] = -1
        product = product * weight.reshape(tuple(shape))
    loss = -sum(product, dim)
    if reduction == "mean":
        samples = 1
        for d, n in enumerate(logs.shape):
            samples *= 1 if d == dim else n
        return sum(loss) / samples
    return loss if reduction == "none" else sum(loss)
