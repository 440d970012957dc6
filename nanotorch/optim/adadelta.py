"""Adadelta (Zeiler, 2012)."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.adam import mix
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, penalized


class Adadelta(Optimizer):
    """w ← w - lr · d, with d = √(u + eps) / √(s + eps) · g.

    s and u are the running means of g² and d²: s ← rho · s + (1 - rho) · g² before d is computed,
    and u ← rho · u + (1 - rho) · d² after. `weight_decay` adds weight_decay · w to g. State per
    parameter: "step" (0-dim, on the CPU), "square_avg" (s), "acc_delta" (u).
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html

    Raises ValueError for a negative lr, eps or weight_decay and for rho outside [0, 1].
    `foreach` and `capturable` are accepted and change nothing.
    """

    class Numbers(NamedTuple):
        """`share`: 1 - rho."""

        lr: float
        eps: float
        rho: float
        share: float
        weight_decay: float | None
        maximize: bool

    arrays = ("square_avg", "acc_delta")
    scratch = ("scratch", "direction", "delta")
    elementwise = True

    def __init__(
        self, params: Parameters, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
        weight_decay: float = 0, foreach: bool | None = None, *, capturable: bool = False,
        maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        options = options_of(locals(), "lr", "eps", "weight_decay")
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"{type(self).__name__}: expected 0 <= rho <= 1, got {rho}")
        super().__init__(params, options)

    def numbers(self, group: Group, step: float) -> Numbers:
        """The same in every step."""
        return self.Numbers(
            float(group["lr"]), group["eps"], group["rho"], 1.0 - group["rho"],
            group["weight_decay"] or None, bool(group["maximize"]),
        )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, square_avg: Array, acc_delta: Array,
        scratch: Array, direction: Array, delta: Array, lr: Any, eps: Any, rho: Any, share: Any,
        weight_decay: Any, maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        xp.multiply(gradient, gradient, scratch)
        mix(xp, square_avg, rho, scratch, share, scratch)
        xp.add(acc_delta, eps, delta)
        xp.sqrt(delta, delta)
        xp.add(square_avg, eps, scratch)
        xp.sqrt(scratch, scratch)
        xp.divide(delta, scratch, delta)
        xp.multiply(delta, gradient, delta)
        xp.multiply(delta, delta, scratch)
        mix(xp, acc_delta, rho, scratch, share, scratch)
        xp.multiply(delta, lr, delta)
        xp.subtract(parameter, delta, parameter)
