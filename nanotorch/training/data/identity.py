"""Which data a run has seen: the file's SHA-256, the rows of each part, and marks of the rows."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.row_files import load_array
from nanotorch.training.errors import InputError, reading
from nanotorch.training.files import sha256

IDENTITY, MARKS = "data.json", "train_rows.npy"  # in a run folder
CHUNK = 2**22  # values marked at once
PIECE = 2**20  # bytes hashed at once


def content_digest(path: Path) -> str:
    """SHA-256 over the SHA-256 of each quarter of a file; the quarters are read in parallel."""
    size = path.stat().st_size
    edges = [size * quarter // 4 for quarter in range(5)]

    def digest(span: tuple[int, int]) -> bytes:
        hashed = hashlib.sha256()
        with path.open("rb") as file:
            file.seek(span[0])
            for start in range(*span, PIECE):
                hashed.update(file.read(min(PIECE, span[1] - start)))
        return hashed.digest()

    with ThreadPoolExecutor(4) as threads:
        digests = list(threads.map(digest, itertools.pairwise(edges)))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def file_digest(source: str) -> str | None:
    """SHA-256 of a data file; None for what is no file, as a bundled data set or a frame."""
    path = Path(source)
    return content_digest(path) if path.is_file() else None


def rows_digest(rows: NDArray[np.int64]) -> str:
    return sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes())


def marks_of(features: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each row of features, the same wherever the same row is met again."""
    width = features.shape[1]
    odd = np.random.default_rng(0).integers(0, 2**63, width, dtype=np.uint64) * np.uint64(2) + 1
    marks = np.empty(len(features), dtype=np.uint64)
    step = max(1, CHUNK // max(1, width))
    for start in range(0, len(features), step):
        bits = (features[start : start + step].astype(np.float64) + 0.0).view(np.uint64)
        bits ^= bits >> np.uint64(29)  # whole numbers differ in their upper bits alone
        marks[start : start + step] = (bits * odd).sum(axis=1, dtype=np.uint64)
    return marks


def column_marks(
    values: NDArray[Any], names: list[str], categories: dict[str, list[str]]
) -> list[str]:
    """A mark for each column, the same for the same values or texts in any order."""
    marks = np.zeros(values.shape[1], dtype=np.uint64)
    step = max(1, CHUNK // max(1, values.shape[1]))
    for start in range(0, len(values), step):
        bits = (values[start : start + step].astype(np.float64) + 0.0).view(np.uint64)
        for shift in (29, 32):  # whole numbers differ in their upper bits alone
            bits ^= bits >> np.uint64(shift)
            bits *= np.uint64(0x9E3779B97F4A7C15)
        marks += bits.sum(axis=0, dtype=np.uint64)
    texts = [sha256(json.dumps(categories.get(name)).encode())[:16] for name in names]
    return [f"{mark:016x}{text}" for mark, text in zip(marks.tolist(), texts, strict=True)]


def marks_file(marks: NDArray[np.uint64]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.sort(marks), allow_pickle=False)
    return file.getvalue()


def marks_in(run: Path) -> NDArray[np.uint64] | None:
    """The marks of the rows that a run was trained on; None for a run that did not note them."""
    path = run / MARKS
    if not path.is_file():
        return None
    return load_array(path, "the marks of a run's rows")


def known_rows(marks: NDArray[np.uint64], features: NDArray[Any]) -> int:
    """How many rows of features have one of these marks."""
    return int(np.isin(marks_of(features), marks).sum())


def require_same(run: Path, now: dict[str, Any], allowed: bool) -> None:
    """InputError if a run's data are not what they were, unless that is `allowed`."""
    path = run / IDENTITY
    if allowed or not path.is_file():
        return
    with reading(path, "the identity of a run's data"):
        before = json.loads(path.read_text(encoding="utf-8"))
        changes = [_change(file, before["files"], now["files"]) for file in before["files"]]
        words = "; ".join(change for change in changes if change)
        if not words and before["parts"] != now["parts"]:
            words = "the rows are divided in another way"
    if words:
        raise InputError(
            f"{run}: its data have changed since: {words}; --allow-changed-data would go on"
        )


def _change(file: str, before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What is another in a file."""
    one, other = before[file], now.get(file)
    if other is None:
        return f"{file} is not its source any more"
    if one["sha256"] == other["sha256"]:
        return None
    if one["rows"] != other["rows"]:
        return f"{file} has {other['rows']:,} rows, and had {one['rows']:,}"
    if one["columns"] != other["columns"]:
        new = [name for name in other["columns"] if name not in one["columns"]]
        lost = [name for name in one["columns"] if name not in other["columns"]]
        words = [f"with {', '.join(new[:5])}"] if new else []
        words += [f"without {', '.join(lost[:5])}"] if lost else []
        return f"{file} has other columns ({' and '.join(words) or 'in another order'})"
    if one.get("marks") is None or other.get("marks") is None:
        return f"{file} has other values, or its rows in another order"
    pairs = zip(one["columns"], one["marks"], other["marks"], strict=True)
    edited = [name for name, mark, other_mark in pairs if mark != other_mark]
    if edited:
        return f"{file} has other values in {', '.join(edited[:5])}"
    return f"{file} has its rows in another order, or is written in another way"
