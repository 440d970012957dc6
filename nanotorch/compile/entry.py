"""The way into a replay, as one generated function: is this call as recorded? Then run it.

What takes longest in the replay of a small step is Python around its kernels. So the comparison of
the arguments, the guards, and what belongs before and after the program stand in one function, with
the numbers of tensors and gradients written out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import HOST
from nanotorch.compile.cuda_graph import place_of
from nanotorch.compile.program import REFERENCES
from nanotorch.compile.replay import Replay
from nanotorch.compile.source import Source
from nanotorch.tensor import Tensor

MISSED: Any = object()  # what an entry returns where the call is not as recorded


def entry(replay: Replay) -> Callable[[Sequence[Any]], Any]:
    """enter(args): the result of a replay with these arguments, or MISSED."""
    plan = replay.plan
    source = Source({
        **replay.constants, "MISSED": MISSED, "Tensor": Tensor, "references": sys.getrefcount,
        "plan": plan, "begin": plan.begin, "held": getattr(plan, "references", None),
        "run": plan.run, "wrap": Tensor._wrap, "rebuild": replay.rebuild, "place_of": place_of,
        "ndarray": HOST.ndarray,
    })  # fmt: skip

    def constant(value: Any) -> str:
        return source.constant("c", value)

    inputs = [f"x{i}" for i in range(len(replay.forms))]
    arrays = [f"a{i}" for i in range(len(replay.forms))]
    tests = [f"type({x}) is Tensor" for x in inputs]
    for x, a, (shape, kind, required, place) in zip(inputs, arrays, replay.forms, strict=True):
        tests.append(f"({a} := {x}._array).shape == {constant(shape)}")
        tests.append(f"{a}.dtype is {constant(kind)} and {x}._requires_grad is {bool(required)}")
        if place[0] is None:
            tests.append(f"type({a}) is ndarray")
            tests.append(f"{a}.strides == {constant(place[1])}")
        else:
            tests.append(f"place_of({a}) == {constant(place)}")
    if len(arrays) == 2:
        tests.append("a0 is not a1")
    elif len(arrays) > 2:
        tests.append(f"len({{{', '.join(f'id({a})' for a in arrays)}}}) == {len(arrays)}")
    body = ["if args: return MISSED"]
    if inputs:
        body = ["try:", f"    {', '.join(inputs)}, = args", "except ValueError: return MISSED"]
    body.append(f"if not ({' and '.join([*tests, replay.conditions])}): return MISSED")
    slots = [(constant(leaf), constant(slot)) for leaf, slot in plan.gradients]
    if replay.on_gpu:
        body.append("if not begin(): return MISSED")
    else:
        body.append("if held() > plan.most_references: return MISSED")
    for leaf, slot in [] if replay.on_gpu else slots:
        body.append(f"kept = {slot}.tensor")
        others = f"references(kept) - ({leaf}._grad is kept) > {REFERENCES}"
        body.append(f"if kept is not None and {others}: {slot}.renew()")
    body.append("kept = None")
    body.append(f"found = run({', '.join(arrays)})")
    body += [f"{leaf}._grad = {slot}.tensor" for leaf, slot in slots]
    body += [f"{constant(tensor)}._bump()" for tensor in replay.written]
    body += [f"x{position}._bump()" for position in replay.written_inputs]
    one = "wrap(found[0])" if replay.on_gpu else "wrap(found[0].copy('K'))"
    body.append(f"return {one if replay.single else 'rebuild(found, args)'}")
    return source.function("enter(args)", body, "entry")
