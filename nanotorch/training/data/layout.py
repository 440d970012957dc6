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
import itertools
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nanotorch.training.config.sections import Reading
from nanotorch.training.data.values import MISSING, Numbers, date_format, is_number
from nanotorch.training.errors import InputError

HEAD = 2**16  # bytes that are looked at
BLOCK = 2**10  # rows taken apart at once
LONGEST_HEAD = 2**22  # bytes that are looked at where lines are long
LINES = 4  # that are looked at, however long
LINES_OF_TABLE = 200  # that tell how it is laid out
MOST_COMPRESSED = 1032  # times that deflate can shrink its input
MOST_UNPACKED = 100  # times its size that a packed text may have
SMALL = 2**26  # bytes of memory that any file may take
SPACES = "spaces"  # the delimiter of cells with any number of spaces between them
DELIMITERS = (",", "\t", ";", "|")
PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
WESTERN = {"latin-1": "Latin-1", "cp1252": "Windows-1252"}
WINDOWS = re.compile(rb"[\x80-\x9f]")  # control characters in Latin-1
EXCEL = re.compile(r"sep=(.)")  # how Excel states the delimiter, in a line of its own
BETWEEN = re.compile(r"[\s;|]")  # without one of these, a cell cannot be several
WORDS = re.compile(r'"([^"]*)"(?=\s|$)|(\S+)')
GROUPS = re.compile(r"\d{1,3}(?:[.,]\d{3})+")  # thousands, perhaps
YEARS = (1800, 2100)


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

    @property
    def reads_plain(self) -> bool:
        """Whether a cell that Python reads as a number is that number."""
        return self.numbers.decimal == "." and self.numbers.thousands is None

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
        for numbers, rows in self.blocks(file):
            yield from zip(numbers, rows, strict=True)

    def blocks(self, file: Iterable[str]) -> Iterator[tuple[Sequence[int], list[list[str]]]]:
        """The rows, many at once, with the numbers of the lines where they end; lines that are
        blank and comments are left out."""
        if self.delimiter == SPACES:
            rows: Iterator[list[str]] = map(_words, file)
        else:
            quoting: Any = csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE
            rows = csv.reader(
                file, delimiter=self.delimiter, quoting=quoting, skipinitialspace=True
            )
        line = 0
        while block := list(itertools.islice(rows, BLOCK)):
            numbers: Sequence[int] = range(line + 1, line + 1 + len(block))
            if getattr(rows, "line_num", numbers[-1]) != numbers[-1]:  # cells with line ends
                heights = (1 + sum(cell.count("\n") for cell in row) for row in block)
                numbers = list(itertools.accumulate(heights, initial=line))[1:]
            line = numbers[-1]
            mark = self.comment
            if mark is not None or not all(row and row[0].strip() for row in block):
                stay = [
                    any(map(str.strip, row))
                    and (mark is None or not row[0].lstrip().startswith(mark))
                    for row in block
                ]
                numbers = list(itertools.compress(numbers, stay))
                block = list(itertools.compress(block, stay))
            yield numbers, block


class Unpacked(io.RawIOBase):
    """What is in a packed file, up to as much as a table of its size may have in it."""

    def __init__(self, path: Path, packed: IO[bytes]) -> None:
        self._path, self._packed = path, packed
        self._rest = max(SMALL, MOST_UNPACKED * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, memory: Any) -> int:
        content = self._packed.read(len(memory))
        memory[: len(content)] = content
        self._rest -= len(content)
        if self._rest < 0:
            raise InputError(
                f"{self._path}: holds more than {MOST_UNPACKED} times its size; unpack it first, "
                f"if that is right"
            )
        return len(content)


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
            with archive.open(members[0]) as packed:
                yield io.BufferedReader(Unpacked(path, packed), HEAD)
    elif ending in PACKED:
        with PACKED[ending](path, "rb") as packed:
            yield io.BufferedReader(Unpacked(path, packed), HEAD)
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
        while len(head) < LONGEST_HEAD and head.count(b"\n") + head.count(b"\r") < LINES:
            if not (more := file.read(len(head))):
                break
            head += more
    layout = Layout(comment=reading.comment)
    if reading.missing_values is not None:
        layout.missing = frozenset(["", *map(str, reading.missing_values)])
    layout.encoding = reading.encoding or _encoding(path, head)
    try:
        text = codecs.getincrementaldecoder(layout.encoding)("strict").decode(head)
    except (LookupError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: data.encoding: not text in {layout.encoding}: {error}") from None
    lines = [line + "\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    if len(head) >= HEAD and len(lines) > 1:
        lines.pop()  # it may be cut off
    filled = [(number, line) for number, line in enumerate(lines) if line.strip()]
    stated = EXCEL.fullmatch(filled[0][1].strip()) if filled else None
    if stated is not None:
        filled.pop(0)
    if not filled:
        raise InputError(f"{path}: the file holds no rows")
    if layout.encoding in WESTERN and reading.encoding is None:
        use_western(layout, head)
    _choose_comment(layout, filled)
    rows_of_text = ((n, line) for n, line in filled if not _is_comment(layout, line))
    body = list(itertools.islice(rows_of_text, LINES_OF_TABLE)) or filled[:1]
    sample = [line for _, line in body]
    layout.delimiter = reading.delimiter or (stated[1] if stated else _delimiter(path, sample))
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
        if reading.header is None and named_columns(reading, len(first)) & set(first):
            layout.header = True  # the configuration calls a column by a word of the first line
        elif reading.header is None and not layout.header and _is_header_of_numbers(table):
            layout.header = True
            layout.notes.append(
                f"the first line, {', '.join(first[:4])} …, is taken for names; "
                f"data.header = false reads it as a row"
            )
        names = first if layout.header else []
        lines_of_first = rows[0][0] - 1  # further lines of a quoted cell
        layout.skip = body[0][0] + (1 + lines_of_first if layout.header else 0)
    layout.names = _names(names, table[1:] if layout.header and header is None else table)
    return layout


def named_columns(reading: Reading, width: int) -> set[str]:
    """The columns that a configuration names, of a table of `width` columns."""
    references = [
        getattr(reading, key, None) for key in ("target", "weight", "group", "time", "columns")
    ]
    flat = [name for item in references for name in (item if isinstance(item, list) else [item])]
    # Columns without names are called 0, 1, 2 …: such a name says nothing about the first line.
    names = {str(name) for name in flat if name is not None}
    return {name for name in names if not name.lstrip("-").isdigit() or int(name) >= width}


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
        raise InputError(
            f"{path}: not a text file (it holds zero bytes); of UTF-16 without a byte order mark, "
            f'data.encoding = "utf-16-le" or "utf-16-be" says so'
        )
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(head)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def use_western(layout: Layout, content: bytes) -> None:
    """Read Latin-1, or Windows' variant of it where bytes are letters and signs only there."""
    layout.encoding = "latin-1"
    if WINDOWS.search(content) is not None:
        with contextlib.suppress(UnicodeDecodeError):
            content.decode("cp1252")
            layout.encoding = "cp1252"
    name = WESTERN[layout.encoding]
    layout.notes.append(f"not UTF-8: read as {name}; if letters are wrong, set data.encoding")


def _is_comment(layout: Layout, line: str) -> bool:
    return layout.comment is not None and line.lstrip().startswith(layout.comment)


def _choose_comment(layout: Layout, filled: list[tuple[int, str]]) -> None:
    """Lines that begin with #, unless all do, or # begins a cell as in #ff0000."""
    if layout.comment is not None:
        return
    for mark in "#%":
        if not any(mark in line for _, line in filled):
            continue
        marked = [line.lstrip().startswith(mark) for _, line in filled]
        spaced = any(line.lstrip().startswith((f"{mark} ", f"{mark}{mark}")) for _, line in filled)
        if (marked[0] or (spaced and 2 * sum(marked) < len(marked))) and not all(marked):
            layout.comment = mark
            return


def _commented_header(
    layout: Layout, filled: list[tuple[int, str]], table: list[list[str]]
) -> list[str] | None:
    """The names in the last comment before the rows that has as many cells as they have."""
    if layout.comment is None or _is_header(table):
        return None
    before = itertools.takewhile(lambda line: _is_comment(layout, line), (x for _, x in filled))
    bare = Layout(delimiter=layout.delimiter, quotes=layout.quotes)
    for line in reversed(list(before)):
        for _, row in bare.rows([line.lstrip()[len(layout.comment) :].lstrip()]):
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
    quoting = (True, False) if any('"' in line for line in lines) else (True,)
    for delimiter in dict.fromkeys((first, *DELIMITERS, SPACES)):
        if delimiter != SPACES and not any(delimiter in line for line in lines):
            continue
        rows = max(
            (_split(lines, delimiter, quotes) for quotes in quoting),
            key=lambda rows: (_widths(rows)[1], len(rows)),
        )
        width, share = _widths(rows)
        if width == 1 or (delimiter == SPACES and share <= 0.5):  # words of one column's name
            continue
        cells = [cell.strip() for row in rows if len(row) == width for cell in row]
        score = share * _share_of_whole(cells) * (0.8 if delimiter == SPACES else 1.0)
        if score > best_score + 1e-9:
            best, best_score = delimiter, score
        if best_score == 1.0:
            break
    return best


def _share_of_whole(cells: list[str]) -> float:
    if BETWEEN.search("".join(cells)) is None:
        return 1.0
    counts = Counter(cells)
    return sum(count for cell, count in counts.items() if _is_whole(cell)) / len(cells)


def _is_whole(cell: str) -> bool:
    """Whether a cell does not look like several that another delimiter would part."""
    try:
        float(cell.replace(",", ".", 1))
        return True
    except ValueError:
        pass
    words = cell.split()
    if len(words) > 1 and all(is_number(word.replace(",", ".", 1)) for word in words):
        return date_format([cell]) is not None
    return not any(delimiter in cell for delimiter in ("\t", ";", "|"))


def _choose_quotes(layout: Layout, lines: list[str]) -> None:
    if layout.delimiter != SPACES and any('"' in line for line in lines):
        with_quotes, without = (
            _widths(_split(lines, layout.delimiter, quotes)) for quotes in (True, False)
        )
        layout.quotes = with_quotes[1] >= without[1]


def _decimal(layout: Layout, table: list[list[str]]) -> str:
    """A comma, where numbers have one and the delimiter is another character."""
    if layout.delimiter == ",":
        return "."
    cells = [cell for row in table for cell in row]
    commas = [cell for cell in cells if "," in cell and is_number(cell.replace(",", "."))]
    points = [cell for cell in cells if "." in cell and is_number(cell)]
    sure = [sum(GROUPS.fullmatch(cell) is None for cell in signs) for signs in (commas, points)]
    return "," if (sure[0], len(commas)) > (sure[1], len(points)) else "."


def _is_header(table: list[list[str]]) -> bool:
    """Whether the first row names the columns: it holds no number, or stands over numbers."""

    def measured(cell: str) -> bool:
        return is_number(cell) or is_number(cell.replace(",", ".", 1)) or _is_date(cell)

    first, rest = table[0], table[1:]
    if not any(map(measured, first)):
        rest = [row for row in rest if row != first] or rest  # names may come again further down

    def below(at: int) -> Iterator[str]:
        return (row[at] for row in rest if at < len(row) and row[at] not in MISSING)

    words_over_numbers = any(
        not measured(cell)
        and cell not in MISSING
        and any(below(at))
        and all(map(measured, below(at)))
        for at, cell in enumerate(first)
    )
    if words_over_numbers:
        return True
    if any(map(measured, first)) or not rest:
        return not any(map(measured, first))
    repeated = sum(cell in below(at) for at, cell in enumerate(first))
    return 2 * repeated < len(first)


def _is_header_of_numbers(table: list[list[str]]) -> bool:
    """Whether the numbers of the first row are names: years in a row, or 0, 1, 2 …, above others"""
    first, rest = table[0], table[1:]
    at = [place for place, cell in enumerate(first) if cell.isdigit()]
    names = [int(first[place]) for place in at]
    if len(names) < 2 or names != list(range(names[0], names[0] + len(names))) or not rest:
        return False
    words = [place for place in range(len(first)) if place not in at]
    if any(row[place] == first[place] for row in rest for place in words if place < len(row)):
        return False  # a class, rather than a name
    below = [row[place] for row in rest for place in at if place < len(row)]
    if YEARS[0] <= names[0] and names[-1] <= YEARS[1]:
        return not any(cell.isdigit() and YEARS[0] <= int(cell) <= YEARS[1] for cell in below)
    return names[0] == 0 and len(names) > 2 and not all(cell.isdigit() for cell in below)


def _words(line: str) -> list[str]:
    """The cells of a line with any number of spaces between them, which quotes keep together."""
    if '"' not in line:
        return line.split()
    return [quoted or word for quoted, word in WORDS.findall(line)]


def _is_date(cell: str) -> bool:
    return date_format([cell]) is not None


def _names(first: list[str], rest: list[list[str]]) -> list[str]:
    """Names for as many columns as the rows have."""
    width, share = _widths(rest) if rest else (len(first), 1.0)
    if not first:
        return [str(number) for number in range(width)]
    if all(len(name) > 2 and name[0] == name[-1] == "'" for name in first):
        first = [name[1:-1] for name in first]
    names = [name.replace("\n", " ") or f"Unnamed: {number}" for number, name in enumerate(first)]
    if (
        width == len(names) + 1 and share > 0.5
    ):  # a delimiter at the end of each row, or names of rows before it
        ends = all(not row[-1] for row in rest if len(row) == width)
        return [*names, f"Unnamed: {len(names)}"] if ends else ["Unnamed: row", *names]
    return names
