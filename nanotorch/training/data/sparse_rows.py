"""Rows of which the features that are not 0 are stored alone, as svmlight files have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.tables import Table
from nanotorch.training.errors import InputError

FEATURES = "features"  # the one column that stands for all features of a row


@dataclass
class SparseTable(Table):
    """A table whose rows are stored by features: column 0 holds the number of a row, 1 its target.

    Row i has the features `numbers[starts[i] : starts[i + 1]]` with the `stored` values there;
    `width` is one more than the largest number.
    """

    starts: NDArray[np.int64] = field(kw_only=True)
    numbers: NDArray[np.int32] = field(kw_only=True)
    stored: NDArray[np.float64] = field(kw_only=True)
    width: int = field(kw_only=True)

    def padded(self, rows: Any, width: int, dtype: Any = np.float64) -> NDArray[Any]:
        """Numbers, then values, of some rows' features: shape (rows, 2 · the longest row).

        Features from number `width` on are left out; a place that is not used has that number.
        """
        chosen = np.asarray(self.values[rows, 0]).astype(np.int64)
        begins, ends = self.starts[chosen], self.starts[chosen + 1]
        places = max(1, int((ends - begins).max(initial=0)))
        at = begins[:, None] + np.arange(places)
        used = at < ends[:, None]
        at = np.where(used, at, 0)
        out = np.empty((len(chosen), 2 * places), dtype)
        if not len(self.numbers):
            out[:, :places], out[:, places:] = width, 0
            return out
        numbers = self.numbers[at]
        used &= numbers < width
        out[:, :places] = np.where(used, numbers, width)
        out[:, places:] = np.where(used, self.stored[at], 0)
        return out


class SparseFeatures:
    """Some rows of a sparse table, made when they are asked for; as `FeatureRows`."""

    in_memory = False

    def __init__(self, table: SparseTable, rows: NDArray[np.int64], width: int, dtype: Any) -> None:
        self._table, self._rows, self._width, self.dtype = table, rows, width, dtype
        longest = int(np.diff(table.starts).max(initial=1))
        self.values = np.empty((0, 2 * longest), dtype)  # as wide as a batch may be

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Any) -> NDArray[Any]:
        """Some rows (positions or a slice), as wide as the longest of them."""
        return self._table.padded(self._rows[rows], self._width, self.dtype)


def sparse_table(origin: str, matrix: Any, target: NDArray[Any]) -> SparseTable:
    """The table of a sparse matrix (CSR) and its target."""
    matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all():
        bad = int((~np.isfinite(matrix.data)).argmax())
        row = int(np.searchsorted(matrix.indptr, bad, side="right"))
        raise InputError(
            f"{origin}:{row}: feature {matrix.indices[bad]}: expected a finite number, found "
            f"{matrix.data[bad]}"
        )
    values = np.column_stack([np.arange(len(target)), target])
    share = len(matrix.data) / max(1, len(target))
    note = f"sparse rows of {matrix.shape[1]:,} features, {share:,.1f} of them stored in a row"
    return SparseTable(
        origin, [FEATURES, "target"], values, lines=1, notes=[f"{note}; they are not standardized"],
        starts=matrix.indptr.astype(np.int64), numbers=matrix.indices, stored=matrix.data,
        width=matrix.shape[1],
    )  # fmt: skip
