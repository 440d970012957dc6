"""Schedules along a curve: cosine annealing, with and without restarts, and the one cycle."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.optim.lr_scheduler.scheduler import LRScheduler, live_step, per_group
from nanotorch.optim.optimizer import Optimizer


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (initial_lr - eta_min) · (1 + cos(π · epoch / T_max)) / 2.

    Source: Loshchilov and Hutter, 2017."""

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def _next(self) -> list[float]:
        epoch, period, least, lrs = self.last_epoch, self.T_max, self.eta_min, self._lrs()
        if self._is_initial:
            return lrs
        if self._step_count == 1 and epoch > 0:
            return self._at(epoch)
        if (epoch - 1 - period) % (2 * period) == 0:
            # Just past a minimum, where the ratio below is 0 / 0.
            rise = (1 - math.cos(math.pi / period)) / 2
            return [lr + (base - least) * rise for lr, base in zip(lrs, self.base_lrs)]
        ratio = 1 + math.cos(math.pi * epoch / period)
        ratio /= 1 + math.cos(math.pi * (epoch - 1) / period)
        return [ratio * (lr - least) + least for lr in lrs]

    def _at(self, epoch: int) -> list[float]:
        height = (1 + math.cos(math.pi * epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Cosine annealing that starts anew after T_0 epochs, then after T_0 · T_mult, and so on."""

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(
                f"CosineAnnealingWarmRestarts: expected T_0 a positive integer, got {T_0}"
            )
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(
                "CosineAnnealingWarmRestarts: expected T_mult an integer of at least 1, "
                f"got {T_mult}"
            )
        self.T_0 = self.T_i = T_0
        self.T_mult, self.eta_min, self.T_cur = T_mult, eta_min, float(last_epoch)
        super().__init__(optimizer, last_epoch)

    def _next(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    @live_step
    def step(self, epoch: float | None = None) -> None:
        """Sets the next rates; `epoch` may be fractional: epoch + batch / batches."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        elif epoch < 0:
            raise ValueError(f"expected a non-negative epoch, got {epoch}")
        else:
            cycle, before = 0, 0
            if epoch >= self.T_0:
                if self.T_mult == 1:
                    before = int(epoch // self.T_0) * self.T_0
                else:
                    ratio = epoch / self.T_0 * (self.T_mult - 1) + 1
                    cycle = int(math.log(ratio, self.T_mult))
                    before = self.T_0 * (self.T_mult**cycle - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**cycle
            self.T_cur = epoch - before
        self._update_lr(math.floor(epoch))


def set_momentum(group: dict[str, Any], value: float) -> None:
    """Sets a group's momentum, or its first beta where it has betas."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def cycles_momentum(
    schedule: Any, optimizer: Optimizer, base: float | list[float], most: float | list[float],
    last_epoch: int,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """The least and the largest momentum of each group, which starts with the largest."""
    if not {"betas", "momentum"} & optimizer.defaults.keys():
        raise ValueError(
            f"{type(schedule).__name__}: {type(optimizer).__name__} has neither momentum nor "
            "betas; use cycle_momentum=False"
        )
    schedule.use_beta1 = "betas" in optimizer.defaults
    lows = per_group("base_momentum", base, optimizer)
    highs = per_group("max_momentum", most, optimizer)
    if last_epoch == -1:
        for group, low, high in zip(optimizer.param_groups, lows, highs):
            set_momentum(group, high)
            group["max_momentum"], group["base_momentum"] = high, low
    return lows, highs


class OneCycleLR(LRScheduler):
    """lr rises from max_lr / div_factor to max_lr, then falls to that start / final_div_factor.

    The rise takes `pct_start` of `total_steps` (or epochs · steps_per_epoch); momentum (or beta1)
    goes the other way between `max_momentum` and `base_momentum` where `cycle_momentum`. With
    `three_phase`, the fall mirrors the rise before the last descent. Steps are batches. Source:
    Smith and Topin, 2018.

    Raises ValueError for missing or non-positive totals, pct_start outside [0, 1], an unknown
    strategy, an optimizer without momentum, and for a step past the last.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | list[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85, max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "OneCycleLR: give either total_steps, or both epochs and steps_per_epoch"
                )
            total_steps = epochs * steps_per_epoch
        if not isinstance(total_steps, int) or total_steps <= 0:
            raise ValueError(
                f"OneCycleLR: expected a positive integer number of steps, got {total_steps}"
            )
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: expected pct_start a float from 0 to 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"OneCycleLR: expected anneal_strategy 'cos' or 'linear', got {anneal_strategy!r}"
            )
        self.total_steps = total_steps
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        # Each phase: its last step, the rates it goes between, and the momenta.
        rise = float(pct_start * total_steps) - 1
        phases = [(rise, "initial_lr", "max_lr", "max_momentum", "base_momentum")]
        if three_phase:
            fall = float(2 * pct_start * total_steps) - 2
            phases.append((fall, "max_lr", "initial_lr", "base_momentum", "max_momentum"))
            tail = (total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")
        else:
            tail = (total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")
        # By the names under which PyTorch saves them.
        names = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")
        self._schedule_phases = [dict(zip(names, phase)) for phase in (*phases, tail)]
        if last_epoch == -1:
            highest = per_group("max_lr", max_lr, optimizer)
            for group, high in zip(optimizer.param_groups, highest):
                group["initial_lr"] = high / div_factor
                group["max_lr"] = high
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if cycle_momentum:
            cycles_momentum(self, optimizer, base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def _next(self) -> list[float]:
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(
                f"OneCycleLR: tried to take step {step} of {self.total_steps}; the cycle is over"
            )
        begin: Any = 0.0
        phases: Any = iter(self._schedule_phases)
        phase = next(phases)
        for later in phases:
            if step <= phase["end_step"]:
                break
            begin, phase = phase["end_step"], later
        share = (step - begin) / (phase["end_step"] - begin)
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(self._between(group[phase["start_lr"]], group[phase["end_lr"]], share))
            if self.cycle_momentum:
                start, end = group[phase["start_momentum"]], group[phase["end_momentum"]]
                set_momentum(group, self._between(start, end, share))
        return lrs
