"""Parameters that are computed from others whenever they are read."""

from __future__ import annotations

from typing import Any

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.nn.containers import ModuleDict, ModuleList
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.tensor import Tensor


class ParametrizationList(ModuleList):
    """The parameter `original`, or several, `original0` …, and the modules that compute a tensor of
    it, one after the other."""

    def __init__(self, modules: list[Module], original: Any, weight: Any) -> None:
        super().__init__(modules)
        self._names = ["original"]
        if isinstance(original, Tensor):
            weight.data = original.detach()  # an optimizer may hold it
            self._register("original", weight, "parameter" if _learns(weight) else "buffer")
            return
        self._names = [f"original{place}" for place in range(len(original))]
        for name, part in zip(self._names, original, strict=True):
            self.register_parameter(name, Parameter(part.detach(), weight.requires_grad))

    def forward(self) -> Any:
        """The tensor."""
        value = self[0](*(getattr(self, name) for name in self._names))
        for module in list(self)[1:]:
            value = module(value)
        return value

    def right_inverse(self, value: Any) -> None:
        """Sets what the tensor is computed from, so that it becomes `value`."""
        with no_grad():
            for module in reversed(list(self)):
                value = _inverse(module, value)
            parts = [value] if isinstance(value, Tensor) else value
            for name, part in zip(self._names, parts, strict=True):
                getattr(self, name).data = part.detach()


def _learns(weight: Any) -> bool:
    return isinstance(weight, Parameter)


def _inverse(module: Any, value: Any) -> Any:
    """What a module computes `value` from; itself where the module does not say."""
    return module.right_inverse(value) if hasattr(module, "right_inverse") else value


def register_parametrization(
    module: Any, tensor_name: str, parametrization: Any, *, unsafe: bool = False
) -> Any:
    """Makes a parameter or buffer what `parametrization` computes from it whenever it is read.

    What it is computed from is in `module.parametrizations`: of the value at present the
    parametrization's `right_inverse`, which may give several tensors, or else the value. A further
    parametrization takes what the one before it computes. ValueError for a computed tensor of
    another shape or dtype, unless `unsafe`. Returns the module.
    """
    parametrization.train(module.training)
    if not is_parametrized(module, tensor_name):
        if module._roles.get(tensor_name) not in ("parameter", "buffer"):
            raise ValueError(f"Module {module} has no parameter or buffer named {tensor_name!r}")
        value = getattr(module, tensor_name)
        with no_grad():
            before = value.detach().clone()
            original = _inverse(parametrization, before)
            parts = [original] if isinstance(original, Tensor) else original
            _check(tensor_name, before, parametrization(*parts), unsafe)
        delattr(module, tensor_name)
        if not is_parametrized(module):
            module.parametrizations = ModuleDict()
        parts = ParametrizationList([parametrization], original, value)
        module.parametrizations[tensor_name] = parts
        _set_class(module)
        return module
    with no_grad():
        before = getattr(module, tensor_name)
        _check(tensor_name, before, parametrization(before), unsafe)
    module.parametrizations[tensor_name].append(parametrization)
    return module


def _check(name: str, before: Any, after: Any, unsafe: bool) -> None:
    if not unsafe and (before.shape, before.dtype) != (after.shape, after.dtype):
        raise ValueError(
            f"{name}: expected a parametrization that keeps {tuple(before.shape)} of "
            f"{before.dtype}, got {tuple(after.shape)} of {after.dtype}"
        )


def _set_class(module: Any) -> None:
    """Gives a module the class whose properties are its computed tensors."""
    kind = getattr(type(module), "_without_parametrizations", type(module))
    names = list(module.parametrizations)
    members: dict[str, Any] = {name: _property(name) for name in names}
    members["_without_parametrizations"] = kind
    module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), members) if names else kind


def _property(name: str) -> property:
    return property(
        lambda module: module.parametrizations[name](),
        lambda module, value: module.parametrizations[name].right_inverse(value),
    )


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Whether a parameter of the module, or the one of that name, is computed from others."""
    lists = getattr(module, "parametrizations", None)
    if not isinstance(lists, ModuleDict) or not len(lists):
        return False
    return tensor_name is None or tensor_name in lists


def remove_parametrizations(module: Any, tensor_name: str, leave_parametrized: bool = True) -> Any:
    """Makes a computed tensor a parameter again, or a buffer if it was one: with its present value,
    or, unless `leave_parametrized`, with what it is computed from."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    weight = getattr(module, tensor_name)
    original = getattr(module.parametrizations[tensor_name], "original", None)
    if original is None and not leave_parametrized:
        raise ValueError("Cannot leave unparametrized a tensor that is computed from several")
    del module.parametrizations[tensor_name]
    _set_class(module)
    if not len(module.parametrizations):
        del module.parametrizations
    if original is None:
        original = Parameter(weight.detach()) if weight.requires_grad else weight
    elif leave_parametrized:
        original.data = weight.detach()
    module._register(tensor_name, original, "parameter" if _learns(original) else "buffer")
    return module
