"""Honest numbers: baselines, few rows, spreads over seeds, coefficients with their uncertainty."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanotorch.training import fit, read_request
from nanotorch.training.coefficients import Estimation, _two_sided, coefficients
from nanotorch.training.commands import COMMANDS
from nanotorch.training.data.split import divide
from nanotorch.training.errors import InputError
from nanotorch.training.exits import exit_code
from nanotorch.training.metrics import METRICS, Outcome
from nanotorch.training.model_file import read_model_file
from nanotorch.training.results import Finished

QUICK = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]
EXACT = ["--optimizer.name", "lbfgs", "--training.batch_size", "0", "--training.epochs", "40",
         "--training.dtype", "float64", "--data.test", "0", "--data.validation", "0"]  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(source: str, *flags: str) -> Finished:
    Path("a.toml").write_text(f'[data]\nsource = "{source}"\n')
    return fit(read_request(["a.toml", *QUICK, *flags]).configs[0], quiet=True)


def call(command: str, *arguments: str) -> int:
    return exit_code(COMMANDS[command], list(arguments), f"nanotorch {command}")


def write(name: str, **columns: Any) -> str:
    rows = zip(*columns.values(), strict=True)
    Path(name).write_text(
        "\n".join([",".join(columns), *(",".join(map(str, r)) for r in rows), ""])
    )
    return name


def test_the_accuracy_of_the_most_frequent_class_stands_beside_that_of_the_model() -> None:
    run = train("breast_cancer", "--training.epochs", "2")
    share = run.outcomes["test"].truth.mean()
    assert run.summary["test"]["baseline_accuracy"] == pytest.approx(max(share, 1 - share))


def test_classes_with_few_rows_in_a_part_are_noted() -> None:
    target = ["a"] * 40 + ["b"] * 40 + ["c"] * 8
    write("d.csv", x=range(88), z=np.arange(88) % 7, y=target)
    (note,) = (n for n in train("d.csv", "--training.epochs", "1").data.notes if "fewer" in n)
    assert "'c' 2 in validation" in note and "'c' 2 in test" in note


def test_class_weights_of_zero_are_refused() -> None:
    with pytest.raises(InputError, match="every class weighs 0"):
        train("breast_cancer", "--loss.class_weight", "[0.0, 0.0]")


def test_what_cannot_be_measured_is_a_dash_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("d.csv", x=range(40), y=["a", "b"] * 20)
    write("one.csv", x=range(4), y=["a"] * 4)
    folder = str(train("d.csv", "--training.epochs", "1").folder)
    assert call("evaluate", folder, "one.csv") == 0
    assert "roc_auc            – (needs rows of each class" in capsys.readouterr().out


def test_runs_that_differ_in_their_seed_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 2\n')
    flags = ["--seed", "0,1,2", "--sweep.optimizer.lr", "0.1,0.01", "--quiet", *QUICK]
    assert call("train", "a.toml", *flags) == 0
    rows = [
        line.split("  ") for line in capsys.readouterr().out.splitlines() if "mean of 3" in line
    ]
    assert len(rows) == 2
    losses = []
    for number in range(1, 7):
        text = Path(f"runs/a-{number}/config.toml").read_text()
        if "lr = 0.1\n" in text:
            losses.append(
                json.loads(Path(f"runs/a-{number}/summary.json").read_text())["test"]["loss"]
            )
    expected = f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}"
    assert any(expected in cell for row in rows for cell in row)


def test_a_sweep_goes_on_with_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 2\n')
    assert call("train", "a.toml", "--seed", "0,1", "--quiet", *QUICK) == 0
    before = Path("runs/a-1/model.safetensors").read_bytes()
    assert call("train", "a.toml", "--seed", "0,1,2", "--quiet", *QUICK, "--resume") == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["a-1", "a-2", "a-3"]
    assert Path("runs/a-1/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "values"), [("training.epochs", "2,3"), ("optimizer.lr", "0.1,0.01"), ("seed", "0,1")]
)
def test_each_run_of_a_sweep_goes_on_as_itself(key: str, values: str) -> None:
    """Also where the key that varies is one that a run may change when it goes on."""
    Path("a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 2\n')
    flags = [f"--sweep.{key}", values, "--quiet", *QUICK]
    assert call("train", "a.toml", *flags) == 0
    files = {path: path.read_bytes() for path in Path("runs").glob("*/m*")}
    assert call("train", "a.toml", *flags, "--resume") == 0
    assert {path: path.read_bytes() for path in Path("runs").glob("*/m*")} == files


def test_a_run_that_fails_does_not_end_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('[data]\nsource = "diabetes"\n[model]\nname = "linear"\n')
    flags = ["--sweep.optimizer.lr", "1e30,0.01,0.001", "--training.epochs", "2", *QUICK, "--quiet"]
    for resume in ([], ["--resume"]):
        assert call("train", "a.toml", *flags, *resume) == 1
        captured = capsys.readouterr()
        assert "a with optimizer.lr = 1e+30 failed: the loss became" in captured.err
        assert "1 of 3 runs failed" in captured.err
        assert re.search(r"\n0\.01 .*\n0\.001 ", captured.out)
    assert len(list(Path("runs").glob("*/summary.json"))) == 4  # the failed one was tried again


def test_a_comparison_shows_no_key_of_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 1\n')
    assert call("train", "a.toml", "--sweep.model.name", "logistic,mlp", "--quiet", *QUICK) == 0
    out = capsys.readouterr().out
    assert "None" not in out
    head = re.search(r"model.name .* test accuracy +most frequent alone +run folder\n", out)
    assert head is not None
    assert re.search(r"\nlogistic +– .* 0\.3333 +runs/a-1\n", out)


@pytest.mark.parametrize("key", ["data.test", "data.validation"])
def test_runs_with_other_parts_are_compared(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 1\n')
    assert call("train", "a.toml", f"--sweep.{key}", "0,0.2", "--quiet", *QUICK) == 0
    without, with_it = capsys.readouterr().out.splitlines()[-2:]
    assert without.startswith("0 ") and with_it.startswith("0.2 ")
    assert " – " in without and " – " not in with_it


def test_runs_of_two_tasks_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 1\n')
    text = '[data]\nsource = "diabetes"\n[model]\nname = "linear"\n[training]\nepochs = 1\n'
    Path("b.toml").write_text(text + "[output]\nfolder = 'other'\n")
    flags = ["--output.curves", "false", "--device", "cpu", "--quiet"]
    assert call("train", "a.toml", "b.toml", *flags) == 0
    out = capsys.readouterr().out
    assert re.search(r"test accuracy +most frequent alone +test r2 +run folder\n", out)
    assert re.search(r" – +runs/a-1\n", out) and re.search(r" – +– +-?\d\S+ +other/b-1\n", out)
    page = Path("runs/a-1-to-b-1.html").read_text()
    for link in re.findall('href="([^"]+)"', page):
        assert (Path("runs") / link).is_file()


# --- the best epoch -----------------------------------------------------------------------------


def log_of(run: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("weigh", ["rows", "classes", "both"])
def test_the_best_epoch_is_that_of_the_weighted_loss_of_validation_rows(weigh: str) -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal(300), random.integers(0, 4, 300)
    y = np.where(x + random.standard_normal(300) > 1, "b", "a")
    source = write("d.csv", x=x, w=w, y=y)
    flags = ["--data.weight", "w"] if weigh != "classes" else ["--data.ignore", '["w"]']
    if weigh != "rows":
        flags += ["--loss.class_weight", "[1.0, 3.0]"]
    run = train(source, *flags, "--training.epochs", "9", "--optimizer.lr", "0.5")
    losses = [record["validation/loss"] for record in log_of(run)]
    assert run.summary["best_epoch"] == 1 + int(np.argmin(losses))
    validation, outcome = run.data.validation, run.outcomes["validation"]
    assert validation is not None
    weights = np.ones(len(validation)) if weigh == "classes" else np.asarray(validation.weights)
    truth = outcome.truth
    if weigh != "rows":
        weights = weights * np.where(truth == 1, 3.0, 1.0)
    each = -np.log(outcome.probabilities[np.arange(len(truth)), truth])
    expected = (weights * each).sum() / weights.sum()
    assert run.summary["validation"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert min(losses) == pytest.approx(expected, rel=1e-5)


def test_a_file_of_test_rows_is_weighed_by_its_own_column() -> None:
    write("d.csv", x=range(80), w=[1, 2] * 40, y=["a", "b", "b", "a"] * 20)
    write("t.csv", x=[3, 9, 70], w=[1, 0, 5], y=["a", "b", "a"])
    flags = ["--data.weight", "w", "--data.test_file", "t.csv", "--training.epochs", "2"]
    run = train("d.csv", *flags)
    outcome = run.outcomes["test"]
    each = -np.log(outcome.probabilities[np.arange(3), outcome.truth])
    expected = (each[0] + 5 * each[2]) / 6
    assert run.summary["test"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_measured_never_chooses_the_best_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One class alone in the validation part, by time; and validation rows that weigh nothing."""
    old = ["a", "b"] * 30
    write("d.csv", t=range(100), x=np.arange(100) % 9, y=old + ["a"] * 20 + ["a", "b"] * 10)
    write(
        "w.csv",
        x=np.arange(100) % 9,
        t=range(100),
        w=[1] * 60 + [0] * 20 + [1] * 20,
        y=["a", "b"] * 50,
    )
    flags = ["--data.split", "time", "--data.time", "t", "--training.epochs", "3"]
    auc = ["--stopping.monitor", "roc_auc", "--metrics.each_epoch", '["roc_auc"]']
    for source, more, words in (
        ("d.csv", auc, "validation roc auc –: needs rows of each class"),
        ("w.csv", ["--data.weight", "w"], "validation loss –: needs rows that weigh more than 0"),
    ):
        run = train(source, *flags, *more)
        assert run.summary["best_epoch"] is None
        assert words in notes_of(run)
        assert "the weights are those of the last one" in notes_of(run)
    Path("a.toml").write_text('[data]\nsource = "d.csv"\n')
    assert call("train", "a.toml", *flags, *auc, *QUICK) == 0
    out = capsys.readouterr().out
    assert out.count("note: validation roc_auc –: needs rows of each class") == 1
    assert "(weights of the last epoch;" in out


def test_the_baseline_of_labels_is_their_most_frequent_combination() -> None:
    run = fit_task("labels", training={"epochs": 1})
    rows = run.data.train.target
    combinations, counts = np.unique(rows, axis=0, return_counts=True)
    truth = run.outcomes["test"].truth
    share = (truth == combinations[counts.argmax()]).all(axis=1).mean()
    assert run.summary["test"]["baseline_accuracy"] == pytest.approx(share)


def test_evaluate_has_the_baseline_of_the_training_rows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(train("breast_cancer", "--training.epochs", "2").folder)
    assert call("evaluate", folder, "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    summary = json.loads(Path(folder, "summary.json").read_text())["test"]
    assert measured["baseline_accuracy"] == summary["baseline_accuracy"]


def test_the_threshold_needs_a_positive_row() -> None:
    write(
        "d.csv",
        t=range(100),
        x=np.arange(100) % 9,
        y=["a", "b"] * 30 + ["a"] * 20 + ["a", "b"] * 10,
    )
    flags = ["--data.split", "time", "--data.time", "t", "--metrics.threshold", "f1"]
    run = train("d.csv", *flags, "--training.epochs", "2")
    assert "threshold" not in run.summary
    assert "no validation row is positive: the threshold stays 0.5" in notes_of(run)


@pytest.mark.parametrize("constant", [True, False])
def test_r2_of_targets_that_are_all_the_same_is_none(constant: bool) -> None:
    target = np.full((4, 1), 2.0) if constant else np.arange(4.0)[:, None]
    value = METRICS["r2"].measure(Outcome("regression", target + 0.5, target))
    assert math.isnan(value) is constant


# --- coefficients ------------------------------------------------------------------------------


def terms(run: Finished) -> dict[str, dict[str, float]]:
    rows = csv.DictReader((run.folder / "coefficients.csv").read_text().splitlines())
    return {r.pop("term"): {k: float(v or "nan") for k, v in r.items()} for r in rows}


def test_linear_coefficients_are_those_of_least_squares() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal(60) * 3 + 100, random.standard_normal(60)
    y = 2 * a - 0.1 * b + random.standard_normal(60)
    found = terms(train(write("d.csv", a=a, b=b, y=y), "--model.name", "linear", *EXACT))
    x = np.column_stack([np.ones(60), a, b])
    beta, rest, *_ = np.linalg.lstsq(x, y, rcond=None)
    errors = np.sqrt(rest[0] / 57 * np.diag(np.linalg.inv(x.T @ x)))
    for name, value, error in zip(("(intercept)", "a", "b"), beta, errors, strict=True):
        assert found[name]["coefficient"] == pytest.approx(value, rel=1e-5, abs=1e-3 * error)
        assert found[name]["standard_error"] == pytest.approx(error, rel=1e-4)
        low = value - 2.002465 * error  # of Student's t with 57 degrees of freedom
        assert found[name]["low"] == pytest.approx(low, rel=1e-3, abs=2e-3 * error)


def test_logistic_coefficients_are_those_of_maximum_likelihood() -> None:
    random = np.random.default_rng(1)
    a, b = random.standard_normal(300) * 5 - 20, random.standard_normal(300)
    y = (random.random(300) < 1 / (1 + np.exp(-(0.3 * a + 6 - b)))).astype(int)
    found = terms(train(write("d.csv", a=a, b=b, y=y), *EXACT))
    x, beta = np.column_stack([np.ones(300), a, b]), np.zeros(3)
    for _ in range(30):  # Newton's method
        p = 1 / (1 + np.exp(-x @ beta))
        information = x.T @ (x * (p * (1 - p))[:, None])
        beta += np.linalg.solve(information, x.T @ (y - p))
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    for name, value, error in zip(("(intercept)", "a", "b"), beta, errors, strict=True):
        assert found[name]["coefficient"] == pytest.approx(value, rel=1e-3)
        assert found[name]["standard_error"] == pytest.approx(error, rel=1e-3)
        assert found[name]["p"] == pytest.approx(math.erfc(abs(value / error) / 2**0.5), rel=0.02)
        assert found[name]["odds_ratio"] == pytest.approx(math.exp(value), rel=0.01)


def test_separable_rows_and_features_that_are_sums_are_noted() -> None:
    write("d.csv", x=range(40), y=["a"] * 20 + ["b"] * 20)
    notes = train("d.csv", *EXACT).summary["data"]["notes"]
    assert any("separable" in note for note in notes)
    write(
        "c.csv", c=["u", "v", "w", "v"] * 10, x=np.arange(40) % 7, y=["a", "b", "b", "a", "a"] * 8
    )
    run = train("c.csv", *EXACT)
    assert any("sums of others" in note for note in run.summary["data"]["notes"])
    assert math.isnan(terms(run)["x"]["standard_error"])
    assert not math.isnan(
        terms(train("c.csv", *EXACT, "--penalty.l2", "0.1"))["x"]["standard_error"]
    )


def cases_of(task: str) -> dict[str, Any]:
    """Columns whose targets (those called y…) are of a task."""
    random = np.random.default_rng(3)
    x = random.standard_normal((200, 2)) * [3.0, 0.1] + [5.0, 0.0]
    chance = 1 / (1 + np.exp(-(x[:, 0] - 5) / 3))
    columns = {"a": x[:, 0], "b": x[:, 1]}
    match task:
        case "binary":
            return {**columns, "y": (random.random(200) < chance).astype(int)}
        case "classes":
            scores = np.column_stack([x[:, 0] / 3, 0 * chance, 5 * x[:, 1]])
            return {**columns, "y": (scores + random.gumbel(size=(200, 3))).argmax(axis=1)}
        case "labels":
            return {**columns, **{f"y{k}": (random.random(200) < chance).astype(int) for k in "12"}}
        case "regression":
            return {**columns, "y": x[:, 0] + random.standard_normal(200)}
    return {**columns, **{f"y{k}": 9 * k * x[:, 0] + random.standard_normal(200) for k in (1, 2)}}


TASKS = ("binary", "classes", "labels", "regression", "regressions")


def fit_task(task: str, **sections: Any) -> Finished:
    columns = cases_of(task)
    targets = [name for name in columns if name.startswith("y")]
    tables: dict[str, dict[str, Any]] = {
        "data": {"target": targets[0] if len(targets) == 1 else targets},
        "model": {"name": "linear" if task.startswith("regression") else "logistic"},
        "output": {"curves": False, "report": False},
    }
    for name, keys in sections.items():
        tables[name] = {**tables.get(name, {}), **keys}
    return fit(tables, data=columns, quiet=True)


OPTIMUM: dict[str, Any] = {
    "optimizer": {"name": "lbfgs", "max_iter": 100, "tolerance_grad": 1e-10},
    "training": {"epochs": 20, "batch_size": 0, "dtype": "float64"},
    "data": {"test": 0.0, "validation": 0.0},
}


def notes_of(run: Finished) -> str:
    notes: list[str] = run.summary["data"]["notes"]
    return "\n".join(notes)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "penalty", [{}, {"l2": 0.3}, {"l2": 0.3, "parameters": ["*"]}], ids=["none", "weight", "all"]
)
def test_the_optimum_of_the_loss_and_its_penalty_is_known(
    task: str, penalty: dict[str, Any]
) -> None:
    run = fit_task(task, **OPTIMUM, penalty=penalty)
    assert "standard errors away" not in notes_of(run)
    assert all(each["standard_error"] > 0 for each in rows_of(run))
    assert ("pulls coefficients towards 0" in notes_of(run)) is bool(penalty)


@pytest.mark.parametrize("task", TASKS)
def test_coefficients_that_are_not_the_optimum_say_how_far_they_are(task: str) -> None:
    run = fit_task(task, training={"epochs": 1}, optimizer={"lr": 1e-4})
    assert re.search(r"up to \S+ standard errors away", notes_of(run))


@pytest.mark.parametrize(
    ("section", "keys", "words"),
    [
        ("loss", {"class_weight": "balanced"}, "loss.class_weight makes the loss another one"),
        ("loss", {"pos_weight": 2.0}, "loss.pos_weight makes the loss another one"),
        ("loss", {"label_smoothing": 0.1}, "loss.label_smoothing makes the loss another one"),
        ("penalty", {"l1": 0.01}, "penalty.l1 chooses"),
    ],
)
def test_where_no_standard_error_holds_there_is_none(
    section: str, keys: dict[str, Any], words: str
) -> None:
    run = fit_task("binary", **OPTIMUM, **{section: keys})
    assert f"no standard errors: {words}" in notes_of(run)
    assert [math.isnan(each["standard_error"]) for each in rows_of(run)] == [True] * 3
    assert not any(math.isnan(each["coefficient"]) for each in rows_of(run))


def test_standard_errors_that_would_take_long_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = fit_task("classes", **OPTIMUM)
    rows, blocks = len(run.data.train), 6  # of three classes
    for work, words in ((rows * 9 * blocks, False), (rows * 9 * blocks - 1, True)):
        monkeypatch.setattr("nanotorch.training.coefficients.WORK", work)
        again = fit_task("classes", **OPTIMUM)
        assert ("no standard errors: they would take" in notes_of(again)) is words
        assert math.isnan(rows_of(again)[0]["standard_error"]) is words


def test_what_is_frozen_has_no_standard_error() -> None:
    run = fit_task("binary", **{**OPTIMUM, "model": {"freeze": ["bias"]}, "data": {
        **OPTIMUM["data"], "standardize": False}})  # fmt: skip
    assert "take the frozen bias as known" in notes_of(run)
    assert [math.isnan(each["standard_error"]) for each in rows_of(run)] == [True, False, False]


def test_a_value_that_is_never_met_with_a_class_is_noted() -> None:
    write(
        "d.csv",
        c=["u", "v", "w", "v"] * 10,
        x=np.arange(40) % 7,
        y=["a", "b", "b", "a", "b", "a", "b", "b"] * 5,
    )
    run = train("d.csv", *EXACT)
    assert "some value of c=w is never met with one of the outcomes" in notes_of(run)
    assert "penalty.l2 would bound them" in notes_of(run)


def rows_of(run: Finished) -> list[dict[str, float]]:
    rows = csv.DictReader((run.folder / "coefficients.csv").read_text().splitlines())
    names = ("term", "outcome")
    return [{k: float(v or "nan") for k, v in r.items() if k not in names} for r in rows]


@pytest.mark.parametrize(
    ("size", "freedom", "p"),
    [
        (2.0, 5, 0.10193948),
        (1.0, 1, 0.5),
        (2.5705818, 5, 0.05),
        (0.3, 100, 0.76480),
        (4.0, 1e6, 6.334e-5),
    ],
)
def test_p_values_are_those_of_students_t(size: float, freedom: float, p: float) -> None:
    assert _two_sided(size, freedom) == pytest.approx(p, rel=1e-3)


# --- cross-validation and thresholds -----------------------------------------------------------


def test_every_row_beside_the_test_part_validates_once() -> None:
    classes = np.repeat([0, 1], [30, 12])
    splits = [divide(42, 0.2, 0.2, 0, classes=classes, folds=4, fold=fold) for fold in range(4)]
    assert all((split.test == splits[0].test).all() for split in splits)
    rows = np.concatenate([split.validation for split in splits])
    assert sorted([*rows, *splits[0].test]) == list(range(42))
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert sorted([*split.train, *split.validation, *split.test]) == list(range(42))
        assert abs(np.bincount(classes[split.validation]) - [6, 2.5]).max() <= 1


def test_folds_keep_groups_together_and_time_in_order() -> None:
    groups = np.arange(60) % 12
    for fold in range(3):
        split = divide(60, 0.25, 0.2, 1, groups=groups, folds=3, fold=fold)
        assert not set(groups[split.train]) & set(groups[split.validation])
    times = np.random.default_rng(0).permutation(60)
    sizes = []
    for fold in range(3):
        split = divide(60, 0.2, 0.2, 1, times=times, folds=3, fold=fold)
        assert times[split.train].max() < times[split.validation].min()
        assert times[split.validation].max() < times[split.test].min()
        sizes.append(len(split.train))
    assert sizes == [12, 24, 36]


def test_a_cross_validation_trains_every_fold_and_sums_them_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("a.toml").write_text('[data]\nsource = "iris"\nfolds = 3\n[training]\nepochs = 2\n')
    assert call("train", "a.toml", "--quiet", "--output.curves", "false") == 0
    out = capsys.readouterr().out
    assert re.search(r"\ndata\.fold +validation loss .*\n0 .*\n1 .*\n2 .*\nmean of 3 ", out)
    page = Path("runs/a-1-to-a-3.html").read_text()
    assert 'href="a-2/report.html"' in page and "mean of 3" in page


def test_the_threshold_of_the_best_f1_is_chosen_on_validation_rows() -> None:
    flags = ["--metrics.threshold", "f1", "--training.epochs", "2"]
    run = train("breast_cancer", *flags)
    chosen = run.summary["threshold"]
    outcome = run.outcomes["validation"]
    scores = {}
    for threshold in [*np.linspace(0.01, 0.99, 99), chosen]:
        outcome = Outcome("binary", outcome.outputs, outcome.target, float(threshold))
        hits, predicted, there = (counts[1] for counts in outcome.counts)
        scores[threshold] = 2 * hits / (predicted + there)
    assert scores[chosen] == max(scores.values())
    assert read_model_file(run.folder / "model.safetensors").facts["threshold"] == chosen
    with pytest.raises(InputError, match="f1 needs two classes"):
        train("iris", *flags)


@pytest.mark.parametrize(("slope", "noted"), [(0.5, True), (5.0, True), (-0.5, False)])
def test_rows_are_separable_by_any_margin(slope: float, noted: bool) -> None:
    write(
        "d.csv", x=[-1.0, -1.2, 1.0, 1.1] * 10, z=[0.3, 0.1, 0.2] * 13 + [0.7], y=[0, 0, 1, 1] * 10
    )
    data = train("d.csv", "--training.epochs", "1").data
    weights = {"weight": np.array([[slope, 0.0]], np.float32), "bias": np.zeros(1, np.float32)}
    _, notes = coefficients(data, weights, Estimation())
    assert any("are separable" in note for note in notes) is noted
