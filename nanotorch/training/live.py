"""The loss curve in a notebook, drawn anew in its place while training goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nanotorch.training.curves import COLOURS, Chart, Line, best_point, figure, picture
from nanotorch.training.run_folder import METRICS, read_log

if TYPE_CHECKING:
    from nanotorch.training.run import Run

PARTS = {"train": ("train/", ""), "validation": ("validation/", "validation_")}
WIDTH = 640  # of the picture, on the page
PATIENCE = 10  # a new drawing waits so many times as long as the last one took


def notebook() -> Any:
    """The shell of the notebook that this program runs in; None where it runs in none."""
    module = sys.modules.get("IPython")  # which whoever runs in it has loaded
    shell = None if module is None else module.get_ipython()
    return shell if hasattr(shell, "kernel") else None


class LiveCurve:
    """Shows the curve of a quantity while a training goes on, in a notebook; elsewhere, nothing.

    A callback of a run (`fit(config, callbacks=[LiveCurve("accuracy")])`; that of the loss is there
    unless `quiet`) and of the estimators of `nanotorch.interop.sklearn`. A loop of one's own calls
    `curve.add(epoch=1, loss=0.7, validation_loss=0.8)`.

    - `quantity`: what the keys end in, after "train/" and "validation/", or nothing and
      "validation_"
    - `seconds`: from one drawing to the next, at least
    """

    def __init__(self, quantity: str = "loss", seconds: float = 1.0) -> None:
        self.quantity, self.seconds = quantity, seconds
        self.records: list[dict[str, Any]] = []
        self._display: Any = None
        self._due = 0.0
        self._waits = False  # for the end of the cell, to draw what came last

    def on_start(self, run: Run) -> None:
        self.records = list(read_log(run.folder / METRICS))  # of a run that is resumed

    def on_epoch(self, run: Run, record: dict[str, Any]) -> None:
        self.add(**record)

    def __call__(self, estimator: Any, record: dict[str, Any]) -> None:
        self.add(**record)

    def add(self, **record: Any) -> None:
        """Takes in the values of an epoch, and draws if it is time to."""
        self.records.append({"epoch": len(self.records) + 1, **record})
        shell = notebook()
        if shell is None:
            return
        if time.monotonic() >= self._due:
            self._draw()
        elif not self._waits:
            self._waits = True
            shell.events.register("post_run_cell", self._draw_last)

    def _draw_last(self, *arguments: Any) -> None:
        self._waits = False
        shell = notebook()
        shell.events.unregister("post_run_cell", self._draw_last)
        self._draw()

    def _draw(self) -> None:
        from IPython.display import Image, display

        begin = time.monotonic()
        content = history_png(self.records, self.quantity)
        if content is None:
            return
        image = Image(content, width=WIDTH)
        if self._display is None:
            self._display = display(image, display_id=True)
        else:
            self._display.update(image)
        end = time.monotonic()
        self._due = end + max(self.seconds, PATIENCE * (end - begin))


def history_png(records: Sequence[dict[str, Any]], quantity: str = "loss") -> bytes | None:
    """The curves of a quantity as a PNG file; None where no record has it."""
    lines = []
    for part, prefixes in PARTS.items():
        for key in (prefix + quantity for prefix in prefixes):
            points = [
                (float(record.get("epoch", number)), np.nan if (y := record[key]) is None else y)
                for number, record in enumerate(records, start=1)
                if key in record
            ]
            if points:
                epochs, values = np.array(points, dtype=np.float64).T
                lines.append(Line(part, epochs, values, COLOURS[part]))
    if not lines:
        return None
    return picture(figure(Chart(quantity, lines, best=best_point(lines[-1], quantity))), "png")
