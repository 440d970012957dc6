"""CUDA graphs through CuPy: what a stream is given is captured once and launched as one.

A graph holds the addresses of the memory that its kernels use, not the memory: whoever owns it
keeps the arrays, and the pool of what kernels take and give back meanwhile. Nothing of that pool
may outlive it: CuPy frees a pool's memory with the pool, whoever still holds it. The graphs of a
device are captured on one stream, so that they share its workspaces, and run one after the other,
on whichever stream is current at the launch.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nanotorch.backend.cuda import checks
from nanotorch.backend.devices import HERE, Array, array_module, device, on_device

# What a capture raises for what it cannot hold: copies to or from the host, waits, cuBLAS by CuPy.
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, MemoryError)
MOST_KEPT = 4  # copies of one output that are used again
ALIGNMENT = 256  # bytes: of memory from the driver


def missing(xp: Any) -> str | None:
    """What an array module lacks to capture graphs; None where it lacks nothing."""
    cuda = xp.cuda
    wanted = (cuda, "Graph"), (cuda, "using_allocator"), (cuda.Stream, "begin_capture")
    lacking = [name for owner, name in wanted if not hasattr(owner, name)]
    return f"the array module has no {lacking[0]}" if lacking else None


def pool_of_graphs(xp: Any) -> Any:
    """A pool for what graphs take meanwhile, whose blocks stay where they are: where memory runs
    out, a pool of CuPy's gives back its free blocks, which graphs still write to."""

    def allocate(size: int) -> Any:
        for attempt in range(2):
            try:
                return xp.cuda.MemoryPointer(xp.cuda.Memory(size), 0)
            except RuntimeError as error:
                if attempt:  # a MemoryError the pool passes on as it is
                    raise MemoryError(f"no memory left for {size:,} bytes of a graph") from error
                xp.get_default_memory_pool().free_all_blocks()

    return xp.cuda.MemoryPool(allocate)


class Stage:
    """Where the graphs of one device are captured, and the order in which they run.

    Random numbers drawn on the device take part in that order: graphs draw from the same streams.
    """

    def __init__(self, xp: Any, place: device) -> None:
        self.xp, self.place = xp, place
        self.lock = threading.RLock()
        with on_device(place):
            self.stream = xp.cuda.Stream(non_blocking=True)
        self._last: Any = None  # the stream that was given a graph, or a draw, last

    def here(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which the device is the current one."""
        current = self.xp.cuda.get_device_id() == self.place.index
        return HERE if current else on_device(self.place)

    def in_turn(self) -> None:
        """Lets the current stream wait for the graphs and draws that others were given."""
        stream = self.xp.cuda.get_current_stream()
        if stream is self._last or stream is self.stream:  # captures are in order by themselves
            return
        if stream != self._last and not stream.is_capturing():
            if self._last is not None:
                stream.wait_event(self._last.record())
            self._last = stream

    @contextlib.contextmanager
    def aside(self, pool: Any) -> Iterator[None]:
        """Work goes to the stream of captures, after what the current stream was given and before
        what it is given later, with memory from the pool."""
        self.in_turn()
        outer, stream = self.xp.cuda.get_current_stream(), self.stream
        stream.wait_event(outer.record())
        try:
            with stream, self.xp.cuda.using_allocator(pool.malloc):
                yield
        finally:
            outer.wait_event(stream.record())

    def captured(self, work: Callable[[], None], pool: Any) -> tuple[Any, bool]:
        """The graph of what `work` gives to the current stream, of which nothing is computed now.

        And whether there are kernels in it that check indices. Raises what CuPy raises for work
        that a graph cannot hold.
        """
        stream, outer = self.stream, self.xp.cuda.get_current_stream()
        checks.prepare(self.xp)
        with stream, self.xp.cuda.using_allocator(pool.malloc):
            known = checks.take_mark(self.xp)
            # Relaxed: the pool may ask the driver for memory meanwhile.
            stream.begin_capture(self.xp.cuda.runtime.streamCaptureModeRelaxed)
            try:
                work()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it tells that the capture is void
                    stream.end_capture()
                raise
            graph = stream.end_capture()
            graph.upload(stream)
            marked = checks.take_mark(self.xp)
            if known:
                checks.mark(self.xp)
        outer.wait_event(stream.record())  # what was done before in memory that the graph uses
        return graph, marked


_stages: dict[tuple[Any, int], Stage] = {}
_making = threading.Lock()


def stage_of(xp: Any, place: device) -> Stage:
    """The stage of a device."""
    key = (xp, int(place.index or 0))
    with _making:
        if key not in _stages:
            _stages[key] = Stage(xp, place)
        return _stages[key]


# --- memory that stays, and copies of it ----------------------------------------------------------


def slots_like(array: Array, count: int) -> Array:
    """Unwritten memory for so many arrays like this one, each aligned as memory of its own would
    be: cuBLAS takes other kernels, and rounds otherwise, where addresses are aligned otherwise."""
    xp, step = array_module(array), -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    if step == array.nbytes:
        return dense_like(array, (count,))
    memory = xp.empty((count, step // array.itemsize), array.dtype)[:, : array.size]
    return in_its_order(array, lambda shape: memory.reshape((count, *shape)))


def dense_like(array: Array, leading: Sequence[int] = ()) -> Array:
    """Unwritten memory in the shape of an array, and in the order of its memory; `leading`:
    dimensions that come before."""
    xp = array_module(array)
    return in_its_order(array, lambda shape: xp.empty((*leading, *shape), array.dtype))


def in_its_order(array: Array, made: Callable[[tuple[int, ...]], Array]) -> Array:
    """What is made for a shape, its last dimensions in the order of the array's memory."""
    if array.flags.c_contiguous:
        return made(array.shape)
    order = sorted(range(array.ndim), key=lambda d: -array.strides[d])
    y = made(tuple(array.shape[d] for d in order))
    first = y.ndim - array.ndim
    return y.transpose([*range(first), *(first + order.index(d) for d in range(array.ndim))])


def copy(target: Array, source: Array) -> None:
    """target[...] = source, on the current stream; as one piece of memory where both are one."""
    alike = target.flags.c_contiguous and source.flags.c_contiguous
    if alike and target.dtype == source.dtype and target.shape == source.shape:
        if target.size:
            target.data.copy_from_device_async(source.data, target.nbytes)
    else:
        array_module(target).copyto(target, source)


class Outlet:
    """Hands out copies of one output, into memory that nobody holds any more where there is some.

    So that a steady step takes no memory: the copy that the caller let go of is written again.
    """

    def __init__(self, source: Array) -> None:
        self.source = source
        self.nbytes = source.nbytes if source.flags.c_contiguous else 0  # of one piece of memory
        self._kept: list[Array] = []

    def __call__(self) -> Array:
        target = unheld(self._kept)
        if target is None:
            target = dense_like(self.source)
            if target.base is None and len(self._kept) < MOST_KEPT:
                self._kept.append(target)
        if self.nbytes:
            target.data.copy_from_device_async(self.source.data, self.nbytes)
        else:
            copy(target, self.source)
        return target


def unheld(kept: list[Array]) -> Array | None:
    """The first of the arrays, each the base of its views, that nobody else refers to; or None."""
    for array in kept:
        if sys.getrefcount(array) <= REFERENCES:
            return array
    return None


def _references_of_an_array_of_a_list() -> int:
    kept = [object()]
    for array in kept:
        return sys.getrefcount(array)
    return 0


REFERENCES = _references_of_an_array_of_a_list()
