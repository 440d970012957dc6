"""Levels: how transforms of functions nest.

Each transform evaluates the function on new tensors (`Level.lift`), and differentiates by those
alone; an outer transform, or a plain `backward`, sees through to the values that they stand for. A
result is recorded only where it depends on a tensor outside the level that requires grad, which is
read off the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from nanotorch import ops
from nanotorch.autograd import grad
from nanotorch.autograd.forward_ad import FORWARD
from nanotorch.autograd.grad_mode import modes
from nanotorch.node import Node
from nanotorch.tensor import Tensor


class Level:
    """The tensors with respect to which one transform differentiates."""

    def __init__(self) -> None:
        self.outer_grad = modes.grad
        self.leaves: set[Tensor] = set()

    def lift(self, x: Any, op: str) -> Tensor:
        """A tensor of the value of x that stands for it at this level."""
        if not isinstance(x, Tensor):
            raise ValueError(f"{op}: the inputs must be Tensors, got {type(x).__name__}")
        if not (x.is_floating_point() or x.is_complex()):
            raise RuntimeError(
                f"{op}: only Tensors of floating point dtype can require gradients, got {x.dtype}"
            )
        if x.requires_grad and self.outer_grad:
            return ops.alias(x)  # type: ignore[no-any-return]
        return self.leaf(x)

    def leaf(self, x: Tensor) -> Tensor:
        """A leaf of this level with the value, and the outer tangent, of x."""
        leaf = sharing(x)
        leaf._requires_grad = True
        self.leaves.add(leaf)
        return leaf

    def reaches_outside(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensors depend on a leaf that is not of this level."""
        stack: list[Any] = [
            t if t.grad_fn is None else t.grad_fn for t in tensors if t.requires_grad
        ]
        seen: set[Any] = set()
        while stack:
            place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            if isinstance(place, Node):
                stack.extend(edge for edge in place.edges if edge is not None)
            elif place not in self.leaves:
                return True
        return False

    def leave(self, value: Any) -> Any:
        """A result for the outer level: recorded only where it depends on a tensor outside."""
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        if self.outer_grad and self.reaches_outside([value]):
            return value
        return sharing(value)

    def pull(
        self,
        ys: Sequence[Tensor],
        xs: Sequence[Tensor],
        cotangents: Any,
        record: bool | None = None,
    ) -> list[Tensor]:
        """The cotangents of xs from those of ys, zero where ys do not depend on them.

        `record`: whether the pass is itself recorded; by default where its result can matter
        outside.
        """
        if record is None:
            present = [c for c in cotangents or () if c is not None]
            record = self.outer_grad and self.reaches_outside([*ys, *present])
        pairs = [(y, i) for i, y in enumerate(ys) if y.requires_grad]
        if not pairs:
            return [ops.zeros_like(x) for x in xs]
        gradients = grad(
            [y for y, _ in pairs],
            list(xs),
            None if cotangents is None else [cotangents[i] for _, i in pairs],
            retain_graph=True,
            create_graph=record,
            allow_unused=True,
            materialize_grads=True,
        )
        return [g if record else sharing(g) for g in gradients]


def sharing(x: Tensor) -> Tensor:
    """A tensor over the memory of x, with its tangent, outside the graph."""
    out = x.detach()
    if FORWARD in modes.rings:
        out._companion = x._companion
    return out


def call(func: Callable[..., Any], op: str, *args: Any, **kwargs: Any) -> Any:
    """func(*args, **kwargs); RuntimeError where it writes to a tensor that it captures.

    A transform evaluates a function as often as it has to, so such a write has no one meaning.
    """
    captured = captured_tensors(func)
    versions = [x._version for x in captured]
    result = func(*args, **kwargs)
    if any(x._version != version for x, version in zip(captured, versions, strict=True)):
        raise RuntimeError(
            f"{op}: the function wrote in place to a tensor that it captured; clone() it there "
            "first, or return the result instead"
        )
    return result


def captured_tensors(function: Any) -> list[Tensor]:
    """The tensors that a Python function takes from around it, itself or by functions it takes."""
    tensors: list[Tensor] = []
    codes, functions = set(), [function]
    while functions:
        function = functions.pop()
        code = getattr(function, "__code__", None)
        if code is None or code in codes:
            continue
        codes.add(code)
        ours = (function.__module__ or "").startswith("nanotorch.")
        names = {} if ours else function.__globals__
        values = [names[name] for name in code.co_names if name in names]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable without a value yet
                values.append(cell.cell_contents)
        tensors += [value for value in values if isinstance(value, Tensor)]
        functions += [value for value in values if isinstance(value, FunctionType)]
    return tensors
