"""Standardizing: what layer and batch normalization have in common."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, Array, constant, cuda_parts, ones
from nanotorch.backend.order_of_memory import channels_are_last, out_like
from nanotorch.ops.broadcasting import sum_to
from nanotorch.ops.casting import into
from nanotorch.ops.elementwise import rsqrt
from nanotorch.ops.shapes import broadcast_to
from nanotorch.ops.statistics import var
from nanotorch.ops.sums import count, mean
from nanotorch.primitive import INPUT, RELEASED, Elementwise, Primitive, apply


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
        moments = moments_on_device(xp, x, dims, eps)
        if moments is not None:
            return at_once(xp, scaled, (x, *moments), out)
        y = xp.subtract(x, mean_of(xp, x, dims), out=out_like(xp, x, out))
        return xp.multiply(y, scale_of(xp, y, dims, eps), y)


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
        moments, share = moments_on_device(xp, x, dims, eps), mean_product(xp, g, s, dims)
        if moments is not None:
            operands = (g, s, mean_of(xp, g, dims), share, moments[1])
            return at_once(xp, scaled_slope, operands, out)
        work = xp.subtract(x, mean_of(xp, x, dims))
        scale = scale_of(xp, work, dims, eps)
        xp.multiply(s, share, out=work)
        xp.add(work, mean_of(xp, g, dims), out=work)
        out = xp.subtract(g, work, out=out)
        return xp.multiply(out, scale, out=out)


class MeanSquare(Primitive):
    """y = the mean of x² over `dims`, which are kept"""

    vjp = (lambda g, x, dims: x * (g * (2 / max(count(x.shape, dims), 1))),)
    jvp = (lambda t, x, dims: mean(t * x, dims, True) * 2,)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dims: tuple[int, ...], out: Array | None = None) -> Array:
        return mean_product(xp, x, x, dims, out)


class Affine(Elementwise):
    """y = x * weight + bias, of an x standardized by channels"""

    backward_name = "NativeBatchNormBackward0"
    vjp = (lambda g, weight: g * weight, lambda g, x: g * x, lambda g: g)

    @staticmethod
    def kernel(xp: Any, x: Array, weight: Array, bias: Array, out: Array | None = None) -> Array:
        out = out if channels_are_last(x) else out_like(xp, x, out)
        y = xp.multiply(x, weight, out=out)
        return xp.add(y, bias, out=y if y.ndim else out)


class Scores(Primitive):
    """y = the standard scores of x, (x - mean) / sqrt(var + eps) over `dims`, and behind them, all
    in one row, the factors 1 / sqrt(var + eps), and of channels the means and the variances

    For `LayerNorm`, whose rules know that they depend on x.
    """

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dims: tuple[int, ...], eps: float, out: Array | None = None
    ) -> Array:
        few, count, rows = layout(x.shape, dims)
        size = x.size
        if out is None:
            out = xp.empty(size + (count if rows else 3 * count), x.dtype)
        s, factors = out[:size].reshape(x.shape), out[size : size + count].reshape(few)
        if rows:
            xp.subtract(x, mean_of(xp, x, dims), s)
            scale_of(xp, s, dims, eps, factors)
        else:
            means = out[size + count : size + 2 * count].reshape(few)
            xp.subtract(x, mean_of(xp, x, dims, means), s)
            variances = out[size + 2 * count :].reshape(few)
            inverse_root(xp, mean_product(xp, s, s, dims, variances), eps, factors)
        xp.multiply(s, factors, s)
        return out


class LayerNorm(Primitive):
    """y = standardized x * weight + bias, over `dims`

    Any of the others may be None: without `scores` x is standardized here. The shapes of weight and
    bias are those of the last dimensions, or broadcast to x.
    """

    backward_name = "NativeLayerNormBackward0"
    vjp = (
        lambda g, x, weight, scores, sums, dims, eps: apply(
            LayerNormReverse, g, x, weight, scores, sums, dims=dims, eps=eps
        ),
        lambda g, x, scores, sums, dims, eps, weight_shape: apply(
            LayerNormWeight, g, x, scores, sums, dims=dims, eps=eps, shape=tuple(weight_shape)
        ),
        lambda g, sums, bias_shape: (
            g
            if sums is None and not of_samples(g, bias_shape)
            else apply(LayerNormBias, g, sums, shape=tuple(bias_shape))
        ),
        None,
    )
    jvp = (
        lambda t, x, weight, dims, eps: times(pushed(t, x, dims, eps), weight),
        lambda t, x, dims, eps: t * standardize(x, dims, eps),
        lambda t, x: broadcast_to(t, tuple(x.shape)),
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, weight: Any, bias: Any, scores: Any, *, dims: tuple[int, ...],
        eps: float, sums: Any = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        if scores is None:
            s = Standardize.kernel(xp, x, dims=dims, eps=eps)
        else:
            s = scores[: x.size].reshape(x.shape)
        if weight is not None:
            y = xp.multiply(s, weight, out=out)
            return y if bias is None else xp.add(y, bias, y)
        return xp.add(s, constant(s, 0) if bias is None else bias, out=out)


class BatchNorm(LayerNorm):
    """y = x standardized over all but the channels, * weight + bias, by the `scores` of x"""

    backward_name = "NativeBatchNormBackward0"
    vjp, jvp = LayerNorm.vjp, LayerNorm.jvp

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        """By the rules, with the sums that all of them need taken once: over the batch, of groups
        over each channel of a sample."""
        wanted = [e is not None and (only is None or e in only) for e in self.edges]
        if self.inputs is RELEASED or not any(wanted[:2]):  # the bias alone needs no scores
            return super().pull(g, only, tensors)
        attributes, scores = self.attributes, self.value(INPUT, 3, 3, tensors)
        dims = attributes["dims"]
        sums = apply(BatchSums, g, scores, dims=dims if dims[-1] != -1 else (-1,))
        self.attributes = {**attributes, "sums": sums}
        try:
            return super().pull(g, only, tensors)
        finally:
            self.attributes = attributes


class GroupNorm(BatchNorm):
    """y = x (samples, groups, channels, elements) standardized over the last two dimensions,
    * weight + bias, by the `scores` of x"""

    backward_name = "NativeGroupNormBackward0"
    vjp, jvp = LayerNorm.vjp, LayerNorm.jvp


class BatchSums(Primitive):
    """y = the sums of g and of g * s over `dims`, s the standard scores

    For the cotangents of BatchNorm and GroupNorm, whose rules know what they are.
    """

    @staticmethod
    def kernel(
        xp: Any, g: Array, scores: Array, *, dims: tuple[int, ...], out: Array | None = None
    ) -> Array:
        if out is None:
            out = xp.empty((2, *layout(g.shape, dims)[0]), g.dtype)
        total(xp, g, dims, out[:1].reshape(out.shape[1:]))
        s = scores[: g.size].reshape(g.shape)
        total_product(xp, g, s, dims, out[1:].reshape(out.shape[1:]))
        return out


class MovingAverage(Primitive):
    """y = a * (1 - share) + b * share, with b the vector behind so many elements of the scores,
    times `scale`"""

    in_place = True

    @staticmethod
    def kernel(
        xp: Any, a: Array, scores: Array, *, share: float, behind: int, scale: float,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        new = scores[behind : behind + a.size]
        if scale != 1:
            new = xp.multiply(new, constant(a, scale))
        new = xp.multiply(new, constant(a, share))
        y = xp.multiply(a, constant(a, 1 - share), out=out)
        return xp.add(y, new, out=y)


class LayerNormReverse(Primitive):
    """y = the cotangent of x in LayerNorm: of standardizing, given g * weight"""

    vjp = (
        lambda h, x, weight, dims, eps: times(pushed(h, x, dims, eps), weight),
        lambda h, g, x, weight, dims, eps: bent(h, times(g, weight), x, dims, eps),
        lambda h, g, x, dims, eps: g * pushed(h, x, dims, eps),
        None,
        None,
    )
    jvp = (
        lambda t, x, weight, dims, eps: pushed(times(t, weight), x, dims, eps),
        lambda t, g, x, weight, dims, eps: bent(t, times(g, weight), x, dims, eps),
        lambda t, g, x, dims, eps: pushed(g * t, x, dims, eps),
        None,
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, weight: Any, scores: Any, sums: Any, *,
        dims: tuple[int, ...], eps: float, out: Array | None = None,
    ) -> Array:  # fmt: skip
        if scores is None:
            return into(xp, pushed(times(g, weight), x, dims, eps), out)
        few, count, _ = layout(x.shape, dims)
        s, factors = scores[: x.size].reshape(x.shape), scores[x.size :][:count].reshape(few)
        if sums is not None and dims[-1] == -1:  # of channels, of which a group has several
            means = xp.add.reduce(times(sums, weight), axis=-2, keepdims=True)
            means = xp.multiply(means, factors, out=means)
            means = xp.true_divide(means, constant(means, math.prod(x.shape[-2:])), out=means)
            work = xp.multiply(s, means[1:].reshape(few))
            work = xp.add(work, means[:1].reshape(few), out=work)
            out = xp.multiply(g, times(factors, weight), out=out)
            return xp.subtract(out, work, out=out)
        if sums is not None:  # the weight is the same wherever they were taken
            means = xp.true_divide(sums, constant(sums, g.size // max(factors.size, 1)))
            share, mean = means[1:].reshape(factors.shape), means[:1].reshape(factors.shape)
            factors = times(factors, weight)
        else:
            g = g if weight is None else xp.multiply(g, weight, out=out)
            share, mean = mean_product(xp, g, s, dims), mean_of(xp, g, dims)
        work = xp.multiply(s, share)
        work = xp.add(work, mean, out=work)
        out = xp.subtract(g, work, out=out)
        return xp.multiply(out, factors, out=out)


class LayerNormWeight(Primitive):
    """y = the cotangent of the weight in LayerNorm: g * standardized x summed to its shape"""

    vjp = (
        lambda h, x, dims, eps: h * standardize(x, dims, eps),
        lambda h, g, x, dims, eps: pushed(h * g, x, dims, eps),
        None,
        None,
    )
    jvp = (
        lambda t, x, dims, eps, shape: sum_to(t * standardize(x, dims, eps), shape),
        lambda t, g, x, dims, eps, shape: sum_to(g * pushed(t, x, dims, eps), shape),
        None,
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, scores: Any, sums: Any, *, dims: tuple[int, ...], eps: float,
        shape: tuple[int, ...], out: Array | None = None,
    ) -> Array:  # fmt: skip
        if sums is not None:
            return over_samples(xp, sums[1:], shape, out)
        if scores is None:
            return into(xp, sum_to(g * standardize(x, dims, eps), shape), out)
        s = scores[: x.size].reshape(x.shape)
        if len(shape) == 1 and xp is HOST:
            n = shape[0]
            return HOST.einsum("rn,rn->n", g.reshape((-1, n)), s.reshape((-1, n)), out=out)
        samples = of_samples(g, shape)
        if samples and xp is HOST:
            y = xp.einsum("ncs,ncs->c", g.reshape(samples), s.reshape(samples))
            return copied(xp, y.reshape(shape), out)
        return into(xp, sum_to(g * s, shape), out)


class LayerNormBias(Primitive):
    """y = the cotangent of a bias of channels: the sums of g, from BatchSums or taken here"""

    vjp = (lambda h, g_shape: broadcast_to(h, tuple(g_shape)), None)
    jvp = (lambda t, shape: sum_to(t, shape), None)

    @staticmethod
    def kernel(
        xp: Any, g: Array, sums: Any, *, shape: tuple[int, ...], out: Array | None = None
    ) -> Array:
        if sums is None:
            y = xp.einsum("ncs->c", g.reshape(of_samples(g, shape)))
            return copied(xp, y.reshape(shape), out)
        return over_samples(xp, sums[:1], shape, out)


@functools.lru_cache(maxsize=256)
def layout(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[tuple[int, ...], int, bool]:
    """The shape with the sizes of `dims` replaced by 1, its size, and whether they are the last."""
    over = {d % len(shape) for d in dims}
    few = tuple(1 if d in over else n for d, n in enumerate(shape))
    return few, math.prod(few), dims[-1] == -1


def of_samples(g: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape (samples, channels, elements) of g where `shape` is that of a weight of channels
    which is the same for several elements; else ()."""
    if shape[-1] != 1 or g.shape[-1] == 1:
        return ()
    samples, channels = g.shape[0], math.prod(shape)
    return samples, channels, math.prod(g.shape) // (samples * channels)


def over_samples(xp: Any, sums: Array, shape: tuple[int, ...], out: Array | None) -> Array:
    """The sums (1, *), which may still be of each sample, in the shape of a weight."""
    if sums.size != math.prod(shape):
        sums = xp.add.reduce(sums, axis=1)
    return copied(xp, sums.reshape(shape), out)


def copied(xp: Any, x: Array, out: Array | None) -> Array:
    """The elements of x in memory of their own."""
    return x.copy() if out is None else into(xp, x, out)


def times(a: Any, weight: Any) -> Any:
    """a * weight, of which the latter may be None."""
    return a if weight is None else a * weight


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


def scale_of(
    xp: Any, centered: Array, dims: tuple[int, ...], eps: float, out: Array | None = None
) -> Array:
    """1 / sqrt(var + eps) of centered values, with the reduced dimensions kept.

    Of rows of n values, whose squares have the sum q, as sqrt(n) / sqrt(q + n * eps): that is one
    division less.
    """
    if dims[-1] != -1:
        return inverse_root(xp, mean_product(xp, centered, centered, dims), eps, out)
    y = total_product(xp, centered, centered, dims, out)
    n = centered.size // max(y.size, 1)
    y = xp.sqrt(xp.add(y, constant(y, n * eps), y), y)
    return xp.divide(constant(y, math.sqrt(n)), y, y)


def inverse_root(xp: Any, variance: Array, eps: float, out: Array | None = None) -> Array:
    """1 / sqrt(var + eps)"""
    y = xp.add(variance, constant(variance, eps), out=out)
    return xp.reciprocal(xp.sqrt(y, y), y)


vecdot: Any = HOST.vecdot  # whose type leaves out `keepdims`
LONG = 4096  # elements from which on NumPy's sum is as fast as one product or einsum, and finer
PART = 1024  # elements of a long row that one product sums; four times as fast as NumPy's sum


def as_rows(xp: Any, x: Array, dims: tuple[int, ...]) -> Any:
    """x with its last dimensions as one, of an array of the host that is no half, if `dims` are
    these; else None."""
    if xp is not HOST or dims[-1] != -1 or x.itemsize < 4 or not x.size:
        return None
    if len(dims) == 1:
        return x
    return x.reshape((*x.shape[: dims[0]], math.prod(x.shape[dims[0] :])))


def mean_of(xp: Any, x: Array, dims: tuple[int, ...], out: Array | None = None) -> Array:
    """The mean over `dims`, which are kept, as `x.mean` gives it in twice the time."""
    y = total(xp, x, dims, out)
    return xp.true_divide(y, constant(y, x.size // max(y.size, 1)), y)


def total(xp: Any, x: Array, dims: tuple[int, ...], out: Array | None) -> Array:
    """The sum over `dims`, which are kept."""
    rows = as_rows(xp, x, dims)
    if rows is not None and (length := rows.shape[-1]) < LONG:
        ones_of_row = ones(length, x.dtype.char)
        if out is not None or not rows.flags.c_contiguous:
            return of_rows(rows, ones_of_row, x, dims, out)
        y = (rows if rows.ndim == 2 else rows.reshape((-1, length))).dot(ones_of_row)
        return y[:, None] if x.ndim == 2 else y.reshape(layout(x.shape, dims)[0])
    if rows is not None and rows.flags.c_contiguous and (part := math.gcd(length, PART)) >= 64:
        parts = rows.reshape((-1, part)).dot(ones(part, x.dtype.char))
        y = xp.add.reduce(parts.reshape((-1, length // part)), axis=-1)
        y = y.reshape(layout(x.shape, dims)[0])
        return y if out is None else into(xp, y, out)
    if x.ndim > 2 and of_channels(xp, x, dims) and math.prod(x.shape[2:]) < LONG:
        return by_channel(xp, "ncs->c", (x,), dims, out)
    y = on_device(xp, x, None, dims, out)
    return xp.add.reduce(x, axis=dims, keepdims=True, out=out) if y is NotImplemented else y


def moments_on_device(xp: Any, x: Array, dims: tuple[int, ...], eps: float) -> Any:
    """The mean over `dims` and 1 / sqrt(var + eps), by kernels of ours; None without these."""
    if xp is HOST or x.itemsize == 2:
        return None
    divisor = x.size // max(layout(x.shape, dims)[1], 1)
    how: dict[str, Any] = {"dim": dims, "keepdim": True, "divisor": divisor}
    mean = cuda_parts.total(xp, x, **how)
    if mean is NotImplemented:
        return None
    variance = cuda_parts.total(xp, x, centered=mean, **how)
    if variance is NotImplemented:
        return None
    return mean, at_once(xp, inverse_root, (variance, eps), None)


def at_once(xp: Any, function: Any, operands: tuple[Any, ...], out: Array | None) -> Array:
    """function(xp, *operands), of elements, by one launch where its kernel can be written."""
    y: Any = NotImplemented
    if hasattr(xp, "RawKernel"):
        y = cuda_parts.evaluate(xp, function, operands, out)
    return into(xp, function(xp, *operands), out) if y is NotImplemented else y


def scaled(xp: Any, x: Array, mean: Array, scale: Array) -> Array:
    return xp.multiply(xp.subtract(x, mean), scale)


def scaled_slope(xp: Any, g: Array, s: Array, mean: Array, share: Array, scale: Array) -> Array:
    return xp.multiply(xp.subtract(g, xp.add(xp.multiply(s, share), mean)), scale)


def on_device(xp: Any, a: Array, b: Array | None, dims: tuple[int, ...], out: Array | None) -> Any:
    """The sum of a, or of a * b, by a kernel of ours; NotImplemented on the CPU."""
    if xp is HOST:
        return NotImplemented
    return cuda_parts.total(xp, a, b, dim=dims, keepdim=True, out=out)


def of_rows(a: Array, b: Array, x: Array, dims: tuple[int, ...], out: Array | None) -> Array:
    """The sums of a * b over their last dimension, in which `dims` of x are one."""
    if len(dims) == 1:
        return vecdot(a, b, keepdims=True, out=out)
    few = layout(x.shape, dims)[0]
    if out is None:
        return vecdot(a, b).reshape(few)
    vecdot(a, b, out=out.reshape(few[: dims[0]]))
    return out


def mean_product(
    xp: Any, a: Array, b: Array, dims: tuple[int, ...], out: Array | None = None
) -> Array:
    """The mean of a * b over `dims`, which are kept."""
    y = total_product(xp, a, b, dims, out)
    return xp.true_divide(y, constant(y, a.size // max(y.size, 1)), out=y)


def of_channels(xp: Any, x: Array, dims: tuple[int, ...]) -> bool:
    """Whether `dims` are all but the channels of an array of the host that is no half."""
    return xp is HOST and x.itemsize > 2 and x.ndim > 1 and dims == (0, *range(2, x.ndim))


def by_channel(
    xp: Any, pattern: str, arrays: tuple[Array, ...], dims: tuple[int, ...], out: Array | None
) -> Array:
    """The sums that einsum's pattern says, of arrays whose dimensions behind the channels are one
    there, in the shape of an array whose `dims` are reduced."""
    shape = arrays[0].shape
    few, count, _ = layout(shape, dims)
    seen = shape if len(shape) == 2 else (shape[0], count, math.prod(shape[2:]))
    target = None if out is None else out.reshape((count,))
    y = xp.einsum(pattern, *(a.reshape(seen) for a in arrays), out=target)
    return y.reshape(few) if out is None else out


def total_product(
    xp: Any, a: Array, b: Array, dims: tuple[int, ...], out: Array | None = None
) -> Array:
    """The sum of a * b over `dims`, which are kept; over the last ones, and over all but the
    channels, without the products."""
    rows = as_rows(xp, a, dims)
    if rows is not None:
        return of_rows(rows, as_rows(xp, b, dims), a, dims, out)
    if of_channels(xp, a, dims):
        return by_channel(xp, "nc,nc->c" if a.ndim == 2 else "ncs,ncs->c", (a, b), dims, out)
    y = on_device(xp, a, b, dims, out)
    if y is NotImplemented and dims == (-1,) and a.itemsize > 2:
        return xp.einsum("...i,...i->...", a, b)[..., None]
    return xp.add.reduce(a * b, axis=dims, keepdims=True, out=out) if y is NotImplemented else y


def inverse_deviation(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    """1 / sqrt(var + eps), in the language of the ops."""
    return rsqrt(var(x, dims, correction=0, keepdim=True) + eps)


def mean_square(x: Any, dims: tuple[int, ...]) -> Any:
    """The mean of x² over `dims`, which are kept."""
    if getattr(x, "_array", x).dtype.kind == "c":
        return mean(x * x, dims, True)
    return apply(MeanSquare, x, dims=dims)


def standardize(x: Any, dims: tuple[int, ...], eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) over `dims`, x of any shape; the variance is the biased one."""
    return apply(Standardize, x, dims=dims, eps=eps)


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x * weight + bias, either of which may be None."""
    if weight is not None and bias is not None:
        return apply(Affine, x, weight, bias)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def takes_scores(x: Any) -> bool:
    """Whether the kernels normalize x by scores: floats of the CPU."""
    array = getattr(x, "_array", None)
    return type(array) is HOST.ndarray and array.dtype.char in "fd" and array.size > 0


def scores_of(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    """What `Scores` computes of x; None where it `takes_scores` of none."""
    return apply(Scores, x, dims=dims, eps=eps) if takes_scores(x) else None


def layer_norm(
    x: Any, weight: Any, bias: Any, dims: tuple[int, ...], eps: float = 1e-5, scores: Any = None
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias over `dims`; weight and bias may be None.

    Where `scores`, from `scores_of`, are None, standardized x is computed anew for the gradients.
    """
    return apply(LayerNorm, x, weight, bias, scores, dims=dims, eps=eps, sums=None)


def batch_norm(
    x: Any, weight: Any, bias: Any, scores: Any, dims: tuple[int, ...], eps: float
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias over all but the channels, by the scores of x;
    weight and bias may be None."""
    return apply(BatchNorm, x, weight, bias, scores, dims=dims, eps=eps, sums=None)


def group_norm(x: Any, weight: Any, bias: Any, scores: Any, eps: float) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias of x (samples, groups, channels, elements) over
    the last two dimensions, by the scores of x; weight and bias (groups, channels, 1) or None."""
    return apply(GroupNorm, x, weight, bias, scores, dims=(-2, -1), eps=eps, sums=None)
