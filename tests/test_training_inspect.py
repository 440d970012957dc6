"""`nanotorch inspect`: what it says of each column, and that its configuration trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanotorch.training.commands import COMMANDS
from nanotorch.training.config.sections import Data
from nanotorch.training.errors import InputError
from nanotorch.training.exits import exit_code
from nanotorch.training.inspection import inspect_file

JOBS = ("cook", "nurse", "")


def rows(count: int, *columns: Callable[[int], Any]) -> str:
    return "".join(",".join(str(c(i)) for c in columns) + "\n" for i in range(count))


PEOPLE = "id,name,age,married,joined,rooms,job,group,survived\n" + rows(
    60,
    *(lambda i: i + 1, lambda i: f"person {i}", lambda i: "" if i % 9 == 0 else i * i % 71),
    *(lambda i: ("yes", "no")[i // 2 % 2], lambda i: f"{i % 12 + 1}/{i % 28 + 1}/2024"),
    *(lambda i: ("1", "2", "3", "4+")[i * 7 % 4], lambda i: JOBS[i // 3 % 3]),
    *(lambda i: f"g{i * i % 3 % 2}", lambda i: ("yes", "no")[i * i % 3 % 2]),
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(command: str, *arguments: str) -> int:
    return exit_code(COMMANDS[command], list(arguments), f"nanotorch {command}")


def test_every_column_is_described_with_what_a_run_makes_of_it() -> None:
    Path("d.csv").write_text(PEOPLE)
    found = inspect_file(Data(source="d.csv"))
    said = {f.name: (f.kind, round(f.missing, 2), f.distinct, f.use) for f in found.findings}
    assert said["id"] == ("numbers", 0.0, 60, "counts the rows: left out")
    assert said["name"][3].startswith("60 different texts in 60 rows, such as 'person 0': LEFT OUT")
    assert said["age"][:2] == ("numbers", 0.12)
    assert said["married"] == ("yes and no", 0.0, 2, "read as 1 for yes and 0 for no")
    assert said["joined"][0] == "dates"
    assert said["rooms"][3].startswith("numbers, but '4+'")
    assert said["job"] == ("text", 0.3, 2, "make 2 features of 0 and 1 of it")
    assert said["group"][3] == "left out below: it tells survived by itself"
    assert found.leaks == ["group"]
    assert found.target == "survived"
    assert found.balance == "no 40 (66.7%), yes 20 (33.3%)"


TABLES = {
    "people": (PEOPLE, [], "logistic"),
    "numbers": (
        "a,b,y\n" + rows(60, lambda i: i, lambda i: i * i % 7, lambda i: i / 7),
        [],
        "linear",
    ),
    "a target by number": (
        "5,a,1\n" + rows(60, lambda i: i % 7, lambda i: "ab"[i % 2], lambda i: i),
        ["--target", "1"],
        "logistic",
    ),
    "a target with gaps": (
        "a,b,y\n" + rows(60, lambda i: i * i, lambda i: i % 7, lambda i: ("u", "v", "")[i % 3]),
        [],
        "logistic",
    ),
    "names with signs": (
        "a[1],b*,y\n" + rows(60, lambda i: i % 2, lambda i: i * i, lambda i: i % 2),
        [],
        "logistic",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_its_configuration_trains_without_a_change(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, flags, model = TABLES[kind]
    Path("d.csv").write_text(text)
    assert call("inspect", "d.csv", *flags, "--write", "my.toml") == 0
    assert f'name = "{model}"' in Path("my.toml").read_text()
    assert call("train", "my.toml", "--quiet", "--output.curves", "false") == 0, capsys.readouterr()


@pytest.mark.parametrize(
    ("count", "target", "penalty", "best"),
    [
        (60, lambda i: "uv"[i % 2], "l2 = 0.03", False),
        (500, lambda i: "uv"[i % 2], "l2 = 0.003", False),
        (500, lambda i: i * 7919 % 501 / 7, "l2 = 0.0001", False),
        (40, lambda i: i * 7919 % 501 / 7, "l2 = 0.0001", True),
    ],
)
def test_the_penalty_and_the_best_epoch_follow_the_number_of_rows(
    count: int, target: Callable[[int], Any], penalty: str, best: bool
) -> None:
    Path("d.csv").write_text("a,y\n" + rows(count, lambda i: i * i % 97, target))
    assert call("inspect", "d.csv", "--write", "my.toml") == 0
    text = Path("my.toml").read_text()
    assert f"{penalty}\n" in text or f"{penalty}  #" in text
    assert ("restore_best = false" not in text) == best


def test_keys_of_data_may_follow_and_stay_in_the_configuration() -> None:
    Path("d.csv").write_text("a~y\n" + rows(60, lambda i: f"{i * i % 97}~{'uv'[i % 2]}"))
    assert call("inspect", "d.csv", "--data.delimiter", "~", "--write", "my.toml") == 0
    assert 'delimiter = "~"' in Path("my.toml").read_text()
    assert call("train", "my.toml", "--quiet", "--output.curves", "false") == 0


def test_what_is_not_finite_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Path("d.csv").write_text("a,b,y\ninf,1,u\n1e400,2,v\n3,3,u\n")
    assert call("inspect", "d.csv") == 0
    shown = capsys.readouterr().out
    assert "inf, 3" in shown and "note: a: infinite numbers, which a run refuses" in shown
    assert call("inspect", "d.csv", "--target", "a") == 0


def test_a_target_of_one_class_is_refused() -> None:
    Path("d.csv").write_text("x,y\n1,a\n2,a\n")
    with pytest.raises(InputError, match="target 'y' has one class only, 'a'"):
        inspect_file(Data(source="d.csv"))


def test_a_configuration_that_is_there_is_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.toml").write_text("mine")
    assert call("inspect", "iris", "--write", "my.toml") == 2
    assert Path("my.toml").read_text() == "mine"
    assert call("inspect", "iris", "--write", "my.toml", "--force") == 0
    assert 'source = "iris"' in Path("my.toml").read_text()


def test_the_way_of_a_stranger_takes_four_commands(capsys: pytest.CaptureFixture[str]) -> None:
    Path("d.csv").write_text(PEOPLE)
    assert call("inspect", "d.csv", "--write", "my.toml") == 0
    assert call("train", "my.toml") == 0
    assert call("evaluate", "runs/my-1") == 0
    assert call("predict", "runs/my-1", "d.csv", "--output", "p.csv") == 0
    assert len(Path("p.csv").read_text().splitlines()) == 61
    assert Path("runs/my-1/report.html").exists()
