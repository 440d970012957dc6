"""Resizing of images and signals: nearest elements, or weighted means of neighbours."""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops
from nanotorch.backend import HOST, Array
from nanotorch.backend.dtypes import uint8
from nanotorch.creation import tensor
from nanotorch.nn.module import Module
from nanotorch.nn.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d
from nanotorch.ops.operand_dtypes import needs_floats
from nanotorch.tensor import Tensor

LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}  # how many dimensions each is for


def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:  # fmt: skip
    """(N, C, *) with other sizes: `size`, or the input's times `scale_factor`.

    mode: "nearest", "nearest-exact", "linear" (1 dimension), "bilinear" (2), "trilinear" (3),
    "area". `align_corners`: whether the outer elements' centres stay where they are.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html
    """
    x: Any = input
    if x.dtype is not uint8:  # of images, which PyTorch resizes
        needs_floats("interpolate", x)
    dims = x.ndim - 2
    if mode not in LINEAR and mode not in ("nearest", "nearest-exact", "area"):
        raise NotImplementedError(
            f"interpolate: expected mode 'nearest', 'nearest-exact', 'linear', 'bilinear', "
            f"'trilinear' or 'area', got {mode!r}"
        )
    if antialias:
        raise NotImplementedError("interpolate: antialias=True is not there")
    if mode not in LINEAR and align_corners is not None:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear "
            "| trilinear"
        )
    if LINEAR.get(mode, dims) != dims or dims < 1:
        raise NotImplementedError(
            f"interpolate: mode {mode!r} takes {LINEAR.get(mode, 1) + 2}D input, got {x.ndim}D"
        )
    sizes, factors = _sizes(x, dims, size, scale_factor)
    if factors is None or recompute_scale_factor or mode == "area":
        factors = [None] * dims
    if mode == "area":
        pool = adaptive_avg_pool1d if dims == 1 else adaptive_avg_pool2d
        return pool(x, sizes[0] if dims == 1 else sizes)
    for number in range(dims)[::-1]:  # the short rows of the last dimension while they are few
        n, dim, count, factor = x.shape[2 + number], 2 + number, sizes[number], factors[number]
        if mode in LINEAR:
            x = _linear(x, dim, n, count, factor, bool(align_corners))
        elif count == n and factor is None:
            continue
        else:
            step = n / count if factor is None else 1 / factor
            shift = 0.5 if mode == "nearest-exact" else 0.0
            places = HOST.floor((HOST.arange(count) + shift) * step).astype("l")
            x = _selected(x, dim, HOST.minimum(places, n - 1))
    # In memory of its own, also where no size is another.
    return x.clone() if x is input or x._base is not None else x  # type: ignore[no-any-return]


def _sizes(x: Any, dims: int, size: Any, factor: Any) -> tuple[tuple[int, ...], Any]:
    """(the sizes, the factors or None)."""
    if size is not None and factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and factor is None:
        raise ValueError("either size or scale_factor should be defined")
    given = factor if size is None else size
    values = list(given) if isinstance(given, tuple | list) else [given] * dims
    if len(values) != dims:
        raise ValueError(
            f"interpolate: expected {dims} numbers for an input with spatial dimensions of "
            f"{list(x.shape[2:])}, got {given}"
        )
    if size is None:
        sizes = tuple(math.floor(n * f) for n, f in zip(x.shape[2:], values, strict=True))
    else:
        sizes = tuple(int(v) for v in values)
    if min(sizes) <= 0:
        raise RuntimeError(
            "Input and output sizes should be greater than 0, but got input "
            f"{list(x.shape[2:])} and output {list(sizes)}"
        )
    return sizes, (values if size is None else None)


def _selected(x: Any, dim: int, places: Array) -> Any:
    """The slices of x at these places: by a view where each comes equally often."""
    n = x.shape[dim]
    times, rest = divmod(len(places), n)
    if rest or not times or (places != HOST.arange(len(places)) // times).any():
        return ops.index_select(x, dim, tensor(places, device=x.device))
    wide = ops.unsqueeze(x, dim + 1)
    shape = (*x.shape[: dim + 1], times, *x.shape[dim + 1 :])
    return ops.reshape(ops.expand(wide, shape), (*x.shape[:dim], n * times, *x.shape[dim + 1 :]))


def _linear(x: Any, dim: int, n: int, count: int, factor: Any, corners: bool) -> Any:
    """x with `count` elements along `dim`, each between two neighbours."""
    if corners:
        step = (n - 1) / (count - 1) if count > 1 else 0.0
        places = HOST.arange(count) * step
    else:
        step = n / count if factor is None else 1 / factor
        places = HOST.maximum((HOST.arange(count) + 0.5) * step - 0.5, 0.0)
    left = HOST.minimum(places.astype("l"), n - 1)
    weight = tensor(places - left, dtype=x.dtype, device=x.device)
    weight = weight.reshape(-1, *(1,) * (x.ndim - 1 - dim))
    neighbours = (left, HOST.minimum(left + 1, n - 1))
    a, b = (ops.index_select(x, dim, tensor(part, device=x.device)) for part in neighbours)
    return a * (1 - weight) + b * weight


upsample = interpolate


class Upsample(Module):
    """y = x with other sizes; see `interpolate`."""

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
        align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.mode, self.align_corners = size, mode, align_corners
        several = isinstance(scale_factor, tuple | list)
        self.scale_factor = (
            tuple(float(f) for f in scale_factor)
            if several
            else float(scale_factor)
            if scale_factor
            else None
        )
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, *) to (N, C, *size)."""
        return interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners,
            self.recompute_scale_factor,
        )  # fmt: skip

    def extra_repr(self) -> str:
        by_size = self.scale_factor is None
        what = f"size={self.size!r}" if by_size else f"scale_factor={self.scale_factor!r}"
        return f"{what}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """y = x with each element several times."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """y = x with weighted means of neighbours between, the corners where they are."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)
