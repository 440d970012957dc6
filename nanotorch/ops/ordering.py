"""Elements by their rank, how often they occur, and which of them are among others."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array, array_module
from nanotorch.ops.casting import into
from nanotorch.ops.comparisons import isnan, nonzero, where
from nanotorch.ops.indexing import GatherDistinct, gather
from nanotorch.ops.outputs import named
from nanotorch.ops.reductions import ValuesAndIndices, along, amax, amin, place_of
from nanotorch.ops.scans import accumulated
from nanotorch.ops.shapes import dimension
from nanotorch.ops.sorting import Median, argsort, kth, quantiles, sort, sortable
from nanotorch.ops.statistics import norm
from nanotorch.ops.sums import sum
from nanotorch.primitive import Primitive, Traced, apply


class KthvalueAlong(GatherDistinct):
    """y = the elements of x at the indices of the k-th smallest ones along `dim`"""

    backward_name = "KthvalueBackward0"


class ModeAlong(GatherDistinct):
    """y = the elements of x at the indices of the most frequent ones along `dim`"""

    backward_name = "ModeBackward0"


class NanmedianAlong(GatherDistinct):
    """y = the elements of x at the indices of the medians of the numbers along `dim`"""

    backward_name = "NanmedianBackward1"


class Nanmedian(Median):
    """y = the lower median of the elements of x that are numbers; equal ones share the gradient"""

    backward_name = "NanmedianBackward0"
    vjp, jvp = Median.vjp, Median.jvp

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: None = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        if not x.size:
            return into(xp, xp.asarray(xp.nan, x.dtype), out)
        ordered = xp.sort(sortable(xp, x).reshape(-1))  # NaN comes last
        numbers = (ordered == ordered).sum()
        return into(xp, xp.take(ordered, xp.maximum(numbers - 1, 0) // 2), out)


class MostFrequent(Primitive):
    """y = the last index of the most frequent element along `dim`, the smallest of several"""

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, out: Array | None = None) -> Array:
        if not x.ndim:
            return into(xp, xp.zeros((), xp.int64), out)
        x = xp.moveaxis(x, dim, -1)
        order = xp.argsort(sortable(xp, x), axis=-1, kind="stable")
        ranked = xp.take_along_axis(x, order, -1)
        places = xp.broadcast_to(xp.arange(x.shape[-1]), x.shape)
        other = xp.concatenate(
            [xp.ones((*x.shape[:-1], 1), bool), ranked[..., 1:] != ranked[..., :-1]], axis=-1
        )
        first = accumulated(xp, "maximum", xp.where(other, places, 0), x.ndim - 1)
        longest = xp.argmax(places - first, axis=-1, keepdims=True)
        y = xp.take_along_axis(order, longest, -1)
        return into(xp, xp.moveaxis(y, -1, dim), out)


AMINMAX = named("aminmax", "min", "max")


def ranked(
    primitive: type[Primitive], x: Any, rank: Any, dim: int, keepdim: bool
) -> ValuesAndIndices:
    """The elements of that rank, from the smallest, along `dim`."""
    order = argsort(x, dim)
    return along(primitive, x, gather(order, dim, rank) if x.ndim else order, dim, keepdim)


def kthvalue(
    x: Any, k: int, dim: int = -1, keepdim: bool = False, *, axis: Any = None
) -> ValuesAndIndices:
    """The k-th smallest element along `dim`, and its index."""
    place = dimension(dim if axis is None else axis, x.ndim)
    size = x.shape[place_of(x, place, "kthvalue")] if x.ndim else 1
    if not 1 <= k <= size:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}")
    return along(KthvalueAlong, x, kth(x, k, place), place, keepdim)


def mode(x: Any, dim: int = -1, keepdim: bool = False, *, axis: Any = None) -> ValuesAndIndices:
    """The most frequent element along `dim`, the smallest of several, and an index of it."""
    place = dimension(dim if axis is None else axis, x.ndim)
    if x.ndim and not x.shape[place]:
        raise IndexError(f"mode(): Expected reduction dim {dim} to have non-zero size.")
    return along(ModeAlong, x, apply(MostFrequent, x, dim=place), place, keepdim)


def nanmedian(x: Any, dim: int | None = None, keepdim: bool = False, *, axis: Any = None) -> Any:
    """The median, the lower of two, of what is not NaN; along `dim` (values, indices)."""
    dim = dim if axis is None else axis
    if dim is None:
        return apply(Nanmedian, x, dim=None, keepdim=False)
    place = dimension(dim, x.ndim)
    numbers = sum(~isnan(x), place, True)
    return ranked(NanmedianAlong, x, ((numbers - 1) // 2).clamp(0), place, keepdim)


def nanquantile(
    x: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """`quantile` of what is not NaN."""
    return quantiles(x, q, dim, keepdim, interpolation, True)


def aminmax(x: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(min, max) over `dim`; equal ones share the gradient."""
    return AMINMAX(amin(x, dim, keepdim), amax(x, dim, keepdim))


def msort(x: Any) -> Any:
    """x sorted along its first dimension."""
    return sort(x, 0).values


def argwhere(x: Any) -> Any:
    """The indices of the elements that are not 0, a row for each."""
    return nonzero(x)


def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Any:
    """Which of `elements` are among `test_elements`; which are not with `invert`."""
    tensor = elements if isinstance(elements, Traced) else test_elements
    xp = array_module(tensor._array)
    first, second = (
        xp.asarray(getattr(v, "_array", v)) for v in (elements, test_elements)
    )  # fmt: skip
    return tensor._wrap(xp.asarray(xp.isin(first, second, invert=invert)))


def unique_consecutive(
    x: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements (or slices along `dim`) of which each differs from the one before; where each
    went, and how often."""
    xp, place = array_module(x._array), 0 if dim is None else dimension(dim, x.ndim)
    values = x._array.reshape(-1) if dim is None else xp.moveaxis(x._array, place, 0)
    n = values.shape[0] if values.ndim else 1
    values = values.reshape(n, *values.shape[1:])
    changes = (values[1:] != values[:-1]).any(axis=tuple(range(1, values.ndim)))
    first = xp.concatenate([xp.ones(min(n, 1), bool), changes])
    starts = xp.nonzero(first)[0]
    y = values[starts]
    parts = [xp.ascontiguousarray(y if dim is None else xp.moveaxis(y, 0, place))]
    if return_inverse:
        inverse = xp.cumsum(first) - 1
        parts.append(inverse.reshape(x.shape) if dim is None else inverse)
    if return_counts:
        parts.append(xp.diff(xp.concatenate([starts, xp.full(1, n, starts.dtype)])))
    tensors = tuple(x._wrap(part) for part in parts)
    return tensors if len(tensors) > 1 else tensors[0]


def renorm(x: Any, p: float, dim: int, maxnorm: float) -> Any:
    """x whose slices along `dim` have at most the p-norm `maxnorm`: larger ones are scaled."""
    place = dimension(dim, x.ndim)
    if x.ndim < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {x.ndim} dimensions")
    size = norm(x, p, tuple(d for d in range(x.ndim) if d != place), True)
    return x * where(size > maxnorm, maxnorm / (size + 1e-7), 1.0)


def dist(a: Any, b: Any, p: float = 2) -> Any:
    """The p-norm of a - b."""
    return norm(a - b, p)
