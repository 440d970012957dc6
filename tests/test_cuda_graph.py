"""A compiled step on a GPU: one CUDA graph, with the bits and the live values of an eager step.

Runs on the strict look-alike of CuPy; with `pytest -m gpu` on CuPy itself.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import op_table
import pytest
import strict_cupy
import training_steps
from strict_cupy import graphs
from test_ops_on_cuda import ON_CUDA, SOLVING
from training_steps import (
    FEATURES,
    MODELS,
    OPTIMIZERS,
    ROWS,
    Step,
    logistic,
    perceptron,
    softmax,
)

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.compile.cuda_graph import CudaPlan

batches = functools.partial(training_steps.batches, device="cuda")
training_step = functools.partial(training_steps.training_step, device="cuda")


def bits(tensors: Any) -> list[bytes]:
    return [t.detach().cpu().numpy().tobytes() for t in tensors]


def plan_of(compiled: Any) -> CudaPlan:
    """The plan of the function's only recording."""
    ((replay,),) = compiled._replays.values()
    assert isinstance(replay.plan, CudaPlan)
    return replay.plan


def is_a_graph(compiled: Any) -> bool:
    plan = plan_of(compiled)
    return compiled._eager is None and plan.why_not is None and None in plan.launches


def reasons(compiled: Step, data: list[tuple[nt.Tensor, nt.Tensor]] | None = None) -> list[str]:
    """What a compiled function says of itself in some calls."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for x, y in data or batches(4):
            compiled(x, y)
    return [str(w.message) for w in told]


# --- a replay -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_graph_has_the_bits_of_an_eager_step(cuda: str, model: str, optimizer: str) -> None:
    make, loss, classes = MODELS[model]
    results = []
    for compiled in (False, True):
        step, trained, _ = training_step(make, OPTIMIZERS[optimizer], loss)
        run: Any = nt.compile(step, pure=True) if compiled else step
        data = batches(7, classes)
        nt.manual_seed(1)  # dropout draws
        losses = [run(x, y).item() for x, y in data]
        after = nt.rand(3, device="cuda").tolist()  # the stream goes on as after eager steps
        results.append((losses, bits(trained.state_dict().values()), after))
        if compiled:
            assert is_a_graph(run)
    assert results[0] == results[1]


@pytest.mark.parametrize("model", ["logistic", "softmax", "perceptron with dropout"])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd with momentum"])
def test_a_replay_copies_its_inputs_and_launches_once(
    cuda: str, model: str, optimizer: str
) -> None:
    if cuda == "cupy":
        pytest.skip("events are counted on the look-alike alone")
    make, loss, classes = MODELS[model]
    step, *_ = training_step(make, OPTIMIZERS[optimizer], loss)
    compiled = nt.compile(step, pure=True)
    for x, y in batches(4, classes):
        compiled(x, y)
    counts = strict_cupy.counts
    for x, y in batches(3, classes):
        counts.reset()
        compiled(x, y)
        assert counts.graph_launches == 1
        assert counts.device_copies == 2 + 1  # what comes in, and the loss
        assert (counts.h2d, counts.d2h, counts.synchronizations) == (0, 0, 0)
        assert (counts.launches, counts.allocations) == (0, 0)


def test_an_argument_that_is_always_the_same_is_read_where_it_lies(cuda: str) -> None:
    data = batches(3)
    (x, y), (other, _), _ = data
    results = []
    for compiled in (False, True):
        step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
        run: Any = nt.compile(step, pure=True) if compiled else step
        mine = x.clone()
        losses, copies = [], []
        for number in range(12):
            if number == 5:
                mine.add_(1.0)  # what is written to it is seen
            given = other if number in (7, 9) else mine
            strict_cupy.counts.reset()
            losses.append(run(given, y).item())
            copies.append(strict_cupy.counts.device_copies)
        results.append((losses, bits(model.parameters())))
    assert results[0] == results[1]
    if cuda != "cupy":
        assert copies[2:7] == [1] * 5  # the loss
        assert copies[8:] == [2] * 4  # and x, since another one was given; y is the same


def test_numbers_that_change_from_step_to_step_take_one_launch_more(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("events are counted on the look-alike alone")
    step, _, optimizer = training_step(perceptron, OPTIMIZERS["adamw"])
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    compiled = nt.compile(step, pure=True)
    data = batches(6)
    for x, y in data[:3]:
        compiled(x, y)
        schedule.step()
    for x, y in data[3:]:
        strict_cupy.counts.reset()
        compiled(x, y)
        schedule.step()
        counts = strict_cupy.counts
        assert (counts.h2d, counts.d2h, counts.synchronizations) == (0, 0, 0)
        assert (counts.graph_launches, counts.launches, counts.allocations) == (1, 1, 0)


def test_learning_rates_momentum_and_schedules_follow_the_live_values(cuda: str) -> None:
    for optimizer_name in OPTIMIZERS:
        results = []
        for compiled in (False, True):
            step, model, optimizer = training_step(logistic, OPTIMIZERS[optimizer_name])
            schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            run: Any = nt.compile(step, pure=True) if compiled else step
            for number, (x, y) in enumerate(batches(6)):
                run(x, y)
                schedule.step()
                if "momentum" in optimizer_name:
                    optimizer.param_groups[0]["momentum"] = 0.9 - 0.1 * number
            results.append(bits(model.parameters()))
            if compiled:
                assert is_a_graph(run)
        assert results[0] == results[1]


@pytest.mark.parametrize("name", ["exponential", "one cycle", "chained"])
def test_a_schedule_within_the_step_is_stepped_before_each_launch(cuda: str, name: str) -> None:
    make: Any = {
        "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
        "one cycle": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=9),
        "chained": lambda s, o: s.ChainedScheduler([s.ExponentialLR(o, 0.9), s.ConstantLR(o)]),
    }[name]
    results = []
    for compiled in (False, True):
        inner, model, optimizer = training_step(logistic, OPTIMIZERS["sgd with momentum"])
        schedule = make(optim.lr_scheduler, optimizer)

        def step(x: Any, y: Any, inner: Any = inner, schedule: Any = schedule) -> Any:
            loss = inner(x, y)
            schedule.step()
            return loss

        run: Any = nt.compile(step, pure=True) if compiled else step
        for x, y in batches(6):
            run(x, y)
        results.append((bits(model.parameters()), schedule.get_last_lr()))
        if compiled:
            assert is_a_graph(run)
    assert results[0] == results[1]


def test_clipping_and_accumulated_gradients_are_part_of_the_graph(cuda: str) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = logistic().to("cuda")
        optimizer = optim.SGD(model.parameters(), lr=0.5)

        def step(x: nt.Tensor, y: nt.Tensor, model: Any = model, optimizer: Any = optimizer) -> Any:
            half = ROWS // 2
            for part in (slice(None, half), slice(half, None)):
                loss = nn.functional.mse_loss(model(x[part]), y[part])
                loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), 0.5)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            return loss, norm

        run = nt.compile(step, pure=True) if compiled else step
        seen = [tuple(v.item() for v in run(x, y)) for x, y in batches()]
        results.append((seen, bits(model.parameters()), model.weight.grad))
        if compiled:
            assert is_a_graph(run)
    assert results[0] == results[1]


def test_gradients_land_on_the_leaves_and_versions_are_counted(cuda: str) -> None:
    results = []
    for compiled in (False, True):
        step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
        run: Any = nt.compile(step, pure=True) if compiled else step
        seen = []
        for x, y in batches():
            run(x, y)
            seen.append((bits(p.grad for p in model.parameters()), model.weight._version))
        results.append(seen)
    assert results[0] == results[1]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gradients_that_add_up_from_call_to_call_are_replayed(cuda: str, device: str) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = logistic().to(device)

        def add(x: nt.Tensor, y: nt.Tensor, model: Any = model) -> Any:
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        run: Any = nt.compile(add, pure=True) if compiled else add
        seen, held = [], None
        for number, (x, y) in enumerate(batches(12, device=device)):
            run(x, y)
            held = model.weight.grad if held is None else held
            assert model.weight.grad is held  # which sees what is added
            seen.append(bits(p.grad for p in model.parameters()))
            if number == 8:
                model.weight.grad.mul_(0.5)
        results.append(seen)
        if compiled:
            assert run._recordings == 2 and run._eager is None  # without gradients, and with
    assert results[0] == results[1]


HELD: list[Any] = []


@nt.compile(pure=True)
def step(x: nt.Tensor) -> nt.Tensor:
    model, optimizer = HELD
    optimizer.zero_grad()
    loss = model(x).sum()
    loss.backward()
    optimizer.step()
    return loss


def test_a_step_may_be_called_as_the_method_that_it_calls(cuda: str) -> None:
    model = logistic().to("cuda")
    HELD[:] = [model, optim.SGD(model.parameters(), lr=0.1)]
    for x, _ in batches(4):
        step(x)
    assert is_a_graph(step)


def test_gradients_may_be_filled_with_zeros_instead(cuda: str) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = logistic().to("cuda")
        optimizer = optim.SGD(model.parameters(), lr=0.5)

        def step(x: nt.Tensor, y: nt.Tensor, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad(set_to_none=False)
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        run = nt.compile(step, pure=True) if compiled else step
        for x, y in batches(7):
            run(x, y)
        results.append(bits([*model.parameters(), model.weight.grad]))
    assert results[0] == results[1]


def test_evaluation_is_a_graph_of_its_own(cuda: str) -> None:
    model = perceptron().to("cuda").eval()

    @nt.compile(pure=True)
    @nt.no_grad()
    def evaluate(x: nt.Tensor, y: nt.Tensor) -> Any:
        out = model(x)
        return {"right": ((out > 0) == (y > 0.5)).sum(), "out": (out, y)}

    for x, y in batches():
        with nt.no_grad():
            expected = model(x)
        found = evaluate(x, y)
        assert nt.equal(found["out"][0], expected)
        assert found["out"][1] is y
        assert found["right"].item() == ((expected > 0) == (y > 0.5)).sum().item()
    assert is_a_graph(evaluate)


def test_each_shape_and_each_mode_has_a_graph_of_its_own(cuda: str) -> None:
    results = []
    for compiled in (False, True):
        step, model, _ = training_step(perceptron, OPTIMIZERS["sgd"])
        run: Any = nt.compile(step, pure=True) if compiled else step
        nt.manual_seed(1)
        for _ in range(4):
            for x, y in batches(2):
                for rows in (ROWS, 5):
                    run(x[:rows], y[:rows])
        model.eval()
        for x, y in batches(4):
            run(x, y)
        model.train()
        for x, y in batches(2):
            run(x, y)
        results.append(bits(model.parameters()))
        if compiled:
            assert run._recordings == 3
            plans = [replay.plan for found in run._replays.values() for replay in found]
            assert [list(plan.launches) for plan in plans] == [[None]] * 3
    assert results[0] == results[1]


def test_arguments_of_the_host_are_copied_in_and_moved(cuda: str) -> None:
    results = []
    for compiled in (False, True):
        step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
        scale = nt.tensor(2.0)

        def moved(x: nt.Tensor, y: nt.Tensor, step: Any = step, scale: Any = scale) -> Any:
            return step(x.to("cuda") * scale, y.to("cuda", non_blocking=True))

        run: Any = nt.compile(moved, pure=True) if compiled else moved
        losses = []
        for x, y in batches(6, device="cpu"):
            losses.append(run(x, y.pin_memory()).item())
            scale.mul_(1.5)
        results.append((losses, bits(model.parameters())))
        if compiled:
            assert is_a_graph(run)
    assert results[0] == results[1]


def test_steps_of_the_second_device_are_graphs_there(cuda: str) -> None:
    if nt.cuda.device_count() < 2:
        pytest.skip("there is one device")
    results = []
    for device in ("cuda:0", "cuda:1"):
        step, model, _ = training_step(
            softmax, OPTIMIZERS["adamw"], nn.CrossEntropyLoss(), device=device
        )
        run = nt.compile(step, pure=True)
        losses = [run(x, y) for x, y in batches(6, 3, device=device)]
        assert all(str(loss.device) == device for loss in losses)
        assert is_a_graph(run)
        results.append((bits(losses), bits(model.parameters())))
    assert results[0] == results[1]


def test_a_step_on_two_devices_stays_eager(cuda: str) -> None:
    if nt.cuda.device_count() < 2:
        pytest.skip("there is one device")

    def both(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        return (x * 2).to("cuda:1") + 1

    compiled = nt.compile(both, pure=True)
    (told,) = reasons(compiled)
    assert "computes on two GPUs, cuda:0 and cuda:1" in told and "test_cuda_graph.py:" in told


def test_graphs_follow_the_stream_that_is_current(cuda: str) -> None:
    data = batches(8)
    results = []
    for compiled in (False, True):
        step, model, _ = training_step(perceptron, OPTIMIZERS["adamw"])
        run: Any = nt.compile(step, pure=True) if compiled else step
        streams = [nt.cuda.Stream(), nt.cuda.Stream()]
        for stream in streams:
            stream.wait_stream(nt.cuda.default_stream())
        nt.manual_seed(1)
        losses = []
        for number, (x, y) in enumerate(data):
            stream, other = streams[number % 2], streams[1 - number % 2]
            if number != 4:
                stream.wait_stream(other)
            if number == 4:
                stream.wait_stream(other)
            with nt.cuda.stream(stream):
                losses.append(run(x, y))
        nt.cuda.synchronize()
        results.append((bits(losses), bits(model.parameters())))
    assert results[0] == results[1]


def test_calls_on_streams_that_know_nothing_of_each_other_take_turns(cuda: str) -> None:
    @nt.compile(pure=True)
    @nt.no_grad()
    def norm(x: nt.Tensor) -> nt.Tensor:
        return (x * x).sum().sqrt()

    norm(nt.ones(100, device="cuda")), norm(nt.ones(100, device="cuda"))
    inputs = [nt.full((100,), float(k), device="cuda") for k in range(1, 5)]
    nt.cuda.synchronize()
    streams = [nt.cuda.Stream() for _ in inputs]
    found = []
    for stream, x in zip(streams * 3, inputs * 3, strict=True):
        with nt.cuda.stream(stream):
            found.append(norm(x))
    nt.cuda.synchronize()
    assert [y.item() for y in found] == [10.0 * k for k in range(1, 5)] * 3


def test_gradients_that_are_kept_are_copied_in_turn(cuda: str) -> None:
    model = logistic().to("cuda")

    def gradients(x: nt.Tensor, y: nt.Tensor) -> None:
        model.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()

    data = batches(8)
    expected = []
    for x, y in data:
        gradients(x, y)
        expected.append(bits([model.weight.grad]))
    compiled = nt.compile(gradients, pure=True)
    nt.cuda.synchronize()
    streams, kept = [nt.cuda.Stream() for _ in range(3)], []
    for number, (x, y) in enumerate(data):
        with nt.cuda.stream(streams[number % 3]):
            compiled(x, y)
        kept.append(model.weight.grad)
    nt.cuda.synchronize()
    assert [bits([g]) for g in kept] == expected


def test_draws_of_graphs_and_of_other_streams_take_turns(cuda: str) -> None:
    @nt.compile(pure=True)
    @nt.no_grad()
    def noise(x: nt.Tensor) -> nt.Tensor:
        return nn.functional.dropout(x, 0.5)

    results = []
    for streams in ([None] * 2, [nt.cuda.Stream(), nt.cuda.Stream()]):
        nt.manual_seed(0)
        x = nt.ones(64, device="cuda")
        nt.cuda.synchronize()
        found = []
        for number in range(8):
            with nt.cuda.stream(streams[number % 2]):
                found.append(noise(x) if number % 3 else nt.rand(5, device="cuda"))
        nt.cuda.synchronize()
        results.append([y.tolist() for y in found])
    assert results[0] == results[1]


def test_threads_take_turns(cuda: str) -> None:
    @nt.compile(pure=True)
    @nt.no_grad()
    def norm(x: nt.Tensor) -> nt.Tensor:
        return (x * x).sum().sqrt()

    norm(nt.ones(100, device="cuda")), norm(nt.ones(100, device="cuda"))
    wrong = []

    def work(k: int) -> None:
        x = nt.full((100,), float(k), device="cuda")
        for _ in range(50):
            if norm(x).item() != 10.0 * k:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- what could go wrong: right, or told ----------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_outputs_and_gradients_that_are_kept_do_not_change(cuda: str, device: str) -> None:
    if nt.cuda.device_count() < 2 and device == "cuda:1":
        pytest.skip("there is one device")
    step, model, _ = training_step(logistic, OPTIMIZERS["sgd"], device=device)
    compiled = nt.compile(step, pure=True)
    losses, gradients, values = [], [], []
    for x, y in batches(8, device=device):
        losses.append(compiled(x, y))
        gradients.append(model.weight.grad)
        values.append((losses[-1].item(), gradients[-1].tolist()))
    assert [(a.item(), g.tolist()) for a, g in zip(losses, gradients, strict=True)] == values
    assert len({v[0] for v in values}) == len(values)
    assert {str(g.device) for g in gradients} == {str(a.device) for a in losses} == {device}


@pytest.mark.parametrize("several", [False, True])
def test_views_of_a_gradient_keep_it(cuda: str, several: bool) -> None:
    results = []
    for compiled in (False, True):
        step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
        run: Any = nt.compile(step, pure=True) if compiled else step
        kept = []
        for number, (x, y) in enumerate(batches(16)):
            if compiled and several:
                run.steps(x.unsqueeze(0), y.unsqueeze(0))
            else:
                run(x, y)
            if number in (1, 4, 5, 9):
                gradient = model.weight.grad
                kept.append(gradient[:, 2:] if number % 2 else gradient.detach())
                del gradient
            if number == 7:
                results.append([g.tolist() for g in kept])
                kept.clear()
        results.append([g.tolist() for g in kept])
        results.append(bits(model.parameters()))
        if compiled:
            assert run._eager is None
            strict_cupy.counts.reset()
            kept.clear()
            run.steps(x.unsqueeze(0), y.unsqueeze(0)) if several else run(x, y)
            assert cuda == "cupy" or strict_cupy.counts.graph_launches == 1
    assert results[:3] == results[3:]


def test_views_of_an_output_keep_it(cuda: str) -> None:
    double = nt.compile(nt.no_grad()(lambda x: x * 2), pure=True)
    kept = []
    for k in range(8):
        y = double(nt.full((3, 4), float(k), device="cuda"))
        kept.append(y.detach()[1:, 0])
        del y
    assert [v.tolist() for v in kept] == [[2.0 * k] * 2 for k in range(8)]


def test_a_frozen_parameter_stays_frozen_and_freezing_later_is_noticed(cuda: str) -> None:
    step, model, _ = training_step(logistic, OPTIMIZERS["adamw"])
    compiled = nt.compile(step, pure=True)
    data = batches(8)
    for x, y in data[:3]:
        compiled(x, y)
    model.weight.requires_grad_(False)
    model.weight.grad = None
    before, bias = bits([model.weight]), bits([model.bias])
    for x, y in data[3:]:
        compiled(x, y)
    assert bits([model.weight]) == before
    assert bits([model.bias]) != bias
    assert model.weight.grad is None


def test_replaced_data_and_replaced_parameters_are_noticed(cuda: str) -> None:
    model = logistic().to("cuda")
    with nt.no_grad():
        compiled = nt.compile(lambda x: model(x), pure=True)
        x = nt.ones(2, FEATURES, device="cuda")
        compiled(x), compiled(x), compiled(x)
        model.weight.data = nt.zeros(1, FEATURES, device="cuda")
        model.bias.data = nt.full((1,), 5.0, device="cuda")
        for _ in range(3):
            assert compiled(x).tolist() == [[5.0], [5.0]]
        model.bias = nn.Parameter(nt.full((1,), 7.0, device="cuda"))
        assert compiled(x).tolist() == [[7.0], [7.0]]


def test_changed_arguments_and_written_tensors_are_noticed(cuda: str) -> None:
    tensor = nt.ones(1, device="cuda")

    def scaled(x: nt.Tensor, shift: float) -> nt.Tensor:
        return x * 2.0 * tensor + shift

    compiled = nt.compile(scaled, pure=True)
    x = nt.ones(1, device="cuda")
    assert [compiled(x, s).item() for s in (1.0, 1.0, 1.0, 2.0)] == [3.0, 3.0, 3.0, 4.0]
    tensor.fill_(20.0)
    assert [compiled(x, 1.0).item() for _ in range(3)] == [41.0] * 3


CHANGES: dict[str, Callable[[Any, nn.Module], Any]] = {
    "weight decay": lambda o, m: o.param_groups[0].update(weight_decay=0.5),
    "a flag": lambda o, m: o.param_groups[0].update(maximize=True),
    "a loaded state": lambda o, m: o.load_state_dict(o.state_dict()),
    "another group": lambda o, m: o.add_param_group(
        {"params": [nn.Parameter(nt.ones(2, device="cuda"))]}
    ),
    "a learning rate of its own": lambda o, m: o.param_groups[0].update(lr=0.5),
    "a step count": lambda o, m: o.state[m.weight]["step"].fill_(9),
    "a hook": lambda o, m: o.register_step_post_hook(lambda *a: m.weight.data.mul_(0.5)),
}


@pytest.mark.filterwarnings("ignore:compile")  # a hook keeps a step from being a graph
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_in_the_optimizer_takes_effect(cuda: str, change: str) -> None:
    results = []
    for compiled in (False, True):
        step, model, optimizer = training_step(logistic, lambda p: optim.Adam(p, lr=0.1))
        run: Any = nt.compile(step, pure=True) if compiled else step
        data = batches(9)
        for x, y in data[:4]:
            run(x, y)
        CHANGES[change](optimizer, model)
        for x, y in data[4:]:
            run(x, y)
        results.append(bits(model.parameters()))
        if compiled:
            assert run._eager is None
    assert results[0] == results[1]


def test_a_gradient_that_no_step_makes_is_noticed(cuda: str) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = logistic().to("cuda")
        extra = nn.Parameter(nt.ones(2, device="cuda"))
        optimizer = optim.SGD([*model.parameters(), extra], lr=0.1)

        def step(x: nt.Tensor, y: nt.Tensor, model: Any = model, optimizer: Any = optimizer) -> Any:
            model.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        run = nt.compile(step, pure=True) if compiled else step
        seen = []
        for number, (x, y) in enumerate(batches(9)):
            if number in (4, 6):
                extra.grad = nt.full((2,), float(number), device="cuda")
            if number == 8:
                extra.grad = None
            run(x, y)
            seen.append(extra.tolist())
        results.append((seen, bits(model.parameters())))
    assert results[0] == results[1]
    assert results[0][0][3] == [1.0, 1.0] != results[0][0][4]


def test_an_argument_that_is_changed_in_place_is_changed_at_each_replay(cuda: str) -> None:
    def double(x: nt.Tensor) -> nt.Tensor:
        x.mul_(2)
        return x + 0

    compiled = nt.compile(double, pure=True)
    for _ in range(4):
        x = nt.ones(3, device="cuda")
        assert compiled(x).tolist() == [2.0, 2.0, 2.0]
        assert x.tolist() == [2.0, 2.0, 2.0] and x._version == 1
    assert is_a_graph(compiled)


def test_a_tensor_from_outside_that_the_step_writes_to_is_written_at_each_replay(cuda: str) -> None:
    total = nt.zeros(3, device="cuda")

    @nt.compile(pure=True)
    def add(x: nt.Tensor) -> nt.Tensor:
        total.add_(x)
        return total * 1

    ones = nt.ones(3, device="cuda")
    assert [add(ones).sum().item() for _ in range(4)] == [3.0, 6.0, 9.0, 12.0]
    assert total.tolist() == [4.0, 4.0, 4.0]
    assert add(total).tolist() == [8.0, 8.0, 8.0]  # what is written to, given as the argument
    assert add(ones).tolist() == [9.0, 9.0, 9.0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_tensor_given_twice_is_told_from_two(cuda: str, device: str) -> None:
    compiled = nt.compile(lambda a, b: a * 2 + b, pure=True)
    x, y = nt.ones(2, device=device), nt.zeros(2, device=device)
    for first, second, expected in [
        (x, x, 3.0),
        (x, x, 3.0),
        (x, y, 2.0),
        (x, y, 2.0),
        (y, x, 1.0),
    ]:
        assert compiled(first, second).tolist() == [expected] * 2
    assert compiled(x, x).tolist() == [3.0, 3.0]


def test_views_and_strides_of_arguments_are_followed(cuda: str) -> None:
    def step(x: nt.Tensor) -> nt.Tensor:
        y = x.clone()
        y.t()[0] += x[:, 0].exp()
        return y[1:] @ x.t()

    compiled = nt.compile(step, pure=True)
    for x, _ in batches(4):
        for given in (x, x.t(), x[::2, 1:]):
            assert nt.allclose(compiled(given), step(given), rtol=1e-6)


def reads_a_number(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x.sum().item()


def selects_by_a_mask(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x[x > 0].sum()


def comes_back_to_the_host(x: nt.Tensor, y: nt.Tensor) -> Any:
    return (x * 2).cpu() + 1


def branches_on_a_value(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x * 2 if x.sum() > 0 else x


def returns_an_open_graph(x: nt.Tensor, y: nt.Tensor) -> Any:
    return (x * nt.ones(1, requires_grad=True, device="cuda")).sum()


def makes_a_tensor_of_python_values(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x * nt.tensor([2.0], device="cuda")


def draws_on_the_host(x: nt.Tensor, y: nt.Tensor) -> Any:
    return nt.zeros_like(x).normal_(generator=HOSTS) + x


HOSTS = nt.Generator("cpu")


REFUSED = [
    (branches_on_a_value, "reads the values of a tensor"),
    (returns_an_open_graph, "gradient is still to be asked for"),
    (makes_a_tensor_of_python_values, "outside of the ops"),
    (draws_on_the_host, "draws the CPU's random numbers into a tensor of the GPU"),
    (reads_a_number, "reads the values of a tensor"),
    (selects_by_a_mask, "shape depends on values"),
    (comes_back_to_the_host, "moves on the CPU what a step on the GPU needs"),
]


@pytest.mark.parametrize("function, reason", REFUSED)
def test_what_a_replay_would_get_wrong_stays_eager_with_one_warning(
    cuda: str, function: Step, reason: str
) -> None:
    (told,) = reasons(nt.compile(function, pure=True))
    assert reason in told and "runs eagerly" in told
    if "tensor" in reason and "outside" not in reason:
        assert "test_cuda_graph.py:" in told


def test_hooks_keep_a_step_eager_and_are_called(cuda: str) -> None:
    calls: list[str] = []
    for register in (
        lambda model: model.register_forward_hook(lambda *_: calls.append("module")),
        lambda model: model.weight.register_hook(lambda g: calls.append("leaf")),
    ):
        step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
        compiled = nt.compile(step, pure=True)
        assert reasons(compiled) == []
        register(model)  # after a graph was captured
        before = len(calls)
        (told,) = reasons(compiled)
        assert "hooks" in told
        assert len(calls) == before + 4


def test_a_function_with_ever_new_values_is_left_eager(cuda: str) -> None:
    compiled = nt.compile(lambda x, k: x * k, pure=True)
    with pytest.warns(UserWarning, match="recorded 64 times"):
        results = [compiled(nt.ones(1, device="cuda"), float(k)).item() for k in range(66)]
    assert results == [float(k) for k in range(66)]


def test_a_compiled_function_within_another_is_part_of_its_graph(cuda: str) -> None:
    inner = nt.compile(lambda x: x * 2, pure=True)

    @nt.compile(pure=True)
    def outer(x: nt.Tensor) -> nt.Tensor:
        return inner(x) + 1

    for k in range(4):
        assert outer(nt.full((2,), float(k), device="cuda")).tolist() == [2.0 * k + 1] * 2
    assert is_a_graph(outer) and not inner._replays


def test_an_index_out_of_range_is_told_after_a_graph_too(cuda: str) -> None:
    table = nt.arange(10.0, device="cuda")
    look_up = nt.compile(nt.no_grad()(lambda index: table[index] * 1), pure=True)
    for k in (1, 2, 3):
        assert look_up(nt.tensor([k], device="cuda")).item() == float(k)
    found = look_up(nt.tensor([12], device="cuda"))
    with pytest.raises(IndexError, match="index 12 is out of range for a dimension of size 10"):
        found.item()
    assert look_up(nt.tensor([4], device="cuda")).item() == 4.0
    assert is_a_graph(look_up)


def test_what_a_capture_refuses_is_replayed_without_a_graph_and_told_once(cuda: str) -> None:
    eye = nt.eye(6, device="cuda")

    def inverted(x: nt.Tensor, y: nt.Tensor) -> Any:
        square = x.t() @ x + eye
        return nt.linalg.inv(square).sum()

    compiled = nt.compile(inverted, pure=True)
    (told,) = reasons(compiled)
    assert "inverted runs without a CUDA graph: " in told
    assert "`return nt.linalg.inv(square).sum()` inv: " in told and "test_cuda_graph.py:" in told
    assert compiled._eager is None
    for x, y in batches(3):
        assert compiled(x, y).item() == inverted(x, y).item()


def test_without_stream_capture_the_program_is_replayed(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda == "cupy":
        pytest.skip("CuPy has it")
    monkeypatch.delattr(strict_cupy.cuda, "Graph")
    results = []
    for compiled in (False, True):
        step, model, _ = training_step(perceptron, OPTIMIZERS["adamw"])
        run: Any = nt.compile(step, pure=True) if compiled else step
        data = batches(5)
        nt.manual_seed(1)
        results.append(([run(x, y).item() for x, y in data], bits(model.parameters())))
        if compiled:
            assert plan_of(run).why_not == "the array module has no Graph"
    assert results[0] == results[1]


def test_hooks_of_an_optimizer_keep_a_step_from_being_a_graph(cuda: str) -> None:
    step, _, optimizer = training_step(logistic, OPTIMIZERS["sgd"])
    called: list[int] = []
    optimizer.register_step_post_hook(lambda *a: called.append(1))
    (told,) = reasons(nt.compile(step, pure=True))
    assert "step() cannot be taken apart: it has hooks" in told
    assert "`optimizer.step()`" in told
    assert len(called) == 4


def test_an_exception_midway_leaves_the_next_call_right(cuda: str) -> None:
    step, model, _ = training_step(softmax, OPTIMIZERS["sgd"], nn.CrossEntropyLoss())
    compiled = nt.compile(step, pure=True)
    twin, other, _ = training_step(softmax, OPTIMIZERS["sgd"], nn.CrossEntropyLoss())
    data = batches(6, 3)
    for number, (x, y) in enumerate(data):
        compiled(x, y)
        with contextlib.suppress(RuntimeError, IndexError, TypeError):
            compiled(x[:, :3], y)
        twin(x, y)
        assert bits(model.parameters()) == bits(other.parameters()), number


def test_an_error_in_the_first_replay_leaves_streams_in_order(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, model, optimizer = training_step(logistic, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, pure=True)
    data = batches(4)
    compiled(*data[0])
    before = bits(model.parameters())

    def fails(*args: Any) -> None:
        raise RuntimeError("no more")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no more"):
        patch.setattr(optimizer._runner.on_devices(), "run", fails)
        compiled(*data[1])
    assert bits(model.parameters()) == before
    model(data[2][0]).sum().backward()
    for x, y in data[1:]:
        compiled(x, y)
    twin, other, _ = training_step(logistic, OPTIMIZERS["sgd"])
    for x, y in data:
        twin(x, y)
    assert bits(model.parameters()) == bits(other.parameters())


def test_a_step_that_is_no_longer_used_gives_its_memory_back(cuda: str) -> None:
    def used() -> int:
        gc.collect()
        return nt.cuda.memory_allocated()

    def train() -> None:
        step, *_ = training_step(perceptron, OPTIMIZERS["adamw"])
        compiled = nt.compile(step, pure=True)
        for x, y in batches(5):
            compiled(x, y)
        assert is_a_graph(compiled)

    train()
    before = used()
    train()
    assert used() == before


def test_what_a_step_leaves_behind_outlives_it(cuda: str) -> None:
    step, model, optimizer = training_step(perceptron, OPTIMIZERS["adamw"])
    compiled = nt.compile(step, pure=True)
    for x, y in batches(5):
        loss = compiled(x, y)
    gradients, last = bits(p.grad for p in model.parameters()), loss.item()
    del compiled, step
    gc.collect()
    junk = [nt.full((64,), 9.0, device="cuda") for _ in range(64)]
    assert bits(p.grad for p in model.parameters()) == gradients
    assert loss.item() == last and len(junk) == 64
    optimizer.step()


# --- several steps at a launch --------------------------------------------------------------------


def stacked(
    data: list[tuple[nt.Tensor, nt.Tensor]], count: int
) -> Iterator[tuple[nt.Tensor, nt.Tensor]]:
    for start in range(0, len(data), count):
        part = data[start : start + count]
        yield nt.stack([x for x, _ in part]), nt.stack([y for _, y in part])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_several_steps_at_a_launch_have_the_bits_of_single_ones(
    cuda: str, optimizer: str, device: str
) -> None:
    results = []
    for several in (False, True):
        step, model, used = training_step(perceptron, OPTIMIZERS[optimizer], device=device)
        schedule = optim.lr_scheduler.ExponentialLR(used, 0.9)
        compiled = nt.compile(step, pure=True)
        data = batches(24, device=device)
        nt.manual_seed(1)
        losses: list[float] = []
        for xs, ys in stacked(data, 4):
            if several:
                losses += compiled.steps(xs, ys).tolist()
            else:
                losses += [step(x, y).item() for x, y in zip(xs, ys, strict=True)]
            schedule.step()
        results.append((losses, bits(model.parameters()), bits(p.grad for p in model.parameters())))
        if several and device == "cuda":
            assert set(plan_of(compiled).launches) == {None, 4}
    assert results[0] == results[1]


def test_several_steps_are_one_launch_and_as_many_copies_as_arguments(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("events are counted on the look-alike alone")
    step, *_ = training_step(perceptron, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, pure=True)
    groups = list(stacked(batches(25), 5))
    for xs, ys in groups[:3]:
        compiled.steps(xs, ys)
    for xs, ys in groups[3:]:
        strict_cupy.counts.reset()
        compiled.steps(xs, ys)
        counts = strict_cupy.counts
        assert (counts.graph_launches, counts.device_copies + counts.launches) == (1, 3)
        assert (counts.h2d, counts.d2h, counts.synchronizations) == (0, 0, 0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_results_of_several_steps_are_stacked_as_they_are_nested(cuda: str, device: str) -> None:
    @nt.compile(pure=True)
    @nt.no_grad()
    def step(x: nt.Tensor) -> Any:
        return {"sum": x.sum(), "both": (x * 2, "text"), "none": None}

    xs = nt.arange(12.0, device=device).reshape(3, 4)
    for _ in range(4):
        found = step.steps(xs)
        assert found["sum"].tolist() == [6.0, 22.0, 38.0]
        assert found["both"][0].tolist() == (xs * 2).tolist()
        assert (found["both"][1], found["none"]) == ("text", None)


def test_numbers_of_steps_that_differ_are_refused(cuda: str) -> None:
    step = nt.compile(lambda x, y: x + y, pure=True)
    with pytest.raises(RuntimeError, match=r"one number of steps, got \[2, 3\]"):
        step.steps(nt.ones(2, 1), nt.ones(3, 1))
    with pytest.raises(TypeError, match="expected tensors with a first dimension"):
        step.steps(nt.ones(2), nt.tensor(1.0))


def test_a_step_that_is_not_pure_runs_eagerly_on_a_gpu_and_follows_python(cuda: str) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = perceptron().to("cuda")
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        scale = 1.0

        def step(x: nt.Tensor, y: nt.Tensor, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y) * scale  # noqa: B023
            loss.backward()
            optimizer.step()
            return loss.item()

        run = nt.compile(step) if compiled else step
        losses = []
        for x, y in batches(4):
            losses.append(run(x, y))
            scale *= 0.5
        results.append((losses, bits(model.parameters())))
        if compiled:
            assert "by the engine: it computes elsewhere than on the CPU" in str(run.plan())
    assert results[0] == results[1]


# --- every op -------------------------------------------------------------------------------------


# What a capture refuses. Where it shows: the solvers wait or call cuBLAS through CuPy, and these
# sums of einsum go through CuPy's own, which may.
WITHOUT_GRAPH = {
    *("matrix_norm nuc", "matrix_norm 2", "matrix_norm -2"),
    *("inverse", "inverse batched", "solve", "solve vector", "det", "det batched", "logdet"),
    *("slogdet", "einsum ij->", "einsum ii", "einsum iij->j"),
    *(op_table.title(case) for case in op_table.CASES if op_table.title(case).startswith(SOLVING)),
}


@pytest.mark.filterwarnings("ignore:compile")  # some read values, some no capture takes
@pytest.mark.parametrize("case", op_table.every_day(ON_CUDA), ids=lambda case: case.name)
def test_every_op_replays_to_the_bits_of_an_eager_run(cuda: str, case: op_table.Case) -> None:
    arrays = [a.astype("float32") if a.dtype.kind == "f" else a for a in case.arrays()]
    inputs = [nt.tensor(a, device="cuda") for a in arrays]
    leaves = [
        x.requires_grad_() for x, i in zip(inputs, case.inputs, strict=True) if i.differentiable
    ]

    def step() -> Any:
        for leaf in leaves:
            leaf.grad = None
        with nt.device("cuda"):
            found = case.function(nt, *inputs)
        out = found[0] if isinstance(found, tuple) else found
        if isinstance(out, nt.Tensor) and out.requires_grad:
            (out * out).sum().backward()
        return out.detach() if isinstance(out, nt.Tensor) else out

    compiled = nt.compile(step, pure=True)
    for _ in range(3):  # recorded, captured, launched
        found = compiled()
        gradients = bits(x.grad for x in leaves if x.grad is not None)
        expected = step()
        if isinstance(expected, nt.Tensor):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert bits([found]) == bits([expected])
        else:
            assert found == expected
        assert gradients == bits(x.grad for x in leaves if x.grad is not None)
        with nt.no_grad():
            for leaf in leaves:
                leaf.mul_(1.01)
    for found_plans in compiled._replays.values() if cuda != "cupy" else ():
        for replay in found_plans:
            if isinstance(replay.plan, CudaPlan):
                named = any(case.name.startswith(f"{title} ") for title in WITHOUT_GRAPH)
                assert (replay.plan.why_not is not None) == named, replay.plan.why_not


# --- in words -------------------------------------------------------------------------------------


def test_the_plan_says_that_it_is_a_graph(cuda: str, capsys: pytest.CaptureFixture[str]) -> None:
    step, *_ = training_step(logistic, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, explain=True, pure=True)
    for batch in batches(3):
        compiled(*batch)
    told = capsys.readouterr().out
    assert told.count("plan of step: ") == 1
    assert ", one CUDA graph\n" in told
    assert "one pass over 24 rows" in told and "SGD.step" in told


# --- the look-alike's own -------------------------------------------------------------------------


def captured(work: Callable[[], Any]) -> tuple[Any, Any, Any, Any]:
    """The graph of some work, the stream it was captured on, what was returned, and its pool."""
    cp = strict_cupy
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.wait_event(cp.cuda.Stream.null.record())
        stream.begin_capture()
        result = work()
        graph = stream.end_capture()
    return graph, stream, result, pool


def test_the_look_alike_computes_nothing_while_it_captures() -> None:
    cp = strict_cupy
    x, i = cp.asarray(numpy.arange(4.0)), cp.asarray(numpy.array([3, 0]))
    out = cp.zeros(4)
    scale = 2.0

    def work() -> list[Any]:
        y = cp.exp(x) * scale
        cp.add(x, 1.0, out=out)
        z = x[i]
        x[1:2] = 7.0
        return [y, z, x.sum(), cp.concatenate([x, out]), y.reshape(2, 2), cp.full(2, 5.0)]

    graph, stream, found, pool = captured(work)
    assert pool.used_bytes() > 0
    assert out.get().tolist() == [0.0] * 4 and x.get().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert all(numpy.isnan(a.get(stream)).all() for a in found)
    scale = 3.0
    cp.counts.reset()
    with cp.no_transfers(), cp.no_synchronization():
        graph.launch(stream)
    assert (cp.counts.graph_launches, cp.counts.launches, cp.counts.allocations) == (1, 0, 0)
    y, z, total, both, view, five = (a.get(stream) for a in found)
    assert numpy.allclose(y, 2 * numpy.exp([0, 1, 2, 3]))
    assert z.tolist() == [3.0, 0.0] and total == 12.0 and five.tolist() == [5.0, 5.0]
    assert both.tolist() == [0.0, 7.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0]
    assert view.tolist() == y.reshape(2, 2).tolist()


WHILE_CAPTURING: dict[str, tuple[str, type[Exception]]] = {
    "x.get()": ("D2H transfers are disallowed", RuntimeError),
    "float(x.sum())": ("D2H transfers are disallowed", RuntimeError),
    "bool((x > 0).any())": ("D2H transfers are disallowed", RuntimeError),
    "cp.asarray(h)": ("H2D transfers are disallowed", RuntimeError),
    "x.set(h)": ("H2D transfers are disallowed", RuntimeError),
    "x[[0, 1]]": ("H2D transfers are disallowed", RuntimeError),
    "x @ x": ("calling cuBLAS API during stream capture", NotImplementedError),
    "cp.einsum('i,i', x, x)": ("calling cuBLAS API during stream capture", NotImplementedError),
    "x.dot(x)": ("calling cuBLAS API during stream capture", NotImplementedError),
    "cp.tensordot(x, x, 1)": ("calling cuBLAS API during stream capture", NotImplementedError),
}
WAITS: dict[str, tuple[str, type[Exception]]] = {
    "x[x > 1]": ("cudaErrorStreamCaptureUnsupported", RuntimeError),
    "cp.cuda.Device().synchronize()": ("cudaErrorStreamCaptureUnsupported", RuntimeError),
    "cp.cuda.get_current_stream().synchronize()": (
        "cudaErrorStreamCaptureUnsupported",
        RuntimeError,
    ),
}


@pytest.mark.parametrize("expression", [*WHILE_CAPTURING, *WAITS])
def test_the_look_alike_refuses_what_cupy_refuses_while_it_captures(expression: str) -> None:
    words, kind = {**WHILE_CAPTURING, **WAITS}[expression]
    cp, h = strict_cupy, numpy.arange(4.0)
    space = {"cp": cp, "x": cp.asarray(h), "h": h}
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        with pytest.raises(kind, match=words):
            eval(expression, space)
        if expression in WAITS:
            with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                stream.end_capture()
        else:
            stream.end_capture()
    assert not stream.is_capturing() and not graphs.CAPTURES


def test_the_look_alike_refuses_memory_that_a_graph_cannot_rely_on() -> None:
    cp = strict_cupy
    x = cp.asarray(numpy.arange(4.0))
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(AssertionError, match="memory of the default pool"):
            x + 1
        stream.end_capture()
    held = [x]
    del x
    graph, stream, made, pool = captured(lambda: [held[0] + 1])
    del made
    graph.launch(stream)
    held.clear()
    with pytest.raises(AssertionError, match="memory that was given back"):
        graph.launch(stream)
    y = cp.asarray(numpy.arange(4.0))
    graph, stream, made, pool = captured(lambda: [y * 2])
    graph.launch(stream)
    del pool, made
    with pytest.raises(AssertionError, match="memory that was given back"):
        graph.launch(stream)
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        cp.cuda.Stream.null.begin_capture()
    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        z = cp.zeros(2)
    del pool
    with pytest.raises(AssertionError, match="after the pool that it is from"):
        z + 1
