"""The devices of the look-alike: two of them, whose streams do at once what they are given."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from strict_cupy import graphs, order
from strict_cupy.contract import happened

COUNT = 2
_current = [0]


class Device:
    """One of the devices, by number; as a context, the one on which new arrays are made."""

    def __init__(self, device: int | Device | None = None) -> None:
        self.id = _current[-1] if device is None else int(getattr(device, "id", device))  # type: ignore[arg-type]

    def __enter__(self) -> Device:
        check(self.id)
        _current.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        _current.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __int__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def use(self) -> Device:
        check(self.id)
        _current[-1] = self.id
        return self

    def synchronize(self) -> None:
        happened("synchronizations", "Device.synchronize")
        wait_for_all()

    @property
    def mem_info(self) -> tuple[int, int]:
        return runtime.memGetInfo()  # type: ignore[no-any-return]


def check(number: int) -> None:
    if not 0 <= number < COUNT:
        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")


class CUDARuntimeError(RuntimeError):
    """What CUDA's runtime reports."""


class Stream:
    """A queue of work, done as soon as it is given."""

    null: Stream

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: Any = None,
    ) -> None:
        self.ptr = 0 if null else id(self)
        self.done = True
        self._queue = order.Queue()
        _known[self.ptr] = self

    def __enter__(self) -> Stream:
        graphs.STREAMS.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        graphs.STREAMS.pop()

    def use(self) -> Stream:
        graphs.STREAMS[-1] = self
        return self

    @staticmethod
    def from_external(obj: Any) -> Stream:
        return stream_at(obj.__cuda_stream__()[1])  # type: ignore[no-any-return]

    def begin_capture(self, mode: int | None = None) -> None:
        if not self.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.is_capturing():
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is capturing")
        graphs.CAPTURES[id(self)] = graphs.Capture()

    def is_capturing(self) -> bool:
        return id(self) in graphs.CAPTURES

    def end_capture(self) -> graphs.Graph:
        capture = graphs.CAPTURES.pop(id(self), None)
        if capture is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
        if capture.invalid:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed before")
        return graphs.Graph(capture)

    def synchronize(self) -> None:
        happened("synchronizations", "Stream.synchronize")
        order.host_waited(self._queue.seen)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)
        self._queue.after(event.seen)


_known: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()  # by address
Stream.null = Stream(null=True)
graphs.STREAMS.append(Stream.null)


class Event:
    """A mark in a stream; counts the marks before it instead of seconds."""

    made = 0

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self.at, self.timed = 0, not disable_timing
        self.seen: dict[int, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        Event.made += 1
        self.at = Event.made
        self.seen = dict(queue(stream).seen)

    @property
    def done(self) -> bool:
        """Always; and who asks knows it from then on."""
        order.host_waited(self.seen)
        return True

    def synchronize(self) -> None:
        happened("synchronizations", "Event.synchronize")
        order.host_waited(self.seen)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    return float(end_event.at - start_event.at)


class MemoryHook:
    """Told of each taking of memory once it is entered."""

    name = "MemoryHook"

    def __enter__(self) -> MemoryHook:
        _hooks.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _hooks.remove(self)

    def malloc_postprocess(self, **facts: int) -> None:
        """After memory was taken."""


_hooks: list[MemoryHook] = []


class MemoryPool:
    """Counts what arrays take, in blocks of 512 bytes; its figures are the current device's."""

    private = True  # a pool that somebody made for arrays of their own

    def __init__(self, allocator: Any = None) -> None:
        self.used, self.total = [0] * COUNT, [0] * COUNT
        self.allocator = allocator
        self.given_up = 0  # how often blocks went back to the driver

    def malloc(self, size: int) -> Any:
        raise NotImplementedError("the look-alike's pools hand out memory to arrays alone")

    def used_bytes(self) -> int:
        return self.used[current()]

    def total_bytes(self) -> int:
        return self.total[current()]

    def free_bytes(self) -> int:
        return self.total_bytes() - self.used_bytes()

    def free_all_blocks(self, stream: Any = None) -> None:
        if self.total[current()] > self.used[current()]:
            self.given_up += 1
        self.total[current()] = self.used[current()]

    def taken(self, nbytes: int, device: int) -> int:
        """Takes memory for an array; returns how much."""
        happened("allocations", "a pool of its own" if self.private else "the default pool")
        size = -(-nbytes // 512) * 512
        more = self.used[device] + size - self.total[device]
        if more > 0:
            try:
                (self.allocator or Memory)(more)
            except CUDARuntimeError:  # as CuPy's pools do before they give up
                self.free_all_blocks()
                (self.allocator or Memory)(self.used[device] + size - self.total[device])
        self.used[device] += size
        self.total[device] = max(self.total[device], self.used[device])
        for hook in _hooks:
            hook.malloc_postprocess(
                device_id=device, size=nbytes, mem_size=size, mem_ptr=0, pmem_id=0
            )
        return size

    def given_back(self, size: int, device: int) -> None:
        self.used[device] -= size


POOL = MemoryPool()
POOL.private = False
_pools = [POOL]  # the one that arrays are taken from last


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], Any] | None = None) -> Iterator[None]:
    """Takes the arrays that are made within it from the pool whose `malloc` is given."""
    _pools.append(POOL if allocator is None else allocator.__self__)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _pools.pop()


def pool() -> MemoryPool:
    """The pool that new arrays are taken from."""
    return _pools[-1]


class MemoryPointer:
    """Where an array's memory begins, or memory beside the pool."""

    def __init__(self, array: Any, offset: int = 0) -> None:
        self._array = array
        if isinstance(array, Memory):
            self.ptr, self.device_id = array.ptr + offset, array.device_id
        else:
            self.ptr, self.device_id = array._host.ctypes.data, array._device

    def copy_from_device_async(self, src: Any, size: int, stream: Any = None) -> None:
        happened("device_copies", "copy_from_device_async")
        to, source = self.ptr, src.ptr
        graphs.launched(lambda: ctypes.memmove(to, source, size), [self._array, src._array])

    def copy_from_host_async(self, mem: Any, size: int, stream: Any = None) -> None:
        happened("h2d", "copy_from_host_async")
        ctypes.memmove(self.ptr, mem, size)


_addresses = itertools.count(1 << 40, 1 << 30)


class Memory:
    """Memory beside the pool: an address with nothing behind it."""

    failures = 0  # of the next calls, as if the device were full

    def __init__(self, size: int) -> None:
        if Memory.failures:
            Memory.failures -= 1
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        self.size, self.ptr, self.device_id = size, next(_addresses), _current[-1]


runtime = types.SimpleNamespace(
    getDeviceCount=lambda: COUNT,
    getDevice=lambda: _current[-1],
    setDevice=lambda device: Device(device).use() and None,
    deviceSynchronize=lambda: Device().synchronize(),
    getDeviceProperties=lambda device: {
        "name": b"Strict look-alike", "major": 9, "minor": 0, "totalGlobalMem": 2**30,
        "multiProcessorCount": 1,
    },
    memGetInfo=lambda: (2**29, 2**30),
    CUDARuntimeError=CUDARuntimeError, streamCaptureModeGlobal=0, streamCaptureModeThreadLocal=1,
    streamCaptureModeRelaxed=2,
)  # fmt: skip


class PinnedMemoryPointer(bytearray):
    """Memory of the host that `numpy.frombuffer` takes."""


def alloc_pinned_memory(size: int) -> Any:
    return PinnedMemoryPointer(size)


cuda = types.SimpleNamespace(
    Device=Device, Stream=Stream, Event=Event, MemoryPool=MemoryPool, MemoryHook=MemoryHook,
    Memory=Memory,
    MemoryPointer=MemoryPointer, PinnedMemoryPointer=PinnedMemoryPointer, Graph=graphs.Graph,
    using_allocator=using_allocator, get_allocator=lambda: _pools[-1].malloc, runtime=runtime,
    is_available=lambda: True,
    get_current_stream=lambda device_id=-1: graphs.STREAMS[-1], get_elapsed_time=get_elapsed_time,
    get_device_id=lambda: _current[-1], alloc_pinned_memory=alloc_pinned_memory,
)  # fmt: skip


def current() -> int:
    """The number of the device that new arrays are made on."""
    return _current[-1]


def queue(stream: Any = None) -> order.Queue:
    """What a stream, the current one unless named, knows to be done."""
    return (stream or graphs.STREAMS[-1])._queue  # type: ignore[no-any-return]


def stream_at(address: int) -> Any:
    """The stream with an address; 1 is the default one, as CUDA names it."""
    return _known[0 if address == 1 else address]


def marked() -> Event:
    """An event at the end of what the current stream was given."""
    event = Event(disable_timing=True)
    event.record()
    return event


def wait_for_all() -> None:
    """The host waits for every stream."""
    for stream in list(_known.values()):
        order.host_waited(stream._queue.seen)


def in_pinned_memory(array: Any) -> bool:
    """Whether an array of the host lies in pinned memory."""
    while array is not None and not isinstance(array, PinnedMemoryPointer):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array is not None
