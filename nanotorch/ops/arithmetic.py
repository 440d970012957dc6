"""Arithmetic of two operands, elementwise with broadcasting."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array
from nanotorch.ops.casting import cast
from nanotorch.primitive import Elementwise, Ufunc, apply, function


class Add(Ufunc):
    """y = a + b"""

    ufunc = "add"
    vjp = (lambda g: g, lambda g: g)


class Sub(Ufunc):
    """y = a - b"""

    ufunc = "subtract"
    vjp = (lambda g: g, lambda g: -g)


class Rsub(Elementwise):
    """y = b - a"""

    backward_name = "RsubBackward1"
    in_place = True
    vjp = (lambda g: -g, lambda g: g)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.subtract(b, a, out=out)


class Mul(Ufunc):
    """y = a * b"""

    ufunc = "multiply"
    exact_numbers = True
    vjp = (lambda g, b: g * b, lambda g, a: g * a)


mul = function(Mul)


class Div(Ufunc):
    """y = a / b"""

    ufunc = "true_divide"
    exact_numbers = True
    promotes = "floating"
    vjp = (lambda g, b: g / b, lambda g, a, b: -g * ((a / b) / b))


def add(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """a + alpha * b, elementwise with broadcasting."""
    return apply(Add, a, b if alpha == 1 else times(b, alpha))


def sub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """a - alpha * b, elementwise with broadcasting; refused for booleans, as in PyTorch."""
    return apply(Sub, a, b if alpha == 1 else times(b, alpha))


def rsub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """b - alpha * a."""
    return apply(Rsub, a if alpha == 1 else times(a, alpha), b)


def times(x: Any, alpha: float) -> Any:
    """x * alpha in the dtype of x; integers refuse an alpha that is none."""
    kind = getattr(x, "dtype", None)
    if kind is None:
        return x * alpha
    if isinstance(alpha, float) and not kind.is_floating_point:
        raise RuntimeError(
            "For integral input tensors, argument alpha must not be a floating point number."
        )
    return cast(x * alpha, kind.numpy)
