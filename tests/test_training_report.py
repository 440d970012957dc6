"""The report: safe whatever the data are called, told apart, legible, and readable by a machine."""

from __future__ import annotations

import html
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nanotorch.training import fit
from nanotorch.training.curves import Chart, Line, figure, save_figure
from nanotorch.training.drawing import tick_words, ticks
from nanotorch.training.errors import plain
from nanotorch.training.metrics import Outcome, calibration, label_confusions
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
    assert "\x1b" not in page and r"\x1b" in page


def test_ten_classes_have_colours_of_their_own(tmp_path: Path) -> None:
    page = report(tmp_path, np.arange(200) % 10)
    plot = page[page.index("ROC, test rows") :].split("</section>")[0]
    assert len(set(re.findall(r'class="line (c\d)"', plot))) == 10
    for mode in re.findall(r":root\{([^}]*)\}", STYLE):
        colours = [lab(colour) for colour in re.findall(r"--c\d:(#\w+)", mode)]
        assert len(colours) == 10
        for one, other in itertools.combinations(colours, 2):
            assert np.linalg.norm(one - other) > 25
    more = report(tmp_path, np.arange(240) % 12)
    plot = more[more.index("ROC, test rows") :].split("</section>")[0]
    assert len(set(re.findall(r'class="line ([^"]+)"', plot))) == 12


def lab(colour: str) -> np.ndarray:
    """L*a*b* of #rrggbb: colours at a distance of 2.3 can just be told apart."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(xyz @ linear(colour) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_table_has_a_caption_and_scopes_and_every_chart_a_text(tmp_path: Path) -> None:
    page = report(tmp_path, np.array(["a", "b"] * 30))
    assert page.count("<table") == page.count("<caption>")
    assert all(a.get("scope") in ("row", "col") for tag, a in Page(page).tags if tag == "th")
    charts = re.findall(r"<svg.*?</svg>", page)
    assert len(charts) > 3
    value = r"\S+: \d\S*"
    for chart in charts:
        assert re.search(rf"<desc>[^<]+\d points from [^<]+; {value}, {value}[^<]*\.</desc>", chart)
        width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', chart).groups())
        for axis, end in (("x", width), ("y", height)):
            places = re.findall(rf' {axis}[12]?="([^"]+)"', chart)
            assert places and all(0 <= float(place) <= end for place in places)


def test_single_curves_have_a_legend_too(tmp_path: Path) -> None:
    page = report(tmp_path, np.array(["a", "b"] * 30), validation=0.0)
    section = page[page.index("<h2>Loss</h2>") :].split("</section>")[0]
    assert '<i class="c0"></i>train' in section

    assert page.count("<svg") == page.count('<div class="legend">')


def test_charts_have_numbers_that_fit_and_tell_one_from_the_next() -> None:
    for low, high in ((0, 1), (1, 3), (3e8 - 1e3, 3e8 + 1e3), (1e-7, 3e-7), (-2e7, 2e7), (0, 60)):
        values = ticks(low, high)
        words = tick_words(values)
        assert len(set(words)) == len(words) > 1
        assert [float(word) for word in words] == pytest.approx(values)
        assert max(map(len, words)) <= 9


def test_the_report_says_what_was_taken_for_what(tmp_path: Path) -> None:
    source = tmp_path / "d.csv"
    rows = "".join(
        f"{i % 9},{'' if i % 5 == 0 else i % 7},{'pqr'[i % 3]};{i % 2}\n" for i in range(90)
    )
    source.write_text("a;b;c;y\n" + rows.replace(",", ";"))
    config = {
        "data": {"source": str(source), "missing": "mean"},
        "training": {"epochs": 2},
        "metrics": {"threshold": "f1"},
        "output": {"folder": str(tmp_path), "curves": False},
    }
    run = fit(config, quiet=True)
    page = (run.folder / "report.html").read_text()
    assert "delimiter = &quot;;&quot;" in page
    kinds = {"a": "number", "b": "number", "c": "3 categories"}
    for column in run.data.encoding.columns:
        fill = "–" if column.fill is None else f"{column.fill:.4g}"
        cells = f"<td>{kinds[column.name]}</td><td>{fill}</td>"
        assert f'<th scope="row">{column.name}</th>{cells}' in page
    assert f"positive from a probability of {run.summary['threshold']:.4g}, by F1" in page
    assert "accuracy of the most frequent class" in page
    rows_of_bins, error = calibration(run.outcomes["test"])[0], run.summary["test"]
    assert f"expected calibration error: {error['calibration_error']:.4g}" in page
    assert page.count(" to ") >= (rows_of_bins > 0).sum()


def test_what_cannot_be_measured_has_its_reason_in_the_report(tmp_path: Path) -> None:
    target = np.array(["a", "b"] * 30 + ["c"])
    page = report(tmp_path, target)
    assert "– roc auc: needs rows of each class" in page
    assert "<td>–</td>" in page


@pytest.mark.parametrize("words", [r"$\frac{$", "$x$", "\x1b[1m", "日本"])
def test_names_are_drawn_as_they_are(words: str, tmp_path: Path) -> None:
    axes = figure(Chart("loss", [Line(words, np.arange(2.0), np.arange(2.0), "k")], words)).axes[0]
    save_figure(axes.figure, tmp_path / "a.svg")
    assert html.escape(plain(words), quote=False) in (tmp_path / "a.svg").read_text()


def linear(colour: str) -> np.ndarray:
    """Red, green and blue as amounts of light, 0 to 1."""
    digits = colour.lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    return np.array([c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts])


def luminance(colour: str) -> float:
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


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
