"""What losses have in common: from elementwise values to "none", their "mean" or their "sum"."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array, constant
from nanotorch.ops.broadcasting import summed
from nanotorch.ops.sums import mean, sum

REDUCTIONS = ("none", "mean", "sum")


def reduced(xp: Any, loss: Array, reduction: str, out: Array | None) -> Array:
    """The elementwise losses, or their mean or sum."""
    if reduction == "none":
        if out is None:
            return loss
        xp.copyto(out, loss)
        return out
    if reduction == "sum":
        return summed(xp, loss, out=out)
    if out is None and type(loss) is HOST.ndarray:
        return summed(xp, loss) / (loss.size or math.nan)
    # Not in place: that takes NumPy twice as long on a single number.
    return xp.true_divide(summed(xp, loss), constant(loss, loss.size or math.nan), out=out)


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


def check_reduction(reduction: str) -> None:
    """ValueError for what is no reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction; use one of {REDUCTIONS}")


def same_size(x: Any, target: Any, op: str) -> None:
    """ValueError where the target's shape is not the input's."""
    x, target = getattr(x, "_array", x), getattr(target, "_array", target)
    if x.shape != target.shape:
        raise ValueError(
            f"{op}: target size ({tuple(target.shape)}) must be the same as input size "
            f"({tuple(x.shape)})"
        )
