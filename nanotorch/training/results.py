"""A finished run, and what it says in the terminal."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from nanotorch.training.config.sections import Config, differences, flat_values
from nanotorch.training.curves import chart_of_run, figure
from nanotorch.training.data.prepare import Prepared
from nanotorch.training.errors import plain
from nanotorch.training.live import history_png
from nanotorch.training.metrics import Outcome
from nanotorch.training.run_folder import METRICS, read_log

QUALITIES = {"baseline_accuracy": "most frequent alone"}  # that have words of their own
REPEATED = ("seed", "data.fold")  # keys in which runs of one configuration differ


@dataclass
class Finished:
    """A run that is over: its folder, its summary, and what the model said about each part."""

    config: Config
    folder: Path
    summary: dict[str, Any]
    outcomes: dict[str, Outcome]
    data: Prepared

    def figure(self, quantity: str = "loss") -> Any:
        """The curves of the loss or of a metric of every epoch, as a matplotlib Figure."""
        return figure(chart_of_run(self.folder, quantity))

    def _repr_html_(self) -> str:
        """The report inline, as notebooks show it."""
        path = self.folder / "report.html"
        page = escape(path.read_text(encoding="utf-8")) if path.is_file() else last_line(self)
        return f'<iframe srcdoc="{page}" style="width:100%;height:800px;border:0"></iframe>'

    def _repr_png_(self) -> bytes | None:
        """The loss curve, for what shows pictures but no pages."""
        return history_png(read_log(self.folder / METRICS))


def last_line(run: Finished) -> str:
    """The quality on the held-out rows, and where everything lies."""
    part = next(name for name in ("test", "validation", "train") if name in run.summary)
    measured = run.summary[part]
    name = "r2" if "r2" in measured else "accuracy"
    best = run.summary["best_epoch"] if run.config.stopping.restore_best else None
    words = f"{part} {name} {_four(measured[name])}, loss {_four(measured['loss'])}"
    chosen = "the last epoch" if best is None else f"epoch {best}"
    baseline = ""
    if "baseline_accuracy" in measured:
        baseline = f"; the most frequent class alone: {measured['baseline_accuracy']:.4f}"
    return f"{words} (weights of {chosen}{baseline}); run folder {run.folder}"


def comparison(runs: list[Finished]) -> str:
    """The table of several runs as text."""
    table = comparison_table(runs)
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in table
    ]
    return "\n".join(["", *(line.rstrip() for line in lines)])


def comparison_table(runs: list[Finished]) -> list[list[str]]:
    """The names of the columns, and a row for each run: the keys in which they differ, and their
    results; then a row for the runs that differ in seed or fold alone."""
    varied = list(
        dict.fromkeys(key for run in runs[1:] for key in differences(runs[0].config, run.config))
    )
    quantities = _quantities(runs)
    rows = []
    for run in runs:
        values = flat_values(run.config)
        row = [_shown(values.get(key)) for key in varied]
        row += [_four(value) for value in _numbers(run, quantities)]
        rows.append([*row, str(run.folder)])
    rows += _over_seeds(runs, varied, quantities)
    words = [QUALITIES.get(key, f"{part} {key}") for part, key in quantities]
    return [[*varied, *words, "run folder"], *rows]


def _quantities(runs: list[Finished]) -> list[tuple[str, str]]:
    """Parts and keys of the numbers in the table: what some run has."""
    parts = [part for part in ("validation", "test") if any(part in run.summary for run in runs)]
    parts = parts or ["train"]
    if "validation" not in parts and parts[0] == "test":
        parts.insert(0, "train")
    losses = [(part, "loss") for part in parts]
    keys = ("accuracy", *QUALITIES, "r2")
    last = parts[-1]
    return losses + [
        (last, key) for key in keys if any(key in run.summary.get(last, {}) for run in runs)
    ]


def _numbers(run: Finished, quantities: list[tuple[str, str]]) -> list[float | None]:
    """The numbers of a run in the table of several; None where it has none."""
    return [run.summary.get(part, {}).get(key) for part, key in quantities]


def _over_seeds(
    runs: list[Finished], varied: list[str], quantities: list[tuple[str, str]]
) -> list[list[str]]:
    """A row of mean ± standard deviation for the runs that differ in seed or fold alone."""
    others = [key for key in varied if key not in REPEATED]
    groups: dict[tuple[str, ...], list[Finished]] = {}
    for run in runs if set(varied) & set(REPEATED) else []:
        values = flat_values(run.config)
        groups.setdefault(tuple(_shown(values.get(key)) for key in others), []).append(run)
    rows = []
    for values_of_group, members in groups.items():
        if len(members) > 1:
            said = dict(zip(others, values_of_group, strict=True))
            row = [said.get(key, f"mean of {len(members)}") for key in varied]
            columns = zip(*(_numbers(run, quantities) for run in members), strict=True)
            rows.append([*row, *map(_spread, columns), "± standard deviation"])
    return rows


def _spread(values: tuple[float | None, ...]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return "–"
    return f"{statistics.mean(known):.4f} ± {statistics.stdev(known):.4f}"


def _four(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else plain(str(value))
