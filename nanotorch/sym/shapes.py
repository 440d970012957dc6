"""Shapes and dtypes of symbols, before there are data.

A symbol of known shape has, in place of an array, its shape and dtype. The shape of a result
follows from them: for elementwise ops by broadcasting, for products by the matrix rule, for
reductions by their dimensions, and for all others by running the kernel on one repeated element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

from nanotorch import ops
from nanotorch.backend import Array, array_module, dtype, dtype_of, is_array, promote
from nanotorch.creation import full
from nanotorch.ops import (
    casting,
    comparisons,
    decompositions,
    indexing,
    joining,
    linalg,
    products,
    sums,
)
from nanotorch.ops.activations import LogSoftmax, LogSoftmaxReverse, Softmax, SoftmaxReverse
from nanotorch.ops.class_losses import CrossEntropyReverse, CrossEntropyTerms
from nanotorch.primitive import Elementwise, Primitive, Traced

Shape = tuple[int, ...]

BROADCASTING = (Elementwise, comparisons.Where, comparisons.MaskedFill)
PRODUCTS = (linalg.Dot, linalg.Mv, products.Mm, linalg.Bmm)
OF_FIRST = (  # ops whose result has the shape and dtype of their first input
    *(Softmax, LogSoftmax, SoftmaxReverse, LogSoftmaxReverse),
    *(casting.Clone, casting.Contiguous, casting.Copy, casting.Fill, indexing.IndexPut),
    *(indexing.Scatter, indexing.Flip, indexing.Roll, joining.Tril, joining.Triu, linalg.Inv),
    *(decompositions.Cholesky, linalg.InvEx),
)


class Undeclared(RuntimeError):
    """A shape was asked for that depends on an argument whose shape is not declared."""


class UnknownNumber:
    """The number of dimensions of a symbol of unknown shape: not 0, and nothing more."""

    def __init__(self, owner: Unshaped) -> None:
        self._owner = owner

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return False if other == 0 else self._owner.refuse()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __index__(self) -> int:
        self._owner.refuse()

    __hash__ = None  # type: ignore[assignment]

    def _refuse(self, *other: object) -> NoReturn:
        self._owner.refuse()

    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __add__ = __radd__ = __sub__ = __rsub__ = _refuse
    __mod__ = __rmod__ = _refuse


class Unshaped:
    """Stands for the array of a symbol whose shape is not known; its dtype is."""

    def __init__(self, kind: Any, missing: Sequence[str]) -> None:
        self.dtype = kind  # NumPy's, as an array has it
        self.missing = tuple(missing)

    @property
    def ndim(self) -> Any:
        return UnknownNumber(self)

    @property
    def shape(self) -> NoReturn:
        self.refuse()

    size = flags = shape

    def refuse(self) -> NoReturn:
        """Says which arguments' shapes are missing."""
        if not self.missing:
            raise Undeclared(
                "this needs a shape that depends on the data (of a selection by a mask) and is not "
                "known before there are any"
            )
        names = " and ".join(repr(name) for name in self.missing)
        raise Undeclared(
            f"this needs a shape that depends on {names}, not declared yet: use "
            f"sym.var({self.missing[0]!r}, shape=(…)), or declare(…) on the finished graph"
        )


class SymbolWithoutValues:
    """Stands for the array of a symbol: what an array says of itself, without its values."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Shape, kind: Any) -> None:
        self.shape, self.dtype = shape, kind

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def flags(self) -> Any:
        return CONTIGUOUS

    def __getattr__(self, name: str) -> NoReturn:
        raise TypeError(
            f"a symbol has no values before eval(…), and this op asks for them ({name!r}); its "
            "result depends on the data in a way that a graph cannot hold"
        )

    def array(self) -> Array:
        """One element, repeated with stride 0, for kernels to be tried on."""
        value = 0 if self.dtype.kind in "bui" else 1  # 0 is a valid class or index, log(1) finite
        return ops.expand(full((), value, dtype=dtype_of(self.dtype)), self.shape)._array


CONTIGUOUS = SimpleNamespace(c_contiguous=True)


def has_shape(value: Any) -> bool:
    """Whether an operand is an array, or stands for one of known shape."""
    return isinstance(value, SymbolWithoutValues) or is_array(value)


def one_element(array: Any) -> Any:
    """An array of one element with as many dimensions, on which to try a kernel."""
    if not hasattr(array, "dtype"):
        return array
    rank = 1 if isinstance(array, Unshaped) else array.ndim
    return SymbolWithoutValues((1,) * rank, array.dtype).array()


def infer(primitive: type[Primitive], inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """The stand-in for primitive(inputs); RuntimeError where the inputs' shapes do not fit."""
    arrays = [x._array if isinstance(x, Traced) else x for x in inputs]
    missing = [name for a in arrays if isinstance(a, Unshaped) for name in a.missing]
    selected = primitive is indexing.Index and any(a.dtype.kind == "b" for a in arrays[1:])
    if selected or any(isinstance(a, Unshaped) for a in arrays):
        return Unshaped(result_dtype(primitive, arrays, attributes), list(dict.fromkeys(missing)))
    shapes = [a.shape for a in arrays if has_shape(a)]
    if issubclass(primitive, BROADCASTING):
        return SymbolWithoutValues(
            broadcast_shape(shapes), result_dtype(primitive, arrays, attributes)
        )
    if issubclass(primitive, OF_FIRST):
        return SymbolWithoutValues(shapes[0], arrays[0].dtype)
    if issubclass(primitive, PRODUCTS):
        return SymbolWithoutValues(product_shape(arrays[0].shape, arrays[1].shape), arrays[0].dtype)
    if issubclass(primitive, products.LinearLayer):
        return SymbolWithoutValues(linear_shape(*shapes), arrays[0].dtype)
    if issubclass(primitive, linalg.Solve):
        batch = broadcast_shape([shape[:-2] for shape in shapes])
        return SymbolWithoutValues((*batch, *shapes[1][-2:]), arrays[1].dtype)
    if issubclass(primitive, linalg.DetReverse):
        return SymbolWithoutValues(shapes[1], arrays[1].dtype)
    if {"dim", "keepdim"} <= attributes.keys() and has_shape(arrays[0]):
        kind = result_dtype(primitive, arrays, attributes)
        return SymbolWithoutValues(
            reduced_shape(shapes[0], attributes["dim"], attributes["keepdim"]), kind
        )
    of_samples = "shape" in attributes or primitive in (CrossEntropyTerms, CrossEntropyReverse)
    if attributes.get("reduction") in ("mean", "sum") and not of_samples:
        broadcast_shape(shapes[:1])
        return SymbolWithoutValues((), arrays[0].dtype)
    return run_kernel(primitive, arrays, attributes)


def result_dtype(
    primitive: type[Primitive], arrays: Sequence[Any], attributes: dict[str, Any]
) -> Any:
    """The NumPy dtype of a result: that of the kernel on one element, else the first input's."""
    small = [one_element(a) for a in arrays]
    if issubclass(primitive, BROADCASTING):
        return run_kernel(primitive, small, attributes).dtype
    if {"dim", "keepdim"} <= attributes.keys():
        return run_kernel(primitive, small[:1], {**attributes, "dim": None}).dtype
    return next(a.dtype for a in arrays if hasattr(a, "dtype"))


def run_kernel(
    primitive: type[Primitive], arrays: Sequence[Any], attributes: dict[str, Any]
) -> Array:
    """The shape and dtype that the kernel returns on arrays of one repeated element."""
    arrays = [a.array() if isinstance(a, SymbolWithoutValues) else a for a in arrays]
    if primitive.promotes:
        arrays = promote(arrays, primitive.promotes == "floating")
    module = array_module(next(a for a in arrays if is_array(a)))
    try:
        y = module.asarray(primitive.kernel(module, *arrays, **attributes))
    except (ValueError, IndexError, TypeError) as error:
        raise RuntimeError(str(error)) from None
    return SymbolWithoutValues(y.shape, y.dtype)


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """The common shape of operands: sizes from the right must be equal or 1."""
    rank = max((len(shape) for shape in shapes), default=0)
    sizes = []
    for place in range(-rank, 0):
        column = {shape[place] for shape in shapes if len(shape) >= -place} - {1}
        if len(column) > 1:
            raise RuntimeError(
                f"shapes {' and '.join(str(s) for s in shapes)} cannot be broadcast together: "
                f"{' != '.join(str(n) for n in sorted(column))} at dimension {place}"
            )
        sizes.append(column.pop() if column else 1)
    return tuple(sizes)


def product_shape(a: Shape, b: Shape) -> Shape:
    """The shape of a matrix product."""
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise RuntimeError(f"shapes {a} and {b} cannot be multiplied: {a[-1]} != {inner}")
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else ()
    return (*broadcast_shape([a[:-2], b[:-2]]), *rows, *columns)


def linear_shape(x: Shape, weight: Shape, *bias: Shape) -> Shape:
    """The shape of x @ weight.T + bias."""
    shape = product_shape(x if len(x) > 1 else (1, *x), weight[::-1])
    shape = shape if len(x) > 1 else shape[1:]
    return broadcast_shape([shape, *bias])


def reduced_shape(shape: Shape, dim: sums.Dim, keepdim: bool) -> Shape:
    """The shape without the dimensions that are reduced, or with 1 in their places."""
    lost = sums.dims(shape, dim)
    if keepdim:
        return tuple(1 if d in lost else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in lost)


def numpy_dtype(kind: Any, default: dtype) -> Any:
    """The NumPy dtype that a variable is declared with."""
    return (default if kind is None else dtype_of(kind)).numpy
