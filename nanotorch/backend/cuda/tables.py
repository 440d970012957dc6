"""Tables of arrays for one launch of a kernel of `optimizers.cu`, and numbers sent the same way.

Both travel as arguments by value: nothing is copied to the device, and a captured launch keeps its
own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy

from nanotorch.backend.cuda.kernels import available, launch

Array = Any

MOST = 64  # arrays of a table, as optimizers.cu has it
# Elements of a block: in updates of few elements, of at least MANY, and in sums of squares.
SHORT_CHUNK, CHUNK, LONG_CHUNK, MANY = 1024, 4096, 8192, 2**22
THREADS = 256
FLOATING = "eEfd"
PARAMETER, GRADIENT, STATE = range(3)  # columns; up to three of state

_TABLE = numpy.dtype(
    [("at", "u8", (5, MOST)), ("size", "i8", (MOST,)), ("first_block", "i4", (MOST,)),
     ("numbers", "i4", (MOST,)), ("index", "i4", (MOST,)), ("count", "i4"), ("chunk", "i4")],
    align=True,
)  # fmt: skip
_MOST_NUMBERS = 256
_NUMBERS = numpy.dtype(
    [("value", "f8", (_MOST_NUMBERS,)), ("place", "i4", (_MOST_NUMBERS,)), ("count", "i4")],
    align=True,
)
NOWHERE = numpy.uint64(0)  # the null pointer


def takes(xp: Any, array: Array) -> bool:
    """Whether the kernels can work on the array: floating, and dense in either order of memory."""
    if not available(xp) or array.dtype.char not in FLOATING:
        return False
    flags = array.flags
    return bool(flags.c_contiguous or flags.f_contiguous)


def laid_out_as(array: Array, like: Array) -> bool:
    """Whether element i of one's memory belongs to element i of the other's, both being dense."""
    return bool(
        array.dtype == like.dtype and array.shape == like.shape and array.strides == like.strides
    )


class Table:
    """Up to MOST parameters, of one dtype and device, with what belongs to them.

    A row has the arrays of one: parameter, gradient, states; None where there is none.
    """

    def __init__(self, rows: Sequence[Sequence[Array | None]], chunk: int | None = None) -> None:
        self.argument = numpy.zeros(1, _TABLE)
        table = self.argument[0]
        self._at = table["at"]
        self.numbers, self.index = table["numbers"], table["index"]
        sizes = [next(array.size for array in row if array is not None) for row in rows]
        chunk = chunk or (SHORT_CHUNK if sum(sizes) < MANY else CHUNK)
        table["count"], table["chunk"] = len(rows), chunk
        self.blocks = 0
        for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            table["size"][i], table["first_block"][i] = size, self.blocks
            self.blocks += -(-size // chunk)
            for column, array in enumerate(row):
                self.put(column, i, array)

    def put(self, column: int, i: int, array: Array | None) -> None:
        """Sets the array of a row."""
        self._at[column, i] = 0 if array is None else array.data.ptr

    def launch(self, xp: Any, kernel: str, kind: str, *arguments: Any) -> None:
        """Runs a kernel on the rows, with the table as its first argument; ints become 32 bits."""
        if self.blocks:
            others = (numpy.int32(a) if type(a) is int else a for a in arguments)
            given = (self.argument, *others)
            launch(xp, "optimizers", kernel, kind, (self.blocks,), (THREADS,), given)


def tables_of(rows: Sequence[Sequence[Array | None]], chunk: int | None = None) -> list[Table]:
    """As many tables as these rows need."""
    return [Table(rows[i : i + MOST], chunk) for i in range(0, len(rows), MOST)]


def write_numbers(xp: Any, out: Array, numbers: Iterable[tuple[int, float]]) -> None:
    """Writes numbers into a flat array of the device: (place, value) pairs."""
    pairs = list(numbers)
    for start in range(0, len(pairs), _MOST_NUMBERS):
        some = pairs[start : start + _MOST_NUMBERS]
        argument = numpy.zeros(1, _NUMBERS)
        places, values = zip(*some, strict=True)
        argument["place"][0, : len(some)], argument["value"][0, : len(some)] = places, values
        argument["count"] = len(some)
        given = argument, out
        launch(xp, "optimizers", "write", out.dtype.char, (1,), (_MOST_NUMBERS,), given)


def norm_of(xp: Any, arrays: Sequence[Array], most: float) -> tuple[Array, Array]:
    """The 2-norm of all arrays of a device as one vector, and min(1, most / (norm + 1e-6)).

    Both 0-dim; the norm is of the highest dtype among the arrays, the factor float64. Sums are
    taken in an order that depends on the sizes alone.
    """
    by_kind = _by_kind(arrays)
    summed = [
        (kind, table)
        for kind, alike in by_kind.items()
        for table in tables_of([(None, array) for array in alike], LONG_CHUNK)
    ]
    count = sum(table.blocks for _, table in summed)
    highest = max(by_kind, key=FLOATING.index)
    if "e" in by_kind and highest == "E":
        highest = "f"  # where the two halves meet
    dtype = by_kind[highest][0].dtype if highest in by_kind else highest
    sums, norm, factor = xp.empty(max(count, 1), "d"), xp.empty((), dtype), xp.empty((), "d")
    done = 0
    for kind, table in summed:
        table.launch(xp, "squares", kind, sums[done:])
        done += table.blocks
    block = (min(1024, max(32, -(-count // 32) * 32)),)
    given = (norm, factor, sums, numpy.int32(count), numpy.float64(most))
    launch(xp, "optimizers", "clipping", highest, (1,), block, given)
    return norm, factor


def scale_by(xp: Any, arrays: Sequence[Array], factor: Array) -> None:
    """Multiplies arrays of a device in place by a 0-dim float64 array."""
    for kind, alike in _by_kind(arrays).items():
        for table in tables_of([(None, array) for array in alike]):
            table.launch(xp, "scale", kind, factor)


def _by_kind(arrays: Sequence[Array]) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    for array in arrays:
        found.setdefault(array.dtype.char, []).append(array)
    return found
