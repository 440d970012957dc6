"""Sums and means over all dimensions or over some.

`dim` is an int, a tuple of ints or None (all); `keepdim` keeps reduced dimensions with size 1.
NumPy's names `axis` and `keepdims` do as well.
"""

from __future__ import annotations

import builtins
import math
from typing import Any

from nanotorch.backend import Array, constant, dtype_of
from nanotorch.ops.broadcasting import summed
from nanotorch.ops.casting import cast
from nanotorch.ops.shapes import dimension, expand, reshape
from nanotorch.primitive import Linear, apply

Dim = int | tuple[int, ...] | None


class Sum(Linear):
    """y = the sum of x over `dim`"""

    vjp = (lambda g, x_shape, dim, keepdim: spread(g, x_shape, dim, keepdim),)

    kernel = staticmethod(summed)

    def name(self) -> str:
        return "SumBackward0" if self.attributes["dim"] is None else "SumBackward1"


class Mean(Linear):
    """y = the mean of x over `dim`"""

    vjp = (
        lambda g, x_shape, dim, keepdim: spread(
            g / builtins.max(count(x_shape, dim), 1), x_shape, dim, keepdim
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, *, dim: Dim = None, keepdim: bool = False, out: Array | None = None
    ) -> Array:
        total = summed(xp, x, dim=dim, keepdim=keepdim, out=out)
        divisor = x.size // builtins.max(total.size, 1)
        if type(total) is not type(x):  # a number
            return total / divisor
        return xp.true_divide(total, constant(x, divisor), out=out)

    def name(self) -> str:
        return "MeanBackward0" if self.attributes["dim"] is None else "MeanBackward1"


def dims(shape: tuple[int, ...], dim: Dim) -> tuple[int, ...]:
    """The reduced dimensions as non-negative numbers; IndexError where one is out of range."""
    if dim is None:
        return tuple(range(len(shape)))
    return tuple(dimension(d, len(shape)) for d in (dim if isinstance(dim, tuple) else (dim,)))


def count(shape: tuple[int, ...], dim: Dim) -> int:
    """How many elements of x go into one of y."""
    return math.prod(shape[d] for d in dims(shape, dim)) if shape else 1


def spread(g: Any, shape: tuple[int, ...], dim: Dim, keepdim: bool) -> Any:
    """g of the reduced shape, expanded to the shape before the reduction."""
    if not keepdim and g.ndim and dim is not None:
        reduced = dims(shape, dim)
        g = reshape(g, tuple(1 if d in reduced else n for d, n in enumerate(shape)))
    return expand(g, shape)


def axes(x: Any, dim: Any) -> Dim:
    """`dim` as the kernels take it: lists become tuples, and 0 or -1 fits a 0-dim tensor."""
    if dim is None or type(dim) is int:
        return None if dim is None or (x.ndim == 0 and dim in (0, -1)) else dim
    return (tuple(dim) or None) if x.ndim or set(dim) - {0, -1} else None


def floating(x: Any, op: str) -> None:
    """Refuses what has no mean."""
    if getattr(x, "_array", x).dtype.kind not in "fVc":
        raise RuntimeError(
            f"{op}(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {dtype_of(getattr(x, '_array', x).dtype).title}"
        )


def sum(
    x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The sum over `dim` (an int, several, or None for all); integers and booleans give int64."""
    dim, keepdim = dim if axis is None else axis, keepdim or keepdims
    if dtype is not None:
        return cast(sum(cast(x, dtype_of(dtype).numpy), dim, keepdim), dtype_of(dtype).numpy)
    return apply(Sum, x, dim=axes(x, dim), keepdim=keepdim)


def mean(
    x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None,
    keepdims: bool = False,
) -> Any:  # fmt: skip
    """The mean over `dim` of a floating point tensor."""
    if dtype is not None:
        x = cast(x, dtype_of(dtype).numpy)
    floating(x, "mean")
    return apply(Mean, x, dim=axes(x, dim if axis is None else axis), keepdim=keepdim or keepdims)
