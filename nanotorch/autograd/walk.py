"""Walking the record backward.

A node is made after its inputs, so every consumer of a value has a higher number than its maker.
`walk` visits nodes from the latest to the earliest: when a node's turn comes, its cotangent is
complete. Cotangents live in a dict of the walk and never on the nodes.
"""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.errors import check_finite, with_forward_line
from nanotorch.autograd.inplace import apply_inplace, bump
from nanotorch.autograd.parts import take_parts
from nanotorch.autograd.rings import modes, without_ring
from nanotorch.backend import add_into, as_array, cuda_is_absent, on_device_of, plus
from nanotorch.node import Node, Traced

Cotangent = Any  # a raw array, or a tensor where the rules are computed on tensors
Place = Any  # where a cotangent belongs: a node, or a leaf tensor


def walk(
    roots: Sequence[Any],
    cotangents: Sequence[Cotangent],
    *,
    retain_graph: bool,
    create_graph: bool,
    targets: Sequence[Place] | None = None,
    accumulate: bool = True,
) -> dict[Place, Cotangent]:
    """Carries cotangents from the roots to the leaves, and adds them to the leaves' `.grad`.

    They are tensors where `on_tensors(create_graph)`, else raw arrays. With `targets`, only what
    lies on the way to them is computed; their cotangents are returned, and are added to leaves only
    where `accumulate`.
    """
    with Walk(roots, create_graph, targets) as way:
        way.start(roots, cotangents)
        heap, take, add = way.heap, way.take, way.add
        while heap:
            node = heapq.heappop(heap)[1]
            results = take(node)
            if results is not None:
                for edge, result in zip(node.edges, results):
                    if result is not None and edge is not None:
                        add(edge, result)
                if not retain_graph:
                    node.release()
        for leaf, g in way.pending.items():  # in the order of their last contributions
            way.arrive(leaf, g, accumulate)
    return way.captured


def on_tensors(create_graph: bool = False) -> bool:
    """Whether a walk computes its rules on tensors rather than on raw arrays: to record them, or
    for an open ring that reads them."""
    for ring in modes.rings:
        if ring.reads_rules:
            return True
    return create_graph


class Walk:
    """The state of one walk: what is to be visited, and the cotangents that are under way."""

    __slots__ = (
        "anomaly", "captured", "create_graph", "g", "heap", "listener", "node", "on_host", "only",
        "outer", "owned", "parts", "pending", "tensors", "wrap",
    )  # fmt: skip

    def __init__(
        self, roots: Sequence[Any], create_graph: bool, targets: Sequence[Place] | None
    ) -> None:
        self.wrap, self.create_graph = roots[0]._wrap, create_graph
        self.tensors, self.listener = on_tensors(create_graph), modes.listener
        self.anomaly, self.on_host = modes.anomaly, cuda_is_absent()
        self.only = None if targets is None else leading_to(roots, targets)
        self.captured: dict[Place, Cotangent] = dict.fromkeys(targets or ())
        # The cotangent of each node and leaf reached so far; a node's is complete at its turn.
        self.pending: dict[Place, Cotangent] = {}
        self.owned: set[Place] = set()  # those whose cotangent shares memory with nothing else
        self.heap: list[tuple[int, Node]] = []
        self.parts: list[tuple[Node, Cotangent]] = []  # of one input, to be put together
        self.node: Any = None  # the one whose turn it is, …
        self.g: Cotangent = None  # … and its cotangent

    def __enter__(self) -> Walk:
        self.outer = modes.grad, modes.rings
        modes.grad = self.create_graph
        for ring in modes.rings:
            if ring.closed_in_backward:
                modes.rings = without_ring(modes.rings, ring)
        return self

    def __exit__(self, *error: object) -> None:
        modes.grad, modes.rings = self.outer

    def start(self, roots: Sequence[Any], cotangents: Sequence[Cotangent]) -> None:
        """Puts the cotangents of the roots in their places."""
        for root, g in zip(roots, cotangents):
            place = root if root._node is None else root._node
            before = self.pending.get(place)
            if before is None and place is not root:
                heapq.heappush(self.heap, (-place.sequence, place))
            self.pending[place] = g if before is None else before + g

    def take(self, node: Node) -> Sequence[Cotangent] | None:
        """The cotangents of a node's inputs, after its hooks; None where the walk ends there, or
        other parts of the same input are still to come."""
        g, only = self.pending.pop(node), self.only
        self.listener.walking(node)
        if node.hooks or only is not None:
            # As in PyTorch, a target is taken before its hooks if the walk goes on behind it.
            last = only is not None and only.isdisjoint(node.edges)
            before = g
            if node.hooks:
                g = run_hooks(node.hooks, g, self.wrap, self.tensors)
            if node in self.captured:
                self.captured[node] = g if last else before
            if last:
                return None
        return take_parts(self, node, g) if node.is_part else self.pull(node, g)

    def pull(self, node: Node, g: Cotangent) -> Sequence[Cotangent]:
        """The cotangents of a node's inputs, by its rules and its own hooks."""
        self.node, self.g = node, g
        try:
            if self.on_host:
                results = node.pull(g, self.only, self.tensors)
            else:
                with on_device_of(g):
                    results = node.pull(g, self.only, self.tensors)
        except Exception as error:
            raise with_forward_line(node, error) from error
        if node.post_hooks:
            results = run_post_hooks(node, results, g, self.wrap, self.tensors)
        return results

    def add(self, edge: Place, result: Cotangent) -> None:
        """Adds what the node sends along an edge to the cotangent at its end."""
        is_node = isinstance(edge, Node)
        value = edge if is_node else edge._array  # what has the shape and dtype to match
        array = result._array if self.tensors else result
        if array.shape != value.shape or array.dtype != value.dtype:
            result = fit(result, value.shape, value.dtype, self.node)
        if self.anomaly == "nan":
            check_finite(self.node, result)
        sum_so_far = self.pending.pop(edge, None)
        if sum_so_far is None:
            if is_node:
                heapq.heappush(self.heap, (-edge.sequence, edge))
            if not self.tensors and result is not self.g and getattr(result, "base", self) is None:
                self.owned.add(edge)
            self.pending[edge] = result
        elif edge in self.owned:
            self.pending[edge] = add_into(sum_so_far, result)
        elif self.tensors:
            self.pending[edge] = sum_so_far + result
        else:
            self.pending[edge] = plus(sum_so_far, result)
            self.owned.add(edge)

    def arrive(self, leaf: Any, g: Cotangent, accumulate: bool) -> None:
        """Hands a leaf its cotangent."""
        if leaf._hooks:
            g = run_hooks(leaf._hooks, g, self.wrap, self.tensors)
            self.owned.discard(leaf)
        if leaf in self.captured:
            self.captured[leaf] = g
        if accumulate and leaf._requires_grad and (self.only is None or leaf in self.captured):
            deposit(leaf, g, self.wrap, leaf in self.owned, self.create_graph)


def fit(g: Cotangent, shape: tuple[int, ...], dtype: Any, node: Node) -> Cotangent:
    """The cotangent in the shape and dtype of its value: undoes broadcasting and casts."""
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


def deposit(leaf: Any, g: Cotangent, wrap: Any, owned: bool, create_graph: bool) -> None:
    """leaf.grad += g; a first g is copied unless `owned`, so that no leaves share an array."""
    before = leaf._grad
    if before is None:
        g = ops.casting.first_gradient(leaf, g, owned)
        leaf._grad = g if isinstance(g, Traced) else wrap(g)
    elif create_graph:
        leaf._grad = before + g
    elif isinstance(g, Traced):
        apply_inplace(ops.arithmetic.Add, before, g)
    else:
        total = add_into(before._array, g)
        bump(before)
        if total is not before._array:  # of a row-sparse and a dense gradient
            leaf._grad = wrap(total)
    modes.listener.deposited(leaf, before)
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
    leading = {target for target in targets if target in reached}
    for node in sorted((n for n in reached if isinstance(n, Node)), key=lambda n: n.sequence):
        if any(edge in leading for edge in node.edges if edge is not None):
            leading.add(node)
    return leading


def run_hooks(
    hooks: dict[int, Callable[[Any], Any]], g: Any, wrap: Callable[[Any], Any], tensors: bool
) -> Any:
    """The cotangent after each hook had its say; what a hook returns replaces it."""
    value = g if tensors else wrap(as_array(g))
    for hook in list(hooks.values()):
        result = hook(value)
        if result is not None:
            value = replacement(hook, value, result)
    return value if tensors else value._array


def replacement(hook: Any, value: Any, result: Any) -> Any:
    """What a hook returned in place of a cotangent, which must be a tensor like it."""
    if not isinstance(result, Traced):
        raise TypeError(f"hook: expected a Tensor or None, got {type(result).__name__}")
    for what, field in (("size", "shape"), ("type", "dtype")):
        before, after = getattr(value, field, None), getattr(result, field)
        if before != after:
            name = getattr(hook, "__name__", hook)
            raise RuntimeError(
                f"hook {name} has changed the {what} of value (was {before} got {after})"
            )
    return result


def run_post_hooks(
    node: Node, results: Sequence[Any], g: Any, wrap: Callable[[Any], Any], tensors: bool
) -> Sequence[Any]:
    """The cotangents of a node's inputs after its own hooks."""

    def as_tensor(value: Any) -> Any:
        return value if value is None or tensors else wrap(as_array(value))

    values = tuple(as_tensor(r) for r in results)
    for hook in list((node.post_hooks or {}).values()):
        changed = hook(values, (as_tensor(g),))
        if changed is not None:
            if not isinstance(changed, tuple) or len(changed) != len(values):
                raise TypeError(f"hook: expected a tuple of {len(values)} values to be returned")
            pairs = zip(values, changed)
            values = tuple(replacement(hook, a, b) if b is not None else b for a, b in pairs)
    return [v if v is None or tensors else v._array for v in values]


def retaining(x: Any) -> Callable[[Any], None]:
    """The hook that keeps the cotangent of x, not a leaf, in its `.grad`."""
    tensor = weakref.ref(x)

    def keep_grad(g: Any) -> None:
        x = tensor()
        if x is not None:
            x._grad = g.clone() if x._grad is None else x._grad + g

    return keep_grad
