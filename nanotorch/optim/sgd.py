"""Stochastic gradient descent, with momentum as Sutskever et al. (2013) describe it."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, penalized


class SGD(Optimizer):
    """w ← w - lr · d, with d = g + weight_decay · w.

    With `momentum`, d is replaced by its running sum v ← momentum · v + (1 - dampening) · d, whose
    first value is d itself, and with `nesterov` by d + momentum · v. `maximize` takes -g for g.
    State per parameter: "momentum_buffer" (v), where momentum is not 0.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html

    Raises ValueError for a negative lr, momentum or weight_decay, and for nesterov without momentum
    or with dampening. `foreach` and `fused` are accepted and change nothing.
    """

    class Numbers(NamedTuple):
        """`share`: 1 - dampening, None for 1; `ahead`: lr · momentum, for nesterov."""

        lr: float
        weight_decay: float | None
        momentum: float | None
        share: float | None
        ahead: float | None
        maximize: bool

    arrays = ("momentum_buffer",)
    counters = {}  # noqa: RUF012 - declared as a class variable by Rule
    elementwise, cuda_kernel = True, "sgd"

    def __init__(
        self, params: Parameters, lr: float = 1e-3, momentum: float = 0, dampening: float = 0,
        weight_decay: float = 0, nesterov: bool = False, *, maximize: bool = False,
        foreach: bool | None = None, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        options = options_of(locals(), "lr", "momentum", "weight_decay")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                "SGD: nesterov=True needs momentum > 0 and dampening = 0, "
                f"got momentum {momentum} and dampening {dampening}"
            )
        super().__init__(params, options)

    def arrays_in_use(self, group: Group) -> tuple[str, ...]:
        """The running sum, with momentum."""
        return self.arrays if group["momentum"] else ()

    def numbers(self, group: Group, step: float) -> Numbers:
        """`step`: 1 where the running sum has no value yet, else 2."""
        lr, momentum, dampening = float(group["lr"]), group["momentum"], group["dampening"]
        decay, maximize = group["weight_decay"] or None, bool(group["maximize"])
        if not momentum:
            return self.Numbers(lr, decay, None, None, None, maximize)
        share = None if not dampening else 1.0 if step == 1.0 else 1.0 - dampening
        ahead = lr * momentum if group["nesterov"] else None
        return self.Numbers(lr, decay, momentum, share, ahead, maximize)

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, momentum_buffer: Array | None, scratch: Array,
        lr: Any, weight_decay: Any, momentum: Any, share: Any, ahead: Any, maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        direction = gradient
        if maximize or weight_decay is not None:
            direction = penalized(xp, parameter, gradient, scratch, weight_decay, maximize)
        if momentum_buffer is not None:
            if share is not None:
                direction = xp.multiply(direction, share, scratch)
            xp.multiply(momentum_buffer, momentum, momentum_buffer)
            xp.add(momentum_buffer, direction, momentum_buffer)
            if ahead is not None:
                xp.multiply(direction, lr, scratch)
                xp.subtract(parameter, scratch, parameter)
                lr = ahead
            direction = momentum_buffer
        xp.multiply(direction, lr, scratch)
        xp.subtract(parameter, scratch, parameter)
