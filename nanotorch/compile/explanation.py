"""A plan in words and numbers: the calls of a step, how long each takes, the memory they share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from nanotorch.backend import HOST
from nanotorch.compile.lines import LIVE, Line
from nanotorch.compile.memory import Memory


class Explanation:
    """What a plan does: to be printed, or drawn with `nanotorch.viz.plan`.

    calls: the calls of a replay, in order; `step` is the same for those of one kernel.
    seconds: how long each call takes, the median of the replays that were timed; None without any.
    replays: the number of replays that were timed.
    values: what is kept in memory: block, first and last call in which it is used, shape, bytes.
    blocks: the bytes of each block. bytes: their sum. bytes_apart: the sum of all values' bytes.
    tiled: the kernels of passes over rows or elements.
    """

    def __init__(
        self, name: str, lines: Sequence[Line], took: Sequence[list[float]], memory: Memory,
        how: str = "",
    ) -> None:  # fmt: skip
        shown = [bool(times) or not line.otherwise for times, line in zip(took, lines)]
        self.name, self.how = name, how
        self.calls = list(itertools.compress(lines, shown))
        timed = itertools.compress(took, shown)
        self.seconds = [float(HOST.median(times)) if times else None for times in timed]
        self.replays = max(map(len, took), default=0)
        place = list(itertools.accumulate(shown, initial=0))  # of each line, among the calls
        end = len(self.calls) - 1
        self.values = [
            value._replace(
                first=min(place[value.first], end),
                last=end if value.stays else min(place[value.last], end),
            )
            for value in memory.values
        ]
        self.blocks = [block.nbytes for block in memory.blocks]
        self.bytes = sum(self.blocks)
        self.bytes_apart = sum(value.bytes for value in self.values)
        self.tiled = [kernel for call in self.calls for kernel in call.within]

    @property
    def memory(self) -> str:
        """What the planner saves, in words."""
        blocks = f"{len(self.blocks)} block{'s' if len(self.blocks) != 1 else ''}"
        return f"{self.bytes:,} bytes in {blocks}, instead of {self.bytes_apart:,}"

    def kernels(self) -> Iterator[list[int]]:
        """The numbers of the calls of each kernel, kernel by kernel."""
        numbers = range(len(self.calls))
        for _, group in itertools.groupby(numbers, key=lambda n: self.calls[n].step):
            yield list(group)

    def __str__(self) -> str:
        total = sum(s for s in self.seconds if s is not None)
        kernels = [group for group in self.kernels() if self.calls[group[0]].family != LIVE]
        title = f"plan of {self.name}: {len(kernels)} kernels in {sum(map(len, kernels))} calls"
        title += self.how
        if self.replays:
            title += f", {total * 1e6:,.1f} us"
            title += f" (medians of {self.replays} replays)" if self.replays > 1 else ""
        heads = ("time", "share") if self.replays else ("", "")
        rows = [columns(*heads, "bytes", "kernel"), *self._rows(total)]
        return "\n".join([title, *rows, f"memory: {self.memory}"])

    def _rows(self, total: float) -> Iterator[str]:
        """One row for each kernel, and below it one for each of its calls where it has several."""
        for group in self.kernels():
            first, last = self.calls[group[0]], self.calls[group[-1]]
            times = [s for s in (self.seconds[n] for n in group) if s is not None]
            share = f"{sum(times) / total:.0%}" if times and total else ""
            nbytes = sum(self.calls[n].bytes for n in group)
            shape = "" if last.shape is None else f" {last.shape}"
            yield columns(microseconds(times), share, f"{nbytes:,}", first.kernel + shape)
            for n in group if len(group) > 1 else ():
                call, took = self.calls[n], self.seconds[n]
                name = call.call or "as a whole, where it branches"
                took_text = "" if took is None else microseconds([took])
                yield columns(took_text, "", f"{call.bytes:,}", f"    {name}")
            for kernel in first.within:
                yield columns("", "", "", f"    {kernel}")


def microseconds(times: Sequence[float]) -> str:
    return f"{sum(times) * 1e6:,.1f} us" if times else ""


def columns(time: str, share: str, nbytes: str, name: str) -> str:
    """A row of the table."""
    return f"{time:>13}{share:>7}{nbytes if nbytes != '0' else '':>14}  {name}"
