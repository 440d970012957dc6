"""The Kullback-Leibler divergence."""

from __future__ import annotations

from nanotorch.distributions.distribution import Distribution
from nanotorch.tensor import Tensor


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """Σ p(x) log(p(x) / q(x)), for two distributions of one kind; NotImplementedError for others.

    >>> from nanotorch.distributions import Normal, kl_divergence
    >>> kl_divergence(Normal(1.0, 1.0), Normal(0.0, 1.0))
    tensor(0.5000)
    """
    if isinstance(q, type(p)) or isinstance(p, type(q)):
        return p._divergence(q)
    raise NotImplementedError(
        f"kl_divergence: expected two distributions of one kind, got {type(p).__name__} and "
        f"{type(q).__name__}"
    )
