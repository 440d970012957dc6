"""The order of axes in memory that PyTorch gives to results: that of an array which they are like,
or the usual one, last axis first, where NumPy would keep that of an operand.

`view` depends on it, and which element gets which random number.
Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html#torch.memory_format
"""

from __future__ import annotations

from typing import Any

import numpy

Shape = tuple[int, ...]


def axes_by_stride(shape: Shape, *strides: Shape) -> list[int]:
    """The axes from the longest stride to the shortest, of the first operand that tells two apart;
    axes between which a stride of 0 leaves it open stay where they are."""
    axes = list(range(len(shape)))[::-1]  # from the shortest on
    for last in range(1, len(axes)):
        place = last
        for other in range(last - 1, -1, -1):
            a, b = axes[other], axes[place]
            order = compared(a, b, shape, strides)
            if order < 0:
                break
            if order:
                axes[other], axes[place] = b, a
                place = other
    return axes[::-1]


def compared(a: int, b: int, shape: Shape, strides: tuple[Shape, ...]) -> int:
    """-1 where axis a lies inside of b in memory, 1 where b inside of a, 0 where nothing says."""
    for each in strides:
        one, two = abs(each[a]), abs(each[b])
        if one and two and one != two:
            return -1 if one < two else 1
        if one and two and shape[a] > shape[b]:
            return 1
    return 0


def empty_in_order(xp: Any, shape: Shape, kind: Any, axes: list[int]) -> Any:
    """A dense array of the module, with these axes from the longest stride to the shortest."""
    places = sorted(range(len(shape)), key=axes.__getitem__)
    return xp.empty([shape[axis] for axis in axes], kind).transpose(places)


def empty_like(xp: Any, array: Any, kind: Any) -> Any:
    """A dense array of the module in the shape of `array` and its order of axes."""
    if array.flags.c_contiguous:
        return xp.empty(array.shape, kind)
    return empty_in_order(xp, array.shape, kind, axes_by_stride(array.shape, array.strides))


# For kernels, whose `out` decides the order; reductions on a GPU see to it themselves.


def out_like(xp: Any, x: Any, out: Any, kind: Any = None) -> Any:
    """`out`; without one, where x lies in another order, memory in the usual one and its shape."""
    if out is not None or x.flags.c_contiguous or xp is not numpy:
        return out
    return xp.empty(x.shape, kind or x.dtype)


def out_of_reduction(xp: Any, x: Any, dim: Any, keepdim: bool, out: Any, kind: Any = None) -> Any:
    """The same for a reduction of x over `dim`."""
    if out is not None or x.flags.c_contiguous or dim is None or xp is not numpy:
        return out
    gone = {d % x.ndim for d in (dim if type(dim) is tuple else (dim,))}
    shape = [1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone]
    return xp.empty(shape, kind or x.dtype) if len(shape) > 1 else None


def usual(xp: Any, y: Any) -> Any:
    """y in the usual order, as a copy where it lies in another."""
    return y if y.flags.c_contiguous else xp.ascontiguousarray(y)


def channels_are_last(images: Any) -> bool:
    """Whether images (samples, channels, height, width) lie in memory pixel by pixel, which
    PyTorch's layers and `cat` keep so."""
    if images.ndim != 4 or images.flags.c_contiguous:
        return False
    return bool(images.transpose(0, 2, 3, 1).flags.c_contiguous)
