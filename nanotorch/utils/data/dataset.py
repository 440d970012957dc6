"""Datasets: what can be asked for an item by number, or be iterated."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy

from nanotorch.backend import Array, on_device_of, to_device
from nanotorch.random import Generator, randperm
from nanotorch.tensor import Tensor

Item = TypeVar("Item", covariant=True)
Other = TypeVar("Other")


class Dataset(Generic[Item]):
    """Items by number: a subclass defines `__getitem__(index)` and, for samplers, `__len__()`."""

    def __getitem__(self, index: Any) -> Item:
        raise NotImplementedError(f"{type(self).__name__} does not define __getitem__")

    def __add__(self, other: Dataset[Any]) -> Dataset[Any]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[Item]):
    """Items in their own order: a subclass defines `__iter__()`."""

    def __iter__(self) -> Iterator[Item]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__")

    def __add__(self, other: Dataset[Any]) -> ChainDataset:
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Item i is row i of each tensor; all have the same first size.

    AssertionError where the first sizes differ.
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ValueError("TensorDataset: expected at least one tensor")
        sizes = [tensor.shape[0] for tensor in tensors]
        if any(size != sizes[0] for size in sizes):
            raise AssertionError(f"Size mismatch between tensors: first sizes {sizes}")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def gather(self, indices: Array) -> list[Tensor]:
        """The rows with the numbers in a host array, stacked: one gather per tensor."""
        batch = []
        for tensor in self.tensors:
            array, rows = tensor._array, indices
            if type(array) is not numpy.ndarray:
                rows = to_device(indices, tensor.device)
            if tensor.requires_grad:
                batch.append(tensor[Tensor._wrap(rows)])
            else:
                with on_device_of(array):
                    batch.append(Tensor._wrap(array.take(rows, axis=0)))
        return batch


class ConcatDataset(Dataset[Item]):
    """The items of several datasets, one after another."""

    def __init__(self, datasets: Iterable[Dataset[Item]]) -> None:
        self.datasets: list[Any] = list(datasets)
        if not self.datasets:
            raise AssertionError("datasets should not be an empty iterable")
        if any(isinstance(dataset, IterableDataset) for dataset in self.datasets):
            raise AssertionError("ConcatDataset does not support IterableDataset")
        self.cumulative_sizes = list(accumulate(len(dataset) for dataset in self.datasets))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Item:
        if index < 0:
            if -index > len(self):
                raise ValueError(
                    f"index {index} is out of range for a dataset of length {len(self)}"
                )
            index += len(self)
        number = bisect_right(self.cumulative_sizes, index)
        if number == len(self.datasets):
            raise IndexError(f"index {index} is out of range for a dataset of length {len(self)}")
        before = self.cumulative_sizes[number - 1] if number else 0
        return self.datasets[number][index - before]  # type: ignore[no-any-return]


class ChainDataset(IterableDataset[Any]):
    """The items of several iterable datasets, one after another."""

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = datasets

    def _checked(self) -> Iterator[Any]:
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise AssertionError("ChainDataset only supports IterableDataset")
            yield dataset

    def __iter__(self) -> Iterator[Any]:
        for dataset in self._checked():
            yield from dataset

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self._checked())


class Subset(Dataset[Item]):
    """The items of a dataset whose numbers are listed, in that order."""

    def __init__(self, dataset: Dataset[Item], indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> Item:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        chosen = [self.indices[i] for i in indices]
        fetch = getattr(self.dataset, "__getitems__", None)
        return fetch(chosen) if callable(fetch) else [self.dataset[i] for i in chosen]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Dataset[Other],
    lengths: Sequence[int | float],
    generator: Generator | None = None,
) -> list[Subset[Other]]:
    """Random, disjoint subsets of the given lengths, or of the given fractions that sum to 1.

    With fractions, what rounding down leaves over goes to the first subsets, one item each.
    ValueError where the lengths do not sum to the dataset's, or a fraction is outside [0, 1].
    """
    total = len(dataset)  # type: ignore[arg-type]
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        for index, fraction in enumerate(lengths):
            if not 0 <= fraction <= 1:
                raise ValueError(f"Fraction at index {index} is not between 0 and 1: {fraction}")
        sizes = [math.floor(total * fraction) for fraction in lengths]
        for extra in range(total - sum(sizes)):
            sizes[extra % len(sizes)] += 1
        for index, size in enumerate(sizes):
            if size == 0:
                warnings.warn(
                    f"Length of split at index {index} is 0, which gives an empty dataset",
                    stacklevel=2,
                )
    else:
        sizes = list(lengths)  # type: ignore[arg-type]
    if sum(sizes) != total:
        raise ValueError(
            f"random_split: lengths {list(lengths)} do not sum to {total}, the dataset's"
        )
    indices = randperm(total, generator=generator, device="cpu").tolist()
    return [
        Subset(dataset, indices[end - size : end]) for end, size in zip(accumulate(sizes), sizes)
    ]
