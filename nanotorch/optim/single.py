"""The arithmetic of kernels for arrays of one element: as an array module, the `xp` of a kernel.

NumPy takes 0.4 us for an operation whose arithmetic takes a nanosecond, and three times as long in
place on one element. Here the numbers are taken out, and the result is put back with one rounding.
That is the bits of NumPy: a double has more than twice the digits of a float plus two, so that
rounding +, -, *, / and square root twice is the same as once (Figueroa, 1995). Whatever else a
kernel asks for (another function, a number in place of an array, new memory) is NumPy's.
"""

from __future__ import annotations

from math import sqrt as square_root
from typing import Any

from nanotorch.backend import HOST, Array

# Raised where something is no array of one element, or where arithmetic fails.
FAILURES = (AttributeError, TypeError, ValueError, ZeroDivisionError)


def __getattr__(name: str) -> Any:
    return getattr(HOST, name)


def numpys(name: str, *arguments: Any) -> Array:
    """What NumPy's function of this name returns."""
    *operands, out, where, dtype = arguments
    function = getattr(HOST, name)
    result: Array = function(*operands, out, where=True if where is None else where, dtype=dtype)
    return result


def multiply(a: Any, b: Any, out: Any = None, where: Any = None, dtype: Any = None) -> Array:
    try:
        if where is dtype:
            out.fill(a.item() * b.item())
            return out
    except FAILURES:
        pass
    return numpys("multiply", a, b, out, where, dtype)


def add(a: Any, b: Any, out: Any = None, where: Any = None, dtype: Any = None) -> Array:
    try:
        if where is dtype:
            out.fill(a.item() + b.item())
            return out
    except FAILURES:
        pass
    return numpys("add", a, b, out, where, dtype)


def subtract(a: Any, b: Any, out: Any = None, where: Any = None, dtype: Any = None) -> Array:
    try:
        if where is dtype:
            out.fill(a.item() - b.item())
            return out
    except FAILURES:
        pass
    return numpys("subtract", a, b, out, where, dtype)


def divide(a: Any, b: Any, out: Any = None, where: Any = None, dtype: Any = None) -> Array:
    try:
        if where is dtype:
            out.fill(a.item() / b.item())
            return out
    except FAILURES:
        pass
    return numpys("divide", a, b, out, where, dtype)


def sqrt(a: Any, out: Any = None, where: Any = None, dtype: Any = None) -> Array:
    try:
        if where is dtype:
            out.fill(square_root(a.item()))
            return out
    except FAILURES:
        pass
    return numpys("sqrt", a, out, where, dtype)
