"""Mixed precision on a GPU by the names of older scripts; `nanotorch.amp` has those of today."""

from __future__ import annotations

from nanotorch import amp
from nanotorch.amp.grad_scaler import GradScaler as _GradScaler
from nanotorch.backend import dtype as DType
from nanotorch.backend.dtypes import float16


class autocast(amp.autocast):  # noqa: N801 - PyTorch's name
    """`nanotorch.autocast("cuda", …)`."""

    def __init__(
        self, enabled: bool = True, dtype: DType = float16, cache_enabled: bool = True
    ) -> None:
        super().__init__("cuda", dtype, enabled, cache_enabled)


class GradScaler(_GradScaler):
    """`nanotorch.amp.GradScaler("cuda", …)`."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        super().__init__(
            "cuda", init_scale, growth_factor, backoff_factor, growth_interval, enabled
        )
