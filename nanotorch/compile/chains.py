"""Runs of elementwise calls on large arrays, made piece by piece (see `pieces.py`).

Sums of all elements are split where NumPy splits them, so that the bits are those of the calls one
after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, MODULES, Array
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
        self.arrays = [a for key, a in arrays.items() if key not in views]
        self.made = {id(call.out) for call in calls}
        self.large = [a for a in self.arrays if not is_single(a)]
        singles = [a for a in self.arrays if is_single(a)]
        self.sums = [a for a in singles if id(a) in self.made]
        self.whole = [a for a in singles if id(a) not in self.made]
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


class Run:
    """Steps from one that may begin a chain on, and what of them the chain would be.

    `earlier` and `later`: those among its calls that can be made before or after it.
    """

    def __init__(self, moving: set[int]) -> None:
        self.moving = moving  # arrays that the chain may not write to
        self.steps: list[Any] = []
        self.notes: list[Call | View] = []
        self.earlier: list[Any] = []
        self.later: list[Any] = []
        self.choices = 0  # in `later`, of kernels that are not done
        self.shown: set[int] = set()  # what its calls and views made
        self.touched: set[int] = set()  # roots of what the chain reads and writes
        self.shape: tuple[int, ...] = ()
        self.starts: dict[int, int] = {}  # where the arrays of each root start in memory, …
        self.written: set[int] = set()  # … and the roots of those that the chain writes
        self.totals: set[int] = set()
        self.read_later: set[int] = set()
        self.written_later: set[int] = set()  # roots, and views that are made

    def takes(self, step: Any) -> bool:
        """Adds a step; False where it can be neither in the chain nor after it."""
        whole = self.choices
        if not whole and isinstance(step, Call | View) and self.fits(step):
            self.notes.append(step)
            self.shown.add(id(step.out))
        elif (
            not self.notes
            or isinstance(step, Live | Draw | Pass)
            or (isinstance(step, Done) and not whole)
        ):
            return False
        elif not whole and self._is_apart(step):
            self.earlier.append(step)
        else:
            self._put_off(step)
        self.steps.append(step)
        return True

    def fits(self, step: Call | View) -> bool:
        """Whether a step does the same to each element, or sums them all up."""
        if isinstance(step, View):
            arrays, total = [step.base, step.out], False
            if step.method != "view" or step.base.shape != step.out.shape or not self.notes:
                return False
        else:
            arrays, total = [*step.arrays, step.out], is_total(step) and bool(self.notes)
            if not (step.elementwise or step.function is HOST.copyto or total):
                return False
        out, shape = step.out, self.shape or step.out.shape
        large = [a for a in arrays if not is_single(a)]
        roots = {root_of(a) for a in arrays}
        if not large or any(a.shape != shape or not a.flags.c_contiguous for a in large):
            return False
        if is_single(out) != total or id(out) in self.moving:
            return False
        if any(a.size > 1 and is_single(a) and id(a) in self.moving for a in arrays):
            return False
        if roots & self.totals or roots & self.written_later or root_of(out) in self.read_later:
            return False
        if self.written_later & set(map(id, arrays)):
            return False
        starts = {root_of(a): a.__array_interface__["data"][0] for a in large}
        written = {r for r in starts if r in self.written or r == root_of(out)}
        if any(self.starts.get(r, starts[r]) != starts[r] for r in written):
            return False
        if len({(root_of(a), a.__array_interface__["data"][0]) for a in large}) > len(starts):
            return False
        self.shape = shape
        self.written.add(root_of(out))
        self.touched |= roots
        self.starts.update(starts)
        if total:
            self.totals.add(root_of(out))
        return True

    def _is_apart(self, step: Any) -> bool:
        """Whether a step has nothing to do with the chain and those after it."""
        if isinstance(step, Choice):
            return False
        roots, ids = (set(map(of, arrays_of(step))) for of in (root_of, id))
        if ids & self.shown or (ids | roots) & self.written_later:
            return False
        if is_view(step):
            return not roots & self.written and not roots & self.totals
        return not roots & self.touched and not roots & self.read_later

    def _put_off(self, step: Any) -> None:
        self.later.append(step)
        self.choices += isinstance(step, Choice) - isinstance(step, Done)
        self.read_later |= {root_of(a) for a in arrays_of(step)}
        if not isinstance(step, Choice):
            out = (step.kernel if isinstance(step, Done) else step).out
            self.written_later |= {id(out)} if is_view(step) else {id(out), root_of(out)}

    def settled(self) -> list[Any]:
        """The chain and what comes after it; the steps as they were where it does not pay."""
        calls = [note for note in self.notes if isinstance(note, Call)]
        nbytes = sum(a.nbytes for call in calls for a in (*call.arrays, call.out))
        if len(calls) < 2 or nbytes < WORTHWHILE_BYTES:
            return self.steps
        return [*self.earlier, Chain(self.notes), *self.later]


def chained(steps: Sequence[Any], moving: set[int]) -> list[Any]:
    """The steps, with chains in place of the calls that they make."""
    result: list[Any] = []
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
    if not isinstance(step, Kernel):
        return isinstance(step, View)
    roots = [root_of(a) for a in step.operands if type(a) in MODULES]
    return not step.into_existing and root_of(step.out) in roots


def arrays_of(step: Any) -> list[Array]:
    """The arrays that a step reads and writes; the last one is its output."""
    if isinstance(step, Done):
        step = step.kernel
    if isinstance(step, Kernel):
        return [a for a in (*step.operands, step.out) if type(a) in MODULES]
    if isinstance(step, Call):
        return [*step.arrays, step.out]
    if isinstance(step, Joint):
        return [*step.operands.values(), *step.outputs.values()]
    if isinstance(step, Pass):
        return step.arrays
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
