"""The triangular schedule, which goes up and down between two rates again and again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nanotorch.optim.lr_scheduler.annealing import cycles_momentum, set_momentum
from nanotorch.optim.lr_scheduler.scheduler import LRScheduler, per_group, set_lr
from nanotorch.optim.optimizer import Optimizer


class CyclicLR(LRScheduler):
    """lr = base_lr + height · (max_lr - base_lr) · scale, height a triangle from 0 to 1 and back.

    Up in `step_size_up` steps, down in `step_size_down` (as many by default); steps are batches.
    scale: "triangular" 1, "triangular2" halved in each cycle, "exp_range" gamma ** step; or
    `scale_fn` of the cycle's number, or of the step where `scale_mode` is "iterations". Momentum
    (or beta1) goes the other way from `max_momentum` to `base_momentum` where `cycle_momentum`.
    Source: Smith, 2017, arXiv 1506.01186.

    Raises ValueError for an unknown mode, and for an optimizer without momentum.
    """

    def __init__(
        self, optimizer: Optimizer, base_lr: float | list[float], max_lr: float | list[float],
        step_size_up: float = 2000, step_size_down: float | None = None, mode: str = "triangular",
        gamma: float = 1.0, scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle", cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8, max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(
                "CyclicLR: expected mode 'triangular', 'triangular2' or 'exp_range', or a "
                f"scale_fn, got mode {mode!r}"
            )
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up + down)
        self.step_ratio = float(step_size_up) / self.total_size
        self.mode, self.gamma, self.cycle_momentum = mode, gamma, cycle_momentum
        self._scale_fn = scale_fn
        self.scale_mode = scale_mode
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        lows = per_group("base_lr", base_lr, optimizer)
        self.max_lrs = per_group("max_lr", max_lr, optimizer)
        if last_epoch == -1:
            for group, low in zip(optimizer.param_groups, lows):
                set_lr(group, low)
        if cycle_momentum:
            momenta = cycles_momentum(self, optimizer, base_momentum, max_momentum, last_epoch)
            self.base_momentums, self.max_momentums = momenta
        super().__init__(optimizer, last_epoch)
        self.base_lrs = lows

    def scale_fn(self, x: float) -> float:
        """The factor of a cycle's number, or of a step."""
        if self._scale_fn is not None:
            return float(self._scale_fn(x))
        if self.mode == "triangular2":
            return float(0.5 ** (x - 1))
        return float(self.gamma**x) if self.mode == "exp_range" else 1.0

    def _next(self) -> list[float]:
        turns = self.last_epoch / self.total_size
        cycle = math.floor(1 + turns)
        place = 1.0 + turns - cycle
        ratio = self.step_ratio
        height = place / ratio if place <= ratio else (place - 1) / (ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            momenta = zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums)
            for group, low, high in momenta:
                set_momentum(group, high - (high - low) * height * scale)
        bounds = zip(self.base_lrs, self.max_lrs)
        return [low + (high - low) * height * scale for low, high in bounds]

    def state_dict(self) -> dict[str, Any]:
        """All but the optimizer and a `scale_fn`, which a new schedule is given again."""
        state = super().state_dict()
        state.pop("_scale_fn", None)
        return {**state, "_scale_fn_custom": None}  # which PyTorch asks for
