"""Linear algebra under the names of `torch.linalg`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.creation import eye
from nanotorch.ops import (
    det as det,
    inv as inv,
    matmul as matmul,
    slogdet as slogdet,
    solve as solve,
)


def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """(sum |x| ** ord) ** (1 / ord) over `dim`, or over all elements."""
    return ops.norm(x, ord, dim, keepdim)


def norm(x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False) -> Any:
    """The norm of a vector of any order, or the Frobenius norm (ord None or "fro") of matrices."""
    dims = x.ndim if dim is None else 1 if isinstance(dim, int) else len(dim)
    if ord in (None, "fro") or dims == 1:
        return ops.norm(x, 2 if ord in (None, "fro") else ord, dim, keepdim)
    raise NotImplementedError(
        f"linalg.norm: of matrices only the Frobenius norm is there, got ord={ord!r}"
    )


def matrix_power(x: Any, n: int) -> Any:
    """The product of n copies of each square matrix; of its inverse for a negative n."""
    if n < 0:
        return matrix_power(inv(x), -n)
    if n == 0:
        return eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(x.shape).clone()
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
