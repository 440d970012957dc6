"""What real CuPy has, read from `tests/cupy_names.json`, and the count of what crosses."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "cupy_names.json").read_text(encoding="utf-8")
)
VERSION: str = NAMES["version"]


def kind_of(owner: str, name: str) -> str | None:
    """What the name is in CuPy: ufunc, function, type, module or attribute; None where unknown."""
    described = NAMES[owner].get(name)
    return None if described is None else described.split(" ")[0]


def signature_of(owner: str, name: str) -> inspect.Signature:
    """The parameters of a function or ufunc of real CuPy."""
    text = NAMES[owner][name].split(" ", 1)[1]
    if kind_of(owner, name) == "ufunc":
        text = text[: text.rindex(")") + 1]
    if (owner, name) == ("cupy", "einsum"):
        text = "(*operands, dtype=None, optimize=False)"  # real CuPy refuses other keywords
    function = eval(f"lambda {text[1:-1]}: None")
    return inspect.signature(function)


def loops_of(name: str) -> list[tuple[str, str]]:
    """The input and output dtype letters of each loop of a ufunc, in the order CuPy tries them."""
    text = NAMES["cupy"][name]
    return [tuple(loop.split("->")) for loop in text[text.rindex(")") + 1 :].split()]  # type: ignore[misc]


class Crossing(AssertionError):
    """Something crossed between host and device where that was forbidden."""


@dataclass
class Counts:
    """How often each thing happened since the last `reset`."""

    h2d: int = 0
    d2h: int = 0
    launches: int = 0
    synchronizations: int = 0
    graph_launches: int = 0
    device_copies: int = 0  # of memory as it is, from device to device
    allocations: int = 0
    products: int = 0  # by CuPy, with cuBLAS

    def reset(self) -> None:
        for what in vars(self):
            setattr(self, what, 0)


counts = Counts()
_forbidden: list[str] = []
# Told of each event first: True where it does not happen now, but within a launch of a graph.
watchers: list[Callable[[str, str], bool]] = []


def happened(what: str, why: str) -> None:
    """Counts an event; Crossing where it is forbidden now."""
    if any(watch(what, why) for watch in watchers):
        return
    setattr(counts, what, getattr(counts, what) + 1)
    if what in _forbidden:
        raise Crossing(f"{what} by {why}")


@contextlib.contextmanager
def _without(*what: str) -> Iterator[None]:
    _forbidden.extend(what)
    try:
        yield
    finally:
        del _forbidden[-len(what) :]


def no_transfers() -> contextlib.AbstractContextManager[None]:
    """Within it, whatever copies between host and device raises Crossing."""
    return _without("h2d", "d2h")


def no_synchronization() -> contextlib.AbstractContextManager[None]:
    """Within it, whatever makes the host wait for the device raises Crossing."""
    return _without("synchronizations")
