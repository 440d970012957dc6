"""What the runner costs beside the bare loop, and reading a large CSV beside numpy.loadtxt.

    python scripts/bench_runner.py [small] [large] [csv]

small: an epoch of breast_cancer at batch 32 with its validation (limit 1.3); large: 200,000 x 256
at batch 8192 (limit 1.05); csv: 237 MB of numbers (limit 1.2) and its converted copy (0.2 s).
The sides of a ratio take turns in one process, and the lower quartiles are compared. The bare loop
is zero_grad, forward, loss, backward and step; shuffled, it gathers the rows of each batch itself.
"steps alone" has every batch ready before the clock starts.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.nn import functional as F
from nanotorch.training.callbacks import Best, Checkpoints, Lines, Redraw, TimeLimit, Timer
from nanotorch.training.config.sections import Config, Reading
from nanotorch.training.data.batches import epoch_order
from nanotorch.training.data.prepare import prepare
from nanotorch.training.data.text_files import read_text_table
from nanotorch.training.run import Run
from nanotorch.training.signals import StopSignals
from nanotorch.training.synthetic import save, two_clouds


def taking_turns(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """The lower quartile of the seconds of each: what it takes when nothing else runs."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seen in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            seen.append(time.perf_counter() - start)
    return [statistics.quantiles(seen, n=4)[0] for seen in times]


def epochs(source: str, batch_size: int, rounds: int, shuffle: bool) -> list[float]:
    """Seconds of a bare epoch, of its steps alone, and of one of the runner with all it does."""
    config = Config.model_validate(
        {
            "data": {"source": source, "validation": 0.2 if rounds > 100 else 0.0, "test": 0.0},
            "optimizer": {"name": "sgd", "lr": 0.01},
            "training": {"epochs": 10**6, "batch_size": batch_size, "shuffle": shuffle},
        }
    )
    data = prepare(config.data, "logistic", 0)
    run = Run(config, data, nt.device("cpu"), StopSignals())
    with tempfile.TemporaryDirectory() as folder, run:
        run.open(Path(folder))
        best = Best(config.stopping)
        watching = [Checkpoints(config.checkpoint), TimeLimit(None), Redraw(config.output)]
        run.callbacks = [best, Lines(best, quiet=True), Timer(), *watching]
        run.tell("on_start")

        def runner() -> None:
            run.train_epoch()
            run.finish_epoch()

        model = nt.nn.Linear(data.inputs, 1)
        optimizer = nt.optim.SGD(model.parameters(), lr=0.01)
        inputs = nt.from_numpy(data.train.features.values)
        target = nt.from_numpy(data.train.target)
        epoch = [0]

        def bare() -> None:
            order = nt.from_numpy(epoch_order(0, epoch[0], len(target)))
            epoch[0] += 1
            for start in range(0, len(target), batch_size):
                rows = order[start : start + batch_size]
                outputs = model(nt.index_select(inputs, 0, rows))
                optimizer.zero_grad()
                loss = F.binary_cross_entropy_with_logits(outputs, nt.index_select(target, 0, rows))
                loss.backward()
                optimizer.step()

        starts = range(0, len(target), batch_size)
        ready = [(inputs[at : at + batch_size], target[at : at + batch_size]) for at in starts]

        def steps_alone() -> None:
            for x, y in ready:
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(model(x), y).backward()
                optimizer.step()

        return taking_turns([bare if shuffle else steps_alone, steps_alone, runner], rounds)


def small() -> bool:
    bare, alone, runner = epochs("breast_cancer", 32, 300, shuffle=True)
    report("epoch of breast_cancer, batch 32, beside its steps alone", alone, runner, 1.3)
    return report("epoch of breast_cancer, batch 32, beside the bare loop", bare, runner, 1.3)


def large() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.npz")
        save(two_clouds(200_000, 256, 2.0, 0), path)
        well = True
        for shuffle in (True, False):
            bare, _, runner = epochs(str(path), 8192, 15, shuffle)
            order = "shuffled" if shuffle else "in order"
            well &= report(f"epoch of 200,000 x 256, batch 8192, {order}", bare, runner, 1.05)
    return well


def csv() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.csv")
        random = np.random.default_rng(0)
        row = ",".join(["%.7f"] * 31)
        with path.open("w") as file:
            file.write(",".join(f"c{at}" for at in range(31)) + "\n")
            for _ in range(72):
                block = random.standard_normal((10_000, 31))
                file.write("\n".join(row % tuple(values) for values in block) + "\n")
        size = path.stat().st_size / 1e6

        def loadtxt() -> Any:
            return np.loadtxt(path, np.float32, delimiter=",", skiprows=1)

        def ours() -> Any:
            return read_text_table(path, Reading(source="", cache=False))

        plain, read = taking_turns([loadtxt, ours], 5)
        well = report(f"{size:.0f} MB of CSV beside numpy.loadtxt", plain, read, 1.2)
        first = read_text_table(path, Reading(source="")).values
        gc.collect()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            again = read_text_table(path, Reading(source="")).values
            seconds.append(time.perf_counter() - start)
        assert np.array_equal(first, again)
        print(f"its converted copy: {statistics.median(seconds):.3f} s (limit 0.2)")
        return well and statistics.median(seconds) <= 0.2


def report(what: str, reference: float, ours: float, limit: float) -> bool:
    ratio = ours / reference
    print(
        f"{what}: {1000 * reference:.3f} ms, runner {1000 * ours:.3f} ms: {ratio:.2f} x ({limit})"
    )
    return ratio <= limit


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["small", "large", "csv"]
    cases = {"small": small, "large": large, "csv": csv}
    unknown = [name for name in wanted if name not in cases]
    if unknown:
        sys.exit(f"bench_runner.py: unknown case {unknown[0]}; the cases are {', '.join(cases)}")
    sys.exit(0 if all(cases[name]() for name in wanted) else 1)
