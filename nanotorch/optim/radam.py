"""RAdam: Adam whose rate is rectified while v has seen few gradients (Liu et al., 2020)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.adam import decays, mix
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, penalized


class RAdam(Optimizer):
    """w ← w - lr · m̂ · r · √(1 - β₂ᵗ) / (√v + eps), or w - lr · m̂ where ρ ≤ 5.

    m and v are the running means of g and g², m̂ = m / (1 - β₁ᵗ), ρ∞ = 2 / (1 - β₂) - 1,
    ρ = ρ∞ - 2 · t · β₂ᵗ / (1 - β₂ᵗ), r² = (ρ - 4) (ρ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρ).
    `weight_decay` adds weight_decay · w to g, or with `decoupled_weight_decay` shrinks w by 1 - lr
    · weight_decay first. State per parameter: "step" (0-dim, on the CPU), "exp_avg", "exp_avg_sq".
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.RAdam.html

    Raises ValueError for a negative lr, eps or weight_decay and for betas outside [0, 1).
    `foreach` and `capturable` are accepted and change nothing.
    """

    class Numbers(NamedTuple):
        """`least`, `most`: bounds of √v + eps, 0 and infinity, or both 1 where ρ ≤ 5."""

        step_size: float
        eps: float
        least: float
        most: float
        beta1: float
        share1: float
        beta2: float
        share2: float
        shrink: float | None
        weight_decay: float | None
        maximize: bool

    arrays = ("exp_avg", "exp_avg_sq")
    scratch = ("scratch", "direction")
    elementwise = True

    def __init__(
        self, params: Parameters, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False, *,
        foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, options_of(locals(), "lr", "eps", "weight_decay"))

    def numbers(self, group: Group, step: float) -> Numbers:
        """The step size with both corrections and r."""
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        step_size, correction = lr / (1.0 - beta1**step), 1.0 - beta2**step
        limit = 2.0 / (1.0 - beta2) - 1.0
        length = limit - 2.0 * step * beta2**step / correction
        rectified = length > 5.0
        if rectified:
            square = (length - 4.0) * (length - 2.0) * limit
            square /= (limit - 4.0) * (limit - 2.0) * length
            step_size *= math.sqrt(square * correction)
        return self.Numbers(
            step_size, group["eps"], 0.0 if rectified else 1.0, math.inf if rectified else 1.0,
            beta1, 1.0 - beta1, beta2, 1.0 - beta2, *decays(group, lr), bool(group["maximize"]),
        )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, exp_avg: Array, exp_avg_sq: Array,
        scratch: Array, direction: Array, step_size: Any, eps: Any, least: Any, most: Any,
        beta1: Any, share1: Any, beta2: Any, share2: Any, shrink: Any, weight_decay: Any,
        maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        if shrink is not None:
            xp.multiply(parameter, shrink, parameter)
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        mix(xp, exp_avg, beta1, gradient, share1, scratch)
        xp.multiply(gradient, gradient, scratch)
        mix(xp, exp_avg_sq, beta2, scratch, share2, scratch)
        xp.sqrt(exp_avg_sq, scratch)
        xp.add(scratch, eps, scratch)
        xp.minimum(scratch, most, out=scratch)
        xp.maximum(scratch, least, out=scratch)
        xp.divide(exp_avg, scratch, scratch)
        xp.multiply(scratch, step_size, scratch)
        xp.subtract(parameter, scratch, parameter)
