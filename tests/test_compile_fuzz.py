"""Random steps, each called several times beside an eager copy of itself, bit for bit.

    NANOTORCH_FUZZ_STEPS=5000 python -m pytest tests/test_compile_fuzz.py

A step is a list of random instructions on the values it has so far: operations, views, writes in
place, branches on values and on the number of the call, containers that outlive the call, hooks,
modes, backward passes, optimizers. What it returns, remembers, raises and leaves behind must be the
same at every call; after the calls, all that it remembers is looked at once more.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

import nanotorch as nt
from nanotorch import nn, optim

STEPS = int(os.environ.get("NANOTORCH_FUZZ_STEPS", "200"))
CALLS = 6
FIRST = int(os.environ.get("NANOTORCH_FUZZ_FIRST", "0"))
F = nn.functional


def bits(value: Any) -> Any:
    """All that can be seen of a value."""
    if isinstance(value, nt.Tensor):
        node = value.grad_fn
        return (
            tuple(value.shape), str(value.dtype), value.stride(), value.requires_grad,
            node and node.name(), value._version, value.detach()._array.tobytes(),
        )  # fmt: skip
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return repr(value)


class World:
    """All that a step can reach beside its arguments: what Python objects it reads and changes."""

    def __init__(self) -> None:
        nt.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.w = nt.randn(3, 3, requires_grad=True)
        self.buffer = nt.zeros(3)
        self.leaves = [*self.layer.parameters(), *self.norm.parameters(), self.w]
        self.optimizer = optim.SGD(self.leaves, lr=0.05, momentum=0.5)
        self.config: dict[str, Any] = {"scale": 1.0, "nested": [[2.0]], "count": 0}
        self.kept: list[Any] = []
        self.log: list[Any] = []

    def state(self) -> Any:
        self.kept = self.kept[-6:]
        return bits([
            [(leaf, leaf.grad) for leaf in self.leaves], list(self.norm.buffers()), self.buffer,
            self.config, self.kept, self.log,
        ])  # fmt: skip


Values = list[Any]
Instruction = Callable[[World, Values, int], Any]


def operation(r: random.Random) -> Instruction:
    """An operation on values."""
    a, b, n = r.randrange(99), r.randrange(99), r.choice([0.5, 2, -1.0, 0.0, -0.0, 3.0, True])
    d = r.choice([0, -1, 1])
    choices: list[Callable[[World, Any, Any, int], Any]] = [
        lambda w, x, y, k: x + y,
        lambda w, x, y, k: x * y,
        lambda w, x, y, k: x - y * n,
        lambda w, x, y, k: x / (y.abs() + 1),
        lambda w, x, y, k: x @ w.w,
        lambda w, x, y, k: w.layer(x),
        lambda w, x, y, k: F.linear(x, w.w, w.layer.bias),
        lambda w, x, y, k: w.norm(x),
        lambda w, x, y, k: F.dropout(x, 0.3),
        lambda w, x, y, k: x * w.config["scale"] + w.config["nested"][0][0],
        lambda w, x, y, k: x * n + k,
        lambda w, x, y, k: n - x,
        lambda w, x, y, k: x.clamp(-1, 1).exp(),
        lambda w, x, y, k: x.tanh(),
        lambda w, x, y, k: x.relu(),
        lambda w, x, y, k: x.sigmoid(),
        lambda w, x, y, k: (x * x + 1).sqrt(),
        lambda w, x, y, k: x**2,
        lambda w, x, y, k: -x.abs(),
        lambda w, x, y, k: x.softmax(d),
        lambda w, x, y, k: x.sum(d, keepdim=True),
        lambda w, x, y, k: x.mean(d),
        lambda w, x, y, k: x.max(d).values,
        lambda w, x, y, k: nt.where(x > 0, x, y),
        lambda w, x, y, k: x.cumsum(d),
        lambda w, x, y, k: nt.cat([x, y]),
        lambda w, x, y, k: nt.stack([x, x]).sum(0),
        lambda w, x, y, k: F.mse_loss(x, y.detach()),
        lambda w, x, y, k: F.binary_cross_entropy_with_logits(x, y.detach().sigmoid()),
        lambda w, x, y, k: F.cross_entropy(x, x.detach().argmax(-1)),
        lambda w, x, y, k: F.layer_norm(x, x.shape[-1:]),
        lambda w, x, y, k: x.double().float(),
        lambda w, x, y, k: x[x > 0],
        lambda w, x, y, k: x[[0, -1]],
        lambda w, x, y, k: x * nt.rand(x.shape[-1]),
        lambda w, x, y, k: x * nt.tensor([1.0, float(k), n]),
    ]
    chosen = r.choice(choices)
    return lambda w, v, k: v.append(chosen(w, v[a % len(v)], v[b % len(v)], k))


def view(r: random.Random) -> Instruction:
    """A view of a value, its copy, or the value itself once more."""
    a = r.randrange(99)
    chosen: Any = r.choice([
        lambda x, k: x.t() if x.ndim == 2 else x.view(-1),
        lambda x, k: x.reshape(-1),
        lambda x, k: x[: k % 3 + 1],
        lambda x, k: x[1:],
        lambda x, k: x[0],
        lambda x, k: x.unsqueeze(0),
        lambda x, k: x.detach(),
        lambda x, k: x.data,
        lambda x, k: x.clone(),
        lambda x, k: x.contiguous(),
        lambda x, k: x.expand(2, *x.shape),
        lambda x, k: x,
    ])  # fmt: skip
    return lambda w, v, k: v.append(chosen(v[a % len(v)], k))


def write(r: random.Random) -> Instruction:
    """A write in place: to a value, a buffer, or a weight."""
    a, b, n = r.randrange(99), r.randrange(99), r.choice([0.5, 2.0, -1.0])

    def quietly(function: Callable[[World, Any, Any], Any]) -> Any:
        def call(w: World, x: Any, y: Any) -> None:
            with nt.no_grad():
                function(w, x, y)

        return call

    chosen: Any = r.choice([
        lambda w, x, y: x.add_(y),
        lambda w, x, y: x.mul_(n),
        lambda w, x, y: x.relu_(),
        lambda w, x, y: x.__setitem__(0, n),
        lambda w, x, y: x.copy_(y),
        quietly(lambda w, x, y: x.mul_(n)),
        quietly(lambda w, x, y: x.zero_()),
        quietly(lambda w, x, y: w.buffer.add_(x.sum())),
        quietly(lambda w, x, y: w.w.mul_(n)),
        quietly(lambda w, x, y: w.layer.weight.sub_(0.1)),
        quietly(lambda w, x, y: setattr(w.w, "data", w.w.data * n)),
        lambda w, x, y: setattr(x, "data", y.data),
        lambda w, x, y: x.numpy().fill(n) if not x.requires_grad else None,
    ])  # fmt: skip
    return lambda w, v, k: chosen(w, v[a % len(v)], v[b % len(v)])


def effect(r: random.Random) -> Instruction:
    """Something that Python does or reads."""
    a, n = r.randrange(99), r.choice([0.5, 1.5, 2])

    def scale(w: World, v: Values, k: int) -> None:
        w.config["scale"] *= n
        w.config["nested"][0] = [float(k)]
        w.config["count"] += 1

    def remember(w: World, v: Values, k: int) -> None:
        w.kept.append(v[a % len(v)])

    def recall(w: World, v: Values, k: int) -> None:
        if w.kept:
            v.append(w.kept[-1].detach() if k % 2 else w.kept[-1])

    def read(w: World, v: Values, k: int) -> None:
        x = v[a % len(v)]
        w.log.append((x.sum().item(), x.stride(), x._version, x.is_contiguous(), repr(x)))

    def freeze(w: World, v: Values, k: int) -> None:
        w.w.requires_grad_(k % 3 != 0)
        w.norm.train(k % 2 == 0)

    def hook(w: World, v: Values, k: int) -> None:
        x = v[a % len(v)]
        if x.requires_grad and k % 2:
            x.register_hook(lambda g: g * n) if k % 4 == 1 else x.retain_grad()
            w.kept.append(x)

    def fail(w: World, v: Values, k: int) -> None:
        if k == 4:
            raise ValueError("in the middle")

    def require(w: World, v: Values, k: int) -> None:
        x = v[a % len(v)]
        if x.is_leaf and k % 2:
            x.requires_grad_()

    return r.choice([scale, remember, recall, read, freeze, hook, fail, require])


def gradient(r: random.Random) -> Instruction:
    """A backward pass, or what is done with gradients."""
    a = r.randrange(99)

    def backward(w: World, v: Values, k: int) -> None:
        x = v[a % len(v)].sum()
        if x.requires_grad:
            x.backward()

    def retained(w: World, v: Values, k: int) -> None:
        x = v[a % len(v)].mean()
        if x.requires_grad:
            x.backward(retain_graph=True)

    def asked(w: World, v: Values, k: int) -> None:
        x = v[a % len(v)].sum()
        if x.requires_grad:
            (g,) = nt.autograd.grad(x, w.w, allow_unused=True, retain_graph=True)
            v.append(x if g is None else g)

    def twice(w: World, v: Values, k: int) -> None:
        x = (v[a % len(v)] ** 2).sum()
        if x.requires_grad:
            (g,) = nt.autograd.grad(x, w.w, allow_unused=True, create_graph=True)
            v.append(x if g is None else g)

    def step(w: World, v: Values, k: int) -> None:
        w.optimizer.step()

    def zero(w: World, v: Values, k: int) -> None:
        w.optimizer.zero_grad(set_to_none=bool(a % 2))

    def clip(w: World, v: Values, k: int) -> None:
        v.append(nn.utils.clip_grad_norm_(w.leaves, 0.5))

    def use(w: World, v: Values, k: int) -> None:
        if w.w.grad is not None:
            v.append(w.w.grad)

    return r.choice([backward, backward, backward, retained, asked, twice, step, zero, clip, use])


def block(r: random.Random, depth: int = 0) -> Instruction:
    """Instructions in a mode, in a branch, or in a loop."""
    inner = [instruction(r, depth + 1) for _ in range(r.randrange(1, 4))]
    a, n = r.randrange(99), r.randrange(2, 4)

    def run(w: World, v: Values, k: int) -> None:
        for one in inner:
            one(w, v, k)

    def without(w: World, v: Values, k: int) -> None:
        with nt.no_grad():
            run(w, v, k)

    def sometimes(w: World, v: Values, k: int) -> None:
        with nt.set_grad_enabled(k % 2 == 0):
            run(w, v, k)

    def by_value(w: World, v: Values, k: int) -> None:
        if v[a % len(v)].sum() > 0:
            run(w, v, k)

    def by_number(w: World, v: Values, k: int) -> None:
        if k % n == 0:
            run(w, v, k)

    def loop(w: World, v: Values, k: int) -> None:
        for _ in range(k % n):
            run(w, v, k)

    return r.choice([without, sometimes, by_value, by_number, loop])


def instruction(r: random.Random, depth: int = 0) -> Instruction:
    kinds = [operation] * 10 + [view] * 3 + [write, effect, effect, gradient, gradient]
    if depth < 2:
        return r.choice([*kinds, block, block])(r)
    return r.choice(kinds)(r)


def made(seed: int) -> Callable[[World, Any, int], Any]:
    """A random step."""
    r = random.Random(seed)
    instructions = [instruction(r) for _ in range(r.randrange(3, 14))]
    tame = r.random() < 0.5  # every second one ends as training steps do

    def step(w: World, x: Any, k: int) -> Any:
        values = [x, x * 1 if seed % 2 else w.w]
        for one in instructions:
            try:
                one(w, values, k)
            except (RuntimeError, IndexError, TypeError, AttributeError) as error:
                w.log.append((type(error), str(error)))
        if tame:
            w.optimizer.zero_grad()
            loss = (w.layer(x).tanh() @ w.w).sum() + sum(
                v.float().sum() for v in values[-3:] if v.ndim
            )
            loss.backward()
            w.optimizer.step()
            values.append(loss)
        return values[-3:]

    return step


def calls(seed: int, compiled: bool) -> list[Any]:
    """What each of the calls of a random step returns and leaves behind."""
    world, step = World(), made(seed)
    run = nt.compile(step) if compiled else step
    seen: list[Any] = []
    for number in range(CALLS):
        x = nt.randn(4 if number < 5 else 3, 3)
        try:
            results = run(world, x, number)
        except (ValueError, RuntimeError) as error:
            results = [type(error), str(error)]
        seen.append((bits(results), bits(x), world.state()))
    return [*seen, world.state()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(10))
def test_random_steps_do_what_eager_ones_do(part: int) -> None:
    for seed in range(FIRST + part, FIRST + STEPS, 10):
        for number, (eager, compiled) in enumerate(zip(calls(seed, False), calls(seed, True))):
            assert eager == compiled, f"step {seed}, call {number}"


@pytest.mark.filterwarnings("ignore")
def test_random_steps_do_what_eager_ones_do_on_a_gpu(cuda: str) -> None:
    nt.set_default_device("cuda")
    try:
        for seed in range(FIRST, FIRST + STEPS // 4):
            for number, (eager, compiled) in enumerate(zip(calls(seed, False), calls(seed, True))):
                assert eager == compiled, f"step {seed}, call {number}"
    finally:
        nt.set_default_device("cpu")


def test_threads_that_share_a_step_do_what_they_do_alone() -> None:
    step = nt.compile(made(1))
    results: dict[int, Any] = {}

    def work(seed: int) -> None:
        world = World.__new__(World)
        with lock:
            world.__init__()  # type: ignore[misc]
        weight = nt.full((3, 3), float(seed), requires_grad=True)
        for number in range(30):
            loss = shared(nt.full((2, 3), float(number)), weight)
            loss.backward()
        results[seed] = weight.grad.tolist()

    @nt.compile
    def shared(x: Any, weight: Any) -> Any:
        return ((x @ weight).tanh() * 0.5).sum()

    del step
    lock = threading.Lock()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = {}
    for seed in range(8):
        weight = nt.full((3, 3), float(seed), requires_grad=True)
        for number in range(30):
            ((nt.full((2, 3), float(number)) @ weight).tanh() * 0.5).sum().backward()
        alone[seed] = weight.grad.tolist()
    assert results == alone
