"""Hashed columns and sparse rows: tables of which a step updates a few rows alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.training import fit
from nanotorch.training.callbacks import Checkpoints
from nanotorch.training.config.reader import config_of
from nanotorch.training.config.sections import Data
from nanotorch.training.data.hashing import buckets_of_numbers, buckets_of_texts
from nanotorch.training.data.prepare import prepare
from nanotorch.training.data.streamed_part import StreamedPart
from nanotorch.training.errors import InputError
from nanotorch.training.evaluation import evaluate_file
from nanotorch.training.exporting import export_run
from nanotorch.training.lookups import HashedLinear, SparseLinear
from nanotorch.training.model_file import ModelFile, write_model_file
from nanotorch.training.prediction import Predictor, predict_file
from nanotorch.training.run import Run

ROWS, USERS, ITEMS = 600, 40, 25
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.5},
    "adagrad": {"lr": 0.3},
    "adam": {"lr": 0.05},
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def clicks(path: str = "clicks.csv", classes: int = 2) -> None:
    """A number and a text that name a user and an item, a price, and a click that follows."""
    random = np.random.default_rng(5)
    user, item = random.integers(0, USERS, ROWS), random.integers(0, ITEMS, ROWS)
    price = random.standard_normal(ROWS).round(3)
    likes = random.standard_normal(USERS)[user] + random.standard_normal(ITEMS)[item] + price / 2
    click = np.digitize(likes, np.quantile(likes, np.arange(1, classes) / classes))
    rows = zip(user * 1000, item, price, click, strict=True)
    lines = ["user,item,price,click", *(f"{u},item-{i},{p},{c}" for u, i, p, c in rows)]
    Path(path).write_text("\n".join(lines) + "\n")


def texts(path: str = "texts.svm", width: int = 50_000) -> None:
    """Rows of 1 … 12 features, the first 300 of which decide."""
    random = np.random.default_rng(2)
    weights = np.where(np.arange(width) < 300, random.standard_normal(width), 0)
    lines = []
    for _ in range(ROWS):
        names = np.unique(random.integers(0, 300, random.integers(1, 12)))
        names = np.append(names, random.integers(300, width))
        values = random.uniform(0.5, 2, len(names)).round(2)
        target = int(weights[names] @ values > 0)
        cells = [f"{name}:{value}" for name, value in zip(names, values, strict=True)]
        lines.append(" ".join([str(target), *cells]))
    Path(path).write_text("\n".join(lines) + "\n")


HASHED = {"source": "clicks.csv", "target": "click", "hash": {"user": "2**12", "item*": 4096}}
SPARSE = {"source": "texts.svm", "sparse": True}


def run(data: Any, optimizer: str = "adagrad", resume: str | None = None, **tables: Any) -> Any:
    output = {"curves": False, "report": False, "folder": tables.pop("folder", "runs")}
    training = {"epochs": 4, "batch_size": 30, **tables.pop("training", {})}
    chosen = {"name": optimizer, **OPTIMIZERS.get(optimizer, {}), **tables.pop("optimizer", {})}
    config = {"data": data, "optimizer": chosen, "training": training, "output": output, **tables}
    return fit({"device": "cpu", **config}, resume, quiet=True)


# --- buckets -------------------------------------------------------------------------------------


def test_a_number_has_the_bucket_of_its_text_and_a_gap_one_of_its_own() -> None:
    numbers = np.array([0.0, -0.0, 7, 123456789012, -3, 2.5, np.nan])
    written = ["0", "-0", "7", "123456789012", "-3", "2.5", ""]
    for size in (2, 1000, 2**20):
        buckets = buckets_of_numbers(numbers, size)
        assert buckets.tolist() == buckets_of_texts(written, size)[:-1].tolist()
        assert ((buckets >= 0) & (buckets < size) & (buckets % 1 == 0)).all()
    assert buckets[0] == buckets[1] and buckets[-1] == buckets_of_texts(["x"], 2**20)[-1]


def test_buckets_stay_what_they_are() -> None:
    """Saved models depend on them."""
    assert buckets_of_texts(["item-1", "user"], 2**20).tolist() == [607728.0, 592283.0, 391135.0]
    assert buckets_of_numbers(np.array([0.0, 1, 2, 1000, 2.5]), 2**20).tolist() == [
        904623.0,
        154817.0,
        480974.0,
        835912.0,
        895461.0,
    ]


def test_buckets_are_filled_evenly() -> None:
    for values in (np.arange(100_000.0), np.arange(0, 1e8, 1000.0)):
        counts = np.bincount(buckets_of_numbers(values, 100).astype(int), minlength=100)
        assert abs(counts / 1000 - 1).max() < 0.15


# --- the layers ----------------------------------------------------------------------------------


def test_a_hashed_layer_is_a_linear_layer_of_one_hot_columns() -> None:
    layer = HashedLinear(4, 3, [(1, 5), (2, 7)])
    nt.manual_seed(0)
    for parameter in layer.parameters():
        nt.nn.init.normal_(parameter)
    x = nt.tensor([[0.5, 4, 0, -1.0], [2.0, 0, 6, 3.0], [1.0, 4, 6, 0.0]])
    one_hot = nt.zeros(3, 12)
    for row, (first, second) in enumerate(x[:, 1:3].long().tolist()):
        one_hot[row, first] = one_hot[row, 5 + second] = 1.0
    expected = one_hot @ layer.weight + x[:, [0, 3]] @ layer.dense.weight.T + layer.bias
    y = layer(x)
    assert nt.allclose(y, expected)
    y.sum().backward()
    assert layer.weight.grad.is_sparse and layer.weight.grad.coalesce()._nnz() == 4
    assert nt.equal(layer.weight.grad.to_dense(), one_hot.sum(0).unsqueeze(1).expand(12, 3))


def test_a_sparse_layer_is_a_linear_layer_of_dense_rows() -> None:
    layer = SparseLinear(6, 2)
    nt.nn.init.normal_(layer.weight)
    x = nt.tensor([[1.0, 5, 2.0, -1.0], [3.0, 6, 0.5, 0.0]])
    dense = nt.tensor([[0.0, 2, 0, 0, 0, -1], [0, 0, 0, 0.5, 0, 0]])
    y = layer(x)
    assert nt.allclose(y, dense @ layer.weight[:6] + layer.bias)
    y.sum().backward()
    assert layer.weight.grad.coalesce().indices().tolist() == [[1, 3, 5]]


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["hashed", "sparse"])
def test_a_run_learns_and_its_model_predicts(kind: str, optimizer: str) -> None:
    data = HASHED if kind == "hashed" else SPARSE
    clicks(), texts()
    if kind == "sparse":
        pytest.importorskip("sklearn")
    done = run(data, optimizer, training={"epochs": 12})
    summary = done.summary
    assert summary["test"]["accuracy"] > summary["test"]["baseline_accuracy"] + 0.1
    again = evaluate_file(done.folder, None)
    assert again["accuracy"] == pytest.approx(summary["test"]["accuracy"])
    assert again["log_loss"] == pytest.approx(summary["test"]["log_loss"])
    assert predict_file(done.folder, data["source"], Path("said.csv")) == ROWS
    said = [line.split(",")[0] for line in Path("said.csv").read_text().splitlines()[1:]]
    whole = evaluate_file(done.folder, data["source"])
    source = Path(data["source"]).read_text().splitlines()
    truth = [line[0] for line in source] if kind == "sparse" else [x[-1] for x in source[1:]]
    assert np.mean(np.array(said) == truth) == pytest.approx(whole["accuracy"])


@pytest.mark.parametrize("kind", ["hashed", "sparse"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_perceptron_learns_from_tables(kind: str, classes: int) -> None:
    pytest.importorskip("sklearn")
    clicks(classes=classes), texts()
    data = HASHED if kind == "hashed" else SPARSE
    done = run(data, "adam", model={"name": "mlp", "hidden": [8], "embedding": 4})
    assert done.summary["test"]["accuracy"] > done.summary["test"]["baseline_accuracy"] + 0.05
    table = Predictor.load(done.folder).model.state_dict()["0.weight"]
    assert table.shape[1] == (4 if kind == "hashed" else 8)


def from_zero(width: int) -> dict[str, Any]:
    """A dense model whose weights start at 0, as those of tables do."""
    weights = {"weight": np.zeros((1, width), "f4"), "bias": np.zeros(1, "f4")}
    write_model_file(Path("zeros.safetensors"), ModelFile(weights))
    return {"name": "logistic", "start": "zeros.safetensors"}


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_a_hashed_run_is_the_run_of_one_hot_columns(optimizer: str) -> None:
    clicks()
    data = {"source": "clicks.csv", "target": "click", "ignore": ["price"]}
    hashed = run({**data, "hash": {"*": 2**20}}, optimizer)
    one_hot = {"types": {"user": "category"}, "max_categories": 200}
    dense = run({**data, **one_hot}, optimizer, model=from_zero(USERS + ITEMS))
    for part in ("train", "validation", "test"):
        for name in ("loss", "accuracy"):
            assert hashed.summary[part][name] == pytest.approx(dense.summary[part][name], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_a_run_on_sparse_rows_is_the_run_on_the_same_rows_dense(optimizer: str) -> None:
    pytest.importorskip("sklearn")
    texts(width=400)
    sparse = run(SPARSE, optimizer)
    width = sparse.summary["data"]["features"]
    dense = run({"source": "texts.svm", "standardize": False}, optimizer, model=from_zero(width))
    for part in ("train", "validation", "test"):
        for name in ("loss", "accuracy"):
            assert sparse.summary[part][name] == pytest.approx(dense.summary[part][name], rel=1e-5)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the runner handles it."""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["hashed", "sparse"])
@pytest.mark.parametrize("steps", [1, 18])
def test_a_killed_run_goes_on_to_the_same_bytes(
    kind: str, optimizer: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    clicks(), texts()
    data = HASHED if kind == "hashed" else SPARSE
    keys: Any = {"checkpoint": {"every_steps": 5}, "training": {"clip_norm": 0.5}}
    whole = run(data, optimizer, folder="whole", **keys)
    ordinary, done = Checkpoints.on_step, itertools.count(1)

    def on_step(self: Checkpoints, run: Run) -> None:
        ordinary(self, run)
        if next(done) == steps:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Checkpoints, "on_step", on_step)
        run(data, optimizer, folder="killed", **keys)
    resumed = run(data, optimizer, "newest", folder="killed", **keys)
    for name in ("model.safetensors", "metrics.jsonl", "summary.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_frozen_tables_stay_as_they_are_and_the_rest_is_trained() -> None:
    clicks()
    done = run(HASHED, "adam", model={"name": "logistic", "freeze": ["weight"]})
    weights = Predictor.load(done.folder).model.state_dict()
    assert not weights["weight"].any() and weights["dense.weight"].all()


def test_rows_that_no_batch_named_stay_at_zero() -> None:
    clicks()
    done = run(HASHED, "adam")
    weight = Predictor.load(done.folder).model.state_dict()["weight"]
    assert 0 < int((weight != 0).any(1).sum()) <= USERS + ITEMS


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_gap_has_a_bucket_of_its_own(missing: str) -> None:
    clicks()
    lines = Path("clicks.csv").read_text().splitlines()
    lines[3] = "," + lines[3].split(",", 1)[1]
    lines[9] = lines[9].split(",")[0] + ",," + lines[9].split(",", 2)[2]
    Path("clicks.csv").write_text("\n".join(lines) + "\n")
    done = run({**HASHED, "missing": missing})
    assert sum(done.summary["data"]["rows"].values()) == ROWS - 2 * (missing == "drop")
    notes = " ".join(done.summary["data"]["notes"])
    words = "2 of 600 rows are left out" if missing == "drop" else "a category of their own"
    assert words in notes and "filled with" not in notes
    with pytest.raises(InputError, match="the value is missing"):
        run(HASHED)


def test_rows_on_the_disk_are_hashed_block_by_block() -> None:
    clicks()
    rows = Path("clicks.csv").read_text().replace("item-", "").splitlines()[1:]
    np.save("clicks.npy", np.array([line.split(",") for line in rows], "f4"))
    data = {"source": "clicks.npy", "hash": {"0": 4096, "1": 4096}}
    order = {"training": {"shuffle": False}}
    runs = [run({**data, **more}, **order) for more in ({}, {"memory": "4 kB"})]
    for name in ("loss", "accuracy", "roc_auc"):
        one, other = (each.summary["test"][name] for each in runs)
        assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("most", [1, 100, 10_000])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_texts_in_any_number_have_the_buckets_that_they_have_in_memory(
    ending: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    polars = pytest.importorskip("polars")
    for module in ("cells", "conversion", "streams"):
        monkeypatch.setattr(f"nanotorch.training.data.{module}.MOST_TEXTS", most)
    monkeypatch.setattr("nanotorch.training.data.conversion.AT_ONCE", 64)
    monkeypatch.setattr("nanotorch.training.data.polars_text.BYTES_AT_ONCE", 1000)
    monkeypatch.setattr("nanotorch.training.data.streams.BLOCK", 4)
    random = np.random.default_rng(3)
    names: list[Any] = [f"u{n}" for n in random.integers(0, 300, ROWS)]
    for at, cell in zip(range(5, ROWS, 37), itertools.cycle(["17", "-5", "2.5", "é", None])):
        names[at] = cell
    columns = {"user": names, "x": random.standard_normal(ROWS).round(3), "y": np.arange(ROWS) % 2}
    frame = polars.DataFrame(columns)
    source = f"d.{ending}"
    (frame.write_csv if ending == "csv" else frame.write_parquet)(source)
    hashed: Any = {"source": source, "hash": {"user": 2**16}, "missing": "mean", "test": 0.0}
    one, other = (
        prepare(Data(**hashed, validation=0.0, **more), "logistic", 0)
        for more in ({}, {"memory": "1 kB"})
    )
    assert isinstance(other.train, StreamedPart)
    pieces = [other.train.read(number)[0] for number in range(other.train.table.count)]
    blocks, memory = np.concatenate(pieces)[:, 0], one.train.features.values[:, 0]
    assert blocks.tolist() == memory.tolist()
    assert len(np.unique(blocks)) > 200


# --- refusals ------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another optimizer": ({"optimizer": {"name": "rmsprop"}}, "optimizer.name: expected"),
    "lbfgs": ({"optimizer": {"name": "lbfgs"}, "training": {"batch_size": 0}}, "optimizer.name"),
    "adamw": ({"optimizer": {"name": "adamw"}}, "optimizer.name: expected"),
    "momentum": ({"optimizer": {"name": "sgd", "momentum": 0.9}}, "optimizer.momentum: moves"),
    "weight decay": ({"optimizer": {"name": "sgd", "weight_decay": 0.1}}, "optimizer.weight_decay"),
    "a group's": (
        {"optimizer": {"name": "sgd", "groups": [{"parameters": ["*"], "weight_decay": 0.1}]}},
        "optimizer.weight_decay: shrinks every row",
    ),
    "amsgrad": ({"optimizer": {"name": "adam", "amsgrad": True}}, "optimizer.amsgrad"),
    "a penalty": ({"penalty": {"l2": 0.1}}, "penalty.parameters: weight: a penalty changes every"),
    "accumulation": ({"training": {"accumulate": 2}}, "training.accumulate"),
    "shards": ({"training": {"shards": 2}}, "training.shards: data.hash is trained by one process"),
    "many buckets": ({"data": {**HASHED, "hash": {"user": 2**25}}}, "more than float32 can count"),
    "no such column": ({"data": {**HASHED, "hash": {"users": 64}}}, "no feature column matches"),
    "the target": ({"data": {**HASHED, "hash": {"click": 64}}}, "no feature column matches"),
    "one bucket": ({"data": {**HASHED, "hash": {"user": 1}}}, "hash"),
    "no number": (
        {"data": {**HASHED, "hash": {"user": "2*20"}}},
        r"data\.hash\.user: expected integer",
    ),
    "sparse CSV": ({"data": {**HASHED, "sparse": True}}, "is for rows of .svm files"),
    "no hidden layer": ({"model": {"name": "mlp", "hidden": []}}, "need a hidden layer"),
    "one's own module": (
        {"model": {"name": "module", "module": "torch.nn:Linear"}},
        "go with logistic, linear, mlp",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_touch_every_row_is_refused_in_a_line(name: str) -> None:
    clicks()
    tables, words = REFUSED[name]
    tables = {"data": HASHED, "output": {"folder": "runs"}, "device": "cpu", **tables}
    with pytest.raises(InputError, match=words) as error:
        fit(tables, quiet=True)
    assert len(error.value.lines) <= 2 and not Path("runs").exists()


def test_a_penalty_may_count_the_other_parameters() -> None:
    clicks()
    done = run(HASHED, penalty={"l2": 0.5, "parameters": ["dense.weight"]})
    assert done.summary["epochs"] == 4


def test_a_number_of_buckets_may_be_a_power() -> None:
    config = config_of({"data": HASHED})
    assert config.data.hash == {"user": 4096, "item*": 4096}


def test_a_model_of_tables_is_not_exported() -> None:
    clicks()
    done = run(HASHED)
    for to in ("onnx", "torch"):
        with pytest.raises(InputError, match="is not exported"):
            export_run(done.folder, to, None)


def test_features_that_training_never_met_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    texts()
    done = run(SPARSE)
    Path("new.svm").write_text("1 3:1 7:2\n1 3:1 7:2 900000:5\n")
    predict_file(done.folder, "new.svm", None)
    shown = capsys.readouterr()
    rows = shown.out.splitlines()
    assert (
        rows[1] == rows[2] and "1 of 5 values are of features that training never met" in shown.err
    )


def test_a_sparse_value_that_is_not_finite_is_named() -> None:
    pytest.importorskip("sklearn")
    Path("texts.svm").write_text("1 3:1\n0 5:nan\n1 4:2\n")
    with pytest.raises(InputError, match=r"texts\.svm:2: feature 5: expected a finite number"):
        run(SPARSE)
