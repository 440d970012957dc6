"""The order of axes in memory that PyTorch gives to results: that of an array which they are like,
or the usual one, last axis first, where NumPy would keep that of an operand.

`view` depends on it, and which element gets which random number.
Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html#torch.memory_format
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

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


class Reduction(NamedTuple):
    """How a kernel reduces an array that is dense in memory over some of its dimensions."""

    axes: list[int]  # of the array, from the longest stride on
    steps: list[tuple[int, int, int]]  # (outer, rows, n) of each, which reduces neighbouring axes
    inner: int  # neighbours after the first step that are of one result; 0: it is not so simple
    few: list[int]  # the sizes of what remains, along these axes
    back: list[int]  # its axes in their usual order; none where they lie so
    shapes: tuple[Shape, Shape]  # of what remains, without the dimensions and with them


@functools.lru_cache(maxsize=4096)
def reduction(shape: Shape, strides: Shape, dim: Any) -> Reduction | None:
    """The steps over `dim`; None where rows are too many and too short for one block each."""
    ndim, axes = len(shape), axes_by_stride(shape, strides)
    dims = tuple(range(ndim)) if dim is None else dim if type(dim) is tuple else (dim,)
    gone = {d % ndim for d in dims if -ndim <= d < ndim}
    if len(gone) < len(dims):
        return None  # others say what is wrong with them
    groups = itertools.groupby((a for a in axes if shape[a] > 1), gone.__contains__)
    runs = [(math.prod(shape[a] for a in run), reduced) for reduced, run in groups]
    kept = [1 if d in gone else n for d, n in enumerate(shape)]
    for order in (-1, 1):  # the last axes first; or the first ones, where the last are short
        left, steps = [n for n, _ in runs], []
        for i in range(len(runs))[::order]:
            if runs[i][1]:
                steps.append((math.prod(left[:i]), left[i], math.prod(left[i + 1 :])))
                left[i] = 1
        steps = steps or [(1, 1, math.prod(shape))]
        if all(outer <= 4096 or rows * n >= 512 for outer, rows, n in steps):
            around = len(steps) == 2 and runs[0][1] and (order < 0 or len(runs) == 3)
            inner = 1 if len(steps) == 1 else around * (1 if order < 0 else runs[-1][0])
            lie = [a for a in axes if kept[a] > 1]
            back = [] if lie == sorted(lie) else sorted(range(ndim), key=axes.__getitem__)
            rest = tuple(n for d, n in enumerate(shape) if d not in gone)
            return Reduction(axes, steps, inner, [kept[a] for a in axes], back, (rest, tuple(kept)))
    return None


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


def is_narrow(x: Any, dim: Any) -> bool:
    """Whether x is a matrix of many short rows: NumPy reduces them several times faster as columns
    of the transposed matrix."""
    shape = x.shape
    return len(shape) == 2 and shape[1] <= 16 and shape[0] >= 64 and dim in (1, -1)


def usual(xp: Any, y: Any) -> Any:
    """y in the usual order, as a copy where it lies in another."""
    return y if y.flags.c_contiguous else usual_copy(xp, y)


STRIP = 16  # columns


def usual_copy(xp: Any, x: Any) -> Any:
    """A copy of x in the usual order."""
    if not is_turned(x):
        return x.copy()
    y = xp.empty(x.shape, x.dtype)
    copy_into(xp, y, x)
    return y


def copy_into(xp: Any, out: Any, x: Any) -> None:
    """Copies x: of a transposed matrix a few columns at a time, in up to a quarter of the time."""
    if is_turned(x) and x.shape == out.shape and out.flags.c_contiguous:
        for start in range(0, x.shape[1], STRIP):
            part = slice(start, start + STRIP)
            xp.copyto(out[:, part], x[:, part], casting="unsafe")
    else:
        xp.copyto(out, x, casting="unsafe")


def is_turned(x: Any) -> bool:
    """Whether x is a large transposed matrix of the host whose columns, as they are a multiple of a
    large power of two apart, push each other out of the cache when they are read side by side."""
    return (
        type(x) is numpy.ndarray
        and x.ndim == 2
        and x.size >= 1 << 14
        and (x.strides[0] == x.itemsize and x.strides[1] >= 1024 and not x.strides[1] % 1024)
    )


def channels_are_last(images: Any) -> bool:
    """Whether images (samples, channels, height, width) lie in memory pixel by pixel, which
    PyTorch's layers and `cat` keep so."""
    if images.ndim != 4 or images.flags.c_contiguous:
        return False
    return bool(images.transpose(0, 2, 3, 1).flags.c_contiguous)
