"""Linear algebra under the names that PyTorch had before `linalg`, with its warnings."""

from __future__ import annotations

import warnings
from typing import Any

from nanotorch.ops import decompositions, matrices
from nanotorch.ops.joining import broadcast_tensors
from nanotorch.ops.outputs import named

QR, SVD = named("qr", "Q", "R"), named("svd", "U", "S", "V")
SLOGDET = named("slogdet", "sign", "logabsdet")
TRIANGULAR = named("triangular_solve", "solution", "cloned_coefficient")


def outdated(name: str, instead: str) -> None:
    """PyTorch's warning at names that `linalg` replaces."""
    warnings.warn(
        f"torch.{name} is deprecated in favor of torch.linalg.{instead} and will be removed in a "
        "future PyTorch release.",
        stacklevel=4,
    )


def cholesky(x: Any, upper: bool = False) -> Any:
    """The lower triangular l with l lᵀ = x; deprecated, as in PyTorch: use `linalg.cholesky`."""
    outdated("cholesky", "cholesky")
    return decompositions.cholesky(x, upper=upper)


def qr(x: Any, some: bool = True) -> Any:
    """(Q, R) with Q @ R = x; deprecated, as in PyTorch: use `linalg.qr`."""
    outdated("qr", "qr")
    return QR(*decompositions.qr(x, "reduced" if some else "complete"))


def svd(x: Any, some: bool = True, compute_uv: bool = True) -> Any:
    """(U, S, V) with U @ diag(S) @ V.mT = x; `linalg.svd` gives V.mT, and all vectors by default.

    Without `compute_uv` U and V are zeros.
    """
    if compute_uv:
        u, s, v = decompositions.svd(x, not some)
        return SVD(u, s, decompositions.turned(v))
    m, n = x.shape[-2:]
    sizes = [(*x.shape[:-2], m, m), (*x.shape[:-2], n, n)]
    return SVD(x.new_zeros(sizes[0]), decompositions.svdvals(x), x.new_zeros(sizes[1]))


def triangular_solve(
    b: Any, a: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:
    """(x, a) with a @ x = b; deprecated, as in PyTorch: use `linalg.solve_triangular`."""
    outdated("triangular_solve", "solve_triangular")
    source, side = (decompositions.turned(a), not upper) if transpose else (a, upper)
    return TRIANGULAR(decompositions.triangular(source, b, side, unitriangular), a.clone())


def pinverse(x: Any, rcond: float = 1e-15) -> Any:
    """The pseudo-inverse of matrices; `linalg.pinv` with another default."""
    return decompositions.pinv(x, rtol=rcond)


def slogdet(x: Any) -> Any:
    """(sign, logabsdet) of the determinants of square matrices."""
    return SLOGDET(*decompositions.slogdet(x))


def cross(a: Any, b: Any, dim: int | None = None) -> Any:
    """The cross products along `dim`, or along the first dimension of size 3, which is deprecated
    as in PyTorch."""
    if dim is not None:
        return matrices.cross(a, b, dim=dim)
    warnings.warn(
        "Using torch.cross without specifying the dim arg is deprecated.\nPlease either pass the "
        "dim explicitly or simply use torch.linalg.cross.",
        stacklevel=4,
    )
    a, b = broadcast_tensors(a, b)
    if 3 not in a.shape:
        raise RuntimeError("no dimension of size 3 in input")
    return matrices.cross(a, b, dim=tuple(a.shape).index(3))
