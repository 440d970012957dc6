"""Pictures of a compiled step: what takes how long, and which memory holds what, and when.

    step = nt.compile(step)
    step(x, y)                              # runs as it is, and is recorded
    step.explain(x, y)                      # runs once more, with a stopwatch
    viz.plan(step).save("plan.svg")

Above stands one bar for each call, with its time. Below lies the memory: a row for each block, in
it a box for each value, from the call that writes it to the last one that uses it.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanotorch.compile.explanation import Explanation

KINDS = (".png", ".svg", ".pdf")
INK, FAINT, BAND, PAPER = "#1f2933", "#d8dee5", "#f3f5f7", "#ffffff"
COLOURS = {
    "matrix products": "#2f6fb3",
    "losses": "#d9622b",
    "activations": "#3a9a5b",
    "normalization": "#8a56b8",
    "reductions": "#b8952c",
    "elementwise": "#7b8794",
    "moving": "#2a9d9d",
    "random numbers": "#c2447e",
    "pass over rows": "#2f6fb3",
    "live calls": "#3e4c59",
}
# In inches: how wide a call is at best, and how high a block; a character, per point of its font.
CALL, BLOCK, CHARACTER = 0.4, 0.34, 0.0086
NARROWEST, WIDEST, HIGHEST = 8.0, 30.0, 12.0


class PlanPicture:
    """The picture of a plan. In a notebook it shows itself; elsewhere `save` writes it."""

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation

    def figure(self) -> Any:
        """The picture as a matplotlib figure."""
        return _draw(self.explanation)

    def svg(self) -> str:
        """The picture as a self-contained SVG document."""
        return self._written(".svg").decode()

    def save(self, path: str | Path) -> None:
        """Write the picture (`.png`, `.svg` or `.pdf`); else ValueError."""
        path = Path(path)
        if path.suffix not in KINDS:
            raise ValueError(
                f"viz: expected a file name ending in .png, .svg or .pdf, got '{path}'"
            )
        path.write_bytes(self._written(path.suffix))

    def _written(self, suffix: str) -> bytes:
        import matplotlib

        buffer = io.BytesIO()
        date = "CreationDate" if suffix == ".pdf" else "Date"
        settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "nanotorch"}
        with matplotlib.rc_context(settings):
            self.figure().savefig(
                buffer,
                format=suffix[1:],
                dpi=130,
                metadata=None if suffix == ".png" else {date: None},
            )
        return buffer.getvalue()

    def _repr_svg_(self) -> str:
        return self.svg()


def plan(step: Any) -> PlanPicture:
    """The picture of what a compiled step does when it is replayed.

    step: a function or module that `nanotorch.compile` has made, which then is drawn as it was last
    recorded, or what its `plan()` or `explain(…)` returned. Bars show times where `explain` has
    taken them, else the bytes that are read and written. RuntimeError where nothing is recorded.
    """
    if hasattr(step, "calls") and hasattr(step, "blocks"):
        return PlanPicture(step)
    if not hasattr(step, "explain"):
        raise TypeError(
            f"viz.plan: expected what nanotorch.compile returns, got {type(step).__name__}"
        )
    return PlanPicture(step.plan())


# ---- drawing ----


def _draw(explanation: Explanation) -> Any:
    from matplotlib.figure import Figure

    count, blocks = max(len(explanation.calls), 1), max(len(explanation.blocks), 1)
    width = min(max(count * CALL, NARROWEST), WIDEST)
    call = width / count
    height = min(max(blocks * BLOCK, 1.0), HIGHEST)
    headings = _headings(explanation, call)
    names = _names(explanation)
    labels = _labels(explanation, names, headings)
    size = min(8.0, call * 72 * 0.75)
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    figure = Figure(
        figsize=(width + 1.0, 2.6 + longest * size * CHARACTER + height + 1.1),
        facecolor=PAPER, layout="constrained",
    )  # fmt: skip
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, height))
    for axes in (above, below):
        _dress(axes, explanation)
    _bars(above, explanation, call)
    _write(above, headings, labels, size)
    _boxes(below, explanation, names, call, height / blocks)
    title = f"plan of {explanation.name}: "
    if explanation.replays:
        total = sum(s for s in explanation.seconds if s is not None)
        title += f"{total * 1e6:,.1f} us, "
    figure.suptitle(
        title + explanation.memory, color=INK, fontsize=12, weight="bold", x=0.01, ha="left"
    )
    return figure


def _dress(axes: Any, explanation: Explanation) -> None:
    """Frame and ground: the calls of one kernel stand on one band."""
    axes.set_facecolor(PAPER)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa5b1")
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for number, numbers in enumerate(explanation.kernels()):
        if number % 2:
            axes.axvspan(numbers[0] - 0.5, numbers[-1] + 0.5, color=BAND, linewidth=0, zorder=0)
    axes.set_xlim(-0.6, len(explanation.calls) - 0.4)


def _bars(axes: Any, explanation: Explanation, width: float) -> None:
    """One bar for each call: its time, or the bytes that it reads and writes."""
    from matplotlib.patches import Patch

    calls, timed = explanation.calls, bool(explanation.replays)
    heights = [float(call.bytes) for call in calls]
    if timed:
        heights = [(seconds or 0.0) * 1e6 for seconds in explanation.seconds]
    axes.bar(
        range(len(calls)), heights, width=0.72, zorder=2,
        color=[COLOURS[call.family] for call in calls],
    )  # fmt: skip
    axes.grid(True, axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_ylabel("us" if timed else "bytes read and written", color=INK, fontsize=9)
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.set_ylim(0, max([*heights, 1e-9]) * 1.2)  # with room for headings
    for x, height in enumerate(heights):
        text = f"{height:.1f}" if timed and height < 100 else f"{height:,.0f}"
        if height and len(text) * 7 * CHARACTER < width:
            axes.annotate(
                text, (x, height), (0, 2), textcoords="offset points", ha="center",
                fontsize=7, color=INK,
            )  # fmt: skip
    families = [f for f in COLOURS if any(c.family == f for c in calls)]
    axes.legend(
        handles=[Patch(color=COLOURS[f], label=f) for f in families], ncols=len(families),
        loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=8, labelcolor=INK,
        handlelength=1.0, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _headings(explanation: Explanation, width: float) -> dict[int, tuple[float, str]]:
    """Of kernels with several calls, by the first one: where the name stands, if it has room."""
    headings = {}
    for numbers in explanation.kernels():
        room = int(len(numbers) * width / (7 * CHARACTER)) - 1
        name = explanation.calls[numbers[0]].kernel
        rows = textwrap.wrap(name.replace("_", " "), max(room, 1), break_long_words=False)
        if len(numbers) > 1 and max(map(len, rows)) <= room and len(rows) <= 3:
            text = "\n".join(row.replace(" ", "_") for row in rows)
            headings[numbers[0]] = ((numbers[0] + numbers[-1]) / 2, text.replace("\n", "_\n"))
    return headings


def _names(explanation: Explanation) -> list[str]:
    """What each call is called: as its kernel, where that has no other call."""
    names = []
    for numbers in explanation.kernels():
        for call in (explanation.calls[n] for n in numbers):
            names.append(call.kernel if len(numbers) == 1 else call.call or "as a whole")
    return names


def _labels(
    explanation: Explanation, names: list[str], headings: dict[int, tuple[float, str]]
) -> list[str]:
    """What stands below each bar: its name, and first that of the kernel which has no heading."""
    labels = list(names)
    for numbers in explanation.kernels():
        if len(numbers) > 1 and numbers[0] not in headings:
            labels[numbers[0]] = f"{explanation.calls[numbers[0]].kernel}: {names[numbers[0]]}"
    return ["\n".join(textwrap.wrap(label, 26)) for label in labels]


def _write(
    axes: Any, headings: dict[int, tuple[float, str]], labels: list[str], size: float
) -> None:
    """Headings above the bars, and labels below, where they can be read."""
    if size >= 4:
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size, color=INK)
        axes.tick_params(axis="x", labelbottom=True)
    for middle, text in headings.values():
        axes.text(
            middle, 0.985, text, transform=axes.get_xaxis_transform(), ha="center", va="top",
            fontsize=7, color=INK, linespacing=1.05, zorder=3,
        )  # fmt: skip


def _boxes(
    axes: Any, explanation: Explanation, names: list[str], width: float, height: float
) -> None:
    """A row for each block of memory, and a box in it for each value that it holds."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    values = sorted(explanation.values, key=lambda v: (v.block, v.first))
    gap = min(0.08, 0.03 / width)
    for value, after in itertools.zip_longest(values, values[1:]):
        start, end = value.first - 0.5, value.last + 0.5
        if after is not None and after.block == value.block:
            end = min(end, after.first - 0.5)  # what is written in place of a value ends it
        if end <= start:
            continue
        call = explanation.calls[value.first]
        colour = COLOURS[call.family]
        box = FancyBboxPatch(
            (start + gap, value.block - 0.4), end - start - 2 * gap, 0.8,
            boxstyle=f"round,pad=0,rounding_size={gap}", mutation_aspect=width / height,
            facecolor=[1 - 0.3 * (1 - part) for part in to_rgb(colour)], edgecolor=colour,
            linestyle="--" if value.stays else "-", zorder=3,
        )  # fmt: skip
        axes.add_patch(box)
        name, shape = names[value.first], str(value.shape)
        if call.family == "pass over rows":
            name = "sum over rows"
        for text in (f"{name} {shape}", f"{name}\n{shape}", name, shape):
            rows = text.split("\n")
            size = min(7.0, height * 72 * 0.65 / len(rows))
            wide = (max(map(len, rows)) * size + 6) * CHARACTER
            if wide <= (end - start) * width and size >= (6 if len(rows) > 1 else 3):
                axes.text(
                    (start + end) / 2, value.block, text, ha="center", va="center", fontsize=size,
                    color=INK, zorder=4, linespacing=1.05,
                )  # fmt: skip
                break
    axes.set_ylim(len(explanation.blocks) - 0.4, -0.6)
    axes.set_yticks(
        range(len(explanation.blocks)), [_size(block) for block in explanation.blocks],
        fontsize=min(8.0, height * 72 * 0.75),
    )  # fmt: skip
    axes.set_ylabel("blocks of memory", color=INK, fontsize=9)
    axes.set_xlabel(
        "a box lasts from the call that writes a value to the last one that uses it; dashed: it "
        "leaves the step",
        color=INK, fontsize=8,
    )  # fmt: skip
    axes.tick_params(axis="x", labelbottom=False)


def _size(count: int) -> str:
    """A number of bytes for people."""
    for unit, bytes_of in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= bytes_of:
            return f"{count / bytes_of:.3g} {unit}"
    return f"{count} B"
