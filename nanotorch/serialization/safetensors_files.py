"""Files of the safetensors format: arrays by name, a header in JSON, and no code."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy

from nanotorch.backend.dtypes import load_bfloat16

Array = Any


def array_bytes(arrays: Mapping[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """Arrays of the host as the bytes of a file, in the order of their names."""
    import safetensors.numpy

    # safetensors 0.8.0 stores wrong values for arrays that are not C-contiguous.
    solid = {name: numpy.asarray(arrays[name], order="C") for name in sorted(arrays)}
    content: bytes = safetensors.numpy.save(solid, metadata)
    return content


def read_arrays(
    path: str, wanted: Container[str] | None = None
) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, or the `wanted` ones of them alone, and its metadata; SafetensorError
    where it is damaged."""
    import safetensors

    with safetensors.safe_open(path, framework="np") as file:
        stored = list(file.keys())
        names = [name for name in stored if wanted is None or name in wanted]
        if any(file.get_slice(name).get_dtype() == "BF16" for name in names):
            load_bfloat16()  # without which safetensors cannot make such an array
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
