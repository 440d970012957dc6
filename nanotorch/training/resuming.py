"""Which run `--resume` means, and whether it may go on with the given configuration."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from nanotorch.training.checkpoint import Checkpoint, checkpoints_in, load_checkpoint
from nanotorch.training.config.command_line import NEWEST
from nanotorch.training.config.reader import load
from nanotorch.training.config.sections import Config, Reading, differences
from nanotorch.training.errors import InputError
from nanotorch.training.exits import say
from nanotorch.training.run_folder import (
    CONFIG,
    EVENTS,
    METRICS,
    MODEL,
    Log,
    read_log,
    runs_called,
)

# Keys that a run may go on with other values of; any other change makes another run.
FREE = (
    "device",
    "data.on_device",
    "training.epochs",
    "training.time_limit",
    "training.steps_per_launch",
    "training.rank_timeout",
    "stopping.patience",
)
GUESSED = tuple(f"data.{key}" for key in Reading.model_fields)  # the run holds what was guessed
FREE_SECTIONS = ("checkpoint", "output")


@dataclass
class Earlier:
    """A run that goes on: its folder, its locked log, and its state (None: from the beginning)."""

    folder: Path
    log: Log
    state: Checkpoint | None
    config_changed: bool


def reopen(config: Config, resume: str | None) -> Earlier | None:
    """The run that is to be resumed, locked and checked; None where a new one begins.

    Nothing is written here: a run that is refused stays as it is, to the byte.
    """
    if resume is None:
        return None
    checkpoint = None
    if resume == NEWEST:
        runs = runs_called(Path(config.output.folder), config.name)
        if not runs:
            say(f"no run called {config.name} to go on with: a new one begins")
            return None
        folder = runs[-1]
    else:
        folder = Path(resume)
        if folder.parent.name == "checkpoints":
            folder, checkpoint = folder.parent.parent, folder
    if not (folder / CONFIG).is_file():
        raise InputError(f"--resume: {folder} is not a run folder (it has no {CONFIG})")
    log = Log(folder / METRICS, must_exist=True)
    try:
        log.lock()
        changed = _compare(load(folder / CONFIG), config, folder)
        state = _state(folder, checkpoint, begun=log.size > 0)
        log.check_size(0 if state is None else state.log_bytes)
    except BaseException:
        log.close()
        raise
    return Earlier(folder, log, state, changed)


def run_of(config: Config, varied: set[str]) -> str | None:
    """The newest run folder with this configuration that can go on, as a sweep goes on with what is
    missing; None where there is none. The `varied` keys of the sweep have the same values in it."""
    for folder in reversed(runs_called(Path(config.output.folder), config.name)):
        with contextlib.suppress(InputError, OSError):
            before = load(folder / CONFIG)
            _compare(before, config, folder)
            if not varied & set(differences(before, config)):
                _state(folder, None, begun=(folder / METRICS).stat().st_size > 0)
                return str(folder)
    return None


def _state(folder: Path, checkpoint: Path | None, begun: bool) -> Checkpoint | None:
    """The checkpoint to go on from; None for a run that was killed before its first one, of whose
    start the events tell, if its log has `begun`."""
    known = checkpoints_in(folder)
    if checkpoint is not None:
        if checkpoint not in known:
            raise InputError(f"--resume: there is no checkpoint {checkpoint}")
        return load_checkpoint(checkpoint)
    if known:
        return load_checkpoint(known[-1])
    events = {str(record.get("event")) for record in read_log(folder / EVENTS)}
    whole = (folder / MODEL).exists() or not events.isdisjoint(("checkpoint", "end"))
    if whole or (begun and "start" not in events):
        raise InputError(
            f"--resume: {folder} has no checkpoint left to go on from; without --resume a new run "
            f"begins, in a folder of its own"
        )
    return None


def _compare(before: Config, now: Config, folder: Path) -> bool:
    """Refuse to go on with another configuration, key by key; whether a free key has changed."""
    changed = [
        key
        for key, (_, value) in differences(before, now).items()
        if value is not None or key not in GUESSED
    ]
    refused = [
        key for key in changed if key not in FREE and key.partition(".")[0] not in FREE_SECTIONS
    ]
    if refused:
        raise InputError(
            f"--resume: {folder} was run with other values of {', '.join(refused)}; "
            f"a run can only change {', '.join(FREE)}, [checkpoint] and [output]"
        )
    return bool(changed)
