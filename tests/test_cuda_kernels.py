"""The CUDA kernels without a GPU: each compiles for two architectures, and computes what it should.

Compiling needs NVRTC, which needs no driver: `pip install 'nvidia-cuda-nvrtc==13.0.*'
'nvidia-cuda-runtime==13.0.*'`. The arithmetic is that of the same source compiled by g++, held to
float64 in NumPy.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import strict_cupy as cp
from strict_cupy.kernels import CompileException, launched, threads_that_fit

import nanotorch as nt
from nanotorch import backend
from nanotorch.backend.cuda import checks, fused, kernels
from nanotorch.cuda import kernel_table
from nanotorch.ops import activations, binary_losses, losses, normalization

needs_compiler = pytest.mark.skipif(
    not hasattr(cp, "RawModule"), reason="g++, which compiles kernels for the host, is missing"
)

# --- every instance compiles ----------------------------------------------------------------------


def nvidia_file(pattern: str) -> Path | None:
    """A file of NVIDIA's wheels, which share the package `nvidia`."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations or () if found is not None else ()
    return next((path for folder in folders for path in sorted(Path(folder).rglob(pattern))), None)


NVRTC = nvidia_file("libnvrtc.so.*")
HEADER = nvidia_file("cuda_fp16.h")


class Compiled(NamedTuple):
    """What NVRTC says of a source: its complaints, and what each of its kernels takes."""

    complaints: str
    registers: dict[str, int]
    shared: dict[str, int]  # bytes


def compiled_by_nvrtc(source: str, names: tuple[str, ...], architecture: str) -> Compiled:
    """The source with all of its `names`, compiled to machine code.

    The options are those that CuPy adds to ours, as far as they change the code; and one that has
    the assembler say what each kernel takes.
    """
    assert NVRTC is not None and HEADER is not None
    for builtins in NVRTC.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))  # which NVRTC looks for by its name alone
    library = ctypes.CDLL(str(NVRTC))
    program = ctypes.c_void_p()
    text = source.encode()
    made = library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    assert made == 0
    for name in names:
        assert library.nvrtcAddNameExpression(program, name.encode()) == 0
    options = [
        *kernels.OPTIONS, f"-arch={architecture}", f"-I{HEADER.parent}", "-ftz=true",
        "--device-as-default-execution-space", "--ptxas-options=-v",
    ]  # fmt: skip
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    if not failed:
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        failed = size.value < 1000
    library.nvrtcDestroyProgram(ctypes.byref(program))
    said = log.value.decode()
    registers, shared, entry = {}, {}, ""
    for line in said.splitlines():
        if started := re.search(r"Compiling entry function '(\w+)'", line):
            entry = started[1]
        if used := re.search(r"Used (\d+) registers", line):
            registers[entry] = int(used[1])
            shared[entry] = int(re.search(r"(\d+) bytes smem|$", line)[1] or 0)  # type: ignore[index]
    return Compiled((said or "no machine code") if failed else "", registers, shared)


needs_nvrtc = pytest.mark.skipif(
    NVRTC is None or HEADER is None,
    reason="NVRTC is missing: see the top of this file",
)


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", kernels.files())
def test_every_kernel_compiles_and_fits_on_the_device(file: str, architecture: str) -> None:
    names, source = kernels.instances(file), kernels.source(file)
    found = compiled_by_nvrtc(source, names, architecture)
    assert found.complaints == ""
    assert len(found.registers) == len(names) > 0
    fits = threads_that_fit(source)
    for entry, registers in found.registers.items():
        length = re.match(r"_Z(\d+)", entry)
        assert length is not None
        name = entry[length.end() :][: int(length[1])]
        assert -(-registers // 8) * 8 * fits[name] <= 65_536, entry  # they are given out by eights
        assert found.shared[entry] <= 48 * 1024, entry


@needs_nvrtc
def test_an_instance_that_does_not_compile_is_found() -> None:
    source = "template <typename T> __global__ void f(T* x) { x->y = 1; }"
    assert compiled_by_nvrtc(source, (), "sm_90").complaints == ""
    assert "class" in compiled_by_nvrtc(source, ("f<float>",), "sm_90").complaints


@pytest.mark.parametrize("file", kernels.files())
def test_a_file_declares_all_of_its_kernels(file: str) -> None:
    text = kernels.source(file)
    declared = {name.split("<")[0] for name in kernels.instances(file)}
    assert declared == set(threads_that_fit(text))
    assert text.count("__global__") == len(declared)


# --- what the compiled host code shows ------------------------------------------------------------

REVERSAL = """
template <typename T> __global__ void reversal(const T* x, T* y) {
    extern __shared__ T buffer[];
    buffer[threadIdx.x] = x[threadIdx.x];
    %s
    y[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}
__global__ void early(float* y) {
    if (threadIdx.x == 0) return;
    __syncthreads();
    y[threadIdx.x] = 1;
}
__global__ void left_over(float* y, int write) {
    __shared__ float kept;
    if (write) kept = 1;
    y[0] = kept;
}
__global__ void take(float* y, long long n) { y[0] = n; }
__global__ void __launch_bounds__(512) wide(float* y) { y[0] = 1; }
"""


def compiled(code: str, name: str) -> Any:
    return cp.RawModule(code=code, name_expressions=(name,)).get_function(name)


def on_device(*values: Any, xp: Any = cp) -> list[Any]:
    return [xp.asarray(numpy.asarray(value)) for value in values]


@needs_compiler
def test_a_missing_barrier_shows() -> None:
    x, y = on_device(numpy.arange(40, dtype="f"), numpy.zeros(40, "f"))
    compiled(REVERSAL % "__syncthreads();", "reversal<float>")((1,), (40,), (x, y), shared_mem=160)
    numpy.testing.assert_array_equal(y.get(), numpy.arange(40)[::-1])
    compiled(REVERSAL % "", "reversal<float>")((1,), (40,), (x, y), shared_mem=160)
    assert numpy.isnan(y.get()).any()


@needs_compiler
def test_shared_memory_does_not_outlive_a_block() -> None:
    (y,) = on_device(numpy.zeros(1, "f"))
    run = compiled(REVERSAL % "", "left_over")
    run((1,), (1,), (y, numpy.int32(1)))
    assert y.get() == 1
    run((1,), (1,), (y, numpy.int32(0)))
    assert numpy.isnan(y.get())


@needs_compiler
@pytest.mark.parametrize(
    ("name", "arguments", "shared", "words"),
    [
        ("reversal<float>", lambda x: (x, x), 156, "wrote behind"),
        ("early", lambda x: (x,), 0, "never reached"),
        ("take", lambda x: (x, numpy.int32(1)), 0, "another size"),
        ("take", lambda x: (x, 1), 0, "is a int"),
        ("take", lambda x: (x,), 0, "another number"),
        ("take", lambda x: (x[::2], numpy.int64(1)), 0, "not C-contiguous"),
        ("take", lambda x: (numpy.zeros(4), numpy.int64(1)), 0, "expected an array of the device"),
    ],
)
def test_a_wrong_launch_is_refused(
    name: str, arguments: Callable[[Any], tuple[Any, ...]], shared: int, words: str
) -> None:
    (x,) = on_device(numpy.zeros(40, "f"))
    run = compiled(REVERSAL % "__syncthreads();", name)
    with pytest.raises((ValueError, TypeError), match=words):
        run((1,), (40,), arguments(x), shared_mem=shared)


@needs_compiler
def test_a_block_whose_registers_may_not_suffice_is_refused() -> None:
    (x,) = on_device(numpy.zeros(4, "f"))
    for name, arguments, most in (("take", (x, numpy.int64(1)), 256), ("wide", (x,), 512)):
        run = compiled(REVERSAL % "", name)
        run((1,), (most,), arguments)
        with pytest.raises(ValueError, match="too many resources"):
            run((1,), (most + 32,), arguments)


@needs_compiler
def test_an_array_of_another_device_is_refused() -> None:
    with cp.cuda.Device(1):
        (x,) = on_device(numpy.zeros(4, "f"))
    with pytest.raises(ValueError, match="current device"):
        compiled(REVERSAL % "", "take")((1,), (1,), (x, numpy.int64(1)))


@needs_compiler
def test_what_does_not_compile_is_said() -> None:
    with pytest.raises(CompileException, match="nonsense"):
        compiled("__global__ void f() { nonsense; }", "f")


# --- the arithmetic -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A fused kernel, the op's own, the formula in float64, and the shapes it is tried on."""

    name: str
    fused: Callable[..., Any]
    kernel: Callable[..., Any]
    formula: Callable[..., Any]
    shapes: tuple[tuple[Any, ...], ...]
    options: dict[str, Any]


def reduced(y: Any, reduction: str) -> Any:
    return y if reduction == "none" else y.mean() if reduction == "mean" else y.sum()


def bce(x: Any, t: Any, reduction: str) -> Any:
    return reduced(numpy.logaddexp(0, x) - x * t, reduction)


def bce_slope(g: Any, x: Any, t: Any, divisor: float | None) -> Any:
    return g / (divisor or 1) * (1 / (1 + numpy.exp(-x)) - t)


def mse(x: Any, t: Any, reduction: str) -> Any:
    return reduced((x - t) ** 2, reduction)


def mse_slope(g: Any, x: Any, t: Any, divisor: float | None) -> Any:
    return g / (divisor or 1) * 2 * (x - t)


def softmax(x: Any, dim: int) -> Any:
    e = numpy.exp(x - x.max(dim, keepdims=True))
    return e / e.sum(dim, keepdims=True)


def layer_norm(x: Any, w: Any, b: Any, dims: tuple[int, ...], eps: float) -> Any:
    return standardized(x, dims, eps) * w + b


def layer_norm_slope(g: Any, x: Any, w: Any, dims: tuple[int, ...], eps: float) -> Any:
    return standardized_slope(g * w, x, standardized(x, dims, eps), dims, eps)


def of_weight(kernel: Any) -> Any:
    """The kernel of the weight's slope, given neither scores nor sums."""

    def call(xp: Any, g: Any, x: Any, *, dims: tuple[int, ...], **options: Any) -> Any:
        shape = x.shape[x.ndim - len(dims) :]
        return kernel(xp, g, x, None, None, dims=dims, shape=shape, **options)

    return call


def weight_slope(g: Any, x: Any, dims: tuple[int, ...], eps: float) -> Any:
    return (g * standardized(x, dims, eps)).sum(tuple(range(x.ndim - len(dims))))


def softmax_slope(g: Any, y: Any, dim: int) -> Any:
    return y * (g - (g * y).sum(dim, keepdims=True))


def log_softmax_slope(g: Any, y: Any, dim: int) -> Any:
    return g - numpy.exp(y) * g.sum(dim, keepdims=True)


def standardized(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    return (x - x.mean(dims, keepdims=True)) / numpy.sqrt(x.var(dims, keepdims=True) + eps)


def standardized_slope(g: Any, x: Any, s: Any, dims: tuple[int, ...], eps: float) -> Any:
    share = s * (g * s).mean(dims, keepdims=True) + g.mean(dims, keepdims=True)
    return (g - share) / numpy.sqrt(x.var(dims, keepdims=True) + eps)


PAIRS = (((1, 1),) * 2, ((33,),) * 2, ((7, 3, 2),) * 2, ((90, 101),) * 2, ((3, 20000),) * 2)
SINGLES = tuple(pair[:1] for pair in PAIRS)
AND_ONE = tuple(((), *pair) for pair in PAIRS)
AND_EACH = tuple((pair[0], *pair) for pair in PAIRS)
LAST = (((1, 1),), ((5, 10),), ((3, 1025),), ((2, 9000),), ((300, 2),))
MIDDLE = (((4, 40, 2),), ((2, 3, 40),), ((1, 3000, 3),))
MATRICES = (((1, 1),), ((5, 10),), ((3, 1025),), ((2, 3, 9000),))


def last(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, ...]:
    return shape[len(shape) - len(dims) :]


ROWS = [
    *(
        Row(f"{name} {reduction}", forward, op, formula, PAIRS, {"reduction": reduction})
        for reduction in ("none", "mean", "sum")
        for name, forward, op, formula in (
            (
                "bce",
                lambda xp, x, t, **o: fused.bce_with_logits(xp, x, t, None, None, **o),
                lambda xp, x, t, **o: binary_losses.BinaryCrossEntropyWithLogits.kernel(
                    xp, x, t, None, None, **o
                ),
                bce,
            ),
            ("mse", fused.mse, losses.MseLoss.kernel, mse),
        )
    ),
    *(
        Row(f"{name} slope, {divisor=}", reverse, op, formula, shapes, {"divisor": divisor})
        for divisor, shapes in ((None, AND_EACH), (None, AND_ONE), (12.0, AND_ONE))
        for name, reverse, op, formula in (
            (
                "bce",
                lambda xp, *a, **o: fused.bce_with_logits_reverse(xp, *a, None, None, **o),
                lambda xp, *a, **o: binary_losses.BinaryCrossEntropyWithLogitsReverse.kernel(
                    xp, *a, None, None, **o
                ),
                bce_slope,
            ),
            ("mse", fused.mse_reverse, losses.MseLossReverse.kernel, mse_slope),
        )
    ),
    *(
        Row(f"{name} along {dim}", kernel, op, formula, tuple(shape * number for shape in shapes),
            {"dim": dim})
        for dim, shapes in ((-1, LAST), (1, MIDDLE), (0, LAST))
        for name, kernel, op, formula, number in (
            ("softmax", fused.softmax, activations.Softmax.kernel, softmax, 1),
            ("log_softmax", fused.log_softmax, activations.LogSoftmax.kernel,
             lambda x, dim: numpy.log(softmax(x, dim)), 1),
            ("softmax slope", fused.softmax_reverse, activations.SoftmaxReverse.kernel,
             softmax_slope, 2),
            ("log_softmax slope", fused.log_softmax_reverse, activations.LogSoftmaxReverse.kernel,
             log_softmax_slope, 2),
        )
    ),
    *(
        Row(f"{name} over {dims}", kernel, op, formula, tuple(shape * number for shape in shapes),
            {"dims": dims, "eps": 1e-3})
        for dims, shapes in (((-1,), MATRICES), ((1, -1), MATRICES[-1:]))
        for name, kernel, op, formula, number in (
            ("standardize", fused.standardize, normalization.Standardize.kernel, standardized, 1),
            ("standardize slope", kernel_table.standardize_reverse,
             normalization.StandardizeReverse.kernel, standardized_slope, 3),
        )
    ),
    *(
        Row(f"{name} over {dims}", kernel, op, formula, shapes, {"dims": dims, "eps": 1e-3})
        for dims, normed in (((-1,), (*MATRICES, ((70, 33),), ((2, 40000, 3),))),
                             ((1, -1), MATRICES[-1:]))
        for name, kernel, op, formula, shapes in (
            ("layer_norm", fused.layer_norm,
             lambda xp, *a, **o: normalization.LayerNorm.kernel(xp, *a, None, **o), layer_norm,
             tuple((x, last(x, dims), last(x, dims)) for (x,) in normed)),
            ("layer_norm slope", fused.layer_norm_reverse,
             lambda xp, *a, **o: normalization.LayerNormReverse.kernel(xp, *a, None, None, **o),
             layer_norm_slope, tuple((x, x, last(x, dims)) for (x,) in normed)),
            ("layer_norm weight", of_weight(fused.layer_norm_weight),
             of_weight(normalization.LayerNormWeight.kernel), weight_slope,
             tuple((x, x) for (x,) in normed)),
        )
    ),
]  # fmt: skip


@pytest.fixture
def xp(cuda: str) -> Any:
    """The array module of CUDA arrays, where it compiles kernels."""
    module = backend.cuda_module()
    if not kernels.available(module):
        pytest.skip("g++, which compiles kernels for the host, is missing")
    return module


TOLERANCES = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 3e-6, "float64": 2e-14}


def kind_of(dtype: str) -> Any:
    """NumPy's dtype of that name."""
    if dtype == "bfloat16":
        return numpy.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return numpy.dtype(dtype)


def close(found: Any, expected: Any, dtype: str) -> None:
    """Equal up to the rounding of a few operations, at the scale of the whole."""
    assert found.dtype == kind_of(dtype) and found.shape == expected.shape
    scale = float(numpy.abs(expected).max()) or 1.0
    numpy.testing.assert_allclose(
        found.astype("float64"), expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype] * scale
    )


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_fused_kernel_computes_its_formula(row: Row, dtype: str, xp: Any) -> None:
    random = numpy.random.default_rng(5)
    for shapes in row.shapes:
        arrays = [(random.normal(size=shape) / 2).astype(kind_of(dtype)) for shape in shapes]
        given = on_device(*arrays, xp=xp)
        launched.clear()
        with cp.no_transfers(), cp.no_synchronization():
            y = row.fused(xp, *given, **row.options)
            out = xp.empty(y.shape, y.dtype)
            assert row.fused(xp, *given, **row.options, out=out) is out
        assert xp is not cp or launched.total() >= 2
        expected = row.formula(*(a.astype("float64") for a in arrays), **row.options)
        close(y.get(), numpy.asarray(expected), dtype)
        numpy.testing.assert_array_equal(out.get(), y.get())


SPECIAL = numpy.array([[0.0, -0.0, 1.5, -2.0], [numpy.nan, 1, 2, 3], [numpy.inf, 1, 2, 3],
                       [-numpy.inf, 1, 2, 3], [-numpy.inf] * 4, [1e4, -1e4, 80, -80],
                       [numpy.inf, -numpy.inf, 0, 0], [-1000, -999, -1001, -3000]])  # fmt: skip
OF_MATRICES = [row for row in ROWS if row.options.get("dims") != (1, -1)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", OF_MATRICES, ids=lambda row: row.name)
def test_infinities_and_nan_are_those_of_the_cpu(row: Row, dtype: str, xp: Any) -> None:
    shapes = [(), (4,), SPECIAL.shape]
    arrays = [numpy.ones(shapes[min(len(shape), 2)], dtype) for shape in row.shapes[0]]
    whole = [i for i, array in enumerate(arrays) if array.ndim == 2]
    arrays[whole[max(len(whole) - 2, 0)]] = SPECIAL.astype(dtype)
    with numpy.errstate(all="ignore"):
        expected = row.kernel(numpy, *arrays, **row.options)
    found = row.fused(xp, *on_device(*arrays, xp=xp), **row.options).get()
    tolerance = 10 * TOLERANCES[dtype]
    numpy.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(1, 1), (3,), (40, 7), (5, 3, 4, 2), (9001, 3)])
def test_the_loss_of_classes_and_its_slope(
    shape: tuple[int, ...], reduction: str, weighted: bool, dtype: str, xp: Any
) -> None:
    random = numpy.random.default_rng(5)
    classes = shape[0 if len(shape) == 1 else 1]
    x = random.normal(size=shape).astype(kind_of(dtype))
    target = random.integers(0, classes, () if len(shape) == 1 else (shape[0], *shape[2:]))
    weight = random.uniform(0.5, 2, classes).astype(kind_of(dtype)) if weighted else None
    options: dict[str, Any] = {"reduction": reduction, "ignore_index": 0 if classes > 1 else -100}
    kept = (target != options["ignore_index"]) * 1.0
    factor = kept * (1.0 if weight is None else weight.astype("float64")[target])
    one_hot = numpy.moveaxis(numpy.eye(classes)[target], -1, 0 if len(shape) == 1 else 1)
    along = 0 if len(shape) == 1 else 1
    each = -(x.astype("float64") * one_hot).sum(along) * factor
    share = factor.sum() if reduction == "mean" else 1
    expected = each if reduction == "none" else each.sum() / share
    given = [*on_device(x, target, xp=xp), None if weight is None else on_device(weight, xp=xp)[0]]
    y = kernel_table.nll(xp, *given, **options)
    close(y.get(), numpy.asarray(expected), dtype)
    g = random.normal(size=expected.shape).astype(kind_of(dtype))
    slope = kernel_table.nll_reverse(xp, *on_device(g, xp=xp), *given[1:], **options, shape=shape)
    of_each = numpy.expand_dims(g.astype("float64") * factor / share, along)
    close(slope.get(), -one_hot * of_each, dtype)


def test_a_class_that_does_not_exist_is_not_looked_up(xp: Any) -> None:
    x, target = on_device(numpy.zeros((2, 3), "f"), numpy.array([1, 3]), xp=xp)
    options = {"reduction": "none", "ignore_index": -100}
    assert numpy.isnan(kernel_table.nll(xp, x, target, None, **options).get()[1])
    with pytest.raises(IndexError, match="target 3 is out of range for 3 classes"):
        checks.to_host(xp, x)


# Of several packs with an end, begun between two packs, of one element.
PLACES = ((0, 4099), (1, 4099), (3, 17), (0, 1), (0, 8), (5, 2))


def numbers_of(count: int, dtype: str) -> Any:
    """Numbers of all sizes with what rounds to even, NaN, infinities, zeros and what overflows."""
    x = numpy.random.default_rng(7).normal(size=count) * 2.0 ** numpy.arange(count % 7 - 9, 20)[0]
    special = (0.0, -0.0, numpy.nan, numpy.inf, -numpy.inf, 1e6, -7e4, 1.00390625, 1.01171875)
    x[: min(count, len(special))] = special[: min(count, len(special))]
    with numpy.errstate(over="ignore"):
        return x.astype(kind_of(dtype))


def same_numbers(found: Any, expected: Any) -> None:
    """Equal with the signs of zeros, and NaN where there is NaN."""
    found, expected = found.astype("float64"), expected.astype("float64")
    numpy.testing.assert_array_equal(found, expected)
    numbers = ~numpy.isnan(expected)
    numpy.testing.assert_array_equal(
        numpy.signbit(found)[numbers], numpy.signbit(expected)[numbers]
    )


@pytest.mark.parametrize("target", TOLERANCES)
@pytest.mark.parametrize("source", TOLERANCES)
def test_a_cast_is_one_launch_with_the_bits_of_the_host(source: str, target: str, xp: Any) -> None:
    for start, count in PLACES:
        x = numbers_of(start + count, source)
        given = on_device(x, xp=xp)[0][start:]
        launched.clear()
        y = fused.cast(xp, given, dtype=kind_of(target))
        if source == target:
            assert y is NotImplemented
            continue
        assert xp is not cp or launched.total() == 1
        with numpy.errstate(over="ignore"):
            expected = backend.dtypes.as_dtype(x[start:], kind_of(target))
        same_numbers(y.get(), expected)
        out = xp.empty(count + 1, kind_of(target))[1:]
        assert fused.cast(xp, given, dtype=kind_of(target), out=out) is out
        same_numbers(out.get(), expected)
    for x in (numpy.ones((), source), numpy.ones((0, 3), source), numpy.ones((4, 6), source).T):
        y = nt.tensor(x).to("cuda:0").to(getattr(nt, target)) if source != "bfloat16" else None
        assert y is None or (tuple(y.shape), y.dtype) == (x.shape, getattr(nt, target))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(5, 10), (33, 64), (1, 1), (7, 1), (2, 3, 24), (0, 4), (3, 0)])
def test_a_bias_is_added_to_each_row(shape: tuple[int, ...], dtype: str, xp: Any) -> None:
    random = numpy.random.default_rng(3)
    for start in (0, 1):
        x, row = (
            random.normal(size=n + start).astype(kind_of(dtype))
            for n in (math.prod(shape), shape[-1])
        )
        of_x, of_row = (a[start:] for a in on_device(x, row, xp=xp))
        of_x = of_x.reshape(shape)
        wide = x.dtype if dtype == "float64" else numpy.dtype("f")
        expected = x[start:].reshape(shape).astype(wide) + row[start:].astype(wide)
        launched.clear()
        fused.add_row(xp, of_x, of_row)
        assert xp is not cp or launched.total() == (of_x.size > 0)
        numpy.testing.assert_array_equal(of_x.get(), expected.astype(x.dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(9, 3), (700, 2), (1000, 10), (64, 256), (50, 257), (90, 1028)])
def test_columns_are_summed_wherever_rows_begin(
    shape: tuple[int, int], dtype: str, xp: Any
) -> None:
    for start in (0, 1):
        x = numpy.random.default_rng(9).normal(size=math.prod(shape) + start)
        x = x.astype(kind_of(dtype))
        given = on_device(x, xp=xp)[0][start:].reshape(shape)
        y = fused.total(xp, given, dim=0)
        close(y.get(), x[start:].reshape(shape).astype("float64").sum(0), dtype)


def test_a_step_in_bfloat16_takes_no_elementwise_kernel_of_cupy(
    cuda: str, xp: Any, written: None
) -> None:
    if xp is not cp:
        pytest.skip("launches are counted by name on the look-alike")
    pytest.importorskip("ml_dtypes")
    with nt.device("cuda"):
        sizes = (16, 8), (8, 8), (8, 3)
        first, second, third = (nt.nn.Linear(n, m) for n, m in sizes)
        x, target = nt.rand(40, 16), nt.zeros(40, dtype=nt.int64)
    for _ in range(2):  # the first one also makes the word of the checks
        launched.clear()
        before = cp.counts.launches
        with nt.autocast("cuda", dtype=nt.bfloat16):
            y = third(nt.relu(second(nt.relu(first(x)))))
            loss = nt.nn.functional.cross_entropy(y, target)
        nt.autograd.grad(loss, [*first.parameters(), *second.parameters(), *third.parameters()])
    assert launched["cast<float, __nv_bfloat16>"] == 8  # x, the parameters, one gradient
    assert launched["cast<__nv_bfloat16, float>"] == 7  # the output, the gradients
    assert launched["add_row<__nv_bfloat16>"] == 3
    assert launched["elements"] == 4  # ReLU and its slope
    products, ones = 8, 1  # the cotangent of the loss is 1
    assert cp.counts.launches - before == launched.total() + products + ones


def test_what_the_kernels_do_not_do_is_left_to_the_op(xp: Any) -> None:
    shapes = ((4, 6), "f"), ((4, 6), "f"), ((4, 6), "e"), ((0, 6), "f")
    x, t, half, empty = on_device(*(numpy.ones(*given) for given in shapes), xp=xp)
    options = {"reduction": "mean"}
    for arrays in ((x, half), (empty, empty), (x, x[:1]), (x[:, ::2], t[:, ::2]), (x.T, t.T)):
        assert fused.mse(xp, *arrays, **options) is NotImplemented
    assert fused.mse(numpy, numpy.ones(3), numpy.ones(3), **options) is NotImplemented
    assert fused.bce_with_logits(xp, x, t, t, None, **options) is NotImplemented
    assert fused.softmax(xp, x, dim=2) is NotImplemented
    assert fused.standardize(xp, x, dims=(0,), eps=0.0) is NotImplemented
