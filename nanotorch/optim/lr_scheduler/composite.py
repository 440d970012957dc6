"""Schedules made of other schedules: one after another, or all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from nanotorch.optim.lr_scheduler.plateau import ReduceLROnPlateau
from nanotorch.optim.lr_scheduler.scheduler import LRScheduler, live_step, set_lr
from nanotorch.optim.optimizer import Optimizer


class Composite(LRScheduler):
    """A schedule that holds others; their states are saved with its own."""

    _schedulers: list[LRScheduler]

    def _check(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer) -> None:
        name = type(self).__name__
        for index, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(
                    f"{name}: expected schedulers, got {type(scheduler).__name__} at {index}"
                )
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(
                    f"{name}: ReduceLROnPlateau (at {index}) cannot be combined with others, "
                    "since its step needs a metric"
                )
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"{name}: scheduler {index} belongs to another optimizer")

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["_schedulers"] = [scheduler.state_dict() for scheduler in self._schedulers]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"]):
            scheduler.load_state_dict(state)


class SequentialLR(Composite):
    """Schedules one after another: number i + 1 starts, at its epoch 0, at epoch `milestones[i]`.

    Raises ValueError for no schedulers, a number of milestones that is not one less than theirs,
    ReduceLROnPlateau, or schedulers of another optimizer.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int],
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if not schedulers:
            raise ValueError("SequentialLR expects at least one scheduler, got none")
        self._check(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "SequentialLR: expected one milestone less than schedulers, "
                f"got {len(milestones)} for {len(schedulers)}"
            )
        self.optimizer = optimizer
        self._schedulers, self._milestones = schedulers, milestones
        # Each scheduler took its first step when it was made: undo all, then take the first's.
        for group in optimizer.param_groups:
            set_lr(group, group["initial_lr"])
        self._undo_first_step()
        self._initial_step()
        self.last_epoch = last_epoch + 1

    def _first(self) -> LRScheduler:
        return self._schedulers[bisect_right(self._milestones, 0)]

    def _initial_step(self) -> None:
        self.last_epoch = 0
        self._first()._initial_step()
        self._last_lr = self._first().get_last_lr()

    def _undo_first_step(self) -> None:
        pending: list[LRScheduler] = list(self._schedulers)
        while pending:
            scheduler = pending.pop()
            if isinstance(scheduler, Composite):
                pending += scheduler._schedulers
            else:
                scheduler.last_epoch -= 1

    @live_step
    def step(self) -> None:
        """Steps the scheduler whose turn it is."""
        self.last_epoch += 1
        index = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Starts over, as the part of another sequence whose turn begins."""
        self.last_epoch = 0
        self._first()._update_lr(0)
        self._last_lr = self._first().get_last_lr()


class ChainedScheduler(Composite):
    """Several schedules at once: each step takes one of each, in order.

    Raises ValueError for no schedulers, ReduceLROnPlateau, or schedulers of different optimizers.
    """

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        if not schedulers:
            raise ValueError("ChainedScheduler expects at least one scheduler, got none")
        self.optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        self._check(schedulers, self.optimizer)
        self._schedulers = list(schedulers)
        self._last_lr = self._lrs()

    @live_step
    def step(self) -> None:
        """Steps every scheduler."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._lrs()

    def _initial_step(self) -> None:
        for scheduler in self._schedulers:
            scheduler._initial_step()
        self._last_lr = self._lrs()

    def _update_lr(self, epoch: int | None = None) -> None:
        for scheduler in self._schedulers:
            scheduler._update_lr(epoch)
        self._last_lr = self._lrs()
