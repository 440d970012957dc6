"""Text files of rows by polars (extra `data`): the same bits as cell by cell, or nothing at all.

What is read has a row for each line, as many cells in each row, and quotes around whole cells; of
all other files the result is None, and other readers find out what there is.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import io
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.cells import Meaning, meaning
from nanotorch.training.data.frames import silent
from nanotorch.training.data.layout import PACKED, SPACES, Layout

PIECE = 2**18  # bytes whose lines are looked through at once
QUOTE = ord('"')
SAMPLE = 2**14  # bytes of the first rows, which tell most columns of text from those of numbers
FEW = 1000  # cells that tell most columns of text from one of numbers
CELLS = 2**20  # that are put into a matrix at once
BYTES_AT_ONCE = 2**24  # of a file that is read in pieces
BYTES_SIDE_BY_SIDE = 2**26  # of a table in memory that are read at once, in so many pieces:
SIDE_BY_SIDE = 2  # one is read and looked through while polars parses another

Codes = NDArray[np.integer[Any]]
Part = tuple[Meaning, Codes | None]  # of distinct cells, and each row's code; or of all rows


def suits_polars(path: Path, layout: Layout) -> bool:
    """Whether polars is installed and may read a file that is laid out in this way."""
    plain = layout.comment is None and layout.delimiter != SPACES and layout.quotes
    packed = path.suffix.lower() in (".zip", *PACKED)
    utf8 = layout.encoding in ("utf-8", "utf-8-sig")
    return plain and utf8 and not packed and importlib.util.find_spec("polars") is not None


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, many at once."""
    return (_content(path, span) for span in _spans(path, BYTES_AT_ONCE))


def _spans(path: Path, step: int, skip: int = 0) -> Iterator[tuple[int, int]]:
    """Where pieces of a file begin and end, whole lines of about `step` bytes; the first `skip`
    lines belong to the first piece."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        for _ in range(skip):
            file.readline()
        while start < size:
            file.seek(step, io.SEEK_CUR)
            file.readline()
            end = min(file.tell(), size)
            yield start, end
            start = end


def _content(path: Path, span: tuple[int, int]) -> bytes:
    with path.open("rb") as file:
        file.seek(span[0])
        return file.read(span[1] - span[0])


def table_by_polars(
    path: Path, layout: Layout
) -> tuple[NDArray[np.float64], dict[int, Meaning]] | None:
    """The matrix (rows, columns) of a file, and what the cells mean in columns that do not begin
    with numbers."""
    import polars

    width = len(layout.names)
    choices = [[polars.String] * width]
    with path.open("rb") as file:
        for _ in range(layout.skip):
            file.readline()
        head = file.read(SAMPLE) + file.readline()
    if layout.reads_plain:
        with silent():
            sample = _scan(head, layout.delimiter, 0, choices[0], b'"' in head)
        if sample is None:
            return None
        choices.insert(0, [_kind(cells, polars) for cells in sample.get_columns()])
    frames = (_frame_of_file(path, layout, kinds) for kinds in choices)
    frame = next((frame for frame in frames if frame is not None), None)
    if frame is None or not frame.height:
        return None
    columns = frame.get_columns()
    texts = {at: cells for at, cells in enumerate(columns) if cells.dtype != polars.Float64}
    if layout.header and len(texts) == width:
        named = zip(layout.names, columns, strict=True)
        if all(name in cells.unique().cast(polars.String).to_list() for name, cells in named):
            return None  # rows may repeat the names
    with ThreadPoolExecutor() as pool:
        known = pool.map(lambda cells: _meaning(cells, layout, polars), texts.values())
        parts = dict(zip(texts, known, strict=True))
    values = _matrix(frame, parts)
    has_gaps = np.isnan(parts[0][0].values).any() if 0 in parts else columns[0].null_count()
    if has_gaps:
        blank = np.isnan(values[:, 0]) & np.isnan(values[:, -1])
        if np.isnan(values[blank]).all(axis=1).any():
            return None  # rows of delimiters alone
    if layout.names[-1] == f"Unnamed: {width - 1}" and np.isnan(values[:, -1]).all():
        return None  # a delimiter at the end of each row
    return values, {at: part for at, (part, _) in parts.items()}


def _matrix(frame: Any, parts: dict[int, Part]) -> NDArray[np.float64]:
    """The values of a frame, NaN for gaps; of some columns those that are known of their cells."""
    values = np.empty(frame.shape)
    rows = max(1, CELLS // frame.width)

    def fill(start: int) -> None:
        block = values[start : start + rows]
        for at, cells in enumerate(frame.slice(start, rows).get_columns()):
            known, codes = parts.get(at, (None, None))
            if known is None:
                block[:, at] = cells.to_numpy()
            elif codes is None:
                block[:, at] = known.values[start : start + rows]
            else:
                block[:, at] = known.values.take(codes[start : start + rows])

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(fill, range(0, frame.height, rows)))
    return values


def numbers_by_polars(
    content: bytes, delimiter: str, skip: int, width: int
) -> NDArray[np.float64] | None:
    """The matrix (rows, width) of a text of numbers alone, one in each cell, without quotes, which
    other readers of numbers do not know."""
    import polars

    if b'"' in content:
        return None
    with silent():
        frame = _frame(content, delimiter, skip, [polars.Float64] * width)
    if frame is None or any(cells.null_count() for cells in frame.get_columns()):
        return None
    return _matrix(frame, {})


def columns_by_polars(
    content: bytes, delimiter: str, skip: int, missing: list[frozenset[str] | None]
) -> list[tuple[NDArray[Any], list[str] | None]] | None:
    """The columns of a text: numbers and None, or positions and sorted distinct cells.

    `missing` are for each column the cells that stand for no number; None where numbers are not
    written plainly, and cells are taken as text.
    """
    import polars

    with silent():
        frame = _frame(content, delimiter, skip, [polars.String] * len(missing))
    if frame is None or _has_blank_rows(frame):
        return None
    columns: list[tuple[NDArray[Any], list[str] | None]] = []
    for cells, words in zip(frame.get_columns(), missing, strict=True):
        numbers = _numbers(cells, words, polars)
        if numbers is not None:
            columns.append((numbers, None))
        else:
            distinct, places, codes = _distinct(cells, polars)
            positions = np.zeros(places.max(initial=0) + 1, np.int32)
            positions[places] = np.arange(len(places))
            columns.append((positions[codes], distinct.to_list()))
    return columns


def _has_blank_rows(frame: Any) -> bool:
    """Whether there are rows of delimiters alone, which are no rows, in a frame of texts."""
    for name in frame.columns:
        frame = frame.filter(frame[name].fill_null("").str.strip_chars() == "")
    return bool(frame.height)


def _frame_of_file(path: Path, layout: Layout, kinds: list[Any]) -> Any:
    """The rows of a file with columns of these kinds; None where a cell is of another one."""
    import polars

    def frame(span: tuple[int, int]) -> Any:
        skip = 0 if span[0] else layout.skip
        return _frame(_content(path, span), layout.delimiter, skip, kinds)

    size = path.stat().st_size
    step = size // (SIDE_BY_SIDE * math.ceil(size / BYTES_SIDE_BY_SIDE))
    frames = []
    with silent(), ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for part in pool.map(frame, _spans(path, step, layout.skip)):
            if part is None:
                pool.shutdown(cancel_futures=True)
                return None
            frames.append(part)
    return polars.concat(frames, rechunk=False)


def _frame(content: bytes, delimiter: str, skip: int, kinds: list[Any]) -> Any:
    """The rows of a text below its first `skip` lines, with columns of these kinds."""
    quotes = _quoting(content, delimiter, skip)
    if quotes is None:
        return None
    frame = _scan(content, delimiter, skip, kinds, quotes)
    # polars takes a line without cells, and what a short row lacks, for gaps.
    complete = frame is None or not frame.to_series(-1).null_count()
    return frame if complete or _shape(content, delimiter, skip) == frame.shape else None


def _scan(content: bytes, delimiter: str, skip: int, kinds: list[Any], quotes: bool) -> Any:
    """The rows of a text, where all cells are of these kinds and no row is too long."""
    import polars

    with contextlib.suppress(Exception, polars.exceptions.PanicException):
        return polars.scan_csv(
            content,
            separator=delimiter,
            quote_char='"' if quotes else None,
            has_header=False,
            skip_lines=skip,
            schema={str(number): kind for number, kind in enumerate(kinds)},
            glob=False,
        ).collect(engine="in-memory")


def _pieces(content: bytes, skip: int) -> Iterator[bytes]:
    """The lines of a text below its first `skip` ones, many at once."""
    start = 0
    for _ in range(skip):
        start = content.find(b"\n", start) + 1 or len(content)
    while start < len(content):
        end = content.find(b"\n", start + PIECE) + 1 or len(content)
        yield content[start:end]
        start = end


def _quoting(content: bytes, delimiter: str, skip: int) -> bool | None:
    """Whether there are quotes in a text below its first `skip` lines; None where readers do not
    agree about its cells: about quotes within a cell, a line end between quotes, a carriage return
    within a line, or a byte order mark in the first cell."""
    if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
        return None
    first = next(_pieces(content, skip), b"")
    # A delimiter at the end is dropped by polars, so that a short row would not show.
    if first.startswith(codecs.BOM_UTF8) or content.endswith(delimiter.encode()):
        return None
    if b'"' not in content:
        return False
    quoted = [piece for piece in _pieces(content, skip) if b'"' in piece]
    if not all(_has_whole_cells_in_quotes(piece, delimiter) for piece in quoted):
        return None
    return bool(quoted)


def _has_whole_cells_in_quotes(lines: bytes, delimiter: str) -> bool:
    """Whether each quote opens or closes a cell, or is one of two that stand for one."""
    signs = np.frombuffer(b"\n" + lines + b"\n", np.uint8)
    marks = np.flatnonzero((signs == QUOTE) | (signs == ord("\n")))
    places = np.flatnonzero(signs[marks] == QUOTE)  # of quotes among the marks
    if len(places) % 2 or (places[1::2] - places[::2] != 1).any():
        return False
    borders = np.zeros(256, bool)
    borders[[QUOTE, ord(delimiter), ord("\n")]] = True
    before = borders[signs[marks[places[::2]] - 1]]
    borders[ord("\r")] = True
    after = borders[signs[marks[places[1::2]] + 1]]
    return bool(before.all() and after.all())


def _shape(content: bytes, delimiter: str, skip: int) -> tuple[int, float]:
    """The rows of a text below its first `skip` lines, and how many cells they have on average."""
    lines = delimiters = 0
    end = b"\n"
    for piece in _pieces(content, skip):
        signs = np.frombuffer(piece, np.uint8)
        lines += int(np.count_nonzero(signs == ord("\n")))
        delimits = signs == ord(delimiter)
        if QUOTE in signs:
            delimits &= ~np.logical_xor.accumulate(signs == QUOTE)  # not those between quotes
        delimiters += int(np.count_nonzero(delimits))
        end = piece[-1:]
    lines += end != b"\n"
    return lines, 1 + delimiters / max(1, lines)


def _kind(sample: Any, polars: Any) -> Any:
    """Numbers, or texts: as categories, which polars tells apart as it reads, where they repeat."""
    if sample.cast(polars.Float64, strict=False).null_count() == sample.null_count():
        return polars.Float64
    return polars.Categorical(polars.Categories.random()) if _repeats(sample) else polars.String


def _repeats(cells: Any) -> bool:
    return bool(2 * cells.n_unique() <= len(cells))


def _meaning(cells: Any, layout: Layout, polars: Any) -> Part:
    """What the cells of a column stand for."""
    missing = layout.missing if layout.reads_plain else None
    if cells.dtype == polars.String and (numbers := _numbers(cells, missing, polars)) is not None:
        return Meaning(numbers), None
    words, places, codes = _distinct(cells, polars)
    numbers = _numbers(words, missing, polars)
    known = meaning(words.to_list(), layout, True) if numbers is None else Meaning(numbers)
    values = np.zeros(places.max(initial=0) + 1)
    values[places] = known.values
    return replace(known, values=values), codes


def _numbers(cells: Any, missing: frozenset[str] | None, polars: Any) -> NDArray[Any] | None:
    """Cells that are all numbers or `missing`; None for any others."""
    numbers: Any = None
    for part in (cells.head(FEW), cells):
        stripped = part.str.strip_chars()
        numbers = stripped.cast(polars.Float64, strict=False)
        others = stripped.filter(numbers.is_null()).drop_nulls().unique().to_list()
        if missing is None or not missing.issuperset(others):
            return None
    values: NDArray[Any] = numbers.fill_null(float("nan")).to_numpy()
    return values


def _distinct(cells: Any, polars: Any) -> tuple[Any, NDArray[np.int64], Codes]:
    """The distinct cells in order, the code of each, and the code of each row's cell; those that
    are empty included."""
    if cells.dtype == polars.String:
        if not _repeats(cells.head(FEW)) and (parts := _distinct_by_hash(cells)) is not None:
            return parts
        cells = cells.cast(polars.Categorical(polars.Categories.random()))
    codes = cells.to_physical()
    largest = codes.max()
    gap = count = 0 if largest is None else largest + 1
    distinct = cells.head(FEW).unique().drop_nulls()
    if len(distinct) < count:  # there are others further down
        distinct = cells.unique().drop_nulls()
    words = distinct.cast(polars.String).sort()
    places = words.cast(cells.dtype).to_physical().to_numpy().astype(np.int64)
    if cells.null_count() and len(words) and not words[0]:  # an empty cell in quotes
        gap = int(places[0])
    elif cells.null_count():
        empty = polars.Series(words.name, [""])
        words, places = polars.concat([empty, words]), np.append(gap, places)
    return words, places, codes.fill_null(gap).to_numpy()


def _distinct_by_hash(cells: Any) -> tuple[Any, NDArray[np.int64], Codes] | None:
    """As `_distinct`, of texts most of which come once; None where two of them share a hash."""
    cells = cells.fill_null("")
    hashes = cells.hash().to_numpy()
    order = hashes.argsort()
    hashes = hashes[order]
    starts = np.append(True, hashes[1:] != hashes[:-1])
    words = cells.gather(np.sort(order[starts])).sort()
    places = words.hash().to_numpy().argsort()
    codes = np.empty(len(order), np.int64)
    codes[order] = places[starts.cumsum() - 1]
    return (words, np.arange(len(words)), codes) if words.gather(codes).equals(cells) else None
