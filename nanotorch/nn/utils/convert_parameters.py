"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from nanotorch.ops import cat
from nanotorch.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All entries of the parameters, in order, in one vector; recorded, so gradients flow back."""
    return cat([parameter.reshape(-1) for parameter in parameters])  # type: ignore[no-any-return]


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Splits a vector, in order, into the data of the parameters, which then share its memory.

    TypeError for anything but a tensor.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected a Tensor, but got {type(vec).__name__}")
    position = 0
    for parameter in parameters:
        size = parameter.numel()
        parameter.data = vec[position : position + size].view(parameter.shape).data
        position += size
