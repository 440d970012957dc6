"""`nanotorch export`: a run gives the same predictions in onnxruntime and in PyTorch."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training import fit
from nanotorch.training.errors import InputError
from nanotorch.training.exporting import export_run
from nanotorch.training.prediction import predict_file

pytestmark = pytest.mark.ring("training")

COLUMNS = ["age", "fare", "sex", "port", "member", "cabin", "class"]


def passengers(path: Path, target: str, rows: int = 1000) -> None:
    """A table with text, gaps, yes and no, numbers that are categories, and rare values."""
    draw = random.Random(3)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "y"])
        for _ in range(rows):
            sex, member = draw.choice(["male", "female"]), draw.choice(["Yes", "No"])
            age = "" if draw.random() < 0.2 else f"{draw.uniform(1, 80):.1f}"
            score = draw.random() + (sex == "female") + 0.5 * (member == "Yes")
            y = {
                "binary": "in" if score > 1.1 else "out",
                "classes": "low" if score < 0.8 else "middle" if score < 1.5 else "high",
                "regression": f"{score:.4f}",
            }[target]
            port = draw.choice(["S", "C", "Q", "", "?"])
            cabin = f"c{int(draw.expovariate(0.15))}"
            fare = f"{draw.lognormvariate(3, 1):.2f}"
            writer.writerow([age, fare, sex, port, member, cabin, draw.choice("123"), y])


def trained(tmp_path: Path, target: str, **tables: Any) -> Path:
    source = tmp_path / "passengers.csv"
    passengers(source, target)
    data = {
        "source": str(source),
        "target": "y",
        "missing": "mean",
        "max_categories": 9,
        "types": {"class": "category"},
    }
    output = {"folder": str(tmp_path / "runs"), "curves": False, "report": False}
    config = {"data": data, "output": output, "training": {"epochs": 3}, **tables}
    return fit(config, quiet=True).folder


MODELS: dict[str, dict[str, Any]] = {
    "binary": {},
    "classes": {
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 3, "dtype": "float64"},
    },
    "regression": {"model": {"name": "linear"}},
}


@pytest.mark.parametrize("target", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_predicts_from_raw_columns(target: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    run = trained(tmp_path, target, **MODELS[target])
    lines = export_run(run, "onnx", None)
    assert "sex (text)" in lines[1]
    assert "age (number)" in lines[1]
    with (tmp_path / "passengers.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    session = ort.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {}
    for entry in session.get_inputs():
        cells = [row[entry.name] for row in table]
        values: Any = np.array(cells, dtype=object)
        if entry.type == "tensor(double)":
            values = np.array([float(cell or "nan") for cell in cells])
        feed[entry.name] = values[:, None]
    results = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True)
    )
    predict_file(run, str(tmp_path / "passengers.csv"), tmp_path / "predicted.csv")
    with (tmp_path / "predicted.csv").open(encoding="utf-8") as file:
        expected = list(csv.reader(file))[1:]
    assert len(expected) == 1000
    if target == "regression":
        numbers = np.array(expected, dtype=float)
        np.testing.assert_allclose(results["predicted"], numbers, rtol=1e-4, atol=1e-5)
        return
    assert results["predicted"].tolist() == [row[0] for row in expected]
    shares = np.array([row[1:] for row in expected], dtype=float)
    np.testing.assert_allclose(results["probabilities"], shares, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("target", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_the_lines_shown_load_a_run_in_pytorch(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from nanotorch.training.data.tables import read_table
    from nanotorch.training.prediction import Predictor, Unusual

    run = trained(tmp_path, target, **MODELS[target])
    lines = export_run(run, "torch", None)
    predictor = Predictor.load(run)
    source = str(tmp_path / "passengers.csv")
    table = read_table(source, predictor.reading(source))
    predictor.prepare(table, [], Unusual())
    names = {"x": torch.tensor(np.array(predictor.encoding.apply(table), dtype=np.float64))}
    monkeypatch.chdir(run)
    exec("\n".join(lines[2:]), names)
    np.testing.assert_allclose(
        names["z"].detach().numpy(), predictor.outputs(table), rtol=1e-5, atol=1e-6
    )


def test_an_export_never_replaces_a_file_unless_told_to(tmp_path: Path) -> None:
    run = trained(tmp_path, "binary")
    export_run(run, "torch", None)
    with pytest.raises(InputError, match=r"model\.pt"):
        export_run(run, "torch", None)
    export_run(run, "torch", None, force=True)
    shutil.rmtree(run)
    with pytest.raises(InputError):
        export_run(run, "torch", tmp_path / "m.pt")
