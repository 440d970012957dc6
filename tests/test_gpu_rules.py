"""Rules of CuPy and of devices that are easily broken, each with the code that keeps to it.

The look-alike knows them from CuPy's source and CUDA's documentation; with `pytest -m gpu` the same
steps run on a device.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import strict_cupy
from strict_cupy.devices import Memory

import nanotorch as nt
from nanotorch import nn
from nanotorch.backend.cuda import graphs
from nanotorch.compile.cuda_graph import CudaPlan


def plan_of(compiled: Any) -> CudaPlan:
    ((replay,),) = compiled._replays.values()
    assert isinstance(replay.plan, CudaPlan)
    return replay.plan


def captured(step: Callable[..., Any], *inputs: Any, calls: int = 4) -> Any:
    """The step, compiled, as one CUDA graph: a warning would say why there is none."""
    compiled = nt.compile(step, pure=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(calls):
            compiled(*inputs)
    assert plan_of(compiled).why_not is None
    return compiled


# --- cuBLAS ---------------------------------------------------------------------------------------

FRESH = """
import importlib.util, sys
if importlib.util.find_spec("cupy") is None:
    sys.exit("CuPy is not installed")
import cupy
from nanotorch.backend.cuda import cublas
print(cublas.unavailable_reason(cupy))
"""


def test_cublas_of_the_wheels_is_found_by_a_process_that_has_loaded_nothing() -> None:
    answer = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    if "CuPy is not installed" in answer.stderr:
        pytest.skip("CuPy is not installed")
    wheels = {dist.metadata["Name"] or "" for dist in importlib.metadata.distributions()}
    if not any(name.startswith("nvidia-cublas") for name in wheels):
        pytest.skip("NVIDIA's cuBLAS wheel is not installed")
    assert (answer.returncode, answer.stdout.strip()) == (0, "None"), answer.stderr


# --- joining --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, 9, 12, 20])
@pytest.mark.parametrize("join", [nt.cat, nt.stack], ids=["cat", "stack"])
@pytest.mark.parametrize("dim", [0, 1])
def test_any_number_of_tensors_is_joined_within_a_graph(
    cuda: str, join: Callable[..., Any], dim: int, count: int
) -> None:
    parts = [nt.randn(2, 3, device="cuda") + i for i in range(count)]
    found = captured(lambda *xs: join(xs, dim), *parts)(*parts)
    numpy.testing.assert_array_equal(
        found.cpu().numpy(), join([x.cpu() for x in parts], dim).numpy()
    )


def test_cat_of_many_writes_pieces_of_several_lengths(cuda: str) -> None:
    parts = [nt.full((i % 3, 2), float(i), device="cuda") for i in range(11)]
    expected = nt.cat([x.cpu() for x in parts]).tolist()
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        joined = nt.cat(parts)
    assert joined.tolist() == expected


@pytest.mark.parametrize("p", [1.0, float("inf")])
def test_the_norm_of_many_gradients_copies_nothing(cuda: str, p: float) -> None:
    tensors = [nt.full((3,), float(i), device="cuda") for i in range(12)]
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        norm = nn.utils.get_total_norm(tensors, p)
    assert norm.item() == (11.0 if p == float("inf") else 3 * sum(range(12)))


def test_the_look_alike_copies_addresses_as_cupy_does(look_alike: Any) -> None:
    parts = [look_alike.ones(3, "f") for _ in range(9)]
    with look_alike.no_transfers():
        look_alike.concatenate(parts[:8])
        with pytest.raises(look_alike.Crossing):
            look_alike.concatenate(parts)


# --- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 2, 10, 257, 700])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("rows", [2, 33, 9000])
def test_the_sum_of_rows_is_that_of_float64(cuda: str, rows: int, columns: int, dtype: str) -> None:
    x = numpy.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)
    tensor = nt.from_numpy(x).to("cuda")
    exact, size = x.astype("d").sum(0), numpy.abs(x.astype("d")).sum(0).max()
    limit = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-14}[dtype]
    for found in (tensor.sum(0), tensor.mean(0) * rows):
        numpy.testing.assert_allclose(found.cpu().double().numpy(), exact, 0, limit * size)
    bits = {tensor.sum(0).cpu().numpy().tobytes() for _ in range(3)}
    assert len(bits) == 1


# Shapes, the order of their axes in memory, and the dimensions that are reduced.
LAYOUTS = {
    "rows": ((3, 700), (0, 1), 1), "few long rows": ((2, 9000), (0, 1), (1,)),
    "many short rows": ((5000, 3), (0, 1), 1), "columns": ((9000, 3), (0, 1), 0),
    "columns of a transposed view": ((3, 9000), (1, 0), 1),
    "rows of a transposed view": ((700, 3), (1, 0), 0), "the middle": ((3, 900, 5), (0, 1, 2), -2),
    "all but channels": ((40, 3, 8, 70), (0, 1, 2, 3), (0, 2, 3)),
    "all but channels, of small images": ((4500, 3, 2, 2), (0, 1, 2, 3), (0, 2, 3)),
    "channels that lie last": ((40, 3, 8, 7), (0, 2, 3, 1), (0, 2, 3)),
    "every other": ((6, 20, 5, 30), (0, 1, 2, 3), (1, 3)), "results turned round":
    ((4, 600, 3), (2, 1, 0), 1), "all": ((90, 101), (1, 0), None), "nothing": ((1, 7), (0, 1), 0),
}  # fmt: skip
OF_LAYOUTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (nt.sum, numpy.sum), "mean": (nt.mean, numpy.mean), "amax": (nt.amax, numpy.max),
    "amin": (nt.amin, numpy.min), "norm": (nt.norm, lambda x, axis: (x * x).sum(axis) ** 0.5),
    "var": (lambda x, dim: nt.var(x, dim, correction=0), numpy.var),
    "std": (lambda x, dim: nt.std(x, dim, correction=0), numpy.std),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OF_LAYOUTS)
def test_reductions_of_any_layout_are_those_of_float64(
    cuda: str, name: str, layout: str, dtype: str
) -> None:
    (shape, order, dim), (function, expected) = LAYOUTS[layout], OF_LAYOUTS[name]
    x = 1 + numpy.random.default_rng(0).standard_normal([shape[d] for d in order])
    x = x.astype(dtype)
    tensor = nt.from_numpy(x).to("cuda").permute(*map(int, numpy.argsort(order)))
    exact = expected(x.astype("d").transpose(numpy.argsort(order)), axis=dim)
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        found, again = function(tensor, dim=dim), function(tensor, dim=dim)
    limit = {"float16": 2e-3, "float32": 3e-6, "float64": 1e-14}[dtype]
    numpy.testing.assert_allclose(found.cpu().double().numpy(), exact, limit, limit)
    assert found.shape == exact.shape and found.is_contiguous()
    assert found.cpu().numpy().tobytes() == again.cpu().numpy().tobytes()


def test_a_dimension_that_is_not_there_is_refused_on_a_gpu_too(cuda: str) -> None:
    x = nt.ones(600, 3, device="cuda")
    for function, _ in OF_LAYOUTS.values():
        with pytest.raises(IndexError):
            function(x, dim=2)


PAIRS = (((70, 33), (65, 33)), ((3, 40, 100), (40, 100)), ((2, 1, 50, 64), (5, 40, 64)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shapes", PAIRS, ids=str)
def test_distances_on_a_gpu_are_those_of_differences(cuda: str, shapes: Any, dtype: str) -> None:
    rng = numpy.random.default_rng(0)
    a, b = ((3 + rng.standard_normal(shape)).astype(dtype) for shape in shapes)
    b[..., 7, :] = a.reshape(-1, a.shape[-1])[0]
    x, z = (nt.from_numpy(array).to("cuda").requires_grad_() for array in (a, b))
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        y = nt.cdist(x, z)
    apart = a.astype("d")[..., None, :] - b.astype("d")[..., None, :, :]
    exact = (apart**2).sum(-1) ** 0.5
    limit = {"float16": 2e-3, "float32": 3e-6, "float64": 1e-13}[dtype]
    numpy.testing.assert_allclose(y.detach().cpu().double().numpy(), exact, limit, limit)
    assert (y.detach().cpu().numpy() == 0).sum() == (exact == 0).sum() > 0
    y.sum().backward()
    slopes = apart / numpy.where(exact == 0, numpy.inf, exact)[..., None]
    for given, slope, axis in ((x, slopes, -2), (z, -slopes, -3)):
        slope = slope.sum(axis)
        extra = tuple(range(slope.ndim - given.ndim))
        slope = slope.sum(extra)
        ones = tuple(d for d in range(given.ndim) if given.shape[d] == 1)
        slope = slope.sum(ones, keepdims=True) if ones else slope
        assert given.grad is not None
        numpy.testing.assert_allclose(
            given.grad.cpu().double().numpy(), slope, 0, 20 * limit * numpy.abs(slope).max()
        )


@pytest.mark.parametrize("outputs", [1, 10])
def test_the_gradient_of_a_bias_is_summed_by_many_blocks(cuda: str, outputs: int) -> None:
    if cuda == "cupy":
        pytest.skip("launches are counted by name on the look-alike")
    from strict_cupy.kernels import launched

    layer = nn.Linear(3, outputs).to("cuda")
    kernels = ("column_sums<float, float>",) if outputs > 1 else ("loss<float>", "quotient<float>")
    before = sum(launched[name] for name in kernels)
    y = layer(nt.ones(20_000, 3, device="cuda"))
    y.backward(nt.ones_like(y))
    assert sum(launched[name] for name in kernels) == before + 2  # partial sums, and their sum
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [20_000.0] * outputs


REDUCTIONS: dict[str, Callable[[nt.Tensor], Any]] = {
    "sum": lambda x: x.sum(2), "mean": lambda x: x.mean((1,)), "amax": lambda x: x.amax(0),
    "argmin": lambda x: x.argmin(2), "any": lambda x: (x > 0).any(1), "prod": lambda x: x.prod(0),
    "logsumexp": lambda x: x.logsumexp(2), "norm": lambda x: x.norm(3, 0),
    "var": lambda x: x.var(2),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_replay_leaves_the_strides_of_its_arrays_alone(cuda: str, name: str) -> None:
    x = nt.randn(4, 3, 5, device="cuda").permute(2, 1, 0)  # its columns lie one after the other
    step = REDUCTIONS[name]
    compiled = captured(step, x)
    expected = step(x)
    found = compiled(x)
    assert found.stride() == expected.stride()
    numpy.testing.assert_array_equal(found.cpu().numpy(), expected.cpu().numpy())


def test_the_look_alike_counts_the_launch_of_a_sum_into_out(look_alike: Any) -> None:
    x, out = look_alike.ones((3, 4), "f"), look_alike.empty(4, "f")
    look_alike.counts.reset()
    x.sum(axis=0, out=out)
    look_alike.add.reduce(x, axis=0, out=out)
    look_alike.sum(x, axis=0, out=out)
    assert look_alike.counts.launches == 3


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_held_by_a_graph(cuda: str, causal: bool) -> None:
    x = nt.randn(2, 3, 70, 8, device="cuda")

    def step(x: nt.Tensor) -> nt.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=causal)

    numpy.testing.assert_array_equal(captured(step, x)(x).cpu().numpy(), step(x).cpu().numpy())


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [nt.float32, nt.float64])
@pytest.mark.parametrize("chance", [0.1, 0.3, 1 / 3])
def test_dropout_scales_in_the_dtype_of_its_input(cuda: str, dtype: Any, chance: float) -> None:
    nt.manual_seed(0)
    dropped = nn.functional.dropout(nt.ones(1000, dtype=dtype, device="cuda"), chance)
    scale = numpy.asarray(1 / (1 - chance), str(dtype).partition(".")[2])
    assert set(dropped.tolist()) == {0.0, float(scale)}


# --- memory ---------------------------------------------------------------------------------------


def odd_step(features: int) -> tuple[Callable[..., Any], Any]:
    nt.manual_seed(0)
    model = nn.Linear(features, 3).to("cuda")
    optimizer = nt.optim.SGD(model.parameters(), lr=0.1)

    def step(x: nt.Tensor) -> nt.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@pytest.mark.parametrize("shape", [(7, 13), (5, 3), (8, 16)], ids=str)
def test_several_steps_at_a_launch_are_aligned_as_single_ones(
    cuda: str, shape: tuple[int, int]
) -> None:
    batches = [nt.randn(*shape, device="cuda") for _ in range(16)]
    results = []
    for several in (False, True):
        step, model = odd_step(shape[1])
        compiled = nt.compile(step, pure=True)
        losses: list[float] = []
        for start in range(0, 16, 4):
            some = batches[start : start + 4]
            losses += (
                compiled.steps(nt.stack(some)).tolist()
                if several
                else [step(x).item() for x in some]
            )
        results.append((losses, [p.detach().cpu().numpy().tobytes() for p in model.parameters()]))
        if several:
            inputs = plan_of(compiled).launches[4].inputs
            assert {a[k].data.ptr % 16 for a in inputs for k in range(4)} == {0}
            assert {a.strides[0] % graphs.ALIGNMENT for a in inputs} == {0}
    assert results[0] == results[1]


def test_a_graph_outlives_a_capture_that_finds_no_memory(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("the device would have to be full")
    step, _ = odd_step(5)
    compiled = nt.compile(step, pure=True)
    x = nt.ones(6, 5, device="cuda")
    for _ in range(3):
        first = compiled(x)
    plan = plan_of(compiled)
    assert set(plan.launches) == {None}
    held = plan.pool.total_bytes()
    Memory.failures = 2  # the driver has none, also after the pools' free blocks went back
    allocator = strict_cupy.cuda.using_allocator
    with pytest.raises(MemoryError, match=r"no memory left for .* of a graph"):  # noqa: SIM117
        with allocator(plan.pool.malloc):
            strict_cupy.empty(1 << 20, "f")
    assert plan.pool.total_bytes() == held and plan.pool.given_up == 0
    assert compiled(x).item() < first.item()
    Memory.failures = 1  # then the default pool's blocks help
    with strict_cupy.cuda.using_allocator(plan.pool.malloc):
        strict_cupy.empty(1 << 20, "f")
    assert plan.pool.given_up == 0


def test_the_look_alike_refuses_a_graph_whose_blocks_went_back_to_the_driver(
    look_alike: Any,
) -> None:
    cuda = look_alike.cuda
    pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
    with stream, cuda.using_allocator(pool.malloc):
        x = look_alike.ones(4, "f")
        stream.begin_capture()
        y = x + 1
        y.sum()
        del y
        graph = stream.end_capture()
    graph.launch(stream)
    Memory.failures = 1
    with cuda.using_allocator(pool.malloc):
        look_alike.empty(1 << 20, "f")
    with pytest.raises(AssertionError, match="given back"):
        graph.launch(stream)


BATCHES = [
    ((2, 3, 3), (3, 2)),
    ((3, 3), (2, 3, 2)),
    ((2, 1, 3, 3), (4, 3, 2)),
    ((2, 3, 3), (1, 3, 2)),
]


@pytest.mark.parametrize(
    "solve", [nt.linalg.solve, lambda a, b: nt.linalg.solve_triangular(a, b, upper=True)]
)
@pytest.mark.parametrize("a_shape, b_shape", BATCHES)
def test_systems_of_batches_that_broadcast_are_solved_as_on_the_cpu(
    cuda: str, solve: Callable[..., nt.Tensor], a_shape: tuple[int, ...], b_shape: tuple[int, ...]
) -> None:
    kind = nt.float64
    a, b = (
        nt.randn(*a_shape, dtype=kind) + 3 * nt.eye(3, dtype=kind),
        nt.randn(*b_shape, dtype=kind),
    )
    results = []
    for device in ("cpu", "cuda"):
        inputs = [x.detach().clone().to(device).requires_grad_() for x in (a, b)]
        y = solve(*inputs)
        y.square().sum().backward()
        results.append([t.detach().cpu() for t in (y, *(x.grad for x in inputs))])
    for there, here in zip(results[1], results[0], strict=True):
        nt.testing.assert_close(there, here)
