"""scripts/gpu_check.py, tried on the look-alike: what hangs or crashes costs one check alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "gpu_check.py"


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def checked(folder: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the line of each check."""
    command = [sys.executable, str(SCRIPT), str(folder), *arguments, "--look-alike"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=110)
    lines = lines_of(folder / "results.jsonl")
    assert [json.loads(line) for line in answer.stdout.splitlines()] == lines
    return answer.returncode, {line["check"]: line for line in lines if "check" in line}


@pytest.mark.slow
def test_each_check_tells_its_line_whatever_the_others_do(tmp_path: Path) -> None:
    named = [
        "versions",
        "capture of S",
        "capture of cat of 12",
        "trial",
        "the losses are the CPU's",
    ]
    code, found = checked(tmp_path, *named, "capture of 7 x 13, 16 steps a launch")
    assert code == 1
    for name in set(named) - {"trial"}:
        assert found[name]["well"] is True, found[name]
    assert found["capture of S"]["seen"]["bits of eager steps"] is True
    hangs, crashes, fails = (
        found[f"a check that {does}"] for does in ("hangs", "crashes", "fails")
    )
    assert hangs["error"] == "ended after 4 seconds"
    assert any("in hang" in line for line in hangs["said"])  # where it hung
    assert crashes["code"] == -11 and any("in crash" in line for line in crashes["said"])
    assert fails["error"] == "ValueError: this check fails on purpose" and fails["traceback"]
    assert (tmp_path / "kernels.tar.gz").stat().st_size < 16 * 2**20


def test_a_check_without_time_is_left_out(tmp_path: Path) -> None:
    code, found = checked(tmp_path, "a check that hangs", "versions", "--seconds", "5")
    assert code == 1
    assert found["versions"]["left out"] == "no time was left"


@pytest.mark.slow
def test_the_kernels_are_timed(tmp_path: Path) -> None:
    code, found = checked(tmp_path, "times")
    assert (code, found["kernel times"]["well"]) == (0, True)


TESTS = """
import pytest

class CUDARuntimeError(RuntimeError):
    pass

@pytest.mark.parametrize("number", range(12))
def test_one(number):
    if number == 3:
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")
    assert number != 7
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_failing_tests_are_told_at_once_and_a_broken_worker_is_replaced(
    tmp_path: Path, workers: list[str]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "test_some.py").write_text(TESTS)
    told = tmp_path / "tests.jsonl"
    environment = {**os.environ, "GPU_CHECK_TESTS": str(told), "PYTHONPATH": str(SCRIPT.parent)}
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "gpu_check", "-p", "no:cacheprovider",
         *workers, "test_some.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    found: dict[str, str] = {}
    for line in lines_of(told):
        found.setdefault(line["test"], line["failure"])
    assert "illegal memory access" in found["test_some.py::test_one[3]"]
    assert "assert 7 != 7" in found["test_some.py::test_one[7]"]
    assert "10 passed" in answer.stdout, answer.stdout
