"""Times a step over a table of 2^22 weights: row-sparse gradients beside dense ones and PyTorch's.

    python scripts/bench_sparse.py [--entries 22] [--rows 1024] [--columns 26] [--turns 5]
    python scripts/bench_sparse.py --clicks 50_000_000 --folder /tmp

Logistic regression on hashed columns: a batch names one weight of each column, at random places of
the table, which is the worst that a cache can meet. All variants take turns in one process, and the
least time counts. With `--clicks` a log of so many synthetic clicks is written (9 columns, 36 bytes
a row) and trained on from the disk with `data.hash`; its largest anonymous memory is shown, and
that of a tenth of the rows beside it. With `--limit` a sparse step above so many ms is an error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1},
    "Adagrad": {"lr": 0.1},
    "SparseAdam": {"lr": 0.01},
}
BATCHES = 16
IDS = 8  # columns of a click
BUCKETS = "2**19"  # of each, 2^22 in all


def steps(module: Any, name: str, sparse: bool, shape: tuple[int, int, int]) -> Callable[[], None]:
    """A function that makes the next step of a model in NanoTorch or PyTorch."""
    entries, rows, columns = shape
    random = np.random.default_rng(0)
    names = random.integers(0, entries, (BATCHES, rows, columns))
    truth = random.integers(0, 2, (BATCHES, rows)).astype("f")
    table = module.nn.Embedding(entries, 1, sparse=sparse, _weight=module.zeros(entries, 1))
    kind = name if sparse or name != "SparseAdam" else "Adam"
    optimizer = getattr(module.optim, kind)(table.parameters(), **OPTIMIZERS[name])
    inputs = [module.from_numpy(each) for each in names]
    targets = [module.from_numpy(each) for each in truth]
    loss_of = module.nn.functional.binary_cross_entropy_with_logits
    turn = 0

    def step() -> None:
        nonlocal turn
        turn = (turn + 1) % BATCHES
        optimizer.zero_grad()
        loss_of(table(inputs[turn]).sum(1)[:, 0], targets[turn]).backward()
        optimizer.step()

    return step


def times(name: str, shape: tuple[int, int, int], turns: int, peers: dict[str, Any]) -> Any:
    """The least milliseconds of a step, by library and kind of gradient."""
    every = {
        (peer, sparse): steps(module, name, sparse, shape)
        for peer, module in peers.items()
        for sparse in (True, False)
    }
    least = dict.fromkeys(every, float("inf"))
    for _ in range(turns):
        for which, step in every.items():
            for _ in range(40 if which[1] else 5):
                start = time.perf_counter()
                step()
                least[which] = min(least[which], 1e3 * (time.perf_counter() - start))
    return least


def write_clicks(path: Path, count: int) -> None:
    """A log of clicks: 8 ids, of which two decide, and whether there was a click."""
    random = np.random.default_rng(1)
    users, ads = random.standard_normal(200_000), random.standard_normal(5_000)
    log = np.lib.format.open_memmap(path, "w+", "f4", (count, IDS + 1))
    for start in range(0, count, 1 << 20):
        rows = min(1 << 20, count - start)
        ids = random.integers(0, 200_000, (rows, IDS))
        ids[:, 1] %= 5_000
        chance = 1 / (1 + np.exp(1 - users[ids[:, 0]] - ads[ids[:, 1]]))
        log[start : start + rows, :IDS] = ids
        log[start : start + rows, IDS] = random.random(rows) < chance
        log.flush()
    del log


def train(source: Path, folder: Path) -> tuple[float, float, str]:
    """Seconds and the largest anonymous memory, in MB, of a run on a log, and its last line."""
    config = folder / f"{source.stem}.toml"
    config.write_text(f"""device = "cpu"
[data]
source = "{source}"
memory = "100 MB"
hash = {{ "*" = "{BUCKETS}" }}
test = 0.02
validation = 0.02
[optimizer]
name = "adagrad"
[training]
epochs = 1
batch_size = 4096
[output]
folder = "{folder}"
curves = false
report = false
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start, most = time.perf_counter(), 0.0
    command = [sys.executable, str(ROOT / "train.py"), str(config)]
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            for line in status.read_text().splitlines():
                if line.startswith("RssAnon"):
                    most = max(most, int(line.split()[1]) / 1000)
            time.sleep(0.2)
        output.seek(0)
        last = output.read().splitlines()[-1]
    if process.returncode:
        sys.exit(f"bench_sparse: {last}")
    return time.perf_counter() - start, most, last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--entries", type=int, default=22, help="weights, as a power of 2")
    parser.add_argument("--rows", type=int, default=1024, help="of a batch")
    parser.add_argument("--columns", type=int, default=26, help="hashed columns")
    parser.add_argument("--turns", type=int, default=5, help="that each variant takes")
    parser.add_argument("--limit", type=float, help="ms that a sparse step may take")
    parser.add_argument("--clicks", type=int, help="rows of a synthetic log to train on")
    parser.add_argument("--folder", type=Path, help="where the log is written")
    options = parser.parse_args()
    if options.clicks:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for count in (options.clicks // 10, options.clicks):
                source = Path(folder) / f"clicks-{count}.npy"
                write_clicks(source, count)
                seconds, memory, last = train(source, Path(folder))
                print(f"{count:,} rows: {seconds:.0f} s, {memory:,.0f} MB anonymous at most")
                print(f"  {last}")
                source.unlink()
        return
    import nanotorch

    peers: dict[str, Any] = {"nanotorch": nanotorch}
    try:
        import torch

        peers["torch"] = torch
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
    except ImportError:
        print("bench_sparse: PyTorch is not installed")
    shape = (2**options.entries, options.rows, options.columns)
    print(f"2^{options.entries} weights, {options.rows} rows of {options.columns}; ms, the least")
    slowest = 0.0
    for name in OPTIMIZERS:
        least = times(name, shape, options.turns, peers)
        slowest = max(slowest, least["nanotorch", True])
        cells = [
            f"{peer} {'sparse' if sparse else 'dense'} {value:7.2f}"
            for (peer, sparse), value in least.items()
        ]
        print(f"{name:<11}", "  ".join(cells))
    if options.limit is not None and slowest > options.limit:
        sys.exit(f"bench_sparse: a sparse step took {slowest:.2f} ms, at most {options.limit}")


if __name__ == "__main__":
    main()
