"""Text and Parquet files larger than memory: their values are put into a file of numbers in pieces.

Texts are written in the order in which they come at first, and in a second pass over the file of
numbers as what they mean among all texts of their column.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Reading
from nanotorch.training.data.cells import MOST_TEXTS, Cells, TextTable, meaning, text_table
from nanotorch.training.data.frames import frame_batches
from nanotorch.training.data.hashing import numbers_of_cells
from nanotorch.training.data.layout import Layout, guess_layout, opened_text
from nanotorch.training.data.polars_text import columns_by_polars, suits_polars, whole_lines
from nanotorch.training.data.row_files import MatrixWriter
from nanotorch.training.data.tables import translated
from nanotorch.training.data.text_files import (
    Parts,
    Sink,
    columns_of_cells,
    pieces_of_numbers,
    plain_errors,
)

AT_ONCE = 2**16  # rows that are taken apart at once

Columns = dict[int, tuple[int, NDArray[np.float64]]]  # of first rows, how many and what for


def convert_text(path: Path, reading: Reading, into: MatrixWriter) -> TextTable:
    """Write a text file's values into a file of numbers, piece by piece."""
    with plain_errors(path):
        layout = guess_layout(path, reading)
        table = _convert_numbers(path, layout, into) or _convert_columns(path, layout, into)
    table.notes = layout.notes + table.notes
    table.guesses = layout.guesses(reading)
    return table


def _convert_numbers(path: Path, layout: Layout, into: MatrixWriter) -> TextTable | None:
    """The table of a file of plain numbers; None for any other."""
    into.begin(len(layout.names))
    finite = True
    for values in pieces_of_numbers(path, layout, AT_ONCE):
        if values is None:
            return None
        finite = finite and bool(np.isfinite(values).all())
        into.add(values)
    if not finite:  # a place is going to be named: are there blank lines?
        with opened_text(path, layout.encoding) as file:
            if sum(1 for _ in file) != layout.skip + into.rows:
                return None
    return TextTable(layout.names, np.empty((0, len(layout.names))), {}, layout.skip + 1)


def _convert_columns(path: Path, layout: Layout, into: MatrixWriter) -> TextTable:
    """Any table: by polars, where it is plain, or cell by cell."""

    def sink(parts: list[Cells]) -> None:
        into.add(np.column_stack([part.release(layout) for part in parts]))

    texts: set[int] = set()
    columns: Parts | set[int] | None = texts
    readers = [_columns_by_polars, columns_of_cells]
    while columns is None or isinstance(columns, set):
        if columns is None:  # polars does not read such files
            readers.pop(0)
        else:  # numbers that turned out to be text further down: once more
            texts |= columns
        into.begin(len(layout.names))
        columns = readers[0](path, layout, texts, sink)
    parts, lines, repeated = columns
    columns_of_text = {at: part for at, part in enumerate(parts) if not part.plain}
    told_apart = {at: part for at, part in columns_of_text.items() if not part.crowded}
    meanings = {at: meaning(part.distinct, layout) for at, part in told_apart.items()}
    crowded = [at for at in columns_of_text if at not in meanings]
    numbers: Columns = {at: (into.rows, part.values) for at, part in meanings.items()}
    numbers |= {at: (parts[at].first_rows, parts[at].first_numbers) for at in crowded}
    _translate(into, numbers)
    line = int(lines[0]) if len(lines) else None
    values = np.empty((0, len(parts)))
    table = text_table(list(layout.names), values, meanings, line, repeated)
    table.crowded = [layout.names[at] for at in crowded]
    return table


def _columns_by_polars(
    path: Path, layout: Layout, texts: set[int], sink: Sink
) -> Parts | set[int] | None:
    """As `columns_of_cells`, of a plain file; None for any other, or without polars."""
    if not suits_polars(path, layout):
        return None
    parts = [Cells(plain=layout.reads_plain and at not in texts) for at in range(len(layout.names))]
    skip = layout.skip
    for content in whole_lines(path):
        missing = [layout.missing if part.plain else None for part in parts]
        columns = columns_by_polars(content, layout.delimiter, skip, missing)
        if columns is None:
            return None
        late = set()
        for at, (part, (values, cells)) in enumerate(zip(parts, columns, strict=True)):
            if not (part.add_numbers(values) if cells is None else part.add_codes(values, cells)):
                late.add(at)
        if late:
            return late
        sink(parts)
        skip = 0
    named = zip(layout.names, parts, strict=True)
    if layout.header and all(name in part.distinct for name, part in named):
        return None  # rows may repeat the names
    return parts, np.array([layout.skip + 1]), 0


def convert_parquet(path: Path, reading: Reading, into: MatrixWriter) -> TextTable:
    """Write a Parquet file's values into a file of numbers, piece by piece."""
    places: dict[str, dict[str, int]] = {}
    crowded: dict[str, int] = {}  # columns of too many texts, and the rows before they were
    names: list[str] = []
    for names, values, categories in frame_batches(path, AT_ONCE):
        if not into.columns:
            into.begin(len(names))
        for at, name in enumerate(names):
            if name in categories:
                known = places.setdefault(name, {})
                if name in crowded:  # whose later rows are the numbers that stand for the texts
                    codes = numbers_of_cells(categories[name], ())
                else:
                    codes = np.array([known.setdefault(t, len(known)) for t in categories[name]])
                    if len(known) > MOST_TEXTS:
                        crowded[name] = into.rows + len(values)
                values[:, at] = translated(values[:, at], np.append(codes, np.nan))
        into.add(values)
    texts = {name: sorted(known) for name, known in places.items()}
    present = {names.index(name): [*known] for name, known in places.items() if known}
    numbers: Columns = {}
    for at, cells in present.items():
        if names[at] in crowded:
            numbers[at] = crowded[names[at]], numbers_of_cells(cells, ())
        else:
            numbers[at] = into.rows, np.argsort(np.argsort(cells)).astype(np.float64)
    _translate(into, numbers)
    categories = {name: [] if name in crowded else each for name, each in texts.items()}
    values = np.empty((0, len(names)))
    return TextTable(names, values, categories, None, crowded=[*crowded])


def _translate(into: MatrixWriter, columns: Columns) -> None:
    """Put numbers for the positions of texts: in columns, in so many first rows, these numbers."""
    row = 0

    def change(values: NDArray[np.float64]) -> None:
        nonlocal row
        for at, (rows, numbers) in columns.items():
            part = values[: max(0, rows - row), at]
            part[:] = translated(part, np.append(numbers, np.nan))
        row += len(values)

    if columns:
        into.rewrite(change)
