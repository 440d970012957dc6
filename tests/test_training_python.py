"""Training from Python: data out of memory, and what a run shows in a notebook."""

from __future__ import annotations

import ast
import json
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training import fit
from nanotorch.training.errors import InputError

REPOSITORY = Path(__file__).parent.parent
X = np.arange(60.0)
COLUMNS = {
    "x": X,
    "c": np.array(["u", "v", None] * 20, dtype=object),
    "when": np.datetime64("2024-01-01") + (X * 3 % 60).astype(int),
    "y": np.array(["no", "yes"] * 30),
}
CONFIG = {
    "data": {"missing": "mean"},
    "training": {"epochs": 2},
    "output": {"curves": False, "report": False},
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def frames() -> dict[str, Any]:
    class Frame:  # as pandas frames are, with its own mark for what is missing
        columns = tuple(COLUMNS)

        def __getitem__(self, name: str) -> Any:
            return COLUMNS[name]

    return {"arrays by name": COLUMNS, "a frame": Frame()}


REAL = pytest.mark.parametrize("kind", ["pandas", "polars", "lazy polars", "pyarrow", "records"])


@REAL
def test_frames_of_every_library_give_the_same_columns(kind: str) -> None:
    count = np.arange(12)
    columns: dict[str, Any] = {
        "whole": [None if k % 5 == 0 else int(k) for k in count],
        "price": [Decimal(int(k)) / 4 for k in count],
        "wait": [timedelta(hours=int(k * k)) for k in count],
        "day": [datetime(2024, 1, 1) + timedelta(days=int(k * k)) for k in count],
        "flag": [bool(k % 3) for k in count],
        "text": [None if k % 6 == 0 else "uv"[k % 2] for k in count],
        "written": [f"{k}.5" for k in count],
        "y": ["ab"[k % 2] for k in count],
    }
    data: Any
    if kind == "pandas":
        pandas = pytest.importorskip("pandas")
        data = pandas.DataFrame(columns, index=count + 100)
        data = data.astype({"whole": "Int64", "flag": "boolean", "text": "category"})
    elif kind == "pyarrow":
        data = pytest.importorskip("pyarrow").table(columns)
    elif kind == "records":
        dtype = [(name, object) for name in columns]
        data = np.array(list(zip(*columns.values(), strict=True)), dtype=dtype)
    else:
        polars = pytest.importorskip("polars")
        data = polars.DataFrame(columns).with_columns(polars.col("text").cast(polars.Categorical))
        data = data.lazy() if kind == "lazy polars" else data
    quick = {**CONFIG, "data": {"missing": "mean", "test": 0.0, "validation": 0.0}}
    run = fit(quick, data=data, quiet=True)
    numbers = ["whole", "price", "wait", "day", "flag"]
    expected = [*numbers, "text=u", "text=v", "text=(missing)", "written"]
    assert run.data.encoding.feature_names == expected
    assert run.data.standardization.mean[2] == pytest.approx(np.square(count).mean() / 24)


@pytest.mark.parametrize("kind", ["arrays by name", "a frame", "polars"])
def test_frames_train_as_files_do(kind: str) -> None:
    if kind == "polars":
        polars = pytest.importorskip("polars")
        data = polars.DataFrame(COLUMNS)
    else:
        data = frames()[kind]
    run = fit(CONFIG, data=data, quiet=True)
    assert run.data.encoding.feature_names == ["x", "c=u", "c=v", "c=(missing)", "when"]
    assert run.data.target.classes == ["no", "yes"]
    assert (run.folder / "model.safetensors").exists()


def test_a_pair_of_arrays_is_features_and_target() -> None:
    run = fit(CONFIG, data=(np.column_stack([X, X % 7]), X.astype(int) % 3), quiet=True)
    assert (run.data.inputs, run.data.target.task) == (2, "classes")


class Twice:
    columns = ("x", "x", "y")

    def __getitem__(self, name: str) -> Any:
        return np.ones((3, 2)) if name == "x" else np.ones(3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "expected a frame of pandas, polars or Arrow.*given int"),
        ((np.ones(3), np.ones(3)), r"given shapes \(3,\) and \(3,\)"),
        (Twice(), "two columns are called 'x'"),
        ({"a": np.ones(3), "y": np.ones(4)}, "columns of one length"),
        ({"a": np.ones((3, 2)), "y": np.ones(3)}, "columns of one length"),
    ],
)
def test_other_data_are_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(CONFIG, data=data, quiet=True)


def test_a_mistake_in_the_tables_is_told() -> None:
    with pytest.raises(InputError, match=r"optimizer.lr: expected number .> 0., given -1"):
        fit({"optimizer": {"lr": -1.0}}, data=COLUMNS)


def test_a_run_on_a_frame_goes_on_with_the_same_frame_alone() -> None:
    run = fit(CONFIG, data=COLUMNS, quiet=True)
    more = {**CONFIG, "training": {"epochs": 4}}
    with pytest.raises(InputError, match="its data have changed"):
        fit(more, resume=str(run.folder), data={**COLUMNS, "x": X[::-1]}, quiet=True)
    assert fit(more, resume=str(run.folder), data=COLUMNS, quiet=True).summary["epochs"] == 4


def test_the_notebook_of_the_documentation_runs() -> None:
    cells = json.loads((REPOSITORY / "docs" / "training.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "training.ipynb", "exec"), names)
            if isinstance(last, ast.Expr):
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    accuracy, figure, run, module, weight = shown
    assert accuracy > 0.9
    assert figure.axes[0].get_ylabel() == "loss"
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert run._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert run._repr_png_().startswith(b"\x89PNG")
    assert "266 parameters, 248 of them frozen" in module._repr_html_()
    assert "shape (2, 8)" in weight._repr_html_()
