"""Coefficients of linear and logistic models in original units, with their uncertainty.

The standard errors are those of maximum likelihood (the inverse of the observed information; for
linear regression of ordinary least squares). A penalty l2 shrinks them: there the sandwich
(H + l2 n)^-1 H (H + l2 n)^-1 stands in. See T. Hastie, R. Tibshirani, J. Friedman: The Elements of
Statistical Learning, sections 3.2 and 4.4.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.prepare import Prepared

COEFFICIENTS = "coefficients.csv"  # in a run folder
MOST = 1000  # features up to which the information is inverted
LEVEL = 0.95  # of the confidence intervals
COLUMNS = ("term", "coefficient", "standard_error", "statistic", "p", "low", "high", "odds_ratio")


@dataclass
class Coefficient:
    """One term: its value, its uncertainty (NaN where it has none), and exp of it for classes."""

    term: str
    coefficient: float
    standard_error: float
    statistic: float
    p: float
    low: float
    high: float
    odds_ratio: float


def coefficients(
    data: Prepared, weights: dict[str, NDArray[Any]], penalty: float
) -> tuple[list[Coefficient], list[str]]:
    """The terms of a model of one linear layer and one output, and notes; none for any other."""
    weight = weights.get("weight")
    names = data.encoding.feature_names
    task = data.target.task
    single = weight is not None and weight.shape == (1, len(names))
    if not single or task not in ("binary", "regression") or set(weights) - {"weight", "bias"}:
        return [], []
    assert weight is not None
    bias = weights.get("bias")
    constant = [] if bias is None else [float(bias[0])]
    beta = np.array([*constant, *weight[0].astype(np.float64)])
    start = len(constant)
    covariance, freedom, notes = _covariance(data, beta, start, penalty)
    scale, mean = data.standardization.scale, data.standardization.mean
    # In original units: w / s for a feature, and b - sum w m / s for the intercept.
    change = np.eye(len(beta))
    change[start:, start:] = np.diag(1 / scale)
    if start:
        change[0, 1:] = -mean / scale
    values = change @ beta
    errors = np.sqrt(np.maximum(np.diag(change @ covariance @ change.T), 0))
    border = _quantile(freedom)
    terms = []
    for name, value, error in zip(["(intercept)"] * start + names, values, errors, strict=True):
        known = math.isfinite(error) and error > 0
        ratio = value / error if known else math.nan
        spread = border * error if known else math.nan
        terms.append(
            Coefficient(
                name,
                float(value),
                float(error) if known else math.nan,
                float(ratio),
                _two_sided(abs(ratio), freedom) if known else math.nan,
                float(value - spread),
                float(value + spread),
                math.exp(min(value, 700.0)) if task == "binary" else math.nan,
            )
        )
    return terms, notes


def _covariance(
    data: Prepared, beta: NDArray[Any], start: int, penalty: float
) -> tuple[NDArray[Any], float, list[str]]:
    """The covariance of standardized coefficients, degrees of freedom, and notes."""
    count = len(beta)
    unknown = np.full((count, count), math.nan)
    if not data.train.features.in_memory or count > MOST:
        return unknown, math.inf, [f"standard errors are computed up to {MOST} features in memory"]
    features = data.train.features.values.astype(np.float64)
    x = np.column_stack([np.ones((len(features), start)), features])
    target = data.train.target.ravel().astype(np.float64)
    said = x @ beta
    weights = np.ones(len(x)) if data.train.weights is None else data.train.weights
    freedom, notes = math.inf, []
    if data.target.task == "regression":
        freedom = float(len(x) - count)
        if freedom <= 0:
            return unknown, math.inf, ["fewer rows than coefficients: no standard errors"]
        noise = float((weights * np.square(target - said)).sum() / freedom)
        curvature = weights / max(noise, 1e-300)
        ridge = penalty * weights.sum() / (2 * max(noise, 1e-300))  # the loss has no half
    else:
        if (np.where(target == 1, said, -said) > 0).all():
            notes.append(
                "the training rows are separable: without a penalty the coefficients grow without "
                "bound, and their standard errors say nothing"
            )
        p = 1 / (1 + np.exp(-np.clip(said, -700, 700)))
        curvature = weights * p * (1 - p)
        ridge = penalty * weights.sum()
    information = x.T @ (x * curvature[:, None])
    shrunk = information.copy()
    places = np.arange(start, count)
    shrunk[places, places] += ridge
    if np.linalg.matrix_rank(shrunk, hermitian=True) < count:
        words = (
            "some features are sums of others, as all values of a text column are of the intercept"
        )
        return (
            unknown,
            freedom,
            [*notes, f"no standard errors: {words}; penalty.l2 would part them"],
        )
    inverse = np.linalg.inv(shrunk)
    return inverse @ information @ inverse, freedom, notes


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
    """The terms as CSV; empty cells where something is unknown."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for term in terms:
        name, *numbers = vars(term).values()
        writer.writerow([name, *("" if math.isnan(n) else f"{n:.9g}" for n in numbers)])
    return file.getvalue().encode()
