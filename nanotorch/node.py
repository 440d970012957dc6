"""The vertices of the graph that backward walks, and what they hold on to.

A node is made when a primitive is applied and a gradient may be wanted. Its edges lead to the nodes
that made the inputs, or to the leaf tensors themselves; `pull` carries a cotangent along them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any


class Traced:
    """What carries a computation, beyond raw numbers: its `_apply` says how a primitive is read."""

    # What the engine asks of a tensor; whatever else is traced has none of it and is not asked.
    _array: Any
    _cell: list[int] | None
    _requires_grad: bool
    _node: Any
    _base: Any
    _inference: bool
    _companion: Any  # what a ring keeps beside the value
    _wrap: Any
    _refresh: Any

    def _apply(self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be computed with")

    def _mixes(self) -> bool:
        """Whether operands of several dtypes are cast to one before they are computed with."""
        return False


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook out; also a context manager."""

    _next_id = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self.id = next(self._next_id)
        self._hooks = hooks
        hooks[self.id] = hook

    def remove(self) -> None:
        """Takes the hook out; a second call does nothing."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Packed:
    """A value kept through a pair of saved-tensor hooks, and its place in the graph."""

    def __init__(
        self, value: Any, hooks: tuple[Callable[[Any], Any], Callable[[Any], Any]]
    ) -> None:
        pack, self._unpack = hooks
        self._packed = pack(value)
        self._companion = value._companion
        self._place = value._node
        if value._requires_grad and value._node is None:
            self._place = Passage(value)

    def unpack(self) -> Any:
        """The tensor that the second hook makes of what the first one returned."""
        value = self._unpack(self._packed)
        if self._place is None and self._companion is None:
            return value
        placed = value._wrap(value._array)
        placed._node, placed._requires_grad = self._place, self._place is not None
        placed._companion = self._companion
        return placed


RELEASED: Any = ("released",)  # in place of what a node kept, after backward has used it


class Node:
    """A vertex of the graph that backward walks: where a cotangent comes from and goes to.

    `edges` holds, for each input, the node that made it, or the leaf tensor itself, or None where
    no gradient is wanted. `sequence` counts nodes in the order of their making, so that walking
    from high to low numbers meets every consumer of a value before its producer.
    """

    is_part = False  # of a view that shows some of its input, which others may show the rest of
    sequence: int
    edges: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: Any
    attributes: dict[str, Any]
    inputs: Any = None
    output: Any = None
    shapes: Any
    versions: Any
    hooks: dict[int, Any] | None = None
    post_hooks: dict[int, Any] | None = None
    trace: Any

    def name(self) -> str:
        """The name PyTorch gives to this backward function, such as AddBackward0."""
        return type(self).__name__

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        """The cotangents of the inputs, given the cotangent `g` of the output.

        None where no gradient is wanted: where the edge is None or, if `only` is a set, not in it.
        `tensors`: `g` is a tensor, and the rules are to be computed on tensors.
        """
        raise RuntimeError(f"{self.name()} has no rule to walk backward with")

    def release(self) -> None:
        """Lets go of what was kept for the rules."""

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that the edges lead to, each with the number of its output (always 0)."""
        return tuple(
            (edge if edge is None or isinstance(edge, Node) else edge._accumulator(), 0)
            for edge in self.edges
        )

    def register_hook(self, hook: Callable[[Any, Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_inputs, grad_outputs)` after the node's rules; it may return new
        grad_inputs."""
        if self.post_hooks is None:
            self.post_hooks = {}
        return RemovableHandle(self.post_hooks, hook)

    def register_prehook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_outputs)` before the node's rules; it may return new grad_outputs."""

        def on_cotangent(g: Any) -> Any:
            result = hook((g,))
            return result[0] if isinstance(result, tuple) else result

        if self.hooks is None:
            self.hooks = {}
        return RemovableHandle(self.hooks, on_cotangent)

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class Passage(Node):
    """Leads to a leaf from a copy of it."""

    _numbers = itertools.count(1)

    def __init__(self, leaf: Any) -> None:
        # Nothing but the leaf lies behind it: it comes last, and each has a number of its own.
        self.edges, self.sequence = (leaf,), -next(self._numbers)
        self.shape, self.dtype = leaf._array.shape, leaf._array.dtype

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        return (g,)
