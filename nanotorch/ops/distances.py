"""The distances of rows from rows."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import Array, array_module, cuda_parts
from nanotorch.ops.casting import into
from nanotorch.ops.keys import on_host
from nanotorch.ops.linalg import matmul
from nanotorch.ops.operand_dtypes import alike, needs_floats
from nanotorch.ops.shapes import narrow, transpose, unsqueeze
from nanotorch.ops.statistics import norm
from nanotorch.ops.sums import sum
from nanotorch.primitive import Elementwise, Primitive, apply

MANY = 1 << 16  # differences; fewer are taken one by one
AT_ONCE = 1 << 20  # of those that products would not be exact enough for
# Beyond this share of the squares of both lengths a squared distance has all but a few bits.
FAR = 1 / 16


class Cdist(Primitive):
    """y = the Euclidean distances (…, m, n) of the rows of a (…, m, k) from those of b (…, n, k)

    By products, |a|² - 2 a·b + |b|², in a hundredth of the time and memory that the differences of
    all pairs would take. Of pairs that are close, where these cancel, by their differences. On a
    GPU, whose kernel keeps no differences, of all by these.
    """

    vjp = (
        lambda g, a, b, y: pulled(over(g, y), a, b),
        lambda g, a, b, y: pulled(transpose(over(g, y), -2, -1), b, a),
    )
    jvp = (
        lambda t, a, b, y: pushed(t, a, b, y),
        lambda t, a, b, y: transpose(pushed(t, b, a, transpose(y, -2, -1)), -2, -1),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        p, q = around_the_middle(a, b)
        lengths = xp.square(p).sum(-1)[..., None] + xp.square(q).sum(-1)[..., None, :]
        y = xp.matmul(p, q.swapaxes(-1, -2))
        y = xp.add(xp.multiply(y, -2, out=y), lengths, out=y)
        *batch, i, j = xp.nonzero(~(y >= lengths * FAR) | xp.isinf(lengths))
        y = xp.sqrt(xp.maximum(y, 0, out=y), out=y)
        rows, others = (xp.broadcast_to(x, (*y.shape[:-2], *x.shape[-2:])) for x in (a, b))
        step = max(1, AT_ONCE // max(a.shape[-1], 1))
        for start in range(0, len(i), step):
            at = slice(start, start + step)
            front = tuple(index[at] for index in batch)
            y[(*front, i[at], j[at])] = norm(rows[(*front, i[at])] - others[(*front, j[at])], 2, -1)
        return into(xp, y, out)


def around_the_middle(a: Any, b: Any) -> tuple[Any, Any]:
    """a and b less one row, so that both are small: the median of three rows of b, for which no
    single row far off decides, and 0 where that is not finite."""
    n = b.shape[-2]
    one, two, three = (narrow(b, -2, row, 1) for row in (0, n // 2, n - 1))
    middle = apply(Middle, one, two, three)
    return a - middle, b - middle


class Middle(Elementwise):
    """y = the median of three numbers, or 0 where that is not finite

    Without a slope: what is less the middle on both sides does not depend on it.
    """

    vjp = (None, None, None)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, c: Array, out: Array | None = None) -> Array:
        y = xp.maximum(xp.minimum(a, b), xp.minimum(xp.maximum(a, b), c))
        return into(xp, xp.where(xp.isfinite(y), y, y.dtype.type(0)), out)


class Over(Elementwise):
    """y = a / b, and 0 where b is 0"""

    vjp = (lambda g, b: over(g, b), lambda g, b, y: -over(g * y, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        zero, one = b.dtype.type(0), b.dtype.type(1)
        return into(xp, xp.where(b == 0, zero, a / xp.where(b == 0, one, b)), out)


def over(a: Any, b: Any) -> Any:
    """a / b, and 0 where b is 0."""
    return apply(Over, a, b)


def pulled(share: Any, a: Any, b: Any) -> Any:
    """The cotangent of a: the sum over b of share (a - b), the share being g / y, or 0 at distance
    0."""
    a, b = around_the_middle(a, b)
    return a * sum(share, -1, True) - matmul(share, b)


def pushed(t: Any, a: Any, b: Any, y: Any) -> Any:
    """The tangent of y for t, that of a: (a - b)·t / y."""
    a, b = around_the_middle(a, b)
    along = unsqueeze(sum(a * t, -1), -1) - matmul(t, transpose(b, -2, -1))
    return over(along, y)


def takes(array: Any) -> bool:
    """Whether `Cdist` computes at once what is of this array: on a GPU by a kernel of ours, since
    its own would wait."""
    return on_host(array) or cuda_parts.kernels.available(array_module(array))


def cdist(a: Any, b: Any, p: float = 2.0, compute_mode: str | None = None) -> Any:
    """The distances (…, m, n), by the p-norm, of the rows of a (…, m, k) from those of b.

    As exact as by the differences, whatever `compute_mode` says.
    """
    needs_floats("cdist", a)
    alike("cdist", a, b)
    if p == 2 and math.prod(a.shape) * b.shape[-2] >= MANY and takes(getattr(a, "_array", a)):
        return apply(Cdist, a, b)
    return norm(unsqueeze(a, -2) - unsqueeze(b, -3), p, -1)
