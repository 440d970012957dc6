"""Every random draw against PyTorch itself: same seed, same numbers, same state afterwards."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import nanotorch as nt
from nanotorch import random as nt_random
from nanotorch.backend.mersenne import MersenneTwister

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SEEDS = [0, 2**40 + 3, 2**64 - 1]
SIZES = [0, 1, 2, 15, 16, 17, 33, 624, 40_000]
FLOATS = ["float16", "float32", "float64"]
INTEGERS = ["uint8", "int8", "int16", "int32", "int64", "bool"]
# The logarithm, sine and cosine of float64 differ between mathematical libraries in the last bits.
LAST_BITS = 1e-13


def assert_same(ours: Any, theirs: Any, relative: float = 0.0) -> None:
    theirs = theirs.numpy()
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if relative:
        np.testing.assert_allclose(ours, theirs, rtol=relative, atol=relative)
    else:
        np.testing.assert_array_equal(ours, theirs)


def assert_same_tensor(ours: Any, theirs: Any) -> None:
    assert_same(ours.numpy(), theirs, LAST_BITS if theirs.dtype is torch.float64 else 0.0)


def assert_same_draws(
    ours: Callable[[MersenneTwister], Any], theirs: Callable[[], Any], relative: float = 0.0
) -> None:
    """Draws twice per seed, the second time with a normal value kept from before."""
    for seed in SEEDS:
        engine = MersenneTwister(seed)
        torch.manual_seed(seed)
        for _ in range(2):
            assert_same(ours(engine), theirs(), relative)
            assert engine.get_state() == torch.get_rng_state().numpy().tobytes()
            engine.normal(np.empty(3, np.float32))
            torch.randn(3)


@pytest.fixture(autouse=True)
def default_generators_are_put_back() -> Iterator[None]:
    with nt_random.fork_rng(), torch.random.fork_rng():
        yield


# The method of the engine and of PyTorch's tensor, with the arguments of both.
FILLS = [
    *(("uniform", "uniform_", bounds) for bounds in [(), (-0.3, 0.77), (1000.0, 1000.01)]),
    *(("uniform", "uniform_", bounds) for bounds in [(-(3**-0.5), 3**-0.5), (0.0, 1e-3)]),
    *(("normal", "normal_", moments) for moments in [(), (0.5, 0.02), (-3.0, 1000.0)]),
    ("exponential", "exponential_", (2.5,)),
]
FILLS_OF_ANY_DTYPE = [
    ("bernoulli", "bernoulli_", (0.3,)),
    ("random", "random_", ()),
    ("integers", "random_", (0, 2)),
]


@pytest.mark.parametrize("ours, theirs, arguments", FILLS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES)
def test_fills_with_reals(size: int, dtype: str, ours: str, theirs: str, arguments: Any) -> None:
    exact = dtype != "float64" or ours == "uniform"
    assert_same_draws(
        lambda engine: getattr(engine, ours)(np.empty(size, dtype), *arguments),
        lambda: getattr(torch.empty(size, dtype=getattr(torch, dtype)), theirs)(*arguments),
        0.0 if exact else LAST_BITS * max(1.0, *arguments, 0.0),
    )


@pytest.mark.parametrize("ours, theirs, arguments", FILLS_OF_ANY_DTYPE)
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("size", SIZES)
def test_fills_with_integers(size: int, dtype: str, ours: str, theirs: str, arguments: Any) -> None:
    assert_same_draws(
        lambda engine: getattr(engine, ours)(np.empty(size, dtype), *arguments),
        lambda: getattr(torch.empty(size, dtype=getattr(torch, dtype)), theirs)(*arguments),
    )


RANGES = [(0, 10), (-5, 3), (0, 2**28 - 1), (0, 2**28), (-(2**31), 2**31), (0, 2**32)]
RANGES += [(0, 2**40), (-(2**63), 2**63 - 1), (5, 2**63 - 1)]


@pytest.mark.parametrize("low, high", RANGES)
def test_integers_of_any_range(low: int, high: int) -> None:
    assert_same_draws(
        lambda engine: engine.integers(np.empty(100, np.int64), low, high),
        lambda: torch.randint(low, high, (100,)),
    )


def test_integers_of_all_64_bits() -> None:
    assert_same_draws(
        lambda engine: engine.integers(np.empty(100, np.int64), -(2**63), 2**63),
        lambda: torch.empty(100, dtype=torch.int64).random_(-(2**63), None),
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES)
def test_coins_of_given_probabilities(size: int, dtype: str) -> None:
    chances = np.linspace(0, 1, size).astype(dtype)
    assert_same_draws(
        lambda engine: engine.bernoulli(np.empty_like(chances), chances),
        lambda: torch.bernoulli(torch.from_numpy(chances)),
    )


@pytest.mark.parametrize("count", [*SIZES, 100_003])
def test_permutations(count: int) -> None:
    assert_same_draws(lambda engine: engine.permutation(count), lambda: torch.randperm(count))


TRANSPOSITIONS = [((4, 5), (1, 0)), ((20, 30), (1, 0)), ((3, 4, 5), (2, 0, 1))]
TRANSPOSITIONS += [((3, 4, 5), (1, 0, 2)), ((7, 1, 9), (2, 1, 0)), ((7, 1, 9), (0, 1, 2))]


@pytest.mark.parametrize("ours, theirs, arguments", FILLS[::3] + FILLS_OF_ANY_DTYPE)
@pytest.mark.parametrize("shape, axes", TRANSPOSITIONS)
@pytest.mark.parametrize("step", [1, 2])
def test_fills_go_in_the_order_of_memory(
    step: int, shape: tuple[int, ...], axes: tuple[int, ...], ours: str, theirs: str, arguments: Any
) -> None:
    part = slice(None, None, step)
    assert_same_draws(
        lambda engine: getattr(engine, ours)(
            np.empty(shape, np.float32).transpose(axes)[part], *arguments
        ),
        lambda: getattr(torch.empty(shape).permute(axes)[part], theirs)(*arguments),
    )
    assert_same_draws(
        lambda engine: getattr(engine, ours)(
            np.empty(shape, np.float32)[part].transpose(axes), *arguments
        ),
        lambda: getattr(torch.empty(shape)[part].permute(axes), theirs)(*arguments),
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(5,), (1,), (3, 7), (0, 4), (50,), (4, 3)])
@pytest.mark.parametrize("samples, replacement", [(1, False), (1, True), (4, True), (3, False)])
def test_multinomial(
    samples: int, replacement: bool, shape: tuple[int, ...], order: Any, dtype: str
) -> None:
    weights = np.random.default_rng(0).random(shape).astype(dtype, order=order)
    if replacement or samples <= shape[-1]:
        assert_same_draws(
            lambda engine: engine.multinomial(weights, samples, replacement),
            lambda: torch.multinomial(torch.from_numpy(weights), samples, replacement),
        )


@pytest.fixture
def seeded() -> Iterator[None]:
    """Both default generators at the same seed; after the test they must be at the same place."""
    nt.manual_seed(2024)
    torch.manual_seed(2024)
    yield
    assert nt.get_rng_state().numpy().tobytes() == torch.get_rng_state().numpy().tobytes()


# Written for PyTorch, run with both: `lib` is either package.
CALLS: list[Callable[[Any], Any]] = [
    lambda lib: lib.rand(2, 3),
    lambda lib: lib.rand((2, 3), dtype=lib.float64),
    lambda lib: lib.rand(size=(2, 3)),
    lambda lib: lib.rand([4]),
    lambda lib: lib.rand(()),
    lambda lib: lib.rand(3, dtype=lib.float16),
    lambda lib: lib.randn(20),
    lambda lib: lib.randn(size=()),
    lambda lib: lib.randn(5, 4, device="cpu"),
    lambda lib: lib.randint(10, (5,)),
    lambda lib: lib.randint(3, 9, (2, 2)),
    lambda lib: lib.randint(low=3, high=9, size=(4,)),
    lambda lib: lib.randint(1, high=9, size=(4,), dtype=lib.float32),
    lambda lib: lib.randint(high=4, size=(2,), dtype=lib.uint8),
    lambda lib: lib.randperm(12),
    lambda lib: lib.randperm(256, dtype=lib.uint8),
    lambda lib: lib.rand_like(lib.zeros(4, 5).t()),
    lambda lib: lib.randn_like(lib.zeros(4, 5)),
    lambda lib: lib.randn_like(lib.zeros(4, 5).t()),
    lambda lib: lib.randn_like(lib.zeros(4, dtype=lib.int64), dtype=lib.float64),
    lambda lib: lib.randint_like(lib.zeros(4, 5).t(), 9),
    lambda lib: lib.randint_like(lib.zeros(4), 2, 9, dtype=lib.int64),
    lambda lib: lib.normal(1.0, 2.0, (3, 3)),
    lambda lib: lib.normal(2.0, 3.0, size=(1, 4), dtype=lib.float64),
    lambda lib: lib.normal(lib.arange(20.0)),
    lambda lib: lib.normal(lib.arange(6.0).view(2, 3).t(), 0.5),
    lambda lib: lib.normal(0.5, lib.arange(6.0).view(2, 3).t()),
    lambda lib: lib.normal(lib.arange(3.0).view(3, 1), lib.arange(8.0)),
    lambda lib: lib.normal(lib.zeros(3), lib.ones(3, dtype=lib.float64)),
    lambda lib: lib.bernoulli(lib.linspace(0, 1, 9)),
    lambda lib: lib.bernoulli(lib.full((4, 5), 0.4).t()),
    lambda lib: lib.bernoulli(lib.zeros(4, 5).t(), 0.5),
    lambda lib: lib.multinomial(lib.arange(5.0), 3),
    lambda lib: lib.multinomial(lib.ones(3, 5), 2, replacement=True),
    lambda lib: lib.empty(3, 4).t().uniform_(),
    lambda lib: lib.empty(30).uniform_(-1, 1)[::2].uniform_(2, 3),
    lambda lib: lib.empty(30).normal_(1.0, std=2.0),
    lambda lib: lib.empty(5).bernoulli_(),
    lambda lib: lib.empty(2, 5).bernoulli_(lib.linspace(0, 1, 5)),
    lambda lib: lib.empty(5, dtype=lib.int64).bernoulli_(0.25),
    lambda lib: lib.empty(5).exponential_(3.0),
    lambda lib: lib.empty((), dtype=lib.int64).random_(),
    lambda lib: lib.empty(5).random_(7),
    lambda lib: lib.empty(5).random_(to=7),
    lambda lib: lib.empty(5).random_(-3, 7),
    lambda lib: lib.empty(5, dtype=lib.int32).random_(5, None),
    lambda lib: lib.empty(5, dtype=lib.int64).random_(-(2**63), None),
]


@pytest.mark.parametrize("call", CALLS)
def test_functions_and_fills_of_tensors(call: Callable[[Any], Any], seeded: None) -> None:
    assert_same_tensor(call(nt), call(torch))


REFUSED: list[Callable[[Any], Any]] = [
    lambda lib: lib.rand(2, -1),
    lambda lib: lib.rand(2, dtype=lib.int64),
    lambda lib: lib.randn(),
    lambda lib: lib.rand(2.0),
    lambda lib: lib.rand(2, generator=3),
    lambda lib: lib.randint(3, 3, (2,)),
    lambda lib: lib.randint(0, 3, 2),
    lambda lib: lib.randint(3.5, (2,)),
    lambda lib: lib.randint(0, 300, (2,), dtype=lib.uint8),
    lambda lib: lib.randint(-1, 30, (2,), dtype=lib.uint8),
    lambda lib: lib.randint(0, 3, (2,), dtype=lib.bool),
    lambda lib: lib.randint(10, (2,), requires_grad=True),
    lambda lib: lib.randperm(-1),
    lambda lib: lib.randperm(300, dtype=lib.uint8),
    lambda lib: lib.randperm(2.5),
    lambda lib: lib.normal(0.0, 1.0),
    lambda lib: lib.normal(lib.zeros(2), -1.0),
    lambda lib: lib.normal(lib.zeros(2), lib.tensor([1.0, -1.0])),
    lambda lib: lib.bernoulli(lib.tensor([1.5])),
    lambda lib: lib.bernoulli(lib.tensor([1])),
    lambda lib: lib.multinomial(lib.tensor([1, 2]), 1),
    lambda lib: lib.multinomial(lib.tensor([1.0, -2.0]), 1),
    lambda lib: lib.multinomial(lib.tensor([0.0, 0.0]), 2, True),
    lambda lib: lib.multinomial(lib.ones(2), 3),
    lambda lib: lib.multinomial(lib.ones(2), 0),
    lambda lib: lib.multinomial(lib.tensor(1.0), 1),
    lambda lib: lib.empty(3).uniform_(2, 1),
    lambda lib: lib.empty(3).uniform_(0, float("inf")),
    lambda lib: lib.empty(3, dtype=lib.int64).uniform_(),
    lambda lib: lib.empty(3).normal_(0, -1),
    lambda lib: lib.empty(3).bernoulli_(1.5),
    lambda lib: lib.empty(3).exponential_(0),
    lambda lib: lib.empty(3).random_(3, 3),
    lambda lib: lib.zeros(2, requires_grad=True).uniform_(),
    lambda lib: lib.Generator().manual_seed(1.5),
    lambda lib: lib.Generator().manual_seed(2**64),
    lambda lib: lib.set_rng_state(lib.zeros(5056, dtype=lib.uint8)),
    lambda lib: lib.set_rng_state(lib.zeros(50, dtype=lib.uint8)),
    lambda lib: lib.set_rng_state(lib.zeros(5056)),
]


@pytest.mark.parametrize("call", REFUSED)
def test_wrong_arguments_raise_the_same_class_and_draw_nothing(
    call: Callable[[Any], Any], seeded: None
) -> None:
    with pytest.raises(Exception) as theirs:
        call(torch)
    with pytest.raises(theirs.type):
        call(nt)


@pytest.mark.parametrize("seed", [0, 5, -1, -5, 2**64 - 1, -(2**63), 1.7])
def test_seeds(seed: Any, seeded: None) -> None:
    assert nt.manual_seed(seed).initial_seed() == torch.manual_seed(seed).initial_seed()
    assert nt.initial_seed() == torch.initial_seed()


def test_a_new_generator_starts_where_pytorchs_does() -> None:
    ours, theirs = nt.Generator(), torch.Generator()
    assert ours.initial_seed() == theirs.initial_seed()
    assert_same(nt.randn(9, generator=ours).numpy(), torch.randn(9, generator=theirs))


def test_states_are_exchanged_with_pytorch(seeded: None) -> None:
    nt.randn(7)
    torch.set_rng_state(torch.from_numpy(nt.get_rng_state().numpy()))
    assert_same(nt.randn(3).numpy(), torch.randn(3))
    torch.rand(1000)
    nt.set_rng_state(nt.tensor(torch.get_rng_state().numpy()))
    assert_same(nt.randperm(30).numpy(), torch.randperm(30))


def test_a_pickled_generator_goes_on_as_pytorchs(seeded: None) -> None:
    for copy in (lambda g: pickle.loads(pickle.dumps(g)), lambda g: g.clone_state()):
        ours, theirs = nt.Generator().manual_seed(4), torch.Generator().manual_seed(4)
        nt.randn(3, generator=ours)
        torch.randn(3, generator=theirs)
        assert_same(
            nt.randn(4, generator=copy(ours)).numpy(), torch.randn(4, generator=copy(theirs))
        )


STEPS = st.lists(st.tuples(st.sampled_from(CALLS), st.integers(0, 3)), max_size=12)


@given(st.integers(-(2**63), 2**64 - 1), STEPS)
@settings(max_examples=60)
def test_any_sequence_of_draws_ends_in_the_same_state(
    seed: int, steps: list[tuple[Callable[[Any], Any], int]]
) -> None:
    nt.manual_seed(seed)
    torch.manual_seed(seed)
    for call, again in steps:
        for _ in range(again + 1):
            assert_same_tensor(call(nt), call(torch))
    assert nt.get_rng_state().numpy().tobytes() == torch.get_rng_state().numpy().tobytes()


# Each gives a result whose order of memory decides where a dropout's draws go.
LAID_OUT: list[Callable[[Any, Any, Any], Any]] = [
    lambda t, x, F: F.pad(x, (0, 2), mode="circular"),
    lambda t, x, F: F.pad(x, (1, 1), mode="reflect"),
    lambda t, x, F: F.pad(x, (1, 1), mode="replicate"),
    lambda t, x, F: F.pad(x[None], (1, 1, 1, 1), mode="reflect"),
    lambda t, x, F: x[:, [0, 2, 1]],
    lambda t, x, F: x[:, :, t.tensor([1, -1, 1])],
    lambda t, x, F: x[:, [0, 2], :],
    lambda t, x, F: x[:, :, t.tensor([True, False, True, True])],
    lambda t, x, F: x[:, t.tensor([[0, 2], [1, 1]])],
    lambda t, x, F: x[:, [0, 2], [1, 3]],
    lambda t, x, F: x.index_select(1, t.tensor([2, 0])),
    lambda t, x, F: F.interpolate(x, scale_factor=2, mode="linear"),
    lambda t, x, F: F.interpolate(x[None], scale_factor=2, mode="bilinear"),
    lambda t, x, F: F.interpolate(x, size=5),
    lambda t, x, F: x[0, 0].expand(5, 4),
    lambda t, x, F: x[:, :1].expand(2, 3, 4).transpose(0, 1),
    lambda t, x, F: x.transpose(0, 2),
    lambda t, x, F: x[:, :, ::2],
    lambda t, x, F: t.zeros_like(x.transpose(0, 2)) + 1,
    lambda t, x, F: t.full_like(x.permute(2, 0, 1), 3.0),
    lambda t, x, F: t.ones_like(x[:, :, ::2].transpose(0, 1)),
    lambda t, x, F: t.ones_like(x[0, 0].expand(5, 4)),
]
DRAWS: list[Callable[[Any, Any], Any]] = [
    lambda t, x: t.nn.functional.dropout(x, 0.4),
    lambda t, x: t.nn.functional.alpha_dropout(x, 0.4, training=True),
    lambda t, x: t.rand_like(x),
    lambda t, x: t.empty_like(x).normal_(),
    lambda t, x: t.zeros_like(x).uniform_(),
]


@pytest.mark.parametrize("draw", DRAWS, ids=["dropout", "alpha", "rand_like", "empty", "zeros"])
@pytest.mark.parametrize("make", LAID_OUT, ids=range(len(LAID_OUT)))
def test_draws_go_where_pytorchs_go(make: Any, draw: Any) -> None:
    results = []
    for t in (nt, torch):
        t.manual_seed(3)
        x = make(t, t.randn(2, 3, 4), t.nn.functional)
        results.append(draw(t, x).numpy())
    np.testing.assert_allclose(*results, 1e-5, 1e-6)


@pytest.mark.parametrize("make", LAID_OUT[:14], ids=range(14))
def test_what_is_selected_lies_in_the_order_of_its_shape(make: Any) -> None:
    assert make(nt, nt.randn(2, 3, 4), nt.nn.functional).is_contiguous()
