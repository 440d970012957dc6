"""Everything between a data file and the arrays a run is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Data
from nanotorch.training.config.writer import toml_value
from nanotorch.training.data.columns import settle, to_numbers
from nanotorch.training.data.encoding import (
    CHUNK,
    Encoding,
    Gaps,
    Target,
    choose_columns,
    encode_target,
    find_gaps,
    make_encoding,
    settle_targets,
)
from nanotorch.training.data.identity import column_marks, file_digest, marks_of, rows_digest
from nanotorch.training.data.parts import AnyPart, Builder, Part, class_counts, row_weights
from nanotorch.training.data.sparse_rows import SparseTable
from nanotorch.training.data.split import DRAWN, Split, divide, row_times, time_column
from nanotorch.training.data.standardization import Standardization, standardization_of
from nanotorch.training.data.streamed_part import StreamedPart
from nanotorch.training.data.streams import StreamedTable, open_table
from nanotorch.training.data.surveys import (
    Division,
    PartCounts,
    Targets,
    survey_columns,
    survey_encoding,
)
from nanotorch.training.data.tables import Table, table_of
from nanotorch.training.errors import InputError
from nanotorch.training.files import sha256

FEW_ROWS = 5  # of a class in a part, below which numbers about it say little


@dataclass
class Prepared:
    """The data of a run; `validation` and `test` are None where the share is 0."""

    origin: str
    encoding: Encoding
    target: Target
    standardization: Standardization
    train: AnyPart
    validation: AnyPart | None
    test: AnyPart | None
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

    @property
    def features(self) -> int:
        """How many features a row has, those included that sparse rows do not store."""
        return self.encoding.tables.sparse or self.inputs

    def summary(self) -> dict[str, Any]:
        """Rows, features and classes, as they stand in summary.json and the report."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "source": self.origin,
            "task": self.target.task,
            "features": self.features,
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
    table = open_table(data.source, data) if frame is None else table_of(frame, data.source)
    files = {data.source: _file(data.source, table)}
    features, targets = choose_columns(table, data)
    settle_targets(table, targets, data.types)
    for position in targets:
        if table.names[position] in getattr(table, "crowded", ()):
            raise InputError(
                f"{table.origin}: target {table.names[position]!r}: has too many different texts"
            )
    _check_split(data)
    if data.sparse and not isinstance(table, SparseTable):
        raise InputError(f"{table.origin}: data.sparse: is for rows of .svm files")
    notes = [*guesses_in_words(table.guesses), *table.notes]
    if isinstance(table, StreamedTable):
        columns = (features, targets)
        kind = np.dtype(dtype)
        return _prepare_streamed(table, data, model, seed, kind, columns, notes, files)
    pairs = settle(table, features, data, notes)
    features = [position for position, _ in pairs]
    gaps = find_gaps(table, features, targets, data.missing)
    notes += gaps.words(table)
    if gaps.keep is not None:
        table.only(gaps.keep, gaps.needed)
    target = encode_target(table, targets, data, model)
    split = _divide(table, target, data, seed)
    _note_drawn(len(table), target, data, notes)
    encoding = make_encoding(table, pairs, split.train, data, gaps.any, notes)
    step = max(1, CHUNK // len(encoding.feature_names))

    def chunks() -> Iterator[NDArray[Any]]:
        for start in range(0, len(split.train), step):
            yield encoding.apply(table, split.train[start : start + step])

    standardization = standardization_of(encoding, chunks, data.standardize, notes)
    weights = row_weights(table, data)
    build = Builder(table, encoding, standardization, target, weights, np.dtype(dtype))
    stored = encoding.tables.sparse is not None  # by features, and not encoded before a batch
    encoded = None if stored else encoding.apply(table, split.train)
    marks = None if encoded is None else marks_of(encoded)
    train = build.part(split.train, encoded)
    del encoded  # as large as the part itself
    if data.test_file is not None:
        test: AnyPart | None = _test_file(data, model, build, files)
    else:
        test = build.part(split.test) if len(split.test) else None
    prepared = Prepared(
        origin=table.origin,
        encoding=encoding,
        target=target,
        standardization=standardization,
        train=train,
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
        marks=marks,
    )
    _check_classes(prepared)
    if same := _duplicates(prepared.train, prepared.test):
        notes.append(f"{same} rows of the test part stand in the training part as well")
    return prepared


def _divide(table: Table, target: Target, data: Data, seed: int) -> Split:
    count = len(table.values)
    classes = groups = times = None
    if data.split == "stratified" and target.task in ("binary", "classes"):
        classes = target.values.ravel()
    if data.group is not None:
        groups = np.asarray(table.values[:, table.column(data.group, "data.group")])
    if data.time is not None:
        times = row_times(table, table.column(data.time, "data.time"))
    test = 0.0 if data.test_file is not None else data.test
    split_seed = seed if data.split_seed is None else data.split_seed
    fold = (data.folds, data.fold or 0)
    return divide(count, test, data.validation, split_seed, classes, groups, times, *fold)


def _note_drawn(count: int, target: Target, data: Data, notes: list[str]) -> None:
    """Say where classes are not divided to the row."""
    if count > DRAWN and data.split == "stratified" and target.task in ("binary", "classes"):
        notes.append(
            f"of more than {DRAWN:,} rows each one's part is drawn by itself: the shares of a "
            f"class hold to about 1 / sqrt(its rows)"
        )


def _check_split(data: Data) -> None:
    """Refuse keys of [data] about the split that do not go together."""
    for key, kind in (("group", "grouped"), ("time", "time")):
        if data.split == kind and getattr(data, key) is None:
            raise InputError(f'data.split: "{kind}" needs data.{key}, the column to divide by')
        if data.split != kind and getattr(data, key) is not None:
            raise InputError(
                f'data.{key}: is used by data.split = "{kind}" alone, and data.split is '
                f'"{data.split}"'
            )
    if data.fold is not None and data.folds is None:
        raise InputError("data.fold: is one of data.folds, which is not set")
    if data.folds is not None and data.fold is not None and data.fold >= data.folds:
        raise InputError(f"data.fold: expected less than {data.folds}, given {data.fold}")
    if data.folds is not None and data.fold is None:
        raise InputError("data.folds: one run trains one fold: data.fold says which")


def _file(source: str, table: Table) -> dict[str, Any]:
    """What tells a file from another one."""
    digest = table.digest or file_digest(source)
    if digest is None:
        digest = sha256(np.ascontiguousarray(table.values).tobytes())
    in_memory = not isinstance(table, StreamedTable) and not isinstance(table.values, np.memmap)
    return {
        "sha256": digest,
        "rows": len(table),
        "columns": table.names,
        "marks": column_marks(table.values, table.names, table.categories) if in_memory else None,
    }


def _test_file(data: Data, model: str, build: Builder, files: dict[str, Any]) -> AnyPart:
    """The test part out of a file of its own, encoded as the training data is."""
    assert data.test_file is not None
    table = open_table(data.test_file, data)
    positions = [table.column(name, "data.target") for name in build.target.columns]
    settle_targets(table, positions, data.types)
    files[data.test_file] = _file(data.test_file, table)
    gaps = find_gaps(table, build.encoding.settle(table), positions, data.missing)
    gaps.words(table)  # refuses a table of gaps alone
    if gaps.keep is not None:
        table.only(gaps.keep, gaps.needed)
    if not isinstance(data.weight, int) and data.weight not in table.names:
        data = data.model_copy(update={"weight": None})  # rows of a file without them are equal
    if isinstance(table, StreamedTable):
        return _streamed_test(table, positions, data, model, build)
    target = encode_target(table, positions, data, model, known=build.target)
    weights = row_weights(table, data)
    build = replace(build, table=table, target=target, weights=weights)
    return build.part(np.arange(len(table.values)))


def _streamed_test(
    table: StreamedTable, positions: list[int], data: Data, model: str, build: Builder
) -> StreamedPart:
    """A test file whose rows stay on the disk."""
    survey = Targets(table, positions, data.model_copy(update={"group": None, "time": None}), model)
    for block in table.blocks():
        survey.add(block)
    target = survey.encoded(data, model, build.target)
    counts = PartCounts(table, survey, target)
    for block in table.blocks():
        counts.add(block, np.zeros(len(block), np.int8))
    return StreamedPart(
        table,
        build.encoding,
        build.standardization,
        build.dtype,
        labels=lambda block: np.zeros(len(block), np.int8),
        truth=lambda block: survey.of(block, target),
        weights_of=row_weights(table, data),
        of_parts=counts,
        target=target.values,
    )


def _prepare_streamed(
    table: StreamedTable,
    data: Data,
    model: str,
    seed: int,
    dtype: np.dtype[Any],
    columns: tuple[list[int], list[int]],
    notes: list[str],
    files: dict[str, Any],
) -> Prepared:
    """As `prepare`, of a table whose rows stay on the disk, in a few passes over its blocks.

    `columns` are the positions of the features and of the target.
    """
    features, targets = columns
    if data.time is not None:
        at = table.column(data.time, "data.time")
        to_numbers(table, time_column(table, at), at)
    survey = Targets(table, targets, data, model)
    facts, finite = survey_columns(table, survey)
    pairs = settle(table, features, data, notes, facts)
    gaps = Gaps()
    if not finite or table.numbers:
        gaps = find_gaps(table, [at for at, _ in pairs], targets, data.missing)
        notes += gaps.words(table)
        if gaps.keep is not None:
            table.only(gaps.keep, gaps.needed)
        survey = Targets(table, targets, data, model)
        for block in table.blocks():
            survey.add(block)
    survey.refuse_missing_times()
    target = survey.encoded(data, model)
    division = Division(survey, target, data, seed)
    _note_drawn(len(table), target, data, notes)
    encoding = survey_encoding(table, pairs, division, data, gaps.any, notes)
    counts = PartCounts(table, survey, target)

    def chunks() -> Iterator[NDArray[Any]]:
        for block in table.blocks():
            labels = division.of(block)
            if not counts.complete:
                counts.add(block, labels)
            yield encoding.apply(block, np.flatnonzero(labels == 0))

    standardization = standardization_of(encoding, chunks, data.standardize, notes)
    shape = StreamedPart(
        table,
        encoding,
        standardization,
        dtype,
        labels=division.of,
        truth=lambda block: survey.of(block, target),
        weights_of=row_weights(table, data),
        of_parts=counts,
        target=target.values,
    )
    validation, test = replace(shape, number=1), replace(shape, number=2)
    held_out: AnyPart | None = test if len(test) else None
    if data.test_file is not None:
        build = Builder(table, encoding, standardization, target, None, dtype)
        held_out = _test_file(data, model, build, files)
    prepared = Prepared(
        origin=table.origin,
        encoding=encoding,
        target=target,
        standardization=standardization,
        train=shape,
        validation=validation if len(validation) else None,
        test=held_out,
        notes=notes,
        table=table,
        guesses=table.guesses,
        identity={"files": files, "parts": counts.digests()},
    )
    _check_classes(prepared)
    return prepared


def guesses_in_words(guesses: dict[str, Any]) -> list[str]:
    """Words about the guesses that are not what one expects of a table."""
    usual = {"header": True, "delimiter": ",", "encoding": "utf-8", "decimal": "."}
    odd = {key: value for key, value in guesses.items() if usual.get(key) != value}
    if not odd:
        return []
    listing = ", ".join(f"{key} = {toml_value(value)}" for key, value in odd.items())
    return [f"guessed in [data]: {listing}"]


def most_frequent(data: Prepared) -> list[int]:
    """The class, or the 0 and 1 of every label, that most training rows have."""
    rows, counts = data.train.classes
    most: list[int] = rows[counts.argmax()].tolist()
    return most


def _check_classes(prepared: Prepared) -> None:
    """Every class must be met in training; those with few rows in a part are noted."""
    if prepared.target.task not in ("binary", "classes"):
        return
    counts = class_counts(prepared.train, len(prepared.target.classes))
    for name, count in zip(prepared.target.classes, counts, strict=True):
        if count == 0:
            raise InputError(f"{prepared.origin}: no row of class {name!r} is in the training part")
    parts = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
    few = []
    for name, part in parts.items():
        if part is not None:
            counts = class_counts(part, len(prepared.target.classes))
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


def _duplicates(train: AnyPart, test: AnyPart | None) -> int:
    """How many test rows equal a training row in every feature, where all are in memory."""
    if not (isinstance(train, Part) and isinstance(test, Part) and train.features.in_memory):
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
