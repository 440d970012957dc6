"""The parameter groups of an optimizer: their options checked, their hooks, saving and loading."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar

from nanotorch.node import RemovableHandle
from nanotorch.tensor import Tensor

Group = dict[str, Any]
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Groups:
    """The part of an optimizer that is saved: `state`, `param_groups` and `defaults`."""

    counters: ClassVar[dict[str, float]]
    defaults: dict[str, Any]
    state: defaultdict[Any, Any]
    param_groups: list[dict[str, Any]]
    _hooks: dict[str, dict[int, Callable[..., Any]]]

    def _start(self) -> None:
        """Makes what is neither saved nor copied."""
        self._hooks = {}

    def _settle(self) -> None:
        """Brings the state up to date before it is read."""

    def _parameters(self) -> list[Tensor]:
        """The parameters of all groups, in order."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group: a dict of "params" (a tensor or an ordered collection) and options."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, set | frozenset):
            raise TypeError(
                "optimizer parameters need an ordered collection, but got a set, whose order "
                "changes between runs; use a list"
            )
        entries = [params] if isinstance(params, Tensor) else list(params)
        names = [entry[0] for entry in entries if isinstance(entry, tuple)]
        if names and len(names) != len(entries):
            raise ValueError(
                "optimizer params should all have names or all have none, "
                f"but {len(names)} of {len(entries)} do"
            )
        parameters = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
        param_group["params"] = parameters
        if names:
            param_group["param_names"] = names
        for parameter in parameters:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, "
                    f"but one of the params is {type(parameter).__name__}"
                )
            if not (parameter.is_leaf or parameter.retains_grad):
                raise ValueError("can't optimize a non-leaf Tensor")
        for option, default in self.defaults.items():
            param_group.setdefault(option, default)
        if len({id(parameter) for parameter in parameters}) != len(parameters):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; "
                "each is updated once for every time it is listed",
                stacklevel=3,
            )
        known = set(map(id, self._parameters()))
        if any(("param_names" in group) != bool(names) for group in self.param_groups):
            raise ValueError("all optimizer param groups should have names, or none of them")
        if any(id(parameter) in known for parameter in parameters):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {…}}, "param_groups": [{…, "params": [number, …]}]}.

        Parameters are numbered through all groups in order. The tensors are those of the optimizer
        itself, not copies.
        """
        for hook in self._hooks.get("state_dict_pre", {}).values():
            hook(self)
        self._settle()
        numbers = {id(parameter): place for place, parameter in enumerate(self._parameters())}
        groups = []
        for group in self.param_groups:
            packed = {option: value for option, value in group.items() if option != "params"}
            packed["params"] = [numbers[id(parameter)] for parameter in group["params"]]
            groups.append(packed)
        state = {
            numbers[id(key)] if isinstance(key, Tensor) else key: value
            for key, value in self.state.items()
            if not isinstance(key, Tensor) or value
        }
        result: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in self._hooks.get("state_dict_post", {}).values():
            changed = hook(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over options and state; tensors are copied to each parameter's dtype and device.

        Raises ValueError where the number of groups or the number of parameters in a group differs.
        """
        self._settle()
        state_dict = state_dict.copy()
        for hook in self._hooks.get("load_state_dict_pre", {}).values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        saved = deepcopy(state_dict["param_groups"])
        if len(saved) != len(self.param_groups):
            raise ValueError(
                f"loaded state dict has {len(saved)} parameter groups, "
                f"the optimizer has {len(self.param_groups)}"
            )
        for index, (group, new) in enumerate(zip(self.param_groups, saved)):
            if len(group["params"]) != len(new["params"]):
                raise ValueError(
                    f"loaded state dict has {len(new['params'])} parameters in group {index}, "
                    f"the optimizer has {len(group['params'])}"
                )
        numbers = chain.from_iterable(new["params"] for new in saved)
        parameters = dict(zip(numbers, self._parameters(), strict=True))
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in parameters:
                state[parameters[key]] = _copied(value, parameters[key], self.counters)
            else:
                state[key] = value
        for group, new in zip(self.param_groups, saved):
            new["params"] = group["params"]
            if "param_names" in group:
                new.setdefault("param_names", group["param_names"])
        self.__setstate__({"state": state, "param_groups": saved})
        for hook in self._hooks.get("load_state_dict_post", {}).values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return {name: getattr(self, name) for name in ("defaults", "state", "param_groups")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_hooks" not in self.__dict__:
            self._start()
        self.__dict__.update(state)
        for group in self.param_groups:
            for option, default in self.defaults.items():
                group.setdefault(option, default)

    def _register(self, kind: str, hook: Callable[..., Any]) -> RemovableHandle:
        return RemovableHandle(self._hooks.setdefault(kind, {}), hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer)` before `state_dict`."""
        return self._register("state_dict_pre", hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, state_dict)` after `state_dict`; may return another."""
        return self._register("state_dict_post", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, state_dict)` before loading; what it returns is loaded instead."""
        return self._register("load_state_dict_pre", hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer)` after loading."""
        return self._register("load_state_dict_post", hook)

    def _before_step(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for hook in list(self._hooks.get("step_pre", {}).values()):
            changed = hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        return args[1] if len(args) > 1 else kwargs.get("closure")

    def _after_step(self, closure: Callable[[], Any] | None) -> None:
        args = (self,) if closure is None else (self, closure)
        for hook in list(self._hooks.get("step_post", {}).values()):
            hook(self, args, {})

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, args, kwargs)` before each step; may return new (args, kwargs)."""
        return self._register("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Calls `hook(optimizer, args, kwargs)` after each step."""
        return self._register("step_post", hook)

    def __repr__(self) -> str:
        groups = []
        for index, group in enumerate(self.param_groups):
            options = [f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params"]
            groups.append(f"\nParameter Group {index}\n" + "".join(options))
        return f"{type(self).__name__} ({''.join(groups)})"


def options_of(arguments: dict[str, Any], *not_negative: str) -> dict[str, Any]:
    """The options among the `locals()` with which an optimizer's `__init__` begins.

    Raises ValueError for a negative (or NaN) value of those named, and for betas outside [0, 1).
    """
    name = type(arguments["self"]).__name__
    options = {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}
    for option in not_negative:
        if isinstance(options[option], str):
            raise TypeError(f"{name}: expected {option} a number, got {options[option]!r}")
        if not float(options[option]) >= 0.0:
            raise ValueError(f"{name}: expected {option} >= 0, got {options[option]}")
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
        for index, beta in enumerate(options["betas"]):
            if not 0.0 <= beta < 1.0:
                raise ValueError(
                    f"{name}: expected 0 <= beta < 1 at index {index} of betas, got {beta}"
                )
    return options


def _copied(value: Any, parameter: Tensor, counters: Iterable[str], key: Any = None) -> Any:
    """A copy of a saved value: tensors but the counters get the parameter's dtype and device."""
    if isinstance(value, Tensor):
        if key in counters:
            return value.clone()
        dtype = parameter.dtype if parameter.is_floating_point() else value.dtype
        return value.detach().to(device=parameter.device, dtype=dtype, copy=True)
    if isinstance(value, dict):
        return {name: _copied(entry, parameter, counters, name) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(entry, parameter, counters) for entry in value)
    return value
