"""Saving and loading an optimizer's state and options, with the hooks around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from itertools import chain
from typing import Any

from nanotorch.node import RemovableHandle
from nanotorch.optim.state import taken_over
from nanotorch.tensor import Tensor


class Saved:
    """The part of an optimizer that is saved: `state`, `param_groups` and `defaults`."""

    defaults: dict[str, Any]
    state: defaultdict[Any, Any]
    param_groups: list[dict[str, Any]]
    _hooks: dict[str, dict[int, Callable[..., Any]]]

    def _start(self) -> None:
        """Makes what is neither saved nor copied."""
        self._hooks = {}

    def _settle(self) -> None:
        """Brings the state up to date before it is read."""

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {…}}, "param_groups": [{…, "params": [number, …]}]}.

        Parameters are numbered through all groups in order. The tensors are those of the optimizer
        itself, not copies.
        """
        for hook in self._hooks.get("state_dict_pre", {}).values():
            hook(self)
        self._settle()
        numbers: dict[int, int] = {}
        groups = []
        position = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                numbers.setdefault(id(parameter), position)
                position += 1
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
        parameters = dict(
            zip(
                chain.from_iterable(new["params"] for new in saved),
                chain.from_iterable(group["params"] for group in self.param_groups),
            )
        )
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in parameters:
                state[parameters[key]] = taken_over(value, parameters[key])
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
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
        }

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
