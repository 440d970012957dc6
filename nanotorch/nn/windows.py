"""Sliding windows over the last dimensions of (N, C, *), as convolution and pooling see them.

The elements at one place of all windows are a slice of the padded input, with the stride as its
step. So to gather windows into columns (im2col) takes one copy for each place in a window, and to
add columns up again (col2im) one sum, on NumPy and on CuPy.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nanotorch.backend import HOST, Array
from nanotorch.primitive import Linear, apply

Shape = tuple[int, ...]
# Columns are gathered for so many bytes of samples at once: on the CPU they stay in the cache.
HOST_BYTES, DEVICE_BYTES = 1 << 20, 1 << 28


class Windows(NamedTuple):
    """For each dimension the size of a window, its step, the padding before and after the input,
    and the distance between a window's elements."""

    size: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]
    dilation: Shape

    def padded(self, shape: Sequence[int]) -> Shape:
        """The input's shape with its padding."""
        return tuple(n + sum(p) for n, p in zip(shape, self.padding, strict=True))

    def counts(self, shape: Sequence[int]) -> Shape:
        """How many windows fit along each dimension of an input of that shape."""
        return tuple(
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(
                self.padded(shape), self.size, self.stride, self.dilation, strict=True
            )
        )

    def inside(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """Where the input lies in the padded one."""
        pairs = zip(shape, self.padding, strict=True)
        return (..., *(slice(before, before + n) for n, (before, _) in pairs))

    @functools.lru_cache(maxsize=256)  # noqa: B019 - a tuple, and few of them
    def places(self, counts: Shape) -> list[tuple[Any, ...]]:
        """For each place in a window the key of its elements in the padded input."""
        keys = []
        for place in itertools.product(*map(range, self.size)):
            ends = zip(place, self.dilation, counts, self.stride, strict=True)
            keys.append((..., *(slice(p * d, p * d + (n - 1) * s + 1, s) for p, d, n, s in ends)))
        return keys

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def offsets(self, padded: Shape) -> list[int]:
        """For each place in a window how far it is from the first in an input of that shape."""
        steps = [d * math.prod(padded[n + 1 :]) for n, d in enumerate(self.dilation)]
        places = itertools.product(*map(range, self.size))
        return [sum(p * step for p, step in zip(place, steps, strict=True)) for place in places]


class Columns:
    """The windows of parts of a batch as the columns of a matrix (C · size, samples · run).

    Channels come before samples, so that one product serves a part of the batch. Where windows move
    by single steps, a run goes over whole rows of the padded input, the ends of which no window
    has: then each place in a window is one piece of memory, and those ends are cut off again.
    """

    def __init__(
        self, xp: Any, windows: Windows, channels: int, spatial: Shape, dtype: Any, samples: int
    ) -> None:
        self.xp, self.windows, self.spatial = xp, windows, spatial
        padded, self.counts = windows.padded(spatial), windows.counts(spatial)
        self.whole_rows = all(s == 1 for s in windows.stride)
        self.run = (self.counts[0], *padded[1:]) if self.whole_rows else self.counts
        width = math.prod(windows.size) * math.prod(self.run)
        room = HOST_BYTES if xp is HOST else DEVICE_BYTES
        most = max(1, room // (channels * width * dtype.itemsize))
        number = -(-samples // most)  # parts of about one size
        self.part = max(1, -(-samples // max(number, 1)))
        self.samples = samples
        self.offsets = windows.offsets(padded)
        size = math.prod(padded)
        memory = (channels, self.part, size + self.offsets[-1])
        self.flat = xp.zeros(memory, dtype)
        self.padded = self.flat[:, :, :size].reshape(channels, self.part, *padded)
        self.inside = self.padded[windows.inside(spatial)]
        self.shape = (channels, len(self.offsets), self.part, math.prod(self.run))
        self.matrix = xp.empty(self.shape, dtype)

    def parts(self) -> Iterator[slice]:
        """The samples, part by part."""
        for start in range(0, self.samples, self.part):
            yield slice(start, min(start + self.part, self.samples))

    def sources(self, samples: int) -> Iterator[Array]:
        """The elements at each place of all windows, in the padded memory: (C, samples, *run)."""
        length = self.shape[3]
        if self.whole_rows:
            for offset in self.offsets:
                yield self.flat[:, :samples, offset : offset + length]
        else:
            for key in self.windows.places(self.counts):
                yield self.padded[:, :samples][key]

    def gather(self, x: Array) -> Array:
        """The columns of samples x."""
        samples = len(x)
        self.inside[:, :samples] = x.swapaxes(0, 1)
        into = self.matrix[:, :, :samples]
        for number, source in enumerate(self.sources(samples)):
            into[:, number].reshape(source.shape)[...] = source
        return into.reshape(self.shape[0] * self.shape[1], -1)

    def scatter(self, matrix: Array, y: Array) -> None:
        """Writes into samples y, at each element, the sum of what the columns have there."""
        samples = len(y)
        columns = matrix.reshape(*self.shape[:2], samples, -1)
        self.flat[...] = 0
        for number, target in enumerate(self.sources(samples)):
            target += columns[:, number].reshape(target.shape)
        y[...] = self.inside[:, :samples].swapaxes(0, 1)

    def spread(self, g: Array) -> Array:
        """One value per window, (samples, O, *counts), as a matrix (O, samples · run)."""
        if self.run == self.counts:
            return g.swapaxes(0, 1).reshape(g.shape[1], -1)
        wide = self.xp.zeros((g.shape[1], len(g), *self.run), g.dtype)
        wide[(..., *map(slice, self.counts))] = g.swapaxes(0, 1)
        return wide.reshape(g.shape[1], -1)

    def crop(self, matrix: Array, samples: int) -> Array:
        """A matrix (O, samples · run) as one value per window: (samples, O, *counts)."""
        wide = matrix.reshape(-1, samples, *self.run).swapaxes(0, 1)
        return wide[(..., *map(slice, self.counts))]


class Unfold(Linear):
    """y = the windows of x (N, C, *) as columns: (N, C · size, count)"""

    __slots__ = ()
    backward_name = "Im2ColBackward0"
    vjp = (lambda g, x_shape, windows: apply(Fold, g, shape=x_shape[2:], windows=windows),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, windows: Windows, out: Array | None = None) -> Array:
        cols = Columns(xp, windows, x.shape[1], x.shape[2:], x.dtype, len(x))
        shape = (len(x), x.shape[1] * len(cols.offsets), *cols.counts)
        y = xp.empty((*shape[:2], math.prod(cols.counts)), x.dtype) if out is None else out
        for part in cols.parts():
            matrix = cols.gather(x[part])
            y.reshape(shape)[part] = cols.crop(matrix, part.stop - part.start)
        return y


class Fold(Linear):
    """y = the sum of columns (N, C · size, count) at the elements of (N, C, *shape) they show"""

    __slots__ = ()
    backward_name = "Col2ImBackward0"
    vjp = (lambda g, windows: apply(Unfold, g, windows=windows),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, shape: Shape, windows: Windows, out: Array | None = None
    ) -> Array:
        channels = x.shape[1] // math.prod(windows.size)
        cols = Columns(xp, windows, channels, shape, x.dtype, len(x))
        y = xp.empty((len(x), channels, *shape), x.dtype) if out is None else out
        for part in cols.parts():
            values = x[part].reshape(-1, x.shape[1], *cols.counts)
            cols.scatter(cols.spread(values), y[part])
        return y


def each(value: Any, dims: int, name: str) -> Shape:
    """An int, or one int per dimension, as a tuple."""
    values = (value,) * dims if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) == 1:
        values *= dims
    if len(values) != dims:
        raise RuntimeError(f"{name}: expected an int or {dims} of them, got {values}")
    return values
