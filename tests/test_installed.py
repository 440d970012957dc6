"""The package as a stranger has it: a wheel in a fresh environment, used in an empty folder."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parent.parent
SECONDS = 60  # for the four commands together; they take about 5 on an idle machine


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `nanotorch` of a fresh environment, in which the wheel is installed.

    The packages that it depends on are those of the environment of the tests.
    """
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY)]
    built = subprocess.run(wheel, capture_output=True, text=True, env=clean())
    if built.returncode and not os.environ.get("CI"):
        pytest.skip(f"no wheel can be built here: {built.stderr.strip()[-200:]}")
    assert built.returncode == 0, built.stderr
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    (package,) = folder.glob("nanotorch-*.whl")
    install = [*pip, "--python", str(python), "install", "-q", "--no-deps", str(package)]
    subprocess.run(install, check=True, env=clean())
    (places,) = environment.glob("lib/python*/site-packages")
    (places / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "nanotorch"


def clean() -> dict[str, str]:
    """The environment without the path of this repository."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(installed), *words]
    result = subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_the_command_is_the_one_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    python = installed.with_name("python")
    where = "import nanotorch; print(nanotorch.__file__)"
    result = subprocess.run([python, "-c", where], cwd=tmp_path, env=clean(), capture_output=True)
    assert Path(result.stdout.decode().strip()).is_relative_to(installed.parent.parent)
    version = run(installed, tmp_path, "--version").stdout
    module = [python, "-m", "nanotorch", "--version"]
    result = subprocess.run(module, cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert version == result.stdout
    assert version.startswith("nanotorch ")


def test_every_command_has_its_help(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "--help").stdout.partition("commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ")]
    assert {"train", "inspect", "predict", "evaluate", "plot", "doctor"} <= set(names)
    for name in names:
        assert run(installed, tmp_path, name, "--help").stdout.startswith(
            f"usage: nanotorch {name}"
        )


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "csv", "frozen"])
def test_shipped_configurations_train_in_an_empty_folder(
    name: str, installed: Path, tmp_path: Path
) -> None:
    run(installed, tmp_path, "train", name, "--training.epochs", "2", "--device", "cpu")
    assert (tmp_path / f"runs/{name}-1/report.html").is_file()
    run(installed, tmp_path, "plot", f"runs/{name}-1", "--output", "cmp.png")
    assert (tmp_path / "cmp.png").read_bytes().startswith(b"\x89PNG")
    run(installed, tmp_path, "evaluate", f"runs/{name}-1")


def own_table(path: Path, rows: int = 600) -> None:
    """A table as people have it: an index, text with gaps, money, dates, yes and no."""
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "plan", "fee", "since", "roaming", "minutes", "churn"])
        for row in range(rows):
            plan = ["basic", "plus", "", "family"][random.integers(4)]
            minutes, fee = random.gamma(2, 90), random.integers(5, 60)
            leaves = random.random() < 1 / (1 + np.exp(fee / 12 - minutes / 90 - (plan == "basic")))
            since = f"20{random.integers(10, 25)}-{random.integers(1, 13):02}-15"
            gap = "" if row % 11 == 0 else f"{minutes:.1f}"
            writer.writerow([row, plan, f"${fee}", since, "yes" if row % 3 else "no", gap,
                             "leaves" if leaves else "stays"])  # fmt: skip


def test_a_stranger_needs_four_commands_and_edits_no_file(installed: Path, tmp_path: Path) -> None:
    """inspect, train, look at the report, predict: timed."""
    own_table(tmp_path / "my.csv")
    rows = list(csv.reader((tmp_path / "my.csv").read_text().splitlines()))
    with (tmp_path / "new.csv").open("w", newline="") as file:  # tomorrow's rows: no target
        csv.writer(file).writerows(row[:-1] for row in rows[:51])
    begin = time.perf_counter()
    inspected = run(
        installed, tmp_path, "inspect", "my.csv", "--target", "churn", "--write", "my.toml"
    )
    trained = run(installed, tmp_path, "train", "my.toml", "--device", "cpu")
    predicted = run(
        installed, tmp_path, "predict", "runs/my-1", "new.csv", "--output", "predictions.csv"
    )
    seconds = time.perf_counter() - begin
    page = (tmp_path / "runs/my-1/report.html").read_text()
    summary = json.loads((tmp_path / "runs/my-1/summary.json").read_text())["test"]
    print(f"{seconds:.1f} s, test accuracy {summary['accuracy']:.3f}")
    assert "churn" in inspected.stdout and "nanotorch train my.toml" in inspected.stdout
    assert "runs/my-1" in trained.stdout
    assert "<h2>Coefficients, with 95% confidence intervals</h2>" in page
    assert summary["accuracy"] > summary["baseline_accuracy"] + 0.05
    predictions = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(predictions) == 50
    truth = [row[-1] for row in rows[1:51]]
    right = sum(row["predicted"] == label for row, label in zip(predictions, truth))
    assert right / 50 > summary["baseline_accuracy"]
    assert "Traceback" not in inspected.stderr + trained.stderr + predicted.stderr
    assert seconds < SECONDS
