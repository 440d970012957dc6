"""DataLoader: batches of a dataset, in the order of a sampler."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, overload

import numpy

from nanotorch.backend import cuda_unavailable_reason
from nanotorch.creation import as_tensor
from nanotorch.random import Generator
from nanotorch.tensor import Tensor
from nanotorch.utils.data.collate import default_collate
from nanotorch.utils.data.dataset import Dataset, IterableDataset, Subset, TensorDataset
from nanotorch.utils.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    check_count,
    draw_seed,
)

Item = TypeVar("Item", covariant=True)


class DataLoader(Generic[Item]):
    """Iterates over a dataset in batches; each `iter()` is one pass.

    `shuffle` visits the items in a new random order each pass (with `generator`, or the default
    one), `sampler` and `batch_sampler` say the order themselves, `drop_last` leaves out a last
    batch that is not full, `collate_fn` joins the samples of a batch (default `default_collate`).
    `batch_size=None` yields the samples one by one. The order for a seed is PyTorch's. A
    TensorDataset (or a Subset of one) under the default collate is batched by one gather per
    tensor. With `pin_memory` the tensors of a batch lie where a GPU copies them from beside
    computing (UserWarning without one). Items are loaded in the calling process: `num_workers` must
    be 0; `timeout`, `worker_init_fn`, `prefetch_factor` and `persistent_workers` have no effect.
    Source: https://docs.pytorch.org/docs/stable/data.html

    ValueError for options that exclude each other, a batch size below 1, or num_workers other than
    0.
    """

    def __init__(
        self,
        dataset: Dataset[Item] | Sequence[Any] | Iterable[Any],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[int] | Iterable[int] | None = None,
        batch_sampler: Sampler[list[int]] | Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers != 0:
            raise ValueError(
                f"DataLoader: num_workers must be 0, got {num_workers}; batches are made in the "
                "calling process, where one gather costs less than handing a batch over"
            )
        if timeout < 0:
            raise ValueError(f"DataLoader: timeout must not be negative, got {timeout}")
        self.dataset: Any = dataset
        self.num_workers, self.pin_memory, self.timeout = 0, pin_memory, timeout
        self.generator = generator
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable:
            for name, value in (("sampler", sampler), ("batch_sampler", batch_sampler)):
                if value is not None:
                    raise ValueError(f"DataLoader: an IterableDataset takes no {name}")
            if shuffle:
                raise ValueError(
                    "DataLoader: an IterableDataset cannot be shuffled, got shuffle=True"
                )
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with "
                    "batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None:
            if drop_last:
                raise ValueError(
                    "batch_size=None option disables auto-batching, so drop_last cannot be True"
                )
        else:
            check_count("batch_size", batch_size)
        items: Any = dataset
        if sampler is None and not self._iterable:
            sampler = (
                RandomSampler(items, generator=generator) if shuffle else SequentialSampler(items)
            )
        if batch_size is not None and not self._iterable:
            assert sampler is not None
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.batch_size, self.drop_last = batch_size, drop_last
        if collate_fn is None:
            batched = batch_size is not None or batch_sampler is not None
            collate_fn = default_collate if batched else default_convert
        self.collate_fn: Callable[[Any], Any] = collate_fn

    @overload
    def __iter__(self: DataLoader[tuple[Tensor, ...]]) -> Iterator[list[Tensor]]: ...
    @overload
    def __iter__(self) -> Iterator[Any]: ...
    def __iter__(self) -> Iterator[Any]:
        # PyTorch draws a seed for its workers at the start of each pass, workers or not.
        if self._iterable:
            batches = self._from_iterable(iter(self.dataset))
        elif self.batch_sampler is None:
            batches = (self.collate_fn(self.dataset[index]) for index in self.sampler or ())
        else:
            batches = self._gathered() or map(self._fetch, self.batch_sampler)
        draw_seed(self.generator)
        if self.pin_memory:
            if cuda_unavailable_reason() is None:
                return map(pinned, batches)
            warnings.warn(
                "DataLoader: pin_memory=True has no effect, since there is no GPU to copy to",
                stacklevel=2,
            )
        return batches

    def _from_iterable(self, items: Iterator[Any]) -> Iterator[Any]:
        if self.batch_size is None:
            yield from map(self.collate_fn, items)
            return
        while batch := list(islice(items, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield self.collate_fn(batch)

    def _gathered(self) -> Iterator[Any] | None:
        """Batches by one gather per tensor, without a loop over rows, or None if that is not it."""
        dataset: Any = self.dataset
        chosen = None
        if type(dataset) is Subset:
            dataset, chosen = dataset.dataset, numpy.asarray(dataset.indices, dtype=numpy.int64)
        if type(dataset) is not TensorDataset or self.collate_fn is not default_collate:
            return None
        sampler = self.batch_sampler
        batches = (
            sampler.arrays()
            if type(sampler) is BatchSampler
            else (numpy.asarray(batch, dtype=numpy.int64) for batch in sampler or ())
        )
        return (dataset.gather(b if chosen is None else chosen[b]) for b in batches)

    def _fetch(self, indices: Sequence[int]) -> Any:
        """One batch by asking the dataset for each item."""
        many = getattr(self.dataset, "__getitems__", None)
        return self.collate_fn(
            many(indices) if callable(many) else [self.dataset[index] for index in indices]
        )

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type]
        if not self._iterable:
            return len(self.sampler)  # type: ignore[arg-type]
        total = len(self.dataset)
        if self.batch_size is None:
            return total
        return total // self.batch_size if self.drop_last else -(-total // self.batch_size)


def pinned(item: Any) -> Any:
    """The tensors of the CPU in pinned memory, also within mappings and sequences."""
    if isinstance(item, Tensor):
        return item if item.is_cuda else item.pin_memory()
    if isinstance(item, dict):
        return {key: pinned(value) for key, value in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*map(pinned, item))
    if isinstance(item, list | tuple):
        return type(item)(map(pinned, item))
    return item


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
