"""Gradients of rows that are read by number: what is read twice counts twice, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.ops.indexing import add_rows

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
    assert add_rows(out, (index,), g)
    np.add.at(expected, index, g)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        ((np.arange(40) % 7,), True),
        ((np.arange(40) - 20,), False),  # names rows from the end
        ((np.arange(40) + 30,), False),  # names rows that are not there
        ((np.arange(3),), False),
        ((slice(0, 40),), False),
    ],
)
def test_rows_are_written_at_once_where_they_are_named_from_the_front(
    key: tuple[object], taken: bool
) -> None:
    out = np.zeros((60, 2), np.float32)
    assert add_rows(out, key, np.ones((40, 2), np.float32)) is taken
    assert taken == bool(out.any())
