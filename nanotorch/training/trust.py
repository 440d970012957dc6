"""Whose code a run may import.

A configuration of one's own may name any class, of a model or of callbacks. One that comes with a
run folder or a model file may be somebody else's: what it names is imported only with
`--trust-code`, or if exactly this code has been trusted before. What was trusted is remembered by
SHA-256 in the user's own state folder.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanotorch.training.config.choices import OwnModule
from nanotorch.training.config.sections import Config
from nanotorch.training.errors import InputError
from nanotorch.training.files import sha256


def record() -> Path:
    """The file that lists the digests of trusted code, one a line."""
    folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(folder) / "nanotorch" / "trusted-code"


def append_working_directory() -> None:
    """Let modules be imported from the working directory, after all installed ones."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def _sources(module: str) -> Iterator[bytes]:
    """The files that an import of `module` would run, from its outermost package inwards, read
    without importing anything."""
    append_working_directory()
    path: Sequence[str] | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            return
        if spec.origin is not None and Path(spec.origin).is_file():
            yield Path(spec.origin).read_bytes()
        path = spec.submodule_search_locations


def digest(module: str) -> str:
    """SHA-256 of what `package.module:Class` names and of the code that its import would run."""
    with contextlib.suppress(OSError, ValueError, ImportError):
        parts = [sha256(content) for content in _sources(module.partition(":")[0])]
        return sha256("\n".join([module, *parts]).encode())
    return sha256(module.encode())


def _remembered() -> set[str]:
    try:
        return set(record().read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return set()


def code_of(model: Any) -> list[str]:
    """The class that a `[model]` names, if it is somebody's own."""
    return [model.module] if isinstance(model, OwnModule) else []


def code_named(config: Config) -> list[str]:
    """All classes that a configuration names, as "package.module:Class"."""
    return [*code_of(config.model), *config.output.callbacks]


def trust(names: Sequence[str]) -> None:
    """Remember the code of these classes as trusted; a home that is read-only forgets it."""
    known = _remembered()
    marks = [mark for name in names if (mark := digest(name)) not in known]
    if marks:
        with contextlib.suppress(OSError):
            record().parent.mkdir(parents=True, exist_ok=True)
            with record().open("a", encoding="ascii") as file:
                file.writelines(f"{mark}\n" for mark in marks)


def require_trust(names: Sequence[str], origin: Path, trusted: bool) -> None:
    """InputError if these names, read from `origin`, are of code that nobody has trusted."""
    if trusted:
        trust(names)
        return
    known = _remembered()
    for name in names:
        if digest(name) not in known:
            raise InputError(
                f"{origin}: would run code of {name!r}: read it, and say --trust-code once if "
                f"you trust whom the file is from"
            )


def imported(key: str, text: str) -> type[Any]:
    """The class that "package.module:Class" names, found from the working directory as well."""
    where, colon, name = text.partition(":")
    if not (colon and where and name):
        raise InputError(f'{key}: expected "package.module:Class", given {text!r}')
    append_working_directory()
    try:
        kind = getattr(importlib.import_module(where), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{key}: {text!r}: {error}") from None
    except Exception as error:
        raise InputError(
            f"{key}: {where} fails on import: {type(error).__name__}: {error}"
        ) from error
    if not inspect.isclass(kind):
        raise InputError(f"{key}: {text!r} is not a class")
    return kind
