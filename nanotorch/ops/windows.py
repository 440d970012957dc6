"""Windows that slide along one dimension, and the sum of what they show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops import shapes
from nanotorch.ops.shapes import reshape, select
from nanotorch.primitive import Linear, apply

Shape = tuple[int, ...]

LONG = 16  # elements of a window, from which on it pays to copy window by window


class Unfold(Linear):
    """y = the windows of `size` elements of x, one each `step` along `dim`, as a last dimension"""

    vjp = (
        lambda g, x_shape, dim, size, step: apply(
            Fold, g, shape=tuple(x_shape), dim=dim, size=size, step=step
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: int, size: int, step: int, out: Array | None = None
    ) -> Array:
        count = (x.shape[dim] - size) // step + 1
        shape = (*x.shape[:dim], count, *x.shape[dim + 1 :], size)
        y = xp.empty(shape, x.dtype) if out is None else out
        if size >= LONG and type(x) is HOST.ndarray:
            windows = HOST.lib.stride_tricks.sliding_window_view(x, size, dim)
            HOST.copyto(y, windows[(*(slice(None),) * dim, slice(None, None, step))])
            return y
        for place, key in places(dim, size, step, count):
            y[..., place] = x[key]
        return y


class Fold(Linear):
    """y = zeros of `shape` with each window of x added where `Unfold` finds it"""

    vjp = (lambda g, dim, size, step: apply(Unfold, g, dim=dim, size=size, step=step),)

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, shape: Shape, dim: int, size: int, step: int, out: Array | None = None
    ) -> Array:
        y = xp.empty(shape, x.dtype) if out is None else out
        y.fill(0)
        for place, key in places(dim, size, step, x.shape[dim]):
            part = y[key]
            part += x[..., place]
        return y


def places(dim: int, size: int, step: int, count: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """For each place in a window the key of what lies there, over all windows."""
    for place in range(size):
        along = slice(place, place + (count - 1) * step + 1, step)
        yield place, (*(slice(None),) * dim, along)


def unfold(x: Any, dimension: int, size: int, step: int) -> Any:
    """The windows of `size` elements of x, one each `step` along `dimension`, as a last dimension.

    A copy, unlike PyTorch's, which is a view.
    """
    if x.ndim == 0:
        return select(unfold(reshape(x, (1,)), 0, size, step), 0, 0)
    dim = shapes.dimension(dimension, x.ndim)
    if not 0 <= size <= x.shape[dim]:
        raise RuntimeError(
            f"unfold: expected a size from 0 to {x.shape[dim]}, that of dimension {dim}, got {size}"
        )
    if step <= 0:
        raise RuntimeError(f"unfold: expected a step above 0, got {step}")
    return apply(Unfold, x, dim=dim, size=size, step=step)
