"""Columns that say something about rows: when they are from, and how much they weigh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Data
from nanotorch.training.data.columns import Column, numbers_of
from nanotorch.training.data.streams import StreamedTable
from nanotorch.training.data.tables import Table
from nanotorch.training.data.values import date_format
from nanotorch.training.errors import InputError

LARGEST_WEIGHT = float(np.finfo(np.float32).max)


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


def row_weights(table: Table, data: Data) -> NDArray[np.float32] | None:
    """Row weights; None where they are all one, so that weights of one change nothing at all."""
    if data.weight is None:
        return None
    position = _weight_column(table, data.weight)
    weights = _weights_in(table, position)
    if not weights.any():
        raise InputError(f"{table.origin}: data.weight: every row weighs 0")
    return None if (weights == 1).all() else weights


def _weight_column(table: Table, which: str | int) -> int:
    """The position of the column of weights."""
    position = table.column(which, "data.weight")
    if table.names[position] in table.categories:
        raise InputError(f"{table.origin}: data.weight: {which!r} is text, not numbers")
    return position


def _weights_in(table: Table, position: int) -> NDArray[np.float32]:
    """A column of weights, checked."""
    numbers = np.asarray(table.values[:, position], np.float64)
    good = (numbers >= 0) & (numbers <= LARGEST_WEIGHT)
    if not good.all():
        row = int((~good).argmax())
        bound = "" if not numbers[row] > 0 else f" and <= {LARGEST_WEIGHT:.2g}"
        raise InputError(
            f"{table.place(row, position)}: expected a weight >= 0{bound}, found {numbers[row]:g}"
        )
    return numbers.astype(np.float32)


def streamed_weights(
    table: StreamedTable, data: Data
) -> Callable[[Table], NDArray[np.float32]] | None:
    """The weights of a block's rows; None where all rows weigh one."""
    if data.weight is None:
        return None
    position = _weight_column(table, data.weight)
    some, all_one = False, True
    for block in table.blocks():
        weights = _weights_in(block, position)
        some, all_one = some or bool(weights.any()), all_one and bool((weights == 1).all())
    if not some:
        raise InputError(f"{table.origin}: data.weight: every row weighs 0")
    return None if all_one else lambda block: _weights_in(block, position)
