"""Walking the record backward.

`walk` visits nodes from the latest to the earliest, so that a node's cotangent is complete when its
turn comes: a node is made after its inputs, so every consumer of a value has a higher number than
its maker. Cotangents live in a dict of the walk and never on the nodes. Broadcasting and casting
are undone in one place, `fit`; `deposit` adds to the leaves.
"""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.engine import apply_inplace, bump
from nanotorch.autograd.grad_mode import modes
from nanotorch.autograd.placement import elsewhere
from nanotorch.backend import MODULES, array_module
from nanotorch.primitive import Node, Traced


def fit(g: Any, shape: tuple[int, ...], dtype: Any, node: Node) -> Any:
    """The cotangent in the shape and dtype of its value: undoes broadcasting and casts."""
    if len(MODULES) > 1:
        with elsewhere(g):
            return fitted(g, shape, dtype, node)
    return fitted(g, shape, dtype, node)


def fitted(g: Any, shape: tuple[int, ...], dtype: Any, node: Node) -> Any:
    """`fit`, on the device that is current."""
    array = g._array if isinstance(g, Traced) else g
    if array.shape != shape:
        try:
            g = ops.sum_to(g, shape)
        except ValueError:
            raise RuntimeError(
                f"{node.name()} returned an invalid gradient: got shape {list(array.shape)}, "
                f"expected shape compatible with {list(shape)}"
            ) from None
    return g if array.dtype == dtype else ops.cast(g, dtype)


def on_tensors(create_graph: bool) -> bool:
    """Whether a walk computes its rules on tensors rather than on raw arrays."""
    return bool(create_graph or modes.forward or modes.recorder is not None)


def walk(
    roots: Sequence[Any],
    cotangents: Sequence[Any],
    *,
    retain_graph: bool,
    create_graph: bool,
    targets: Sequence[Any] | None = None,
    accumulate: bool = True,
) -> dict[Any, Any]:
    """Carries cotangents from the roots to the leaves, and adds them to the leaves' `.grad`.

    The cotangents are raw arrays, or tensors where the rules are to be computed on tensors: with
    `create_graph`, in forward mode, where tangents travel through the rules, and for the compiler.

    With `targets` (leaves, or nodes), only what lies on the way to them is computed; the cotangents
    of the targets are returned, and are added to leaves only where `accumulate`.
    """
    wrap, tensors = roots[0]._wrap, on_tensors(create_graph)
    only = None if targets is None else leading_to(roots, targets)
    captured: dict[Any, Any] = dict.fromkeys(targets or ())
    # The cotangent of each node and leaf reached so far; a node's is complete when its turn comes.
    pending: dict[Any, Any] = {}
    owned: set[Any] = set()  # those whose cotangent shares memory with nothing else
    heap: list[tuple[int, Node]] = []
    outer, modes.grad = modes.grad, create_graph
    casts, modes.autocast = modes.autocast, None  # rules compute in what their values are of
    try:
        for root, g in zip(roots, cotangents, strict=True):
            place = root if root._node is None else root._node
            if place in pending:
                pending[place] = pending[place] + g
                continue
            pending[place] = g
            if place is not root:
                heapq.heappush(heap, (-place.sequence, place))
        while heap:
            node = heapq.heappop(heap)[1]
            g = pending.pop(node)
            if modes.recorder is not None:
                modes.recorder.walking(node)
            if only is None:
                if node.hooks:
                    g = run_hooks(node.hooks, g, wrap, tensors)
            else:  # as in PyTorch, a target is taken before its hooks if the walk goes on behind it
                last = only.isdisjoint(node.edges)
                if node in captured and not last:
                    captured[node] = g
                if node.hooks:
                    g = run_hooks(node.hooks, g, wrap, tensors)
                if last:
                    if node in captured:
                        captured[node] = g
                    continue
            try:
                if len(MODULES) == 1:
                    results = node.pull(g, only, tensors)
                else:
                    with elsewhere(g):
                        results = node.pull(g, only, tensors)
            except Exception as error:
                raise traced(node, error) from error
            if node.post_hooks:
                results = run_post_hooks(node, results, g, wrap, tensors)
            for edge, result in zip(node.edges, results, strict=False):
                if edge is None or result is None:
                    continue
                is_node = isinstance(edge, Node)
                place = edge if is_node else edge._array
                array = result._array if tensors else result
                if array.shape != place.shape or array.dtype != place.dtype:
                    result = fit(result, place.shape, place.dtype, node)
                if modes.anomaly == "nan":
                    check_finite(node, result)
                held = pending.pop(edge, None)
                if held is None:
                    if is_node:
                        heapq.heappush(heap, (-edge.sequence, edge))
                    if not tensors and result is not g and getattr(result, "base", g) is None:
                        owned.add(edge)
                    pending[edge] = result
                elif edge in owned:
                    with elsewhere(result):
                        held += result
                    pending[edge] = held
                else:
                    with elsewhere(result):
                        pending[edge] = held + result
                    if not tensors:
                        owned.add(edge)
            if not retain_graph:
                node.release()
        for leaf, g in pending.items():  # in the order of their last contributions
            if leaf._hooks:
                g = run_hooks(leaf._hooks, g, wrap, tensors)
                owned.discard(leaf)
            if leaf in captured:
                captured[leaf] = g
            if accumulate and leaf._requires_grad and (only is None or leaf in captured):
                deposit(leaf, g, wrap, leaf in owned, create_graph)
    finally:
        modes.grad, modes.autocast = outer, casts
    return captured


def deposit(leaf: Any, g: Any, wrap: Any, owned: bool, create_graph: bool) -> None:
    """leaf.grad += g; the first write makes an array of its own, so that no leaves share one."""
    held = leaf._grad
    if held is None:
        if isinstance(g, Traced):
            leaf._grad = ops.clone(g)
        elif owned and g.ndim:
            leaf._grad = wrap(g)
        else:
            with elsewhere(g):
                leaf._grad = wrap(array_module(g).array(g))
    elif create_graph:
        leaf._grad = held + g
    elif isinstance(g, Traced):
        apply_inplace(ops.arithmetic.Add, held, g)
    else:
        array = held._array
        with elsewhere(g):
            array += g
        bump(held)
    if modes.recorder is not None:
        modes.recorder.deposited(leaf, held)
    if leaf._post_hooks:
        for hook in list(leaf._post_hooks.values()):
            hook(leaf)


def leading_to(roots: Sequence[Any], targets: Sequence[Any]) -> set[Any]:
    """The targets that are reached from the roots, and the nodes on the way to them."""
    reached: set[Any] = set()
    stack = [root if root._node is None else root._node for root in roots]
    while stack:
        place = stack.pop()
        if place not in reached:
            reached.add(place)
            if isinstance(place, Node):
                stack.extend(edge for edge in place.edges if edge is not None)
    found = {target for target in targets if target in reached}
    for node in sorted((n for n in reached if isinstance(n, Node)), key=lambda n: n.sequence):
        if any(edge in found for edge in node.edges if edge is not None):
            found.add(node)
    return found


def run_hooks(
    hooks: dict[int, Callable[[Any], Any]], g: Any, wrap: Callable[[Any], Any], tensors: bool
) -> Any:
    """The cotangent after each hook had its say; what a hook returns replaces it."""
    with elsewhere(g):
        value = g if tensors else wrap(array_module(g).asarray(g))
    for hook in list(hooks.values()):
        result = hook(value)
        if result is not None:
            if not isinstance(result, Traced):
                raise TypeError(
                    f"hook: expected a Tensor or None to be returned, got {type(result).__name__}"
                )
            if result._array.shape != value._array.shape:
                raise RuntimeError(
                    f"hook {getattr(hook, '__name__', hook)} has changed the size of the "
                    "gradient from "
                    f"{tuple(value._array.shape)} to {tuple(result._array.shape)}"
                )
            value = result
    return value if tensors else value._array


def run_post_hooks(
    node: Node, results: Sequence[Any], g: Any, wrap: Callable[[Any], Any], tensors: bool
) -> Sequence[Any]:
    """The cotangents of a node's inputs after its own hooks."""

    def as_tensor(value: Any) -> Any:
        return value if value is None or tensors else wrap(array_module(value).asarray(value))

    values = tuple(as_tensor(r) for r in results)
    for hook in list((node.post_hooks or {}).values()):
        changed = hook(values, (as_tensor(g),))
        if changed is not None:
            values = changed if isinstance(changed, tuple) else (changed,)
    return [v if v is None or tensors else v._array for v in values]


def traced(node: Node, error: Exception) -> Exception:
    """The error, with the line of the forward computation where that was remembered."""
    if modes.anomaly and hasattr(node, "trace"):
        lines = "".join(node.trace)
        return type(error)(f"{error}\nThe forward call that made {node.name()}:\n{lines}")
    return error


def check_finite(node: Node, g: Any) -> None:
    """Under anomaly detection: refuses a NaN as soon as a rule returns one."""
    array = g._array if isinstance(g, Traced) else g
    if array.shape is not None and bool((array != array).any()):
        lines = "".join(getattr(node, "trace", ["(made before anomaly detection was on)\n"]))
        raise RuntimeError(
            f"Function '{node.name()}' returned nan values in its gradients.\n"
            f"The forward call that made it:\n{lines}"
        )


def retaining(x: Any) -> Callable[[Any], None]:
    """The hook that keeps the cotangent of x, not a leaf, in its `.grad`."""
    tensor = weakref.ref(x)

    def keep_grad(g: Any) -> None:
        held = tensor()
        if held is not None:
            held._grad = g.clone() if held._grad is None else held._grad + g

    return keep_grad
