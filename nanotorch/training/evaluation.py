"""A saved model measured again: on a file with the target, or on the run's own test rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.reader import load
from nanotorch.training.data.identity import known_rows, marks_in, require_same
from nanotorch.training.data.prepare import prepare
from nanotorch.training.data.streamed_part import StreamedPart
from nanotorch.training.data.tables import Table
from nanotorch.training.errors import InputError
from nanotorch.training.metrics import baseline, measure, names_for
from nanotorch.training.prediction import Predictor, Unusual, note, tables_of
from nanotorch.training.run_folder import CONFIG
from nanotorch.training.tally import Tally, TotalOutcome


def evaluate_file(
    model: Path, source: str | None, trusted: bool = False, changed: bool = False
) -> dict[str, Any]:
    """Every metric of the model's task by name; None where one is undefined.

    `source` is a data file or the name of a bundled data set. Without it, `model` must be a run
    folder, and its held-out test rows are found again from its configuration; data that have
    changed since are refused unless `changed` allows them. Rows that the run was trained on, and
    what training never met, are counted on the standard error.
    """
    predictor = Predictor.load(model, trusted)
    if source is None:
        pieces = _test_rows(model, changed)
    else:
        pieces = ((table, None) for table in tables_of(source, predictor.reading(source)))
    unusual, tally, known = Unusual(), Tally(predictor.target.task, predictor.threshold), 0
    marks = None if source is None else marks_in(model)
    for table, some in pieces:
        targets = [table.column(name, "target") for name in predictor.target.columns]
        keep = predictor.prepare(table, targets, unusual)
        rows = np.flatnonzero(keep) if some is None else some[keep[some]]
        if marks is not None:
            known += known_rows(marks, predictor.encoding.apply(table, rows))
        if len(rows):
            tally.add(predictor.outputs(table, rows), predictor.truth(table)[rows])
    words = unusual.words()
    outcome = tally.outcome()
    if source is not None:
        if known:
            words.insert(0, f"{known:,} of {outcome.rows:,} rows are rows that it was trained on")
        note(words)
    if isinstance(outcome, TotalOutcome) and (rounded := outcome.words()):
        note([rounded])
    values: dict[str, Any] = measure(outcome, names_for(outcome.task))
    values = {name: None if value != value else value for name, value in values.items()}
    if predictor.most_frequent is not None:
        values["baseline_accuracy"] = baseline(predictor.most_frequent, outcome)
    if outcome.task in ("binary", "classes"):
        values["confusion"] = outcome.confusion.tolist()
    return {"rows": outcome.rows, **values}


def _test_rows(run: Path, changed: bool) -> Iterator[tuple[Table, NDArray[np.int64] | None]]:
    """The table of a run in pieces, and the places of its test rows in each; None for all."""
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: not a run folder; give a data file to evaluate a model file on")
    config = load(run / CONFIG)
    data = prepare(config.data, config.model.name, config.seed, keep_table=True)
    require_same(run, data.identity, changed)
    if config.data.test_file is not None:
        yield from ((table, None) for table in tables_of(config.data.test_file, config.data))
    elif isinstance(data.test, StreamedPart):
        yield from data.test.pieces()
    elif data.test_rows is None or data.table is None or not len(data.test_rows):
        raise InputError(f"{run}: the run held no test rows out (data.test = 0)")
    else:
        yield data.table, data.test_rows
