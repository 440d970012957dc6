"""Mixed precision: `autocast` picks a dtype for each op, `GradScaler` keeps small gradients."""

from nanotorch.amp.autocast_mode import (
    autocast as autocast,
    is_autocast_available as is_autocast_available,
)
from nanotorch.amp.grad_scaler import GradScaler as GradScaler
