"""Taking tensors apart and together in further ways, and views by strides."""

from __future__ import annotations

import builtins
import itertools
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, Array, array_module
from nanotorch.backend.memory import Place, memory_of, place_in, shown
from nanotorch.ops.casting import Fill, contiguous_copy
from nanotorch.ops.indexing import Index, IndexAdd, flip, index_select
from nanotorch.ops.joining import cat, meshgrid, stack
from nanotorch.ops.keys import HERE
from nanotorch.ops.shapes import (
    BasicIndex,
    Shape,
    alias,
    chunk,
    diag_embed,
    dimension,
    narrow,
    reshape,
    sizes,
    split,
    transpose,
)
from nanotorch.ops.sums import sum
from nanotorch.primitive import Primitive, Traced, apply

unsafe_chunk, unsafe_split = chunk, split


def pieces(x: Any, ends: Sequence[int], place: int) -> tuple[Any, ...]:
    """x cut along a dimension before each of the indices."""
    front, edges = (slice(None),) * place, [0, *ends, None]
    return tuple(
        apply(BasicIndex, x, key=(*front, slice(start, end)))
        for start, end in itertools.pairwise(edges)
    )


def tensor_split(x: Any, indices_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """x cut along `dim` before each index of a sequence or a tensor, or into so many parts, of
    which the first are larger by one where it does not divide."""
    if x.ndim == 0:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got 0 dims")
    place, cuts = dimension(dim, x.ndim), indices_or_sections
    if hasattr(cuts, "tolist"):
        cuts = cuts.tolist()
    if not isinstance(cuts, int):
        return pieces(x, [int(i) for i in cuts], place)
    if cuts <= 0:
        raise RuntimeError(f"number of sections must be larger than 0, got {cuts}")
    least, larger = divmod(x.shape[place], cuts)
    return pieces(x, [i * least + min(i, larger) for i in range(1, cuts)], place)


def split_evenly(x: Any, cuts: Any, dim: int, least: int, op: str) -> tuple[Any, ...]:
    """tensor_split along `dim` of a tensor of at least so many dimensions; a number divides."""
    if x.ndim < least:
        raise RuntimeError(
            f"torch.{op} requires a tensor with at least {least} dimension, but got a tensor with "
            f"{x.ndim} dimensions!"
        )
    if isinstance(cuts, int) and (cuts <= 0 or x.shape[dim] % cuts):
        raise RuntimeError(
            f"torch.{op} attempted to split along dimension {dim}, but the size of the dimension "
            f"{x.shape[dim]} is not divisible by the split_size {cuts}!"
        )
    return tensor_split(x, cuts, dim)


def hsplit(x: Any, indices_or_sections: Any) -> tuple[Any, ...]:
    """x cut into columns: along the second dimension, or the only one."""
    return split_evenly(x, indices_or_sections, 0 if x.ndim == 1 else 1, 1, "hsplit")


def vsplit(x: Any, indices_or_sections: Any) -> tuple[Any, ...]:
    """x cut into rows: along the first dimension."""
    return split_evenly(x, indices_or_sections, 0, 2, "vsplit")


def dsplit(x: Any, indices_or_sections: Any) -> tuple[Any, ...]:
    """x cut along the third dimension."""
    return split_evenly(x, indices_or_sections, 2, 3, "dsplit")


def split_with_sizes(x: Any, split_sizes: Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """x cut along `dim` into pieces of the given sizes."""
    return split(x, list(split_sizes), dim)


def of_each(function: Any, tensors: tuple[Any, ...]) -> Any:
    """function(x) of one tensor, a tuple of several or of those in a sequence."""
    if len(tensors) == 1 and not isinstance(tensors[0], list | tuple):
        return function(tensors[0])
    several = tensors[0] if len(tensors) == 1 else tensors
    return tuple(function(x) for x in several)


def atleast_1d(*tensors: Any) -> Any:
    """The tensor, or tensors, a number as a vector of one element."""
    return of_each(lambda x: x if x.ndim else reshape(x, (1,)), tensors)


def atleast_2d(*tensors: Any) -> Any:
    """The tensor, or tensors, a vector as a row, a number as a matrix of one element."""
    return of_each(lambda x: x if x.ndim > 1 else reshape(x, (1, -1)), tensors)


def atleast_3d(*tensors: Any) -> Any:
    """The tensor, or tensors, a matrix with a last dimension of size 1, a vector between two."""
    shapes = ((1, 1, 1), (1, -1, 1))

    def one(x: Any) -> Any:
        if x.ndim > 2:
            return x
        return reshape(x, (*x.shape, 1) if x.ndim == 2 else shapes[x.ndim])

    return of_each(one, tensors)


def dstack(tensors: Sequence[Any]) -> Any:
    """The tensors one behind the other, along the third dimension."""
    return cat([atleast_3d(t) for t in tensors], 2)


def rot90(x: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """x turned by k quarters in the plane of two dimensions, from the first to the second."""
    if len(dims) != 2 or x.ndim < 2:
        raise RuntimeError(
            "expected total rotation dims == 2 and total dims >= 2, but got "
            f"{len(dims)} and {x.ndim}"
        )
    first, second = (dimension(d, x.ndim) for d in dims)
    if first == second:
        raise RuntimeError("expected rotation dims to be different")
    if k % 4 == 1:
        return transpose(flip(x, second), first, second)
    if k % 4 == 2:
        return flip(x, first, second)
    return flip(transpose(x, first, second), second) if k % 4 == 3 else contiguous_copy(x)


def narrow_copy(x: Any, dim: int, start: int, length: int) -> Any:
    """A copy of the part of x from `start` on, `length` long, along `dim`."""
    return contiguous_copy(narrow(x, dim, start, length))


def sum_to_size(x: Any, *size: Any) -> Any:
    """x summed over what broadcasting to its shape from `size` repeats."""
    shape = sizes(size)
    tail = tuple(x.shape)[x.ndim - len(shape) :]
    if len(shape) > x.ndim or any(n not in (1, m) for n, m in zip(shape, tail, strict=True)):
        raise RuntimeError(f"size {list(shape)} is not expandable to size {list(x.shape)}.")
    if shape == tuple(x.shape):
        return x
    front = x.ndim - len(shape)
    repeated = [d for d, n in enumerate(tail, front) if shape[d - front] != n]
    return reshape(sum(x, (*range(front), *repeated)), shape)


def diagflat(x: Any, offset: int = 0) -> Any:
    """Zeros with the elements of x on the given diagonal."""
    return diag_embed(reshape(x, (-1,)), offset)


def combinations(x: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """The combinations of r elements of a vector, a row for each, in the order of itertools."""
    if x.ndim != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(x.shape)}")
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    choose: Any = itertools.combinations_with_replacement if with_replacement else (
        itertools.combinations
    )  # fmt: skip
    chosen = list(choose(range(x.shape[0]), r))
    if not r:
        return narrow(x, 0, 0, 0)
    xp = array_module(x._array)
    columns = xp.asarray(chosen, xp.int64).reshape(-1, r)
    return stack([index_select(x, 0, x._wrap(columns[:, i])) for i in range(r)], 1)


def cartesian_prod(*tensors: Any) -> Any:
    """The combinations of one element of each vector, a row for each; of one vector itself."""
    vectors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    for v in vectors:
        if v.ndim != 1:
            raise RuntimeError(f"Expect a 1D vector, but got shape {list(v.shape)}")
    if len(vectors) == 1:
        return alias(vectors[0])
    return stack([reshape(grid, (-1,)) for grid in meshgrid(*vectors, indexing="ij")], 1)


def fill(x: Any, value: Any) -> Any:
    """A number, or a 0-dim tensor, everywhere, in the shape and dtype of x."""
    return apply(Fill, x, value)


# --- views by strides -----------------------------------------------------------------------------


class Strided(Primitive):
    """y = the elements of x's memory at offset + the sum of index times stride: a view

    `source`: the offset and the strides of x itself, in elements, by which the derivatives find
    its elements again.
    """

    view = True
    backward_name = "AsStridedBackward0"
    vjp = (
        lambda g, x_shape, shape, stride, offset, source: moved(
            g, shape, stride, offset, x_shape, source[1], source[0]
        ),
    )
    jvp = (
        lambda t, x_shape, shape, stride, offset, source: moved(
            t, x_shape, source[1], source[0], shape, stride, offset
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, shape: Shape, stride: Shape, offset: int, source: Any
    ) -> Array:
        if xp is not HOST:
            raise RuntimeError(
                "as_strided: expected a tensor on the CPU, got one on a GPU; use slices, or gather"
            )
        memory, size = memory_of(x), x.itemsize
        last = offset + builtins.sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        start, strides = source
        here = place_in(memory, x)
        lies = all(n < 2 or s == t * size for n, s, t in zip(x.shape, here.strides, strides))
        if here.offset != start * size or not lies:  # a gradient, say: its elements by their index
            places = positions(xp, x.shape, strides, start)
            memory = xp.zeros(1 + max(last, int(places.max()) if places.size else 0), x.dtype)
            memory[places] = x
        if 0 not in shape and last >= memory.size:
            raise ValueError(
                f"sizes {list(shape)}, strides {list(stride)} and offset {offset} need {last + 1} "
                f"elements, but there are {memory.size}"
            )
        steps = tuple(s * size for s in stride)
        return shown(memory, Place(offset * size, shape, steps, x.dtype))


def positions(xp: Any, shape: Shape, stride: Shape, offset: int) -> Array:
    """Where in memory each element lies."""
    places = xp.full(shape, offset, xp.int64)
    for d, (n, step) in enumerate(zip(shape, stride, strict=True)):
        line = xp.arange(n) * step
        places = places + line.reshape([-1 if i == d else 1 for i in range(len(shape))])
    return places


def moved(
    x: Any, shape: Shape, stride: Shape, offset: int, to: Shape, strides: Shape, start: int
) -> Any:
    """x, whose elements lie in memory by shape, stride and offset, as another shape sees them: the
    sum of those at each place, 0 where there is none."""
    xp = array_module(getattr(x, "_array", x))
    here = positions(xp, tuple(shape), stride, offset)
    there = positions(xp, tuple(to), strides, start)
    size = 1 + max([int(p.max()) for p in (here, there) if p.size], default=0)
    wrap = x._wrap if isinstance(x, Traced) else (lambda array: array)
    flat = apply(IndexAdd, x, wrap(here), key=(HERE,), shape=(size,))
    return apply(Index, flat, wrap(there), key=(HERE,))


def as_strided(x: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Any:
    """A view of x's memory: the element at an index lies at storage_offset + Σ index · stride,
    counted in elements; by default the offset is that of x."""
    array, shape, steps = x._array, sizes((size,)), sizes((stride,))
    if len(shape) != len(steps):
        raise RuntimeError("mismatch in length of strides and shape")
    if any(s < 0 for s in steps):
        raise RuntimeError(
            "as_strided: Negative strides are not supported at the moment, got strides: "
            f"{list(steps)}"
        )
    size_of, own = array.itemsize, tuple(s // array.itemsize for s in array.strides)
    start = 0
    if isinstance(array, HOST.ndarray):
        start = place_in(memory_of(array), array).offset // size_of
    offset = start if storage_offset is None else storage_offset
    return apply(Strided, x, shape=shape, stride=steps, offset=offset, source=(start, own))
