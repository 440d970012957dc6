# Written by scripts/stubs.py from the sources; not to be edited.
import builtins
import numpy
from numpy.typing import NDArray
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, Self, SupportsIndex
from typing import TypeAlias, TypeVar, overload
from nanotorch.backend import device as Device, dtype as DType
from nanotorch.operators import Operand, ValuesAndIndices
from nanotorch.tensor import Tensor
import math
from collections.abc import Sequence
from typing import Any
from nanotorch import ops
from nanotorch.creation import eye
def det(x: Tensor) -> Tensor: ...
def inv(x: Tensor) -> Tensor: ...
def matmul(a: Tensor, b: Tensor) -> Tensor: ...
def slogdet(x: Tensor) -> builtins.tuple[Tensor, Any]: ...
def solve(a: Tensor, b: Tensor, *, left: builtins.bool = True) -> Tensor: ...
from nanotorch.ops.linalg import svdvals as svdvals
def vector_norm(
    x: Tensor,
    ord: builtins.float = 2,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
) -> Tensor: ...
def norm(
    x: Tensor,
    ord: builtins.float | str | None = None,
    dim: builtins.int | Sequence[builtins.int] | None = None,
    keepdim: builtins.bool = False,
) -> Tensor: ...
def matrix_norm(
    x: Tensor,
    ord: builtins.float | str | None = 'fro',
    dim: builtins.tuple[builtins.int, builtins.int] = (-2, -1),
    keepdim: builtins.bool = False,
) -> Tensor: ...
def matrix_power(x: Tensor, n: builtins.int) -> Tensor: ...
def multi_dot(matrices: Sequence[Tensor]) -> Tensor: ...
