# Written by scripts/stubs.py from the sources; not to be edited.
import builtins
import numpy
from numpy.typing import NDArray
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, Self, SupportsIndex
from typing import TypeAlias, TypeVar, overload
from nanotorch.backend import device as Device, dtype as DType
from nanotorch.operators import Operand, ValuesAndIndices
from nanotorch.compile.explanation import Explanation
from nanotorch.nn.module import Module

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
M = TypeVar("M", bound=Module)

class _Compiled(Protocol[P, R]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def steps(self, *stacked: Tensor) -> R: ...
    def plan(self) -> Explanation: ...
from nanotorch.tensor import Tensor
import functools
from collections.abc import Callable
from typing import Any
@overload
def compile(  # type: ignore[overload-overlap]
    function: M,
    *,
    pure: builtins.bool = False,
    explain: builtins.bool = False,
    warn: builtins.bool = True,
    fullgraph: builtins.bool = False,
    dynamic: builtins.bool | None = None,
    backend: Any | None = None,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: builtins.bool = False,
) -> M: ...
@overload
def compile(
    function: Callable[P, R],
    *,
    pure: builtins.bool = False,
    explain: builtins.bool = False,
    warn: builtins.bool = True,
    fullgraph: builtins.bool = False,
    dynamic: builtins.bool | None = None,
    backend: Any | None = None,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: builtins.bool = False,
) -> _Compiled[P, R]: ...
@overload
def compile(
    function: None = None,
    *,
    pure: builtins.bool = False,
    explain: builtins.bool = False,
    warn: builtins.bool = True,
    fullgraph: builtins.bool = False,
    dynamic: builtins.bool | None = None,
    backend: Any | None = None,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: builtins.bool = False,
) -> Callable[[Callable[P, R]], _Compiled[P, R]]: ...
