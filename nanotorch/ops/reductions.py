"""Reductions over all dimensions or over some, and cumulative sums.

`dim` is an int, a tuple of ints or None (all); `keepdim` keeps reduced dimensions with size 1.
"""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

from nanotorch.backend import Array, dtype_of
from nanotorch.ops.arithmetic import Maximum, Minimum
from nanotorch.ops.casting import cast, clone
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import abs, exp
from nanotorch.ops.indexing import Gather
from nanotorch.ops.shapes import expand, narrow, reshape, squeeze
from nanotorch.primitive import Linear, Primitive, Traced, apply

Dim = int | tuple[int, ...] | None


class Sum(Linear):
    """y = the sum of x over `dim`"""

    vjp = (lambda g, x_shape, dim, keepdim: spread(g, x_shape, dim, keepdim),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        dtype = xp.int64 if x.dtype.kind in "bui" else None
        return x.sum(axis=dim, keepdims=keepdim, dtype=dtype, out=out)

    def name(self) -> str:
        return "SumBackward0" if self.attributes["dim"] is None else "SumBackward1"


class Mean(Linear):
    """y = the mean of x over `dim`"""

    vjp = (
        lambda g, x_shape, dim, keepdim: spread(
            g / builtins.max(count(x_shape, dim), 1), x_shape, dim, keepdim
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        total = x.sum(axis=dim, keepdims=keepdim, out=out)
        divisor = count(x.shape, dim)
        return xp.true_divide(total, x.dtype.type(divisor), out=out)

    def name(self) -> str:
        return "MeanBackward0" if self.attributes["dim"] is None else "MeanBackward1"


class Prod(Primitive):
    """y = the product of x over `dim`, one dimension or all"""

    vjp = (lambda g, x, dim, keepdim: prod_slope(g, x, dim, keepdim),)
    jvp = (lambda t, x, dim, keepdim: sum(t * products_of_others(x, dim), dim, keepdim),)

    @staticmethod
    def kernel(
        xp: Any,
        x: Array,
        *,
        dim: int | None = None,
        keepdim: bool = False,
        out: Array | None = None,
    ) -> Array:
        dtype = xp.int64 if x.dtype.kind in "bui" else None
        return x.prod(axis=dim, keepdims=keepdim, dtype=dtype, out=out)


class Extreme(Primitive):
    """The shared rule of Max and Min: equal extremes share the gradient evenly."""

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
        return x.max(axis=dim, keepdims=keepdim, out=out)


class Min(Extreme):
    """y = the smallest element of x over `dim`"""

    backward_name = "MinBackward1"
    vjp, jvp = Extreme.vjp, Extreme.jvp

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        return x.min(axis=dim, keepdims=keepdim, out=out)


class Amax(Max):
    """y = the largest element of x over `dim`, several dimensions allowed"""

    vjp, jvp = Extreme.vjp, Extreme.jvp


class Amin(Min):
    """y = the smallest element of x over `dim`, several dimensions allowed"""

    vjp, jvp = Extreme.vjp, Extreme.jvp


class MaxAlong(Gather):
    """y = the elements of x at the indices of the maxima along `dim`"""

    backward_name = "MaxBackward0"


class MinAlong(Gather):
    """y = the elements of x at the indices of the minima along `dim`"""

    backward_name = "MinBackward0"


class SortAlong(Gather):
    """y = the elements of x in the order of the sorting indices along `dim`"""

    backward_name = "SortBackward0"


class TopkAlong(Gather):
    """y = the elements of x at the indices of the k first along `dim`"""

    backward_name = "TopkBackward0"


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
        return xp.argmin(x, axis=dim, keepdims=keepdim, out=out)


class Argsort(Primitive):
    """y = the indices that sort x along `dim`, equal elements in their order"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: int = -1, descending: bool = False, out: Array | None = None
    ) -> Array:
        if not descending:
            y = xp.argsort(x, axis=dim, kind="stable")
        else:
            y = xp.flip(xp.argsort(xp.flip(x, axis=dim), axis=dim, kind="stable"), axis=dim)
            y = x.shape[dim] - 1 - y if x.ndim else y
        if out is None:
            return y
        xp.copyto(out, y)
        return out


class All(Primitive):
    """y = whether every element over `dim` is true"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        return x.all(axis=dim, keepdims=keepdim, out=out)


class Any_(Primitive):
    """y = whether any element over `dim` is true"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        return x.any(axis=dim, keepdims=keepdim, out=out)


class LogSumExp(Primitive):
    """y = log of the sum of exp(x) over `dim`"""

    backward_name = "LogsumexpBackward0"
    vjp = (
        lambda g, x, y, dim, keepdim: (
            spread(g, x.shape, dim, keepdim) * exp(x - finite(spread(y, x.shape, dim, keepdim)))
        ),
    )
    jvp = (
        lambda t, x, y, dim, keepdim: sum(
            t * exp(x - finite(spread(y, x.shape, dim, keepdim))), dim, keepdim
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        top = x.max(axis=dim, keepdims=True)
        top = xp.where(xp.isfinite(top), top, x.dtype.type(0))
        total = xp.exp(x - top).sum(axis=dim, keepdims=keepdim, out=out)
        return xp.add(xp.log(total), top.reshape(total.shape), out=out)


class Cumsum(Linear):
    """y = the running sum of x along `dim`"""

    vjp = (lambda g, dim: sum(g, dim, True) - cumsum(g, dim) + g,)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, out: Array | None = None) -> Array:
        dtype = xp.int64 if x.dtype.kind in "bui" else None
        if x.ndim == 0:
            return x.astype(dtype or x.dtype)
        return xp.cumsum(x, axis=dim, dtype=dtype, out=out)


class Norm(Primitive):
    """y = (the sum of |x| ** p over `dim`) ** (1 / p); the slope is 0 where the norm is 0"""

    backward_name = "LinalgVectorNormBackward0"
    vjp = (
        lambda g, x, y, p, dim, keepdim: (
            spread(g, x.shape, dim, keepdim)
            * norm_slope(x, spread(y, x.shape, dim, keepdim), p, dim)
        ),
    )
    jvp = (
        lambda t, x, y, p, dim, keepdim: sum(
            t * norm_slope(x, spread(y, x.shape, dim, keepdim), p, dim), dim, keepdim
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, p: float = 2, dim: Dim = None, keepdim: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        if p == 2:
            total = xp.square(x).sum(axis=dim, keepdims=keepdim, out=out)
            return xp.sqrt(total, out=out)
        size = xp.absolute(x)
        if p == float("inf"):
            return size.max(axis=dim, keepdims=keepdim, out=out)
        if p == -float("inf"):
            return size.min(axis=dim, keepdims=keepdim, out=out)
        if p == 1:
            return size.sum(axis=dim, keepdims=keepdim, out=out)
        if p == 0:
            return (size != 0).sum(axis=dim, keepdims=keepdim, dtype=x.dtype, out=out)
        total = xp.power(size, p).sum(axis=dim, keepdims=keepdim, out=out)
        return xp.power(total, 1 / p, out=out)


class Var(Primitive):
    """y = the variance of x over `dim`, the divisor being the count less `correction`"""

    vjp = (
        lambda g, x, dim, correction, keepdim: (
            spread(g, x.shape, dim, keepdim) * deviation(x, dim, correction)
        ),
    )
    jvp = (
        lambda t, x, dim, correction, keepdim: sum(t * deviation(x, dim, correction), dim, keepdim),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, correction: float = 1, keepdim: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        n = count(x.shape, dim)
        centered = x - x.sum(axis=dim, keepdims=True) / x.dtype.type(builtins.max(n, 1))
        total = xp.square(centered).sum(axis=dim, keepdims=keepdim, out=out)
        return xp.true_divide(total, x.dtype.type(builtins.max(n - correction, 0)), out=out)


class Std(Primitive):
    """y = the square root of the variance"""

    vjp = (
        lambda g, x, y, dim, correction, keepdim: (
            spread(g / (2 * y), x.shape, dim, keepdim) * deviation(x, dim, correction)
        ),
    )
    jvp = (
        lambda t, x, y, dim, correction, keepdim: (
            sum(t * deviation(x, dim, correction), dim, keepdim) / (2 * y)
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, correction: float = 1, keepdim: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        variance = Var.kernel(xp, x, dim=dim, correction=correction, keepdim=keepdim, out=out)
        return xp.sqrt(variance, out=out)


# --- what the rules share -------------------------------------------------------------------------


def dims(shape: tuple[int, ...], dim: Dim) -> tuple[int, ...]:
    """The reduced dimensions as non-negative numbers."""
    if dim is None:
        return tuple(range(len(shape)))
    return tuple(
        d % builtins.max(len(shape), 1) for d in (dim if isinstance(dim, tuple) else (dim,))
    )


def count(shape: tuple[int, ...], dim: Dim) -> int:
    """How many elements of x go into one of y."""
    n = 1
    for d in dims(shape, dim) if shape else ():
        n *= shape[d]
    return n


def spread(g: Any, shape: tuple[int, ...], dim: Dim, keepdim: bool) -> Any:
    """g of the reduced shape, expanded to the shape before the reduction."""
    if not keepdim and g.ndim and dim is not None:
        reduced = dims(shape, dim)
        g = reshape(g, tuple(1 if d in reduced else n for d, n in enumerate(shape)))
    return expand(g, shape)


def evenly(x: Any, y: Any, dim: Dim, keepdim: bool) -> Any:
    """1 / the number of extremes at their places, 0 elsewhere."""
    mask = cast(x == spread(y, x.shape, dim, keepdim), getattr(x, "_array", x).dtype)
    return mask / spread(sum(mask, dim, keepdim), x.shape, dim, keepdim)


def finite(x: Any) -> Any:
    """x with 0 for the infinities, so that exp(-inf - y) is 0 and not NaN."""
    return where((x - x) == 0, x, 0.0)


def deviation(x: Any, dim: Dim, correction: float) -> Any:
    """d var / dx = 2 (x - mean) / (count - correction)."""
    divisor = builtins.max(count(x.shape, dim) - correction, 0)
    factor = 2 / divisor if divisor else float("nan")
    return (x - mean(x, dim, True)) * factor


def norm_slope(x: Any, y: Any, p: float, dim: Dim) -> Any:
    """d norm / dx for y of x's shape; 0 where the norm is 0."""
    if p == 0:
        return x * 0
    if p == 1:
        return sign_of(x)
    if p in (float("inf"), -float("inf")):
        mask = cast(abs(x) == y, getattr(x, "_array", x).dtype)
        return sign_of(x) * mask / sum(mask, dim, True)
    safe = where(y == 0, 1.0, y)
    if p == 2:
        return where(y == 0, 0.0, x / safe)
    size = abs(x)
    if p < 2:
        size = where(x == 0, 1.0, size)
    return where((y == 0) | (x == 0), 0.0, x * size ** (p - 2) / safe ** (p - 1))


def sign_of(x: Any) -> Any:
    """-1, 0 or 1."""
    return where(x > 0, 1.0, where(x < 0, -1.0, x * 0))


def products_of_others(x: Any, dim: int | None) -> Any:
    """For each element the product of the others over `dim`, right also where one element is 0."""
    zero = x == 0
    safe = where(zero, 1.0, x)
    zeros, product = sum(zero, dim, True), prod(safe, dim, True)
    return where(zero, where(zeros == 1, product, 0.0), where(zeros == 0, product / safe, 0.0))


def prod_slope(g: Any, x: Any, dim: int | None, keepdim: bool) -> Any:
    """g times the products of the other elements."""
    return spread(g, x.shape, dim, keepdim) * products_of_others(x, dim)


# --- the functions --------------------------------------------------------------------------------


class ValuesAndIndices(NamedTuple):
    """What reductions along a dimension return: the values, and where they were (int64)."""

    values: Any
    indices: Any


def axes(x: Any, dim: Any) -> Dim:
    """`dim` as the kernels take it: lists become tuples, a 0-dim tensor has the dimension 0 or -1."""
    if dim is None or type(dim) is int:
        return None if x.ndim == 0 and dim in (0, -1) else dim
    return tuple(dim) or None


def floating(x: Any, op: str) -> None:
    """Refuses what has no mean."""
    if getattr(x, "_array", x).dtype.kind not in "fc":
        raise RuntimeError(
            f"{op}(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {dtype_of(getattr(x, '_array', x).dtype).title}"
        )


def sum(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum over `dim` (an int, several, or None for all); integers and booleans give int64."""
    if dtype is not None:
        x = cast(x, dtype.numpy)
    return apply(Sum, x, dim=axes(x, dim), keepdim=keepdim)


def mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The mean over `dim` of a floating point tensor."""
    if dtype is not None:
        x = cast(x, dtype.numpy)
    floating(x, "mean")
    return apply(Mean, x, dim=axes(x, dim), keepdim=keepdim)


def prod(x: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The product over one dimension or over all."""
    if dtype is not None:
        x = cast(x, dtype.numpy)
    return apply(Prod, x, dim=axes(x, dim), keepdim=keepdim)


def max(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; along an int `dim` a (values, indices) pair; with a tensor, `maximum`."""
    if isinstance(dim, Traced):
        return apply(Maximum, x, dim)
    if dim is None:
        return apply(Max, x, dim=None, keepdim=False)
    return along(MaxAlong, x, argmax(x, dim, True), dim, keepdim)


def min(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; along an int `dim` a (values, indices) pair; with a tensor, `minimum`."""
    if isinstance(dim, Traced):
        return apply(Minimum, x, dim)
    if dim is None:
        return apply(Min, x, dim=None, keepdim=False)
    return along(MinAlong, x, argmin(x, dim, True), dim, keepdim)


def along(
    primitive: type[Primitive], x: Any, indices: Any, dim: int, keepdim: bool
) -> ValuesAndIndices:
    """The elements at `indices`, with the reduced dimension dropped unless kept."""
    if x.ndim == 0:
        return ValuesAndIndices(clone(x), indices)
    values = apply(primitive, x, indices, dim=dim)
    if not keepdim:
        values, indices = squeeze(values, dim), squeeze(indices, dim)
    return ValuesAndIndices(values, indices)


def amax(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest elements over `dim`; equal ones share the gradient."""
    return apply(Amax, x, dim=axes(x, dim), keepdim=keepdim)


def amin(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest elements over `dim`; equal ones share the gradient."""
    return apply(Amin, x, dim=axes(x, dim), keepdim=keepdim)


def argmax(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The place of the largest element, int64; over all dimensions the place in the flattened tensor."""
    return apply(Argmax, x, dim=axes(x, dim), keepdim=keepdim)


def argmin(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The place of the smallest element, int64; over all dimensions the place in the flattened tensor."""
    return apply(Argmin, x, dim=axes(x, dim), keepdim=keepdim)


def argsort(x: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The indices, int64, that sort x along `dim`; equal elements keep their order."""
    return apply(Argsort, x, dim=dim, descending=descending)


def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> ValuesAndIndices:
    """x sorted along `dim`, and the indices that sort it."""
    return along(SortAlong, x, argsort(x, dim, descending), dim, True)


def topk(
    x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> ValuesAndIndices:
    """The k largest (or smallest) elements along `dim`, in order, and their indices."""
    size = x.shape[dim] if x.ndim else 1
    if not 0 <= k <= size:
        raise RuntimeError(
            f"topk: k must be between 0 and the size {size} of dimension {dim}, got {k}"
        )
    indices = narrow(argsort(x, dim, largest), dim, 0, k) if x.ndim else argsort(x, dim, largest)
    return along(TopkAlong, x, indices, dim, True)


def all(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether every element over `dim` is true (nonzero)."""
    return apply(All, x, dim=axes(x, dim), keepdim=keepdim)


def any(x: Any, dim: builtins.object = None, keepdim: bool = False) -> Any:
    """Whether any element over `dim` is true (nonzero)."""
    return apply(Any_, x, dim=axes(x, dim), keepdim=keepdim)


def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    """log(sum(exp(x))) over `dim`, without overflow."""
    return apply(LogSumExp, x, dim=axes(x, dim), keepdim=keepdim)


def cumsum(x: Any, dim: int, *, dtype: Any = None) -> Any:
    """The running sum along `dim`."""
    if dtype is not None:
        x = cast(x, dtype.numpy)
    return apply(Cumsum, x, dim=dim)


def var(
    x: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> Any:  # fmt: skip
    """The variance over `dim`: squared deviations summed over the count less `correction` (1)."""
    return moment(Var, x, dim, unbiased, keepdim, correction)


def std(
    x: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> Any:  # fmt: skip
    """The standard deviation over `dim`: the square root of `var`."""
    return moment(Std, x, dim, unbiased, keepdim, correction)


def moment(
    primitive: type[Primitive], x: Any, dim: Any, unbiased: bool | None, keepdim: bool,
    correction: float | None,
) -> Any:  # fmt: skip
    """Sorts out the two ways of naming the divisor: `unbiased`, also alone, and `correction`."""
    floating(x, primitive.title())
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return apply(primitive, x, dim=axes(x, dim), correction=correction, keepdim=keepdim)


def var_mean(x: Any, dim: Any = None, *, correction: float = 1, keepdim: bool = False) -> Any:
    """(variance, mean) over `dim`."""
    return var(x, dim, keepdim=keepdim, correction=correction), mean(x, dim, keepdim)


def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """The p-norm of the elements over `dim`: (sum |x| ** p) ** (1 / p); "fro" is 2."""
    floating(x, "norm")
    if p in ("fro", None):
        p = 2
    return apply(Norm, x, p=float(p) if p != 2 else 2, dim=axes(x, dim), keepdim=keepdim)


def count_nonzero(x: Any, dim: Any = None) -> Any:
    """How many elements over `dim` are not 0, int64."""
    return sum(x != 0, dim)
