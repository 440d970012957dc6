"""Times `import nanotorch` against `import numpy`, each in processes of its own that take turns.

    python scripts/bench_import.py [--rounds 25]

Prints the median wall time of each, with and without that of an empty interpreter, and the ratio of
the imports alone. The exit status is 1 when nanotorch takes more than LIMIT times NumPy's time.

Bytecode is written before, as an installation has it: without `.pyc` files, as in a first run or
where PYTHONDONTWRITEBYTECODE is set, nanotorch takes twice as long, for its sources are compiled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

LIMIT = 1.3
PROGRAMS = {"(nothing)": "pass", "numpy": "import numpy", "nanotorch": "import nanotorch"}


def seconds(program: str, environment: dict[str, str]) -> float:
    """The wall time of one fresh interpreter that runs `program`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description="Times `import nanotorch` against `import numpy`.")
    parser.add_argument("--rounds", type=int, default=25, help="processes of each kind; default 25")
    rounds = parser.parse_args().rounds

    # Where no bytecode may be written, each import would compile its sources anew.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as bytecode:
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        for program in PROGRAMS.values():
            seconds(program, environment)
        for _ in range(rounds):
            for name, program in PROGRAMS.items():
                times[name].append(seconds(program, environment))

    medians = {name: statistics.median(found) for name, found in times.items()}
    empty = medians["(nothing)"]
    print(f"{'import':<12}{'process':>10}{'import alone':>15}   (medians of {rounds})")
    for name, median in medians.items():
        print(f"{name:<12}{median * 1e3:>7.0f} ms{(median - empty) * 1e3:>12.0f} ms")
    ratio = (medians["nanotorch"] - empty) / (medians["numpy"] - empty)
    print(f"nanotorch / numpy: {ratio:.2f}x (at most {LIMIT}x)")
    return 1 if ratio > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
