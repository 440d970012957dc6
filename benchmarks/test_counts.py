"""What a step costs in Python, counted instead of timed: the same on every machine, in every run.

    pytest benchmarks/test_counts.py

A count is of bytecodes that Python runs, or of calls into compiled code, such as NumPy's. The
limits are the counts of CPython 3.11 with a tenth to spare; who makes a step cheaper lowers them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from bench_peers import Case, build, data

STEPS = {"S": Case(32, (30, 1)), "M": Case(128, (784, 10)), "MLP": Case(128, (784, 256, 10))}
# (bytecodes, calls into compiled code) of one step
LIMITS = {
    ("nanotorch", "S"): (3900, 130),
    ("nanotorch", "M"): (5100, 182),
    ("nanotorch", "MLP"): (8500, 275),
    ("nanotorch-compile", "S"): (1000, 37),
    ("nanotorch-compile", "M"): (1190, 47),
    ("nanotorch-compile", "MLP"): (1870, 57),
}


def counts(call: Callable[[], Any]) -> tuple[int, int]:
    """Bytecodes, and calls into compiled code, of one call."""
    bytecodes = calls = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal bytecodes
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        bytecodes += event == "opcode"
        return trace

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "c_call"

    before, before_profile = sys.gettrace(), sys.getprofile()
    gc.disable()
    try:
        sys.settrace(trace)
        call()
        sys.settrace(None)
        sys.setprofile(profile)
        call()
    finally:
        sys.setprofile(before_profile)
        sys.settrace(before)
        gc.enable()
    return bytecodes, calls


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the limits are counts of CPython 3.11")
@pytest.mark.parametrize(("peer", "name"), LIMITS, ids="-".join)
def test_a_step_costs_no_more_python_than_it_did(peer: str, name: str) -> None:
    case = STEPS[name]
    program = build(peer, case)
    x, y = map(program.convert, data(case))
    for _ in range(3):
        program.step(x, y)
    found = counts(lambda: program.step(x, y))
    limits = LIMITS[peer, name]
    assert found[0] <= limits[0] and found[1] <= limits[1], f"{found} exceeds {limits}"
