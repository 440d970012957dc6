"""`testing.assert_close`: what passes, and the words for what does not, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import nanotorch as nt

pytestmark = pytest.mark.ring("spellings")

nan, inf = float("nan"), float("inf")
Pair = Callable[[Any], tuple[Any, ...]]
CLOSE: list[Pair] = [
    lambda lib: (lib.ones(2), lib.ones(2) * (1 + 1e-6)),
    lambda lib: (lib.tensor([1.0, inf]), lib.tensor([1.0, inf])),
    lambda lib: (lib.ones(2), lib.ones(2) * 1.1, {"rtol": 0.2, "atol": 0}),
    lambda lib: (lib.tensor([nan]), lib.tensor([nan]), {"equal_nan": True}),
    lambda lib: (lib.ones(2), lib.ones(2).double(), {"check_dtype": False}),
    lambda lib: ({"a": [lib.ones(1), 2]}, {"a": (lib.ones(1), 2)}),
    lambda lib: (1, 1.0, {"check_dtype": False}),
    lambda lib: (lib.zeros(0), lib.zeros(0)),
    lambda lib: (lib.ones(2, requires_grad=True), lib.ones(2)),
]
DIFFERENT: list[Pair] = [
    lambda lib: (lib.tensor([1.0, 2, 3]), lib.tensor([1.0, 2.5, 3])),
    lambda lib: (lib.tensor([[1.0, 2], [3, 4]]), lib.tensor([[1.0, 2.5], [3, 5]])),
    lambda lib: (lib.tensor([1, 2]), lib.tensor([1, 3])),
    lambda lib: (lib.tensor([True]), lib.tensor([False])),
    lambda lib: (lib.ones(2), lib.ones(3)),
    lambda lib: (lib.ones(2), lib.ones(2).double()),
    lambda lib: (lib.ones(2, 3), lib.ones(3, 2).t(), {"check_stride": True}),
    lambda lib: (lib.tensor([nan]), lib.tensor([nan])),
    lambda lib: (lib.tensor([1.0, inf]), lib.tensor([1.0, 2.0])),
    lambda lib: (lib.ones(2), lib.zeros(2), {"rtol": 0.2, "atol": 0}),
    lambda lib: (1.0, 2.0),
    lambda lib: (1, 2),
    lambda lib: (1, 1.0),
    lambda lib: ([lib.ones(1)], [lib.zeros(1)]),
    lambda lib: ({"a": [1, lib.ones(1)]}, {"a": [1, lib.zeros(1)]}),
    lambda lib: ({"a": 1}, {"b": 1}),
    lambda lib: ([1], [1, 2]),
    lambda lib: (lib.ones(1), lib.zeros(1), {"msg": "mine"}),
    lambda lib: (lib.ones(1), lib.zeros(1), {"msg": lambda text: "mine: " + text}),
]


def outcome(lib: Any, pair: Pair) -> str:
    actual, expected, *options = pair(lib)
    try:
        lib.testing.assert_close(actual, expected, **(options[0] if options else {}))
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", range(len(CLOSE)))
def test_what_is_close_passes(number: int) -> None:
    assert outcome(nt, CLOSE[number]) == ""


@pytest.mark.parametrize("number", range(len(DIFFERENT)))
def test_what_is_not_close_is_told(number: int) -> None:
    assert outcome(nt, DIFFERENT[number]) != ""


@pytest.mark.torch
@pytest.mark.parametrize("number", range(len(DIFFERENT)))
def test_it_is_told_in_pytorchs_words(number: int) -> None:
    torch = pytest.importorskip("torch")
    assert outcome(nt, DIFFERENT[number]) == outcome(torch, DIFFERENT[number])


def test_the_place_of_the_greatest_difference_is_named() -> None:
    with pytest.raises(
        AssertionError, match=r"absolute difference: 1\.0 at index \(1, 1\) \(up to"
    ):
        nt.testing.assert_close(nt.tensor([[1.0, 2], [3, 4]]), nt.tensor([[1.0, 2.5], [3, 5]]))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(TypeError, match="No comparison pair was able to handle inputs of type"):
        nt.testing.assert_close(nt.ones(2), [1.0, 1.0])
    with pytest.raises(ValueError, match="must be either specified or omitted, but got no atol"):
        nt.testing.assert_close(nt.ones(2), nt.ones(2), rtol=0.1)
