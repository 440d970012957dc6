"""Where arrays live. The one place that chooses between NumPy and CuPy.

A CPU array is a `numpy.ndarray`, a CUDA array a `cupy.ndarray`; kernels get the module of their
arrays as `xp`. CuPy is imported at the first use of a CUDA device and not before, and its absence
is told here, in words that name the extra to install.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy

Array = Any

# The module of each array type. CuPy's entry comes with the first CUDA array.
MODULES: dict[type, Any] = {numpy.ndarray: numpy}
# And with it that of NumPy's scalars, which functions of 0-dim arrays return: raw values of a
# computation.
RAW: dict[type, Any] = {numpy.ndarray: numpy, **dict.fromkeys(numpy.sctypeDict.values(), numpy)}
_cuda_module: Any = None
_gpus = 0
_forbidden: str | None = None  # why this process may not use CUDA
# The modules that are imported with CuPy, by name; and where they put the modules of `backend.cuda`
# for all who hold a CUDA array.
LOADED_WITH_CUDA: list[str] = []
cuda_parts: Any = SimpleNamespace()


class device:  # noqa: N801 - PyTorch's name
    """A place for tensors: `device("cpu")`, `device("cuda")`, `device("cuda:1")` or `device(1)`.

    As a context, the place of the tensors that are made within it and name no device.
    """

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, kind: str | int | device, index: int | None = None) -> None:
        if isinstance(kind, device):
            index, kind = kind.index, kind.type
        elif isinstance(kind, int):
            index, kind = kind, "cuda"
        elif ":" in kind:
            kind, _, number = kind.partition(":")
            if not number.isdecimal():
                raise RuntimeError(
                    f"device: expected 'cpu', 'cuda' or 'cuda:N', got '{kind}:{number}'"
                )
            index = int(number)
        if kind not in ("cpu", "cuda"):
            raise RuntimeError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {kind!r}")
        self.type, self.index = kind, index

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __enter__(self) -> device:
        _defaults.places.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _defaults.places.pop()


CPU = device("cpu")
AxisError = numpy.exceptions.AxisError
broadcast_shapes = numpy.broadcast_shapes
HERE: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
HOST = numpy  # the module of CPU arrays, for what is worth a test only where it costs no transfer


class _Defaults(threading.local):
    """Where this thread makes tensors: the last of these places."""

    def __init__(self) -> None:
        self.places: list[device] = [CPU]


_defaults = _Defaults()


def get_default_device() -> device:
    """The device of tensors that are made without naming one: the CPU unless set otherwise."""
    return _defaults.places[-1]


def set_default_device(place: device | str | int | None) -> None:
    """Makes `place` the default of this thread; None: the CPU."""
    _defaults.places[-1] = CPU if place is None else device(place)


def register_cuda_module(module: Any) -> None:
    """Makes `module` (cupy, or in tests its strict double) the home of CUDA arrays."""
    global _cuda_module, _gpus
    if _cuda_module is not None:
        cuda_parts.checks.forget()
        MODULES.pop(_cuda_module.ndarray, None)
        RAW.pop(_cuda_module.ndarray, None)
    _cuda_module = module
    if module is not None:
        for name in LOADED_WITH_CUDA:
            importlib.import_module(name)
        MODULES[module.ndarray] = RAW[module.ndarray] = module
        _gpus = int(module.cuda.runtime.getDeviceCount())


class _Forbidden:
    """Stands for the module of arrays that this process may not compute with."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(_forbidden)


def forbid_cuda(reason: str) -> None:
    """Makes each use of CUDA in this process a RuntimeError that says the reason."""
    global _cuda_module, _forbidden
    _forbidden = reason
    if _cuda_module is not None:
        MODULES[_cuda_module.ndarray] = RAW[_cuda_module.ndarray] = _Forbidden()
        _cuda_module = None


def cuda_is_absent() -> bool:
    """Whether no array can be on a GPU: CuPy has not been asked for so far."""
    return _cuda_module is None


def cuda_module() -> Any:
    """CuPy, imported at the first call; RuntimeError in one line where it or the GPU is missing."""
    if _cuda_module is None:
        reason = cuda_unavailable_reason()
        if reason:
            raise RuntimeError(reason)
        import cupy

        register_cuda_module(cupy)
    return _cuda_module


def cuda_unavailable_reason() -> str | None:
    """Why CUDA cannot be used here and what to do about it, or None where it can."""
    if _cuda_module is not None or _forbidden is not None:
        return _forbidden
    try:
        import cupy
    except ImportError as error:
        return (
            f"device 'cuda' needs CuPy, which could not be imported ({error}); "
            'install it with `pip install "nanotorch[cuda12]"` or "nanotorch[cuda13]", '
            "or use device 'cpu'"
        )
    if not cupy.cuda.is_available():
        return (
            "device 'cuda': CuPy is installed but finds no usable GPU; check the driver with "
            "`nvidia-smi`, or use device 'cpu'"
        )
    return None


def array_module(array: Any) -> Any:
    """numpy for a NumPy array or scalar, the CUDA module for one of its arrays."""
    module = MODULES.get(type(array))
    if module is not None:
        return module
    for kind, module in MODULES.items():
        if isinstance(array, kind):
            return module
    if isinstance(array, numpy.generic):
        return numpy
    raise TypeError(f"expected a Tensor or an array, got {type(array).__name__}")


def is_array(value: Any) -> bool:
    """True for the arrays (and NumPy's scalars) that kernels take."""
    return type(value) in RAW or isinstance(value, numpy.ndarray | numpy.generic)


def device_of(array: Array) -> device:
    """The device that holds the array."""
    if array_module(array) is numpy:
        return CPU
    return device("cuda", int(array.device.id))


def module_of(place: device) -> Any:
    """The array module of a device; RuntimeError where the device is not usable."""
    return numpy if place.type == "cpu" else cuda_module()


def on_device(place: device) -> contextlib.AbstractContextManager[Any]:
    """A context in which new arrays of that device's module are made on that very device."""
    if place.type == "cpu" or place.index is None:
        return HERE
    cuda = cuda_module().cuda
    if place.index >= _gpus:
        raise RuntimeError(
            f"device 'cuda:{place.index}': this machine has {_gpus} GPUs, counted from cuda:0"
        )
    context: contextlib.AbstractContextManager[Any] = cuda.Device(place.index)
    return context


def on_device_of(array: Any) -> contextlib.AbstractContextManager[Any]:
    """The context to compute with an array in: its device is the current one."""
    if _gpus < 2 or MODULES.get(type(array), HOST) is HOST:  # of one GPU there is no other
        return HERE
    return on_device(device("cuda", array.device.id))


def as_array(value: Any) -> Array:
    """An array as it is; a NumPy scalar, as functions of 0-dim arrays return it, as an array."""
    return value if type(value) in MODULES else array_module(value).asarray(value)


def copy_of(array: Array, order: str = "") -> Array:
    """A copy in memory of its own, on the same device, in this order or that of the array."""
    with on_device_of(array):
        if not array.ndim:
            return array_module(array).array(array)
        return array.copy(order or order_of(array))


def order_of(array: Array) -> str:
    """The order of a copy: the array's own; contiguous where the array repeats elements."""
    return "C" if 0 in array.strides else "K"


def plus(a: Array, b: Array) -> Array:
    """a + b, on the device that they share."""
    with on_device_of(a):
        return a + b


def add_into(a: Array, b: Array) -> Array:
    """a += b, on the device that they share; a NumPy scalar gives another one."""
    with on_device_of(a):
        a += b
    return a


def to_device(array: Array, place: device, non_blocking: bool = False) -> Array:
    """The array on that device; the same array if it is there already.

    From pinned memory the host goes on before the copy is done where `non_blocking`.
    """
    module, source = module_of(place), array_module(array)
    if module is numpy:
        return array if source is numpy else cuda_parts.checks.to_host(source, array)
    if source is not module:
        with on_device(place):
            if not array.ndim and array == 0:  # CuPy would fill the array, and -0.0 becomes 0
                return module.asarray(array.reshape(1)).reshape(())
            if not is_pinned(array):
                return module.asarray(array)
            copy = module.asarray(array, blocking=not non_blocking)
            if non_blocking:
                _keep_while_copied(module, array)
            return copy
    index = module.cuda.get_device_id() if place.index is None else place.index
    if index == int(array.device.id):
        return array
    with on_device(device("cuda", index)):
        return array.copy()


# --- pinned memory --------------------------------------------------------------------------------

_being_copied: list[tuple[Any, Array]] = []  # an event after the copy, and what is copied


def pinned(array: Array) -> Array:
    """A copy of a host array in memory that a device reads by itself, while the host goes on."""
    memory = cuda_module().cuda.alloc_pinned_memory(max(array.nbytes, 1))
    out = numpy.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    out[...] = array
    return out


def is_pinned(array: Array) -> bool:
    """Whether an array of the host lies in pinned memory."""
    if _cuda_module is None:
        return False
    kind = _cuda_module.cuda.PinnedMemoryPointer
    while array is not None and not isinstance(array, kind):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array is not None


def _keep_while_copied(module: Any, array: Array) -> None:
    """Keeps pinned memory from being used anew before the device has read it."""
    _being_copied[:] = [(event, kept) for event, kept in _being_copied if not event.done]
    event = module.cuda.Event(disable_timing=True)
    event.record()
    _being_copied.append((event, array))


def constant(like: Array, value: float) -> Any:
    """A number as an operand beside `like`, in its dtype.

    NumPy takes a 0-dim array twice as fast as a Python number; one of each value is kept.
    """
    if type(like) is not numpy.ndarray:
        return value
    return _constant(like.dtype.char, value, value == 0 and str(value) == "-0.0")


def constants(like: Array, values: tuple[float, ...]) -> Any:
    """Several numbers as operands beside `like`: `constant` of each."""
    return _constants(like.dtype.char, values) if type(like) is numpy.ndarray else values


@functools.lru_cache(maxsize=4096)
def _constant(kind: str, value: float, is_minus_zero: bool) -> Any:  # which is equal to 0.0
    array = numpy.asarray(value, dtype="f" if kind == "E" else kind)  # NumPy knows no bfloat16
    array.flags.writeable = False
    return array


@functools.lru_cache(maxsize=256)
def _constants(kind: str, values: tuple[float, ...]) -> Any:
    return tuple(_constant(kind, value, str(value) == "-0.0") for value in values)


# NumPy's function of elements behind `numpy.clip`: a quarter of the time of maximum or minimum with
# a number, which NumPy computes one by one.
_clip: Any = getattr(getattr(numpy, "_core", None), "umath", numpy).clip


def clipped(xp: Any, x: Array, low: float, high: float, out: Array | None = None) -> Array:
    """min(max(x, low), high); infinity is no bound."""
    if xp is not HOST or x.dtype.kind != "f":
        return xp.clip(x, low, high, out=out)
    if type(x) is numpy.ndarray:
        low, high = _constants(x.dtype.char, (low, high))
    return _clip(x, low, high) if out is None else _clip(x, low, high, out=out)


# Elements: several arrays of so many stay in the second-level cache, and the calls for a piece are
# short beside its computing.
PIECE = 24 << 10


def in_pieces(
    function: Callable[..., Array], arrays: tuple[Array, ...], out: Array | None
) -> Array:
    """function(*arrays, out), which makes many arrays on its way: of large arrays of one shape
    piece by piece, each of which stays in the cache. It treats each element by itself."""
    x = arrays[0]
    for a in arrays if out is None else (*arrays, out):
        if a.size <= 2 * PIECE or type(a) is not numpy.ndarray or a.shape != x.shape:
            return function(*arrays, out)
        if not a.flags.c_contiguous:
            return function(*arrays, out)
    y = numpy.empty_like(x) if out is None else out
    flat = [a.reshape(-1) for a in (*arrays, y)]
    for start in range(0, x.size, PIECE):
        function(*[a[start : start + PIECE] for a in flat])
    return y


@functools.lru_cache(maxsize=64)
def ones(count: int, kind: Any) -> Any:
    """So many ones, as a NumPy array that nobody may write to: a product with them is a sum, in a
    fraction of the time."""
    array = numpy.ones(count, kind)
    array.flags.writeable = False
    return array


@functools.lru_cache(maxsize=64)
def counting(stop: int, step: int = 1) -> Any:
    """0, step, 2 step, … below stop, as a NumPy array that nobody may write to; one is kept."""
    array = numpy.arange(0, stop, step)
    array.flags.writeable = False
    return array
