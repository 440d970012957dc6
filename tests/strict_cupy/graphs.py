"""Stream capture: what a stream is given meanwhile is kept, not computed, and runs at each launch.

While the current stream captures, arrays that kernels make hold what unwritten memory holds,
copies between host and device and waits raise what CuPy 14.2 raises, and memory must come from a
pool of the graph's own. A launch runs the kept kernels in their order on the memory that they were
given; as CUDA's graph, this one keeps none of that memory alive, and a launch after it was given
back is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from strict_cupy import contract, order

STREAMS: list[Any] = []  # the current one last
CAPTURES: dict[int, Capture] = {}  # of the streams that capture, by their addresses


class Capture:
    """What one stream was given since `begin_capture`."""

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []
        # Weak references to an array and to its pool, and how often that had given up blocks.
        self.memory: list[tuple[Any, Any, int]] = []
        self.invalid = False

    def add(self, work: Callable[[], Any], arrays: Sequence[Any]) -> None:
        """Keeps one kernel, and notes whose memory it uses."""
        self.work.append(work)
        self.uses(arrays)

    def uses(self, arrays: Sequence[Any]) -> None:
        """Notes arrays whose memory must be there at each launch."""
        for array in arrays:
            while array._base is not None:
                array = array._base
            pool = array._pool()
            self.memory.append((weakref.ref(array), array._pool, pool.given_up if pool else 0))


class Graph:
    """The kernels of a capture."""

    def __init__(self, capture: Capture) -> None:
        self._work, self._memory = capture.work, capture.memory

    def launch(self, stream: Any = None) -> None:
        contract.happened("graph_launches", "Graph.launch")
        for array, pool, given_up in self._memory:
            owner = pool()
            gone = owner is None or not owner.private or owner.given_up > given_up
            if owner is None or (array() is None and gone):
                raise AssertionError("a graph was launched that uses memory that was given back")
        queue = (stream or STREAMS[-1])._queue
        alive = [a for a in (array() for array, *_ in self._memory) if a is not None]
        order.writes(list({id(a): a for a in alive}.values()), queue, "Graph.launch")
        for work in self._work:
            work()

    def upload(self, stream: Any = None) -> None:
        """Prepares the first launch."""

    def debug_dot_str(self, flags: int = 0) -> str:
        return "\n".join(f'"node_{number}"' for number in range(len(self._work)))


def recording() -> Capture | None:
    """The capture of the current stream; None where it computes."""
    return CAPTURES.get(id(STREAMS[-1])) if CAPTURES else None


def launched(work: Callable[[], Any], arrays: Sequence[Any]) -> None:
    """Runs a kernel: now or, while the current stream captures, at each launch of the graph."""
    capture = recording()
    if capture is None:
        order.writes(list({id(a): a for a in arrays}.values()), STREAMS[-1]._queue, "a kernel")
        work()
    else:
        capture.add(work, arrays)


def refuse(what: str, why: str) -> bool:
    """Raises what CuPy raises for what a capturing stream cannot do; whether it was noted here."""
    capture = recording()
    if capture is None:
        return False
    if what in ("h2d", "d2h"):
        direction = what.upper()
        raise RuntimeError(
            f"the current stream is capturing, so {direction} transfers are disallowed"
        )
    if what == "synchronizations":
        capture.invalid = True
        raise RuntimeError(
            "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
        )
    if what == "products":
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )
    if what == "allocations" and why == "the default pool":
        raise AssertionError("memory of the default pool was taken during a capture")
    return what in ("launches", "products")


contract.watchers.append(refuse)
