"""Hooks, copies and writes that PyTorch refuses or treats in a way of its own; NumPy's warnings."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn.utils import clip_grad_norm_

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_share_memory_as_the_originals_do(way: str) -> None:
    whole = nt.arange(6.0)
    part, matrix = whole[2:4], whole.view(2, 3)
    first, second, third, again = COPIES[way]([whole, part, matrix, whole])
    first[2] = 100
    assert again is first
    assert second.tolist() == [100.0, 3.0] and third[0, 2].item() == 100.0
    assert whole[2].item() == 2.0


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_parameter_has_no_gradient(way: str) -> None:
    parameter = nn.Parameter(nt.ones(2))
    parameter.grad = nt.ones(2)
    result = COPIES[way](parameter)
    assert type(result) is nn.Parameter and result.grad is None and parameter.grad is not None


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("kind", [nt.float64, nt.float16, nt.int64])
def test_a_hook_that_changes_the_dtype_is_refused(leaf: bool, kind: Any) -> None:
    x = nt.ones(2, requires_grad=True)
    y = x * 2
    (x if leaf else y).register_hook(lambda g: g.to(kind))
    with pytest.raises(RuntimeError, match="has changed the type of value"):
        y.sum().backward()


@pytest.mark.parametrize(
    "register", ["register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_a_bare_tensor_of_a_module_hook_is_taken_apart(register: str) -> None:
    module = nn.Identity()
    getattr(module, register)(lambda module, *gradients: nt.ones(1, 2) * 5)
    with pytest.raises(RuntimeError, match="shape"):
        module(nt.ones(1, 2, requires_grad=True)).sum().backward()
    twice = nn.Identity()
    getattr(twice, register)(lambda module, *gradients: nt.ones(2, 2))
    with pytest.raises(RuntimeError, match="expected 1 gradients"):
        twice(nt.ones(1, 2, requires_grad=True)).sum().backward()


class Whole(nt.autograd.Function):
    """Returns its input, or a view of it."""

    @staticmethod
    def forward(ctx: Any, x: Any, form: Callable[[Any], Any]) -> Any:
        return form(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g.reshape(2, 2), None


@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.view(-1), lambda x: x.T])
def test_a_view_from_a_custom_function_is_not_written_to(form: Any) -> None:
    x = nt.ones(2, 2, requires_grad=True)
    y = Whole.apply(x * 1, form)
    with pytest.raises(RuntimeError, match="custom Function that is a view"):
        y.add_(1)
    y.clone().add_(1)
    with nt.no_grad():
        y.detach().add_(1)


def test_vmap_refuses_a_write_to_a_captured_tensor() -> None:
    captured = nt.zeros(3)

    def adding(x: Any) -> Any:
        captured.add_(x)
        return x

    def setting(x: Any) -> Any:
        captured[0] = x.sum()
        return x

    for function in (adding, setting):
        with pytest.raises(RuntimeError, match="wrote in place to a tensor that it captured"):
            nt.func.vmap(function)(nt.ones(4, 3))
    assert nt.func.vmap(lambda x: x + captured * 0)(nt.ones(4, 3)).shape == (4, 3)


def test_clipping_a_generator_that_was_used_up_warns() -> None:
    model = nn.Linear(2, 2)
    parameters = model.parameters()
    assert len(list(parameters)) == 2
    with pytest.warns(UserWarning, match="empty generator"):
        clip_grad_norm_(parameters, 1.0)


@pytest.mark.parametrize("delta", [0, -1.0])
def test_a_huber_loss_without_an_extent_is_refused(delta: float) -> None:
    with pytest.raises(RuntimeError, match="non-positive"):
        nn.functional.huber_loss(nt.ones(2), nt.ones(2), delta=delta)


def test_a_dictionary_of_parameters_shows_them() -> None:
    shown = repr(
        nn.ParameterDict({"w": nn.Parameter(nt.ones(2, 3)), "b": nn.Parameter(nt.ones(1))})
    )
    assert shown == (
        "ParameterDict(\n"
        "    (w): Parameter containing: [torch.FloatTensor of size 2x3]\n"
        "    (b): Parameter containing: [torch.FloatTensor of size 1]\n"
        ")"
    )


QUIET: dict[str, Callable[[Any], Any]] = {
    "log": lambda x: x.log(), "divided": lambda x: x / (x - x), "reciprocal": lambda x: 1 / x,
    "less": lambda x: x - x, "sum": lambda x: x.sum(), "mean": lambda x: x.mean(),
    "prod": lambda x: x.prod(), "cumsum": lambda x: x.cumsum(0), "cumprod": lambda x: x.cumprod(0),
    "det": lambda x: nt.linalg.det(x), "slogdet": lambda x: nt.linalg.slogdet(x)[1],
    "std": lambda x: x.std(), "norm": lambda x: x.norm(), "int": lambda x: x.int().float() * x,
    "half": lambda x: x.half(), "softmax": lambda x: x.softmax(0), "var": lambda x: x.var(0),
    "power": lambda x: x**-1, "product": lambda x: x @ x, "gelu": lambda x: nn.functional.gelu(x),
    "linspace": lambda x: x * nt.linspace(-math.inf, math.inf, 2),
}  # fmt: skip


@pytest.mark.parametrize("value", [0.0, math.inf, -math.inf, math.nan, 3e38])
@pytest.mark.parametrize("name", QUIET)
def test_no_warning_of_numpy_comes_through(name: str, value: float) -> None:
    x = nt.full((2, 2), value, requires_grad=True)
    try:
        QUIET[name](x).sum().backward()
    except (RuntimeError, ValueError) as error:  # of a singular matrix
        assert "ingular" in str(error)
