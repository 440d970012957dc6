"""Live calls of a step on a GPU: made whole, or taken apart, so that a graph holds their launches.

What the host does of a call, such as counting a step and writing its learning rate, is done before
each launch of the graph; see `in_parts` of the optimizers for what a method offers.
"""

from __future__ import annotations

from typing import Any, cast

from nanotorch.backend import device, device_of
from nanotorch.compile.recorder import Live, Recorder, place_text
from nanotorch.tensor import Tensor


class Phase:
    """What live calls are to do now: all of it, or only the launches of a step of a graph."""

    def __init__(self) -> None:
        self.slot: int | None = None  # the step of the graph that is captured
        self.count = 1  # the steps of the graph that is, or is to be, captured
        self.allocator: Any = None  # where the memory of a live call comes from, meanwhile


class LiveCall:
    """A live call of the program: as a whole, or taken apart for a graph."""

    def __init__(self, step: Live, phase: Phase) -> None:
        self.call = cast(Any, step.call)  # a functools.partial
        self.func, self.args = self.call.func, self.call.args
        self.where = step.where
        self.phase = phase
        self.parts: Any = None  # of the graph that is, or is to be, captured

    def __call__(self) -> Any:
        phase = self.phase
        if phase.slot is not None:
            return self.call() if self.parts is None else self.parts.launch(phase.slot)
        if phase.allocator is None:
            return self.call()
        with phase.allocator():
            result = self.call()
            self.take_apart(phase.count)
        return result

    def take_apart(self, count: int) -> None:
        """Makes the part for the host and the launches; after the call, while gradients are set."""
        make = getattr(self.func, "parts", None)
        if make is not None:
            self.parts = make(*self.args, **self.call.keywords, slots=count) or UNDIVIDED

    def trouble(self, place: device) -> str | None:
        """Why its launches cannot be captured, and the user's line; None where they can."""
        name = f"{place_text(self.where)}{self.func.__name__}"
        if self.parts is UNDIVIDED:
            return f"{name}() cannot be taken apart: it has hooks"
        for leaf in Recorder.leaves_of(self.args[0]):
            if leaf._grad is not None and device_of(leaf._array) != place:
                return f"{name}() has parameters on several devices"
        return None


UNDIVIDED: Any = object()


class Surroundings:
    """What live calls depend on beside numbers: groups, hooks, gradients that no step makes."""

    def __init__(self, owner: Any, touched: set[Tensor]) -> None:
        leaves = [p for p in Recorder.leaves_of(owner) if p not in touched]
        self.gradients = [(p, g := p._grad, None if g is None else g._array) for p in leaves]
        self.owner = owner if hasattr(owner, "param_groups") else None
        groups = [] if self.owner is None else self.owner.param_groups
        self.groups = [(group, len(group["params"])) for group in groups]
        self.hooked = self.owner is not None and bool(self.owner._hooks)

    def hold(self) -> bool:
        """Whether all of it is as it was."""
        owner = self.owner
        if not all(p._grad is g and (g is None or g._array is a) for p, g, a in self.gradients):
            return False
        if owner is None:
            return True
        if len(owner.param_groups) != len(self.groups) or bool(owner._hooks) is not self.hooked:
            return False
        pairs = zip(owner.param_groups, self.groups)
        return all(group is known and len(group["params"]) == n for group, (known, n) in pairs)
