"""What an op is: a class that states its kernel, and the derivative rule of each of its inputs.

    class Mul(Elementwise):
        "y = a * b"
        vjp = (lambda g, b: g * b, lambda g, a: g * a)

        @staticmethod
        def kernel(xp, a, b, out=None):
            return xp.multiply(a, b, out=out)

`kernel` computes y from raw arrays with the array module `xp` (NumPy or CuPy), into `out` where
given. Its positional parameters name the inputs, its keyword-only parameters the attributes.
`vjp` holds one rule per input (None: not
differentiable), and a rule names what it needs: `g`, the cotangent of y; an input; `y`; an
attribute; `x_shape`, the shape of input x; `shapes`, those of all inputs; `index`, its own position
(for ops of any number of inputs, which have one rule for all). What no wanted rule names is not
kept in memory.

Rules are written with operators and op functions, which take raw arrays as well as tensors: on raw
arrays they just run kernels (a plain backward pass), on tensors they are recorded again (higher
derivatives).

An instance of the class is the graph node of one application: `y.grad_fn`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from nanotorch.backend import RAW, Array, promote
from nanotorch.backend.halves import for_rules, kernel_of

Rule = Callable[..., Any]

# How a rule's argument is found in a node: (kind, key).
INPUT, REST, OUTPUT, ATTRIBUTE, SHAPE, SHAPES, INDEX = range(7)


class Traced:
    """What carries a computation, beyond raw numbers: its `_apply` says how a primitive is read.

    Tensors compute and record at once; symbols (`nanotorch.sym`) only record.
    """

    # What the engine asks of a tensor; symbols have none of it, and it does not ask them.
    _array: Any
    _cell: list[int] | None
    _requires_grad: bool
    _node: Any
    _base: Any
    _inference: bool
    _tangent: Any
    _wrap: Any

    def _apply(
        self, primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any]
    ) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be computed with")

    def _mixes(self) -> bool:
        """Whether operands of several dtypes are cast to one before they are computed with."""
        return False


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook out; also a context manager."""

    _next_id = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self.id = next(self._next_id)
        self._hooks = hooks
        hooks[self.id] = hook

    def remove(self) -> None:
        """Takes the hook out; a second call does nothing."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Packed:
    """A value kept through a pair of saved-tensor hooks, and its place in the graph."""

    def __init__(
        self, value: Any, hooks: tuple[Callable[[Any], Any], Callable[[Any], Any]]
    ) -> None:
        pack, self._unpack = hooks
        self._packed = pack(value)
        self._tangent = value._tangent
        self._place = value._node
        if value._requires_grad and value._node is None:
            self._place = Passage(value)

    def unpack(self) -> Any:
        """The tensor that the second hook makes of what the first one returned."""
        value = self._unpack(self._packed)
        if self._place is None and self._tangent is None:
            return value
        placed = value._wrap(value._array)
        placed._node, placed._requires_grad = self._place, self._place is not None
        placed._tangent = self._tangent
        return placed


RELEASED: Any = ("released",)
KEEP_NOTHING: Any = ((), False, False)


class Node:
    """A vertex of the graph that backward walks: where a cotangent comes from and goes to.

    `edges` holds, for each input, the node that made it, or the leaf tensor itself, or None where
    no gradient is wanted. `sequence` counts nodes in the order of their making, so that walking
    from high to low numbers meets every consumer of a value before its producer.
    """

    __slots__ = (
        "__weakref__", "attributes", "dtype", "edges", "hooks", "inputs", "output", "post_hooks",
        "sequence", "shape", "shapes", "trace", "versions",
    )  # fmt: skip

    sequence: int
    edges: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]
    inputs: Any
    output: Any
    shapes: Any
    versions: Any
    hooks: dict[int, Any] | None
    post_hooks: dict[int, Any] | None
    trace: Any

    def name(self) -> str:
        """The name PyTorch gives to this backward function, such as AddBackward0."""
        return type(self).__name__

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        """The cotangents of the inputs, given the cotangent `g` of the output.

        None where no gradient is wanted: where the edge is None or, if `only` is a set, not in it.
        `tensors`: `g` is a tensor, and the rules are to be computed on tensors.
        """
        raise RuntimeError(f"{self.name()} has no rule to walk backward with")

    def release(self) -> None:
        """Lets go of what was kept for the rules."""

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that the edges lead to, each with the number of its output (always 0)."""
        return tuple(
            (edge if edge is None or isinstance(edge, Node) else edge._accumulator(), 0)
            for edge in self.edges
        )

    def register_hook(self, hook: Callable[[Any, Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_inputs, grad_outputs)` after the node's rules; it may return new
        grad_inputs."""
        if self.post_hooks is None:
            self.post_hooks = {}
        return RemovableHandle(self.post_hooks, hook)

    def register_prehook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_outputs)` before the node's rules; it may return new grad_outputs."""

        def on_cotangent(g: Any) -> Any:
            result = hook((g,))
            return result[0] if isinstance(result, tuple) else result

        if self.hooks is None:
            self.hooks = {}
        return RemovableHandle(self.hooks, on_cotangent)

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class Passage(Node):
    """Leads to a leaf from a copy of it."""

    __slots__ = ()

    _numbers = itertools.count(1)

    def __init__(self, leaf: Any) -> None:
        # Nothing but the leaf lies behind it: it comes last, and each has a number of its own.
        self.edges, self.sequence = (leaf,), -next(self._numbers)
        self.shape, self.dtype = leaf._array.shape, leaf._array.dtype
        self.hooks = self.post_hooks = None

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        return (g,)


class Primitive(Node):
    """A differentiable operation y = kernel(inputs; attributes)."""

    __slots__ = ()

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
    among_others: ClassVar[bool] = False  # a view made with others at once: not to be written to
    in_place: ClassVar[bool] = False  # the kernel may write into the memory of its first input
    backward_name: ClassVar[str] = ""

    input_names: ClassVar[tuple[str, ...]] = ()
    variadic: ClassVar[bool] = False  # any number of inputs, alike: one rule for all
    rest: ClassVar[int] = -1  # where inputs of any number begin after named ones
    arguments: ClassVar[tuple[tuple[tuple[int, Any], ...] | None, ...]] = ()
    plans: ClassVar[dict[int, Any]] = {}
    differentiable: ClassVar[int] = 0  # a bit mask of the inputs that have a rule

    @staticmethod
    def kernel(xp: Any, *inputs: Any, **attributes: Any) -> Array:
        raise TypeError("a primitive must define kernel(xp, inputs…, *, attributes…, out=None)")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Read off the code: inspect.signature takes a tenth of the package's whole import.
        code = cls.kernel.__code__
        named, given = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
        inputs = [name for name in code.co_varnames[1:named] if name != "out"]
        many = code.co_varnames[given : given + 1] if code.co_flags & inspect.CO_VARARGS else ()
        cls.rest = len(inputs) if many else -1
        cls.input_names = (*inputs, *many)
        cls.variadic = cls.rest == 0
        cls.backward_name = cls.__dict__.get("backward_name") or f"{cls.__name__}Backward0"
        cls.arguments = tuple(None if rule is None else cls.needs(rule) for rule in cls.vjp)
        cls.plans = {}
        cls.differentiable = sum(1 << i for i, rule in enumerate(cls.vjp) if rule is not None)

    @classmethod
    def needs(cls, rule: Rule) -> tuple[tuple[int, Any], ...]:
        """Where the arguments of a rule after the first come from, read off their names."""
        found: list[tuple[int, Any]] = []
        for name in rule.__code__.co_varnames[1 : rule.__code__.co_argcount]:
            if name in cls.input_names:
                place = cls.input_names.index(name)
                found.append((REST if place == cls.rest else INPUT, place))
            elif name == "y":
                found.append((OUTPUT, None))
            elif name == "index":
                found.append((INDEX, None))
            elif name == "shapes":
                found.append((SHAPES, None))
            elif name.endswith("_shape") and name[:-6] in cls.input_names:
                found.append((SHAPE, cls.input_names.index(name[:-6])))
            else:
                found.append((ATTRIBUTE, name))
        return tuple(found)

    @classmethod
    def plan(cls, wanted: int) -> tuple[tuple[int, ...], bool, bool]:
        """What to keep for the wanted inputs (a bit mask): inputs, the output?, all shapes?"""
        inputs: set[int] = set()
        output = shapes = False
        for index, needed in enumerate(cls.arguments):
            if needed is None or not (cls.variadic or wanted >> index & 1):
                continue
            for kind, key in needed:
                if kind in (INPUT, REST):
                    inputs.add(key)
                output = output or kind == OUTPUT
                shapes = shapes or kind in (SHAPE, SHAPES)
        found = (tuple(sorted(inputs)), output, shapes)
        cls.plans[wanted] = found = KEEP_NOTHING if found == KEEP_NOTHING else found
        return found

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
        rules, arguments, variadic, kept = self.vjp, self.arguments, self.variadic, self.inputs
        prepared = None if tensors or g.itemsize != 2 else for_rules(g, self.promotes)
        if prepared is not None:
            g = prepared(g)
        cotangents: list[Any] = []
        for index, edge in enumerate(self.edges):
            if edge is None or (only is not None and edge not in only):
                cotangents.append(None)
                continue
            position = 0 if variadic else index
            values: list[Any] = []
            for kind, key in arguments[position] or ():
                if kind == INPUT and kept[key] is None:  # an operand that was left out
                    values.append(None)
                elif kind == ATTRIBUTE:
                    values.append(self.attributes[key])
                else:
                    values.append(self.value(kind, key, index, tensors))
            if prepared is not None:
                values = [prepared(value) for value in values]
            cotangents.append(rules[position](g, *values))  # type: ignore[misc]
        return cotangents

    def value(self, kind: int, key: Any, index: int, tensors: bool) -> Any:
        """One argument of a rule, refused if it was changed in place since it was kept."""
        if kind == INPUT:
            kept = self.inputs[key]
            if isinstance(kept, Traced):
                cell, version = kept._cell, self.versions[key]
                if (0 if cell is None else cell[0]) != version:
                    name = self.input_names[min(key, len(self.input_names) - 1)]
                    raise self.changed(f"input {name}", kept._array, cell, version)
            elif isinstance(kept, Packed):
                kept = kept.unpack()
            else:
                return kept
            return kept if tensors else kept._array
        if kind == ATTRIBUTE:
            return self.attributes[key]
        if kind == REST:
            return tuple(self.value(INPUT, i, index, tensors) for i in range(key, len(self.inputs)))
        if kind == OUTPUT:
            array, cell, version, wrap, tangent = self.output
            if isinstance(array, Packed):
                array = array.unpack()._array
            elif cell[0] != version:
                raise self.changed("its output", array, cell, version)
            if not tensors:
                return array
            output = wrap(array)
            output._node, output._requires_grad, output._cell = self, True, cell
            output._tangent = tangent
            return output
        return self.shapes[key] if kind == SHAPE else self.shapes if kind == SHAPES else index

    def changed(self, what: str, array: Array, cell: list[int] | None, version: int) -> Exception:
        """The error for a kept value that was written to since."""
        return RuntimeError(
            f"{self.name()}: {what}, shape {tuple(array.shape)}, is needed for the gradient but "
            "has been modified by an inplace operation: it is at version "
            f"{0 if cell is None else cell[0]}; "
            f"expected version {version} instead"
        )

    def release(self) -> None:
        if self.inputs is not None:
            self.inputs, self.output = RELEASED, None

    # What PyTorch calls the values that a node keeps.
    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors among the values kept for the rules."""
        if self.inputs is RELEASED or self.inputs is None:
            return ()
        return tuple(kept for kept in self.inputs if isinstance(kept, Traced))


class Elementwise(Primitive):
    """Each element of y depends on the elements of the inputs at its own place alone.

    The Jacobian is diagonal, so the forward rule is the reverse rule applied to the tangent.
    """

    __slots__ = ()
    promotes: ClassVar[str | None] = "common"
    moves = "numbers"


class Ufunc(Elementwise):
    """An elementwise op that NumPy and CuPy have as the function of one operand that `ufunc`
    names."""

    __slots__ = ()
    ufunc: ClassVar[str] = ""
    in_place = True

    def __init_subclass__(cls) -> None:
        name = cls.ufunc

        def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
            return getattr(xp, name)(x, out=out)

        cls.kernel = staticmethod(kernel)  # type: ignore[method-assign]
        super().__init_subclass__()


class BinaryUfunc(Elementwise):
    """An elementwise op that NumPy and CuPy have as the function of two operands that `ufunc`
    names."""

    __slots__ = ()
    ufunc: ClassVar[str] = ""
    in_place = True

    def __init_subclass__(cls) -> None:
        name = cls.ufunc

        def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
            return getattr(xp, name)(a, b, out=out)

        cls.kernel = staticmethod(kernel)  # type: ignore[method-assign]
        super().__init_subclass__()


class Linear(Primitive):
    """y is linear in its differentiable inputs taken together: its tangent is y of theirs."""

    __slots__ = ()


class Multilinear(Primitive):
    """y is linear in each differentiable input: its tangent is the sum, over the inputs, of y with
    that input replaced by its tangent."""

    __slots__ = ()


def apply(primitive: type[Primitive], *inputs: Any, **attributes: Any) -> Any:
    """Applies a primitive: every computation passes here.

    The first operand that carries a computation says how it is read (eagerly and recorded for a
    Tensor, symbolically for a symbol). Raw arrays alone just run the kernel.
    """
    for operand in inputs:
        if isinstance(operand, Traced):
            return operand._apply(primitive, inputs, attributes)
    return run(primitive, inputs, attributes)


def run(primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Array:
    """y = kernel(raw arrays)."""
    for operand in inputs:
        xp = RAW.get(type(operand))
        if xp is not None:
            if primitive.promotes:
                cast = promote(inputs, primitive.promotes == "floating", RAW)
                if cast is not inputs:
                    inputs = tuple(cast)
                    operand = next(x for x in inputs if type(x) in RAW)
            return kernel_of(primitive, xp, operand)(xp, *inputs, **attributes)
    kinds = ", ".join(type(operand).__name__ for operand in inputs)
    raise TypeError(
        f"{primitive.__name__.lower()}: expected a Tensor among the operands, got {kinds}"
    )


def function(primitive: type[Primitive]) -> Callable[..., Any]:
    """The function that applies a primitive of one or two inputs and no attributes."""

    def one(x: Any) -> Any:
        return apply(primitive, x)

    def two(a: Any, b: Any) -> Any:
        return apply(primitive, a, b)

    made = one if len(primitive.input_names) == 1 else two
    made.__name__ = made.__qualname__ = primitive.title()
    made.__doc__ = primitive.__doc__
    return made
