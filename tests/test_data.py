"""Datasets, samplers and the loader: PyTorch's orders for a seed, its batches and its errors."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.utils import data

Make = Callable[[Any], Any]  # from nanotorch or torch to a loader or sampler


def lists(value: Any) -> Any:
    """Batches as nested lists, with the dtypes of their tensors."""
    if isinstance(value, dict):
        return {key: lists(entry) for key, entry in value.items()}
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return (str(value.dtype), value.tolist())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (type(value).__name__, [lists(entry) for entry in value])
    if isinstance(value, list | tuple):
        return [type(value).__name__, [lists(entry) for entry in value]]
    return value


def rows(m: Any, count: int = 10) -> Any:
    """A dataset of (row, number) pairs."""
    return m.utils.data.TensorDataset(
        m.arange(2.0 * count).reshape(count, 2), m.arange(count), m.arange(count) / 7
    )


def numbered(m: Any, count: int = 10) -> Any:
    class Squares(m.utils.data.Dataset):  # type: ignore[misc, name-defined]
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> Any:
            return {
                "x": np.float32(index) ** 2,
                "name": f"item {index}",
                "pair": (index, 0.5 * index),
            }

    return Squares()


def stream(m: Any, count: int = 10) -> Any:
    class Stream(m.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[int]:
            return iter(range(count))

    return Stream()


def loader(m: Any, dataset: Any, **options: Any) -> Any:
    return m.utils.data.DataLoader(dataset, **options)


LOADERS: dict[str, Make] = {
    "one by one": lambda m: loader(m, rows(m)),
    "in order": lambda m: loader(m, rows(m), batch_size=4),
    "drop last": lambda m: loader(m, rows(m), batch_size=4, drop_last=True),
    "shuffled": lambda m: loader(m, rows(m), batch_size=4, shuffle=True),
    "shuffled, whole batches": lambda m: loader(m, rows(m), batch_size=5, shuffle=True),
    "shuffled, drop last": lambda m: loader(m, rows(m), batch_size=4, shuffle=True, drop_last=True),
    "one batch": lambda m: loader(m, rows(m), batch_size=99, shuffle=True),
    "own generator": lambda m: loader(
        m, rows(m), batch_size=4, shuffle=True, generator=m.Generator().manual_seed(5)
    ),
    "generator, in order": lambda m: loader(
        m, rows(m), batch_size=4, generator=m.Generator().manual_seed(5)
    ),
    "no batches": lambda m: loader(m, rows(m), batch_size=None, shuffle=True),
    "own dataset": lambda m: loader(m, numbered(m), batch_size=3, shuffle=True),
    "a list": lambda m: loader(m, [1, 2, 3, 4, 5], batch_size=2, shuffle=True),
    "own collate": lambda m: loader(m, rows(m), batch_size=4, shuffle=True, collate_fn=len),
    "subset": lambda m: loader(
        m, m.utils.data.Subset(rows(m), [8, 1, 5, 3]), batch_size=3, shuffle=True
    ),
    "split": lambda m: loader(
        m, m.utils.data.random_split(rows(m), [0.75, 0.25])[0], batch_size=3, shuffle=True
    ),
    "concatenated": lambda m: loader(m, rows(m, 3) + rows(m, 4), batch_size=3, shuffle=True),
    "weighted": lambda m: loader(
        m, rows(m), batch_size=3, sampler=m.utils.data.WeightedRandomSampler([0.1, 0.9, 0.4], 8)
    ),
    "subset sampler": lambda m: loader(
        m, rows(m), batch_size=2, sampler=m.utils.data.SubsetRandomSampler([3, 1, 4, 5])
    ),
    "with replacement": lambda m: loader(
        m,
        rows(m),
        batch_size=16,
        sampler=m.utils.data.RandomSampler(rows(m), replacement=True, num_samples=70),
    ),
    "more than all": lambda m: loader(
        m, rows(m), batch_size=4, sampler=m.utils.data.RandomSampler(rows(m), num_samples=23)
    ),
    "batch sampler": lambda m: loader(m, rows(m), batch_sampler=[[0, 3], [9, 9, 9], [1]]),
    "stream": lambda m: loader(m, stream(m), batch_size=4),
    "stream, drop last": lambda m: loader(m, stream(m), batch_size=4, drop_last=True),
    "stream, one by one": lambda m: loader(m, stream(m), batch_size=None),
    "chained streams": lambda m: loader(m, stream(m, 3) + stream(m, 2), batch_size=4),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", LOADERS)
def test_batches_and_their_order_are_pytorchs_over_three_epochs(name: str) -> None:
    torch = pytest.importorskip("torch")

    def epochs(m: Any) -> list[Any]:
        m.manual_seed(7)
        made = LOADERS[name](m)
        seen = [lists(list(made)) for _ in range(2)]
        next(iter(made))  # an epoch that is left early draws its seeds all the same
        return [*seen, lists(list(made)), m.rand(2).tolist()]

    assert epochs(nt) == epochs(torch)


@pytest.mark.torch
@pytest.mark.parametrize("name", [n for n in LOADERS if not n.startswith(("stream", "chained"))])
def test_lengths_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    assert len(LOADERS[name](nt)) == len(LOADERS[name](torch))


def test_a_tensor_dataset_is_batched_by_gathers_alone() -> None:
    class Unread(data.TensorDataset):
        pass

    dataset = data.TensorDataset(nt.arange(20.0).reshape(10, 2), nt.arange(10))
    dataset.__class__.__getitem__, kept = None, dataset.__class__.__getitem__  # type: ignore[assignment]
    try:
        batches = list(data.DataLoader(dataset, batch_size=4, shuffle=True))
        subset = list(data.DataLoader(data.Subset(dataset, [3, 4, 5]), batch_size=2))
    finally:
        data.TensorDataset.__getitem__ = kept  # type: ignore[method-assign]
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert [y.tolist() for _, y in subset] == [[3, 4], [5]]
    # and a subclass with its own __getitem__ is asked for each item
    assert [y.tolist() for _, y in data.DataLoader(Unread(nt.ones(2, 1), nt.arange(2)))] == [
        [0],
        [1],
    ]


def test_a_batch_is_a_copy() -> None:
    x = nt.zeros(4, 2)
    for (batch,) in data.DataLoader(data.TensorDataset(x), batch_size=4):
        batch.fill_(7)
    assert x.sum().item() == 0


Point = namedtuple("Point", ["x", "y"])

COLLATED: dict[str, Callable[[Any], list[Any]]] = {
    "tensors": lambda m: [m.tensor([1.0, 2.0]), m.tensor([3.0, 4.0])],
    "arrays": lambda m: [np.array([1, 2]), np.array([3, 4])],
    "array scalars": lambda m: [np.float64(1.5), np.float64(2.5)],
    "floats": lambda m: [0.5, 1.5],
    "ints": lambda m: [1, 2, 3],
    "bools": lambda m: [True, False],
    "strings": lambda m: ["a", "b"],
    "bytes": lambda m: [b"a", b"b"],
    "array strings": lambda m: [np.str_("a"), np.str_("b")],
    "numbers of both kinds": lambda m: [1, 2.5],
    "transposed tensors": lambda m: [m.arange(6).reshape(2, 3).t()] * 2,
    "tuples": lambda m: [(1, 0.5), (2, 1.5)],
    "lists": lambda m: [[1, "a"], [2, "b"]],
    "mappings": lambda m: [{"a": 1, "b": [1, 2]}, {"a": 2, "b": [3, 4]}],
    "named tuples": lambda m: [Point(1, (2.0, "s")), Point(3, (4.0, "t"))],
}


@pytest.mark.torch
@pytest.mark.parametrize("name", COLLATED)
def test_samples_are_collated_as_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours = data.default_collate(COLLATED[name](nt))
    theirs = torch.utils.data.default_collate(COLLATED[name](torch))
    assert lists(ours) == lists(theirs)


@pytest.mark.torch
def test_samples_that_are_not_batched_are_converted_as_pytorchs() -> None:
    torch = pytest.importorskip("torch")

    def items(m: Any) -> Any:
        values = [np.float64(1.5), np.array([1, 2]), {"a": np.arange(2), "b": "text"}, Point(1, 2)]
        return lists(list(loader(m, values, batch_size=None)))

    assert items(nt) == items(torch)


def test_collections_of_ones_own_keep_their_type() -> None:
    class Named(dict):  # type: ignore[type-arg]
        pass

    class Row(list):  # type: ignore[type-arg]
        pass

    assert type(data.default_collate([Named(a=1), Named(a=2)])) is Named
    assert type(data.default_collate([Row([1, 2]), Row([3, 4])])) is Row
    frozen = data.default_collate([MappingProxyType({"a": 1}), MappingProxyType({"a": 2})])
    assert frozen["a"].tolist() == [1, 2]


def test_batches_of_a_tensor_that_requires_grad_carry_gradients() -> None:
    x = nt.arange(4.0).requires_grad_()
    for (batch,) in data.DataLoader(data.TensorDataset(x), batch_size=3):
        (batch * batch).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 4.0, 6.0]


def test_a_list_of_numbers_asks_a_subset_for_all_at_once() -> None:
    subset = data.Subset(data.TensorDataset(nt.arange(5)), [4, 2, 0])
    assert subset[[0, 2]][0].tolist() == [4, 0]
    assert [row[0].item() for row in data.Subset(subset, [1, 2]).__getitems__([1, 0])] == [0, 2]


def test_a_split_by_lengths_or_fractions_is_disjoint_and_complete() -> None:
    for lengths in ([6, 4], [0.55, 0.3, 0.15], [1.0]):
        parts = data.random_split(
            range(11 if len(lengths) > 2 else 10), lengths, nt.Generator().manual_seed(1)
        )
        assert sorted(i for part in parts for i in part) == sorted(range(sum(map(len, parts))))
    with pytest.warns(UserWarning, match="index 1 is 0"):
        data.random_split(range(3), [0.99, 0.01])


def test_datasets_are_indexed_from_both_ends() -> None:
    both = data.ConcatDataset(
        [data.TensorDataset(nt.arange(3)), data.TensorDataset(nt.arange(2) + 10)]
    )
    assert [both[i][0].item() for i in (0, 2, 3, -1, -5)] == [0, 2, 10, 11, 0]
    assert len(both) == 5
    with pytest.raises(IndexError, match="index 5"):
        both[5]
    with pytest.raises(ValueError, match="index -6"):
        both[-6]


def sampler_of(**options: Any) -> Callable[[], Any]:
    return lambda: data.DataLoader(data.TensorDataset(nt.ones(3)), **options)


ERRORS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("batch size", sampler_of(batch_size=0), ValueError, "positive integer.*0"),
    ("a float batch size", sampler_of(batch_size=2.0), ValueError, "positive integer"),
    ("sampler and shuffle", sampler_of(sampler=[1], shuffle=True), ValueError, "exclusive"),
    ("batch sampler", sampler_of(batch_sampler=[[1]], batch_size=3), ValueError, "exclusive"),
    ("drop_last", sampler_of(batch_size=None, drop_last=True), ValueError, "drop_last"),
    ("timeout", sampler_of(timeout=-1), ValueError, "timeout"),
    ("shuffled stream", lambda: data.DataLoader(stream(nt), shuffle=True), ValueError, "shuffled"),
    ("sampled stream", lambda: data.DataLoader(stream(nt), sampler=[1]), ValueError, "sampler"),
    (
        "sizes",
        lambda: data.TensorDataset(nt.ones(2), nt.ones(3)),
        AssertionError,
        r"first sizes \[2, 3\]",
    ),
    ("no tensors", lambda: data.TensorDataset(), ValueError, "at least one"),
    ("nothing to concatenate", lambda: data.ConcatDataset([]), AssertionError, "empty"),
    ("a stream", lambda: data.ConcatDataset([stream(nt)]), AssertionError, "IterableDataset"),
    ("no stream", lambda: len(data.ChainDataset([rows(nt)])), AssertionError, "IterableDataset"),
    ("lengths", lambda: data.random_split(range(5), [2, 2]), ValueError, "do not sum to 5"),
    ("fractions", lambda: data.random_split(range(5), [1.5, -0.5]), ValueError, "index 0"),
    ("samples", lambda: data.RandomSampler(range(5), num_samples=0), ValueError, "num_samples=0"),
    ("replacement", lambda: data.RandomSampler(range(5), 1), TypeError, "boolean"),  # type: ignore[arg-type]
    ("weights", lambda: data.WeightedRandomSampler([[1.0]], 1), ValueError, r"\(1, 1\)"),  # type: ignore[list-item]
    ("drawn", lambda: data.WeightedRandomSampler([1.0], True), ValueError, "positive integer"),
    ("batches", lambda: data.BatchSampler(range(3), 2, 1), ValueError, "drop_last"),  # type: ignore[arg-type]
    ("objects", lambda: data.default_collate([object()]), TypeError, "object"),
    ("text arrays", lambda: data.default_collate([np.array(["a"])]), TypeError, "found <U1"),
    ("ragged", lambda: data.default_collate([[1], [1, 2]]), RuntimeError, r"sizes \[1, 2\]"),
    ("no __getitem__", lambda: data.Dataset()[0], NotImplementedError, "__getitem__"),
    ("no __iter__", lambda: iter(data.IterableDataset()), NotImplementedError, "__iter__"),
    ("no sampler", lambda: iter(data.Sampler()), NotImplementedError, "__iter__"),
]


@pytest.mark.parametrize(
    "make, error, message", [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_what_makes_no_sense_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
