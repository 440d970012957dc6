"""EmbeddingBag: PyTorch's sums, means and maxima of bags, their gradients and refusals."""

from __future__ import annotations

from typing import Any

import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn import functional as F

BAGS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "rows": ([[1, 2, 3], [4, 3, 3]], None, {}),
    "offsets": ([1, 2, 3, 4, 3, 3], [0, 1, 4], {}),
    "empty bags": ([1, 2, 3, 4], [0, 0, 3, 4], {}),
    "the last offset": ([1, 2, 3, 4], [0, 1, 4], {"include_last_offset": True}),
    "padding": ([1, 2, 3, 4, 2, 2], [0, 3, 4], {"padding_idx": 2}),
    "padding from the end": ([[1, 2, 3], [4, 3, 3]], None, {"padding_idx": -2}),
    "a bag of padding": ([2, 2, 3], [0, 2], {"padding_idx": 2}),
    "no numbers": ([], [0, 0], {}),
}


def call(module: Any, functional: Any, mode: str, name: str, weights: bool = False) -> Any:
    """(y, the table's gradient, that of the weights)"""
    numbers, offsets, options = BAGS[name]
    table = module.arange(15, dtype=module.float64).reshape(5, 3).sin().requires_grad_()
    input = module.tensor(numbers, dtype=module.int64)
    factors = None
    if weights:
        factors = module.arange(input.numel(), dtype=module.float64).cos().reshape(input.shape)
        options = {**options, "per_sample_weights": factors.requires_grad_()}
    starts = None if offsets is None else module.tensor(offsets)
    y = functional.embedding_bag(input, table, starts, mode=mode, **options)
    (y * module.arange(y.numel(), dtype=module.float64).reshape(y.shape)).sum().backward()
    return [x.tolist() for x in (y, table.grad, *([] if factors is None else [factors.grad]))]


@pytest.mark.torch
@pytest.mark.parametrize("name", BAGS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_give_what_they_give_in_pytorch(mode: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    for weights in (False, True) if mode == "sum" else (False,):
        ours = call(nt, F, mode, name, weights)
        theirs = call(torch, torch.nn.functional, mode, name, weights)
        for a, b in zip(ours, theirs, strict=True):
            here, there = nt.tensor(a), nt.tensor(b)
            assert here.shape == there.shape
            assert nt.allclose(here, there, rtol=0, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"mode": "sum", "padding_idx": -1}], ids=str)
def test_the_layer_has_pytorchs_weights_names_and_words(options: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    theirs = torch.nn.EmbeddingBag(5, 3, **options)
    nt.manual_seed(3)
    ours = nn.EmbeddingBag(5, 3, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.weight.tolist() == theirs.weight.tolist()
    numbers = [[0, 4], [1, 2]]
    a, b = ours(nt.tensor(numbers)), theirs(torch.tensor(numbers))
    assert nt.allclose(a, nt.tensor(b.detach().numpy()), rtol=0, atol=1e-7)


def test_the_gradient_is_that_of_differences_and_its_own_derivative_is_0() -> None:
    numbers, starts = nt.tensor([1, 2, 3, 4, 3]), nt.tensor([0, 2])
    for mode in ("sum", "mean", "max"):
        table = nt.randn(5, 3, dtype=nt.float64).requires_grad_()

        def bag(table: Any, mode: str = mode) -> Any:
            return F.embedding_bag(numbers, table, starts, mode=mode)

        assert nt.autograd.gradcheck(bag, (table,))


def test_a_table_of_ones_own_is_frozen_unless_told_otherwise() -> None:
    table = nt.eye(3)
    layer = nn.EmbeddingBag.from_pretrained(table, mode="sum")
    assert not layer.weight.requires_grad
    assert layer(nt.tensor([[0, 0, 2]])).tolist() == [[2, 0, 1]]
    assert nn.EmbeddingBag.from_pretrained(table, freeze=False).weight.requires_grad


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_norm": 1.0}, NotImplementedError, "max_norm is not part of NanoTorch"),
        ({"sparse": True, "mode": "max"}, ValueError, "max mode does not support sparse weights"),
        ({"mode": "least"}, ValueError, "one of sum, mean or max, got 'least'"),
        ({"offsets": None}, ValueError, "offsets has to be a 1D Tensor"),
        ({"offsets": nt.tensor([0, 9])}, RuntimeError, "0 first and 9 at most"),
        ({"offsets": nt.tensor([1, 2])}, RuntimeError, "1 first and 2 at most"),
        ({"per_sample_weights": nt.ones(2)}, ValueError, r"must have the same shape .* \(3,\)"),
        ({"per_sample_weights": nt.ones(3)}, NotImplementedError, "only supported for mode='sum'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_line(options: Any, error: Any, words: str) -> None:
    arguments = {"offsets": nt.tensor([0, 1]), **options}
    with pytest.raises(error, match=words):
        F.embedding_bag(nt.tensor([0, 1, 2]), nt.ones(3, 2), **arguments)
