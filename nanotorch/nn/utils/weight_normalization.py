"""Weights as length times direction (Salimans and Kingma, 2016), computed before each call."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from nanotorch import ops
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.ops.shapes import dimension
from nanotorch.tensor import Tensor

Layer = TypeVar("Layer", bound=Module)


def lengths(v: Tensor, dim: int) -> Tensor:
    """‖v‖ over all dimensions but `dim`, which -1 stands for none of."""
    if dim == -1:
        return ops.norm(v)  # type: ignore[no-any-return]
    direction = dimension(dim, v.ndim)
    others = tuple(n for n in range(v.ndim) if n != direction)
    return ops.norm(v, 2, others, keepdim=True) if others else ops.abs(v)  # type: ignore[no-any-return]


def weight_of(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """w = g v / ‖v‖"""
    return v * (g / lengths(v, dim))


class WeightNorm:
    """The hook that computes the weight before each call."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, -1 if dim is None else dim

    def compute_weight(self, module: Module) -> Tensor:
        """w = g v / ‖v‖ of a module's parameters."""
        g, v = (getattr(module, f"{self.name}_{letter}") for letter in "gv")
        return weight_of(v, g, self.dim)

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))


def weight_norm(module: Layer, name: str = "weight", dim: int | None = 0) -> Layer:
    """Replaces a parameter by its length `name_g` and its direction `name_v`: w = g v / ‖v‖.

    One length for each index of `dim`, or one for all where None. FutureWarning, as in PyTorch:
    `nn.utils.parametrizations.weight_norm` is its newer form. RuntimeError where it was applied.
    """
    warnings.warn(
        "`nanotorch.nn.utils.weight_norm` is deprecated in favor of "
        "`nanotorch.nn.utils.parametrizations.weight_norm`.",
        FutureWarning,
        stacklevel=2,
    )
    if _hook_of(module, name) is not None:
        raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
    if not isinstance(getattr(module, name), Tensor):
        raise TypeError(f"weight_norm: {module} has no parameter {name!r}")
    hook, weight = WeightNorm(name, dim), getattr(module, name).detach()
    delattr(module, name)
    module.register_parameter(f"{name}_g", Parameter(lengths(weight, hook.dim)))
    module.register_parameter(f"{name}_v", Parameter(weight))
    setattr(module, name, hook.compute_weight(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: Layer, name: str = "weight") -> Layer:
    """Makes the weight a parameter again. ValueError where `weight_norm` was not applied."""
    key = _hook_of(module, name)
    if key is None or module._hooks is None:
        raise ValueError(f"weight_norm of '{name}' not found in {module}")
    hook: Any = module._hooks.forward_pre.pop(key).function
    weight = hook.compute_weight(module).detach()
    for part in (name, f"{name}_g", f"{name}_v"):
        delattr(module, part)
    setattr(module, name, Parameter(weight))
    return module


def _hook_of(module: Module, name: str) -> int | None:
    """The key of the module's hook for that parameter."""
    hooks = {} if module._hooks is None else module._hooks.forward_pre
    for key, hook in hooks.items():
        if isinstance(hook.function, WeightNorm) and hook.function.name == name:
            return key
    return None
