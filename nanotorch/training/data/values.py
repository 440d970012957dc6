"""What the cells of a column say: numbers however they are written, yes and no, dates."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

# What stands for a missing value unless data.missing_values says otherwise.
MISSING = frozenset(
    {"", "NA", "na", "N/A", "n/a", "#N/A", "#NA", "<NA>", "?", "-", ".", "NaN", "nan", "NAN", "NaT"}
    | {"null", "NULL", "Null", "None"}
)
# What stands for a missing value among numbers, and may be a category among text.
NO_NUMBER = frozenset(
    {
        "none",
        "NONE",
        "missing",
        "Missing",
        "n.a.",
        "N.A.",
        "nd",
        "ND",
        "--",
        "---",
        "..",
        "...",
        "*",
    }
    | {"#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!", "1.#QNAN", "1.#IND", "-1.#IND"}
)
# These take time like a cell's length: none of them tries to divide the same digits in many ways.
PLAIN = re.compile(
    r"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?|[+-]?inf(?:inity)?|nan", re.I | re.A
)
SIGNS = "$€£¥"
# Only a cell of these characters can be a number in a convention other than the plain one.
MAY_BE_NUMBER = re.compile(rf"(?=\D*+\d)[-+\d.,'’()%{SIGNS}\s\u2212eEdD]*+")
# Numbers of double precision as Fortran writes them, 1.5D+03: the point tells them from words.
FORTRAN = re.compile(r"([+-]?(?:\d++\.\d*+|\.\d++))[dD]([+-]?\d++)", re.A)
ONE_CHARACTER = {  # for several that look the same
    **dict.fromkeys(map(ord, "\xa0\u202f\u2009\u2007"), " "),
    ord("\u2212"): "-",
    ord("’"): "'",
}
YES, NO = ("yes", "true", "y", "t", "1"), ("no", "false", "n", "f", "0")
MOST_WORDS = 50  # for yes and no, in all spellings


def is_number(cell: str) -> bool:
    return PLAIN.fullmatch(cell) is not None


@dataclass(frozen=True)
class Numbers:
    """How numbers are written: the sign between whole and fraction, and the one between groups."""

    decimal: str = "."
    thousands: str | None = None

    def conventions(self) -> list[Callable[[str], float]]:
        """Ways to read a number, the plainest first; each raises ValueError for anything else."""
        if self.thousands is not None:
            return [_convention(self.decimal, self.thousands)]
        if self.decimal == ",":
            return [_convention(",", "."), _convention(",", " "), _convention(",", "'"), _plain]
        groups = [_convention(".", sign) for sign in (",", " ", "'")]
        rest = [*groups[1:], _convention(",", " "), _fortran]
        return [_plain, groups[0], _convention(",", "."), *rest]

    def read(self, cells: Sequence[str]) -> list[float] | None:
        """Every cell as a number in one of the conventions; None where a cell is none."""
        for convention in self.conventions():
            try:
                return [convention(cell) for cell in cells]
            except ValueError:
                continue
        return None

    def each(self, cell: str) -> float:
        """One cell as a number; NaN where it is none."""
        if not is_number(cell) and MAY_BE_NUMBER.fullmatch(cell) is None:
            return math.nan
        return (self.read([cell]) or [math.nan])[0]


def _plain(cell: str) -> float:
    if not is_number(cell):
        raise ValueError
    return float(cell)


def _fortran(cell: str) -> float:
    match = FORTRAN.fullmatch(cell)
    return float(f"{match[1]}e{match[2]}") if match else _plain(cell)


@functools.cache
def _convention(decimal: str, thousands: str) -> Callable[[str], float]:
    """A reader of numbers such as -1,234.5, $3, -$3, ($3), 12% and 3 €."""
    d, t = re.escape(decimal), re.escape(thousands)
    number = re.compile(
        rf"([+-]?)[{SIGNS}]? ?([+-]?)((?:\d{{1,3}}(?:{t}\d{{3}})+(?!\d)|\d++)(?:{d}\d*+)?|{d}\d++)"
        rf"((?:[eE][+-]?\d++)?) ?[{SIGNS}%]?",
        re.A,
    )

    def read(cell: str) -> float:
        text = cell if cell.isascii() else cell.translate(ONE_CHARACTER)
        if text.startswith("(") and text.endswith(")"):  # how accountants write what is owed
            text = f"-{text[1:-1]}"
        match = number.fullmatch(text)
        if match is None or (match[1] and match[2]):
            raise ValueError
        digits = match[3].replace(thousands, "").replace(decimal, ".")
        return float(match[1] + match[2] + digits + match[4])

    return read


def yes_or_no(cells: Iterable[str]) -> dict[str, float] | None:
    """1 for yes and 0 for no in any words; None where a cell is neither, or one is absent."""
    words = list(cells)
    if len(words) > MOST_WORDS:
        return None
    values = {cell: float(cell.lower() in YES) for cell in words if cell.lower() in YES + NO}
    both = len(set(values.values())) == 2
    return values if both and len(values) == len(words) and not all(map(is_number, words)) else None


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NAME = r"(?P<name>[A-Za-z]{3,9})\.?"
YEAR, MONTH, DAY = r"(?P<year>\d{4}|\d\d)", r"(?P<month>\d{1,2})", r"(?P<day>\d{1,2})"
TIME = (
    r"(?:[ T](?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d+)?))?"
    r"(?: ?(?P<half>[AaPp])[Mm])?(?: ?(?P<zone>Z|[+-]\d\d:?\d\d))?)?"
)
# The first format in which all cells of a column are dates is the one they are read in.
DATES = {
    words: re.compile(date + TIME, re.A)
    for words, date in {
        "year-month-day": rf"(?P<year>\d{{4}})(?P<s>[-/.]){MONTH}(?P=s){DAY}",
        "day.month.year": rf"{DAY}\.{MONTH}\.{YEAR}",
        "month/day/year": rf"{MONTH}(?P<s>[-/]){DAY}(?P=s){YEAR}",
        "day/month/year": rf"{DAY}(?P<s>[-/]){MONTH}(?P=s){YEAR}",
        "day month year": rf"{DAY}[- /]{NAME}[- /,]+{YEAR}",
        "month day, year": rf"{NAME} {DAY},? (?P<year>\d{{4}})",
        "year-month": rf"(?P<year>\d{{4}})[-/]{MONTH}",
        "month year": rf"{NAME}[- ](?P<year>\d{{4}})",
    }.items()
}
EPOCH = datetime(1970, 1, 1)


def date_format(cells: Sequence[str]) -> str | None:
    """The format in which every cell is a date; None where there is none."""
    for words in DATES if cells else ():
        if all(not math.isnan(days(cell, words)) for cell in cells):
            return words
    return None


def days(cell: str, format: str) -> float:
    """Days since 1970-01-01 of a date in a format of DATES; NaN where it is none."""
    match = DATES[format].fullmatch(cell) if format in DATES else None
    if match is None:
        return math.nan
    part = {"month": "1", "day": "1", **match.groupdict()}
    year = int(part["year"])
    year += 0 if len(part["year"]) > 2 else 2000 if year < 69 else 1900
    name = (part.get("name") or "").lower()[:3]
    if name and name not in MONTHS:
        return math.nan
    month = MONTHS.index(name) + 1 if name else int(part["month"])
    hour, seconds = int(part["hour"] or 0), 60.0 * int(part["minute"] or 0)
    if part["half"]:
        hour = hour % 12 + 12 * (part["half"] in "pP")
    try:
        moment = datetime(year, month, int(part["day"]), hour)
    except ValueError:
        return math.nan
    zone = (part["zone"] or "Z").replace(":", "")
    if zone != "Z":
        seconds -= int(zone[0] + "1") * (3600 * int(zone[1:3]) + 60 * int(zone[3:]))
    return (moment - EPOCH).total_seconds() / 86_400 + (
        seconds + float(part["second"] or 0)
    ) / 86_400
