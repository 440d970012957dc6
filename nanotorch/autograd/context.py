"""The nodes of operations that users define: the `ctx` of a Function, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nanotorch.autograd.engine import next_sequence, requires_grad
from nanotorch.autograd.grad_mode import modes
from nanotorch.backend import module_of, on_device
from nanotorch.node import Node, Packed, RemovableHandle, Traced

if TYPE_CHECKING:
    from nanotorch.autograd.function import Function


class Cotangents:
    """What the outputs of one node send to it: each its own cotangent, by position."""

    __slots__ = ("values",)

    # What the engine compares with those of a node of several outputs: nothing to be undone.
    shape = None
    dtype = None

    def __init__(self, values: dict[int, Any]) -> None:
        self.values = values

    @property
    def _array(self) -> Cotangents:
        return self

    def __add__(self, other: Cotangents) -> Cotangents:
        return Cotangents({**self.values, **other.values})


class Context(Node):
    """The node of a `Function`, and the `ctx` that its forward and backward are handed."""

    function: ClassVar[type[Function]]
    wrap: Any
    is_tensor: tuple[bool, ...]

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(isinstance(x, Traced) and requires_grad(x) for x in inputs)
        self.edges = ()
        self.hooks = self.post_hooks = None
        self.before: dict[int, Any] = {}  # the user's hooks, which see all cotangents at once
        self.after: dict[int, Any] = {}
        self.output_count = 0
        self.output_forms: list[Any] = []
        self.materialize_grads = True
        self.saved: Any = ()  # before the outputs are known: the tensors; afterwards what is kept
        self.saved_forward: tuple[Any, ...] = ()
        self.dirty: tuple[Any, ...] = ()
        self.constant: tuple[Any, ...] = ()
        self.finished = False

    # --- what forward may ask for ----------------------------------------------------------------

    def save_for_backward(self, *tensors: Any) -> None:
        """Keeps inputs, outputs or other tensors (or None) for `ctx.saved_tensors`."""
        for tensor in tensors:
            if tensor is not None and not isinstance(tensor, Traced):
                raise TypeError(
                    "save_for_backward can only save variables, but argument "
                    f"{tensors.index(tensor)} is of type {type(tensor).__name__}"
                )
        self.saved = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Keeps tensors for `ctx.saved_tensors` inside `jvp`."""
        self.saved_forward = tensors

    def mark_dirty(self, *tensors: Any) -> None:
        """Names the inputs that forward changes in place; they must be among its outputs."""
        self.dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Names the outputs that never require grad; backward still gets a zero for each."""
        self.constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (the default) or None for outputs without a cotangent."""
        self.materialize_grads = value

    # --- what backward reads ---------------------------------------------------------------------

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors given to `save_for_backward`, refused if changed in place since."""
        if not self.finished:
            return self.saved_forward or tuple(self.saved)
        if self.saved is None:
            raise RuntimeError(
                f"{self.name()}: trying to backward through the graph a second time (or directly "
                "access saved tensors after they have already been freed); specify "
                "retain_graph=True for the first backward"
            )
        return tuple(None if keep is None else keep.tensor(self) for keep in self.saved)

    # --- the node --------------------------------------------------------------------------------

    def name(self) -> str:
        return f"{self.function.__name__}Backward"

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        given = g.values if isinstance(g, Cotangents) else {0: g}
        wrap = self.wrap
        cotangents = []
        for index in range(self.output_count):
            value = given.get(index)
            if value is not None and not tensors:
                value = wrap(value)
            form = self.output_forms[index]
            if value is None and self.materialize_grads and form is not None:
                place, shape, dtype = form
                with on_device(place):
                    value = wrap(module_of(place).zeros(shape, dtype))
            cotangents.append(value)
        for hook in list(self.before.values()):
            changed = hook(tuple(cotangents))
            if changed is not None:
                cotangents = list(changed) if isinstance(changed, tuple) else [changed]
        values = self.checked(self.function.backward(self, *cotangents))
        for hook in list(self.after.values()):
            own = tuple(v for v, x in zip(values, self.is_tensor, strict=True) if x)
            changed = hook(own, tuple(cotangents))
            if changed is not None:
                rest = iter(changed if isinstance(changed, tuple) else (changed,))
                values = [next(rest) if x else None for x in self.is_tensor]
        return values if tensors else [None if v is None else v._array for v in values]

    def register_hook(self, hook: Callable[[Any, Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_inputs, grad_outputs)` after backward; it may return new grad_inputs."""
        return RemovableHandle(self.after, hook)

    def register_prehook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_outputs)` before backward; it may return new grad_outputs."""
        return RemovableHandle(self.before, hook)

    def checked(self, results: Any) -> list[Any]:
        """What backward returned, one cotangent or None per input of forward."""
        values = list(results) if isinstance(results, tuple | list) else [results]
        count = len(self.needs_input_grad)
        while len(values) > count and values[-1] is None:
            values.pop()
        if len(values) != count:
            raise RuntimeError(
                f"function {self.name()} returned an incorrect number of gradients (expected "
                f"{count}, got {len(values)})"
            )
        for index, value in enumerate(values):
            if value is None:
                continue
            if not isinstance(value, Traced):
                raise RuntimeError(f"expected Variable or None (got {type(value).__name__})")
            if not self.is_tensor[index]:
                raise RuntimeError(
                    f"function {self.name()} returned a gradient different than None at position "
                    f"{index + 1}, but the corresponding forward input was not a Variable"
                )
        return values

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The nodes that the edges lead to, one for each argument that is a tensor."""
        pairs = zip(self.is_tensor, super().next_functions, strict=True)
        return tuple(edge for is_tensor, edge in pairs if is_tensor)

    def release(self) -> None:
        if self.saved:
            self.saved = None

    def __repr__(self) -> str:
        return f"<torch.autograd.function.{self.name()} object at {id(self):#x}>"


class Output(Node):
    """One of several outputs of a `Function`: hands its cotangent on to the node of all of them."""

    __slots__ = ("index",)

    def __init__(self, node: Context, index: int, value: Any) -> None:
        self.edges, self.index = (node,), index
        self.shape, self.dtype = value._array.shape, value._array.dtype
        self.hooks = self.post_hooks = None
        self.sequence = next_sequence()

    def name(self) -> str:
        return str(self.edges[0].name())

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        return (Cotangents({self.index: g}),)

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """Those of the node of all outputs: a user meets only that one."""
        return self.edges[0].next_functions  # type: ignore[no-any-return]

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors that the node of all outputs keeps."""
        return self.edges[0].saved_tensors  # type: ignore[no-any-return]

    def register_hook(self, hook: Callable[[Any, Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_inputs, grad_outputs)` after backward, with those of all outputs."""
        return self.edges[0].register_hook(hook)  # type: ignore[no-any-return]

    def register_prehook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Calls `hook(grad_outputs)` before backward, with those of all outputs."""
        return self.edges[0].register_prehook(hook)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return repr(self.edges[0])


class Kept:
    """A tensor kept for backward, with its version and its place in the graph.

    An output is kept without its node, which would be a cycle, and gets it back when it is read.
    """

    def __init__(self, tensor: Any, output: int | None) -> None:
        self.output, self.companion = output, None
        if output is not None:
            if tensor._cell is None:
                tensor._cell = [0]
            self.value = tensor._wrap(tensor._array)
            self.value._cell, self.required = tensor._cell, tensor._requires_grad
        else:
            self.value = tensor
        self.cell = tensor._cell
        self.version = 0 if self.cell is None else self.cell[0]
        if modes.saved_hooks is not None:
            self.value = Packed(self.value, modes.saved_hooks)
        elif tensor._inference:
            raise RuntimeError(
                "save_for_backward: a tensor made in inference_mode cannot be kept for backward; "
                "clone() it outside inference_mode first"
            )

    def tensor(self, node: Context) -> Any:
        """The tensor again; RuntimeError if it was changed in place since."""
        value = self.value
        if isinstance(value, Packed):
            value = value.unpack()
        else:
            cell = value._cell
            now = 0 if cell is None else cell[0]
            if now != self.version:
                raise RuntimeError(
                    f"{node.name()}: one of the variables needed for gradient computation, shape "
                    f"{tuple(value._array.shape)}, has been modified by an inplace operation: it "
                    f"is at version {now}; expected version {self.version} instead"
                )
        if self.output is None or not self.required:
            return value
        output = value._wrap(value._array)
        output._cell, output._requires_grad = self.cell, True
        output._companion = self.companion
        output._node = node if node.output_count == 1 else Output(node, self.output, output)
        return output
