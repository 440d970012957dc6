"""Times a whole training run against `import torch`, each in processes of its own that take turns.

    python scripts/bench_run.py [--rounds 7] [--config configs/breast_cancer.toml]

A run is everything: import, data, training, evaluation, files and figures. PyTorch must be
installed. The exit status is 1 when the median run takes longer than the median import.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def seconds(arguments: tuple[str, ...], environment: dict[str, str]) -> float:
    """The wall time of one fresh interpreter with these arguments."""
    command = [sys.executable, *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description="Times a training run against `import torch`.")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each kind; default 7")
    parser.add_argument("--config", default="configs/breast_cancer.toml")
    options = parser.parse_args()

    # Where no bytecode may be written, each process would compile its sources anew.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        environment["PYTHONPYCACHEPREFIX"] = f"{folder}/bytecode"
        runs = f"{folder}/runs"
        kinds = {
            f"train.py {options.config}": ("train.py", options.config, "--output.folder", runs),
            "import torch": ("-c", "import torch"),
        }
        for arguments in kinds.values():
            seconds(arguments, environment)
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(options.rounds):
            for name, arguments in kinds.items():
                times[name].append(seconds(arguments, environment))

    for name, found in times.items():
        low, high = min(found), max(found)
        print(f"{name:<44}{statistics.median(found):>7.2f} s   ({low:.2f} to {high:.2f})")
    run, torch = (statistics.median(found) for found in times.values())
    print(f"run / import: {run / torch:.2f}x (medians of {options.rounds})")
    return 1 if run > torch else 0


if __name__ == "__main__":
    sys.exit(main())
