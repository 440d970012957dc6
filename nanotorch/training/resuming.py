"""Which run `--resume` means, and whether it may go on with the given configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanotorch.training.checkpoint import checkpoints_in
from nanotorch.training.config.command_line import NEWEST
from nanotorch.training.config.reader import load
from nanotorch.training.config.sections import Config, differences
from nanotorch.training.errors import InputError
from nanotorch.training.run_folder import CONFIG, replace_config, runs_called

# Keys that a run may go on with other values of; any other change makes another run.
FREE = (
    "device",
    "data.on_device",
    "training.epochs",
    "training.time_limit",
    "training.steps_per_launch",
    "stopping.patience",
)
FREE_SECTIONS = ("checkpoint", "output")


@dataclass(frozen=True)
class FoundRun:
    """A run folder, and the checkpoint to go on from (None: from the beginning)."""

    folder: Path
    checkpoint: Path | None


def find_run(config: Config, resume: str | None) -> FoundRun | None:
    """The run that is to be resumed; None where a new one is wanted, or none is there yet."""
    if resume is None:
        return None
    checkpoint = None
    if resume == NEWEST:
        runs = runs_called(Path(config.output.folder), config.name)
        if not runs:
            print(f"no run called {config.name} to go on with: a new one begins")
            return None
        folder = runs[-1]
    else:
        folder = Path(resume)
        if folder.parent.name == "checkpoints":
            folder, checkpoint = folder.parent.parent, folder
    if not (folder / CONFIG).is_file():
        raise InputError(f"--resume: {folder} is not a run folder (it has no {CONFIG})")
    _compare(load(folder / CONFIG), config, folder)
    if checkpoint is None:
        known = checkpoints_in(folder)
        checkpoint = known[-1] if known else None
    elif not checkpoint.is_dir():
        raise InputError(f"--resume: there is no checkpoint {checkpoint}")
    return FoundRun(folder, checkpoint)


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
