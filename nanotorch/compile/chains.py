"""Runs of elementwise calls on large arrays, made piece by piece, on several threads.

Each piece goes through all calls of a chain while it is in the cache, so that the arrays cross
memory once, and what only the chain needs is as large as a piece. Sums of all elements are split
where NumPy splits them, so that the bits are those of the calls one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from nanotorch.backend import HOST, MODULES, Array, get_num_threads
from nanotorch.backend.workers import side_by_side
from nanotorch.compile.calls import Call, Choice, Done, Joint, View, reduction
from nanotorch.compile.memory import root_of
from nanotorch.compile.recorder import Draw, Kernel, Live

PIECE = 1 << 19  # bytes of a piece of an array
# What the calls of a chain read and write together; less is done before a thread has woken up.
WORTHWHILE_BYTES = 24 << 20
TOTAL = reduction(HOST.add)


class Chain(NamedTuple):
    """Calls, and views of other dtypes, that are made piece by piece."""

    notes: list[Call | View]

    @property
    def calls(self) -> list[Call]:
        return [note for note in self.notes if isinstance(note, Call)]

    @property
    def arrays(self) -> list[Array]:
        """All that they read and write but views of it, each once."""
        views = {id(note.out) for note in self.notes if isinstance(note, View)}
        arrays = [a for note in self.notes for a in arrays_of(note)]
        return list({id(a): a for a in arrays if id(a) not in views}.values())

    def on(self, others: dict[int, Array]) -> Chain:
        """The same with other arrays in the place of those with these identities."""
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
        return Chain(notes)


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
            or isinstance(step, Live | Draw)
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
        chain = Chain(self.notes)
        nbytes = sum(a.nbytes for call in chain.calls for a in (*call.arrays, call.out))
        if len(chain.calls) < 2 or nbytes < WORTHWHILE_BYTES:
            return self.steps
        return [*self.earlier, chain, *self.later]


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
    if isinstance(step, Chain):
        return step.arrays
    if isinstance(step, View):
        return [step.base]
    if isinstance(step, Choice):
        return [step.value]
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


class Pieces:
    """Makes the calls of a chain, on one piece after the other.

    cut: how many of the inputs, the first ones, have `size` elements. totals: how many, the last
    ones, are sums of as many. fixed: other arrays that are the same at each call.
    """

    def __init__(
        self, chain: Chain, program: Any, inputs: Sequence[Array], fixed: dict[int, Array],
        cut: int, totals: int,
    ) -> None:  # fmt: skip
        large = {id(a): a for a in chain.arrays if not is_single(a)}
        size, itemsize = inputs[0].size, max(a.itemsize for a in large.values())
        # In place of the arrays, which are let go of, small ones that only have their dtypes.
        small = {key: HOST.empty(1, a.dtype) for key, a in large.items()}
        self._forms = list(small.values())
        small |= {id(a): HOST.empty((), a.dtype) for a in inputs[cut:]}
        self._chain, self._program = chain.on({**fixed, **small}), program
        self._inputs, self._cut, self._totals = [small[id(a)] for a in inputs], cut, totals
        self._tree = halves(0, size, PIECE // itemsize)
        self._pieces = leaves(self._tree)
        self.height = max(high - low for low, high in self._pieces)
        self._workers: list[dict[int, Any]] = []

    def _made(self, height: int, model: Any) -> tuple[Any, Any]:
        """A function that makes the calls on pieces of so many elements, and its memory, which is
        that of another such function."""
        others = {id(form): HOST.empty(height, form.dtype) for form in self._forms}
        program = self._program([others.get(id(x), x) for x in self._inputs])
        program.memory.model = model
        program.own = {id(a) for a in others.values()} - program.moving
        return program.alone(self._chain.on(others).notes), program.memory

    def _worker(self) -> dict[int, Any]:
        """The functions of one thread, by the number of elements; they share their memory."""
        run, memory = self._made(self.height, None)
        heights = {high - low for low, high in self._pieces} - {self.height}
        return {self.height: run, **{n: self._made(n, memory)[0] for n in heights}}

    def __call__(self, *inputs: Any) -> None:
        threads, cut = min(get_num_threads(), len(self._pieces)), self._cut
        while len(self._workers) < threads:
            self._workers.append(self._worker())
        flat, end = [a.reshape(-1) for a in inputs[:cut]], len(inputs) - self._totals
        parts = [HOST.empty((len(self._pieces), 1), a.dtype) for a in inputs[end:]]
        waiting = iter(range(len(self._pieces)))  # a thread that is free takes the next piece

        def work(number: int) -> None:
            runs = self._workers[number]
            for place in waiting:
                low, high = self._pieces[place]
                sums = [part[place].reshape(()) for part in parts]
                runs[high - low](*[a[low:high] for a in flat], *inputs[cut:end], *sums)

        side_by_side(work, threads)
        for total, part in zip(inputs[end:], parts):
            total[...] = total_of(self._tree, iter(part[:, 0]))
