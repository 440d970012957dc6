"""Tables whose rows stay on the disk: they are read block by block, and never all at once."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch import datasets
from nanotorch.training.config.sections import Reading
from nanotorch.training.data.cells import MOST_TEXTS
from nanotorch.training.data.conversion import convert_parquet, convert_text
from nanotorch.training.data.copies import Facts, converted, text_keys
from nanotorch.training.data.frames import parquet_size
from nanotorch.training.data.hashing import buckets_wanted
from nanotorch.training.data.row_files import RowFile
from nanotorch.training.data.tables import TEXT, Numbers, Table, read_table, translated
from nanotorch.training.data.values import is_number

BLOCK = 4096  # rows read together
TOGETHER = 16  # blocks that are shuffled together
USUAL = 10**9  # bytes that data may take in memory, unless data.memory says otherwise
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def bytes_of(size: str) -> int:
    """The bytes in "2 GB".

    >>> bytes_of("1.5 MB")
    1500000
    """
    number, unit = re.fullmatch(r"([\d.]+) ?([A-Za-z]+)", size).groups()  # type: ignore[union-attr]
    return int(float(number) * UNITS[unit.upper()])


@functools.cache
def usual_memory() -> int:
    """1 GB, or half the memory of a small machine."""
    if not hasattr(os, "sysconf"):
        return USUAL
    return min(USUAL, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def memory_of(reading: Reading) -> int:
    """The bytes that the rows of a file may take in memory."""
    size = getattr(reading, "memory", None)  # of a run
    return usual_memory() if size is None else bytes_of(size)


@dataclass
class StreamedTable(Table):
    """Rows and named columns of numbers, of which a block of rows at a time is in memory.

    - `block`: rows of a block: 4,096, or fewer where blocks as large would take too much `memory`
    - `numbers`: for positions of columns of text, the numbers that stand for their texts
    - `absent`: numbers that mean that a value is missing
    - `crowded`: columns of too many texts to tell apart; numbers stand for them, to be hashed
    - `needed`: columns in which rows that are used have no gap
    - `starts`: the number of the first row of each block, and that of all rows
    """

    file: RowFile = field(kw_only=True)
    memory: int = field(kw_only=True)
    absent: list[float] = field(default_factory=list, kw_only=True)
    crowded: list[str] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        row = len(self.names) * max(8, self.file.dtype.itemsize)
        self.block = max(16, min(BLOCK, self.memory // (2 * TOGETHER * row)))
        edges = [*range(0, len(self.file), self.block), len(self.file)]
        self.starts = np.array(edges, dtype=np.int64)
        self._edges = self.starts  # in the file, whatever rows are left out
        self.needed: Sequence[int] = ()
        self.numbers: dict[int, NDArray[np.float64]] = {}
        self._plain = [at for at, name in enumerate(self.names) if name not in self.categories]
        super().__post_init__()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self._edges) - 1

    def block_table(self, number: int, out: NDArray[Any] | None = None) -> Table:
        """A block as a table; its values lie in `out` where that is large enough."""
        begin, end = self._edges[number : number + 2].tolist()
        values = self.file.read(begin, end, out)
        if self.absent or self.numbers:
            values = values.astype(np.float64)
        if self.absent:
            gaps = np.isin(values[:, self._plain], self.absent)
            values[:, self._plain] = np.where(gaps, np.nan, values[:, self._plain])
        for position, numbers in self.numbers.items():
            values[:, position] = translated(values[:, position], numbers)
        first, lines = int(self.starts[number]), None
        if len(self.needed):
            values = values[~np.isnan(values[:, self.needed]).any(axis=1)]
        elif isinstance(self.lines, int):
            lines = self.lines + begin
        names, categories = self.names, self.categories
        piece = _Piece(self.origin, names, values, categories, lines=lines, first=first)
        piece.guesses = self.guesses
        return piece

    def announce(self, numbers: list[int]) -> None:
        """Tell the system that these blocks are going to be read."""
        for number in numbers:
            self.file.announce(*self._edges[number : number + 2].tolist())

    def blocks(self) -> Iterator[Table]:
        """All blocks in their order, each in memory that the next one takes over."""
        out = np.empty((self.block, len(self.names)), self.file.dtype)
        for number in range(self.count):
            yield self.block_table(number, out)

    def chunks(self, rows: int) -> Iterator[Numbers]:
        return (block.values for block in self.blocks())

    def translate(self, position: int, numbers: NDArray[np.float64]) -> None:
        self.numbers[position] = numbers

    def mask(self, keep: NDArray[np.bool_]) -> NDArray[Any]:
        return np.array([np.count_nonzero(keep)])

    def only(self, keep: NDArray[Any], needed: Sequence[int] = ()) -> None:
        """Leave out rows with a gap in a `needed` column; `keep` is how many stay in each block."""
        self.starts = np.concatenate([[0], np.cumsum(keep)])
        self.needed = list(needed)


class _Piece(Table):
    """Some rows of a table that has been checked."""

    def __post_init__(self) -> None:
        pass


def open_table(source: str, data: Reading) -> Table:
    """The table of a file or a bundled data set, whose rows stay on the disk where they would take
    more memory than `data.memory`: those of a .npy file, or of a copy of a Parquet or text file
    that is converted in pieces, since blocks in any order can be read of numbers alone."""
    path, memory = Path(source), memory_of(data)
    ending = path.suffix.lower()
    if source in datasets.names() or not path.is_file():
        return read_table(source, data)
    if ending == ".npy":
        file = RowFile(path)
        if file.rows * file.columns * file.dtype.itemsize > memory:
            names = [str(number) for number in range(file.columns)]
            return _streamed(source, {"names": names}, file, data)
    elif ending == ".parquet":
        if math.prod(parquet_size(path)) * 8 > memory:
            copy = converted(path, data, {"parquet": True}, convert_parquet)
            return _streamed(str(path), *copy, data)
    elif ending in TEXT and path.stat().st_size > memory:
        copy = converted(path, data, text_keys(data), convert_text)
        return _streamed(str(path), *copy, data)
    return read_table(source, data)


def _streamed(source: str, facts: Facts, file: RowFile, data: Reading) -> StreamedTable:
    names, notes = facts["names"], list(facts.get("notes", []))
    hashed = getattr(data, "hash", {})
    crowded = [name for name in facts.get("crowded", ()) if buckets_wanted(name, hashed) is None]
    if crowded:
        listing = ", ".join(crowded)
        notes.append(f"more than {MOST_TEXTS:,} different texts, LEFT OUT: {listing}")
    return StreamedTable(
        source,
        names,
        np.empty((0, len(names))),
        {name: texts for name, texts in facts.get("categories", {}).items() if texts},
        lines=facts.get("lines"),
        notes=notes,
        guesses=dict(facts.get("guesses", {})),
        digest=facts.get("digest"),
        file=file,
        memory=memory_of(data),
        crowded=facts.get("crowded", []),
        absent=[float(word) for word in data.missing_values or () if is_number(str(word))],
    )
