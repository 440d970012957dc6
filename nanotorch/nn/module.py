"""Module: what has parameters, buffers and submodules, and a `forward`.

Parameters, buffers and submodules are ordinary attributes. What makes them known is `_roles`, which
notes in order of definition which attribute is a "parameter", a "buffer" or a "module"; there is no
`__getattr__`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from nanotorch.autograd.grad_mode import live, modes
from nanotorch.backend import device as Device, dtype as Dtype, dtypes
from nanotorch.nn.module_hooks import ModuleHooks
from nanotorch.nn.parameter import Buffer, Parameter
from nanotorch.nn.printing import indented, module_html, printed
from nanotorch.nn.state_dict import IncompatibleKeys, Parts, load, load_part, save
from nanotorch.node import RemovableHandle
from nanotorch.tensor import Tensor


class Module:
    """A part of a model: subclass it, call `super().__init__()`, assign parts, define `forward`.

    `training` says whether the module is in training mode (Dropout and BatchNorm ask).
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html
    """

    training: bool
    _roles: dict[str, str]
    _not_saved: set[str]  # buffers that are not persistent
    _hooks: ModuleHooks | None = None  # without hooks, a call spends nothing on them

    def __init__(self) -> None:
        self.__dict__.update(training=True, _roles={}, _not_saved=set())

    # --- attributes and their roles --------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        role = self.__dict__.get("_roles", {}).get(name)
        if isinstance(value, Parameter):
            self._register(name, value, "parameter")
        elif isinstance(value, Module) and role != "parameter":
            self._register(name, value, "module")
        elif isinstance(value, Buffer) and role in (None, "buffer"):
            self.register_buffer(name, value, value.persistent)
        else:
            if role and value is not None and not (role == "buffer" and isinstance(value, Tensor)):
                raise _mismatch(name, value, role)
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._roles.pop(name, None)
        self._not_saved.discard(name)

    def _register(self, name: str, value: Any, role: str) -> None:
        if "_roles" not in self.__dict__:
            raise AttributeError(f"cannot assign {role} before Module.__init__() call")
        if self._roles.get(name) != role:
            self._roles.pop(name, None)  # a new role is a new place in the order
            self._not_saved.discard(name)
            self._roles[name] = role
        object.__setattr__(self, name, value)

    def _register_new(self, name: str, value: Any, role: str) -> None:
        """The same for a name that must not belong to anything else."""
        if not isinstance(name, str):
            raise TypeError(f"{role} name should be a string, got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{role} name can\'t contain ".", got {name!r}')
        if name == "":
            raise KeyError(f'{role} name can\'t be empty string ""')
        if hasattr(self, name) and self.__dict__.get("_roles", {}).get(name) != role:
            raise KeyError(f"attribute '{name}' already exists")
        if value is not None and not isinstance(value, KINDS[role]):
            raise _mismatch(name, value, role)
        self._register(name, value, role)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter; None keeps the name for one that is absent, such as a Linear's bias."""
        if isinstance(param, Parameter) and param.grad_fn is not None:
            raise ValueError(
                f"cannot assign non-leaf Tensor to parameter '{name}'; compute it in forward"
            )
        self._register_new(name, param, "parameter")

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adds a tensor that is part of the state but not trained; saved where `persistent`."""
        self._register_new(name, tensor, "buffer")
        (self._not_saved.discard if persistent else self._not_saved.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a submodule, available as the attribute `name`."""
        self._register_new(name, module, "module")

    register_module = add_module

    def _parts(self, role: str) -> dict[str, Any]:
        return Parts(self, role)

    @property
    def _parameters(self) -> dict[str, Parameter | None]:
        return self._parts("parameter")

    @property
    def _buffers(self) -> dict[str, Tensor | None]:
        return self._parts("buffer")

    @property
    def _modules(self) -> dict[str, Module | None]:
        return self._parts("module")

    # --- calling ---------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        modes.listener.called(self)
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return self._hooks.call(self, args, kwargs)

    # --- walks over the parts --------------------------------------------------------------------

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(name, module) for this module (named "") and all below it, in order, each once."""
        seen: set[Module] = set() if memo is None else memo
        if self in seen:
            return
        if remove_duplicate:
            seen.add(self)
        yield prefix, self
        for name, role in self._roles.items():
            child = self.__dict__[name]
            if role == "module" and child is not None:
                path = f"{prefix}.{name}" if prefix else name
                yield from child.named_modules(seen, path, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for the direct submodules, each once."""
        seen: set[Module] = set()
        for name, role in self._roles.items():
            child = self.__dict__[name]
            if role == "module" and child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        return (child for _, child in self.named_children())

    def _named(
        self, role: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        everything = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
        seen: set[int] = set()
        for path, module in everything if recurse else [(prefix, self)]:
            for name, kind in module._roles.items():
                value = module.__dict__[name]
                if kind == role and value is not None and id(value) not in seen:
                    if remove_duplicate:
                        seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter), each once, a module's before its submodules': ("0.weight", …)."""
        return self._named("parameter", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters in the order of `named_parameters`."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(name, buffer), each once, a module's before its submodules'."""
        return self._named("buffer", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers in the order of `named_buffers`."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def _attribute(self, name: str) -> Any:
        if not hasattr(self, name):
            raise AttributeError(f"{type(self).__name__} has no attribute `{name}`")
        return getattr(self, name)

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; "" is this one. AttributeError where there is none."""
        module = self
        for name in target.split(".") if target else []:
            module = module._attribute(name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def _get(self, target: str, role: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        value = module._attribute(name)
        if module._roles.get(name) != role or (value is None and role == "parameter"):
            raise AttributeError(f"`{name}` is not a {role}")
        return value

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path; AttributeError where there is none."""
        return self._get(target, "parameter")  # type: ignore[no-any-return]

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path; AttributeError where there is none."""
        return self._get(target, "buffer")  # type: ignore[no-any-return]

    # --- modes, gradients, and changes to all parts ----------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Sets training mode for this module and all below it."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {mode!r}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Sets evaluation mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Says for all parameters whether they are trained; frozen ones cost no gradient."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    @live
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of all parameters, or fills them with zeros."""
        for parameter in self.parameters():
            gradient = parameter.grad
            if gradient is None or set_to_none:
                parameter.grad = None
            else:
                (gradient.detach_() if gradient.grad_fn else gradient.requires_grad_(False)).zero_()

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Calls `fn` on every module, this one last; used to initialize parameters."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Replaces the data of every parameter (and its gradient) and every buffer by fn of it."""
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    object.__setattr__(module, name, fn(buffer))
        for parameter in self.parameters():
            gradient = parameter.grad
            parameter.grad = None
            parameter.data = fn(parameter.data)
            if gradient is not None:
                parameter.grad = fn(gradient.detach()).requires_grad_(gradient.requires_grad)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves all parameters and buffers: to(device), to(dtype), to(device, dtype), to(tensor).

        The dtype (floating) applies to floating parameters and buffers alone. Works in place and
        returns the module.
        """
        args = tuple(x for x in args if not isinstance(x, bool))  # non_blocking and copy
        dtype = Tensor().to(*args, **kwargs).dtype
        if not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got {dtype}"
            )

        def moved(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point() or tensor.is_complex():
                return tensor.to(*args, **kwargs)
            return tensor.to(tensor.new_empty(0).to(*args, **kwargs).device)

        return self._apply(moved)

    def cpu(self) -> Self:
        """Moves all parameters and buffers to the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | Device | str | None = None) -> Self:
        """Moves all parameters and buffers to a CUDA device."""
        return self.to("cuda" if device is None else device)

    def type(self, dst_type: Dtype) -> Self:
        """Casts all parameters and buffers to the dtype."""
        return self._apply(lambda tensor: tensor.to(dtype=dst_type))

    def float(self) -> Self:
        """Casts floating parameters and buffers to float32."""
        return self.to(dtypes.float32)

    def double(self) -> Self:
        """Casts floating parameters and buffers to float64."""
        return self.to(dtypes.float64)

    def half(self) -> Self:
        """Casts floating parameters and buffers to float16."""
        return self.to(dtypes.float16)

    def bfloat16(self) -> Self:
        """Casts floating parameters and buffers to bfloat16."""
        return self.to(dtypes.bfloat16)

    # --- saving and copying ----------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:  # of a shallow copy too, whose names are its own
        return {**vars(self), "_roles": {**self._roles}, "_not_saved": {*self._not_saved}}

    def get_extra_state(self) -> Any:
        """What a subclass saves beside parameters and buffers; define it with `set_extra_state`."""
        raise RuntimeError(f"{type(self).__name__} defines no get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """Takes back what `get_extra_state` returned."""
        raise RuntimeError(f"{type(self).__name__} defines no set_extra_state")

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """{name: tensor} of parameters and persistent buffers, detached unless `keep_vars`.

        The tensors share memory with the module.
        """
        return save(self, OrderedDict() if destination is None else destination, prefix, keep_vars)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copies tensors into the parameters and buffers of the same names (`assign`: takes them).

        Returns (missing_keys, unexpected_keys). Raises RuntimeError that names every missing and
        unexpected key (where `strict`) and every tensor of another shape; nothing is hidden by the
        first.
        """
        return load(self, state_dict, strict, assign)

    _load_from_state_dict = load_part  # which a subclass may replace, as in PyTorch

    # --- hooks -----------------------------------------------------------------------------------

    def _hook(self, kind: str, hook: Callable[..., Any], **options: bool) -> RemovableHandle:
        if self._hooks is None:
            self._hooks = ModuleHooks()
        return self._hooks.register(kind, hook, **options)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, args)` before forward; what it returns replaces the arguments.

        `with_kwargs`: `hook(module, args, kwargs)`, which may return (args, kwargs).
        """
        return self._hook("forward_pre", hook, prepend=prepend, with_kwargs=with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:  # fmt: skip
        """Calls `hook(module, args, output)` after forward; what it returns replaces the output.

        `with_kwargs`: `hook(module, args, kwargs, output)`. `always_call`: also where forward
        raises.
        """
        options = {"prepend": prepend, "with_kwargs": with_kwargs, "always_call": always_call}
        return self._hook("forward", hook, **options)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, grad_output)` in backward; what it returns replaces grad_output."""
        return self._hook("backward_pre", hook, prepend=prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Calls `hook(module, grad_input, grad_output)` when the gradients of the inputs are known.

        Both are tuples, with None for what needs no gradient; what it returns replaces grad_input.
        """
        return self._hook("backward", hook, prepend=prepend)

    # --- printing --------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands between the parentheses of the printed module, for subclasses to define."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        children = [f"({name}): {indented(repr(m))}" for name, m in self._modules.items()]
        return printed(self._get_name(), extra.split("\n") if extra else [], children)

    _repr_html_ = module_html

    def __dir__(self) -> list[str]:
        return sorted(name for name in set(object.__dir__(self)) if not name[:1].isdigit())


KINDS: dict[str, type] = {"parameter": Parameter, "module": Module, "buffer": Tensor}


def _mismatch(name: str, value: Any, role: str) -> TypeError:
    hint = "; write to it within no_grad(), or wrap it in nn.Parameter"
    return TypeError(
        f"cannot assign '{type(value).__name__}' object to {role} '{name}' "
        f"(nn.{KINDS[role].__name__} or None expected){hint if role == 'parameter' else ''}"
    )
