"""From a configuration to a finished run folder."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.training.callbacks import (
    TIME_IS_UP,
    Best,
    Checkpoints,
    Lines,
    Redraw,
    TimeLimit,
    Timer,
)
from nanotorch.training.checkpoint import checkpoints_in, load_checkpoint
from nanotorch.training.config.command_line import NEWEST
from nanotorch.training.config.reader import load
from nanotorch.training.config.sections import Config
from nanotorch.training.curves import draw_curves
from nanotorch.training.data.prepare import prepare
from nanotorch.training.devices import choose_device
from nanotorch.training.errors import InputError, Interrupted, RunFailure
from nanotorch.training.metrics import Outcome, names_for
from nanotorch.training.model_file import ModelFile, write_model_file, write_whole
from nanotorch.training.models import parameter_table
from nanotorch.training.report import write_report
from nanotorch.training.results import Finished, differences
from nanotorch.training.run import Run
from nanotorch.training.run_folder import (
    CONFIG,
    EVENTS,
    MODEL,
    SUMMARY,
    Events,
    json_text,
    new_run_folder,
    replace_config,
    runs_called,
)
from nanotorch.training.signals import StopSignals

# Keys that a run may go on with other values of; any other change makes another run.
FREE = ("device", "training.epochs", "training.time_limit", "stopping.patience")
FREE_SECTIONS = ("checkpoint", "output")


def fit(config: Config, resume: str | None = None, quiet: bool = False) -> Finished:
    """Train as `config` says and leave a run folder; with `resume`, go on with one.

    `resume` is None, the folder of a run or of a checkpoint, or "newest". Raises InputError for
    anything that cannot be used, RunFailure where training cannot go on, and Interrupted (with
    the state saved) after a signal.
    """
    device, device_words = choose_device(config.device)
    data = prepare(config.data, config.model.name, config.seed)
    with StopSignals() as signals:
        folder, checkpoint = _open(config, resume)
        run = Run(config, folder, data, device, signals)
        best = Best()
        lines = Lines(best, quiet)
        timer = Timer()
        run.callbacks = [best, Checkpoints(), TimeLimit(), lines, timer, Redraw()]
        events = Events(folder / EVENTS)
        if checkpoint is not None:
            run.restore(load_checkpoint(checkpoint))
        elif resume is not None:
            run.log.cut(0)
        if not quiet:
            _introduce(run, device_words)
        events.record(
            "resume" if resume is not None and run.at.step else "start",
            epoch=run.at.epoch,
            step=run.at.step,
            device=str(device),
            nanotorch=nt.__version__,
            numpy=np.__version__,
            python=platform.python_version(),
        )
        failure: BaseException | None = None
        try:
            for callback in run.callbacks:
                if hasattr(callback, "on_start"):
                    callback.on_start(run)
            run.train()
            run.save()
        except Interrupted as interrupted:
            run.save()
            interrupted.message = (
                f"stopped by {interrupted.signal_name} in epoch {run.at.epoch + 1}, "
                f"step {run.at.step}; go on with --resume {folder}"
            )
            failure = interrupted
        except RunFailure as error:
            failure = error
        finally:
            for callback in run.callbacks:
                if hasattr(callback, "on_end"):
                    callback.on_end(run)
        signals.caught = None
        finished = _finish(run, best, failure)
        events.record("end", epoch=run.at.epoch, step=run.at.step, epoch_seconds=timer.seconds)
        _draw(finished)
        if failure is not None:
            raise failure
        return finished


def _open(config: Config, resume: str | None) -> tuple[Path, Path | None]:
    """The run folder to write in, and the checkpoint to start from."""
    if resume is None:
        return new_run_folder(config), None
    if resume == NEWEST:
        runs = runs_called(Path(config.output.folder), config.name)
        if not runs:
            print(f"no run called {config.name} to go on with: a new one begins")
            return new_run_folder(config), None
        folder, checkpoint = runs[-1], None
    else:
        folder, checkpoint = Path(resume), None
        if folder.parent.name == "checkpoints":
            folder, checkpoint = folder.parent.parent, folder
    if not (folder / CONFIG).is_file():
        raise InputError(f"--resume: {folder} is not a run folder (it has no {CONFIG})")
    _compare(load(folder / CONFIG), config, folder)
    known = checkpoints_in(folder)
    if checkpoint is None and known:
        checkpoint = known[-1]
    if checkpoint is not None and not checkpoint.is_dir():
        raise InputError(f"--resume: there is no checkpoint {checkpoint}")
    return folder, checkpoint


def _compare(before: Config, now: Config, folder: Path) -> None:
    """Refuse to go on with another configuration, key by key; keep the new values of free keys."""
    changed = [key for key, (was, is_) in differences(before, now).items() if was != is_]
    refused = [
        key for key in changed if key not in FREE and key.partition(".")[0] not in FREE_SECTIONS
    ]
    if refused:
        raise InputError(
            f"--resume: {folder} was run with other values of {', '.join(refused)}; "
            f"a run can only change {', '.join(FREE)}, [checkpoint] and [output]"
        )
    if changed:
        replace_config(folder, now)


def _introduce(run: Run, device_words: str) -> None:
    data, rows = run.data, run.data.summary()["rows"]
    parts = ", ".join(f"{count:,} {part}" for part, count in rows.items())
    print(f"{run.config.name}: {data.origin}, rows: {parts}; {data.inputs} features")
    print(f"device: {device_words}")
    for note in data.notes:
        print(f"note: {note}")
    print(parameter_table(run.model))
    if run.at.step:
        print(f"goes on after step {run.at.step}, epoch {run.at.epoch}")


def _finish(run: Run, best: Best, failure: BaseException | None) -> Finished:
    """Restore the best weights, measure every part with every metric, and write the results."""
    restore = run.config.stopping.restore_best or isinstance(failure, RunFailure)
    if restore and run.best is not None:
        run.set_weights(run.best)
    ended = str(failure) if isinstance(failure, RunFailure) else run.at.ended
    if isinstance(failure, Interrupted):
        ended = f"interrupted by {failure.signal_name}"
    task = run.data.target.task
    summary: dict[str, Any] = {
        "name": run.config.name,
        "seed": run.config.seed,
        "ended": ended,
        "epochs": run.at.epoch,
        "steps": run.at.step,
        "monitor": run.monitor,
        "best_epoch": best.state["epoch"],
        "best_value": best.state["value"],
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "trained_parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "data": run.data.summary(),
    }
    outcomes: dict[str, Outcome] = {}
    if run.best is not None or failure is None:
        for part in run.parts:
            measured, outcomes[part] = run.evaluate(part, names_for(task))
            clean = {key: None if value != value else value for key, value in measured.items()}
            summary[part] = clean
            if task in ("binary", "classes"):
                summary[part]["confusion"] = outcomes[part].confusion.tolist()
        write_model_file(run.folder / MODEL, model_file(run))
    write_whole(run.folder / SUMMARY, json_text(summary).encode())
    return Finished(run.config, run.folder, summary, outcomes, run.data)


def _draw(run: Finished) -> None:
    """The pictures and the page, from what the run folder holds."""
    output = run.config.output
    if run.summary["epochs"] and output.curves:
        draw_curves(run.folder, output.log_scale, output.smoothing)
    if run.summary["epochs"] and output.report and run.outcomes:
        write_report(run)


def model_file(run: Run) -> ModelFile:
    """The weights as they are now, with all that is needed to predict from raw rows."""
    data = run.data
    facts = {
        "model": run.config.model.model_dump(
            exclude={"start", "start_skip", "freeze", "unfreeze_at"}
        ),
        "task": data.target.task,
        "classes": data.target.classes,
        "targets": data.target.columns,
        "columns": data.encoding.to_json(),
        "threshold": run.config.metrics.threshold,
        "dtype": run.config.training.dtype,
    }
    standardization = {"mean": data.standardization.mean, "scale": data.standardization.scale}
    return ModelFile(run.weights(), standardization, facts)


def was_stopped_early(summary: dict[str, Any]) -> bool:
    """Whether a run ended before its time, so that it can be resumed."""
    ended = str(summary["ended"])
    return ended == TIME_IS_UP or ended.startswith("interrupted")
