"""Where CPU and GPU meet: making, moving, mixing, printing, storing, training and the runner.

Runs on the strict look-alike of CuPy; with `pytest -m gpu` on CuPy itself.
"""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import nn
from nanotorch.training import fit, read_request
from nanotorch.training.model_file import ModelFile, read_model_file, write_model_file


def crossings() -> tuple[int, int, int]:
    """Copies to the device, copies from it, and waits, counted so far by the look-alike."""
    counts = strict_cupy.counts
    return counts.h2d, counts.d2h, counts.synchronizations


def of_the_cpu() -> Any:
    """A generator of the CPU: it draws its own numbers for every device."""
    return nt.Generator().manual_seed(0)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "tensor": lambda d: nt.tensor([[1.0, 2.0], [3.0, 4.0]], device=d),
    "tensor of an array": lambda d: nt.tensor(numpy.arange(3), device=d),
    "as_tensor": lambda d: nt.as_tensor([1, 2], device=d),
    "zeros": lambda d: nt.zeros(2, 3, device=d),
    "ones": lambda d: nt.ones(2, dtype=nt.int64, device=d),
    "empty": lambda d: nt.empty(2, 3, device=d).fill_(1.0),
    "full": lambda d: nt.full((2, 2), 7.0, device=d),
    "eye": lambda d: nt.eye(3, device=d),
    "arange": lambda d: nt.arange(2, 8, 3, device=d),
    "linspace": lambda d: nt.linspace(0, 1, 5, device=d),
    "logspace": lambda d: nt.logspace(0, 1, 5, device=d),
    "zeros_like": lambda d: nt.zeros_like(nt.ones(3, device=d)),
    "ones_like": lambda d: nt.ones_like(nt.zeros(3), device=d),
    "full_like": lambda d: nt.full_like(nt.zeros(3, device=d), 2.0),
    "rand": lambda d: nt.rand(3, 4, device=d, generator=of_the_cpu()),
    "randn": lambda d: nt.randn(20, device=d, generator=of_the_cpu()),
    "randint": lambda d: nt.randint(9, (5,), device=d, generator=of_the_cpu()),
    "randperm": lambda d: nt.randperm(7, device=d, generator=of_the_cpu()),
    "normal": lambda d: nt.normal(1.0, 2.0, (3,), device=d, generator=of_the_cpu()),
    "bernoulli": lambda d: nt.bernoulli(nt.full((9,), 0.5, device=d), generator=of_the_cpu()),
    "rand_like": lambda d: nt.rand_like(nt.zeros(3, device=d), generator=of_the_cpu()),
    "uniform_": lambda d: nt.zeros(5, device=d).uniform_(-1, 1, generator=of_the_cpu()),
    "normal_": lambda d: nt.zeros(5, device=d).normal_(generator=of_the_cpu()),
    "Parameter": lambda d: nn.Parameter(nt.ones(3, device=d)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_made_on_a_gpu_has_the_cpus_values(name: str, cuda: str) -> None:
    expected, made = MAKERS[name]("cpu"), MAKERS[name]("cuda")
    assert str(made.device) == "cuda:0"
    assert made.is_cuda
    assert made.dtype is expected.dtype
    assert made.requires_grad == expected.requires_grad
    assert made.cpu().tolist() == expected.tolist()


def test_a_device_is_the_default_within_its_context(cuda: str) -> None:
    with nt.device("cuda"):
        assert nt.zeros(2).is_cuda
        assert nt.tensor([1.0]).is_cuda
        assert nt.randn(2).is_cuda
        assert nn.Linear(2, 2).weight.is_cuda
        assert not nt.zeros(2, device="cpu").is_cuda
        with nt.device("cpu"):
            assert not nt.ones(2).is_cuda
    assert not nt.zeros(2).is_cuda
    nt.set_default_device("cuda")
    assert nt.get_default_device() == nt.device("cuda")
    assert nt.arange(3).is_cuda
    nt.set_default_device(None)
    assert not nt.arange(3).is_cuda


# --- moving ---------------------------------------------------------------------------------------


def test_a_tensor_moves_there_and_back_unchanged(cuda: str) -> None:
    x = nt.tensor([[1.5, -2.0], [0.25, 9.0]])
    for moved in (x.cuda(), x.to("cuda"), x.to(nt.device("cuda:0")), x.to(0), x.cuda(0)):
        assert moved.is_cuda
        assert moved.cpu().numpy().tobytes() == x.numpy().tobytes()
    on_device = x.cuda()
    assert on_device.cuda() is on_device
    assert x.cpu() is x
    both = x.to("cuda", nt.float64)
    assert (both.is_cuda, both.dtype) == (True, nt.float64)
    like = nt.ones(1, dtype=nt.int64).to(both)
    assert (like.is_cuda, like.dtype) == (True, nt.float64)
    assert on_device.type() == "torch.cuda.FloatTensor"


def test_gradients_come_back_over_a_move(cuda: str) -> None:
    x = nt.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (x.cuda() * nt.tensor([4.0, 5.0, 6.0], device="cuda")).sum().cpu().backward()
    assert x.grad is not None
    assert not x.grad.is_cuda
    assert x.grad.tolist() == [4.0, 5.0, 6.0]


def test_numbers_leave_the_device_only_when_asked(cuda: str) -> None:
    x = nt.tensor([[1.0, 2.0]], device="cuda")
    with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy.*cpu"):
        x.numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        numpy.asarray(x)
    assert x.numpy(force=True).tolist() == [[1.0, 2.0]]
    assert x.tolist() == [[1.0, 2.0]]
    assert x.sum().item() == 3.0
    assert float(x[0, 1]) == 2.0
    assert int(x.argmax()) == 1
    assert bool((x > 0).all())


def test_a_copy_writes_across_devices(cuda: str) -> None:
    x = nt.zeros(3, device="cuda")
    x.copy_(nt.tensor([1.0, 2.0, 3.0]))
    assert x.tolist() == [1.0, 2.0, 3.0]
    host = nt.zeros(3)
    host.copy_(x)
    assert host.tolist() == [1.0, 2.0, 3.0]


def test_dlpack_hands_over_the_same_memory(cuda: str) -> None:
    x = nt.tensor([1.0, 2.0], device="cuda")
    before = crossings()
    y = nt.from_dlpack(x)
    assert crossings() == before
    x += 1
    assert (str(y.device), y.tolist()) == ("cuda:0", [2.0, 3.0])
    assert x.__dlpack_device__() == (2, 0)


def test_printing_names_the_device_and_copies_once(cuda: str) -> None:
    x = nt.arange(2000, dtype=nt.float32, device="cuda").reshape(100, 20).requires_grad_()
    y = x * 2
    before = crossings()
    text = repr(y)
    after = crossings()
    assert text.endswith("device='cuda:0', grad_fn=<MulBackward0>)")
    assert repr(nt.tensor([1.0], device="cuda")) == "tensor([1.], device='cuda:0')"
    assert f"{y.sum():.1f}" == "3998000.0"
    if cuda == "look-alike":
        assert (after[0] - before[0], after[1] - before[1]) == (0, 1)


# --- mixing ---------------------------------------------------------------------------------------

MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: b * a,
    "mm": lambda a, b: a @ b,
    "linear": lambda a, b: nn.functional.linear(a, b),
    "cat": lambda a, b: nt.cat([a, b]),
    "stack": lambda a, b: nt.stack([b, a]),
    "where": lambda a, b: nt.where(a > 0, a, b),
    "mse_loss": lambda a, b: nn.functional.mse_loss(a, b),
    "maximum": lambda a, b: nt.maximum(a, b),
    "iadd": lambda a, b: a.clone().add_(b),
    "gather": lambda a, b: a.gather(0, b.long()),
    "index_select": lambda a, b: a.index_select(0, b[0].long()),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("host_first", [True, False])
def test_mixing_devices_is_refused_by_both_names(name: str, host_first: bool, cuda: str) -> None:
    host, device = nt.ones(2, 2), nt.ones(2, 2, device="cuda")
    operands = (host, device) if host_first else (device, host)
    message = r"^\w+: expected all tensors to be on the same device.*"
    message += "(cpu and cuda:0|cuda:0 and cpu)"
    with pytest.raises(RuntimeError, match=message):
        MIXED[name](*operands)


def test_a_number_of_the_host_may_join(cuda: str) -> None:
    x, two = nt.tensor([1.0, 2.0], device="cuda"), nt.tensor(2.0)
    for y, expected in ((x * two, [2.0, 4.0]), (two * x, [2.0, 4.0]), (two - x, [1.0, 0.0])):
        assert y.is_cuda
        assert y.tolist() == expected
    leaf = nt.tensor(3.0, requires_grad=True)
    (leaf * x).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.item(), leaf.grad.is_cuda) == (3.0, False)
    assert (x.clone().mul_(two)).tolist() == [2.0, 4.0]


def test_whole_numbers_add_up_at_repeated_places(cuda: str) -> None:
    index = nt.tensor([0, 1, 0], device="cuda")
    for dtype in (nt.int64, nt.int32, nt.int8, nt.uint8, nt.float32, nt.float64):
        source = nt.tensor([3, 4, 5], device="cuda", dtype=dtype)
        y = nt.zeros(2, dtype=dtype, device="cuda").index_add(0, index, source)
        assert (y.tolist(), y.dtype) == ([8, 4], dtype)
    y = nt.zeros(2, dtype=nt.int64, device="cuda").scatter_add(0, index, -index - 1)
    assert y.tolist() == [-2, -2]


# --- storing --------------------------------------------------------------------------------------


def model(device: str = "cpu") -> Any:
    nt.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)).to(device)


def values(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cpu().tolist() for name, value in state.items()}


def test_a_state_of_the_gpu_loads_on_the_cpu_and_back(cuda: str, tmp_path: Path) -> None:
    device = model("cuda")
    state = device.state_dict()
    assert all(value.is_cuda for value in state.values())
    host = model()
    for parameter in host.parameters():
        parameter.data.zero_()
    host.load_state_dict(state)
    assert values(host.state_dict()) == values(state)
    assert not any(value.is_cuda for value in host.state_dict().values())
    again = model("cuda")
    again.load_state_dict(host.state_dict())
    assert all(value.is_cuda for value in again.state_dict().values())
    assert values(again.state_dict()) == values(state)

    weights = {name: value.cpu().numpy() for name, value in state.items()}
    write_model_file(tmp_path / "model.safetensors", ModelFile(weights))
    read = read_model_file(tmp_path / "model.safetensors").weights
    assert {name: array.tolist() for name, array in read.items()} == values(state)


def test_a_pickled_tensor_of_the_gpu_opens_without_one(cuda: str) -> None:
    stored = pickle.dumps(nt.tensor([1.0, 2.0], device="cuda", requires_grad=True))
    x = pickle.loads(stored)
    assert (x.tolist(), x.requires_grad, x.is_cuda) == ([1.0, 2.0], True, False)


# --- training -------------------------------------------------------------------------------------


def binary(device: str) -> tuple[Any, Any, Any, Any]:
    x = nt.randn(64, 5)
    y = (x.sum(1, keepdim=True) > 0).float()
    return nn.Linear(5, 1), x, y, nn.BCEWithLogitsLoss()


def softmax(device: str) -> tuple[Any, Any, Any, Any]:
    x = nt.randn(64, 5)
    return nn.Linear(5, 3), x, x[:, :3].argmax(1), nn.CrossEntropyLoss()


def network(device: str) -> tuple[Any, Any, Any, Any]:
    x = nt.randn(64, 5)
    layers = [nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*layers), x, x[:, :3].argmax(1), nn.CrossEntropyLoss(label_smoothing=0.1)


def regression(device: str) -> tuple[Any, Any, Any, Any]:
    x = nt.randn(64, 5)
    layers = [nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1)]
    return nn.Sequential(*layers), x, x.sum(1, keepdim=True), nn.MSELoss()


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD with momentum": lambda p: nt.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "AdamW": lambda p: nt.optim.AdamW(p, lr=0.01),
}


class Training:
    """A model on a device, and what a training step does."""

    def __init__(self, task: Any, optimizer: str, device: str) -> None:
        nt.manual_seed(0)
        layers, x, y, self.loss_of = task(device)
        self.layers, self.x, self.y = layers.to(device), x.to(device), y.to(device)
        self.optimizer = OPTIMIZERS[optimizer](layers.parameters())
        self.schedule = nt.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10)
        self.losses: list[Any] = []

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.loss_of(self.layers(self.x), self.y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.layers.parameters(), 5.0)
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.detach())

    def results(self) -> tuple[list[float], list[Any]]:
        """The losses so far and the parameters."""
        weights = [p.detach().cpu().numpy() for p in self.layers.parameters()]
        return [float(loss) for loss in self.losses], weights


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", [binary, softmax, network, regression])
def test_a_steady_step_neither_copies_nor_waits(task: Any, optimizer: str, cuda: str) -> None:
    host, device = (Training(task, optimizer, place) for place in ("cpu", "cuda"))
    for _ in range(11):
        host.step()
    device.step()  # makes the optimizer's state
    with contextlib.ExitStack() as stack:
        if cuda == "look-alike":
            stack.enter_context(strict_cupy.no_transfers())
            stack.enter_context(strict_cupy.no_synchronization())
        for _ in range(10):
            device.step()
    (losses, weights), (on_device, theirs) = host.results(), device.results()
    assert on_device == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert losses[-1] < losses[0]
    for expected, found in zip(weights, theirs, strict=True):
        numpy.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_every_steady_step_launches_the_same_few_kernels(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("only the look-alike counts launches")
    training = Training(binary, "SGD with momentum", "cuda")
    launches = []
    for _ in range(5):
        before = strict_cupy.counts.launches
        training.step()
        launches.append(strict_cupy.counts.launches - before)
    assert len(set(launches[2:])) == 1
    assert launches[2] <= 12


# --- several GPUs ---------------------------------------------------------------------------------


@pytest.fixture
def second(cuda: str) -> str:
    """Another GPU than the current one."""
    if nt.cuda.device_count() < 2:
        pytest.skip("there is only one GPU")
    return "cuda:1"


def test_a_tensor_moves_between_gpus(second: str) -> None:
    x = nt.tensor([1.0, 2.0], device="cuda:0")
    y = x.to(second)
    assert (str(x.device), str(y.device)) == ("cuda:0", "cuda:1")
    y += 1
    assert (x.tolist(), y.tolist()) == ([1.0, 2.0], [2.0, 3.0])
    assert str(y.to("cuda").device) == "cuda:0"
    assert str((y * 2 + nt.ones(2, device=second)).device) == "cuda:1"
    with pytest.raises(RuntimeError, match=r"add: .* two devices, cuda:0 and cuda:1"):
        x + y
    with nt.cuda.device(1):
        assert str(nt.zeros(1, device="cuda").device) == "cuda:1"
        assert str(x.cuda().device) == "cuda:1"


def test_training_on_a_second_gpu_gives_the_same_numbers(second: str) -> None:
    trainings = [Training(network, "AdamW", device) for device in ("cuda:0", second)]
    for training in trainings:
        for _ in range(3):
            training.step()
    (losses, weights), (others, theirs) = (training.results() for training in trainings)
    assert others == losses
    assert str(trainings[1].losses[0].device) == second
    for expected, found in zip(weights, theirs, strict=True):
        assert found.tolist() == expected.tolist()


def test_a_model_may_span_two_gpus(second: str) -> None:
    nt.manual_seed(0)
    first, last = nn.Linear(4, 8).to("cuda:0"), nn.Linear(8, 2).to(second)
    x = nt.randn(5, 4)
    hidden = nt.relu(first(x.to("cuda:0")))
    (last(hidden.to(second)).sum() + hidden.to(second).mean()).backward()
    one, other = first.weight.grad, last.weight.grad
    assert one is not None and other is not None
    assert (str(one.device), str(other.device)) == ("cuda:0", "cuda:1")
    host = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    host.load_state_dict({**{f"0.{k}": v for k, v in first.state_dict().items()},
                          **{f"2.{k}": v for k, v in last.state_dict().items()}})  # fmt: skip
    inner = nt.relu(host[0](x))
    (host[2](inner).sum() + inner.mean()).backward()
    numpy.testing.assert_allclose(one.cpu().numpy(), host[0].weight.grad.numpy(), rtol=1e-5)
    numpy.testing.assert_allclose(other.cpu().numpy(), host[2].weight.grad.numpy(), rtol=1e-5)


ELSEWHERE: dict[str, Callable[[Any], Any]] = {
    "one_hot": lambda x: nn.functional.one_hot(x.long() % 3, 3),
    "dropout": lambda x: nn.functional.dropout(x, 0.5),
    "deepcopy": lambda x: copy.deepcopy(x),
    "tensor of a tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "list index": lambda x: x[[1, 0]],
    "index of 0-dim tensors": lambda x: x[[x[0, 0].long(), x[0, 1].long()]],
    "setitem of an array": lambda x: x.clone().__setitem__(0, numpy.ones(2, "f")) or x,
    "loader": lambda x: next(iter(nt.utils.data.DataLoader(nt.utils.data.TensorDataset(x), 2)))[0],
    "hook": lambda x: hooked(x),
    "jacobian": lambda x: nt.autograd.functional.jacobian(lambda y: y * y, x),
}


def hooked(x: Any) -> Any:
    """The gradient of a sum, as a hook on the way saw it."""
    seen: list[Any] = []
    y = x.clone().requires_grad_() * 2
    y.register_hook(seen.append)
    y.sum().backward()
    return seen[0]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_computed_stays_on_the_gpu_of_its_operands(name: str, second: str) -> None:
    found = []
    for device in ("cuda:0", second):
        nt.manual_seed(0)
        y = ELSEWHERE[name](nt.tensor([[0.0, 1.0], [2.0, 3.0]], device=device))
        assert str(y.device) == device
        found.append(y.tolist())
    assert found[0] == found[1]


def test_lbfgs_and_cleared_gradients_stay_on_the_gpu_of_the_parameters(second: str) -> None:
    layer = nn.Linear(3, 1).to(second)
    x, optimizer = nt.ones(4, 3, device=second), nt.optim.LBFGS(layer.parameters())

    def closure() -> Any:
        optimizer.zero_grad(set_to_none=False)
        loss = ((layer(x) - 1) ** 2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() < 1e-8
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad is not None
    assert (str(layer.weight.grad.device), layer.weight.grad.tolist()) == (second, [[0.0] * 3])


# --- the runner -----------------------------------------------------------------------------------


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("config", ["breast_cancer", "digits", "frozen"])
def test_the_runner_gives_the_cpus_metrics(config: str, cuda: str, tmp_path: Path) -> None:
    runs = {}
    for device in ("cpu", "cuda"):
        flags = ["--output.folder", str(tmp_path / device), "--output.curves", "false"]
        flags += ["--output.report", "false", "--training.epochs", "3", "--device", device]
        request = read_request([f"configs/{config}.toml", *flags])
        runs[device] = fit(request.configs[0], quiet=True)
    expected, found = (metrics(runs[device].folder) for device in ("cpu", "cuda"))
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    weights = [read_model_file(runs[d].folder / "model.safetensors").weights for d in runs]
    for name, array in weights[0].items():
        numpy.testing.assert_allclose(weights[1][name], array, rtol=1e-3, atol=1e-5)


def test_the_runner_trains_on_the_gpu_that_is_named(second: str, tmp_path: Path) -> None:
    losses = []
    for device in ("cuda:0", second):
        flags = ["--output.folder", str(tmp_path), "--output.curves", "false", "--device", device]
        flags += ["--output.report", "false", "--training.epochs", "2"]
        run = fit(read_request(["configs/digits.toml", *flags]).configs[0], quiet=True)
        losses.append([line["train/loss"] for line in metrics(run.folder)])
    assert losses[0] == losses[1]


def test_auto_takes_the_gpu_that_is_there(
    cuda: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output.folder", str(tmp_path), "--training.epochs", "1", "--device", "auto"]
    fit(read_request(["configs/breast_cancer.toml", *flags]).configs[0])
    assert "device: cuda:0 (auto)" in capsys.readouterr().out
