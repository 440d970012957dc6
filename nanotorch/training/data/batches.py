"""Batches of a part, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import nanotorch as nt
from nanotorch.backend import array_module
from nanotorch.backend.cuda import indexing
from nanotorch.backend.cuda.transfer import DoubleBuffer, upload
from nanotorch.training.data.parts import Part

if TYPE_CHECKING:
    from nanotorch.training.ranks import Ranks

BLOCK = 2**23  # bytes of features gathered at once: small parts whole, large ones cache by cache

Batch = tuple[nt.Tensor, nt.Tensor, nt.Tensor | None]
# The batches of a block, and those of its full ones that follow each other, `together` at a time,
# as one each: (together, rows, …).
Block = tuple[list[Batch], list[Batch]]


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of `count` rows in an epoch: the same for the same seed and epoch, always."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Batches:
    """Serves a part batch by batch.

    Rows are gathered a block of batches at a time, always into the same memory, and the batches
    are slices of it made once: a step costs no indexing at all. A batch is therefore valid only
    until the next block is gathered. On a GPU the rows lie there as a whole (`on_device`) and so
    does the order of the epoch; or they stay on the host and travel block by block, one ahead.
    A step that gathers the rows itself is given their places in the batch's stead (`by_place`).
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
        on_device: bool = True,
        ranks: Ranks | None = None,
    ) -> None:
        self.rows = len(part)
        self._ranks = None if ranks is None or ranks.alone else ranks
        self.together = 1  # batches that `launches` hands out as one
        self._places: nt.Tensor | None = None  # of an epoch's rows, where batches consist of them
        self.seed = seed
        self.device, self.dtype = nt.device(device), dtype
        self._features, self._width = part.features, part.features.values.shape[1]
        self._beside = [a for a in (part.target, weights) if a is not None]  # of the features
        self._streams = self.device.type == "cuda" and not on_device
        self._inputs: nt.Tensor | None = None
        self._target: nt.Tensor | None = None
        self._weights: nt.Tensor | None = None
        if not self._streams:
            if part.features.in_memory or self.device.type == "cuda":
                self._inputs = self._rows_of_features()
            self._target = self._tensor(part.target)
            self._weights = None if weights is None else self._tensor(weights)
        self._row_bytes = self._width * dtype.itemsize
        self._arrange(batch_size, shuffle, drop_last)

    def _arrange(self, batch_size: int, shuffle: bool, drop_last: bool) -> None:
        """Decide how many batches there are, and how many of them make a block."""
        self.batch_size = min(batch_size or self.rows, self.rows)
        self.shuffle = shuffle
        self.count = self.rows // self.batch_size
        self.count += bool(self.rows % self.batch_size) and not drop_last
        self.block = max(1, BLOCK // max(1, self._row_bytes) // self.batch_size)
        self.block = min(self.block, max(1, self.count))
        self._size = self.batch_size  # of a batch as it is served
        if self._ranks is not None:
            begin, end = self._ranks.span(self.batch_size)
            self._size = end - begin
            if not shuffle:
                self.block = 1  # rows of a rank in two batches do not follow each other
        self._buffers = [self._buffer(t) for t in (self._inputs, self._target, self._weights)]
        self._travelling: DoubleBuffer | None = None
        # By slot and number of rows: a short last block has batches of its own.
        self._cut: dict[tuple[int, int], Block] = {}

    def by_place(self) -> list[nt.Tensor] | None:
        """From now on a batch is the places of its rows, twice, in these: inputs and target.

        None where the rows do not lie on a GPU, have weights, follow their order or are shared.
        """
        lies_there = self.device.type == "cuda" and not self._streams
        if not lies_there or not self.shuffle or self._weights is not None or self._ranks:
            return None
        self._places = nt.empty(self.rows, dtype=nt.int64, device=self.device)
        self._buffers = [None] * 3
        return [self._inputs, self._target]  # type: ignore[list-item]

    def rows_of(self, number: int) -> int:
        """How many rows batch `number` has on all ranks together."""
        return min(self.batch_size, self.rows - number * self.batch_size)

    def in_order(self, batch_size: int) -> Batches:
        """All rows in their order, in batches of another size, out of the same memory."""
        other = copy.copy(self)
        other._arrange(batch_size, shuffle=False, drop_last=False)
        return other

    def _rows_of_features(self) -> nt.Tensor:
        """All features on the device."""
        features = self._features
        if self.device.type == "cpu" or (features.in_memory and features.values.nbytes <= BLOCK):
            return self._tensor(features.values)
        layout = ((self._width,), self.dtype.numpy)
        return nt.Tensor._wrap(upload(features.take, self.rows, layout, self.device))

    def _tensor(self, array: NDArray[Any]) -> nt.Tensor:
        """The array on the device; numbers that are not classes take the dtype of the run."""
        tensor: nt.Tensor = nt.from_numpy(np.ascontiguousarray(array)).to(self.device)
        return tensor if tensor.dtype == nt.int64 else tensor.to(self.dtype)

    def _buffer(self, source: nt.Tensor | None) -> nt.Tensor | None:
        if source is None or not self.shuffle:
            return None
        return nt.empty(
            self.block * self._size, *source.shape[1:], dtype=source.dtype, device=self.device
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        for skipped, (batches, _) in self._blocks(epoch, start):
            yield from batches[skipped:]

    def launches(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """The batches of an epoch from number `start` on: 1 and a batch, or `together` and so many
        as one."""
        for number, (batches, stacks) in self._blocks(epoch, start):
            while number < len(batches):
                stack, within = divmod(number, self.together)
                if self.together > 1 and not within and stack < len(stacks):
                    yield self.together, stacks[stack]
                    number += self.together
                else:
                    yield 1, batches[number]
                    number += 1

    def _blocks(self, epoch: int, start: int) -> Iterator[tuple[int, Block]]:
        """The blocks of an epoch, each with the number of its batches that are done already."""
        last = min(self.rows, self.count * self.batch_size)
        order = epoch_order(self.seed, epoch, self.rows) if self.shuffle else None
        size = self.batch_size
        first = start - start % self.block
        blocks = [
            (at * size, min(last, (at + self.block) * size))
            for at in range(first, self.count, self.block)
        ]
        if self._ranks is not None:
            order, blocks = self._own(order, first)
        served = self._travel(order, blocks) if self._streams else self._gathered(order, blocks)
        for batches, stacks in served:
            missing = min(self.block, self.count - first) - len(batches)
            batches += [self._nothing] * missing  # batches in which this rank has no rows
            yield max(0, start - first), (batches, stacks)
            first += self.block

    def _own(
        self, order: NDArray[np.int64] | None, first: int
    ) -> tuple[NDArray[np.int64] | None, list[tuple[int, int]]]:
        """The order and the blocks, from batch `first` on, of this rank's rows alone."""
        assert self._ranks is not None
        size, full = self.batch_size, self.count - 1  # the last batch may be short
        begin, end = self._ranks.span(size)
        last = np.array(self._ranks.span(self.rows_of(full))) + full * size
        if order is None:
            spans = [(at * size + begin, at * size + end) for at in range(first, full)]
            return None, [*spans, (int(last[0]), int(last[1]))]
        own = order[: full * size].reshape(full, size)[:, begin:end].ravel()
        own = np.concatenate([own, order[slice(*last)]])
        width = end - begin
        marks = range(first, self.count, self.block)
        return own, [(at * width, min(len(own), (at + self.block) * width)) for at in marks]

    def _gathered(
        self, order: NDArray[np.int64] | None, blocks: list[tuple[int, int]]
    ) -> Iterator[Block]:
        """Blocks out of memory of the device, or on the CPU from the disk."""
        if self._inputs is None:
            for begin, end in blocks:
                chosen = slice(begin, end) if order is None else order[begin:end]
                inputs = self._tensor(self._features.take(chosen))
                target, weights = (
                    self._take(self._target, chosen),
                    self._take(self._weights, chosen),
                )
                yield self._slices(inputs, target, weights, 0, end - begin)
            return
        if order is None:
            for begin, end in blocks:
                yield self._slices(self._inputs, self._target, self._weights, begin, end)
            return
        if self._places is not None:
            self._places.copy_(nt.from_numpy(order))
            for begin, end in blocks:
                key = begin, end - begin
                if key not in self._cut:
                    self._cut[key] = self._slices(self._places, self._places, None, begin, end)
                yield self._cut[key]
            return
        places = array_module(self._inputs._array).asarray(order)  # moved once in an epoch
        sources = (self._inputs, self._target, self._weights)
        for begin, end in blocks:
            for source, buffer in zip(sources, self._buffers, strict=True):
                if source is not None and buffer is not None:
                    _gather(source, places[begin:end], buffer)
            yield self._batches(0, end - begin, self._buffers)

    def _travel(
        self, order: NDArray[np.int64] | None, blocks: list[tuple[int, int]]
    ) -> Iterator[Block]:
        """Blocks that are gathered on the host while the device computes with those before."""
        if self._travelling is None:
            kinds = [self._features.dtype, *(array.dtype for array in self._beside)]
            shapes = [(self._width,), *(array.shape[1:] for array in self._beside)]
            layouts = [
                (shape, kind if kind == np.int64 else self.dtype.numpy)
                for shape, kind in zip(shapes, kinds, strict=True)
            ]
            self._travelling = DoubleBuffer(self.device, self.block * self._size, layouts)
            self._received = [
                [nt.Tensor._wrap(a) for a in s.device] for s in self._travelling.slots
            ]
        fills = (partial(self._fill, order, begin, end) for begin, end in blocks)
        for slot, rows in self._travelling.blocks(fills):
            for tensor in self._received[slot]:
                tensor._bump()
            yield self._batches(slot, rows, self._received[slot])

    def _fill(
        self, order: NDArray[np.int64] | None, begin: int, end: int, into: list[NDArray[Any]]
    ) -> int:
        """Writes rows of features, target and weights into memory of the host."""
        chosen = slice(begin, end) if order is None else order[begin:end]
        features, *beside = (array[: end - begin] for array in into)
        if self._features.in_memory:
            _copy_rows(self._features.values, chosen, features)
        else:
            features[...] = self._features.take(chosen)
        for source, out in zip(self._beside, beside, strict=True):
            _copy_rows(source, chosen, out)
        return end - begin

    def _batches(self, slot: int, rows: int, memory: list[Any]) -> Block:
        """The slices of a buffer that is filled with so many rows."""
        if (slot, rows) not in self._cut:
            inputs, target, *weights = memory
            row_weights = weights[0] if weights else None
            self._cut[slot, rows] = self._slices(inputs, target, row_weights, 0, rows)
        return self._cut[slot, rows]

    @functools.cached_property
    def _nothing(self) -> Batch:
        """A batch without rows."""
        sources = (self._inputs, self._target, self._weights)
        if self._inputs is None:
            sources = (self._tensor(self._features.take(slice(0, 0))), *sources[1:])
        return tuple(None if source is None else source[:0] for source in sources)  # type: ignore

    def _take(self, source: nt.Tensor | None, chosen: Any) -> Any:
        if source is None or isinstance(chosen, slice):
            return None if source is None else source[chosen]
        return nt.index_select(source, 0, nt.from_numpy(chosen).to(self.device))

    def _slices(self, inputs: Any, target: Any, weights: Any, begin: int, end: int) -> Block:
        size, together = max(1, self._size), self.together
        sources = (inputs, target, weights)

        def rows(begin: int, end: int) -> list[Any]:
            return [None if source is None else source[begin:end] for source in sources]

        batches = [tuple(rows(at, min(at + size, end))) for at in range(begin, end, size)]
        stacks = []
        for at in range(begin, end - size * together + 1, size * together):
            some = rows(at, at + size * together)
            stacks.append(
                tuple(x if x is None else x.view(together, size, *x.shape[1:]) for x in some)
            )
        return batches, stacks  # type: ignore[return-value]


def _copy_rows(source: NDArray[Any], chosen: Any, out: NDArray[Any]) -> None:
    """out = source[chosen], without an array between where the dtypes agree."""
    if isinstance(chosen, slice) or source.dtype != out.dtype:
        out[...] = source[chosen]
    else:
        np.take(source, chosen, axis=0, out=out, mode="clip")


def _gather(source: nt.Tensor, places: Any, buffer: nt.Tensor) -> None:
    """buffer[i] = source[places[i]], in place."""
    xp, x, out = array_module(source._array), source._array, buffer._array[: len(places)]
    if xp is np:  # writes straight into `out` only where it need not check the indices first
        np.take(x, places, axis=0, out=out, mode="clip")
    elif indexing.available(xp):
        indexing.take(xp, x, 0, places, out=out)
    else:
        xp.take(x, places, axis=0, out=out)
    buffer._bump()
