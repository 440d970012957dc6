"""DataLoader: batches of a dataset, in the order of a sampler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Generic, TypeVar, overload

from nanotorch.backend import cuda_unavailable_reason
from nanotorch.backend.loading import when_called
from nanotorch.random import Generator
from nanotorch.tensor import Tensor
from nanotorch.utils.data.collate import default_collate, default_convert
from nanotorch.utils.data.dataset import Dataset, IterableDataset
from nanotorch.utils.data.fetching import fetcher, gathers
from nanotorch.utils.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    check_count,
    draw_seed,
)

Item = TypeVar("Item", covariant=True)
# The processes load when a loader first has some.
context_of = when_called("nanotorch.utils.data.workers", "context_of")
start_workers = when_called("nanotorch.utils.data.workers", "start_workers")
FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")


class DataLoader(Generic[Item]):
    """Iterates over a dataset in batches; each `iter()` is one pass.

    `shuffle` visits the items in a new random order each pass (with `generator`, or the default
    one), `sampler` and `batch_sampler` say the order themselves, `drop_last` leaves out a last
    batch that is not full, `collate_fn` joins the samples of a batch (default `default_collate`).
    `batch_size=None` yields the samples one by one. The order for a seed is PyTorch's. A
    TensorDataset (or a Subset of one) under the default collate is batched by one gather per
    tensor. With `pin_memory` the tensors of a batch lie where a GPU copies them from beside
    computing (UserWarning without one).

    `num_workers` processes make the batches, each up to `prefetch_factor` ahead (default 2), in the
    same order, or with `in_order=False` as they are done. Each calls `worker_init_fn(number)`
    first, and its random numbers start at a seed of this pass plus its number. They end with the
    pass, or with the loader where `persistent_workers`. `multiprocessing_context` says how they
    start ("fork", "spawn", "forkserver"), `timeout` how many seconds to wait for a batch (0: any).
    Workers have no CUDA. An exception in one is raised here, with its traceback as the message.
    Source: https://docs.pytorch.org/docs/stable/data.html

    ValueError for options that exclude each other, and a batch size below 1; RuntimeError for a
    worker that ends before its work, or that is late.
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
        for option, number in (("num_workers", num_workers), ("timeout", timeout)):
            if number < 0:
                raise ValueError(f"DataLoader: {option} should be non-negative, got {number}")
        if prefetch_factor is not None:
            check_count("prefetch_factor", prefetch_factor)
        if num_workers == 0:
            for option, value in (
                *(("prefetch_factor", prefetch_factor), ("persistent_workers", persistent_workers)),
                ("multiprocessing_context", multiprocessing_context),
            ):
                if value not in (None, False):
                    raise ValueError(
                        f"DataLoader: {option} needs num_workers > 0, got {option}={value!r} with "
                        "num_workers=0"
                    )
        self.dataset: Any = dataset
        self.num_workers, self.pin_memory, self.timeout = num_workers, pin_memory, timeout
        self.generator, self.worker_init_fn, self.in_order = generator, worker_init_fn, in_order
        self.persistent_workers, self.pin_memory_device = persistent_workers, pin_memory_device
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.multiprocessing_context: Any = None
        self._workers: Any = None  # with persistent_workers, from one pass to the next
        self._announced: int | None = None
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
        self._batched = batch_size is not None or batch_sampler is not None
        if collate_fn is None:
            collate_fn = default_collate if self._batched else default_convert
        self.collate_fn: Callable[[Any], Any] = collate_fn
        if num_workers:
            self.multiprocessing_context = context_of(multiprocessing_context)
            cores = (
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            )
            if num_workers > (cores or 1):
                warnings.warn(
                    f"This DataLoader will create {num_workers} worker processes in total, more "
                    f"than the {cores} cores that this process may use: batches may come slower",
                    stacklevel=2,
                )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED and name in self.__dict__:
            raise ValueError(f"{name} attribute should not be set after DataLoader is initialized")
        super().__setattr__(name, value)

    @overload
    def __iter__(self: DataLoader[tuple[Tensor, ...]]) -> Iterator[list[Tensor]]: ...
    @overload
    def __iter__(self) -> Iterator[Any]: ...
    def __iter__(self) -> Iterator[Any]:
        indices = self._indices()
        workers = self._workers
        if workers is not None and workers.alive:
            workers.begin(indices)
            batches: Iterator[Any] = workers
        else:
            # PyTorch draws a seed for its workers at the start of a pass, workers or not.
            seed = draw_seed(self.generator)
            options = (self.dataset, self.collate_fn, self._batched, self.drop_last)
            if self.num_workers == 0:
                batches = map(fetcher(*options), indices)
            else:
                batches = workers = start_workers(self, options, seed)
                workers.begin(self._indices())  # asked for a second time, as PyTorch does
                self._workers = workers if self.persistent_workers else None
        if self._announced is not None:
            batches = self._counted(batches, self._announced)
        if self.pin_memory:
            if cuda_unavailable_reason() is None:
                return map(pinned, batches)
            warnings.warn(
                "DataLoader: pin_memory=True has no effect, since there is no GPU to copy to",
                stacklevel=2,
            )
        return batches

    def _indices(self) -> Iterator[Any]:
        """The numbers of each batch; for an IterableDataset how many items it has."""
        if self._iterable:
            return repeat(self.batch_size)
        sampler = self.batch_sampler
        if type(sampler) is BatchSampler and gathers(self.dataset, self.collate_fn):
            return sampler.arrays()
        return iter(self.sampler if sampler is None else sampler)  # type: ignore[arg-type]

    def _counted(self, batches: Iterator[Any], announced: int) -> Iterator[Any]:
        """The batches, and a warning where there are more than `len` has said."""
        for count, batch in enumerate(batches, 1):
            if count > announced:
                warnings.warn(
                    f"Length of IterableDataset {self.dataset} was reported to be {announced}, but "
                    f"{count} batches have been fetched"
                    + ("; each worker must yield its own share" if self.num_workers else ""),
                    stacklevel=2,
                )
            yield batch

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type]
        if not self._iterable:
            return len(self.sampler)  # type: ignore[arg-type]
        total = self._announced = len(self.dataset)
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
