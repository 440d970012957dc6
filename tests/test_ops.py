"""Every op of the table: its derivatives, its agreement with PyTorch, and its kernel's `out`."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import pytest
from op_table import CASES, Case

import nanotorch
from nanotorch.autograd import forward_ad
from nanotorch.primitive import BinaryUfunc, Elementwise, Linear, Multilinear, Primitive, Ufunc
from nanotorch.tensor import Tensor

STEP = 1e-6


def tensors(case: Case, library: Any = nanotorch, dtype: str = "float64") -> list[Any]:
    """Fresh leaves with the case's values; the real ones in the given dtype."""
    return [
        library.tensor(array if not spec.differentiable else array.astype(dtype))
        for array, spec in zip(case.arrays(), case.inputs, strict=True)
    ]


def flat(result: Any) -> list[Any]:
    """The tensors of a result, one or several."""
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in flat(part)]
    return [result]


def real_outputs(case: Case, inputs: Sequence[Any], library: Any = nanotorch) -> list[Any]:
    """The outputs that carry derivatives."""
    return [y for y in flat(case.function(library, *inputs)) if y.dtype.is_floating_point]


def directions(arrays: Sequence[Any], seed: int) -> list[Any]:
    """A random array in the shape of each."""
    generator = numpy.random.default_rng(seed)
    return [generator.normal(size=a.shape) for a in arrays]


def inner(pairs: Any) -> float:
    """The sum of the products of all elements."""
    return float(sum((numpy.asarray(a) * numpy.asarray(b)).sum() for a, b in pairs))


def with_grad(inputs: Sequence[Any]) -> list[Any]:
    """The real inputs, made to require grad."""
    return [x.requires_grad_() for x in inputs if x.dtype.is_floating_point]


def shifted(case: Case, directions_of_inputs: Sequence[Any], step: float) -> list[Any]:
    """The case's inputs, moved by step along the directions."""
    moves = iter(directions_of_inputs)
    return [
        nanotorch.tensor(array + step * next(moves) if spec.differentiable else array)
        for array, spec in zip(case.arrays(), case.inputs, strict=True)
    ]


def weighted(outputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    """The sum of the outputs' elements times constants: a number."""
    return sum((y * nanotorch.tensor(w)).sum() for y, w in zip(outputs, weights, strict=True))


def gradient(case: Case, inputs: Sequence[Any], weights: Sequence[Any], **options: Any) -> list[Any]:
    """The gradients of the weighted outputs with respect to the real inputs."""
    wanted = with_grad(inputs)
    total = weighted(real_outputs(case, inputs), weights)
    if not total.requires_grad:
        return [nanotorch.zeros_like(x) for x in wanted]
    return list(nanotorch.autograd.grad(total, wanted, materialize_grads=True, **options))


def over(cases: Sequence[Case]) -> Any:
    """Runs a test once for each of the cases."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


WITH_REALS = [case for case in CASES if any(spec.differentiable for spec in case.inputs)]
SMOOTH = [case for case in WITH_REALS if case.smooth and real_outputs(case, tensors(case))]


@over(WITH_REALS)
def test_forward_and_reverse_agree_with_finite_differences(case: Case) -> None:
    inputs = tensors(case)
    reals = [x for x in inputs if x.dtype.is_floating_point]
    moves = directions(reals, 1)
    outputs = real_outputs(case, inputs)
    if not outputs:
        with_grad(inputs)
        assert not any(y.requires_grad for y in flat(case.function(nanotorch, *inputs)))
        return
    weights = directions(outputs, 2)
    with forward_ad.dual_level():
        carried = iter(moves)
        duals = [
            forward_ad.make_dual(x, nanotorch.tensor(next(carried))) if x.dtype.is_floating_point else x
            for x in inputs
        ]
        tangents = [forward_ad.unpack_dual(y).tangent for y in real_outputs(case, duals)]
    forward = inner((t, w) for t, w in zip(tangents, weights, strict=True) if t is not None)
    reverse = inner(zip(gradient(case, tensors(case), weights), moves, strict=True))
    ahead, behind = (
        float(weighted(real_outputs(case, shifted(case, moves, s)), weights))
        for s in (STEP, -STEP)
    )
    measured = (ahead - behind) / (2 * STEP)
    assert forward == pytest.approx(reverse, rel=1e-9, abs=1e-9)
    assert reverse == pytest.approx(measured, rel=2e-6, abs=2e-7)


@over(SMOOTH)
def test_second_derivatives_agree_with_finite_differences(case: Case) -> None:
    inputs = tensors(case)
    outputs = real_outputs(case, inputs)
    weights = directions(outputs, 2)
    reals = [x for x in inputs if x.dtype.is_floating_point]
    along, across = directions(reals, 3), directions(reals, 4)

    slope = weighted(gradient(case, inputs, weights, create_graph=True), along)
    if slope.requires_grad:
        second = nanotorch.autograd.grad(slope, with_grad(inputs), materialize_grads=True)
        reverse = inner(zip(second, across, strict=True))
    else:
        reverse = 0.0
    with forward_ad.dual_level():
        fresh, moves = tensors(case), iter(across)
        duals = [
            forward_ad.make_dual(x.requires_grad_(), nanotorch.tensor(next(moves)))
            if x.dtype.is_floating_point
            else x
            for x in fresh
        ]
        wanted = [x for x in duals if x.dtype.is_floating_point]
        total = weighted(real_outputs(case, duals), weights)
        forward = 0.0
        if total.requires_grad:
            slopes = nanotorch.autograd.grad(total, wanted, materialize_grads=True)
            tangents = [forward_ad.unpack_dual(g).tangent for g in slopes]
            forward = inner((t, m) for t, m in zip(tangents, along, strict=True) if t is not None)
    ahead, behind = (
        inner(zip(gradient(case, shifted(case, across, s), weights), along, strict=True))
        for s in (STEP, -STEP)
    )
    measured = (ahead - behind) / (2 * STEP)
    assert reverse == pytest.approx(forward, rel=1e-8, abs=1e-8)
    assert reverse == pytest.approx(measured, rel=2e-5, abs=2e-6)
