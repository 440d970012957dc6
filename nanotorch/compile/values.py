"""Python values that are compared by value: numbers, strings, slices, tuples of such."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanotorch.backend import HOST

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))


def is_plain(value: Any) -> bool:
    """Whether a value is compared by value."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    if isinstance(value, slice):
        return all(map(is_plain, (value.start, value.stop, value.step)))
    return type(value) in PLAIN or isinstance(value, HOST.dtype | HOST.generic | type)


def identity(value: Any) -> Any:
    """What two plain values have in common if they are the same: 0, 0.0, -0.0 and False differ."""
    if isinstance(value, tuple):
        return type(value), *map(identity, value)
    if isinstance(value, slice):
        return slice, identity((value.start, value.stop, value.step))
    if isinstance(value, HOST.generic):
        return type(value), value.tobytes()
    return type(value), repr(value) if isinstance(value, float | complex) else value


def tests_of(text: str, value: Any, constant: Callable[[Any], str]) -> list[str]:
    """Conditions, as source, under which what `text` stands for is the same plain value."""
    if value is None or value is ... or isinstance(value, bool):
        return [f"{text} is {value!r}"]
    if isinstance(value, type):
        return [f"{text} is {constant(value)}"]
    tests = [f"type({text}) is {constant(type(value))}"]
    if isinstance(value, tuple):
        tests.append(f"len({text}) == {len(value)}")
        for number, item in enumerate(value):
            tests += tests_of(f"{text}[{number}]", item, constant)
        return tests
    if isinstance(value, slice):
        for end in ("start", "stop", "step"):
            tests += tests_of(f"{text}.{end}", getattr(value, end), constant)
        return tests
    if isinstance(value, int | str | HOST.dtype) or (isinstance(value, float) and value != 0):
        return [*tests, f"{text} == {constant(value)}"]
    return [*tests, f"identity({text}) == {constant(identity(value))}"]  # 0.0 is not -0.0
