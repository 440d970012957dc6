"""Writes down what CuPy has: its names, their parameters, and the loops of its ufuncs.

    python -m venv /tmp/cupy && /tmp/cupy/bin/pip install cupy-cuda13x
    /tmp/cupy/bin/python scripts/cupy_names.py tests/cupy_names.json

Needs CuPy but no GPU and no driver. The tests hold the package to this file, and the look-alike of
CuPy that they run on knows nothing beyond it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

import cupy
import cupyx

TYPES = re.compile(r"^(?:[A-Za-z_][\w.]*(?:\[.*\])? )+(?=\w)")

# What every ufunc takes besides its operands; two of them leave it out of their docstrings.
UFUNC_OPTIONS = "out=None, *, casting='same_kind', dtype=None"


def plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter without its annotation, and with None for a default that is no plain value."""
    default = parameter.default
    if default is not parameter.empty and not isinstance(default, bool | int | float | str | None):
        default = None
    return parameter.replace(annotation=parameter.empty, default=default)


def from_docstring(value: Any) -> str | None:
    """The parameters that a compiled function states in the first line of its docstring."""
    line = (getattr(value, "__doc__", None) or "").split("\n")[0].replace("\\*", "*")
    found = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?$", line)
    if found is None:
        return None
    parameters = [TYPES.sub("", p.strip()) for p in found[1].split(",") if p.strip()]
    text = ", ".join(p for p in parameters if p not in ("self", "cls"))
    text = re.sub(r"^/, ", "", text)
    try:
        compile(f"lambda {text}: 0", "", "eval")
    except SyntaxError:
        return None
    return f"({text})"


def parameters_of(value: Any, method: bool) -> str | None:
    """The parameters of a function, as a Python signature; None where nothing tells them."""
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):
        return from_docstring(value)
    parameters = [plain(p) for p in signature.parameters.values()]
    if method and parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    return str(inspect.Signature(parameters))


def described(value: Any, method: bool) -> str:
    """One name in a line: its kind, then its parameters or loops where it has them."""
    if isinstance(value, cupy.ufunc):
        operands = ", ".join(f"x{i + 1}" for i in range(value.nin))
        # Loops of bfloat16 ("E") come with ml_dtypes, beside each of float16.
        loops = " ".join(loop for loop in value.types if "E" not in loop)
        return f"ufunc ({operands}, /, {UFUNC_OPTIONS}) {loops}"
    if inspect.ismodule(value):
        return "module"
    if inspect.isclass(value):
        return "type"
    if callable(value):
        return f"function {parameters_of(value, method) or '(*args, **kwargs)'}"
    return "attribute"


def names_of(owner: Any) -> dict[str, str]:
    """Every public name of a module or class."""
    method = inspect.isclass(owner)
    return {
        name: described(getattr(owner, name), method)
        for name in sorted(dir(owner))
        if not name.startswith("_")
    }


def contents() -> dict[str, Any]:
    """The names of CuPy's modules and classes that arrays, devices and streams are used through."""
    cuda = cupy.cuda
    owners = {
        "cupy": cupy, "cupy.ndarray": cupy.ndarray, "cupy.ufunc": cupy.ufunc,
        "cupy.linalg": cupy.linalg, "cupy.fft": cupy.fft, "cupy.random": cupy.random,
        "cupy.cuda": cuda, "cupy.cuda.Device": cuda.Device, "cupy.cuda.Stream": cuda.Stream,
        "cupy.cuda.Event": cuda.Event, "cupy.cuda.MemoryPool": cuda.MemoryPool,
        "cupy.cuda.MemoryPointer": cuda.MemoryPointer,
        "cupy.cuda.PinnedMemoryPool": cuda.PinnedMemoryPool, "cupy.cuda.runtime": cuda.runtime,
        "cupyx": cupyx,
    }  # fmt: skip
    return {"version": cupy.__version__, **{path: names_of(o) for path, o in owners.items()}}


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(contents(), file, indent=0, sort_keys=True)
        file.write("\n")
