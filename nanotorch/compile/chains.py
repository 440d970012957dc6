"""Runs of elementwise calls on large arrays, made piece by piece while a piece is in the cache.

One call after the other over whole arrays takes every intermediate value to memory and back. A
`Chain` makes all calls of a run for one piece of rows before it goes on to the next; what only the
run itself uses needs no more memory than a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nanotorch.backend import HOST, Array, get_num_threads
from nanotorch.backend.calls import Call
from nanotorch.compile.memory import root_of
from nanotorch.compile.tiles import side_by_side

# Arrays that are smaller stay in the second-level cache from one call to the next anyway.
WORTHWHILE_BYTES = 1 << 20
# A piece of each of the few arrays that a call reads and writes: together, half of such a cache.
PIECE_BYTES = 1 << 17
# From what size of all arrays on a thread of its own pays for being started.
BYTES_PER_THREAD = 16 << 20


class Chain(NamedTuple):
    """Calls that are made piece by piece, and the arrays among theirs that nothing else uses."""

    calls: tuple[Call, ...]
    inner: frozenset[int]

    @property
    def arrays(self) -> list[Array]:
        """All arrays but the inner ones."""
        found = [a for call in self.calls for a in (*call.arrays, call.out)]
        return [a for a in found if id(a) not in self.inner]

    def buffers(self) -> tuple[dict[int, str], list[Array]]:
        """The names of the inner arrays, b0, b1, …, and an array of the form of each buffer: a
        buffer is handed on to the call that reads it last."""
        used = [{id(a) for a in (*call.arrays, call.out)} for call in self.calls]
        names: dict[int, str] = {}
        forms: list[Array] = []
        free: list[int] = []
        for number, call in enumerate(self.calls):
            later = set().union(*used[number + 1 :])
            for key in used[number] & names.keys() - later - {id(call.out)}:
                free.append(int(names[key][1:]))
            if id(call.out) in self.inner and id(call.out) not in names:
                same = [n for n in free if forms[n].dtype == call.out.dtype]
                place = same[0] if same else len(forms)
                if same:
                    free.remove(place)
                else:
                    forms.append(call.out)
                names[id(call.out)] = f"b{place}"
        return names, forms


def is_link(step: Any) -> bool:
    """Whether a step may be part of a chain: elementwise, large, and with rows to divide."""
    if not isinstance(step, Call) or not (step.elementwise or step.function is HOST.copyto):
        return False
    out = step.out
    if out.nbytes < WORTHWHILE_BYTES or not out.ndim:
        return False
    return bool(out.nbytes // out.shape[0] <= PIECE_BYTES)


def joined(steps: Sequence[Any], own: set[int], last: dict[int, int]) -> list[Any]:
    """The steps with chains in the place of runs of two calls or more on arrays of one shape.

    Calls that write memory from outside are left alone: an argument of a later call may show the
    same memory in another order, of which a piece must not meet what an earlier one has written.

    own: the identities of the arrays that the plan finds memory for; last: the position of the last
    use of each root.
    """
    found: list[Any] = []
    run: list[Call] = []
    begun: set[int] = set()  # the roots that were written before the run

    def close(end: int) -> None:
        made = {id(call.out): call for call in reversed(run)}
        inner = frozenset(
            key
            for key, call in made.items()
            if key in own
            and call.out.base is None
            and id(call.out) not in begun
            and last[id(call.out)] < end
            and not any(a is call.out for a in call.arrays)
        )
        found.extend([Chain(tuple(run), inner)] if len(run) > 1 else run)
        begun.update(root_of(call.out) for call in run)
        run.clear()

    for position, step in enumerate(steps):
        link = is_link(step) and not own.isdisjoint((id(step.out), root_of(step.out)))
        if not (link and run and goes_on(run, step)):
            close(position)
        if link:
            run.append(step)
        else:
            found.append(step)
            begun.update(root_of(a) for a in [getattr(step, "out", None)] if a is not None)
    close(len(steps))
    return found


def goes_on(run: list[Call], step: Call) -> bool:
    """Whether a call may be made piece by piece with those of the run: it meets the arrays that
    they write, and writes those that they use, row by row."""
    if step.out.shape != run[0].out.shape:
        return False
    used = {id(a): a for call in run for a in (*call.arrays, call.out)}
    written = {root_of(call.out) for call in run}
    apart = all(id(a) in used or root_of(a) not in written for a in step.arrays)
    roots = {root_of(a) for key, a in used.items() if key != id(step.out)}
    return apart and (root_of(step.out) not in roots)


def has_rows(array: Array, call: Call) -> bool:
    """Whether an operand of a call is divided with its rows, rather than the same for all."""
    return bool(array.ndim == call.out.ndim and array.shape[0] == call.out.shape[0])


class Pieces:
    """Runs the function of a chain over all pieces, on as many threads as are worth starting.

    parts: arrays whose rows are divided; inner: the forms of the buffers that each thread needs.
    """

    def __init__(self, rows: int, parts: Sequence[Array], inner: Sequence[Array]) -> None:
        row = max(a.nbytes for a in (*parts, *inner)) // rows
        size = max(1, PIECE_BYTES // max(row, 1))
        total = sum(a.nbytes for a in parts)
        threads = max(1, min(get_num_threads(), total // BYTES_PER_THREAD, -(-rows // size)))
        self.work: list[list[tuple[Any, ...]]] = [[] for _ in range(threads)]
        buffers = [
            [HOST.empty((min(size, rows), *a.shape[1:]), a.dtype) for a in inner]
            for _ in range(threads)
        ]
        for number, low in enumerate(range(0, rows, size)):
            high = min(low + size, rows)
            own = [buffer[: high - low] for buffer in buffers[number % threads]]
            pieces = (a[low:high] for a in parts)
            self.work[number % threads].append((low, high, *pieces, *own))

    def __call__(self, function: Callable[..., None], *moving: Array) -> None:
        if len(self.work) == 1:
            function(self.work[0], *moving)
        else:
            side_by_side(lambda n: function(self.work[n], *moving), len(self.work))
