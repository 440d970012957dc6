"""What the distributions of classes share: an argument that is a probability or its logit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nanotorch.autograd.grad_mode import enable_grad
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


def once(function: Callable[[Any], Tensor]) -> functools.cached_property[Tensor]:
    """A property that is computed when it is first read, with its graph: `sample` may read it."""
    return functools.cached_property(enable_grad()(function))
