"""A saved model measured again: on a file with the target, or on the run's own test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.reader import load
from nanotorch.training.data.identity import known_rows, require_same
from nanotorch.training.data.prepare import prepare
from nanotorch.training.data.tables import read_table
from nanotorch.training.errors import InputError
from nanotorch.training.metrics import baseline, measure, names_for
from nanotorch.training.prediction import Predictor, note
from nanotorch.training.run_folder import CONFIG


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
        table, rows = _test_rows(model, changed)
    else:
        table = read_table(source, predictor.reading(source))
        rows = np.arange(len(table.values))
    targets = [table.column(name, "target") for name in predictor.target.columns]
    surprises: list[str] = []
    keep = predictor.prepare(table, targets, surprises)
    rows = rows[keep[rows]]
    if source is not None:
        if known := known_rows(model, predictor.encoding.apply(table, rows)):
            surprises.insert(0, f"{known:,} of {len(rows):,} rows are rows that it was trained on")
        note(surprises)
    outcome = predictor.outcome(table, rows)
    values: dict[str, Any] = measure(outcome, names_for(outcome.task))
    values = {name: None if value != value else value for name, value in values.items()}
    if predictor.most_frequent is not None:
        values["baseline_accuracy"] = baseline(predictor.most_frequent, outcome)
    if outcome.task in ("binary", "classes"):
        values["confusion"] = outcome.confusion.tolist()
    return {"rows": len(outcome.outputs), **values}


def _test_rows(run: Path, changed: bool) -> tuple[Any, NDArray[np.int64]]:
    """The table of a run and the numbers of its test rows."""
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: not a run folder; give a data file to evaluate a model file on")
    config = load(run / CONFIG)
    data = prepare(config.data, config.model.name, config.seed, keep_table=True)
    require_same(run, data.identity, changed)
    if config.data.test_file is not None:
        table = read_table(config.data.test_file, config.data)
        return table, np.arange(len(table.values))
    if data.test_rows is None or not len(data.test_rows):
        raise InputError(f"{run}: the run held no test rows out (data.test = 0)")
    return data.table, data.test_rows
