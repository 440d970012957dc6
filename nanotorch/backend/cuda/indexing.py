"""Reading and adding by index on a CUDA device: the kernels of `indexing.cu` and `sums.cu`.

Sums at repeated places are the same in every run: the positions of the index are sorted by place,
and each place is added up in the order of the batch; one that is named more often than PIECE in
pieces of so many, whose sums are added up. None of it waits for the device, and no shape depends on
values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy

from nanotorch.backend.cuda import checks
from nanotorch.backend.cuda.fused import WIDE, output, written
from nanotorch.backend.cuda.kernels import available as available, launch
from nanotorch.backend.cuda.tables import NOWHERE
from nanotorch.backend.devices import broadcast_shapes
from nanotorch.backend.errors import WRAPPING, out_of_range

Array = Any
Where = Sequence[tuple[int, Array]]  # axes in ascending order, each with its array of integers

PIECE = 512  # positions of one place that are added up by themselves, as sums.cu has it
SORTED, MOST_SORTING = 4096, 512  # positions that a block sorts, unless it takes too many blocks
LONGEST = 2**16  # elements of a row from which a block takes the first, for each row that there is
WALKED = 64  # positions that a thread adds one after the other, if it is one of few
MANY = 4096  # threads that keep a device busy
THREADS, WARPS, MOST_BLOCKS = 256, 4, 4096
# What is copied at once, by its bytes.
_OPAQUE = ((16, "4"), (8, "L"), (4, "I"), (2, "H"), (1, "B"))
_int32, _int64 = numpy.int32, numpy.int64


def take(
    xp: Any, x: Array, axis: int, index: Array, op: str | None = None, out: Array | None = None
) -> Array:
    """y = x at the index along an axis, in one launch; x is C-contiguous."""
    index = _integers(index)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    y = output(xp, out, shape, x.dtype)
    if not y.size and op is not None:
        check(xp, x.shape, ((axis, index),), op)
    if y.size:
        _refuse_nothing(op, rows := x.shape[axis])
        inner = math.prod(x.shape[axis + 1 :]) * x.itemsize
        together = inner | x.data.ptr | y.data.ptr
        unit, letter = next((n, letter) for n, letter in _OPAQUE if together % n == 0)
        total, width = y.nbytes // unit, inner // unit
        numbers = map(_int64, (total, index.size, rows, width))
        _run(xp, "indexing", "take_rows", letter, total, (y, x, *_checked(xp, op, index), *numbers))
    return written(xp, y, out)


def read(xp: Any, x: Array, where: Where, op: str, out: Array | None = None) -> Array:
    """y = x at integer arrays along some axes; NotImplemented (but checked) for scattered axes and
    views, which CuPy reads itself."""
    axis = where[0][0]
    if not x.flags.c_contiguous or where[-1][0] - axis != len(where) - 1:
        check(xp, x.shape, where, op)
        return NotImplemented
    if len(where) == 1:
        return take(xp, x, axis, where[0][1], op, out)
    sizes = x.shape[axis : axis + len(where)]
    places = _joined(xp, sizes, [index for _, index in where], op)
    merged = x.reshape(*x.shape[:axis], math.prod(sizes), *x.shape[axis + len(where) :])
    return take(xp, merged, axis, places, None, out)


def check(xp: Any, shape: Sequence[int], where: Where, op: str) -> None:
    """Notes what lies outside of a tensor of that shape."""
    for axis, index in where:
        if index.size:
            _refuse_nothing(op, shape[axis])
            index = _integers(index)
            numbers = _int64(index.size), _int64(shape[axis]), _int32(1)
            arguments = (NOWHERE, *_checked(xp, op, index), *numbers)
            _run(xp, "indexing", "join_places", "", index.size, arguments)


def add(xp: Any, out: Array, where: Where, values: Any, op: str | None) -> Any:
    """out += values at integer arrays along some axes, in place, each place in the order of the
    batch; NotImplemented for dtypes without a kernel."""
    axes, arrays = [axis for axis, _ in where], [index for _, index in where]
    sums = _sums(out.dtype)
    if sums is None:
        return NotImplemented
    view, axis = out, axes[0]
    if axes[-1] - axis != len(axes) - 1:  # then what the index stands for comes first
        others = [d for d in range(out.ndim) if d not in axes]
        view, axis = out.transpose(*axes, *others), 0
    sizes = view.shape[axis : axis + len(axes)]
    rest = view.shape[axis + len(axes) :]
    named = broadcast_shapes(*(index.shape for index in arrays))
    values = _beside(xp, values, (*view.shape[:axis], *named, *rest), sums.kind)
    if values.size:
        if len(arrays) == 1:
            places, wide_op = _integers(arrays[0]).astype(_int64, copy=False), op
        else:
            places, wide_op = _joined(xp, sizes, arrays, op), None
        _refuse_nothing(op, math.prod(sizes))
        target = _contiguous(view, sums.kind)
        outer, inner = math.prod(view.shape[:axis]), math.prod(rest) * sums.parts
        extent = (outer, places.size, math.prod(sizes), inner)
        _add_rows(xp, sums.letter, target, values, places, wide_op, op in WRAPPING, extent)
        if target is not view:
            view[...] = target
    return out


def gather(xp: Any, x: Array, dim: int, index: Array, out: Array | None = None) -> Array:
    """y[i][j][k] = x[index[i][j][k]][j][k] for dim 0, and so on."""
    dim %= x.ndim
    index, x = _integers(index), _contiguous(_beginning(x, dim, index.shape), x.dtype)
    y = output(xp, out, index.shape, x.dtype)
    if y.size:
        _refuse_nothing("gather", x.shape[dim])
        extent = _extent(index.shape, dim, x.shape[dim])
        if x.itemsize > 8:
            places = _places_along(xp, index, extent, "gather")
            return take(xp, x.reshape(-1), 0, places, None, out)
        letter = next(letter for size, letter in _OPAQUE if size == x.itemsize)
        numbers = map(_int64, (index.size, *extent))
        arguments = (y, x, NOWHERE, *_checked(xp, "gather", index), *numbers)
        _run(xp, "indexing", "take_along", letter, index.size, arguments)
    return written(xp, y, out)


def add_along(xp: Any, out: Array, dim: int, index: Array, values: Any, op: str) -> Any:
    """out += values at the places that gather reads, in place, in the order of the batch;
    NotImplemented for dtypes without a kernel."""
    sums = _sums(out.dtype)
    if sums is None:
        return NotImplemented
    dim %= out.ndim
    kind, letter, parts = sums.kind, sums.letter, sums.parts
    view = _beginning(out, dim, index.shape)
    values = _beside(xp, values, index.shape, kind)
    if not index.size:
        return out
    _refuse_nothing(op, view.shape[dim])
    index = _integers(index)
    length, rows, inner = extent = _extent(index.shape, dim, view.shape[dim])
    columns = index.size // length * parts
    sorting = WALKED < length <= SORTED and rows < 2**20 - 1
    if sorting or length <= WALKED or columns >= MANY:
        target = _contiguous(view, numpy.dtype("f") if letter == "e" else kind)
        index = index.astype(_int64, copy=False)
        numbers = map(_int64, (columns, length, rows, inner, parts))
        noting = *checks.arguments(xp, op), _int32(op in WRAPPING)
        arguments = (target, values, index, *noting, *numbers, _int32(sorting and _padded(length)))
        threads = columns * THREADS if sorting else columns
        _run(xp, "sums", "add_along", letter, threads, arguments, one_each=True)
    else:
        target = _contiguous(view, kind)
        places, total = _places_along(xp, index, extent, op), view.size
        _add_rows(xp, letter, target, values, places, None, False, (1, index.size, total, parts))
    if target is not view:
        view[...] = target
    return out


def first(
    xp: Any, x: Array, *, k: int | None = None, dim: int = -1, descending: bool = False,
    alone: bool = False, out: Array | None = None,
) -> Any:  # fmt: skip
    """The indices of the k first along `dim` in order, all where it is None; or of the k-th
    alone. NotImplemented for wider dtypes, too many, and few long rows."""
    if not x.size or not x.ndim or not available(xp):
        return NotImplemented
    x = _contiguous(x, _int32 if x.dtype.char in "?bBhH" else x.dtype)
    n, before, after = x.shape[dim], x.shape[: dim % x.ndim], x.shape[dim % x.ndim + 1 :]
    rows, count = x.size // n, n if k is None else k
    long = n > max(SORTED, LONGEST * rows) or (count > SORTED and not alone)
    if long or not count or x.dtype.char not in "eEfi":
        return NotImplemented
    y = output(xp, out, (*before, 1 if alone else count, *after), _int64)
    sizes, numbers = (n, math.prod(after)), (count, _padded(count), descending, alone)
    arguments = x, y, *map(_int64, sizes), *map(_int32, numbers)
    launch(xp, "order", "first", x.dtype.char, (rows,), (THREADS,), arguments)
    return written(xp, y, out)


def scan(
    xp: Any, x: Array, *, dim: int, largest: bool | None = None, out: Array | None = None
) -> Any:
    """The places of the largest or smallest so far along `dim`, or the logarithms of the sums of
    exponentials; NotImplemented for halves, integers, and few long rows."""
    if not x.size or not x.ndim or not available(xp) or x.dtype.char not in "fd":
        return NotImplemented
    n, inner = x.shape[dim], math.prod(x.shape[dim % x.ndim + 1 :])
    if n > max(SORTED, SORTED * (rows := x.size // n)):
        return NotImplemented
    y = output(xp, out, x.shape, x.dtype if largest is None else _int64)
    given = (y, NOWHERE) if largest is None else (NOWHERE, y)
    which = _int32(0 if largest is None else 2 - largest)
    arguments = _contiguous(x, x.dtype), *given, _int64(n), _int64(inner), which
    launch(xp, "scans", "scan", x.dtype.char, (rows,), (THREADS,), arguments)
    return written(xp, y, out)


def _add_rows(
    xp: Any, letter: str, out: Array, values: Array, places: Array, op: str | None, wraps: bool,
    extent: tuple[int, int, int, int],
) -> None:  # fmt: skip
    """out (outer, rows, inner) += values (outer, count, inner) at places (count) of int64."""
    outer, count, rows, inner = extent
    if max(count, rows) >= 2**31 - 1:
        raise ValueError(f"{count} values cannot be added to {rows} places at once: 2**31 at most")
    named, positions = _sorted(xp, places, op, wraps, count, rows)
    tiles, pieces = -(-outer * inner // 32), -(-count // PIECE)
    numbers = tuple(map(_int64, (outer, count, rows, inner)))
    parts = out if pieces == 1 else xp.empty((2 * pieces, outer * inner), WIDE.get(letter, letter))
    columns, block = outer * inner, (32 * WARPS,)
    width = 32 * tiles if columns > 16 else 1 << (columns - 1).bit_length()
    arguments = (out, parts, values, named, positions, *numbers, _int64(width))
    grid = (-(-count * width // block[0]),)
    launch(xp, "sums", "add_sorted", letter, grid, block, arguments)
    if pieces > 1:
        grid, arguments = (-(-pieces * tiles // WARPS),), (out, parts, named, *numbers)
        launch(xp, "sums", "add_pieces", letter, grid, block, arguments)


def _sorted(
    xp: Any, index: Array, op: str | None, wraps: bool, count: int, rows: int
) -> tuple[Array, Array]:
    """The places that an index names, sorted, and the position that each had; places outside come
    last, as place `rows`."""
    blocks = min(-(-count // SORTED), MOST_SORTING)
    span = -(-count // blocks)
    counts = index if blocks == 1 else xp.empty((blocks, THREADS), _int32)
    named, positions = NOWHERE, NOWHERE
    checked = *checks.arguments(xp, op), _int32(wraps)
    for shift in range(0, rows.bit_length(), 8):
        numbers = (*map(_int64, (count, rows, span)), _int32(shift))
        keys = index, named, positions
        fresh = xp.empty(count, _int32), xp.empty(count, _int32)
        for target in ((NOWHERE, NOWHERE), fresh) if blocks > 1 else (fresh,):  # counts come first
            given = (*target, counts, *keys, *checked, *numbers)
            launch(xp, "sums", "sort_by_digit", "", (blocks,), (THREADS,), given)
        named, positions = fresh
    return named, positions


# --- what kernels are given -----------------------------------------------------------------------


def _run(
    xp: Any, file: str, kernel: str, kinds: str, elements: int, arguments: tuple[Any, ...],
    one_each: bool = False,
) -> None:  # fmt: skip
    """A thread for each element, or for several of them unless the kernel wants `one_each`."""
    blocks = -(-elements // THREADS)
    blocks = blocks if one_each else min(blocks, MOST_BLOCKS)
    launch(xp, file, kernel, kinds, (blocks,), (THREADS,), arguments)


def _checked(xp: Any, op: str | None, index: Array) -> tuple[Any, ...]:
    """An index, whether it is narrow, what notes entries outside, and whether negative ones count
    from the end."""
    narrow = _int32(index.dtype.itemsize == 4)
    return index, narrow, *checks.arguments(xp, op), _int32(op in WRAPPING)


def _refuse_nothing(op: str | None, size: int) -> None:
    if op is not None and not size:
        raise out_of_range(op, None, size)


def _integers(index: Array) -> Array:
    """The index as a kernel takes it: int32 or int64, C-contiguous."""
    taken = index.dtype.itemsize >= 4 and index.dtype.kind == "i"
    return _contiguous(index, index.dtype if taken else _int64)


class _Sums:
    """How elements of a dtype are added: as which dtype, by which letter, how many numbers each."""

    def __init__(self, kind: Any, letter: str, parts: int = 1) -> None:
        self.kind, self.letter, self.parts = kind, letter, parts


def _sums(kind: Any) -> _Sums | None:
    """None: no kernel adds them. Signed integers are added as unsigned ones, whose bits agree, and
    narrow ones as uint32, and bfloat16, of letter E, as float32."""
    if kind.kind in "iub":
        wide = numpy.dtype(numpy.uint64 if kind.itemsize == 8 else numpy.uint32)
        return _Sums(kind if kind.itemsize >= 4 else wide, "L" if kind.itemsize == 8 else "I")
    if kind.kind == "c":
        return _Sums(kind, "fd"[kind.itemsize // 16], 2)
    if kind.char == "E":
        return _Sums(numpy.dtype("f"), "f")
    return _Sums(kind, kind.char) if kind.char in "efd" else None


def _beside(xp: Any, values: Any, shape: tuple[int, ...], kind: Any) -> Array:
    """Values of the device, or a number, in the shape and dtype of what they are added to."""
    array = xp.asarray(values, kind)
    return _contiguous(array if array.shape == shape else xp.broadcast_to(array, shape), kind)


def _contiguous(x: Array, kind: Any) -> Array:
    """x itself if a kernel can read it as that dtype, else a copy; `ascontiguousarray` would make
    one dimension of none."""
    return x.astype(kind, order="C", copy=False)


def _joined(xp: Any, sizes: Sequence[int], arrays: Sequence[Array], op: str | None) -> Array:
    """The indices of several dimensions as one into all of them together; -1 for one outside."""
    shape = broadcast_shapes(*(index.shape for index in arrays))
    places = xp.empty(shape, _int64)
    for number, (size, index) in enumerate(zip(sizes, arrays, strict=True)):
        if places.size:
            _refuse_nothing(op, size)
            index = _integers(xp.broadcast_to(index, shape))
            numbers = _int64(places.size), _int64(size), _int32(number == 0)
            arguments = (places, *_checked(xp, op, index), *numbers)
            _run(xp, "indexing", "join_places", "", places.size, arguments)
    return places


def _places_along(xp: Any, index: Array, extent: tuple[int, int, int], op: str) -> Array:
    """The flattened places that gather reads; -1 for one outside."""
    places = xp.empty(index.shape, _int64)
    numbers = map(_int64, (index.size, *extent))
    arguments = (NOWHERE, NOWHERE, places, *_checked(xp, op, index), *numbers)
    _run(xp, "indexing", "take_along", "B", index.size, arguments)
    return places


def _beginning(x: Array, dim: int, shape: Sequence[int]) -> Array:
    """The part of x, as large as an index in all dimensions but one, that gather reads."""
    if all(n == m for d, (n, m) in enumerate(zip(x.shape, shape, strict=True)) if d != dim):
        return x
    return x[tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(shape))]


def _padded(count: int) -> int:
    """The elements that a block sorts for `count` of them: a power of two, from 8 on."""
    return 1 << max(3, (count - 1).bit_length())


def _extent(shape: Sequence[int], dim: int, rows: int) -> tuple[int, int, int]:
    """(length, rows, inner) of an index of that shape along `dim`."""
    return shape[dim], rows, math.prod(shape[dim + 1 :])
