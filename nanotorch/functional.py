"""The functions that `torch.functional` has beside `torch`, and `F`, the layers as functions."""

from nanotorch.nn import functional as functional
from nanotorch.ops import (
    broadcast_tensors as broadcast_tensors,
    cdist as cdist,
    einsum as einsum,
    meshgrid as meshgrid,
    norm as norm,
    split as split,
    tensordot as tensordot,
    unique as unique,
)

F = functional
