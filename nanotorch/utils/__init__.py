"""Data loading (`utils.data`), recomputation (`utils.checkpoint`) and TensorBoard's files
(`utils.tensorboard`), under PyTorch's names."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand

if TYPE_CHECKING:
    from nanotorch.utils import checkpoint as checkpoint, data as data, tensorboard as tensorboard
else:
    __getattr__, __dir__ = on_demand(__name__)
