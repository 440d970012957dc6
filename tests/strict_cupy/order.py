"""Whether work of several streams is in order: each array's last writer and readers are known.

The look-alike does at once what a device would do later. So that work which a device may do in the
wrong order shows all the same, each stream counts what it is given, and knows how far every other
stream has surely come before its next work: by events, or because the host has waited. Reading what
another stream wrote, or writing what another one reads or wrote, without that knowledge raises
OutOfOrder. So does pinned memory that is written before a copy out of it is known to be done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy

Mark = tuple[int, int]  # a queue, and how much it had been given


class OutOfOrder(AssertionError):
    """Work that nothing keeps from running before what it depends on."""


class Queue:
    """What a stream, or the host, knows to be done: a count for each queue of work."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(Queue._numbers)
        self.seen: dict[int, int] = {}

    def given(self) -> Mark:
        """Counts one piece of work of its own."""
        self.seen[self.number] = self.seen.get(self.number, 0) + 1
        return self.number, self.seen[self.number]

    def after(self, seen: dict[int, int]) -> None:
        """What comes next comes after all that is seen there."""
        for number, count in seen.items():
            self.seen[number] = max(self.seen.get(number, 0), count)

    def knows(self, mark: Mark) -> bool:
        return max(self.seen.get(mark[0], 0), HOST.seen.get(mark[0], 0)) >= mark[1]


class Uses:
    """The last write of an array's memory, and the last read by each queue since."""

    def __init__(self, maker: Queue) -> None:
        self.write: Mark = maker.given()
        self.reads: dict[int, int] = {}


HOST = Queue()
_copies: list[tuple[Any, Any, Mark]] = []  # pinned memory, what was copied out of it, and when


def _uses(array: Any) -> Uses:
    """Of the memory that an array or a view shows."""
    while array._base is not None:
        array = array._base
    return array._uses  # type: ignore[no-any-return]


def reads(arrays: Iterable[Any], queue: Queue, name: str) -> None:
    """Work of a stream reads the arrays."""
    for array in arrays:
        uses = _uses(array)
        if not queue.knows(uses.write):
            raise OutOfOrder(f"{name}: reads what another stream wrote, with no event between")
        number, count = queue.given()
        uses.reads[number] = count


def writes(arrays: Iterable[Any], queue: Queue, name: str) -> None:
    """Work of a stream writes the arrays."""
    for array in arrays:
        uses = _uses(array)
        if not all(queue.knows(mark) for mark in (uses.write, *uses.reads.items())):
            raise OutOfOrder(f"{name}: writes what another stream uses, with no event between")
        uses.write, uses.reads = queue.given(), {}


def copies_pinned(memory: Any, queue: Queue) -> None:
    """A stream copies out of pinned memory of the host, while the host goes on."""
    check_pinned()
    _copies.append((memory, memory.copy(), queue.given()))


def host_waited(seen: dict[int, int]) -> None:
    """The host knows that this much is done."""
    check_pinned()
    HOST.after(seen)
    _copies[:] = [copy for copy in _copies if not HOST.knows(copy[2])]


def check_pinned() -> None:
    """What is still being copied must be as it was."""
    for memory, copied, _ in _copies:
        if not numpy.array_equal(memory, copied, equal_nan=memory.dtype.kind in "fc"):
            _copies.clear()
            raise OutOfOrder("pinned memory was written before the copy out of it was done")
