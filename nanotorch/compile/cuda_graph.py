"""A step on a GPU as one CUDA graph: a replay copies its arguments in and launches everything.

The first replay runs the plan's program kernel by kernel, on the stream of captures: it is a step
like any other, and readies what a capture must not do (compiling, handles, memory). Then the same
program is captured: arguments come from arrays that stay, what kernels take beside the memory of
the plan lies in a pool of the graph's own, and live calls are taken apart, so that their numbers
are written before each launch. Several steps may be one graph: then arguments and outputs have one
more leading dimension.

What a capture refuses is told once, and the program goes on to be run kernel by kernel.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import HOST, MODULES, Array, device_of, is_pinned, module_of, to_device
from nanotorch.backend.cuda import checks, graphs
from nanotorch.compile.live_calls import LiveCall, Phase, Surroundings
from nanotorch.compile.memory import root_of
from nanotorch.compile.one_pass import joined
from nanotorch.compile.plan import Plan
from nanotorch.compile.recorder import Kernel, Live, Recorder, place_text
from nanotorch.node import Traced
from nanotorch.ops.casting import ToDevice

MOST_CAPTURES = 8  # of one plan, each because something else than numbers has changed


def unfit(record: Recorder) -> str | None:
    """Why a record cannot be replayed, if some of it is on a GPU; None where it can.

    Arguments and tensors from outside may be moved to the GPU by the step.
    """
    if record.place is None:
        return None
    for step in record.steps:
        if isinstance(step, Kernel) and not is_move(step, record):
            if any(MODULES.get(type(a)) is HOST for a in (*step.operands, step.out)):
                what = "moves" if step.primitive is ToDevice else "computes"
                return f"{place_text(step.where)}{what} on the CPU what a step on the GPU needs"
    return None


def is_move(step: Kernel, record: Recorder) -> bool:
    """Whether the step brings an array that it has not made from the host to the GPU."""
    if step.primitive is not ToDevice or MODULES[type(step.out)] is HOST:
        return False
    source = step.operands[0]
    return MODULES[type(source)] is HOST and id(source) not in record.made


class Launch:
    """One captured graph of one or several steps, with what its arguments and outputs lie in."""

    def __init__(
        self, count: int | None, inputs: list[Array], outlets: list[graphs.Outlet]
    ) -> None:
        self.inputs, self.outlets = inputs, outlets
        self.slots = range(1 if count is None else count)
        self.graph: Any = None
        self.checks = False  # whether kernels note indices out of range
        self.surroundings: list[Surroundings] = []
        self.parts: list[Any] = []  # of the live calls that are taken apart

    def holds(self) -> bool:
        """Whether the captured launches do what the live calls would do now."""
        as_they_were = all(one.hold() for one in self.surroundings)
        return as_they_were and all(part.holds() for part in self.parts)


class CudaPlan:
    """A step on a GPU, ready to be replayed. `run(*arrays)` returns copies of its outputs.

    Why there is no graph is told once, under the step's name; not at all where that is "".
    """

    tiled = False

    def __init__(self, record: Recorder, outputs: Sequence[Array], name: str) -> None:
        place = record.place
        assert place is not None
        self.xp, self.name = module_of(place), name
        self.stage = graphs.stage_of(self.xp, place)
        self.why_not = graphs.missing(self.xp)
        self.phase = Phase()
        self.lives: list[LiveCall] = []
        self.arguments = len(record.inputs)
        self.touched = set(record.gradients)
        self.written = sorted(record.written_inputs)
        self.sources: list[Any] = []  # of what the host moves: an argument's number, or an array
        self._split(record)
        # Memory that the step writes to: arguments, of which it reads copies, must not show it.
        owners = [Recorder.leaves_of(live.args[0]) for live in self.lives]
        outside = [*record.written.values(), *itertools.chain.from_iterable(owners)]
        self.outside = {root_of(x._array) for x in outside}
        self.fixed = set(range(self.arguments))  # arguments that have been the same array so far
        self.captures = 0
        self.launches: dict[int | None, Launch] = {}
        with self.stage.here():
            self.stage.in_turn()  # the recording's constants are read by replays on any stream
            self.pool = None if self.why_not else graphs.pool_of_graphs(self.xp)
            # Where the program reads what it is given: at first where the recording read it.
            self.places: list[Any] = [
                None if MODULES[type(a)] is HOST else a for a in record.inputs
            ]
            self.plan = Plan(record, outputs, joined=joined)
            for number in range(self.arguments, len(self.places)):
                self.places[number] = graphs.dense_like(self.places[number])
        self.program = self.plan.run
        self.gradients = self.plan.gradients
        self.end, self.ran_eagerly = self.plan.end, self.plan.ran_eagerly
        self.plan.most_references = self.plan.references()

    def _split(self, record: Recorder) -> None:
        """Takes moves from the host and live calls out of the program's hands."""
        numbers = {id(a): i for i, a in enumerate(record.inputs)}
        steps: list[Any] = []
        for step in record.steps:
            if isinstance(step, Kernel) and is_move(step, record):
                source = step.operands[0]
                self.sources.append(numbers.get(id(source), source))
                record.inputs.append(step.out)
            elif isinstance(step, Live):
                call = LiveCall(step, self.phase)
                self.lives.append(call)
                steps.append(step._replace(call=call))
            else:
                steps.append(step)
        record.steps = steps

    @property
    def how(self) -> str:
        """How it is run, as `explain` says it."""
        if self.why_not is not None:
            return f", without a CUDA graph: {self.why_not}"
        return ", one CUDA graph" if self.launches else ", to be captured as one CUDA graph"

    # --- a replay ---------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Before a replay: gradients that somebody has kept become that somebody's own.

        False where the memory of one is held otherwise, by a view or its detach().
        """
        for slot in self.plan.kept():
            with self.stage.lock, self.stage.here():
                self.stage.in_turn()  # after the graph that has written it
                slot.renew()
        return self.plan.references() <= self.plan.most_references

    def cannot_run(self) -> bool:
        """Whether somebody holds memory that a replay would write to."""
        self.begin()
        return self.plan.cannot_run()

    def run(self, *arrays: Array) -> list[Array]:
        """One step: copies of its outputs."""
        stage = self.stage
        with stage.lock, stage.here():
            if self.why_not is None and not self._shares(arrays):
                self._unfix(arrays)
                launch = self.launches.get(None)
                if launch is not None and launch.holds():
                    return self._launch(launch, arrays)
                return self._prepare(None, arrays)
            stage.in_turn()
            given = [*arrays, *self.places[self.arguments :]]
            self._fill_moved(given, arrays)
            return [a.copy("K") for a in self.program(*given)]

    def run_several(self, count: int, arrays: Sequence[Array]) -> list[Array] | None:
        """That many steps as one graph: copies of their outputs, stacked; None if there is none.

        The arrays have one more leading dimension of that length.
        """
        stage = self.stage
        with stage.lock, stage.here():
            launch = None if self.why_not is not None else self.launches.get(count)
            if launch is None or not launch.holds() or self._shares(arrays):
                return None
            return self._launch(launch, arrays)

    def prepare_several(self, count: int, arrays: Sequence[Array]) -> list[Array] | None:
        """One step, of which `count` are captured as one graph; None where that cannot be."""
        stage = self.stage
        with stage.lock, stage.here():
            if self.why_not is not None or self._shares(arrays):
                return None
            self._unfix(arrays)
            return self._prepare(count, arrays)

    timed_run = run  # clocks behind its lines would time launches

    def _unfix(self, arrays: Sequence[Array]) -> None:
        """Gives an argument that is another array than in the call before an array to be copied to.

        One that is always the same, such as a whole data set, is read where it lies.
        """
        for number in list(self.fixed):
            place = self.places[number]
            if place is not arrays[number]:
                self.fixed.discard(number)
                if place is not None:  # an argument of the host
                    self.places[number] = graphs.dense_like(place)
                    self.launches.clear()

    def _shares(self, arrays: Sequence[Array]) -> bool:
        """Whether an argument shows memory that the step may write to meanwhile."""
        roots = set(map(root_of, arrays))
        return bool(self.written and len(roots) < len(arrays)) or not roots.isdisjoint(self.outside)

    def _launch(self, launch: Launch, arrays: Sequence[Array]) -> list[Array]:
        self.stage.in_turn()
        inputs = launch.inputs
        self._take(inputs, arrays)
        for part in launch.parts:
            for slot in launch.slots:
                part.advance(slot)
            part.send()
        launch.graph.launch(self.xp.cuda.get_current_stream())
        if launch.checks:
            checks.mark(self.xp)
        self._give_back(inputs, arrays)
        return [outlet() for outlet in launch.outlets]

    def _take(self, inputs: list[Any], arrays: Sequence[Array]) -> None:
        """Copies the arguments to where the graph reads them."""
        for target, source in zip(inputs, arrays):
            if target is not source and target is not None:  # else it is of the host
                graphs.copy(target, source)
        if self.sources:
            self._fill_moved(inputs, arrays)

    def _give_back(self, inputs: list[Any], arrays: Sequence[Array]) -> None:
        """Copies to the arguments what the step has written to them."""
        for number in self.written:
            if arrays[number] is not inputs[number]:
                graphs.copy(arrays[number], inputs[number])

    def _fill_moved(self, inputs: list[Any], arrays: Sequence[Array]) -> None:
        """Copies to the GPU what the step moves there."""
        for target, source in zip(inputs[self.arguments :], self.sources, strict=True):
            if isinstance(source, int):
                from_host(target, arrays[source])
                continue
            several = target.ndim > source.ndim
            for one in [target[k] for k in range(len(target))] if several else [target]:
                from_host(one, source)

    # --- capturing --------------------------------------------------------------------------------

    def _prepare(self, count: int | None, arrays: Sequence[Array]) -> list[Array]:
        """One step, kernel by kernel; and the capture of as many as `count` says (None: one)."""
        phase, pool = self.phase, self.pool
        outer = self.xp.cuda.get_allocator()
        inputs = list(self.places)
        phase.count = 1 if count is None else count
        phase.allocator = functools.partial(self.xp.cuda.using_allocator, outer)
        try:
            with self.stage.aside(pool):
                self._take(inputs, arrays)
                found = self.program(*inputs)
            results = [graphs.Outlet(a)() for a in found]
            self._give_back(inputs, arrays)
        finally:
            phase.allocator = None
        self._capture(count, inputs, found)
        return results

    def _capture(self, count: int | None, inputs: list[Array], found: Sequence[Array]) -> None:
        """Captures the program, or notes and tells why that cannot be."""
        self.captures += 1
        troubles = (live.trouble(self.stage.place) for live in self.lives)
        trouble = next(filter(None, troubles), None)
        if self.captures > MOST_CAPTURES:
            trouble = f"it was captured {MOST_CAPTURES} times, each time for other terms or arrays"
        if trouble is None:
            launch, work = self._work(count, inputs, found)
            owners = {id(live.args[0]): live.args[0] for live in self.lives}
            launch.surroundings = [Surroundings(o, self.touched) for o in owners.values()]
            launch.parts = [live.parts for live in self.lives if live.parts is not None]
            try:
                launch.graph, launch.checks = self.stage.captured(work, self.pool)
                self.launches[count] = launch
            except graphs.REFUSALS as error:
                trouble = f"{self._line_of(error)}{error}"
            finally:
                self.phase.slot = None
        if trouble is not None:
            self.why_not = trouble
            self.launches.clear()
            if self.name:
                told = f"compile: {self.name} runs without a CUDA graph: {trouble}"
                warnings.warn(told, stacklevel=7)

    def _work(
        self, count: int | None, inputs: list[Array], found: Sequence[Array]
    ) -> tuple[Launch, Callable[[], None]]:
        """What is captured, and what it reads and leaves."""
        stacked, outputs = inputs, found
        if count is not None:
            stacked = [None if a is None else graphs.slots_like(a, count) for a in inputs]
            outputs = [graphs.dense_like(a, (count,)) for a in found]
        launch = Launch(count, stacked, [graphs.Outlet(a) for a in outputs])

        def work() -> None:
            for slot in launch.slots:
                self.phase.slot = slot
                if count is None:
                    self.program(*inputs)
                    continue
                made = self.program(*[None if a is None else a[slot] for a in stacked])
                for target, source in zip(outputs, made, strict=True):
                    graphs.copy(target[slot], source)

        return launch, work

    def _line_of(self, error: BaseException) -> str:
        """The user's line that led to what a capture refuses."""
        trace = error.__traceback__
        text = ""
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == "<compiled step>":
                text = self.plan.source[trace.tb_lineno - 1].strip()
            trace = trace.tb_next
        for line in self.plan.lines:
            if line.source == text and line.where is not None:
                return f"{place_text(line.where)}{line.kernel}: "
        return ""


def from_host(target: Array, source: Array) -> None:
    """target[...] = source, of the host; from pinned memory while the host goes on."""
    if not source.ndim:
        target.fill(source.item())
    elif is_pinned(source):
        graphs.copy(target, to_device(source, device_of(target), non_blocking=True))
    else:
        target.set(source)


def place_of(array: Array) -> Any:
    """The GPU of an array, or None for the CPU, and how it lies there."""
    return None if type(array) is HOST.ndarray else array.device.id, array.strides


def is_on_gpu(x: Any) -> bool:
    """Whether a tensor or an array lies on a GPU."""
    array = x._array if isinstance(x, Traced) else x
    return MODULES.get(type(array), HOST) is not HOST
