"""The memory plan of a compiled step: what a replay reads was written by that replay.

Every block that is free is filled with NaN as soon as it is free, and gradients are cleared between
forward and backward, where forward values must not lie in their memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import op_table
import pytest

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.compile.program import Program


@pytest.fixture(autouse=True)
def free_memory_is_poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "poisoned", True)


@pytest.mark.filterwarnings("ignore:compile")  # a few read values, and stay eager
@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("case", op_table.CASES, ids=lambda case: case.name)
def test_every_op_computes_in_memory_that_nothing_else_uses(
    case: op_table.Case, pure: bool
) -> None:
    results = []
    for compiled in (False, True):
        inputs = [nt.tensor(a) for a in case.arrays()]
        pairs = zip(inputs, case.inputs, strict=True)
        leaves = [x.requires_grad_() for x, i in pairs if i.differentiable]
        optimizer = optim.SGD(leaves or [nt.zeros(1, requires_grad=True)], lr=1e-6)

        def step(inputs: Any = inputs, optimizer: Any = optimizer) -> Any:
            before = [x * 2 for x in inputs if x.is_floating_point()]
            found = case.function(nt, *inputs)
            out = found[0] if isinstance(found, tuple) else found
            optimizer.zero_grad(set_to_none=False)
            if isinstance(out, nt.Tensor) and out.requires_grad:
                ((out * out).sum() + sum(b.sin().sum() for b in before)).backward()
                optimizer.step()
            return out.detach().clone() if isinstance(out, nt.Tensor) else out

        run = nt.compile(step, pure=pure) if compiled else step
        seen = []
        for _ in range(4):
            out = run()
            seen.append(out._array.tobytes() if isinstance(out, nt.Tensor) else out)
            seen += [x.grad._array.tobytes() for x in leaves if x.grad is not None]
        results.append(seen)
    assert results[0] == results[1]


def bare(x: nt.Tensor, w: nt.Tensor) -> nt.Tensor:
    return (x.exp() * w).sum()


def module(*layers: nn.Module) -> Any:
    model = nn.Sequential(*layers)
    return lambda x: (model(x) ** 2).mean(), list(model.parameters())


def bare_weight() -> Any:
    w = nt.randn(8, 8, requires_grad=True)
    return lambda x: bare(x, w), [w]


KINDS: dict[str, Callable[[], Any]] = {
    "a product with a weight": bare_weight,
    "BatchNorm in eval mode": lambda: module(
        nn.Linear(8, 8), nn.BatchNorm1d(8).eval(), nn.Linear(8, 8)
    ),
    "a sigmoid between two layers": lambda: module(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8)),
    "many layers of one size": lambda: module(
        *(layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh()))
    ),
}


@pytest.mark.parametrize("place", ["first", "between", "last"])
@pytest.mark.parametrize("to_none", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pure", [False, True])
def test_gradients_may_be_cleared_anywhere_in_a_step(
    pure: bool, kind: str, place: str, to_none: bool
) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        loss_of, parameters = KINDS[kind]()
        optimizer = optim.SGD(parameters, lr=0.1, momentum=0.9)

        def step(x: nt.Tensor, loss_of: Any = loss_of, optimizer: Any = optimizer) -> nt.Tensor:
            if place == "first":
                optimizer.zero_grad(set_to_none=to_none)
            loss: nt.Tensor = loss_of(x)
            if place == "between":
                optimizer.zero_grad(set_to_none=to_none)
            loss.backward()
            optimizer.step()
            if place == "last":
                optimizer.zero_grad(set_to_none=to_none)
            return loss

        run = nt.compile(step, pure=pure) if compiled else step
        seen = []
        for _ in range(6):
            loss = run(nt.randn(8, 8)).item()
            seen.append((loss, [p.grad if p.grad is None else p.grad.tolist() for p in parameters]))
        results.append((seen, [p.tolist() for p in parameters]))
    assert results[0] == results[1]
