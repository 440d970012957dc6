"""A part of a run's data whose rows stay on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.encoding import Encoding
from nanotorch.training.data.standardization import Standardization
from nanotorch.training.data.streams import TOGETHER, StreamedTable
from nanotorch.training.data.surveys import PartCounts
from nanotorch.training.data.tables import Table

Rows = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]  # features, target, weights


@dataclass
class StreamedPart:
    """Rows of a table that are read and encoded a block at a time.

    - `labels`, `truth` and `weights_of`: of the rows of a block the numbers of their parts, their
      target, and their weights; `number` is that of this part
    - `of_parts`: of all parts, how many rows of each block are in it, and of which classes
    - `together`: how many blocks lie in memory together, and `rows_at_once` their rows
    """

    table: StreamedTable
    encoding: Encoding
    standardization: Standardization
    dtype: Any
    labels: Callable[[Table], NDArray[np.int8]]
    truth: Callable[[Table], NDArray[Any]]
    weights_of: Callable[[Table], NDArray[np.float32]] | None
    of_parts: PartCounts
    target: NDArray[Any]  # without rows: its dtype and its columns
    number: int = 0
    in_memory = False

    def __post_init__(self) -> None:
        self.counts, self.classes = (
            self.of_parts.rows[self.number],
            self.of_parts.classes(self.number),
        )
        self.width = len(self.encoding.feature_names)
        places = self.encoding.positions(self.table)
        adjacent = places == list(range(places[0], places[-1] + 1))
        self._columns = None  # that are the features as they stand
        if self.encoding.is_plain and adjacent:
            self._columns = slice(places[0], places[-1] + 1)
        # What is read, encoded and served lies in memory three times, and once more ahead.
        row = self.width * np.dtype(self.dtype).itemsize * self.table.block
        self.together = max(1, min(TOGETHER, self.table.memory // max(1, 4 * row)))
        self.rows_at_once = self.together * self.table.block
        self.starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def words(self) -> str:
        """Where the rows are, and how they are read."""
        file, memory = self.table.file, self.table.memory
        size = file.rows * file.columns * file.dtype.itemsize
        return (
            f"{size / 1e9:,.3g} GB stay on the disk, for data.memory is {memory / 1e9:,.3g} GB: "
            f"read in blocks of {self.table.block:,} rows"
        )

    def pieces(self) -> Iterator[tuple[Table, NDArray[np.int64]]]:
        """Blocks of the table, and the places of this part's rows in each that has some."""
        for number, count in enumerate(self.counts.tolist()):
            if count:
                block = self.table.block_table(number)
                yield block, np.flatnonzero(self.labels(block) == self.number)

    def read(self, number: int, out: NDArray[Any] | None = None) -> Rows:
        """The rows of a block, not standardized; `out` takes the block as it is in the file."""
        block = self.table.block_table(number, out)
        rows: Any = slice(None)
        if self.counts[number] < len(block):
            rows = np.flatnonzero(self.labels(block) == self.number)
        if self._columns is None:
            features = self.encoding.apply(block, rows)
        else:
            features = block.values[rows][:, self._columns]
        target = self.truth(block)[rows]
        weights = None if self.weights_of is None else self.weights_of(block)[rows]
        return features, target, weights
