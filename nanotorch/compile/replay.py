"""One recording of a step, ready to be replayed: its plan, and what it took for granted."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.compile.cuda_graph import CudaPlan, place_of
from nanotorch.compile.plan import Plan
from nanotorch.compile.recorder import Recorder
from nanotorch.compile.source import Source
from nanotorch.compile.stacks import mapped
from nanotorch.compile.stopwatch import timed_run
from nanotorch.tensor import Tensor


def conditions(recorder: Recorder, constant: Callable[[str, Any], str]) -> list[str]:
    """Everything that a recording took for granted of tensors, modules and gradients, as source."""
    found = []
    for tensor in recorder.external.values():
        t, array = constant("tensor", tensor), constant("a", tensor._array)
        requires_grad = bool(tensor._requires_grad)
        found += [f"{t}._array is {array}", f"{t}._requires_grad is {requires_grad}"]
        found.append(f"not {t}._hooks")
    for module in {id(m): m for m in recorder.modules}.values():
        known, fields = constant("module", module), constant("fields", vars(module))
        found.append(f"{known}._hooks is None and {known}.training is {module.training}")
        for key, value in vars(module).items():
            if isinstance(value, Tensor):
                found.append(f"{fields}.get({key!r}) is {constant('tensor', value)}")
    for leaf, held in recorder.entry.items():
        found.append(f"{constant('tensor', leaf)}._grad is {constant('tensor', held)}")
    return found or ["True"]


class Replay:
    """One recording of a function: when it may be replayed, and how."""

    enter: Callable[[Any], Any] | None = None  # the fast way in, where there is one
    watch: Callable[[], None] | None = None  # the next replay is timed, and then this is called
    plan: Plan | CudaPlan
    used = 0  # when, by the clock of its function

    def __init__(self, recorder: Recorder, result: Any, inputs: list[Tensor], name: str) -> None:
        arrays: list[Any] = []
        self.on_gpu = recorder.place is not None
        self.rebuild = self._form(result, arrays, inputs)
        if self.on_gpu:
            self.plan = CudaPlan(recorder, arrays, functools.partial(tell_without_graph, name))
        else:
            self.plan = Plan(recorder, arrays)
        blocks = (self.plan.plan if isinstance(self.plan, CudaPlan) else self.plan).memory.blocks
        self.bytes = sum(block.nbytes for block in blocks)
        source = Source()
        self.conditions = " and ".join(conditions(recorder, source.constant))
        self.constants = source.constants
        self.holds = source.function("holds()", [f"return {self.conditions}"], "guards")
        self.forms = [
            (x._array.shape, x._array.dtype, x._requires_grad, place_of(x._array)) for x in inputs
        ]
        # Whether an entry can lead to it.
        self.direct = len({id(x._array) for x in inputs}) == len(inputs)
        self.written = list(recorder.written.values())
        self.written_inputs = recorder.written_inputs
        self.single = isinstance(result, Tensor) and not any(result is x for x in inputs)

    def _form(self, result: Any, arrays: list[Any], inputs: list[Tensor]) -> Callable[..., Any]:
        """A function that builds the step's result from the arrays of its outputs."""

        def place(value: Any) -> Callable[..., Any]:
            if not isinstance(value, Tensor):
                return lambda outputs, inputs: value
            for position, x in enumerate(inputs):
                if value is x:
                    return lambda outputs, inputs: inputs[position]
            number = len(arrays)
            arrays.append(value._array)
            if self.on_gpu:  # whose plan gives away copies
                return lambda outputs, inputs: Tensor._wrap(outputs[number])
            return lambda outputs, inputs: Tensor._wrap(outputs[number].copy("K"))

        form = mapped(place, result)
        return lambda outputs, inputs: mapped(lambda part: part(outputs, inputs), form)

    def __call__(self, inputs: list[Tensor]) -> Any:
        self.plan.begin()
        arrays = [x._array for x in inputs]
        if self.watch is None:
            return self._ended(self.plan.run(*arrays), inputs)
        told, self.watch = self.watch, None
        result = self._ended(timed_run(self.plan, arrays), inputs)
        told()
        return result

    def _ended(self, outputs: Any, inputs: Sequence[Tensor]) -> Any:
        """The step's result, and its marks on the tensors that it has changed."""
        self.plan.end()
        for tensor in self.written:
            tensor._bump()
        for position in self.written_inputs:
            inputs[position]._bump()
        return self.rebuild(outputs, inputs)

    def several(self, count: int, stacked: Sequence[Tensor]) -> Any:
        """So many steps as one launch, on a GPU; None where that is not captured."""
        plan = self.plan
        if not isinstance(plan, CudaPlan) or not plan.ready(count) or not plan.begin():
            return None
        outputs = plan.run_several(count, [x._array for x in stacked])
        return None if outputs is None else self._ended(outputs, stacked)

    def first_of_several(self, count: int, inputs: Sequence[Tensor]) -> Any:
        """One step, after which so many may be one launch; None where that cannot be."""
        plan = self.plan
        if not isinstance(plan, CudaPlan) or not plan.begin():
            return None
        outputs = plan.prepare_several(count, [x._array for x in inputs])
        if outputs is None:
            return None
        result = self._ended(outputs, inputs)
        if not self.holds():  # the next step finds other gradients than this one
            plan.forget(count)
        return result


def tell_without_graph(name: str, reason: str) -> None:
    """Warns that a step on a GPU is no CUDA graph, unless it has no name."""
    if name:
        warnings.warn(f"compile: {name} runs without a CUDA graph: {reason}", stacklevel=8)
