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
    """An empty tensor computed from all that pass the gate: its node returns their cotangents."""

    vjp = (lambda g, passage, index: passage.take(index),)

    @staticmethod
    def kernel(xp: Any, *inputs: Array, passage: Passage, out: Array | None = None) -> Array:
        return xp.zeros(0, inputs[0].dtype) if out is None else out


class BackwardHookFunction(Primitive):
    """y = x, whose cotangent goes to the gate; PyTorch gives the node this name."""

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
        self.cotangents: list[Any] = [None] * count
        self.results: Cotangents | None = None
        self.when_complete = when_complete

    def put(self, token: Any, number: int, g: Any) -> Any:
        """Keeps a cotangent; the first of a new pass forgets those of the last."""
        if self.results is not None:
            self.cotangents, self.results = [None] * len(self.cotangents), None
        self.cotangents[number] = g
        return token

    def take(self, index: int) -> Any:
        """The cotangent of one tensor, after the hooks have seen all."""
        if self.results is None:
            raw = not any(isinstance(g, Tensor) for g in self.cotangents)
            cotangents = tuple(
                Tensor._wrap(g) if raw and g is not None else g for g in self.cotangents
            )
            results = self.when_complete(cotangents)
            self.results = tuple(g._array if raw and g is not None else g for g in results)
        return self.results[index]


def through_gate(
    values: Sequence[Any], when_complete: Callable[[Cotangents], Cotangents]
) -> tuple[tuple[Any, ...], list[int]]:
    """(the values, those that require grad behind a gate; the places of these)."""
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    if not places:
        return tuple(values), places
    passage = Passage(len(places), when_complete)
    token = apply(Gate, *(values[place] for place in places), passage=passage)
    results = list(values)
    for number, place in enumerate(places):
        x = values[place]
        results[place] = apply(BackwardHookFunction, token, x, passage=passage, number=number)
    return tuple(results), places


class BackwardHooks:
    """The backward hooks of one call of a module."""

    def __init__(
        self, module: Any, pre_hooks: list[Callable[..., Any]], hooks: list[Callable[..., Any]]
    ) -> None:
        self.module, self.pre_hooks, self.hooks = module, pre_hooks, hooks
        self.input_count = self.output_count = 0
        # Where those that require grad stand.
        self.input_places: list[int] = []
        self.output_places: list[int] = []
        self.grad_output: Cotangents = ()

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments for forward."""
        self.input_count = len(args)
        if self.hooks:
            args, self.input_places = through_gate(args, self._at_inputs)
        return args

    def leave(self, output: Any) -> Any:
        """The output for the caller: a tensor, or a tuple of which the tensors are watched."""
        values = (output,) if isinstance(output, Tensor) else output
        if not isinstance(values, tuple):
            return output
        self.output_count = len(values)
        results, self.output_places = through_gate(values, self._at_outputs)
        if values is not output:
            return results[0]
        return type(output)(*results) if hasattr(output, "_fields") else results

    def _at_outputs(self, cotangents: Cotangents) -> Cotangents:
        grad_output = _spread(cotangents, self.output_places, self.output_count)
        for hook in self.pre_hooks:
            grad_output = _replacement(hook(self.module, grad_output), grad_output, "grad_output")
        self.grad_output = grad_output
        if self.hooks and not self.input_places:
            nothing = (None,) * self.input_count
            for hook in self.hooks:
                if hook(self.module, nothing, grad_output) not in (None, nothing):
                    raise RuntimeError(
                        "backward hook: no input of the module requires grad, "
                        "so there is no gradient to replace; return None"
                    )
        return tuple(grad_output[place] for place in self.output_places)

    def _at_inputs(self, cotangents: Cotangents) -> Cotangents:
        grad_input = _spread(cotangents, self.input_places, self.input_count)
        for hook in self.hooks:
            result = hook(self.module, grad_input, self.grad_output)
            grad_input = _replacement(result, grad_input, "grad_input")
        return tuple(grad_input[place] for place in self.input_places)


def _spread(cotangents: Cotangents, places: list[int], count: int) -> Cotangents:
    """The cotangents at their places, None elsewhere."""
    values: list[Any] = [None] * count
    for place, g in zip(places, cotangents):
        values[place] = g
    return tuple(values)


def _replacement(result: Any, gradients: Cotangents, name: str) -> Cotangents:
    """What a hook returned, as a tuple of as many gradients as there were."""
    if result is None:
        return gradients
    # As in PyTorch: a tensor that is returned bare is taken apart, along its first dimension.
    replacement: Cotangents = tuple(result)
    if len(replacement) != len(gradients):
        raise RuntimeError(
            f"backward hook: expected {len(gradients)} gradients for {name}, got {len(replacement)}"
        )
    return replacement
