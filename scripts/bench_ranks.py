"""Times a training step on one rank and on two, with a thread each, and what ranks cost.

    python scripts/bench_ranks.py [--turns 5] [--cases XL MLP]

Needs the extra `mpi`. Each case is logistic regression or an MLP in float32 with SGD, compiled with
`pure=True`; on two ranks each computes half of the rows, and `average_gradients` makes one gradient
of both. Processes take turns, and the least time of all turns counts, since anything else that runs
on the machine only adds to it. Then the time of `average_gradients` alone, by size: what
`scripts/scaling_model.py` calls alpha and beta.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CASES = {"XL": (200_000, 256, ()), "MLP": (2048, 784, (256,)), "S": (32, 30, ())}
SIZES = (31, 1_000, 10_000, 100_000, 1_000_000)


def worker(case: str, seconds: float) -> None:
    """Prints on rank 0 the least time of a step, or of an average for each size."""
    import nanotorch as nt
    from nanotorch import distributed as dist, nn, optim

    dist.init_process_group()
    rank, size = dist.get_rank(), dist.get_world_size()
    nt.set_num_threads(1)
    if case == "average":
        for count in SIZES:
            weight = nn.Parameter(nt.zeros(count))
            weight.grad = nt.ones(count)
            print_least(lambda w=weight: dist.average_gradients([w], 0.5, 1.0), seconds, rank)
        return
    rows, features, hidden = CASES[case]
    nt.manual_seed(0)
    x, y = nt.randn(rows, features), nt.rand(rows, 1).round()
    x, y = (part.chunk(size)[rank].contiguous() for part in (x, y))
    widths = [features, *hidden, 1]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    loss_of = nn.BCEWithLogitsLoss()
    parameters = list(model.parameters())

    @nt.compile(pure=True)
    def gradients(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        loss = loss_of(model(x), y)
        loss.backward()
        return loss

    def step() -> None:
        optimizer.zero_grad()
        dist.average_gradients(parameters, gradients(x, y), len(x))
        optimizer.step()

    print_least(step, seconds, rank)


def print_least(step: object, seconds: float, rank: int) -> None:
    """On rank 0 the least time of a step; the number of steps is the same on all ranks."""
    import nanotorch as nt
    from nanotorch import distributed as dist

    assert callable(step)
    times: list[float] = []
    for _ in range(5):
        step()
    going = True
    start = time.perf_counter()
    while going:
        for _ in range(10):
            before = time.perf_counter()
            step()
            times.append(time.perf_counter() - before)
        over = nt.tensor(time.perf_counter() - start > seconds)
        dist.all_reduce(over)
        going = not over.item()
    if rank == 0:
        print(min(times), flush=True)


def seconds_of(case: str, ranks: int, seconds: float) -> list[float]:
    """What the worker prints, on so many ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit('mpiexec is not installed: pip install "nanotorch[mpi]"')
    words = [sys.executable, __file__, "--worker", case, "--seconds", str(seconds)]
    if ranks > 1:
        words = [mpiexec, "--oversubscribe", "-n", str(ranks), *words]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words,
        env={**os.environ, **root, **threads, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--cases", nargs="*", default=["XL", "MLP"], choices=CASES)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.seconds)
        return
    least: dict[tuple[str, int], float] = {}
    for _ in range(options.turns):
        for case in options.cases:
            for ranks in (1, 2):
                now = seconds_of(case, ranks, options.seconds)[0]
                least[case, ranks] = min(now, least.get((case, ranks), now))
    for case in options.cases:
        one, two = least[case, 1], least[case, 2]
        print(f"{case:<4} one rank {one * 1e3:8.3f} ms, two {two * 1e3:8.3f} ms: {one / two:.2f} x")
    averages = [seconds_of("average", 2, options.seconds / 3) for _ in range(options.turns)]
    for count, times in zip(SIZES, zip(*averages, strict=True), strict=True):
        print(f"the mean of {count:>9,} floats on 2 ranks: {min(times) * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
