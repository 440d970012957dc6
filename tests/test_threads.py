"""Threads: BLAS takes one for small products, and those of tiles and blocks wait for more work."""

from __future__ import annotations

import os
import threading
import types
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.backend import threads, workers
from nanotorch.backend.workers import side_by_side

OTHERS_ARE_BUSY = workers.others_are_busy


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processor counts as free, whatever ran before a test."""
    monkeypatch.setattr(workers, "others_are_busy", lambda: False)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What BLAS is told; the last one is what it uses."""
    told = [2]
    monkeypatch.setattr(threads, "_blas", (told.append, lambda: told[-1]))
    monkeypatch.setattr(threads, "_kernels", "Haswell")
    return told


@pytest.fixture
def avx512(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads, with kernels for small matrices: at least `dot` reckons with them."""
    monkeypatch.setattr(threads, "_kernels", "SkylakeX")
    return counts


@pytest.mark.parametrize("a, b, alone", [
    ((128, 784), (784, 10), True), ((10, 128), (128, 784), True),
    ((128, 128), (128, 128), True), ((128, 784), (784, 32), False),
    ((8, 8), (8, 8), False), ((512, 1024), (1024, 1), False), ((1, 1024), (1024, 512), False),
])  # fmt: skip
def test_the_shapes_say_whether_a_product_takes_one_thread(
    a: Any, b: Any, alone: bool, counts: list[int]
) -> None:
    x, y = np.ones(a, "f"), np.ones(b, "f")
    np.testing.assert_array_equal(threads.dot(x, y), np.full((a[0], b[1]), a[1], "f"))
    assert counts == ([2, 1, 2] if alone else [2])


def test_a_product_that_fails_gives_the_threads_back(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="output array"):
        threads.dot(np.ones((128, 128), "f"), np.ones((128, 128), "f"), np.ones((2, 2), "f"))
    assert counts == [2, 1, 2]


def test_products_within_a_block_leave_the_number_to_it(counts: list[int]) -> None:
    with threads.one_blas_thread():
        threads.dot(np.ones((128, 128), "f"), np.ones((128, 128), "f"))
        assert counts[-1] == 1
    assert counts[-1] == 2


def test_a_user_s_single_thread_is_left_alone(counts: list[int]) -> None:
    counts[:] = [1]
    threads.dot(np.ones((128, 128), "f"), np.ones((128, 128), "f"))
    assert counts == [1]


@pytest.mark.parametrize("mode", ["eager", "matched", "pure"])
def test_steps_make_small_products_on_one_thread(mode: str, counts: list[int]) -> None:
    weight = nt.ones(10, 784, requires_grad=True)

    def step(x: nt.Tensor) -> nt.Tensor:
        weight.grad = None
        loss = nt.nn.functional.linear(x, weight).square().mean()
        loss.backward()
        return loss

    def pure(x: nt.Tensor) -> nt.Tensor:
        with nt.no_grad():
            return nt.nn.functional.linear(x, weight).square().mean()

    run = {"eager": step, "matched": nt.compile(step), "pure": nt.compile(pure, pure=True)}[mode]
    for _ in range(4):
        counts[:] = [2]
        run(nt.ones(128, 784))
    assert counts == [2, *[1, 2] * (1 if mode == "pure" else 2)]


def factors(form: str, rows: int, inner: int, columns: int, kind: str = "f") -> tuple[Any, Any]:
    """Two matrices, of which that with a T in its place lies transposed in memory."""
    draw = np.random.default_rng(0).standard_normal
    a, b = draw((rows, inner)).astype(kind), draw((inner, columns)).astype(kind)
    return (
        a if form[0] == "N" else np.asfortranarray(a),
        b if form[1] == "N" else np.asfortranarray(b),
    )


CUT = [
    ("NT", (128, 784, 10), 64), ("NT", (256, 784, 10), 96), ("NT", (128, 256, 10), 64),
    ("NT", (2, 784, 784), 400), ("NT", (8, 1024, 1024), 122), ("NT", (8, 2048, 1024), 0),
    ("NN", (8, 1024, 1024), 0), ("NT", (11, 1024, 1024), 0),
    ("NT", (32, 256, 256), 37), ("NT", (8192, 200, 2), 0),
    ("TN", (10, 128, 784), 400), ("NN", (128, 10, 784), 400), ("NN", (1024, 128, 10), 512),
    ("NT", (64, 64, 10), 0), ("NT", (128, 128, 128), 0), ("NT", (128, 128, 16), 0),
    ("NN", (128, 128, 128), 0), ("TN", (784, 128, 10), 0), ("TT", (128, 784, 10), 0),
    ("NN", (10, 128, 100), 0), ("NT", (512, 784, 10), 0),
]  # fmt: skip


@pytest.mark.parametrize("kind", "fd")
@pytest.mark.parametrize("form, shape, length", CUT)
def test_the_shapes_say_how_a_product_is_cut_for_small_kernels(
    form: str, shape: Any, length: int, kind: str, avx512: list[int], monkeypatch: Any
) -> None:
    a, b = factors(form, *shape, kind)
    expected = a.astype("d") @ b.astype("d")
    parts: list[int] = []
    for name in ("dot", "matmul"):
        plain = getattr(np, name)

        def noted(a: Any, b: Any, out: Any, plain: Any = plain) -> Any:
            parts.append(max(a.shape[0], b.shape[1]))
            return plain(a, b, out=out)

        monkeypatch.setattr(threads.numpy, name, noted)
    out = np.full(expected.shape, np.nan, kind)
    assert threads.dot(a, b, out) is out
    results = (out, threads.dot(a, b))
    monkeypatch.undo()
    for y in results:
        assert y.dtype == a.dtype and y.flags.c_contiguous
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-4 if kind == "f" else 1e-12)
    longest = max(expected.shape)
    if kind == "d" and shape == (8, 1024, 1024):
        length = 0
    assert len(parts) == 2 * (-(-longest // length) if length else 1)
    assert max(parts) == (length or longest)


def test_products_in_parts_leave_the_threads_alone(avx512: list[int]) -> None:
    threads.dot(*factors("NT", 128, 784, 10))
    threads.dot(*factors("NN", 128, 64, 64))
    assert avx512 == [2]
    threads.dot(*factors("NT", 128, 128, 64))
    assert avx512 == [2, 1, 2]


def test_other_processors_make_products_whole(counts: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(threads, "in_parts", None)
    for form, shape, _ in CUT:
        threads.dot(*factors(form, *shape))


def test_only_matrices_that_the_kernels_take_as_they_lie_are_cut(avx512: list[int]) -> None:
    a, b = factors("NT", 128, 784, 10)
    spread = np.zeros((128, 2 * 784), "f")[:, ::2]
    assert threads.length_for_small_kernels(a, b)
    assert not threads.length_for_small_kernels(spread, b)
    assert not threads.length_for_small_kernels(a, np.zeros((784, 20), "f")[:, ::2])
    rows = np.zeros((256, 784), "f")[::2]  # their distance does not matter
    assert threads.length_for_small_kernels(rows, b)


def test_parts_of_a_product_keep_what_is_not_finite_in_its_place(avx512: list[int]) -> None:
    a, b = factors("NT", 128, 784, 10)
    a[3, 5], a[70, 0], b[9, 4] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(np.matmul(a, b))
        np.testing.assert_array_equal(np.isfinite(threads.dot(a, b)), finite)
    assert not finite[3].any() and not finite[:, 4].any() and finite[4, 5]


@pytest.mark.parametrize("kind", "fd")
@pytest.mark.parametrize("inner", [3, 5, 7, 9, 30, 32, 127])
def test_a_row_times_a_vector_is_the_same_in_any_tile(inner: int, kind: str) -> None:
    rows = 3_000_000 // inner & -16
    x, w = factors("NN", rows, inner, 1, kind)
    half = rows // 2 & -16
    y = np.full((rows, 1), np.nan, kind)
    threads.dot(x, w, y)
    np.testing.assert_allclose(y, x @ w, rtol=0, atol=1e-4)
    with threads.one_blas_thread():
        whole = threads.dot(x, w)
        for low, high in ((0, half), (half, rows), (16 * 777, rows - 16)):
            np.testing.assert_array_equal(threads.dot(x[low:high], w), whole[low:high])


@pytest.mark.parametrize("kernels", ["Haswell", "SkylakeX"])
def test_narrow_rows_are_cut_on_one_thread_and_on_several_but_not_within_a_block(
    kernels: str, counts: list[int], monkeypatch: Any
) -> None:
    monkeypatch.setattr(threads, "_kernels", kernels)

    def length(rows: int, inner: int, kind: str = "f") -> int:
        return threads.length_of_rows(np.empty((rows, inner), kind))

    assert length(10**5, 30) == 17472 and length(10**5, 32) == length(10**5, 129) == 10**5
    assert length(10**5, 5) == (16384 if kernels == "SkylakeX" else 104848)
    assert length(10**5, 5, "d") == 104848
    counts[:] = [1]
    assert length(10**5, 30) == 4368
    with threads.one_blas_thread():
        assert length(10**5, 30) == 10**5


@pytest.mark.parametrize("pure", [False, True])
def test_compiled_steps_have_the_bits_of_eager_ones_where_products_are_cut(
    pure: bool, avx512: list[int]
) -> None:
    losses = []
    for compiled in (False, True):
        nt.manual_seed(0)
        model = nt.nn.Linear(784, 10)
        optimizer = nt.optim.SGD(model.parameters(), lr=0.1)
        x, y = nt.randn(128, 784), nt.arange(128) % 10

        def step(model: Any = model, optimizer: Any = optimizer, x: Any = x, y: Any = y) -> Any:
            optimizer.zero_grad()
            loss = nt.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        call = nt.compile(step, pure=pure) if compiled else step
        losses.append([call().item() for _ in range(6)])
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_threads_are_used_again() -> None:
    seen: list[set[Any]] = []
    for _ in range(3):
        who: list[Any] = [None] * 3
        meeting = threading.Barrier(3)

        def work(number: int, who: list[Any] = who, meeting: Any = meeting) -> None:
            who[number] = threading.current_thread()
            meeting.wait(10)

        side_by_side(work, 3)
        assert who[0] is threading.current_thread()
        seen.append(set(who))
    assert len(seen[0]) == 3 and seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("kind, multiplied_by", [
    ("columns", "matmul"), ("their rows", "matmul"), ("every other column", "dot"),
    ("one row again and again", "dot"), ("rows that overlap", "dot"),
])  # fmt: skip
def test_a_part_of_a_larger_matrix_is_multiplied_where_it_lies(
    kind: str, multiplied_by: str, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy's dot copies it, which can take five times as long as the product; its matmul does not,
    but is slow itself with what BLAS does not take."""
    whole = np.random.default_rng(0).standard_normal((200, 500), np.float32)
    a = {
        "columns": whole[:, 50:250],
        "their rows": whole[:, 50:250].T,
        "every other column": whole[:, :400:2],
        "one row again and again": np.broadcast_to(whole[:1, :200], (200, 200)),
        "rows that overlap": np.lib.stride_tricks.sliding_window_view(whole[0, :399], 200),
    }[kind]
    b = whole[:, :100].copy()
    called: set[str] = set()
    for name in ("dot", "matmul"):
        plain = getattr(np, name)

        def noted(*inputs: Any, name: str = name, plain: Any = plain, **options: Any) -> Any:
            called.add(name)
            return plain(*inputs, **options)

        monkeypatch.setattr(threads.numpy, name, noted)
    products = [threads.dot(x, y) for x, y in ((a, b), (b.T, a))]
    monkeypatch.undo()
    assert called == {multiplied_by}
    a = np.ascontiguousarray(a)
    for y, expected in zip(products, (a @ b, b.T @ a), strict=True):
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("seconds, busy", [(0.0, False), (0.4, False), (0.9, True)])
def test_other_threads_are_busy_if_they_took_half_a_processor_lately(
    seconds: float, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one second, in which this thread took 0.5 and a helper 0.3 of two processors."""
    times = {"perf_counter": 10.0, "process_time": 7.0, "thread_time": 4.0}
    clock = types.SimpleNamespace(
        pthread_getcpuclockid=None, **{name: lambda n=name: times[n] for name in times}
    )
    helper = types.SimpleNamespace(seconds=lambda: times["perf_counter"] * 0.3)
    monkeypatch.setattr(workers, "time", clock)
    monkeypatch.setattr(workers, "_helpers", [helper])
    monkeypatch.setattr(workers, "_busy", not busy)
    monkeypatch.setattr(workers, "_reading", (10.0, 0.0))
    assert OTHERS_ARE_BUSY() is not busy  # too little time has passed to look again
    for _ in range(2):
        times["perf_counter"] += 1.0
        times["thread_time"] += 0.5
        times["process_time"] += 0.8 + seconds
        answer = OTHERS_ARE_BUSY()
    assert answer is busy


def test_where_the_only_other_processor_is_busy_one_thread_does_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_processors", lambda: ({0, 1}, {1}))
    monkeypatch.setattr(workers, "others_are_busy", lambda: True)
    done: list[tuple[int, threading.Thread]] = []
    side_by_side(lambda number: done.append((number, threading.current_thread())), 2)
    assert done == [(number, threading.current_thread()) for number in range(2)]


def test_an_error_in_any_thread_is_raised_and_the_thread_goes_on_working() -> None:
    for failing in (0, 1):

        def work(number: int, failing: int = failing) -> None:
            if number == failing:
                raise KeyError(number)

        with pytest.raises(KeyError):
            side_by_side(work, 2)
    done: list[int] = []
    side_by_side(done.append, 2)
    assert sorted(done) == [0, 1]


def test_work_may_ask_for_threads_itself() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        side_by_side(lambda inner: done.append(10 * number + inner), 2)

    side_by_side(work, 2)
    assert sorted(done) == [0, 1, 10, 11]


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors that a thread may be kept to",
)
def test_threads_and_the_one_that_gives_them_work_keep_to_processors_of_their_own() -> None:
    allowed = os.sched_getaffinity(0)
    seen: dict[int, set[int]] = {}
    try:
        for processor in sorted(allowed)[:2]:
            os.sched_setaffinity(0, {processor})
            os.sched_setaffinity(0, allowed)  # where it stays for now
            side_by_side(lambda number: seen.update({number: os.sched_getaffinity(0)}), 2)
            assert len(seen[0]) == 1 and seen[1] == allowed - seen[0]
            assert os.sched_getaffinity(0) == allowed
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda number: 1 // number, 2)
        assert os.sched_getaffinity(0) == allowed
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    side_by_side(lambda number: None, 2)
    child = os.fork()
    if not child:
        done: list[int] = []
        side_by_side(done.append, 2)
        os._exit(0 if sorted(done) == [0, 1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
