"""The logarithm of the gamma function, and its derivatives.

On a short interval each is a polynomial times its zeros there; the recurrence leads from there to
other arguments, reflection to negative ones, and Stirling's series serves large ones. Source:
https://dlmf.nist.gov/5 (5.5, 5.11, 5.15) and https://dlmf.nist.gov/25.11 (25.11.28). float32 is
computed in float64; there the error is a few units in the last place, except beside zeros at
negative arguments, where it is one of the terms whose difference vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nanotorch.backend import HOST, Array, clipped
from nanotorch.ops.comparisons import selected
from nanotorch.ops.error_function import in_float64, polynomial
from nanotorch.primitive import Elementwise, apply, function

# log Γ(x) / ((x - 1) (x - 2)) on [1.5, 2.5], in 2 x - 4: through the Chebyshev points, computed
# with 50 digits. The largest error is one unit in the last place.
LOG_GAMMA = (
    0.42278433509846713, -0.05015865083717696, 0.008241250155288966, -0.0015480240241714121,
    0.0003124150727932462, -6.587908856103758e-05, 1.4302764414466175e-05,
    -3.169589044066606e-06, 7.1309621867301e-07, -1.6229516187772782e-07,
    3.727440869990047e-08, -8.623890181953268e-09, 2.0071395380614077e-09,
    -4.695884559307124e-10, 1.106775467493722e-10, -2.610701271149409e-11,
    5.895758283298044e-12, -1.3987453257604092e-12, 4.658499769951121e-13,
    -1.1125431307451045e-13,
)  # fmt: skip
# (log Γ)'(x) / (x - ZERO) on [1, 2], in 2 x - 3: likewise.
DIGAMMA = (
    0.951055876031833, -0.21181371064073026, 0.06013562106019355, -0.018550615381738605,
    0.005936795278433826, -0.0019350666647832667, 0.000636888028319074,
    -0.00021074841215733007, 6.995020484160625e-05, -2.325823828431376e-05,
    7.741156881253708e-06, -2.578107848270217e-06, 8.591324222417666e-07,
    -2.8628755280038686e-07, 9.500926192924096e-08, -3.166618072027162e-08,
    1.10370884388543e-08, -3.6788868183645545e-09, 8.668257373761658e-10,
    -2.889363639216111e-10, 2.4765474440031764e-10, -8.25512972008104e-11,
)  # fmt: skip
ZERO = (1.4616321449683622, 9.549995429965697e-17)  # of the digamma function, as a sum
BERNOULLI = (
    1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798,
    -174611 / 330,
)  # fmt: skip
LARGE = 10.0  # from here on Stirling's series serves


class Lgamma(Elementwise):
    """y = log |Γ(x)|"""

    promotes = "floating"
    vjp = (lambda g, x: g * digamma(x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def logarithm(z: Array) -> Array:
            y = log_gamma(xp, selected(xp, z < 0, 1 - z, z), x.itemsize < 8)
            if xp is not HOST or (z < 0).any():
                sine = xp.absolute(xp.sin(math.pi * (z - xp.rint(z))))
                y = selected(xp, z < 0, xp.log(math.pi / sine) - y, y)
            return selected(xp, xp.isinf(z), xp.inf, y)

        return in_float64(xp, logarithm, x, out)


lgamma = function(Lgamma)


class Digamma(Elementwise):
    """y = Γ'(x) / Γ(x)"""

    promotes = "floating"
    vjp = (lambda g, x: g * polygamma(1, x),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        def slope(z: Array) -> Array:
            whole = z == xp.rint(z)
            y = positive_digamma(xp, selected(xp, z < 0, 1 - z, z))
            reflected = y - math.pi / xp.tan(math.pi * (z - xp.rint(z)))
            return selected(xp, z < 0, selected(xp, whole, xp.nan, reflected), y)

        return in_float64(xp, slope, x, out)


digamma: Callable[[Any], Any] = function(Digamma)


class Polygamma(Elementwise):
    """y = the n-th derivative of the digamma function, n > 0"""

    promotes = "floating"
    vjp = (lambda g, x, n: g * polygamma(n + 1, x),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, n: int, out: Array | None = None) -> Array:
        def derivative(z: Array) -> Array:
            sign = (-1) ** (n + 1) * math.factorial(n)
            y = sign * hurwitz_zeta(xp, n + 1, selected(xp, z < 0, 1 - z, z))
            cotangent = 1 / xp.tan(math.pi * (z - xp.rint(z)))
            reflected = (-1) ** n * y - cotangent_slope(xp, n, cotangent)
            y = selected(xp, z < 0, reflected, y)
            return selected(xp, (z <= 0) & (z == xp.rint(z)), sign * xp.inf, y)

        return in_float64(xp, derivative, x, out)


# --- for arguments of at least 0, in float64 ------------------------------------------------------


def log_gamma(xp: Any, x: Array, short: bool) -> Array:
    """log Γ(x); with an error below 1e-9 if `short`."""
    large, terms = (4.0, LOG_GAMMA[:16]) if short else (LARGE, LOG_GAMMA)
    down = clipped(xp, xp.floor(x - 1.5), 0, large)  # Γ(x) = (x - 1) … (x - down) Γ(x - down)
    near = selected(xp, x < 0.5, x, selected(xp, x < 1.5, x - 1, x - down - 2))  # less 2, exactly
    factor = selected(xp, x < 0.5, x * (x + 1), selected(xp, x < 1.5, x, 1))
    for step in range(1, int(large)):
        factor = factor * selected(xp, step <= down, x - step, 1)
    y = (near + 1) * near * polynomial(xp, 2 * near, terms)
    by_factor = xp.log(factor)
    y = y + selected(xp, x < 1.5, -by_factor, by_factor)
    far = clipped(xp, x, large, math.inf)
    square = 1 / (far * far)
    series = tuple(b / (2 * k * (2 * k - 1)) for k, b in enumerate(BERNOULLI[:8], 1))
    tail = math.log(2 * math.pi) / 2 + polynomial(xp, square, series) / far
    return selected(xp, x < large, y, ((far - 0.5) * xp.log(far) - far) + tail)


def positive_digamma(xp: Any, x: Array) -> Array:
    """Γ'(x) / Γ(x)."""
    down = clipped(xp, xp.floor(x - 1), 0, LARGE)
    near = selected(xp, x < 1, x + 1, x - down)
    y = ((near - ZERO[0]) - ZERO[1]) * polynomial(xp, 2 * near - 3, DIGAMMA)
    for step in range(1, int(LARGE)):
        y = y + selected(xp, step <= down, 1 / (x - step), 0)
    far = clipped(xp, x, LARGE, math.inf)
    terms = tuple(b / (2 * k) for k, b in enumerate(BERNOULLI[:8], 1))
    square = 1 / (far * far)
    series = xp.log(far) - 0.5 / far - square * polynomial(xp, square, terms)
    return selected(xp, x < 1, y - 1 / x, selected(xp, x < LARGE, y, series))


def hurwitz_zeta(xp: Any, s: int, x: Array) -> Array:
    """The sum of (x + k) ** -s over k = 0, 1, 2, …, by Euler and Maclaurin's formula."""
    total = xp.zeros_like(x)
    for step in range(int(LARGE)):
        total = total + (x + step) ** -float(s)
    far = x + LARGE
    rest = far / (s - 1) + 0.5
    factor = s / far  # s (s + 1) … (s + 2 k - 2) / far ** (2 k - 1)
    for k, b in enumerate(BERNOULLI, 1):
        rest = rest + b / math.factorial(2 * k) * factor
        factor = factor * ((s + 2 * k - 1) * (s + 2 * k)) / (far * far)
    return total + selected(xp, xp.isinf(x), 0, far ** -float(s) * rest)


def cotangent_slope(xp: Any, n: int, c: Array) -> Array:
    """The n-th derivative of π cot(π x), a polynomial in c = cot(π x)."""
    terms = [0.0, 1.0]
    for _ in range(n):
        slopes = [k * term for k, term in enumerate(terms)][1:]
        terms = [-a - b for a, b in zip([*slopes, 0.0, 0.0], [0.0, 0.0, *slopes], strict=True)]
    return math.pi ** (n + 1) * polynomial(xp, c, tuple(terms))


# --- the functions --------------------------------------------------------------------------------


def polygamma(n: int, x: Any) -> Any:
    """The n-th derivative of the digamma function; n = 0 is that function."""
    if n < 0:
        raise RuntimeError(f"polygamma(n, x) does not support negative n, got {n}")
    return apply(Polygamma, x, n=n) if n else digamma(x)


def polygamma_method(x: Any, n: int) -> Any:
    """The n-th derivative of the digamma function at x."""
    return polygamma(n, x)


def mvlgamma(x: Any, p: int) -> Any:
    """log of the p-variate gamma function: p (p - 1) log(π) / 4 + Σ log Γ(x - j / 2), j < p."""
    if p < 1:
        raise RuntimeError(f"mvlgamma: p has to be greater than or equal to 1, got {p}")
    y = lgamma(x)
    for j in range(1, p):
        y = y + lgamma(x - j / 2)
    return y + p * (p - 1) / 4 * math.log(math.pi)
