"""Coefficients of linear and logistic models in original units, with their uncertainty.

The standard errors are those of maximum likelihood: the inverse of the observed information H (for
linear regression those of least squares). Under a penalty with the second derivative R they are
those of the penalized estimate, the roots of the diagonal of (H + R)^-1 H (H + R)^-1. Several
classes are told relative to the first. See T. Hastie, R. Tibshirani, J. Friedman: The Elements of
Statistical Learning, sections 3.2 and 4.4.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.parts import Part
from nanotorch.training.data.prepare import Prepared
from nanotorch.training.files import guarded_cell

COEFFICIENTS = "coefficients.csv"  # in a run folder
MOST = 1000  # parameters up to which the information is inverted
WORK = 2 * 10**10  # products up to which it is summed over the rows: some seconds
LEVEL = 0.95  # of the confidence intervals
FAR = 0.1  # standard errors from the optimum, beyond which it is said
TASKS = ("binary", "classes", "labels", "regression")

Array = NDArray[np.float64]


@dataclass
class Coefficient:
    """One term: its value, its uncertainty (NaN where it has none), and the odds it multiplies."""

    outcome: str
    term: str
    coefficient: float
    standard_error: float
    statistic: float
    p: float
    low: float
    high: float
    odds_ratio: float
    odds_low: float
    odds_high: float


@dataclass
class Estimation:
    """How the weights came about, as far as their uncertainty depends on it."""

    l1: float = 0.0
    l2: float = 0.0
    penalized: list[str] = field(default_factory=lambda: ["weight"])
    frozen: list[str] = field(default_factory=list)
    reweighted: str = ""  # the key that makes the loss another one than the likelihood


def coefficients(
    data: Prepared, weights: dict[str, NDArray[Any]], estimation: Estimation
) -> tuple[list[Coefficient], list[str]]:
    """The terms of a model of one linear layer, and notes; none for any other model."""
    weight, bias = weights.get("weight"), weights.get("bias")
    names, task = data.encoding.feature_names, data.target.task
    if weight is None or weight.ndim != 2 or set(weights) - {"weight", "bias"}:
        return [], []
    if weight.shape != (data.target.outputs, len(names)):
        return [], []
    terms = names if bias is None else ["(intercept)", *names]
    start = len(terms) - len(names)
    columns = [weight] if bias is None else [bias[:, None], weight]
    beta = np.concatenate(columns, axis=1).astype(np.float64)
    mean, scale = data.standardization.mean, data.standardization.scale
    outcomes = data.target.columns if task == "regression" else data.target.classes
    contrast = np.eye(len(beta))
    if task == "binary":
        outcomes = outcomes[1:]
    elif task == "classes":
        outcomes, contrast = outcomes[1:], np.eye(len(beta))[1:]
        contrast[:, 0] = -1.0
    values = contrast @ beta  # to w / s for a feature, and b - sum w m / s for the intercept
    values[:, start:] /= scale
    if start:
        values[:, 0] -= values[:, 1:] @ mean
    errors = np.full(values.shape, math.nan)
    notes = []
    freedom = math.inf
    fit = _Fit(data, beta, start, estimation)
    if task == "classes":
        notes.append(f"coefficients of classes are relative to {data.target.classes[0]!r}")
    if fit.problem:
        notes.append(f"no standard errors: {fit.problem}")
    else:
        freedom = fit.freedom
        units = np.eye(len(terms))  # the same as a matrix
        units[start:, start:] = np.diag(1 / scale)
        if start:
            units[0, 1:] = -mean / scale
        directions = np.kron(contrast, units)[:, fit.free]
        squares = ((directions @ fit.covariance) * directions).sum(axis=1)
        errors = np.sqrt(np.maximum(squares, 0)).reshape(values.shape)
        steps = np.abs(directions @ fit.step).reshape(values.shape)
        known = errors > 0
        far = float((steps[known] / errors[known]).max(initial=0.0))
        if far > FAR and not fit.separable:
            notes.append(
                f"the coefficients are up to {far:.2g} standard errors away from those of the "
                f"lowest training loss, for which p and intervals hold; data.validation = 0 and a "
                f'longer training by optimizer.name = "lbfgs" come there'
            )
    notes += fit.notes
    border = _quantile(freedom)
    rows = [
        _coefficient(outcome, term, float(value), float(error), freedom, border, task)
        for outcome, each, its in zip(outcomes, values, errors, strict=True)
        for term, value, error in zip(terms, each, its, strict=True)
    ]
    return rows, notes


def _coefficient(
    outcome: str, term: str, value: float, error: float, freedom: float, border: float, task: str
) -> Coefficient:
    if not (math.isfinite(error) and error > 0):
        error = math.nan
    ratio = value / error
    p = math.nan if math.isnan(error) else _two_sided(abs(ratio), freedom)
    low, high = value - border * error, value + border * error
    odds = (math.nan,) * 3 if task == "regression" else map(_odds, (value, low, high))
    return Coefficient(outcome, term, value, error, ratio, p, low, high, *odds)


def _odds(value: float) -> float:
    return math.exp(min(value, 700.0)) if not math.isnan(value) else math.nan


class _Fit:
    """The covariance of the free parameters (output by output, the intercept first), the step from
    them to the optimum, and what is to be said; `problem` where they have none."""

    def __init__(self, data: Prepared, beta: Array, start: int, estimation: Estimation) -> None:
        self.notes: list[str] = []
        self.freedom, self.separable, self.problem = math.inf, False, ""
        outputs, count = beta.shape
        task = data.target.task
        roles = np.array(["bias"] * start + ["weight"] * (count - start))
        trained = np.tile(~np.isin(roles, estimation.frozen), outputs)
        self.free = np.flatnonzero(trained)
        blocks = outputs * (outputs + 1) // 2 if task == "classes" else outputs
        large = len(data.train) * count**2 * blocks > WORK
        if large:
            self.problem = (
                f"they would take more than {WORK:,} products of {len(data.train):,} rows"
            )
        elif not isinstance(data.train, Part) or beta.size > MOST:
            self.problem = f"they are computed up to {MOST} parameters, with all rows in memory"
        elif estimation.reweighted:
            self.problem = f"{estimation.reweighted} makes the loss another one than the likelihood"
        elif estimation.l1:
            self.problem = "penalty.l1 chooses among the coefficients"
        if large or not isinstance(data.train, Part):
            return
        features = data.train.features.values.astype(np.float64)
        x = np.column_stack([np.ones((len(features), start)), features])
        weights = np.ones(len(x)) if data.train.weights is None else data.train.weights
        weights = np.asarray(weights, dtype=np.float64)
        target = data.train.target
        x, target, weights = x[weights > 0], target[weights > 0], weights[weights > 0]
        said = x @ beta.T
        truth = _indicators(task, target, outputs)
        penalized = np.isin(roles, estimation.penalized)
        self._note_separation(data, x[:, start:], truth, said, estimation.l2)
        if self.problem:
            return
        if task == "regression":
            self.freedom = float(len(x) - len(self.free) // outputs)
            if self.freedom <= 0:
                self.problem = "there are fewer rows than coefficients"
                return
        information, score, noise = _information(task, x, truth, said, weights, self.freedom)
        together = outputs if task in ("labels", "regression") else 1  # outputs the loss averages
        ridge = np.outer(
            estimation.l2 * weights.sum() * together / noise, penalized.astype(np.float64)
        ).ravel()
        score = (score - ridge * beta.ravel())[self.free]
        information = information[np.ix_(self.free, self.free)]
        curvature = information + np.diag(ridge[self.free])
        # The same for all classes moves no probability: a direction for each term not penalized.
        free_terms = trained[:count] & (ridge[:count] == 0)
        idle = int(free_terms.sum()) if task == "classes" else 0
        if np.linalg.matrix_rank(curvature, hermitian=True) < len(self.free) - idle:
            self.problem = (
                "some features are sums of others, as all values of a text column are of the "
                "intercept; penalty.l2 would part them"
            )
            return
        smallest = len(self.free) * float(np.finfo(np.float64).eps)  # as matrix_rank has it
        inverse = np.linalg.pinv(curvature, rcond=smallest, hermitian=True)
        self.covariance, self.step = inverse @ information @ inverse, inverse @ score
        if estimation.frozen:
            self.notes.append(
                f"standard errors take the frozen {' and '.join(estimation.frozen)} as known"
            )
        if estimation.l2:
            self.notes.append(
                "penalty.l2 pulls coefficients towards 0: their standard errors are those of the "
                "pulled ones, and p and intervals do not count the pull"
            )
        if data.train.weights is not None and task != "regression":
            self.notes.append(
                "standard errors take data.weight as a number of rows: 2 is as two equal rows"
            )

    def _note_separation(
        self,
        data: Prepared,
        features: Array,
        truth: Array,
        said: Array,
        l2: float,
    ) -> None:
        """Say where the likelihood has no highest value."""
        task = data.target.task
        if task == "regression":
            return
        if task == "classes":
            right = (said * truth).sum(axis=1) > np.where(truth == 1, -np.inf, said).max(axis=1)
        else:
            right = np.where(truth == 1, said, -said) > 0
        self.separable = bool(right.all(axis=0).any())
        rest = "" if l2 else "; penalty.l2 would bound them"
        if self.separable:
            self.notes.append(
                f"the training rows are separable: without a penalty the coefficients grow without "
                f"bound, and their standard errors say nothing{rest}"
            )
        elif names := _pure_features(data, features, truth):
            self.separable = True
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            self.notes.append(
                f"some value of {shown} is never met with one of the outcomes: without a penalty "
                f"such coefficients grow without bound, and their standard errors say nothing{rest}"
            )


def _pure_features(data: Prepared, features: Array, truth: Array) -> list[str]:
    """Features of two values, one of which is never met with some outcome."""
    low, high = features.min(axis=0), features.max(axis=0)
    two = ((features == low) | (features == high)).all(axis=0) & (low < high)
    places = np.flatnonzero(two)
    upper = (features[:, places] == high[places]).astype(np.float64)
    several = data.target.task == "classes"
    outcomes = truth if several else np.concatenate([1 - truth, truth], axis=1)
    met = np.minimum(upper.T @ outcomes, (1 - upper).T @ outcomes)
    names = data.encoding.feature_names
    return [names[at] for at in places[(met == 0).any(axis=1)]]


def _indicators(task: str, target: NDArray[Any], outputs: int) -> Array:
    """The truth in the shape of the outputs: numbers, or 0 and 1."""
    if task == "classes":
        return np.asarray(target.ravel()[:, None] == np.arange(outputs), dtype=np.float64)
    return target.reshape(len(target), -1).astype(np.float64)


def _information(
    task: str, x: Array, truth: Array, said: Array, weights: Array, freedom: float
) -> tuple[Array, Array, Array]:
    """Minus the second and the first derivative of the log-likelihood in all parameters, and for
    each output what its loss is divided by to be one."""
    outputs, count = truth.shape[1], x.shape[1]
    information = np.zeros((outputs, count, outputs, count))
    noise = np.ones(outputs)
    if task == "regression":
        squares = (weights[:, None] * np.square(truth - said)).sum(axis=0)
        variance = np.maximum(squares / freedom, 1e-300)
        noise, residual = 2 * variance, (truth - said) / variance  # the loss has no half
        for k in range(outputs):
            information[k, :, k] = x.T @ (x * (weights / variance[k])[:, None])
    elif task == "classes":
        p = np.exp(said - said.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        residual = truth - p
        for k in range(outputs):
            for other in range(k, outputs):
                shared = p[:, k] * ((k == other) - p[:, other])
                block = x.T @ (x * (weights * shared)[:, None])
                information[k, :, other] = block
                information[other, :, k] = block
    else:
        p = 1 / (1 + np.exp(-np.clip(said, -700, 700)))
        residual = truth - p
        for k in range(outputs):
            information[k, :, k] = x.T @ (x * (weights * p[:, k] * (1 - p[:, k]))[:, None])
    score = ((weights[:, None] * residual).T @ x).ravel()
    size = outputs * count
    return information.reshape(size, size), score, noise


def _two_sided(size: float, freedom: float) -> float:
    """P(|T| > size) of Student's t, or of the normal distribution for infinite freedom."""
    if math.isinf(freedom):
        return math.erfc(size / math.sqrt(2))
    return _beta(freedom / (freedom + size * size), freedom / 2, 0.5)


def _quantile(freedom: float) -> float:
    """The size that |T| exceeds with probability 1 - LEVEL, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, freedom) > 1 - LEVEL else (low, middle)
    return high


def _beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    total = d
    for m in range(1, 1000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + step * d or tiny)
            c = 1 + step / c or tiny
            total *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * total / a


def as_csv(terms: list[Coefficient]) -> bytes:
    """The terms as CSV: the outcome first, where there are several; empty where unknown."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    first = 0 if len({each.outcome for each in terms}) > 1 else 1
    writer.writerow(list(vars(terms[0]))[first:])
    for each in terms:
        outcome, term, *numbers = vars(each).values()
        cells = ["" if math.isnan(number) else f"{number:.9g}" for number in numbers]
        writer.writerow([guarded_cell(outcome), guarded_cell(term), *cells][first:])
    return file.getvalue().encode()
