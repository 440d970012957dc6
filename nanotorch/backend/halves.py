"""Which kernel computes a primitive; float16 and bfloat16 in float32, rounded once, as in PyTorch.

NumPy adds bfloat16 up in bfloat16, widens it beside a Python number and multiplies its matrices one
element after the other; and a kernel of several steps would round after each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from nanotorch.backend.devices import HOST, RAW, clipped, in_pieces
from nanotorch.backend.errors import check_shape

Array = Any

HALVES = "eE"  # the letters of float16 and bfloat16

# Kernels that stand in for a primitive's own on a device; NotImplemented is what they leave to it.
DEVICE_KERNELS: dict[type, Callable[..., Any]] = {}
# For primitives of a kind that have none: what makes such a kernel, and such rules, of their own.
DEVICE_KINDS: dict[type, tuple[Callable[..., Any], Callable[..., Any]]] = {}


@functools.cache
def device_kernel(primitive: Any) -> Callable[..., Any] | None:
    """What stands in for a primitive's kernel on a device."""
    if primitive in DEVICE_KERNELS:
        return DEVICE_KERNELS[primitive]
    made = (DEVICE_KINDS[kind][0] for kind in primitive.__mro__ if kind in DEVICE_KINDS)
    return next((make(primitive) for make in made), None)


@functools.cache
def _rules_on_device(primitive: Any) -> tuple[Any, ...]:
    made = (DEVICE_KINDS[kind][1] for kind in primitive.__mro__ if kind in DEVICE_KINDS)
    return next((make(primitive.vjp) for make in made), primitive.vjp)


def device_rules(node: Any) -> tuple[Any, ...]:
    """The rules of a primitive's node as they run on a device."""
    primitive: Any = type(node)
    return _rules_on_device(primitive)


def kernel_for(primitive: Any, xp: Any) -> Callable[..., Array]:
    """What computes a primitive with that array module: its kernel, or the device's."""
    kernel: Callable[..., Array] = primitive.kernel
    on_device = None if xp is HOST else device_kernel(primitive)
    if on_device is None:
        return kernel

    def either(xp: Any, *inputs: Any, **attributes: Any) -> Array:
        y = on_device(xp, *inputs, **attributes)
        return kernel(xp, *inputs, **attributes) if y is NotImplemented else y

    return either


def is_half(x: Any) -> bool:
    """Whether x is a raw array of float16 or bfloat16."""
    return type(x) in RAW and x.dtype.char in HALVES


def widened(x: Any) -> Any:
    """A raw array of float16 or bfloat16 in float32; everything else as it is."""
    if type(x) is tuple:
        return tuple(widened(part) for part in x)
    return converted(x, HOST.dtype("f")) if is_half(x) else x


def rounded_number(x: Any, kind: Any) -> Any:
    """A number, or one of float32 in a 0-dim array of the host, as halves; all else as it is."""
    number = type(x) in (int, float)
    if number or (type(x) is HOST.ndarray and x.ndim == 0 and x.dtype.char == "f"):
        with HOST.errstate(over="ignore"):
            return float(kind.type(x)) if number else x.astype(kind)
    return x


def integers_widened(x: Any) -> Any:
    """A raw array of integers in float32; everything else as it is."""
    return x.astype("f") if type(x) in RAW and x.dtype.kind in "iu" else x


def for_rules(g: Array, promotes: str | None) -> Callable[[Any], Any] | None:
    """What to do with the values of a rule whose cotangent g is two bytes wide; None: nothing.

    On the CPU rules are computed in float32. CuPy computes with halves itself, but knows no common
    dtype of bfloat16 and integers.
    """
    if RAW.get(type(g)) is HOST:  # an array, or the scalar that a function of 0-dim ones returned
        return widened
    return integers_widened if promotes else None


def promoted(array: Array, node: Any) -> Array:
    """What a node saved of an operand, in the dtype that the operands were promoted to."""
    floats = node.promotes and array.dtype.kind in "iuf" and node.dtype.itemsize > 2
    return array.astype(node.dtype) if floats else array


def kernel_of(primitive: Any, xp: Any, array: Array) -> Callable[..., Array]:
    """What computes a primitive of operands like this array."""
    if array.itemsize == 2:
        return functools.partial(in_float32, primitive)
    return primitive.kernel if xp is HOST else kernel_for(primitive, xp)


def in_float32(primitive: Any, xp: Any, *inputs: Any, **attributes: Any) -> Array:
    """y = kernel(…) of float16 or bfloat16, computed in float32 and rounded once."""
    kinds = [x.dtype for x in inputs if type(x) in RAW]
    halves = [kind for kind in kinds if kind.char in HALVES]
    mixed = primitive.of_one_dtype and len({kind for kind in kinds if kind.kind in "fV"}) > 1
    if not halves or primitive.view or primitive.rearranges or mixed:
        return kernel_for(primitive, xp)(xp, *inputs, **attributes)
    if xp is not HOST:
        # CuPy's functions of elements compute in float32, and so do the kernels of ours; but
        # bfloat16 with a Python number becomes float32 there.
        y: Any = NotImplemented
        on_device = device_kernel(primitive)
        if on_device is not None:
            y = on_device(xp, *inputs, **attributes)
        if (
            y is NotImplemented
            and hasattr(primitive, "ufunc")
            and all(type(x) in RAW for x in inputs)
        ):
            y = primitive.kernel(xp, *inputs, **attributes)
        if y is not NotImplemented:
            return y
    out = attributes.pop("out", None)
    operands: Any = inputs
    if primitive.promotes:
        exact = primitive.exact_numbers
        operands = [
            x if i and exact else rounded_number(x, halves[0]) for i, x in enumerate(inputs)
        ]
    operands = [widened(x) for x in operands]
    y = primitive.kernel(xp, *operands, **attributes)
    if y.dtype.char == "f" and (primitive.promotes or "f" not in [kind.char for kind in kinds]):
        y = converted(y, halves[0])
    if out is None:
        return y
    check_shape(y, out)
    xp.copyto(out, y, casting="unsafe")
    return out


# --- float32 to float16 and back, in less than half of NumPy's time -------------------------------

MANY = 2048  # elements, from which on it pays
INFINITE = 0x7C00  # the bits of an infinite float16; those of NaN are above


def converted(x: Array, kind: Any) -> Array:
    """x.astype(kind)"""
    y = by_bits(x, kind)
    return x.astype(kind) if y is None else y


def by_bits(x: Any, kind: Any) -> Array | None:
    """x.astype(kind), with the same bits, of many float32 or float16; None for all else."""
    if type(x) is not HOST.ndarray or x.size < MANY:
        return None
    function = {"fe": _to_float16, "ef": _to_float32}.get(x.dtype.char + kind.char)
    return function and in_pieces(function, (x,), HOST.empty_like(x, kind))


# As 0-dim arrays, which NumPy takes in less time than numbers.
SIZE, POWER, SIGN, SCALE, BIAS, SHIFT, WORD = (
    HOST.asarray(number, "i4")
    for number in (0x7FFFFFFF, 0x7F800000, -0x8000, 13 << 23, 126 << 10, 13, 16)
)


def _to_float16(x: Array, out: Array) -> Array:
    """The sum of |x| and 2 ** 13 times its power of two is |x| rounded to ten bits below that."""
    bits = x.view("i4")
    y, unit = bits & SIZE, bits & POWER
    if y.max() >= 0x47800000:  # 2 ** 16, which is infinite, or NaN
        HOST.copyto(out, x, casting="unsafe")
        return out
    power, total = unit.view("f"), y.view("f")
    clipped(HOST, power, 2.0**-14, math.inf, power)  # the least, for the subnormal ones
    unit += SCALE
    total += power
    y -= unit  # x in units of the last of these bits
    unit >>= SHIFT
    y += unit
    y -= BIAS
    HOST.right_shift(bits, WORD, out=unit)
    unit &= SIGN
    y |= unit
    HOST.copyto(out.view("i2"), y, casting="unsafe")
    return out


def _to_float32(x: Array, out: Array) -> Array:
    """The bits thirteen places further on are those of x / 2 ** 112, with more of its sign."""
    bits, y = x.view("i2"), out.view("i4")
    if (bits & 0x7FFF).max() >= INFINITE:
        HOST.copyto(out, x)
        return out
    HOST.copyto(y, bits)
    y <<= 13
    y &= ~0x70000000
    out *= 2.0**112
    return out
