"""Which rows train, which choose the best epoch, and which are held out for the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import InputError

Rows = NDArray[np.int64]


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
) -> Split:
    """Divide `count` rows into parts of about the given shares of all rows.

    By time (oldest train, newest test) if `times` is given; else whole groups, if `groups` is;
    else every class by the same shares, if `classes` is; else at random.
    """
    if test + validation >= 1:
        raise InputError(
            f"data.test + data.validation: expected less than 1, given {test} + {validation}"
        )
    random = np.random.default_rng([seed, 0x5917])  # a stream of its own, apart from the batches
    if times is not None:
        order = np.argsort(times, kind="stable")
        labels = _cut(order, test, validation, newest_last=True)
    elif groups is not None:
        names, members = np.unique(groups, return_inverse=True)
        if len(names) < 3:
            raise InputError(f"data.group: expected at least 3 groups, found {len(names)}")
        labels = _cut(random.permutation(len(names)), test, validation)[members]
    elif classes is not None:
        labels = np.empty(count, dtype=np.int8)
        for value in np.unique(classes):
            members = np.flatnonzero(classes == value)
            labels[members] = _cut(random.permutation(len(members)), test, validation)
    else:
        labels = _cut(random.permutation(count), test, validation)
    parts = [np.flatnonzero(labels == part) for part in range(3)]
    for name, share, rows in zip(
        ("validation", "test"), (validation, test), parts[1:], strict=True
    ):
        if share and not len(rows):
            raise InputError(
                f"data.{name}: {share} of {count} rows is none; give a larger share or 0"
            )
    if not len(parts[0]):
        raise InputError(f"data: no rows are left for training out of {count}")
    return Split(*parts)


def _cut(order: Rows, test: float, validation: float, newest_last: bool = False) -> Any:
    """For each row 0 (train), 1 (validation) or 2 (test), by its place in `order`."""
    count = len(order)
    tests, validations = round(count * test), round(count * validation)
    labels = np.zeros(count, dtype=np.int8)
    if newest_last:
        labels[order[count - tests - validations :]] = 1
        labels[order[count - tests :]] = 2
    else:
        labels[order[:tests]] = 2
        labels[order[tests : tests + validations]] = 1
    return labels
