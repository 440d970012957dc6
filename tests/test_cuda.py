"""`nanotorch.cuda`: torch.cuda's names, with a GPU and without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import backend

ROOT = Path(__file__).parent.parent
NEEDS_A_GPU: dict[str, Callable[[], Any]] = {
    "current_device": lambda: nt.cuda.current_device(),
    "set_device": lambda: nt.cuda.set_device(0),
    "device": lambda: nt.cuda.device(0),
    "get_device_name": lambda: nt.cuda.get_device_name(),
    "get_device_properties": lambda: nt.cuda.get_device_properties(0),
    "get_device_capability": lambda: nt.cuda.get_device_capability(),
    "synchronize": lambda: nt.cuda.synchronize(),
    "mem_get_info": lambda: nt.cuda.mem_get_info(),
    "Stream": lambda: nt.cuda.Stream(),
    "Event": lambda: nt.cuda.Event(),
    "current_stream": lambda: nt.cuda.current_stream(),
    "init": lambda: nt.cuda.init(),
    "Tensor.cuda": lambda: nt.ones(2).cuda(),
    "Tensor.to": lambda: nt.ones(2).to("cuda:0"),
    "Tensor.pin_memory": lambda: nt.ones(2).pin_memory(),
    "zeros": lambda: nt.zeros(2, device="cuda"),
    "Module.cuda": lambda: nt.nn.Linear(2, 2).cuda(),
}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if CuPy were not installed, whatever this machine has."""
    monkeypatch.setattr(backend.devices, "_cuda_module", None)
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.mark.parametrize("name", NEEDS_A_GPU)
def test_without_a_gpu_one_line_says_what_to_install(name: str, no_gpu: None) -> None:
    with pytest.raises(RuntimeError, match=r'pip install "nanotorch\[cuda12\]"') as caught:
        NEEDS_A_GPU[name]()
    assert "\n" not in str(caught.value)


def test_without_a_gpu_there_are_none_and_nothing_is_in_use(no_gpu: None) -> None:
    assert nt.cuda.is_available() is False
    assert nt.cuda.is_initialized() is False
    assert nt.cuda.device_count() == 0
    assert nt.cuda.memory_allocated() == nt.cuda.max_memory_allocated() == 0
    assert nt.cuda.memory_reserved() == 0
    nt.cuda.reset_peak_memory_stats()
    nt.cuda.empty_cache()
    assert not nt.cuda.is_bf16_supported()
    assert not nt.cuda.is_current_stream_capturing()
    assert not nt.ones(2).is_pinned()
    with nt.cuda.stream(None), nt.cuda.device(None), nt.cuda.device(-1):
        assert nt.ones(1).item() == 1.0


def test_without_a_gpu_its_seed_leaves_the_cpus_numbers_alone(no_gpu: None) -> None:
    nt.manual_seed(3)
    expected = nt.rand(2).tolist()
    nt.manual_seed(3)
    nt.cuda.manual_seed(4)
    nt.cuda.manual_seed_all(5)
    assert nt.rand(2).tolist() == expected


def test_a_driver_that_is_missing_is_told_from_a_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cuda:
        is_available = staticmethod(lambda: False)

    class CuPy:
        cuda = Cuda

    monkeypatch.setattr(backend.devices, "_cuda_module", None)
    monkeypatch.setitem(sys.modules, "cupy", CuPy)  # type: ignore[arg-type]
    assert not nt.cuda.is_available()
    with pytest.raises(RuntimeError, match=r"installed but finds no usable GPU.*nvidia-smi"):
        nt.zeros(1, device="cuda")


@pytest.mark.torch
def test_the_names_are_those_of_torch_cuda() -> None:
    torch = pytest.importorskip("torch")
    ours = {
        name
        for name, value in vars(nt.cuda).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == "nanotorch.cuda"
    }
    assert len(ours) >= 25
    assert {name for name in ours if not hasattr(torch.cuda, name)} == set()


# --- with a GPU, or its look-alike ----------------------------------------------------------------


def test_what_a_device_says_of_itself(cuda: str) -> None:
    assert nt.cuda.is_available()
    assert nt.cuda.device_count() >= 1
    assert nt.cuda.current_device() == 0
    assert nt.cuda.get_device_name() == nt.cuda.get_device_properties("cuda:0").name != ""
    assert nt.cuda.get_device_capability(0) >= (3, 0)
    free, total = nt.cuda.mem_get_info()
    assert 0 < free <= total
    nt.cuda.synchronize()


def test_a_device_that_does_not_exist_is_refused_by_its_number(cuda: str) -> None:
    beyond = nt.cuda.device_count()
    with pytest.raises(RuntimeError, match=f"no device {beyond}; this machine has {beyond}"):
        nt.cuda.set_device(beyond)
    with pytest.raises(RuntimeError, match=f"'cuda:{beyond}': this machine has {beyond} GPUs"):
        nt.ones(2).to(f"cuda:{beyond}")
    with pytest.raises(RuntimeError, match=f"'cuda:{beyond}': this machine has {beyond} GPUs"):
        nt.zeros(2, device=f"cuda:{beyond}")
    with pytest.raises(ValueError, match="Expected a cuda device, but got: cpu"):
        nt.cuda.synchronize("cpu")


def test_memory_is_counted_while_arrays_hold_it(cuda: str) -> None:
    nt.cuda.empty_cache()
    nt.cuda.reset_peak_memory_stats()
    before = nt.cuda.memory_allocated()
    x = nt.zeros(1000, device="cuda")
    assert nt.cuda.memory_allocated() - before == 4096
    del x
    assert nt.cuda.memory_allocated() == before
    assert nt.cuda.max_memory_allocated() == before + 4096
    assert nt.cuda.memory_reserved() >= before + 4096
    nt.cuda.reset_peak_memory_stats()
    assert nt.cuda.max_memory_allocated() == before
    nt.cuda.empty_cache()
    assert nt.cuda.memory_reserved() >= nt.cuda.memory_allocated()


def test_each_gpu_has_a_generator_of_its_own(cuda: str) -> None:
    generators = nt.cuda.default_generators
    assert [str(g.device) for g in generators[:1]] == ["cuda:0"]
    assert len(generators) == nt.cuda.device_count()
    nt.cuda.manual_seed_all(7)
    assert {g.initial_seed() for g in generators} == {7}
    drawn = nt.randn(5, device="cuda").tolist()
    assert nt.randn(5, device="cuda").tolist() != drawn
    nt.cuda.manual_seed(7)
    assert nt.cuda.initial_seed() == 7
    assert nt.randn(5, device="cuda").tolist() == drawn
    nt.manual_seed(7)
    assert nt.randn(5, device="cuda").tolist() == drawn
    states = nt.cuda.get_rng_state_all()
    following = nt.rand(3, device="cuda").tolist()
    nt.cuda.seed_all()
    assert nt.cuda.initial_seed() != 7
    nt.cuda.set_rng_state_all(states)
    assert nt.rand(3, device="cuda").tolist() == following


def test_streams_and_events(cuda: str) -> None:
    stream = nt.cuda.Stream()
    start, end = (nt.cuda.Event(enable_timing=True) for _ in range(2))
    with nt.cuda.stream(stream):
        assert nt.cuda.current_stream() == stream
        start.record()
        x = nt.ones(100, device="cuda") * 2
        end.record()
    assert nt.cuda.current_stream() == nt.cuda.default_stream() != stream
    nt.cuda.current_stream().wait_stream(stream)
    end.wait()
    end.synchronize()
    stream.synchronize()
    assert end.query() and stream.query()
    assert start.elapsed_time(end) >= 0
    assert x.sum().item() == 200.0
    assert str(stream).startswith("<torch.cuda.Stream device=cuda:0 cuda_stream=0x")
    with pytest.raises(RuntimeError, match="enable_timing=True"):
        nt.cuda.Event().elapsed_time(end)


def test_a_stream_is_chosen_for_good_or_by_its_address(cuda: str) -> None:
    stream = nt.cuda.Stream()
    other = nt.cuda.ExternalStream(stream.cuda_stream)
    assert other == stream
    assert stream.__cuda_stream__() == other.__cuda_stream__() == (0, stream.cuda_stream)
    nt.cuda.set_stream(other)
    try:
        assert nt.cuda.current_stream() == stream
        x = nt.ones(3, device="cuda") + 1
    finally:
        nt.cuda.set_stream(nt.cuda.default_stream())
    assert nt.cuda.current_stream() == nt.cuda.default_stream()
    stream.synchronize()
    assert x.tolist() == [2.0, 2.0, 2.0]
    assert not nt.cuda.is_current_stream_capturing()
    assert nt.cuda.is_bf16_supported()


def test_pinned_memory_is_copied_without_waiting(cuda: str) -> None:
    x = nt.tensor([[1.0, 2.0], [3.0, 4.0]])
    pinned = x.pin_memory()
    assert (x.is_pinned(), pinned.is_pinned()) == (False, True)
    assert pinned.pin_memory() is pinned
    assert pinned[0].is_pinned()
    assert pinned.tolist() == x.tolist()
    before = strict_cupy.counts.synchronizations
    moved = pinned.to("cuda", non_blocking=True)
    assert strict_cupy.counts.synchronizations == before
    waiting = pinned.cuda()
    if cuda == "look-alike":
        assert strict_cupy.counts.synchronizations == before + 1
    del pinned
    assert moved.tolist() == waiting.tolist() == x.tolist()
    with pytest.raises(RuntimeError, match="expected a tensor on the CPU, got one on cuda:0"):
        moved.pin_memory()


def test_a_loader_pins_its_batches(cuda: str) -> None:
    x, y = nt.randn(6, 2), nt.arange(6)
    loader = nt.utils.data.DataLoader(
        nt.utils.data.TensorDataset(x, y), batch_size=4, pin_memory=True
    )
    batches = list(loader)
    assert all(part.is_pinned() for batch in batches for part in batch)
    moved = nt.cat([inputs.to("cuda", non_blocking=True) for inputs, _ in batches])
    assert moved.tolist() == x.tolist()
    named = nt.utils.data.DataLoader([{"a": 1.0, "b": "text"}] * 2, pin_memory=True)
    assert [(batch["a"].is_pinned(), batch["b"]) for batch in named] == [(True, ["text"])] * 2


def test_a_loader_without_a_gpu_says_that_it_pins_nothing(no_gpu: None) -> None:
    loader = nt.utils.data.DataLoader([1.0, 2.0], pin_memory=True)
    with pytest.warns(UserWarning, match="pin_memory=True has no effect"):
        assert [batch.item() for batch in loader] == [1.0, 2.0]


# --- the runner without a GPU ---------------------------------------------------------------------


def train(*flags: str) -> subprocess.CompletedProcess[str]:
    """What `python train.py` does where CuPy cannot be imported."""
    program = (
        "import runpy, sys; sys.modules['cupy'] = None; sys.argv[0] = 'train.py'; "
        "runpy.run_path('train.py', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, "configs/breast_cancer.toml", *flags],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_asking_the_runner_for_a_gpu_in_vain_gives_one_line(tmp_path: Path) -> None:
    result = train("--device", "cuda", "--output.folder", str(tmp_path))
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert 'install it with `pip install "nanotorch[cuda12]"`' in line
    assert not any(tmp_path.iterdir())


def test_auto_trains_on_the_cpu_and_says_so(tmp_path: Path) -> None:
    quick = ["--training.epochs", "1", "--output.curves", "false", "--output.report", "false"]
    result = train("--device", "auto", "--output.folder", str(tmp_path), *quick)
    assert (result.returncode, result.stderr) == (0, "")
    assert "device: cpu (auto: no GPU can be used" in result.stdout


def test_numpys_arrays_become_tensors_of_the_device(cuda: str) -> None:
    x = nt.tensor(numpy.arange(3.0), device="cuda")
    assert (x.is_cuda, x.dtype, x.tolist()) == (True, nt.float64, [0.0, 1.0, 2.0])
