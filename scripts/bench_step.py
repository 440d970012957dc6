"""Times one training step (zero_grad, forward, loss, backward, SGD) against PyTorch and plain
NumPy.

    python scripts/bench_step.py            all cases, all libraries that are installed
    python scripts/bench_step.py S M        some cases

Each library runs in a process of its own, so that thread pools do not fight, and the processes take
turns, so that a slow moment of the machine hits all of them. The table gives medians over the
turns, in microseconds per step, and the ratio to PyTorch. float32, CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# rows, features, classes (1: binary) of each case
CASES = {
    "S": (32, 30, 1),
    "M": (128, 784, 10),
    "L": (8192, 1024, 1),
    "XL": (200_000, 256, 1),
}
LIBRARIES = ("nanotorch", "torch", "numpy")
LEARNING_RATE = 0.01


def data(case: str) -> tuple[Any, Any]:
    """Random features (rows, features) float32, and targets: (rows, 1) float32 or (rows) int64."""
    rows, features, classes = CASES[case]
    generator = np.random.default_rng(0)
    x = generator.standard_normal((rows, features), dtype=np.float32)
    if classes == 1:
        return x, (generator.random((rows, 1)) < 0.5).astype(np.float32)
    return x, generator.integers(0, classes, rows)


def framework_step(library: str, case: str) -> Callable[[], Any]:
    """The step in nanotorch or torch: the same lines for both."""
    framework = importlib.import_module(library)
    nn, optim = framework.nn, framework.optim
    x, y = (framework.from_numpy(array) for array in data(case))
    _, features, classes = CASES[case]
    model = nn.Linear(features, classes)
    loss_function = nn.BCEWithLogitsLoss() if classes == 1 else nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def numpy_step(case: str) -> Callable[[], Any]:
    """The step as one would write it by hand, gradients worked out on paper."""
    x, y = data(case)
    rows, features, classes = CASES[case]
    w, b = np.zeros((features, classes), np.float32), np.zeros(classes, np.float32)
    places = (np.arange(rows), y)

    def binary() -> Any:
        z = x @ w + b
        e = np.exp(-np.abs(z))
        loss = (np.maximum(z, 0) - z * y + np.log1p(e)).mean()
        g = (np.where(z >= 0, 1, e) / (1 + e) - y) / rows
        w.__isub__(LEARNING_RATE * (x.T @ g))
        b.__isub__(LEARNING_RATE * g.sum(0))
        return loss

    def softmax() -> Any:
        z = x @ w + b
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        total = e.sum(1, keepdims=True)
        loss = (np.log(total[:, 0]) - z[places]).mean()
        e /= total
        e[places] -= 1
        e /= rows
        w.__isub__(LEARNING_RATE * (x.T @ e))
        b.__isub__(LEARNING_RATE * e.sum(0))
        return loss

    return binary if classes == 1 else softmax


def serve(library: str, case: str, seconds: float) -> None:
    """The worker: for each line it reads, runs steps for a while and prints microseconds per
    step."""
    step = numpy_step(case) if library == "numpy" else framework_step(library, case)
    for _ in range(3):
        step()
    begin = time.perf_counter()
    step()
    count = max(1, int(seconds / max(time.perf_counter() - begin, 1e-6)))
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(count):
            step()
        print((time.perf_counter() - begin) / count * 1e6, flush=True)


def measure(case: str, turns: int, seconds: float) -> dict[str, float]:
    """Median microseconds per step of each installed library, the libraries taking turns."""
    workers = {}
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            continue
        command = [sys.executable, __file__, "--serve", library, case, "--seconds", str(seconds)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        worker.stdout.readline()  # type: ignore[union-attr]
        workers[library] = worker
    times: dict[str, list[float]] = {library: [] for library in workers}
    for _ in range(turns):
        for library, worker in workers.items():
            print(file=worker.stdin, flush=True)
            times[library].append(float(worker.stdout.readline()))  # type: ignore[union-attr]
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]
        worker.wait()
    return {library: statistics.median(values) for library, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)} (default: all)")
    parser.add_argument("--turns", type=int, default=9, help="turns per library (default 9)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn (default 0.2)")
    parser.add_argument("--serve", metavar="LIBRARY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [case for case in options.cases if case not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]}; the cases are {', '.join(CASES)}")
    if options.serve:
        serve(options.serve, options.cases[0], options.seconds)
        return
    print(
        "| case | rows x features -> outputs | "
        + " | ".join(f"{n} us" for n in LIBRARIES)
        + " | nanotorch / torch | nanotorch / numpy |"
    )
    print("|---|---|" + "---:|" * (len(LIBRARIES) + 2))
    for case in options.cases or CASES:
        times = measure(case, options.turns, options.seconds)
        rows, features, outputs = CASES[case]
        cells = [f"{times[n]:,.0f}" if n in times else "-" for n in LIBRARIES]
        for other in ("torch", "numpy"):
            ratio = times["nanotorch"] / times[other] if other in times else None
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        print(
            f"| {case} | {rows} x {features} -> {outputs} | " + " | ".join(cells) + " |", flush=True
        )


if __name__ == "__main__":
    main()
