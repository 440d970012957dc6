"""A configuration as TOML text: the same text for the same configuration, to the byte."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel

from nanotorch.training.config.schema import fields_of

BARE = re.compile(r"^[A-Za-z0-9_-]+$")


def to_toml(config: BaseModel) -> str:
    """Every key that has a value; keys that are not set stand as comments."""
    return "\n".join(_table(config, "")).strip() + "\n"


def _table(section: BaseModel, prefix: str) -> list[str]:
    plain, tables = [], []
    for name in fields_of(type(section)):
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            tables += ["", f"[{prefix}{name}]", *_table(value, f"{prefix}{name}.")]
        elif value is None:
            plain.append(f"# {name} is not set")
        elif isinstance(value, dict) and not value:
            continue
        else:
            plain.append(f"{name} = {toml_value(value)}")
    return plain + tables


def toml_value(value: Any) -> str:
    """One TOML value on one line."""
    if isinstance(value, BaseModel):
        items = {name: getattr(value, name) for name in fields_of(type(value))}
        return toml_value({name: item for name, item in items.items() if item is not None})
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value))


def _key(name: str) -> str:
    return name if BARE.match(name) else json.dumps(name)
