"""NAdam: Adam with Nesterov's momentum (Dozat, 2016)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nanotorch.backend import HOST, Array
from nanotorch.optim.adam import decays, mix
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, counter_kind, penalized


class NAdam(Optimizer):
    """w ← w - lr · (μₜ₊₁ · m / (1 - Πₜ₊₁) + (1 - μₜ) · g / (1 - Πₜ)) / (√v̂ + eps).

    m and v are the running means of g and g², v̂ is v / (1 - β₂ᵗ), μₜ = β₁ · (1 - 0.96^(t · ψ) / 2)
    with ψ = `momentum_decay`, and Πₜ is the product of μ₁ to μₜ. `weight_decay` adds weight_decay ·
    w to g, or with `decoupled_weight_decay` shrinks w by 1 - lr · weight_decay first. State per
    parameter: "step" (t) and "mu_product" (Πₜ), 0-dim on the CPU, "exp_avg" (m), "exp_avg_sq" (v).
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.NAdam.html

    Raises ValueError for a negative lr, eps, weight_decay or momentum_decay and for betas outside
    [0, 1). `foreach` and `capturable` are accepted and change nothing.
    """

    class Numbers(NamedTuple):
        """`ahead`, `now`: the rates of m and g; `share1`, `share2`: 1 - beta."""

        ahead: float
        now: float
        eps: float
        beta1: float
        share1: float
        beta2: float
        share2: float
        shrink: float | None
        weight_decay: float | None
        maximize: bool

    arrays = ("exp_avg", "exp_avg_sq")
    counters = {"step": 0.0, "mu_product": 1.0}  # noqa: RUF012
    scratch = ("scratch", "direction", "movement")
    elementwise = True

    def __init__(
        self, params: Parameters, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False, *, foreach: bool | None = None,
        maximize: bool = False, capturable: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        options = options_of(locals(), "lr", "eps", "weight_decay", "momentum_decay")
        super().__init__(params, options)

    def advance(self, group: Group, step: float, mu_product: float) -> tuple[float, float]:
        """t + 1 and Πₜ₊₁, whose factors are rounded as it is itself."""
        factor = HOST.asarray(momentum_of(group, step + 1.0), counter_kind()).item()
        return step + 1.0, mu_product * factor

    def numbers(self, group: Group, step: float, mu_product: float) -> Numbers:
        """All of it times √(1 - β₂ᵗ), so that no array is divided for v̂."""
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        correction = math.sqrt(1.0 - beta2**step)
        momentum, next_momentum = momentum_of(group, step), momentum_of(group, step + 1.0)
        return self.Numbers(
            lr * correction * next_momentum / (1.0 - mu_product * next_momentum),
            lr * correction * (1.0 - momentum) / (1.0 - mu_product), group["eps"] * correction,
            beta1, 1.0 - beta1, beta2, 1.0 - beta2, *decays(group, lr), bool(group["maximize"]),
        )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, exp_avg: Array, exp_avg_sq: Array,
        scratch: Array, direction: Array, movement: Array, ahead: Any, now: Any, eps: Any,
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
        xp.multiply(gradient, now, movement)
        xp.multiply(exp_avg, ahead, scratch)
        xp.add(movement, scratch, movement)
        xp.sqrt(exp_avg_sq, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(movement, scratch, scratch)
        xp.subtract(parameter, scratch, parameter)


def momentum_of(group: Group, step: float) -> float:
    """μ = β₁ · (1 - 0.96^(step · momentum_decay) / 2)."""
    momentum: float = group["betas"][0] * (1.0 - 0.5 * 0.96 ** (step * group["momentum_decay"]))
    return momentum
