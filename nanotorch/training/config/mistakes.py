"""What is wrong with a configuration, in words: one line per key, with the nearest known one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nanotorch.training.config.schema import (
    accepts_field,
    describe,
    is_section,
    options,
    section_of,
    variants,
)
from nanotorch.training.config.sections import Config


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
                return _within(path, key, parts) if parts else (path, key)
    return path, key


def _within(path: tuple[str, ...], key: Any, parts: list[Any]) -> tuple[tuple[str, ...], Any]:
    """A place inside the value of a key: the entry of a table or of a list, and what it accepts."""
    annotation, limits = key.annotation, list(key.metadata)
    while parts:
        if get_origin(annotation) is Annotated:
            annotation, *limits = get_args(annotation)
        elif get_origin(annotation) is dict:
            path, annotation, limits = (*path, str(parts.pop(0))), get_args(annotation)[1], []
        elif get_origin(annotation) is list:
            path, annotation, limits = (*path, f"[{parts.pop(0)}]"), get_args(annotation)[0], []
        else:
            options_but_none = [o for o in get_args(annotation) if o is not type(None)]
            if len(options_but_none) != 1:  # the parts of a union are pydantic's own
                break
            annotation = options_but_none[0]
    inner = FieldInfo(annotation=annotation, description=key.description)
    inner.metadata = limits
    return path, inner


def dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")


def words(item: Any, path: tuple[str, ...], key: Any, tables: dict[str, Any]) -> str:
    """What is wrong with one key, and what was given."""
    received = f", given {shown(item['input'])}"
    match item["type"]:
        case "extra_forbidden":
            return _unknown(path, tables)
        case "missing":
            return f"is required: {key.description}"
        case "union_tag_invalid" | "union_tag_not_found":
            tags = list(variants(key))
            tag = item.get("ctx", {}).get("tag", "")
            return f"expected {_either(tags)}, given {shown(tag)}{_nearest(tag, tags)}"
        case "model_type" | "model_attributes_type":
            return f"expected a section [{dotted(path)}]{received}"
        case "literal_error":
            near = _nearest(item["input"], options(key.annotation))
            return f"expected {accepts_field(key)}{received}{near}"
        case "string_pattern_mismatch":
            return f"expected a {path[-1]} like {_pattern_example(path[-1])}{received}"
        case "finite_number":
            return f"expected a finite number{received}"
        case _:
            return f"expected {accepts_field(key) if key else 'another value'}{received}"


def _pattern_example(name: str) -> str:
    return '"auto", "cpu", "cuda" or "cuda:0"' if name == "device" else '"my-run_1"'


def _either(names: list[str]) -> str:
    return " or ".join(json.dumps(name) for name in names)


def shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
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
