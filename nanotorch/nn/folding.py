"""Windows as columns, and back: `unfold` and `fold`."""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops
from nanotorch.nn.module import Module
from nanotorch.nn.windows import Fold as FoldColumns, Unfold as UnfoldColumns, Windows, each
from nanotorch.primitive import apply
from nanotorch.tensor import Tensor


def _windows(kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Windows:
    around = each(padding, 2, "padding")
    return Windows(
        each(kernel_size, 2, "kernel_size"), each(stride, 2, "stride"),
        tuple((p, p) for p in around), each(dilation, 2, "dilation"),
    )  # fmt: skip


def unfold(
    input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """The windows of (N, C, H, W) or (C, H, W) as columns: (N, C · size, windows)."""
    if input.ndim not in (3, 4):
        raise RuntimeError(
            f"unfold: Expected 3D or 4D input, but got input of size {list(input.shape)}"
        )
    windows = _windows(kernel_size, dilation, padding, stride)
    batch = input if input.ndim == 4 else input.unsqueeze(0)
    if min(windows.counts(batch.shape[2:])) <= 0:
        raise RuntimeError(
            f"unfold: the input, {list(batch.shape[2:])}, is too small for windows of size "
            f"{windows.size}"
        )
    y: Any = apply(UnfoldColumns, batch, windows=windows)
    return y if batch is input else ops.squeeze(y, 0)  # type: ignore[no-any-return]


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
    stride: Any = 1,
) -> Tensor:  # fmt: skip
    """The sum of columns (N, C · size, windows) at the elements of (N, C, *output_size)."""
    windows, shape = _windows(kernel_size, dilation, padding, stride), each(output_size, 2, "fold")
    if input.ndim not in (2, 3):
        raise RuntimeError(
            f"fold: Expected 2D or 3D input, but got input of size {list(input.shape)}"
        )
    batch = input if input.ndim == 3 else input.unsqueeze(0)
    columns, count = math.prod(windows.size), math.prod(windows.counts(shape))
    if batch.shape[1] % columns or batch.shape[2] != count:
        raise RuntimeError(
            f"fold: expected (N, a multiple of {columns}, {count}) for windows of size "
            f"{windows.size} over {shape}, got {tuple(batch.shape)}"
        )
    y: Any = apply(FoldColumns, batch, shape=shape, windows=windows)
    return y if batch is input else ops.squeeze(y, 0)  # type: ignore[no-any-return]


class Unfold(Module):
    """y = the windows of x as columns."""

    def __init__(
        self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__()
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) to (N, C · size, windows), or both without N."""
        return unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Fold(Unfold):
    """y = the sum of columns at the elements that they show."""

    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
        stride: Any = 1,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C · size, windows) to (N, C, *output_size), or both without N."""
        options = (self.kernel_size, self.dilation, self.padding, self.stride)
        return fold(input, self.output_size, *options)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"
