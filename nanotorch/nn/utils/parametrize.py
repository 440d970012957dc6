"""Parameters that are computed from others whenever they are read."""

from __future__ import annotations

from typing import Any

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.nn.containers import ModuleDict, ModuleList
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter


class ParametrizationList(ModuleList):
    """The parameters `original0`, `original1`, … and the module that computes a tensor of them."""

    def __init__(self, module: Module, originals: Any, requires_grad: bool) -> None:
        super().__init__([module])
        self._count = len(originals)
        for place, original in enumerate(originals):
            self.register_parameter(f"original{place}", Parameter(original.detach(), requires_grad))

    def forward(self) -> Any:
        """The tensor."""
        return self[0](*(getattr(self, f"original{place}") for place in range(self._count)))


def computed_by(module: Any, name: str, parametrization: Any) -> None:
    """Replaces a parameter by a property, computed from what `right_inverse` makes of it."""
    if is_parametrized(module, name):
        raise RuntimeError(f"the parameter {name!r} is computed from others already")
    if module._roles.get(name) not in ("parameter", "buffer"):
        raise ValueError(f"Module {module} has no parameter or buffer named {name!r}")
    value = getattr(module, name)
    with no_grad():
        originals = parametrization.right_inverse(value)
    delattr(module, name)
    parametrization.train(module.training)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    module.parametrizations[name] = ParametrizationList(
        parametrization, originals, value.requires_grad
    )
    _set_class(module)


def _set_class(module: Any) -> None:
    """Gives a module the class whose properties are its computed tensors."""
    kind = getattr(type(module), "_without_parametrizations", type(module))
    names = list(module.parametrizations)
    members: dict[str, Any] = {name: _property(name) for name in names}
    members["_without_parametrizations"] = kind
    module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), members) if names else kind


def _property(name: str) -> property:
    return property(lambda module: module.parametrizations[name]())


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Whether a parameter of the module, or the one of that name, is computed from others."""
    lists = getattr(module, "parametrizations", None)
    if not isinstance(lists, ModuleDict) or not len(lists):
        return False
    return tensor_name is None or tensor_name in lists


def remove_parametrizations(module: Any, tensor_name: str, leave_parametrized: bool = True) -> Any:
    """Makes a computed tensor a parameter again, with its present value; a buffer if frozen."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    if not leave_parametrized:
        raise ValueError("Cannot leave unparametrized a tensor that is computed from several")
    weight = getattr(module, tensor_name)
    del module.parametrizations[tensor_name]
    _set_class(module)
    if not len(module.parametrizations):
        del module.parametrizations
    if weight.requires_grad:
        setattr(module, tensor_name, Parameter(weight.detach()))
    else:
        module.register_buffer(tensor_name, weight)
    return module
