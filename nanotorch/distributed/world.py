"""The ranks of a job and what they do together: on MPI, or alone.

No wait is without end. Every operation is started without blocking and asked for until it is done;
a rank that waits for longer than `timeout` calls the roll and names those that do not answer. What
is said of an operation in errors is its `what`, such as "step 31".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.distributed.launcher import (
    launched,
    not_installed,
    process_state,
    singletons,
    stopped_ranks,
)

TIMEOUT = 300.0  # seconds
SPIN = 200e-6  # seconds in which a wait asks without a pause, as most are over by then
LONGEST_PAUSE = 1e-3  # a pause is a hundredth of what was waited: MPI moves data while it is asked
ANSWER = 1.0  # seconds that a rank has to answer when the roll is called
GRACE = 0.3  # seconds in which an operation may still end after one of its ranks has left
ASK, HERE, LEFT = 1, 2, 3  # tags of the messages beside operations
TEXT = 120  # bytes of a message
Array = NDArray[Any]


class DistError(RuntimeError):
    """Ranks cannot go on together; says which rank is the cause."""


class Alone:
    """A world of one rank, in which every operation is done before it begins."""

    rank, size = 0, 1

    def reduce(self, values: Array, operation: str, what: str) -> Array:
        return values

    def broadcast(self, values: Array, source: int, what: str) -> Array:
        return values

    def gather(self, values: Array, what: str) -> Array:
        """The arrays of all ranks, which have one shape and dtype, along a new first dimension."""
        return values[None]

    def collect(self, values: Array, what: str) -> list[Array] | None:
        """On rank 0 the arrays of all ranks, whose first dimensions may differ; None elsewhere."""
        return [values]

    def exchange(self, values: Array, what: str) -> Array:
        """What all ranks have for this one, (sender, …), out of what each has for all."""
        return values

    def barrier(self, what: str) -> None:
        pass

    def abort(self, code: int) -> None:
        """End the processes of all ranks; a world of one leaves that to its caller."""

    def leave(self) -> None:
        """Part, once every rank has come to this point."""


class World:
    """All ranks that one launcher started, on MPI."""

    def __init__(self, mpi: Any, timeout: float, finalizes: bool) -> None:
        self._mpi, self.timeout, self._finalizes = mpi, timeout, finalizes
        self.rank, self.size = mpi.COMM_WORLD.Get_rank(), mpi.COMM_WORLD.Get_size()
        self._outbox: list[Any] = []
        self._gone: dict[int, float] = {}  # ranks that have left, and when that was noticed
        self._who: list[tuple[str, int]] = []
        self._where = socket.gethostname()
        # MPI's own way is to end the process without a word of Python.
        mpi.COMM_WORLD.Set_errhandler(mpi.ERRORS_RETURN)
        self._between = mpi.COMM_WORLD  # until there is a communicator of ours
        ours, request = mpi.COMM_WORLD.Idup()
        self._wait(request, "the start")
        self._between = ours
        self._between.Set_errhandler(mpi.ERRORS_RETURN)
        self._who = [
            (bytes(row[8:]).rstrip(b"\0").decode(), int(row[:8].view(np.int64)[0]))
            for row in self.gather(_name(self._where, os.getpid()), "the start")
        ]

    # --- operations ------------------------------------------------------------------------------

    def reduce(self, values: Array, operation: str, what: str) -> Array:
        """The sum, or what else MPI calls `operation`, over the arrays of all ranks."""
        out = np.empty_like(values)
        kind = getattr(self._mpi, operation)
        self._wait(self._between.Iallreduce(values, out, kind), what)
        return out

    def broadcast(self, values: Array, source: int, what: str) -> Array:
        self._wait(self._between.Ibcast(values, source), what)
        return values

    def gather(self, values: Array, what: str) -> Array:
        out = np.empty((self.size, *values.shape), values.dtype)
        self._wait(self._between.Iallgather(_bytes(values), _bytes(out)), what)
        return out

    def collect(self, values: Array, what: str) -> list[Array] | None:
        shape = values.shape[1:]
        rows = self.gather(np.array(len(values)), what)
        total = np.empty((int(rows.sum()) if self.rank == 0 else 0, *shape), values.dtype)
        width = values.dtype.itemsize * int(np.prod(shape))
        layout = (_bytes(total), [int(count) * width for count in rows])
        into = layout if self.rank == 0 else None
        self._wait(self._between.Igatherv(_bytes(values), into), what)
        return np.split(total, np.cumsum(rows)[:-1]) if self.rank == 0 else None

    def exchange(self, values: Array, what: str) -> Array:
        out = np.empty_like(values)
        self._wait(self._between.Ialltoall(_bytes(values), _bytes(out)), what)
        return out

    def barrier(self, what: str) -> None:
        self._wait(self._between.Ibarrier(), what)

    # --- waiting ---------------------------------------------------------------------------------

    def _wait(self, request: Any, what: str) -> None:
        """Until the operation is done; DistError if a rank does not come to it in time."""
        done = request.Test
        if done():
            return
        start = time.perf_counter()
        while time.perf_counter() - start < SPIN:
            if done():
                return
        while not done():
            self._listen(what)
            now = time.perf_counter()
            if now - start > self.timeout:
                self._call_the_roll(what)
            for rank, since in self._gone.items():
                if now - since > GRACE:
                    raise DistError(f"{self.name(rank)} has ended, and the others are in {what}")
            time.sleep(min(LONGEST_PAUSE, (now - start) / 100))

    def _messages(self) -> Iterator[tuple[int, int, str]]:
        """The messages that have come: from which rank, with which tag and text."""
        mpi, status = self._mpi, self._mpi.Status()
        while self._between.Iprobe(mpi.ANY_SOURCE, mpi.ANY_TAG, status):
            text = bytearray(TEXT)
            rank, tag = status.Get_source(), status.Get_tag()
            self._between.Recv([text, mpi.BYTE], rank, tag)
            yield rank, tag, bytes(text).rstrip(b"\0").decode(errors="replace")

    def _send(self, rank: int, tag: int, text: str = "") -> None:
        message = bytearray(text.encode()[:TEXT].ljust(TEXT, b"\0"))
        self._outbox = [entry for entry in self._outbox if not entry[0].Test()]
        request = self._between.Isend([message, self._mpi.BYTE], rank, tag)
        self._outbox.append((request, message))

    def _listen(self, what: str) -> dict[int, str]:
        """Answer those that ask, note those that leave; what others say they are in."""
        places = {}
        for rank, tag, text in self._messages():
            if tag == LEFT:
                self._gone[rank] = time.perf_counter()
                continue
            places[rank] = text
            if tag == ASK:
                self._send(rank, HERE, what)
        return places

    def _call_the_roll(self, what: str) -> None:
        """Raise DistError with the ranks that do not answer."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        for rank in others:
            self._send(rank, ASK, what)
        places = {self.rank: what}
        end = time.perf_counter() + ANSWER
        while time.perf_counter() < end and len(places) < self.size:
            places |= self._listen(what)
            time.sleep(LONGEST_PAUSE)
        silent = [rank for rank in others if rank not in places and rank not in self._gone]
        waited = f"waited {self.timeout:g} s in {what}"
        if silent:
            raise DistError(f"{waited}: no answer from {', '.join(map(self.name, silent))}")
        said = ", ".join(f"rank {rank} in {place}" for rank, place in sorted(places.items()))
        raise DistError(f"{waited}: the ranks wait for each other, {said}")

    def name(self, rank: int) -> str:
        """The rank with its process and machine, and what this machine knows of it."""
        if not self._who:
            return f"rank {rank}"
        machine, process = self._who[rank]
        state = process_state(process) if machine == self._where else ""
        return f"rank {rank} ({state + ', ' if state else ''}process {process} on {machine})"

    @property
    def machines(self) -> list[str]:
        """The machine of each rank."""
        return [machine for machine, _ in self._who]

    # --- the end ---------------------------------------------------------------------------------

    def abort(self, code: int) -> None:
        """End the processes of all ranks at once, with this exit code."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        self._mpi.COMM_WORLD.Abort(code)

    def leave(self) -> None:
        """Part, once every rank has come to this point; DistError if one does not in time."""
        what = "the end"
        for rank in range(self.size):
            if rank != self.rank:
                self._send(rank, LEFT)
        start = time.perf_counter()
        while len(self._gone) < self.size - 1:
            self._listen(what)
            if time.perf_counter() - start > self.timeout:
                self._call_the_roll(what)
            time.sleep(LONGEST_PAUSE)
        while not all(request.Test() for request, _ in self._outbox):
            time.sleep(LONGEST_PAUSE)
        if self._finalizes and not self._mpi.Is_finalized():
            _within(self.timeout, _library(self._mpi).MPI_Finalize, what)


def _name(machine: str, process: int) -> Array:
    row = np.zeros(8 + 64, np.uint8)
    row[:8].view(np.int64)[0] = process
    letters = machine.encode()[:64]
    row[8 : 8 + len(letters)] = np.frombuffer(letters, np.uint8)
    return row


def _bytes(values: Array) -> Array:
    return values.reshape(-1).view(np.uint8)


def _library(mpi: Any) -> Any:
    """MPI's own functions: unlike mpi4py's, a call through ctypes lets other threads run."""
    return ctypes.CDLL(mpi.__file__)


def _within(timeout: float, call: Callable[[], Any], what: str) -> None:
    """Make a call of MPI that ends when every rank makes it; end the process if it does not."""

    def complain() -> None:
        stopped = ", ".join(f"rank {rank}" for rank in stopped_ranks())
        words = f"{stopped} is stopped" if stopped else "not every rank has come to it"
        print(f"rank {launched()[2]}: waited {timeout:g} s in {what}: {words}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # which the launcher takes for the end of the job

    watch = threading.Timer(timeout, complain)
    watch.daemon = True
    with contextlib.suppress(RuntimeError):  # at its end, a process may start no thread any more
        watch.start()
    try:
        call()
    finally:
        watch.cancel()


def join(timeout: float = TIMEOUT) -> Alone | World:
    """The world that the launcher of this process made: several ranks on MPI, or one without it.

    DistError where a launcher started several processes that cannot find each other.
    """
    launcher, size, _ = launched()
    if size == 1:
        return Alone()
    try:
        import mpi4py
    except ImportError:
        raise DistError(not_installed(launcher, size)) from None
    if "mpi4py.MPI" not in sys.modules:
        mpi4py.rc(initialize=False, finalize=False)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise DistError(f"mpi4py finds no MPI library: {error}; install one") from None
    finalizes = not MPI.Is_initialized()
    if finalizes:
        level = ctypes.c_int()
        start = _library(MPI).MPI_Init_thread
        _within(
            timeout,
            lambda: start(None, None, int(MPI.THREAD_SERIALIZED), ctypes.byref(level)),
            "the start",
        )
    if MPI.COMM_WORLD.Get_size() == 1:
        library = MPI.Get_library_version().split(",")[0].strip()
        raise DistError(singletons(launcher, size, library))
    return World(MPI, timeout, finalizes)
