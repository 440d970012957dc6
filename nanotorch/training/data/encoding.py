"""From the columns of a table to the features and the target that a model is given."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.sections import Data
from nanotorch.training.data.columns import (
    OTHER,
    Column,
    buckets_of,
    categories_of,
    codes_of,
    numbers_of,
    text_of,
    to_numbers,
)
from nanotorch.training.data.sparse_rows import FEATURES, SparseTable
from nanotorch.training.data.tables import Table
from nanotorch.training.data.values import Numbers, date_format
from nanotorch.training.errors import InputError

NEVER_MET = "values that training never met or found rare"
AS_MISSING = 'data.missing_values = ["inf", "-inf"] makes them missing'
CHUNK = 2**22  # values looked at at once, so that large files need no second copy


@dataclass
class Tables:
    """What a model looks up: for hashed features their places and numbers of buckets; of sparse
    rows the number of features."""

    hashed: list[tuple[int, int]] = field(default_factory=list)
    sparse: int | None = None

    def __bool__(self) -> bool:
        return bool(self.hashed) or self.sparse is not None

    @property
    def rows(self) -> int:
        """How many rows all tables have together."""
        return sum(size for _, size in self.hashed) + (self.sparse or 0)


NO_TABLES = Tables()


@dataclass
class Encoding:
    """How rows of a table become rows of features; saved with the model."""

    columns: list[Column]
    _places: tuple[list[str], list[int]] | None = field(default=None, repr=False, compare=False)

    @property
    def feature_names(self) -> list[str]:
        names = []
        for column in self.columns:
            names += [f"{column.name}={value}" for value in column.categories or ()] or [
                column.name
            ]
        return names

    @property
    def is_plain(self) -> bool:
        """Whether features are columns as they stand, with nothing to fill or to expand."""
        return all(
            column.categories is None and column.fill is None and column.kind == "number"
            for column in self.columns
        )

    def positions(self, table: Table) -> list[int]:
        if self._places is None or self._places[0] is not table.names:  # pieces share their names
            places = [table.column(column.name, "features") for column in self.columns]
            self._places = (table.names, places)
        return self._places[1]

    def settle(self, table: Table) -> list[int]:
        """Put numbers in the place of text that stands for them; the positions of the columns."""
        positions = self.positions(table)
        for column, position in zip(self.columns, positions, strict=True):
            to_numbers(table, column, position)
        table.hashed |= {column.name for column in self.columns if column.kind == "hashed"}
        return positions

    def note_ranges(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        """Remember the range of each column of numbers, given that of each feature."""
        at = 0
        for column in self.columns:
            if column.categories is None and column.kind != "hashed":
                column.low, column.high = float(low[at]), float(high[at])
            at += len(column.categories or ()) or 1

    def surprises(self, table: Table, surprises: Surprises) -> None:
        """Count values that training never met, in a table that is settled."""
        if self.tables.sparse is not None:
            unknown = self._sparse(table).numbers >= self.tables.sparse
            surprises.add(FEATURES, unknown, "values are of features that training never met")
            return
        for column, position in zip(self.columns, self.positions(table), strict=True):
            values = np.asarray(table.values[:, position], dtype=np.float64)
            if column.categories is not None:
                names = [name for name in column.categories if name != OTHER]
                odd = (codes_of(table, position, values, names) < 0) & ~np.isnan(values)
                texts = table.categories.get(column.name)
                example = ""
                if odd.any():
                    first = values[int(odd.argmax())]
                    example = repr(texts[int(first)] if texts else text_of(float(first)))
                surprises.add(column.name, odd, f"{NEVER_MET}, such as {example}")
            elif column.low is not None and column.high is not None:
                odd = (values < column.low) | (values > column.high)
                bounds = f"{column.low:g} … {column.high:g}, the range in training"
                surprises.add(column.name, odd, f"numbers outside {bounds}")

    def _sparse(self, table: Table) -> SparseTable:
        """The table, which must have sparse rows as that of the training."""
        if not isinstance(table, SparseTable):
            raise InputError(f"{table.origin}: expected rows of a .svm file (data.sparse)")
        return table

    def apply(self, table: Table, rows: Any = slice(None)) -> NDArray[Any]:
        """Features of the given rows, shape (rows, features), not standardized."""
        positions = self.positions(table)
        if self.tables.sparse is not None:
            return self._sparse(table).padded(rows, self.tables.sparse)
        if self.is_plain:
            start, stop = positions[0], positions[-1] + 1
            if positions == list(range(start, stop)):
                return table.values[rows, start:stop]
            return np.asarray(table.values[rows][:, positions])
        pieces = []
        for column, position in zip(self.columns, positions, strict=True):
            if column.categories is not None:
                values = np.asarray(table.values[rows, position])
                codes = codes_of(table, position, values, column.categories)
                pieces.append(codes[:, None] == np.arange(len(column.categories)))
            elif column.kind == "hashed":
                pieces.append(buckets_of(table, column, position, rows)[:, None])
            else:
                values = numbers_of(table, column, position)[rows]
                if column.fill is not None:
                    values = np.where(np.isnan(values), column.fill, values)
                pieces.append(values[:, None])
        return np.concatenate(pieces, axis=1)

    @property
    def one_hot(self) -> NDArray[np.bool_]:
        """For each feature whether it stands for a category, or for the bucket of one."""
        counts = [(len(column.categories or ()), column.kind) for column in self.columns]
        return np.concatenate(
            [np.full(count or 1, count > 0 or kind == "hashed") for count, kind in counts]
        )

    @property
    def tables(self) -> Tables:
        """The features that are looked up in tables instead of being multiplied."""
        hashed: list[tuple[int, int]] = []
        at = 0
        for column in self.columns:
            if column.kind == "hashed" and column.size is not None:
                hashed.append((at, column.size))
            at += len(column.categories or ()) or 1
        sparse = next((column.size for column in self.columns if column.kind == "sparse"), None)
        return Tables(hashed, sparse)

    def to_json(self) -> list[dict[str, Any]]:
        return [vars(column) for column in self.columns]


def choose_columns(table: Table, data: Data) -> tuple[list[int], list[int]]:
    """Positions of the feature columns and of the target columns."""
    references = data.target if data.target is not None else list(table.target)
    references = references if isinstance(references, list) else [references]
    targets = [table.column(which, "data.target") for which in references]
    if not targets:
        raise InputError("data.target: expected at least one column, given an empty list")
    used = set(targets)
    for key in ("weight", "group", "time"):
        which = getattr(data, key)
        if which is not None:
            used.add(table.column(which, f"data.{key}"))
            if table.column(which, f"data.{key}") in targets and key == "weight":
                raise InputError(f"data.weight: {which!r} is the target")
    features = [
        position
        for position, name in enumerate(table.names)
        if position not in used
        and (not data.features or _matches(name, data.features))
        and not _matches(name, data.ignore)
    ]
    for key, patterns in (("features", data.features), ("ignore", data.ignore)):
        for pattern in patterns:
            if not fnmatch.filter(table.names, pattern):
                raise InputError(f"data.{key}: no column of {table.origin} matches {pattern!r}")
    if not features:
        raise InputError(
            f"{table.origin}: no feature columns are left besides the target "
            f"(is the delimiter right? the columns are {', '.join(table.names[:5])})"
        )
    return features, targets


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@dataclass
class Gaps:
    """What is missing in a table, or in several pieces of one.

    `keep` says of each row whether it stays, or how many rows of each block do; rows that have no
    gap in the `needed` columns do. `counts` are the gaps of each column.
    """

    missing: str = "refuse"
    features: list[int] = field(default_factory=list)
    needed: list[int] = field(default_factory=list)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    keep: NDArray[Any] | None = None
    rows: int = 0
    left_out: int = 0

    @property
    def any(self) -> bool:
        """Whether a feature is missing."""
        return bool(self.counts[self.features].any())

    def add(self, other: Gaps) -> None:
        """Count the gaps of another piece."""
        counts = self.counts + other.counts if len(self.counts) else other.counts
        rows, left_out = self.rows + other.rows, self.left_out + other.left_out
        self.__dict__.update(vars(other), counts=counts, rows=rows, left_out=left_out)

    def words(self, table: Table) -> list[str]:
        """What is missing and what becomes of it; InputError where no row is left."""
        words = []
        listing = _counted(table, self.counts, self.needed)
        if listing and (self.missing == "drop" or self.left_out):
            words.append(f"{listing}: {self.left_out} of {self.rows} rows are left out")
            if self.left_out == self.rows:
                raise InputError(f"{table.origin}: every row has a missing value: {listing}")
        if self.missing == "drop":
            return words
        apart = table.categories.keys() | table.hashed
        text = [at for at in self.features if table.names[at] in apart]
        numbers = [at for at in self.features if at not in text]
        filled = f"filled with the {self.missing} of the training part"
        for places, done in ((numbers, filled), (text, "a category of their own")):
            if listing := _counted(table, self.counts, places):
                words.append(f"{listing}: {done}")
        return words


@dataclass
class Surprises:
    """Values that training never met, by column: how many, of how many, and words about them."""

    odd: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def add(self, column: str, odd: NDArray[np.bool_], about: str) -> None:
        """Count those of some rows."""
        self.rows[column] = self.rows.get(column, 0) + len(odd)
        if odd.any():
            self.about.setdefault(column, about)
            self.odd[column] = self.odd.get(column, 0) + int(odd.sum())

    def words(self) -> list[str]:
        words = []
        for name, odd in self.odd.items():
            of = "" if self.about[name].startswith(NEVER_MET) else f"of {self.rows[name]:,} "
            words.append(f"column {name!r}: {odd:,} {of}{self.about[name]}")
        return words


def find_gaps(table: Table, features: list[int], targets: list[int], missing: str) -> Gaps:
    """Refuse infinite values and missing targets; count missing features, or refuse them."""
    counts = np.zeros(len(table.names), dtype=np.int64)
    needed = [*features, *targets] if missing == "drop" else targets
    masks = []
    start = 0
    for chunk in table.chunks(max(1, CHUNK // len(table.names))):
        holes = np.zeros(chunk.shape, bool)
        if not np.isfinite(chunk).all():
            _refuse_infinite(table, chunk, start, [*features, *targets])
            holes = np.isnan(chunk)
            for target in targets if missing == "refuse" else ():
                if holes[:, target].any():
                    row = start + int(holes[:, target].argmax())
                    raise InputError(
                        f"{table.place(row, target)}: the target is missing; "
                        f'data.missing = "drop" leaves such rows out'
                    )
            if missing == "refuse" and holes[:, features].any():
                row, which = np.argwhere(holes[:, features])[0]
                raise InputError(
                    f"{table.place(start + int(row), features[which])}: the value is missing; "
                    f'data.missing = "mean", "median" or "drop" would go on'
                )
            counts += holes.sum(axis=0)
        masks.append(table.mask(np.asarray(~holes[:, needed].any(axis=1))))
        start += len(chunk)
    keep = np.concatenate(masks)
    left_out = start - int(keep.sum())
    gaps = Gaps(missing, features, needed, counts, rows=start, left_out=left_out)
    if (missing == "drop" and counts[needed].any()) or left_out:
        gaps.keep = keep
    return gaps


def _counted(table: Table, counts: NDArray[np.int64], places: list[int]) -> str | None:
    """Where how many values are missing, the most first; None where none is."""
    named = sorted(
        ((int(counts[at]), table.names[at]) for at in places if counts[at]), reverse=True
    )
    if not named:
        return None
    listing = ", ".join(f"{name} {count}" for count, name in named[:5])
    more = f" and {len(named) - 5} more columns" if len(named) > 5 else ""
    return f"{sum(count for count, _ in named)} missing values ({listing}{more})"


def _refuse_infinite(table: Table, chunk: NDArray[Any], start: int, used: list[int]) -> None:
    infinite = np.isinf(chunk[:, used])
    if infinite.any():
        row, which = np.argwhere(infinite)[0]
        raise InputError(
            f"{table.place(start + int(row), used[which])}: expected a finite number, "
            f"found {chunk[row, used[which]]}; {AS_MISSING}"
        )


def make_encoding(
    table: Table,
    pairs: list[tuple[int, Column]],
    train: NDArray[np.int64],
    data: Data,
    any_missing: bool,
    notes: list[str],
) -> Encoding:
    """The encoding, whose fill values and rare categories come from the training rows alone."""
    for position, column in pairs:
        if column.kind == "category":
            column.categories = categories_of(table, position, train, data, notes)
        elif any_missing and data.missing in ("mean", "median") and column.kind != "hashed":
            values = np.asarray(table.values[train, position], dtype=np.float64)
            present = values[~np.isnan(values)]
            if not len(present):
                raise InputError(
                    f"{table.origin}: column {column.name!r} is empty in the training part; "
                    f"data.ignore = [{column.name!r}] leaves it out"
                )
            column.fill = float(present.mean() if data.missing == "mean" else np.median(present))
    return Encoding([column for _, column in pairs])


def settle_targets(table: Table, positions: list[int], types: dict[str, Any]) -> None:
    """Put numbers in the place of text that stands for them, where `types` says that it does."""
    for position in positions:
        kind = types.get(table.names[position], "category")
        texts = table.categories.get(table.names[position], [])
        format = date_format(texts) if kind == "date" else None
        to_numbers(table, Column(table.names[position], kind=kind, format=format), position)


@dataclass
class Target:
    """What is predicted.

    - `task`: "binary", "classes", "labels" or "regression"
    - `values`: int64 (rows,) for classes, numbers (rows, targets) for all others
    - `classes`: their names, for binary and classes; names of the targets otherwise
    """

    task: str
    values: NDArray[Any]
    classes: list[str]
    columns: list[str]

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for a row."""
        return len(self.classes) if self.task == "classes" else self.values.shape[1]


def encode_target(
    table: Table,
    positions: list[int],
    data: Data,
    model: str,
    known: Target | None = None,
    rows: int | None = None,
) -> Target:
    """The target columns as the loss wants them; with `known`, in the classes of that target. The
    table holds distinct values alone where it stands for so many `rows`."""
    names = [table.names[position] for position in positions]
    raw = np.asarray(table.values[:, positions], dtype=np.float64)
    task = known.task if known else _task(table, names, raw, rows or len(raw), data, model)
    if task == "regression":
        for name, position in zip(names, positions, strict=True):
            if name in table.categories:
                texts = table.categories[name]
                odd = next((t for t in texts if math.isnan(Numbers().each(t))), texts[0])
                row = int((table.values[:, position] == texts.index(odd)).argmax())
                place = f" ({table.place(row, position)})" if rows is None else ""
                raise InputError(
                    f"{table.origin}: target {name!r} is text, not numbers to predict: "
                    f"{odd[:40]!r}{place}; data.types = "
                    f'{{{name!r} = "number"}} makes what is no number missing'
                )
        return Target(task, raw, names, names)
    if task == "labels":
        if not np.isin(raw, (0, 1)).all():
            raise InputError(f"{table.origin}: expected labels 0 and 1 in {', '.join(names)}")
        return Target(task, raw.astype(np.float32), names, names)
    if len(names) != 1:
        raise InputError(f"data.task: {task} needs one target column, given {len(names)}")
    present, places = _class_names(table, names[0], raw[:, 0])
    classes = known.classes if known else present
    if len(classes) < 2:
        raise InputError(
            f"{table.origin}: target {names[0]!r} has one class only, {classes[0]!r}; "
            f"there is nothing to learn"
        )
    if task == "binary" and len(classes) != 2:
        raise InputError(f'data.task = "binary" needs two classes, found {len(classes)}')
    codes_of = {name: code for code, name in enumerate(classes)}
    strangers = [name for name in present if name not in codes_of]
    if strangers:
        raise InputError(
            f"{table.origin}: target {names[0]!r}: class {strangers[0]!r} is not among "
            f"{', '.join(classes[:12])}"
        )
    codes = np.array([codes_of[name] for name in present], dtype=np.int64)[places]
    if task == "binary":
        return Target(task, codes.astype(np.float32)[:, None], classes, names)
    return Target(task, codes, classes, names)


def _class_names(
    table: Table, column: str, values: NDArray[Any]
) -> tuple[list[str], NDArray[np.int64]]:
    """The classes in a column, in order, and for each row the position of its class."""
    distinct, rows = np.unique(values, return_inverse=True)
    if column in table.categories:
        return [table.categories[column][int(value)] for value in distinct], rows
    return [str(int(v)) if v.is_integer() else str(v) for v in distinct.tolist()], rows


def _task(
    table: Table, names: list[str], raw: NDArray[Any], rows: int, data: Data, model: str
) -> str:
    """What kind of target it is, where the configuration does not say."""
    if model == "linear":
        if data.task not in ("auto", "regression"):
            raise InputError(f'data.task: model "linear" is for regression, given "{data.task}"')
        return "regression"
    if data.task == "regression" and model == "logistic":
        raise InputError('data.task: regression needs model "linear" or "mlp", not "logistic"')
    if data.task != "auto":
        return data.task
    distinct = len(np.unique(raw))
    countable = (raw == np.round(raw)).all() and (distinct <= 100 or 20 * distinct <= rows)
    if len(names) > 1:
        if np.isin(raw, (0, 1)).all():
            return "labels"
    elif distinct <= 2:
        return "binary"
    elif countable or names[0] in table.categories:
        return "classes"
    if model == "logistic":
        raise InputError(
            f"{table.origin}: target {names[0]!r} looks like numbers, not classes "
            f'(such as {raw[0, 0]:g}); model.name = "linear" predicts numbers'
        )
    return "regression"
