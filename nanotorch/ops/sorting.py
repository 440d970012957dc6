"""Sorting, and what is found by it."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array, array_module, counting
from nanotorch.backend.dtypes import int64
from nanotorch.backend.halves import widened
from nanotorch.backend.order_of_memory import usual
from nanotorch.ops.casting import cast, full_of, into
from nanotorch.ops.comparisons import isnan, where
from nanotorch.ops.elementwise import ceil, clamp, floor, round as round_
from nanotorch.ops.indexing import GatherDistinct, gather, vector
from nanotorch.ops.pairs import lerp
from nanotorch.ops.reductions import (
    Extreme,
    ValuesAndIndices,
    along,
    any as any_,
    argmax,
    place_of,
)
from nanotorch.ops.shapes import UnsafeView, dimension, movedim, narrow, reshape, select
from nanotorch.ops.sums import sum
from nanotorch.primitive import Primitive, Traced, apply


class SortAlong(GatherDistinct):
    """y = the elements of x in the order of the sorting indices along `dim`"""

    backward_name = "SortBackward0"


class TopkAlong(GatherDistinct):
    """y = the elements of x at the indices of the k first along `dim`"""

    backward_name = "TopkBackward0"


def sortable(xp: Any, x: Array) -> Array:
    """x; on a GPU with one NaN for each, since CuPy sorts negative ones to the front."""
    if xp is HOST or x.dtype.kind not in "fV":
        return x
    return xp.where(x != x, xp.asarray(xp.nan, x.dtype), x)


class Argsort(Primitive):
    """y = the indices that sort x along `dim`, equal elements in their order"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: int = -1, descending: bool = False, out: Array | None = None
    ) -> Array:
        x = sortable(xp, x)
        if not x.ndim:
            return into(xp, xp.zeros((), xp.int64), out)
        first = None
        if xp is HOST:
            first = first_by_keys(HOST.moveaxis(x, dim, -1), x.shape[dim], descending)
        if first is not None:
            y = HOST.moveaxis(first, -1, dim)
        elif not descending:
            y = xp.argsort(x, axis=dim, kind="stable")
        else:
            y = xp.flip(xp.argsort(xp.flip(x, axis=dim), axis=dim, kind="stable"), axis=dim)
            y = x.shape[dim] - 1 - y
        return into(xp, usual(xp, y), out)


class Argfirst(Primitive):
    """y = the indices of the k first of the sorted x along `dim`"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, k: int, dim: int, descending: bool, out: Array | None = None
    ) -> Array:
        x, y = usual(xp, xp.moveaxis(x, dim, -1)), None
        if xp is HOST and 0 < 4 * k <= min(x.shape[-1], 4 * FEW):
            y = extremes_in_turn(x, k, descending)
        if xp is HOST and y is None:
            y = first_by_keys(x, k, descending)
        if y is None:
            y = Argsort.kernel(xp, x, descending=descending)[..., :k]
        return into(xp, usual(xp, xp.moveaxis(y, -1, dim)), out)


class Argkth(Primitive):
    """y = the index of the k-th element of the sorted x along `dim`, which is kept with size 1"""

    @staticmethod
    def kernel(xp: Any, x: Array, *, k: int, dim: int, out: Array | None = None) -> Array:
        x = usual(xp, xp.moveaxis(x, dim, -1))
        keys = keys_of(x, False) if xp is HOST else None
        if keys is not None:
            keys.partition(k - 1, axis=-1)
            y = places_in(keys[..., k - 1 : k], x.shape[-1])
        elif xp is HOST:
            y = HOST.argpartition(x, k - 1)[..., k - 1 : k]
            value = HOST.take_along_axis(x, y, -1)
            if not (HOST.count_nonzero(x == value, axis=-1) == 1).all():  # or it is NaN
                y = Argsort.kernel(xp, x)[..., k - 1 : k]
        else:
            y = Argsort.kernel(xp, x)[..., k - 1 : k]
        return into(xp, usual(xp, xp.moveaxis(y, -1, dim)), out)


def keys_of(x: Array, descending: bool) -> Array | None:
    """Different int64 numbers in the order of the elements of each row, of equal ones by their
    places, which are in the last bits: NumPy sorts them in a quarter of the time of a stable sort.
    None where elements take too many bits."""
    bits, kind = width_of_places(x.shape[-1]), x.dtype
    if kind.char in "eEf":
        single = x.astype("f")
        single += 0  # -0.0 becomes 0.0, which it equals
        numbers = single.view("i4")
        numbers ^= (numbers >> 31) & 0x7FFFFFFF
        HOST.copyto(numbers, 0x7FFFFFFF, where=x != x)  # NaN comes last
    elif kind.kind in "bui" and x.size:
        low, high = int(x.min()), int(x.max())
        if (high - low).bit_length() + bits > 62 or high >= 1 << 63:
            return None
        numbers = HOST.subtract(x, low, dtype="q")
    else:
        return None
    keys: Array = (~numbers if descending else numbers).astype("q")
    keys <<= bits
    keys |= counting(x.shape[-1])
    return keys


def first_by_keys(x: Array, k: int, descending: bool) -> Array | None:
    """The indices of the k first of each sorted row; None for elements that have no keys."""
    n, keys = x.shape[-1], keys_of(x, descending)
    if keys is None:
        return None
    if k < n:
        keys.partition(max(k - 1, 0), axis=-1)
        keys = keys[..., :k].copy()
    keys.sort(axis=-1)
    return places_in(keys, n)


def width_of_places(n: int) -> int:
    """How many bits the numbers below n take."""
    return max(n - 1, 1).bit_length()


def places_in(keys: Array, n: int) -> Array:
    """The places that keys of rows of n elements hold."""
    return keys & ((1 << width_of_places(n)) - 1)


FEW = 32  # elements, up to which it pays to find them one after the other


def extremes_in_turn(x: Array, k: int, descending: bool) -> Array | None:
    """The indices of the k first of each sorted row, the extreme of what is left each time. None
    where a NaN is the least, or where what takes the place of those found is among them."""
    kind = x.dtype
    if kind.kind not in "iuf" or (not descending and kind.kind == "f" and (x != x).any()):
        return None
    worst: Any = -math.inf if kind.kind == "f" else HOST.iinfo(kind).min
    if not descending:
        worst = math.inf if kind.kind == "f" else HOST.iinfo(kind).max
    left = x.reshape(-1, x.shape[-1]).copy()
    y = HOST.empty((len(left), k), HOST.int64)
    rows = counting(len(left))
    for i in range(k):
        places = left.argmax(1) if descending else left.argmin(1)
        if (left[rows, places] == worst).any():
            return None
        left[rows, places] = worst
        y[:, i] = places
    return y.reshape(*x.shape[:-1], k)


class MedianAlong(GatherDistinct):
    """y = the elements of x at the indices of the medians along `dim`"""

    backward_name = "MedianBackward1"


class Median(Extreme):
    """y = the lower median of all elements of x; equal ones share the gradient"""

    backward_name = "MedianBackward0"
    vjp, jvp = Extreme.vjp, Extreme.jvp

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: None = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        if not x.size:
            return into(xp, xp.asarray(xp.nan, x.dtype), out)
        flat, middle = sortable(xp, x).reshape(-1), (x.size - 1) // 2
        ordered = HOST.partition(flat, middle) if xp is HOST else xp.sort(flat)
        last = flat.max()
        return into(xp, xp.where(last != last, last, ordered[middle]), out)


class Bincount(Primitive):
    """y = how often each whole number occurs in x, or the sum of its weights"""

    @classmethod
    def depends_on_values(cls, inputs: tuple[Any, ...]) -> bool:
        return True

    @staticmethod
    def kernel(
        xp: Any, x: Array, weights: Any, *, minlength: int, out: Array | None = None
    ) -> Array:
        y = xp.bincount(x, weights, minlength)
        single = weights is not None and weights.dtype.char == "f"
        return into(xp, y.astype(weights.dtype) if single else y, out)


def argsort(
    x: Any, dim: int = -1, descending: bool = False, stable: bool = True, *, axis: Any = None
) -> Any:
    """The indices, int64, that sort x along `dim`; equal elements keep their order."""
    dim = dimension(dim if axis is None else axis, x.ndim)
    return apply(Argsort, x, dim=dim, descending=descending)


def sort(
    x: Any, dim: int = -1, descending: bool = False, stable: bool = True, *, axis: Any = None
) -> ValuesAndIndices:
    """x sorted along `dim`, and the indices that sort it."""
    dim = dim if axis is None else axis
    return along(SortAlong, x, argsort(x, dim, descending), dim, True)


def topk(
    x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> ValuesAndIndices:
    """The k largest (or smallest) elements along `dim`, in order, and their indices."""
    dim = dimension(dim, x.ndim)
    size = x.shape[dim] if x.ndim else 1
    if not 0 <= k <= size:
        raise RuntimeError(
            f"topk: k must be between 0 and the size {size} of dimension {dim}, got {k}"
        )
    if not x.ndim:
        return along(TopkAlong, x, argsort(x), dim, True)
    indices = apply(Argfirst, x, k=k, dim=dim, descending=largest)
    return along(TopkAlong, x, indices, dim, True)


def kth(x: Any, k: int, dim: int) -> Any:
    """The index of the k-th smallest element along `dim`, which is kept with size 1."""
    return apply(Argkth, x, k=k, dim=dimension(dim, x.ndim)) if x.ndim else argsort(x, dim)


def median(
    x: Any, dim: int | None = None, keepdim: bool = False, *, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The median, the lower of two, or NaN if there is one; along `dim` (values, indices)."""
    dim, keepdim = dim if axis is None else axis, keepdim or keepdims
    if dim is None:
        return apply(Median, x, dim=None, keepdim=False)
    size = x.shape[place_of(x, dim, "median")] if x.ndim else 1
    middle = kth(x, (size + 1) // 2, dim)
    if x.dtype.is_floating_point and x.ndim:
        broken = isnan(x)
        middle = where(any_(broken, dim, True), argmax(broken, dim, True), middle)
    return along(MedianAlong, x, middle, dim, keepdim)


def quantile(
    x: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """The values below which the shares q (a number, or a vector: the first dimension) of x lie.

    Between two elements it is interpolated: "linear", "lower", "higher", "midpoint", or "nearest".
    NaN where there is one among the elements.
    """
    return quantiles(x, q, dim, keepdim, interpolation, False)


def quantiles(
    x: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str, of_numbers: bool
) -> Any:
    """The quantiles of all elements or, `of_numbers`, of those that are not NaN."""
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(
            "quantile() interpolation must be one of linear, lower, higher, midpoint or nearest, "
            f"but got {interpolation}"
        )
    if not isinstance(q, Traced) and not 0 <= q <= 1:
        raise RuntimeError(f"quantile() q must be in the range [0, 1] but got {q}")
    if 0 in x.shape:
        raise RuntimeError(f"quantile() input tensor must be non-empty, got {tuple(x.shape)}")
    if not x.ndim:
        return quantiles(vector(x), q, dimension(dim or 0, 0), False, interpolation, of_numbers)
    shape = (1,) * x.ndim if dim is None else list(x.shape)
    x, place = (reshape(x, (-1,)), 0) if dim is None else (x, dimension(dim, x.ndim))
    shares: Any = q if isinstance(q, Traced) else full_of(select(reshape(x, (-1,)), 0, 0), q)
    ordered = movedim(sort(x, place).values, place, 0)
    last = ordered.shape[0] - 1
    rank = reshape(shares, (-1, *(1,) * (x.ndim - 1)))
    if of_numbers:
        rank = rank * clamp(sum(~isnan(ordered), 0, True) - 1, min=0)
    else:
        rank = where(isnan(narrow(ordered, 0, last, 1)), float(last), rank * last)  # NaN comes last
    rounding = {"lower": floor, "higher": ceil, "nearest": round_}.get(interpolation)
    if rounding is not None:
        y = gather(ordered, 0, cast(rounding(rank), int64.numpy))
    else:
        low, high = (cast(f(rank), int64.numpy) for f in (floor, ceil))
        weight = 0.5 if interpolation == "midpoint" else rank - floor(rank)
        y = lerp(gather(ordered, 0, low), gather(ordered, 0, high), weight)
    if keepdim:
        y = reshape(y, (-1, *(n if d != place or dim is None else 1 for d, n in enumerate(shape))))
    return y if shares.ndim else apply(UnsafeView, y, shape=tuple(y.shape[1:]))


def unique(
    x: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """The different elements (or slices along `dim`), sorted; where each went, and how often."""
    xp = array_module(x._array)
    found = xp.unique(
        sortable(xp, widened(x._array)),
        return_inverse=return_inverse,
        return_counts=return_counts,
        axis=dim,
        equal_nan=False,
    )
    parts = list(found) if return_inverse or return_counts else [found]
    parts[0] = parts[0].astype(x._array.dtype)
    if return_inverse:
        parts[1] = parts[1].reshape(x.shape if dim is None else -1)
    tensors = tuple(x._wrap(part) for part in parts)
    return tensors if len(tensors) > 1 else tensors[0]


def searchsorted(
    sequence: Any, values: Any, *, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Any = None,
) -> Any:  # fmt: skip
    """Where each value goes in a sorted vector, or, row by row, in those of the last dimension.

    Before its equals, or after them where `right` or side="right"; int64, or int32 where asked.
    `sorter` holds the indices that sort the sequence.
    """
    if side not in (None, "left", "right") or (side == "left" and right):
        raise RuntimeError(f"searchsorted: side={side!r} does not go with right={right}")
    ordered = sequence if sorter is None else gather(sequence, -1, sorter)
    xp, side = array_module(sequence._array), "right" if right else side or "left"
    wanted = values._array if isinstance(values, Traced) else values
    if sequence.ndim == 1:
        places = xp.asarray(xp.searchsorted(ordered._array, wanted, side))
    elif xp.shape(wanted)[:-1] != tuple(sequence.shape[:-1]):
        raise RuntimeError(
            "searchsorted: expected values whose dimensions but the last are those of the "
            f"sequence {tuple(sequence.shape)}, got {xp.shape(wanted)}"
        )
    else:
        count = math.prod(sequence.shape[:-1])
        rows = ordered._array.reshape(count, sequence.shape[-1])
        queries = wanted.reshape(count, wanted.shape[-1])
        ranks = [xp.searchsorted(row, query, side) for row, query in zip(rows, queries)]
        places = xp.stack(ranks).reshape(wanted.shape) if ranks else xp.zeros(wanted.shape, "l")
    return sequence._wrap(places.astype(xp.int32 if out_int32 else xp.int64))


def bucketize(values: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """The number of the bucket between sorted boundaries that each value lies in, int64."""
    return searchsorted(boundaries, values, out_int32=out_int32, right=right)


def histc(x: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements of x lie in each of `bins` equal parts of [min, max], in the dtype of x.

    min = max stands for the least and the greatest element; elements outside are not counted.
    """
    xp, values = array_module(x._array), x._array.reshape(-1)
    if values.dtype.kind != "f":
        raise NotImplementedError(f"histc: expected a floating dtype, got {x.dtype}")
    if bins <= 0:
        raise RuntimeError(f"histc: expected bins > 0, got {bins}")
    low, high = float(min), float(max)
    if low == high and values.size:
        low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 1, high + 1
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RuntimeError(f"histc: expected a finite range with min < max, got [{low}, {high}]")
    values = values[(values >= low) & (values <= high)]
    places = ((values - low) * bins / (high - low)).astype(xp.int64)
    counts = xp.bincount(xp.minimum(places, bins - 1), minlength=bins)
    return x._wrap(counts.astype(x._array.dtype))


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    """How often (or with what total weight) each whole number >= 0 occurs in a vector of them."""
    if (
        x.ndim != 1
        or x._array.dtype.kind not in "iu"
        or (x._array.size and int(x._array.min()) < 0)
    ):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    return apply(Bincount, x, weights, minlength=minlength)
