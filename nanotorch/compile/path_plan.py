"""What the calls of one path do, as an `Explanation`, and the stopwatch that times them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from nanotorch.compile.entries import Entry
from nanotorch.compile.explanation import Explanation
from nanotorch.compile.lines import Line, family_of
from nanotorch.compile.matcher import Matcher
from nanotorch.compile.memory import Memory


class TimedMatcher(Matcher):
    """A matcher with a stopwatch around each application."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.took: dict[int, float] = {}  # seconds, by the identity of the entry

    def __call__(self, *arguments: Any) -> Any:
        before, start = self.entry, time.perf_counter()
        out = super().__call__(*arguments)
        if self.entry is not before:
            self.took[id(self.entry)] = time.perf_counter() - start
        return out


def explained(name: str, path: Sequence[Entry], seconds: dict[int, float]) -> Explanation:
    """What the entries of a path do, and its backward passes with their memory."""
    lines: list[Line] = []
    took: list[list[float]] = []
    memory = Memory()
    for entry in path:
        title, why = entry.primitive.title(), entry.why_eager or "it was met once"
        other = f"{title} (by the engine: {why})"
        family = family_of(entry.primitive.__module__)
        lines += entry.lines or [Line("", id(entry), other, "", family)]
        took += [[] for _ in lines[len(took) :]]
        took[-1] += [seconds[id(entry)]] if id(entry) in seconds else []
    for plan in [root.gradients.plan for root in path if root.gradients]:
        offset, first = len(lines), len(memory.blocks)
        memory.blocks += plan.memory.blocks
        memory.values += [
            v._replace(block=v.block + first, first=v.first + offset, last=v.last + offset)
            for v in plan.memory.values
        ]
        lines += plan.lines
        took += [[] for _ in plan.lines]
    return Explanation(name, lines, took, memory)
