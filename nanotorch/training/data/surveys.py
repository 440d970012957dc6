"""What must be known of a table on the disk before a run: gathered in passes over its blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Data
from nanotorch.training.data.columns import (
    Column,
    ColumnFacts,
    codes_of,
    most_frequent_of,
    text_of,
)
from nanotorch.training.data.encoding import Encoding, Target, encode_target
from nanotorch.training.data.split import DRAWN, divide, drawn_parts, validation_share
from nanotorch.training.data.streams import StreamedTable
from nanotorch.training.data.tables import Table
from nanotorch.training.errors import InputError

MOST_DISTINCT = 2**20  # values of a column that are told apart
MOST_LABELS = 2**16  # combinations of labels that are counted

PARTS = ("train", "validation", "test")


@dataclass
class Distinct:
    """The distinct values of a column, in order, until there are too many of them."""

    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    many: bool = False

    def add(self, values: NDArray[Any]) -> None:
        if not self.many:
            values = np.unique(values[~np.isnan(values)])
            if not np.isin(values, self.values).all():
                self.values = np.union1d(self.values, values)
                self.many = len(self.values) > MOST_DISTINCT


def survey_columns(table: StreamedTable, targets: Targets) -> tuple[list[ColumnFacts], bool]:
    """The facts of every column, and whether all values are finite numbers; `targets` looks on."""
    texts = [table.categories.get(name) for name in table.names]
    rows = len(table)
    facts = [ColumnFacts(rows, None if known is None else len(known)) for known in texts]
    finite = True
    for block in table.blocks():
        targets.add(block)
        values = block.values
        counts = np.full(values.shape[1], len(values))
        if not np.isfinite(values).all():
            finite = False
            counts = np.count_nonzero(~np.isnan(values), axis=0)
        for position, (column, count) in enumerate(zip(facts, counts.tolist(), strict=True)):
            if column.counts_rows or texts[position] is not None:
                column.add(values[:, position], count)
            else:
                column.present += count
    return facts, finite


class Targets:
    """What the target columns hold, and the weights, groups and times of the rows."""

    def __init__(self, table: StreamedTable, positions: list[int], data: Data, model: str) -> None:
        self.table, self.positions = table, positions
        self.distinct = [Distinct() for _ in positions]
        beside = [key for key in ("weight", "group", "time") if getattr(data, key) is not None]
        self.places = {key: table.column(getattr(data, key), f"data.{key}") for key in beside}
        self._counted = model != "linear" and data.task != "regression"
        divides = [self.places[key] for key in ("group", "time") if key in self.places]
        if data.split == "stratified" and self._counted and len(positions) == 1:
            divides += positions
        self.held = {at: np.empty(len(table)) for at in divides if len(table) <= DRAWN}

    def add(self, block: Table) -> None:
        """Look at the next block."""
        for position, column in self.held.items():
            column[block.first : block.first + len(block)] = block.values[:, position]
        for position, distinct in zip(self.positions, self.distinct, strict=True):
            text = self.table.names[position] in self.table.categories
            if not text and len(distinct.values) > 2:
                # Numbers, and no classes: any few of them stand for all.
                distinct.many |= not self._counted or bool((distinct.values % 1).any())
            distinct.add(np.asarray(block.values[:, position], np.float64))

    def refuse_missing_times(self) -> None:
        """InputError where a row has no time to be ordered by."""
        position = self.places.get("time", -1)
        missing = np.isnan(self.held.get(position, np.empty(0)))
        if missing.any():
            row = int(missing.argmax())
            raise InputError(f"{self.table.place(row, position)}: the time is missing")

    def encoded(self, data: Data, model: str, known: Target | None = None) -> Target:
        """The target without its rows: its task and its classes."""
        table = self.table
        many = any(each.many for each in self.distinct)
        widest = max(len(each.values) for each in self.distinct)
        values = np.column_stack([np.resize(each.values, widest) for each in self.distinct])
        names = [table.names[position] for position in self.positions]
        some = Table(table.origin, names, values, table.categories)
        rows = widest if many else len(table)
        target = encode_target(some, list(range(len(names))), data, model, known, rows)
        self.codes = target.values.reshape(widest, -1)
        return Target(target.task, target.values[:0], target.classes, target.columns)

    def of(self, block: Table, target: Target) -> NDArray[Any]:
        """The target of a block's rows, as `encode_target` has it."""
        raw = np.asarray(block.values[:, self.positions], dtype=np.float64)
        if target.task == "regression":
            return raw
        if target.task == "labels":
            return raw.astype(np.float32)
        codes = self.codes[np.searchsorted(self.distinct[0].values, raw[:, 0])]
        return codes if target.task == "binary" else codes[:, 0]


class Division:
    """Which part each row is in: 0 train, 1 validation, 2 test, 3 none."""

    def __init__(self, targets: Targets, target: Target, data: Data, seed: int) -> None:
        table = targets.table
        self.count = len(table)
        test = 0.0 if data.test_file is not None else data.test
        self._fold = (data.folds, data.fold or 0)
        self._group = targets.places.get("group")
        self._shares = (seed if data.split_seed is None else data.split_seed, test, data.validation)
        self._labels: NDArray[np.int8] | None = None
        if self.count > DRAWN:
            if data.time is not None:
                raise InputError(
                    f'data.split: "time" orders up to {DRAWN:,} rows of a file that is not held in '
                    f"memory, and {table.origin} has {self.count:,}; a larger data.memory holds it"
                )
            validation_share(self.count, test, data.validation, data.folds)
            return
        stratified = data.split == "stratified" and target.task in ("binary", "classes")
        groups, times = (targets.held.get(targets.places.get(key, -1)) for key in ("group", "time"))
        classes = None
        if stratified:
            raw = targets.held[targets.positions[0]]
            classes = targets.codes[np.searchsorted(targets.distinct[0].values, raw), 0]
        seed, test, validation = self._shares
        split = divide(self.count, test, validation, seed, classes, groups, times, *self._fold)
        self._labels = np.full(self.count, 3, np.int8)
        for number, rows in enumerate(vars(split).values()):
            self._labels[rows] = number

    def of(self, block: Table) -> NDArray[np.int8]:
        """The part of each row of a block."""
        rows = slice(block.first, block.first + len(block))
        if self._labels is not None:
            return self._labels[rows]
        if self._group is None:
            members = np.arange(rows.start, rows.stop)
        else:
            members = np.asarray(block.values[:, self._group], np.float64)
        seed, test, validation = self._shares
        return drawn_parts(members, seed, test, validation, *self._fold)


def train_rows(table: StreamedTable, division: Division) -> Iterator[tuple[Table, NDArray[Any]]]:
    """Every block, and the places of its training rows."""
    for block in table.blocks():
        yield block, np.flatnonzero(division.of(block) == 0)


def survey_encoding(
    table: StreamedTable,
    pairs: list[tuple[int, Column]],
    division: Division,
    data: Data,
    any_missing: bool,
    notes: list[str],
) -> Encoding:
    """As `make_encoding`: fill values and rare categories come from the training rows alone."""
    filled = any_missing and data.missing in ("mean", "median")
    categories = {at: column for at, column in pairs if column.kind == "category"}
    gaps = dict.fromkeys(categories, False)
    texts = {at: table.categories.get(column.name) for at, column in categories.items()}
    distinct = {at: Distinct() for at, known in texts.items() if known is None}
    numbers = [at for at, column in pairs if column.kind not in ("category", "hashed")]
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers), np.int64)
    for block, rows in train_rows(table, division) if filled or categories else ():
        for at in categories:
            gaps[at] |= bool(np.isnan(block.values[:, at]).any())
        for at, values in distinct.items():
            values.add(np.asarray(block.values[:, at], np.float64))
        if filled:
            some = np.asarray(block.values[rows][:, numbers], np.float64)
            sums += np.nansum(some, axis=0)
            counts += np.count_nonzero(~np.isnan(some), axis=0)
    for at, values in distinct.items():
        if values.many:
            raise InputError(
                f"{table.origin}: data.types: {table.names[at]!r} has more than "
                f"{MOST_DISTINCT:,} values, too many for categories"
            )
        texts[at] = sorted({text_of(value) for value in values.values.tolist()})
    frequencies = _frequencies(table, texts, division, data)
    for at, column in categories.items():
        known = texts[at] or []
        frequency = frequencies.get(at)
        column.categories = most_frequent_of(column.name, known, frequency, gaps[at], data, notes)
    if filled:
        if not counts.all():
            name = table.names[numbers[int((counts == 0).argmax())]]
            raise InputError(
                f"{table.origin}: column {name!r} is empty in the training part; "
                f"data.ignore = [{name!r}] leaves it out"
            )
        fills = sums / counts
        if data.missing == "median":
            fills = _medians(table, numbers, counts, division)
        columns = dict(pairs)
        for at, fill in zip(numbers, fills.tolist(), strict=True):
            columns[at].fill = fill
    return Encoding([column for _, column in pairs])


def _frequencies(
    table: StreamedTable,
    texts: dict[int, list[str] | None],
    division: Division,
    data: Data,
) -> dict[int, NDArray[np.int64]]:
    """How many training rows have each text, of columns that have more than may be used."""
    crowded = {at: known for at, known in texts.items() if len(known or ()) > data.max_categories}
    counts = {at: np.zeros(len(known or ()), np.int64) for at, known in crowded.items()}
    for block, rows in train_rows(table, division) if crowded else ():
        for at, known in crowded.items():
            codes = codes_of(block, at, block.values[rows, at], known or [])
            counts[at] += np.bincount(codes[codes >= 0], minlength=len(known or ()))
    return counts


def _medians(
    table: StreamedTable, columns: list[int], counts: NDArray[np.int64], division: Division
) -> NDArray[np.float64]:
    """The medians of columns in the training rows, each of so many numbers: digit by digit of the
    two middle ones, a pass over the table for each digit of 11 bits."""
    ranks = np.stack([(counts - 1) // 2, counts // 2])
    prefixes = np.zeros(ranks.shape, np.uint64)
    for shift in range(55, -1, -11):
        digits = np.zeros((*ranks.shape, 2**11), np.int64)
        for block, rows in train_rows(table, division):
            some = np.asarray(block.values[rows][:, columns], np.float64)
            for at, values in enumerate(some.T):
                keys = _sortable(values[~np.isnan(values)])
                for which in range(2):
                    alike = keys >> np.uint64(shift) >> np.uint64(11) == prefixes[which, at]
                    digit = (keys[alike] >> np.uint64(shift)) & np.uint64(2**11 - 1)
                    digits[which, at] += np.bincount(digit.astype(np.int64), minlength=2**11)
        below = digits.cumsum(axis=-1)
        chosen = (below <= ranks[..., None]).sum(axis=-1)
        places = np.maximum(chosen - 1, 0)[..., None]
        before = np.take_along_axis(below, places, axis=-1)[..., 0]
        ranks = ranks - np.where(chosen > 0, before, 0)
        prefixes = (prefixes << np.uint64(11)) + chosen.astype(np.uint64)
    middle = _numbers_of_keys(prefixes)
    return np.asarray(middle.mean(axis=0))


def _sortable(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Whole numbers in the order of the numbers."""
    bits = (values + 0.0).view(np.uint64)
    sign = bits >> np.uint64(63) == 1
    return np.where(sign, ~bits, bits | np.uint64(2**63))


def _numbers_of_keys(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    positive = keys >> np.uint64(63) == 1
    return np.where(positive, keys & np.uint64(2**63 - 1), ~keys).view(np.float64)


class PartCounts:
    """Of every part: its rows in each block, their SHA-256 by number, and its classes."""

    def __init__(self, table: StreamedTable, targets: Targets, target: Target) -> None:
        self._targets, self._target = targets, target
        self.rows = np.zeros((len(PARTS), table.count), np.int32)
        self._classes: list[dict[tuple[int, ...], int]] = [{} for _ in PARTS]
        self._hashes = [hashlib.sha256() for _ in PARTS]
        self._block = 0

    def add(self, block: Table, labels: NDArray[np.int8]) -> None:
        """Count the next block."""
        truth = None
        if self._target.task != "regression":
            truth = self._targets.of(block, self._target).reshape(len(block), -1).astype(np.int64)
        for number, counts in enumerate(self._classes):
            rows = np.flatnonzero(labels == number)
            self.rows[number, self._block] = len(rows)
            self._hashes[number].update((rows + block.first).astype("<i8").tobytes())
            if truth is not None and len(rows):
                distinct, some = distinct_rows(truth[rows])
                for row, count in zip(map(tuple, distinct.tolist()), some.tolist(), strict=True):
                    if row in counts or len(counts) < MOST_LABELS:
                        counts[row] = counts.get(row, 0) + count
        self._block += 1

    @property
    def complete(self) -> bool:
        """Whether every block is counted."""
        return self._block == self.rows.shape[1]

    def classes(self, part: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The distinct rows of the target, and how many rows have each."""
        counts = self._classes[part]
        keys = sorted(counts)
        return np.array(keys, np.int64), np.array([counts[key] for key in keys], np.int64)

    def digests(self) -> dict[str, str]:
        return {name: each.hexdigest() for name, each in zip(PARTS, self._hashes, strict=True)}


def distinct_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct rows of classes or labels, in order, and how many there are of each."""
    if rows.shape[1] == 1:
        counts = np.bincount(rows[:, 0])
        present = np.flatnonzero(counts)
        return present[:, None], counts[present]
    return np.unique(rows, axis=0, return_counts=True)
