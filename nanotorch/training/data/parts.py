"""The parts of a run's data as arrays: features, target and weights of their rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Data
from nanotorch.training.data.encoding import Encoding, Target
from nanotorch.training.data.sparse_rows import SparseFeatures, SparseTable
from nanotorch.training.data.standardization import Standardization
from nanotorch.training.data.streamed_part import StreamedPart
from nanotorch.training.data.streams import StreamedTable
from nanotorch.training.data.surveys import distinct_rows
from nanotorch.training.data.tables import Table
from nanotorch.training.errors import InputError

LARGEST_WEIGHT = float(np.finfo(np.float32).max)


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

    features: FeatureRows | SparseFeatures
    target: NDArray[Any]
    weights: NDArray[np.float32] | None = None
    in_memory = True

    def __len__(self) -> int:
        return len(self.features)

    @property
    def classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The distinct rows of a target of classes or labels, and how many rows have each."""
        return distinct_rows(self.target.reshape(len(self), -1).astype(np.int64))


AnyPart = Part | StreamedPart


def class_counts(part: AnyPart, classes: int) -> NDArray[np.int64]:
    """How many rows of a part are of each class."""
    rows, counts = part.classes
    every = np.zeros(classes, np.int64)
    every[rows[:, 0]] = counts
    return every


@dataclass
class Builder:
    """Makes the parts of one table."""

    table: Table
    encoding: Encoding
    standardization: Standardization
    target: Target
    weights: Callable[[Table], NDArray[np.float32]] | None
    dtype: np.dtype[Any]

    def part(self, rows: NDArray[np.int64], features: NDArray[Any] | None = None) -> Part:
        """The part of these rows, of which `features` may be encoded already."""
        weights = None if self.weights is None else self.weights(self.table)[rows]
        target = np.ascontiguousarray(self.target.values[rows])
        if target.dtype.kind == "f":
            target = target.astype(self.dtype)
        if isinstance(self.table, SparseTable):
            width = self.encoding.tables.sparse or 0
            return Part(SparseFeatures(self.table, rows, width, self.dtype), target, weights)
        if features is None:
            features = self.encoding.apply(self.table, rows)
        standardized = self.standardization.apply(features, self.dtype)
        return Part(FeatureRows(standardized, dtype=self.dtype), target, weights)


def row_weights(table: Table, data: Data) -> Callable[[Table], NDArray[np.float32]] | None:
    """What reads the weights of a block's rows; None where all rows weigh one, so that weights of
    one change nothing at all."""
    if data.weight is None:
        return None
    position = table.column(data.weight, "data.weight")
    if table.names[position] in table.categories:
        raise InputError(f"{table.origin}: data.weight: {data.weight!r} is text, not numbers")

    def weights_of(block: Table) -> NDArray[np.float32]:
        numbers = np.asarray(block.values[:, position], np.float64)
        good = (numbers >= 0) & (numbers <= LARGEST_WEIGHT)
        if not good.all():
            row = int((~good).argmax())
            bound = "" if not numbers[row] > 0 else f" and <= {LARGEST_WEIGHT:.2g}"
            place = block.place(row, position)
            raise InputError(f"{place}: expected a weight >= 0{bound}, found {numbers[row]:g}")
        return numbers.astype(np.float32)

    some, all_one = False, True
    for block in table.blocks() if isinstance(table, StreamedTable) else [table]:
        weights = weights_of(block)
        some, all_one = some or bool(weights.any()), all_one and bool((weights == 1).all())
    if not some:
        raise InputError(f"{table.origin}: data.weight: every row weighs 0")
    return None if all_one else weights_of
