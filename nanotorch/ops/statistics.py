"""Moments and norms, and differences of neighbours."""

from __future__ import annotations

import builtins
from typing import Any

from nanotorch.backend import Array
from nanotorch.backend.dtypes import bool_
from nanotorch.backend.loading import when_called
from nanotorch.backend.order_of_memory import out_of_reduction
from nanotorch.ops.broadcasting import summed
from nanotorch.ops.casting import cast, into, rounded_once, zeros_like
from nanotorch.ops.comparisons import isnan, where
from nanotorch.ops.complex_numbers import imag, is_complex, real
from nanotorch.ops.elementwise import abs, clamp, sign, sqrt
from nanotorch.ops.joining import broadcast_tensors, cat
from nanotorch.ops.shapes import movedim, narrow, reshape, squeeze
from nanotorch.ops.sums import Dim, axes, count, dims, floating, mean, spread, sum
from nanotorch.primitive import Primitive, apply

svdvals = when_called("nanotorch.ops.decompositions", "svdvals")


class Norm(Primitive):
    """y = (the sum of |x| ** p over `dim`) ** (1 / p); the slope is 0 where the norm is 0"""

    backward_name = "LinalgVectorNormBackward0"
    vjp = (
        lambda g, x, y, p, dim, keepdim: (
            None
            if p == 0
            else spread(g, x.shape, dim, keepdim)
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
        out = out_of_reduction(xp, x, dim, keepdim, out)
        if p == 2:
            total = summed(xp, xp.square(x), dim=dim, keepdim=keepdim, out=out)
            return xp.sqrt(total, out=out)
        size = xp.absolute(x)
        if p == float("inf"):
            return size.max(axis=dim, keepdims=keepdim, out=out)
        if p == -float("inf"):
            return size.min(axis=dim, keepdims=keepdim, out=out)
        if p == 1:
            return summed(xp, size, dim=dim, keepdim=keepdim, out=out)
        if p == 0:
            return (size != 0).sum(axis=dim, keepdims=keepdim, dtype=x.dtype, out=out)
        total = xp.add.reduce(xp.power(size, p), axis=dim, keepdims=keepdim, out=out)
        return xp.power(total, 1 / p, out=out)


class Magnitude(Primitive):
    """y = a power of two near the largest |x| over `dim`, which is kept, where its square may
    overflow; 1 elsewhere"""

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: Dim, out: Array | None = None) -> Array:
        size = xp.absolute(x)
        size = (size.max if x.size else size.sum)(axis=dim, keepdims=True)
        y = xp.ldexp(xp.ones_like(size), xp.frexp(size)[1])
        return into(xp, xp.where((size > 2.0**40) & xp.isfinite(y), y, 1).astype(x.dtype), out)


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
        n, out = count(x.shape, dim), out_of_reduction(xp, x, dim, keepdim, out)
        centered = x - summed(xp, x, dim=dim, keepdim=True) / x.dtype.type(builtins.max(n, 1))
        squares = xp.square(centered, out=centered if centered.ndim else None)
        total = summed(xp, squares, dim=dim, keepdim=keepdim, out=out)
        return xp.true_divide(total, x.dtype.type(builtins.max(n - correction, 0)), out=out)


class Std(Primitive):
    """y = the square root of the variance"""

    vjp = (
        lambda g, x, y, dim, correction, keepdim: (
            spread(where(y == 0, 0, g / (2 * y)), x.shape, dim, keepdim)
            * deviation(x, dim, correction)
        ),
    )
    jvp = (
        lambda t, x, y, dim, correction, keepdim: where(
            y == 0, 0, sum(t * deviation(x, dim, correction), dim, keepdim) / (2 * y)
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, correction: float = 1, keepdim: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        out = out_of_reduction(xp, x, dim, keepdim, out)
        variance = Var.kernel(xp, x, dim=dim, correction=correction, keepdim=keepdim, out=out)
        return xp.sqrt(variance, out=out)


# --- what the rules share -------------------------------------------------------------------------


def deviation(x: Any, dim: Dim, correction: float) -> Any:
    """d var / dx = 2 (x - mean) / (count - correction)."""
    divisor = builtins.max(count(x.shape, dim) - correction, 0)
    center = mean(x, dim, True)
    if not divisor and (
        dim is None or not x.ndim
    ):  # as in PyTorch, which along dimensions goes on dividing by 0
        return where(x == center, float("nan"), float("inf")) + zeros_like(x)
    return (x - center) * (2 / divisor if divisor else float("inf"))


def norm_slope(x: Any, y: Any, p: float, dim: Dim) -> Any:
    """d norm / dx for y of x's shape; 0 where the norm is 0."""
    if p == 0:
        return zeros_like(x)
    if p == 1:
        return sign(x)
    if p in (float("inf"), -float("inf")):
        mask = cast((abs(x) == y) | isnan(x), getattr(x, "_array", x).dtype)
        return sign(x) * mask / sum(mask, dim, True)
    if p == 2:
        return where(y == 0, 0.0, x / y)
    safe = where(y == 0, 1.0, y)
    size = where(x == 0, 0.0 if p > 2 else 1.0, abs(x))  # whose own slope at 0 is not to count
    powers = sign(x) * size ** (p - 1) if p < 2 else x * size ** (p - 2)
    return where(y == 0, 0.0, powers / safe ** (p - 1))


# --- the functions --------------------------------------------------------------------------------


def var(
    x: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None, axis: Any = None, keepdims: bool = False,
) -> Any:  # fmt: skip
    """The variance over `dim`: squared deviations summed over the count less `correction` (1)."""
    return moment(Var, x, dim if axis is None else axis, unbiased, keepdim or keepdims, correction)


def std(
    x: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None, axis: Any = None, keepdims: bool = False,
) -> Any:  # fmt: skip
    """The standard deviation over `dim`: the square root of `var`."""
    return moment(Std, x, dim if axis is None else axis, unbiased, keepdim or keepdims, correction)


def moment(
    primitive: type[Primitive], x: Any, dim: Any, unbiased: bool | None, keepdim: bool,
    correction: float | None,
) -> Any:  # fmt: skip
    """Sorts out the two ways of naming the divisor: `unbiased`, also alone, and `correction`."""
    floating(x, primitive.title())
    if is_complex(x):  # the spread of both parts together
        options = (dim, unbiased, keepdim, correction)
        spread = moment(Var, real(x), *options) + moment(Var, imag(x), *options)
        return sqrt(spread) if primitive is Std else spread
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return apply(primitive, x, dim=axes(x, dim), correction=correction, keepdim=keepdim)


def var_mean(
    x: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> Any:  # fmt: skip
    """(variance, mean) over `dim`."""
    axis = None if isinstance(dim, bool) else dim
    return moment(Var, x, dim, unbiased, keepdim, correction), mean(x, axis, keepdim)


def std_mean(
    x: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
    correction: float | None = None,
) -> Any:  # fmt: skip
    """(standard deviation, mean) over `dim`."""
    axis = None if isinstance(dim, bool) else dim
    return moment(Std, x, dim, unbiased, keepdim, correction), mean(x, axis, keepdim)


def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """The p-norm of the elements over `dim`: (sum |x| ** p) ** (1 / p); "fro" is 2.

    "nuc": the sum of the singular values of matrices in two dimensions.
    """
    floating(x, "norm")
    if p == "nuc":
        pair = (0, 1) if dim is None else dim
        y = sum(svdvals(movedim(x, tuple(pair), (-2, -1))), -1)
        return (
            reshape(y, [1 if d in dims(x.shape, pair) else n for d, n in enumerate(x.shape)])
            if keepdim
            else y
        )
    if p in ("fro", None):
        p = 2
    x = abs(x) if is_complex(x) else x
    return apply(Norm, x, p=float(p) if p != 2 else 2, dim=axes(x, dim), keepdim=keepdim)


@rounded_once
def cosine_similarity(a: Any, b: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """The cosine of the angle between a and b along `dim`; norms below `eps` count as `eps`."""
    a, b = broadcast_tensors(a, b)
    units = [apply(Magnitude, x, dim=axes(x, dim)) for x in (a, b)]
    a, b = a / units[0], b / units[1]  # which changes no angle, and no square is too large then
    lengths = [clamp(norm(x, 2, dim, True), min=eps / unit) for x, unit in zip((a, b), units)]
    return squeeze(sum(a * b, dim, True) / (lengths[0] * lengths[1]), dim)


def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """The differences of neighbours along `dim`, n times over, of x between `prepend` and
    `append`."""
    parts = [part for part in (prepend, x, append) if part is not None]
    x = cat(parts, dim) if len(parts) > 1 and n else x
    for _ in range(n):
        size = x.shape[dim]
        if not size:
            break
        later, earlier = narrow(x, dim, 1, size - 1), narrow(x, dim, 0, size - 1)
        x = later ^ earlier if x.dtype is bool_ else later - earlier
    return x
