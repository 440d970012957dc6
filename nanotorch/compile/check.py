"""Whether a pure step still does what it was recorded with, application by application."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from nanotorch.backend import MODULES
from nanotorch.compile.lines import RANDOM
from nanotorch.compile.recorder import Kernel, Live, Recorder, Where, place_text
from nanotorch.compile.values import identity, is_plain

CHECK = os.environ.get("NANOTORCH_CHECK") == "1"


class Event(NamedTuple):
    """What a step did: a name, all that tells it from other events, and the user's line."""

    name: str
    what: Any
    where: Where | None


def events_of(recorder: Recorder) -> list[Event]:
    """What a recorded step did, in order; arrays are named by where they come from."""
    sources: dict[int, Any] = {id(a): ("argument", n) for n, a in enumerate(recorder.inputs)}

    def source(value: Any) -> Any:
        if type(value) in MODULES:
            return sources.get(id(value), ("memory", id(value)))
        if isinstance(value, tuple):
            return tuple(map(source, value))
        return identity(value) if is_plain(value) else type(value)

    events: list[Event] = []
    for number, step in enumerate(recorder.steps):
        what: Any
        if isinstance(step, Kernel):
            options = tuple((key, source(value)) for key, value in step.attributes.items())
            out = step.out
            target = source(out) if step.into_existing else (out.shape, out.dtype, out.strides)
            what = step.primitive, tuple(map(source, step.operands)), options, target
            name = step.primitive.title()
        elif isinstance(step, Live):
            call: Any = step.call
            out, name = step.result, call.func.__name__
            what = (call.func, id(call.args[0]) if hasattr(call.args[0], "__dict__") else None)
        else:
            out, name = step.out, RANDOM
            what = (out.shape, out.dtype)
        sources.setdefault(id(out), ("made", number))
        events.append(Event(name, what, getattr(step, "where", None)))
    return events


def compare(name: str, recorded: Sequence[Event], now: Sequence[Event]) -> None:
    """RuntimeError that names the first event in which a step differs from its recording."""
    nothing = Event("nothing more", None, None)
    for before, after in itertools.zip_longest(recorded, now, fillvalue=nothing):
        if before.what != after.what:
            where = place_text((after if after.where else before).where)
            same = " on other operands or with other options" if before.name == after.name else ""
            raise RuntimeError(
                f"NANOTORCH_CHECK: {where}{name} was recorded with {before.name} here, and now "
                f"there is {after.name}{same}; a pure step does the same for the same arguments"
            )
