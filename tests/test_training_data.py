"""From files to batches: what is read, how rows are divided, encoded, standardized and served."""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training.config.sections import Data, Reading
from nanotorch.training.data.batches import Batches, epoch_order
from nanotorch.training.data.identity import content_digest
from nanotorch.training.data.parts import FeatureRows, Part
from nanotorch.training.data.prepare import prepare
from nanotorch.training.data.split import divide
from nanotorch.training.data.standardization import Standardization
from nanotorch.training.data.tables import read_table
from nanotorch.training.data.text_files import read_text_table
from nanotorch.training.errors import InputError
from nanotorch.training.synthetic import two_clouds


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "d.csv") -> str:
    Path(name).write_text(text)
    return name


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.csv", "a,b\n1,2\n3,4.5\n"),
        ("d.tsv", "a\tb\n1\t2\n3\t4.5\n"),
        ("d.csv", "a;b\n1;2\n3;4.5\n"),
        ("d.csv", "\ufeffa,b\r\n1,2\r\n3,4.5\r\n"),
        ("d.csv", '"a", b\n1,2\n3,4.5'),
    ],
    ids=["csv", "tsv", "semicolons", "Windows", "quotes and no last newline"],
)
def test_text_files_are_read_whatever_writes_them(name: str, text: str) -> None:
    table = read_table(write(text, name))
    assert table.names == ["a", "b"]
    np.testing.assert_array_equal(table.values, [[1, 2], [3, 4.5]])


def test_a_file_without_a_header_has_numbered_columns() -> None:
    table = read_table(write("1,2\n3,4\n"))
    assert table.names == ["0", "1"]
    assert len(table.values) == 2


def test_text_becomes_categories_and_gaps_become_missing() -> None:
    table = read_table(write("size,colour,y\n1,red,no\n,blue,yes\n3,,no\n"))
    assert table.categories == {"colour": ["blue", "red"], "y": ["no", "yes"]}
    np.testing.assert_array_equal(table.values, [[1, 1, 0], [np.nan, 0, 1], [3, np.nan, 0]])


def test_parquet_is_read_as_the_same_table() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1, 2, 3], "c": ["u", "v", None], "y": [True, False, True]})
    frame.write_parquet("d.parquet")
    table = read_table("d.parquet")
    assert table.names == ["a", "c", "y"]
    assert table.categories == {"c": ["u", "v"]}
    np.testing.assert_array_equal(table.values, [[1, 0, 1], [2, 1, 0], [3, np.nan, 1]])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError) as refused:
        read_table(write("PAR1", "d.parquet"))
    (line,) = refused.value.lines
    assert line.startswith("d.parquet: .parquet files: needs polars")
    assert 'pip install "nanotorch[data]"' in line


def test_svmlight_is_read_through_scikit_learn() -> None:
    table = read_table(write("1 1:0.5 3:2\n-1 2:1\n", "d.svm"))
    np.testing.assert_array_equal(table.values, [[0.5, 0, 2, 1], [0, 1, 0, -1]])


def test_npz_brings_names_and_several_targets() -> None:
    np.savez("d.npz", X=np.ones((4, 2)), y=np.eye(4)[:, :2], feature_names=["u", "v"])
    table = read_table("d.npz")
    assert table.names == ["u", "v", "target0", "target1"]
    assert table.target == ["target0", "target1"]


def test_npy_stays_on_the_disk() -> None:
    np.save("d.npy", np.arange(12.0).reshape(4, 3))
    assert isinstance(read_table("d.npy").values, np.memmap)


# --- the converted copy ----------------------------------------------------------------------


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text file that counts as large, read once."""
    monkeypatch.setattr("nanotorch.training.data.text_files.LARGE", 1)
    path = Path(write("a,b\n1,2\n3,4\n"))
    read_text_table(path, Reading(source=""))
    return path


def test_a_large_file_is_read_from_its_converted_copy(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "loadtxt", lambda *a, **k: pytest.fail("parsed again"))
    table = read_text_table(cached, Reading(source=""))
    assert isinstance(table.values, np.memmap)
    np.testing.assert_array_equal(table.values, [[1, 2], [3, 4]])
    assert (table.names, table.lines) == (["a", "b"], 2)


def test_a_changed_file_is_read_anew_though_size_and_time_are_the_same(cached: Path) -> None:
    before = cached.stat()
    cached.write_text("a,b\n1,2\n3,5\n")
    os.utime(cached, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(
        read_text_table(cached, Reading(source="")).values, [[1, 2], [3, 5]]
    )


class Program:
    """What leaves a file behind where its pickle is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("it ran"),)


def pickled(kind: str) -> bytes:
    """A pickle that runs a program: bare, in an array file, or in an archive of arrays."""
    array = np.array([[Program()], [1.0]], dtype=object)
    file = io.BytesIO()
    if kind == "bare":
        pickle.dump(Program(), file)
    elif kind == "array":
        np.save(file, array, allow_pickle=True)
    else:
        np.savez(file, features=array, target=np.arange(2.0))
    return file.getvalue()


@pytest.mark.parametrize(
    "name, kind", [("d.npy", "bare"), ("d.npy", "array"), ("d.npz", "bare"), ("d.npz", "archive")]
)
def test_no_pickle_is_run_by_reading_arrays(name: str, kind: str) -> None:
    Path(name).write_bytes(pickled(kind))
    with pytest.raises(InputError):
        read_table(name)
    assert not Path("it ran").exists()


@pytest.mark.parametrize("kind", ["bare", "array"])
def test_no_pickle_is_run_that_lies_where_a_converted_copy_was(kind: str, cached: Path) -> None:
    (copy,) = cached.parent.glob(".d.csv.*.npy")
    copy.write_bytes(pickled(kind))
    np.testing.assert_array_equal(
        read_text_table(cached, Reading(source="")).values, [[1, 2], [3, 4]]
    )
    assert not Path("it ran").exists()


@pytest.mark.parametrize("ending", ["npy", "json"])
def test_a_damaged_copy_is_not_used(cached: Path, ending: str) -> None:
    (copy,) = cached.parent.glob(f".d.csv.*.{ending}")
    copy.write_bytes(copy.read_bytes()[:-5])
    np.testing.assert_array_equal(
        read_text_table(cached, Reading(source="")).values, [[1, 2], [3, 4]]
    )


def test_the_digest_sees_every_byte() -> None:
    seen = set()
    for at in range(0, 101, 10):
        content = bytearray(101)
        content[at] = 1
        Path("x").write_bytes(content)
        seen.add(content_digest(Path("x")))
    assert len(seen) == 11


# --- division ------------------------------------------------------------------------------------


def test_parts_cover_every_row_once_and_follow_the_seed() -> None:
    one, again, other = (divide(100, 0.2, 0.1, seed) for seed in (0, 0, 1))
    rows = np.concatenate([one.train, one.validation, one.test])
    assert sorted(rows) == list(range(100))
    assert (len(one.validation), len(one.test)) == (10, 20)
    np.testing.assert_array_equal(one.test, again.test)
    assert not np.array_equal(one.test, other.test)


def test_each_class_is_divided_by_the_same_shares() -> None:
    classes = np.repeat([0, 1], [80, 20])
    split = divide(100, 0.25, 0.25, 0, classes=classes)
    for part in (split.validation, split.test):
        assert np.bincount(classes[part]).tolist() == [20, 5]


def test_groups_stay_together() -> None:
    groups = np.random.default_rng(0).integers(0, 12, 200)
    split = divide(200, 0.25, 0.25, 3, groups=groups)
    seen = [set(groups[part]) for part in (split.train, split.validation, split.test)]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert all(seen)


def test_the_newest_rows_are_the_test_part() -> None:
    times = np.random.default_rng(0).permutation(50)
    split = divide(50, 0.2, 0.2, 0, times=times)
    assert times[split.train].max() < times[split.validation].min()
    assert times[split.validation].max() < times[split.test].min()


# --- encoding and standardization ----------------------------------------------------------------


def test_features_have_mean_0_and_deviation_1_in_the_training_part() -> None:
    x = prepare(Data(source="breast_cancer"), "logistic", 0).train.features.values
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-5)


def test_large_offsets_survive_the_standardization() -> None:
    values = 1e9 + np.arange(5.0)[:, None]
    z = Standardization(values.mean(axis=0), values.std(axis=0)).apply(values)
    np.testing.assert_allclose(z[:, 0], (np.arange(5) - 2) / math.sqrt(2), rtol=1e-6)


def test_constant_columns_and_twins_are_noted() -> None:
    rows = "".join(f"{i % 9},7,{i % 2}\n" for i in range(60))
    notes = prepare(Data(source=write("a,b,y\n" + rows)), "logistic", 0).notes
    assert any("constant" in note and "b" in note for note in notes)
    assert any("stand in the training part as well" in note for note in notes)


@pytest.mark.parametrize(("missing", "fill"), [("mean", 2.0), ("median", 1.0)])
def test_missing_values_are_filled_from_the_training_part(missing: str, fill: float) -> None:
    text = "a,y\n" + "1,0\n1,1\n4,0\n,1\n1,1\n1,0\n4,1\n"
    data = Data(source=write(text), missing=missing, test=0.0, validation=0.0)  # type: ignore[arg-type]
    prepared = prepare(data, "logistic", 0)
    assert prepared.encoding.columns[0].fill == fill
    assert prepared.notes[0] == (
        f"1 missing values (a 1): filled with the {missing} of the training part"
    )


def test_rows_with_missing_values_can_be_left_out() -> None:
    text = "a,y\n" + "1,0\n,1\n2,0\n3,1\n4,1\n"
    data = Data(source=write(text), missing="drop", test=0.0, validation=0.0)
    prepared = prepare(data, "logistic", 0)
    assert len(prepared.train) == 4
    assert "1 of 5 rows are left out" in prepared.notes[0]


def test_text_columns_become_a_feature_per_value() -> None:
    text = "c,a,y\n" + "".join(f"{'rgb'[i % 3]},{i},{i % 2}\n" for i in range(30))
    prepared = prepare(Data(source=write(text), standardize=False), "logistic", 0)
    assert prepared.encoding.feature_names == ["c=b", "c=g", "c=r", "a"]
    np.testing.assert_array_equal(prepared.train.features.values[:, :3].sum(axis=1), 1)


@pytest.mark.parametrize(
    ("target", "model", "task"),
    [
        ([0, 1], "logistic", "binary"),
        ([3, 7], "logistic", "binary"),
        ([0, 1, 2], "logistic", "classes"),
        ([0.5, 1.5, 2.25], "mlp", "regression"),
        ([0, 1, 2], "linear", "regression"),
    ],
)
def test_the_task_follows_from_the_target(target: list[float], model: str, task: str) -> None:
    text = "a,y\n" + "".join(f"{i},{target[i % len(target)]}\n" for i in range(60))
    assert prepare(Data(source=write(text)), model, 0).target.task == task


def test_classes_with_long_numbers_are_told_apart() -> None:
    text = "a,y\n" + "".join(f"{i},{20261121 + i % 3}\n" for i in range(60))
    target = prepare(Data(source=write(text)), "logistic", 0).target
    assert target.classes == ["20261121", "20261122", "20261123"]


def test_a_test_file_is_encoded_like_the_training_data() -> None:
    train = write("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    test = write("y,extra,a\n1,5,10\n0,5,20\n1,5,30\n", "t.csv")
    prepared = prepare(Data(source=train, test_file=test, standardize=False), "logistic", 0)
    assert prepared.test is not None
    np.testing.assert_array_equal(prepared.test.features.values[:, 0], [10, 20, 30])
    np.testing.assert_array_equal(prepared.test.target[:, 0], [1, 0, 1])


# --- batches -------------------------------------------------------------------------------------


def part_of(rows: int) -> Part:
    values = np.arange(rows, dtype=np.float32)[:, None]
    return Part(FeatureRows(values), values.copy())


def rows_served(batches: Batches, epoch: int, start: int = 0) -> list[list[float]]:
    return [x.numpy()[:, 0].tolist() for x, _, _ in batches.epoch(epoch, start)]


def test_the_order_is_a_pure_function_of_seed_and_epoch() -> None:
    np.testing.assert_array_equal(epoch_order(3, 5, 100), epoch_order(3, 5, 100))
    assert not np.array_equal(epoch_order(3, 5, 100), epoch_order(3, 6, 100))
    assert not np.array_equal(epoch_order(3, 5, 100), epoch_order(4, 5, 100))


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("rows", [1, 7, 20, 21])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_serves_every_row_once_in_its_order(
    block: int, rows: int, shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanotorch.training.data.batches.BLOCK", block * 4 * 4)
    batches = Batches(part_of(rows), None, 4, seed=2, shuffle=shuffle)
    order = epoch_order(2, 9, rows) if shuffle else np.arange(rows)
    served = rows_served(batches, 9)
    assert [row for batch in served for row in batch] == order.tolist()
    assert [len(batch) for batch in served[:-1]] == [4] * (len(served) - 1)
    for start in range(batches.count):
        assert rows_served(batches, 9, start) == served[start:]


def test_a_short_last_batch_can_be_left_out() -> None:
    batches = Batches(part_of(10), None, 4, drop_last=True)
    assert rows_served(batches, 0) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_all_rows_are_one_batch_where_the_size_is_0() -> None:
    assert len(rows_served(Batches(part_of(10), None, 0), 0)) == 1


def test_targets_and_weights_go_with_their_rows() -> None:
    part = part_of(30)
    weights = part.target[:, 0] * 2
    for x, y, w in Batches(part, weights, 7, shuffle=True).epoch(1):
        assert w is not None
        np.testing.assert_array_equal(x.numpy(), y.numpy())
        np.testing.assert_array_equal(2 * x.numpy()[:, 0], w.numpy())


# --- synthetic data ------------------------------------------------------------------------------


def test_two_clouds_have_the_error_they_claim() -> None:
    data = two_clouds(200_000, 5, 1.5, 0)
    means = [data.features[data.target == c].mean(axis=0) for c in (0, 1)]
    direction, middle = means[1] - means[0], (means[0] + means[1]) / 2
    error = (((data.features - middle) @ direction > 0) != (data.target == 1)).mean()
    assert error == pytest.approx(data.bayes_error, abs=0.003)
