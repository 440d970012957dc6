"""Text files of rows: numbers by polars or numpy.loadtxt, all else by polars or cell by cell."""

from __future__ import annotations

import contextlib
import csv
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Reading
from nanotorch.training.data.cells import Cells, TextTable, text_table
from nanotorch.training.data.copies import copy_of_text, keep_copy_of_text
from nanotorch.training.data.identity import content_digest
from nanotorch.training.data.layout import (
    SPACES,
    Layout,
    guess_layout,
    opened,
    opened_text,
    use_western,
)
from nanotorch.training.data.polars_text import (
    numbers_by_polars,
    suits_polars,
    table_by_polars,
    whole_lines,
)
from nanotorch.training.errors import InputError, reading as reading_of

LARGE = 16 * 2**20  # bytes from which a converted copy is kept
WORTH_IT = 2**21  # bytes from which polars is faster than its import takes
WORTH_IMPORT = 2**24  # of numbers alone, which numpy.loadtxt reads as well
LONGEST_CELL = 2**24  # characters

Parts = tuple[list[Cells], NDArray[np.int64], int]
Sink = Callable[[list[Cells]], None]


def read_text_table(path: Path, reading: Reading) -> TextTable:
    """The table in a text file; errors name file, line and column."""
    large = reading.cache and path.stat().st_size >= LARGE
    if large and (copy := copy_of_text(path, reading)):
        return copy
    with ThreadPoolExecutor(1) as beside, plain_errors(path):
        digest = beside.submit(content_digest, path) if large else None
        layout = guess_layout(path, reading)
        try:
            table = _table(path, layout)
        except UnicodeDecodeError as error:
            # Of a text that begins in ASCII, the encoding shows only further down.
            if reading.encoding is not None or not error.object[: error.start].isascii():
                raise
            with opened(path) as file:
                use_western(layout, file.read())
            table = _table(path, layout)
    table.notes = layout.notes + table.notes
    table.guesses = layout.guesses(reading)
    if digest is not None:
        table.digest = digest.result()
        keep_copy_of_text(path, table, reading)
    return table


def text_chunks(path: Path, rows: int, reading: Reading) -> Iterator[TextTable]:
    """The table in pieces of at most `rows` rows; a file with text columns comes whole."""
    with plain_errors(path):
        layout = guess_layout(path, reading)
        line = layout.skip + 1
        for values in pieces_of_numbers(path, layout, rows):
            if values is not None:
                yield TextTable(layout.names, values, {}, line)
                line += len(values)
            elif line == layout.skip + 1:
                yield read_text_table(path, reading)
            else:  # what came before is written already
                _cell_by_cell(path, layout)
                raise InputError(
                    f"{path}:{line}: the file begins with numbers alone and has text from "
                    f"about here on; data.types says what its columns are"
                )


@contextlib.contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Errors of the parsers in words of our own."""
    with reading_of(path, "a table of text"):
        longest = csv.field_size_limit(LONGEST_CELL)
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
        finally:
            csv.field_size_limit(longest)


def _table(path: Path, layout: Layout) -> TextTable:
    """The table by the first reader that reads it: they agree about all that they read."""
    readers = [_numbers, _by_polars, _cell_by_cell]
    if _worth_polars(path):
        readers = [_by_polars, _numbers, _cell_by_cell]
    return next(table for reader in readers if (table := reader(path, layout)) is not None)


# --- numbers alone -------------------------------------------------------------------------------


def _worth_polars(path: Path) -> bool:
    """Whether polars reads numbers sooner than numpy.loadtxt, its import included."""
    return "polars" in sys.modules or path.stat().st_size >= WORTH_IMPORT


def _numbers(path: Path, layout: Layout) -> TextTable | None:
    """The table of a file of plain numbers by numpy.loadtxt; None for any other."""
    if layout.comment or not layout.reads_plain:
        return None
    with opened_text(path, layout.encoding) as file:
        values = _load(file, layout, skip=layout.skip)
    if values is None:
        return None
    if not np.isfinite(values).all():  # a place is going to be named: are there blank lines?
        with opened_text(path, layout.encoding) as file:
            if sum(1 for _ in file) != layout.skip + len(values):
                return None
    return TextTable(layout.names, values, {}, layout.skip + 1)


def pieces_of_numbers(path: Path, layout: Layout, rows: int) -> Iterator[NDArray[Any] | None]:
    """The rows of a file of plain numbers, so many at a time; at last None where it goes on
    otherwise."""
    if layout.comment or not layout.reads_plain:
        yield None
        return
    line, rest = layout.skip, np.empty((0, len(layout.names)))
    for piece in _pieces_by_polars(path, layout):
        if piece is None:
            break
        rest = np.concatenate([rest, piece])
        while len(rest) >= rows:
            yield rest[:rows]
            rest, line = rest[rows:], line + rows
    else:
        if len(rest):
            yield rest
        return
    with opened_text(path, layout.encoding) as file:
        for _ in range(line):
            file.readline()
        while (values := _load(file, layout, rows=rows)) is not None and len(values):
            yield values
        if values is None:
            yield None


def _pieces_by_polars(path: Path, layout: Layout) -> Iterator[NDArray[np.float64] | None]:
    """The rows of a plain file of numbers by polars; at last None where it is, or goes on, as
    another one."""
    if not _worth_polars(path) or path.stat().st_size < WORTH_IT or not suits_polars(path, layout):
        yield None
        return
    skip = layout.skip
    for content in whole_lines(path):
        values = numbers_by_polars(content, layout.delimiter, skip, len(layout.names))
        yield values
        if values is None:
            return
        skip = 0


def _load(file: Any, layout: Layout, skip: int = 0, rows: int | None = None) -> Any:
    """The next rows of numbers alone; None where they hold anything else."""
    try:
        values = np.loadtxt(
            file,
            dtype=np.float64,
            delimiter=None if layout.delimiter == SPACES else layout.delimiter,
            skiprows=skip,
            max_rows=rows,
            comments=None,
            encoding=layout.encoding,
            ndmin=2,
        )
    except InputError:
        raise
    except (ValueError, OverflowError):
        return None
    return None if values.size and values.shape[1] != len(layout.names) else values


# --- numbers and texts ---------------------------------------------------------------------------


def _by_polars(path: Path, layout: Layout) -> TextTable | None:
    """The table of a large plain file, where polars is installed; None for others."""
    if path.stat().st_size < WORTH_IT or not suits_polars(path, layout):
        return None
    read = table_by_polars(path, layout)
    return None if read is None else text_table(layout.names, *read, layout.skip + 1)


def _cell_by_cell(path: Path, layout: Layout) -> TextTable:
    """Any table."""
    texts: set[int] = set()  # columns of which every cell is kept as text at first
    while isinstance(columns := columns_of_cells(path, layout, texts), set):
        texts |= columns  # numbers that turned out to be text further down: once more
    parts, lines, repeated = columns
    names = list(layout.names)
    if len(lines) and names[-1] == f"Unnamed: {len(names) - 1}" and parts[-1].is_blank:
        names.pop()  # of a delimiter at the end of each row
    meanings = {at: part.meaning(layout) for at, part in enumerate(parts[: len(names)])}
    values = np.column_stack([part.values for part in meanings.values()])
    return text_table(names, values.astype(np.float64, copy=False), meanings, lines, repeated)


def columns_of_cells(
    path: Path, layout: Layout, texts: set[int], sink: Sink | None = None
) -> Parts | set[int]:
    """The columns, the lines of the rows, and how many rows repeat the names; or the columns that
    were taken for plain numbers and hold text further down. A `sink` takes blocks away."""
    names, width = layout.names, len(layout.names)
    parts = [Cells(plain=layout.reads_plain and at not in texts) for at in range(width)]
    lines: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    rows_taken = 0
    late: set[int] = set()
    repeated = 0
    with opened_text(path, layout.encoding) as file:
        for _ in range(layout.skip):
            file.readline()
        for numbers, rows in layout.blocks(file):
            if set(map(len, rows)) != {width}:
                numbers, rows = _rows_of_width(path, layout, numbers, rows)
            if layout.header and names in rows:
                others = [row != names for row in rows]
                repeated += others.count(False)
                numbers = list(itertools.compress(numbers, others))
                rows = list(itertools.compress(rows, others))
            lines.append(np.array(numbers, dtype=np.int64) + layout.skip)
            for at, cells in enumerate(zip(*rows, strict=True)):
                if not parts[at].add(cells, layout):
                    late.add(at)
            if sink is not None and rows and not late:
                sink(parts)
                # Of lines that follow each other the first one says all; others are not kept.
                first = lines[0][:1] if rows_taken else lines[-1][:1]
                rows_taken += len(rows)
                follow = len(first) and lines[-1][-1] == first[0] + rows_taken - 1
                lines = [first if follow else first[:0]]
    return late or (parts, np.concatenate(lines), repeated)


def _rows_of_width(
    path: Path, layout: Layout, numbers: Sequence[int], rows: list[list[str]]
) -> tuple[Sequence[int], list[list[str]]]:
    """Take empty cells off the ends of rows that have too many, and leave out comments; a row that
    has another width then ends the reading."""
    width = len(layout.names)
    good = []
    for number, row in zip(numbers, rows, strict=True):
        while len(row) > width and not row[-1].strip():
            row.pop()
        if len(row) != width and layout.comment is None and row[0].lstrip().startswith("#"):
            continue
        if len(row) != width:
            hint = ""
            if width == 1:
                hint = "; is the first line a title? take it out, or set data.comment to its start"
            raise InputError(
                f"{path}:{number + layout.skip}: expected {width} columns as in the first "
                f"line, found {len(row)}{hint}"
            )
        good.append((number, row))
    return [number for number, _ in good], [row for _, row in good]
