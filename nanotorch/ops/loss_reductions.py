"""What losses have in common: from elementwise values to "none", their "mean" or their "sum"."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import Array, constant
from nanotorch.ops.reductions import mean, sum

REDUCTIONS = ("none", "mean", "sum")


def reduced(xp: Any, loss: Array, reduction: str, out: Array | None) -> Array:
    """The elementwise losses, or their mean or sum."""
    if reduction == "none":
        if out is None:
            return loss
        xp.copyto(out, loss)
        return out
    total = xp.add.reduce(loss, axis=None, out=out)
    if reduction == "mean":
        total = xp.true_divide(total, constant(loss, loss.size or math.nan), out=out)
    return total


def divisor(shape: Any, reduction: str) -> float | None:
    """What the mean of losses of that shape divides by; None where nothing is divided."""
    return (math.prod(shape) or math.nan) if reduction == "mean" else None


def divided(g: Any, divisor: float | None) -> Any:
    """g / divisor, where there is one."""
    return g if divisor is None else g / divisor


def scaled(g: Any, x: Any, reduction: str) -> Any:
    """The cotangent of each elementwise loss."""
    return divided(g, divisor(x.shape, reduction))


def total(x: Any, reduction: str) -> Any:
    """The reduction of elementwise values, in the language of the ops."""
    if reduction == "none":
        return x
    return mean(x) if reduction == "mean" else sum(x)
