"""Operations that users define: a forward, and the backward they write for it.

    class Exp(Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            (y,) = ctx.saved_tensors
            return g * y

    y = Exp.apply(x)

`ctx` is the node of the graph itself, as in PyTorch: what is put on it lives as long as the graph
does. Source: https://docs.pytorch.org/docs/stable/notes/extending.html#extending-torch-autograd
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from nanotorch import ops
from nanotorch.autograd.context import Context, Kept, Output
from nanotorch.autograd.engine import next_sequence, requires_grad
from nanotorch.autograd.forward_ad import FORWARD, push_to_base, tangents_of
from nanotorch.autograd.grad_mode import modes, no_grad
from nanotorch.autograd.inplace import OF_FUNCTION, write_through
from nanotorch.autograd.rings import closed
from nanotorch.backend import device_of
from nanotorch.node import Node, Traced


class Function:
    """An operation of one's own: subclass it, write `forward` and `backward`, call `apply`.

    forward(ctx, *args) computes one tensor or several; nothing in it is recorded. It may instead be
    forward(*args), with setup_context(ctx, inputs, output) beside it. backward(ctx, *grad_outputs)
    gets one cotangent per output and returns one per argument, None for those that are no tensors.
    Where it uses tensor operations only, it can be differentiated again. jvp(ctx, *tangents), one
    per argument, returns the tangents of the outputs and serves forward mode.
    """

    _context: ClassVar[type[Context]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._context = type(f"{cls.__name__}Backward", (Context,), {"function": cls})

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Computes the outputs."""
        raise NotImplementedError(
            "You must implement the forward function for custom autograd.Function."
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Keeps on ctx what backward needs, where forward is written without ctx."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The cotangents of the arguments, from those of the outputs."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom "
            "autograd.Function to use it with backward mode AD."
        )

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """The tangents of the outputs, from those of the arguments."""
        raise NotImplementedError(
            "You must implement the jvp function for custom autograd.Function to use it with "
            "forward mode AD."
        )

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The outputs of forward(*args), recorded with this class's backward."""
        if cls is Function:
            Function.forward()
        ctx = cls._context(args)
        tensors = [x for x in args if isinstance(x, Traced)]
        edges = [place_of(x, wanted) for x, wanted in zip(args, ctx.needs_input_grad, strict=True)]
        tangents = tangents_of(args) if FORWARD in modes.rings else []
        with closed(FORWARD), no_grad():
            if cls.setup_context is Function.setup_context:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        several = isinstance(result, tuple)
        given = list(result) if several else [result]
        outputs = settle(ctx, given, args, edges, tensors)
        if any(t is not None for t in tangents):
            push(cls, ctx, args, tangents, outputs)
        ctx.saved_forward, ctx.finished = (), True
        return tuple(outputs) if several else outputs[0]


def place_of(x: Any, wanted: bool) -> Any:
    """The end of the edge to an argument: its node, the leaf itself, or None."""
    if not wanted:
        return None
    return x if x._node is None else x._node


def settle(
    ctx: Context, given: list[Any], args: tuple[Any, ...], edges: list[Any], tensors: list[Any]
) -> list[Any]:
    """The outputs as the caller gets them: recorded where a gradient is wanted, and kept on ctx."""
    recorded = modes.grad and any(ctx.needs_input_grad)
    dirty, constant = identities(ctx.dirty), identities(ctx.constant)
    for x in ctx.dirty:
        if recorded and x._requires_grad and x._node is None:
            raise RuntimeError(
                "a leaf Variable that requires grad has been used in an in-place operation."
            )
        if not any(x is value for value in given):
            raise RuntimeError(
                "Some elements marked as dirty during the forward method were not returned as "
                "output. The inputs that are modified inplace must all be outputs of the Function."
            )
    ctx.is_tensor = tuple(isinstance(x, Traced) for x in args)
    wrap = tensors[0]._wrap if tensors else None
    outputs, places = [], {}
    for index, value in enumerate(given):
        if not isinstance(value, Traced):
            outputs.append(value)
            continue
        wrap = wrap or value._wrap
        places[id(value)] = index
        if id(value) in dirty:
            outputs.append(value)
        elif any(value is x for x in tensors) or value._base is not None:
            outputs.append(ops.alias(value.detach()))  # type: ignore[attr-defined]
        else:
            outputs.append(value)
    ctx.wrap = wrap
    ctx.output_count = len(outputs)
    ctx.output_forms = [form_of(value) for value in outputs]
    if recorded:
        ctx.edges, ctx.sequence = tuple(edges), next_sequence()
        ctx.shape = ctx.dtype = None  # type: ignore[assignment]
        for index, value in enumerate(outputs):
            if isinstance(value, Traced) and id(given[index]) not in constant:
                attach(ctx, index, value, id(given[index]) in dirty)
        ctx.saved = tuple(
            None
            if x is None
            else Kept(outputs[places[id(x)]] if id(x) in places else x, places.get(id(x)))
            for x in ctx.saved
        )
    else:
        ctx.saved = ()
    ctx.dirty = ctx.constant = ()
    return outputs


def identities(tensors: Sequence[Any]) -> set[int]:
    """The identities of tensors, which compare element by element and so cannot be searched for."""
    return {id(x) for x in tensors}


def form_of(value: Any) -> Any:
    """(device, shape, dtype) of an output, for its zero cotangent; None for no tensor."""
    if not isinstance(value, Traced):
        return None
    array = value._array
    return device_of(array), array.shape, array.dtype


def attach(ctx: Context, index: int, value: Any, dirty: bool) -> None:
    """Makes ctx the node of an output, through an `Output` where there are several."""
    if value._array.dtype.kind not in "fVc":
        return
    if ctx.output_count == 1:
        ctx.shape, ctx.dtype = value._array.shape, value._array.dtype
        value._node = ctx
    else:
        value._node = Output(ctx, index, value)
    value._requires_grad = True
    if value._base is not None:
        if dirty:
            write_through(value)
        else:
            value._path = OF_FUNCTION


def push(
    cls: type[Function],
    ctx: Context,
    args: tuple[Any, ...],
    tangents: list[Any],
    outputs: list[Any],
) -> None:
    """Sets the tangents of the outputs by the class's `jvp`."""
    ctx.finished = False
    with closed(FORWARD):
        given = [
            ops.zeros_like(x)
            if t is None and ctx.materialize_grads and isinstance(x, Traced)
            else t
            for x, t in zip(args, tangents, strict=True)
        ]
        saved, ctx.saved = ctx.saved, ctx.saved_forward
        moved = cls.jvp(ctx, *given)
        ctx.saved = saved
    moved = moved if isinstance(moved, tuple) else (moved,)
    if len(moved) != len(outputs):
        raise RuntimeError(
            f"{cls.__name__}.jvp returned {len(moved)} tangents for {len(outputs)} outputs"
        )
    for value, t in zip(outputs, moved, strict=True):
        if t is None or not isinstance(value, Traced):
            continue
        if t._array.shape != value._array.shape:
            raise RuntimeError(
                f"{cls.__name__}.jvp: expected a tangent of shape {tuple(value._array.shape)}, got "
                f"{tuple(t._array.shape)}"
            )
        value._companion = t
        push_to_base(value)
    for keep in ctx.saved:
        if keep is not None and keep.output is not None:
            keep.companion = moved[keep.output]


class Refusing(Node):
    """The node of a value whose own derivative was declared not to exist."""

    __slots__ = ("message",)

    def __init__(self, message: str, value: Any, inputs: Sequence[Any]) -> None:
        self.message = message
        self.edges = tuple(x if x._node is None else x._node for x in inputs)
        self.shape, self.dtype = value._array.shape, value._array.dtype
        self.hooks = self.post_hooks = None
        self.sequence = next_sequence()

    def name(self) -> str:
        return "DelayedErrorBackward0"

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        raise RuntimeError(self.message)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Declares that a backward cannot be differentiated again: to try is a RuntimeError."""

    @functools.wraps(backward)
    def once(ctx: Any, *grad_outputs: Any) -> Any:
        with no_grad():
            results = backward(ctx, *grad_outputs)
        sources = [g for g in grad_outputs if isinstance(g, Traced) and requires_grad(g)]
        if not modes.grad or not sources:
            return results
        several = isinstance(results, tuple)
        values = [
            refusing(v, sources) if isinstance(v, Traced) else v
            for v in (results if several else (results,))
        ]
        return tuple(values) if several else values[0]

    return once


def refusing(value: Any, sources: Sequence[Any]) -> Any:
    """The value with a node that refuses to be walked through."""
    out = value.detach()
    out._node = Refusing(
        "trying to differentiate twice a function that was marked with @once_differentiable",
        value,
        sources,
    )
    out._requires_grad = True
    return out
