"""Batches of a part on the disk, in an order that is a pure function of (seed, epoch).

The blocks of the file come in a random order, some of them at a time, and the rows of these are
shuffled together: every read is as long as a block, and every row is still met once in an epoch.
"""

from __future__ import annotations

import contextlib
import copy
import heapq
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import nanotorch as nt
from nanotorch.distributed.shards import even_parts
from nanotorch.training.data.batches import Batch
from nanotorch.training.data.streamed_part import Rows, StreamedPart
from nanotorch.training.errors import InputError

if TYPE_CHECKING:
    from nanotorch.training.ranks import Ranks

Weigh = Callable[[NDArray[Any], NDArray[Any] | None], NDArray[Any] | None]  # target, weights
Array = NDArray[Any]


@dataclass(frozen=True)
class Fill:
    """Rows that are read together: of blocks all rows, or some of them, in their order or, with a
    key, in a random one."""

    pieces: list[tuple[int, int, int]]  # block, and which of its rows of the part
    key: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        return sum(end - begin for _, begin, end in self.pieces)


class StreamedBatches:
    """Serves a part on the disk batch by batch, with the interface of `Batches`.

    On several ranks an epoch's blocks are dealt to the shards of the batches, so that each shard's
    rows come from blocks of its own, which its rank alone reads; the last rows of all shards, about
    a block of each, are shuffled together and read by every rank.
    """

    together = 1  # batches that `launches` hands out as one

    def __init__(
        self,
        part: StreamedPart,
        weigh: Weigh,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        device: Any = "cpu",
        dtype: Any = nt.float32,
        ranks: Ranks | None = None,
    ) -> None:
        self.part, self.rows, self.seed, self._weigh = part, len(part), seed, weigh
        self.device, self.dtype = nt.device(device), dtype
        self._ranks = None if ranks is None or not ranks.cuts else ranks
        row = part.width * np.dtype(part.dtype).itemsize
        memory = part.table.memory
        wanted = min(batch_size or self.rows, self.rows)
        if wanted > part.rows_at_once and 2 * wanted * row > memory:
            raise InputError(
                f"training.batch_size: {wanted:,} rows take {wanted * row / 1e6:,.3g} MB, and "
                f"data.memory is {memory / 1e6:,.3g} MB: give smaller batches or more memory"
            )
        no_weights = None if part.weights_of is None else np.empty(0, np.float32)
        self.weighted = weigh(part.target, no_weights) is not None
        self._arrange(batch_size, shuffle, drop_last)

    def _arrange(self, batch_size: int, shuffle: bool, drop_last: bool) -> None:
        self.batch_size = min(batch_size or self.rows, self.rows)
        self.shuffle = shuffle
        self.count = self.rows // self.batch_size
        self.count += bool(self.rows % self.batch_size) and not drop_last

    def rows_of(self, number: int) -> int:
        """How many rows batch `number` has on all ranks together."""
        return min(self.batch_size, self.rows - number * self.batch_size)

    def in_order(self, batch_size: int) -> StreamedBatches:
        """All rows in their order, in batches of another size, or as many as lie in memory."""
        other = copy.copy(self)
        batch_size = min(batch_size, self.part.rows_at_once)
        other._arrange(batch_size, shuffle=False, drop_last=False)
        return other

    def launches(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """The batches of an epoch from number `start` on, each with the number 1."""
        for batch in self.epoch(epoch, start):
            yield 1, batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        with ThreadPoolExecutor(1) as beside, _one_thread_less():
            if not self.shuffle:
                served = self._served_in_order(beside, start)
            else:
                served = self._shuffled(beside, epoch, start)
            for features, target, weights in served:
                row_weights = None if weights is None else self._tensor(weights)
                yield self._tensor(features), self._tensor(target), row_weights

    def _tensor(self, array: Array) -> nt.Tensor:
        tensor: nt.Tensor = nt.from_numpy(array).to(self.device)
        return tensor if tensor.dtype == nt.int64 else tensor.to(self.dtype)

    # --- in order ------------------------------------------------------------------------------

    def _served_in_order(self, beside: ThreadPoolExecutor, start: int) -> Iterator[Rows]:
        size, last = self.batch_size, min(self.rows, self.count * self.batch_size)
        spans = []
        for number in range(start, self.count):
            begin, end = 0, self.rows_of(number)
            if self._ranks is not None:
                begin, end = self._ranks.span(end)
            spans.append((number * size + begin, number * size + end))
        if self._ranks is None:
            step = max(size, self.part.rows_at_once)
            fills = [
                Fill(self._pieces(begin, min(begin + step, last)))
                for begin in range(start * size, last, step)
            ]
        else:
            fills = [Fill(self._pieces(*span)) for span in spans]
        stream = _Stream(self, fills, beside, max((end - begin for begin, end in spans), default=0))
        for begin, end in spans:
            yield stream.next(end - begin)

    def _pieces(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """The rows begin … end of the part as rows of blocks."""
        starts = self.part.starts
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        pieces = []
        for number in range(first, len(starts) - 1):
            low, high = int(starts[number]), int(starts[number + 1])
            if low >= end:
                break
            if max(begin, low) < min(end, high):
                pieces.append((number, max(begin, low) - low, min(end, high) - low))
        return pieces

    # --- shuffled ------------------------------------------------------------------------------

    def _shuffled(self, beside: ThreadPoolExecutor, epoch: int, start: int) -> Iterator[Rows]:
        parts = [(0, self.batch_size)]
        own = range(1)
        if self._ranks is not None:
            parts = even_parts(self.batch_size, self._ranks.shards)
            own = range(*self._ranks.own)
        shares = [end - begin for begin, end in parts]
        fills = self._fills(epoch, shares)
        lengths = [sum(fill.rows for fill in each) for each in fills]
        used = [shard for shard, share in enumerate(shares) if share]
        full = min(lengths[shard] // shares[shard] for shard in used)  # batches of own blocks
        streams = [
            _Stream(self, fills[shard], beside, shares[shard], skip=start * shares[shard])
            for shard in own
            if shares[shard] and start < full
        ]
        for _ in range(start, min(full, self.count)):
            yield _joined([stream.next(stream.most) for stream in streams])
        if self._ranks is None and full < self.count:
            short = self.rows - full * self.batch_size
            stream = (
                streams[0] if streams else _Stream(self, fills[0], beside, short, full * shares[0])
            )
            yield stream.next(short)
        elif full < self.count:
            yield from self._rest(beside, (self.seed, epoch), fills, shares, full, max(start, full))

    def _rest(
        self,
        beside: ThreadPoolExecutor,
        key: tuple[int, int],
        fills: list[list[Fill]],
        shares: list[int],
        full: int,
        start: int,
    ) -> Iterator[Rows]:
        """The rows that are over when the first shard has no full share left: of all shards."""
        assert self._ranks is not None
        some: list[Any] = []
        for each, share in zip(fills, shares, strict=True):
            left = sum(fill.rows for fill in each) - full * share
            stream = _Stream(self, each, beside, left, skip=full * share)
            some.append(tuple(x if x is None else x.copy() for x in stream.next(left)))
        rows = _joined(some)
        order = np.random.default_rng([*key, len(fills)]).permutation(len(rows[0]))
        for number in range(start, self.count):
            at = (number - full) * self.batch_size
            begin, end = self._ranks.span(self.rows_of(number))
            chosen = order[at + begin : at + end]
            yield tuple(x if x is None else x[chosen] for x in rows)  # type: ignore[misc]

    def _fills(self, epoch: int, shares: list[int]) -> list[list[Fill]]:
        """For every shard the blocks that are shuffled together, one group after the other.

        Blocks are dealt so that all shards have about as many rows for each row of a batch.
        """
        counts = self.part.counts
        random = np.random.default_rng([self.seed, epoch])
        order = [at for at in random.permutation(len(counts)).tolist() if counts[at]]
        together = max(1, self.part.together // len(shares))
        dealt: list[list[int]] = [[] for _ in shares]
        if len(shares) == 1:
            dealt[0] = order
        else:
            heap = [(0.0, shard) for shard, share in enumerate(shares) if share]
            for at in order:
                filled, shard = heap[0]
                dealt[shard].append(at)
                heapq.heapreplace(heap, (filled + int(counts[at]) / shares[shard], shard))
        return [
            [
                Fill(
                    [(at, 0, int(counts[at])) for at in blocks[first : first + together]],
                    (self.seed, epoch, shard, first),
                )
                for first in range(0, len(blocks), together)
            ]
            for shard, blocks in enumerate(dealt)
        ]

    def fill(self, fill: Fill, out: Rows, raw: Array) -> None:
        """Read, encode and weigh rows into memory; `raw` takes a block as it is in the file."""
        table, start = self.part.table, 0
        table.announce([number for number, _, _ in fill.pieces])
        order = None
        if fill.key is not None:
            order = np.random.default_rng(fill.key).permutation(fill.rows)
        for number, begin, end in fill.pieces:
            stop = start + end - begin
            places = None if order is None else order[start:stop]
            chosen: Any = slice(start, stop) if places is None else places
            rows = self.part.read(number, raw)
            features, target, weights = (x if x is None else x[begin:end] for x in rows)
            scaled = out[0] if places is not None else out[0][chosen]
            self.part.standardization.write(features, scaled, places)  # type: ignore[arg-type]
            out[1][chosen] = target
            if out[2] is not None:
                out[2][chosen] = self._weigh(target, weights)  # type: ignore[arg-type]
            start = stop

    def memory(self, rows: int) -> Rows:
        """Room for so many rows."""
        part = self.part
        target = part.target
        kind = target.dtype if target.dtype == np.int64 else part.dtype
        return (
            np.empty((rows, part.width), part.dtype),
            np.empty((rows, *target.shape[1:]), kind),
            np.empty(rows, np.float32) if self.weighted else None,
        )


class _Stream:
    """The rows of some fills, one after the other, as many at a time as are asked for.

    There are two slots of memory: rows of one are served while the other is filled on a thread.
    Before the rows of a fill there is room for those that the last one had left over.
    """

    def __init__(
        self,
        batches: StreamedBatches,
        fills: list[Fill],
        beside: ThreadPoolExecutor,
        most: int,
        skip: int = 0,
    ) -> None:
        first = 0
        while first < len(fills) and skip >= fills[first].rows:
            skip -= fills[first].rows
            first += 1
        self.most = most  # rows asked for at once
        self._batches, self._fills, self._beside = batches, iter(fills[first:]), beside
        rows = most + max((fill.rows for fill in fills[first:]), default=0)
        self._slots = [batches.memory(rows), batches.memory(rows)]
        table = batches.part.table
        self._raw = np.empty((table.block, len(table.names)), table.file.dtype)
        self._at = self._end = most
        self._ahead = self._begin(0)
        self._now = 1  # the slot whose rows are served
        if skip:
            self._take_over()
            self._at += skip

    def _begin(self, slot: int) -> Future[int] | None:
        """Begin to fill a slot; the result is how many rows there will be."""
        fill = next(self._fills, None)
        if fill is None:
            return None
        out = tuple(x if x is None else x[self.most :] for x in self._slots[slot])

        def run() -> int:
            self._batches.fill(fill, out, self._raw)  # type: ignore[arg-type]
            return fill.rows

        return self._beside.submit(run)

    def _take_over(self) -> None:
        """Go on to the slot that was filled ahead, with the rows that are left of this one."""
        assert self._ahead is not None
        rows = self._ahead.result()
        before, self._now = self._slots[self._now], 1 - self._now
        left = self._end - self._at
        for old, new in zip(before, self._slots[self._now], strict=True):
            if old is not None and new is not None:
                new[self.most - left : self.most] = old[self._at : self._end]
        self._at, self._end = self.most - left, self.most + rows
        self._ahead = self._begin(1 - self._now)

    def next(self, count: int) -> Rows:
        """The next rows, in memory that later ones take over."""
        while self._end - self._at < count:
            self._take_over()
        rows = slice(self._at, self._at + count)
        self._at += count
        features, target, weights = self._slots[self._now]
        return features[rows], target[rows], None if weights is None else weights[rows]


@contextlib.contextmanager
def _one_thread_less() -> Iterator[None]:
    """Leave a core to the thread that reads, where BLAS would wait for it on all of them."""
    before = nt.get_num_threads()
    nt.set_num_threads(max(1, before - 1))
    try:
        yield
    finally:
        nt.set_num_threads(before)


def _joined(some: list[Rows]) -> Rows:
    """The rows of several shards, one after the other."""
    if len(some) == 1:
        return some[0]
    columns = [None if x[0] is None else np.concatenate(x) for x in zip(*some, strict=True)]
    return tuple(columns)  # type: ignore[return-value]
