"""Views, and writing in place.

Writing v into a view of b is `b = CopySlices(b, v; path)`, an ordinary linear primitive, where
`path` is the chain of view kernels from b to the view. All views of one base share a version
counter; a view made before a write takes a new node (`AsStrided`) when it is next used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nanotorch import ops
from nanotorch.autograd.engine import Attributes, Inputs, record, requires_grad
from nanotorch.autograd.errors import KERNEL_ERRORS, explained
from nanotorch.autograd.rings import Rings, modes
from nanotorch.backend import HOST, MODULES, array_module, broadcast_shapes, dtype_of, promote
from nanotorch.backend.halves import kernel_of
from nanotorch.backend.layouts import check_apart
from nanotorch.backend.silence import silent
from nanotorch.node import Node, RemovableHandle, Traced
from nanotorch.primitive import Primitive

# The path of a view that a custom Function returned: what it shows is the Function's affair.
OF_FUNCTION: Any = ((None, {}),)


def bump(x: Any) -> None:
    """Counts one more change of x's memory."""
    if x._cell is None:
        x._cell = [0]
    x._cell[0] += 1


# --- views ----------------------------------------------------------------------------------------


def become_view(out: Any, x: Any, primitive: type[Primitive], attributes: Attributes) -> None:
    """Notes that `out` shows memory of `x`: their base, the way to it, and one version counter."""
    cell, base = x._cell, x._base
    if cell is None:
        cell = x._cell = [0]
    out._cell, out._seen, step = cell, cell[0], (primitive, attributes)
    if base is None or (x._requires_grad and x._node is None):  # a leaf is its own base
        out._path, out._base = (step,), x
    else:
        out._path, out._base = (*x._path, step), base
    if x._made_in_no_grad or not modes.grad:
        out._made_in_no_grad = True


def refresh(x: Any) -> None:
    """Gives the view x a new node if its base was written to since x took its last one."""
    base = x._base
    if x._seen == x._cell[0]:
        return
    if x._path[0] is OF_FUNCTION[0]:
        raise RuntimeError(
            "an output of a custom Function is a view and its base has been modified inplace, "
            "which its backward knows nothing of; clone() it in the Function's forward"
        )
    if base._requires_grad and (base._node is not None or not x._made_in_no_grad):
        x._seen = x._cell[0]
        record_again(ops.AsStrided, (base,), {"path": x._path}, x)


def as_it_was(x: Any, copy: bool = False) -> Any:
    """A stand-in for x before it is written to: its place in the graph; in a copy, its value."""
    old = x._wrap(x._array.copy() if copy else x._array)
    old._requires_grad, old._node, old._companion = x._requires_grad, x._node, x._companion
    if copy:
        modes.listener.copied(old, x)
    return old


# --- writing in place -----------------------------------------------------------------------------


def apply_inplace(primitive: type[Primitive], x: Any, *operands: Any, **attributes: Any) -> Any:
    """x := primitive(x, operands), in x's own memory, read as `engine.apply` does; returns x."""
    return go_on_writing(primitive, (x, *operands), attributes, modes.rings)


def go_on_writing(
    primitive: type[Primitive], inputs: Inputs, attributes: Attributes, rest: Rings
) -> Any:
    """inputs[0] := primitive(inputs), read by the rest of the rings, and by the engine last, which
    computes it now and records it if a gradient may be wanted."""
    if rest:
        return rest[0].write(primitive, inputs, attributes, rest[1:])
    x, operands = inputs[0], inputs[1:]
    # As in PyTorch, what is copied into integers leaves no trace in the graph.
    traceless = primitive is ops.Copy and x._array.dtype.kind not in "fVc"
    check_inplace(x, () if traceless else operands)
    arrays = [getattr(o, "_array", o) for o in inputs]
    recorded = modes.grad and True in [isinstance(o, Traced) and requires_grad(o) for o in inputs]
    before: Inputs = ()
    if recorded:
        before = (before_writing(primitive, x, operands), *(unwritten(o, x) for o in operands))
    try:
        run_into(x._array, primitive, arrays, attributes)
    except KERNEL_ERRORS as error:
        raise explained(primitive, inputs, error) from error
    bump(x)
    node = None
    if recorded:
        node = record_again(primitive, before, attributes, x)
        if node is not None and x._base is not None:
            node.hooks = None  # what retain_grad() asks for is on the view's next node
    if x._base is not None:
        write_through(x, node is not None)
    return x


def check_inplace(x: Any, operands: Iterable[Any] = ()) -> None:
    """Refuses to write to what is expanded and, while it is recorded, to a leaf that requires grad
    or a view of one."""
    check_apart(x._array)
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
    if base is not None and x._path[0] is OF_FUNCTION[0]:
        raise RuntimeError(
            "an output of a custom Function that is a view is being modified inplace, which its "
            "backward knows nothing of; clone() it in the Function's forward"
        )
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
    if any(primitive.one_of_several for primitive, _ in x._path):
        raise RuntimeError(
            f"{x._path[-1][0].__name__}: its output is one of several views of a tensor and is "
            "being modified inplace; clone() it first, or take it by index"
        )


def before_writing(primitive: type[Primitive], x: Any, operands: Iterable[Any]) -> Any:
    """A stand-in for x before it is written to: its graph and, if a rule asks, its value."""
    wanted = 0
    for index, o in enumerate((x, *operands)):
        if isinstance(o, Traced) and o._requires_grad and index < len(primitive.vjp):
            wanted |= 1 << index
    old = as_it_was(x, copy=0 in primitive.to_save(wanted)[0])
    if x._base is not None and x._node is not None:  # hooks on the view are not on this way
        record(ops.AsStrided, (x._base,), {"path": x._path}, old)
    return old


def unwritten(o: Any, x: Any) -> Any:
    """The operand o, or a stand-in if it shows memory of x, which is about to be written to."""
    if not isinstance(o, Traced) or (o is not x and (o._cell is None or o._cell is not x._cell)):
        return o
    if o._requires_grad and o._node is None:
        return o  # a leaf: its gradient is to reach itself
    return as_it_was(o, copy=True)


@silent
def run_into(target: Any, primitive: type[Primitive], arrays: Any, attributes: Attributes) -> None:
    """Runs the kernel into `target`, whose dtype and shape must be able to hold the result."""
    xp = array_module(target)
    kernel = kernel_of(primitive, xp, target)
    if primitive.promotes:
        arrays = promote(arrays, primitive.promotes == "floating")
    others = [a for a in arrays if type(a) in MODULES and a.dtype is not target.dtype]
    if primitive.in_place and not others:
        if primitive.on_host is not None and type(target) is HOST.ndarray and target.itemsize != 2:
            primitive.on_host(*arrays, target)  # in half the time of the kernel around it
        else:
            kernel(xp, *arrays, **attributes, out=target)
        return
    y = kernel(xp, *arrays, **attributes)
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


def record_again(
    primitive: type[Primitive], inputs: Inputs, attributes: Attributes, x: Any
) -> Node | None:
    """Records what x holds now; the hook of retain_grad() moves to the new node."""
    old = x._node
    node = record(primitive, inputs, attributes, x)
    if x._retains_grad and node is not None:
        hooks = old.hooks.items() if old is not None and old.hooks else ()
        for identifier in [k for k, hook in hooks if hook is x._retains_grad]:
            del old.hooks[identifier]
        node.hooks = {}
        RemovableHandle(node.hooks, x._retains_grad)
    return node


def write_through(x: Any, recorded: bool = True) -> None:
    """Gives the base of the view x, which was written to, its new node."""
    if recorded:
        x._seen = x._cell[0]  # so that `record` takes the node of x just made, and not a refreshed
        base = x._base
        record_again(ops.CopySlices, (as_it_was(base), x), {"path": x._path}, base)
    x._seen = -1  # out of date: when next used, x takes a node from the base, as other views do
