"""From a TOML file and dotted flags to a Config, with every mistake told at once."""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from nanotorch.training.config.positions import key_lines
from nanotorch.training.config.schema import (
    accepts_field,
    describe,
    fields_of,
    is_section,
    options,
    section_of,
    variants,
)
from nanotorch.training.config.sections import Config
from nanotorch.training.errors import InputError

COMMAND_LINE = "command line"


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
    """The tables of a configuration, and where each key was given."""

    tables: dict[str, Any]
    places: dict[tuple[str, ...], str] = field(default_factory=dict)
    texts: dict[tuple[str, ...], str] = field(default_factory=dict)  # of flags, as typed

    def place(self, path: tuple[str, ...]) -> str:
        """Where the nearest enclosing key was given."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return "configuration"


def read_source(path: Path) -> Source:
    """The tables of one TOML file; one line if it cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.toml"))
        hint = f"; beside it: {', '.join(near)}" if near else ""
        raise InputError(f"{path}: there is no such file{hint}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    places = {key: f"{path}:{line}" for key, line in key_lines(text).items()}
    return Source(tables, {(): str(path), **places})


def with_flags(source: Source, flags: list[Flag]) -> Source:
    """The same tables with the flags written over them."""
    merged = Source(copy.deepcopy(source.tables), dict(source.places))
    for flag in flags:
        table = merged.tables
        for part in flag.path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise InputError(
                    f"{COMMAND_LINE}: {'.'.join(flag.path)}: `{part}` is not a section"
                )
        table[flag.path[-1]] = flag.value
        merged.places[flag.path] = COMMAND_LINE
        merged.texts[flag.path] = flag.text
    return merged


def load(path: Path, flags: list[Flag] | None = None) -> Config:
    """The configuration in `path` with `flags` over it; InputError lists every mistake."""
    file = read_source(path)
    source = with_flags(file, flags or [])
    source.tables.setdefault("name", path.stem)
    config, mistakes = check(source)
    if flags:
        hidden = {line for line in check(file)[1] if not line.startswith("configuration")}
        mistakes += sorted(hidden - set(mistakes) - _missing_only(hidden))
    if config is None or mistakes:
        raise InputError(*mistakes, _closing(len(mistakes)))
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
        found = error.errors(include_url=False)
    if _read_as_text(tables, source, found):
        return check(Source(tables, source.places, {}))
    lines: dict[tuple[str, ...], str] = {}
    for item in found:
        path, key = resolve(tables, item["loc"])
        lines.setdefault(
            path, f"{source.place(path)}: {dotted(path)}: {_words(item, path, key, tables)}"
        )
    return None, list(lines.values())


def _read_as_text(tables: dict[str, Any], source: Source, found: list[Any]) -> bool:
    """Put flags back as typed where text is wanted: `--name 5` is the name "5"."""
    changed = False
    for item in found:
        path, _ = resolve(tables, item["loc"])
        if item["type"] in ("string_type", "literal_error") and path in source.texts:
            _enclosing(tables, path)[path[-1]] = source.texts[path]
            changed = True
    return changed


def _enclosing(tables: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for part in path[:-1]:
        tables = tables[part]
    return tables


def resolve(tables: Any, location: tuple[Any, ...]) -> tuple[tuple[str, ...], Any]:
    """A pydantic location as the path of the file, and the field it ends at (None: unknown)."""
    section: type[BaseModel] | None = Config
    path: tuple[str, ...] = ()
    parts = list(location)
    while parts and section is not None:
        name = str(parts.pop(0))
        path += (name,)
        key = section.model_fields.get(name)
        if key is None:
            return path, None
        choices = variants(key)
        if choices and parts:
            section = choices.get(str(parts.pop(0)))
        else:
            section = section_of(key)
            if section is None:
                return path + tuple(f"[{part}]" for part in parts if isinstance(part, int)), key
    return path, key


def dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")


def _words(item: Any, path: tuple[str, ...], key: Any, tables: dict[str, Any]) -> str:
    """What is wrong with one key, and what was given."""
    given = f", given {_shown(item['input'])}"
    match item["type"]:
        case "extra_forbidden":
            return _unknown(path, tables)
        case "missing":
            return f"is required: {key.description}"
        case "union_tag_invalid" | "union_tag_not_found":
            tags = list(variants(key))
            tag = item.get("ctx", {}).get("tag", "")
            return f"expected {_either(tags)}, given {_shown(tag)}{_nearest(tag, tags)}"
        case "model_type" | "model_attributes_type":
            return f"expected a section [{dotted(path)}]{given}"
        case "literal_error":
            near = _nearest(item["input"], options(key.annotation))
            return f"expected {accepts_field(key)}{given}{near}"
        case "string_pattern_mismatch":
            return f"expected a {path[-1]} like {_pattern_example(path[-1])}{given}"
        case "finite_number":
            return f"expected a finite number{given}"
        case _:
            return f"expected {accepts_field(key) if key else 'another value'}{given}"


def _pattern_example(name: str) -> str:
    return '"auto", "cpu", "cuda" or "cuda:0"' if name == "device" else '"my-run_1"'


def _either(names: list[str]) -> str:
    return " or ".join(json.dumps(name) for name in names)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError:
        return repr(value)


def _nearest(word: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"; did you mean {json.dumps(near[0])}?" if near else ""


def _unknown(path: tuple[str, ...], tables: dict[str, Any]) -> str:
    """Words for a key that does not exist: whose it is, or what it may have meant."""
    *sections, name = path
    if len(sections) == 1 and (key := Config.model_fields.get(sections[0])) and variants(key):
        chosen = tables[sections[0]]["name"]
        owners = [tag for tag, model in variants(key).items() if name in model.model_fields]
        if owners:
            return f"`{name}` belongs to {sections[0]} {_either_code(owners)}, not `{chosen}`"
        siblings = list(variants(key)[chosen].model_fields)
    else:
        siblings = list(_section_at(sections))
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean `{dotted((*sections, near[0]))}`?"
    every = list(dict.fromkeys(known.name for known in describe()))
    elsewhere = [known for known in every if known.rpartition(".")[2] == name]
    near = elsewhere or difflib.get_close_matches(dotted(path), every, n=1, cutoff=0.7)
    return f"unknown key; did you mean {_either_code(near)}?" if near else "unknown key"


def _either_code(names: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def _section_at(sections: list[str]) -> Iterator[str]:
    section: type[BaseModel] = Config
    for name in sections:
        key = section.model_fields.get(name)
        if key is None or not is_section(key.annotation):
            return
        section = key.annotation  # type: ignore[assignment]
    yield from section.model_fields


def sweep(config: Config, flags: list[Flag], path: Path) -> list[Config]:
    """Every combination of the values in `[sweep]`, one configuration each."""
    if not config.sweep:
        return [config]
    keys = [tuple(key.split(".")) for key in config.sweep]
    runs = []
    for values in itertools.product(*config.sweep.values()):
        chosen = [Flag(key, _shown(value)) for key, value in zip(keys, values, strict=True)]
        source = with_flags(with_flags(read_source(path), flags), chosen)
        source.tables.pop("sweep", None)
        source.tables.setdefault("name", path.stem)
        run, mistakes = check(source)
        if run is None:
            raise InputError(*(line.replace(COMMAND_LINE, "sweep") for line in mistakes))
        runs.append(run)
    return runs
