"""Starting values: PyTorch's numbers for a seed, PyTorch's bounds, PyTorch's errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn import init

Fill = Callable[[Any, Any], Any]  # (the init module, a tensor) to the filled tensor

FILLS: dict[str, tuple[Fill, tuple[int, ...]]] = {
    "uniform": (lambda i, t: i.uniform_(t, -2.0, 3.0), (5, 7)),
    "normal": (lambda i, t: i.normal_(t, 1.0, 2.0), (5, 7)),
    "normal of few": (lambda i, t: i.normal_(t), (3,)),
    "constant": (lambda i, t: i.constant_(t, 2.5), (2, 3)),
    "ones": (lambda i, t: i.ones_(t), (2, 3)),
    "zeros": (lambda i, t: i.zeros_(t), (2, 3)),
    "eye": (lambda i, t: i.eye_(t), (3, 5)),
    "xavier uniform": (lambda i, t: i.xavier_uniform_(t, gain=1.5), (6, 4)),
    "xavier normal": (lambda i, t: i.xavier_normal_(t), (6, 4)),
    "xavier of 3 dimensions": (lambda i, t: i.xavier_uniform_(t), (6, 4, 3)),
    "kaiming uniform": (lambda i, t: i.kaiming_uniform_(t, a=0.5), (6, 4)),
    "kaiming uniform, out": (
        lambda i, t: i.kaiming_uniform_(t, mode="fan_out", nonlinearity="relu"),
        (6, 4),
    ),
    "kaiming normal": (lambda i, t: i.kaiming_normal_(t, nonlinearity="tanh"), (6, 4, 2)),
    "truncated normal": (lambda i, t: i.trunc_normal_(t, std=2.0, a=-1.5, b=3.0), (20, 30)),
    "truncated to a tail": (lambda i, t: i.trunc_normal_(t, a=1.0, b=2.0), (20, 30)),
    "truncated beside the mean": (
        lambda i, t: i.trunc_normal_(t, mean=0.5, a=-2.0, b=-0.5),
        (9, 9),
    ),
    "orthogonal": (lambda i, t: i.orthogonal_(t, gain=2.0), (6, 4)),
    "orthogonal, wide": (lambda i, t: i.orthogonal_(t), (3, 2, 4)),
    "sparse": (lambda i, t: i.sparse_(t, 0.3), (10, 4)),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", FILLS)
def test_numbers_for_a_seed_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    fill, shape = FILLS[name]
    nt.manual_seed(11)
    torch.manual_seed(11)
    tensor = nt.zeros(*shape, requires_grad=True)
    assert fill(init, tensor) is tensor
    expected = fill(torch.nn.init, torch.zeros(shape)).numpy()
    np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=2e-5, atol=2e-6)
    assert tensor.is_leaf and tensor.requires_grad
    # and the generators stand at the same place afterwards
    assert nt.rand(3).tolist() == torch.rand(3).tolist()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["uniform", "kaiming normal", "truncated to a tail", "orthogonal"])
def test_a_generator_of_ones_own_is_used_and_the_default_left_alone(name: str) -> None:
    torch = pytest.importorskip("torch")
    shape = FILLS[name][1]
    calls: dict[str, Any] = {
        "uniform": lambda i, t, g: i.uniform_(t, generator=g),
        "kaiming normal": lambda i, t, g: i.kaiming_normal_(t, generator=g),
        "truncated to a tail": lambda i, t, g: i.trunc_normal_(t, a=1.0, b=2.0, generator=g),
        "orthogonal": lambda i, t, g: i.orthogonal_(t, generator=g),
    }
    nt.manual_seed(1)
    before = nt.get_rng_state().tolist()
    ours = calls[name](init, nt.zeros(*shape), nt.Generator().manual_seed(5))
    theirs = calls[name](torch.nn.init, torch.zeros(shape), torch.Generator().manual_seed(5))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=2e-5, atol=2e-6)
    assert nt.get_rng_state().tolist() == before


@pytest.mark.torch
@pytest.mark.parametrize(
    "make",
    [
        lambda nn: nn.Linear(7, 5),
        lambda nn: nn.Linear(3, 2, bias=False),
        lambda nn: nn.Bilinear(3, 4, 2),
        lambda nn: nn.Embedding(5, 4, padding_idx=2),
        lambda nn: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)),
    ],
)
def test_a_layers_first_weights_are_pytorchs_to_the_last_bit(make: Any) -> None:
    torch = pytest.importorskip("torch")
    nt.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = make(nn).state_dict(), make(torch.nn).state_dict()
    for name, expected in theirs.items():
        if "Embedding" in repr(make(nn)):  # normal numbers differ in the last bits of sine and log
            np.testing.assert_allclose(ours[name].numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
        else:
            assert ours[name].numpy().tobytes() == expected.numpy().tobytes(), name


@pytest.mark.torch
def test_gains_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_an_orthogonal_matrix_is_orthogonal() -> None:
    rows = init.orthogonal_(nt.zeros(3, 5)).numpy()
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-6)
    assert init.orthogonal_(nt.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    "fill, error, message",
    [
        (lambda: init.calculate_gain("relu9"), ValueError, "relu9"),
        (lambda: init.calculate_gain("leaky_relu", True), ValueError, "negative_slope"),
        (lambda: init.xavier_uniform_(nt.zeros(3)), ValueError, r"fewer than 2.*\(3,\)"),
        (lambda: init.kaiming_uniform_(nt.zeros(3, 2), mode="fan"), ValueError, "'fan_in' or"),
        (lambda: init.eye_(nt.zeros(3)), ValueError, "2 dimensions"),
        (lambda: init.orthogonal_(nt.zeros(3)), ValueError, "2 or more"),
        (lambda: init.sparse_(nt.zeros(3), 0.1), ValueError, "2 dimensions"),
    ],
)
def test_what_cannot_be_filled_is_refused(fill: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fill()


def test_nothing_is_drawn_for_an_empty_weight_and_a_far_mean_is_warned_of() -> None:
    nt.manual_seed(0)
    before = nt.get_rng_state().tolist()
    for fill in (init.kaiming_uniform_, init.kaiming_normal_):
        with pytest.warns(UserWarning, match="zero-element"):
            fill(nt.zeros(0, 3))
    assert nt.get_rng_state().tolist() == before
    with pytest.warns(UserWarning, match="more than 2 std"):
        init.trunc_normal_(nt.zeros(3), mean=5.0)
