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
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nanotorch as nt
from nanotorch.compile.recorder import Draw, Kernel, Recorder
from nanotorch.nn.pooling import divisor

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ImportError(
        'nanotorch.interop.onnx needs onnx 1.17 or newer: pip install "nanotorch[onnx]"'
    ) from error

OPSET, IR_VERSION = 21, 10
ROWS = "rows"  # the name of the axis whose length is open


class ExportError(RuntimeError):
    """A model computes something that has no counterpart in ONNX, or none in this table."""


class Rows(NamedTuple):
    """An integer that grows with the number of rows: factor · rows + rest."""

    factor: int
    rest: int


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

    >>> import tempfile
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
    onnx.checker.check_model(model, full_check=True)
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
        raise ExportError(f"{one!r} and {two!r} for one row more")
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
        found = []
        for array, other in zip(self.one.results, self.two.results, strict=True):
            shape = [n if n == m else ROWS for n, m in zip(array.shape, other.shape, strict=True)]
            found.append((self.operand(array, other), array.dtype, shape))
        return found

    def operand(self, one: Any, two: Any) -> Any:
        """The name of an array; a plain number as it is."""
        if not isinstance(one, np.ndarray):
            return paired(one, two, self.graph.rows)
        name = self.names.get(id(one))
        if name is None:
            name = self.names[id(one)] = self.constant(one, two)
        return name

    def constant(self, one: Any, two: Any) -> str:
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
            return str(self.graph.node("Cast", count, to=_type(one.dtype)))
        first = one.reshape(-1)[0]
        if not (one == first).all() or not (two == first).all():
            raise ExportError(
                f"export: a tensor of shape {one.shape}, made outside of the ops, grows with the "
                "number of rows and is not of one value"
            )
        shape = self.graph.shape(paired(one.shape, two.shape, self.graph.rows))
        return str(self.graph.node("Expand", self.graph.constant(first), shape))

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


# --- the graph ------------------------------------------------------------------------------------


class Graph:
    """Nodes, constants, inputs and outputs of a graph that is being built."""

    def __init__(self, values: set[str] | None = None) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.values: set[str] = set() if values is None else values
        self.domains: set[str] = {""}
        self.rows = 0  # of the first example
        self.counted: tuple[str, int] | None = None  # an input and its axis of open length
        self._rows: str | None = None
        self._constants: dict[Any, str] = {}

    def name(self, wish: str) -> str:
        """A name that no value has."""
        name, number = wish, 1
        while name in self.values:
            number += 1
            name = f"{wish}_{number}"
        self.values.add(name)
        return name

    def input(self, name: str, dtype: Any, shape: Any) -> str:
        self.values.add(name)
        self.inputs.append(helper.make_tensor_value_info(name, _type(dtype), shape))
        return name

    def output(self, name: str, value: str, dtype: Any, shape: Any) -> None:
        """Hands a value out under this name."""
        if name in self.values:
            raise ExportError(f"export: the output {name!r} has the name of another value")
        self.values.add(name)
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, _type(dtype), shape))

    def node(
        self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any
    ) -> Any:
        """Adds a node and returns the name of its output, or the names of several."""
        self.domains.add(domain)
        names = [self.name(op.lower()) for _ in range(outputs)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, name: str | None = None, dtype: Any = None) -> str:
        array = np.array(value, dtype=dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 16 else None
        if name is None and key is not None and key in self._constants:
            return self._constants[key]
        name = self.name(name or "constant")
        self.initializers.append(numpy_helper.from_array(array, name))
        if key is not None:
            self._constants.setdefault(key, name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, dtype=np.int64)

    def count(self, value: Any) -> str:
        """An int, or Rows, as a tensor of shape (1,)."""
        if not isinstance(value, Rows):
            return self.integers(value)
        if self._rows is None:
            assert self.counted is not None
            name, axis = self.counted
            self._rows = str(self.node("Shape", name, start=axis, end=axis + 1))
        result = self._rows
        if value.factor != 1:
            result = self.node("Mul", result, self.integers(value.factor))
        if value.rest:
            result = self.node("Add", result, self.integers(value.rest))
        return result

    def shape(self, sizes: Sequence[Any]) -> str:
        """Sizes, ints or Rows, as a tensor."""
        if not any(isinstance(size, Rows) for size in sizes):
            return self.integers(*sizes)
        return str(self.node("Concat", *map(self.count, sizes), axis=0))

    def model(self) -> Any:
        """The finished model."""
        graph = helper.make_graph(
            self.nodes, "nanotorch", self.inputs, self.outputs, self.initializers
        )
        versions = {"": OPSET, "ai.onnx.ml": 5}
        return helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid(d, versions[d]) for d in sorted(self.domains)],
            producer_name="nanotorch",
            producer_version=nt.__version__,
        )


def _type(dtype: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


class Call(NamedTuple):
    """One kernel's call, as its translator sees it."""

    graph: Graph
    kernel: Kernel
    names: list[Any]

    @property
    def dtype(self) -> Any:
        return self.kernel.out.dtype

    @property
    def ndim(self) -> int:
        return int(self.kernel.out.ndim)

    def x(self, position: int = 0) -> Any:
        """An operand of the recording, with its shape and dtype."""
        return self.kernel.operands[position]

    def node(self, op: str, *inputs: str, **attributes: Any) -> Any:
        return self.graph.node(op, *inputs, **attributes)

    def number(self, value: Any, dtype: Any = None) -> str:
        """A number in the result's dtype, or in another one."""
        dtype = dtype or self.dtype
        if isinstance(value, Rows):
            scalar = self.node("Squeeze", self.graph.count(value))
            return str(self.node("Cast", scalar, to=_type(dtype)))
        return self.graph.constant(value, dtype=dtype)

    def cast(self, position: int, dtype: Any = None) -> str:
        """An operand's name, as a value of the result's dtype or another one."""
        dtype = np.dtype(dtype or self.dtype)
        name, array = self.names[position], self.x(position)
        if not isinstance(array, np.ndarray):
            return self.number(name, dtype)
        if array.dtype == dtype:
            return str(name)
        return str(self.node("Cast", name, to=_type(dtype)))

    def common(self) -> Any:
        """The dtype in which operands are compared."""
        arrays = [x for x in self.kernel.operands if isinstance(x, np.ndarray | np.generic)]
        numbers = [x for x in self.kernel.operands if not isinstance(x, np.ndarray | np.generic)]
        return np.result_type(*(a.dtype for a in arrays), *numbers)


# --- the table ------------------------------------------------------------------------------------

Translator = Callable[..., str]
TABLE: dict[str, Translator] = {}


def translates(*primitives: str) -> Callable[[Translator], Translator]:
    """Enters a translator for primitives of these names. It is called with the call, the names of
    the operands (numbers as they are) and the attributes, and returns the result's name."""

    def enter(translator: Translator) -> Translator:
        TABLE.update(dict.fromkeys(primitives, translator))
        return translator

    return enter


def _elementwise(op: str) -> Translator:
    """All operands in the result's dtype, into one node."""
    return lambda call, *operands: call.node(op, *map(call.cast, range(len(operands))))


for (
    _op
) in "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal".split():
    TABLE[_op] = _elementwise(_op)
for _op in "Round Sigmoid Sign Sin Sinh Sqrt Tan Tanh Relu Add Sub Mul Div".split():
    TABLE[_op] = _elementwise(_op)
TABLE |= {
    "Logistic": _elementwise("Sigmoid"),
    "Hardswish": _elementwise("HardSwish"),
    "Maximum": _elementwise("Max"),
    "AtLeast": _elementwise("Max"),
    "Minimum": _elementwise("Min"),
    "AtMost": _elementwise("Min"),
    "PowTensor": _elementwise("Pow"),
    "Isnan": lambda call, x: call.node("IsNaN", x),
    "Isinf": lambda call, x: call.node("IsInf", x),
    "LogicalNot": lambda call, x: call.node("Not", call.cast(0, bool)),
    "Rsub": lambda call, a, b: call.node("Sub", call.cast(1), call.cast(0)),
    "Elu": lambda call, x, alpha: call.node("Elu", x, alpha=float(alpha)),
    "Gelu": lambda call, x, approximate: call.node("Gelu", x, approximate=approximate),
    "LeakyRelu": lambda call, x, slope: call.node("LeakyRelu", x, alpha=float(slope)),
    "Silu": lambda call, x: call.node("Mul", x, call.node("Sigmoid", x)),
    "Softmax": lambda call, x, dim: call.node("Softmax", x, axis=dim),
    "LogSoftmax": lambda call, x, dim: call.node("LogSoftmax", x, axis=dim),
    "LogSigmoid": lambda call, x: call.node("Neg", call.node("Softplus", call.node("Neg", x))),
    "Exp2": lambda call, x: call.node("Pow", call.number(2), x),
    "Expm1": lambda call, x: call.node("Sub", call.node("Exp", x), call.number(1)),
    "Log1p": lambda call, x: call.node("Log", call.node("Add", x, call.number(1))),
    "Log2": lambda call, x: call.node("Mul", call.node("Log", x), call.number(1 / math.log(2))),
    "Log10": lambda call, x: call.node("Mul", call.node("Log", x), call.number(1 / math.log(10))),
    "Rsqrt": lambda call, x: call.node("Reciprocal", call.node("Sqrt", x)),
    "Erfc": lambda call, x: call.node("Sub", call.number(1), call.node("Erf", x)),
    "Trunc": lambda call, x: call.node(
        "Mul", call.node("Sign", x), call.node("Floor", call.node("Abs", x))
    ),
    "Logit": lambda call, x: call.node(
        "Log", call.node("Div", x, call.node("Sub", call.number(1), x))
    ),
    "Pow": lambda call, a, exponent: call.node("Pow", call.cast(0), call.number(exponent)),
    "PowBase": lambda call, a, base: call.node("Pow", call.number(base), call.cast(0)),
    "Permute": lambda call, x, order: call.node("Transpose", x, perm=order),
    "Gather": lambda call, x, index, dim: call.node("GatherElements", x, index, axis=dim),
    "Cumsum": lambda call, x, dim: call.node("CumSum", call.cast(0), call.graph.constant(dim)),
    "Tril": lambda call, x, k: call.node("Trilu", x, call.graph.constant(k), upper=0),
    "Triu": lambda call, x, k: call.node("Trilu", x, call.graph.constant(k), upper=1),
    "EinSum": lambda call, *inputs, equation: call.node("Einsum", *inputs, equation=equation),
    "ToCopy": lambda call, x, dtype: call.cast(0),
    "Det": lambda call, x: call.node("Det", x),
}
for _op in ("Clone", "Alias", "ToDevice"):
    TABLE[_op] = lambda call, x, **attributes: x
for _op in ("MaxAlong", "MinAlong", "SortAlong", "TopkAlong", "MedianAlong"):
    TABLE[_op] = TABLE["Gather"]


def _comparison(op: str) -> Translator:
    def translate(call: Call, a: Any, b: Any) -> str:
        dtype = call.common()
        return str(call.node(op, call.cast(0, dtype), call.cast(1, dtype)))

    return translate


TABLE |= {
    "Eq": _comparison("Equal"),
    "Gt": _comparison("Greater"),
    "Ge": _comparison("GreaterOrEqual"),
    "Lt": _comparison("Less"),
    "Le": _comparison("LessOrEqual"),
    "Ne": lambda call, a, b: call.node("Not", _comparison("Equal")(call, a, b)),
}


@translates("LogicalAnd", "LogicalOr", "LogicalXor", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
def _of_truths(call: Call, a: Any, b: Any) -> str:
    name = call.kernel.primitive.__name__
    if call.dtype != bool:
        return str(call.node(name, call.cast(0), call.cast(1)))
    op = name.removeprefix("Logical").removeprefix("Bitwise")
    return str(call.node(op, call.cast(0, bool), call.cast(1, bool)))


@translates("BitwiseNot")
def _bitwise_not(call: Call, x: str) -> str:
    return str(call.node("Not" if call.dtype == bool else "BitwiseNot", x))


@translates("Isfinite")
def _isfinite(call: Call, x: str) -> str:
    return str(call.node("Not", call.node("Or", call.node("IsNaN", x), call.node("IsInf", x))))


@translates("Clamp", "Hardtanh")
def _clamp(call: Call, x: str, low: Any, high: Any) -> str:
    ends = ["" if end is None else call.number(end) for end in (low, high)]
    return str(call.node("Clip", call.cast(0), *ends))


@translates("Softplus")
def _softplus(call: Call, x: str, beta: float, threshold: float) -> str:
    if beta == 1:
        return str(call.node("Softplus", x))
    scale = call.number(beta)
    return str(call.node("Div", call.node("Softplus", call.node("Mul", x, scale)), scale))


@translates("Remainder", "FloorDivide", "Fmod", "TruncDivide")
def _division(call: Call, a: Any, b: Any) -> str:
    name = call.kernel.primitive.__name__
    a, b = call.cast(0), call.cast(1)
    if name == "Fmod" or (name == "Remainder" and call.dtype.kind in "iu"):
        return str(call.node("Mod", a, b, fmod=int(name == "Fmod")))
    if call.dtype.kind in "iu":
        if name == "TruncDivide":
            return str(call.node("Div", a, b))
        rest = call.node("Mod", a, b)
        return str(call.node("Div", call.node("Sub", a, rest), b))
    quotient = call.node("Div", a, b)
    if name == "TruncDivide":
        return str(
            call.node(
                "Mul", call.node("Sign", quotient), call.node("Floor", call.node("Abs", quotient))
            )
        )
    whole = call.node("Floor", quotient)
    return str(whole if name == "FloorDivide" else call.node("Sub", a, call.node("Mul", whole, b)))


@translates("Where")
def _where(call: Call, condition: Any, a: Any, b: Any) -> str:
    return str(call.node("Where", call.cast(0, bool), call.cast(1), call.cast(2)))


@translates("MaskedFill")
def _masked_fill(call: Call, x: str, mask: str, value: Any) -> str:
    return str(call.node("Where", call.cast(1, bool), call.cast(2), call.cast(0)))


@translates("Lerp", "LerpTensor")
def _lerp(call: Call, a: str, b: str, weight: Any) -> str:
    weight = call.number(weight) if isinstance(weight, float | int) else weight
    return str(call.node("Add", a, call.node("Mul", weight, call.node("Sub", b, a))))


@translates("Hypot")
def _hypot(call: Call, a: Any, b: Any) -> str:
    squares = [call.node("Mul", x, x) for x in (call.cast(0), call.cast(1))]
    return str(call.node("Sqrt", call.node("Add", *squares)))


@translates("Logaddexp")
def _logaddexp(call: Call, a: Any, b: Any) -> str:
    a, b = call.cast(0), call.cast(1)
    apart = call.node("Neg", call.node("Abs", call.node("Sub", a, b)))
    rest = call.node("Softplus", apart)
    return str(call.node("Add", call.node("Max", a, b), rest))


@translates("Xlogy")
def _xlogy(call: Call, a: Any, b: Any) -> str:
    a, b = call.cast(0), call.cast(1)
    zero = call.number(0)
    product = call.node("Mul", a, call.node("Log", b))
    return str(call.node("Where", call.node("Equal", a, zero), zero, product))


@translates("NanToNum")
def _nan_to_num(call: Call, x: str, nan: float, posinf: float | None, neginf: float | None) -> str:
    limits = np.finfo(call.dtype)
    for value, limit, signs in ((posinf, limits.max, (0, 1)), (neginf, limits.min, (1, 0))):
        test = call.node("IsInf", x, detect_negative=signs[0], detect_positive=signs[1])
        x = call.node("Where", test, call.number(limit if value is None else value), x)
    return str(call.node("Where", call.node("IsNaN", x), call.number(nan), x))


@translates(
    "Sum", "Mean", "Prod", "Amax", "Amin", "Max", "Min", "LogSumExp", "AllOf", "AnyOf", "Norm"
)
def _reduction(call: Call, x: str, dim: Any = None, keepdim: bool = False, p: float = 2) -> str:
    name = call.kernel.primitive.__name__
    ops = {"Amax": "Max", "Amin": "Min", "AllOf": "Min", "AnyOf": "Max"}
    if name == "Norm" and p not in (1, 2, math.inf):
        raise ExportError(f"order {p} has no counterpart in ONNX here")
    op = f"L{p:g}" if name == "Norm" else ops.get(name, name)
    if name in ("AllOf", "AnyOf"):
        x = call.node("Cast", call.cast(0, bool), to=_type(np.int32))
    elif name == "Norm" and p == math.inf:
        op, x = "Max", call.node("Abs", x)
    else:
        x = call.cast(0)
    if call.x().ndim:
        dims = range(call.x().ndim) if dim is None else [dim] if isinstance(dim, int) else dim
        x = call.node(f"Reduce{op}", x, call.graph.integers(*dims), keepdims=int(keepdim))
    elif name == "Norm":
        x = call.node("Abs", x)
    return str(call.node("Cast", x, to=_type(bool)) if name in ("AllOf", "AnyOf") else x)


@translates("Var", "Std")
def _variance(
    call: Call, x: str, dim: Any = None, correction: float = 1, keepdim: bool = False
) -> str:
    name, shape = call.kernel.primitive.__name__, call.x().shape
    chosen = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = call.graph.integers(*chosen)
    apart = call.node("Sub", x, call.node("ReduceMean", x, dims, keepdims=1))
    total = call.node("ReduceSumSquare", apart, dims, keepdims=int(keepdim))
    size = call.node("ReduceProd", call.node("Gather", call.node("Shape", x), dims), keepdims=0)
    size = call.node("Cast", size, to=_type(call.dtype))
    result = call.node("Div", total, call.node("Sub", size, call.number(correction)))
    return str(call.node("Sqrt", result) if name == "Std" else result)


@translates("Argmax", "Argmin")
def _arg(call: Call, x: str, dim: int | None = None, keepdim: bool = False) -> str:
    op = "ArgMax" if call.kernel.primitive.__name__ == "Argmax" else "ArgMin"
    if call.x().dtype == bool:
        x = call.cast(0, np.int32)
    if dim is None:
        x, dim, keepdim = call.node("Reshape", x, call.graph.integers(-1)), 0, False
    return str(call.node(op, x, axis=dim, keepdims=int(keepdim)))


@translates("Argsort")
def _argsort(call: Call, x: str, dim: int = -1, descending: bool = False) -> str:
    axis = dim % max(call.ndim, 1)
    size = call.node("Shape", x, start=axis, end=axis + 1)
    _, order = call.node("TopK", x, size, axis=axis, largest=int(descending), outputs=2)
    return str(order)


# Shapes


@translates("Reshape", "View", "UnsafeView")
def _reshape(call: Call, x: str, shape: Any) -> str:
    open_sizes = [isinstance(size, Rows) for size in shape]
    if sum(open_sizes) == 1 and 0 not in shape:  # ONNX finds the one size that is left open
        shape = tuple(-1 if isinstance(size, Rows) else size for size in shape)
        return str(call.node("Reshape", x, call.graph.integers(*shape)))
    return str(call.node("Reshape", x, call.graph.shape(shape), allowzero=1))


@translates("Expand")
def _expand(call: Call, x: str, shape: Any) -> str:
    return str(call.node("Expand", x, call.graph.shape(shape)))


@translates("FullLike")
def _full_like(call: Call, x: str, value: Any) -> str:
    return str(call.node("Expand", call.number(value), call.node("Shape", x)))


@translates("Transpose", "T")
def _transpose(call: Call, x: str, dim0: int, dim1: int) -> str:
    order = list(range(call.ndim))
    if call.ndim:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return str(call.node("Transpose", x, perm=order))


@translates("Squeeze")
def _squeeze(call: Call, x: str, dims: Any, origin: int) -> str:
    ones = [d for d in dims if call.x().shape[d] == 1]
    return str(call.node("Squeeze", x, call.graph.integers(*ones)) if ones else x)


@translates("Unsqueeze")
def _unsqueeze(call: Call, x: str, dim: int) -> str:
    return str(call.node("Unsqueeze", x, call.graph.integers(dim)))


@translates("BasicIndex", "Select", "SplitPiece", "Unbound")
def _basic_index(call: Call, x: str, key: Any) -> str:
    """Slices, then the dimensions taken out by ints, then new ones."""
    key = key if Ellipsis in key else (*key, Ellipsis)
    used = sum(item is not None and item is not Ellipsis for item in key)
    whole = [slice(None)] * (call.x().ndim - used)
    place = key.index(Ellipsis)
    starts, ends, axes, steps, gone, new = [], [], [], [], [], []
    dim = result = 0
    for item in (*key[:place], *whole, *key[place + 1 :]):
        if item is None:
            new.append(result)
            result += 1
            continue
        if isinstance(item, slice):
            result += 1
            if item == slice(None):
                dim += 1
                continue
            start, stop, step = item.start or 0, item.stop, item.step or 1
            stop = 2**62 if stop is None else stop
        else:
            start, step = item, 1
            stop = 2**62 if item == -1 else _plus(item, 1)
            gone.append(dim)
        starts.append(start)
        ends.append(stop)
        axes.append(dim)
        steps.append(step)
        dim += 1
    shape, integers = call.graph.shape, call.graph.integers
    if axes:
        x = call.node("Slice", x, shape(starts), shape(ends), integers(*axes), integers(*steps))
    if gone:
        x = call.node("Squeeze", x, integers(*gone))
    if new:
        x = call.node("Unsqueeze", x, integers(*new))
    return str(x)


def _plus(value: Any, number: int) -> Any:
    return Rows(value.factor, value.rest + number) if isinstance(value, Rows) else value + number


@translates("Index")
def _index(call: Call, x: str, *indices: str, key: Any) -> str:
    """One index tensor along one dimension, or several along the first dimensions."""
    full = slice(None)
    places = [number for number, item in enumerate(key) if isinstance(item, str)]
    if Ellipsis in key[: places[-1]] or any(
        item != full for item in key if not isinstance(item, str) and item is not Ellipsis
    ):
        raise ExportError("this mixture of indices has no counterpart in ONNX here")
    if len(places) == 1:
        return str(call.node("Gather", x, indices[0], axis=places[0]))
    if places != list(range(len(places))):
        raise ExportError("index tensors that do not stand first have no counterpart in ONNX here")
    sizes = call.kernel.operands[1:]
    shape = np.broadcast_shapes(*(index.shape for index in sizes))
    if any(index.shape != shape for index in sizes):
        raise ExportError("index tensors of several shapes have no counterpart in ONNX here")
    wrapped = []
    for axis, index in enumerate(indices):  # GatherND takes no negative numbers in all runtimes
        size = call.node("Shape", x, start=axis, end=axis + 1)
        negative = call.node("Less", index, call.graph.constant(0, dtype=sizes[axis].dtype))
        wrapped.append(call.node("Where", negative, call.node("Add", index, size), index))
    last = call.graph.integers(-1)
    stacked = call.node("Concat", *(call.node("Unsqueeze", i, last) for i in wrapped), axis=-1)
    return str(call.node("GatherND", x, stacked))


@translates("Flip")
def _flip(call: Call, x: str, dims: Any) -> str:
    integers, count = call.graph.integers, len(dims)
    ends = integers(*[-(2**62)] * count)
    return str(call.node("Slice", x, integers(*[-1] * count), ends, integers(*dims), integers(*[-1] * count)))  # fmt: skip


@translates("Roll")
def _roll(call: Call, x: str, shifts: Any, dims: Any) -> str:
    pairs = zip(*((n,) if isinstance(n, int) else n for n in (shifts, dims)), strict=True)
    integers = call.graph.integers
    for shift, dim in pairs:
        if shift:
            cut = -(shift % max(call.x().shape[dim], 1))  # Slice counts from the end
            cuts = [(cut, 2**62), (0, cut)] if cut else [(0, 2**62)]
            parts = [
                call.node("Slice", x, integers(a), integers(b), integers(dim)) for a, b in cuts
            ]
            x = call.node("Concat", *parts, axis=dim)
    return str(x)


@translates("Atan2")
def _atan2(call: Call, a: Any, b: Any) -> str:
    """atan(a / b), and half a turn more where b is negative."""
    a, b = call.cast(0), call.cast(1)
    zero = call.number(0)
    turn = call.node(
        "Where", call.node("Less", a, zero), call.number(-math.pi), call.number(math.pi)
    )
    angle = call.node("Atan", call.node("Div", a, b))
    angle = call.node("Add", angle, call.node("Where", call.node("Less", b, zero), turn, zero))
    both = call.node("And", call.node("Equal", a, zero), call.node("Equal", b, zero))
    return str(call.node("Where", both, zero, angle))


@translates("Fill")
def _fill(call: Call, x: str, value: Any) -> str:
    return str(call.node("Expand", call.cast(1), call.node("Shape", x)))


@translates("Copy")
def _copy(call: Call, x: str, source: Any) -> str:
    return str(call.node("Expand", call.cast(1), call.node("Shape", x)))


@translates("Zero")
def _zero(call: Call, x: str) -> str:
    return str(call.node("Expand", call.number(0), call.node("Shape", x)))


@translates("CopySlices")
def _copy_slices(call: Call, base: str, value: Any, path: Any) -> str:
    """The base with a value at the places that a view shows: their numbers say where."""
    node, integers = call.node, call.graph.integers
    size = node("Shape", base)
    count = node("ReduceProd", size, keepdims=0)
    ends = [call.graph.constant(n, dtype=np.int64) for n in (0, 1)]
    places = node("Reshape", node("Range", ends[0], count, ends[1]), size)
    shown = np.empty(call.x().shape, bool)  # as wide as the base, for the ranks on the way
    for view, attributes in path:
        kernel = call.kernel._replace(operands=(shown,), out=view.kernel(np, shown, **attributes))
        translator = TABLE.get(view.__name__)
        if translator is None:
            raise ExportError(f"a write through {view.title()} has no counterpart in ONNX here")
        places = translator(Call(call.graph, kernel, [places]), places, **attributes)
        shown = kernel.out
    flat = integers(-1)
    values = node("Reshape", node("Expand", call.cast(1), node("Shape", places)), flat)
    target = node(
        "ScatterElements", node("Reshape", base, flat), node("Reshape", places, flat), values
    )
    return str(node("Reshape", target, size))


@translates("Cat")
def _cat(call: Call, *inputs: Any, dim: int) -> str:
    return str(call.node("Concat", *map(call.cast, range(len(inputs))), axis=dim))


@translates("Stack")
def _stack(call: Call, *inputs: Any, dim: int) -> str:
    axis = call.graph.integers(dim)
    parts = [call.node("Unsqueeze", call.cast(n), axis) for n in range(len(inputs))]
    return str(call.node("Concat", *parts, axis=dim))


# Products


@translates("Mm", "Bmm", "BatchedMatMul", "Mv", "Dot")
def _matmul(call: Call, a: Any, b: Any) -> str:
    return str(call.node("MatMul", call.cast(0), call.cast(1)))


@translates("LinearLayer")
def _linear(call: Call, x: str, weight: str, bias: str | None) -> str:
    if call.x().ndim == 2 and call.x(1).ndim == 2:
        return str(call.node("Gemm", x, weight, *([] if bias is None else [bias]), transB=1))
    turned = call.node("Transpose", weight, perm=[1, 0]) if call.x(1).ndim == 2 else weight
    product = call.node("MatMul", x, turned)
    return str(product if bias is None else call.node("Add", product, bias))


# Layers


@translates("LayerNorm")
def _layer_norm(call: Call, x: str, weight: Any, bias: Any, dims: Any, eps: float) -> str:
    if weight is None:
        shape = tuple(call.x().shape[d] for d in dims)
        weight = call.graph.constant(np.ones(shape, call.dtype))
    inputs = [x, weight] + ([] if bias is None else [bias])
    return str(call.node("LayerNormalization", *inputs, axis=min(dims), epsilon=float(eps)))


@translates("Standardize")
def _standardize(call: Call, x: str, dims: Any, eps: float) -> str:
    axes = call.graph.integers(*dims)
    apart = call.node("Sub", x, call.node("ReduceMean", x, axes, keepdims=1))
    variance = call.node("ReduceMean", call.node("Mul", apart, apart), axes, keepdims=1)
    deviation = call.node("Sqrt", call.node("Add", variance, call.number(eps)))
    return str(call.node("Div", apart, deviation))


def _pads(padding: Any) -> list[int]:
    return [before for before, _ in padding] + [after for _, after in padding]


@translates("Convolution")
def _convolution(
    call: Call, x: str, weight: str, bias: str | None, windows: Any, groups: int
) -> str:
    inputs = [x, weight] + ([] if bias is None else [bias])
    return str(
        call.node(
            "Conv",
            *inputs,
            kernel_shape=windows.size,
            strides=windows.stride,
            pads=_pads(windows.padding),
            dilations=windows.dilation,
            group=groups,
        )
    )


@translates("ConvolutionInput")
def _transposed(
    call: Call, x: str, weight: str, bias: str | None, shape: Any, windows: Any, groups: int
) -> str:
    inputs = [x, weight] + ([] if bias is None else [bias])
    spatial = zip(
        shape, call.x().shape[2:], windows.size, windows.stride, windows.padding, windows.dilation,
        strict=True,
    )  # fmt: skip
    beyond = [n + sum(p) - ((m - 1) * s + d * (k - 1) + 1) for n, m, k, s, p, d in spatial]
    return str(
        call.node(
            "ConvTranspose",
            *inputs,
            kernel_shape=windows.size,
            strides=windows.stride,
            pads=_pads(windows.padding),
            dilations=windows.dilation,
            output_padding=beyond,
            group=groups,
        )
    )


@translates("MaxPool")
def _max_pool(call: Call, x: str, windows: Any) -> str:
    return str(
        call.node(
            "MaxPool",
            x,
            kernel_shape=windows.size,
            strides=windows.stride,
            pads=_pads(windows.padding),
            dilations=windows.dilation,
        )
    )


@translates("AveragePool")
def _average_pool(call: Call, x: str, windows: Any, divisors: Any) -> str:
    """The mean over whole windows, which is scaled where another divisor is wanted."""
    mean = call.node(
        "AveragePool",
        x,
        kernel_shape=windows.size,
        strides=windows.stride,
        pads=_pads(windows.padding),
        count_include_pad=1,
        dilations=windows.dilation,
    )
    scale = math.prod(windows.size) / np.asarray(divisor(np, divisors, call.dtype))
    if (scale == 1).all():
        return str(mean)
    return str(call.node("Mul", mean, call.graph.constant(scale.astype(call.dtype))))


@translates("Recurrence")
def _recurrence(
    call: Call, pre: str, h0: str, c0: str | None, weight: str, bias: str | None,
    mode: str, batch_sizes: Any, backwards: bool,
) -> str:  # fmt: skip
    """A Scan over the steps, whose body is one step of the recurrence."""
    if len(set(batch_sizes)) != 1:
        raise ExportError("sequences of several lengths have no counterpart in ONNX here")
    graph, width = call.graph, call.x(3).shape[1]
    steps, gates = len(batch_sizes), call.x(0).shape[1]
    sequence = graph.node("Reshape", pre, graph.integers(steps, -1, gates))
    body = Graph(graph.values)
    kind, info = _type(call.dtype), helper.make_tensor_value_info
    now, *states = [body.name(name) for name in (["now", "h"] if c0 is None else ["now", "h", "c"])]
    ins = [info(name, kind, [None, width]) for name in states] + [info(now, kind, [None, gates])]
    hidden = body.node("MatMul", states[0], body.constant(np.ascontiguousarray(call.x(3).T)))
    if bias is not None:
        hidden = body.node("Add", hidden, body.constant(call.x(4)))
    results = _step(body, mode, now, states, hidden)
    # A scan hands out what it carries under one name and what it collects under another.
    collected = [body.node("Identity", result) for result in results]
    outs = [info(name, kind, [None, width]) for name in (*results, *collected)]
    whole = graph.node(
        "Scan",
        *(h0, c0)[: len(states)],
        sequence,
        outputs=2 * len(states),
        body=helper.make_graph(body.nodes, "step", ins, outs, body.initializers),
        num_scan_inputs=1,
        scan_input_directions=[int(backwards)],
        scan_output_directions=[int(backwards)] * len(states),
    )
    flat = graph.integers(1, -1, width)
    parts = [graph.node("Reshape", name, flat) for name in whole[len(states) :]]
    return str(parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=0))


def _step(body: Graph, mode: str, now: str, states: list[str], hidden: str) -> list[str]:
    """The nodes of one step: the new h, and for an LSTM the new c."""
    node, h = body.node, states[0]

    def blocks(value: str, count: int) -> list[str]:
        return list(node("Split", value, outputs=count, axis=1, num_outputs=count))

    if mode.startswith("RNN"):
        return [node("Tanh" if mode == "RNN_TANH" else "Relu", node("Add", now, hidden))]
    if mode == "LSTM":
        i, f, n, o = blocks(node("Add", now, hidden), 4)
        i, f, o = (node("Sigmoid", gate) for gate in (i, f, o))
        c = node("Add", node("Mul", f, states[1]), node("Mul", i, node("Tanh", n)))
        return [node("Mul", o, node("Tanh", c)), c]
    (r1, z1, n1), (r2, z2, n2) = blocks(now, 3), blocks(hidden, 3)
    r, z = node("Sigmoid", node("Add", r1, r2)), node("Sigmoid", node("Add", z1, z2))
    n = node("Tanh", node("Add", n1, node("Mul", r, n2)))
    return [node("Add", n, node("Mul", z, node("Sub", h, n)))]
