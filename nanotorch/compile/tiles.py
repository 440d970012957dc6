"""One pass over a large batch: the step runs tile by tile, each small enough to stay in the cache.

Forward and backward of a tile follow each other while its rows are still in the cache, and what is
summed over rows is added up, so that the batch crosses memory once. Consecutive tiles form groups,
each with sums of its own, added in order at the end: the result is the same for any number of
threads, and whichever of them takes the next group.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST, MODULES, Array, dot, get_num_threads, one_blas_thread
from nanotorch.backend.workers import side_by_side
from nanotorch.compile.calls import Call, View
from nanotorch.compile.lines import ROWS as ROWS_PASS, Line
from nanotorch.compile.memory import root_of
from nanotorch.compile.program import Program
from nanotorch.compile.recorder import Draw, Kernel, Live, Recorder
from nanotorch.compile.rows import COLUMNS, ROWS, SUM, WHOLE, NotRowWise, Role, role
from nanotorch.ops import class_losses, losses
from nanotorch.ops.sums import Sum

Step = Kernel | Draw | Live
DOTS = (HOST.dot, dot)

GROUPS = 32
FEWER_GROUPS = 8  # where the sums of all groups would take more than MOST_SUM_BYTES
MOST_SUM_BYTES = 1 << 20
# What a tile reads of the batch. Less fits the second-level cache better, but then threads wait for
# one another more often, at the lock that Python code runs under.
TILE_BYTES = 4 << 20
# From what size on a batch is passed over in tiles; smaller ones were measured faster in one piece.
WORTHWHILE_BYTES = 64 << 20


class Tiling:
    """The steps of a plan, sorted into those before, within and after the pass over the rows.

    escaping: the identities of the memory that leaves the step.
    """

    def __init__(
        self, program: Program, record: Recorder, escaping: set[int], steps: Sequence[Step]
    ) -> None:
        self.program, self.escaping = program, escaping
        self.rows, self.seeds = batch_of(record, steps)
        self.kinds: dict[int, str] = {}
        self.before: list[Step] = []
        self.within: list[tuple[Kernel, Role]] = []
        self.after: list[Step] = []
        self._sort(steps)
        if not any(r.output == SUM for _, r in self.within):
            raise NotRowWise("nothing is summed over the rows")
        width = sum(a.nbytes for a in self.seeds.values() if a.ndim > 1) // self.rows
        self.tile = min(max(16, TILE_BYTES // max(width, 1)), self.rows)

    def _kind(self, value: Any) -> str:
        if type(value) not in MODULES:
            return WHOLE
        return self.kinds.get(id(value), ROWS if id(value) in self.seeds else WHOLE)

    def _sort(self, steps: Sequence[Step]) -> None:
        """Fills before, within and after, keeping every order that matters."""
        read: set[int] = set()  # memory that the pass reads
        changed: set[int] = set()  # memory that is written after the pass
        sealed = False
        root = root_of
        for step in steps:
            if not isinstance(step, Kernel):
                if self.within:
                    sealed = True
                    if isinstance(step, Draw):
                        raise NotRowWise("random numbers are drawn after the first row-wise kernel")
                (self.after if self.within else self.before).append(step)
                continue
            arrays = [a for a in step.operands if type(a) in MODULES]
            part = role(step, [self._kind(a) for a in step.operands], self.rows)
            self.kinds[id(step.out)] = part.output
            if part.output in (ROWS, COLUMNS) or any(
                self._kind(a) in (ROWS, COLUMNS) for a in arrays
            ):
                if (
                    sealed
                    or step.into_existing
                    or step.promotes
                    or changed & {root(a) for a in arrays}
                ):
                    raise NotRowWise("rows are read again after an update")
                read |= {root(a) for a in arrays}
                if part.output == SUM and self._is_narrow(arrays):
                    self.escaping |= {root(a) for a in arrays}
                    self.after.append(step)
                else:
                    self.within.append((step, part))
            elif part.output == SUM or changed & {root(a) for a in arrays} or sealed:
                if step.into_existing:
                    changed.add(root(step.out))
                self.kinds[id(step.out)] = SUM
                self.after.append(step)
            else:
                if step.into_existing and root(step.out) in read:
                    raise NotRowWise("what the rows were computed with is written to")
                if step.out.ndim and step.out.shape[0] == self.rows and not step.into_existing:
                    self.seeds[id(step.out)] = step.out
                self.before.append(step)

    def _is_narrow(self, arrays: Sequence[Array]) -> bool:
        """Whether what a sum is taken of is small beside the batch: it is kept, and summed up by
        few calls after the pass."""
        rows = [a for a in arrays if self._kind(a) != WHOLE and id(a) not in self.seeds]
        batch = sum(a.nbytes for a in self.seeds.values())
        return 32 * sum(a.nbytes for a in rows) <= batch and all(
            self._kind(a) == ROWS and root_of(a) == id(a) and a.dtype != bool for a in rows
        )

    # --- the program ------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The lines of the pass, for the plan's program."""
        program = self.program
        body: list[str] = []
        once: list[str] = []  # what is computed before the pass
        local: dict[int, str] = {}
        buffers: dict[str, Array] = {}  # by name, the form of a whole tile
        sums: list[tuple[Kernel, Role]] = []
        numbers = itertools.count()
        kept: list[Any] = []  # so that identities stay those of these arrays
        groups = self._groups()
        height = max(high - low for group in groups for low, high in group)

        def name(value: Any) -> str:
            if type(value) not in MODULES:
                return program.value_text(value)
            kind = self._kind(value)
            if kind not in (ROWS, COLUMNS):
                return program.array_name(value)
            if id(value) not in local:
                local[id(value)] = f"r{next(numbers)}"
                body.append(f"{local[id(value)]} = {program.array_name(value)}[low:high]")
            return local[id(value)]

        def whole(step: Kernel, part: Role, operands: list[str]) -> str:
            kernel = program.constant(step.primitive.title(), step.primitive.kernel)
            attributes = {k: program.value_text(v) for k, v in step.attributes.items()}
            attributes.update(part.attributes)
            given = [*operands, *(f"{k}={v}" for k, v in attributes.items())]
            return f"{kernel}({', '.join([program.constant('xp', step.xp), *given])}"

        def divided_once(value: Any, divisor: Any) -> str:
            once.append(f"s{len(once)} = {name(value)} / {program.value_text(divisor)}")
            return f"s{len(once) - 1}"

        def target_of(step: Kernel) -> str:
            """A name for what a kernel makes of the rows: in a buffer, or where it leaves from."""
            local[id(step.out)] = target = f"r{next(numbers)}"
            if root_of(step.out) in self.escaping:
                program.memory.apart(step.out)
                body.append(f"{target} = {program.array_name(step.out)}[low:high]")
            else:
                buffers[target] = step.out[:height]
            return target

        def cut(value: Any) -> Any:
            """Its part in the first tile."""
            if self._kind(value) == COLUMNS:
                return value.T[:height].T
            return value[:height] if self._kind(value) == ROWS else value

        def calls(step: Kernel, operands: list[str], out: str = "") -> list[str]:
            """The lines of the calls that a kernel makes, where each treats rows one by one."""
            tile = step._replace(operands=tuple(map(cut, step.operands)), out=cut(step.out))
            notes: list[Any] = program.notes(tile) or []
            kinds = zip(tile.operands, map(self._kind, step.operands), strict=True)
            rows = {id(a) for a, kind in kinds if kind != WHOLE}
            for note in notes:
                if isinstance(note, View) and id(note.base) not in rows:
                    continue
                if not isinstance(note, Call) or not (note.elementwise or note.function in DOTS):
                    return []
            known = {id(a): text for a, text in zip(tile.operands, operands) if id(a) in rows}
            made = {id(note.out) for note in notes} - {id(tile.out)}
            lines: list[str] = []
            kept.append((tile, notes))
            if notes:
                known[id(tile.out)] = out or target_of(step)

            def text(value: Any) -> str:
                if type(value) not in MODULES or id(value) not in {*known, *made}:
                    return program.single_text(value)
                if id(value) not in known:
                    known[id(value)] = target = f"r{next(numbers)}"
                    buffers[target] = value
                return known[id(value)]

            for note in notes:
                if isinstance(note, View):
                    view = note.of(program.memory.place(note.base))
                    known[id(note.out)] = program.constant("a", view)
                elif note.out.size == 1 and id(note.out) in made:
                    number = HOST.empty(note.out.shape, note.out.dtype)
                    known[id(note.out)] = program.constant("a", number)
                    once.append(program.call_text(note, text, known[id(note.out)]))
                else:
                    lines.append(program.call_text(note, text, text(note.out)))
            return lines

        for step, part in self.within:
            operands = [name(a) for a in step.operands]
            if part.shared >= 0:
                target = step.operands[step.primitive.input_names.index("target")]
                operands[part.shared] = divided_once(step.operands[part.shared], target.size)
            arrays = [a for a in step.operands if type(a) in MODULES]
            if part.output == SUM:
                total = f"parts[{len(sums)}]"
                if step.primitive is Sum and arrays[0].dtype == bool and not step.out.ndim:
                    total = f"{program.constant('count', HOST.count_nonzero)}({operands[0]})"
                else:
                    lowered = [] if part.attributes else calls(step, operands, total)
                    body += lowered or [f"{whole(step, part, operands)}, out={total})"]
                body.append(f"sums[{len(sums)}] += {total}")
                sums.append((step, part))
            elif any(root_of(a) == root_of(step.out) for a in arrays):
                local[id(step.out)] = target = f"r{next(numbers)}"
                body.append(f"{target} = {whole(step, part, operands)})")
            elif not part.attributes and (lowered := calls(step, operands)):
                body += lowered
            else:
                target = target_of(step)
                body.append(f"{whole(step, part, operands)}, out={target})")
        for step, _ in sums:
            program.memory.apart(step.out)
        forms = [
            (s.out.shape, s.out.dtype, f.divisor, program.memory.place(s.out)) for s, f in sums
        ]
        runner = Runner(groups, list(buffers.values()), forms)
        head = ["def tile(low, high, buffers, parts, sums):", "    n = high - low"]
        if buffers:
            head.append(f"    {', '.join(buffers)}, = buffers")
        run = f"{program.constant('rows', runner)}(tile)"
        return [*once, *head, *(f"    {line}" for line in body), run]

    def _groups(self) -> list[list[tuple[int, int]]]:
        """The tiles, first row and end, of each group; all of nearly the same height."""
        sums = sum(k.out.nbytes for k, part in self.within if part.output == SUM)
        most = GROUPS if sums * GROUPS <= MOST_SUM_BYTES else FEWER_GROUPS
        count = min(most, -(-self.rows // self.tile))
        bounds = [self.rows * g // count for g in range(count + 1)]
        return [divided(*ends, self.tile) for ends in itertools.pairwise(bounds)]

    def explained(self, source: str) -> Line:
        """What `explain` says of the line that runs the pass."""
        title = f"one pass over {self.rows:,} rows, {self.tile:,} at a time"
        nbytes = sum(array.nbytes for array in self.seeds.values())
        within = tuple(kernel.primitive.title() for kernel, _ in self.within)
        return Line(source, id(self), title, "", ROWS_PASS, bytes=nbytes, within=within)

    def forget(self) -> None:
        """Lets go of the recording and its arrays, once the program is made; the names stay."""
        del self.program, self.seeds, self.kinds, self.before, self.within, self.after

    def counted(self) -> list[tuple[Array, int]]:
        """The targets of the pass, and the class that must not be among them for it to be right."""
        return [
            (step.operands[-2], step.attributes["ignore_index"])
            for step, _ in self.within
            if step.primitive in (losses.NllLoss, class_losses.CrossEntropy)
        ]


def batch_of(record: Recorder, steps: Sequence[Step]) -> tuple[int, dict[int, Array]]:
    """The number of rows, and the arrays from outside that have them."""
    weights = {id(leaf._array) for leaf in record.gradients}
    outside: dict[int, Array] = {}
    for step in steps:
        for a in step.operands if isinstance(step, Kernel) else ():
            if type(a) is HOST.ndarray and id(a) not in record.made and id(a) not in weights:
                outside[id(a)] = a
    rows = max((a.shape[0] for a in outside.values() if a.ndim), default=0)
    seeds = {key: a for key, a in outside.items() if a.ndim and a.shape[0] == rows}
    if sum(a.nbytes for a in seeds.values()) < WORTHWHILE_BYTES:
        raise NotRowWise("the batch is small")
    return rows, seeds


def divided(start: int, stop: int, tile: int) -> list[tuple[int, int]]:
    """The rows from start to stop, in equal parts of `tile` or fewer."""
    parts = -(-(stop - start) // tile)
    bounds = [start + (stop - start) * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(bounds))


class Worker:
    """The memory of one thread: buffers, cut for each number of rows that a tile may have, and an
    array for each sum."""

    def __init__(self, heights: set[int], forms: list[Array], sums: list[Any]) -> None:
        whole = [HOST.empty(form.shape, form.dtype) for form in forms]
        self.buffers = {n: tuple(a[:n] for a in whole) for n in heights}
        self.parts = [HOST.empty(shape, kind) for shape, kind, _, _ in sums]


class Runner:
    """Runs the tile function over all rows, on several threads, and adds up what is summed."""

    def __init__(
        self, groups: list[list[tuple[int, int]]], buffers: list[Array], sums: list[Any]
    ) -> None:
        self.groups, self._sums = groups, sums
        self._forms = [HOST.empty(a.shape, a.dtype) for a in buffers]
        self._heights = {high - low for group in groups for low, high in group}
        self._workers: list[Worker] = []
        self._totals = [[HOST.zeros(shape, kind) for shape, kind, _, _ in sums] for _ in groups]

    def __call__(self, tile: Any) -> None:
        threads = min(get_num_threads(), len(self.groups))
        while len(self._workers) < threads:
            self._workers.append(Worker(self._heights, self._forms, self._sums))
        waiting = iter(range(len(self.groups)))  # a thread that is free takes the next group

        def work(number: int) -> None:
            worker = self._workers[number]
            for group in waiting:
                totals = self._totals[group]
                for total in totals:
                    total.fill(0)
                for low, high in self.groups[group]:
                    tile(low, high, worker.buffers[high - low], worker.parts, totals)

        if threads == 1:
            work(0)
        else:
            with one_blas_thread():
                side_by_side(work, threads)
        for place, (_, _, divisor, out) in enumerate(self._sums):
            HOST.copyto(out, self._totals[0][place])
            for totals in self._totals[1:]:
                out += totals[place]
            if divisor != 1:
                out /= divisor
