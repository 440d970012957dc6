"""Worker processes of a loader: PyTorch's batches, numbers and errors, and nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.utils import data

pytestmark = [
    pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(), reason="workers start by fork here"
    ),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
IN_TIME = 60  # seconds: a wait that is longer fails


def lists(value: Any) -> Any:
    """A batch as nested lists, with the dtypes of its tensors."""
    if isinstance(value, dict):
        return {key: lists(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return (str(value.dtype).split(".")[-1], value.tolist())
    return [lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def drawing(m: Any, count: int = 11) -> Any:
    """Items that show which worker made them, and the next number of each generator there."""

    class Drawing(m.utils.data.Dataset):  # type: ignore[misc, name-defined]
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> Any:
            info = m.utils.data.get_worker_info()
            who = (info.id, info.num_workers, info.seed % 2**32, len(info.dataset))
            drawn = (m.rand(2), np.random.randint(10**9), random.random())
            return {"index": index, "name": f"item {index}", "who": who, "drawn": drawn}

    return Drawing()


def sharded(m: Any, count: int = 11) -> Any:
    """A stream of which each worker yields its share."""

    class Sharded(m.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[Any]:
            info = m.utils.data.get_worker_info()
            # The first worker has far more than the others.
            start, stop = (0, 7) if info.id == 0 else (7 + 2 * info.id, 9 + 2 * info.id)
            return iter([(i, m.rand(1)) for i in range(start, stop)])

        def __len__(self) -> int:
            return count

    return Sharded()


def announce(number: int) -> None:
    random.seed(number)


LOADERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "in order": (drawing, {"batch_size": 2}),
    "shuffled": (drawing, {"batch_size": 3, "shuffle": True}),
    "one worker": (drawing, {"batch_size": 3, "shuffle": True, "num_workers": 1}),
    "more workers than batches": (drawing, {"batch_size": 6, "num_workers": 4}),
    "drop last": (drawing, {"batch_size": 3, "drop_last": True}),
    "far ahead": (drawing, {"batch_size": 2, "prefetch_factor": 9}),
    "persistent": (drawing, {"batch_size": 3, "shuffle": True, "persistent_workers": True}),
    "one by one": (drawing, {"batch_size": None, "shuffle": True}),
    "batch sampler": (drawing, {"batch_sampler": [[0, 5], [9], [1, 1, 1]]}),
    "own collate": (drawing, {"batch_size": 4, "collate_fn": len}),
    "own start": (drawing, {"batch_size": 4, "worker_init_fn": announce}),
    "streams": (sharded, {"batch_size": 2}),
    "streams, drop last": (sharded, {"batch_size": 2, "drop_last": True, "num_workers": 3}),
    "streams, one by one": (sharded, {"batch_size": None}),
    "streams, persistent": (sharded, {"batch_size": 3, "persistent_workers": True}),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", LOADERS)
def test_batches_order_and_random_numbers_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    make, options = LOADERS[name]

    def epochs(m: Any) -> list[Any]:
        m.manual_seed(7)
        loader = m.utils.data.DataLoader(make(m), **{"num_workers": 2, **options})
        seen = [lists(list(loader))]
        next(iter(loader))  # an epoch that is left early draws its seeds all the same
        return [*seen, lists(list(loader)), m.rand(2).tolist()]

    assert epochs(nt) == epochs(torch)


class Rows(data.Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return {"x": nt.full((100, 60), float(index)), "y": np.int32(index), "name": f"{index}"}


TENSORS = data.TensorDataset(nt.arange(20.0).reshape(10, 2), nt.arange(10))
DATASETS = {
    "rows": Rows(),
    "tensors": TENSORS,
    "a subset": data.Subset(TENSORS, [8, 1, 4, 4, 2, 0]),
    "two": data.ConcatDataset([TENSORS, TENSORS]),
}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_batches_are_those_of_the_calling_process(method: str) -> None:
    for dataset in [Rows()] if method != "fork" else DATASETS.values():
        expected, batches = (
            list(
                data.DataLoader(
                    dataset,
                    batch_size=3,
                    shuffle=True,
                    generator=nt.Generator().manual_seed(3),
                    **options,
                )
            )
            for options in ({}, {"num_workers": 2, "multiprocessing_context": method})
        )
        assert lists(batches) == lists(expected)


class Item(data.Dataset[Any]):
    """Four items, each of which a function makes."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def batches(make: Any, **options: Any) -> list[Any]:
    """The items of `make`, by one worker."""
    options = {"num_workers": 1, "batch_size": None, "timeout": IN_TIME, **options}
    return list(data.DataLoader(Item(make), **options))


def no_children() -> bool:
    gc.collect()  # the traceback of an error holds the iterator and, with it, the workers
    return not multiprocessing.active_children()


BIG = nt.zeros(1 << 22)
SENT: dict[str, Any] = {
    "an empty tensor": lambda i: nt.zeros(0, 3),
    "no dimension": lambda i: nt.tensor(float(i)),
    "bfloat16": lambda i: nt.full((9000,), i, dtype=nt.bfloat16),
    "complex arrays": lambda i: np.full((3000,), i + 1j),
    "a transposed tensor": lambda i: nt.arange(20000.0).reshape(100, 200).t() + i,
    "every second row": lambda i: nt.arange(20000.0).reshape(100, 200)[::2],
    "a strided array": lambda i: np.arange(20000.0).reshape(100, 200)[:, ::3],
    "a large text": lambda i: "x" * (200_000 + i),
    "both sides of the limit": lambda i: [nt.ones(4000 + 40 * j) * i for j in range(5)],
    "a parameter": lambda i: nt.nn.Parameter(nt.ones(3) * i),
}


@pytest.mark.parametrize("name", SENT)
def test_what_a_worker_sends_arrives_as_it_was(name: str) -> None:
    for index, value in enumerate(batches(SENT[name])):
        expected = data.default_convert(SENT[name](index))
        assert lists(value) == lists(expected)
        assert type(value) is type(expected)
        if isinstance(value, nt.Tensor):
            assert value.requires_grad == expected.requires_grad
            value.detach().fill_(1)  # in memory of this process


def test_a_row_is_sent_without_the_memory_it_is_a_view_of() -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)  # which holds for files in memory, too
    resource.setrlimit(resource.RLIMIT_FSIZE, (BIG.nbytes // 2, limit[1]))
    try:
        assert [len(row) for row in batches(lambda i: BIG[i * 10000 : (i + 1) * 10000])] == [
            10000
        ] * 4
        with pytest.raises(OSError, match="File too large"):
            batches(lambda i: BIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_batches_that_are_kept_hold_no_files_open() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limit[1]))
    try:
        loader = data.DataLoader(data.TensorDataset(BIG), batch_size=1 << 14, num_workers=2)
        assert len(list(loader)) == 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_long_tasks_and_long_results_do_not_wait_for_each_other() -> None:
    def describe(samples: Any) -> list[str]:
        return [str(sample) for sample in samples]

    loader = data.DataLoader(
        range(10), batch_sampler=[[i % 10] * 3000 for i in range(60)], collate_fn=describe,
        num_workers=1, prefetch_factor=50, timeout=IN_TIME,
    )  # fmt: skip
    assert [batch[0] for batch in loader] == [str(i % 10) for i in range(60)]


# --- errors ---------------------------------------------------------------------------------------


class TwoArguments(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)


class WithMessage(Exception):
    message = "none"

    def __init__(self, message: str) -> None:
        super().__init__(message)


class Strict(KeyError):
    pass


def unknown_class() -> Exception:
    class Local(Exception):
        pass

    return Local("here")


def fail(error: Any) -> Any:
    def make(index: int) -> Any:
        if index == 1:
            raise error
        return index

    return make


FAILURES: dict[str, tuple[Any, type[Exception]]] = {
    "value": (ValueError("here"), ValueError),
    "key": (KeyError("here"), KeyError),
    "pipe": (BrokenPipeError("of the data"), BrokenPipeError),
    "end of file": (EOFError("of the data"), EOFError),
    "own key": (Strict("here"), Strict),
    "two arguments": (TwoArguments(1, 2), RuntimeError),
    "message": (WithMessage("here"), WithMessage),
    "local": (unknown_class(), RuntimeError),
    "stop": (StopIteration("here"), StopIteration),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_exception_arrives_with_its_type_and_traceback(name: str) -> None:
    error, kind = FAILURES[name]
    loader = data.DataLoader(Item(fail(error)), num_workers=2, timeout=IN_TIME)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(kind) as caught:
        next(iterator)
    text = str(caught.value)
    assert text.startswith(f"Caught {type(error).__name__} in DataLoader worker process 1.\n")
    assert "Original Traceback (most recent call last):\n" in text
    assert "in make\n    raise error\n" in text
    assert [batch.tolist() for batch in iterator] == [[2], [3]]  # the others come all the same


@pytest.mark.torch
@pytest.mark.parametrize("name", ["value", "two arguments", "message", "key"])
def test_an_exception_reads_as_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    error, kind = FAILURES[name]
    with pytest.raises(kind) as ours:
        list(data.DataLoader(Item(fail(error)), num_workers=1))
    try:
        fail(error)(1)
    except Exception:
        wrapped = torch._utils.ExceptionWrapper(where="in DataLoader worker process 0")
    error.__traceback__ = None  # whose frames hold the loader above
    with pytest.raises(kind) as theirs:
        wrapped.reraise()
    mine, other = (str(raised.value).splitlines() for raised in (ours, theirs))
    assert (ours.type, mine[:2], mine[-3:]) == (theirs.type, other[:2], other[-3:])


def broken_start(number: int) -> None:
    raise LookupError(f"no start for {number}")


def cyclic(index: int) -> Any:
    return lambda: index  # which no pickle holds


def with_graph(index: int) -> Any:
    return nt.ones(2).requires_grad_() * 2


def killed(index: int) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def left(index: int) -> Any:
    os._exit(3)


def slow(index: int) -> Any:
    time.sleep(IN_TIME)


ERRORS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "start": (abs, {"worker_init_fn": broken_start}, LookupError, "no start for 0"),
    "pickle": (cyclic, {}, AttributeError, "pickle local object"),
    "graph": (with_graph, {}, RuntimeError, r"call detach\(\)"),
    "killed": (killed, {}, RuntimeError, r"worker \(pid\(s\) \d+\) .* by signal: Killed.*memory"),
    "left": (left, {}, RuntimeError, "exited unexpectedly with exit code 3"),
    "spawn": (
        lambda i: i,
        {"multiprocessing_context": "spawn"},
        pickle.PicklingError,
        "'spawn' sends",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(
    "options", [{}, {"persistent_workers": True}, {"in_order": False}], ids=str
)
def test_what_a_worker_cannot_do_is_told(name: str, options: Any) -> None:
    make, more, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        batches(make, **options, **more)
    assert no_children()


def test_a_late_worker_is_told_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanotorch.utils.data.workers.PATIENCE", 0.1)
    with pytest.raises(RuntimeError, match=r"timed out after 0\.2 seconds waiting for worker 0"):
        batches(slow, timeout=0.2)
    assert no_children()


def test_persistent_workers_that_were_killed_are_started_anew() -> None:
    loader = data.DataLoader(Rows(), num_workers=2, persistent_workers=True, timeout=IN_TIME)
    assert len(list(loader)) == 10
    before = {process.pid for process in multiprocessing.active_children()}
    assert len(list(loader)) == 10
    assert {process.pid for process in multiprocessing.active_children()} == before
    for pid in before:
        os.kill(pid or 0, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(loader)
    assert len(list(loader)) == 10


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "workers": ({"num_workers": -1}, ValueError, "num_workers.*-1"),
    "timeout": ({"num_workers": 1, "timeout": -1}, ValueError, "timeout.*-1"),
    "prefetch": ({"prefetch_factor": 2}, ValueError, "prefetch_factor needs num_workers > 0"),
    "persistent": ({"persistent_workers": True}, ValueError, "persistent_workers needs"),
    "context": ({"multiprocessing_context": "fork"}, ValueError, "multiprocessing_context needs"),
    "none ahead": ({"num_workers": 1, "prefetch_factor": 0}, ValueError, "prefetch_factor=0"),
    "start method": (
        {"num_workers": 1, "multiprocessing_context": "no"}, ValueError, "one of fork.*got 'no'",
    ),
    "no context": ({"num_workers": 1, "multiprocessing_context": 3}, TypeError, "got int"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_make_no_sense_are_refused(name: str) -> None:
    options, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        data.DataLoader(Rows(), **options)


def test_options_stay_as_they_were_when_the_loader_was_made() -> None:
    loader = data.DataLoader(Rows(), batch_size=2)
    with pytest.raises(ValueError, match="batch_size attribute should not be set"):
        loader.batch_size = 3


@pytest.mark.filterwarnings("default::UserWarning")
def test_what_may_be_a_mistake_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="1000 worker processes"):
        data.DataLoader(Rows(), num_workers=1000)

    class Stream(data.IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

        def __len__(self) -> int:
            return 4

    loader = data.DataLoader(Stream(), num_workers=2, batch_size=None)
    assert len(loader) == 4
    with pytest.warns(UserWarning, match="reported to be 4, but [5-8] .*its own share") as told:
        assert len(list(loader)) == 8
    assert len(told) == 4


# --- other libraries in a worker ------------------------------------------------------------------


def test_products_after_a_fork_are_those_of_the_parent() -> None:
    x = nt.rand(400, 400)
    expected = x @ x  # whose threads a fork does not copy
    for y in batches(lambda i: (x @ x, nt.get_num_threads())):
        assert nt.allclose(y[0], expected)
        assert y[1] == 1


CUDA: dict[str, Any] = {
    "made there": lambda there: lambda i: nt.ones(3, device="cuda"),
    "moved there": lambda there: lambda i: nt.ones(3).cuda(),
    "computed with": lambda there: lambda i: there + 1,
    "sent": lambda there: lambda i: there,
}


@pytest.mark.parametrize("cuda", ["look-alike"], indirect=True)
@pytest.mark.parametrize("name", CUDA)
def test_cuda_in_a_worker_is_refused_in_one_line(name: str, cuda: str) -> None:
    make = CUDA[name](nt.ones(3, device="cuda"))
    with pytest.raises(
        RuntimeError,
        match=r"in a DataLoader's worker process; let|can only send tensors of the CPU",
    ):
        batches(make)
    assert batches(lambda i: nt.cuda.is_available()) == [False] * 4
    assert nt.ones(3, device="cuda").is_cuda  # here it goes on


# --- what is left behind --------------------------------------------------------------------------


def is_there(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def gone_within(seconds: float, pids: list[int]) -> bool:
    end = time.monotonic() + seconds
    while any(is_there(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_workers_end_with_the_pass_an_early_break_and_the_loader() -> None:
    assert no_children()
    descriptors = len(os.listdir("/proc/self/fd"))
    gc.disable()  # counting references is enough
    try:
        for _ in data.DataLoader(Rows(), num_workers=2):
            pass
        assert not multiprocessing.active_children()
        for _ in data.DataLoader(Rows(), num_workers=2):
            assert len(multiprocessing.active_children()) == 2
            break
        del _
        assert not multiprocessing.active_children()
        loader = data.DataLoader(Rows(), num_workers=2, persistent_workers=True)
        iterator = iter(loader)
        next(iterator)
        del iterator, loader
        assert not multiprocessing.active_children()
    finally:
        gc.enable()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_an_exception_that_was_handled_holds_no_worker() -> None:
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            list(data.DataLoader(Item(fail(ValueError("here"))), num_workers=1))
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_two_loaders_side_by_side_end_one_by_one() -> None:
    assert no_children()
    one = iter(data.DataLoader(Rows(), num_workers=1))
    two = iter(data.DataLoader(Rows(), num_workers=1))
    next(one), next(two)
    start = time.monotonic()
    del one  # whose socket the worker of two has inherited
    (worker,) = multiprocessing.active_children()
    assert worker.daemon  # a program that ends need not wait for it
    assert time.monotonic() - start < 4
    assert len(list(two)) == 9


PROGRAM = """
import os, signal, sys, time
import nanotorch as nt
from nanotorch.utils import data

class Slow(data.Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        time.sleep({seconds})
        return os.getpid(), nt.zeros(100_000)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    loader = data.DataLoader(Slow(), num_workers=2, multiprocessing_context={method!r})
    pids = set()
    for pid, _ in loader:
        pids.add(pid.item())
        if len(pids) == 2:
            print(*pids, flush=True)
            {end}
"""


def run(
    folder: Path, method: str, end: str, seconds: float = 0.01
) -> tuple[subprocess.Popen[str], list[int]]:
    """A program with a loader, and the numbers of its workers' processes."""
    path = folder / "program.py"
    path.write_text(PROGRAM.format(method=method, end=end, seconds=seconds))
    program = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert program.stdout is not None
    return program, [int(pid) for pid in program.stdout.readline().split()]


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver")]


@pytest.mark.parametrize("method", ["fork", *SLOW])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_when_their_program_is_ended(
    how: signal.Signals, method: str, tmp_path: Path
) -> None:
    program, pids = run(tmp_path, method, "pass")
    for pid in (program.pid, *pids):  # memory without a name cannot stay behind
        assert "/dev/shm/" not in Path(f"/proc/{pid}/maps").read_text()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                assert not os.readlink(link).startswith("/dev/shm/")
    if how == signal.SIGINT:  # as Ctrl-C: to all processes
        os.killpg(program.pid, how)
    else:
        program.send_signal(how)
    _, errors = program.communicate(timeout=IN_TIME)
    assert len(pids) == 2
    assert gone_within(IN_TIME, pids)
    assert errors.count("Traceback") == (how == signal.SIGINT), errors


@pytest.mark.parametrize("end", ["break", "sys.exit(0)", "os.kill(pid.item(), signal.SIGKILL)"])
def test_a_program_that_ends_leaves_nothing(end: str, tmp_path: Path) -> None:
    program, pids = run(tmp_path, "fork", end)
    _, errors = program.communicate(timeout=IN_TIME)
    assert program.returncode == ("kill" in end)
    assert ("exited unexpectedly" in errors) == ("kill" in end), errors
    assert gone_within(IN_TIME, pids)


@pytest.mark.slow
def test_a_worker_that_is_stuck_ends_with_its_program(tmp_path: Path) -> None:
    program, pids = run(tmp_path, "fork", "os.kill(os.getpid(), signal.SIGKILL)", seconds=3)
    program.communicate(timeout=IN_TIME)
    assert gone_within(IN_TIME, pids)


def test_loading_without_workers_loads_no_multiprocessing() -> None:
    code = (
        "import sys; from nanotorch.utils.data import DataLoader; list(DataLoader([1, 2]));"
        "print('multiprocessing' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
