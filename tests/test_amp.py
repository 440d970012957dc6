"""Mixed precision: which op computes in what, and a loss scale that follows the gradients."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import itertools
import pickle
import pkgutil
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import nn
from nanotorch.amp.autocast_mode import POLICIES, open_casts
from nanotorch.backend import cuda_module
from nanotorch.backend.cuda import kernels
from nanotorch.primitive import Primitive

MATRIX = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


def every(kind: type[Primitive]) -> set[type[Primitive]]:
    return {kind}.union(*(every(child) for child in kind.__subclasses__()))


def test_every_primitive_with_a_policy_exists() -> None:
    for package in (nt.ops, nn):  # whose modules load when they are first needed
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    known = {primitive.__name__ for primitive in every(Primitive)}
    assert set().union(*POLICIES.values()) <= known


# What each op gives for float32 and for 16 bits on the CPU is compared with PyTorch.
OPS: dict[str, Callable[[Any, Any], Any]] = {
    "mm": lambda t, x: t @ t,
    "mm of two dtypes": lambda t, x: t.mm(x.to(t.dtype)),
    "matmul": lambda t, x: t[None] @ t[None],
    "mv": lambda t, x: t @ t[0],
    "pow": lambda t, x: t**2,
    "reversed division": lambda t, x: 1 / t,
    "add": lambda t, x: t + x.to(t.dtype),
    "exp": lambda t, x: t.exp(),
    "log": lambda t, x: t.abs().log(),
    "sum": lambda t, x: t.sum(),
    "mean": lambda t, x: t.mean(),
    "prod": lambda t, x: t.prod(),
    "norm": lambda t, x: t.norm(),
    "cumsum": lambda t, x: t.cumsum(0),
    "sigmoid": lambda t, x: t.sigmoid(),
    "number": lambda t, x: t * 2.0,
    "view": lambda t, x: t.reshape(2, 8),
    "float64": lambda t, x: t.double() @ t.double(),
    "integer": lambda t, x: t.long() + 1,
}
FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "linear": lambda F, t, x: F.linear(t, x, x[0]),
    "bilinear": lambda F, t, x: F.bilinear(t, t, t[None]),
    "softmax": lambda F, t, x: F.softmax(t, -1),
    "log_softmax": lambda F, t, x: F.log_softmax(t, -1),
    "layer_norm": lambda F, t, x: F.layer_norm(t, (4,), x[0], x[0]),
    "batch_norm": lambda F, t, x: F.batch_norm(t, None, None, x[0], x[0], training=True),
    "group_norm": lambda F, t, x: F.group_norm(t, 2),
    "gelu": lambda F, t, x: F.gelu(t),
    "softplus": lambda F, t, x: F.softplus(t),
    "prelu": lambda F, t, x: F.prelu(t, x[0]),
    "normalize": lambda F, t, x: F.normalize(t),
    "cross_entropy": lambda F, t, x: F.cross_entropy(t, x.argmax(1)),
    "nll_loss": lambda F, t, x: F.nll_loss(t, x.argmax(1)),
    "mse_loss": lambda F, t, x: F.mse_loss(t, x),
    "l1_loss": lambda F, t, x: F.l1_loss(t, x),
    "smooth_l1_loss": lambda F, t, x: F.smooth_l1_loss(t, x),
    "huber_loss": lambda F, t, x: F.huber_loss(t, x),
    "kl_div": lambda F, t, x: F.kl_div(t, x.exp(), reduction="sum"),
    "binary_cross_entropy": lambda F, t, x: F.binary_cross_entropy(t.sigmoid(), x.sigmoid()),
    "with_logits": lambda F, t, x: F.binary_cross_entropy_with_logits(t, x.sigmoid()),
    "soft_margin_loss": lambda F, t, x: F.soft_margin_loss(t, x.sign()),
    "hinge_embedding_loss": lambda F, t, x: F.hinge_embedding_loss(t, x.sign()),
    "triplet_margin_loss": lambda F, t, x: F.triplet_margin_loss(t, x, t),
    "multi_margin_loss": lambda F, t, x: F.multi_margin_loss(t, x.argmax(1)),
    "poisson_nll_loss": lambda F, t, x: F.poisson_nll_loss(t, x.exp()),
    "cosine_similarity": lambda F, t, x: F.cosine_similarity(t, t),
    "dropout": lambda F, t, x: F.dropout(t, 0.0),
}
LIBRARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "addmm": lambda lib, t, x: lib.addmm(x, t, t),
    "baddbmm": lambda lib, t, x: lib.baddbmm(t[None], t[None], t[None]),
    "bmm": lambda lib, t, x: lib.bmm(t[None], t[None]),
    "einsum": lambda lib, t, x: lib.einsum("ij,jk->ik", t, x.to(t.dtype)),
    "tensordot": lambda lib, t, x: lib.tensordot(t, t, 1),
    "dot": lambda lib, t, x: lib.dot(t[0], t[0]),
    "cat": lambda lib, t, x: lib.cat([t, x]),
    "stack": lambda lib, t, x: lib.stack([t, x]),
    "where": lambda lib, t, x: lib.where(t > 0, t, x),
}
ALL: dict[str, Callable[[Any, Any, Any], Any]] = {
    **{k: (lambda lib, t, x, f=f: f(t, x)) for k, f in OPS.items()},
    **{k: (lambda lib, t, x, f=f: f(lib.nn.functional, t, x)) for k, f in FUNCTIONS.items()},
    **LIBRARY,
}


@pytest.mark.torch
@pytest.mark.parametrize("short", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_dtypes_and_values_on_the_cpu_are_pytorchs(name: str, short: str) -> None:
    torch = pytest.importorskip("torch")
    if short == "bfloat16":
        pytest.importorskip("ml_dtypes")
    for given in ("float32", short):
        found = []
        for library in (torch, nt):
            x = library.tensor(MATRIX)
            t = x.to(getattr(library, given))
            with library.autocast("cpu", dtype=getattr(library, short)):
                y = ALL[name](library, t, x)
            found.append((str(y.dtype), y.double().numpy()))
        assert found[1][0] == found[0][0], given
        close = 2.0**-6 if short == "bfloat16" else 2.0**-9
        np.testing.assert_allclose(found[1][1], found[0][1], rtol=close, atol=4 * close)


# On CUDA: the dtype for float32 and for float16, by PyTorch's op reference.
ON_CUDA: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("mm", "matmul", "mv", "linear", "addmm", "bmm", "einsum", "prelu"),
                    ("float16", "float16")),
    **dict.fromkeys(("pow", "reversed division", "exp", "log", "sum", "prod", "norm", "cumsum",
                     "softmax", "log_softmax", "layer_norm", "group_norm", "softplus",
                     "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss",
                     "huber_loss", "kl_div", "with_logits", "triplet_margin_loss",
                     "cosine_similarity", "cat", "stack"), ("float32", "float32")),
    **dict.fromkeys(("mean", "sigmoid", "gelu", "number", "view", "batch_norm", "dot"),
                    ("float32", "float16")),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_CUDA)
def test_dtypes_on_a_gpu(name: str, cuda: str) -> None:
    for given, expected in zip(("float32", "float16"), ON_CUDA[name], strict=True):
        x = nt.tensor(MATRIX, device="cuda")
        with nt.autocast("cuda"):
            y = ALL[name](nt, x.to(getattr(nt, given)), x)
        assert str(y.dtype) == f"torch.{expected}"
        assert y.is_cuda


def test_binary_cross_entropy_is_refused_on_a_gpu(cuda: str) -> None:
    x = nt.full((3,), 0.5, device="cuda")
    with nt.autocast("cuda"), pytest.raises(RuntimeError, match=r"unsafe to autocast.*with_logits"):
        nn.functional.binary_cross_entropy(x, x)
    nn.functional.binary_cross_entropy(x, x)


# --- the context ----------------------------------------------------------------------------------


def test_contexts_nest_and_leave_nothing_behind() -> None:
    x = nt.ones(2, 2)
    assert not nt.is_autocast_enabled("cpu")
    with nt.autocast("cpu", dtype=nt.float16):
        assert nt.is_autocast_enabled("cpu") and not nt.is_autocast_enabled()
        assert nt.get_autocast_dtype("cpu") is nt.float16
        assert (x @ x).dtype is nt.float16
        with nt.autocast("cpu", enabled=False):
            assert not nt.is_autocast_enabled("cpu")
            assert (x @ x).dtype is nt.float32
        with nt.autocast("cpu", nt.bfloat16):
            assert nt.get_autocast_dtype("cpu") is nt.bfloat16
        assert (x @ x).dtype is nt.float16
    assert (x @ x).dtype is nt.float32
    assert nt.get_autocast_dtype("cpu") is nt.bfloat16
    assert nt.get_autocast_dtype("cuda") is nt.float16
    assert open_casts() is None

    @nt.autocast("cpu", dtype=nt.float16)
    def product(a: Any) -> Any:
        return a @ a

    assert product(x).dtype is nt.float16
    with pytest.raises(ZeroDivisionError), nt.amp.autocast("cpu"):
        raise ZeroDivisionError
    assert open_casts() is None


def test_older_names_mean_the_gpu(cuda: str) -> None:
    x = nt.ones(2, 2, device="cuda")
    with nt.cuda.amp.autocast():
        assert (x @ x).dtype is nt.float16
        with nt.cuda.amp.autocast(enabled=False):
            assert (x @ x).dtype is nt.float32
    assert nt.cuda.amp.GradScaler(init_scale=4.0).get_scale() == 4.0
    older, newer = (inspect.signature(x.GradScaler).parameters for x in (nt.cuda.amp, nt.amp))
    assert dict(older) == {name: newer[name] for name in newer if name != "device"}


def test_other_threads_are_not_cast() -> None:
    seen: list[Any] = []
    with nt.autocast("cpu", dtype=nt.float16):
        thread = threading.Thread(target=lambda: seen.append((nt.ones(2, 2) @ nt.ones(2, 2)).dtype))
        thread.start()
        thread.join()
    assert seen == [nt.float32]


def test_wrong_devices_and_dtypes_are_told() -> None:
    with pytest.raises(RuntimeError, match="device_type 'cuda' or 'cpu', got 'tpu'"):
        nt.autocast("tpu")
    with pytest.warns(UserWarning, match="float16 or bfloat16, got torch.float64"):
        context = nt.autocast("cpu", dtype=nt.float64)
    with context:
        assert not nt.is_autocast_enabled("cpu")


def test_without_a_gpu_autocast_for_one_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanotorch.amp.autocast_mode.cuda_unavailable_reason", lambda: "none")
    with pytest.warns(UserWarning, match="CUDA is not available"):
        context = nt.autocast("cuda")
    with context:
        assert not nt.is_autocast_enabled()


def test_gradients_come_back_in_the_parameters_dtype() -> None:
    layer = nn.Linear(3, 2)
    x = nt.randn(5, 3, requires_grad=True)
    with nt.autocast("cpu", dtype=nt.float16):
        y = layer(x)
        loss = y.float().square().mean()
    assert y.dtype is nt.float16
    loss.backward()
    for leaf in (layer.weight, layer.bias, x):
        assert leaf.grad is not None
        assert leaf.grad.dtype is nt.float32
    weight = layer.weight.detach().clone().requires_grad_()
    ((x.detach() @ weight.t() + layer.bias.detach()) ** 2).mean().backward()
    assert layer.weight.grad is not None and weight.grad is not None
    np.testing.assert_allclose(layer.weight.grad.numpy(), weight.grad.numpy(), rtol=1e-2, atol=1e-2)


def test_a_parameter_is_cast_once_in_the_outermost_context() -> None:
    layer, x = nn.Linear(3, 3), nt.randn(2, 3)

    def kept() -> list[Any]:
        node = layer(x).grad_fn
        return [edge for edge in node.edges if edge is not None]

    with nt.autocast("cpu", dtype=nt.float16):
        first = kept()
        assert kept() == first
        with nt.autocast("cpu", dtype=nt.float16):
            assert kept() == first
        with nt.no_grad():
            layer.weight.mul_(2)
        changed = layer(x)
        assert kept() != first
        nt.clear_autocast_cache()
        assert kept()[1] is not first[1]
    assert kept() != first
    np.testing.assert_allclose(changed.detach().float().numpy(), layer(x).detach().numpy(),
                               rtol=1e-2, atol=1e-2)  # fmt: skip
    with nt.autocast("cpu", dtype=nt.float16, cache_enabled=False):
        assert kept() != kept()
    with nt.autocast("cpu", dtype=nt.float16):
        with nt.no_grad():
            layer(x)
        layer(x).float().sum().backward()
    assert layer.weight.grad is not None


def test_backward_computes_in_what_forward_computed_in() -> None:
    x = nt.ones(3, 3, requires_grad=True)
    with nt.autocast("cpu", dtype=nt.float16):
        y = (x @ x).sum()
        (g,) = nt.autograd.grad(y, x, create_graph=True)
        assert nt.is_autocast_enabled("cpu")
    assert g.dtype is nt.float32
    g.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("inside", [True, False])
def test_a_checkpointed_part_is_computed_again_in_its_precision(inside: bool) -> None:
    layer = nn.Linear(4, 4)
    x = nt.randn(8, 4, requires_grad=True)
    gradients = []
    for checkpointed in (False, True):
        part = functools.partial(nt.utils.checkpoint.checkpoint, use_reentrant=False)
        with nt.autocast("cpu", dtype=nt.float16):
            y = part(lambda x: layer(x).tanh(), x) if checkpointed else layer(x).tanh()
            loss = y.float().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        assert open_casts() is None
        gradients.append([layer.weight.grad.tolist(), x.grad.tolist()])  # type: ignore[union-attr]
        layer.zero_grad()
        x.grad = None
    assert gradients[0] == gradients[1]


def own_products(lib: Any, cast_inputs: Any) -> Any:
    """The dtypes that a function of one's own computes in, forward and backward."""
    seen = []

    class Product(lib.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        @lib.amp.custom_fwd(device_type="cpu", cast_inputs=cast_inputs)
        def forward(ctx: Any, a: Any, b: Any) -> Any:
            ctx.save_for_backward(a, b)
            seen.append(str((a @ b).dtype))
            return a @ b

        @staticmethod
        @lib.amp.custom_bwd(device_type="cpu")
        def backward(ctx: Any, g: Any) -> Any:
            a, b = ctx.saved_tensors
            seen.append(str((g.float() @ b.float()).dtype))
            return g @ b.to(g.dtype).t(), a.to(g.dtype).t() @ g

    a, b = (lib.tensor(MATRIX, requires_grad=True) for _ in range(2))
    with lib.autocast("cpu", dtype=lib.float16):
        y = Product.apply(a, b)
    y.float().sum().backward()
    Product.apply(a, b).sum().backward()
    return seen, str(y.dtype), str(a.grad.dtype), a.grad.numpy()


@pytest.mark.torch
@pytest.mark.parametrize("cast_inputs", [None, "float32", "float16"])
def test_functions_of_ones_own_cast_as_pytorchs_do(cast_inputs: str | None) -> None:
    torch = pytest.importorskip("torch")
    expected, found = (
        own_products(lib, cast_inputs and getattr(lib, cast_inputs)) for lib in (torch, nt)
    )
    assert found[:3] == expected[:3]
    np.testing.assert_allclose(found[3], expected[3], rtol=1e-2, atol=1e-2)


def test_a_compiled_step_knows_its_precision() -> None:
    layer, x = nn.Linear(4, 4), nt.randn(8, 4)
    step = nt.compile(lambda x: layer(x).detach(), pure=True)
    with nt.no_grad():
        plain = [step(x) for _ in range(2)]
        with nt.autocast("cpu", dtype=nt.float16):
            with pytest.warns(UserWarning, match="half precision, which is not compiled"):
                short = [step(x) for _ in range(2)]
            layer.weight.add_(1)
            changed = step(x)
        assert step(x).dtype is nt.float32
    assert [y.dtype for y in (*plain, *short)] == [nt.float32] * 2 + [nt.float16] * 2
    assert changed.tolist() != short[0].tolist()


# --- the loss scale -------------------------------------------------------------------------------


def scaled_run(lib: Any, overflows: set[int], device: str = "cpu", **options: Any) -> Any:
    """Six steps, some of whose gradients overflow: scales, and the weights after each."""
    weight = lib.tensor([1.0, -2.0], device=device, requires_grad=True)
    optimizer = lib.optim.SGD([weight], lr=0.1, momentum=0.9)
    scaler = lib.amp.GradScaler(device, init_scale=8.0, growth_interval=2, **options)
    seen = []
    for step in range(6):
        optimizer.zero_grad()
        factor = float("inf") if step in overflows else 1.0
        scaler.scale((weight * weight).sum() * factor).backward()
        if step % 2:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        seen.append((scaler.get_scale(), weight.detach().cpu().tolist()))
    return seen, scaler.state_dict()


@pytest.mark.torch
@pytest.mark.parametrize("overflows", [set(), {0}, {1, 2}, {3}, {5}])
def test_scales_and_weights_are_pytorchs(overflows: set[int]) -> None:
    torch = pytest.importorskip("torch")
    (expected, state), (found, ours) = scaled_run(torch, overflows), scaled_run(nt, overflows)
    assert [scale for scale, _ in found] == [scale for scale, _ in expected]
    for (_, weights), (_, theirs) in zip(found, expected, strict=True):
        assert weights == pytest.approx(theirs, rel=1e-6)
    assert ours == state


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("overflows", [set(), {0}, {1, 2}])
def test_a_gpu_scales_as_the_cpu_does(
    overflows: set[int], fused: bool, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, state = scaled_run(nt, overflows)
    if not fused:
        monkeypatch.setattr(nt.optim.SGD, "cuda_kernel", "")
    found, ours = scaled_run(nt, overflows, "cuda")
    assert [scale for scale, _ in found] == [scale for scale, _ in expected]
    for (_, weights), (_, theirs) in zip(found, expected, strict=True):
        assert weights == pytest.approx(theirs, rel=1e-6)
    assert ours == state


def test_a_step_in_mixed_precision_neither_copies_nor_waits(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("only the look-alike counts")
    if not kernels.available(strict_cupy):
        pytest.skip("the look-alike needs g++ to run CUDA kernels")
    nt.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)).to("cuda")
    optimizer = nt.optim.AdamW(model.parameters(), lr=0.01)
    scaler = nt.amp.GradScaler(init_scale=2.0**10)
    x, y = nt.randn(32, 4, device="cuda"), nt.randint(3, (32,), device="cuda")
    losses = []

    def step(clip: bool) -> None:
        optimizer.zero_grad()
        with nt.autocast("cuda"):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())

    step(True)
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        for clip, _ in itertools.product((True, False), range(10)):
            step(clip)
    assert losses[-1].item() < losses[0].item()
    assert losses[0].dtype is nt.float32


def test_misuse_of_a_scaler_is_told() -> None:
    weight = nt.ones(2, requires_grad=True)
    optimizer = nt.optim.SGD([weight], lr=0.1)
    scaler = nt.amp.GradScaler("cpu")
    with pytest.raises(RuntimeError, match="no gradients to look at"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="no step was made"):
        scaler.update()
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="step\\(\\) has already been called"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="after step"):
        scaler.unscale_(optimizer)
    scaler.update()
    with pytest.raises(RuntimeError, match="closures"):
        scaler.step(optimizer, closure=lambda: None)
    with pytest.raises(ValueError, match=r"growth_factor > 1, got 1\.0"):
        nt.amp.GradScaler("cpu", growth_factor=1.0)
    with pytest.raises(ValueError, match="expected device 'cuda' or 'cpu', got 'tpu'"):
        nt.amp.GradScaler("tpu")
    half = nt.ones(2, dtype=nt.float16, requires_grad=True)
    half.sum().backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(nt.optim.SGD([half], lr=0.1))


def test_a_scaler_goes_on_from_its_state() -> None:
    scaler = nt.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
    weight = nt.ones(2, requires_grad=True)
    optimizer = nt.optim.SGD([weight], lr=0.1)
    outputs = scaler.scale([weight.sum(), (weight.sum(),)])
    assert (outputs[0].item(), outputs[1][0].item()) == (8.0, 8.0)
    outputs[0].backward()
    scaler.step(optimizer)
    scaler.update()
    other = nt.amp.GradScaler("cpu")
    other.load_state_dict(scaler.state_dict())
    for copied in (other, copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert copied.state_dict() == scaler.state_dict()
        assert copied.state_dict()["_growth_tracker"] == 1
    scaler.update(16.0)
    assert scaler.get_scale() == 16.0
    off = nt.amp.GradScaler("cpu", enabled=False)
    assert (off.get_scale(), off.state_dict(), off.is_enabled()) == (1.0, {}, False)
    assert off.scale(weight) is weight
    weight.grad = nt.ones(2)
    before = weight.detach().clone()
    off.step(optimizer)
    off.update()
    assert weight.tolist() != before.tolist()
    with pytest.raises(RuntimeError, match="the state is empty"):
        scaler.load_state_dict({})


def scaled_steps(compiled: bool) -> Any:
    """Twelve steps with a scale that grows and shrinks: losses, scales and the last weights."""
    nt.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = nt.optim.SGD(model.parameters(), lr=0.05)
    scaler = nt.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=2)
    x, y = nt.randn(16, 3), nt.randn(16, 1) * 100

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    run = nt.compile(step, pure=True) if compiled else step
    with np.errstate(over="ignore", invalid="ignore"):
        found = [(run(x, y).item(), scaler.get_scale()) for _ in range(12)]
    return found, model.weight.tolist()


def test_a_compiled_step_follows_the_live_scale() -> None:
    expected = scaled_steps(compiled=False)
    assert scaled_steps(compiled=True) == expected
    scales = [scale for _, scale in expected[0]]
    assert any(later > earlier for earlier, later in itertools.pairwise(scales))
    assert any(later < earlier for earlier, later in itertools.pairwise(scales))


def mixed_steps(compiled: bool, clip: bool, dropout: float = 0.0) -> Any:
    """Steps of a network on a GPU, one of which overflows: losses, scale, weights, step count."""
    nt.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)).to(
        "cuda"
    )
    optimizer = nt.optim.AdamW(model.parameters(), lr=0.05)
    scaler = nt.amp.GradScaler(init_scale=2.0**10, growth_interval=3)
    inputs, y = nt.randn(10, 32, 4, device="cuda"), nt.randint(3, (32,), device="cuda")
    inputs[5] *= 1e5  # beyond float16

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        with nt.autocast("cuda"):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    run = nt.compile(step, pure=True) if compiled else step
    with np.errstate(over="ignore", invalid="ignore"):
        losses = [run(x).item() for x in inputs]
    weights = [p.tolist() for p in model.parameters()]
    counts = {s["step"].item() for s in optimizer.state_dict()["state"].values()}
    return losses, scaler.get_scale(), weights, counts


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_cuda_graph_of_a_mixed_step_is_the_step(clip: bool, dropout: float, cuda: str) -> None:
    if not kernels.available(cuda_module()):
        pytest.skip("the look-alike needs g++ to run CUDA kernels")
    expected = mixed_steps(compiled=False, clip=clip, dropout=dropout)
    assert expected[3] == {9.0}  # one was skipped
    found = mixed_steps(compiled=True, clip=clip, dropout=dropout)
    np.testing.assert_equal(found, expected)
