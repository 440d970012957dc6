"""Pictures of the graph that backward walks, with no other software to install.

    viz.graph(loss, model).save("loss.svg")

The picture is laid out in layers, as Sugiyama, Tagawa and Toda do (IEEE Transactions on Systems,
Man, and Cybernetics 11(2), 1981): every operation stands below its inputs and just above its first
consumer, edges that pass rows get a bend in each, rows are ordered by the barycentres of their
neighbours so that few edges cross, and then moved sideways so that edges run straight. Nothing
recurses: a chain may have any length.
"""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Graph", "Vertex", "graph"]


@dataclasses.dataclass(frozen=True, slots=True)
class Vertex:
    """A box of the picture. kind: "operation", "output", "parameter" (named) or "leaf"."""

    kind: str
    title: str
    shape: tuple[int, ...] | None
    detail: str

    @property
    def lines(self) -> list[str]:
        """What the box says: its title and, where it is known, its shape."""
        return [self.title] if self.shape is None else [self.title, str(self.shape)]


@dataclasses.dataclass(frozen=True, slots=True)
class Graph:
    """The graph behind a tensor: `vertices`, and `edges` (source, target) -> how many times.

    Edges run as the data does, from the leaves to the output. In a notebook the graph shows itself.
    """

    vertices: list[Vertex]
    edges: dict[tuple[int, int], int]

    @property
    def source(self) -> str:
        """The graph in Graphviz's DOT language."""
        lines = ["digraph {", '  node [shape=box, style="rounded,filled", fontname="sans-serif"]']
        for index, vertex in enumerate(self.vertices):
            label = "\n".join(vertex.lines).replace("\\", "\\\\").replace('"', '\\"')
            label = label.replace("\n", "\\n")
            fill = COLOURS[vertex.kind][0]
            lines.append(f'  n{index} [label="{label}", fillcolor="{fill}"]')
        for (source, target), count in self.edges.items():
            times = f' [label="×{count}"]' if count > 1 else ""
            lines.append(f"  n{source} -> n{target}{times}")
        return "\n".join([*lines, "}", ""])

    def svg(self) -> str:
        """The picture as a self-contained SVG document."""
        return _draw(self)

    def save(self, path: str | Path) -> None:
        """Write the picture (`.svg`) or its DOT source (`.dot`, `.gv`); else ValueError."""
        path = Path(path)
        if path.suffix not in (".svg", ".dot", ".gv"):
            raise ValueError(f"viz: expected a file name ending in .svg, .dot or .gv, got '{path}'")
        path.write_text(self.svg() if path.suffix == ".svg" else self.source, encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg()


def graph(output: Any, params: Any = None) -> Graph:
    """The graph that `output.backward()` would walk.

    output: a Tensor that requires grad, or several in a list or tuple. params: what names the
    leaves, a Module or a mapping from names to tensors. Raises ValueError for an output that does
    not require grad, because nothing was recorded for it.
    """
    outputs = list(output) if isinstance(output, list | tuple) else [output]
    names = {id(tensor): name for name, tensor in _named(params)}
    roots = []
    for tensor in outputs:
        if not tensor.requires_grad:
            raise ValueError(
                f"viz: the output of shape {tuple(tensor.shape)} does not require grad, so there "
                "is no graph behind it; compute it, outside no_grad, from tensors that do"
            )
        roots.append(tensor if tensor.grad_fn is None else tensor.grad_fn)
    # Nodes may be wrapped afresh at each access: `items` keeps them alive, so that ids stay unique.
    items: list[Any] = []
    number: dict[int, int] = {}
    stack: list[tuple[Any, int | None]] = [(root, None) for root in reversed(roots)]
    edges: Counter[tuple[int, int]] = Counter()
    while stack:
        item, consumer = stack.pop()
        if id(item) not in number:
            number[id(item)] = len(items)
            items.append(item)
            for function, _ in reversed(getattr(item, "next_functions", ())):
                if function is not None:
                    is_leaf = function.name().endswith("AccumulateGrad")
                    stack.append((function.variable if is_leaf else function, number[id(item)]))
        if consumer is not None:
            edges[number[id(item)], consumer] += 1
    ends = {id(root) for root in roots}
    return Graph([_vertex(item, names, id(item) in ends) for item in items], dict(edges))


def _named(params: Any) -> Iterable[tuple[str, Any]]:
    if params is None:
        return []
    if isinstance(params, Mapping):
        return params.items()
    named: Iterable[tuple[str, Any]] = params.named_parameters()
    return named


def _vertex(item: Any, names: Mapping[int, str], is_output: bool) -> Vertex:
    """The box of a graph node or of a leaf tensor."""
    if hasattr(item, "next_functions"):
        shape = getattr(item, "shape", None)
        kind = "output" if is_output else "operation"
        title = re.sub(r"Backward\d*$", "", item.name()) or item.name()
        return Vertex(kind, title, None if shape is None else tuple(shape), item.name())
    name = names.get(id(item))
    kind, title = ("leaf", "leaf") if name is None else ("parameter", name)
    return Vertex(kind, title, tuple(item.shape), f"{title}, {item.dtype}")


# ---- layout: every vertex and every bend of an edge gets a row and a place in it ----


@dataclasses.dataclass(slots=True)
class _Layout:
    """Points 0..n-1 are the vertices, those above are bends; `above` and `below` join rows."""

    rows: list[list[int]]
    above: list[list[int]]
    below: list[list[int]]
    widths: list[float]
    x: list[float]


def _row_numbers(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Longest path from the leaves; then everything sinks to just above its first consumer."""
    consumers: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for source, target in edges:
        consumers[source].append(target)
        waiting[target] += 1
    row = [0] * count
    order = [vertex for vertex in range(count) if not waiting[vertex]]
    for vertex in order:  # grows on the way: a vertex follows when its last input has passed
        for consumer in consumers[vertex]:
            row[consumer] = max(row[consumer], row[vertex] + 1)
            waiting[consumer] -= 1
            if not waiting[consumer]:
                order.append(consumer)
    for vertex in reversed(order):
        if consumers[vertex]:
            row[vertex] = min(row[consumer] for consumer in consumers[vertex]) - 1
    return row


def _arrange(graph: Graph) -> _Layout:
    count = len(graph.vertices)
    row = _row_numbers(count, graph.edges)
    layout = _Layout(
        rows=[[] for _ in range(max(row) + 1)],
        above=[[] for _ in range(count)],
        below=[[] for _ in range(count)],
        widths=[_width(vertex) for vertex in graph.vertices],
        x=[],
    )
    targets: list[list[int]] = [[] for _ in range(count)]
    for source, target in graph.edges:
        targets[source].append(target)
    # Vertices are numbered from the output on, inputs from left to right: a good first order.
    for vertex in range(count):
        layout.rows[row[vertex]].append(vertex)
        _lead(layout, vertex, row[vertex], sorted((row[t], t) for t in targets[vertex]))
    _order(layout)
    _place(layout)
    return layout


def _lead(layout: _Layout, point: int, row: int, targets: Sequence[tuple[int, int]]) -> None:
    """Lead one line from a vertex down to all its targets; they share its bends on the way."""
    for target_row, target in targets:
        while row < target_row - 1:
            row += 1
            bend = len(layout.widths)
            layout.widths.append(0.0)
            layout.above.append([point])
            layout.below.append([])
            layout.below[point].append(bend)
            layout.rows[row].append(bend)
            point = bend
        layout.below[point].append(target)
        layout.above[target].append(point)


def _order(layout: _Layout, sweeps: int = 12) -> None:
    """Sort every row by the mean position of its neighbours, down and up, and keep the best."""
    position = [0] * len(layout.widths)
    for row in layout.rows:
        for place, point in enumerate(row):
            position[point] = place
    best, fewest = [list(row) for row in layout.rows], _crossings(layout, position)
    for sweep in range(sweeps):
        downwards = sweep % 2 == 0
        neighbours = layout.above if downwards else layout.below
        for row in layout.rows if downwards else reversed(layout.rows):
            centre = {
                point: sum(position[n] for n in neighbours[point]) / len(neighbours[point])
                if neighbours[point]
                else position[point]
                for point in row
            }
            row.sort(key=centre.__getitem__)
            for place, point in enumerate(row):
                position[point] = place
        crossings = _crossings(layout, position)
        if crossings < fewest:
            best, fewest = [list(row) for row in layout.rows], crossings
        if not fewest:
            break
    layout.rows = best


def _crossings(layout: _Layout, position: list[int]) -> int:
    """How many pairs of lines cross: inversions of their lower ends, taken by their upper ends."""
    total = 0
    for row in layout.rows:
        ends_so_far: list[int] = []
        for point in row:
            ends = sorted(position[end] for end in layout.below[point])
            for end in ends:
                total += len(ends_so_far) - bisect_right(ends_so_far, end)
            for end in ends:
                insort(ends_so_far, end)
    return total


def _place(layout: _Layout, sweeps: int = 40) -> None:
    """Move every point towards its neighbours, as far as its row has room."""
    widths, x = layout.widths, [0.0] * len(layout.widths)
    offsets = []
    for row in layout.rows:
        offset, place = [], 0.0
        for left, right in zip([None, *row], row):
            if left is not None:
                place += (widths[left] + widths[right]) / 2 + GAP
            offset.append(place)
        offsets.append(offset)
        for point, place in zip(row, offset):
            x[point] = place - offset[-1] / 2
    for sweep in range(sweeps):
        downwards, settling = sweep % 2 == 0, sweep >= sweeps // 2
        order = range(len(layout.rows))
        for index in order if downwards else reversed(order):
            row = layout.rows[index]
            wishes, weights = [], []
            for point in row:
                near = layout.above[point] if downwards else layout.below[point]
                if settling:
                    near = layout.above[point] + layout.below[point]
                # A line from bend to bend is long: a kink in it is seen most.
                pulls = [8.0 if not widths[point] and not widths[n] else 1.0 for n in near]
                total = sum(pulls)
                wish = sum(p * x[n] for p, n in zip(pulls, near)) / total if near else x[point]
                wishes.append(wish)
                weights.append(total or 0.1)
            for point, place in zip(row, _spread(wishes, weights, offsets[index])):
                x[point] = place
    layout.x = x


def _spread(wishes: list[float], weights: list[float], offsets: list[float]) -> list[float]:
    """The places nearest to the wishes, in least squares, that keep the distances of `offsets`.

    Less its offset, each place may only grow along the row: this is isotonic regression, solved by
    pooling adjacent violators.
    """
    pools: list[tuple[float, float, int]] = []
    for wish, weight, offset in zip(wishes, weights, offsets):
        mean, size = wish - offset, 1
        while pools and pools[-1][0] > mean:
            other, other_weight, other_size = pools.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, size = weight + other_weight, size + other_size
        pools.append((mean, weight, size))
    means = [mean for mean, _, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets)]


# ---- drawing, in pixels ----

FONT, LINE, CHARACTER = 13, 17, 7.4
BOX, ROW, GAP, MARGIN = 44.0, 84.0, 26.0, 24.0
# Fill and border of each kind of box.
COLOURS = {
    "operation": ("#f4f5f7", "#8a94a6"),
    "output": ("#ffe8c7", "#c77d0a"),
    "parameter": ("#dcebff", "#3b78c4"),
    "leaf": ("#e0f3e4", "#3f9357"),
}


def _width(vertex: Vertex) -> float:
    return max(len(line) for line in vertex.lines) * CHARACTER + 22


def _draw(graph: Graph) -> str:
    layout = _arrange(graph)
    real = len(graph.vertices)
    left = min(x - width / 2 for x, width in zip(layout.x, layout.widths)) - MARGIN
    right = max(x + width / 2 for x, width in zip(layout.x, layout.widths)) + MARGIN
    width, height = right - left, len(layout.rows) * ROW - (ROW - BOX) + 2 * MARGIN
    lines, boxes = [], []
    for index, row in enumerate(layout.rows):
        top = MARGIN + index * ROW
        for point in row:
            x = layout.x[point] - left
            if point < real:
                boxes += _box(graph.vertices[point], x, top, layout.widths[point])
            for end in layout.below[point]:
                # Through a bend the line runs straight down, so that only the gaps hold curves.
                start = top if point >= real else top + BOX
                lines.append(
                    _line(x, start, top + BOX, layout.x[end] - left, top + ROW, end < real)
                )
    for (source, target), count in graph.edges.items():
        if count > 1:
            boxes.append(_times(layout, source, target, left, count))
    style = (
        f"text{{font:{FONT}px ui-sans-serif,'Helvetica Neue',Arial,sans-serif;fill:#1d2430;"
        "text-anchor:middle}.s{fill:#5b6575;font-size:12px}path{fill:none;stroke:#6b7688;"
        "stroke-width:1.3}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
            f'height="{height:.0f}" viewBox="0 0 {width:.1f} {height:.1f}">',
            f"<title>Computation graph of {real} vertices</title><style>{style}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" '
            'style="fill:#6b7688;stroke:none"/></marker></defs>',
            '<rect width="100%" height="100%" fill="white"/>',
            *lines,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _box(vertex: Vertex, x: float, top: float, width: float) -> list[str]:
    fill, border = COLOURS[vertex.kind]
    radius = 6 if vertex.kind in ("operation", "output") else BOX / 2
    first = top + BOX / 2 + 4.5 - LINE * (len(vertex.lines) - 1) / 2
    texts = [
        f'<text class="{style}" x="{x:.1f}" y="{first + down:.1f}">{escape(text)}</text>'
        for text, style, down in zip(vertex.lines, ("t", "s"), (0, LINE))
    ]
    return [
        f'<g><title>{escape(vertex.detail)}</title><rect x="{x - width / 2:.1f}" y="{top:.1f}" '
        f'width="{width:.1f}" height="{BOX:.0f}" rx="{radius:.0f}" fill="{fill}" '
        f'stroke="{border}"/>',
        *texts,
        "</g>",
    ]


def _line(x: float, start: float, bend: float, end_x: float, end: float, arrives: bool) -> str:
    half = (end - bend) / 2
    tip = ' marker-end="url(#tip)"' if arrives else ""
    return (
        f'<path d="M{x:.1f},{start:.1f} V{bend:.1f} C{x:.1f},{bend + half:.1f} '
        f'{end_x:.1f},{end - half:.1f} {end_x:.1f},{end:.1f}"{tip}/>'
    )


def _times(layout: _Layout, source: int, target: int, left: float, count: int) -> str:
    """How often an input enters, such as ×2 for x * x, beside the tip of the arrow."""
    row = next(index for index, points in enumerate(layout.rows) if target in points)
    x = layout.x[target] - left
    side = -16 if layout.x[source] > layout.x[target] else 16
    return f'<text class="s" x="{x + side:.1f}" y="{MARGIN + row * ROW - 8:.1f}">×{count}</text>'
