"""How a batch becomes a step of the optimizer: one object, chosen once for the whole run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.distributed.gradients import GradientSum
from nanotorch.training.config.sections import Training
from nanotorch.training.data.batches import Batches
from nanotorch.training.errors import InputError
from nanotorch.training.objective import ElasticNet, Objective
from nanotorch.training.ranks import Ranks
from nanotorch.training.signals import StopSignals

Tensor = nt.Tensor
Place = tuple[int, int, int, StopSignals]  # epoch, batch, the run's seed, its signals


def short_dtype(training: Training) -> nt.dtype | None:
    """The dtype that `training.precision` computes in; None for float32.

    InputError where it does not go with training.dtype, or bfloat16 is not installed.
    """
    if training.precision == "float32":
        return None
    if training.dtype != "float32":
        raise InputError(
            f"training.precision: {training.precision} needs training.dtype float32, "
            f"not {training.dtype}"
        )
    short: nt.dtype = getattr(nt, training.precision)
    try:
        nt.zeros(1, dtype=short)
    except RuntimeError as error:
        raise InputError(f"training.precision: {error}") from None
    return short


def weight_of(target: Tensor, weights: Tensor | None) -> float | Tensor:
    """What a batch weighs in the loss of an epoch: its rows, or the sum of their weights."""
    return len(target) if weights is None else weights.sum()


class ShardedGradients:
    """The gradients of a batch, sum w g / sum w over shards that several ranks may share.

    Stands in for `function(inputs, target[, weights])`, which adds the gradients of some rows and
    returns their loss, and calls it for each shard of this rank.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        model: nt.nn.Module,
        batches: Batches,
        ranks: Ranks,
        place: Callable[[], Place],
    ) -> None:
        self.function, self.batches, self.ranks, self.place = function, batches, ranks, place
        self.parameters = list(model.parameters())
        self.sum = GradientSum(self.parameters, ranks.world, ranks.shards)

    def __call__(self, *batch: Tensor, share: float = 1.0) -> Tensor:
        epoch, number, seed, signals = self.place()
        inputs, target, *weights = batch
        rows = self.batches.rows_of(number)
        earlier = [parameter.grad for parameter in self.parameters]
        absent = set(range(*self.ranks.own))
        whole = (inputs, target, weights[0] if weights else None)
        for shard, (*part, row_weights) in self.ranks.cut(whole, rows):
            absent.remove(shard)
            for parameter in self.parameters:
                parameter.grad = None
            self.ranks.seed_shard(seed, epoch, number, shard)
            loss = self.function(*part, *([] if row_weights is None else [row_weights]))
            weight = len(part[1]) if row_weights is None else row_weights.sum().item()
            self.sum.add(shard, loss.item(), weight)
        for shard in absent:
            self.sum.add_nothing(shard)
        self.ranks.seed_shard(seed, epoch, number, self.ranks.shards)
        notes = self.ranks.notes(epoch * self.batches.count + number)
        mean, notes = self.sum.finish(f"epoch {epoch + 1}, batch {number + 1}", notes)
        self.ranks.read(notes, signals)
        with nt.no_grad():
            for parameter, before in zip(self.parameters, earlier, strict=True):
                if parameter.grad is not None and share != 1.0:
                    parameter.grad.mul_(share)
                if before is not None:
                    parameter.grad = before if parameter.grad is None else before + parameter.grad
        return nt.from_numpy(np.asarray(mean))

    def weight_of(self, target: Tensor, weights: Tensor | None) -> float:
        """What the batch of the latest gradients weighs on all ranks together."""
        return self.sum.weight


class Step:
    """Adds each batch's gradients, and updates the parameters once a window of batches is whole.

    A window is `training.accumulate` batches, or fewer at the end of an epoch.
    """

    together = 1  # batches that one launch may take

    def __init__(
        self,
        training: Training,
        model: nt.nn.Module,
        objective: Objective,
        penalty: ElasticNet,
        optimizer: nt.optim.Optimizer,
        batches: Any,
        device: nt.device,
        ranks: Ranks,
        place: Callable[[], Place],
    ) -> None:
        self.training, self.model, self.objective = training, model, objective
        self.penalty, self.optimizer, self.batches = penalty, optimizer, batches
        self._casts: Callable[[], Any] = contextlib.nullcontext
        if (short := short_dtype(training)) is not None:
            self._casts = partial(nt.autocast, device.type, short)
        self.scaler = nt.amp.GradScaler(device.type) if short is nt.float16 else None
        # The batches of a window share one penalty, and so do the shards of a batch; a scaled loss
        # is unscaled before it comes.
        self._cuts = ranks.cuts
        several = training.accumulate > 1 or ranks.cuts
        self.adds_late = bool(penalty) and (several or self.scaler is not None)
        self.clips = training.clip_norm is not None or training.clip_value is not None
        self._function = self._compiled(self._whole())
        self.weight = weight_of
        if ranks.cuts:
            shards = ShardedGradients(self._function, model, batches, ranks, place)
            self._function, self.weight = shards, shards.weight_of

    def _compiled(self, function: Callable[..., Tensor]) -> Any:
        """What each batch calls, replayed from a recording where the configuration wants it."""
        mode = self.training.compile
        if mode == "off" or (mode == "auto" and self.training.accumulate > 1):
            return function
        return nt.compile(function, pure=True, warn=mode == "on")

    def _whole(self) -> Callable[..., Tensor]:
        """What one call, and so one recording, comprises."""
        return self._gradients_of()

    def _gradients_of(self) -> Callable[..., Tensor]:
        """The function that adds the gradients of a batch, which is `share` of its window's rows,
        and returns its loss."""
        model, objective, casts, scaler = self.model, self.objective, self._casts, self.scaler
        penalty = None if self.adds_late else self.penalty

        def gradients(
            inputs: Tensor, target: Tensor, weights: Tensor | None = None, share: float = 1.0
        ) -> Tensor:
            with casts():
                loss = objective(model(inputs), target, weights)
            part = loss if share == 1.0 else loss * share
            (part if scaler is None else scaler.scale(part)).backward()
            if penalty:
                penalty.add_gradients(share)
            return loss

        return gradients

    def start(self, number: int, *batch: Tensor) -> Tensor:
        """The loss of the epoch's batch `number`, whose gradients are added."""
        accumulate = self.training.accumulate
        if number % accumulate == 0:
            self.optimizer.zero_grad()
        if accumulate == 1:
            loss: Tensor = self._function(*batch)
            return loss
        first = number // accumulate * accumulate
        window = range(first, min(self.batches.count, first + accumulate))
        rows = sum(map(self.batches.rows_of, window))
        shared: Tensor = self._function(*batch, share=self.batches.rows_of(number) / rows)
        return shared

    def finish(self, number: int) -> int:
        """Update the parameters if batch `number` completes a window; how many updates."""
        accumulate = self.training.accumulate
        if (number + 1) % accumulate and number + 1 != self.batches.count:
            return 0
        self.update()
        return 1

    def update(self) -> None:
        """Add what is still missing to the gradients, clip them, and step; with a loss scale of
        unscaled gradients, and not at all if they are not finite."""
        if self.scaler is None:
            self._adjust()
            self.optimizer.step()
            return
        if self.adds_late or self.clips:
            self.scaler.unscale_(self.optimizer)
            self._adjust()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _adjust(self) -> None:
        if self.adds_late:
            self.penalty.add_gradients()
        if not self.clips:
            return
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.training.clip_value is not None:
            nt.nn.utils.clip_grad_value_(parameters, self.training.clip_value)
        if self.training.clip_norm is not None:
            nt.nn.utils.clip_grad_norm_(parameters, self.training.clip_norm)


class LaunchedStep(Step):
    """The whole step of one batch as one launch of a GPU; several batches may share a launch.

    Where all rows lie on the GPU it begins with gathering those of the batch: nothing is copied.
    """

    def _whole(self) -> Callable[..., Tensor]:
        gradients, optimizer, update = self._gradients_of(), self.optimizer, self.update
        self.together = self.training.steps_per_launch
        self._rows: list[Tensor] | None = None
        if isinstance(self.batches, Batches) and not self._cuts:
            self._rows = rows = self.batches.by_place()

        def step(inputs: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
            optimizer.zero_grad()
            loss = gradients(inputs, target, weights)
            update()
            return loss

        def step_at(places: Tensor) -> Tensor:
            return step(*(nt.index_select(part, 0, places) for part in rows or ()))

        return step if self._rows is None else step_at

    def _given(self, batches: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the step is called with."""
        return batches if self._rows is None else batches[:1]

    def start(self, number: int, *batch: Tensor) -> Tensor:
        loss: Tensor = self._function(*self._given(batch))
        return loss

    def finish(self, number: int) -> int:
        return 1

    def several(self, *batches: Tensor) -> Tensor:
        """The losses of batches of shape (count, rows, …), each of which has made its step."""
        losses: Tensor = self._function.steps(*self._given(batches))
        return losses


class SearchStep(Step):
    """One call of LBFGS, which asks for the loss of all rows as often as it needs it.

    It searches the sum over the rows: it takes no pair of steps into its history whose product is
    below 1e-10, as most are of a mean near its minimum. `tolerance_grad` stays that of the mean.
    """

    def _whole(self) -> Callable[..., Tensor]:
        gradients, self._rows = self._gradients_of(), float(self.batches.rows_of(0))
        if self._cuts:  # the shards are added first
            return gradients

        def of_sum(inputs: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
            return gradients(inputs, target, weights, share=self._rows)

        return of_sum

    def start(self, number: int, *batch: Tensor) -> Tensor:
        losses: list[Tensor] = []
        rows = self._rows
        options = {"share": rows} if self._cuts else {}
        (group,) = self.optimizer.param_groups
        tolerance = group["tolerance_grad"]

        def closure() -> float:
            self.optimizer.zero_grad()
            losses.append(self._function(*batch, **options).detach())
            if self.adds_late:
                self.penalty.add_gradients(rows)
            return rows * (losses[-1].item() + self.penalty.value())

        group["tolerance_grad"] = tolerance * rows
        try:
            self.optimizer.step(closure)
        finally:
            group["tolerance_grad"] = tolerance
        return losses[0]

    def finish(self, number: int) -> int:
        return 1


def choose_step(
    training: Training,
    model: nt.nn.Module,
    objective: Objective,
    penalty: ElasticNet,
    optimizer: nt.optim.Optimizer,
    batches: Any,
    device: nt.device,
    ranks: Ranks,
    place: Callable[[], Place],
) -> Step:
    """The step that the configuration, the optimizer and the device ask for."""
    kind: type[Step] = Step
    if isinstance(optimizer, nt.optim.LBFGS):
        if training.precision != "float32":
            raise InputError("training.precision: optimizer lbfgs searches in float32 alone")
        if batches.count > 1:
            raise InputError(
                "optimizer.name: lbfgs needs all rows at once: training.batch_size = 0"
            )
        kind = SearchStep
    elif device.type == "cuda" and training.compile != "off" and training.accumulate == 1:
        kind = LaunchedStep
    parts = (model, objective, penalty, optimizer, batches)
    return kind(training, *parts, device, ranks, place)
