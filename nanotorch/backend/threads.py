"""How many threads compute: those of NumPy's BLAS, and those that `workers` runs side by side.

And `dot`, the product of two matrices on as many threads, and in such parts, as pay; and sums that
are products with ones. All are read off the shapes and the BLAS's kernels alone, by limits that
were measured.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy

from nanotorch.backend.devices import ones

_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_blas: tuple[Callable[[int], Any], Callable[[], int]] | bool | None = None
_kernels = ""

# Of each block of `one_blas_thread` that is open, how many threads there were before the first.
_before: list[int] = []
_lock = threading.Lock()

# What OpenBLAS calls its functions, in NumPy's wheels and in distributions.
_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "")


def _load_blas() -> tuple[Callable[[int], Any], Callable[[], int]] | None:
    """(set, get) of the OpenBLAS that came with NumPy; None for any other BLAS."""
    global _kernels
    package = os.path.dirname(numpy.__file__)
    for folder in (f"{os.path.dirname(package)}/numpy.libs", f"{package}/.dylibs"):
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        for file in (file for file in files if "openblas" in file):
            library = ctypes.CDLL(os.path.join(folder, file))
            for prefix in _PREFIXES:
                for suffix in _SUFFIXES:
                    setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                    getter = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                    namer = getattr(library, f"{prefix}_get_corename{suffix}", None)
                    if setter is not None and getter is not None:
                        if namer is not None:
                            namer.restype = ctypes.c_char_p
                            _kernels = namer().decode()
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


def blas_kernels() -> str:
    """The processor that OpenBLAS's kernels are for, such as Haswell; "" for another BLAS."""
    _blas_functions()
    return _kernels


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


# Multiplications of two numbers in a product of matrices: up to WHOLE it is made as it is, up to
# ALONE OpenBLAS itself takes one thread, and up to BETTER_ALONE (4 MFLOP) we let it. A second one
# wins some microseconds where a core is free, and loses milliseconds where none is.
WHOLE, ALONE, BETTER_ALONE = 1 << 17, 1 << 18, 1 << 21

# OpenBLAS's kernels for AVX-512 multiply small matrices as they lie, where it copies larger ones
# first: up to SMALL multiplications, and in a @ b.T up to SMALL_RESULT elements.
AVX512 = ("SkylakeX", "Cooperlake", "SapphireRapids")
SMALL, SMALL_RESULT = 1_000_000, 1200
# What it pays to cut for them: results, or inner dimensions, no longer than NARROW; and in a @ b.T
# also some that are longer, if the inner dimension is longer than LONG and TIMES the result's rows.
NARROW, ROWS, LONG, TIMES = 10, 32, 64, 8
# And float32 a @ b.T of NARROW rows up to this, in parts on one thread: 2.4 times as fast as whole
# on two.
MOST_OF_FEW_ROWS = 1 << 23

# A matrix times a vector: OpenBLAS multiplies the last elements of all rows, beyond a multiple of
# four, after all others. Of this many elements they are still in the cache by then; where rows are
# longer than SHORT it no longer matters.
CACHED, SHORT = 1 << 17, 128
# Its kernels for float32 and so few columns take no more than so many rows.
FEW_COLUMNS, FEW_ROWS = range(3, 8), 1 << 14


def _one_thread_anyway() -> bool:
    """Whether BLAS uses one thread, and not only within a block of `one_blas_thread`."""
    functions = _blas_functions()
    return functions is None or (functions[1]() == 1 and not _before)


def dot(a: Any, b: Any, out: Any = None) -> Any:
    """numpy.dot of the matrices a (rows, inner) and b (inner, columns)."""
    rows = a.shape[0]
    work = rows * b.size
    if work <= WHOLE and (rows <= FEW_ROWS or b.shape[1] > 1):
        return numpy.dot(a, b, out=out)
    if not (a.flags.forc and b.flags.forc) and _as_it_lies(a) and _as_it_lies(b):
        return numpy.matmul(a, b, out=out)  # dot would copy what is part of a larger matrix
    columns = b.shape[1]
    if rows == 1 or (work > BETTER_ALONE and columns > 1 and not _few_rows(a, b, work)):
        return numpy.dot(a, b, out=out)
    length = length_of_rows(a) if columns == 1 else length_for_small_kernels(a, b)
    if length >= max(rows, columns) or not (length or ALONE < work <= BETTER_ALONE):
        return numpy.dot(a, b, out=out)
    if type(a) is not numpy.ndarray:  # it notes the calls of a kernel
        return a.__array_function__(dot, (), (a, b), {"out": out})
    if length:
        return in_parts(a, b, length, out)
    if _one_thread_anyway():
        return numpy.dot(a, b, out=out)
    with one_blas_thread():
        return numpy.dot(a, b, out=out)


CHUNK = 4096  # rows whose sums one product takes
ONE_THREAD = 8192  # elements of a matrix, up to which OpenBLAS itself takes one thread for a vector


def column_sums(x: Any, out: Any = None) -> Any:
    """The sums of the columns of a contiguous matrix, as products of ones with CHUNK rows each: of
    narrow matrices in an eighth of the time of NumPy's sum, which adds row to row. On one thread,
    so that the bits are the same for any number of them."""
    if type(x) is not numpy.ndarray:  # it notes the calls of a kernel
        return x.__array_function__(column_sums, (), (x,), {"out": out})
    rows, columns = x.shape
    if x.size <= ONE_THREAD:
        return numpy.dot(ones(rows, x.dtype.char), x, out=out)
    with one_blas_thread():
        if rows <= CHUNK:
            return numpy.dot(ones(rows, x.dtype.char), x, out=out)
        whole = rows - rows % CHUNK
        parts = numpy.matmul(ones(CHUNK, x.dtype.char), x[:whole].reshape(-1, CHUNK, columns))
        y = numpy.add.reduce(parts, axis=0, out=out)
        if whole < rows:
            y += numpy.dot(ones(rows - whole, x.dtype.char), x[whole:])
    return y


def _as_it_lies(x: Any) -> bool:
    """Whether BLAS takes the matrix x without a copy: one row, or column, lies behind the other."""
    (rows, columns), (down, across), size = x.shape, x.strides, x.itemsize
    return bool(
        (across == size and down >= columns * size) or (down == size and across >= rows * size)
    )


def _few_rows(a: Any, b: Any, work: int) -> bool:
    """Whether a @ b is float32, of few rows and a transposed b, and not too large to be cut."""
    few = a.shape[0] <= NARROW and a.itemsize == 4 and b.strides[1] != 4
    return few and work <= MOST_OF_FEW_ROWS


def length_for_small_kernels(a: Any, b: Any) -> int:
    """How much of the longer dimension of a @ b they take at once; 0 where they do not pay."""
    (rows, inner), columns, size = a.shape, b.shape[1], a.itemsize
    b_turned = b.strides[1] != size
    result = min(SMALL_RESULT, SMALL // inner) if b_turned else SMALL // inner
    if rows * columns <= result:
        length = max(rows, columns)
        return length if rows * columns * inner <= ALONE or blas_kernels() in AVX512 else 0
    turned = a.strides[1] != size
    if turned and (b_turned or rows > NARROW or a.strides[0] != size):
        return 0
    shorter = min(rows, columns)
    if not b_turned:
        pays = min(shorter, inner) <= NARROW
    elif inner < max(LONG, TIMES * shorter) or b.strides[0] != size:
        pays = False
    else:
        pays = shorter <= NARROW or (rows == shorter and rows <= ROWS)
    if pays and result >= 2 * shorter and blas_kernels() in AVX512:
        return int(result // shorter)
    return 0


def length_of_rows(a: Any) -> int:
    """How many rows of a it is best to multiply by a vector at once."""
    rows, inner = a.shape
    kernels = blas_kernels()
    if not kernels or inner > SHORT or a.strides[1] != a.itemsize:
        return int(rows)
    if a.itemsize == 4 and inner in FEW_COLUMNS and kernels in AVX512:
        return FEW_ROWS
    if inner % 4 == 0 or _before:
        return int(rows)
    elements = CACHED if _one_thread_anyway() else 4 * CACHED
    return int(elements // inner) & -16  # its kernels take rows by powers of two: the same bits


def in_parts(a: Any, b: Any, length: int, out: Any) -> Any:
    """a @ b, by parts of its longer dimension, of equal length and none longer than this."""
    rows, columns = a.shape[0], b.shape[1]
    y = numpy.empty((rows, columns), numpy.result_type(a, b)) if out is None else out
    end = max(rows, columns)
    parts = -(-end // length)
    step = min(length, (-(-end // parts) + 15) & -16)
    for low in range(0, end, step):
        part = slice(low, low + step)
        if rows >= columns:
            numpy.dot(a[part], b, out=y[part])
        else:
            numpy.matmul(a, b[:, part], out=y[:, part])
    return y
