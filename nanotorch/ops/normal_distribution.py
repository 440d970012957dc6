"""The inverse of the error function, and what else the normal distribution needs.

erfinv z is z times a polynomial in w = -log(1 - z * z) in the middle, sqrt(w) times one in sqrt(w)
in the tails, through the Chebyshev points, computed with 40 digits. Their relative error is below
2e-9. That is enough for float32, which is computed in float64; float64 takes one step of Newton's
method from there, on erf in the middle, on log erfc in the tails. The error is a few units in the
last place.
"""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.casting import into
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import exp, log
from nanotorch.ops.error_function import (
    CENTER,
    FAR,
    HIGH,
    LOW,
    erf_parts,
    erfc,
    in_float64,
    polynomial,
)
from nanotorch.primitive import Elementwise, Rule, function

# erfinv z / z for w in [0, 6.25], and erfinv z / sqrt(w) for sqrt(w) in [2.5, 28], in
# (sqrt(w) - 2) / (sqrt(w) + 2): of variables that are mapped to [-1, 1].
INNER = (
    1.6536545626831027, 0.7504943076479739, -0.05892256867466323, -0.022604096452118517,
    0.017808404971782328, -0.004140180720663968, -0.001272020629382619, 0.001242690309156122,
    -0.00026338021033992225, -0.00013508115498416358, 9.204976639988137e-05,
    1.5787972260420077e-06, -1.0903443438510941e-05,
)  # fmt: skip
OUTER = (
    0.9756661103161661, 0.03385569726103834, -0.011153212300348015, -0.001046934944273228,
    0.001083470888119218, -0.000546180699761683, 0.0001202850802172351, -3.26977188998924e-05,
    5.0336558134173516e-05, -3.551738497149675e-05, -6.483123024851236e-05,
    6.081532479330134e-05, 1.1101337983768447e-05, -1.7743602348082243e-05,
)  # fmt: skip
ROOTS = (2.5, 28.0)
PLACES = tuple((root - 2) / (root + 2) for root in ROOTS)


class Erfinv(Elementwise):
    """y = the number whose error function is x"""

    promotes = "floating"
    vjp = (lambda g, y: g * (math.sqrt(math.pi) / 2 * exp(y * y)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def inverse(z: Array) -> Array:
            size = xp.absolute(z)
            return xp.copysign(inverse_erfc(xp, 1 - size, size, x.itemsize < 8), z)

        return in_float64(xp, inverse, x, out)


erfinv = function(Erfinv)


class Ndtri(Elementwise):
    """y = the number below which a standard normal variable lies with probability x"""

    promotes = "floating"
    backward_name = "SpecialNdtriBackward0"
    vjp = (lambda g, y: g * (math.sqrt(2 * math.pi) * exp(y * y * 0.5)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def inverse(p: Array) -> Array:
            tail = 2 * xp.minimum(p, 1 - p)
            y = math.sqrt(2) * inverse_erfc(xp, tail, 1 - tail, x.itemsize < 8)
            return xp.where(p < 0.5, -y, y)

        return in_float64(xp, inverse, x, out)


ndtri = function(Ndtri)


class Erfcx(Elementwise):
    """y = exp(x * x) * erfc(x)"""

    promotes = "floating"
    backward_name = "SpecialErfcxBackward0"
    vjp = (lambda g, x, y: g * (2 * x * y - 2 / math.sqrt(math.pi)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def scaled(z: Array) -> Array:
            y = scaled_erfc(xp, xp.absolute(z))
            return xp.where(z < 0, 2 * xp.exp(z * z) - y, y)

        return in_float64(xp, scaled, x, out)


erfcx = function(Erfcx)


class LogNdtr(Elementwise):
    """y = log of the probability that a standard normal variable lies below x"""

    promotes = "floating"
    backward_name = "SpecialLogNdtrBackward0"
    vjp = (lambda g, x: g * math.sqrt(2 / math.pi) / erfcx(x * -math.sqrt(0.5)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def logarithm(x: Array) -> Array:
            z = x * math.sqrt(0.5)
            near, tail = erf_parts(xp, xp.asarray(z))
            above = xp.where(z >= 1, tail, 1 - near * xp.sign(z))
            below = xp.log(scaled_erfc(xp, xp.absolute(z)) / 2) - z * z
            return xp.where(z < -0.5, below, xp.log1p(-above / 2))

        return in_float64(xp, logarithm, x, out)


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


def inverse_erfc(xp: Any, tail: Array, middle: Array, short: bool) -> Array:
    """The z >= 0 with erfc z = tail <= 1 and erf z = middle: one of them is exact; with an error
    below 2e-9 if `short`."""
    w = -(xp.log(tail) + xp.log1p(middle))
    root = xp.minimum(xp.maximum(xp.sqrt(w), ROOTS[0]), ROOTS[1])
    place = ((root - 2) / (root + 2) - PLACES[0]) * (2 / (PLACES[1] - PLACES[0])) - 1
    inner = xp.minimum(w * (2 / ROOTS[0] ** 2) - 1, 1)
    near, far = polynomial(xp, inner, INNER), polynomial(xp, place, OUTER)
    z = xp.where(inner < 1, middle * near, root * far)
    whole = tail == 0
    if not short:
        z, slope = xp.where(whole, 1.0, z), math.sqrt(math.pi) / 2
        found, _ = erf_parts(xp, z)
        scaled = scaled_erfc(xp, z)
        by_erf = (found - middle) * slope * xp.exp(xp.minimum(z * z, 1))
        by_log = (xp.log(tail) - xp.log(scaled) + z * z) * scaled * slope
        z = z - xp.where(middle < 0.5, by_erf, by_log)
    return xp.where(whole, xp.inf, z)
