"""Layers that put elements around their input."""

from __future__ import annotations

from typing import Any

from nanotorch.nn.functional import pad
from nanotorch.nn.module import Module
from nanotorch.tensor import Tensor


class _Pad(Module):
    dims = 2
    mode = "constant"

    def __init__(self, padding: Any) -> None:
        super().__init__()
        count = 2 * self.dims
        self.padding = (padding,) * count if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != count:
            raise ValueError(
                f"{type(self).__name__}: expected an int or {count} of them, got {padding}"
            )

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, *) to the same with the padding, or both without N."""
        return pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad2d(_Pad):
    """y = x with a constant around it; `padding` is (left, right, top, bottom), or one number."""

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, *) to the same with the padding, or both without N."""
        return pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(ConstantPad2d):
    """y = x with a constant before and after it; `padding` is (left, right), or one number."""

    dims = 1


class ZeroPad2d(ConstantPad2d):
    """y = x with zeros around it; `padding` is (left, right, top, bottom), or one number."""

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad1d(ZeroPad2d):
    """y = x with zeros before and after it; `padding` is (left, right), or one number."""

    dims = 1


class ReflectionPad2d(_Pad):
    """y = x, mirrored at its border elements."""

    mode = "reflect"


class ReflectionPad1d(ReflectionPad2d):
    """y = x, mirrored at its border elements."""

    dims = 1


class ReplicationPad2d(_Pad):
    """y = x, with its border elements repeated."""

    mode = "replicate"


class ReplicationPad1d(ReplicationPad2d):
    """y = x, with its border elements repeated."""

    dims = 1


class CircularPad2d(_Pad):
    """y = x, going on at its other end."""

    mode = "circular"


class CircularPad1d(CircularPad2d):
    """y = x, going on at its other end."""

    dims = 1
