"""A compiled module: its forward pass is one program, and its output carries one backward node.

The program is recorded with the module's backward pass behind it and runs as a generator: forward
up to the output, then, when the output's cotangent arrives, the rest. The memory in between is the
plan's own, so a backward pass belongs to the latest call; an earlier one's is refused. On a GPU
each half becomes a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.autograd.backward import grad
from nanotorch.autograd.engine import next_sequence
from nanotorch.autograd.grad_mode import modes
from nanotorch.autograd.walk import on_tensors
from nanotorch.backend import array_module, on_device_of
from nanotorch.compile.cuda_graph import unfit
from nanotorch.compile.cuda_halves import CudaHalves
from nanotorch.compile.explanation import Explanation
from nanotorch.compile.guards import Guards
from nanotorch.compile.plan import Plan
from nanotorch.compile.pure import PureStep, flatten
from nanotorch.compile.recorder import Recorder
from nanotorch.compile.replay import guard, tell_without_graph
from nanotorch.node import Node
from nanotorch.tensor import Tensor


class CompiledModuleBackward(Node):
    """The one node of a compiled module's output: its edges lead to the module's parameters."""

    __slots__ = ("generation", "program")

    def __init__(self, program: TwoPhases, value: Tensor) -> None:
        self.program, self.generation = program, program.generation
        self.sequence = next_sequence()
        self.edges = tuple(program.leaves)
        self.shape, self.dtype = value._array.shape, value._array.dtype
        self.hooks = self.post_hooks = self.inputs = self.output = None

    def pull(self, g: Any, only: Any, tensors: bool) -> Sequence[Any]:
        if tensors:
            raise RuntimeError(
                "a compiled module has no second derivatives; call the module itself, not the "
                "compiled one"
            )
        found = self.program.backward(self.generation, g)
        with on_device_of(g):
            return [
                None if only is not None and edge not in only else array.copy()
                for edge, array in zip(self.edges, found, strict=True)
            ]


class TwoPhases:
    """The program of a module for one signature: forward, and then backward."""

    # Where set, the next forward and backward pass is timed, and then this is called.
    watch: Callable[[], None] | None = None

    def __init__(
        self,
        recorder: Recorder,
        out: Tensor,
        leaves: list[Tensor],
        grads: list[Any],
        tell: Callable[[str], None],
    ) -> None:
        self.leaves = leaves
        outputs = [out._array, *(g._array for g in grads)]
        self.halves = None if recorder.place is None else CudaHalves(recorder, outputs, tell)
        self.plan = Plan(recorder, outputs) if self.halves is None else self.halves.plan
        self.generation = 0
        self._running: Any = None

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The output of the module, with its node."""
        self.generation += 1
        arrays = [x._array for x in inputs]
        if self.halves is not None:
            self._running = self.halves
            out = Tensor._wrap(self.halves.forward(arrays))
        else:
            run = self.plan.run if self.watch is None else self.plan.timed().run
            self._running = run(*arrays)
            out = Tensor._wrap(next(self._running).copy())
        out._node, out._requires_grad = CompiledModuleBackward(self, out), True
        return out

    def backward(self, generation: int, g: Any) -> Sequence[Any]:
        """The gradients of the leaves, for the latest call of forward."""
        if generation != self.generation:
            raise RuntimeError(
                "backward through a compiled module that was called again since: its memory holds "
                "the later call. Call backward() first, or compile the whole step"
            )
        if self._running is None:
            raise RuntimeError(
                "backward through a compiled module a second time: what it kept was used up; call "
                "the module again, or use the module itself with retain_graph=True"
            )
        running, self._running = self._running, None
        found: Sequence[Any] = (
            running.send(array_module(g).asarray(g))
            if self.halves is None
            else self.halves.backward(g)
        )
        if self.watch is not None:
            told, self.watch = self.watch, None
            if self.plan.stopwatch is not None:
                self.plan.stopwatch.stop()
            told()
        return found


class PureModule:
    """A module whose forward and backward passes are replayed; everything else is the module's
    own."""

    _without_grad: PureStep
    _latest: TwoPhases | None  # that was recorded

    def __init__(self, module: Any, explain: bool, warn: bool) -> None:
        self.__dict__["module"] = module
        self.__dict__["_without_grad"] = PureStep(module, explain, warn)
        self.__dict__["_programs"] = {}
        self.__dict__["_explain"] = explain
        self.__dict__["_latest"] = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.module, name, value)

    def __repr__(self) -> str:
        return f"compiled {self.module!r}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs: list[Tensor] = []
        signature = (flatten(args, inputs), flatten(kwargs, inputs), modes.rings)
        trained = any(p._requires_grad for p in self.module.parameters())
        if not modes.grad or not trained:
            return self._without_grad(*args, **kwargs)
        special = modes.anomaly or modes.saved_hooks or on_tensors()
        if self._without_grad._eager or special or any(x._requires_grad for x in inputs):
            return self.module(*args, **kwargs)
        for holds, program in self._programs.get(signature, ()):
            if holds():
                return program.forward(inputs)
        return self._record(signature, inputs, args, kwargs)

    def plan(self) -> Explanation:
        """What the latest recording does, with the times that `explain` took, if any.

        RuntimeError where nothing is recorded. A recording under `no_grad` is that of a step.
        """
        if self._latest is None:
            return self._without_grad.plan()
        return Explanation(self._latest.plan, self._without_grad._name)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Runs forward and backward once more, with a stopwatch, and says what takes how long.

        The gradients, with ones as that of the output, are thrown away. RuntimeError where nothing
        is recorded for these arguments.
        """
        inputs: list[Tensor] = []
        signature = (flatten(args, inputs), flatten(kwargs, inputs), modes.rings)
        found = self._programs.get(signature, ()) if modes.grad else ()
        program = next((program for holds, program in found if holds()), None)
        if program is None:
            return self._without_grad.explain(*args, **kwargs)
        program.watch = lambda: None
        out = program.forward(inputs)._array
        program.backward(program.generation, array_module(out).ones(out.shape, out.dtype))
        return Explanation(program.plan, self._without_grad._name)

    def _record(self, signature: Any, inputs: list[Tensor], args: Any, kwargs: Any) -> Any:
        """Runs the module as it is, and keeps a recording of its forward and backward passes."""
        with Recorder(inputs) as recorder:
            out = self.module(*args, **kwargs)
            leaves = [p for p in self.module.parameters() if p._requires_grad]
            found: list[Any] = []
            if not isinstance(out, Tensor) or out._node is None:
                recorder.refuse(
                    "returns something other than one tensor that depends on its parameters"
                )
            else:
                with on_device_of(out._array):
                    ones = array_module(out._array).ones(out._array.shape, out._array.dtype)
                g = Tensor._wrap(ones)
                recorder.hand_over(out, g)
                found = list(grad(out, leaves, g, retain_graph=True, allow_unused=True))
        recorder.check([])
        reason = recorder.refusal or unfit(recorder, moves=False)
        if reason is None:
            kept = [(p, g) for p, g in zip(leaves, found, strict=True) if g is not None]
            step = self._without_grad
            tell = functools.partial(tell_without_graph, step._name if step._warn else "")
            program = TwoPhases(recorder, out, [p for p, _ in kept], [g for _, g in kept], tell)
            self._programs.setdefault(signature, []).append((guard(recorder, Guards()), program))
            self.__dict__["_latest"] = program
            if self._explain:
                program.watch = lambda: print(Explanation(program.plan, self._without_grad._name))
        else:
            self._without_grad.give_up(reason)
        return out
