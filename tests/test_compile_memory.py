"""The memory plan of a compiled step: what a replay reads was written by that replay.

Every block that is free is filled with NaN as soon as it is free, and gradients are cleared between
forward and backward, where forward values must not lie in their memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import op_table
import pytest

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.compile.program import Program
from nanotorch.ops.casting import into
from nanotorch.primitive import Linear, Primitive, apply


@pytest.fixture(autouse=True)
def free_memory_is_poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "poisoned", True)


@pytest.mark.filterwarnings("ignore:compile")  # a few read values, and stay eager
@pytest.mark.parametrize("pure", [pytest.param(False, marks=pytest.mark.slow), True])
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


# --- views and copies -----------------------------------------------------------------------------


def laid_out(order: str, a: Any) -> Any:
    """The elements of an array of three dimensions in memory of another order."""
    if order == "last dimension first":
        return np.asfortranarray(a)
    if order == "middle dimension first":
        return np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1)
    if order == "reversed":
        return a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    if order == "one reversed":
        return a[:, ::-1].copy()[:, ::-1]
    if order == "every second":
        return np.repeat(a, 2, 2)[..., ::2]
    if order == "repeated":
        return np.broadcast_to(a[:, :1].copy(), a.shape)
    return np.ascontiguousarray(a)


ORDERS = [
    "contiguous", "last dimension first", "middle dimension first", "reversed", "one reversed",
    "every second", "repeated",
]  # fmt: skip


class InOrder(Primitive):
    """y = x in memory of the named order; the cotangent, too"""

    vjp = (lambda g, order: apply(InOrder, g, order=order),)

    @staticmethod
    def kernel(xp: Any, x: Any, *, order: str, out: Any = None) -> Any:
        return into(xp, laid_out(order, x * 1.5), out)


class Flattening(Linear):
    """y = 2 x, whose rule takes the cotangent apart, element by element"""

    vjp = (lambda g, x_shape: nt.ops.reshape(nt.ops.reshape(g, (-1,)) * 2.0, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Any, out: Any = None) -> Any:
        return xp.multiply(x, 2.0, out=out)


CHAINS: dict[str, Callable[[Any], Any]] = {
    "a rule that flattens": lambda h: apply(Flattening, h),
    "reshape": lambda h: h.reshape(4, 6),
    "reshape, and back": lambda h: h.reshape(-1).reshape(3, 2, 4),
    "flatten": lambda h: h.flatten(1),
    "a copy, then a view": lambda h: h.clone().reshape(6, 4),
    "a transposed matrix": lambda h: h.reshape(6, 4).t().reshape(3, 8).exp().t(),
    "contiguous": lambda h: h.permute(2, 0, 1).contiguous().view(-1),
    "without a dimension of one": lambda h: h.unsqueeze(1).exp().squeeze(1).reshape(-1),
    "one step": lambda h: h[:, ::2].reshape(-1) * h[:, :1].expand(3, 1, 4).reshape(-1),
    "sums": lambda h: h.sum(1).reshape(-1) + h.mean((0, 1)).repeat(3),
}


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_view_of_memory_in_any_order_is_no_copy_of_an_earlier_call(
    order: str, chain: str, pure: bool
) -> None:
    nt.manual_seed(0)
    w = nt.randn(3, 2, 4, requires_grad=True)

    def step(x: nt.Tensor, weights: nt.Tensor) -> nt.Tensor:
        h = CHAINS[chain](apply(InOrder, w * x, order=order))
        (h.sin() * weights).sum().backward()
        return h.detach()

    shape = step(nt.ones(3, 2, 4), nt.ones(1)).shape
    run = nt.compile(step, pure=pure)
    for _ in range(5):
        weights = nt.randn(*shape[::-1]).permute(*range(len(shape))[::-1])
        arguments = nt.randn(3, 2, 4), weights
        seen = []
        for call in (step, run):
            w.grad = None
            y = call(*arguments)
            assert w.grad is not None
            seen.append((y._array.tobytes(), w.grad._array.tobytes()))
        assert seen[0] == seen[1]
    if not pure:
        assert any(entry.gradients for entry in run._paths.path())


CONSTANT_GRADIENTS: dict[str, Callable[[Any], Any]] = {
    "of zeros": lambda w: w.floor() + nt.floor_divide(w, 2.0),
    "of a sign": lambda w: w.sign(),
    "of a number's multiples": lambda w: w * 3.0,
    "of rows": lambda w: w.sum(0) * 0.5,
}


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("function", CONSTANT_GRADIENTS)
def test_a_gradient_that_is_the_same_at_each_call_is_written(
    function: str, pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = nt.randn(3, 5, requires_grad=True)

    def step() -> None:
        CONSTANT_GRADIENTS[function](w).sum().backward()

    step()
    assert w.grad is not None
    expected = w.grad.tolist()
    # New memory that agrees with the recording by chance, as a freed gradient's does.
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, memory[0], dtype))
    memory = [expected[0][0]]
    run = nt.compile(step, pure=pure)
    for number in range(5):
        memory[0] = expected[0][0] if number < 2 else 7.0
        w.grad = None
        run()
        assert w.grad is not None
        assert w.grad.tolist() == expected


class Over(Linear):
    """y = number / x in its rule, for numbers whose quotients are rounded once, and twice"""

    vjp = (lambda g, x, number: g * quotient(number, x),)

    @staticmethod
    def kernel(xp: Any, x: Any, *, number: float, out: Any = None) -> Any:
        return xp.multiply(x, number, out=out)


def quotient(number: float, x: Any) -> Any:
    """number / x as tensors compute it, also of raw arrays."""
    return number / x if number in (1, 2, 0.5) else nt.ops.reciprocal(x) * number


@pytest.mark.parametrize("number", [1, 2, 0.5, 3, 0.7])
def test_a_number_over_an_input_has_the_same_bits_on_arrays_and_on_tensors(number: float) -> None:
    nt.manual_seed(0)
    w, x = nt.randn(50, requires_grad=True), nt.randn(50)

    def step(x: nt.Tensor) -> None:
        (apply(Over, w * x, number=number) * x).sum().backward()

    seen = [nt.autograd.grad(apply(Over, w * x, number=number).sum(), w, create_graph=True)[0]]
    seen.append((number / (w * x)).detach() * x)
    w.grad = None
    apply(Over, w * x, number=number).sum().backward()
    assert w.grad is not None
    assert [g._array.tobytes() for g in seen] == [w.grad._array.tobytes()] * 2
    for pure in (False, True):
        run = nt.compile(step, pure=pure)
        for _ in range(4):
            x, gradients = nt.randn(50), []
            for call in (step, run):
                w.grad = None
                call(x)
                assert w.grad is not None
                gradients.append(w.grad._array.tobytes())
            assert gradients[0] == gradients[1]


class MadeOfValues(Primitive):
    """y = |x|, whose rule makes a tensor of x's values itself"""

    vjp = (lambda g, x: g * alike(g, np.sign(getattr(x, "_array", x))),)

    @staticmethod
    def kernel(xp: Any, x: Any, out: Any = None) -> Any:
        return xp.abs(x, out=out)


class MadeOfCotangent(Primitive):
    """y = x, whose rule makes a tensor of the cotangent's values itself"""

    vjp = (lambda g: alike(g, getattr(g, "_array", g) * 2),)

    @staticmethod
    def kernel(xp: Any, x: Any, out: Any = None) -> Any:
        return xp.multiply(x, 2.0, out=out)


def alike(g: Any, array: Any) -> Any:
    """An array as a tensor where g is one."""
    return nt.tensor(array) if isinstance(g, nt.Tensor) else array


@pytest.mark.filterwarnings("ignore:compile")  # a pure step stays eager
@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("primitive", [MadeOfValues, MadeOfCotangent])
def test_what_a_rule_makes_of_values_itself_is_made_anew_at_each_call(
    primitive: type[Primitive], pure: bool
) -> None:
    nt.manual_seed(0)
    w = nt.randn(3, 4, requires_grad=True)

    def step(x: nt.Tensor) -> None:
        (apply(primitive, w * x) * x).sum().backward()

    run = nt.compile(step, pure=pure)
    for _ in range(5):
        x, seen = nt.randn(3, 4), []
        for call in (step, run):
            w.grad = None
            call(x)
            assert w.grad is not None
            seen.append(w.grad._array.tobytes())
        assert seen[0] == seen[1]


@pytest.mark.parametrize("pure", [False, True])
def test_gradients_and_results_lie_in_memory_as_after_an_eager_step(pure: bool) -> None:
    nt.manual_seed(0)
    w = nt.randn(30, 40, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    def step(x: nt.Tensor) -> tuple[nt.Tensor, ...]:
        optimizer.zero_grad()
        (w * x.t()).sum().backward()
        assert w.grad is not None
        return w.grad.sum(), x.t().exp(), x.t().clone() * 2  # sums depend on the order

    run = nt.compile(step, pure=pure)
    for _ in range(5):
        x, seen = nt.randn(40, 30), []
        for call in (step, run):
            results = call(x)
            assert w.grad is not None
            seen.append([(y.stride(), y._array.tobytes()) for y in (*results, w.grad)])
        assert seen[0] == seen[1]
