"""Learning rate schedules: the numbers, states and errors of PyTorch's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import optim
from nanotorch.optim import lr_scheduler

Make = Callable[[Any, Any], Any]  # (the lr_scheduler module, the optimizer) to a schedule


def halved_every_seven(epoch: int) -> float:
    return float(0.5 ** (epoch // 7))


def sequence(s: Any, o: Any) -> Any:
    parts = [
        s.LinearLR(o, 0.1, total_iters=10),
        s.CosineAnnealingLR(o, 40),
        s.ExponentialLR(o, 0.9),
    ]
    return s.SequentialLR(o, parts, [10, 50])


SCHEDULES: dict[str, Make] = {
    "lambda": lambda s, o: s.LambdaLR(o, lambda epoch: 0.95**epoch),
    "lambda per group": lambda s, o: s.LambdaLR(
        o, [halved_every_seven, lambda epoch: 1 / (1 + epoch)]
    ),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda epoch: 0.97),
    "step": lambda s, o: s.StepLR(o, 7, gamma=0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [3, 20, 20, 60], gamma=0.3),
    "constant": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=9),
    "linear": lambda s, o: s.LinearLR(o, start_factor=0.2, end_factor=0.7, total_iters=30),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.93),
    "polynomial": lambda s, o: s.PolynomialLR(o, total_iters=50, power=2.0),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, T_max=30, eta_min=1e-3),
    "cosine over and over": lambda s, o: s.CosineAnnealingLR(o, T_max=4),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 10, eta_min=1e-4),
    "growing restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, T_mult=2),
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.4, step_size_up=7, step_size_down=4),
    "cyclic, halved": lambda s, o: s.CyclicLR(o, 0.01, 0.4, 5, mode="triangular2"),
    "cyclic, shrinking": lambda s, o: s.CyclicLR(o, 0.01, 0.4, 5, mode="exp_range", gamma=0.97),
    "cyclic, by a function": lambda s, o: s.CyclicLR(o, 0.1, 0.4, 3, scale_fn=lambda n: 1 / n),
    "one cycle": lambda s, o: s.OneCycleLR(o, max_lr=0.5, total_steps=101),
    "one cycle, linear": lambda s, o: s.OneCycleLR(
        o, [0.5, 0.1], epochs=11, steps_per_epoch=10, anneal_strategy="linear", pct_start=0.2
    ),
    "one cycle, three phases": lambda s, o: s.OneCycleLR(
        o, max_lr=0.5, total_steps=120, three_phase=True, cycle_momentum=False
    ),
    "sequence": sequence,
    "chained": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, 0.1, total_iters=20), s.ExponentialLR(o, 0.9), s.StepLR(o, 30)]
    ),
}


def optimizer_of(module: Any, algorithm: str = "SGD") -> Any:
    options = {"momentum": 0.9} if algorithm == "SGD" else {}
    parameters = [module.zeros(1, requires_grad=True), module.zeros(1, requires_grad=True)]
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.01}]
    return getattr(module.optim, algorithm)(groups, lr=0.1, **options)


def numbers(optimizer: Any) -> list[float]:
    """The rates, and the momenta where the groups have them."""
    found = []
    for group in optimizer.param_groups:
        found += [group["lr"], group.get("momentum", 0), *group.get("betas", ())]
    return found


@pytest.mark.torch
@pytest.mark.parametrize("algorithm", ["SGD", "Adam"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_pytorchs_over_100_steps(name: str, algorithm: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = optimizer_of(nt, algorithm), optimizer_of(torch, algorithm)
    mine = SCHEDULES[name](lr_scheduler, ours)
    reference = SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-12)
    for step in range(100):
        ours.step()
        theirs.step()
        mine.step()
        reference.step()
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-9, abs=1e-18), step
        assert mine.get_last_lr() == pytest.approx(reference.get_last_lr(), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_saved_schedule_goes_on_with_the_same_rates(name: str) -> None:
    def run(optimizer: Any, schedule: Any, count: int) -> list[list[float]]:
        seen = []
        for _ in range(count):
            optimizer.step()
            schedule.step()
            seen.append(numbers(optimizer))
        return seen

    optimizer = optimizer_of(nt)
    schedule = SCHEDULES[name](lr_scheduler, optimizer)
    run(optimizer, schedule, 13)
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    expected = run(optimizer, schedule, 60)

    resumed = optimizer_of(nt)
    again = SCHEDULES[name](lr_scheduler, resumed)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    assert run(resumed, again, 60) == expected


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n not in ("multistep",)])
def test_the_state_of_a_schedule_is_plain_data(name: str) -> None:
    state = SCHEDULES[name](lr_scheduler, optimizer_of(nt)).state_dict()
    assert json.loads(json.dumps(state)).keys() == state.keys()


@pytest.mark.parametrize(
    "place, expected",
    [
        (0, [0.05, 0.1, 0.1, 0.05, 0.05, 0.05]),
        (1, [0.1, 0.1, 0.05, 0.05, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_a_sequence_may_be_part_of_another(place: int, expected: list[float]) -> None:
    optimizer = optimizer_of(nt)
    halved = lr_scheduler.ConstantLR(optimizer, 0.5, 99)
    inner = lr_scheduler.SequentialLR(optimizer, [halved, lr_scheduler.StepLR(optimizer, 2)], [2])
    other = lr_scheduler.ConstantLR(optimizer, [0.5, 1.0][place], 99)
    parts = [inner, other] if place == 0 else [other, inner]
    outer = lr_scheduler.SequentialLR(optimizer, parts, [4 if place == 0 else 3])
    rates = []
    for _ in expected:
        optimizer.step()
        outer.step()
        rates.append(outer.get_last_lr()[0])
    assert rates == pytest.approx(expected)


def test_a_chain_may_be_part_of_a_sequence() -> None:
    optimizer = optimizer_of(nt)
    chain = lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(optimizer, 0.5), lr_scheduler.ConstantLR(optimizer, 0.1, 2)]
    )
    tail = lr_scheduler.ConstantLR(optimizer, 1.0)
    schedule = lr_scheduler.SequentialLR(optimizer, [chain, tail], [3])
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(3):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates == pytest.approx([0.01, 0.005, 0.025, 0.1])


METRICS = [1.0, 0.9, 0.9, 0.9, 0.9, 0.95, 0.9, 0.89, 0.89, 0.89, 0.89, 0.89, 0.89, 0.5, 0.7] * 4


@pytest.mark.torch
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 1, "mode": "max", "factor": 0.5},
        {"patience": 0, "threshold_mode": "abs", "threshold": 0.05, "min_lr": [1e-3, 5e-3]},
        {"patience": 1, "cooldown": 2, "mode": "max", "threshold_mode": "abs"},
        {"patience": 0, "factor": 0.9, "eps": 1e-2},
    ],
    ids=str,
)
def test_the_plateau_is_seen_where_pytorch_sees_it(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = optimizer_of(nt), optimizer_of(torch)
    mine = lr_scheduler.ReduceLROnPlateau(ours, **options)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    for metric in METRICS:
        mine.step(nt.tensor(metric))
        reference.step(metric)
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-12)
        for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch"):
            assert getattr(mine, name) == pytest.approx(getattr(reference, name))


def test_a_plateau_schedule_goes_on_from_its_state() -> None:
    optimizer = optimizer_of(nt)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    for metric in METRICS[:5]:
        schedule.step(metric)
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    resumed = optimizer_of(nt)
    again = lr_scheduler.ReduceLROnPlateau(resumed)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for metric in METRICS[5:]:
        schedule.step(metric)
        again.step(metric)
        assert numbers(resumed) == numbers(optimizer)


@pytest.mark.torch
@pytest.mark.parametrize("growth", [1, 2])
@pytest.mark.parametrize("epoch", [0.0, 0.5, 3.25, 5.0, 14.9, 15.0, 33.3])
def test_restarts_take_fractional_epochs(epoch: float, growth: int) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = optimizer_of(nt), optimizer_of(torch)
    lr_scheduler.CosineAnnealingWarmRestarts(ours, 5, growth).step(epoch)
    torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 5, growth).step(epoch)
    assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-12)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(
    "name", ["step", "multistep", "constant", "linear", "exponential", "polynomial", "cosine"]
)
def test_a_given_epoch_is_jumped_to(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = optimizer_of(nt), optimizer_of(torch)
    mine = SCHEDULES[name](lr_scheduler, ours)
    reference = SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    ours.step()
    theirs.step()
    for epoch in (25, 4):
        mine.step(epoch)
        reference.step(epoch)
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-12)


def test_resuming_by_last_epoch_needs_the_initial_rate_and_takes_it() -> None:
    optimizer = optimizer_of(nt)
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(optimizer, 5, last_epoch=3)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    schedule = lr_scheduler.LambdaLR(optimizer, halved_every_seven, last_epoch=6)
    assert schedule.get_last_lr() == [0.05, 0.005]


def test_a_schedule_that_steps_before_the_optimizer_is_warned_of() -> None:
    optimizer = optimizer_of(nt)
    schedule = lr_scheduler.StepLR(optimizer, 5)
    with pytest.warns(UserWarning, match=r"before `optimizer\.step"):
        schedule.step()


def test_get_lr_points_to_get_last_lr() -> None:
    schedule = lr_scheduler.StepLR(optimizer_of(nt), 5)
    with pytest.warns(UserWarning, match="get_last_lr"):
        schedule.get_lr()


def test_a_subclass_defines_get_lr() -> None:
    class Thirds(lr_scheduler.LRScheduler):
        def get_lr(self) -> list[float]:
            return [base / 3**self.last_epoch for base in self.base_lrs]

    optimizer = optimizer_of(nt)
    schedule = Thirds(optimizer)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.1 / 3, 0.01 / 3])


ERRORS: list[tuple[str, Callable[[Any], Any], type[Exception], str]] = [
    ("no optimizer", lambda o: lr_scheduler.StepLR(object(), 3), TypeError, "object is not an Opt"),
    ("lambdas", lambda o: lr_scheduler.LambdaLR(o, [halved_every_seven]), ValueError, "got 1"),
    ("factor", lambda o: lr_scheduler.ConstantLR(o, 1.5), ValueError, "between 0 and 1, got 1.5"),
    ("start", lambda o: lr_scheduler.LinearLR(o, 0), ValueError, "start_factor"),
    ("start above", lambda o: lr_scheduler.LinearLR(o, 1.5), ValueError, "start_factor"),
    ("end", lambda o: lr_scheduler.LinearLR(o, 0.5, 1.5), ValueError, "end_factor"),
    ("T_0", lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 0), ValueError, "T_0"),
    ("T_mult", lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 1, 0), ValueError, "T_mult"),
    ("mode", lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, mode="saw"), ValueError, "'saw'"),
    ("no steps", lambda o: lr_scheduler.OneCycleLR(o, 0.1), ValueError, "total_steps"),
    ("steps", lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=-1), ValueError, "-1"),
    (
        "pct_start",
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9, pct_start=1.5),
        ValueError,
        "pct_start",
    ),
    (
        "strategy",
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9, anneal_strategy="sine"),
        ValueError,
        "sine",
    ),
    (
        "no momentum",
        lambda o: lr_scheduler.OneCycleLR(optimizer_of(nt, "Adagrad"), 0.1, total_steps=9),
        ValueError,
        "cycle_momentum=False",
    ),
    ("plateau factor", lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.0), ValueError, "< 1"),
    ("plateau mode", lambda o: lr_scheduler.ReduceLROnPlateau(o, "least"), ValueError, "least"),
    ("no schedules", lambda o: lr_scheduler.SequentialLR(o, [], []), ValueError, "at least one"),
    ("none chained", lambda o: lr_scheduler.ChainedScheduler([]), ValueError, "at least one"),
    (
        "milestones",
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 3)], [5]),
        ValueError,
        "got 1 for 1",
    ),
    (
        "another optimizer's",
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(optimizer_of(nt), 3)], []),
        ValueError,
        "another optimizer",
    ),
    (
        "no schedule",
        lambda o: lr_scheduler.ChainedScheduler([object()], o),
        TypeError,
        "got object at 0",
    ),
    (
        "threshold",
        lambda o: lr_scheduler.ReduceLROnPlateau(o, threshold_mode="x"),
        ValueError,
        "'x'",
    ),
    (
        "plateau of none",
        lambda o: lr_scheduler.ReduceLROnPlateau(object()),
        TypeError,
        "not an Opt",
    ),
    ("cycle of none", lambda o: lr_scheduler.OneCycleLR(object(), 1), TypeError, "not an Opt"),
    ("no formula", lambda o: lr_scheduler.LRScheduler(o), NotImplementedError, "get_lr"),
    (
        "negative",
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5).step(-1),
        ValueError,
        "-1",
    ),
    (
        "a plateau in a chain",
        lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ReduceLROnPlateau(o)]),
        ValueError,
        "metric",
    ),
]


@pytest.mark.parametrize(
    "make, error, message", [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_what_makes_no_sense_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(optimizer_of(nt))


def test_callable_objects_are_saved_by_their_attributes() -> None:
    class Decay:
        def __init__(self, base: float) -> None:
            self.base = base

        def __call__(self, epoch: int) -> float:
            return self.base**epoch

    saved = lr_scheduler.LambdaLR(optimizer_of(nt), Decay(0.5)).state_dict()
    assert saved["lr_lambdas"] == [{"base": 0.5}] * 2
    resumed = lr_scheduler.LambdaLR(optimizer_of(nt), Decay(0.9))
    resumed.load_state_dict(saved)
    assert [function.base for function in resumed.lr_lambdas] == [0.5, 0.5]


def test_a_plateau_after_a_new_group_needs_its_least_rate() -> None:
    for least, refused in (([0.0, 0.0], True), (0.05, False)):
        optimizer = optimizer_of(nt)
        schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, min_lr=least)
        optimizer.add_param_group({"params": [nt.zeros(1, requires_grad=True)]})
        schedule.step(1.0)
        if refused:
            with pytest.raises(RuntimeError, match="2 values for the optimizer's 3"):
                schedule.step(1.0)
        else:
            schedule.step(1.0)
            assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.01, 0.05]


def test_a_cycle_that_is_over_is_not_gone_past() -> None:
    optimizer = optimizer_of(nt)
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3)
    optimizer.step()
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="step 4 of 3"):
        schedule.step()


def test_a_rate_held_in_a_tensor_is_written_in_place() -> None:
    parameter = nt.zeros(1, requires_grad=True)
    rate = nt.tensor(0.5)
    optimizer = optim.SGD([parameter], lr=rate)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    parameter.grad = nt.ones(1)
    optimizer.step()
    schedule.step()
    assert (parameter.item(), rate.item()) == (-0.5, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate


CYCLES: list[Make] = [
    lambda s, o: s.CyclicLR(o, 0.01, 0.2, step_size_up=2),
    lambda s, o: s.CyclicLR(o, 0.01, 0.2, step_size_up=2, mode="exp_range", gamma=0.9),
    lambda s, o: s.CyclicLR(o, 0.01, 0.2, step_size_up=2, cycle_momentum=False),
    lambda s, o: s.OneCycleLR(o, 0.5, total_steps=9),
    lambda s, o: s.OneCycleLR(o, 0.5, total_steps=9, three_phase=True, anneal_strategy="linear"),
    lambda s, o: s.OneCycleLR(o, 0.5, total_steps=9, cycle_momentum=False),
    lambda s, o: s.ReduceLROnPlateau(o, patience=0),
]


@pytest.mark.torch
@pytest.mark.parametrize("algorithm", ["SGD", "Adam"])
@pytest.mark.parametrize("make", CYCLES, ids=range(len(CYCLES)))
def test_schedules_keep_what_pytorchs_keep(make: Make, algorithm: str) -> None:
    torch = pytest.importorskip("torch")
    states: list[Any] = []
    for t in (nt, torch):
        optimizer = getattr(t.optim, algorithm)([t.ones(2, requires_grad=True)], lr=0.1)
        t.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # whose first rate a cycle starts from
        schedule = make(t.optim.lr_scheduler, optimizer)
        for metric in (1.0, 2.0, 3.0):
            optimizer.step()
            schedule.step(*([metric] if "Plateau" in type(schedule).__name__ else []))
        group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        public = {k: v for k, v in schedule.state_dict().items() if k[0] != "_"}
        phases = schedule.state_dict().get("_schedule_phases")
        states.append((sorted(group), sorted(public), phases, numbers(optimizer)))
        states[-1] += ([*group.get("betas", ()), group.get("momentum"), group.get("max_momentum")],)
    assert states[0][:3] == states[1][:3]
    assert states[0][3] == pytest.approx(states[1][3], rel=1e-12)
    ours, theirs = (np.array([x for x in s[4] if x is not None]).ravel() for s in states)
    np.testing.assert_allclose(ours, theirs, 1e-12)


@pytest.mark.parametrize("make", CYCLES[3:6], ids=range(3))
def test_a_group_added_to_a_cycle_is_refused_by_its_next_step(make: Make) -> None:
    optimizer = optim.SGD([nt.ones(2, requires_grad=True)], lr=0.1, momentum=0.9)
    schedule = make(lr_scheduler, optimizer)
    optimizer.add_param_group({"params": [nt.ones(1, requires_grad=True)]})
    optimizer.step()
    with pytest.raises(KeyError, match=r"_lr"):
        schedule.step()
