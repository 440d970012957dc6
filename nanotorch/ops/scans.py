"""Running extremes and sums of exponentials, integrals and gradients of sampled functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.casting import into, zeros_like
from nanotorch.ops.comparisons import where
from nanotorch.ops.cumulative import cumsum, recurrence, running as running_result
from nanotorch.ops.elementwise import exp
from nanotorch.ops.indexing import Gather, flip
from nanotorch.ops.joining import cat
from nanotorch.ops.reductions import ValuesAndIndices, along
from nanotorch.ops.shapes import dimension, narrow, required, reshape
from nanotorch.ops.sums import sum
from nanotorch.primitive import Primitive, apply


class CummaxAlong(Gather):
    """y = the elements of x at the indices of the running maxima along `dim`"""

    backward_name = "CummaxBackward0"


class CumminAlong(Gather):
    """y = the elements of x at the indices of the running minima along `dim`"""

    backward_name = "CumminBackward0"


class RunningExtreme(Primitive):
    """y = the index of the largest (or smallest) element of x so far along `dim`, the latest of
    equal ones"""

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, largest: bool, out: Array | None = None) -> Array:
        if not x.ndim:
            return into(xp, xp.zeros((), xp.int64), out)
        best = accumulated(xp, "maximum" if largest else "minimum", x, dim)
        kind = xp.int64 if xp is HOST or x.shape[dim] >= 2**31 else xp.int32  # half of the memory
        places = xp.arange(x.shape[dim], dtype=kind)
        places = places.reshape([-1 if d == dim else 1 for d in range(x.ndim)])
        found = (x == best) | (x != x)
        if xp is HOST and dim == x.ndim - 1:  # each one up to the next, quicker
            first = HOST.flatnonzero(found)
            y = HOST.repeat(first % x.shape[dim], HOST.diff(first, append=x.size))
            return into(xp, y.reshape(x.shape), out)
        places = xp.multiply(found, places, dtype=kind)
        return into(xp, accumulated(xp, "maximum", places, dim).astype(xp.int64, copy=False), out)


class Logcumsumexp(Primitive):
    """y = log of the running sum of exp(x) along `dim`"""

    vjp = (lambda g, x, y, dim: logcumsumexp_reverse(g, x, y, dim),)
    jvp = (lambda t, x, y, dim: logcumsumexp_tangent(t, x, y, dim),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, out: Array | None = None) -> Array:
        if not x.ndim or not x.size:
            return x.copy() if out is None else into(xp, x, out)
        with HOST.errstate(all="ignore"):
            return into(xp, accumulated(xp, "logaddexp", x, dim), out)


def accumulated(xp: Any, name: str, x: Array, dim: int) -> Array:
    """The running result of an associative function of two operands along `dim`."""
    operation = getattr(xp, name)
    if xp is HOST:
        return running_result(operation, x, dim)
    y = xp.array(x, order="C")  # CuPy has none: by doubling, from one array into the other
    z, size, distance = xp.empty_like(y), x.shape[dim], 1
    while distance < size:
        front, back = (
            (*(slice(None),) * dim, part)
            for part in (slice(size - distance), slice(distance, size))
        )
        operation(y[back], y[front], out=z[back])
        first = (*(slice(None),) * dim, slice(distance))
        z[first] = y[first]
        y, z, distance = z, y, 2 * distance
    return y


def growth(y: Any, dim: int) -> Any:
    """exp(y[k] - y[k + 1]) along `dim`, at most 1; 0 at the end, and where there is no sum yet."""
    size = y.shape[dim]
    first, second = narrow(y, dim, 0, size - 1), narrow(y, dim, 1, size - 1)
    steps = where(first == -float("inf"), 0.0, exp(first - second))
    return cat([steps, zeros_like(narrow(y, dim, 0, 1))], dim)


def share(x: Any, y: Any) -> Any:
    """exp(x - y), 0 where both are 0 before the logarithm."""
    return where(x == -float("inf"), 0.0, exp(x - y))


def logcumsumexp_reverse(g: Any, x: Any, y: Any, dim: int) -> Any:
    """The cotangent of x: the sums of g exp(x - y) from the end, whose factors are at most 1."""
    if not x.ndim:
        return g
    if not x.shape[dim]:
        return zeros_like(x)
    last = x.shape[dim] - 1
    factors = flip(narrow(growth(y, dim), dim, 0, last), dim)
    moved = cat([factors, zeros_like(narrow(x, dim, 0, 1))], dim)
    total = recurrence(flip(g, dim), moved, None, dim)[0]
    return flip(total, dim) * share(x, y)


def logcumsumexp_tangent(t: Any, x: Any, y: Any, dim: int) -> Any:
    """The tangent of y: the running sums of t exp(x - y)."""
    if not x.ndim or not x.shape[dim]:
        return t
    steps = growth(y, dim)
    return recurrence(t * share(x, y), steps, None, dim)[0]


def cummax(x: Any, dim: Any = None, *, axis: Any = None) -> ValuesAndIndices:
    """The largest element so far along `dim`, and its index, the latest of equal ones."""
    return running(CummaxAlong, x, required(dim, axis, "cummax"))


def cummin(x: Any, dim: Any = None, *, axis: Any = None) -> ValuesAndIndices:
    """The smallest element so far along `dim`, and its index, the latest of equal ones."""
    return running(CumminAlong, x, required(dim, axis, "cummin"))


def running(primitive: type[Primitive], x: Any, dim: int) -> ValuesAndIndices:
    """The running extremes and their indices."""
    place = dimension(dim, x.ndim)
    indices = apply(RunningExtreme, x, dim=place, largest=primitive is CummaxAlong)
    return along(primitive, x, indices, place, True)


def logcumsumexp(x: Any, dim: Any = None, *, axis: Any = None) -> Any:
    """log of the running sum of exp(x) along `dim`, without overflow."""
    kind = getattr(x, "_array", x).dtype.kind
    if kind in "biu":
        raise RuntimeError(f"logcumsumexp: expected a floating-point dtype, got {x.dtype}")
    return apply(Logcumsumexp, x, dim=dimension(required(dim, axis, "logcumsumexp"), x.ndim))


def trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    """The integral along `dim` of a function with the values y at x, or every `dx`."""
    return sum(trapezoids(y, x, dx, dim), dim)


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: float = 1, dim: int = -1) -> Any:
    """The integrals along `dim` from the first value of y to each other one."""
    return cumsum(trapezoids(y, x, dx, dim), dim)


trapz = trapezoid


def trapezoids(y: Any, x: Any, dx: Any, dim: int) -> Any:
    """The areas between neighbours along `dim`."""
    place = dimension(dim, y.ndim)
    size = max(y.shape[place] - 1, 0)
    sums = narrow(y, place, min(1, y.shape[place]), size) + narrow(y, place, 0, size)
    if x is None:
        return sums * (dx / 2)
    if x.ndim == 1 and y.ndim > 1:
        x = reshape(x, (-1, *(1,) * (y.ndim - 1 - place)))
        place = 0
    elif x.ndim < y.ndim:
        x = reshape(x, (*(1,) * (y.ndim - x.ndim), *x.shape))
    n = max(x.shape[place] - 1, 0)
    return sums * (narrow(x, place, min(1, x.shape[place]), n) - narrow(x, place, 0, n)) / 2


def gradient(x: Any, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> tuple[Any, ...]:
    """The derivatives along each dimension of a function with the values x, by differences.

    spacing: the distance of neighbours, or their coordinates as a vector, one for all dimensions or
    one each; edge_order 1 or 2: of the differences at the ends.
    """
    dims = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    dims = [dimension(d, x.ndim) for d in dims]
    spacing = 1 if spacing is None else spacing
    each = isinstance(spacing, list | tuple)
    if each and len(spacing) != len(dims):
        raise RuntimeError(
            f"torch.gradient expected spacing to be unspecified, a scalar or it's spacing and dim "
            f"arguments to have the same length, but got a spacing argument of length "
            f"{len(spacing)} and a dim argument of length {len(dims)}."
        )
    if edge_order not in (1, 2):
        raise RuntimeError("torch.gradient only supports edge_order=1 and edge_order=2.")
    for d in dims:
        if x.shape[d] < edge_order + 1:
            raise RuntimeError(
                "torch.gradient expected each dimension size to be at least edge_order+1"
            )
    steps: Sequence[Any] = spacing if each else [spacing] * len(dims)
    return tuple(slope(x, h, d, edge_order) for h, d in zip(steps, dims, strict=True))


def slope(x: Any, spacing: Any, dim: int, edge_order: int) -> Any:
    """The derivative along `dim`: central differences inside, one-sided ones at the ends."""
    n = x.shape[dim]

    if getattr(spacing, "ndim", 0):
        places = reshape(spacing, [-1 if d == dim else 1 for d in range(x.ndim)])
        h = narrow(places, dim, 1, n - 1) - narrow(places, dim, 0, n - 1)
    else:
        ones = narrow(x, dim, 0, n - 1).detach() * 0 + 1
        h = ones * spacing
    d = (narrow(x, dim, 1, n - 1) - narrow(x, dim, 0, n - 1)) / h
    first, last = narrow(d, dim, 0, 1), narrow(d, dim, n - 2, 1)
    if n == 2:
        return cat([first, last], dim)
    before, after = narrow(h, dim, 0, n - 2), narrow(h, dim, 1, n - 2)
    left, right = narrow(d, dim, 0, n - 2), narrow(d, dim, 1, n - 2)
    inside = (left * after + right * before) / (before + after)
    if edge_order == 2:
        h0, h1 = narrow(h, dim, 0, 1), narrow(h, dim, 1, 1)
        first = first + (first - narrow(d, dim, 1, 1)) * h0 / (h0 + h1)
        h0, h1 = narrow(h, dim, n - 2, 1), narrow(h, dim, n - 3, 1)
        last = last + (last - narrow(d, dim, n - 3, 1)) * h0 / (h0 + h1)
    return cat([first, inside, last], dim)
