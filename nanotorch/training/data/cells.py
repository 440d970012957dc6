"""What the cells of a text file mean: each column as numbers, or as positions in its texts."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.hashing import numbers_of_cells
from nanotorch.training.data.layout import Layout
from nanotorch.training.data.values import MISSING, NO_NUMBER, is_number

MOST_TEXTS = 2**20  # distinct cells of a column in a file that is not held in memory


@dataclass
class Meaning:
    """What cells stand for: numbers, or positions in their sorted texts."""

    values: NDArray[Any]
    texts: list[str] | None = None
    odd_number: str | None = None  # one that is not written plainly
    odd_gap: str | None = None  # a cell that is missing though it is no usual word for that

    def at(self, codes: NDArray[Any]) -> Meaning:
        """That of a column, given for each row the position of its cell among these cells."""
        return replace(self, values=self.values[codes.astype(np.intp)])


def plain_numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Cells that are all plain numbers; None for any others."""
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    text = "".join(cells)
    return numbers if text.isascii() and "_" not in text else None  # which float() would allow


def meaning(cells: Collection[str], layout: Layout, in_order: bool = False) -> Meaning:
    """What distinct cells of a column stand for, which may be known to be `in_order`."""
    distinct = list(map(str.strip, cells))
    in_order = in_order and distinct == cells
    present = _without(distinct, layout.missing)
    if present and all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in present):
        distinct = [cell if cell in layout.missing else cell[1:-1].strip() for cell in distinct]
        present, in_order = _without(distinct, layout.missing), False
    missing: Collection[str] = layout.missing
    texts = odd_number = odd_gap = None
    numbers: Any = layout.numbers.read(present)
    if numbers is None and layout.missing is MISSING and len(present) > 1:
        first = next((cell for cell in present if cell not in NO_NUMBER), "")
        if layout.numbers.read([first]):  # as the others may, and most texts do not
            words = [cell for cell in present if cell in NO_NUMBER]
            others = [cell for cell in present if cell not in NO_NUMBER]
            if words and (numbers := layout.numbers.read(others)):
                missing, odd_gap = MISSING | NO_NUMBER, words[0]
    if numbers is not None:
        odd_number = next((c for c in present if c not in missing and not is_number(c)), None)
    elif in_order:
        texts, numbers = present, np.arange(len(present))
    else:
        texts = sorted(set(present))
        places = dict(zip(texts, itertools.count()))
        numbers = [places[cell] for cell in present]
    values = np.array(numbers, np.float64)
    if len(values) < len(distinct):
        values = np.full(len(distinct), np.nan)
        values[[cell not in missing for cell in distinct]] = numbers
    return Meaning(values, texts, odd_number, odd_gap)


def _without(cells: list[str], words: frozenset[str]) -> list[str]:
    """The cells that are none of some words: itself, where none is."""
    return cells if words.isdisjoint(cells) else [cell for cell in cells if cell not in words]


@dataclass
class Cells:
    """A column that is read block by block: as plain numbers as long as it holds nothing else,
    and otherwise as positions among its distinct cells."""

    plain: bool
    blocks: list[NDArray[Any]] = field(default_factory=list)
    distinct: dict[str, int] = field(default_factory=dict)
    has_numbers: bool = False
    is_empty: bool = True  # of numbers
    crowded: bool = False  # whether there are too many distinct cells to tell them apart
    # Of a crowded column, the numbers of the cells in its first rows, which are positions among
    # them; the rows after these are the numbers themselves.
    first_numbers: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    first_rows: int = 0

    @property
    def is_blank(self) -> bool:
        return self.is_empty if self.plain else not any(map(str.strip, self.distinct))

    def add(self, cells: Sequence[str], layout: Layout) -> bool:
        """Add a block; False for text below numbers, which were not kept as text."""
        if self.plain:
            numbers = plain_numbers(cells)
            if numbers is None:
                present = [cell if cell.strip() not in layout.missing else "nan" for cell in cells]
                numbers = plain_numbers(present)
            if numbers is not None:
                return self.add_numbers(numbers)
        if self.has_numbers:
            return False
        self.plain = False
        places = self.distinct
        for cell in dict.fromkeys(cells):
            places.setdefault(cell, len(places))
        self.blocks.append(np.fromiter(map(places.__getitem__, cells), np.int32, len(cells)))
        return True

    def add_numbers(self, numbers: NDArray[np.float64]) -> bool:
        """Add a block of numbers; True."""
        self.blocks.append(numbers)
        self.has_numbers = True
        self.is_empty = self.is_empty and bool(np.isnan(numbers).all())
        return True

    def add_codes(self, codes: NDArray[Any], cells: Sequence[str]) -> bool:
        """Add a block of positions among some cells; False below numbers."""
        if self.has_numbers:
            return False
        self.plain = False
        places = [self.distinct.setdefault(cell, len(self.distinct)) for cell in cells]
        self.blocks.append(np.array(places, np.int32)[codes])
        return True

    def release(self, layout: Layout) -> NDArray[np.float64]:
        """The blocks so far as one, which are not held here any more."""
        values = np.concatenate(self.blocks).astype(np.float64)
        self.blocks.clear()
        if self.crowded:
            values = numbers_of_cells(self.distinct, layout.missing)[values.astype(np.int64)]
        else:
            self.first_rows += len(values)
            if len(self.distinct) > MOST_TEXTS:
                self.crowded = True
                self.first_numbers = numbers_of_cells(self.distinct, layout.missing)
        if self.crowded:
            self.distinct = {"": 0}
        return values

    def meaning(self, layout: Layout) -> Meaning:
        """That of all blocks."""
        values = np.concatenate(self.blocks) if self.blocks else np.empty(0, np.int64)
        return Meaning(values) if self.plain else meaning(self.distinct, layout).at(values)


@dataclass
class TextTable:
    """What a text file holds; text columns as positions in their categories."""

    names: list[str]
    values: NDArray[Any]
    categories: dict[str, list[str]]
    # Of the rows; where they follow each other, of the first one; None where they are not known.
    lines: NDArray[np.int64] | int | None
    notes: list[str] = field(default_factory=list)
    guesses: dict[str, Any] = field(default_factory=dict)
    crowded: list[str] = field(default_factory=list)  # columns of too many texts to tell apart
    digest: str | None = None  # of the file, where it was computed

    def facts(self) -> dict[str, Any]:
        """All but the values, as a copy of a file keeps it."""
        lines = self.lines.tolist() if isinstance(self.lines, np.ndarray) else self.lines
        return {key: value for key, value in vars(self).items() if key != "values"} | {
            "lines": lines
        }


def text_table(
    names: list[str],
    values: NDArray[np.float64],
    meanings: Mapping[int, Meaning],
    lines: NDArray[np.int64] | int | None,
    repeated: int = 0,
) -> TextTable:
    """The table of a matrix and of what the cells of some columns mean, with words about cells that
    are not written as usual."""
    parts = [(names[at], part) for at, part in meanings.items()]
    categories = {name: part.texts for name, part in parts if part.texts is not None}
    table = TextTable(names, values, categories, lines)
    for key, words in (("odd_number", "read as numbers"), ("odd_gap", "missing among numbers")):
        cells = [(name, getattr(part, key)) for name, part in parts]
        cells = [(name, cell) for name, cell in cells if cell is not None]
        if cells:
            listing = ", ".join(name for name, _ in cells[:5]) + (" …" if len(cells) > 5 else "")
            table.notes.append(f"cells written like {cells[0][1]!r} are {words}: {listing}")
    if repeated:
        table.notes.append(f"{repeated} rows repeat the names of the columns: left out")
    return table
