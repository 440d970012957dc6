"""A part of a program that is run on one piece of its arrays after the other, on several threads.

Each piece goes through all of it while it is in the cache, so that the arrays cross memory once,
and what only this part needs is as large as a piece.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import HOST, Array, get_num_threads, one_blas_thread
from nanotorch.backend.workers import side_by_side
from nanotorch.compile.memory import root_of

Run = Callable[..., Any]


class Pass:
    """Steps of a program that are made piece by piece, and what they read and write."""

    large: list[Array]  # those that are cut into pieces, or are only there within a piece
    whole: list[Array]  # those that each piece reads as they are
    sums: list[Array]  # what the pieces add up to
    groups: list[list[tuple[int, int]]]  # start and end of pieces that one thread makes in order
    total: Callable[[Sequence[Array]], Any]  # of the sums of all groups
    within: Sequence[Any]  # the kernels
    title: str
    family: str
    flattened = ""  # what makes an array one that can be cut, as source
    shape: tuple[int, ...] | None = None

    @property
    def heights(self) -> list[int]:
        """Those of the pieces, the largest first."""
        return sorted({high - low for group in self.groups for low, high in group}, reverse=True)

    def piece(self, height: int) -> tuple[list[Any], dict[int, Array]]:
        """The steps on arrays of that height, and these by the identities of those they replace."""
        raise NotImplementedError


class Pieces:
    """Runs a pass: on so many inputs that are cut, on others, and on its sums.

    runs: the functions for pieces of each height. blocks: the memory that they compute in. sums:
    arrays like those that they write sums to.
    """

    def __init__(
        self, step: Pass, runs: dict[int, Run], blocks: list[Array], sums: list[Array], cut: int
    ) -> None:
        self._groups, self._total, self._cut = step.groups, step.total, cut
        self._runs, self._blocks = runs, {id(a): a for a in blocks if root_of(a) == id(a)}
        self._parts = [list(map(HOST.empty_like, sums)) for _ in step.groups]
        self._workers = [runs]

    def __call__(self, *inputs: Any) -> None:
        threads = min(get_num_threads(), len(self._groups))
        while len(self._workers) < threads:
            self._workers.append(self._in_other_memory())
        end = len(inputs) - len(self._parts[0])
        cut, others = inputs[: self._cut], inputs[self._cut : end]
        waiting = iter(range(len(self._groups)))  # a thread that is free takes the next group

        def work(number: int) -> None:
            runs, further = self._workers[number], list(map(HOST.empty_like, self._parts[0]))
            for group in waiting:
                sums = self._parts[group]
                for place, (low, high) in enumerate(self._groups[group]):
                    parts = further if place else sums
                    runs[high - low](*[a[low:high] for a in cut], *others, *parts)
                    for total, part in zip(sums, parts) if place else ():
                        HOST.add(total, part, out=total)

        with one_blas_thread():
            side_by_side(work, threads)
        for out, *parts in zip(inputs[end:], *self._parts):
            HOST.copyto(out, self._total(parts))

    def _in_other_memory(self) -> dict[int, Run]:
        """The functions for one more thread: what they compute in is memory of its own."""
        blocks = {key: HOST.empty_like(block) for key, block in self._blocks.items()}

        def moved(value: Any) -> Any:
            key = root_of(value) if type(value) is HOST.ndarray else None
            if key not in blocks:
                return value
            start = address(value) - address(self._blocks[key])
            return HOST.ndarray(value.shape, value.dtype, blocks[key], start, value.strides)

        names = {n: {k: moved(v) for k, v in f.__globals__.items()} for n, f in self._runs.items()}
        return {n: types.FunctionType(f.__code__, names[n]) for n, f in self._runs.items()}


def address(array: Array) -> int:
    """Where its first element lies."""
    return int(array.__array_interface__["data"][0])
