"""From a TOML file and dotted flags to a Config, with every mistake reported at once."""

from __future__ import annotations

import contextlib
import copy
import difflib
import itertools
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanotorch.training.config.mistakes import dotted, resolve, shown, words
from nanotorch.training.config.positions import key_at, key_lines
from nanotorch.training.config.schema import fields_of, variants
from nanotorch.training.config.sections import Config
from nanotorch.training.errors import InputError, no_such_file, plain

COMMAND_LINE = "command line"
LARGEST = 2**20  # bytes of a configuration
DEEPEST = 500  # parts of a dotted key; tomllib takes a time that grows with their square
LONGEST = 1000  # digits of a number, and characters of a line that is looked at more closely
SHOWN = 20  # mistakes at once
FILES = ("data.source", "data.test_file", "model.start")  # keys that name files
KEY = r"[a-z_]+(?:\.[a-z_]+)*"
KEYS = re.compile(rf"({KEY}(?: \+ {KEY})*)(?:\[\d+\])*: ")  # what a line about keys begins with
TWICE = ("overwrite", "twice", "Duplicate", "redefine", "mutate")  # in tomllib's words


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
        """The line with the places of the keys, or of the file, that it begins with."""
        words, file = line, ""
        for key in FILES:
            section, _, name = key.partition(".")
            value = self.tables.get(section, {}).get(name)
            if isinstance(value, str) and line.startswith(f"{plain(value)}: "):
                words, file = line[len(plain(value)) + 2 :], key
        about = KEYS.match(words)
        keys = [tuple(key.split(".")) for key in re.findall(KEY, about[1])] if about else []
        keys = [key for key in keys if key[0] in Config.model_fields]
        if not keys and file:
            line, keys = f"{file}: {line}", [tuple(file.split("."))]
        places = [self.places[key] for key in keys if key in self.places] or [
            self.place(key) for key in keys[:1]
        ]
        by_file = {place.rpartition(":")[0]: place for place in reversed(places)}
        return ": ".join([*([" and ".join(reversed(by_file.values()))] if places else []), line])

    def place(self, path: tuple[str, ...]) -> str:
        """Where a key stands, or else one within it, or else the nearest one around it."""
        inner = (place for key, place in self.places.items() if key[: len(path)] == path)
        if path and path not in self.places and (first := next(inner, None)):
            return first
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return "configuration"


TABLES = (".csv", ".tsv", ".data", ".dat", ".npy", ".npz", ".parquet", ".feather", ".jsonl")


def read_source(path: Path) -> Source:
    """The tables of one TOML file; one line if it cannot be read or is not TOML."""
    if path.suffix.lower() in TABLES and path.is_file():
        raise InputError(
            f"{path}: is a table, not a configuration; nanotorch inspect {path} --write my.toml "
            "writes one"
        )
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: too large for a configuration (more than 1 MB)")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise no_such_file(path, "*.toml") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if any(word.count(".") > DEEPEST for word in re.split(r"[=,#\[\]{}]", line)):
            raise InputError(f"{path}:{number}: a key of more than {DEEPEST} parts")
        if re.search(rf"[0-9A-Fa-f_]{{{LONGEST}}}", line):
            raise InputError(f"{path}:{number}: a number of more than {LONGEST} digits")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}:{_not_toml(text, str(error))}") from None
    except RecursionError:
        raise InputError(f"{path}: not valid TOML: nested too deeply") from None
    _find_shipped_files(path, tables)
    places = {key: f"{path}:{line}" for key, line in key_lines(text).items()}
    if isinstance(tables.get("sweep"), dict):
        tables["sweep"] = _dotted_keys(tables["sweep"])
        places |= {("sweep", ".".join(k[1:])): v for k, v in places.items() if k[0] == "sweep"}
        places.pop(("sweep", ""), None)
    return Source(tables, {(): str(path), **places})


def _not_toml(text: str, error: str) -> str:
    """LINE: what is wrong with a text that is no TOML, from the words of tomllib."""
    rows = [row[:LONGEST] for row in text.splitlines()] or [""]
    place = re.search(r"\(at line (\d+), column (\d+)\)", error)
    line, column = (int(place[1]), f", column {place[2]}") if place else (len(rows), "")
    if any(word in error for word in TWICE):
        key, line = key_at(text, line)
        inner = re.search(r"Duplicate inline table key '(.*)'", error)
        return f"{line}: {inner[1] if inner else key} is set a second time here"
    words, hint = error.partition(" (at ")[0], ""
    if words == r"Illegal character '\n'":
        words = "a text must end, with a quote, in the line that it begins in"
    if bare := re.fullmatch(r"[^=]+=\s*([A-Za-z_./~][^\"'#,\[\]{}]*?)\s*(#.*)?", rows[line - 1]):
        hint = f"; text stands in quotes: {shown(bare[1])}"
        if bare[1].lower() in ("true", "false"):
            hint = f"; write {bare[1].lower()}, in small letters"
    elif comma := re.fullmatch(r"[^=]+=\s*(-?\d+),(\d+)\s*(#.*)?", rows[line - 1]):
        hint = f"; a fraction has a point: {comma[1]}.{comma[2]}"
    elif "\\" in rows[line - 1]:
        hint = "; a text with backslashes stands in single quotes: 'C:\\data.csv'"
    return f"{line}: not valid TOML{column}: {words[:1].lower()}{words[1:]}{hint}"


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
        if path[0] == "sweep" and len(path) > 1 and not isinstance(value, list):
            value = _several(flag.text)
        table[path[-1]] = value
        merged.places[path] = COMMAND_LINE
        merged.texts[path] = flag.text
    return merged


def _several(text: str) -> list[Any]:
    """`0.1, 0.01`, `[8, 8], [16]` and `logistic, mlp` as values."""
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
        return values
    except tomllib.TOMLDecodeError:
        return [Flag((), word.strip()).value for word in text.split(",")]


def run_name(path: Path) -> str:
    """A configuration's file name as the name of its runs: letters without accents, and `-` for
    what `name` does not allow."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", path.stem) if c.isprintable())
    ascii_letters = letters.replace("ß", "ss").encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_letters).strip("-._") or "run"


def load(path: Path, flags: list[Flag] | None = None) -> Config:
    """The configuration in `path` with `flags` over it; InputError lists every mistake."""
    return load_source(path, flags or [])[0]


def load_source(path: Path, flags: list[Flag]) -> tuple[Config, Source]:
    """As `load`, and where each key was set."""
    file = read_source(path)
    source = with_flags(file, flags)
    source.tables.setdefault("name", run_name(path))
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
        if item["type"].startswith("union_tag"):
            path += ("name",)
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
        each.tables.setdefault("name", run_name(path))
        run, mistakes = check(each)
        if run is None:
            raise InputError(*mistakes)
        runs.append((run, each))
    return runs
