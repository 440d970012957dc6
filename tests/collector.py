"""Counting what a test leaves behind: garbage in cycles, and memory."""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from collections.abc import Iterator

# The threads by which pytest-xdist talks to a worker take memory at any moment.
OTHERS = ("*execnet*", "*xdist*", "*threading.py", "*queue.py", tracemalloc.__file__)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Within the block nothing is collected, and gc.collect() counts what was made in it alone."""
    gc.collect()
    gc.freeze()  # what earlier tests left, or still hold, is not this test's
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def traced_bytes() -> int:
    """The memory that is in use and was traced, but for what the runner's own threads took."""
    filters = [tracemalloc.Filter(False, pattern) for pattern in OTHERS]
    traces = tracemalloc.take_snapshot().filter_traces(filters)
    return sum(statistic.size for statistic in traces.statistics("filename"))
