"""Parts of a package that load when they are first asked for, so that an import stays short."""

from __future__ import annotations

import ast
import functools
import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(
    package: str, functions: Mapping[str, Callable[..., Any]] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562): what it imports under `if TYPE_CHECKING:`
    loads when it is first asked for, and so do `functions`. A function stays in its place when a
    module of its name is imported beside it, which Python would put there."""
    functions = functions or {}

    @functools.cache
    def sources() -> dict[str, tuple[str, str]]:
        """For each name the module to take it from, and its name there."""
        spec: Any = sys.modules[package].__spec__
        return {
            alias.asname or alias.name: (statement.module or "", alias.name)
            for block in ast.parse(spec.loader.get_source(package)).body
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for statement in block.body
            if isinstance(statement, ast.ImportFrom)
            for alias in statement.names
        }

    def __getattr__(name: str) -> Any:  # noqa: N807 - Python's name
        if name == "__all__":  # which `from package import *` asks for
            return [public for public in __dir__() if not public.startswith("_")]
        if name in functions:
            value = functions[name]
        elif name.startswith("__") or name not in sources():
            outside = importlib.import_module("nanotorch.outside")
            raise AttributeError(outside.answer(f"{package}.{name}"))
        else:
            module, there = sources()[name]
            if module == package:
                return importlib.import_module(f"{package}.{there}")
            value = getattr(importlib.import_module(module), there)
        setattr(sys.modules[package], name, value)  # the next time it is there
        return value

    def __dir__() -> list[str]:  # noqa: N807 - Python's name
        return sorted({*vars(sys.modules[package]), *functions, *sources()})

    class Package(types.ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if isinstance(value, types.ModuleType) and name in vars(value):
                if sources().get(name, (package,))[0] == f"{package}.{name}":
                    return
            super().__setattr__(name, value)

    sys.modules[package].__class__ = Package
    return __getattr__, __dir__


def when_called(module: str, name: str) -> Callable[..., Any]:
    """A function that calls what a module has under a name, and loads the module for that."""
    function: Callable[..., Any] | None = None

    def call(*args: Any, **options: Any) -> Any:
        nonlocal function
        if function is None:
            function = getattr(importlib.import_module(module), name)
        return function(*args, **options)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"See `{module}.{name}`."
    call.place = module, name  # type: ignore[attr-defined]
    return call


def loaded(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a function made by `when_called` calls; any other function itself."""
    place = getattr(function, "place", None)
    return function if place is None else getattr(importlib.import_module(place[0]), place[1])
