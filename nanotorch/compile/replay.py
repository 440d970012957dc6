"""One recording of a step, ready to be replayed: its plan, and what it took for granted.

What takes longest in the replay of a small step is Python around its kernels. So the way into a
replay is one generated function: the comparison of the arguments, the guards, and what belongs
before and after the program, with the numbers of tensors and gradients written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.autograd.grad_mode import modes
from nanotorch.backend import HOST, Array
from nanotorch.compile.check import Event
from nanotorch.compile.cuda_graph import CudaPlan, place_of
from nanotorch.compile.explanation import Explanation
from nanotorch.compile.plan import Plan
from nanotorch.compile.program import REFERENCES
from nanotorch.compile.recorder import Recorder
from nanotorch.compile.source import Source
from nanotorch.compile.stacks import mapped
from nanotorch.tensor import Tensor

MISSED: Any = object()  # what an entry returns where the call is not as recorded


def conditions(recorder: Recorder, constant: Callable[[Any, str], str]) -> list[str]:
    """Everything that a recording took for granted of tensors, modules and gradients, as source."""
    found = []
    for tensor in recorder.external.values():
        t, array = constant(tensor, "tensor"), constant(tensor._array, "a")
        wanted = bool(tensor._requires_grad)
        found += [f"{t}._array is {array}", f"{t}._requires_grad is {wanted}", f"not {t}._hooks"]
    for module in {id(m): m for m in recorder.modules}.values():
        known, fields = constant(module, "module"), constant(vars(module), "fields")
        found.append(f"{known}._hooks is None and {known}.training is {module.training}")
        for key, value in vars(module).items():
            if isinstance(value, Tensor):
                found.append(f"{fields}[{key!r}] is {constant(value, 'tensor')}")
    for leaf, held in recorder.entry.items():
        found.append(f"{constant(leaf, 'tensor')}._grad is {constant(held, 'tensor')}")
    return found or ["True"]


def inferred(array: Array) -> Tensor:
    """A result of a step in `inference_mode`."""
    y = Tensor._wrap(array)
    y._inference = True
    return y


class Replay:
    """One recording of a function: when it may be replayed, and how.

    holds(): whether all is as it was but the arguments. enter(args): the result of a replay with
    these arguments, all of them tensors, or MISSED where the call is not as recorded.
    """

    watch: Callable[[], None] | None = None  # the next replay is timed, and then this is called
    plan: Plan | CudaPlan
    used = 0  # when, by the clock of its function
    events: Sequence[Event] = ()  # what later calls are compared with, if they are

    def __init__(self, recorder: Recorder, result: Any, inputs: list[Tensor], name: str) -> None:
        arrays: list[Any] = []
        self.wrap = inferred if modes.inference else Tensor._wrap
        self.on_gpu = recorder.place is not None
        self.rebuild = self._form(result, arrays, inputs)
        if self.on_gpu:
            self.plan = CudaPlan(recorder, arrays, name)
        else:
            self.plan = Plan(recorder, arrays)
        self.program = self.plan.plan if isinstance(self.plan, CudaPlan) else self.plan
        self.bytes = sum(block.nbytes for block in self.program.memory.blocks)
        self.written = list(recorder.written.values())
        self.written_inputs = recorder.written_inputs
        self.single = isinstance(result, Tensor) and not any(result is x for x in inputs)
        source = Source({
            "MISSED": MISSED, "plan": self.plan, "begin": self.plan.begin, "run": self.plan.run,
            "held": self.program.references, "rebuild": self.rebuild, "place_of": place_of,
            "wrap": self.wrap,
        })  # fmt: skip
        guards = " and ".join(conditions(recorder, source.constant))
        lines = ["try:", f"    return {guards}", "except KeyError: return False"]
        self.holds = source.function("holds()", lines, "guards")
        self.enter = self._entry(source, guards, [x._array for x in inputs])

    def _entry(self, source: Source, guards: str, forms: list[Array]) -> Callable[[Any], Any]:
        """The function `enter`, for arguments like these."""
        plan, constant = self.plan, source.constant
        arrays = [f"a{i}" for i in range(len(forms))]
        tests = [f"type(x{i}) is Tensor" for i in range(len(forms))]
        distinct: dict[int, str] = {}
        for i, (a, array) in enumerate(zip(arrays, forms, strict=True)):
            tests.append(f"({a} := x{i}._array).shape == {constant(array.shape)}")
            tests.append(f"{a}.dtype is {constant(array.dtype)}")
            tests.append(f"x{i}._requires_grad is False")
            if type(array) is HOST.ndarray:
                tests.append(f"type({a}) is ndarray and {a}.strides == {constant(array.strides)}")
            else:
                tests.append(f"place_of({a}) == {constant(place_of(array))}")
            if distinct.setdefault(id(array), a) != a:
                tests.append(f"{a} is {distinct[id(array)]}")
        names = list(distinct.values())
        if len(names) == 2:
            tests.append(f"{names[0]} is not {names[1]}")
        elif len(names) > 2:
            tests.append(f"len({{{', '.join(f'id({a})' for a in names)}}}) == {len(names)}")
        inputs = "".join(f"x{i}, " for i in range(len(forms)))
        body = ["try:", f"    [{inputs}] = args"]
        body.append(f"    if not ({' and '.join([*tests, guards])}): return MISSED")
        body.append("except (ValueError, KeyError): return MISSED")
        seen = [(constant(leaf), f"{constant(s)}.tensor") for leaf, s in self.program.seen]
        kept = [f"references({g}) - ({leaf}._grad is {g}) > {REFERENCES}" for leaf, g in seen]
        if self.on_gpu:
            body.append("if not begin(): return MISSED")
        elif kept:
            body.append("if held() > plan.most_references: return MISSED")
            body.append(f"if {' or '.join(kept)}: begin()")
        body.append(f"found = run({', '.join(arrays)})")
        body += [f"{constant(leaf)}._grad = {constant(s)}.tensor" for leaf, s in plan.gradients]
        body += [f"{constant(tensor)}._bump()" for tensor in self.written]
        body += [f"x{position}._bump()" for position in self.written_inputs]
        body.append(f"return {'wrap(found[0])' if self.single else 'rebuild(found, args)'}")
        return source.function("enter(args)", body, "entry")

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
            return lambda outputs, inputs: self.wrap(outputs[number])

        form = mapped(place, result)
        return lambda outputs, inputs: mapped(lambda part: part(outputs, inputs), form)

    def __call__(self, inputs: list[Tensor]) -> Any:
        self.plan.begin()
        told, self.watch = self.watch, None
        run = self.plan.run if told is None else self.plan.timed_run
        result = self._ended(run(*(x._array for x in inputs)), inputs)
        if told is not None:
            told()
        return result

    def explained(self, name: str) -> Explanation:
        """What it does, with the times that were taken so far."""
        lines, watch = self.program.lines, self.program.stopwatch
        took = [[] for _ in lines] if watch is None else watch.took
        return Explanation(name, lines, took, self.program.memory, getattr(self.plan, "how", ""))

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
        if not isinstance(plan, CudaPlan) or count not in plan.launches or not plan.begin():
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
            plan.launches.pop(count, None)
        return result
