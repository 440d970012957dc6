"""Gradient graphs: the rules of the primitives, read on symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.backend import Array
from nanotorch.ops import sums
from nanotorch.primitive import (
    ATTRIBUTE,
    INDEX,
    INPUT,
    OUTPUT,
    REST,
    SHAPE,
    SHAPES,
    Elementwise,
    Linear,
    Primitive,
    Traced,
    apply,
)
from nanotorch.sym.expression import Expression
from nanotorch.sym.shapes import Undeclared, Unshaped


class SumLike(Linear):
    """y = x summed over what broadcasting `like` to x's shape repeats"""

    vjp = (lambda g, x: expand_like(g, x), None)

    @staticmethod
    def kernel(xp: Any, x: Array, like: Array, out: Array | None = None) -> Array:
        return ops.broadcasting.SumTo.kernel(xp, x, shape=like.shape, out=out)

    @classmethod
    def title(cls) -> str:
        return "sum_like"


class ExpandLike(Linear):
    """y = x repeated to the shape of `like`"""

    vjp = (lambda g, x: sum_like(g, x), None)

    @staticmethod
    def kernel(xp: Any, x: Array, like: Array, out: Array | None = None) -> Array:
        y = xp.broadcast_to(x, like.shape)
        if out is None:
            return y.copy()
        xp.copyto(out, y)
        return out

    @classmethod
    def title(cls) -> str:
        return "expand_like"


class OnesLike(Elementwise):
    """y = 1 everywhere, in the shape and dtype of x"""

    vjp = (None,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.ones_like(x)

    @classmethod
    def title(cls) -> str:
        return "ones_like"


class Detach(Elementwise):
    """y = x, with no derivative"""

    vjp = (None,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.positive(x, out=out) if x.dtype.kind != "b" else x


class CountOf(Primitive):
    """y = the number of elements of x, as a 0-dim value of its dtype"""

    vjp = (None,)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return xp.asarray(x.size, x.dtype)

    @classmethod
    def title(cls) -> str:
        return "count"


def sum_like(x: Any, like: Any) -> Any:
    """x summed to the shape of `like`, whatever that will be."""
    return apply(SumLike, x, like)


def expand_like(x: Any, like: Any) -> Any:
    """x repeated to the shape of `like`, whatever that will be."""
    return apply(ExpandLike, x, like)


def pull_back(
    output: Expression, nodes: Sequence[Expression], targets: Sequence[Expression], head: Any
) -> dict[Expression, Any]:
    """The cotangents of the targets, from that of the output (1 where `head` is None).

    `nodes` are those of the graph, each after its inputs.
    """
    on_the_way = set(targets)
    for node in nodes:
        if any(x in on_the_way for x in node.symbols()):
            on_the_way.add(node)
    cotangents = {output: apply(OnesLike, output) if head is None else head}
    for node in reversed(nodes):
        if node.primitive is None or node not in on_the_way or node not in cotangents:
            continue
        for index, x in enumerate(node.inputs):
            if isinstance(x, Expression) and x in on_the_way:
                g = cotangent(node, index, cotangents[node])
                if g is not None:
                    cotangents[x] = cotangents[x] + g if x in cotangents else g
    return cotangents


def cotangent(node: Expression, index: int, g: Any) -> Any:
    """The cotangent of one input from that of a node; None where the op has no rule for it."""
    primitive, x = node.op, node.inputs[index]
    place = 0 if primitive.variadic else index
    rule = primitive.vjp[place] if place < len(primitive.vjp) else None
    if rule is None:
        return None
    unshaped = isinstance(x._array, Unshaped)
    whole = issubclass(primitive, (sums.Sum, sums.Mean)) and node.attributes["dim"] is None
    if unshaped and whole:
        g = expand_like(g, x)
        return g if issubclass(primitive, sums.Sum) else g / apply(CountOf, x)
    try:
        values = [
            argument(node, kind, key, index) for kind, key in primitive.arguments[place] or ()
        ]
        g = rule(g, *values)
    except Undeclared as error:
        raise Undeclared(f"grad: the rule of {primitive.title()}: {error}") from None
    if g is None:
        return None
    return fit(g, x, sum(isinstance(v, Traced) for v in node.inputs) > 1)


def argument(node: Expression, kind: int, key: Any, index: int) -> Any:
    """One argument of a rule: an input, the output, an attribute, a shape or a position."""
    if kind == INPUT:
        return node.inputs[key]
    if kind == REST:
        return node.inputs[key:]
    if kind == OUTPUT:
        return node
    if kind == ATTRIBUTE:
        return node.attributes[key]
    if kind == SHAPE:
        return tuple(node.inputs[key].shape)
    if kind == SHAPES:
        return tuple(tuple(getattr(x, "shape", ())) for x in node.inputs)
    assert kind == INDEX
    return index


def fit(g: Any, x: Expression, broadcast: bool) -> Any:
    """The cotangent in the shape and dtype of x: what broadcasting repeated is summed."""
    if isinstance(x._array, Unshaped) or isinstance(g._array, Unshaped):
        return sum_like(g, x) if broadcast else g
    if g._array.shape != x._array.shape:
        g = ops.sum_to(g, x._array.shape)
    return ops.cast(g, x._array.dtype)
