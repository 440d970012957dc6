"""Losses on a GPU together with what comes before and after them: one launch in place of several.

Of a linear layer with one output, and of the cross-entropy of few samples. What is computed by one
launch has the bits of an eager step, which computes it by several.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import backend, nn, optim
from nanotorch.backend.cuda import fused, kernels
from nanotorch.compile.cuda_graph import CudaPlan
from nanotorch.cuda import kernel_table

functional = nn.functional


@pytest.fixture
def xp(cuda: str) -> Any:
    module = backend.cuda_module()
    if not kernels.available(module):
        pytest.skip("g++, which compiles kernels for the host, is missing")
    return module


# --- the kernel -----------------------------------------------------------------------------------

SIZES = [(1, 1), (3, 2), (31, 8), (32, 30), (33, 32), (256, 33), (257, 9), (300, 257), (70, 1024),
         (1000, 7), (9000, 5)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("which", [0, 1], ids=["bce", "mse"])
@pytest.mark.parametrize("n, k", SIZES)
def test_one_reading_has_the_bits_of_kernels_one_by_one(
    xp: Any, n: int, k: int, which: int, dtype: str
) -> None:
    random = numpy.random.default_rng(n + k)
    x, w, b = (random.normal(size=s).astype(dtype) for s in ((n, k), (1, k), (1,)))
    t, h = (random.random((n, 1)) > 0.5).astype(dtype), numpy.array(0.7, dtype)
    xs, ws, bs, ts, g = map(xp.asarray, (x, w / k**0.5, b, t, h))
    loss_of = (fused.bce_with_logits, fused.mse)[which]
    slope_of = (fused.bce_with_logits_reverse, fused.mse_reverse)[which]
    z = kernel_table.linear(xp, xs, ws, bs)
    slopes = slope_of(xp, g, z, ts, divisor=n)
    expected = {
        "z": z,
        "loss": loss_of(xp, z, ts, reduction="mean"),
        "slopes": slopes,
        "gradient": kernel_table.mm(xp, slopes.T, xs),
        "bias_gradient": fused.total(xp, slopes, dim=0) if n > 1 else slopes[0],
    }
    exact = x.astype("d") @ (w / k**0.5).astype(dtype)[0].astype("d") + b.astype("d")
    by_hand = (2 * (exact - t[:, 0])) if which else 1 / (1 + numpy.exp(-exact)) - t[:, 0]
    by_hand *= float(h) / n
    limit = {"float32": 2e-5, "float64": 1e-13}[dtype]
    found = expected["gradient"].get()[0]
    numpy.testing.assert_allclose(found, by_hand @ x.astype("d"), rtol=limit, atol=limit)
    for beside in ((), ("z",), ("z", "slopes")):
        names = ("loss", "gradient", "bias_gradient", *beside)
        out = {name: xp.full(expected[name].shape, 7, dtype) for name in names}
        with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
            fused.rows_to_one(
                xp, xs, weight=ws, bias=bs, target=ts, g=g, which=fused.LOSSES[which], divisor=n,
                **out,
            )  # fmt: skip
        for name in names:
            numpy.testing.assert_array_equal(out[name].get(), expected[name].get(), name)


def test_the_sums_of_a_million_rows_are_those_of_float64(xp: Any) -> None:
    n = 140_001
    random = numpy.random.default_rng(0)
    x, t = random.normal(size=(n, 3)).astype("f"), random.random((n, 1)).astype("f")
    w = numpy.array([[0.5, -1, 0.25]], "f")
    out = {"loss": xp.empty((), "f"), "gradient": xp.empty((1, 3), "f")}
    given = {"weight": w, "target": t, "g": numpy.float32(1).reshape(())}
    arrays = {name: xp.asarray(numpy.asarray(a)) for name, a in given.items()}
    fused.rows_to_one(xp, xp.asarray(x), **arrays, divisor=n, **out)
    z = x.astype("d") @ w[0].astype("d")
    slope = (1 / (1 + numpy.exp(-z)) - t[:, 0]) / n
    numpy.testing.assert_allclose(out["gradient"].get()[0], slope @ x, rtol=1e-5, atol=1e-6)
    numpy.testing.assert_allclose(
        out["loss"].get(), (numpy.logaddexp(0, z) - z * t[:, 0]).mean(), rtol=1e-6
    )


@pytest.mark.parametrize("special", [numpy.inf, -numpy.inf, numpy.nan])
def test_a_row_of_infinities_or_nan_shows_where_it_counts(xp: Any, special: float) -> None:
    x = numpy.ones((40, 3), "f")
    x[7] = special, 1, 1
    xs, w, b = xp.asarray(x), xp.ones((1, 3), "f"), xp.zeros(1, "f")
    z = kernel_table.linear(xp, xs, w, b).get()[:, 0]
    numpy.testing.assert_array_equal(z, [special if i == 7 else 3 for i in range(40)])
    y = kernel_table.mm(xp, xp.ones((1, 40), "f"), xs).get()[0]
    numpy.testing.assert_array_equal(y, [special, 40, 40])


def test_what_a_warp_cannot_hold_is_left_to_cublas(xp: Any) -> None:
    def taken(n: int, k: int, kind: str = "f", **how: Any) -> bool:
        x = xp.ones((n, k), kind, **how)
        assert fused.takes_one_output(xp, x, xp.ones((1, k), kind), None) == fused.takes_rows(xp, x)
        return fused.takes_rows(xp, x)

    assert taken(4, 1024) and taken(4, 3, "d") and taken(1, 1)
    assert not any((taken(4, 1025), taken(4, 3, "e"), taken(0, 3), taken(4, 3, order="F")))


CLASSES = [(1, 1), (5, 3), (40, 10), (128, 10), (33, 700), (1024, 4), (9, 1024)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("n, classes", CLASSES)
def test_the_loss_of_classes_and_its_slope_have_the_bits_of_kernels_one_by_one(
    xp: Any, n: int, classes: int, reduction: str, weighted: bool, dtype: str
) -> None:
    random = numpy.random.default_rng(n + classes)
    x = random.normal(size=(n, classes)).astype(dtype)
    t = random.integers(0, classes, n)
    x[t == 1] *= numpy.inf  # of samples to ignore
    w = random.random(classes).astype(dtype) if weighted else None
    xs, ts, g = map(xp.asarray, (x, t, numpy.array(0.7, dtype)))
    ws = None if w is None else xp.asarray(w)
    how: dict[str, Any] = {"ignore_index": 1, "reduction": reduction}
    terms = kernel_table.cross_entropy_terms(xp, xs, ts, ws, **how)
    loss = kernel_table.cross_entropy(xp, xs, terms, ts, ws, **how)
    slopes = kernel_table.cross_entropy_reverse(xp, g, xs, terms, ts, ws, **how)
    kept = t != 1
    factor = kept * (1.0 if w is None else w.astype("d")[t])
    z = numpy.where(kept[:, None], x.astype("d"), 0)
    z -= z.max(1, keepdims=True)
    log_p = z - numpy.log(numpy.exp(z).sum(1, keepdims=True))
    share = factor.sum() if reduction == "mean" else 1.0
    limit = {"float32": 1e-5, "float64": 1e-13}[dtype]
    by_hand = -(log_p[range(n), t] * factor).sum() / share
    numpy.testing.assert_allclose(loss.get(), by_hand, rtol=limit, atol=limit)
    slope = (numpy.exp(log_p) - numpy.eye(classes)[t]) * (factor * 0.7 / share)[:, None]
    numpy.testing.assert_allclose(slopes.get(), slope, rtol=limit, atol=limit)
    out = {"loss": xp.full((), 7, dtype), "slopes": xp.full((n, classes), 7, dtype)}
    weights = {} if ws is None else {"weight": ws}
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        fused.class_loss(xp, x=xs, target=ts, g=g, **weights, **out, **how)
    numpy.testing.assert_array_equal(out["loss"].get(), loss.get())
    numpy.testing.assert_array_equal(out["slopes"].get(), slopes.get())


def test_a_mean_over_nothing_is_nan_and_has_no_slope(xp: Any) -> None:
    x, t, g = xp.ones((3, 4), "f"), xp.zeros(3, "l"), xp.ones((), "f")
    out = {"loss": xp.empty((), "f"), "slopes": xp.empty((3, 4), "f")}
    fused.class_loss(xp, x=x, target=t, g=g, **out, ignore_index=0, reduction="mean")
    assert numpy.isnan(out["loss"].get()) and not out["slopes"].get().any()


# --- captured steps -------------------------------------------------------------------------------


class Model(nn.Module):
    """One linear layer with one output, or more around it."""

    def __init__(self, bias: bool = True, hidden: bool = False, features: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(features, features) if hidden else nn.Identity()
        self.layer = nn.Linear(features, 1, bias=bias)
        self.several = nn.Linear(features, 3)

    def forward(self, x: Any) -> Any:
        return self.layer(self.first(x))


def bce(z: Any, y: Any, **how: Any) -> Any:
    return functional.binary_cross_entropy_with_logits(z, y, **how)


def squeezed(model: Any, x: Any, y: Any) -> Any:
    return bce(model(x).squeeze(1), y.flatten())


def with_logits(model: Any, x: Any, y: Any) -> Any:
    z = model(x)
    return bce(z, y), z.detach(), (z > 0).float().mean()


def halved(model: Any, x: Any, y: Any) -> Any:
    return bce(model(x), y) / 2


def twice(model: Any, x: Any, y: Any) -> Any:
    z = model(x)
    return bce(z, y) + z.square().mean()


def weighted(model: Any, x: Any, y: Any) -> Any:
    return bce(model(x), y, pos_weight=y[:1, 0] + 2.0)


def of_each(model: Any, x: Any, y: Any) -> Any:
    return bce(model(x), y, reduction="none").mean()


def of_classes(model: Any, x: Any, y: Any, **how: Any) -> Any:
    return functional.cross_entropy(model.several(x), y.long().flatten(), **how)


def both(model: Any, x: Any, y: Any) -> Any:
    logits = model.several(x)
    loss = functional.cross_entropy(logits, y.long().flatten())
    return loss, (logits.argmax(1) == 0).float(), loss.detach().exp()


Loss = Callable[[Any, Any, Any], Any]
# The loss, what the model is made of, and the nodes of the graph where a call stands for several
# kernels; the cast of the classes is one of them.
PATTERNS: dict[str, tuple[Loss, dict[str, Any], int | None]] = {
    "logistic": (lambda m, x, y: bce(m(x), y), {}, 2),
    "sum": (lambda m, x, y: bce(m(x), y, reduction="sum"), {}, 2),
    "squares": (lambda m, x, y: functional.mse_loss(m(x), y), {}, 2),
    "squeezed": (squeezed, {}, 2),
    "without a bias": (lambda m, x, y: bce(m(x), y), {"bias": False}, 2),
    "logits are read": (with_logits, {}, 6),
    "behind a layer": (lambda m, x, y: bce(m(x), y), {"hidden": True}, 7),
    "halved": (halved, {}, 3),
    "two losses": (twice, {}, None),
    "weighted": (weighted, {}, None),
    "losses of each": (of_each, {}, None),
    "classes": (of_classes, {}, 7),
    "classes summed": (lambda m, x, y: of_classes(m, x, y, reduction="sum"), {}, 7),
    "classes ignored": (lambda m, x, y: of_classes(m, x, y, ignore_index=1), {}, 7),
    "classes and more": (both, {}, 11),
    "classes smoothed": (lambda m, x, y: of_classes(m, x, y, label_smoothing=0.1), {}, None),
    "classes of each": (lambda m, x, y: of_classes(m, x, y, reduction="none").mean(), {}, None),
    "wide rows": (lambda m, x, y: bce(m(x), y), {"features": 1025}, None),
}


def batches(rows: int, features: int, count: int = 5) -> list[tuple[Any, Any]]:
    nt.manual_seed(3)
    return [
        (nt.randn(rows, features, device="cuda"), nt.rand(rows, 1, device="cuda").round())
        for _ in range(count)
    ]


def run(
    loss_of: Loss, options: dict[str, Any], rows: int, compiled: bool, freeze: str = ""
) -> tuple[Any, CudaPlan | None]:
    """All numbers of some steps, and the plan."""
    nt.manual_seed(0)
    model = Model(**options).to("cuda")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != freeze)
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        result = loss_of(model, x, y)
        (result[0] if isinstance(result, tuple) else result).backward()
        optimizer.step()
        return result

    call = nt.compile(step, pure=True) if compiled else step
    numbers: list[bytes] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, y in batches(rows, options.get("features", 6)):
            found = call(x, y)
            for value in found if isinstance(found, tuple) else (found,):
                numbers.append(value.detach().cpu().numpy().tobytes())
            for parameter in model.parameters():
                numbers.append(parameter.detach().cpu().numpy().tobytes())
                if parameter.grad is not None:
                    numbers.append(parameter.grad.cpu().numpy().tobytes())
    if not compiled:
        return numbers, None
    ((replay,),) = call._replays.values()  # type: ignore[attr-defined]
    assert isinstance(replay.plan, CudaPlan) and replay.plan.why_not is None
    return numbers, replay.plan


def is_joint(plan: CudaPlan) -> bool:
    return any("rows_to_one" in line or "class_loss" in line for line in plan.plan.source)


def nodes(plan: CudaPlan) -> int:
    return plan.launches[None].graph.debug_dot_str().count("node")


@pytest.mark.parametrize("rows", [1, 24, 300])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_captured_step_has_the_bits_of_an_eager_one(xp: Any, name: str, rows: int) -> None:
    loss_of, options, count = PATTERNS[name]
    expected, _ = run(loss_of, options, rows, compiled=False)
    found, plan = run(loss_of, options, rows, compiled=True)
    assert found == expected and plan is not None
    assert is_joint(plan) == (count is not None)
    if count is not None and xp is strict_cupy and rows == 24:
        assert nodes(plan) == count


@pytest.mark.parametrize("rows", [24, 300])
@pytest.mark.parametrize("freeze", ["layer.weight", "layer.bias"])
def test_a_frozen_parameter_gets_no_gradient(xp: Any, freeze: str, rows: int) -> None:
    loss_of, options, _ = PATTERNS["logistic"]
    expected, _ = run(loss_of, options, rows, compiled=False, freeze=freeze)
    found, plan = run(loss_of, options, rows, compiled=True, freeze=freeze)
    assert found == expected and plan is not None
    assert is_joint(plan) == (freeze == "layer.bias")


def test_gradients_of_parts_of_a_batch_add_up(xp: Any) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = Model().to("cuda")
        optimizer = optim.SGD(model.parameters(), lr=0.5)

        def step(x: Any, y: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            for part in (slice(None, 10), slice(10, None)):
                loss = bce(model(x[part]), y[part])
                loss.backward()
            optimizer.step()
            return loss

        call = nt.compile(step, pure=True) if compiled else step
        losses = [call(x, y).item() for x, y in batches(24, 6)]
        results.append((losses, [p.tolist() for p in model.parameters()]))
        if compiled:
            ((replay,),) = call._replays.values()  # type: ignore[attr-defined]
            assert sum("rows_to_one" in line for line in replay.plan.plan.source) == 2
    assert results[0] == results[1]


# The layers, the classes, and the nodes of the graph; which were 7, 9 and 16 once.
MODELS: dict[str, tuple[Callable[[], list[nn.Module]], int, int]] = {
    "S": (lambda: [nn.Linear(20, 1)], 1, 2),
    "M": (lambda: [nn.Linear(20, 10)], 10, 6),
    "MLP": (lambda: [nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 10)], 10, 13),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_small_step_has_few_nodes(xp: Any, name: str, written: None) -> None:
    if xp is not strict_cupy:
        pytest.skip("nodes are counted on the look-alike, one for each launch")
    make, classes, count = MODELS[name]
    model = nn.Sequential(*make()).to("cuda")
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loss_of = bce if classes == 1 else functional.cross_entropy

    @nt.compile(pure=True)
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        x = nt.randn(32, 20, device="cuda")
        step(x, (x[:, :1] > 0).float() if classes == 1 else (x[:, 0] > 0).long())
    ((replay,),) = step._replays.values()
    assert nodes(replay.plan) == count
