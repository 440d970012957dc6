"""Putting tensors together, and repeating them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from nanotorch.backend import Array, result_type
from nanotorch.ops.casting import cast
from nanotorch.ops.shapes import dimension, expand, narrow, reshape, select, sizes, unsqueeze
from nanotorch.primitive import Linear, apply


class Cat(Linear):
    """y = the inputs one after the other along `dim`"""

    vjp = (lambda g, index, shapes, dim: piece(g, index, shapes, dim),)

    @staticmethod
    def kernel(xp: Any, *inputs: Array, dim: int, out: Array | None = None) -> Array:
        return xp.concatenate(inputs, axis=dim, out=out)


class Stack(Linear):
    """y = the inputs, of one shape, side by side along a new dimension"""

    vjp = (lambda g, index, dim: select(g, dim, index),)

    @staticmethod
    def kernel(xp: Any, *inputs: Array, dim: int, out: Array | None = None) -> Array:
        return xp.stack(inputs, axis=dim, out=out)


class Tril(Linear):
    """y = x on and below the k-th diagonal, else 0"""

    vjp = (lambda g, k: apply(Tril, g, k=k),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, k: int, out: Array | None = None) -> Array:
        y = xp.tril(x, k)
        if out is None:
            return y
        xp.copyto(out, y)
        return out


class Triu(Linear):
    """y = x on and above the k-th diagonal, else 0"""

    vjp = (lambda g, k: apply(Triu, g, k=k),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, k: int, out: Array | None = None) -> Array:
        y = xp.triu(x, k)
        if out is None:
            return y
        xp.copyto(out, y)
        return out


def piece(g: Any, index: int, shapes: Sequence[tuple[int, ...]], dim: int) -> Any:
    """The part of g that the input of that index contributed to."""
    start = sum(shape[dim] for shape in shapes[:index])
    return narrow(g, dim, start, shapes[index][dim])


def one_dtype(tensors: Sequence[Any], op: str) -> list[Any]:
    """The tensors in their common dtype; RuntimeError for none at all, TypeError for what is no tensor."""
    tensors = list(tensors)
    if not tensors:
        raise RuntimeError(f"{op}: expected a non-empty list of Tensors")
    for position, tensor in enumerate(tensors):
        if not hasattr(tensor, "dtype"):
            raise TypeError(
                f"{op}: expected Tensor as element {position}, but got {type(tensor).__name__}"
            )
    if all(tensor.dtype == tensors[0].dtype for tensor in tensors):
        return tensors
    kind = result_type(*tensors).numpy
    return [cast(tensor, kind) for tensor in tensors]


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors one after the other along `dim`; their other sizes must agree."""
    inputs = [t for t in one_dtype(tensors, "cat") if t.shape != (0,) or len(tensors) == 1]
    inputs = inputs or list(tensors)[:1]
    if inputs[0].ndim == 0:
        raise RuntimeError("cat: zero-dimensional tensor (at position 0) cannot be concatenated")
    return apply(Cat, *inputs, dim=dimension(dim, inputs[0].ndim))


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors, all of one shape, along a new dimension `dim`."""
    inputs = one_dtype(tensors, "stack")
    for position, tensor in enumerate(inputs):
        if tensor.shape != inputs[0].shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(inputs[0].shape)} at entry 0 "
                f"and {list(tensor.shape)} at entry {position}"
            )
    return apply(Stack, *inputs, dim=dimension(dim, inputs[0].ndim + 1))


def hstack(tensors: Sequence[Any]) -> Any:
    """The tensors side by side: along dimension 1, or 0 where they have one dimension."""
    inputs = [t if t.ndim else reshape(t, (1,)) for t in tensors]
    return cat(inputs, 0 if inputs[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Any:
    """The tensors below each other, as rows where they have one dimension."""
    return cat([t if t.ndim > 1 else reshape(t, (1, -1)) for t in tensors], 0)


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
    return reshape(
        expand(reshape(x, tuple(doubled)), tuple(grown)),
        tuple(t * n for t, n in zip(times, shape, strict=True)),
    )


def tile(x: Any, dims: Sequence[int]) -> Any:
    """x repeated as `numpy.tile` does: missing counts are 1."""
    dims = tuple(dims)
    return repeat(x, (1,) * (x.ndim - len(dims)) + dims)


def repeat_interleave(x: Any, repeats: int, dim: int | None = None) -> Any:
    """Each element (or slice along `dim`) of x `repeats` times in a row."""
    x, place = (reshape(x, (-1,)), 0) if dim is None else (x, dimension(dim, x.ndim))
    grown = unsqueeze(x, place + 1)
    shape = list(grown.shape)
    shape[place + 1] = repeats
    flat = [*x.shape[:place], x.shape[place] * repeats, *x.shape[place + 1 :]]
    return reshape(expand(grown, tuple(shape)), tuple(flat))


def tril(x: Any, diagonal: int = 0) -> Any:
    """x on and below the given diagonal of its last two dimensions, else 0."""
    return apply(Tril, x, k=diagonal)


def triu(x: Any, diagonal: int = 0) -> Any:
    """x on and above the given diagonal of its last two dimensions, else 0."""
    return apply(Triu, x, k=diagonal)


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """The tensors, expanded to their common shape."""
    shape = numpy.broadcast_shapes(*(t.shape for t in tensors))
    return tuple(expand(t, shape) for t in tensors)
