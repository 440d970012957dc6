"""Gradients of rows that are read by number: what is read twice counts twice, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.backend import adding

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(20,), (4, 9), (100, 3), (3,)])
@pytest.mark.parametrize("lowest", [0, -5])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_each_reading_of_a_row_adds_to_its_gradient(
    shape: tuple[int, ...], lowest: int, kind: type
) -> None:
    index = RNG.integers(lowest, 5, shape)
    g = RNG.standard_normal((*shape, 6)).astype(kind)
    g[0] = -0.0
    table = nt.zeros(5, 6, dtype=nt.from_numpy(g).dtype, requires_grad=True)
    table[nt.from_numpy(index)].backward(nt.from_numpy(g))
    expected = np.zeros((5, 6), kind)
    np.add.at(expected, (index,), g)
    assert table.grad.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("often", [1, 3, 40, 400], ids=str)
@pytest.mark.parametrize("favourite", [0.0, 0.7], ids=["evenly", "one row most of all"])
def test_rows_that_are_read_many_times_add_in_their_order(often: int, favourite: float) -> None:
    index = RNG.integers(0, 30, 30 * often)
    index[RNG.random(index.size) < favourite] = 7
    g = RNG.standard_normal((index.size, 5)).astype("f")
    out, expected = np.zeros((30, 5), "f"), np.zeros((30, 5), "f")
    adding.at(np.add, out, (index,), g)
    np.add.at(expected, index, g)
    assert out.tobytes() == expected.tobytes()


R = np.random.default_rng(1)
KEYS: dict[str, tuple[tuple[int, ...], object]] = {
    "rows": ((30, 9), R.integers(0, 30, 200)),
    "rows of one element": ((30,), R.integers(0, 30, 200)),
    "short rows": ((30, 3), R.integers(0, 30, 200)),
    "very long rows": ((3, 5000), R.integers(0, 3, 20)),
    "rows from the end": ((30, 9), R.integers(-30, 0, 200)),
    "rows by a table": ((30, 9), R.integers(0, 30, (10, 20))),
    "few rows": ((30, 9), R.integers(0, 30, 3)),
    "columns": ((4, 30), (slice(None), R.integers(0, 30, 200))),
    "slices in the middle": ((4, 30, 9), (slice(None), R.integers(-30, 30, 50))),
    "elements": ((8, 30), (R.integers(0, 8, 200), R.integers(-30, 30, 200))),
    "elements that broadcast": ((8, 30), (np.arange(8)[:, None], R.integers(0, 30, (8, 20)))),
    "rows behind two numbers": ((4, 5, 9), (R.integers(0, 4, 99), R.integers(0, 5, 99))),
    "behind a slice": ((4, 5, 6, 9), (slice(None), R.integers(0, 5, 99), R.integers(0, 6, 99))),
    "a mask": ((30, 9), R.random(30) < 0.5),
    "a slice with a step": ((30, 9), (slice(0, 30, 2), R.integers(0, 9, 50))),
    "32 bits": ((30, 9), R.integers(0, 30, 200).astype(np.int32)),
    "one row only": ((30, 9), np.full(200, 7)),
    "nothing": ((30, 9), np.zeros(0, int)),
    "rows of nothing": ((30, 0), R.integers(0, 30, 200)),
}


@pytest.mark.parametrize("kind", ["f4", "f8", "i4", "i8", "i1", "f2", "c8", "?"])
@pytest.mark.parametrize("name", KEYS)
def test_what_is_done_at_places_has_the_bits_of_numpys_at(name: str, kind: str) -> None:
    shape, key = KEYS[name]
    array = (RNG.standard_normal(shape) * 5).astype(kind)
    values = np.asarray(RNG.standard_normal(array[key].shape) * 5).astype(kind)
    ufuncs = [np.add, np.multiply] if kind == "c8" else [np.add, np.maximum, np.multiply]
    for ufunc in ufuncs:
        for given in (values, values.dtype.type(3)):
            ours, theirs = array.copy(), array.copy()
            with np.errstate(all="ignore"):
                adding.at(ufunc, ours, key, given)
                ufunc.at(theirs, key, given)
            assert ours.tobytes() == theirs.tobytes(), ufunc
    ours, theirs = array.copy(), array.copy()
    adding.put(ours, key, values)
    theirs[key] = values
    assert ours.tobytes() == theirs.tobytes()


def test_memory_that_is_not_contiguous_is_added_to_where_it_lies() -> None:
    ours, theirs = np.zeros((9, 30), "f"), np.zeros((9, 30), "f")
    index, values = RNG.integers(0, 30, 200), RNG.standard_normal((200, 9)).astype("f")
    adding.at(np.add, ours.T, index, values)
    np.add.at(theirs.T, index, values)
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("place", [30, -31])
def test_a_place_outside_is_refused_before_anything_is_added(place: int) -> None:
    out = np.zeros((30, 9), np.float32)
    with pytest.raises(IndexError):
        adding.at(np.add, out, np.r_[np.arange(20), place], np.ones((21, 9), np.float32))
    assert not out.any()


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("reduce", ["sum", "mean", "amax", "prod"])
def test_an_expanded_index_gives_what_its_copy_gives(dim: int, reduce: str) -> None:
    nt.manual_seed(0)
    x, line = nt.randn(6, 7, 8), nt.randint(0, 6, (40,))
    shape = [40 if d == dim else n for d, n in enumerate(x.shape)]
    index = line.reshape([-1 if d == dim else 1 for d in range(3)]).expand(shape)
    source = nt.randn(shape)
    for whole in (True, False):
        ours = x.scatter_reduce(dim, index, source, reduce, include_self=whole)
        copied = x.scatter_reduce(dim, index.contiguous(), source, reduce, include_self=whole)
        assert nt.equal(ours, copied)
    assert nt.equal(x.gather(dim, index), x.gather(dim, index.contiguous()))
    assert nt.equal(x.scatter(dim, index, source), x.scatter(dim, index.contiguous(), source))
