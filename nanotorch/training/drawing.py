"""Small SVG drawings for the report: text that scales, colours that follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
POINTS = 600  # drawn of one line, so that a page stays small

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 42


@dataclass
class Trace:
    """A line or dots: its points, its words in the legend, and its colour class (c0 … c6)."""

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
    diagonal: bool = False
    marks: Sequence[tuple[float, float, str, str]] = field(
        default_factory=list
    )  # x, y, colour, words

    def svg(self) -> str:
        """The drawing, with a legend under it where there is more than one thing to tell apart."""
        x = self.x_range or _range([trace.x for trace in self.traces], margin=0.0)
        y = self.y_range or _range([trace.y for trace in self.traces], margin=0.06)
        parts = [*_axes(x, y, self.x_words, self.y_words)]
        if self.diagonal:
            parts.append(
                f'<line class="guide" x1="{_x(x[0], x)}" y1="{_y(x[0], y)}" '
                f'x2="{_x(x[1], x)}" y2="{_y(x[1], y)}"/>'
            )
        parts += [_trace(trace, x, y) for trace in self.traces]
        legend = [(trace.colour, trace.label, False) for trace in self.traces if trace.label]
        for at, value, colour, words in self.marks:
            parts.append(
                f'<circle class="mark {colour}" cx="{_x(at, x)}" cy="{_y(value, y)}" r="5"/>'
            )
            legend.append((colour, words, True))
        name = escape(f"{self.y_words} over {self.x_words}")
        drawing = (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
            + f"<desc>{escape(self._words())}</desc>"
            + "".join(parts)
            + "</svg>"
        )
        return drawing + (_legend(legend) if legend else "")

    def _words(self) -> str:
        """What the drawing shows, in a sentence for each trace."""
        sentences = []
        for trace in self.traces:
            known = np.flatnonzero(np.isfinite(trace.y))
            if len(known):
                first, last = known[0], known[-1]
                low, high = trace.y[known].min(), trace.y[known].max()
                sentences.append(
                    f"{trace.label or self.y_words}: {len(known)} points from "
                    f"({trace.x[first]:.4g}, {trace.y[first]:.4g}) to ({trace.x[last]:.4g}, "
                    f"{trace.y[last]:.4g}), between {low:.4g} and {high:.4g}."
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


def _x(value: float, scale: tuple[float, float]) -> float:
    share = (value - scale[0]) / (scale[1] - scale[0])
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, scale: tuple[float, float]) -> float:
    share = (value - scale[0]) / (scale[1] - scale[0])
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between low and high, about `wanted` of them."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (1, 2, 2.5, 5, 10) if power * size >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(at * step, 12) for at in range(first, last + 1)]


def _axes(x: tuple[float, float], y: tuple[float, float], x_words: str, y_words: str) -> list[str]:
    parts = []
    for at in ticks(*y):
        place = _y(at, y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{place}" x2="{WIDTH - RIGHT}" y2="{place}"/>'
        )
        parts.append(f'<text x="{LEFT - 7}" y="{place + 4}" text-anchor="end">{at:g}</text>')
    for at in ticks(*x):
        place = _x(at, x)
        parts.append(
            f'<line class="grid" x1="{place}" y1="{TOP}" x2="{place}" y2="{HEIGHT - BOTTOM}"/>'
        )
        parts.append(
            f'<text x="{place}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{at:g}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="words" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_words)}</text>'
        f'<text class="words" x="13" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 13 {middle})">{escape(y_words)}</text>'
    )
    return parts


def _trace(trace: Trace, x: tuple[float, float], y: tuple[float, float]) -> str:
    keep = np.linspace(0, len(trace.x) - 1, min(len(trace.x), POINTS)).astype(np.int64)
    points = [
        (_x(float(a), x), _y(float(b), y))
        for a, b in zip(trace.x[keep], trace.y[keep], strict=True)
        if math.isfinite(b)
    ]
    if trace.dots or len(points) == 1:
        kind = f'class="dot {trace.colour}" r="4"'
        return "".join(f'<circle {kind} cx="{a}" cy="{b}"/>' for a, b in points)
    path = " ".join(f"{a},{b}" for a, b in points)
    return f'<polyline class="line {trace.colour}" points="{path}"/>'


def _legend(entries: Sequence[tuple[str, str, bool]]) -> str:
    shown = "".join(
        f'<span><i class="{colour}{" ring" if ring else ""}"></i>{escape(words)}</span>'
        for colour, words, ring in entries
    )
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
            f'<tr><th scope="row">{escape(name)}</th><td class="bar"><i class="{colour}" '
            f'style="left:{start:.2f}%;width:{share:.2f}%"></i></td><td>{value:+.3f}</td></tr>'
        )
    caption = "<caption>of standardized features</caption>"
    return f'<table class="bars">{caption}{"".join(rows)}</table>'


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix: rows are the truth, columns what was predicted."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(f'<td style="--share:{count / total:.3f}">{count:,}</td>' for count in row)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    # The first column is as wide as the longest name; all others share the rest.
    width = 0.6 * min(14, max(len(name) for name in names)) + 1
    body = f'<col style="width:{width:.1f}em"><tr><td></td>{head}</tr>{"".join(rows)}'
    caption = "<caption>rows are the truth, columns what was predicted</caption>"
    return f'<div class="wide" tabindex="0"><table class="matrix">{caption}{body}</table></div>'
