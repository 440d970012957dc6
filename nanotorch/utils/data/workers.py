"""Worker processes of a DataLoader: each makes whole batches, which the loader puts in order.

The loader and each worker talk over a socket of their own. There is no lock or queue that a killed
process could leave locked, and its end of the socket closes with it. Tasks and results, and which
worker gets which task, are PyTorch's, and so are the numbers for a seed.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import queue
import random
import signal
import socket
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import numpy

from nanotorch.backend import forbid_cuda, set_num_threads
from nanotorch.random import default_generator
from nanotorch.utils.data.dataset import IterableDataset
from nanotorch.utils.data.fetching import fetcher
from nanotorch.utils.data.messages import Message, packed, receive, send

PATIENCE = 5.0  # seconds that a worker has to finish its batch when nobody waits for it any more


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this process is: its number, how many there are, its seed and its dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """What an IterableDataset needs to yield its worker's share of the items; None in the process
    that has no loader above it."""
    return _info


class Job(NamedTuple):
    """What all workers of a loader are told when they start."""

    dataset: Any
    collate_fn: Callable[[Any], Any]
    batched: bool
    drop_last: bool
    base_seed: int
    num_workers: int
    worker_init_fn: Callable[[int], None] | None


class Pass(NamedTuple):
    """Tells a worker that the tasks of a new pass over the dataset follow."""

    number: int


class Task(NamedTuple):
    """A batch to make: its place in the pass and the numbers of its items."""

    place: int
    indices: Any


class Result(NamedTuple):
    """The batch of a task, or the failure to make it."""

    number: int  # of the pass
    place: int
    batch: Any


class End(NamedTuple):
    """In place of a batch: the worker's share of an IterableDataset has no more items."""


class Failure(NamedTuple):
    """In place of a batch: the type of the exception and its traceback as text."""

    kind: type[BaseException]
    text: str

    def exception(self) -> BaseException:
        """An exception of that type whose message is the text."""
        if issubclass(self.kind, KeyError):  # which shows the repr of its argument
            return self.kind(_Text(self.text))
        if getattr(self.kind, "message", None):
            return self.kind(message=self.text)  # type: ignore[call-arg]
        try:
            return self.kind(self.text)
        except Exception:  # it takes other arguments
            return RuntimeError(self.text)


class _Text(str):
    """A text whose repr is the text."""

    def __repr__(self) -> str:
        return str(self)


# --- in the worker --------------------------------------------------------------------------------


def work(job: Job, number: int, channel: socket.socket, others: Sequence[socket.socket]) -> None:
    """Makes the batches that are asked for over the channel, until that is closed."""
    for other in others:  # the loader's ends, inherited by fork: open here, they would never close
        other.close()
    # Ctrl-C is the loader's process to act on, and a handler of the main program has no place here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, tasks), daemon=True).start()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the loader has ended
        _work(job, number, channel, tasks)


def _work(job: Job, number: int, channel: socket.socket, tasks: queue.SimpleQueue[Any]) -> None:
    global _info
    forbid_cuda(
        "CUDA cannot be used in a DataLoader's worker process; let the dataset and collate_fn make "
        "tensors of the CPU and move each batch to the GPU in the training loop, or set "
        "num_workers=0"
    )
    set_num_threads(1)
    seed = job.base_seed + number
    random.seed(seed)
    default_generator.manual_seed(seed)
    numpy.random.seed(_numpy_seed(job.base_seed, number))
    _info = WorkerInfo(number, job.num_workers, seed, job.dataset)
    fetch: Callable[[Any], Any] | None = None
    failure: Failure | None = None
    result: Any
    message: Message
    if job.worker_init_fn is not None:
        try:
            job.worker_init_fn(number)
        except Exception as error:
            failure = _failure(error, number)
    current, ended = 0, False
    while (task := tasks.get()) is not None:
        if isinstance(task, Pass):
            current, ended, fetch = task.number, False, None
            continue
        if ended:
            continue
        try:
            if failure is not None:
                result, failure = failure, None
            else:
                if fetch is None:
                    fetch = fetcher(job.dataset, job.collate_fn, job.batched, job.drop_last)
                result = fetch(task.indices)
            message = packed(Result(current, task.place, result))
        except Exception as error:
            ended = isinstance(error, StopIteration) and isinstance(job.dataset, IterableDataset)
            result = End() if ended else _failure(error, number)
            message = packed(Result(current, task.place, result))
        send(channel, message)
        del result, message  # which may be large


def _listen(channel: socket.socket, tasks: queue.SimpleQueue[Any]) -> None:
    """Takes tasks off the channel at any time, so that the loader never waits to send one."""
    parent = os.getppid()
    try:
        while os.getppid() == parent:
            if wait([channel], PATIENCE):
                tasks.put(receive(channel))
    except (EOFError, OSError):  # the loader has ended
        pass
    finally:
        tasks.put(None)
        time.sleep(PATIENCE)
        os._exit(1)


def _failure(error: BaseException, number: int) -> Failure:
    kind = type(error)
    text = (
        f"Caught {kind.__name__} in DataLoader worker process {number}.\n"
        f"Original {''.join(traceback.format_exception(error))}"
    )
    try:
        pickle.dumps(kind)
    except Exception:  # a class that the loader's process cannot find by its name
        kind = RuntimeError
    return Failure(kind, text)


def _numpy_seed(base_seed: int, number: int) -> Any:
    words = [number, base_seed & 0xFFFFFFFF, base_seed >> 32, 0]
    return numpy.random.SeedSequence(words).generate_state(4)


# --- in the loader's process ----------------------------------------------------------------------


def context_of(choice: Any) -> BaseContext:
    """The multiprocessing context of that name, or the one that is passed; None: the default."""
    if choice is None or isinstance(choice, str):
        names = multiprocessing.get_all_start_methods()
        if choice is not None and choice not in names:
            raise ValueError(
                f"DataLoader: multiprocessing_context must be one of {', '.join(names)}, or a "
                f"context, got {choice!r}"
            )
        return multiprocessing.get_context(choice)
    if not isinstance(choice, BaseContext):
        raise TypeError(
            "DataLoader: multiprocessing_context must be a context or the name of a start method, "
            f"got {type(choice).__name__}"
        )
    return choice


def start_workers(
    loader: Any, options: tuple[Any, Any, bool, bool], base_seed: int
) -> WorkerBatches:
    """The workers of a loader, with the options of `fetcher`."""
    return WorkerBatches(
        loader, Job(*options, base_seed, loader.num_workers, loader.worker_init_fn)
    )


class WorkerBatches:
    """The batches of one pass, or of one pass after another, made by worker processes.

    Each worker has up to `prefetch_factor` tasks ahead. With `in_order` the batches come in the
    order of the sampler, else as they are done. The workers end with the pass, or with this object
    where they are `persistent`.
    """

    def __init__(self, loader: Any, job: Job) -> None:
        self._order, self._in_order = loader.batch_sampler or loader.sampler, loader.in_order
        self._prefetch_factor, self._timeout = loader.prefetch_factor, loader.timeout
        self._persistent, self._count, self._pass = loader.persistent_workers, job.num_workers, 0
        self._processes: list[Any] = []
        self._channels: list[socket.socket] = []
        self._close = weakref.finalize(self, _end, os.getpid(), self._processes, self._channels)
        with self._ending_on_error():
            for number in range(self._count):
                self._start(loader.multiprocessing_context, job, number)

    @property
    def alive(self) -> bool:
        """Whether the workers are there for a pass."""
        return self._close.alive

    def _start(self, context: Any, job: Job, number: int) -> None:
        ours, theirs = socket.socketpair()
        self._channels.append(ours)
        method = context.get_start_method()
        inherited = self._channels if method == "fork" else ()
        process = context.Process(
            target=work, args=(job, number, theirs, inherited), daemon=True,
            name=f"DataLoader worker {number}",
        )  # fmt: skip
        with theirs, warnings.catch_warnings():
            # Python 3.12 warns of all threads; those of BLAS end before a fork.
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            try:
                process.start()
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                raise type(error)(
                    f"DataLoader: start method {method!r} sends the dataset, collate_fn and "
                    f"worker_init_fn to the workers as pickles: {error}; define them at the top "
                    "level of a module, or use multiprocessing_context='fork'"
                ) from error
        self._processes.append(process)

    def begin(self, indices: Iterator[Any]) -> None:
        """Starts a pass; what is left of the last one is dropped."""
        self._indices, self._pass = indices, self._pass + 1
        self._next_task = self._next_batch = 0
        self._worker_of: dict[int, int] = {}  # the tasks whose batches were not handed out
        self._active = [True] * self._count  # False: its share of an IterableDataset has ended
        self._tasks = [0] * self._count
        self._turns = itertools.cycle(range(self._count))
        with self._ending_on_error():
            for worker in range(self._count):
                self._send(worker, Pass(self._pass))
            for _ in range(self._count * self._prefetch_factor):
                self._give()

    def __iter__(self) -> WorkerBatches:
        return self

    def __len__(self) -> int:
        return len(self._order)

    def __next__(self) -> Any:
        if not self.alive:
            raise StopIteration
        with self._ending_on_error():
            batch = self._take()
        if isinstance(batch, End):
            if not self._persistent:
                self._close()
            raise StopIteration
        if isinstance(batch, Failure):
            raise batch.exception()
        return batch

    @contextlib.contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        """Ends the workers on any error, also on Ctrl-C, which may cut a message in two."""
        try:
            yield
        except BaseException:
            self._close()
            raise

    def _take(self) -> Any:
        """The next batch, or End."""
        while True:
            while self._next_batch < self._next_task:
                worker = self._worker_of.get(self._next_batch)
                if worker is not None and self._active[worker]:
                    break
                self._worker_of.pop(self._next_batch, None)
                self._next_batch += 1
            else:
                return End()
            workers = [worker] if self._in_order else sorted(set(self._worker_of.values()))
            result = self._receive([w for w in workers if self._active[w]])
            worker = self._worker_of.pop(result.place)
            self._tasks[worker] -= 1
            if isinstance(result.batch, End):
                self._active[worker] = False
            self._give()
            if not isinstance(result.batch, End):
                return result.batch

    def _give(self) -> None:
        """Hands the next task to the worker whose turn it is."""
        try:
            indices = next(self._indices)
        except StopIteration:
            return
        for worker in itertools.islice(self._turns, self._count):
            if self._active[worker] and (self._in_order or self._tasks[worker] < self._most()):
                break
        else:
            return
        self._send(worker, Task(self._next_task, indices))
        self._worker_of[self._next_task] = worker
        self._tasks[worker] += 1
        self._next_task += 1

    def _most(self) -> int:
        """How many tasks a worker may have where the order is free."""
        most: int = self._prefetch_factor * self._count // sum(self._active)
        return most

    def _send(self, worker: int, message: Any) -> None:
        try:
            send(self._channels[worker], packed(message))
        except OSError as error:
            raise self._death(worker) from error

    def _receive(self, workers: Sequence[int]) -> Result:
        """The first result of this pass from one of these workers."""
        channels = {self._channels[worker]: worker for worker in workers}
        ends = {self._processes[worker].sentinel: worker for worker in workers}
        while True:
            ready = wait([*channels, *ends], self._timeout or None)
            if not ready:
                raise RuntimeError(
                    f"DataLoader timed out after {self._timeout} seconds waiting for worker "
                    f"{', '.join(map(str, workers))}; raise timeout=, or look for what blocks in "
                    "the dataset"
                )
            channel: Any = next((each for each in ready if each in channels), None)
            if channel is None:
                raise self._death(ends[ready[0]])
            try:
                result: Result = receive(channel)
            except (EOFError, OSError) as error:
                raise self._death(channels[channel]) from error
            if result.number == self._pass:
                return result

    def _death(self, worker: int) -> RuntimeError:
        """What to raise for a worker that is gone."""
        process = self._processes[worker]
        process.join(1)
        code, name = process.exitcode, f"DataLoader worker (pid(s) {process.pid})"
        if code is None or code >= 0:
            return RuntimeError(
                f"{name} exited unexpectedly"
                + ("" if code is None else f" with exit code {code}; its own output says why")
            )
        hint = (
            "; the system does so where memory runs out: use fewer workers or smaller batches"
            if -code == getattr(signal, "SIGKILL", None)
            else ""
        )
        return RuntimeError(
            f"{name} exited unexpectedly: it is killed by signal: {signal.strsignal(-code)}{hint}"
        )


def _end(owner: int, processes: list[Any], channels: list[socket.socket]) -> None:
    """Ends the workers: those that do not finish within seconds are terminated."""
    if os.getpid() != owner:  # in a fork, whose parent they belong to
        return
    for channel in channels:
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RDWR)  # close() alone waits for every inherited copy
        channel.close()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for stop in ("terminate", "kill"):
        for process in processes:
            if process.is_alive():
                getattr(process, stop)()
                process.join(1)
