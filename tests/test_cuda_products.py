"""Matrix products of CUDA arrays through cuBLAS: flags, leading dimensions, strides and dtypes.

On the look-alike the library is imitated (`strict_cupy/cublas.py`) on the same memory, so that what
cuBLAS would read and write is proved; on a device the same tests run the real one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy
import pytest
import strict_cupy
from strict_cupy import cublas as imitated

import nanotorch as nt
from nanotorch import backend
from nanotorch.backend.cuda import cublas
from nanotorch.ops import contraction

LIMITS = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
DTYPES = list(LIMITS)


def dtype_named(name: str) -> numpy.dtype[Any]:
    if name == "bfloat16":
        return numpy.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return numpy.dtype(name)


class View(NamedTuple):
    """How a matrix lies in a larger memory: makes that memory's shape, and takes the matrix out."""

    name: str
    memory: Callable[[int, int], tuple[int, ...]]
    take: Callable[[Any], Any]
    copies: bool = False  # cuBLAS cannot read it as it lies


VIEWS = [
    View("rows", lambda r, c: (r, c), lambda x: x),
    View("columns", lambda r, c: (c, r), lambda x: x.T),
    View("rows apart", lambda r, c: (r, c + 3), lambda x: x[:, 2:-1]),
    View("columns apart", lambda r, c: (c, r + 5), lambda x: x[:, 4:-1].T),
    View("every second row", lambda r, c: (2 * r, c), lambda x: x[::2]),
    View("every second column", lambda r, c: (r, 2 * c), lambda x: x[:, ::2], True),
    View("rows backward", lambda r, c: (r, c), lambda x: x[::-1], True),
    View("a slice of three", lambda r, c: (r, 2, c), lambda x: x[:, 1]),
]
BY_NAME = {view.name: view for view in VIEWS}
SIZES = [(3, 5, 4), (1, 5, 4), (3, 1, 4), (3, 5, 1), (1, 7, 1), (2, 1, 1), (1, 1, 1), (17, 33, 9)]


class Made(NamedTuple):
    """A view on the device, the numbers that it shows, and the memory around it."""

    array: Any
    values: Any
    memory: Any


def made(
    xp: Any, view: View, rows: int, columns: int, dtype: Any, seed: int, batch: Any = ()
) -> Made:
    """A view with random numbers in it, and NaN around it."""
    host = numpy.full((*batch, *view.memory(rows, columns)), numpy.nan).astype(dtype)
    memory = xp.asarray(host)
    array = memory.swapaxes(-1, -2) if batch and view.name == "columns" else memory
    array = array if batch else view.take(memory)
    values = numpy.random.default_rng(seed).standard_normal((*batch, rows, columns)).astype(dtype)
    xp.copyto(array, xp.asarray(values))
    return Made(array, values.astype(float), memory)


def back(array: Any) -> Any:
    return backend.to_device(array, backend.CPU).astype(float)


def launches() -> int:
    return strict_cupy.counts.launches


def close(found: Any, expected: Any, dtype: str, terms: int) -> None:
    scale = max(1.0, float(terms)) ** 0.5
    numpy.testing.assert_allclose(
        back(found), expected, rtol=LIMITS[dtype], atol=2 * LIMITS[dtype] * scale
    )


@pytest.fixture
def xp(cuda: str) -> Any:
    return backend.cuda_module()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_view_is_read_as_it_lies(sizes: tuple[int, int, int], dtype: str, xp: Any) -> None:
    m, k, n = sizes
    kind = dtype_named(dtype)
    for first, second in itertools.product(VIEWS, VIEWS):
        a, b = made(xp, first, m, k, kind, 1), made(xp, second, k, n, kind, 2)
        before = launches()
        with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
            y = cublas.matmul(xp, a.array, b.array)
        if min(sizes) > 1 and xp is strict_cupy:
            # The product, and a copy of each operand that must be moved.
            assert launches() - before == 1 + first.copies + second.copies, (first, second)
        assert (y.shape, y.dtype) == ((m, n), kind)
        close(y, a.values @ b.values, dtype, k)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_out_may_be_any_view_and_nothing_around_it_is_written(
    sizes: tuple[int, int, int], dtype: str, accumulate: bool, xp: Any
) -> None:
    m, k, n = sizes
    kind = dtype_named(dtype)
    for view, other in itertools.product(VIEWS, (BY_NAME["rows"], BY_NAME["columns apart"])):
        a, b = made(xp, other, m, k, kind, 1), made(xp, VIEWS[1], k, n, kind, 2)
        y = made(xp, view, m, n, kind, 3)
        around = numpy.isnan(back(y.memory)).sum()
        before = launches()
        assert cublas.matmul(xp, a.array, b.array, out=y.array, accumulate=accumulate) is y.array
        if min(sizes) > 1 and xp is strict_cupy:
            # What cannot be written in place is made elsewhere and copied (or added) from there.
            assert launches() - before == (2 if view.copies else 1), view
        close(y.array, a.values @ b.values + (y.values if accumulate else 0), dtype, k)
        assert numpy.isnan(back(y.memory)).sum() == around


def test_what_out_held_does_not_matter_unless_it_is_added_to(xp: Any) -> None:
    a, b = xp.ones((2, 3), "f"), xp.ones((3, 4), "f")
    y = xp.full((2, 4), numpy.nan, "f")
    close(cublas.matmul(xp, a, b, out=y), numpy.full((2, 4), 3.0), "float32", 3)
    y.fill(numpy.nan)
    assert numpy.isnan(back(cublas.matmul(xp, a, b, out=y, accumulate=True))).all()


BATCHES = [
    # batch of a, batch of b, launches: the product, and copies
    ((4,), (4,), 1),
    ((4,), (1,), 1),
    ((1,), (4,), 1),
    ((4,), (), 1),
    ((), (4,), 1),
    ((2, 3), (2, 3), 1),
    ((2, 3), (), 1),
    ((2, 3), (1, 1), 1),
    ((2, 1), (2, 3), 2),  # the steps of one operand are (s, 0): it is spread out first
    ((3,), (2, 3), 2),
    ((2, 1), (1, 3), 3),
    ((1,), (1,), 1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("of_a", "of_b", "count"), BATCHES, ids=str)
def test_batches_are_one_launch_and_broadcast_by_a_stride_of_0(
    of_a: Any, of_b: Any, count: int, dtype: str, xp: Any
) -> None:
    kind = dtype_named(dtype)
    for (m, k, n), first, second in itertools.product(
        [(3, 5, 4), (1, 5, 4), (3, 1, 4), (3, 5, 1)], VIEWS[:2], VIEWS[:2]
    ):
        a = made(xp, first, m, k, kind, 1, of_a)
        b = made(xp, second, k, n, kind, 2, of_b)
        expected = a.values @ b.values
        before = launches()
        y = cublas.matmul(xp, a.array, b.array)
        if min(m, k, n) > 1 and xp is strict_cupy:
            assert launches() - before == count
        close(y, expected, dtype, k)
        out = made(xp, VIEWS[1], m, n, kind, 3, y.shape[:-2])
        cublas.matmul(xp, a.array, b.array, out=out.array, accumulate=True)
        close(out.array, expected + out.values, dtype, k)


def test_rows_of_a_batch_times_one_matrix_are_one_product(xp: Any) -> None:
    a, b = xp.ones((4, 6, 5), "f"), xp.ones((5, 3), "f")
    y = cublas.matmul(xp, a, b)
    close(y, numpy.full((4, 6, 3), 5.0), "float32", 5)
    if xp is strict_cupy:
        name, numbers = cublas.library(xp).calls[-1]
        assert (name, numbers[3:6]) == ("cublasGemmEx", (3, 24, 5))


def test_heads_taken_out_of_a_sequence_are_multiplied(xp: Any) -> None:
    host = numpy.random.default_rng(0).standard_normal((2, 7, 3, 4)).astype("f")
    heads = xp.asarray(host).transpose(0, 2, 1, 3)
    expected = host.transpose(0, 2, 1, 3) @ host.transpose(0, 2, 3, 1)
    close(cublas.matmul(xp, heads, heads.swapaxes(-1, -2)), expected, "float32", 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [((5,), (5,)), ((3, 5), (5,)), ((5,), (5, 4)), ((2, 3, 5), (5,)), ((5,), (2, 5, 4)),
     ((2, 6, 3, 5), (5,)), ((1,), (1,))],
)  # fmt: skip
def test_vectors_are_rows_and_columns(of_a: Any, of_b: Any, dtype: str, xp: Any) -> None:
    kind = dtype_named(dtype)
    rng = numpy.random.default_rng(0)
    for every in (1, 2):
        a, b = (
            rng.standard_normal((*s[:-1], s[-1] * (every if len(s) == 1 else 1))).astype(kind)
            for s in (of_a, of_b)
        )
        arrays = [xp.asarray(x)[::every] if x.ndim == 1 else xp.asarray(x) for x in (a, b)]
        a, b = (x[::every] if x.ndim == 1 else x for x in (a, b))
        expected = a.astype(float) @ b.astype(float)
        before = launches()
        y = cublas.matmul(xp, *arrays)
        if xp is strict_cupy:
            assert launches() - before == 1
        assert y.shape == expected.shape
        close(y, expected, dtype, 5)
        out = xp.zeros((*expected.shape, 2), kind)[..., 0]
        close(cublas.matmul(xp, *arrays, out=out), expected, dtype, 5)


@pytest.mark.parametrize("of_a", [(0, 5), (3, 0), (0, 0), (2, 3, 0), (0, 3, 5)])
def test_nothing_to_add_up_gives_zeros_and_no_rows_none(of_a: tuple[int, ...], xp: Any) -> None:
    a, b = xp.ones(of_a, "f"), xp.ones((of_a[-1], 4), "f")
    y = cublas.matmul(xp, a, b)
    assert y.shape == (*of_a[:-1], 4)
    assert not back(y).any()
    if y.size:
        held = xp.ones(y.shape, "f")
        assert back(cublas.matmul(xp, a, b, out=held, accumulate=True)).all()
    assert cublas.matmul(xp, xp.ones((0,), "f"), xp.ones((0,), "f")).shape == ()


def test_an_operand_may_be_overwritten_by_the_product(xp: Any) -> None:
    host = numpy.arange(16.0).reshape(4, 4)
    a = xp.asarray(host)
    close(cublas.matmul(xp, a, a.T, out=a), host @ host.T, "float64", 4)


def test_products_of_other_kinds_are_left_to_cupy(xp: Any) -> None:
    f, i = xp.ones((2, 2), "f"), xp.ones((2, 2), "i")
    for a, b in [(i, i), (f, i), (f, xp.ones((2, 2))), (f, xp.ones((3, 2), "f")),
                 (xp.ones((2, 2, 2), "f"), xp.ones((3, 2, 2), "f")), (f, xp.ones((), "f")),
                 (xp.ones((2, 2), "F"), xp.ones((2, 2), "F"))]:  # fmt: skip
        assert cublas.matmul(xp, a, b) is NotImplemented
    assert cublas.matmul(xp, f, f, out=xp.ones((2, 3), "f")) is NotImplemented


def test_out_of_another_dtype_is_cast_to(xp: Any) -> None:
    a = xp.full((2, 2), 1.5, "f")
    for kind in ("d", "e"):
        out = xp.zeros((2, 2), kind)
        close(cublas.matmul(xp, a, a, out=out), numpy.full((2, 2), 4.5), "float16", 2)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_summed_in_float32(dtype: str, xp: Any) -> None:
    # In float16 a running sum of ones stops at 2048, in bfloat16 at 256.
    a = xp.ones((1, 8192), dtype_named(dtype))
    assert back(cublas.matmul(xp, a, a.T)).item() == 8192


def test_tf32_is_used_only_where_it_is_allowed(xp: Any) -> None:
    a = xp.full((64, 64), 1 + 2**-12, "f")
    assert back(cublas.matmul(xp, a, xp.ones((64, 64), "f")))[0, 0] == 64 + 2**-6
    for precision in ("high", "medium"):
        cublas.set_float32_matmul_precision(precision)
        try:
            rough = back(cublas.matmul(xp, a, xp.ones((64, 64), "f")))[0, 0]
            exact = back(cublas.matmul(xp, a.astype("d"), xp.ones((64, 64))))[0, 0]
        finally:
            cublas.set_float32_matmul_precision("highest")
        assert exact == 64 + 2**-6
        if xp is strict_cupy:
            assert rough == 64


def test_tf32_is_allowed_under_the_names_of_pytorch() -> None:
    assert (nt.get_float32_matmul_precision(), nt.backends.cuda.matmul.allow_tf32) == (
        "highest",
        False,
    )
    try:
        for precision in ("medium", "high"):
            nt.set_float32_matmul_precision(precision)
            assert nt.backends.cuda.matmul.allow_tf32
        nt.backends.cuda.matmul.allow_tf32 = False
        assert nt.get_float32_matmul_precision() == "highest"
        nt.backends.cuda.matmul.allow_tf32 = True
        assert nt.get_float32_matmul_precision() == "high"
    finally:
        nt.set_float32_matmul_precision("highest")
    with pytest.raises(AttributeError):
        nt.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 'highest', 'high' or 'medium', got 'low'"):
        cublas.set_float32_matmul_precision("low")


# --- handles, and what may go wrong ---------------------------------------------------------------


def test_each_stream_has_a_handle_and_a_workspace(xp: Any) -> None:
    a = xp.ones((2, 2), "f")
    streams = [xp.cuda.Stream(non_blocking=True) for _ in range(2)]
    for _ in range(2):
        for stream in streams:
            with stream:
                close(cublas.matmul(xp, a, a), numpy.full((2, 2), 2.0), "float32", 2)
    held = {key[2]: handle for key, handle in cublas._handles.items() if key[0] is xp}
    assert {stream.ptr for stream in streams} <= set(held)
    for field in ("pointer", "workspace"):
        places = {getattr(getattr(h, field), "value", getattr(h, field)) for h in held.values()}
        assert len(places) == len(held)
    if xp is strict_cupy:
        library = cublas.library(xp)
        modes = {handle.mode for handle in library.handles.values()}
        assert modes == {16}  # partial sums of halves stay in float32
        sizes = {handle.workspace[1] for handle in library.handles.values()}
        assert sizes == {32 << 20}


@pytest.mark.parametrize(
    ("count", "name"), [(1, "cublasGemmEx_64"), (2, "cublasGemmStridedBatchedEx_64")]
)
def test_sizes_beyond_31_bits_take_the_functions_of_64(
    count: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    library = SimpleNamespace(**{name: lambda *arguments: called.append(arguments)})
    monkeypatch.setattr(cublas, "_handle", lambda xp, library: None)
    matrices = cublas._Matrices(4096, 0, 2**31, 2**40)
    sizes = (4, 3, 2**31)
    cublas._multiply(
        strict_cupy, library, "f", sizes, matrices, matrices, matrices, count, 4, False
    )
    assert called[0][3:6] == (3, 4, 2**31)


def test_a_failure_is_told_in_one_line(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library = cublas.declared(imitated.Library())

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(library, name)

        @staticmethod
        def cublasGemmEx(*arguments: Any) -> int:
            return 13

    monkeypatch.setitem(cublas.libraries, xp, Failing())
    a = xp.ones((2, 3), "f")
    with pytest.raises(RuntimeError) as error:
        cublas.matmul(xp, a, a.T)
    assert str(error.value).startswith(
        "matmul: cublasGemmEx of 2 x 3 and 3 x 2, 1 times: CUBLAS_STATUS_EXECUTION_FAILED: "
    )
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="cuBLAS returned status 99"):
        cublas.check(99, "matmul")


def test_without_the_library_cupy_multiplies_and_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> Any:
        raise ImportError('Failure finding "libcublasLt.so.13"')

    monkeypatch.setattr(cublas, "libraries", {})
    monkeypatch.setattr(cublas, "_reasons", {})
    monkeypatch.setattr(cublas, "_loaded_by_cupy", missing)
    a = strict_cupy.ones((2, 2), "f")
    assert cublas.matmul(strict_cupy, a, a) is NotImplemented
    assert cublas.unavailable_reason(strict_cupy) == ('cuBLAS: Failure finding "libcublasLt.so.13"')


# --- the contract with the real library -----------------------------------------------------------


@pytest.mark.parametrize("name", cublas.SIGNATURES)
def test_the_imitation_declares_what_is_called(name: str) -> None:
    assert cublas.SIGNATURES[name] == imitated.c_types(name)


def nvidia_files(pattern: str) -> list[Path]:
    """Files of NVIDIA's cuBLAS wheel, where it is installed."""
    found = importlib.util.find_spec("nvidia")
    roots = list(found.submodule_search_locations or ()) if found else []
    return [path for root in roots for path in Path(root).glob(pattern)]


def test_the_functions_exist_in_the_real_library() -> None:
    found = nvidia_files("*/lib/libcublas.so.*")
    if not found:
        pytest.skip("NVIDIA's cuBLAS wheel is not installed")
    ctypes.CDLL(str(next(found[0].parent.glob("libcublasLt.so.*"))), ctypes.RTLD_GLOBAL)
    real = cublas.declared(ctypes.CDLL(str(found[0])))
    pointer = ctypes.c_void_p()
    if backend.cuda_unavailable_reason() is None:
        pytest.skip("there is a device, on which the other tests call them")
    with pytest.raises(RuntimeError, match="cublasCreate: CUBLAS_STATUS_NOT_INITIALIZED"):
        cublas.check(real.cublasCreate_v2(ctypes.byref(pointer)), "cublasCreate")


C_NAMES = {
    "int": ctypes.c_int, "int64_t": ctypes.c_longlong, "long long int": ctypes.c_longlong,
    "size_t": ctypes.c_size_t, "cublasHandle_t": ctypes.c_void_p, "cudaStream_t": ctypes.c_void_p,
    "cublasOperation_t": ctypes.c_int, "cublasComputeType_t": ctypes.c_int,
    "cublasGemmAlgo_t": ctypes.c_int, "cudaDataType": ctypes.c_int, "cublasMath_t": ctypes.c_int,
}  # fmt: skip


@pytest.mark.parametrize("name", cublas.SIGNATURES)
def test_the_parameters_are_those_of_the_header(name: str) -> None:
    found = nvidia_files("*/include/cublas_api.h")
    if not found:
        pytest.skip("NVIDIA's cuBLAS wheel is not installed")
    text = found[0].read_text(encoding="utf-8")
    declared = re.search(rf"cublasStatus_t CUBLASWINAPI {name}\(([^)]*)\)", text)
    assert declared is not None
    kinds = []
    for parameter in declared[1].split(","):
        kind = re.sub(r"\bconst\b|\s*\w+\s*$", "", " ".join(parameter.split())).strip()
        kinds.append(ctypes.c_void_p if "*" in parameter else C_NAMES[kind])
    assert kinds == cublas.SIGNATURES[name]


# --- the ops that multiply ------------------------------------------------------------------------

EQUATIONS = [
    # equation, shapes, launches: products, and copies of operands whose letters change places
    ("ij,jk->ik", [(3, 4), (4, 5)], 1),
    ("bij,bkj->bik", [(2, 3, 4), (2, 5, 4)], 1),
    ("bthd,bshd->bhts", [(2, 3, 4, 5), (2, 6, 4, 5)], 3),
    ("i,j->ij", [(3,), (4,)], 1),
    ("ij,ij->ij", [(3, 4), (3, 4)], 1),
    ("bi,bi->b", [(3, 4), (3, 4)], 2),
    ("i,i->", [(4,), (4,)], 1),
    ("ijk,j->i", [(3, 4, 5), (4,)], 2),
    ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 2)], 2),
    ("ij,jk,kl,lm->im", [(3, 4), (4, 5), (5, 2), (2, 6)], 3),
    ("bn,anm,bm->ba", [(2, 3), (5, 3, 4), (2, 4)], 3),
    ("ij,kl->", [(3, 4), (2, 5)], 3),
    ("ij,j->ji", [(3, 4), (4,)], 1),
    ("ab,cb->ca", [(3, 0), (4, 0)], None),
]


@pytest.mark.parametrize(("equation", "shapes", "count"), EQUATIONS, ids=str)
def test_einsum_is_made_of_products(equation: str, shapes: Any, count: int, xp: Any) -> None:
    rng = numpy.random.default_rng(0)
    operands = [rng.standard_normal(shape) for shape in shapes]
    expected = numpy.einsum(equation, *operands)
    arrays = [xp.asarray(x) for x in operands]
    before = launches()
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        y = contraction.einsum(xp, cublas.matmul, equation, arrays)
    if xp is strict_cupy and count:
        assert launches() - before == count
    assert y.shape == expected.shape
    numpy.testing.assert_allclose(back(y), expected, rtol=1e-12, atol=1e-12)


def test_an_einsum_that_is_no_product_is_left_to_cupy(xp: Any) -> None:
    f, i = xp.ones((2, 2), "f"), xp.ones((2, 2), "i")
    for equation, operands in [
        ("ij->ji", [f]),
        ("ij,jk->ik", [i, i]),
        ("ij,jk->ik", [f, xp.ones((1, 2), "f")]),
        ("ij,jk->ik", [f, xp.ones((2, 2))]),
    ]:
        assert contraction.einsum(xp, cublas.matmul, equation, operands) is NotImplemented


def products(nt: Any, x: Any, w: Any, v: Any, batch: Any) -> list[Any]:
    """What the ops that multiply give, in one dtype."""
    linear = nt.nn.functional.linear
    return [
        x @ w, nt.mm(x, w), nt.addmm(v, x, w), x @ w[:, 0], nt.dot(v, v), nt.mv(x, w[:, 0]),
        nt.bmm(batch, batch.transpose(1, 2)), batch @ w, nt.baddbmm(v, batch, w.expand(2, 4, 5)),
        linear(x, w.T, v), linear(batch, w.T, v), linear(x[0], w.T, v), linear(x, w.T),
        nt.einsum("bij,jk->bik", batch, w), nt.tensordot(batch, w, 1), nt.outer(v, v),
        nt.inner(x, x),
    ]  # fmt: skip


def test_no_op_multiplies_by_cupy_which_cannot_be_captured(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[Any]] = []
    for device in ("cpu", "cuda"):
        rng = numpy.random.default_rng(0)
        shapes = [(3, 4), (4, 5), (5,), (2, 3, 4)]
        leaves = [
            nt.tensor(rng.standard_normal(s), device=device, requires_grad=True) for s in shapes
        ]
        if device == "cuda":
            xp = backend.cuda_module()
            for name in ("matmul", "dot", "einsum", "tensordot"):
                monkeypatch.setattr(xp, name, None, raising=False)
            monkeypatch.setattr(xp.ndarray, "__matmul__", None, raising=cuda == "look-alike")
        results = products(nt, *leaves)
        total = sum((y * y).sum() for y in results)
        grads = nt.autograd.grad(total, leaves, create_graph=True)
        again = nt.autograd.grad(sum((g * g).sum() for g in grads), leaves)
        found.append([y.detach().cpu().numpy() for y in (*results, *grads, *again)])
    for expected, got in zip(*found, strict=True):
        numpy.testing.assert_allclose(got, expected, rtol=1e-10)


def test_shapes_that_do_not_fit_are_told_as_on_the_cpu(cuda: str) -> None:
    x, y = nt.ones(2, 3, device="cuda"), nt.ones(4, 5, device="cuda")
    for op in (nt.mm, nt.matmul):
        with pytest.raises(RuntimeError, match=r"mm: a \(2, 3\) and b \(4, 5\)"):
            op(x, y)
    with pytest.raises(RuntimeError, match="linear"):
        nt.nn.functional.linear(x, y)


def test_the_library_is_called_by_the_numbers_of_its_headers() -> None:
    # cudaDataType of library_types.h; cublasComputeType_t and cublasMath_t of cublas_api.h
    data = {"f": "CUDA_R_32F 0", "d": "CUDA_R_64F 1", "e": "CUDA_R_16F 2", "E": "CUDA_R_16BF 14"}
    assert {letter: int(name.split()[1]) for letter, name in data.items()} == cublas._TYPES
    single, double, tensor_float = 68, 70, 77  # CUBLAS_COMPUTE_32F, _64F, _32F_FAST_TF32
    assert {"f": single, "d": double, "e": single, "E": single} == cublas._COMPUTE
    assert tensor_float == cublas._COMPUTE_TF32
    assert cublas._DEFAULT_ALGORITHM == -1  # CUBLAS_GEMM_DEFAULT
    # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
    assert cublas._DISALLOW_REDUCED_PRECISION_REDUCTION == 16
