"""Checkpoints: a folder of safetensors and JSON, renamed into place whole, checked by SHA-256."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import InputError, reading
from nanotorch.training.files import new_folder, remove_left_behind, sha256, sync_folder
from nanotorch.training.model_file import array_bytes, read_arrays

FORMAT = 1
NAME = re.compile(r"\d{6,18}-step-\d+")
WRITING = "writing"  # the name of a checkpoint that is not complete, after a dot
STATE = "state.json"
FILES = ("model.safetensors", "training.safetensors", "best.safetensors")
Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Checkpoint:
    """The state of a run: plain values, and arrays in named files."""

    folder: Path
    values: dict[str, Any]
    arrays: dict[str, dict[str, NDArray[Any]]]  # by file: "model", "best", "training"

    @property
    def log_bytes(self) -> int:
        """How long the log was when this was saved."""
        return int(self.values["log_bytes"])


def split_arrays(tree: Any, arrays: dict[str, NDArray[Any]], path: str = "") -> Any:
    """The tree with each array (or Tensor) put into `arrays` and its name in its place."""
    if hasattr(tree, "detach"):
        tree = tree.detach().cpu().numpy()
    if isinstance(tree, np.ndarray):
        arrays[path] = np.array(tree, order="C")
        return {"$array": path}
    if isinstance(tree, Mapping):
        # Keys may be numbers, which JSON would turn into text: pairs keep them.
        pairs = [[key, split_arrays(value, arrays, f"{path}.{key}")] for key, value in tree.items()]
        return {"$table": pairs}
    if isinstance(tree, list | tuple):
        return [split_arrays(value, arrays, f"{path}.{at}") for at, value in enumerate(tree)]
    if isinstance(tree, np.generic):
        return tree.item()
    return tree


def join_arrays(tree: Any, arrays: Arrays, convert: Any) -> Any:
    """The tree before `split_arrays`, with `convert(array)` for each array."""
    if isinstance(tree, dict) and "$array" in tree:
        return convert(arrays[tree["$array"]])
    if isinstance(tree, dict) and "$table" in tree:
        return {key: join_arrays(value, arrays, convert) for key, value in tree["$table"]}
    if isinstance(tree, list):
        return [join_arrays(value, arrays, convert) for value in tree]
    return tree


def checkpoints_in(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=serial)


def serial(checkpoint: Path) -> int:
    """The number that orders the checkpoints of a run."""
    return int(checkpoint.name.partition("-")[0])


def save_checkpoint(run: Path, checkpoint: Checkpoint, step: int, keep: int) -> Path:
    """Write a checkpoint and leave only the `keep` newest ones.

    It is written beside its place, synced to the disk and renamed once: whatever happens, a
    folder with a checkpoint's name is complete.
    """
    parent = run / "checkpoints"
    parent.mkdir(exist_ok=True)
    known = checkpoints_in(run)
    number = serial(known[-1]) + 1 if known else 1
    remove_left_behind(parent, WRITING, seconds=0)  # nobody else writes here: the run is locked
    files = {
        f"{name}.safetensors": array_bytes(arrays) for name, arrays in checkpoint.arrays.items()
    }
    digests = {name: sha256(content) for name, content in files.items()}
    values = {"format": FORMAT, "files": digests, **checkpoint.values}
    body = json.dumps(values, indent=1).encode()
    files[STATE] = body + f"\n{sha256(body)}\n".encode()
    temporary = new_folder(parent, WRITING, files)
    place = parent / f"{number:06d}-step-{step}"
    try:
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)
    if not known:
        sync_folder(run)  # in which the folder of the checkpoints is new
    for old in known[: max(0, len(known) + 1 - keep)]:
        with contextlib.suppress(OSError):  # under another name, half of it is no checkpoint
            shutil.rmtree(old.rename(parent / f".{WRITING}-{old.name}"))
    return place


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Raises InputError with one line that names the damaged file and the newest good checkpoint
    before it.
    """
    try:
        return _load(path)
    except InputError as error:
        raise InputError(error.lines[0] + _previous_good(path)) from None


def _previous_good(path: Path) -> str:
    run = path.parent.parent
    for older in reversed([known for known in checkpoints_in(run) if serial(known) < serial(path)]):
        try:
            _load(older)
        except InputError:
            continue
        return f"; the one before it is good: --resume {older}"
    return "; there is no good one before it"


def _load(path: Path) -> Checkpoint:
    values = _read_state(path / STATE)
    if values.get("format") != FORMAT:
        raise InputError(
            f"{path}: checkpoint format {values.get('format')!r}, this version reads {FORMAT}"
        )
    arrays = {}
    for name, digest in values["files"].items():
        file = path / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from None
        if sha256(content) != digest:
            raise InputError(f"{file}: damaged: its SHA-256 is not the one in {STATE}")
        arrays[name.removesuffix(".safetensors")] = read_arrays(file)[0]
    return Checkpoint(path, values, arrays)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        body, _, last = path.read_bytes().rstrip(b"\n").rpartition(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if sha256(body).encode() != last:
        raise InputError(f"{path}: damaged or not a checkpoint: its SHA-256 does not fit")
    with reading(path, "the state of a checkpoint"):
        values: dict[str, Any] = json.loads(body)
        digests = values["files"]
        if {*digests} - {*FILES} or type(digests) is not dict or not values["log_bytes"] >= 0:
            raise InputError(f"{path}: not a checkpoint: expected digests of {', '.join(FILES)}")
        return values
