"""The cotangent of a tensor whose parts are views, such as those of x.split(…) or x.unbind().

Each view's own rule makes zeros of x's shape with its cotangent in one part. Of parts that are all
of x, and whose turns follow one another, the cotangents are put side by side instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch.node import Node
from nanotorch.ops.joining import side_by_side


def take_parts(walk: Any, node: Node, g: Any) -> Sequence[Any] | None:
    """The cotangent of the input of a view, which shows a part of it; None while the turns of other
    parts are still to come.

    walk: the state of the walk. g: the cotangent of the view.
    """
    walk.parts.append((node, g))
    other = walk.heap[0][1] if walk.heap else None
    if type(other) is type(node) and other.edges[0] is node.edges[0]:
        return None
    earlier, walk.parts = walk.parts[:-1], []
    if not earlier:
        return walk.pull(node, g)  # type: ignore[no-any-return]
    nodes, parts = zip(*((node, g), *reversed(earlier)), strict=True)
    if not any(part.post_hooks for part in nodes):
        x_shape, keys = node.shapes[0], [part.attributes["key"] for part in nodes]
        whole = side_by_side(parts, x_shape, keys)
        if whole is not None:
            walk.node, walk.g = node, None
            return (whole,)
    for part, its_g in earlier:
        walk.add(part.edges[0], walk.pull(part, its_g)[0])
    return walk.pull(node, g)  # type: ignore[no-any-return]
