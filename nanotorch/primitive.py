"""What an op is: a class that states its kernel, and the derivative rule of each of its inputs.

    class Mul(Elementwise):
        "y = a * b"
        vjp = (lambda g, b: g * b, lambda g, a: g * a)

        @staticmethod
        def kernel(xp, a, b, out=None):
            return xp.multiply(a, b, out=out)

`kernel` computes y from raw arrays with the array module `xp` (NumPy or CuPy), into `out` where
given. Its positional parameters name the inputs, its keyword-only parameters the attributes.
`vjp` holds one rule per input (None: not differentiable), and a rule names what it needs: `g`, the
cotangent of y; an input; `y`; an attribute; `x_shape`, the shape of input x; `shapes`, those of all
inputs; `index`, its own position (for ops of any number of inputs, which have one rule for all).
What no wanted rule names is not kept in memory.

Rules are written with operators and op functions, which take raw arrays as well as tensors: on raw
arrays they just run kernels (a plain backward pass), on tensors they are recorded again (higher
derivatives). Both have the same bits, but for a number divided by an input: PyTorch's tensors, and
so ours, round `3 / x` twice, as `reciprocal(x) * 3`, which is to be written in rules.

An instance of the class is the graph node of one application: `y.grad_fn`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from nanotorch.backend import (
    HOST,
    MODULES,
    RAW,
    Array,
    array_module,
    on_device_of,
    promote,
)
from nanotorch.backend.halves import device_rules, for_rules, kernel_of, promoted
from nanotorch.node import RELEASED as RELEASED, Node, Packed, Traced as Traced

Rule = Callable[..., Any]

# How a rule's argument is found in a node: (kind, key).
INPUT, REST, OUTPUT, ATTRIBUTE, SHAPE, SHAPES, INDEX = range(7)
SAVE_NOTHING: Any = ((), False, False)  # no inputs, not the output, no shapes


class Primitive(Node):
    """A differentiable operation y = kernel(inputs; attributes)."""

    vjp: ClassVar[tuple[Rule | None, ...]] = ()
    jvp: ClassVar[tuple[Rule | None, ...] | None] = None
    # "common": inputs are cast to their common dtype; "floating": and integers to the default
    # float.
    promotes: ClassVar[str | None] = None
    constant: ClassVar[bool] = False  # the output depends on the inputs' shapes alone
    # What is moved to the device of the others: nothing, "numbers" (0-dim, of the host), "all".
    moves: ClassVar[str] = ""
    view: ClassVar[bool] = False  # the output shares its input's memory
    repeats: ClassVar[bool] = False  # a view that shows elements several times
    rearranges: ClassVar[bool] = False  # computes nothing: halves need not be widened for it
    exact_numbers: ClassVar[bool] = False  # a number after halves is not rounded to them
    of_one_dtype: ClassVar[bool] = False  # halves are not widened beside another floating dtype
    one_of_several: ClassVar[bool] = False  # a view made with others at once: not to be written to
    in_place: ClassVar[bool] = False  # the kernel may write into the memory of its first input
    on_host: ClassVar[Any] = None  # the function of NumPy that the kernel is, if it is one
    backward_name: ClassVar[str] = ""

    input_names: ClassVar[tuple[str, ...]] = ()
    variadic: ClassVar[bool] = False  # any number of inputs, alike: one rule for all
    rest: ClassVar[int] = -1  # where inputs of any number begin after named ones
    arguments: ClassVar[tuple[tuple[tuple[int, Any], ...] | None, ...]] = ()
    savings: ClassVar[dict[int, Any]] = {}  # what to save for each mask of wanted inputs
    differentiable: ClassVar[int] = 0  # a bit mask of the inputs that have a rule; -1: all

    @staticmethod
    def kernel(xp: Any, *inputs: Any, **attributes: Any) -> Array:
        raise TypeError("a primitive must define kernel(xp, inputs…, *, attributes…, out=None)")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Read off the code: inspect.signature takes a tenth of the package's whole import.
        code = cls.kernel.__code__
        named, last = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
        inputs = [name for name in code.co_varnames[1:named] if name != "out"]
        many = code.co_varnames[last : last + 1] if code.co_flags & inspect.CO_VARARGS else ()
        cls.rest = len(inputs) if many else -1
        cls.input_names = (*inputs, *many)
        cls.variadic = cls.rest == 0
        cls.backward_name = cls.__dict__.get("backward_name") or f"{cls.__name__}Backward0"
        cls.arguments = tuple(None if rule is None else cls.needs(rule) for rule in cls.vjp)
        cls.savings = {}
        bits = sum(1 << i for i, rule in enumerate(cls.vjp) if rule)
        cls.differentiable = -1 if cls.variadic and bits else bits

    @classmethod
    def needs(cls, rule: Rule) -> tuple[tuple[int, Any], ...]:
        """(kind, key) of each argument of a rule after g, read off its name: what `value` takes."""
        places: list[tuple[int, Any]] = []
        for name in rule.__code__.co_varnames[1 : rule.__code__.co_argcount]:
            if name in cls.input_names:
                place = cls.input_names.index(name)
                places.append((REST if place == cls.rest else INPUT, place))
            elif name == "y":
                places.append((OUTPUT, None))
            elif name == "index":
                places.append((INDEX, None))
            elif name == "shapes":
                places.append((SHAPES, None))
            elif name.endswith("_shape") and name[:-6] in cls.input_names:
                places.append((SHAPE, cls.input_names.index(name[:-6])))
            else:
                places.append((ATTRIBUTE, name))
        return tuple(places)

    @classmethod
    def to_save(cls, wanted: int) -> tuple[tuple[int, ...], bool, bool]:
        """What the rules of the wanted inputs (a bit mask) name: inputs, the output?, shapes?"""
        inputs: set[int] = set()
        output = shapes = False
        for index, arguments in enumerate(cls.arguments):
            if arguments is None or not (cls.variadic or wanted >> index & 1):
                continue
            for kind, key in arguments:
                if kind in (INPUT, REST):
                    inputs.add(key)
                output = output or kind == OUTPUT
                shapes = shapes or kind in (SHAPE, SHAPES)
        saving = (tuple(sorted(inputs)), output, shapes)
        cls.savings[wanted] = saving = SAVE_NOTHING if saving == SAVE_NOTHING else saving
        return saving

    @classmethod
    def title(cls) -> str:
        """The op's name in error messages."""
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)
        return words.removeprefix("_")

    @classmethod
    def depends_on_values(cls, inputs: tuple[Any, ...]) -> bool:
        """Whether the shape of the output depends on the inputs' values."""
        return False

    def name(self) -> str:
        return self.backward_name

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        if self.inputs is RELEASED:
            raise RuntimeError(
                f"{self.name()}: trying to backward through the graph a second time, but what it "
                "kept for that was freed; pass retain_graph=True to the first backward"
            )
        arguments, variadic, saved = self.arguments, self.variadic, self.inputs
        on_host = tensors or RAW.get(type(g)) is HOST
        rules = self.vjp if on_host else device_rules(self)
        widen = None if tensors or g.itemsize != 2 else for_rules(g, self.promotes)
        g = widen(g) if widen else g
        # Rules multiply by slopes; of complex results, their conjugates are due.
        turned = self.dtype.kind == "c"
        g = g.conj() if turned else g
        cotangents: list[Any] = [None] * len(self.edges)
        for index, edge in enumerate(self.edges):
            if edge is None or (only is not None and edge not in only):
                continue
            position = 0 if variadic else index
            values: list[Any] = []
            for kind, key in arguments[position] or ():
                if kind == INPUT and saved[key] is None:  # an operand that was left out
                    values.append(None)
                elif kind == ATTRIBUTE:
                    values.append(self.attributes[key])
                else:
                    values.append(self.value(kind, key, index, tensors))
            values = [widen(value) for value in values] if widen else values
            cotangents[index] = rules[position](g, *values)  # type: ignore[misc]
        if turned:
            return [c if c is None else c.conj() for c in cotangents]
        return cotangents

    def value(self, kind: int, key: Any, index: int, tensors: bool) -> Any:
        """One argument of a rule; refuses a saved value that was changed in place since."""
        if kind == INPUT:
            x = self.inputs[key]
            if isinstance(x, Traced):
                cell = x._cell
                if cell is not None and cell[0] != self.versions[key]:
                    name = self.input_names[min(key, len(self.input_names) - 1)]
                    raise self.changed(f"input {name}", x._array, cell, self.versions[key])
            elif isinstance(x, Packed):
                x = x.unpack()
            else:
                return x
            array = x if tensors else x._array
            return array if tensors or array.dtype is self.dtype else promoted(array, self)
        if kind == REST:
            return tuple(self.value(INPUT, i, index, tensors) for i in range(key, len(self.inputs)))
        if kind == OUTPUT:
            array, cell, version, wrap, companion = self.output
            if isinstance(array, Packed):
                array = array.unpack()._array
            elif cell[0] != version:
                raise self.changed("its output", array, cell, version)
            if not tensors:
                return array
            output = wrap(array)
            output._node, output._requires_grad, output._cell = self, True, cell
            output._companion = companion
            return output
        return self.shapes[key] if kind == SHAPE else self.shapes if kind == SHAPES else index

    def changed(self, what: str, array: Array, cell: list[int], version: int) -> Exception:
        """The error for a saved value that was written to since."""
        return RuntimeError(
            f"{self.name()}: {what}, shape {tuple(array.shape)}, is needed for the gradient but "
            "has been modified by an inplace operation: it is at version "
            f"{cell[0]}; expected version {version} instead"
        )

    def release(self) -> None:
        if self.inputs is not None:
            self.inputs, self.output = RELEASED, None

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors among the values saved for the rules."""
        if self.inputs is RELEASED or self.inputs is None:
            return ()
        return tuple(x for x in self.inputs if isinstance(x, Traced))


class Elementwise(Primitive):
    """Each element of y depends on the elements of the inputs at its own place alone.

    The Jacobian is diagonal, so the forward rule is the reverse rule applied to the tangent.
    """

    promotes: ClassVar[str | None] = "common"
    moves = "numbers"


class Ufunc(Elementwise):
    """An elementwise op that NumPy and CuPy have as the function of one or two operands that
    `ufunc` names."""

    ufunc: ClassVar[str] = ""
    in_place = True

    def __init_subclass__(cls) -> None:
        name, cls.on_host = cls.ufunc, getattr(HOST, cls.ufunc)

        def of_one(xp: Any, x: Array, out: Array | None = None) -> Array:
            return getattr(xp, name)(x, out=out)

        def of_two(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
            return getattr(xp, name)(a, b, out=out)

        cls.kernel = staticmethod(of_one if cls.on_host.nin == 1 else of_two)  # type: ignore[method-assign]
        super().__init_subclass__()


class Linear(Primitive):
    """y is linear in its differentiable inputs taken together: its tangent is y of theirs."""


class Multilinear(Primitive):
    """y is linear in each differentiable input: its tangent is the sum, over the inputs, of y with
    that input replaced by its tangent."""


def apply(primitive: type[Primitive], *inputs: Any, **attributes: Any) -> Any:
    """y = primitive(inputs), as the first Traced input computes it: what op functions call.

    A Tensor hands the primitive to the engine, which records it. Of raw arrays alone, as in a
    plain backward pass, just the kernel runs.
    """
    for operand in inputs:
        if isinstance(operand, Traced):
            return operand._apply(primitive, inputs, attributes)
    for operand in inputs:
        xp = RAW.get(type(operand))
        if xp is HOST:
            return run(primitive, operand, inputs, attributes, RAW)
        if xp is not None:
            with on_device_of(operand):
                return run(primitive, operand, inputs, attributes, RAW)
    kinds = ", ".join(type(operand).__name__ for operand in inputs)
    raise TypeError(
        f"{primitive.__name__.lower()}: expected a Tensor among the operands, got {kinds}"
    )


def run(
    primitive: type[Primitive],
    array: Array,
    operands: Sequence[Any],
    attributes: dict[str, Any],
    arrays: dict[type, Any] = MODULES,
) -> Array:
    """y = kernel(operands), cast to their common dtype before if the primitive promotes.

    `array`: the first array among them. `arrays`: the types that count as arrays; NumPy's scalars
    count as Python numbers unless they are among these.
    """
    promotes = primitive.promotes
    if promotes:
        a, b = operands[0], operands[-1]  # of one dtype: known in half the time of `promote`
        alike = a is b or (type(a) is type(b) and a.dtype is b.dtype)
        if not alike or len(operands) > 2 or (promotes == "floating" and a.dtype.kind not in "fV"):
            cast = promote(operands, promotes == "floating", arrays)
            if cast is not operands:
                operands = cast
                array = next(x for x in operands if type(x) in arrays)
    if type(array) is HOST.ndarray and array.itemsize != 2:  # as in most cases: saves calls
        if (on_host := primitive.on_host) is not None:
            return on_host(*operands)
        xp, kernel = HOST, primitive.kernel
    else:
        xp = arrays.get(type(array)) or array_module(array)
        kernel = kernel_of(primitive, xp, array)
    if len(operands) == 1:  # in less time than a call with `*`
        return kernel(xp, operands[0], **attributes) if attributes else kernel(xp, operands[0])
    return kernel(xp, *operands, **attributes) if attributes else kernel(xp, *operands)


def function(primitive: type[Primitive]) -> Callable[..., Any]:
    """The function that applies a primitive of one or two inputs and no attributes."""

    def one(x: Any) -> Any:
        return x._apply(primitive, (x,), {}) if isinstance(x, Traced) else apply(primitive, x)

    def two(a: Any, b: Any) -> Any:
        return a._apply(primitive, (a, b), {}) if isinstance(a, Traced) else apply(primitive, a, b)

    op = one if len(primitive.input_names) == 1 else two
    op.__name__ = op.__qualname__ = primitive.title()
    op.__doc__ = primitive.__doc__
    return op
