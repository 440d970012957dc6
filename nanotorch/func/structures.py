"""Nested structures: tuples (named ones too), lists and dicts with values at their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def leaves(structure: Any) -> list[Any]:
    """The values at the ends of a structure, in order."""
    values: list[Any] = []
    stack = [structure]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple | list):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        else:
            values.append(item)
    return values


def rebuilt(structure: Any, values: Sequence[Any]) -> Any:
    """The structure with other values at its ends, in the order of `leaves`."""
    rest = iter(values)
    return mapped(lambda _: next(rest), structure)


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """The structure with function(value) at each of its ends."""
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(mapped(function, item) for item in structure))
    if isinstance(structure, tuple | list):
        return type(structure)(mapped(function, item) for item in structure)
    if isinstance(structure, dict):
        return type(structure)((key, mapped(function, item)) for key, item in structure.items())
    return function(structure)


def described(structure: Any) -> str:
    """The structure with * for each value, for comparison and for messages."""
    return repr(mapped(lambda _: STAR, structure))


class _Star:
    def __repr__(self) -> str:
        return "*"


STAR = _Star()


def spread_over(prefix: Any, structure: Any, name: str) -> list[Any]:
    """For each value of the structure the entry of `prefix` that stands at it or above it.

    ValueError where the prefix is not a beginning of the structure.
    """
    if isinstance(prefix, tuple | list):
        if not isinstance(structure, tuple | list) or len(prefix) != len(structure):
            raise ValueError(
                f"{name} has structure {described(prefix)}, which does not fit "
                f"{described(structure)}"
            )
        pairs = zip(prefix, structure, strict=True)
        return [entry for p, s in pairs for entry in spread_over(p, s, name)]
    if isinstance(prefix, dict):
        if not isinstance(structure, dict) or prefix.keys() != structure.keys():
            raise ValueError(
                f"{name} has structure {described(prefix)}, which does not fit "
                f"{described(structure)}"
            )
        return [entry for k, s in structure.items() for entry in spread_over(prefix[k], s, name)]
    return [prefix] * len(leaves(structure))
