"""report.html: a run on one page that needs nothing but itself."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanotorch.training.coefficients import COEFFICIENTS
from nanotorch.training.config.writer import to_toml, toml_value
from nanotorch.training.curves import resume_points, series
from nanotorch.training.drawing import Plot, Trace, bars, html, matrix, wide
from nanotorch.training.files import write_whole
from nanotorch.training.metrics import (
    Outcome,
    calibration,
    calibration_error,
    has_both,
    label_confusions,
    reason,
    roc_curve,
)
from nanotorch.training.model_file import read_model_file
from nanotorch.training.results import Finished, comparison_table
from nanotorch.training.run_folder import EVENTS, METRICS, MODEL, read_log

SHOWN = 20  # coefficients, and classes of a ROC plot
COLOURS = 10  # that can be told apart; further lines are dashed

STYLE = """
:root{--ink:#1f2933;--soft:#5f6b76;--line:#d8dee5;--paper:#fff;--card:#f6f8fa;
--c0:#2f6fb3;--c1:#d9622b;--c2:#5a991c;--c3:#6811f2;--c4:#07989c;--c5:#960a3c;--c6:#e508d9;
--c7:#0b5a39;--c8:#614703;--c9:#1f2933}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa7b4;--line:#38434e;
--paper:#14191f;--card:#1c232b;--c0:#6ea8e0;--c1:#f0915f;--c2:#a6ff31;--c3:#ad469b;--c4:#1bc9b1;
--c5:#f98ead;--c6:#ad970d;--c7:#208404;--c8:#0a7c73;--c9:#e4e9ee}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px 16px 64px;color:var(--ink);
background:var(--paper);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:26px;margin:0}h2{font-size:17px;margin:0 0 10px}
p{margin:4px 0;color:var(--soft)}a{color:var(--c0)}
h1,p,.legend span,.words td{overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin:20px 0}
.tiles div{background:var(--card);border-radius:10px;padding:12px 14px}
.tiles b{display:block;font-size:22px;font-weight:650;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:13px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
section{background:var(--card);border-radius:10px;padding:16px;min-width:0}
section.full{grid-column:1/-1}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font-size:12px}svg .words{fill:var(--ink);font-size:13px}
.grid{stroke:var(--line);stroke-width:1}.guide{stroke:var(--soft);stroke-dasharray:4 4}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.mark{fill:var(--card);stroke-width:2.2}
.line.c0,.mark.c0{stroke:var(--c0)}.line.c1,.mark.c1{stroke:var(--c1)}
.line.c2,.mark.c2{stroke:var(--c2)}.line.c3,.mark.c3{stroke:var(--c3)}
.line.c4,.mark.c4{stroke:var(--c4)}.line.c5,.mark.c5{stroke:var(--c5)}
.line.c6,.mark.c6{stroke:var(--c6)}.line.c7{stroke:var(--c7)}.line.c8{stroke:var(--c8)}
.line.c9{stroke:var(--c9)}.line.again{stroke-dasharray:6 4}
.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:13px;padding:6px 0 0 12px}
.legend i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:6px;
vertical-align:middle}
.legend i.ring{width:11px;height:11px;border-radius:50%;background:none!important}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}
i.c3{background:var(--c3)}i.c4{background:var(--c4)}i.c5{background:var(--c5)}
i.c6{background:var(--c6)}i.c7{background:var(--c7)}i.c8{background:var(--c8)}
i.c9{background:var(--c9)}
i.again{mask:repeating-linear-gradient(90deg,#000 0 4px,transparent 4px 6px)}
.legend i.guide{height:0;border-radius:0;border-top:2px dotted var(--soft)}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:4px}
.legend i.ring.c0{border:2.2px solid var(--c0)}.legend i.ring.c1{border:2.2px solid var(--c1)}
.wide{overflow:auto;max-height:480px}.wide:has(.matrix){max-height:none}
.wide .lined th[scope=row]{overflow-wrap:anywhere;min-width:8em}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th{text-align:left;font-weight:500;color:var(--soft);padding:4px 8px 4px 0}
td{text-align:right;padding:4px 0 4px 8px}
.lined tr+tr{border-top:1px solid var(--line)}
.lined thead th,.lined tr:first-child th{text-align:right}
.lined tr:first-child th:first-child{text-align:left}
.lined td,.words th{white-space:nowrap}.words td,.kinds td{text-align:left}
.words td{white-space:normal}
.matrix td{text-align:center;padding:8px 6px;border-radius:6px;min-width:38px;
background:color-mix(in srgb,var(--c0) calc(var(--share)*50%),transparent)}
.matrix th{text-align:center;overflow-wrap:anywhere}.matrix tr th:first-child{text-align:right}
.matrix{border-collapse:separate;border-spacing:3px;table-layout:fixed}
@media(max-width:560px){.matrix td{padding:6px 1px;min-width:0;font-size:12px}
.matrix th{padding:2px;font-size:12px;overflow-wrap:anywhere}.matrix{border-spacing:2px}}
.bars th{max-width:46vw;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;width:34%}
.bars td{white-space:nowrap}
.bars td.bar{position:relative;width:46%;height:22px}.bars td.bar i{position:absolute;top:5px;
height:12px;border-radius:2px}.bars td.bar::before{content:"";position:absolute;left:50%;top:0;
bottom:0;border-left:1px solid var(--line)}
pre{overflow-x:auto;font:13px/1.45 ui-monospace,Menlo,Consolas,monospace;margin:8px 0 0}
summary{cursor:pointer;font-weight:600}
"""


def write_report(run: Finished) -> Path:
    """Write report.html into the run folder, whole or not at all."""
    path = run.folder / "report.html"
    write_whole(path, page(run).encode())
    return path


def write_overview(runs: list[Finished]) -> Path:
    """One page about several runs, beside their folders: their results, with links to each."""
    first, last = runs[0].folder, runs[-1].folder
    path = first.parent / f"{first.name}-to-{last.name}.html"
    head, *rows = comparison_table(runs)
    links = {str(run.folder): html(os.path.relpath(run.folder, path.parent)) for run in runs}
    shown = "".join(f'<th scope="col">{html(name)}</th>' for name in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html(cell)}</td>" for cell in row[:-1])
        + (f'<td><a href="{links[row[-1]]}/report.html">{links[row[-1]]}</a></td>'
           if row[-1] in links else f"<td>{html(row[-1])}</td>")
        + "</tr>"
        for row in rows
    )  # fmt: skip
    caption = f"<caption>{len(runs)} runs</caption>"
    table = wide(f'<table class="lined">{caption}<tr>{shown}</tr>{body}</table>')
    title = html(f"{first.name} to {last.name}")
    write_whole(
        path, _document(title, f"<h1>{title}</h1>", _section("Results", table, True)).encode()
    )
    return path


def _document(title: str, head: str, sections: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><header>{head}</header>"
        f'<main class="cards">{sections}</main></body></html>\n'
    )


def page(run: Finished) -> str:
    """The report of a finished run as HTML."""
    records = read_log(run.folder / METRICS)
    part = _main_part(run)
    sections = [*_curves(run, records)]
    if part in run.outcomes:
        sections += _quality(run, part)
    sections += [_coefficients(run), _metrics(run), _data(run), _timings(run), _config(run)]
    name = html(run.folder.name)
    return _document(name, _head(run, part), "".join(sections))


def _main_part(run: Finished) -> str:
    return next((name for name in ("test", "validation", "train") if name in run.summary), "train")


def _section(title: str, body: str, full: bool = False) -> str:
    kind = ' class="full"' if full else ""
    return f"<section{kind}><h2>{html(title)}</h2>{body}</section>"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _head(run: Finished, part: str) -> str:
    summary, data = run.summary, run.summary["data"]
    tiles = []
    for key in ("accuracy", "roc_auc", "f1_macro", "r2", "mae", "loss"):
        if key in summary.get(part, {}):
            tiles.append((f"{part} {key.replace('_', ' ')}", _number(summary[part][key])))
    if "baseline_accuracy" in summary.get(part, {}):
        share = _number(summary[part]["baseline_accuracy"])
        most = "labels" if data["task"] == "labels" else "class"
        tiles.append((f"accuracy of the most frequent {most}", share))
    tiles.append(("best epoch", f"{_number(summary['best_epoch'])} of {summary['epochs']}"))
    tiles.append(("trained parameters", _number(summary["trained_parameters"])))
    shown = "".join(
        f"<div><b>{value}</b><span>{html(words)}</span></div>" for words, value in tiles
    )
    what = {"binary": "two classes", "classes": "classes", "labels": "labels"}
    task = what.get(data["task"], "regression")
    model = run.config.model.name
    return (
        f"<h1>{html(run.folder.name)}</h1><p>{html(model)} on {html(str(data['source']))}, "
        f"{task}; {html(str(summary['ended']))}</p><div class='tiles'>{shown}</div>"
    )


def _curves(run: Finished, records: list[dict[str, Any]]) -> list[str]:
    """Loss, metrics and learning rate over the epochs."""
    if not records:
        return []
    drawn = []
    keys = dict.fromkeys(
        key.partition("/")[2] for record in records for key in record if "/" in key
    )
    best = run.summary["best_epoch"]
    for quantity in keys:
        traces, marks = [], []
        for colour, part in (("c0", "train"), ("c1", "validation")):
            epochs, values = series(records, f"{part}/{quantity}")
            if len(epochs):
                traces.append(Trace(part, epochs, values, colour))
            if f"{part}/{quantity}" == run.summary["monitor"] and best in epochs:
                value = float(values[list(epochs).index(best)])
                marks.append((best, value, colour, f"best: {value:.4g} in epoch {best}"))
        words = quantity.replace("_", " ")
        drawn.append(_section(words.capitalize(), Plot(traces, "epoch", words, marks=marks).svg()))
    epochs, rates = series(records, "lr")
    plot = Plot([Trace("learning rate", epochs, rates, "c2")], "epoch", "learning rate")
    drawn.append(_section("Learning rate", plot.svg()))
    return drawn


def _quality(run: Finished, part: str) -> list[str]:
    """What the model got right and wrong on the held-out rows."""
    outcome, names = run.outcomes[part], run.data.target.classes
    if outcome.task == "regression":
        truth, said = outcome.target[:, 0], outcome.outputs[:, 0]
        both = np.concatenate([truth, said])
        limits = (float(both.min()), float(both.max()))
        trace = Trace(f"{part} rows", truth, said, "c0", dots=True)
        plot = Plot([trace], "truth", "prediction", limits, limits, "prediction = truth")
        return [_section(f"Predictions, {part} rows", plot.svg())]
    sections = []
    if outcome.task == "labels":
        body = "".join(
            f"<h3>{html(name)}</h3>{matrix(counts, ['no', 'yes'])}"
            for name, counts in zip(names, label_confusions(outcome), strict=True)
        )
        sections.append(_section(f"Confusion by label, {part} rows", body))
    if outcome.task in ("binary", "classes"):
        body = matrix(outcome.confusion.tolist(), names)
        sections.append(_section(f"Confusion, {part} rows", body, full=len(names) > 6))
    sections.append(_section(f"ROC, {part} rows", _roc(outcome, names)))
    sections.append(_section(f"Calibration, {part} rows", _calibration(outcome)))
    return sections


def _calibration(outcome: Outcome) -> str:
    """The reliability curve, its bins as a table, and the expected calibration error."""
    rows, mean, share = calibration(outcome)
    known = np.flatnonzero(rows)
    trace = Trace("bins of rows", mean[known], share[known], "c0", dots=True)
    plot = Plot([trace], "mean probability", "share that is true", (0, 1), (0, 1), "calibrated")
    bins = len(rows)
    body = "".join(
        f'<tr><th scope="row">{at / bins:.3g} to {(at + 1) / bins:.3g}</th><td>{rows[at]:,}</td>'
        f"<td>{mean[at]:.3f}</td><td>{share[at]:.3f}</td></tr>"
        for at in known
    )
    head = "".join(
        f'<th scope="col">{words}</th>'
        for words in ("probability", "rows", "mean probability", "share that is true")
    )
    of = {"binary": "of the second class", "labels": "of the labels"}
    caption = f"probability {of.get(outcome.task, 'of the class that is predicted')}"
    table = f'<table class="lined"><caption>{caption}</caption><tr>{head}</tr>{body}</table>'
    error = f"<p>expected calibration error: {_number(calibration_error(outcome))}</p>"
    return plot.svg() + error + wide(table)


def _roc(outcome: Outcome, names: Sequence[str]) -> str:
    traces = []
    columns = range(len(outcome.rankings))
    labels = [names[1]] if outcome.task == "binary" else list(names)
    for at in columns[:SHOWN]:
        if has_both(*outcome.rankings[at]):
            x, y = roc_curve(*outcome.rankings[at])
            again = " again" if at >= COLOURS else ""
            traces.append(Trace(labels[at], x, y, f"c{at % COLOURS}{again}"))
    if not traces:
        return "<p>needs rows of at least two classes</p>"
    ranges = ((0.0, 1.0), (0.0, 1.02))
    plot = Plot(traces, "false positive rate", "true positive rate", *ranges, "by chance")
    note = f"<p>the first {SHOWN} of {len(columns)}</p>" if len(columns) > SHOWN else ""
    return plot.svg() + note


def _coefficients(run: Finished) -> str:
    """The weights of a linear model, largest first: one feature each."""
    saved = read_model_file(run.folder / MODEL)
    weight = saved.weights.get("weight")
    names = run.data.encoding.feature_names
    if weight is None or weight.ndim != 2 or weight.shape[1] != len(names):
        return ""
    if len(weight) == 1:
        order = np.argsort(-np.abs(weight[0]))[:SHOWN]
        body = bars([names[at] for at in order], [float(weight[0, at]) for at in order])
        towards = run.data.target.classes[-1]
        title = f"Coefficients by size, towards {towards}"
    else:
        size = np.sqrt(np.square(weight).sum(axis=0))
        order = np.argsort(-size)[:SHOWN]
        body = bars([names[at] for at in order], [float(size[at]) for at in order])
        title = "Coefficients by size over all classes"
    more = len(names) - len(order)
    note = f"<p>of standardized features; {more} smaller ones are not shown</p>" if more else ""
    return _section(title, body + note) + _all_coefficients(run)


def _all_coefficients(run: Finished) -> str:
    """Every term in original units with its uncertainty, from coefficients.csv."""
    path = run.folder / COEFFICIENTS
    if not path.is_file():
        return ""
    head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    filled = [at for at in range(len(head)) if any(row[at] for row in rows)]
    head, rows = [head[at] for at in filled], [[row[at] for at in filled] for row in rows]
    shown = "".join(f'<th scope="col">{html(name.replace("_", " "))}</th>' for name in head)
    names = head.index("term") + 1
    body = "".join(
        "<tr>"
        + "".join(f'<th scope="row">{html(name)}</th>' for name in row[:names])
        + "".join(f"<td>{_number(float(cell)) if cell else '–'}</td>" for cell in row[names:])
        + "</tr>"
        for row in rows
    )
    caption = "<caption>in the units of the file</caption>"
    table = f'<table class="lined">{caption}<tr>{shown}</tr>{body}</table>'
    uncertain = ", with 95% confidence intervals" if "low" in head else ""
    return _section(f"Coefficients{uncertain}", wide(table), full=True)


def _metrics(run: Finished) -> str:
    parts = [name for name in ("train", "validation", "test") if name in run.summary]
    if not parts:
        return ""
    keys = [key for key in run.summary[parts[0]] if key != "confusion"]
    reasons = {key: reason(key) for part in parts for key in keys if run.summary[part][key] is None}
    words = [f"– {key.replace('_', ' ')}: {reason}" for key, reason in reasons.items()]
    if (threshold := run.summary.get("threshold")) is not None:
        words.append(f"positive from a probability of {threshold:.4g}, by F1 of validation rows")
    elif run.data.target.task in ("binary", "labels"):
        words.append(f"positive from a probability of {run.config.metrics.threshold}")
    head = "".join(f'<th scope="col">{part}</th>' for part in parts)
    rows = "".join(
        f"<tr><th scope='row'>{key.replace('_', ' ')}</th>"
        + "".join(f"<td>{_number(run.summary[part].get(key))}</td>" for part in parts)
        + "</tr>"
        for key in keys
    )
    caption = "<caption>every metric, by part</caption>"
    body = f"<tr><td></td>{head}</tr>{rows}"
    notes = "".join(f"<p>{html(line)}</p>" for line in words)
    return _section("Metrics", f'<table class="lined">{caption}{body}</table>{notes}')


def _data(run: Finished) -> str:
    data = run.summary["data"]
    rows = [("source", data["source"]), ("task", data["task"]), ("features", data["features"])]
    rows.append(("classes" if data["task"] != "regression" else "target", _few(data["classes"])))
    rows += [(f"{part} rows", f"{count:,}") for part, count in data["rows"].items()]
    guesses = [f"{key} = {toml_value(value)}" for key, value in run.data.guesses.items()]
    rows += [("guessed", ", ".join(guesses))] if guesses else []
    rows += [("note", note) for note in data["notes"]]
    return _section("Data", _facts("what was learned from", rows)) + _columns(run)


def _columns(run: Finished) -> str:
    """What each column was taken for, and what stands in for its gaps."""
    head = "".join(f'<th scope="col">{w}</th>' for w in ("column", "read as", "in place of gaps"))
    body = ""
    for column in run.data.encoding.columns:
        kind = column.kind if column.categories is None else f"{len(column.categories)} categories"
        if column.size is not None:
            words = {"hashed": "hashed into {:,} buckets", "sparse": "rows of {:,} features"}
            kind = words[column.kind].format(column.size)
        fill = "–" if column.fill is None else _number(column.fill)
        name = html(column.name)
        body += f'<tr><th scope="row">{name}</th><td>{html(kind)}</td><td>{fill}</td></tr>'
    caption = "<caption>what each column was taken for</caption>"
    table = f'<table class="lined kinds">{caption}<tr>{head}</tr>{body}</table>'
    return _section("Columns", wide(table))


def _facts(caption: str, rows: Sequence[tuple[str, Any]]) -> str:
    """A table of names and what they are."""
    body = "".join(
        f"<tr><th scope='row'>{html(name)}</th><td>{html(str(value))}</td></tr>"
        for name, value in rows
    )
    return f'<table class="lined words"><caption>{html(caption)}</caption>{body}</table>'


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _timings(run: Finished) -> str:
    """When the run began, how long epochs took, on what; resume points."""
    events = read_log(run.folder / EVENTS)
    starts = [event for event in events if event["event"] in ("start", "resume")]
    ends = [event for event in events if event["event"] == "end"]
    rows = [(key, starts[-1][key]) for key in ("device", "nanotorch", "numpy", "python")]
    if resumed := resume_points(run.folder):
        rows.append(("resumed after epochs", ", ".join(map(str, resumed))))
    if ends and (seconds := [s for s in ends[-1].get("epoch_seconds", []) if math.isfinite(s)]):
        rows.append(("training, seconds", f"{sum(seconds):.3g}"))
        rows.append(("median epoch, milliseconds", f"{1000 * float(np.median(seconds)):.3g}"))
    return _section("Timings and versions", _facts("how long it took, on what", rows))


def _config(run: Finished) -> str:
    text = html(to_toml(run.config))
    body = f'<details><summary>config.toml</summary><pre tabindex="0">{text}</pre></details>'
    return _section("Configuration", body, full=True)
