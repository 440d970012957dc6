"""Data loading (`utils.data`) and recomputation (`utils.checkpoint`), under PyTorch's names."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand

if TYPE_CHECKING:
    from nanotorch.utils import checkpoint as checkpoint, data as data
else:
    __getattr__, __dir__ = on_demand(__name__)
