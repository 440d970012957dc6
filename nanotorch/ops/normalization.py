"""Standardizing: what layer and batch normalization have in common."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array
from nanotorch.backend.cuda import fused
from nanotorch.ops.elementwise import rsqrt
from nanotorch.ops.reductions import mean
from nanotorch.ops.statistics import var
from nanotorch.primitive import Primitive, apply


class Standardize(Primitive):
    """y = (x - mean) / sqrt(var + eps), over `dims`; var is the mean squared deviation

    The Jacobian is symmetric, so the forward rule is the reverse rule.
    """

    promotes = "floating"
    backward_name = "NativeLayerNormBackward0"
    vjp = (lambda g, x, y, dims, eps: apply(StandardizeReverse, g, x, y, dims=dims, eps=eps),)
    jvp = (lambda t, x, y, dims, eps: apply(StandardizeReverse, t, x, y, dims=dims, eps=eps),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dims: tuple[int, ...], eps: float, out: Array | None = None
    ) -> Array:
        y = xp.subtract(x, x.mean(dims, keepdims=True), out=out)
        return xp.multiply(y, scale_of(xp, y, dims, eps), out=y)

    kernel_cuda = staticmethod(fused.standardize)


class StandardizeReverse(Primitive):
    """y = (g - mean(g) - s * mean(g * s)) / sqrt(var + eps), s the standardized x"""

    vjp = (
        lambda h, x, s, dims, eps: apply(StandardizeReverse, h, x, s, dims=dims, eps=eps),
        lambda h, y, x, s, dims, eps: (
            s * (mean(h * y, dims, True) * -inverse_deviation(x, dims, eps))
        ),
        lambda h, g, x, s, dims, eps: (
            (h * mean(g * s, dims, True) + g * mean(h * s, dims, True))
            * -inverse_deviation(x, dims, eps)
        ),
    )
    jvp = (
        lambda t, x, s, dims, eps: apply(StandardizeReverse, t, x, s, dims=dims, eps=eps),
        lambda t, y, x, s, dims, eps: (
            y * (mean(t * s, dims, True) * -inverse_deviation(x, dims, eps))
        ),
        lambda t, g, x, s, dims, eps: (
            (t * mean(g * s, dims, True) + s * mean(g * t, dims, True))
            * -inverse_deviation(x, dims, eps)
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, s: Array, *, dims: tuple[int, ...], eps: float,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        work = xp.subtract(x, x.mean(dims, keepdims=True))
        scale = scale_of(xp, work, dims, eps)
        share = mean_product(xp, g, s, dims)
        xp.multiply(s, share, out=work)
        xp.add(work, g.mean(dims, keepdims=True), out=work)
        out = xp.subtract(g, work, out=out)
        return xp.multiply(out, scale, out=out)

    kernel_cuda = staticmethod(fused.standardize_reverse)


def scale_of(xp: Any, centered: Array, dims: tuple[int, ...], eps: float) -> Array:
    """1 / sqrt(var + eps) of centered values, with the reduced dimensions kept."""
    scale = mean_product(xp, centered, centered, dims)
    scale += eps
    xp.sqrt(scale, out=scale)
    return xp.divide(1, scale, out=scale)


def mean_product(xp: Any, a: Array, b: Array, dims: tuple[int, ...]) -> Array:
    """The mean of a * b over `dims`, which are kept; over the last one, without the products."""
    if dims == (-1,) and a.dtype.itemsize > 2:
        total = xp.einsum("...i,...i->...", a, b)[..., None]
        total /= a.shape[-1]
        return total
    return (a * b).mean(dims, keepdims=True)


def inverse_deviation(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    """1 / sqrt(var + eps), in the language of the ops."""
    return rsqrt(var(x, dims, correction=0, keepdim=True) + eps)


def standardize(x: Any, dims: tuple[int, ...], eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) over `dims`, x of any shape; the variance is the biased one."""
    return apply(Standardize, x, dims=dims, eps=eps)
