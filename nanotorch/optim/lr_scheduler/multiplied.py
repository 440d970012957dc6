"""Schedules that multiply the learning rate by a factor at each step."""

from __future__ import annotations

import types
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from nanotorch.optim.lr_scheduler.scheduler import LRScheduler, per_group
from nanotorch.optim.optimizer import Optimizer

Lambda = Callable[[int], float]


class Lambdas(LRScheduler):
    """Schedules by functions of the epoch; of callable objects the attributes are saved."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Lambda | list[Lambda], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas: list[Lambda] = per_group("lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["lr_lambdas"] = [
            None if isinstance(function, types.FunctionType) else function.__dict__.copy()
            for function in self.lr_lambdas
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for function, attributes in zip(self.lr_lambdas, state_dict["lr_lambdas"]):
            if attributes is not None:
                function.__dict__.update(attributes)


class LambdaLR(Lambdas):
    """lr = initial_lr · lr_lambda(epoch), with one function for all groups or one for each."""

    def _next(self) -> list[float]:
        factors = [function(self.last_epoch) for function in self.lr_lambdas]
        return [base * factor for base, factor in zip(self.base_lrs, factors)]


class MultiplicativeLR(Lambdas):
    """lr ← lr · lr_lambda(epoch) from the second step on."""

    def _next(self) -> list[float]:
        if self._is_initial:
            return self._lrs()
        factors = [function(self.last_epoch) for function in self.lr_lambdas]
        return [lr * factor for lr, factor in zip(self._lrs(), factors)]


class Multiplied(LRScheduler):
    """lr ← lr · factor at each step, whose product up to an epoch is known."""

    def _factor(self) -> float:
        raise NotImplementedError

    def _product(self, epoch: int) -> float:
        raise NotImplementedError

    def _next(self) -> list[float]:
        factor = self._factor()
        return [lr * factor for lr in self._lrs()]

    def _at(self, epoch: int) -> list[float]:
        product = self._product(epoch)
        return [base * product for base in self.base_lrs]


class StepLR(Multiplied):
    """lr ← lr · gamma every `step_size` epochs."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        epoch = self.last_epoch
        return 1.0 if epoch == 0 or epoch % self.step_size else self.gamma

    def _product(self, epoch: int) -> float:
        return float(self.gamma ** (epoch // self.step_size))


class MultiStepLR(Multiplied):
    """lr ← lr · gamma at each epoch of `milestones` (twice at one that is listed twice)."""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        return float(self.gamma ** self.milestones[self.last_epoch])

    def _product(self, epoch: int) -> float:
        return float(self.gamma ** bisect_right(sorted(self.milestones.elements()), epoch))


class ConstantLR(Multiplied):
    """lr = initial_lr · factor for the first `total_iters` epochs, then initial_lr."""

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if not 0 <= factor <= 1:
            raise ValueError(f"ConstantLR: expected factor between 0 and 1, got {factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        if self.last_epoch == 0:
            return self.factor
        return 1.0 / self.factor if self.last_epoch == self.total_iters else 1.0

    def _product(self, epoch: int) -> float:
        return 1.0 if epoch >= self.total_iters else self.factor


class LinearLR(Multiplied):
    """lr goes from initial_lr · start_factor to initial_lr · end_factor in `total_iters` steps."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0,
        total_iters: int = 5, last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if not 0 < start_factor <= 1:
            raise ValueError(
                f"LinearLR: expected start_factor above 0 and at most 1, got {start_factor}"
            )
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: expected end_factor between 0 and 1, got {end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        if self.last_epoch == 0:
            return self.start_factor
        if self._is_initial or self.last_epoch > self.total_iters:
            return 1.0
        rise = self.end_factor - self.start_factor
        return 1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise)

    def _product(self, epoch: int) -> float:
        share = min(self.total_iters, epoch) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * share


class ExponentialLR(Multiplied):
    """lr ← lr · gamma at each step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        return 1.0 if self._is_initial else self.gamma

    def _product(self, epoch: int) -> float:
        return float(self.gamma**epoch)


class PolynomialLR(Multiplied):
    """lr = initial_lr · (1 - epoch / total_iters)^power, and 0 from `total_iters` on."""

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        epoch, total = self.last_epoch, self.total_iters
        if self._is_initial or epoch > total:
            return 1.0
        return float(((1.0 - epoch / total) / (1.0 - (epoch - 1) / total)) ** self.power)

    def _product(self, epoch: int) -> float:
        return float((1.0 - min(self.total_iters, epoch) / self.total_iters) ** self.power)
