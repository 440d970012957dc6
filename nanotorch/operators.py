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

from nanotorch import ops, sampling
from nanotorch.autograd.engine import apply
from nanotorch.autograd.inplace import apply_inplace
from nanotorch.autograd.rings import modes
from nanotorch.node import Traced
from nanotorch.ops import (
    arithmetic,
    casting,
    comparisons,
    division,
    elementwise,
    indexing,
    pairs,
    powers,
)  # fmt: skip
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


def in_place(primitive: type[Primitive], **fixed: Any) -> Callable[..., Any]:
    """The method that writes primitive(self, operands) into self."""

    def method(self: Any, *operands: Any, **attributes: Any) -> Any:
        return apply_inplace(primitive, self, *operands, **fixed, **attributes)

    method.__doc__ = f"{primitive.__doc__}, in place."
    return method


IN_PLACE = ops.METHODS.keys() - {"logaddexp", "maximum", "minimum"}  # which PyTorch lacks


def elementwise_in_place(kind: type[Primitive] = Elementwise) -> Iterator[tuple[str, Any]]:
    """("exp_", its method), … for the elementwise methods that a tensor's dtype can hold."""
    for primitive in kind.__subclasses__():
        attributes, name = primitive.kernel.__code__.co_kwonlyargcount, primitive.title()
        if primitive.differentiable and not attributes and name in IN_PLACE:
            yield f"{name}_", in_place(primitive)
        yield from elementwise_in_place(primitive)


class Operators(Traced):
    """What a tensor can be asked to compute."""

    _apply = apply

    def _mixes(self) -> bool:
        return any(ring.casts for ring in modes.rings)

    def _apply_inplace(self, primitive: type[Primitive], *operands: Any, **attributes: Any) -> Any:
        return apply_inplace(primitive, self, *operands, **attributes)

    vars().update(ops.METHODS)  # exp, sum, …
    vars().update(casting.CASTS)  # float, half, …
    vars().update(elementwise_in_place())  # exp_, add_, …

    __getitem__ = ops.getitem
    __setitem__ = ops.setitem

    __add__ = __radd__ = operator(arithmetic.Add)
    __sub__, __rsub__ = operator(arithmetic.Sub), operator(arithmetic.Rsub)
    __mul__ = __rmul__ = operator(arithmetic.Mul)
    __truediv__ = operator(arithmetic.Div)
    __rtruediv__ = reflected(lambda a, b: ops.reciprocal(b) * a)
    __floordiv__, __rfloordiv__ = operator(division.FloorDivide), reflected(ops.floor_divide)
    __mod__, __rmod__ = operator(division.Remainder), reflected(ops.remainder)
    __pow__, __rpow__ = ops.power, reflected(ops.power)
    __matmul__, __rmatmul__ = ops.matmul, reflected(ops.matmul)
    __neg__, __abs__, __invert__ = ops.neg, ops.abs, ops.bitwise_not
    __eq__, __ne__ = operator(comparisons.Eq), operator(comparisons.Ne)
    __lt__, __le__ = operator(comparisons.Lt), operator(comparisons.Le)
    __gt__, __ge__ = operator(comparisons.Gt), operator(comparisons.Ge)
    __and__ = __rand__ = operator(comparisons.BitwiseAnd)
    __or__ = __ror__ = operator(comparisons.BitwiseOr)
    __xor__ = __rxor__ = operator(comparisons.BitwiseXor)
    __lshift__, __rlshift__ = operator(comparisons.LeftShift), reflected(ops.bitwise_left_shift)
    __rshift__, __rrshift__ = operator(comparisons.RightShift), reflected(ops.bitwise_right_shift)
    __hash__ = object.__hash__

    def __pos__(self) -> Any:
        return self

    T = property(
        lambda x: ops.permute(x, tuple(reversed(range(x.ndim)))), doc="Dimensions reversed."
    )
    mT = property(lambda x: ops.transpose(x, -2, -1), doc="The last two dimensions exchanged.")

    __iadd__, __isub__ = in_place(arithmetic.Add), in_place(arithmetic.Sub)
    __imul__, __itruediv__ = in_place(arithmetic.Mul), in_place(arithmetic.Div)
    __ifloordiv__, __imod__ = in_place(division.FloorDivide), in_place(division.Remainder)
    __iand__, __ior__ = in_place(comparisons.BitwiseAnd), in_place(comparisons.BitwiseOr)
    __ixor__ = in_place(comparisons.BitwiseXor)
    __ilshift__, __irshift__ = in_place(comparisons.LeftShift), in_place(comparisons.RightShift)

    square_ = in_place(powers.Pow, exponent=2)
    copy_, fill_ = in_place(casting.Copy), in_place(casting.Fill)
    zero_, masked_fill_ = in_place(casting.Zero), in_place(comparisons.MaskedFill)

    uniform_, normal_, exponential_ = sampling.uniform_, sampling.normal_, sampling.exponential_
    bernoulli_, random_ = sampling.bernoulli_, sampling.random_
    bernoulli, multinomial = sampling.bernoulli, sampling.multinomial

    def add_(self, other: Any, *, alpha: float = 1) -> Any:
        """x + alpha * other, in place."""
        return apply_inplace(arithmetic.Add, self, other if alpha == 1 else other * alpha)

    def sub_(self, other: Any, *, alpha: float = 1) -> Any:
        """x - alpha * other, in place."""
        return apply_inplace(arithmetic.Sub, self, other if alpha == 1 else other * alpha)

    def addcmul_(self, a: Any, b: Any, *, value: float = 1) -> Any:
        """x + value * a * b, in place."""
        return self.add_(a * b, alpha=value)

    def addcdiv_(self, a: Any, b: Any, *, value: float = 1) -> Any:
        """x + value * a / b, in place."""
        return self.add_(a / b, alpha=value)

    def lerp_(self, end: Any, weight: Any) -> Any:
        """x + weight * (end - x), in place."""
        pairs.same_dtype(self, end, weight)
        if isinstance(weight, Traced):
            return apply_inplace(pairs.LerpTensor, self, end, weight)
        return apply_inplace(pairs.Lerp, self, end, weight=weight)

    def pow_(self, exponent: Any) -> Any:
        """x ** exponent, in place."""
        if isinstance(exponent, Traced):
            return apply_inplace(powers.PowTensor, self, exponent)
        return apply_inplace(powers.Pow, self, exponent=exponent)

    __ipow__ = pow_

    def clamp_(self, min: Any = None, max: Any = None) -> Any:
        """x held within [min, max], numbers, in place."""
        return apply_inplace(elementwise.Clamp, self, low=min, high=max)

    def scatter_(
        self, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None
    ) -> Any:
        """Writes the elements of `src` (or a number, `value`) at `index` along `dim`.

        `reduce` "add" or "multiply" combines them with what is there.
        """
        if not self.ndim or reduce not in (None, "add") or (src is None) == (value is None):
            y = ops.scatter(self, dim, index, src, value=value, reduce=reduce)
            return apply_inplace(casting.Copy, self, y)
        source, add = value if src is None else src, reduce == "add"
        return apply_inplace(indexing.Scatter, self, index, source, dim=dim, add=add)

    def scatter_add_(self, dim: int, index: Any, src: Any) -> Any:
        """Adds the elements of `src` at `index` along `dim`."""
        return self.scatter_(dim, index, src, reduce="add")

    def index_fill_(self: Any, dim: int, index: Any, value: Any) -> Any:
        """Writes `value`, a number or a 0-dim tensor, into the slices at `index` along `dim`."""
        if not self.ndim:
            return apply_inplace(casting.Copy, self, ops.index_fill(self, dim, index, value))
        mask = indexing.slices_at(self, dim, index)
        return apply_inplace(comparisons.MaskedFill, self, mask, value)

    def index_put_(self, indices: tuple[Any, ...], values: Any, accumulate: bool = False) -> Any:
        """Writes `values` at the index tensors, or adds them there."""
        return apply_inplace(
            indexing.IndexPut, self, values, *indices, accumulate=accumulate,
            key=("index_put",) * len(indices),
        )  # fmt: skip

    def index_add_(self: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
        """Adds the slices of `source`, times alpha, at `index` along `dim`."""
        key = ops.keys.along(ops.shapes.dimension(dim, self.ndim), "index_add")
        value = source if alpha == 1 else source * alpha
        return apply_inplace(indexing.IndexPut, self, value, index, key=key, accumulate=True)
