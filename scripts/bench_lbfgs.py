"""LBFGS beside scikit-learn's LogisticRegression: the same optimum, and the time of both.

    python scripts/bench_lbfgs.py

breast_cancer, digits and a synthetic set of 100,000 x 100, standardized, with the same L2 penalty,
in float64. The table gives the largest difference of a coefficient (limit 1e-4) and of the loss
with its penalty (limit 1e-8). The exit status is 1 where a limit is exceeded.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from nanotorch.training import fit
from nanotorch.training.config.sections import Config
from nanotorch.training.model_file import read_model_file
from nanotorch.training.results import Finished
from nanotorch.training.synthetic import save, two_clouds

L2 = 0.01
Matrix = NDArray[np.float64]


def ours(source: str, folder: str) -> tuple[Finished, float]:
    """A run to convergence on all rows, and the seconds of its training alone."""
    config = Config.model_validate(
        {
            "device": "cpu",
            "data": {"source": source, "test": 0.0, "validation": 0.0},
            "penalty": {"l2": L2},
            "optimizer": {
                "name": "lbfgs",
                "max_iter": 500,
                "tolerance_grad": 1e-9,
                "tolerance_change": 1e-12,  # scikit-learn stops at 64 eps of the mean
            },
            "training": {"epochs": 1, "batch_size": 0, "dtype": "float64"},
            "stopping": {"restore_best": False},
            "output": {"folder": folder, "curves": False, "report": False},
        }
    )
    run = fit(config, quiet=True)
    events = (run.folder / "events.jsonl").read_text().splitlines()
    return run, json.loads(events[-1])["epoch_seconds"][0]


def loss(weights: Matrix, bias: NDArray[np.float64], x: Matrix, y: NDArray[Any]) -> float:
    """Mean log loss plus penalty, in float64."""
    z = x @ weights.T + bias
    if len(weights) == 1:
        mean = np.logaddexp(0, np.where(y[:, None] == 1, -z, z)).mean()
    else:
        top = z.max(axis=1)
        total = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
        mean = (total - z[np.arange(len(y)), y]).mean()
    return float(mean + L2 / 2 * np.square(weights).sum())


def compare(name: str, source: str, folder: str) -> bool:
    run, seconds = ours(source, folder)
    x = run.data.train.features.values.astype(np.float64)
    y = run.data.train.target.ravel().astype(np.int64)
    model = LogisticRegression(C=1 / (L2 * len(y)), tol=1e-9, max_iter=5000)
    start = time.perf_counter()
    model.fit(x, y)
    theirs = time.perf_counter() - start
    saved = read_model_file(run.folder / "model.safetensors").weights
    bias, intercept = saved["bias"], model.intercept_
    if len(bias) > 1:  # a softmax leaves a common shift of all biases open
        bias, intercept = bias - bias.mean(), intercept - intercept.mean()
    apart = max(np.abs(saved["weight"] - model.coef_).max(), np.abs(bias - intercept).max())
    losses = (
        loss(saved["weight"], saved["bias"], x, y),
        loss(model.coef_, model.intercept_, x, y),
    )
    difference = losses[0] - losses[1]
    print(
        f"{name:<22} coefficients {apart:.1e}  loss {losses[0]:.9f} ({difference:+.1e})  "
        f"{seconds:.3f} s, scikit-learn {theirs:.3f} s"
    )
    return bool(apart <= 1e-4 and abs(difference) <= 1e-8)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "synthetic.npz")
        save(two_clouds(100_000, 100, 2.0, 0), path)
        sources = {
            "breast_cancer": "breast_cancer",
            "digits": "digits",
            "synthetic 100,000 x 100": str(path),
        }
        return 0 if all(compare(*item, folder) for item in sources.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
