"""What a run does besides training: each feature is one small class.

A callback may have `on_start(run)`, `on_step(run)`, `on_epoch(run, record)`, `on_end(run)` and
`on_finish(run, finished)`, and a `name` with a `state` (plain values) where it must remember
something when a run is resumed. It ends the run by setting `run.at.ended` to the reason.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from typing import Any

from nanotorch.training.config import sections
from nanotorch.training.curves import draw_curves
from nanotorch.training.errors import InputError, needs_extra
from nanotorch.training.exits import say
from nanotorch.training.live import notebook
from nanotorch.training.metrics import reason
from nanotorch.training.run import Run
from nanotorch.training.run_state import save_state


class Best:
    """Keeps the weights of the best epoch, and ends the run when none has come for long."""

    name = "best"

    def __init__(self, stopping: sections.Stopping) -> None:
        self.stopping = stopping
        self.state: dict[str, Any] = {"epoch": None, "value": None, "waited": 0}
        self.improved = False

    def on_start(self, run: Run) -> None:
        self._stop_waiting(run)  # a run that is resumed may have waited long enough before

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        value = record.get(run.monitor)
        self.improved = value is not None and self._is_better(run, value)
        if self.improved:
            self.state = {"epoch": record["epoch"], "value": value, "waited": 0}
            run.best = run.weights()
            return
        self.state["waited"] += 1
        self._stop_waiting(run)

    def _stop_waiting(self, run: Run) -> None:
        patience = self.stopping.patience
        if patience is not None and self.state["waited"] >= patience:
            run.at.ended = f"no better epoch in {self.state['waited']}"

    def _is_better(self, run: Run, value: float) -> bool:
        best = self.state["value"]
        if best is None:
            return True
        gain = value - best if run.more_is_better else best - value
        return bool(gain > self.stopping.min_change)


class Checkpoints:
    """Saves the state of the run every so many seconds, steps or epochs."""

    def __init__(self, checkpoint: sections.Checkpoint) -> None:
        self.every = checkpoint
        self.saved = time.monotonic()
        self.saved_step = 0

    def on_start(self, run: Run) -> None:
        self.saved_step = run.at.step

    def on_step(self, run: Run) -> None:
        late = run.ranks.carried(time.monotonic() - self.saved >= self.every.every_seconds)
        if late or run.at.step - self.saved_step >= (self.every.every_steps or math.inf):
            self._save(run)

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        every = self.every.every_epochs
        if every and run.at.epoch % every == 0:
            self._save(run)

    def _save(self, run: Run) -> None:
        save_state(run)
        self.saved, self.saved_step = time.monotonic(), run.at.step


class TimeLimit:
    """Ends the run after `training.time_limit` minutes; it can be resumed."""

    def __init__(self, minutes: float | None) -> None:
        self.end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        if time.monotonic() >= self.end:
            run.at.ended = TIME_IS_UP


class Timer:
    """Notes how long each epoch took."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.seconds: list[float] = []

    def on_start(self, run: Run) -> None:
        self.last = time.perf_counter()

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        now = time.perf_counter()
        self.seconds.append(round(now - self.last, 6))
        self.last = now


class Redraw:
    """Draws the loss curve anew every so many seconds, so that a long run can be watched."""

    def __init__(self, output: sections.Output) -> None:
        self.output = output
        self.drawn = time.monotonic()

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        output = self.output
        if output.curves and time.monotonic() - self.drawn >= output.redraw_seconds:
            draw_curves(run.folder, output.log_scale, output.smoothing, output.curves_of)
            self.drawn = time.monotonic()


class TensorBoard:
    """Writes every number of an epoch as TensorBoard scalars, through the extra `tensorboard`."""

    def __init__(self) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise needs_extra("output.tensorboard", "tensorboardX", "tensorboard") from None
        self._kind = SummaryWriter
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        self._writer = self._kind(str(run.folder / "tensorboard"), purge_step=run.at.step)

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if key not in ("epoch", "step") and value is not None:
                self._writer.add_scalar(key, value, record["step"])

    def on_end(self, run: Run) -> None:
        self._writer.close()


METHODS = ("on_start", "on_step", "on_epoch", "on_end", "on_finish")


def with_methods(callback: Any, name: str) -> Any:
    """The callback; InputError where a run would call none of its methods."""
    if not any(hasattr(callback, method) for method in METHODS):
        raise InputError(f"{name} has none of {', '.join(METHODS)}")
    return callback


def own_callback(name: str, kind: type[Any]) -> Any:
    """A callback of a class that the configuration names; it is made without arguments."""
    try:
        callback = kind()
    except Exception as error:
        raise InputError(
            f"output.callbacks: {name}() fails: {type(error).__name__}: {error}"
        ) from error
    return with_methods(callback, f"output.callbacks: {name}")


TIME_IS_UP = "the time limit is reached"


def progress_bar() -> Any:
    """tqdm's bar for a terminal, or its widget for a notebook; None where neither can be shown."""
    if notebook():
        with warnings.catch_warnings(action="ignore"):  # there may be no ipywidgets
            from tqdm.auto import tqdm
    elif sys.stderr is not None and sys.stderr.isatty():
        from tqdm import tqdm
    else:
        return None
    return tqdm


class Lines:
    """One line per epoch, above a progress bar where there is a terminal for it."""

    def __init__(self, best: Best, quiet: bool) -> None:
        self.best, self.quiet = best, quiet
        self.undefined: list[str] = []
        self.bar: Any = None

    def on_start(self, run: Run) -> None:
        if not self.quiet and (tqdm := progress_bar()):
            total = run.config.training.epochs * run.batches.count
            done = run.at.epoch * run.batches.count + run.at.batch
            self.bar = tqdm(total=total, initial=done, unit="batch", leave=False)
            self.on_step = lambda run: self.bar.update()

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        if self.quiet:
            return
        total = run.config.training.epochs
        shown = [f"epoch {record['epoch']:>{len(str(total))}}/{total}"]
        shown += [
            f"{key.replace('/', ' ')} {_number(value)}"
            for key, value in record.items()
            if "/" in key
        ]
        shown.append(f"lr {record['lr']:.3g}")
        line = "  ".join(shown) + ("  *" if self.best.improved else "")
        if self.bar is not None:
            self.bar.write(line)
        else:
            say(line)
        for key, value in record.items():
            if value is None and key not in self.undefined:
                self.undefined.append(key)
                part, _, name = key.partition("/")
                say(f"note: {part} {name} –: {reason(name)}")

    def on_end(self, run: Run) -> None:
        if self.bar is not None:
            self.bar.close()


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"
