"""Samplers: the order in which items are visited. The orders for a seed are PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy

from nanotorch.backend import Array, dtype as Dtype
from nanotorch.creation import as_tensor, empty
from nanotorch.random import Generator, multinomial, randint, random_, randperm
from nanotorch.sampling import host_engine

Index = TypeVar("Index", covariant=True)


def draw_seed(generator: Generator | None = None) -> int:
    """A 63-bit number from the generator, or from the default one."""
    return int(random_(empty((), dtype=Dtype("int64"), device="cpu"), generator=generator).item())


def check_count(name: str, value: Any) -> None:
    """ValueError unless the value is a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name} should be a positive integer value, but got {name}={value}")


class Sampler(Generic[Index]):
    """Yields the numbers of items (or lists of them): a subclass defines `__iter__()`."""

    def __iter__(self) -> Iterator[Index]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, …"""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def pieces(self) -> Iterator[Array]:
        """The numbers of one pass, as one array."""
        yield numpy.arange(len(self.data_source))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """A random permutation, or with `replacement` independent draws; `num_samples` numbers.

    Without `generator`, each pass seeds one of its own from the default generator.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.data_source, self.replacement = data_source, replacement
        self._num_samples, self.generator = num_samples, generator
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement should be a boolean value, but got {replacement!r}")
        check_count("num_samples", self.num_samples)

    @property
    def num_samples(self) -> int:
        """How many numbers one pass yields."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def pieces(self) -> Iterator[Array]:
        """The numbers of one pass as arrays, each drawn when it is asked for."""
        total, generator = len(self.data_source), self.generator
        if generator is None:
            generator = Generator()
            generator.manual_seed(draw_seed())
        if self.replacement:
            for size in [32] * (self.num_samples // 32) + [self.num_samples % 32]:
                yield randint(0, total, (size,), generator=generator, device="cpu")._array
        else:
            for _ in range(self.num_samples // total):
                yield randperm(total, generator=generator, device="cpu")._array
            # PyTorch draws one more for the remainder, even where that is empty.
            rest = self.num_samples % total
            if rest:
                yield randperm(total, generator=generator, device="cpu")._array[:rest]
            else:
                host_engine(generator).pass_over_permutation(total)

    def __iter__(self) -> Iterator[int]:
        for piece in self.pieces():
            yield from piece.tolist()

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given numbers in random order."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices, self.generator = indices, generator

    def __iter__(self) -> Iterator[int]:
        for position in randperm(
            len(self.indices), generator=self.generator, device="cpu"
        ).tolist():
            yield self.indices[position]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """`num_samples` numbers, i with a probability proportional to weights[i].

    ValueError for a wrong count or weights that are not one-dimensional.
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        check_count("num_samples", num_samples)
        if not isinstance(replacement, bool):
            raise ValueError(f"replacement should be a boolean value, but got {replacement!r}")
        self.weights = as_tensor(weights, dtype=Dtype("float64"), device="cpu")
        if self.weights.ndim != 1:
            raise ValueError(
                f"weights should be a 1d sequence but have shape {tuple(self.weights.shape)}"
            )
        self.num_samples, self.replacement, self.generator = num_samples, replacement, generator

    def __iter__(self) -> Iterator[int]:
        drawn = multinomial(
            self.weights, self.num_samples, self.replacement, generator=self.generator
        )
        yield from drawn.tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of `batch_size` numbers of another sampler; the last may be shorter."""

    def __init__(
        self, sampler: Sampler[int] | Iterable[int], batch_size: int, drop_last: bool
    ) -> None:
        check_count("batch_size", batch_size)
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last should be a boolean value, but got {drop_last!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        numbers = iter(self.sampler)
        while batch := list(islice(numbers, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch

    def arrays(self) -> Iterator[Array]:
        """The batches as arrays, without a loop over numbers where the sampler has `pieces`."""
        if type(self.sampler) not in (RandomSampler, SequentialSampler):
            for batch in self:
                yield numpy.asarray(batch)
            return
        held = numpy.zeros(0, dtype=numpy.int64)
        for piece in self.sampler.pieces():  # type: ignore[union-attr]
            held = numpy.concatenate([held, piece]) if held.size else piece
            for _ in range(held.size // self.batch_size):
                yield held[: self.batch_size]
                held = held[self.batch_size :]
        if held.size and not self.drop_last:
            yield held

    def __len__(self) -> int:
        total = len(self.sampler)  # type: ignore[arg-type]
        return total // self.batch_size if self.drop_last else -(-total // self.batch_size)
