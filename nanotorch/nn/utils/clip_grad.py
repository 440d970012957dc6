"""Clipping gradients in place, by their norm or by value.

On a CUDA device, clipping only launches kernels: nothing is copied between host and device, and the
host waits only for `error_if_nonfinite`. Three launches clip up to 64 gradients by the 2-norm.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from nanotorch.autograd.grad_mode import live
from nanotorch.backend import (
    HOST,
    Array,
    array_module,
    constant,
    cuda_parts,
    device_of,
    on_device_of,
    stored,
    to_device,
)
from nanotorch.backend.halves import is_half, widened
from nanotorch.creation import zeros
from nanotorch.ops.joining import stack
from nanotorch.tensor import Tensor


def _listed(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        return [tensors]
    members = list(tensors)
    if not members and isinstance(tensors, Iterator):
        warnings.warn(
            "clip_grad: the parameters are an empty generator, so nothing is clipped; was it used "
            "up before? pass model.parameters() itself",
            stacklevel=4,
        )
    return members


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in _listed(parameters) if p.grad is not None]


def _norm(xp: Any, array: Array, p: float) -> Array:
    """‖array‖ₚ over all entries, as a 0-dim array."""
    if is_half(array):
        return _norm(xp, widened(array), p).astype(array.dtype)
    if p == math.inf:
        return xp.asarray(xp.abs(array).max())
    if p == 2:
        flat = array.reshape(-1)
        return xp.asarray(xp.sqrt(flat @ flat))
    return xp.asarray((xp.abs(array) ** p).sum() ** (1.0 / p), dtype=array.dtype)


def _on_host(arrays: list[Array]) -> bool:
    """Whether all are on the CPU and of one dtype, float32 or float64."""
    return bool(arrays) and all(
        type(a) is HOST.ndarray and a.dtype.char in "fd" and a.dtype is arrays[0].dtype
        for a in arrays
    )


def _host_norm(arrays: list[Array]) -> float:
    """The 2-norm of all as one vector: sums of squares by BLAS, added up in float64."""
    square = 0.0
    for array in arrays:
        flat = array.reshape(-1)
        square += float(flat.dot(flat))
    return math.sqrt(square)


def _fused(arrays: list[Array]) -> bool:
    """Whether our CUDA kernels take all: on one CUDA device, in dense memory."""
    if not arrays or array_module(arrays[0]) is HOST:
        return False
    xp, home = array_module(arrays[0]), device_of(arrays[0])
    return all(
        array_module(a) is xp and device_of(a) == home and cuda_parts.tables.takes(xp, a)
        for a in arrays
    )


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The p-norm of all tensors as if they were one vector, as a 0-dim tensor (0 for none).

    RuntimeError where `error_if_nonfinite` and the norm is NaN or infinite: to know, the host waits
    for the device.
    """
    arrays = [stored(tensor._array) for tensor in _listed(tensors)]
    if not arrays:
        return zeros(())
    xp, p = array_module(arrays[0]), float(norm_type)
    if p == 2 and _on_host(arrays):
        return _checked(HOST.asarray(_host_norm(arrays), arrays[0].dtype), p, error_if_nonfinite)
    if p == 2 and _fused(arrays):
        with on_device_of(arrays[0]):
            return _checked(
                cuda_parts.tables.norm_of(xp, arrays, math.inf)[0], p, error_if_nonfinite
            )
    home, norms = device_of(arrays[0]), []
    for array in arrays:
        with on_device_of(array):
            norms.append(to_device(_norm(xp, array, p), home))
    with on_device_of(arrays[0]):
        return _checked(_norm(xp, stack(norms), p), p, error_if_nonfinite)


def _checked(norm: Array, p: float, error_if_nonfinite: bool) -> Tensor:
    total = Tensor._wrap(norm)
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(
            f"The total norm of order {p} for gradients is {total.item()}, so it cannot be "
            "clipped; to scale the gradients by it anyway, set error_if_nonfinite=False"
        )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """g ← g · min(1, max_norm / (total_norm + 1e-6)) for the gradients of the parameters."""
    _scale(_gradients(parameters), max_norm, total_norm)


def _scale(gradients: list[Tensor], max_norm: float, total_norm: Tensor) -> None:
    if not gradients:
        return
    xp = array_module(gradients[0]._array)
    total = total_norm._array
    with on_device_of(total):
        factor = xp.minimum(float(max_norm) / (total + total.dtype.type(1e-6)), 1)
    for gradient in gradients:
        array = stored(gradient._array)
        with on_device_of(array):
            array *= to_device(factor, device_of(array)).astype(array.dtype)
        gradient._bump()


@live
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales the gradients in place so that their norm as one vector is at most `max_norm`.

    Returns the norm before. RuntimeError where `error_if_nonfinite` and it is NaN or infinite.
    Parameters without gradient do not count.
    """
    gradients, p = _gradients(parameters), float(norm_type)
    arrays = [stored(gradient._array) for gradient in gradients]
    if p == 2 and _on_host(arrays):
        norm = _host_norm(arrays)
        total = _checked(HOST.asarray(norm, arrays[0].dtype), p, error_if_nonfinite)
        factor = float(max_norm) / (norm + 1e-6)
        if not factor >= 1:  # which NaN is not, and it spreads
            by = HOST.asarray(factor, arrays[0].dtype)
            for array in arrays:
                HOST.multiply(array, by, array)
    elif p == 2 and _fused(arrays):
        xp = array_module(arrays[0])
        with on_device_of(arrays[0]):
            device_norm, device_factor = cuda_parts.tables.norm_of(xp, arrays, float(max_norm))
            total = _checked(device_norm, p, error_if_nonfinite)
            cuda_parts.tables.scale_by(xp, arrays, device_factor)
    else:
        total = get_total_norm(gradients, p, error_if_nonfinite)
        _scale(gradients, max_norm, total)
        return total
    for gradient in gradients:
        gradient._bump()
    return total


@live
def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """g ← min(max(g, -clip_value), clip_value), in place, for the gradients of the parameters."""
    limit = float(clip_value)
    for gradient in _gradients(parameters):
        array = stored(gradient._array)
        low, high = constant(array, -limit), constant(array, limit)
        with on_device_of(array):
            if type(array) is HOST.ndarray and is_half(array):
                HOST.copyto(array, widened(array).clip(low, high), casting="unsafe")
            else:
                array.clip(low, high, out=array)
        gradient._bump()
