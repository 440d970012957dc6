"""Gradient clipping, parameters as one vector, packed sequences: `torch.nn.utils`."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand
from nanotorch.nn.utils.clip_grad import (
    clip_grad_norm_ as clip_grad_norm_,
    clip_grad_value_ as clip_grad_value_,
    clip_grads_with_norm_ as clip_grads_with_norm_,
    get_total_norm as get_total_norm,
)
from nanotorch.nn.utils.convert_parameters import (
    parameters_to_vector as parameters_to_vector,
    vector_to_parameters as vector_to_parameters,
)

if TYPE_CHECKING:
    from nanotorch.nn.utils import (
        parametrizations as parametrizations,
        parametrize as parametrize,
        rnn as rnn,
    )
    from nanotorch.nn.utils.spectral_normalization import (
        remove_spectral_norm as remove_spectral_norm,
        spectral_norm as spectral_norm,
    )
    from nanotorch.nn.utils.weight_normalization import (
        remove_weight_norm as remove_weight_norm,
        weight_norm as weight_norm,
    )
else:
    __getattr__, __dir__ = on_demand(__name__)
