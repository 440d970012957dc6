"""Every op of the table: its derivatives, its agreement with PyTorch, and its kernel's `out`."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
from op_table import CASES, Case

import nanotorch
from nanotorch.primitive import Elementwise, Linear, Multilinear, Primitive, Ufunc

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


def with_grad(case: Case, inputs: Sequence[Any]) -> list[Any]:
    """The differentiable inputs, made to require grad."""
    return [x.requires_grad_() for x in reals(case, inputs)]


def reals(case: Case, inputs: Sequence[Any]) -> list[Any]:
    """The differentiable inputs."""
    return [
        x
        for x, spec in zip(inputs, case.inputs, strict=True)
        if spec.differentiable and x.dtype.is_floating_point
    ]


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


def gradient(
    case: Case, inputs: Sequence[Any], weights: Sequence[Any], **options: Any
) -> list[Any]:
    """The gradients of the weighted outputs with respect to the real inputs."""
    wanted = with_grad(case, inputs)
    total = weighted(real_outputs(case, inputs), weights)
    if not total.requires_grad:
        return [nanotorch.zeros_like(x) for x in wanted]
    return list(nanotorch.autograd.grad(total, wanted, materialize_grads=True, **options))


def over(cases: Sequence[Case]) -> Any:
    """Runs a test once for each of the cases."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


WITH_REALS = [case for case in CASES if any(spec.differentiable for spec in case.inputs)]
DERIVABLE = [case for case in WITH_REALS if real_outputs(case, tensors(case))]
SMOOTH = [case for case in DERIVABLE if case.smooth]


def slope(case: Case, moves: Sequence[Any], weights: Sequence[Any]) -> float:
    """The derivative of the weighted outputs along the moves, by reverse mode."""
    return inner(zip(gradient(case, tensors(case), weights), moves, strict=True))


def curvature(case: Case, weights: Sequence[Any], along: Any, across: Any) -> float:
    """The derivative of the slope along the moves `along` when moving `across`, by reverse mode."""
    inputs = tensors(case)
    first = weighted(gradient(case, inputs, weights, create_graph=True), along)
    if not first.requires_grad:
        return 0.0
    second = nanotorch.autograd.grad(first, with_grad(case, inputs), materialize_grads=True)
    return inner(zip(second, across, strict=True))


def chances(case: Case) -> tuple[list[Any], list[Any], list[Any]]:
    """Weights of the outputs, and two directions of the inputs, drawn alike in every test."""
    inputs = tensors(case)
    weights = directions(real_outputs(case, inputs), 2)
    along, across = (directions(reals(case, inputs), seed) for seed in (3, 4))
    return weights, along, across


@over([case for case in WITH_REALS if case not in DERIVABLE])
def test_whole_numbers_and_masks_do_not_require_grad(case: Case) -> None:
    inputs = tensors(case)
    with_grad(case, inputs)
    assert not any(y.requires_grad for y in flat(case.function(nanotorch, *inputs)))


@over(DERIVABLE)
def test_reverse_agrees_with_finite_differences(case: Case) -> None:
    weights, moves, _ = chances(case)
    ahead, behind = (
        float(weighted(real_outputs(case, shifted(case, moves, s)), weights)) for s in (STEP, -STEP)
    )
    measured = (ahead - behind) / (2 * STEP)
    assert slope(case, moves, weights) == pytest.approx(measured, rel=2e-6, abs=2e-7)


@over(SMOOTH)
def test_second_derivatives_agree_with_finite_differences(case: Case) -> None:
    weights, along, across = chances(case)
    ahead, behind = (
        inner(zip(gradient(case, shifted(case, across, s), weights), along, strict=True))
        for s in (STEP, -STEP)
    )
    measured = (ahead - behind) / (2 * STEP)
    assert curvature(case, weights, along, across) == pytest.approx(measured, rel=2e-5, abs=2e-6)


def duals(inputs: Sequence[Any], moves: Sequence[Any]) -> list[Any]:
    """The inputs, of which the real ones carry the moves as tangents."""
    tangents = iter(moves)
    return [
        nanotorch.autograd.forward_ad.make_dual(x, nanotorch.tensor(next(tangents)))
        if x.dtype.is_floating_point
        else x
        for x in inputs
    ]


def tangents_times(outputs: Sequence[Any], weights: Sequence[Any]) -> float:
    """The sum of the outputs' tangents times constants."""
    tangents = [nanotorch.autograd.forward_ad.unpack_dual(y).tangent for y in outputs]
    return inner((t, w) for t, w in zip(tangents, weights, strict=True) if t is not None)


@pytest.mark.ring("forward mode")
@over(DERIVABLE)
def test_forward_agrees_with_reverse(case: Case) -> None:
    weights, moves, _ = chances(case)
    with nanotorch.autograd.forward_ad.dual_level():
        forward = tangents_times(real_outputs(case, duals(tensors(case), moves)), weights)
    assert forward == pytest.approx(slope(case, moves, weights), rel=1e-9, abs=1e-9)


@pytest.mark.ring("forward mode")
@over(SMOOTH)
def test_forward_over_reverse_agrees_with_reverse_twice(case: Case) -> None:
    weights, along, across = chances(case)
    forward = 0.0
    with nanotorch.autograd.forward_ad.dual_level():
        fresh = tensors(case)
        with_grad(case, fresh)
        carriers = duals(fresh, across)
        total = weighted(real_outputs(case, carriers), weights)
        if total.requires_grad:
            wanted = reals(case, carriers)
            slopes = nanotorch.autograd.grad(total, wanted, materialize_grads=True)
            forward = tangents_times(slopes, along)
    backward = curvature(case, weights, along, across)
    assert backward == pytest.approx(forward, rel=1e-8, abs=1e-8)


# --- kernels --------------------------------------------------------------------------------------

ABSTRACT = {Elementwise, Ufunc, Linear, Multilinear}


def every_primitive() -> set[type[Primitive]]:
    """The concrete primitives of the package."""
    found, stack = set(), [Primitive]
    while stack:
        kinds = stack.pop().__subclasses__()
        stack.extend(kinds)
        found.update(k for k in kinds if k.__module__.startswith("nanotorch.ops"))
    return {k for k in found - ABSTRACT if "kernel" in vars(k) or k.kernel is not Primitive.kernel}


def run_through(case: Case) -> None:
    """Forward, backward, and backward of backward, on raw arrays and on tensors."""
    inputs = tensors(case)
    wanted = with_grad(case, inputs)
    outputs = [y for y in flat(case.function(nanotorch, *inputs)) if y.requires_grad]
    if outputs:
        nanotorch.autograd.backward(outputs, [nanotorch.ones_like(y) for y in outputs], True)
        grads = nanotorch.autograd.grad(
            sum((y * y).sum() for y in outputs), wanted, create_graph=True, allow_unused=True
        )
        loops = [g for g in grads if g is not None and g.requires_grad]
        if loops:
            nanotorch.autograd.grad(sum(g.sum() for g in loops), wanted, allow_unused=True)


KERNELS = {p: p.kernel for p in every_primitive()}
TAKES_OUT = {p for p, kernel in KERNELS.items() if "out" in inspect.signature(kernel).parameters}
Calls = dict[type[Primitive], int]


def checked(primitive: type[Primitive], calls: Calls) -> Any:
    """The primitive's kernel, run into `out` and into its first input as well."""
    kernel = KERNELS[primitive]

    def run(xp: Any, *inputs: Any, **attributes: Any) -> Any:
        calls[primitive] = calls.get(primitive, 0) + 1
        inputs = tuple(numpy.asarray(x) if isinstance(x, numpy.generic) else x for x in inputs)
        y = kernel(xp, *inputs, **attributes)
        if primitive not in TAKES_OUT or attributes.pop("out", None) is not None:
            return y
        kind = numpy.asarray(y).dtype
        out = numpy.full(numpy.shape(y), 7, kind)
        assert kernel(xp, *inputs, **attributes, out=out) is out, primitive.__name__
        same_bits(out, y, f"{primitive.__name__} into out")
        first = inputs[0] if inputs else None
        if primitive.in_place and isinstance(first, numpy.ndarray):
            if first.shape == numpy.shape(y) and first.dtype == kind:
                own = first.copy()
                kernel(xp, own, *inputs[1:], **attributes, out=own)
                same_bits(own, y, f"{primitive.__name__} into its first input")
        return y

    return staticmethod(run)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """How often each primitive's kernel was called; every call is checked to fill `out` alike."""
    counted: Calls = {}
    for primitive in KERNELS:
        monkeypatch.setattr(primitive, "on_host", None)  # which the engine would call instead
        monkeypatch.setattr(primitive, "kernel", checked(primitive, counted))
    return counted


def test_what_the_engine_calls_on_the_host_is_the_kernel() -> None:
    ufuncs = [primitive for primitive in KERNELS if primitive.on_host]
    assert len(ufuncs) > 30
    for primitive in ufuncs:
        of_floats = any(kinds.startswith("f") for kinds in primitive.on_host.types)
        operands = [numpy.array([3, 0.5, 1], "f" if of_floats else "l")] * primitive.on_host.nin
        with numpy.errstate(all="ignore"):
            y = primitive.on_host(*operands)
            same_bits(y, primitive.kernel(numpy, *operands), primitive.__name__)


def test_every_kernel_that_computes_takes_out() -> None:
    assert {p.__name__ for p in KERNELS if not p.view} <= {p.__name__ for p in TAKES_OUT}


def same_bits(a: Any, b: Any, what: str) -> None:
    """Fails unless two arrays are equal in every bit."""
    assert numpy.ascontiguousarray(a).tobytes() == numpy.ascontiguousarray(b).tobytes(), what


@over(CASES)
def test_kernels_give_the_same_bits_into_out(case: Case, calls: Calls) -> None:
    run_through(case)


# What no row can call: what backward meets after a write to a view, moves between devices, running
# statistics, and what complex tensors alone are computed by.
BY_ROWS = {"SparseEmbedding", "RowGradient", "ToDense"}  # in test_sparse_gradients.py
SELECTIONS = {"GatherDistinct"}  # what those of sorting and selecting have in common
RUNNING = {"MovingAverage"}  # in test_nn_layers.py
ELSEWHERE = {
    *("Unit", "ViewAsComplex", "ViewAsReal"),  # complex numbers: test_complex.py
    "AsStrided",
    "Conj",
    "ToDevice",
    "Zero",
    "Fill",
    "Copy",
    "Alias",
    *BY_ROWS,
    *RUNNING,
    *SELECTIONS,
}


@pytest.mark.ring  # some rows do
def test_the_table_calls_every_primitive(calls: Calls) -> None:
    for case in CASES:
        run_through(case)
    x = nanotorch.ones(3).requires_grad_()
    y = x * 2
    y[1:].zero_()
    y[:1].fill_(2.0)
    y.copy_(x)
    missing = {p.__name__ for p in every_primitive()} - {p.__name__ for p in calls}
    assert missing <= ELSEWHERE, f"add rows for {sorted(missing - ELSEWHERE)} to the table"


@over(WITH_REALS)
def test_no_two_leaves_share_a_gradient(case: Case) -> None:
    inputs = tensors(case)
    wanted = with_grad(case, inputs)
    outputs = [y for y in flat(case.function(nanotorch, *inputs)) if y.requires_grad]
    weights = [nanotorch.ones_like(y) for y in outputs]
    nanotorch.autograd.backward(outputs, weights)
    arrays = [x.grad.numpy() for x in wanted if x.grad is not None] + [w.numpy() for w in weights]
    for i, one in enumerate(arrays):
        assert one.flags.writeable
        for other in arrays[i + 1 :]:
            assert not numpy.shares_memory(one, other)


@over([case for case in WITH_REALS if sum(spec.differentiable for spec in case.inputs) > 1])
def test_frozen_inputs_cost_nothing(case: Case, calls: Calls) -> None:
    """With one input wanted, backward runs no more kernels than the wanted rules, and keeps no
    more."""
    places = [i for i, spec in enumerate(case.inputs) if spec.differentiable]
    everything = backward_calls(case, places, calls)
    alone = [backward_calls(case, [place], calls) for place in places]
    assert all(number <= everything for number in alone)
    assert not everything or min(alone) < everything or len({*alone}) == 1


def backward_calls(case: Case, places: Sequence[int], calls: Calls) -> int:
    """How many kernels backward runs when these inputs alone require grad."""
    inputs = tensors(case)
    for place in places:
        inputs[place].requires_grad_()
    outputs = [y for y in flat(case.function(nanotorch, *inputs)) if y.requires_grad]
    calls.clear()
    nanotorch.autograd.backward(outputs, [nanotorch.ones_like(y) for y in outputs])
    assert all(x.grad is None for i, x in enumerate(inputs) if i not in places)
    return sum(calls.values())


def test_a_frozen_factor_is_not_kept_alive() -> None:
    """The rule of w needs x; that of x, which would need w, is not wanted."""
    w = nanotorch.ones(3, 3, requires_grad=True)
    x = nanotorch.ones(3, 3)
    for function in (lambda a, b: a * b, lambda a, b: a @ b, lambda a, b: a / b):
        activation = w * 2
        alive = weakref.ref(activation)
        y = function(activation, x)
        del activation
        assert alive() is None
        assert y.grad_fn is not None


# --- PyTorch --------------------------------------------------------------------------------------

TOLERANCE = {
    "float64": {"rtol": 1e-9, "atol": 1e-10},
    "float32": {"rtol": 1e-4, "atol": 2e-5},
    "float16": {"rtol": 1e-2, "atol": 1e-2},
}


def result(case: Case, library: Any, dtype: str) -> Any:
    """The outputs in that library, or the error it raises."""
    try:
        return flat(case.function(library, *tensors(case, library, dtype)))
    except Exception as error:
        return error


def assert_same(ours: Any, theirs: Any, dtype: str, what: str = "value") -> None:
    """Fails unless two tensors have the same dtype, shape and, nearly, elements."""
    assert repr(ours.dtype) == repr(theirs.dtype), what
    assert tuple(ours.shape) == tuple(theirs.shape), what
    close = TOLERANCE.get(dtype, TOLERANCE["float32"])
    numpy.testing.assert_allclose(
        ours.detach().numpy().astype("float64"),
        theirs.detach().double().numpy(),
        **close,
        err_msg=what,
    )


@pytest.mark.parametrize("shift", [0.0, 100.0, 1e4])
def test_distances_by_products_are_as_exact_as_by_differences(shift: float) -> None:
    rng = numpy.random.default_rng(0)
    a = (rng.standard_normal((300, 8)) + shift).astype("f")
    b = numpy.concatenate([a[:20], a[20:40] + numpy.float32(0.01), a[100:] + 1])
    wide = (a.astype("d")[:, None] - b.astype("d")) ** 2
    x = nanotorch.tensor(a, requires_grad=True)
    y = nanotorch.cdist(x, nanotorch.tensor(b))
    numpy.testing.assert_allclose(y.detach().numpy(), numpy.sqrt(wide.sum(-1)), rtol=1e-5)
    y.sum().backward()
    exact = nanotorch.tensor(a.astype("d"), requires_grad=True)
    nanotorch.cdist(exact, nanotorch.tensor(b.astype("d"))).sum().backward()
    assert nanotorch.allclose(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, 3e38, 1e8])
@pytest.mark.parametrize("row", [0, 7])
def test_a_row_far_off_leaves_the_distances_of_others_alone(value: float, row: int) -> None:
    a = numpy.random.default_rng(0).standard_normal((200, 8)).astype("f")
    expected = numpy.sqrt(((a.astype("d")[:, None] - a.astype("d")) ** 2).sum(-1))
    a[row, 3] = value
    y = nanotorch.cdist(nanotorch.tensor(a), nanotorch.tensor(a)).numpy()
    others = numpy.arange(200) != row
    numpy.testing.assert_allclose(y[others][:, others], expected[others][:, others], rtol=1e-5)
    assert not (y[row, others] < 1e7).any()


TURNABLE = [case for case in CASES if any(len(spec.shape) > 1 for spec in case.inputs)]
# Of elementwise ops, where PyTorch writes to new memory.
IN_THE_ORDER_OF_X = ("renorm", "mvlgamma")


def turned(case: Case, library: Any, seed: int) -> list[Any]:
    """The case's inputs, whose axes lie in memory in another order, some with gaps."""
    generator, inputs = numpy.random.default_rng(seed), []
    for array, spec in zip(case.arrays(), case.inputs, strict=True):
        order, gaps = generator.permutation(array.ndim), generator.random() < 0.3
        kind = "float32" if spec.differentiable else array.dtype
        inner = array.transpose(order).astype(kind, order="C")
        if gaps and array.ndim:
            inner = numpy.repeat(inner, 2, -1)
        x = library.tensor(inner)
        x = x[..., ::2] if gaps and array.ndim else x
        inputs.append(x.permute(*numpy.argsort(order).tolist()) if array.ndim else x)
    return inputs


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@over([case for case in TURNABLE if not case.name.startswith(IN_THE_ORDER_OF_X)])
def test_results_are_contiguous_where_those_of_pytorch_are(case: Case) -> None:
    torch = pytest.importorskip("torch")
    for seed in range(4):
        try:
            theirs = flat(case.function(torch, *turned(case, torch, seed)))
        except RuntimeError:
            continue  # a view of what lies so cannot be had there either
        ours = flat(case.function(nanotorch, *turned(case, nanotorch, seed)))
        for y, other in zip(ours, theirs, strict=True):
            if isinstance(other, torch.Tensor) and other.is_contiguous():
                assert y.is_contiguous(), (seed, y.shape, y.stride())


def values_and_gradients(case: Case, library: Any, dtype: str) -> tuple[list[Any], list[Any]]:
    """The outputs, and the gradients of the differentiable inputs for fixed weights of the
    outputs."""
    inputs = tensors(case, library, dtype)
    wanted = with_grad(case, inputs)
    outputs = flat(case.function(library, *inputs))
    real = [y for y in outputs if y.requires_grad]
    weights = [
        library.tensor(w).to(y.dtype) for w, y in zip(directions(real, 5), real, strict=True)
    ]
    if real:
        library.autograd.backward(real, weights)
    return outputs, [x.grad for x in wanted]


@pytest.mark.torch
@over(CASES)
def test_values_and_gradients_are_those_of_pytorch(case: Case) -> None:
    torch = pytest.importorskip("torch")
    for dtype in ("float64", "float32")[case.single :]:
        try:
            values, gradients = values_and_gradients(case, torch, dtype)
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            pytest.skip(f"PyTorch: {error}")
        our_values, our_gradients = values_and_gradients(case, nanotorch, dtype)
        for ours, theirs in zip(our_values, values, strict=True):
            assert ours.requires_grad == theirs.requires_grad
            assert_same(ours, theirs, dtype)
        for ours, theirs in zip(our_gradients, gradients, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert_same(ours, theirs, dtype, "gradient")


@pytest.mark.torch
@over(CASES)
def test_other_dtypes_give_the_values_and_dtypes_of_pytorch(case: Case) -> None:
    torch = pytest.importorskip("torch")
    # Sums of integers in einsum are wider in PyTorch, depending on the path it takes.
    dtypes = ("float16",) if case.floats else ("float16", "int64", "int32", "uint8", "bool")
    for dtype in dtypes:
        theirs = result(case, torch, dtype)
        if isinstance(theirs, Exception):
            continue  # what PyTorch has no kernel for
        ours = result(case, nanotorch, dtype)
        if isinstance(ours, Exception):
            raise ours
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, dtype)


@pytest.mark.parametrize("shape", [(16, 64, 64), (4096, 16), (2, 3, 512, 8), (1001, 64), (64, 512)])
def test_the_gradient_of_a_bias_of_many_rows_is_their_sum(shape: tuple[int, ...]) -> None:
    """Rows are added several at once where they can be cut so: no sum is less exact for it."""
    g = numpy.random.default_rng(0).random(shape, numpy.float32)
    bias = nanotorch.zeros(shape[-1], requires_grad=True)
    (nanotorch.zeros(shape) + bias).backward(nanotorch.tensor(g))
    rows = g.reshape(-1, shape[-1])
    assert bias.grad is not None
    error = abs(bias.grad.numpy() - rows.sum(0, dtype=float)).max()
    assert error <= abs(rows.sum(0) - rows.sum(0, dtype=float)).max()


NARROW: dict[str, tuple[tuple[int, ...], Any]] = {
    "rows of a matrix": ((70, 3), 0),
    "many of them": ((9000, 10), 0),
    "a whole number of chunks": ((8192, 7), 0),
    "several dimensions": ((9, 50, 6), (0, 1)),
    "up to the last": ((5, 40, 30), (0,)),
    "one column": ((300, 1), 0),
    "wide rows": ((100, 400), 0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NARROW)
def test_columns_are_summed_wherever_they_lie(name: str, dtype: str) -> None:
    shape, dim = NARROW[name]
    array = numpy.random.default_rng(0).standard_normal(shape).astype(dtype)
    x, exact = nanotorch.tensor(array), array.astype("float64").sum(dim)
    close = {"rtol": 1e-4 if dtype == "float32" else 1e-12, "atol": 1e-3 * (dtype == "float32")}
    for keepdim in (False, True):
        y = x.sum(dim, keepdim)
        assert y.shape == array.sum(dim, keepdims=keepdim).shape
        numpy.testing.assert_allclose(y.numpy().reshape(exact.shape), exact, **close)
        into = nanotorch.empty(y.shape, dtype=x.dtype)
        assert nanotorch.equal(nanotorch.sum(x, dim, keepdim, out=into), y)
    if len(shape) == 2:
        numpy.testing.assert_allclose(x.t().sum(1).numpy(), exact, **close)
        numpy.testing.assert_allclose(x.t().sum(1, keepdim=True).numpy()[:, 0], exact, **close)


def test_sums_of_columns_have_the_same_bits_on_any_number_of_threads() -> None:
    x, before = nanotorch.randn(30_000, 10), nanotorch.get_num_threads()
    sums = []
    for threads in (1, 2):
        nanotorch.set_num_threads(threads)
        sums.append(x.sum(0))
    nanotorch.set_num_threads(before)
    assert nanotorch.equal(*sums)


DRAW = numpy.random.default_rng(3)
SPECIAL = numpy.array(
    [0.0, -0.0, 1.0, -1.0, numpy.inf, -numpy.inf, numpy.nan, 1e-45, 3e38, -0.1, 7.0, 2.0**24], "f"
)
DIVIDED: dict[str, tuple[Any, Any]] = {
    "corners": tuple(grid.reshape(-1).repeat(3) for grid in numpy.meshgrid(SPECIAL, SPECIAL)),
    "around one": (DRAW.standard_normal(3000) * 9, DRAW.standard_normal(3000)),
    "of all sizes": tuple(
        10.0 ** DRAW.uniform(-38, 38, 3000) * DRAW.choice([-1, 1], 3000) for _ in range(2)
    ),
    "multiples": (numpy.arange(3000) * numpy.float32(0.1), numpy.full(3000, 0.1)),
    "a row": (DRAW.standard_normal((30, 100)), DRAW.standard_normal(100)),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", DIVIDED)
def test_rests_of_many_numbers_have_the_bits_of_few(name: str) -> None:
    a, b = (nanotorch.tensor(numpy.asarray(x, "f")) for x in DIVIDED[name])
    of_c = numpy.fmod(a.numpy(), b.numpy())
    numpy.testing.assert_array_equal(nanotorch.fmod(a, b).numpy(), of_c)
    flat = [x.expand(a.shape).reshape(-1) for x in (a, b)]
    for op in (nanotorch.fmod, nanotorch.remainder, nanotorch.floor_divide):
        many = op(a, b).reshape(-1)
        few = [op(*(x[k : k + 100] for x in flat)) for k in range(0, many.numel(), 100)]
        same_bits(many.numpy(), nanotorch.cat(few).numpy(), op.__name__)
        by_number = op(a, 0.3).reshape(-1)
        few = [op(flat[0][k : k + 100], 0.3) for k in range(0, many.numel(), 100)]
        same_bits(by_number.numpy(), nanotorch.cat(few).numpy(), op.__name__)
