"""Kernels in CUDA C: the `*.cu` files beside this module, compiled by CuPy at their first use.

A file says in lines of its own which kernels it has, and for which element types:

    // kernel bce_forward: e f d        templates over one type
    // kernel gather: el fl dl          over two
    // kernel advance:                  no template

The letters are those of NumPy's `dtype.char`. `#include "NAME.cuh"` is replaced by the file of that
name in this folder. A kernel sees memory alone, neither shapes nor strides: whoever launches it
gives it arrays that are C-contiguous and on the current device, and numbers as NumPy scalars of the
parameter's size (`numpy.int64(n)` for `long long n`). A kernel that is launched with more than 256
threads a block says so by `__launch_bounds__`, so that the compiler leaves registers for all.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

FOLDER = os.path.dirname(__file__)
OPTIONS = ("-std=c++17",)
# The C type of each dtype letter; "E" is the bfloat16 of ml_dtypes, "l" and "q" are both 64 bits
# wide. Digits: how the lanes of a warp share rows, see rows_to_one.cu; 16 bytes.
C_TYPES = {
    "e": "__half", "E": "__nv_bfloat16", "f": "float", "d": "double", "?": "bool",
    "b": "signed char", "B": "unsigned char", "h": "short", "H": "unsigned short", "i": "int",
    "I": "unsigned int", "l": "long long", "q": "long long", "L": "unsigned long long",
    "Q": "unsigned long long", "1": "Lanes<8, 8, 4>", "2": "Lanes<32, 4, 8>",
    "3": "Lanes<32, 1, 32>", "4": "Sixteen",
}  # fmt: skip
# Patterns, compiled when a kernel is first asked for.
_DECLARED = r"(?m)^// kernel (\w+):(.*)$"
_INCLUDED = r'(?m)^#include "(\w+\.cuh)"$'

_kernels: dict[tuple[Any, int, str, str, str], Any] = {}


def files() -> list[str]:
    """The names of the `*.cu` files, without the suffix."""
    names = [name.partition(".") for name in os.listdir(FOLDER)]
    return sorted(stem for stem, _, ending in names if ending == "cu")


def _read(name: str) -> str:
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


def included(text: str) -> str:
    """The text with the files that it includes in their places."""
    return re.sub(_INCLUDED, lambda m: _read(m[1]), text)


@functools.cache
def source(file: str) -> str:
    """The text of a file as it is compiled."""
    return included(_read(f"{file}.cu"))


def expression(kernel: str, kinds: str) -> str:
    """The C++ name of a kernel for these types: bce_forward<float>."""
    return f"{kernel}<{', '.join(C_TYPES[kind] for kind in kinds)}>" if kinds else kernel


@functools.cache
def instances(file: str, only: str | None = None) -> tuple[str, ...]:
    """The C++ names of all that a file declares, or of that for `only` some element types."""
    return tuple(
        expression(kernel, kinds)
        for kernel, types in re.findall(_DECLARED, source(file))
        for kinds in types.split() or [""]
        if only is None or kinds == only
    )


@functools.cache
def available(xp: Any) -> bool:
    """Whether the array module compiles kernels of ours."""
    return hasattr(xp, "RawModule")


@functools.cache
def _module(xp: Any, device: int, file: str, kinds: str) -> Any:
    """A file compiled for some element types and a device, which is the current one: to compile it
    for all of them takes several times as long."""
    names = instances(file, kinds)
    return xp.RawModule(code=source(file), options=OPTIONS, name_expressions=names)


def launch(
    xp: Any, file: str, kernel: str, kinds: str, grid: tuple[int, ...], block: tuple[int, ...],
    arguments: tuple[Any, ...], shared: int = 0,
) -> None:  # fmt: skip
    """Runs `kernel<kinds>` of `file.cu` on the current device and stream.

    `grid` blocks of `block` threads, with `shared` bytes of dynamic shared memory each.
    """
    key = (xp, xp.cuda.get_device_id(), file, kernel, kinds)
    run = _kernels.get(key)
    if run is None:
        module = _module(xp, key[1], file, kinds)
        run = _kernels[key] = module.get_function(expression(kernel, kinds))
    run(grid, block, arguments, shared_mem=shared)
