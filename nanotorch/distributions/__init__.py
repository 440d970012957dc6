"""Random variables with densities, as `torch.distributions` names them: what a course uses."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand

if TYPE_CHECKING:
    from nanotorch.distributions import (
        bernoulli as bernoulli,
        categorical as categorical,
        distribution as distribution,
        kl as kl,
        normal as normal,
        uniform as uniform,
    )
    from nanotorch.distributions.bernoulli import Bernoulli as Bernoulli
    from nanotorch.distributions.categorical import Categorical as Categorical
    from nanotorch.distributions.distribution import Distribution as Distribution
    from nanotorch.distributions.kl import kl_divergence as kl_divergence
    from nanotorch.distributions.normal import Normal as Normal
    from nanotorch.distributions.uniform import Uniform as Uniform
else:
    __getattr__, __dir__ = on_demand(__name__)
