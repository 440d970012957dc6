"""Metrics over any number of rows: outputs come piece by piece, and what adds up is added.

Up to EXACT rows they are kept, and measured as one `Outcome`. Of more, the rankings that AUC needs
are counts of the rows at so many steps of the score; everything else stays exact.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.metrics import Outcome, has_both

Array = NDArray[Any]
EXACT = 2**20  # rows up to which outputs are kept
STEPS = 2**18  # of a score, at most
STEP_BYTES = 2**26  # bytes of the counts at all steps
SHOWN = 2**11  # rows that stand for all of them in a picture
LARGEST_SCORE = 1e4  # logits beyond it count as it


class Tally:
    """Adds up outputs and truths of the rows of a part."""

    def __init__(self, task: str, threshold: float = 0.5, bins: int = 10) -> None:
        self._options = (task, threshold, bins)
        self._pieces: list[tuple[Array, Array]] = []
        self._rows = 0
        self._total: TotalOutcome | None = None

    def add(self, outputs: Array, target: Array) -> None:
        """Add rows: outputs (rows, outputs) of the model, and the target as `Target.values`."""
        self._rows += len(outputs)
        self._pieces.append((outputs, target))
        if self._total is None and self._rows > EXACT:
            task, threshold, bins = self._options
            self._total = TotalOutcome(task, (outputs[:0], target[:0]), threshold, bins)
        if self._total is not None:
            for piece in self._pieces:
                self._total.add(self._outcome(*piece))
            self._pieces = []

    def _outcome(self, outputs: Array, target: Array) -> Outcome:
        task, threshold, bins = self._options
        return Outcome(task, outputs, target, threshold, bins)

    def outcome(self) -> Outcome:
        """What all rows come to."""
        if self._total is not None:
            return self._total
        outputs, targets = zip(*self._pieces, strict=True)
        if len(outputs) == 1:
            return self._outcome(outputs[0], targets[0])
        return self._outcome(np.concatenate(outputs), np.concatenate(targets))


class TotalOutcome(Outcome):
    """An outcome of many rows, of which only totals are kept.

    `outputs` and `target` are some rows, evenly spaced, that stand for all in a picture.
    """

    def __init__(
        self, task: str, nothing: tuple[Array, Array], threshold: float, bins: int
    ) -> None:
        super().__init__(task, *nothing, threshold, bins)
        outputs = self.outputs.shape[1]
        self._spacing = 1
        self._count = 0
        self.rows = self.right = 0
        self._labels: dict[tuple[int, ...], int] = {}
        if self.task == "regression":
            self.moments = (0, np.zeros(outputs), np.zeros(outputs))
            return
        if self.task == "labels":
            self.counts = (np.zeros(outputs, np.int64),) * 3
        else:
            classes = max(2, outputs)
            self.confusion = np.zeros((classes, classes), np.int64)
        self._count = max(2**8, min(STEPS, STEP_BYTES // (16 * outputs)))
        self._steps = np.zeros((outputs, 2, self._count), np.int64)  # misses, hits

    def add(self, piece: Outcome) -> None:
        """Add the rows of a piece."""
        self._keep_some(piece)
        self.rows += piece.rows
        added = piece.sums
        before = self.__dict__.get("sums")
        self.sums = added if before is None else {key: before[key] + added[key] for key in added}
        if self.task == "regression":
            self._add_moments(*piece.moments)
            return
        self.right += piece.right
        if self.task == "labels":
            hits, said, there = (a + b for a, b in zip(self.counts, piece.counts, strict=True))
            self.counts = (hits, said, there)
            self._add_labels(piece)
        else:
            self.confusion = self.confusion + piece.confusion
        for column, steps in enumerate(self._steps):
            codes = 2 * self._places(_logits(piece, column)) + piece.indicators[:, column]
            steps += np.bincount(codes, minlength=steps.size).reshape(-1, 2).T

    def _add_labels(self, piece: Outcome) -> None:
        rows, counts = np.unique(piece.truth, axis=0, return_counts=True)
        for row, count in zip(map(tuple, rows.tolist()), counts.tolist(), strict=True):
            if row in self._labels or len(self._labels) < SHOWN:
                self._labels[row] = self._labels.get(row, 0) + count

    def _add_moments(self, rows: int, mean: Array, squares: Array) -> None:
        """Join mean and squared deviations of more rows (T. Chan, G. Golub, R. LeVeque 1979)."""
        before, old_mean, old_squares = self.moments
        total = before + rows
        apart = mean - old_mean
        squares = old_squares + squares + np.square(apart) * (before * rows / total)
        self.moments = (total, old_mean + apart * (rows / total), squares)

    def _keep_some(self, piece: Outcome) -> None:
        first = -self.rows % self._spacing
        some = slice(first, None, self._spacing)
        self.outputs = np.concatenate([self.outputs, piece.outputs[some]])
        self.target = np.concatenate([self.target, piece.target[some]])
        while len(self.outputs) > 2 * SHOWN:
            self.outputs, self.target = self.outputs[::2], self.target[::2]
            self._spacing *= 2

    def rows_with(self, truth: Any) -> int:
        """How many rows are of a class, or have these labels."""
        if self.task == "labels":
            return self._labels.get(tuple(truth), 0)
        return int(self.confusion[truth[0]].sum())

    # --- rankings ------------------------------------------------------------------------------

    def _places(self, logits: Array) -> Array:
        """The step of each score; steps grow with the score, which may be of any size."""
        size = np.arcsinh(np.clip(logits.astype(np.float64), -LARGEST_SCORE, LARGEST_SCORE))
        share = size / math.asinh(LARGEST_SCORE) / 2 + 0.5
        return np.asarray(np.minimum(share * self._count, self._count - 1).astype(np.int64))

    @cached_property
    def rankings(self) -> list[tuple[Array, Array]]:
        """As those of an outcome, at the steps of the score."""
        each = []
        for misses, hits in self._steps:
            met = np.flatnonzero(misses + hits)[::-1]
            each.append((hits[met].cumsum(), misses[met].cumsum()))
        return each

    @cached_property
    def distinct_scores(self) -> Array:
        """The lowest probability of each step, the highest first (binary)."""
        met = np.flatnonzero(self._steps[0].sum(axis=0))[::-1]
        logits = np.sinh((met / self._count - 0.5) * 2 * math.asinh(LARGEST_SCORE))
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))

    def words(self) -> str | None:
        """How far AUC may be off; None where nothing is rounded."""
        if self.task == "regression":
            return None
        far = [
            float((steps[0] * steps[1] / 2).sum() / (steps[0].sum() * steps[1].sum()))
            for steps, ranking in zip(self._steps, self.rankings, strict=True)
            if has_both(*ranking)
        ]
        if not far:
            return None
        return (
            f"AUC of {self.rows:,} rows is of their counts at {self._count:,} steps of the "
            f"score: ROC AUC is at most {np.mean(far):.1e} off"
        )


def _logits(piece: Outcome, column: int) -> Array:
    """The logarithm of the odds of a column of scores."""
    if piece.task != "classes":
        return piece.outputs[:, column]
    z = piece.outputs.astype(np.float64)
    others = np.delete(z, column, axis=1)
    most = others.max(axis=1, keepdims=True)
    odds: Array = z[:, column] - (most[:, 0] + np.log(np.exp(others - most).sum(axis=1)))
    return odds
