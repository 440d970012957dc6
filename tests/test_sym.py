"""Explicit graphs: built and asked before there are data, then evaluated and differentiated."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import nanotorch
from nanotorch import nn, ops, sym
from nanotorch.autograd.inplace import apply_inplace
from nanotorch.ops import arithmetic


def values(count: int, *shape: int) -> list[Any]:
    """Tensors in float64 with values that differ, all positive."""
    nanotorch.manual_seed(4)
    return [nanotorch.rand(*shape, dtype=nanotorch.float64) + 0.5 for _ in range(count)]


def test_operators_build_a_graph_of_named_nodes() -> None:
    a, b = sym.var("a"), sym.var("b")
    c = 2 * a + b
    assert c.list_arguments() == ["a", "b"]
    assert repr(c) == "<Symbol add0>"
    assert c.list_outputs() == ["add0"]
    assert c.debug_str().splitlines() == [
        "a: variable",
        "mul0 = mul(a, 2)",
        "b: variable",
        "add0 = add(mul0, b)",
        "outputs: add0",
    ]


def test_variables_without_a_name_are_numbered() -> None:
    with sym.NameManager():
        a, b = sym.var(), sym.var()
        assert (2 * a + b).list_arguments() == ["var0", "var1"]
        with sym.NameManager():
            assert sym.var().name == "var0"
        assert sym.var().name == "var2"


def test_two_variables_of_one_name_are_refused() -> None:
    c = sym.var("a") + sym.var("a")
    with pytest.raises(ValueError, match="two different variables called 'a'"):
        c.list_arguments()


def test_a_node_that_is_used_twice_is_one_node() -> None:
    a = sym.var("a")
    b = a.exp()
    assert (b * b + b).debug_str().count("= exp(") == 1


def test_long_chains_need_no_recursion() -> None:
    x = a = sym.var("a", shape=())
    for _ in range(5000):
        x = x + 1
    assert float(x.eval(a=1.0)) == 5001
    assert float(sym.grad(x, a).eval(a=1.0)) == 1


# --- values ---------------------------------------------------------------------------------------


def test_eval_computes_what_tensors_compute() -> None:
    a, b = sym.var("a"), sym.var("b")
    found = (2 * a + b).eval(a=nanotorch.ones(2, 3), b=[1.0, 2.0, 3.0])
    assert found.tolist() == [[3, 4, 5]] * 2


def test_eval_is_recorded_like_any_computation() -> None:
    x = nanotorch.ones(2, requires_grad=True)
    y = (sym.var("a") ** 2).eval(a=x)
    assert y.grad_fn.name() == "PowBackward0"
    y.sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_tensors_are_constants_of_the_graph_on_either_side() -> None:
    a, weight = sym.var("a"), nanotorch.tensor([1.0, 2.0])
    for c in (weight * a, a * weight, ops.mul(weight, a)):
        assert c.list_arguments() == ["a"]
        assert c.eval(a=nanotorch.tensor([3.0, 3.0])).tolist() == [3, 6]


def test_bind_fixes_some_arguments_and_calling_composes() -> None:
    a, b = sym.var("a"), sym.var("b")
    c = a - b
    assert float(c.bind(a=5.0)(b=3.0)) == 2
    composed = c(b=a.exp())
    assert composed.list_arguments() == ["a"]
    assert float(composed.eval(a=0.0)) == -1


def test_groups_have_several_outputs() -> None:
    a = sym.var("a")
    group = sym.Group([a + 1, a * 2])
    assert [float(v) for v in group.eval(a=3.0)] == [4, 6]
    assert group.list_outputs() == ["add0", "mul0"]
    assert float(group["mul0"].eval(a=3.0)) == 6
    internals = ((a + 1) * 2).get_internals()
    assert internals.list_outputs() == ["a", "add0", "mul0"]
    assert float(internals["add0"].eval(a=3.0)) == 4


def model(x: Any, w: Any, b: Any, y: Any) -> Any:
    score = nn.functional.linear(x, w, b).squeeze(1)
    return nn.functional.binary_cross_entropy_with_logits(score, y)


GRAPHS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "arithmetic": (lambda a, b: (a * b - a / b) ** 2 + a**b, [(2, 3), (3,)]),
    "functions": (lambda a: a.exp().log1p() + a.sin() * a.tanh() - a.sqrt(), [(4,)]),
    "reductions": (lambda a: (a.sum(0) * a.mean(1, True)).var() + a.logsumexp(1).prod(), [(3, 3)]),
    "extremes": (lambda a: a.max() + a.amin(1).sum() + a.max(0).values.sum(), [(3, 4)]),
    "shapes": (
        lambda a: a.t().reshape(2, 6).unsqueeze(1).expand(2, 5, 6)[0, 1:, ::2].flatten(),
        [(4, 3)],
    ),
    "selection": (lambda a, b: ops.where(a > b, a, b * 2) + a.clamp(0.7, 1.2), [(3, 2), (2,)]),
    "products": (lambda a, b: (a @ b).softmax(1).log_softmax(0), [(3, 4), (4, 2)]),
    "products of batches": (lambda a, b: ops.matmul(a, b), [(5, 3, 4), (4, 2)]),
    "joining": (lambda a, b: ops.cat([a, b], 1) * ops.stack([a, b])[1, 0, 0], [(2, 3), (2, 3)]),
    "a layer and its loss": (model, [(6, 3), (1, 3), (1,), (6,)]),
    "an einsum": (lambda a, b: ops.einsum("ij,kj->ik", a, b), [(3, 2), (4, 2)]),
    "comparisons": (lambda a, b: (a < b) | (a == b), [(3,), (3,)]),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("declared", [True, False])
def test_shapes_dtypes_and_values_are_those_of_the_tensors(name: str, declared: bool) -> None:
    function, shapes = GRAPHS[name]
    tensors = [value.clamp(0.5, 1) for value in (values(1, *shape)[0] for shape in shapes)]
    names = "abcd"[: len(shapes)]
    arguments = [
        sym.var(n, shape=shape if declared else None, dtype=nanotorch.float64)
        for n, shape in zip(names, shapes, strict=True)
    ]
    given = dict(zip(names, tensors, strict=True))
    try:
        graph = function(*arguments)
    except sym.Undeclared:
        assert not declared
        assert name not in ("arithmetic", "functions", "selection", "comparisons")
        return
    expected = function(*tensors)
    _, (shape,), _ = graph.infer_shape(**dict(zip(names, shapes, strict=True)))
    assert shape == tuple(expected.shape)
    assert graph.infer_type()[1] == [expected.dtype]
    assert nanotorch.equal(graph.eval(**given), expected)


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "comparisons"])
def test_gradient_graphs_give_what_backward_gives(name: str) -> None:
    function, shapes = GRAPHS[name]
    tensors = [values(1, *shape)[0].clamp(0.5, 1).requires_grad_() for shape in shapes]
    names = "abcd"[: len(shapes)]
    arguments = [
        sym.var(n, shape=shape, dtype=nanotorch.float64)
        for n, shape in zip(names, shapes, strict=True)
    ]
    gradients = sym.grad(function(*arguments), list(names))
    function(*tensors).sum().backward()
    given = {n: t.detach() for n, t in zip(names, tensors, strict=True)}
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert nanotorch.allclose(gradient.eval(**given), tensor.grad)
        assert gradient.infer_shape()[1] == [tuple(tensor.shape)]


def test_eval_lets_go_of_what_no_later_node_needs() -> None:
    y = sym.var("a")
    for _ in range(20):
        y = y.sin()
    given = nanotorch.ones(100_000)
    tracemalloc.start()
    try:
        y.eval(a=given)
        assert tracemalloc.get_traced_memory()[1] < 4 * given.nbytes
    finally:
        tracemalloc.stop()


# --- before there are data ------------------------------------------------------------------------


def test_shapes_are_inferred_without_data() -> None:
    c = 2 * sym.var("a") + sym.var("b")
    assert c.infer_shape(a=(2, 3), b=(3,)) == ([(2, 3), (3,)], [(2, 3)], [])
    assert c.declare(a=(2, 3), b=(3,)).shape == (2, 3)


def test_no_memory_is_taken_for_elements() -> None:
    tracemalloc.start()
    try:
        x = sym.var("x", shape=(100_000, 100_000))
        w = sym.var("w", shape=(100_000, 7))
        y = ((x.exp() @ w).softmax(1).sum(0) + w.mean(0)).reshape(7, 1)
        assert y.shape == (7, 1)
        assert x.t().reshape(-1).shape == (10**10,)
        assert sym.grad(y, "w").shape == (100_000, 7)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


ERRORS: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "operands that do not fit": (
        lambda a, b: (2 * a + b).infer_shape(a=(2, 3), b=(4,)),
        RuntimeError,
        r"infer_shape: add0 = add\(mul0 \(2, 3\), b \(4,\)\): shapes .* 3 != 4 at dimension -1",
    ),
    "a shape that is not given": (
        lambda a, b: (a + b).infer_shape(a=(2,)),
        sym.Undeclared,
        "the shape of 'b' is not given",
    ),
    "a name that is no argument": (
        lambda a, b: (a + b).infer_shape(c=(2,)),
        TypeError,
        "'c' is not an argument of the graph, which has a, b",
    ),
    "matrices that do not fit": (
        lambda a, b: sym.var("x", shape=(2, 3)) @ sym.var("w", shape=(4, 5)),
        RuntimeError,
        r"mm\(x \(2, 3\), w \(4, 5\)\): .* 3 != 4",
    ),
    "a shape that is needed at once": (
        lambda a, b: a @ b,
        sym.Undeclared,
        r"depends on 'a', not declared yet: use sym.var\('a', shape=",
    ),
    "a gradient that needs a shape": (
        lambda a, b: sym.grad(a.sum(1), "a"),
        sym.Undeclared,
        "the rule of sum: .*'a'",
    ),
    "a missing argument": (
        lambda a, b: (a + b).eval(a=1.0),
        TypeError,
        "missing argument 'b'; the graph needs a, b",
    ),
    "a value of another shape than declared": (
        lambda a, b: sym.var("x", shape=(2,)).exp().eval(x=nanotorch.ones(3)),
        RuntimeError,
        r"'x' was declared with shape \(2,\), got \(3,\)",
    ),
    "a value of another dtype than declared": (
        lambda a, b: sym.var("x", dtype=nanotorch.float64).exp().eval(x=nanotorch.ones(3)),
        RuntimeError,
        "declared with dtype torch.float64, got torch.float32",
    ),
    "an op that fails": (
        lambda a, b: (a + b).eval(a=nanotorch.ones(2), b=nanotorch.ones(3)),
        RuntimeError,
        r"eval: add0: .*\(2,\).*\(3,\)",
    ),
    "a constant that does not fit": (
        lambda a, b: (sym.var("x", shape=(4, 2)) @ sym.var("w", shape=(2, 3)))(
            x=nanotorch.ones(4, 5)
        ),
        RuntimeError,
        r"call: mm0 = mm\(x \(4, 5\), w \(2, 3\)\): .* 5 != 2",
    ),
    "a number that does not fit": (
        lambda a, b: nanotorch.cat([sym.var("x", shape=(2,)), sym.var("y", shape=(3,))])(x=3.0),
        RuntimeError,
        r"call: cat0 = cat\(x \(\), y \(3,\)\): ",
    ),
    "a gradient by what is no argument": (
        lambda a, b: sym.grad(a + b, "c"),
        ValueError,
        "'c' is not an argument",
    ),
    "a decision": (lambda a, b: bool(a > b), TypeError, "'gt0' has no value to decide"),
    "a conversion": (lambda a, b: float(a), TypeError, "'a' has no value"),
    "writing in place": (lambda a, b: a.add_(1), TypeError, "not written to"),
    "writing to an element": (lambda a, b: a.__setitem__(0, 1), TypeError, "not written to"),
    "text that is no graph": (
        lambda a, b: sym.load_json("{}"),
        ValueError,
        "not a graph that tojson wrote",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_op_and_its_inputs(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call(sym.var("a"), sym.var("b"))


def test_augmented_assignment_makes_a_new_symbol() -> None:
    a = b = sym.var("a")
    b += 1
    b *= 2
    assert float(b.eval(a=3.0)) == 8
    assert float((a * 1).eval(a=3.0)) == 3


def test_a_tensor_is_not_written_to_from_a_symbol() -> None:
    with pytest.raises(TypeError, match="'a' is no tensor"):
        apply_inplace(arithmetic.Add, nanotorch.ones(2), sym.var("a"))


# --- gradients ------------------------------------------------------------------------------------


def test_elementwise_graphs_are_differentiated_without_any_shape() -> None:
    a, b = sym.var("a"), sym.var("b")
    loss = ((a.relu() * b - a.exp()) ** 2).mean()
    x, y = nanotorch.randn(3, 4, requires_grad=True), nanotorch.randn(4, requires_grad=True)
    loss.eval(a=x, b=y).backward()
    found = [g.eval(a=x.detach(), b=y.detach()) for g in loss.grad([a, b])]
    assert all(nanotorch.allclose(g, t.grad) for g, t in zip(found, (x, y), strict=True))
    assert [g.shape for g in found] == [(3, 4), (4,)]


def test_gradient_graphs_are_graphs_to_differentiate_again() -> None:
    a = sym.var("a")
    curve = sym.grad(sym.grad(a**3, a), a)
    assert curve.eval(a=nanotorch.tensor([1.0, 2.0])).tolist() == [6, 12]


def test_a_head_weighs_the_output() -> None:
    a, g = sym.var("a"), sym.var("g")
    found = (a**2).grad("a", head=g).eval(a=[1.0, 2.0], g=[10.0, 100.0])
    assert found.tolist() == [20, 400]


def test_what_the_output_does_not_depend_on_has_a_zero_gradient() -> None:
    a, b = sym.var("a"), sym.var("b")
    found = sym.grad(ops.where(b > 1, a, a * 2), "b").eval(a=[1.0, 1.0], b=[0.0, 2.0])
    assert found.tolist() == [0, 0]


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_go_to_json_and_back(name: str) -> None:
    function, shapes = GRAPHS[name]
    names = "abcd"[: len(shapes)]
    graph = function(
        *(
            sym.var(n, shape=shape, dtype=nanotorch.float64)
            for n, shape in zip(names, shapes, strict=True)
        )
    )
    text = graph.tojson()
    again = sym.load_json(text)
    assert again.tojson() == text
    given = {n: values(1, *shape)[0] for n, shape in zip(names, shapes, strict=True)}
    assert nanotorch.equal(again.eval(**given), graph.eval(**given))


def test_json_holds_constants_groups_and_infinities() -> None:
    a = sym.var("a")
    group = sym.Group([a * nanotorch.tensor([1.0, 2.0]), a + float("inf")])
    text = group.tojson()
    assert json.loads(text)["nodes"][1]["inputs"][0] == {"node": 0}
    first, second = sym.load_json(text).eval(a=nanotorch.ones(2))
    assert (first.tolist(), second.tolist()) == ([1, 2], [float("inf")] * 2)


def test_dtypes_of_arguments_are_declared_by_name() -> None:
    x, y = sym.var("x", shape=(2,)), sym.var("y", shape=(2,))
    graph = x * y
    assert graph.infer_type() == ([nanotorch.float32, nanotorch.float32], [nanotorch.float32], [])
    types = graph.infer_type(y=nanotorch.float64)
    assert types == ([nanotorch.float32, nanotorch.float64], [nanotorch.float64], [])
