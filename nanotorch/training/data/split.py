"""Which rows train, which choose the best epoch, and which are held out for the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.columns import Column, numbers_of
from nanotorch.training.data.tables import Table
from nanotorch.training.data.values import date_format
from nanotorch.training.errors import InputError

Rows = NDArray[np.int64]
SPLIT = 0x5917
DRAWN_AT_ONCE = 2**16
DRAWN = 2**22  # rows above which each row's part is drawn by itself


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each ascending; no row is in two of them."""

    train: Rows
    validation: Rows
    test: Rows


def divide(
    count: int,
    test: float,
    validation: float,
    seed: int,
    classes: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    folds: int | None = None,
    fold: int = 0,
) -> Split:
    """Divide `count` rows into parts of about the given shares of all rows.

    By time (oldest train, newest test) if `times` is given; else whole groups, if `groups` is;
    else every class by the same shares, if `classes` is; else at random. With `folds`, what is not
    the test part is cut into so many pieces, and the validation part is piece number `fold`; by
    time, it is the piece after the rows that train, which are all before it.

    Of more than DRAWN rows, but by time, the part of each row or group is drawn by itself: its
    shares, and those of each class, then hold to about 1 / sqrt(rows).
    """
    validation = validation_share(count, test, validation, folds)
    random = np.random.default_rng([seed, SPLIT])  # a stream of its own, apart from the batches
    if count > DRAWN and times is None:
        members = np.arange(count) if groups is None else groups
        labels = drawn_parts(members, seed, test, validation, folds, fold)
    elif times is not None:
        order = np.argsort(times, kind="stable")
        labels = _cut(order, test, validation, folds, fold, newest_last=True)
    elif groups is not None:
        names, members = np.unique(groups, return_inverse=True)
        if len(names) < 3:
            raise InputError(f"data.group: expected at least 3 groups, found {len(names)}")
        if folds is not None and len(names) * (1 - test) < folds:
            raise InputError(f"data.folds: {folds} folds need as many groups beside the test part")
        labels = _cut(random.permutation(len(names)), test, validation, folds, fold)[members]
    elif classes is not None:
        labels = np.empty(count, dtype=np.int8)
        piece = fold  # moves on by the rows that do not divide, so that folds are of one size
        for value in np.unique(classes):
            members = np.flatnonzero(classes == value)
            order = random.permutation(len(members))
            labels[members] = _cut(order, test, validation, folds, piece)
            if folds is not None:
                piece = (piece - (labels[members] != 2).sum()) % folds
    else:
        labels = _cut(random.permutation(count), test, validation, folds, fold)
    parts = [np.flatnonzero(labels == part) for part in range(3)]
    for name, share, rows in zip(
        ("validation", "test"), (validation, test), parts[1:], strict=True
    ):
        if share and not len(rows):
            raise InputError(
                f"data.{name}: {share} of {count} rows is none; give a larger share or 0"
            )
    if not len(parts[0]):
        raise InputError(
            f"data.test + data.validation: {test} + {validation} of {count} rows leave none for "
            f"training"
        )
    return Split(*parts)


def validation_share(count: int, test: float, validation: float, folds: int | None) -> float:
    """The share of the validation part; InputError for shares that leave none to train."""
    if folds is not None:
        if folds > count * (1 - test):
            raise InputError(f"data.folds: {folds} folds of {round(count * (1 - test))} rows")
        validation = 1 / folds if test + 1 / folds < 1 else 0.0
    if test + validation >= 1:
        raise InputError(
            f"data.test + data.validation: expected less than 1, given {test} + {validation}"
        )
    return validation


def drawn_parts(
    members: NDArray[Any],
    seed: int,
    test: float,
    validation: float,
    folds: int | None = None,
    fold: int = 0,
) -> NDArray[np.int8]:
    """For each row 0 (train), 1 (validation) or 2 (test), a function of the seed and its number (or
    its group's): no other row need be known.

    The numbers are those of SplitMix64, the generator of G. Steele, D. Lea and C. Flood (2014).
    """
    key = np.random.default_rng([seed, SPLIT]).integers(0, 2**64, dtype=np.uint64)
    labels = np.empty(len(members), dtype=np.int8)
    for start in range(0, len(members), DRAWN_AT_ONCE):
        rows = slice(start, start + DRAWN_AT_ONCE)
        some = members[rows]
        whole = some.dtype.kind == "i"
        bits = some.astype(np.uint64) if whole else (some.astype(np.float64) + 0.0).view(np.uint64)
        bits = bits * np.uint64(0x9E3779B97F4A7C15) + key
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        share = (bits ^ (bits >> np.uint64(31))) / 2.0**64
        validates = share < test + validation
        if folds is not None:
            validates = np.floor((share - test) / (1 - test) * folds) == fold
        labels[rows] = np.where(share < test, 2, validates)
    return labels


def _cut(
    order: Rows,
    test: float,
    validation: float,
    folds: int | None = None,
    fold: int = 0,
    newest_last: bool = False,
) -> Any:
    """For each row 0 (train), 1 (validation), 2 (test) or 3 (none), by its place in `order`."""
    count = len(order)
    tests, validations = round(count * test), round(count * validation)
    labels = np.zeros(count, dtype=np.int8)
    if newest_last:
        labels[order[count - tests :]] = 2
        rest = order[: count - tests]
    else:
        labels[order[:tests]] = 2
        rest = order[tests:]
    if folds is not None and newest_last:
        pieces = np.array_split(rest, folds + 1)
        labels[pieces[fold + 1]] = 1
        labels[np.concatenate([rest[:0], *pieces[fold + 2 :]])] = 3
    elif folds is not None:
        labels[np.array_split(rest, folds)[fold]] = 1
    elif newest_last:
        labels[rest[len(rest) - validations :]] = 1
    else:
        labels[rest[:validations]] = 1
    return labels


def row_times(table: Table, position: int) -> NDArray[Any]:
    """A column of numbers or dates by which rows are ordered."""
    times = numbers_of(table, time_column(table, position), position)
    if np.isnan(times).any():
        raise InputError(
            f"{table.place(int(np.isnan(times).argmax()), position)}: the time is missing"
        )
    return times


def time_column(table: Table, position: int) -> Column:
    """What the column that orders the rows holds."""
    texts = table.categories.get(table.names[position])
    format = date_format(texts) if texts else None
    if texts and format is None:
        raise InputError(
            f"{table.origin}: data.time: column {table.names[position]!r} holds neither "
            f"numbers nor dates of one format, such as {texts[0]!r}"
        )
    return Column(table.names[position], kind="date", format=format)
