"""The engine: computes a primitive, and records it.

`apply` hands a primitive to the open rings; with none it is `eager`, which runs the kernel on the
inputs' arrays and, if an input requires grad and recording is on, makes the instance of the
primitive that becomes the output's `grad_fn`.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

from nanotorch.autograd.errors import KERNEL_ERRORS, explained, forward_lines
from nanotorch.autograd.rings import Rings, modes
from nanotorch.backend import HOST, MODULES, array_module, silence
from nanotorch.node import Node, Packed, Traced
from nanotorch.primitive import SAVE_NOTHING, Primitive, run

Inputs = tuple[Any, ...]  # tensors, and numbers or whatever else a kernel takes
Attributes = dict[str, Any]

next_sequence = itertools.count().__next__


def apply(
    self: Any, primitive: type[Primitive], inputs: Inputs, attributes: Attributes,
    rings: Rings | None = None,
) -> Any:  # fmt: skip
    """y = primitive(inputs): read by the rings (None: those that are open), and by the engine last,
    which computes it now and records it if a gradient may be wanted.

    `self` is the first tensor among the inputs; the result is a tensor as `self._new` makes it.
    """
    if rings is None:
        rings = modes.rings
    if rings:
        return rings[0](primitive, inputs, attributes, rings[1:])
    array, tracked = self._array, self._requires_grad or self._base is not None
    several = len(inputs) > 1
    arrays: Any = [] if several else [array]
    for x in inputs if several else ():
        if isinstance(x, Traced):
            try:  # tracked: an input requires grad, or may: a view
                tracked = tracked or x._requires_grad or x._base is not None
            except AttributeError:  # Traced, but no tensor (a formula of `sym`): its way
                return x._apply(primitive, inputs, attributes)
            x = x._array
        arrays.append(x)
    if warnings.filters[0] is not silence.foremost:
        silence.hold_back()
    try:
        y = run(primitive, array, arrays, attributes)
    except silence.NUMPY_ERRORS:
        y = silence.silently(run, primitive, array, arrays, attributes)
    except KERNEL_ERRORS as error:
        raise explained(primitive, inputs, error) from error
    if type(y) is not HOST.ndarray and type(y) not in MODULES:  # a scalar of NumPy
        y = array_module(array).asarray(y)
    out = self._new()
    out._array = y
    if primitive.view:
        out._become_view_of(self, primitive, attributes)
    if tracked and modes.grad:
        record(primitive, inputs, attributes, out)
    if modes.inference:
        out._inference = self._inference or not primitive.view
    return out


def go_on(primitive: type[Primitive], inputs: Inputs, attributes: Attributes, rest: Rings) -> Any:
    """y = primitive(inputs), read by the rest of the rings: how a ring hands it on."""
    first = next(x for x in inputs if isinstance(x, Traced))
    return apply(first, primitive, inputs, attributes, rest)


def requires_grad(x: Any) -> bool:
    """Whether x is recorded; a view first takes over what was written to its base."""
    if x._base is not None:
        x._refresh()
    required: bool = x._requires_grad
    return required


def record(
    primitive: type[Primitive], inputs: Inputs, attributes: Attributes, out: Any
) -> Node | None:
    """Makes the node of out = primitive(inputs) for `out`; None if no input wants a gradient."""
    array, dtype = out._array, out._array.dtype
    if dtype.kind not in "fVc":  # floating point, bfloat16, complex
        return None
    edges: list[Any] = []
    wanted, place, differentiable = 0, 1, primitive.differentiable  # bit masks of the inputs
    for x in inputs:
        edge = None
        if isinstance(x, Traced) and differentiable & place:
            if x._base is not None:
                x._refresh()
            if x._requires_grad:
                wanted |= place
                edge = x._node or x
        edges.append(edge)
        place += place
    if not wanted:
        return None
    node = primitive()
    node.sequence, node.edges, node.attributes = next_sequence(), tuple(edges), attributes
    node.shape, node.dtype = array.shape, dtype
    wanted = 1 if primitive.variadic else wanted  # one rule for all inputs
    saving = primitive.savings.get(wanted) or primitive.to_save(wanted)
    if saving is not SAVE_NOTHING:
        save(node, saving, inputs, out)
    if modes.anomaly:
        node.trace = forward_lines()
    out._node, out._requires_grad = node, True
    return node


def save(node: Primitive, saving: Any, inputs: Inputs, out: Any) -> None:
    """Saves on the node what the rules of the wanted inputs name, each with its version.

    `saving`, from `Primitive.to_save`: the indices of inputs, whether the output, whether shapes.
    """
    (indices, save_output, save_shapes), hooks = saving, modes.saved_hooks
    if save_shapes and len(inputs) == 1:
        node.shapes = [inputs[0]._array.shape]
    elif save_shapes:
        node.shapes = [
            x._array.shape if isinstance(x, Traced) else getattr(x, "shape", ()) for x in inputs
        ]
    if indices:
        if node.rest in indices:  # stands for all inputs from there on
            indices = (*indices, *range(node.rest + 1, len(inputs)))
        node.inputs = saved = [None] * len(inputs)
        node.versions = versions = [0] * len(inputs)
        for index in indices:
            saved[index] = x = inputs[index]
            if isinstance(x, Traced):
                if x._cell is not None:
                    versions[index] = x._cell[0]
                if hooks is not None:
                    saved[index] = Packed(x, hooks)  # type: ignore[call-overload]
                elif x._inference:
                    raise RuntimeError(
                        f"{node.name()}: a tensor made in inference_mode cannot be kept for "
                        "backward; clone() it outside inference_mode first"
                    )
    if save_output:
        value, cell = out._array, out._cell
        if cell is None:
            out._cell = cell = [0]
        if hooks is not None:
            value = Packed(out._wrap(value), hooks)
        node.inputs = node.inputs or ()
        node.output = [value, cell, cell[0], out._wrap, None]
