"""`nanotorch inspect FILE`: what a table holds, what a run makes of it, and how to train on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanotorch.training.config.sections import Data, Reading
from nanotorch.training.config.writer import toml_value
from nanotorch.training.data.columns import Column, decide, numbers_of, text_of
from nanotorch.training.data.encoding import AS_MISSING, Target, encode_target
from nanotorch.training.data.prepare import guesses_in_words
from nanotorch.training.data.tables import Table, read_table
from nanotorch.training.errors import InputError, plain
from nanotorch.training.files import refuse_to_replace

TARGETS = ("target", "y", "label", "class", "outcome", "survived", "species", "diagnosis")
EXAMPLES, WIDTH = 3, 24
CLASSES = 20  # numbers up to which a target may be one of classes
MANY_FOR_EACH = 20  # training rows for each column, from which linear regression does not overfit
MANY = 50_000  # rows from which batches are faster than all rows at once


@dataclass
class Finding:
    """One column: what it holds, and what a run makes of it."""

    name: str
    kind: str
    missing: float  # share of the rows
    distinct: int
    examples: str
    use: str


@dataclass
class Inspection:
    """Everything that is said about a file."""

    source: str
    rows: int
    findings: list[Finding]
    notes: list[str]
    target: str
    balance: str
    toml: str
    leaks: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For the terminal: a line for each column, then the target, notes and the TOML."""
        table = [("column", "holds", "missing", "distinct", "examples", "a run would")]
        table += [
            (f.name, f.kind, f"{f.missing:.1%}", f"{f.distinct:,}", f.examples, f.use)
            for f in self.findings
        ]
        widths = [max(len(plain(row[at])) for row in table) for at in range(5)]
        lines = [f"{self.source}: {self.rows:,} rows, {len(self.findings)} columns", ""]
        for row in table:
            cells = [plain(cell).ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  ".join([*cells, plain(row[5])]).rstrip())
        lines += ["", f"target: {plain(self.target)}: {plain(self.balance)}"]
        lines += [f"note: {plain(note)}" for note in self.notes]
        return [*lines, "", *map(plain, self.toml.splitlines())]


def inspect_table(table: Table, data: Data) -> Inspection:
    """Look at every column of a table; `data` says what is known of it already."""
    at = _target(table, data)
    target = table.names[at]
    values = np.asarray(table.values[:, at], dtype=np.float64)
    present = ~np.isnan(values)
    if not present.any():
        raise InputError(f"{table.origin}: column {target!r}, the target, is empty")
    with_target = Table(table.origin, table.names, table.values[present], table.categories)
    distinct = len(np.unique(values[present]))
    try:
        if target not in table.categories and distinct > max(2, min(CLASSES, present.sum() / 3)):
            raise InputError("numbers, rather than classes")
        answers = encode_target(with_target, [at], data, "logistic")
        model = "logistic"
    except InputError:
        if distinct < 2:
            raise
        answers = encode_target(with_target, [at], data, "linear")
        model = "linear"
    findings, ignored, leaks, gaps = [], [], [], not present.all()
    notes = [*guesses_in_words(table.guesses), *table.notes]
    for position, name in enumerate(table.names):
        if position == at:
            findings.append(_finding(table, position, None, "predict it"))
            continue
        column, words = decide(table, position, data, len(table.names) - 1)
        finding = _finding(table, position, column, words or "")
        if column is not None and _tells(table, column, position, values, present):
            leaks.append(name)
            ignored.append(name)
            finding.use = f"left out below: it tells {target} by itself"
        elif column is not None:
            gaps = gaps or finding.missing > 0
        findings.append(finding)
    if leaks:
        notes.append(
            f"{', '.join(leaks)}: one value of it for each value of {target!r}: a leak, unless it "
            f"is known before {target!r} is"
        )
    infinite = [name for at, name in enumerate(table.names) if _is_infinite(table, at)]
    if infinite:
        notes.append(f"{', '.join(infinite)}: infinite numbers, which a run refuses: {AS_MISSING}")
    toml = _toml(table, data, target, ignored, gaps, model)
    balance = _balance(answers, values[present])
    return Inspection(data.source, len(table.values), findings, notes, target, balance, toml, leaks)


def inspect_file(data: Data) -> Inspection:
    return inspect_table(read_table(data.source, data), data)


def _target(table: Table, data: Data) -> int:
    """The target that is named, one that is called so, or the last column."""
    if data.target is not None:
        which = data.target[0] if isinstance(data.target, list) else data.target
        return table.column(which, "--target")
    named = [at for at, name in enumerate(table.names) if name.lower() in TARGETS]
    return named[-1] if named else table.column(table.target[0], "target")


def _finding(table: Table, position: int, column: Column | None, use: str) -> Finding:
    values = np.asarray(table.values[:, position])
    texts = table.categories.get(table.names[position])
    known = values[~np.isnan(values)]
    distinct, first = np.unique(known, return_index=True)
    shown = [known[at] for at in sorted(first[: 10**4])[:EXAMPLES]]
    words = [text_of(value) if texts is None else texts[int(value)] for value in shown]
    kind = "text" if texts is not None else "numbers"
    if not len(known):
        kind = "nothing"
    elif column is not None and column.kind in ("boolean", "date"):
        kind = {"boolean": "yes and no", "date": "dates"}[column.kind]
    if not use and column is not None and column.kind == "category":
        count = len(distinct)
        use = f"make {count} features of 0 and 1 of it"
    missing = 1 - len(known) / max(1, len(values))
    short = (word if len(word) <= WIDTH else word[: WIDTH - 1] + "…" for word in words)
    return Finding(
        table.names[position], kind, missing, len(distinct), ", ".join(short), use or "scale it"
    )


def _tells(table: Table, column: Column, position: int, target: Any, known: Any) -> bool:
    """Whether each value of the target has one value of the column, and the other way round."""
    if column.kind == "category":
        values = np.asarray(table.values[:, position], dtype=np.float64)
    else:
        values = np.asarray(numbers_of(table, column, position), dtype=np.float64)
    both = known & ~np.isnan(values)
    if both.sum() < 3:
        return False
    pairs = np.unique(np.column_stack([values[both], target[both]]), axis=0)
    one, other = (len(np.unique(pairs[:, at])) for at in (0, 1))
    return bool(one == other == len(pairs) and one > 1 and both.sum() > len(pairs))


def _is_infinite(table: Table, position: int) -> bool:
    return bool(np.isinf(np.asarray(table.values[:, position], dtype=np.float64)).any())


def _balance(target: Target, values: Any) -> str:
    if target.task == "regression":
        low, high = values.min(), values.max()
        return f"numbers from {low:g} to {high:g}, mean {values.mean():g}"
    codes = target.values.ravel().astype(np.int64)
    counts = np.bincount(codes, minlength=len(target.classes))
    order = np.argsort(-counts, kind="stable")
    shown = [f"{target.classes[at]} {counts[at]:,} ({counts[at] / len(codes):.1%})" for at in order]
    rare = [target.classes[at] for at in order if counts[at] < 5]
    words = ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
    return words + (f"; fewer than 5 rows: {', '.join(rare[:5])}" if rare else "")


def _toml(table: Table, data: Data, target: str, ignored: list[str], gaps: bool, model: str) -> str:
    """A configuration that trains on the file, key by key with its reason."""
    keys = [key for key in Reading.model_fields if key not in ("source", "cache")]
    rows = [
        "[data]",
        f"source = {toml_value(data.source)}",
        f"target = {toml_value(target)}",
        *(
            f"{key} = {toml_value(getattr(data, key))}"
            for key in keys
            if key in data.model_fields_set
        ),
    ]
    if ignored:
        patterns = [name.replace("[", "[[]").replace("*", "[*]") for name in ignored]
        rows.append(f"ignore = {toml_value(patterns)}  # each tells the target by itself")
    if gaps:
        rows.append('missing = "mean"  # gaps take the mean; rows without a target are left out')
    rows += ["", "[model]", f'name = "{model}"', ""]
    if len(table.values) < MANY:
        rows += ["[optimizer]", 'name = "lbfgs"', "max_iter = 5", ""]
        train = max(1, round((1 - data.test - data.validation) * len(table.values)))
        l2, words = 1e-4, ""
        if model == "logistic" and (l2 := max(l2, float(f"{1 / train:.1g}"))) > 1e-4:
            words = "  # 1 / training rows: weights about 1 are likely beforehand"
        rows += ["[penalty]", f"l2 = {l2:.4g}{words}", ""]
        rows += ["[training]", "epochs = 20", "batch_size = 0"]
        if model == "logistic" or train >= MANY_FOR_EACH * len(table.names):
            words = "the minimum itself: an earlier epoch would be chosen by chance"
            rows += ["", "[stopping]", f"restore_best = false  # {words}"]
    else:
        rows += ["[optimizer]", 'name = "adam"', "lr = 0.003", ""]
        rows += ["[training]", "epochs = 10", "batch_size = 256"]
    return "\n".join(rows) + "\n"


def write_toml(inspection: Inspection, path: Path, force: bool) -> None:
    """Write the configuration; a file that is there stays, unless `force` is given."""
    refuse_to_replace(path, force, "--write")
    path.write_text(f"# made by nanotorch inspect {plain(inspection.source)}\n\n{inspection.toml}")
