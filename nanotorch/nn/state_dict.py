"""Saving a module's parameters and buffers under their names, and loading them back.

Any object with the attributes of a Module will do; this file knows no classes of layers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.tensor import Tensor

EXTRA_STATE = "_extra_state"


class Parts(dict[str, Any]):
    """A module's parameters, buffers or submodules by their names; what is written here is written
    to the module."""

    def __init__(self, module: Any, role: str) -> None:
        values = vars(module)
        super().__init__((n, values[n]) for n, r in module._roles.items() if r == role)
        self._module, self._role = module, role

    def __setitem__(self, name: str, value: Any) -> None:
        self._module._register(name, value, self._role)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        delattr(self._module, name)

    clear, pop, popitem = MutableMapping.clear, MutableMapping.pop, MutableMapping.popitem
    setdefault, update = MutableMapping.setdefault, MutableMapping.update


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
    unexpected: list[str] = []
    expected: set[str] = set()
    prefixes: dict[str, int] = {}
    errors: list[str] = []
    metadata = getattr(state, "_metadata", None)
    state = OrderedDict(state)  # which a module's own way to load may change
    pending = [("", module)]
    while pending:
        prefix, part = pending.pop()
        prefixes[prefix] = len(prefixes)
        local = {**(metadata or {}).get(prefix[:-1], {}), "assign_to_params_buffers": assign}
        local["saved_without_metadata"] = metadata is None
        part._load_from_state_dict(state, prefix, local, True, missing, unexpected, errors)
        names = [*saved_parts(part), *[EXTRA_STATE] * has_extra_state(part)]
        expected.update(prefix + name for name in names)
        children = [(f"{prefix}{n}.", m) for n, m in part._modules.items() if m is not None]
        pending += reversed(children)
    unexpected += [key for key in state if key not in expected]
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


def load_part(
    module: Any, state: Mapping[str, Any], prefix: str, metadata: Mapping[str, Any], strict: bool,
    missing: list[str], unexpected: list[str], errors: list[str],
) -> None:  # fmt: skip
    """Loads what is in `state` under `prefix` into one module, without those below it."""
    assign = metadata.get("assign_to_params_buffers", False)
    for name, value in saved_parts(module).items():
        key, late = prefix + name, name in getattr(module, "_lately_saved", ())
        if key in state:
            errors += _load_one(module, name, key, value, state[key], assign)
        elif not (late and metadata.get("saved_without_metadata")):
            missing.append(key)
    if has_extra_state(module):
        key = prefix + EXTRA_STATE
        if key in state:
            module.set_extra_state(state[key])
        else:
            missing.append(key)


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
