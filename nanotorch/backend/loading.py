"""Parts of a package that load when they are first asked for, so that an import stays short."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def on_demand(
    package: str, *modules: str, **names: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562), which know what is not loaded yet.

    modules: its modules that load when they are first asked for. names: what to take, in the same
    way, from one of its modules, such as vmap="func".
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - Python's name
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name in names:
            return getattr(importlib.import_module(f"{package}.{names[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:  # noqa: N807 - Python's name
        return sorted({*vars(sys.modules[package]), *modules, *names})

    return __getattr__, __dir__


def when_called(module: str, name: str) -> Callable[..., Any]:
    """A function that calls what a module of ours has under a name, and loads it for that."""
    return lambda *args: getattr(importlib.import_module(module), name)(*args)
