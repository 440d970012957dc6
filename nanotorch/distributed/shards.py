"""Sums over shards in the order of one fixed tree, whichever ranks compute them.

Floating point sums depend on their order. Here the tree over `count` shards halves it at the
largest power of two below; every rank adds what lies within its own shards, and then all ranks add
those sums. So the bits depend on the number of shards alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

Range = tuple[int, int]  # begin, end
Sum = TypeVar("Sum")


def even_parts(count: int, parts: int) -> list[Range]:
    """`count` things in `parts` adjacent ranges; the first ones have one more where it is uneven.

    >>> even_parts(8, 3)
    [(0, 3), (3, 6), (6, 8)]
    """
    size, more = divmod(count, parts)
    starts = [part * size + min(part, more) for part in range(parts + 1)]
    return list(itertools.pairwise(starts))


def middle(begin: int, end: int) -> int:
    """Where the tree over two shards or more parts."""
    return begin + (1 << (end - begin - 1).bit_length() - 1)


def subtrees(begin: int, end: int, own: Range) -> Iterator[Range]:
    """The largest subtrees of the tree over begin … end that lie within `own`.

    >>> list(subtrees(0, 8, (3, 6)))
    [(3, 4), (4, 6)]
    """
    if own[0] <= begin and end <= own[1]:
        yield begin, end
    elif begin < own[1] and own[0] < end:
        cut = middle(begin, end)
        yield from subtrees(begin, cut, own)
        yield from subtrees(cut, end, own)


def tree_sum(
    tree: Range, known: Callable[[Range], Sum | None], add: Callable[[Sum, Sum], Sum]
) -> Sum:
    """The sum over a tree out of those of subtrees that are `known`, of which the shards are some.

    >>> leaves = {(0, 1): "a", (1, 2): "b", (2, 3): "c"}
    >>> tree_sum((0, 3), leaves.get, "({} + {})".format)
    '((a + b) + c)'
    """
    if (value := known(tree)) is not None:
        return value
    cut = middle(*tree)
    return add(tree_sum((tree[0], cut), known, add), tree_sum((cut, tree[1]), known, add))
