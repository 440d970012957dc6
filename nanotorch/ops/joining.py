"""Putting tensors together, and repeating them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, Array, array_module, broadcast_shapes, fitting, result_type
from nanotorch.backend.order_of_memory import channels_are_last, usual
from nanotorch.ops.casting import cast, contiguous_copy, into
from nanotorch.ops.indexing import flip, index_select
from nanotorch.ops.regions import ConstantPad
from nanotorch.ops.shapes import (
    BasicIndex,
    UnsafeView,
    dimension,
    expand,
    narrow,
    reshape,
    select,
    sizes,
    transpose,
    unsqueeze,
)
from nanotorch.primitive import Linear, Traced, apply


class Cat(Linear):
    """y = the inputs one after the other along `dim`"""

    vjp = (lambda g, index, shapes, dim: piece(g, index, shapes, dim),)

    @staticmethod
    def kernel(xp: Any, *inputs: Array, dim: int, out: Array | None = None) -> Array:
        if xp is not HOST and len(inputs) > 8:
            return joined(xp, inputs, dim, out)
        y = xp.concatenate(inputs, axis=dim, out=out)
        return y if out is not None or channels_are_last(y) else usual(xp, y)


class Stack(Linear):
    """y = the inputs, of one shape, side by side along a new dimension"""

    vjp = (lambda g, index, dim: select(g, dim, index),)

    @staticmethod
    def kernel(xp: Any, *inputs: Array, dim: int, out: Array | None = None) -> Array:
        if xp is not HOST and len(inputs) > 8:
            return joined(xp, [xp.expand_dims(x, dim) for x in inputs], dim, out)
        if out is None and dim == 0:  # the rows of a batch: in a third of the time of xp.stack
            if inputs[0].ndim:
                rows = usual(xp, xp.concatenate(inputs))
                return rows.reshape(len(inputs), *inputs[0].shape)
            if xp is HOST:
                return xp.array(inputs)
        y = xp.stack(inputs, axis=dim, out=out)
        return y if out is not None else usual(xp, y)


def joined(xp: Any, inputs: Sequence[Array], dim: int, out: Array | None) -> Array:
    """The inputs along `dim`, eight at a time: of more, CuPy copies the addresses from the host,
    which cannot be captured."""
    ends = list(itertools.accumulate((x.shape[dim] for x in inputs), initial=0))
    if out is None:
        shape = (*inputs[0].shape[:dim], ends[-1], *inputs[0].shape[dim + 1 :])
        out = xp.empty(shape, inputs[0].dtype)
    for first in range(0, len(inputs), 8):
        some = inputs[first : first + 8]
        part = slice(ends[first], ends[first + len(some)])
        xp.concatenate(some, axis=dim, out=out[(*(slice(None),) * dim, part)])
    return out


class Tril(Linear):
    """y = x on and below the k-th diagonal, else 0"""

    vjp = (lambda g, k: apply(Tril, g, k=k),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, k: int, out: Array | None = None) -> Array:
        return into(xp, usual(xp, xp.tril(x, k)), out)


class Triu(Linear):
    """y = x on and above the k-th diagonal, else 0"""

    vjp = (lambda g, k: apply(Triu, g, k=k),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, k: int, out: Array | None = None) -> Array:
        return into(xp, usual(xp, xp.triu(x, k)), out)


def piece(g: Any, index: int, shapes: Sequence[tuple[int, ...]], dim: int) -> Any:
    """The part of g that the input of that index contributed to."""
    start = sum(shape[dim] for shape in shapes[:index])
    return narrow(g, dim, start, shapes[index][dim])


def side_by_side(parts: Sequence[Any], shape: Sequence[int], keys: Sequence[Any]) -> Any:
    """The x of which the parts are x[key]; None where they are not all of x, in its order."""
    dim = len(keys[0]) - 1
    if not 0 <= dim < len(shape):
        return None
    front, size, end = (slice(None),) * dim, shape[dim], 0
    if keys == [(*front, index) for index in range(size)]:
        return apply(Stack, *parts, dim=dim)
    for key in keys:
        if len(key) != dim + 1 or key[:-1] != front or type(key[-1]) is not slice:
            return None
        start, stop, step = key[-1].indices(size)
        if start != end or stop < start or step != 1:
            return None
        end = stop
    return apply(Cat, *parts, dim=dim) if end == size else None


def one_dtype(tensors: Sequence[Any], op: str) -> tuple[list[Any], list[tuple[int, ...]]]:
    """The tensors in their common dtype, and their shapes; an error for none at all and for what
    is no tensor."""
    tensors = list(tensors)
    if not tensors:
        error = ValueError if op == "cat" else RuntimeError  # as PyTorch has it
        raise error(f"{op}: expected a non-empty list of Tensors")
    try:
        arrays = [t._array for t in tensors]
        kinds = [array.dtype for array in arrays]
    except AttributeError:  # raw arrays among them, or what is no tensor
        arrays = [getattr(t, "_array", t) for t in tensors]
        for place, array in enumerate(arrays):
            if not hasattr(array, "dtype"):
                raise TypeError(
                    f"{op}: expected Tensor as element {place}, but got {type(array).__name__}"
                ) from None
        kinds = [array.dtype for array in arrays]
    if kinds.count(kinds[0]) < len(kinds):
        kind = result_type(*tensors).numpy
        tensors = [cast(tensor, kind) for tensor in tensors]
    return tensors, [array.shape for array in arrays]


def cat(tensors: Sequence[Any], dim: int = 0, *, axis: Any = None) -> Any:
    """The tensors one after the other along `dim`; their other sizes must agree."""
    inputs, shapes = one_dtype(tensors, "cat")
    if () in shapes:
        raise RuntimeError(
            f"cat: zero-dimensional tensor (at position {shapes.index(())}) cannot be concatenated"
        )
    model = shapes[0]
    if model == (0,):
        model = next((shape for shape in shapes if shape != model), model)
    place = 0 if model == (0,) else dimension(dim if axis is None else axis, len(model))
    if len(model) > 1 and (0,) in shapes:  # which goes with every shape
        nothing = (*model[:place], 0, *model[place + 1 :])
        inputs = [reshape(t, nothing) if shape == (0,) else t for t, shape in zip(inputs, shapes)]
    return apply(Cat, *inputs, dim=place)


def stack(tensors: Sequence[Any], dim: int = 0, *, axis: Any = None) -> Any:
    """The tensors, all of one shape, along a new dimension `dim`."""
    inputs, shapes = one_dtype(tensors, "stack")
    if shapes.count(shapes[0]) < len(shapes):
        position, other = next((i, s) for i, s in enumerate(shapes) if s != shapes[0])
        raise RuntimeError(
            f"stack expects each tensor to be equal size, but got {list(shapes[0])} "
            f"at entry 0 and {list(other)} at entry {position}"
        )
    return apply(Stack, *inputs, dim=dimension(dim if axis is None else axis, len(shapes[0]) + 1))


def hstack(tensors: Sequence[Any]) -> Any:
    """The tensors side by side: along dimension 1, or 0 where they have one dimension."""
    inputs = [t if t.ndim else reshape(t, (1,)) for t in tensors]
    return cat(inputs, 0 if inputs[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Any:
    """The tensors below each other, as rows where they have one dimension."""
    return cat([t if t.ndim > 1 else reshape(t, (1, -1)) for t in tensors], 0)


def column_stack(tensors: Sequence[Any]) -> Any:
    """The tensors side by side, as columns where they have one dimension or none."""
    return cat([t if t.ndim > 1 else reshape(t, (-1, 1)) for t in tensors], 1)


def repeat(x: Any, *counts: Any) -> Any:
    """x repeated `counts[d]` times along each dimension d, as copies."""
    times = sizes(counts)
    if len(times) < x.ndim:
        raise RuntimeError(
            f"repeat: expected at least {x.ndim} counts, one per dimension, got {len(times)}"
        )
    shape = (1,) * (len(times) - x.ndim) + tuple(x.shape)
    doubled = [n for pair in zip((1,) * len(shape), shape, strict=True) for n in pair]
    grown = [n for pair in zip(times, shape, strict=True) for n in pair]
    copies = contiguous_copy(expand(reshape(x, tuple(doubled)), tuple(grown)))
    return apply(UnsafeView, copies, shape=tuple(t * n for t, n in zip(times, shape, strict=True)))


def tile(x: Any, *counts: Any, dims: Any = None) -> Any:
    """x repeated along each dimension, as many times as `counts` or `dims` say; or once."""
    times = sizes(counts if dims is None else (dims,))
    return repeat(x, (1,) * (x.ndim - len(times)) + times)


def repeat_interleave(
    x: Any, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Each element (or slice along `dim`) of x `repeats` times in a row: one count or many.

    `output_size`, how many that makes, is what PyTorch need not wait for; here nothing.
    """
    x, place = (reshape(x, (-1,)), 0) if dim is None else (x, dimension(dim, x.ndim))
    if isinstance(repeats, Traced):
        xp = array_module(repeats._array)
        order = xp.repeat(xp.arange(x.shape[place]), repeats._array)
        return index_select(x, place, x._wrap(order))
    shape = list(x.shape)
    shape.insert(place + 1, repeats)
    flat = [*x.shape[:place], x.shape[place] * repeats, *x.shape[place + 1 :]]
    return apply(
        UnsafeView, contiguous_copy(expand(unsqueeze(x, place + 1), shape)), shape=tuple(flat)
    )


def tril(x: Any, diagonal: int = 0) -> Any:
    """x on and below the given diagonal of its last two dimensions, else 0."""
    if x.ndim < 2:
        raise RuntimeError("tril: input tensor must have at least 2 dimensions")
    return apply(Tril, x, k=diagonal)


def triu(x: Any, diagonal: int = 0) -> Any:
    """x on and above the given diagonal of its last two dimensions, else 0."""
    if x.ndim < 2:
        raise RuntimeError("triu: input tensor must have at least 2 dimensions")
    return apply(Triu, x, k=diagonal)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Any, ...]:
    """The coordinate grids of vectors: one per vector, all of the grid's shape; "xy" puts the
    second first."""
    vectors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    if indexing not in ("ij", "xy"):
        raise RuntimeError(
            f'meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}'
        )
    sizes = [math.prod(v.shape) for v in vectors]
    grids = tuple(
        expand(reshape(v, [-1 if d == i else 1 for d in range(len(sizes))]), sizes)
        for i, v in enumerate(vectors)
    )
    if indexing == "ij" or len(sizes) < 2:
        return grids
    return tuple(transpose(g, 0, 1) for g in grids)


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """The tensors, expanded to their common shape."""
    try:
        shape = broadcast_shapes(*(t.shape for t in tensors))
    except ValueError:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise RuntimeError(f"broadcast_tensors: {shapes} have no common shape") from None
    return tuple(expand(t, shape) for t in tensors)


def continued(x: Any, dim: int, before: int, after: int, mode: str) -> Any:
    """x with so many elements more before and after it along one dimension, as the mode says."""
    if mode != "replicate":  # which may begin and end anywhere
        x = narrow(x, dim, max(-before, 0), x.shape[dim] - max(-before, 0) - max(-after, 0))
        before, after = max(before, 0), max(after, 0)
        if not (before or after):
            return contiguous_copy(x)
    size = x.shape[dim]
    most = size - (mode == "reflect") if mode != "replicate" else max(before, after)
    if before > most or after > most or not size:
        raise RuntimeError(
            f"pad: mode {mode!r} can add {most} elements at most to dimension {dim} of size "
            f"{size}, got {before} before and {after} after"
        )
    front, back = max(before, 0), max(after, 0)
    if mode == "circular":
        ends = narrow(x, dim, size - front, front), narrow(x, dim, 0, back)
    elif mode == "replicate":
        shapes = ((*x.shape[:dim], n, *x.shape[dim + 1 :]) for n in (front, back))
        ends = tuple(
            expand(narrow(x, dim, place, 1), shape)
            for place, shape in zip((0, size - 1), shapes, strict=True)
        )
    else:
        ends = narrow(x, dim, 1, front), narrow(x, dim, size - 1 - back, back)
        ends = tuple(flip(end, dim) for end in ends)
    y = cat([part for part in (ends[0], x, ends[1]) if part.shape[dim]], dim)
    if before >= 0 <= after:
        return y
    return contiguous_copy(narrow(y, dim, max(-before, 0), size + before + after))


def pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """x with `value` (0) around it: `pad` holds (before, after) for the last dimension, then the
    one before it, and so on; negative amounts cut off. Or with what x goes on as, by the mode:
    "reflect", "replicate" (the last element), "circular"."""
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise RuntimeError(
            f"pad: expected (before, after) for at most {x.ndim} dimensions, got {pad}"
        )
    if mode != "constant":
        for i, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
            x = continued(x, x.ndim - 1 - i, before, after, mode)
        return x
    shape, inner, key = list(x.shape), [slice(None)] * x.ndim, [slice(None)] * x.ndim
    for i, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        d = x.ndim - 1 - i
        inner[d] = slice(max(-before, 0), shape[d] + min(after, 0))
        shape[d] += before + after
        key[d] = slice(max(before, 0), shape[d] - max(after, 0))
    array = getattr(x, "_array", x)
    value = fitting(value or 0, array.dtype)
    around = array_module(array).full(tuple(shape), value, array.dtype)
    base = x._wrap(around) if array is not x else around
    region = ((BasicIndex, {"key": tuple(key)}),)
    return apply(ConstantPad, base, apply(BasicIndex, x, key=tuple(inner)), path=region)
