"""The uniform distribution."""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops
from nanotorch.distributions.distribution import Distribution, blank, tensors
from nanotorch.tensor import Tensor


class Uniform(Distribution):
    """The density 1 / (high - low) from `low` to `high`, which is excluded

    ValueError unless low < high.
    """

    has_rsample = True
    arguments = ("low", "high")

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        self.low, self.high = tensors(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)

    def _constraints(self) -> list[tuple[str, Tensor, str]]:
        return [("low", self.low < self.high, f"below high, {self.high.flatten()[:3].tolist()}")]

    def _in_support(self, value: Tensor) -> Tensor:
        return (value >= self.low) & (value <= self.high)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """low + (high - low) · noise"""
        noise = blank(self.low, self._shape(sample_shape)).uniform_()
        return self.low + noise * (self.high - self.low)

    def log_prob(self, value: Tensor) -> Tensor:
        """-log(high - low), and -∞ outside"""
        self._check(value)
        inside = (self.low <= value) & (self.high > value)
        return inside.to(self.low.dtype).log() - (self.high - self.low).log()

    def cdf(self, value: Tensor) -> Tensor:
        """(x - low) / (high - low), from 0 to 1"""
        self._check(value)
        return ((value - self.low) / (self.high - self.low)).clamp(min=0, max=1)

    def icdf(self, value: Tensor) -> Tensor:
        """low + (high - low) p"""
        return value * (self.high - self.low) + self.low

    def entropy(self) -> Tensor:
        """log(high - low)"""
        return (self.high - self.low).log()

    def _divergence(self, other: Uniform) -> Tensor:
        within = (other.low <= self.low) & (self.high <= other.high)
        ratio = (other.high - other.low) / (self.high - self.low)
        y: Tensor = ops.where(within, ratio.log(), math.inf)
        return y

    @property
    def mean(self) -> Tensor:
        """(low + high) / 2"""
        return (self.high + self.low) / 2

    @property
    def mode(self) -> Tensor:
        """NaN: no value is more probable than others"""
        return math.nan * self.high

    @property
    def stddev(self) -> Tensor:
        """(high - low) / √12"""
        return (self.high - self.low) / math.sqrt(12)

    @property
    def variance(self) -> Tensor:
        """(high - low)² / 12"""
        return (self.high - self.low).pow(2) / 12
