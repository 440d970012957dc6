# Written by scripts/stubs.py from the sources; not to be edited.
import builtins
import numpy
from numpy.typing import NDArray
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, Self, SupportsIndex
from typing import TypeAlias, TypeVar, overload
from nanotorch.backend import device as Device, dtype as DType
from nanotorch.operators import Operand, ValuesAndIndices

Tensors: TypeAlias = Tensor | Sequence[Tensor]
from nanotorch.tensor import Tensor
from collections.abc import Sequence
from typing import Any
from nanotorch import ops
from nanotorch.autograd.engine import requires_grad
from nanotorch.autograd.walk import on_tensors, walk
from nanotorch.backend import HOST, copy_of
from nanotorch.backend.silence import silent
from nanotorch.node import Traced
def several(value: Any) -> builtins.tuple[Tensor, ...]: ...
def starting_cotangents(
    outputs: Sequence[Tensor],
    given: Any,
    create_graph: builtins.bool,
) -> builtins.list[Tensor]: ...
def one(output: Any, tensors: builtins.bool) -> Any: ...
def places_of(inputs: Sequence[Tensor], op: str) -> builtins.list[Tensor]: ...
@silent
def backward(
    tensors: Any,
    grad_tensors: Any | None = None,
    retain_graph: builtins.bool | None = None,
    create_graph: builtins.bool = False,
    inputs: Any | None = None,
) -> None: ...
def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Any | None = None,
    retain_graph: builtins.bool | None = None,
    create_graph: builtins.bool = False,
    only_inputs: builtins.bool = True,
    allow_unused: builtins.bool | None = None,
    is_grads_batched: builtins.bool = False,
    materialize_grads: builtins.bool = False,
) -> builtins.tuple[Tensor, ...]: ...
def own(g: Any, before: Sequence[Tensor], given: Sequence[Tensor]) -> Any: ...
def batched_grad(
    results: Sequence[Tensor],
    wanted: Sequence[Tensor],
    batches: Sequence[Tensor],
    create_graph: builtins.bool,
    allow_unused: builtins.bool,
    materialize: builtins.bool,
) -> builtins.tuple[Tensor, ...]: ...
