"""Random numbers of a GPU: Philox's own, whatever the launch, moved on by the device alone."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import backend
from nanotorch.backend.cuda import kernels, philox
from nanotorch.nn import functional as F

COUNT = 20_000


@pytest.fixture(autouse=True)
def own_streams(cuda: str) -> Iterator[None]:
    """Kernels of ours, and default generators that no other test notices."""
    if not kernels.available(backend.cuda_module()):
        pytest.skip("the look-alike needs g++ to run CUDA kernels")
    with nt.random.fork_rng():
        yield


def words(seed: int, offset: int, calls: int, high: int = 0) -> Any:
    """Philox4x32-10 on the host: (calls, 4) words of 32 bits."""
    call = np.arange(calls, dtype=np.uint64) + np.uint64(offset)
    mask = np.uint64(0xFFFFFFFF)
    c = [call & mask, call >> np.uint64(32)]
    c += [np.full_like(call, high & 0xFFFFFFFF), np.full_like(call, high >> 32)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), b & mask,
             (a >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), a & mask]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return np.stack(c, axis=1)


def pairs(seed: int, offset: int, calls: int) -> Any:
    """The same as numbers of 64 bits, two a call."""
    w = words(seed, offset, calls)
    return (w[:, ::2] << np.uint64(32) | w[:, 1::2]).reshape(-1)


def test_the_reference_gives_the_published_vectors() -> None:
    # https://github.com/DEShawResearch/random123, tests/kat_vectors
    ones = 2**64 - 1
    assert [hex(w) for w in words(0, 0, 1)[0].tolist()] == [
        "0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]  # fmt: skip
    assert [hex(w) for w in words(ones, ones, 1, ones)[0].tolist()] == [
        "0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]  # fmt: skip


def uniform32(w: Any) -> Any:
    return ((w >> np.uint64(8)) * 2.0**-24).reshape(-1)


def lower64(u: Any) -> Any:
    return (u >> np.uint64(11)) * 2.0**-53


def box_muller(u: Any, v: Any) -> Any:
    radius = np.sqrt(-2 * np.log(u))
    return np.stack([radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)], -1).ravel()


def upper32(w: Any) -> Any:
    return (w + 0.5) * 2.0**-32


def scaled(u: Any, width: int) -> Any:
    return np.array([int(number) * width >> 64 for number in u])


SEED, OFFSET, SIZE = 2**40 + 3, 2**33 + 5, 1001
W = words(SEED, OFFSET, SIZE)
U = pairs(SEED, OFFSET, SIZE)
CHANCES = uniform32(W).astype("f")[:SIZE]
NORMAL32 = box_muller(upper32(W[:, ::2]), W[:, 1::2] * 2.0**-32)
NORMAL64 = box_muller(lower64(U)[::2] + 2.0**-54, lower64(U)[1::2])
EXPONENTIAL32 = -np.log(upper32(W)).reshape(-1)
UNIFORM8 = (W >> np.uint64(24)).reshape(-1) * 2.0**-8
UNIFORM16 = (W >> np.uint64(21)).reshape(-1) * 2.0**-11
# What a fill of SIZE elements holds, and how many calls it takes; without a tolerance: to the bit.
DRAWS: list[tuple[str, Callable[[Any, Any], Any], Any, int, float]] = [
    ("float32", lambda x, g: x.uniform_(generator=g), uniform32(W), 4, 0),
    ("float32", lambda x, g: x.uniform_(-2, 6, generator=g), uniform32(W) * 8 - 2, 4, 1e-6),
    ("float64", lambda x, g: x.uniform_(generator=g), lower64(U), 2, 0),
    ("float16", lambda x, g: x.uniform_(generator=g), UNIFORM16, 4, 0),
    ("bfloat16", lambda x, g: x.uniform_(generator=g), UNIFORM8, 4, 0),
    ("bfloat16", lambda x, g: x.normal_(generator=g), NORMAL32, 4, 2e-2),
    ("bfloat16", lambda x, g: x.random_(9, generator=g), scaled(U, 9), 2, 0),
    ("bfloat16", lambda x, g: x.bernoulli_(0.3, generator=g), W.reshape(-1) < 0.3 * 2**32, 4, 0),
    ("float32", lambda x, g: x.normal_(generator=g), NORMAL32, 4, 2e-6),
    ("float16", lambda x, g: x.normal_(1, 2, generator=g), 1 + 2 * NORMAL32, 4, 4e-3),
    ("float64", lambda x, g: x.normal_(generator=g), NORMAL64, 2, 1e-13),
    ("float32", lambda x, g: x.exponential_(4.0, generator=g), EXPONENTIAL32 / 4, 4, 1e-6),
    ("float64", lambda x, g: x.exponential_(generator=g), -np.log(lower64(U) + 2.0**-54), 2, 1e-13),
    ("float32", lambda x, g: x.bernoulli_(0.3, generator=g), W.reshape(-1) < 0.3 * 2**32, 4, 0),
    ("bool", lambda x, g: x.bernoulli_(0.3, generator=g), W.reshape(-1) < 0.3 * 2**32, 4, 0),
    ("int16", lambda x, g: x.bernoulli_(1.0, generator=g), np.ones(SIZE), 4, 0),
    ("float16", lambda x, g: x.bernoulli_(0.0, generator=g), np.zeros(SIZE), 4, 0),
    ("float32", lambda x, g: x.bernoulli_(nt.tensor(CHANCES, device=x.device), generator=g),
     W.reshape(-1)[:SIZE] < CHANCES * 2.0**32, 4, 0),
    ("int64", lambda x, g: x.random_(-5, 1000, generator=g), scaled(U, 1005) - 5, 2, 0),
    ("uint8", lambda x, g: x.random_(generator=g), scaled(U, 256), 2, 0),
    ("float32", lambda x, g: x.random_(generator=g), scaled(U, 2**24 + 1), 2, 0),
    ("float16", lambda x, g: x.random_(7, generator=g), scaled(U, 7), 2, 0),
]  # fmt: skip


def started(seed: int = SEED, offset: int = OFFSET) -> nt.Generator:
    """A generator of the GPU at this place."""
    state = np.frombuffer(np.array([seed, offset], np.uint64).tobytes(), np.uint8)
    return nt.Generator("cuda").set_state(nt.tensor(state.copy()))


def place(generator: nt.Generator) -> tuple[int, int]:
    """Seed and offset of a generator of the GPU."""
    state = generator.get_state()
    assert (state.device, state.dtype) == (nt.device("cpu"), nt.uint8)
    seed, offset = np.frombuffer(state.numpy().tobytes(), np.uint64).tolist()
    return seed, offset


@pytest.mark.parametrize("row", range(len(DRAWS)))
def test_a_draw_is_what_philox_says(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype, draw, expected, each, tolerance = DRAWS[row]
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    drawn = []
    for threads, most in ((256, 4096), (32, 3)):
        monkeypatch.setattr(philox, "THREADS", threads)
        monkeypatch.setattr(philox, "MOST_BLOCKS", most)
        generator = started()
        blank = nt.empty(SIZE, dtype=getattr(nt, dtype), device="cuda")
        drawn.append(draw(blank, generator).cpu()._array)
        assert place(generator) == (SEED, OFFSET + -(-SIZE // each))
    assert drawn[0].tobytes() == drawn[1].tobytes()
    expected = np.asarray(expected)[:SIZE].astype(drawn[0].dtype)
    if dtype == "bfloat16":
        expected, drawn = expected.astype("f"), [array.astype("f") for array in drawn]
    if tolerance:
        np.testing.assert_allclose(drawn[0], expected, rtol=tolerance, atol=tolerance)
    else:
        assert drawn[0].tolist() == expected.tolist()


def greatest_distance(values: Any, distribution: Callable[[Any], Any]) -> float:
    """Kolmogorov and Smirnov's: between the shares of values and what they should be."""
    expected, steps = distribution(np.sort(values)), np.arange(len(values) + 1) / len(values)
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


DISTRIBUTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any], float, float]] = {
    "uniform": (lambda x: x.uniform_(2, 4), lambda x: (x - 2) / 2, 3.0, 1 / 3),
    "normal": (
        lambda x: x.normal_(1, 2),
        lambda x: np.array([(1 + math.erf((v - 1) / 2 / math.sqrt(2))) / 2 for v in x]),
        1.0,
        4.0,
    ),
    "exponential": (lambda x: x.exponential_(2.0), lambda x: 1 - np.exp(-2 * x), 0.5, 0.25),
}


@pytest.mark.parametrize("dtype", [nt.float32, nt.float64])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_draws_have_their_distribution(name: str, dtype: nt.dtype) -> None:
    fill, distribution, mean, variance = DISTRIBUTIONS[name]
    nt.manual_seed(11)
    x = fill(nt.empty(COUNT, dtype=dtype, device="cuda")).cpu().double().numpy()
    assert greatest_distance(x, distribution) < 1.63 / math.sqrt(COUNT)  # 1 in 100
    assert x.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / COUNT))
    assert x.var() == pytest.approx(variance, rel=0.06)
    lag = np.corrcoef(x[:-1], x[1:])[0, 1]
    assert abs(lag) < 4 / math.sqrt(COUNT)


@pytest.mark.parametrize("dtype", [nt.float16, nt.float32, nt.float64])
def test_uniforms_leave_their_upper_bound_out_and_normals_are_finite(dtype: nt.dtype) -> None:
    nt.manual_seed(2)
    with nt.device("cuda"):
        x = nt.rand(200_000, dtype=dtype)
        assert 0 <= x.min().item() < x.max().item() < 1
        assert nt.empty(9999, dtype=dtype).uniform_(1.0, 1.002).max().item() < 1.002
        assert nt.isfinite(nt.randn(200_000, dtype=dtype)).all().item()
        assert nt.empty(200_000, dtype=dtype).exponential_().min().item() > 0


def test_fills_go_in_the_order_of_memory_and_into_any_view() -> None:
    flat = nt.rand(12, device="cuda", generator=started()).tolist()
    turned = nt.empty(3, 4, device="cuda").t().uniform_(generator=started())
    assert turned.t().reshape(-1).tolist() == flat
    assert nt.rand_like(turned, generator=started()).t().reshape(-1).tolist() == flat
    wide = nt.zeros(12, 2, device="cuda")
    wide[:, 0].uniform_(generator=started())
    assert (wide[:, 0].tolist(), wide[:, 1].tolist()) == (flat, [0.0] * 12)
    unaligned = nt.zeros(13, device="cuda")
    unaligned[1:].uniform_(generator=started())
    assert unaligned.tolist() == [0.0, *flat]
    assert nt.rand(0, 3, device="cuda", generator=(g := started())).shape == (0, 3)
    assert place(g) == (SEED, OFFSET)


def test_permutations_hold_every_number_once() -> None:
    for n in (0, 1, 2, 1000):
        order = nt.randperm(n, device="cuda", generator=started())
        assert order.dtype is nt.int64
        assert sorted(order.tolist()) == list(range(n))
        keys = pairs(SEED, OFFSET, -(-n // 2))[:n]
        assert order.tolist() == np.argsort(keys).tolist()
    assert nt.randperm(9, device="cuda", dtype=nt.int32).dtype is nt.int32
    assert nt.randperm(99, device="cuda").tolist() != nt.randperm(99, device="cuda").tolist()


@pytest.mark.parametrize("dtype", [nt.float16, nt.float32, nt.float64])
@pytest.mark.parametrize("samples, replacement", [(1, False), (3, False), (4000, True)])
def test_multinomial_draws_in_proportion(dtype: nt.dtype, samples: int, replacement: bool) -> None:
    weights = nt.tensor([[0.0, 1.0, 0.0, 2.0, 5.0, 0.0], [4.0, 0.0, 1.0, 1.0, 0.0, 2.0]],
                        dtype=dtype, device="cuda")  # fmt: skip
    nt.manual_seed(4)
    drawn = nt.multinomial(weights, samples, replacement)
    assert (drawn.shape, drawn.dtype, drawn.is_cuda) == ((2, samples), nt.int64, True)
    shares = weights.cpu().double().numpy() / 8
    for row, share in zip(drawn.cpu().numpy(), shares, strict=True):
        assert set(row) <= set(np.flatnonzero(share))
        if replacement:
            counted = np.bincount(row, minlength=6) / samples
            np.testing.assert_allclose(counted, share, atol=4 / math.sqrt(samples) / 2)
        else:
            assert len(set(row)) == samples
    assert nt.multinomial(weights[0], samples, replacement).shape == (samples,)


def test_normals_of_tensors_and_draws_of_integers() -> None:
    nt.manual_seed(5)
    mean = nt.tensor([0.0, 100.0], device="cuda")
    x = nt.normal(mean.expand(999, 2), nt.tensor([1.0, 3.0], device="cuda"))
    assert x.is_cuda
    assert x.mean(0).tolist() == pytest.approx([0, 100], abs=0.5)
    assert x.std(0).tolist() == pytest.approx([1, 3], rel=0.1)
    counted = nt.bincount(nt.randint(3, 8, (5000,), device="cuda").cpu(), minlength=8)
    assert counted[:3].tolist() == [0, 0, 0]
    assert min(counted[3:].tolist()) > 850
    assert nt.randint_like(x, 2, 4).unique().tolist() == [2.0, 3.0]
    assert nt.bernoulli(nt.full((5000,), 0.25, device="cuda")).mean().item() == pytest.approx(
        0.25, abs=0.025
    )


def test_a_state_taken_anywhere_is_gone_on_from(tmp_path: Any) -> None:
    generator = nt.Generator("cuda").manual_seed(-5)
    assert generator.initial_seed() == 2**64 - 5
    assert str(generator.device) == "cuda:0"
    nt.rand(10, generator=generator, device="cuda")
    assert place(generator) == (2**64 - 5, 3)
    copies = [generator.clone_state(), pickle.loads(pickle.dumps(generator)), nt.Generator("cuda")]
    copies[2].set_state(generator.get_state())
    expected = nt.randn(5, device="cuda", generator=generator).tolist()
    for copy in copies:
        assert nt.randn(5, device="cuda", generator=copy).tolist() == expected
    with pytest.raises(RuntimeError, match="16 bytes, got 5056"):
        generator.set_state(nt.get_rng_state())
    with pytest.raises(RuntimeError, match="5056 bytes, got 16"):
        nt.set_rng_state(generator.get_state())


def test_a_gpus_generator_draws_for_its_gpu_alone() -> None:
    generator = nt.Generator("cuda")
    with pytest.raises(RuntimeError, match="expected one of device cpu, got one of cuda:0"):
        nt.rand(2, generator=generator)
    if nt.cuda.device_count() > 1:
        with pytest.raises(RuntimeError, match="device cuda:1, got one of cuda:0"):
            nt.rand(2, device="cuda:1", generator=generator)
        nt.manual_seed(3)
        assert nt.rand(4, device="cuda:1").tolist() == nt.rand(4, device="cuda:0").tolist()


def test_a_fork_puts_the_streams_of_all_gpus_back(cuda: str) -> None:
    nt.manual_seed(8)
    nt.rand(3, device="cuda")
    for _ in range(2):
        before = nt.cuda.get_rng_state()
        with nt.random.fork_rng():
            drawn = nt.rand(5, device="cuda").tolist()
            nt.manual_seed(1)
        assert nt.cuda.initial_seed() == 8
        assert nt.equal(nt.cuda.get_rng_state(), before)
        assert nt.rand(5, device="cuda").tolist() == drawn


def test_a_draw_waits_for_what_another_stream_drew(cuda: str) -> None:
    nt.manual_seed(8)
    expected = [nt.rand(5, device="cuda").tolist() for _ in range(3)]
    nt.manual_seed(8)
    found = [nt.rand(5, device="cuda")]
    with nt.cuda.stream(nt.cuda.Stream()):
        found.append(nt.rand(5, device="cuda"))
    found.append(nt.rand(5, device="cuda"))
    assert [x.tolist() for x in found] == expected


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_scales_what_it_keeps_and_its_gradient_alike() -> None:
    nt.manual_seed(6)
    x = nt.ones(100, 40, device="cuda", requires_grad=True)
    y = F.dropout(x, 0.2)
    assert y.is_cuda
    assert sorted(set(y.detach().reshape(-1).tolist())) == [0.0, 1.25]
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == y.tolist()
    assert F.dropout(x, 0.2).tolist() != y.tolist()
    half = F.dropout(x.t().half(), 0.5)  # its noise lies as x does, what CuPy computes does not
    assert half.shape == (40, 100) and sorted(set(half.reshape(-1).tolist())) == [0.0, 2.0]


def test_a_step_with_dropout_neither_copies_nor_waits(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("only the look-alike counts")
    nt.manual_seed(0)
    layers = nt.nn.Sequential(nt.nn.Linear(4, 8), nt.nn.Dropout(0.5), nt.nn.Linear(8, 1))
    layers.to("cuda")
    optimizer = nt.optim.SGD(layers.parameters(), lr=0.1)
    x = nt.randn(16, 4, device="cuda")
    seen = []

    def step() -> None:
        optimizer.zero_grad()
        loss = (layers(x + nt.randn_like(x) * 0.1) ** 2).mean()
        loss.backward()
        optimizer.step()
        seen.append(loss.detach())
        x.add_(nt.bernoulli(nt.full((16, 4), 0.5, device="cuda"))).normal_(0, 1)
        nt.randperm(16, device="cuda"), nt.multinomial(x.abs(), 2)

    step()
    before = strict_cupy.counts.launches
    nn_launches = F.dropout(x, 0.5)
    assert nn_launches.is_cuda
    assert strict_cupy.counts.launches - before <= 4  # the arrays of noise and result are two
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        for _ in range(3):
            step()
    assert len({loss.item() for loss in seen}) == 4


def test_checkpointing_draws_the_same_again_without_a_wait(cuda: str) -> None:
    nt.manual_seed(0)
    x = nt.ones(50, device="cuda", requires_grad=True)
    y = nt.utils.checkpoint.checkpoint(
        lambda x: F.dropout(x * 1, 0.5).exp(), x, use_reentrant=False
    )
    following = nt.cuda.get_rng_state()
    if cuda == "look-alike":
        with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
            y.sum().backward()
    else:
        y.sum().backward()
    assert nt.equal(nt.cuda.get_rng_state(), following)
    assert x.grad is not None
    kept = np.log(y.detach().cpu().numpy())
    np.testing.assert_allclose(x.grad.cpu().numpy(), kept * np.exp(kept), rtol=1e-5)


def test_vmap_sees_the_draws_of_a_gpu() -> None:
    x = nt.zeros(3, 4, device="cuda")
    with pytest.raises(RuntimeError, match="randomness error mode"):
        nt.vmap(lambda row: row + nt.rand_like(row))(x)
    rows = nt.vmap(lambda row: row + nt.rand_like(row), randomness="same")(x).tolist()
    assert rows[0] == rows[1] == rows[2]


def test_without_kernels_the_cpu_draws(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available", lambda xp: False)
    monkeypatch.setattr(nt.sampling, "_cuda_engines", {})
    nt.manual_seed(3)
    expected = [nt.rand(5).tolist(), F.dropout(nt.ones(9)).tolist()]
    nt.manual_seed(3)
    x = nt.ones(9, device="cuda")
    assert [nt.rand(5, device="cuda").tolist(), F.dropout(x).tolist()] == expected
    generator = nt.Generator("cuda").manual_seed(3)
    assert nt.rand(5, device="cuda", generator=generator).tolist() == expected[0]
