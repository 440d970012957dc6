"""Threads: BLAS takes one for small products, and those of tiles and blocks wait for more work."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.backend import threads
from nanotorch.backend.workers import side_by_side


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What BLAS is told; the last one is what it uses."""
    told = [2]
    monkeypatch.setattr(threads, "_blas", (told.append, lambda: told[-1]))
    return told


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
def test_threads_keep_away_from_the_processor_of_the_one_that_gives_them_work() -> None:
    allowed = os.sched_getaffinity(0)
    seen: dict[int, set[int]] = {}
    try:
        for processor in sorted(allowed)[:2]:
            os.sched_setaffinity(0, {processor})
            os.sched_setaffinity(0, allowed)  # where it stays for now
            side_by_side(lambda number: seen.update({number: os.sched_getaffinity(0)}), 2)
            assert seen[0] == allowed and len(seen[1]) == len(allowed) - 1 and seen[1] < allowed
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
