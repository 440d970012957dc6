"""Learning rates over time, against PyTorch's schedulers and against their own definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nanotorch.training.config import choices
from nanotorch.training.schedules import LearningRates, factor


class Group:
    """The part of an optimizer that a schedule touches."""

    def __init__(self, *rates: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"lr": rate} for rate in rates]


def rates(schedule: Any, epochs: int, steps: int = 1) -> list[float]:
    """The learning rate of every epoch, starting from 1."""
    optimizer = Group(1.0)
    learning = LearningRates(schedule, optimizer, epochs, steps)
    seen = []
    for epoch in range(epochs):
        learning.set(epoch, epoch * steps)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


@pytest.mark.torch
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (choices.Step(every=3, factor=0.5), lambda s, o: s.StepLR(o, 3, 0.5)),
        (choices.MultiStep(at=[7, 2], factor=0.1), lambda s, o: s.MultiStepLR(o, [2, 7], 0.1)),
        (choices.Exponential(factor=0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
        (choices.Cosine(lowest=0.1), lambda s, o: s.CosineAnnealingLR(o, 20, 0.1)),
        (
            choices.CosineRestarts(period=3, growth=2),
            lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2),
        ),
        (choices.Linear(end=0.2), lambda s, o: s.LinearLR(o, 1.0, 0.2, 20)),
    ],
    ids=["step", "multistep", "exponential", "cosine", "cosine_restarts", "linear"],
)
def test_schedules_are_pytorchs(ours: Any, theirs: Any) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = theirs(torch.optim.lr_scheduler, optimizer)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(ours, 20) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_climbs_to_the_rate_and_falls_to_almost_nothing() -> None:
    schedule = choices.OneCycle(rise=0.25, first=0.1, last=0.001)
    seen = [factor(schedule, time, 100) for time in range(101)]
    assert seen[0] == pytest.approx(0.1)
    assert max(seen) == seen[25] == pytest.approx(1.0)
    assert seen[100] == pytest.approx(0.001)
    assert seen[:26] == sorted(seen[:26])
    assert seen[25:] == sorted(seen[25:], reverse=True)


def test_a_warm_up_climbs_before_the_schedule_begins() -> None:
    seen = rates(choices.Cosine(warmup=4, warmup_start=0.2), 10)
    assert seen[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert seen[7] == pytest.approx((1 + math.cos(math.pi * 3 / 6)) / 2)


def test_steps_are_counted_where_the_unit_is_a_step() -> None:
    by_epoch = rates(choices.Step(every=2, factor=0.5), 6, steps=10)
    by_step = rates(choices.Step(every=20, factor=0.5, unit="step"), 6, steps=10)
    assert by_epoch == by_step


def test_groups_keep_their_ratio() -> None:
    optimizer = Group(1.0, 0.1)
    learning = LearningRates(choices.Exponential(factor=0.5), optimizer, 10, 1)
    learning.set(3, 3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.125, 0.0125])


@pytest.mark.parametrize(("more", "sign"), [(False, 1), (True, -1)])
def test_a_plateau_waits_for_its_patience(more: bool, sign: int) -> None:
    optimizer = Group(1.0)
    learning = LearningRates(choices.Plateau(factor=0.5, patience=2), optimizer, 10, 1)
    seen = []
    for epoch, value in enumerate([5, 4, 4, 4, 4, 4, 4, 3]):
        learning.set(epoch, epoch)
        seen.append(optimizer.param_groups[0]["lr"])
        learning.watch(sign * value, more)
    assert seen == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]
