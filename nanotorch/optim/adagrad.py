"""Adagrad (Duchi, Hazan and Singer, 2011)."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, penalized, write_counter


class Adagrad(Optimizer):
    """w ← w - lr / (1 + (t - 1) · lr_decay) · g / (√s + eps), with the sum s ← s + g².

    `weight_decay` adds weight_decay · w to g. State per parameter: "step" (t) and "sum" (s), which
    starts at `initial_accumulator_value`; parameters that require no gradient get none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html

    Raises ValueError for a negative hyperparameter. `foreach` and `fused` change nothing.
    """

    class Numbers(NamedTuple):
        """`lr` as decayed so far."""

        lr: float
        eps: float
        weight_decay: float | None
        maximize: bool

    arrays = ("sum",)
    scratch = ("scratch", "direction")
    elementwise, cuda_kernel = True, "adagrad"

    def __init__(
        self, params: Parameters, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        options = options_of(
            locals(), "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"
        )
        super().__init__(params, options)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    write_counter(self.state[parameter], "step", 0.0)
                    self._state_arrays(parameter, group)

    def initial(self, group: Group, name: str) -> float:
        """What the sum of squares starts from."""
        return float(group["initial_accumulator_value"])

    def numbers(self, group: Group, step: float) -> Numbers:
        """The rate falls with the number of the step."""
        lr = float(group["lr"]) / (1.0 + (step - 1.0) * group["lr_decay"])
        decay, maximize = group["weight_decay"] or None, bool(group["maximize"])
        return self.Numbers(lr, group["eps"], decay, maximize)

    def numbers_after_skips(self, group: Group, step: float) -> tuple[float, ...]:
        """The rate before it decayed, its decay, and the number of the step."""
        return (float(group["lr"]), group["lr_decay"], step)

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, sum: Array, scratch: Array, direction: Array,
        lr: Any, eps: Any, weight_decay: Any, maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        xp.multiply(gradient, gradient, scratch)
        xp.add(sum, scratch, sum)
        xp.sqrt(sum, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(gradient, scratch, scratch)
        xp.multiply(scratch, lr, scratch)
        xp.subtract(parameter, scratch, parameter)
