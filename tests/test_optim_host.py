"""A step on the host: what is kept from one step to the next, and what changes are noticed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optimizer_table import FEW, named

import nanotorch as nt
from nanotorch import optim
from nanotorch.optim import host_step, single

PIECE = 2**14  # bytes


@pytest.fixture(autouse=True)
def pieces_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_step, "PIECE", PIECE)


def values(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parameter(array: Any) -> nt.Tensor:
    return nt.tensor(array, requires_grad=True)


def stepped(name: str, options: dict[str, Any], start: Any, steps: int = 3) -> tuple[Any, Any]:
    p = parameter(start)
    optimizer = getattr(optim, name)([p], **options)
    for step in range(steps):
        p.grad = nt.tensor(values(step + 1, *p.shape).astype(start.dtype))
        optimizer.step()
    return p.detach().numpy(), optimizer


LARGE = 3 * PIECE // 4 + 5  # elements of float32: several pieces, of which the last is smaller


@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_pieces_and_single_elements_have_the_bits_of_the_whole(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = values(0, LARGE), values(0, 1), values(0, 1, 1).astype(np.float64), values(0, 1)[0]
    found = [stepped(name, options, start)[0].tobytes() for start in starts]
    monkeypatch.setattr(getattr(optim, name), "elementwise", False)
    assert found == [stepped(name, options, start)[0].tobytes() for start in starts]


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_threads_that_share_the_pieces_leave_the_bits_of_the_whole(
    name: str, options: dict[str, Any], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, before = values(0, 3 * LARGE).astype(kind), nt.get_num_threads()
    found = stepped(name, options, start)[0].tobytes()
    monkeypatch.setattr(host_step, "THREADED", 2)
    for threads, later in ((1, 3), (2, 2), (3, 2), (3, 1)):
        try:
            nt.set_num_threads(threads)
            p = parameter(start)
            optimizer = getattr(optim, name)([p], **options)
            for step in range(3):
                p.grad = nt.tensor(values(step + 1, *p.shape).astype(kind))
                optimizer.step()
                nt.set_num_threads(later)
        finally:
            nt.set_num_threads(before)
        assert p.detach().numpy().tobytes() == found


@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_scratch_memory_is_as_large_as_a_piece(name: str, options: dict[str, Any]) -> None:
    _, optimizer = stepped(name, options, values(0, LARGE))
    flats = [flat for flats in optimizer._runner.memory.flats.values() for flat in flats]
    assert 0 < sum(flat.nbytes for flat in flats) <= len(optimizer.scratch) * PIECE


HALVES = [nt.float16, nt.bfloat16]


@pytest.mark.parametrize("kind", HALVES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (2, 3), (LARGE,), (0,)], ids=str)
@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_halves_are_computed_in_float32_and_rounded_once(
    name: str, options: dict[str, Any], shape: tuple[int, ...], kind: Any
) -> None:
    pytest.importorskip("ml_dtypes")

    def step(dtype: Any) -> tuple[nt.Tensor, Any]:
        start, g = (nt.tensor(values(i, *shape)).to(kind).to(dtype) for i in range(2))
        p = start.requires_grad_()
        p.grad = g
        optimizer = getattr(optim, name)([p], **options)
        optimizer.step()
        return p.detach(), optimizer.state[p]

    (half, state), (exact, wide) = step(kind), step(nt.float32)
    arrays = [k for k in wide if k in getattr(optim, name).arrays]
    for found, expected in [(half, exact), *((state[k], wide[k]) for k in arrays)]:
        assert found.dtype is kind
        assert found.float().numpy().tobytes() == expected.to(kind).float().numpy().tobytes()


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_stay_near_pytorchs(kind: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")

    def trained(m: Any) -> tuple[Any, Any]:
        p = m.tensor([1.0, -2.0, 0.5], dtype=getattr(m, kind), requires_grad=True)
        optimizer = m.optim.Adam([p], lr=0.05, eps=1e-4)
        for step in range(30):
            p.grad = (p.detach() * 2 + 1) * (1 + step % 3)
            optimizer.step()
        return p.detach().float().numpy(), optimizer.state[p]["exp_avg_sq"].float().numpy()

    for ours, theirs in zip(trained(nt), trained(torch), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=0.02)


def test_memory_in_another_order_is_updated_as_a_whole() -> None:
    rows = LARGE // 64
    expected, _ = stepped("Adam", {}, values(0, rows, 64))
    for transposed in ("the parameter", "the gradient"):
        p = parameter(values(0, rows, 64))
        if transposed == "the parameter":
            p = nt.tensor(values(0, rows, 64).T.copy()).T.detach().requires_grad_()
        optimizer = optim.Adam([p])
        for step in range(3):
            g = nt.tensor(values(step + 1, rows, 64))
            p.grad = g.T.contiguous().T if transposed == "the gradient" else g
            optimizer.step()
        assert p.detach().numpy().tobytes() == expected.tobytes(), transposed


@pytest.mark.parametrize("kind", "efd")
@pytest.mark.parametrize("name", ["multiply", "add", "subtract", "divide", "sqrt", "negative"])
def test_arithmetic_of_one_element_has_numpys_bits(name: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    size = np.dtype(kind).itemsize
    random_bits = np.frombuffer(rng.bytes(4000 * size), kind)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(kind).tiny, 1.0], kind)
    pairs = np.array(np.meshgrid(special, special), kind).reshape(2, -1)
    operands = np.concatenate([random_bits.reshape(2, -1), pairs], 1)
    operands = operands[: 1 if name in ("sqrt", "negative") else 2]
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(*operands)
    found, out = np.empty_like(expected), np.empty(1, kind)
    for i in range(len(found)):
        found[i] = getattr(single, name)(*(a[i : i + 1] for a in operands), out)[0]
    for bits in (found, expected):
        bits[np.isnan(bits)] = np.nan  # whose sign and payload mean nothing
    assert found.tobytes() == expected.tobytes()


def test_arithmetic_of_one_element_takes_what_numpys_takes() -> None:
    a, out = np.full(1, 3.0, np.float32), np.zeros(1, np.float32)
    assert single.multiply(a, 2.0, out) is out and out.tolist() == [6.0]
    assert single.add(a, a).tolist() == single.add(a, a, None).tolist() == [6.0]
    assert single.subtract(a, 2.0, out=out, where=np.array([False])).tolist() == [6.0]
    assert single.divide(a, np.ones(2, np.float32)).tolist() == [3.0, 3.0]
    assert single.sqrt(4.0) == 2.0
    assert single.sign is np.sign and single.float32 is np.float32


class Normed(optim.SGD):
    """Steps of one length: a kernel that sees the parameter as a whole, with any function."""

    @staticmethod
    def kernel(xp: Any, parameter: Any, gradient: Any, *others: Any) -> None:
        parameter -= gradient * (0.5 / xp.linalg.norm(gradient))


@pytest.mark.parametrize("size", [1, 4, LARGE])
def test_a_kernel_of_ones_own_sees_the_whole_parameter(size: int) -> None:
    p = parameter(np.zeros(size, np.float32))
    p.grad = nt.ones(size)
    Normed([p], lr=1.0).step()
    assert float(p.detach().norm()) == pytest.approx(0.5, rel=1e-3)


# Changes between two steps of SGD from 0, with rate 1, momentum 0.5 and a gradient of 1.
def replaced_rate(optimizer: Any, p: Any) -> None:
    optimizer.param_groups[0]["lr"] = 10.0


def replaced_list(optimizer: Any, p: Any) -> None:
    optimizer.param_groups[0]["params"] = [parameter([0.0])]


def appended(optimizer: Any, p: Any) -> None:
    other = parameter([0.0])
    other.grad = nt.ones(1)
    optimizer.param_groups[0]["params"].append(other)


def reset_state(optimizer: Any, p: Any) -> None:
    optimizer.state.clear()


def own_state(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["momentum_buffer"] = nt.tensor([4.0])


def other_group(optimizer: Any, p: Any) -> None:
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 10.0}


def without_momentum(optimizer: Any, p: Any) -> None:
    optimizer.param_groups[0]["momentum"] = 0


CHANGES: list[tuple[Callable[[Any, Any], None], float]] = [
    (lambda optimizer, p: None, -2.5),
    (replaced_rate, -16.0),
    (replaced_list, -1.0),
    (appended, -2.5),
    (reset_state, -2.0),
    (own_state, -4.0),
    (other_group, -16.0),
    (without_momentum, -2.0),
]


@pytest.mark.parametrize("change, expected", CHANGES, ids=lambda c: getattr(c, "__name__", None))
def test_what_is_changed_between_steps_counts(change: Any, expected: float) -> None:
    p = parameter([0.0])
    optimizer = optim.SGD([p], lr=1.0, momentum=0.5)
    p.grad = nt.ones(1)
    optimizer.step()
    change(optimizer, p)
    optimizer.step()
    assert p.item() == expected


def test_an_option_that_changes_in_place_counts() -> None:
    p, rate = parameter([0.0]), nt.tensor(1.0)
    optimizer = optim.SGD([p], lr=rate)  # type: ignore[arg-type]
    p.grad = nt.ones(1)
    optimizer.step()
    rate.fill_(10.0)
    optimizer.step()
    assert p.item() == -11.0


def test_parameters_of_several_dtypes_share_a_group() -> None:
    kinds = (nt.float32, nt.float64, nt.float16)
    parameters = [nt.tensor([1.0, 2.0], dtype=kind, requires_grad=True) for kind in kinds]
    optimizer = optim.Adam(parameters, lr=0.125, eps=1e-2)
    for _ in range(2):
        for p in parameters:
            p.grad = p.detach() / 2
        optimizer.step()
    exact = parameters[1].detach().numpy()
    for p in parameters:
        np.testing.assert_allclose(p.detach().numpy(), exact, rtol=2e-3)
        assert p.dtype is optimizer.state[p]["exp_avg"].dtype


# --- many small parameters, which are updated as one ----------------------------------------------

SHAPES = [(3,), (2, 4), (), (1,), (5, 1), (0,), (2, 2, 2), (7,), (4,), (6, 2), (9,), (1, 3)]


class Pair:
    """Two optimizers of equal parameters: of the second each is updated by itself."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.sides = []
        for elementwise in (True, False):
            kind = type(name, (getattr(optim, name),), {"elementwise": elementwise})
            parameters = [parameter(values(i, *shape)) for i, shape in enumerate(SHAPES)]
            self.sides.append((parameters, kind(parameters, **options)))

    def change(self, change: Callable[[list[nt.Tensor], Any], Any]) -> None:
        self.sides = [
            (parameters, change(parameters, optimizer) or optimizer)
            for parameters, optimizer in self.sides
        ]

    def step(self, seed: int, without: Any = ()) -> None:
        for parameters, optimizer in self.sides:
            for i, p in enumerate(parameters):
                grad = nt.tensor(values(100 * seed + i, *p.shape)).to(p.dtype)
                p.grad = None if i in without else grad
            optimizer.step()
        first, second = (self.bytes(*side) for side in self.sides)
        assert first == second

    def bytes(self, parameters: list[nt.Tensor], optimizer: Any) -> list[Any]:
        state = optimizer.state_dict()["state"]
        return [
            [p.detach().numpy().tobytes() for p in parameters],
            {i: {n: v.numpy().tobytes() for n, v in s.items()} for i, s in state.items()},
        ]

    def joined(self) -> int:
        """How many parameters the first side updates as one."""
        groups = self.sides[0][1]._runner.groups
        return sum(len(joined.updates) for group in groups for joined in group.joined)


@pytest.mark.parametrize("name, options", FEW, ids=named)
def test_many_small_parameters_are_updated_as_one_with_the_bits_of_each(
    name: str, options: dict[str, Any]
) -> None:
    pair = Pair(name, options)
    for step in range(5):
        pair.step(step)
    counted_by_one = pair.sides[0][1].counts_by_one()
    assert pair.joined() == (len(SHAPES) if counted_by_one else 0)


def half_frozen(parameters: list[nt.Tensor], optimizer: Any) -> None:
    for p in parameters[::2]:
        p.requires_grad_(False)


def new_array(parameters: list[nt.Tensor], optimizer: Any) -> None:
    parameters[1].data = nt.tensor(values(7, 2, 4))


def new_state(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.state[parameters[2]]["exp_avg"] = nt.tensor(0.5)


def written_state(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.state[parameters[0]]["exp_avg_sq"].fill_(2.0)


def counted_state(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.state[parameters[3]]["step"].fill_(40.0)


def no_state(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.state.clear()


def missing_entry(parameters: list[nt.Tensor], optimizer: Any) -> None:
    del optimizer.state[parameters[4]]["exp_avg"]


def other_rate(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = 0.25


def other_terms(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.param_groups[0].update(amsgrad=True, weight_decay=0.1)


def loaded(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def pickled(parameters: list[nt.Tensor], optimizer: Any) -> None:
    optimizer.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))


def one_more_group(parameters: list[nt.Tensor], optimizer: Any) -> None:
    parameters.append(parameter(values(50, 3)))
    optimizer.add_param_group({"params": [parameters[-1]], "lr": 0.5})


def one_more_parameter(parameters: list[nt.Tensor], optimizer: Any) -> None:
    parameters.append(parameter(values(50, 3)))
    optimizer.param_groups[0]["params"].insert(2, parameters[-1])


def one_parameter_less(parameters: list[nt.Tensor], optimizer: Any) -> None:
    del optimizer.state[optimizer.param_groups[0]["params"].pop(5)]


def restored(parameters: list[nt.Tensor], optimizer: Any) -> Any:
    twin = type(optimizer)(parameters)
    twin.load_state_dict(optimizer.state_dict())
    return twin


CHANGES = [
    half_frozen, new_array, new_state, written_state, counted_state, no_state, missing_entry,
    other_rate, other_terms, loaded, pickled, one_more_group, one_more_parameter,
    one_parameter_less, restored,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_steps_of_many_counts(change: Any) -> None:
    pair = Pair("AdamW", {"lr": 0.1})
    for step in range(4):
        pair.step(step)
    assert pair.joined() == len(SHAPES)
    pair.change(change)
    for step in range(4, 9):
        pair.step(step, without=range(0, 12, 2) if change is half_frozen else ())


def test_a_missing_gradient_is_a_step_less() -> None:
    pair = Pair("Adam", {"lr": 0.1})
    for step in range(9):
        pair.step(step, without=(2, 5) if step in (4, 6) else ())


def test_a_schedule_keeps_many_joined() -> None:
    pair = Pair("Adam", {"lr": 0.1})
    for step in range(6):
        pair.step(step)
        for _, optimizer in pair.sides:
            optimizer.param_groups[0]["lr"] *= 0.9
    assert pair.joined() == len(SHAPES)


def test_parameters_that_share_memory_are_updated_one_by_one() -> None:
    memory = nt.tensor(values(0, 4 * len(SHAPES)))
    parameters = [memory[4 * i : 4 * i + 8].requires_grad_() for i in range(len(SHAPES) - 1)]
    optimizer = optim.Adam(parameters, lr=0.1)
    for _ in range(4):
        for p in parameters:
            p.grad = nt.ones(8)
        optimizer.step()
    assert not optimizer._runner.groups[0].joined


def test_a_copy_of_a_model_has_states_of_its_own() -> None:
    pair = Pair("AdamW", {"lr": 0.1})
    for step in range(4):
        pair.step(step)
    parameters, optimizer = pair.sides[0]
    before = pair.bytes(parameters, optimizer)
    twins, twin = copy.deepcopy((parameters, optimizer))
    for p in twins:
        p.grad = nt.ones_like(p)
    twin.step()
    assert pair.bytes(parameters, optimizer) == before
    assert pair.bytes(twins, twin) != before


def test_saved_states_take_no_more_room(tmp_path: Path) -> None:
    pair = Pair("AdamW", {"lr": 0.1})
    for step in range(4):
        pair.step(step)
    sizes = []
    for _, optimizer in pair.sides:
        nt.save(optimizer.state_dict(), tmp_path / "state.pt")
        sizes.append((tmp_path / "state.pt").stat().st_size)
    assert sizes[0] <= sizes[1]
    found = nt.load(tmp_path / "state.pt")["state"][1]["exp_avg"]
    assert found.tolist() == pair.sides[0][1].state_dict()["state"][1]["exp_avg"].tolist()
