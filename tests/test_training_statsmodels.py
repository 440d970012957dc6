"""Coefficients, standard errors, p values, intervals and odds ratios are those of statsmodels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training import fit
from nanotorch.training.results import Finished

sm: Any = pytest.importorskip("statsmodels.api")
pytestmark = pytest.mark.statsmodels

ROWS = 400
EXACT = {
    "optimizer": {
        "name": "lbfgs",
        "max_iter": 100,
        "tolerance_grad": 1e-13,
        "tolerance_change": 1e-15,
    },
    "training": {"epochs": 20, "batch_size": 0, "dtype": "float64"},
    "output": {"folder": "runs", "curves": False, "report": False},
}
COLUMNS = ("coefficient", "standard_error", "statistic", "p", "low", "high")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def features(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    a, b = random.standard_normal(ROWS) * 4 + 50, random.standard_normal(ROWS) * 0.01
    return {"a": a, "b": b, "c": 0.5 * a + random.standard_normal(ROWS), "d": random.random(ROWS)}


def logits(x: dict[str, np.ndarray]) -> np.ndarray:
    return 0.3 * (x["a"] - 50) + 60 * x["b"] - 0.4 * (x["c"] - 25)


def train(target: dict[str, Any], name: str, x: Any = None, **data: Any) -> Finished:
    sections = {"data": {"test": 0.0, "validation": 0.0, "target": list(target), **data}}
    tables = {**EXACT, **sections, "model": {"name": name}}
    if len(target) == 1:
        tables["data"]["target"] = next(iter(target))
    return fit(tables, data={**(x or features()), **target}, quiet=True)


def table(run: Finished) -> list[dict[str, str]]:
    return list(csv.DictReader((run.folder / "coefficients.csv").read_text().splitlines()))


def statsmodels_of(result: Any, exogenous: int) -> dict[str, np.ndarray]:
    """The columns of a table by statsmodels, outcome by outcome."""
    low, high = np.moveaxis(np.asarray(result.conf_int()).reshape(-1, exogenous, 2), -1, 0)
    shaped = {
        "coefficient": result.params,
        "standard_error": result.bse,
        "statistic": result.tvalues,
        "p": result.pvalues,
    }
    columns = {k: np.asarray(v).reshape(exogenous, -1, order="F").T for k, v in shaped.items()}
    return {**columns, "low": low, "high": high}


def assert_same(rows: list[dict[str, str]], result: Any, exogenous: int = 5) -> None:
    expected = statsmodels_of(result, exogenous)
    for name in COLUMNS:
        values = np.array([float(row[name]) for row in rows])
        np.testing.assert_allclose(
            values, expected[name].ravel(), rtol=1e-5, atol=1e-12, err_msg=name
        )


def design(x: dict[str, np.ndarray]) -> np.ndarray:
    return np.column_stack([np.ones(ROWS), *x.values()])


def test_a_logistic_model_is_logit() -> None:
    x = features()
    y = (np.random.default_rng(1).random(ROWS) < 1 / (1 + np.exp(-logits(x)))).astype(int)
    rows = table(train({"y": y}, "logistic"))
    result = sm.Logit(y, design(x)).fit(disp=0)
    assert_same(rows, result)
    assert [row["term"] for row in rows] == ["(intercept)", "a", "b", "c", "d"]
    for name, of in (("odds_ratio", "coefficient"), ("odds_low", "low"), ("odds_high", "high")):
        for row in rows:
            assert float(row[name]) == pytest.approx(np.exp(float(row[of])), rel=1e-6)


def test_several_classes_are_a_multinomial_logit_against_the_first() -> None:
    x = features()
    scores = np.column_stack([np.zeros(ROWS), logits(x), 0.2 * (x["a"] - 50)])
    y = (scores + np.random.default_rng(2).gumbel(size=scores.shape)).argmax(axis=1)
    rows = table(train({"y": np.array(["u", "v", "w"])[y]}, "logistic"))
    assert [row["outcome"] for row in rows] == ["v"] * 5 + ["w"] * 5
    assert_same(rows, sm.MNLogit(y, design(x)).fit(disp=0, method="newton", maxiter=100))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_linear_model_is_least_squares(weighted: bool) -> None:
    x, random = features(), np.random.default_rng(3)
    y = 3 * x["a"] - 200 * x["b"] + x["d"] + random.standard_normal(ROWS)
    w = random.integers(1, 5, ROWS).astype(float) if weighted else np.ones(ROWS)
    keys = {"weight": "w"} if weighted else {}
    rows = table(train({"y": y}, "linear", {**x, "w": w} if weighted else x, **keys))
    assert_same(rows, sm.WLS(y, design(x), weights=w).fit())
    assert all(row["odds_ratio"] == "" for row in rows)


def test_several_numbers_are_least_squares_each() -> None:
    x, random = features(), np.random.default_rng(4)
    targets = {"u": 3 * x["a"] + random.standard_normal(ROWS), "v": 0.1 * random.random(ROWS)}
    rows = table(train(targets, "linear"))
    for number, (name, y) in enumerate(targets.items()):
        its = rows[5 * number : 5 * number + 5]
        assert {row["outcome"] for row in its} == {name}
        assert_same(its, sm.OLS(y, design(x)).fit())


def test_several_labels_are_a_logit_each() -> None:
    x, random = features(), np.random.default_rng(5)
    chance = 1 / (1 + np.exp(-logits(x)))
    targets = {name: (random.random(ROWS) < chance).astype(int) for name in ("u", "v")}
    rows = table(train(targets, "logistic"))
    for number, y in enumerate(targets.values()):
        assert_same(rows[5 * number : 5 * number + 5], sm.Logit(y, design(x)).fit(disp=0))


def test_weights_count_rows() -> None:
    x, random = features(), np.random.default_rng(6)
    y = (random.random(ROWS) < 1 / (1 + np.exp(-logits(x)))).astype(int)
    w = random.integers(0, 4, ROWS).astype(float)
    run = train({"y": y}, "logistic", {**x, "w": w}, weight="w")
    family = sm.families.Binomial()
    assert_same(table(run), sm.GLM(y, design(x), family=family, freq_weights=w).fit())
    assert any("a number of rows" in n for n in notes(run))


def test_a_model_without_an_intercept() -> None:
    x = {name: values - values.mean() for name, values in features().items()}
    y = (np.random.default_rng(7).random(ROWS) < 1 / (1 + np.exp(-5 * x["b"]))).astype(int)
    tables = {**EXACT, "model": {"bias": False}, "data": {"test": 0.0, "validation": 0.0}}
    rows = table(fit(tables, data={**x, "y": y}, quiet=True))
    assert_same(rows, sm.Logit(y, design(x)[:, 1:]).fit(disp=0), exogenous=4)


def notes(run: Finished) -> list[str]:
    notes: list[str] = json.loads((run.folder / "summary.json").read_text())["data"]["notes"]
    return notes
