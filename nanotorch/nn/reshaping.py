"""Layers that compute nothing: the identity, and those that move elements to other shapes."""

from __future__ import annotations

from typing import Any

from nanotorch.nn.module import Module
from nanotorch.ops.casting import contiguous_copy
from nanotorch.tensor import Tensor


class Identity(Module):
    """y = x; the arguments of the constructor are ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: any, to the same."""
        return input


class Flatten(Module):
    """Makes one dimension of `start_dim` to `end_dim`: (N, C, H) to (N, C · H)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        flat: Tensor = input.flatten(self.start_dim, self.end_dim)
        return flat

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Makes several dimensions of `dim`: (N, C · H) to (N, C, H)."""

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        super().__init__()
        if not isinstance(unflattened_size, tuple | list) or not all(
            isinstance(size, int) for size in unflattened_size
        ):
            raise TypeError(
                f"unflattened_size must be a tuple of ints, but found {unflattened_size!r}"
            )
        self.dim, self.unflattened_size = dim, unflattened_size

    def forward(self, input: Tensor) -> Tensor:
        unflat: Tensor = input.unflatten(self.dim, self.unflattened_size)
        return unflat

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class PixelShuffle(Module):
    """(N, C · r², H, W) to (N, C, H · r, W · r): r² channels become the pixels of blocks (r, r)."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(N, C, H · r, W · r) to (N, C · r², H, W): the reverse of `PixelShuffle`."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Deals the channels of (N, C, *) to C / groups places, as cards are (Zhang et al., 2017)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        return channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C · r², H, W) to (*, C, H · r, W · r), with r the factor (Shi et al., 2016)."""
    *batch, channels, height, width = _image("pixel_shuffle", input)
    r = upscale_factor
    if r < 1 or channels % (r * r):
        raise RuntimeError(
            f"pixel_shuffle: expected channels that are a multiple of {r} x {r}, got shape "
            f"{tuple(input.shape)}"
        )
    x = input.reshape(*batch, channels // r**2, r, r, height, width)
    y: Tensor = x.movedim((-4, -3), (-3, -1))
    return _copied(y, (*batch, channels // r**2, height * r, width * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H · r, W · r) to (*, C · r², H, W), with r the factor."""
    *batch, channels, height, width = _image("pixel_unshuffle", input)
    r = downscale_factor
    if r < 1 or height % r or width % r:
        raise RuntimeError(
            f"pixel_unshuffle: expected a height and width that are multiples of {r}, got shape "
            f"{tuple(input.shape)}"
        )
    x = input.reshape(*batch, channels, height // r, r, width // r, r)
    y: Tensor = x.movedim((-3, -1), (-4, -3))
    return _copied(y, (*batch, channels * r**2, height // r, width // r))


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """(N, groups · C, *) to the same shape: the first channels of all groups, the second ones …"""
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise RuntimeError(
            f"channel_shuffle: expected (N, C, *) with channels that are a multiple of {groups}, "
            f"got shape {tuple(input.shape)}"
        )
    x = input.reshape(input.shape[0], groups, -1, *input.shape[2:])
    y: Tensor = x.transpose(1, 2)
    return _copied(y, input.shape)


def _copied(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x in that shape and in contiguous memory of its own, also where nothing has moved."""
    y: Tensor = x.reshape(shape)
    return y if y._base is None else contiguous_copy(y)


def _image(name: str, input: Tensor) -> tuple[int, ...]:
    if input.ndim < 3:
        raise RuntimeError(
            f"{name}: expected (*, channels, height, width), got shape {tuple(input.shape)}"
        )
    return tuple(input.shape)
