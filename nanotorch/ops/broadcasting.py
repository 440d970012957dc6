"""Broadcasting: an array repeated to a larger shape, and the sum that is its reverse."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array, column_sums, dot, is_sparse, ones
from nanotorch.backend.order_of_memory import out_of_reduction
from nanotorch.ops.casting import into
from nanotorch.primitive import Linear, apply

Shape = tuple[int, ...]


class Expand(Linear):
    """y = x repeated to a larger shape, without copying"""

    view = repeats = True
    vjp = (lambda g, x_shape: sum_to(g, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, shape: Shape) -> Array:
        if x.shape == tuple(shape[len(shape) - x.ndim :]) and x.size == math.prod(shape):
            return x.reshape(shape)  # which, unlike what repeats, can be written to
        return xp.broadcast_to(x, shape)


# Of so many rows, of at most so many columns, sums are products with ones.
MANY, WIDE = 64, 256


def column_matrix(x: Array, dim: int | Shape) -> Array | None:
    """x as a matrix of floats whose columns are summed over `dim` by a product; None where NumPy's
    own sum is as good."""
    dims = dim if type(dim) is tuple else (dim,)
    count = len(dims)
    if x.ndim == 2 and dims in ((1,), (-1,)):
        x = x.T  # whose rows lie one behind the other where the columns of x do
    elif not 0 < count < x.ndim or dims != tuple(range(count)):
        return None
    columns = math.prod(x.shape[count:])
    if not 1 < columns <= WIDE or x.size < MANY * columns or not x.flags.c_contiguous:
        return None
    return x.reshape(-1, columns)


# Elements of all that is added to one number, and of a row: of more NumPy's own sum is finer.
FEW, LONG = 1 << 10, 1 << 12
IN_ORDER = 4  # elements that NumPy's sum adds one by one, with PyTorch's bits


def row_sums(x: Array, out: Array | None) -> Array:
    """The sums of the rows of a few floats, as a product with ones: in a third of the time."""
    sums: Array = x.dot(ones(x.shape[-1], x.dtype.char), out)
    return sums if out is None else out  # of no dimensions it is a number


def sums_along_rows(x: Array, keepdim: bool, out: Array | None) -> Array:
    """The sums over the last dimension, likewise: in a tenth of the time where it is short."""
    n = x.shape[-1]
    column = None if out is None else out.reshape(-1, 1)
    y = dot(x.reshape(-1, n), ones(n, x.dtype.char).reshape(n, 1), column)
    return y.reshape((*x.shape[:-1], 1) if keepdim else x.shape[:-1]) if out is None else out


def summed(
    xp: Any, x: Array, *, dim: int | Shape | None = None, keepdim: bool = False,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """The sum of x over `dim`, or over all where None; integers and booleans give int64."""
    if xp is HOST and x.dtype.char in "fd" and not is_sparse(x):
        if x.ndim == 2 and dim in (0, -2) and not keepdim and x.T.flags.c_contiguous:
            x, dim = x.T, 1  # whose rows are sums of neighbours
        few, last = x.size <= FEW and not keepdim, x.ndim - 1
        if dim is None:
            if few and x.size > IN_ORDER:
                return row_sums(x.reshape(-1), out)
        elif last > 0 and dim in (last, -1) and x.flags.c_contiguous:
            if few and last == 1:
                return row_sums(x, out)
            if x.size and x.shape[-1] <= LONG and (out is None or out.flags.c_contiguous):
                return sums_along_rows(x, keepdim, out)
        matrix = None if dim is None else column_matrix(x, dim)
        if matrix is not None and (out is None or out.flags.c_contiguous):
            y = column_sums(matrix, None if out is None else out.reshape(-1))
            if out is not None or (x.ndim == 2 and not keepdim):
                return y if out is None else out
            gone = {d % x.ndim for d in (dim if type(dim) is tuple else (dim,))}
            sizes = enumerate(x.shape)
            return y.reshape([1 if d in gone else n for d, n in sizes if keepdim or d not in gone])
    if dim is None and not keepdim and x.dtype.char == "?" and type(x) is HOST.ndarray:
        return into(xp, HOST.int64(HOST.count_nonzero(x)), out)  # in a tenth of the time
    dtype = xp.int64 if x.dtype.kind in "bui" else None
    out = out_of_reduction(xp, x, dim, keepdim, out, dtype)
    return xp.add.reduce(x, axis=dim, keepdims=keepdim, dtype=dtype, out=out)


class SumTo(Linear):
    """y = x summed over what broadcasting `shape` to x's shape repeats"""

    vjp = (lambda g, x_shape: apply(Expand, g, shape=tuple(x_shape)),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, shape: Shape, out: Array | None = None) -> Array:
        extra = x.ndim - len(shape)
        if extra > 0 and x.shape[extra:] == shape:
            if extra == 1 and xp is HOST and x.size <= FEW and x.ndim == 2 and x.dtype.char in "fd":
                return row_sums(x.T, out)
            return summed(xp, x, dim=tuple(range(extra)), out=out)
        if extra < 0 or any(n not in (1, m) for n, m in zip(shape, x.shape[extra:], strict=True)):
            raise ValueError(f"cannot sum {tuple(x.shape)} to {tuple(shape)}")
        axes = (*range(extra), *(extra + d for d, n in enumerate(shape) if n != x.shape[extra + d]))
        y = summed(xp, x, dim=axes[0] if len(axes) == 1 else axes).reshape(shape)
        return into(xp, y, out)


def sum_to(x: Any, shape: Shape) -> Any:
    """x summed over what broadcasting repeats; ValueError where `shape` cannot become x's."""
    return x if tuple(x.shape) == tuple(shape) else apply(SumTo, x, shape=tuple(shape))
