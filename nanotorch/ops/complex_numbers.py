"""Complex numbers and their parts, which are copies here, and no views as in PyTorch."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array
from nanotorch.ops.casting import into
from nanotorch.ops.elementwise import cos, sin
from nanotorch.ops.joining import stack
from nanotorch.ops.operand_dtypes import alike, needs_floats
from nanotorch.ops.shapes import select
from nanotorch.primitive import Linear, apply


class ViewAsReal(Linear):
    """y = the real and the imaginary part of x, in a last dimension of 2"""

    vjp = (lambda g: apply(ViewAsComplex, g),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return into(xp, xp.stack((x.real, x.imag), -1), out)


class ViewAsComplex(Linear):
    """y = x[..., 0] + x[..., 1] i"""

    vjp = (lambda g: apply(ViewAsReal, g.conj()),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        y = xp.empty(x.shape[:-1], HOST.result_type(x.dtype, "F"))
        y.real, y.imag = x[..., 0], x[..., 1]
        return into(xp, y, out)


def is_complex(x: Any) -> bool:
    """Whether x is a tensor, or an array, of complex numbers."""
    return bool(getattr(x, "_array", x).dtype.kind == "c")


def view_as_real(x: Any) -> Any:
    """The complex numbers x (…) as their parts (…, 2)."""
    if not is_complex(x):
        raise RuntimeError(f"view_as_real: expected a complex tensor, got {x.dtype}")
    return apply(ViewAsReal, x)


def view_as_complex(x: Any) -> Any:
    """The complex numbers (…) of which x (…, 2) has the parts; float32 or float64."""
    if is_complex(x) or not x.shape or x.shape[-1] != 2:
        raise RuntimeError(
            "view_as_complex: expected real numbers with a last dimension of size 2, got "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    needs_floats("view_as_complex", x)
    return apply(ViewAsComplex, x)


def real(x: Any) -> Any:
    """The real part; of real tensors themselves."""
    return select(view_as_real(x), -1, 0) if is_complex(x) else x


def imag(x: Any) -> Any:
    """The imaginary part of a complex tensor."""
    if not is_complex(x):
        raise RuntimeError("imag is not implemented for tensors with non-complex dtypes.")
    return select(view_as_real(x), -1, 1)


def complex(real: Any, imag: Any) -> Any:
    """real + imag i, of two tensors of one shape and dtype."""
    alike("complex", real, imag)
    return view_as_complex(stack((real, imag), -1))


def polar(abs: Any, angle: Any) -> Any:
    """The complex numbers of that size and that angle in radians."""
    return complex(abs * cos(angle), abs * sin(angle))
