"""Whose code a run may import.

A configuration of one's own may name any module. One that comes with a run folder or a model file
may be somebody else's: its module is imported only with `--trust-code`, or if exactly this code has
been trusted before. What was trusted is remembered by SHA-256 in the user's own state folder.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanotorch.training.config.choices import OwnModule
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


def trust(model: Any) -> None:
    """Remember the code that a model names as trusted; a home that is read-only forgets it."""
    if isinstance(model, OwnModule) and (mark := digest(model.module)) not in _remembered():
        with contextlib.suppress(OSError):
            record().parent.mkdir(parents=True, exist_ok=True)
            with record().open("a", encoding="ascii") as file:
                file.write(f"{mark}\n")


def require_trust(model: Any, origin: Path, trusted: bool) -> None:
    """InputError if `model`, read from `origin`, names code that nobody has trusted."""
    if not isinstance(model, OwnModule):
        return
    if trusted:
        trust(model)
    elif digest(model.module) not in _remembered():
        raise InputError(
            f"{origin}: would run code of {model.module!r}: read it, and say --trust-code once if "
            f"you trust whom the file is from"
        )
