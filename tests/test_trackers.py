"""Callbacks of one's own: what they are told; the trackers and searches of docs/interop.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanotorch.training import fit
from nanotorch.training.errors import InputError
from nanotorch.training.exits import exit_code
from nanotorch.training.fit import train

pytestmark = pytest.mark.ring("training")

PAGE = (Path(__file__).parent.parent / "docs" / "interop.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def config(**output: Any) -> dict[str, Any]:
    return {
        "data": {"source": "breast_cancer"},
        "training": {"epochs": 3},
        "output": {"curves": False, "report": False, **output},
    }


class Recorder:
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_start(self, run: Any) -> None:
        self.calls.append(("start", run.folder.is_dir()))

    def on_epoch(self, run: Any, record: dict[str, Any]) -> None:
        self.calls.append(("epoch", record["epoch"], "validation/loss" in record))

    def on_end(self, run: Any) -> None:
        self.calls.append("end")

    def on_finish(self, run: Any, finished: Any) -> None:
        self.calls.append(("finish", (finished.folder / "model.safetensors").is_file()))


def test_a_callback_is_told_of_the_run_in_order() -> None:
    recorder = Recorder()
    fit(config(), quiet=True, callbacks=[recorder])
    epochs = [("epoch", number, True) for number in (1, 2, 3)]
    assert recorder.calls == [("start", True), *epochs, "end", ("finish", True)]


def test_a_callback_ends_the_run() -> None:
    class Enough:
        def on_epoch(self, run: Any, record: dict[str, Any]) -> None:
            run.at.ended = "enough"

    run = fit(config(), quiet=True, callbacks=[Enough()])
    assert (run.summary["epochs"], run.summary["ended"]) == (1, "enough")


OWN = """
class Lines:
    def on_epoch(self, run, record):
        with open("lines.txt", "a") as file:
            print(record["epoch"], file=file)

class Needy:
    def __init__(self, what): ...

class Misspelled:
    def on_epochs(self, run, record): ...

number = 3
"""


def test_a_configuration_names_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("watching_one.py").write_text(OWN)
    fit(config(callbacks=["watching_one:Lines"]), quiet=True)
    assert Path("lines.txt").read_text() == "1\n2\n3\n"


MISTAKES = {
    "watching": "expected \"package.module:Class\", given 'watching'",
    "nowhere_at_all:Lines": "No module named 'nowhere_at_all'",
    "watching_two:Line": "has no attribute 'Line'",
    "watching_two:number": "'watching_two:number' is not a class",
    "watching_two:Needy": r"watching_two:Needy\(\) fails: TypeError",
    "watching_two:Misspelled": "watching_two:Misspelled has none of on_start, on_step, on_epoch",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_name_are_told_before_a_folder_is_made(name: str) -> None:
    Path("watching_two.py").write_text(OWN)
    with pytest.raises(InputError, match=f"^output.callbacks: .*{MISTAKES[name]}"):
        fit(config(callbacks=[name]), quiet=True)
    assert not Path("runs").exists()


def test_callbacks_of_somebodys_run_are_imported_only_if_trusted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("watching_three.py").write_text(OWN)
    folder = fit(config(callbacks=["watching_three:Lines"]), quiet=True).folder
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    again = [str(folder / "config.toml"), "--training.epochs", "4"]
    assert exit_code(train, again, "train.py") == 2
    assert "would run code of 'watching_three:Lines'" in capsys.readouterr().err
    assert exit_code(train, [*again, "--trust-code"], "train.py") == 0


# The pages' programs, with the libraries they are for


def program(name: str) -> str:
    found = re.search(rf"^```python file: {re.escape(name)}\n(.*?)^```$", PAGE, re.M | re.S)
    assert found is not None
    return found[1]


def ran(code: str) -> str:
    """What a program prints, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_mlflow_gets_parameters_numbers_and_files() -> None:
    pytest.importorskip("mlflow")
    Path("tracking.py").write_text(program("tracking.py"))
    printed = ran(
        "import os, json; os.environ['MLFLOW_ALLOW_FILE_STORE'] = 'true'\n"
        "import mlflow; mlflow.set_tracking_uri('file:store')\n"
        "from nanotorch.training import fit\n"
        f"config = {config(callbacks=['tracking:MLflow'])!r}\n"
        "folder = fit(config, quiet=True).folder\n"
        "(run,) = mlflow.search_runs(output_format='list')\n"
        "client = mlflow.MlflowClient()\n"
        "losses = client.get_metric_history(run.info.run_id, 'validation/loss')\n"
        "files = sorted(f.path for f in client.list_artifacts(run.info.run_id))\n"
        "print(json.dumps([run.data.params, len(losses), files]))"
    )
    parameters, losses, files = json.loads(printed.splitlines()[-1])
    assert parameters.keys() == {"lr", "seed"}
    assert losses == 3
    assert "model.safetensors" in files


@pytest.mark.slow
def test_optuna_runs_ten_trials() -> None:
    pytest.importorskip("optuna")
    printed = ran(program("search.py") + "\nprint(len(study.trials), study.best_value < 0.2)")
    assert printed.splitlines()[-1] == "10 True"


def test_an_object_that_a_run_would_never_call_is_refused() -> None:
    with pytest.raises(InputError, match=r"^callbacks: dict has none of on_start, "):
        fit(config(), quiet=True, callbacks=[{"on_start": print}])
