"""The parts of a run's data as arrays: features, target and weights of their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.encoding import Encoding, Target
from nanotorch.training.data.sparse_rows import SparseFeatures, SparseTable
from nanotorch.training.data.standardization import Standardization
from nanotorch.training.data.streamed_part import StreamedPart
from nanotorch.training.data.surveys import distinct_rows
from nanotorch.training.data.tables import Table


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
    weights: NDArray[np.float32] | None
    dtype: np.dtype[Any]

    def part(self, rows: NDArray[np.int64], features: NDArray[Any] | None = None) -> Part:
        """The part of these rows, of which `features` may be encoded already."""
        weights = None if self.weights is None else self.weights[rows]
        target = np.ascontiguousarray(self.target.values[rows])
        if target.dtype.kind == "f":
            target = target.astype(self.dtype)
        return Part(self._features(rows, features), target, weights)

    def _features(
        self, rows: NDArray[np.int64], features: NDArray[Any] | None
    ) -> FeatureRows | SparseFeatures:
        if isinstance(self.table, SparseTable):
            width = self.encoding.tables.sparse or 0
            return SparseFeatures(self.table, rows, width, self.dtype)
        if features is None:
            features = self.encoding.apply(self.table, rows)
        return FeatureRows(self.standardization.apply(features, self.dtype), dtype=self.dtype)
