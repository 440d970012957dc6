"""Data whose best possible error is known: two normal clouds of the same shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.errors import InputError


@dataclass(frozen=True)
class Synthetic:
    """Rows, classes (0 and 1) and the error that no model can beat."""

    features: NDArray[np.float32]
    target: NDArray[np.int64]
    bayes_error: float


def two_clouds(rows: int, features: int, distance: float, seed: int) -> Synthetic:
    """x ~ N(±distance / 2 · u, I) for a random direction u of length 1, both classes as likely.

    The Bayes error is Φ(-distance / 2), and the best rule is linear: logistic regression can
    reach it. Rows are drawn in chunks, so that memory holds one copy only.
    """
    random = np.random.default_rng(seed)
    direction = random.standard_normal(features)
    direction /= np.linalg.norm(direction)
    target = random.integers(0, 2, rows)
    x = random.standard_normal((rows, features), dtype=np.float32)
    shift: NDArray[Any] = (distance * direction).astype(np.float32)
    for start in range(0, rows, 2**16):
        part = slice(start, start + 2**16)
        x[part] += (target[part, None] - 0.5).astype(np.float32) * shift
    return Synthetic(x, target, math.erfc(distance / 2 / math.sqrt(2)) / 2)


def save(data: Synthetic, path: Path) -> None:
    """Write the data as CSV (with a header), NPY (the class last) or NPZ (features, target)."""
    x, y = data.features, data.target
    match path.suffix.lower():
        case ".npz":
            np.savez(path, features=x, target=y)
        case ".npy":
            np.save(path, np.column_stack([x, y.astype(np.float32)]))
        case ".csv":
            header = ",".join([*(f"x{at}" for at in range(x.shape[1])), "target"])
            table = np.column_stack([x, y])
            np.savetxt(
                path, table, fmt=["%.7g"] * x.shape[1] + ["%d"], delimiter=",", header=header,
                comments="",
            )  # fmt: skip
        case other:
            raise InputError(f"{path}: expected the ending .csv, .npy or .npz, given {other!r}")
