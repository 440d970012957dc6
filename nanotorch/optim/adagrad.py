"""Adagrad (Duchi, Hazan and Singer, 2011)."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from nanotorch.backend import Array
from nanotorch.optim.numbers import Numbers
from nanotorch.optim.optimizer import Optimizer, Parameters, check_hyperparameters, penalized
from nanotorch.optim.state import state_array, zero_step
from nanotorch.tensor import Tensor


class Adagrad(Optimizer):
    """w ← w - lr / (1 + (t - 1) · lr_decay) · g / (√s + eps), with the sum s ← s + g².

    `weight_decay` adds weight_decay · w to g. State per parameter: "step" (t) and "sum" (s), which
    starts at `initial_accumulator_value`; parameters that require no gradient get none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html

    Raises ValueError for a negative hyperparameter. `foreach` and `fused` change nothing.
    """

    scratches = 2
    elementwise, cuda_kernel = True, "adagrad"
    options = itemgetter(
        "lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value", "maximize"
    )

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_hyperparameters(
            "Adagrad",
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
        )
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
        )
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    state = self.state[parameter]
                    state["step"] = zero_step()
                    state_array(state, "sum", parameter, group["initial_accumulator_value"])

    def _arrays(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Array | None, ...]:
        initial = group["initial_accumulator_value"]
        return (state_array(self.state[parameter], "sum", parameter, initial),)

    def _numbers(self, group: dict[str, Any], step: float) -> Numbers:
        return (
            float(group["lr"]) / (1.0 + (step - 1.0) * group["lr_decay"]),
            group["eps"],
            group["weight_decay"] or None,
            group["maximize"],
        )

    def _numbers_of_steps(self, group: dict[str, Any], step: float) -> Numbers:
        return (float(group["lr"]), group["lr_decay"], step)

    @staticmethod
    def kernel(
        xp: Any,
        parameter: Array,
        gradient: Array,
        total: Array,
        scratch: Array,
        direction: Array,
        lr: Any,
        eps: Any,
        weight_decay: Any,
        maximize: bool,
    ) -> None:
        """One update, with `lr` as decayed so far."""
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        xp.multiply(gradient, gradient, scratch)
        xp.add(total, scratch, total)
        xp.sqrt(total, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(gradient, scratch, scratch)
        xp.multiply(scratch, lr, scratch)
        xp.subtract(parameter, scratch, parameter)
