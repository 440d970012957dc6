"""Tables of mixed types, through polars (extra `data`)."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import needs_extra, reading

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
    kinds = {".parquet": polars.read_parquet, ".jsonl": polars.read_ndjson}
    kinds[".ndjson"] = polars.read_ndjson
    with reading(path, f"a {path.suffix} file"), _silent():
        frame = kinds.get(path.suffix.lower(), polars.read_ipc)(path)
        return columns_of(str(path), frame, polars)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what a panic in Rust writes to the standard error by itself from the user."""
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        before = os.dup(2)
        stack.callback(os.close, before)
        stack.callback(os.dup2, before, 2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield


def split_by_polars(path: Path, delimiter: str, skip: int) -> Any:
    """The columns of a text file: numbers and None, or positions and distinct cells.

    None where polars is not installed, or the file is not as plain as it must be: a row for each
    line, and as many cells in each row.
    """
    if importlib.util.find_spec("polars") is None:
        return None
    import polars

    content = path.read_bytes()
    if b'"' in content or b"\r" in content:
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
    columns: list[Any] = []
    for cells in frame.get_columns():
        numbers = cells.str.strip_chars().cast(polars.Float64, strict=False)
        if not numbers.null_count() and numbers.is_finite().all():
            columns.append((numbers.to_numpy(), None))
            continue
        filled = cells.fill_null("")
        distinct = filled.unique()
        places = polars.int_range(len(distinct), eager=True)
        columns.append((filled.replace_strict(distinct, places).to_numpy(), distinct.to_list()))
    return columns


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
            known = sorted(column.drop_nulls().unique().to_list())
            categories[name] = known
            column = column.replace_strict(known, list(range(len(known))), default=None)
        elif not (column.dtype.is_numeric() or column.dtype in (polars.Boolean, polars.Null)):
            column = polars.Series(name, [None] * len(column), dtype=polars.Float64)
        values[:, number] = column.cast(polars.Float64).fill_null(float("nan")).to_numpy()
    return list(frame.columns), values, categories
