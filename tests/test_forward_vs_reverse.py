"""scripts/forward_vs_reverse.py: what it measures grows as the theory says, and is drawn."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "forward_vs_reverse.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="forward_vs_reverse")


def test_reverse_mode_keeps_each_layer_and_forward_mode_none(script: dict[str, Any]) -> None:
    case, measured = script["Case"], script["measured"]
    shallow, deep = (measured(case(1, 1, depth), 10_000) for depth in (10, 40))
    assert deep["forward"][1] < 1.2 * shallow["forward"][1]
    assert deep["reverse"][1] > 3 * shallow["reverse"][1]


def test_each_mode_needs_a_pass_per_input_or_per_output(script: dict[str, Any]) -> None:
    function, x = script["network"](script["Case"](3, 2, 1), 4)
    calls = []

    def counted(x: Any) -> Any:
        calls.append(1)
        return function(x)

    script["forward_jacobian"](counted, x)
    assert len(calls) == 3
    calls.clear()
    assert script["reverse_jacobian"](counted, x).shape == (2, 3)
    assert len(calls) == 1


def test_the_picture_is_written_where_it_was_asked_for(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, output = script["Case"], tmp_path / "pictures" / "cost.png"
    few = {name: [case(1, 1, 1), case(2, 2, 2)] for name in script["SWEEPS"]}
    monkeypatch.setitem(script["main"].__globals__, "SWEEPS", few)
    monkeypatch.setattr(
        sys, "argv", ["forward_vs_reverse.py", "--output", str(output), "--width", "8"]
    )
    script["main"]()
    assert output.read_bytes().startswith(b"\x89PNG")
