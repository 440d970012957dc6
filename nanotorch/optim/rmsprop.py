"""RMSprop (Hinton, lecture 6e of "Neural Networks for Machine Learning", 2012)."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from nanotorch.backend import Array
from nanotorch.optim.numbers import Numbers
from nanotorch.optim.optimizer import Optimizer, Parameters, check_hyperparameters, penalized
from nanotorch.optim.state import state_array
from nanotorch.tensor import Tensor


class RMSprop(Optimizer):
    """w ← w - lr · g / (√s + eps), with the running mean s ← alpha · s + (1 - alpha) · g².

    `weight_decay` adds weight_decay · w to g. With `centered`, s is reduced by the square of the
    running mean of g. With `momentum`, w moves by the running sum b ← momentum · b + g / (√s +
    eps). State per parameter: "step", "square_avg" (s), "momentum_buffer" (b), "grad_avg".
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html

    Raises ValueError for a negative hyperparameter. `capturable` and `foreach` change nothing.
    """

    scratches = 2
    elementwise, cuda_kernel = True, "rmsprop"
    options = itemgetter("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize")

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_hyperparameters(
            "RMSprop", lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha
        )
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _arrays(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Array | None, ...]:
        state, momentum = self.state[parameter], group["momentum"] > 0
        return (
            state_array(state, "square_avg", parameter),
            state_array(state, "momentum_buffer", parameter) if momentum else None,
            state_array(state, "grad_avg", parameter) if group["centered"] else None,
        )

    def _numbers(self, group: dict[str, Any], step: float) -> Numbers:
        momentum, alpha = group["momentum"], group["alpha"]
        return (
            float(group["lr"]),
            group["eps"],
            alpha,
            1.0 - alpha,
            group["weight_decay"] or None,
            momentum if momentum > 0 else None,
            group["maximize"],
        )

    def _flags(self, state: tuple[Array | None, ...], numbers: Numbers) -> int:
        _, buffer, mean = state
        return bool(numbers[-1]) + 2 * (buffer is not None) + 4 * (mean is not None)

    @staticmethod
    def kernel(
        xp: Any,
        parameter: Array,
        gradient: Array,
        square: Array,
        buffer: Array | None,
        mean: Array | None,
        scratch: Array,
        direction: Array,
        lr: Any,
        eps: Any,
        alpha: Any,
        share: Any,
        weight_decay: Any,
        momentum: Any,
        maximize: bool,
    ) -> None:
        """One update. `share`: 1 - alpha."""
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        xp.multiply(square, alpha, square)
        xp.multiply(gradient, gradient, scratch)
        xp.multiply(scratch, share, scratch)
        xp.add(square, scratch, square)
        if mean is None:
            xp.sqrt(square, scratch)
        else:
            xp.multiply(mean, alpha, mean)
            xp.multiply(gradient, share, scratch)
            xp.add(mean, scratch, mean)
            xp.multiply(mean, mean, scratch)
            xp.subtract(square, scratch, scratch)
            xp.sqrt(scratch, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(gradient, scratch, scratch)
        if buffer is not None:
            xp.multiply(buffer, momentum, buffer)
            scratch = xp.multiply(xp.add(buffer, scratch, buffer), lr, scratch)
        else:
            xp.multiply(scratch, lr, scratch)
        xp.subtract(parameter, scratch, parameter)
