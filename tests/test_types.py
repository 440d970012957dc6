"""What type checkers say of NanoTorch: a user's program is all Tensors and numbers, never Any."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests" / "typing" / "program.py"
CHECKERS = {"mypy": ["mypy", "--strict"], "pyright": ["pyright"]}
# Each line is a mistake, or has a result that is asked for.
MISTAKES = """
import nanotorch as nt

def mistakes(x: nt.Tensor) -> None:
    x.sum().nonsense()
    nt.exp("x")
    nt.nn.Linear(2, 3)("x")
    nt.compile(mistakes)(1)
    count: str = x.shape[0]
"""
EXPRESSIONS = (
    "x + 1", "1 - x", "x > 0", "x @ x", "x[0]", "x.sum()", "x.max()", "x.max(1)", "x.item()",
    "x.shape", "x.shape[0]", "x.size(0)", "x.dtype", "x.device", "x.grad", "x.exp_()",
    "x.to('cpu')", "nt.exp(x)", "nt.tensor([1.0])", "nt.zeros(2)", "nt.cat([x, x])",
    "nt.bernoulli(x)", "nt.linalg.norm(x)", "nt.nn.Linear(2, 3)(x)",
    "nt.nn.Sequential(nt.nn.ReLU())(x)", "model(x)", "nt.nn.MSELoss()(x, x)",
    "nt.nn.functional.softmax(x, 1)", "nt.autograd.grad(x.sum(), x)",
    "nt.no_grad()(nt.exp)(x)", "nt.compile(nt.nn.ReLU())(x)",
    "nt.optim.SGD(model.parameters(), lr=0.1).zero_grad()",
)  # fmt: skip


@pytest.fixture(scope="module", params=CHECKERS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a checker prints of the three programs; a skip where it is missing outside CI."""
    checker = request.param
    if importlib.util.find_spec(checker) is None:
        assert "CI" not in os.environ, f"{checker} is missing; install nanotorch[dev]"
        pytest.skip(f"needs {checker}, which nanotorch[dev] brings")
    folder = tmp_path_factory.mktemp(checker)
    shutil.copy(PROGRAM, folder / "program.py")
    lines = ["import nanotorch as nt", "def f(x: nt.Tensor, model: nt.nn.Module) -> None:"]
    lines += [f"    reveal_type({expression})" for expression in EXPRESSIONS]
    (folder / "expressions.py").write_text("\n".join(lines))
    (folder / "mistakes.py").write_text(MISTAKES)
    command = [sys.executable, "-m", *CHECKERS[checker], *sorted(map(str, folder.glob("*.py")))]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    lines = [line for line in result.stdout.splitlines() if re.search(r"\.py:\d+", line)]
    assert lines, result.stdout + result.stderr
    return lines


@pytest.mark.slow
def test_a_users_program_has_no_error_and_no_any(report: list[str]) -> None:
    assert [line for line in report if "program.py" in line] == []


@pytest.mark.slow
def test_no_expression_of_a_user_is_any(report: list[str]) -> None:
    revealed = [line for line in report if "expressions.py" in line]
    assert len(revealed) == len(EXPRESSIONS)
    assert [line for line in revealed if re.search(r"\b(Any|Unknown|error)\b", line)] == []


@pytest.mark.slow
def test_mistakes_are_found(report: list[str]) -> None:
    places = [re.search(r"mistakes\.py:(\d+).*error", line) for line in report]
    assert {int(place[1]) for place in places if place} == {5, 6, 7, 8, 9}


def test_the_stubs_are_what_the_sources_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "stubs.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_program_runs() -> None:
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
