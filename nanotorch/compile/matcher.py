"""One call of a step: its applications are matched with a path that earlier calls have taken.

The matcher is the innermost ring while the step runs. What it knows is computed by the entry's own
function, which dispatches nothing; what it does not know the engine computes, and it becomes a new
branch of the path. Either way the value is there when the application returns, so that Python never
sees anything but what an eager step shows it. A backward pass from an output of the path is one
program (`gradients.py`); where that does not hold, nodes are made and walked.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

from nanotorch.autograd.engine import go_on
from nanotorch.autograd.inplace import go_on_writing
from nanotorch.autograd.rings import SILENCE, Ring, Rings, modes, with_ring, without_ring
from nanotorch.compile.entries import MOST_BRANCHES, Entry
from nanotorch.compile.gradients import Gradients
from nanotorch.compile.outputs import Output
from nanotorch.node import Node
from nanotorch.tensor import Tensor

MOST_ENTRIES = 20_000  # of all paths of one step
MOST_FORMS = 64  # forms of applications that may follow one another application
CALLS_TO_EXCHANGE = 64  # applications without room, for each that gets the room of another one


class Paths:
    """All that the calls of a step have applied: a tree, which branches where they differed."""

    def __init__(self) -> None:
        self.start = Entry()
        self.count = 0
        self.misses = 0  # applications for which there was no room
        self.latest: Entry | None = None  # the end of the latest call's path
        # How entries of a form compute, which they share, while there are any.
        self.computations: Any = weakref.WeakValueDictionary()

    def path(self) -> list[Entry]:
        """The entries of the latest call, in order."""
        path, end = [], self.latest
        while end is not None and end.before is not None:
            path.append(end)
            end = end.before
        return path[::-1]

    def has_room(self, before: Entry) -> bool:
        """Whether one more entry may follow one; now and then the form used least makes room."""
        if self.count < MOST_ENTRIES and len(before.next) < MOST_FORMS:
            return True
        self.misses += 1
        if self.misses % CALLS_TO_EXCHANGE or len(before.next) < 2:
            return False
        going = before.next.pop(next(iter(before.next)))
        while going:
            entry = going.pop()
            self.count -= 1
            going += itertools.chain.from_iterable(entry.next.values())
        return True


class Matcher(Ring):
    """Reads the applications of one call of a step."""

    rank = 50  # what the other rings make of a primitive is matched
    closed_in_backward = True

    nodes: Any = ()  # those that have been made
    replaced = False  # whether an output has got another array: only the nodes know of it

    def __init__(self, paths: Paths, lock: Any, state: dict[str, Any], outer: Rings) -> None:
        self.paths, self.lock = paths, lock
        self.entry = paths.start  # the latest that was matched
        self.values: list[tuple[Any, ...]] = []  # what the nodes of its outputs would keep
        self.modes = state  # of this thread
        if "_read by entries" not in state:  # the functions of entries look modes up by name
            for name in ("grad", "inference", "anomaly", "saved_hooks"):
                setattr(modes, name, getattr(modes, name))
            state["_read by entries"] = True
        state["rings"] = self.rings = with_ring(outer, self) if outer else (self,)

    def close(self, outer: Rings) -> None:
        """At the end of the call, before which the rings were others."""
        state, paths = self.modes, self.paths
        as_it_was = state["rings"] is self.rings
        state["rings"] = outer if as_it_was else without_ring(state["rings"], self)
        paths.latest = self.entry

    def __call__(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        if self.modes["rings"] is not self.rings:  # somebody else reads what is applied
            return go_on(primitive, inputs, attributes, rest)
        entry = self.entry.first
        if entry is not None and entry.primitive is primitive:
            out = entry.apply(self, inputs, attributes)
            if out is not None:
                self.entry = entry
                return out
        return self.branch(primitive, inputs, attributes)

    def write(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        return go_on_writing(primitive, inputs, attributes, rest)

    def branch(self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """An application by another entry than the first that has followed the latest; by a new
        one, unless there are too many, where it has not followed yet."""
        paths, before = self.paths, self.entry
        # What tells it, at first sight, from others at its place.
        form = (primitive, *[x._array.shape for x in inputs if isinstance(x, Tensor)])
        known = before.next.get(form, []) + before.next.get(primitive, [])
        for lifted in (False, True):
            for entry in known:
                if entry.lift(inputs) if lifted else entry is not before.first:
                    out = entry.apply(self, inputs, attributes)
                    if out is not None:
                        self.entry = before.first = entry  # most likely to come next
                        if form in before.next:  # the last is that which was used last
                            before.next[form] = before.next.pop(form)
                        return out
        if len(known) >= MOST_BRANCHES or not paths.has_room(before):
            return go_on(primitive, inputs, attributes, ())
        entry = Entry(primitive, attributes)
        entry.describe(inputs)
        out = go_on(primitive, inputs, attributes, ())
        entry.before, entry.places = before, before.places
        before.first = self.entry = entry
        paths.count += 1
        out = entry.finish(self, inputs, out)
        before.next.setdefault(primitive if entry.why_eager else form, []).append(entry)
        return out

    # --- nodes ------------------------------------------------------------------------------------

    def node(self, entry: Entry) -> Node:
        """The node of an output of this call; makes those of all applications up to it."""
        nodes = self.nodes
        if not nodes:
            nodes = self.nodes = []
        while len(nodes) <= entry.place:
            value = self.values[len(nodes)]
            nodes.append(value[0].node(value, nodes))
        return nodes[entry.place]  # type: ignore[no-any-return]

    def replace(self, x: Output) -> None:
        """Lets the nodes that saved x have x itself, whose array is about to be another one."""
        self.replaced = True
        node, array = x._node, x._array
        if self.values:
            self.node(self.values[-1][0])
        for consumer in self.nodes:
            for n, saved in enumerate(consumer.inputs or ()):
                if isinstance(saved, Tensor) and saved._node is node and saved._array is array:
                    consumer.inputs[n] = x

    # --- backward ---------------------------------------------------------------------------------

    def backward(self, root: Output) -> bool:
        """Adds the gradients of a root to the leaves, by the program of its path.

        False where there is none, or not for what is found now: then its graph is to be walked.
        """
        entry: Entry = root._entry
        gradients, state = entry.gradients, modes.__dict__
        if gradients is False or entry.place >= len(self.values) or root._array.size != 1:
            return False
        rings = modes.rings
        if self.replaced or state.get("anomaly") or modes.listener is not SILENCE:
            return False
        if rings is self.rings and gradients is not None:  # within the call, which has the lock
            return gradients.call(self)  # type: ignore[no-any-return]
        if (rings and rings is not self.rings) or not self.lock.acquire(False):
            return False
        try:
            if gradients is None:
                entry.gradients = Gradients.of(self, root)
                return False
            return gradients.call(self)  # type: ignore[no-any-return]
        finally:
            self.lock.release()
