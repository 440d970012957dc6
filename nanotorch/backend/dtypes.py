"""Element types with PyTorch's names, and PyTorch's rules for mixing them.

A `dtype` pairs a PyTorch name with the NumPy dtype that CuPy understands as well. Promotion follows
the rules of https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc: the
operand of the highest category decides (bool < integer < floating < complex), and within a category
tensors with dimensions outrank 0-dim tensors, which outrank Python numbers.

NumPy has no bfloat16; ml_dtypes adds it, and is imported when the first tensor of it is made.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy

from nanotorch.backend.devices import MODULES, RAW, array_module
from nanotorch.backend.halves import converted
from nanotorch.backend.silence import silent

Array = Any  # a numpy.ndarray or a cupy.ndarray

BOOL, INTEGER, FLOATING, COMPLEX = range(4)
# What NumPy calls the kind of a dtype; bfloat16, which it does not know, is of kind "V".
_CATEGORIES = {"b": BOOL, "u": INTEGER, "i": INTEGER, "f": FLOATING, "V": FLOATING, "c": COMPLEX}
FLOATS = "fV"  # the kinds of floating point


class dtype:  # noqa: N801 - PyTorch's name
    """The type of a tensor's elements: `name`, the NumPy dtype `numpy`, `itemsize` in bytes."""

    __slots__ = (
        "category",
        "is_complex",
        "is_floating_point",
        "is_signed",
        "itemsize",
        "name",
        "numpy",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.numpy = numpy.dtype(name)
        self.itemsize = self.numpy.itemsize
        self.category = _CATEGORIES[self.numpy.kind]
        self.is_floating_point = self.category == FLOATING
        self.is_complex = self.category == COMPLEX
        self.is_signed = self.numpy.kind in "ifc"

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        """The name that error messages use, as PyTorch's: Float, Double, Long, Bool."""
        return _TITLES.get(self.name, self.name.capitalize())


class _BrainFloat(dtype):
    """bfloat16: the 8 bits of exponent of float32 and 7 bits of mantissa."""

    __slots__ = ()

    def __init__(self) -> None:
        self.name, self.itemsize, self.category = "bfloat16", 2, FLOATING
        self.is_floating_point, self.is_complex, self.is_signed = True, False, True

    @property
    def numpy(self) -> numpy.dtype[Any]:  # type: ignore[override]
        return load_bfloat16()


@functools.cache
def load_bfloat16() -> numpy.dtype[Any]:
    """The dtype of ml_dtypes, of which NumPy knows from then on; RuntimeError in one line where
    that package is missing."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise RuntimeError(
            f"dtype bfloat16 needs ml_dtypes, which could not be imported ({error}); "
            'install it with `pip install "nanotorch[bfloat16]"`'
        ) from None
    kind: numpy.dtype[Any] = numpy.dtype(ml_dtypes.bfloat16)
    _BY_NUMPY[kind] = bfloat16
    RAW[kind.type] = numpy
    return kind


_TITLES = {
    "bfloat16": "BFloat16", "float16": "Half", "float32": "Float", "float64": "Double",
    "uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long",
}  # fmt: skip

float16, float32, float64 = dtype("float16"), dtype("float32"), dtype("float64")
int8, int16, int32, int64 = dtype("int8"), dtype("int16"), dtype("int32"), dtype("int64")
uint8, uint16, uint32, uint64 = dtype("uint8"), dtype("uint16"), dtype("uint32"), dtype("uint64")
complex64, complex128 = dtype("complex64"), dtype("complex128")
bool_ = dtype("bool")
bfloat16 = _BrainFloat()

half, double, cfloat, cdouble = float16, float64, complex64, complex128
short, int_, long, float_ = int16, int32, int64, float32

_REAL = (float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64)
_BY_NUMPY = {d.numpy: d for d in (*_REAL, complex64, complex128, bool_)}
_BY_PYTHON = {bool: bool_, int: int64, float: float64, complex: complex128}
_default = float32


def dtype_of(kind: Any) -> dtype:
    """The `dtype` of a NumPy dtype, of its name, or of the Python type bool, int, float or
    complex."""
    if isinstance(kind, dtype):
        return kind
    known = _BY_NUMPY.get(kind)
    if known is not None:
        return known
    if kind in _BY_PYTHON:
        return _BY_PYTHON[kind]
    try:
        return _BY_NUMPY[numpy.dtype(kind)]
    except (KeyError, TypeError):
        if str(kind) == "bfloat16":  # from elsewhere: nothing of ours has needed it yet
            return bfloat16
        names = ", ".join(d.name for d in (*_REAL, complex64, complex128, bool_, bfloat16))
        raise TypeError(f"dtype: expected one of {names}, got {kind!r}") from None


def tensor_type(kind: Any) -> tuple[dtype, str | None]:
    """(dtype, device type) of a tensor type, such as `torch.FloatTensor` or its name; of what
    `dtype_of` takes, (dtype, None)."""
    *packages, name = str(kind).removeprefix("<class '").removesuffix("'>").split(".")
    title = name.removesuffix("Tensor")
    for candidate in (*_REAL, bool_, bfloat16):
        if packages and title != name and candidate.title == title:
            return candidate, "cuda" if "cuda" in packages else "cpu"
    return dtype_of(kind), None


def get_default_dtype() -> dtype:
    """The floating dtype that Python floats become: float32 unless set otherwise."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Makes `d`, a floating dtype, the one that Python floats become."""
    global _default
    if not isinstance(d, dtype) or not d.is_floating_point:
        raise TypeError(f"set_default_dtype: expected a floating point dtype, got {d!r}")
    _default = d


def promote_types(a: dtype, b: dtype) -> dtype:
    """The dtype that holds both: the higher category's own, else NumPy's common type."""
    a, b = dtype_of(a), dtype_of(b)
    if a is b:
        return a
    if a.category == b.category:
        if a is bfloat16 or b is bfloat16:  # which with float16 meets in float32, as with itself
            return float64 if float64 in (a, b) else float32
        return _BY_NUMPY[numpy.promote_types(a.numpy, b.numpy)]
    low, high = (a, b) if a.category < b.category else (b, a)
    return complex128 if high.is_complex and low is float64 else high


def _of_number(value: complex) -> dtype:
    kind = _BY_PYTHON[type(value)]
    if kind.is_floating_point:
        return _default
    if kind.is_complex:
        return complex128 if _default is float64 else complex64
    return kind


def result_type(*operands: Any) -> dtype:
    """The dtype of an elementwise result over tensors, arrays and Python numbers."""
    ranks: list[dtype | None] = [None, None, None]  # with dimensions, 0-dim, Python numbers
    for operand in operands:
        operand = getattr(operand, "_array", operand)
        if type(operand) in _BY_PYTHON:
            rank, kind = 2, _of_number(operand)
        else:
            rank, kind = (0 if operand.ndim else 1), dtype_of(operand.dtype)
        held = ranks[rank]
        ranks[rank] = kind if held is None else promote_types(held, kind)
    result: dtype | None = None
    for kind_of_rank in reversed(ranks):
        if kind_of_rank is not None:
            result = kind_of_rank if result is None else _outrank(kind_of_rank, result)
    assert result is not None
    return result


def _outrank(high: dtype, low: dtype) -> dtype:
    """The dtype of a rank with the lower rank's: its own, unless the lower one's category is
    higher."""
    if low.category <= high.category:
        return high
    if high.is_floating_point:
        return complex128 if high is float64 else complex64
    return promote_types(high, low)


def promote(operands: Sequence[Any], floating: bool, arrays: Any = MODULES) -> Sequence[Any]:
    """Casts arrays to their common dtype; Python numbers stay, for they never widen an array.

    `floating`: integers become the default floating dtype, as exp or a true division needs. NumPy's
    scalars count as Python numbers, or as 0-dim arrays where `arrays` is RAW.
    """
    common = None
    for operand in operands:
        if type(operand) in arrays:
            if common is None:
                common = operand.dtype
            elif operand.dtype is not common:
                break
        elif type(operand) is int and common is not None:
            if not 0 <= operand < 128 and common.kind in "iu" and common.char not in "lq":
                break  # a number that may have to wrap around
        elif common is None or type(operand) is not int:
            if type(operand) is not float or common is None or common.kind != "f":
                break
    else:
        if not floating or common is None or common.kind in FLOATS:
            return operands
    return _promote(operands, floating, arrays)


def _promote(operands: Sequence[Any], floating: bool, arrays: Any) -> Sequence[Any]:
    values = []
    for operand in operands:
        if isinstance(operand, numpy.generic) and type(operand) not in arrays:
            operand = operand.item()
        elif isinstance(operand, list | tuple | str | None):
            raise TypeError(
                f"expected a Tensor or a number as operand, got {type(operand).__name__} "
                f"{operand!r}"
            )
        values.append(operand)
    kind = result_type(*values)
    if floating and kind.category < FLOATING:
        kind = _default
    module = next((array_module(v) for v in values if type(v) in MODULES and v.ndim), None)
    operands = [_cast(v, kind.numpy, module) for v in values]
    if kind.is_floating_point and kind.itemsize == 2:
        # What a 0-dim array stands for beside halves, `halves` decides as for a number.
        for i, v in enumerate(values[1:], 1):
            if type(operands[i]) is numpy.ndarray and v.ndim == 0 and v.dtype != kind.numpy:
                operands[i] = v.astype("f")
    return operands


@silent
def as_dtype(array: Array, kind: numpy.dtype[Any]) -> Array:
    """A copy of the array in another dtype; like in PyTorch, float16 by way of float32."""
    if kind.char == "e" and array.dtype.kind in "fbiuV" and array.dtype.char not in "ef":
        array = as_dtype(array, numpy.dtype("f"))
    return converted(array, kind)


def wrapped(value: int, kind: numpy.dtype[Any]) -> int:
    """What an integer dtype keeps of a number: its last bits, as in PyTorch."""
    span = 1 << 8 * kind.itemsize
    low = -span // 2 if kind.kind == "i" else 0
    return (value - low) % span + low


def _cast(value: Any, kind: numpy.dtype[Any], module: Any) -> Any:
    if type(value) is int and kind.kind in "iu":
        return wrapped(value, kind)
    if type(value) in _BY_PYTHON:  # of a bool alone NumPy's functions would make float16
        return float(value) if type(value) is bool and kind.kind in FLOATS else value
    if module is not None and value.ndim == 0 and array_module(value) is not module:
        return value.item()  # a 0-dim tensor of the host may join tensors of a device
    return value if value.dtype == kind else as_dtype(value, kind)
