"""From a record to a function that replays it: dead steps dropped, memory shared, one flat program.

The program is a Python function generated from the record, one line per kernel, whose constants are
the kernels and the arrays of the plan. Arrays of the step live in blocks that are handed on as soon
as nothing needs them; what leaves the step (outputs, gradients) is never handed on.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nanotorch.backend import MODULES, Array, constant, promote
from nanotorch.compile.recorder import Draw, HandOver, Kernel, Live, Recorder
from nanotorch.compile.rows import NotRowWise
from nanotorch.compile.tiles import Tiling
from nanotorch.ops.casting import Clone
from nanotorch.primitive import BinaryUfunc, Ufunc
from nanotorch.tensor import Tensor


class Line(NamedTuple):
    """One step of the plan, as `explain` shows it."""

    text: str
    bytes: int


Step = Kernel | Draw | Live | HandOver


def root_of(array: Array) -> int:
    """The identity of the array that owns the memory."""
    while type(getattr(array, "base", None)) in MODULES:
        array = array.base
    return id(array)


class Plan:
    """A step, ready to be replayed. `run(inputs)` returns the arrays of the outputs."""

    root_of = staticmethod(root_of)
    tiling: Tiling | None
    # Of a pass over rows: the names of the targets, and the class that is to be ignored.
    targets: Sequence[tuple[str, int]] = ()
    why_not_tiled = ""

    def __init__(self, record: Recorder, outputs: Sequence[Array]) -> None:
        self.record = record
        self.outputs = list(outputs)
        self.names: dict[int, str] = {id(a): f"x{i}" for i, a in enumerate(record.inputs)}
        self.input_roots = {root_of(a) for a in record.inputs}
        self.moving: set[int] = set(self.names)  # arrays that are others in every call
        self.places: dict[int, Array] = {}  # where the plan keeps what an array of the record held
        self.constants: dict[str, Any] = {}
        self.lines: dict[str, Line] = {}  # what each line of the program does
        self.times: list[tuple[str | None, float]] = []
        self.blocks: list[Array] = []
        self._counter = itertools.count()
        steps = self._alive()
        self.slots: dict[int, Slot] = {}
        self.run = self._generated(steps)
        self.gradients = [(leaf, self._slot(array)) for leaf, array in record.gradients.items()]
        self.recorded_bytes = sum(a.nbytes for a in record.made.values() if root_of(a) == id(a))
        if self.tiling is not None:
            self.tiling.forget()
        del self.record, self.outputs, self.places  # and with them the arrays of the recording

    # --- what has to be computed ------------------------------------------------------------------

    def _alive(self) -> list[Step]:
        """The steps whose results reach an output, a gradient, a live call or memory from
        outside."""
        record = self.record
        made = {id(a) for a in record.made.values() if id(a) == root_of(a)}
        needed = {root_of(a) for a in self.outputs}
        needed |= {root_of(a) for a in record.gradients.values() if a is not None}
        alive: list[Step] = []
        for step in reversed(record.steps):
            if isinstance(step, Live):
                needed |= {root_of(a) for _, a in step.gradients if a is not None}
                if step.result is not None:
                    needed.add(root_of(step.result))
            elif isinstance(step, Draw):
                needed.add(root_of(step.out))
            elif isinstance(step, Kernel):
                root = root_of(step.out)
                outside = step.into_existing and root not in made
                if root not in needed and not outside:
                    continue
                needed |= {root_of(a) for a in step.operands if type(a) in MODULES}
            alive.append(step)
        alive.reverse()
        return self._without_constants(alive)

    def _without_constants(self, steps: list[Step]) -> list[Step]:
        """The steps without those whose operands, and so results, are the same in every call."""
        written = {
            root_of(s.out)
            for s in steps
            if isinstance(s, Draw) or (isinstance(s, Kernel) and s.into_existing)
        }
        fixed = {i for i in self.record.constant if i not in written}
        kept: list[Step] = []
        for step in steps:
            if isinstance(step, Kernel) and not step.into_existing:
                arrays = [a for a in step.operands if type(a) in MODULES]
                if step.primitive.constant or (
                    arrays
                    and all(id(a) in fixed for a in arrays)
                    and root_of(step.out) not in written
                ):
                    fixed.add(id(step.out))
                    self.places[id(step.out)] = step.out
                    if step.primitive.constant and root_of(step.out) in written:
                        kept.append(step)
                    continue
            kept.append(step)
        return kept

    def _last_uses(self, steps: list[Step]) -> dict[int, int]:
        """The position after which the memory of each array is free; outputs and gradients
        never."""
        last: dict[int, int] = {}
        for position, step in enumerate(steps):
            if isinstance(step, Kernel):
                for array in (*step.operands, step.out):
                    if type(array) in MODULES:
                        last[root_of(array)] = position
            elif isinstance(step, Draw):
                last[root_of(step.out)] = position
        never = len(steps)
        for array in (*self.outputs, *self.record.gradients.values()):
            if array is not None:
                last[root_of(array)] = never
        for step in steps:
            if isinstance(step, Live):
                for array in (step.result, *(a for _, a in step.gradients)):
                    if array is not None:
                        last[root_of(array)] = never
        return last

    # --- the program ------------------------------------------------------------------------------

    def _generated(self, steps: list[Step]) -> Callable[..., tuple[Array, ...]]:
        """Compiles the program: `run(x0, x1, …)` returns the output arrays."""
        try:
            self.tiling = Tiling(self, steps)
        except NotRowWise as reason:
            self.tiling, self.why_not_tiled = None, str(reason)
            program = self._lines(steps, self._last_uses(steps))
        else:
            last = self._last_uses([*self.tiling.before, *self.tiling.after])
            for kernel, _ in self.tiling.within:  # what it reads and makes stays until its end
                for array in (*kernel.operands, kernel.out):
                    if type(array) in MODULES:
                        last[root_of(array)] = len(steps)
            program = self._lines(self.tiling.before, last)
            program += self.tiling.lines()
            program += self._lines(self.tiling.after, last)
            self.targets = [(self.array_name(a), i) for a, i in self.tiling.counted()]
        results = ", ".join(self.array_name(a) for a in self.outputs)
        two_phases = any(isinstance(step, HandOver) for step in steps)
        arguments = ", ".join(f"x{i}" for i in range(len(self.record.inputs) - two_phases))
        end = f"({results}{',' if results else ''})"
        end = f"yield {end}[1:]" if two_phases else f"return {end}"
        body = "\n    ".join([*program, end])
        self.source = f"def run({arguments}):\n    {body}\n"
        return self._built(self.source)

    def _built(self, source: str) -> Callable[..., Any]:
        exec(compile(source, "<compiled step>", "exec"), self.constants)
        return self.constants.pop("run")  # type: ignore[no-any-return]

    def timed(self) -> Callable[..., Any]:
        """`run` with a stopwatch behind each line, which `explanation` reads."""
        self.constants["clock"], self.constants["times"] = time.perf_counter, self.times
        head, *body = self.source.splitlines()
        watched = [head, "    times.clear()", "    times.append((None, clock()))"]
        for line in body:
            watched.append(line)
            text = line.strip()
            if not line.startswith("     ") and not text.startswith(("def ", "return", "yield")):
                watched.append(f"    times.append(({text!r}, clock()))")
        return self._built("\n".join(watched) + "\n")

    def _lines(self, steps: list[Step], last: dict[int, int]) -> list[str]:
        """The lines of steps that are run one after the other."""
        program: list[str] = []
        free: dict[int, list[Array]] = {}
        held: dict[int, Array] = {}  # the block of each root that is in use
        for position, step in enumerate(steps):
            if isinstance(step, Live):
                program += self._live(step)
                continue
            if isinstance(step, HandOver):
                program.append(
                    f"{self.array_name(step.cotangent)} = yield {self.array_name(step.out)}"
                )
                continue
            if isinstance(step, Draw):
                self.places[id(step.out)] = self._block(step.out, free, held)
                program.append(f"{self.constant('draw', step.fill)}({self.array_name(step.out)})")
                continue
            program += self._kernel(step, position, last, free, held)
            for array in (*step.operands, step.out):
                if type(array) in MODULES:
                    root = root_of(array)
                    if last.get(root) == position and root in held:
                        block = held.pop(root)
                        free.setdefault(block.nbytes, []).append(block)
        return program

    def escaping(self) -> set[int]:
        """The memory that leaves the step, or is read by live calls."""
        found = [*self.outputs, *self.record.gradients.values()]
        return {root_of(a) for a in found if a is not None}

    def place_apart(self, array: Array) -> None:
        """Gives an array memory of its own, that is not handed on."""
        self.places[id(array)] = MODULES[type(array)].zeros(array.shape, array.dtype)

    def _kernel(
        self,
        step: Kernel,
        position: int,
        last: dict[int, int],
        free: dict[int, list[Array]],
        held: dict[int, Array],
    ) -> list[str]:
        """The line of one kernel; nothing for a view of memory that stays where it is."""
        primitive, out = step.primitive, step.out
        operands = [a for a in step.operands if type(a) in MODULES]
        shares = not step.into_existing and any(root_of(a) == root_of(out) for a in operands)
        if shares and not any(id(a) in self.moving for a in operands):
            values = [self.place(a) if type(a) in MODULES else a for a in step.operands]
            self.places[id(out)] = primitive.kernel(step.xp, *values, **step.attributes)
            return []
        if (
            primitive is Clone
            and last.get(root_of(operands[0])) == position
            and root_of(operands[0]) == id(operands[0])
            and root_of(operands[0]) in held
        ):
            held[root_of(out)] = held.pop(root_of(operands[0]))
            self.places[id(out)] = self.places[id(operands[0])]
            return []
        given = step.operands
        if (
            not step.promotes
            and issubclass(primitive, BinaryUfunc)
            and operands[0].dtype.kind == "f"
        ):
            given = tuple(constant(operands[0], v) if type(v) in (int, float) else v for v in given)
        names = [self.array_name(a) if type(a) in MODULES else self.value_text(a) for a in given]
        names += [f"{key}={self.value_text(value)}" for key, value in step.attributes.items()]
        function = self._callable(step)
        if function is primitive.kernel and issubclass(primitive, Ufunc | BinaryUfunc):
            function, leading = getattr(step.xp, primitive.ufunc), []  # which needs no module
        else:
            leading = [self.constant("xp", step.xp)]
        kernel = self.constant(primitive.title(), function)
        if shares:
            self.moving.add(id(out))
            self.names[id(out)] = name = f"v{next(self._counter)}"
            text = f"{name} = {kernel}({', '.join([*leading, *names])})"
        else:
            if not step.into_existing:
                if primitive.in_place:
                    self._release(step, position, last, free, held)
                self.places[id(out)] = self._block(out, free, held)
            text = f"{kernel}({', '.join([*leading, *names, 'out=' + self.array_name(out)])})"
        read = sum(a.nbytes for a in operands)
        self.lines[text] = Line(f"{primitive.title()} {tuple(out.shape)}", read + out.nbytes)
        return [text]

    def _callable(self, step: Kernel) -> Callable[..., Any]:
        """The kernel, with the casts that the operands need before it and the result after it."""
        kernel, floating = step.primitive.kernel, step.primitive.promotes == "floating"
        into_other_dtype = step.into_existing and not step.primitive.in_place
        if not step.promotes and not into_other_dtype:
            return kernel

        def cast_around(xp: Any, *operands: Any, out: Array, **attributes: Any) -> None:
            if step.promotes:
                operands = tuple(promote(operands, floating))
            y = kernel(xp, *operands, **attributes)
            xp.copyto(out, y, casting="unsafe")

        return cast_around

    def _live(self, step: Live) -> list[str]:
        """The lines of a live call: the gradients it is to find, the call, and what it returns."""
        lines = []
        for leaf, array in step.gradients:
            slot = self.constant("slot", self._slot(array))
            lines.append(f"{self.constant('leaf', leaf)}._grad = {slot}.tensor")
        call = f"{self.constant('live', step.call)}()"
        if step.result is None:
            return [*lines, call]
        self.places[id(step.result)] = place = step.result.copy()
        copy = self.constant("copy", lambda value: place.__setitem__(..., value._array))
        return [*lines, f"{copy}({call})"]

    # --- memory and names -------------------------------------------------------------------------

    def _block(self, array: Array, free: dict[int, list[Array]], held: dict[int, Array]) -> Array:
        """Memory for an array: a block that is free and of the right size, or a new one."""
        xp = MODULES[type(array)]
        size = max(array.nbytes, 1)
        waiting = free.get(size)
        block = waiting.pop() if waiting else xp.empty(size, "u1")
        if not waiting and not any(block is b for b in self.blocks):
            self.blocks.append(block)
        held[root_of(array)] = block
        # In the order of the recorded array's memory, in which sums were taken.
        order = sorted(range(array.ndim), key=lambda d: -array.strides[d])
        flat = block[: array.nbytes].view(array.dtype)
        ordered = flat.reshape([array.shape[d] for d in order])
        return ordered.transpose([order.index(d) for d in range(array.ndim)])

    def _release(
        self,
        step: Kernel,
        position: int,
        last: dict[int, int],
        free: dict[int, list[Array]],
        held: dict[int, Array],
    ) -> None:
        """Frees an operand that dies here before the output is placed: the kernel may write over
        it."""
        for array in step.operands:
            if type(array) in MODULES and array.shape == step.out.shape:
                root = root_of(array)
                if last.get(root) == position and root in held and root == id(array):
                    block = held.pop(root)
                    free.setdefault(block.nbytes, []).append(block)

    def place(self, array: Array) -> Array:
        """Where the plan keeps an array: in its own memory, or where it was, if from outside."""
        return self.places.get(id(array), array)

    def array_name(self, array: Array) -> str:
        """The name of an array in the program."""
        name = self.names.get(id(array))
        if name is None:
            name = self.names[id(array)] = self.constant("a", self.place(array))
        return name

    def value_text(self, value: Any) -> str:
        """A plain operand or attribute in the program."""
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        return self.constant("c", value)

    def constant(self, prefix: str, value: Any) -> str:
        for name, known in self.constants.items():
            if known is value and name.startswith(prefix):
                return name
        name = f"{prefix}_{next(self._counter)}"
        self.constants[name] = value
        return name

    def _slot(self, array: Array | None) -> Slot:
        """Where the tensor over a gradient's array is, which replays hang on the leaves."""
        if array is None:
            return Slot(None)
        slot = self.slots.get(id(array))
        if slot is None:
            slot = self.slots[id(array)] = Slot(Tensor._wrap(self.place(array)))
        return slot

    def explanation(self, name: str) -> str:
        """The plan in words, after a timed run: each line's time and bytes, and the memory in
        all."""
        rows, kernels = [], 0
        for (_, before), (text, after) in itertools.pairwise(self.times):
            took = f"{(after - before) * 1e6:10.1f} us"
            line = self.lines.get(text or "")
            kernels += line is not None
            if line is not None:
                rows.append(f"{took}{line.bytes:>14,} bytes  {line.text}")
            elif self.tiling is not None and str(text).endswith("(tile)"):
                rows.append(
                    f"{took}  one pass over {self.tiling.rows:,} rows, {self.tiling.tile} at a "
                    f"time: {self.tiling.titles}"
                )
            elif str(text).startswith(("live", "copy", "draw")):
                rows.append(f"{took}  {str(text).split('_')[0]} call")
        own = sum(block.nbytes for block in self.blocks)
        return "\n".join(
            [
                f"plan of {name}: {kernels} kernels",
                *rows,
                f"memory: {own:,} bytes in {len(self.blocks)} blocks, instead of "
                f"{self.recorded_bytes:,}",
            ]
        )

    def cannot_run(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the targets hold an ignored class, which a mean taken tile by tile would
        count."""
        for name, ignored in self.targets:
            array = inputs[int(name[1:])]._array if name[0] == "x" else self.constants[name]
            if (array == ignored).any():
                return True
        return False

    def begin(self) -> None:
        """Before a replay: gradients that somebody has kept become that somebody's own."""
        for leaf, slot in self.gradients:
            kept = slot.tensor
            if kept is None:
                continue
            others = sys.getrefcount(kept) - REFERENCES - (leaf._grad is kept)
            if others > 0:
                slot.tensor = Tensor._wrap(kept._array)
                kept._array = kept._array.copy()

    def end(self) -> None:
        """After a replay: the leaves' gradients are those of the step."""
        for leaf, slot in self.gradients:
            leaf._grad = slot.tensor


class Slot:
    """Holds the tensor of one gradient, so that it can be exchanged."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor | None) -> None:
        self.tensor = tensor


def _references_of_a_slots_tensor() -> int:
    slot = Slot(Tensor(0))
    kept = slot.tensor
    return sys.getrefcount(kept)


REFERENCES = _references_of_a_slots_tensor()
