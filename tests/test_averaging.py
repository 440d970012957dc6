"""Averaged models, their schedule, and weights as length times direction, beside PyTorch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn.utils import parametrizations, parametrize, remove_weight_norm, weight_norm
from nanotorch.optim import swa_utils

AVERAGES: dict[str, Any] = {
    "mean": lambda swa: {},
    "mean by function": lambda swa: {"avg_fn": swa.get_swa_avg_fn()},
    "mean of all": lambda swa: {"multi_avg_fn": swa.get_swa_multi_avg_fn()},
    "decay": lambda swa: {"avg_fn": swa.get_ema_avg_fn(0.9)},
    "decay of all": lambda swa: {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.9)},
    "with buffers": lambda swa: {"avg_fn": swa.get_ema_avg_fn(0.7), "use_buffers": True},
    "of all, with buffers": lambda swa: {
        "multi_avg_fn": swa.get_ema_multi_avg_fn(0.7), "use_buffers": True
    },
}  # fmt: skip


def trained(module: Any, swa: Any, options: Any) -> Any:
    """An averaged model after some steps, and its batch statistics computed anew."""
    module.manual_seed(0)
    model = module.nn.Sequential(
        module.nn.Linear(3, 4), module.nn.BatchNorm1d(4), module.nn.Linear(4, 1)
    )
    average = swa.AveragedModel(model, **options(swa))
    optimizer = module.optim.SGD(model.parameters(), lr=0.1)
    module.manual_seed(1)
    batches = [module.randn(8, 3) for _ in range(5)]
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)
    before = copy.deepcopy(average.state_dict())
    swa.update_bn([(x, None) for x in batches], average)
    return average, before, average(batches[0])


@pytest.mark.torch
@pytest.mark.parametrize("name", AVERAGES)
def test_an_averaged_model_has_pytorchs_numbers(name: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = trained(torch, torch.optim.swa_utils, AVERAGES[name])
    ours = trained(nt, swa_utils, AVERAGES[name])
    assert repr(ours[0]) == repr(theirs[0])
    for a, b in ((ours[1], theirs[1]), (ours[0].state_dict(), theirs[0].state_dict())):
        assert list(a) == list(b)
        for key in a:
            there = nt.tensor(b[key].numpy()).double()
            assert nt.allclose(a[key].double(), there, rtol=1e-5, atol=1e-6), key
    assert nt.allclose(ours[2].detach(), nt.tensor(theirs[2].detach().numpy()), atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize(
    "options",
    [{}, {"anneal_epochs": 3}, {"anneal_epochs": 0}, {"anneal_strategy": "linear"}],
    ids=str,
)
def test_the_rate_moves_to_that_of_averaging_as_in_pytorch(options: Any) -> None:
    torch = pytest.importorskip("torch")
    rates = []
    for module, swa in ((torch, torch.optim.swa_utils), (nt, swa_utils)):
        parameters = [module.nn.Parameter(module.ones(1)) for _ in range(2)]
        groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.5}]
        optimizer = module.optim.SGD(groups, lr=1.0)
        schedule = swa.SWALR(optimizer, swa_lr=[0.05, 0.2], **options)
        rates.append([])
        for _ in range(13):
            optimizer.step()
            schedule.step()
            rates[-1].append(schedule.get_last_lr())
    assert nt.allclose(nt.tensor(rates[1]), nt.tensor(rates[0]), rtol=1e-6, atol=1e-9)


def test_options_that_do_not_go_together_are_refused() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn"):
        swa_utils.AveragedModel(
            model,
            avg_fn=swa_utils.get_ema_avg_fn(),
            multi_avg_fn=swa_utils.get_ema_multi_avg_fn(),
        )
    with pytest.raises(ValueError, match="Invalid decay value"):
        swa_utils.get_ema_avg_fn(1.5)
    optimizer = nt.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="one of 'cos' or 'linear', instead got step"):
        swa_utils.SWALR(optimizer, 0.1, anneal_strategy="step")


LAYERS: dict[str, Any] = {
    "linear": lambda module: module.nn.Linear(3, 2),
    "convolution": lambda module: module.nn.Conv1d(3, 2, 2),
}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("name", LAYERS)
def test_a_normed_weight_has_pytorchs_names_numbers_and_gradients(
    name: str, dim: int | None, computed: bool
) -> None:
    torch = pytest.importorskip("torch")
    results = []
    for module in (torch, nt):
        module.manual_seed(0)
        utils = module.nn.utils.parametrizations if computed else module.nn.utils
        layer = utils.weight_norm(LAYERS[name](module), dim=dim)
        optimizer = module.optim.SGD(layer.parameters(), lr=0.1)
        x = module.ones(2, 3, 4) if name == "convolution" else module.ones(2, 3)
        for _ in range(3):
            optimizer.zero_grad()
            y = layer(x)
            y.square().sum().backward()
            optimizer.step()
        results.append((repr(layer), layer.state_dict(), y, layer(x), layer.weight))
    (shown, state, *values), (here, ours, *own) = results
    assert here == shown
    assert list(ours) == list(state)
    for a, b in zip([*ours.values(), *own], [*state.values(), *values], strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        assert nt.allclose(a.detach(), nt.tensor(b.detach().numpy()), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("computed", [False, True])
def test_a_normed_weight_becomes_a_parameter_again(computed: bool) -> None:
    layer: Any = nn.Linear(3, 2)
    kind, weight, x = type(layer), layer.weight.tolist(), nt.ones(1, 3)
    y = layer(x).tolist()
    (parametrizations.weight_norm if computed else weight_norm)(layer)
    assert nt.allclose(layer(x), nt.tensor(y))
    assert not isinstance(layer.weight, nn.Parameter)
    with pytest.raises(RuntimeError, match="weight"):
        (parametrizations.weight_norm if computed else weight_norm)(layer)
    copied = copy.deepcopy(layer) if computed else layer
    if computed:
        assert parametrize.is_parametrized(layer, "weight")
        parametrize.remove_parametrizations(layer, "weight")
        assert not parametrize.is_parametrized(layer)
    else:
        remove_weight_norm(layer)
    assert type(layer) is kind
    assert isinstance(layer.weight, nn.Parameter)
    assert sorted(dict(layer.named_parameters())) == ["bias", "weight"]
    assert nt.allclose(layer.weight, nt.tensor(weight))
    assert nt.allclose(copied(x), layer(x))
    with pytest.raises(ValueError, match="weight"):
        if computed:
            parametrize.remove_parametrizations(layer, "weight")
        else:
            remove_weight_norm(layer)
