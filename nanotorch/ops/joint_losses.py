"""Losses computed together with their gradients, for some of the rows of a large batch."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array, constant
from nanotorch.ops.binary_losses import BinaryCrossEntropyWithLogits


def loss_and_slope(
    x: Array, target: Array, pos_weight: Any, g: Any, *, total: Array, out: Array
) -> Array:
    """y = g * (sigmoid(x) - target), and in `total` the sum of the binary cross-entropies.

    On the CPU, from one exp(-x), with half of the calls of the loss and its gradient apart.
    """
    u = HOST.negative(x)
    HOST.exp(u, out=u)
    y = HOST.add(u, constant(u, 1), out=out)
    HOST.reciprocal(y, out=y)
    below = target  # what is taken from it
    e = HOST.reciprocal(u)
    HOST.minimum(e, u, out=e)  # exp(-|x|)
    HOST.log1p(e, out=e)
    top = HOST.zeros(x.shape, x.dtype)
    if pos_weight is None:
        HOST.maximum(x, top, out=top)
        HOST.subtract(HOST.multiply(x, target, out=u), top, out=top)
    else:
        share = HOST.multiply(target, pos_weight - 1)
        HOST.add(share, constant(share, 1), out=share)
        HOST.multiply(e, share, out=e)
        HOST.multiply(y, share, out=y)
        HOST.minimum(x, top, out=top)
        HOST.multiply(top, share, out=top)
        HOST.subtract(target, constant(x, 1), out=u)
        HOST.add(HOST.multiply(u, x, out=u), top, out=top)
        below = HOST.multiply(target, pos_weight, out=share)
    HOST.subtract(e, top, out=e)
    HOST.add.reduce(e, axis=None, out=total)
    if total != total:  # an infinite logit, of which the kernel knows what it means
        loss = BinaryCrossEntropyWithLogits.kernel
        loss(HOST, x, target, None, pos_weight, reduction="sum", out=total)
    HOST.subtract(y, below, out=y)
    return HOST.multiply(g, y, out=y)
