"""Adam and AdamW.

Sources: Kingma and Ba, 2015; AMSGrad: Reddi et al., 2018; AdamW: Loshchilov and Hutter, 2019.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer, penalized


class Adam(Optimizer):
    """w ← w - lr · m̂ / (√v̂ + eps), with m̂ and v̂ the running means of g and g², over 1 - βᵗ.

    `weight_decay` adds weight_decay · w to g, or with `decoupled_weight_decay` shrinks w by 1 - lr
    · weight_decay first. With `amsgrad`, v̂ is the largest v so far. State per parameter: "step"
    (0-dim, on the CPU), "exp_avg" (m), "exp_avg_sq" (v), and "max_exp_avg_sq" with amsgrad.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html

    Raises ValueError for a negative lr, eps or weight_decay and for betas outside [0, 1).
    `foreach`, `capturable` and `fused` are accepted and change nothing.
    """

    class Numbers(NamedTuple):
        """`share1`, `share2`: 1 - beta; `shrink`: 1 - lr · decay, if decoupled."""

        step_size: float
        eps: float
        beta1: float
        share1: float
        beta2: float
        share2: float
        shrink: float | None
        weight_decay: float | None
        maximize: bool

    arrays = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    scratch = ("scratch", "direction")
    elementwise, cuda_kernel = True, "adam"

    def __init__(
        self, params: Parameters, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, *,
        foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, options_of(locals(), "lr", "eps", "weight_decay"))

    def arrays_in_use(self, group: Group) -> tuple[str, ...]:
        """The largest square only with amsgrad."""
        return self.arrays if group["amsgrad"] else self.arrays[:2]

    def numbers(self, group: Group, step: float) -> Numbers:
        """Both corrections are folded into the step size and eps: no array is divided for them."""
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        correction = math.sqrt(1.0 - beta2**step)
        shrink, decay = decays(group, lr)
        return self.Numbers(
            lr * correction / (1.0 - beta1**step), group["eps"] * correction, beta1, 1.0 - beta1,
            beta2, 1.0 - beta2, shrink, decay, bool(group["maximize"]),
        )  # fmt: skip

    def numbers_after_skips(self, group: Group, step: float) -> tuple[float, ...]:
        """The rate and eps without corrections, and the number of the step."""
        return (float(group["lr"]), group["eps"], step)

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, exp_avg: Array, exp_avg_sq: Array,
        max_exp_avg_sq: Array | None, scratch: Array, direction: Array, step_size: Any, eps: Any,
        beta1: Any, share1: Any, beta2: Any, share2: Any, shrink: Any, weight_decay: Any,
        maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        if shrink is not None:
            xp.multiply(parameter, shrink, parameter)
        if maximize or weight_decay is not None:
            gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        mix(xp, exp_avg, beta1, gradient, share1, scratch)
        xp.multiply(gradient, gradient, scratch)
        mix(xp, exp_avg_sq, beta2, scratch, share2, scratch)
        if max_exp_avg_sq is not None:
            exp_avg_sq = xp.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
        xp.sqrt(exp_avg_sq, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(exp_avg, scratch, scratch)
        xp.multiply(scratch, step_size, scratch)
        xp.subtract(parameter, scratch, parameter)


class AdamW(Adam):
    """Shrinks w to (1 - lr · weight_decay) · w, then takes Adam's step.

    Options, state and errors as `Adam`, with weight_decay 1e-2.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html
    """

    def __init__(
        self, params: Parameters, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        options = options_of(locals(), "lr", "eps", "weight_decay")
        Optimizer.__init__(self, params, {**options, "decoupled_weight_decay": True})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


def decays(group: Group, lr: float) -> tuple[float | None, float | None]:
    """1 - lr · weight_decay, if decoupled, and the weight decay for the gradient, if not."""
    decay = group["weight_decay"]
    if decay and group["decoupled_weight_decay"]:
        return 1.0 - lr * decay, None
    return None, decay or None


def mix(xp: Any, mean: Array, keep: Any, value: Array, share: Any, scratch: Array) -> None:
    """mean ← keep · mean + share · value, a running mean."""
    xp.multiply(mean, keep, mean)
    xp.multiply(value, share, scratch)
    xp.add(mean, scratch, mean)
