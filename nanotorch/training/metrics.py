"""Measures of a model's outputs over all rows of a part, as scikit-learn defines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import InputError

Array = NDArray[Any]


@dataclass
class Outcome:
    """What a model said about some rows, and what is true.

    - `outputs`: what the model gives, before sigmoid or softmax; shape (rows, outputs)
    - `target`: as `Target.values` of the same task
    """

    task: str
    outputs: Array
    target: Array
    threshold: float = 0.5
    bins: int = 10

    @cached_property
    def probabilities(self) -> Array:
        """float64, (rows, classes) for binary and classes, (rows, labels) for labels."""
        z = self.outputs.astype(np.float64)
        if self.task == "classes":
            z = np.exp(z - z.max(axis=1, keepdims=True))
            shares: Array = z / z.sum(axis=1, keepdims=True)
            return shares
        # exp of minus the absolute value never overflows.
        decay = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1.0, decay) / (1.0 + decay)
        return np.concatenate([1.0 - p, p], axis=1) if self.task == "binary" else p

    @cached_property
    def truth(self) -> Array:
        """Class numbers (rows,), or 0 and 1 (rows, labels) for labels."""
        if self.task == "labels":
            return np.asarray(self.target, dtype=np.int64)
        return np.asarray(self.target.ravel(), dtype=np.int64)

    @cached_property
    def predicted(self) -> Array:
        """Class numbers or labels; positive from the threshold on."""
        if self.task == "classes":
            largest: Array = self.outputs.argmax(axis=1)
            return largest
        border = math.log(self.threshold / (1 - self.threshold))
        positive = (self.outputs >= border).astype(np.int64)
        return positive[:, 0] if self.task == "binary" else positive

    @cached_property
    def indicators(self) -> Array:
        """The truth as 0 and 1, in the columns of `scores`."""
        if self.task == "labels":
            return self.truth
        if self.task == "binary":
            return self.truth[:, None]
        classes = np.arange(self.outputs.shape[1])
        return np.asarray(self.truth[:, None] == classes, dtype=np.int64)

    @cached_property
    def scores(self) -> Array:
        """One column of probabilities per label or class; the positive one for binary."""
        return self.probabilities[:, 1:] if self.task == "binary" else self.probabilities

    @cached_property
    def confusion(self) -> Array:
        """Counts, shape (classes, classes): row is the truth, column what was predicted."""
        classes = max(2, self.outputs.shape[1])
        flat = np.bincount(self.truth * classes + self.predicted, minlength=classes**2)
        return flat.reshape(classes, classes)

    @cached_property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.outputs)

    @cached_property
    def right(self) -> int:
        """How many rows are right (in every label)."""
        right = self.predicted == self.truth
        return int((right.all(axis=1) if right.ndim == 2 else right).sum())

    def rows_with(self, truth: Sequence[int]) -> int:
        """How many rows are of a class, or have these labels."""
        same = self.truth.reshape(self.rows, -1) == np.asarray(truth)
        return int(same.all(axis=1).sum())

    @cached_property
    def counts(self) -> tuple[Array, Array, Array]:
        """True positives, positives predicted, positives there are: per class or label."""
        if self.task == "labels":
            hits = (self.truth & self.predicted).sum(axis=0)
            return hits, self.predicted.sum(axis=0), self.truth.sum(axis=0)
        return self.confusion.diagonal(), self.confusion.sum(axis=0), self.confusion.sum(axis=1)

    @cached_property
    def rankings(self) -> list[tuple[Array, Array]]:
        """For each column of `scores` true and false positives at each distinct score, the highest
        first."""
        columns = range(self.scores.shape[1])
        return [ranking(self.indicators[:, at], self.scores[:, at]) for at in columns]

    @cached_property
    def distinct_scores(self) -> Array:
        """The probabilities of the positive class, the highest first (binary)."""
        return np.unique(self.scores[:, 0])[::-1]

    @cached_property
    def sums(self) -> dict[str, Any]:
        """What adds up over the rows, of log loss, Brier score and calibration, or of errors."""
        if self.task == "regression":
            error = self.outputs.astype(np.float64) - self.target
            return {
                "values": error.size,
                "squared error": np.square(error).sum(),
                "absolute error": np.abs(error).sum(),
                "squared errors": np.square(error).sum(axis=0),
            }
        smallest = np.finfo(np.float64).eps
        p = np.clip(self.probabilities, smallest, 1 - smallest)
        if self.task == "labels":
            losses = np.where(self.truth == 1, np.log(p), np.log(1 - p))
        else:
            losses = np.log(p[np.arange(len(p)), self.truth])
        distance = np.square(self.scores - self.indicators)
        several = self.task == "classes"
        return {
            "log likelihood": losses.sum(),
            "likelihoods": losses.size,
            "distance": (distance.sum(axis=1) if several else distance).sum(),
            "distances": len(distance) if several else distance.size,
            "bins": self._bin_sums(),
        }

    def _bin_sums(self) -> Array:
        """Rows, sum of the probabilities and rows that are true, per bin of equal width."""
        if self.task == "classes":
            p, hit = self.probabilities.max(axis=1), self.predicted == self.truth
        else:
            p, hit = self.scores.ravel(), self.indicators.ravel()
        bins = np.clip(np.ceil(p * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        weights = (None, p, hit)
        return np.array([np.bincount(bins, w, minlength=self.bins) for w in weights])

    @cached_property
    def moments(self) -> tuple[int, Array, Array]:
        """Rows, mean and sum of squared deviations of the targets (regression)."""
        mean = self.target.mean(axis=0, dtype=np.float64)
        return self.rows, mean, np.square(self.target - mean).sum(axis=0)


def label_confusions(o: Outcome) -> list[list[list[int]]]:
    """For each label [[true no, false yes], [false no, true yes]]."""
    hits, predicted, there = o.counts
    rows = o.rows
    return [
        [[int(rows - p - t + h), int(p - h)], [int(t - h), int(h)]]
        for h, p, t in zip(hits, predicted, there, strict=True)
    ]


# --- classification ----------------------------------------------------------------------------


def accuracy(o: Outcome) -> float:
    """Share of the rows that are right (in every label)."""
    return o.right / o.rows


def baseline(most_frequent: list[int], o: Outcome) -> float:
    """The accuracy of always saying what most training rows have."""
    return o.rows_with(most_frequent) / o.rows


def balanced_accuracy(o: Outcome) -> float:
    """Mean over the classes present of the share of their rows that are right."""
    hits, _, there = o.counts
    present = there > 0
    return float((hits[present] / there[present]).mean())


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def precision(o: Outcome, micro: bool) -> float:
    """Share of what was predicted that is there."""
    hits, predicted, _ = o.counts
    return float(_ratio(hits.sum(), predicted.sum()) if micro else _ratio(hits, predicted).mean())


def recall(o: Outcome, micro: bool) -> float:
    """Share of what is there that was predicted."""
    hits, _, there = o.counts
    return float(_ratio(hits.sum(), there.sum()) if micro else _ratio(hits, there).mean())


def f1(o: Outcome, micro: bool) -> float:
    """2 hits / (predicted + there)."""
    hits, predicted, there = o.counts
    if micro:
        return float(_ratio(2 * hits.sum(), predicted.sum() + there.sum()))
    return float(_ratio(2 * hits, predicted + there).mean())


def best_threshold(o: Outcome) -> float:
    """The probability with the highest F1 of the positive class; halfway to the next one below."""
    ((hits, misses),) = o.rankings
    at = int((2 * hits / (hits + misses + max(1, hits[-1]))).argmax())
    distinct = o.distinct_scores
    low = distinct[at + 1] if at + 1 < len(distinct) else 0.0
    return float(np.clip((distinct[at] + low) / 2, 1e-6, 1 - 1e-6))


def ranking(truth: Array, score: Array) -> tuple[Array, Array]:
    """True and false positives at each distinct score, the highest first."""
    order = np.argsort(-score, kind="stable")
    truth, score = truth[order], score[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each run of equal scores
    hits = np.cumsum(truth)[last]
    return hits, 1 + last - hits


def roc_curve(hits: Array, misses: Array) -> tuple[Array, Array]:
    """False and true positive rates, from (0, 0) to (1, 1)."""
    hits, misses = np.append(0, hits), np.append(0, misses)
    return misses / misses[-1], hits / hits[-1]


def has_both(hits: Array, misses: Array) -> bool:
    """Whether there are rows of the class and rows of another one."""
    return bool(hits[-1] and misses[-1])


def _roc_auc(hits: Array, misses: Array) -> float:
    if not has_both(hits, misses):
        return math.nan
    x, y = roc_curve(hits, misses)
    return float(np.trapezoid(y, x))


def _average_precision(hits: Array, misses: Array) -> float:
    if not hits[-1]:
        return math.nan
    steps = np.diff(np.append(0, hits)) / hits[-1]
    return float((steps * hits / (hits + misses)).sum())


def roc_auc(o: Outcome) -> float:
    """Area under the ROC curve; mean over labels, or over classes one against the rest."""
    return float(np.mean([_roc_auc(*each) for each in o.rankings]))


def pr_auc(o: Outcome) -> float:
    """Average precision: sum of precision times the gain in recall."""
    return float(np.mean([_average_precision(*each) for each in o.rankings]))


def log_loss(o: Outcome) -> float:
    """Mean of -log p of what is true."""
    return float(-o.sums["log likelihood"] / o.sums["likelihoods"])


def brier(o: Outcome) -> float:
    """Mean squared distance of the probabilities from the truth (summed over several classes)."""
    return float(o.sums["distance"] / o.sums["distances"])


def calibration(o: Outcome) -> tuple[Array, Array, Array]:
    """Rows, mean probability and share that is true, per bin of equal width.

    The probability is that of the positive class or label, or of the class predicted.
    """
    rows, p, hit = o.sums["bins"]
    return rows.astype(np.int64), _ratio(p, rows), _ratio(hit, rows)


def calibration_error(o: Outcome) -> float:
    """Mean over rows of |mean probability - share that is true| of their bin."""
    rows, mean, share = calibration(o)
    return float((rows * np.abs(mean - share)).sum() / rows.sum())


# --- regression --------------------------------------------------------------------------------


def mse(o: Outcome) -> float:
    """Mean squared error."""
    return float(o.sums["squared error"] / o.sums["values"])


def mae(o: Outcome) -> float:
    """Mean absolute error."""
    return float(o.sums["absolute error"] / o.sums["values"])


def r2(o: Outcome) -> float:
    """1 - squared error / squared deviation from the mean; mean over targets.

    NaN where a target is constant, for which scikit-learn says 0 or 1.
    """
    error, (_, _, spread) = o.sums["squared errors"], o.moments
    return float(np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), math.nan).mean())


# --- by name -----------------------------------------------------------------------------------

CHOICE = ("binary", "classes")
ANY_CLASS = ("binary", "classes", "labels")


@dataclass(frozen=True)
class Metric:
    """A measure, the tasks it is for, and whether more of it is better."""

    measure: Callable[[Outcome], float]
    tasks: tuple[str, ...]
    more_is_better: bool = True
    needs: str = ""  # why it may be undefined


EACH_CLASS = "needs rows of each class, and rows of another one"

METRICS = {
    "accuracy": Metric(accuracy, ANY_CLASS),
    "balanced_accuracy": Metric(balanced_accuracy, CHOICE),
    "precision_micro": Metric(lambda o: precision(o, micro=True), ANY_CLASS),
    "precision_macro": Metric(lambda o: precision(o, micro=False), ANY_CLASS),
    "recall_micro": Metric(lambda o: recall(o, micro=True), ANY_CLASS),
    "recall_macro": Metric(lambda o: recall(o, micro=False), ANY_CLASS),
    "f1_micro": Metric(lambda o: f1(o, micro=True), ANY_CLASS),
    "f1_macro": Metric(lambda o: f1(o, micro=False), ANY_CLASS),
    "roc_auc": Metric(roc_auc, ANY_CLASS, needs=EACH_CLASS),
    "pr_auc": Metric(pr_auc, ANY_CLASS, needs="needs rows of each class"),
    "log_loss": Metric(log_loss, ANY_CLASS, more_is_better=False),
    "brier": Metric(brier, ANY_CLASS, more_is_better=False),
    "calibration_error": Metric(calibration_error, ANY_CLASS, more_is_better=False),
    "mse": Metric(mse, ("regression",), more_is_better=False),
    "mae": Metric(mae, ("regression",), more_is_better=False),
    "r2": Metric(r2, ("regression",), needs="needs targets that differ"),
}


def reason(name: str) -> str:
    """Why a metric, or the loss, has no value."""
    return METRICS[name].needs if name in METRICS else "needs rows that weigh more than 0"


def names_for(task: str) -> list[str]:
    """The metrics that are defined for a task."""
    return [name for name, metric in METRICS.items() if task in metric.tasks]


def chosen_names(each_epoch: Sequence[str] | None, task: str) -> list[str]:
    """The metrics of every epoch, checked against the task."""
    if each_epoch is None:
        return ["r2"] if task == "regression" else ["accuracy"]
    for name in each_epoch:
        if task not in METRICS[name].tasks:
            raise InputError(
                f"metrics.each_epoch: {name!r} is not defined for {task}; "
                f"there are {', '.join(names_for(task))}"
            )
    return list(each_epoch)


def measure(outcome: Outcome, names: list[str]) -> dict[str, float]:
    """The named metrics of one outcome; NaN where one is undefined, as AUC of a single class."""
    return {name: METRICS[name].measure(outcome) for name in names}
