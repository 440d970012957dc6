"""The steps of scripts/bench.py under pytest-benchmark, to compare one version with another.

    pip install pytest-benchmark
    pytest benchmarks/test_steps.py --benchmark-save=before        # and again after the change
    pytest benchmarks/test_steps.py --benchmark-compare

For a comparison with other libraries, where each needs a process of its own, run scripts/bench.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from bench import CASES
from bench_peers import build, data


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("peer", ["nanotorch", "nanotorch-compile", "numpy"])
def test_step(benchmark: Any, peer: str, name: str) -> None:
    case = CASES[name]
    program = build(peer, case)
    x, y = map(program.convert, data(case))
    for _ in range(3):
        program.step(x, y)
    benchmark.group = name
    result = benchmark(program.step, x, y)
    assert program.loss(result) > 0
