"""What a run leaves to look at: curves, the report, predictions, tables, TensorBoard."""

from __future__ import annotations

import csv
import html
import html.parser
import io
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from nanotorch.training import fit, read_request
from nanotorch.training.commands import COMMANDS, main
from nanotorch.training.curves import (
    POINTS,
    Chart,
    Line,
    binned,
    chart_of_run,
    chart_of_runs,
    draw_curves,
    figure,
    smooth,
    spans,
)
from nanotorch.training.drawing import ticks
from nanotorch.training.errors import InputError
from nanotorch.training.exits import exit_code
from nanotorch.training.prediction import predict_file
from nanotorch.training.results import Finished, comparison, last_line

FLAGS = ["--device", "cpu", "--training.epochs", "4", "--output.curves", "false"]


def train(folder: Path, *flags: str) -> Finished:
    config = folder / "a.toml"
    config.write_text('[data]\nsource = "breast_cancer"\n')
    place = ["--output.folder", str(folder / "runs")]
    return fit(read_request([str(config), *place, *FLAGS, *flags]).configs[0], quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    flags = ["--metrics.training_part", "true", "--metrics.each_epoch", '["accuracy", "roc_auc"]']
    return train(tmp_path_factory.mktemp("run"), *flags)


# --- curves --------------------------------------------------------------------------------------


def test_train_and_validation_share_one_pair_of_axes(run: Finished) -> None:
    (axes,) = figure(chart_of_run(run.folder)).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["train", "validation"]
    assert labels[2].startswith("best: ")
    assert f"in epoch {run.summary['best_epoch']}" in labels[2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")


def test_the_best_epoch_of_a_metric_is_its_highest(run: Finished) -> None:
    chart = chart_of_run(run.folder, "roc_auc")
    assert chart.best is not None
    assert chart.best[1] == np.nanmax(chart.lines[-1].values)


def test_the_same_log_gives_the_same_bytes(run: Finished) -> None:
    written = []
    for _ in range(2):
        written.append([path.read_bytes() for path in draw_curves(run.folder)])
    assert written[0] == written[1]


def test_an_svg_holds_its_words_as_text(run: Finished) -> None:
    _, svg = draw_curves(run.folder)
    words = " ".join(ElementTree.parse(svg).getroot().itertext())
    assert "validation" in words
    assert "epoch" in words


def test_a_constant_stays_constant_when_smoothed() -> None:
    np.testing.assert_allclose(smooth(np.full(9, 3.7), 0.9), 3.7, rtol=1e-15)


def test_smoothing_steps_over_missing_values() -> None:
    np.testing.assert_allclose(smooth(np.array([np.nan, 1.0, np.nan, 1.0]), 0.5)[1:], 1.0)


def test_the_raw_line_stays_visible_under_a_smoothed_one(run: Finished) -> None:
    plain, smoothed = (
        len(figure(chart_of_run(run.folder, smoothing=weight)).axes[0].lines)
        for weight in (0.0, 0.9)
    )
    assert smoothed == plain + 2


def test_long_runs_are_drawn_in_bins_that_keep_their_peaks() -> None:
    values = np.ones(10 * POINTS)
    values[777] = 50.0
    epochs, mean, low, high = binned(np.arange(len(values), dtype=float), values)
    assert len(epochs) == len(mean) == POINTS
    assert (low.min(), high.max()) == (1.0, 50.0)
    values[:5] = np.nan
    assert binned(np.arange(len(values), dtype=float), values)[1][0] == 1.0


def test_a_logarithmic_axis_says_what_it_cannot_show() -> None:
    line = Line("train", np.arange(3.0), np.array([1.0, 0.0, 0.1]), "#000000")
    axes = figure(Chart("loss", [line], log_scale=True)).axes[0]
    assert axes.get_yscale() == "log"
    assert "1 values <= 0 not shown" in axes.get_ylabel()


@pytest.mark.parametrize(
    ("values", "wide"), [([1.0, 0.5], False), ([1.0, 0.001], True), ([1.0, 0.0], False)]
)
def test_a_wide_range_of_losses_asks_for_a_logarithmic_axis(
    values: list[float], wide: bool
) -> None:
    line = Line("train", np.arange(2.0), np.array(values), "#000000")
    assert spans(Chart("loss", [line])) is wide


def test_several_runs_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    runs = [train(tmp_path, "--optimizer.lr", lr).folder for lr in ("0.1", "0.01")]
    labels = [line.label for line in chart_of_runs(runs, part="validation").lines]
    assert labels == ["lr 0.1", "lr 0.01"]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.013, 0.017) == [0.013, 0.014, 0.015, 0.016, 0.017]


# --- the report ----------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """Opens and closes every tag, and collects what points outside the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "line", "circle", "polyline", "br", "col"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("flags", "holds"),
    [
        ([], ["Loss", "Accuracy", "Confusion", "ROC", "Calibration", "Coefficients", "Timings"]),
        (["--data.source", "digits"], ["Confusion", "Coefficients by size over all classes"]),
        (
            ["--data.source", "diabetes", "--model.name", "linear", "--optimizer.lr", "0.01"],
            ["Predictions", "R2", "Coefficients"],
        ),
        (["--model.name", "mlp"], ["ROC", "Metrics"]),
    ],
    ids=["binary", "classes", "regression", "mlp"],
)
def test_the_report_is_one_well_formed_page(
    flags: list[str], holds: list[str], tmp_path: Path
) -> None:
    page = (train(tmp_path, *flags).folder / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.links == []
    assert "http" not in page
    titles = " ".join(re.findall("<h2>(.*?)</h2>", page))
    for title in holds:
        assert title in titles


@pytest.mark.parametrize("classes", [2, 3])
def test_names_in_the_report_are_escaped(classes: int, tmp_path: Path) -> None:
    """Features, classes and files: in titles, legends, tables, bars and the configuration."""
    rows = "".join(f"{i % 7},<u>{i % classes}</u>\n" for i in range(90))
    source = tmp_path / "<s>data.csv"
    source.write_text("<b>x</b>,<i>y</i>\n" + rows)
    run = train(tmp_path, "--data.source", str(source))
    page = (run.folder / "report.html").read_text()
    for words in ("<u>0</u>", "<b>x</b>", "<s>data.csv"):
        assert words not in page
        assert html.escape(words, quote=False) in page
    legends = re.findall('<div class="legend">(.*?)</div>', page)
    assert sum("&lt;u&gt;2&lt;/u&gt;" in legend for legend in legends) == (classes == 3)


# --- words and tables ----------------------------------------------------------------------------


def test_the_last_line_tells_the_quality_and_the_folder(run: Finished) -> None:
    words = last_line(run)
    assert words.startswith(f"test accuracy {run.summary['test']['accuracy']:.4f}, loss ")
    assert words.endswith(str(run.folder))


def test_a_comparison_has_a_row_per_run_and_the_keys_that_differ(tmp_path: Path) -> None:
    runs = [train(tmp_path, "--seed", str(seed)) for seed in (0, 1)]
    head, *rows = comparison(runs).strip().splitlines()
    assert head.startswith("seed")
    assert [row.split()[0] for row in rows] == ["0", "1", "mean"]
    assert all(str(one.folder) in row for one, row in zip(runs, rows))


# --- afterwards ----------------------------------------------------------------------------------


def call(*words: str) -> None:
    assert exit_code(COMMANDS[words[0]], list(words[1:]), words[0]) == 0


def test_predictions_are_those_of_the_run(run: Finished, tmp_path: Path) -> None:
    output = tmp_path / "p.csv"
    call("predict", str(run.folder), "breast_cancer", "--output", str(output))
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert len(rows) == 569
    assert list(rows[0]) == ["predicted", "probability_malignant", "probability_benign"]
    test_rows = run.data.test_rows
    assert test_rows is not None
    said = [rows[at]["predicted"] == "benign" for at in test_rows]
    np.testing.assert_array_equal(said, run.outcomes["test"].predicted)
    positive = [float(rows[at]["probability_benign"]) for at in test_rows]
    np.testing.assert_allclose(positive, run.outcomes["test"].probabilities[:, 1], rtol=1e-4)


def test_a_row_with_a_gap_is_not_predicted_unless_gaps_were_filled(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60))
    (tmp_path / "d.csv").write_text("a,b,y\n" + rows)
    run = train(tmp_path, "--data.source", str(tmp_path / "d.csv"))
    (tmp_path / "gap.csv").write_text("a,b\n1,2\n3,\n")
    with pytest.raises(InputError, match="missing"):
        predict_file(run.folder, str(tmp_path / "gap.csv"), tmp_path / "p.csv")


def test_a_prediction_that_fails_leaves_no_file(run: Finished, tmp_path: Path) -> None:
    (tmp_path / "short.csv").write_text("a,b\n1,2\n")
    output = tmp_path / "p.csv"
    with pytest.raises(InputError):
        predict_file(run.folder, str(tmp_path / "short.csv"), output)
    assert [path.name for path in tmp_path.iterdir()] == ["short.csv"]


def test_large_files_are_predicted_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"{i / 3:.4f},{i % 5},{i % 2}\n" for i in range(100))
    (tmp_path / "d.csv").write_text("a,b,y\n" + rows)
    run = train(tmp_path, "--data.source", str(tmp_path / "d.csv"))
    results = []
    for chunk in (1000, 7):
        monkeypatch.setattr("nanotorch.training.prediction.ROWS", chunk)
        output = tmp_path / f"{chunk}.csv"
        call("predict", str(run.folder), str(tmp_path / "d.csv"), "--output", str(output))
        results.append(output.read_text().splitlines())
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1:], results[1][1:], strict=True):
        numbers = [np.array(line.split(",")[1:], dtype=float) for line in (one, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-4)


def test_columns_may_stand_in_another_order_and_without_the_target(tmp_path: Path) -> None:
    rows = [(i / 3, i % 5, i % 2) for i in range(60)]
    (tmp_path / "d.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    (tmp_path / "n.csv").write_text("b,x,a\n" + "".join(f"{b},0,{a}\n" for a, b, _ in rows))
    run = train(tmp_path, "--data.source", str(tmp_path / "d.csv"))
    for name in ("d", "n"):
        source, output = tmp_path / f"{name}.csv", tmp_path / f"{name}.out"
        call("predict", str(run.folder), str(source), "--output", str(output))
    assert (tmp_path / "d.out").read_text() == (tmp_path / "n.out").read_text()


def test_evaluate_finds_the_held_out_rows_again(
    run: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    call("evaluate", str(run.folder), "--json")
    measured = json.loads(capsys.readouterr().out)
    assert measured["rows"] == len(run.outcomes["test"].target)
    for name in ("accuracy", "roc_auc", "log_loss"):
        assert measured[name] == pytest.approx(run.summary["test"][name], rel=1e-6)


def test_the_log_is_exported_as_csv(run: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    call("export-csv", str(run.folder))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert set(rows[0]) >= {"train/loss", "validation/loss", "validation/roc_auc"}


def test_made_data_trains_to_its_bayes_error(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    call("make-data", str(path), "--rows", "20000", "--features", "5", "--distance", "2")
    run = train(tmp_path, "--data.source", str(path), "--training.batch_size", "512")
    assert run.summary["test"]["accuracy"] == pytest.approx(1 - 0.1587, abs=0.015)


def test_the_doctor_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(COMMANDS["doctor"], [], "doctor") in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert any("numpy " in line for line in lines)
    assert any(line.split()[:2] == ["ok", "Python"] for line in lines)


def test_the_command_lists_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nanotorch"])
    assert main() == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    monkeypatch.setattr(sys, "argv", ["nanotorch", "tarin"])
    assert main() == 2


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = train(tmp_path, "--output.tensorboard", "true")
    (events,) = (run.folder / "tensorboard").iterdir()
    assert b"validation/loss" in events.read_bytes()


def test_resume_points_are_marked(tmp_path: Path) -> None:
    run = train(tmp_path)
    config = read_request(["--resume", str(run.folder), "--training.epochs", "6"]).configs[0]
    fit(config, str(run.folder), quiet=True)
    chart = chart_of_run(run.folder)
    assert chart.resumed == [4]
    labels = [text.get_text() for text in figure(chart).axes[0].get_legend().get_texts()]
    assert "resumed" in labels


def test_a_long_run_is_drawn_while_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(
        "nanotorch.training.callbacks.draw_curves", lambda folder, *_: drawn.append(folder)
    )
    train(tmp_path, "--output.curves", "true", "--output.redraw_seconds", "1e-9")
    assert len(drawn) == 4
