"""Products of matrices and vectors beyond matmul, and the matrices of statistics."""

from __future__ import annotations

import builtins
import functools
import math
import warnings
from typing import Any

from nanotorch.backend import promote_types
from nanotorch.backend.dtypes import bool_
from nanotorch.ops.casting import cast, ones_like
from nanotorch.ops.cumulative import cumprod
from nanotorch.ops.elementwise import clamp, sqrt
from nanotorch.ops.indexing import roll
from nanotorch.ops.joining import broadcast_tensors, cat
from nanotorch.ops.linalg import _as, bmm, dot, inv, matmul, mv, outer, solve
from nanotorch.ops.operand_dtypes import alike
from nanotorch.ops.regions import embed
from nanotorch.ops.shapes import (
    BasicIndex,
    diagonal,
    dimension,
    expand,
    movedim,
    reshape,
    transpose,
    unsqueeze,
)
from nanotorch.ops.sums import mean, sum


def scaled_sum(x: Any, y: Any, beta: float, alpha: float) -> Any:
    """beta * x + alpha * y, in the dtype of y; x is not read for a beta of 0."""
    scaled = y if alpha == 1 else alpha * y
    if beta == 0:
        return expand(x, tuple(y.shape)).new_zeros(y.shape) + scaled
    x = _as(x, y)
    total = (x if beta == 1 else beta * x) + scaled
    return cast(total, bool_.numpy) if y.dtype is bool_ else total


def addmv(x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * (a @ b), of a matrix a and a vector b."""
    alike("addmv", x, a)
    return scaled_sum(x, mv(a, b), beta, alpha)


def addr(x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * outer(a, b), of two vectors."""
    return scaled_sum(x, outer(a, b), beta, alpha)


def addbmm(x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * the sum of the products of two batches of matrices."""
    alike("addbmm", x, a)
    return scaled_sum(x, sum(bmm(a, b), 0), beta, alpha)


def vdot(a: Any, b: Any) -> Any:
    """The dot product of two vectors, of which the first is conjugated."""
    return dot(a.conj(), b)


def kron(a: Any, b: Any) -> Any:
    """The Kronecker product: every element of a times b, as blocks; 1s in front where there are
    fewer dimensions."""
    ndim = max(a.ndim, b.ndim)
    first, second = ((1,) * (ndim - x.ndim) + tuple(x.shape) for x in (a, b))
    left = reshape(a, [size for n in first for size in (n, 1)])
    right = reshape(b, [size for n in second for size in (1, n)])
    return reshape(left * right, tuple(n * m for n, m in zip(first, second, strict=True)))


def cross(a: Any, b: Any, *, dim: int = -1) -> Any:
    """The cross products of the vectors of 3 elements along `dim`, which broadcast."""
    if a.ndim != b.ndim:
        raise RuntimeError(
            f"linalg.cross: inputs must have the same number of dimensions, got {a.ndim} and "
            f"{b.ndim}"
        )
    alike("linalg.cross", a, b)
    place = dimension(dim, a.ndim)
    if a.shape[place] != 3 or b.shape[place] != 3:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {a.shape[place]} and "
            f"{b.shape[place]}"
        )
    a, b = broadcast_tensors(a, b)
    return roll(a, -1, place) * roll(b, 1, place) - roll(a, 1, place) * roll(b, -1, place)


def vecdot(a: Any, b: Any, *, dim: int = -1) -> Any:
    """The dot products of the vectors along `dim`, which broadcast; the first are conjugated."""
    return sum(a.conj() * b, dim)


def vander(x: Any, *, N: int | None = None) -> Any:
    """The powers 0, 1, … N - 1 of each element, N being its number in x by default."""
    x = x if x.ndim else reshape(x, (1,))
    count = x.shape[-1] if N is None else N
    if count <= 1 and N is not None:
        raise RuntimeError("N must be greater than 1.")
    x = unsqueeze(x, -1)
    return cumprod(cat([ones_like(x), expand(x, (*x.shape[:-1], count - 1))], -1), -1)


def tensorinv(x: Any, ind: int = 2) -> Any:
    """The inverse of x as a map from its last dimensions to its first `ind`."""
    if ind <= 0:
        raise RuntimeError("Expected a strictly positive integer for 'ind'")
    front, back = tuple(x.shape[:ind]), tuple(x.shape[ind:])
    if math.prod(front) != math.prod(back):
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[ind:]) == "
            f"prod(self.shape[:ind]), but got {math.prod(back)} != {math.prod(front)}"
        )
    return reshape(inv(reshape(x, (math.prod(front), -1))), (*back, *front))


def tensorsolve(a: Any, b: Any, dims: Any = None) -> Any:
    """x such that tensordot(a, x, x.ndim) = b; `dims` of a are moved to its end before."""
    if dims is not None:
        places = [dimension(d, a.ndim) for d in dims]
        a = movedim(a, places, list(range(a.ndim - len(places), a.ndim)))
    shape = tuple(a.shape[b.ndim :])
    size = math.prod(shape)
    if size != math.prod(a.shape[: b.ndim]):
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == "
            f"prod(self.shape[:other.ndim]), but got {size} != {math.prod(a.shape[: b.ndim])}"
        )
    return reshape(solve(reshape(a, (-1, size)), reshape(b, (-1,))), shape)


def block_diag(*tensors: Any) -> Any:
    """Zeros with the matrices (rows, numbers) one after the other on the diagonal."""
    matrices = [reshape(t, (1,) * (2 - t.ndim) + tuple(t.shape)) for t in tensors]
    height, width = (builtins.sum(m.shape[d] for m in matrices) for d in (0, 1))
    kind = functools.reduce(promote_types, (m.dtype for m in matrices)).numpy
    y: Any = None
    row = column = 0
    for m in matrices:
        key = (slice(row, row + m.shape[0]), slice(column, column + m.shape[1]))
        block = embed(cast(m, kind), (height, width), ((BasicIndex, {"key": key}),))
        y = block if y is None else y + block
        row, column = row + m.shape[0], column + m.shape[1]
    return y


def cov(x: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """The covariances of the rows of x, of which each column is an observation.

    correction: what the number of observations is lessened by; fweights: how often each counts,
    whole numbers; aweights: how much.
    """
    if x.ndim > 2:
        raise RuntimeError(
            f"cov(): expected input to have two or fewer dimensions but got an input with {x.ndim} "
            "dimensions"
        )
    rows = reshape(x, (1, -1)) if x.ndim < 2 else x
    count = rows.shape[1]
    weights = None
    for name, w in (("fweights", fweights), ("aweights", aweights)):
        if w is None:
            continue
        if w.ndim > 1 or w.numel() != count:
            raise RuntimeError(
                f"cov(): expected {name} to have one element for each of {count} observations, got "
                f"{list(w.shape)}"
            )
        weights = w if weights is None else weights * w
    total: Any = count if weights is None else sum(weights)
    if weights is None:
        centered = rows - mean(rows, 1, True)
        right, divisor = centered, max(count - correction, 0)
        low = count <= correction
    else:
        centered = rows - sum(rows * weights, 1, True) / total
        right = centered * weights
        taken = total
        if aweights is not None:
            taken = total - correction * sum(weights * aweights) / total
        else:
            taken = total - correction
        low = bool(taken.detach() <= 0)
        divisor = clamp(taken, min=0)
    if low:
        warnings.warn(
            "cov(): degrees of freedom is <= 0. Correction should be strictly less than the number "
            "of observations.",
            stacklevel=4,
        )
    y = matmul(centered, transpose(right, 0, 1).conj()) / divisor
    return reshape(y, ()) if rows.shape[0] == 1 else y


def corrcoef(x: Any) -> Any:
    """The correlations of the rows of x, of which each column is an observation."""
    y = cov(x)
    if not y.ndim:
        return y / y
    deviation = sqrt(diagonal(y))
    return clamp(y / unsqueeze(deviation, 1) / unsqueeze(deviation, 0), -1, 1)
