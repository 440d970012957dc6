"""A table in memory, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch import datasets
from nanotorch.training.data.frames import read_parquet
from nanotorch.training.data.text_files import read_text_table
from nanotorch.training.errors import InputError, needs_extra

Numbers = NDArray[np.floating[Any]]


@dataclass
class Table:
    """Rows and named columns of numbers.

    - `values`: shape (rows, columns), float32 or float64; NaN is a missing value. A column of text
      holds the positions of its values in `categories`.
    - `target`: names of the columns that are the target unless the configuration says otherwise.
    """

    origin: str
    names: list[str]
    values: Numbers
    categories: dict[str, list[str]] = field(default_factory=dict)
    target: list[str] = field(default_factory=list)
    first_line: int | None = None  # of the first row, where rows are lines of a file

    def __post_init__(self) -> None:
        if not self.target:
            self.target = self.names[-1:]
        seen = set()
        for name in self.names:
            if name in seen:
                raise InputError(f"{self.origin}: two columns are called {name!r}")
            seen.add(name)
        if len(self.values) == 0:
            raise InputError(f"{self.origin}: there are no rows")

    def column(self, which: str | int, key: str) -> int:
        """The position of a column given by name or number (from 0, negative from the end)."""
        if isinstance(which, int):
            if -len(self.names) <= which < len(self.names):
                return which % len(self.names)
            raise InputError(
                f"{self.origin}: {key}: there is no column {which}; "
                f"the table has {len(self.names)} columns"
            )
        if which in self.names:
            return self.names.index(which)
        shown = ", ".join(self.names[:12]) + (" …" if len(self.names) > 12 else "")
        raise InputError(f"{self.origin}: {key}: there is no column {which!r}; there are {shown}")

    def place(self, row: int, column: int) -> str:
        """Where a value stands: `file:line, column name`."""
        line = f":{self.first_line + row}" if self.first_line is not None else f", row {row}"
        return f"{self.origin}{line}, column {self.names[column]!r}"


def read_table(source: str, cache: bool = True, precise: bool = False) -> Table:
    """The table of a bundled data set or a file; `precise` keeps float64 where it is there.

    Raises InputError with one line for anything that cannot be read as a table.
    """
    if source in datasets.names():
        return _bundled(source)
    path = Path(source)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"data.source: {source!r} is neither a bundled data set "
            f"({', '.join(datasets.names())}) nor a file ending in {' '.join(READERS)}"
        )
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, a file is expected")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        return reader(path, cache, precise)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file (in {Path.cwd()})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _bundled(name: str) -> Table:
    table = datasets.load(name)
    values = np.column_stack([table.features, table.target])
    categories = {"target": list(table.target_names)} if table.target_names else {}
    return Table(name, [*table.feature_names, "target"], values, categories)


def _text(path: Path, cache: bool, precise: bool) -> Table:
    text = read_text_table(path, cache, np.dtype(np.float64 if precise else np.float32))
    return Table(str(path), text.names, text.values, text.categories, first_line=text.first_line)


def _npy(path: Path, cache: bool, precise: bool) -> Table:
    """The array stays on the disk: only the rows that are asked for are read."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not an array file: {_first_line(error)}") from None
    return Table(str(path), _numbered(_matrix(path, "the array", values)), values)


def _npz(path: Path, cache: bool, precise: bool) -> Table:
    """Arrays `features` (or `X`) and `target` (or `y`), and `feature_names` if it is there."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not an archive of arrays: {_first_line(error)}") from None
    except Exception as error:  # zipfile and zlib raise their own
        raise InputError(f"{path}: damaged: {_first_line(error)}") from None
    features = next((arrays[name] for name in ("features", "X", "x") if name in arrays), None)
    target = next((arrays[name] for name in ("target", "y", "Y") if name in arrays), None)
    if features is None or target is None:
        raise InputError(
            f"{path}: expected arrays called features and target (or X and y), "
            f"found {', '.join(arrays) or 'none'}"
        )
    features = _matrix(path, "features", features)
    categories: dict[str, list[str]] = {}
    if target.dtype.kind in "US":
        names, target = np.unique(target, return_inverse=True)
        categories["target"] = [str(name) for name in names]
    target = target.reshape(len(target), -1)
    if len(features) != len(target):
        raise InputError(f"{path}: {len(features)} rows of features and {len(target)} of target")
    names_of_features = [str(name) for name in arrays.get("feature_names", _numbered(features))]
    if len(names_of_features) != features.shape[1]:
        raise InputError(
            f"{path}: {len(names_of_features)} feature_names for {features.shape[1]} features"
        )
    several = target.shape[1] > 1
    targets = [f"target{i}" for i in range(target.shape[1])] if several else ["target"]
    values = np.column_stack([features, target])
    return Table(str(path), names_of_features + targets, values, categories, targets)


def _matrix(path: Path, what: str, values: Any) -> Any:
    if values.dtype.kind not in "fiub":
        raise InputError(f"{path}: {what}: expected numbers, found {values.dtype}")
    if values.ndim != 2:
        raise InputError(f"{path}: {what}: expected rows and columns, found shape {values.shape}")
    return values


def _numbered(values: Any) -> list[str]:
    return [str(number) for number in range(values.shape[1])]


def _parquet(path: Path, cache: bool, precise: bool) -> Table:
    names, values, categories = read_parquet(path)
    return Table(str(path), names, values, categories)


def _svmlight(path: Path, cache: bool, precise: bool) -> Table:
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise needs_extra(f"{path}: svmlight", "scikit-learn", "sklearn") from None
    try:
        features, target = load_svmlight_file(str(path))
    except ValueError as error:
        raise InputError(f"{path}: not svmlight: {_first_line(error)}") from None
    values = np.column_stack([features.toarray(), target])
    return Table(str(path), [*_numbered(features), "target"], values)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


READERS: dict[str, Callable[[Path, bool, bool], Table]] = {
    ".csv": _text,
    ".tsv": _text,
    ".npy": _npy,
    ".npz": _npz,
    ".parquet": _parquet,
    ".svm": _svmlight,
    ".libsvm": _svmlight,
}
