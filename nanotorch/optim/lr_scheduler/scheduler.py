"""What every schedule shares: the step, the counted epoch, saving.

Most schedules multiply the present rate by a factor at each step, so that several of them may act
on one optimizer. `last_epoch` counts the steps of the schedule, whatever a step is to the caller.
Source: https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from nanotorch.autograd.grad_mode import live
from nanotorch.optim.optimizer import Optimizer
from nanotorch.tensor import Tensor


def set_lr(group: dict[str, Any], value: float) -> None:
    """Sets a group's rate; a rate that is a tensor is written in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value


def per_group(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """The option for each parameter group: a list as it is, a single value repeated."""
    count = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name}: expected one value per parameter group ({count}), got {len(value)}"
        )
    return list(value)


class HostParts:
    """The step of a schedule for a captured graph: the host makes it before each launch."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def launch(self, slot: int) -> None:
        """Nothing is launched."""

    def holds(self) -> bool:
        """The graph knows nothing of it."""
        return True

    def advance(self, slot: int) -> None:
        """Takes the step."""
        self.call()

    def send(self) -> None:
        """Nothing is sent: an optimizer sends its rates itself."""


def live_step(method: Callable[..., None]) -> Callable[..., None]:
    """Has compiled steps call a schedule's method at each replay, as they do an optimizer's."""

    def on_host(optimizer: Optimizer, schedule: Any, *args: Any, **kwargs: Any) -> None:
        method(schedule, *args, **kwargs)

    def parts(
        optimizer: Optimizer, schedule: Any, *args: Any, slots: int = 1, **kwargs: Any
    ) -> HostParts:
        return HostParts(functools.partial(method, schedule, *args, **kwargs))

    vars(on_host)["parts"] = parts
    on_host.__name__ = method.__name__
    call = live(on_host)

    @functools.wraps(method)
    def step(self: Any, *args: Any, **kwargs: Any) -> None:
        call(self.optimizer, self, *args, **kwargs)

    return step


class LRScheduler:
    """Sets the learning rate of each parameter group at each `step()`.

    A subclass defines `get_lr()`, which returns the new rate of each group. Making a schedule takes
    its first step. Call `optimizer.step()` before `scheduler.step()`.

    Raises TypeError for anything but an Optimizer, KeyError where `last_epoch` says that training
    resumes but the groups hold no "initial_lr".
    """

    _is_initial = False  # taking the first step, in which many schedules leave the rate alone
    _get_lr_called_within_step = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for index, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{index}], but resuming "
                    f"with last_epoch={last_epoch} needs it; load the optimizer's state first"
                )
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self._steps_before = optimizer._step_count
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def _lrs(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        """The rates set by the last step, one per group."""
        return self._last_lr

    def get_lr(self) -> list[float]:
        """The rates for `last_epoch`, from the present ones; users call `get_last_lr()` instead."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "get_lr computes the next rate; to read the present one use `get_last_lr()`",
                stacklevel=2,
            )
        return self._next()

    def _next(self) -> list[float]:
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr")

    def _at(self, epoch: int) -> list[float] | None:
        """The rates at `epoch` in closed form, or None where there is none."""
        return None

    @live_step
    def step(self, epoch: int | None = None) -> None:
        """Sets the next rates, or (deprecated in PyTorch) those of an epoch."""
        optimizer = self.optimizer
        if (
            self._step_count == 1
            and optimizer._step_count == self._steps_before
            and type(optimizer).step.__module__.startswith("nanotorch.")  # these count steps
        ):
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first value "
                "of the schedule is skipped; call them in the opposite order",
                stacklevel=5,
            )
        self._step_count += 1
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self._get_lr_called_within_step = True
        try:
            self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
            values = None if epoch is None else self._at(epoch)
            if values is None:
                values = self.get_lr()
        finally:
            self._get_lr_called_within_step = False
        for group, value in zip(self.optimizer.param_groups, values):
            set_lr(group, value)
        self._last_lr = self._lrs()

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer, as far as a checkpoint can hold them."""
        left_out = ("optimizer", "_steps_before", "_is_initial", "_get_lr_called_within_step")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned. The rate itself is in the optimizer's state."""
        self.__dict__.update(state_dict)
