"""model.safetensors: weights, standardization, and what is needed to predict from raw rows."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.backend.dtypes import load_bfloat16
from nanotorch.training.errors import InputError

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
    import safetensors.numpy

    # safetensors 0.8.0 stores wrong values for arrays that are not C-contiguous.
    solid = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    # One key only: safetensors writes several in an order that changes from process to process.
    metadata = {KEY: json.dumps(facts, sort_keys=True)} if facts else None
    content: bytes = safetensors.numpy.save(solid, metadata)
    return content


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts of a safetensors file; one line if it is damaged or something else."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys()):  # noqa: SIM118
                load_bfloat16()  # without which safetensors cannot make such an array
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from None
    except (safetensors.SafetensorError, OSError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a safetensors file, or a damaged one: {error}") from None
    return arrays, json.loads(metadata.get(KEY, "{}"))


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


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that it is never seen half-written."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
