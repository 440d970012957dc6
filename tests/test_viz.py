"""The picture of a graph says what was recorded; its boxes do not overlap, its lines run down."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

import nanotorch as nt
from nanotorch import nn, viz

SVG = "{http://www.w3.org/2000/svg}"


@dataclasses.dataclass(eq=False)
class Tensor:
    """What the picture reads of a tensor."""

    shape: tuple[int, ...] = (2, 3)
    requires_grad: bool = True
    grad_fn: Any = None
    dtype: str = "torch.float32"


class Node:
    """What it reads of a graph node."""

    def __init__(self, name: str, *inputs: Any, shape: tuple[int, ...] = (2, 3)) -> None:
        self._name, self.shape, self.next_functions = name, shape, [(link(x), 0) for x in inputs]

    def name(self) -> str:
        return self._name


def link(x: Any) -> Any:
    """Leaves are reached through a node that is made afresh at each access, as in the engine."""
    if not isinstance(x, Tensor):
        return x
    node = Node("AccumulateGrad")
    node.variable = x  # type: ignore[attr-defined]
    return node


def output_of(node: Node) -> Tensor:
    return Tensor(shape=node.shape, grad_fn=node)


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box, by the text in it."""
    found = {}
    for number, group in enumerate(ElementTree.fromstring(svg).iter(f"{SVG}g")):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        words = " ".join(text.text or "" for text in group.iter(f"{SVG}text"))
        found[f"{words} #{number}"] = (x, y, x + width, y + height)
    return found


def random_graph(seed: int, size: int) -> Tensor:
    """A graph in which every node has one or two inputs from anywhere before it."""
    choose = random.Random(seed)
    values: list[Any] = [Tensor() for _ in range(1 + size // 10)]
    for _ in range(size):
        inputs = [choose.choice(values), choose.choice(values[-5:])][: choose.randint(1, 2)]
        values.append(Node("OpBackward0", *inputs))
    return output_of(Node("EndBackward0", *values))


def test_vertices_and_edges_are_those_of_the_graph() -> None:
    weight, x = Tensor((3, 3)), Tensor((2, 3))
    product = Node("MatmulBackward0", x, weight)
    square = Node("MulBackward0", product, product, None)
    loss = output_of(Node("SumBackward1", square, shape=()))
    graph = viz.graph(loss, {"weight": weight})
    assert [(v.kind, v.title, v.shape) for v in graph.vertices] == [
        ("output", "Sum", ()),
        ("operation", "Mul", (2, 3)),
        ("operation", "Matmul", (2, 3)),
        ("leaf", "leaf", (2, 3)),
        ("parameter", "weight", (3, 3)),
    ]
    assert graph.edges == {(1, 0): 1, (2, 1): 2, (3, 2): 1, (4, 2): 1}


def test_a_leaf_that_is_used_twice_is_one_vertex() -> None:
    x = Tensor()
    graph = viz.graph(output_of(Node("AddBackward0", Node("ExpBackward0", x), x)))
    assert [vertex.title for vertex in graph.vertices] == ["Add", "Exp", "leaf"]


def test_a_module_names_its_parameters() -> None:
    weight = Tensor()
    module = SimpleNamespace(named_parameters=lambda: iter([("0.weight", weight)]))
    graph = viz.graph(output_of(Node("ExpBackward0", weight)), module)
    assert graph.vertices[1].title == "0.weight"


def test_several_outputs_share_one_graph() -> None:
    x = Tensor()
    both = [output_of(Node("ExpBackward0", x)), output_of(Node("LogBackward0", x))]
    graph = viz.graph(both)
    assert [vertex.kind for vertex in graph.vertices] == ["output", "leaf", "output"]
    assert len(boxes(graph.svg())) == 3


def test_a_leaf_alone_is_a_graph() -> None:
    graph = viz.graph(Tensor((4,)))
    assert [vertex.title for vertex in graph.vertices] == ["leaf"]
    assert graph.edges == {}
    assert list(boxes(graph.svg())) == ["leaf (4,) #0"]


def test_an_output_without_a_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\) does not require grad"):
        viz.graph(Tensor(requires_grad=False))


def test_the_source_is_dot() -> None:
    x = Tensor()
    graph = viz.graph(output_of(Node("MulBackward0", x, x)), {'say "x"\\': x})
    assert graph.source.splitlines()[2:] == [
        '  n0 [label="Mul\\n(2, 3)", fillcolor="#ffe8c7"]',
        '  n1 [label="say \\"x\\"\\\\\\n(2, 3)", fillcolor="#dcebff"]',
        '  n1 -> n0 [label="×2"]',
        "}",
    ]


def test_the_picture_is_xml_whatever_the_names() -> None:
    x = Tensor()
    svg = viz.graph(output_of(Node("MulBackward0", x, x)), {"<a> & 'b'": x}).svg()
    assert list(boxes(svg)) == ["<a> & 'b' (2, 3) #0", "Mul (2, 3) #1"]
    assert "×2" in svg


@pytest.mark.parametrize("seed", range(8))
def test_boxes_do_not_overlap_and_stay_inside(seed: int) -> None:
    svg = viz.graph(random_graph(seed, 60)).svg()
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    found = list(boxes(svg).values())
    assert len(found) > 60
    for number, (left, top, right, bottom) in enumerate(found):
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        for other_left, other_top, other_right, other_bottom in found[:number]:
            apart = left >= other_right or other_left >= right
            assert apart or top >= other_bottom or other_top >= bottom


@pytest.mark.parametrize("seed", range(4))
def test_every_line_runs_downwards_and_one_arrow_arrives_per_edge(seed: int) -> None:
    graph = viz.graph(random_graph(seed, 60))
    lines = [
        path
        for path in ElementTree.fromstring(graph.svg()).iter(f"{SVG}path")
        if "style" not in path.attrib
    ]
    for path in lines:
        numbers = [float(number) for number in re.findall(r"[-.\d]+", path.attrib["d"])]
        assert numbers[1] <= numbers[2] < numbers[-1]
    assert sum("marker-end" in path.attrib for path in lines) == len(graph.edges)


def test_lines_that_need_not_cross_do_not() -> None:
    p, q = Tensor(), Tensor()
    both, second, first = Node("BothBackward0", p, q), Node("QBackward0", q), Node("PBackward0", p)
    graph = viz.graph(output_of(Node("EndBackward0", both, second, first)), {"p": p, "q": q})
    middle = {
        text.split()[0]: left + right for text, (left, _, right, _) in boxes(graph.svg()).items()
    }
    order = ["P", "Both", "Q"] if middle["p"] < middle["q"] else ["Q", "Both", "P"]
    assert sorted(order, key=middle.__getitem__) == order


def test_a_long_chain_neither_recurses_nor_bends() -> None:
    node = Node("MulBackward0", Tensor())
    for _ in range(3000):
        node = Node("MulBackward0", node)
    svg = viz.graph(output_of(node)).svg()
    middles = {round(left + right, 3) for left, _, right, _ in boxes(svg).values()}
    assert max(middles) - min(middles) < 1


def test_a_line_along_a_long_graph_costs_one_bend_a_row() -> None:
    weight = Tensor()
    state: Any = Tensor()
    for _ in range(500):
        state = Node("TanhBackward0", Node("MatmulBackward0", state, weight))
    assert viz.graph(output_of(state), {"weight": weight}).svg().count("<path") < 3000


def test_pictures_and_sources_are_saved(tmp_path: Path) -> None:
    graph = viz.graph(output_of(Node("ExpBackward0", Tensor())))
    graph.save(tmp_path / "graph.svg")
    graph.save(str(tmp_path / "graph.dot"))
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8") == graph._repr_svg_()
    assert (tmp_path / "graph.dot").read_text(encoding="utf-8") == graph.source
    with pytest.raises(ValueError, match=r"ending in .svg, .dot or .gv, got 'graph.png'"):
        graph.save("graph.png")


def test_the_graph_of_a_real_network_is_drawn() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    loss = (model(nt.ones(5, 4)) ** 2).mean()
    graph = viz.graph(loss, model)
    titles = {vertex.title: vertex.shape for vertex in graph.vertices}
    assert titles["0.weight"] == (8, 4) and titles["Tanh"] == (5, 8) and titles["Mean"] == ()
    assert {v.title for v in graph.vertices if v.kind == "parameter"} == dict(
        model.named_parameters()
    ).keys()
    assert len(boxes(graph.svg())) == len(graph.vertices)
