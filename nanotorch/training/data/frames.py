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

from nanotorch.training.errors import InputError, needs_extra, reading

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"]
Columns = tuple[list[str], NDArray[np.float64], dict[str, list[str]]]


def has_polars() -> bool:
    return importlib.util.find_spec("polars") is not None


def _polars(what: str) -> Any:
    try:
        import polars
    except ImportError:
        raise needs_extra(what, "polars", "data") from None
    return polars


def read_parquet(path: Path) -> Columns:
    """Names, numbers and categories of a Parquet file."""
    polars = _polars(f"{path}: Parquet")
    with reading(path, "a Parquet file"), _silent():
        frame = polars.read_parquet(path)
    return _columns(str(path), frame, polars, first_line=None)


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


def read_mixed_csv(path: Path, delimiter: str, names: list[str], header: bool) -> Columns:
    """Names, numbers and categories of a text file in which some columns are text or have gaps."""
    polars = _polars(f"{path}: a table of text and gaps")
    try:
        frame = polars.read_csv(
            path,
            separator=delimiter,
            has_header=header,
            new_columns=names,
            null_values=MISSING,
            infer_schema_length=None,
        )
    except polars.exceptions.PolarsError as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    return _columns(str(path), frame, polars, first_line=2 if header else 1)


def _columns(origin: str, frame: Any, polars: Any, first_line: int | None) -> Columns:
    """Every column as float64: text as positions among its sorted values, gaps as NaN."""
    values = np.empty((frame.height, frame.width), dtype=np.float64)
    categories = {}
    for number, name in enumerate(frame.columns):
        column = frame[name]
        if column.dtype.is_temporal():
            column = column.to_physical()
        if column.dtype in (polars.String, polars.Categorical, polars.Enum):
            column = column.cast(polars.String)
            _refuse_stray_text(origin, column, polars, first_line)
            known = sorted(column.drop_nulls().unique().to_list())
            categories[name] = known
            column = column.replace_strict(known, list(range(len(known))), default=None)
        elif not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
            raise InputError(
                f"{origin}: column {name!r}: expected numbers or text, found {column.dtype}"
            )
        values[:, number] = column.cast(polars.Float64).fill_null(float("nan")).to_numpy()
    return list(frame.columns), values, categories


def _refuse_stray_text(origin: str, column: Any, polars: Any, first_line: int | None) -> None:
    """A column of numbers with a word in it is a mistake, not a category."""
    present = column.is_not_null()
    numbers = column.cast(polars.Float64, strict=False).is_not_null()
    words = present & ~numbers
    if 2 * numbers.sum() > present.sum() and words.any():
        row = words.arg_max()
        line = f":{first_line + row}" if first_line is not None else f", row {row}"
        raise InputError(
            f"{origin}{line}, column {column.name!r}: expected a number, found {column[row]!r}"
        )
