"""The scripts in examples/: each learns, and each prints what PyTorch prints with its import."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.ring("layers")

# The argument of each script's short form: epochs, or steps.
SHORT = {"gpt": "10", "lenet": "2", "names": "2", "vae": "2", "word_vectors": "2"}
OURS = re.compile(r"^(import|from) nanotorch(?!\.datasets)", flags=re.MULTILINE)


def with_pytorch(source: str) -> str:
    """The same script with PyTorch's import; the data sets come from NanoTorch."""
    return OURS.sub(r"\1 torch", source).replace("import torch as torch", "import torch")


@functools.cache
def printed(script: Path, argument: str) -> str:
    # One thread: the tests run side by side.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(script), argument],
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_short_form() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_an_example_learns(name: str) -> None:
    text = printed(EXAMPLES / f"{name}.py", SHORT[name])
    losses = [float(number) for number in re.findall(r"(?:loss|pixels) +([\d.]+)", text)]
    assert losses and (len(losses) == 1 or losses[-1] < losses[0])


@pytest.mark.torch
@pytest.mark.parametrize("name", SHORT)
def test_an_example_prints_what_pytorch_prints(name: str, tmp_path: Path) -> None:
    script = EXAMPLES / f"{name}.py"
    for text in EXAMPLES.glob("*.txt"):
        (tmp_path / text.name).write_bytes(text.read_bytes())
    swapped = tmp_path / script.name
    swapped.write_text(with_pytorch(script.read_text(encoding="utf-8")), encoding="utf-8")
    assert "import torch\n" in swapped.read_text() and "nanotorch.nn" not in swapped.read_text()
    assert printed(script, SHORT[name]) == printed(swapped, SHORT[name])
