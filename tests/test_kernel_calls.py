"""What a compiled plan makes of kernels: their calls of NumPy, memory for them, pieces of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import backend, nn, optim
from nanotorch.compile.calls import Call, Choice, View, calls_of

F = nn.functional
HOST = backend.HOST


def x() -> Any:
    return np.linspace(-2, 2, 12, dtype="float32").reshape(4, 3)


def names(notes: list[Any]) -> list[str]:
    return [note.name if isinstance(note, Call) else type(note).__name__ for note in notes]


# --- one kernel -----------------------------------------------------------------------------------


def exp_minus_one(xp: Any, x: Any, *, scale: float, out: Any = None) -> Any:
    return xp.subtract(xp.exp(x * scale), 1, out=out)


def mean_of_columns(xp: Any, x: Any, out: Any = None) -> Any:
    return xp.true_divide(x.T.sum(axis=1), len(x), out=out)


def pick(xp: Any, x: Any, out: Any = None) -> Any:
    xp.copyto(out, xp.where(x > 0, x, 0))
    return out


def pick_column(xp: Any, x: Any, out: Any = None) -> Any:
    xp.copyto(out, xp.where(x > 0, x, x[:, :1]))
    return out


def signs(xp: Any, x: Any, out: Any = None) -> Any:
    if x.min() < 0:
        return xp.sign(x, out=out)
    out.fill(1)
    return out


NOTED = {
    "operators and functions": (exp_minus_one, {"scale": 2.0}, ["multiply", "exp", "subtract"]),
    "views and reductions": (mean_of_columns, {}, ["View", "add.reduce", "divide"]),
    "choices by element": (
        pick,
        {},
        ["greater", "copyto", "copyto", "copyto"],
    ),
    "choices among columns": (
        pick_column,
        {},
        ["greater", "View", "copyto", "copyto", "copyto"],
    ),
    "branches": (signs, {}, ["minimum.reduce", "less", "Choice", "sign"]),
}


@pytest.mark.parametrize("name", NOTED)
def test_a_kernel_is_its_calls(name: str) -> None:
    kernel, attributes, expected = NOTED[name]
    out = kernel(HOST, x(), **attributes, out=None) if kernel is exp_minus_one else None
    out = np.full(3 if kernel is mean_of_columns else (4, 3), 7, "float32") if out is None else out
    before = out.copy()
    notes = calls_of(kernel, (x(),), attributes, out)
    assert notes is not None and names(notes) == expected
    assert (out == before).all(), "noting leaves the output alone"
    assert all(isinstance(note, Call | View | Choice) for note in notes)


REFUSED: dict[str, Callable[..., Any]] = {
    "a value as a number": lambda xp, x, out=None: xp.multiply(x, float(x.max()), out=out),
    "elements by number": lambda xp, x, out=None: xp.add(x, x[0, 0], out=out),
    "a copy as an array of NumPy's own": lambda xp, x, out=None: xp.add(xp.asarray(x), 1, out=out),
    "memory from nowhere": lambda xp, x, out=None: xp.exp(x, out=xp.empty((4, 3), "f")),
    "an array from nowhere": lambda xp, x, out=None: xp.add(x, xp.ones(3, "f"), out=out),
    "functions that cannot write to out": lambda xp, x, out=None: xp.flip(x),
    "what is something else for arrays": lambda xp, x, out=None: xp.add(
        x, isinstance(x, np.ndarray), out=out
    ),
    "something else than out returned": lambda xp, x, out=None: xp.exp(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_noted_is_refused(name: str) -> None:
    assert calls_of(REFUSED[name], (x(),), {}, np.empty((4, 3), "float32")) is None


CHOICES: dict[str, Callable[..., Any]] = {
    "of zero": lambda a, b: (a, 0),
    "of zero where the condition holds": lambda a, b: (0, b),
    "of minus zero": lambda a, b: (-0.0, b),
    "of another number": lambda a, b: (-2.5, b),
    "of two arrays": lambda a, b: (a, b),
    "of one number everywhere": lambda a, b: (a, b[0, :1].expand(b.shape[1]).expand(b.shape)),
    "of a row": lambda a, b: (a, b[0]),
    "of a transposed array": lambda a, b: (a, b.T.contiguous().T),
}


@pytest.mark.parametrize("count", [1, 512])
@pytest.mark.parametrize("kind", [nt.float32, nt.float64])
@pytest.mark.parametrize("name", CHOICES)
def test_choices_have_the_bits_of_what_is_chosen(name: str, kind: Any, count: int) -> None:
    special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3.0, -3.0] * count
    a, b = nt.tensor([special, special[::-1]], dtype=kind), nt.randn(2, 8 * count, dtype=kind)
    condition = nt.rand(2, 8 * count) < 0.5
    compiled = nt.compile(lambda: nt.where(condition, *CHOICES[name](a, b)), pure=True)
    for _ in range(4):
        x, y = (v._array if isinstance(v, nt.Tensor) else v for v in CHOICES[name](a, b))
        expected = np.where(condition._array, x, y).astype(a._array.dtype)
        eager = nt.where(condition, *CHOICES[name](a, b))
        assert eager._array.tobytes() == expected.tobytes()
        assert compiled()._array.tobytes() == expected.tobytes()
        condition.copy_(~condition)


# --- in a plan ------------------------------------------------------------------------------------


def plan_of(compiled: Any) -> Any:
    ((replay,),) = compiled._replays.values()
    return replay.plan


def test_a_branch_that_goes_the_other_way_calls_the_kernel_as_a_whole() -> None:
    targets = nt.tensor([0, 2, 1, 2])
    scores = nt.randn(4, 3)
    compiled = nt.compile(lambda: F.nll_loss(scores, targets), pure=True)
    for ignored in (False, True, False):
        targets[1] = -100 if ignored else 2
        assert compiled().item() == F.nll_loss(scores, targets).item()
    targets[0] = 3
    with pytest.raises(IndexError, match="Target 3 is out of bounds"):
        compiled()


ROWS = 32_768
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], Any]] = {
    "logistic": (
        lambda: nn.Linear(30, 1),
        F.binary_cross_entropy_with_logits,
        lambda: nt.rand(ROWS, 1),
    ),
    "softmax": (lambda: nn.Linear(30, 10), F.cross_entropy, lambda: nt.randint(0, 10, (ROWS,))),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(30, 20), nn.GELU("tanh"), nn.Linear(20, 1)),
        F.mse_loss,
        lambda: nt.rand(ROWS, 1),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("make", [optim.SGD, optim.AdamW])
def test_a_replay_allocates_no_temporaries(name: str, make: Any) -> None:
    build, loss_function, targets = MODELS[name]
    model, inputs, wanted = build(), nt.rand(ROWS, 30), targets()
    optimizer = make(model.parameters(), lr=0.01)

    @nt.compile(pure=True)
    def step(x: nt.Tensor, y: nt.Tensor) -> None:
        optimizer.zero_grad()
        loss_function(model(x), y).backward()
        optimizer.step()

    for _ in range(5):
        step(inputs, wanted)
    tracemalloc.start()
    try:
        step(inputs, wanted)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step(inputs, wanted)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Where operands broadcast, NumPy itself takes a buffer of 32 KB for the time of a call.
    assert peak - before < 2 * ROWS, "bytes: less than one value for each row"


def test_a_replay_is_as_silent_about_overflow_as_an_eager_step() -> None:
    x = nt.full((8,), 200.0)
    compiled = nt.compile(lambda: (x.exp() * 2).log(), pure=True)
    for _ in range(3):
        assert compiled().isinf().all()


# --- writes to memory that other operands show --------------------------------------------------

SQUARE = 512


def written_then_read_transposed(x: nt.Tensor, w: nt.Tensor) -> nt.Tensor:
    with nt.no_grad():
        t = w.t()
        y = x * 2
        w.add_(y)
        return t * 2 + y


def updated_in_place(x: nt.Tensor, w: nt.Tensor) -> nt.Tensor:
    y = x + w
    y.mul_(2)
    y.sub_(x)
    return y.exp_()


def one_dimension_less(x: nt.Tensor, w: nt.Tensor) -> nt.Tensor:
    return (x * w[0] + w[:, :1]).tanh() * w[1]


@pytest.mark.parametrize(
    "function", [written_then_read_transposed, updated_in_place, one_dimension_less]
)
def test_large_arrays_that_are_written_and_read_in_other_orders_have_eager_bits(
    function: Callable[..., Any],
) -> None:
    w, same = nt.randn(SQUARE, SQUARE), nt.randn(SQUARE, SQUARE)
    same.copy_(w)
    compiled = nt.compile(lambda x: function(x, w), pure=True)
    for _ in range(3):
        x = nt.randn(SQUARE, SQUARE)
        assert compiled(x)._array.tobytes() == function(x, same)._array.tobytes()
    assert w._array.tobytes() == same._array.tobytes()


def test_an_argument_may_show_what_the_step_writes_in_another_order() -> None:
    w = nt.randn(SQUARE, SQUARE)

    def step(x: nt.Tensor) -> nt.Tensor:
        with nt.no_grad():
            w.add_(x * 2 + 1)
            return w * 1

    compiled = nt.compile(step, pure=True)
    for _ in range(3):
        compiled(nt.randn(SQUARE, SQUARE))
    expected = w + (w.t() * 2 + 1)
    assert nt.equal(compiled(w.t()), expected) and nt.equal(w, expected)


def test_a_kernel_that_would_now_refuse_its_operands_is_called_as_a_whole() -> None:
    scores, targets = nt.randn(4, 3), nt.tensor([0, 2, 1, 2])

    def step() -> nt.Tensor:
        loss = F.nll_loss(scores, targets)
        targets.add_(1)
        return loss

    compiled = nt.compile(step, pure=True)
    assert compiled().item() == F.nll_loss(scores, nt.tensor([0, 2, 1, 2])).item()
    with pytest.raises(IndexError, match="Target 3 is out of bounds"):
        compiled()
