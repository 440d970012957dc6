"""Every op of the table, on symbols: shapes, dtypes, values and gradients are those on tensors."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from op_table import CASES, Case

import nanotorch
from nanotorch import sym
from nanotorch.sym.shapes import Unshaped

# What reads values while it is called, or the array module, which a symbol does not have.
NEEDS_VALUES = (
    *("nonzero", "unique", "bincount", "searchsorted", "bucketize", "one_hot"),
    *("repeat_interleave counts", "cross_entropy smooth mean", "pad 3x4", "argwhere", "isin "),
    *("combinations", "as_strided apart", "as_strided 3x4", "cov weights"),
    *("linalg.matrix_exp", "linalg.lstsq ranks"),
)


def flat(result: Any) -> list[Any]:
    """The tensors or symbols of a result, one or several."""
    if isinstance(result, tuple | list):
        return [value for item in result for value in flat(item)]
    return [result]


def gradients_agree(symbol: Any, real: Any, tensors: dict[str, Any]) -> None:
    """Asserts that the gradient graphs of one output give what a backward walk gives."""
    arguments = symbol.list_arguments()
    wanted = [name for name, t in tensors.items() if t.requires_grad and name in arguments]
    expected = nanotorch.autograd.grad(
        real,
        [tensors[name] for name in wanted],
        nanotorch.ones_like(real),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    given = {name: t.detach() for name, t in tensors.items()}
    for graph, gradient in zip(symbol.grad(wanted), expected, strict=True):
        found = graph.eval(**given)
        assert (found.shape, found.dtype) == (gradient.shape, gradient.dtype)
        numpy.testing.assert_allclose(found.numpy(), gradient.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_op_on_symbols_is_the_op_on_tensors(case: Case) -> None:
    tensors = dict(zip("abcdefgh", map(nanotorch.tensor, case.arrays()), strict=False))
    for value, described in zip(tensors.values(), case.inputs, strict=True):
        if described.differentiable and value.is_floating_point():
            value.requires_grad_()
    symbols = [sym.var(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]
    if case.name.startswith(NEEDS_VALUES):
        with pytest.raises(TypeError, match=r"no value|SymbolWithoutValues"):
            case.function(nanotorch, *symbols)
        return
    given = {name: t.detach() for name, t in tensors.items()}
    expected = flat(case.function(nanotorch, *tensors.values()))
    results = flat(case.function(nanotorch, *symbols))
    for symbol, real in zip(results, expected, strict=True):
        if not isinstance(symbol, sym.Symbol):
            assert not isinstance(real, nanotorch.Tensor) or nanotorch.equal(symbol, real)
            continue
        data_decides = isinstance(symbol._array, Unshaped)
        if not data_decides:
            assert (symbol.shape, symbol.dtype) == (real.shape, real.dtype)
        value = symbol.eval(**given)
        assert (value.shape, value.dtype) == (real.shape, real.dtype)
        numpy.testing.assert_array_equal(value.numpy(), real.detach().numpy())
        if real.requires_grad and not data_decides:
            gradients_agree(symbol, real, tensors)


@pytest.mark.parametrize(
    "shapes", [((2, 3, 3), (3, 2)), ((3, 3), (2, 3, 2)), ((3, 3), (3,))], ids=str
)
def test_a_system_on_symbols_has_the_shape_that_batches_broadcast_to(shapes: Any) -> None:
    kind = nanotorch.float64
    symbols = [sym.var(name, shape, kind) for name, shape in zip("ab", shapes, strict=True)]
    a, b = (nanotorch.ones(*shape, dtype=kind) for shape in shapes)
    a = a + 3 * nanotorch.eye(3, dtype=kind)
    assert tuple(nanotorch.linalg.solve(*symbols).shape) == tuple(
        nanotorch.linalg.solve(a, b).shape
    )
