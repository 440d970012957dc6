"""A saved model measured again: on a file with the target, or on the run's own test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanotorch.training.config.reader import load
from nanotorch.training.data.encoding import find_gaps
from nanotorch.training.data.prepare import prepare
from nanotorch.training.data.tables import read_table
from nanotorch.training.errors import InputError
from nanotorch.training.metrics import measure, names_for
from nanotorch.training.prediction import Predictor
from nanotorch.training.run_folder import CONFIG


def evaluate_file(model: Path, source: str | None, trusted: bool = False) -> dict[str, Any]:
    """Every metric of the model's task by name; None where one is undefined.

    `source` is a data file or the name of a bundled data set. Without it, `model` must be a run
    folder, and its held-out test rows are found again from its configuration.
    """
    predictor = Predictor.load(model, trusted)
    if source is None:
        outcome = predictor.outcome(*_test_rows(model))
    else:
        table = read_table(source, predictor.reading(source))
        targets = [table.column(name, "target") for name in predictor.target.columns]
        filled = any(column.fill is not None for column in predictor.encoding.columns)
        features = predictor.encoding.positions(table)
        find_gaps(table, features, targets, "mean" if filled else "refuse")
        outcome = predictor.outcome(table)
    values: dict[str, Any] = measure(outcome, names_for(outcome.task))
    values = {name: None if value != value else value for name, value in values.items()}
    if outcome.task in ("binary", "classes"):
        values["confusion"] = outcome.confusion.tolist()
    return {"rows": len(outcome.outputs), **values}


def _test_rows(run: Path) -> tuple[Any, Any]:
    """The table of a run and the numbers of its test rows."""
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: not a run folder; give a data file to evaluate a model file on")
    config = load(run / CONFIG)
    if config.data.test_file is not None:
        return read_table(config.data.test_file, config.data), slice(None)
    data = prepare(config.data, config.model.name, config.seed, keep_table=True)
    if data.test_rows is None or not len(data.test_rows):
        raise InputError(f"{run}: the run held no test rows out (data.test = 0)")
    return data.table, data.test_rows
