"""From a configuration to a finished run folder."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.distributed.launcher import launched
from nanotorch.training.callbacks import (
    Best,
    Checkpoints,
    Lines,
    Redraw,
    TensorBoard,
    TimeLimit,
    Timer,
    own_callback,
    with_methods,
)
from nanotorch.training.coefficients import COEFFICIENTS, Estimation, as_csv, coefficients
from nanotorch.training.config.command_line import read_request
from nanotorch.training.config.reader import config_of
from nanotorch.training.config.sections import Config, Reading, differences, flat_values
from nanotorch.training.curves import draw_curves
from nanotorch.training.data.identity import IDENTITY, MARKS, marks_file, require_same
from nanotorch.training.data.prepare import most_frequent, prepare
from nanotorch.training.devices import choose_device
from nanotorch.training.errors import Interrupted, RunFailure, plain
from nanotorch.training.exits import say, silence
from nanotorch.training.files import write_whole
from nanotorch.training.live import LiveCurve, notebook
from nanotorch.training.metrics import Outcome, baseline, best_threshold, names_for, reason
from nanotorch.training.model_file import ModelFile, write_model_file
from nanotorch.training.models import matching, parameter_table
from nanotorch.training.ranks import join
from nanotorch.training.report import write_overview, write_report
from nanotorch.training.results import Finished, comparison, last_line
from nanotorch.training.resuming import reopen, run_of
from nanotorch.training.run import Run
from nanotorch.training.run_folder import (
    MODEL,
    SUMMARY,
    json_text,
    new_run_folder,
    remove_temporary_files,
    replace_config,
)
from nanotorch.training.run_state import restore_state, save_state
from nanotorch.training.tally import TotalOutcome
from nanotorch.training.trust import code_named, imported, trust


def train(arguments: list[str], program: str = "nanotorch train") -> None:
    """Train as configurations say, and compare several runs in a table."""
    first = launched()[2] == 0
    if not first:
        silence(sys.stdout)
    request = read_request(arguments, program)
    configs, runs = request.configs, []
    varied = {key for config in configs[1:] for key in differences(configs[0], config)}
    for config, source in zip(configs, request.sources, strict=True):
        resume = request.resume
        try:
            with source.named():
                if len(configs) > 1 and resume is not None:  # a sweep: what is missing of it
                    resume = join(config.training).decided(partial(run_of, config, varied))
                runs.append(fit(config, resume, request.quiet, request.changed_data))
            say(last_line(runs[-1]))
        except RunFailure as failure:
            if len(configs) == 1:
                raise
            values = flat_values(config)
            words = ", ".join(f"{key} = {values.get(key)}" for key in sorted(varied))
            if first:
                say(f"{config.name} with {words} failed: {failure}", aside=True)
    if len(runs) > 1:
        say(comparison(runs))
        if runs[0].config.output.report and first:
            say(f"report of all: {write_overview(runs)}")
    if failed := len(configs) - len(runs):
        raise RunFailure(f"{failed} of {len(configs)} runs failed")


def fit(
    config: Config | Mapping[str, Any],
    resume: str | None = None,
    quiet: bool = False,
    changed_data: bool = False,
    data: Any = None,
    callbacks: Sequence[Any] = (),
) -> Finished:
    """Train as `config` says and leave a run folder; with `resume`, go on with one.

    - `config`: a Config, or the tables of one, as `{"data": {"target": "price"}}`
    - `resume`: None, the folder of a run or of a checkpoint, or "newest"
    - `changed_data` lets a run go on though its data are not what they were
    - `data`: a pandas, polars or Arrow frame, arrays by name, or a pair (features, target) of
      arrays, in the place of the file `data.source`
    - `callbacks`: objects of one's own beside those of `output.callbacks`; docs/training.md says
      what they may have

    Raises InputError for anything that cannot be used, RunFailure where training cannot go on, and
    Interrupted (with the state saved) after a signal.

    >>> import numpy as np
    >>> x = np.arange(60.0)
    >>> tables = {"training": {"epochs": 2}, "output": {"folder": "/tmp/nanotorch-example"}}
    >>> run = fit(tables, quiet=True, data={"x": x, "z": x % 7, "y": x > 29})
    >>> run.data.target.classes
    ['0', '1']
    """
    if not isinstance(config, Config):
        config = config_of(config)
    frame = data
    ranks = join(config.training)
    quiet = quiet or not ranks.leads
    device, device_words = choose_device(ranks.device(config.device))
    ranks.require_same("configuration", flat_values(config))
    with contextlib.ExitStack() as stack:
        stack.enter_context(ranks.threads())
        earlier = reopen(config, resume) if ranks.leads else None
        if earlier:
            stack.enter_context(contextlib.closing(earlier.log))
        state = ranks.checkpoint(earlier.state if earlier else None)
        dtype = config.training.dtype
        data = prepare(config.data, config.model.name, config.seed, dtype=dtype, frame=frame)
        config = config.model_copy(update={"data": config.data.model_copy(update=data.guesses)})
        ranks.require_same("data", data.identity)
        if earlier:
            require_same(earlier.folder, data.identity, changed_data)
        stack.enter_context(nt.backend.on_device(device))
        signals = stack.enter_context(ranks.signals())
        run = stack.enter_context(Run(config, data, device, signals, ranks))
        shapes = {name: [list(x.shape), str(x.dtype)] for name, x in run.model.state_dict().items()}
        ranks.require_same("model", shapes)
        best, timer = Best(config.stopping), Timer()
        run.callbacks = [
            best,
            Checkpoints(config.checkpoint),
            TimeLimit(config.training.time_limit),
        ]
        if ranks.leads:
            if not quiet and notebook():
                run.callbacks.append(LiveCurve())
            run.callbacks += [Lines(best, quiet), timer, Redraw(config.output)]
            if config.output.tensorboard:
                run.callbacks.append(TensorBoard())
        for name in config.output.callbacks:
            run.callbacks.append(own_callback(name, imported("output.callbacks", name)))
        run.callbacks += [with_methods(c, f"callbacks: {type(c).__name__}") for c in callbacks]
        if state:
            restore_state(run, state)
        ranks.require_equal_weights(run.model, "the start")
        if not ranks.leads:
            pass  # one writer for one folder
        elif earlier:
            replace_config(earlier.folder, config, earlier.config_changed)
            run.open(earlier.folder, earlier.log)
            run.log.cut(earlier.state.log_bytes if earlier.state else 0)
            remove_temporary_files(run.folder)
        else:
            files = {IDENTITY: json_text(data.identity).encode()}
            if data.marks is not None:
                files[MARKS] = marks_file(data.marks)
            run.open(new_run_folder(config, files))
        folder = ranks.decided(lambda: str(run.folder), "the run folder")
        if ranks.leads:
            trust(code_named(config))
        else:
            run.follow(Path(folder))
        if not quiet:
            _introduce(run, device_words)
        run.events.record(
            "resume" if earlier else "start",
            epoch=run.at.epoch,
            step=run.at.step,
            device=str(device),
            nanotorch=nt.__version__,
            numpy=np.__version__,
            python=platform.python_version(),
        )
        failure = _train(run)
        try:
            finished = _finish(run, best, failure)
        except Interrupted as signal:
            raise _go_on_later(run, signal) from None
        if not quiet:
            for note in finished.summary["data"]["notes"][len(run.data.notes) :]:
                say(f"note: {plain(note)}")
        run.events.record("end", epoch=run.at.epoch, step=run.at.step, epoch_seconds=timer.seconds)
        if ranks.leads:
            _draw(finished)
        run.tell("on_finish", finished)
        if failure is not None:
            raise failure
        return finished


def _train(run: Run) -> RunFailure | Interrupted | None:
    """Train to the end, to a failure or to a signal; the state is saved unless it is damaged."""
    run.tell("on_start")
    try:
        # A loss that overflows is reported in a line of its own; NumPy need not warn as well.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            try:
                run.train()
            finally:
                run.tell("on_end")
        save_state(run)
    except RunFailure as failure:
        return failure
    except Interrupted as signal:
        run.signals.forget()  # what follows is short, and a second signal still acts
        try:
            save_state(run)
        except RunFailure as failure:
            return failure
        return _go_on_later(run, signal)
    return None


def _go_on_later(run: Run, signal: Interrupted) -> Interrupted:
    """The signal, with words about where it came and how the run goes on."""
    where = f"epoch {run.at.epoch + 1}, step {run.at.step}"
    signal.message = f"stopped by {signal.signal_name} in {where}; go on with --resume {run.folder}"
    return signal


def _introduce(run: Run, device_words: str) -> None:
    data, rows = run.data, run.data.summary()["rows"]
    parts = ", ".join(f"{count:,} {part}" for part, count in rows.items())
    say(f"{run.config.name}: {plain(data.origin)}, rows: {parts}; {data.features:,} features")
    say(f"device: {device_words}")
    if run.ranks.cuts:
        each = f"{nt.get_num_threads()} thread" + ("s" if nt.get_num_threads() > 1 else "")
        say(f"ranks: {run.ranks.words()}, {each} each")
    if run.place_words is not None:
        say(f"data: {run.place_words}")
    for note in data.notes:
        say(f"note: {plain(note)}")
    say(parameter_table(run.model, run.config.model.unfreeze_at))
    if run.at.step:
        say(f"goes on after step {run.at.step}, epoch {run.at.epoch}")


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
    notes: list[str] = []
    if best.state["epoch"] is None and run.at.epoch:
        notes.append(f"no epoch has a {run.monitor}: the weights are those of the last one")
    if run.config.metrics.threshold == "f1" and (run.best is not None or failure is None):
        _, chooser = run.evaluate("validation", [])

        def chosen() -> float | None:
            assert chooser is not None  # on rank 0
            return best_threshold(chooser) if chooser.confusion[1].any() else None

        threshold = run.ranks.decided(chosen, "the threshold")
        if threshold is not None:
            run.threshold = summary["threshold"] = threshold
        else:
            notes.append("no validation row is positive: the threshold stays 0.5")
    if run.best is not None or failure is None:
        for part in run.parts:
            measured, outcome = run.evaluate(part, names_for(task))
            clean = {key: None if value != value else value for key, value in measured.items()}
            summary[part] = clean
            undefined = [key for key, value in clean.items() if value is None]
            notes += [f"{part} {key.replace('_', ' ')} –: {reason(key)}" for key in undefined]
            if outcome is None:
                continue  # on ranks after the first
            outcomes[part] = outcome
            if isinstance(outcome, TotalOutcome) and (words := outcome.words()):
                notes.append(f"{part} {words}")
            if task != "regression":
                clean["baseline_accuracy"] = baseline(most_frequent(run.data), outcome)
            if task in ("binary", "classes"):
                clean["confusion"] = outcome.confusion.tolist()
    if not run.ranks.leads:
        return Finished(run.config, run.folder, summary, outcomes, run.data)
    if run.best is not None or failure is None:
        write_model_file(run.folder / MODEL, model_file(run))
        terms, more = coefficients(run.data, run.weights(), estimation(run))
        notes += more
        if terms:
            write_whole(run.folder / COEFFICIENTS, as_csv(terms))
    summary["data"]["notes"] = [*run.data.notes, *notes]
    write_whole(run.folder / SUMMARY, json_text(summary).encode())
    return Finished(run.config, run.folder, summary, outcomes, run.data)


def estimation(run: Run) -> Estimation:
    """What the uncertainty of coefficients depends on."""
    config = run.config
    loss, penalty = config.loss, config.penalty
    reweighted = [
        f"loss.{key}"
        for key, neutral in (("class_weight", "none"), ("pos_weight", None), ("label_smoothing", 0))
        if getattr(loss, key) != neutral
    ]
    return Estimation(
        l1=penalty.l1,
        l2=penalty.l2,
        penalized=[name for name, _ in matching(run.model, penalty.parameters)],
        frozen=[name for name, p in run.model.named_parameters() if not p.requires_grad],
        reweighted=" and ".join(reweighted),
    )


def _draw(run: Finished) -> None:
    """The pictures and the page, from what the run folder holds."""
    output = run.config.output
    if run.summary["epochs"] and output.curves:
        draw_curves(run.folder, output.log_scale, output.smoothing, output.curves_of)
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
        "threshold": run.threshold,
        "dtype": run.config.training.dtype,
        "reading": run.config.data.model_dump(
            include=set(Reading.model_fields) - {"source", "cache", *data.guesses},
            exclude_none=True,
        ),
        "guesses": data.guesses,
        "missing": run.config.data.missing,
        "most_frequent": None if data.target.task == "regression" else most_frequent(data),
    }
    standardization = {"mean": data.standardization.mean, "scale": data.standardization.scale}
    return ModelFile(run.weights(), standardization, facts)
