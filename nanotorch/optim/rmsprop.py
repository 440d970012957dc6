"""RMSprop (Hinton, lecture 6e of "Neural Networks for Machine Learning", 2012)."""

from __future__ import annotations

from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.adam import mix
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, penalized


class RMSprop(Optimizer):
    """w ← w - lr · g / (√s + eps), with the running mean s ← alpha · s + (1 - alpha) · g².

    `weight_decay` adds weight_decay · w to g. With `centered`, s is reduced by the square of the
    running mean of g. With `momentum`, w moves by the running sum b ← momentum · b + g / (√s +
    eps). State per parameter: "step", "square_avg" (s), "momentum_buffer" (b), "grad_avg".
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html

    Raises ValueError for a negative hyperparameter. `capturable` and `foreach` change nothing.
    """

    class Numbers(NamedTuple):
        """`share`: 1 - alpha."""

        lr: float
        eps: float
        alpha: float
        share: float
        weight_decay: float | None
        momentum: float | None
        maximize: bool

    arrays = ("square_avg", "momentum_buffer", "grad_avg")
    scratch = ("scratch", "direction")
    elementwise, cuda_kernel = True, "rmsprop"

    def __init__(
        self, params: Parameters, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0, momentum: float = 0, centered: bool = False,
        capturable: bool = False, foreach: bool | None = None, maximize: bool = False,
        differentiable: bool = False,
    ) -> None:  # fmt: skip
        options = options_of(locals(), "lr", "eps", "momentum", "weight_decay", "alpha")
        super().__init__(params, options)

    def arrays_in_use(self, group: Group) -> tuple[str, ...]:
        """The running sum only with momentum, the mean of g only where centered."""
        unused = {"momentum_buffer": group["momentum"] <= 0, "grad_avg": not group["centered"]}
        return tuple(name for name in self.arrays if not unused.get(name))

    def numbers(self, group: Group, step: float) -> Numbers:
        """The same in every step."""
        momentum, alpha = group["momentum"], group["alpha"]
        return self.Numbers(
            float(group["lr"]), group["eps"], alpha, 1.0 - alpha, group["weight_decay"] or None,
            momentum if momentum > 0 else None, bool(group["maximize"]),
        )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, square_avg: Array,
        momentum_buffer: Array | None, grad_avg: Array | None, scratch: Array, direction: Array,
        lr: Any, eps: Any, alpha: Any, share: Any, weight_decay: Any, momentum: Any, maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        xp.multiply(gradient, gradient, scratch)
        mix(xp, square_avg, alpha, scratch, share, scratch)
        if grad_avg is None:
            xp.sqrt(square_avg, scratch)
        else:
            mix(xp, grad_avg, alpha, gradient, share, scratch)
            xp.multiply(grad_avg, grad_avg, scratch)
            xp.subtract(square_avg, scratch, scratch)
            xp.sqrt(scratch, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(gradient, scratch, scratch)
        if momentum_buffer is not None:
            xp.multiply(momentum_buffer, momentum, momentum_buffer)
            xp.add(momentum_buffer, scratch, momentum_buffer)
            xp.multiply(momentum_buffer, lr, scratch)
        else:
            xp.multiply(scratch, lr, scratch)
        xp.subtract(parameter, scratch, parameter)
