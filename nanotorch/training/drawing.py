"""Small SVG drawings for the report: text that scales, colours that follow the page's theme."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import plain

Values = NDArray[Any]
POINTS = 600  # drawn of one line, so that a page stays small

WIDTH, HEIGHT = 480, 300
RIGHT, TOP, BOTTOM = 14, 14, 42
LONGEST = 7  # number on an axis that is not written as a power of ten
CHARACTER = 7.8  # width of a digit on an axis, at most
VALUES = 10  # told of each trace to those who cannot see it


def html(text: Any) -> str:
    """Text for a page: no markup, and no control characters."""
    return escape(plain(str(text)))


@dataclass
class Trace:
    """A line or dots: its points, its words in the legend, and its colour class (c0 … c9)."""

    label: str
    x: Values
    y: Values
    colour: str = "c0"
    dots: bool = False


@dataclass
class Plot:
    """A pair of axes; ranges follow the traces unless they are given."""

    traces: Sequence[Trace]
    x_words: str
    y_words: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    diagonal: str = ""  # words about the dotted line from corner to corner; none if empty
    marks: Sequence[tuple[float, float, str, str]] = field(
        default_factory=list
    )  # x, y, colour, words

    def svg(self) -> str:
        """The drawing with a legend under it."""
        frame = _Frame(
            self.x_range or _range([trace.x for trace in self.traces], margin=0.0),
            self.y_range or _range([trace.y for trace in self.traces], margin=0.06),
            whole=self.x_words == "epoch",
        )
        parts = frame.axes(self.x_words, self.y_words)
        legend = [(trace.colour, trace.label) for trace in self.traces]
        if self.diagonal:
            (x1, x2), (y1, y2) = map(frame.x, frame.x_range), map(frame.y, frame.x_range)
            parts.append(f'<line class="guide" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
            legend.append(("guide", self.diagonal))
        parts += [_trace(trace, frame) for trace in self.traces]
        for at, value, colour, words in self.marks:
            place = f'cx="{frame.x(at)}" cy="{frame.y(value)}"'
            parts.append(f'<circle class="mark {colour}" {place} r="5"/>')
            legend.append((f"{colour} ring", words))
        name, words = html(f"{self.y_words} over {self.x_words}"), html(self._words())
        drawing = (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
            f"<desc>{words}</desc>" + "".join(parts) + "</svg>"
        )
        return drawing + _legend(legend)

    def _words(self) -> str:
        """What the drawing shows: the range of each trace, and its values at some places."""
        sentences = []
        for trace in self.traces:
            known = np.flatnonzero(np.isfinite(trace.y))
            if len(known):
                low, high = trace.y[known].min(), trace.y[known].max()
                some = known[np.linspace(0, len(known) - 1, min(len(known), VALUES)).astype(int)]
                values = ", ".join(f"{trace.x[at]:.4g}: {trace.y[at]:.4g}" for at in some)
                sentences.append(
                    f"{trace.label}: {len(known)} points from {low:.4g} to {high:.4g}; {values}."
                )
        return " ".join([*sentences, *(f"{words}." for *_, words in self.marks)])


def _range(values: Sequence[Values], margin: float) -> tuple[float, float]:
    known = [v[np.isfinite(v)] for v in values]
    together = np.concatenate(known) if known else np.zeros(0)
    if not len(together):
        return 0.0, 1.0
    low, high = float(together.min()), float(together.max())
    if low == high:
        spread = abs(low) / 2 or 0.5
        return low - spread, high + spread
    return low - margin * (high - low), high + margin * (high - low)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between low and high, about `wanted` of them."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = 3 - math.floor(math.log10(step))
    return [round(at * step, digits) for at in range(first, last + 1)]


def tick_words(values: Sequence[float]) -> list[str]:
    """The numbers with as many digits as tell each from the next; powers of ten where shorter."""
    fixed, powers = _with_digits(values, "f"), _with_digits(values, "e")
    powers = [re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", word) for word in powers]
    longest = max(map(len, fixed), default=0)
    if longest <= LONGEST or longest <= max(map(len, powers)):
        return fixed
    return [word if float(word) else "0" for word in powers]


def _with_digits(values: Sequence[float], kind: str) -> list[str]:
    for digits in range(17):
        words = [f"{value:.{digits}{kind}}" for value in values]
        if [float(word) for word in words] == list(values):
            break
    return words


class _Frame:
    """Where a point of the axes is on the drawing; room is left for the longest number."""

    def __init__(
        self, x_range: tuple[float, float], y_range: tuple[float, float], whole: bool = False
    ) -> None:
        self.x_range, self.y_range = x_range, y_range
        self.y_ticks = ticks(*y_range)
        longest = max(map(len, tick_words(self.y_ticks)), default=1)
        self.left = 30 + round(CHARACTER * longest)
        for wanted in (5, 4, 3, 2, 1):
            self.x_ticks = [at for at in ticks(*x_range, wanted) if not whole or at == round(at)]
            width = CHARACTER * max(map(len, tick_words(self.x_ticks)), default=1) + 8
            if len(self.x_ticks) * width < WIDTH - self.left - RIGHT:
                break

    def x(self, value: float) -> float:
        share = (value - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        return round(self.left + share * (WIDTH - self.left - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self, x_words: str, y_words: str) -> list[str]:
        """Grid, numbers and words."""
        parts = []
        left, right, bottom = self.left, WIDTH - RIGHT, HEIGHT - BOTTOM
        for value, words in zip(self.y_ticks, tick_words(self.y_ticks), strict=True):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
            parts.append(f'<text x="{left - 7}" y="{y + 4}" text-anchor="end">{words}</text>')
        for value, words in zip(self.x_ticks, tick_words(self.x_ticks), strict=True):
            x = self.x(value)
            parts.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>')
            middle = min(x, WIDTH - 2 - CHARACTER * len(words) / 2)
            parts.append(
                f'<text x="{middle:.1f}" y="{bottom + 19}" text-anchor="middle">{words}</text>'
            )
        middle = (TOP + bottom) / 2
        parts.append(
            f'<text class="words" x="{(left + right) / 2}" y="{HEIGHT - 6}" '
            f'text-anchor="middle">{html(x_words)}</text>'
            f'<text class="words" x="13" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 13 {middle})">{html(y_words)}</text>'
        )
        return parts


def _trace(trace: Trace, frame: _Frame) -> str:
    keep = np.linspace(0, len(trace.x) - 1, min(len(trace.x), POINTS)).astype(np.int64)
    points = [
        (frame.x(float(a)), frame.y(float(b)))
        for a, b in zip(trace.x[keep], trace.y[keep], strict=True)
        if math.isfinite(b)
    ]
    if trace.dots or len(points) == 1:
        kind = f'class="dot {trace.colour}" r="4"'
        return "".join(f'<circle {kind} cx="{a}" cy="{b}"/>' for a, b in points)
    path = " ".join(f"{a},{b}" for a, b in points)
    return f'<polyline class="line {trace.colour}" points="{path}"/>'


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    shown = "".join(f'<span><i class="{kind}"></i>{html(words)}</span>' for kind, words in entries)
    return f'<div class="legend">{shown}</div>'


def bars(names: Sequence[str], values: Sequence[float]) -> str:
    """Horizontal bars to the left and right of zero, a row each."""
    longest = max((abs(value) for value in values), default=0.0) or 1.0
    rows = []
    for name, value in zip(names, values, strict=True):
        share = 50 * abs(value) / longest
        start = 50 - share if value < 0 else 50
        colour = "c1" if value < 0 else "c0"
        rows.append(
            f'<tr><th scope="row">{html(name)}</th><td class="bar"><i class="{colour}" '
            f'style="left:{start:.2f}%;width:{share:.2f}%"></i></td><td>{value:+.4g}</td></tr>'
        )
    caption = "<caption>of standardized features</caption>"
    return f'<table class="bars">{caption}{"".join(rows)}</table>'


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix: rows are the truth, columns what was predicted."""
    head = "".join(f'<th scope="col">{html(name)}</th>' for name in names)
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(f'<td style="--share:{count / total:.3f}">{count:,}</td>' for count in row)
        rows.append(f'<tr><th scope="row">{html(name)}</th>{cells}</tr>')
    # The first column is as wide as the longest name; all others share the rest, and the table
    # scrolls where that is less than a number needs.
    width = 0.6 * min(14, max(len(name) for name in names)) + 1
    least = width + 2.6 * len(names)
    body = f'<col style="width:{width:.1f}em"><tr><td></td>{head}</tr>{"".join(rows)}'
    caption = "<caption>rows are the truth, columns what was predicted</caption>"
    return wide(f'<table class="matrix" style="min-width:{least:.0f}em">{caption}{body}</table>')


def wide(table: str) -> str:
    """A table that scrolls by itself, also by the keyboard, where it is larger than its place."""
    return f'<div class="wide" tabindex="0">{table}</div>'
