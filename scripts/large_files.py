"""Train, evaluate and predict files larger than memory; print peak memory and rates.

    python scripts/large_files.py --folder /tmp/large --npy 6 --parquet 3

makes a .npy file of 6 GB and a Parquet file of 3 GB there, runs each command in a process that may
have 4 GB of addresses (as `ulimit -v` sets it), and prints for each its peak of anonymous memory.
Epochs of logistic regression are compared with `dd`, which reads the same file: cold, with the page
cache of the file dropped before, and cached. The files are removed at the end unless `--keep`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from nanotorch.training import fit
from nanotorch.training.data.frames import ParquetWriter
from nanotorch.training.data.row_files import MatrixWriter

ADDRESSES = 4 * 10**9  # bytes
PIECE = 100_000  # rows made at once
NPY, PARQUET = "large.npy", "large.parquet"
Array = np.ndarray[Any, Any]


def rows_of(count: int, features: int, seed: int, kind: Any) -> Array:
    """Normal features, and whether a noisy sum of them is above 0 in the last column."""
    random = np.random.default_rng([seed, features])
    weights = np.random.default_rng(features).standard_normal(features)
    x = random.standard_normal((count, features + 1), dtype=kind)
    noise = 3 * random.standard_normal(count)
    x[:, -1] = x[:, :-1] @ weights.astype(kind) + noise > 0
    return x


def make_npy(path: Path, gigabytes: float, features: int = 64) -> int:
    rows = int(gigabytes * 1e9 / 4 / (features + 1))
    writer = MatrixWriter(path, np.float32)
    writer.begin(features + 1)
    for number, first in enumerate(range(0, rows, PIECE)):
        writer.add(rows_of(min(PIECE, rows - first), features, number, np.float32))
    writer.close()
    return rows


def make_parquet(path: Path, gigabytes: float, features: int = 20) -> int:
    rows = int(gigabytes * 1e9 / 8 / features)
    names = [*(f"x{at}" for at in range(features)), "y"]
    writer = ParquetWriter(path, dict.fromkeys(names, float))
    for number, first in enumerate(range(0, rows, PIECE)):
        piece = rows_of(min(PIECE, rows - first), features, number, np.float64)
        writer.add(dict(zip(names, piece.T.copy(), strict=True)))
    writer.close()
    return rows


def drop(path: Path) -> None:
    """Drop the page cache of a file."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def dd(path: Path, cold: bool) -> float:
    """Gigabytes a second at which `dd` reads a file."""
    if cold:
        drop(path)
    before = time.perf_counter()
    command = ["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"]
    subprocess.run(command, check=True)
    return path.stat().st_size / 1e9 / (time.perf_counter() - before)


class Watched:
    """A command in a process of its own, and its peak of anonymous memory in bytes."""

    def __init__(self, words: list[Any], folder: Path) -> None:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({ADDRESSES},) * 2)"
        program = f"{limit}; import runpy, sys; sys.argv = sys.argv[1:]; "
        program += "runpy.run_path(sys.argv[0], run_name='__main__')"
        if words[0] != __file__:
            program = f"{limit}; import sys; from nanotorch.training.commands import main; "
            program += "sys.exit(main())"
            words = ["", *words][1:]
        before = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, words)],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "Agg"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.peak = 0
        watcher = threading.Thread(target=self._watch, args=[process.pid])
        watcher.start()
        self.output, errors = process.communicate()
        watcher.join()
        self.seconds = time.perf_counter() - before
        if process.returncode:
            raise SystemExit(f"{words}: ended with {process.returncode}: {errors[-2000:]}")

    def _watch(self, number: int) -> None:
        status = Path(f"/proc/{number}/status")
        while True:
            try:
                lines = status.read_text().splitlines()
                size = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            except (OSError, StopIteration):
                return
            self.peak = max(self.peak, size * 1024)
            time.sleep(0.02)


class Cold:
    """Drops the page cache before each epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, run: Any) -> None:
        drop(self.path)

    def on_epoch(self, run: Any, record: Any) -> None:
        drop(self.path)


def train(source: str, name: str, cold: bool, more: dict[str, Any]) -> None:
    """What a watched process does for `--train`."""
    tables = {
        "name": name,
        "data": {"source": source, **more.pop("data", {})},
        "training": {"epochs": 2, "batch_size": 8192},
        "optimizer": {"lr": 0.1},
        "output": {"curves": False, "report": False},
        **more,
    }
    path = Path(f".{source}.float64.npy") if source == PARQUET else Path(source)
    run = fit(tables, quiet=True, callbacks=[Cold(path)] if cold else [])
    events = [json.loads(line) for line in (run.folder / "events.jsonl").open()]
    seconds = events[-1]["epoch_seconds"]
    losses = [json.loads(line)["train/loss"] for line in (run.folder / "metrics.jsonl").open()]
    print(json.dumps({"seconds": seconds, "losses": losses, "folder": str(run.folder)}))


def tell(what: str, peak: int, seconds: float, words: str = "") -> None:
    print(f"{what:<42} {seconds:7.1f} s  {peak / 1e6:5.0f} MB anonymous  {words}", flush=True)


def measured(folder: Path, source: str, cold: bool, **more: Any) -> dict[str, Any]:
    """Train in a watched process, and tell."""
    name = "large-cold" if cold else "large"
    words = ["--train", source, "--name", name, "--more", json.dumps(more)]
    run = Watched([__file__, *words, *(["--cold"] if cold else [])], folder)
    result: dict[str, Any] = json.loads(run.output.splitlines()[-1])
    path = folder / (f".{source}.float64.npy" if source == PARQUET else source)
    rates = [path.stat().st_size / 1e9 / seconds for seconds in result["seconds"]]
    result["rate"] = max(rates)
    shown = ", ".join(f"{rate:.2f}" for rate in rates)
    losses = ", ".join(f"{loss:.4f}" for loss in result["losses"])
    how = "cold" if cold else "cached"
    tell(f"train {source}, {how}", run.peak, run.seconds, f"{shown} GB/s an epoch; loss {losses}")
    return result


def sorted_rows(folder: Path, rows: int) -> None:
    """The loss after two epochs on rows sorted by label: blocks, all rows, and no shuffling."""
    values = rows_of(rows, 20, 0, np.float32)
    np.save(folder / "sorted.npy", values[np.argsort(values[:, -1], kind="stable")])
    for what, memory, shuffle in (
        ("all rows shuffled, in memory", "100 GB", True),
        ("blocks shuffled", "50 MB", True),
        ("in order", "50 MB", False),
    ):
        training = {"epochs": 2, "batch_size": 512, "shuffle": shuffle}
        data = {"memory": memory, "test": 0.2, "validation": 0.0}
        words = ["--train", "sorted.npy", "--name", "sorted"]
        more = json.dumps({"data": data, "training": training})
        run = Watched([__file__, *words, "--more", more], folder)
        result = json.loads(run.output.splitlines()[-1])
        summary = json.loads((folder / result["folder"] / "summary.json").read_text())
        print(f"sorted by label, {what:<32} test loss {summary['test']['loss']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("large"))
    parser.add_argument("--npy", type=float, default=6.0, help="gigabytes of the .npy file")
    parser.add_argument("--parquet", type=float, default=3.0, help="gigabytes of Parquet; 0: none")
    parser.add_argument(
        "--sorted", type=int, default=1_000_000, help="rows sorted by label; 0: none"
    )
    parser.add_argument("--memory", help="data.memory; as usual if not set")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    for name in ("--train", "--name", "--more"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.name, options.cold, json.loads(options.more))
        return
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in (NPY, PARQUET, "sorted.npy")]
    bound = {} if options.memory is None else {"memory": options.memory}
    print(f"addresses of each process: {ADDRESSES / 1e9:g} GB")
    try:
        if options.npy:
            rows = make_npy(files[0], options.npy)
            print(f"{NPY}: {files[0].stat().st_size / 1e9:.2f} GB, {rows:,} rows of 65 float32")
            everything = {"data": {"test": 0.0, "validation": 0.0, **bound}}
            rates = {}
            for cold in (True, False):
                disk = dd(files[0], cold)
                run = measured(folder, NPY, cold, **everything)
                again = dd(files[0], cold)
                rates[cold] = run["rate"] / max(disk, again)
                word = "cold" if cold else "cached"
                print(
                    f"  dd {word}: {disk:.2f} and {again:.2f} GB/s; epochs {rates[cold]:.2f} x dd"
                )
            run = measured(folder, NPY, False, data=bound)
            commands(folder, NPY, run["folder"])
        if options.parquet:
            rows = make_parquet(files[1], options.parquet)
            size = files[1].stat().st_size / 1e9
            print(f"{PARQUET}: {size:.2f} GB, {rows:,} rows of 21 float64")
            run = measured(folder, PARQUET, False, data=bound)
            commands(folder, PARQUET, run["folder"])
        if options.sorted:
            sorted_rows(folder, options.sorted)
    finally:
        if not options.keep:
            for path in [*files, *folder.glob(".large.*"), *folder.glob("predicted.*")]:
                path.unlink(missing_ok=True)


def commands(folder: Path, source: str, run: str) -> None:
    """Evaluate the run's test rows and the whole file, and predict it."""
    for words in (
        ["evaluate", run, "--json"],
        ["evaluate", run, source, "--json"],
        ["predict", run, source, "--output", "predicted.parquet", "--force"],
        ["predict", run, source, "--output", "predicted.csv", "--force"],
    ):
        done = Watched(words, folder)
        shown = ""
        if words[0] == "evaluate":
            result = json.loads(done.output.splitlines()[-1])
            shown = f"{result['rows']:,} rows, ROC AUC {result['roc_auc']:.6f}"
        what = f"{words[0]} {source}"
        if words[0] == "predict":
            what += f" to {Path(words[4]).suffix}"
        elif len(words) == 3:
            what += ", test rows"
        tell(what, done.peak, done.seconds, shown)
        for path in folder.glob("predicted.*"):
            path.unlink()


if __name__ == "__main__":
    main()
