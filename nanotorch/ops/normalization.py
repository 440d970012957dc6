"""Standardizing: what layer and batch normalization have in common."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array, constant
from nanotorch.ops.broadcasting import sum_to
from nanotorch.ops.casting import into
from nanotorch.ops.elementwise import rsqrt
from nanotorch.ops.shapes import broadcast_to
from nanotorch.ops.statistics import var
from nanotorch.ops.sums import mean
from nanotorch.primitive import Elementwise, Primitive, apply


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
        y = xp.subtract(x, mean_of(xp, x, dims), out=out)
        return xp.multiply(y, scale_of(xp, y, dims, eps), out=y)


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
        work = xp.subtract(x, mean_of(xp, x, dims))
        scale = scale_of(xp, work, dims, eps)
        share = mean_product(xp, g, s, dims)
        xp.multiply(s, share, out=work)
        xp.add(work, mean_of(xp, g, dims), out=work)
        out = xp.subtract(g, work, out=out)
        return xp.multiply(out, scale, out=out)


class Moments(Primitive):
    """y = the mean and the variance of x over `dims`, side by side along a new last dimension

    For `StandardizeBy`, whose rules know that they depend on x.
    """

    @staticmethod
    def kernel(xp: Any, x: Array, *, dims: tuple[int, ...], out: Array | None = None) -> Array:
        mean = mean_of(xp, x, dims)
        centered = xp.subtract(x, mean)
        if out is None:
            out = xp.empty((*mean.shape, 2), x.dtype)
        out[..., 0] = mean
        out[..., 1] = mean_product(xp, centered, centered, dims)
        return out


class StandardizeBy(Primitive):
    """y = (x - mean) / sqrt(var + eps), by the moments of x over `dims`"""

    backward_name = "NativeBatchNormBackward0"
    vjp = (
        lambda g, x, moments, y, dims, eps: apply(
            StandardizeByReverse, g, x, y, moments, dims=dims, eps=eps
        ),
        None,
    )
    jvp = (
        lambda t, x, moments, y, dims, eps: apply(
            StandardizeByReverse, t, x, y, moments, dims=dims, eps=eps
        ),
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, moments: Array, *, dims: tuple[int, ...], eps: float,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        y = xp.subtract(x, moments[..., 0], out=out)
        return xp.multiply(y, inverse_root(xp, moments[..., 1], eps), out=y)


class StandardizeByReverse(Primitive):
    """y = what StandardizeReverse gives, by the moments of x"""

    vjp = (*StandardizeReverse.vjp, None)
    jvp = (*StandardizeReverse.jvp, None)

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, s: Array, moments: Array, *, dims: tuple[int, ...], eps: float,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        work = xp.multiply(s, mean_product(xp, g, s, dims))
        xp.add(work, mean_of(xp, g, dims), out=work)
        out = xp.subtract(g, work, out=out)
        return xp.multiply(out, inverse_root(xp, moments[..., 1], eps), out=out)


class Affine(Elementwise):
    """y = x * weight + bias, of a standardized x"""

    backward_name = "NativeLayerNormBackward0"
    vjp = (lambda g, weight: g * weight, lambda g, x: g * x, lambda g: g)

    @staticmethod
    def kernel(xp: Any, x: Array, weight: Array, bias: Array, out: Array | None = None) -> Array:
        y = xp.multiply(x, weight, out=out)
        return xp.add(y, bias, out=y if y.ndim else out)


class ChannelAffine(Affine):
    """y = x * weight + bias, of an x standardized by channels"""

    backward_name = "NativeBatchNormBackward0"
    vjp = Affine.vjp


class LayerNorm(Primitive):
    """y = standardized x * weight + bias, over the last dimensions `dims`; the bias may be None"""

    backward_name = "NativeLayerNormBackward0"
    vjp = (
        lambda g, x, weight, dims, eps: apply(LayerNormReverse, g, x, weight, dims=dims, eps=eps),
        lambda g, x, dims, eps: apply(LayerNormWeight, g, x, dims=dims, eps=eps),
        lambda g: g,
    )
    jvp = (
        lambda t, x, weight, dims, eps: weight * pushed(t, x, dims, eps),
        lambda t, x, dims, eps: t * standardize(x, dims, eps),
        lambda t, x: broadcast_to(t, tuple(x.shape)),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, weight: Array, bias: Any, *, dims: tuple[int, ...], eps: float,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        y = xp.multiply(standardize(x, dims, eps), weight, out=out)
        return y if bias is None else xp.add(y, bias, out=out)


class LayerNormReverse(Primitive):
    """y = the cotangent of x in LayerNorm: of standardizing, given g * weight"""

    vjp = (
        lambda h, x, weight, dims, eps: weight * pushed(h, x, dims, eps),
        lambda h, g, x, weight, dims, eps: bent(h, g * weight, x, dims, eps),
        lambda h, g, x, dims, eps: g * pushed(h, x, dims, eps),
    )
    jvp = (
        lambda t, x, weight, dims, eps: apply(LayerNormReverse, t, x, weight, dims=dims, eps=eps),
        lambda t, g, x, weight, dims, eps: bent(t, g * weight, x, dims, eps),
        lambda t, g, x, dims, eps: pushed(g * t, x, dims, eps),
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, weight: Array, *, dims: tuple[int, ...], eps: float,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        return into(xp, pushed(g * weight, x, dims, eps), out)


class LayerNormWeight(Primitive):
    """y = the cotangent of the weight in LayerNorm: the sum of g * standardized x over all rows"""

    vjp = (
        lambda h, x, dims, eps: h * standardize(x, dims, eps),
        lambda h, g, x, dims, eps: pushed(h * g, x, dims, eps),
    )
    jvp = (
        lambda t, x, dims, eps: apply(LayerNormWeight, t, x, dims=dims, eps=eps),
        lambda t, g, x, dims, eps: sum_to(g * pushed(t, x, dims, eps), of_weight(x, dims)),
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, *, dims: tuple[int, ...], eps: float, out: Array | None = None
    ) -> Array:
        return into(xp, sum_to(g * standardize(x, dims, eps), of_weight(x, dims)), out)


def of_weight(x: Any, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the weight: that of the last dimensions."""
    return tuple(x.shape)[len(x.shape) - len(dims) :]


def pushed(t: Any, x: Any, dims: tuple[int, ...], eps: float) -> Any:
    """The Jacobian of standardizing x, which is symmetric, times t."""
    return apply(StandardizeReverse, t, x, standardize(x, dims, eps), dims=dims, eps=eps)


def bent(h: Any, g: Any, x: Any, dims: tuple[int, ...], eps: float) -> Any:
    """The derivative of the sum of h * pushed(g) in x: the second one of standardizing, which is
    the same in whatever order."""
    s, scale = standardize(x, dims, eps), -inverse_deviation(x, dims, eps)
    of_s = (h * mean(g * s, dims, True) + g * mean(h * s, dims, True)) * scale
    of_deviation = s * (mean(h * pushed(g, x, dims, eps), dims, True) * scale)
    return pushed(of_s, x, dims, eps) + of_deviation


def scale_of(xp: Any, centered: Array, dims: tuple[int, ...], eps: float) -> Array:
    """1 / sqrt(var + eps) of centered values, with the reduced dimensions kept."""
    return inverse_root(xp, mean_product(xp, centered, centered, dims), eps)


def inverse_root(xp: Any, variance: Array, eps: float) -> Array:
    """1 / sqrt(var + eps)"""
    y = xp.add(variance, constant(variance, eps))
    y = xp.sqrt(y, out=y)
    return xp.divide(constant(y, 1), y, out=y)


def mean_of(xp: Any, x: Array, dims: tuple[int, ...]) -> Array:
    """The mean over `dims`, which are kept, as `x.mean` gives it in twice the time."""
    total = xp.add.reduce(x, axis=dims, keepdims=True)
    return xp.true_divide(total, constant(total, x.size // max(total.size, 1)), out=total)


def mean_product(xp: Any, a: Array, b: Array, dims: tuple[int, ...]) -> Array:
    """The mean of a * b over `dims`, which are kept; over the last one, and over all but the
    channels, without the products."""
    if dims == (-1,) and a.dtype.itemsize > 2:
        total = HOST.vecdot(a, b) if xp is HOST else xp.einsum("...i,...i->...", a, b)
        total = total[..., None]
        return xp.true_divide(total, constant(total, a.shape[-1]), out=total)
    channels = dims[:1] == (0,) and dims[1:] == tuple(range(2, a.ndim))
    if xp is HOST and channels and a.dtype.itemsize > 2:
        shape = (len(a), a.shape[1], a.size // max(len(a) * a.shape[1], 1))
        total = xp.einsum("ncs,ncs->c", a.reshape(shape), b.reshape(shape))
        total = total.reshape((1, -1, *(1,) * (a.ndim - 2)))
        return xp.true_divide(total, constant(total, a.size // max(total.size, 1)), out=total)
    return mean_of(xp, a * b, dims)


def inverse_deviation(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    """1 / sqrt(var + eps), in the language of the ops."""
    return rsqrt(var(x, dims, correction=0, keepdim=True) + eps)


def standardize(x: Any, dims: tuple[int, ...], eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) over `dims`, x of any shape; the variance is the biased one."""
    return apply(Standardize, x, dims=dims, eps=eps)


def affine(x: Any, weight: Any, bias: Any, channels: bool = False) -> Any:
    """x * weight + bias, either of which may be None; of channels, or of the last dimensions."""
    if weight is not None and bias is not None:
        return apply(ChannelAffine if channels else Affine, x, weight, bias)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def moments(x: Any, dims: tuple[int, ...]) -> Any:
    """The mean and the biased variance over `dims`, which are kept, along a new last dimension."""
    return apply(Moments, x, dims=dims)


def standardize_by(x: Any, moments: Any, dims: tuple[int, ...], eps: float) -> Any:
    """(x - mean) / sqrt(var + eps), by the `moments` of x over `dims`."""
    return apply(StandardizeBy, x, moments, dims=dims, eps=eps)


def layer_norm(x: Any, weight: Any, bias: Any, dims: tuple[int, ...], eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions `dims`; bias or None.

    One pass over x instead of three, but standardized x is computed anew for the gradients.
    """
    return apply(LayerNorm, x, weight, bias, dims=dims, eps=eps)
