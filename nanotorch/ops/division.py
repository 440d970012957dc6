"""Division that rounds, and its remainders."""

from __future__ import annotations

import functools
from typing import Any

from nanotorch.backend import HOST, Array, in_pieces
from nanotorch.ops.arithmetic import Div
from nanotorch.ops.casting import into, zeros_like
from nanotorch.ops.comparisons import selected
from nanotorch.ops.error_function import with_sign_of
from nanotorch.primitive import Elementwise, apply, function


class FloorDivide(Elementwise):
    """y = floor(a / b)"""

    exact_numbers = True
    in_place = True
    vjp = (lambda g: zeros_like(g), lambda g: zeros_like(g))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if refuse_zero(xp, a, b) or (xp is HOST and not are_many(a, b)):
            return xp.floor_divide(a, b, out=out)

        def floor(a: Array, b: Array, out: Array | None) -> Array:
            rest, above = rest_of(xp, a, b)
            exact, quotient = (a - rest) / b - above, xp.true_divide(a, b)
            y = xp.floor(exact)
            y = y + (exact - y > 0.5)  # what is half a unit in the last place above remains
            y = selected(xp, exact == 0, xp.copysign(0.0, quotient), y)
            return selected(xp, (rest != rest) & (b == 0), quotient, y, out)

        return pair_in_pieces(floor, a, b, out)


floor_divide = function(FloorDivide)


class Remainder(Elementwise):
    """y = a - b * floor(a / b), of the sign of b; 0 has the sign of a, as in PyTorch"""

    in_place = True
    vjp = (lambda g: g, lambda g, a, b: -g * floor_divide(a, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if refuse_zero(xp, a, b):
            return xp.remainder(a, b, out=out)
        if xp is not HOST or are_many(a, b):
            return pair_in_pieces(functools.partial(of_sign, xp), a, b, out)
        y = xp.remainder(a, b)
        return xp.copysign(y, xp.where(y == 0, a, y), out=out)


remainder = function(Remainder)


class Fmod(Elementwise):
    """y = a - b * trunc(a / b), of the sign of a"""

    in_place = True
    vjp = (lambda g: g, lambda g, a, b: -g * apply(TruncDivide, a, b))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if not refuse_zero(xp, a, b) or xp is HOST:
            return remaining(xp, a, b, out)
        return xp.subtract(a, TruncDivide.kernel(xp, a, b) * b, out=out)  # CuPy's is of float64


fmod = function(Fmod)


class TruncDivide(Elementwise):
    """y = trunc(a / b)"""

    vjp = (lambda g: zeros_like(g), lambda g: zeros_like(g))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        if not refuse_zero(xp, a, b):
            return xp.trunc(xp.true_divide(a, b), out=out)
        quotient = xp.floor_divide(a, b)
        negative = (xp.remainder(a, b) != 0) & ((a < 0) != (b < 0))  # where it was rounded down
        return xp.add(quotient, negative, out=out, dtype=quotient.dtype)


MANY = 256  # elements, from which on it pays to take rests by several functions


def are_many(a: Any, b: Any) -> bool:
    """Whether these are arrays of float32 on the host whose rests `remaining` takes."""
    sizes = [x.size for x in (a, b) if type(x) is HOST.ndarray and x.dtype.char == "f"]
    numbers = sum(type(x) in (int, float) for x in (a, b))
    return len(sizes) + numbers == 2 and max(sizes, default=0) >= MANY


def remaining(xp: Any, a: Any, b: Any, out: Array | None = None) -> Array:
    """fmod(a, b). Of float32 a - trunc(a / b) * b, which is exact in float64 where the quotient is
    below 2 ** 24: in an eighth of the time of C's function, which has the rest."""
    if not are_many(a, b):
        return xp.fmod(a, b, out=out)
    single: list[Any] = [HOST.float32(x) if type(x) in (int, float) else x for x in (a, b)]
    x, y = (HOST.asarray(part, "d") for part in single)
    quotient = HOST.trunc(x / y)
    simple = HOST.absolute(quotient) < 2**24
    simple &= HOST.isfinite(y)
    rest = with_sign_of(HOST, (x - quotient * y).astype("f"), single[0])
    if not simple.all():
        HOST.fmod(single[0], single[1], out=rest, where=~simple)
    return into(xp, rest, out)


def rest_of(xp: Any, a: Array, b: Array) -> tuple[Array, Array]:
    """What floats leave when divided, of the sign of a, and where b has the other sign.

    CuPy's own functions take floor(a / b), which is rounded before.
    """
    rest = remaining(xp, a, b)
    return rest, (rest != 0) & ((b < 0) != (rest < 0))


def of_sign(xp: Any, a: Array, b: Array, out: Array | None) -> Array:
    """What floats leave when divided, of the sign of b."""
    rest, above = rest_of(xp, a, b)
    return selected(xp, above, rest + b, rest, out)


def pair_in_pieces(function: Any, a: Any, b: Any, out: Array | None) -> Array:
    """function(a, b, out) in pieces; a or b may be a number."""
    if type(b) in (int, float):
        return in_pieces(lambda a, out: function(a, b, out), (a,), out)
    if type(a) in (int, float):
        return in_pieces(lambda b, out: function(a, b, out), (b,), out)
    return in_pieces(function, (a, b), out)


def refuse_zero(xp: Any, a: Any, b: Any) -> bool:
    """Whether a and b are integers; RuntimeError for booleans, and, on the CPU, for a b of 0."""
    kinds = {x.dtype.kind if hasattr(x, "dtype") else "if"[type(x) is float] for x in (a, b)}
    if kinds == {"b"}:
        raise RuntimeError("division: expected numbers, got booleans")
    if kinds - {"i", "u", "b"}:
        return False
    if xp is HOST and not xp.all(b) and (not hasattr(a, "size") or a.size):
        raise RuntimeError("ZeroDivisionError: integers cannot be divided by 0")
    return True


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; integers give floats, unless `rounding_mode` is "floor" or "trunc"."""
    if rounding_mode is None:
        return apply(Div, a, b)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            f"div: rounding_mode must be None, 'trunc' or 'floor', got {rounding_mode!r}"
        )
    return apply(FloorDivide if rounding_mode == "floor" else TruncDivide, a, b)
