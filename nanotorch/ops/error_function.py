"""The error function and its complement.

erf z / z is interpolated in z * z on [0, 1], and erfc z * exp(z * z) in (z - 3.75) / (z + 3.75) on
[1, 28], beyond which erfc z is 0 in float64: by polynomials through the Chebyshev points, computed
with 40 digits. Their relative error is below 2e-15. erfc of float32 is computed in float64 by one
polynomial, with an error below 1e-10. The error function of float32 is computed in float32, within
1.5 units in the last place, by polynomials of least maximal error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nanotorch.backend import HOST, Array, clipped, constant, constants, in_pieces
from nanotorch.ops.casting import into
from nanotorch.ops.comparisons import selected
from nanotorch.ops.elementwise import exp
from nanotorch.primitive import Elementwise, function

# From the constant term on, of a variable that is mapped to [-1, 1].
NEAR = (
    0.9654687386698673, -0.1405360890227171, 0.019852496688983708, -0.0022854855611440673,
    0.00021751715604160108, -1.7537169441492004e-05, 1.2233827383524026e-06,
    -7.511569160710623e-08, 4.115800597661665e-09, -2.03524938661036e-10, 9.167606748998164e-12,
    -3.7910973708931526e-13, 1.4548169783352384e-14, -5.16472878942302e-16,
)  # fmt: skip
FAR = (
    0.12212943464456873, -0.15812928550031607, 0.08361411552908507, -0.03932701237248848,
    0.01628427709083833, -0.0058389621212347155, 0.0017629213435733408, -0.0004247215619220327,
    7.137854468373538e-05, -3.979649544583865e-06, -1.9175445789605455e-06, 5.998392727784394e-07,
    -2.5602892859767184e-08, -2.6543102335195618e-08, 5.454901381324099e-09,
    8.274076572404541e-10, -4.278873679276922e-10, -1.3202566884841581e-11, 2.960901162116154e-11,
    -7.420474080096473e-13, -1.9936993843825917e-12, 7.604321959545844e-14,
    1.0392864510326207e-13,
)  # fmt: skip
# erfc z * exp(z * z) on [0, 11], in z / (z + 2.5): for erfc of float32.
SCALED = (
    0.28912038963190884, -0.3901832505318755, 0.21882497242848598, -0.08417908318988612,
    0.018552346707050887, -0.00018862844441427191, -0.0010241878431761582, 9.798337247968368e-05,
    7.288988552926359e-05, -6.928311331606603e-06, -6.627044466302388e-06, 2.0447458203986442e-07,
    5.136246846911355e-07,
)  # fmt: skip
# In float32: erf z / z - 1 in z * z on [0, 1], and log(erfc z) in z on [1, 4]; beyond, erf z is 1.
EXCESS = (
    0.12837916572670832, -0.376126258242188, 0.1128358514845375, -0.026853811928609087,
    0.005188327673041415, -0.0008010193513745494, 7.853860985258194e-05,
)  # fmt: skip
LOG_TAIL = (
    -0.00035371875417297, -1.1270400390743949, -0.6382256720510265, -0.10303737339647859,
    0.02180532061604974, -0.0029396078921556886, 0.00018557407161403177,
)  # fmt: skip
# Of the inverse hyperbolic tangent of erf(x / sqrt(2)), over x, in x * x: beyond the 31 of x * x
# that it was fitted on it keeps growing, so that its hyperbolic tangent is 1.
NORMAL = (
    0.7978849414603598, 0.03633308457410174, -3.259497586741812e-05, -5.5306193537705124e-05,
    3.964744377586937e-06, -1.3226333571994902e-07, 1.7561706147036885e-09,
)  # fmt: skip
CENTER = 3.75
LOW, HIGH = (1 - CENTER) / (1 + CENTER), (28 - CENTER) / (28 + CENTER)


class Erf(Elementwise):
    """y = 2 / sqrt(pi) * the integral of exp(-t * t) for t from 0 to x"""

    promotes = "floating"
    vjp = (lambda g, x: g * (2 / math.sqrt(math.pi) * exp(-(x * x))),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def erf(x: Array, out: Array | None) -> Array:
            size = xp.absolute(x)
            if x.itemsize == 4:
                near, far = clipped(xp, size, 0.0, 1.0), clipped(xp, size, 1.0, 4.0)
                near = near * polynomial(xp, near * near, EXCESS) + near
                tail = xp.exp(polynomial(xp, far, LOG_TAIL))
            else:
                near, tail = erf_parts(xp, x)
            y = below_one(xp, size, near, 1 - tail)
            return into(xp, with_sign_of(xp, y, x), out)

        return in_pieces(erf, (x,), out)


erf = function(Erf)


class Erfc(Elementwise):
    """y = 1 - erf(x), without loss for large x"""

    promotes = "floating"
    vjp = (lambda g, x: g * (-2 / math.sqrt(math.pi) * exp(-(x * x))),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def erfc(x: Array, out: Array | None) -> Array:
            if x.itemsize < 8:
                return into(xp, short_erfc(xp, x).astype(x.dtype), out)
            near, tail = erf_parts(xp, x)
            y = xp.where(x >= 1, tail, xp.where(x <= -1, 2 - tail, 1 - with_sign_of(xp, near, x)))
            return into(xp, y, out)

        return in_pieces(erfc, (x,), out)


erfc = function(Erfc)


def short_erfc(xp: Any, x: Array) -> Array:
    """erfc x of float32, in float64."""
    z = clipped(xp, xp.absolute(x).astype(xp.float64), 0.0, 11.0)
    tail = xp.exp(-z * z) * polynomial(xp, z / (z + 2.5) * (27 / 11) - 1, SCALED)
    return selected(xp, x < 0, 2 - tail, tail)


def erf_parts(xp: Any, x: Array) -> tuple[Array, Array]:
    """erf |x| as it is right for |x| < 1, and erfc |x| as it is right for |x| >= 1."""
    z = xp.absolute(x).astype(xp.float64)
    near, far = clipped(xp, z, 0.0, 1.0), clipped(xp, z, 1.0, 28.0)
    inner = polynomial(xp, 2 * near * near - 1, NEAR)
    place = (far - CENTER) / (far + CENTER)
    place = (place - LOW) * (2 / (HIGH - LOW)) - 1
    outer = polynomial(xp, place, FAR)
    return near * inner, xp.exp(-far * far) * outer


def normal_cdf_of_floats(xp: Any, x: Array, out: Array | None = None) -> Array:
    """(1 + erf(x / sqrt(2))) / 2 in float32, with an error below 1e-7."""
    y, half = polynomial(xp, x * x, NORMAL), constant(x, 0.5)
    own = y if y.ndim else None
    y = xp.tanh(xp.multiply(y, x, out=own), out=own)
    return xp.add(xp.multiply(y, half, out=own), half, out=out)


def below_one(xp: Any, size: Array, near: Array, far: Array) -> Array:
    """near where size < 1, else far; by their bits, in a tenth of the time that branches take."""
    if xp is not HOST or not size.ndim:
        return xp.where(size < 1, near, far)
    kind = xp.dtype(f"i{size.itemsize}")
    one, a, b = size.dtype.type(1).view(kind), near.view(kind), far.view(kind)
    y = xp.subtract(size.view(kind), one)
    xp.right_shift(y, kind.type(8 * kind.itemsize - 1), out=y)  # all bits of a negative number
    xp.bitwise_and(y, xp.bitwise_xor(a, b), out=y)
    return xp.bitwise_xor(y, b, out=y).view(size.dtype)


def with_sign_of(xp: Any, size: Array, x: Array) -> Array:
    """copysign(size, x) of sizes >= 0; by their bits, in a tenth of the time."""
    if xp is not HOST or not size.ndim or size.dtype != x.dtype or size.shape != x.shape:
        return xp.copysign(size, x)
    kind = xp.dtype(f"i{x.itemsize}")
    sign = xp.bitwise_and(x.view(kind), kind.type(xp.iinfo(kind).min))
    return xp.bitwise_or(sign, size.view(kind), out=sign).view(x.dtype)


def in_float64(xp: Any, function: Callable[[Array], Array], x: Array, out: Array | None) -> Array:
    """function(x), a function of elements that computes in float64, rounded to x's dtype."""

    def piece(x: Array, out: Array | None) -> Array:
        with HOST.errstate(all="ignore"):
            y = function(x.astype(xp.float64))
        return into(xp, y.astype(x.dtype), out)

    return in_pieces(piece, (x,), out)


def polynomial(xp: Any, x: Array, coefficients: tuple[float, ...]) -> Array:
    """The sum of coefficients[n] * x ** n, from the highest term on."""
    first, *between, last = constants(x, coefficients)
    y = xp.multiply(x, last)
    own = y if y.ndim else None
    for c in between[::-1]:
        y = xp.multiply(xp.add(y, c, out=own), x, out=own)
    return xp.add(y, first, out=own)
