"""Factorizations of matrices, and what is solved by them; all over leading dimensions.

A primitive has one output, so one that computes several matrices packs them along the last
dimension, and `Part` takes them out. Rules: Giles, Collected matrix derivative results for forward
and reverse mode algorithmic differentiation (2008); Walter and Lehmann, Algorithmic differentiation
of linear algebra functions (2012); Golub and Pereyra, The differentiation of pseudo-inverses and
nonlinear least squares problems whose variables separate (1973).

As in PyTorch, gradients of singular vectors and eigenvectors are right where the function does not
depend on their signs, and not finite where values coincide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, MODULES, Array, dtype_of, finfo
from nanotorch.backend.errors import LinAlgError
from nanotorch.ops.casting import into, ones_like
from nanotorch.ops.comparisons import isfinite, where
from nanotorch.ops.joining import cat, tril, triu
from nanotorch.ops.linalg import (
    InvEx,
    Solve,
    matmul,
    slogdet as slogdet_of,
    solved,
    where_regular,
    zero_pivot,
)
from nanotorch.ops.outputs import named
from nanotorch.ops.regions import embed
from nanotorch.ops.shapes import (
    BasicIndex,
    Shape,
    diag_embed,
    diagonal,
    narrow,
    reshape,
    transpose,
    unsqueeze,
)
from nanotorch.ops.sums import sum
from nanotorch.primitive import Linear, Primitive, apply


class Part(Linear):
    """y = a part of the last dimension of x, from `start` on, in the shape of a matrix or vector"""

    vjp = (lambda g, x_shape, start, shape: placed(g, x_shape, start, shape),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, start: int, shape: Shape, title: str, out: Array | None = None
    ) -> Array:
        y = x[..., start : start + math.prod(shape)].reshape((*x.shape[:-1], *shape))
        return xp.array(y) if out is None else into(xp, y, out)

    def name(self) -> str:
        return str(self.attributes["title"])


def placed(g: Any, shape: Shape, start: int, matrix: Shape) -> Any:
    """Zeros of `shape` with g where `Part` takes it from."""
    size = math.prod(matrix)
    path = ((BasicIndex, {"key": (Ellipsis, slice(start, start + size))}),)
    return embed(reshape(g, (*shape[:-1], size)), tuple(shape), path)


def packed(xp: Any, parts: Sequence[Array], batch: Shape, out: Array | None) -> Array:
    """Matrices and vectors along one last dimension."""
    rows = [part.reshape((*batch, math.prod(part.shape[len(batch) :]))) for part in parts]
    return xp.concatenate(rows, axis=-1, out=out)


def parts_of(y: Any, shapes: Sequence[Shape], title: str = "SliceBackward0") -> list[Any]:
    """The matrices and vectors that were packed."""
    parts, start = [], 0
    for shape in shapes:
        parts.append(apply(Part, y, start=start, shape=shape, title=title))
        start += math.prod(shape)
    return parts


def turned(x: Any) -> Any:
    """Each matrix transposed."""
    return transpose(x, -2, -1)


def off_diagonal(x: Any, divisor: Any) -> Any:
    """x / divisor, and 0 on the diagonals."""
    on = diag_embed(ones_like(diagonal(x, 0, -2, -1)))
    return where(on != 0, 0.0, quotient(x, where(on != 0, 1.0, divisor)))


def quotient(x: Any, divisor: Any) -> Any:
    """x / divisor, and 0 where both are: what no value turns on has no slope there."""
    nothing = (x == 0) & (divisor == 0)
    return where(nothing, 0.0, x / where(nothing, 1.0, divisor))


def differences(values: Any) -> Any:
    """The matrix of values[k] - values[j] in row j and column k."""
    return unsqueeze(values, -2) - unsqueeze(values, -1)


# --- Cholesky -------------------------------------------------------------------------------------


class Cholesky(Primitive):
    """y = the lower triangular matrix with y yᵀ = x; NaN where there is none, unless it is an error

    `op`: the name of the function that refuses such an x; "" fills with NaN.
    """

    backward_name = "LinalgCholeskyExBackward0"
    vjp = (lambda g, y: cholesky_reverse(g, y),)
    jvp = (lambda t, y: matmul(y, lower_half(between(y, t))),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, op: str, out: Array | None = None) -> Array:
        try:
            y = xp.linalg.cholesky(x)
            regular = is_regular(xp, y)
        except xp.linalg.LinAlgError:
            regular = False
        if not regular:
            y = xp.full(x.shape, xp.nan, x.dtype)
            for index, place in enumerate(HOST.ndindex(x.shape[:-2])):
                minor = failing_minor(xp, x[place])
                if minor and op:
                    raise LinAlgError(
                        f"{op}: {f'(Batch element {index}): ' * (x.ndim > 2)}The factorization "
                        "could not be completed because the input is not positive-definite (the "
                        f"leading minor of order {minor} is not positive-definite)."
                    ) from None
                if not minor:
                    y[place] = xp.linalg.cholesky(x[place])
        return into(xp, y, out)


class CholeskyInfo(Primitive):
    """y = the order of the first leading minor that is not positive, int32; 0 where all are"""

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        orders = [failing_minor(xp, x[place]) for place in HOST.ndindex(x.shape[:-2])]
        return into(xp, xp.asarray(orders, xp.int32).reshape(x.shape[:-2]), out)


def has_factor(xp: Any, matrix: Array) -> bool:
    """Whether a symmetric matrix has a Cholesky factor."""
    try:
        return is_regular(xp, xp.linalg.cholesky(matrix))
    except xp.linalg.LinAlgError:
        return False


def is_regular(xp: Any, factor: Array) -> bool:
    """Whether the diagonal of a triangular matrix has neither 0 nor NaN; not asked of a device."""
    diagonal = factor.diagonal(0, -2, -1)
    return xp is not HOST or bool(((diagonal < 0) | (diagonal > 0)).all())


def failing_minor(xp: Any, matrix: Array) -> int:
    """The order of the first leading minor that has no Cholesky factor; 0 where all have one."""
    if has_factor(xp, matrix):
        return 0
    orders = range(1, int(matrix.shape[0]) + 1)
    return next(n for n in orders if not has_factor(xp, matrix[:n, :n]))


def lower_half(x: Any) -> Any:
    """The lower triangle of x, of whose diagonal half."""
    return (tril(x) + tril(x, -1)) / 2


def between(factor: Any, t: Any) -> Any:
    """factor⁻¹ t factor⁻ᵀ for a lower triangular factor."""
    return triangular(factor, turned(triangular(factor, turned(t))))


def cholesky_reverse(g: Any, y: Any) -> Any:
    """The cotangent of x, which is symmetric."""
    half = lower_half(matmul(turned(y), g))
    both = half + turned(half)
    left = triangular(turned(y), both, upper=True)
    return turned(triangular(turned(y), turned(left), upper=True)) / 2


# --- QR -------------------------------------------------------------------------------------------


class Qr(Primitive):
    """y = [q | r], q r = x with orthonormal columns in q and a triangular r; or r alone"""

    backward_name = "LinalgQrBackward0"
    vjp = (lambda g, y, x_shape, mode: qr_reverse(g, y, x_shape, mode),)
    jvp = (lambda t, y, x_shape, mode: qr_tangent(t, y, x_shape, mode),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, mode: str, out: Array | None = None) -> Array:
        factors = xp.linalg.qr(x, mode)
        return packed(xp, (factors,) if mode == "r" else tuple(factors), x.shape[:-2], out)


def qr_shapes(shape: Shape, mode: str) -> list[Shape]:
    """The shapes of q and r, or of r alone."""
    m, n = shape[-2:]
    k = m if mode == "complete" else min(m, n)
    return [(k, n)] if mode == "r" else [(m, k), (k, n)]


def check_qr(shape: Shape, mode: str) -> None:
    """RuntimeError where there is no derivative."""
    if mode == "r":
        raise RuntimeError(
            "The derivative of linalg.qr depends on Q, which is not computed when mode='r'. Please "
            "use linalg.qr(A, mode='reduced') if you are going to differentiate through linalg.qr."
        )
    if mode == "complete":
        raise RuntimeError(
            "The QR decomposition is not differentiable when mode='complete' and nrows > ncols."
        )


def qr_reverse(g: Any, y: Any, shape: Shape, mode: str) -> Any:
    """The cotangent of a matrix of at least as many rows as columns."""
    check_qr(shape, mode)
    (q, r), (gq, gr) = (parts_of(part, qr_shapes(shape, mode)) for part in (y, g))
    half = triu(matmul(gr, turned(r)) - matmul(turned(q), gq))
    inner = gq + matmul(q, half + turned(triu(half, 1)))
    return turned(triangular(r, turned(inner), upper=True))


def qr_tangent(t: Any, y: Any, shape: Shape, mode: str) -> Any:
    """The tangents of q and r, packed."""
    check_qr(shape, mode)
    q, r = parts_of(y, qr_shapes(shape, mode))
    outer = turned(triangular(turned(r), turned(t)))  # t r⁻¹
    inner = matmul(turned(q), outer)
    turn = tril(inner, -1)
    upper = inner - (turn - turned(turn))
    tangents = (outer - matmul(q, upper), matmul(upper, r))
    return cat([reshape(part, (*shape[:-2], math.prod(part.shape[-2:]))) for part in tangents], -1)


# --- singular values and eigenvalues --------------------------------------------------------------


class Svd(Primitive):
    """y = [u | s | v], x = u diag(s) v, s the singular values, the largest first"""

    backward_name = "LinalgSvdBackward0"
    vjp = (lambda g, y, x_shape, full: svd_reverse(g, y, x_shape, full),)
    jvp = (lambda t, y, x_shape, full: svd_tangent(t, y, x_shape, full),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, full: bool, out: Array | None = None) -> Array:
        return packed(xp, xp.linalg.svd(x, full_matrices=full), x.shape[:-2], out)


def svd_shapes(shape: Shape, full: bool) -> list[Shape]:
    """The shapes of u, s and v."""
    m, n = shape[-2:]
    k = min(m, n)
    return [(m, m if full else k), (k,), (n if full else k, n)]


def svd_parts(y: Any, shape: Shape, full: bool) -> tuple[Any, Any, Any]:
    """u, s and v, with as many vectors as there are values."""
    u, s, v = parts_of(y, svd_shapes(shape, full))
    k = min(shape[-2:])
    return (narrow(u, -1, 0, k), s, narrow(v, -2, 0, k)) if full else (u, s, v)


def svd_reverse(g: Any, y: Any, shape: Shape, full: bool) -> Any:
    """The cotangent of x."""
    (u, s, v), (gu, gs, gv) = (svd_parts(part, shape, full) for part in (y, g))
    m, n = shape[-2:]
    gaps = differences(s * s)
    along_u, along_v = matmul(turned(u), gu), matmul(gv, turned(v))
    turns_u = off_diagonal(along_u - turned(along_u), gaps) * unsqueeze(s, -2)
    turns_v = off_diagonal(turned(along_v) - along_v, gaps) * unsqueeze(s, -1)
    inner = turns_u + turns_v + diag_embed(gs)
    left = matmul(u, inner)
    if m > n:
        left = left + quotient(gu - matmul(u, along_u), unsqueeze(s, -2))
    x = matmul(left, v)
    if m < n:
        x = x + matmul(u, quotient(gv - matmul(along_v, v), unsqueeze(s, -1)))
    return x


def svd_tangent(t: Any, y: Any, shape: Shape, full: bool) -> Any:
    """The tangents of u, s and v, packed."""
    m, n = shape[-2:]
    if full and m != n:
        raise RuntimeError(
            "linalg.svd: there is no forward derivative with full_matrices=True, unless the "
            "matrices are square; use full_matrices=False"
        )
    u, s, v = svd_parts(y, shape, full)
    inner = matmul(matmul(turned(u), t), turned(v))
    gaps, across, down = differences(s * s), unsqueeze(s, -2), unsqueeze(s, -1)
    turn_u = off_diagonal(inner * across + down * turned(inner), gaps)
    turn_v = off_diagonal(down * inner + turned(inner) * across, gaps)
    du, dv = matmul(u, turn_u), matmul(turned(turn_v), v)
    if m > n:
        beside = matmul(t, turned(v))
        du = du + (beside - matmul(u, matmul(turned(u), beside))) / across
    if m < n:
        beside = matmul(turned(u), t)
        dv = dv + (beside - matmul(matmul(beside, turned(v)), v)) / down
    tangents = (du, unsqueeze(diagonal(inner, 0, -2, -1), -1), dv)
    return cat([reshape(part, (*shape[:-2], math.prod(part.shape[-2:]))) for part in tangents], -1)


class SingularValues(Primitive):
    """y = the singular values of each matrix x, the largest first"""

    backward_name = "LinalgSvdBackward0"
    vjp = (lambda g, x: along_vectors(g, *svd_of(x)),)
    jvp = (lambda t, x: values_tangent(t, *svd_of(x)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return into(xp, xp.linalg.svd(x, compute_uv=False), out)


class Eigh(Primitive):
    """y = [values | q], x = q diag(values) qᵀ, of a triangle of symmetric matrices x"""

    backward_name = "LinalgEighBackward0"
    vjp = (lambda g, y, x_shape: eigh_reverse(g, y, x_shape),)
    jvp = (lambda t, y, x_shape: eigh_tangent(t, y, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, triangle: str, out: Array | None = None) -> Array:
        return packed(xp, xp.linalg.eigh(x, triangle), x.shape[:-2], out)


class EigenvaluesOfSymmetric(Primitive):
    """y = the eigenvalues of a triangle of symmetric matrices x, the smallest first"""

    backward_name = "LinalgEighBackward0"
    vjp = (lambda g, x, triangle: eigenvalues_reverse(g, eigenvectors_of(x, triangle)),)
    jvp = (lambda t, x, triangle: eigenvalues_tangent(t, eigenvectors_of(x, triangle)),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, triangle: str, out: Array | None = None) -> Array:
        return into(xp, xp.linalg.eigvalsh(x, triangle), out)


def svd_of(x: Any) -> tuple[Any, Any, Any]:
    """u, s and v of x = u diag(s) v."""
    u, s, v = parts_of(apply(Svd, x, full=False), svd_shapes(x.shape, False), Svd.backward_name)
    return u, s, v


def eigenvectors_of(x: Any, triangle: str) -> Any:
    """The eigenvectors of symmetric matrices, as columns."""
    n = x.shape[-1]
    return parts_of(apply(Eigh, x, triangle=triangle), [(n,), (n, n)], Eigh.backward_name)[1]


def eigenvalues_reverse(g: Any, q: Any) -> Any:
    """The cotangent of x, g being that of its eigenvalues and q its eigenvectors."""
    return matmul(q * unsqueeze(g, -2), turned(q))


def eigenvalues_tangent(t: Any, q: Any) -> Any:
    """The tangents of the eigenvalues, q being the eigenvectors."""
    return diagonal(matmul(turned(q), matmul(t, q)), 0, -2, -1)


def along_vectors(g: Any, u: Any, s: Any, v: Any) -> Any:
    """The cotangent of x, g being that of its singular values."""
    return matmul(u * unsqueeze(g, -2), v)


def values_tangent(t: Any, u: Any, s: Any, v: Any) -> Any:
    """The tangents of the singular values."""
    return sum(matmul(turned(u), t) * v, -1)


def eigh_reverse(g: Any, y: Any, shape: Shape) -> Any:
    """The cotangent of x."""
    n = shape[-1]
    (values, q), (gv, gq) = (parts_of(part, [(n,), (n, n)]) for part in (y, g))
    inner = off_diagonal(matmul(turned(q), gq), differences(values))
    inner = (inner + turned(inner)) / 2 + diag_embed(gv)
    return matmul(q, matmul(inner, turned(q)))


def eigh_tangent(t: Any, y: Any, shape: Shape) -> Any:
    """The tangents of the eigenvalues and eigenvectors, packed."""
    n = shape[-1]
    values, q = parts_of(y, [(n,), (n, n)])
    inner = matmul(turned(q), matmul(t, q))
    dq = matmul(q, off_diagonal(inner, differences(values)))
    return cat([diagonal(inner, 0, -2, -1), reshape(dq, (*shape[:-2], n * n))], -1)


# --- systems of equations -------------------------------------------------------------------------


class SolveEx(Solve):
    """y = x such that a @ x = b, NaN where a is singular"""

    vjp, jvp = Solve.vjp, Solve.jvp

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return into(xp, where_regular(xp, xp.linalg.solve, a, b), out)


class ZeroPivot(Primitive):
    """y = which diagonal element is the first to vanish in the factorization of each square matrix
    x, int32; 0 for regular ones"""

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        try:
            xp.linalg.inv(x)
            y = xp.zeros(x.shape[:-2], xp.int32)
        except xp.linalg.LinAlgError:
            pivots = [zero_pivot(xp, x[place]) for place in HOST.ndindex(x.shape[:-2])]
            y = xp.asarray(pivots, xp.int32).reshape(x.shape[:-2])
        return into(xp, y, out)


class SolveTriangular(Primitive):
    """y = x such that a @ x = b, of one triangle of a, whose diagonal counts as 1 if `unit`"""

    backward_name = "LinalgSolveTriangularBackward0"
    vjp = (
        lambda g, a, y, upper, unit: triangle_of(
            -matmul(triangular(turned(a), g, not upper, unit), turned(y)), upper, unit
        ),
        lambda g, a, upper, unit: triangular(turned(a), g, not upper, unit),
    )
    jvp = (
        lambda t, a, y, upper, unit: triangular(
            a, -matmul(triangle_of(t, upper, unit), y), upper, unit
        ),
        lambda t, a, upper, unit: triangular(a, t, upper, unit),
    )

    @staticmethod
    def kernel(
        xp: Any, a: Array, b: Array, *, upper: bool, unit: bool, out: Array | None = None
    ) -> Array:
        matrix = xp.triu(a) if upper else xp.tril(a)
        if unit:
            one = xp.eye(a.shape[-1], dtype=a.dtype)
            matrix = matrix * (1 - one) + one
        try:
            y = solved(xp, matrix, b)
            exact = xp is not HOST or bool(xp.isfinite(y).all())
        except xp.linalg.LinAlgError:
            exact = False
        if not exact:  # by 0 PyTorch divides here, and rows before a NaN are numbers
            y = substituted(xp, matrix, b, upper)
        return into(xp, y, out)


def triangular(a: Any, b: Any, upper: bool = False, unit: bool = False) -> Any:
    """x with a @ x = b for a triangular a."""
    return apply(SolveTriangular, a, b, upper=upper, unit=unit)


def triangle_of(x: Any, upper: bool, unit: bool) -> Any:
    """The triangle of x that counts."""
    return triu(x, int(unit)) if upper else tril(x, -int(unit))


def substituted(xp: Any, a: Array, b: Array, upper: bool) -> Array:
    """x with a @ x = b row after row, also where a 0 on the diagonal makes that infinite."""
    shape = HOST.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = xp.zeros((*shape, *b.shape[-2:]), b.dtype)
    n = a.shape[-1]
    with HOST.errstate(all="ignore"):
        for row in reversed(range(n)) if upper else range(n):
            others = slice(row + 1, n) if upper else slice(0, row)
            known = a[..., row : row + 1, others] @ y[..., others, :]
            y[..., row : row + 1, :] = (b[..., row : row + 1, :] - known) / a[
                ..., row : row + 1, row : row + 1
            ]
    return y


class CholeskySolve(Primitive):
    """y = x with (factor @ factorᵀ) @ x = b, or factorᵀ @ factor for an upper one"""

    vjp = (
        lambda g, factor, upper: cholesky_solve(g, factor, upper),
        lambda g, factor, y, upper: factor_reverse(g, factor, y, upper),
    )
    jvp = (
        lambda t, factor, upper: cholesky_solve(t, factor, upper),
        lambda t, factor, y, upper: (
            -cholesky_solve(matmul(factor_tangent(t, factor, upper), y), factor, upper)
        ),
    )

    @staticmethod
    def kernel(xp: Any, b: Array, factor: Array, *, upper: bool, out: Array | None = None) -> Array:
        lower = xp.tril(factor.swapaxes(-2, -1) if upper else factor)
        y = SolveTriangular.kernel(xp, lower, b, upper=False, unit=False)
        upper_factor = lower.swapaxes(-2, -1)
        y = SolveTriangular.kernel(xp, upper_factor, y, upper=True, unit=False)
        return into(xp, y, out)


def factor_reverse(g: Any, factor: Any, y: Any, upper: bool) -> Any:
    """The cotangent of all of the factor, as PyTorch gives it, not of its triangle alone."""
    product = -matmul(cholesky_solve(g, factor, upper), turned(y))
    both = product + turned(product)
    return matmul(factor, both) if upper else matmul(both, factor)


def factor_tangent(t: Any, factor: Any, upper: bool) -> Any:
    """The tangent of the product of the factor and its transpose."""
    product = matmul(turned(t), factor) if upper else matmul(t, turned(factor))
    return product + turned(product)


class Pinv(Primitive):
    """y = the pseudo-inverse of x, without the singular values of at most max(atol, rtol · largest)

    `hermitian`: x is symmetric, and its eigenvalues are used.
    """

    backward_name = "LinalgPinvBackward0"
    vjp = (lambda g, x, y: pinv_reverse(g, x, y), None, None)
    jvp = (lambda t, x, y: pinv_tangent(t, x, y), None, None)

    @staticmethod
    def kernel(
        xp: Any, x: Array, atol: Any, rtol: Any, *, hermitian: bool, out: Array | None = None
    ) -> Array:
        if not x.size:
            return into(xp, xp.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype), out)
        if hermitian:
            values, u = xp.linalg.eigh(x)
            v = u.swapaxes(-2, -1)
        else:
            u, values, v = xp.linalg.svd(x, full_matrices=False)
        above = beyond(xp, xp.absolute(values), atol, rtol)
        factors = xp.where(above, 1 / xp.where(above, values, 1), 0)
        y = (v.swapaxes(-2, -1) * factors[..., None, :]) @ u.swapaxes(-2, -1)
        return into(xp, y.astype(x.dtype), out)


class Rank(Primitive):
    """y = how many singular values of x exceed max(atol, rtol · the largest), int64"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, atol: Any, rtol: Any, *, hermitian: bool, out: Array | None = None
    ) -> Array:
        if not x.size:
            return into(xp, xp.zeros(x.shape[:-2], xp.int64), out)
        values = xp.linalg.eigvalsh(x) if hermitian else xp.linalg.svd(x, compute_uv=False)
        return into(xp, beyond(xp, xp.absolute(values), atol, rtol).sum(axis=-1), out)


def beyond(xp: Any, sizes: Array, atol: Any, rtol: Any) -> Array:
    """Which of the sizes exceed max(atol, rtol · the largest)."""
    atol, rtol = (x[..., None] if getattr(x, "ndim", 0) else x for x in (atol, rtol))
    return sizes > xp.maximum(atol, rtol * sizes.max(axis=-1, keepdims=True))


def pinv_reverse(g: Any, x: Any, y: Any) -> Any:
    """The cotangent of x in y = pinv(x): that of Golub and Pereyra's tangent."""
    m, n = x.shape[-2:]
    if m <= n:
        k = matmul(turned(g), y)  # the smaller products first
        square = matmul(k, turned(y))
        direct = -turned(matmul(y, k))
        outside = square - matmul(matmul(x, y), square)
        return direct + outside + matmul(matmul(turned(y), y), turned(g) - matmul(k, x))
    k = matmul(y, turned(g))
    square = matmul(turned(y), k)
    outside = matmul(matmul(turned(g) - matmul(x, k), y), turned(y))
    return -turned(matmul(k, y)) + outside + square - matmul(matmul(square, y), x)


def pinv_tangent(t: Any, x: Any, y: Any) -> Any:
    """The tangent of y = pinv(x)."""
    first = matmul(y, matmul(turned(y), turned(t)))
    beside = first - matmul(matmul(first, x), y)
    inside = matmul(turned(t), matmul(turned(y), y))
    return -matmul(matmul(y, t), y) + beside + inside - matmul(y, matmul(x, inside))


class Lstsq(Primitive):
    """y = the x that minimizes ‖a @ x - b‖, of those with the same the one with the smallest norm

    Singular values of a of at most rcond · the largest count as 0.
    """

    backward_name = "LinalgLstsqBackward0"
    vjp = (
        lambda g, a, b, rcond: pinv_reverse(
            matmul(g, turned(b)), a, pinv(a, rtol=rcond)
        ),
        lambda g, a, rcond: matmul(turned(pinv(a, rtol=rcond)), g),
    )  # fmt: skip
    jvp = (
        lambda t, a, b, rcond: matmul(pinv_tangent(t, a, pinv(a, rtol=rcond)), b),
        lambda t, a, rcond: matmul(pinv(a, rtol=rcond), t),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, *, rcond: float, out: Array | None = None) -> Array:
        if not a.size:
            shape = HOST.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            return into(xp, xp.zeros((*shape, a.shape[-1], b.shape[-1]), b.dtype), out)
        u, s, v = xp.linalg.svd(a, full_matrices=False)
        above = beyond(xp, s, 0, rcond)
        factors = xp.where(above, 1 / xp.where(above, s, 1), 0).astype(a.dtype)
        y = v.swapaxes(-2, -1) @ (factors[..., None] * (u.swapaxes(-2, -1) @ b))
        return into(xp, y, out)


# --- the functions --------------------------------------------------------------------------------

SVD = named("linalg_svd", "U", "S", "Vh")
QR = named("linalg_qr", "Q", "R")
EIGH = named("linalg_eigh", "eigenvalues", "eigenvectors")
LSTSQ = named("linalg_lstsq", "solution", "residuals", "rank", "singular_values")
CHOLESKY_EX = named("linalg_cholesky_ex", "L", "info")
INV_EX = named("linalg_inv_ex", "inverse", "info")
SOLVE_EX = named("linalg_solve_ex", "result", "info")


SLOGDET = named("linalg_slogdet", "sign", "logabsdet")


def checked(x: Any, op: str, square: bool = False, name: str = "A") -> Any:
    """x, which must hold (square) matrices of floating-point numbers."""
    if x.ndim < 2:
        raise RuntimeError(f"{op}: The input tensor {name} must have at least 2 dimensions.")
    kind = getattr(x, "_array", x).dtype
    if kind.kind in "biu":
        raise RuntimeError(
            f"{op}: Expected a floating point or complex tensor as input. Got "
            f"{dtype_of(kind).title}"
        )
    m, n = x.shape[-2:]
    if square and m != n:
        raise RuntimeError(
            f"{op}: {name} must be batches of square matrices, but they are {m} by {n} matrices"
        )
    return x


def cholesky(x: Any, *, upper: bool = False) -> Any:
    """The lower triangular l with l lᵀ = x, of a symmetric positive definite x (…, n, n).

    `upper` gives lᵀ. Of x one triangle is read: the lower, or the upper one. LinAlgError where x
    is not positive definite; on a GPU the result is NaN there.
    """
    checked(x, "linalg.cholesky", True)
    factor = apply(Cholesky, turned(x) if upper else x, op="linalg.cholesky")
    return turned(factor) if upper else factor


def cholesky_ex(x: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    """(L, info): `cholesky` without its error; info says which leading minor is not positive."""
    checked(x, "linalg.cholesky_ex", True)
    source = turned(x) if upper else x
    op = "linalg.cholesky_ex" if check_errors else ""
    factor = apply(Cholesky, source, op=op)
    return CHOLESKY_EX(turned(factor) if upper else factor, apply(CholeskyInfo, source))


def inv_ex(x: Any, *, check_errors: bool = False) -> Any:
    """(inverse, info): `inv` without its error; info is 0 for regular matrices."""
    checked(x, "linalg.inv", True)
    info = apply(ZeroPivot, x)
    if check_errors:
        refuse_singular(info, "linalg.inv_ex", "inversion")
    return INV_EX(apply(InvEx, x), info)


def solve_ex(a: Any, b: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    """(result, info): `solve` without its error; info is 0 for regular matrices."""
    checked(a, "linalg.solve", True)
    info = apply(ZeroPivot, a)
    if check_errors:
        refuse_singular(info, "linalg.solve_ex", "solve")
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and tuple(b.shape) == tuple(a.shape[:-1]))
    if vector:
        return SOLVE_EX(apply(SolveEx, a, unsqueeze(b, -1)).squeeze(-1), info)
    if not left:
        return SOLVE_EX(turned(apply(SolveEx, turned(a), turned(b))), info)
    return SOLVE_EX(apply(SolveEx, a, b), info)


def refuse_singular(info: Any, op: str, what: str) -> None:
    """LinAlgError where `info` names a diagonal element that vanished."""
    for index, pivot in enumerate(info.reshape(-1).tolist()):
        if pivot:
            raise LinAlgError(
                f"{op}: {f'(Batch element {index}): ' * bool(info.ndim)}The diagonal element "
                f"{pivot} is zero, the {what} could not be completed because the input matrix is "
                "singular."
            )


def slogdet(x: Any) -> Any:
    """(sign, logabsdet) of the determinants of square matrices."""
    return SLOGDET(*slogdet_of(x))


def qr(x: Any, mode: str = "reduced") -> Any:
    """(Q, R) with Q @ R = x (…, m, n), Q of orthonormal columns and R upper triangular.

    mode "reduced": Q (…, m, k) and R (…, k, n), k = min(m, n); "complete": k = m; "r": Q is empty.
    """
    checked(x, "linalg.qr")
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), "
            "'r', or 'complete'"
        )
    m, n = x.shape[-2:]
    if mode == "complete" and m <= n:
        mode = "reduced"
    if mode == "reduced" and m < n:  # the factors of the first m columns turn the others
        q, r = qr(narrow(x, -1, 0, m))
        return QR(q, cat([r, matmul(turned(q), narrow(x, -1, m, n - m))], -1))
    y = apply(Qr, x, mode=mode)
    factors = parts_of(y, qr_shapes(x.shape, mode), Qr.backward_name)
    return QR(nothing_of(y), factors[0]) if mode == "r" else QR(*factors)


def nothing_of(x: Any) -> Any:
    """No elements, in the dtype and place of x."""
    return narrow(reshape(x, (-1,)), 0, 0, 0)


def svd(x: Any, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    """(U, S, Vh) with U @ diag(S) @ Vh = x (…, m, n), S (…, k) from the largest, k = min(m, n).

    U (…, m, m) and Vh (…, n, n), or (…, m, k) and (…, k, n) without `full_matrices`.
    """
    checked(x, "linalg.svd")
    if driver is not None and not getattr(x, "is_cuda", False):
        raise RuntimeError(
            "linalg.svd: keyword argument `driver=` is only supported on CUDA inputs"
        )
    full = full_matrices and x.shape[-2] != x.shape[-1]
    y = apply(Svd, x, full=full)
    return SVD(*parts_of(y, svd_shapes(x.shape, full), Svd.backward_name))


def svdvals(x: Any, *, driver: str | None = None) -> Any:
    """The singular values of each matrix x (…, m, n), the largest first: (…, min(m, n))."""
    return apply(SingularValues, checked(x, "linalg.svdvals"))


def eigh(x: Any, UPLO: str = "L") -> Any:
    """(eigenvalues, eigenvectors) of symmetric matrices x (…, n, n): (…, n) and (…, n, n).

    From the smallest; the vectors are columns. UPLO: the triangle that is read, "L" or "U".
    """
    n = checked(x, "linalg.eigh", True).shape[-1]
    y = apply(Eigh, x, triangle=triangle_name(UPLO))
    return EIGH(*parts_of(y, [(n,), (n, n)], Eigh.backward_name))


def eigvalsh(x: Any, UPLO: str = "L") -> Any:
    """The eigenvalues (…, n) of symmetric matrices x (…, n, n), from the smallest."""
    checked(x, "linalg.eigvalsh", True)
    return apply(EigenvaluesOfSymmetric, x, triangle=triangle_name(UPLO))


def triangle_name(name: str) -> str:
    """ "L" or "U"."""
    if name.upper() not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {name}")
    return name.upper()


def solve_triangular(
    a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """x with a @ x = b, or x @ a = b where not `left`, for a triangular a (…, n, n).

    `upper`: which triangle is read; `unitriangular`: its diagonal counts as 1.
    """
    checked(a, "linalg.solve_triangular", True)
    checked(b, "linalg.solve_triangular", name="B")
    if a.dtype != b.dtype:
        raise RuntimeError(
            f"linalg.solve_triangular: Expected A and B to have the same dtype, but found A of "
            f"type {a.dtype.title} and B of type {b.dtype.title} instead"
        )
    if a.shape[-1] != b.shape[-2 if left else -1]:
        raise RuntimeError(
            "linalg.solve_triangular: Incompatible shapes of A and B for the equation "
            f"{'AX = B' if left else 'XA = B'} ({a.shape[-2]}x{a.shape[-1]} and "
            f"{b.shape[-2]}x{b.shape[-1]})"
        )
    if not left:
        return turned(triangular(turned(a), turned(b), not upper, unitriangular))
    return triangular(a, b, upper, unitriangular)


def tolerances(x: Any, atol: Any, rtol: Any) -> tuple[Any, Any]:
    """The absolute and the relative bound below which values count as 0, by PyTorch's defaults."""
    if rtol is None:
        rtol = finfo(dtype_of(getattr(x, "_array", x).dtype)).eps * max(x.shape[-2:])
        if hasattr(atol, "ndim"):
            rtol = where(atol > 0, 0.0, ones_like(atol) * float(rtol))
        elif atol:
            rtol = 0.0
    return 0.0 if atol is None else atol, rtol if hasattr(rtol, "ndim") else float(rtol)


def pinv(
    x: Any, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Any:
    """The pseudo-inverse (…, n, m) of matrices x (…, m, n).

    Singular values of at most max(atol, rtol · the largest) count as 0; rtol, which `rcond` was
    the name of, is the precision times max(m, n) unless it or atol is given. `hermitian`: x is
    symmetric.
    """
    checked(x, "linalg.pinv", hermitian)
    atol, rtol = tolerances(x, atol, rcond if rtol is None else rtol)
    return apply(Pinv, x, atol, rtol, hermitian=hermitian)


def matrix_rank(
    x: Any, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Any:
    """How many singular values of matrices x (…, m, n) exceed max(atol, rtol · the largest): int64.

    rtol is the precision times max(m, n) unless it or atol is given; `tol` is an atol alone.
    """
    checked(x, "linalg.matrix_rank", hermitian)
    if tol is not None:
        atol, rtol = tol, 0.0
    atol, rtol = tolerances(x, atol, rtol)
    return apply(Rank, x, atol, rtol, hermitian=hermitian)


def lstsq(a: Any, b: Any, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """(solution, residuals, rank, singular_values) of min ‖a @ x - b‖: a (…, m, n), b (…, m, k).

    residuals: the squared norms of the columns of a @ x - b where m > n and a has full rank, else
    empty. The driver says which of the others are computed, as in PyTorch; the solution is that of
    the smallest norm with any.
    """
    checked(a, "torch.linalg.lstsq")
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(
            "torch.linalg.lstsq: parameter `driver` should be one of "
            f"(gels, gelsy, gelsd, gelss), got {driver}"
        )
    if a.dtype != b.dtype:
        raise RuntimeError(
            "torch.linalg.lstsq: Expected input and other to have the same dtype, but got "
            f"{a.dtype} and {b.dtype}"
        )
    vector = b.ndim == a.ndim - 1 and tuple(b.shape) == tuple(a.shape[:-1])
    b = unsqueeze(b, -1) if vector else b
    m, n = a.shape[-2:]
    if b.shape[-2] != m:
        raise RuntimeError(
            f"torch.linalg.lstsq: input.size(-2) should match other.size(-2), got {m} and "
            f"{b.shape[-2]}"
        )
    bound = tolerances(a, None, rcond)[1]
    x = apply(Lstsq, a, b, rcond=bound)
    rank = nothing_of(a).detach().long()
    values, residuals, full = nothing_of(a).detach(), nothing_of(x), True
    if driver != "gels":
        rank = apply(Rank, a, 0.0, bound, hermitian=False)
    if driver in ("gelsd", "gelss"):
        values = svdvals(a.detach())
        full = m <= n or bool((rank == n).all())
    if m > n and full and driver not in (None, "gelsy"):
        rest = matmul(a, x) - b
        residuals = sum(rest * rest, -2)
    return LSTSQ(x.squeeze(-1) if vector else x, residuals, rank, values)


def matrix_exp(x: Any) -> Any:
    """e ** x of square matrices: the series of x / 2 ** s, squared s times."""
    checked(x, "linalg.matrix_exp", True)
    if not x.numel():
        return x + 0
    if x.dtype.itemsize == 2:  # whose rounding the squarings would double
        return matrix_exp(x.float()).to(x.dtype)
    sizes = abs(x.detach())
    norm = float(where(isfinite(sizes), sizes, 0.0).sum(-2).max())
    squarings = max(0, math.ceil(math.log2(norm)) + 1) if 0 < norm < math.inf else 0
    scaled, one = x / 2**squarings, diag_embed(ones_like(diagonal(x, 0, -2, -1)))
    y = one
    for k in range(16, 0, -1):
        y = one + matmul(scaled, y) / k
    for _ in range(squarings):
        y = matmul(y, y)
    return y


def cholesky_solve(b: Any, factor: Any, upper: bool = False) -> Any:
    """x with a @ x = b (…, n, k), a being the product of a Cholesky factor (…, n, n) and its
    transpose."""
    checked(b, "cholesky_solve", name="b")
    checked(factor, "cholesky_solve", True)
    return apply(CholeskySolve, b, factor, upper=upper)


def cholesky_inverse(x: Any, upper: bool = False) -> Any:
    """The inverse of the product of a Cholesky factor x (…, n, n) and its transpose."""
    checked(x, "cholesky_inverse", True)
    on_host = MODULES.get(type(x._array)) is HOST  # a GPU is not waited for, a symbol has no values
    if on_host and not (diagonal(x.detach(), 0, -2, -1) != 0).all():
        raise LinAlgError("cholesky_inverse: the factor is singular: its diagonal has a 0")
    return cholesky_solve(diag_embed(ones_like(diagonal(x, 0, -2, -1))), x, upper)
