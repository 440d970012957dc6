"""The operators and methods of tensors: how `x * w`, `x.exp()` and `x += 1` come from the ops.

- A method that computes is the op's function itself, taken from the list in `ops`: `x.exp()` is
  `ops.exp(x)`.
- An operator applies one primitive at once: `x * w` is `x._apply(Mul, (x, w), {})`.
- A method that ends in `_` writes what a primitive computes into the tensor. Every differentiable
  elementwise op without attributes has one: `x.exp_()` is `apply_inplace(Exp, x)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy

from nanotorch import ops
from nanotorch.autograd.engine import apply
from nanotorch.autograd.inplace import apply_inplace, go_on_writing
from nanotorch.autograd.rings import modes
from nanotorch.node import Traced
from nanotorch.primitive import Elementwise, Primitive

Operand = (Traced, int, float, complex, numpy.ndarray, numpy.generic)


def operator(primitive: type[Primitive]) -> Callable[[Any, Any], Any]:
    """The method of a binary operator."""

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, Operand):
            return NotImplemented
        return self._apply(primitive, (self, other), {})

    return method


def reflected(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The method of a binary operator whose left operand is not a tensor."""

    def method(self: Any, other: Any) -> Any:
        return function(other, self) if isinstance(other, Operand) else NotImplemented

    return method


def in_place(
    primitive: type[Primitive], function: Callable[..., Any] | None = None, **fixed: Any
) -> Callable[..., Any]:
    """The method that writes primitive(self, operands) into self; with options, what `function`
    gives."""
    count = len(primitive.input_names) - 1

    def method(self: Any, *operands: Any, **options: Any) -> Any:
        if function is not None and (options or len(operands) != count):
            return ops.in_place(function)(self, *operands, **options)
        return go_on_writing(primitive, (self, *operands), {**fixed, **options}, modes.rings)

    method.__doc__ = f"{primitive.__doc__}, in place."
    return method


def without_attributes(kind: type[Primitive] = Elementwise) -> Iterator[type[Primitive]]:
    """The differentiable elementwise primitives without attributes: a tensor can hold their y."""
    for primitive in kind.__subclasses__():
        if primitive.differentiable and not primitive.kernel.__code__.co_kwonlyargcount:
            yield primitive
        yield from without_attributes(primitive)


def elementwise_in_place() -> dict[str, Callable[..., Any]]:
    """`exp_`, `add_` …: the methods of `ops.METHODS` that are such a primitive's, in place."""
    primitives = {primitive.title(): primitive for primitive in without_attributes()}
    for name in ("logaddexp", "maximum", "minimum"):  # of which PyTorch has none
        del primitives[name]
    return {
        f"{name}_": in_place(primitives[function.__name__], function)
        for name, function in ops.METHODS.items()
        if function.__name__ in primitives and name not in ops.LATER
    }


class Operators(Traced):
    """What a tensor can be asked to compute."""

    _apply = apply

    def _mixes(self) -> bool:
        return any(ring.casts for ring in modes.rings)

    def _apply_inplace(self, primitive: type[Primitive], *operands: Any, **attributes: Any) -> Any:
        return apply_inplace(primitive, self, *operands, **attributes)

    vars().update(ops.METHODS)  # exp, sum, …
    vars().update(ops.casting.CASTS)  # float, half, …
    vars().update(elementwise_in_place())  # exp_, add_, …

    __getitem__ = ops.getitem
    __setitem__ = ops.setitem

    __add__ = __radd__ = operator(ops.arithmetic.Add)
    __sub__, __rsub__ = operator(ops.arithmetic.Sub), operator(ops.arithmetic.Rsub)
    __mul__ = __rmul__ = operator(ops.arithmetic.Mul)
    __truediv__ = operator(ops.arithmetic.Div)
    __rtruediv__ = reflected(lambda a, b: ops.reciprocal(b) * a)
    __floordiv__, __rfloordiv__ = operator(ops.division.FloorDivide), reflected(ops.floor_divide)
    __mod__, __rmod__ = operator(ops.division.Remainder), reflected(ops.remainder)
    __pow__, __rpow__ = ops.power, reflected(ops.power)
    __matmul__, __rmatmul__ = ops.matmul, reflected(ops.matmul)
    __neg__, __abs__, __invert__ = ops.neg, ops.abs, ops.bitwise_not
    __eq__, __ne__ = operator(ops.comparisons.Eq), operator(ops.comparisons.Ne)
    __lt__, __le__ = operator(ops.comparisons.Lt), operator(ops.comparisons.Le)
    __gt__, __ge__ = operator(ops.comparisons.Gt), operator(ops.comparisons.Ge)
    __and__ = __rand__ = operator(ops.comparisons.BitwiseAnd)
    __or__ = __ror__ = operator(ops.comparisons.BitwiseOr)
    __xor__ = __rxor__ = operator(ops.comparisons.BitwiseXor)
    __lshift__, __rlshift__ = operator(ops.comparisons.LeftShift), reflected(ops.bitwise_left_shift)
    __rshift__ = operator(ops.comparisons.RightShift)
    __rrshift__ = reflected(ops.bitwise_right_shift)
    __hash__ = object.__hash__

    def __pos__(self) -> Any:
        return self

    T = property(lambda x: ops.permute(x, range(x.ndim)[::-1]), doc="Dimensions reversed.")
    mT = property(lambda x: ops.transpose(x, -2, -1), doc="The last two dimensions exchanged.")
    H = property(lambda x: ops.t(x).conj(), doc="A matrix transposed and conjugated.")
    real = property(lambda x: ops.FUNCTIONS["real"](x), doc="The real parts.")
    imag = property(lambda x: ops.FUNCTIONS["imag"](x), doc="The imaginary parts.")
    mH = property(lambda x: x.mT.conj(), doc="The last two dimensions exchanged, conjugated.")

    __iadd__, __isub__ = in_place(ops.arithmetic.Add), in_place(ops.arithmetic.Sub)
    __imul__, __itruediv__ = in_place(ops.arithmetic.Mul), in_place(ops.arithmetic.Div)
    __ifloordiv__, __imod__ = in_place(ops.division.FloorDivide), in_place(ops.division.Remainder)
    __iand__, __ior__ = in_place(ops.comparisons.BitwiseAnd), in_place(ops.comparisons.BitwiseOr)
    __ixor__ = in_place(ops.comparisons.BitwiseXor)
    __ilshift__ = in_place(ops.comparisons.LeftShift)
    __irshift__ = in_place(ops.comparisons.RightShift)

    square_ = in_place(ops.powers.Pow, exponent=2)
    copy_, fill_ = in_place(ops.casting.Copy), in_place(ops.casting.Fill)
    zero_, masked_fill_ = in_place(ops.casting.Zero), in_place(ops.comparisons.MaskedFill)

    def add_(self, other: Any, *, alpha: float = 1) -> Any:
        """x + alpha * other, in place."""
        return apply_inplace(ops.arithmetic.Add, self, other if alpha == 1 else other * alpha)

    def sub_(self, other: Any, *, alpha: float = 1) -> Any:
        """x - alpha * other, in place."""
        return apply_inplace(ops.arithmetic.Sub, self, other if alpha == 1 else other * alpha)

    def addcmul_(self, a: Any, b: Any, *, value: float = 1) -> Any:
        """x + value * a * b, in place."""
        return self.add_(ops.pairs.multiple(self, a, b, value))

    def addcdiv_(self, a: Any, b: Any, *, value: float = 1) -> Any:
        """x + value * a / b, in place."""
        return self.add_(a / b, alpha=value)

    def lerp_(self, end: Any, weight: Any) -> Any:
        """x + weight * (end - x), in place."""
        ops.operand_dtypes.alike("lerp", self, end, weight)
        if isinstance(weight, Traced):
            return apply_inplace(ops.pairs.LerpTensor, self, end, weight)
        return apply_inplace(ops.pairs.Lerp, self, end, weight=weight)

    def pow_(self, exponent: Any) -> Any:
        """x ** exponent, in place."""
        if isinstance(exponent, Traced):
            return apply_inplace(ops.powers.PowTensor, self, exponent)
        return apply_inplace(ops.powers.Pow, self, exponent=exponent)

    __ipow__ = pow_

    def clamp_(self: Any, min: Any = None, max: Any = None) -> Any:
        """x held within [min, max], numbers or tensors, in place."""
        simple = self.dtype.is_floating_point and min is not max
        if not simple or isinstance(min, Traced) or isinstance(max, Traced):
            return ops.in_place(ops.clamp)(self, min, max)
        return apply_inplace(ops.elementwise.Clamp, self, low=min, high=max)

    def scatter_(
        self: Any,
        dim: int,
        index: Any,
        src: Any = None,
        *,
        value: Any = None,
        reduce: str | None = None,
    ) -> Any:
        """Writes the elements of `src` (or a number, `value`) at `index` along `dim`.

        `reduce` "add" or "multiply" combines them with what is there.
        """
        if not self.ndim or reduce not in (None, "add") or (src is None) == (value is None):
            y = ops.scatter(self, dim, index, src, value=value, reduce=reduce)
            return apply_inplace(ops.casting.Copy, self, y)
        source, add = value if src is None else src, reduce == "add"
        return apply_inplace(ops.indexing.Scatter, self, index, source, dim=dim, add=add)

    def scatter_add_(self, dim: int, index: Any, src: Any) -> Any:
        """Adds the elements of `src` at `index` along `dim`."""
        return self.scatter_(dim, index, src, reduce="add")

    def index_fill_(self: Any, dim: int, index: Any, value: Any) -> Any:
        """Writes `value`, a number or a 0-dim tensor, into the slices at `index` along `dim`."""
        if not self.ndim:
            return apply_inplace(ops.casting.Copy, self, ops.index_fill(self, dim, index, value))
        mask = ops.indexing.slices_at(self, dim, index)
        return apply_inplace(ops.comparisons.MaskedFill, self, mask, value)

    def index_put_(self, indices: tuple[Any, ...], values: Any, accumulate: bool = False) -> Any:
        """Writes `values` at the index tensors, or adds them there."""
        return apply_inplace(
            ops.indexing.IndexPut, self, values, *indices, accumulate=accumulate,
            key=("index_put",) * len(indices),
        )  # fmt: skip

    def index_add_(self: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
        """Adds the slices of `source`, times alpha, at `index` along `dim`."""
        key = ops.keys.along(ops.shapes.dimension(dim, self.ndim), "index_add")
        value = source if alpha == 1 else source * alpha
        return apply_inplace(ops.indexing.IndexPut, self, value, index, key=key, accumulate=True)
