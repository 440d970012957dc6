"""Row-sparse tensors: the gradients of tables of which a few rows were looked up.

Such a tensor holds a `RowSparse` where others hold an array. PyTorch knows it as a sparse tensor in
coordinate form with one sparse dimension.
Source: https://docs.pytorch.org/docs/stable/sparse.html#sparse-coo-tensors
"""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.backend.row_sparse import RowSparse
from nanotorch.ops.casting import into
from nanotorch.ops.comparisons import where
from nanotorch.ops.indexing import Index
from nanotorch.ops.keys import refuse_outside
from nanotorch.primitive import Linear, apply


class SparseEmbedding(Linear):
    """y = table[index], integers of any shape; the gradient of the table is row-sparse"""

    backward_name = "EmbeddingBackward0"
    vjp = (
        lambda g, table_shape, index, padding: apply(
            RowGradient, g, index, shape=table_shape, padding=padding
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, table: Array, index: Array, *, padding: int | None, out: Array | None = None
    ) -> Array:
        refuse_outside("embedding", index, len(table))
        return into(xp, table.take(index, axis=0), out)


class RowGradient(Linear):
    """y = a row-sparse array of `shape`: g[i] added to row index[i], but to no row `padding`"""

    backward_name = "EmbeddingSparseBackward0"
    vjp = (
        lambda g, index, padding: apply(
            Index, without_padding(g, padding), index, key=("embedding",)
        ),
    )

    @classmethod
    def depends_on_values(cls, inputs: tuple[Any, ...]) -> bool:
        return True  # how many rows it stores; so no recording holds it

    @staticmethod
    def kernel(xp: Any, g: Array, index: Array, *, shape: Any, padding: int | None) -> Array:
        rows, values = index.reshape(-1), g.reshape(-1, *shape[1:])
        if padding is not None:
            stored = rows != padding
            rows, values = rows[stored], values[stored]
        elif values.base is not None or values is g:
            values = values.copy()  # g may be the cotangent of others as well
        return RowSparse(rows.astype(xp.int64), values, shape)


class ToDense(Linear):
    """y = x with all its rows"""

    vjp = (lambda g: g,)

    @staticmethod
    def kernel(xp: Any, x: Array) -> Array:
        return x.to_dense()


def without_padding(g: Any, padding: int | None) -> Any:
    """g, a cotangent of the whole table, with 0 in the row `padding`."""
    if padding is None:
        return g
    row = HOST.arange(g.shape[0]).reshape(-1, *[1] * (g.ndim - 1))
    return where(row == padding, 0.0, g)


def embedding(table: Any, index: Any, padding: int | None) -> Any:
    """table[index], with a row-sparse gradient of the table that has no row `padding`."""
    if table.is_cuda:
        raise NotImplementedError(
            "embedding: sparse=True is computed on the CPU alone; on a GPU leave it out"
        )
    return apply(SparseEmbedding, table, index, padding=padding)


def _stored(name: str, x: Any, layout: str = "sparse coordinate tensor layout") -> RowSparse:
    array: Any = x._array
    if not isinstance(array, RowSparse):
        raise RuntimeError(f"{name} expected {layout} but got Strided")
    return array


def coalesce(x: Any) -> Any:
    """x with each row stored once, in rising order, as the sum of its parts; x itself if it is."""
    array = _stored("coalesce", x)
    return x if array.is_coalesced else x._wrap(array.coalesced())


def is_coalesced(x: Any) -> bool:
    """Whether each row is stored once, in rising order."""
    return _stored("is_coalesced", x).is_coalesced


def indices(x: Any) -> Any:
    """The rows that a coalesced row-sparse tensor stores: (1, n) int64."""
    return _of_coalesced("indices", x)._indices()


def values(x: Any) -> Any:
    """What a coalesced row-sparse tensor stores in its rows: (n, …)."""
    return _of_coalesced("values", x, "sparse tensor layout")._values()


def _of_coalesced(name: str, x: Any, *layout: str) -> Any:
    if not _stored(name, x, *layout).is_coalesced:
        raise RuntimeError(
            f"Cannot get {name} on an uncoalesced tensor, please call .coalesce() first"
        )
    return x


def _indices(x: Any) -> Any:
    """The rows of the stored values: (1, n) int64, in any order and with repetitions."""
    return x._wrap(_stored("_indices", x).rows[None])


def _values(x: Any) -> Any:
    """The values of the stored rows: (n, …), in the memory of x."""
    return x._wrap(_stored("_values", x).values)


def _nnz(x: Any) -> int:
    """How many rows are stored, repetitions included."""
    return len(_stored("_nnz", x).rows)


def sparse_dim(x: Any) -> int:
    """How many dimensions are stored by index: 1, of a dense tensor 0."""
    return int(isinstance(x._array, RowSparse))


def dense_dim(x: Any) -> int:
    """How many dimensions are stored in full."""
    return int(x.ndim - sparse_dim(x))


def to_dense(x: Any) -> Any:
    """x with all its rows; x itself where it is dense."""
    return apply(ToDense, x) if isinstance(x._array, RowSparse) else x
