"""autograd.functional: Jacobians, Hessians and products, by hand and against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest

import nanotorch
from nanotorch.autograd import functional

SQUARE = [[1.0, 2.0], [3.0, 0.5]]


def point(library: Any = nanotorch) -> Any:
    return library.tensor(SQUARE, dtype=library.float64)


def arrays(value: Any) -> Any:
    """Nested tuples of tensors as nested tuples of arrays."""
    if isinstance(value, tuple | list):
        return tuple(arrays(item) for item in value)
    return numpy.asarray(value.detach().numpy() if hasattr(value, "detach") else value)


def same(found: Any, expected: Any) -> None:
    """Asserts that nested tuples of arrays agree in structure, shape, dtype and values."""
    if isinstance(expected, tuple):
        assert isinstance(found, tuple)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
        return
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    numpy.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_jacobian_of_squares_is_diagonal() -> None:
    found = functional.jacobian(lambda x: x * x, nanotorch.tensor([1.0, 2.0, 3.0]))
    assert found.tolist() == [[2, 0, 0], [0, 4, 0], [0, 0, 6]]
    assert not found.requires_grad


def test_the_hessian_of_a_quadratic_form_is_its_matrix() -> None:
    matrix = point() + point().t()
    found = functional.hessian(lambda x: x @ matrix @ x / 2, nanotorch.ones(2).double())
    assert found.tolist() == matrix.tolist()


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_both_strategies_give_the_same_jacobian(strategy: str) -> None:
    def func(x: Any, w: Any) -> Any:
        return x.sin() @ w, (x * x).sum()

    inputs = point(), nanotorch.tensor([0.3, -0.2]).double()
    same(
        arrays(functional.jacobian(func, inputs, strategy=strategy)),
        arrays(functional.jacobian(func, inputs)),
    )


def test_results_can_be_differentiated_only_where_that_was_asked_for() -> None:
    x = point().requires_grad_()
    assert not functional.jacobian(lambda x: x**3, x).requires_grad
    jacobian = functional.jacobian(lambda x: x**3, x, create_graph=True)
    (found,) = nanotorch.autograd.grad(jacobian.sum(), x)
    numpy.testing.assert_allclose(found.numpy(), 6 * point().numpy())
    assert x.grad is None


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "jacobian of two outputs": lambda t, F: F.jacobian(
        lambda x, w: (t.sin(x) @ w, (x * x).sum()), (point(t), t.ones(2).double())
    ),
    "jacobian of an input that is not used": lambda t, F: F.jacobian(
        lambda x, w: x * 2, (point(t), t.ones(2).double())
    ),
    "hessian": lambda t, F: F.hessian(lambda x: (x**3).sum(), point(t)),
    "hessian of two inputs": lambda t, F: F.hessian(
        lambda x, w: t.exp(t.sin(x) @ w).sum(), (point(t), t.ones(2).double())
    ),
    "hessian by forward mode": lambda t, F: F.hessian(
        lambda x, w: t.exp(t.sin(x) @ w).sum(),
        (point(t), t.ones(2).double()),
        vectorize=True,
        outer_jacobian_strategy="forward-mode",
    ),
    "vjp": lambda t, F: F.vjp(
        lambda x, w: (t.sin(x) @ w, x.sum()),
        (point(t), t.ones(2).double()),
        (t.tensor([1.0, 0.5]).double(), t.tensor(2.0).double()),
    ),
    "vjp of one number": lambda t, F: F.vjp(lambda x: (x**3).sum(), point(t)),
    "jvp": lambda t, F: F.jvp(
        lambda x, w: (t.sin(x) @ w, x.sum()),
        (point(t), t.ones(2).double()),
        (point(t).t(), t.ones(2).double()),
    ),
    "hvp": lambda t, F: F.hvp(
        lambda x, w: t.exp(t.sin(x) @ w).sum(),
        (point(t), t.ones(2).double()),
        (point(t).t(), t.ones(2).double()),
    ),
    "vhp": lambda t, F: F.vhp(
        lambda x, w: t.exp(t.sin(x) @ w).sum(),
        (point(t), t.ones(2).double()),
        (point(t).t(), t.ones(2).double()),
    ),
}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own forward mode
@pytest.mark.parametrize("name", CALLS)
def test_results_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    call = CALLS[name]
    same(arrays(call(nanotorch, functional)), arrays(call(torch, torch.autograd.functional)))


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "an output without a vector": (
        lambda: functional.vjp(lambda x: x * 2, point()),
        RuntimeError,
        "v can only be None if the output of func is a single element",
    ),
    "a vector of the wrong shape": (
        lambda: functional.vjp(lambda x: x * 2, point(), nanotorch.ones(3)),
        RuntimeError,
        r"v\[0\] has shape \(3,\), expected \(2, 2\)",
    ),
    "too many vectors": (
        lambda: functional.jvp(lambda x: x * 2, point(), (point(), point())),
        RuntimeError,
        "expected 1 vectors",
    ),
    "a hessian of several numbers": (
        lambda: functional.hessian(lambda x: x * 2, point()),
        RuntimeError,
        r"single-element Tensor, got shape \(2, 2\)",
    ),
    "an input that is no tensor": (
        lambda: functional.jacobian(lambda x: x, 3.0),
        TypeError,
        "expected inputs to be a Tensor or a tuple of Tensors, got float",
    ),
    "an output that is no tensor": (
        lambda: functional.jacobian(lambda x: 3.0, point()),
        TypeError,
        "the outputs of func",
    ),
    "strict, and an input not used": (
        lambda: functional.jacobian(lambda x, y: x * 2, (point(), point()), strict=True),
        RuntimeError,
        "independent of input 1",
    ),
    "strict, and no input used": (
        lambda: functional.vjp(lambda x: nanotorch.ones(()), point(), strict=True),
        RuntimeError,
        "output 0 of func is independent",
    ),
    "an unknown strategy": (
        lambda: functional.jacobian(lambda x: x, point(), strategy="sideways"),
        ValueError,
        "'reverse-mode' or 'forward-mode', got 'sideways'",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_was_expected(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()
