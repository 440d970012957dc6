"""From the numbers of a batch to the batch, in the calling process and in workers alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy

from nanotorch.utils.data.collate import default_collate
from nanotorch.utils.data.dataset import IterableDataset, Subset, TensorDataset


def fetcher(
    dataset: Any, collate_fn: Callable[[Any], Any], batched: bool, drop_last: bool
) -> Callable[[Any], Any]:
    """A function from the numbers of the items to their batch, or from one number to its item.

    An IterableDataset is asked for the next items instead: the function takes how many, and raises
    StopIteration where there are no more.
    """
    if isinstance(dataset, IterableDataset):
        items = iter(dataset)
        if not batched:
            return lambda _: collate_fn(next(items))

        def next_items(count: int) -> Any:
            samples = list(islice(items, count))
            if not samples or (drop_last and len(samples) < count):
                raise StopIteration
            return collate_fn(samples)

        return next_items
    if not batched:
        return lambda index: collate_fn(dataset[index])
    if gathers(dataset, collate_fn):
        if type(dataset) is TensorDataset:
            return lambda numbers: dataset.gather(numpy.asarray(numbers, dtype=numpy.int64))
        rows, tensors = numpy.asarray(dataset.indices, dtype=numpy.int64), dataset.dataset
        return lambda numbers: tensors.gather(rows[numbers])
    many = getattr(dataset, "__getitems__", None)
    if callable(many):
        return lambda numbers: collate_fn(many(numbers))
    return lambda numbers: collate_fn([dataset[number] for number in numbers])


def gathers(dataset: Any, collate_fn: Callable[[Any], Any]) -> bool:
    """Whether a batch is one gather per tensor, without a loop over items."""
    whole = dataset.dataset if type(dataset) is Subset else dataset
    return type(whole) is TensorDataset and collate_fn is default_collate
