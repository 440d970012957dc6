"""Fused updates and clipping: the CPU's numbers in few launches, with no copy, wait or memory."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import strict_cupy
from optimizer_table import FEW, named
from strict_cupy.kernels import AS_A_DEVICE, AS_NUMPY, rounding

import nanotorch as nt
from nanotorch import backend, optim
from nanotorch.backend.cuda import kernels, tables
from nanotorch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

FUSED = [(name, options) for name, options in FEW if getattr(optim, name).cuda_kernel]
# One element, whole groups of four, ragged ends, several blocks, a row that is no multiple of 4.
SHAPES = [(1,), (8,), (3, 5), (1025,), (2, 2048), (0, 3), ()]
ACCURACY = {nt.bfloat16: 3e-2, nt.float16: 4e-3, nt.float32: 2e-6, nt.float64: 1e-14}


@pytest.fixture(autouse=True)
def compiled(cuda: str) -> None:
    if not kernels.available(backend.cuda_module()):
        pytest.skip("the look-alike compiles kernels with g++")


def drawn(seed: int, shape: tuple[int, ...]) -> Any:
    return numpy.random.default_rng(seed).standard_normal(shape)


def trained(
    name: str, options: dict[str, Any], dtype: Any, device: str, arithmetic: Any = None
) -> tuple[list[nt.Tensor], Any]:
    """Parameters after four steps with other gradients and rates; numbers are those of `dtype`,
    also where they are computed with in `arithmetic`."""
    kind = arithmetic or dtype
    parameters = [
        nt.tensor(drawn(i, shape), dtype=dtype).to(device, kind).requires_grad_()
        for i, shape in enumerate(SHAPES)
    ]
    optimizer = getattr(optim, name)(parameters, **options)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for step in range(4):
        for i, p in enumerate(parameters):
            g = nt.tensor(drawn(100 * step + i, SHAPES[i]), dtype=dtype)
            p.grad = None if i == 1 and step == 2 else g.to(device, kind)
        optimizer.step()
        schedule.step()
    return parameters, optimizer


@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_updates_and_states_are_the_cpus(
    cuda: str, name: str, options: dict[str, Any], dtype: Any
) -> None:
    if dtype is nt.bfloat16:
        pytest.importorskip("ml_dtypes")
    ours, optimizer = trained(name, options, dtype, "cuda")
    theirs, reference = trained(name, options, dtype, "cpu", nt.float64)
    for a, b in zip(ours, theirs, strict=True):
        state, expected = optimizer.state[a], reference.state[b]
        assert list(state) == list(expected)
        for x, y in [(a, b), *((state[key], expected[key]) for key in state)]:
            assert x.dtype is (dtype if x.device.type == "cuda" else nt.float32)
            found, wanted = x.detach().cpu().double().numpy(), y.detach().double().numpy()
            bound = ACCURACY[dtype] * max(1.0, float(numpy.abs(wanted).max(initial=0.0)))
            assert numpy.abs(found - wanted).max(initial=0.0) <= bound


@pytest.fixture
def rounds_as_a_device(cuda: str) -> Iterator[None]:
    """Kernels of the look-alike round a product and a sum once, and flush small numbers to 0."""
    if cuda == "cupy":
        pytest.skip("a device does so anyway")
    if "fma" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor cannot multiply and add at once")
    caches = kernels._kernels.clear, kernels._module.cache_clear
    for clear in caches:
        clear()
    rounding.append(AS_A_DEVICE)
    yield
    rounding.pop()
    for clear in caches:
        clear()


@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
@pytest.mark.parametrize("name, options", FUSED, ids=named)
def test_updates_are_as_accurate_where_products_and_sums_are_rounded_once(
    cuda: str, rounds_as_a_device: None, name: str, options: dict[str, Any], dtype: Any
) -> None:
    test_updates_and_states_are_the_cpus(cuda, name, options, dtype)


def test_the_look_alike_rounds_as_it_is_told(cuda: str, rounds_as_a_device: None) -> None:
    code = "__global__ void f(float* y, float a, float b) { y[0] = a * b + y[0]; y[1] *= y[1]; }"
    a = numpy.float32(1 + 2**-20)
    module = strict_cupy.RawModule(code=code, name_expressions=("f",))
    found = []
    for rounded in (AS_A_DEVICE, AS_NUMPY):
        rounding.append(rounded)
        y = strict_cupy.asarray(numpy.array([-1 - 2**-19, 1e-20], "f"))
        module.get_function("f")((1,), (1,), (y, a, a))
        rounding.pop()
        found.append(y.get().tolist())
    assert found == [[2.0**-40, 0.0], [0.0, float(numpy.float32(1e-20) ** 2)]]


@contextlib.contextmanager
def counted(cuda: str) -> Any:
    """Launches on the look-alike; nothing may be copied or waited for, and no memory taken."""
    taken: list[int] = []

    class Hook(strict_cupy.cuda.MemoryHook):  # type: ignore[misc]
        def malloc_postprocess(self, **facts: int) -> None:
            taken.append(facts["size"])

    found: dict[str, int] = {}
    with Hook(), strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        strict_cupy.counts.reset()
        yield found
        found["launches"] = strict_cupy.counts.launches
    found["taken"] = len(taken)


@pytest.mark.parametrize(
    "name, options, launches",
    [("SGD", {"lr": 0.1, "momentum": 0.9}, 1), ("AdamW", {}, 2), ("RMSprop", {}, 1)],
)
def test_a_steady_step_is_one_launch_and_one_for_numbers_that_change(
    cuda: str, name: str, options: dict[str, Any], launches: int
) -> None:
    if cuda == "cupy":
        pytest.skip("launches are counted on the look-alike")
    groups = [
        {"params": [nt.ones(7, device="cuda").requires_grad_() for _ in range(5)]},
        {"params": [nt.ones(3, 4, device="cuda").requires_grad_()], "lr": 0.5},
    ]
    optimizer = getattr(optim, name)(groups, **options)
    for group in groups:
        for p in group["params"]:
            p.grad = nt.ones_like(p)
    for _ in range(2):
        optimizer.step()
    with counted(cuda) as found:
        optimizer.step()
    assert found == {"launches": launches, "taken": 0}


def test_more_parameters_than_a_table_holds_take_one_launch_more(cuda: str) -> None:
    count = tables.MOST + 3
    parameters = [nt.full((2,), float(i), device="cuda").requires_grad_() for i in range(count)]
    for i, p in enumerate(parameters):
        p.grad = nt.full((2,), float(i), device="cuda")
    optimizer = optim.SGD(parameters, lr=0.5)
    optimizer.step()
    assert [p[1].item() for p in parameters] == [i / 2 for i in range(count)]
    if cuda != "cupy":
        with counted(cuda) as found:
            optimizer.step()
        assert found["launches"] == 2


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_parameter_that_is_listed_twice_is_updated_one_time_after_the_other(
    cuda: str, name: str
) -> None:
    def run(device: str) -> Any:
        p = nt.tensor(drawn(0, (2000,)), dtype=nt.float32).to(device).requires_grad_()
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = getattr(optim, name)([p, p], lr=0.1)
        for _ in range(3):
            p.grad = p.detach() * 2 + 1
            optimizer.step()
        return p.detach().cpu().numpy()

    numpy.testing.assert_allclose(run("cuda"), run("cpu"), rtol=1e-5, atol=1e-6)


LAYOUTS: dict[str, Any] = {
    "a parameter in column order": lambda x: (x.T.contiguous().T, x),
    "both in column order": lambda x: (x.T.contiguous().T, x.T.contiguous().T),
    "a strided parameter": lambda x: (nt.stack([x, x], 1)[:, 0], x),
    "a strided gradient": lambda x: (x.clone(), nt.stack([x, x], 1)[:, 0]),
    "memory that is not aligned": lambda x: (
        nt.cat([x.reshape(-1), x.reshape(-1)])[1 : 1 + x.numel()].reshape(x.shape),
        x,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_may_be_laid_out_in_any_way(cuda: str, layout: str) -> None:
    def run(device: str) -> tuple[Any, Any]:
        x = nt.tensor(drawn(1, (6, 5)), dtype=nt.float32).to(device)
        p, g = (t.detach() for t in LAYOUTS[layout](x))
        p.requires_grad_()
        p.grad = g
        optimizer = optim.AdamW([p], lr=0.1)
        for _ in range(3):
            optimizer.step()
        return p.detach().cpu().numpy(), p.grad.cpu().numpy()

    for ours, theirs in zip(run("cuda"), run("cpu"), strict=True):
        numpy.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7)


def test_a_kernel_of_ones_own_is_what_runs(cuda: str) -> None:
    class Signed(optim.SGD):
        @staticmethod
        def kernel(xp: Any, parameter: Any, gradient: Any, *others: Any) -> None:
            parameter -= xp.sign(gradient)

    p = nt.ones(2, device="cuda").requires_grad_()
    p.grad = nt.tensor([5.0, -5.0]).cuda()
    Signed([p], lr=0.1).step()
    assert p.tolist() == [0.0, 2.0]


# --- loss scaling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [nt.float32, nt.float64], ids=str)
@pytest.mark.parametrize("name, options", FUSED, ids=named)
def test_a_step_whose_gradients_overflowed_is_as_if_it_had_not_been(
    cuda: str, name: str, options: dict[str, Any], dtype: Any
) -> None:
    found_inf, scale = nt.zeros((), device="cuda"), nt.full((), 1024.0, device="cuda")

    def run(overflows: list[bool]) -> tuple[list[Any], Any]:
        p = nt.tensor(drawn(0, (5,)), dtype=dtype).cuda().requires_grad_()
        q = nt.tensor(drawn(1, (3,)), dtype=dtype).cuda().requires_grad_()
        optimizer = getattr(optim, name)([p, q], **options)
        assert optimizer._step_supports_amp_scaling
        optimizer.grad_scale, optimizer.found_inf = scale, found_inf
        for step, overflowed in enumerate(overflows):
            p.grad = (p.detach() + 0.5) * 1024
            q.grad = None if overflowed and step == 1 else (q.detach() - 0.5) * 1024
            if overflowed:
                p.grad[2] = float("inf")
            found_inf.fill_(float(overflowed))
            before = strict_cupy.counts.d2h + strict_cupy.counts.synchronizations
            optimizer.step()
            assert strict_cupy.counts.d2h + strict_cupy.counts.synchronizations == before
        return [p, q], optimizer

    skipping, optimizer = run([False, True, False, False, True, True, False])
    plain, reference = run([False, False, False, False])
    for a, b in zip(skipping, plain, strict=True):
        numpy.testing.assert_allclose(
            a.detach().cpu().numpy(), b.detach().cpu().numpy(), rtol=1e-6, atol=1e-7
        )
    if name != "SGD":
        for o in (optimizer, reference):
            assert [s["step"].item() for s in o.state_dict()["state"].values()] == [4, 4]


def test_gradients_are_left_without_the_scale_as_pytorchs_fused_ones_are(cuda: str) -> None:
    p = nt.ones(5, device="cuda").requires_grad_()
    p.grad = nt.full((5,), 6.0, device="cuda")
    optimizer = optim.SGD([p], lr=0.5)
    optimizer.grad_scale = nt.full((), 4.0, device="cuda")
    optimizer.step()
    assert p.grad.tolist() == [1.5] * 5
    assert p.tolist() == [0.25] * 5


def test_a_copied_optimizer_knows_what_was_skipped(cuda: str) -> None:
    p = nt.ones(5, device="cuda").requires_grad_()
    p.grad = nt.ones(5, device="cuda")
    optimizer = optim.Adam([p])
    optimizer.found_inf = nt.ones((), device="cuda")
    optimizer.step()
    assert copy.deepcopy(optimizer).state_dict()["state"][0]["step"].item() == 0
    assert p.tolist() == [1.0] * 5


def test_scaling_is_refused_where_it_would_not_be_obeyed(cuda: str) -> None:
    p = nt.ones(4, 2, device="cuda")[:, 0].detach().requires_grad_()
    p.grad = nt.ones(4, device="cuda")
    optimizer = optim.SGD([p])
    assert not optimizer._step_supports_amp_scaling
    optimizer.found_inf = nt.zeros((), device="cuda")
    with pytest.raises(ValueError, match="dense floating-point memory"):
        optimizer.step()


# --- clipping -------------------------------------------------------------------------------------


def gradients(device: str, *kinds: Any) -> list[nt.Tensor]:
    parameters = []
    for i, kind in enumerate(kinds):
        for j, shape in enumerate([(3,), (20_000,), (5, 7), (0,)]):
            p = nt.zeros(*shape, dtype=kind, device=device).requires_grad_()
            p.grad = nt.tensor(drawn(10 * i + j, shape), dtype=kind).to(device)
            parameters.append(p)
    return parameters


KINDS: list[tuple[Any, ...]] = [
    (nt.float32,),
    (nt.float64,),
    (nt.float16,),
    (nt.bfloat16,),
    (nt.float16, nt.float32, nt.float64),
]
HALVES = (nt.float16, nt.bfloat16)


@pytest.mark.parametrize("most", [1.0, 1e9], ids=["clipped", "left"])
@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_clipping_by_the_norm_is_that_of_float64(
    cuda: str, kinds: tuple[Any, ...], most: float
) -> None:
    if nt.bfloat16 in kinds:
        pytest.importorskip("ml_dtypes")
    ours = gradients("cuda", *kinds)
    before = [p.grad.cpu().double().numpy() for p in ours]
    total = clip_grad_norm_(ours, most)
    exact = float(numpy.sqrt(sum((b * b).sum() for b in before)))
    assert total.dtype is kinds[-1] and total.shape == () and total.device.type == "cuda"
    assert total.item() == pytest.approx(exact, rel=8e-3 if kinds[-1] in HALVES else 1e-6)
    assert get_total_norm([nt.tensor(b) for b in before]).item() == pytest.approx(exact)
    for p, b in zip(ours, before, strict=True):
        wanted = b * min(1.0, most / (exact + 1e-6))
        bound = 8e-3 if p.dtype in HALVES else 1e-6
        numpy.testing.assert_allclose(p.grad.cpu().double().numpy(), wanted, bound, 1e-7)


def test_clipping_by_the_norm_is_three_launches_without_copies_or_waits(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("launches are counted on the look-alike")
    parameters = gradients("cuda", nt.float32)
    with counted(cuda) as found:
        clip_grad_norm_(parameters, 1.0)
    assert found["launches"] == 3
    with counted(cuda):
        get_total_norm([p.grad for p in parameters])
        clip_grad_value_(parameters, 0.5)


def test_the_norm_has_the_same_bits_every_time(cuda: str) -> None:
    parameters = gradients("cuda", nt.float32)
    tensors = [p.grad for p in parameters]
    assert len({get_total_norm(tensors).item() for _ in range(5)}) == 1


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_norm_that_is_not_finite_is_told_of_where_that_is_asked(cuda: str, bad: float) -> None:
    parameters = gradients("cuda", nt.float32)
    parameters[1].grad[3] = bad
    before = parameters[0].grad.tolist()
    with pytest.raises(RuntimeError, match="cannot be clipped"):
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert parameters[0].grad.tolist() == before
    assert not numpy.isfinite(clip_grad_norm_(parameters, 1.0).item())
    scaled = parameters[0].grad.cpu().numpy()
    assert numpy.isnan(scaled).all() if bad != bad else not scaled.any()
