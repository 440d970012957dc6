"""Losses of margins, distances and distributions, as functions; `functional` hands them on.

Source: https://docs.pytorch.org/docs/stable/nn.functional.html#loss-functions
"""

from __future__ import annotations

import math

from nanotorch import ops
from nanotorch.autograd.grad_mode import in_precision, no_grad
from nanotorch.backend import promote_types
from nanotorch.ops.loss_reductions import check_reduction, total
from nanotorch.ops.losses import check_classes
from nanotorch.ops.operand_dtypes import needs_floats
from nanotorch.tensor import Tensor


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The losses themselves, their mean or their sum; ValueError for another `reduction`."""
    check_reduction(reduction)
    result: Tensor = total(loss, reduction)
    return result


def above_zero(x: Tensor) -> Tensor:
    """max(0, x), whose slope at 0 is 1, as PyTorch has it in these losses."""
    result: Tensor = ops.clamp(x, min=0.0)
    return result


def _same_dimensions(name: str, *tensors: Tensor) -> None:
    if len({x.ndim for x in tensors}) > 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise RuntimeError(f"{name}: expected tensors of as many dimensions, got {shapes}")


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """‖x1 - x2 + eps‖ₚ over the last dimension: (*, D) and (*, D) to (*)."""
    distance: Tensor = ops.norm(x1 - x2 + eps, p, -1, keepdim)
    return distance


@in_precision("full")
def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """log(1 + exp(-target · x)), targets 1 or -1 that broadcast to x's shape."""
    needs_floats("soft_margin_loss", input)
    products = target * input
    if products.shape != input.shape:
        raise RuntimeError(
            f"soft_margin_loss: expected a target that broadcasts to {tuple(input.shape)}, got "
            f"shape {tuple(target.shape)}"
        )
    return reduced(ops.softplus(-products), reduction).to(input.dtype)  # as PyTorch's kernel


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """The binary cross-entropy with logits, averaged over the last dimension: (N, C) to (N)."""
    dim = input.ndim - 1
    if dim < 0:
        raise IndexError("multilabel_soft_margin_loss: expected an input (N, C) or (C), got ()")
    classes, kind = input.shape[dim], promote_types(input.dtype, target.dtype)
    input, target = input.to(kind), target.to(kind)
    if input.shape != target.shape:
        input, target = ops.broadcast_tensors(input, target)
    loss = ops.binary_cross_entropy_with_logits(input, target, weight, "none")
    return reduced(ops.sum(loss, dim) / classes, reduction)


@in_precision("full")
def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1."""
    needs_floats("hinge_embedding_loss", input)
    similar = ops.where(target != -1, input, 0.0)  # other targets count as both
    return reduced(similar + ops.where(target != 1, above_zero(margin - input), 0.0), reduction)


@in_precision("full")
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, reduction: str = "mean"
) -> Tensor:
    """max(0, -target · (x1 - x2) + margin), targets 1 or -1."""
    _same_dimensions("margin_ranking_loss", input1, input2, target)
    return reduced(above_zero(-target * (input1 - input2) + margin), reduction)


@in_precision("full")
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, reduction: str = "mean"
) -> Tensor:
    """1 - cos(x1, x2) where the target is 1, max(0, cos(x1, x2) - margin) where it is -1.

    Shapes (N, D), (N, D) and (N), or (D), (D) and ().
    """
    dims = target.ndim + 1
    if dims > 2 or input1.ndim != dims or input2.ndim != dims:
        shapes = ", ".join(str(tuple(x.shape)) for x in (input1, input2, target))
        raise RuntimeError(
            f"cosine_embedding_loss: expected (N, D), (N, D) and (N), or (D), (D) and (), got "
            f"{shapes}"
        )
    sizes = (ops.sum(x * x, -1) + 1e-12 for x in (input1, input2))
    cosine = ops.sum(input1 * input2, -1) * ops.rsqrt(next(sizes) * next(sizes))
    far = ops.where(target == -1, above_zero(cosine - margin), 0)  # other targets count nothing
    return reduced(ops.where(target == 1, 1 - cosine, far), reduction)


@in_precision("full")
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d the pairwise distance.

    `swap` takes d(positive, negative) for the second one where it is smaller.
    """
    if margin <= 0:
        raise ValueError(f"triplet_margin_loss: expected a margin above 0, got {margin}")
    _same_dimensions("triplet_margin_loss", anchor, positive, negative)
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(above_zero(near - far + margin), reduction)


@in_precision("full")
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Σ max(0, margin - x[t] + x[i])ᵖ / C over the classes i but t: (N, C) and (N), or (C) and ().

    ValueError for p other than 1 and 2; IndexError for a class that does not exist.
    """
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: only p == 1 and p == 2 are supported, got {p}")
    if weight is not None and weight.ndim != 1:
        raise ValueError(
            f"multi_margin_loss: expected a weight of one dimension, got {tuple(weight.shape)}"
        )
    count = input.shape[0] if input.ndim == 2 else 1
    if input.ndim > 2 or not (input.shape[-1] if input.ndim else 1):
        raise RuntimeError(
            f"multi_margin_loss: expected an input (N, C) or (C), got {tuple(input.shape)}"
        )
    if target.ndim > 1 or target.numel() != count:
        raise RuntimeError(
            f"multi_margin_loss: expected a target ({count},) for an input "
            f"{tuple(input.shape)}, got {tuple(target.shape)}"
        )
    if not count and reduction == "mean":
        reduction = "sum"  # of no samples 0, as PyTorch has it
    single, target = target.ndim == 0, target.reshape((count,))
    input = input.reshape((count, -1 if input.ndim < 2 else input.shape[1]))
    check_classes(input, target, weight, "multi_margin_loss")
    loss = ops.relu(margin - ops.gather(input, -1, ops.unsqueeze(target, -1)) + input)
    if p == 2:
        loss = loss * loss
    # The term of the target's own class is max(0, margin)ᵖ, whatever x is.
    loss = (ops.sum(loss, -1) - max(0.0, margin) ** p) / input.shape[-1]
    loss = loss if weight is None else loss * weight[target]
    return reduced(ops.squeeze(loss, 0) if single else loss, reduction)


@in_precision("full")
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """exp(x) - target · x, x the logarithm of the rate; else x - target · log(x + eps).

    `full` adds Stirling's approximation of log(target!) for targets above 1.
    """
    if log_input:
        loss = ops.exp(input) - target * input
    else:
        loss = input - target * ops.log(input + eps)
    if full:
        above = ops.where(target > 1, target, 1.0)
        rest = above * ops.log(above) - above + 0.5 * ops.log(2 * math.pi * above)
        loss = loss + ops.where(target > 1, rest, 0.0)
    return reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log var + (x - target)² / var) / 2, var at least eps; `full` adds log(2π) / 2.

    var: a number, of x's shape, of x's without the last dimension, or with size 1 in one place.
    ValueError for another shape, and for a negative variance (seen on the CPU).
    """
    spread: Tensor = var if isinstance(var, Tensor) else ops.ones_like(input) * var
    if spread.shape != input.shape:
        shape, rest = tuple(spread.shape), tuple(input.shape[:-1])
        others = [n for n, size in zip(shape, input.shape) if n != size]
        if input.ndim and shape == rest:
            spread = ops.unsqueeze(spread, -1)
        elif spread.ndim != input.ndim or others != [1]:
            raise ValueError(
                f"gaussian_nll_loss: expected var {tuple(input.shape)}, with a 1 in it, or {rest}, "
                f"got {shape}"
            )
    if spread.device.type == "cpu" and (spread < 0).any():
        raise ValueError("gaussian_nll_loss: var has negative entries")
    bounded = spread.clone()
    with no_grad():  # the bound does not stop the gradient
        bounded.clamp_(min=eps)
    loss = 0.5 * (ops.log(bounded) + (input - target) ** 2 / bounded)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)
