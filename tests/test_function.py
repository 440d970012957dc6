"""autograd.Function: operations that users define, and what PyTorch does with each of them."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from collector import without_collector

import nanotorch
from nanotorch.autograd import forward_ad
from nanotorch.autograd.function import Function, once_differentiable


class Cube(Function):
    """y = x ** 3, whose backward can be differentiated again"""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x * x * g


class Exponential(Function):
    """y = exp(x), keeping its output; written with setup_context and jvp"""

    @staticmethod
    def forward(x: Any) -> Any:
        return x.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx: Any, t: Any) -> Any:
        return t * ctx.saved_tensors[0]


class ProductAndSum(Function):
    """(a * b, a + b, a name): several outputs, one of them no tensor"""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any, name: str) -> Any:
        ctx.save_for_backward(a, b)
        return a * b, a + b, name

    @staticmethod
    def backward(ctx: Any, product: Any, total: Any, name: Any) -> Any:
        assert name is None
        a, b = ctx.saved_tensors
        return product * b + total, product * a + total, None


def leaf(*values: float) -> Any:
    return nanotorch.tensor(values, dtype=nanotorch.float64, requires_grad=True)


def test_backward_is_the_one_that_was_written() -> None:
    x = leaf(1, 2)
    Cube.apply(x).sum().backward()
    assert x.grad.tolist() == [3, 12]


def test_backward_of_tensor_operations_is_differentiated_again() -> None:
    x = leaf(1, 2)
    (slope,) = nanotorch.autograd.grad(Cube.apply(x).sum(), x, create_graph=True)
    (curve,) = nanotorch.autograd.grad(slope.sum(), x, create_graph=True)
    assert curve.tolist() == [6, 12]
    assert nanotorch.autograd.grad(curve.sum(), x)[0].tolist() == [6, 6]
    assert nanotorch.autograd.gradcheck(Cube.apply, x)
    assert nanotorch.autograd.gradgradcheck(Cube.apply, x)


def test_an_output_that_is_kept_keeps_its_place_in_the_graph() -> None:
    x = leaf(0.5)
    assert nanotorch.autograd.gradcheck(Exponential.apply, x, check_forward_ad=True)
    assert nanotorch.autograd.gradgradcheck(Exponential.apply, x, check_fwd_over_rev=True)


class SquareOnce(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * g * x


@pytest.mark.parametrize("wanted", [True, False])
def test_only_a_gradient_of_a_gradient_that_is_recorded_is_refused(wanted: bool) -> None:
    x, weight = leaf(3), nanotorch.ones(1, dtype=nanotorch.float64, requires_grad=wanted)
    (g,) = nanotorch.autograd.grad(SquareOnce.apply(x), x, weight, create_graph=True)
    assert (g.tolist(), g.requires_grad) == ([6], wanted)
    if wanted:
        with pytest.raises(RuntimeError, match="once_differentiable"):
            g.backward()


def test_tangents_follow_writes_in_place() -> None:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(leaf(2, 3), leaf(1, 10))
        y = x * 1
        y.mul_(x)  # x ** 2
        y[0:1].add_(5)
        assert forward_ad.unpack_dual(y).tangent.tolist() == [4, 60]
        y.copy_(nanotorch.zeros(2))
        tangent = forward_ad.unpack_dual(y).tangent
        assert tangent is None or tangent.tolist() == [0, 0]


def test_tangents_exist_within_a_level_alone() -> None:
    with pytest.raises(RuntimeError, match="outside a dual_level"):
        forward_ad.make_dual(leaf(1), leaf(1))
    level = forward_ad.dual_level()
    reference = weakref.ref(level)
    with level as number:
        assert number == 0
        with pytest.raises(ValueError, match="floating point"):
            forward_ad.make_dual(nanotorch.arange(2), nanotorch.arange(2))
    del level
    assert reference() is None


def test_forward_mode_uses_jvp() -> None:
    with forward_ad.dual_level():
        y = Exponential.apply(forward_ad.make_dual(leaf(0), leaf(2)))
        assert forward_ad.unpack_dual(y).tangent.tolist() == [2]
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="implement the jvp function"),
    ):
        Cube.apply(forward_ad.make_dual(leaf(0), leaf(2)))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [((0,), [5, 7]), ((1,), [1, 1]), ((0, 1), [6, 8])],
    ids=["the first", "the second", "both"],
)
def test_cotangents_of_several_outputs_meet_in_one_backward(
    chosen: tuple[int, ...], expected: list[float]
) -> None:
    a, b = leaf(1, 2), leaf(5, 7)
    outputs = ProductAndSum.apply(a, b, "name")
    assert outputs[2] == "name"
    sum(outputs[i].sum() for i in chosen).backward()
    assert a.grad.tolist() == expected
    assert nanotorch.autograd.gradgradcheck(lambda a, b: ProductAndSum.apply(a, b, "")[:2], (a, b))


def test_nodes_are_named_after_the_function() -> None:
    x = leaf(1, 2)
    y = Cube.apply(x)
    assert repr(y).endswith("grad_fn=<CubeBackward>)")
    assert repr(y.grad_fn).startswith("<torch.autograd.function.CubeBackward object at 0x")
    assert y.grad_fn.name() == "CubeBackward"
    assert [type(n).__name__ for n, _ in y.grad_fn.next_functions] == ["AccumulateGrad"]
    product, total, _ = ProductAndSum.apply(x, leaf(1, 1), "")
    assert repr(product.grad_fn) == repr(total.grad_fn)
    assert len(product.grad_fn.next_functions) == 2


def test_ctx_says_which_gradients_are_needed() -> None:
    seen = []

    class Asking(Function):
        @staticmethod
        def forward(ctx: Any, a: Any, b: Any, factor: float) -> Any:
            seen.append((ctx.needs_input_grad, nanotorch.is_grad_enabled()))
            return a + b * factor

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return tuple(g if need else None for need in ctx.needs_input_grad)

    x = leaf(1)
    Asking.apply(x, nanotorch.ones(1), 2.0).backward()
    assert x.grad.tolist() == [1]
    assert seen == [((True, False, False), False)]


def test_missing_cotangents_are_zeros_unless_declined() -> None:
    given: list[Any] = []

    class Pair(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, materialize: bool) -> Any:
            ctx.set_materialize_grads(materialize)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx: Any, first: Any, second: Any) -> Any:
            given.append(first if first is None else first.tolist())
            return second, None

    x = leaf(1, 2)
    for materialize in (True, False):
        Pair.apply(x, materialize)[1].sum().backward()
    assert given == [[0, 0], None]


def test_outputs_marked_as_constants_do_not_require_grad() -> None:
    class SortedWithOrder(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            values, order = x.sort()
            rounded = values.round()
            ctx.mark_non_differentiable(rounded)
            ctx.order = order
            return values, order, rounded

        @staticmethod
        def backward(ctx: Any, g: Any, order: Any, rounded: Any) -> Any:
            return nanotorch.zeros_like(g).scatter(0, ctx.order, g)

    x = leaf(3.2, 1.1, 2)
    values, order, rounded = SortedWithOrder.apply(x)
    assert (values.requires_grad, order.requires_grad, rounded.requires_grad) == (
        True,
        False,
        False,
    )
    (values * nanotorch.tensor([1.0, 2, 3])).sum().backward()
    assert x.grad.tolist() == [3, 1, 2]


class Increment(Function):
    """x := x + 1 in place, with twice the gradient so that it shows"""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x.add_(1)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * g


def test_an_input_changed_in_place_becomes_the_output() -> None:
    x = leaf(1, 2)
    y = x * 3
    z = Increment.apply(y)
    assert z is y
    assert y.grad_fn.name() == "IncrementBackward"
    y.sum().backward()
    assert x.grad.tolist() == [6, 6]


def test_a_view_changed_in_place_tells_its_base() -> None:
    x = leaf(1, 2)
    y = x * 3
    Increment.apply(y[:1])
    assert y.grad_fn.name() == "CopySlices"
    y.sum().backward()
    assert x.grad.tolist() == [6, 3]


def test_a_leaf_that_requires_grad_is_not_changed_in_place() -> None:
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        Increment.apply(leaf(1))


def test_what_is_marked_dirty_must_be_returned() -> None:
    class Careless(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.mark_dirty(x)
            return x + 1

    with pytest.raises(RuntimeError, match="marked as dirty"):
        Careless.apply(leaf(1) * 1)


def test_an_input_returned_as_it_is_becomes_a_new_tensor() -> None:
    class Scaled(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 10 * g

    x = leaf(1, 2)
    y = Scaled.apply(x)
    assert y is not x
    assert y.data_ptr() == x.data_ptr()
    y.sum().backward()
    assert x.grad.tolist() == [10, 10]


def returning(value: Any) -> type[Function]:
    class Returning(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, factor: float) -> Any:
            return x * factor

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return value

    return Returning


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((None,), r"incorrect number of gradients \(expected 2, got 1\)"),
        ((None, None, nanotorch.ones(1)), r"incorrect number of gradients \(expected 2, got 3\)"),
        ((3.0, None), r"expected Variable or None \(got float\)"),
        ((None, nanotorch.ones(1)), "gradient different than None at position 2"),
        ((nanotorch.ones(5), None), r"invalid gradient.*\[5\]"),
    ],
    ids=["too few", "too many", "no tensor", "for no tensor", "wrong shape"],
)
def test_a_wrong_result_of_backward_is_told(value: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        returning(value).apply(leaf(1, 2), 2.0).sum().backward()


def test_trailing_none_may_be_returned() -> None:
    returning((None, None, None)).apply(leaf(1), 2.0).sum().backward()


def test_once_differentiable_refuses_a_second_time() -> None:
    class Once(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * ctx.saved_tensors[0] * g

    x = leaf(1, 2)
    Once.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 4]
    y = Once.apply(x) * leaf(1, 1)
    (slope,) = nanotorch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
    weights = leaf(1, 1)
    for source, before in ((weights, None), (weights * 2, "MulBackward0")):
        (slope,) = nanotorch.autograd.grad(Once.apply(x), x, source, create_graph=True)
        ((node, _),) = slope.grad_fn.next_functions
        assert node.name() == (before or "AccumulateGrad")
        assert before or node.variable is weights


def test_kept_tensors_are_refused_once_changed_or_freed() -> None:
    x = leaf(1, 2) * 1
    y = Cube.apply(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    z = Cube.apply(leaf(1, 2)).sum()
    z.backward(retain_graph=True)
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


def test_kept_tensors_go_through_saved_tensor_hooks() -> None:
    x, packed = leaf(1, 2), []

    def pack(value: Any) -> Any:
        packed.append(value.tolist())
        return value.detach() * 10

    with nanotorch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        y = Cube.apply(x)
    y.sum().backward()
    assert packed == [[1, 2]]
    assert x.grad.tolist() == [300, 1200]


def test_only_tensors_are_kept() -> None:
    class Keeping(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x, 3)

    with pytest.raises(TypeError, match="save_for_backward can only save variables"):
        Keeping.apply(leaf(1))


def test_a_function_without_forward_or_backward_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="implement the forward function"):
        Function.apply(leaf(1))

    class Half(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x / 2

    with pytest.raises(NotImplementedError, match="backward"):
        Half.apply(leaf(1)).sum().backward()


def test_hooks_see_what_passes_through_the_node() -> None:
    x = leaf(1, 2)
    y = Cube.apply(x)
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    y.grad_fn.register_hook(lambda inputs, outputs: (inputs[0] * 2,))
    y.sum().backward()
    assert seen == [[1, 1]]
    assert x.grad.tolist() == [6, 24]


def test_hooks_of_the_node_see_all_outputs() -> None:
    a, b = leaf(1, 2), leaf(5, 7)
    product, total, _ = ProductAndSum.apply(a, b, "")
    seen = []
    handle = product.grad_fn.register_prehook(lambda outputs: seen.append(len(outputs)))
    total.grad_fn.register_hook(lambda inputs, outputs: (inputs[0] * 0, inputs[1]))
    (product.sum() + total.sum()).backward(retain_graph=True)
    assert seen == [3]
    assert (a.grad.tolist(), b.grad.tolist()) == ([0, 0], [2, 3])
    handle.remove()
    total.sum().backward()
    assert seen == [3]


def test_nothing_is_recorded_without_need() -> None:
    with nanotorch.no_grad():
        assert not Cube.apply(leaf(1)).requires_grad
    assert not Cube.apply(nanotorch.ones(2)).requires_grad


def test_the_graph_is_freed_without_the_garbage_collector() -> None:
    with without_collector():
        x = leaf(1, 2)
        y = Exponential.apply(x)
        node = weakref.ref(y.grad_fn)
        several = ProductAndSum.apply(x, x, "")
        shared = weakref.ref(several[0].grad_fn.edges[0])
        y.sum().backward()
        del y, several
        assert node() is None
        assert shared() is None


PROGRAM = """
class Ratio(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        y = a / b
        ctx.save_for_backward(b, y)
        return y

    @staticmethod
    def backward(ctx, g):
        b, y = ctx.saved_tensors
        return g / b, -g * y / b

a = torch.tensor([1.0, 2.0], requires_grad=True)
b = torch.tensor([4.0, 8.0], requires_grad=True)
y = Ratio.apply(a, b)
first = torch.autograd.grad(y.sum(), (a, b), create_graph=True)
second = torch.autograd.grad((first[1] * first[0]).sum(), (a, b))
print(y, *first, *second, sep="\\n")
print(Ratio.apply(a, 2 * b).sum().backward(), a.grad, b.grad)
"""


@pytest.mark.torch
def test_a_program_prints_what_pytorch_prints(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    exec(PROGRAM, {"torch": torch})
    expected = capsys.readouterr().out
    exec(PROGRAM, {"torch": nanotorch})
    assert capsys.readouterr().out == expected
