"""Columns whose values are hashed: each value is one of so many buckets, and a bucket a weight.

The same value has the same bucket in every file and on every machine, and a number has that of its
text: a text stands for a whole number of 53 bits, which a copy of a file can hold. Two values may
share a bucket.
Source: Weinberger et al. (2009), https://arxiv.org/abs/0902.2206
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.training.data.values import is_number

MOST = {"float32": 2**24, "float64": 2**53}  # whole numbers that a feature of a dtype can tell
KEPT = 64  # columns of text whose buckets are remembered

Buckets = NDArray[np.float64]
_of_texts: dict[tuple[int, int], tuple[list[str], Buckets]] = {}


def buckets_wanted(name: str, hashed: Mapping[str, int]) -> int | None:
    """The number of buckets of a column: that of the first pattern which its name matches."""
    return next((n for pattern, n in hashed.items() if fnmatch.fnmatchcase(name, pattern)), None)


def buckets_of_numbers(values: NDArray[Any], size: int) -> Buckets:
    """The bucket of each number; NaN has that of the text of a gap."""
    values = np.asarray(values, np.float64) + 0.0  # so that -0 is 0
    values = np.where(np.isnan(values), number_of(""), values)
    whole = values == np.floor(values)
    whole &= np.abs(values) < 2.0**63
    keys = np.where(whole, np.where(whole, values, 0).astype(np.int64), values.view(np.int64))
    return (_mixed(keys.view(np.uint64)) % np.uint64(size)).astype(np.float64)


def buckets_of_texts(texts: list[str], size: int) -> Buckets:
    """The bucket of each text, and of a gap at the end."""
    known = _of_texts.get((id(texts), size))
    if known is not None and known[0] is texts and len(known[1]) == len(texts) + 1:
        return known[1]
    numbers = [*(number_of(text) for text in texts), math.nan]
    buckets = buckets_of_numbers(np.array(numbers), size)
    if len(_of_texts) >= KEPT:
        _of_texts.clear()
    _of_texts[id(texts), size] = texts, buckets
    return buckets


def number_of(text: str) -> float:
    """The number that a text is, or the whole number that stands for it."""
    if is_number(text):
        return float(text)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11)


def numbers_of_cells(cells: Iterable[str], missing: Container[str]) -> NDArray[np.float64]:
    """The number of each cell of a file, NaN for one that is missing."""
    stripped = map(str.strip, cells)
    return np.array([math.nan if cell in missing else number_of(cell) for cell in stripped])


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each key with its bits spread over all 64: the end of SplitMix64.

    Source: Steele, Lea and Flood (2014), https://doi.org/10.1145/2660193.2660195
    """
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
