"""The rows of a .npy file, read in pieces with pread and never mapped.

A mapping counts as memory of the process, and reads a random row at the price of a page.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import InputError, RunFailure, reading

WRITTEN_AT_ONCE = 2**20  # values


def array_header(path: Path, file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns are adjacent, and dtype of the array that begins in an open file.

    InputError for an array that declares other values than its `size` bytes can hold.
    """
    version = np.lib.format.read_magic(file)
    formats: Any = np.lib.format
    old = version == (1, 0)
    read = formats.read_array_header_1_0 if old else formats.read_array_header_2_0
    try:
        shape, by_column, kind = read(file)
    except MemoryError:  # what Python's parser says of many brackets within each other
        raise InputError(f"{path}: declares an array in a header nested too deeply") from None
    if kind.hasobject:
        raise InputError(f"{path}: holds Python objects, which are not read; expected numbers")
    # Values of no bytes, and dimensions beside an empty one, are counted as well as stored ones.
    lengths, needed = (0, *shape), math.prod(shape) * max(1, kind.itemsize)
    if min(lengths) < 0 or max(lengths) > size or file.tell() + needed > size:
        raise InputError(f"{path}: declares an array of shape {shape}, which its bytes cannot hold")
    return shape, by_column, kind


def load_array(path: Path, what: str, mapped: bool = False) -> NDArray[Any]:
    """The array of a file, in memory or `mapped`: on the disk, read where it is asked for."""
    with reading(path, what):
        with path.open("rb") as file:
            array_header(path, file, path.stat().st_size)
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    return array


class RowFile:
    """A matrix of numbers in a .npy file.

    `shown` is the file that errors name, where this one is a copy of it. A file that changes while
    it is read raises RunFailure: its rows would be neither the old nor the new ones.
    """

    def __init__(self, path: Path, shown: str | None = None) -> None:
        self.path, self.shown = path, shown or str(path)
        self._seeking = threading.Lock()  # of systems without preadv
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        facts = os.fstat(self._handle)
        self._stamp = (facts.st_size, facts.st_mtime_ns)
        with reading(path, "an array file"), path.open("rb") as file:
            shape, self._by_column, kind = array_header(path, file, facts.st_size)
            self._start = file.tell()
        if kind.kind not in "fiub":
            raise InputError(f"{path}: the array: expected numbers, found {kind}")
        if len(shape) != 2:
            raise InputError(f"{path}: the array: expected rows and columns, found shape {shape}")
        if math.prod(shape) == 0:
            raise InputError(f"{path}: the array: there are no {'columns' if shape[0] else 'rows'}")
        self.rows, self.columns = shape
        self._stored, self.dtype = kind, kind.newbyteorder("=")

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def __len__(self) -> int:
        return self.rows

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows start … stop, shape (stop - start, columns), in `out` where it is large enough."""
        facts = os.fstat(self._handle)
        if (facts.st_size, facts.st_mtime_ns) != self._stamp:
            raise RunFailure(f"{self.shown}: the file was changed while it was read; start again")
        count, size = stop - start, self._stored.itemsize
        if self._by_column:
            values = np.empty((self.columns, count), self._stored)
            for column, cells in enumerate(values):
                self._fill(cells, (column * self.rows + start) * size)
            return values.T.astype(self.dtype)
        if out is None or out.dtype != self._stored or len(out) < count:
            out = np.empty((count, self.columns), self._stored)
        values = out[:count]
        self._fill(values, start * self.columns * size)
        return values if self._stored == self.dtype else values.astype(self.dtype)

    def _fill(self, values: NDArray[Any], place: int) -> None:
        """Read bytes from a place after the header until the array is full."""
        view = memoryview(values.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        place += self._start
        while view:
            if hasattr(os, "preadv"):
                count = os.preadv(self._handle, [view], place)
            else:
                with self._seeking:
                    os.lseek(self._handle, place, os.SEEK_SET)
                    piece = os.read(self._handle, len(view))
                count = len(piece)
                view[:count] = piece
            if not count:
                raise RunFailure(f"{self.shown}: the file was cut off while it was read")
            view, place = view[count:], place + count

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that these rows are going to be read."""
        if hasattr(os, "posix_fadvise") and not self._by_column:
            size = self.columns * self._stored.itemsize
            place = self._start + start * size
            os.posix_fadvise(self._handle, place, (stop - start) * size, os.POSIX_FADV_WILLNEED)


class MatrixWriter:
    """Writes rows of numbers into a new .npy file, whose number of rows is known at the end."""

    def __init__(self, path: Path, dtype: Any = np.float64) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self._file = path.open("w+b")
        self.begin(0)

    def begin(self, columns: int) -> None:
        """Begin anew, with rows of so many numbers."""
        self.rows, self.columns = 0, columns
        self._file.seek(0)
        self._file.truncate()
        self._header()
        self._start = self._file.tell()

    def _header(self) -> None:
        shape = (self.rows, self.columns)
        kind = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": kind, "fortran_order": False, "shape": shape}
        # The header has room for any number of rows.
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(self, values: NDArray[Any]) -> None:
        """Write the next rows."""
        self.rows += len(values)
        self._file.write(np.ascontiguousarray(values, self.dtype).data)

    def rewrite(self, change: Callable[[NDArray[Any]], None]) -> None:
        """Let `change` change all rows, some at a time."""
        step = max(1, WRITTEN_AT_ONCE // max(1, self.columns))
        for first in range(0, self.rows, step):
            place = self._start + first * self.columns * self.dtype.itemsize
            self._file.seek(place)
            size = min(step, self.rows - first) * self.columns
            values = np.fromfile(self._file, self.dtype, size).reshape(-1, self.columns)
            change(values)
            self._file.seek(place)
            self._file.write(values.data)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Say in the header how many rows there are."""
        self._file.seek(0)
        self._header()
        if self._file.tell() != self._start:
            raise RuntimeError("the header of an array has another length than before")
        self._file.close()
