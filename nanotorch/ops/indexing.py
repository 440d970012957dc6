"""Reading and writing elements by index."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    broadcast_shapes,
    device_of,
    dtype_of,
    is_array,
    on_device_of,
    to_device,
)
from nanotorch.ops.casting import Copy, Fill, cast, into
from nanotorch.ops.shapes import BasicIndex, UnsafeView, dimension, expand, reshape
from nanotorch.primitive import Linear, Traced, apply

HERE = "index"  # stands in a key for an index that is an input


class Index(Linear):
    """y = x[key] with tensors of ints or booleans in the key: a copy"""

    vjp = (lambda g, x_shape, indices, key: apply(IndexAdd, g, *indices, key=key, shape=x_shape),)

    @classmethod
    def depends_on_values(cls, inputs: tuple[Any, ...]) -> bool:
        return any(getattr(x, "_array", x).dtype.kind == "b" for x in inputs[1:])

    @staticmethod
    def kernel(xp: Any, x: Array, *indices: Array, key: Any, out: Array | None = None) -> Array:
        y = x[filled(key, indices)]
        return into(xp, y, out)


class IndexAdd(Linear):
    """y = zeros of `shape`, to which g is added at the key: the reverse of Index"""

    vjp = (lambda g, indices, key: apply(Index, g, *indices, key=key),)

    @classmethod
    def depends_on_values(cls, inputs: tuple[Any, ...]) -> bool:
        return any(getattr(x, "_array", x).dtype.kind == "b" for x in inputs[1:])

    @staticmethod
    def kernel(
        xp: Any, g: Array, *indices: Array, key: Any, shape: Any, out: Array | None = None
    ) -> Array:
        if out is None:
            out = xp.zeros(shape, g.dtype)
        else:
            out.fill(0)
        add_at(xp, out, filled(key, indices), g)
        return out


class IndexPut(Linear):
    """y = x with `value` at the key, or with `value` added there"""

    moves = "numbers"
    vjp = (
        lambda g, indices, key, accumulate: g if accumulate else put(g, 0, indices, key),
        lambda g, value_shape, indices, key: with_ones(
            apply(Index, g, *indices, key=key), len(value_shape)
        ),
    )

    @classmethod
    def depends_on_values(cls, inputs: tuple[Any, ...]) -> bool:
        return any(getattr(x, "_array", x).dtype.kind == "b" for x in inputs[2:])

    @staticmethod
    def kernel(
        xp: Any, x: Array, value: Any, *indices: Array, key: Any, accumulate: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        if out is None:
            out = xp.array(x)
        elif out is not x:
            xp.copyto(out, x)
        if is_array(value) and value.dtype != out.dtype:
            raise ValueError(
                "Index put requires the source and destination dtypes match, got "
                f"{dtype_of(out.dtype).title} for the destination and "
                f"{dtype_of(value.dtype).title} for the source."
            )
        if accumulate:
            add_at(xp, out, filled(key, indices), value)
        else:
            out[filled(key, indices)] = value
        return out


class Gather(Linear):
    """y[i][j][k] = x[index[i][j][k]][j][k] for dim 0, and so on"""

    vjp = (lambda g, x_shape, index, dim: apply(GatherReverse, g, index, dim=dim, shape=x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, index: Array, *, dim: int, out: Array | None = None) -> Array:
        y = x[places(xp, x, index, dim)] if x.ndim else x[...]
        return into(xp, y, out)


class GatherReverse(Linear):
    """y = zeros of `shape`, to which g is added at the places that gather reads"""

    vjp = (lambda g, index, dim: apply(Gather, g, index, dim=dim),)

    @staticmethod
    def kernel(
        xp: Any, g: Array, index: Array, *, dim: int, shape: Any, out: Array | None = None
    ) -> Array:
        if out is None:
            out = xp.zeros(shape, g.dtype)
        else:
            out.fill(0)
        if out.ndim:
            add_at(xp, out, places(xp, out, index, dim), g)
        else:
            out[...] = g
        return out


class Scatter(Linear):
    """y = x with source written to (or added at) the places that gather reads"""

    vjp = (
        lambda g, index, dim, add: g if add else apply(Scatter, g, index, 0, dim=dim, add=False),
        None,
        lambda g, index, dim: apply(Gather, g, index, dim=dim),
    )

    @staticmethod
    def kernel(
        xp: Any,
        x: Array,
        index: Array,
        source: Any,
        *,
        dim: int,
        add: bool,
        out: Array | None = None,
    ) -> Array:
        if out is None:
            out = xp.array(x)
        elif out is not x:
            xp.copyto(out, x)
        if is_array(source) and source.ndim:
            source = source[tuple(slice(n) for n in index.shape)]
        if add:
            add_at(xp, out, places(xp, x, index, dim), source)
        else:
            out[places(xp, x, index, dim)] = source
        return out

    def name(self) -> str:
        return "ScatterAddBackward0" if self.attributes["add"] else "ScatterBackward0"


class Flip(Linear):
    """y = x in reverse order along `dims`"""

    vjp = (lambda g, dims: apply(Flip, g, dims=dims),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dims: tuple[int, ...], out: Array | None = None) -> Array:
        y = xp.flip(x, axis=dims)
        if out is None:
            return y.copy()
        xp.copyto(out, y)
        return out


class Roll(Linear):
    """y = x shifted around along `dims`"""

    vjp = (lambda g, shifts, dims: apply(Roll, g, shifts=tuple(-s for s in shifts), dims=dims),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, shifts: Any, dims: Any, out: Array | None = None) -> Array:
        y = xp.roll(x, shifts if dims is not None else shifts[0], axis=dims)
        return into(xp, y, out)


def add_at(xp: Any, out: Array, key: Any, values: Any) -> None:
    """out[key] += values, once for every time that a place is named."""
    if xp is HOST or out.dtype.kind not in "biu" or out.dtype.itemsize == 4:
        xp.add.at(out, key, values)
        return
    # CuPy does so for unsigned integers of 64 bits, not for signed or narrow ones; the bits agree.
    wide = out.astype(xp.uint64)
    xp.add.at(wide, key, xp.asarray(values).astype(xp.uint64))
    out[...] = wide.astype(out.dtype)


def places(xp: Any, x: Array, index: Array, dim: int) -> tuple[Any, ...]:
    """The advanced index that gather reads along `dim`; refuses indices outside of x."""
    if index.ndim != x.ndim:
        raise RuntimeError(
            f"gather: expected an index of {x.ndim} dimensions as the input has, got {index.ndim}"
        )
    grid = list(xp.ogrid[tuple(slice(n) for n in index.shape)])
    grid[dim] = index
    return tuple(grid)


def filled(key: Any, indices: tuple[Array, ...]) -> tuple[Any, ...]:
    """The key with its index inputs in their places."""
    rest = iter(indices)
    return tuple(next(rest) if item is HERE else item for item in key)


def with_ones(g: Any, ndim: int) -> Any:
    """g with leading dimensions of size 1, up to `ndim`, as the value that was written may have."""
    return g if g.ndim >= ndim else reshape(g, (*(1,) * (ndim - g.ndim), *g.shape))


def put(x: Any, value: Any, indices: tuple[Any, ...], key: Any) -> Any:
    """x with `value` at the key."""
    return apply(IndexPut, x, value, *indices, key=key, accumulate=False)


def parsed(x: Any, key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A key as (items, index tensors): each index tensor is HERE among the items."""
    items, indices = [], []
    for item in key if isinstance(key, tuple) else (key,):
        if isinstance(item, list | range):
            item = as_index(x, item)
        array: Any = getattr(item, "_array", item)
        if item is None or item is Ellipsis or isinstance(item, slice) or type(item) is int:
            if isinstance(item, slice):
                item = whole_numbers(item)
            items.append(item)
        elif is_array(array) and array.ndim == 0 and array.dtype.kind in "iu":
            items.append(int(item))
        elif is_array(array) and array.dtype.kind in "iub":
            items.append(HERE)
            indices.append(item)
        elif isinstance(item, bool | HOST.bool):
            items.append(HERE)
            indices.append(to_device(HOST.asarray(bool(item)), device_of(x._array)))
        elif hasattr(item, "__index__"):
            items.append(item.__index__())
        else:
            raise IndexError(
                "tensors used as indices must be long, int, byte or bool tensors; "
                f"got {getattr(item, 'dtype', type(item).__name__)}"
            )
    return tuple(items), tuple(indices)


def as_index(x: Any, values: Any) -> Any:
    """A list used as an index, as an array beside x."""
    plain = [v.tolist() if isinstance(v, Traced) else v for v in values]  # type: ignore[attr-defined]
    array = HOST.array(plain) if len(plain) else HOST.zeros(0, HOST.int64)
    return to_device(array, device_of(x._array))


def whole_numbers(item: slice) -> slice:
    """A slice with plain ints; steps must be positive, as in PyTorch."""
    start, stop, step = (None if v is None else int(v) for v in (item.start, item.stop, item.step))
    if step is not None and step <= 0:
        raise ValueError("slice: step must be greater than zero")
    return slice(start, stop, step)


def located(x: Any, key: Any) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """x[key] in two steps, as PyTorch takes it: the view by ints, slices and None, then what is
    left of the key, and its index tensors."""
    items, indices = parsed(x, key)
    if all(item is HERE or item is Ellipsis or item == slice(None) for item in items):
        return x, items, indices
    if (
        not indices
        and x.ndim == 0
        and any(item is not None and item is not Ellipsis for item in items)
    ):
        raise IndexError("invalid index of a 0-dim tensor; use tensor.item() to read its number")
    first: list[Any] = []
    rest: list[Any] = []
    tensors = iter(indices)
    for item in items:
        if item is HERE:
            array = next(tensors)
            mask = getattr(array, "_array", array).dtype.kind == "b"
            first.extend([slice(None)] * (array.ndim if mask else 1))
        else:
            first.append(item)
        if type(item) is not int:
            rest.append(item if item is HERE or item is Ellipsis else slice(None))
    return apply(BasicIndex, x, key=tuple(first)), tuple(rest), indices


def getitem(x: Any, key: Any) -> Any:
    """x[key]: a view for ints, slices, None and `...`; a copy where the key holds tensors."""
    view, rest, indices = located(x, key)
    if indices:
        return apply(Index, view, *indices, key=rest)
    return apply(BasicIndex, x, key=rest) if view is x else view


def setitem(x: Any, key: Any, value: Any) -> None:
    """x[key] = value, a number, a tensor or what makes an array."""
    view, rest, indices = located(x, key)
    if not isinstance(value, Traced | int | float | complex):
        with on_device_of(x._array):
            value = x._wrap(array_module(x._array).asarray(value))
    if isinstance(value, Traced):
        value = shaped(value, view, rest, indices)
    if indices:
        view._apply_inplace(IndexPut, value, *indices, key=rest, accumulate=False)
    else:
        view._apply_inplace(Copy if isinstance(value, Traced) else Fill, value)


def shaped(value: Any, view: Any, rest: tuple[Any, ...], indices: tuple[Any, ...]) -> Any:
    """The value without 1s in front that its place has not; one number for a mask in any dtype."""
    mask = len(indices) == 1 and getattr(indices[0], "_array", indices[0]).dtype.kind == "b"
    if mask and view.ndim and math.prod(value.shape) == 1:
        return cast(reshape(value, ()), view._array.dtype)
    most = 1 if mask else view.ndim if not indices else value.ndim
    shape = tuple(value.shape)
    while len(shape) > most and shape[0] == 1:
        shape = shape[1:]
    return value if len(shape) == value.ndim else reshape(value, shape)


def gather(x: Any, dim: int, index: Any) -> Any:
    """The elements of x at `index` (int64, as many dimensions as x) along `dim`."""
    return apply(Gather, x, index, dim=dimension(dim, x.ndim))


def scatter(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with the elements of `src` (or a number) written at `index` along `dim`."""
    return apply(Scatter, x, index, src, dim=dimension(dim, x.ndim), add=False)


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with the elements of `src` added at `index` along `dim`."""
    return apply(Scatter, x, index, src, dim=dimension(dim, x.ndim), add=True)


def index_select(x: Any, dim: int, index: Any) -> Any:
    """The slices of x at `index` (1-dim, int64) along `dim`."""
    place = dimension(dim, x.ndim)
    if x.ndim == 0:
        return apply(UnsafeView, index_select(reshape(x, (1,)), 0, index), shape=())
    return apply(Index, x, index, key=(*(slice(None),) * place, HERE))


def index_put(x: Any, indices: tuple[Any, ...], values: Any, accumulate: bool = False) -> Any:
    """x with `values` at the index tensors, or added there."""
    return apply(IndexPut, x, values, *indices, key=(HERE,) * len(indices), accumulate=accumulate)


def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """x with the slices of `source`, times alpha, added at `index` along `dim`."""
    key = (*(slice(None),) * dimension(dim, x.ndim), HERE)
    value = source if alpha == 1 else source * alpha
    return apply(IndexPut, x, value, index, key=key, accumulate=True)


def index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    """x with its slices at `index` along `dim` replaced by those of `source`."""
    return put(x, source, (index,), (*(slice(None),) * dimension(dim, x.ndim), HERE))


def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    """x with `value`, a number or a 0-dim tensor, in its slices at `index` along `dim`."""
    return put(x, value, (index,), (*(slice(None),) * dimension(dim, x.ndim), HERE))


def take_along_dim(x: Any, indices: Any, dim: int) -> Any:
    """`gather`, with the other dimensions of x and the index broadcast together."""
    place = dimension(dim, x.ndim)
    sizes = [list(x.shape), list(indices.shape)]
    ends = [size.pop(place) for size in sizes]
    common = broadcast_shapes(*map(tuple, sizes))
    x, indices = (
        expand(v, (*common[:place], end, *common[place:])) for v, end in zip((x, indices), ends)
    )
    return gather(x, place, indices)


def masked_select(x: Any, mask: Any) -> Any:
    """The elements of x where `mask` is true, in one dimension."""
    shape = broadcast_shapes(x.shape, mask.shape)
    return apply(Index, x.expand(shape), mask.expand(shape), key=(HERE,))


def take(x: Any, index: Any) -> Any:
    """The elements of x, flattened, at `index`."""
    return apply(Index, x.reshape(-1), index, key=(HERE,))


def flip(x: Any, *dims: Any) -> Any:
    """x in reverse order along `dims`."""
    names = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    along = tuple(dimension(d, x.ndim) for d in names)
    return apply(Flip, x, dims=along if x.ndim else ())


def roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    """x shifted around by `shifts` along `dims`; flattened in between where dims is None."""
    moves = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    along = None if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    return apply(Roll, x, shifts=moves, dims=along)


def fliplr(x: Any) -> Any:
    """x with its columns in reverse order."""
    return flip(x, 1)


def flipud(x: Any) -> Any:
    """x with its rows in reverse order."""
    return flip(x, 0)
