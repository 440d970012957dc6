"""The devices of the look-alike: two of them, each with a stream that is always done."""

from __future__ import annotations

import types
from typing import Any

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

    def __enter__(self) -> Stream:
        _streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _streams.pop()

    def use(self) -> Stream:
        _streams[-1] = self
        return self

    def synchronize(self) -> None:
        happened("synchronizations", "Stream.synchronize")

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)


Stream.null = Stream(null=True)
_streams = [Stream.null]


class Event:
    """A mark in a stream; counts the marks before it instead of seconds."""

    made = 0

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self.done, self.at, self.timed = True, 0, not disable_timing

    def record(self, stream: Stream | None = None) -> None:
        Event.made += 1
        self.at = Event.made

    def synchronize(self) -> None:
        happened("synchronizations", "Event.synchronize")


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

    def __init__(self) -> None:
        self.used, self.total = [0] * COUNT, [0] * COUNT

    def used_bytes(self) -> int:
        return self.used[current()]

    def total_bytes(self) -> int:
        return self.total[current()]

    def free_bytes(self) -> int:
        return self.total_bytes() - self.used_bytes()

    def free_all_blocks(self, stream: Any = None) -> None:
        self.total[current()] = self.used[current()]

    def taken(self, nbytes: int, device: int) -> int:
        """Takes memory for an array; returns how much."""
        size = -(-nbytes // 512) * 512
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
runtime = types.SimpleNamespace(
    getDeviceCount=lambda: COUNT,
    getDevice=lambda: _current[-1],
    setDevice=lambda device: Device(device).use() and None,
    deviceSynchronize=lambda: happened("synchronizations", "deviceSynchronize"),
    getDeviceProperties=lambda device: {
        "name": b"Strict look-alike", "major": 9, "minor": 0, "totalGlobalMem": 2**30,
        "multiProcessorCount": 1,
    },
    memGetInfo=lambda: (2**29, 2**30),
    CUDARuntimeError=CUDARuntimeError,
)  # fmt: skip


class PinnedMemoryPointer(bytearray):
    """Memory of the host that `numpy.frombuffer` takes."""


def alloc_pinned_memory(size: int) -> Any:
    return PinnedMemoryPointer(size)


cuda = types.SimpleNamespace(
    Device=Device, Stream=Stream, Event=Event, MemoryPool=MemoryPool, MemoryHook=MemoryHook,
    PinnedMemoryPointer=PinnedMemoryPointer, runtime=runtime, is_available=lambda: True,
    get_current_stream=lambda device_id=-1: _streams[-1], get_elapsed_time=get_elapsed_time,
    get_device_id=lambda: _current[-1], alloc_pinned_memory=alloc_pinned_memory,
)  # fmt: skip


def current() -> int:
    """The number of the device that new arrays are made on."""
    return _current[-1]
