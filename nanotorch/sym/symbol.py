"""Symbols: a computation written down before there are any data.

    a = sym.var("a")
    b = sym.var("b", shape=(3,))
    c = 2 * a + b
    c.eval(a=tensor, b=tensor)

Every operator, method and op function that takes tensors takes symbols, and returns a symbol: the
same primitives, with no kernel run. A tensor that meets a symbol is a constant of the graph.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

from nanotorch import ops
from nanotorch.backend import dtype as DType, dtype_of, get_default_device, get_default_dtype
from nanotorch.creation import as_tensor, tensor
from nanotorch.operators import Operators
from nanotorch.ops.indexing import Index
from nanotorch.ops.keys import HERE
from nanotorch.primitive import Primitive, Traced, apply
from nanotorch.sym.gradient import Detach, grad
from nanotorch.sym.graph import Graph
from nanotorch.sym.shapes import (
    SymbolWithoutValues,
    Undeclared,
    Unshaped,
    declared_dtype,
    inferred,
    is_symbol,
)
from nanotorch.tensor import Size, Tensor


class _Names(threading.local):
    numbers = itertools.count()


_names = _Names()


class NameManager:
    """Variables made without a name inside this block are called var0, var1 … afresh."""

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


class Symbol(Graph, Operators):
    """A value to be computed: a variable, or a primitive applied to symbols and constants."""

    _array: Any  # a stand-in without elements of its own; there is no data

    # The operators hand over to the symbol among their operands where they miss a tensor's state.

    def __init__(
        self,
        primitive: type[Primitive] | None,
        inputs: tuple[Any, ...],
        attributes: dict[str, Any],
        array: Any,
        name: str | None = None,
    ) -> None:
        self.primitive = primitive
        self.inputs = inputs
        self.attributes = attributes
        self.given_name = name
        self.declared_shape: Any = None
        self.declared_dtype: Any = None
        self._array = array

    @staticmethod
    def variable(name: str | None, shape: Any, kind: Any) -> Symbol:
        """An argument of graphs."""
        if name is None:
            name = f"var{next(_names.numbers)}"
        numpy_kind = declared_dtype(kind, get_default_dtype())
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
            array = inferred(primitive, inputs, attributes)
        except (RuntimeError, IndexError) as error:
            if isinstance(error, Undeclared):
                raise
            shown = ", ".join(described(x) for x in inputs)
            raise type(error)(f"{primitive.title()}({shown}): {error}") from error
        return Symbol(primitive, inputs, attributes, array)

    @property
    def heads(self) -> tuple[Symbol, ...]:
        """Itself."""
        return (self,)

    @property
    def name(self) -> str:
        """A variable's own name; an op's, numbered in the graph that ends in it."""
        return self.names()[self]

    @property
    def op(self) -> type[Primitive]:
        """The primitive that computes the node."""
        if self.primitive is None:
            raise TypeError(f"{self.given_name!r} is a variable, which nothing computes")
        return self.primitive

    @property
    def title(self) -> str:
        """What the node computes."""
        return "variable" if self.primitive is None else self.primitive.title()

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

    def float(self) -> Symbol:
        """The symbol as float32."""
        return ops.cast(self, dtype_of("float32").numpy)  # type: ignore[no-any-return]

    @property
    def device(self) -> Any:
        """Where constants are put that are made for it: the default device."""
        return get_default_device()

    def detach(self) -> Symbol:
        """The same value, through which no gradient passes."""
        return apply(Detach, self)  # type: ignore[no-any-return]

    def contiguous(self) -> Symbol:
        """Itself."""
        return self

    def double(self) -> Symbol:
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
        if not any(is_symbol(k) for k in indices):
            return ops.getitem(self, tuple(items))  # type: ignore[no-any-return]
        places = tuple(HERE if isinstance(k, Traced) else k for k in items)
        return apply(Index, self, *indices, key=places)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Symbol]:
        return iter(ops.unbind(self, 0))

    def _no_value(self, *operands: Any, **attributes: Any) -> NoReturn:
        raise TypeError(
            f"the symbol {self.name!r} has no value to decide or convert by; give the arguments "
            "with eval(…), or choose with nanotorch.where"
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

    def bound(self, values: dict[str, Any], graph: Graph) -> Tensor:
        """The value given for this variable, checked against what was declared of it."""
        name = str(self.given_name)
        if name not in values:
            raise TypeError(
                f"eval: missing argument {name!r}; the graph needs "
                f"{', '.join(graph.list_arguments())}"
            )
        value = as_tensor(values[name])
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
        """The value, a Tensor, given those of the arguments (Tensors, arrays, numbers or lists).

        Operations on tensors that require grad are recorded as ever. Values for what is no argument
        are passed over. TypeError names a missing argument, RuntimeError the op that failed.
        """
        return self.evaluated(values)[0]

    def grad(self, wanted: Any, head: Any = None) -> Any:
        """The graph of the gradient with respect to arguments of the graph: see `sym.grad`."""
        return grad(self, wanted, head)

    def __call__(self, **symbols: Any) -> Symbol:
        """The same computation with other symbols or constants for some arguments."""
        self.known_names(symbols, "call")
        replaced = {
            v: symbols[str(v.given_name)] for v in self.variables() if v.given_name in symbols
        }
        return self.rebuilt(replaced, "call")[self]  # type: ignore[no-any-return]

    def operands(self, names: dict[Symbol, str]) -> list[str]:
        """The inputs and attributes of an op node, as they are printed."""
        shown = [
            names[x]
            if isinstance(x, Symbol)
            else f"constant{list(x.shape)}"
            if isinstance(x, Tensor)
            else repr(x)
            for x in self.inputs
        ]
        return shown + [f"{key}={value!r}" for key, value in self.attributes.items()]

    def form(self) -> str:
        """The shape and dtype, as they are printed; nothing where the shape is unknown."""
        if isinstance(self._array, Unshaped):
            return ""
        return f"  {tuple(self._array.shape)} {self.dtype.name}"

    def __repr__(self) -> str:
        return f"<Symbol {self.name}>"


def described(x: Any) -> str:
    """An operand in an error message: its name or op, and its shape if that is known."""
    if isinstance(x, Symbol):
        title = str(x.given_name) if x.primitive is None else x.title
        return title if isinstance(x._array, Unshaped) else f"{title} {tuple(x._array.shape)}"
    return f"constant {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)


def _refuse_writing() -> None:
    for name, method in vars(Operators).items():
        if name.endswith("_") and not name.endswith("__") and callable(method):
            setattr(Symbol, name, Symbol._no_writing)


_refuse_writing()


def var(name: str | None = None, shape: Any = None, dtype: Any = None) -> Symbol:
    """A variable: an argument of graphs. Without a name it is called var0, var1, and so on.

    shape: declared, every shape that depends on it is known while the graph is built. dtype: by
    default the default dtype; where it is declared, values of another dtype are refused.
    """
    return Symbol.variable(name, shape, dtype)
