"""A plan's program: a Python function, one line per call, over the arrays of the plan.

Kernels of NumPy are lowered to the calls that they make (`calls_of`), and every value gets its
memory while its line is written.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from nanotorch.backend import HOST, MODULES, Array
from nanotorch.backend.halves import kernel_of
from nanotorch.compile.calls import OUT_FIRST, Call, Choice, Done, Joint, Note, View, calls_of
from nanotorch.compile.chains import arrays_of, is_view
from nanotorch.compile.lines import RANDOM, ROWS, Line, call_name, family_of
from nanotorch.compile.memory import Memory, root_of, same_form
from nanotorch.compile.pieces import Pass, Pieces
from nanotorch.compile.recorder import Draw, Kernel, Live
from nanotorch.compile.source import Source
from nanotorch.ops.casting import Clone
from nanotorch.primitive import run
from nanotorch.tensor import Tensor

# NumPy wants `out` of these by name: a third operand by position might be meant to be compared too.
KEYWORD_ONLY = (HOST.maximum, HOST.minimum)

Recorded = Kernel | Draw | Live
Step = Recorded | Joint | Call | View | Choice | Done | Pass


class Program(Source):
    """What the lines of a program name: arrays in their memory, and constants.

    poisoned: a check of the memory plan. Whatever a line leaves free is filled with NaN at once.
    """

    poisoned: ClassVar[bool] = False

    def __init__(self, inputs: Sequence[Array]) -> None:
        super().__init__()
        self.names: dict[int, str] = {id(a): f"x{i}" for i, a in enumerate(inputs)}
        self.moving: set[int] = set(self.names)  # arrays that are others in every call
        self.memory = Memory()
        self.lines: list[Line] = []  # what the lines of the program do
        self.source: list[str] = []  # the function's head, and its lines
        self.slots: dict[int, Slot] = {}
        self._counter = itertools.count()
        self._fixed: set[int] = set()  # arrays that are the same in every call
        self.own: set[int] = set()  # what the plan has to find memory for
        self.fresh: set[int] = set()  # what is new memory in every call, before its first line

    def forget(self) -> None:
        """Lets go of the arrays of the recording."""
        self.memory.places, self.names, self._constant_names = {}, {}, {}

    def alone(self, calls: Sequence[Step]) -> Callable[..., Any]:
        """A function that makes these calls on the inputs, and nothing else."""
        return self.function(f"run({', '.join(self.names.values())})", self.written(calls), "step")

    def lowered(self, steps: Sequence[Step]) -> list[Step]:
        """The steps with the calls of NumPy that a kernel makes in its place, where they are
        known."""
        found: list[Step] = []
        for step in steps:
            notes = self.notes(step) if isinstance(step, Kernel) else None
            self.own |= {id(k.out) for k in step.within} if isinstance(step, Pass) else set()
            if notes is not None:
                found += self._varying(step, notes)
                continue
            if isinstance(step, Kernel) and not (step.into_existing or step.shares):
                self.own.add(id(step.out))
            found.append(step)
        return found

    def _varying(self, step: Any, notes: list[Note]) -> Iterator[Step]:
        """The notes of a kernel, without calls that make the same temporary at every replay."""
        outside = set(map(root_of, step.arrays))
        writes = Counter(root_of(note.out) for note in notes if isinstance(note, Call))
        for note in notes:
            if isinstance(note, Call):
                root = root_of(note.out)
                if root == root_of(step.out):
                    self.own |= set() if step.into_existing else {id(step.out)}
                elif root not in outside:
                    self.own.add(root)
                    if writes[root] == 1 and note.arrays and self._are_fixed(note.arrays, outside):
                        self._fixed.add(id(note.out))
                        self.memory.places[id(note.out)] = note.out
                        continue
            yield note if isinstance(note, View) else note._replace(kernel=step)
        if any(isinstance(note, Choice) for note in notes):
            yield Done(step)

    def _are_fixed(self, arrays: Sequence[Array], outside: set[int]) -> bool:
        """Whether arrays are the same in every call; what cannot be written to is a constant of a
        kernel, or somebody else's."""
        return all(
            id(a) in self._fixed or not (a.flags.writeable or root_of(a) in outside) for a in arrays
        )

    def notes(self, step: Kernel) -> list[Note] | None:
        """The calls of NumPy that a kernel makes; None where they are not known."""
        primitive = step.primitive
        fits = primitive.in_place if step.into_existing else not step.shares
        if step.xp is not HOST or step.promotes or primitive is Clone or not fits:
            return None
        return calls_of(primitive.kernel, step.operands, step.attributes, step.out)

    def written(self, steps: Sequence[Step], last: dict[int, int] | None = None) -> list[str]:
        """The lines of steps that are run one after the other; `last`: the position after which
        the memory of each root is free, if not that of its last use."""
        program: list[str] = []
        memory, indent = self.memory, ""
        memory.begin(last_uses(steps) if last is None else last)
        for position, step in enumerate(steps):
            memory.line = len(self.lines)
            lines = WRITERS.get(type(step), Program._pass)(self, step, position)
            new = [self._new(a) for a in arrays_of(step) if id(a) in self.fresh]
            program += [indent + line for line in (*new, *lines)]
            if isinstance(step, Choice | Done):
                indent = indent + "    " if isinstance(step, Choice) else ""
            for block in memory.release(arrays_of(step), position):
                if self.poisoned:
                    program.append(f"{indent}{self.constant(block, 'freed')}.fill(255)")
        return program

    # --- one step ---------------------------------------------------------------------------------

    def _call(self, step: Call, position: int) -> list[str]:
        """The line of one call of NumPy."""
        self._make_room(step.out, step.arrays if step.elementwise else [], position)
        single = step.elementwise and step.out.ndim > 0
        name = self.single_text if single else self.value_text
        names = [name(a) for a in step.arguments]
        keywords = [f"{key}={name(value)}" for key, value in step.keywords.items()]
        out, makes = self.array_name(step.out), ""
        if id(step.out) in self.fresh and makes_alike(step):
            self.fresh.discard(id(step.out))
            makes, names = f"{out} = ", [*names, *keywords]
        elif step.function in OUT_FIRST:
            names = [out, *names, *keywords]
        elif step.elementwise and not keywords and step.function not in KEYWORD_ONLY:
            names.append(out)  # by position, which takes less time
        else:
            names += [*keywords, f"out={out}"]
        # NumPy's functions first look for arrays of other kinds; here are none.
        plain = getattr(step.function, "_implementation", step.function)
        function = self.constant(plain, step.name.replace(".", "_"))
        text = f"{makes}{function}({', '.join(names)})"
        if step.kernel is not None:
            self._note(text, step.kernel, [*step.arrays, step.out], step.name)
        return [text]

    def _new(self, array: Array) -> str:
        """The line that makes new memory for an array."""
        self.fresh.discard(id(array))
        form = f"{array.shape}, {self.constant(array.dtype)}"
        return f"{self.array_name(array)} = empty({form})"

    def _pass(self, step: Pass, position: int) -> list[str]:
        """The line that makes the steps of a pass piece by piece."""
        memory = self.memory

        def is_within(array: Array) -> bool:
            known = id(array) in self.moving or id(array) in memory.places
            return not known and id(array) in self.own and memory.last[root_of(array)] == position

        cut = [a for a in step.large if not is_within(a)]
        whole = [a for a in step.whole if id(a) in self.moving]
        for array in (*cut, *step.sums):
            self._make_room(array)
        runs, blocks, largest = {}, [], None
        for height in step.heights:
            steps, others = step.piece(height)
            part = Program([others.get(id(a), a) for a in (*cut, *whole, *step.sums)])
            part.memory.model, largest = largest, largest or part.memory
            part.own = {id(a) for a in others.values() if root_of(a) == id(a)} - part.moving
            for array in step.whole:
                place, form = memory.place(array), others.get(id(array), array)
                if form is not array:
                    place = place.reshape(-1)[:1].reshape(())
                part.memory.places[id(form)] = place
            runs[height] = part.alone(part.lowered(steps))
            blocks += part.memory.blocks
        names = [self.array_name(a) + step.flattened for a in cut]
        names += map(self.array_name, (*whole, *step.sums))
        pieces = Pieces(step, runs, blocks, [others[id(a)] for a in step.sums], len(cut))
        text = f"{self.constant(pieces, 'pieces')}({', '.join(names)})"
        kernels = [one.kernel if isinstance(one, Call) else one for one in step.within]
        within = tuple({id(k): k.primitive.title() for k in kernels}.values())
        form = step.shape, step.large[0].dtype.name, sum(a.nbytes for a in (*cut, *step.sums))
        self.lines.append(Line(text, id(step), step.title, "", step.family, *form, within=within))
        return [text]

    def _joint(self, step: Joint, position: int) -> list[str]:
        """The line of a call in place of several kernels."""
        for out in step.outputs.values():
            self.memory.hold(out)
        values = {**step.operands, **step.outputs, **step.numbers}
        names = [f"{name}={self.value_text(value)}" for name, value in values.items()]
        name = step.call.__name__
        text = f"{self.constant(step.call, name)}({self.constant(step.kernel.xp, 'xp')}, "
        text += f"{', '.join(names)})"
        nbytes = sum(a.nbytes for a in arrays_of(step))
        self.lines.append(Line(text, id(step.kernel), step.title, "", ROWS, bytes=nbytes))
        return [text]

    def _view(self, step: View, position: int) -> list[str]:
        """Nothing for a view of memory that stays where it is; else the line that makes it."""
        if id(step.base) not in self.moving:
            self._make_room(step.base)
            base = self.memory.place(step.base)
            y = step.of(base)
            if self._is_view(y, [base]):
                self.memory.places[id(step.out)] = y
                return []
        self.moving.add(id(step.out))
        self.names[id(step.out)] = name = f"v{next(self._counter)}"
        text = f"{name} = {self.array_name(step.base)}.{step.method}"
        if step.arguments is not None:
            text += f"({', '.join(self.value_text(a) for a in step.arguments)})"
        return [text]

    @staticmethod
    def _is_view(y: Array, operands: Sequence[Any]) -> bool:
        """Whether an array shows memory of operands; a copy has to be made again at each replay."""
        return y.size == 0 or root_of(y) in [root_of(a) for a in operands if type(a) in MODULES]

    def _choice(self, step: Choice, position: int) -> list[str]:
        """The lines that call the kernel as a whole where another value is found."""
        kernel = step.kernel
        self._make_room(kernel.out)
        test = f"if {'not ' if step.outcome else ''}{self.array_name(step.value)}:"
        return [test, *(f"    {line}" for line in self._kernel(kernel, -1, made=True)), "else:"]

    def _make_room(self, out: Array, operands: Sequence[Array] = (), position: int = -1) -> None:
        """Gives what is written for the first time its memory: that of an operand that is not
        needed any more, if one is given."""
        if id(out) in self.memory.places or id(out) not in self.own or id(out) in self.moving:
            return
        for array in operands if out.size > 1 else ():  # a single number is slower in place
            if same_form(array, out) and self.memory.may_take_over(array, out, position):
                self.memory.take_over(array, out)
                return
        self.memory.hold(out)

    def _note(
        self, text: str, step: Kernel, arrays: Sequence[Array], call: str = "", made: bool = False
    ) -> None:
        """What `explain` says of a line: the kernel, or the call, that it stands for."""
        title, family = step.primitive.title(), family_of(step.primitive.__module__)
        shape, kind = arrays[-1].shape, arrays[-1].dtype.name
        form = (shape, kind, sum(a.nbytes for a in arrays), made)
        self.lines.append(Line(text, id(step), title, call, family, *form, where=step.where))

    def _kernel(self, step: Kernel, position: int, made: bool = False) -> list[str]:
        """The line of one kernel; nothing for a view of memory that stays where it is."""
        primitive, out, memory = step.primitive, step.out, self.memory
        operands, shares = step.arrays, is_view(step)
        if shares and not any(id(a) in self.moving for a in operands):
            values = [memory.place(a) if type(a) in MODULES else a for a in step.operands]
            y = primitive.kernel(step.xp, *values, **step.attributes)
            if self._is_view(y, values):
                memory.places[id(out)] = y
                return []
        copies = primitive is Clone and id(out) not in self.moving and same_form(operands[0], out)
        if copies and memory.may_take_over(operands[0], out, position):
            memory.take_over(operands[0], out, same=True)
            return []
        names = [self.value_text(a) for a in step.operands]
        names += [f"{key}={self.value_text(value)}" for key, value in step.attributes.items()]
        names = [self.constant(step.xp, "xp"), *names]
        kernel = self.constant(self._callable(step), primitive.title())
        if shares:
            self.moving.add(id(out))
            self.names[id(out)] = name = f"v{next(self._counter)}"
            text = f"{name} = {kernel}({', '.join(names)})"
        else:
            self._make_room(out, operands if primitive.in_place else (), position)
            text = f"{kernel}({', '.join([*names, 'out=' + self.array_name(out)])})"
        self._note(text, step, [*operands, out], made=made)
        return [text]

    @staticmethod
    def _callable(step: Kernel) -> Callable[..., Any]:
        """The kernel, with the casts that the operands need before it and the result after it."""
        primitive = step.primitive
        if not step.promotes and (primitive.in_place or not step.into_existing):
            return kernel_of(primitive, step.xp, arrays_of(step)[0])

        def cast_around(xp: Any, *operands: Any, out: Array, **attributes: Any) -> None:
            first = next(x for x in operands if type(x) in MODULES)
            xp.copyto(out, run(primitive, first, operands, attributes), casting="unsafe")

        return cast_around

    def _done(self, step: Done, position: int) -> list[str]:
        return ["pass"]

    def _draw(self, step: Draw, position: int) -> list[str]:
        """The line that draws random numbers."""
        self.memory.hold(step.out)
        text = f"{self.constant(step.fill, 'draw')}({self.array_name(step.out)})"
        form = (step.out.shape, step.out.dtype.name, step.out.nbytes)
        self.lines.append(Line(text, id(step), RANDOM, "", RANDOM, *form))
        return [text]

    def _live(self, step: Live, position: int) -> list[str]:
        """The lines of a live call: the gradients it is to find, the call, and what it returns."""
        lines = []
        for leaf, array in step.gradients:
            slot = self.constant(self.slot(array), "slot")
            lines.append(f"{self.constant(leaf, 'leaf')}._grad = {slot}.tensor")
        call = f"{self.constant(step.call, 'live')}()"
        if step.result is not None:
            self.memory.places[id(step.result)] = place = step.result.copy("K")
            copy = self.constant(lambda value: place.__setitem__(..., value._array), "copy")
            call = f"{copy}({call})"
        self.lines.append(Line(call, id(step), call_name(step.call), where=step.where))
        return [*lines, call]

    # --- names ------------------------------------------------------------------------------------

    def array_name(self, array: Array) -> str:
        """The name of an array in the program."""
        name = self.names.get(id(array))
        if name is None:
            name = self.names[id(array)] = self.constant(self.memory.place(array), "a")
        return name

    def value_text(self, value: Any) -> str:
        """An operand or attribute in the program."""
        if type(value) in MODULES:
            return self.array_name(value)
        if type(value) is tuple and any(type(item) in MODULES for item in value):
            return f"({''.join(self.value_text(item) + ', ' for item in value)})"
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        return self.constant(value)

    def single_text(self, value: Any) -> str:
        """An operand; a single element without dimensions, which NumPy need not broadcast."""
        if type(value) is not HOST.ndarray or value.size != 1 or id(value) in self.moving:
            return self.value_text(value)
        return self.constant(self.memory.place(value).reshape(()), "a")

    def slot(self, array: Array | None) -> Slot:
        """Where the tensor over a gradient's array is, which replays hang on the leaves."""
        if array is None:
            return Slot(None)
        slot = self.slots.get(id(array))
        if slot is None:
            slot = self.slots[id(array)] = Slot(Tensor._wrap(self.memory.place(array)))
        return slot


WRITERS: dict[type, Callable[..., list[str]]] = {  # of the lines of a step; else of a pass
    Live: Program._live, Draw: Program._draw, Kernel: Program._kernel, Joint: Program._joint,
    Call: Program._call, View: Program._view, Choice: Program._choice, Done: Program._done,
}  # fmt: skip


def last_uses(steps: Sequence[Step]) -> dict[int, int]:
    """The position of the last step that uses the memory of each root."""
    return {root_of(a): position for position, step in enumerate(steps) for a in arrays_of(step)}


def makes_alike(call: Call) -> bool:
    """Whether a call that is given no memory makes an array like the one it fills; NumPy takes less
    time for that."""
    out = call.out
    if call.function in OUT_FIRST or out.size <= 1 or any(a is out for a in call.arrays):
        return False  # operands of one element lose dimensions
    y = call.function(*call.arguments, **call.keywords)
    return type(y) is HOST.ndarray and same_form(y, out)


class Slot:
    """Holds the tensor of one gradient, so that it can be exchanged."""

    __slots__ = ("owned", "tensor")

    def __init__(self, tensor: Tensor | None, owned: bool = True) -> None:
        self.tensor, self.owned = tensor, owned

    def renew(self) -> None:
        """The tensor becomes that of whoever keeps it, with a copy; here is one over the memory."""
        kept: Any = self.tensor
        self.tensor = Tensor._wrap(kept._array)
        kept._array = kept._array.copy("K")


def _references_of_a_slots_tensor() -> int:
    slot = Slot(Tensor(0))
    return sys.getrefcount(slot.tensor)


REFERENCES = _references_of_a_slots_tensor()
