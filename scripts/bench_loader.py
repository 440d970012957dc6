"""Times a DataLoader over data sets with a `__getitem__` of their own, beside PyTorch's.

    python scripts/bench_loader.py                  microseconds per batch of 32, and ratios
    python scripts/bench_loader.py --workers 2      the same with two worker processes

Both libraries take turns in one process, and the fastest pass of each counts. Limit: 1.2 x PyTorch.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
ROWS, BATCH = 2048, 32
LIMIT = 1.2

Items = Callable[[Any], Callable[[int], Any]]  # from a library to what __getitem__ does


def tensors(m: Any) -> Any:
    x, y = m.randn(ROWS, 30), m.arange(ROWS)
    return lambda i: (x[i], y[i])


def tensor_and_number(m: Any) -> Any:
    x = m.randn(ROWS, 30)
    return lambda i: (x[i], i % 10)


def dictionary(m: Any) -> Any:
    x, y = m.randn(ROWS, 30), m.arange(ROWS)
    return lambda i: {"x": x[i], "y": y[i], "name": "row"}


def normalized(m: Any) -> Any:
    x, y = m.randn(ROWS, 30), m.arange(ROWS)
    return lambda i: ((x[i] - 0.5) / 0.5, y[i])


def images(m: Any) -> Any:
    x = m.randn(64, 3, 32, 32)
    return lambda i: (x[i % 64], i % 10)


def arrays(m: Any) -> Any:
    x, y = np.random.default_rng(0).normal(size=(ROWS, 30)).astype(np.float32), np.arange(ROWS)
    return lambda i: (x[i], y[i])


def from_arrays(m: Any) -> Any:
    x = np.random.default_rng(0).normal(size=(ROWS, 30)).astype(np.float32)
    return lambda i: (m.from_numpy(x[i]), i % 10)


def numbers(m: Any) -> Any:
    return lambda i: (i / 7, i % 10)


def made_anew(m: Any) -> Any:
    return lambda i: (m.tensor([i / 7, 1.0, 2.0]), m.tensor(i % 10))


KINDS: dict[str, Items] = {
    "two tensors": tensors,
    "a tensor and a number": tensor_and_number,
    "a dict": dictionary,
    "a tensor, normalized": normalized,
    "an image": images,
    "two arrays": arrays,
    "a tensor from an array": from_arrays,
    "two numbers": numbers,
    "two new tensors": made_anew,
}


def loader(m: Any, items: Items, workers: int) -> Any:
    """A shuffling loader over a data set with these items."""
    make = items(m)

    class Rows(m.utils.data.Dataset):  # type: ignore[misc, name-defined]
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, index: int) -> Any:
            return make(index)

    options = {"num_workers": workers, "persistent_workers": True} if workers else {}
    return m.utils.data.DataLoader(Rows(), batch_size=BATCH, shuffle=True, **options)


def time_of(batches: Any) -> float:
    """Microseconds per batch of one pass."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - start) * 1e6 * BATCH / ROWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--passes", type=int, default=20)
    arguments = parser.parse_args()
    libraries = [importlib.import_module(name) for name in ("nanotorch", "torch")]
    print("| us per batch of 32 | NanoTorch | PyTorch | ratio |\n| --- | ---: | ---: | ---: |")
    ratios = []
    for name, items in KINDS.items():
        loaders = [loader(m, items, arguments.workers) for m in libraries]
        times = [[time_of(each) for each in loaders] for _ in range(arguments.passes)]
        ours, theirs = (min(column) for column in zip(*times, strict=True))
        ratios.append(ours / theirs)
        over = " (over the limit)" if ratios[-1] > LIMIT else ""
        print(f"| {name} | {ours:.1f} | {theirs:.1f} | {ratios[-1]:.2f}{over} |", flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"\nGeometric mean {mean:.2f}, at most {max(ratios):.2f}; limit {LIMIT}.")


if __name__ == "__main__":
    main()
