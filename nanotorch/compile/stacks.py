"""Several steps at once: arguments and results with one more dimension, a slice for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.ops import joining
from nanotorch.tensor import Tensor


def length_of(stacked: Sequence[Tensor]) -> int:
    """The first dimension of all; RuntimeError where they differ."""
    if not stacked or any(not isinstance(x, Tensor) or not x._array.ndim for x in stacked):
        raise TypeError("steps: expected tensors with a first dimension, one slice for each step")
    lengths = {int(x._array.shape[0]) for x in stacked}
    if len(lengths) > 1 or 0 in lengths:
        raise RuntimeError(f"steps: expected one number of steps, got {sorted(lengths)}")
    return lengths.pop()


def slices(stacked: Sequence[Tensor], k: int) -> tuple[Tensor, ...]:
    """The k-th of each."""
    return tuple(Tensor._wrap(x._array[k : k + 1].reshape(x._array.shape[1:])) for x in stacked)


def mapped(function: Callable[..., Any], *structures: Any) -> Any:
    """One structure like each of those, nested tuples, lists and dicts, with the function of the
    items at the same place in all of them."""
    last = structures[-1]
    if isinstance(last, dict):
        return {key: mapped(function, *(s[key] for s in structures)) for key in last}
    if isinstance(last, tuple | list):
        parts = [mapped(function, *items) for items in zip(*structures, strict=True)]
        return type(last)(*parts) if hasattr(last, "_fields") else type(last)(parts)
    return function(*structures)


def stack_results(results: Sequence[Any]) -> Any:
    """One structure with the tensors of all results, stacked; of what is no tensor, the last."""

    def stacked(*items: Any) -> Any:
        if not isinstance(items[-1], Tensor):
            return items[-1]
        with no_grad():
            return joining.stack([item.detach() for item in items])

    return mapped(stacked, *results)
