"""What only a device can show: asynchrony, its own memory, and the same bits from run to run.

All of it needs a GPU and CuPy: `pytest -m gpu`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import nanotorch as nt
from nanotorch import backend, nn
from nanotorch.training import fit, read_request
from nanotorch.training.model_file import read_model_file

pytestmark = pytest.mark.gpu


# --- training -------------------------------------------------------------------------------------


def trained(folder: Path, device: str, *flags: str, resume: str | None = None) -> Path:
    """The folder of a run of configs/breast_cancer.toml."""
    options = ["--output.folder", str(folder), "--device", device, "--output.curves", "false"]
    options += ["--output.report", "false", *flags]
    request = read_request(["configs/breast_cancer.toml", *options])
    return fit(request.configs[0], resume, quiet=True).folder


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [value for line in lines for key, value in json.loads(line).items() if "loss" in key]


HUNDRED = ("--training.epochs", "100", "--schedule.name", "constant")


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("cpu"), "cpu", *HUNDRED)


@pytest.fixture(scope="module")
def on_the_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("gpu"), "cuda", *HUNDRED)


WAYS = {
    "once more": [],
    "rows that travel": ["--data.on_device", "no"],
    "eager": ["--training.compile", "off"],
    "several steps at a launch": ["--training.steps_per_launch", "10"],
    "several steps on rows that travel": [
        *("--training.steps_per_launch", "10", "--data.on_device", "no"),
    ],
}  # fmt: skip


def test_a_hundred_epochs_have_the_cpus_losses(on_the_cpu: Path, on_the_gpu: Path) -> None:
    expected, found = losses(on_the_cpu), losses(on_the_gpu)
    assert len(found) == len(expected) == 200
    numpy.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_hundred_epochs_have_the_same_bits_each_time_and_by_each_way(
    way: str, on_the_gpu: Path, tmp_path: Path
) -> None:
    again = trained(tmp_path, "cuda", *HUNDRED, *WAYS[way])
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (again / name).read_bytes() == (on_the_gpu / name).read_bytes()


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_goes_on_on_the_other_device(
    devices: tuple[str, str], on_the_cpu: Path, tmp_path: Path
) -> None:
    begun, ended = devices
    trained(tmp_path, begun, "--training.epochs", "50", *HUNDRED[2:])
    resumed = trained(tmp_path, ended, *HUNDRED, resume="newest")
    numpy.testing.assert_allclose(losses(resumed), losses(on_the_cpu), rtol=1e-4, atol=1e-6)
    weights = [read_model_file(run / "model.safetensors").weights for run in (resumed, on_the_cpu)]
    for name, expected in weights[1].items():
        numpy.testing.assert_allclose(weights[0][name], expected, rtol=1e-2, atol=1e-4)


def network() -> tuple[Any, Any, Any]:
    """A model with an embedding, normalization and dropout, its optimizer, and a step of it."""
    nt.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(50, 16), nn.Flatten(), nn.Linear(128, 64), nn.LayerNorm(64), nn.GELU(),
        nn.Dropout(0.1), nn.Linear(64, 5),
    ).to("cuda")  # fmt: skip
    optimizer = nt.optim.AdamW(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    x = nt.randint(0, 50, (256, 8)).to("cuda")
    return model, step, (x, x[:, 0] % 5)


def bits_of(model: Any) -> list[bytes]:
    return [p.detach().cpu().numpy().tobytes() for p in model.parameters()]


@pytest.mark.parametrize("compiled", [False, True])
def test_five_trainings_end_in_the_same_bits(compiled: bool) -> None:
    found = []
    for _ in range(5):
        model, step, batch = network()
        step = nt.compile(step, pure=True) if compiled else step
        taken = [step(*batch) for _ in range(20)]
        found.append(bits_of(model))
        assert taken[-1].item() < taken[0].item()
    assert all(bits == found[0] for bits in found)


REPEATED: dict[str, Callable[[Any, Any], Any]] = {
    "index_add": lambda i, v: nt.zeros(7, 64, device="cuda").index_add(0, i, v),
    "index_put": lambda i, v: nt.zeros(7, 64, device="cuda").index_put((i,), v, accumulate=True),
    "scatter_add": lambda i, v: nt.zeros(7, 64, device="cuda").scatter_add(
        0, i[:, None].expand(-1, 64).contiguous(), v
    ),
    "sum": lambda i, v: v.sum(),
    "mean over rows": lambda i, v: v.mean(0),
    "a product": lambda i, v: v.T @ v,
    "a softmax": lambda i, v: nt.softmax(v, 1),
}


@pytest.mark.parametrize("name", REPEATED)
def test_sums_have_the_same_bits_each_time(name: str) -> None:
    nt.manual_seed(1)
    index, values = nt.randint(0, 7, (20_000,)).to("cuda"), nt.randn(20_000, 64).to("cuda")
    found = {REPEATED[name](index, values).cpu().numpy().tobytes() for _ in range(5)}
    assert len(found) == 1


# --- a steady step --------------------------------------------------------------------------------


@contextlib.contextmanager
def takings() -> Iterator[list[int]]:
    """The sizes of all memory that is taken from any pool meanwhile."""
    taken: list[int] = []
    module = backend.cuda_module()

    class Taking(module.cuda.MemoryHook):  # type: ignore[misc, name-defined]
        name = "takings"

        def malloc_postprocess(self, **facts: Any) -> None:
            taken.append(facts["size"])

    with Taking():
        yield taken


def test_a_steady_compiled_step_takes_no_memory() -> None:
    model, step, batch = network()
    step = nt.compile(step, pure=True)
    for _ in range(4):
        step(*batch)
    nt.cuda.synchronize()
    reserved = nt.cuda.memory_reserved()
    with takings() as taken:
        for _ in range(10):
            step(*batch)
    assert taken == []
    assert nt.cuda.memory_reserved() == reserved
    assert all(numpy.isfinite(p.detach().cpu().numpy()).all() for p in model.parameters())


def test_steady_eager_steps_ask_the_driver_for_nothing() -> None:
    _, step, batch = network()
    for _ in range(4):
        step(*batch)
    nt.cuda.synchronize()
    reserved = nt.cuda.memory_reserved()
    with takings() as taken:
        for _ in range(10):
            step(*batch)
    assert nt.cuda.memory_reserved() == reserved
    assert taken  # which the pool hands out again and again


CROSSINGS = ("Memcpy HtoD", "Memcpy DtoH")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def seen_by_the_profiler(work: Callable[[], Any]) -> list[str]:
    """The names of what CUDA did and was asked for meanwhile, whoever asked."""
    torch = pytest.importorskip("torch", reason="its profiler counts what crosses")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch was built without CUDA")
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=kinds) as profile:
            work()
        return [event.name for event in profile.events()]


def crossings_and_waits(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(CROSSINGS) or name in WAITS]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_steady_step_neither_copies_nor_waits(compiled: bool) -> None:
    _, step, batch = network()
    step = nt.compile(step, pure=True) if compiled else step
    for _ in range(4):
        step(*batch)

    def read() -> None:
        step(*batch).item()

    def steps() -> None:
        for _ in range(5):
            step(*batch)

    if not crossings_and_waits(seen_by_the_profiler(read)):
        pytest.skip("the profiler sees nothing of what CuPy does")
    assert crossings_and_waits(seen_by_the_profiler(steps)) == []


# --- streams, events and memory -------------------------------------------------------------------


def busy(rounds: int = 60) -> Any:
    """Work that keeps a device for some milliseconds."""
    x = nt.full((4096, 4096), 1e-4, device="cuda")
    for _ in range(rounds):
        x = x @ x
    return x


def test_the_host_does_not_wait_for_what_it_gave_to_a_stream() -> None:
    busy(1)
    stream = nt.cuda.Stream()
    start, end = (nt.cuda.Event(enable_timing=True) for _ in range(2))
    nt.cuda.synchronize()
    with nt.cuda.stream(stream):
        start.record()
        busy()
        end.record()
    assert not end.query()
    assert not stream.query()
    assert nt.cuda.default_stream().query()
    end.synchronize()
    assert end.query() and stream.query()
    assert start.elapsed_time(end) > 0.1


def test_a_stream_waits_for_another_by_an_event() -> None:
    one, other = nt.cuda.Stream(), nt.cuda.Stream()
    for _ in range(5):
        with nt.cuda.stream(one):
            x = nt.zeros(1 << 20, device="cuda")
            busy(10)
            x += 1
        other.wait_stream(one)
        with nt.cuda.stream(other):
            total = x.sum()
        other.synchronize()
        with nt.cuda.stream(other):
            assert total.item() == 1 << 20
    nt.cuda.synchronize()


def test_memory_figures_follow_the_driver() -> None:
    nt.cuda.empty_cache()
    nt.cuda.synchronize()
    size = 1 << 30
    allocated, reserved = nt.cuda.memory_allocated(), nt.cuda.memory_reserved()
    nt.cuda.reset_peak_memory_stats()
    x = nt.empty(size // 4, device="cuda")
    assert nt.cuda.memory_allocated() - allocated == size
    assert nt.cuda.memory_reserved() - reserved >= size
    free, total = nt.cuda.mem_get_info()
    assert free <= total - size
    del x
    assert nt.cuda.memory_allocated() == allocated
    assert nt.cuda.max_memory_allocated() == allocated + size
    nt.cuda.empty_cache()
    assert nt.cuda.memory_reserved() < reserved + size


def test_pinned_memory_is_copied_while_the_host_goes_on() -> None:
    x = nt.randn(1 << 24).pin_memory()
    nt.cuda.synchronize()
    side = nt.cuda.Stream()
    with nt.cuda.stream(side):
        busy(20)
        moved = x.to("cuda", non_blocking=True)
        mark = side.record_event()
    assert not mark.query()
    side.synchronize()
    with nt.cuda.stream(side):
        assert moved.cpu().numpy().tobytes() == x.numpy().tobytes()


def test_rows_that_travel_in_large_blocks_arrive_unchanged() -> None:
    from nanotorch.training.data.batches import Batches
    from nanotorch.training.data.parts import FeatureRows, Part

    draw = numpy.random.default_rng(0)
    values = draw.standard_normal((60_000, 512), dtype="f")
    part = Part(FeatureRows(values), draw.integers(0, 9, 60_000))
    made = [
        Batches(part, None, 1000, shuffle=True, device="cuda", on_device=kept)
        for kept in (True, False)
    ]
    weights = nt.randn(512, 512).to("cuda")
    sums: list[list[Any]] = [[], []]
    for batches, found in zip(made, sums, strict=True):
        for x, y, _ in batches.epoch(0):
            for _ in range(4):  # so that copies come while a batch is read
                product = x @ weights
            found += [product.sum(), x.sum(), y.sum()]
    for kept, sent in zip(*sums, strict=True):
        assert kept.item() == sent.item()


def test_an_epoch_of_rows_that_travel_gives_up_its_memory() -> None:
    from nanotorch.training.data.batches import Batches
    from nanotorch.training.data.parts import FeatureRows, Part

    part = Part(FeatureRows(numpy.ones((50_000, 256), "f")), numpy.zeros((50_000, 1), "f"))
    gc.collect()  # of what earlier tests left in cycles
    before = nt.cuda.memory_allocated()
    batches = Batches(part, None, 500, shuffle=True, device="cuda", on_device=False)
    epoch = batches.epoch(0)
    next(epoch)
    epoch.close()
    del epoch, batches
    assert nt.cuda.memory_allocated() == before
