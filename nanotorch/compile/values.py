"""Python values that are compared by value: numbers, strings, slices, tuples of such."""

from __future__ import annotations

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


def is_exact(value: Any) -> bool:
    """Whether == alone tells a value from all others of its type."""
    return isinstance(value, int | str) or (isinstance(value, float) and value != 0)
