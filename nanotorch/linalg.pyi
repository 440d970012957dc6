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
from nanotorch.backend.errors import LinAlgError as LinAlgError
from nanotorch.backend.loading import on_demand
from nanotorch.creation import eye
def det(x: Tensor) -> Tensor: ...
def inv(x: Tensor) -> Tensor: ...
def matmul(a: Tensor, b: Tensor) -> Tensor: ...
def solve(a: Tensor, b: Tensor, *, left: builtins.bool = True) -> Tensor: ...
from nanotorch.ops.decompositions import cholesky as cholesky, cholesky_ex as cholesky_ex, eigh as eigh, eigvalsh as eigvalsh, inv_ex as inv_ex, lstsq as lstsq, matrix_exp as matrix_exp, matrix_rank as matrix_rank, pinv as pinv, qr as qr, slogdet as slogdet, solve_ex as solve_ex, solve_triangular as solve_triangular, svd as svd, svdvals as svdvals
from nanotorch.ops.matrices import cross as cross, tensorinv as tensorinv, tensorsolve as tensorsolve, vander as vander, vecdot as vecdot
from nanotorch.ops.shapes import dimension
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
def diagonal(
    x: Tensor,
    *,
    offset: builtins.int = 0,
    dim1: builtins.int = -2,
    dim2: builtins.int = -1,
) -> Tensor: ...
def cond(x: Tensor, p: builtins.float | str | None = None) -> Tensor: ...
