"""Writing what several elements make together to one place, and writing to parts of a copy."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.backend.adding import at
from nanotorch.backend.dtypes import bool_
from nanotorch.ops.casting import cast, ones_like, zeros_like
from nanotorch.ops.comparisons import where
from nanotorch.ops.cumulative import cumsum
from nanotorch.ops.indexing import (
    add_at,
    copied,
    gather,
    index_put,
    multiply_at,
    places,
    scatter,
    scatter_add,
    take,
    vector,
)
from nanotorch.ops.joining import broadcast_tensors
from nanotorch.ops.regions import CopySlices, Path
from nanotorch.ops.shapes import BasicIndex, Diagonal, dimension, expand, reshape
from nanotorch.primitive import Primitive, apply

REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")


class ScatterReduce(Primitive):
    """y = x with what `reduce` makes of the elements of source at the places that gather reads, and
    of x there unless `alone`"""

    vjp = (
        lambda g, x, index, source, y, dim, reduce, alone: (
            g * slope_of_target(x, index, source, y, dim, reduce, alone)
        ),
        None,
        lambda g, x, index, source, y, dim, reduce, alone: (
            gather(g, dim, index) * slope_of_source(x, index, source, y, dim, reduce, alone)
        ),
    )
    jvp = (
        lambda t, x, index, source, y, dim, reduce, alone: (
            t * slope_of_target(x, index, source, y, dim, reduce, alone)
        ),
        None,
        lambda t, x, index, source, y, dim, reduce, alone: scatter_add(
            zeros_like(y), dim, index,
            t * slope_of_source(x, index, source, y, dim, reduce, alone),
        ),
    )  # fmt: skip

    @staticmethod
    def kernel(
        xp: Any, x: Array, index: Array, source: Array, *, dim: int, reduce: str, alone: bool,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        out = copied(xp, x, out)
        place = places(xp, x, index, dim, "scatter_reduce")
        if alone:
            out[place] = neutral(x.dtype, reduce)
        if reduce in ("sum", "mean"):
            add_at(xp, out, place, source)
        elif reduce == "prod":
            multiply_at(xp, out, place, source, dim)
        elif xp is HOST:
            at(xp.maximum if reduce == "amax" else xp.minimum, out, place, source)
        else:  # CuPy's `at` rounds float64 to float32, passes NaN over, and takes few dtypes
            backward = reduce == "amin"
            keys = keys_of(xp, out, backward)
            xp.maximum.at(keys, place, keys_of(xp, source, backward))
            out[...] = of_keys(xp, keys, x.dtype, backward)
        if reduce == "mean":
            shape = x.shape
            if place[dim].ndim == 1:  # one vector for all of the other dimensions
                shape = tuple(n if d == dim else 1 for d, n in enumerate(shape))
            counts = xp.full(shape, not alone, x.dtype)
            add_at(xp, counts, place, xp.ones((), x.dtype))
            counts = xp.maximum(counts, 1)
            divide = xp.true_divide if x.dtype.kind == "f" else xp.floor_divide
            out[...] = divide(out, counts)
        return out


def keys_of(xp: Any, x: Array, backward: bool) -> Array:
    """Unsigned integers in the order of the elements, or in the reverse one; NaN is the largest."""
    if x.dtype.kind in "biu":
        keys = x.astype("Q") ^ xp.uint64(2**63 if x.dtype.kind == "i" else 0)
        return ~keys if backward else keys
    bits = x.astype("d").view("Q") if x.itemsize == 8 else x.astype("f").view("I")
    top = bits.dtype.type(1 << 8 * bits.itemsize - 1)
    keys = xp.where(bits & top, ~bits, bits ^ top)
    return xp.where(xp.isnan(x), ~top.dtype.type(0), ~keys if backward else keys)


def of_keys(xp: Any, keys: Array, kind: Any, backward: bool) -> Array:
    """The elements of that dtype which have these keys."""
    keys = ~keys if backward else keys
    if kind.kind in "biu":
        return (keys ^ xp.uint64(2**63 if kind.kind == "i" else 0)).astype(kind)
    top = keys.dtype.type(1 << 8 * keys.itemsize - 1)
    bits = xp.where(keys & top, keys ^ top, ~keys)
    return bits.view("d" if kind.itemsize == 8 else "f").astype(kind)


def neutral(kind: Any, reduce: str) -> Any:
    """What changes no result of the reduction."""
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    if kind.kind == "b":
        return reduce == "amin"
    least = reduce == "amax"
    if kind.kind in "iu":
        return HOST.iinfo(kind).min if least else HOST.iinfo(kind).max
    return -math.inf if least else math.inf


def slope_of_target(
    x: Any, index: Any, source: Any, y: Any, dim: int, reduce: str, alone: bool
) -> Any:
    """dy / dx, element by element."""
    if reduce == "sum":
        slope = ones_like(x)
    elif reduce == "mean":
        slope = 1 / counts_of(x, index, source, dim, alone)
    elif reduce == "prod":
        safe = where(x == 0, 1.0, x)
        y = apply(ScatterReduce, safe, index, source, dim=dim, reduce=reduce, alone=alone)
        slope = y / safe
    else:
        slope = likes(x == y, x) / winners(x, index, source, y, dim)
    return scatter(slope, dim, index, 0) if alone else slope


def slope_of_source(
    x: Any, index: Any, source: Any, y: Any, dim: int, reduce: str, alone: bool
) -> Any:
    """dy / d source, element by element."""
    if reduce == "sum":
        return ones_like(source)
    if reduce == "mean":
        return gather(1 / counts_of(x, index, source, dim, alone), dim, index)
    if reduce == "prod":
        zero = source == 0
        zeros = gather(scatter_add(zeros_like(y), dim, index, likes(zero, x)), dim, index)
        only = zero & (zeros == 1)
        others = apply(
            ScatterReduce, x, index, where(only, 1.0, source), dim=dim, reduce=reduce, alone=alone
        )
        rest = gather(y, dim, index) / where(zero, 1.0, source)
        return where(only, gather(others, dim, index), rest)
    value = gather(y, dim, index)
    return likes(source == value, x) / gather(winners(x, index, source, y, dim), dim, index)


def likes(mask: Any, x: Any) -> Any:
    """A mask as numbers in the dtype of x."""
    return cast(mask, getattr(x, "_array", x).dtype)


def counts_of(x: Any, index: Any, source: Any, dim: int, alone: bool) -> Any:
    """How many elements each place takes, at least 1."""
    first = zeros_like(x) if alone else ones_like(x)
    counts = scatter_add(first, dim, index, ones_like(source))
    return where(counts == 0, 1.0, counts)


def winners(x: Any, index: Any, source: Any, y: Any, dim: int) -> Any:
    """How many elements are the extreme of each place, at least 1."""
    hits = likes(source == gather(y, dim, index), x)
    counts = scatter_add(likes(x == y, x), dim, index, hits)
    return where(counts == 0, 1.0, counts)


# --- the functions --------------------------------------------------------------------------------


def scatter_reduce(
    x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """x with the elements of `src` at `index` along `dim` reduced into it: "sum", "prod", "mean",
    "amax" or "amin" of them, and of what is there with `include_self`."""
    if reduce not in REDUCTIONS:
        raise RuntimeError(
            f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}."
        )
    if not x.ndim or not index.ndim:
        y = scatter_reduce(
            vector(x), dim, vector(index), vector(src), reduce, include_self=include_self
        )
        return reshape(y, x.shape)
    place = dimension(dim, x.ndim)
    if tuple(src.shape) != tuple(index.shape):
        src = apply(BasicIndex, src, key=tuple(slice(n) for n in index.shape))
    return apply(
        ScatterReduce, x, index, src, dim=place, reduce=reduce, alone=not include_self
    )  # fmt: skip


def index_reduce(
    x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """x with the slices of `source` at `index` along `dim` reduced into it: "prod", "mean", "amax"
    or "amin" of them, and of what is there with `include_self`."""
    if reduce not in REDUCTIONS[1:]:
        raise RuntimeError(
            "index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got "
            f"{reduce}."
        )
    if not x.ndim:
        y = index_reduce(
            vector(x), 0, vector(index), vector(source), reduce, include_self=include_self
        )
        return reshape(y, ())
    place = dimension(dim, x.ndim)
    line = reshape(index, [-1 if d == place else 1 for d in range(x.ndim)])
    wide = expand(line, tuple(source.shape))
    return scatter_reduce(x, place, wide, source, reduce, include_self=include_self)


def masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    """x with the first elements of `source`, one after the other, where `mask` is true."""
    if mask.dtype is not bool_:
        raise RuntimeError(
            f"masked_scatter_ only supports boolean masks, but got mask with dtype {mask.dtype}"
        )
    if x.dtype != source.dtype:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same dtypes but got "
            f"{x.dtype} and {source.dtype}"
        )
    x, mask = broadcast_tensors(x, mask)
    count = math.prod(source.shape)
    if not count:
        return x.clone()
    order = cumsum(reshape(mask, (-1,)), 0) - 1
    on_host = isinstance(getattr(mask, "_array", None), HOST.ndarray)
    if on_host and order.shape[0] and int(order[-1]) >= count:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same number of elements"
        )
    order = order.clamp(0, count - 1)
    return where(mask, reshape(take(source, order), x.shape), x)


def put(x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """x, flattened, with the elements of `source` written, or added, at `index`; in x's shape."""
    flat = index_put(
        reshape(x, (-1,)), (reshape(index, (-1,)),), reshape(source, (-1,)), accumulate
    )
    return reshape(flat, x.shape)


def written(x: Any, src: Any, path: Path, shape: Any, op: str) -> Any:
    """x with `src`, which has the shape of that part, in the part that `path` leads to."""
    if tuple(src.shape) != tuple(shape):
        raise RuntimeError(
            f"{op}: expected src to have a size equal to the part of self. src size = "
            f"{list(src.shape)}, part size = {list(shape)}"
        )
    return apply(CopySlices, x, cast(src, getattr(x, "_array", x).dtype), path=path)


def select_scatter(x: Any, src: Any, dim: int, index: int) -> Any:
    """x with `src` in its slice at `index` along `dim`."""
    part = x.detach().select(dim, index)
    key = (*(slice(None),) * dimension(dim, x.ndim), index)
    return written(x, src, ((BasicIndex, {"key": key}),), part.shape, "select_scatter")


def slice_scatter(
    x: Any, src: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """x with `src` in x[start:end:step] along `dim`."""
    key = (*(slice(None),) * dimension(dim, x.ndim), slice(start, end, step))
    return written(x, src, ((BasicIndex, {"key": key}),), x.detach()[key].shape, "slice_scatter")


def diagonal_scatter(x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """x with `src` on the given diagonal of the dimensions dim1 and dim2."""
    part = x.detach().diagonal(offset, dim1, dim2)
    first, second = dimension(dim1, x.ndim), dimension(dim2, x.ndim)
    path = ((Diagonal, {"offset": offset, "dim1": first, "dim2": second}),)
    return written(x, src, path, part.shape, "diagonal_scatter")
