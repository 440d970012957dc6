"""Batches of a part, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nanotorch as nt
from nanotorch.training.data.prepare import Part

BLOCK = 2**23  # bytes of features gathered at once: small parts whole, large ones cache by cache

Batch = tuple[nt.Tensor, nt.Tensor, nt.Tensor | None]


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of `count` rows in an epoch: the same for the same seed and epoch, always."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Batches:
    """Serves a part batch by batch: rows are gathered in blocks, and batches are slices of them.

    A batch is valid until the next one is asked for: blocks are gathered into the same memory.
    """

    def __init__(
        self,
        part: Part,
        weights: NDArray[Any] | None,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        device: Any = "cpu",
        dtype: Any = nt.float32,
    ) -> None:
        self.rows = len(part)
        self.batch_size = min(batch_size or self.rows, self.rows)
        self.seed, self.shuffle = seed, shuffle
        self.count = self.rows // self.batch_size
        self.count += bool(self.rows % self.batch_size) and not drop_last
        self.device, self.dtype = device, dtype
        self.features = part.features
        target = part.target if part.target.dtype == np.int64 else part.target.astype(_numpy(dtype))
        self.target = nt.from_numpy(np.ascontiguousarray(target)).to(device)
        self.weights = None
        if weights is not None:
            self.weights = nt.from_numpy(weights.astype(_numpy(dtype))).to(device)
        self.inputs = None
        width = 1
        if part.features.in_memory:
            self.inputs = nt.from_numpy(part.features.values).to(device).to(dtype)
            width = int(np.prod(part.features.values.shape[1:]))
        else:
            width = part.features.values.shape[1]
        self.block = max(1, BLOCK // (4 * width) // self.batch_size)  # batches in a block
        self._views: dict[int, list[Batch]] = {}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        last = min(self.rows, self.count * self.batch_size)
        order = epoch_order(self.seed, epoch, self.rows) if self.shuffle else None
        for first in range(start - start % self.block, self.count, self.block):
            begin = first * self.batch_size
            end = min(last, (first + self.block) * self.batch_size)
            batches = self._gather(order, begin, end)
            yield from batches[max(0, start - first) :]

    def _gather(self, order: NDArray[np.int64] | None, begin: int, end: int) -> list[Batch]:
        rows = end - begin
        chosen = slice(begin, end) if order is None else order[begin:end]
        if self.inputs is None:
            inputs = nt.from_numpy(self.features.take(chosen)).to(self.device).to(self.dtype)
        elif order is None:
            inputs = self.inputs[begin:end]
        else:
            index = nt.from_numpy(order[begin:end]).to(self.device)
            inputs = nt.index_select(self.inputs, 0, index)
        return self._cut(inputs, chosen, rows)

    def _cut(self, inputs: nt.Tensor, chosen: Any, rows: int) -> list[Batch]:
        if isinstance(chosen, slice):
            target = self.target[chosen]
            weights = None if self.weights is None else self.weights[chosen]
        else:
            index = nt.from_numpy(chosen).to(self.device)
            target = nt.index_select(self.target, 0, index)
            weights = None if self.weights is None else nt.index_select(self.weights, 0, index)
        size = self.batch_size
        edges = [(at, min(at + size, rows)) for at in range(0, rows, size)]
        if weights is None:
            return [(inputs[a:b], target[a:b], None) for a, b in edges]
        return [(inputs[a:b], target[a:b], weights[a:b]) for a, b in edges]


def _numpy(dtype: Any) -> Any:
    return np.float64 if dtype == nt.float64 else np.float32
