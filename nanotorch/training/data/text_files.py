"""Text files of rows: numbers by numpy.loadtxt, all else cell by cell; a copy beside large ones."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import json
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Reading
from nanotorch.training.data.frames import split_by_polars
from nanotorch.training.data.layout import PACKED, SPACES, Layout, guess_layout, opened_text
from nanotorch.training.data.values import is_number
from nanotorch.training.errors import InputError, reading as reading_of

LARGE = 16 * 2**20  # bytes from which a converted copy is kept
WORTH_IT = 2**21  # bytes from which another reader is faster than its import takes
CACHE_FORMAT = 2


@dataclass
class TextTable:
    """What a text file holds; text columns as positions in their categories."""

    names: list[str]
    values: NDArray[Any]
    categories: dict[str, list[str]]
    lines: NDArray[np.int64] | int  # of the rows; where they follow each other, of the first one
    notes: list[str] = field(default_factory=list)
    guesses: dict[str, Any] = field(default_factory=dict)


def read_text_table(path: Path, reading: Reading) -> TextTable:
    """The table in a text file; errors name file, line and column."""
    large = reading.cache and path.stat().st_size >= LARGE
    if large and (copy := _from_cache(path, reading)):
        return copy
    with _one_line(path):
        layout = guess_layout(path, reading)
        table = _numbers(path, layout) or _by_polars(path, layout)
        table = table or _mixed(path, layout, reading)
    table.notes = layout.notes + table.notes
    table.guesses = layout.guesses(reading)
    if large:
        _to_cache(path, table, reading)
    return table


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Errors of the parsers in words of our own."""
    with reading_of(path, "a table of text"):
        try:
            yield
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not text in {error.encoding} (byte {error.start}); "
                f'data.encoding = "latin-1" would read any file'
            ) from None
        except csv.Error:
            raise InputError(
                f"{path}: a cell is not closed or too long: a quotation mark may be missing"
            ) from None


# --- parsing -----------------------------------------------------------------------------------


def _numbers(path: Path, layout: Layout) -> TextTable | None:
    """The fast way, for a file of plain numbers; None for any other."""
    if layout.comment or layout.numbers.decimal != "." or layout.numbers.thousands:
        return None
    packed = path.suffix.lower() in (".zip", *PACKED)
    try:
        if not packed and layout.encoding.startswith("utf-8"):
            values = _load(path, layout, layout.skip)
        else:
            with opened_text(path, layout.encoding) as file:
                values = _load(file, layout, layout.skip)
    except (ValueError, OverflowError):
        return None
    if values.size and values.shape[1] != len(layout.names):
        return None
    return TextTable(layout.names, values, {}, layout.skip + 1)


def _load(file: Any, layout: Layout, skip: int = 0, rows: int | None = None) -> NDArray[Any]:
    return np.loadtxt(
        file,
        dtype=np.float64,
        delimiter=None if layout.delimiter == SPACES else layout.delimiter,
        skiprows=skip,
        max_rows=rows,
        comments=None,
        encoding=layout.encoding,
        ndmin=2,
    )


def text_chunks(path: Path, rows: int, reading: Reading) -> Iterator[TextTable]:
    """The table in pieces of at most `rows` rows; a file with text columns comes whole."""
    with _one_line(path):
        layout = guess_layout(path, reading)
        line = layout.skip + 1
        with opened_text(path, layout.encoding) as file:
            for _ in range(layout.skip):
                file.readline()
            while True:
                try:
                    values = _load(file, layout, rows=rows)
                    if values.size and values.shape[1] != len(layout.names):
                        raise ValueError
                except ValueError:
                    if line != layout.skip + 1:  # what came before is written already
                        _mixed(path, layout, reading)
                        raise InputError(
                            f"{path}:{line}: the file begins with numbers alone and has text from "
                            f"about here on; data.types says what its columns are"
                        ) from None
                    yield read_text_table(path, reading)
                    return
                if not len(values):
                    return
                yield TextTable(layout.names, values, {}, line)
                line += len(values)


def _mixed(path: Path, layout: Layout, reading: Reading) -> TextTable:
    """Any table, cell by cell."""
    width, numbers, rows = len(layout.names), [], []
    with opened_text(path, layout.encoding) as file:
        for _ in range(layout.skip):
            file.readline()
        for number, row in layout.rows(file):
            if len(row) != width and not _fitted(row, width):
                if layout.comment is None and row[0].lstrip().startswith("#"):
                    continue
                raise InputError(
                    f"{path}:{number + layout.skip}: expected {width} columns as in the first "
                    f"line, found {len(row)}"
                )
            numbers.append(number + layout.skip)
            rows.append(row)
    columns: list[Sequence[str]] = list(zip(*rows)) if rows else [()] * width
    names = list(layout.names)
    if rows and names[-1] == f"Unnamed: {width - 1}" and not any(map(str.strip, columns[-1])):
        names.pop()  # of a delimiter at the end of each row
    values = np.empty((len(rows), len(names)))
    categories: dict[str, list[str]] = {}
    written: list[str] = []
    for at, name in enumerate(names):
        values[:, at], texts, plain = _column(columns[at], layout)
        if texts is not None:
            categories[name] = texts
        elif not plain:
            written.append(name)
    notes = []
    if written:
        shown = ", ".join(written[:5]) + (" …" if len(written) > 5 else "")
        example = next(c for c in columns[names.index(written[0])] if not is_number(c.strip()))
        notes.append(f"numbers written like {example.strip()!r} are read as numbers: {shown}")
    lines = np.array(numbers, dtype=np.int64)
    return TextTable(names, values, categories, lines, notes)


def _by_polars(path: Path, layout: Layout) -> TextTable | None:
    """The same as `_mixed` for a large plain file, where polars is installed; None for others."""
    plain = layout.encoding == "utf-8" and layout.comment is None and layout.delimiter != SPACES
    if not plain or path.suffix.lower() in (".zip", *PACKED) or path.stat().st_size < WORTH_IT:
        return None
    columns = split_by_polars(path, layout.delimiter, layout.skip)
    if columns is None or len(columns) != len(layout.names):
        return None
    values = np.empty((len(columns[0][0]), len(columns)))
    categories: dict[str, list[str]] = {}
    for at, (codes, cells) in enumerate(columns):
        if cells is None:
            values[:, at] = codes
            continue
        values[:, at], texts, _ = _resolved(codes, cells, layout)
        if texts is not None:
            categories[layout.names[at]] = texts
    if np.isnan(values).all(axis=1).any():
        return None  # rows of delimiters alone
    return TextTable(layout.names, values, categories, layout.skip + 1)


def _fitted(row: list[str], width: int) -> bool:
    """Take empty cells off the end of a row that has too many; whether it fits now."""
    while len(row) > width and not row[-1].strip():
        row.pop()
    return len(row) == width


def _column(
    cells: Sequence[str], layout: Layout
) -> tuple[NDArray[np.float64], list[str] | None, bool]:
    """A column as numbers, or as positions in its sorted texts; whether its numbers are plain."""
    positions: dict[str, int] = {}
    codes = np.array([positions.setdefault(cell, len(positions)) for cell in cells], dtype=np.int64)
    return _resolved(codes, list(positions), layout)


def _resolved(
    codes: NDArray[np.int64], cells: list[str], layout: Layout
) -> tuple[NDArray[np.float64], list[str] | None, bool]:
    """As `_column`, of distinct cells and for each row the position of its cell among them."""
    distinct = [cell.strip() for cell in cells]
    present = [cell for cell in distinct if cell not in layout.missing]
    numbers = layout.numbers.read(present)
    texts = None
    if numbers is not None:
        known = dict(zip(present, numbers, strict=True))
    else:
        texts = sorted(set(present))
        known = {text: float(number) for number, text in enumerate(texts)}
    table = np.array([known.get(cell, np.nan) for cell in distinct])
    values = table[codes] if len(table) else np.empty(len(codes))
    return values, texts, all(map(is_number, present))


# --- the converted copy ------------------------------------------------------------------------


def content_digest(path: Path) -> str:
    """SHA-256 over the SHA-256 of each quarter of a file; the quarters are read in parallel."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        edges = [size * quarter // 4 for quarter in range(5)]
        with memoryview(content) as view, ThreadPoolExecutor(4) as threads:
            pieces = [view[start:end] for start, end in itertools.pairwise(edges)]
            digests = list(threads.map(lambda piece: hashlib.sha256(piece).digest(), pieces))
            for piece in pieces:
                piece.release()
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _cache_paths(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.float64.npy"), path.with_name(f".{path.name}.float64.json")


def _keys(reading: Reading) -> dict[str, Any]:
    """The keys that decide what a file is read as."""
    return reading.model_dump(include=set(Reading.model_fields) - {"source", "cache"})


def _from_cache(path: Path, reading: Reading) -> TextTable | None:
    """The converted copy, if it was made from exactly this content, read in the same way."""
    array_path, facts_path = _cache_paths(path)
    try:
        facts = json.loads(facts_path.read_text(encoding="utf-8"))
        if facts["format"] != CACHE_FORMAT or facts["keys"] != _keys(reading):
            return None
        if facts["digest"] != content_digest(path):
            return None
        values = np.load(array_path, mmap_mode="r", allow_pickle=False)
        if list(values.shape) != facts["shape"] or values.dtype.name != facts["dtype"]:
            return None
        lines = facts["lines"]
        lines = np.array(lines, dtype=np.int64) if isinstance(lines, list) else lines
        names, categories = facts["names"], facts["categories"]
        return TextTable(names, values, categories, lines, facts["notes"], facts["guesses"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _to_cache(path: Path, table: TextTable, reading: Reading) -> None:
    """Keep a converted copy; a folder that cannot be written to just keeps none."""
    array_path, facts_path = _cache_paths(path)
    facts = {
        "format": CACHE_FORMAT,
        "keys": _keys(reading),
        "digest": content_digest(path),
        "shape": list(table.values.shape),
        "dtype": table.values.dtype.name,
        "names": table.names,
        "categories": table.categories,
        "lines": table.lines if isinstance(table.lines, int) else table.lines.tolist(),
        "notes": table.notes,
        "guesses": table.guesses,
    }
    with contextlib.suppress(OSError):
        # The facts go first and come back last: a copy without facts is never read.
        facts_path.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                np.save(file, np.ascontiguousarray(table.values), allow_pickle=False)
                os.replace(file.name, array_path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        facts_path.write_text(json.dumps(facts), encoding="utf-8")
