"""Gradient clipping, and parameters as one vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn import utils

GRADIENTS = [
    np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 3
    for seed, shape in enumerate([(4, 3), (3,), ()])
]


def parameters(module: Any) -> list[Any]:
    """Parameters with the gradients above, and one without."""
    made = []
    for gradient in GRADIENTS:
        parameter = module.zeros(gradient.shape, requires_grad=True)
        parameter.grad = module.tensor(gradient)
        made.append(parameter)
    return [*made, module.zeros(2, requires_grad=True)]


@pytest.mark.torch
@pytest.mark.parametrize("norm_type", [2, 1.0, 3.5, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_by_norm_is_pytorchs(norm_type: float, max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = parameters(nt), parameters(torch)
    total = utils.clip_grad_norm_(ours, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert total.shape == () and total.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(ours[:3], theirs[:3]):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=2e-6, atol=1e-7)
    assert ours[3].grad is None


@pytest.mark.torch
def test_the_total_norm_and_clipping_with_it_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = parameters(nt), parameters(torch)
    total = utils.get_total_norm([p.grad for p in ours[:3]])
    expected = torch.nn.utils.get_total_norm([p.grad for p in theirs[:3]])
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    utils.clip_grads_with_norm_(ours, 1.0, total)
    torch.nn.utils.clip_grads_with_norm_(theirs, 1.0, expected)
    for a, b in zip(ours[:3], theirs[:3]):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=2e-6)


@pytest.mark.torch
def test_clipping_by_value_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = parameters(nt), parameters(torch)
    utils.clip_grad_value_(ours, 0.8)
    torch.nn.utils.clip_grad_value_(theirs, 0.8)
    for a, b in zip(ours[:3], theirs[:3]):
        assert a.grad.tolist() == b.grad.tolist()


@pytest.mark.torch
@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_clipping_of_other_precisions_is_pytorchs(kind: str, norm_type: float) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")

    def clipped(module: Any, clip: Any) -> list[Any]:
        made = []
        for values in ([3.0, -4.0, 1.0, 0.5], [2.0]):
            p = module.zeros(len(values), dtype=getattr(module, kind), requires_grad=True)
            p.grad = module.tensor(values, dtype=getattr(module, kind))
            made.append(p)
        total = clip.clip_grad_norm_(made, 1.0, norm_type)
        assert total.dtype is getattr(module, kind)
        by_norm = [p.grad.tolist() for p in made]
        clip.clip_grad_value_(made, 0.1)
        return [[total.item()], by_norm, [p.grad.tolist() for p in made]]

    for ours, theirs in zip(clipped(nt, utils), clipped(torch, torch.nn.utils), strict=True):
        np.testing.assert_allclose(np.hstack(ours), np.hstack(theirs), rtol=1e-14)


def test_a_single_tensor_and_a_generator_of_parameters_are_taken() -> None:
    model = nn.Linear(3, 2)
    model(nt.ones(4, 3)).sum().backward()
    before = utils.clip_grad_norm_(model.parameters(), 1.0).item()
    assert before > 1.0
    assert utils.clip_grad_norm_(model.parameters(), 1.0).item() == pytest.approx(1.0, rel=1e-5)
    assert utils.clip_grad_norm_(model.weight, 0.1).item() <= 1.0


def test_no_gradients_have_a_norm_of_zero() -> None:
    assert utils.clip_grad_norm_([nt.zeros(2, requires_grad=True)], 1.0).item() == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_is_an_error_where_asked_for(bad: float) -> None:
    parameter = nt.zeros(2, requires_grad=True)
    parameter.grad = nt.tensor([1.0, bad])
    with pytest.raises(RuntimeError, match="error_if_nonfinite=False"):
        utils.clip_grad_norm_([parameter], 1.0, error_if_nonfinite=True)
    assert parameter.grad[0].item() == 1.0  # nothing was scaled


def test_parameters_go_to_a_vector_and_back_and_gradients_flow() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    vector = utils.parameters_to_vector(model.parameters())
    assert vector.shape == (3 * 2 + 2 + 2 + 1,)
    assert vector[:6].tolist() == model[0].weight.reshape(-1).tolist()
    (vector**2).sum().backward()
    np.testing.assert_allclose(model[0].bias.grad.numpy(), 2 * model[0].bias.detach().numpy())
    utils.vector_to_parameters(nt.arange(11.0), model.parameters())
    assert model[0].weight.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert model[1].bias.tolist() == [10.0]
    assert isinstance(model[1].bias, nn.Parameter) and model[1].bias.requires_grad
    with pytest.raises(TypeError, match="got list"):
        utils.vector_to_parameters([1.0], model.parameters())  # type: ignore[arg-type]
