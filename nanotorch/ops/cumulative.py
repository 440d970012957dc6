"""Products over dimensions, and running sums and products.

A product is linear in each factor, so its derivatives of any order are products of the others,
whatever zeros there are. First derivatives divide by the element where they can. Higher ones only
multiply: `recurrence` takes such products at all places in log2(n) passes.
"""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array, dtype_of
from nanotorch.backend.order_of_memory import is_narrow, out_like, out_of_reduction, usual
from nanotorch.ops.casting import cast, into, ones_like, zeros_like
from nanotorch.ops.comparisons import isfinite, where
from nanotorch.ops.indexing import flip
from nanotorch.ops.joining import cat
from nanotorch.ops.shapes import dimension, narrow, required, reshape
from nanotorch.ops.sums import axes, spread, sum
from nanotorch.primitive import Linear, Primitive, apply


class Prod(Primitive):
    """y = the product of x over `dim`, one dimension or all"""

    vjp = (
        lambda g, x, dim, keepdim: apply(ProdReverse, spread(g, x.shape, dim, keepdim), x, dim=dim),
    )
    jvp = (lambda t, x, dim, keepdim: sum(apply(ProdReverse, t, x, dim=dim), dim, keepdim),)

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
        with HOST.errstate(all="ignore"):
            if type(x) is HOST.ndarray:
                x = folded(x, dim, dtype)
            if xp is HOST and not keepdim and is_narrow(x, dim):
                x, dim = x.T.copy(), 0
            out = out_of_reduction(xp, x, dim, keepdim, out, dtype)
            return x.prod(axis=dim, keepdims=keepdim, dtype=dtype, out=out)


LONG = 32  # elements, of which the halves are multiplied by one another first


def folded(x: Array, dim: int | None, dtype: Any) -> Array:
    """x with fewer elements and the same products over `dim` (or all), where neighbours lie along
    it: NumPy multiplies many numbers by many in a tenth of the time of one after the other."""
    if dim is None and x.size >= LONG:
        x = x.reshape((-1, *(1,) * (x.ndim - 1)))
    axis = 0 if dim is None else dim % x.ndim
    while x.ndim and x.shape[axis] >= LONG and x.strides[axis] == x.itemsize:
        before, half = (slice(None),) * axis, x.shape[axis] // 2
        first, second, last = (
            x[(*before, part)]
            for part in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        )
        x = HOST.multiply(first, second, dtype=dtype)
        if last.size:
            x[(*before, slice(1))] *= last
    return x


class ProdReverse(Primitive):
    """z = g times the product of the other elements of x over `dim`"""

    backward_name = "ProdBackwardBackward0"
    vjp = (
        lambda h, x, dim: apply(ProdReverse, h, x, dim=dim),
        lambda h, g, x, dim: products_of_others_tangent(h * g, x, dim),
    )
    jvp = (
        lambda t, x, dim: apply(ProdReverse, t, x, dim=dim),
        lambda t, g, x, dim: g * products_of_others_tangent(t, x, dim),
    )

    @staticmethod
    def kernel(xp: Any, g: Array, x: Array, *, dim: int | None, out: Array | None = None) -> Array:
        return xp.multiply(g, products_of_others(x, dim), out=out)


FEW, SHORT = 256, 32  # elements at one place along a dimension; places


def running(ufunc: Any, x: Array, dim: int, dtype: Any = None, out: Array | None = None) -> Array:
    """The running result of a function of two numbers along `dim`, on the host: of many elements
    at each place by a call for each place, in up to a thirtieth of the time."""
    with HOST.errstate(all="ignore"):
        n, inner = x.shape[dim], math.prod(x.shape[dim + 1 :])
        if type(x) is not HOST.ndarray or x.size < FEW * n or (inner < SHORT < n) or not n:
            return ufunc.accumulate(x, axis=dim, dtype=dtype, out=out_like(HOST, x, out, dtype))
        x = usual(HOST, x)
        y = HOST.empty(x.shape, dtype or x.dtype) if out is None else out
        elements, results = HOST.moveaxis(x, dim, 0), HOST.moveaxis(y, dim, 0)
        results[0] = elements[0]
        for k in range(1, n):
            ufunc(results[k - 1], elements[k], out=results[k])
        return y


class Cumsum(Linear):
    """y = the running sum of x along `dim`"""

    vjp = (lambda g, dim: reverse_cumsum(g, dim),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, out: Array | None = None) -> Array:
        dtype = xp.int64 if x.dtype.kind in "bui" else None
        if x.ndim == 0:
            return into(xp, x.astype(dtype or x.dtype), out)
        if xp is not HOST:
            return xp.cumsum(x, axis=dim, dtype=dtype, out=out)
        return running(HOST.add, x, dim, dtype, out)


class Cumprod(Primitive):
    """y = the running product of x along `dim`"""

    vjp = (lambda g, x, y, dim: apply(CumprodReverse, g, x, y, dim=dim),)
    jvp = (lambda t, x, dim: cumprod_tangent(t, x, dim),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, out: Array | None = None) -> Array:
        dtype = xp.int64 if x.dtype.kind in "bui" else None
        if x.ndim == 0:
            return into(xp, x.astype(dtype or x.dtype), out)
        if xp is not HOST:
            return xp.cumprod(x, axis=dim, dtype=dtype, out=out)
        return running(HOST.multiply, x, dim, dtype, out)


class CumprodReverse(Primitive):
    """z = the cotangent of x in y = cumprod(x), g being that of y"""

    backward_name = "CumprodBackwardBackward0"
    vjp = (
        lambda h, x, dim: cumprod_tangent(h, x, dim),
        lambda h, g, x, dim: cumprod_reverse_tangent(h, g, x, dim),
        None,
    )
    jvp = (
        lambda t, x, y, dim: apply(CumprodReverse, t, x, y, dim=dim),
        lambda t, g, x, dim: cumprod_reverse_tangent(t, g, x, dim),
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, y: Array, *, dim: int, out: Array | None = None
    ) -> Array:
        return into(xp, cumprod_reverse(g, x, y, dim), out)


# --- first derivatives, which divide where they can -----------------------------------------------


def products_of_others(x: Any, dim: int | None) -> Any:
    """For each element the product of the others over `dim`, right also where some are 0."""
    if not x.ndim:
        return ones_like(x)
    zero, endless = x == 0, ~isfinite(x)
    safe = where(zero, 1.0, x)
    product = prod(safe, dim, True)
    zeros, endless_ones = (sum(mask, dim, True) > mask for mask in (zero, endless))
    nothing = where(endless_ones, x * math.nan, zeros_like(x))  # 0, and NaN times 0 is NaN
    return where(zeros, nothing, where(zero, product, product / safe))


def reverse_cumsum(g: Any, dim: int) -> Any:
    """The running sum from the end."""
    return flip(cumsum(flip(g, dim), dim), dim) if g.ndim else g


def first_zero_as_one(x: Any, dim: int) -> tuple[Any, Any]:
    """Where the first 0 along `dim` is, and x with 1 there."""
    zero = x == 0
    first = zero & (cumsum(zero, dim) == 1)
    return first, where(first, 1.0, x)


def cumprod_reverse(g: Any, x: Any, y: Any, dim: int) -> Any:
    """The cotangent of x: sums of g * y / x from the end, without the first 0 of x."""
    if not x.ndim or x.shape[dim] == 1:
        return g
    first, filled = first_zero_as_one(x, dim)
    beyond = reverse_cumsum(g * cumprod(filled, dim), dim)
    before = reverse_cumsum(g * y, dim) / where(x == 0, 1.0, x)
    return where(first, beyond, where(x == 0, 0.0, before))


# --- higher ones, which multiply alone ------------------------------------------------------------


def recurrence(g: Any, x: Any, t: Any, dim: int) -> tuple[Any, Any]:
    """v[k] = g[k] + x[k - 1] * v[k - 1] along `dim`, and its tangent, t being that of x.

    None for none. By doubling: each pass makes v[k] depend on a v twice as far back.
    """
    v, dv = g, None if t is None else zeros_like(g)
    if not x.ndim:
        return v, dv
    a, da, distance = shifted(x, 1, dim), None if t is None else shifted(t, 1, dim), 1
    while distance < x.shape[dim]:
        before, further = shifted(v, distance, dim), shifted(a, distance, dim)
        if t is not None:
            dv = dv + da * before + a * shifted(dv, distance, dim)
            da = da * further + a * shifted(da, distance, dim)
        v, a, distance = v + a * before, a * further, 2 * distance
    return v, dv


def shifted(x: Any, distance: int, dim: int) -> Any:
    """y[k] = x[k - distance] along `dim`, 0 where there is none."""
    size = x.shape[dim]
    front = narrow(x, dim, 0, min(distance, size))
    return cat([zeros_like(front), narrow(x, dim, 0, max(size - distance, 0))], dim)


def products_before(x: Any, t: Any, dim: int) -> tuple[Any, Any]:
    """The product of the elements before each along `dim`, and its tangent."""
    if not x.ndim:
        return ones_like(x), zeros_like(x)
    size = x.shape[dim]
    first, rest = narrow(x, dim, 0, min(1, size)), narrow(x, dim, min(1, size), max(size - 1, 0))
    return recurrence(cat([ones_like(first), zeros_like(rest)], dim), x, t, dim)


def products_of_others_tangent(t: Any, x: Any, dim: int | None) -> Any:
    """The tangent of `products_of_others`, t being that of x."""
    if dim is None:
        return reshape(products_of_others_tangent(reshape(t, (-1,)), reshape(x, (-1,)), 0), x.shape)
    before, d_before = products_before(x, t, dim)
    after, d_after = (flip(part, dim) for part in products_before(flip(x, dim), flip(t, dim), dim))
    return d_before * after + before * d_after


def cumprod_tangent(t: Any, x: Any, dim: int) -> Any:
    """The tangent of cumprod(x), t being that of x."""
    before, d_before = products_before(x, t, dim)
    return before * t + d_before * x


def cumprod_reverse_tangent(t: Any, g: Any, x: Any, dim: int) -> Any:
    """The tangent of `cumprod_reverse`, t being that of x; also its cotangent, t being z's."""
    before, d_before = products_before(x, t, dim)
    after, d_after = (
        flip(part, dim) for part in recurrence(flip(g, dim), flip(x, dim), flip(t, dim), dim)
    )
    return d_before * after + before * d_after


# --- the functions --------------------------------------------------------------------------------


def prod(
    x: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The product over one dimension or over all."""
    dim, keepdim = dim if axis is None else axis, keepdim or keepdims
    if dtype is not None:
        kind = dtype_of(dtype).numpy
        return cast(prod(cast(x, kind), dim, keepdim), kind)
    return apply(Prod, x, dim=axes(x, dim), keepdim=keepdim)


def cumsum(x: Any, dim: Any = None, *, dtype: Any = None, axis: Any = None) -> Any:
    """The running sum along `dim`."""
    dim = required(dim, axis, "cumsum")
    if dtype is not None:
        kind = dtype_of(dtype).numpy
        return cast(cumsum(cast(x, kind), dim), kind)
    return apply(Cumsum, x, dim=dimension(dim, x.ndim))


def cumprod(x: Any, dim: Any = None, *, dtype: Any = None, axis: Any = None) -> Any:
    """The running product along `dim`."""
    dim = required(dim, axis, "cumprod")
    if dtype is not None:
        kind = dtype_of(dtype).numpy
        return cast(cumprod(cast(x, kind), dim), kind)
    return apply(Cumprod, x, dim=dimension(dim, x.ndim))
