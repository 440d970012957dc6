"""The Bernoulli distribution."""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops, random
from nanotorch.autograd.grad_mode import no_grad
from nanotorch.creation import arange
from nanotorch.distributions.distribution import Distribution, tensors
from nanotorch.distributions.probabilities import bounded, once, one_of
from nanotorch.tensor import Tensor


class Bernoulli(Distribution):
    """1 with probability `probs` = σ(logits), else 0

    ValueError unless one of `probs` and `logits` is given, and 0 <= probs <= 1.
    """

    has_enumerate_support = True
    arguments = ("probs", "logits")

    def __init__(
        self, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        name, value = one_of(probs=probs, logits=logits)
        (self.__dict__[name],) = tensors(value)
        super().__init__(self.__dict__[name].shape, validate_args=validate_args)

    def _constraints(self) -> list[tuple[str, Tensor, str]]:
        if "logits" in self.__dict__:
            return [("logits", self.logits == self.logits, "to be numbers")]
        return [("probs", (self.probs >= 0) & (self.probs <= 1), "from 0 to 1")]

    def _in_support(self, value: Tensor) -> Tensor:
        return (value == 0) | (value == 1)

    @once
    def logits(self) -> Tensor:
        """log(probs / (1 - probs))"""
        probs = bounded(self.probs)
        y: Tensor = probs.log() - ops.log1p(-probs)
        return y

    @once
    def probs(self) -> Tensor:
        """σ(logits)"""
        y: Tensor = ops.sigmoid(self.logits)
        return y

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """0 and 1 in the dtype of the argument: (*sample_shape, *batch_shape)."""
        with no_grad():
            return random.bernoulli(self.probs.expand(*self._shape(sample_shape)))  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        """log(probs) at 1, log(1 - probs) at 0"""
        self._check(value)
        logits, value = ops.broadcast_tensors(self.logits, value)
        y: Tensor = -ops.binary_cross_entropy_with_logits(logits, value, reduction="none")
        return y

    def entropy(self) -> Tensor:
        """-probs log(probs) - (1 - probs) log(1 - probs)"""
        y: Tensor = ops.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")
        return y

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """0 and 1, along a new first dimension."""
        like = self.__dict__.get("probs", self.__dict__.get("logits"))
        assert like is not None
        values = arange(2, dtype=like.dtype, device=like.device)
        values = values.reshape(2, *(1,) * len(self.batch_shape))
        return values.expand(2, *self.batch_shape) if expand else values

    def _divergence(self, other: Bernoulli) -> Tensor:
        softplus, p, q = ops.softplus, self.probs, other.probs
        ones = p * (softplus(-other.logits) - softplus(-self.logits))
        ones = ops.where(p == 0, 0.0, ops.where(q == 0, math.inf, ones))
        zeros = (1 - p) * (softplus(other.logits) - softplus(self.logits))
        zeros = ops.where(p == 1, 0.0, ops.where(q == 1, math.inf, zeros))
        total: Tensor = ones + zeros
        return total

    @property
    def mean(self) -> Tensor:
        """probs"""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """1 where probs > 1/2, 0 below, NaN in between"""
        likely = (self.probs >= 0.5).to(self.probs.dtype)
        y: Tensor = ops.where(self.probs == 0.5, math.nan, likely)
        return y

    @property
    def variance(self) -> Tensor:
        """probs (1 - probs)"""
        return self.probs * (1 - self.probs)
