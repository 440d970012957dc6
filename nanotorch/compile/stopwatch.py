"""A plan's program with a clock behind each of its lines."""

from __future__ import annotations

import time
from typing import Any

from nanotorch.backend import Array
from nanotorch.compile.program import Program


class Stopwatch:
    """Runs a plan's program with a clock behind each of its lines."""

    def __init__(self, plan: Program) -> None:
        count = len(plan.lines)
        self.took: list[list[float]] = [[] for _ in range(count)]  # seconds, one for each replay
        self._ends: list[float | None] = []
        plan.constants["clock"], plan.constants["ends"] = time.perf_counter, self._ends
        head, *body = plan.source
        watched = [f"ends[:] = [clock()] + [None] * {count}"]
        number = 0
        for text in body:
            watched.append(text)
            if number < count and text.lstrip() == plan.lines[number].source:
                number += 1
                indent = text[: len(text) - len(text.lstrip())]
                watched.append(f"{indent}ends[{number}] = clock()")
        self._run = plan.function(head, watched, "step")

    def __call__(self, *arrays: Array) -> Any:
        outputs = self._run(*arrays)
        before, *ends = self._ends
        for took, end in zip(self.took, ends, strict=True):
            if end is not None and before is not None:
                took.append(end - before)
                before = end
        return outputs
