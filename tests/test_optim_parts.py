"""A step on a CUDA device in two parts: what the host does, and launches that can be repeated."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import strict_cupy
from optimizer_table import FEW, named

import nanotorch as nt
from nanotorch import optim


def made(
    name: str, options: dict[str, Any], device: str, dtype: Any = None
) -> tuple[list[nt.Tensor], Any]:
    """Two parameters with gradients, and an optimizer that has made one step."""
    parameters = []
    for shape in ((3, 2), (5,)):
        values = numpy.linspace(-1, 1, int(numpy.prod(shape))).reshape(shape)
        p = nt.tensor(values, dtype=dtype or nt.float32).to(device).requires_grad_()
        p.grad = p.detach() * 2 + 1
        parameters.append(p)
    optimizer = getattr(optim, name)(parameters, **options)
    optimizer.step()
    return parameters, optimizer


def taken_apart(optimizer: Any, slots: int = 1) -> Any:
    return type(optimizer).step.parts(optimizer, slots=slots)


def values(parameters: list[nt.Tensor]) -> list[Any]:
    return [p.detach().cpu().numpy() for p in parameters]


@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_several_steps_may_be_sent_for_at_once_and_launched_after(
    cuda: str, name: str, options: dict[str, Any]
) -> None:
    expected, plain = made(name, options, "cuda")
    schedule = optim.lr_scheduler.ExponentialLR(plain, 0.9)
    for _ in range(6):
        plain.step()
        schedule.step()

    found, optimizer = made(name, options, "cuda")
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    parts = taken_apart(optimizer, slots=3)
    for _ in range(2):
        assert parts.holds()
        for slot in range(3):
            parts.advance(slot)
            schedule.step()
        parts.send()
        for slot in range(3):
            parts.launch(slot)
    for a, b in zip(values(found), values(expected), strict=True):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(optimizer.state.values(), plain.state.values(), strict=True):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


def test_nothing_is_sent_for_where_no_number_has_changed(cuda: str) -> None:
    _, optimizer = made("SGD", {"lr": 0.1, "momentum": 0.9}, "cuda")
    parts = taken_apart(optimizer)
    parts.advance()
    parts.send()
    strict_cupy.counts.reset()
    with strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        assert parts.holds()
        parts.advance()
        parts.send()
    if cuda != "cupy":
        assert strict_cupy.counts.launches == 0
    optimizer.param_groups[0]["lr"] = 0.05
    parts.advance()
    parts.send()
    if cuda != "cupy":
        assert strict_cupy.counts.launches == 1


def test_a_launch_alone_takes_no_memory_and_counts_no_step(cuda: str) -> None:
    parameters, optimizer = made("Adam", {}, "cuda")
    parts = taken_apart(optimizer)
    parts.advance()
    parts.send()
    taken: list[int] = []

    class Hook(strict_cupy.cuda.MemoryHook):  # type: ignore[misc]
        def malloc_postprocess(self, **facts: int) -> None:
            taken.append(facts["size"])

    before = values(parameters)
    with Hook(), strict_cupy.no_transfers(), strict_cupy.no_synchronization():
        parts.launch()
    assert not taken
    assert optimizer.state[parameters[0]]["step"].item() == 2
    assert not numpy.array_equal(values(parameters)[0], before[0])


CHANGES: dict[str, Any] = {
    "a term that comes in": lambda o: o.param_groups[0].update(weight_decay=0.5),
    "a state that comes in": lambda o: o.param_groups[0].update(amsgrad=True),
    "a flag": lambda o: o.param_groups[0].update(maximize=True),
    "a loaded state": lambda o: o.load_state_dict(o.state_dict()),
    "replaced data": lambda o: setattr(o.param_groups[0]["params"][0], "data", one()),
    "a state of one's own": lambda o: o.state[o.param_groups[0]["params"][0]].update(exp_avg=one()),
    "a step count": lambda o: o.state[o.param_groups[0]["params"][0]]["step"].fill_(9),
}


def one() -> nt.Tensor:
    return nt.ones(3, 2, device="cuda")


@pytest.mark.parametrize("change", CHANGES)
def test_what_captured_launches_cannot_follow_is_noticed(cuda: str, change: str) -> None:
    _, optimizer = made("Adam", {}, "cuda")
    parts = taken_apart(optimizer)
    assert parts.holds()
    optimizer.param_groups[0]["lr"] = 0.5
    assert parts.holds()
    CHANGES[change](optimizer)
    assert not parts.holds()


def test_hooks_of_a_step_cannot_be_taken_apart(cuda: str) -> None:
    _, optimizer = made("SGD", {"lr": 0.1}, "cuda")
    optimizer.register_step_post_hook(lambda *a: None)
    assert taken_apart(optimizer) is None


def test_parameters_of_several_devices_and_dtypes_step_together(cuda: str) -> None:
    def trained(devices: list[str]) -> list[Any]:
        kinds = (nt.float32, nt.float64, nt.float16, nt.float32)
        parameters = []
        for device, kind in zip(devices, kinds, strict=True):
            p = nt.tensor([1.0, -2.0], dtype=kind).to(device).requires_grad_()
            p.grad = p.detach() / 2
            parameters.append(p)
        optimizer = optim.Adam(parameters, lr=0.125, eps=1e-2)
        for _ in range(3):
            optimizer.step()
        return values(parameters)

    found = trained(["cuda:0", "cuda:0", "cuda:0", "cpu"])
    for a, b in zip(found, trained(["cpu"] * 4), strict=True):
        numpy.testing.assert_allclose(a, b, rtol=2e-3 if a.dtype == "e" else 1e-6)
