"""A compiled step: recordings by signature, and when each may be replayed."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

from nanotorch.autograd.grad_mode import modes
from nanotorch.backend import blas_threads
from nanotorch.compile.entry import MISSED, entry
from nanotorch.compile.explanation import Explanation, timed_run
from nanotorch.compile.guards import PLAIN, Guards
from nanotorch.compile.plan import Plan
from nanotorch.compile.recorder import Recorder
from nanotorch.compile.tiles import WORTHWHILE_BYTES
from nanotorch.tensor import Tensor

MOST_PLANS = 8  # recordings of one function before it is left eager


def flatten(value: Any, tensors: list[Tensor]) -> Any:
    """Collects the tensors of nested tuples, lists and dicts, and returns what else defines
    them."""
    if isinstance(value, Tensor):
        tensors.append(value)
        array = value._array
        return (array.shape, array.dtype, type(array), value._requires_grad)
    if isinstance(value, tuple | list):
        return (type(value), *(flatten(item, tensors) for item in value))
    if isinstance(value, dict):
        return (dict, *((key, flatten(item, tensors)) for key, item in value.items()))
    return (type(value), value) if isinstance(value, PLAIN) else id(value)


def guard(recorder: Recorder, guards: Guards) -> Callable[[], bool]:
    """A test of everything that a recording took for granted."""
    for tensor in recorder.external.values():
        t, array = guards.constant(tensor), guards.constant(tensor._array)
        guards.add("data", f"{t}._array is {array}")
        guards.add("requires_grad", f"{t}._requires_grad is {bool(tensor._requires_grad)}")
        guards.add("hooks", f"not {t}._hooks")
    for module in {id(m): m for m in recorder.modules}.values():
        guards.add("hooks", f"{guards.constant(module)}._hooks is None")
        guards.add_fields(type(module).__name__, module)
    for leaf, held in recorder.entry.items():
        guards.add("grad", f"{guards.constant(leaf)}._grad is {guards.constant(held)}")
    return guards.compiled()


class Replay:
    """One recording of a function: when it may be replayed, and how."""

    watch: Callable[[], None] | None = None  # the next replay is timed, and then this is called

    def __init__(
        self, recorder: Recorder, result: Any, inputs: list[Tensor], guards: Guards
    ) -> None:
        arrays: list[Any] = []
        self.rebuild = self._form(result, arrays, inputs)
        self.plan = Plan(recorder, arrays)
        self.holds = guard(recorder, guards)
        self.forms = [(x._array.shape, x._array.dtype, x._requires_grad) for x in inputs]
        self.written = list(recorder.written.values())
        self.written_inputs = recorder.written_inputs
        single = isinstance(result, Tensor) and not any(result is x for x in inputs)
        self.enter = None if self.plan.targets else entry(self, guards, single)

    def _form(self, result: Any, arrays: list[Any], inputs: list[Tensor]) -> Callable[..., Any]:
        """A function that builds the step's result from the arrays of its outputs."""
        if isinstance(result, Tensor):
            for position, x in enumerate(inputs):
                if result is x:
                    return lambda found, given: given[position]
            place = len(arrays)
            arrays.append(result._array)
            return lambda found, given: Tensor._wrap(found[place].copy())
        if isinstance(result, tuple | list):
            parts = [self._form(item, arrays, inputs) for item in result]
            kind = type(result)
            if hasattr(result, "_fields"):
                return lambda found, given: kind(*(part(found, given) for part in parts))
            return lambda found, given: kind(part(found, given) for part in parts)
        if isinstance(result, dict):
            named = {key: self._form(item, arrays, inputs) for key, item in result.items()}
            return lambda found, given: {k: part(found, given) for k, part in named.items()}
        return lambda found, given: result

    def __call__(self, inputs: list[Tensor]) -> Any:
        self.plan.begin()
        arrays, (told, self.watch) = [x._array for x in inputs], (self.watch, None)
        found = timed_run(self.plan, arrays) if told is not None else self.plan.run(*arrays)
        self.plan.end()
        for tensor in self.written:
            tensor._bump()
        for position in self.written_inputs:
            inputs[position]._bump()
        if told is not None:
            told()
        return self.rebuild(found, inputs)


def unrecorded(name: str, eager: str | None, arguments: str = "") -> str:
    """Why there is no plan to be explained."""
    if eager is not None:
        return f"explain: {name} runs eagerly, so it has no plan: {eager}"
    return f"explain: {name} is not recorded{arguments} yet; call it once first"


class Compiled:
    """A function that is recorded once for each signature and replayed from then on."""

    def __init__(
        self, function: Callable[..., Any], explain: bool = False, warn: bool = True
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._explain, self._warn = explain, warn
        self._replays: dict[Any, list[Replay]] = {}
        self._recordings = 0
        self._eager: str | None = None
        self._latest: Replay | None = None  # that was recorded
        self._enter: Callable[[Any], Any] | None = None  # into the latest replay
        self._last_mode: Any = None  # that it was recorded in
        self._lock = threading.RLock()  # a live call may lead here again

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._eager is not None or modes.forward or modes.anomaly or modes.saved_hooks:
            return self._function(*args, **kwargs)
        if modes.recorder is not None:  # within another recording: a part of it
            return self._function(*args, **kwargs)
        mode = (modes.grad, modes.inference)
        with self._lock:
            if self._enter is not None and self._last_mode == mode and not kwargs:
                result = self._enter(args)
                if result is not MISSED:
                    return result
            inputs: list[Tensor] = []
            signature = (flatten(args, inputs), flatten(kwargs, inputs), mode)
            found = self._replays.setdefault(signature, [])
            replay = next((r for r in found if r.holds()), None)
            if replay is None:
                return self._record(found, inputs, args, kwargs)
            self._enter, self._last_mode = None, mode
            if replay.watch is None and not kwargs and all(type(x) is Tensor for x in args):
                self._enter = replay.enter
            if replay.plan.cannot_run(inputs):
                return self._function(*args, **kwargs)
            return replay(inputs)

    def _record(self, found: list[Replay], inputs: list[Tensor], args: Any, kwargs: Any) -> Any:
        """Runs the function as it is and keeps a recording of it among those found for its
        signature."""
        if self._recordings == MOST_PLANS:
            reason = f"it was recorded {MOST_PLANS} times, each time for other shapes or values"
            self.give_up(reason)
            return self._function(*args, **kwargs)
        if any(x._requires_grad for x in inputs):
            self.give_up("an argument requires grad; only what the function refers to may")
            return self._function(*args, **kwargs)
        guards = Guards(self._function)
        recorder = modes.recorder = Recorder(inputs)
        try:
            # The bits of a large product may depend on the number of threads; those of tiles do
            # not.
            large = not inputs or sum(x._array.nbytes for x in inputs) >= WORTHWHILE_BYTES
            with blas_threads(1) if large else contextlib.nullcontext():
                result = self._function(*args, **kwargs)
        finally:
            modes.recorder = None
        self._recordings += 1
        results: list[Tensor] = []
        flatten(result, results)
        recorder.check(results)
        changed = guards.changed()
        if recorder.refusal or changed:
            self.give_up(
                recorder.refusal or f"it changes {changed}, which a replay would not do again"
            )
            return result
        replay = Replay(recorder, result, inputs, guards)
        if self._explain:
            replay.watch = lambda: print(Explanation(replay.plan, self._name))
        self._latest = replay
        found.append(replay)
        if replay.plan.tiling is not None and recorder.repeatable():
            for leaf in recorder.entry:  # once more, tile by tile: the bits of all later calls
                leaf._grad = None
            return replay(inputs)
        return result

    def plan(self) -> Explanation:
        """What the latest recording does in a replay, with the times that `explain` took, if any.

        Nothing is run. RuntimeError where nothing is recorded.
        """
        if self._latest is None:
            raise RuntimeError(unrecorded(self._name, self._eager))
        return Explanation(self._latest.plan, self._name)

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Calls the function once more, with a stopwatch, and says what takes how long.

        The call is a step like any other. After several calls of `explain`, times are medians.
        RuntimeError where nothing is recorded for these arguments.
        """
        with self._lock:
            mode = (modes.grad, modes.inference)
            inputs: list[Tensor] = []
            signature = (flatten(args, inputs), flatten(kwargs, inputs), mode)
            found = self._replays.get(signature, ())
            replay = next((r for r in found if r.holds()), None)
            if replay is None:
                raise RuntimeError(unrecorded(self._name, self._eager, " with these arguments"))
            replay.watch, self._enter = lambda: None, None
            self(*args, **kwargs)
            replay.watch = None
            return Explanation(replay.plan, self._name)

    def give_up(self, reason: str) -> None:
        """Leaves the function eager, and says why, once."""
        self._eager = reason
        if self._warn:
            warnings.warn(f"compile: {self._name} runs eagerly: {reason}", stacklevel=4)

    @property
    def _name(self) -> str:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return str(name).rpartition("<locals>.")[2]
