"""Training from Python: data out of memory, and what a run shows in a notebook."""

from __future__ import annotations

import ast
import json
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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "expected a frame of pandas, polars or Arrow.*given int"),
        ((np.ones(3), np.ones(3)), r"given shapes \(3,\) and \(3,\)"),
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
    accuracy, figure, run = shown
    assert accuracy > 0.9
    assert figure.axes[0].get_ylabel() == "loss"
    assert run._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
