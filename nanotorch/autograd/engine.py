"""The engine: computes a primitive, and records it.

`apply` runs the kernel on the inputs' arrays and, if an input requires grad and recording is on,
makes the instance of the primitive that becomes the output's `grad_fn`. `apply_inplace` does the
same into the memory of a tensor, and tells the base and the other views of that memory.
"""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.forward_ad import push_forward
from nanotorch.autograd.grad_mode import casting, modes
from nanotorch.autograd.placement import placed
from nanotorch.backend import (
    HOST,
    MODULES,
    AxisError,
    array_module,
    broadcast_shapes,
    dtype_of,
    promote,
)
from nanotorch.backend.errors import OutOfRange
from nanotorch.backend.halves import kernel_of
from nanotorch.primitive import (
    KEEP_NOTHING,
    Node,
    Packed,
    Primitive,
    RemovableHandle,
    Traced,
)

_sequence = itertools.count()
next_sequence = _sequence.__next__
PACKAGE = __file__.removesuffix(os.path.join("autograd", "engine.py"))


def apply(
    self: Any, primitive: type[Primitive], inputs: tuple[Any, ...], attributes: dict[str, Any]
) -> Any:
    """y = primitive(inputs), computed now and recorded if a gradient may be wanted.

    `self` is the first tensor among the inputs; the result is wrapped as its `_wrap` does.
    """
    if casting and modes.autocast is not None:
        inputs = modes.autocast(primitive, inputs)
        self = next(x for x in inputs if isinstance(x, Traced))
    arrays: Any = []
    tracked = False
    for x in inputs:
        if isinstance(x, Traced):
            try:
                if x._requires_grad or x._base is not None:
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
            cast = promote(arrays, primitive.promotes == "floating")
            if cast is not arrays:
                arrays = cast
                array = next(a for a in arrays if type(a) in MODULES)
        plain = xp is HOST and array.itemsize != 2  # which spares most ops a call
        kernel = primitive.kernel if plain else kernel_of(primitive, xp, array)
        y = kernel(xp, *arrays, **attributes)
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
    """Makes the node of out = primitive(inputs) for `out`; None if no input wants a gradient."""
    if out._array.dtype.kind not in "fVc":
        return None
    edges: list[Any] = []
    wanted, bit = 0, 1
    differentiable = primitive.differentiable
    for x in inputs:
        edge = None
        if isinstance(x, Traced) and (differentiable & bit or primitive.variadic):
            if x._base is not None:
                refresh(x)
            if x._requires_grad:
                wanted |= bit
                edge = x._node
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
    lines: list[str] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if lines or frame.f_back is None or not file.startswith(PACKAGE):
            text = linecache.getline(file, line).strip()
            where = f'  File "{file}", line {line}, in {frame.f_code.co_name}\n'
            lines.append(f"{where}    {text}\n" if text else where)
        frame = frame.f_back
    return lines[::-1]


def keep(node: Primitive, plan: Any, inputs: tuple[Any, ...], out: Any) -> None:
    """Keeps on the node what the rules of the wanted inputs name, and the versions thereof."""
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
                elif x._inference:
                    raise RuntimeError(
                        f"{node.name()}: a tensor made in inference_mode cannot be kept for "
                        "backward; "
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
    """Notes that `out` shows memory of `x`: their base, the way to it, and one version counter."""
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
            record_again(ops.AsStrided, (base,), {"path": x._path}, x)


def check_inplace(x: Any, operands: Iterable[Any] = ()) -> None:
    """Refuses to write, while it is recorded, to a leaf that requires grad or a view of one."""
    if x._inference and not modes.inference:
        raise RuntimeError(
            "an inference tensor may not be changed in place outside inference_mode; clone() "
            "it first"
        )
    if not modes.grad:
        return
    if requires_grad(x) and x._node is None:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation; "
            "do it within no_grad(), or on its detach()"
        )
    base = x._base
    if base is not None and base._node is None and (base._requires_grad or x._requires_grad):
        raise RuntimeError(
            "a view of a leaf Variable that requires grad is being used in an in-place operation; "
            "do it within no_grad(), or on its detach()"
        )
    if base is None or not any(isinstance(o, Traced) and o._requires_grad for o in (x, *operands)):
        return
    if x._made_in_no_grad:
        raise RuntimeError(
            "a view was created in no_grad mode and is being modified inplace with grad mode "
            "enabled"
        )
    if any(primitive.among_others for primitive, _ in x._path):
        raise RuntimeError(
            f"{x._path[-1][0].__name__}: its output is one of several views of a tensor and is "
            "being "
            "modified inplace; clone() it first, or take it by index"
        )


def apply_inplace(primitive: type[Primitive], x: Any, *operands: Any, **attributes: Any) -> Any:
    """x := primitive(x, operands), in x's own memory; returns x."""
    # As in PyTorch, what is copied into integers leaves no trace in the graph.
    traceless = primitive is ops.Copy and x._array.dtype.kind not in "fVc"
    check_inplace(x, () if traceless else operands)
    inputs = (x, *operands)
    arrays: Any = [o._array if isinstance(o, Traced) else o for o in inputs]
    if len(MODULES) > 1:
        other = placed(primitive, inputs, arrays, x)
        if other is not None:
            with other[1]:
                return apply_inplace(primitive, *other[0], **attributes)
    recorded = modes.grad and any(isinstance(o, Traced) and requires_grad(o) for o in inputs)
    old = x
    if recorded or modes.forward:
        old = before_writing(primitive, x, operands)
        operands = tuple(unwritten(o, x) for o in operands)
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
    """A stand-in for x before it is written to: its graph and, if a rule asks, its value."""
    old = x._wrap(x._array)
    old._requires_grad, old._node, old._tangent = x._requires_grad, x._node, x._tangent
    if x._base is not None and x._node is not None:  # hooks on the view are not on this way
        record(ops.AsStrided, (x._base,), {"path": x._path}, old)
    wanted = 0
    for index, o in enumerate((x, *operands)):
        if isinstance(o, Traced) and o._requires_grad and index < len(primitive.vjp):
            wanted |= 1 << index
    if modes.forward or 0 in primitive.plan(wanted)[0]:
        old._array = x._array.copy()
        if modes.recorder is not None:
            modes.recorder.copied(old, x)
    return old


def unwritten(o: Any, x: Any) -> Any:
    """The operand o, or a stand-in if it shows memory of x, which is about to be written to."""
    if not isinstance(o, Traced) or (o is not x and (o._cell is None or o._cell is not x._cell)):
        return o
    if o._requires_grad and o._node is None:
        return o  # a leaf: its gradient is to reach itself
    old = o._wrap(o._array.copy())
    old._requires_grad, old._node, old._tangent = o._requires_grad, o._node, o._tangent
    if modes.recorder is not None:
        modes.recorder.copied(old, o)
    return old


def written(
    primitive: type[Primitive],
    x: Any,
    inputs: tuple[Any, ...],
    attributes: dict[str, Any],
    recorded: bool,
) -> None:
    """Makes the graph (and the tangent) of a tensor that primitive(inputs) was written into."""
    node = None
    if recorded:
        node = record_again(primitive, inputs, attributes, x)
        if node is not None and x._base is not None:
            node.hooks = None  # what retain_grad() asks for is on the view's next node
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
    if x._retains_grad and node is not None:
        kept = old.hooks.items() if old is not None and old.hooks else ()
        for identifier in [k for k, hook in kept if hook is x._retains_grad]:
            del old.hooks[identifier]
        node.hooks = {}
        RemovableHandle(node.hooks, x._retains_grad)
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
        kernel_of(primitive, xp, target)(xp, *arrays, **attributes, out=target)
        return
    y = kernel_of(primitive, xp, target)(xp, *arrays, **attributes)
    order = "buifVc".index(y.dtype.kind), "buifVc".index(target.dtype.kind)
    if order[0] > order[1] and (order[0] > 2 or order[1] == 0) and order != (4, 3):
        raise RuntimeError(
            f"result type {dtype_of(y.dtype).title} can't be cast to the desired output type "
            f"{dtype_of(target.dtype).title}"
        )
    if broadcast_shapes(y.shape, target.shape) != target.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape "
            f"{list(y.shape)}"
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
    if isinstance(error, OutOfRange):  # which names its op itself, on a GPU another than this one
        return error
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
