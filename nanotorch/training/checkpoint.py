"""Checkpoints: a folder of safetensors and JSON, renamed into place whole, checked by SHA-256."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import InputError
from nanotorch.training.model_file import array_bytes, read_arrays, sha256

FORMAT = 1
NAME = re.compile(r"^(\d{6})-step-(\d+)$")
STATE = "state.json"
Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Checkpoint:
    """The state of a run: plain values, and arrays in named files."""

    values: dict[str, Any]
    arrays: dict[str, dict[str, NDArray[Any]]]  # by file: "model", "best", "training"


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
    return sorted(path for path in folder.iterdir() if NAME.match(path.name))


def save_checkpoint(run: Path, checkpoint: Checkpoint, step: int, keep: int) -> Path:
    """Write a checkpoint and leave only the `keep` newest ones.

    It is written beside its place, synced to the disk and renamed once: whatever happens, a
    folder with a checkpoint's name is complete.
    """
    parent = run / "checkpoints"
    parent.mkdir(exist_ok=True)
    known = checkpoints_in(run)
    serial = int(known[-1].name[:6]) + 1 if known else 1
    for left in parent.glob(".writing-*"):  # by a process that was killed while it saved
        shutil.rmtree(left, ignore_errors=True)
    temporary = parent / f".writing-{os.getpid()}"
    temporary.mkdir()
    try:
        digests = {}
        for name, arrays in checkpoint.arrays.items():
            content = array_bytes(arrays)
            digests[f"{name}.safetensors"] = sha256(content)
            _write_synced(temporary / f"{name}.safetensors", content)
        values = {"format": FORMAT, "files": digests, **checkpoint.values}
        body = json.dumps(values, indent=1).encode()
        _write_synced(temporary / STATE, body + f"\n{sha256(body)}\n".encode())
        _sync_folder(temporary)
        place = parent / f"{serial:06d}-step-{step}"
        temporary.rename(place)
        _sync_folder(parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in known[: max(0, len(known) + 1 - keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make renames in a folder durable, where the system lets a folder be synced."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    for older in reversed([known for known in checkpoints_in(path.parent.parent) if known < path]):
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
    return Checkpoint(values, arrays)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        body, _, last = path.read_bytes().rstrip(b"\n").rpartition(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if sha256(body).encode() != last:
        raise InputError(f"{path}: damaged or not a checkpoint: its SHA-256 does not fit")
    values: dict[str, Any] = json.loads(body)
    return values
