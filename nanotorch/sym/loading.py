"""Graphs read back from JSON text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import dtype_of
from nanotorch.creation import tensor
from nanotorch.primitive import Primitive, apply
from nanotorch.sym.symbol import Group, Symbol, var
from nanotorch.sym.text import FORMAT


def primitives_by_name(kind: type[Primitive] = Primitive) -> dict[str, type[Primitive]]:
    """All primitives by the names of their classes."""
    classes: dict[str, type[Primitive]] = {}
    for below in kind.__subclasses__():
        classes[below.__name__] = below
        classes.update(primitives_by_name(below))
    return classes


def read(value: Any, primitives: dict[str, type[Primitive]]) -> Any:
    """A constant or attribute as it was before it was written."""
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "tuple" in value:
        return tuple(read(item, primitives) for item in value["tuple"])
    if "slice" in value:
        return slice(*(read(item, primitives) for item in value["slice"]))
    if "ellipsis" in value:
        return Ellipsis
    if "tensor" in value:
        return tensor(value["tensor"], dtype=dtype_of(value["dtype"]))
    if "dtype" in value:
        return dtype_of(value["dtype"]).numpy
    if "primitive" in value:
        return primitives[value["primitive"]]
    return {key: read(item, primitives) for key, item in value["dict"].items()}


def load_json(text: str) -> Any:
    """The graph that `tojson` wrote: a Symbol, or a Group where it has several outputs."""
    try:
        graph = json.loads(text)
        nodes, outputs = graph["nodes"], graph["outputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load_json: this is not a graph that tojson wrote: {error}") from None
    if graph.get("format") != FORMAT:
        raise ValueError(f"load_json: expected format {FORMAT}, got {graph.get('format')!r}")
    primitives = primitives_by_name()
    symbols: list[Symbol] = []
    for entry in nodes:
        symbols.append(node_of(entry, symbols, primitives))
    heads = [symbols[number] for number in outputs]
    return heads[0] if len(heads) == 1 else Group(heads)


def node_of(
    entry: dict[str, Any], earlier: Sequence[Symbol], primitives: dict[str, type[Primitive]]
) -> Symbol:
    """The symbol of one entry; `earlier` are those of the entries before it."""
    if entry["op"] == "variable":
        shape = entry.get("shape")
        kind = dtype_of(entry["dtype"]) if "dtype" in entry else None
        return var(entry["name"], None if shape is None else tuple(shape), kind)
    if entry["op"] not in primitives:
        raise ValueError(f"load_json: {entry['name']}: no op is called {entry['op']!r}")
    inputs = [
        earlier[x["node"]] if isinstance(x, dict) and "node" in x else read(x, primitives)
        for x in entry["inputs"]
    ]
    attributes = {
        key: read(value, primitives) for key, value in entry.get("attributes", {}).items()
    }
    symbol: Symbol = apply(primitives[entry["op"]], *inputs, **attributes)
    return symbol
