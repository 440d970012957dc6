"""Activation functions."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from nanotorch.backend import HOST, Array, clipped, constant, counting, in_pieces, ones
from nanotorch.backend.order_of_memory import is_narrow, out_like
from nanotorch.ops.broadcasting import summed
from nanotorch.ops.casting import into
from nanotorch.ops.comparisons import selected, where
from nanotorch.ops.elementwise import Clamp, exp, tanh
from nanotorch.ops.error_function import erf, normal_cdf_of_floats, polynomial
from nanotorch.ops.operand_dtypes import needs_floats
from nanotorch.ops.shapes import dimension, required
from nanotorch.ops.sums import sum
from nanotorch.primitive import Elementwise, Primitive, Rule, apply, function


class Sigmoid(Elementwise):
    """y = 1 / (1 + exp(-x))"""

    promotes = "floating"
    vjp: ClassVar[tuple[Rule | None, ...]] = (lambda g, y: apply(SigmoidReverse, g, y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return stable_sigmoid(xp, x, out)


class SigmoidReverse(Elementwise):
    """z = g * (1 - y) * y"""

    backward_name = "SigmoidBackwardBackward0"
    promotes = None
    vjp = (lambda h, y: apply(SigmoidReverse, h, y), lambda h, g, y: h * (g * (1 - 2 * y)))

    @staticmethod
    def kernel(xp: Any, g: Array, y: Array, out: Array | None = None) -> Array:
        return xp.multiply(g, (1 - y) * y, out=out)


sigmoid = function(Sigmoid)


class Logistic(Sigmoid):
    """y = 1 / (1 + exp(-x)), whose slope is right for large x too: for the rules of other ops"""

    backward_name = "SigmoidBackward0"
    vjp = (lambda g, x: g * (logistic(x) * logistic(-x)),)


logistic: Rule = function(Logistic)


class Relu(Elementwise):
    """y = max(x, 0)"""

    in_place = True
    vjp = (lambda g, y: apply(ReluReverse, g, y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        if x.dtype.kind == "f":
            return clipped(xp, x, 0, math.inf, out)
        return xp.maximum(x, 0, out=out)


class ReluReverse(Elementwise):
    """z = 0 where y <= 0, else g"""

    backward_name = "ThresholdBackwardBackward0"
    promotes = None
    vjp = (lambda h, y: apply(ReluReverse, h, y), None)

    @staticmethod
    def kernel(xp: Any, g: Array, y: Array, out: Array | None = None) -> Array:
        return selected(xp, y <= 0, 0, g, out)


relu = function(Relu)


LEAST_SLOPE = 1e-30  # of which float32 does not make the 0 that infinity times it were NaN


class LeakyRelu(Elementwise):
    """y = x where x > 0, else slope * x"""

    vjp = (lambda g, x, slope: where(x > 0, g, g * slope),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, slope: float, out: Array | None = None) -> Array:
        if LEAST_SLOPE < slope <= 1 and x.dtype.kind == "f":  # in a third of the time
            return xp.maximum(x, x * constant(x, slope), out=out)
        return selected(xp, x > 0, x, x * slope, out)


class Elu(Elementwise):
    """y = x where x > 0, else alpha * (exp(x) - 1)"""

    # As in PyTorch the curvature at 0 is 0, and NaN has the slope of what is above 0.
    vjp = (lambda g, x, alpha: g * where(x <= 0, alpha * exp(where(x < 0, x, 0)), 1),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, alpha: float, out: Array | None = None) -> Array:
        below = alpha * xp.expm1(clipped(xp, x, -math.inf, 0))
        return selected(xp, x > 0, x, below, out)


class Silu(Elementwise):
    """y = x * sigmoid(x)"""

    promotes = "floating"
    vjp = (lambda g, x: apply(SiluReverse, g, x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def silu(x: Array, out: Array | None) -> Array:
            return xp.multiply(x, stable_sigmoid(xp, x), out=out)

        return in_pieces(silu, (x,), out)


class SiluReverse(Elementwise):
    """y = g * s * (1 + x * (1 - s)), s = sigmoid(x)"""

    backward_name = "SiluBackwardBackward0"
    promotes = None
    vjp = (lambda h, x: apply(SiluReverse, h, x), lambda h, g, x: h * (g * silu_curvature(x)))

    @staticmethod
    def kernel(xp: Any, g: Array, x: Array, out: Array | None = None) -> Array:
        def reverse(g: Array, x: Array, out: Array | None) -> Array:
            return xp.multiply(g, silu_slope(x), out=out)

        return in_pieces(reverse, (g, x), out)


def silu(x: Any) -> Any:
    """x times the logistic function of x."""
    needs_floats("silu", x)
    return apply(Silu, x)


class Softplus(Elementwise):
    """y = log(1 + exp(beta x)) / beta, and x itself where beta x > threshold"""

    promotes = "floating"
    vjp = (lambda g, x, beta, threshold: g * softplus_slope(x, beta, threshold),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, beta: float, threshold: float, out: Array | None = None
    ) -> Array:
        z = x * beta
        y = (clipped(xp, z, 0, math.inf) + xp.log1p(xp.exp(-xp.absolute(z)))) / beta
        return selected(xp, z > threshold, x, y, out)


class LogSigmoid(Elementwise):
    """y = log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|))"""

    backward_name = "LogSigmoidBackward0"
    vjp = (lambda g, x: g * logistic(-x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        tail, out = xp.log1p(xp.exp(-xp.absolute(x))), out_like(xp, x, out)
        return xp.subtract(clipped(xp, x, -math.inf, 0), tail, out=out)


def logsigmoid(x: Any) -> Any:
    """The logarithm of the logistic function of x."""
    needs_floats("logsigmoid", x)
    return apply(LogSigmoid, x)


class Gelu(Elementwise):
    """y = x * Phi(x), Phi the normal distribution function; or its tanh approximation"""

    vjp = (lambda g, x, approximate: apply(GeluReverse, g, x, approximate=approximate),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, approximate: str, out: Array | None = None) -> Array:
        def gelu(x: Array, out: Array | None) -> Array:
            return xp.multiply(x, gelu_cdf(xp, x, approximate), out=out)

        return in_pieces(gelu, (x,), out)


class GeluReverse(Elementwise):
    """y = g * dGELU/dx"""

    backward_name = "GeluBackwardBackward0"
    promotes = None
    vjp = (
        lambda h, x, approximate: apply(GeluReverse, h, x, approximate=approximate),
        lambda h, g, x, approximate: h * (g * gelu_curvature(x, approximate)),
    )

    @staticmethod
    def kernel(xp: Any, g: Array, x: Array, *, approximate: str, out: Array | None = None) -> Array:
        def reverse(g: Array, x: Array, out: Array | None) -> Array:
            return xp.multiply(g, gelu_slope(xp, x, approximate), out=out)

        return in_pieces(reverse, (g, x), out)


class NormalCdf(Elementwise):
    """y = Phi(x), the normal distribution function, for `GeluBy`, whose rules know what it is"""

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def cdf(x: Array, out: Array | None) -> Array:
            if x.dtype.char == "f":
                return normal_cdf_of_floats(xp, x, out)
            return into(xp, gelu_cdf(xp, x, "none"), out)

        return in_pieces(cdf, (x,), out)


class GeluBy(Elementwise):
    """y = x * cdf, with cdf = Phi(x), which is kept for the slope"""

    backward_name = "GeluBackward0"
    vjp = (lambda g, x, cdf: apply(GeluByReverse, g, x, cdf), None)

    @staticmethod
    def kernel(xp: Any, x: Array, cdf: Array, out: Array | None = None) -> Array:
        return xp.multiply(x, cdf, out=out)


class GeluByReverse(Elementwise):
    """y = g * (cdf + x * Phi'(x)), with cdf = Phi(x)"""

    backward_name = "GeluBackwardBackward0"
    promotes = None
    vjp = (
        lambda h, x, cdf: apply(GeluByReverse, h, x, cdf),
        lambda h, g, x: h * (g * gelu_curvature(x, "none")),
        None,
    )

    @staticmethod
    def kernel(xp: Any, g: Array, x: Array, cdf: Array, out: Array | None = None) -> Array:
        def reverse(g: Array, x: Array, cdf: Array, out: Array | None) -> Array:
            y = normal_density(xp, x)
            own = y if y.ndim else None
            y = xp.add(xp.multiply(y, x, out=own), cdf, out=own)
            return xp.multiply(g, y, out=out)

        return in_pieces(reverse, (g, x, cdf), out)


class Hardtanh(Clamp):
    """y = x held within [low, high], numbers; unlike that of clamp, the slope is 0 at the bounds"""

    backward_name = "HardtanhBackward0"
    vjp = (lambda g, x, low, high: where((x <= low) | (x >= high), 0, g),)


def hardtanh(x: Any, low: float = -1.0, high: float = 1.0) -> Any:
    """x held within [low, high], in its dtype."""
    if getattr(x, "_array", x).dtype.kind in "iu":
        low, high = int(low), int(high)
    return apply(Hardtanh, x, low=low, high=high)


class Hardsigmoid(Elementwise):
    """y = min(max(x + 3, 0), 6) / 6; the slope is 0 at NaN and at the bounds"""

    vjp = (lambda g, x: where((x > -3) & (x < 3), g / 6, 0),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.true_divide(clipped(xp, x + 3, 0, 6), 6, out=out)


hardsigmoid = function(Hardsigmoid)


class Hardswish(Elementwise):
    """y = x * min(max(x + 3, 0), 6) / 6"""

    vjp = (lambda g, x: where(x <= -3, 0, g * where(x < 3, hardtanh(x, -3.0, 3.0) / 3 + 0.5, 1)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.true_divide(x * clipped(xp, x + 3, 0, 6), 6, out=out)


def hardswish(x: Any) -> Any:
    """x times hardsigmoid(x)."""
    needs_floats("hardswish", x)
    return apply(Hardswish, x)


def rows_of(xp: Any, columns: Array, out: Array | None) -> Array:
    """The matrix whose columns are given as rows, in memory in the usual order."""
    return columns.T.copy() if out is None else into(xp, columns.T, out)


def largest_along(xp: Any, x: Array, dim: int) -> Array:
    """The largest along a dimension, which is kept with size 1."""
    ndim = x.ndim
    if type(x) is HOST.ndarray and ndim and dim in (-1, ndim - 1) and x.flags.c_contiguous:
        # By their places, in a half to a seventh of the time of the maxima themselves.
        places, first = x.argmax(-1), counting(x.size, x.shape[-1])
        places += first if ndim == 2 else first.reshape(places.shape)
        return x.take(places)[..., None]
    return x.max(axis=dim if ndim else None, keepdims=True)


def total_along(xp: Any, x: Array, dim: int) -> Array:
    """The sum along a dimension, which is kept with size 1."""
    return summed(xp, x, dim=dim if x.ndim else None, keepdim=True)


def totals(xp: Any, x: Array, dim: int) -> Array:
    """The sums along a dimension, which is left out; of rows on the CPU as a product with ones, in
    a sixth to a half of the time."""
    ndim = x.ndim
    if xp is HOST and ndim and dim in (-1, ndim - 1):
        flags, length = x.flags, x.shape[-1]
        if ndim == 2 and flags.forc:
            return x.dot(ones(length, x.dtype.char))
        if flags.c_contiguous:
            y = x.reshape((-1, length)).dot(ones(length, x.dtype.char))
            return y.reshape(x.shape[:-1])
    return xp.add.reduce(x, axis=dim if ndim else None)


def beside(total: Array, x: Array, dim: int) -> Array:
    """The totals of x along a dimension, with size 1 there."""
    ndim = x.ndim
    if not ndim:
        return total
    if dim in (-1, ndim - 1):
        return total[..., None]
    return total.reshape((*x.shape[:dim], 1, *x.shape[dim:][1:]))


class Softmax(Primitive):
    """y = exp(x) / sum of exp(x), along `dim`"""

    vjp = (lambda g, y, dim: apply(SoftmaxReverse, g, y, dim=dim),)
    jvp = vjp

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, out: Array | None = None) -> Array:
        if not x.size:
            return x.copy() if out is None else out
        if xp is HOST and is_narrow(x, dim):
            columns = x.T.copy()
            columns = xp.subtract(columns, columns.max(axis=0), out=columns)
            columns = xp.exp(columns, out=columns)
            total = totals(xp, columns.T, 1)
            return rows_of(xp, xp.true_divide(columns, total, out=columns), out)
        out = out_like(xp, x, out)
        y = xp.subtract(x, largest_along(xp, x, dim), out=out)
        if not y.ndim:
            return xp.exp(y, out=out)
        xp.exp(y, y)
        return xp.true_divide(y, beside(totals(xp, y, dim), x, dim), y)


class SoftmaxReverse(Primitive):
    """z = (g - sum of g * y) * y along `dim`; the Jacobian of Softmax is symmetric"""

    backward_name = "SoftmaxBackwardDataBackward0"
    vjp = (
        lambda h, y, dim: apply(SoftmaxReverse, h, y, dim=dim),
        lambda h, g, y, dim: h * (g - sum(g * y, dim, True)) - g * sum(h * y, dim, True),
    )
    jvp = (
        lambda t, y, dim: apply(SoftmaxReverse, t, y, dim=dim),
        lambda t, g, y, dim: t * (g - sum(g * y, dim, True)) - y * sum(g * t, dim, True),
    )

    @staticmethod
    def kernel(xp: Any, g: Array, y: Array, *, dim: int, out: Array | None = None) -> Array:
        work = xp.multiply(g, y, out=out)
        own = work if work.ndim else out
        work = xp.subtract(g, total_along(xp, work, dim), out=own)
        return xp.multiply(work, y, out=own)


class LogSoftmax(Primitive):
    """y = x - log sum of exp(x), along `dim`"""

    vjp = (lambda g, y, dim: apply(LogSoftmaxReverse, g, y, dim=dim),)
    jvp = (lambda t, y, dim: t - sum(t * exp(y), dim, True),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int, out: Array | None = None) -> Array:
        if not x.size:
            dimension(dim, x.ndim)
            return x.copy() if out is None else out
        if xp is HOST and is_narrow(x, dim):
            columns = x.T.copy()
            columns = xp.subtract(columns, columns.max(axis=0), out=columns)
            total = totals(xp, xp.exp(columns).T, 1)
            total = xp.log(total, out=total)
            return rows_of(xp, xp.subtract(columns, total, out=columns), out)
        out = out_like(xp, x, out)
        y = xp.subtract(x, largest_along(xp, x, dim), out=out)
        total = beside(xp.log(totals(xp, xp.exp(y), dim)), x, dim)
        return xp.subtract(y, total, out=y if y.ndim else out)


class LogSoftmaxReverse(Primitive):
    """z = g - exp(y) * sum of g, along `dim`"""

    backward_name = "LogSoftmaxBackwardDataBackward0"
    vjp = (
        lambda h, y, dim: h - sum(h * exp(y), dim, True),
        lambda h, g, y, dim: -h * exp(y) * sum(g, dim, True),
    )
    jvp = (
        lambda t, y, dim: apply(LogSoftmaxReverse, t, y, dim=dim),
        lambda t, g, y, dim: -t * exp(y) * sum(g, dim, True),
    )

    @staticmethod
    def kernel(xp: Any, g: Array, y: Array, *, dim: int, out: Array | None = None) -> Array:
        work = xp.exp(y, out=out)
        own = work if work.ndim else out
        work = xp.multiply(work, total_along(xp, g, dim), out=own)
        return xp.subtract(g, work, out=own)


def stable_sigmoid(xp: Any, x: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)), which is 0 where exp overflows."""
    y = xp.negative(x, out=out)
    if not x.ndim:
        return xp.reciprocal(xp.exp(y) + 1, out=out)
    xp.add(xp.exp(y, y), constant(y, 1), y)
    return xp.reciprocal(y, y)


def silu_slope(x: Any) -> Any:
    """d(x sigmoid(x))/dx."""
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def silu_curvature(x: Any) -> Any:
    """The second derivative of x sigmoid(x)."""
    s = sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def softplus_slope(x: Any, beta: float, threshold: float) -> Any:
    """d softplus/dx = sigmoid(beta x), and 1 where beta x > threshold."""
    z = x * beta
    return where(z > threshold, 1, logistic(z))


ROOT = math.sqrt(2 / math.pi)
CUBIC = 0.044715  # as Hendrycks and Gimpel (2016) have it, in front of x * x * x


def gelu_cdf(xp: Any, x: Array, approximate: str) -> Any:
    """The factor that GELU multiplies x with."""
    if approximate == "tanh":
        return tanh(polynomial(xp, x * x, (ROOT, ROOT * CUBIC)) * x) * 0.5 + 0.5
    if x.dtype.char == "f":
        return normal_cdf_of_floats(xp, x)
    return 0.5 * (1 + erf(x * math.sqrt(0.5)))


def gelu_slope(xp: Any, x: Array, approximate: str) -> Any:
    """dGELU/dx."""
    cdf = gelu_cdf(xp, x, approximate)
    if approximate == "tanh":
        slope = polynomial(xp, x * x, (2 * ROOT, 6 * ROOT * CUBIC)) * x
        return cdf + slope * (cdf - cdf * cdf)
    return cdf + x * normal_density(xp, x)


def normal_density(xp: Any, x: Array) -> Array:
    """exp(-x * x / 2) / sqrt(2 pi)"""
    y = xp.multiply(x, x)
    own = y if y.ndim else None
    y = xp.exp(xp.multiply(y, constant(x, -0.5), out=own), out=own)
    return xp.multiply(y, constant(x, 1 / math.sqrt(2 * math.pi)), out=own)


def gelu_curvature(x: Any, approximate: str) -> Any:
    """The second derivative of GELU."""
    if approximate == "tanh":
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        t = tanh(scale * (x + cubic * (x * x * x)))
        slope = scale * (1 + 3 * cubic * (x * x))
        return (1 - t * t) * (slope + x * (3 * scale * cubic * x - t * slope * slope))
    return exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)) * (2 - x * x)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where positive, else negative_slope * x."""
    needs_floats("leaky_relu", x)
    return apply(LeakyRelu, x, slope=negative_slope)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, else alpha * (exp(x) - 1)."""
    needs_floats("elu", x)
    return apply(Elu, x, alpha=alpha)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta x)) / beta; x itself where beta x exceeds the threshold."""
    needs_floats("softplus", x)
    return apply(Softplus, x, beta=beta, threshold=threshold)


def gelu(x: Any, approximate: str = "none") -> Any:
    """x times the normal distribution function of x, exact or by the "tanh" approximation."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    needs_floats("gelu", x)
    array = getattr(x, "_array", None)
    if approximate == "none" and type(array) is HOST.ndarray and array.itemsize > 2:
        if getattr(x, "requires_grad", False):  # its slope will be asked for
            return apply(GeluBy, x, apply(NormalCdf, x))
    return apply(Gelu, x, approximate=approximate)


def softmax(x: Any, dim: Any = None, dtype: Any = None, *, axis: Any = None) -> Any:
    """exp(x) normalized to sum 1 along `dim`."""
    dim = dimension(required(dim, axis, "softmax"), x.ndim)
    return apply(Softmax, x if dtype is None else x.to(dtype), dim=dim)


def log_softmax(x: Any, dim: Any = None, dtype: Any = None, *, axis: Any = None) -> Any:
    """log(softmax(x)) along `dim`, computed without overflow."""
    dim = dimension(required(dim, axis, "log_softmax"), x.ndim)
    return apply(LogSoftmax, x if dtype is None else x.to(dtype), dim=dim)
