"""Making tensors from data, and tensors of constants and sequences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy

from nanotorch.backend import (
    CPU,
    HOST,
    Array,
    as_dtype,
    copy_of,
    device as Device,
    device_of,
    dtype as DType,
    dtype_of,
    fitting,
    get_default_device,
    get_default_dtype,
    module_of,
    on_device,
    on_device_of,
    order_of_memory,
    result_type,
    to_device,
)
from nanotorch.backend.dtypes import bool_, int64
from nanotorch.backend.loading import when_called
from nanotorch.ops.outputs import write
from nanotorch.ops.shapes import sizes
from nanotorch.tensor import Tensor

Place = Device | str | int | None


Made = TypeVar("Made", bound=Callable[..., Tensor])


def maker(function: Made) -> Made:
    """The function with the keywords that PyTorch's makers of tensors share.

    out: a tensor that takes the result, and gives it its dtype and device. pin_memory: see
    `Tensor.pin_memory`. There is one layout and one memory format, so those change nothing.
    """

    @functools.wraps(function)
    def make(
        *args: Any, out: Tensor | None = None, pin_memory: bool = False, layout: Any = None,
        memory_format: Any = None, **options: Any,
    ) -> Tensor:  # fmt: skip
        if options.get("dtype") is not None:
            options["dtype"] = dtype_of(options["dtype"])  # `float` is float64, as in PyTorch
        if out is not None:
            options = {"dtype": out.dtype, "device": out.device, **options}
        y = function(*args, **options)
        y = y.pin_memory() if pin_memory else y
        return y if out is None else write(y, out)

    return make  # type: ignore[return-value]


LARGE_BYTES = 1 << 18  # of an array, from which large ones are computed
keep_freed_memory = when_called("nanotorch.backend.allocator", "keep_freed_memory")


def finished(array: Array, requires_grad: bool) -> Tensor:
    """The array as a leaf."""
    if array.nbytes >= LARGE_BYTES:
        keep_freed_memory()
    out = Tensor._wrap(array)
    if requires_grad:
        out.requires_grad = True
    return out


def filled(
    shape: Sequence[Any],
    size: Any,
    value: Any,
    dtype: DType | None,
    place: Place,
    requires_grad: bool,
) -> Tensor:
    """A constant tensor; the shape is given as ints, as one sequence, or by the keyword `size`."""
    wanted = sizes((size,) if size is not None else shape)
    if min(wanted, default=0) < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension: {list(wanted)}")
    target = get_default_device() if place is None else Device(place)
    kind = (dtype or get_default_dtype()).numpy
    if target.type == "cpu" and type(value) is int and value == 0:  # as in most cases
        return finished(HOST.zeros(wanted, kind), requires_grad)
    with on_device(target):
        module = module_of(target)
        if type(value) is int and value == 0:  # in a tenth of the time of `full`
            array = module.zeros(wanted, kind)
        else:
            array = module.full(wanted, fitting(value, kind), kind)
    return finished(array, requires_grad)


@maker
def tensor(
    data: Any, *, dtype: DType | None = None, device: Place = None, requires_grad: bool = False
) -> Tensor:
    """A leaf with a copy of the data: a number, nested lists, an array or a tensor.

    Python floats become the default dtype, ints int64, bools bool; arrays keep theirs.
    """
    array = as_array(data, dtype)
    if dtype is not None:
        if array is not data and not isinstance(data, Tensor) and dtype.numpy.kind in "iu":
            if array.size and array.dtype.kind in "iuf":
                for value in (array.min(), array.max()):
                    fitting(value.item(), dtype.numpy)
        array = as_dtype(array, dtype.numpy)
    elif array is data or isinstance(data, Tensor):
        array = copy_of(array)
    if device is None and isinstance(data, Tensor):
        device = data.device
    return placed(array, device, requires_grad)


FLOATS = {float}


def as_array(data: Any, dtype: DType | None = None) -> Array:
    """The data as an array; lists of Python floats in `dtype`, or in the default dtype."""
    if isinstance(data, Tensor):
        return data._array
    if type(data) is numpy.ndarray or hasattr(data, "__cuda_array_interface__"):
        dtype_of(data.dtype)
        return data
    if isinstance(data, numpy.ndarray | numpy.generic):
        return numpy.asarray(data)
    if type(data) is list and set(map(type, data)) == FLOATS:  # in half the time
        wanted = (dtype or get_default_dtype()).numpy
        if wanted.char in "fd":
            return as_dtype(numpy.array(data), wanted)
    if isinstance(data, list | tuple) and data and has_tensor(data):
        data = without_tensors(data)
    try:
        array = numpy.array(data)
    except ValueError as error:
        raise ValueError(f"tensor: expected a rectangular sequence of numbers: {error}") from None
    # Of ints beyond int64 NumPy makes objects, unsigned integers or, beside others, floats.
    kind = array.dtype.kind
    if kind in "Ou" or (kind == "f" and array.size and abs(array).max() >= 2**63):
        values = list(leaves(data))
        if any(type(v) is int and not -(2**63) <= v < 2**63 for v in values):
            floats = dtype is not None and dtype.numpy.kind not in "iu"
            if not (floats or any(isinstance(v, float) for v in values)):
                raise ValueError("tensor: overflow: an int is not within those of int64")
            array = numpy.array(data, numpy.float64)
    if array.dtype.kind in "OUS" or (array.dtype.kind == "V" and array.dtype.name != "bfloat16"):
        raise TypeError(
            f"tensor: expected numbers or nested lists of numbers, got {type(data).__name__} "
            f"{data!r:.60}"
        )
    if array.dtype == numpy.float64 and not holds_numpy(data):
        wanted = (dtype or get_default_dtype()).numpy
        return array if wanted.kind in "iu" else as_dtype(array, wanted)
    if array.dtype.kind == "c" and not holds_numpy(data):
        return array.astype(result_type(array.dtype.type(0).item()).numpy)
    if array.size == 0 and not isinstance(data, int | float):
        return array.astype(get_default_dtype().numpy)
    return array


def leaves(data: Any) -> Iterator[Any]:
    """What nested lists hold."""
    if isinstance(data, list | tuple):
        for item in data:
            yield from leaves(item)
    else:
        yield data


def has_tensor(data: Any) -> bool:
    """Whether nested lists hold tensors."""
    if isinstance(data, list | tuple):
        return any(has_tensor(item) for item in data)
    return isinstance(data, Tensor)


def without_tensors(data: Any) -> Any:
    """Nested lists with their tensors as Python numbers."""
    if isinstance(data, list | tuple):
        return [without_tensors(item) for item in data]
    return data.tolist() if isinstance(data, Tensor) else data


def holds_numpy(data: Any) -> bool:
    """Whether nested lists hold NumPy values, which keep their dtype."""
    while isinstance(data, list | tuple) and len(data):
        data = data[0]
    return isinstance(data, numpy.ndarray | numpy.generic)


def as_tensor(data: Any, dtype: DType | None = None, device: Place = None) -> Tensor:
    """A tensor of the data, over the same memory where that is possible."""
    dtype = None if dtype is None else dtype_of(dtype)
    if isinstance(data, Tensor):
        out = data
    else:
        out = placed(as_array(data, dtype), device, False)
    if dtype is not None and out.dtype is not dtype:
        out = out.to(dtype)
    return out if device is None else out.to(Device(device))


def from_numpy(array: Any) -> Tensor:
    """A tensor over the memory of a NumPy array."""
    if not isinstance(array, numpy.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    dtype_of(array.dtype)
    return Tensor._wrap(array.view(numpy.ndarray))


def frombuffer(
    buffer: Any, *, dtype: DType, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A tensor of one dimension over the memory of bytes, a bytearray or another buffer.

    `count` elements (-1: all) from byte `offset` on; ValueError where the buffer holds no such.
    Over bytes, which cannot be written to, neither can the tensor.
    """
    out = Tensor._wrap(numpy.frombuffer(buffer, dtype.numpy, count, offset))
    return out.requires_grad_(requires_grad)


def from_dlpack(source: Any, *, device: Place = None, copy: bool | None = None) -> Tensor:
    """A tensor over the memory of any object with `__dlpack__`, on the CPU or on a GPU.

    On a GPU the work of the current stream comes after what the other library has begun there.
    `copy=True` copies always, `copy=False` never; by default only for another `device`. TypeError
    for an object without `__dlpack__`, BufferError for memory of other devices than CPU and CUDA,
    ValueError where a copy would be needed and is not allowed.
    """
    if not hasattr(source, "__dlpack_device__"):
        raise TypeError(
            "from_dlpack: expected an object with __dlpack__ and __dlpack_device__, "
            f"got {type(source).__name__}"
        )
    kind, number = map(int, source.__dlpack_device__())
    if kind in (1, 3):  # of the host, the latter pinned
        array = numpy.from_dlpack(source)
    elif kind in (2, 13):  # of CUDA, the latter managed
        place = Device("cuda", number)
        with on_device(place):
            array = module_of(place).from_dlpack(source)
    else:
        raise BufferError(
            "from_dlpack: expected memory of the CPU (DLPack's device type 1 or 3) or of a CUDA "
            f"device (2 or 13), got device type {kind}"
        )
    dtype_of(array.dtype)
    moved = array if device is None else to_device(array, Device(device))
    if copy is False and moved is not array:
        raise ValueError(
            f"from_dlpack: cannot move from {device_of(array)} to {device} without a copy; "
            "leave copy=False out"
        )
    if copy and moved is array:
        with on_device_of(array):
            moved = array.copy()
    return Tensor._wrap(moved)


@maker
def zeros(
    *shape: Any, size: Any = None, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Zeros."""
    return filled(shape, size, 0, dtype, device, requires_grad)


@maker
def ones(
    *shape: Any, size: Any = None, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Ones."""
    return filled(shape, size, 1, dtype, device, requires_grad)


@maker
def empty(
    *shape: Any, size: Any = None, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """A tensor to be written to; its elements start as zeros."""
    return filled(shape, size, 0, dtype, device, requires_grad)


@maker
def full(
    size: Any, fill_value: Any, *, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """One value everywhere; its type decides the dtype unless one is given."""
    if dtype is None and type(fill_value) in (bool, int):
        dtype = bool_ if isinstance(fill_value, bool) else int64
    return filled((size,), None, fill_value, dtype, device, requires_grad)


def like(x: Tensor, value: Any, dtype: DType | None, device: Place, requires_grad: bool) -> Tensor:
    """A constant in the shape of x, its order of memory and, unless told otherwise, its dtype and
    device."""
    options = (None, value, dtype or x.dtype, device or x.device, requires_grad)
    if x._array.flags.c_contiguous:
        return filled((x.shape,), *options)
    axes = order_of_memory.axes_by_stride(x.shape, x._array.strides)
    y = filled(([x.shape[axis] for axis in axes],), *options)
    y._array = y._array.transpose(sorted(range(x.ndim), key=axes.__getitem__))
    return y


@maker
def zeros_like(
    x: Tensor, *, dtype: DType | None = None, device: Place = None, requires_grad: bool = False
) -> Tensor:
    """Zeros in the shape, dtype and place of x."""
    return like(x, 0, dtype, device, requires_grad)


@maker
def ones_like(
    x: Tensor, *, dtype: DType | None = None, device: Place = None, requires_grad: bool = False
) -> Tensor:
    """Ones in the shape, dtype and place of x."""
    return like(x, 1, dtype, device, requires_grad)


@maker
def empty_like(
    x: Tensor, *, dtype: DType | None = None, device: Place = None, requires_grad: bool = False
) -> Tensor:
    """A tensor to be written to, in the shape, dtype and place of x."""
    return like(x, 0, dtype, device, requires_grad)


@maker
def full_like(
    x: Tensor, fill_value: Any, *, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """One value everywhere, in the shape, dtype and place of x."""
    return like(x, fill_value, dtype, device, requires_grad)


@maker
def eye(
    n: int, m: int | None = None, *, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """The identity matrix (n, m), m = n by default."""
    array = numpy.eye(n, m, dtype=(dtype or get_default_dtype()).numpy)
    return placed(array, device, requires_grad)


def placed(array: Array, place: Place, requires_grad: bool) -> Tensor:
    """An array as a leaf on the given device, or on the default one."""
    target = get_default_device() if place is None else Device(place)
    return finished(array if target is CPU else to_device(array, target), requires_grad)


@maker
def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """The numbers start, start + step, … before end; int64 unless one of them is a float."""
    first, last = (0, start) if end is None else (start, end)
    numbers = [v.item() if hasattr(v, "item") else v for v in (first, last, step)]
    if numbers[2] == 0:
        raise RuntimeError("arange: step must be nonzero")
    if (numbers[1] - numbers[0]) * numbers[2] < 0:
        raise RuntimeError(
            f"arange: upper bound and lower bound inconsistent with step sign: {numbers[0]} to "
            f"{numbers[1]} by {numbers[2]}"
        )
    if dtype is None:
        dtype = get_default_dtype() if any(isinstance(v, float) for v in numbers) else int64
    if dtype.is_floating_point:
        count = max(0, int(numpy.ceil((numbers[1] - numbers[0]) / numbers[2])))
        array = as_dtype(numbers[0] + numpy.arange(count) * numbers[2], dtype.numpy)
    else:
        for number in numbers[:2]:
            fitting(number, int64.numpy)
        array = numpy.arange(*numbers).astype(dtype.numpy)
    return placed(array, device, requires_grad)


@maker
def linspace(
    start: Any, end: Any, steps: int, *, dtype: DType | None = None, device: Place = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """`steps` numbers evenly spaced from start to end, both included."""
    kind = (dtype or get_default_dtype()).numpy
    with numpy.errstate(all="ignore"):
        array = as_dtype(numpy.linspace(float(start), float(end), steps), kind)
    return placed(array, device, requires_grad)


@maker
def logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: DType | None = None,
    device: Place = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """`steps` powers of the base, their exponents evenly spaced from start to end."""
    kind = (dtype or get_default_dtype()).numpy
    array = as_dtype(numpy.logspace(float(start), float(end), steps, base=base), kind)
    return placed(array, device, requires_grad)


def tril_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """The indices (2, n) of the elements of a (row, col) matrix on and below a diagonal."""
    return placed(numpy.stack(numpy.tril_indices(row, offset, col)), None, False)


def triu_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """The indices (2, n) of the elements of a (row, col) matrix on and above a diagonal."""
    return placed(numpy.stack(numpy.triu_indices(row, offset, col)), None, False)
