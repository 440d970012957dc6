"""Modules that hold other modules, or parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import index as as_index
from typing import Any, Self, overload

from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.nn.printing import indented, printed
from nanotorch.tensor import Tensor


class _Numbered(Module):
    """A container whose modules are named "0", "1", … or, in a Sequential, as the user likes."""

    def _list(self) -> list[Module]:
        return list(self._modules.values())  # type: ignore[arg-type]

    def _name_at(self, position: int) -> str:
        names = list(self._modules)
        position = as_index(position)
        if not -len(names) <= position < len(names):
            raise IndexError(f"index {position} is out of range")
        return names[position]

    def _refill(self, modules: Iterable[Module]) -> None:
        """Replaces all modules by these, numbered from 0."""
        for name in list(self._modules):
            delattr(self, name)
        for number, module in enumerate(modules):
            self.add_module(str(number), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list())

    def __setitem__(self, position: int, module: Module) -> None:
        setattr(self, self._name_at(position), module)

    def __delitem__(self, position: int | slice) -> None:
        names = list(self._modules)
        removals = names[position] if isinstance(position, slice) else [self._name_at(position)]
        rest = [m for name, m in self._modules.items() if name not in removals]
        self._refill(rest)  # type: ignore[arg-type]

    def append(self, module: Module) -> Self:
        """Adds a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Puts a module before position `index`."""
        modules = self._list()
        if not -len(modules) <= index <= len(modules):
            raise IndexError(f"Index out of range: {index}")
        modules.insert(index, module)
        self._refill(modules)
        return self

    def pop(self, key: int | slice) -> Any:
        """Takes a module out and returns it."""
        module = self[key]  # type: ignore[index]
        del self[key]
        return module


class Sequential(_Numbered):
    """Calls its modules one after another: y = last(…(first(x))).

    Takes modules, which are named "0", "1", …, or one OrderedDict of names and modules.
    """

    def __init__(self, *args: Module | OrderedDict[str, Module]) -> None:
        super().__init__()
        pairs: Iterable[tuple[Any, Any]] = enumerate(args)
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            pairs = args[0].items()
        for name, module in pairs:
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Tensor:
        """Shapes: whatever the first module takes, to whatever the last returns."""
        values = self.__dict__
        for name, role in self._roles.items():
            if role == "module":
                input = values[name](input)
        return input  # type: ignore[no-any-return]

    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return type(self)(OrderedDict(list(self._modules.items())[position]))  # type: ignore[arg-type]
        return getattr(self, self._name_at(position))

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(
                f"Sequential: expected a Sequential to add, got {type(other).__name__}"
            )
        return Sequential(*self, *other)

    def __iadd__(self, other: Sequential) -> Self:
        return self.extend(other)

    def __mul__(self, count: int) -> Sequential:
        if not isinstance(count, int) or count <= 0:
            raise ValueError(f"expected a positive number of repetitions, got {count!r}")
        return Sequential(*(module for _ in range(count) for module in self))


class ModuleList(_Numbered):
    """A list of modules, registered as "0", "1", …; it has no forward."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return type(self)(self._list()[position])
        return getattr(self, self._name_at(position))

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(chain(self, other))

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __repr__(self) -> str:
        """Neighbours that print alike are printed once: (0-2): 3 x Linear(…)."""
        runs: list[tuple[int, int, str]] = []
        for number, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], number, text)
            else:
                runs.append((number, number, text))
        lines = [
            f"({first}): {indented(text)}"
            if first == last
            else f"({first}-{last}): {last - first + 1} x {indented(text)}"
            for first, last, text in runs
        ]
        return printed(self._get_name(), [], lines)


class ModuleDict(Module):
    """A dictionary of modules, registered under their keys; it has no forward."""

    def __init__(
        self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None
    ) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        if key not in self._modules:
            raise KeyError(key)
        return getattr(self, key)  # type: ignore[no-any-return]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> Iterable[Any]:
        """The modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, module) pairs."""
        return self._modules.items()

    def pop(self, key: str) -> Module:
        """Takes a module out and returns it."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Takes all modules out."""
        for key in list(self._modules):
            delattr(self, key)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds or replaces modules by name."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                "ModuleDict.update should be called with an iterable of key/value pairs, "
                f"but got {type(modules).__name__}"
            )
        pairs = modules.items() if isinstance(modules, Mapping | ModuleDict) else modules
        for key, module in pairs:
            self[key] = module


class ParameterList(Module):
    """A list of parameters, registered as "0", "1", …; plain tensors become parameters."""

    _size: int

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "_size", 0)
        if values is not None:
            self.extend(values)

    def _name_at(self, position: int) -> str:
        position = as_index(position)
        if not -self._size <= position < self._size:
            raise IndexError(f"index {position} is out of range")
        return str(position % self._size)

    @overload
    def __getitem__(self, position: int) -> Any: ...

    @overload
    def __getitem__(self, position: slice) -> ParameterList: ...

    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return type(self)(list(self)[position])
        return getattr(self, self._name_at(position))

    def __setitem__(self, position: int, value: Any) -> None:
        self._set(self._name_at(position), value)

    def _set(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            value = Parameter(value)
        setattr(self, name, value)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, str(number)) for number in range(self._size)])

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def append(self, value: Any) -> Self:
        """Adds a value at the end; a tensor becomes a parameter."""
        self._set(str(self._size), value)
        object.__setattr__(self, "_size", self._size + 1)
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Adds values at the end."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(
                f"ParameterList.extend: expected an iterable, got {type(values).__name__}"
            )
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        lines = []
        for number, value in enumerate(self):
            if isinstance(value, Tensor):
                kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
                size = "x".join(str(n) for n in value.shape)
                place = "" if value.device.type == "cpu" else f" ({value.device})"
                lines.append(
                    f"  ({number}): {kind} containing: [{value.dtype} of size {size}{place}]"
                )
            else:
                lines.append(f"  ({number}): Object of type: {type(value).__name__}")
        return "\n".join(lines)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterList should not be called.")


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise TypeError(f"ParameterDict: expected a str as the key, got {type(key).__name__}")


class ParameterDict(Module):
    """A dictionary of parameters, which are registered under their keys; plain tensors become
    parameters, and what is no tensor stays as it is."""

    _names: dict[str, None]  # the keys, in their order

    def __init__(
        self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None
    ) -> None:
        super().__init__()
        object.__setattr__(self, "_names", {})
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        _check_key(key)
        if key not in self._names:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        _check_key(key)
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            value = Parameter(value)
        if key in self._names or not isinstance(value, Parameter):
            if key not in self._names and hasattr(self, key):
                raise KeyError(f"attribute {key!r} already exists")
            setattr(self, key, value)
        else:
            self.register_parameter(key, value)
        self._names[key] = None

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._names)

    def __contains__(self, key: str) -> bool:
        return key in self._names

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._names.keys()

    def values(self) -> Iterable[Any]:
        """The parameters."""
        return [self[key] for key in self]

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, parameter) pairs."""
        return [(key, self[key]) for key in self]

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter of that name, or the default."""
        return self[key] if key in self._names else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The parameter of that name, which the default becomes if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Takes a parameter out and returns it."""
        value = self[key]
        delattr(self, key)
        del self._names[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Takes the latest parameter out and returns (name, parameter)."""
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        """Takes all parameters out."""
        for key in list(self):
            del self[key]

    def copy(self) -> ParameterDict:
        """Another dictionary of the same parameters."""
        return ParameterDict(self.items())

    def extra_repr(self) -> str:
        """One parameter a line, with its type and its size."""
        lines = []
        for name, p in self.items():
            if not isinstance(p, Tensor):
                lines.append(f"  ({name}): Object of type: {type(p).__name__}")
                continue
            size = "x".join(map(str, p.shape))
            place = f" ({p.device})" if p.is_cuda else ""
            kind = f"{'torch.cuda' if p.is_cuda else 'torch'}.{p.dtype.title}Tensor"
            lines.append(f"  ({name}): Parameter containing: [{kind} of size {size}{place}]")
        return "\n".join(lines)

    def update(self, parameters: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Adds or replaces parameters by name."""
        mapping = isinstance(parameters, Mapping | ParameterDict)
        for key, value in list(parameters.items() if mapping else parameters):  # type: ignore[union-attr]
            self[key] = value
