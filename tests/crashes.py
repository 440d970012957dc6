"""A disk that remembers what was written, synced and renamed, and what a power loss could leave.

Names and contents are two things: a file's bytes are durable after `fsync` of the file, its name
after `fsync` of its folder. What is not synced may be on the disk, or half of it, or none.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nanotorch.training import run_state


@dataclass
class File:
    """The bytes of a file as a program sees them, and as the disk has them for sure."""

    now: bytes = b""
    durable: bytes = b""


def _zeroed(file: File, count: int) -> bytes:
    """The bytes with zeros in the place of the last ones that are not synced."""
    good = max(len(file.durable), len(file.now) - count)
    return file.now[:good].ljust(len(file.now), b"\0")


Names = dict[str, File | None]  # a path, and its file, or None for a folder
# What a crash keeps of the names that are not synced, and of the bytes.
POLICIES: dict[str, tuple[str, Callable[[File], bytes]]] = {
    "everything": ("all", lambda file: file.now),
    "only what is synced": ("none", lambda file: file.durable),
    "names before bytes": ("all", lambda file: file.durable),
    "half of the bytes": ("all", lambda file: file.now[: (len(file.durable) + len(file.now)) // 2]),
    "lengths before bytes": ("all", lambda file: _zeroed(file, 20)),
    "removals first": ("removals", lambda file: file.durable),
}


class Disk:
    """Records the calls of `os` on paths under a folder; syncs that match `dropped` do nothing."""

    def __init__(self, folder: Path, dropped: str | None = None) -> None:
        self.folder, self.dropped = folder, dropped
        self.operations: list[tuple[str, Any]] = []
        self.handles: dict[int, str] = {}
        self.start: Names = {
            str(path.relative_to(folder.parent)): None if path.is_dir() else _durable(path)
            for path in folder.rglob("*")
        }
        self.known = set(self.start)  # what is on the disk, or was made by calls recorded here

    # --- recording

    def name(self, path: Any, within: int | None = None) -> str | None:
        """The path below the folder's parent; None for a path elsewhere."""
        if within is not None:
            return f"{self.handles[within]}/{path}" if within in self.handles else None
        whole = os.path.abspath(os.fspath(path))
        parent = str(self.folder.parent)
        inside = whole == str(self.folder) or whole.startswith(f"{self.folder}/")
        return whole[len(parent) + 1 :] if inside else None

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        ordinary = {
            name: getattr(os, name)
            for name in (
                *("open", "close", "write", "fsync", "ftruncate"),
                *("rename", "replace", "mkdir", "unlink", "rmdir"),
            )
        }

        def look_at(name: str) -> None:
            """Record as made just now what was written by other means than these calls."""
            path = self.folder.parent / name
            if not path.is_file():
                return
            writes = (d for o, d in self.operations if o == "write" and d[0] == name)
            content = path.read_bytes()
            if name not in self.known:
                self.known.add(name)
                self.operations += [("create", name), ("write", (name, content))]
            elif path.name.startswith(".") and content != b"".join(part for _, part in writes):
                self.operations += [("truncate", (name, 0)), ("write", (name, content))]

        def open_(path: Any, flags: int, *rest: Any, dir_fd: int | None = None) -> int:
            name = self.name(path, dir_fd)
            new = name is not None and flags & os.O_CREAT and not os.path.exists(path)
            handle: int = ordinary["open"](path, flags, *rest, dir_fd=dir_fd)
            if name is not None:
                self.handles[handle] = name
                if new:
                    self.known.add(name)
                    self.operations.append(("create", name))
                elif flags & os.O_TRUNC:
                    self.operations.append(("truncate", (name, 0)))
            return handle

        def close(handle: int) -> None:
            self.handles.pop(handle, None)
            ordinary["close"](handle)

        def write(handle: int, data: Any) -> int:
            count: int = ordinary["write"](handle, data)
            if handle in self.handles:
                self.operations.append(("write", (self.handles[handle], bytes(data)[:count])))
            return count

        def fsync(handle: int) -> None:
            name = self.handles.get(handle)
            if name is None and os.path.exists(f"/proc/self/fd/{handle}"):  # a file of Python's
                name = self.name(os.readlink(f"/proc/self/fd/{handle}"))
            if name is not None:
                look_at(name)
                path = name.rpartition("/")[2] if "/." not in name else name[name.index("/.") + 1 :]
                if self.dropped is None or not re.fullmatch(self.dropped, path):
                    self.operations.append(("sync", name))

        def truncate(handle: int, size: int) -> None:
            ordinary["ftruncate"](handle, size)
            if handle in self.handles:
                self.operations.append(("truncate", (self.handles[handle], size)))

        def moving(kind: str) -> Callable[..., None]:
            def move(source: Any, target: Any, **options: Any) -> None:
                if (name := self.name(source)) is not None:
                    look_at(name)
                ordinary[kind](source, target, **options)
                if name is not None:
                    self.known.add(str(self.name(target)))
                    self.operations.append(("rename", (name, self.name(target))))

            return move

        def naming(kind: str, operation: str) -> Callable[..., None]:
            def act(path: Any, *rest: Any, dir_fd: int | None = None) -> None:
                name = self.name(path, dir_fd)
                ordinary[kind](path, *rest, dir_fd=dir_fd)
                if name is not None:
                    self.operations.append((operation, name))

            return act

        replacements: dict[str, Any] = {
            "open": open_,
            "close": close,
            "write": write,
            "fsync": fsync,
            "ftruncate": truncate,
            "rename": moving("rename"),
            "replace": moving("replace"),
            "mkdir": naming("mkdir", "mkdir"),
            "unlink": naming("unlink", "remove"),
            "rmdir": naming("rmdir", "remove"),
        }
        for name, replacement in replacements.items():
            patch.setattr(os, name, replacement)
        save = run_state.save_checkpoint

        def save_checkpoint(*arguments: Any) -> Path:
            place = save(*arguments)
            self.operations.append(("saved", str(place)))
            return place

        patch.setattr(run_state, "save_checkpoint", save_checkpoint)

    # --- replaying

    def states(self, place: Path) -> Iterator[tuple[Path, bool]]:
        """For a crash after each operation, the folders it could leave, and whether a checkpoint
        has been saved by then."""
        now: Names = {name: file and replace(file) for name, file in self.start.items()}
        durable: Names = dict(now)
        waiting: list[tuple[str, Any]] = []  # changes of names that are not synced
        saved, seen = False, set()
        for operation, argument in self.operations:
            match operation:
                case "write":
                    file = now[argument[0]]
                    assert file is not None
                    file.now += argument[1]
                case "truncate":
                    file = now[argument[0]]
                    assert file is not None
                    file.now = file.now[: argument[1]]
                case "saved":
                    saved = True
                case "sync":
                    file = now.get(argument)
                    if file is not None:
                        file.durable = file.now
                    else:
                        for change in [c for c in waiting if argument in _folders(c)]:
                            _apply(durable, change)
                            waiting.remove(change)
                case _:
                    node = File() if operation == "create" else None
                    change = (operation, (argument, node))
                    _apply(now, change)
                    waiting.append(change)
            self.durable = durable
            for kept, read in POLICIES.values():
                names = dict(durable)
                for change in waiting:
                    if kept == "all" or (kept == "removals" and change[0] == "remove"):
                        _apply(names, change)
                state = {n: None if f is None else read(f) for n, f in names.items()}
                key = (saved, tuple(sorted(state.items(), key=lambda item: item[0])))
                if key not in seen:
                    seen.add(key)
                    yield self._written(place, state), saved

    def synced(self, place: Path) -> Path:
        """What is on the disk for sure after all operations."""
        for _ in self.states(place):
            pass
        state = {n: None if f is None else f.durable for n, f in self.durable.items()}
        return self._written(place, state)

    def _written(self, place: Path, state: dict[str, bytes | None]) -> Path:
        """The state as folders and files; what lies in a folder without a name is lost."""
        shutil.rmtree(place, ignore_errors=True)
        top = self.folder.name
        (place / top).mkdir(parents=True)
        for name in sorted(state):
            path = place / name
            if not path.parent.is_dir():
                continue
            content = state[name]
            if content is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(content)
        return place / top


def _durable(path: Path) -> File:
    content = path.read_bytes()
    return File(content, content)


def _folders(change: tuple[str, Any]) -> set[str]:
    """The folders in which a change of names happens."""
    operation, (argument, _) = change
    paths = argument if operation == "rename" else (argument,)
    return {path.rpartition("/")[0] for path in paths}


def _apply(names: Names, change: tuple[str, Any]) -> None:
    operation, (argument, node) = change
    if operation == "rename":
        source, target = argument
        for path in [p for p in names if p == source or p.startswith(f"{source}/")]:
            names[target + path[len(source) :]] = names.pop(path)
    elif operation == "remove":
        names.pop(argument, None)
    else:
        names[argument] = node
