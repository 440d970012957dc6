"""Modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nanotorch import ops
from nanotorch.tensor import Tensor

Values = Mapping[str, Tensor]


def functional_call(
    module: Any, parameter_and_buffer_dicts: Values | Sequence[Values], args: Any = None,
    kwargs: dict[str, Any] | None = None, *, tie_weights: bool = True, strict: bool = False,
) -> Any:  # fmt: skip
    """module(*args, **kwargs) with other tensors in place of some parameters and buffers.

    parameter_and_buffer_dicts: tensors by the names of `named_parameters()` and `named_buffers()`;
    or several such dicts without a common name. args: a tuple, or the one argument. The module
    itself is unchanged after the call. tie_weights: a tensor for one of several names of a shared
    parameter stands for all of them. strict: every name must be there, and no other.
    """
    values: dict[str, Tensor] = {}
    several = isinstance(parameter_and_buffer_dicts, Sequence)
    for tensors in parameter_and_buffer_dicts if several else (parameter_and_buffer_dicts,):
        repeated = values.keys() & tensors.keys()  # type: ignore[union-attr]
        if repeated:
            raise ValueError(
                f"functional_call: {sorted(repeated)} appear in more than one dictionary"
            )
        values.update(tensors)  # type: ignore[arg-type]
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    with replaced(module, values, tie_weights, strict):
        return module(*arguments, **(kwargs or {}))


@contextmanager
def replaced(module: Any, values: Values, tie_weights: bool, strict: bool) -> Iterator[None]:
    """The module with other tensors in the places of its parameters and buffers."""
    parts = dict(module.named_parameters(remove_duplicate=False))
    parts.update(module.named_buffers(remove_duplicate=False))
    missing, unexpected = parts.keys() - values.keys(), values.keys() - parts.keys()
    if tie_weights:
        values = {**tied(parts, values), **values}
        missing -= values.keys()
    if strict and (missing or unexpected):
        raise RuntimeError(
            f"functional_call: error in replacing the parameters of {type(module).__name__}: "
            f"missing names {sorted(missing)}, unexpected names {sorted(unexpected)}"
        )
    changed: list[tuple[Any, str, Any]] = []
    try:
        for name, value in values.items():
            if name not in parts:
                continue
            owner, _, attribute = name.rpartition(".")
            part = module.get_submodule(owner)
            changed.append((part, attribute, getattr(part, attribute)))
            object.__setattr__(part, attribute, value)
        yield
    finally:
        for part, attribute, before in reversed(changed):
            object.__setattr__(part, attribute, before)


def tied(parts: Mapping[str, Tensor], values: Values) -> dict[str, Tensor]:
    """The values by the other names of the shared parameters that they replace."""
    names: dict[int, list[str]] = {}
    for name, tensor in parts.items():
        names.setdefault(id(tensor), []).append(name)
    others = {}
    for same in names.values():
        different = {id(values[name]): values[name] for name in same if name in values}
        if len(different) > 1:
            raise ValueError(
                f"functional_call: {same} are one tied parameter, but got different values"
            )
        for value in different.values():
            others.update(dict.fromkeys(same, value))
    return others


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, buffers) of models of one architecture, by name, stacked along dimension 0."""
    if not models:
        raise RuntimeError("stack_module_state: expected at least one model, got none")
    kinds = {type(model) for model in models}
    if len(kinds) > 1:
        names = sorted(kind.__name__ for kind in kinds)
        raise RuntimeError(f"stack_module_state: expected models of one class, got {names}")
    if len({model.training for model in models}) > 1:
        raise RuntimeError("stack_module_state: expected all models in the same training/eval mode")
    parameters = [dict(model.named_parameters()) for model in models]
    buffers = [dict(model.named_buffers()) for model in models]
    return stacked(parameters), {name: b.detach() for name, b in stacked(buffers).items()}


def stacked(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of each name, as one leaf that requires grad if they do."""
    result = {}
    for name, first in states[0].items():
        joined = ops.stack([state[name].detach() for state in states])
        result[name] = joined.requires_grad_(first.requires_grad)
    return result
