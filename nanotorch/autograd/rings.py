"""The core's two doors: rings, which read primitives around the engine, and a listener.

A ring is an interpreter of primitives that a context opens for its thread: it may change what is
applied, compute something beside it, or answer itself. `modes.rings` holds the open ones in the
order of their ranks; the engine is asked last. The listener is told of what is no application of a
primitive. The core knows neither by name.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Rings = tuple["Ring", ...]


class Ring:
    """Reads each primitive before the engine does; a subclass defines `__call__` and `write`.

    `rest` are the rings between this one and the engine: `engine.go_on` and `inplace.go_on_writing`
    hand the primitive on to them.
    """

    rank: ClassVar[int] = 0  # the open ring of the lowest rank is asked first
    reads_rules = False  # backward computes its rules on tensors, so that this ring reads them too
    closed_in_backward = False  # the ring is closed while backward runs
    casts = False  # it casts operands, so that ops accept operands of several dtypes

    def __call__(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        """y = primitive(inputs)."""
        raise NotImplementedError

    def write(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        """inputs[0] := primitive(inputs), in its own memory; returns inputs[0]."""
        raise NotImplementedError

    def call(self, how: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """function(*args, **kwargs), marked `in_precision(how)`; only rings that cast are asked."""
        raise NotImplementedError

    def note(self, x: Any) -> dict[str, Any]:
        """What the printed tensor says of it, by name."""
        return {}


class Listener:
    """What is told of all that happens beside applications of primitives; this one does nothing."""

    def copied(self, copy: Any, x: Any) -> None:
        """`copy` took x's elements before they are written to."""

    def walking(self, node: Any) -> None:
        """A backward pass comes to a node."""

    def deposited(self, leaf: Any, before: Any) -> None:
        """Backward added to the leaf's gradient, which was `before` (None: there was none)."""

    def assigned(self, leaf: Any, value: Any) -> None:
        """A leaf's gradient was set by hand."""

    def drew(self, x: Any, fill: Callable[[Any], Any]) -> None:
        """Random numbers are drawn into x by fill(array)."""

    def called(self, module: Any) -> None:
        """A module is called."""

    def read(self, what: str) -> None:
        """Values leave the tensors for Python, or come from it: `what` says how."""

    def live(self, method: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        """A call that depends on what its owner holds at that moment, such as optimizer.step()."""
        return method(owner, *args, **kwargs)


SILENCE = Listener()
_states: dict[int, dict[str, Any]] = {}  # of each thread, its modes


class Modes(threading.local):
    """What the engine asks at each application, for this thread."""

    rings: Rings = ()
    listener = SILENCE
    grad = True  # record operations on tensors that require grad
    inference = False  # results can never be recorded later
    anomaly = ""  # "lines": remember the line that made each node; "nan": refuse NaN as well
    saved_hooks: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None
    hooks_refused: str | None = None  # why saved-tensor hooks may not be used, where they may not

    def __init__(self) -> None:
        _states[threading.get_ident()] = self.__dict__


modes = Modes()


def with_ring(rings: Rings, ring: Ring) -> Rings:
    """The rings with one more, in the order of their ranks; the latest is first among equals."""
    place = sum(1 for other in rings if other.rank < ring.rank)
    return (*rings[:place], ring, *rings[place:])


def without_ring(rings: Rings, ring: Ring) -> Rings:
    """The rings without one."""
    return tuple(other for other in rings if other is not ring)


class opened:  # noqa: N801 - reads as a word in `with opened(ring)`
    """Within the block a ring is open in this thread."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    def __enter__(self) -> Any:
        modes.rings = with_ring(modes.rings, self.ring)
        return self.ring

    def __exit__(self, *error: object) -> None:
        modes.rings = without_ring(modes.rings, self.ring)


class closed:  # noqa: N801 - reads as a word in `with closed(ring)`
    """Within the block these rings do not read what is applied in this thread."""

    def __init__(self, *rings: Ring) -> None:
        self.rings: Sequence[Ring] = rings

    def __enter__(self) -> None:
        self.rings = [ring for ring in self.rings if ring in modes.rings]
        for ring in self.rings:
            modes.rings = without_ring(modes.rings, ring)

    def __exit__(self, *error: object) -> None:
        for ring in self.rings:
            modes.rings = with_ring(modes.rings, ring)


def open_everywhere(ring: Ring) -> None:
    """Opens a ring in all threads, those to come included, from now on."""
    shared = Modes.rings
    for state in _states.values():
        state["rings"] = with_ring(state.get("rings", shared), ring)
    Modes.rings = with_ring(shared, ring)


def in_precision(how: str) -> Callable[[Function], Function]:
    """Says in what precision a function of several primitives is computed, as if it were one.

    "full": in float32. "short": in 16 bits. "own": in the dtypes of its arguments.
    """

    def decorated(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for ring in modes.rings:
                if ring.casts:
                    return ring.call(how, function, args, kwargs)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorated


def live(method: Function) -> Function:
    """Marks a method that depends on what its owner holds at that moment; the listener is told."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if modes.listener is SILENCE:
            return method(self, *args, **kwargs)
        return modes.listener.live(method, self, args, kwargs)

    return call  # type: ignore[return-value]
