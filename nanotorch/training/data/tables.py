"""A table in memory, whatever file it comes from."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch import datasets
from nanotorch.backend.loading import when_called
from nanotorch.training.config.sections import Reading
from nanotorch.training.data.cells import TextTable
from nanotorch.training.data.frames import columns_of_objects, read_frame
from nanotorch.training.data.layout import HEAD, MOST_COMPRESSED, PACKED, SMALL
from nanotorch.training.data.row_files import array_header, load_array
from nanotorch.training.data.text_files import read_text_table
from nanotorch.training.data.values import is_number
from nanotorch.training.errors import InputError, needs_extra, reading as reading_of

Numbers = NDArray[np.floating[Any]]
sparse_table = when_called("nanotorch.training.data.sparse_rows", "sparse_table")


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
    lines: NDArray[np.int64] | int | None = None  # of the rows, or of the first one
    notes: list[str] = field(default_factory=list)
    guesses: dict[str, Any] = field(default_factory=dict)  # keys of [data] that were not set
    digest: str | None = None  # of the file, where reading it has computed that
    first: int = 0  # number of the first row, in a table that is a piece of another one
    hashed: set[str] = field(default_factory=set)  # columns whose gaps have a bucket of their own

    def __post_init__(self) -> None:
        if not self.target:
            self.target = self.names[-1:]
        if len(self._places) < len(self.names):
            twice = next(n for at, n in enumerate(self.names) if self._places[n] < at)
            raise InputError(f"{self.origin}: two columns are called {twice!r}; rename one")
        if len(self) == 0:
            raise InputError(f"{self.origin}: there are no rows")

    def __len__(self) -> int:
        return len(self.values)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: at for at, name in reversed([*enumerate(self.names)])}

    def column(self, which: str | int, key: str) -> int:
        """The position of a column given by name or number (from 0, negative from the end)."""
        if isinstance(which, int):
            if -len(self.names) <= which < len(self.names):
                return which % len(self.names)
            if str(which) in self._places:  # such as a year
                return self._places[str(which)]
            raise InputError(
                f"{self.origin}: {key}: there is no column {which}; "
                f"the table has {len(self.names)} columns"
            )
        if which in self._places:
            return self._places[which]
        listing = ", ".join(self.names[:12]) + (" …" if len(self.names) > 12 else "")
        raise InputError(f"{self.origin}: {key}: there is no column {which!r}; there are {listing}")

    def place(self, row: int, column: int) -> str:
        """Where a value stands: `file:line, column name`."""
        if self.lines is None:
            line = f", row {self.first + row}"
        else:
            line = f":{self.lines + row if isinstance(self.lines, int) else self.lines[row]}"
        return f"{self.origin}{line}, column {self.names[column]!r}"

    def chunks(self, rows: int) -> Iterator[Numbers]:
        """The values, so many rows at a time."""
        for start in range(0, len(self.values), rows):
            yield np.asarray(self.values[start : start + rows])

    def translate(self, position: int, numbers: NDArray[np.float64]) -> None:
        """Put into a column of text the number of each text; the last one is for gaps."""
        self.values = np.array(self.values, dtype=np.float64)
        self.values[:, position] = translated(self.values[:, position], numbers)

    def mask(self, keep: NDArray[np.bool_]) -> NDArray[Any]:
        """What `only` must know of some rows, given which of them stay."""
        return keep

    def only(self, keep: NDArray[Any], needed: Sequence[int] = ()) -> None:
        """Leave out the other rows, which have a gap in one of the `needed` columns."""
        if self.lines is not None:
            first = self.lines
            lines = first + np.arange(len(keep)) if isinstance(first, int) else first
            self.lines = lines[keep]
        self.values = np.asarray(self.values[keep])


def translated(values: NDArray[Any], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The number of each text in a column of text; the last number is for gaps."""
    codes = np.where(np.isnan(values), len(numbers) - 1, values).astype(np.int64)
    return np.asarray(numbers[codes])


def read_table(source: str, reading: Reading | None = None) -> Table:
    """The table of a bundled data set or a file; `reading` says how text is written.

    Raises InputError with one line for anything that cannot be read as a table.
    """
    if source in datasets.names():
        return _bundled(source)
    path = Path(source)
    reading = reading or Reading(source=source)
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings and endings[-1] in (".zip", *PACKED)
    ending = next(iter(endings[-2:-1]), ".csv") if packed else "".join(endings[-1:])
    if ending in ELSEWHERE:
        raise InputError(f"data.source: {source!r}: {ELSEWHERE[ending]}")
    reader = _text if ending in TEXT or packed else READERS.get(ending)
    if reader is None and _is_text(path):
        reader = _text
    if reader is None:
        raise InputError(
            f"data.source: {source!r} is neither a bundled data set "
            f"({', '.join(datasets.names())}) nor a file ending in {' '.join((*TEXT, *READERS))}"
        )
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, a file is expected")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        table = reader(path, reading)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file (in {Path.cwd()})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    mark_missing(table, reading.missing_values)
    return table


def _is_text(path: Path) -> bool:
    """Whether a file whose ending says nothing holds text."""
    if not path.is_file():
        return False
    head = path.read_bytes() if path.stat().st_size < HEAD else path.open("rb").read(HEAD)
    text = head.rsplit(b"\n", 1)[0]
    with contextlib.suppress(UnicodeDecodeError):
        return text.decode().replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable()
    return False


def mark_missing(table: Table, words: list[str | int | float] | None) -> None:
    """Make numbers missing that data.missing_values names, however they are written."""
    numbers = [float(word) for word in words or () if is_number(str(word))]
    if numbers:
        plain = [at for at, name in enumerate(table.names) if name not in table.categories]
        values = np.array(table.values, dtype=np.float64)
        values[:, plain] = np.where(np.isin(values[:, plain], numbers), np.nan, values[:, plain])
        table.values = values


def table_of(data: Any, name: str) -> Table:
    """A table out of memory: a frame, arrays by name, or a pair (features, target)."""
    names, values, categories = columns_of_objects(data)
    pair = isinstance(data, tuple)
    targets = [column for column in names if pair and column.startswith("target")]
    return Table(name, names, values, categories, targets)


def _bundled(name: str) -> Table:
    table = datasets.load(name)
    values = np.column_stack([table.features, table.target])
    categories = {"target": list(table.target_names)} if table.target_names else {}
    return Table(name, [*table.feature_names, "target"], values, categories)


def _text(path: Path, reading: Reading) -> Table:
    return table_of_text(str(path), read_text_table(path, reading), reading)


def table_of_text(origin: str, text: TextTable, reading: Reading) -> Table:
    """The table in a text; of columns of one name that nobody uses, one is left."""
    ignore, in_use = getattr(reading, "ignore", []), getattr(reading, "columns", None)

    def is_used(name: str) -> bool:
        if in_use:
            return name in in_use
        return not any(fnmatch.fnmatchcase(name, word) for word in ignore)

    first = {name: at for at, name in reversed([*enumerate(text.names)])}
    leave = [first[name] < at and not is_used(name) for at, name in enumerate(text.names)]
    if any(leave):
        text.values = text.values[:, ~np.array(leave)]
        text.names = [name for name, left in zip(text.names, leave, strict=True) if not left]
    return Table(
        origin, text.names, text.values, text.categories, [], text.lines, text.notes, text.guesses,
        text.digest,
    )  # fmt: skip


def _npy(path: Path, reading: Reading) -> Table:
    """The array stays on the disk: only the rows that are asked for are read."""
    values = load_array(path, "an array file", mapped=True)
    return Table(str(path), _numbered(_matrix(path, "the array", values)), values)


def _npz(path: Path, reading: Reading) -> Table:
    """Arrays `features` (or `X`) and `target` (or `y`), and `feature_names` if it is there."""
    with reading_of(path, "an archive of arrays"), zipfile.ZipFile(path) as archive:
        sizes = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        chosen = [
            next((name for name in names if name in sizes), None)
            for names in (("features", "X", "x"), ("target", "y", "Y"), ("feature_names",))
        ]
        if None in chosen[:2]:
            raise InputError(
                f"{path}: expected arrays called features and target (or X and y), "
                f"found {', '.join(sizes) or 'none'}"
            )
        arrays = []
        for entry in (sizes[name] for name in chosen if name is not None):
            if entry.file_size > MOST_COMPRESSED * max(1, entry.compress_size):
                raise InputError(f"{path}: {entry.filename} declares more than can be compressed")
            with archive.open(entry) as file:
                array_header(path, file, entry.file_size)
            with archive.open(entry) as file:
                arrays.append(np.lib.format.read_array(file, allow_pickle=False))
        return _of_arrays(path, arrays)


def _of_arrays(path: Path, arrays: list[Any]) -> Table:
    """The table of features, a target, and perhaps names of the features."""
    features, target = _matrix(path, "features", arrays[0]), np.atleast_1d(arrays[1])
    categories: dict[str, list[str]] = {}
    if target.dtype.kind in "US":
        names, target = np.unique(target, return_inverse=True)
        categories["target"] = [str(name) for name in names]
    if target.dtype.kind not in "fiub" or target.ndim > 2:
        raise InputError(f"{path}: target: expected numbers or text, found {target.dtype}")
    target = target.reshape(len(target), -1)
    if len(features) != len(target):
        raise InputError(f"{path}: {len(features)} rows of features and {len(target)} of target")
    names_of_features = [str(name) for name in np.ravel(arrays[2] if arrays[2:] else [])]
    names_of_features = names_of_features if arrays[2:] else _numbered(features)
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
    if values.size == 0:
        raise InputError(f"{path}: {what}: there are no {'columns' if len(values) else 'rows'}")
    return values


def _numbered(values: Any) -> list[str]:
    return [str(number) for number in range(values.shape[1])]


def _frame(path: Path, reading: Reading) -> Table:
    names, values, categories = read_frame(path)
    return Table(str(path), names, values, categories)


def _svmlight(path: Path, reading: Reading) -> Table:
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise needs_extra(f"{path}: svmlight", "scikit-learn", "sklearn") from None
    with reading_of(path, "svmlight"):
        if reading.sparse:
            matrix, target = load_svmlight_file(str(path), zero_based=True)
            rows: Table = sparse_table(str(path), matrix, target)
            return rows
        features, target = load_svmlight_file(str(path))
        size = 8 * math.prod(features.shape)
        if size > max(SMALL, MOST_COMPRESSED * path.stat().st_size):
            raise InputError(
                f"{path}: {features.shape[0]:,} rows with features numbered up to "
                f"{features.shape[1]:,}, nearly all of them 0: as a table this would take "
                f"{size / 1e9:,.1f} GB; data.sparse = true keeps them as they are"
            )
        values = np.column_stack([features.toarray(), target])
    return Table(str(path), [*_numbered(features), "target"], values)


TEXT = (".csv", ".tsv", ".txt", ".data", ".dat", ".tab")
READERS: dict[str, Callable[[Path, Reading], Table]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".parquet": _frame,
    ".feather": _frame,
    ".arrow": _frame,
    ".jsonl": _frame,
    ".ndjson": _frame,
    ".svm": _svmlight,
    ".libsvm": _svmlight,
}
SAVE = "is not read; save the table as CSV (in a spreadsheet: Save as, CSV)"
ELSEWHERE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), f"a workbook {SAVE}"),
    ".arff": "ARFF is not read; remove the lines that begin with @ and %, and name it .csv",
    ".json": "is not read; expected one record a line, in a file that ends in .jsonl",
}
