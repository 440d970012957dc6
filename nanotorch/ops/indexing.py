"""Reading and writing elements by index.

Which of several values written to one place remains is left open, as in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    broadcast_shapes,
    counting,
    dtype_of,
    fitting,
    is_array,
    on_device_of,
)
from nanotorch.backend.adding import at, put as put_at
from nanotorch.backend.halves import is_half, rounded_number
from nanotorch.backend.order_of_memory import axes_by_stride, empty_in_order, usual
from nanotorch.ops.casting import Copy, Fill, cast, into
from nanotorch.ops.comparisons import masked_fill, where
from nanotorch.ops.keys import (
    HERE,
    along,
    axes_taken,
    filled,
    host_checked,
    is_plain,
    located,
    op_of,
    refuse_outside,
)
from nanotorch.ops.shapes import BasicIndex, UnsafeView, dimension, expand, reshape, sizes
from nanotorch.primitive import Linear, Primitive, Traced, apply


class Index(Linear):
    """y = x[key] with tensors of ints or booleans in the key: a copy"""

    vjp = (lambda g, x_shape, indices, key: apply(IndexAdd, g, *indices, key=key, shape=x_shape),)

    @classmethod
    def depends_on_values(cls, inputs: tuple[Any, ...]) -> bool:
        return any(getattr(x, "_array", x).dtype.kind == "b" for x in inputs[1:])

    @staticmethod
    def kernel(xp: Any, x: Array, *indices: Array, key: Any, out: Array | None = None) -> Array:
        indices = host_checked(xp, x.shape, key, indices)
        if len(key) == len(indices) == 1 and type(x) is HOST.ndarray and x.flags.c_contiguous:
            if x.size and indices[0].dtype.char == "l":  # in a quarter of the time of x[…]
                return x.take(indices[0], 0, out)
        items = filled(key, indices)
        if not x.flags.c_contiguous:
            return into(xp, in_order(xp, x[items], x, key, indices), out)
        if xp is not HOST or indices[0] is items[0]:
            return into(xp, x[items], out)
        # In the order of memory that its shape says, which x[…] does not keep behind a slice.
        rest = [item for item in key if type(item) is not str]
        if len(indices) == 1 and indices[0].dtype.char == "l" and rest == [slice(None)] * len(rest):
            return x.take(indices[0], [type(item) for item in key].index(str), out)
        return into(xp, HOST.ascontiguousarray(x[items]), out)


def in_order(xp: Any, y: Array, x: Array, key: Any, indices: tuple[Array, ...]) -> Array:
    """y = x[key] in the order of memory that PyTorch gives it: where x is not contiguous, what
    slices leave of its axes keeps their order, and what indices make, theirs."""
    taken = axes_taken(x.ndim, key, indices)
    if op_of(key) != HERE or not taken:
        return usual(xp, y)
    left = [stride for axis, stride in enumerate(x.strides) if axis not in taken]
    front = taken[0] if taken[-1] - taken[0] < len(taken) else 0
    back, block = len(left) - front, y.ndim - len(left)
    strides = [(*left[:front], *(0,) * block, *left[front:])]
    for index in indices:
        if index.dtype.kind == "b":  # the places of a mask lie one behind the other
            index = xp.empty(y.shape[front], bool)
        ahead = front + block - index.ndim
        index = index.reshape((*(1,) * ahead, *index.shape, *(1,) * back))
        sizes = zip(index.shape, y.shape, index.strides)
        strides.append(tuple(0 if n == 1 != m else stride for n, m, stride in sizes))
    out = empty_in_order(xp, y.shape, y.dtype, axes_by_stride(y.shape, *strides))
    return y if out.strides == y.strides else into(xp, y, out)


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
        out = zeroed(xp, shape, g.dtype, out)
        add_at(xp, out, filled(key, indices), g)
        return out


SLICES = "index_add", "index_copy"  # whose results lie in the usual order of memory


class IndexPut(Linear):
    """y = x with `value` at the key, or with `value` added there"""

    moves = "numbers"
    of_one_dtype = True
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
        out = copied(xp, x, out, "C" if op_of(key) in SLICES else "K")
        if is_array(value) and value.dtype != out.dtype:
            raise ValueError(
                "Index put requires the source and destination dtypes match, got "
                f"{dtype_of(out.dtype).title} for the destination and "
                f"{dtype_of(value.dtype).title} for the source."
            )
        place = filled(key, host_checked(xp, x.shape, key, indices))
        value = fitting(value, out.dtype)
        if accumulate:
            add_at(xp, out, place, value)
        else:
            out[place] = value
        return out


class Gather(Linear):
    """y[i][j][k] = x[index[i][j][k]][j][k] for dim 0, and so on"""

    vjp = (lambda g, x_shape, index, dim: apply(GatherReverse, g, index, dim=dim, shape=x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, index: Array, *, dim: int, out: Array | None = None) -> Array:
        if x.size and dim == x.ndim - 1 and xp is HOST and x.flags.c_contiguous:
            if index.shape[:-1] == x.shape[:-1]:  # in a third of the time of a place per dimension
                refuse_outside("gather", index, x.shape[dim])
                first = counting(x.size, x.shape[dim]).reshape((*x.shape[:dim], 1))
                return into(xp, x.take(index + first), out)
        y = usual(xp, x[places(xp, x, index, dim)]) if x.ndim else x[...]
        return into(xp, y, out)


class GatherReverse(Linear):
    """y = zeros of `shape`, to which g is added at the places that gather reads; or, where they are
    `distinct`, written"""

    vjp = (lambda g, index, dim: apply(Gather, g, index, dim=dim),)

    @staticmethod
    def kernel(
        xp: Any, g: Array, index: Array, *, dim: int, shape: Any, distinct: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        out = zeroed(xp, shape, g.dtype, out)
        if out.ndim and distinct:
            out[places(xp, out, index, dim)] = g
        elif out.ndim:
            add_at(xp, out, places(xp, out, index, dim), g)
        else:
            out[...] = g
        return out


class GatherDistinct(Gather):
    """y = gather's, of an index that names no place twice"""

    vjp = (
        lambda g, x_shape, index, dim: apply(
            GatherReverse, g, index, dim=dim, shape=x_shape, distinct=True
        ),
    )


class Scatter(Linear):
    """y = x with source written to (or added at) the places that gather reads"""

    of_one_dtype = True
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
        out = copied(xp, x, out)
        if is_array(source) and source.dtype != out.dtype:
            raise RuntimeError(
                f"scatter: expected a source of dtype {dtype_of(out.dtype).title}, as x has, got "
                f"{dtype_of(source.dtype).title}"
            )
        if is_array(source) and source.ndim:
            source = source[tuple(slice(n) for n in index.shape)]
        place = places(xp, x, index, dim, "scatter_add" if add else "scatter")
        source = fitting(source, out.dtype)
        if add:
            add_at(xp, out, place, source)
        elif xp is HOST:
            put_at(out, place, source)
        else:
            out[place] = source
        return out

    def name(self) -> str:
        return "ScatterAddBackward0" if self.attributes["add"] else "ScatterBackward0"


class ScatterMultiply(Primitive):
    """y = x, multiplied by source at the places that gather reads; without a derivative"""

    @staticmethod
    def kernel(
        xp: Any, x: Array, index: Array, source: Any, *, dim: int, out: Array | None = None
    ) -> Array:
        out = copied(xp, x, out)
        if is_array(source) and source.ndim:
            source = source[tuple(slice(n) for n in index.shape)]
        multiply_at(xp, out, places(xp, x, index, dim, "scatter"), source, dim)
        return out


class SlicesAt(Primitive):
    """y = true in the slices at the index along `dim`, in a tensor of that shape"""

    @staticmethod
    def kernel(xp: Any, index: Array, *, dim: int, shape: Any, out: Array | None = None) -> Array:
        line = xp.zeros(shape[dim], bool)
        line[index] = True
        line = line.reshape([-1 if d == dim else 1 for d in range(len(shape))])
        return into(xp, xp.broadcast_to(line, shape), out)


class Flip(Linear):
    """y = x in reverse order along `dims`"""

    vjp = (lambda g, dims: apply(Flip, g, dims=dims),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dims: tuple[int, ...], out: Array | None = None) -> Array:
        y = xp.flip(x, axis=dims)
        return y.copy("K") if out is None else into(xp, y, out)


class Roll(Linear):
    """y = x shifted around along `dims`"""

    vjp = (lambda g, shifts, dims: apply(Roll, g, shifts=tuple(-s for s in shifts), dims=dims),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, shifts: Any, dims: Any, out: Array | None = None) -> Array:
        y = xp.roll(x, shifts if dims is not None else shifts[0], axis=dims)
        return into(xp, usual(xp, y), out)


def add_at(xp: Any, out: Array, key: Any, values: Any) -> None:
    """out[key] += values, once for every time that a place is named."""
    if xp is HOST:
        at(HOST.add, out, key, values)
        return
    if out.dtype.kind not in "biu" or out.dtype.itemsize == 4:
        xp.add.at(out, key, values)
        return
    # CuPy does so for unsigned integers of 64 bits, not for signed or narrow ones; the bits agree.
    wide = out.astype(xp.uint64)
    xp.add.at(wide, key, xp.asarray(values).astype(xp.uint64))
    out[...] = wide.astype(out.dtype)


def multiply_at(xp: Any, out: Array, place: tuple[Any, ...], source: Any, dim: int) -> None:
    """out[place] *= source, once for every time that a place is named."""
    if xp is HOST:
        at(HOST.multiply, out, place, source)
        return
    for k in range(place[dim].shape[dim]):  # CuPy has no multiply.at; a slice names no place twice
        part = (*(slice(None),) * dim, slice(k, k + 1))
        key = tuple(p if p.shape[dim] == 1 else p[part] for p in place)
        out[key] *= source[part] if is_array(source) and source.ndim else source


def zeroed(xp: Any, shape: Any, kind: Any, out: Array | None) -> Array:
    """Zeros to add to."""
    if out is None:
        return xp.zeros(shape, kind)
    out.fill(0)
    return out


def copied(xp: Any, x: Array, out: Array | None, order: Any = "C") -> Array:
    """A copy of x to write to, or `out` that holds x."""
    if out is None:
        return xp.array(x, order=order)
    if out is not x:
        xp.copyto(out, x)
    return out


def alike(x: Array, index: Array) -> bool:
    """Whether gather's index has the dimensions of x: at least one, and as many."""
    return bool(x.ndim and index.ndim == x.ndim)


def places(xp: Any, x: Array, index: Array, dim: int, op: str = "gather") -> tuple[Any, ...]:
    """The advanced index that gather reads along `dim`; on the CPU, refuses indices outside of
    x."""
    if index.ndim != x.ndim:
        raise RuntimeError(
            f"gather: expected an index of {x.ndim} dimensions as the input has, got {index.ndim}"
        )
    dim %= max(x.ndim, 1)
    if xp is HOST and index.size and is_line(index, x.shape, dim):
        index = index[tuple(slice(None) if d == dim else 0 for d in range(x.ndim))]
    if xp is HOST and x.ndim:
        refuse_outside(op, index, x.shape[dim])
        if index.ndim < x.ndim or x.ndim == 1:
            return (*(slice(None),) * dim, index)
    if xp is not HOST:
        grid = list(xp.ogrid[tuple(slice(n) for n in index.shape)])
    else:  # in a quarter of the time
        grid = [
            counting(n).reshape((-1, *(1,) * k)) for n, k in zip(index.shape, range(x.ndim)[::-1])
        ]
    grid[dim] = index
    return tuple(grid)


def is_line(index: Array, shape: Any, dim: int) -> bool:
    """Whether an index was expanded from one vector along `dim`, to all of the other dimensions."""
    return all(
        d == dim or (n == m and (n == 1 or not step))
        for d, (n, m, step) in enumerate(zip(index.shape, shape, index.strides, strict=True))
    )


def with_ones(g: Any, ndim: int) -> Any:
    """g with leading dimensions of size 1, up to `ndim`, as the value that was written may have."""
    return g if g.ndim >= ndim else reshape(g, (*(1,) * (ndim - g.ndim), *g.shape))


def put(x: Any, value: Any, indices: tuple[Any, ...], key: Any) -> Any:
    """x with `value` at the key."""
    return apply(IndexPut, x, value, *indices, key=key, accumulate=False)


def getitem(x: Any, key: Any) -> Any:
    """x[key]: a view for ints, slices, None and `...`; a copy where the key holds tensors."""
    if x._array.ndim:  # in a third of the time of taking it apart
        if is_plain(key):
            return x._apply(BasicIndex, (x,), {"key": (key,)})
        if type(key) is tuple and all(map(is_plain, key)):
            return x._apply(BasicIndex, (x,), {"key": key})
    if isinstance(key, Traced):  # as in most cases of what is left: places on the host
        places = key._array
        if type(places) is HOST.ndarray is type(x._array) and places.dtype.char == "l":
            if x._array.ndim and places.ndim:
                return x._apply(Index, (x, key), {"key": (HERE,)})
    view, rest, indices = located(x, key)
    if indices:
        return apply(Index, view, *indices, key=rest)
    return apply(BasicIndex, x, key=rest) if view is x else view


def setitem(x: Any, key: Any, value: Any) -> None:
    """x[key] = value, a number, a tensor or what makes an array."""
    view, rest, indices = located(x, key)
    if is_half(x._array):  # a number beyond their limits is refused elsewhere, and infinite here
        value = rounded_number(value, x._array.dtype)
    if not isinstance(value, Traced | int | float | complex):
        with on_device_of(x._array):
            array = array_module(x._array).asarray(value)
        if array.dtype.kind in "OUS":
            raise TypeError(f"can't assign a {type(value).__name__} to a {x.type()}")
        value = x._wrap(array)
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
        if view._array.dtype.kind in "iu" and value.dtype != view.dtype:
            return value.item()  # which is refused where it does not fit
        return cast(reshape(value, ()), view._array.dtype)
    most = 1 if mask else view.ndim if not indices else value.ndim
    shape = tuple(value.shape)
    while len(shape) > most and shape[0] == 1:
        shape = shape[1:]
    return value if len(shape) == value.ndim else reshape(value, shape)


def gather(x: Any, dim: int, index: Any) -> Any:
    """The elements of x at `index` (int64, as many dimensions as x) along `dim`."""
    dim = dimension(dim, x.ndim)
    if not x.ndim or not index.ndim or not math.prod(index.shape):
        line = reshape(x, (-1,)) if not math.prod(index.shape) else vector(x)
        return reshape(apply(Gather, line, reshape(index, (-1,)), dim=0), index.shape)
    return apply(Gather, x, index, dim=dim)


def vector(x: Any) -> Any:
    """A 0-dim tensor as one of one element; others, and numbers, as they are."""
    return reshape(x, (1,)) if getattr(x, "ndim", 1) == 0 else x


def scatter(
    x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Any:
    """x with the elements of `src` (or a number, `value`) written at `index` along `dim`.

    `reduce` "add" or "multiply" combines them with what is there, in the order of the index.
    """
    if (src is None) == (value is None):
        raise TypeError("scatter: expected either src or value")
    source = value if src is None else src
    if not x.ndim or not index.ndim:
        y = scatter(vector(x), dim, vector(index), vector(source), reduce=reduce)
        return reshape(y, x.shape)
    place, source = dimension(dim, x.ndim), fitting(source, getattr(x, "_array", x).dtype)
    if reduce not in (None, "add", "multiply"):
        raise RuntimeError(f"reduce argument must be either add or multiply, got {reduce!r}")
    if reduce == "multiply":
        return apply(ScatterMultiply, x, index, source, dim=place)
    return apply(Scatter, x, index, source, dim=place, add=reduce == "add")


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with the elements of `src` added at `index` along `dim`."""
    return scatter(x, dim, index, src, reduce="add")


def index_select(x: Any, dim: int, index: Any) -> Any:
    """The slices of x at `index` (1-dim, int64) along `dim`."""
    place = dimension(dim, x.ndim)
    if x.ndim == 0:
        return apply(UnsafeView, index_select(reshape(x, (1,)), 0, index), shape=())
    return apply(Index, x, index, key=along(place, "index_select"))


def index_put(x: Any, indices: tuple[Any, ...], values: Any, accumulate: bool = False) -> Any:
    """x with `values` at the index tensors, or added there."""
    key = ("index_put",) * len(indices)
    return apply(IndexPut, x, values, *indices, key=key, accumulate=accumulate)


def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """x with the slices of `source`, times alpha, added at `index` along `dim`."""
    key = along(dimension(dim, x.ndim), "index_add")
    value = source if alpha == 1 else source * alpha
    if not x.ndim:
        return reshape(index_add(vector(x), 0, index, vector(value)), ())
    return apply(IndexPut, x, value, index, key=key, accumulate=True)


def index_copy(x: Any, dim: int, index: Any, source: Any) -> Any:
    """x with its slices at `index` along `dim` replaced by those of `source`."""
    if not x.ndim:
        return reshape(index_copy(vector(x), dim, index, vector(source)), ())
    return put(x, source, (index,), along(dimension(dim, x.ndim), "index_copy"))


def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    """x with `value`, a number or a 0-dim tensor, in its slices at `index` along `dim`."""
    if not x.ndim:
        return reshape(index_fill(vector(x), dim, index, value), ())
    return masked_fill(x, slices_at(x, dim, index), value)


def slices_at(x: Any, dim: int, index: Any) -> Any:
    """Booleans in the shape of x: true in the slices at `index` along `dim`."""
    return apply(SlicesAt, index, dim=dimension(dim, x.ndim), shape=tuple(x.shape))


def take_along_dim(x: Any, indices: Any, dim: int | None = None) -> Any:
    """`gather`, with the other dimensions of x and the index broadcast together; without `dim` of
    both flattened."""
    if dim is None:
        return gather(reshape(x, (-1,)), 0, reshape(indices, (-1,)))
    place = dimension(dim, x.ndim)
    sizes = [list(x.shape), list(indices.shape)]
    ends = [size.pop(place) for size in sizes]
    common = broadcast_shapes(*map(tuple, sizes))
    x, indices = (
        expand(v, (*common[:place], end, *common[place:])) for v, end in zip((x, indices), ends)
    )
    return gather(x, place, where(indices < 0, indices + x.shape[place], indices))


def masked_select(x: Any, mask: Any) -> Any:
    """The elements of x where `mask` is true, in one dimension."""
    shape = broadcast_shapes(x.shape, mask.shape)
    return apply(Index, x.expand(shape), mask.expand(shape), key=(HERE,))


def take(x: Any, index: Any) -> Any:
    """The elements of x, flattened, at `index`."""
    return apply(Index, x.reshape(-1), index, key=("take",))


def rows(table: Any, index: Any) -> Any:
    """The rows of an embedding's table at `index`, integers of any shape."""
    return apply(Index, table, index, key=("embedding",))


def flip(x: Any, *places: Any, dims: Any = None) -> Any:
    """x in reverse order along dimensions: flip(0, 1), flip((0, 1)) or flip(dims=(0, 1))."""
    chosen = tuple(dimension(d, x.ndim) for d in sizes(places if dims is None else (dims,)))
    return apply(Flip, x, dims=chosen if x.ndim else ())


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
