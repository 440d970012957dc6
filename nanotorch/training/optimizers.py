"""The optimizer of a run, its parameter groups, and its state as plain values and arrays."""

from __future__ import annotations

import fnmatch
from typing import Any

from nanotorch import nn, optim
from nanotorch.optim.sparse_adam import LazyAdam
from nanotorch.training.config import choices
from nanotorch.training.errors import InputError
from nanotorch.training.lookups import tables_in


def build_optimizer(config: Any, model: nn.Module) -> optim.Optimizer:
    """The optimizer over the parameters that are trained; frozen ones are unknown to it."""
    arguments = {
        name: getattr(config, name)
        for name in type(config).model_fields
        if name not in ("name", "groups")
    }
    if isinstance(config, choices.LBFGS):
        if config.groups:
            raise InputError("optimizer.groups: lbfgs has one group only")
        search = config.line_search
        del arguments["line_search"]
        arguments["line_search_fn"] = None if search == "none" else search
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    if isinstance(config, choices.SGD) and config.nesterov and not config.momentum:
        raise InputError("optimizer.nesterov: needs optimizer.momentum above 0")
    if isinstance(config, choices.SGD) and config.nesterov and config.dampening:
        raise InputError("optimizer.nesterov: needs optimizer.dampening = 0")
    groups = parameter_groups(config, trained_names(model), model)
    if not groups:
        raise InputError("model.freeze: every parameter is frozen, nothing is left to train")
    kind = getattr(optim, type(config).__name__)  # the section has the name of the class
    if isinstance(config, choices.Adam) and tables_in(model):
        kind = LazyAdam
    optimizer: optim.Optimizer = kind(groups, **arguments)
    return optimizer


def trained_names(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def parameter_groups(config: Any, names: list[str], model: nn.Module) -> list[dict[str, Any]]:
    """One group per entry of `optimizer.groups` that matches some of `names`, and the rest."""
    parameters = dict(model.named_parameters())
    for number, group in enumerate(config.groups):
        for pattern in group.parameters:
            if not fnmatch.filter(list(parameters), pattern):
                raise InputError(
                    f"optimizer.groups[{number}]: no parameter matches {pattern!r}; "
                    f"there are {', '.join(parameters)}"
                )
    members: dict[int, list[str]] = {}
    for name in names:
        members.setdefault(_group_of(config, name), []).append(name)
    groups = []
    for number in sorted(members):
        values: dict[str, Any] = {"params": [parameters[name] for name in members[number]]}
        if number < len(config.groups):
            group = config.groups[number]
            options = {"lr": group.lr, "weight_decay": group.weight_decay}
            values |= {key: value for key, value in options.items() if value is not None}
        groups.append(values)
    return groups


def _group_of(config: Any, name: str) -> int:
    """The first group with a pattern for this name; one past the last where there is none."""
    for number, group in enumerate(config.groups):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in group.parameters):
            return number
    return len(config.groups)


def add_parameters(optimizer: optim.Optimizer, config: Any, model: nn.Module) -> list[str]:
    """Add parameters that are trained from now on; their names."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    for group in parameter_groups(config, names, model):
        optimizer.add_param_group(group)
    return names
