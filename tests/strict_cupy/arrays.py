"""The array of the look-alike: opaque, on a device, never a scalar, and deaf to NumPy."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy

from strict_cupy import devices
from strict_cupy.contract import NAMES, happened, signature_of

SCALARS = (bool, int, float, complex, numpy.generic)


class ndarray:  # noqa: N801 - CuPy's name
    """An array that lives on a device: NumPy may not look into it, and it may not meet NumPy's."""

    __slots__ = ("__weakref__", "_base", "_device", "_host", "_size")
    __array_ufunc__ = None  # so that `host + x` asks us, and we refuse
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    _host: Any

    def __init__(self, shape: Any, dtype: Any = float) -> None:
        self._host = numpy.zeros(shape, dtype)
        poison(self._host)
        self._base, self._device = None, devices.current()
        self._size = devices.POOL.taken(self._host.nbytes, self._device)

    def __del__(self) -> None:
        if getattr(self, "_size", 0):
            devices.POOL.given_back(self._size, self._device)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    base = property(lambda self: self._base)
    device = property(lambda self: devices.Device(self._device))
    T = property(lambda self: wrap(self._host.T, (self,)))
    mT = property(lambda self: wrap(self._host.mT, (self,)))
    real = property(lambda self: wrap(self._host.real, (self,)))
    imag = property(lambda self: wrap(self._host.imag, (self,)))

    @property
    def flags(self) -> Any:
        flags = self._host.flags
        return types.SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, forc=flags.forc,
            fnc=flags.fnc, owndata=self._base is None,
        )  # fmt: skip

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._host.ctypes.data, device_id=self._device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "strides": self.strides, "version": 3,
            "data": (self._host.ctypes.data, False),
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._device

    def __dlpack__(self, **options: Any) -> ndarray:
        return self

    # --- what real CuPy refuses, and what it does with a silent wait -----------------------------

    def __array__(self, *arguments: Any, **options: Any) -> NoReturn:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, function: Any, *arguments: Any) -> NoReturn:
        raise TypeError(f"numpy.{function.__name__} was given an array of the device")

    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> Any:
        happened("d2h", "get")
        if blocking:
            happened("synchronizations", "get")
        if out is None:
            return self._host.copy(order)
        out[...] = self._host
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, numpy.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        happened("h2d", "set")
        self._host[...] = arr

    def item(self, *place: int) -> Any:
        return self.get().item(*place)

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __index__(self) -> int:
        return self.get().__index__()  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, specification: str) -> str:
        return format(self.get(), specification)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> Any:
        return restored, (self.get(),)

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()  # type: ignore[attr-defined, no-any-return]

    # --- indexing -----------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> ndarray:
        return wrap(self._host[index(self, key)], (self,))

    def __setitem__(self, key: Any, value: Any) -> None:
        place = index(self, key, write=True)
        if isinstance(value, numpy.ndarray | list | tuple) and numpy.ndim(value):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        happened("launches", "setitem")
        self._host[place] = unwrapped(value) if not isinstance(value, numpy.ndarray) else value


def poison(array: Any) -> None:
    """Fills memory that nobody has written with what shows in every result."""
    if array.dtype.kind in "fc":
        array.fill(numpy.nan)
    else:
        array.fill(True if array.dtype.kind == "b" else numpy.iinfo(array.dtype).max // 3)


def restored(host: Any) -> ndarray:
    happened("h2d", "unpickling")
    return wrap(host.copy(), ())


def unwrapped(value: Any) -> Any:
    """The NumPy array of an operand; TypeError for NumPy's own, which no CuPy function takes."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, numpy.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(unwrapped(v) for v in value)
    return value


def operand(value: Any) -> Any:
    """An operand of a ufunc: an array of a device or a number."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def found(values: Any) -> list[ndarray]:
    """The device arrays among arguments."""
    if isinstance(values, ndarray):
        return [values]
    if isinstance(values, list | tuple):
        return [array for value in values for array in found(value)]
    return []


def one_device(arrays: Sequence[ndarray], name: str) -> None:
    """Refuses arrays of several devices, and of one that is not current."""
    for array in arrays:
        if array._device != devices.current():
            raise ValueError(
                f"{name}: Array device must be same as the current device: array device = "
                f"{array._device} while current = {devices.current()}"
            )


def wrap(host: Any, inputs: Sequence[ndarray]) -> Any:
    """A result as the device sees it: arrays, also of one element; shared memory stays shared."""
    if isinstance(host, tuple | list):
        return (
            type(host)(wrap(h, inputs) for h in host)
            if type(host) in (tuple, list)
            else tuple(wrap(h, inputs) for h in host)
        )
    if not isinstance(host, numpy.ndarray | numpy.generic):
        return host
    for array in inputs:
        if array._host is host:
            return array
    out = object.__new__(ndarray)
    out._host = numpy.asarray(host)
    out._base = next((a for a in inputs if numpy.may_share_memory(a._host, out._host)), None)
    out._device = devices.current() if out._base is None else out._base._device
    out._size = 0
    if out._base is None:
        happened("launches", "a new array")
        out._size = devices.POOL.taken(out._host.nbytes, out._device)
    return out


def index(array: ndarray, key: Any, write: bool = False) -> Any:
    """The key for the NumPy array; counts what CuPy copies or waits for to use it."""
    items = key if isinstance(key, tuple) else (key,)
    made, axis = [], 0
    for item in items:
        if isinstance(item, numpy.ndarray | list):
            happened("h2d", "an index of the host")
        elif isinstance(item, ndarray):
            if item.dtype.kind == "b":
                if not write:
                    happened("synchronizations", "a boolean index")
                axis += item.ndim - 1
                item = item._host
            else:
                # CuPy wraps indices that are out of range around and says nothing.
                item = item._host % max(array.shape[axis], 1)
        elif item is Ellipsis:
            taken = sum(i is not None and i is not Ellipsis for i in items)
            axis = array.ndim - (taken - axis) - 1
        elif item is None:
            axis -= 1
        made.append(item)
        axis += 1
    return tuple(made) if isinstance(key, tuple) else made[0]


def method(name: str) -> Callable[..., Any]:
    """A method that NumPy's array has as well, with the parameters that CuPy's has."""
    signature = signature_of("cupy.ndarray", name)

    def call(self: ndarray, *arguments: Any, **options: Any) -> Any:
        signature.bind(*arguments, **options)
        inputs = [self, *found(arguments), *found(list(options.values()))]
        if name != "copy":  # which copies from any device to the current one
            one_device(inputs, name)
        if name == "nonzero":
            happened("synchronizations", "nonzero")
        before = self._host
        if name == "diagonal":
            y = before.diagonal(*arguments, **options)
            y.flags.writeable = True
            return wrap(y, inputs)
        plain = {k: unwrapped(v) for k, v in options.items() if v is not None}
        with numpy.errstate(all="ignore"):
            result = getattr(before, name)(*unwrapped(arguments), **plain)
        if result is None:
            happened("launches", name)
        return wrap(result, inputs)

    call.__name__ = name
    return call


for _name, _described in NAMES["cupy.ndarray"].items():
    _shared = _described.startswith("function") and hasattr(numpy.ndarray, _name)
    if _shared and not hasattr(ndarray, _name):
        setattr(ndarray, _name, method(_name))
