"""Every metric against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from nanotorch.training.errors import InputError
from nanotorch.training.metrics import METRICS, Outcome, chosen_names, measure, names_for

ROWS = 211


def binary(seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    target = (random.random((ROWS, 1)) < 0.3).astype(np.float32)
    # Rounded, so that some scores are equal and curves have ties.
    return Outcome("binary", np.round(random.standard_normal((ROWS, 1)) + target, 1), target)


def classes(seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    target = random.integers(0, 4, ROWS)
    outputs = np.round(random.standard_normal((ROWS, 4)) + 2 * np.eye(4)[target], 1)
    return Outcome("classes", outputs, target)


def labels(seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    target = (random.random((ROWS, 3)) < 0.4).astype(np.float32)
    return Outcome("labels", np.round(random.standard_normal((ROWS, 3)) + target, 1), target)


def regression(seed: int) -> Outcome:
    random = np.random.default_rng(seed)
    target = random.standard_normal((ROWS, 2)).astype(np.float32)
    return Outcome("regression", target + random.standard_normal((ROWS, 2)), target)


MAKERS = {"binary": binary, "classes": classes, "labels": labels, "regression": regression}


def reference(name: str, o: Outcome) -> Any:
    """scikit-learn's value of the same metric."""
    average = "micro" if name.endswith("micro") else "macro"
    if o.task == "regression":
        kinds = {"mse": sk.mean_squared_error, "mae": sk.mean_absolute_error, "r2": sk.r2_score}
        return kinds[name](o.target, o.outputs)
    scores = o.probabilities[:, 1] if o.task == "binary" else o.probabilities
    match name:
        case "accuracy":
            return sk.accuracy_score(o.truth, o.predicted)
        case "balanced_accuracy":
            return sk.balanced_accuracy_score(o.truth, o.predicted)
        case "precision_micro" | "precision_macro":
            return sk.precision_score(o.truth, o.predicted, average=average, zero_division=0)
        case "recall_micro" | "recall_macro":
            return sk.recall_score(o.truth, o.predicted, average=average, zero_division=0)
        case "f1_micro" | "f1_macro":
            return sk.f1_score(o.truth, o.predicted, average=average, zero_division=0)
        case "roc_auc":
            return sk.roc_auc_score(o.truth, scores, multi_class="ovr", average="macro")
        case "pr_auc":
            return sk.average_precision_score(o.indicators, o.scores, average="macro")
        case "log_loss" if o.task == "labels":
            each = [sk.log_loss(o.truth[:, at], scores[:, at]) for at in range(3)]
            return np.mean(each)
        case "log_loss":
            return sk.log_loss(o.truth, o.probabilities)
        case "brier" if o.task == "binary":
            return sk.brier_score_loss(o.truth, scores)
        case "brier" if o.task == "labels":
            return np.mean([sk.brier_score_loss(o.truth[:, at], scores[:, at]) for at in range(3)])
        case "brier":
            return np.square(o.probabilities - np.eye(4)[o.truth]).sum(axis=1).mean()
        case "calibration_error":
            return calibration_by_hand(o)
    raise AssertionError(name)


def calibration_by_hand(o: Outcome) -> float:
    """Expected calibration error, bin by bin."""
    if o.task == "classes":
        p, hit = o.probabilities.max(axis=1), o.predicted == o.truth
    else:
        p, hit = o.scores.ravel(), o.indicators.ravel()
    total = 0.0
    for at in range(10):
        inside = (p > at / 10) & (p <= (at + 1) / 10)
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - hit[inside].mean())
    return total


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task in MAKERS for name in names_for(task)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_agree_with_scikit_learn(task: str, name: str, seed: int) -> None:
    outcome = MAKERS[task](seed)
    assert METRICS[name].measure(outcome) == pytest.approx(reference(name, outcome), abs=1e-12)


@pytest.mark.parametrize("task", ["binary", "classes"])
def test_the_confusion_matrix_is_scikit_learns(task: str) -> None:
    outcome = MAKERS[task](3)
    np.testing.assert_array_equal(
        outcome.confusion, sk.confusion_matrix(outcome.truth, outcome.predicted)
    )


def test_the_threshold_moves_what_counts_as_positive() -> None:
    outcome = binary(0)
    cautious = Outcome("binary", outcome.outputs, outcome.target, threshold=0.8)
    np.testing.assert_array_equal(cautious.predicted, outcome.probabilities[:, 1] >= 0.8)


def test_metrics_of_one_class_alone_are_undefined_or_right() -> None:
    outcome = Outcome("binary", np.array([[1.0], [2.0]]), np.zeros((2, 1)))
    values = measure(outcome, names_for("binary"))
    assert np.isnan(values["roc_auc"])
    assert np.isnan(values["pr_auc"])
    assert values["accuracy"] == 0.0
    assert values["balanced_accuracy"] == 0.0


def test_huge_outputs_overflow_nowhere() -> None:
    outcome = Outcome("binary", np.array([[1e4], [-1e4]], dtype=np.float32), np.array([[0], [1]]))
    assert np.isfinite(
        list(measure(outcome, ["log_loss", "brier", "calibration_error"]).values())
    ).all()


def test_a_metric_of_another_task_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'r2' is not defined for binary; there are accuracy"):
        chosen_names(["r2"], "binary")
