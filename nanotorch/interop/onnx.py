"""Models as ONNX files, made of the same recording that the compiler uses.

A model is called with an example, and with an example of one row more. Each primitive of the
recording becomes nodes of ONNX by a table with one line per primitive; numbers that differ between
the two calls depend on the number of rows, and are computed in the graph from the input's shape.

Needs the extra `onnx`: pip install "nanotorch[onnx]". Files are of opset 21 (IR version 10), which
runtimes from 2024 on read. Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nanotorch as nt
from nanotorch.compile.recorder import Draw, Kernel, Recorder
from nanotorch.interop.onnx_graph import Call, ExportError, Graph, Rows, checker, element_type
from nanotorch.interop.onnx_table import TABLE

ROWS = "rows"  # the name of the axis whose length is open


def export(
    model: nt.nn.Module,
    example: Any,
    path: Any,
    *,
    batch_axis: int | None = 0,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> None:
    """Write what `model(*example)` computes, in evaluation mode, as an ONNX file.

    - `example`: a tensor or a tuple of tensors, with at least two rows where `batch_axis` is open
    - `path`: where the file goes; it appears whole or not at all
    - `batch_axis`: the axis of inputs and outputs whose length stays open; None fixes all shapes
    - `input_names`, `output_names`: by default the names of forward's parameters, and "output"

    Raises ExportError for what cannot be exported, naming the op and the line that led to it.

    >>> import onnx, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(nt.nn.Linear(3, 1), nt.zeros(2, 3), folder + "/model.onnx")
    ...     onnx.load(folder + "/model.onnx").graph.node[0].op_type
    'Gemm'
    """
    inputs = (example,) if isinstance(example, nt.Tensor) else tuple(example)
    if any(x.is_cuda for x in (*inputs, *model.parameters(), *model.buffers())):
        raise ExportError("export: a model and its example must lie on the CPU; call .cpu() first")
    graph = Graph()
    names = list(input_names or _parameter_names(model, len(inputs)))
    results = model_into(graph, model, inputs, names, batch_axis)
    outputs = list(output_names or (["output"] if len(results) == 1 else []))
    outputs = outputs or [f"output_{number}" for number in range(len(results))]
    for name, result in zip(outputs, results, strict=True):
        graph.output(name, *result)
    write(graph.model(), path)


def write(model: Any, path: Any) -> None:
    """Check a model by ONNX's own checker and write it whole."""
    checker.check_model(model, full_check=True)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(model.SerializeToString())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _parameter_names(model: nt.nn.Module, count: int) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return (names + [f"input_{number}" for number in range(len(names), count)])[:count]


# --- recordings -----------------------------------------------------------------------------------


class Recording(NamedTuple):
    """One call of a model: its kernels, and its results' arrays."""

    record: Recorder
    inputs: tuple[nt.Tensor, ...]
    results: list[Any]


def record(model: nt.nn.Module, inputs: tuple[nt.Tensor, ...]) -> Recording:
    """Calls the model once; ExportError where the call is more than ops on tensors."""
    with nt.no_grad(), Recorder(inputs) as recorder:
        value = model(*inputs)
    name = type(model).__name__
    if recorder.refusal:
        raise ExportError(f"export of {name}: {recorder.refusal}")
    if recorder.written:
        raise ExportError(f"export of {name}: its forward writes to a tensor from outside")
    if any(not isinstance(step, Kernel) for step in recorder.steps):
        what = "draws random numbers" if Draw in map(type, recorder.steps) else "calls an optimizer"
        raise ExportError(f"export of {name}: its forward {what}")
    results = list(_tensors(value, name))
    return Recording(recorder, inputs, [result._array for result in results])


def _tensors(value: Any, name: str) -> Iterator[nt.Tensor]:
    """The tensors that forward returns, in order: in tuples, lists and dicts."""
    if isinstance(value, nt.Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, name)
    else:
        raise ExportError(
            f"export of {name}: expected forward to return tensors, got {type(value).__name__}"
        )


@contextlib.contextmanager
def evaluating(model: nt.nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each part of it is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def model_into(
    graph: Graph,
    model: nt.nn.Module,
    inputs: tuple[nt.Tensor, ...],
    names: Sequence[str],
    batch_axis: int | None = 0,
) -> list[tuple[str, Any, Any]]:
    """Adds inputs under these names, or values that the graph has, and the model's nodes to a
    graph. Returns name, dtype and shape of each result."""
    inputs = tuple(x.contiguous() for x in inputs)  # as what follows with one row more is
    with evaluating(model):
        one = record(model, inputs)
        two = one
        if batch_axis is not None:
            rows = inputs[0].shape[batch_axis]
            if rows < 2:
                raise ExportError("export: the example needs two rows or more, got 1: else a size "
                                  "of 1 cannot be told from the number of rows")  # fmt: skip
            more = tuple(
                nt.cat([x, x.narrow(batch_axis, 0, 1)], batch_axis)
                if x.ndim > batch_axis and x.shape[batch_axis] == rows
                else x
                for x in inputs
            )
            two = record(model, more)
            graph.rows = rows
    parameters = {id(p._array): name for name, p in _state(model)}
    return _Translation(graph, one, two, names, parameters).results()


def _state(model: nt.nn.Module) -> list[tuple[str, Any]]:
    return [*model.named_parameters(), *model.named_buffers()]


def paired(one: Any, two: Any, rows: int) -> Any:
    """A value of both calls: itself, or Rows where it grows with the number of rows."""
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        parts = [paired(a, b, rows) for a, b in zip(one, two, strict=True)]
        return type(one)(*parts) if hasattr(one, "_fields") else tuple(parts)
    if isinstance(one, slice) and isinstance(two, slice):
        return slice(*(paired(getattr(one, e), getattr(two, e), rows) for e in _ENDS))
    if type(one) is int and type(two) is int and one != two:
        return Rows(two - one, one - (two - one) * rows)
    if isinstance(one, tuple | slice) or isinstance(two, tuple | slice):
        raise ExportError(f"{one!r} and {two!r} for one row more; is batch_axis right?")
    same = one is two or one == two or (one != one and two != two)
    if not same:
        raise ExportError(f"{one!r}, and {two!r} for one row more")
    return one


_ENDS = ("start", "stop", "step")


class _Translation:
    """From two recordings of a model to nodes of a graph."""

    def __init__(
        self,
        graph: Graph,
        one: Recording,
        two: Recording,
        names: Sequence[str],
        parameters: dict[int, str],
    ) -> None:
        self.graph, self.one, self.two, self.parameters = graph, one, two, parameters
        self.names: dict[int, str] = {}  # of the first recording's arrays
        if len(names) != len(one.inputs):
            raise ExportError(f"export: {len(one.inputs)} inputs, but {len(names)} names")
        for name, x, y in zip(names, one.inputs, two.inputs, strict=True):
            if name not in graph.values:
                shape = [n if n == m else ROWS for n, m in zip(x.shape, y.shape, strict=True)]
                graph.input(name, x._array.dtype, shape)
                if ROWS in shape and not graph.counted:
                    graph.counted = (name, shape.index(ROWS))
            self.names[id(x._array)] = name
        steps = [[s for s in r.record.steps if isinstance(s, Kernel)] for r in (one, two)]
        if [s.primitive for s in steps[0]] != [s.primitive for s in steps[1]]:
            raise ExportError(
                "export: forward computes other ops for one row more; fix the number of rows with "
                "batch_axis=None"
            )
        for first, second in zip(*steps, strict=True):
            self.translate(first, second)

    def results(self) -> list[tuple[str, Any, Any]]:
        operands = []
        for array, other in zip(self.one.results, self.two.results, strict=True):
            shape = [n if n == m else ROWS for n, m in zip(array.shape, other.shape, strict=True)]
            operands.append((self.operand(array, other), array.dtype, shape))
        return operands

    def operand(self, one: Any, two: Any) -> Any:
        """The name of an array; a plain number as it is."""
        if not isinstance(one, np.ndarray):
            return paired(one, two, self.graph.rows)
        name = self.names.get(id(one))
        if name is None:
            name = self.names[id(one)] = self.constant(one, two)
        return name

    def constant(self, one: Any, two: Any) -> Any:
        """An array from outside the call; if its shape depends on the rows, all of one value."""
        name = self.parameters.get(id(one))
        if one.shape == two.shape:
            if name is None and not np.array_equal(one, two, equal_nan=one.dtype.kind == "f"):
                raise ExportError("export: a tensor made outside of the ops differs for more rows")
            return self.graph.constant(one, name)
        if one.ndim == 1 and all((a == np.arange(len(a))).all() for a in (one, two)):
            rows = self.graph.count(paired(len(one), len(two), self.graph.rows))
            ends = [self.graph.constant(n, dtype=np.int64) for n in (0, 1)]
            count = self.graph.node("Range", ends[0], self.graph.node("Squeeze", rows), ends[1])
            return self.graph.node("Cast", count, to=element_type(one.dtype))
        first = one.reshape(-1)[0]
        if not (one == first).all() or not (two == first).all():
            raise ExportError(
                f"export: a tensor of shape {one.shape}, made outside of the ops, grows with the "
                "number of rows and is not of one value"
            )
        shape = self.graph.shape(paired(one.shape, two.shape, self.graph.rows))
        return self.graph.node("Expand", self.graph.constant(first), shape)

    def translate(self, one: Kernel, two: Kernel) -> None:
        name = one.primitive.title()
        where = f" (line {one.where[1]} of {one.where[0]})" if one.where else ""
        translator = TABLE.get(one.primitive.__name__)
        if translator is None:
            raise ExportError(f"export: {name} has no counterpart in ONNX here{where}")
        if one.into_existing and self.is_shared(one.out):
            raise ExportError(
                f"export: {name} writes into a tensor that views share; write it without the "
                f"in-place op{where}"
            )
        try:
            operands = [
                self.operand(*pair) for pair in zip(one.operands, two.operands, strict=True)
            ]
            attributes = {
                key: paired(value, two.attributes[key], self.graph.rows)
                for key, value in one.attributes.items()
            }
            call = Call(self.graph, one, operands)
            self.names[id(one.out)] = translator(call, *operands, **attributes)
        except ExportError as error:
            words = str(error)
            raise (
                error
                if words.startswith("export")
                else ExportError(f"export: {name}: {words}{where}")
            ) from None

    def is_shared(self, array: Any) -> bool:
        """Whether other arrays with a name show the same memory."""
        others = [s.out for s in self.one.record.steps if isinstance(s, Kernel)]
        return any(
            other is not array and id(other) in self.names and np.may_share_memory(other, array)
            for other in others
        )
