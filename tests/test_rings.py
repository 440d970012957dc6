"""Each ring can be deleted: the package imports and trains without its files."""

from __future__ import annotations

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


@pytest.mark.parametrize("ring", [*rooms.RINGS, "all of them"])
def test_the_package_trains_without_a_ring(ring: str, tmp_path: Path) -> None:
    rings = list(rooms.RINGS) if ring == "all of them" else [ring]
    assert str(tmp_path) in run(without(rings, tmp_path), "-c", TRAINS)
