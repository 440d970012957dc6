"""Extremes, their places, and truth over all dimensions or over some.

`dim` is an int, a tuple of ints or None (all); `keepdim` keeps reduced dimensions with size 1.
"""

from __future__ import annotations

import builtins
from typing import Any, ClassVar, NamedTuple

from nanotorch.backend import HOST, Array, counting, dtype_of
from nanotorch.backend.dtypes import uint8
from nanotorch.backend.halves import kernel_of
from nanotorch.backend.order_of_memory import is_narrow, out_of_reduction
from nanotorch.ops.casting import cast, clone, into, rounded_once
from nanotorch.ops.comparisons import isnan, where
from nanotorch.ops.elementwise import exp
from nanotorch.ops.indexing import Gather, GatherReverse
from nanotorch.ops.outputs import shown
from nanotorch.ops.pairs import Maximum, Minimum
from nanotorch.ops.shapes import UnsafeView, dimension, required, reshape
from nanotorch.ops.sums import Dim, axes, dims, floating, spread, sum
from nanotorch.primitive import Primitive, Rule, Traced, apply


class Extreme(Primitive):
    """The shared rule of Max and Min, of all of x: equal extremes share the gradient evenly."""

    vjp: ClassVar[tuple[Rule | None, ...]] = (lambda g, x, y: at_extremes(g, x, y),)
    jvp: ClassVar[tuple[Rule | None, ...] | None] = (lambda t, x, y: sum(at_extremes(t, x, y)),)


class ExtremeOfSome(Primitive):
    """The shared rule of Amax and Amin, whose slope is NaN where the extreme is, as in PyTorch."""

    vjp = (
        lambda g, x, y, dim, keepdim: spread(g, x.shape, dim, keepdim) * evenly(x, y, dim, keepdim),
    )
    jvp = (lambda t, x, y, dim, keepdim: sum(t * evenly(x, y, dim, keepdim), dim, keepdim),)


class Max(Extreme):
    """y = the largest element of x over `dim`"""

    backward_name = "MaxBackward1"
    vjp, jvp = Extreme.vjp, Extreme.jvp

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        if xp is HOST and not keepdim and is_narrow(x, dim):
            return x.T.copy().max(axis=0, out=out)
        out = out_of_reduction(xp, x, dim, keepdim, out)
        return x.max(axis=dim, keepdims=keepdim, out=out)


class Min(Extreme):
    """y = the smallest element of x over `dim`"""

    backward_name = "MinBackward1"
    vjp, jvp = Extreme.vjp, Extreme.jvp

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        if xp is HOST and not keepdim and is_narrow(x, dim):
            return x.T.copy().min(axis=0, out=out)
        out = out_of_reduction(xp, x, dim, keepdim, out)
        return x.min(axis=dim, keepdims=keepdim, out=out)


class Amax(Max):
    """y = the largest element of x over `dim`, several dimensions allowed"""

    vjp, jvp = ExtremeOfSome.vjp, ExtremeOfSome.jvp


class Amin(Min):
    """y = the smallest element of x over `dim`, several dimensions allowed"""

    vjp, jvp = ExtremeOfSome.vjp, ExtremeOfSome.jvp


class MaxAlong(Gather):
    """y = the elements of x at the places of the maxima along `dim`, which the places may lack"""

    backward_name = "MaxBackward0"
    vjp = (lambda g, x_shape, index, dim: to_places(g, index, dim, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, index: Array, *, dim: int, out: Array | None = None) -> Array:
        if xp is HOST and dim == x.ndim - 1 and index.ndim == dim and x.flags.c_contiguous:
            first = counting(x.size, x.shape[dim])
            places = index + (first if dim == 1 else first.reshape(index.shape))
            return taken(x, places) if out is None else HOST.take(x, places, out=out, mode="clip")
        gather = kernel_of(Gather, xp, x)
        if index.ndim == x.ndim:
            return gather(xp, x, index, dim=dim, out=out)
        y = gather(xp, x, xp.expand_dims(index, dim), dim=dim)
        return into(xp, y.reshape(index.shape), out)


class MinAlong(MaxAlong):
    """y = the elements of x at the places of the minima along `dim`, which the places may lack"""

    backward_name = "MinBackward0"
    vjp = MaxAlong.vjp


class Argmax(Primitive):
    """y = the place of the largest element (the first of equals)"""

    @staticmethod
    def kernel(
        xp: Any,
        x: Array,
        *,
        dim: int | None = None,
        keepdim: bool = False,
        out: Array | None = None,
    ) -> Array:
        if not keepdim and type(x) is HOST.ndarray:  # in half the time
            return x.argmax(dim, out)
        return xp.argmax(x, axis=dim, keepdims=keepdim, out=out)


class Argmin(Primitive):
    """y = the place of the smallest element (the first of equals)"""

    @staticmethod
    def kernel(
        xp: Any,
        x: Array,
        *,
        dim: int | None = None,
        keepdim: bool = False,
        out: Array | None = None,
    ) -> Array:
        if not keepdim and type(x) is HOST.ndarray:  # in half the time
            return x.argmin(dim, out)
        return xp.argmin(x, axis=dim, keepdims=keepdim, out=out)


class AllOf(Primitive):
    """y = whether every element over `dim` is true"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        out = out_of_reduction(xp, x, dim, keepdim, out, bool)
        return x.all(axis=dim, keepdims=keepdim, out=out)


class AnyOf(Primitive):
    """y = whether any element over `dim` is true"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        out = out_of_reduction(xp, x, dim, keepdim, out, bool)
        return x.any(axis=dim, keepdims=keepdim, out=out)


class LogSumExp(Primitive):
    """y = log of the sum of exp(x) over `dim`"""

    promotes = "floating"
    backward_name = "LogsumexpBackward0"
    vjp = (
        lambda g, x, y, dim, keepdim: (
            spread(g, x.shape, dim, keepdim) * exp(x - spread(y, x.shape, dim, keepdim))
        ),
    )
    jvp = (
        lambda t, x, y, dim, keepdim: sum(
            t * exp(x - spread(y, x.shape, dim, keepdim)), dim, keepdim
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        out = out_of_reduction(xp, x, dim, keepdim, out)
        top = (x.max if x.size else x.sum)(axis=dim, keepdims=True)
        top = xp.where(xp.isfinite(top), top, x.dtype.type(0))
        total = xp.exp(x - top).sum(axis=dim, keepdims=keepdim, out=out)
        return xp.add(xp.log(total), top.reshape(total.shape), out=out)


# --- what the rules share -------------------------------------------------------------------------


def taken(x: Array, places: Array) -> Array:
    """The elements of an array of the host at places that are counted through it."""
    return x.take(places, mode="clip")


def at_extremes(g: Any, x: Any, y: Any) -> Any:
    """g / the number of places where x is its extreme y, or NaN, at these places; 0 elsewhere."""
    places = where(isnan(y), isnan(x), x == y)
    return where(places, g / sum(cast(places, getattr(x, "_array", x).dtype)), 0)


def evenly(x: Any, y: Any, dim: Dim, keepdim: bool) -> Any:
    """1 / the number of extremes at their places, 0 elsewhere."""
    mask = cast(x == spread(y, x.shape, dim, keepdim), getattr(x, "_array", x).dtype)
    return mask / spread(sum(mask, dim, keepdim), x.shape, dim, keepdim)


# --- the functions --------------------------------------------------------------------------------


class ValuesAndIndices(NamedTuple):
    """What reductions along a dimension return: the values, and where they were (int64)."""

    values: Any
    indices: Any

    def __repr__(self) -> str:
        return shown(self)


RETURN_TYPES = {
    name: type(name, (ValuesAndIndices,), {"__slots__": ()})
    for name in (
        *("max", "min", "sort", "topk", "median", "cummax", "cummin", "kthvalue", "mode"),
        "nanmedian",
    )
}
MAX, MIN = RETURN_TYPES["max"], RETURN_TYPES["min"]


def max(
    x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: bool = False
) -> Any:
    """The largest element; along an int `dim` (values, indices); with a tensor, `maximum`."""
    if isinstance(dim, Traced):
        return apply(Maximum, x, dim)
    if dim is None:
        dim, keepdim = axis, keepdim or keepdims
    if dim is None:
        return apply(Max, x, dim=None, keepdim=False)
    return extremes(MaxAlong, MAX, x, argmax(x, dim, keepdim), dim)


def min(
    x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: bool = False
) -> Any:
    """The smallest element; along an int `dim` (values, indices); with a tensor, `minimum`."""
    if isinstance(dim, Traced):
        return apply(Minimum, x, dim)
    if dim is None:
        dim, keepdim = axis, keepdim or keepdims
    if dim is None:
        return apply(Min, x, dim=None, keepdim=False)
    return extremes(MinAlong, MIN, x, argmin(x, dim, keepdim), dim)


def extremes(
    primitive: type[Primitive], kind: Any, x: Any, indices: Any, dim: int
) -> ValuesAndIndices:
    """The elements at `indices`, which have the reduced dimension or not."""
    n = x.ndim
    made: ValuesAndIndices = kind(
        apply(primitive, x, indices, dim=dim % n) if n else clone(x), indices
    )
    return made


def to_places(g: Any, index: Any, dim: int, shape: tuple[int, ...]) -> Any:
    """Zeros of the shape, to which g is added at the places that the indices name."""
    if index.ndim < len(shape):
        kept = (*shape[:dim], 1, *shape[dim + 1 :])
        g, index = reshape(g, kept), reshape(index, kept)
    return apply(GatherReverse, g, index, dim=dim, shape=shape, distinct=True)


def along(
    primitive: type[Primitive], x: Any, indices: Any, dim: int, keepdim: bool
) -> ValuesAndIndices:
    """The elements at `indices`, with the reduced dimension dropped unless kept."""
    made: type[ValuesAndIndices] = RETURN_TYPES[primitive.__name__.removesuffix("Along").lower()]
    if x.ndim == 0:
        return made(clone(x), indices)
    values = apply(primitive, x, indices, dim=dim)
    if not keepdim:
        dim = dimension(dim, x.ndim)
        shape = (*x.shape[:dim], *x.shape[dim + 1 :])
        values, indices = (apply(UnsafeView, part, shape=shape) for part in (values, indices))
    return made(values, indices)


def amax(
    x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: bool = False
) -> Any:
    """The largest elements over `dim`; equal ones share the gradient."""
    return apply(
        Amax, x, dim=place_of(x, dim if axis is None else axis, "amax"), keepdim=keepdim or keepdims
    )


def amin(
    x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: bool = False
) -> Any:
    """The smallest elements over `dim`; equal ones share the gradient."""
    return apply(
        Amin, x, dim=place_of(x, dim if axis is None else axis, "amin"), keepdim=keepdim or keepdims
    )


def argmax(
    x: Any, dim: int | None = None, keepdim: bool = False, *, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The place of the largest element, int64; over all dimensions, that in x flattened."""
    return apply(
        Argmax,
        x,
        dim=place_of(x, dim if axis is None else axis, "argmax"),
        keepdim=keepdim or keepdims,
    )


def argmin(
    x: Any, dim: int | None = None, keepdim: bool = False, *, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The place of the smallest element, int64; over all dimensions, that in x flattened."""
    return apply(
        Argmin,
        x,
        dim=place_of(x, dim if axis is None else axis, "argmin"),
        keepdim=keepdim or keepdims,
    )


def place_of(x: Any, dim: Any, op: str) -> Dim:
    """`dim` for ops that find an element; an error where there is none to find."""
    if 0 in getattr(x, "_array", x).shape:
        if dim is None and op in ("amax", "amin"):
            raise RuntimeError(f"{op}(): Specify the reduction dim with the 'dim' argument.")
        if dim is None or 0 in [x.shape[dimension(d, x.ndim)] for d in dims(x.shape, axes(x, dim))]:
            raise IndexError(f"{op}(): Expected reduction dim {dim} to have non-zero size.")
    return axes(x, dim)


def all(
    x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: bool = False
) -> Any:
    """Whether every element over `dim` is true (nonzero)."""
    return truth(
        x, apply(AllOf, x, dim=axes(x, dim if axis is None else axis), keepdim=keepdim or keepdims)
    )


def any(
    x: Any, dim: builtins.object = None, keepdim: bool = False, *, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """Whether any element over `dim` is true (nonzero)."""
    return truth(
        x, apply(AnyOf, x, dim=axes(x, dim if axis is None else axis), keepdim=keepdim or keepdims)
    )


def truth(x: Any, y: Any) -> Any:
    """The booleans y, as uint8 where x is: from before there were booleans."""
    return cast(y, uint8.numpy) if getattr(x, "_array", x).dtype == uint8.numpy else y


def logsumexp(
    x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: bool = False
) -> Any:
    """log(sum(exp(x))) over `dim`, without overflow."""
    return apply(
        LogSumExp, x, dim=axes(x, required(dim, axis, "logsumexp")), keepdim=keepdim or keepdims
    )


def count_nonzero(x: Any, dim: Any = None, *, axis: Any = None) -> Any:
    """How many elements over `dim` are not 0, int64."""
    return sum(x != 0, dim if axis is None else axis)


def nansum(
    x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The sum over `dim` of the elements that are numbers."""
    dim, keepdim = dim if axis is None else axis, keepdim or keepdims
    if getattr(x, "_array", x).dtype.kind not in "biu":
        x = where(x == x, x, 0)
    return sum(x, dim, keepdim, dtype=dtype)


@rounded_once
def nanmean(
    x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The mean over `dim` of the elements that are numbers."""
    dim, keepdim = dim if axis is None else axis, keepdim or keepdims
    floating(x, "nanmean")
    if dtype is not None:
        return nanmean(cast(x, dtype_of(dtype).numpy), dim, keepdim)
    return nansum(x, dim, keepdim) / sum(~isnan(x), dim, keepdim)
