"""Dropout (Srivastava et al., 2014), of elements or of whole channels (Tompson et al., 2015)."""

from __future__ import annotations

import warnings
from typing import Any

from nanotorch import ops
from nanotorch.creation import ones_like
from nanotorch.nn import functional as F
from nanotorch.nn.module import Module
from nanotorch.tensor import Tensor


class Dropout(Module):
    """In training y is 0 with probability p, else x / (1 - p); in evaluation y = x.

    ValueError unless 0 <= p <= 1.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: any, to the same."""
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """The same for whole channels of (N, C, L) or (C, L)."""

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, L) or (C, L), to the same."""
        return dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(Dropout):
    """The same for whole channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, H, W), to the same."""
        return dropout2d(input, self.p, self.training, self.inplace)


class AlphaDropout(Dropout):
    """Keeps mean 0 and variance 1 of what `SELU` gives: dropped elements become its lower bound.

    Source: Klambauer et al., 2017.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: any, to the same."""
        return alpha_dropout(input, self.p, self.training)


ALPHA = 1.7580993408473766  # the lower bound of SELU is -ALPHA


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """y = a (x or, with probability p, -ALPHA) + b, with mean 0 and variance 1 if x has them."""
    if p in (0, 1) or not training or input.numel() == 0:
        return F.dropout(input, p, training, inplace)
    a = ((ALPHA**2 * p + 1) * (1 - p)) ** -0.5
    mask = ops.gt(F.dropout(ones_like(input.detach()), p), 0).to(input.dtype)
    shift = (mask - 1) * (ALPHA * a) + ALPHA * a * p
    y: Tensor = input.mul_(mask * a).add_(shift) if inplace else input * (mask * a) + shift
    return y


def _channels(x: Any, channels: int, p: float, training: bool, inplace: bool) -> Any:
    """x without some of its channels, the last of its first `channels` dimensions."""
    if not training or p == 0 or x.numel() == 0:
        F.dropout(x, p, training)  # refuses a wrong p
        return x
    shape = (*x.shape[:channels], *(1,) * (x.ndim - channels))
    noise = F.dropout(ops.ones_like(x[(..., *(slice(1),) * (x.ndim - channels))]), p)
    return x.mul_(noise.reshape(shape)) if inplace else x * noise.reshape(shape)


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Each channel of (N, C, L) or (C, L) becomes 0 with probability p, else x / (1 - p)."""
    if input.ndim not in (2, 3):
        raise RuntimeError(f"dropout1d: Expected 2D or 3D input, got {input.ndim}D")
    return _channels(input, input.ndim - 1, p, training, inplace)  # type: ignore[no-any-return]


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Each channel of (N, C, H, W) becomes 0 with probability p, else x / (1 - p).

    As in PyTorch three dimensions are (N, C, L), with a UserWarning.
    """
    if input.ndim == 3:
        warnings.warn(
            "dropout2d: a 3D input is taken as (N, C, L); for (C, H, W) give it a batch dimension, "
            "and for (N, C, L) use dropout1d",
            stacklevel=2,
        )
    elif input.ndim != 4:
        raise RuntimeError(f"dropout2d: Expected 4D input, (N, C, H, W), got {input.ndim}D")
    return _channels(input, 2, p, training, inplace)  # type: ignore[no-any-return]
