"""Threads that compute side by side, such as tiles of a batch, and wait for more work afterwards.

Apart from `threads`, so that `import nanotorch` loads no queues.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


def side_by_side(work: Callable[[int], None], count: int) -> None:
    """work(0), work(1), … in so many threads, of which the calling one is the first.

    The others wait for more work afterwards: to start one takes as long as a small product.
    """
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    helpers = [_idle.pop() if _idle else _Helper() for _ in range(1, count)]
    allowed, processors = _processors() if helpers else (set(), set())
    for number, helper in enumerate(helpers, 1):
        helper.keep_to(processors)
        helper.inbox.put((work, number, done))
    try:
        _keep(0, allowed - processors)
        work(0)
    finally:
        _keep(0, allowed)
        errors = [done.get() for _ in helpers]
        _idle.extend(helpers)
    for error in errors:
        if error is not None:
            raise error


def _processors() -> tuple[set[int], set[int]]:
    """The processors that this thread may run on, with and without the one it is on; empty if
    unknown, or if there is no other.

    Linux wakes a thread where its waker runs, and moves it to an idle processor only after
    milliseconds: by then work as short as ours is done, one part after the other. So helpers keep
    off the caller's processor, and the caller, whom they wake as well, to its own meanwhile.
    """
    if _processor is None or not hasattr(os, "sched_setaffinity"):
        return set(), set()
    allowed = os.sched_getaffinity(0)
    others = allowed - {_processor()}
    return (allowed, others) if others else (set(), set())


def _keep(thread: int, processors: set[int]) -> None:
    """Lets a thread, 0 is this one, run on these processors alone, where there are any."""
    if processors:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, processors)


class _Helper:
    """A thread that waits for work."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self._processors: set[int] = set()
        self._thread = threading.Thread(target=_serve, args=(self.inbox,), daemon=True)
        self._thread.start()

    def keep_to(self, processors: set[int]) -> None:
        """Lets the thread run on these processors alone, where there are any."""
        if processors and processors != self._processors:
            _keep(self._thread.native_id or 0, processors)
            self._processors = processors


_processor: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
_idle: list[_Helper] = []  # those without work
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a child has none of its parent's threads


def _serve(inbox: SimpleQueue[Any]) -> None:
    """The life of a thread: does what comes, and tells of each when it is done."""
    while True:
        work, number, done = inbox.get()
        try:
            work(number)
            error = None
        except BaseException as caught:
            error = caught
        done.put(error)
        del work, done, error  # nothing is kept alive by a thread that waits
