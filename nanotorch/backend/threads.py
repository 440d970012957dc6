"""How many threads compute: those of NumPy's BLAS, and those that `workers` runs side by side."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy

_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_blas: tuple[Callable[[int], Any], Callable[[], int]] | bool | None = None

# Of each block of `one_blas_thread` that is open, how many threads there were before the first.
_before: list[int] = []
_lock = threading.Lock()

# What OpenBLAS calls its two functions, in NumPy's wheels and in distributions.
_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "")


def _load_blas() -> tuple[Callable[[int], Any], Callable[[], int]] | None:
    """(set, get) of the OpenBLAS that came with NumPy; None for any other BLAS."""
    package = os.path.dirname(numpy.__file__)
    for folder in (f"{os.path.dirname(package)}/numpy.libs", f"{package}/.dylibs"):
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        for file in (file for file in files if "openblas" in file):
            library = ctypes.CDLL(os.path.join(folder, file))
            for prefix in _PREFIXES:
                for suffix in _SUFFIXES:
                    setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                    getter = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                    if setter is not None and getter is not None:
                        return setter, getter
    return None


def _blas_functions() -> tuple[Callable[[int], Any], Callable[[], int]] | None:
    global _blas
    if _blas is None:
        _blas = _load_blas() or False
    return _blas if isinstance(_blas, tuple) else None


def get_num_threads() -> int:
    """How many threads computing may use: at first the cores that this process may run on."""
    return _threads


def set_num_threads(count: int) -> None:
    """Sets how many threads computing may use, in BLAS and over the tiles of a batch."""
    global _threads
    if not isinstance(count, int) or count < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, got {count!r}")
    _threads = count
    functions = _blas_functions()
    if functions is not None:
        functions[0](count)


class one_blas_thread:  # noqa: N801 (called like a function)
    """Within the block BLAS uses one thread, so that it does not fight with threads of ours.

    Blocks of several threads overlap: the first begins and the last one to end puts it back.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        functions = _blas_functions()
        if functions is not None:
            setter, getter = functions
            with _lock:
                _before.append(_before[-1] if _before else getter())
                setter(1)

    def __exit__(self, *error: object) -> None:
        functions = _blas_functions()
        if functions is not None:
            with _lock:
                count = _before.pop()
                if not _before:
                    functions[0](count)


# Multiplications in a product of matrices: up to the first OpenBLAS itself takes one thread, and up
# to the second (4 MFLOP) we let it.
ALONE, BETTER_ALONE = 1 << 18, 1 << 21


def dot(a: Any, b: Any, out: Any = None) -> Any:
    """numpy.dot of matrices, on one thread where several take longer to meet than to multiply.

    Which, the shapes alone decide: bits do not depend on what else the machine does. A second
    thread wins some microseconds where a core is free, and loses milliseconds where none is.
    """
    work = a.shape[0] * b.size
    if not ALONE < work <= BETTER_ALONE or a.shape[0] == 1 or b.shape[1] == 1:
        return numpy.dot(a, b, out=out)
    if type(a) is not numpy.ndarray:  # it notes the calls of a kernel
        return a.__array_function__(dot, (), (a, b), {"out": out})
    functions = _blas_functions()
    if functions is None or (functions[1]() == 1 and not _before):
        return numpy.dot(a, b, out=out)
    with one_blas_thread():
        return numpy.dot(a, b, out=out)
