"""A compiled module on a GPU: its forward pass is one CUDA graph, its backward pass another.

The first forward and backward pass run kernel by kernel and ready what a capture must not do. Then
the program, a generator that stops at the output, is captured in two halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import HOST, MODULES, Array, module_of
from nanotorch.backend.cuda import checks, graphs
from nanotorch.compile.memory import root_of
from nanotorch.compile.plan import Plan
from nanotorch.compile.recorder import Live, Recorder


class CudaHalves:
    """The two halves of a module's program: `forward` gives the output, `backward` the gradients.

    `tell` is given the reason why there are no graphs, once.
    """

    def __init__(
        self, record: Recorder, outputs: Sequence[Array], tell: Callable[[str], None]
    ) -> None:
        place = record.place
        assert place is not None
        xp = self.xp = module_of(place)
        self.tell = tell
        self.stage = graphs.stage_of(xp, place)
        self.why_not = graphs.missing(xp) or why_not_in_halves(record)
        self.outside = {root_of(x._array) for x in record.written.values()}
        self.captured: list[tuple[Any, bool]] = []  # graphs, and whether they check indices
        self._running: Any = None
        with self.stage.here():
            self.stage.in_turn()
            self.pool = xp.cuda.MemoryPool() if self.why_not is None else None
            self.plan = Plan(record, outputs)
            *arguments, g = record.inputs
            self.inputs = [
                None if MODULES[type(a)] is HOST else graphs.dense_like(a) for a in arguments
            ]
            self.cotangent = graphs.dense_like(g)
        self._outlet: graphs.Outlet | None = None
        self._found: Sequence[Array] = ()

    def forward(self, arrays: Sequence[Array]) -> Array:
        """A copy of the output."""
        stage = self.stage
        with stage.lock, stage.here():
            stage.in_turn()
            alone = self.why_not is not None or not self.outside.isdisjoint(map(root_of, arrays))
            if alone or not self.captured:
                if alone:
                    self._running = self.plan.run(*arrays)
                    copied: Array = next(self._running).copy()
                    return copied
                with stage.aside(self.pool):
                    self._take(arrays)
                    self._running = self.plan.run(*self.inputs)
                    out = next(self._running)
                self._outlet = graphs.Outlet(out)
            else:
                self._running = None
                self._take(arrays)
                self._launch(0)
            assert self._outlet is not None
            return self._outlet()

    def backward(self, g: Array) -> Sequence[Array]:
        """The gradients, in memory that the next call writes over."""
        stage = self.stage
        with stage.lock, stage.here():
            stage.in_turn()
            running, self._running = self._running, None
            if running is not None and self.why_not is not None:
                found: Sequence[Array] = running.send(g)
                return found
            if running is None:
                graphs.copy(self.cotangent, g)
                self._launch(1)
                return self._found
            with stage.aside(self.pool):
                graphs.copy(self.cotangent, g)
                self._found = running.send(self.cotangent)
            found = self._found
            if not self.captured:
                self._capture()
            return found

    def _take(self, arrays: Sequence[Array]) -> None:
        for target, source in zip(self.inputs, arrays, strict=True):
            if target is not None:
                graphs.copy(target, source)

    def _launch(self, half: int) -> None:
        graph, has_checks = self.captured[half]
        graph.launch(self.xp.cuda.get_current_stream())
        if has_checks:
            checks.mark(self.xp)

    def _capture(self) -> None:
        """Captures both halves, or notes and tells why that cannot be."""
        running: Any = self.plan.run(*self.inputs)
        try:
            first = self.stage.captured(lambda: next(running), self.pool)
            second = self.stage.captured(lambda: running.send(self.cotangent), self.pool)
            self.captured = [first, second]
        except graphs.REFUSALS as error:
            self.why_not = str(error)
            self.tell(self.why_not)


def why_not_in_halves(record: Recorder) -> str | None:
    """What a program must not do to be captured in halves; None where it does not."""
    if record.written_inputs:
        return "it writes to its arguments"
    if any(isinstance(step, Live) for step in record.steps):
        return "it makes calls that are to be made anew each time"
    return None
