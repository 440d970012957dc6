"""What graphs of symbols can be asked: their parts, their shapes, their values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nanotorch.backend import dtype as DType
from nanotorch.primitive import Traced, apply
from nanotorch.sym.shapes import Undeclared, Unshaped, is_symbol
from nanotorch.sym.text import tojson

if TYPE_CHECKING:
    from nanotorch.sym.symbol import Symbol

Shape = tuple[int, ...]


class Graph:
    """What one symbol and a group of symbols have in common: they end a graph."""

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
                stack.extend(
                    (x, False) for x in reversed(node.inputs) if is_symbol(x) and x not in done
                )
        return list(dict.fromkeys(order))

    def names(self) -> dict[Symbol, str]:
        """The name of each node: a variable's own, an op's by its number here (mul0, add0)."""
        counts: dict[str, int] = {}
        found = {}
        for node in self.nodes():
            if node.primitive is None:
                found[node] = str(node.given_name)
                continue
            title = node.primitive.title()
            number = counts.get(title, 0)
            counts[title] = number + 1
            found[node] = node.given_name or f"{title}{number}"
        return found

    def variables(self) -> list[Symbol]:
        """The arguments of the graph, in the order of their first use; their names must differ."""
        found = [node for node in self.nodes() if node.primitive is None]
        names = [node.given_name for node in found]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the graph has two different variables called {twice!r}")
        return found

    def list_arguments(self) -> list[str]:
        """The names of the variables, in the order of their first use."""
        return [str(node.given_name) for node in self.variables()]

    def list_outputs(self) -> list[str]:
        """The names of the heads."""
        names = self.names()
        return [names[head] for head in self.heads]

    def get_internals(self) -> Group:
        """All nodes of the graph as outputs, to look at or to evaluate."""
        return Group(self.nodes())

    # --- asking before there are data ------------------------------------------------------------

    def declared(
        self, shapes: dict[str, Any], dtypes: dict[str, Any], op: str
    ) -> dict[Symbol, Any]:
        """For each node the same node with the shapes and dtypes of variables declared."""
        self.known_names({**shapes, **dtypes}, op)
        replaced: dict[Symbol, Any] = {}
        for node in self.variables():
            name = str(node.given_name)
            shape = shapes.get(name, node.declared_shape)
            kind = dtypes.get(name, node.declared_dtype)
            if shape is not node.declared_shape or kind is not node.declared_dtype:
                replaced[node] = node.variable(name, shape, kind)
        return self.rebuilt(replaced, op)

    def rebuilt(self, replaced: dict[Symbol, Any], op: str) -> dict[Symbol, Any]:
        """For each node what it becomes when some nodes are replaced."""
        names = self.names()
        found = dict(replaced)
        for node in self.nodes():
            if node in found:
                continue
            inputs = [found[x] if is_symbol(x) else x for x in node.inputs]
            if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
                found[node] = node
                continue
            try:
                found[node] = apply(node.op, *inputs, **node.attributes)
            except (RuntimeError, IndexError, TypeError) as error:
                reason = str(error.__cause__ or error)
                shown = ", ".join(told(x, names, found) for x in node.inputs)
                raise type(error)(
                    f"{op}: {names[node]} = {node.title}({shown}): {reason}"
                ) from None
        return found

    def known_names(self, given: Iterable[str], op: str) -> None:
        """TypeError for the name of what is no argument of the graph."""
        arguments = self.list_arguments()
        for name in given:
            if name not in arguments:
                raise TypeError(
                    f"{op}: {name!r} is not an argument of the graph, which has "
                    f"{', '.join(arguments)}"
                )

    def declare(self, **shapes: Any) -> Any:
        """The same graph with the shapes of some of its arguments declared."""
        found = self.declared(shapes, {}, "declare")
        return self.with_heads([found[head] for head in self.heads])

    def with_heads(self, heads: Sequence[Any]) -> Any:
        """A graph of this kind that ends in other symbols."""
        return Group(heads)

    def infer_shape(self, **shapes: Any) -> tuple[list[Shape], list[Shape], list[Shape]]:
        """(argument shapes, output shapes, []) from the arguments' shapes; nothing is computed.

        The third list, of auxiliary states, is MXNet's; there are none here. RuntimeError names the
        op whose inputs do not fit, or the argument whose shape is missing.
        """
        found = self.declared(shapes, {}, "infer_shape")
        arguments = [found[node] for node in self.variables()]
        missing = [str(x.given_name) for x in arguments if isinstance(x._array, Unshaped)]
        if missing:
            raise Undeclared(
                f"infer_shape: the shape of {' and of '.join(map(repr, missing))} is not given"
            )
        outputs = [found[head] for head in self.heads]
        return [tuple(x.shape) for x in arguments], [tuple(x.shape) for x in outputs], []

    def infer_type(self, **dtypes: Any) -> tuple[list[DType], list[DType], list[DType]]:
        """(argument dtypes, output dtypes, []); who is not named has its declared dtype."""
        found = self.declared({}, dtypes, "infer_type")
        arguments = [found[node].dtype for node in self.variables()]
        return arguments, [found[head].dtype for head in self.heads], []

    # --- computing -------------------------------------------------------------------------------

    def evaluated(self, values: dict[str, Any]) -> list[Any]:
        """The values of the heads. What no later node needs is let go of on the way.

        Names that are no arguments are passed over: a gradient may depend on fewer than its graph.
        """
        order, names = self.nodes(), self.names()
        held: dict[Symbol, Any] = {}
        uses: dict[Symbol, int] = {}
        for user in order:
            for x in user.inputs:
                if is_symbol(x):
                    uses[x] = uses.get(x, 0) + 1
        for head in self.heads:
            uses[head] = uses.get(head, 0) + 1
        for node in order:
            if node.primitive is None:
                held[node] = node.bound(values, self)
                continue
            inputs = [held[x] if is_symbol(x) else x for x in node.inputs]
            try:
                held[node] = apply(node.op, *inputs, **node.attributes)
            except (RuntimeError, IndexError, TypeError) as error:
                raise type(error)(f"eval: {names[node]}: {error}") from None
            for x in node.inputs:
                if is_symbol(x):
                    uses[x] -= 1
                    if not uses[x]:
                        del held[x]
        return [held[head] for head in self.heads]

    def bind(self, **values: Any) -> Callable[..., Any]:
        """The graph as a function of its other arguments, these ones being given."""
        return functools.partial(self.eval, **values)

    def eval(self, **values: Any) -> Any:
        """The values of the heads, given those of the arguments."""
        return tuple(self.evaluated(values))

    def tojson(self) -> str:
        """The graph as JSON text, which `sym.load_json` reads."""
        return tojson(self)

    def debug_str(self) -> str:
        """The graph to read: one line per node, with its shape where that is known."""
        names = self.names()
        lines = []
        for node in self.nodes():
            if node.primitive is None:
                text = f"{names[node]}: variable"
            else:
                text = f"{names[node]} = {node.title}({', '.join(node.operands(names))})"
            lines.append(text + node.form())
        return "\n".join([*lines, f"outputs: {', '.join(self.list_outputs())}"])


def told(x: Any, names: dict[Symbol, str], found: dict[Symbol, Any]) -> str:
    """An input of a node in an error message: its name, and its shape if that is known."""
    if is_symbol(x):
        array = found[x]._array
        return names[x] if isinstance(array, Unshaped) else f"{names[x]} {tuple(array.shape)}"
    return f"constant {tuple(x.shape)}" if isinstance(x, Traced) else repr(x)  # type: ignore[attr-defined]


class Group(Graph):
    """Several symbols as one graph of several outputs."""

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        self._heads = tuple(symbols)
        for symbol in self._heads:
            if not is_symbol(symbol):
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
        found = self._heads[key]
        return Group(found) if isinstance(key, slice) else found

    def __repr__(self) -> str:
        return f"<Symbol group [{', '.join(self.list_outputs())}]>"
