"""Everything between a data file and the arrays a run is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Data
from nanotorch.training.config.writer import toml_value
from nanotorch.training.data.columns import Column, numbers_of, settle
from nanotorch.training.data.encoding import (
    CHUNK,
    Encoding,
    Target,
    choose_columns,
    encode_target,
    find_gaps,
    make_encoding,
    settle_targets,
)
from nanotorch.training.data.identity import column_marks, file_digest, marks_of, rows_digest
from nanotorch.training.data.split import Split, divide
from nanotorch.training.data.tables import Table, read_table, table_of
from nanotorch.training.data.values import date_format
from nanotorch.training.errors import InputError
from nanotorch.training.files import sha256

FEW_ROWS = 5  # of a class in a part, below which numbers about it say little
LARGEST_SQUARED = 2.0**500  # from here on, squares are taken of multiples of it
LARGEST_WEIGHT = float(np.finfo(np.float32).max)
IN_MEMORY = 2**30  # bytes of features above which a memory-mapped file stays on the disk


@dataclass
class Standardization:
    """z = (x - mean) / scale, feature by feature, in float64 and cast last."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def apply(self, features: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
        """Standardized rows, shape (rows, features), C-contiguous."""
        out = np.empty(features.shape, dtype=dtype)
        step = max(1, CHUNK // max(1, features.shape[1]))
        for start in range(0, len(features), step):
            rows = slice(start, start + step)
            out[rows] = (features[rows] - self.mean) / self.scale
        return out

    @staticmethod
    def identity(count: int) -> Standardization:
        return Standardization(np.zeros(count), np.ones(count))

    @property
    def is_identity(self) -> bool:
        return not self.mean.any() and bool((self.scale == 1).all())


@dataclass
class FeatureRows:
    """Rows of standardized features, in memory or read from the disk when asked for."""

    values: NDArray[Any]
    index: NDArray[np.int64] | None = None  # rows of `values`; None: all of them, standardized
    standardization: Standardization | None = None
    dtype: Any = np.float32

    def __len__(self) -> int:
        return len(self.values if self.index is None else self.index)

    @property
    def in_memory(self) -> bool:
        return self.index is None

    def take(self, rows: Any) -> NDArray[Any]:
        """Some rows (positions or a slice)."""
        if self.index is None:
            return np.asarray(self.values[rows])
        features = self.values[self.index[rows]]
        if self.standardization is None:
            return np.ascontiguousarray(features, dtype=self.dtype)
        return self.standardization.apply(features, self.dtype)


@dataclass
class Part:
    """Features, target and row weights (None: all equal) of one part of the data."""

    features: FeatureRows
    target: NDArray[Any]
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass
class Prepared:
    """The data of a run; `validation` and `test` are None where the share is 0."""

    origin: str
    encoding: Encoding
    target: Target
    standardization: Standardization
    train: Part
    validation: Part | None
    test: Part | None
    notes: list[str] = field(default_factory=list)
    table: Table | None = None  # the raw table, where it was asked for
    train_rows: NDArray[np.int64] | None = None  # rows of the table that the parts are
    test_rows: NDArray[np.int64] | None = None
    guesses: dict[str, Any] = field(default_factory=dict)  # keys of [data] that were not set
    identity: dict[str, Any] = field(default_factory=dict)  # of the files and the parts
    marks: NDArray[np.uint64] | None = None  # of the training rows

    @property
    def inputs(self) -> int:
        return len(self.standardization.mean)

    def summary(self) -> dict[str, Any]:
        """Rows, features and classes, as they stand in summary.json and the report."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "source": self.origin,
            "task": self.target.task,
            "features": self.inputs,
            "classes": self.target.classes,
            "rows": {name: len(part) for name, part in parts.items() if part is not None},
            "notes": self.notes,
        }


def prepare(
    data: Data,
    model: str,
    seed: int,
    keep_table: bool = False,
    dtype: str = "float32",
    frame: Any = None,
) -> Prepared:
    """Read, check, divide, encode and standardize the data of a run.

    `model` is the name of the model (linear regression takes its target as numbers) and `seed`
    that of the run. `keep_table` keeps the raw table in memory as well; `frame` are the data, where
    they are in memory and not in the file `data.source`. InputError has one line
    for anything that cannot be trained on.
    """
    table = read_table(data.source, data) if frame is None else table_of(frame, data.source)
    files = {data.source: _file(data.source, table)}
    features, targets = choose_columns(table, data)
    settle_targets(table, targets, data.types)
    notes = [*guessed(table.guesses), *table.notes]
    pairs = settle(table, features, data, notes)
    features = [position for position, _ in pairs]
    gaps = find_gaps(table, features, targets, data.missing)
    if gaps.keep is not None:
        table.only(gaps.keep)
    notes += gaps.notes
    target = encode_target(table, targets, data, model)
    split = _divide(table, target, data, seed)
    encoding = make_encoding(table, pairs, split.train, data, gaps.any, notes)
    standardization = _standardization(table, encoding, split.train, data.standardize, notes)
    weights = _weights(table, data)
    build = _Builder(table, encoding, standardization, target, weights, np.dtype(dtype))
    if data.test_file is not None:
        test: Part | None = _test_file(data, model, build, files)
    else:
        test = build.part(split.test) if len(split.test) else None
    prepared = Prepared(
        origin=table.origin,
        encoding=encoding,
        target=target,
        standardization=standardization,
        train=build.part(split.train),
        validation=build.part(split.validation) if len(split.validation) else None,
        test=test,
        notes=notes,
        table=table if keep_table else None,
        train_rows=split.train,
        test_rows=split.test if data.test_file is None else None,
        guesses=table.guesses,
        identity={
            "files": files,
            "parts": {name: rows_digest(rows) for name, rows in vars(split).items()},
        },
    )
    if prepared.train.features.in_memory:
        prepared.marks = marks_of(encoding.apply(table, split.train))
    _check_classes(prepared)
    if prepared.test is not None and (same := _duplicates(prepared.train, prepared.test)):
        notes.append(f"{same} rows of the test part stand in the training part as well")
    return prepared


def _divide(table: Table, target: Target, data: Data, seed: int) -> Split:
    count = len(table.values)
    classes = groups = times = None
    if data.split == "stratified" and target.task in ("binary", "classes"):
        classes = target.values.ravel()
    for key, kind in (("group", "grouped"), ("time", "time")):
        if data.split == kind and getattr(data, key) is None:
            raise InputError(f'data.split: "{kind}" needs data.{key}, the column to divide by')
        if data.split != kind and getattr(data, key) is not None:
            raise InputError(
                f'data.{key}: is used by data.split = "{kind}" alone, and data.split is '
                f'"{data.split}"'
            )
    if data.group is not None:
        groups = np.asarray(table.values[:, table.column(data.group, "data.group")])
    if data.time is not None:
        times = _times(table, table.column(data.time, "data.time"))
    test = 0.0 if data.test_file is not None else data.test
    split_seed = seed if data.split_seed is None else data.split_seed
    if data.fold is not None and data.folds is None:
        raise InputError("data.fold: is one of data.folds, which is not set")
    if data.folds is not None and data.fold is not None and data.fold >= data.folds:
        raise InputError(f"data.fold: expected less than {data.folds}, given {data.fold}")
    if data.folds is not None and data.fold is None:
        raise InputError("data.folds: one run trains one fold: data.fold says which")
    fold = (data.folds, data.fold or 0)
    return divide(count, test, data.validation, split_seed, classes, groups, times, *fold)


def _times(table: Table, position: int) -> NDArray[Any]:
    """A column of numbers or dates by which rows are ordered."""
    texts = table.categories.get(table.names[position])
    format = date_format(texts) if texts else None
    if texts and format is None:
        raise InputError(
            f"{table.origin}: data.time: column {table.names[position]!r} holds neither "
            f"numbers nor dates of one format, such as {texts[0]!r}"
        )
    column = Column(table.names[position], kind="date", format=format)
    times = numbers_of(table, column, position)
    if np.isnan(times).any():
        raise InputError(
            f"{table.place(int(np.isnan(times).argmax()), position)}: the time is missing"
        )
    return times


def _weights(table: Table, data: Data) -> NDArray[np.float32] | None:
    """Row weights; None where they are all one, so that weights of one change nothing at all."""
    if data.weight is None:
        return None
    position = table.column(data.weight, "data.weight")
    if table.names[position] in table.categories:
        raise InputError(f"{table.origin}: data.weight: {data.weight!r} is text, not numbers")
    numbers = np.asarray(table.values[:, position], np.float64)
    good = (numbers >= 0) & (numbers <= LARGEST_WEIGHT)
    if not good.all():
        row = int((~good).argmax())
        bound = "" if not numbers[row] > 0 else f" and <= {LARGEST_WEIGHT:.2g}"
        raise InputError(
            f"{table.place(row, position)}: expected a weight >= 0{bound}, found {numbers[row]:g}"
        )
    weights = numbers.astype(np.float32)
    if not weights.any():
        raise InputError(f"{table.origin}: data.weight: every row weighs 0")
    return None if (weights == 1).all() else weights


def _standardization(
    table: Table, encoding: Encoding, train: NDArray[np.int64], wanted: bool, notes: list[str]
) -> Standardization:
    """Mean and deviation of the training rows, in two passes over chunks of them."""
    count = len(encoding.feature_names)
    step = max(1, CHUNK // count)
    chunks = [train[start : start + step] for start in range(0, len(train), step)]
    total = np.zeros(count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    for rows in chunks:
        features = encoding.apply(table, rows)
        total += features.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, features.min(axis=0)), np.maximum(high, features.max(axis=0))
    encoding.note_ranges(low, high)
    mean = total / len(train)
    squares = np.zeros(count)
    unit = np.where(np.maximum(np.abs(low), np.abs(high)) < LARGEST_SQUARED, 1.0, LARGEST_SQUARED)
    for rows in chunks:
        squares += np.square((encoding.apply(table, rows) - mean) / unit).sum(axis=0)
    scale = np.sqrt(squares / len(train)) * unit
    one_hot = encoding.one_hot
    constant = (scale <= 1e-14 * np.abs(mean)) & ~one_hot
    if constant.any():
        names = [name for name, flat in zip(encoding.feature_names, constant, strict=True) if flat]
        listing = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        notes.append(
            f"{len(names)} constant in the training part, nothing to learn from: {listing}"
        )
    mean[one_hot] = 0.0
    scale[constant | one_hot] = 1.0
    return Standardization(mean, scale) if wanted else Standardization.identity(count)


@dataclass
class _Builder:
    """Makes the parts of one table."""

    table: Table
    encoding: Encoding
    standardization: Standardization
    target: Target
    weights: NDArray[np.float32] | None
    dtype: np.dtype[Any]

    def part(self, rows: NDArray[np.int64]) -> Part:
        weights = None if self.weights is None else self.weights[rows]
        target = np.ascontiguousarray(self.target.values[rows])
        if target.dtype.kind == "f":
            target = target.astype(self.dtype)
        return Part(self._features(rows), target, weights)

    def _features(self, rows: NDArray[np.int64]) -> FeatureRows:
        on_disk = isinstance(self.table.values, np.memmap) and self.encoding.is_plain
        if on_disk and self.table.values.size * 4 > IN_MEMORY:
            everything = self.encoding.apply(self.table)
            return FeatureRows(everything, rows, self.standardization, self.dtype)
        features = self.encoding.apply(self.table, rows)
        return FeatureRows(self.standardization.apply(features, self.dtype), dtype=self.dtype)


def _file(source: str, table: Table) -> dict[str, Any]:
    """What tells a file from another one."""
    digest = file_digest(source)
    if digest is None:
        digest = sha256(np.ascontiguousarray(table.values).tobytes())
    in_memory = not isinstance(table.values, np.memmap)
    return {
        "sha256": digest,
        "rows": len(table.values),
        "columns": table.names,
        "marks": column_marks(table.values, table.names, table.categories) if in_memory else None,
    }


def _test_file(data: Data, model: str, build: _Builder, files: dict[str, Any]) -> Part:
    """The test part out of a file of its own, encoded as the training data is."""
    assert data.test_file is not None
    table = read_table(data.test_file, data)
    positions = [table.column(name, "data.target") for name in build.target.columns]
    settle_targets(table, positions, data.types)
    files[data.test_file] = _file(data.test_file, table)
    gaps = find_gaps(table, build.encoding.settle(table), positions, data.missing)
    if gaps.keep is not None:
        table.only(gaps.keep)
    target = encode_target(table, positions, data, model, known=build.target)
    weighted = isinstance(data.weight, int) or data.weight in table.names
    weights = _weights(table, data) if weighted else None  # rows of a file without them are equal
    build = replace(build, table=table, target=target, weights=weights)
    return build.part(np.arange(len(table.values)))


def guessed(guesses: dict[str, Any]) -> list[str]:
    """Words about the guesses that are not what one expects of a table."""
    usual = {"header": True, "delimiter": ",", "encoding": "utf-8", "decimal": "."}
    odd = {key: value for key, value in guesses.items() if usual.get(key) != value}
    if not odd:
        return []
    listing = ", ".join(f"{key} = {toml_value(value)}" for key, value in odd.items())
    return [f"guessed in [data]: {listing}"]


def most_frequent(data: Prepared) -> list[int]:
    """The class, or the 0 and 1 of every label, that most training rows have."""
    truth = data.train.target.reshape(len(data.train), -1).astype(np.int64)
    rows, counts = np.unique(truth, axis=0, return_counts=True)
    most: list[int] = rows[counts.argmax()].tolist()
    return most


def _check_classes(prepared: Prepared) -> None:
    """Every class must be met in training; those with few rows in a part are noted."""
    if prepared.target.task not in ("binary", "classes"):
        return
    counts = np.bincount(
        prepared.train.target.ravel().astype(np.int64), minlength=len(prepared.target.classes)
    )
    for name, count in zip(prepared.target.classes, counts, strict=True):
        if count == 0:
            raise InputError(f"{prepared.origin}: no row of class {name!r} is in the training part")
    parts = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
    few = []
    for name, part in parts.items():
        if part is not None:
            codes = part.target.ravel().astype(np.int64)
            counts = np.bincount(codes, minlength=len(prepared.target.classes))
            few += [
                f"{label!r} {count} in {name}"
                for label, count in zip(prepared.target.classes, counts, strict=True)
                if count < FEW_ROWS
            ]
    if few:
        listing = ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
        prepared.notes.append(
            f"fewer than {FEW_ROWS} rows of a class: {listing}: numbers about it say little"
        )


def _duplicates(train: Part, test: Part) -> int:
    """How many test rows equal a training row in every feature."""
    if not (train.features.in_memory and test.features.in_memory):
        return 0
    # A random projection tells rows apart almost surely and needs no copy of them.
    width = train.features.values.shape[1]
    direction = np.random.default_rng(0).standard_normal(width)
    seen = train.features.values @ direction
    asked = test.features.values @ direction
    candidates = np.flatnonzero(np.isin(asked, seen))
    if not len(candidates):
        return 0
    rows = {row.tobytes() for row in train.features.values[np.isin(seen, asked)]}
    return sum(test.features.values[at].tobytes() in rows for at in candidates)
