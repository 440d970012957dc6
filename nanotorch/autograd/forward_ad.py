"""Forward mode: a ring in which tangents travel with the values they belong to.

Inside `dual_level()`, `make_dual(x, t)` gives a tensor that carries the tangent t, every op
computes the tangent of its output beside it, and `unpack_dual` reads it. The rule of most ops is
derived: elementwise ops reuse their reverse rule, linear ones are applied to the tangents
themselves. One level at a time, as
https://docs.pytorch.org/docs/stable/autograd.html#forward-mode-automatic-differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from nanotorch import ops
from nanotorch.autograd.engine import go_on
from nanotorch.autograd.inplace import as_it_was, go_on_writing, unwritten
from nanotorch.autograd.rings import Ring, Rings, closed, modes, with_ring, without_ring
from nanotorch.node import Traced
from nanotorch.primitive import (
    ATTRIBUTE,
    INDEX,
    INPUT,
    OUTPUT,
    REST,
    SHAPE,
    Elementwise,
    Linear,
    Multilinear,
    Primitive,
    apply,
)


class UnpackedDualTensor(NamedTuple):
    """The value and the tangent (or None) of a dual tensor."""

    primal: Any
    tangent: Any


class ForwardMode(Ring):
    """Computes the tangent of each output beside it."""

    rank = 20
    reads_rules = True

    def __call__(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        out = go_on(primitive, inputs, attributes, rest)
        push_forward(primitive, inputs, attributes, out)
        return out

    def write(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        x = inputs[0]
        before = (as_it_was(x, copy=True), *(unwritten(o, x) for o in inputs[1:]))
        go_on_writing(primitive, inputs, attributes, rest)
        x._companion = None
        push_forward(primitive, before, attributes, x)
        push_to_base(x)
        return x

    def note(self, x: Any) -> dict[str, Any]:
        return {} if x._companion is None else {"tangent": x._companion}


FORWARD = ForwardMode()


class dual_level:  # noqa: N801 - PyTorch's name
    """Tangents exist inside this block only; it may not be nested."""

    def __enter__(self) -> int:
        if FORWARD in modes.rings:
            raise RuntimeError(
                "nested forward mode AD is not supported: a dual_level is already open"
            )
        modes.rings = with_ring(modes.rings, FORWARD)
        _levels.append(self)
        return 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        modes.rings = without_ring(modes.rings, FORWARD)
        _levels.pop()


_levels: list[dual_level] = []


def enter_dual_level() -> int:
    """Opens a level by hand; `exit_dual_level` closes it."""
    return dual_level().__enter__()


def exit_dual_level() -> None:
    """Closes the level opened last."""
    if FORWARD not in modes.rings:
        raise RuntimeError("exit_dual_level: no dual_level is open")
    _levels[-1].__exit__(None, None, None)


def make_dual(tensor: Any, tangent: Any) -> Any:
    """An alias of `tensor` that carries `tangent`, a tensor of the same shape and dtype."""
    if FORWARD not in modes.rings:
        raise RuntimeError("make_dual: trying to create a dual tensor outside a dual_level")
    if tensor._array.shape != tangent._array.shape:
        raise RuntimeError(
            f"make_dual: expected a tangent of shape {tuple(tensor._array.shape)}, "
            f"got {tuple(tangent._array.shape)}"
        )
    if tensor._array.dtype.kind not in "fVc":
        raise ValueError(f"make_dual: expected a floating point tensor, got {tensor.dtype}")
    dual = ops.alias(tensor)
    dual._companion = tangent
    return dual


def unpack_dual(tensor: Any) -> UnpackedDualTensor:
    """(primal, tangent) of a tensor; the tangent is None where it carries none."""
    if FORWARD not in modes.rings:
        return UnpackedDualTensor(tensor, None)
    with closed(FORWARD):
        return UnpackedDualTensor(ops.alias(tensor), tensor._companion)


def tangents_of(values: Any) -> list[Any]:
    """The tangent of each value, None for one that carries none."""
    return [x._companion if isinstance(x, Traced) else None for x in values]


def push_forward(
    primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any], out: Any
) -> None:
    """Sets the tangent of out = primitive(inputs) from the tangents of the inputs."""
    tangents = tangents_of(inputs)
    if all(t is None for t in tangents) or out._array.dtype.kind not in "fVc" or not primitive.vjp:
        return
    with closed(FORWARD):  # the operands of a rule count as values
        t = tangent(primitive, inputs, tangents, attributes, out)
        if t is not None:
            if t._array.dtype != out._array.dtype:
                t = ops.cast(t, out._array.dtype)
            if t._array.shape != out._array.shape:
                t = ops.expand(t, out._array.shape)
            out._companion = t
            if out._node is not None and out._node.output:
                out._node.output[4] = t


def push_to_base(x: Any) -> None:
    """Sets the tangent of the base of x, where x is a view that was written to."""
    if x._base is not None:
        push_forward(ops.CopySlices, (as_it_was(x._base), x), {"path": x._path}, x._base)


def tangent(
    primitive: type[Primitive],
    inputs: tuple[Any, ...],
    tangents: list[Any],
    attributes: dict[str, Any],
    out: Any,
) -> Any:
    """The tangent of out, by the primitive's own rules or by those its class lets one derive."""
    if primitive.jvp is None and issubclass(primitive, Linear):
        moved = [
            x if x is None or not has_rule(primitive, i) else zero(x) if t is None else t
            for i, (x, t) in enumerate(zip(inputs, tangents, strict=True))
        ]
        return apply(primitive, *moved, **attributes)
    total = None
    for index, t in enumerate(tangents):
        if t is None or not has_rule(primitive, index):
            continue
        if primitive.jvp is None and issubclass(primitive, Multilinear):
            part = apply(primitive, *inputs[:index], t, *inputs[index + 1 :], **attributes)
        else:
            part = forward_rule(primitive, index, t, inputs, attributes, out)
        total = part if total is None else total + part
    return total


def has_rule(primitive: type[Primitive], index: int) -> bool:
    """Whether the primitive is differentiable in that input."""
    return bool(primitive.differentiable >> index & 1)


def zero(x: Any) -> Any:
    """The tangent of what carries none."""
    return ops.zeros_like(x) if hasattr(x, "shape") else 0


def forward_rule(
    primitive: type[Primitive],
    index: int,
    t: Any,
    inputs: tuple[Any, ...],
    attributes: Any,
    out: Any,
) -> Any:
    """One input's share of the tangent, by its written rule or, elementwise, by its reverse
    rule."""
    rule: Any
    if primitive.jvp is not None:
        rule = primitive.jvp[index]
    elif issubclass(primitive, Elementwise):
        rule = primitive.vjp[index]
    else:
        raise NotImplementedError(f"{primitive.title()} has no forward-mode rule")
    values: dict[int, Callable[[Any], Any]] = {
        INPUT: lambda key: inputs[key],
        REST: lambda key: inputs[key:],
        OUTPUT: lambda key: out,
        ATTRIBUTE: lambda key: attributes[key],
        SHAPE: lambda key: inputs[key].shape,
        INDEX: lambda key: index,
    }
    assert rule is not None
    return rule(t, *(values[kind](key) for kind, key in primitive.needs(rule)))
