"""What the engine promises: gradients, graphs, modes, hooks, views, and memory that does not
grow."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from collector import traced_bytes, without_collector

import nanotorch as nt


def leaf(*values: float) -> nt.Tensor:
    return nt.tensor(list(values), dtype=nt.float64, requires_grad=True)


# --- leaves ---------------------------------------------------------------------------------------


def test_a_tensor_made_by_the_user_is_a_leaf() -> None:
    x = nt.ones(3)
    assert x.is_leaf and x.grad_fn is None and not x.requires_grad and x.grad is None
    y = leaf(1.0) * 2
    assert not y.is_leaf and y.requires_grad and type(y.grad_fn).__name__ == "Mul"
    assert y.grad_fn.name() == "MulBackward0"
    assert (nt.ones(3) * 2).is_leaf


def test_only_floating_tensors_can_require_grad() -> None:
    with pytest.raises(RuntimeError, match="floating point"):
        nt.tensor([1, 2], requires_grad=True)
    with pytest.raises(RuntimeError, match="floating point"):
        nt.ones(2, dtype=nt.bool).requires_grad_()


def test_a_result_cannot_stop_requiring_grad() -> None:
    y = leaf(1.0) * 2
    with pytest.raises(RuntimeError, match="only change requires_grad flags of leaf"):
        y.requires_grad_(False)
    y.requires_grad_()


def test_a_frozen_leaf_gets_no_gradient_though_it_was_used() -> None:
    x, w = leaf(1.0), leaf(2.0)
    y = x * w
    w.requires_grad_(False)
    y.backward()
    assert w.grad is None and x.grad is not None


# --- backward -------------------------------------------------------------------------------------


def test_gradients_add_up() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    first = x.grad
    (3 * x).sum().backward()
    assert x.grad is first and x.grad.tolist() == [5.0, 7.0]


def test_one_leaf_used_often_gets_the_sum() -> None:
    x = leaf(2.0)
    y = x
    for _ in range(5):
        y = y + x
    (y * x).sum().backward()
    assert x.grad.tolist() == [24.0]


def test_backward_of_many_elements_needs_a_gradient_of_the_shape() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="only for scalar outputs, got one of shape"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match=r"Mismatch in shape: grad_output\[0\]"):
        (x * 2).backward(nt.ones(3, dtype=nt.float64))
    (x * 2).backward(nt.tensor([1.0, 10.0], dtype=nt.float64))
    assert x.grad.tolist() == [2.0, 20.0]


def test_backward_of_a_constant_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not require grad and does not have a grad_fn"):
        nt.ones(()).backward()


def test_a_graph_is_freed_by_backward_unless_retained() -> None:
    x = leaf(1.0)
    y = x.exp().sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match=r"second time.*retain_graph=True"):
        y.backward()


def test_backward_lets_go_of_what_was_kept() -> None:
    x = leaf(1.0, 2.0)
    hidden = x * 2
    alive = weakref.ref(hidden)
    y = (hidden * hidden).sum()
    del hidden
    assert alive() is not None
    y.backward()
    assert alive() is None


def test_grad_returns_and_leaves_leaves_alone() -> None:
    x, w = leaf(1.0), leaf(3.0)
    y = x * w
    gx, gy = nt.autograd.grad(y, (x, y))
    assert gx.tolist() == [3.0] and gy.tolist() == [1.0]
    assert x.grad is None and w.grad is None


def test_grad_of_what_was_not_used() -> None:
    x, unused = leaf(1.0), leaf(1.0)
    with pytest.raises(RuntimeError, match="allow_unused=True"):
        nt.autograd.grad(x * 2, (x, unused))
    assert nt.autograd.grad(x * 2, (x, unused), allow_unused=True)[1] is None
    zeros = nt.autograd.grad(x * 2, (x, unused), materialize_grads=True)[1]
    assert zeros.tolist() == [0.0]


def test_backward_for_chosen_inputs_only() -> None:
    x, w = leaf(1.0), leaf(3.0)
    (x * w).sum().backward(inputs=[x])
    assert x.grad.tolist() == [3.0] and w.grad is None


def test_higher_derivatives() -> None:
    x = leaf(2.0)
    y, derivative = x**5, []
    for _ in range(5):
        (y,) = nt.autograd.grad(y, x, create_graph=True)
        derivative.append(y.item())
    assert derivative == [80.0, 160.0, 240.0, 240.0, 120.0]


def test_gradients_without_create_graph_are_constants() -> None:
    x = leaf(2.0)
    (g,) = nt.autograd.grad(x**2, x)
    assert not g.requires_grad
    (g,) = nt.autograd.grad(x**2, x, create_graph=True)
    assert g.requires_grad


def test_the_cotangent_has_the_dtype_of_its_value() -> None:
    x = nt.ones(3, requires_grad=True)
    (x.double() * nt.ones(3, dtype=nt.float64)).sum().backward()
    assert x.grad.dtype is nt.float32


def test_leaves_do_not_share_gradients_nor_keep_the_caller_s() -> None:
    x, w, g = leaf(1.0, 2.0), leaf(3.0, 4.0), nt.ones(2, dtype=nt.float64)
    (x + w).backward(g)
    x.grad.zero_()
    assert w.grad.tolist() == [1.0, 1.0] and g.tolist() == [1.0, 1.0]


def test_grad_must_fit_its_tensor() -> None:
    x = leaf(1.0, 2.0)
    for wrong in (nt.ones(3, dtype=nt.float64), nt.ones(2)):
        with pytest.raises(RuntimeError, match="assigned grad has data of a different"):
            x.grad = wrong
    with pytest.raises(TypeError, match="expected to be a Tensor or None"):
        x.grad = 1.0
    x.grad = nt.ones(2, dtype=nt.float64)
    del x.grad
    assert x.grad is None


# --- modes ----------------------------------------------------------------------------------------


@nt.no_grad
def bare(x: nt.Tensor) -> nt.Tensor:
    return x * 2


@nt.no_grad()
def called(x: nt.Tensor) -> nt.Tensor:
    return x * 2


@nt.set_grad_enabled(False)
def switched(x: nt.Tensor) -> nt.Tensor:
    return x * 2


def in_block(x: nt.Tensor) -> nt.Tensor:
    with nt.no_grad():
        return x * 2


@pytest.mark.parametrize("function", [bare, called, switched, in_block])
def test_no_grad_in_all_its_forms(function: Callable[[nt.Tensor], nt.Tensor]) -> None:
    y = function(leaf(1.0))
    assert not y.requires_grad and y.is_leaf
    assert nt.is_grad_enabled()


@pytest.mark.parametrize(
    ("mode", "inside"),
    [
        (lambda f: nt.no_grad(f), False),
        (lambda f: nt.no_grad()(f), False),
        (lambda f: nt.inference_mode(f), False),
        (lambda f: nt.set_grad_enabled(False)(f), False),
        (lambda f: nt.enable_grad()(f), True),
    ],
    ids=["no_grad", "no_grad()", "inference_mode", "set_grad_enabled", "enable_grad"],
)
@pytest.mark.parametrize("outside", [True, False])
def test_a_mode_holds_in_a_generator_at_each_resume_and_nowhere_outside(
    mode: Any, inside: bool, outside: bool
) -> None:
    class Rows:
        @mode
        def values(self) -> Any:
            seen = [nt.is_grad_enabled()]
            try:
                while True:
                    try:
                        sent = yield seen
                        seen = [sent, nt.is_grad_enabled()]
                    except ValueError:
                        seen = ["error", nt.is_grad_enabled()]
                    if sent == "end":
                        return seen
            finally:
                at_end.append(nt.is_grad_enabled())

    at_end: list[bool] = []
    with nt.set_grad_enabled(outside):
        rows = Rows().values()
        assert next(rows) == [inside] and nt.is_grad_enabled() is outside
        assert rows.send(1) == [1, inside] and nt.is_grad_enabled() is outside
        assert rows.throw(ValueError()) == ["error", inside] and nt.is_grad_enabled() is outside
        with pytest.raises(StopIteration) as end:
            rows.send("end")
        assert end.value.value == ["end", inside] and nt.is_grad_enabled() is outside
        closed = Rows().values()
        next(closed)
        closed.close()
        assert at_end == [inside, inside] and nt.is_grad_enabled() is outside
        with pytest.raises(ZeroDivisionError):
            failing = Rows().values()
            next(failing)
            failing.throw(ZeroDivisionError())
        assert nt.is_grad_enabled() is outside


def test_modes_nest_and_end_with_errors() -> None:
    x = leaf(1.0)
    with nt.no_grad():
        with nt.enable_grad():
            assert (x * 2).requires_grad
        with pytest.raises(ZeroDivisionError), nt.enable_grad():
            raise ZeroDivisionError
        assert not nt.is_grad_enabled()
    nt.set_grad_enabled(False)
    assert not (x * 2).requires_grad
    nt.set_grad_enabled(True)


def test_modes_belong_to_their_thread() -> None:
    seen: list[bool] = []
    with nt.no_grad():
        thread = threading.Thread(target=lambda: seen.append(nt.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_what_inference_mode_made_cannot_be_kept_for_backward() -> None:
    x = leaf(1.0)
    with nt.inference_mode():
        y = x * 2
    assert not y.requires_grad
    with pytest.raises(RuntimeError, match="inference"):
        (x * y).sum().backward()


# --- hooks ----------------------------------------------------------------------------------------


def test_a_hook_sees_and_may_replace_the_gradient() -> None:
    x, seen = leaf(1.0), []
    y = x * 3
    y.register_hook(lambda g: seen.append(g.item()))
    y.register_hook(lambda g: g * 10)
    handle = x.register_hook(lambda g: g + 1)
    (y * 2).sum().backward(retain_graph=True)
    assert seen == [2.0] and x.grad.tolist() == [61.0]
    handle.remove()
    x.grad = None
    (y * 2).sum().backward()
    assert x.grad.tolist() == [60.0]


def test_a_gradient_that_a_hook_keeps_does_not_change_with_grad() -> None:
    x, copies = leaf(1.0, 2.0), []
    x.register_hook(copies.append)
    for _ in range(2):
        (x * x + x).sum().backward()
    x.grad.zero_()
    assert [g.tolist() for g in copies] == [[3.0, 5.0], [3.0, 5.0]]


def test_a_hook_may_not_change_the_shape() -> None:
    y = leaf(1.0, 2.0) * 2
    y.register_hook(lambda g: g.sum())
    with pytest.raises(RuntimeError, match="changed the size of value"):
        y.sum().backward()


def test_post_accumulate_hooks_run_after_the_gradient_is_there() -> None:
    x, seen = leaf(1.0), []
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.tolist()))
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    assert seen == [[2.0], [5.0]]
    with pytest.raises(RuntimeError, match="non-leaf"):
        (x * 2).register_post_accumulate_grad_hook(lambda t: None)


def test_retain_grad_keeps_the_gradient_of_a_result() -> None:
    x = leaf(1.0)
    y = x * 3
    y.retain_grad()
    y.retain_grad()
    (y * y).sum().backward()
    assert y.retains_grad and y.grad.tolist() == [6.0]


def test_node_hooks() -> None:
    x, seen = leaf(1.0), []
    y = x * 3
    y.grad_fn.register_prehook(lambda grads: seen.append(("before", grads[0].item())))
    y.grad_fn.register_hook(lambda ins, outs: seen.append(("after", ins[0].item(), outs[0].item())))
    (y * 2).sum().backward()
    assert seen == [("before", 2.0), ("after", 6.0, 2.0)]


def test_the_graph_can_be_walked() -> None:
    x = leaf(1.0)
    node = (x * 3).exp().grad_fn
    ((multiplication, _),) = node.next_functions
    (accumulate, _), constant = multiplication.next_functions
    assert multiplication.name() == "MulBackward0" and constant == (None, 0)
    assert accumulate.name() == "AccumulateGrad" and accumulate.variable is x


# --- writing in place, and views ------------------------------------------------------------------


def test_a_kept_value_that_was_changed_is_refused() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp()
    z = y.sum()
    y.mul_(2)
    with pytest.raises(RuntimeError, match=r"ExpBackward0.*\(2,\).*version 1; expected version 0"):
        z.backward()


def test_writing_to_a_leaf_that_requires_grad_is_refused() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        x.mul_(2)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        x[0] = 1.0
    with nt.no_grad():
        x.mul_(2)
        x[0] = 7.0
    x.detach()[1] = 9.0
    assert x.tolist() == [7.0, 9.0] and x._version == 3


def test_a_failed_write_changes_nothing() -> None:
    x = nt.ones(3)
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        x.add_(nt.ones(2, 3))
    with pytest.raises(RuntimeError, match="can't be cast"):
        nt.ones(2, dtype=nt.int64).mul_(0.5)
    assert x.tolist() == [1.0, 1.0, 1.0] and x._version == 0


def test_views_share_memory_and_version() -> None:
    x = nt.zeros(2, 3)
    row = x[1]
    row.fill_(5)
    x.view(-1)[0] = 7
    assert x.tolist() == [[7.0, 0.0, 0.0], [5.0, 5.0, 5.0]]
    assert x._version == row._version == 2
    assert row._base is x and row[0]._base is x


def test_a_write_to_a_view_is_part_of_its_base_s_graph() -> None:
    x, w = leaf(1.0, 2.0, 3.0), leaf(10.0)
    y = x * 2
    y[1:2].mul_(w)
    (y * nt.tensor([1.0, 10.0, 100.0], dtype=nt.float64)).sum().backward()
    assert y.grad_fn.name() == "CopySlices"
    assert x.grad.tolist() == [2.0, 200.0, 200.0] and w.grad.tolist() == [40.0]


def test_a_view_follows_writes_to_its_base() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    view = y[0]
    y.mul_(3)
    assert view.item() == 6.0 and view.grad_fn.name() == "AsStridedBackward0"
    view.backward()
    assert x.grad.tolist() == [6.0, 0.0]


def test_a_tensor_may_be_an_operand_of_its_own_write() -> None:
    for view in (lambda y: y, lambda y: y.view(2), lambda y: y[...]):
        x = leaf(1.5, 2.0)
        y = x * 2
        other = view(y)
        y.mul_(other)
        other.sum().backward()
        assert y.tolist() == [9.0, 16.0] and x.grad.tolist() == [12.0, 16.0]


def test_one_of_several_views_cannot_be_written_to() -> None:
    y = leaf(1.0, 2.0) * 2
    with pytest.raises(RuntimeError, match="one of several views"):
        y.unbind()[0].mul_(2)


def test_a_detached_tensor_shares_memory_and_version_but_no_graph() -> None:
    y = leaf(1.0) * 2
    d = y.detach()
    d.add_(1)
    assert y.tolist() == [3.0] and y._version == 1 and not d.requires_grad
    assert y.data._version == 0


# --- size and memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_long_chain_runs_and_is_freed_without_recursion(length: int) -> None:
    x = nt.ones((), requires_grad=True)
    y = x
    for _ in range(length):
        y = y + 1
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        y.backward()
        del y
    finally:
        sys.setrecursionlimit(limit)
    assert x.grad.item() == 1.0


def test_a_long_chain_that_was_never_walked_is_freed_too() -> None:
    x = nt.ones((), requires_grad=True)
    y = x
    for _ in range(50_000):
        y = y * 1.0
    node = weakref.ref(y.grad_fn)
    del y
    assert node() is None


def step(weight: nt.Tensor, bias: nt.Tensor, data: nt.Tensor, target: nt.Tensor) -> None:
    """One step of a logistic model."""
    weight.grad = bias.grad = None
    logits = nt.nn.functional.linear(data, weight, bias)
    nt.nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
    with nt.no_grad():
        weight.sub_(0.1 * weight.grad)
        bias.sub_(0.1 * bias.grad)


def training() -> tuple[Any, ...]:
    nt.manual_seed(0)
    weight, bias = (nt.zeros(*s, requires_grad=True) for s in ((1, 3), (1,)))
    return weight, bias, nt.randn(4, 3), nt.ones(4, 1)


def test_thousands_of_steps_without_the_collector_leave_memory_flat() -> None:
    state = training()
    with without_collector():
        for _ in range(100):
            step(*state)
        tracemalloc.start()
        try:
            before = traced_bytes()
            for _ in range(3000):
                step(*state)
            growth = traced_bytes() - before
        finally:
            tracemalloc.stop()
    assert growth < 20_000, f"{growth} bytes more after 3,000 steps"


def test_training_makes_no_cycles() -> None:
    state = training()
    step(*state)
    with without_collector():
        for _ in range(50):
            step(*state)
            x = leaf(1.0)
            y = x * 2
            y[0:1].mul_(3.0)
            y.register_hook(lambda g: g * 1.0)
            y.retain_grad()
            y.view(1, 1).sum().backward()
            (g,) = nt.autograd.grad(x**3, x, create_graph=True)
            g.backward()
            del x, y, g
        assert gc.collect() == 0


def test_nothing_is_recorded_that_no_one_wants() -> None:
    x = nt.ones(3)
    for y in (x * 2, x.sum(), x[0], x.view(3, 1), nt.cat([x, x]), x @ x):
        assert y.grad_fn is None


def test_results_are_arrays_and_never_numpy_scalars() -> None:
    x = nt.ones(3, requires_grad=True)
    y = x.sum()
    y.backward()
    (g,) = nt.autograd.grad(y * y, y)
    for t in (y, x.grad, g, x.mean(), x[0], x.max(), (x * 2).sum().exp()):
        assert type(t._array) is numpy.ndarray


def test_hooks_of_a_view_are_forgotten_when_it_is_written_to() -> None:
    """As in PyTorch: the way to the base no longer leads past what the view was before."""
    x = nt.ones(3, requires_grad=True)
    base = x * 1
    view = base[0:2]
    view.register_hook(lambda g: g * 2)
    view.retain_grad()
    view.mul_(3)
    base.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0, 1.0]
    assert view.grad is None


def test_a_write_of_a_value_that_requires_grad_into_integers_is_not_recorded() -> None:
    value = nt.tensor([0.6], requires_grad=True)
    whole = nt.ones(2, 4, dtype=nt.int64)
    piece = whole.split(2, 1)[0]
    piece[0:1] = value
    assert whole.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert not piece.requires_grad


def test_backward_with_inputs_makes_those_that_are_no_leaves_retain_their_gradient() -> None:
    x = nt.ones(2, requires_grad=True)
    y = x * 2
    z = y * 3
    z.sum().backward(inputs=[y], retain_graph=True)
    assert (y.grad.tolist(), x.grad, y.retains_grad) == ([3.0, 3.0], None, True)
    z.sum().backward()
    assert (y.grad.tolist(), x.grad.tolist()) == ([6.0, 6.0], [6.0, 6.0])


# --- parts of a tensor ----------------------------------------------------------------------------

# How x, of shape (3, 4), is taken apart, and what makes its gradient of those of the parts.
PARTS: dict[str, tuple[Callable[[nt.Tensor], Any], str]] = {
    "split": (lambda x: x.split(2, 1), "CatBackward0"),
    "pieces of several sizes": (lambda x: x.split([1, 0, 3], 1), "CatBackward0"),
    "chunk": (lambda x: x.chunk(3), "CatBackward0"),
    "tensor_split": (lambda x: x.tensor_split(2, 1), "CatBackward0"),
    "unbind": (lambda x: x.unbind(1), "StackBackward0"),
    "numbers": (lambda x: (x[0], x[1], x[2]), "StackBackward0"),
    "slices": (lambda x: (x[:, :-2], x[:, -2:]), "CatBackward0"),
    "a part is left out": (lambda x: (x[0], x[2]), "AddBackward0"),
    "a piece is left out": (lambda x: x.split(1)[1:], "AddBackward0"),
    "in another order": (lambda x: (x[2], x[1], x[0]), "AddBackward0"),
    "parts that overlap": (lambda x: (x[:2], x[1:]), "AddBackward0"),
    "every second": (lambda x: (x[::2], x[1::2]), "AddBackward0"),
    "along two dimensions": (lambda x: (x[:, :2], x[0:2], x[:, 2:], x[2:]), "AddBackward0"),
    "one twice": (lambda x: (x[0], x[1], x[1], x[2]), "AddBackward0"),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("leaf_itself", [True, False])
def test_the_gradients_of_parts_are_put_side_by_side_where_they_are_all_of_x(
    name: str, leaf_itself: bool
) -> None:
    take_apart, maker = PARTS[name]
    values = numpy.random.default_rng(0).normal(size=(3, 4))
    x = nt.tensor(values, requires_grad=True)
    whole = x if leaf_itself else x * 1
    parts = take_apart(whole)
    cubes = sum((part**3).sum() for part in parts)
    counts = numpy.zeros((3, 4))
    for part in take_apart(nt.tensor(numpy.arange(12).reshape(3, 4))):
        numpy.add.at(counts.reshape(-1), part.numpy().reshape(-1), 1)
    (g,) = nt.autograd.grad(cubes, whole, create_graph=True)
    assert g.grad_fn is not None and g.grad_fn.name() == maker
    numpy.testing.assert_allclose(g.detach().numpy(), 3 * counts * values**2)
    g.sum().backward()
    assert x.grad is not None
    numpy.testing.assert_allclose(x.grad.numpy(), 6 * counts * values)
    x.grad = None
    sum((part**3).sum() for part in take_apart(x if leaf_itself else x * 1)).backward()
    numpy.testing.assert_allclose(nt.tensor(x.grad).numpy(), 3 * counts * values**2)


def test_hooks_and_retained_gradients_of_parts_see_each_part() -> None:
    x = nt.ones(2, 3, requires_grad=True)
    first, second, third = x.split(1, 1)
    second.register_hook(lambda g: 10 * g)
    third.retain_grad()
    (first + 2 * second + 3 * third).sum().backward(retain_graph=True)
    assert nt.equal(x.grad, nt.tensor([[1.0, 20, 3]] * 2))
    assert nt.equal(third.grad, nt.tensor([[3.0]] * 2))
    first.grad_fn.register_hook(lambda into, out: (100 * into[0],))  # after the rule: no joining
    x.grad = None
    (first + 2 * second + 3 * third).sum().backward()
    assert nt.equal(x.grad, nt.tensor([[100.0, 20, 3]] * 2))


def test_writing_to_x_between_its_parts_keeps_their_gradients_apart() -> None:
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1
    a = y[0]
    y[1] = 5.0
    b, c = y[1], y[2]
    (a * 2 + b * 3 + c * 4).backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 0.0, 4.0]
