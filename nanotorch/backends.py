"""Settings of the libraries that compute, under the names of `torch.backends`.

`backends.cuda.matmul.allow_tf32 = True` lets float32 products on a GPU round their operands to TF32
(10 bits of mantissa), as `set_float32_matmul_precision("high")` does; on the CPU nothing changes.
There is no cuDNN and no Apple GPU here: scripts may set their options, which changes nothing.
Source: https://docs.pytorch.org/docs/stable/backends.html
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

from nanotorch.backend import cuda_unavailable_reason
from nanotorch.backend.cuda.cublas import (
    get_float32_matmul_precision as get_float32_matmul_precision,
    set_float32_matmul_precision as set_float32_matmul_precision,
)


class Products:
    """How matrices are multiplied on a GPU."""

    __slots__ = ()

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 products may use TF32; False unless set."""
        return get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        set_float32_matmul_precision("high" if allowed else "highest")

    @property
    def allow_fp16_reduced_precision_reduction(self) -> bool:
        """Whether products of 16 bits may be summed in 16 bits: always False."""
        return False

    allow_bf16_reduced_precision_reduction = allow_fp16_reduced_precision_reduction


cuda = SimpleNamespace(matmul=Products(), is_built=lambda: cuda_unavailable_reason() is None)
cudnn = ModuleType(f"{__name__}.cudnn")
vars(cudnn).update(
    is_available=lambda: False, enabled=False, benchmark=False, deterministic=True, allow_tf32=False
)
sys.modules[cudnn.__name__] = cudnn  # which `import torch.backends.cudnn as cudnn` asks for
mps = SimpleNamespace(is_available=lambda: False, is_built=lambda: False)
