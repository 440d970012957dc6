"""Graphs as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nanotorch.backend import dtype_of
from nanotorch.primitive import Primitive
from nanotorch.sym.expression import Expression
from nanotorch.tensor import Tensor

FORMAT = 1
PLAIN = (bool, int, float, str, type(None))


def written_graph(
    order: Sequence[Expression], names: Mapping[Any, str], heads: Sequence[Expression]
) -> str:
    """The graph as JSON: its nodes, each after its inputs, and which of them are its outputs."""
    numbers = {node: number for number, node in enumerate(order)}
    nodes: list[dict[str, Any]] = []
    for node in order:
        entry: dict[str, Any] = {"name": names[node]}
        if node.primitive is None:
            entry["op"] = "variable"
            if node.declared_shape is not None:
                entry["shape"] = list(node._array.shape)
            if node.declared_dtype is not None:
                entry["dtype"] = dtype_of(node._array.dtype).name
        else:
            entry["op"] = node.primitive.__name__
            entry["inputs"] = [
                {"node": numbers[x]} if isinstance(x, Expression) else written(x, names[node])
                for x in node.inputs
            ]
            if node.attributes:
                entry["attributes"] = {
                    key: written(value, names[node]) for key, value in node.attributes.items()
                }
        nodes.append(entry)
    text = {"format": FORMAT, "nodes": nodes, "outputs": [numbers[head] for head in heads]}
    return json.dumps(text, indent=2)


def written(value: Any, where: str) -> Any:
    """A constant or attribute as JSON holds it: a value that is not plain stands under its kind."""
    if isinstance(value, PLAIN):
        if isinstance(value, float) and value - value != 0:
            return {"float": repr(value)}
        return value
    if isinstance(value, tuple | list):
        return {"tuple": [written(item, where) for item in value]}
    if isinstance(value, slice):
        return {"slice": [written(item, where) for item in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": value.dtype.name}
    if type(value).__module__ == "numpy.dtypes" or hasattr(value, "kind"):
        return {"dtype": dtype_of(value).name}
    if isinstance(value, type) and issubclass(value, Primitive):
        return {"primitive": value.__name__}
    if isinstance(value, dict):
        return {"dict": {key: written(item, where) for key, item in value.items()}}
    raise ValueError(f"tojson: {where}: cannot write {value!r}, a {type(value).__name__}")
