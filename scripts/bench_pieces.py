"""Times elementwise work on large arrays, forward and backward: eager, compiled, and in PyTorch.

    python scripts/bench_pieces.py                     64 to 4096 rows of 1024 float32
    python scripts/bench_pieces.py --rows 4096 --turns 9

The function is silu(gelu(x * w + b)) * 2 - x, with the gradient of its mean square for w. Each
library runs in a process of its own, and the processes take turns.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import subprocess
import sys
import time
from typing import Any

COLUMNS = 1024
LIBRARIES = {"nanotorch": "NanoTorch", "compiled": "NanoTorch compiled", "torch": "PyTorch"}


def step_of(library: str, rows: int) -> Any:
    """The step of a library, without arguments."""
    torch = importlib.import_module("torch" if library == "torch" else "nanotorch")
    torch.manual_seed(0)
    x, b = torch.randn(rows, COLUMNS), torch.randn(COLUMNS)
    w = torch.randn(rows, COLUMNS).requires_grad_()

    def step(x: Any) -> Any:
        w.grad = None
        h = torch.nn.functional.gelu(x * w + b, approximate="tanh")
        h = torch.nn.functional.silu(h) * 2 - x
        loss = (h * h).mean()
        loss.backward()
        return loss

    run = torch.compile(step) if library == "compiled" else step
    return lambda: run(x)


def serve(library: str, rows: int) -> None:
    """Answers each line of the standard input with the microseconds of a step."""
    step = step_of(library, rows)
    for _ in range(3):
        step()
    for _ in sys.stdin:
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < 0.1:
            step()
            count += 1
        print((time.perf_counter() - begun) / count * 1e6, flush=True)


def median_times(rows: int, turns: int, libraries: list[str]) -> dict[str, float]:
    """The median microseconds of each library's step over turns that they take."""
    workers = {
        library: subprocess.Popen(
            [sys.executable, __file__, "--serve", library, "--rows", str(rows)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for library in libraries
    }  # fmt: skip
    times: dict[str, list[float]] = {library: [] for library in libraries}
    for _ in range(turns):
        for library, worker in workers.items():
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            times[library].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    return {library: statistics.median(found) for library, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="one number of rows instead of several")
    parser.add_argument("--turns", type=int, default=7, help="turns of each library; default 7")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.rows)
        return
    libraries = list(LIBRARIES)
    if importlib.util.find_spec("torch") is None:
        libraries.remove("torch")
    print(f"| rows of {COLUMNS} | {' | '.join(LIBRARIES[name] for name in libraries)} |")
    print("| ---: |" + " ---: |" * len(libraries))
    for rows in [options.rows] if options.rows else [64, 256, 1024, 4096]:
        found = median_times(rows, options.turns, libraries)
        eager = found["nanotorch"]
        cells = [f"{found[name]:,.0f} ({found[name] / eager:.2f})" for name in libraries]
        print(f"| {rows:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
