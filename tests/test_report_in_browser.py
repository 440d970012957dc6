"""The report in Chromium, 400 and 1280 pixels wide, light and dark: nothing that axe-core finds
wrong, nothing wider than the window, no label over another.

Needs Chromium, node, and NODE_MODULES, the folder in which `npm install axe-core playwright-core`
was called. In CI their absence is a failure, elsewhere a skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training import fit
from nanotorch.training.report import write_overview

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("look_at_pages.mjs")
HOSTILE = (
    "\"><script>alert(1)</script>&\x1b'$x$ a_long_name_without_a_space_in_it_at_all_really_long"
)
ROWS = 240


def browser() -> dict[str, str]:
    """What the script needs in its environment."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    modules = os.environ.get("NODE_MODULES", "")
    missing = [
        name
        for name, there in (
            ("chromium", chromium),
            ("node", shutil.which("node")),
            ("axe-core and playwright-core in NODE_MODULES", modules and Path(modules).is_dir()),
        )
        if not there
    ]
    if missing:
        words = f"the report cannot be looked at without {', '.join(missing)}"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    return {**os.environ, "CHROMIUM": str(chromium), "NODE_MODULES": modules}


def look(pages: list[Path]) -> list[dict[str, Any]]:
    """What is wrong with each page, in each width and mode."""
    command = ["node", str(SCRIPT), *map(str, pages)]
    result = subprocess.run(command, env=browser(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def features() -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((ROWS, 4))
    return {f"x{at}": x[:, at] for at in range(4)}


def classes(names: list[str]) -> dict[str, np.ndarray]:
    return {"y": np.array(names)[np.arange(ROWS) % len(names)]}


def with_gaps() -> dict[str, np.ndarray]:
    x = features()
    x[HOSTILE] = np.where(np.arange(ROWS) % 9, x["x0"], np.nan)
    return {**x, "city": np.array(["Ulm", "Bonn", "<b>"])[np.arange(ROWS) % 3]}


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two_classes": (
        {"data": {"missing": "mean"}, "metrics": {"threshold": "f1"}},
        {**with_gaps(), **classes([HOSTILE, "b", "b"])},
    ),
    "ten_classes": (
        {"metrics": {"each_epoch": ["accuracy", "roc_auc"], "training_part": True}},
        {**features(), **classes([f"kind of flower number {at}" for at in range(10)])},
    ),
    "forty_classes": ({}, {**features(), **classes([str(at) for at in range(40)])}),
    "labels": (
        {"data": {"target": ["u", "v", "w"]}, "schedule": {"name": "cosine"}},
        {**features(), **{name: np.arange(ROWS) % 7 > at for at, name in enumerate("uvw")}},
    ),
    "numbers": (
        {"model": {"name": "linear"}, "training": {"epochs": 1}},
        {**features(), "y": 3e8 + 1e3 * features()["x0"]},
    ),
    "small_numbers": ({"model": {"name": "linear"}}, {**features(), "y": 1e-7 * features()["x0"]}),
}


def train(folder: Path, kind: str, **data: Any) -> Any:
    sections, frame = KINDS[kind]
    tables = {"training": {"epochs": 6}, **sections, "name": kind}
    tables["data"] = {**sections.get("data", {}), **data}
    tables["output"] = {"folder": str(folder), "curves": False}
    return fit(tables, data=frame, quiet=True)


def test_nothing_is_wrong_with_any_report(tmp_path: Path) -> None:
    browser()
    pages = [train(tmp_path, kind).folder / "report.html" for kind in KINDS]
    folds = [train(tmp_path, "two_classes", folds=3, fold=fold) for fold in range(3)]
    views = look([*pages, write_overview(folds)])
    assert len(views) == 4 * (len(pages) + 1)
    assert [view for view in views if view["wrong"]] == []


def label(x: int, words: str) -> str:
    return f'<text x="{x}" y="50" font-size="12">{words}</text>'


def test_the_look_finds_what_is_wrong(tmp_path: Path) -> None:
    """A page with each fault: labels over another or cut off, too wide, too faint, no words."""
    head = '<!doctype html><html lang="en"><head><title>t</title></head><body><main><h1>h</h1>'
    chart = '<svg role="img" aria-label="c" viewBox="0 0 200 100">{}</svg>'
    bodies = {
        "overlap": chart.format(label(50, "one") + label(55, "two")),
        "cut off": chart.format(label(190, "a long label")),
        "wider than the window": '<div style="width:2000px;height:9px"></div>',
        "axe color-contrast": '<p style="color:#999;background:#fff">faint</p>',
        "broken word": '<table><tr><td style="max-width:2em;word-break:break-all">accuracy</table>',
        "axe image-alt": '<img src="data:,">',
    }
    pages = []
    for words, body in bodies.items():
        page = tmp_path / f"{words}.html"
        page.write_text(f"{head}{body}</main></body></html>")
        pages.append(page)
    for view in look(pages):
        assert any(line.startswith(Path(view["page"]).stem) for line in view["wrong"]), view
