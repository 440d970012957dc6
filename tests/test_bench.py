"""The benchmarks run, compare the same work, and tell wrong names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def run(*arguments: str, script: str = "bench.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["step"], "unknown part 'step'; there are steps, epochs"),
        (["--cases", "S,XXL"], "unknown case 'XXL'; there are S, M, L, XL, MLP; did you mean XL?"),
        (["--peers", "numpi"], "unknown peer 'numpi'"),
        (["--turns", "0"], "--turns expects a positive number, got 0"),
        (["--seconds", "-1"], "--seconds expects a positive number, got -1.0"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"bench.py: {words}")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_quick_run_gives_a_table_and_times_that_make_a_page(tmp_path: Path) -> None:
    results, page = tmp_path / "figures.json", tmp_path / "page.md"
    peers = "nanotorch,nanotorch-compile,numpy"
    result = run(
        *("steps", "--cases", "S,MLP", "--peers", peers, "--quick", "--turns", "2"),
        *("--seconds", "0.01", "--results", str(results)),
    )
    assert result.returncode == 0, result.stderr
    header, _, first, second = result.stdout.strip().splitlines()
    assert "| NanoTorch | NanoTorch compiled | NumPy by hand | reading X once |" in header
    assert first.startswith("| S |") and second.startswith("| MLP |")
    times = json.loads(results.read_text())["steps"]["S"]
    assert {len(values) for values in times.values()} == {2}
    assert all(value > 0 for values in times.values() for value in values)

    page.write_text("before\n<!-- measured: steps -->\nold\n<!-- end -->\nafter\n")
    result = run(str(results), "--page", str(page), script="bench_page.py")
    assert result.returncode == 0, result.stderr
    written = page.read_text()
    assert first in written and "old" not in written
    assert written.startswith("before\n") and written.endswith("after\n")


@pytest.mark.slow
def test_the_hand_written_step_and_ours_find_the_same_losses() -> None:
    program = """
import sys; sys.path.insert(0, sys.argv[1])
from bench_peers import Case, build, data
for text in ("32x30-1", "16x20-5", "16x12-8-1", "16x12-8-7-3"):
    case = Case.parse(text)
    losses = []
    for peer in ("numpy", "nanotorch", "nanotorch-compile"):
        program = build(peer, case)
        x, y = map(program.convert, data(case))
        losses.append([program.loss(program.step(x, y)) for _ in range(5)])
    assert losses[1] == losses[2], text
    assert max(abs(a - b) for a, b in zip(*losses[:2])) < 1e-5, text
    assert losses[0][0] > losses[0][-1], text
"""
    command = [sys.executable, "-c", program, str(SCRIPTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
