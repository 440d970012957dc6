"""Weights that are computed from others, and spectral norms, beside PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest

import nanotorch as nt


def parametrizations_of(t: Any) -> dict[str, Any]:
    """Modules that compute a weight, with and without an inverse."""

    class Symmetric(t.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.triu() + x.triu(1).transpose(-1, -2)

        def right_inverse(self, x: Any) -> Any:
            return x.triu()

    class Exponential(t.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.exp()

        def right_inverse(self, x: Any) -> Any:
            return x.abs().log()

    class Doubled(t.nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2

    class Product(t.nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return t.outer(a, b)

        def right_inverse(self, x: Any) -> Any:
            return x[:, 0] * 1, x[0] / x[0, 0]

    class Cut(t.nn.Module):
        def forward(self, x: Any) -> Any:
            return x[:1]

    kinds = (Symmetric, Exponential, Doubled, Product, Cut)
    return {kind.__name__: kind for kind in kinds}


def one_of(*names: str) -> Callable[[Any, Any], Iterator[Any]]:
    """Registers some of them, trains, sets and removes them, and tells what there is."""

    def run(t: Any, layer: Any) -> Iterator[Any]:
        parametrize, kinds = t.nn.utils.parametrize, parametrizations_of(t)
        optimizer = t.optim.SGD(layer.parameters(), lr=0.1)
        for name in names:
            assert parametrize.register_parametrization(layer, "weight", kinds[name]()) is layer
        yield type(layer).__name__, list(layer.state_dict()), repr(layer)
        yield [*layer.parameters(), layer.weight]
        layer(t.ones(2, 3)).pow(2).sum().backward()
        optimizer.step()
        yield [layer.weight, *layer.state_dict().values()]
        layer.weight = t.eye(3) + 1
        yield [layer.weight, *copy.deepcopy(layer).parameters()]
        yield parametrize.is_parametrized(layer), parametrize.is_parametrized(layer, "bias")
        parametrize.remove_parametrizations(layer, "weight")
        yield type(layer).__name__, list(layer.state_dict())
        yield [layer.weight]

    return run


def spectral(older: bool, kind: str, *sizes: int, **options: Any) -> Callable[..., Iterator[Any]]:
    """A layer with a spectral norm: training, evaluation, a copy, removal."""

    def run(t: Any, _: Any) -> Iterator[Any]:
        utils = t.nn.utils
        norm = utils.spectral_norm if older else utils.parametrizations.spectral_norm
        layer = norm(getattr(t.nn, kind)(*sizes), **options)
        x = t.randn(2, 4) if kind == "Linear" else t.randn(2, 4, 5)
        yield list(layer.state_dict()), [name for name, _ in layer.named_parameters()]
        layer(x).pow(2).sum().backward()
        yield [layer(x), layer.weight, *(p.grad for p in layer.parameters())]
        layer.eval()
        yield [layer(x), layer(x), *layer.state_dict().values()]
        if older:
            utils.remove_spectral_norm(layer)
        else:
            utils.parametrize.remove_parametrizations(layer, "weight")
        yield list(layer.state_dict())
        yield [layer.weight, layer(x)]

    return run


CASES: dict[str, Callable[[Any, Any], Iterator[Any]]] = {
    "one": one_of("Symmetric"),
    "without an inverse of two": one_of("Symmetric", "Exponential"),
    "of several tensors": one_of("Product"),
    "spectral, linear": spectral(False, "Linear", 4, 3),
    "spectral, convolution": spectral(False, "Conv1d", 4, 3, 2, n_power_iterations=3),
    "spectral, transposed": spectral(False, "ConvTranspose1d", 4, 3, 2),
    "older spectral, linear": spectral(True, "Linear", 4, 3, n_power_iterations=2),
    "older spectral, transposed": spectral(True, "ConvTranspose1d", 4, 3, 2),
    "older spectral, rows": spectral(True, "Linear", 4, 3, dim=1, eps=1e-6),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_computed_weights_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    reports = []
    for t in (nt, torch):
        t.manual_seed(3)
        layer = t.nn.Linear(3, 3)
        reports.append(list(CASES[name](t, layer)))
    for ours, theirs in zip(*reports, strict=True):
        if not isinstance(theirs, list) or isinstance(theirs[0], str):
            assert ours == theirs
            continue
        for a, b in zip(ours, theirs, strict=True):
            numpy.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 2e-5, 1e-6)


REFUSED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "no such parameter": lambda u, layer, k: u.register_parametrization(layer, "w", k["Doubled"]()),
    "another shape": lambda u, layer, k: u.register_parametrization(layer, "weight", k["Cut"]()),
    "none to remove": lambda u, layer, k: u.remove_parametrizations(layer, "weight"),
    "of several": lambda u, layer, k: u.remove_parametrizations(
        u.register_parametrization(layer, "weight", k["Product"]()),
        "weight",
        leave_parametrized=False,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_refused(name: str) -> None:
    utils, layer = nt.nn.utils.parametrize, nt.nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"parameter|expected|parametriz"):
        REFUSED[name](utils, layer, parametrizations_of(nt))


def test_an_unsafe_one_may_change_the_shape_and_the_original_may_be_left() -> None:
    utils, kinds = nt.nn.utils.parametrize, parametrizations_of(nt)
    layer = nt.nn.Linear(3, 3)
    weight = layer.weight
    utils.register_parametrization(layer, "weight", kinds["Cut"](), unsafe=True)
    assert layer.weight.shape == (1, 3)
    assert utils.remove_parametrizations(layer, "weight", leave_parametrized=False).weight is weight


def test_a_spectral_norm_is_applied_and_removed_once() -> None:
    layer = nt.nn.utils.spectral_norm(nt.nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="two spectral_norm hooks"):
        nt.nn.utils.spectral_norm(layer)
    nt.nn.utils.remove_spectral_norm(layer)
    with pytest.raises(ValueError, match="not found"):
        nt.nn.utils.remove_spectral_norm(layer)
