"""A finished run, and what it says in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanotorch.training.config.sections import Config, differences, flat_values
from nanotorch.training.data.prepare import Prepared
from nanotorch.training.errors import plain
from nanotorch.training.metrics import Outcome


@dataclass
class Finished:
    """A run that is over: its folder, its summary, and what the model said about each part."""

    config: Config
    folder: Path
    summary: dict[str, Any]
    outcomes: dict[str, Outcome]
    data: Prepared


def last_line(run: Finished) -> str:
    """The quality on the held-out rows, and where everything lies."""
    part = next(name for name in ("test", "validation", "train") if name in run.summary)
    measured = run.summary[part]
    name = "r2" if "r2" in measured else "accuracy"
    best = run.summary["best_epoch"]
    words = f"{part} {name} {measured[name]:.4f}, loss {measured['loss']:.4f}"
    return f"{words} (weights of epoch {best}); run folder {run.folder}"


def comparison(runs: list[Finished]) -> str:
    """A table of several runs: the keys in which they differ, and their results."""
    varied = list(
        dict.fromkeys(key for run in runs[1:] for key in differences(runs[0].config, run.config))
    )
    part = "validation" if "validation" in runs[0].summary else "train"
    columns = [*varied, f"{part} loss", *(["test loss"] if "test" in runs[0].summary else [])]
    quality = "r2" if "r2" in runs[0].summary["train"] else "accuracy"
    last = "test" if "test" in runs[0].summary else part
    columns += [f"{last} {quality}", "run folder"]
    rows = []
    for run in runs:
        values = flat_values(run.config)
        row = [_shown(values.get(key)) for key in varied]
        row.append(f"{run.summary[part]['loss']:.4f}")
        if "test" in run.summary:
            row.append(f"{run.summary['test']['loss']:.4f}")
        rows.append([*row, f"{run.summary[last][quality]:.4f}", str(run.folder)])
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [columns, *rows]
    ]
    return "\n".join(["", *(line.rstrip() for line in lines)])


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else plain(str(value))
