"""Each ring can be deleted: without its files the package trains, and the core's tests pass."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from test_layering import ROOT, rooms

TRAINS = """
import nanotorch as nt

x, y = nt.tensor([[0.0], [1.0], [2.0], [3.0]]), nt.tensor([[0.0], [0.0], [1.0], [1.0]])
model = nt.nn.Linear(1, 1)
optimizer = nt.optim.SGD(model.parameters(), lr=1.0)
losses = []
for _ in range(50):
    optimizer.zero_grad()
    loss = nt.nn.functional.binary_cross_entropy_with_logits(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0] / 2, losses
print(nt.__file__)
"""


def without(rings: Iterable[str], folder: Path) -> Path:
    """A copy of the package in a folder, without the files of some rings."""
    source, copy = ROOT / "nanotorch", folder / "nanotorch"
    for file in source.rglob("*"):
        path = file.relative_to(source)
        if file.is_file() and "__pycache__" not in path.parts:
            if rooms.room_of(path.as_posix()) not in rings:
                target = copy / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    return folder


def run(folder: Path, *command: str) -> str:
    """What a Python command prints that finds the package in a folder; it must succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


ALL = "all of them"


def rings_of(name: str) -> list[str]:
    return list(rooms.RINGS) if name == ALL else [name]


@pytest.mark.parametrize("ring", [*rooms.RINGS, ALL])
def test_the_package_trains_without_a_ring(ring: str, tmp_path: Path) -> None:
    assert str(tmp_path) in run(without(rings_of(ring), tmp_path), "-c", TRAINS)


@pytest.mark.slow
@pytest.mark.parametrize("ring", [*rooms.RINGS, ALL])
def test_the_core_s_own_tests_pass_without_a_ring(ring: str, tmp_path: Path) -> None:
    folder = without(rings_of(ring), tmp_path)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    summary = run(folder, "-m", "pytest", "-q", "--core", "-p", "no:cacheprovider")
    assert int(re.findall(r"(\d+) passed", summary)[0]) > 3000
