"""The model of a run: built, started from saved weights, frozen and described."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nanotorch as nt
from nanotorch import nn
from nanotorch.training.config.choices import MultilayerPerceptron, OwnModule
from nanotorch.training.data.encoding import NO_TABLES, Tables
from nanotorch.training.errors import InputError, plain
from nanotorch.training.lookups import embedded, first_layer
from nanotorch.training.model_file import array_names, read_arrays
from nanotorch.training.trust import imported

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def build_model(config: Any, inputs: int, outputs: int, tables: Tables = NO_TABLES) -> nn.Module:
    """The module that `[model]` describes, with fresh weights from the global generator.

    `tables` are those of hashed columns and sparse rows, which take the place of a matrix.
    """
    if isinstance(config, OwnModule):
        if tables:
            raise InputError("model.name: data.hash and data.sparse go with logistic, linear, mlp")
        return _own_module(config, inputs, outputs)
    if isinstance(config, MultilayerPerceptron):
        widths = [inputs, *config.hidden]
        if tables and not config.hidden:
            raise InputError("model.hidden: data.hash and data.sparse need a hidden layer")
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            if tables and not layers:
                layers += embedded(tables, inputs, config)
            else:
                layers.append(nn.Linear(before, after, bias=config.bias))
            layers.append(ACTIVATIONS[config.activation]())
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs, bias=config.bias))
    if tables:
        return first_layer(tables, inputs, outputs, config.bias)
    return nn.Linear(inputs, outputs, bias=config.bias)


def _own_module(config: OwnModule, inputs: int, outputs: int) -> nn.Module:
    """Class(inputs, outputs, **arguments)."""
    kind = imported("model.module", config.module)
    if not issubclass(kind, nn.Module):
        raise InputError(f"model.module: {config.module!r} is not a class of nn.Module")
    build: Callable[..., nn.Module] = kind
    try:
        return build(inputs, outputs, **config.arguments)
    except TypeError as error:
        raise InputError(
            f"model.module: {kind.__name__}({inputs}, {outputs}, …): {error}"
        ) from None


def start_from(model: nn.Module, path: str, skip: list[str]) -> list[str]:
    """Load the saved weights in `path` (a file or a run folder); the names that were loaded.

    Parameters that match `skip` keep their fresh weights. Every name that is missing and every
    shape that differs is reported at once.
    """
    file = Path(path)
    file = file / "model.safetensors" if file.is_dir() else file
    fresh = model.state_dict()
    wanted = [name for name in fresh if not _matches(name, skip)]
    saved, _ = read_arrays(file, wanted)
    mistakes = [
        f"model.start: {file} has no {name!r}; it holds {', '.join(array_names(file)) or 'nothing'}"
        for name in wanted
        if name not in saved
    ]
    mistakes += [
        f"model.start: {name}: the model has shape {tuple(fresh[name].shape)}, "
        f"{file} has {tuple(saved[name].shape)}; model.start_skip would leave it out"
        for name in wanted
        if name in saved and tuple(fresh[name].shape) != tuple(saved[name].shape)
    ]
    mistakes += [
        f"model.start_skip: no parameter matches {pattern!r}; there are {', '.join(fresh)}"
        for pattern in skip
        if not any(_matches(name, [pattern]) for name in fresh)
    ]
    if mistakes:
        raise InputError(*mistakes)
    loaded = {name: nt.tensor(saved[name]) for name in wanted}
    model.load_state_dict({**fresh, **loaded})
    return wanted


def freeze(model: nn.Module, patterns: list[str], unfreeze_at: dict[str, int], epoch: int) -> None:
    """Set which parameters are trained in an epoch: frozen ones are those that match a pattern.

    A pattern in `unfreeze_at` is no longer frozen from that epoch on.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen_names = [name for name in names if _matches(name, patterns)]
    for key, chosen, known, kind in (
        ("freeze", patterns, names, "parameter"),
        ("unfreeze_at", list(unfreeze_at), frozen_names, "frozen parameter"),
    ):
        for pattern in chosen:
            if not fnmatch.filter(known, pattern):
                there = f"there are {', '.join(known)}" if known else "model.freeze names none"
                raise InputError(f"model.{key}: no {kind} matches {pattern!r}; {there}")
    released = [pattern for pattern, start in unfreeze_at.items() if epoch >= start]
    for name, parameter in model.named_parameters():
        frozen = _matches(name, patterns) and not _matches(name, released)
        parameter.requires_grad_(not frozen)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def matching(model: nn.Module, patterns: list[str]) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that match one of the patterns."""
    return [(name, p) for name, p in model.named_parameters() if _matches(name, patterns)]


def parameter_table(model: nn.Module, unfreeze_at: Mapping[str, int]) -> str:
    """A line per parameter: name, shape, values, and whether, or from which epoch on, it is
    trained."""

    def state(name: str, parameter: nn.Parameter) -> str:
        if parameter.requires_grad:
            return "trained"
        starts = [epoch for pattern, epoch in unfreeze_at.items() if _matches(name, [pattern])]
        # The log counts epochs from 1.
        return f"frozen, trained from epoch {min(starts) + 1} on" if starts else "frozen"

    rows = [
        (name, str(tuple(p.shape)), f"{p.numel():,}", state(name, p))
        for name, p in model.named_parameters()
    ]
    trained = sum(p.numel() for _, p in model.named_parameters() if p.requires_grad)
    total = sum(p.numel() for _, p in model.named_parameters())
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    lines = [
        f"  {plain(name):<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}  {words}"
        for name, shape, count, words in rows
    ]
    return "\n".join([f"parameters: {trained:,} of {total:,} are trained", *lines])
