"""Whose code a run may import.

A configuration of one's own may name any class, of a model or of callbacks. One that comes with a
run folder or a model file may be somebody else's: what it names is imported only with
`--trust-code`, or if exactly this code has been trusted before. What was trusted is remembered by
SHA-256 in the user's own state folder.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanotorch.training.config.choices import OwnModule
from nanotorch.training.config.sections import Config
from nanotorch.training.errors import InputError
from nanotorch.training.files import sha256, write_all


def record() -> Path:
    """The file that lists the digests of trusted code, one a line."""
    folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(folder) / "nanotorch" / "trusted-code"


def append_working_directory() -> None:
    """Let modules be imported from the working directory, after all installed ones."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def _sources(module: str) -> Iterator[tuple[str, bytes]]:
    """The files that an import of `module` would run, packages first, read without importing
    anything, and all that they import by name and that is not installed."""
    places = _installed()
    waiting, seen = [module], set()
    while waiting:
        path: Sequence[str] | None = [*sys.path, str(Path.cwd())]
        name = ""
        for part in waiting.pop().split("."):
            name = f"{name}.{part}" if name else part
            known = path is None or name in sys.builtin_module_names
            spec = None if known else _spec(name, path)
            if spec is None:
                break
            path = spec.submodule_search_locations
            origin = Path(spec.origin or "")
            if name in seen or not origin.is_file():
                continue
            seen.add(name)
            others_code = any(origin.is_relative_to(place) for place in places)
            if others_code and not f"{module}.".startswith(f"{name}."):
                break
            content = origin.read_bytes()
            yield name, content
            if not others_code:
                package = name if path is not None else name.rpartition(".")[0]
                waiting += _imports(content, package)


def _installed() -> list[Path]:
    """The folders of modules that nobody brings along with a run."""
    standard = (Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib"))
    others = (Path(place) for place in sys.path if Path(place or ".").resolve() != Path.cwd())
    return [
        Path(__file__).parents[1],
        *standard,
        *(place for place in others if place.name in ("site-packages", "dist-packages")),
    ]


class SourceFinder:
    """Finds modules that are not installed by their sources: what lies compiled beside a source
    need not be that source, which alone was read and trusted."""

    def __init__(self) -> None:
        self.places = _installed()

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        spec = _spec(name, path)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        origin = str(spec.origin)
        if any(Path(origin).is_relative_to(place) for place in self.places):
            return None
        spec.loader = SourceLoader(name, origin)
        return spec


class SourceLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def _spec(name: str, path: Sequence[str] | None) -> Any:
    with contextlib.suppress(ImportError, ValueError):
        return importlib.machinery.PathFinder.find_spec(name, path)


def _imports(content: bytes, package: str) -> Iterator[str]:
    """The modules that a source of Python imports by name; none of what is no such source."""
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: package.count(".") + 2 - node.level]
                base = ".".join(filter(None, [*(above if node.level else []), node.module]))
                yield from (f"{base}.{alias.name}" for alias in node.names)


def digest(module: str) -> str:
    """SHA-256 of what `package.module:Class` names and of the code that its import would run."""
    parts = [module]
    with contextlib.suppress(OSError):
        for name, content in _sources(module.partition(":")[0]):
            parts.append(f"{name} {sha256(content)}")
    return sha256("\n".join(parts).encode())


def _remembered() -> set[str]:
    try:
        return set(record().read_text(encoding="ascii", errors="replace").split())
    except OSError:
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
            handle = os.open(record(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:  # in one piece, after the end of a line that a crash may have torn
                write_all(handle, "".join(["\n", *(f"{mark}\n" for mark in marks)]).encode())
            finally:
                os.close(handle)


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
    finder = SourceFinder()
    sys.meta_path.insert(0, finder)
    try:
        kind = getattr(importlib.import_module(where), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{key}: {text!r}: {error}") from None
    except Exception as error:
        raise InputError(
            f"{key}: {where} fails on import: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.meta_path.remove(finder)
    if not inspect.isclass(kind):
        raise InputError(f"{key}: {text!r} is not a class")
    return kind
