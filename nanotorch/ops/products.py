"""The product of matrices, and the linear layer."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, Array, dot
from nanotorch.backend.order_of_memory import usual
from nanotorch.ops.operand_dtypes import alike
from nanotorch.ops.shapes import reshape, transpose
from nanotorch.primitive import Multilinear, Primitive, apply


def matrix_product(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b; by NumPy's `dot` where it can, which costs less than its matmul: that multiplies the
    matrices of a stack one by one."""
    if (
        xp is HOST
        and b.ndim == 2
        and (a.ndim == 2 or (a.ndim > 2 and a.flags.c_contiguous))
        and a.dtype.char in "fd"
        and a.size > 1 < b.size  # dot multiplies by one number without looking at NaN
        and (out is None or out.flags.c_contiguous)
    ):
        if a.ndim == 2:
            return dot(a, b, out)
        flat = None if out is None else out.reshape(-1, b.shape[1])
        y = dot(a.reshape(-1, a.shape[-1]), b, flat)
        return y.reshape(*a.shape[:-1], b.shape[1]) if out is None else out
    return usual(xp, xp.matmul(a, b)) if out is None else xp.matmul(a, b, out=out)


class Mm(Multilinear):
    """y = a @ b, matrix times matrix"""

    vjp = (lambda g, b: times(g, b.T), lambda g, a: times(a.T, g))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return matrix_product(xp, a, b, out)


class LinearLayer(Primitive):
    """y = x @ weight.T + bias; the rows of x are samples, the rows of weight are outputs"""

    of_one_dtype = True
    vjp = (
        lambda g, weight: product(g, weight),
        lambda g, x: times(rows(g).T, rows(x)),
        lambda g: g,
    )
    jvp = (
        lambda t, weight: product(t, transpose(weight, 0, 1)),
        lambda t, x: product(x, transpose(t, 0, 1)),
        lambda t: t,
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, weight: Array, bias: Array | None, out: Array | None = None
    ) -> Array:
        if x.dtype != weight.dtype or (bias is not None and bias.dtype != x.dtype):
            kinds = ", ".join(str(a.dtype) for a in (x, weight, bias) if a is not None)
            raise RuntimeError(f"linear: expected operands of one dtype, got {kinds}")
        y = matrix_product(xp, x, weight.T, out)
        return y if bias is None else xp.add(y, bias, out=y if y.ndim else out)

    @classmethod
    def title(cls) -> str:
        return "linear"

    def name(self) -> str:
        if len(self.shape) != 2:
            return "ViewBackward0"
        return "AddmmBackward0" if self.edges[2:] != (None,) else "MmBackward0"


def rows(x: Any) -> Any:
    """x as a matrix: all but its last dimension made one."""
    return x if x.ndim == 2 else reshape(x, (-1, x.shape[-1]))


def times(a: Any, b: Any) -> Any:
    """a @ b, both matrices; raw arrays of a device by the kernel of ours."""
    return matrix_product(HOST, a, b, None) if type(a) is HOST.ndarray else apply(Mm, a, b)


def product(a: Any, b: Any) -> Any:
    """a @ b, b a matrix, a of any number of dimensions: folded to one matrix product."""
    y = times(rows(a), b)
    return y if a.ndim == 2 else reshape(y, (*a.shape[:-1], b.shape[1]))


def mm(a: Any, b: Any) -> Any:
    """The product of the matrices a (m, k) and b (k, n)."""
    if a.ndim != 2 or b.ndim != 2:
        raise RuntimeError(f"mm: expected two matrices, got {a.ndim}D and {b.ndim}D tensors")
    alike("mm", a, b)
    return apply(Mm, a, b)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x (…, in) @ weight (out, in).T + bias (out)."""
    if weight.ndim != 2:
        return x @ weight if bias is None else x @ weight + bias
    return apply(LinearLayer, x, weight, bias)
