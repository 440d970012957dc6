"""Saving a module's parameters and buffers under their names, and loading them back.

Any object with the attributes of a Module will do; this file knows no classes of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.tensor import Tensor

EXTRA_STATE = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """The keys that a module has and the state lacks, and the other way round."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"_IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


def has_extra_state(module: Any) -> bool:
    """Whether the module's class defines an extra state."""
    return bool(type(module).get_extra_state.__module__ != "nanotorch.nn.module")


def saved_parts(module: Any) -> dict[str, Tensor]:
    """The module's parameters, then its persistent buffers, without its submodules' and Nones."""
    parts = dict(module._parameters)
    parts.update((n, b) for n, b in module._buffers.items() if n not in module._not_saved)
    return {name: value for name, value in parts.items() if value is not None}


def save(module: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> dict[str, Any]:
    """`destination`, with the state of a module and all below it put there under `prefix`."""
    for name, value in saved_parts(module).items():
        destination[prefix + name] = value if keep_vars else value.detach()
    if has_extra_state(module):
        destination[prefix + EXTRA_STATE] = module.get_extra_state()
    for name, child in module._modules.items():
        if child is not None:
            child.state_dict(
                destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars
            )
    return destination


def load(module: Any, state: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
    """Loads `state` into a module and all below it; see `Module.load_state_dict`."""
    if not isinstance(state, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state).__name__}.")
    missing: list[str] = []
    expected: set[str] = set()
    prefixes: dict[str, int] = {}
    errors: list[str] = []
    pending = [("", module)]
    while pending:
        prefix, part = pending.pop()
        prefixes[prefix] = len(prefixes)
        for name, value in saved_parts(part).items():
            key = prefix + name
            expected.add(key)
            if key in state:
                errors += _load_one(part, name, key, value, state[key], assign)
            elif name not in getattr(part, "_lately_saved", ()) or hasattr(state, "_metadata"):
                missing.append(key)
        if has_extra_state(part):
            key = prefix + EXTRA_STATE
            expected.add(key)
            if key in state:
                part.set_extra_state(state[key])
            else:
                missing.append(key)
        children = [(f"{prefix}{n}.", m) for n, m in part._modules.items() if m is not None]
        pending += reversed(children)
    unexpected = [key for key in state if key not in expected]
    unexpected.sort(key=lambda key: _owner(key, prefixes))
    if strict:
        if unexpected:
            errors.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
        if missing:
            errors.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if errors:
        name = type(module).__name__
        raise RuntimeError(f"Error(s) in loading state_dict for {name}:\n\t" + "\n\t".join(errors))
    return IncompatibleKeys(missing, unexpected)


def _owner(key: str, prefixes: dict[str, int]) -> int:
    """The number of the deepest module on the key's path."""
    while key not in prefixes:
        key = key[: key.rstrip(".").rfind(".") + 1]
    return prefixes[key]


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)


def _load_one(
    module: Any, name: str, key: str, target: Tensor, value: Any, assign: bool
) -> list[str]:
    """Copies one tensor, or says why not."""
    if not isinstance(value, Tensor):
        return [
            f'While copying the parameter named "{key}", expected a Tensor '
            f"but received {type(value).__name__}"
        ]
    if value.shape != target.shape:
        return [
            f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, "
            f"the shape in current model is {target.shape}."
        ]
    with no_grad():
        if not assign:
            target.copy_(value.to(target.device))
        elif module._roles[name] == "buffer":
            setattr(module, name, value)
        else:
            kind = type(target)
            parameter = value if isinstance(value, kind) else kind(value, target.requires_grad)
            setattr(module, name, parameter)
    return []
