"""The memory that a NumPy array shows: what copies of several arrays need, so as to share one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from nanotorch.backend.layouts import is_sparse

Array = Any


class Place(NamedTuple):
    """Where an array lies in the memory of another: bytes from its beginning, and its form."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any


def memory_of(array: Array) -> Array:
    """The array that owns all memory of `array`; itself where that is no NumPy array's alone."""
    owner = array
    while type(owner.base) is numpy.ndarray:
        owner = owner.base
    in_one_piece = owner.flags.c_contiguous or owner.flags.f_contiguous
    return owner if type(array) is numpy.ndarray and owner.base is None and in_one_piece else array


def place_in(owner: Array, array: Array) -> Place:
    """Where an array lies in the memory of its owner."""
    offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return Place(offset, array.shape, array.strides, array.dtype)


def to_copy(array: Array, keeps_order: bool) -> tuple[Array, Place]:
    """What to copy in place of `array`, and where it lies there: all the memory that it shows, of
    which several arrays then share one copy, or else its elements alone.

    `keeps_order`: the copy will have the memory's own order of dimensions, which a pickle keeps of
    C's and Fortran's alone.
    """
    if is_sparse(array):
        return array, Place(0, array.shape, (), array.dtype)
    owner = memory_of(array)
    one_piece = owner.flags.c_contiguous or owner.flags.f_contiguous
    if not (one_piece or (keeps_order and owner.base is None)):
        owner = array = numpy.array(array, order="C")
    return owner, place_in(owner, array)


def shown(owner: Array, place: Place | tuple[Any, ...]) -> Array:
    """The array at a place in the memory of `owner`, a copy of the owner that it was found in."""
    if is_sparse(owner):
        return owner
    offset, shape, strides, dtype = place
    content = owner.ravel(order="K").view(numpy.uint8)
    return numpy.ndarray(shape, dtype, content, offset, strides)
