"""From a record to a function that replays it: dead steps dropped, memory shared, one flat program.

The program is a Python function generated from the record, one line per kernel, whose constants are
the kernels and the arrays of the plan. Arrays of the step live in blocks that are handed on as soon
as nothing needs them; what leaves the step (outputs, gradients) is never handed on.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.compile.chains import chained
from nanotorch.compile.memory import root_of
from nanotorch.compile.program import REFERENCES, Program, Recorded, Slot, Step, last_uses
from nanotorch.compile.recorder import Draw, Kernel, Live, Recorder
from nanotorch.compile.stopwatch import Stopwatch
from nanotorch.compile.tiles import batch_of, tiled
from nanotorch.ops.casting import Clone


class Plan(Program):
    """A step, ready to be replayed. `run(inputs)` returns copies of the outputs.

    fresh: those of the outputs that get new memory at each replay; such a plan has no tiles.
    joined: puts calls in the place of several steps, given these and the memory that leaves them.
    With one of these, what `run` returns lies in memory of the plan.
    """

    tiled = False  # whether it is one pass over the rows of a large batch
    stopwatch: Stopwatch | None = None  # that has timed replays
    copied = ""  # as source, what gives an output memory that no replay writes to again

    def __init__(
        self, record: Recorder, outputs: Sequence[Array], fresh: Sequence[Array] | None = None,
        joined: Callable[[list[Recorded], set[int]], list[Step]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(record.inputs)
        # Gradients that are there when a replay begins are added to: they stay who they are.
        held = [gradient for gradient in record.entry.values() if gradient is not None]
        self.slots = {id(gradient._array): Slot(gradient, owned=False) for gradient in held}
        self.record = record
        self.outputs = list(outputs)
        lives = [step for step in record.steps if isinstance(step, Live)]
        pairs = itertools.chain(record.gradients.items(), *(live.gradients for live in lives))
        leaves = {id(array): (leaf, array) for leaf, array in pairs if array is not None}
        gradients = [array for _, array in leaves.values()]
        results = [live.result for live in lives if live.result is not None]
        self.leaving = {root_of(a) for a in (*outputs, *gradients, *results)}
        steps: list[Any] = self._varying_alone(self._alive())
        # What is the same in every call is written by no line.
        new = [a for a in fresh or () if id(a) not in self._fixed]
        self.fresh = {id(a) for a in new}
        self.names |= {id(a): f"g{number}" for number, a in enumerate(new)}
        self.renewed = [id(a) in self.fresh for a in outputs]
        self.memory.alone = seen_by_others(steps, gradients)
        if joined is not None:
            steps = joined(steps, self.leaving)
        elif fresh is None:
            in_tiles = tiled(record, steps, self.outputs)
            self.tiled, steps = in_tiles is not None, in_tiles or steps
            self.copied = ".copy('K')"
        # Chains of elementwise calls may write to all but the inputs.
        calls = chained(self.lowered(steps), self.moving)
        self.moving |= self.fresh
        self.run = self._generated(calls)
        self.gradients = [(leaf, self.slot(array)) for leaf, array in record.gradients.items()]
        # Those that somebody sees, and may keep.
        self.seen = [(leaf, s) for leaf, a in leaves.values() if (s := self.slot(a)).owned]
        arrays = [s.tensor._array for _, s in self.seen if s.tensor is not None]
        arrays += [a.base for a in arrays if a.base is not None]
        memory = {id(a): self.constant(a, "memory") for a in arrays}.values()
        lines = ["count = 0", *(f"count += references({a})" for a in memory), "return count"]
        # How often anything refers to the memory of gradients.
        self.references: Callable[[], int] = self.function("counted()", lines, "references")
        self.most_references = sys.maxsize  # to that memory, while nobody else holds it
        self.held = 0  # references that somebody else has
        self.forget()
        del self.record, self.outputs  # and with them the arrays of the recording

    def timed_run(self, *arrays: Array) -> Any:
        """A replay, whose times come together with those of others before it."""
        self.stopwatch = self.stopwatch or Stopwatch(self)
        return self.stopwatch(*arrays)

    def _alive(self) -> list[Recorded]:
        """The steps whose results leave the step, or reach memory from outside."""
        made = {id(a) for a in self.record.made.values() if id(a) == root_of(a)}
        needed = set(self.leaving)
        alive: list[Recorded] = []
        for step in reversed(self.record.steps):
            if isinstance(step, Kernel):
                root = root_of(step.out)
                if root not in needed and (root in made or not step.into_existing):
                    continue
                needed |= set(map(root_of, step.arrays))
            alive.append(step)
        return alive[::-1]

    def _varying_alone(self, steps: list[Recorded]) -> list[Recorded]:
        """The steps without those whose operands, and so results, are the same in every call."""
        written = {
            root_of(s.out)
            for s in steps
            if isinstance(s, Draw) or (isinstance(s, Kernel) and s.into_existing)
        }
        self._fixed = self.record.constant - written
        varying: list[Recorded] = []
        for step in steps:
            if isinstance(step, Kernel) and not step.into_existing:
                arrays = list(map(id, step.arrays))
                changes, constant = root_of(step.out) in written, step.primitive.constant
                if constant or (arrays and self._fixed.issuperset(arrays) and not changes):
                    self._fixed.add(id(step.out))
                    self.memory.places[id(step.out)] = step.out
                    if not (constant and changes):
                        continue
            varying.append(step)
        return varying

    def _generated(self, steps: list[Step]) -> Callable[..., tuple[Array, ...]]:
        """Compiles the program: `run(x0, x1, …)` returns the output arrays."""
        program = self.written(steps, last_uses(steps) | dict.fromkeys(self.leaving, len(steps)))
        results = ", ".join(f"{self.array_name(a)}{self.copied}" for a in self.outputs)
        arguments = ", ".join(f"x{i}" for i in range(len(self.record.inputs)))
        end = f"return ({results}{',' if results else ''})"
        self.source = [f"run({arguments})", *program, end]
        return self.function(self.source[0], self.source[1:], "step")

    def cannot_run(self) -> bool:
        """Whether somebody holds memory of a gradient, as a view or by detach(), that a replay
        would write to."""
        self.held = max(0, self.references() - self.most_references)
        return self.held > 0

    def ran_eagerly(self) -> None:
        """After a call that was no replay: what others held, they still hold, while the optimizer
        may have turned to other gradients."""
        if self.held:
            self.most_references = self.references() - self.held

    def begin(self) -> None:
        """Before a replay: gradients that somebody has kept become that somebody's own."""
        for slot in self.kept():
            slot.renew()

    def kept(self) -> Iterator[Slot]:
        """Where the gradients are that somebody has kept."""
        for leaf, slot in self.seen:
            if sys.getrefcount(slot.tensor) - (leaf._grad is slot.tensor) > REFERENCES:
                yield slot

    def end(self) -> None:
        """After a replay: the leaves' gradients are those of the step."""
        for leaf, slot in self.gradients:
            leaf._grad = slot.tensor
        self.most_references = self.references()


def seen_by_others(steps: Sequence[Recorded], gradients: Sequence[Array]) -> set[int]:
    """The memory that is a gradient, which live calls read and write while a replay runs."""
    seen = set(map(root_of, gradients))
    for step in reversed(steps):  # a cotangent may become the gradient where it lies
        if isinstance(step, Kernel) and step.primitive is Clone and id(step.out) in seen:
            seen.add(root_of(step.operands[0]))
    return seen


def settle(record: Recorder) -> None:
    """Gives what a recording has summed over a large batch the bits of its replays: those of tiles.

    Not where random numbers were drawn or memory from outside was written, which happens once.
    """
    steps = [step for step in record.steps if not isinstance(step, Live)]
    kernels = [step for step in steps if isinstance(step, Kernel)]
    made = record.made
    if len(kernels) < len(steps) or any(k.into_existing and id(k.out) not in made for k in kernels):
        return
    part = copy.copy(record)
    part.steps, part.gradients, part.entry = [*steps], {}, {}
    batch = batch_of(part, steps)
    if batch is None:
        return
    sums = [k.out for k in kernels if batch[0] not in k.out.shape[:2]]
    sums += [a for a in record.gradients.values() if a is not None]
    sums = list({id(a): a for a in sums if id(a) == root_of(a)}.values())
    plan = Plan(part, sums)
    if plan.tiled:
        for array, value in zip(sums, plan.run(*record.inputs), strict=True):
            HOST.copyto(array, value)
