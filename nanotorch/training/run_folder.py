"""The folder of a run: made once, never overwritten, found again by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from nanotorch.training.config.command_line import CONFIG as CONFIG
from nanotorch.training.config.sections import Config
from nanotorch.training.config.writer import to_toml
from nanotorch.training.errors import InputError, reading
from nanotorch.training.files import (
    new_folder,
    remove_left_behind,
    sync_folder,
    write_all,
    write_whole,
)

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
MODEL = "model.safetensors"
SUMMARY = "summary.json"


def runs_called(folder: Path, name: str) -> list[Path]:
    """The run folders NAME-1, NAME-2 … in the order of their numbers."""
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    runs = []
    if folder.is_dir():
        for path in folder.iterdir():
            if (match := pattern.fullmatch(path.name)) and (path / CONFIG).is_file():
                runs.append((int(match[1]), path))
    return [path for _, path in sorted(runs)]


def new_run_folder(config: Config, files: dict[str, bytes]) -> Path:
    """Make the next free run folder, with its configuration and `files` already in it.

    The folder is made elsewhere and renamed, which fails where the name is taken: two runs that
    start at once get two folders.
    """
    folder = Path(config.output.folder)
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_left_behind(folder, config.name)
        files = {CONFIG: to_toml(config).encode(), METRICS: b"", **files}
        temporary = new_folder(folder, config.name, files)
        number = _last_number(folder, config.name)
        while True:
            number += 1
            place = folder / f"{config.name}-{number}"
            if place.exists():
                continue
            try:
                temporary.rename(place)
            except OSError:
                if place.exists():
                    continue
                raise
            sync_folder(folder)
            return place
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"output.folder: {folder} cannot be written: {error.strerror}") from None


def _last_number(folder: Path, name: str) -> int:
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    matches = (pattern.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=0)


def remove_temporary_files(run: Path) -> None:
    """Remove what killed processes left in a run folder that is locked."""
    for name in (CONFIG, METRICS, MODEL, SUMMARY, "report.html"):
        remove_left_behind(run, name, seconds=0)
    for pattern in ("*.png", "*.svg", "*.csv"):
        remove_left_behind(run, pattern, seconds=0)


def replace_config(run: Path, config: Config, changed: bool) -> None:
    """Write the configuration of a run that goes on, also where it is what it was: of all writes it
    is the first, and a disk that takes none refuses it before anything else is touched."""
    content = to_toml(config).encode() if changed else (run / CONFIG).read_bytes()
    write_whole(run / CONFIG, content)


def json_text(values: Any) -> str:
    """JSON for people: indented, keys in the order given, a newline at the end."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


class Log:
    """A file of JSON lines, one record each, written at once.

    `must_exist` refuses to make a new file. A link is refused: where it leads, somebody else may
    have decided.
    """

    def __init__(self, path: Path, must_exist: bool = False) -> None:
        self.path = path
        if path.is_symlink():
            raise InputError(f"{path}: is a link; expected the log of a run itself")
        flags = os.O_RDWR | os.O_APPEND | (0 if must_exist else os.O_CREAT)
        try:
            self._handle = os.open(path, flags, 0o644)
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file; the run cannot go on") from None

    def lock(self) -> None:
        """Refuse to write where another process does; the lock ends with the process."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path.parent}: another process is running it") from None

    @property
    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def check_size(self, size: int) -> None:
        """InputError if the file is shorter than `size` bytes."""
        if self.size < size:
            raise InputError(
                f"{self.path}: {self.size} bytes, the checkpoint was saved after {size}; "
                f"the file was changed since"
            )

    def cut(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        self.check_size(size)
        os.ftruncate(self._handle, size)

    def write(self, record: dict[str, Any]) -> None:
        write_all(self._handle, json.dumps(record).encode() + b"\n")

    def sync(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that was cut off is left out."""
    records = []
    if path.exists():
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            with reading(f"{path}:{number}", "a record of a log"):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise InputError(f"{path}:{number}: expected a table, as {{...}}")
            records.append(record)
    return records


class Events(Log):
    """What happened when: times of day stand here, so that metrics.jsonl repeats exactly."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        content = path.read_bytes()
        if not content.endswith(b"\n"):  # cut off when the process before was killed
            self.cut(content.rfind(b"\n") + 1)

    def record(self, event: str, **facts: Any) -> None:
        self.write({"time": round(time.time(), 3), "event": event, **facts})


class NoLog(Events):
    """What a rank that writes nothing has in the place of its logs."""

    def __init__(self) -> None:
        self._handle = -1

    def write(self, record: dict[str, Any]) -> None:
        pass
