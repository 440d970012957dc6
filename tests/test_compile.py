"""`compile`: a replayed step gives the eager step's bits, and what it cannot replay stays eager."""

from __future__ import annotations

import copy
import gc
import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

import op_table
import pytest
from training_steps import (
    FEATURES,
    MODELS,
    OPTIMIZERS,
    ROWS,
    Step,
    batches,
    logistic,
    perceptron,
    softmax,
    training_step,
)

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.compile import matcher, pure, tiles


@pytest.fixture(autouse=True)
def batches_of_800_kilobytes_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_BYTES", 64 << 10)
    for module in (tiles, pure):
        monkeypatch.setattr(module, "WORTHWHILE_BYTES", 800 << 10)


def eager_only(function: Step) -> str:
    """The reason why a compiled function runs eagerly; it must have one, told in one warning."""
    compiled = nt.compile(function, pure=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for x, y in batches(3):
            compiled(x, y)
    assert len(told) == 1, [str(w.message) for w in told]
    return str(told[0].message)


@pytest.mark.parametrize("mode", ["matched", "pure", "checked"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_replayed_step_has_the_bits_of_an_eager_one(
    model: str, optimizer: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pure, "CHECK", mode == "checked")
    make, loss, classes = MODELS[model]
    results = []
    for compiled in (False, True):
        step, trained, _ = training_step(make, OPTIMIZERS[optimizer], loss)
        step = nt.compile(step, pure=mode != "matched") if compiled else step
        data = batches(6, classes)
        nt.manual_seed(1)  # dropout draws
        losses = [step(x, y).item() for x, y in data]
        results.append((losses, [v.tolist() for v in trained.state_dict().values()]))
        if compiled and mode != "matched":
            assert step._recordings == 1 and step._eager is None
        elif compiled:
            assert step.plan().calls and "by the engine" not in str(step.plan())
    assert results[0] == results[1]


BROKEN: dict[str, Callable[[Any, Any, int], Any]] = {
    "another operation": lambda x, y, k: x.exp() if k == 3 else x.tanh(),
    "another number": lambda x, y, k: x * 2.0 if k < 3 else x * -2.0,
    "another option": lambda x, y, k: x.sum(0 if k < 3 else -2),
    "another operand": lambda x, y, k: x - y if k < 3 else y - x,
    "one more": lambda x, y, k: x * 2 if k < 3 else x * 2 + 1,
    "one less": lambda x, y, k: x * 2 + 1 if k < 3 else x * 2,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_an_error_that_names_the_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pure, "CHECK", True)
    number = 0

    @nt.compile(pure=True)
    def step(x: nt.Tensor, y: nt.Tensor) -> Any:
        return BROKEN[name](x, y, number)

    x, y = nt.randn(3, 3), nt.randn(3, 3)
    for number in range(3):
        assert nt.equal(step(x, y), BROKEN[name](x, y, number))
    number = 3
    with pytest.raises(RuntimeError, match=r"NANOTORCH_CHECK: .*test_compile.py:\d+: .* recorded"):
        step(x, y)


def test_arguments_that_are_not_compared_by_value_are_refused() -> None:
    step = nt.compile(lambda x, options: x * options["scale"], pure=True)
    x = nt.ones(1)
    assert [step(x, {"scale": s}).item() for s in (1.0, 1.0, 2.0, -0.0)] == [1.0, 1.0, 2.0, 0.0]
    with pytest.warns(UserWarning, match="an argument is a range, which is not compared by value"):
        assert nt.compile(lambda x, r: x * len(r), pure=True)(x, range(3)).item() == 3.0


def test_learning_rates_and_momentum_follow_the_live_values() -> None:
    results = []
    for compiled in (False, True):
        step, model, optimizer = training_step(logistic, OPTIMIZERS["sgd with momentum"])
        schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        step = nt.compile(step, pure=True) if compiled else step
        for number, (x, y) in enumerate(batches(6)):
            step(x, y)
            schedule.step()
            optimizer.param_groups[0]["momentum"] = 0.9 - 0.1 * number
        results.append(model.weight.tolist())
    assert results[0] == results[1]


def test_clipping_and_accumulated_gradients_are_replayed() -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = logistic()
        optimizer = optim.SGD(model.parameters(), lr=0.5)

        def step(x: nt.Tensor, y: nt.Tensor, model: Any = model, optimizer: Any = optimizer) -> Any:
            half = ROWS // 2
            for part in (slice(None, half), slice(half, None)):
                loss = nn.functional.mse_loss(model(x[part]), y[part])
                loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            return loss, norm

        step_ = nt.compile(step, pure=True) if compiled else step
        seen = [tuple(v.item() for v in step_(x, y)) for x, y in batches()]
        results.append((seen, model.weight.tolist(), model.weight.grad))
    assert results[0] == results[1]


def test_evaluation_without_gradients_is_replayed() -> None:
    model = perceptron().eval()

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


def test_each_shape_and_each_mode_has_a_recording_of_its_own() -> None:
    step, model, _ = training_step(perceptron, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, pure=True)
    (x, y), (x2, y2) = batches(2)
    compiled(x, y), compiled(x[:5], y[:5]), compiled(x2, y2), compiled(x2[5:10], y2[5:10])
    assert compiled._recordings == 2
    model.eval()
    compiled(x, y)
    assert compiled._recordings == 3


def trained_on(sizes: list[int], pure_mode: bool | None) -> tuple[Any, Any]:
    """The step, and the losses and weights of an MLP after batches of so many rows."""
    step, model, _ = training_step(perceptron, OPTIMIZERS["sgd"])
    step = step if pure_mode is None else nt.compile(step, pure=pure_mode, warn=False)
    ((x, y),) = batches(1)
    losses = [step(x[:n], y[:n]).item() for n in sizes]
    return step, (losses, [p.tolist() for p in model.parameters()])


@pytest.mark.parametrize("pure_mode", [False, True])
def test_twenty_batch_sizes_in_turn_are_all_replayed(pure_mode: bool) -> None:
    sizes = [*range(1, 21)] * 3
    step, results = trained_on(sizes, pure_mode)
    assert results == trained_on(sizes, None)[1]
    if pure_mode:
        assert step._recordings == 20 and step._eager is None
    else:
        assert len(step._paths.start.next) == 20 and not step._paths.misses


def test_more_batch_sizes_than_are_kept_leave_those_that_are_kept_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pure, "MOST_PLANS", 3)
    sizes = [1, 2, 3, 4, 5] * 6
    step, results = trained_on(sizes, True)
    assert results == trained_on(sizes, None)[1]
    assert step._recordings == 3 and step._eager is None


def test_the_recording_used_least_makes_room_for_what_is_called_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pure, "MOST_PLANS", 3)
    sizes = [1, 2, 3, *[2, 3, 4] * 10, *[1] * 2]
    step, results = trained_on(sizes, True)
    assert results == trained_on(sizes, None)[1]
    assert step._recordings == 4  # 4 took the place of 1
    kept = {arguments[1][1][0][0] for arguments, _ in step._replays}  # rows of the first
    assert kept == {2, 3, 4}


def test_recordings_of_large_batches_are_bounded_by_their_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pure, "MOST_PLAN_BYTES", 1)
    step, results = trained_on([*range(1, 12)] * 2, True)
    assert results == trained_on([*range(1, 12)] * 2, None)[1]
    assert step._recordings == pure.FEW_PLANS


def test_a_path_forgets_the_form_used_least_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "MOST_FORMS", 2)
    monkeypatch.setattr(matcher, "CALLS_TO_EXCHANGE", 3)
    sizes = [1, 2, 1, 2, 1, 2, *[3, 2] * 20]
    step, results = trained_on(sizes, False)
    assert results == trained_on(sizes, None)[1]
    paths = step._paths
    assert {shapes[1][0] for shapes in map(tuple, paths.start.next)} == {2, 3}
    assert "by the engine" not in str(step.plan())
    entries, below = 0, list(paths.start.next.values())
    while below:
        for entry in below.pop():
            entries += 1
            below += entry.next.values()
    assert paths.count == entries


def test_what_a_forgotten_form_computed_in_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "MOST_FORMS", 2)
    monkeypatch.setattr(matcher, "CALLS_TO_EXCHANGE", 1)
    step = nt.compile(lambda x: nn.functional.gelu(x * 2))
    for size in range(1, 30):
        for _ in range(4):
            step(nt.ones(size))
    gc.collect()
    sizes = {form[0] for _, *_, (form, *_) in step._paths.computations}
    assert 1 <= len(sizes) <= 2


def test_one_argument_twice_has_a_recording_of_its_own() -> None:
    add = nt.compile(lambda *xs: sum(xs[1:], xs[0]), pure=True)
    with nt.no_grad():
        for count in (2, 3, 9):
            xs = [nt.full((2,), float(n)) for n in range(count)]
            twice = [xs[0], *xs[1:-1], xs[0]]
            for _ in range(2):
                for arguments in (xs, twice):
                    assert add(*arguments).tolist() == sum(arguments[1:], arguments[0]).tolist()
    assert add._recordings == 6


def test_a_layout_in_which_sums_are_taken_in_another_order_has_a_recording_of_its_own() -> None:
    def step(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        return ((x - y) ** 2).mean()

    compiled = nt.compile(step, pure=True)
    for _ in range(3):
        for shape, turn in (((37, 41), False), ((41, 37), True)):
            x, y = nt.randn(*shape), nt.randn(*shape)
            x, y = (x.t(), y.t()) if turn else (x, y)
            assert compiled(x, y).item() == step(x, y).item()


# --- what could go wrong: right, or refused -------------------------------------------------------


def test_outputs_and_gradients_that_are_kept_do_not_change() -> None:
    step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, pure=True)
    losses, gradients, values = [], [], []
    for x, y in batches():
        losses.append(compiled(x, y))
        gradients.append(model.weight.grad)
        values.append((losses[-1].item(), gradients[-1].tolist()))
    assert [(a.item(), g.tolist()) for a, g in zip(losses, gradients, strict=True)] == values
    assert len({v[0] for v in values}) == len(values)


def test_a_frozen_parameter_stays_frozen_and_freezing_later_is_noticed() -> None:
    step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, pure=True)
    data = batches()
    compiled(*data[0]), compiled(*data[1])
    model.weight.requires_grad_(False)
    model.weight.grad = None
    before, bias = model.weight.tolist(), model.bias.tolist()
    compiled(*data[2]), compiled(*data[3])
    assert model.weight.tolist() == before
    assert model.bias.tolist() != bias


def test_replaced_data_and_replaced_parameters_are_noticed() -> None:
    model = logistic()
    with nt.no_grad():
        compiled = nt.compile(lambda x: model(x), pure=True)
        x = nt.ones(2, FEATURES)
        compiled(x), compiled(x)
        model.weight.data = nt.zeros(1, FEATURES)
        model.bias.data = nt.full((1,), 5.0)
        assert compiled(x).tolist() == [[5.0], [5.0]]
        model.bias = nn.Parameter(nt.full((1,), 7.0))
        assert compiled(x).tolist() == [[7.0], [7.0]]


def test_changed_closures_and_globals_and_arguments_are_noticed() -> None:
    scale, tensor = 2.0, nt.ones(1)

    def scaled(x: nt.Tensor, shift: float) -> nt.Tensor:
        return x * scale * tensor + shift

    compiled = nt.compile(scaled)
    x = nt.ones(1)
    assert [compiled(x, 1.0).item(), compiled(x, 1.0).item(), compiled(x, 2.0).item()] == [
        3.0,
        3.0,
        4.0,
    ]
    scale = 3.0
    assert compiled(x, 1.0).item() == 4.0
    tensor = nt.full((1,), 10.0)
    assert compiled(x, 1.0).item() == 31.0
    tensor.fill_(20.0)
    assert compiled(x, 1.0).item() == 61.0


def test_attributes_of_the_owner_are_noticed() -> None:
    class Scaler:
        factor = 0.0

        def __init__(self) -> None:
            self.factor = 2.0

        def __call__(self, x: nt.Tensor) -> nt.Tensor:
            return x * self.factor

        run = __call__

    scaler = Scaler()
    compiled = nt.compile(scaler.run)
    x = nt.ones(1)
    compiled(x)
    assert compiled(x).item() == 2.0
    scaler.factor = 5.0
    assert compiled(x).item() == 5.0


def test_an_argument_that_is_changed_in_place_is_changed_at_each_replay() -> None:
    def double(x: nt.Tensor) -> nt.Tensor:
        x.mul_(2)
        return x + 0

    compiled = nt.compile(double, pure=True)
    for _ in range(3):
        x = nt.ones(3)
        assert compiled(x).tolist() == [2.0, 2.0, 2.0]
        assert x.tolist() == [2.0, 2.0, 2.0] and x._version == 1


def test_a_tensor_from_outside_that_the_step_writes_to_is_written_at_each_replay() -> None:
    total = nt.zeros(3)

    @nt.compile(pure=True)
    def add(x: nt.Tensor) -> nt.Tensor:
        total.add_(x)
        return total * 1

    assert [add(nt.ones(3)).sum().item() for _ in range(4)] == [3.0, 6.0, 9.0, 12.0]
    assert total.tolist() == [4.0, 4.0, 4.0]


def test_views_and_writes_to_views_of_arguments_follow_the_live_arrays() -> None:
    def step(x: nt.Tensor) -> nt.Tensor:
        y = x.clone()
        y.t()[0] += x[:, 0].exp()
        return y[1:] @ x.t()

    compiled = nt.compile(step, pure=True)
    for x, _ in batches():
        assert nt.equal(compiled(x), step(x))


REFUSED: dict[str, tuple[Step, str]] = {}


def refused(reason: str) -> Callable[[Step], Step]:
    def note(function: Step) -> Step:
        REFUSED[function.__name__] = (function, reason)
        return function

    return note


@refused("reads the values of a tensor")
def reads_a_number(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x.sum().item()


@refused("reads the values of a tensor")
def branches_on_a_value(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x * 2 if x.sum() > 0 else x


@refused("shape depends on values")
def selects_by_a_mask(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x[x > 0].sum()


@refused("gradient is still to be asked for")
def returns_an_open_graph(x: nt.Tensor, y: nt.Tensor) -> Any:
    return (x * nt.ones(1, requires_grad=True)).sum()


@refused("outside of the ops")
def makes_a_tensor_of_python_values(x: nt.Tensor, y: nt.Tensor) -> Any:
    return x * nt.tensor([2.0])


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_replay_would_get_wrong_stays_eager_with_one_warning(name: str) -> None:
    function, reason = REFUSED[name]
    message = eager_only(function)
    assert reason in message
    if "test_compile" in message:
        assert "test_compile.py:" in message


def test_hooks_keep_a_step_eager_and_are_called() -> None:
    calls = []
    for register in (
        lambda model: model.register_forward_hook(lambda *_: calls.append("module")),
        lambda model: model.weight.register_hook(lambda g: calls.append("leaf")),
    ):
        step, model, _ = training_step(logistic, OPTIMIZERS["sgd"])
        register(model)
        before = len(calls)
        assert "hooks" in eager_only(step)
        assert len(calls) == before + 3


def test_an_exception_midway_leaves_the_next_call_right() -> None:
    step, model, _ = training_step(softmax, OPTIMIZERS["sgd"], nn.CrossEntropyLoss())
    compiled = nt.compile(step, pure=True)
    data = batches(3, 3)
    compiled(*data[0]), compiled(*data[1])
    with pytest.raises(IndexError, match="out of bounds"):
        compiled(data[2][0], data[2][1] + 7)
    twin, other, _ = training_step(softmax, OPTIMIZERS["sgd"], nn.CrossEntropyLoss())
    for x, y in data:
        expected = twin(x, y)
    assert compiled(*data[2]).item() == expected.item()
    assert model.weight.tolist() == other.weight.tolist()


def test_threads_take_turns() -> None:
    @nt.compile(pure=True)
    @nt.no_grad()
    def norm(x: nt.Tensor) -> nt.Tensor:
        return (x * x).sum().sqrt()

    norm(nt.ones(100))
    wrong = []

    def work(k: int) -> None:
        x = nt.full((100,), float(k))
        for _ in range(200):
            if norm(x).item() != 10.0 * k:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_function_with_ever_new_values_is_left_eager() -> None:
    compiled = nt.compile(lambda x, k: x * k, pure=True)
    with pytest.warns(UserWarning, match="recorded 64 times"):
        results = [compiled(nt.ones(1), float(k)).item() for k in range(70)]
    assert results == [float(k) for k in range(70)]


def test_the_plan_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    step, *_ = training_step(logistic, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, explain=True, pure=True)
    for batch in batches(3):
        compiled(*batch)
    told = capsys.readouterr().out
    assert told.count("plan of") == 1
    assert re.search(r"\d us +\d+% +[\d,]+  linear \(24, 1\)\n.*  dot\n.*  add\n", told)
    assert re.search(r"us +\d+% +SGD.step\nmemory: \d+ bytes in 8 blocks, instead of \d+\n", told)


# --- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pure", [False, True])
def test_a_compiled_module_trains_and_predicts_to_the_same_bits(pure: bool) -> None:
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = perceptron()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        call = nt.compile(model, pure=pure) if compiled else model
        nt.manual_seed(1)
        seen = []
        for x, y in batches(6):
            out = call(x)
            loss = nn.functional.binary_cross_entropy_with_logits(out, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with nt.no_grad():
                seen.append((loss.item(), call(x).tolist()))
        results.append((seen, [p.tolist() for p in model.parameters()]))
    assert results[0] == results[1]
    assert [len(call.plan().calls) > 0, out.grad_fn.name()] == [True, "AddmmBackward0"]


@pytest.mark.parametrize("pure", [False, True])
def test_a_compiled_module_follows_modes_freezing_and_its_own_attributes(pure: bool) -> None:
    model = perceptron()
    compiled = nt.compile(model, pure=pure)
    (x, _), (x2, _) = batches(2)
    compiled(x), compiled(x2)
    compiled.eval()
    assert not model.training
    model.eval()
    for data in (x, x2, x):
        assert nt.equal(compiled(data), model(data))
    with nt.no_grad():
        assert nt.equal(compiled(x), model(x)) and not compiled(x).requires_grad
    model[0].weight.requires_grad_(False)
    early, late = compiled(x), compiled(x)
    (early.sum() + late.sum()).backward()
    assert model[0].weight.grad is None
    assert nt.allclose(model[5].bias.grad, nt.tensor([2.0 * ROWS]))
    assert list(compiled.state_dict()) == [f"_orig_mod.{name}" for name in model.state_dict()]


def test_a_compiled_module_is_a_part_of_others_as_any_module_is() -> None:
    body = nn.Linear(2, 3)
    model = nn.Sequential(nt.compile(body), nn.Linear(3, 1))
    assert [*model.parameters()] == [*body.parameters(), *model[1].parameters()]
    assert list(model.state_dict())[:2] == ["0._orig_mod.weight", "0._orig_mod.bias"]
    assert not model.eval()[0].training and not body.training
    assert model.double()[0].weight is body.weight and body.weight.dtype is nt.float64
    model[0].weight = nn.Parameter(nt.ones(3, 2, dtype=nt.float64))
    assert body.weight.tolist() == [[1.0] * 2] * 3 and model[0].in_features == 2
    seen: list[str] = []
    model[0].register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    twin, x = copy.deepcopy(model), nt.ones(1, 2, dtype=nt.float64)
    assert (
        nt.equal(twin(x), model(x))
        and len(twin[0].explain(x).calls) > 0
        and seen == ["OptimizedModule"]
    )
    assert twin[0].weight is not body.weight
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'wieght'"):
        model[0].wieght  # noqa: B018
    assert isinstance(copy.copy(model[0]), nn.Module)


# --- one pass over large batches ------------------------------------------------------------------

LARGE = 2_011  # rows of 128: 1 MB, and no multiple of anything


def large_batch(classes: int) -> tuple[nt.Tensor, nt.Tensor]:
    nt.manual_seed(2)
    x = nt.randn(LARGE, 128)
    y = nt.randint(0, classes, (LARGE,)) if classes > 1 else nt.rand(LARGE, 1).round()
    return x, y


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, outputs))


ROW_WISE = {
    "logistic": (lambda: nn.Linear(128, 1), nn.BCEWithLogitsLoss(), 1),
    "softmax": (lambda: nn.Linear(128, 5), nn.CrossEntropyLoss(), 5),
    "perceptron": (lambda: mlp(1), nn.BCEWithLogitsLoss(pos_weight=nt.tensor([2.0])), 1),
    "softmax perceptron": (lambda: mlp(5), nn.CrossEntropyLoss(reduction="sum"), 5),
    "regression": (lambda: mlp(1), nn.MSELoss(), 1),
}


def trained(name: str, threads: int | None) -> tuple[list[float], list[Any], Any]:
    """Losses and parameters after some steps: eager for None, else compiled on so many threads."""
    make, loss, classes = ROW_WISE[name]
    step, model, _ = training_step(make, lambda p: optim.SGD(p, lr=1e-5, momentum=0.9), loss)
    before = nt.get_num_threads()
    nt.set_num_threads(threads or before)
    try:
        run = nt.compile(step, pure=True) if threads else step
        x, y = large_batch(classes)
        return [run(x, y).item() for _ in range(4)], [p.detach() for p in model.parameters()], run
    finally:
        nt.set_num_threads(before)


@pytest.mark.parametrize("name", ROW_WISE)
def test_a_large_batch_is_passed_over_once_with_the_same_bits_on_any_number_of_threads(
    name: str,
) -> None:
    losses, parameters, _ = trained(name, None)
    one, on_one, compiled = trained(name, 1)
    assert compiled.plan().tiled
    assert one == pytest.approx(losses, rel=2e-6)
    for a, b in zip(parameters, on_one, strict=True):
        assert nt.allclose(a, b, rtol=1e-4, atol=1e-6)
    for threads in (2, 3):
        several, on_several, _ = trained(name, threads)
        assert several == one
        assert all(nt.equal(a, b) for a, b in zip(on_one, on_several, strict=True))


@pytest.mark.parametrize("name", ROW_WISE)
def test_the_first_step_over_a_large_batch_has_the_bits_of_later_ones(name: str) -> None:
    make, loss_of, classes = ROW_WISE[name]
    nt.manual_seed(0)
    model = make()
    optimizer = optim.SGD(model.parameters(), lr=1e-5)
    start = {key: value.clone() for key, value in model.state_dict().items()}

    @nt.compile(pure=True)
    def step(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss

    x, y = large_batch(classes)
    seen = []
    for _ in range(3):
        model.load_state_dict(start)
        losses = [step(x, y).item() for _ in range(2)]
        seen.append((losses, [(p.tolist(), p.grad.tolist()) for p in model.parameters()]))
    assert step._recordings == 1 and step.plan().tiled
    assert seen[0] == seen[1] == seen[2]


def test_gradients_of_a_large_batch_have_the_same_bits_in_the_first_call_as_later() -> None:
    nt.manual_seed(0)
    model = nn.Linear(128, 1)
    x, y = large_batch(1)

    @nt.compile(pure=True)
    def gradients() -> nt.Tensor:
        model.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        return loss

    @nt.compile(pure=True)
    def only_gradients() -> nt.Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        return loss

    for function in (gradients, only_gradients):
        seen = []
        for _ in range(3):
            model.zero_grad()
            seen.append((function().item(), model.weight.grad.tolist()))
        assert seen[1] == seen[2]
    assert seen[0] == seen[1]


def test_a_small_batch_is_left_in_one_piece() -> None:
    step, *_ = training_step(logistic, OPTIMIZERS["sgd"])
    compiled = nt.compile(step, pure=True)
    compiled(*batches(1)[0])
    assert not compiled.plan().tiled


def test_penalties_and_frozen_layers_take_part_in_the_pass() -> None:
    x, y = large_batch(1)
    results = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = mlp(1)
        model[0].weight.requires_grad_(False)
        optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)

        def step(x: nt.Tensor, y: nt.Tensor, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            out = model(x)
            loss = nn.functional.binary_cross_entropy_with_logits(out, y)
            loss = loss + 0.01 * (model[2].weight ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss, out.detach()

        run = nt.compile(step, pure=True) if compiled else step
        for _ in range(3):
            loss, out = run(x, y)
        results.append((loss.item(), out, [p.detach().clone() for p in model.parameters()]))
    (a, out_a, model_a), (b, out_b, model_b) = results
    assert b == pytest.approx(a, rel=1e-6)
    assert nt.allclose(out_a, out_b, rtol=1e-4, atol=1e-5)
    assert all(
        nt.allclose(p, q, rtol=1e-3, atol=1e-5) for p, q in zip(model_a, model_b, strict=True)
    )


@pytest.mark.parametrize("features", [5, 30, 32])
def test_an_evaluation_passes_over_narrow_rows_once_with_the_same_bits_on_any_number_of_threads(
    features: int,
) -> None:
    nt.manual_seed(0)
    rows = (9 << 20) // (4 * features)
    x, y, model = nt.randn(rows, features), nt.rand(rows, 1).round(), nn.Linear(features, 1)

    def evaluate() -> tuple[nt.Tensor, nt.Tensor]:
        with nt.no_grad():
            logits = model(x)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, y)
            return loss, ((logits > 0) == (y > 0.5)).sum()

    loss, right = evaluate()
    before, seen = nt.get_num_threads(), []
    for threads in (1, 2, 3):
        nt.set_num_threads(threads)
        try:
            run = nt.compile(evaluate, pure=True)
            run()
            seen.append([value.item() for value in run()])
        finally:
            nt.set_num_threads(before)
        assert run.plan().tiled
    assert seen == [[seen[0][0], right.item()]] * 3
    assert seen[0][0] == pytest.approx(loss.item(), rel=2e-6)


@pytest.mark.parametrize("ignored", [0, LARGE // 2, LARGE])
def test_ignored_targets_are_not_counted_by_a_mean_over_tiles(ignored: int) -> None:
    """Not at the recording, and not where others are ignored later."""
    make, loss_of, classes = ROW_WISE["softmax"]
    nt.manual_seed(0)
    model = make()
    x, y = large_batch(classes)

    def step(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        model.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        return loss

    compiled = nt.compile(step, pure=True)
    for first in (ignored, LARGE - ignored, ignored):
        targets = y.clone()
        targets[:first] = -100
        expected = step(x, targets).item(), model.weight.grad
        assert compiled(x, targets).item() == pytest.approx(expected[0], rel=2e-6, nan_ok=True)
        assert nt.allclose(model.weight.grad, expected[1], rtol=1e-4, atol=1e-6, equal_nan=True)
    assert compiled.plan().tiled and compiled._recordings == 1


SHOWN: dict[str, Callable[[nt.Tensor], nt.Tensor]] = {
    "rows": lambda h: h,
    "a view": lambda h: h.reshape(LARGE, 2, -1),
    "a view of a view": lambda h: h.reshape(LARGE, 2, -1).unsqueeze(1),
    "columns": lambda h: h.T,
    "a copy": lambda h: (h * 2).T.contiguous().T,
}


@pytest.mark.parametrize("name", SHOWN)
def test_rows_that_leave_a_pass_are_those_of_each_call(name: str) -> None:
    nt.manual_seed(0)
    model = nn.Linear(128, 16)
    x = large_batch(1)[0]

    def step() -> tuple[nt.Tensor, nt.Tensor]:
        with nt.no_grad():
            h = model(x).tanh()
            return h.square().sum(), SHOWN[name](h)

    compiled = nt.compile(step, pure=True)
    for _ in range(3):
        model.weight.data.mul_(1.5)
        total, rows = step()
        found, seen = compiled()
        assert found.item() == pytest.approx(total.item(), rel=2e-6)
        assert seen.stride() == rows.stride() and nt.allclose(seen, rows, rtol=1e-4, atol=1e-5)
    assert compiled.plan().tiled or name == "a copy"


def test_rows_that_depend_on_one_another_are_left_in_one_piece() -> None:
    x, y = large_batch(1)
    nt.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    compiled = nt.compile(step, pure=True)
    compiled(x, y)
    assert not compiled.plan().tiled


KEPT: dict[str, Callable[[nt.Tensor], Any]] = {
    "itself": lambda g: g,
    "its detach": lambda g: g.detach(),
    "a view": lambda g: g[0],
    "its NumPy array": lambda g: g.numpy(),
}


@pytest.mark.parametrize("what", KEPT)
def test_what_is_kept_of_a_gradient_stays_as_it_is(what: str) -> None:
    """Until it is let go of, steps run eagerly; then they are replayed again."""
    step, model, _ = training_step(logistic, OPTIMIZERS["sgd with momentum"])
    compiled = nt.compile(step, pure=True)
    for x, y in batches(3):
        compiled(x, y)
    kept = KEPT[what](model.weight.grad)
    values = kept.copy() if what == "its NumPy array" else kept.clone()
    for x, y in batches(4):
        compiled(x, y)
        assert (kept == values).all()
    del kept
    compiled(x, y)

    def fail(*args: Any) -> None:
        raise AssertionError("it runs eagerly, though nothing is kept any more")

    compiled._function = fail
    for x, y in batches(3):
        compiled(x, y)


# --- every op -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:compile")  # a few read values, and stay eager
@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("kind", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", op_table.every_day(op_table.CASES), ids=lambda case: case.name)
def test_every_op_replays_to_the_bits_of_an_eager_run(
    case: op_table.Case, kind: str, pure: bool
) -> None:
    arrays = [a.astype(kind) if a.dtype.kind == "f" else a for a in case.arrays()]
    inputs = [nt.tensor(a) for a in arrays]
    leaves = [
        x.requires_grad_() for x, i in zip(inputs, case.inputs, strict=True) if i.differentiable
    ]

    def step() -> Any:
        for leaf in leaves:
            leaf.grad = None
        found = case.function(nt, *inputs)
        out = found[0] if isinstance(found, tuple) else found
        if isinstance(out, nt.Tensor) and out.requires_grad:
            (out * out).sum().backward()
        return out.detach() if isinstance(out, nt.Tensor) else out

    def bits() -> list[Any]:
        return [x.grad._array.tobytes() for x in leaves if x.grad is not None]

    compiled = nt.compile(step, pure=pure)
    for _ in range(4):
        found, gradients = compiled(), bits()
        expected = step()
        if isinstance(expected, nt.Tensor):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found._array.tobytes() == expected._array.tobytes()
        else:
            assert found == expected
        assert gradients == bits()
        with nt.no_grad():
            for leaf in leaves:
                leaf.mul_(1.01)


def test_pytorchs_options_are_taken() -> None:
    def step(x: Any) -> Any:
        return x * 2

    options: dict[str, Any] = {"fullgraph": True, "dynamic": False, "mode": "reduce-overhead"}
    compiled = nt.compile(step, backend="inductor", **options)
    assert [compiled(nt.ones(1)).item() for _ in range(3)] == [2.0] * 3
    assert nt.compile(step, disable=True) is step and nt.compile(disable=True)(step) is step
