"""A compiled step: Python runs at every call, and what it applies is matched with earlier calls."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

from nanotorch.autograd.rings import SILENCE, modes
from nanotorch.autograd.walk import on_tensors
from nanotorch.backend import silence
from nanotorch.compile.explanation import Explanation
from nanotorch.compile.matcher import Matcher, Paths
from nanotorch.compile.path_plan import TimedMatcher, explained
from nanotorch.compile.stacks import length_of, slices, stack_results
from nanotorch.tensor import Tensor


class Compiled:
    """A function in the place of the user's, whose name and documentation it has."""

    def __init__(self, function: Callable[..., Any]) -> None:
        wrapper: Any = self
        functools.update_wrapper(wrapper, function, updated=())
        self._function = function
        # What is computed in is there once; and a live call may lead here again.
        self._lock = threading.RLock()

    @property
    def _name(self) -> str:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return str(name).rpartition("<locals>.")[2]


class Step(Compiled):
    """A function whose applications are matched with the paths of its earlier calls."""

    def __init__(self, function: Callable[..., Any], explain: bool = False) -> None:
        super().__init__(function)
        self._paths = Paths()
        self._calls_to_explain = 3 if explain else 0  # calls until the plan is printed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if warnings.filters[0] is not silence.foremost:
            silence.hold_back()
        rings = modes.rings
        within = rings and any(isinstance(ring, Matcher) for ring in rings)  # another step
        if within or modes.listener is not SILENCE or (rings and on_tensors()):
            return self._function(*args, **kwargs)
        if not self._lock.acquire(False):  # another thread's call is matched
            return self._function(*args, **kwargs)
        try:
            if self._calls_to_explain:
                self._calls_to_explain -= 1
                if not self._calls_to_explain:
                    result, explanation = self._timed(args, kwargs)
                    print(explanation)
                    return result
            matcher = Matcher(self._paths, self._lock, modes.__dict__, rings)
            try:
                return self._function(*args, **kwargs)
            finally:
                matcher.close(rings)
        finally:
            self._lock.release()

    def _timed(self, args: Any, kwargs: Any) -> tuple[Any, Explanation]:
        """A call with a stopwatch around each kernel, and what it found."""
        rings = modes.rings
        matcher = TimedMatcher(self._paths, self._lock, modes.__dict__, rings)
        try:
            result = self._function(*args, **kwargs)
        finally:
            matcher.close(rings)
        return result, explained(self._name, self._paths.path(), matcher.took)

    def plan(self) -> Explanation:
        """What the latest call's path consists of; nothing is run.

        RuntimeError where nothing has been called yet.
        """
        if self._paths.latest is None:
            raise RuntimeError(f"explain: {self._name} was not called yet; call it once first")
        return explained(self._name, self._paths.path(), {})

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Calls the function once more, with a stopwatch, and says what takes how long.

        The call is a step like any other. What is left to the engine is named, with the reason.
        """
        with self._lock:
            return self._timed(args, kwargs)[1]

    def steps(self, *stacked: Tensor) -> Any:
        """The function on each slice of the arguments along their first dimension, in order.

        stacked: tensors (K, …), with the same K >= 1. Returns the results of the K steps, stacked
        as (K, …); what is no tensor is that of the last step.
        """
        return stack_results([self(*slices(stacked, k)) for k in range(length_of(stacked))])
