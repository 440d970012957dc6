"""Runs of elementwise calls on large arrays: one pass, piece by piece, with the bits of eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.compile import chains
from nanotorch.compile.program import Program

F = nn.functional


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of these tests are large enough, in pieces of a kilobyte, in memory that is NaN."""
    monkeypatch.setattr(chains, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(chains, "PIECE", 1024)
    monkeypatch.setattr(Program, "poisoned", True)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = nt.get_num_threads()
    nt.set_num_threads(request.param)
    yield
    nt.set_num_threads(before)


def drawn(*shape: int, seed: int = 0, dtype: str = "f") -> nt.Tensor:
    return nt.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


# Losses of x and a parameter w of the same shape: (3001,), and what else is said.
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "mean of a square": lambda x, w: (nt.tanh(x * w) + x).square().mean(),
    "sums of sums": lambda x, w: (x * w).mean() * w.tanh().sum() + (w * 2).mean(),
    "sums that keep dimensions": lambda x, w: (
        ((w * x).sum(tuple(range(w.ndim)), keepdim=True) * w.tanh()).mean() + w.var()
    ),
    "a sum in between": lambda x, w: ((w - w.mean()) * x).exp().sum(),
    "a branch on a value": lambda x, w: F.binary_cross_entropy_with_logits(x * w, (x > 0) * 1.0),
    "masks": lambda x, w: (nt.where(x > 0, w, x * w) + F.relu(w) + F.gelu(w * x)).sum(),
    "masks that are read again": lambda x, w: (F.relu(w) * (w > 0).sum() + (w > 0) * x).sum(),
    "other dtypes": lambda x, w: ((w.double() * 3).sin().float() * x).mean(),
    "the same views": lambda x, w: (w.view(-1).tanh() * x.view(-1)).sum(),
    "shifted views": lambda x, w: ((w[1:] * x[:-1]).tanh() * w[:-1].exp()).sum(),
    "columns": lambda x, w: (x * w * x.narrow(-1, 0, 1) + w.exp()).mean(),
}  # fmt: skip


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("shape", [(3001,), (50, 61)], ids=str)
@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_step_has_the_bits_of_eager(
    name: str, dtype: str, shape: Any, pure: bool, threads: None
) -> None:
    results = []
    for compiled in (False, True):
        x, w = drawn(*shape, dtype=dtype), drawn(*shape, seed=1, dtype=dtype).requires_grad_()
        optimizer = optim.SGD([w], lr=0.01)

        def step(x: Any = x, w: Any = w, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = LOSSES[name](x, w)
            loss.backward()
            optimizer.step()
            return loss

        run = nt.compile(step, pure=pure) if compiled else step
        losses = [run()._array.tobytes() for _ in range(5)]
        results.append((losses, w.grad._array.tobytes(), w._array.tobytes()))
        if compiled and pure:
            assert "one pass over" in str(run.plan())
    assert results[0] == results[1]


def test_what_is_given_back_is_the_caller_s_own() -> None:
    @nt.compile(pure=True)
    def step(x: nt.Tensor) -> tuple[nt.Tensor, nt.Tensor]:
        y = (x * 2).exp()
        return y, (y + 1).log()

    for seed in range(3):
        x = drawn(40, 60, seed=seed)
        given = x if seed < 2 else x.T.contiguous().T  # in another order
        y, z = step(given)
        assert nt.equal(y, (x * 2).exp()) and nt.equal(z, ((x * 2).exp() + 1).log())


def test_arrays_that_overlap_are_written_as_a_whole() -> None:
    def step(x: nt.Tensor) -> nt.Tensor:
        with nt.no_grad():
            y = x * 1.5
            y[1:] *= y[:-1] + 1
            y[:-1] += y[1:]
        return y * 2

    run = nt.compile(step, pure=True)
    x = drawn(3001)
    for _ in range(3):
        assert nt.equal(run(x), step(x))


def test_a_pass_is_one_call_with_its_kernels_below() -> None:
    @nt.compile(pure=True)
    def step(x: nt.Tensor) -> nt.Tensor:
        return (x.exp() * x).mean()

    step(drawn(3001))
    plan = step.explain(drawn(3001))
    assert plan.calls[0].kernel == "one pass over 3,001 elements, 193 at a time"
    assert plan.tiled == ["exp", "mul", "mean"]
    assert f"{plan.calls[0].kernel} (3001,)\n{' ' * 40}exp\n" in str(plan)
    assert plan.seconds[0] is not None


@pytest.mark.parametrize("kind", ["f", "d"])
@pytest.mark.parametrize("size", [128, 129, 1000, 4096, 20011, 250_001])
def test_sums_of_pieces_have_the_bits_of_numpy_s_sum(kind: str, size: int) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(kind)
    assert chains.splits_as_known(kind)
    for most in (1, 300, 70_000):
        tree = chains.halves(0, size, most)
        pieces = chains.leaves(tree)
        assert [*pieces[0], *(high for _, high in pieces[1:])][-1] == size
        parts = iter([np.add.reduce(x[low:high]) for low, high in pieces])
        assert chains.total_of(tree, parts) == np.add.reduce(x)


def test_small_arrays_are_left_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    @nt.compile(pure=True)
    def step(x: nt.Tensor) -> nt.Tensor:
        return (x.exp() * x).mean()

    step(drawn(3001))
    assert "one pass" not in str(step.plan())
