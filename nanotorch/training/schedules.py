"""Learning rates over a run: each schedule is a factor, a pure function of time."""

from __future__ import annotations

import bisect
import math
from typing import Any

from nanotorch.training.config import choices


def factor(schedule: Any, time: int, total: int) -> float:
    """What the learning rate is multiplied by at unit `time` of `total` (both without warm-up)."""
    share = min(1.0, time / total) if total > 0 else 1.0
    match schedule:
        case choices.Step():
            return float(schedule.factor ** (time // schedule.every))
        case choices.MultiStep():
            return float(schedule.factor ** bisect.bisect_right(sorted(schedule.at), time))
        case choices.Exponential():
            return float(schedule.factor**time)
        case choices.Cosine():
            return _cosine(1.0, schedule.lowest, share)
        case choices.CosineRestarts():
            done, period = _within_period(time, schedule.period, schedule.growth)
            return _cosine(1.0, schedule.lowest, done / period)
        case choices.Linear():
            return 1.0 + (schedule.end - 1.0) * share
        case choices.OneCycle():
            if share < schedule.rise:
                return _cosine(schedule.first, 1.0, share / schedule.rise)
            return _cosine(1.0, schedule.last, (share - schedule.rise) / (1 - schedule.rise))
    return 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _within_period(time: int, period: int, growth: int) -> tuple[int, int]:
    while time >= period:
        time -= period
        period *= growth
    return time, period


class LearningRates:
    """Sets the learning rate of every group as time goes on.

    `state` is what a plateau remembers; all else follows from the time.
    """

    def __init__(self, schedule: Any, optimizer: Any, epochs: int, steps: int) -> None:
        self.schedule = schedule
        self.optimizer = optimizer
        self.by_step = schedule.unit == "step"
        units = epochs * steps if self.by_step else epochs
        self.total = units - schedule.warmup
        self.changes = bool(schedule.warmup) or not isinstance(schedule, choices.Constant)
        self.state: dict[str, Any] = {"factor": 1.0, "best": None, "waited": 0}
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def set(self, epoch: int, step: int) -> None:
        """Set the rates for the unit that begins."""
        if not self.changes:
            return
        time = step if self.by_step else epoch
        warmup = self.schedule.warmup
        if time < warmup:
            start = self.schedule.warmup_start
            now = start + (1 - start) * time / warmup
        elif isinstance(self.schedule, choices.Plateau):
            now = self.state["factor"]
        else:
            now = factor(self.schedule, time - warmup, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * now

    def watch(self, value: float, more_is_better: bool) -> None:
        """Tell a plateau the watched value of an epoch."""
        if not isinstance(self.schedule, choices.Plateau):
            return
        state, signed = self.state, -value if more_is_better else value
        margin = self.schedule.min_change * abs(state["best"] or 0.0)
        if state["best"] is None or signed < state["best"] - margin:
            state["best"], state["waited"] = signed, 0
            return
        state["waited"] += 1
        if state["waited"] > self.schedule.patience:
            state["factor"] = max(self.schedule.lowest, state["factor"] * self.schedule.factor)
            state["waited"] = 0
