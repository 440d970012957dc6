"""Features on one scale: mean 0 and deviation 1 in the training part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.encoding import Encoding
from nanotorch.training.errors import InputError

IN_CACHE = 2**15  # values that are standardized at once
LARGEST_SQUARED = 2.0**500  # from here on, squares are taken of multiples of it


@dataclass
class Standardization:
    """z = (x - mean) / scale, feature by feature, in float64 and cast last."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def apply(self, features: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
        """Standardized rows, shape (rows, features), C-contiguous."""
        out = np.empty(features.shape, dtype=dtype)
        self.write(features, out)
        return out

    def write(
        self, features: NDArray[Any], out: NDArray[Any], places: NDArray[np.int64] | None = None
    ) -> None:
        """Put standardized rows into `out`, or into these places of it, in pieces that stay in
        cache."""
        step = max(1, min(IN_CACHE // max(1, features.shape[1]), len(features)))
        wide = np.empty((step, features.shape[1]))
        cast = np.empty(wide.shape, out.dtype)
        for start in range(0, len(features), step):
            some = features[start : start + step]
            z, cast = wide[: len(some)], cast[: len(some)]
            np.subtract(some, self.mean, out=z)
            np.divide(z, self.scale, out=z)
            if places is None:
                out[start : start + step] = z
            else:
                cast[...] = z
                out[places[start : start + step]] = cast

    @staticmethod
    def identity(count: int) -> Standardization:
        return Standardization(np.zeros(count), np.ones(count))


def standardization_of(
    encoding: Encoding,
    chunks: Callable[[], Iterator[NDArray[Any]]],
    wanted: bool,
    notes: list[str],
) -> Standardization:
    """Mean and deviation of the training rows' features, in two passes over chunks of them."""
    count = len(encoding.feature_names)
    if encoding.tables.sparse is not None:
        return Standardization.identity(count)
    rows, total = 0, np.zeros(count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    for features in chunks():
        if len(features):
            rows += len(features)
            with np.errstate(over="ignore", invalid="ignore"):
                total += features.sum(axis=0, dtype=np.float64)
            low = np.minimum(low, features.min(axis=0))
            high = np.maximum(high, features.max(axis=0))
    encoding.note_ranges(low, high)
    mean = total / rows
    if not np.isfinite(mean).all():
        name = encoding.feature_names[int(np.isfinite(mean).argmin())]
        raise InputError(f"column {name!r}: its numbers are too large to have a mean; scale them")
    squares = np.zeros(count)
    unit = np.where(np.maximum(np.abs(low), np.abs(high)) < LARGEST_SQUARED, 1.0, LARGEST_SQUARED)
    for features in chunks():
        squares += np.square((features - mean) / unit).sum(axis=0)
    scale = np.sqrt(squares / rows) * unit
    one_hot = encoding.one_hot
    constant = (scale <= 1e-14 * np.abs(mean)) & ~one_hot
    if constant.any():
        names = [name for name, flat in zip(encoding.feature_names, constant, strict=True) if flat]
        listing = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        notes.append(
            f"{len(names)} constant in the training part, nothing to learn from: {listing}"
        )
    mean[one_hot] = 0.0
    scale[constant | one_hot] = 1.0
    return Standardization(mean, scale) if wanted else Standardization.identity(count)
