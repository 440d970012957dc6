"""Weights as length times direction (Salimans and Kingma, 2016), computed when they are read."""

from __future__ import annotations

from typing import TypeVar

from nanotorch.nn.module import Module
from nanotorch.nn.utils.parametrize import computed_by
from nanotorch.nn.utils.weight_normalization import lengths, weight_of
from nanotorch.tensor import Tensor

Layer = TypeVar("Layer", bound=Module)


class _WeightNorm(Module):
    """w = g v / ‖v‖"""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_of(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return lengths(weight, self.dim), weight


def weight_norm(module: Layer, name: str = "weight", dim: int | None = 0) -> Layer:
    """Computes a parameter from its length (`original0`) and direction (`original1`): g v / ‖v‖.

    One length for each index of `dim`, or one for all where None. RuntimeError where it was
    applied already.
    """
    computed_by(module, name, _WeightNorm(dim))
    return module
