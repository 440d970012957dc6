"""The methods that hand-written optimizers use: scaled updates of a tensor in its own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import nanotorch as nt

UPDATES: dict[str, Callable[[Any, Any], Any]] = {
    "add_": lambda y, x: y.add_(x),
    "add_ scaled": lambda y, x: y.add_(x, alpha=-0.5),
    "add_ a number": lambda y, x: y.add_(3, alpha=2),
    "sub_ scaled": lambda y, x: y.sub_(x, alpha=2),
    "addcmul_": lambda y, x: y.addcmul_(x, x + 1, value=0.5),
    "addcdiv_": lambda y, x: y.addcdiv_(x, x + 1, value=-2),
    "lerp_": lambda y, x: y.lerp_(x, 0.25),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", UPDATES)
def test_values_and_gradients_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")

    def run(m: Any) -> tuple[list[float], list[float]]:
        x = m.tensor([1.0, 2.0, -3.5], requires_grad=True)
        y = x * 2
        assert UPDATES[name](y, x) is y
        (y * y).sum().backward()
        return y.tolist(), x.grad.tolist()

    for ours, theirs in zip(run(nt), run(torch)):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_integers_stay_integers() -> None:
    counts = nt.arange(3)
    assert counts.add_(2, alpha=3).tolist() == [6, 7, 8]
    assert counts.dtype is nt.int64
