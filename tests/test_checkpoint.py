"""utils.checkpoint: the same gradients with less kept, by computing a part again in backward."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from collector import without_collector

import nanotorch
from nanotorch import nn
from nanotorch.autograd import grad
from nanotorch.autograd.graph import saved_tensors_hooks
from nanotorch.utils.checkpoint import CheckpointError, checkpoint, checkpoint_sequential


class Counted:
    """y = sin(x * w) ** 2, counting its calls"""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any, w: Any) -> Any:
        self.calls += 1
        return (x * w).sin() ** 2


def pair() -> tuple[Any, Any]:
    nanotorch.manual_seed(0)
    return tuple(nanotorch.randn(3, dtype=nanotorch.float64).requires_grad_() for _ in range(2))


def test_gradients_are_the_same_and_the_function_runs_twice() -> None:
    x, w = pair()
    plain, again = Counted(), Counted()
    expected = grad(plain(x, w).sum(), (x, w))
    found = grad(checkpoint(again, x, w).sum(), (x, w))
    assert all(nanotorch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (plain.calls, again.calls) == (1, 2)


def test_nothing_of_the_part_is_kept() -> None:
    x, w = pair()
    kept: list[int] = []

    def note(value: Any) -> Any:
        kept.append(value.numel())
        return value

    def deep(x: Any, w: Any) -> Any:
        for _ in range(50):
            x = (x * w).sin()
        return x

    with saved_tensors_hooks(note, lambda value: value):
        deep(x, w)
        without = len(kept)
        y = checkpoint(deep, x, w)
        assert len(kept) == without
    y.sum().backward()
    assert x.grad is not None


def test_gradients_can_be_asked_for_twice_and_differentiated() -> None:
    x, w = pair()
    function = Counted()
    y = checkpoint(function, x, w).sum()
    first = grad(y, x, retain_graph=True)[0]
    assert nanotorch.equal(grad(y, x, retain_graph=True)[0], first)
    assert function.calls == 2
    assert nanotorch.autograd.gradcheck(lambda x, w: checkpoint(Counted(), x, w), (x, w))
    assert nanotorch.autograd.gradgradcheck(lambda x, w: checkpoint(Counted(), x, w), (x, w))


def test_parts_may_stand_in_parts() -> None:
    x, w = pair()
    inner, outer = Counted(), Counted()

    def nested(x: Any, w: Any) -> Any:
        return checkpoint(inner, outer(x, w), w) * x

    expected = grad((Counted()(Counted()(x, w), w) * x).sum(), (x, w))
    found = grad(checkpoint(nested, x, w).sum(), (x, w))
    assert all(nanotorch.allclose(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("preserve", [True, False])
def test_random_numbers_are_drawn_again_the_same(preserve: bool) -> None:
    x = nanotorch.ones(1000, requires_grad=True)
    dropout = nn.Dropout(0.5)
    nanotorch.manual_seed(3)
    y = checkpoint(lambda x: dropout(x.exp()) * 2, x, preserve_rng_state=preserve)
    state = nanotorch.get_rng_state()
    y.sum().backward()
    assert nanotorch.equal((x.grad != 0), (y != 0)) is preserve
    assert nanotorch.equal(nanotorch.get_rng_state(), state) is preserve


def test_the_inputs_need_not_require_grad() -> None:
    layer = nn.Linear(2, 2)
    checkpoint(lambda x: layer(x).relu().sum(), nanotorch.ones(1, 2)).backward()
    assert layer.weight.grad is not None


def test_without_recording_it_is_a_plain_call() -> None:
    x, w = pair()
    function = Counted()
    with nanotorch.no_grad():
        assert not checkpoint(function, x, w).requires_grad
    assert function.calls == 1


def test_keywords_and_structures_pass_through() -> None:
    x, w = pair()
    out = checkpoint(lambda x, *, factors: {"y": x * factors[0]}, x, factors=[w])
    out["y"].sum().backward()
    assert nanotorch.equal(x.grad, w)


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_a_sequential_is_cut_into_parts(segments: int) -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 1))
    x = nanotorch.randn(5, 3, requires_grad=True)
    expected = grad(layers(x).sum(), [x, *layers.parameters()])
    found = grad(checkpoint_sequential(layers, segments, x).sum(), [x, *layers.parameters()])
    assert all(nanotorch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_early_stop_leaves_out_what_backward_does_not_need() -> None:
    reached = []

    def function(x: Any) -> Any:
        y = x.exp()
        reached.append(1)
        return y + 1

    for early_stop, expected in ((True, 1), (False, 2)):
        reached.clear()
        x = nanotorch.ones(2, requires_grad=True)
        checkpoint(function, x, early_stop=early_stop).sum().backward()
        assert len(reached) == expected


def changing(*results: Any) -> Any:
    """A function that is another one at each call."""
    rest = iter(results)
    return lambda x: next(rest)(x)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda x: x[:1].exp().sum(), r"position 0 was .*\(2,\).* and is .*\(1,\)"),
        (lambda x: (x + 1).sum(), "keeps 0 tensors, the first kept 1"),
    ],
    ids=["another shape", "fewer"],
)
def test_a_function_that_changes_is_told(second: Any, message: str) -> None:
    x = nanotorch.ones(2, requires_grad=True)
    y = checkpoint(changing(lambda x: x.exp().sum(), second), x)
    with pytest.raises(CheckpointError, match=message):
        y.backward()


def test_more_kept_tensors_are_told_without_early_stop() -> None:
    x = nanotorch.ones(2, requires_grad=True)
    y = checkpoint(changing(lambda x: x.exp(), lambda x: x.exp().exp()), x, early_stop=False)
    with pytest.raises(CheckpointError, match="keeps more tensors"):
        y.sum().backward()


def test_options_that_are_not_there_are_told() -> None:
    with pytest.raises(ValueError, match="use_reentrant=False"):
        checkpoint(lambda x: x, nanotorch.ones(1), use_reentrant=True)
    with pytest.raises(ValueError, match="'default' or 'none'"):
        checkpoint(lambda x: x, nanotorch.ones(1), determinism_check="strict")
    with pytest.raises(ValueError, match="between 1 and 2 segments"):
        checkpoint_sequential([nn.Tanh(), nn.Tanh()], 3, nanotorch.ones(1))


def test_memory_is_flat_without_the_garbage_collector() -> None:
    with without_collector():
        x, w = pair()
        for _ in range(3):
            checkpoint(Counted(), x, w).sum().backward()
        assert gc.collect() == 0


@pytest.mark.torch
def test_gradients_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    found = []
    for library, run in (
        (nanotorch, lambda f, x: checkpoint(f, x, use_reentrant=False)),
        (torch, lambda f, x: torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False)),
    ):
        library.manual_seed(1)
        x = library.randn(50, requires_grad=True)
        y = run(lambda x, t=library: t.nn.functional.dropout(x.exp(), 0.5, training=True).sin(), x)
        y.sum().backward()
        found.append((y.tolist(), x.grad.tolist()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5, abs=1e-6)
