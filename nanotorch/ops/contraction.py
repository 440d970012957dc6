"""Sums of products over named dimensions as matrix products: einsum by BLAS.

The letters of two terms fall into four groups: in both terms and the output (a batch), in both and
not in the output (summed), in one of them and the output (rows, columns). Put in this order, the
operands are batches of matrices; where nothing is left of rows and columns, a product of elements
and a sum do better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import Array
from nanotorch.backend.order_of_memory import usual

Product = Callable[[Any, Array, Array], Array]


def einsum(xp: Any, product: Product, equation: str, operands: Sequence[Array]) -> Array:
    """The sum of products that an equation with an arrow names, each letter once in a term.

    product: `product(xp, a, b)` multiplies batches of matrices, or gives NotImplemented.
    NotImplemented for one operand, for dimensions that broadcast, and where the product is: the
    array module's own einsum takes those.
    """
    left, output = equation.split("->")
    terms = left.split(",")
    if len(operands) < 2 or any(x.dtype != operands[0].dtype for x in operands):
        return NotImplemented
    sizes: dict[str, int] = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, size in zip(term, x.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                return NotImplemented
    term, y = terms[0], operands[0]
    for i in range(1, len(terms)):
        later = set(output).union(*terms[i + 1 :])
        wanted = "".join(c for c in dict.fromkeys(term + terms[i]) if c in later)
        last = i == len(terms) - 1
        both = (term, y), (terms[i], operands[i])
        term, y = pair(xp, product, *both, output if last else wanted)
        if y is NotImplemented:
            return NotImplemented
    return usual(xp, y)


def pair(
    xp: Any, product: Product, first: tuple[str, Array], second: tuple[str, Array], output: str
) -> tuple[str, Array]:
    """The contraction of two operands, each with its letters, and the letters of the result."""
    (p, a), (q, b) = alone(*first, second[0], output), alone(*second, first[0], output)
    sizes = dict(zip(p + q, (*a.shape, *b.shape), strict=True))
    batch = [c for c in p if c in q and c in output]
    summed = [c for c in p if c in q and c not in output]
    rows = [c for c in p if c not in q]
    columns = [c for c in q if c not in p]
    if not summed or (batch and not rows and not columns):
        every = [*output, *summed]
        y = xp.multiply(spread(p, a, every), spread(q, b, every))
        return output, y.sum(axis=tuple(range(len(output), y.ndim))) if summed else y

    def matrices(term: str, x: Array, down: list[str], across: list[str]) -> Array:
        order = [term.index(c) for c in (*batch, *down, *across)]
        outer = [math.prod(sizes[c] for c in letters) for letters in (down, across)]
        shape = (*(sizes[c] for c in batch), *outer)
        return x.transpose(order).reshape(shape)

    y = product(xp, matrices(p, a, rows, summed), matrices(q, b, summed, columns))
    if y is NotImplemented:
        return output, y
    made = [*batch, *rows, *columns]
    y = y.reshape(tuple(sizes[c] for c in made))
    return output, y.transpose([made.index(c) for c in output])


def alone(term: str, x: Array, other: str, output: str) -> tuple[str, Array]:
    """An operand summed over the letters that neither the other one nor the output has."""
    own = tuple(i for i, c in enumerate(term) if c not in other and c not in output)
    if not own:
        return term, x
    return "".join(c for i, c in enumerate(term) if i not in own), x.sum(axis=own)


def spread(term: str, x: Array, letters: Sequence[str]) -> Array:
    """An operand with its dimensions in the order of the letters, of size 1 where it has none."""
    x = x.transpose([term.index(c) for c in letters if c in term])
    return x[tuple(slice(None) if c in term else None for c in letters)]
