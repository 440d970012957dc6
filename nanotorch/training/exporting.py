"""A run's model for other programs: an ONNX file from raw columns on, or PyTorch's state_dict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.training.data.columns import GAP, OTHER, Column
from nanotorch.training.data.values import NO, YES, Numbers
from nanotorch.training.errors import InputError, needs_extra
from nanotorch.training.files import refuse_to_replace
from nanotorch.training.prediction import Predictor

MISSING = ("", "NA", "N/A", "n/a", "?", "-", ".", "null", "NaN", "nan")


def export_run(
    run: Path, to: str, output: Path | None, trusted: bool = False, force: bool = False
) -> list[str]:
    """Write a run's model as `to` says, "onnx" or "torch"; lines that say how it is used."""
    predictor = Predictor.load(run, trusted)
    if predictor.encoding.tables:
        raise InputError(
            f"{run}: a model of hashed columns or sparse rows is not exported: neither ONNX nor "
            "PyTorch has the hash; predict with `nanotorch predict`"
        )
    folder = run if run.is_dir() else run.parent
    path = output or folder / ("model.onnx" if to == "onnx" else "model.pt")
    refuse_to_replace(path, force)
    return (_to_onnx if to == "onnx" else _to_torch)(predictor, path)


# --- PyTorch --------------------------------------------------------------------------------------


def _to_torch(predictor: Predictor, path: Path) -> list[str]:
    """The state_dict, with the standardization beside it."""
    standardization = predictor.standardization
    mean, scale = (nt.tensor(x) for x in (standardization.mean, standardization.scale))
    nt.save({**predictor.model.state_dict(), "mean": mean, "scale": scale}, path)
    count = len(predictor.encoding.feature_names)
    return [
        f"{path}: a state_dict, with the features' mean and scale; in PyTorch:",
        "",
        "import torch",
        f'state = torch.load("{path.name}", weights_only=True)',
        'mean, scale = state.pop("mean"), state.pop("scale")',
        f"model = {_constructor(predictor.model)}; model.load_state_dict(state)",
        f"z = model(((x - mean) / scale).{'double' if _is_double(predictor) else 'float'}())"
        f"  # x: (rows, {count})",
    ]


def _is_double(predictor: Predictor) -> bool:
    return bool(predictor.dtype is nt.float64)


def _constructor(module: nt.nn.Module) -> str:
    """What makes such a module in PyTorch."""
    if isinstance(module, nt.nn.Sequential):
        text = f"torch.nn.Sequential({', '.join(map(_constructor, module))})"
    elif type(module).__module__.startswith("nanotorch.") and not list(module.children()):
        text = f"torch.nn.{module!r}"
    else:
        return f"{type(module).__name__}(…)"
    double = any(p.dtype is nt.float64 for p in module.parameters(recurse=False))
    return f"{text}.double()" if double else text


# --- ONNX -----------------------------------------------------------------------------------------


def _to_onnx(predictor: Predictor, path: Path) -> list[str]:
    """A graph from raw columns to labels and probabilities."""
    try:
        from nanotorch.interop.onnx import model_into, write
        from nanotorch.interop.onnx_graph import Graph
    except ImportError:
        raise needs_extra("--to onnx", "onnx", "onnx") from None
    graph = Graph()
    columns = predictor.encoding.columns
    words = list(predictor.keys.get("missing_values") or MISSING)
    pieces = [_features(graph, column, words) for column in columns]
    features = graph.node("Concat", *pieces, axis=1)
    standardization = predictor.standardization
    mean, scale = (graph.constant(a[None]) for a in (standardization.mean, standardization.scale))
    features = graph.node("Div", graph.node("Sub", features, mean), scale)
    dtype = predictor.dtype
    features = graph.node("Cast", features, to=_element(dtype))
    graph.counted = (columns[0].name, 0)
    example = nt.zeros(2, len(predictor.encoding.feature_names), dtype=dtype)
    ((outputs, _, shape),) = model_into(graph, predictor.model, (example,), [features])
    _outputs(graph, predictor, outputs, shape)
    write(graph.model(), path)
    kinds = [f"{column.name} ({_kind(column)})" for column in columns[:12]]
    more = f" and {len(columns) - 12} more" if len(columns) > 12 else ""
    lines = [
        f"{path}: from raw columns, each of shape (rows, 1), to predictions",
        f"inputs: {', '.join(kinds)}{more}",
        f"outputs: {', '.join(output.name for output in graph.outputs)}",
    ]
    if any(column.kind == "date" for column in columns):
        lines.append("dates go in as numbers of days since 1970-01-01")
    return lines


def _kind(column: Column) -> str:
    if column.kind == "date":
        return "days"
    return "text" if _is_text(column) else "number"


def _is_text(column: Column) -> bool:
    """Whether its raw values are text: words for yes and no, or categories that are no numbers."""
    if column.categories is None:
        return column.kind == "boolean"
    names = [name for name in column.categories if name not in (OTHER, GAP)]
    return any(math.isnan(Numbers().each(name)) for name in names)


def _element(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype.numpy)))


def _features(graph: Any, column: Column, missing: list[str]) -> str:
    """The features of one column, (rows, features) in float64."""
    text = _is_text(column)
    raw = graph.input(column.name, np.str_ if text else np.float64, ["rows", 1])
    node, ml = graph.node, {"domain": "ai.onnx.ml"}
    double = _element(nt.float64)
    if column.categories is None:
        if text:
            truths = {form: 1.0 for word in YES for form in _forms(word)}
            truths |= {form: 0.0 for word in NO for form in _forms(word)}
            raw = node(
                "LabelEncoder", raw, keys_strings=list(truths), values_floats=list(truths.values()),
                default_float=math.nan, **ml,
            )  # fmt: skip
            raw = node("Cast", raw, to=double)
        if column.fill is not None:
            fill = graph.constant(column.fill, dtype=np.float64)
            raw = node("Where", node("IsNaN", raw), fill, raw)
        return str(raw)
    names = column.categories
    places = {name: at for at, name in enumerate(names)}
    other, gap = places.get(OTHER, -1), places.get(GAP, -1)
    known = {name: at for name, at in places.items() if at not in (other, gap)}
    if text:
        codes = dict.fromkeys(missing, gap) | known
        code = node(
            "LabelEncoder", raw, keys_strings=list(codes), values_int64s=list(codes.values()),
            default_int64=other, **ml,
        )  # fmt: skip
    else:
        code = graph.constant([[other]], dtype=np.int64)
        for name, at in known.items():
            number = graph.constant(Numbers().each(name), dtype=np.float64)
            code = node("Where", node("Equal", raw, number), graph.integers(at), code)
        code = node("Where", node("IsNaN", raw), graph.integers(gap), code)
    each = graph.constant([list(range(len(names)))], dtype=np.int64)
    return str(node("Cast", node("Equal", code, each), to=double))


def _forms(word: str) -> tuple[str, ...]:
    return word, word.upper(), word.capitalize()


def _outputs(graph: Any, predictor: Predictor, z: str, shape: Any) -> None:
    """Labels and probabilities, or the predicted numbers, as `predict` gives them."""
    node, target = graph.node, predictor.target
    rows, count = shape[0], len(target.classes)
    if target.task == "regression":
        graph.output("predicted", z, predictor.dtype.numpy, shape)
        return
    z = node("Cast", z, to=_element(nt.float64))
    border = graph.constant(math.log(predictor.threshold / (1 - predictor.threshold)))
    if target.task == "classes":
        shares, label = node("Softmax", z, axis=1), node("ArgMax", z, axis=1, keepdims=0)
    else:
        p = node("Sigmoid", z)
        label = node("Cast", node("GreaterOrEqual", z, border), to=_element(nt.int64))
        shares = p
        if target.task == "binary":
            label = node("Squeeze", label, graph.integers(1))
            shares = node("Concat", node("Sub", graph.constant(1.0), p), p, axis=1)
    if target.task == "labels":
        graph.output("predicted", label, np.int64, shape)
    else:
        names = graph.constant(np.array(target.classes, dtype=object))
        graph.output("predicted", node("Gather", names, label), np.str_, [rows])
    graph.output("probabilities", shares, np.float64, [rows, count])
