"""A pure step: its Python runs once for each signature, then its recording is replayed."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

from nanotorch.autograd.grad_mode import modes
from nanotorch.autograd.walk import on_tensors
from nanotorch.backend import one_blas_thread
from nanotorch.backend.silence import silent
from nanotorch.compile.check import CHECK, Event, compare, events_of
from nanotorch.compile.cuda_graph import is_on_gpu, place_of, unfit
from nanotorch.compile.entry import MISSED, entry
from nanotorch.compile.explanation import Explanation
from nanotorch.compile.guards import Guards
from nanotorch.compile.recorder import Recorder
from nanotorch.compile.replay import Replay
from nanotorch.compile.stacks import length_of, slices, stack_results
from nanotorch.compile.tiles import WORTHWHILE_BYTES
from nanotorch.compile.values import identity, is_plain
from nanotorch.tensor import Tensor

MOST_PLANS = 8  # recordings of one function before it is left eager


def flatten(value: Any, tensors: list[Tensor]) -> Any:
    """Collects the tensors of nested tuples, lists and dicts, and returns what else defines
    them."""
    if isinstance(value, Tensor):
        tensors.append(value)
        array = value._array
        same = next(i for i, x in enumerate(tensors) if x._array is array)
        return (array.shape, array.dtype, place_of(array), value._requires_grad, same)
    if isinstance(value, tuple | list):
        return (type(value), *(flatten(item, tensors) for item in value))
    if isinstance(value, dict):
        return (dict, *((key, flatten(item, tensors)) for key, item in value.items()))
    return identity(value) if is_plain(value) else Other(value)


class Other:
    """An argument that is neither a tensor nor compared by value: equal to nothing."""

    def __init__(self, value: Any) -> None:
        self.kind = type(value).__name__


def other_in(signature: Any) -> Other | None:
    """The first argument that is not compared by value."""
    if isinstance(signature, tuple):
        return next((other for part in signature if (other := other_in(part))), None)
    return signature if isinstance(signature, Other) else None


def unrecorded(name: str, eager: str | None, arguments: str = "") -> str:
    """Why there is no plan to be explained."""
    if eager is not None:
        return f"explain: {name} runs eagerly, so it has no plan: {eager}"
    return f"explain: {name} is not recorded{arguments} yet; call it once first"


class PureStep:
    """A function that is recorded once for each signature and replayed from then on."""

    is_compiled = True

    def __init__(
        self, function: Callable[..., Any], explain: bool = False, warn: bool = True
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._explain, self._warn = explain, warn
        self._replays: dict[Any, list[Replay]] = {}
        self._recordings = 0
        self._eager: str | None = None
        self._latest: Replay | None = None  # that was recorded
        self._enter: Callable[[Any], Any] | None = None  # into the latest replay
        self._last_mode: Any = None  # that it was recorded in
        self._checked: dict[int, list[Event]] = {}  # what each replay was recorded with
        self._lock = threading.RLock()  # a live call may lead here again

    @silent
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._eager is not None or modes.anomaly or modes.saved_hooks or on_tensors():
            return self._function(*args, **kwargs)
        mode = modes_now()
        with self._lock:
            if self._enter is not None and self._last_mode == mode and not kwargs:
                result = self._enter(args)
                if result is not MISSED:
                    return result
            inputs: list[Tensor] = []
            signature = (flatten(args, inputs), flatten(kwargs, inputs), mode)
            replays = self._replays.setdefault(signature, [])
            replay = next((r for r in replays if r.holds()), None)
            if replay is None:
                other = other_in(signature)
                if other is not None:
                    del self._replays[signature]
                    self.give_up(f"an argument is a {other.kind}, which is not compared by value")
                    return self._function(*args, **kwargs)
                return self._record(replays, inputs, args, kwargs)
            if id(replay) in self._checked:
                return self._compared(self._checked[id(replay)], inputs, args, kwargs)
            self._enter, self._last_mode = None, mode
            if replay.watch is None and not kwargs and all(type(x) is Tensor for x in args):
                self._enter = replay.enter
            if replay.plan.cannot_run(inputs):
                result = self._function(*args, **kwargs)
                replay.plan.ran_eagerly()
                self._enter = None  # the next replay takes the long way, which counts anew
                return result
            return replay(inputs)

    def _record(self, replays: list[Replay], inputs: list[Tensor], args: Any, kwargs: Any) -> Any:
        """Runs the function as it is and keeps a recording of it among those for its
        signature."""
        if self._recordings == MOST_PLANS:
            self.give_up(
                f"it was recorded {MOST_PLANS} times, each time for other shapes or values"
            )
            return self._function(*args, **kwargs)
        if any(x._requires_grad for x in inputs):
            self.give_up("an argument requires grad; only what the function refers to may")
            return self._function(*args, **kwargs)
        with Recorder(inputs) as recorder:
            # The bits of a large product may depend on the number of threads; those of tiles do
            # not.
            large = not inputs or sum(x._array.nbytes for x in inputs) >= WORTHWHILE_BYTES
            with one_blas_thread() if large else contextlib.nullcontext():
                result = self._function(*args, **kwargs)
        self._recordings += 1
        results: list[Tensor] = []
        flatten(result, results)
        recorder.check(results)
        reason = recorder.refusal or unfit(recorder)
        if reason:
            self.give_up(reason)
            return result
        guards, events = Guards(), events_of(recorder) if CHECK else []
        replay = Replay(recorder, result, inputs, guards, self._name if self._warn else "")
        if replay.direct:
            replay.enter = entry(replay, guards)
        if self._explain:
            replay.watch = lambda: print(Explanation(replay.plan, self._name))
        self._latest = replay
        replays.append(replay)
        if events:
            self._checked[id(replay)] = events
            return result
        if replay.plan.tiling is not None and recorder.repeatable():
            for leaf in recorder.entry:  # once more, tile by tile: the bits of all later calls
                leaf._grad = None
            return replay(inputs)
        return result

    def _compared(self, events: list[Event], inputs: Any, args: Any, kwargs: Any) -> Any:
        """Runs the function as it is; RuntimeError where it does something else than recorded."""
        with Recorder(inputs) as recorder:
            result = self._function(*args, **kwargs)
        if recorder.refusal is not None:
            raise RuntimeError(f"NANOTORCH_CHECK: {recorder.refusal}; a pure step does not")
        compare(self._name, events, events_of(recorder))
        return result

    def give_up(self, reason: str) -> None:
        """Leaves the function eager, and says why, once."""
        self._eager = reason
        if self._warn:
            warnings.warn(f"compile: {self._name} runs eagerly: {reason}", stacklevel=4)

    @property
    def _name(self) -> str:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return str(name).rpartition("<locals>.")[2]

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
            inputs: list[Tensor] = []
            signature = (flatten(args, inputs), flatten(kwargs, inputs), modes_now())
            replays = self._replays.get(signature, ())
            replay = next((r for r in replays if r.holds()), None)
            if replay is None:
                raise RuntimeError(unrecorded(self._name, self._eager, " with these arguments"))
            replay.watch, self._enter = lambda: None, None
            self(*args, **kwargs)
            replay.watch = None
            return Explanation(replay.plan, self._name)

    def steps(self, *stacked: Tensor) -> Any:
        """The function on each slice of the arguments along their first dimension, in order.

        stacked: tensors (K, …), with the same K >= 1. Returns the results of the K steps, stacked
        as (K, …); what is no tensor is that of the last step. On a GPU the K steps become one CUDA
        graph: the host launches once, and what the function does on the host, such as the step of
        a learning rate's schedule, happens between launches alone.
        """
        count = length_of(stacked)
        with self._lock:
            first: Any = None
            if is_on_gpu(stacked[0]) and not (
                self._eager or modes.anomaly or modes.saved_hooks or on_tensors()
            ):
                one: list[Tensor] = []
                signature = (flatten(slices(stacked, 0), one), flatten({}, []), modes_now())
                replay = next((r for r in self._replays.get(signature, ()) if r.holds()), None)
                if replay is not None:
                    results = replay.several(count, stacked)
                    if results is not None:
                        return results
                    first = replay.first_of_several(count, one)
            results = [self(*slices(stacked, 0)) if first is None else first]
            results += [self(*slices(stacked, k)) for k in range(1, count)]
            return stack_results(results)


def modes_now() -> tuple[Any, ...]:
    """The modes that a recording depends on."""
    return modes.grad, modes.inference, modes.rings
