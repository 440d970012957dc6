"""The loss scale's part of a step: on a CUDA device launches alone, for which nobody waits.

`found_inf` is a 0-dim float32 array, 0 until a gradient was found that is infinite or NaN; the
scale is one as well. On the CPU the same is done by NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch.backend import HOST
from nanotorch.backend.cuda import kernels, tables

Array = Any


def unscale(xp: Any, gradients: Sequence[Array], scale: Array | None, found_inf: Array) -> None:
    """Divides gradients of one device by the scale, if given; found_inf = 1 for infinity or NaN."""
    fused = [g for g in gradients if xp is not HOST and tables.takes(xp, g)]
    for kind in sorted({g.dtype.char for g in fused}):
        rows = [(None, g) for g in fused if g.dtype.char == kind]
        for table in tables.tables_of(rows):
            table.launch(xp, "unscale", kind, tables.NOWHERE if scale is None else scale, found_inf)
    if len(fused) == len(gradients):
        return
    for g in gradients:
        if not any(g is other for other in fused):
            finite = xp.isfinite(g).all()
            xp.maximum(found_inf, xp.logical_not(finite), out=found_inf)
            if scale is not None:
                xp.divide(g, scale, out=g, casting="unsafe")


def grow(
    xp: Any, scale: Array, steps: Array, found_inf: Array, growth: float, backoff: float,
    interval: int,
) -> None:  # fmt: skip
    """The next scale: times `backoff` after infinities, times `growth` after `interval` steps
    without one; `steps` counts them, a 0-dim int32 array. found_inf becomes 0 again."""
    if xp is not HOST and kernels.available(xp):
        factors = xp.float32(growth), xp.float32(backoff), xp.int32(interval)
        arguments = scale, steps, found_inf, *factors
        kernels.launch(xp, "optimizers", "grow", "", (1,), (1,), arguments)
        return
    overflowed = found_inf != 0
    counted = xp.where(overflowed, 0, steps + 1)
    grown = xp.where(counted == interval, scale * growth, scale)
    grown = xp.where(xp.isfinite(grown), grown, scale)
    scale[...] = xp.where(overflowed, scale * backoff, grown)
    steps[...] = xp.where(counted == interval, 0, counted)
    found_inf.fill(0)
