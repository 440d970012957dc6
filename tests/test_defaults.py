"""An argument that both libraries have defaults to the same value in both."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

PLACES = [
    *("", "Tensor", "autograd", "autograd.functional", "autograd.forward_ad", "amp", "cuda.amp"),
    *("func", "nn", "nn.functional", "nn.init", "nn.utils", "nn.utils.rnn", "optim"),
    *("nn.utils.parametrizations", "optim.lr_scheduler", "optim.swa_utils", "distributions"),
    *("random", "utils.checkpoint", "utils.data"),
]

# Where ours differs on purpose, by place, name and argument.
OURS = {
    ("", "cdist", "compute_mode"),  # which way to the same numbers there
    ("", "meshgrid", "indexing"),  # None stands for "ij" there, with a warning
    *(("", "norm", "p"), ("Tensor", "norm", "p")),  # "fro" is 2 for all that it takes
    *(
        ("utils.checkpoint", name, "use_reentrant")
        for name in ("checkpoint", "checkpoint_sequential")
    ),
    ("utils.checkpoint", "checkpoint", "context_fn"),  # a function that does nothing there
    ("utils.data", "random_split", "generator"),  # the default generator itself there
}


def place_in(library: str, place: str) -> Any:
    """The module or class at a place of a library, None where there is none."""
    try:
        return importlib.import_module(f"{library}.{place}".rstrip("."))
    except ImportError:
        return getattr(importlib.import_module(library), place, None)


def defaults(function: Any) -> dict[str, Any]:
    """The defaults of a function's or a class's arguments; empty where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def written(value: Any) -> str:
    """A default as both libraries write it: PyTorch has 1 for 1.0 at places, and sentinels."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    name = getattr(value, "__name__", None) if inspect.isfunction(value) else None
    return name or repr(value).replace("nanotorch", "torch")


def pairs(place: str) -> Iterator[tuple[str, str, Any, Any]]:
    """(name, argument, our default, PyTorch's) of all that both have at a place."""
    ours, theirs = place_in("nanotorch", place), place_in("torch", place)
    for name in dir(ours) if theirs is not None and ours is not None else ():
        one, other = getattr(ours, name), getattr(theirs, name, None)
        if callable(one) and callable(other) and (name == "__init__" or not name.startswith("_")):
            known = defaults(other)
            for argument, value in defaults(one).items():
                if argument in known and (place, name, argument) not in OURS:
                    yield name, argument, value, known[argument]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", PLACES)
def test_defaults_are_pytorchs(place: str) -> None:
    pytest.importorskip("torch")
    compared = list(pairs(place))
    assert compared
    differing = [
        f"{name}({argument}={ours!r}), PyTorch has {theirs!r}"
        for name, argument, ours, theirs in compared
        if written(ours) != written(theirs)
    ]
    assert differing == []
