"""float16 and bfloat16: computed in float32 and rounded once, with PyTorch's dtypes and printing.

bfloat16 is there by ml_dtypes, an optional package; what needs it is skipped without it, except
that its absence is told.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import strict_cupy
from op_table import CASES, Case, first_rows, title
from test_ops_on_cuda import ON_CUDA, WAITING, Uncounted, flat

import nanotorch as nt
from nanotorch import backend
from nanotorch.backend import dtypes
from nanotorch.training.errors import InputError
from nanotorch.training.model_file import array_bytes, read_arrays

EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
HALVES = list(EPSILON)


@pytest.fixture(params=HALVES)
def half(request: pytest.FixtureRequest) -> str:
    """The name of a half-precision dtype that is usable here."""
    name: str = request.param
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return name


@pytest.fixture
def bfloat16() -> Any:
    pytest.importorskip("ml_dtypes")
    return nt.bfloat16


@pytest.fixture
def default_half(half: str) -> Iterator[str]:
    nt.set_default_dtype(getattr(nt, half))
    yield half
    nt.set_default_dtype(nt.float32)


def doubles(values: Any) -> Any:
    """A tensor of either library as a float64 (or integer) array."""
    values = values.detach()
    return (values.double() if values.dtype.is_floating_point else values).numpy()


# --- without ml_dtypes ----------------------------------------------------------------------------


def test_without_ml_dtypes_the_name_is_there_and_a_tensor_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    dtypes.load_bfloat16.cache_clear()
    try:
        assert repr(nt.bfloat16) == "torch.bfloat16"
        assert (nt.bfloat16.itemsize, nt.bfloat16.is_floating_point) == (2, True)
        for make in (
            lambda: nt.ones(2, dtype=nt.bfloat16),
            lambda: nt.ones(2).bfloat16(),
            lambda: nt.nn.Linear(2, 2).bfloat16(),
        ):
            with pytest.raises(RuntimeError) as error:
                make()
            assert str(error.value).startswith("dtype bfloat16 needs ml_dtypes")
            assert str(error.value).endswith('`pip install "nanotorch[bfloat16]"`')
    finally:
        dtypes.load_bfloat16.cache_clear()


def test_importing_the_package_does_not_import_ml_dtypes() -> None:
    code = (
        "import sys, nanotorch as nt; x = nt.ones(2).half(); assert 'ml_dtypes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


# --- what it is -----------------------------------------------------------------------------------


def test_bfloat16_leaves_for_python_but_not_for_numpy(bfloat16: Any) -> None:
    x = nt.tensor([1.5, 2.0], dtype=bfloat16)
    assert x.tolist() == [1.5, 2.0]
    assert (type(x[0].item()), float(x[0]), int(x[1]), f"{x[0]:.2f}") == (float, 1.5, 2, "1.50")
    for read in (x.numpy, lambda: x.numpy(force=True), lambda: numpy.asarray(x)):
        with pytest.raises(TypeError, match="Got unsupported ScalarType BFloat16"):
            read()
    assert (x.type(), x.element_size(), x.nbytes) == ("torch.BFloat16Tensor", 2, 4)
    assert x.data_ptr() != 0


def test_bfloat16_is_copied_and_pickled(bfloat16: Any) -> None:
    x = nt.tensor([1.5, 2.0], dtype=bfloat16)
    for other in (
        copy.deepcopy(x),
        pickle.loads(pickle.dumps(x)),
        x.clone(),
        nt.as_tensor(x._array),
    ):
        assert other.dtype is bfloat16
        assert other.tolist() == [1.5, 2.0]
    assert pickle.loads(pickle.dumps(bfloat16)) is bfloat16
    assert backend.dtype_of("bfloat16") is bfloat16


@pytest.mark.torch
def test_limits_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for name in ("float16", "bfloat16", "float32", "float64", "complex64"):
        ours, theirs = nt.finfo(getattr(nt, name)), torch.finfo(getattr(torch, name))
        assert repr(ours) == repr(theirs)
        for field in (
            "bits",
            "eps",
            "max",
            "min",
            "tiny",
            "smallest_normal",
            "resolution",
            "dtype",
        ):
            assert getattr(ours, field) == getattr(theirs, field), (name, field)
    for name in ("int8", "uint8", "int64"):
        ours, theirs = nt.iinfo(getattr(nt, name)), torch.iinfo(getattr(torch, name))
        assert repr(ours) == repr(theirs)
        assert (ours.bits, ours.min, ours.max) == (theirs.bits, theirs.min, theirs.max)
    for wrong in (lambda: nt.finfo(nt.int8), lambda: nt.iinfo(nt.float32)):
        with pytest.raises(TypeError, match="expected"):
            wrong()


@pytest.mark.torch
@pytest.mark.parametrize(
    "values",
    [[1.5, 2, -3], [0.1, 1e-3, 1000], [float("nan"), 1], [[1, 2], [3, 4.5]], [], 3.14159, [2.5] * 9,
     list(range(2000)), [1e-6]],
    ids=lambda values: str(values)[:20],
)  # fmt: skip
def test_it_is_printed_as_pytorch_prints_it(values: Any, half: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(values, dtype=getattr(torch, half))
    assert repr(nt.tensor(values, dtype=getattr(nt, half))) == repr(theirs)


# --- conversions and promotion --------------------------------------------------------------------

SOURCES = ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"]


@pytest.mark.torch
@pytest.mark.parametrize("source", SOURCES)
def test_conversions_round_as_pytorch(source: str, half: str) -> None:
    torch = pytest.importorskip("torch")
    rng = numpy.random.default_rng(0)
    tricky = (1 + numpy.arange(4096) / 4096) * (1 + 2.0**-30)  # rounded twice, it matters
    special = [0.0, -0.0, numpy.inf, -numpy.inf, 65504, 65519, 65520, 3.3e38, 1e-8, 1e-40]
    values = numpy.concatenate([rng.standard_normal(5000), tricky, special])
    with numpy.errstate(all="ignore"):
        if source.startswith("float"):
            array = values.astype(source)
        else:
            high = 2**40 if source == "int64" else 100
            array = rng.integers(0, high, 5000).astype(source)
    ours, theirs = nt.tensor(array), torch.tensor(array)
    narrow = ours.to(getattr(nt, half))
    expected = theirs.to(getattr(torch, half))
    numpy.testing.assert_array_equal(doubles(narrow), doubles(expected))
    finite = expected.isfinite()
    back, wanted = narrow.to(getattr(nt, source)), expected.to(getattr(torch, source))
    numpy.testing.assert_array_equal(back.numpy()[finite.numpy()], wanted[finite].numpy())


@pytest.mark.parametrize("largest", [65519.0, 3e38, numpy.nan])
@pytest.mark.parametrize("shown", [slice(None), slice(None, None, 3)])
def test_many_are_converted_by_their_bits_as_numpy_does_it(largest: float, shown: slice) -> None:
    bits = numpy.arange(0, 2**32, 9973, dtype="u8").astype("u4")
    x = bits.view("f")[shown]
    half = numpy.arange(2**16, dtype="u2").view("e")
    with numpy.errstate(all="ignore"):
        ties = half.astype("f") * numpy.float32(1 + 2**-11)  # between neighbours, or beside that
        x = numpy.concatenate([x, ties, numpy.nextafter(ties, numpy.float32(0))])
    if largest == largest:
        x = x[numpy.abs(x) <= largest]
        half = half[numpy.abs(half.astype("f")) <= largest]
    with numpy.errstate(all="ignore"):
        narrow, wide = x.astype("e"), half[shown].astype("f")
    made = nt.tensor(x).to(nt.float16), nt.tensor(half[shown]).float()
    written = nt.zeros(len(x), dtype=nt.float16).copy_(nt.tensor(x))
    for y, expected in zip([*made, written], [narrow, wide, narrow], strict=True):
        numpy.testing.assert_array_equal(y.numpy().view("u1"), expected.view("u1"))


NAMES = [
    *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16"),
    *("float32", "float64", "complex64", "complex128"),
]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_promotion_is_that_of_pytorch(bfloat16: Any) -> None:
    torch = pytest.importorskip("torch")
    for first, second in itertools.product(NAMES, NAMES):
        ours = nt.promote_types(getattr(nt, first), getattr(nt, second))
        theirs = torch.promote_types(getattr(torch, first), getattr(torch, second))
        assert str(ours) == str(theirs), (first, second)
        for one, other in itertools.product(((2,), ()), repeat=2):
            kinds = [
                (
                    t.ones(one, dtype=getattr(t, first)) * t.ones(other, dtype=getattr(t, second))
                ).dtype
                for t in (nt, torch)
            ]
            if str(kinds[1]) != "torch.complex32":  # which NumPy has not
                assert str(kinds[0]) == str(kinds[1]), (first, second, one, other)
    assert nt.promote_types(nt.float16, nt.bfloat16) is nt.float32


@pytest.mark.parametrize("shape", [(3,), ()], ids=str)
def test_python_numbers_and_0_dim_tensors_do_not_widen(
    half: str, shape: tuple[int, ...], cuda: str
) -> None:
    kind = getattr(nt, half)
    for device in ("cpu", "cuda"):
        x = nt.ones(shape, dtype=kind, device=device)
        results = [
            x + 1.0, 1.0 - x, x * 2, x / 3, 2.5 / x, x**0.5, 2.0**x, x // 2.0, x % 0.7, -x,
            nt.where(x > 0, x, 0.0), nt.where(x > 0, 0.5, x), x.clamp(0.2, 0.7), x.mean(), x.sum(),
            nt.maximum(x, nt.tensor(2.0, device=device).to(kind)), x.masked_fill(x > 0, 0.5),
            x.sqrt(), x.exp(), nt.lerp(x, x, 0.3), x.add(1.5, alpha=2), x.var(), x.std(),
            nt.nn.functional.leaky_relu(x, 0.1), nt.nn.functional.softplus(x), x.fill_(0.3),
            x.add_(0.1), x.mul_(1.5),
        ]  # fmt: skip
        if shape:
            results += [x * nt.tensor(2.0, device=device), x + nt.tensor(2.0, dtype=nt.float64)]
        assert {y.dtype for y in results} == {kind}
        assert (x > 0.5).dtype is nt.bool


@pytest.mark.torch
def test_python_numbers_are_not_rounded_before_they_are_computed_with(half: str, cuda: str) -> None:
    torch = pytest.importorskip("torch")
    values = [1.0, 3.0, 257.0, -0.7]
    expected = torch.tensor(values, dtype=getattr(torch, half))
    for device in ("cpu", "cuda"):
        x = nt.tensor(values, dtype=getattr(nt, half), device=device)
        assert (x * 0.1).tolist() == (expected * 0.1).tolist()
        assert (x + 0.3001).tolist() == (expected + 0.3001).tolist()
        assert (1.7 / x).tolist() == (1.7 / expected).tolist()


@pytest.mark.torch
@pytest.mark.parametrize(
    "expression",
    ["t.tensor([1.5, 2])", "t.tensor(3) * 1.5", "t.tensor([1, 2]) / 2", "t.linspace(0, 1, 5)",
     "t.arange(0, 1, 0.25)", "t.eye(2)", "t.full((2,), 1.5)", "t.exp(t.arange(3))", "t.rand(20)",
     "t.nn.Linear(3, 2).weight", "t.arange(3) ** 0.5", "t.tensor(1.1)"],
)  # fmt: skip
def test_it_may_be_the_default_dtype(expression: str, default_half: str) -> None:
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(getattr(torch, default_half))
    try:
        texts = []
        for t in (nt, torch):
            t.manual_seed(0)
            texts.append(repr(eval(expression)))
        assert texts[0] == texts[1]
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.torch
@pytest.mark.parametrize(
    "draw",
    ["t.rand(20, dtype=d)", "t.randn(20, dtype=d)", "t.randn(5, dtype=d)",
     "t.randint(0, 50, (9,), dtype=d)", "t.empty(9, dtype=d).random_()",
     "t.empty(20, dtype=d).normal_(1, 2)", "t.empty(9, dtype=d).uniform_(-2, 3)",
     "t.bernoulli(t.full((20,), 0.3, dtype=d))", "t.empty(9, dtype=d).exponential_()",
     "t.nn.functional.dropout(t.ones(20, dtype=d), 0.3)"],
)  # fmt: skip
def test_random_numbers_are_those_of_pytorch(draw: str, half: str) -> None:
    torch = pytest.importorskip("torch")
    drawn = []
    for t in (nt, torch):
        t.manual_seed(0)
        drawn.append(eval(draw, {"t": t, "d": getattr(t, half)}).tolist())
    assert drawn[0] == drawn[1]


# --- every op -------------------------------------------------------------------------------------


# The first row of each op: its other shapes are tried on the CPU.
ONE_EACH = first_rows(ON_CUDA)

# What PyTorch says where it has no kernel for halves on the CPU.
NOT_IN_PYTORCH = (
    "not implemented",
    "Low precision dtypes",
    "must be either float or double",
    "types other than float and double",
    "of float, double, cfloat",
    "linalg.vander supports",
)


def inputs(case: Case, library: Any, half: str, dtype: str, **place: Any) -> list[Any]:
    """The case's inputs, rounded to half precision, in `dtype`."""
    made = []
    for array, spec in zip(case.arrays(), case.inputs, strict=True):
        x = library.tensor(array, **place)
        if array.dtype.kind == "f":
            x = x.to(getattr(library, half)).to(getattr(library, dtype))
        made.append(x.requires_grad_() if spec.differentiable else x)
    return made


def values_and_gradients(case: Case, library: Any, leaves: list[Any]) -> list[Any]:
    """The outputs, and the gradients of their sum (None where there is none)."""
    outputs = flat(case.function(library, *leaves))
    floating = [y for y in outputs if y.requires_grad and y.dtype.is_floating_point]
    wanted = [x for x in leaves if x.requires_grad]
    gradients: Any = []
    if floating and wanted:
        cotangents = [library.ones_like(y) for y in floating]
        gradients = library.autograd.grad(floating, wanted, cotangents, allow_unused=True)
    return [*outputs, *gradients]


def distance(values: Any, exact: Any, half: str, least: float = 0.0) -> float:
    """The largest error, in roundings of the largest value (or of `least`, if that is larger)."""
    scale = max(numpy.abs(exact).max(), least) * EPSILON[half]
    return float(numpy.abs(values - exact).max() / scale) if scale else 0.0


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_op_has_the_dtype_of_pytorch_and_is_as_close_to_the_exact_result(
    case: Case, half: str
) -> None:
    torch = pytest.importorskip("torch")
    ours = values_and_gradients(case, nt, inputs(case, nt, half, half))
    try:
        theirs = values_and_gradients(case, torch, inputs(case, torch, half, half))
    except RuntimeError as error:
        assert any(words in str(error) for words in NOT_IN_PYTORCH), error
        return  # ours ran
    exact = values_and_gradients(case, torch, inputs(case, torch, half, "float64"))
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        if mine is None or other is None:  # a gradient of zeros, for one of the two
            assert not any(doubles(g).any() for g in (mine, other) if g is not None)
            continue
        assert (str(mine.dtype), tuple(mine.shape)) == (str(other.dtype), tuple(other.shape))
        if not mine.dtype.is_floating_point:
            numpy.testing.assert_array_equal(mine.numpy(), other.numpy())
        elif mine.numel():
            error, allowed = (distance(doubles(y), doubles(true), half) for y in (mine, other))
            assert error <= max(1.5, 2 * allowed)


@pytest.mark.parametrize("case", ONE_EACH, ids=lambda case: case.name)
def test_every_op_on_cuda_has_the_dtypes_of_the_cpu_and_its_values(
    case: Case, half: str, cuda: str
) -> None:
    expected = values_and_gradients(case, nt, inputs(case, nt, half, half))
    leaves = inputs(case, nt, half, half, device="cuda")
    with nt.device("cuda"):
        strict_cupy.counts.reset()
        found = values_and_gradients(case, Uncounted(), leaves)
    if cuda == "look-alike":
        counts = strict_cupy.counts
        crossed = (counts.h2d, counts.d2h, counts.synchronizations) != (0, 0, 0)
        assert crossed == (title(case) in WAITING)
    for mine, other in zip(found, expected, strict=True):
        if mine is None or other is None:
            assert mine is other
            continue
        assert (mine.dtype, mine.shape, mine.device.type) == (other.dtype, other.shape, "cuda")
        if mine.numel() and mine.dtype.is_floating_point:
            # Rules compute step by step on a GPU, at once in float32 on the CPU; sums of
            # cotangents may cancel.
            assert distance(doubles(mine.cpu()), doubles(other), half, least=1.0) <= 3.0


# --- sums -----------------------------------------------------------------------------------------


def test_sums_and_products_accumulate_in_float32(half: str, cuda: str) -> None:
    # A running sum of ones stops at 2048 in float16, at 256 in bfloat16.
    for device in ("cpu", "cuda"):
        x = nt.ones(4096, dtype=getattr(nt, half), device=device)
        large = nt.full((64,), 30000.0, dtype=getattr(nt, half), device=device)
        assert [x.sum().item(), x.mean().item(), (x @ x).item()] == [4096.0, 1.0, 4096.0]
        assert x.reshape(64, 64).sum(0).tolist() == [64.0] * 64
        assert large.mean().item() == large[0].item()  # of which the sum is beyond float16
        assert nt.softmax(x, 0).sum().item() == 1.0
        weight = nt.ones(1, dtype=x.dtype, device=device, requires_grad=True)
        (x * weight).sum().backward()  # undoes the broadcast
        assert weight.grad.item() == 4096.0


def test_a_step_in_half_precision_is_not_compiled_on_the_cpu(half: str) -> None:
    x = nt.ones(3, dtype=getattr(nt, half))
    double = nt.compile(lambda v: v * 2 + 1, pure=True)
    with pytest.warns(UserWarning, match="computed in half precision, which is not compiled"):
        y = double(x)
    assert y.tolist() == [3.0] * 3


# --- models, data and files -----------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_bfloat16_model_trains_as_in_pytorch(optimizer: str, bfloat16: Any) -> None:
    torch = pytest.importorskip("torch")
    losses = []
    for t in (nt, torch):
        t.manual_seed(0)
        model = t.nn.Sequential(t.nn.Linear(8, 16), t.nn.ReLU(), t.nn.Linear(16, 3)).bfloat16()
        steps = getattr(t.optim, optimizer)(model.parameters(), lr=0.05)
        x, y = t.randn(32, 8).to(t.bfloat16), t.randint(0, 3, (32,))
        own = []
        for _ in range(10):
            steps.zero_grad()
            loss = t.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            steps.step()
            own.append(loss.item())
        assert {str(p.dtype) for p in model.parameters()} == {"torch.bfloat16"}
        losses.append(own)
    numpy.testing.assert_allclose(losses[0], losses[1], rtol=2e-2)
    assert losses[0][-1] < losses[0][0]


def test_batches_keep_the_dtype(half: str) -> None:
    data = nt.utils.data.TensorDataset(nt.ones(4, 2, dtype=getattr(nt, half)), nt.arange(4))
    for x, _ in nt.utils.data.DataLoader(data, batch_size=2):
        assert (x.dtype, x.shape) == (getattr(nt, half), (2, 2))


def test_safetensors_hold_bfloat16(bfloat16: Any, tmp_path: Path) -> None:
    x = nt.tensor([[1.5, -2.0, 3.25]], dtype=bfloat16)
    file = tmp_path / "x.safetensors"
    file.write_bytes(array_bytes({"x": x._array, "transposed": x._array.T}))
    assert b'"dtype":"BF16"' in file.read_bytes()
    # In a fresh process, in which nothing has needed bfloat16 yet.
    code = (
        "import sys; from pathlib import Path; import nanotorch as nt;"
        "from nanotorch.training.model_file import read_arrays;"
        "arrays, _ = read_arrays(Path(sys.argv[1]));"
        "assert nt.tensor(arrays['x']).tolist() == [[1.5, -2.0, 3.25]];"
        "assert nt.tensor(arrays['transposed']).dtype is nt.bfloat16"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(file)], check=True, cwd=Path(__file__).parent.parent
    )


def test_a_bfloat16_file_without_ml_dtypes_is_one_line(
    bfloat16: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(array_bytes({"x": nt.ones(2, dtype=bfloat16)._array}))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    dtypes.load_bfloat16.cache_clear()
    try:
        with pytest.raises(InputError, match=r'x\.safetensors: .*"nanotorch\[bfloat16\]"'):
            read_arrays(file)
    finally:
        dtypes.load_bfloat16.cache_clear()
