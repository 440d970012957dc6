"""Random draws: values that PyTorch printed, and the laws that hold for every seed."""

from __future__ import annotations

import copy
import hashlib
import pickle
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import nanotorch as nt
from nanotorch import random as nt_random
from nanotorch.backend import mersenne
from nanotorch.backend.mersenne import MersenneTwister


@pytest.fixture(autouse=True)
def own_default_generator() -> Iterator[None]:
    with nt_random.fork_rng():
        yield


# What PyTorch 2.13.0 gives on the CPU after torch.manual_seed(0).
VALUES: list[tuple[Callable[[], Any], list[Any]]] = [
    (lambda: nt.rand(3), [0.49625658988952637, 0.7682217955589294, 0.08847743272781372]),
    (lambda: nt.rand(2, dtype=nt.float64), [0.9700530018065531, 0.707819864399788]),
    (lambda: nt.randn(3), [1.5409960746765137, -0.293428897857666, -2.1787893772125244]),
    (lambda: nt.randn(17)[-3:], [0.946298360824585, -0.843676745891571, 0.9318265914916992]),
    (lambda: nt.randint(100, (5,)), [44, 39, 33, 60, 63]),
    (lambda: nt.randint(2**40, (3,)), [741280623151, 506137267392, 291447657211]),
    (lambda: nt.randperm(10), [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]),
    (lambda: nt.bernoulli(nt.full((8,), 0.3)), [0, 0, 1, 1, 0, 0, 0, 0]),
    (lambda: nt.empty(8).bernoulli_(0.3), [0, 0, 0, 0, 0, 0, 1, 0]),
    (lambda: nt.empty(2).uniform_(-0.5, 0.5), [-0.003743410110473633, 0.26822179555892944]),
    (lambda: nt.empty(2).exponential_(), [3.508326292037964, 1.2303847074508667]),
    (lambda: nt.multinomial(nt.tensor([1.0, 2, 3, 4]), 3), [2, 1, 3]),
    (lambda: nt.multinomial(nt.tensor([1.0, 2, 3, 4]), 6, True), [3, 3, 2, 3, 3, 3]),
    (lambda: nt.empty(2, dtype=nt.int64).random_(), [900450186894289455, 3969543146641149120]),
    (lambda: nt.normal(nt.arange(2.0), 2.0), [3.0819921493530273, 0.41314220428466797]),
    (
        lambda: nt.empty(2, 2).t().uniform_(),
        [[0.49625658988952637, 0.08847743272781372], [0.7682217955589294, 0.13203048706054688]],
    ),
]


@pytest.mark.parametrize("draw, expected", VALUES)
def test_seed_0_gives_pytorchs_first_values(draw: Callable[[], Any], expected: list[Any]) -> None:
    nt.manual_seed(0)
    assert draw().tolist() == expected


# SHA-256 of the bytes that PyTorch draws after torch.manual_seed(0), the first 16 digits.
DIGESTS: list[tuple[Callable[[], Any], str]] = [
    (lambda: nt.rand(10_000), "918e9fc598ba8544"),
    (lambda: nt.rand(10_000, dtype=nt.float64), "37599d6ea8650481"),
    (lambda: nt.rand(10_000, dtype=nt.float16), "cde224c7a30a4d5b"),
    (lambda: nt.empty(10_000).uniform_(-0.1, 0.3), "a1f940b7ae0b55a0"),
    (lambda: nt.empty(10_000, dtype=nt.float64).uniform_(-0.1, 0.3), "d66bd06116a8e0ce"),
    (lambda: nt.randn(10_001), "3a6d74bc9e0c262d"),
    (lambda: nt.randn(10_001, dtype=nt.float16), "9ac03346ac6323a4"),
    (lambda: nt.empty(10_000).normal_(1.0, 0.02), "1aa8bf8e60b8e5ef"),
    (lambda: nt.randperm(10_000), "c87829ef1a032706"),
    (lambda: nt.randint(-5, 10**12, (10_000,)), "e7ef1935f82dc8bd"),
    (lambda: nt.empty(10_000).bernoulli_(0.3), "7ec0b381a6668986"),
    (lambda: nt.bernoulli(nt.full((10_000,), 0.3)), "f5adfc6862d39c89"),
    (lambda: nt.empty(10_000, dtype=nt.int32).random_(), "51a00f7181bb72c4"),
    (lambda: nt.empty(100, 101).t().bernoulli_(0.3).contiguous(), "ac0af034e2ea517d"),
]


@pytest.mark.parametrize("draw, expected", DIGESTS)
def test_ten_thousand_values_equal_pytorchs_bit_for_bit(
    draw: Callable[[], Any], expected: str
) -> None:
    nt.manual_seed(0)
    assert hashlib.sha256(draw().numpy().tobytes()).hexdigest()[:16] == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normals_have_their_moments(dtype: Any) -> None:
    values = MersenneTwister(1).normal(np.empty(200_000, dtype), 3.0, 0.5).astype(np.float64)
    assert values.mean() == pytest.approx(3.0, abs=0.005)
    assert values.std() == pytest.approx(0.5, abs=0.005)


def test_float64_normals_agree_with_the_formula() -> None:
    unit = MersenneTwister(4).unit(16, np.dtype(np.float64))
    radius, angle = np.sqrt(-2 * np.log(1 - unit[:8])), 2 * np.pi * unit[8:]
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    np.testing.assert_allclose(MersenneTwister(4).normal(np.empty(16)), expected, rtol=1e-12)


@pytest.mark.parametrize("low, high", [(1000.0, 1000.01), (-1e-9, 1.0), (0.0, 1e-30), (2.0, 2.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniforms_stay_within_their_bounds(low: float, high: float, dtype: Any) -> None:
    values = MersenneTwister(2).uniform(np.empty(10_000, dtype), low, high)
    assert values.min() >= dtype(low)
    assert values.max() < dtype(high) or low == high


@pytest.mark.parametrize("dtype, bits", [(np.float32, 24), (np.float64, 53)])
@given(data=st.data())
def test_fused_multiply_add_rounds_once(dtype: Any, bits: int, data: st.DataObject) -> None:
    exponents = st.integers(-40, 40)
    mantissas = st.integers(-(2**bits) + 1, 2**bits - 1)
    numbers = st.builds(lambda m, e: m * 2.0**e, mantissas, exponents)
    a, b, c = data.draw(numbers), data.draw(numbers), data.draw(numbers)
    fused = mersenne.fused_multiply_add(np.array([a], dtype), dtype(b), dtype(c)).item()
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    neighbours = (
        np.nextafter(dtype(fused), dtype(np.inf)),
        np.nextafter(dtype(fused), dtype(-np.inf)),
    )
    distances = [abs(Fraction(float(each)) - exact) for each in (fused, *neighbours)]
    assert distances[0] == min(distances)


def swapped(partners: list[int]) -> list[int]:
    places = list(range(len(partners)))
    for i, j in enumerate(partners):
        places[i], places[j] = places[j], places[i]
    return places


@given(st.lists(st.integers(0, 10**6), max_size=60))
def test_swaps_without_a_loop_equal_the_loop(offsets: list[int]) -> None:
    partners = [i + offset % (len(offsets) - i) for i, offset in enumerate(offsets)]
    assert mersenne.apply_swaps(np.array(partners, np.int64)).tolist() == swapped(partners)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 999])
def test_huge_permutations_swap_backwards_with_two_words(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mersenne, "TWO_WORD_PERMUTATION", 0)
    expected: list[int] = []
    for i, word in enumerate(MersenneTwister(6).double_words(count).tolist()):
        expected.append(i)
        j = word % (i + 1)
        expected[i], expected[j] = expected[j], expected[i]
    assert MersenneTwister(6).permutation(count).tolist() == expected


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("replacement", [True, False])
def test_multinomial_never_draws_what_has_no_weight(samples: int, replacement: bool) -> None:
    weights = np.tile(np.array([0.0, 2.0, 0.0, 5.0, 3.0], np.float32), (500, 1))
    drawn = MersenneTwister(3).multinomial(weights, samples, replacement)
    assert set(drawn.ravel().tolist()) == {1, 3, 4}
    assert replacement or samples == 1 or all(len(set(row)) == samples for row in drawn.tolist())
    share = (drawn[:, 0] == 3).mean()
    assert share == pytest.approx(0.5, abs=0.08)


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = [
        lambda engine, out: engine.uniform(out, 0.0, 2.0),
        lambda engine, out: engine.normal(out),
        lambda engine, out: engine.normal(out.reshape(20, 50).T),
        lambda engine, out: engine.bernoulli(out, 0.5),
        lambda engine, out: engine.integers(out, 0, 9),
    ]
    for draw in draws:
        whole = draw(MersenneTwister(8), np.empty(1000, np.float32))
        with monkeypatch.context() as patch:
            patch.setattr(mersenne, "PIECE", 48)
            pieces = draw(MersenneTwister(8), np.empty(1000, np.float32))
        np.testing.assert_array_equal(whole, pieces)


def test_a_state_taken_anywhere_is_gone_on_from() -> None:
    for used in (0, 1, 5, 623, 624, 625):
        engine = MersenneTwister(9)
        engine.words(used)
        engine.normal(np.empty(3))  # leaves a normal value for later
        state = engine.get_state()
        expected = engine.normal(np.empty(7)), engine.words(700)
        other = MersenneTwister(1)
        other.set_state(state)
        assert other.get_state() == state
        np.testing.assert_array_equal(other.normal(np.empty(7)), expected[0])
        np.testing.assert_array_equal(other.words(700), expected[1])


@pytest.mark.parametrize("state", [b"", bytes(5056), bytes(5055) + b"1", b"\xff" * 5056])
def test_bytes_that_are_no_state_are_refused(state: bytes) -> None:
    engine = MersenneTwister(9)
    before = engine.get_state()
    with pytest.raises(RuntimeError, match="set_state: "):
        engine.set_state(state)
    assert engine.get_state() == before


def test_generators_are_independent() -> None:
    first, second = nt.Generator().manual_seed(1), nt.Generator().manual_seed(1)
    expected = nt.rand(5, generator=first).tolist()
    nt.rand(100, generator=first)
    nt.rand(100)
    assert nt.rand(5, generator=second).tolist() == expected


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g)), nt.Generator.clone_state]
)
def test_copies_of_a_generator_go_on_alike(duplicate: Callable[[Any], Any]) -> None:
    original = nt.Generator().manual_seed(1)
    nt.randn(3, generator=original)
    twin = duplicate(original)
    assert twin.initial_seed() == 1
    assert nt.randn(4, generator=twin).tolist() == nt.randn(4, generator=original).tolist()


def test_fork_rng_leaves_the_stream_where_it_was() -> None:
    nt.manual_seed(3)
    expected = nt.rand(4).tolist()
    nt.manual_seed(3)
    with nt_random.fork_rng():
        nt.rand(100)
    assert nt.rand(4).tolist() == expected
    nt.manual_seed(3)
    with nt_random.fork_rng(enabled=False):
        nt.rand(100)
    assert nt.rand(4).tolist() != expected


def test_seed_is_chosen_anew_each_time() -> None:
    seeds = {nt.seed() for _ in range(5)}
    assert len(seeds) == 5
    assert nt.initial_seed() in seeds


def test_threads_share_a_generator_without_losing_or_repeating_words() -> None:
    engine, drawn = MersenneTwister(12), []

    def draw() -> None:
        for _ in range(200):
            drawn.append(engine.random(np.empty(50, np.int64)))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = MersenneTwister(12).random(np.empty(200 * 50 * 4, np.int64)).reshape(-1, 50)
    assert {piece.tobytes() for piece in drawn} == {row.tobytes() for row in expected}


def test_a_fill_counts_as_a_change_in_place() -> None:
    x = nt.zeros(3)
    version = x._version
    assert x.uniform_() is x
    assert x._version == version + 1


def test_a_fill_of_a_recorded_tensor_stops_its_gradient() -> None:
    x = nt.ones(4, requires_grad=True)
    y = x * 2
    y[:2].uniform_()
    assert y.requires_grad
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 2, 2]


def test_parameters_are_filled_only_outside_of_recording() -> None:
    x = nt.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        x.normal_()
    with nt.no_grad():
        x.normal_()
    assert x.requires_grad
    assert x.count_nonzero().item() == 3


ON_A_DEVICE: list[Callable[[str, Any], Any]] = [
    lambda d, g: nt.rand(2, 3, device=d, generator=g),
    lambda d, g: nt.randn(20, device=d, generator=g),
    lambda d, g: nt.randint(9, (4,), device=d, generator=g),
    lambda d, g: nt.randperm(9, device=d, generator=g),
    lambda d, g: nt.rand_like(nt.zeros(3, 4, device=d).t(), generator=g),
    lambda d, g: nt.randint_like(nt.zeros(3, 4, device=d), 7, generator=g),
    lambda d, g: nt.normal(nt.zeros(3, 4, device=d), nt.ones(4, device=d), generator=g),
    lambda d, g: nt.bernoulli(nt.full((9,), 0.5, device=d), generator=g),
    lambda d, g: nt.multinomial(nt.ones(5, device=d), 3, generator=g),
    lambda d, g: nt.empty(3, 4, device=d).uniform_(-1, 1, generator=g),
    lambda d, g: nt.empty(3, 4, device=d).t().normal_(generator=g),
    lambda d, g: nt.empty(9, device=d).bernoulli_(nt.full((9,), 0.5, device=d), generator=g),
    lambda d, g: nt.empty(9, dtype=nt.int64, device=d).random_(5, generator=g),
    lambda d, g: nt.empty(9, device=d).exponential_(generator=g),
]


@pytest.mark.ring("cuda")
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("draw", ON_A_DEVICE)
def test_a_generator_of_the_cpu_draws_its_numbers_for_every_device(
    draw: Callable[[str, Any], Any],
) -> None:
    expected = draw("cpu", nt.Generator().manual_seed(0))
    drawn = draw("cuda", nt.Generator().manual_seed(0))
    assert drawn.device.type == "cuda"
    assert drawn.dtype is expected.dtype
    assert drawn.cpu().tolist() == expected.tolist()


def test_requires_grad_and_dtype_are_taken() -> None:
    x = nt.rand(2, 3, dtype=nt.float64, requires_grad=True)
    assert x.is_leaf and x.requires_grad and x.dtype is nt.float64
    assert nt.randint(5, (2,)).dtype is nt.int64
    assert nt.rand_like(nt.zeros(2, dtype=nt.float16)).dtype is nt.float16


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: nt.rand(2, -1), RuntimeError, r"rand: expected lengths of 0 or more, got size"),
        (lambda: nt.rand(2, dtype=nt.int64), NotImplementedError, "rand: expected a floating"),
        (lambda: nt.randint(3, 3, (2,)), RuntimeError, "randint: expected low < high"),
        (lambda: nt.randint(9, (2,), dtype=nt.bool), RuntimeError, "from 0 to 1"),
        (lambda: nt.randint(2**24 + 2, (2,), dtype=nt.float32), RuntimeError, "16777216"),
        (lambda: nt.rand(2, dtpye=nt.float64), TypeError, "rand: unknown keyword dtpye"),
        (lambda: nt.randperm(2, generater=None), TypeError, "randperm: unknown keyword generater"),
        (lambda: nt.rand(2, generator=1), TypeError, "expected a Generator or None, got int"),
        (lambda: nt.normal(0.0, 1.0), TypeError, "normal: expected a size"),
        (lambda: nt.bernoulli(nt.tensor([1.5])), RuntimeError, "from 0 to 1"),
        (lambda: nt.multinomial(nt.ones(2), 3), RuntimeError, "1 to 2 without replacement"),
        (lambda: nt.multinomial(nt.tensor([1.0, -1.0]), 1), RuntimeError, "finite weights"),
        (lambda: nt.empty(2).uniform_(2, 1), RuntimeError, "uniform_: expected low <= high"),
        (lambda: nt.empty(2).exponential_(0), RuntimeError, "exponential_: expected lambd > 0"),
        (lambda: nt.Generator().manual_seed(2**64), ValueError, "-2\\*\\*63 to 2\\*\\*64 - 1"),
        (lambda: nt.set_rng_state(nt.zeros(5056)), TypeError, "expected a Tensor of dtype uint8"),
    ],
)
def test_wrong_arguments_say_what_was_expected(
    call: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        call()
