"""NumPy's `ufunc.at`, and writing to places, in a fraction of its time, with the same bits.

Elements are added by their places in the flat array, which `at` does in a tenth of the time that
places of several dimensions take. Longer rows are added in rounds: the first of each row at once,
then the second of those that have one, and so on. Both add to a place in the order of the values.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy

from nanotorch.backend.devices import Array, counting

FEW = 16  # places, below which `at` itself is as fast
LONG = 8  # elements of a row, from which on rounds are faster than elements
LONGER = 4096  # elements of a row, from which on rows are added one by one
ROUND = 16  # rows, from which on a round is faster than single rows


class Rows(NamedTuple):
    """Which rows of `width` elements a key names in an array that is seen as a matrix of them, and
    the shape that values have there."""

    rows: Array
    width: int
    shape: tuple[int, ...]


def rows_named(shape: tuple[int, ...], key: Any) -> Rows | None:
    """What a key names, of whole slices before arrays of ints; None for other keys, for few places
    and for places outside."""
    key = key if type(key) is tuple else (key,)
    front = 0
    while front < len(key) and type(key[front]) is slice and key[front] == slice(None):
        front += 1
    indices, sizes = key[front:], shape[front : len(key)]
    rows: Any = 0
    for index, n in zip(indices, sizes, strict=False):
        if type(index) is not numpy.ndarray or index.dtype.kind != "i" or not index.size:
            return None
        low = int(index.min())
        if low < -n or index.max() >= n:
            return None
        rows = rows * n + (numpy.where(index < 0, index + n, index) if low < 0 else index)
    ahead = math.prod(shape[:front])
    if len(indices) != len(sizes) or not indices or rows.size * ahead < FEW:
        return None
    rest = shape[len(key) :]
    named = (*shape[:front], *rows.shape, *rest)
    if ahead > 1:
        rows = (counting(ahead) * math.prod(sizes))[:, None] + rows.reshape(-1)
    return Rows(rows.reshape(-1), math.prod(rest), named)


def rows_in(out: Array, key: Any, values: Any) -> tuple[Rows, Array] | None:
    """What a key names in an array, and the values for it, one behind the other; None where NumPy
    reads the key itself."""
    kind = out.dtype
    if not out.flags.c_contiguous or kind.kind not in "iufc" or kind.itemsize < 4:
        return None
    if type(values) is numpy.ndarray and values.dtype != kind:
        return None
    named = rows_named(out.shape, key)
    if named is None or not named.width:
        return None
    return named, numpy.broadcast_to(numpy.asarray(values, kind), named.shape).reshape(-1)


def at(ufunc: Any, out: Array, key: Any, values: Any) -> None:
    """ufunc.at(out, key, values)"""
    found = rows_in(out, key, values)
    if found is None:
        ufunc.at(out, key, values)
        return
    (rows, width, _), values = found
    if width >= LONG:
        in_rounds(ufunc, out.reshape(-1, width), rows, values.reshape(-1, width))
    else:
        at_rows(ufunc, out.reshape(-1, width), rows, values)


def put(out: Array, key: Any, values: Any) -> None:
    """out[key] = values"""
    found = rows_in(out, key, values)
    if found is None or found[0].width > 1:
        out[key] = values
    else:
        out.reshape(-1)[found[0].rows] = found[1]


def at_rows(ufunc: Any, out: Array, rows: Array, values: Array) -> None:
    """ufunc.at(out, rows, values) of a contiguous matrix, element by element."""
    width = out.shape[1]
    places = rows if width == 1 else (rows[:, None] * width + counting(width)).reshape(-1)
    ufunc.at(out.reshape(-1), places, values.reshape(-1))


def in_rounds(ufunc: Any, out: Array, rows: Array, values: Array) -> None:
    """ufunc.at(out, rows, values) of a contiguous matrix, in the order of the values."""
    if out.shape[1] >= LONGER:
        for row, value in zip(rows.tolist(), values, strict=True):
            ufunc(out[row], value, out=out[row])
        return
    order, in_order, new = sorted_places(rows)
    starts = numpy.flatnonzero(new)
    counts = numpy.diff(starts, append=order.size)
    done, live = 0, starts
    while live.size >= ROUND:
        places = in_order[live]
        made = out.take(places, 0)
        put_rows(out, places, ufunc(made, values.take(order[live + done], 0), out=made))
        done += 1
        live = starts[counts > done]
    if live.size:
        rank = counting(order.size) - numpy.repeat(starts, counts)
        rest = numpy.sort(order[rank >= done])
        at_rows(ufunc, out, rows[rest], values[rest])


def sorted_places(rows: Array) -> tuple[Array, Array, Array]:
    """The places of rising numbers >= 0, of equal ones in their order; the numbers in that order;
    and where one differs from that before it."""
    n = rows.size
    bits = max(n - 1, 1).bit_length()
    if int(rows.max()).bit_length() + bits < 64:  # a row and its place in one number: in a tenth
        keys = rows.astype(numpy.int64) << bits
        keys |= counting(n)
        keys.sort()
        order, in_order = keys & ((1 << bits) - 1), keys >> bits
    else:
        order = rows.argsort(kind="stable")
        in_order = rows[order]
    new = numpy.ones(n, bool)
    numpy.not_equal(in_order[1:], in_order[:-1], out=new[1:])
    return order, in_order, new


def put_rows(array: Array, rows: Array, values: Array) -> None:
    """array[rows] = values, for rows that differ.

    NumPy moves a row as one element in half the time.
    """
    if array.ndim > 1 and array.flags.c_contiguous:
        row = numpy.dtype((numpy.void, array[:1].nbytes))
        values = numpy.ascontiguousarray(values, array.dtype)
        if row.itemsize and len(rows):
            array.view(numpy.uint8).reshape(len(array), -1).view(row)[rows, 0] = (
                values.view(numpy.uint8).reshape(len(rows), -1).view(row)[:, 0]
            )
        return
    array[rows] = values
