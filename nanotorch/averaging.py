"""Averages of a model's weights over training: `torch.optim.swa_utils`.

Source: Izmailov et al. (2018), https://arxiv.org/abs/1803.05407
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.creation import tensor
from nanotorch.nn.module import Module
from nanotorch.nn.normalization import BatchNorm1d, InstanceNorm1d
from nanotorch.optim.lr_scheduler.scheduler import LRScheduler, per_group
from nanotorch.optim.optimizer import Optimizer
from nanotorch.tensor import Tensor

Average = Callable[[Tensor, Tensor, Any], Tensor]
Averages = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def get_swa_avg_fn() -> Average:
    """The mean of all weights so far, as an `avg_fn`."""

    def average(averaged: Tensor, present: Tensor, count: Any) -> Tensor:
        mean: Tensor = averaged + (present - averaged) / (count + 1)
        return mean

    return no_grad()(average)


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """decay · average + (1 - decay) · weights, as an `avg_fn`."""
    _check(decay)

    def average(averaged: Tensor, present: Tensor, count: Any) -> Tensor:
        return decay * averaged + (1 - decay) * present

    return no_grad()(average)


def get_swa_multi_avg_fn() -> Averages:
    """The mean of all weights so far, as a `multi_avg_fn`."""

    def average(averaged: Sequence[Tensor], present: Sequence[Tensor], count: Any) -> None:
        for a, p in zip(averaged, present, strict=True):
            _move(a, p, 1 / (float(count) + 1))

    return no_grad()(average)


def get_ema_multi_avg_fn(decay: float = 0.999) -> Averages:
    """decay · average + (1 - decay) · weights, as a `multi_avg_fn`."""
    _check(decay)

    def average(averaged: Sequence[Tensor], present: Sequence[Tensor], count: Any) -> None:
        for a, p in zip(averaged, present, strict=True):
            _move(a, p, 1 - decay)

    return no_grad()(average)


def _move(averaged: Tensor, present: Tensor, share: float) -> None:
    """Moves an average by a share of the way to the present value, in place."""
    if averaged.is_floating_point():
        averaged.lerp_(present, share)
    else:
        averaged.copy_(averaged * (1 - share) + present * share)


def _check(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of those at each `update_parameters`.

    `avg_fn(average, parameter, count)` gives the next average of one parameter,
    `multi_avg_fn(averages, parameters, count)` writes those of all; without either it is the mean.
    Buffers are copied from the model, or averaged too with `use_buffers`. Calling it calls the
    copy; `n_averaged` counts the updates.
    """

    n_averaged: Tensor

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Average | None = None,
        multi_avg_fn: Averages | None = None, use_buffers: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module: Module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        self.register_buffer("n_averaged", tensor(0, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model computes."""
        return self.module(*args, **kwargs)

    @no_grad()
    def update_parameters(self, model: Module) -> None:
        """Takes the present parameters of the model into the averages."""
        count = int(self.n_averaged)
        averaged = [x.detach() for x in self._averaged(self.module)]
        present = [
            x.detach().to(a.device) for a, x in zip(averaged, self._averaged(model), strict=True)
        ]
        if count == 0:
            for a, x in zip(averaged, present, strict=True):
                a.copy_(x)
        elif self.multi_avg_fn is not None:
            groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
            for a, x in zip(averaged, present, strict=True):
                ours, theirs = groups.setdefault((a.device, a.dtype), ([], []))
                ours.append(a)
                theirs.append(x)
            for ours, theirs in groups.values():
                self.multi_avg_fn(ours, theirs, self.n_averaged.to(ours[0].device))
        else:
            average = self.avg_fn or get_swa_avg_fn()
            for a, x in zip(averaged, present, strict=True):
                a.copy_(average(a, x, self.n_averaged.to(a.device)))
        if not self.use_buffers:
            for a, x in zip(self.module.buffers(), model.buffers(), strict=True):
                a.detach().copy_(x.detach().to(a.device))
        self.n_averaged.add_(1)

    def _averaged(self, model: Module) -> Iterator[Tensor]:
        """What is averaged: parameters, and buffers where these are too."""
        return itertools.chain(model.parameters(), model.buffers() if self.use_buffers else ())


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Computes the running statistics of all BatchNorm layers anew, by one pass over a loader.

    Of a batch that is a list or a tuple the model is given the first element.
    """
    layers = [
        x for x in model.modules()
        if isinstance(x, BatchNorm1d) and not isinstance(x, InstanceNorm1d)
    ]  # fmt: skip
    if not layers:
        return
    momenta, training = [layer.momentum for layer in layers], model.training
    model.train()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the average of all batches
    for batch in loader:
        x = batch[0] if isinstance(batch, list | tuple) else batch
        model(x if device is None else x.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)


class SWALR(LRScheduler):
    """lr moves to `swa_lr` in `anneal_epochs` steps, along a cosine or a line, and stays there."""

    def __init__(
        self, optimizer: Optimizer, swa_lr: Any, anneal_epochs: int = 10,
        anneal_strategy: str = "cos", last_epoch: int = -1,
    ) -> None:  # fmt: skip
        for group, rate in zip(
            optimizer.param_groups, per_group("swa_lr", swa_lr, optimizer), strict=True
        ):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs, self._anneal_strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How much of swa_lr is in the rate after a step."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def _next(self) -> list[float]:
        step = self._step_count - 1
        step = max(1, step) if self.anneal_epochs == 0 else step
        before, after = self._share(step - 1), self._share(step)
        rates = []
        for lr, group in zip(self._lrs(), self.optimizer.param_groups, strict=True):
            last = group["swa_lr"]
            first = last if before == 1 else (lr - before * last) / (1 - before)
            rates.append(last * after + first * (1 - after))
        return rates
