"""Regions: a view seen from its base, whose memory it shows; and repetition with its reverse.

A path is a chain of view primitives with their attributes: the way from a base to a region of it.
"""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.casting import into, zeros_like
from nanotorch.primitive import RELEASED, Linear, Primitive, apply

Shape = tuple[int, ...]
Path = tuple[tuple[type[Primitive], dict[str, Any]], ...]


class AsStrided(Linear):
    """y = the region of x that `path`, a chain of views, leads to"""

    rearranges = True
    vjp = (lambda g, x_shape, path: embed(g, x_shape, path),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, path: Path, out: Array | None = None) -> Array:
        y = follow(xp, x, path)
        return y.copy() if out is None else into(xp, y, out)


class Embed(Linear):
    """y = zeros of `shape` with g in the region that `path` leads to"""

    rearranges = True
    vjp = (lambda g, path: apply(AsStrided, g, path=path),)

    @staticmethod
    def kernel(xp: Any, g: Array, *, shape: Shape, path: Path, out: Array | None = None) -> Array:
        if out is None:
            out = xp.zeros(shape, g.dtype)
        else:
            out.fill(0)
        follow(xp, out, path)[...] = g
        return out


class Expand(Linear):
    """y = x repeated to a larger shape, without copying"""

    view = repeats = True
    vjp = (lambda g, x_shape: sum_to(g, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, shape: Shape) -> Array:
        if x.shape == tuple(shape[len(shape) - x.ndim :]) and x.size == math.prod(shape):
            return x.reshape(shape)  # which, unlike what repeats, can be written to
        return xp.broadcast_to(x, shape)


class SumTo(Linear):
    """y = x summed over what broadcasting `shape` to x's shape repeats"""

    vjp = (lambda g, x_shape: apply(Expand, g, shape=tuple(x_shape)),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, shape: Shape, out: Array | None = None) -> Array:
        extra = x.ndim - len(shape)
        if extra == 1 and x.shape[1:] == shape:
            return xp.add.reduce(x, axis=0, out=out)
        if extra < 0 or any(n not in (1, m) for n, m in zip(shape, x.shape[extra:], strict=True)):
            raise ValueError(f"cannot sum {tuple(x.shape)} to {tuple(shape)}")
        axes = (*range(extra), *(extra + d for d, n in enumerate(shape) if n != x.shape[extra + d]))
        y = x.sum(axis=axes).reshape(shape)
        return into(xp, y, out)


class CopySlices(Linear):
    """y = base with `value` in a region: what writing to a view does to its base"""

    backward_name = "CopySlices"
    rearranges = True
    vjp = (
        lambda g, path: clear(g, path),
        lambda g, path: apply(AsStrided, g, path=path),
    )

    @staticmethod
    def kernel(
        xp: Any, base: Array, value: Array, *, path: Path, out: Array | None = None
    ) -> Array:
        if out is None:
            out = xp.array(base)  # of a NumPy scalar as well
        else:
            xp.copyto(out, base)
        follow(xp, out, path)[...] = value
        return out

    def release(self) -> None:
        self.inputs = RELEASED  # as PyTorch does, though nothing was kept


def follow(xp: Any, x: Array, path: Path) -> Array:
    """The view of x that the chain of view kernels leads to."""
    for primitive, attributes in path:
        x = primitive.kernel(xp, x, **attributes)
    return x


def embed(g: Any, shape: Shape, path: Path) -> Any:
    """Zeros of `shape` with g in the region that `path` leads to; summed where the path repeats."""
    for place, (primitive, attributes) in enumerate(path):
        if primitive.repeats:
            before = follow(HOST, HOST.broadcast_to(HOST.zeros(()), shape), path[:place]).shape
            g = embed(g, attributes["shape"], path[place + 1 :])
            return embed(sum_to(g, before), shape, path[:place])
    return apply(Embed, g, shape=shape, path=path)


def sum_to(x: Any, shape: Shape) -> Any:
    """x summed over what broadcasting repeats; ValueError where `shape` cannot become x's."""
    return x if tuple(x.shape) == tuple(shape) else apply(SumTo, x, shape=tuple(shape))


def clear(g: Any, path: Path) -> Any:
    """g with zeros in the region that `path` leads to."""
    return apply(CopySlices, g, zeros_like(apply(AsStrided, g, path=path)), path=path)
