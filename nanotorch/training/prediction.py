"""A saved model on new rows: labels and probabilities, chunk by chunk."""

from __future__ import annotations

import contextlib
import csv
import glob
import itertools
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

import nanotorch as nt
from nanotorch import datasets
from nanotorch.training.config.choices import Model, OwnModule
from nanotorch.training.config.sections import Data, Reading
from nanotorch.training.data.columns import Column, text_of
from nanotorch.training.data.encoding import (
    Encoding,
    Gaps,
    Surprises,
    Target,
    encode_target,
    find_gaps,
    settle_targets,
)
from nanotorch.training.data.frames import ParquetWriter, frame_batches
from nanotorch.training.data.layout import guess_layout
from nanotorch.training.data.sparse_rows import SparseTable
from nanotorch.training.data.standardization import Standardization
from nanotorch.training.data.streams import StreamedTable, open_table
from nanotorch.training.data.tables import Table, mark_missing, read_table, table_of_text
from nanotorch.training.data.text_files import text_chunks
from nanotorch.training.errors import InputError, plain, reading
from nanotorch.training.exits import pour, say
from nanotorch.training.files import (
    guarded_cell,
    refuse_to_replace,
    remove_left_behind,
    whole_file,
)
from nanotorch.training.lookups import table_size
from nanotorch.training.metrics import Outcome
from nanotorch.training.model_file import ModelFile, read_model_file
from nanotorch.training.models import build_model
from nanotorch.training.run_folder import MODEL
from nanotorch.training.trust import code_of, require_trust

ROWS = 2**16  # predicted at once
SPARSE_ROWS = 2**12  # of .svm files, at once
SHOWN = 12  # notes


class Facts(BaseModel):
    """What a model file says of itself, besides its weights."""

    model_config = ConfigDict(protected_namespaces=())

    model: Model
    task: Literal["binary", "classes", "labels", "regression"]
    classes: list[str]
    targets: Annotated[list[str], Field(min_length=1)]
    columns: Annotated[list[Column], Field(min_length=1)]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    dtype: Literal["float32", "float64"]
    reading: dict[str, Any] = {}
    guesses: dict[str, Any] = {}
    missing: Literal["refuse", "mean", "median", "drop"] | None = None
    most_frequent: list[int] | None = None  # class or labels of the training rows


class NewRows(Reading):
    """Rows to predict: the columns that the model knows tell which line is the header."""

    columns: list[str] = Field(default=[], description="names of the model's columns")


@dataclass
class Predictor:
    """A model with everything that turns raw rows into what it was trained on."""

    model: nt.nn.Module
    encoding: Encoding
    standardization: Standardization
    target: Target
    threshold: float
    dtype: Any
    keys: dict[str, Any]  # of [data] that say how files are written
    guesses: dict[str, Any]  # of such keys for the run's own file
    missing: str  # the run's rule for gaps
    most_frequent: list[int] | None  # class or labels of the training rows

    @staticmethod
    def load(path: Path, trusted: bool = False) -> Predictor:
        """From a run folder or its model.safetensors; `trusted` lets it import code it names."""
        file = path / MODEL if path.is_dir() else path
        saved = read_model_file(file)
        if not saved.facts:
            raise InputError(
                f"{file}: holds weights alone; a model file of a run also says what they are for"
            )
        with reading(file, "a model file that says what it is for"):
            return Predictor._from(saved, file, trusted)

    @staticmethod
    def _from(saved: ModelFile, file: Path, trusted: bool) -> Predictor:
        json.dumps(saved.facts, ensure_ascii=False).encode()  # halves of characters end here
        facts = Facts.model_validate(saved.facts)
        NewRows(source="", **{**facts.guesses, **facts.reading})  # refuses unknown keys
        require_trust(code_of(facts.model), file, trusted)
        encoding = Encoding(facts.columns)
        inputs = len(encoding.feature_names)
        outputs = len(facts.classes) if facts.task == "classes" else len(facts.targets)
        standardization = Standardization(**saved.standardization)
        widths = [inputs, *getattr(facts.model, "hidden", []), outputs]
        named = not isinstance(facts.model, OwnModule)
        values = sum(before * after for before, after in itertools.pairwise(widths)) if named else 0
        if tables := encoding.tables:
            values = table_size(tables, facts.model, outputs)
        if values > sum(array.size for array in saved.weights.values()):
            raise InputError(f"{file}: holds fewer weights than the model that it describes")
        if any(a.shape != (inputs,) for a in vars(standardization).values()):
            raise InputError(f"{file}: its standardization is not that of its {inputs} features")
        model = build_model(facts.model, inputs, outputs, tables)
        model.load_state_dict({name: nt.tensor(array) for name, array in saved.weights.items()})
        dtype = getattr(nt, facts.dtype)
        model.to(dtype=dtype).eval()
        target = Target(facts.task, np.empty((0, outputs)), facts.classes, facts.targets)
        filled = any(column.fill is not None for column in facts.columns)
        missing = facts.missing or ("mean" if filled else "refuse")
        rest = (facts.reading, facts.guesses, missing, facts.most_frequent)
        return Predictor(model, encoding, standardization, target, facts.threshold, dtype, *rest)

    def outputs(self, table: Table, rows: Any = slice(None)) -> NDArray[Any]:
        """What the model gives for rows of a table, shape (rows, outputs)."""
        if isinstance(table, SparseTable):  # whose rows take memory for the longest of them
            every = np.arange(len(table))[rows]
            parts = [every[at : at + SPARSE_ROWS] for at in range(0, len(every), SPARSE_ROWS)]
            if len(parts) > 1:
                return np.concatenate([self.outputs(table, part) for part in parts])
        features = self.standardization.apply(self.encoding.apply(table, rows), self.dtype.numpy)
        with nt.no_grad():
            return np.asarray(self.model(nt.from_numpy(features).to(self.dtype)).numpy())

    def truth(self, table: Table) -> NDArray[Any]:
        """The target of a table that has it."""
        positions = [table.column(name, "target") for name in self.target.columns]
        data = Data(source=table.origin)
        return encode_target(table, positions, data, "", known=self.target).values

    def reading(self, source: str) -> Reading:
        """How a file is read: as the run's was, or else, where that does not show the columns of
        the model, by what the run's configuration said and guesses for the rest."""
        columns = [column.name for column in self.encoding.columns]
        path = Path(source)
        alike = NewRows(source=source, columns=columns, **{**self.guesses, **self.keys})
        with contextlib.suppress(InputError, OSError), reading(path, "a table of text"):
            if not path.is_file() or set(columns) <= set(guess_layout(path, alike).names):
                return alike
        return NewRows(source=source, columns=columns, **self.keys)

    def prepare(self, table: Table, targets: list[int], unusual: Unusual) -> NDArray[np.bool_]:
        """Ready a table for `outputs`; which of its rows can be predicted by the run's own rule for
        gaps. What training never met is counted in `unusual`."""
        features = self.encoding.settle(table)
        if self.target.task == "regression":
            settle_targets(table, targets, dict.fromkeys(self.target.columns, "number"))
        gaps = find_gaps(table, features, targets, self.missing)
        unusual.gaps.add(gaps)
        unusual.table = table
        self.encoding.surprises(table, unusual.surprises)
        return np.ones(len(table), bool) if gaps.keep is None else gaps.keep

    def kinds(self) -> dict[str, type]:
        """The columns that `answers` fills, and what they hold."""
        if self.target.task == "regression":
            return {f"predicted_{name}": float for name in self.target.columns}
        probabilities: dict[str, type] = {f"probability_{c}": float for c in self.target.classes}
        if self.target.task == "labels":
            return {**{f"predicted_{name}": int for name in self.target.columns}, **probabilities}
        return {"predicted": str, **probabilities}

    def answers(self, table: Table, rows: Any = slice(None)) -> list[list[Any]]:
        """The columns of `kinds` for rows of a table: labels, then probabilities."""
        outputs = self.outputs(table, rows)
        if self.target.task == "regression":
            columns: list[list[Any]] = outputs.T.tolist()
            return columns
        outcome = Outcome(self.target.task, outputs, np.empty(0), self.threshold)
        probabilities = outcome.probabilities.T.tolist()
        if self.target.task == "labels":
            return [*outcome.predicted.T.tolist(), *probabilities]
        return [[self.target.classes[at] for at in outcome.predicted.tolist()], *probabilities]


@dataclass
class Unusual:
    """Gaps, and values that training never met, in all pieces of a file."""

    gaps: Gaps = field(default_factory=Gaps)
    surprises: Surprises = field(default_factory=Surprises)
    table: Table | None = None  # the latest piece

    def words(self) -> list[str]:
        """Words about them; InputError where every row of the file has a gap."""
        gaps = [] if self.table is None else self.gaps.words(self.table)
        return [*gaps, *self.surprises.words()]


def tables_of(source: str, reading: Reading) -> Iterator[Table]:
    """A data file as tables of some ten thousand rows, or whole where it is small text or of a kind
    that is read whole."""
    path = Path(source)
    ending = path.suffix.lower()
    if not path.is_file() or source in datasets.names():
        yield read_table(source, reading)
    elif ending == ".parquet":
        first = 0
        for names, values, categories in frame_batches(path, ROWS):
            table = Table(source, names, values, categories, first=first)
            mark_missing(table, reading.missing_values)
            first += len(table)
            yield table
        if not first:
            raise InputError(f"{path}: there are no rows")
    elif isinstance(table := open_table(source, reading), StreamedTable):
        yield from table.blocks()
    elif ending in (".csv", ".tsv"):
        for chunk in text_chunks(path, ROWS, reading):
            table = table_of_text(source, chunk, reading)
            mark_missing(table, reading.missing_values)
            yield table
    else:
        yield table


@dataclass
class Wishes:
    """How predictions are written."""

    keep: list[str] = field(default_factory=list)  # columns that are carried through
    threshold: float | None = None  # instead of the run's
    guarded: bool = True
    force: bool = False


AS_USUAL = Wishes()


def predict_file(
    model: Path,
    source: str,
    output: Path | None,
    trusted: bool = False,
    wishes: Wishes = AS_USUAL,
) -> int:
    """Write predictions for every row of `source` as CSV; how many rows there were.

    Without `output` they go to the standard output. Nothing is written before every row is
    predicted, and a file that is there stays unless `wishes.force` is set. What training never met
    is counted on the standard error.
    """
    predictor = Predictor.load(model, trusted)
    if wishes.threshold is not None:
        predictor.threshold = wishes.threshold
    if output is None:
        with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as file:
            count = _predict(predictor, source, _Csv(file, predictor, wishes), wishes)
            file.seek(0)
            pour(file)
        return count
    refuse_to_replace(output, wishes.force)
    remove_left_behind(output.parent, glob.escape(output.name))
    with whole_file(output) as temporary:
        if output.suffix.lower() == ".parquet":
            return _predict(predictor, source, _Parquet(temporary, predictor, wishes.keep), wishes)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            return _predict(predictor, source, _Csv(file, predictor, wishes), wishes)


class _Csv:
    """Writes columns as lines of text."""

    def __init__(self, file: TextIO, predictor: Predictor, wishes: Wishes) -> None:
        self._guard = guarded_cell if wishes.guarded else str
        self._digits = ".9g" if predictor.target.task == "regression" else ".6g"
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(map(self._guard, [*wishes.keep, *predictor.kinds()]))

    def add(self, kept: list[list[Any]], kinds: list[type], answers: list[list[Any]]) -> None:
        """Write rows: columns that are carried through, and columns of the model's."""
        columns = []
        for column in kept:
            columns.append([self._guard(_cell(cell)) for cell in column])
        for column in answers:
            columns.append([self._guard(self._text(cell)) for cell in column])
        self._writer.writerows(zip(*columns, strict=True))

    def _text(self, cell: Any) -> str:
        if isinstance(cell, float):
            return format(cell, self._digits)
        return "" if cell is None else str(cell)

    def close(self) -> None:
        pass


class _Parquet:
    """Writes columns into a Parquet file, with the types that they have."""

    def __init__(self, path: Path, predictor: Predictor, names: Sequence[str]) -> None:
        self._path, self._names, self._kinds = path, names, predictor.kinds()
        self._writer: ParquetWriter | None = None

    def add(self, kept: list[list[Any]], kinds: list[type], answers: list[list[Any]]) -> None:
        """Write rows: columns that are carried through, and columns of the model's."""
        if self._writer is None:
            every = {**dict(zip(self._names, kinds, strict=True)), **self._kinds}
            self._writer = ParquetWriter(self._path, every)
        names = [*self._names, *self._kinds]
        self._writer.add(dict(zip(names, [*kept, *answers], strict=True)))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _predict(predictor: Predictor, source: str, writer: _Csv | _Parquet, wishes: Wishes) -> int:
    count, unusual = 0, Unusual()
    with contextlib.closing(writer):
        for table in tables_of(source, predictor.reading(source)):
            carried = [table.column(name, "--keep") for name in wishes.keep]
            texts = [table.names[at] in table.categories for at in carried]
            kinds: list[type] = [str if text else float for text in texts]
            kept = [_cells(table, position) for position in carried]
            keep = predictor.prepare(table, [], unusual)
            for start in range(0, len(table), ROWS):
                part = slice(start, start + ROWS)
                good = np.flatnonzero(keep[part])
                answers = predictor.answers(table, good + start)
                if len(good) < len(keep[part]):
                    answers = [_spread(column, keep[part]) for column in answers]
                writer.add([cells[part] for cells in kept], kinds, answers)
                count += len(keep[part])
        words = unusual.words()
    note(words)
    return count


def _spread(answers: list[Any], keep: NDArray[np.bool_]) -> list[Any]:
    """The answers in the places of the rows that were predicted, None in the others."""
    each = iter(answers)
    return [next(each) if good else None for good in keep.tolist()]


def _cells(table: Table, position: int) -> list[Any]:
    """The cells of a column: texts or numbers, None where they are missing."""
    known = table.categories.get(table.names[position])
    return [
        None if math.isnan(value) else known[int(value)] if known else value
        for value in np.asarray(table.values[:, position], dtype=np.float64).tolist()
    ]


def _cell(cell: Any) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else text_of(cell)


def note(words: list[str]) -> None:
    for line in list(dict.fromkeys(words))[:SHOWN]:
        say(f"note: {plain(line)}", aside=True)
