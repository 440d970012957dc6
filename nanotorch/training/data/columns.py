"""What each column of a table is to a model: a number, a category, or nothing it can learn from."""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Data
from nanotorch.training.data.hashing import buckets_of_numbers, buckets_of_texts, buckets_wanted
from nanotorch.training.data.sparse_rows import SparseTable
from nanotorch.training.data.tables import Table, translated
from nanotorch.training.data.values import Numbers, date_format, days, yes_or_no
from nanotorch.training.errors import InputError

OTHER, GAP = "(other)", "(missing)"  # categories of rare and of missing values
INDEX = re.compile(
    r"unnamed: ?\d+|unnamed: row|index|rownames|row\.?_?(names?|id|number)|id|no|nr", re.I
)
SAMPLE = 1000  # rows that tell whether a long column of text holds numbers
FEW = 10  # texts up to which a column without repetitions may still be one of categories


@dataclass
class Column:
    """One column that features are made of."""

    name: str
    categories: list[str] | None = None  # one feature for each, where the column is text
    fill: float | None = None  # what stands in for a missing value
    kind: str = "number"  # or "category", "boolean", "date", "hashed", "sparse"
    format: str | None = None  # of dates
    low: float | None = None  # the range of the training rows
    high: float | None = None
    size: int | None = None  # buckets of a hashed column, features of sparse rows

    def number(self, text: str, numbers: Numbers) -> float:
        """A text of this column as a number; NaN where it is none."""
        if self.kind == "date" and self.format is not None:
            return days(text, self.format)
        if self.kind == "boolean":
            return (yes_or_no([text, "no"]) or yes_or_no([text, "yes"]) or {}).get(text, math.nan)
        return numbers.each(text)


def numbers_of(table: Table, column: Column, position: int) -> NDArray[Any]:
    """The numbers that a column of a table stands for; NaN for what is missing or is no number."""
    values = np.asarray(table.values[:, position])
    if table.names[position] not in table.categories:
        return values
    return translated(values, _numbers_of_texts(table, column))


def buckets_of(table: Table, column: Column, position: int, rows: Any) -> NDArray[np.float64]:
    """The buckets of some rows of a hashed column."""
    assert column.size is not None
    values = np.asarray(table.values[rows, position])
    texts = table.categories.get(table.names[position])
    if texts is None:
        return buckets_of_numbers(values, column.size)
    return translated(values, buckets_of_texts(texts, column.size))


def _numbers_of_texts(table: Table, column: Column) -> NDArray[np.float64]:
    """The number of each text of a column, and NaN for a gap at the end."""
    style = Numbers(table.guesses.get("decimal") or ".")
    texts = table.categories[column.name]
    return np.array([*(column.number(text, style) for text in texts), math.nan])


def to_numbers(table: Table, column: Column, position: int) -> None:
    """Put numbers in the place of text that stands for them."""
    is_text = column.kind in ("category", "hashed") or column.categories is not None
    if not is_text and column.name in table.categories:
        table.translate(position, _numbers_of_texts(table, column))
        del table.categories[column.name]


class ColumnFacts:
    """What tells what a column is, gathered from its pieces in their order.

    - `present`: rows that have a value
    - `counts_rows`: whether it is 0, 1, 2 … or 1, 2, 3 …
    - `counts`, `first_rows`: of each text, how many rows have it, and the first one
    - `sample`: the texts of some rows
    """

    def __init__(self, rows: int, texts: int | None) -> None:
        self.rows, self.seen, self.present = rows, 0, 0
        self.counts_rows = rows >= 3 and texts is None
        self.counts = np.zeros(texts or 0, dtype=np.int64)
        self.first_rows = np.full(texts or 0, -1)
        self._step = max(1, rows // SAMPLE)
        self._sample: set[int] = set()

    @staticmethod
    def of(table: Table, position: int) -> ColumnFacts:
        """Those of a column in memory."""
        texts = table.categories.get(table.names[position])
        facts = ColumnFacts(len(table), None if texts is None else len(texts))
        values = np.asarray(table.values[:, position])
        facts.add(values, int(np.count_nonzero(~np.isnan(values))))
        return facts

    @property
    def sample(self) -> list[int]:
        return sorted(self._sample)

    def add(self, values: NDArray[Any], present: int) -> None:
        """Add the next rows, of which so many have a value."""
        if self.counts_rows:
            if not self.seen:
                self._start = values[0]
            counted = np.arange(self.seen, self.seen + len(values)) + self._start
            self.counts_rows = bool(self._start in (0, 1) and (values == counted).all())
        if len(self.counts):
            rows = np.flatnonzero(~np.isnan(values))
            codes = values[rows].astype(np.int64)
            self.counts += np.bincount(codes, minlength=len(self.counts))
            first = np.full(len(self.counts), -1)
            first[codes[::-1]] = rows[::-1] + self.seen
            self.first_rows = np.where(self.first_rows < 0, first, self.first_rows)
            some = values[-self.seen % self._step :: self._step]
            self._sample.update(some[~np.isnan(some)].astype(np.int64).tolist())
        self.present += present
        self.seen += len(values)


def settle(
    table: Table,
    features: list[int],
    data: Data,
    notes: list[str],
    facts: list[ColumnFacts] | None = None,
) -> list[tuple[int, Column]]:
    """What each feature column is; those that say nothing are left out, with a note.

    Text that stands for numbers (yes and no, dates) becomes numbers in the table. `facts` are those
    of all columns, where the table is not in memory.
    """
    for name in data.types:
        if name not in table.names:
            near = difflib.get_close_matches(name, table.names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{table.origin}: data.types: there is no column {name!r}{hint}")
    for pattern in data.hash:
        if not fnmatch.filter((table.names[at] for at in features), pattern):
            raise InputError(f"{table.origin}: data.hash: no feature column matches {pattern!r}")
    pairs = []
    readings: dict[str, list[str]] = {}
    for position in features:
        column, words = decide(
            table, position, data, len(features), None if facts is None else facts[position]
        )
        if words and words.startswith("read as"):
            readings.setdefault(words, []).append(table.names[position])
        elif words:
            notes.append(f"column {table.names[position]!r}: {words}")
        if column is None:
            continue
        to_numbers(table, column, position)
        if column.kind == "hashed":
            table.hashed.add(column.name)
        pairs.append((position, column))
    for words, names in readings.items():
        notes.append(f"{words}: {', '.join(names[:8])}" + (" …" if len(names) > 8 else ""))
    if not pairs:
        reasons = "; ".join(notes[-3:]) or "every column is the target or ignored"
        raise InputError(f"{table.origin}: no feature columns are left: {reasons}")
    return pairs


def decide(
    table: Table,
    position: int,
    data: Data,
    features: int,
    facts: ColumnFacts | None = None,
) -> tuple[Column | None, str | None]:
    """What a column is to a model (None: nothing), and words about it where it is not plain."""
    name = table.names[position]
    if isinstance(table, SparseTable):
        if data.hash:
            raise InputError(f"{table.origin}: data.hash: rows of data.sparse have no columns")
        return Column(name, kind="sparse", size=table.width), None
    if (size := buckets_wanted(name, data.hash)) is not None:
        return Column(name, kind="hashed", size=size), None
    if name in getattr(table, "crowded", ()):
        return None, None  # which a note of the table says
    texts = table.categories.get(name)
    kind: Any = data.types.get(name)
    facts = facts or ColumnFacts.of(table, position)
    present = facts.present
    if not present:
        return None, "is empty: left out"
    if texts is None:
        if kind == "category":
            return Column(name, kind="category"), None
        if kind is None and facts.counts_rows:
            if INDEX.fullmatch(name):
                return None, "counts the rows: left out"
            return Column(name), (
                f"counts the rows; if it is an index, data.ignore = [{name!r}] leaves it out"
                if facts.rows > 20
                else None
            )
        return Column(name), None
    format = date_format(texts)
    if kind == "date" and format is None:
        raise InputError(
            f"{table.origin}: data.types: {name!r} holds no dates, such as {texts[0]!r}"
        )
    if kind is not None:
        return Column(name, kind=kind, format=format if kind == "date" else None), None
    if yes_or_no(texts):
        return Column(name, kind="boolean"), "read as 1 for yes and 0 for no"
    if format is not None:
        return Column(name, kind="date", format=format), f"read as dates ({format}), in days"
    style = Numbers(table.guesses.get("decimal") or ".")
    some = facts.sample
    odd_ones = sum(math.isnan(style.each(texts[at])) for at in some)
    strangers: list[int] | None = None  # texts that are no numbers, where most are
    if len(some) <= FEW or 2 * odd_ones <= len(some):
        strangers = [at for at, text in enumerate(texts) if math.isnan(style.each(text))]
        if not strangers:
            return Column(name), "read as numbers, though they are text"
    if strangers and 2 * int(facts.counts[strangers].sum()) < present:
        row = max(0, int(facts.first_rows[strangers[0]]))
        but = f"numbers, but {texts[strangers[0]]!r} ({table.place(row, position)})"
        remedy = f'data.types = {{{name!r} = "number"}} makes what is no number missing'
        if len(texts) <= max(FEW, present // 2):
            return Column(name, kind="category"), f"{but}: each value becomes a category; {remedy}"
        if data.missing == "refuse":
            return None, f"{but}: LEFT OUT; {remedy}, and data.missing says what is done then"
        return Column(name), f"{but}: what is no number is missing"
    unrepeated = len(texts) >= 0.9 * present and present >= 5
    if unrepeated and (len(texts) > FEW or features > 1):
        return None, (
            f"{len(texts):,} different texts in {present:,} rows, such as {texts[0][:40]!r}: LEFT "
            f'OUT; data.types = {{{name!r} = "category"}} would use it'
        )
    return Column(name, kind="category"), None


def text_of(number: float) -> str:
    """A number as the text of a category."""
    return str(int(number)) if number.is_integer() else f"{number:.12g}"


def categories_of(
    table: Table, position: int, train: NDArray[np.int64], data: Data, notes: list[str]
) -> list[str]:
    """The categories of a column: all of them, or the most frequent ones of the training rows and
    one for the rest; and one for gaps, where they are not refused."""
    name = table.names[position]
    values = np.asarray(table.values[:, position])
    present = values[~np.isnan(values)]
    texts = table.categories.get(name) or sorted({text_of(value) for value in np.unique(present)})
    counts = None
    if len(texts) > data.max_categories:
        codes = codes_of(table, position, values[train], texts)
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    return most_frequent_of(name, texts, counts, len(present) < len(values), data, notes)


def most_frequent_of(
    name: str,
    texts: list[str],
    counts: NDArray[np.int64] | None,
    gaps: bool,
    data: Data,
    notes: list[str],
) -> list[str]:
    """The categories of a column with these texts; `counts` of the training rows say which ones
    are kept where there are too many."""
    if counts is not None:
        most = np.argsort(-counts, kind="stable")[: data.max_categories - 1]
        rest = len(texts) - len(most)
        notes.append(
            f"column {name!r}: {rest:,} of {len(texts):,} values are rare and share the category "
            f"{OTHER!r} (data.max_categories = {data.max_categories})"
        )
        texts = [*(texts[at] for at in sorted(most)), OTHER]
    return [*texts, GAP] if gaps and GAP not in texts else list(texts)


def codes_of(
    table: Table, position: int, values: NDArray[Any], categories: list[str]
) -> NDArray[np.int64]:
    """For each value the position of its category; -1 for what is missing or was never seen."""
    places_of = {name: number for number, name in enumerate(categories)}
    numeric = {
        number: at
        for name, at in reversed(places_of.items())
        if not math.isnan(number := Numbers().each(name))
    }
    other, gap = places_of.get(OTHER, -1), places_of.get(GAP, -1)
    texts = table.categories.get(table.names[position])
    if texts is None:
        distinct, places = np.unique(values, return_inverse=True)
        codes = [
            gap if math.isnan(number) else numeric.get(number, other)
            for number in distinct.tolist()
        ]
        return np.asarray(np.array(codes, dtype=np.int64)[places])
    translate = [
        places_of[text] if text in places_of else numeric.get(Numbers().each(text), other)
        for text in texts
    ]
    places = np.where(np.isnan(values), len(texts), values).astype(np.int64)
    return np.asarray(np.array([*translate, gap], dtype=np.int64)[places])
