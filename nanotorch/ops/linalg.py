"""Products of vectors and of batches of matrices, contractions, inverses and determinants."""

from __future__ import annotations

import string
from typing import Any

from nanotorch.backend import HOST, Array, broadcast_shapes
from nanotorch.backend.loading import when_called
from nanotorch.backend.order_of_memory import usual
from nanotorch.ops import contraction
from nanotorch.ops.casting import cast, clone, into, ones_like
from nanotorch.ops.comparisons import where
from nanotorch.ops.elementwise import sign
from nanotorch.ops.operand_dtypes import alike, needs_floats
from nanotorch.ops.products import matrix_product, mm
from nanotorch.ops.shapes import (
    UnsafeView,
    diag_embed,
    diagonal as diagonal_of,
    dimension,
    expand,
    reshape,
    squeeze,
    transpose,
    unsqueeze,
)
from nanotorch.ops.sums import sum
from nanotorch.primitive import Multilinear, Primitive, apply

products_of_others = when_called("nanotorch.ops.cumulative", "products_of_others")


class Dot(Multilinear):
    """y = the sum of a * b, of two vectors"""

    vjp = (lambda g, b: g * b, lambda g, a: g * a)

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return into(xp, xp.dot(a, b), out)


class Mv(Multilinear):
    """y = a @ b, matrix times vector"""

    vjp = (
        lambda g, b: reshape(g, (-1, 1)) * b,
        lambda g, a: mv(transpose(a, 0, 1), g),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return xp.matmul(a, b, out=out)


class Bmm(Multilinear):
    """y = a @ b over leading dimensions, which broadcast"""

    vjp = (
        lambda g, b: batched(g, transpose(b, -2, -1)),
        lambda g, a: batched(transpose(a, -2, -1), g),
    )

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        y = xp.matmul(a, b, out=out)
        return y if out is not None else usual(xp, y)


class BatchedMatMul(Bmm):
    """y = a @ b over leading dimensions, as matmul calls it"""

    backward_name = "UnsafeViewBackward0"
    vjp = Bmm.vjp

    @classmethod
    def title(cls) -> str:
        return "matmul"


class EinSum(Multilinear):
    """y = the sum over the letters of the equation that are not in its output"""

    backward_name = "EinsumBackward0"
    vjp = (
        lambda g, inputs, index, equation, shapes: einsum_reverse(
            g, inputs, index, equation, shapes
        ),
    )

    @staticmethod
    def kernel(xp: Any, *inputs: Array, equation: str, out: Array | None = None) -> Array:
        y = contraction.einsum(xp, matrix_product, equation, inputs)
        if y is NotImplemented:
            y = xp.einsum(equation, *inputs, optimize=len(inputs) > 2)
            y = usual(xp, y) if len(inputs) > 1 or y.base is None else y  # a view stays one
        return into(xp, y, out)


class Inv(Primitive):
    """y = the inverse of each square matrix x"""

    backward_name = "LinalgInvExBackward0"
    vjp = (lambda g, y: -matmul(matmul(transpose(y, -2, -1), g), transpose(y, -2, -1)),)
    jvp = (lambda t, y: -matmul(matmul(y, t), y),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        y = xp.linalg.inv(x)
        return into(xp, y, out)


class InvEx(Inv):
    """y = the inverse of each square matrix x, NaN where there is none"""

    vjp, jvp = Inv.vjp, Inv.jvp

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        return into(xp, where_regular(xp, xp.linalg.inv, x), out)


def where_regular(xp: Any, function: Any, a: Array, *others: Array) -> Array:
    """function(a, …), of whose matrices the singular ones give NaN."""
    try:
        return function(a, *others)
    except xp.linalg.LinAlgError:
        pivots = [zero_pivot(xp, a[place]) for place in HOST.ndindex(a.shape[:-2])]
        regular = (xp.asarray(pivots) == 0).reshape((*a.shape[:-2], 1, 1))
        safe = xp.where(regular, a, xp.eye(a.shape[-1], dtype=a.dtype))
        return xp.where(regular, function(safe, *others), xp.nan).astype(a.dtype)


def zero_pivot(xp: Any, matrix: Array) -> int:
    """Which diagonal element vanishes first, from 1, when rows are eliminated; 0 for none."""
    rows = matrix.copy()
    for k in range(len(rows)):
        pivot = k + int(xp.argmax(xp.absolute(rows[k:, k])))
        if rows[pivot, k] == 0:
            return k + 1
        rows[[k, pivot]] = rows[[pivot, k]]
        rows[k + 1 :] -= rows[k + 1 :, k : k + 1] / rows[k, k] * rows[k]
    return 0


def solved(xp: Any, a: Array, b: Array) -> Array:
    """x such that a @ x = b; batches broadcast, for CuPy beforehand."""
    if xp is not HOST and b.ndim > 1:
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (xp.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    return xp.linalg.solve(a, b)


class Solve(Primitive):
    """y = x such that a @ x = b"""

    backward_name = "LinalgSolveExBackward0"
    vjp = (
        lambda g, a, y: -matmul(solve(transpose(a, -2, -1), g), transpose(y, -2, -1)),
        lambda g, a: solve(transpose(a, -2, -1), g),
    )
    jvp = (lambda t, a, y: -solve(a, matmul(t, y)), lambda t, a: solve(a, t))

    @staticmethod
    def kernel(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
        return into(xp, solved(xp, a, b), out)


class LogAbsDet(Primitive):
    """y = log |det x| of each square matrix"""

    vjp = (lambda g, x: reshape(g, (*g.shape, 1, 1)) * transpose(apply(InvEx, x), -2, -1),)
    jvp = (lambda t, x: trace_of(matmul(apply(InvEx, x), t)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            y = xp.linalg.slogdet(x)[1]
        return into(xp, y, out)


class Det(Primitive):
    """y = det x of each square matrix"""

    backward_name = "LinalgDetBackward0"
    vjp = (lambda g, x, y: apply(DetReverse, g, x, y),)
    jvp = (lambda t, x, y: sum(apply(DetReverse, ones_like(y), x, y) * t, (-2, -1)),)

    @staticmethod
    def kernel(xp: Any, x: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            y = xp.linalg.det(x)  # 0 where LAPACK takes NaN for a pivot
        y = xp.where(xp.isnan(x).any((-2, -1)), xp.asarray(xp.nan, x.dtype), y)
        if out is None:
            return xp.asarray(y)
        xp.copyto(out, y)
        return out


def batched(a: Any, b: Any) -> Any:
    """a @ b over leading dimensions."""
    return apply(BatchedMatMul, a, b)


class DetReverse(Primitive):
    """z = g times the cofactors of each square matrix x, whose determinant is y"""

    vjp = (
        lambda h, x, y: sum(h * apply(DetReverse, ones_like(y), x, y), (-2, -1)),
        lambda h, g, x, y: apply(DetCurvature, h, g, x, y),
        None,
    )
    jvp = (
        lambda t, x, y: apply(DetReverse, t, x, y),
        lambda t, g, x, y: apply(DetCurvature, t, g, x, y),
        None,
    )

    @staticmethod
    def kernel(xp: Any, g: Array, x: Array, y: Array, out: Array | None = None) -> Array:
        with HOST.errstate(all="ignore"):
            singular = (y == 0)[..., None, None]
            without = singular | xp.isnan(y)[..., None, None]  # an inverse
            regular = xp.where(without, xp.eye(x.shape[-1], dtype=x.dtype), x)
            z = (g * y)[..., None, None] * xp.linalg.inv(regular).swapaxes(-2, -1)
            if xp is HOST and singular.any():
                u, s, v = xp.linalg.svd(x)
                cofactors = (u.conj() * products_of_others(s, -1)[..., None, :]) @ v.conj()
                cofactors *= (xp.linalg.det(u) * xp.linalg.det(v))[..., None, None]
                z = xp.where(singular, g[..., None, None] * cofactors, z)
        return into(xp, z, out)


class DetCurvature(Primitive):
    """z = g times the derivative of x's cofactors in the direction h, which is symmetric in h and z

    By the singular values, as every term is a product of all but two of them: the inverse loses all
    digits near singular matrices.
    """

    vjp = (
        lambda k, g, x, y: apply(DetCurvature, k, g, x, y),
        lambda k, h, x, y: sum(k * apply(DetCurvature, h, ones_like(y), x, y), (-2, -1)),
        lambda k, h, g, x, y: third_of_det(k, h, g * y, inv(x)),
        None,
    )
    jvp = (
        lambda t, g, x, y: apply(DetCurvature, t, g, x, y),
        lambda t, h, x, y: apply(DetCurvature, h, t, x, y),
        lambda t, h, g, x, y: third_of_det(t, h, g * y, inv(x)),
        None,
    )

    @staticmethod
    def kernel(xp: Any, h: Array, g: Array, x: Array, y: Array, out: Array | None = None) -> Array:
        finite = xp.isfinite(x).all((-2, -1), keepdims=True)
        u, s, v = xp.linalg.svd(xp.where(finite, x, 0))  # which of NaN does not converge
        left, right = u.conj(), v.conj()
        turned = left.swapaxes(-2, -1) @ h @ right.swapaxes(-2, -1)  # where x is diagonal
        one = xp.eye(x.shape[-1], dtype=bool)
        pairs = xp.where(one[:, None] | one[None], 1, s[..., None, None, :]).prod(-1) * ~one
        z = -pairs * turned.swapaxes(-2, -1)
        z[..., one] = (pairs @ turned.diagonal(0, -2, -1)[..., None])[..., 0]
        signs = g * xp.linalg.det(u) * xp.linalg.det(v)
        z = signs[..., None, None] * (left @ z @ right)
        return into(xp, xp.where(finite, z, xp.asarray(xp.nan, x.dtype)), out)


def third_of_det(k: Any, h: Any, g: Any, inverse: Any) -> Any:
    """The cotangent of x in DetCurvature, for regular matrices; g is times the determinant."""
    a, b = matmul(inverse, h), matmul(inverse, k)
    both = matmul(a, b)
    first, second = (reshape(trace_of(c), (*g.shape, 1, 1)) for c in (a, b))
    y = (first * second - reshape(trace_of(both), (*g.shape, 1, 1))) * inverse
    y = y + matmul(both + matmul(b, a) - second * a - first * b, inverse)
    return reshape(g, (*g.shape, 1, 1)) * transpose(y, -2, -1)


def trace_of(x: Any) -> Any:
    """The traces of the matrices in the last two dimensions."""
    return diagonal_of(x, 0, -2, -1).sum(-1)


def einsum_reverse(
    g: Any, inputs: tuple[Any, ...], index: int, equation: str, shapes: tuple[Any, ...]
) -> Any:
    """The cotangent of one operand: the equation with that operand and the output exchanged."""
    left, output = equation.split("->")
    terms = left.split(",")
    own = terms[index]
    others = [
        (term, x) for i, (term, x) in enumerate(zip(terms, inputs, strict=True)) if i != index
    ]
    sizes: dict[str, int] = {}
    for term, x in ((output, g), *others):
        for letter, n in zip(term, x.shape, strict=True):
            sizes[letter] = max(n, sizes.get(letter, 1)) if n else 0
    # A dimension of size 1 is repeated beside larger ones, so it is summed here, or repeated here.
    pairs = zip(own, shapes[index], strict=True)
    kept = "".join(dict.fromkeys(letter for letter, n in pairs if sizes.get(letter) == n))
    operands = [g, *(x for _, x in others)]
    y = apply(EinSum, *operands, equation=",".join([output, *(t for t, _ in others)]) + "->" + kept)
    shape = tuple(n if letter in kept else 1 for letter, n in zip(own, shapes[index], strict=True))
    return expand(reshape(y, shape), tuple(shapes[index]))


# --- the functions --------------------------------------------------------------------------------


def matmul(a: Any, b: Any) -> Any:
    """The matrix product: vectors dot, matrices multiply, leading dimensions broadcast.

    Shapes: (k) (k) -> (); (m, k) (k) -> (m); (k) (k, n) -> (n); (…, m, k) (…, k, n) -> (…, m, n).
    """
    if not (hasattr(a, "ndim") and hasattr(b, "ndim")):
        kinds = f"{type(a).__name__} and {type(b).__name__}"
        raise TypeError(f"matmul: expected two Tensors, got {kinds}")
    if a.ndim == 2 and b.ndim == 2:
        return mm(a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise RuntimeError(
            f"matmul: both arguments need to be at least 1D, but they are {a.ndim}D and {b.ndim}D"
        )
    alike("matmul", a, b)
    if a.ndim == 1 and b.ndim == 1:
        return dot(a, b)
    if a.ndim == 2 and b.ndim == 1:
        return mv(a, b)
    if a.ndim == 1:
        y = matmul(unsqueeze(a, 0), b)
        return apply(UnsafeView, y, shape=(*y.shape[:-2], y.shape[-1]))
    if b.ndim == 1:
        y = matmul(a, unsqueeze(b, 1))
        return apply(UnsafeView, y, shape=tuple(y.shape[:-1]))
    return apply(BatchedMatMul, a, b)


def bmm(a: Any, b: Any) -> Any:
    """The products of the matrices in a (n, m, k) and b (n, k, p)."""
    if a.ndim != 3 or b.ndim != 3:
        raise RuntimeError(f"bmm: expected two tensors of 3 dimensions, got {a.ndim} and {b.ndim}")
    alike("bmm", a, b)
    return apply(Bmm, a, b)


def mv(a: Any, b: Any) -> Any:
    """The product of the matrix a (m, k) and the vector b (k)."""
    if a.ndim != 2 or b.ndim != 1:
        raise RuntimeError(
            f"mv: expected a matrix and a vector, got {a.ndim}D and {b.ndim}D tensors"
        )
    alike("mv", a, b)
    return apply(Mv, a, b)


def dot(a: Any, b: Any) -> Any:
    """The sum of the products of the elements of two vectors of one length."""
    if a.ndim != 1 or b.ndim != 1:
        raise RuntimeError(f"dot: 1D tensors expected, but got {a.ndim}D and {b.ndim}D tensors")
    if a.shape != b.shape:
        raise RuntimeError(
            f"dot: inconsistent tensor size, expected a {tuple(a.shape)} and b {tuple(b.shape)} to "
            "have the same number of elements"
        )
    alike("dot", a, b)
    return apply(Dot, a, b)


def outer(a: Any, b: Any) -> Any:
    """The products (m, n) of every element of the vector a (m) with every one of b (n)."""
    if a.ndim != 1 or b.ndim != 1:
        raise RuntimeError(f"outer: 1D tensors expected, but got {a.ndim}D and {b.ndim}D tensors")
    return reshape(a, (-1, 1)) * b


def addmm(x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * (a @ b)."""
    alike("addmm", x, a)
    y = mm(a, b)
    x = _as(x, y)
    return (x if beta == 1 else beta * x) + (y if alpha == 1 else alpha * y)


def baddbmm(x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * (a @ b), of batches of matrices."""
    alike("baddbmm", x, a)
    y = bmm(a, b)
    x = _as(x, y)
    return (x if beta == 1 else beta * x) + (y if alpha == 1 else alpha * y)


def _as(x: Any, y: Any) -> Any:
    """x in the dtype of the product y, which autocast may have computed in another."""
    return x if x.dtype == y.dtype else cast(x, getattr(y.dtype, "numpy", y.dtype))


def inner(a: Any, b: Any) -> Any:
    """The products of the rows of a with the rows of b, along their last dimensions."""
    return tensordot(a, b, ([-1], [-1])) if a.ndim and b.ndim else a * b


def einsum(equation: Any, *operands: Any) -> Any:
    """The sum of products that the equation, such as "ij,jk->ik", names.

    Or einsum(a, [0, 1], b, [1, 2], [0, 2]): each operand with the numbers of its dimensions.
    """
    if not isinstance(equation, str):
        items = (equation, *operands)
        operands = items[: len(items) // 2 * 2 : 2]
        equation = ",".join(lettered(term) for term in items[1::2])
        equation += "->" + lettered(items[-1]) if len(items) % 2 else ""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    alike("einsum", *operands)
    equation = equation.replace(" ", "")
    if equation.count(",") + 1 != len(operands):
        raise RuntimeError(
            f"einsum: expected as many operands as {equation!r} has terms, got {len(operands)}"
        )
    if "->" not in equation:
        letters = equation.replace(",", "").replace(".", "")
        dots = "..." if "..." in equation else ""
        equation += "->" + dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if "..." in equation:
        equation = without_dots(equation, [operand.ndim for operand in operands])
    left, output = equation.split("->")
    pairs = [once_each(*pair) for pair in zip(left.split(","), operands, strict=True)]
    equation = ",".join(term for term, _ in pairs) + "->" + output
    return apply(EinSum, *(x for _, x in pairs), equation=equation)


def lettered(term: Any) -> str:
    """The term with letters for its numbers."""
    return "".join("..." if n is ... else string.ascii_letters[n] for n in term)


def once_each(term: str, x: Any) -> tuple[str, Any]:
    """A term and its operand with each letter once: a repeated letter asks for the diagonal."""
    for letter in term:
        while term.count(letter) > 1:
            first, second = term.index(letter), term.rindex(letter)
            if x.shape[first] != x.shape[second]:
                raise RuntimeError(
                    f"einsum: {letter!r} comes twice in {term!r}, for dimensions of different "
                    f"sizes, {x.shape[first]} and {x.shape[second]}"
                )
            x = diagonal_of(x, 0, first, second)
            term = term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
    return term, x


def without_dots(equation: str, ranks: list[int]) -> str:
    """The equation with letters of its own for what `...` stands for."""
    left, output = equation.split("->")
    terms = left.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    extra = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    most = max((n for n, term in zip(extra, terms, strict=True) if "..." in term), default=0)
    letters = "".join(free[:most])
    terms = [
        term.replace("...", letters[most - n :]) if "..." in term else term
        for term, n in zip(terms, extra, strict=True)
    ]
    return ",".join(terms) + "->" + output.replace("...", letters)


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """The product of a and b summed over pairs of dimensions: the last `dims` of a and first of b,
    or the listed ones."""
    if isinstance(dims, int):
        dims = (list(range(a.ndim - dims, a.ndim)), list(range(dims)))
    left, right = ([dimension(d, x.ndim) for d in ds] for ds, x in zip(dims, (a, b), strict=True))
    letters = "abcdefghijklmnopqrstuvwxyz"
    first = letters[: a.ndim]
    second = list(letters[a.ndim : a.ndim + b.ndim])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    output = [c for i, c in enumerate(first) if i not in left]
    output += [c for j, c in enumerate(second) if j not in right]
    return einsum(f"{first},{''.join(second)}->{''.join(output)}", a, b)


def inv(x: Any) -> Any:
    """The inverse of each square matrix x (…, n, n); LinAlgError where it is singular."""
    needs_floats("inv", x)
    return apply(Inv, x)


def solve(a: Any, b: Any, *, left: bool = True) -> Any:
    """x with a @ x = b, or x @ a = b where not `left`: a (…, n, n), b (…, n) or (…, n, k).

    b holds vectors if its shape is that of a without the last dimension, or if it is one.
    """
    alike("linalg.solve", a, b)
    needs_floats("linalg.solve", a)
    if not left:
        return transpose(solve(transpose(a, -2, -1), transpose(b, -2, -1)), -2, -1)
    if b.ndim == 1 or (b.ndim == a.ndim - 1 and tuple(b.shape) == tuple(a.shape[:-1])):
        return squeeze(apply(Solve, a, unsqueeze(b, -1)), -1)
    return apply(Solve, a, b)


def det(x: Any) -> Any:
    """The determinants of the matrices in the last two dimensions."""
    return apply(Det, x)


def slogdet(x: Any) -> tuple[Any, Any]:
    """(sign, log of the absolute value) of the determinants of matrices."""
    return sign(det(x)), apply(LogAbsDet, x)


def logdet(x: Any) -> Any:
    """The logarithms of the determinants of matrices: NaN where negative, -inf where 0."""
    signs, size = slogdet(x)
    return where(signs < 0, float("nan"), size)


def trace(x: Any) -> Any:
    """The sum of the diagonal of a matrix."""
    return diagonal_of(x).sum()


def diag(x: Any, diagonal: int = 0) -> Any:
    """The given diagonal of a matrix, or the matrix with the vector x on that diagonal."""
    if x.ndim == 2:
        return clone(diagonal_of(x, diagonal))
    return diag_embed(x, diagonal)
