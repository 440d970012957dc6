"""From a TOML file and dotted flags to a Config, with every mistake reported at once."""

from __future__ import annotations

import contextlib
import copy
import difflib
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanotorch.training.config.mistakes import dotted, resolve, shown, words
from nanotorch.training.config.positions import key_lines
from nanotorch.training.config.schema import fields_of, variants
from nanotorch.training.config.sections import Config
from nanotorch.training.errors import InputError

COMMAND_LINE = "command line"
LARGEST = 2**20  # bytes of a configuration
DEEPEST = 500  # parts of a dotted key; tomllib takes a time that grows with their square
SHOWN = 20  # mistakes at once


@dataclass(frozen=True)
class Flag:
    """One `--section.key value` of the command line."""

    path: tuple[str, ...]
    text: str

    @property
    def value(self) -> Any:
        """The text read as a TOML value, or the text itself where it is none."""
        try:
            return tomllib.loads(f"value = {self.text}")["value"]
        except tomllib.TOMLDecodeError:
            return self.text


@dataclass
class Source:
    """The tables of a configuration, and where each key stands."""

    tables: dict[str, Any]
    places: dict[tuple[str, ...], str] = field(default_factory=dict)
    texts: dict[tuple[str, ...], str] = field(default_factory=dict)  # of flags, as typed

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Put before lines about a key the place where it was set."""
        try:
            yield
        except InputError as error:
            raise InputError(*map(self._with_place, error.lines)) from error

    def _with_place(self, line: str) -> str:
        """The line with the place of the first key it begins with, where the key was set."""
        for key in re.findall(r"^[a-z_]+(?:\.[a-z_]+)+|(?<=\+ )[a-z_]+(?:\.[a-z_]+)+(?=:)", line):
            if (path := tuple(key.split("."))) in self.places:
                return f"{self.places[path]}: {line}"
        return line

    def place(self, path: tuple[str, ...]) -> str:
        """Where the nearest enclosing key stands."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return "configuration"


def read_source(path: Path) -> Source:
    """The tables of one TOML file; one line if it cannot be read or is not TOML."""
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: too large for a configuration (more than 1 MB)")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = sorted(other.name for other in path.parent.glob("*.toml"))
        near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5) or beside[:3]
        hint = f"; beside it: {', '.join(near)}" if near else ""
        raise InputError(f"{path}: there is no such file{hint}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if any(word.count(".") > DEEPEST for word in re.split(r"[=,#\[\]{}]", line)):
            raise InputError(f"{path}:{number}: a key of more than {DEEPEST} parts")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        words = str(error)
        place = re.search(r"at line (\d+)", words)
        if place and ("overwrite" in words or "twice" in words):
            text_of_line = text.splitlines()[int(place[1]) - 1]
            words = f"{text_of_line.partition('=')[0].strip()} is set a second time here"
            raise InputError(f"{path}:{place[1]}: {words}") from None
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not valid TOML: nested too deeply") from None
    _find_shipped_files(path, tables)
    places = {key: f"{path}:{line}" for key, line in key_lines(text).items()}
    if isinstance(tables.get("sweep"), dict):
        tables["sweep"] = _dotted_keys(tables["sweep"])
    return Source(tables, {(): str(path), **places})


def shipped() -> Path:
    """The folder of the configurations that come with the package, or with its repository."""
    package = Path(__file__).parents[2]
    return next((p for p in (package / "configs",) if p.is_dir()), package.parent / "configs")


def find_config(path: Path) -> Path:
    """The file that is meant: a path, or the bare name of a configuration that is shipped."""
    if path.suffix or path.exists() or len(path.parts) > 1:
        return path
    for folder in (Path(), Path("configs"), shipped()):
        if (folder / f"{path}.toml").is_file():
            return folder / f"{path}.toml"
    known = sorted(other.stem for other in shipped().glob("*.toml"))
    near = difflib.get_close_matches(str(path), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise InputError(f"there is no configuration {str(path)!r}; {hint}")


def _find_shipped_files(path: Path, tables: dict[str, Any]) -> None:
    """Let a shipped configuration find the files beside it from any working directory."""
    if path.parent.resolve() != shipped().resolve():
        return
    for section, key in (("data", "source"), ("data", "test_file"), ("model", "start")):
        table = tables.get(section)
        name = table.get(key) if isinstance(table, dict) else None
        if isinstance(name, str) and name.startswith("configs/") and not Path(name).exists():
            table[key] = str(shipped() / name.removeprefix("configs/"))  # type: ignore[index]


def _dotted_keys(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`optimizer.lr = [0.1]` in a sweep means what `"optimizer.lr" = [0.1]` means."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _dotted_keys(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def with_flags(source: Source, flags: list[Flag]) -> Source:
    """The same tables with the flags written over them."""
    merged = Source(copy.deepcopy(source.tables), dict(source.places))
    for flag in flags:
        path = flag.path
        if path[0] == "sweep" and len(path) > 1:
            path = ("sweep", ".".join(path[1:]))
        table = merged.tables
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise InputError(f"{COMMAND_LINE}: {'.'.join(path)}: `{part}` is not a section")
        value = flag.value
        if path[0] == "sweep" and isinstance(value, str) and "," in value:
            value = [Flag(path, word.strip()).value for word in value.split(",")]
        table[path[-1]] = value
        merged.places[path] = COMMAND_LINE
        merged.texts[path] = flag.text
    return merged


def load(path: Path, flags: list[Flag] | None = None) -> Config:
    """The configuration in `path` with `flags` over it; InputError lists every mistake."""
    return load_source(path, flags or [])[0]


def load_source(path: Path, flags: list[Flag]) -> tuple[Config, Source]:
    """As `load`, and where each key was set."""
    file = read_source(path)
    source = with_flags(file, flags)
    source.tables.setdefault("name", path.stem)
    source.tables.setdefault("data", {})
    config, mistakes = check(source)
    if flags:
        hidden = {line for line in check(file)[1] if not line.startswith("configuration")}
        mistakes += sorted(hidden - set(mistakes) - _missing_only(hidden))
    if config is None or mistakes:
        raise InputError(*mistakes, _closing(len(mistakes)))
    return config, source


def config_of(tables: Mapping[str, Any]) -> Config:
    """The configuration in tables of Python; InputError lists every mistake."""
    source = Source(copy.deepcopy(dict(tables)))
    if isinstance(data := source.tables.setdefault("data", {}), dict):
        data.setdefault("source", "data")
    config, mistakes = check(source)
    if config is None:
        raise InputError(*mistakes)
    return config


def _closing(count: int) -> str:
    errors = "1 error" if count == 1 else f"{count} errors"
    return f"{errors} in the configuration; `--help` lists every key"


def _missing_only(lines: set[str]) -> set[str]:
    """Lines about absent keys, which a flag may well supply."""
    return {line for line in lines if ": is required" in line}


def check(source: Source) -> tuple[Config | None, list[str]]:
    """The validated configuration, or None and one line per mistake."""
    tables = copy.deepcopy(source.tables)
    for name, key in fields_of(Config).items():
        if variants(key) and isinstance(tables.get(name), dict):
            tables[name].setdefault("name", key.default.name)
    try:
        return Config.model_validate(tables), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    if _read_as_text(tables, source, errors):
        return check(Source(tables, source.places, {}))
    lines: dict[tuple[str, ...], str] = {}
    for item in errors[:SHOWN]:
        path, key = resolve(tables, item["loc"])
        lines.setdefault(
            path, f"{source.place(path)}: {dotted(path)}: {words(item, path, key, tables)}"
        )
    return None, list(lines.values())


def _read_as_text(tables: dict[str, Any], source: Source, errors: list[Any]) -> bool:
    """Put flags back as typed where text is wanted: `--name 5` is the name "5"."""
    changed = False
    for item in errors:
        path, _ = resolve(tables, item["loc"])
        if item["type"] in ("string_type", "literal_error") and path in source.texts:
            _enclosing(tables, path)[path[-1]] = source.texts[path]
            changed = True
    return changed


def _enclosing(tables: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for part in path[:-1]:
        tables = tables[part]
    return tables


def sweep(
    config: Config, source: Source, flags: list[Flag], path: Path
) -> list[tuple[Config, Source]]:
    """Every combination of the values in `[sweep]`, one configuration each."""
    if not config.sweep:
        return [(config, source)]
    keys = [tuple(key.split(".")) for key in config.sweep]
    place = source.place(("sweep",))
    runs = []
    for values in itertools.product(*config.sweep.values()):
        chosen = [Flag(key, shown(value)) for key, value in zip(keys, values, strict=True)]
        each = with_flags(with_flags(read_source(path), flags), chosen)
        for key in keys:
            origin = source.places.get(("sweep", ".".join(key)), place)
            each.places[key] = f"{origin}: sweep"
        each.tables.pop("sweep", None)
        each.tables.setdefault("name", path.stem)
        run, mistakes = check(each)
        if run is None:
            raise InputError(*mistakes)
        runs.append((run, each))
    return runs
