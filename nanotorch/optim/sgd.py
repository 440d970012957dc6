"""Stochastic gradient descent, with momentum as Sutskever et al. (2013) describe it."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from nanotorch.backend import Array
from nanotorch.optim.numbers import Numbers
from nanotorch.optim.optimizer import Optimizer, Parameters, check_hyperparameters, penalized
from nanotorch.optim.state import state_array
from nanotorch.tensor import Tensor


class SGD(Optimizer):
    """w ← w - lr · d, with d = g + weight_decay · w.

    With `momentum`, d is replaced by its running sum v ← momentum · v + (1 - dampening) · d, whose
    first value is d itself, and with `nesterov` by d + momentum · v. `maximize` takes -g for g.
    State per parameter: "momentum_buffer" (v), where momentum is not 0.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html

    Raises ValueError for a negative lr, momentum or weight_decay, and for nesterov without momentum
    or with dampening. `foreach` and `fused` are accepted and change nothing.
    """

    elementwise, cuda_kernel = True, "sgd"
    counts_steps = False
    options = itemgetter("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_hyperparameters("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                "SGD: nesterov=True needs momentum > 0 and dampening = 0, "
                f"got momentum {momentum} and dampening {dampening}"
            )
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def _stateless(self, group: dict[str, Any]) -> bool:
        return not group["momentum"]

    def _coming_step(self, parameter: Tensor, group: dict[str, Any]) -> float:
        """1 before the momentum of the parameter has a first value, then 2: no more is needed."""
        if not group["momentum"]:
            return 2.0
        return 1.0 if self.state[parameter].get("momentum_buffer") is None else 2.0

    _next_step = _coming_step

    def _arrays(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Array | None, ...]:
        if not group["momentum"]:
            return (None,)
        return (state_array(self.state[parameter], "momentum_buffer", parameter),)

    def _numbers(self, group: dict[str, Any], step: float) -> Numbers:
        lr, momentum, dampening = float(group["lr"]), group["momentum"], group["dampening"]
        decay = group["weight_decay"] or None
        if not momentum:
            return (lr, decay, None, None, None, group["maximize"])
        return (
            lr,
            decay,
            momentum,
            None if not dampening else 1.0 if step == 1.0 else 1.0 - dampening,
            lr * momentum if group["nesterov"] else None,
            group["maximize"],
        )

    def _flags(self, state: tuple[Array | None, ...], numbers: Numbers) -> int:
        _, _, momentum, share, ahead, maximize = numbers
        return (
            bool(maximize)
            + 2 * (momentum is not None)
            + 4 * (share is not None)
            + 8 * (ahead is not None)
        )

    @staticmethod
    def kernel(
        xp: Any,
        parameter: Array,
        gradient: Array,
        buffer: Array | None,
        scratch: Array,
        lr: Any,
        weight_decay: Any,
        momentum: Any,
        share: Any,
        ahead: Any,
        maximize: bool,
    ) -> None:
        """One update. `share`: 1 - dampening, None for 1; `ahead`: lr · momentum, for nesterov."""
        direction = gradient
        if maximize or weight_decay is not None:
            direction = penalized(xp, parameter, gradient, scratch, weight_decay, maximize)
        if buffer is not None:
            if share is not None:
                direction = xp.multiply(direction, share, scratch)
            xp.multiply(buffer, momentum, buffer)
            xp.add(buffer, direction, buffer)
            if ahead is not None:
                xp.multiply(direction, lr, scratch)
                xp.subtract(parameter, scratch, parameter)
                lr = ahead
            direction = buffer
        xp.multiply(direction, lr, scratch)
        xp.subtract(parameter, scratch, parameter)
