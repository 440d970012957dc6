"""Changes of representation: copies, casts and moves between devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    as_dtype,
    copy_of,
    cuda_module,
    device,
    device_of,
    dtype as DType,
    dtypes,
    fitting,
    order_of,
    to_device,
)
from nanotorch.backend.errors import check_shape
from nanotorch.backend.halves import HALVES, by_bits
from nanotorch.backend.order_of_memory import copy_into, usual_copy
from nanotorch.primitive import Linear, Primitive, Traced, apply

Function = TypeVar("Function", bound=Callable[..., Any])


class Clone(Linear):
    """y = x, in memory of its own, whose order is that of x's"""

    rearranges = True
    vjp = (lambda g: g,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return x.copy(order_of(x)) if out is None else into(xp, x, out)


class Contiguous(Clone):
    """y = x, in contiguous memory of its own"""

    backward_name = "CloneBackward0"

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return usual_copy(xp, x) if out is None else into(xp, x, out)


class ToCopy(Linear):
    """y = x in another dtype; the engine casts the cotangent back"""

    rearranges = True
    vjp = (lambda g: g,)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dtype: Any, out: Array | None = None) -> Array:
        if out is None:
            return as_dtype(x, dtype)
        xp.copyto(out, x, casting="unsafe")
        return out


class ToDevice(Linear):
    """y = x on another device"""

    backward_name = "ToCopyBackward0"
    rearranges = True
    vjp = (lambda g, source: move(g, source),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, place: device, source: device, non_blocking: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        y = to_device(x, place, non_blocking)
        if out is None:
            return y
        array_module(out).copyto(out, y)
        return out


class Copy(Linear):
    """y = source, in the shape and dtype of x: what x.copy_(source) leaves in x"""

    backward_name = "CopyBackwards"
    in_place = True
    rearranges = True
    moves = "all"
    vjp = (lambda g: zeros_like(g), lambda g: g)

    @staticmethod
    def kernel(xp: Any, x: Array, source: Any, out: Array | None = None) -> Array:
        if out is None:
            out = xp.empty_like(x)
        if getattr(source, "ndim", 0) > x.ndim:  # which NumPy accepts if the sizes more are 1
            raise ValueError(
                f"output with shape {list(x.shape)} doesn't match the broadcast shape "
                f"{list(source.shape)}"
            )
        quick = by_bits(source, out.dtype)
        copy_into(xp, out, source if quick is None else quick)
        return out


class Fill(Linear):
    """y = value everywhere, in the shape and dtype of x"""

    in_place = True
    rearranges = True
    moves = "numbers"
    vjp = (lambda g: zeros_like(g), lambda g: g)

    @staticmethod
    def kernel(xp: Any, x: Array, value: Any, out: Array | None = None) -> Array:
        if getattr(value, "ndim", 0):
            raise ValueError(
                "fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value.ndim} dimensions."
            )
        if out is None:
            out = xp.empty_like(x)
        xp.copyto(out, fitting(value, out.dtype), casting="unsafe")
        return out


class Zero(Linear):
    """y = 0 everywhere, in the shape and dtype of x"""

    in_place = True
    rearranges = True
    vjp = (lambda g: zeros_like(g),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return Fill.kernel(xp, x, 0, out=out)


def into(xp: Any, y: Array, out: Array | None) -> Array:
    """y itself, or `out` with y's elements: for kernels whose functions cannot write in place."""
    if out is None or out is y:
        return y
    check_shape(y, out)
    xp.copyto(out, y)
    return out


def clone(x: Any, *, memory_format: Any = None) -> Any:
    """A copy of x in memory of its own, in the same order, the one format; the gradient flows
    through."""
    return apply(Clone, x)


def contiguous_copy(x: Any) -> Any:
    """A copy of x in contiguous memory of its own; the gradient flows through."""
    return apply(Contiguous, x)


def first_gradient(leaf: Any, g: Any, owned: bool) -> Any:
    """What a cotangent, a tensor or an array, becomes as the gradient of a leaf that has none yet:
    a copy, or itself where it is `owned`; contiguous where the leaf is."""
    array = getattr(g, "_array", g)
    turned = bool(array.strides) and not array.flags.c_contiguous and leaf._array.flags.c_contiguous
    if isinstance(g, Traced):
        return contiguous_copy(g) if turned else clone(g)
    return g if owned and g.ndim and not turned else copy_of(g, "C" if turned else "")


def cast(x: Any, dtype: Any) -> Any:
    """x in the given NumPy dtype; x itself if it has it."""
    return x if getattr(x, "_array", x).dtype == dtype else apply(ToCopy, x, dtype=dtype)


def rounded_once(function: Function) -> Function:
    """A function of several steps that computes float16 and bfloat16 in float32, rounded once.

    Within autocast its steps have the precision that they have there.
    """

    @functools.wraps(function)
    def call(x: Any, *args: Any, **options: Any) -> Any:
        kind = getattr(x, "_array", x).dtype
        if kind.char not in HALVES or (hasattr(x, "_mixes") and x._mixes()):
            return function(x, *args, **options)
        wide = {name: widened(value, kind) for name, value in options.items()}
        return cast(function(*(widened(value, kind) for value in (x, *args)), **wide), kind)

    return call  # type: ignore[return-value]


def widened(x: Any, kind: Any) -> Any:
    """x in float32 if it is of that dtype."""
    array = getattr(x, "_array", x)
    return cast(x, dtypes.float32.numpy) if getattr(array, "dtype", None) == kind else x


def casting_to(kind: DType) -> Callable[..., Any]:
    """The method that gives a tensor in another dtype; itself where it has that already."""

    def method(x: Any, memory_format: Any = None) -> Any:
        return cast(x, kind.numpy)

    method.__doc__ = f"Itself as {kind.name}."
    return method


# The methods that are named after dtypes.
CASTS = {
    name: casting_to(getattr(dtypes, kind))
    for name, kind in {
        "half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64",
        "byte": "uint8", "char": "int8", "short": "int16", "int": "int32", "long": "int64",
        "bool": "bool_", "cfloat": "complex64", "cdouble": "complex128",
    }.items()
}  # fmt: skip


def new(x: Any, *data: Any) -> Any:
    """A tensor of the dtype and device of x: new(2, 3) has that shape, new([1, 2]) those elements.

    The older spelling of `new_empty` and `new_tensor`.
    """
    if len(data) == 1 and not isinstance(data[0], int) and type(data[0]) is not type(x.shape):
        return x.new_tensor(data[0])
    return x.new_empty(*data or (0,))


def get_device(x: Any) -> int:
    """The number of the GPU of x; -1 on the CPU."""
    return -1 if x.device.index is None else int(x.device.index)


def move(x: Any, place: device, non_blocking: bool = False) -> Any:
    """x on the given device; x itself if it is there. `non_blocking`: see `to_device`."""
    source = device_of(getattr(x, "_array", x))
    if place.type == "cuda" and place.index is None:
        place = device("cuda", cuda_module().cuda.get_device_id())
    if source.type == place.type and (place.type == "cpu" or source.index == place.index):
        return x
    return apply(ToDevice, x, place=place, source=source, non_blocking=non_blocking)


class FullLike(Primitive):
    """y = value everywhere, in the shape, dtype and place of x"""

    constant = True
    rearranges = True

    @staticmethod
    def kernel(xp: Any, x: Array, *, value: float, out: Array | None = None) -> Array:
        if out is None:
            return xp.full(x.shape, value, x.dtype)
        out.fill(value)
        if xp is not HOST and str(value) == "-0.0":  # for which CuPy sets all bytes to 0
            xp.negative(out, out=out)
        return out


def zeros_like(x: Any) -> Any:
    """Zeros in the shape, dtype and place of x; a constant, whatever x is."""
    return full_of(x, 0)


def ones_like(x: Any) -> Any:
    """Ones in the shape, dtype and place of x; a constant, whatever x is."""
    return full_of(x, 1)


def full_of(x: Any, value: float) -> Any:
    """A constant in the shape, dtype and place of x."""
    return apply(FullLike, x, value=value)
