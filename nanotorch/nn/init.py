"""Initial values for tensors; the numbers for a seed are PyTorch's.

Every function works in place, records nothing, and returns the tensor. `generator` is the source of
random numbers, the default one where None. Source:
https://docs.pytorch.org/docs/stable/nn.init.html
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy

from nanotorch import random
from nanotorch.autograd.grad_mode import no_grad
from nanotorch.backend import array_module, to_device
from nanotorch.random import Generator
from nanotorch.tensor import Tensor

SQRT_3 = math.sqrt(3.0)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity scales inputs: √2 for relu, 5/3 for tanh, 1 for linear.

    `param` is the negative slope of "leaky_relu" (0.01 where None). ValueError for an unknown name.
    """
    if nonlinearity in ("linear", "sigmoid") or nonlinearity.startswith("conv"):
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise ValueError(f"calculate_gain: expected a number as negative_slope, got {slope!r}")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"calculate_gain: unsupported nonlinearity {nonlinearity!r}")


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Draws from the uniform distribution on [a, b)."""
    with no_grad():
        return random.uniform_(tensor, a, b, generator=generator)  # type: ignore[no-any-return]


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Draws from the normal distribution."""
    with no_grad():
        return random.normal_(tensor, mean, std, generator=generator)  # type: ignore[no-any-return]


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fills with `val`."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fills with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fills with 0."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """Makes a (rows, columns) tensor the identity; ValueError unless it has 2 dimensions."""
    if tensor.ndim != 2:
        raise ValueError(
            f"eye_: expected a tensor with 2 dimensions, got shape {tuple(tensor.shape)}"
        )
    return _put(tensor, numpy.eye(*tensor.shape))


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform on ±gain · √(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    fan_in, fan_out = _fans(tensor)
    bound = SQRT_3 * (gain * math.sqrt(2.0 / float(fan_in + fan_out)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with deviation gain · √(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    fan_in, fan_out = _fans(tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / float(fan_in + fan_out)), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform on ±gain · √(3 / fan), with a the negative slope of a leaky relu (He et al., 2015).

    `mode` "fan_in" keeps the variance of the forward pass, "fan_out" that of the backward pass.
    """
    if _is_empty(tensor):
        return tensor
    bound = SQRT_3 * _kaiming_deviation(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with deviation gain / √fan, a the negative slope of a leaky relu (He et al., 2015)."""
    if _is_empty(tensor):
        return tensor
    return normal_(tensor, 0.0, _kaiming_deviation(tensor, a, mode, nonlinearity), generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Draws from the normal distribution until every value lies in [a, b].

    Where [a, b] holds little of the normal's mass, draws uniform candidates instead and accepts
    each with the probability that the density gives it. UserWarning where the mean is far outside.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "trunc_normal_: mean is more than 2 std from [a, b]; the distribution may be incorrect",
            stacklevel=2,
        )
    below = [(1.0 + math.erf((end - mean) / std / math.sqrt(2.0))) / 2.0 for end in (a, b)]
    with no_grad():
        if below[1] - below[0] > 0.3:
            return _redrawn_normal(tensor, mean, std, a, b, generator)
        return _accepted_uniform(tensor, mean, std, a, b, generator)


def _redrawn_normal(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Generator | None
) -> Tensor:
    array = random.normal_(tensor, mean, std, generator=generator)._array
    low, high = array.dtype.type(a), array.dtype.type(b)
    fresh = Tensor._wrap(array.copy())
    while bool((outside := (array < low) | (array > high)).any()):
        array[outside] = random.normal_(fresh, mean, std, generator=generator)._array[outside]
    tensor._bump()
    return tensor


def _accepted_uniform(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Generator | None
) -> Tensor:
    mode = max(a, min(mean, b))
    peak = -0.5 * ((mode - mean) / std) ** 2
    array = random.uniform_(tensor, a, b, generator=generator)._array
    candidates, chance = Tensor._wrap(array.copy()), Tensor._wrap(array.copy())

    def rejected() -> numpy.ndarray:
        value = candidates._array - array.dtype.type(mean)
        value /= array.dtype.type(std)
        log_density = value**2 * array.dtype.type(-0.5) - array.dtype.type(peak)
        with numpy.errstate(divide="ignore"):
            bar = array_module(array).log(random.uniform_(chance, generator=generator)._array)
        return bar > log_density  # type: ignore[no-any-return]

    pending = rejected()
    while bool(pending.any()):
        random.uniform_(candidates, a, b, generator=generator)
        array[pending] = candidates._array[pending]
        pending &= rejected()
    tensor._bump()
    return tensor


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """gain times a (semi-)orthogonal matrix: the Q of a normal matrix (Saxe et al., 2014).

    A tensor of more than 2 dimensions counts as (first, product of the others). ValueError below 2.
    """
    if tensor.ndim < 2:
        raise ValueError(
            "orthogonal_: expected a tensor with 2 or more dimensions, "
            f"got shape {tuple(tensor.shape)}"
        )
    if tensor.numel() == 0:
        return tensor
    rows = tensor.shape[0]
    matrix = numpy.empty((rows, tensor.numel() // rows), dtype=tensor.dtype.numpy)
    normal_(Tensor._wrap(matrix), 0, 1, generator)
    wide = matrix.shape[0] < matrix.shape[1]
    q, r = numpy.linalg.qr(matrix.T if wide else matrix)
    q *= numpy.sign(numpy.diagonal(r))
    return _put(tensor, (q.T if wide else q).reshape(tensor.shape) * q.dtype.type(gain))


def sparse_(
    tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None
) -> Tensor:
    """Normal, with the share `sparsity` of each column set to 0 (Martens, 2010)."""
    if tensor.ndim != 2:
        raise ValueError(
            f"sparse_: expected a tensor with 2 dimensions, got shape {tuple(tensor.shape)}"
        )
    rows, columns = tensor.shape
    normal_(tensor, 0, std, generator)
    for column in range(columns):
        tensor._array[random.randperm(rows)._array[: math.ceil(sparsity * rows)], column] = 0
    tensor._bump()
    return tensor


def _put(tensor: Tensor, values: numpy.ndarray) -> Tensor:
    """Writes host values into the tensor's memory."""
    array = tensor._array
    array[...] = to_device(values.astype(array.dtype), tensor.device)
    tensor._bump()
    return tensor


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of shape (out, in, *receptive field)."""
    if tensor.ndim < 2:
        raise ValueError(
            "fan in and fan out can not be computed for a tensor with fewer than 2 dimensions, "
            f"got shape {tuple(tensor.shape)}"
        )
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


_calculate_fan_in_and_fan_out = _fans  # the name under which much published code imports it


def _kaiming_deviation(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode.lower() not in ("fan_in", "fan_out"):
        raise ValueError(f"expected mode 'fan_in' or 'fan_out', got {mode!r}")
    fan_in, fan_out = _fans(tensor)
    fan = fan_in if mode.lower() == "fan_in" else fan_out
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _is_empty(tensor: Tensor) -> bool:
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return True
    return False


def __getattr__(name: str) -> Callable[..., Tensor]:
    """The old spellings without an underscore, which warn: `xavier_uniform` for
    `xavier_uniform_`."""
    if f"{name}_" not in OLD_SPELLINGS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function: Callable[..., Tensor] = globals()[f"{name}_"]

    @functools.wraps(function)
    def spelled(*args: Any, **options: Any) -> Tensor:
        warnings.warn(
            f"`nn.init.{name}` is now deprecated in favor of `nn.init.{name}_`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **options)

    return spelled


OLD_SPELLINGS = {
    *("constant_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "orthogonal_"),
    *("sparse_", "uniform_", "xavier_normal_", "xavier_uniform_"),
}
