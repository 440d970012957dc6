"""What the distributions of classes share: an argument that is a probability or its logit."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import finfo
from nanotorch.tensor import Tensor


def one_of(**options: Any) -> tuple[str, Any]:
    """The name and the value of the one option that is not None."""
    given = [(name, value) for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise ValueError("Either `probs` or `logits` must be specified, but not both.")
    return given[0]


def bounded(probs: Tensor) -> Tensor:
    """Probabilities a little above 0 and below 1, so that their logarithms are finite."""
    least = finfo(probs.dtype).eps
    return probs.clamp(min=least, max=1 - least)
