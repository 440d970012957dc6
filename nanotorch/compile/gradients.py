"""The backward pass of a path as one program: from what its nodes would keep to the gradients.

The program is made of a walk over real nodes, whose kernels a recorder writes down. Before it is
used, its gradients are compared with those of a walk as it always is, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.autograd.walk import deposit, walk
from nanotorch.backend import HOST, Array
from nanotorch.compile.entries import Entry
from nanotorch.compile.memory import same_form
from nanotorch.compile.plan import Plan
from nanotorch.compile.recorder import Kernel, Recorder
from nanotorch.compile.source import Source
from nanotorch.node import RELEASED
from nanotorch.tensor import Tensor


def entries_behind(run: Any, root: Any) -> list[Entry]:
    """The entries of a call that lead to an output, in the order of their application."""
    places: set[int] = set()
    stack = [root._entry.place]
    while stack:
        place = stack.pop()
        if place not in places:
            places.add(place)
            edges = run.values[place][0].edges
            stack += [edge for edge in edges if edge is not None and edge >= 0]
    return [run.values[place][0] for place in sorted(places)]


class Gradients:
    """The program of one root. `call(run)` adds to the leaves' `.grad` for a call of the step; it
    is False, and does nothing, where something is not as it was."""

    def __init__(self, run: Any, root: Any) -> None:
        self.entries = entries_behind(run, root)
        self.values = run.values
        self._checks: list[str] = []
        self._source = Source()
        self._constant = self._source.constant
        self._arrays: dict[int, tuple[str, Array]] = {}  # what is another array at each call
        self._fixed: list[Array] = []  # of leaves, which the program names as constants
        self._numbers: list[tuple[int, int, Array]] = []  # of places and inputs, that change
        self.leaves: dict[Tensor, str] = {}  # and the name of each
        self._read()
        self.plan: Plan | None = None
        self.call: Callable[[Any], bool] | None = None

    @classmethod
    def of(cls, run: Any, root: Any) -> Any:
        """The program of a root; None where it could be made at another call, False if never."""
        node, outer = root._node, run.modes["rings"]
        if any(e.layout and run.values[e.place][2] is None for e in entries_behind(run, root)):
            return None  # another backward pass has used it
        try:
            return cls(run, root)._compared(run, root, node)
        except Exception:  # the walk that follows fails as it does in an eager step
            return False
        finally:
            run.modes["rings"] = outer

    def _compared(self, run: Any, root: Any, node: Any) -> Any:
        """Itself, once its gradients are those of a walk; None or False as `of` says."""
        hooked = any(n.hooks or n.post_hooks for n in run.nodes)
        if hooked or any(leaf._hooks or leaf._post_hooks for leaf in self.leaves):
            return None
        array = root._array
        leaves = list(self.leaves)
        options: Any = {"retain_graph": True, "create_graph": False, "accumulate": False}
        numbers = [(run.nodes[place].inputs, n, x) for place, n, x in self._numbers]
        values = [saved[n] for saved, n, _ in numbers]
        for saved, n, x in numbers:
            saved[n] = Tensor._wrap(x)
        try:
            with Recorder([Tensor._wrap(a) for _, a in self._arrays.values()]) as recorder:
                ones = Tensor._wrap(HOST.ones(array.shape, array.dtype))
                recorder.constant.add(id(ones._array))
                recorded = walk([root], [ones], targets=leaves, **options)
        finally:
            for (saved, n, _), value in zip(numbers, values, strict=True):
                saved[n] = value
        if recorder.refusal is not None or root._node is not node:
            return False
        known = {id(one) for one in (ones._array, *self._fixed)}
        if not known.issuperset(recorder.external):  # a rule has made a tensor, maybe of values
            return False
        one = ones._array if array.ndim else array.dtype.type(1)
        walked = walk([root], [one], targets=leaves, **options)
        self.leaves = {
            leaf: name for leaf, name in self.leaves.items() if recorded[leaf] is not None
        }
        outputs = [recorded[leaf]._array for leaf in self.leaves]
        fresh = new_arrays(recorder, outputs)
        self.plan = plan = Plan(recorder, outputs, fresh)
        replayed = plan.run(*(a for _, a in self._arrays.values()))
        for leaf, g in zip(self.leaves, replayed, strict=True):
            expected = HOST.asarray(walked[leaf])
            if not same_form(g, expected) or g.tobytes() != expected.tobytes():
                return False
        self._build(plan)
        return self

    # --- what it reads ----------------------------------------------------------------------------

    def _array(self, name: str, array: Array) -> None:
        """An array that a value holds; where it is met again, it must be the same one again."""
        first = self._arrays.setdefault(id(array), (name, array))[0]
        if first != name:
            self._checks.append(f"{name} is {first}")

    def _read(self) -> None:
        """Names all that the program reads, and the conditions under which it may."""
        fixed = self._fixed
        for entry in self.entries:
            v, value = f"v{entry.place}", self.values[entry.place]
            if entry.layout:
                self._checks.append(f"{v}[2] is not None")
            for kind, number, place in entry.layout:
                if kind == "number":
                    continue
                if kind == "changing":
                    known = self._constant(entry.form[1])
                    number_array = HOST.asarray(value[place], entry.form[1])
                    self._array(f"asarray({v}[{place}], {known})", number_array)
                    self._numbers.append((entry.place, number, number_array))
                    continue
                if kind in ("output", "result"):
                    self._array(f"{v}[{place}]", value[place])
                    self._checks.append(f"{v}[{place + 1}][0] == {v}[{place + 2}]")
                    continue
                x, a, version = (f"{v}[{place + k}]" for k in range(3))
                self._checks.append(f"{x}._array is {a}")
                self._checks.append(f"((c := {x}._cell) is None or c[0] == {version})")
                if entry.operands[number].is_fixed:
                    fixed.append(value[place + 1])
                else:
                    self._array(a, value[place + 1])
                if kind == "leaf" and entry.edges[number] is not None:
                    name = self.leaves.setdefault(value[place], x)
                    if name != x:
                        self._checks.append(f"{x} is {name}")
            for number, edge in enumerate(entry.edges):
                leaf = entry.operands[number].value
                if edge == -1 and leaf is not None:
                    if leaf not in self.leaves:
                        self.leaves[leaf] = self._constant(leaf)
                        fixed.append(entry.operands[number].array)
                        array = self._constant(entry.operands[number].array)
                        self._checks.append(f"{self.leaves[leaf]}._array is {array}")
        for one in fixed:
            if id(one) in self._arrays:
                self._checks.append(f"{self._arrays[id(one)][0]} is {self._constant(one)}")
        names = list(self.leaves.values())
        if len(names) > 1 and any(name[0] == "v" for name in names):  # one may be there twice
            self._checks.append(f"len({{{', '.join(f'id({n})' for n in names)}}}) == {len(names)}")
        for name in names:
            self._checks.append(f"not {name}._hooks and not {name}._post_hooks")
            self._checks.append(f"{name}._requires_grad and {name}._node is None")

    # --- the function -----------------------------------------------------------------------------

    def _build(self, plan: Plan) -> None:
        lines = ["values = run.values"]
        lines += [f"v{e.place} = values[{e.place}]" for e in self.entries]
        lines.append(f"if not ({' and '.join(self._checks)}): return False")
        lines += [
            "for node in run.nodes:",
            "    if node.hooks or node.post_hooks or node.inputs is RELEASED: return False",
        ]
        gradients = [f"g{n}" for n in range(len(self.leaves))]
        arguments = ", ".join(name for name, _ in self._arrays.values())
        lines.append(f"{', '.join(gradients)}, = program({arguments})" if gradients else "pass")
        for g, leaf, new in zip(gradients, self.leaves.values(), plan.renewed, strict=True):
            if not new:
                lines.append(f"deposit({leaf}, {g}, wrap, False, False)")
                continue
            lines += [
                f"if {leaf}._grad is None:",
                f"    {leaf}._grad = g = new(Tensor)",
                f"    g._array = {g}",
                f"else: deposit({leaf}, {g}, wrap, True, False)",
            ]
        for entry in self.entries:
            v, known = f"v{entry.place}", self._constant(entry)
            if entry.moving_leaves:
                lines.append(f"values[{entry.place}] = {known}.released({v})")
            elif entry.layout:
                lines.append(f"values[{entry.place}] = ({known}, {v}[1], None, nothing)")
        places = tuple(e.place for e in self.entries)
        lines += [
            "if run.nodes:",
            f"    for place in {places}:",
            "        if place < len(run.nodes): run.nodes[place].release()",
            "return True",
        ]
        self._source.constants |= {
            "program": plan.run, "deposit": deposit, "RELEASED": RELEASED, "nothing": {},
        }  # fmt: skip
        self.call = self._source.function("backward(run)", lines, "backward")
        # And with them what a call has computed.
        del self.values, self.leaves, self._arrays, self._fixed, self._source, self._constant


def new_arrays(recorder: Recorder, outputs: Sequence[Array]) -> list[Array]:
    """The outputs that kernels make for themselves, of which one leaf may get its own."""
    kernels = [step for step in recorder.steps if isinstance(step, Kernel)]
    made = {id(k.out) for k in kernels if not (k.into_existing or k.primitive.view or k.shares)}
    whole = [a for a in outputs if a.ndim > 0 and a.base is None and a.flags.c_contiguous]
    leaves = Counter(map(id, outputs))
    return [a for a in whole if id(a) in made and leaves[id(a)] == 1]
