"""Regions: a view seen from its base, whose memory it shows.

A path is a chain of view primitives with their attributes: the way from a base to a region of it.
"""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.broadcasting import sum_to
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


class ConstantPad(CopySlices):
    """The same with a constant for the base, which may be walked back again: nothing is kept"""

    backward_name = "ConstantPadNdBackward0"

    def release(self) -> None:
        """Nothing."""


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


def clear(g: Any, path: Path) -> Any:
    """g with zeros in the region that `path` leads to."""
    return apply(CopySlices, g, zeros_like(apply(AsStrided, g, path=path)), path=path)
