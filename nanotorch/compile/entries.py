"""One application of a path: how it is known again, and how it is computed then.

An entry is written down when its application runs for the first time, by the engine. The second
time it gets a function of its own, generated from what is known by then: it tests whether the
application is the same one (see `Operand`), calls what the kernel calls, and hands out an `Output`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nanotorch.autograd.engine import go_on, next_sequence
from nanotorch.autograd.errors import KERNEL_ERRORS
from nanotorch.backend import HOST
from nanotorch.backend.silence import NUMPY_ERRORS
from nanotorch.compile.lines import Line, family_of
from nanotorch.compile.memory import root_of
from nanotorch.compile.outputs import Output
from nanotorch.compile.program import Program
from nanotorch.compile.recorder import Kernel, is_promoted
from nanotorch.compile.source import COMMON, Source
from nanotorch.compile.values import identity, is_plain, tests_of
from nanotorch.node import RELEASED, Node, Traced
from nanotorch.ops import arithmetic
from nanotorch.primitive import Primitive, run
from nanotorch.tensor import Tensor

# Primitives whose rules take a number as they take an array of one element.
LIFTING = (arithmetic.Add, arithmetic.Sub, arithmetic.Rsub, arithmetic.Mul, arithmetic.Div)
MOST_BRANCHES = 8  # applications of one form that may follow one another application


class Unknown(Exception):
    """An application that cannot be known again; it is left to the engine."""


class Operand(NamedTuple):
    """Where an input of an application comes from, and what is tested of it.

    kind: "number": a plain value, the same again. "changing": a number of the same type.
    "output": of the entry `value` of the same call. "leaf": a leaf that requires grad; the tensor
    `value` where it was the same one twice. "tensor": any other, of the same form.
    """

    kind: str
    value: Any = None
    form: Any = None  # the tensor's type, and the array's shape, dtype and strides
    array: Any = None  # of a leaf, when it was met first

    @property
    def is_fixed(self) -> bool:
        """Whether it is the same leaf at each call."""
        return self.kind == "leaf" and self.value is not None

    def tests(self, x: str, a: str, tracked: bool, constant: Callable[[Any], str]) -> list[str]:
        """Conditions on the input named x, as source; they give its array the name a."""
        if self.kind == "number":
            return tests_of(x, self.value, constant)
        if self.kind == "changing":
            return [f"type({x}) is {constant(type(self.value))}"]
        if self.kind == "output":
            tests = [f"type({x}) is Output and {x}._entry is {constant(self.value)}"]
            tests.append(f"{x}._run is run")
            if self.value.primitive.view:
                tests.append(f"{x}._seen == {x}._cell[0]")
            return [*tests, f"({a} := {x}._array) is not None"]
        kind, shape, dtype, strides = self.form
        if self.is_fixed:
            array = constant(self.array)
            return [
                f"{x} is {constant(self.value)} and ({a} := {x}._array) is {array}",
                f"{x}._requires_grad and {x}._node is None",
            ]
        tests = [f"type({x}) is {constant(kind)}"]
        if self.kind == "leaf":
            tests.append(f"{x}._requires_grad and {x}._node is None and {x}._base is None")
        elif tracked:
            base = f"((base := {x}._base) is None or not base._requires_grad)"
            plain = f"not {x}._requires_grad and {base}"
            # A tensor that has an array alone has all else by default.
            tests.append(f"(len({x}.__dict__) == 1 or ({plain}))" if kind is Tensor else plain)
        tests.append(f"type({a} := {x}._array) is ndarray and {a}.shape == {constant(shape)}")
        tests.append(f"{a}.dtype is {constant(dtype)} and {a}.strides == {constant(strides)}")
        return tests


@dataclasses.dataclass(eq=False)
class Computation:
    """What computes an output: lines, the constants that they name, and what is said of them."""

    lines: list[str]
    constants: dict[str, Any]
    notes: list[Line]


class Entry:
    """An application of a path, and those that have followed it."""

    def __init__(self, primitive: Any = None, attributes: Any = None) -> None:
        self.primitive, self.attributes = primitive, attributes
        self.before: Entry | None = None
        self.next: dict[Any, list[Entry]] = {}  # by their forms
        self.first: Entry | None = None  # of those, the one that came last
        self.operands: list[Operand] = []
        self.places = 0  # how many with a node the path has, itself included
        self.place = -1  # its number among those; -1 without a node
        self.apply: Callable[..., Any] = self._first
        self.why_eager = ""
        self.grad_off = False  # without a node: whether that is because of no_grad
        self.same: list[tuple[int, int]] = []  # pairs of inputs that are one array
        self.lines: list[Line] = []
        self.layout: list[tuple[str, int, int]] = []  # what of which input lies where in a value
        self.moving_leaves: list[int] = []  # inputs that are leaves, another one at each call
        self.gradients: Any = None  # the program of a backward pass from here; False: none

    # --- the first time ---------------------------------------------------------------------------

    def describe(self, inputs: Any) -> None:
        """Takes note of the inputs, before the engine computes what has not been met at this place
        of a path."""
        try:
            if self.primitive.depends_on_values(inputs):
                raise Unknown("the shape of its output depends on values")
            if not is_plain(tuple(self.attributes.values())):
                raise Unknown("its options are not plain values")
            self.operands = [self._operand(x) for x in inputs]
        except Unknown as reason:
            self._leave(str(reason))

    def _leave(self, reason: str) -> None:
        """Leaves the application to the engine."""
        self.why_eager, self.apply = reason, self._by_engine

    def _by_engine(self, run: Any, inputs: Any, attributes: Any) -> Any:
        return go_on(self.primitive, inputs, attributes, ())

    def _operand(self, x: Any) -> Operand:
        if not isinstance(x, Traced):
            if not is_plain(x) or x != x:
                raise Unknown(f"it takes a {type(x).__name__}")
            return Operand("number", x)
        if not isinstance(x, Tensor) or type(x._array) is not HOST.ndarray:
            raise Unknown("it computes elsewhere than on the CPU")
        array = x._array
        form = (type(x), array.shape, array.dtype, array.strides)
        if type(x) is Output:
            return Operand("output", x._entry, form)
        base = x._base
        if x._requires_grad and x._node is None and base is None:
            return Operand("leaf", x, form, array)
        foreign = x._requires_grad or (base is not None and base._requires_grad)
        return Operand("tensor", foreign, form)

    def finish(self, run: Any, inputs: Any, out: Any) -> Any:
        """Takes note of what the engine made: the output, and its node."""
        if self.why_eager:
            return out
        node, array = out._node, out._array
        if type(array) is not HOST.ndarray or type(out) is not Tensor:
            self._leave("its output is no tensor of the CPU")
            return out
        self.form = (array.shape, array.dtype, bool(array.flags.c_contiguous))
        foreign = any(o.kind == "tensor" and o.value for o in self.operands)
        self.grad_off = node is None and not run.modes["grad"]
        unlike = node is not None and type(node) is not self.primitive
        if unlike or (foreign and (node is not None or self._is_strict)):
            self._leave("it computes with what was not made by this path")
        if self.why_eager or node is None:
            return out
        self.place, self.places = self.places, self.places + 1
        self.edges = [  # for each input the place that it comes from; -1: a leaf; None: no gradient
            None if edge is None else operand.value.place if operand.kind == "output" else -1
            for edge, operand in zip(node.edges, self.operands, strict=True)
        ]
        self.saved = [i for i, x in enumerate(node.inputs or ()) if x is not None]
        self.saves_output = node.output is not None
        self.like = copy.copy(node)  # without what it leads to and has saved
        self.like.edges, self.like.output = (), None
        self.like.inputs = None if node.inputs is None else ()
        out.__class__ = Output
        fields = out.__dict__
        fields["_own_node"] = fields.pop("_node")
        fields["_run"], fields["_entry"] = run, self
        return out

    @property
    def _is_strict(self) -> bool:
        """Whether it matters which inputs require grad."""
        return self.place >= 0 or (bool(self.primitive.vjp) and not self.grad_off)

    def lift(self, inputs: Any) -> bool:
        """Takes numbers that are others now as changing ones; False where they are part of what is
        known of the application."""
        if self.why_eager or self.primitive not in LIFTING or len(inputs) != len(self.operands):
            return False
        for number, (operand, x) in enumerate(zip(self.operands, inputs, strict=True)):
            if operand.kind == "number" and type(x) is type(operand.value) in (int, float):
                self.operands[number] = operand._replace(kind="changing")
                self.apply = self._first
        if self.apply != self._first:
            return False
        below = [self]
        while below:  # whose backward passes hold the number
            entry = below.pop()
            entry.gradients = None
            below += itertools.chain.from_iterable(entry.next.values())
        return True

    # --- the second time --------------------------------------------------------------------------

    def _first(self, run: Any, inputs: Any, attributes: Any) -> Any:
        """Generates the function of the entry, if this is the same application, and calls it."""
        if len(inputs) != len(self.operands):
            return None
        for number, (operand, x) in enumerate(zip(self.operands, inputs, strict=True)):
            if operand.is_fixed and (operand.value is not x or x._array is not operand.array):
                if self.layout:  # which what is left of earlier calls keeps to
                    return None
                self.operands[number] = operand._replace(value=None, array=None)
        if self._built(["return True"], {})(run, inputs, attributes) is None:
            return None
        try:
            self._generate(run, inputs)
        except Exception as error:  # whatever it was: the engine is right
            self._leave(f"no function could be made for it: {error}")
        return self.apply(run, inputs, attributes)

    def _generate(self, run: Any, inputs: Any) -> None:
        arrays = [x._array if isinstance(x, Traced) else x for x in inputs]
        self.same = []
        for second, array in enumerate(arrays):
            first = next(n for n, other in enumerate(arrays) if other is array)
            if first != second and type(array) is HOST.ndarray:
                self.same.append((first, second))
        known, key = run.paths.computations, self._key()
        computation = known.get(key) or self._computation(arrays)
        if key:
            known[key] = self.computation = computation
        self.lines = [line._replace(step=id(self)) for line in computation.notes]
        self.apply = self._built([*computation.lines, *self._handing_out()], computation.constants)

    def _key(self) -> Any:
        """What entries have in common that compute the same in the same way, and so in the same
        memory; None where the memory of a leaf is part of that."""
        if any(operand.is_fixed for operand in self.operands):
            return None
        operands = [
            o.form or (identity(o.value) if o.kind == "number" else type(o.value))
            for o in self.operands
        ]
        attributes = tuple((name, identity(value)) for name, value in self.attributes.items())
        return self.primitive, tuple(operands), tuple(self.same), attributes, self.form

    def _built(self, body: list[str], constants: dict[str, Any]) -> Callable[..., Any]:
        """A function of a run, the inputs and the attributes; None where they are others.

        Its constants are defaults of further arguments, which lie together in memory.
        """
        source = Source({
            **constants, "entry": self, "operation": self.primitive, "shape": self.form[0],
            "dtype": self.form[1],
        })  # fmt: skip
        constant = source.constant
        tests: list[str] = []
        inputs = [f"x{i}" for i in range(len(self.operands))]
        for number, operand in enumerate(self.operands):
            tests += operand.tests(inputs[number], f"a{number}", self._is_strict, constant)
        tests += [f"a{second} is a{first}" for first, second in self.same]
        tests.append(
            f"len(attributes) == {len(self.attributes)}" if self.attributes else "not attributes"
        )
        for key, value in self.attributes.items():
            tests += tests_of(f"attributes[{key!r}]", value, constant)
        if self.place >= 0:
            tests.append("modes['grad'] and modes['saved_hooks'] is None and not modes['anomaly']")
        else:
            tests.append("not modes['inference']")
            if self.grad_off:
                tests.append("not modes['grad']")
            elif self.primitive.vjp:
                tests.append("modes['grad']")
        names = source.constants
        lines = [
            f"def apply(run, inputs, attributes, {', '.join(names)}):",
            "    try:",
            f"        {', '.join(inputs)}, = inputs",
            "    except ValueError:",
            "        return None",
            "    modes = run.modes",
            "    try:",
            f"        if not ({' and '.join(tests)}):",
            "            return None",
            "    except (KeyError, TypeError, ValueError):  # others, or not comparable",
            "        return None",
            *(f"    {line}" for line in body),
        ]
        code = code_of("\n".join(lines) + "\n", f"<compiled {self.primitive.title()}>")
        return types.FunctionType(code, NAMES, "apply", tuple(names.values()))

    def _computation(self, arrays: list[Any]) -> Computation:
        """How y gets its value: by the calls of the kernel, or the kernel as a whole."""
        primitive, (shape, dtype, dense) = self.primitive, self.form
        among = [(n, a) for n, a in enumerate(arrays) if type(a) is HOST.ndarray]
        names = {id(a): f"a{n}" for n, a in reversed(among)}
        texts = "".join(f"{names.get(id(a), f'x{n}')}, " for n, a in enumerate(arrays))
        text = f"y = compute(operation, a{among[0][0]}, ({texts}), attributes)"
        lines = [text, "if type(y) is not ndarray: y = asarray(y)"]
        lines.append("if y.shape != shape or y.dtype is not dtype: return None")
        nbytes = sum(a.nbytes for _, a in among) + dtype.itemsize * math.prod(shape)
        family = family_of(primitive.__module__)
        notes = [Line(text, 0, primitive.title(), "", family, shape, dtype.name, nbytes)]
        made = Computation(lines, {}, notes)
        halves = any(a.dtype.itemsize == 2 for _, a in among)
        if dense and not (primitive.view or halves or is_promoted(primitive, arrays)):
            made = self._lowered(arrays, names) or made
        lines = ["try:", *(f"    {line}" for line in made.lines)]
        made.lines = [*lines, "except KERNEL_ERRORS: return None"]
        return made

    def _lowered(self, arrays: list[Any], names: dict[int, str]) -> Computation | None:
        """The calls that the kernel makes, in memory of their own; None where not known."""
        out = run(
            self.primitive, next(a for a in arrays if id(a) in names), arrays, self.attributes
        )
        out = HOST.asarray(out)
        roots = [root_of(a) for a in arrays if id(a) in names]
        if root_of(out) in roots or any(o.kind == "changing" for o in self.operands):
            return None
        fixed = {id(a) for o, a in zip(self.operands, arrays, strict=True) if o.is_fixed}
        program = Program([])
        program.names = {key: n for key, n in names.items() if key not in fixed} | {id(out): "y"}
        program.moving, program.fresh = set(program.names), {id(out)}
        kernel = Kernel(self.primitive, HOST, tuple(arrays), self.attributes, out, False, False)
        calls = program.lowered([kernel])
        if not calls or calls == [kernel]:
            return None
        lines = program.written(calls)
        program.forget()
        return Computation(lines, program.constants, program.lines)

    def _handing_out(self) -> list[str]:
        """The lines that make the output, and note what its node would keep."""
        primitive = self.primitive
        tracked = self.place >= 0
        lines = [f"out = new({'Output' if tracked else 'Tensor'})", "out._array = y"]
        if primitive.view:
            kinds = [operand.kind for operand in self.operands]
            shown = next(n for n, k in enumerate(kinds) if k not in ("number", "changing"))
            leaf = kinds[shown] == "leaf"
            in_no_grad = not tracked and self.grad_off
            lines.append(f"show(out, x{shown}, {leaf}, operation, attributes, {in_no_grad})")
        if not tracked:
            return [*lines, "return out"]
        lines.append("out._run, out._entry = run, entry")
        parts: list[str] = ["entry", "next_sequence()"]
        self.layout, self.moving_leaves = [], []
        for number, operand in enumerate(self.operands):
            x, a = f"x{number}", f"a{number}"
            saved = number in self.saved
            kind = operand.kind
            moving = kind == "leaf" and operand.value is None and self.edges[number] is not None
            if not (saved or moving):
                continue
            self.layout.append((kind, number, len(parts)))
            if kind in ("number", "changing"):
                parts.append(x)
                continue
            self.moving_leaves += [number] if moving else []
            if kind == "output":
                lines.append(f"if (c{number} := {x}._cell) is None: {x}._cell = c{number} = [0]")
                parts += [a, f"c{number}", f"c{number}[0]"]
            else:
                lines.append(f"c{number} = None")
                lines.append(f"if len({x}.__dict__) > 1:")
                lines.append(f"    if {x}._inference: return None")
                lines.append(f"    c{number} = {x}._cell")
                parts += [x, a, f"0 if c{number} is None else c{number}[0]"]
        if self.saves_output:
            if primitive.view:
                lines.append("c = out._cell")
            else:
                lines.append("out._cell = c = [0]")
            self.layout.append(("result", -1, len(parts)))
            parts += ["y", "c", "c[0]"]
        lines.append(f"run.values.append(({', '.join(parts)}))")
        return [*lines, "return out"]

    # --- its node, when somebody asks for it ------------------------------------------------------

    def released(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        """What is left of a value when a backward pass has used it."""
        places = {number: place for _, number, place in self.layout}
        return (self, value[1], None, {n: value[places[n]] for n in self.moving_leaves})

    def node(self, value: tuple[Any, ...], nodes: Sequence[Node]) -> Node:
        """The node that the engine would have made."""
        node = copy.copy(self.like)
        node.sequence = value[1]
        saved: Any = [None] * len(self.operands) if self.saved else node.inputs
        versions = [0] * len(self.operands)
        leaves = {n: o.value for n, o in enumerate(self.operands) if o.kind == "leaf"}
        released = len(value) == 4 and value[2] is None
        if released:
            leaves |= value[3]
        for kind, number, place in () if released else self.layout:
            if kind == "result":
                y, cell, version = value[place : place + 3]
                node.output = [y, cell, version, Tensor._wrap, None]
            elif kind in ("number", "changing"):
                saved[number] = value[place]
            elif kind == "output":
                array, cell, versions[number] = value[place : place + 3]
                saved[number] = x = Tensor._wrap(array)
                x._cell, x._requires_grad = cell, True
                x._node = nodes[self.operands[number].value.place]
            else:
                if kind == "leaf":
                    leaves[number] = value[place]
                if number in self.saved:
                    saved[number], versions[number] = value[place], value[place + 2]
        node.edges = tuple(
            None if edge is None else nodes[edge] if edge >= 0 else leaves[number]
            for number, edge in enumerate(self.edges)
        )
        node.inputs = RELEASED if released and saved is not None else saved
        node.versions = versions
        return node  # type: ignore[no-any-return]


def show(
    out: Any, x: Any, leaf: bool, primitive: type[Primitive], attributes: Any, in_no_grad: bool
) -> None:
    """Notes that `out` shows memory of x, as the engine does, but asks for no node."""
    cell = x._cell
    if cell is None:
        cell = x._cell = [0]
    out._cell, out._seen = cell, cell[0]
    base = x._base
    step = ((primitive, attributes),)
    out._path = step if base is None or leaf else (*x._path, *step)
    out._base = x if base is None or leaf else base
    out._made_in_no_grad = in_no_grad or x._made_in_no_grad


@functools.lru_cache(1024)
def code_of(source: str, title: str) -> types.CodeType:
    """The code of a function; layers that are alike have the same, with other constants."""
    module = compile(source, title, "exec")
    return next(code for code in module.co_consts if isinstance(code, types.CodeType))


NAMES: dict[str, Any] = {
    **COMMON, "Output": Output, "identity": identity, "next_sequence": next_sequence, "show": show,
    "compute": run, "KERNEL_ERRORS": (*KERNEL_ERRORS, *NUMPY_ERRORS),
}  # fmt: skip
