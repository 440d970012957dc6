"""Copies of data files that are converted into numbers and kept beside them.

A copy is a .npy file, with a file of facts that says what it was made from. It is read with its own
facts alone, and where it was made from exactly this content, read in the same way.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanotorch.training.config.sections import Reading
from nanotorch.training.data.cells import TextTable
from nanotorch.training.data.identity import content_digest
from nanotorch.training.data.layout import named_columns
from nanotorch.training.data.row_files import MatrixWriter, RowFile, load_array
from nanotorch.training.errors import InputError, RunFailure
from nanotorch.training.exits import say
from nanotorch.training.files import remove_left_behind, sync_file, write_whole

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = 5

Facts = dict[str, Any]  # what a table is besides its values
Convert = Callable[[Path, Reading, MatrixWriter], TextTable]


def copy_paths(path: Path) -> tuple[Path, Path]:
    """Where the copy of a file and its facts lie."""
    return path.with_name(f".{path.name}.float64.npy"), path.with_name(f".{path.name}.float64.json")


def text_keys(reading: Reading) -> Facts:
    """What decides how a text file is read: a column that is named tells where the header is."""
    keys = reading.model_dump(include=set(Reading.model_fields) - {"source", "cache"})
    return {**keys, "columns": sorted(named_columns(reading, 0))}


def facts_of_copy(path: Path, keys: Facts) -> Facts | None:
    """The facts of a copy, if it was made from exactly this content, read in the same way."""
    array_path, facts_path = copy_paths(path)
    try:
        facts: Facts = json.loads(facts_path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or facts["keys"] != keys:
            return None
        if facts["written"] != array_path.stat().st_mtime_ns:
            return None  # by another process, which is yet to note what it is
        return facts if facts["digest"] == content_digest(path) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextlib.contextmanager
def _new_copy(path: Path, beside: bool = True) -> Iterator[Path]:
    """A file to write a copy into, beside the file of data or elsewhere, which then goes."""
    if beside:
        remove_left_behind(path.parent, glob.escape(path.name))
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent if beside else None)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)  # what is open stays there to be read


def _keep(path: Path, temporary: Path, facts: Facts) -> None:
    """Put a copy into its place, and its facts beside it.

    They say when the copy was written: whenever a process or the machine stops, and whatever other
    processes do, a copy is read with its own facts alone.
    """
    array_path, facts_path = copy_paths(path)
    sync_file(temporary)
    facts = {**facts, "format": FORMAT, "written": temporary.stat().st_mtime_ns}
    temporary.replace(array_path)
    write_whole(facts_path, json.dumps(facts).encode())


# --- of tables that were read into memory --------------------------------------------------------


def copy_of_text(path: Path, reading: Reading) -> TextTable | None:
    """The table of a text file from its copy, where there is one."""
    facts = facts_of_copy(path, text_keys(reading))
    if facts is None:
        return None
    try:
        values = load_array(copy_paths(path)[0], "a converted copy", mapped=True)
        if list(values.shape) != facts["shape"] or values.dtype.name != facts["dtype"]:
            return None
        lines = facts["lines"]
        lines = np.array(lines, dtype=np.int64) if isinstance(lines, list) else lines
        names, categories = facts["names"], facts["categories"]
        texts = [names, *categories.values()]
        if len(names) != values.shape[1] or any(type(t) is not str for part in texts for t in part):
            return None
        table = TextTable(names, values, categories, lines, facts["notes"], facts["guesses"])
        table.digest = facts["digest"]
        return table
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_copy_of_text(path: Path, table: TextTable, reading: Reading) -> None:
    """Keep a copy of the table of a text file; a folder that cannot be written to keeps none."""
    values = np.ascontiguousarray(table.values)
    facts = table.facts() | {"keys": text_keys(reading)}
    facts |= {"shape": list(values.shape), "dtype": values.dtype.name}
    with contextlib.suppress(OSError), _new_copy(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        _keep(path, temporary, facts)


# --- of files that are larger than memory --------------------------------------------------------


def converted(path: Path, data: Reading, keys: Facts, convert: Convert) -> tuple[Facts, RowFile]:
    """The rows of a file in a copy of it, which is kept beside it unless `data.cache` is off or the
    folder cannot be written to."""
    array_path, _ = copy_paths(path)
    with _alone_at(path):
        facts = facts_of_copy(path, keys) if data.cache else None
        if facts is not None:
            with contextlib.suppress(InputError):
                file = RowFile(array_path, str(path))
                if [len(file), file.columns] == facts["shape"]:
                    return facts, file
        say(f"{path}: larger than data.memory: it is converted in pieces", aside=True)
        before = path.stat()
        beside = data.cache and os.access(path.parent, os.W_OK)
        with _new_copy(path, beside) as temporary:
            with contextlib.closing(MatrixWriter(temporary)) as writer:
                facts = convert(path, data, writer).facts()
            now = path.stat()
            if (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
                raise RunFailure(f"{path}: the file was changed while it was read; start again")
            file = RowFile(temporary, str(path))
            if not len(file):
                raise InputError(f"{path}: there are no rows")
            if beside:
                facts |= {"keys": keys, "digest": content_digest(path)}
                facts |= {"shape": [len(file), file.columns], "dtype": file.dtype.name}
                _keep(path, temporary, facts)
    return facts, file


@contextlib.contextmanager
def _alone_at(path: Path) -> Iterator[None]:
    """Let one process at a time convert a file, where the system can lock it."""
    with path.open("rb") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
