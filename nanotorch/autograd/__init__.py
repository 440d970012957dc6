"""Automatic differentiation: recording and walking back, and the modes that steer them."""

from typing import TYPE_CHECKING

from nanotorch.autograd import graph as graph
from nanotorch.autograd.backward import backward as backward, grad as grad
from nanotorch.autograd.grad_mode import (
    enable_grad as enable_grad,
    inference_mode as inference_mode,
    is_grad_enabled as is_grad_enabled,
    is_inference_mode_enabled as is_inference_mode_enabled,
    no_grad as no_grad,
    pause as pause,
    record as record,
    set_grad_enabled as set_grad_enabled,
)
from nanotorch.autograd.graph import (
    detect_anomaly as detect_anomaly,
    set_detect_anomaly as set_detect_anomaly,
)
from nanotorch.backend.loading import on_demand

if TYPE_CHECKING:
    from nanotorch.autograd import (
        forward_ad as forward_ad,
        function as function,
        functional as functional,
    )
    from nanotorch.autograd.function import Function as Function
    from nanotorch.autograd.gradcheck import (
        GradcheckError as GradcheckError,
        gradcheck as gradcheck,
        gradgradcheck as gradgradcheck,
    )
    from nanotorch.spellings import Variable as Variable
else:
    __getattr__, __dir__ = on_demand(__name__)
