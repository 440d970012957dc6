"""Modules, optimizers and loaders on a GPU: the CPU's numbers, and no waiting in a steady step."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import backend, nn, optim
from nanotorch.backend.cuda import kernels

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "maximize": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.05}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adagrad", {"lr_decay": 0.1}),
]


@contextlib.contextmanager
def without_waiting(cuda: str, device: str) -> Any:
    """Nothing inside crosses between host and device or waits; counted on the look-alike alone."""
    if cuda == "cupy" or device == "cpu":
        yield
        return
    with strict_cupy.no_synchronization(), strict_cupy.no_transfers():
        yield


@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=str)
def test_a_step_gives_the_cpus_numbers_and_does_not_wait(
    cuda: str, name: str, options: dict[str, Any]
) -> None:
    def trained(device: str) -> list[Any]:
        nt.manual_seed(0)
        model = nn.Linear(3, 2).to(device)
        optimizer = getattr(optim, name)(model.parameters(), **options)
        schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for parameter in model.parameters():
            parameter.grad = nt.ones(*parameter.shape, device=device)
        optimizer.step()  # makes the state
        for _ in range(4):
            with without_waiting(cuda, device):
                nn.utils.clip_grad_norm_(model.parameters(), 2.0)
                optimizer.step()
                schedule.step()
                for parameter in model.parameters():
                    parameter.grad = parameter.detach() * 2 + 1
        return [parameter.detach().cpu().numpy() for parameter in model.parameters()]

    for ours, expected in zip(trained("cuda"), trained("cpu")):
        numpy.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_state_lies_with_its_parameter_and_the_step_count_on_the_host(cuda: str) -> None:
    model = nn.Linear(3, 2).to("cuda")
    optimizer = optim.Adam(model.parameters())
    model(nt.ones(4, 3, device="cuda")).sum().backward()
    optimizer.step()
    state = optimizer.state[model.weight]
    assert state["exp_avg"].device.type == "cuda"
    assert state["step"].device.type == "cpu"
    host = optim.Adam(nn.Linear(3, 2).parameters())
    host.load_state_dict(optimizer.state_dict())
    (loaded, _) = host.state.values()
    assert loaded["exp_avg"].device.type == "cpu"
    assert loaded["exp_avg"].tolist() == state["exp_avg"].cpu().tolist()


def test_the_step_count_stays_on_the_host_whatever_the_default_device(cuda: str) -> None:
    nt.set_default_device("cuda")
    try:
        layer = nn.Linear(2, 1)
        optimizer = optim.Adam(layer.parameters())
        layer(nt.ones(1, 2)).sum().backward()
        optimizer.step()
        assert layer.weight.device.type == "cuda"
        assert optimizer.state[layer.weight]["step"].device.type == "cpu"
    finally:
        nt.set_default_device("cpu")


def test_lbfgs_finds_the_same_minimum(cuda: str) -> None:
    def minimum(device: str) -> Any:
        nt.manual_seed(0)
        x = nt.randn(20, 3, dtype=nt.float64).to(device)
        target = x.sum(1, keepdim=True)
        model = nn.Linear(3, 1).double().to(device)
        optimizer = optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")

        def closure() -> nt.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), target)
            loss.backward()
            return loss

        optimizer.step(closure)
        return model.weight.detach().cpu().numpy()

    numpy.testing.assert_allclose(minimum("cuda"), minimum("cpu"), rtol=1e-9)
    numpy.testing.assert_allclose(minimum("cuda"), [[1.0, 1.0, 1.0]], rtol=1e-5)


LAYERS: dict[str, Any] = {
    "LayerNorm": lambda: nn.LayerNorm(3),
    "BatchNorm1d": lambda: nn.BatchNorm1d(3),
    "PReLU": lambda: nn.PReLU(),
    "ELU in place": lambda: nn.Sequential(nn.Linear(3, 3), nn.ELU(inplace=True)),
    "Bilinear": lambda: nn.Bilinear(3, 3, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_the_cpus_numbers(cuda: str, name: str) -> None:
    def computed(device: str) -> list[Any]:
        nt.manual_seed(0)
        layer = LAYERS[name]().to(device)
        x = nt.randn(5, 3).to(device).requires_grad_()
        y = layer(x, x) if name == "Bilinear" else layer(x)
        (y * y * y).sum().backward()
        return [v.detach().cpu().numpy() for v in (y, x.grad, *layer.state_dict().values())]

    for ours, expected in zip(computed("cuda"), computed("cpu")):
        numpy.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_initial_values_are_the_cpus_where_its_generator_draws(cuda: str) -> None:
    fills: list[Any] = [
        nn.init.xavier_normal_,
        nn.init.orthogonal_,
        nn.init.trunc_normal_,
        lambda t, generator: nn.init.trunc_normal_(t, a=1.0, b=2.0, generator=generator),
        lambda t, generator: nn.init.sparse_(t, 0.3, generator=generator),
    ]
    for fill in fills:
        drawn = []
        for device in ("cpu", "cuda"):
            nt.manual_seed(4)  # sparse_ draws places by default
            generator = nt.Generator().manual_seed(4)
            drawn.append(fill(nt.ones(9, 4, device=device), generator=generator).cpu().tolist())
        assert drawn[0] == drawn[1], fill


def test_a_layer_that_moves_keeps_its_values_and_one_made_there_draws_there(cuda: str) -> None:
    nt.manual_seed(4)
    moved = nn.Linear(9, 4).to("cuda")
    nt.manual_seed(4)
    assert moved.weight.tolist() == nn.Linear(9, 4).weight.tolist()
    nt.manual_seed(4)
    before = nt.get_rng_state()
    layers = [nn.Linear(9, 4, device="cuda") for _ in range(2)]
    if kernels.available(backend.cuda_module()):
        assert nt.equal(nt.get_rng_state(), before)
    assert layers[0].weight.abs().max().item() <= 1 / 3
    assert layers[0].weight.tolist() != layers[1].weight.tolist()


def test_batches_of_a_data_set_on_the_device_stay_there(cuda: str) -> None:
    dataset = nt.utils.data.TensorDataset(nt.arange(10.0).to("cuda"), nt.arange(10).to("cuda"))
    batches = list(nt.utils.data.DataLoader(dataset, batch_size=4, shuffle=True))
    assert {x.device.type for batch in batches for x in batch} == {"cuda"}
    assert sorted(i for _, y in batches for i in y.cpu().tolist()) == list(range(10))


def test_the_order_is_drawn_on_the_host_whatever_the_default_device(cuda: str) -> None:
    utils = nt.utils.data
    dataset = utils.TensorDataset(nt.arange(10))
    samplers: list[Any] = [
        lambda: utils.RandomSampler(dataset),
        lambda: utils.RandomSampler(dataset, replacement=True),
        lambda: utils.SubsetRandomSampler(range(10)),
        lambda: utils.WeightedRandomSampler([0.5] * 10, 10),
        lambda: utils.random_split(dataset, [0.5, 0.5])[1].indices,
    ]
    for sampler in samplers:
        orders = []
        for device in ("cuda", "cpu"):
            nt.set_default_device(device)
            nt.manual_seed(2)
            try:
                loader = utils.DataLoader(dataset, batch_size=4, sampler=sampler())
                orders.append([batch.tolist() for (batch,) in loader])
            finally:
                nt.set_default_device("cpu")
        assert orders[0] == orders[1]


def test_a_state_is_loaded_across_devices(cuda: str) -> None:
    source, target = nn.Linear(3, 2).to("cuda"), nn.Linear(3, 2)
    target.load_state_dict(source.state_dict())
    assert target.weight.device.type == "cpu"
    assert target.weight.tolist() == source.weight.cpu().tolist()


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "LSTM": (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True), (5, 2, 3)),
    "GRU": (lambda: nn.GRU(3, 4), (5, 2, 3)),
    "RNN": (lambda: nn.RNN(3, 4, nonlinearity="relu"), (5, 2, 3)),
    "LSTM with projections": (lambda: nn.LSTM(3, 4, proj_size=2), (5, 2, 3)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), (2, 3)),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        (2, 5, 4),
    ),
    "Transformer's encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), 2),
        (5, 2, 4),
    ),
    "Conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2), (3, 2, 6, 5)),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2), (3, 2, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 4, 3, stride=2), (3, 2, 4, 5)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2, padding=1), (3, 2, 4, 5)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (3, 2, 4, 5)),
    "Unfold": (lambda: nn.Unfold(2, stride=2), (3, 2, 4, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2), (3, 2, 4, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2, track_running_stats=True), (3, 2, 4, 5)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), (3, 2, 4, 5)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_layer_gives_the_cpus_numbers_and_does_not_wait(cuda: str, name: str) -> None:
    make, shape = NETS[name]

    def results(device: str) -> list[Any]:
        nt.manual_seed(0)
        layer, x = make(), nt.randn(shape)
        layer, x = layer.to(device), x.to(device).requires_grad_()
        for _ in range(2):
            layer.zero_grad()
            x.grad = None
            with without_waiting(cuda, device):
                output = layer(x)
                output = output[0] if isinstance(output, tuple) else output
                (output * output).sum().backward()
        tensors = [output, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]
        return [tensor.detach().cpu().numpy() for tensor in tensors]

    for ours, expected in zip(results("cuda"), results("cpu"), strict=True):
        numpy.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)
