"""A graph of ONNX that is being built: nodes, constants, inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import nanotorch as nt
from nanotorch.compile.recorder import Kernel

try:
    from onnx import checker as checker, helper, numpy_helper
except ImportError as error:
    raise ImportError(
        'nanotorch.interop.onnx needs onnx 1.17 or newer: pip install "nanotorch[onnx]"'
    ) from error

OPSET, IR_VERSION = 21, 10


class ExportError(RuntimeError):
    """A model computes something that has no counterpart in ONNX, or none in the table."""


class Rows(NamedTuple):
    """An integer that grows with the number of rows: factor · rows + rest."""

    factor: int
    rest: int


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
        self.inputs.append(helper.make_tensor_value_info(name, element_type(dtype), shape))
        return name

    def output(self, name: str, value: str, dtype: Any, shape: Any) -> None:
        """Hands a value out under this name."""
        if name in self.values:
            raise ExportError(f"export: the output {name!r} has the name of another value")
        self.values.add(name)
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, element_type(dtype), shape))

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

    def count(self, value: Any) -> Any:
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

    def shape(self, sizes: Sequence[Any]) -> Any:
        """Sizes, ints or Rows, as a tensor."""
        if not any(isinstance(size, Rows) for size in sizes):
            return self.integers(*sizes)
        return self.node("Concat", *map(self.count, sizes), axis=0)

    def model(self) -> Any:
        """The finished model, with the constants that its nodes read."""
        nodes = list(self.nodes)
        for node in self.nodes:
            nodes += [inner for a in node.attribute for inner in a.g.node]
        read = {name for node in nodes for name in node.input}
        constants = [constant for constant in self.initializers if constant.name in read]
        graph = helper.make_graph(self.nodes, "nanotorch", self.inputs, self.outputs, constants)
        versions = {"": OPSET, "ai.onnx.ml": 5}
        return helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid(d, versions[d]) for d in sorted(self.domains)],
            producer_name="nanotorch",
            producer_version=nt.__version__,
        )


def element_type(dtype: Any) -> int:
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

    def number(self, value: Any, dtype: Any = None) -> Any:
        """A number in the result's dtype, or in another one."""
        dtype = dtype or self.dtype
        if isinstance(value, Rows):
            scalar = self.node("Squeeze", self.graph.count(value))
            return self.node("Cast", scalar, to=element_type(dtype))
        return self.graph.constant(value, dtype=dtype)

    def cast(self, position: int, dtype: Any = None) -> Any:
        """An operand's name, as a value of the result's dtype or another one."""
        dtype = np.dtype(dtype or self.dtype)
        name, array = self.names[position], self.x(position)
        if not isinstance(array, np.ndarray):
            return self.number(name, dtype)
        if array.dtype == dtype:
            return name
        return self.node("Cast", name, to=element_type(dtype))

    def common(self) -> Any:
        """The dtype in which operands are compared."""
        arrays = [x for x in self.kernel.operands if isinstance(x, np.ndarray | np.generic)]
        numbers = [x for x in self.kernel.operands if not isinstance(x, np.ndarray | np.generic)]
        return np.result_type(*(a.dtype for a in arrays), *numbers)
