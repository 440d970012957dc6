"""Symbols: a computation written down before there are any data.

    a = sym.var("a")
    b = sym.var("b", shape=(3,))
    c = 2 * a + b
    c.eval(a=tensor, b=tensor)

Every operator, method and op function that takes tensors takes symbols, and returns a symbol: the
same primitives, with no kernel run. A tensor that meets a symbol is a constant of the graph.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from nanotorch import ops
from nanotorch.backend import dtype as DType, dtype_of, get_default_device, get_default_dtype
from nanotorch.creation import as_tensor, tensor
from nanotorch.operators import Operators
from nanotorch.ops.indexing import Index
from nanotorch.ops.keys import HERE
from nanotorch.primitive import Primitive, Traced, apply
from nanotorch.sym.expression import Expression
from nanotorch.sym.gradient import Detach, pull_back
from nanotorch.sym.shapes import (
    SymbolWithoutValues,
    Undeclared,
    Unshaped,
    infer,
    numpy_dtype,
)
from nanotorch.sym.text import written_graph
from nanotorch.tensor import Size, Tensor

Shape = tuple[int, ...]


class _Names(threading.local):
    numbers = itertools.count()


_names = _Names()


class NameManager:
    """Within this block, variables without a name are called var0, var1 … afresh."""

    def __enter__(self) -> NameManager:
        self._outer, _names.numbers = _names.numbers, itertools.count()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _names.numbers = self._outer


class Graph:
    """What ends in one symbol or in several: it can be asked, evaluated and rewritten."""

    @property
    def heads(self) -> tuple[Symbol, ...]:
        """The symbols at the end of the graph."""
        raise NotImplementedError

    def nodes(self) -> list[Symbol]:
        """All symbols that the heads are computed from, each after its inputs."""
        order: list[Symbol] = []
        done: set[Symbol] = set()
        stack: list[tuple[Symbol, bool]] = [(head, False) for head in reversed(self.heads)]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order.append(node)
            elif node not in done:
                done.add(node)
                stack.append((node, True))
                stack.extend((x, False) for x in reversed(node.symbols()) if x not in done)
        return list(dict.fromkeys(order))

    def names(self) -> dict[Symbol, str]:
        """The name of each node: a variable's label, an op's title with its number (mul0, add0)."""
        counts: Counter[str] = Counter()
        names = {}
        for node in self.nodes():
            names[node] = node.label or f"{node.title}{counts[node.title]}"
            counts[node.title] += 1
        return names

    def variables(self) -> list[Symbol]:
        """The arguments of the graph, in the order of their first use; their names must differ."""
        variables = [node for node in self.nodes() if node.primitive is None]
        labels = [node.label for node in variables]
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ValueError(f"the graph has two different variables called {twice!r}")
        return variables

    def list_arguments(self) -> list[str]:
        """The names of the variables, in the order of their first use."""
        return [str(node.label) for node in self.variables()]

    def list_outputs(self) -> list[str]:
        """The names of the heads."""
        names = self.names()
        return [names[head] for head in self.heads]

    def get_internals(self) -> Group:
        """All nodes of the graph as outputs, to look at or to evaluate."""
        return Group(self.nodes())

    # --- asking before there are data ------------------------------------------------------------

    def replace(self, replacements: dict[Symbol, Any], op: str) -> dict[Symbol, Any]:
        """For each node what it becomes when some nodes are replaced."""
        names, results = self.names(), dict(replacements)
        for node in self.nodes():
            if node in results:
                continue
            inputs = [results[x] if isinstance(x, Symbol) else x for x in node.inputs]
            if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
                results[node] = node
                continue
            try:
                results[node] = apply(node.op, *inputs, **node.attributes)
            except (RuntimeError, IndexError, TypeError) as error:
                reason = str(error.__cause__ or error)
                operands = ", ".join(
                    described(new, names[old] if isinstance(old, Symbol) else None)
                    for new, old in zip(inputs, node.inputs, strict=True)
                )
                raise type(error)(
                    f"{op}: {names[node]} = {node.title}({operands}): {reason}"
                ) from None
        return results

    def with_declarations(
        self, shapes: dict[str, Any], dtypes: dict[str, Any], op: str
    ) -> dict[Symbol, Any]:
        """For each node the same node with the shapes and dtypes of variables declared."""
        self.check_names({**shapes, **dtypes}, op)
        replacements: dict[Symbol, Any] = {}
        for node in self.variables():
            name = str(node.label)
            shape = shapes.get(name, node.declared_shape)
            kind = dtypes.get(name, node.declared_dtype)
            if shape is not node.declared_shape or kind is not node.declared_dtype:
                replacements[node] = node.variable(name, shape, kind)
        return self.replace(replacements, op)

    def check_names(self, names: Iterable[str], op: str) -> None:
        """TypeError for a name that is no argument of the graph."""
        arguments = self.list_arguments()
        for name in names:
            if name not in arguments:
                raise TypeError(
                    f"{op}: {name!r} is not an argument of the graph, which has "
                    f"{', '.join(arguments)}"
                )

    def declare(self, **shapes: Any) -> Any:
        """The same graph with the shapes of some of its arguments declared."""
        nodes = self.with_declarations(shapes, {}, "declare")
        return self.with_heads([nodes[head] for head in self.heads])

    def with_heads(self, heads: Sequence[Any]) -> Any:
        """A graph of this kind that ends in other symbols."""
        return Group(heads)

    def infer_shape(self, **shapes: Any) -> tuple[list[Shape], list[Shape], list[Shape]]:
        """(argument shapes, output shapes, []) from the arguments' shapes; nothing is computed.

        The third list, of auxiliary states, is MXNet's; there are none here. RuntimeError names the
        op whose inputs do not fit, or the argument whose shape is missing.
        """
        nodes = self.with_declarations(shapes, {}, "infer_shape")
        arguments = [nodes[node] for node in self.variables()]
        missing = [str(x.label) for x in arguments if isinstance(x._array, Unshaped)]
        if missing:
            raise Undeclared(
                f"infer_shape: the shape of {' and of '.join(map(repr, missing))} is not given"
            )
        outputs = [nodes[head] for head in self.heads]
        return [tuple(x.shape) for x in arguments], [tuple(x.shape) for x in outputs], []

    def infer_type(self, **dtypes: Any) -> tuple[list[DType], list[DType], list[DType]]:
        """(argument dtypes, output dtypes, []); an argument not named keeps its declared dtype."""
        nodes = self.with_declarations({}, dtypes, "infer_type")
        arguments = [nodes[node].dtype for node in self.variables()]
        return arguments, [nodes[head].dtype for head in self.heads], []

    # --- computing -------------------------------------------------------------------------------

    def evaluate(self, arguments: dict[str, Any]) -> list[Any]:
        """The values of the heads. What no later node needs is let go of on the way.

        Names that are no arguments are passed over: a gradient may depend on fewer than its graph.
        """
        order, names = self.nodes(), self.names()
        values: dict[Symbol, Any] = {}
        uses = Counter(chain(self.heads, *(node.symbols() for node in order)))
        for node in order:
            if node.primitive is None:
                values[node] = node.value_in(arguments, self)
                continue
            inputs = [values[x] if isinstance(x, Symbol) else x for x in node.inputs]
            try:
                values[node] = apply(node.op, *inputs, **node.attributes)
            except (RuntimeError, IndexError, TypeError) as error:
                raise type(error)(f"eval: {names[node]}: {error}") from None
            for x in node.symbols():
                uses[x] -= 1
                if not uses[x]:
                    del values[x]
        return [values[head] for head in self.heads]

    def bind(self, **values: Any) -> Callable[..., Any]:
        """The graph as a function of the arguments that are not named here."""
        return functools.partial(self.eval, **values)

    def eval(self, **values: Any) -> Any:
        """The values of the heads, from those of the arguments."""
        return tuple(self.evaluate(values))

    def tojson(self) -> str:
        """The graph as JSON text, which `sym.load_json` reads.

        A node has a name and an op ("variable", or the name of a primitive); inputs are numbers of
        nodes or constants. ValueError for an attribute that JSON cannot hold.
        """
        return written_graph(self.nodes(), self.names(), self.heads)

    def debug_str(self) -> str:
        """The graph for reading: one line per node, with its shape where that is known."""
        names = self.names()
        lines = []
        for node in self.nodes():
            if node.primitive is None:
                text = f"{names[node]}: variable"
            else:
                text = f"{names[node]} = {node.title}({', '.join(node.operands(names))})"
            lines.append(text + node.form())
        return "\n".join([*lines, f"outputs: {', '.join(self.list_outputs())}"])


if TYPE_CHECKING:
    SymbolOperators = Operators["Symbol"]  # what computing with symbols gives
else:
    SymbolOperators = Operators


class Symbol(Expression, Graph, SymbolOperators):
    """An expression as the user handles it; the operators, methods and ops of tensors take it."""

    @staticmethod
    def variable(name: str | None, shape: Any, kind: Any) -> Symbol:
        """An argument of graphs."""
        if name is None:
            name = f"var{next(_names.numbers)}"
        numpy_kind = numpy_dtype(kind, get_default_dtype())
        if shape is None:
            array: Any = Unshaped(numpy_kind, (name,))
        else:
            array = SymbolWithoutValues(ops.shapes.sizes((shape,)), numpy_kind)
        symbol = Symbol(None, (), {}, array, name)
        symbol.declared_shape, symbol.declared_dtype = shape, kind
        return symbol

    def _apply(
        self, primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any]
    ) -> Symbol:
        try:
            array = infer(primitive, inputs, attributes)
        except (RuntimeError, IndexError) as error:
            if isinstance(error, Undeclared):
                raise
            operands = ", ".join(described(x) for x in inputs)
            raise type(error)(f"{primitive.title()}({operands}): {error}") from error
        return Symbol(primitive, inputs, attributes, array)

    @property
    def heads(self) -> tuple[Symbol, ...]:
        """Itself."""
        return (self,)

    @property
    def name(self) -> str:
        """A variable's label; an op's title with its number in the graph that ends in it."""
        return self.names()[self]

    def with_heads(self, heads: Sequence[Any]) -> Any:
        return heads[0]

    # --- what a tensor has as well ---------------------------------------------------------------

    @property
    def shape(self) -> Size:
        """The shape, where the shapes of the arguments are declared; else an error names them."""
        return Size(self._array.shape)

    @property
    def ndim(self) -> Any:
        """The number of dimensions, where it is known."""
        return self._array.ndim

    @property
    def dtype(self) -> DType:
        """The dtype: as declared, by default the default dtype."""
        return dtype_of(self._array.dtype)

    def dim(self) -> Any:
        """The number of dimensions, where it is known."""
        return self._array.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one size, where it is known."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of elements, where the shape is known."""
        return self.shape.numel()

    def to(self, kind: DType) -> Symbol:
        """The symbol in another dtype."""
        return ops.cast(self, kind.numpy)  # type: ignore[no-any-return]

    def float(self, memory_format: Any = None) -> Symbol:
        """The symbol as float32."""
        return ops.cast(self, dtype_of("float32").numpy)  # type: ignore[no-any-return]

    @property
    def device(self) -> Any:
        """Where constants for it are put: the default device."""
        return get_default_device()

    def detach(self) -> Symbol:
        """The same value, through which no gradient passes."""
        return apply(Detach, self)  # type: ignore[no-any-return]

    def contiguous(self) -> Symbol:
        """Itself."""
        return self

    def double(self, memory_format: Any = None) -> Symbol:
        """The symbol as float64."""
        return ops.cast(self, dtype_of("float64").numpy)  # type: ignore[no-any-return]

    @staticmethod
    def _wrap(array: Any) -> Tensor:
        return Tensor._wrap(array)  # a rule's constant

    @property
    def _base(self) -> NoReturn:
        raise TypeError(
            f"the symbol {self.name!r} is no tensor: ops take it, and eval(…) makes a tensor of it"
        )

    def __getitem__(self, key: Any) -> Symbol:
        items = [
            tensor(k) if isinstance(k, list) else k
            for k in (key if isinstance(key, tuple) else (key,))
        ]
        indices = [k for k in items if isinstance(k, Traced)]
        if not any(isinstance(k, Symbol) for k in indices):
            return ops.getitem(self, tuple(items))  # type: ignore[no-any-return]
        places = tuple(HERE if isinstance(k, Traced) else k for k in items)
        return apply(Index, self, *indices, key=places)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Symbol]:
        return iter(ops.unbind(self, 0))

    def _no_value(self, *operands: Any, **attributes: Any) -> NoReturn:
        raise TypeError(
            f"the symbol {self.name!r} has no value to decide or convert by; call eval(…) with the "
            "arguments, or choose with nanotorch.where"
        )

    __bool__ = __float__ = __int__ = __index__ = __len__ = item = tolist = numpy = _no_value
    nonzero = _no_value

    def _no_writing(self, *operands: Any, **attributes: Any) -> NoReturn:
        raise TypeError("a symbol is not written to: use the op that returns a new symbol")

    __setitem__ = _no_writing
    __iadd__, __isub__, __imul__ = Operators.__add__, Operators.__sub__, Operators.__mul__
    __itruediv__, __ipow__ = Operators.__truediv__, Operators.__pow__
    __ifloordiv__, __imod__ = Operators.__floordiv__, Operators.__mod__
    __iand__, __ior__, __ixor__ = Operators.__and__, Operators.__or__, Operators.__xor__

    # --- as a graph ------------------------------------------------------------------------------

    def value_in(self, arguments: dict[str, Any], graph: Graph) -> Tensor:
        """This variable's value among the arguments, checked against what was declared of it."""
        name = str(self.label)
        if name not in arguments:
            raise TypeError(
                f"eval: missing argument {name!r}; the graph needs "
                f"{', '.join(graph.list_arguments())}"
            )
        value = as_tensor(arguments[name])
        if self.declared_shape is not None and value.shape != self.shape:
            raise RuntimeError(
                f"eval: {name!r} was declared with shape {tuple(self.shape)}, got "
                f"{tuple(value.shape)}"
            )
        if self.declared_dtype is not None and value.dtype is not self.dtype:
            raise RuntimeError(
                f"eval: {name!r} was declared with dtype {self.dtype}, got {value.dtype}"
            )
        return value

    def eval(self, **values: Any) -> Any:
        """The value, a Tensor, from those of the arguments (Tensors, arrays, numbers or lists).

        Operations on tensors that require grad are recorded as ever. Names that are no arguments
        are passed over. TypeError names a missing argument, RuntimeError the op that failed.
        """
        return self.evaluate(values)[0]

    def grad(self, wanted: Any, head: Any = None) -> Any:
        """The graph of the gradient of this symbol with respect to each of the wanted arguments.

        wanted: names of arguments or symbols of the graph; a list of them gives a list, one gives
        one. head: the cotangent of the output, of its shape; 1 by default, so that the gradient is
        that of the sum of the output's elements. Elementwise graphs and full sums and means need no
        shapes; where a rule needs one that is not declared, the error names the arguments to
        declare.
        """
        several, nodes = isinstance(wanted, list | tuple), self.nodes()
        variables = {node.label: node for node in nodes if node.primitive is None}
        targets = []
        for target in wanted if several else (wanted,):
            if isinstance(target, str) and target not in variables:
                raise ValueError(
                    f"grad: {target!r} is not an argument of the graph, which has "
                    f"{', '.join(self.list_arguments())}"
                )
            symbol = variables[target] if isinstance(target, str) else target
            if not isinstance(symbol, Symbol):
                raise TypeError(f"grad: expected names or Symbols, got {type(symbol).__name__}")
            targets.append(symbol)
        cotangents = pull_back(self, nodes, targets, head)
        gradients = [cotangents[x] if x in cotangents else ops.mul(x, 0) for x in targets]
        return gradients if several else gradients[0]

    def __call__(self, **symbols: Any) -> Symbol:
        """The same computation with other symbols or constants for some arguments."""
        self.check_names(symbols, "call")
        values = {n: x if isinstance(x, Symbol) else as_tensor(x) for n, x in symbols.items()}
        replacements = {x: values[str(x.label)] for x in self.variables() if x.label in values}
        return self.replace(replacements, "call")[self]  # type: ignore[no-any-return]

    def operands(self, names: dict[Symbol, str]) -> list[str]:
        """The inputs and attributes of an op node, as they are printed."""
        inputs = [
            names[x]
            if isinstance(x, Symbol)
            else f"constant{list(x.shape)}"
            if isinstance(x, Tensor)
            else repr(x)
            for x in self.inputs
        ]
        return inputs + [f"{key}={value!r}" for key, value in self.attributes.items()]

    def form(self) -> str:
        """The shape and dtype, as they are printed; nothing where the shape is unknown."""
        if isinstance(self._array, Unshaped):
            return ""
        return f"  {tuple(self._array.shape)} {self.dtype.name}"

    def __repr__(self) -> str:
        return f"<Symbol {self.name}>"


class Group(Graph):
    """Several symbols as one graph of several outputs."""

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        self._heads = tuple(symbols)
        for symbol in self._heads:
            if not isinstance(symbol, Symbol):
                raise TypeError(f"Group: expected Symbols, got {type(symbol).__name__}")
        if not self._heads:
            raise ValueError("Group: expected at least one Symbol")

    @property
    def heads(self) -> tuple[Symbol, ...]:
        """The outputs."""
        return self._heads

    def __len__(self) -> int:
        return len(self._heads)

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self._heads)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            outputs = self.list_outputs()
            if key not in outputs:
                raise KeyError(f"no output called {key!r}; there are {', '.join(outputs)}")
            return self._heads[outputs.index(key)]
        part = self._heads[key]
        return Group(part) if isinstance(key, slice) else part

    def __repr__(self) -> str:
        return f"<Symbol group [{', '.join(self.list_outputs())}]>"


def described(x: Any, label: str | None = None) -> str:
    """An operand in an error message: its name or op, and its shape if that is known."""
    if not isinstance(x, Traced):
        return repr(x)
    if isinstance(x, Symbol):
        label = label or (str(x.label) if x.primitive is None else x.title)
    label = label or "constant"
    return label if isinstance(x._array, Unshaped) else f"{label} {tuple(x._array.shape)}"


def _refuse_writing() -> None:
    for name, method in vars(Operators).items():
        if name.endswith("_") and not name.endswith("__") and callable(method):
            setattr(Symbol, name, Symbol._no_writing)


_refuse_writing()


def var(name: str | None = None, shape: Any = None, dtype: Any = None) -> Symbol:
    """A variable: an argument of graphs. Without a name it is called var0, var1, and so on.

    shape: where it is declared, every shape that depends on it is known while the graph is built.
    dtype: the default dtype if None; where it is declared, values of another dtype are refused.
    """
    return Symbol.variable(name, shape, dtype)
