"""A pure step: its Python runs once for each signature, then its recording is replayed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.autograd.grad_mode import modes
from nanotorch.autograd.walk import on_tensors
from nanotorch.backend import one_blas_thread
from nanotorch.backend.silence import is_silent, silent
from nanotorch.compile.check import CHECK, compare, events_of
from nanotorch.compile.cuda_graph import is_on_gpu, place_of, unfit
from nanotorch.compile.explanation import Explanation
from nanotorch.compile.plan import settle
from nanotorch.compile.recorder import Recorder, line_outside
from nanotorch.compile.replay import MISSED, Replay
from nanotorch.compile.stacks import length_of, slices, stack_results
from nanotorch.compile.steps import Compiled
from nanotorch.compile.tiles import WORTHWHILE_BYTES
from nanotorch.compile.values import identity, is_plain
from nanotorch.tensor import Tensor

MOST_PLANS = 64  # recordings of one function that are kept
FEW_PLANS = 8  # of them for the same arguments, or with more than MOST_PLAN_BYTES together
MOST_PLAN_BYTES = 1 << 30
# Calls of what is not recorded, while the recording used least is not used, for it to make room.
CALLS_TO_EXCHANGE = 8


def flatten(value: Any, tensors: list[Tensor], places: dict[int, int] | None = None) -> Any:
    """Collects the tensors of nested tuples, lists and dicts, and returns what else defines
    them, or raises NotCompared; `places` has the number of the first tensor over each array."""
    places = {} if places is None else places
    if isinstance(value, Tensor):
        array = value._array
        same = places.setdefault(id(array), len(tensors))
        tensors.append(value)
        return (array.shape, array.dtype, place_of(array), value._requires_grad, same)
    if isinstance(value, tuple | list):
        return (type(value), *(flatten(item, tensors, places) for item in value))
    if isinstance(value, dict):
        return (dict, *((key, flatten(item, tensors, places)) for key, item in value.items()))
    if not is_plain(value):
        raise NotCompared(
            f"an argument is a {type(value).__name__}, which is not compared by value"
        )
    return identity(value)


class NotCompared(Exception):
    """An argument that is neither a tensor nor compared by value."""


class PureStep(Compiled):
    """A function that is recorded once for each signature and replayed from then on."""

    def __init__(
        self, function: Callable[..., Any], explain: bool = False, warn: bool = True
    ) -> None:
        super().__init__(function)
        self._explain, self._warn = explain, warn
        self._replays: dict[Any, list[Replay]] = {}
        self._recordings = 0
        self._eager: str | None = None
        self._full = False  # whether recordings have had to be left out
        self._latest: Replay | None = None  # that was recorded
        self._enter: Callable[[Any], Any] | None = None  # into the latest replay
        self._last_modes: Any = None  # all modes of the thread, as they were then
        self._by_shapes: dict[Any, Replay] = {}  # those with a fast way in, the latest of each kind
        self._time = 0  # counts on where another replay is used than before, or none
        self._waiting: dict[Any, tuple[int, int]] = {}  # when first called, and the calls since

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        known = self._last_modes
        if modes.__dict__ == known and not kwargs and is_silent():
            with self._lock:
                if self._last_modes is known:
                    result = MISSED if self._enter is None else self._enter(args)
                    if result is MISSED and len(self._by_shapes) > 1:
                        result = self._by_another(args)
                    if result is not MISSED:
                        return result
        return self._anew(args, kwargs)

    @silent
    def _anew(self, args: Any, kwargs: Any) -> Any:
        """A call that is not like the latest one."""
        if self._eager is not None or modes.anomaly or modes.saved_hooks or on_tensors():
            return self._function(*args, **kwargs)
        with self._lock:
            signature, inputs, replay = self._known(args, kwargs)
            if isinstance(signature, NotCompared):
                self.give_up(str(signature))
                return self._function(*args, **kwargs)
            if replay is None:
                return self._record(signature, inputs, args, kwargs)
            if replay.events:
                return self._compared(replay.events, inputs, args, kwargs)
            self._use(replay)
            if self._last_modes != modes.__dict__:
                self._by_shapes.clear()
                self._last_modes = modes.__dict__.copy()
            self._enter = None
            if replay.watch is None and not kwargs and all(type(x) is Tensor for x in args):
                self._enter = replay.enter
                self._by_shapes[tuple(x._array.shape for x in inputs)] = replay
            if replay.plan.cannot_run():
                result = self._function(*args, **kwargs)
                replay.plan.ran_eagerly()
                self._enter = None  # the next replay takes the long way, which counts anew
                return result
            return replay(inputs)

    def _known(self, args: Any, kwargs: Any) -> tuple[Any, list[Tensor], Replay | None]:
        """What tells a call from others, its tensors, and the recording that may be replayed."""
        inputs: list[Tensor] = []
        try:
            signature = flatten((args, kwargs), inputs), (modes.grad, modes.inference, modes.rings)
        except NotCompared as reason:
            return reason, inputs, None
        replays = self._replays.get(signature, ())
        return signature, inputs, next((r for r in replays if r.holds()), None)

    def _by_another(self, args: Sequence[Any]) -> Any:
        """The result of a replay that is not the latest, whose arguments had these shapes;
        MISSED where there is none."""
        shapes = tuple([type(x) is Tensor and x._array.shape for x in args])
        replay: Any = self._by_shapes.get(shapes)
        result = MISSED if replay is None or replay.watch is not None else replay.enter(args)
        if result is not MISSED:
            self._use(replay)
            self._enter = replay.enter
        return result

    def _use(self, replay: Replay) -> None:
        """Notes that another replay is used than before."""
        self._time += 1
        replay.used = self._time

    def _has_room(self, signature: Any, replays: list[Replay]) -> bool:
        """Whether one more recording may be kept; that which was used least goes for one that is
        called again and again meanwhile."""
        every = [r for those in self._replays.values() for r in those]
        rivals = replays if len(replays) >= FEW_PLANS else every
        few = len(every) < FEW_PLANS or sum(r.bytes for r in every) <= MOST_PLAN_BYTES
        if rivals is every and len(every) < MOST_PLANS and few:
            return True
        if not self._full:
            self._full = True
            self._tell(f"it was recorded {len(rivals)} times, each time for other shapes or values")
        self._time += 1
        self._enter = None  # the next replay takes the long way, which counts anew
        least = min(rivals, key=lambda r: r.used)
        since, calls = self._waiting.pop(signature, (self._time, 0))
        if least.used > since:
            since, calls = self._time, 0
        if calls + 1 < CALLS_TO_EXCHANGE:
            if len(self._waiting) >= MOST_PLANS:
                self._waiting.clear()
            self._waiting[signature] = (since, calls + 1)
            return False
        self._let_go_of(least)
        return True

    def _let_go_of(self, replay: Replay) -> None:
        """Forgets a recording, and what leads to it."""
        self._replays = {
            signature: left
            for signature, replays in self._replays.items()
            if (left := [r for r in replays if r is not replay])
        }
        self._by_shapes.clear()

    def _record(self, signature: Any, inputs: list[Tensor], args: Any, kwargs: Any) -> Any:
        """Runs the function as it is and keeps a recording of it among those for its
        signature."""
        if not self._has_room(signature, self._replays.get(signature, [])):
            return self._function(*args, **kwargs)
        if any(x._requires_grad for x in inputs):
            self.give_up("an argument requires grad; only what the function refers to may")
            return self._function(*args, **kwargs)
        with Recorder(inputs) as recorder:
            # The bits of a large product may depend on the number of threads; those of tiles do
            # not.
            large = not inputs or sum(x._array.nbytes for x in inputs) >= WORTHWHILE_BYTES
            recorder.settle = settle if large and not CHECK else None
            with one_blas_thread() if large else contextlib.nullcontext():
                result = self._function(*args, **kwargs)
        self._recordings += 1
        recorder.check(result)
        reason = recorder.refusal or unfit(recorder)
        if reason:
            self.give_up(reason)
            return result
        events = events_of(recorder) if CHECK else []
        replay = Replay(recorder, result, inputs, self._name if self._warn else "")
        replay.events = events
        if self._explain:
            replay.watch = lambda: print(replay.explained(self._name))
        self._latest = replay
        self._use(replay)
        self._replays.setdefault(signature, []).append(replay)
        if recorder.settle is not None and replay.plan.tiled:
            settle(recorder)
        return result

    def _compared(self, recorded: Any, inputs: Any, args: Any, kwargs: Any) -> Any:
        """Runs the function as it is; RuntimeError where it does something else than recorded."""
        with Recorder(inputs) as recorder:
            result = self._function(*args, **kwargs)
        if recorder.refusal is not None:
            raise RuntimeError(f"NANOTORCH_CHECK: {recorder.refusal}; a pure step does not")
        compare(self._name, recorded, events_of(recorder))
        return result

    def give_up(self, reason: str) -> None:
        """Leaves the function eager, and says why, once."""
        self._eager, self._last_modes = reason, None
        self._replays.clear()
        self._tell(reason)

    def _tell(self, reason: str) -> None:
        """Warns that calls are eager."""
        if self._warn:
            message = f"compile: {self._name} runs eagerly: {reason}"
            warnings.warn_explicit(message, UserWarning, *(line_outside() or ("", 0)))

    def plan(self) -> Explanation:
        """What the latest recording does in a replay, with the times that `explain` took, if any.

        Nothing is run. RuntimeError where nothing is recorded.
        """
        if self._latest is None:
            raise self._without_plan()
        return self._latest.explained(self._name)

    def _without_plan(self, arguments: str = "") -> RuntimeError:
        """Why there is nothing to be explained."""
        if self._eager is None:
            why = f"is not recorded{arguments} yet; call it once first"
        else:
            why = f"runs eagerly, so it has no plan: {self._eager}"
        return RuntimeError(f"explain: {self._name} {why}")

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Calls the function once more, with a stopwatch, and says what takes how long.

        The call is a step like any other. After several calls of `explain`, times are medians.
        RuntimeError where nothing is recorded for these arguments.
        """
        with self._lock:
            replay = self._known(args, kwargs)[2]
            if replay is None:
                raise self._without_plan(" with these arguments")
            replay.watch, self._enter = lambda: None, None
            self(*args, **kwargs)
            replay.watch = None
            return replay.explained(self._name)

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
                _, one, replay = self._known(slices(stacked, 0), {})
                if replay is not None:
                    results = replay.several(count, stacked)
                    if results is not None:
                        return results
                    first = replay.first_of_several(count, one)
            results = [self(*slices(stacked, 0)) if first is None else first]
            results += [self(*slices(stacked, k)) for k in range(1, count)]
            return stack_results(results)
