"""Runs of elementwise calls on large arrays, made piece by piece (see `pieces.py`).

Sums of all elements are split where NumPy splits them, so that the bits are those of the calls one
after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.compile.calls import Call, Choice, Done, Joint, View, reduction
from nanotorch.compile.memory import root_of
from nanotorch.compile.pieces import Pass
from nanotorch.compile.recorder import Draw, Kernel, Live

PIECE = 1 << 19  # bytes of a piece of an array
# What the calls of a chain read and write together; less is done before a thread has woken up.
WORTHWHILE_BYTES = 24 << 20
TOTAL = reduction(HOST.add)


class Chain(Pass):
    """Calls, and views of other dtypes, that are made piece by piece."""

    family, flattened = "elementwise", ".reshape(-1)"

    def __init__(self, notes: list[Call | View]) -> None:
        self.notes = notes
        self.within = calls = [note for note in notes if isinstance(note, Call)]
        views = {id(note.out) for note in notes if isinstance(note, View)}
        arrays = {id(a): a for note in notes for a in arrays_of(note)}
        self.large = [a for k, a in arrays.items() if k not in views and not is_single(a)]
        self.sums = [call.out for call in calls if is_single(call.out)]
        read = [a for call in calls for a in call.arrays if is_single(a)]
        self.whole = list({id(a): a for a in read}.values())
        self.shape, size = self.large[0].shape, self.large[0].size
        tree = halves(0, size, PIECE // max(a.itemsize for a in self.large))
        self.groups = [[piece] for piece in leaves(tree)]
        self.total = lambda parts: total_of(tree, iter(parts))
        self.title = f"one pass over {size:,} elements, {self.heights[0]:,} at a time"

    def piece(self, height: int) -> tuple[list[Any], dict[int, Array]]:
        others = {id(a): HOST.empty(height, a.dtype) for a in self.large}
        others |= {id(a): HOST.empty((), a.dtype) for a in (*self.whole, *self.sums)}
        notes: list[Call | View] = []

        def of(value: Any) -> Any:
            if type(value) is tuple:
                return tuple(map(of, value))
            return others.get(id(value), value) if type(value) is HOST.ndarray else value

        for note in self.notes:
            if isinstance(note, View):
                base = of(note.base)
                others[id(note.out)] = out = note.of(base)
                notes.append(note._replace(base=base, out=out))
                continue
            keywords = {key: of(value) for key, value in note.keywords.items()}
            if note.function is TOTAL:
                keywords = {"axis": None}
            notes.append(Call(note.function, of(note.arguments), keywords, of(note.out)))
        return notes, others


def is_single(array: Array) -> bool:
    """Whether all elements are one and the same, in memory."""
    return array.size == 1 or not any(array.strides)


class Group:
    """Steps, and what they read and write: memory, and arrays that show it, by identity."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.touched: set[int] = set()
        self.written: set[int] = set()

    def add(self, step: Any) -> None:
        touched, written = uses(step)
        self.steps.append(step)
        self.touched |= touched
        self.written |= written

    def meets(self, step: Any) -> bool:
        """Whether it makes a difference if a step is made before or after them."""
        touched, written = uses(step)
        return not (self.written.isdisjoint(touched) and self.touched.isdisjoint(written))


def uses(step: Any) -> tuple[set[int], set[int]]:
    """What a step reads or writes, and what of that it writes."""
    touched = {key for a in arrays_of(step) for key in (id(a), root_of(a))}
    if isinstance(step, Choice):
        return touched, set()
    out = (step.kernel if isinstance(step, Done) else step).out
    return touched, {id(out)} if is_view(step) else {id(out), root_of(out)}


class Run:
    """Steps from one that may begin a chain on: the chain, and those that can be made before or
    after it."""

    def __init__(self, moving: set[int]) -> None:
        self.moving = moving  # arrays that the chain may not write to
        self.steps: list[Any] = []
        self.earlier: list[Any] = []
        self.chain, self.later = Group(), Group()
        self.choices = 0  # in `later`, of kernels that are not done
        self.shape: tuple[int, ...] = ()
        self.starts: dict[int, int] = {}  # where the large arrays of each root start in memory
        self.totals: set[int] = set()  # roots

    def takes(self, step: Any) -> bool:
        """Adds a step; False where it can be neither in the chain nor after it."""
        whole = self.choices > 0
        late = whole or isinstance(step, Choice)
        ends = isinstance(step, Live | Draw | Pass) or (isinstance(step, Done) and not whole)
        if not whole and isinstance(step, Call | View) and self._fits(step):
            self.chain.add(step)
        elif ends or not self.chain.steps:
            return False
        elif late or self.chain.meets(step) or self.later.meets(step):
            self.later.add(step)
            self.choices += isinstance(step, Choice) - isinstance(step, Done)
        else:
            self.earlier.append(step)
        self.steps.append(step)
        return True

    def _fits(self, step: Call | View) -> bool:
        """Whether a step does the same to each element, or sums them all up."""
        if isinstance(step, View):
            arrays, total = [step.base, step.out], False
            if step.method != "view" or step.base.shape != step.out.shape or not self.chain.steps:
                return False
        else:
            arrays, total = [*step.arrays, step.out], is_total(step) and bool(self.chain.steps)
            if not (step.elementwise or step.function is HOST.copyto or total):
                return False
        out, shape = step.out, self.shape or step.out.shape
        large = [a for a in arrays if not is_single(a)]
        if not large or any(a.shape != shape or not a.flags.c_contiguous for a in large):
            return False
        if is_single(out) != total or id(out) in self.moving or self.later.meets(step):
            return False
        if any(a.size > 1 and is_single(a) and id(a) in self.moving for a in arrays):
            return False
        starts = {root_of(a): a.__array_interface__["data"][0] for a in large}
        written = {r for r in starts if r in self.chain.written or r == root_of(out)}
        if any(self.starts.get(r, starts[r]) != starts[r] for r in written):
            return False
        if len({(root_of(a), a.__array_interface__["data"][0]) for a in large}) > len(starts):
            return False
        if not self.totals.isdisjoint(map(root_of, arrays)):
            return False
        self.shape = shape
        self.starts.update(starts)
        self.totals |= {root_of(out)} if total else set()
        return True

    def settled(self) -> list[Any]:
        """The chain and what comes after it; the steps as they were where it does not pay."""
        if len(self.chain.steps) < 2 or traffic(self.chain.steps) < WORTHWHILE_BYTES:
            return self.steps
        return [*self.earlier, Chain(self.chain.steps), *self.later.steps]


def traffic(steps: Sequence[Any]) -> int:
    """The bytes that calls read and write."""
    calls = [step for step in steps if isinstance(step, Call)]
    return sum(a.nbytes for call in calls for a in (*call.arrays, call.out))


def chained(steps: Sequence[Any], moving: set[int]) -> list[Any]:
    """The steps, with chains in place of the calls that they make."""
    result: list[Any] = []
    if traffic(steps) < WORTHWHILE_BYTES:
        return [*steps]
    run = Run(moving)
    for step in steps:
        if run.takes(step):
            continue
        result += run.settled()
        run = Run(moving)
        if not run.takes(step):
            result.append(step)
    result += run.settled()
    used = {id(a) for step in result if not isinstance(step, Chain) for a in arrays_of(step)}
    shown: list[Any] = []  # with the views of a chain that others read, too
    for step in result:
        views = [v for v in step.notes if isinstance(v, View)] if isinstance(step, Chain) else []
        shown += [step, *(v for v in views if id(v.out) in used)]
    return shown


def is_view(step: Any) -> bool:
    """Whether a step only shows memory of its operand."""
    if isinstance(step, Kernel):
        return not step.into_existing and step.shares
    return isinstance(step, View)


def arrays_of(step: Any) -> list[Array]:
    """The arrays that a step reads and writes; the last one is its output."""
    if isinstance(step, Done):
        step = step.kernel
    if isinstance(step, Kernel):
        return [*step.arrays, step.out]
    if isinstance(step, Call):
        return [*step.arrays, step.out]
    if isinstance(step, Joint):
        return [*step.operands.values(), *step.outputs.values()]
    if isinstance(step, Pass):
        return [*step.large, *step.whole, *step.sums]
    if isinstance(step, View):
        return [step.base]
    if isinstance(step, Choice):
        return [step.value, step.kernel.out]
    return [step.out] if isinstance(step, Draw) else []


def is_total(call: Call) -> bool:
    """Whether a call sums up all elements of an array of floating point numbers."""
    if call.function is not TOTAL or set(call.keywords) - {"axis", "keepdims"}:
        return False
    x, kind = call.arguments[0], call.out.dtype.char
    everything = call.out.size == 1 and x.dtype.char == kind
    return everything and kind in "fd" and splits_as_known(kind)


# --- pieces ---------------------------------------------------------------------------------------


def halves(low: int, high: int, most: int) -> Any:
    """(low, high), or a pair of such for its halves, as NumPy splits a sum of so many numbers."""
    if high - low <= max(most, 128):
        return low, high
    middle = low + (high - low) // 2 // 8 * 8
    return halves(low, middle, most), halves(middle, high, most)


def leaves(tree: Any) -> list[tuple[int, int]]:
    """The pieces of a tree, in order."""
    return [tree] if type(tree[0]) is int else [leaf for half in tree for leaf in leaves(half)]


def total_of(tree: Any, parts: Any) -> Any:
    """The sums of all pieces, added as NumPy adds them."""
    if type(tree[0]) is int:
        return next(parts)
    return total_of(tree[0], parts) + total_of(tree[1], parts)


@functools.cache
def splits_as_known(kind: str) -> bool:
    """Whether this NumPy splits sums as `halves` does."""
    x = HOST.random.default_rng(0).standard_normal(20011).astype(kind)
    tree = halves(0, x.size, 1000)
    parts = iter([HOST.add.reduce(x[low:high]) for low, high in leaves(tree)])
    return bool(total_of(tree, parts) == HOST.add.reduce(x))
