"""The limits of dtypes: `finfo` of floating point, `iinfo` of integers."""

from __future__ import annotations

import math
from typing import Any

from nanotorch.backend import dtypes
from nanotorch.backend.dtypes import dtype, dtype_of, get_default_dtype, wrapped

# Bits of mantissa and of exponent, by itemsize; bfloat16 has float32's exponent.
_PARTS = {2: (10, 5), 4: (23, 8), 8: (52, 11)}


class finfo:  # noqa: N801 - PyTorch's name
    """What a floating dtype (the default one) can hold; of a complex dtype, each of its parts.

    `bits`; `max`, `min`; `tiny` = `smallest_normal`; `eps`, from 1 to the next number;
    `resolution`, of the decimal digits that survive. TypeError for other dtypes.
    """

    __slots__ = ("bits", "dtype", "eps", "max", "min", "resolution", "smallest_normal", "tiny")

    def __init__(self, type: dtype | None = None) -> None:
        kind: Any = dtype_of(type or get_default_dtype())
        if not (kind.is_floating_point or kind.is_complex):
            raise TypeError(
                f"finfo: expected a floating point dtype, got {kind}; iinfo is for integers"
            )
        size = kind.itemsize // 2 if kind.is_complex else kind.itemsize
        mantissa, exponent = (7, 8) if kind is dtypes.bfloat16 else _PARTS[size]
        highest = 2 ** (exponent - 1) - 1
        self.bits = 8 * size
        self.dtype = f"float{self.bits}" if kind is not dtypes.bfloat16 else kind.name
        self.eps = 2.0**-mantissa
        self.max = (2 - self.eps) * 2.0**highest
        self.min = -self.max
        self.tiny = self.smallest_normal = 2.0 ** (1 - highest)
        self.resolution = float(f"1e-{math.floor(mantissa * math.log10(2))}")

    def __repr__(self) -> str:
        named = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        values = ", ".join(f"{name}={getattr(self, name):g}" for name in named)
        return f"finfo({values}, dtype={self.dtype})"


class iinfo:  # noqa: N801 - PyTorch's name
    """What an integer dtype can hold: `bits`, `max`, `min`. TypeError for other dtypes."""

    __slots__ = ("bits", "dtype", "max", "min")

    def __init__(self, type: dtype) -> None:
        type = dtype_of(type)
        if type.category != dtypes.INTEGER:
            raise TypeError(f"iinfo: expected an integer dtype, got {type}; finfo is for floats")
        self.bits, self.dtype = 8 * type.itemsize, type.name
        self.max = 2 ** (self.bits - type.is_signed) - 1
        self.min = -(2 ** (self.bits - 1)) if type.is_signed else 0

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"


def fitting(value: Any, kind: Any) -> Any:
    """A Python number to be written to elements of that NumPy dtype; other values as they are.

    RuntimeError where they cannot hold it: as in PyTorch a fraction may be lost, but no integer
    takes NaN, an infinity or what lies beyond its limits, and no real number an imaginary part.
    """
    if type(value) is int:
        small = (0 if kind.kind == "u" else -128) <= value < 128
    else:
        small = type(value) is float and abs(value) < 65504
    if kind.kind in "bc" or (small and (type(value) is int or kind.kind in "fV")):
        return value
    if not isinstance(value, int | float | complex):
        return value
    name, number = dtype_of(kind), value
    if isinstance(number, complex) and number.imag == 0:
        number = number.real
    if isinstance(number, complex):
        fits = False
    elif kind.kind in "iu":
        limits = iinfo(name)
        low = -limits.max if limits.min == 0 and isinstance(number, int) else limits.min
        fits = low <= number <= limits.max
        number = wrapped(int(number), kind) if fits else number
    else:
        fits = not finfo(name).max < abs(number) < math.inf
    if not fits:
        raise RuntimeError(f"{value} cannot be converted to {name} without overflow")
    return number
