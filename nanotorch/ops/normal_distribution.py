"""The inverse of the error function, and what else the normal distribution needs.

erfinv is found by Newton's method from Winitzki's estimate (A handy approximation for the error
function and its inverse, 2008): on erf in the middle, on log erfc in the tails. The error is a few
units in the last place; float32 is computed in float64.
"""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.casting import into
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import exp, log
from nanotorch.ops.error_function import CENTER, FAR, HIGH, LOW, erf_parts, erfc, polynomial
from nanotorch.primitive import Elementwise, Rule, function


class Erfinv(Elementwise):
    """y = the number whose error function is x"""

    promotes = "floating"
    vjp = (lambda g, y: g * (math.sqrt(math.pi) / 2 * exp(y * y)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            size = xp.absolute(x.astype(xp.float64))
            y = xp.copysign(inverse_erfc(xp, 1 - size, size), x)
        return into(xp, y.astype(x.dtype), out)


erfinv = function(Erfinv)


class Ndtri(Elementwise):
    """y = the number below which a standard normal variable lies with probability x"""

    promotes = "floating"
    backward_name = "SpecialNdtriBackward0"
    vjp = (lambda g, y: g * (math.sqrt(2 * math.pi) * exp(y * y * 0.5)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            p = x.astype(xp.float64)
            tail = 2 * xp.minimum(p, 1 - p)
            y = math.sqrt(2) * inverse_erfc(xp, tail, 1 - tail)
            y = xp.where(p < 0.5, -y, y)
        return into(xp, y.astype(x.dtype), out)


ndtri = function(Ndtri)


class Erfcx(Elementwise):
    """y = exp(x * x) * erfc(x)"""

    promotes = "floating"
    backward_name = "SpecialErfcxBackward0"
    vjp = (lambda g, x, y: g * (2 * x * y - 2 / math.sqrt(math.pi)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            z = x.astype(xp.float64)
            y = scaled_erfc(xp, xp.absolute(z))
            y = xp.where(z < 0, 2 * xp.exp(z * z) - y, y)
        return into(xp, y.astype(x.dtype), out)


erfcx = function(Erfcx)


class LogNdtr(Elementwise):
    """y = log of the probability that a standard normal variable lies below x"""

    promotes = "floating"
    backward_name = "SpecialLogNdtrBackward0"
    vjp = (lambda g, x: g * math.sqrt(2 / math.pi) / erfcx(x * -math.sqrt(0.5)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            z = x.astype(xp.float64) * math.sqrt(0.5)
            near, tail = erf_parts(xp, xp.asarray(z))
            above = xp.where(z >= 1, tail, 1 - near * xp.sign(z))
            below = xp.log(scaled_erfc(xp, xp.absolute(z)) / 2) - z * z
            y = xp.where(z < -0.5, below, xp.log1p(-above / 2))
        return into(xp, y.astype(x.dtype), out)


log_ndtr = function(LogNdtr)


class Entr(Elementwise):
    """y = -x log x, 0 at 0 and -inf below"""

    promotes = "floating"
    backward_name = "SpecialEntrBackward0"
    vjp = (lambda g, x: g * (-log(x) - 1),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            y = xp.where(x > 0, -x * xp.log(x), xp.where(x == 0, 0, -xp.inf))
        return into(xp, xp.where(x != x, x, y).astype(x.dtype), out)


entr = function(Entr)


class Xlog1py(Elementwise):
    """y = a * log(1 + b), and 0 where a is 0 and b a number"""

    promotes = "floating"
    backward_name = "SpecialXlog1PyBackward0"
    vjp = (
        lambda g, a, b: where((a == 0) & (b <= -1), 0.0, xlog1py(g, b)),
        lambda g, a, b: g * (a / (b + 1)),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            y = xp.where((a == 0) & (b == b), 0, a * xp.log1p(b))
        return into(xp, y.astype(xp.result_type(a, b)), out)


xlog1py: Rule = function(Xlog1py)


def ndtr(x: Any) -> Any:
    """The probability that a standard normal variable lies below x."""
    return erfc(x * -math.sqrt(0.5)) * 0.5


# --- of numbers of at least 0, in float64 ---------------------------------------------------------


def scaled_erfc(xp: Any, z: Array) -> Array:
    """exp(z * z) * erfc(z)."""
    near, _ = erf_parts(xp, xp.asarray(z))
    inner = xp.minimum(z, 1)
    middle = xp.minimum(xp.maximum(z, 1), 28)
    place = ((middle - CENTER) / (middle + CENTER) - LOW) * (2 / (HIGH - LOW)) - 1
    far = xp.maximum(z, 28)
    series = (1.0, -0.5, 0.75, -1.875, 6.5625, -29.53125, 162.421875)  # in 1 / (z * z)
    outer = polynomial(xp, 1 / (far * far), series) / (far * math.sqrt(math.pi))
    y = xp.where(z <= 28, polynomial(xp, place, FAR), outer)
    return xp.where(z < 1, xp.exp(inner * inner) * (1 - near), y)


def inverse_erfc(xp: Any, tail: Array, middle: Array) -> Array:
    """The z >= 0 with erfc z = tail <= 1 and erf z = middle: one of them is exact."""
    slope = math.sqrt(math.pi) / 2
    size, whole = xp.log(tail) + xp.log1p(middle), tail == 0
    estimate = 2 / (math.pi * 0.147) + size / 2
    z = xp.sqrt(xp.maximum(xp.sqrt(estimate * estimate - size / 0.147) - estimate, 0))
    z, central = xp.where(whole, 1.0, z), middle < 0.5
    for _ in range(4):
        near, _ = erf_parts(xp, z)
        scaled = scaled_erfc(xp, z)
        by_erf = (near - middle) * slope * xp.exp(xp.minimum(z * z, 1))
        by_log = (xp.log(tail) - xp.log(scaled) + z * z) * scaled * slope
        z = xp.maximum(z - xp.where(central, by_erf, by_log), 0)
    return xp.where(whole, xp.inf, z)
