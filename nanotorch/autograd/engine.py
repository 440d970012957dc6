"""The engine: computes and records a primitive, and walks the record backward.

Recording: `apply` runs the kernel on the inputs' arrays and, if an input requires grad and recording is
on, makes the instance of the primitive that becomes the output's `grad_fn`. Backward: `walk` visits nodes
from the latest to the earliest, so that a node's cotangent is complete when its turn comes; cotangents
live in a dict of the walk and never on the nodes. Broadcasting and casting are undone in one place, `fit`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.forward_ad import push_forward
from nanotorch.autograd.grad_mode import modes
from nanotorch.autograd.placement import elsewhere, placed
from nanotorch.backend import (
    HOST,
    MODULES,
    AxisError,
    array_module,
    broadcast_shapes,
    dtype_of,
    promote,
)
from nanotorch.primitive import KEEP_NOTHING, Node, Packed, Primitive, Traced

_sequence = itertools.count()
next_sequence = _sequence.__next__
PACKAGE = __file__.removesuffix(os.path.join("autograd", "engine.py"))


def apply(
    self: Any, primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any]
) -> Any:
    """y = primitive(inputs), computed now and recorded if a gradient may be wanted.

    `self` is the first tensor among the inputs; the result is wrapped as its `_wrap` does.
    """
    arrays: Any = []
    tracked = False
    for x in inputs:
        if isinstance(x, Traced):
            try:
                if x._requires_grad or x._base is not None:  # type: ignore[attr-defined]
                    tracked = True
            except AttributeError:  # an operand that is no tensor, such as a symbol, takes over
                return x._apply(primitive, inputs, attributes)
            arrays.append(x._array)
        else:
            arrays.append(x)
    if len(MODULES) > 1:
        other = placed(primitive, inputs, arrays)
        if other is not None:
            with other[1]:
                first = next(x for x in other[0] if isinstance(x, Traced))
                return first._apply(primitive, other[0], attributes)
    array = self._array
    xp = MODULES.get(type(array)) or array_module(array)
    try:
        if primitive.promotes:
            arrays = promote(arrays, primitive.promotes == "floating")
        y = primitive.kernel(xp, *arrays, **attributes)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise explained(primitive, inputs, error) from error
    if type(y) is not xp.ndarray and type(y) not in MODULES:  # a move returns the other module's
        y = xp.asarray(y)
    out = self._wrap(y)
    if primitive.view:
        view_of(out, self, primitive, attributes)
    if tracked and modes.grad and primitive.vjp:
        record(primitive, inputs, attributes, out)
    if modes.inference:
        out._inference = self._inference or not primitive.view
    if modes.recorder is not None:
        modes.recorder.ran(primitive, inputs, attributes, out)
    if modes.forward:
        push_forward(primitive, inputs, attributes, out)
    return out


def requires_grad(x: Any) -> bool:
    """Whether x is recorded; a view first takes over what was written to its base."""
    if x._base is not None:
        refresh(x)
    required: bool = x._requires_grad
    return required


def record(
    primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any], out: Any
) -> Node | None:
    """Makes the node of out = primitive(inputs) and hangs it on `out`; None if no input wants a gradient."""
    if out._array.dtype.kind not in "fc":
        return None
    edges: list[Any] = []
    wanted, bit = 0, 1
    differentiable = primitive.differentiable
    for x in inputs:
        edge = None
        if isinstance(x, Traced) and (differentiable & bit or primitive.variadic):
            if x._base is not None:  # type: ignore[attr-defined]
                refresh(x)
            if x._requires_grad:  # type: ignore[attr-defined]
                wanted |= bit
                edge = x._node  # type: ignore[attr-defined]
                if edge is None:
                    edge = x
        edges.append(edge)
        bit <<= 1
    if not wanted:
        return None
    node = primitive.__new__(primitive)
    node.sequence = next(_sequence)
    node.edges = tuple(edges)
    node.attributes = attributes
    node.shape, node.dtype = out._array.shape, out._array.dtype
    node.hooks = node.post_hooks = node.inputs = node.output = None
    if primitive.variadic:
        wanted = 1
    plan = primitive.plans.get(wanted) or primitive.plan(wanted)
    if plan is not KEEP_NOTHING:
        keep(node, plan, inputs, out)
    if modes.anomaly:
        node.trace = forward_lines()
    out._node, out._requires_grad = node, True
    return node


def forward_lines() -> list[str]:
    """The calls that led to the op being applied, down to the last line outside this package."""
    frames = traceback.extract_stack()
    while len(frames) > 1 and frames[-1].filename.startswith(PACKAGE):
        frames.pop()
    return traceback.format_list(frames)


def keep(node: Primitive, plan: Any, inputs: tuple[Any, ...], out: Any) -> None:
    """Keeps on the node what the rules of the wanted inputs name, with its version, and nothing else."""
    indices, keep_output, keep_shapes = plan
    if keep_shapes:
        node.shapes = [getattr(x, "_array", x).shape if hasattr(x, "shape") else () for x in inputs]
    if indices:
        if node.rest in indices:
            indices = (*indices, *range(node.rest + 1, len(inputs)))
        node.inputs = kept = [None] * len(inputs)
        node.versions = versions = [0] * len(inputs)
        for index in indices:
            kept[index] = x = inputs[index]
            if isinstance(x, Traced):
                if x._cell is not None:
                    versions[index] = x._cell[0]
                if modes.saved_hooks is not None:
                    kept[index] = Packed(x, modes.saved_hooks)  # type: ignore[call-overload]
                elif x._inference:  # type: ignore[attr-defined]
                    raise RuntimeError(
                        f"{node.name()}: a tensor made in inference_mode cannot be kept for backward; "
                        "clone() it outside inference_mode first"
                    )
    if keep_output:
        if node.inputs is None:
            node.inputs = ()
        if out._cell is None:
            out._cell = [0]
        value = out._array
        if modes.saved_hooks is not None:
            value = Packed(out._wrap(value), modes.saved_hooks)
        node.output = [value, out._cell, out._cell[0], out._wrap, None]


# --- views, and writing in place ------------------------------------------------------------------


def view_of(out: Any, x: Any, primitive: type[Primitive], attributes: dict[str, Any]) -> None:
    """Notes that `out` shows memory of `x`: their common base, the way to it, and one version counter."""
    if x._cell is None:
        x._cell = [0]
    out._cell = x._cell
    out._seen = x._cell[0]
    own = x._base is None or (x._requires_grad and x._node is None)  # a leaf is a base of its own
    out._path = ((primitive, attributes),) if own else (*x._path, (primitive, attributes))
    out._base = x if own else x._base
    out._made_in_no_grad = not modes.grad


def refresh(x: Any) -> None:
    """Gives a view whose base was written to since its making the graph of what it shows now."""
    base = x._base
    if x._seen != x._cell[0] and base._requires_grad:
        if base._node is not None or not x._made_in_no_grad:
            x._seen = x._cell[0]
            record(ops.AsStrided, (base,), {"path": x._path}, x)


def check_inplace(x: Any, operands: Iterable[Any] = ()) -> None:
    """Refuses to write to a leaf (or to a view of one) that requires grad while that is recorded."""
    if x._inference and not modes.inference:
        raise RuntimeError(
            "an inference tensor may not be changed in place outside inference_mode; clone() it first"
        )
    if not modes.grad:
        return
    if requires_grad(x) and x._node is None:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation; "
            "do it within no_grad(), or on its detach()"
        )
    base = x._base
    if base is not None and base._requires_grad and base._node is None:
        raise RuntimeError(
            "a view of a leaf Variable that requires grad is being used in an in-place operation; "
            "do it within no_grad(), or on its detach()"
        )
    if base is None or not any(isinstance(o, Traced) and o._requires_grad for o in (x, *operands)):  # type: ignore[attr-defined]
        return
    if x._made_in_no_grad:
        raise RuntimeError(
            "a view was created in no_grad mode and is being modified inplace with grad mode enabled"
        )
    if any(primitive.among_others for primitive, _ in x._path):
        raise RuntimeError(
            f"{x._path[-1][0].__name__}: its output is one of several views of a tensor and is being "
            "modified inplace; clone() it first, or take it by index"
        )


def apply_inplace(primitive: type[Primitive], x: Any, *operands: Any, **attributes: Any) -> Any:
    """x := primitive(x, operands), in x's own memory; returns x."""
    check_inplace(x, operands)
    inputs = (x, *operands)
    arrays: Any = [o._array if isinstance(o, Traced) else o for o in inputs]
    if len(MODULES) > 1:
        other = placed(primitive, inputs, arrays, x)
        if other is not None:
            with other[1]:
                return apply_inplace(primitive, *other[0], **attributes)
    recorded = modes.grad and any(isinstance(o, Traced) and requires_grad(o) for o in inputs)
    old = before_writing(primitive, x, operands) if recorded or modes.forward else x
    xp, target = array_module(x._array), x._array
    try:
        if primitive.promotes:
            arrays = promote(arrays, primitive.promotes == "floating")
        write(primitive, xp, arrays, attributes, target)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise explained(primitive, inputs, error) from error
    bump(x)
    if modes.recorder is not None:
        modes.recorder.wrote(primitive, inputs, attributes, x)
    written(primitive, x, (old, *operands), attributes, recorded)
    return x


def before_writing(primitive: type[Primitive], x: Any, operands: tuple[Any, ...]) -> Any:
    """A stand-in for x as it is before it is written to: its place in the graph and, if a rule asks
    for it, its value."""
    old = x._wrap(x._array)
    old._requires_grad, old._node, old._tangent = x._requires_grad, x._node, x._tangent
    wanted = sum(
        1 << index
        for index, o in enumerate((x, *operands))
        if isinstance(o, Traced) and o._requires_grad and index < len(primitive.vjp)  # type: ignore[attr-defined]
    )
    if modes.forward or 0 in primitive.plan(wanted)[0]:
        old._array = x._array.copy()
        if modes.recorder is not None:
            modes.recorder.copied(old, x)
    return old


def written(
    primitive: type[Primitive],
    x: Any,
    inputs: tuple[Any, ...],
    attributes: dict[str, Any],
    recorded: bool,
) -> None:
    """Makes the graph (and the tangent) of a tensor that primitive(inputs) was written into."""
    node = record_again(primitive, inputs, attributes, x) if recorded else None
    if modes.forward:
        x._tangent = None
        push_forward(primitive, inputs, attributes, x)
    if x._base is not None:
        write_through(x, node is not None)


def record_again(
    primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any], x: Any
) -> Node | None:
    """Records what x holds now; the hook of retain_grad() moves to the new node."""
    old = x._node
    node = record(primitive, inputs, attributes, x)
    if x._retains_grad and node is not None and old is not None and old.hooks:
        for identifier in [k for k, hook in old.hooks.items() if hook is x._retains_grad]:
            node.hooks = {identifier: old.hooks.pop(identifier)}
    return node


def write_through(x: Any, recorded: bool = True) -> None:
    """Tells the base of a view that x was written to, in the graph and in its tangent."""
    base = x._base
    if recorded or x._tangent is not None or base._tangent is not None:
        region = {"path": x._path}
        before = base._wrap(base._array)
        before._requires_grad, before._node = base._requires_grad, base._node
        before._tangent = base._tangent
        if recorded:
            x._seen = x._cell[0]  # its graph is the one just made, not yet the base's
            record_again(ops.CopySlices, (before, x), region, base)
        if modes.forward:
            push_forward(ops.CopySlices, (before, x), region, base)
    x._seen = -1  # the view's own graph is now the base's, seen through the view


def write(
    primitive: type[Primitive],
    xp: Any,
    arrays: Sequence[Any],
    attributes: dict[str, Any],
    target: Any,
) -> None:
    """Runs the kernel into `target`, whose dtype and shape must be able to hold the result."""
    kinds = [a.dtype for a in arrays if type(a) in MODULES]
    if primitive.in_place and all(kind == target.dtype for kind in kinds):
        primitive.kernel(xp, *arrays, **attributes, out=target)
        return
    y = primitive.kernel(xp, *arrays, **attributes)
    order = "buifc".index(y.dtype.kind), "buifc".index(target.dtype.kind)
    if order[0] > order[1] and (order[0] > 2 or order[1] == 0):
        raise RuntimeError(
            f"result type {dtype_of(y.dtype).title} can't be cast to the desired output type "
            f"{dtype_of(target.dtype).title}"
        )
    if broadcast_shapes(y.shape, target.shape) != target.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(y.shape)}"
        )
    xp.copyto(target, y, casting="unsafe")


def bump(x: Any) -> None:
    """Counts one more change of x's memory."""
    if x._cell is None:
        x._cell = [0]
    x._cell[0] += 1


# --- errors ---------------------------------------------------------------------------------------


def explained(primitive: type[Primitive], inputs: tuple[Any, ...], error: Exception) -> Exception:
    """The error a user sees for what a kernel raised: the op, its operands' shapes, the reason."""
    shapes = [
        f"{name} {tuple(x.shape)}"
        for name, x in zip(
            itertools.chain(primitive.input_names, itertools.repeat("")), inputs, strict=False
        )
        if hasattr(x, "shape")
    ]
    message = f"{primitive.title()}: {' and '.join(shapes)}: {error}"
    if isinstance(error, AxisError):
        return IndexError(f"Dimension out of range: {message}")
    if isinstance(error, IndexError):
        return IndexError(message)
    if isinstance(error, TypeError) and "ufunc" not in str(error) and "boolean" not in str(error):
        return TypeError(message)
    return RuntimeError(message)


# --- backward -------------------------------------------------------------------------------------


def fit(g: Any, shape: tuple[int, ...], dtype: Any, node: Node) -> Any:
    """The cotangent in the shape and dtype of the value it belongs to: undoes broadcasting and casts."""
    array = g._array if isinstance(g, Traced) else g
    if array.shape != shape:
        try:
            with elsewhere(g):
                g = ops.sum_to(g, shape)
        except ValueError:
            raise RuntimeError(
                f"{node.name()} returned an invalid gradient: got shape {list(array.shape)}, "
                f"expected shape compatible with {list(shape)}"
            ) from None
    if array.dtype != dtype:
        with elsewhere(g):
            g = ops.cast(g, dtype)
    return g


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

    With `targets` (leaves, or nodes), only what lies on the way to them is computed; the cotangents of
    the targets are returned, and are added to leaves only where `accumulate`.
    """
    wrap, tensors = roots[0]._wrap, on_tensors(create_graph)
    only = None if targets is None else leading_to(roots, targets)
    captured: dict[Any, Any] = dict.fromkeys(targets or ())
    # The cotangent of each node and leaf that was reached; a node's is complete when its turn comes.
    pending: dict[Any, Any] = {}
    owned: set[Any] = set()  # those whose cotangent shares memory with nothing else
    heap: list[tuple[int, Node]] = []
    outer, modes.grad = modes.grad, create_graph
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
                if modes.anomaly:
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
        modes.grad = outer
    return captured


def deposit(leaf: Any, g: Any, wrap: Any, owned: bool, create_graph: bool) -> None:
    """leaf.grad += g. The first write makes an array of its own, so that no two leaves share one."""
    held = leaf._grad
    if held is None:
        if isinstance(g, Traced):
            leaf._grad = ops.clone(g)
        else:
            with elsewhere(g):
                leaf._grad = wrap(g if owned and g.ndim else array_module(g).array(g))
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
    value = g if tensors else wrap(g if hasattr(g, "base") else HOST.asarray(g))
    for hook in list(hooks.values()):
        result = hook(value)
        if result is not None:
            if not isinstance(result, Traced):
                raise TypeError(
                    f"hook: expected a Tensor or None to be returned, got {type(result).__name__}"
                )
            if result._array.shape != value._array.shape:
                raise RuntimeError(
                    f"hook {getattr(hook, '__name__', hook)} has changed the size of the gradient from "
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
