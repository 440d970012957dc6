"""Operands of several dtypes, and integers: refused where PyTorch refuses them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

import nanotorch as nt

Case = Callable[[Any, Callable[..., Any], Callable[..., Any]], Any]
# A case makes its tensors by a(*shape) and b(*shape), of one dtype each.
CASES: dict[str, Case] = {
    "linear": lambda T, a, b: T.nn.functional.linear(a(2, 3), b(4, 3)),
    "linear, bias": lambda T, a, b: T.nn.functional.linear(a(2, 3), a(4, 3), b(4)),
    "conv2d": lambda T, a, b: T.nn.functional.conv2d(a(1, 1, 4, 4), b(1, 1, 2, 2)),
    "bilinear": lambda T, a, b: T.nn.functional.bilinear(a(2, 3), a(2, 3), b(4, 3, 3)),
    "matmul": lambda T, a, b: a(2, 3) @ b(3, 2),
    "bmm": lambda T, a, b: T.bmm(a(1, 2, 3), b(1, 3, 2)),
    "mv": lambda T, a, b: T.mv(a(2, 3), b(3)),
    "dot": lambda T, a, b: T.dot(a(3), b(3)),
    "addmm": lambda T, a, b: T.addmm(a(2, 2), b(2, 3), b(3, 2)),
    "einsum": lambda T, a, b: T.einsum("ij,jk->ik", a(2, 3), b(3, 2)),
    "cdist": lambda T, a, b: T.cdist(a(2, 3), b(3, 3)),
    "hinge_embedding_loss": lambda T, a, b: T.nn.functional.hinge_embedding_loss(a(3), a(3)),
    "scatter": lambda T, a, b: a(3).scatter(0, T.tensor([0]), b(1)),
    "binary_cross_entropy_with_logits": lambda T, a, b: (
        T.nn.functional.binary_cross_entropy_with_logits(a(3), a(3))
    ),
    "nll_loss, weight": lambda T, a, b: T.nn.functional.nll_loss(a(2, 3), T.tensor([0, 1]), b(3)),
    "mse_loss": lambda T, a, b: T.nn.functional.mse_loss(a(3), b(3)),
    "gelu": lambda T, a, b: T.nn.functional.gelu(a(3)),
    "silu": lambda T, a, b: T.nn.functional.silu(a(3)),
    "elu": lambda T, a, b: T.nn.functional.elu(a(3)),
    "leaky_relu": lambda T, a, b: T.nn.functional.leaky_relu(a(3)),
    "softplus": lambda T, a, b: T.nn.functional.softplus(a(3)),
    "logsigmoid": lambda T, a, b: T.nn.functional.logsigmoid(a(3)),
    "hardswish": lambda T, a, b: T.nn.functional.hardswish(a(3)),
    "baddbmm": lambda T, a, b: T.baddbmm(a(1, 2, 2), b(1, 2, 2), b(1, 2, 2)),
    "addmv": lambda T, a, b: T.addmv(a(2), b(2, 2), b(2)),
    "cross": lambda T, a, b: T.linalg.cross(a(3), b(3)),
    "isclose": lambda T, a, b: T.isclose(a(3), b(3)),
    "solve": lambda T, a, b: (
        T.linalg.solve(T.eye(2).to(a(1).dtype), b(2)) if (a(1).dtype is not T.float16) else a(1)
    ),
    "huber_loss": lambda T, a, b: T.nn.functional.huber_loss(a(3), b(3)),
    "smooth_l1_loss": lambda T, a, b: T.nn.functional.smooth_l1_loss(a(3), b(3)),
    "hardsigmoid": lambda T, a, b: T.nn.functional.hardsigmoid(a(3)),
    "hardshrink": lambda T, a, b: T.nn.functional.hardshrink(a(3)),
    "softshrink": lambda T, a, b: T.nn.functional.softshrink(a(3)),
    "celu": lambda T, a, b: T.nn.functional.celu(a(3)),
    "glu": lambda T, a, b: T.nn.functional.glu(a(2, 4)),
    "interpolate": lambda T, a, b: T.nn.functional.interpolate(a(1, 1, 4), scale_factor=2),
    "soft_margin_loss": lambda T, a, b: T.nn.functional.soft_margin_loss(a(3), a(3)),
    "cross_entropy, weight": lambda T, a, b: T.nn.functional.cross_entropy(
        a(2, 3), T.tensor([0, 1]), b(3)
    ),
    "RNNCell": lambda T, a, b: T.nn.RNNCell(3, 2, dtype=b(1).dtype)(a(2, 3)),
    "LSTM": lambda T, a, b: T.nn.LSTM(3, 2, dtype=b(1).dtype)(a(2, 1, 3))[0],
}
DTYPES = ("float32", "float64", "int64", "uint8", "bool", "float16")


def answer(case: Case, T: Any, first: str, second: str) -> str:
    """The dtype of the result, or "refused"."""
    a, b = (
        lambda *shape, kind=kind: T.ones(*shape, dtype=getattr(T, kind)) for kind in (first, second)
    )
    try:
        return str(case(T, a, b).dtype).removeprefix("torch.")
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return "refused"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_dtypes_are_refused_where_pytorch_refuses_them(name: str) -> None:
    import torch

    for first, second in itertools.product(DTYPES, ("float32", "float64", "int64")):
        if name in ("RNNCell", "LSTM") and second == "int64":
            continue
        expected = answer(CASES[name], torch, first, second)
        assert answer(CASES[name], nt, first, second) == expected, (first, second)


@pytest.mark.parametrize("norm", ["layer_norm", "group_norm", "batch_norm"])
def test_a_norm_takes_no_integers_and_no_weights_of_another_dtype(norm: str) -> None:
    def call(x: Any, weight: Any) -> Any:
        F = nt.nn.functional
        if norm == "layer_norm":
            return F.layer_norm(x, (4,), weight)
        if norm == "group_norm":
            return F.group_norm(x, 2, weight)
        return F.batch_norm(x, nt.zeros(4), nt.ones(4), weight)

    x, weight = nt.rand(3, 4), nt.ones(4)
    assert call(x, weight).dtype is nt.float32
    with pytest.raises(NotImplementedError, match=f"{norm}: expected floating point"):
        call(x.long(), weight)
    with pytest.raises(RuntimeError, match=f"{norm}: expected tensors of one dtype"):
        call(x, weight.double())
    if norm != "batch_norm":
        assert call(x.half(), weight.half()).dtype is nt.float16


def test_autocast_casts_what_would_be_refused() -> None:
    with nt.autocast("cpu", nt.bfloat16):
        assert nt.bmm(nt.ones(1, 2, 3), nt.ones(1, 3, 2).bfloat16()).dtype is nt.bfloat16
