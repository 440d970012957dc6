"""Files that survive a crash: written beside their place, synced to the disk, and renamed once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nanotorch.training.errors import InputError

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
LEFT_BEHIND = 600  # seconds after which a temporary file is that of a process that was killed


def guarded_cell(text: str) -> str:
    """The cell with an apostrophe before it where a spreadsheet would take it for a formula."""
    if not text.startswith(FORMULAS):
        return text
    try:
        float(text)
        return text
    except ValueError:
        return f"'{text}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_all(handle: int, content: bytes) -> None:
    """Write every byte; OSError where the disk takes only some of them."""
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_all(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Wait until the disk has what was written into a file."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """The name of a file that replaces `path` in one step if the block ends, and else goes."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            error.filename = str(path)  # the one that the user knows
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The name of a file to write, which replaces `path` in one step once it is whole."""
    with _replaced(path) as temporary:
        yield temporary
        sync_file(temporary)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that it is never seen half-written."""
    with _replaced(path) as temporary:
        write_synced(temporary, content)


def refuse_to_replace(path: Path, force: bool, key: str = "--output") -> None:
    """InputError where a file cannot be made: it is there already, and `force` is not given, or
    its folder is not there."""
    if not path.parent.is_dir():
        raise InputError(f"{key}: there is no folder {path.parent}")
    if path.exists() and not force:
        raise InputError(f"{key}: {path} is there already; --force would replace it")


def new_folder(parent: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """A temporary folder in `parent` with these files, ready to be renamed to its place."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        temporary.chmod(0o755)
        for file, content in files.items():
            write_synced(temporary / file, content)
        sync_folder(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return temporary


def remove_left_behind(folder: Path, pattern: str, seconds: float = LEFT_BEHIND) -> None:
    """Remove what killed processes left in a folder: `.NAME-…` untouched for so many seconds."""
    now = time.time()
    for path in folder.glob(f".{pattern}-*"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime >= seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
