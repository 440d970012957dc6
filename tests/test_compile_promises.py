"""What a compiled step promises: at every call it does what the eager step does, bit for bit.

Each kind of step here reads, writes or does something that a recording could get wrong. Two copies
of it are called in turn, one of them compiled, and whatever they return, print, raise or leave
behind must be the same.
"""

from __future__ import annotations

import collections
import functools
import gc
import itertools
import os
import random
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn, optim

CALLS = 6
F = nn.functional

# Each makes a step of a tensor and of the number of the call, and says what it leaves behind.
KINDS: dict[str, Callable[[], tuple[Callable[..., Any], Callable[[], Any]]]] = {}


def kind(make: Callable[[], Any]) -> Callable[[], Any]:
    def made() -> Any:
        step = make()
        return step if isinstance(step, tuple) else (step, lambda: None)

    KINDS[make.__name__.replace("_", " ")] = made
    return make


def bits(value: Any) -> Any:
    """A value in a form in which tensors are compared by all that can be seen of them."""
    if isinstance(value, nt.Tensor):
        node = value.grad_fn
        return (
            value.shape, value.dtype, value.stride(), value.requires_grad, value.is_leaf,
            node and node.name(), value._version, value.detach()._array.tobytes(),
        )  # fmt: skip
    if isinstance(value, tuple | list):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return repr(value)


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return bits(function())
    except Exception as error:
        return type(error), str(error)


# --- values that Python reads ---------------------------------------------------------------------


@kind
def a_closure_variable() -> Any:
    scale = 1.0

    def step(x: Any, number: int) -> Any:
        nonlocal scale
        scale += 0.5
        return x * scale

    return step


@kind
def numbers_of_numpy_and_other_arguments() -> Any:
    def inner(x: Any, n: Any, r: Any, s: Any, f: Any) -> Any:
        return x * float(n) * len(r) * len(s) + f(x)

    def step(x: Any, number: int) -> Any:
        n = (np.int64, np.float32)[number % 2](number)
        return inner(x, n, range(number + 1), set(range(number + 2)), lambda x: x * number)

    return step


@kind
def numbers_of_numpy_as_operands() -> Any:
    return lambda x, number: (x * np.float32(number), x + np.float64(number), x * np.int64(number))


@kind
def numbers_of_several_types() -> Any:
    numbers = [1, 1.0, True, 2, 0.0, -0.0]
    return lambda x, number: (x * numbers[number], (x * 0) / nt.tensor(1.0) * numbers[number])


@kind
def the_signs_of_zeros() -> Any:
    zeros = [0.0, -0.0, 0, -0.0, 0.0, 0]
    return lambda x, number: 1 / (x.abs() * zeros[number])


@kind
def attributes_of_several_types() -> Any:
    dims = [0, 1, -1, (0, 1), None, 0]
    return lambda x, number: (x.sum(dims[number]), x.clamp(-0.0 if number % 2 else 0.0, 1.0))


class Config:
    scale = 1.0

    def __init__(self) -> None:
        self.sub = types.SimpleNamespace(scale=1.0, w=nt.ones(3))
        self.table: Any = {"a": {"s": 1.0}, "ws": [[nt.ones(3)]], "d": collections.deque([1.0])}


@kind
def a_config_that_is_nested_and_mutated() -> Any:
    config = Config()

    def step(x: Any, number: int) -> Any:
        y = x * config.sub.scale + config.table["a"]["s"] * config.sub.w
        y = y * config.table["ws"][0][0] + config.table["d"][0] + config.scale
        config.sub.scale += 1
        config.table["a"]["s"] *= 2
        config.sub.w = nt.full((3,), float(number))
        config.table["ws"][0][0] = nt.full((3,), 2.0 * number)
        config.table["d"].appendleft(number / 7)
        return y

    return step


@kind
def a_config_that_is_made_anew() -> Any:
    return lambda x, number: x * types.SimpleNamespace(a={"b": (number, [number / 3])}).a["b"][1][0]


@kind
def constants_of_a_class_and_of_a_module() -> Any:
    module = types.ModuleType("settings")
    module.SCALE = 1.0  # type: ignore[attr-defined]

    def step(x: Any, number: int) -> Any:
        module.SCALE += 1  # type: ignore[attr-defined]
        Config.scale = float(number)
        return x * module.SCALE + Config.scale

    return step


@kind
def slots_and_properties() -> Any:
    class Slotted:
        __slots__ = ("value",)

        @property
        def doubled(self) -> float:
            return 2 * float(self.value)

    held = Slotted()

    def step(x: Any, number: int) -> Any:
        held.value = number
        return x * held.doubled

    return step


@kind
def defaults_and_partials() -> Any:
    def scaled(x: Any, number: int, scale: list[float] = [1.0]) -> Any:  # noqa: B006
        scale[0] += number
        return x * scale[0]

    return functools.partial(scaled)


@kind
def the_environment_and_random_numbers() -> Any:
    def step(x: Any, number: int) -> Any:
        os.environ["NANOTORCH_TEST"] = str(number)
        drawn = random.random() + np.random.rand()
        return x * drawn + float(os.environ["NANOTORCH_TEST"]) + nt.rand(3) + nt.randn(4, 1)

    return step


@kind
def an_iterator_and_a_counter() -> Any:
    numbers, seen = iter(range(100)), collections.Counter()  # type: ignore[var-annotated]

    def step(x: Any, number: int) -> Any:
        seen["calls"] += 1
        return x * next(numbers)

    return step, lambda: dict(seen)


@kind
def what_is_printed() -> Any:
    def step(x: Any, number: int) -> Any:
        print("call", number, x.sum())
        loss = (x * 2).mean()
        print(f"{loss.item():.6f}", loss)
        return loss

    return step


# --- tensors --------------------------------------------------------------------------------------


@kind
def layouts() -> Any:
    def step(x: Any, number: int) -> Any:
        y = x.t().contiguous().t() if number % 2 else x
        return y.stride(), y.is_contiguous(), ((y - 1) ** 2).mean(), (y * 2).t() + 1

    return step


@kind
def shapes_that_change() -> Any:
    return lambda x, number: (x[: number % 3 + 1] ** 2).sum(0)


@kind
def dtypes_that_change() -> Any:
    dtypes = [nt.float32, nt.float64, nt.int64, nt.float16, nt.bool, nt.float32]
    return lambda x, number: (x.to(dtypes[number]) * 2).sum()


@kind
def versions() -> Any:
    def step(x: Any, number: int) -> Any:
        y = x * 2
        before = y._version
        y.add_(1)
        return before, y._version, y

    return step


@kind
def tensors_made_of_values() -> Any:
    return lambda x, number: x * nt.tensor([1.0, number, 2.0]) + nt.arange(3) * number


@kind
def numpy_arrays_over_the_same_memory() -> Any:
    w = nt.ones(4, 3)

    def step(x: Any, number: int) -> Any:
        a = w.numpy()
        y = w * 2
        a[0] += 1
        z = w * 2
        return y, z, y.numpy().sum()

    return step, lambda: w


@kind
def masks_and_branches_on_values() -> Any:
    def step(x: Any, number: int) -> Any:
        y = x[x > 0].sum()
        return y * 2 if y > 1.5 else y.exp()

    return step


@kind
def the_same_tensor_in_two_places() -> Any:
    def inner(a: Any, b: Any) -> Any:
        return a * b + a

    return lambda x, number: inner(x, x if number % 2 else x * 3)


# --- training -------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> Callable[[], Any]:
    return lambda: [(p, p.grad) for p in model.parameters()] + list(model.buffers())


def model_and_optimizer(*layers: nn.Module) -> tuple[nn.Module, Any]:
    model = nn.Sequential(*(layers or (nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))))
    return model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@kind
def a_training_step() -> Any:
    model, optimizer = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, state_of(model)


@kind
def a_learning_rate_that_the_step_reads() -> Any:
    model, optimizer = model_and_optimizer()
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean() * optimizer.param_groups[0]["lr"]
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss, optimizer.param_groups[0]["lr"]

    return step, state_of(model)


@kind
def numbers_that_change_at_every_call() -> Any:
    model, optimizer = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        h = model(x) * (1 / (number + 3)) + number / 7 - 0.1 * number
        loss = ((3.3 * number - h) ** 2).mean() / (number + 0.3) * number
        loss.backward()
        optimizer.step()
        return loss, h

    return step, state_of(model)


@kind
def a_loss_that_is_not_one_number() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        loss = model(x).mean(0)
        if number < 2 or number > 4:
            loss.backward(nt.ones(2))
        else:
            loss.backward()
        return loss

    return step, state_of(model)


@kind
def a_loss_that_is_read_in_the_middle() -> Any:
    model, optimizer = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        value = loss.item()
        if value > 0.2:
            loss = loss * 2
        loss.backward()
        optimizer.step()
        return value, loss

    return step, state_of(model)


@kind
def gradients_that_are_zeroed_in_place() -> Any:
    model, optimizer = model_and_optimizer(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 1))

    def step(x: Any, number: int) -> Any:
        loss = (model(x) ** 2).mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        return loss

    return step, state_of(model)


@kind
def gradients_that_are_accumulated_clipped_and_kept() -> Any:
    model, optimizer = model_and_optimizer()
    kept: list[Any] = []

    def step(x: Any, number: int) -> Any:
        for part in x.chunk(2):
            (model(part) ** 2).mean().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        kept.append([p.grad for p in model.parameters()])
        optimizer.step()
        optimizer.zero_grad(set_to_none=bool(number % 2))
        return norm

    return step, lambda: (state_of(model)(), list(kept))


@kind
def outputs_that_are_kept() -> Any:
    model, _ = model_and_optimizer()
    kept: list[Any] = []

    def step(x: Any, number: int) -> Any:
        h = model[0](x)
        kept.append((h, h.detach(), h[0], h.t()))
        return (model[2](h.tanh()) ** 2).mean()

    return step, lambda: list(kept)


@kind
def an_open_graph_that_is_walked_outside() -> Any:
    model, _ = model_and_optimizer()
    losses: list[Any] = []

    def step(x: Any, number: int) -> Any:
        losses.append((model(x) ** 2).mean())
        return losses[-1]

    def left() -> Any:
        if len(losses) % 2 == 0:
            losses[-1].backward()
            losses[-2].backward()
        return state_of(model)()

    return step, left


@kind
def frozen_layers_and_modes() -> Any:
    model, optimizer = model_and_optimizer(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)
    )

    def step(x: Any, number: int) -> Any:
        model.train(number % 3 != 2)
        model[0].requires_grad_(number % 2 == 0)
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, state_of(model)


@kind
def two_losses_and_a_retained_graph() -> Any:
    model, optimizer = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        h = model(x)
        first, second = (h**2).mean(), h.abs().sum()
        first.backward(retain_graph=True)
        second.backward()
        optimizer.step()
        return first, second

    return step, state_of(model)


@kind
def a_graph_that_is_walked_twice() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        loss = (model(x) ** 2).mean()
        loss.backward()
        loss.backward()
        return loss

    return step, state_of(model)


@kind
def a_loss_that_is_printed_before_it_is_walked() -> Any:
    model, optimizer = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        print(loss, loss.grad_fn.name(), loss.grad_fn.next_functions[0][0].name())
        loss.backward()
        optimizer.step()
        return loss

    return step, state_of(model)


@kind
def second_derivatives() -> Any:
    model, optimizer = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        x = x.clone().requires_grad_()
        (g,) = nt.autograd.grad(model(x).sum(), x, create_graph=True)
        loss = (g**2).sum()
        loss.backward()
        optimizer.step()
        return loss, x.grad

    return step, state_of(model)


@kind
def arguments_that_require_grad() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        x = x.clone().requires_grad_(number % 2 == 0)
        y = x * 2
        (model(y) + model(x)).sum().backward()
        return x.grad

    return step, state_of(model)


@kind
def writes_in_place() -> Any:
    model, optimizer = model_and_optimizer()
    total = nt.zeros(2)

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        h = model[0](x)
        h += 1
        h[0] = x.sum()
        h = h.relu_()
        out = model[2](h)
        with nt.no_grad():
            total.add_(out.mean(0))
            model[0].bias.mul_(0.5)
        out.sum().backward()
        optimizer.step()
        x.mul_(2)
        return out, total

    return step, state_of(model)


@kind
def values_that_are_overwritten_before_backward() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        h = model[0](x)
        y = h.exp() if number % 2 else h * h
        loss = (y * 2).sum()
        with nt.no_grad():
            (y if number % 2 else h).zero_()
        loss.backward()
        return loss

    return step, state_of(model)


@kind
def weights_that_are_overwritten_before_backward() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        loss = model(x).sum()
        if number == 4:
            with nt.no_grad():
                model[2].weight.mul_(2)
        if number == 5:
            model[2].weight.data = nt.ones(2, 4)
        loss.backward()
        return loss

    return step, state_of(model)


@kind
def views_of_outputs() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        h = model[0](x)
        v = h.t()[1:].reshape(-1)
        w = h.view(2, 8).transpose(0, 1)
        loss = (v**2).sum() + (w.exp() * 0.1).sum()
        loss.backward()
        return v, w, h.t().is_contiguous(), v._is_view()

    return step, state_of(model)


@kind
def views_that_are_written_to() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        h = model[0](x)
        v = h.t()
        if number % 2:
            v[0] = 1.0
        loss = (v * h.t()).sum()
        loss.backward()
        return v, h

    return step, state_of(model)


@kind
def hooks() -> Any:
    model, optimizer = model_and_optimizer()
    seen: list[Any] = []
    model[0].register_forward_hook(lambda module, args, out: seen.append(out))

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        h = model(x)
        if number % 2:
            h.register_hook(lambda g: g * 2)
            h.retain_grad()
        handle = model[0].weight.register_hook(lambda g: seen.append(g))
        loss = (h**2).mean()
        if number == 4:
            loss.grad_fn.register_hook(lambda gs, g: seen.append(g))
        loss.backward()
        handle.remove()
        optimizer.step()
        return loss, h.grad if number % 2 else None

    return step, lambda: (state_of(model)(), list(seen))


@kind
def exceptions_in_the_middle() -> Any:
    model, optimizer = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        if number == 3:
            raise ValueError("in the middle")
        if number == 4:
            model(x[:, :2])
        optimizer.step()
        return loss

    return step, state_of(model)


class Doubled(nt.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * 2 + x * 0


@kind
def functions_of_the_user() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        loss = Doubled.apply(model(x)).sum() + model[0](x).sum()
        loss.backward()
        return loss

    return step, state_of(model)


@kind
def modes_that_change() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        with nt.set_grad_enabled(number % 2 == 0):
            y = model(x)
        with nt.inference_mode(number % 3 == 0):
            z = x * 2
        return y, z, z.is_inference()

    return step


@kind
def forward_mode_and_autocast() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        with nt.autograd.forward_ad.dual_level():
            dual = nt.autograd.forward_ad.make_dual(x, nt.ones(4, 3))
            tangent = nt.autograd.forward_ad.unpack_dual(model(dual)).tangent
        with nt.autocast("cpu", nt.bfloat16, enabled=number % 2 == 0):
            y = model(x)
        y.float().sum().backward()
        return tangent, y

    return step, state_of(model)


@kind
def anomalies_and_saved_tensor_hooks() -> Any:
    model, _ = model_and_optimizer()
    packed: list[Any] = []

    def pack(x: Any) -> Any:
        packed.append(x.shape)
        return x

    def step(x: Any, number: int) -> Any:
        with nt.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            y = model(x) if number % 2 else model(x * 2)
        y.sum().backward()
        return y

    return step, lambda: (state_of(model)(), list(packed))


@kind
def a_step_within_a_step() -> Any:
    model, _ = model_and_optimizer()
    inner = nt.compile(lambda x: model(x).tanh())

    def step(x: Any, number: int) -> Any:
        loss = inner(x).sum() + inner(x * 2).sum()
        loss.backward()
        return loss

    return step, state_of(model)


@kind
def loops_of_several_lengths() -> Any:
    cell = nn.Linear(3, 3)

    def step(x: Any, number: int) -> Any:
        h = x
        for _ in range(number % 3 + 1):
            h = cell(h).tanh()
        h.sum().backward()
        return h

    return step, state_of(cell)


@kind
def every_optimizer_step_by_hand() -> Any:
    w = nt.randn(3, 2, requires_grad=True)

    def step(x: Any, number: int) -> Any:
        loss = ((x @ w) ** 2).mean()
        loss.backward()
        with nt.no_grad():
            w.sub_(w.grad * (0.1 / (number + 1)))
        w.grad = None
        return loss

    return step, lambda: w


@kind
def gradients_that_are_set_by_hand() -> Any:
    w = nt.randn(3, 2, requires_grad=True)

    def step(x: Any, number: int) -> Any:
        w.grad = nt.full((3, 2), float(number))
        loss = ((x @ w) ** 2).mean() + (w.grad * w).sum()
        loss.backward()
        g = w.grad
        return loss, g, g._version

    return step, lambda: (w, w.grad)


@kind
def data_of_an_output_that_is_replaced() -> Any:
    model, _ = model_and_optimizer()

    def step(x: Any, number: int) -> Any:
        h = model[0](x)
        y = h.exp() + h * h
        h.data = nt.ones(4, 4)
        loss = (y + h * h).sum()
        loss.backward()
        return loss

    return step, state_of(model)


@kind
def data_of_an_output_that_is_replaced_beside_its_consumer() -> Any:
    model, _ = model_and_optimizer()
    w = nt.randn(4, 2, requires_grad=True)

    def step(x: Any, number: int) -> Any:
        h = model[0](x)
        y = h @ w
        h.data = nt.full((4, 4), float(number))
        h.data = y.detach().repeat(1, 2)
        loss = y.sum()
        loss.backward()
        return loss, w.grad

    return step, state_of(model)


@kind
def a_leaf_in_two_roles() -> Any:
    w = nt.randn(3, 3, requires_grad=True)

    def step(x: Any, number: int) -> Any:
        y = x @ w @ w + w.sum() * (x * w[0]).sum() + x @ w.detach()
        y.sum().backward()
        return y, w.grad

    return step


@kind
def an_output_that_requires_no_grad_and_then_does() -> Any:
    def step(x: Any, number: int) -> Any:
        y = x * 2
        y.requires_grad_(number % 2 == 0)
        z = (y * 3).sum()
        if number % 2 == 0:
            z.backward()
        return y.grad, z

    return step


@pytest.mark.parametrize("name", KINDS)
def test_a_compiled_step_does_what_the_eager_one_does(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0), random.seed(0), np.random.seed(0)
        step, left = KINDS[name]()
        run = nt.compile(step) if compiled else step
        seen = []
        for number in range(CALLS):
            x = nt.randn(4, 3)
            seen.append((outcome(lambda: run(x, number)), bits(x), bits(left())))  # noqa: B023
        results.append((seen, capsys.readouterr().out))
    for eager, compiled_ in zip(results[0][0], results[1][0], strict=True):
        assert eager == compiled_
    assert results[0][1] == results[1][1]


def test_what_a_call_has_computed_is_freed_without_the_garbage_collector() -> None:
    model, _ = model_and_optimizer()
    alive: list[weakref.ref[Any]] = []

    @nt.compile
    def step(x: Any, backward: bool) -> Any:
        h = model[0](x)
        y = h.exp() * h.t().t()
        loss = (model[2](y.tanh()) ** 2).mean()
        alive[:] = [weakref.ref(value) for value in (h, y, loss)]
        if backward:
            loss.backward()
        return loss

    gc.disable()
    try:
        for number in range(8):
            loss = step(nt.randn(4, 3), number % 2 == 0)
            assert alive[2]() is loss
            if number % 3 == 0:
                assert loss.grad_fn is not None
            del loss
            assert [value() for value in alive] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "mode",
    [
        nt.no_grad,
        nt.inference_mode,
        lambda: nt.autograd.graph.save_on_cpu(),
        nt.autograd.detect_anomaly,
    ],
    ids=["no_grad", "inference_mode", "saved-tensor hooks", "anomaly"],
)
def test_a_step_is_matched_in_a_thread_that_has_set_one_mode_before(mode: Any) -> None:
    seen: list[str] = []

    def work() -> None:
        with mode():
            pass
        layer, x = nt.nn.Linear(3, 1), nt.ones(2, 3)
        step = nt.compile(lambda: layer(x).sum().backward())
        for _ in range(3):
            step()
        seen.append(str(step.plan()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen and "by the engine" not in seen[0]


# Models with several leaves of the same cotangent.
ALIKE: dict[str, Callable[[], tuple[Any, list[Any]]]] = {
    "RNNCell": lambda: of_modules(nn.RNNCell(3, 2)),
    "LSTM": lambda: of_modules(nn.LSTM(3, 2)),
    "two linears": lambda: of_modules(nn.Linear(3, 2), nn.Linear(3, 2)),
    "a sum": lambda: of_leaves(2, 3),
    "a sum of rows": lambda: of_leaves(3),
}


def of_modules(*modules: Any) -> tuple[Any, list[Any]]:
    def forward(x: Any) -> Any:
        results = [module(x) for module in modules]
        return sum(y[0] if isinstance(y, tuple) else y for y in results)

    return forward, [p for module in modules for p in module.parameters()]


def of_leaves(*shape: int) -> tuple[Any, list[Any]]:
    leaves = [nt.randn(shape, requires_grad=True) for _ in range(3)]
    return lambda x: x + leaves[0] + leaves[1] - leaves[2], leaves


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("name", ALIKE)
def test_each_leaf_has_a_gradient_of_its_own(name: str, pure: bool) -> None:
    seen: list[Any] = []
    for compiled in (False, True):
        nt.manual_seed(0)
        forward, leaves = ALIKE[name]()

        def step(x: Any, forward: Any = forward, leaves: Any = leaves) -> Any:
            for leaf in leaves:
                leaf.grad = None
            forward(x).square().sum().backward()
            nn.utils.clip_grad_norm_(leaves, 0.1)

        run = nt.compile(step, pure=pure) if compiled else step
        seen.append([])
        for _ in range(4):
            run(nt.ones(2, 3))
            seen[-1].append([leaf.grad.tolist() for leaf in leaves])
        arrays = [leaf.grad.numpy() for leaf in leaves]
        assert not any(np.shares_memory(a, b) for a, b in itertools.pairwise(arrays))
    assert seen[0] == seen[1]


class OfContainers(nn.Module):
    """Parameters in a list, in a dictionary, and of a layer that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(nt.ones(()))])
        self.options = nn.ParameterDict({"w": nn.Parameter(nt.ones(()))})
        self.layers = nn.ModuleList([nn.ModuleDict({"one": nn.Linear(3, 3)})])

    def forward(self, x: Any) -> Any:
        x = x * self.weights[0] * self.options["w"]
        return F.linear(x, self.layers[0]["one"].weight)  # type: ignore[index]


@pytest.mark.parametrize("name", ["weights.0", "options.w", "layers.0.one.weight"])
@pytest.mark.parametrize("how", ["assign", "setattr"])
def test_a_replaced_parameter_of_a_container_is_noticed(name: str, how: str) -> None:
    model = OfContainers()

    @nt.compile(pure=True)
    def step(x: Any) -> Any:
        with nt.no_grad():
            return model(x).sum()

    x = nt.ones(2, 3)
    for _ in range(3):
        before = step(x)
    halves = {k: v * (0.5 if k == name else 1) for k, v in model.state_dict().items()}
    if how == "assign":
        model.load_state_dict(halves, assign=True)
    else:
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, nn.Parameter(halves[name]))
    assert (step(x), step(x)) == (before * 0.5, before * 0.5)


SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
    "one cycle": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=9),
    "warm restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 2),
    "sequential": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5), s.ExponentialLR(o, 0.8)], milestones=[2]
    ),
    "chained": lambda s, o: s.ChainedScheduler([s.ExponentialLR(o, 0.9), s.ConstantLR(o, 0.5)]),
    "plateau": lambda s, o: s.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_stepped_at_each_call_of_a_step(name: str, pure: bool) -> None:
    seen: list[Any] = []
    for compiled in (False, True):
        nt.manual_seed(0)
        layer = nn.Linear(3, 1)
        optimizer = optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
        schedule = SCHEDULES[name](optim.lr_scheduler, optimizer)

        def step(x: Any, layer: Any = layer, o: Any = optimizer, s: Any = schedule) -> Any:
            o.zero_grad()
            loss = layer(x).square().mean()
            loss.backward()
            o.step()
            s.step(*([1.0] if name == "plateau" else []))
            return loss

        run: Any = nt.compile(step, pure=pure) if compiled else step
        losses = [run(nt.ones(2, 3)).item() for _ in range(7)]
        state = (
            (layer.weight.tolist(), schedule.get_last_lr(), schedule.last_epoch)
            if name != ("chained")
            else (layer.weight.tolist(), schedule.get_last_lr())
        )
        seen.append((losses, state))
        if compiled and pure:
            assert run._eager is None
    assert seen[0] == seen[1]


# --- what a pure step still sees of what happens between its calls --------------------------------


class Trained:
    """A linear model with two optimizers, of which steps use one or both, and a third parameter."""

    def __init__(self) -> None:
        nt.manual_seed(0)
        self.model, self.other = nn.Linear(3, 1), nn.Parameter(nt.ones(2))
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.1)
        self.second = optim.SGD([self.other], lr=0.5)
        self.target = nt.ones(4, 1)
        self.kept: list[Any] = []
        self.log: list[Any] = []

    def loss(self, x: nt.Tensor) -> nt.Tensor:
        return F.binary_cross_entropy_with_logits(self.model(x), self.target)

    def keep(self, *_: Any) -> None:
        gradient = self.model.weight.grad
        if gradient is not None:
            self.kept += [gradient, gradient.clone()]

    def optimize(self, x: nt.Tensor) -> Any:
        loss = self.loss(x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def seen(self) -> Any:
        leaves = [*self.model.parameters(), self.other]
        groups = [{**g, "params": len(g["params"])} for g in self.optimizer.param_groups]
        gradients = [p.grad if p.grad is None else p.grad.tolist() for p in leaves]
        return bits([leaves, gradients, groups, self.log, [g.tolist() for g in self.kept]])


TRAINED: dict[str, Callable[[Trained, nt.Tensor], Any]] = {
    "cleared": lambda t, x: (t.optimizer.zero_grad(), t.optimize(x))[1],
    "filled with zeros": lambda t, x: (t.optimizer.zero_grad(set_to_none=False), t.optimize(x))[1],
    "cleared at the end": lambda t, x: (t.optimize(x), t.optimizer.zero_grad())[0],
    "cleared by the model": lambda t, x: (t.model.zero_grad(), t.optimize(x))[1],
    "never cleared": lambda t, x: t.optimize(x),
    "with two optimizers": lambda t, x: (
        t.optimizer.zero_grad(), t.second.zero_grad(), t.other.sum().backward(), t.second.step(),
        t.optimize(x),
    )[-1],
    "with two passes": lambda t, x: (
        t.optimizer.zero_grad(), t.optimize(x), t.optimizer.zero_grad(), t.optimize(x)
    )[-1],
    "clipped": lambda t, x: (
        t.optimizer.zero_grad(), t.loss(x).backward(),
        nn.utils.clip_grad_norm_(t.model.parameters(), 0.01), t.optimizer.step(),
    )[-1],
    "where nothing is learned": lambda t, x: t.loss(x).detach(),
}  # fmt: skip


def options(**values: Any) -> Callable[[Trained], Any]:
    return lambda t: t.optimizer.param_groups[0].update(values)


def loaded(t: Trained) -> None:
    state = t.optimizer.state_dict()
    state["param_groups"][0] |= {"lr": 0.7, "momentum": 0.9}
    t.optimizer.load_state_dict(state)


CHANGES: dict[str, Callable[[Trained], Any]] = {
    "nothing": lambda t: None,
    "another learning rate": options(lr=0.3),
    "a learning rate of zero": options(lr=0.0),
    "momentum": options(momentum=0.9),
    "decay, and uphill": options(weight_decay=0.1, maximize=True),
    "an option of the user's": options(note="mine"),
    "another group": lambda t: t.optimizer.add_param_group({"params": [t.other], "lr": 0.2}),
    "one parameter more": lambda t: t.optimizer.param_groups[0]["params"].append(t.other),
    "parameters in another order": lambda t: t.optimizer.param_groups[0]["params"].reverse(),
    "other options that were saved": loaded,
    "another array": lambda t: setattr(t.model.weight, "data", t.model.weight.data * 2),
    "another parameter of the model": lambda t: setattr(
        t.model, "weight", nn.Parameter(nt.full((1, 3), 0.5))
    ),
    "no bias": lambda t: setattr(t.model, "bias", None),
    "a bias by another way": lambda t: t.model.__dict__.update(bias=nn.Parameter(nt.ones(1))),
    "a gradient elsewhere": lambda t: setattr(t.other, "grad", nt.ones(2)),
    "no gradient": lambda t: setattr(t.model.bias, "grad", None),
    "another gradient": lambda t: setattr(t.model.weight, "grad", nt.ones(1, 3)),
    "a larger gradient": lambda t: t.model.weight.grad is None or t.model.weight.grad.mul_(2),
    "a gradient kept": Trained.keep,
    "a gradient kept by a hook": lambda t: t.optimizer.register_step_pre_hook(t.keep),
    "a hook after the step": lambda t: t.optimizer.register_step_post_hook(
        lambda *_: t.log.append(t.model.bias.tolist())
    ),
    "a hook of the weight": lambda t: t.model.weight.register_hook(lambda g: g * 2),
    "a hook of the model": lambda t: t.model.register_forward_hook(lambda m, a, y: y * 2),
    "a frozen bias": lambda t: t.model.bias.requires_grad_(False),
    "a frozen weight": lambda t: t.model.weight.requires_grad_(False),
    "evaluation": lambda t: t.model.eval(),
}


# A gradient that is filled with zeros is not its keeper's own.
PAIRS = [
    (step, change)
    for step, change in itertools.product(TRAINED, CHANGES)
    if not (step == "filled with zeros" and "kept" in change)
]


@pytest.mark.filterwarnings("ignore:compile")  # hooks keep the step eager
@pytest.mark.parametrize("step, change", PAIRS)
def test_a_pure_step_sees_what_has_changed_since_the_last(step: str, change: str) -> None:
    eager, pure = Trained(), Trained()
    compiled = nt.compile(functools.partial(TRAINED[step], pure), pure=True)
    for number in range(9):
        x = nt.randn(4, 3, generator=nt.Generator().manual_seed(number))
        if number == 4:
            assert compiled._eager is None and compiled._recordings <= 2
            CHANGES[change](eager), CHANGES[change](pure)
        expected = outcome(functools.partial(TRAINED[step], eager, x))
        assert outcome(functools.partial(compiled, x)) == expected
        assert pure.seen() == eager.seen()


@pytest.mark.parametrize("mode", [nt.no_grad, nt.inference_mode, nt.enable_grad])
def test_a_pure_step_is_recorded_anew_in_another_mode(mode: Any) -> None:
    w = nt.ones(3, requires_grad=True)
    compiled = nt.compile(lambda x: (w * x).sum().detach(), pure=True)
    for x in [nt.full((3,), float(n)) for n in range(4)]:
        assert compiled(x).item() == x.sum()
        with mode():
            assert compiled(x).item() == x.sum()
    assert compiled._recordings == (1 if mode is nt.enable_grad else 2)


@pytest.mark.filterwarnings("ignore:compile")
def test_the_warning_that_a_step_stays_eager_names_the_user_s_line() -> None:
    reads = nt.compile(lambda x: x * x.sum().item(), pure=True)
    takes = nt.compile(lambda x, options: x * 2, pure=True)
    with pytest.warns(UserWarning, match="runs eagerly") as warned:
        reads(nt.ones(2))
        takes(nt.ones(2), object())
    assert [one.filename for one in warned] == [__file__] * 2
    assert warned[1].lineno == warned[0].lineno + 1


@pytest.mark.parametrize("pure", [True, False])
@pytest.mark.parametrize("step", [lambda x: x * 2, lambda x: (x * 2, x + 1)], ids=["one", "two"])
def test_what_is_made_in_inference_mode_says_so_in_replays(pure: bool, step: Any) -> None:
    compiled, x = nt.compile(step, pure=pure), nt.ones(3)
    for _ in range(3):
        with nt.inference_mode():
            found = compiled(x)
        assert all(y.is_inference() for y in (found if isinstance(found, tuple) else (found,)))
        assert not any(y.is_inference() for y in nt.atleast_1d(compiled(x)[0], x))
