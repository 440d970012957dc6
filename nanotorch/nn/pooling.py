"""Pooling: the largest or the mean element of each window, or of as many bins as are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.backend import HOST, Array
from nanotorch.backend.halves import kernel_of
from nanotorch.creation import tensor
from nanotorch.nn.fused import Recomputed
from nanotorch.nn.module import Module
from nanotorch.nn.windows import Shape, Windows, each
from nanotorch.ops.casting import into
from nanotorch.ops.reductions import Amax
from nanotorch.ops.sums import Sum
from nanotorch.primitive import Linear, Primitive, apply
from nanotorch.tensor import Tensor


class MaxPool(Recomputed):
    """y = the largest element of each window of x (N, C, *)"""

    __slots__ = ()
    vjp = (lambda g, x, y, windows: apply(MaxPoolReverse, g, x, y, windows=windows),)
    jvp = (lambda t, x, y, windows: apply(MaxPoolPick, t, x, y, windows=windows),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, windows: Windows, out: Array | None = None) -> Array:
        if apart := tiles(windows, x.shape[2:]):
            return of_tiles(xp, Amax, x, apart, out)
        counts = windows.counts(x.shape[2:])
        padded = surrounded(xp, x, windows)
        keys = windows.places(counts)
        y = padded[keys[0]].copy() if out is None else into(xp, padded[keys[0]], out)
        for key in keys[1:]:
            xp.maximum(y, padded[key], out=y)
        return y


class MaxPoolReverse(Primitive):
    """y (like x) = g where an element of x is the first of its window to be the largest, else 0"""

    __slots__ = ()
    vjp = (lambda h, x, y, windows: apply(MaxPoolPick, h, x, y, windows=windows), None, None)
    jvp = (lambda t, x, y, windows: apply(MaxPoolReverse, t, x, y, windows=windows), None, None)

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, y: Array, *, windows: Windows, out: Array | None = None
    ) -> Array:
        if tiled := tiles(windows, x.shape[2:]):
            chosen = by_window(x, tiled).argmax(-1)[..., None]
            shares = (xp.arange(math.prod(tiled[1::2])) == chosen) * g[..., None]
            return into(xp, from_windows(shares, tiled, x.shape), out)
        counts, spatial = windows.counts(x.shape[2:]), x.shape[2:]
        padded = surrounded(xp, x, windows)
        total: Array = out if padded is x else None
        if total is None:
            total = xp.empty(padded.shape, g.dtype)
        total[...] = 0
        apart = all(
            s >= d * (k - 1) + 1
            for s, d, k in zip(windows.stride, windows.dilation, windows.size, strict=True)
        )
        for key, first in largest(xp, padded, y, windows, counts):
            if apart:  # no element is in two windows
                xp.multiply(g, first, out=total[key])
            else:
                part = total[key]  # in place alone: CuPy's `total[key] +=` writes once more
                part += g * first
        return total if padded is x else into(xp, total[windows.inside(spatial)], out)


class MaxPoolPick(Primitive):
    """y = the elements of t at the places where x has the largest of each window"""

    __slots__ = ()
    vjp = (lambda g, x, y, windows: apply(MaxPoolReverse, g, x, y, windows=windows), None, None)
    jvp = (lambda t, x, y, windows: apply(MaxPoolPick, t, x, y, windows=windows), None, None)

    @staticmethod
    def kernel(
        xp: Any, t: Array, x: Array, y: Array, *, windows: Windows, out: Array | None = None
    ) -> Array:
        counts = windows.counts(x.shape[2:])
        values = surrounded(xp, t, windows, 0)
        result = xp.zeros(y.shape, t.dtype) if out is None else out
        result[...] = 0
        for key, first in largest(xp, surrounded(xp, x, windows), y, windows, counts):
            xp.copyto(result, values[key], where=first)
        return result


class MaxPoolIndices(Primitive):
    """y = the number, in its channel of x, of the largest element of each window"""

    __slots__ = ()
    vjp = (None,)

    @staticmethod
    def kernel(xp: Any, x: Array, *, windows: Windows, out: Array | None = None) -> Array:
        counts, spatial = windows.counts(x.shape[2:]), x.shape[2:]
        padded = surrounded(xp, x, windows)
        numbers = xp.zeros(padded.shape[2:], xp.int64)
        numbers[windows.inside(spatial)] = xp.arange(math.prod(spatial)).reshape(spatial)
        y = MaxPool.kernel(xp, x, windows=windows)
        result = xp.zeros(y.shape, xp.int64)
        for key, first in largest(xp, padded, y, windows, counts):
            xp.copyto(result, numbers[key], where=first)
        return into(xp, result, out)


class AveragePool(Linear):
    """y = the sum of each window of x (N, C, *) over its divisor, one per window and dimension"""

    __slots__ = ()
    vjp = (
        lambda g, x_shape, windows, divisors: apply(
            AveragePoolReverse, g, shape=x_shape[2:], windows=windows, divisors=divisors
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, windows: Windows, divisors: tuple[Any, ...], out: Array | None = None
    ) -> Array:
        counts = windows.counts(x.shape[2:])
        if apart := tiles(windows, x.shape[2:]):
            y = of_tiles(xp, Sum, x, apart, out)
        else:
            padded = surrounded(xp, x, windows, 0)
            first, *others = windows.places(counts)
            y = padded[first].copy() if out is None else into(xp, padded[first], out)
            for key in others:
                y += padded[key]
        if y.dtype.kind in "iu":  # rounded towards 0
            y[...] = xp.trunc(y / divisor(xp, divisors, y.dtype))
        else:
            y /= divisor(xp, divisors, y.dtype)
        return y


class AveragePoolReverse(Linear):
    """y (N, C, *shape) = the sum of g over its divisor, over the windows that an element is in"""

    __slots__ = ()
    vjp = (lambda h, windows, divisors: apply(AveragePool, h, windows=windows, divisors=divisors),)

    @staticmethod
    def kernel(
        xp: Any, g: Array, *, shape: Shape, windows: Windows, divisors: tuple[Any, ...],
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        shares = g / divisor(xp, divisors, g.dtype)
        if apart := tiles(windows, shape):
            few = [1 if d % 2 else n for d, n in enumerate(apart)]
            wide = xp.broadcast_to(shares.reshape(*g.shape[:2], *few), (*g.shape[:2], *apart))
            return into(xp, wide.reshape(*g.shape[:2], *shape), out)
        total = xp.zeros((*g.shape[:2], *windows.padded(shape)), g.dtype)
        for key in windows.places(tuple(g.shape[2:])):
            part = total[key]
            part += shares
        return into(xp, total[windows.inside(shape)], out)


MANY = 64  # elements of a window, from which on it is summed at once


def tiles(windows: Windows, shape: Shape) -> Shape:
    """The shape (count, size, …) in which all windows lie side by side, where they are large and
    share nothing; else ()."""
    size = windows.size
    if math.prod(size) < MANY or size != windows.stride or any(map(any, windows.padding)):
        return ()
    if any(n % k for n, k in zip(shape, size, strict=True)) or set(windows.dilation) != {1}:
        return ()
    return tuple(part for n, k in zip(shape, size, strict=True) for part in (n // k, k))


def of_tiles(xp: Any, reduction: Any, x: Array, apart: Shape, out: Array | None) -> Array:
    """The reduction of each window."""
    dims = tuple(range(3, 2 + len(apart), 2))
    seen = x.reshape(*x.shape[:2], *apart)
    return kernel_of(reduction, xp, x)(xp, seen, dim=dims, keepdim=False, out=out)


def by_window(x: Array, apart: Shape) -> Array:
    """x as (N, C, *counts, elements of a window)."""
    order = (*range(2, 2 + len(apart), 2), *range(3, 2 + len(apart), 2))
    turned = x.reshape(*x.shape[:2], *apart).transpose(0, 1, *order)
    return turned.reshape(*x.shape[:2], *apart[::2], math.prod(apart[1::2]))


def from_windows(y: Array, apart: Shape, shape: Shape) -> Array:
    """What `by_window` made of an array of this shape."""
    half = len(apart) // 2
    order = (part for n in range(half) for part in (2 + n, 2 + half + n))
    seen = y.reshape(*shape[:2], *apart[::2], *apart[1::2]).transpose(0, 1, *order)
    return seen.reshape(shape)


def surrounded(xp: Any, x: Array, windows: Windows, value: float = -math.inf) -> Array:
    """x with its padding of one value; integers have their least in place of -inf."""
    if not any(map(any, windows.padding)):
        return x
    if x.dtype.kind in "iu" and value:
        value = xp.iinfo(x.dtype).min
    padded = xp.full((*x.shape[:2], *windows.padded(x.shape[2:])), value, x.dtype)
    padded[windows.inside(x.shape[2:])] = x
    return padded


def largest(xp: Any, padded: Array, y: Array, windows: Windows, counts: Shape) -> Any:
    """For each place in a window its key, and in which windows the first of the largest, or a NaN,
    stands there."""
    waiting = xp.ones(y.shape, bool)
    for key in windows.places(counts):
        source = padded[key]
        if xp is HOST:  # to compare what has gaps between its elements takes as long as to copy it
            source = source.copy()
        first = (source == y) | (source != source) if y.dtype.kind in "fcV" else source == y
        first &= waiting
        waiting ^= first
        yield key, first


def divisor(xp: Any, divisors: tuple[Any, ...], dtype: Any) -> Any:
    """What each window's sum is divided by: the product of its dimensions' divisors.

    Each is a number, or (count, size, stride, padding, low, high) for the sizes of windows of which
    only what lies between low and high counts.
    """
    result: Any = 1
    for number, one in enumerate(divisors):
        if isinstance(one, tuple):
            count, size, stride, padding, low, high = one
            starts = xp.arange(count) * stride - padding
            one = (xp.minimum(starts + size, high) - xp.maximum(starts, low)).astype(dtype)
            one = one.reshape(-1, *(1,) * (len(divisors) - 1 - number))
        result = result * one
    return result


# --- functions ------------------------------------------------------------------------------------


def _windows(
    name: str, dims: int, x: Any, options: Sequence[Any], ceil_mode: bool
) -> tuple[Any, Windows]:
    """(the input with a dimension for samples, the windows over it)."""
    if x.ndim not in (dims + 1, dims + 2):
        raise RuntimeError(
            f"{name}: Expected {dims + 1}D or {dims + 2}D input, but got input of size: "
            f"{list(x.shape)}"
        )
    kernel_size, stride, padding, dilation = options
    size = each(kernel_size, dims, name)
    step = size if stride is None or stride in ([], ()) else each(stride, dims, name)
    around, spread = each(padding, dims, name), each(dilation, dims, name)
    if min(step) <= 0 or min(size) <= 0:
        raise RuntimeError(
            f"{name}: kernel size and stride must be greater than 0, got {size} and {step}"
        )
    if any(p < 0 or 2 * p > d * (k - 1) + 1 for p, d, k in zip(around, spread, size, strict=True)):
        raise RuntimeError(
            f"{name}: pad should be at most half of effective kernel size, but got pad={around}, "
            f"kernel_size={size} and dilation={spread}"
        )
    pairs = []
    for n, k, s, p, d in zip(x.shape[-dims:], size, step, around, spread, strict=True):
        reach = d * (k - 1) + 1
        count = -(-(n + 2 * p - reach) // s) if ceil_mode else (n + 2 * p - reach) // s
        count += 0 if ceil_mode and count * s >= n + p else 1
        if count <= 0 or (n + 2 * p < reach and not ceil_mode):
            raise RuntimeError(
                f"{name}: the input, of size {tuple(x.shape[-dims:])}, is too small for windows of "
                f"size {size}"
            )
        pairs.append((p, max((count - 1) * s + reach - n - p, 0)))
    batch = x if x.ndim == dims + 2 else x.unsqueeze(0)
    return batch, Windows(size, step, tuple(pairs), spread)


def _max_pool(dims: int, x: Any, options: Sequence[Any], ceil_mode: bool, indices: bool) -> Any:
    batch, windows = _windows(f"max_pool{dims}d", dims, x, options, ceil_mode)
    results = [apply(MaxPool, batch, windows=windows)]
    if indices:
        results.append(apply(MaxPoolIndices, batch.detach(), windows=windows))
    results = [y if batch is x else y.squeeze(0) for y in results]
    return tuple(results) if indices else results[0]


def max_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of (N, C, L) or (C, L); with `return_indices`, a pair."""
    options = (kernel_size, stride, padding, dilation)
    return _max_pool(1, input, options, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window of (N, C, H, W) or (C, H, W); see `max_pool1d`."""
    options = (kernel_size, stride, padding, dilation)
    return _max_pool(2, input, options, ceil_mode, return_indices)


def _average_pool(
    dims: int, x: Any, options: Sequence[Any], ceil_mode: bool, include: bool, override: Any
) -> Any:
    batch, windows = _windows(f"avg_pool{dims}d", dims, x, (*options, 1), ceil_mode)
    padding = each(options[2], dims, "avg_pool")
    divisors: list[Any] = []
    for n, count, k, s, p in zip(
        x.shape[-dims:], windows.counts(x.shape[-dims:]), windows.size, windows.stride, padding,
        strict=True,
    ):  # fmt: skip
        low, high = (-p, n + p) if include else (0, n)
        whole = -p >= low and (count - 1) * s - p + k <= high
        divisors.append(k if whole else (count, k, s, p, low, high))
    if override is not None:
        if override == 0:
            raise RuntimeError("avg_pool: divisor_override must be not zero")
        divisors = [override, *(1,) * (dims - 1)]
    y = apply(AveragePool, batch, windows=windows, divisors=tuple(divisors))
    return y if batch is x else y.squeeze(0)


def avg_pool1d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, L) or (C, L); padding counts as zeros, or not at all."""
    options = (kernel_size, stride, padding)
    return _average_pool(1, input, options, ceil_mode, count_include_pad, None)  # type: ignore[no-any-return]


def avg_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, H, W) or (C, H, W), or its sum / `divisor_override`."""
    options = (kernel_size, stride, padding)
    return _average_pool(2, input, options, ceil_mode, count_include_pad, divisor_override)  # type: ignore[no-any-return]


def _bins(size: int, count: int) -> list[tuple[int, int]]:
    """Where each of `count` bins over `size` elements starts and ends; neighbours may share one."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive(name: str, dims: int, x: Any, output_size: Any) -> Shape:
    if x.ndim not in (dims + 1, dims + 2):
        raise RuntimeError(
            f"{name}: Expected {dims + 1}D or {dims + 2}D input, but got input of size: "
            f"{list(x.shape)}"
        )
    values = output_size if isinstance(output_size, tuple | list) else (output_size,) * dims
    if len(values) != dims:
        raise RuntimeError(f"{name}: output_size must be {dims} sizes, got {output_size}")
    return tuple(n if v is None else int(v) for n, v in zip(x.shape[-dims:], values, strict=True))


def _adaptive_average(dims: int, x: Any, output_size: Any) -> Any:
    sizes = _adaptive(f"adaptive_avg_pool{dims}d", dims, x, output_size)
    spatial = x.shape[-dims:]
    if all(v and n % v == 0 for n, v in zip(spatial, sizes, strict=True)):
        size = tuple(n // v for n, v in zip(spatial, sizes, strict=True))
        return _average_pool(dims, x, (size, None, 0), False, True, None)
    for number, (n, count) in enumerate(zip(spatial, sizes, strict=True)):
        dim = x.ndim - dims + number
        bins = _bins(n, count)
        shares = [[(start <= i < end) / (end - start) for i in range(n)] for start, end in bins]
        matrix = tensor(shares or [[0.0]], dtype=x.dtype, device=x.device)[:count]
        x = ops.transpose(ops.matmul(ops.transpose(x, dim, -1), matrix.t()), dim, -1)
    return x


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """The means of `output_size` bins over (N, C, L) or (C, L)."""
    return _adaptive_average(1, input, output_size)  # type: ignore[no-any-return]


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The means of `output_size` bins over (N, C, H, W) or (C, H, W); None keeps a size."""
    return _adaptive_average(2, input, output_size)  # type: ignore[no-any-return]


def _adaptive_max(dims: int, x: Any, output_size: Any, indices: bool) -> Any:
    sizes = _adaptive(f"adaptive_max_pool{dims}d", dims, x, output_size)
    spatial = x.shape[-dims:]
    if all(v and n % v == 0 for n, v in zip(spatial, sizes, strict=True)):
        size = tuple(n // v for n, v in zip(spatial, sizes, strict=True))
        return _max_pool(dims, x, (size, None, 0, 1), False, indices)
    height = spatial[0] if dims == 2 else 1
    rows = _bins(height, sizes[0] if dims == 2 else 1)
    batch = x if dims == 2 else x.unsqueeze(-2)
    places = []
    for top, bottom in rows:
        for left, right in _bins(spatial[-1], sizes[-1]):
            part = batch[..., top:bottom, left:right]
            place = ops.argmax(part.reshape(*part.shape[:-2], -1), -1)
            width = right - left
            row = ops.floor_divide(place, width)
            places.append((row + top) * spatial[-1] + place - row * width + left)
    place, shape = ops.stack(places, -1), (*x.shape[:-dims], *sizes)
    values = ops.gather(x.reshape(*x.shape[:-dims], -1), -1, place).reshape(shape)
    return (values, place.reshape(shape)) if indices else values


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of `output_size` bins over (N, C, L) or (C, L)."""
    return _adaptive_max(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of `output_size` bins over (N, C, H, W) or (C, H, W)."""
    return _adaptive_max(2, input, output_size, return_indices)


# --- layers ---------------------------------------------------------------------------------------


class _MaxPoolNd(Module):
    dims: int

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation
        self.stride = kernel_size if stride is None else stride
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        """Shapes: (N, C, *) to (N, C, *), or both without N; with `return_indices` a pair."""
        options = (self.kernel_size, self.stride, self.padding, self.dilation)
        return _max_pool(self.dims, input, options, self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPoolNd):
    """y = the largest element of each window."""

    dims = 1


class MaxPool2d(_MaxPoolNd):
    """y = the largest element of each window."""

    dims = 2


class AvgPool2d(Module):
    """y = the mean of each window; padding counts as zeros unless not `count_include_pad`."""

    dims = 2

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, *) to (N, C, *windows), or both without N."""
        options = (self.kernel_size, self.stride, self.padding)
        include, override = self.count_include_pad, self.divisor_override
        return _average_pool(self.dims, input, options, self.ceil_mode, include, override)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(AvgPool2d):
    """y = the mean of each window; padding counts as zeros unless not `count_include_pad`."""

    dims = 1

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        step = kernel_size if stride is None else stride
        size, step, around = (each(n, 1, "AvgPool1d") for n in (kernel_size, step, padding))
        super().__init__(size, step, around, ceil_mode, count_include_pad)


class _AdaptivePool(Module):
    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptivePool):
    """y = the means of `output_size` bins."""

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, L) to (N, C, output_size), or both without N."""
        return adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_AdaptivePool):
    """y = the means of `output_size` bins."""

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) to (N, C, *output_size), or both without N."""
        return adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool1d(_AdaptivePool):
    """y = the largest elements of `output_size` bins; with `return_indices` their places, too."""

    dims = 1

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """Shapes: (N, C, *) to (N, C, *output_size), or both without N."""
        return _adaptive_max(self.dims, input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(AdaptiveMaxPool1d):
    """y = the largest elements of `output_size` bins; with `return_indices` their places, too."""

    dims = 2
