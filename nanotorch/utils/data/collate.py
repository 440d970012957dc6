"""Making one batch of many samples."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy

from nanotorch.creation import as_tensor, tensor
from nanotorch.ops import stack
from nanotorch.tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """The samples of a batch, joined along a new first dimension.

    Tensors and NumPy arrays are stacked; Python numbers become a tensor (floats float64, ints
    int64); strings stay a list; mappings, named tuples and sequences are collated entry by entry
    (tuples become lists).

    TypeError for other types; RuntimeError for sequences of different lengths.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch), 0)
    if isinstance(first, numpy.ndarray):
        if first.dtype.kind in "SUO":
            raise _unknown(first.dtype)
        return stack([as_tensor(sample) for sample in batch], 0)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, numpy.generic):
        return as_tensor(numpy.array(batch))
    if isinstance(first, int):  # a bool is one, too
        array = numpy.array(batch)
        return as_tensor(array) if array.dtype.kind in "bi" else tensor(list(batch))
    if isinstance(first, float):
        return as_tensor(numpy.array(batch, dtype=numpy.float64))
    if isinstance(first, Mapping):
        return _mapping(first, batch)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(samples) for samples in zip(*batch)))
    if isinstance(first, Sequence):
        return _sequence(first, batch)
    raise _unknown(type(first))


def _unknown(kind: Any) -> TypeError:
    return TypeError(
        "default_collate: expected tensors, numpy arrays, numbers, strings, dicts or lists, "
        f"found {kind}"
    )


def _mapping(first: Mapping[Any, Any], batch: Sequence[Any]) -> Any:
    values = {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, MutableMapping):
        joined = copy.copy(first)  # of the samples' own type
        joined.update(values)
        return joined
    return values


def _sequence(first: Sequence[Any], batch: Sequence[Any]) -> Any:
    sizes = {len(sample) for sample in batch}
    if len(sizes) > 1:
        raise RuntimeError(
            f"each element in list of batch should be of equal size, found sizes {sorted(sizes)}"
        )
    columns = [default_collate(samples) for samples in zip(*batch)]
    if isinstance(first, list) and type(first) is not list:
        joined = copy.copy(first)
        joined[:] = columns
        return joined
    return columns


def default_convert(item: Any) -> Any:
    """NumPy arrays and numbers as tensors, also within mappings and sequences."""
    if isinstance(item, numpy.ndarray | numpy.generic) and item.dtype.kind not in "SUO":
        return as_tensor(numpy.asarray(item))
    if isinstance(item, dict):
        return {key: default_convert(value) for key, value in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*map(default_convert, item))
    if isinstance(item, list | tuple):
        return [default_convert(value) for value in item]
    return item
