"""Powers: of a number, to a number, and of two tensors."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array, is_array, result_type
from nanotorch.backend.order_of_memory import out_like
from nanotorch.ops.casting import cast, into, zeros_like
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import log
from nanotorch.primitive import Elementwise, Traced, apply


class Pow(Elementwise):
    """y = a ** exponent, a number"""

    vjp = (lambda g, a, exponent: power_slope(g, a, exponent),)

    @staticmethod
    def kernel(xp: Any, a: Array, *, exponent: float, out: Array | None = None) -> Array:
        if exponent == 2:
            return xp.square(a, out=out)
        if a.dtype.kind in "fc":
            if exponent == 0.5:
                return xp.sqrt(a, out=out)
            if exponent == 3:
                return xp.multiply(xp.square(a), a, out=out)
            if exponent == -1:
                return xp.reciprocal(a, out=out)
            if exponent == -0.5:
                return xp.reciprocal(xp.sqrt(a), out=out)
        elif a.dtype.kind in "iu" and exponent < 0:  # which CuPy would compute
            raise ValueError("Integers to negative integer powers are not allowed.")
        return xp.power(a, exponent, out=out)


class PowTensor(Elementwise):
    """y = a ** b; integers to negative powers are rounded towards 0"""

    backward_name = "PowBackward1"
    in_place = True
    vjp = (
        lambda g, a, b: where(b == 0, 0.0, g * (b * a ** (b - 1))),
        lambda g, a, b, y: g * where((a == 0) & (b >= 0), 0.0, y * log(a)),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if a.dtype.kind == "i" and (b < 0).any():
            unit = xp.where(a == -1, 1 - 2 * (b % 2), a == 1)
            return into(
                xp, xp.where(b < 0, unit, xp.power(a, xp.maximum(b, 0))).astype(a.dtype), out
            )
        if xp is HOST and b.size == 1 < a.size:  # of 0.5 alone NumPy makes roots: -inf has none
            b = b + xp.zeros_like(a, dtype=b.dtype)
        return xp.power(a, b, out=out)


class PowBase(Elementwise):
    """y = base ** a, base a number"""

    backward_name = "PowBackward2"
    vjp = (lambda g, a, y, base: g * power_base_slope(a, y, base),)

    @staticmethod
    def kernel(xp: Any, a: Array, *, base: float, out: Array | None = None) -> Array:
        return PowTensor.kernel(xp, xp.full_like(a, base), a, out=out_like(xp, a, out))


def power_slope(g: Any, a: Any, exponent: float) -> Any:
    """g * d(a ** exponent)/da; 0 for the exponent 0, even at a = 0."""
    if exponent == 0:
        return zeros_like(g)
    if exponent == 1:
        return g * 1
    return g * (exponent * (a if exponent == 2 else power(a, exponent - 1)))


def power_base_slope(a: Any, y: Any, base: float) -> Any:
    """d(base ** a)/da = y log(base), taken as 0 for the base 0 with a >= 0."""
    if base == 0:
        return where(a >= 0, 0.0, y * float("-inf"))
    if isinstance(base, complex) or getattr(y, "_array", y).dtype.kind == "c":
        return y * complex(HOST.log(complex(base)))
    return y * (math.log(base) if base > 0 else math.nan)


def power(a: Any, exponent: Any) -> Any:
    """a ** exponent, of which one may be a number; integers to a number below 0 are refused."""
    if isinstance(exponent, HOST.generic) and isinstance(a, Traced):
        exponent = exponent.item()
    elif isinstance(a, HOST.generic) and isinstance(exponent, Traced):
        a = a.item()
    if isinstance(exponent, Traced) or is_array(exponent):
        if isinstance(a, Traced) or is_array(a):
            return apply(PowTensor, a, exponent)
        return apply(PowBase, cast(exponent, result_type(a, exponent).numpy), base=a)
    kind = getattr(a, "_array", a).dtype.kind
    if kind == "b" or (kind in "ui" and not isinstance(exponent, int)):
        a = cast(a, result_type(a, exponent).numpy)
    return apply(Pow, a, exponent=exponent)
