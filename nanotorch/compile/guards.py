"""What a recording took for granted: values that Python code around the step may change.

A plan is replayed only while the numbers, strings and flags that the function can see (closure
variables, globals it names, attributes of the objects among them) are those of its recording.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

from nanotorch.tensor import Tensor

PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Guards:
    """Conditions on what the function can see, as source text over constants, compiled into one
    test."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._constants: dict[str, Any] = {"same": same, "items_of": items_of}
        self._conditions: list[tuple[str, str]] = []  # (what it is about, a Python expression)
        self._functions: set[int] = set()
        owner = getattr(function, "__self__", None)
        if owner is not None:
            self.add_fields("self", owner)
        self._add_function(getattr(function, "__func__", function))

    def constant(self, value: Any) -> str:
        """A name for a value in the conditions."""
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def add(self, about: str, condition: str) -> None:
        """One more condition."""
        self._conditions.append((about, condition))

    def add_value(self, about: str, read: str, value: Any) -> None:
        """The condition that what `read` gives is the value it had: the same object or plain
        value."""
        known = self.constant(value)
        test = f"{read} is {known}"
        plain = isinstance(value, PLAIN) and value is not None and not isinstance(value, bool)
        self.add(about, f"({test} or same({read}, {known}))" if plain else test)

    def add_fields(self, about: str, owner: Any) -> None:
        """The attributes of an object: plain values, tensors, and the items of lists."""
        fields = getattr(owner, "__dict__", None)
        if (
            not isinstance(fields, dict)
            or isinstance(owner, Tensor)
            or hasattr(owner, "param_groups")
        ):
            return  # what an optimizer holds is read by live calls
        known = self.constant(fields)
        for key, value in fields.items():
            if isinstance(value, (*PLAIN, Tensor)):
                self.add_value(f"{about}.{key}", f"{known}.get({key!r})", value)
            elif isinstance(value, list) and not key.startswith("_"):
                self._add_items(f"{about}.{key}", value)

    def _add_items(self, about: str, container: Any) -> None:
        items = self.constant(items_of(container))
        self.add(about, f"items_of({self.constant(container)}) == {items}")

    def _add_function(self, function: Any) -> None:
        """The closure variables and globals that a function names, and those of functions among
        them."""
        if not isinstance(function, types.FunctionType):
            self.add_fields(type(function).__name__, function)
            return
        if id(function) in self._functions:
            return
        self._functions.add(id(function))
        code, scope = function.__code__, function.__globals__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            self._add_variable(name, f"{self.constant(cell)}.cell_contents", value, scope)
        known = self.constant(scope)
        for name in set(named_globals(code)):
            if name in scope:
                self._add_variable(name, f"{known}.get({name!r})", scope[name], scope)

    def _add_variable(self, name: str, read: str, value: Any, scope: dict[str, Any]) -> None:
        if isinstance(value, types.ModuleType | type):
            return
        self.add_value(name, read, value)
        if getattr(type(value), "is_compiled", False):  # maybe the step itself, which counts calls
            self._add_function(value.__wrapped__)
        elif isinstance(value, types.FunctionType):
            if read.endswith("cell_contents") or value.__globals__ is scope:
                self._add_function(value)
        elif isinstance(value, list | dict):
            self._add_items(name, value)
        elif not isinstance(value, PLAIN):
            self.add_fields(name, value)

    def changed(self) -> str | None:
        """What the first condition is about that does not hold; None where all do."""
        for about, condition in self._conditions:
            if not eval(condition, self._constants):
                return about
        return None

    def expression(self) -> str:
        """All conditions as one expression over the constants."""
        return " and ".join(condition for _, condition in self._conditions) or "True"

    def compiled(self) -> Callable[[], bool]:
        """One function that tells whether all conditions hold."""
        return self.built("holds", "", [f"return {self.expression()}"])

    def built(
        self, name: str, parameters: str, body: list[str], names: dict[str, Any] | None = None
    ) -> Callable[..., Any]:
        """A function of these lines, which may name the constants and what `names` holds."""
        lines = [f"def {name}({parameters}):", *(f"    {line}" for line in body)]
        scope = {**self._constants, **(names or {})}
        exec(compile("\n".join(lines) + "\n", f"<{name}>", "exec"), scope)
        return scope[name]  # type: ignore[no-any-return]


def named_globals(code: types.CodeType) -> Iterator[str]:
    """The names that the code, and functions defined in it, may look up among the globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from named_globals(constant)


def items_of(container: Any) -> list[int]:
    """The identities of a list's items or a dict's values."""
    return [id(v) for v in (container.values() if isinstance(container, dict) else container)]


def same(now: Any, value: Any) -> bool:
    """Whether two plain values are equal and of one type."""
    return type(now) is type(value) and bool(now == value)
