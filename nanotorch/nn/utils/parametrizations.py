"""Weights that are computed when they are read: length times direction (Salimans and Kingma, 2016),
and with a spectral norm of 1 (Miyato et al., 2018)."""

from __future__ import annotations

from typing import TypeVar

from nanotorch import ops
from nanotorch.nn.module import Module
from nanotorch.nn.utils.parametrize import is_parametrized, register_parametrization
from nanotorch.nn.utils.spectral_normalization import as_matrix, default_dim, iterated, start
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
    if is_parametrized(module, name):
        raise RuntimeError(f"the parameter {name!r} is computed from others already")
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)  # type: ignore[no-any-return]


class _SpectralNorm(Module):
    """w / σ, σ the largest singular value, of which each training pass improves the vectors"""

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        self.n_power_iterations, self.dim, self.eps = n_power_iterations, dim, eps
        matrix = as_matrix(weight.detach(), dim)
        u, v = iterated(matrix, *start(matrix, eps), 15, eps)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight, self.dim)
        if self.training:
            steps = self.n_power_iterations
            self._u, self._v = iterated(matrix.detach(), self._u, self._v, steps, self.eps)
        return weight / ops.dot(self._u, ops.mv(matrix, self._v))  # type: ignore[no-any-return]

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def spectral_norm(
    module: Layer, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
    dim: int | None = None,
) -> Layer:  # fmt: skip
    """Divides a parameter by its largest singular value, as a matrix with `dim` for its rows.

    That value comes from power iterations, `n_power_iterations` in each pass in training mode.
    """
    dim = default_dim(module) if dim is None else dim
    norm = _SpectralNorm(getattr(module, name), n_power_iterations, dim, eps)
    return register_parametrization(module, name, norm)  # type: ignore[no-any-return]
