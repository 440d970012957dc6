"""Threads that compute side by side, such as tiles of a batch, and wait for more work afterwards.

Apart from `threads`, so that `import nanotorch` loads no queues.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


def side_by_side(work: Callable[[int], None], count: int) -> None:
    """work(0), work(1), … in so many threads, of which the calling one is the first.

    The others wait for more work afterwards: to start one takes as long as a small product. Where
    there is one other processor, and that is busy, the calling thread does everything.
    """
    allowed, processors = _processors() if count > 1 else (set(), set())
    if len(processors) == 1 and others_are_busy():
        for number in range(count):
            work(number)
        return
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    helpers = [_idle.pop() if _idle else _Helper() for _ in range(1, count)]
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


LATELY = 0.01  # seconds: the system counts the time of a thread that is running in steps
_reading, _busy = (0.0, 0.0), False


def others_are_busy() -> bool:
    """Whether other threads of this process than ours took more than half of a processor lately.

    OpenBLAS's look out for work, at full speed, for a tenth of a second after each product that
    they shared, and a thread of ours waits for milliseconds until it has its turn behind them.
    """
    global _reading, _busy
    now, before = time.perf_counter(), _reading
    if now - before[0] > LATELY and hasattr(time, "pthread_getcpuclockid"):
        ours = time.thread_time() + sum(helper.seconds() for helper in _helpers)
        _reading = now, time.process_time() - ours
        _busy = _reading[1] - before[1] > (now - before[0]) / 2
    return _busy


class _Helper:
    """A thread that waits for work."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self._processors: set[int] = set()
        self._thread = threading.Thread(target=_serve, args=(self.inbox,), daemon=True)
        self._thread.start()
        _helpers.append(self)

    def seconds(self) -> float:
        """How long it has been running on a processor."""
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident or 0))

    def keep_to(self, processors: set[int]) -> None:
        """Lets the thread run on these processors alone, where there are any."""
        if processors and processors != self._processors:
            _keep(self._thread.native_id or 0, processors)
            self._processors = processors


_processor: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
_helpers: list[_Helper] = []
_idle: list[_Helper] = []  # those without work
if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_idle.clear)
    os.register_at_fork(after_in_child=_helpers.clear)


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
