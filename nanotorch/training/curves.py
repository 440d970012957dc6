"""Loss and metric curves from metrics.jsonl, as PNG for looking and SVG for papers."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.config.reader import load
from nanotorch.training.config.sections import flat_values
from nanotorch.training.errors import InputError, plain, reading
from nanotorch.training.files import write_whole
from nanotorch.training.metrics import METRICS as MEASURES
from nanotorch.training.run_folder import CONFIG, EVENTS, METRICS, SUMMARY, read_log

INK, FAINT, PAPER = "#1f2933", "#d8dee5", "#ffffff"
COLOURS = {"train": "#2f6fb3", "validation": "#d9622b"}
MORE_COLOURS = ("#2f6fb3", "#d9622b", "#3a9a5b", "#8a56b8", "#b8952c", "#5f6b76", "#c2447e")
POINTS = 2000  # drawn of one line; more are shown as a band from lowest to highest

Values = NDArray[np.float64]


@dataclass
class Line:
    """One curve: epochs and values (NaN where a value is missing)."""

    label: str
    epochs: Values
    values: Values
    colour: str
    dashed: bool = False


@dataclass
class Chart:
    """What one figure shows."""

    quantity: str
    lines: list[Line]
    title: str = ""
    best: tuple[int, float] | None = None  # epoch and value
    resumed: list[int] = field(default_factory=list)  # epochs at which the run was resumed
    log_scale: bool = False
    smoothing: float = 0.0


def series(records: Sequence[dict[str, Any]], key: str) -> tuple[Values, Values]:
    """Epochs and values of one key of the log, where it is there."""
    with reading("metrics.jsonl", "the log of a run"):
        pairs = [(float(r["epoch"]), r[key]) for r in records if key in r]
        epochs = np.array([epoch for epoch, _ in pairs], dtype=np.float64)
        values = np.array([math.nan if v is None else v for _, v in pairs], dtype=np.float64)
        return epochs, values


def smooth(values: Values, weight: float) -> Values:
    """Exponential moving average without the pull of its start: a constant stays constant."""
    out = np.empty_like(values)
    total = share = 0.0
    for at, value in enumerate(values):
        if not math.isnan(value):
            total = weight * total + (1 - weight) * value
            share = weight * share + (1 - weight)
        out[at] = total / share if share else math.nan
    return out


def binned(epochs: Values, values: Values) -> tuple[Values, Values, Values, Values]:
    """At most POINTS points: epoch, mean, lowest and highest value of each bin."""
    if len(values) <= POINTS:
        return epochs, values, values, values
    edges = np.linspace(0, len(values), POINTS + 1).astype(np.int64)[:-1]
    counts = np.diff(np.append(edges, len(values)))
    known = np.add.reduceat(~np.isnan(values), edges, dtype=np.float64)
    mean = np.add.reduceat(np.nan_to_num(values), edges) / np.where(known, known, math.nan)
    return (
        np.add.reduceat(epochs, edges) / counts,
        mean,
        np.fmin.reduceat(values, edges),
        np.fmax.reduceat(values, edges),
    )


def chart_of_run(
    folder: Path, quantity: str = "loss", log_scale: bool = False, smoothing: float = 0.0
) -> Chart:
    """Training and validation values of one quantity of a run, with its best epoch."""
    records = read_log(folder / METRICS)
    with reading(folder / METRICS, "the log of a run"):
        return _chart(folder, records, quantity, log_scale, smoothing)


def _chart(
    folder: Path,
    records: list[dict[str, Any]],
    quantity: str,
    log_scale: bool,
    smoothing: float,
) -> Chart:
    lines = []
    for part in ("train", "validation"):
        epochs, values = series(records, f"{part}/{quantity}")
        if len(epochs):
            lines.append(Line(part, epochs, values, COLOURS[part]))
    if not records:
        raise InputError(f"{folder / METRICS}: no epoch is recorded yet: there is nothing to draw")
    if not lines:
        raise InputError(
            f"{folder}: no epoch has {quantity!r}; recorded are {_recorded([records])}"
        )
    return Chart(
        quantity,
        lines,
        title=folder.name,
        best=best_point(lines[-1], quantity),
        resumed=resume_points(folder),
        log_scale=log_scale,
        smoothing=smoothing,
    )


def chart_of_runs(
    folders: Sequence[Path],
    quantity: str = "loss",
    part: str = "both",
    log_scale: bool = False,
    smoothing: float = 0.0,
) -> Chart:
    """One quantity of several runs; the legend names the keys in which they differ."""
    names = _labels(folders)
    if quantity == "loss" and len(losses := {_loss_of(folder) for folder in folders} - {""}) > 1:
        raise InputError(f"plot: {' and '.join(sorted(losses))} cannot share an axis")
    if len(folders) == 1 and part == "both":
        return chart_of_run(folders[0], quantity, log_scale, smoothing)
    parts = ("validation", "train") if part == "both" else (part,)
    lines = []
    for number, (folder, words) in enumerate(zip(folders, names, strict=True)):
        records = read_log(folder / METRICS)
        for each in parts:
            epochs, values = series(records, f"{each}/{quantity}")
            if len(epochs):
                colour = MORE_COLOURS[number % len(MORE_COLOURS)]
                dashed = part == "both" and each == "train"
                label = "" if dashed else words
                lines.append(Line(label, epochs, values, colour, dashed))
    if not lines:
        known = _recorded([read_log(folder / METRICS) for folder in folders])
        raise InputError(f"no run has {quantity!r} of {part}; recorded are {known}")
    title = "solid: validation, dashed: train" if part == "both" else part
    return Chart(quantity, lines, title, log_scale=log_scale, smoothing=smoothing)


def _recorded(logs: Sequence[Sequence[dict[str, Any]]]) -> str:
    """The quantities of every epoch, by name."""
    keys = (key.partition("/")[2] for log in logs for record in log for key in record)
    return ", ".join(sorted({key for key in keys if key}))


def _loss_of(folder: Path) -> str:
    """What the loss of a run is: by its summary, or its model and metrics while it goes on."""
    if (folder / SUMMARY).is_file():
        with reading(folder / SUMMARY, "the summary of a run"):
            task = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["data"]["task"]
            return "squared errors" if task == "regression" else "cross-entropies"
    by_model = {"linear": "squared errors", "logistic": "cross-entropies"}
    by_metrics = [
        "squared errors" if "regression" in MEASURES[name].tasks else "cross-entropies"
        for name in _recorded([read_log(folder / METRICS)]).split(", ")
        if name in MEASURES
    ]
    return by_model.get(load(folder / CONFIG).model.name, by_metrics[0] if by_metrics else "")


def _labels(folders: Sequence[Path]) -> list[str]:
    """For each run, the values of the keys in which the runs differ; its name if there are none."""
    configs = []
    for folder in folders:
        if not (folder / CONFIG).is_file():
            raise InputError(f"{folder}: not a run folder (it has no {CONFIG})")
        configs.append(flat_values(load(folder / CONFIG)))
    keys = dict.fromkeys(key for config in configs for key in config)
    different = [
        key
        for key in keys
        if key != "name" and len({repr(config.get(key)) for config in configs}) > 1
    ]
    return [
        ", ".join(f"{key.rpartition('.')[2]} {config[key]}" for key in different if key in config)
        or folder.name
        for folder, config in zip(folders, configs, strict=True)
    ]


def best_point(line: Line, quantity: str) -> tuple[int, float] | None:
    """The epoch with the best value of a line: the first, where several are equal."""
    if np.isnan(line.values).all():
        return None
    more = quantity in MEASURES and MEASURES[quantity].more_is_better
    at = int(np.nanargmax(line.values) if more else np.nanargmin(line.values))
    return int(line.epochs[at]), float(line.values[at])


def resume_points(folder: Path) -> list[int]:
    """The epochs at which the run was resumed, once each."""
    events = read_log(folder / EVENTS)
    with reading(folder / EVENTS, "the events of a run"):
        return sorted({int(record["epoch"]) for record in events if record["event"] == "resume"})


def figure(chart: Chart, width: float = 7.0, height: float = 4.2) -> Any:
    """A matplotlib Figure of the chart, in inches; `figure(...).axes[0]` may be changed further."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn: Any = Figure(figsize=(width, height), facecolor=PAPER)
    drawn._repr_png_ = partial(picture, drawn, "png")  # a notebook needs no `%matplotlib inline`
    FigureCanvasAgg(drawn)
    # Fixed margins: fitting them to the words would lay out all text twice.
    drawn.subplots_adjust(
        left=0.78 / width, right=1 - 0.2 / width, bottom=0.6 / height, top=1 - 0.5 / height
    )
    axes = drawn.subplots()
    left_out = 0
    for line in chart.lines:
        left_out += _draw_line(axes, chart, line)
    _dress(axes, chart, left_out)
    if chart.resumed:
        for at, epoch in enumerate(chart.resumed):
            label = "resumed" if at == 0 else None
            axes.axvline(epoch, color="#9aa5b1", linewidth=0.9, linestyle=":", label=label)
    if chart.best is not None:
        _mark_best(axes, chart)
    axes.legend(
        facecolor=PAPER,
        edgecolor="none",
        framealpha=0.9,
        labelcolor=INK,
        fontsize=9.5,
        loc="best",
        handlelength=1.6,
    )
    return drawn


def _draw_line(axes: Any, chart: Chart, line: Line) -> int:
    """Draw one line; how many values a logarithmic axis cannot show."""
    values = line.values
    left_out = 0
    if chart.log_scale:
        with np.errstate(invalid="ignore"):
            hidden = ~(values > 0) & ~np.isnan(values)
        left_out = int(hidden.sum())
        values = np.where(hidden, math.nan, values)
    epochs, mean, low, high = binned(line.epochs, values)
    marker = "o" if len(mean) == 1 else None
    if chart.smoothing:
        axes.plot(epochs, mean, color=line.colour, linewidth=0.9, alpha=0.3)
        mean = smooth(mean, chart.smoothing)
    if len(values) > POINTS:
        axes.fill_between(epochs, low, high, color=line.colour, alpha=0.2, linewidth=0)
    axes.plot(
        epochs, mean, color=line.colour, linewidth=1.2 if line.dashed else 1.9, marker=marker,
        linestyle="--" if line.dashed else "-", label=_words(line.label) or None,
        solid_capstyle="round", solid_joinstyle="round",
    )  # fmt: skip
    return left_out


def _words(text: str) -> str:
    """Text that matplotlib draws as it is: it takes what stands between dollars for a formula."""
    return plain(text).replace("$", r"\$")


def _dress(axes: Any, chart: Chart, left_out: int) -> None:
    """Axes, grid and words."""
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor(PAPER)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa5b1")
    axes.grid(True, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9.5, length=3, color="#9aa5b1")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    words = chart.quantity.replace("_", " ")
    if chart.log_scale:
        axes.set_yscale("log")
        words += " (logarithmic)"
    if left_out:
        words += f"\n{left_out} values <= 0 not shown"
    axes.set_xlabel("epoch", color=INK, fontsize=10.5)
    axes.set_ylabel(words, color=INK, fontsize=10.5)
    if chart.title:
        axes.set_title(
            _words(chart.title), color=INK, fontsize=12, loc="left", pad=10, weight="bold"
        )


def _mark_best(axes: Any, chart: Chart) -> None:
    assert chart.best is not None
    epoch, value = chart.best
    if chart.log_scale and value <= 0:
        return
    axes.plot(
        [epoch], [value], marker="o", markersize=7, markerfacecolor=PAPER,
        markeredgecolor=chart.lines[-1].colour, markeredgewidth=1.9, linestyle="none", zorder=5,
        label=f"best: {value:.4g} in epoch {epoch}",
    )  # fmt: skip


def save_figure(drawn: Any, path: Path) -> Path:
    """Write NAME.png or NAME.svg, whole or not at all; the same bytes for the same figure."""
    write_whole(path, picture(drawn, path.suffix[1:].lower()))
    return path


def picture(drawn: Any, kind: str) -> bytes:
    """The bytes of a "png" or "svg" file, the same for the same figure."""
    import matplotlib

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "nanotorch", "path.simplify": True}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box stands for it
        options: Any = {"dpi": 160} if kind == "png" else {"metadata": {"Date": None}}
        buffer = io.BytesIO()
        drawn.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def spans(chart: Chart, factor: float = 100.0) -> bool:
    """Whether all values are above 0 and the largest is `factor` times the smallest."""
    values = np.concatenate([line.values for line in chart.lines])
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() >= factor * values.min())


def draw_curves(
    folder: Path,
    log_scale: str = "auto",
    smoothing: float = 0.0,
    quantities: Sequence[str] = ("loss",),
) -> list[Path]:
    """Draw QUANTITY.png and QUANTITY.svg of a run folder.

    Only the loss may be logarithmic: "always", "never", or "auto", where it falls by a factor of
    100 and stays above 0.
    """
    written = []
    for quantity in quantities:
        chart = chart_of_run(folder, quantity, smoothing=smoothing)
        if quantity == "loss":
            chart.log_scale = log_scale == "always" or (log_scale == "auto" and spans(chart))
        drawn = figure(chart)
        written += [save_figure(drawn, folder / f"{quantity}.{kind}") for kind in ("png", "svg")]
    return written
