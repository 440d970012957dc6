"""CSV and TSV files: numbers by numpy.loadtxt, a converted copy beside large ones."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import json
import mmap
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.frames import MISSING, has_polars, read_mixed_csv
from nanotorch.training.errors import InputError, needs_extra

LARGE = 16 * 2**20  # bytes from which a converted copy is kept
CACHE_FORMAT = 1


@dataclass
class TextTable:
    """What a text file holds; text columns as positions in their categories."""

    names: list[str]
    values: NDArray[Any]
    categories: dict[str, list[str]]
    first_line: int


def read_text_table(path: Path, cache: bool, dtype: np.dtype[Any]) -> TextTable:
    """The table in a CSV or TSV file; errors name file, line and column."""
    large = cache and path.stat().st_size >= LARGE
    if large and (copy := _from_cache(path, dtype)):
        return copy
    table = _parse(path, dtype)
    if large:
        _to_cache(path, table, dtype)
    return table


# --- parsing -----------------------------------------------------------------------------------


def _parse(path: Path, dtype: np.dtype[Any]) -> TextTable:
    delimiter, names, header = _layout(path)
    try:
        values = _load(path, dtype, delimiter, skip=int(header))
    except ValueError:
        words = _first_word(path, delimiter, names, header)
        if not has_polars():
            raise needs_extra(words, "polars (for text and gaps)", "data") from None
        names, mixed, categories = read_mixed_csv(path, delimiter, names, header)
        return TextTable(names, mixed, categories, 1 + header)
    if values.size and values.shape[1] != len(names):
        _first_word(path, delimiter, names, header)
    return TextTable(names, values, {}, 1 + header)


def text_chunks(path: Path, rows: int) -> Iterator[TextTable]:
    """The table in pieces of at most `rows` rows; a file with text columns comes whole."""
    delimiter, names, header = _layout(path)
    first_line = 1 + header
    with path.open(encoding="utf-8-sig") as file:
        for _ in range(header):
            file.readline()
        while True:
            try:
                values = _load(file, np.dtype(np.float32), delimiter, rows=rows)
            except ValueError:
                if first_line == 1 + header:
                    yield _parse(path, np.dtype(np.float32))
                    return
                raise InputError(_first_word(path, delimiter, names, header)) from None
            if not len(values):
                return
            yield TextTable(names, values, {}, first_line)
            first_line += len(values)


def _load(
    file: Any, dtype: np.dtype[Any], delimiter: str, skip: int = 0, rows: int | None = None
) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no rows: the caller tells that better
        return np.loadtxt(
            file,
            dtype=dtype,
            delimiter=delimiter,
            skiprows=skip,
            max_rows=rows,
            comments=None,
            encoding="utf-8",
            ndmin=2,
        )


def _layout(path: Path) -> tuple[str, list[str], bool]:
    """Delimiter, column names, and whether the first line is a header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    if "\0" in first:
        raise InputError(f"{path}: not a text file (it holds zero bytes)")
    if not first.strip():
        raise InputError(f"{path}:1: expected column names or numbers, found an empty line")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if delimiter not in first:
        delimiter = next((other for other in ";\t|" if other in first), delimiter)
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
    header = not all(_is_number(cell) or cell in MISSING for cell in cells)
    names = cells if header else [str(number) for number in range(len(cells))]
    return delimiter, [name or str(number) for number, name in enumerate(names)], header


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_word(path: Path, delimiter: str, names: list[str], header: bool) -> str:
    """Words about the first cell that is not a number; InputError for a row of another width."""
    width, words = len(names), ""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter)
            for at, row in enumerate(rows):
                place = f"{path}:{rows.line_num}"
                if row and len(row) != width:
                    raise InputError(
                        f"{place}: expected {width} columns as in the first line, found {len(row)}"
                    )
                if words or (header and at == 0):
                    continue
                for name, cell in zip(names, row, strict=False):
                    if not _is_number(cell):
                        missing = cell.strip() in MISSING
                        what = "the value is missing" if missing else "expected a number"
                        found = "" if missing else f", found {cell.strip()!r}"
                        words = f"{place}, column {name!r}: {what}{found}"
                        break
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a table: {error}") from None
    return words


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


def _cache_paths(path: Path, dtype: np.dtype[Any]) -> tuple[Path, Path]:
    stem = f".{path.name}.{dtype.name}"
    return path.with_name(f"{stem}.npy"), path.with_name(f"{stem}.json")


def _from_cache(path: Path, dtype: np.dtype[Any]) -> TextTable | None:
    """The converted copy, if it was made from exactly this content."""
    array_path, facts_path = _cache_paths(path, dtype)
    try:
        facts = json.loads(facts_path.read_text(encoding="utf-8"))
        if facts["format"] != CACHE_FORMAT or facts["digest"] != content_digest(path):
            return None
        values = np.load(array_path, mmap_mode="r", allow_pickle=False)
        if list(values.shape) != facts["shape"] or values.dtype.name != facts["dtype"]:
            return None
        return TextTable(facts["names"], values, facts["categories"], facts["first_line"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _to_cache(path: Path, table: TextTable, dtype: np.dtype[Any]) -> None:
    """Keep a converted copy; a folder that cannot be written to just keeps none."""
    array_path, facts_path = _cache_paths(path, dtype)
    facts = {
        "format": CACHE_FORMAT,
        "digest": content_digest(path),
        "shape": list(table.values.shape),
        "dtype": table.values.dtype.name,
        "names": table.names,
        "categories": table.categories,
        "first_line": table.first_line,
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
