"""The two ways to ask for gradients: `backward` adds them to the leaves, `grad` returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.engine import requires_grad
from nanotorch.autograd.walk import on_tensors, walk
from nanotorch.backend import HOST, copy_of
from nanotorch.backend.silence import silent
from nanotorch.node import Traced


def several(value: Any) -> tuple[Any, ...]:
    """One tensor or a sequence of them, as a tuple."""
    return (value,) if value is None or isinstance(value, Traced) else tuple(value)


def starting_cotangents(outputs: Sequence[Any], given: Any, create_graph: bool) -> list[Any]:
    """A cotangent for each output: the one given, or 1 for an output of one element."""
    cotangents = several(given)
    if given is None:
        cotangents = (None,) * len(outputs)
    if len(cotangents) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(cotangents)} gradients")
    tensors = on_tensors(create_graph)
    started = []
    for index, (output, g) in enumerate(zip(outputs, cotangents, strict=True)):
        if not requires_grad(output):
            raise RuntimeError(
                f"element {index} of tensors does not require grad and does not have a grad_fn"
            )
        if g is None:
            if output._array.size != 1:
                raise RuntimeError(
                    "grad can be implicitly created only for scalar outputs, got one of shape "
                    f"{tuple(output._array.shape)}; pass a gradient of that shape"
                )
            started.append(one(output, tensors))
            continue
        elif not isinstance(g, Traced):
            raise TypeError(f"gradients can be either Tensors or None, but got {type(g).__name__}")
        elif g._array.shape != output._array.shape:
            raise RuntimeError(
                f"Mismatch in shape: grad_output[{index}] has a shape of {g.shape} and "  # type: ignore[attr-defined]
                f"output[{index}] "
                f"has a shape of {output.shape}."
            )
        if g._array.dtype != output._array.dtype:
            g = ops.cast(g, output._array.dtype)
        started.append(g if tensors else g._array)
    return started


def one(output: Any, tensors: bool) -> Any:
    """The cotangent 1 of an output of one element."""
    array = output._array
    if tensors or array.ndim or not isinstance(array, HOST.ndarray):
        return ops.ones_like(output if tensors else array)
    return array.dtype.type(1)  # a NumPy scalar: made in a tenth of the time of an array


def places_of(inputs: Sequence[Any], op: str) -> list[Any]:
    """Where the cotangents of the inputs arrive: leaves themselves, nodes of the others."""
    for x in inputs:
        if not isinstance(x, Traced):
            raise TypeError(f"{op}: expected Tensors as inputs, got {type(x).__name__}")
        if not requires_grad(x):
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    return [x if x._node is None else x._node for x in inputs]


@silent
def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Adds the gradients of the tensors, weighted by `grad_tensors`, to the `.grad` of the leaves.

    tensors: one or several; those with more than one element need a gradient of their shape.
    retain_graph: keep what the graph holds, for another backward; by default only with
    create_graph.
    create_graph: record the backward pass itself, for higher derivatives.
    inputs: only these tensors receive gradients, leaves or not.
    """
    outputs = several(tensors)
    if not outputs:
        return
    cotangents = starting_cotangents(outputs, grad_tensors, create_graph)
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        walk(outputs, cotangents, retain_graph=retain, create_graph=create_graph)
        return
    wanted = several(inputs)
    if not wanted:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    places = places_of(wanted, "backward")
    for x in wanted:
        if x._node is not None:
            x.retain_grad()  # which is how its gradient gets into its `.grad`, as in PyTorch
    walk(outputs, cotangents, retain_graph=retain, create_graph=create_graph, targets=places)


@silent
def grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None,
    create_graph: bool = False, only_inputs: bool = True, allow_unused: bool | None = None,
    is_grads_batched: bool = False, materialize_grads: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """The gradients of the outputs, weighted by `grad_outputs`, with respect to the inputs.

    An input that the outputs do not depend on is a RuntimeError, or gives None with `allow_unused`,
    or zeros with `materialize_grads`. With `is_grads_batched` the first dimension of `grad_outputs`
    counts several weightings; they are walked one after the other. `only_inputs` changes nothing.
    """
    results, wanted = several(outputs), several(inputs)
    if allow_unused is None:
        allow_unused = materialize_grads
    elif not allow_unused and materialize_grads:
        raise ValueError(
            "Expected allow_unused to be True or not passed when materialize_grads=True"
        )
    if is_grads_batched:
        return batched_grad(
            results, wanted, several(grad_outputs), create_graph, allow_unused, materialize_grads
        )
    cotangents = starting_cotangents(results, grad_outputs, create_graph)
    places = places_of(wanted, "grad")
    found = walk(
        results,
        cotangents,
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        targets=places,
        accumulate=False,
    )
    gradients: list[Any] = []
    for x, place in zip(wanted, places, strict=True):
        g = found.get(place)
        if g is None:
            if not allow_unused:
                raise RuntimeError(
                    "One of the differentiated Tensors appears to not have been used in the graph. "
                    "Set allow_unused=True if this is the desired behavior."
                )
            g = ops.zeros_like(x) if materialize_grads else None
        elif not isinstance(g, Traced):
            g = x._wrap(own(g, gradients, cotangents))
        gradients.append(g)
    return tuple(gradients)


def own(g: Any, before: Sequence[Any], given: Sequence[Any]) -> Any:
    """g as an array whose memory belongs to no other gradient."""
    taken = [*given, *(getattr(other, "_array", None) for other in before)]
    if getattr(g, "base", None) is not None or any(g is other for other in taken) or not g.ndim:
        return copy_of(g)
    return g


def batched_grad(
    results: Sequence[Any],
    wanted: Sequence[Any],
    batches: Sequence[Any],
    create_graph: bool,
    allow_unused: bool,
    materialize: bool,
) -> tuple[Any, ...]:
    """`grad` for each entry along the first dimension of the given cotangents, stacked."""
    rows = [
        grad(
            results,
            wanted,
            [b[i] for b in batches],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=allow_unused,
            materialize_grads=materialize,
        )
        for i in range(batches[0].shape[0])
    ]
    return tuple(
        None if column[0] is None else ops.stack(column) for column in zip(*rows, strict=True)
    )
