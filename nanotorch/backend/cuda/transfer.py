"""Rows of the host on their way to a device: pinned memory, a stream for the copies, and events.

The device copies out of pinned memory by itself, beside computing. Two buffers take turns: while
the device computes with one block, the next is on its way. Three waits keep them apart:

- a reader's stream waits for the copy that it reads (`copied`);
- a copy's stream waits for the readers of what it overwrites (`read`);
- the host waits only where pinned memory that it would fill anew is still being copied.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy

from nanotorch.backend.devices import Array, cuda_module, device, on_device

BLOCK = 2**23  # bytes that travel at once: enough to hide what a copy costs to start

Layout = tuple[tuple[int, ...], Any]  # the shape of one row, and its dtype


def empty_pinned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Memory of the host that a device copies from by itself, not yet written."""
    kind = numpy.dtype(dtype)
    size = int(numpy.prod(shape, dtype=numpy.int64))
    memory = cuda_module().cuda.alloc_pinned_memory(max(size * kind.itemsize, 1))
    return numpy.frombuffer(memory, kind, size).reshape(shape)


class _Slot:
    """Pinned arrays, what they are copied into, and the marks of the copy and of its readers."""

    def __init__(self, rows: int, layouts: Sequence[Layout]) -> None:
        module = cuda_module()
        self.host = [empty_pinned((rows, *shape), dtype) for shape, dtype in layouts]
        self.device = [module.empty((rows, *shape), dtype) for shape, dtype in layouts]
        self.copied = module.cuda.Event(disable_timing=True)
        self.read = module.cuda.Event(disable_timing=True)

    def wait_until_copied(self) -> None:
        """Lets the host write into the pinned arrays."""
        if not self.copied.done:
            self.copied.synchronize()


class DoubleBuffer:
    """Two blocks of rows, one in use by the device while the other is copied to it.

    `layouts` has the shape of a row and the dtype of each array that makes a block of at most
    `rows` rows. `slots[i].device` are the arrays on the device, always the same two sets.
    """

    def __init__(self, place: device, rows: int, layouts: Sequence[Layout]) -> None:
        self.place = place
        module = cuda_module()
        with on_device(place):
            # Copies begin after what made the memory; the current stream may have used it before.
            self._stream = module.cuda.Stream(non_blocking=True)
            self.slots = [_Slot(rows, layouts) for _ in range(2)]
            for slot in self.slots:
                slot.read.record(module.cuda.get_current_stream())

    def blocks(self, fills: Iterable[Callable[[list[Array]], int]]) -> Iterator[tuple[int, int]]:
        """For each block, the number of its slot and of its rows, once it may be read.

        A fill writes one block into the pinned arrays and returns how many rows it has. The block
        after the one that is served is on its way already. What a slot holds is valid, for work
        on the stream that is current then, until the next one is asked for.
        """
        ready: tuple[int, int] | None = None
        try:
            for number, fill in zip(itertools.cycle((0, 1)), fills):
                rows = self._send(self.slots[number], fill)
                if ready is not None:
                    yield from self._serve(*ready)
                ready = number, rows
            if ready is not None:
                yield from self._serve(*ready)
        finally:
            # Memory of a buffer that is given up must not be on its way any more.
            for slot in self.slots:
                slot.wait_until_copied()

    def _send(self, slot: _Slot, fill: Callable[[list[Array]], int]) -> int:
        slot.wait_until_copied()
        rows = fill(slot.host)
        with on_device(self.place):
            self._stream.wait_event(slot.read)
            for target, source in zip(slot.device, slot.host):
                target[:rows].set(source[:rows], self._stream)
            slot.copied.record(self._stream)
        return rows

    def _serve(self, number: int, rows: int) -> Iterator[tuple[int, int]]:
        slot, cuda = self.slots[number], cuda_module().cuda
        with on_device(self.place):
            cuda.get_current_stream().wait_event(slot.copied)
        try:
            yield number, rows
        finally:
            with on_device(self.place):
                slot.read.record(cuda.get_current_stream())


def upload(read: Callable[[slice], Array], rows: int, layout: Layout, place: device) -> Array:
    """An array on the device with the rows that `read(slice)` gives, block by block.

    Page-locks two blocks, where a copy of the whole would page-lock as much as it copies.
    """
    shape, dtype = layout
    row_bytes = int(numpy.prod(shape, dtype=numpy.int64)) * numpy.dtype(dtype).itemsize
    step = max(1, min(rows, BLOCK // max(1, row_bytes)))

    def fill(start: int, into: list[Array]) -> int:
        count = min(step, rows - start)
        into[0][:count] = read(slice(start, start + count))
        return count

    with on_device(place):
        out, buffer = (
            cuda_module().empty((rows, *shape), dtype),
            DoubleBuffer(place, step, [layout]),
        )
        starts = range(0, rows, step)
        blocks = buffer.blocks(functools.partial(fill, start) for start in starts)
        for start, (number, count) in zip(starts, blocks, strict=True):
            out[start : start + count] = buffer.slots[number].device[0][:count]
    return out
