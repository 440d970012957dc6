"""CUDA devices as users meet them: `torch.cuda`'s names over CuPy.

Where there is no CuPy or no GPU, `is_available()` is False, counts and memory are 0, and whatever
needs a device raises RuntimeError in one line that says what to install or to check.
Source: https://docs.pytorch.org/docs/stable/cuda.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from nanotorch import random
from nanotorch.backend import cuda_module, cuda_unavailable_reason, device as Device
from nanotorch.backend.cuda import checks
from nanotorch.backend.loading import on_demand
from nanotorch.tensor import Tensor

if TYPE_CHECKING:
    from nanotorch.cuda import amp as amp
    from nanotorch.spellings import (
        CudaBoolTensor as BoolTensor,
        CudaByteTensor as ByteTensor,
        CudaDoubleTensor as DoubleTensor,
        CudaFloatTensor as FloatTensor,
        CudaHalfTensor as HalfTensor,
        CudaIntTensor as IntTensor,
        CudaLongTensor as LongTensor,
    )

Place = Device | str | int | None


def is_available() -> bool:
    """Whether CuPy is installed and finds a usable GPU; never raises."""
    return cuda_unavailable_reason() is None


def is_initialized() -> bool:
    """Whether CUDA can be used; CuPy initializes a device at its first use."""
    return is_available()


def init() -> None:
    """Imports CuPy now rather than at the first CUDA tensor."""
    cuda_module()


def device_count() -> int:
    """The number of GPUs; 0 where CUDA cannot be used."""
    return int(_runtime().getDeviceCount()) if is_available() else 0


def current_device() -> int:
    """The number of the GPU on which "cuda" without a number makes tensors."""
    return int(cuda_module().cuda.Device().id)


def set_device(device: Place) -> None:
    """Makes a GPU the current one of this thread; a negative number changes nothing."""
    if not isinstance(device, int) or device >= 0:
        _chosen(device).use()


class device:  # noqa: N801 - PyTorch's name
    """A context in which a GPU is the current one; None or a negative number changes nothing."""

    def __init__(self, device: Place) -> None:
        kept = device is None or (isinstance(device, int) and device < 0)
        self._context: Any = contextlib.nullcontext() if kept else _chosen(device)

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def get_device_name(device: Place = None) -> str:
    """The name that the driver gives to a GPU, such as "NVIDIA H200"."""
    return str(get_device_properties(device).name)


def get_device_capability(device: Place = None) -> tuple[int, int]:
    """The compute capability of a GPU, such as (9, 0)."""
    properties = get_device_properties(device)
    return properties.major, properties.minor


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current GPU computes with bfloat16, as those from capability 8.0 on do by
    themselves; False without a GPU."""
    return is_available() and (including_emulation or get_device_capability() >= (8, 0))


def get_device_properties(device: Place = None) -> SimpleNamespace:
    """name, major, minor, total_memory (bytes) and multi_processor_count of a GPU."""
    properties = _runtime().getDeviceProperties(_chosen(device).id)
    name = properties["name"]
    return SimpleNamespace(
        name=name.decode() if isinstance(name, bytes) else name,
        major=properties["major"],
        minor=properties["minor"],
        total_memory=properties["totalGlobalMem"],
        multi_processor_count=properties["multiProcessorCount"],
    )


def synchronize(device: Place = None) -> None:
    """Waits until a GPU has done all that it was given.

    IndexError if an index was out of range in what it did.
    """
    chosen = _chosen(device)
    chosen.synchronize()
    checks.after_waiting(cuda_module(), int(chosen.id))


# --- random numbers -------------------------------------------------------------------------------


_on_demand, __dir__ = on_demand(__name__)


def __getattr__(name: str) -> Any:
    """`default_generators`: of each GPU the one that draws by default; and the module `amp`."""
    if name != "default_generators":
        return _on_demand(name)
    places = [Device("cuda", number) for number in range(device_count())]
    return tuple(random.default_cuda_generator(place) for place in places)


def manual_seed(seed: int) -> None:
    """Starts the current GPU's default generator at a seed; without a GPU does nothing."""
    if is_available():
        _generator("cuda").manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    """Starts the default generators of all GPUs at a seed; without a GPU does nothing."""
    for number in range(device_count()):
        _generator(number).manual_seed(int(seed))


def seed() -> None:
    """Starts the current GPU's default generator at a seed that the operating system chooses."""
    if is_available():
        _generator("cuda").seed()


def seed_all() -> None:
    """Starts the default generators of all GPUs at one seed that the operating system chooses."""
    if is_available():
        manual_seed_all(_generator("cuda").seed())


def initial_seed() -> int:
    """The seed that the current GPU's default generator was started with."""
    return _generator("cuda").initial_seed()


def get_rng_state(device: Place = "cuda") -> Tensor:
    """The state of a GPU's default generator, 16 values of uint8 on the CPU; waits for the GPU."""
    return _generator(device).get_state()


def get_rng_state_all() -> list[Tensor]:
    """The states of the default generators of all GPUs."""
    return [get_rng_state(number) for number in range(device_count())]


def set_rng_state(new_state: Tensor, device: Place = "cuda") -> None:
    """Makes a GPU's default generator go on from a state that `get_rng_state` returned."""
    _generator(device).set_state(new_state)


def set_rng_state_all(new_states: Iterable[Tensor]) -> None:
    """Makes the default generators of all GPUs go on from their states."""
    for number, state in enumerate(new_states):
        set_rng_state(state, number)


def _generator(place: Place) -> random.Generator:
    return random.default_cuda_generator(Device("cuda", _chosen(place).id))


# --- memory ---------------------------------------------------------------------------------------

_peaks: dict[int, int] = {}  # bytes, by the number of the device
_watching: list[tuple[Any, Any]] = []  # a module, and the hook on its memory


def memory_allocated(device: Place = None) -> int:
    """Bytes that arrays occupy on a GPU, in blocks of 512; 0 where CUDA cannot be used."""
    return _of_pool("used_bytes", device) if is_available() else 0


def memory_reserved(device: Place = None) -> int:
    """Bytes that CuPy's pool holds of a GPU, in use or ready for reuse."""
    return _of_pool("total_bytes", device) if is_available() else 0


def max_memory_allocated(device: Place = None) -> int:
    """The most that `memory_allocated` was since this, or the reset of it, was first called."""
    if not is_available():
        return 0
    _watch()
    number = _chosen(device).id
    _peaks[number] = max(_peaks.get(number, 0), memory_allocated(number))
    return _peaks[number]


def reset_peak_memory_stats(device: Place = None) -> None:
    """Starts `max_memory_allocated` anew; counts in the thread that calls it."""
    if is_available():
        _watch()
        number = _chosen(device).id
        _peaks[number] = memory_allocated(number)


def empty_cache() -> None:
    """Gives the memory that no array occupies back to the driver."""
    if is_available():
        cuda_module().get_default_memory_pool().free_all_blocks()


def mem_get_info(device: Place = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, as its driver counts them."""
    free, total = _chosen(device).mem_info
    return int(free), int(total)


def _watch() -> None:
    """Notes from now on how high the use of memory rises."""
    module = cuda_module()
    if any(watched is module for watched, _ in _watching):
        return

    class Peak(module.cuda.MemoryHook):  # type: ignore[misc, name-defined]
        name = "nanotorch peak memory"

        def malloc_postprocess(self, **facts: Any) -> None:
            number = facts["device_id"]
            _peaks[number] = max(_peaks.get(number, 0), memory_allocated(number))

    hook = Peak()
    hook.__enter__()
    _watching.append((module, hook))


# --- streams and events ---------------------------------------------------------------------------


class Stream:
    """A queue of work on a GPU: what is given to it runs in order, beside other streams."""

    def __init__(self, device: Place = None, priority: int = 0) -> None:
        with _chosen(device):
            self._stream = cuda_module().cuda.Stream(non_blocking=True)
        self.device = Device("cuda", _chosen(device).id)

    @classmethod
    def _of(cls, stream: Any, number: int) -> Stream:
        out = cls.__new__(cls)
        out._stream, out.device = stream, Device("cuda", number)
        return out

    @property
    def cuda_stream(self) -> int:
        """The address of CUDA's own stream."""
        return int(self._stream.ptr)

    def __cuda_stream__(self) -> tuple[int, int]:
        """(version of the protocol, address), by which other libraries take the stream."""
        return 0, self.cuda_stream

    def synchronize(self) -> None:
        """Waits until the stream has done all that it was given."""
        self._stream.synchronize()

    def query(self) -> bool:
        """Whether the stream has done all that it was given."""
        return bool(self._stream.done)

    def record_event(self, event: Event | None = None) -> Event:
        """Marks the end of what the stream was given so far."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Lets what comes later wait for the event; the host does not wait."""
        self._stream.wait_event(event._event)

    def wait_stream(self, stream: Stream) -> None:
        """Lets what comes later wait for what the other stream was given so far."""
        self.wait_event(stream.record_event())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.cuda_stream == other.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


class ExternalStream(Stream):
    """A stream of another library, by its address, such as `torch_stream.cuda_stream`.

    Its owner has to outlive it.
    """

    def __init__(self, stream_ptr: int, device: Place = None) -> None:
        self._address = stream_ptr
        with _chosen(device):
            self._stream = cuda_module().cuda.Stream.from_external(self)
        self.device = Device("cuda", _chosen(device).id)

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


class Event:
    """A mark in a stream, to wait for or to measure time between."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self._timed = enable_timing
        event = cuda_module().cuda.Event
        self._event = event(block=blocking, disable_timing=not enable_timing)

    def record(self, stream: Stream | None = None) -> None:
        """Puts the mark at the end of what the stream (the current one) was given so far."""
        self._event.record((stream or current_stream())._stream)

    def synchronize(self) -> None:
        """Waits until the stream has come to the mark."""
        self._event.synchronize()

    def query(self) -> bool:
        """Whether the stream has come to the mark."""
        return bool(self._event.done)

    def wait(self, stream: Stream | None = None) -> None:
        """Lets what the stream (the current one) is given later wait for the mark."""
        (stream or current_stream()).wait_event(self)

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds between this mark and a later one; both made with enable_timing=True."""
        if not (self._timed and end_event._timed):
            raise RuntimeError("elapsed_time: both events must be made with enable_timing=True")
        return float(cuda_module().cuda.get_elapsed_time(self._event, end_event._event))


def current_stream(device: Place = None) -> Stream:
    """The stream that the work of a GPU goes to now."""
    chosen = _chosen(device)
    return Stream._of(cuda_module().cuda.get_current_stream(chosen.id), chosen.id)


def default_stream(device: Place = None) -> Stream:
    """The stream that the work of a GPU goes to unless another is chosen."""
    return Stream._of(cuda_module().cuda.Stream.null, _chosen(device).id)


@contextlib.contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """A context in which work goes to the given stream; None changes nothing."""
    if stream is None:
        yield
        return
    with _chosen(stream.device), stream._stream:
        yield


StreamContext = stream


def set_stream(stream: Stream) -> None:
    """Makes a stream the current one of its GPU, in this thread."""
    with _chosen(stream.device):
        stream._stream.use()


def is_current_stream_capturing() -> bool:
    """Whether the work of the current stream is captured into a graph; False without a GPU."""
    return is_available() and bool(current_stream()._stream.is_capturing())


# --- what the functions share ---------------------------------------------------------------------


def _runtime() -> Any:
    return cuda_module().cuda.runtime


def _chosen(place: Place) -> Any:
    """CuPy's device for a number, a name or a device; the current one for None."""
    module = cuda_module()
    if place is None:
        return module.cuda.Device()
    wanted = Device(place)
    if wanted.type != "cuda":
        raise ValueError(f"Expected a cuda device, but got: {wanted}")
    if wanted.index is None:
        return module.cuda.Device()
    count = device_count()
    if wanted.index >= count:
        raise RuntimeError(
            f"cuda: there is no device {wanted.index}; this machine has {count}, counted from 0"
        )
    return module.cuda.Device(wanted.index)


def _of_pool(figure: str, place: Place) -> int:
    """A figure of the pool that holds a GPU's memory: it speaks of the current device."""
    with _chosen(place):
        return int(getattr(cuda_module().get_default_memory_pool(), figure)())
