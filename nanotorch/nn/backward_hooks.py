"""Module hooks in the backward pass.

The tensors that enter a module pass one gate, those that leave it another. A gate has a node
through which the cotangents of all its tensors go together, which is where the hooks see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import Array
from nanotorch.primitive import Primitive, apply
from nanotorch.tensor import Tensor

Cotangents = tuple[Any, ...]


class Gate(Primitive):
    """An empty tensor on which all that passed depends: its node returns their cotangents."""

    vjp = (lambda g, passage, index: passage.take(index),)

    @staticmethod
    def kernel(xp: Any, *inputs: Array, passage: Passage, out: Array | None = None) -> Array:
        return xp.zeros(0, inputs[0].dtype) if out is None else out


class Passed(Primitive):
    """y = x, whose cotangent is handed to the gate."""

    vjp = (lambda g, token, passage, number: passage.put(token, number, g), None)

    @staticmethod
    def kernel(
        xp: Any, token: Array, x: Array, *, passage: Passage, number: int, out: Array | None = None
    ) -> Array:
        if out is None:
            return x
        xp.copyto(out, x)
        return out


class Passage:
    """The cotangents of the tensors of one gate during a backward pass."""

    def __init__(self, count: int, when_complete: Callable[[Cotangents], Cotangents]) -> None:
        self.held: list[Any] = [None] * count
        self.results: Cotangents | None = None
        self.when_complete = when_complete

    def put(self, token: Any, number: int, g: Any) -> Any:
        """Keeps a cotangent; the first of a new pass forgets those of the last."""
        if self.results is not None:
            self.held, self.results = [None] * len(self.held), None
        self.held[number] = g
        return token

    def take(self, index: int) -> Any:
        """The cotangent of one tensor, after the hooks have seen all."""
        if self.results is None:
            raw = not any(isinstance(g, Tensor) for g in self.held)
            cotangents = tuple(Tensor._wrap(g) if raw and g is not None else g for g in self.held)
            results = self.when_complete(cotangents)
            self.results = tuple(g._array if raw and g is not None else g for g in results)
        return self.results[index]


def through_gate(
    values: Sequence[Any], when_complete: Callable[[Cotangents], Cotangents]
) -> tuple[tuple[Any, ...], list[int]]:
    """The values, those that require grad behind a gate, and the places of these."""
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    if not places:
        return tuple(values), places
    passage = Passage(len(places), when_complete)
    token = apply(Gate, *(values[place] for place in places), passage=passage)
    passed = list(values)
    for number, place in enumerate(places):
        passed[place] = apply(Passed, token, values[place], passage=passage, number=number)
    return tuple(passed), places


class BackwardHooks:
    """The backward hooks of one call of a module."""

    def __init__(
        self, module: Any, before: list[Callable[..., Any]], after: list[Callable[..., Any]]
    ) -> None:
        self.module, self.before, self.after = module, before, after
        self.inputs = 0
        self.entered: list[int] = []
        self.grad_output: Cotangents = ()

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments for forward."""
        self.inputs = len(args)
        if self.after:
            args, self.entered = through_gate(args, self._at_inputs)
        return args

    def leave(self, output: Any) -> Any:
        """The output for the caller: a tensor, or a tuple of which the tensors are watched."""
        if isinstance(output, Tensor):
            self.left = [0] if output.requires_grad else []
            self.outputs = 1
            return through_gate((output,), self._at_outputs)[0][0]
        if not isinstance(output, tuple):
            return output
        self.outputs = len(output)
        passed, self.left = through_gate(output, self._at_outputs)
        fields = hasattr(output, "_fields")
        return type(output)(*passed) if fields else passed

    def _at_outputs(self, cotangents: Cotangents) -> Cotangents:
        grad_output = _spread(cotangents, self.left, self.outputs)
        for hook in self.before:
            grad_output = _replaced(hook(self.module, grad_output), grad_output, "grad_output")
        self.grad_output = grad_output
        if self.after and not self.entered:
            nothing = (None,) * self.inputs
            for hook in self.after:
                if hook(self.module, nothing, grad_output) not in (None, nothing):
                    raise RuntimeError(
                        "backward hook: no input of the module requires grad, "
                        "so there is no gradient to replace; return None"
                    )
        return tuple(grad_output[place] for place in self.left)

    def _at_inputs(self, cotangents: Cotangents) -> Cotangents:
        grad_input = _spread(cotangents, self.entered, self.inputs)
        for hook in self.after:
            result = hook(self.module, grad_input, self.grad_output)
            grad_input = _replaced(result, grad_input, "grad_input")
        return tuple(grad_input[place] for place in self.entered)


def _spread(cotangents: Cotangents, places: list[int], count: int) -> Cotangents:
    """The cotangents at their places, None elsewhere."""
    values: list[Any] = [None] * count
    for place, g in zip(places, cotangents):
        values[place] = g
    return tuple(values)


def _replaced(result: Any, present: Cotangents, name: str) -> Cotangents:
    """What a hook returned, as a tuple of as many gradients as there were."""
    if result is None:
        return present
    gradients: Cotangents = result if isinstance(result, tuple) else (result,)
    if len(gradients) != len(present):
        raise RuntimeError(
            f"backward hook: expected {len(present)} gradients for {name}, got {len(gradients)}"
        )
    return gradients
