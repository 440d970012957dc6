"""A saved model on new rows: labels and probabilities, chunk by chunk."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

import nanotorch as nt
from nanotorch.training.config.choices import Model, OwnModule
from nanotorch.training.config.sections import Data, Reading
from nanotorch.training.data.columns import Column, text_of
from nanotorch.training.data.encoding import (
    Encoding,
    Target,
    encode_target,
    find_gaps,
    settle_targets,
)
from nanotorch.training.data.layout import guess_layout
from nanotorch.training.data.prepare import Standardization
from nanotorch.training.data.tables import Table, mark_missing, read_table, table_of_text
from nanotorch.training.data.text_files import text_chunks
from nanotorch.training.errors import InputError, plain, reading
from nanotorch.training.exits import say
from nanotorch.training.files import refuse_to_replace, remove_left_behind, write_whole
from nanotorch.training.metrics import Outcome
from nanotorch.training.model_file import ModelFile, read_model_file
from nanotorch.training.models import build_model
from nanotorch.training.run_folder import MODEL
from nanotorch.training.trust import code_of, require_trust

ROWS = 2**16  # predicted at once
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
        facts = Facts.model_validate(saved.facts)
        require_trust(code_of(facts.model), file, trusted)
        encoding = Encoding(facts.columns)
        inputs = len(encoding.feature_names)
        outputs = len(facts.classes) if facts.task == "classes" else len(facts.targets)
        standardization = Standardization(**saved.standardization)
        widths = [inputs, *getattr(facts.model, "hidden", []), outputs]
        named = not isinstance(facts.model, OwnModule)
        values = sum(before * after for before, after in itertools.pairwise(widths)) if named else 0
        if values > sum(array.size for array in saved.weights.values()):
            raise InputError(f"{file}: holds fewer weights than the model that it describes")
        if any(a.shape != (inputs,) for a in vars(standardization).values()):
            raise InputError(f"{file}: its standardization is not that of its {inputs} features")
        model = build_model(facts.model, inputs, outputs)
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
        features = self.standardization.apply(self.encoding.apply(table, rows), self.dtype.numpy)
        with nt.no_grad():
            return np.asarray(self.model(nt.from_numpy(features).to(self.dtype)).numpy())

    def outcome(self, table: Table, rows: Any = slice(None)) -> Outcome:
        """The outputs together with the truth, where the table has the target."""
        positions = [table.column(name, "target") for name in self.target.columns]
        truth = encode_target(table, positions, Data(source=table.origin), "", known=self.target)
        return Outcome(
            self.target.task, self.outputs(table, rows), truth.values[rows], self.threshold
        )

    def reading(self, source: str) -> Reading:
        """How a file is read: as the run's was, or else, where that does not show the columns of
        the model, by what the run's configuration said and guesses for the rest."""
        columns = [column.name for column in self.encoding.columns]
        path = Path(source)
        alike = NewRows(source=source, columns=columns, **{**self.guesses, **self.keys})
        with contextlib.suppress(InputError, OSError):
            if not path.is_file() or set(columns) <= set(guess_layout(path, alike).names):
                return alike
        return NewRows(source=source, columns=columns, **self.keys)

    def prepare(self, table: Table, targets: list[int], surprises: list[str]) -> NDArray[np.bool_]:
        """Ready a table for `outputs`; which of its rows can be predicted by the run's own rule for
        gaps. What training never met is added to `surprises`."""
        features = self.encoding.settle(table)
        if self.target.task == "regression":
            settle_targets(table, targets, dict.fromkeys(self.target.columns, "number"))
        gaps = find_gaps(table, features, targets, self.missing)
        surprises += [*gaps.notes, *self.encoding.surprises(table)]
        return np.ones(len(table.values), bool) if gaps.keep is None else gaps.keep

    def header(self) -> list[str]:
        """The columns that `predictions` fills."""
        if self.target.task == "regression":
            return [f"predicted_{name}" for name in self.target.columns]
        names = [f"probability_{name}" for name in self.target.classes]
        if self.target.task == "labels":
            return [*(f"predicted_{name}" for name in self.target.columns), *names]
        return ["predicted", *names]

    def predictions(self, table: Table, rows: Any = slice(None)) -> list[list[str]]:
        """One row of text per row of the table: labels, then probabilities."""
        outputs = self.outputs(table, rows)
        if self.target.task == "regression":
            return [[f"{value:.9g}" for value in row] for row in outputs.tolist()]
        outcome = Outcome(self.target.task, outputs, np.empty(0), self.threshold)
        probabilities = [[f"{p:.6g}" for p in row] for row in outcome.probabilities.tolist()]
        if self.target.task == "labels":
            labels = [[str(label) for label in row] for row in outcome.predicted.tolist()]
        else:
            labels = [[self.target.classes[at]] for at in outcome.predicted.tolist()]
        return [said + shares for said, shares in zip(labels, probabilities, strict=True)]


def guarded_cell(text: str) -> str:
    """The cell with an apostrophe before it where a spreadsheet would take it for a formula."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
        return text
    except ValueError:
        return f"'{text}"


def tables_of(source: str, reading: Reading) -> Iterator[Table]:
    """A data file as tables of at most some ten thousand rows, or whole where it is small."""
    path = Path(source)
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        for chunk in text_chunks(path, ROWS, reading):
            table = table_of_text(source, chunk, reading)
            mark_missing(table, reading.missing_values)
            yield table
        return
    yield read_table(source, reading)


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
    if output is not None:
        refuse_to_replace(output, wishes.force)
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as file:
        count = _predict(predictor, source, file, wishes)
        file.seek(0)
        if output is None:
            shutil.copyfileobj(file, sys.stdout)
        else:
            remove_left_behind(output.parent, output.name)
            write_whole(output, file.read().encode())
    return count


def _predict(predictor: Predictor, source: str, file: TextIO, wishes: Wishes) -> int:
    guard = guarded_cell if wishes.guarded else str
    writer = csv.writer(file, lineterminator="\n")
    header = predictor.header()
    writer.writerow(map(guard, [*wishes.keep, *header]))
    count = 0
    surprises: list[str] = []
    for table in tables_of(source, predictor.reading(source)):
        carried = [table.column(name, "--keep") for name in wishes.keep]
        texts = [_texts(table, position) for position in carried]
        keep = predictor.prepare(table, [], surprises)
        for start in range(0, len(table.values), ROWS):
            part = slice(start, start + ROWS)
            rows = iter(predictor.predictions(table, np.flatnonzero(keep[part]) + start))
            blank = [""] * len(header)
            writer.writerows(
                map(guard, [*(text[at] for text in texts), *(next(rows) if good else blank)])
                for at, good in enumerate(keep[part].tolist(), start)
            )
            count += len(keep[part])
    note(surprises)
    return count


def _texts(table: Table, position: int) -> list[str]:
    """The cells of a column as text; empty where they are missing."""
    known = table.categories.get(table.names[position])
    return [
        "" if math.isnan(value) else known[int(value)] if known else text_of(value)
        for value in np.asarray(table.values[:, position], dtype=np.float64).tolist()
    ]


def note(words: list[str]) -> None:
    for line in list(dict.fromkeys(words))[:SHOWN]:
        say(f"note: {plain(line)}", aside=True)
