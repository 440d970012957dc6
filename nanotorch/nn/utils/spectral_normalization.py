"""Weights with a spectral norm of 1 (Miyato et al., 2018), computed before each call."""

from __future__ import annotations

from typing import Any, TypeVar

from nanotorch import ops
from nanotorch.autograd.grad_mode import no_grad
from nanotorch.nn import functional as F
from nanotorch.nn.module import Module
from nanotorch.tensor import Tensor

Layer = TypeVar("Layer", bound=Module)


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """The weight with `dim` for its rows."""
    moved: Tensor = ops.movedim(weight, dim, 0)
    return moved.reshape(moved.shape[0], -1)


def default_dim(module: Module) -> int:
    """The dimension of a layer's outputs."""
    return int("ConvTranspose" in type(module).__name__)


def start(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Random vectors of length 1 to begin with."""
    sizes = (matrix.shape[0], matrix.shape[1])
    u, v = (F.normalize(matrix.new_empty(n).normal_(), dim=0, eps=eps) for n in sizes)
    return u, v


def iterated(
    matrix: Tensor, u: Tensor, v: Tensor, steps: int, eps: float, u_first: bool = True
) -> tuple[Tensor, Tensor]:
    """The singular vectors of the largest value after some power iterations."""
    with no_grad():
        for step in range(2 * steps):
            if (step % 2 == 0) == u_first:
                u = F.normalize(ops.mv(matrix, v), dim=0, eps=eps)
            else:
                v = F.normalize(ops.mv(matrix.T, u), dim=0, eps=eps)
    return u, v


class SpectralNorm:
    """The hook that computes the weight before each call."""

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float) -> None:
        self.name, self.n_power_iterations, self.dim, self.eps = name, n_power_iterations, dim, eps

    def compute_weight(self, module: Any, do_power_iteration: bool) -> Tensor:
        """w / σ of a module's parameter."""
        weight, u, v = (getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v"))
        matrix = as_matrix(weight, self.dim)
        if do_power_iteration:
            steps = self.n_power_iterations
            u, v = iterated(matrix.detach(), u, v, steps, self.eps, u_first=False)
            setattr(module, f"{self.name}_u", u)
            setattr(module, f"{self.name}_v", v)
        return weight / ops.dot(u, ops.mv(matrix, v))  # type: ignore[no-any-return]

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module, module.training))


def spectral_norm(
    module: Layer, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12,
    dim: int | None = None,
) -> Layer:  # fmt: skip
    """Divides a parameter by its largest singular value, as a matrix with `dim` for its rows.

    The parameter itself is `name_orig`; the buffers `name_u` and `name_v` are the singular vectors,
    which each call in training mode improves. `nn.utils.parametrizations.spectral_norm` is the
    newer form. RuntimeError where it was applied already.
    """
    hooks = {} if module._hooks is None else module._hooks.forward_pre
    if any(
        isinstance(h.function, SpectralNorm) and h.function.name == name for h in hooks.values()
    ):
        raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
    hook = SpectralNorm(name, n_power_iterations, default_dim(module) if dim is None else dim, eps)
    weight = getattr(module, name)
    vectors = start(as_matrix(weight.detach(), hook.dim), eps)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.data)
    for letter, vector in zip("uv", vectors, strict=True):
        module.register_buffer(f"{name}_{letter}", vector)
    module.register_forward_pre_hook(hook)
    return module


def remove_spectral_norm(module: Layer, name: str = "weight") -> Layer:
    """Makes the weight a parameter again. ValueError where `spectral_norm` was not applied."""
    hooks = {} if module._hooks is None else module._hooks.forward_pre
    for key, entry in hooks.items():
        hook = entry.function
        if isinstance(hook, SpectralNorm) and hook.name == name:
            with no_grad():
                value = hook.compute_weight(module, False)
            weight = getattr(module, f"{name}_orig")
            del hooks[key]
            for part in (name, f"{name}_orig", f"{name}_u", f"{name}_v"):
                delattr(module, part)
            weight.data = value
            setattr(module, name, weight)
            return module
    raise ValueError(f"spectral_norm of '{name}' not found in {module}")
