"""Tables of mixed types, through polars (extra `data`)."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import functools
import importlib.util
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.layout import HEAD, MOST_COMPRESSED, SMALL
from nanotorch.training.errors import InputError, needs_extra, reading

M_ARENA_MAX = -8  # of mallopt in glibc
PIECE = 2**18  # bytes whose lines are counted at once
SAMPLE = 1000  # cells that tell most columns of text from one of numbers
GAPS = ("NoneType", "NAType", "NaTType")  # types of what is missing, in Python and pandas
Columns = tuple[list[str], NDArray[np.float64], dict[str, list[str]]]


def _polars(what: str) -> Any:
    try:
        import polars
    except ImportError:
        raise needs_extra(what, "polars", "data") from None
    return polars


def read_frame(path: Path) -> Columns:
    """Names, numbers and categories of a Parquet, Arrow (Feather) or JSON-lines file."""
    polars = _polars(f"{path}: {path.suffix} files")
    ending = path.suffix.lower()
    with reading(path, f"a {path.suffix} file"), _silent():
        if ending in (".jsonl", ".ndjson"):
            frame = polars.read_ndjson(path)
        else:
            parquet = ending == ".parquet"
            _refuse_bomb(path, (polars.scan_parquet if parquet else polars.scan_ipc)(path), polars)
            frame = (polars.read_parquet if parquet else polars.read_ipc)(path)
        return columns_of(str(path), frame, polars)


@functools.cache
def _few_arenas() -> None:
    """Let threads that start from now on share memory, of which glibc reserves 64 MB for each."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def frame_batches(path: Path, rows: int) -> Iterator[Columns]:
    """A Parquet file as pieces of about so many rows, each as `read_frame` has it."""
    _few_arenas()
    polars = _polars(f"{path}: {path.suffix} files")
    with reading(path, f"a {path.suffix} file"), _silent():
        frame = polars.scan_parquet(path)
        if not hasattr(frame, "collect_batches"):
            raise InputError(f"{path}: needs polars 1.34 or newer: pip install -U polars")
        batches = iter(frame.collect_batches(chunk_size=rows, maintain_order=True))
    while True:
        with reading(path, f"a {path.suffix} file"), _silent():
            batch = next(batches, None)
            if batch is None:
                return
            columns = columns_of(str(path), batch, polars)
        yield columns


def parquet_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a Parquet file, of which no row is read."""
    _few_arenas()
    polars = _polars(f"{path}: {path.suffix} files")
    with reading(path, f"a {path.suffix} file"), _silent():
        frame = polars.scan_parquet(path)
        return int(frame.select(polars.len()).collect().item()), len(frame.collect_schema())


class ParquetWriter:
    """Writes columns into a Parquet file, piece by piece, on a thread of polars."""

    def __init__(self, path: Path, kinds: dict[str, type]) -> None:
        _few_arenas()
        self._polars = _polars(f"{path}: {path.suffix} files")
        from polars.io.plugins import register_io_source

        names = {str: self._polars.String, float: self._polars.Float64, int: self._polars.Int64}
        self._schema = {name: names[kind] for name, kind in kinds.items()}
        self._frames: queue.Queue[Any] = queue.Queue(1)
        self._failure: BaseException | None = None
        self._ended = False

        def frames(*unused: Any) -> Iterator[Any]:
            while (frame := self._frames.get()) is not None:
                yield frame
            self._ended = True

        def write() -> None:
            try:
                source = register_io_source(frames, schema=self._schema, is_pure=False)
                source.sink_parquet(path)
            except BaseException as error:
                self._failure = error
                while not self._ended and self._frames.get() is not None:
                    pass  # whoever adds rows waits for a place

        self._thread = threading.Thread(target=write, daemon=True)
        self._thread.start()

    def add(self, columns: dict[str, Any]) -> None:
        """Write rows, given the cells of every column; None is a gap."""
        if self._failure is None:
            self._frames.put(self._polars.DataFrame(columns, schema=self._schema))

    def close(self) -> None:
        """Wait until everything is written."""
        self._frames.put(None)
        self._thread.join()
        if self._failure is not None:
            raise OSError(0, str(self._failure))


def _refuse_bomb(path: Path, frame: Any, polars: Any) -> None:
    """InputError where a file declares a table much larger than what it may be packed from."""
    rows, columns = frame.select(polars.len()).collect().item(), len(frame.collect_schema())
    size = 8 * rows * columns
    if size > max(SMALL, MOST_COMPRESSED * path.stat().st_size):
        raise InputError(
            f"{path}: declares {rows:,} rows of {columns:,} columns, {size / 1e9:,.1f} GB as a "
            f"table, in {path.stat().st_size:,} bytes"
        )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what a panic in Rust writes to the standard error by itself from the user."""
    if sys.stderr is not None:
        sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        before = os.dup(2)
        stack.callback(os.close, before)
        stack.callback(os.dup2, before, 2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield


def typed_by_polars(
    path: Path, delimiter: str, skip: int, missing: frozenset[str], width: int
) -> Any:
    """The matrix (rows, width) of float64 of a file below its first `skip` lines, and its other
    columns by place, as `split_by_polars` has them: those that do not begin with numbers. None
    where a column that does goes on otherwise than with numbers and empty cells.
    """
    if importlib.util.find_spec("polars") is None:
        return None
    size = _lines_and_delimiters(path, delimiter, skip)
    if size is None or not size[0]:
        return None
    import polars

    with path.open("rb") as file:
        for _ in range(skip):
            file.readline()
        head = file.read(HEAD)
    head = head[: head.rfind(b"\n") + 1] or head
    try:
        with _silent():
            sample = _scan(head, delimiter, 0, [polars.String] * width).get_columns()
            numbers = [cells.cast(polars.Float64, strict=False) for cells in sample]
            plain = [a.null_count() == b.null_count() for a, b in zip(sample, numbers)]
            kinds = [
                polars.Float64 if ok else _kind_of_text(cells, polars)
                for cells, ok in zip(sample, plain, strict=True)
            ]
            # Of the absolute path: polars takes ~ at its start for the user's folder.
            frame = _scan(path.absolute(), delimiter, skip, kinds)
    except (Exception, polars.exceptions.PanicException):
        return None  # other readers find out what there is
    # polars takes a line without cells for gaps.
    if (frame.height, frame.height * (width - 1)) != size:
        return None
    texts = {at: cells for at, cells in enumerate(frame.get_columns()) if not plain[at]}
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda cells: _numbers_or_texts(cells, missing, polars), texts.values())
        numbers = frame.with_columns(polars.lit(0.0).alias(cells.name) for cells in texts.values())
        values = numbers.to_numpy(order="c", writable=True)  # without a number: NaN
        return values, dict(zip(texts, read, strict=True))


def numbers_by_polars(content: bytes, delimiter: str, width: int) -> NDArray[np.float64] | None:
    """The matrix (rows, width) of lines that hold numbers alone, one in each cell; None of others.

    polars must be installed.
    """
    import polars

    lone = b"\r" in content and content.count(b"\r") != content.count(b"\r\n")
    if lone or b'"' in content or content.startswith(codecs.BOM_UTF8):
        return None
    if content.endswith(delimiter.encode()):
        return None  # which polars drops
    try:
        with _silent():
            frame = _scan(content, delimiter, 0, [polars.Float64] * width)
    except (Exception, polars.exceptions.PanicException):
        return None
    lines = int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord("\n")))
    gaps = any(cells.null_count() for cells in frame.get_columns())
    if gaps or frame.height != lines + (not content.endswith(b"\n")):
        return None
    values: NDArray[np.float64] = frame.to_numpy(order="c", writable=True)
    return values


def _scan(source: Any, delimiter: str, skip: int, kinds: list[Any]) -> Any:
    """The frame of a text below its first `skip` lines, with columns of such kinds."""
    import polars

    return polars.scan_csv(
        source,
        separator=delimiter,
        quote_char=None,
        has_header=False,
        skip_lines=skip,
        schema={str(number): kind for number, kind in enumerate(kinds)},
        glob=False,
    ).collect(engine="in-memory")


def _kind_of_text(sample: Any, polars: Any) -> Any:
    """Categories, which are told apart while a file is read, where texts of a column repeat."""
    repeats = 2 * sample.n_unique() <= len(sample)
    return polars.Categorical(polars.Categories.random()) if repeats else polars.String


def _lines_and_delimiters(path: Path, delimiter: str, skip: int) -> tuple[int, int] | None:
    """How many there are below the first `skip` lines; None where readers differ about cells: of
    quotes, a carriage return within a line, or a byte order mark in the first cell."""
    lines = delimiters = 0
    end = b"\n"
    with path.open("rb") as file:
        piece = b"".join(file.readline() for _ in range(skip))
        if piece.count(b"\r") != piece.count(b"\r\n"):
            return None
        while piece := file.read(PIECE):
            if piece.endswith(b"\r"):
                piece += file.read(1)
            if b"\r" in piece and piece.count(b"\r") != piece.count(b"\r\n"):
                return None
            first = lines == delimiters == 0
            if b'"' in piece or (first and piece.startswith(codecs.BOM_UTF8)):
                return None
            signs = np.frombuffer(piece, np.uint8)
            lines += int(np.count_nonzero(signs == ord("\n")))
            delimiters += int(np.count_nonzero(signs == ord(delimiter)))
            end = piece[-1:]
    if end == delimiter.encode():
        return None  # which polars drops, so that a short row would not show
    return lines + (end != b"\n"), delimiters


def split_by_polars(content: bytes, delimiter: str, skip: int, missing: Any) -> Any:
    """The columns of a text: numbers and None, or positions and sorted distinct cells.

    `missing` are the cells that stand for no number, of all columns or a list of those of each;
    None where numbers are not written plainly, and cells are taken as text.
    The result is None where polars is not installed, or the file is not as plain as it must be: a
    row for each line, and as many cells in each row.
    """
    if importlib.util.find_spec("polars") is None:
        return None
    import polars

    content = content.replace(b"\r\n", b"\n")
    if b'"' in content or b"\r" in content or content.endswith(delimiter.encode()):
        return None
    try:
        with _silent():
            frame = polars.read_csv(
                content,
                separator=delimiter,
                quote_char=None,
                has_header=False,
                skip_rows=skip,
                infer_schema=False,
            )
    except polars.exceptions.PolarsError:
        return None
    lines = content.split(b"\n", skip)[-1] if skip else content
    height = lines.count(b"\n") + (not lines.endswith(b"\n"))
    if (height, height * (frame.width - 1)) != (frame.height, lines.count(delimiter.encode())):
        return None  # blank lines, or rows of another width
    if lines.startswith(codecs.BOM_UTF8):
        return None  # which polars leaves out of the first cell
    absent = missing if isinstance(missing, list) else [missing] * frame.width
    if len(absent) != frame.width:
        return None
    columns = zip(frame.get_columns(), absent, strict=True)
    return [_numbers_or_texts(cells, words, polars) for cells, words in columns]


def _numbers_or_texts(cells: Any, missing: frozenset[str] | None, polars: Any) -> Any:
    if isinstance(cells.dtype, polars.Categorical):
        return _numbers_or_categories(cells, missing, polars)
    for part in (cells.head(SAMPLE), cells):
        stripped = part.str.strip_chars()
        numbers = stripped.cast(polars.Float64, strict=False)
        others = stripped.filter(numbers.is_null()).drop_nulls().unique().to_list()
        if missing is None or not missing.issuperset(others):
            break
    else:
        return numbers.fill_null(float("nan")).to_numpy(), None
    filled = cells.fill_null("") if cells.null_count() else cells
    distinct = filled.unique().sort()
    return filled.cast(polars.Enum(distinct)).to_physical().to_numpy(), distinct.to_list()


def _numbers_or_categories(cells: Any, missing: frozenset[str] | None, polars: Any) -> Any:
    """As `_numbers_or_texts`, which needs to look at each category only once."""
    distinct = cells.drop_nulls().unique()
    places = distinct.to_physical().to_numpy()
    gap = int(places.max(initial=0)) + 1
    codes = cells.to_physical().fill_null(gap).to_numpy()
    words = distinct.cast(polars.String)
    stripped = words.str.strip_chars()
    numbers = stripped.cast(polars.Float64, strict=False)
    others = stripped.filter(numbers.is_null()).to_list()
    if missing is not None and missing.issuperset(others):
        number_at = np.full(gap + 1, np.nan)
        number_at[places] = numbers.fill_null(float("nan")).to_numpy()
        return number_at[codes], None
    texts = dict(zip(words.to_list(), places.tolist(), strict=True))
    if cells.null_count():
        texts[""] = gap
    in_order = sorted(texts)
    place_at = np.zeros(gap + 1, np.int32)
    place_at[[texts[text] for text in in_order]] = np.arange(len(in_order))
    return place_at[codes], in_order


def columns_of(origin: str, frame: Any, polars: Any) -> Columns:
    """Every column as float64: text as positions among its sorted values, gaps as NaN."""
    values = np.empty((frame.height, frame.width), dtype=np.float64)
    categories = {}
    for number, name in enumerate(frame.columns):
        column = frame[name]
        if column.dtype.is_temporal():
            column = column.cast(polars.Datetime("us")).to_physical() / 86_400e6
        if column.dtype in (polars.String, polars.Categorical, polars.Enum):
            column = column.cast(polars.String)
            texts = sorted(column.drop_nulls().unique().to_list())
            categories[name] = texts
            column = column.replace_strict(texts, list(range(len(texts))), default=None)
        elif not (column.dtype.is_numeric() or column.dtype in (polars.Boolean, polars.Null)):
            column = polars.Series(name, [None] * len(column), dtype=polars.Float64)
        values[:, number] = column.cast(polars.Float64).fill_null(float("nan")).to_numpy()
    return list(frame.columns), values, categories


def columns_of_objects(data: Any) -> Columns:
    """Names, numbers and categories of a pandas, polars or Arrow frame, of arrays by name or with
    named fields, or of a pair (features, target) of arrays. Times and their differences are days.
    """
    if hasattr(data, "collect_schema") and hasattr(data, "collect"):  # a lazy frame of polars
        data = data.collect()
    if isinstance(data, tuple) and len(data) == 2:
        features, target = (np.asarray(part) for part in data)
        if features.ndim != 2 or target.shape[:1] != features.shape[:1]:
            raise InputError(
                f"data: expected features (rows, columns) and a target of as many rows, given "
                f"shapes {features.shape} and {target.shape}"
            )
        targets = target.reshape(len(target), -1)
        arrays = {str(at): features[:, at] for at in range(features.shape[1])}
        names = (
            ["target"]
            if targets.shape[1] == 1
            else [f"target{at}" for at in range(targets.shape[1])]
        )
        arrays |= {name: targets[:, at] for at, name in enumerate(names)}
    elif isinstance(data, Mapping) or getattr(getattr(data, "dtype", None), "names", None):
        names = list(data) if isinstance(data, Mapping) else data.dtype.names
        arrays = {str(name): np.asarray(data[name]) for name in names}
    elif hasattr(data, "column_names") or hasattr(data, "columns"):
        names = list(getattr(data, "column_names", None) or data.columns)
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None:
            raise InputError(f"data: two columns are called {str(twice)!r}")
        arrays = {str(name): np.asarray(data[name]) for name in names}
    else:
        raise InputError(
            f"data: expected a frame of pandas, polars or Arrow, arrays by name, or a pair "
            f"(features, target), given {type(data).__name__}"
        )
    lengths = {len(array) if array.ndim == 1 else -1 for array in arrays.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise InputError("data: expected columns of one length, one number or text for each row")
    values = np.empty((lengths.pop(), len(arrays)))
    categories = {}
    for at, (name, array) in enumerate(arrays.items()):
        values[:, at], texts = _column_of_objects(array)
        if texts is not None:
            categories[name] = texts
    return list(arrays), values, categories


def _column_of_objects(array: NDArray[Any]) -> tuple[NDArray[np.float64], list[str] | None]:
    if array.dtype.kind in "iufb":
        return array.astype(np.float64), None
    if array.dtype.kind == "M":
        days = array.astype("datetime64[us]").astype(np.float64) / 86_400e6
        return np.where(np.isnat(array), np.nan, days), None
    if array.dtype.kind == "m":
        days = array.astype("timedelta64[us]").astype(np.float64) / 86_400e6
        return np.where(np.isnat(array), np.nan, days), None
    gaps = (type(cell).__name__ in GAPS or cell != cell for cell in array.tolist())
    cells = [None if gap else cell for gap, cell in zip(gaps, array.tolist(), strict=True)]
    cells = [c / timedelta(days=1) if isinstance(c, timedelta) else c for c in cells]
    if all(cell is None or isinstance(cell, int | float | Decimal) for cell in cells):
        return np.array([np.nan if cell is None else float(cell) for cell in cells]), None
    texts = sorted({str(cell) for cell in cells if cell is not None})
    places = {text: float(at) for at, text in enumerate(texts)}
    return np.array([np.nan if cell is None else places[str(cell)] for cell in cells]), texts
