"""PyTorch's older spellings: `FloatTensor` and its kin, `Variable`, `range`, `is_tensor` ….

Source: https://docs.pytorch.org/docs/stable/tensors.html
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from nanotorch import ops
from nanotorch.backend import (
    device as Device,
    dtype as DType,
    dtypes,
    get_default_dtype,
    layout as layout,
    set_default_device,
    set_default_dtype,
    sparse_coo as sparse_coo,
    strided as strided,
)
from nanotorch.creation import Place, arange, as_tensor, empty, tensor
from nanotorch.tensor import Size, Tensor

inf, nan, pi, e, newaxis = math.inf, math.nan, math.pi, math.e, None


class tensortype(type):  # noqa: N801 - PyTorch's name
    """The type of `FloatTensor` and its kin: calling one makes a tensor of its dtype and device.

    FloatTensor(2, 3) has that shape, FloatTensor([1, 2]) those elements; `isinstance(x,
    FloatTensor)` asks for x's dtype and device, `x.type(FloatTensor)` gives x in them.
    """

    dtype: DType
    place: str

    def __call__(cls, *data: Any, device: Place = None) -> Any:
        place = Device(cls.place if device is None else device)
        if len(data) != 1 or isinstance(data[0], int | Size):
            return empty(*data or (0,), dtype=cls.dtype, device=place)
        if isinstance(data[0], Tensor):
            if not cls.__instancecheck__(data[0]):
                raise TypeError(
                    f"{cls.__name__}: expected a tensor of type {cls.__module__}.{cls.__name__}, "
                    f"got {data[0].type()}; use x.type({cls.__name__})"
                )
            return ops.alias(data[0])
        if not hasattr(data[0], "__len__"):
            kind = type(data[0]).__name__
            raise TypeError(f"{cls.__name__}: expected sizes or a sequence of elements, got {kind}")
        return tensor(data[0], device=place).to(cls.dtype)

    def __instancecheck__(cls, instance: Any) -> bool:
        kinds = (cls.dtype, cls.place)
        return isinstance(instance, Tensor) and (instance.dtype, instance.device.type) == kinds


def tensor_type(kind: DType, place: str = "cpu") -> tensortype:
    """The type of the tensors of a dtype on the CPU or on GPUs."""
    module = "torch.cuda" if place == "cuda" else "torch"
    members = {"dtype": kind, "place": place, "__module__": module}
    return tensortype(f"{kind.title}Tensor", (), members)


HalfTensor, BFloat16Tensor = tensor_type(dtypes.float16), tensor_type(dtypes.bfloat16)
FloatTensor, DoubleTensor = tensor_type(dtypes.float32), tensor_type(dtypes.float64)
ByteTensor, CharTensor = tensor_type(dtypes.uint8), tensor_type(dtypes.int8)
ShortTensor, IntTensor = tensor_type(dtypes.int16), tensor_type(dtypes.int32)
LongTensor, BoolTensor = tensor_type(dtypes.int64), tensor_type(dtypes.bool_)

# Those of `nanotorch.cuda`.
CudaHalfTensor = tensor_type(dtypes.float16, "cuda")
CudaFloatTensor = tensor_type(dtypes.float32, "cuda")
CudaDoubleTensor = tensor_type(dtypes.float64, "cuda")
CudaByteTensor, CudaIntTensor = tensor_type(dtypes.uint8, "cuda"), tensor_type(dtypes.int32, "cuda")
CudaLongTensor, CudaBoolTensor = (
    tensor_type(dtypes.int64, "cuda"),
    tensor_type(dtypes.bool_, "cuda"),
)


def set_default_tensor_type(kind: tensortype | str) -> None:
    """Makes the dtype of a floating type, DoubleTensor or "torch.DoubleTensor", the default.

    Deprecated, as in PyTorch: use `set_default_dtype` and `set_default_device`.
    """
    warnings.warn(
        "set_default_tensor_type is deprecated; use set_default_dtype and set_default_device",
        stacklevel=2,
    )
    types = {str(t).split("'")[1]: t for t in globals().values() if isinstance(t, tensortype)}
    found = types.get(kind) if isinstance(kind, str) else kind
    if not isinstance(found, tensortype) or not found.dtype.is_floating_point:
        raise TypeError(
            "set_default_tensor_type: expected a floating type such as torch.DoubleTensor, got "
            f"{kind!r}"
        )
    set_default_dtype(found.dtype)
    set_default_device(found.place)


class _VariableType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)


class Variable(metaclass=_VariableType):
    """`Variable(x)` is a leaf over the memory of x; tensors record without it."""

    def __new__(  # type: ignore[misc]
        cls, data: Tensor | None = None, requires_grad: bool = False, volatile: bool | None = None
    ) -> Tensor:
        if volatile is not None:
            warnings.warn(
                "volatile was removed and now has no effect. Use `with torch.no_grad():` instead.",
                stacklevel=2,
            )
        if data is None:
            return empty(0)
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        return data.detach().requires_grad_(requires_grad)


def range(
    start: float, end: float | None = None, step: float = 1, *, dtype: DType | None = None,
    device: Place = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """The numbers start, start + step, … up to end, which is included; of the default dtype.

    Deprecated, as in PyTorch: use `arange`, which leaves `end` out as Python's range does.
    """
    warnings.warn(
        "range is deprecated, since its end is included; use arange, which leaves it out as "
        "Python's range does",
        stacklevel=2,
    )
    first, last = (0.0, start) if end is None else (start, end)
    if step == 0 or (last - first) / step < 0:
        raise RuntimeError(
            f"range: upper bound and lower bound inconsistent with step sign: {first} to {last} by "
            f"{step}"
        )
    steps = arange(math.floor((last - first) / step) + 1, dtype=dtypes.float64, device=device)
    numbers = (steps * step + first).to(dtype or get_default_dtype())
    return numbers.requires_grad_() if requires_grad else numbers


def is_tensor(x: Any) -> bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


def numel(x: Tensor) -> int:
    """The number of elements."""
    return x.numel()


def is_floating_point(x: Tensor) -> bool:
    """Whether the dtype is float16, bfloat16, float32 or float64."""
    return x.is_floating_point()


def is_complex(x: Tensor) -> bool:
    """Whether the dtype is complex."""
    return x.is_complex()


def is_nonzero(x: Tensor) -> bool:
    """Whether the one element of x is not 0."""
    return bool(x)


def detach(x: Tensor) -> Tensor:
    """x outside the graph, over the same memory."""
    return x.detach()


def asarray(
    data: Any, *, dtype: DType | None = None, device: Place = None, copy: bool | None = None
) -> Tensor:
    """A tensor of the data, over the same memory where that is possible, unless `copy`."""
    x = as_tensor(data, dtype, device)
    return x.clone() if copy else x


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that tensors of these shapes broadcast to."""
    places = (empty(()).expand(shape) for shape in shapes)
    result: Size = ops.broadcast_tensors(*places)[0].shape
    return result


def can_cast(from_: DType, to: DType) -> bool:
    """Whether `to` is of a kind that holds `from_`: bool, integers, floats, complex numbers."""
    return from_.category <= to.category


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Changes nothing: there are deterministic algorithms alone."""


def are_deterministic_algorithms_enabled() -> bool:
    """True: there are no others."""
    return True


class _Format:
    """A name of PyTorch's for the order of elements in memory: always that of their indices."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"


contiguous_format, preserve_format = _Format("contiguous_format"), _Format("preserve_format")
