"""What a recording took for granted: values that Python code around the step may change.

A plan is replayed only while the numbers, strings and flags that the function can see (closure variables,
globals it names, attributes of the objects among them) are those of its recording.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

from nanotorch.tensor import Tensor

PLAIN = (bool, int, float, complex, str, bytes, type(None))


def visible(function: Callable[..., Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, getter) of the variables that the function can see, those of its owner first."""
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield "self", lambda: owner
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        yield type(function).__name__, lambda: function
        return
    code, scope = function.__code__, function.__globals__
    cells = function.__closure__ or ()
    for name, cell in zip(code.co_freevars, cells, strict=True):
        yield name, lambda cell=cell: _content(cell)  # type: ignore[misc]
    for name in named_globals(code):
        if name in scope:
            yield name, lambda name=name: scope.get(name)  # type: ignore[misc]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def named_globals(code: types.CodeType) -> Iterator[str]:
    """The names that the code, and functions defined in it, may look up among the globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from named_globals(constant)


class Snapshot:
    """What is in sight of a function, to be compared later: plain values by value, the rest by identity."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._variables: list[tuple[str, Callable[[], Any], Any]] = []
        self._fields: list[tuple[str, dict[str, Any], str, Any]] = []
        self._items: list[tuple[str, Any, list[int]]] = []
        for name, get in visible(function):
            value = get()
            self._variables.append((name, get, value))
            if isinstance(value, list | dict):
                self._items.append((name, value, items_of(value)))
            elif not isinstance(value, types.ModuleType | type | types.FunctionType | Tensor):
                self.add_fields(name, value)

    def add_fields(self, name: str, owner: Any) -> None:
        """Adds the attributes of an object: plain values, tensors and lists."""
        fields = getattr(owner, "__dict__", None)
        if not isinstance(fields, dict) or hasattr(owner, "param_groups"):
            return  # what an optimizer holds is read by live calls
        for key, value in fields.items():
            if isinstance(value, (*PLAIN, Tensor)):
                if not isinstance(owner, Tensor):
                    self._fields.append((f"{name}.{key}", fields, key, value))
            elif isinstance(value, list) and not key.startswith("_"):
                self._items.append((f"{name}.{key}", value, items_of(value)))

    def changed(self) -> str | None:
        """The name of something that is not what it was; None where all is the same."""
        for name, get, value in self._variables:
            now = get()
            if now is not value and differs(now, value):
                return name
        for name, fields, key, value in self._fields:
            now = fields.get(key)
            if now is not value and differs(now, value):
                return name
        for name, container, items in self._items:
            if items_of(container) != items:
                return name
        return None


def items_of(container: Any) -> list[int]:
    """The identities of a list's items or a dict's values."""
    return [id(v) for v in (container.values() if isinstance(container, dict) else container)]


def differs(now: Any, value: Any) -> bool:
    """Whether two different objects also differ in value."""
    return not (type(now) is type(value) and isinstance(value, PLAIN) and bool(now == value))
