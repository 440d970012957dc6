"""Questions about the sections: which keys there are, what they accept, what they mean."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nanotorch.training.config.sections import Config

WORDS = {float: "number", int: "integer", str: "text", bool: "true or false", Any: "any value"}


@dataclass(frozen=True)
class Key:
    """One key of the configuration, for help and documentation."""

    name: str  # dotted: optimizer.lr
    variant: str | None  # "sgd, adam" where only these choices of the section have the key
    accepts: str
    default: str | None  # as it stands in a TOML file; None where the key is required
    meaning: str


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def variants(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The models a section can be chosen from, by name; empty for any other key."""
    if field.discriminator is None:
        return {}
    return {model.model_fields["name"].default: model for model in get_args(field.annotation)}


def section_of(field: FieldInfo, name: Any = None) -> type[BaseModel] | None:
    """The model behind a key, where the key is a section."""
    if choices := variants(field):
        return choices.get(name)
    annotation: Any = field.annotation
    return annotation if is_section(annotation) else None


def fields_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section, its name first."""
    fields = section.model_fields
    return {name: fields[name] for name in sorted(fields, key=lambda name: name != "name")}


def accepts(annotation: Any, metadata: Any = ()) -> str:
    """What a key accepts, in words: `number (> 0)`, `"step" or "epoch"`, `list of text`."""
    if get_origin(annotation) is Annotated:
        inner, *outer = get_args(annotation)
        return accepts(inner, [*outer, *metadata])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(json.dumps(value) for value in arguments)
    if origin in (Union, types.UnionType):
        options = [accepts(option) for option in arguments if option is not type(None)]
        return " or ".join(dict.fromkeys(options)) + _limits(metadata)
    if origin is list:
        return f"list of {accepts(arguments[0])}{_limits(metadata)}"
    if origin is dict:
        return f"table of {accepts(arguments[1])}"
    if is_section(annotation):
        return "tables"
    return WORDS.get(annotation, "value") + _limits(metadata)


def _limits(metadata: Any) -> str:
    """The bounds among pydantic's metadata: ` (>= 0, < 1)`."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >="}
    limits = []
    for item in _flat(metadata):
        if getattr(item, "pattern", None):
            continue
        for attribute, sign in signs.items():
            value = getattr(item, attribute, None)
            if value is not None:
                limits.append(f"{sign} {value}")
    return f" ({', '.join(limits)})" if limits else ""


def _flat(metadata: Any) -> Iterator[Any]:
    for item in metadata:
        yield from (item.metadata if isinstance(item, FieldInfo) else [item])


def options(annotation: Any) -> list[str]:
    """Every literal value among what a key accepts, also inside lists and unions."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for inner in get_args(annotation) for value in options(inner)]


def accepts_field(field: FieldInfo) -> str:
    return accepts(field.annotation, field.metadata)


def default_text(field: FieldInfo) -> str | None:
    """The default as TOML text; None where the key must be given."""
    if field.default is PydanticUndefined:
        return None
    return "not set" if field.default is None else json.dumps(field.default)


def describe(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[Key]:
    """Every key of the configuration, sections after the plain keys of the same table."""
    sections = []
    for name, field in fields_of(section).items():
        if variants(field) or is_section(field.annotation):
            sections.append((prefix + name, field))
        else:
            yield _key(prefix + name, None, field)
    for dotted, field in sections:
        choices = variants(field)
        if not choices:
            yield from describe(field.annotation, f"{dotted}.")  # type: ignore[arg-type]
            continue
        names = " or ".join(json.dumps(choice) for choice in choices)
        default = None
        if field.default is not PydanticUndefined:
            default = json.dumps(field.default.name)
        yield Key(f"{dotted}.name", None, names, default, f"which {dotted} is used")
        owners: dict[Key, list[str]] = {}  # the choices that have a key with the same meaning
        for choice, model in choices.items():
            for name, inner in fields_of(model).items():
                if name != "name":
                    owners.setdefault(_key(f"{dotted}.{name}", None, inner), []).append(choice)
        for key, those in owners.items():
            variant = None if len(those) == len(choices) else ", ".join(those)
            yield replace(key, variant=variant)


def _key(dotted: str, variant: str | None, field: FieldInfo) -> Key:
    return Key(dotted, variant, accepts_field(field), default_text(field), field.description or "")
