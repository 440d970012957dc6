"""Rules: every optimizer is its formula, whoever makes the steps, as is a rule of one's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from optimizer_table import FEW, ROWS, Options, Row, named

import nanotorch as nt
from nanotorch import nn, optim
from nanotorch.optim.optimizer import Optimizer, Runner, penalized

EVERY = [(row, options) for row in ROWS for options in row.cases]


def values(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def identified(value: Any) -> str:
    return named(value.name if isinstance(value, Row) else value)


def test_every_optimizer_has_its_row() -> None:
    kinds = [getattr(optim, name) for name in dir(optim)]
    names = {k.__name__ for k in kinds if isinstance(k, type) and issubclass(k, Optimizer)}
    assert names - {"Optimizer", "LBFGS", "SparseAdam"} == {row.name for row in ROWS}


@pytest.mark.parametrize("row, options", EVERY, ids=identified)
def test_an_optimizer_is_its_formula(row: Row, options: Options) -> None:
    w, s = values(0, 3, 4), {}
    p = nt.tensor(w, requires_grad=True)
    optimizer = getattr(optim, row.name)([p], **options)
    for t in range(1, 13):
        g = values(t, 3, 4) + w
        p.grad = nt.tensor(g)
        w = row.update(w, g, s, t, **options)
        optimizer.step()
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-6, atol=1e-9)
    state = optimizer.state[p]
    assert s.keys() == state.keys() - {"step"}
    for name, value in s.items():
        np.testing.assert_allclose(state[name].numpy(), value, rtol=1e-6, atol=1e-9)


KINDS = [nt.float32, nt.float64, nt.float16, nt.bfloat16]


def stepped(name: str, options: Options, runner: Runner | None, device: str = "cpu") -> list[Any]:
    """The parameters, of all kinds and shapes, and their state after five steps, as bytes."""
    parameters = [
        nt.tensor(values(i, *shape)).to(device, kind).requires_grad_()
        for kind in KINDS
        for i, shape in enumerate([(3, 2), (1,), (), (0, 3)])
    ]
    optimizer = getattr(optim, name)(parameters, **options)
    if runner is not None:
        optimizer._runner = runner
    for step in range(5):
        for i, p in enumerate(parameters):
            g = nt.tensor(values(10 * step + i, *p.shape)).to(device, p.dtype)
            p.grad = None if (step + i) % 4 == 1 else g
        optimizer.step()
    states = [t for p in parameters for t in optimizer.state.get(p, {}).values()]
    return [t.detach().cpu().double().numpy().tobytes() for t in (*parameters, *states)]


@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_the_fast_step_has_the_bits_of_the_plain_one(name: str, options: Options) -> None:
    pytest.importorskip("ml_dtypes")
    assert stepped(name, options, None) == stepped(name, options, Runner())


@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_a_gpu_without_kernels_of_ours_has_the_bits_of_the_cpu(
    cuda: str, monkeypatch: pytest.MonkeyPatch, name: str, options: Options
) -> None:
    if cuda == "cupy":
        pytest.skip("a GPU contracts a product and a sum, the look-alike is NumPy")
    pytest.importorskip("ml_dtypes")
    monkeypatch.setattr(getattr(optim, name), "cuda_kernel", "")
    expected = stepped(name, options, None)
    assert stepped(name, options, None, "cuda") == expected
    assert stepped(name, options, Runner(), "cuda") == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_a_compiled_step_has_the_bits_of_the_step(
    cuda: str, name: str, options: Options, device: str
) -> None:
    def trained(pure: bool | None) -> Any:
        nt.manual_seed(0)
        model = nn.Linear(5, 1).to(device)
        optimizer = getattr(optim, name)(model.parameters(), **options)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        x, y = nt.randn(10, 16, 5).to(device), nt.randn(10, 16, 1).to(device)
        if pure is None:
            losses = [step(*batch).item() for batch in zip(x, y)]
        else:
            run: Any = nt.compile(step, pure=pure)
            losses = [run(*batch).item() for batch in zip(x[:4], y[:4])]
            losses += run.steps(x[4:], y[4:]).tolist()  # on a GPU, several steps in one launch
            run.plan()  # RuntimeError where the step was not recorded
            if pure and device == "cuda":
                ((replay,),) = run._replays.values()
                assert replay.plan.why_not is None and None in replay.plan.launches
        return losses, [p.tolist() for p in model.parameters()]

    assert trained(True) == trained(False) == trained(None)


# --- a rule of one's own --------------------------------------------------------------------------


class Lion(Optimizer):
    """w ← w - lr · sign(b · m + (1 - b) · g), which no optimizer of ours is."""

    class Numbers(NamedTuple):
        lr: float
        keep: float
        share: float
        weight_decay: float | None
        maximize: bool

    arrays = ("exp_avg",)
    scratch = ("scratch", "mixture", "direction")
    elementwise = True

    def __init__(self, params: Any, lr: float = 1e-3, keep: float = 0.9, decay: float = 0) -> None:
        super().__init__(params, {"lr": lr, "keep": keep, "decay": decay, "maximize": False})

    def numbers(self, group: Any, step: float) -> Numbers:
        keep = group["keep"]
        return self.Numbers(group["lr"], keep, 1 - keep, group["decay"] or None, group["maximize"])

    @staticmethod
    def kernel(
        xp: Any, parameter: Any, gradient: Any, mixture: Any, scratch: Any, exp_avg: Any, lr: Any,
        share: Any, keep: Any, direction: Any, weight_decay: Any, maximize: bool,
    ) -> None:  # fmt: skip
        gradient = penalized(xp, parameter, gradient, direction, weight_decay, maximize)
        xp.multiply(gradient, share, out=mixture)
        exp_avg *= keep
        exp_avg += mixture
        xp.sign(exp_avg, out=scratch)
        xp.multiply(scratch, lr, scratch)
        parameter -= scratch


@pytest.mark.parametrize("shape", [(), (1,), (2,), (200_000,)], ids=str)
@pytest.mark.parametrize("kind", [nt.float32, nt.float16], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_kernel_may_use_any_function_and_name_its_arguments_in_any_order(
    cuda: str, shape: tuple[int, ...], kind: Any, device: str
) -> None:
    p = nt.zeros(*shape, device=device, dtype=kind, requires_grad=True)
    optimizer = Lion([p], lr=0.25)
    for sign in (1.0, 1.0, -1.0):
        p.grad = nt.full(shape, sign, dtype=kind, device=device)
        optimizer.step()
    assert (p == -0.75).all()
    assert optimizer.state_dict()["state"][0].keys() == {"step", "exp_avg"}


class Halving(optim.SGD):
    """SGD whose rate halves at each step, which it counts by itself in its state."""

    counters = {"age": 1.0}  # noqa: RUF012

    def advance(self, group: Any, age: float) -> tuple[float]:
        return (age * group["ratio"],)

    def numbers(self, group: Any, age: float) -> Any:
        return super().numbers(group, 2.0)._replace(lr=age)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_counters_and_numbers_of_ones_own_are_asked_for_in_each_step(
    cuda: str, device: str
) -> None:
    p = nt.zeros(3, device=device, requires_grad=True)
    optimizer = Halving([{"params": [p], "ratio": 0.5}])
    assert Halving.cuda_kernel == "", "numbers of one's own are unknown to the kernel of SGD"
    p.grad = nt.ones(3, device=device)
    seen = []
    for _ in range(3):
        optimizer.step()
        seen.append(p[0].item())
    optimizer.param_groups[0]["ratio"] = 2.0
    optimizer.step()
    assert [*seen, p[0].item()] == [-0.5, -0.75, -0.875, -1.125]
    assert optimizer.state[p]["age"].item() == 0.25
    again = Halving([{"params": [p], "ratio": 1.0}])
    again.load_state_dict(optimizer.state_dict())
    again.step()
    assert again.state[p]["age"].item() == 0.5


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_flags_may_be_numbers(cuda: str, name: str, device: str) -> None:
    def step(maximize: Any) -> Any:
        p = nt.ones(3, device=device, requires_grad=True)
        p.grad = nt.ones(3, device=device)
        getattr(optim, name)([p], lr=0.5, maximize=maximize).step()
        return p.tolist()

    assert step(0) == step(False) != step(True) == step(1)


def test_a_kernel_that_takes_what_nobody_knows_is_refused_when_its_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.kernel: expected `momentums` once among arrays"):

        class Wrong(optim.SGD):
            @staticmethod
            def kernel(xp: Any, parameter: Any, gradient: Any, momentums: Any) -> None:
                """Takes a name that is neither state nor number nor scratch."""


def test_terms_that_change_with_the_steps_are_refused_on_devices(cuda: str) -> None:
    class Late(optim.SGD):
        counters = {"step": 0.0}  # noqa: RUF012

        def numbers(self, group: Any, step: float) -> Any:
            return super().numbers(group, step)._replace(weight_decay=0.5 if step > 2 else None)

    def run(device: str) -> float:
        p = nt.ones(2, device=device, requires_grad=True)
        optimizer = Late([p], lr=0.5)
        p.grad = nt.ones(2, device=device)
        for _ in range(3):
            optimizer.step()
        return p[0].item()

    assert run("cpu") == -0.5
    with pytest.raises(RuntimeError, match=r"Late\.numbers: expected the terms of the step before"):
        run("cuda")
