"""L-BFGS beside scikit-learn's LogisticRegression: the same optimum, and the time of both.

    OMP_NUM_THREADS=1 python scripts/bench_lbfgs.py [--turns 7]

Runs and `LogisticClassifier`, on standardized features, with the same L2 penalty and both ends of a
search as scikit-learn has them, in float64: breast_cancer, digits and two synthetic sets. The table
gives the largest difference of a coefficient (limit 1e-4), of a run's loss with its penalty (limit
1e-8), and the least time of several, taken in turns. Of a run, that is its training alone. The exit
status is 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from nanotorch import datasets
from nanotorch.interop.sklearn import LogisticClassifier
from nanotorch.training import fit
from nanotorch.training.config.sections import Config
from nanotorch.training.model_file import read_model_file
from nanotorch.training.results import Finished
from nanotorch.training.synthetic import save, two_clouds

L2 = 0.01
Matrix = NDArray[np.float64]


def ours(source: str, folder: str, rows: int) -> tuple[Finished, float]:
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
                "tolerance_change": 64 * np.finfo(np.float64).eps * rows,  # of the sum
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


def centred(bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """Biases without their common shift, which a softmax leaves open."""
    return bias - bias.mean() if len(bias) > 1 else bias


def apart(weight: Matrix, bias: Matrix, model: LogisticRegression) -> float:
    shifts = np.abs(centred(bias) - centred(model.intercept_)).max()
    return float(max(np.abs(weight - model.coef_).max(), shifts))


def timed(fit_once: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    model = fit_once()
    return model, time.perf_counter() - start


def words(times: list[tuple[float, float]]) -> str:
    first, second = (min(column) for column in zip(*times, strict=True))
    return f"{first * 1e3:.1f} ms, scikit-learn {second * 1e3:.1f} ms: {first / second:.2f} x"


def compare_run(name: str, source: str, rows: int, folder: str, turns: int) -> bool:
    times = []
    for _ in range(turns):
        run, seconds = ours(source, folder, rows)
        x = run.data.train.features.values.astype(np.float64)
        y = run.data.train.target.ravel().astype(np.int64)
        model = LogisticRegression(C=1 / (L2 * len(y)), tol=1e-9, max_iter=5000)
        model, theirs = timed(partial(model.fit, x, y))
        times.append((seconds, theirs))
    saved = read_model_file(run.folder / "model.safetensors").weights
    distance = apart(saved["weight"], saved["bias"], model)
    losses = (
        loss(saved["weight"], centred(saved["bias"]), x, y),
        loss(model.coef_, centred(model.intercept_), x, y),
    )
    difference = losses[0] - losses[1]
    print(
        f"run        {name:<14} coefficients {distance:.1e}  loss {difference:+.1e}  {words(times)}"
    )
    return distance <= 1e-4 and abs(difference) <= 1e-8


def compare_estimator(name: str, x: Matrix, y: NDArray[Any], turns: int) -> bool:
    times = []
    for _ in range(turns):
        _, seconds = timed(partial(LogisticClassifier().fit, x, y))
        _, theirs = timed(partial(LogisticRegression().fit, x, y))
        times.append((seconds, theirs))
    ours = LogisticClassifier(tol=1e-9, max_iter=5000).fit(x, y)
    distance = apart(
        ours.coef_, ours.intercept_, LogisticRegression(tol=1e-9, max_iter=5000).fit(x, y)
    )
    print(f"estimator  {name:<14} coefficients {distance:.1e}                 {words(times)}")
    return distance <= 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    within = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "synthetic.npz")
        save(two_clouds(100_000, 100, 2.0, 0), path)
        sources = {
            "breast_cancer": ("breast_cancer", 569),
            "digits": ("digits", 1797),
            "100,000 x 100": (str(path), 100_000),
        }
        within += [compare_run(name, *source, folder, turns) for name, source in sources.items()]
    for name in ("breast_cancer", "digits"):
        table = datasets.load(name)
        spread = table.features.std(axis=0)
        x = (table.features - table.features.mean(axis=0)) / np.where(spread > 0, spread, 1)
        within.append(compare_estimator(name, x, table.target, turns * 5))
    random = np.random.default_rng(0)
    x = random.standard_normal((200_000, 256))
    y = (x @ random.standard_normal(256) + 3 * random.standard_normal(len(x)) > 0).astype(np.int64)
    within.append(compare_estimator("200,000 x 256", x, y, max(1, turns // 2)))
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
