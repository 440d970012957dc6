"""How a text file is laid out: encoding, delimiter, header and comments, guessed from its start.

Every guess can be set by a key of `[data]`; what was guessed is reported and kept with the run.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nanotorch.training.config.sections import Reading
from nanotorch.training.data.values import MISSING, Numbers, date_format, is_number
from nanotorch.training.errors import InputError

HEAD = 2**16  # bytes that are looked at
SPACES = "spaces"  # the delimiter of cells with any number of spaces between them
DELIMITERS = (",", "\t", ";", "|")
PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
LARGEST = 2**32  # bytes that a packed file may unfold to


@dataclass
class Layout:
    """What must be known of a text file to take it apart."""

    encoding: str = "utf-8"
    delimiter: str = ","
    quotes: bool = True  # whether a quotation mark at the start of a cell opens a quoted cell
    header: bool = True
    comment: str | None = None
    skip: int = 0  # lines before the first row
    names: list[str] = field(default_factory=list)
    numbers: Numbers = field(default_factory=Numbers)
    missing: frozenset[str] = MISSING
    notes: list[str] = field(default_factory=list)

    def guesses(self, reading: Reading) -> dict[str, Any]:
        """The keys that were not set, with what was guessed."""
        values = {
            "header": self.header,
            "delimiter": self.delimiter,
            "encoding": self.encoding,
            "decimal": self.numbers.decimal,
            "comment": self.comment,
        }
        return {
            key: value
            for key, value in values.items()
            if getattr(reading, key) is None and value is not None
        }

    def rows(self, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """The cells of each row, with the number of the line where it ends."""
        if self.delimiter == SPACES:
            rows: Iterator[tuple[int, list[str]]] = (
                (number, line.split()) for number, line in enumerate(file, start=1)
            )
        else:
            quoting: Any = csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE
            reader = csv.reader(
                file, delimiter=self.delimiter, quoting=quoting, skipinitialspace=True
            )
            rows = ((reader.line_num, row) for row in reader)
        for number, row in rows:
            if not any(map(str.strip, row)):
                continue
            if self.comment is None or not row[0].lstrip().startswith(self.comment):
                yield number, row


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its ending says that it is packed."""
    ending = path.suffix.lower()
    if ending == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and "/." not in m.filename]
            members = [m for m in members if not m.filename.startswith(("__MACOSX", "."))]
            if len(members) != 1:
                names = ", ".join(member.filename for member in members[:5]) or "none"
                raise InputError(f"{path}: expected one file in it, found {names}; unpack it")
            with archive.open(members[0]) as file:
                yield file
    elif ending in PACKED:
        with PACKED[ending](path, "rb") as unpacked:
            yield unpacked
    else:
        with path.open("rb") as file:
            yield file


@contextlib.contextmanager
def opened_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """The text of a file; line ends of every kind become one character."""
    with opened(path) as file, io.TextIOWrapper(file, encoding) as text:
        yield text


def guess_layout(path: Path, reading: Reading) -> Layout:
    """The layout of a text file, from its first bytes and what the configuration says."""
    with opened(path) as file:
        head = file.read(HEAD)
    layout = Layout(comment=reading.comment)
    if reading.missing_values is not None:
        layout.missing = frozenset(["", *reading.missing_values])
    layout.encoding = reading.encoding or _encoding(path, head)
    try:
        text = codecs.getincrementaldecoder(layout.encoding)("strict").decode(head)
    except (LookupError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: data.encoding: not text in {layout.encoding}: {error}") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(head) == HEAD and len(lines) > 1:
        lines.pop()  # it may be cut off
    filled = [(number, line) for number, line in enumerate(lines) if line.strip()]
    if not filled:
        raise InputError(f"{path}: the file holds no rows")
    if layout.encoding == "latin-1":
        layout.notes.append("not UTF-8: read as Latin-1; if letters are wrong, set data.encoding")
    _choose_comment(layout, filled)
    body = [(n, line) for n, line in filled if not _is_comment(layout, line)][:200] or filled[:1]
    sample = [line for _, line in body]
    layout.delimiter = reading.delimiter or _delimiter(path, sample)
    _choose_quotes(layout, sample)
    rows = list(layout.rows(sample))
    table = [[cell.strip() for cell in row] for _, row in rows]
    layout.numbers = Numbers(reading.decimal or _decimal(layout, table), reading.thousands)
    header = _commented_header(layout, filled, table)
    if header is not None:
        layout.header, names, layout.skip = True, header, body[0][0]
    else:
        first = table[0]
        layout.header = _is_header(table) if reading.header is None else reading.header
        if reading.header is None and _named(reading) & set(first):
            layout.header = True  # the configuration calls a column by a word of the first line
        names = first if layout.header else []
        lines_of_first = rows[0][0] - 1  # further lines of a quoted cell
        layout.skip = body[0][0] + (1 + lines_of_first if layout.header else 0)
    layout.names = _names(names, table[1:] if layout.header and header is None else table)
    return layout


def _named(reading: Reading) -> set[str]:
    """The columns that a configuration names."""
    wanted = [getattr(reading, key, None) for key in ("target", "weight", "group", "time")]
    flat = [name for item in wanted for name in (item if isinstance(item, list) else [item])]
    # Columns without names are called 0, 1, 2 …: such a name says nothing about the first line.
    return {name for name in flat if isinstance(name, str) and not name.isdigit()}


def _encoding(path: Path, head: bytes) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    if b"\0" in head:
        for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            half = head[start::2]
            if len(head) > 3 and half.count(0) > 0.9 * len(half):
                return name
        raise InputError(f"{path}: not a text file (it holds zero bytes)")
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(head)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _is_comment(layout: Layout, line: str) -> bool:
    return layout.comment is not None and line.lstrip().startswith(layout.comment)


def _choose_comment(layout: Layout, filled: list[tuple[int, str]]) -> None:
    if layout.comment is None and filled[0][1].lstrip().startswith("#"):
        if not all(line.lstrip().startswith("#") for _, line in filled):
            layout.comment = "#"


def _commented_header(
    layout: Layout, filled: list[tuple[int, str]], table: list[list[str]]
) -> list[str] | None:
    """The names in the last comment before the rows, where it has as many cells as they have."""
    if layout.comment is None or not _is_comment(layout, filled[0][1]) or _is_header(table):
        return None
    before = [line for _, line in filled if _is_comment(layout, line)]
    bare = Layout(delimiter=layout.delimiter, quotes=layout.quotes)
    for _, row in bare.rows([before[0].lstrip()[len(layout.comment) :].lstrip()]):
        cells = [cell.strip() for cell in row]
        if len(cells) == len(table[0]) > 1 and not any(map(is_number, cells)):
            return cells
    return None


def _widths(rows: list[list[str]]) -> tuple[int, float]:
    """The most frequent number of cells above one, and the share of the rows that have it."""
    counts = Counter(len(row) for row in rows if len(row) > 1)
    if not counts:
        return 1, 0.0
    width, count = max(counts.items(), key=lambda item: (item[1], item[0]))
    return width, count / len(rows)


def _split(lines: list[str], delimiter: str, quotes: bool = True) -> list[list[str]]:
    try:
        return [row for _, row in Layout(delimiter=delimiter, quotes=quotes).rows(lines)]
    except csv.Error:
        return []


def _delimiter(path: Path, lines: list[str]) -> str:
    """The delimiter that gives all rows the same number of cells, and cells that are whole."""
    first = "\t" if ".tsv" in [ending.lower() for ending in path.suffixes] else ","
    best, best_score = first, 0.0
    for delimiter in dict.fromkeys((first, *DELIMITERS, SPACES)):
        rows = max(
            (_split(lines, delimiter, quotes) for quotes in (True, False)),
            key=lambda rows: (_widths(rows)[1], len(rows)),
        )
        width, share = _widths(rows)
        cells = [cell.strip() for row in rows if len(row) == width for cell in row]
        whole = sum(map(_is_whole, cells)) / max(1, len(cells))
        score = share * whole * (0.8 if delimiter == SPACES else 1.0)
        if width > 1 and score > best_score + 1e-9:
            best, best_score = delimiter, score
    return best


def _is_whole(cell: str) -> bool:
    """Whether a cell does not look like several that another delimiter would part."""
    if is_number(cell) or is_number(cell.replace(",", ".", 1)):
        return True
    words = cell.split()
    if len(words) > 1 and all(is_number(word.replace(",", ".", 1)) for word in words):
        return date_format([cell]) is not None
    return not any(delimiter in cell for delimiter in ("\t", ";", "|"))


def _choose_quotes(layout: Layout, lines: list[str]) -> None:
    if layout.delimiter != SPACES:
        with_quotes, without = (
            _widths(_split(lines, layout.delimiter, quotes)) for quotes in (True, False)
        )
        layout.quotes = with_quotes[1] >= without[1]


def _decimal(layout: Layout, table: list[list[str]]) -> str:
    """A comma, where numbers have one and the delimiter is another character."""
    if layout.delimiter == ",":
        return "."
    cells = [cell for row in table for cell in row]
    commas = sum(is_number(cell.replace(",", ".")) and "," in cell for cell in cells)
    points = sum(is_number(cell) and "." in cell for cell in cells)
    return "," if commas > points else "."


def _is_header(table: list[list[str]]) -> bool:
    """Whether the first row names the columns: it holds no number, or stands over numbers."""

    def measured(cell: str) -> bool:
        return is_number(cell) or is_number(cell.replace(",", ".", 1)) or _is_date(cell)

    first, rest = table[0], table[1:]
    columns = [
        [row[at] for row in rest if at < len(row) and row[at] not in MISSING]
        for at in range(len(first))
    ]
    words_over_numbers = any(
        column and not measured(cell) and cell not in MISSING and all(map(measured, column))
        for cell, column in zip(first, columns, strict=True)
    )
    if words_over_numbers:
        return True
    if any(map(measured, first)) or not rest:
        return not any(map(measured, first))
    repeated = sum(cell in column for cell, column in zip(first, columns, strict=True))
    return 2 * repeated < len(first)


def _is_date(cell: str) -> bool:
    return date_format([cell]) is not None


def _names(first: list[str], rest: list[list[str]]) -> list[str]:
    """Names for as many columns as the rows have."""
    width = _widths(rest)[0] if rest else len(first)
    if not first:
        return [str(number) for number in range(width)]
    if all(len(name) > 2 and name[0] == name[-1] == "'" for name in first):
        first = [name[1:-1] for name in first]
    names = [name or f"Unnamed: {number}" for number, name in enumerate(first)]
    if width == len(names) + 1:  # a delimiter at the end of each row, or names of rows before it
        ends = all(not row[-1] for row in rest if len(row) == width)
        return [*names, f"Unnamed: {len(names)}"] if ends else ["Unnamed: row", *names]
    return names
