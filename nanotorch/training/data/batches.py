"""Batches of a part, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nanotorch as nt
from nanotorch.backend import array_module
from nanotorch.training.data.prepare import Part

BLOCK = 2**23  # bytes of features gathered at once: small parts whole, large ones cache by cache

Batch = tuple[nt.Tensor, nt.Tensor, nt.Tensor | None]


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of `count` rows in an epoch: the same for the same seed and epoch, always."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Batches:
    """Serves a part batch by batch.

    Rows are gathered a block of batches at a time, always into the same memory, and the batches
    are slices of it made once: a step costs no indexing at all. A batch is therefore valid only
    until the next block is gathered.
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
        self.seed = seed
        self.device, self.dtype = device, dtype
        self._features = part.features
        self._inputs = None
        if part.features.in_memory:
            self._inputs = self._tensor(part.features.values)
        self._target = self._tensor(part.target)
        self._weights = None if weights is None else self._tensor(weights)
        self._row_bytes = part.features.values.shape[1] * dtype.itemsize
        self._arrange(batch_size, shuffle, drop_last)

    def _arrange(self, batch_size: int, shuffle: bool, drop_last: bool) -> None:
        """Decide how many batches there are, and how many of them make a block."""
        self.batch_size = min(batch_size or self.rows, self.rows)
        self.shuffle = shuffle
        self.count = self.rows // self.batch_size
        self.count += bool(self.rows % self.batch_size) and not drop_last
        self.block = max(1, BLOCK // max(1, self._row_bytes) // self.batch_size)
        self.block = min(self.block, max(1, self.count))
        self._buffers = [self._buffer(t) for t in (self._inputs, self._target, self._weights)]
        self._cut: dict[int, list[Batch]] = {}  # by number of rows: a short last block has its own

    def in_order(self, batch_size: int) -> Batches:
        """All rows in their order, in batches of another size, out of the same memory."""
        other = copy.copy(self)
        other._arrange(batch_size, shuffle=False, drop_last=False)
        return other

    def _tensor(self, array: NDArray[Any]) -> nt.Tensor:
        """The array on the device; numbers that are not classes take the dtype of the run."""
        tensor: nt.Tensor = nt.from_numpy(np.ascontiguousarray(array)).to(self.device)
        return tensor if tensor.dtype == nt.int64 else tensor.to(self.dtype)

    def _buffer(self, source: nt.Tensor | None) -> nt.Tensor | None:
        if source is None or not self.shuffle:
            return source
        return nt.empty(
            self.block * self.batch_size, *source.shape[1:], dtype=source.dtype, device=self.device
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        last = min(self.rows, self.count * self.batch_size)
        order = epoch_order(self.seed, epoch, self.rows) if self.shuffle else None
        for first in range(start - start % self.block, self.count, self.block):
            begin = first * self.batch_size
            end = min(last, begin + self.block * self.batch_size)
            batches = self._block(order, begin, end)
            yield from batches[max(0, start - first) :]

    def _block(self, order: NDArray[np.int64] | None, begin: int, end: int) -> list[Batch]:
        if self._inputs is None:  # on the disk
            chosen = slice(begin, end) if order is None else order[begin:end]
            inputs = self._tensor(self._features.take(chosen))
            target, weights = self._take(self._target, chosen), self._take(self._weights, chosen)
            return self._slices(inputs, target, weights, 0, end - begin)
        if order is None:
            return self._slices(self._inputs, self._target, self._weights, begin, end)
        sources = (self._inputs, self._target, self._weights)
        for source, buffer in zip(sources, self._buffers, strict=True):
            if source is not None and buffer is not None:
                _gather(source, order[begin:end], buffer)
        rows = end - begin
        if rows not in self._cut:
            features, targets, row_weights = self._buffers
            assert features is not None and targets is not None
            self._cut[rows] = self._slices(features, targets, row_weights, 0, rows)
        return self._cut[rows]

    def _take(self, source: nt.Tensor | None, chosen: Any) -> Any:
        if source is None or isinstance(chosen, slice):
            return None if source is None else source[chosen]
        return nt.index_select(source, 0, nt.from_numpy(chosen).to(self.device))

    def _slices(
        self, inputs: nt.Tensor, target: nt.Tensor, weights: nt.Tensor | None, begin: int, end: int
    ) -> list[Batch]:
        size = self.batch_size
        return [
            (
                inputs[at : min(at + size, end)],
                target[at : min(at + size, end)],
                None if weights is None else weights[at : min(at + size, end)],
            )
            for at in range(begin, end, size)
        ]


def _gather(source: nt.Tensor, order: NDArray[np.int64], buffer: nt.Tensor) -> None:
    """buffer[i] = source[order[i]], in place."""
    xp = array_module(source._array)
    # NumPy writes straight into `out` only where it need not check the indices first.
    checked = {"mode": "clip"} if xp is np else {}
    xp.take(source._array, xp.asarray(order), axis=0, out=buffer._array[: len(order)], **checked)
    buffer._bump()
