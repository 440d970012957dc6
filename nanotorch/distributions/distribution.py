"""What the distributions share: shapes, samples, checks.

A sample has the shape (*sample_shape, *batch_shape); the arguments broadcast to the batch shape.
Source: https://docs.pytorch.org/docs/stable/distributions.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from nanotorch import ops
from nanotorch.autograd.grad_mode import no_grad
from nanotorch.creation import tensor
from nanotorch.tensor import Size, Tensor


class Distribution:
    """A random variable, or one for each place of `batch_shape`."""

    has_rsample: ClassVar[bool] = False  # samples have gradients by the arguments
    has_enumerate_support: ClassVar[bool] = False
    arguments: ClassVar[tuple[str, ...]] = ()  # what repr shows
    _validate_args: bool = __debug__

    def __init__(
        self,
        batch_shape: Any = Size(),  # noqa: B008 - as immutable as a tuple
        event_shape: Any = Size(),  # noqa: B008
        validate_args: bool | None = None,
    ) -> None:
        self.batch_shape, self.event_shape = Size(batch_shape), Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            for name, fits, expected in self._constraints():
                if not bool(fits.all()):
                    value = getattr(self, name)
                    wrong = value[~fits.expand(value.shape)].flatten()[:3].tolist()
                    raise ValueError(
                        f"{type(self).__name__}: expected {name} {expected}, got {wrong}"
                    )

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Says whether arguments and values are checked where `validate_args` is None."""
        if value not in (True, False):
            raise ValueError(f"set_default_validate_args: expected True or False, got {value!r}")
        Distribution._validate_args = value

    def _constraints(self) -> list[tuple[str, Tensor, str]]:
        """(argument, where it fits, what was expected)"""
        return []

    def _in_support(self, value: Tensor) -> Tensor:
        """Where a value may have come from this distribution."""
        raise NotImplementedError

    def _check(self, value: Any) -> None:
        """ValueError for what is no value of this distribution, unless arguments go unchecked."""
        name = type(self).__name__
        if not self._validate_args:
            return
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name}: expected a Tensor as value, got {type(value).__name__} {value!r}"
            )
        for a, b in zip(reversed(value.shape), reversed(self.batch_shape), strict=False):
            if 1 not in (a, b) and a != b:
                raise ValueError(
                    f"{name}: expected a value that broadcasts to {tuple(self.batch_shape)}, got "
                    f"{tuple(value.shape)}"
                )
        fits = self._in_support(value)
        if not bool(fits.all()):
            wrong = value[~fits] if fits.shape == value.shape else value
            raise ValueError(
                f"{name}: expected a value within the support of {self}, got "
                f"{wrong.flatten()[:3].tolist()}"
            )

    def _shape(self, sample_shape: Any = ()) -> tuple[int, ...]:
        """The shape of a sample."""
        return (*sample_shape, *self.batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, without a gradient: (*sample_shape, *batch_shape)."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with gradients by the arguments; NotImplementedError where there are none."""
        raise NotImplementedError(f"{type(self).__name__} has no rsample; use sample and log_prob")

    def sample_n(self, n: int) -> Tensor:
        """n draws: `sample((n,))`."""
        return self.sample((n,))

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density, or of the probability, at `value`."""
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most `value`."""
        raise NotImplementedError(f"{type(self).__name__} has no cdf")

    def icdf(self, value: Tensor) -> Tensor:
        """The value that is not exceeded with a probability: the inverse of `cdf`."""
        raise NotImplementedError(f"{type(self).__name__} has no icdf")

    def entropy(self) -> Tensor:
        """The mean of -log_prob."""
        raise NotImplementedError

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, along a new first dimension."""
        raise NotImplementedError(f"{type(self).__name__} has no enumerate_support")

    def _divergence(self, other: Any) -> Tensor:
        """The Kullback-Leibler divergence from another one of this kind."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """The expected value."""
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        """The most probable value."""
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        """The mean square of the distance from the mean."""
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        """√variance"""
        return self.variance.sqrt()

    def perplexity(self) -> Tensor:
        """exp(entropy)"""
        return self.entropy().exp()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same distribution with a larger batch shape, in the same memory."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.batch_shape = Size(batch_shape)
        for name in self.arguments:
            if name in new.__dict__:
                value = new.__dict__[name]
                last = value.shape[len(self.batch_shape) :]
                new.__dict__[name] = value.expand(*new.batch_shape, *last)
        return new

    def __repr__(self) -> str:
        values = {name: self.__dict__[name] for name in self.arguments if name in self.__dict__}
        shown = (f"{k}: {v if v.numel() == 1 else v.size()}" for k, v in values.items())
        return f"{type(self).__name__}({', '.join(shown)})"


def tensors(*values: Any) -> list[Tensor]:
    """Numbers and tensors as tensors of one shape; numbers take the dtype of the first tensor."""
    like = next((x for x in values if isinstance(x, Tensor)), None)
    if any(not isinstance(x, Tensor | int | float) for x in values):
        kinds = ", ".join(type(x).__name__ for x in values)
        raise ValueError(f"distributions: expected numbers or Tensors as arguments, got {kinds}")
    if like is None:
        made = [tensor(float(x)) for x in values]
    else:
        made = [
            x if isinstance(x, Tensor) else tensor(x, dtype=like.dtype, device=like.device)
            for x in values
        ]
    return list(ops.broadcast_tensors(*made))


def blank(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory to draw into, made by ops, which a compiled step replays."""
    made: Tensor = ops.zeros_like(like.detach().expand(*shape).contiguous())
    return made
