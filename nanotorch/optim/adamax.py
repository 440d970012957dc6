"""Adamax: Adam with the largest gradient in place of the mean square (Kingma and Ba, 2015)."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.adam import mix
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, penalized


class Adamax(Optimizer):
    """w ← w - lr / (1 - β₁ᵗ) · m / u, with the running mean m of g and u ← max(β₂ · u, |g| + eps).

    `weight_decay` adds weight_decay · w to g. State per parameter: "step" (t, 0-dim, on the CPU),
    "exp_avg" (m), "exp_inf" (u).
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adamax.html

    Raises ValueError for a negative lr, eps or weight_decay and for betas outside [0, 1).
    `foreach` and `capturable` are accepted and change nothing.
    """

    class Numbers(NamedTuple):
        """`share1`: 1 - beta1."""

        step_size: float
        eps: float
        beta1: float
        share1: float
        beta2: float
        weight_decay: float | None
        maximize: bool

    arrays = ("exp_avg", "exp_inf")
    scratch = ("scratch", "direction")
    elementwise = True

    def __init__(
        self, params: Parameters, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, capturable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, options_of(locals(), "lr", "eps", "weight_decay"))

    def numbers(self, group: Group, step: float) -> Numbers:
        """The step size with the correction of m."""
        beta1, beta2 = group["betas"]
        return self.Numbers(
            float(group["lr"]) / (1.0 - beta1**step), group["eps"], beta1, 1.0 - beta1, beta2,
            group["weight_decay"] or None, bool(group["maximize"]),
        )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, exp_avg: Array, exp_inf: Array, scratch: Array,
        direction: Array, step_size: Any, eps: Any, beta1: Any, share1: Any, beta2: Any,
        weight_decay: Any, maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        mix(xp, exp_avg, beta1, gradient, share1, scratch)
        xp.absolute(gradient, scratch)
        xp.add(scratch, eps, scratch)
        xp.multiply(exp_inf, beta2, exp_inf)
        xp.maximum(exp_inf, scratch, out=exp_inf)
        xp.divide(exp_avg, exp_inf, scratch)
        xp.multiply(scratch, step_size, scratch)
        xp.subtract(parameter, scratch, parameter)
