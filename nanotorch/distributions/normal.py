"""The normal distribution."""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops
from nanotorch.distributions.distribution import Distribution, blank, tensors
from nanotorch.tensor import Tensor


class Normal(Distribution):
    """The density exp(-((x - loc) / scale)² / 2) / (scale √(2π))

    ValueError unless scale > 0.
    """

    has_rsample = True
    arguments = ("loc", "scale")

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def _constraints(self) -> list[tuple[str, Tensor, str]]:
        return [
            ("loc", self.loc == self.loc, "to be numbers"),
            ("scale", self.scale > 0, "> 0"),
        ]

    def _in_support(self, value: Tensor) -> Tensor:
        return value == value

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """loc + scale · noise"""
        noise = blank(self.loc, self._shape(sample_shape)).normal_()
        return self.loc + noise * self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """-((x - loc) / scale)² / 2 - log(scale √(2π))"""
        self._check(value)
        variance = self.scale**2
        density = -((value - self.loc) ** 2) / (2 * variance)
        return density - self.scale.log() - math.log(math.sqrt(2 * math.pi))

    def cdf(self, value: Tensor) -> Tensor:
        """(1 + erf((x - loc) / (scale √2))) / 2"""
        self._check(value)
        y: Tensor = 0.5 * (1 + ops.erf((value - self.loc) / self.scale / math.sqrt(2)))
        return y

    def icdf(self, value: Tensor) -> Tensor:
        """loc + scale √2 erfinv(2p - 1)"""
        symmetric: Any = 2 * value - 1
        y: Tensor = self.loc + self.scale * symmetric.erfinv() * math.sqrt(2)
        return y

    def entropy(self) -> Tensor:
        """(1 + log(2π)) / 2 + log scale"""
        return 0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log()

    def _divergence(self, other: Normal) -> Tensor:
        ratio = (self.scale / other.scale) ** 2
        distance = ((self.loc - other.loc) / other.scale) ** 2
        return 0.5 * (ratio + distance - 1 - ratio.log())

    @property
    def mean(self) -> Tensor:
        """loc"""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """loc"""
        return self.loc

    @property
    def stddev(self) -> Tensor:
        """scale"""
        return self.scale

    @property
    def variance(self) -> Tensor:
        """scale²"""
        return self.scale**2
