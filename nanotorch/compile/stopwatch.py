"""A plan's program with a clock behind each of its lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import Array
from nanotorch.compile.program import Program


class Stopwatch:
    """A plan's `run` with a clock behind each of its lines."""

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
        self.run: Callable[..., Any] = plan.function(head, watched, "step")

    def stop(self) -> None:
        """After a replay: takes down its times."""
        before, *ends = self._ends
        for took, end in zip(self.took, ends, strict=True):
            if end is not None and before is not None:
                took.append(end - before)
                before = end


def timed_run(plan: Any, arrays: Sequence[Array]) -> Any:
    """A replay of the program with a stopwatch; without one on a GPU, where it would time
    launches."""
    if not hasattr(plan, "stopwatch"):
        return plan.run(*arrays)
    watch = plan.timed()
    found = watch.run(*arrays)
    watch.stop()
    return found
