"""One pass over a large batch: the step runs tile by tile, each small enough to stay in the cache.

Forward and backward of a tile follow each other while its rows are still in the cache, and what is
summed over rows is added up, so that the batch crosses memory once. Consecutive tiles form groups,
each with sums of its own, added in order at the end: the result is the same for any number of
threads, and whichever of them takes the next group.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.compile.calls import Call
from nanotorch.compile.chains import arrays_of, is_view
from nanotorch.compile.lines import ROWS as FAMILY
from nanotorch.compile.memory import root_of
from nanotorch.compile.pieces import Pass
from nanotorch.compile.recorder import Draw, Kernel, Recorder
from nanotorch.compile.rows import COLUMNS, ROWS, SUM, WHOLE, role

GROUPS = 32
FEWER_GROUPS = 8  # where the sums of all groups would take more than MOST_SUM_BYTES
MOST_SUM_BYTES = 1 << 20
# What a tile reads of the batch. Less fits the second-level cache better, but then threads wait for
# one another more often, at the lock that Python code runs under.
TILE_BYTES = 4 << 20
# From what size on a batch is passed over in tiles; smaller ones were measured faster in one piece.
WORTHWHILE_BYTES = 64 << 20


class Tiles(Pass):
    """Kernels that treat the rows of a large batch one by one, or sum over them.

    seeds: the arrays from before them that have those rows.
    """

    family = FAMILY

    def __init__(self, rows: int, seeds: dict[int, Array]) -> None:
        self.rows, self.seeds = rows, seeds
        self.kinds = dict.fromkeys(seeds, ROWS)
        self.within: list[Kernel] = []
        self.total = added

    def kind(self, value: Any) -> str:
        """What an operand of a kernel is."""
        return self.kinds.get(id(value), WHOLE)

    def divide(self) -> None:
        """Sorts the arrays, and divides the rows, once all kernels are here."""
        arrays = {id(a): a for kernel in self.within for a in arrays_of(kernel)}.values()
        rows = [a for a in arrays if self.kind(a) == ROWS]
        self.large = [a for a in rows if id(a) in self.seeds or root_of(a) == id(a)]
        self.whole = [a for a in arrays if self.kind(a) == WHOLE]
        self.sums = [k.out for k in self.within if self.kind(k.out) == SUM]
        width = sum(a.nbytes for a in self.seeds.values() if a.ndim > 1) // self.rows
        tiles = -(-self.rows // max(16, TILE_BYTES // max(width, 1)))
        few = GROUPS * sum(a.nbytes for a in self.sums) > MOST_SUM_BYTES
        groups = min(tiles, FEWER_GROUPS if few else GROUPS)
        parts = divided(range(self.rows), groups * -(-tiles // groups))
        self.groups = divided([(part[0], part[-1] + 1) for part in parts], groups)
        self.title = f"one pass over {self.rows:,} rows, {self.heights[0]:,} at a time"

    def undivided(self, step: Kernel, kind: str, before: list[Any], after: list[Any]) -> Kernel:
        """The kernel, whose mean becomes a sum in each tile, without a division of its own.

        Calls before or after the pass divide by the number of elements, or of the targets that are
        not to be ignored, which are counted at each replay.
        """
        names = step.primitive.input_names
        if step.attributes.get("reduction") != "mean" or (kind != SUM and "g" not in names):
            return step
        count: Any = step.operands[0].size
        if "ignore_index" in step.attributes:
            target, ignored = step.operands[names.index("target")], step.attributes["ignore_index"]
            count = HOST.empty((), step.out.dtype)
            counted(target, ignored, out=count)
            before.append(Call(counted, (target, ignored), {}, count))
        if kind == SUM:
            after.append(Call(HOST.true_divide, (step.out, count), {}, step.out))
            return step
        share = HOST.empty_like(step.operands[0])
        shared(step.operands[0], count, out=share)
        before.append(Call(shared, (step.operands[0], count), {}, share))
        return step._replace(operands=(share, *step.operands[1:]))

    def piece(self, height: int) -> tuple[list[Any], dict[int, Array]]:
        others = {key: a[:height] for key, a in self.seeds.items()}
        kernels = []
        for kernel in self.within:
            operands = tuple(others.get(id(a), a) for a in kernel.operands)
            attributes = {**kernel.attributes}
            if "shape" in attributes and self.kind(kernel.out) == ROWS:
                attributes["shape"] = (height, *kernel.out.shape[1:])
            if attributes.get("reduction") == "mean":
                attributes["reduction"] = "sum"
            out = HOST.asarray(kernel.primitive.kernel(HOST, *operands, **attributes))
            if root_of(kernel.out) == id(kernel.out) and root_of(out) != id(out):
                out = out.copy()
            others[id(kernel.out)] = out
            kernels.append(kernel._replace(operands=operands, attributes=attributes, out=out))
        return kernels, others

    def is_narrow(self, arrays: Sequence[Array]) -> bool:
        """Whether what a sum is taken of is small beside the batch: it is kept, and summed up by
        few calls after the pass."""
        rows = [a for a in arrays if self.kind(a) != WHOLE and id(a) not in self.seeds]
        batch = sum(a.nbytes for a in self.seeds.values())
        return 32 * sum(a.nbytes for a in rows) <= batch and all(
            self.kind(a) == ROWS and root_of(a) == id(a) and a.dtype != bool for a in rows
        )


def tiled(record: Recorder, steps: Sequence[Any], outputs: Iterable[Array]) -> list[Any] | None:
    """The steps with one pass in place of the kernels that treat rows one by one; None where rows
    depend on one another, or are not worth it. `outputs`: those of the plan."""
    batch = batch_of(record, steps)
    if batch is None:
        return None
    tiles = Tiles(*batch)
    before: list[Any] = []
    after: list[Any] = []
    read: set[int] = set()  # memory that the pass reads
    changed: set[int] = set()  # memory that is written after the pass
    sealed = False
    for step in steps:
        if not isinstance(step, Kernel):
            sealed = bool(tiles.within)
            if sealed and isinstance(step, Draw):
                return None
            (after if sealed else before).append(step)
            continue
        arrays = step.arrays
        roots = set(map(root_of, arrays))
        kind = role(step, [tiles.kind(a) for a in step.operands], tiles.rows)
        late = sealed or bool(changed & roots)
        if kind is None:
            return None
        if any(tiles.kind(a) in (ROWS, COLUMNS) for a in arrays):
            if late or step.into_existing or step.promotes:
                return None
            read |= roots
            if kind == SUM and tiles.is_narrow(arrays):
                after.append(step)
            else:
                tiles.within.append(tiles.undivided(step, kind, before, after))
        elif kind == SUM or late:
            changed |= {root_of(step.out)} if step.into_existing else set()
            kind = SUM
            after.append(step)
        elif step.into_existing and root_of(step.out) in read:
            return None
        else:
            before.append(step)
        tiles.kinds[id(step.out)] = kind
    if SUM not in map(tiles.kind, (k.out for k in tiles.within)):
        return None
    tiles.divide()
    return [*before, tiles, *shown(tiles.within, outputs), *after]


def counted(target: Array, ignored: int, out: Array) -> None:
    """out = the number of targets that are not to be ignored"""
    out[...] = HOST.count_nonzero(target != ignored)


def shared(g: Array, count: Any, out: Array) -> None:
    """out = g / count, or g if nothing counts: then the slopes that it is multiplied by are 0"""
    HOST.true_divide(g, max(count, 1), out=out)


def shown(kernels: Sequence[Kernel], outputs: Iterable[Array]) -> list[Kernel]:
    """The kernels of a pass that only show memory of others, if the plan returns what they show, or
    a view of it: they are repeated after the pass."""
    seen = set(map(id, outputs))
    views: list[Kernel] = []
    for kernel in reversed(kernels):
        if id(kernel.out) in seen and is_view(kernel):
            views.append(kernel)
            seen |= set(map(id, kernel.operands))
    return views[::-1]


def added(parts: Sequence[Array]) -> Array:
    """The sum of the groups' sums, in order, in the place of the first."""
    for part in parts[1:]:
        HOST.add(parts[0], part, out=parts[0])
    return parts[0]


def batch_of(record: Recorder, steps: Sequence[Any]) -> tuple[int, dict[int, Array]] | None:
    """The number of rows, and the arrays from outside that have them; None for a small batch."""
    weights = {id(leaf._array) for leaf in record.gradients}
    outside: dict[int, Array] = {}
    for step in steps:
        for a in step.operands if isinstance(step, Kernel) else ():
            if type(a) is HOST.ndarray and id(a) not in record.made and id(a) not in weights:
                outside[id(a)] = a
    rows = max((a.shape[0] for a in outside.values() if a.ndim), default=0)
    seeds = {key: a for key, a in outside.items() if a.ndim and a.shape[0] == rows}
    large = sum(a.nbytes for a in seeds.values()) >= WORTHWHILE_BYTES
    return (rows, seeds) if large else None


def divided(items: Sequence[Any], count: int) -> list[Any]:
    """So many parts of a sequence, of nearly the same length."""
    bounds = [len(items) * i // count for i in range(count + 1)]
    return [items[low:high] for low, high in itertools.pairwise(bounds)]
