"""How tensors are stored: all their elements, or a few of their rows (`row_sparse`)."""

from __future__ import annotations

import numpy

from nanotorch.backend.devices import MODULES, Array, device_of


class layout:  # noqa: N801 - PyTorch's name
    """How a tensor is stored: `strided`, all its elements, or `sparse_coo`, a few of its rows."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> str:
        return self.name


strided, sparse_coo = layout("strided"), layout("sparse_coo")


def is_sparse(array: Array) -> bool:
    """Whether an array is row-sparse (`backend.row_sparse`), which no module but NumPy's is."""
    return type(array) is not numpy.ndarray and MODULES.get(type(array)) is numpy


def stored(array: Array) -> Array:
    """The elements that an array stores, in its own memory: of a row-sparse one the values of its
    rows, each of which is summed up first."""
    if not is_sparse(array):
        return array
    array.become(array.coalesced())
    return array.values


def dense(array: Array) -> Array:
    """A row-sparse array with all its rows; any other as it is."""
    return array.to_dense() if is_sparse(array) else array


def layout_of(array: Array) -> layout:
    """How an array is stored."""
    return sparse_coo if is_sparse(array) else strided


def check_apart(array: Array) -> None:
    """Refuses to write to an array in which several elements are one and the same in memory."""
    strides = getattr(array, "strides", ())
    if 0 in strides and array.size and any(n > 1 and not s for n, s in zip(array.shape, strides)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a "
            "single memory location, as in an expanded one; clone() it before it is written to"
        )


def as_numpy(array: Array) -> Array:
    """The array itself; TypeError, with what to do, where NumPy has no such arrays."""
    if is_sparse(array):
        raise TypeError("can't convert Sparse layout tensor to numpy. Use Tensor.to_dense() first.")
    if not isinstance(array, numpy.ndarray):
        raise TypeError(
            f"can't convert {device_of(array)} device type tensor to numpy. Use Tensor.cpu() to "
            "copy the tensor to host memory first."
        )
    if array.dtype.char == "E":  # which NumPy does not know
        raise TypeError("Got unsupported ScalarType BFloat16")
    return array
