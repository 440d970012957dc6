"""Text files of rows: numbers by polars or numpy.loadtxt, all else cell by cell; a copy beside
large ones.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import importlib.util
import itertools
import json
import operator
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Reading
from nanotorch.training.data.frames import numbers_by_polars, split_by_polars, typed_by_polars
from nanotorch.training.data.hashing import numbers_of_cells
from nanotorch.training.data.layout import (
    DELIMITERS,
    PACKED,
    SPACES,
    Layout,
    guess_layout,
    named_columns,
    opened,
    opened_text,
    use_western,
)
from nanotorch.training.data.row_files import MatrixWriter, load_array
from nanotorch.training.data.values import MISSING, NO_NUMBER, is_number
from nanotorch.training.errors import InputError, reading as reading_of
from nanotorch.training.files import remove_left_behind, sync_file, write_whole

LARGE = 16 * 2**20  # bytes from which a converted copy is kept
WORTH_IT = 2**21  # bytes from which another reader is faster than its import takes
WORTH_IMPORT = 2**24  # of numbers alone, which numpy.loadtxt reads as well
LONGEST_CELL = 2**24  # characters
CACHE_FORMAT = 5
PIECE = 2**20  # bytes hashed at once
MOST_TEXTS = 2**20  # distinct cells of a column in a file that is not held in memory
AT_ONCE = 2**16  # rows of such a file that are taken apart at once
BYTES_AT_ONCE = 2**24


@dataclass
class TextTable:
    """What a text file holds; text columns as positions in their categories."""

    names: list[str]
    values: NDArray[Any]
    categories: dict[str, list[str]]
    # Of the rows; where they follow each other, of the first one; None where they are not known.
    lines: NDArray[np.int64] | int | None
    notes: list[str] = field(default_factory=list)
    guesses: dict[str, Any] = field(default_factory=dict)
    crowded: list[str] = field(default_factory=list)  # columns of too many texts to tell apart


def read_text_table(path: Path, reading: Reading) -> TextTable:
    """The table in a text file; errors name file, line and column."""
    large = reading.cache and path.stat().st_size >= LARGE
    if large and (copy := _from_cache(path, reading)):
        return copy
    with ThreadPoolExecutor(1) as beside, _one_line(path):
        digest = beside.submit(content_digest, path) if large else None
        layout = guess_layout(path, reading)
        try:
            table = _parsed(path, layout)
        except UnicodeDecodeError as error:
            # Of a text that begins in ASCII, the encoding shows only further down.
            if reading.encoding is not None or not error.object[: error.start].isascii():
                raise
            with opened(path) as file:
                use_western(layout, file.read())
            table = _parsed(path, layout)
    table.notes = layout.notes + table.notes
    table.guesses = layout.guesses(reading)
    if digest is not None:
        _to_cache(path, table, reading, digest.result())
    return table


def _parsed(path: Path, layout: Layout) -> TextTable:
    readers = [_numbers, _typed_by_polars, _texts_by_polars]
    if _worth_polars(path):
        readers = [_typed_by_polars, _numbers, _texts_by_polars]
    tables = (reader(path, layout) for reader in readers)
    return next((table for table in tables if table is not None), None) or _mixed(path, layout)


def _worth_polars(path: Path) -> bool:
    """Whether polars reads numbers sooner than numpy.loadtxt, its import included."""
    return "polars" in sys.modules or path.stat().st_size >= WORTH_IMPORT


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
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


# --- parsing -----------------------------------------------------------------------------------


def _numbers(path: Path, layout: Layout) -> TextTable | None:
    """The fast way, for a file of plain numbers; None for any other."""
    if layout.comment or not layout.reads_plain:
        return None
    packed = path.suffix.lower() in (".zip", *PACKED)
    try:
        if not packed and layout.encoding.startswith("utf-8"):
            values = _load(path, layout, layout.skip)
        else:
            with opened_text(path, layout.encoding) as file:
                values = _load(file, layout, layout.skip)
    except InputError:
        raise
    except (ValueError, OverflowError):
        return None
    if values.size and values.shape[1] != len(layout.names):
        return None
    if not np.isfinite(values).all():  # a place is going to be named: are there blank lines?
        with opened_text(path, layout.encoding) as file:
            if sum(1 for _ in file) != layout.skip + len(values):
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
        if layout.comment or not layout.reads_plain:
            yield read_text_table(path, reading)
            return
        line = layout.skip + 1
        rest = np.empty((0, len(layout.names)))
        for piece in _pieces_of_numbers(path, layout):
            if piece is None:
                break
            rest = np.concatenate([rest, piece])
            while len(rest) >= rows:
                yield TextTable(layout.names, rest[:rows], {}, line)
                rest, line = rest[rows:], line + rows
        else:
            if len(rest):
                yield TextTable(layout.names, rest, {}, line)
            return
        with opened_text(path, layout.encoding) as file:
            for _ in range(line - 1):
                file.readline()
            while True:
                try:
                    values = _load(file, layout, rows=rows)
                    if values.size and values.shape[1] != len(layout.names):
                        raise ValueError
                except InputError:
                    raise
                except ValueError:
                    if line != layout.skip + 1:  # what came before is written already
                        _mixed(path, layout)
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


def _pieces_of_numbers(path: Path, layout: Layout) -> Iterator[NDArray[np.float64] | None]:
    """The rows of a plain file of numbers alone by polars, in pieces; at last None where the file
    goes on otherwise, or polars is not installed."""
    plain = layout.encoding in ("utf-8", "utf-8-sig") and layout.delimiter in DELIMITERS
    if not plain or not _worth_polars(path) or not _is_large_and_plain(path, layout):
        yield None
        return
    with path.open("rb") as file:
        head = b"".join(file.readline() for _ in range(layout.skip))
        lone = head.count(b"\r") != head.count(b"\r\n")
        if lone or importlib.util.find_spec("polars") is None:
            yield None
            return
        while content := file.read(BYTES_AT_ONCE):
            content += file.readline()
            values = numbers_by_polars(content, layout.delimiter, len(layout.names))
            yield values
            if values is None:
                return


def _mixed(path: Path, layout: Layout) -> TextTable:
    """Any table, cell by cell."""
    texts: set[int] = set()  # columns of which every cell is kept as text at first
    while isinstance(columns := _columns(path, layout, texts), set):
        texts |= columns  # numbers that turned out to be text further down: once more
    parts, lines, repeated = columns
    names = list(layout.names)
    if len(lines) and names[-1] == f"Unnamed: {len(names) - 1}" and parts[-1].is_blank:
        names.pop()  # of a delimiter at the end of each row
    resolved = {at: part.resolved(layout) for at, part in enumerate(parts[: len(names)])}
    values = np.empty((len(resolved[0].values), len(names)))
    return _table(names, values, resolved, lines, repeated)


Parts = tuple[list["Cells"], NDArray[np.int64], int]
Sink = Callable[[list["Cells"]], None]


def _columns(
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
                numbers, rows = _fitted(path, layout, numbers, rows)
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


def _fitted(
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


@dataclass
class Resolved:
    """A column as numbers, or as positions in its sorted texts."""

    values: NDArray[Any]
    texts: list[str] | None = None
    odd: str | None = None  # a number that is not written plainly
    absent: str | None = None  # what is missing though it is no usual word for that


@dataclass
class Cells:
    """A column that is read block by block: as plain numbers as long as it holds nothing else,
    and otherwise as positions among its distinct cells."""

    plain: bool
    blocks: list[NDArray[Any]] = field(default_factory=list)
    distinct: dict[str, int] = field(default_factory=dict)
    begun: bool = False
    is_empty: bool = True  # of numbers
    crowded: bool = False  # whether there are too many distinct cells to tell them apart
    known: NDArray[np.float64] | None = None  # the numbers of the first `counted` rows' cells, …
    counted: int = 0  # … which are positions among them; later rows are the numbers themselves

    @property
    def is_blank(self) -> bool:
        return self.is_empty if self.plain else not any(map(str.strip, self.distinct))

    def add(self, cells: Sequence[str], layout: Layout) -> bool:
        """Add a block; False for text below numbers, which were not kept as text."""
        if self.plain:
            numbers = plain_numbers(cells)
            if numbers is None:
                present = [cell if cell.strip() not in layout.missing else "nan" for cell in cells]
                numbers = plain_numbers(present)
            if numbers is not None:
                return self.add_numbers(numbers)
            if self.begun:
                return False
            self.plain = False
        places = self.distinct
        for cell in dict.fromkeys(cells):
            places.setdefault(cell, len(places))
        self.blocks.append(np.fromiter(map(places.__getitem__, cells), np.int32, len(cells)))
        return True

    def add_numbers(self, numbers: NDArray[np.float64]) -> bool:
        """Add a block of numbers; True."""
        self.blocks.append(numbers)
        self.begun = True
        self.is_empty = self.is_empty and bool(np.isnan(numbers).all())
        return True

    def add_codes(self, codes: NDArray[Any], cells: Sequence[str]) -> bool:
        """Add a block of positions among some cells; False below numbers."""
        if self.plain and self.begun:
            return False
        self.plain = False
        places = [self.distinct.setdefault(cell, len(self.distinct)) for cell in cells]
        self.blocks.append(np.array(places, np.int32)[codes])
        return True

    def taken(self, layout: Layout) -> NDArray[np.float64]:
        """The blocks so far as one, which are not held here any more."""
        values = np.concatenate(self.blocks).astype(np.float64)
        self.blocks.clear()
        if self.crowded:
            numbers = numbers_of_cells(self.distinct, layout.missing)
            values = numbers[values.astype(np.int64)]
        else:
            self.counted += len(values)
            if len(self.distinct) > MOST_TEXTS:
                self.crowded = True
                self.known = numbers_of_cells(self.distinct, layout.missing)
        if self.crowded:
            self.distinct = {"": 0}
        return values

    def resolved(self, layout: Layout) -> Resolved:
        values = np.concatenate(self.blocks) if self.blocks else np.empty(0, np.int64)
        return Resolved(values) if self.plain else resolve(values, list(self.distinct), layout)


def plain_numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Cells that are all plain numbers; None for any others."""
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    text = "".join(cells)
    return numbers if text.isascii() and "_" not in text else None  # which float() would allow


def _typed_by_polars(path: Path, layout: Layout) -> TextTable | None:
    """The same as `_numbers` or `_texts_by_polars` for a file whose columns of numbers begin as
    such, in a fraction of their time; None for others."""
    plain = layout.encoding in ("utf-8", "utf-8-sig") and layout.delimiter in DELIMITERS
    if not plain or not layout.reads_plain or not _is_large_and_plain(path, layout):
        return None
    names, missing = layout.names, layout.missing
    read = typed_by_polars(path, layout.delimiter, layout.skip, missing, len(names))
    return None if read is None else _of_polars(read[0], read[1], layout)


def _texts_by_polars(path: Path, layout: Layout) -> TextTable | None:
    """The same as `_mixed` for a large plain file, where polars is installed; None for others."""
    plain = layout.encoding == "utf-8" and layout.delimiter != SPACES
    if not plain or not _is_large_and_plain(path, layout):
        return None
    absent = layout.missing if layout.reads_plain else None
    columns = split_by_polars(path.read_bytes(), layout.delimiter, layout.skip, absent)
    if columns is None or len(columns) != len(layout.names):
        return None
    values = np.empty((len(columns[0][0]), len(columns)))
    return _of_polars(values, dict(enumerate(columns)), layout)


def _is_large_and_plain(path: Path, layout: Layout) -> bool:
    packed = path.suffix.lower() in (".zip", *PACKED)
    return layout.comment is None and not packed and path.stat().st_size >= WORTH_IT


def _of_polars(values: NDArray[Any], columns: dict[int, Any], layout: Layout) -> TextTable | None:
    """The table of a matrix and columns that are to be put into it; None where rows or a column
    may be left out of it."""
    if len(columns) == len(layout.names) and layout.header:
        cells_of = [cells or () for _, cells in columns.values()]
        if all(name in cells for name, cells in zip(layout.names, cells_of, strict=True)):
            return None  # rows may repeat the names
    parts = {
        at: Resolved(numbers) if cells is None else resolve(numbers, cells, layout)
        for at, (numbers, cells) in columns.items()
    }
    table = _table(layout.names, values, parts, layout.skip + 1)
    blank = np.isnan(table.values[:, 0]) & np.isnan(table.values[:, -1])
    if np.isnan(table.values[blank]).all(axis=1).any():
        return None  # rows of delimiters alone
    if (
        table.names[-1] == f"Unnamed: {len(table.names) - 1}"
        and np.isnan(table.values[:, -1]).all()
    ):
        return None  # a delimiter at the end of each row
    return table


def _table(
    names: list[str],
    values: NDArray[np.float64],
    parts: dict[int, Resolved],
    lines: NDArray[np.int64] | int | None,
    repeated: int = 0,
) -> TextTable:
    """The table of a matrix, into which columns are put in their places, with words about cells
    that are not written as usual."""
    categories: dict[str, list[str]] = {}
    notes = []
    for at, part in parts.items():
        values[:, at] = part.values
        if part.texts is not None:
            categories[names[at]] = part.texts
    for key, words in (("odd", "read as numbers"), ("absent", "missing among numbers")):
        each = [(names[at], getattr(part, key)) for at, part in parts.items()]
        cells = [(name, cell) for name, cell in each if cell is not None]
        if cells:
            listing = ", ".join(name for name, _ in cells[:5]) + (" …" if len(cells) > 5 else "")
            notes.append(f"cells written like {cells[0][1]!r} are {words}: {listing}")
    if repeated:
        notes.append(f"{repeated} rows repeat the names of the columns: left out")
    return TextTable(names, values, categories, lines, notes)


def resolve(codes: NDArray[Any], cells: Sequence[str], layout: Layout) -> Resolved:
    """A column, given its distinct cells and for each row the position of its cell among them."""
    column = meaning(cells, layout)
    values = column.values[codes] if len(cells) else np.empty(len(codes))
    return replace(column, values=values)


def meaning(cells: Sequence[str], layout: Layout) -> Resolved:
    """What distinct cells of a column stand for: numbers, or positions in their sorted texts."""
    distinct = list(map(str.strip, cells))
    present = [cell for cell in distinct if cell not in layout.missing]
    if present and all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in present):
        distinct = [cell if cell in layout.missing else cell[1:-1].strip() for cell in distinct]
        present = [cell for cell in distinct if cell not in layout.missing]
    texts = odd = absent = None
    numbers = layout.numbers.read(present)
    if numbers is None and layout.missing is MISSING and len(present) > 1:
        words = [cell for cell in present if cell in NO_NUMBER]
        if words and (numbers := layout.numbers.read([c for c in present if c not in NO_NUMBER])):
            present = [cell for cell in present if cell not in NO_NUMBER]
            absent = words[0]
    if numbers is not None:
        values_of = dict(zip(present, numbers, strict=True))
        odd = next((cell for cell in present if not is_number(cell)), None)
    else:
        in_order = all(map(operator.lt, present, present[1:]))
        texts = present if in_order else sorted(set(present))
        values_of = {text: float(number) for number, text in enumerate(texts)}
    return Resolved(
        np.array([values_of.get(cell, np.nan) for cell in distinct]), texts, odd, absent
    )


# --- files that are not held in memory -----------------------------------------------------------


def convert_text(path: Path, reading: Reading, into: MatrixWriter) -> TextTable:
    """Write a text file's values into a file of numbers, piece by piece; the table without them."""
    with _one_line(path):
        layout = guess_layout(path, reading)
        table = _convert_numbers(path, layout, into)
        if table is None:
            table = _convert_columns(path, layout, into)
    table.notes = layout.notes + table.notes
    table.guesses = layout.guesses(reading)
    return table


def _convert_numbers(path: Path, layout: Layout, into: MatrixWriter) -> TextTable | None:
    """As `_numbers`, in pieces."""
    if layout.comment or not layout.reads_plain:
        return None
    numbers = TextTable(layout.names, np.empty((0, len(layout.names))), {}, layout.skip + 1)
    into.begin(len(layout.names))
    for piece in _pieces_of_numbers(path, layout):
        if piece is None:
            break
        into.add(piece)
    else:
        return numbers
    into.begin(len(layout.names))
    finite = True
    with opened_text(path, layout.encoding) as file:
        for _ in range(layout.skip):
            file.readline()
        while True:
            try:
                values = _load(file, layout, rows=AT_ONCE)
            except (ValueError, OverflowError):
                return None
            if not len(values):
                break
            if values.shape[1] != len(layout.names):
                return None
            finite = finite and bool(np.isfinite(values).all())
            into.add(values)
    if not finite:
        with opened_text(path, layout.encoding) as file:
            if sum(1 for _ in file) != layout.skip + into.rows:
                return None
    return numbers


def _convert_columns(path: Path, layout: Layout, into: MatrixWriter) -> TextTable:
    """As `_texts_by_polars` and `_mixed`, in pieces: text is written as positions among its
    distinct cells at first, and in a second pass over the copy as what the cells mean."""

    def sink(parts: list[Cells]) -> None:
        into.add(np.column_stack([part.taken(layout) for part in parts]))

    texts: set[int] = set()
    columns: Parts | set[int] | None = texts
    readers = [_columns_by_polars, _columns]
    while columns is None or isinstance(columns, set):
        if columns is None:  # polars does not read such files
            readers.pop(0)
        else:  # numbers that turned out to be text further down: once more
            texts |= columns
        into.begin(len(layout.names))
        columns = readers[0](path, layout, texts, sink)
    parts, lines, repeated = columns
    columns_of_text = {at: part for at, part in enumerate(parts) if not part.plain}
    meanings = {}
    for at, part in columns_of_text.items():
        known = Resolved(np.array([np.nan])) if part.crowded else meaning([*part.distinct], layout)
        meanings[at] = known

    row = 0

    def change(values: NDArray[np.float64]) -> None:
        nonlocal row
        for at, known in meanings.items():
            part = columns_of_text[at]
            codes = values[: max(0, part.counted - row), at].astype(np.int64)
            numbers = known.values if part.known is None else part.known
            values[: len(codes), at] = numbers[codes]
        row += len(values)

    if meanings:
        into.rewrite(change)
    nothing = {at: replace(known, values=np.empty(0)) for at, known in meanings.items()}
    line = int(lines[0]) if len(lines) else None
    table = _table(list(layout.names), np.empty((0, len(parts))), nothing, line, repeated)
    table.crowded = [layout.names[at] for at, part in columns_of_text.items() if part.crowded]
    return table


def _columns_by_polars(
    path: Path, layout: Layout, texts: set[int], sink: Sink
) -> Parts | set[int] | None:
    """As `_columns`, of a plain file; None for any other, or without polars."""
    plain = layout.encoding == "utf-8" and layout.comment is None and layout.delimiter != SPACES
    if not plain or path.suffix.lower() in (".zip", *PACKED):
        return None
    parts = [Cells(plain=layout.reads_plain and at not in texts) for at in range(len(layout.names))]
    absent = [layout.missing if part.plain else None for part in parts]
    skip, rest = layout.skip, b""
    with path.open("rb") as file:
        while piece := file.read(BYTES_AT_ONCE):
            content = rest + piece
            end = content.rfind(b"\n") + 1 if len(piece) == BYTES_AT_ONCE else len(content)
            rest, content = content[end:], content[:end]
            columns = split_by_polars(content, layout.delimiter, skip, absent) if content else []
            if columns is None or (content and len(columns) != len(parts)):
                return None
            late = set()
            for at, (values, cells) in enumerate(columns):
                part = parts[at]
                good = part.add_numbers(values) if cells is None else part.add_codes(values, cells)
                if not good:
                    late.add(at)
            if late:
                return late
            if content:
                sink(parts)
            skip = 0
    if layout.header and all(
        name in part.distinct for name, part in zip(layout.names, parts, strict=True)
    ):
        return None  # rows may repeat the names
    return parts, np.array([layout.skip + 1]), 0


# --- the converted copy ------------------------------------------------------------------------


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


def copy_paths(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.float64.npy"), path.with_name(f".{path.name}.float64.json")


def copy_keys(reading: Reading) -> dict[str, Any]:
    """What decides how a file is read: a column that is named tells where the header is."""
    keys = reading.model_dump(include=set(Reading.model_fields) - {"source", "cache"})
    return {**keys, "columns": sorted(named_columns(reading, 0))}


def facts_of_copy(path: Path, keys: dict[str, Any]) -> dict[str, Any] | None:
    """What is noted of the converted copy, if it was made from exactly this content, read in the
    same way."""
    array_path, facts_path = copy_paths(path)
    try:
        facts: dict[str, Any] = json.loads(facts_path.read_text(encoding="utf-8"))
        if facts["format"] != CACHE_FORMAT or facts["keys"] != keys:
            return None
        if facts["written"] != array_path.stat().st_mtime_ns:
            return None  # by another process, which is yet to note what it is
        return facts if facts["digest"] == content_digest(path) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def keep_copy(path: Path, temporary: Path, facts: dict[str, Any]) -> None:
    """Put a converted copy into its place, and what is noted of it beside it.

    The notes say when the copy was written: whenever a process or the machine stops, and whatever
    other processes do, a copy is read with its own notes alone.
    """
    array_path, facts_path = copy_paths(path)
    sync_file(temporary)
    facts = {**facts, "format": CACHE_FORMAT, "written": temporary.stat().st_mtime_ns}
    temporary.replace(array_path)
    write_whole(facts_path, json.dumps(facts).encode())


def _from_cache(path: Path, reading: Reading) -> TextTable | None:
    """The converted copy, where there is one."""
    facts = facts_of_copy(path, copy_keys(reading))
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
        return TextTable(names, values, categories, lines, facts["notes"], facts["guesses"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _to_cache(path: Path, table: TextTable, reading: Reading, digest: str) -> None:
    """Keep a converted copy; a folder that cannot be written to just keeps none."""
    lines = table.lines.tolist() if isinstance(table.lines, np.ndarray) else table.lines
    facts = {
        "keys": copy_keys(reading),
        "digest": digest,
        "shape": list(table.values.shape),
        "dtype": table.values.dtype.name,
        "names": table.names,
        "categories": table.categories,
        "lines": lines,
        "notes": table.notes,
        "guesses": table.guesses,
    }
    with contextlib.suppress(OSError):
        remove_left_behind(path.parent, glob.escape(path.name))
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                np.save(file, np.ascontiguousarray(table.values), allow_pickle=False)
            keep_copy(path, Path(name), facts)
        finally:
            Path(name).unlink(missing_ok=True)
