"""Kernels and rules of elementwise primitives, written in C and run at one launch.

The look-alike offers them only here (`RawKernel`), where g++ compiles all that a test needs at
once; elsewhere on it CuPy's functions compute the same.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy
import pytest
from op_table import Case
from strict_cupy import kernels as on_host
from test_cuda_kernels import compiled_by_nvrtc, needs_nvrtc
from test_ops_on_cuda import ON_CUDA, Uncounted, flat, made, slopes

import nanotorch as nt
from nanotorch import backend
from nanotorch.cuda import expressions
from nanotorch.nn import functional as F

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="g++ is missing")
HEADERS = re.compile(r'extern "C" __global__ void elements')


@pytest.fixture
def device(look_alike: ModuleType) -> Iterator[ModuleType]:
    before = backend.devices._cuda_module
    backend.register_cuda_module(look_alike)
    expressions.write.cache_clear()
    expressions._plans.clear()
    expressions._kernels.clear()
    expressions._texts.clear()
    nt.manual_seed(0)
    with nt.device("cuda"):
        yield look_alike
    backend.register_cuda_module(before)


def texts_of(call: Callable[[], Any], module: ModuleType) -> list[str]:
    """The kernels that a call would launch; CuPy's functions compute it."""
    texts: dict[str, None] = {}
    write = expressions.write

    def noted(*arguments: Any) -> None:
        kernel = write(*arguments)
        if kernel is not None and kernel.text:
            texts[kernel.text] = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expressions, "write", noted)
        patch.setattr(expressions, "_plans", {})
        patch.setattr(module, "RawKernel", object, raising=False)
        call()
    return list(texts)


def together(texts: list[str]) -> str:
    """One source of several kernels: elements_0, elements_1, …"""
    bodies = [
        HEADERS.sub(f"__global__ void elements_{i}", text, count=1) for i, text in enumerate(texts)
    ]
    return expressions.HEAD + "\n".join(bodies)


@contextlib.contextmanager
def launching(texts: list[str], module: ModuleType) -> Iterator[list[str]]:
    """These kernels can be launched; gives the texts of those that were."""
    names = tuple(f"elements_{i}" for i in range(len(texts)))
    compiled = on_host.RawModule(together(texts), name_expressions=names)
    launched: list[str] = []

    def kernel(code: str, name: str, options: tuple[str, ...]) -> Callable[..., None]:
        text = code.removeprefix(expressions.HEAD)
        run = compiled.get_function(f"elements_{texts.index(text)}")

        def launch(*arguments: Any) -> None:
            launched.append(text)
            run(*arguments)

        return launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_host, "FLAGS", tuple(f for f in on_host.FLAGS if f != "-O1"))
        patch.setattr(module, "RawKernel", kernel, raising=False)
        patch.setattr(expressions, "FEW", 0)
        patch.setattr(expressions, "_plans", {})
        yield launched


def launched_by(call: Callable[[], Any], module: ModuleType) -> tuple[Any, int]:
    """What a call gives, computed by kernels that were written, and how many it launched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expressions, "FEW", 0)
        texts = texts_of(call, module)
    with launching(texts, module) as launched:
        return call(), len(launched)


# --- every row of the op table --------------------------------------------------------------------


# What is left to CuPy, by the functions that it asks for.
LEFT = {
    *("left_shift", "right_shift", "heaviside", "nextafter"),
    *("signbit", "nan_to_num", "round", "frexp", "floor_divide"),
}


class Rows:
    """The kernels that the rows of the op table are written as, and the functions of CuPy that
    others ask for."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.asked: set[str] = set()


@pytest.fixture(scope="module")
def once() -> Rows:
    return Rows()


@pytest.fixture
def rows(once: Rows, device: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Rows:
    named = expressions.Functions.__getattr__

    def noted(self: Any, name: str) -> Any:
        if name not in expressions.TEXTS and not name.startswith("Raw"):
            once.asked.add(name)
        return named(self, name)

    monkeypatch.setattr(expressions, "FEW", 0)
    if not once.texts:
        with monkeypatch.context() as patch:
            patch.setattr(expressions.Functions, "__getattr__", noted)
            once.texts = texts_of(all_rows, device)
    return once


def readings(case: Case, device: str) -> list[Any]:
    """The outputs of a row and their gradients."""
    inputs = made(case, device, "float32")
    outputs = flat(case.function(Uncounted(), *inputs))
    return [*outputs, *slopes(outputs, inputs, create_graph=False)]


def all_rows() -> None:
    for case in ON_CUDA:
        readings(case, "cuda")


def test_rows_have_the_results_and_gradients_of_the_cpu(rows: Rows, device: ModuleType) -> None:
    with launching(rows.texts, device) as launched:
        for case in ON_CUDA:
            before = len(launched)
            found = readings(case, "cuda")
            if len(launched) > before:
                compare(case, found)
    assert len(set(launched)) > 250


def compare(case: Case, found: list[Any]) -> None:
    with nt.device("cpu"):
        expected = readings(case, "cpu")
    for y, other in zip(found, expected, strict=True):
        assert (y.dtype, y.shape) == (other.dtype, other.shape), case.name
        got = y.detach().cpu().numpy()
        numpy.testing.assert_allclose(
            got, other.detach().numpy(), rtol=1e-4, atol=1e-5, err_msg=case.name
        )


@needs_nvrtc
def test_what_is_written_compiles_for_a_device(rows: Rows) -> None:
    some = rows.texts[::4]
    names = tuple(f"elements_{i}" for i in range(len(some)))
    found = compiled_by_nvrtc(together(some), names, "sm_90")
    assert found.complaints == ""
    assert max(found.registers.values()) <= 255


def test_only_what_c_has_no_name_for_is_left_to_cupy(rows: Rows) -> None:
    assert rows.asked == LEFT


# --- one launch -----------------------------------------------------------------------------------

ONE_LAUNCH: list[Callable[[Any], Any]] = [
    nt.erfinv,
    nt.lgamma,
    nt.rsqrt,
    lambda x: x**3,
    lambda x: x % 0.3,
    lambda x: x // 0.3,
    lambda x: x.clone(),
    lambda x: nt.lerp(x, x.detach(), 0.3),
    lambda x: x.clamp(0.2, 0.5),
    lambda x: F.softplus(x),
    lambda x: F.selu(x),
    lambda x: F.hardswish(x),
    lambda x: F.logsigmoid(x),
    lambda x: F.elu(x, 0.7),
]


def test_a_function_and_its_rule_are_a_launch_each(device: ModuleType) -> None:
    x = nt.rand(3, 5).requires_grad_()
    g = nt.ones(3, 5)

    def values() -> list[Any]:
        return [function(x) for function in ONE_LAUNCH]

    def slopes() -> list[Any]:
        return [nt.autograd.grad(y, x, g) for y in values()]

    _, forward = launched_by(values, device)
    _, both = launched_by(slopes, device)
    assert forward == len(ONE_LAUNCH) + 1  # selu scales what elu gives
    assert both <= 2 * forward


# --- how operands are read ------------------------------------------------------------------------

OPERANDS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "of one shape": lambda r: (r(7, 9), r(7, 9)),
    "more than one pack": lambda r: (r(33, 129), r(33, 129)),
    "one element": lambda r: (r(1), r(1)),
    "no dimensions": lambda r: (r(), r()),
    "a number of the device": lambda r: (r(7, 9), r()),
    "a row": lambda r: (r(7, 9), r(9)),
    "a column": lambda r: (r(7, 9), r(7, 1)),
    "a channel": lambda r: (r(2, 3, 4, 5), r(3, 1, 1)),
    "axes within": lambda r: (r(2, 3, 4, 5), r(1, 3, 4, 1)),
    "axes apart": lambda r: (r(2, 3, 4, 5), r(2, 1, 4, 1)),
    "the smaller one first": lambda r: (r(9), r(7, 9)),
    "both broadcast": lambda r: (r(7, 1), r(9)),
    "from an odd place on": lambda r: (r(70)[1:], r(70)[:-1]),
    "expanded": lambda r: (r(7, 9), r().expand(7, 9)),
    "an expanded row": lambda r: (r(7, 9), r(9).expand(7, 9)),
    "an expanded column": lambda r: (r(7, 9), r(7, 1).expand(7, 9)),
    "transposed": lambda r: (r(7, 9), r(9, 7).t()),
    "with gaps": lambda r: (r(7, 9), r(7, 18)[:, ::2]),
    "nothing": lambda r: (r(0, 9), r(9)),
}


@pytest.mark.parametrize("dtype", [nt.float32, nt.float64, nt.float16, nt.bfloat16, nt.int32])
def test_operands_are_read_where_they_lie(dtype: Any, device: ModuleType) -> None:
    if dtype is nt.bfloat16:
        pytest.importorskip("ml_dtypes")
    pairs = {
        name: pair(lambda *shape: (nt.rand(shape) * 8 + 1).to(dtype))
        for name, pair in OPERANDS.items()
    }

    def of_all() -> dict[str, Any]:
        return {name: nt.where(a > b, a - b, a * b) for name, (a, b) in pairs.items()}

    results, launches = launched_by(of_all, device)
    assert launches >= 4 * (len(OPERANDS) - 4)  # transposed, with gaps, axes apart, nothing
    for name, (a, b) in pairs.items():
        x, z = a.cpu(), b.cpu()
        assert results[name].dtype is dtype, name
        assert nt.equal(results[name].cpu(), nt.where(x > z, x - z, x * z)), name


def test_a_result_may_take_the_place_of_an_operand(device: ModuleType) -> None:
    x = nt.arange(11.0)
    expected = (x.cpu() + 1).reciprocal()
    y, launches = launched_by(lambda: x.clone().add_(1).reciprocal_(), device)
    assert nt.equal(y.cpu(), expected)
    assert launches == 3


def test_a_rule_that_hands_on_its_cotangent_launches_nothing(device: ModuleType) -> None:
    x, y = nt.rand(3, 4).requires_grad_(), nt.rand(3, 4)
    z, g = x + y, nt.rand(3, 4)
    _, launches = launched_by(lambda: nt.autograd.grad(z, x, g, retain_graph=True), device)
    assert launches == 0


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [(0.1, -0.2, 1e30), (1, 2, -3), (0.0, -0.0), (float("inf"), float("nan"))]
)
def test_numbers_are_given_and_not_written(values: Any, device: ModuleType) -> None:
    x = nt.tensor([1.5, -2.0, 0.0])
    results = [lambda value=value: x * value for value in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expressions, "FEW", 0)
        texts = texts_of(lambda: [call() for call in results], device)
        assert len(texts) == 1
        with launching(texts, device):
            for call, value in zip(results, values, strict=True):
                numpy.testing.assert_array_equal(call().cpu().numpy(), (x.cpu() * value).numpy())


NUMBER_FIRST: dict[str, Callable[[Any], Any]] = {
    "where": lambda x: nt.where(x > 1, 0.5, x),
    "xlogy": lambda x: nt.xlogy(0.5, x),
    "xlog1py": lambda x: nt.special.xlog1py(0.5, x),
    "rsub": lambda x: 2 - x,
    "pow": lambda x: 2**x,
    "fmax": lambda x: nt.fmax(x, x.new_tensor(1.5)),
}


@pytest.mark.parametrize("dtype", [nt.float32, nt.float64])
def test_a_number_decides_no_dtype(dtype: Any, device: ModuleType) -> None:
    x = nt.tensor([0.5, 1.0, 2.5], dtype=dtype)

    def of_all() -> dict[str, Any]:
        return {name: function(x) for name, function in NUMBER_FIRST.items()}

    results, launches = launched_by(of_all, device)
    assert launches >= len(NUMBER_FIRST)
    for name, y in results.items():
        assert y.dtype is dtype, name
        assert nt.allclose(y.cpu(), NUMBER_FIRST[name](x.cpu())), name


def test_a_function_with_ever_new_numbers_in_its_text_goes_to_cupy(device: ModuleType) -> None:
    x = nt.rand(4)

    def many() -> None:
        for k in range(3 * expressions.MOST_TEXTS):
            nt.lerp(x, x, k / 1000 + 0.5)  # whose body takes it from 1

    assert len(texts_of(many, device)) == expressions.MOST_TEXTS


# --- rounding -------------------------------------------------------------------------------------

ROUNDED: list[Callable[[Any, Any], Any]] = [
    lambda x, y: nt.lerp(x, y, 0.3),
    lambda x, y: x % y,
    lambda x, y: F.hardswish(x),
    lambda x, y: x.clamp(-0.5, 0.5),
]


@pytest.mark.parametrize("dtype", [nt.float32, nt.float64])
def test_each_operation_is_rounded_by_itself(dtype: Any, device: ModuleType) -> None:
    x, y = nt.randn(50, 7, dtype=dtype), nt.rand(50, 7, dtype=dtype) + 0.1
    results, launches = launched_by(lambda: [function(x, y) for function in ROUNDED], device)
    assert launches == len(ROUNDED)
    for z, function in zip(results, ROUNDED, strict=True):
        assert nt.equal(z, function(x, y))  # by CuPy's functions, one after the other


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": nt.sigmoid,
    "relu": nt.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("dtype", [nt.float16, nt.bfloat16, nt.float32, nt.float64])
def test_activations_and_their_slopes_are_those_of_the_cpu(dtype: Any, device: ModuleType) -> None:
    if dtype is nt.bfloat16:
        pytest.importorskip("ml_dtypes")
    inf, nan = float("inf"), float("nan")
    given = nt.cat([nt.randn(50) * 3, nt.tensor([0.0, -0.0, inf, -inf, nan, 90.0, -90.0])])
    x, g = given.to(dtype).requires_grad_(), nt.rand(57).to(dtype)

    def all_of(x: Any, g: Any) -> dict[str, tuple[Any, Any]]:
        values = {name: function(x) for name, function in ACTIVATIONS.items()}
        return {name: (y, nt.autograd.grad(y, x, g)[0]) for name, y in values.items()}

    ours, launches = launched_by(lambda: all_of(x, g), device)
    assert launches == 2 * len(ACTIVATIONS)
    exact = nt.finfo(dtype).eps * 16  # of numbers around 1
    for name, expected in all_of(x.detach().cpu().requires_grad_(), g.cpu()).items():
        for y, other in zip(ours[name], expected, strict=True):
            assert y.dtype is dtype
            found, right = (a.detach().cpu().double().numpy() for a in (y, other))
            numpy.testing.assert_allclose(found, right, exact, exact, err_msg=name)


def test_relu_keeps_nan_and_the_sign_of_zero_wherever_an_array_begins(device: ModuleType) -> None:
    arrays = []
    for start in (0, 1, 3):
        for count in (1, 4, 1031):
            x = nt.randn(start + count)
            x[-1], x[start] = float("nan"), -0.0
            arrays.append(x[start:])
    results, _ = launched_by(lambda: [nt.relu(x) for x in arrays], device)
    for x, y in zip(arrays, results, strict=True):
        wide = x.cpu().numpy()
        expected = numpy.where(wide < 0, numpy.float32(0), wide)
        assert y.cpu().numpy().tobytes() == expected.tobytes()


def test_halves_are_computed_in_float32_and_rounded_once(device: ModuleType) -> None:
    x = nt.randn(50, dtype=nt.float16)
    y, launches = launched_by(lambda: F.softplus(x), device)
    assert launches == 1
    expected = F.softplus(x.cpu().float()).half()
    assert (y.cpu().float() - expected.float()).abs().max() <= 2e-3
