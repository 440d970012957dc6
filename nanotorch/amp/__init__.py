"""Mixed precision: `autocast` picks a dtype for each op, `GradScaler` keeps small gradients."""

from typing import TYPE_CHECKING

from nanotorch.amp.autocast_mode import (
    autocast as autocast,
    custom_bwd as custom_bwd,
    custom_fwd as custom_fwd,
    is_autocast_available as is_autocast_available,
)
from nanotorch.backend.loading import on_demand

if TYPE_CHECKING:
    from nanotorch.amp.grad_scaler import GradScaler as GradScaler
else:
    __getattr__, __dir__ = on_demand(__name__)
