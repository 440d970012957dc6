"""Tables of mixed types, through polars (extra `data`)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.layout import MOST_COMPRESSED, SMALL
from nanotorch.training.errors import InputError, needs_extra, reading

M_ARENA_MAX = -8  # of mallopt in glibc
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
    with reading(path, f"a {path.suffix} file"), silent():
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
    with reading(path, f"a {path.suffix} file"), silent():
        frame = polars.scan_parquet(path)
        if not hasattr(frame, "collect_batches"):
            raise InputError(f"{path}: needs polars 1.34 or newer: pip install -U polars")
        batches = iter(frame.collect_batches(chunk_size=rows, maintain_order=True))
    while True:
        with reading(path, f"a {path.suffix} file"), silent():
            batch = next(batches, None)
            if batch is None:
                return
            columns = columns_of(str(path), batch, polars)
        yield columns


def parquet_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a Parquet file, of which no row is read."""
    _few_arenas()
    polars = _polars(f"{path}: {path.suffix} files")
    with reading(path, f"a {path.suffix} file"), silent():
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
def silent() -> Iterator[None]:
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
