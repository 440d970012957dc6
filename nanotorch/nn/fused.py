"""Primitives that compute at once what small ops could compute one by one.

Their rules run kernels of their own. Where a rule must itself be differentiated, by backward or by
forward mode, the value is computed again from small ops, which have derivatives of any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd import enable_grad, grad
from nanotorch.autograd.grad_mode import modes
from nanotorch.node import RELEASED, Packed
from nanotorch.primitive import INPUT, OUTPUT, Primitive, run


class Recomputed(Primitive):
    """A primitive that computes its output again, from the inputs it saved, where a rule needs what
    was written to since: for PyTorch's rules, which need it not, such a write is no error."""

    __slots__ = ()

    def value(self, kind: int, key: Any, index: int, tensors: bool) -> Any:
        if kind == OUTPUT and not isinstance(self.output[0], Packed):
            _, cell, version, wrap, companion = self.output
            if cell[0] != version:
                arrays = [
                    None if x is None else self.value(INPUT, place, place, False)
                    for place, x in enumerate(self.inputs)
                ]
                y = run(type(self), arrays[0], arrays, self.attributes)
                self.output = (y, [0], 0, wrap, companion)
        return super().value(kind, key, index, tensors)


class Fused(Recomputed):
    """A primitive with one reverse pass for all inputs, and a composition of small ops."""

    __slots__ = ()

    @staticmethod
    def composition(inputs: Any, attributes: dict[str, Any]) -> Any:
        """y from small ops."""
        raise NotImplementedError

    @staticmethod
    def cotangents(
        g: Any, inputs: Any, y: Any, attributes: dict[str, Any], wanted: Sequence[bool]
    ) -> Sequence[Any]:
        """The cotangents of all inputs; those that are not wanted may be anything."""
        raise NotImplementedError

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        if self.inputs is RELEASED:
            return super().pull(g, only, tensors)
        wanted = [e is not None and (only is None or e in only) for e in self.edges]
        inputs: list[Any] = [
            None if x is None else self.value(INPUT, place, place, tensors)
            for place, x in enumerate(self.inputs)
        ]
        carried = [x for x in (g, *inputs) if getattr(x, "_companion", None) is not None]
        if tensors and (modes.grad or carried):
            return self._differentiate(g, inputs, wanted)
        y = self.value(OUTPUT, None, 0, tensors)
        results = self.cotangents(g, inputs, y, self.attributes, wanted)
        return [result if w else None for result, w in zip(results, wanted, strict=True)]

    def _differentiate(self, g: Any, inputs: list[Any], wanted: Sequence[bool]) -> list[Any]:
        """The cotangents of the wanted inputs, by walking the graph of the small ops."""
        recorded = modes.grad
        with enable_grad():
            inputs = [_fresh(x) if w else x for x, w in zip(inputs, wanted, strict=True)]
            y = self.composition(inputs, self.attributes)
            targets = [x for x, w in zip(inputs, wanted, strict=True) if w]
            gradients = iter(grad(y, targets, g, create_graph=recorded, allow_unused=True))
        return [next(gradients) if w else None for w in wanted]


def push(t: Any, index: int, inputs: list[Any], composition: Callable[[list[Any]], Any]) -> Any:
    """The tangent of y where input `index` has tangent t: the derivative of uᵀ J along u."""
    recorded = modes.grad
    with enable_grad():
        inputs[index] = _fresh(inputs[index])
        y = composition(inputs)
        u = ops.zeros_like(y).requires_grad_()
        (product,) = grad(y, inputs[index], u, create_graph=True)
        return grad(product, u, t, create_graph=recorded)[0]


def _fresh(x: Any) -> Any:
    """x as a tensor to differentiate by."""
    return ops.alias(x) if x.requires_grad else x.detach().requires_grad_()
