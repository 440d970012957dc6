"""The array of the look-alike: opaque, on a device, never a scalar, and deaf to NumPy."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy

from strict_cupy import devices, graphs
from strict_cupy.contract import NAMES, happened, signature_of
from strict_cupy.order import Uses, copies_pinned, host_waited, reads, writes

SCALARS = (bool, int, float, complex, numpy.generic)


class ndarray:  # noqa: N801 - CuPy's name
    """An array that lives on a device: NumPy may not look into it, and it may not meet NumPy's."""

    __slots__ = ("__weakref__", "_base", "_device", "_host", "_pool", "_size", "_uses")
    __array_ufunc__ = None  # so that `host + x` asks us, and we refuse
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    _host: Any

    def __init__(self, shape: Any, dtype: Any = float) -> None:
        self._host = numpy.zeros(shape, dtype)
        poison(self._host)
        self._base, self._device = None, devices.current()
        self._pool = weakref.ref(devices.pool())
        self._uses = Uses(devices.queue())
        self._size = devices.pool().taken(self._host.nbytes, self._device)

    def __del__(self) -> None:
        if getattr(self, "_size", 0):
            pool = self._pool()
            if pool is not None:
                pool.given_back(self._size, self._device)

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
        return devices.MemoryPointer(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "strides": self.strides, "version": 3,
            "data": (self._host.ctypes.data, False),
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._device

    def __dlpack__(
        self, *, stream: int | None = None, max_version: Any = None, dl_device: Any = None,
        copy: bool | None = None,
    ) -> ndarray:  # fmt: skip
        """Stands for a capsule; the consumer's stream waits for the current one."""
        if stream is not None and (not isinstance(stream, int) or stream < -1):
            raise ValueError(f"the valid stream is -1, 1, 2, or any larger value, not {stream}")
        if stream != -1:
            devices.stream_at(1 if stream is None else stream).wait_event(devices.marked())
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
        queue = devices.queue(stream)
        reads([self], queue, "get")
        if blocking:
            happened("synchronizations", "get")
            host_waited(queue.seen)
        if out is None:
            return hosted(self).copy(order)
        out[...] = hosted(self)
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, numpy.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        happened("h2d", "set")
        queue = devices.queue(stream)
        writes([self], queue, "set")
        if devices.in_pinned_memory(arr):
            copies_pinned(arr, queue)
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
        key = checked_index(key)
        return wrap(computed(part, (self, key), {}), (self,))

    def __setitem__(self, key: Any, value: Any) -> None:
        key = checked_index(key, write=True)
        if isinstance(value, numpy.ndarray | list | tuple) and numpy.ndim(value):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if isinstance(value, numpy.ndarray):
            value = value[()]
        happened("launches", "setitem")
        computed(assign, (self, key, value), {})


def poison(array: Any) -> None:
    """Fills memory that nobody has written with what shows in every result."""
    if array.dtype.kind in "fc" or array.dtype.char == "E":
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


def computed(host: Callable[..., Any], arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """What a function of NumPy makes of arguments with arrays of the device in them.

    While the current stream captures, nothing is computed: what is new holds what unwritten memory
    holds until the graph is launched. Shapes and dtypes come from a trial on zeros.
    """
    inputs = [*found(list(arguments)), *found(list(options.values()))]
    capture = graphs.recording()
    if capture is None:
        y = host(*resolved(arguments, hosted), **resolved(options, hosted))
        note_uses(inputs, y, getattr(host, "__qualname__", "a kernel"))
        return y
    real = {id(a): a._host for a in inputs}
    places = {id(a): Place(id(a)) for a in inputs}
    trial = {key: zeros_like(array) for key, array in real.items()}
    frozen = resolved((list(arguments), options), lambda a: places[id(a)])

    def run(arrays: dict[int, Any]) -> Any:
        given, named = resolved(frozen, lambda place: arrays[place.key])
        return host(*given, **named)

    y = run(trial)
    several = y if isinstance(y, tuple | list) else (y,)
    if y is not None and not any(isinstance(a, numpy.ndarray | numpy.generic) for a in several):
        return run(real)  # what the host knows by itself, such as whether arrays share memory
    for array in several:
        if isinstance(array, numpy.ndarray):
            shares = [key for key, t in trial.items() if shares_memory(t, array)]
            if shares and not any(array is trial[key] for key in shares):
                return run(real)  # views, which compute nothing
    into = [k for k, t in trial.items() if any(a is t for a in several)]
    if y is None or into:
        capture.add(lambda: run(real), inputs)
        return real[into[0]] if into else None
    made = [numpy.array(a) for a in several]
    for array in made:
        poison(array)

    def write() -> None:
        y = run(real)
        for array, value in zip(made, y if isinstance(y, tuple | list) else (y,), strict=True):
            array[...] = value

    capture.add(write, inputs)
    return type(y)(made) if type(y) in (tuple, list) else tuple(made) if len(made) > 1 else made[0]


def note_uses(inputs: Sequence[ndarray], y: Any, name: str) -> None:
    """What a kernel read and wrote: the arrays it gave back, or the first one if it gave none."""
    made = y if isinstance(y, tuple | list) else (y,)
    if y is not None and not any(isinstance(m, numpy.ndarray | numpy.generic) for m in made):
        return  # what the host knows by itself
    if y is None:
        written = list(inputs[:1])
    else:
        written = [a for a in inputs if any(a._host is m for m in made)]
        views = [m for m in made if isinstance(m, numpy.ndarray) and m.base is not None]
        if any(numpy.may_share_memory(a._host, m) for a in inputs for m in views):
            return  # views, which compute nothing
    reads(inputs, devices.queue(), name)
    writes(written, devices.queue(), name)


class Place:
    """Stands for an array among the arguments of a kernel that is kept."""

    def __init__(self, key: int) -> None:
        self.key = key


class Copied:
    """An index of the host that was copied to the device."""

    def __init__(self, host: Any) -> None:
        self.host = host


def hosted(value: ndarray) -> Any:
    """The memory of an array, which CuPy gives back with the pool that it is from."""
    owner = value
    while owner._base is not None:
        owner = owner._base
    if owner._pool() is None:
        raise AssertionError("memory was used after the pool that it is from")
    return value._host


def resolved(value: Any, see: Callable[[Any], Any]) -> Any:
    """The arguments as NumPy takes them; TypeError for its own arrays, which CuPy refuses."""
    if isinstance(value, ndarray | Place):
        return see(value)
    if isinstance(value, Copied):
        return value.host
    if isinstance(value, numpy.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(resolved(v, see) for v in value)
    if isinstance(value, dict):
        return {key: resolved(v, see) for key, v in value.items()}
    return value


def zeros_like(host: Any) -> Any:
    """Zeros in the shape and with the strides of an array."""
    lengths = [(n - 1) * s for n, s in zip(host.shape, host.strides, strict=True)]
    low = sum(min(0, length) for length in lengths)
    high = sum(max(0, length) for length in lengths)
    memory = numpy.zeros(high - low + host.itemsize if host.size else 0, "u1")
    return numpy.ndarray(host.shape, host.dtype, memory, -low if host.size else 0, host.strides)


def part(host: Any, key: Any) -> Any:
    """host[key]: also of one element a view, where the key has no arrays."""
    place = index(host, key)
    y = host[place]
    if isinstance(y, numpy.generic):
        return host[(*place, ...) if isinstance(place, tuple) else (place, ...)]
    return y


def assign(host: Any, key: Any, value: Any) -> None:
    host[index(host, key)] = value


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
    out._base = next((a for a in inputs if shares_memory(a._host, out._host)), None)
    out._device = devices.current() if out._base is None else out._base._device
    out._size, out._uses = 0, None
    if out._base is None:
        out._uses = Uses(devices.queue())
        happened("launches", "a new array")
        out._pool = weakref.ref(devices.pool())
        out._size = devices.pool().taken(out._host.nbytes, out._device)
        capture = graphs.recording()
        if capture is not None:
            capture.uses([out])
    return out


def shares_memory(a: Any, b: Any) -> bool:
    """Whether one is a view of the other, or both of one array; also where they are empty."""
    if a.size and b.size:
        return bool(numpy.may_share_memory(a, b))
    while getattr(a, "base", None) is not None:
        a = a.base
    while getattr(b, "base", None) is not None:
        b = b.base
    return a is b


def checked_index(key: Any, write: bool = False) -> Any:
    """The key; counts what CuPy copies or waits for to use it."""
    if isinstance(key, tuple):
        return tuple(checked_index(item, write) for item in key)
    if isinstance(key, numpy.ndarray | list):
        happened("h2d", "an index of the host")
        return Copied(numpy.asarray(key))
    if isinstance(key, ndarray) and key.dtype.kind == "b" and not write:
        happened("synchronizations", "a boolean index")
    return key


def index(array: Any, key: Any) -> Any:
    """The key for a NumPy array, of which arrays of the device have become NumPy's as well."""
    items = key if isinstance(key, tuple) else (key,)
    made, axis = [], 0
    for item in items:
        if isinstance(item, numpy.ndarray) and item.dtype.kind == "b":
            axis += item.ndim - 1
        elif isinstance(item, numpy.ndarray):
            # CuPy wraps indices that are out of range around and says nothing.
            item = item % max(array.shape[axis], 1)
        elif item is Ellipsis:
            taken = sum(i is not None and i is not Ellipsis for i in items)
            axis = array.ndim - (taken - axis) - 1
        elif item is None:
            axis -= 1
        made.append(item)
        axis += 1
    return tuple(made) if isinstance(key, tuple) else made[0]


REDUCTIONS = {"sum", "prod", "max", "min", "amax", "amin", "mean", "all", "any", "argmax", "argmin"}


def keeps_order_of_out(name: str, inputs: Sequence[ndarray], out: Any) -> None:
    """Refuses what would change the strides of `out`: CuPy reduces an array whose columns lie one
    after the other into an `out` that it gives the same order, whatever it had."""
    if name in ("min", "amin") and isinstance(out, ndarray) and inputs:  # seen on an H100
        raise TypeError(f"{name}: CuPy's minimum takes `out` for a dtype")
    if name in ("cumsum", "cumprod") and isinstance(out, ndarray):  # seen on an H100
        raise AssertionError(f"{name}: CuPy returns another array than `out`")
    if name in REDUCTIONS and isinstance(out, ndarray) and inputs:
        flags = inputs[0].flags
        if flags.f_contiguous and not (flags.c_contiguous or out.flags.f_contiguous):
            raise AssertionError(f"{name}: CuPy would change the strides of `out`")


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
        if name == "dot":
            happened("products", name)
        if name == "diagonal":
            y = self._host.diagonal(*arguments, **options)
            y.flags.writeable = True
            return wrap(y if y.size else y.copy(), inputs if y.size else [])
        if name == "fill" and isinstance(arguments[0], float) and arguments[0] == 0:
            arguments = (0.0,)  # it sets all bytes to 0
        plain = {k: v for k, v in options.items() if v is not None}

        def run(host: Any, *given: Any, **named: Any) -> Any:
            with numpy.errstate(all="ignore"):
                return getattr(host, name)(*given, **named)

        keeps_order_of_out(name, [self], options.get("out"))
        if name in ("max", "min") and not self.ndim and options.get("axis") is not None:
            raise numpy.exceptions.AxisError(options["axis"], 0)  # NumPy allows 0 and -1
        result = computed(run, (self, *arguments), plain)
        if result is None or options.get("out") is not None:
            happened("launches", name)
        return wrap(result, inputs)

    call.__name__ = name
    return call


for _name, _described in NAMES["cupy.ndarray"].items():
    _shared = _described.startswith("function") and hasattr(numpy.ndarray, _name)
    if _shared and not hasattr(ndarray, _name):
        setattr(ndarray, _name, method(_name))
