"""A run: the model, the data and the optimizer, stepped through batches and epochs."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.training.config.sections import Config
from nanotorch.training.data.batches import Batches
from nanotorch.training.data.parts import AnyPart
from nanotorch.training.data.prepare import Prepared
from nanotorch.training.data.streamed_batches import StreamedBatches
from nanotorch.training.data.streamed_part import StreamedPart
from nanotorch.training.devices import choose_place
from nanotorch.training.errors import InputError, RunFailure
from nanotorch.training.lookups import refuse_with_tables
from nanotorch.training.metrics import METRICS, Outcome, chosen_names, measure, names_for
from nanotorch.training.models import build_model, freeze, matching, start_from
from nanotorch.training.objective import ElasticNet, Objective, weighing
from nanotorch.training.optimizers import add_parameters, build_optimizer
from nanotorch.training.ranks import Ranks
from nanotorch.training.run_folder import EVENTS, METRICS as METRICS_FILE, Events, Log, NoLog
from nanotorch.training.schedules import LearningRates
from nanotorch.training.signals import StopSignals
from nanotorch.training.step import choose_step
from nanotorch.training.tally import Tally

POOLED = 2**16  # rows whose outputs are pooled and measured at once
LOSSES_AT_ONCE = 64  # on a GPU, losses that are read together, so that steps do not wait for them


@dataclass
class Position:
    """Where a run stands: everything the loop itself remembers."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # updates of the parameters in the whole run
    loss_sum: float = 0.0  # over the rows of this epoch so far
    loss_rows: float = 0.0
    ended: str | None = None  # why training is over, once it is


class Run:
    """Everything a callback may look at or change."""

    log: Log
    events: Events

    def __init__(
        self,
        config: Config,
        data: Prepared,
        device: nt.device,
        signals: StopSignals,
        ranks: Ranks | None = None,
    ) -> None:
        self.config, self.data, self.signals = config, data, signals
        self.ranks = ranks or Ranks()
        self.device = device
        self.dtype = getattr(nt, config.training.dtype)
        self.at = Position()
        target = data.target
        nt.manual_seed(config.seed)
        self.model = build_model(config.model, data.inputs, target.outputs, data.encoding.tables)
        refuse_with_tables(config, self.model, data.encoding.tables, device, self.ranks.cuts)
        if config.model.start_skip and config.model.start is None:
            raise InputError("model.start_skip: is for model.start, which is not set")
        if config.model.start is not None:
            start_from(self.model, config.model.start, config.model.start_skip)
        self.model.to(device=device, dtype=self.dtype)
        freeze(self.model, config.model.freeze, config.model.unfreeze_at, 0)
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.objective = Objective(config.loss, target, device, self.dtype)
        self.penalty = ElasticNet(config.penalty, matching(self.model, config.penalty.parameters))
        self.metric_names = chosen_names(config.metrics.each_epoch, target.task)
        for quantity in config.output.curves_of:
            _check_quantity("output.curves_of", quantity, self.metric_names, target.task)
        self.monitor, self.more_is_better = _monitor(config, data, self.metric_names)
        training = config.training
        needed = _bytes_of(data, self.dtype.itemsize)
        self._on_device, self.place_words = choose_place(config.data.on_device, needed, device)
        if isinstance(data.train, StreamedPart):
            self.place_words = data.train.words()
        self.batches = self._batches(data.train, training.batch_size, training=True)
        self.updates = math.ceil(self.batches.count / training.accumulate)  # per epoch
        self.rates = LearningRates(config.schedule, self.optimizer, training.epochs, self.updates)
        self.parts = {"train": self.batches.in_order(training.evaluation_batch)}
        for name in ("validation", "test"):
            if (part := getattr(data, name)) is not None:
                self.parts[name] = self._batches(part, training.evaluation_batch)
        chosen = config.metrics.threshold
        self.threshold = 0.5 if isinstance(chosen, str) else chosen
        if isinstance(chosen, str) and (target.task != "binary" or data.validation is None):
            raise InputError("metrics.threshold: f1 needs two classes and validation rows")
        self.callbacks: list[Any] = []
        self.best: dict[str, np.ndarray[Any, Any]] | None = None
        self._unread = 0
        self._reads_at_once = device.type == "cpu"
        if not self._reads_at_once:
            self._unread_losses = nt.empty(2, LOSSES_AT_ONCE, dtype=nt.float64, device=device)
        self.ranks.refuse_batch_statistics(self.model)
        parts = (self.model, self.objective, self.penalty, self.optimizer, self.batches)
        self.step = choose_step(training, *parts, device, self.ranks, self._place)
        if not self.rates.by_step:
            self.batches.together = min(self.step.together, LOSSES_AT_ONCE)

    def _batches(
        self, part: AnyPart, batch_size: int, training: bool = False
    ) -> Batches | StreamedBatches:
        config = self.config
        weigh = weighing(config.loss, self.data.target, self.data.train)
        options: dict[str, Any] = {
            "seed": config.seed,
            "shuffle": training and config.training.shuffle,
            "drop_last": training and config.training.drop_last,
            "device": self.device,
            "dtype": self.dtype,
            "ranks": self.ranks,
        }
        if isinstance(part, StreamedPart):
            if not training:
                batch_size = min(batch_size, part.rows_at_once)
            return StreamedBatches(part, weigh, batch_size, **options)
        weights = weigh(part.target, part.weights)
        return Batches(part, weights, batch_size, on_device=self._on_device, **options)

    def _place(self) -> tuple[int, int, int, StopSignals]:
        return self.at.epoch, self.at.batch, self.config.seed, self.signals

    def follow(self, folder: Path) -> None:
        """Leave it to another rank to write into this run folder."""
        self.folder = folder
        self.log, self.events = NoLog(), NoLog()

    def open(self, folder: Path, log: Log | None = None) -> None:
        """Write into this run folder from now on; `log` is its log, where it is locked already."""
        self.folder = folder
        self.log = log or Log(folder / METRICS_FILE)
        self.log.lock()
        self.events = Events(folder / EVENTS)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "events"):
            self.events.close()
            self.log.close()

    def tell(self, event: str, *facts: Any) -> None:
        """Call `event` of every callback that has it."""
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(self, *facts)

    # --- training ------------------------------------------------------------------------------

    def train(self) -> None:
        """Epochs until the last one, or until a callback sets `at.ended`."""
        while self.at.ended is None:
            if self.at.epoch >= self.config.training.epochs:
                self.at.ended = "all epochs are done"
                break
            self.train_epoch()
            self.finish_epoch()

    def train_epoch(self) -> None:
        """The batches of this epoch that are not done yet."""
        at, signals = self.at, self.signals
        self.release_frozen(at.epoch)
        self._set_mode(training=True)
        by_step = self.rates.by_step
        if not by_step:
            self.rates.set(at.epoch, at.step)
        on_step = [c.on_step for c in self.callbacks if hasattr(c, "on_step")]
        for count, (inputs, target, weights) in self.batches.launches(at.epoch, at.batch):
            if by_step:
                self.rates.set(at.epoch, at.step)
            if count > 1:
                self._several_updates(count, inputs, target, weights)
            else:
                self._update(inputs, target, weights)
            at.batch += count
            for call in on_step * count:
                call(self)
            if signals.caught is not None:
                signals.check()
        self.read_losses()

    def _update(self, inputs: nt.Tensor, target: nt.Tensor, weights: nt.Tensor | None) -> None:
        """One batch: its gradients, its loss, and the step it may complete."""
        batch = (inputs, target) if weights is None else (inputs, target, weights)
        loss = self.step.start(self.at.batch, *batch)
        self._note_loss(loss, self.step.weight(target, weights))
        self.at.step += self.step.finish(self.at.batch)

    def _several_updates(
        self, count: int, inputs: nt.Tensor, target: nt.Tensor, weights: nt.Tensor | None
    ) -> None:
        """So many batches, (count, rows, …), each with a step, on a GPU as one launch."""
        batches = (inputs, target) if weights is None else (inputs, target, weights)
        losses = self.step.several(*batches)  # type: ignore[attr-defined]
        if self._unread + count > LOSSES_AT_ONCE:
            self.read_losses()
        places = self._unread_losses[:, self._unread : self._unread + count]
        with nt.no_grad():
            places[0].copy_(losses)
            if weights is None:
                places[1].fill_(target.shape[1])
            else:  # batch by batch, in whose order single steps take the sums
                for k in range(count):
                    places[1, k].copy_(weights[k].sum())
        self._unread += count
        self.at.step += count

    def _note_loss(self, loss: nt.Tensor, rows: float | nt.Tensor) -> None:
        """Add a batch to the epoch's mean; on a GPU only when many are there to be read at once."""
        if self._reads_at_once:
            self._add_loss(loss.item(), float(rows))
            return
        with nt.no_grad():
            self._unread_losses[0, self._unread].copy_(loss)
            unread_rows = self._unread_losses[1, self._unread]
            if isinstance(rows, nt.Tensor):
                unread_rows.copy_(rows)
            else:
                unread_rows.fill_(rows)
        self._unread += 1
        if self._unread == LOSSES_AT_ONCE:
            self.read_losses()

    def read_losses(self) -> None:
        """Add the losses that are still on the GPU, in one copy."""
        unread, self._unread = self._unread, 0
        if unread:
            for loss, rows in self._unread_losses[:, :unread].cpu().numpy().T.tolist():
                self._add_loss(loss, rows)

    def _add_loss(self, value: float, rows: float) -> None:
        if not math.isfinite(value):
            raise RunFailure(self.not_finite(value))
        self.at.loss_sum += value * rows
        self.at.loss_rows += rows

    def not_finite(self, value: float) -> str:
        """Names the place and the parameter, and says what to try."""
        bad = [
            name
            for name, p in self.model.named_parameters()
            if not bool(nt.isfinite(p.detach()).all())
        ]
        which = f"parameter {bad[0]} is not finite" if bad else "every parameter is still finite"
        lr = self.optimizer.param_groups[0]["lr"]
        return (
            f"the loss became {value} in epoch {self.at.epoch + 1}, step {self.at.step + 1}: "
            f"{which}. Try a smaller optimizer.lr (now {lr:g}) or training.clip_norm = 1.0"
        )

    def release_frozen(self, epoch: int) -> None:
        """Start to train parameters whose epoch has come."""
        model = self.config.model
        if model.unfreeze_at:
            freeze(self.model, model.freeze, model.unfreeze_at, epoch)
            add_parameters(self.optimizer, self.config.optimizer, self.model)

    def _set_mode(self, training: bool) -> None:
        """Training or evaluation mode, where the model can tell them apart."""
        if type(self.model) is not nt.nn.Linear:  # a class of one's own may tell them apart
            self.model.train(training)

    # --- evaluation ----------------------------------------------------------------------------

    def evaluate(self, part: str, names: list[str]) -> tuple[dict[str, float], Outcome | None]:
        """Loss and metrics over all rows of a part, whatever the size of the last batch; on ranks
        after the first without the outcome."""
        batches, ranks = self.parts[part], self.ranks
        target, where = self.data.target, f"the evaluation of the {part} rows"
        rows = [batches.rows_of(number) for number in range(batches.count)]
        sums = np.zeros((batches.count, ranks.own[1] - ranks.own[0], 2))  # loss, weight
        tally = Tally(target.task, self.threshold, self.config.metrics.calibration_bins)
        truth = getattr(self.data, part).target
        streamed = isinstance(batches, StreamedBatches)
        nothing = (np.empty((0, target.outputs), self.dtype.numpy), truth[:0])
        outputs, truths, first, done = [nothing[0]], [nothing[1]], 0, 0
        self._set_mode(training=False)
        with nt.no_grad():
            for number, batch in enumerate(batches.epoch(0)):
                for shard, (inputs, answers, weights) in ranks.cut(batch, rows[number]):
                    predictions = self.model(inputs)
                    weight = len(inputs) if weights is None else float(weights.sum())
                    loss = self.objective(predictions, answers, weights).item() * weight
                    sums[number, shard - ranks.own[0]] = loss, weight
                    outputs.append(predictions.cpu().numpy())
                    if streamed:
                        truths.append(np.array(answers.cpu().numpy()))
                self.signals.check()
                if (last := number + 1) == batches.count or sum(rows[first:last]) >= POOLED:
                    said = ranks.pool(np.concatenate(outputs), rows[first:last], where)
                    end = done + sum(rows[first:last])
                    known = truth[done:end]
                    if streamed:
                        known = ranks.pool(np.concatenate(truths), rows[first:last], where)
                    if said is not None:
                        tally.add(said, known)
                    outputs, truths, first, done = [nothing[0]], [nothing[1]], last, end
        all_sums = ranks.pool_shards(sums, where)
        outcome = tally.outcome() if ranks.leads else None

        def measured() -> dict[str, float]:
            assert all_sums is not None and outcome is not None  # on rank 0
            total, weight = 0.0, 0.0
            for loss, share in all_sums.reshape(-1, 2).tolist():
                total, weight = total + loss, weight + share
            return {"loss": total / weight if weight else math.nan, **measure(outcome, names)}

        return ranks.decided(measured, where), outcome

    def finish_epoch(self) -> None:
        """Measure the epoch, record it, and tell the callbacks; then the next epoch begins."""
        at = self.at
        record: dict[str, Any] = {
            "epoch": at.epoch + 1,
            "step": at.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train/loss": at.loss_sum / at.loss_rows if at.loss_rows else math.nan,
        }
        if self.config.metrics.training_part:
            measured, _ = self.evaluate("train", self.metric_names)
            record |= {f"train/{key}": value for key, value in measured.items() if key != "loss"}
        if "validation" in self.parts:
            measured, _ = self.evaluate("validation", self.metric_names)
            record |= {f"validation/{key}": value for key, value in measured.items()}
        self.ranks.require_equal_weights(self.model, f"the end of epoch {at.epoch + 1}")
        record = {key: None if value != value else value for key, value in record.items()}
        self.log.write(record)
        at.epoch += 1
        at.batch = 0
        at.loss_sum = at.loss_rows = 0.0
        value = record.get(self.monitor)
        self.rates.watch(math.inf if value is None else value, self.more_is_better)
        self.tell("on_epoch", record)
        at.ended = self.ranks.decided(lambda: at.ended, "the end of an epoch")

    # --- weights -------------------------------------------------------------------------------

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """A copy of the parameters and buffers on the host."""
        return {
            name: np.array(value.detach().cpu().numpy(), order="C")
            for name, value in self.model.state_dict().items()
        }

    def set_weights(self, weights: dict[str, np.ndarray[Any, Any]]) -> None:
        self.model.load_state_dict(
            {name: nt.tensor(array, device=self.device) for name, array in weights.items()}
        )


def _bytes_of(data: Prepared, itemsize: int) -> int:
    """What all rows take on a device, with a weight for each and the order of an epoch."""
    total = 0
    for part in (data.train, data.validation, data.test):
        if part is not None and part.in_memory:
            values = data.inputs + math.prod(part.target.shape[1:]) + 1
            total += len(part) * (values * itemsize + np.dtype(np.int64).itemsize)
    return total


def _monitor(config: Config, data: Prepared, names: list[str]) -> tuple[str, bool]:
    """The key of the record that chooses the best epoch, and whether more of it is better."""
    wanted = config.stopping.monitor
    _check_quantity("stopping.monitor", wanted, names, data.target.task)
    if data.validation is None and wanted != "loss":
        raise InputError(f"stopping.monitor: {wanted} needs validation rows: data.validation is 0")
    part = "train" if data.validation is None else "validation"
    return f"{part}/{wanted}", wanted != "loss" and METRICS[wanted].more_is_better


def _check_quantity(key: str, quantity: str, names: list[str], task: str) -> None:
    """Refuse what is not recorded in every epoch; name the metric that was meant."""
    if quantity != "loss" and quantity not in names:
        near = difflib.get_close_matches(quantity, names_for(task), n=1, cutoff=0.4)
        hint = f'; metrics.each_epoch = ["{near[0]}"] would measure it' if near else ""
        raise InputError(
            f"{key}: expected loss or one of metrics.each_epoch ({', '.join(names)}), "
            f"given {quantity!r}{hint}"
        )
