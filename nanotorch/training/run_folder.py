"""The folder of a run: made once, never overwritten, found again by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from nanotorch.training.config.sections import Config
from nanotorch.training.config.writer import to_toml
from nanotorch.training.errors import InputError
from nanotorch.training.model_file import write_whole

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CONFIG = "config.toml"
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


def new_run_folder(config: Config) -> Path:
    """Make the next free run folder, with its configuration already in it.

    The folder is made elsewhere and renamed, which fails where the name is taken: two runs that
    start at once get two folders.
    """
    folder = Path(config.output.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{config.name}-", dir=folder))
    except OSError as error:
        raise InputError(f"output.folder: {folder} cannot be written: {error.strerror}") from None
    try:
        temporary.chmod(0o755)
        (temporary / CONFIG).write_text(to_toml(config), encoding="utf-8")
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
            return place
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"output.folder: {folder} cannot be written: {error.strerror}") from None


def _last_number(folder: Path, name: str) -> int:
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    matches = (pattern.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=0)


def replace_config(run: Path, config: Config) -> None:
    """Write the configuration of a run that goes on with other values."""
    write_whole(run / CONFIG, to_toml(config).encode())


def json_text(values: Any) -> str:
    """JSON for people: indented, keys in the order given, a newline at the end."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


class Log:
    """A file of JSON lines, one record each, written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def lock(self) -> None:
        """Refuse to write where another process does; the lock ends with the process."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{self.path.parent}: another process is running it") from None

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        if self.size < size:
            raise InputError(
                f"{self.path}: {self.size} bytes, the checkpoint was saved after {size}; "
                f"the file was changed since"
            )
        os.ftruncate(self._file.fileno(), size)

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that was cut off is left out."""
    records = []
    if path.exists():
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                records.append(json.loads(line))
            except ValueError:
                raise InputError(f"{path}:{number}: not a JSON record") from None
    return records


class Events(Log):
    """What happened when: times of day stand here, so that metrics.jsonl repeats exactly."""

    def record(self, event: str, **facts: Any) -> None:
        self.write({"time": round(time.time(), 3), "event": event, **facts})
