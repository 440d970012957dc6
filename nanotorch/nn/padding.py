"""Padding: constant, by reflection, by repeating the border, or around in a circle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.nn.module import Module
from nanotorch.tensor import Tensor


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """x with elements around it: `pad` holds (before, after) for the last dimension, then for the
    one before it, and so on.

    mode: "constant" puts `value` (0) there, and cuts off where an amount is negative; "reflect"
    mirrors at the border element, "replicate" repeats it, "circular" goes on at the other end.
    """
    if mode == "constant":
        return ops.pad(input, pad, "constant", value)  # type: ignore[no-any-return]
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if len(pad) % 2 or not len(pad) // 2 + 1 <= input.ndim <= len(pad) // 2 + 2:
        raise NotImplementedError(
            f"pad: mode {mode!r} takes (before, after) for the last 1, 2 or 3 dimensions of a "
            f"tensor with channels, got {len(pad)} numbers for shape {tuple(input.shape)}"
        )
    y: Any = input
    for number, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        if before or after:
            y = _around(y, input.ndim - 1 - number, before, after, mode)
    return y  # type: ignore[no-any-return]


def _around(x: Any, dim: int, before: int, after: int, mode: str) -> Any:
    size = x.shape[dim]
    most = {"reflect": size - 1, "circular": size}.get(mode, max(before, after))
    if max(before, after) > most:
        raise RuntimeError(
            f"Padding size should be at most {most} in mode {mode!r}, but got: padding ({before}, "
            f"{after}) at dimension {dim} of input {list(x.shape)}"
        )

    def part(start: int, length: int) -> Any:
        return ops.narrow(x, dim, start, length)

    cut = ops.narrow(x, dim, max(-before, 0), size - max(-before, 0) - max(-after, 0))
    before, after = max(before, 0), max(after, 0)
    if mode == "circular":
        ends = part(size - before, before), part(0, after)
    elif mode == "replicate":
        shape = list(x.shape)
        ends = tuple(
            ops.expand(part(place, 1), (*shape[:dim], count, *shape[dim + 1 :]))
            for place, count in ((0, before), (size - 1, after))
        )
    else:
        ends = (
            ops.flip(part(1, before), (dim,)),
            ops.flip(part(size - 1 - after, after), (dim,)),
        )
    return ops.cat([ends[0], cut, ends[1]], dim)


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
