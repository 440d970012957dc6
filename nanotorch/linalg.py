"""Linear algebra under the names of `torch.linalg`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.backend.errors import LinAlgError as LinAlgError
from nanotorch.backend.loading import on_demand
from nanotorch.creation import eye
from nanotorch.ops import (
    det as det,
    inv as inv,
    matmul as matmul,
    solve as solve,
)
from nanotorch.ops.decompositions import (
    cholesky as cholesky,
    cholesky_ex as cholesky_ex,
    eigh as eigh,
    eigvalsh as eigvalsh,
    inv_ex as inv_ex,
    lstsq as lstsq,
    matrix_exp as matrix_exp,
    matrix_rank as matrix_rank,
    pinv as pinv,
    qr as qr,
    slogdet as slogdet,
    solve_ex as solve_ex,
    solve_triangular as solve_triangular,
    svd as svd,
    svdvals as svdvals,
)
from nanotorch.ops.matrices import (
    cross as cross,
    tensorinv as tensorinv,
    tensorsolve as tensorsolve,
    vander as vander,
    vecdot as vecdot,
)
from nanotorch.ops.shapes import dimension

__getattr__, __dir__ = on_demand(__name__)  # names that stay out say what to use instead


def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """(sum |x| ** ord) ** (1 / ord) over `dim`, or over all elements."""
    return ops.norm(x, ord, dim, keepdim)


def norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False) -> Any:
    """The norm of vectors, or that of matrices where `dim` (or x) has two dimensions.

    Without `ord` that of all elements as one vector, over `dim` or over all.
    """
    dims = x.ndim if dim is None else 1 if isinstance(dim, int) else len(dim)
    if ord is None or (dims == 1 and not isinstance(ord, str)):
        return vector_norm(x, 2 if ord is None else ord, dim, keepdim)
    if dims != 2:
        raise RuntimeError(
            f"linalg.norm: the order {ord!r} is one of matrices, but {dims} dimensions are given"
        )
    return matrix_norm(x, ord, (0, 1) if dim is None else dim, keepdim)


def matrix_norm(
    x: Any, ord: Any = "fro", dim: tuple[int, int] = (-2, -1), keepdim: bool = False
) -> Any:
    """The norm of matrices in two dimensions of x.

    ord "fro": of all elements as one vector; "nuc", 2, -2: sum, largest, smallest singular value;
    1, -1: largest, smallest sum of a column's sizes; inf, -inf: of a row's.
    """
    rows, columns = (dimension(d, x.ndim) for d in dim)
    if ord in ("fro", "f"):
        return vector_norm(x, 2, (rows, columns), keepdim)
    if ord not in ("nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    y = ops.movedim(x, (rows, columns), (-2, -1))
    y = svdvals(y) if ord in ("nuc", 2, -2) else ops.sum(ops.abs(y), -2 if abs(ord) == 1 else -1)
    if ord == "nuc" or (ord > 0 and not y.shape[-1]):  # the largest of none is 0
        y = ops.sum(y, -1)
    else:
        y = ops.amax(y, -1) if ord > 0 else ops.amin(y, -1)
    for d in sorted((rows, columns)) if keepdim else ():
        y = ops.unsqueeze(y, d)
    return y


def matrix_power(x: Any, n: int) -> Any:
    """The product of n copies of each square matrix; of its inverse for a negative n."""
    if n < 0:
        return matrix_power(inv(x), -n)
    if n == 0:
        return x.clone().copy_(eye(x.shape[-1], dtype=x.dtype, device=x.device))
    half = matrix_power(x, n // 2) if n > 1 else None
    if half is None:
        return x
    return matmul(matmul(half, half), x) if n % 2 else matmul(half, half)


def multi_dot(matrices: Sequence[Any]) -> Any:
    """The product of several matrices, from left to right."""
    y = matrices[0]
    for matrix in matrices[1:]:
        y = matmul(y, matrix)
    return y


def diagonal(x: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The given diagonal of two dimensions, by default the last two, as a view."""
    return ops.diagonal(x, offset, dim1, dim2)


def cond(x: Any, p: Any = None) -> Any:
    """The condition numbers of matrices: the largest singular value over the smallest, or, for the
    orders of `matrix_norm`, the norm times that of the inverse; infinite where singular."""
    if p in (None, 2, -2):
        values = svdvals(x)
        if not values.shape[-1]:
            return ops.sum(values, -1)
        ends = ops.select(values, -1, 0), ops.select(values, -1, values.shape[-1] - 1)
        return ends[1] / ends[0] if p == -2 else ends[0] / ends[1]
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise RuntimeError(
            f"linalg.cond: with the order {p!r}, A must be batches of square matrices, got "
            f"{tuple(x.shape)}"
        )
    if not x.numel():
        return x.new_zeros(x.shape[:-2])
    inverse, info = inv_ex(x)
    y = matrix_norm(x, p) * matrix_norm(inverse, p)
    return ops.where((info > 0) | ops.isnan(y), math.inf, y)
