"""The report: safe whatever the data are called, told apart, legible, and readable by a machine."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nanotorch.training import fit
from nanotorch.training.metrics import Outcome, label_confusions
from nanotorch.training.report import STYLE

HOSTILE = '"><script>alert(1)</script>&\x1b'


class Page(HTMLParser):
    """The tags, their attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def report(tmp_path: Path, target: np.ndarray, name: str = "x", **data: object) -> str:
    random = np.random.default_rng(0)
    columns = {name: random.random(len(target)), "z": random.random(len(target))}
    config = {
        "data": {"test": 0.3, **data},
        "training": {"epochs": 2},
        "output": {"folder": str(tmp_path), "curves": False},
    }
    run = fit(config, data={**columns, "y": target}, quiet=True)
    return (run.folder / "report.html").read_text()


def test_no_text_of_the_data_becomes_markup(tmp_path: Path) -> None:
    labels = np.array([HOSTILE, "b"] * 30)
    page = report(tmp_path, labels, HOSTILE)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert [tag for tag, _ in Page(page).tags].count("script") == 0


def test_ten_classes_have_colours_of_their_own(tmp_path: Path) -> None:
    page = report(tmp_path, np.arange(200) % 10)
    plot = page[page.index("ROC, test rows") :].split("</section>")[0]
    assert len(set(re.findall(r'class="line (c\d)"', plot))) == 10
    for mode in STYLE.split("@media"):
        colours = re.findall(r"--c\d:(#\w+)", mode)
        assert len(set(colours)) == len(colours)


def test_every_table_has_a_caption_and_scopes_and_every_chart_a_text(tmp_path: Path) -> None:
    page = report(tmp_path, np.array(["a", "b"] * 30))
    assert page.count("<table") == page.count("<caption>")
    assert all(a.get("scope") in ("row", "col") for tag, a in Page(page).tags if tag == "th")
    charts = re.findall(r"<svg.*?</svg>", page)
    assert len(charts) > 3
    assert all(re.search(r"<desc>[^<]+\d points from [^<]+</desc>", chart) for chart in charts)


def test_single_curves_have_a_legend_too(tmp_path: Path) -> None:
    page = report(tmp_path, np.array(["a", "b"] * 30), validation=0.0)
    section = page[page.index("<h2>Loss</h2>") :].split("</section>")[0]
    assert '<i class="c0"></i>train' in section


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_stands_out_in_both_modes(mode: int) -> None:
    colours = {}
    for block in re.findall(r":root\{([^}]*)\}", STYLE)[: mode + 1]:
        colours |= dict(re.findall(r"--(\w+):(#\w+)", block))
    for text in ("ink", "soft"):
        for ground in ("paper", "card"):
            assert contrast(colours[text], colours[ground]) >= 4.5
    for name in (f"c{at}" for at in range(10)):
        assert contrast(colours[name], colours["card"]) >= 3  # lines
    (share,) = re.findall(r"var\(--share\)\*(\d+)%", STYLE)
    parts = [[int(colours[name][at : at + 2], 16) for at in (1, 3, 5)] for name in ("c0", "card")]
    weight = int(share) / 100
    mixed = [round(a * weight + b * (1 - weight)) for a, b in zip(*parts, strict=True)]
    assert contrast(colours["ink"], "#" + "".join(f"{c:02x}" for c in mixed)) >= 4.5


def test_labels_have_a_confusion_each() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    said = np.array([[1, -1], [-1, 1], [1, -1], [-1, 1]]) * 3.0
    outcome = Outcome("labels", said, truth)
    assert label_confusions(outcome) == [[[1, 1], [1, 1]], [[2, 0], [0, 2]]]
