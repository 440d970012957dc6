"""Gradient graphs: the rules of the primitives, read on symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nanotorch import ops
from nanotorch.backend import Array
from nanotorch.ops import reductions
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
from nanotorch.sym.shapes import Undeclared, Unshaped, is_symbol

if TYPE_CHECKING:
    from nanotorch.sym.symbol import Symbol


class SumLike(Linear):
    """y = x summed over what broadcasting `like` to x's shape repeats"""

    vjp = (lambda g, x: expand_like(g, x), None)

    @staticmethod
    def kernel(xp: Any, x: Array, like: Array, out: Array | None = None) -> Array:
        return ops.regions.SumTo.kernel(xp, x, shape=like.shape, out=out)

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


def grad(output: Symbol, wanted: Any, head: Any = None) -> Any:
    """The graph of the gradient of `output` with respect to each of the wanted arguments.

    wanted: names of arguments or symbols of the graph; a list of them gives a list, one gives one.
    head: the cotangent of the output, of its shape; 1 by default, so that the gradient is that of
    the sum of the output's elements. Elementwise graphs and full sums and means need no shapes;
    where a rule needs one that is not declared, the error names the arguments to declare.
    """
    several = isinstance(wanted, list | tuple)
    nodes = output.nodes()
    by_name = {node.given_name: node for node in nodes if node.primitive is None}
    targets = []
    for target in wanted if several else (wanted,):
        if isinstance(target, str):
            if target not in by_name:
                raise ValueError(
                    f"grad: {target!r} is not an argument of the graph, which has "
                    f"{', '.join(output.list_arguments())}"
                )
            target = by_name[target]
        if not is_symbol(target):
            raise TypeError(f"grad: expected names or Symbols, got {type(target).__name__}")
        targets.append(target)
    found = pulled_back(output, nodes, targets, apply(OnesLike, output) if head is None else head)
    gradients = [found[t] if t in found else ops.mul(t, 0) for t in targets]
    return gradients if several else gradients[0]


def pulled_back(
    output: Symbol, nodes: list[Symbol], targets: Sequence[Symbol], head: Any
) -> dict[Symbol, Any]:
    """The cotangents of the targets, from that of the output."""
    on_the_way = set(targets)
    for node in nodes:
        if any(is_symbol(x) and x in on_the_way for x in node.inputs):
            on_the_way.add(node)
    cotangents: dict[Symbol, Any] = {output: head}
    for node in reversed(nodes):
        if node.primitive is None or node not in on_the_way or node not in cotangents:
            continue
        for index, x in enumerate(node.inputs):
            if is_symbol(x) and x in on_the_way:
                g = cotangent(node, index, cotangents[node])
                if g is not None:
                    cotangents[x] = cotangents[x] + g if x in cotangents else g
    return cotangents


def cotangent(node: Symbol, index: int, g: Any) -> Any:
    """The share of one input in the cotangent of a node; None where the op has no rule for it."""
    primitive, x = node.primitive, node.inputs[index]
    assert primitive is not None
    place = 0 if primitive.variadic else index
    rule = primitive.vjp[place] if place < len(primitive.vjp) else None
    if rule is None:
        return None
    unshaped = isinstance(x._array, Unshaped)
    whole = (
        issubclass(primitive, (reductions.Sum, reductions.Mean)) and node.attributes["dim"] is None
    )
    if unshaped and whole:
        g = expand_like(g, x)
        return g if issubclass(primitive, reductions.Sum) else g / apply(CountOf, x)
    try:
        values = [
            argument(node, kind, key, index) for kind, key in primitive.arguments[place] or ()
        ]
        g = rule(g, *values)
    except Undeclared as error:
        raise Undeclared(f"grad: the rule of {primitive.title()}: {error}") from None
    if g is None:
        return None
    return fitted(g, x, sum(isinstance(v, Traced) for v in node.inputs) > 1)


def argument(node: Symbol, kind: int, key: Any, index: int) -> Any:
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


def fitted(g: Any, x: Symbol, broadcast: bool) -> Any:
    """The cotangent in the shape and dtype of x, where broadcasting was in between."""
    if isinstance(x._array, Unshaped) or isinstance(g._array, Unshaped):
        return sum_like(g, x) if broadcast else g
    if g._array.shape != x._array.shape:
        g = ops.sum_to(g, x._array.shape)
    return ops.cast(g, x._array.dtype)
