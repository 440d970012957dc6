"""A run that stops anywhere goes on to the same bytes as one that never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanotorch.training import fit, read_request
from nanotorch.training.callbacks import Checkpoints
from nanotorch.training.errors import InputError, Interrupted
from nanotorch.training.results import Finished
from nanotorch.training.run import Run
from nanotorch.training.run_folder import read_log
from nanotorch.training.signals import StopSignals

REPOSITORY = Path(__file__).parent.parent
COMPARED = ("model.safetensors", "metrics.jsonl", "summary.json")
Train = Callable[..., Finished]

KINDS = {
    "momentum": ["--optimizer.momentum", "0.9"],
    "adamw": ["--optimizer.name", "adamw", "--schedule.name", "cosine", "--schedule.unit", "step"],
    "accumulation": ["--optimizer.name", "adam", "--training.accumulate", "4"],
    "dropout": ["--model.name", "mlp", "--model.hidden", "[8]", "--model.dropout", "0.3"],
    "plateau": ["--schedule.name", "plateau", "--schedule.patience", "0", "--optimizer.lr", "2.0"],
    "release": ["--model.freeze", '["weight"]', "--model.unfreeze_at", "{weight = 2}"],
    "lbfgs": [
        *("--optimizer.name", "lbfgs", "--training.batch_size", "0", "--optimizer.max_iter", "2"),
    ],
    "weights": ["--loss.class_weight", "balanced", "--training.clip_norm", "0.5"],
    "float16": ["--training.precision", "float16", "--penalty.l2", "0.1"],
    "bfloat16": ["--training.precision", "bfloat16", "--training.clip_norm", "0.5"],
    "nadam": ["--optimizer.name", "nadam", "--optimizer.weight_decay", "0.1"],
    "rmsprop": ["--optimizer.name", "rmsprop", "--optimizer.centered", "true"],
}


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the runner handles it."""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains `iris` from flags in a folder, saving every third step."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('[data]\nsource = "iris"\n')

    def run(folder: str, *flags: str, resume: str | None = None) -> Finished:
        if "bfloat16" in flags:
            pytest.importorskip("ml_dtypes")
        quick = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]
        fixed = ["--checkpoint.every_steps", "3", "--training.epochs", "5"]
        request = read_request(["a.toml", *quick, *fixed, "--output.folder", folder, *flags])
        return fit(request.configs[0], resume, quiet=True)

    return run


def kill_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run die after so many batches, at the end of the step's own saving."""
    ordinary, done = Checkpoints.on_step, [0]

    def on_step(self: Checkpoints, run: Run) -> None:
        ordinary(self, run)
        done[0] += 1
        if done[0] == steps:
            raise Killed

    monkeypatch.setattr(Checkpoints, "on_step", on_step)


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in COMPARED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_killed_run_goes_on_to_the_same_bytes(
    kind: str, steps: int, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("whole", *KINDS[kind])
    with monkeypatch.context() as patch:
        kill_after(steps, patch)
        with pytest.raises(Killed):
            train("killed", *KINDS[kind])
    resumed = train("killed", *KINDS[kind], resume="newest")
    assert resumed.folder.name == "a-1"
    assert same(whole.folder, resumed.folder)


def test_a_signal_saves_and_the_run_goes_on_to_the_same_bytes(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("whole")
    with monkeypatch.context() as patch:
        ordinary = Run.evaluate

        def evaluate(self: Run, part: str, names: list[str]) -> Any:
            if self.at.epoch == 2 and self.at.ended is None and part == "validation":
                os.kill(os.getpid(), signal.SIGTERM)
                patch.undo()
            return ordinary(self, part, names)

        patch.setattr(Run, "evaluate", evaluate)
        with pytest.raises(Interrupted, match="SIGTERM"):
            train("stopped")
    folder = Path("stopped/a-1")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["ended"] == "interrupted by SIGTERM"
    assert (folder / "model.safetensors").exists()
    resumed = train("stopped", resume=str(folder))
    assert same(whole.folder, resumed.folder)


def test_a_second_signal_acts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        signals.check()
        os.kill(os.getpid(), signal.SIGINT)  # noted, and granted between two steps
        with pytest.raises(Interrupted, match="SIGINT"):
            signals.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_the_process_in_one_line(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-u", "train.py", "configs/digits.toml"),
            *("--output.folder", str(tmp_path)),
            *("--training.epochs", "100000", "--stopping.patience", "100000"),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(error.splitlines()) == 1
    assert "go on with --resume" in error


def test_a_finished_run_can_be_given_more_epochs(train: Train) -> None:
    whole = train("whole", "--training.epochs", "8")
    train("longer")
    longer = train("longer", "--training.epochs", "8", resume="newest")
    assert same(whole.folder, longer.folder)
    assert "epochs = 8" in (longer.folder / "config.toml").read_text()


def test_the_time_limit_ends_a_run_that_can_go_on(train: Train) -> None:
    whole = train("whole")
    stopped = train("limited", "--training.time_limit", "1e-9")
    assert stopped.summary["ended"] == "the time limit is reached"
    assert stopped.summary["epochs"] == 1
    resumed = train("limited", "--training.time_limit", "60", resume="newest")
    assert same(whole.folder, resumed.folder)


def test_more_patience_lets_a_stopped_run_go_on(train: Train) -> None:
    flags = ("--training.epochs", "12", "--optimizer.lr", "20.0")
    whole = train("whole", *flags, "--stopping.patience", "9")
    stopped = train("patient", *flags, "--stopping.patience", "1")
    assert stopped.summary["epochs"] < whole.summary["epochs"]
    resumed = train("patient", *flags, "--stopping.patience", "9", resume="newest")
    assert same(whole.folder, resumed.folder)


def test_resuming_a_finished_run_changes_nothing(train: Train) -> None:
    first = train("a")
    before = {name: (first.folder / name).read_bytes() for name in COMPARED}
    train("a", resume="newest")
    assert before == {name: (first.folder / name).read_bytes() for name in COMPARED}


def test_a_run_does_not_go_on_with_another_configuration(train: Train) -> None:
    train("a")
    with pytest.raises(InputError, match=r"other values of optimizer\.lr"):
        train("a", "--optimizer.lr", "0.5", resume="newest")


def test_a_run_is_not_resumed_by_two_processes_at_once(train: Train) -> None:
    fcntl = pytest.importorskip("fcntl")
    run = train("a")
    with (run.folder / "metrics.jsonl").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is running it"):
            train("a", resume="newest")


def test_what_a_killed_save_left_is_cleared_away(train: Train) -> None:
    run = train("a")
    (run.folder / "checkpoints" / ".writing-1").mkdir()
    train("a", "--training.epochs", "6", resume="newest")
    assert not list((run.folder / "checkpoints").glob(".*"))


def test_only_the_newest_checkpoints_are_kept(train: Train) -> None:
    run = train("a", "--checkpoint.every_steps", "1", "--checkpoint.keep", "3")
    assert len(list((run.folder / "checkpoints").iterdir())) == 3


def test_checkpoints_are_saved_after_every_so_many_steps(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_after(14, monkeypatch)
    with pytest.raises(Killed):
        train("a", "--checkpoint.every_steps", "4", "--checkpoint.keep", "9")
    names = sorted(path.name for path in Path("a/a-1/checkpoints").iterdir())
    assert [name.partition("-step-")[2] for name in names] == ["4", "8", "12"]


def test_resume_points_are_events_and_not_metrics(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_after(8, patch)
        with pytest.raises(Killed):
            train("a")
    run = train("a", resume="newest")
    events = [record["event"] for record in read_log(run.folder / "events.jsonl")]
    assert events == ["start", "checkpoint", "resume", "end"]


# --- damaged checkpoints -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_is_refused_and_the_good_one_named(
    name: str, damage: str, train: Train
) -> None:
    run = train("a", "--checkpoint.keep", "2")
    good, newest = sorted((run.folder / "checkpoints").iterdir())
    file = newest / name
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    with pytest.raises(InputError) as refused:
        train("a", "--checkpoint.keep", "2", resume="newest")
    (line,) = refused.value.lines
    assert str(file) in line
    assert f"--resume {good}" in line
    request = read_request(["--resume", str(good), "--checkpoint.keep", "2"])
    fit(request.configs[0], request.resume, quiet=True)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing() -> None:
    subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "kill_resume.py"), "--kills", "6"], check=True
    )
