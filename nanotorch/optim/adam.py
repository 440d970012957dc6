"""Adam and AdamW.

Sources: Kingma and Ba, 2015; AMSGrad: Reddi et al., 2018; AdamW: Loshchilov and Hutter, 2019.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

from nanotorch.backend import Array
from nanotorch.optim.numbers import Numbers
from nanotorch.optim.optimizer import Optimizer, Parameters, check_hyperparameters, penalized
from nanotorch.optim.state import state_array
from nanotorch.tensor import Tensor


class Adam(Optimizer):
    """w ← w - lr · m̂ / (√v̂ + eps), with m̂ and v̂ the running means of g and g², over 1 - βᵗ.

    `weight_decay` adds weight_decay · w to g, or with `decoupled_weight_decay` shrinks w by 1 - lr
    · weight_decay first. With `amsgrad`, v̂ is the largest v so far. State per parameter: "step"
    (0-dim, on the CPU), "exp_avg" (m), "exp_avg_sq" (v), and "max_exp_avg_sq" with amsgrad.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html

    Raises ValueError for a negative lr, eps or weight_decay and for betas outside [0, 1).
    `foreach`, `capturable` and `fused` are accepted and change nothing.
    """

    scratches = 2
    elementwise, cuda_kernel = True, "adam"
    options = itemgetter(
        "lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"
    )

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        name = type(self).__name__
        check_hyperparameters(name, lr=lr, eps=eps, weight_decay=weight_decay)
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(
                    f"{name}: expected 0 <= beta < 1 at index {index} of betas, got {beta}"
                )
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _arrays(self, parameter: Tensor, group: dict[str, Any]) -> tuple[Array | None, ...]:
        state = self.state[parameter]
        return (
            state_array(state, "exp_avg", parameter),
            state_array(state, "exp_avg_sq", parameter),
            state_array(state, "max_exp_avg_sq", parameter) if group["amsgrad"] else None,
        )

    def _numbers(self, group: dict[str, Any], step: float) -> Numbers:
        lr, (beta1, beta2), decay = float(group["lr"]), group["betas"], group["weight_decay"]
        decoupled = decay and group["decoupled_weight_decay"]
        # Both corrections are folded into the step size and eps: no array is divided for them.
        correction = math.sqrt(1.0 - beta2**step)
        return (
            lr * correction / (1.0 - beta1**step),
            group["eps"] * correction,
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            1.0 - lr * decay if decoupled else None,
            decay if decay and not decoupled else None,
            group["maximize"],
        )

    def _numbers_of_steps(self, group: dict[str, Any], step: float) -> Numbers:
        return (float(group["lr"]), group["eps"], step)

    def _flags(self, state: tuple[Array | None, ...], numbers: Numbers) -> int:
        return bool(numbers[-1]) + 2 * (state[2] is not None)

    @staticmethod
    def kernel(
        xp: Any,
        parameter: Array,
        gradient: Array,
        mean: Array,
        square: Array,
        largest: Array | None,
        scratch: Array,
        direction: Array,
        step_size: Any,
        eps: Any,
        beta1: Any,
        share1: Any,
        beta2: Any,
        share2: Any,
        shrink: Any,
        weight_decay: Any,
        maximize: bool,
    ) -> None:
        """One update. `share1`, `share2`: 1 - beta; `shrink`: 1 - lr · decay, if decoupled."""
        if shrink is not None:
            xp.multiply(parameter, shrink, parameter)
        if maximize or weight_decay is not None:
            gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        xp.multiply(mean, beta1, mean)
        xp.multiply(gradient, share1, scratch)
        xp.add(mean, scratch, mean)
        xp.multiply(square, beta2, square)
        xp.multiply(gradient, gradient, scratch)
        xp.multiply(scratch, share2, scratch)
        xp.add(square, scratch, square)
        if largest is not None:
            square = xp.maximum(largest, square, out=largest)
        xp.sqrt(square, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(mean, scratch, scratch)
        xp.multiply(scratch, step_size, scratch)
        xp.subtract(parameter, scratch, parameter)


class AdamW(Adam):
    """Shrinks w to (1 - lr · weight_decay) · w, then takes Adam's step.

    Options, state and errors as `Adam`, with weight_decay 1e-2.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
