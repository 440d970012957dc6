"""The categorical distribution."""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops, random
from nanotorch.autograd.grad_mode import no_grad
from nanotorch.backend import finfo
from nanotorch.creation import arange
from nanotorch.distributions.distribution import Distribution
from nanotorch.distributions.probabilities import bounded, once, one_of
from nanotorch.tensor import Size, Tensor


class Categorical(Distribution):
    """Class k with probability probs[…, k] = softmax(logits)[…, k], an int64

    `probs` may be any numbers of at least 0: they are divided by their sum over the last dimension.
    ValueError unless one of `probs` and `logits` is given, for negative probabilities.
    """

    has_enumerate_support = True
    arguments = ("probs", "logits")

    def __init__(
        self, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        name, value = one_of(probs=probs, logits=logits)
        if value.ndim < 1:
            raise ValueError(f"`{name}` parameter must be at least one-dimensional.")
        if name == "probs":
            self.__dict__[name] = value / value.sum(-1, keepdim=True)
        else:
            self.__dict__[name] = value - value.logsumexp(-1, keepdim=True)
        self._num_events = value.shape[-1]
        super().__init__(value.shape[:-1], validate_args=validate_args)

    def _constraints(self) -> list[tuple[str, Tensor, str]]:
        if "logits" in self.__dict__:
            return [("logits", self.logits == self.logits, "to be numbers")]
        return [("probs", self.probs >= 0, "of at least 0 and a sum above it")]

    def _in_support(self, value: Tensor) -> Tensor:
        within: Tensor = (value % 1 == 0) & (value >= 0) & (value <= self._num_events - 1)
        return within

    @once
    def logits(self) -> Tensor:
        """log(probs)"""
        return bounded(self.probs).log()

    @once
    def probs(self) -> Tensor:
        """softmax(logits)"""
        y: Tensor = ops.softmax(self.logits, -1)
        return y

    @property
    def param_shape(self) -> Size:
        """(*batch_shape, classes)"""
        return self._argument.shape

    @property
    def _argument(self) -> Tensor:
        return self.__dict__["probs" if "probs" in self.__dict__ else "logits"]  # type: ignore[no-any-return]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Classes, int64: (*sample_shape, *batch_shape)."""
        with no_grad():
            rows = self.probs.reshape(-1, self._num_events)
            drawn = random.multinomial(rows, math.prod(sample_shape), True)
            return drawn.T.reshape(self._shape(sample_shape))  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        """log(probs) of the class"""
        self._check(value)
        shape = (value.to(self.logits.dtype) + self.logits[..., 0]).shape
        value = value.long().expand(*shape).unsqueeze(-1)
        logits = self.logits.expand(*shape, self._num_events)
        y: Tensor = ops.gather(logits, -1, value)
        return y.squeeze(-1)

    def entropy(self) -> Tensor:
        """-Σ probs log(probs)"""
        least = finfo(self.logits.dtype).min
        return -(self.logits.clamp(min=least) * self.probs).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """0, 1, …, along a new first dimension."""
        values = arange(self._num_events, device=self._argument.device)
        values = values.reshape(-1, *(1,) * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

    def _divergence(self, other: Categorical) -> Tensor:
        terms = self.probs * (self.logits - other.logits)
        terms = ops.where(other.probs == 0, math.inf, terms)
        total: Tensor = ops.where(self.probs == 0, 0.0, terms).sum(-1)
        return total

    @property
    def mean(self) -> Tensor:
        """NaN: classes have no mean"""
        return self._argument.new_full(self.batch_shape, math.nan)

    @property
    def mode(self) -> Tensor:
        """The most probable class"""
        return self.probs.argmax(-1)

    @property
    def variance(self) -> Tensor:
        """NaN: classes have no variance"""
        return self._argument.new_full(self.batch_shape, math.nan)
