"""A run knows its data: changed files are refused, and what it never met is counted."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nanotorch.training import fit, read_request
from nanotorch.training.commands import COMMANDS
from nanotorch.training.data.identity import marks_of
from nanotorch.training.errors import InputError
from nanotorch.training.exits import exit_code

QUICK = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]
ROWS = [f"{i},{i * 7 % 61},{'uvw'[i % 3]},{'ab'[i % 2]}" for i in range(60)]
HEADER = "id,x,c,y"


def write(rows: list[str], header: str = HEADER, name: str = "d.csv") -> None:
    Path(name).write_text("\n".join([header, *rows, ""]))


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run on d.csv."""
    monkeypatch.chdir(tmp_path)
    write(ROWS)
    Path("a.toml").write_text('[data]\nsource = "d.csv"\nignore = ["id"]\n[training]\nepochs = 2\n')
    return train()


def train(*flags: str, resume: str | None = None, changed: bool = False) -> Path:
    config = read_request(["a.toml", *QUICK, *flags]).configs[0]
    return fit(config, resume, quiet=True, changed_data=changed).folder


def call(command: str, *arguments: str) -> int:
    return exit_code(COMMANDS[command], list(arguments), f"nanotorch {command}")


CHANGES: dict[str, tuple[Callable[[], None], str]] = {
    "rows in another order": (lambda: write(ROWS[::-1]), "its rows in another order"),
    "a row less": (lambda: write(ROWS[:-1]), "d.csv has 59 rows, and had 60"),
    "another value": (lambda: write(["0,5,u,a", *ROWS[1:]]), "d.csv has other values in"),
    "another text": (lambda: write(["0,0,v,a", *ROWS[1:]]), "d.csv has other values in c;"),
    "another name": (lambda: write(ROWS, "id,z,c,y"), r"other columns \(with z and without x\)"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_data_are_refused_with_what_has_changed(
    kind: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = CHANGES[kind]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    change()
    with pytest.raises(InputError, match=message):
        train("--training.epochs", "4", resume=str(run))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert call("evaluate", str(run)) == 2
    assert "--allow-changed-data" in capsys.readouterr().err
    if kind != "another name":
        assert call("evaluate", str(run), "--allow-changed-data") == 0
        train("--training.epochs", "4", resume=str(run), changed=True)


def test_a_run_of_before_that_does_not_know_its_data_goes_on(run: Path) -> None:
    (run / "data.json").unlink()
    (run / "train_rows.npy").unlink()
    write(ROWS[::-1])
    train("--training.epochs", "4", resume=str(run))
    assert call("evaluate", str(run), "d.csv") == 0


def test_rows_of_new_data_that_were_trained_on_are_counted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", str(run), "d.csv") == 0
    trained = 60 - 2 * 12
    assert f"note: {trained} of 60 rows are rows that it was trained on" in capsys.readouterr().err
    write([f"{i},{1000 + i},u,{'ab'[i % 2]}" for i in range(10)], name="new.csv")
    assert call("evaluate", str(run), "new.csv") == 0
    shown = capsys.readouterr().err
    assert "trained on" not in shown
    assert re.search(r"column 'x': 10 of 10 numbers outside \d … \d\d, the range", shown)


def test_marks_are_those_of_the_rows_wherever_they_stand() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (500, 4)).astype(float)
    same = (rows[:, None] == rows[None]).all(axis=2)
    marks = marks_of(rows)
    np.testing.assert_array_equal(marks[:, None] == marks[None], same)
    assert marks_of(np.array([[-0.0, 1.0]])) == marks_of(np.array([[0.0, 1.0]]))


# --- predictions -------------------------------------------------------------------------------


def predicted(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_columns_are_carried_through(run: Path) -> None:
    flags = ["--output", "p.csv", "--keep", "id", "--keep", "c"]
    assert call("predict", str(run), "d.csv", *flags) == 0
    rows = predicted("p.csv")
    assert list(rows[0])[:3] == ["id", "c", "predicted"]
    assert [(row["id"], row["c"]) for row in rows[:4]] == [
        ("0", "u"),
        ("1", "v"),
        ("2", "w"),
        ("3", "u"),
    ]


def test_a_threshold_takes_the_place_of_the_runs(run: Path) -> None:
    for threshold, label in (("0.001", {"b"}), ("0.999", {"a"})):
        flags = ["--output", f"{threshold}.csv", "--threshold", threshold]
        assert call("predict", str(run), "d.csv", *flags) == 0
        assert {row["predicted"] for row in predicted(f"{threshold}.csv")} == label
    assert call("predict", str(run), "d.csv", "--threshold", "2") == 2


def test_an_output_that_is_there_is_not_replaced(run: Path) -> None:
    Path("p.csv").write_text("mine")
    assert call("predict", str(run), "d.csv", "--output", "p.csv") == 2
    assert Path("p.csv").read_text() == "mine"
    assert call("predict", str(run), "d.csv", "--output", "p.csv", "--force") == 0
    assert len(predicted("p.csv")) == 60


def test_nothing_is_written_before_the_last_row_is_checked(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanotorch.training.prediction.ROWS", 8)
    write([*ROWS[:30], "30,,u,a"])
    assert call("predict", str(run), "d.csv") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "d.csv:32, column 'x': the value is missing" in shown.err


def test_what_training_never_met_is_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(["0,5,u", "1,99,q", "2,3,q"], "id,x,c", "new.csv")
    assert call("predict", str(run), "new.csv", "--output", "p.csv") == 0
    shown = capsys.readouterr().err
    assert "column 'c': 2 values that training never met or found rare, such as 'q'" in shown
    assert re.search(r"column 'x': 1 of 3 numbers outside \d … \d\d, the range", shown)


def test_gaps_are_treated_by_the_runs_own_rule(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(["0,5,u", "1,,v", "2,3,w"], "id,x,c", "new.csv")
    assert call("predict", str(run), "new.csv") == 2
    write(["60,,u,a", *ROWS])
    for rule, blank in (("mean", False), ("drop", True)):
        folder = str(train("--data.missing", rule))
        capsys.readouterr()
        assert call("predict", folder, "new.csv", "--output", f"{rule}.csv") == 0
        assert "1 missing values (x 1)" in capsys.readouterr().err
        rows = predicted(f"{rule}.csv")
        assert len(rows) == 3
        assert (rows[1]["predicted"] == "") == blank
