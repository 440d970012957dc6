"""The distances of rows from rows."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import Array
from nanotorch.ops.casting import into
from nanotorch.ops.comparisons import isfinite, where
from nanotorch.ops.keys import on_host
from nanotorch.ops.linalg import matmul
from nanotorch.ops.operand_dtypes import alike, needs_floats
from nanotorch.ops.pairs import maximum, minimum
from nanotorch.ops.shapes import narrow, transpose, unsqueeze
from nanotorch.ops.statistics import norm
from nanotorch.ops.sums import sum
from nanotorch.primitive import Primitive, apply

MANY = 1 << 16  # differences; fewer are taken one by one
AT_ONCE = 1 << 20  # of those that products would not be exact enough for
# Beyond this share of the squares of both lengths a squared distance has all but a few bits.
FAR = 1 / 16


class Cdist(Primitive):
    """y = the Euclidean distances (…, m, n) of the rows of a (…, m, k) from those of b (…, n, k)

    By products, |a|² - 2 a·b + |b|², in a hundredth of the time and memory that the differences of
    all pairs would take. Of pairs that are close, where these cancel, by their differences.
    """

    vjp = (
        lambda g, a, b, y: pulled(g, a, b, y),
        lambda g, a, b, y: pulled(transpose(g, -2, -1), b, a, transpose(y, -2, -1)),
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
    middle = maximum(minimum(one, two), minimum(maximum(one, two), three))
    middle = where(isfinite(middle), middle, 0.0)
    return a - middle, b - middle


def pulled(g: Any, a: Any, b: Any, y: Any) -> Any:
    """The cotangent of a: the sum over b of g (a - b) / y, of which those at distance 0 are 0."""
    share = where(y == 0, 0.0, g / where(y == 0, 1.0, y))
    a, b = around_the_middle(a, b)
    return a * sum(share, -1, True) - matmul(share, b)


def pushed(t: Any, a: Any, b: Any, y: Any) -> Any:
    """The tangent of y for t, that of a: (a - b)·t / y."""
    a, b = around_the_middle(a, b)
    along = unsqueeze(sum(a * t, -1), -1) - matmul(t, transpose(b, -2, -1))
    return where(y == 0, 0.0, along / where(y == 0, 1.0, y))


def cdist(a: Any, b: Any, p: float = 2.0, compute_mode: str | None = None) -> Any:
    """The distances (…, m, n), by the p-norm, of the rows of a (…, m, k) from those of b.

    As exact as by the differences, whatever `compute_mode` says.
    """
    needs_floats("cdist", a)
    alike("cdist", a, b)
    if p == 2 and on_host(getattr(a, "_array", a)) and math.prod(a.shape) * b.shape[-2] >= MANY:
        return apply(Cdist, a, b)
    return norm(unsqueeze(a, -2) - unsqueeze(b, -3), p, -1)
