"""Parameter and Buffer: tensors that a module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

from nanotorch.backend.allocator import keep_freed_memory
from nanotorch.tensor import Tensor


class Parameter(Tensor):
    """A tensor that is trained; a Module registers it when it is assigned as an attribute.

    It shares the memory of `data` and stands outside its graph. Results computed from it are plain
    tensors.

    Raises TypeError for anything but a tensor, RuntimeError for an integer tensor that is to
    require grad.
    """

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        keep_freed_memory()  # a model's calls make the same arrays each time, trained or not
        _share(self, Tensor() if data is None else data)
        self.requires_grad = requires_grad

    def __repr__(self, **options: object) -> str:
        return "Parameter containing:\n" + super().__repr__(**options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        """A parameter over memory of its own, without a gradient."""
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]  # type: ignore[no-any-return]


class Buffer(Tensor):
    """A tensor that a Module registers as a buffer when it is assigned; `persistent`: saved."""

    persistent = True

    def __init__(self, data: Tensor | None = None, *, persistent: bool = True) -> None:
        _share(self, Tensor() if data is None else data)
        self.persistent = persistent


def _share(owner: Tensor, data: Tensor) -> None:
    """Makes `owner` a tensor over the memory of `data`, with one version counter for both."""
    if not isinstance(data, Tensor):
        raise TypeError(
            f"{type(owner).__name__}: expected a Tensor, got {type(data).__name__}; "
            "make one with tensor(data)"
        )
    shared = data.detach()
    owner._array, owner._cell = shared._array, shared._cell
