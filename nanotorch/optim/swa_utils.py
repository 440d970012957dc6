"""Averages of a model's weights, under PyTorch's name; see `nanotorch.averaging`."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand

if TYPE_CHECKING:
    from nanotorch.averaging import (
        SWALR as SWALR,
        AveragedModel as AveragedModel,
        get_ema_avg_fn as get_ema_avg_fn,
        get_ema_multi_avg_fn as get_ema_multi_avg_fn,
        get_swa_avg_fn as get_swa_avg_fn,
        get_swa_multi_avg_fn as get_swa_multi_avg_fn,
        update_bn as update_bn,
    )
else:
    __getattr__, __dir__ = on_demand(__name__)
