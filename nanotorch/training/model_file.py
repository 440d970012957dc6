"""model.safetensors: weights, standardization, and what is needed to predict from raw rows."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nanotorch.serialization import safetensors_files
from nanotorch.training.errors import InputError, no_such_file, reading
from nanotorch.training.files import write_whole

KEY = "nanotorch"  # of the metadata that holds the facts
PREFIX = "standardization."


@dataclass
class ModelFile:
    """The content of a model file: arrays by name, and the facts stored beside them."""

    weights: dict[str, NDArray[Any]]
    standardization: dict[str, NDArray[Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def array_bytes(
    arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any] | None = None
) -> bytes:
    """Arrays as safetensors, in the order of their names; `facts` become its metadata as JSON."""
    # One key only: safetensors writes several in an order that changes from process to process.
    metadata = {KEY: json.dumps(facts, sort_keys=True)} if facts else None
    return safetensors_files.array_bytes(arrays, metadata)


def arrays_in(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of safetensors that `array_bytes` made."""
    import safetensors.numpy

    arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(content)
    return arrays


def read_arrays(
    path: Path, wanted: Container[str] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays (the `wanted` ones alone, if given) and facts of a safetensors file; one line if it is
    damaged or something else."""
    if not path.exists():
        if path.parent.is_dir() and path.name == "model.safetensors":
            raise InputError(
                f"{path.parent}: not the folder of a finished run (it has no {path.name})"
            )
        raise no_such_file(path)
    with reading(path, "a safetensors file"):
        try:
            arrays, metadata = safetensors_files.read_arrays(str(path), wanted)
        except RuntimeError as error:  # what would read its bfloat16 is missing
            raise InputError(f"{path}: {error}") from None
        facts = json.loads(metadata.get(KEY, "{}"))
        if not isinstance(facts, dict):
            raise InputError(f"{path}: its metadata {KEY!r} is not a table of facts")
    return arrays, facts


def array_names(path: Path) -> list[str]:
    """The names of the arrays of a safetensors file, of which none is read."""
    import safetensors

    with reading(path, "a safetensors file"), safetensors.safe_open(str(path), "np") as file:
        names = list(file.keys())
    return [name for name in names if not name.startswith(PREFIX)]


def read_model_file(path: Path) -> ModelFile:
    """A model file, or any safetensors file of weights."""
    arrays, facts = read_arrays(path)
    weights = {name: a for name, a in arrays.items() if not name.startswith(PREFIX)}
    rest = {name.removeprefix(PREFIX): a for name, a in arrays.items() if name not in weights}
    return ModelFile(weights, rest, facts)


def write_model_file(path: Path, content: ModelFile) -> None:
    """Write a model file whole or not at all."""
    standardization = {PREFIX + name: array for name, array in content.standardization.items()}
    write_whole(path, array_bytes({**content.weights, **standardization}, content.facts))
