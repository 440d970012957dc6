"""RowSparse: an array of which a few rows are stored, as gradients of large tables have it.

It takes the place of a NumPy array in a tensor. NumPy's own protocols (NEP 13 and NEP 18) bring
here what is computed with it, so that neither the walk nor a kernel knows of it: `dense += sparse`
adds to the rows that are stored, `sparse * 2` scales them, and what has no meaning is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy

from nanotorch.backend.adding import at, put_rows, sorted_places
from nanotorch.backend.devices import MODULES, RAW, Array
from nanotorch.backend.dtypes import as_dtype

# Of 0 these functions are 0, so that they are computed on the rows that are stored …
OF_SUMS = {
    numpy.absolute, numpy.sqrt, numpy.square, numpy.sign, numpy.expm1, numpy.log1p, numpy.sin,
    numpy.tan, numpy.tanh, numpy.arcsin, numpy.arctan, numpy.sinh, numpy.arcsinh, numpy.floor,
    numpy.ceil, numpy.trunc, numpy.rint, numpy.isnan, numpy.isinf,
}  # fmt: skip
# … and these of a row's parts as well as of their sum.
OF_PARTS = {numpy.negative, numpy.positive}


class Unsupported(NotImplementedError, AttributeError):
    """What is computed from dense arrays only."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Could not run {what!r} with arguments from the 'SparseCPU' backend: a row-sparse "
            "tensor has no such operation; call to_dense() first, or take its coalesce().values()"
        )


class RowSparse(numpy.lib.mixins.NDArrayOperatorsMixin):
    """An array of `shape` with `values[i]` added to row `rows[i]`, and 0 elsewhere.

    rows: (n,) int64, in any order and with repetitions unless `is_coalesced`: then rising.
    values: (n, *shape[1:]).
    """

    base = None
    strides: tuple[int, ...] = ()
    flags = SimpleNamespace(c_contiguous=False, f_contiguous=False, writeable=True)

    def __init__(
        self, rows: Array, values: Array, shape: tuple[int, ...], is_coalesced: bool = False
    ) -> None:
        self.rows, self.values, self.shape = rows, values, tuple(shape)
        self.is_coalesced = is_coalesced or len(rows) < 2

    ndim = property(lambda self: len(self.shape))
    dtype = property(lambda self: self.values.dtype)
    itemsize = property(lambda self: self.values.itemsize)
    size = property(lambda self: int(numpy.prod(self.shape)))
    nbytes = property(lambda self: self.values.nbytes + self.rows.nbytes)

    def with_values(self, values: Array) -> RowSparse:
        """The same rows with other values."""
        return RowSparse(self.rows, values, self.shape, self.is_coalesced)

    def copy(self, order: str = "C") -> RowSparse:
        """The same in memory of its own."""
        return RowSparse(self.rows.copy(), self.values.copy(), self.shape, self.is_coalesced)

    def astype(self, dtype: Any, copy: bool = True, **options: Any) -> RowSparse:
        """The same in another dtype."""
        return self.with_values(as_dtype(self.values, numpy.dtype(dtype)))

    def become(self, other: RowSparse) -> None:
        """Takes over the rows and values of another array."""
        self.rows, self.values = other.rows, other.values
        self.is_coalesced = other.is_coalesced

    def coalesced(self) -> RowSparse:
        """Each row once, in rising order, with the sum of its values; itself if it is so."""
        if self.is_coalesced:
            return self
        return RowSparse(*summed(self.rows, self.values, self.shape[0]), self.shape, True)

    def to_dense(self) -> Array:
        """The whole array."""
        out = numpy.zeros(self.shape, self.dtype)
        add_rows(out, self)
        return out

    def fill(self, value: float) -> None:
        """Zeros everywhere, which is to store no row; no other value can be."""
        _copyto(self, value)

    def sum(self, axis: Any = None, **options: Any) -> Any:
        """The sum of all elements."""
        if axis is not None:
            raise Unsupported("aten::sum.dim_IntList")
        return self.values.sum(dtype=options.get("dtype"))

    def all(self) -> bool:
        """Whether all stored elements are true."""
        return bool(self.values.all())

    def any(self) -> bool:
        """Whether a stored element is true."""
        return bool(self.values.any())

    def __add__(self, other: Any) -> Any:
        return numpy.add(self, other)

    def __iadd__(self, other: Any) -> Any:
        if not isinstance(other, RowSparse):  # the sum is dense: `a += b` gives another array
            return numpy.add(self, other)
        return self.__array_ufunc__(numpy.add, "__call__", self, other, out=(self,))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("can't convert Sparse layout tensor to numpy. Use Tensor.to_dense() first.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unsupported(f"aten::{name}")

    def __getitem__(self, key: Any) -> Any:
        raise Unsupported("aten::select.int")

    def __len__(self) -> int:
        return self.shape[0]

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        if method == "reduce" and ufunc is numpy.add:
            return self.sum(**{**options, "axis": every(options.get("axis"), self.ndim)})
        if method != "__call__" or options.get("where", True) is not True:
            raise Unsupported(f"aten::{ufunc.__name__}")
        target = out[0] if out else None
        compute = _BINARY.get(ufunc)
        if compute is not None:
            y = compute(ufunc, target, *inputs)
        elif ufunc in OF_PARTS:
            y = self.with_values(ufunc(self.values))
        elif ufunc in OF_SUMS:
            one = self.coalesced()
            y = one.with_values(ufunc(one.values))
        else:
            raise Unsupported(f"aten::{ufunc.__name__}")
        if target is None or y is target:
            return y
        if not isinstance(target, RowSparse) or not isinstance(y, RowSparse):
            raise Unsupported(f"aten::{ufunc.__name__}.out")
        target.become(y.astype(target.dtype) if y.dtype != target.dtype else y)
        return target

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        answer = _FUNCTIONS.get(function)
        if answer is None:
            raise Unsupported(f"aten::{function.__name__}")
        return answer(*args, **kwargs)


def every(axis: Any, ndim: int) -> Any:
    """None for all axes, named or not; other axes as they are."""
    named = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    return axis if 0 < len(named) < ndim else None


def nothing(like: RowSparse) -> RowSparse:
    """Zeros: no row is stored."""
    return RowSparse(like.rows[:0].copy(), like.values[:0].copy(), like.shape, True)


def summed(rows: Array, values: Array, count: int) -> tuple[Array, Array]:
    """The distinct rows among 0 … count - 1 in rising order, and the sums of their values.

    Each sum is taken in the order of the values, as a dense gradient adds them up.
    """
    order, rows, new = sorted_places(rows)
    starts = numpy.flatnonzero(new)
    values = values[order]
    if len(starts) == len(rows):
        return rows, values
    sums = numpy.zeros((len(starts), *values.shape[1:]), values.dtype)
    at(numpy.add, sums, numpy.cumsum(new) - 1, values)
    return rows[starts], sums


def add_rows(out: Array, sparse: RowSparse, ufunc: Any = numpy.add) -> Array:
    """out += sparse, or out -= sparse, in the memory of a dense array; returns it."""
    if out.shape != sparse.shape:
        raise ValueError(
            f"expected a row-sparse array of shape {out.shape} beside a dense one, got "
            f"{sparse.shape}"
        )
    one = sparse.coalesced()
    put_rows(out, one.rows, ufunc(out.take(one.rows, axis=0), one.values))
    return out


def _added(ufunc: Any, target: Any, a: Any, b: Any) -> Any:
    """a + b or a - b, of which one is row-sparse."""
    if isinstance(a, RowSparse) and isinstance(b, RowSparse):
        if a.shape != b.shape:
            raise ValueError(f"expected row-sparse arrays of one shape, got {a.shape}, {b.shape}")
        values = b.values if ufunc is numpy.add else -b.values
        if a.rows is b.rows or numpy.array_equal(a.rows, b.rows):
            return a.with_values(a.values + values)
        both = numpy.concatenate((a.values, values))
        return RowSparse(numpy.concatenate((a.rows, b.rows)), both, a.shape)
    if isinstance(b, RowSparse):
        return add_rows(numpy.array(a) if target is None else _holding(target, a), b, ufunc)
    dense = numpy.array(b) if ufunc is numpy.add else -numpy.asarray(b)
    if dense.shape != a.shape:
        raise Unsupported("aten::add.Scalar")
    return add_rows(dense, a)


def _holding(target: Any, a: Any) -> Any:
    if target is not a:
        numpy.copyto(target, a)
    return target


def _scaled(ufunc: Any, target: Any, a: Any, b: Any) -> Any:
    """a * b or a / b, of which one is row-sparse and the other a number or a dense array."""
    if isinstance(a, RowSparse) and isinstance(b, RowSparse):
        raise Unsupported(f"aten::{ufunc.__name__}")
    sparse, other = (a, b) if isinstance(a, RowSparse) else (b, a)
    if ufunc is numpy.divide and sparse is b:
        raise Unsupported("aten::reciprocal")
    if numpy.ndim(other):
        if numpy.shape(other) != sparse.shape:
            raise Unsupported(f"aten::{ufunc.__name__}")
        other = other[sparse.rows]
    return sparse.with_values(ufunc(sparse.values, other))


def _differs(ufunc: Any, target: Any, a: Any, b: Any) -> Any:
    """Where a row-sparse array is not equal to itself: its NaNs."""
    if a is not b:
        raise Unsupported("aten::ne.Tensor")
    return a.with_values(a.values != a.values)


_BINARY: dict[Any, Callable[..., Any]] = {
    numpy.add: _added, numpy.subtract: _added, numpy.multiply: _scaled, numpy.divide: _scaled,
    numpy.not_equal: _differs,
}  # fmt: skip


def _zeros(like: RowSparse, dtype: Any = None, **options: Any) -> RowSparse:
    zeros = nothing(like)
    return zeros if dtype is None else zeros.astype(dtype)


def _full(like: RowSparse, value: float, dtype: Any = None, **options: Any) -> RowSparse:
    if value != 0:
        raise Unsupported("aten::full_like")
    return _zeros(like, dtype)


def _copyto(out: Any, source: Any, **options: Any) -> None:
    if isinstance(out, RowSparse) and not isinstance(source, RowSparse) and not numpy.any(source):
        source = nothing(out)
    if not isinstance(out, RowSparse) or not isinstance(source, RowSparse):
        raise Unsupported("aten::copy_")
    out.become(source.copy() if source.dtype == out.dtype else source.astype(out.dtype))


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    numpy.zeros_like: _zeros, numpy.empty_like: _zeros, numpy.full_like: _full,
    numpy.copyto: _copyto, numpy.sum: RowSparse.sum, numpy.copy: RowSparse.copy,
    numpy.shape: lambda a: a.shape, numpy.ndim: lambda a: a.ndim,
}  # fmt: skip

MODULES[RowSparse] = RAW[RowSparse] = numpy  # kernels take it as an array of NumPy's
