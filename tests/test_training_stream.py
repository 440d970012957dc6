"""Data larger than `data.memory`: read in blocks, with the results of data in memory."""

from __future__ import annotations

import datetime
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training import fit
from nanotorch.training.callbacks import Checkpoints
from nanotorch.training.config.sections import Data
from nanotorch.training.data import split
from nanotorch.training.data.batches import Batches
from nanotorch.training.data.parts import Part
from nanotorch.training.data.prepare import Prepared, prepare
from nanotorch.training.data.streamed_batches import StreamedBatches
from nanotorch.training.data.streamed_part import StreamedPart
from nanotorch.training.data.streams import StreamedTable, bytes_of, open_table
from nanotorch.training.data.tables import read_table
from nanotorch.training.errors import InputError, RunFailure
from nanotorch.training.evaluation import evaluate_file
from nanotorch.training.metrics import METRICS, Outcome, names_for
from nanotorch.training.prediction import Wishes, predict_file
from nanotorch.training.ranks import Ranks
from nanotorch.training.run import Run
from nanotorch.training.tally import Tally

ROWS, SMALL = 1500, "30 kB"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(target: str = "two", rows: int = ROWS, kind: str = "f4", gaps: int = 0) -> None:
    """d.npy: 5 features, a weight, a group and a time, and the target in the last columns."""
    random = np.random.default_rng(7)
    x = random.standard_normal((rows, 5)) * [1, 2, 30, 0.1, 1] + [0, 5, -100, 0, 1]
    said = x @ [1, 0.5, 0.02, 3, -1]
    targets: dict[str, Any] = {
        "two": said > np.median(said),
        "three": np.digitize(said, np.quantile(said, [0.2, 0.6])),
        "numbers": said + random.standard_normal(rows),
        "labels": np.stack([said > 0, x[:, 1] > 5], axis=1),
    }
    beside = [random.integers(0, 3, rows), random.integers(0, 40, rows), random.permutation(rows)]
    for row in random.integers(0, rows, gaps):
        x[row, row % 5] = np.nan
    values = np.column_stack([x, *beside, targets[target]]).astype(kind)
    np.save("d.npy", np.asfortranarray(values) if kind == "f8" else values)


def both(**keys: Any) -> tuple[Prepared, Prepared]:
    """The same data in memory and in blocks."""
    model = keys.pop("model", "logistic")
    keys = {"ignore": ["5", "6", "7"], **keys}
    in_memory = prepare(Data(source="d.npy", **keys), model, 3)
    streamed = prepare(Data(source="d.npy", memory=SMALL, **keys), model, 3)
    assert isinstance(in_memory.train, Part) and isinstance(streamed.train, StreamedPart)
    assert streamed.train.table.count > 20  # blocks
    return in_memory, streamed


def rows_of(part: Any) -> list[np.ndarray[Any, Any]]:
    """Features, target and weights of a part, in order."""
    if isinstance(part, Part):
        weights = np.ones(len(part)) if part.weights is None else part.weights
        return [part.features.values, part.target.reshape(len(part), -1), weights]
    pieces = [part.read(number) for number in range(part.table.count)]
    raw, targets = (np.concatenate([piece[at] for piece in pieces]) for at in range(2))
    features = np.empty(raw.shape, np.float32)
    part.standardization.write(raw, features)
    weights = np.ones(len(features))
    if part.weights_of is not None:
        weights = np.concatenate([piece[2] for piece in pieces])
    return [features, targets.reshape(len(targets), -1), weights]


CASES: dict[str, dict[str, Any]] = {
    "two classes": {},
    "three classes": {"target": "three"},
    "numbers": {"target": "numbers", "model": "linear"},
    "labels": {"target": "labels", "columns": [-2, -1]},
    "columns one after the other": {"kind": "f8"},
    "whole numbers": {"kind": "i4"},
    "weights": {"weight": 5, "ignore": ["6", "7"]},
    "groups": {"split": "grouped", "group": 6, "ignore": ["5", "7"]},
    "time": {"split": "time", "time": 7, "ignore": ["5", "6"]},
    "at random": {"split": "random"},
    "a fold": {"folds": 4, "fold": 2},
    "no test part": {"test": 0.0},
    "rows with gaps left out": {"gaps": 40, "missing": "drop"},
    "gaps filled by the mean": {"gaps": 40, "missing": "mean"},
    "gaps filled by the median": {"gaps": 41, "missing": "median"},
    "numbers that mean nothing": {"missing": "drop", "missing_values": [2, 7], "kind": "i4"},
    "categories of numbers": {"types": {"5": "category"}, "ignore": ["6", "7"]},
    "rare categories": {"types": {"6": "category"}, "max_categories": 7, "ignore": ["5", "7"]},
    "not standardized": {"standardize": False},
}


@pytest.mark.parametrize("name", CASES)
def test_parts_are_those_in_memory(name: str) -> None:
    keys = dict(CASES[name])
    table(**{key: keys.pop(key) for key in ("target", "kind", "gaps") if key in keys})
    if "columns" in keys:
        keys["target"] = keys.pop("columns")
    one, other = both(**keys)
    assert one.identity["parts"] == other.identity["parts"]
    digests = [data.identity["files"]["d.npy"]["sha256"] for data in (one, other)]
    assert digests[0] == digests[1]
    assert [vars(c) for c in one.encoding.columns] == [
        {**vars(c), "fill": pytest.approx(c.fill)} for c in other.encoding.columns
    ]
    assert one.target.task == other.target.task and one.target.classes == other.target.classes
    for key in ("mean", "scale"):
        a, b = getattr(one.standardization, key), getattr(other.standardization, key)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    for part in ("train", "validation", "test"):
        a, b = getattr(one, part), getattr(other, part)
        if a is None:
            assert b is None
            continue
        for x, y in zip(rows_of(a), rows_of(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
        if one.target.task != "regression":
            assert [x.tolist() for x in a.classes] == [x.tolist() for x in b.classes]
    in_memory_alone = "stand in the training part as well"  # rows that are met twice
    assert [note for note in one.notes if in_memory_alone not in note] == other.notes


def test_a_test_file_may_be_larger_than_memory_too() -> None:
    table()
    Path("d.npy").rename("t.npy")
    table(rows=1200)
    one, other = both(test_file="t.npy")
    for x, y in zip(rows_of(one.test), rows_of(other.test), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_above_a_bound_each_row_draws_its_part_wherever_the_rows_lie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("split", "surveys", "prepare"):
        monkeypatch.setattr(f"nanotorch.training.data.{module}.DRAWN", 100)
    table()
    for keys in (
        {},
        {"split": "grouped", "group": 6, "ignore": ["5", "7"]},
        {"folds": 3, "fold": 1},
    ):
        one, other = both(**keys)
        assert one.identity["parts"] == other.identity["parts"]
        assert one.notes == other.notes
        shares = [len(part) / ROWS for part in (one.train, one.validation, one.test)]
        wanted = [0.6, 0.2, 0.2] if "folds" not in keys else [0.8 * 2 / 3, 0.8 / 3, 0.2]
        np.testing.assert_allclose(shares, wanted, atol=0.15 if "group" in keys else 0.03)
    with pytest.raises(InputError, match=r'data\.split: "time" orders up to 100 rows'):
        both(split="time", time=7, ignore=["5", "6"])


def test_every_fold_takes_each_drawn_row_once() -> None:
    rows = np.arange(50_000)
    labels = [split.drawn_parts(rows, 1, 0.2, 0.0, 5, fold) for fold in range(5)]
    assert all((each == 2).sum() == (labels[0] == 2).sum() for each in labels)
    validations = sum((each == 1).astype(int) for each in labels)
    assert np.array_equal(validations == 0, labels[0] == 2) and validations.max() == 1
    assert (labels[0] == 1).mean() == pytest.approx(0.16, abs=0.01)


# --- batches -------------------------------------------------------------------------------------


def served(batches: Any, epoch: int, start: int = 0) -> list[np.ndarray[Any, Any]]:
    """Features beside the target of each batch."""
    return [np.column_stack([x.numpy(), y.numpy()]) for x, y, _ in batches.epoch(epoch, start)]


def streamed_batches(size: int, ranks: Ranks | None = None, **options: Any) -> StreamedBatches:
    table()
    _, data = both()
    assert isinstance(data.train, StreamedPart)
    return StreamedBatches(data.train, lambda y, w: w, size, seed=5, ranks=ranks, **options)


SIZES = (1, 7, 64, 300, 640)


@pytest.mark.parametrize("size", SIZES)
def test_in_order_batches_are_those_in_memory(size: int) -> None:
    table()
    one, _ = both()
    assert isinstance(one.train, Part)
    batches = Batches(one.train, None, size)
    streamed = streamed_batches(size)
    pairs = zip(served(batches, 0), served(streamed, 0), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    for start in (0, 1, streamed.count - 1):
        assert len(served(streamed, 0, start)) == streamed.count - start


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shards", [1, 3, 8])
def test_shuffled_epochs_meet_each_row_once_and_begin_anywhere(size: int, shards: int) -> None:
    batches = streamed_batches(size, Ranks(None, shards), shuffle=True)
    epoch = served(batches, 2)
    assert [len(batch) for batch in epoch] == [batches.rows_of(k) for k in range(batches.count)]
    rows = np.concatenate(epoch)
    in_order = np.concatenate(served(batches.in_order(100), 0))
    assert sorted(map(bytes, rows)) == sorted(map(bytes, in_order))
    assert not np.array_equal(rows, in_order)
    assert not np.array_equal(rows, np.concatenate(served(batches, 3)))
    for start in {0, 1, batches.count // 2, batches.count - 1}:
        again = served(batches, 2, start)
        assert all(np.array_equal(a, b) for a, b in zip(epoch[start:], again, strict=True))


class OneOf(Ranks):
    """A rank of several, which never speaks to the others."""

    def __init__(self, rank: int, size: int, shards: int) -> None:
        super().__init__(None, shards)
        self.world = type("World", (), {"rank": rank, "size": size})()
        from nanotorch.distributed.shards import even_parts

        self.alone, self.own = size == 1, even_parts(shards, size)[rank]


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_each_batch_and_read_blocks_of_their_own(
    shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = streamed_batches(60, OneOf(0, 1, 4), shuffle=shuffle)
    expected = served(whole, 1)
    ordinary, read = StreamedPart.read, []

    def noted(part: StreamedPart, number: int, out: Any = None) -> Any:
        read[-1].append(number)
        return ordinary(part, number, out)

    monkeypatch.setattr(StreamedPart, "read", noted)
    parts = []
    for rank in range(2):
        read.append([])
        parts.append(served(streamed_batches(60, OneOf(rank, 2, 4), shuffle=shuffle), 1))
    for together, *own in zip(expected, *parts, strict=True):
        assert np.array_equal(together, np.concatenate(own))
    if shuffle:
        blocks = whole.part.table.count
        assert all(len(set(each)) < 0.7 * blocks for each in read)


def test_the_last_short_batch_can_be_left_out() -> None:
    for ranks in (None, Ranks(None, 2)):
        batches = streamed_batches(64, ranks, shuffle=True, drop_last=True)
        assert [len(batch) for batch in served(batches, 0)] == [64] * (900 // 64)


def test_rows_sorted_by_class_are_mixed_within_batches() -> None:
    table(rows=6000)
    values = np.load("d.npy")
    np.save("d.npy", values[np.argsort(values[:, -1])])
    _, data = both()
    assert isinstance(data.train, StreamedPart)
    batches = StreamedBatches(data.train, lambda y, w: w, 90, shuffle=True)
    shares = np.array([batch[:, -1].mean() for batch in served(batches, 0)])
    assert ((shares > 0.05) & (shares < 0.95)).mean() > 0.9


# --- runs ----------------------------------------------------------------------------------------


def run(folder: str = "runs", resume: str | None = None, **tables: Any) -> Any:
    quick = {"curves": False, "report": False, "folder": folder}
    data = {"source": "d.npy", "ignore": ["5", "6", "7"], **tables.pop("data", {})}
    tables = {"training": {"epochs": 3, "batch_size": 50}, **tables}
    return fit({"data": data, "output": quick, "device": "cpu", **tables}, resume, quiet=True)


@pytest.mark.parametrize("target", ["two", "three", "numbers"])
@pytest.mark.parametrize("more", [{}, {"training": {"epochs": 2, "shards": 3}}])
def test_a_run_in_the_order_of_the_rows_ends_as_one_in_memory(
    target: str, more: dict[str, Any]
) -> None:
    table(target)
    loss = {"class_weight": "balanced"} if target == "three" else {}
    model = {"name": "linear" if target == "numbers" else "logistic"}
    training = {"epochs": 3, "batch_size": 50, "shuffle": False, **more.get("training", {})}
    optimizer = {"name": "adam"}
    keys = {"loss": loss, "model": model, "training": training, "optimizer": optimizer}
    runs = [run(data=data, **keys) for data in ({}, {"memory": SMALL})]
    for part in ("train", "validation", "test"):
        one, other = (each.summary[part] for each in runs)
        for key, value in one.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-6, atol=1e-7, err_msg=key)


def test_a_shuffled_run_learns_as_one_in_memory() -> None:
    table("two")
    losses = [run(data=data).summary["test"]["loss"] for data in ({}, {"memory": SMALL})]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the runner handles it."""


@pytest.mark.parametrize("steps", [1, 17, 18, 19, 40])
@pytest.mark.parametrize("shards", [None, 2])
def test_a_streamed_run_that_is_killed_goes_on_to_the_same_bytes(
    steps: int, shards: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table()
    training = {"epochs": 3, "batch_size": 50, **({"shards": shards} if shards else {})}
    keys: Any = {
        "data": {"memory": SMALL},
        "training": training,
        "checkpoint": {"every_steps": 5},
    }
    whole = run("whole", **keys)
    ordinary, done = Checkpoints.on_step, itertools.count(1)

    def on_step(self: Checkpoints, run: Run) -> None:
        ordinary(self, run)
        if next(done) == steps:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Checkpoints, "on_step", on_step)
        run("killed", **keys)
    resumed = run("killed", resume="newest", **keys)
    for name in ("model.safetensors", "metrics.jsonl", "summary.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_file_that_changes_or_is_cut_off_ends_the_run_in_a_line() -> None:
    table()
    _, data = both()
    assert isinstance(data.train, StreamedPart)
    size = os.stat("d.npy").st_size
    with open("d.npy", "r+b") as file:
        file.truncate(size - 8)
    with pytest.raises(RunFailure, match=r"^d\.npy: the file was changed while it was read"):
        data.train.read(0)
    with pytest.raises(InputError, match="declares an array of shape"):
        both()


def test_more_rows_than_memory_cannot_be_one_batch() -> None:
    table()
    with pytest.raises(InputError, match=r"training\.batch_size: 900 rows take .* data\.memory"):
        run(data={"memory": "5 kB"}, training={"batch_size": 0})


@pytest.mark.parametrize(
    ("text", "count"), [("2 GB", 2 * 10**9), ("1.5MB", 1_500_000), ("7 kB", 7000), ("9 B", 9)]
)
def test_sizes_are_read_as_they_are_written(text: str, count: int) -> None:
    assert bytes_of(text) == count
    with pytest.raises(ValueError, match="memory"):
        Data(source="x", memory=f"{text} of memory")


# --- metrics of many rows ------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["binary", "classes", "labels", "regression"])
def test_totals_over_pieces_are_the_metrics_of_all_rows(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    rows, outputs = 20_000, {"binary": 1, "classes": 4, "labels": 3, "regression": 2}[task]
    said = random.standard_normal((rows, outputs)).astype(np.float32) * 3
    truth: Any = (said + random.standard_normal((rows, outputs)) * 3 > 0.5).astype(np.float32)
    if task == "classes":
        truth = (said + random.standard_normal((rows, outputs)) * 3).argmax(axis=1)
    if task == "regression":
        truth = said + random.standard_normal((rows, outputs)) + 1000
    monkeypatch.setattr("nanotorch.training.tally.EXACT", 100)
    tally = Tally(task)
    for start in range(0, rows, 1700):
        tally.add(said[start : start + 1700], truth[start : start + 1700])
    total, exact = tally.outcome(), Outcome(task, said, truth)
    for name in names_for(task):
        one, other = (METRICS[name].measure(each) for each in (exact, total))
        assert other == pytest.approx(one, rel=2e-5 if name.endswith("auc") else 1e-9), name
    assert len(total.outputs) == len(total.target) < rows
    if task == "binary":
        assert "ROC AUC is at most" in str(total.words())  # type: ignore[attr-defined]


def test_the_bound_on_auc_holds_where_all_scores_share_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nanotorch.training.tally.EXACT", 10)
    said = (1 + np.arange(1000) * 1e-9).astype(np.float32)[:, None]
    tally = Tally("binary")
    tally.add(said, np.arange(1000)[:, None] > 500)
    assert METRICS["roc_auc"].measure(tally.outcome()) == 0.5
    assert "at most 5.0e-01 off" in str(tally.outcome().words())  # type: ignore[attr-defined]


# --- predict and evaluate ------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files over 30 kB are read in blocks, Parquet files 200 rows at a time."""
    monkeypatch.setattr("nanotorch.training.data.streams.usual_memory", lambda: bytes_of(SMALL))
    monkeypatch.setattr("nanotorch.training.prediction.ROWS", 200)


def in_one_file(ending: str) -> str:
    """The table in d.npy as a file of another kind, with text in a column of categories."""
    polars = pytest.importorskip("polars")
    values = np.load("d.npy")
    columns: dict[str, Any] = {f"x{at}": values[:, at] for at in range(5)}
    columns["kind"] = [("red", "green", "blue")[int(at)] for at in values[:, 5]]
    columns["y"] = [("no", "yes")[int(at)] for at in values[:, -1]]
    frame = polars.DataFrame(columns)
    write = {".parquet": frame.write_parquet, ".csv": frame.write_csv}[ending]
    write(f"d{ending}")
    return f"d{ending}"


@pytest.mark.parametrize("name", ["d.npy", "d.parquet"])
def test_predictions_and_measures_of_any_size_are_those_in_memory(
    name: str, small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(gaps=30)
    source = "d.npy" if name == "d.npy" else in_one_file(".parquet")
    quick = {"curves": False, "report": False}
    data = {"source": source, "missing": "mean", "memory": "1 GB"}
    trained = fit({"data": data, "training": {"epochs": 2}, "output": quick}, quiet=True)
    results = []
    for rows, memory in ((10**6, "1 GB"), (200, SMALL)):
        monkeypatch.setattr("nanotorch.training.prediction.ROWS", rows)
        limit = bytes_of(memory)
        monkeypatch.setattr("nanotorch.training.data.streams.usual_memory", lambda n=limit: n)
        wishes = Wishes(["1" if name == "d.npy" else "x1"])
        predict_file(trained.folder, source, Path(f"{rows}.csv"), wishes=wishes)
        results.append((Path(f"{rows}.csv").read_bytes(), evaluate_file(trained.folder, source)))
    assert results[0][0] == results[1][0]
    for key, value in results[0][1].items():
        np.testing.assert_allclose(results[1][1][key], value, rtol=1e-6)


def test_notes_about_a_file_count_all_its_pieces(
    small_memory: None, capfd: pytest.CaptureFixture[str]
) -> None:
    table()
    trained = run(data={"missing": "mean"})
    values = np.load("d.npy")
    values[[1, 700, 1400], 0] = np.nan
    values[::100, 1] = 1e6
    np.save("new.npy", values)
    predict_file(trained.folder, "new.npy", Path("p.csv"))
    said = capfd.readouterr().err
    assert "3 missing values (0 3): filled with the mean of the training part" in said
    assert "column '1': 17 of 1,500 numbers outside" in said
    assert said.count("column '1'") == said.count("missing values") == 1


@pytest.mark.parametrize("task", ["binary", "labels", "numbers"])
def test_predictions_go_from_parquet_to_parquet(task: str, small_memory: None) -> None:
    polars = pytest.importorskip("polars")
    table("labels" if task == "labels" else "two", gaps=20)
    source = in_one_file(".parquet")
    data: dict[str, Any] = {"source": source, "missing": "drop"}
    model = {"name": "logistic"}
    if task == "labels":
        frame = polars.read_parquet(source).with_columns(z=polars.Series(np.load("d.npy")[:, -2]))
        frame = frame.with_columns(y=(polars.col("y") == "yes").cast(polars.Int8))
        frame.write_parquet(source)
        data["target"] = ["y", "z"]
    if task == "numbers":
        data["target"], model = "x0", {"name": "linear"}
    quick = {"curves": False, "report": False}
    tables = {"data": data, "model": model, "training": {"epochs": 2}, "output": quick}
    trained = fit(tables, quiet=True)
    wishes = Wishes(["kind", "x1"])
    assert predict_file(trained.folder, source, Path("p.parquet"), wishes=wishes) == ROWS
    predict_file(trained.folder, source, Path("p.csv"), wishes=wishes)
    typed, text = polars.read_parquet("p.parquet"), polars.read_csv("p.csv")
    assert typed.columns == text.columns and len(typed) == ROWS
    for name in typed.columns:
        one, other = typed[name], text[name]
        assert one.null_count() == other.null_count(), name
        if one.dtype == polars.String:
            assert one.to_list() == other.to_list()
        else:
            np.testing.assert_allclose(one.drop_nulls(), other.drop_nulls(), rtol=1e-5)
    source_of = polars.read_parquet(source)
    assert typed["kind"].to_list() == source_of["kind"].to_list()


def test_a_prediction_that_fails_leaves_no_parquet_file(small_memory: None) -> None:
    polars = pytest.importorskip("polars")
    table()
    trained = run()
    values = np.load("d.npy")
    values[1400, 0] = np.nan
    polars.DataFrame(values, schema=[str(at) for at in range(9)]).write_parquet("gap.parquet")
    with pytest.raises(InputError, match=r"row 1400, column '0': the value is missing"):
        predict_file(trained.folder, "gap.parquet", Path("p.parquet"))
    assert not [*Path().glob("p.parquet"), *Path().glob(".p.parquet*")]
    content = Path("gap.parquet").read_bytes()
    Path("cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"^cut\.parquet: not a \.parquet file, or a damaged one"):
        predict_file(trained.folder, "cut.parquet", Path("p.parquet"))


def test_the_test_rows_of_a_streamed_run_are_found_again() -> None:
    table()
    trained = run(data={"memory": SMALL})
    measured = evaluate_file(trained.folder, None)
    assert measured["rows"] == 300
    for key in ("accuracy", "roc_auc", "log_loss", "baseline_accuracy"):
        assert measured[key] == pytest.approx(trained.summary["test"][key], rel=1e-6)


# --- files that are converted --------------------------------------------------------------------

TEXTS = {
    "numbers": "".join(f"{i},{i / 7},{i % 2}\n" for i in range(400)),
    "numbers and gaps": "".join(f"{i},{i / 7 if i % 9 else ''},{i % 2}\n" for i in range(400)),
    "text": "".join(f"{i},{['no', 'yes', 'maybe'][i % 3]},{i % 2}\n" for i in range(400)),
    "text far below numbers": "".join(f"{i},{i if i < 300 else 'x'},{i % 2}\n" for i in range(400)),
    "numbers far below text": "".join(f"{i},{'?' if i < 300 else i},{i % 2}\n" for i in range(400)),
    "quoted": "".join(f'{i},"a, {i % 4}",{i % 2}\n' for i in range(400)),
    "blank lines": "".join(f"{i},{i % 5},{i % 2}\n{'' if i % 90 else chr(10)}" for i in range(400)),
    "delimiters alone": "".join(f"{i},{'abc'[i % 3]},{i % 2}\n,,\n" for i in range(400)),
    "no last newline": "".join(f"{i},{'abc'[i % 3]},{i % 2}\n" for i in range(400))[:-1],
    "line ends of Windows": "".join(f"{i},{'abc'[i % 3]},{i % 2}\r\n" for i in range(400)),
    "numbers below text": "".join(f"{i},{'u' if i < 200 else i % 7},{i % 2}\n" for i in range(400)),
    "numbers written in words": "".join(f'{i},"1,{i:03}",{i % 2}\n' for i in range(400)),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("reader", ["polars", "ours"])
def test_text_is_converted_in_pieces_to_what_it_is_in_memory(
    name: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "polars":
        pytest.importorskip("polars")
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sizes = {
        "conversion.AT_ONCE": 50,
        "polars_text.BYTES_AT_ONCE": 700,
        "text_files.WORTH_IT": 0,
        "text_files.WORTH_IMPORT": 0,
    }
    for key, value in sizes.items():
        monkeypatch.setattr(f"nanotorch.training.data.{key}", value)
    monkeypatch.setattr("nanotorch.training.data.layout.BLOCK", 64)
    Path("d.csv").write_text("a,b,y\n" + TEXTS[name], newline="")
    whole = read_table("d.csv", Data(source="d.csv"))
    for cache in (False, True, True):
        pieces = open_table("d.csv", Data(source="d.csv", memory="1 kB", cache=cache))
        assert isinstance(pieces, StreamedTable)
        assert (pieces.names, pieces.categories) == (whole.names, whole.categories)
        values = np.concatenate([block.values.copy() for block in pieces.blocks()])
        np.testing.assert_array_equal(values, whole.values)
        assert pieces.notes == whole.notes and pieces.guesses == whole.guesses
    copies = sorted(path.name for path in Path().iterdir())
    assert copies == [".d.csv.float64.json", ".d.csv.float64.npy", "d.csv"]


def test_a_copy_is_made_anew_when_the_file_has_other_content() -> None:
    keys: Any = {"source": "d.csv", "memory": "1 kB"}
    for factor in (1, 2):
        text = "".join(f"{factor * i},{i % 2}\n" for i in range(400))
        Path("d.csv").write_text("a,y\n" + text)
        table = open_table("d.csv", Data(**keys))
        assert isinstance(table, StreamedTable)
        assert table.block_table(0).values[1, 0] == factor


def test_parquet_is_converted_in_pieces_to_what_it_is_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    polars = pytest.importorskip("polars")
    random = np.random.default_rng(0)
    letters = random.choice(["b", "a", None, "dd", "c"], 1000).tolist()
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(int(n)) for n in range(1000)]
    numbers = random.standard_normal(1000)
    truth = random.random(1000) > 0.5
    frame = polars.DataFrame({"a": letters, "b": days, "c": numbers, "y": truth})
    frame.write_parquet("d.parquet", row_group_size=100)
    monkeypatch.setattr("nanotorch.training.data.conversion.AT_ONCE", 160)
    whole = read_table("d.parquet", Data(source="d.parquet"))
    pieces = open_table("d.parquet", Data(source="d.parquet", memory="5 kB"))
    assert isinstance(pieces, StreamedTable)
    assert (pieces.names, pieces.categories) == (whole.names, whole.categories)
    values = np.concatenate([block.values.copy() for block in pieces.blocks()])
    np.testing.assert_array_equal(values, whole.values)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_runs_on_converted_files_end_as_those_in_memory(ending: str) -> None:
    table()
    source = in_one_file(ending)
    keys: Any = {"training": {"epochs": 2, "batch_size": 50, "shuffle": False}}
    runs = [
        run(data={"source": source, "ignore": [], **more}, **keys)
        for more in ({}, {"memory": SMALL})
    ]
    assert runs[0].data.summary()["notes"] == runs[1].data.summary()["notes"]
    for key, value in runs[0].summary["test"].items():
        np.testing.assert_allclose(runs[1].summary["test"][key], value, rtol=1e-6, err_msg=key)


def test_a_column_of_too_many_texts_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    polars = pytest.importorskip("polars")
    for module in ("cells", "conversion", "streams"):
        monkeypatch.setattr(f"nanotorch.training.data.{module}.MOST_TEXTS", 100)
    columns = {"x": np.arange(500.0) % 7, "id": [f"id{at}" for at in range(500)]}
    frame = polars.DataFrame({**columns, "y": np.arange(500) % 2})
    frame.write_csv("d.csv")
    frame.write_parquet("d.parquet")
    for source in ("d.csv", "d.parquet"):
        data = prepare(Data(source=source, memory="1 kB"), "logistic", 0)
        assert data.encoding.feature_names == ["x"]
        assert data.notes[0] == "more than 100 different texts, LEFT OUT: id"
        with pytest.raises(InputError, match="target 'id': has too many different texts"):
            prepare(Data(source=source, memory="1 kB", target="id"), "logistic", 0)


def test_a_run_says_where_its_rows_are(capfd: pytest.CaptureFixture[str]) -> None:
    table()
    quick = {"curves": False, "report": False}
    data = {"source": "d.npy", "memory": SMALL}
    fit({"data": data, "training": {"epochs": 1}, "output": quick, "device": "cpu"})
    said = capfd.readouterr().out
    assert "data: 5.4e-05 GB stay on the disk, for data.memory is 3e-05 GB: read in blocks" in said
