"""A plan in words: the calls of a step, how long each took, and the memory that they share."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from nanotorch.compile.plan import Plan


def timed(plan: Plan) -> Callable[..., Any]:
    """The plan's `run` with a stopwatch behind each line, which `explanation` reads."""
    plan.constants["clock"], plan.constants["times"] = time.perf_counter, plan.times
    head, *body = plan.source.splitlines()
    watched = [head, "    times.clear()", "    times.append((None, clock()))"]
    within_tile = False
    for line in body:
        watched.append(line)
        text = line.strip()
        indent = line[: len(line) - len(text)]
        within_tile = text.startswith("def ") or (within_tile and len(indent) > 4)
        if not within_tile and not text.startswith(("return", "yield")) and text[-1] != ":":
            watched.append(f"{indent}times.append(({text!r}, clock()))")
    return plan.built("\n".join(watched) + "\n")


def explanation(plan: Plan, name: str) -> str:
    """The plan in words, after a timed run: each line's time and bytes, and the memory in all."""
    rows, kernels = [], 0
    for (_, before), (text, after) in itertools.pairwise(plan.times):
        took = f"{(after - before) * 1e6:10.1f} us"
        line = plan.lines.get(text or "")
        kernels += line is not None
        if line is not None:
            rows.append(f"{took}{line.bytes:>14,} bytes  {line.text}")
        elif plan.tiling is not None and str(text).endswith("(tile)"):
            rows.append(
                f"{took}  one pass over {plan.tiling.rows:,} rows, {plan.tiling.tile} at a "
                f"time: {plan.tiling.titles}"
            )
        elif str(text).startswith(("live", "copy", "draw")):
            rows.append(f"{took}  {str(text).split('_')[0]} call")
    memory = plan.memory
    return "\n".join(
        [
            f"plan of {name}: {kernels} kernels",
            *rows,
            f"memory: {memory.bytes():,} bytes in {len(memory.blocks)} blocks, instead of "
            f"{plan.recorded_bytes:,}",
        ]
    )
