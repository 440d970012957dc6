"""Normalization over features (Ba et al., 2016) and over batches (Ioffe and Szegedy, 2015)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.grad_mode import no_grad
from nanotorch.creation import empty, ones, tensor, zeros
from nanotorch.nn import functional as F, init
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.tensor import Tensor


class LayerNorm(Module):
    """y = (x - mean) / √(var + eps) · weight + bias, over the last dimensions.

    The variance is the biased one. `weight` starts at 1, `bias` at 0; both have shape
    normalized_shape, or are None where not `elementwise_affine` (or not `bias`).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        whole = isinstance(normalized_shape, int)
        self.normalized_shape: tuple[int, ...] = (
            (normalized_shape,) if whole else tuple(normalized_shape)  # type: ignore[assignment,arg-type]
        )
        self.eps, self.elementwise_affine = eps, elementwise_affine
        shape = self.normalized_shape
        self.weight: Parameter | None
        self.bias: Parameter | None
        if elementwise_affine:
            self.weight = Parameter(empty(shape, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
        if elementwise_affine and bias:
            self.bias = Parameter(empty(shape, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the weight to 1 and the bias to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (*, normalized_shape) to the same."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """y = x / √(mean(x²) + eps) · weight, over the last dimensions (Zhang and Sennrich, 2019).

    `weight`, of shape normalized_shape, starts at 1, or is None where not `elementwise_affine`.
    """

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        single = isinstance(normalized_shape, int)
        self.normalized_shape: tuple[int, ...] = (
            (normalized_shape,) if single else tuple(normalized_shape)  # type: ignore[assignment,arg-type]
        )
        self.eps, self.elementwise_affine = eps, elementwise_affine
        weight = ones(self.normalized_shape, device=device, dtype=dtype)
        self.register_parameter("weight", Parameter(weight) if elementwise_affine else None)

    def reset_parameters(self) -> None:
        """Sets the weight to 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (*, normalized_shape) to the same."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class GroupNorm(Module):
    """y = (x - mean) / √(var + eps) · weight + bias, over groups of channels (Wu and He, 2018).

    `weight` starts at 1, `bias` at 0, one value per channel, or they are None where not `affine`.
    ValueError where the channels do not divide into the groups.
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels ({num_channels}) must be divisible by "
                f"num_groups ({num_groups})"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.affine = eps, affine
        options = {"device": device, "dtype": dtype}
        weight = Parameter(ones(num_channels, **options)) if affine else None
        self.register_parameter("weight", weight)
        shift = Parameter(zeros(num_channels, **options)) if affine and bias else None
        self.register_parameter("bias", shift)

    def reset_parameters(self) -> None:
        """Sets the weight to 1 and the bias to 0."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, *) to the same, with C = num_channels."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class BatchNorm1d(Module):
    """y = (x - mean) / √(var + eps) · weight + bias, for each channel over the batch (and length).

    In training the batch gives mean and (biased) variance, and the buffers `running_mean` and
    `running_var` (unbiased) move towards them by `momentum` (None: to the average of all batches so
    far). In evaluation the buffers are used, or the batch where not `track_running_stats`.
    """

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    ranks: tuple[int, ...] = (2, 3)
    # As in PyTorch no error where a state without versions, such as a plain dict, has it not.
    _lately_saved = ("num_batches_tracked",)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        options = {"device": device, "dtype": dtype}
        for name, present in (("weight", affine), ("bias", affine and bias)):
            value = Parameter(empty(num_features, **options)) if present else None
            self.register_parameter(name, value)
        for name, start in (
            ("running_mean", zeros(num_features, **options)),
            ("running_var", ones(num_features, **options)),
            ("num_batches_tracked", tensor(0, device=device)),
        ):
            self.register_buffer(name, start if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forgets the statistics of past batches."""
        if self.running_mean is not None:
            init.zeros_(self.running_mean)
        if self.running_var is not None:
            init.ones_(self.running_var)
        if self.num_batches_tracked is not None:
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Sets the weight to 1 and the bias to 0, and forgets the statistics."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check(self, input: Tensor) -> None:
        if input.ndim not in self.ranks:
            expected = " or ".join(f"{rank}D" for rank in self.ranks)
            raise ValueError(f"expected {expected} input (got {input.ndim}D input)")

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C) or (N, C, L) to the same, with C = num_features."""
        self._check(input)
        share = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1.0 / float(self.num_batches_tracked)
        running = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if running else None,
            self.running_var if running else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            share,
            self.eps,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm2d(BatchNorm1d):
    """The same for images: (N, C, H, W) to the same."""

    ranks = (4,)


class InstanceNorm1d(BatchNorm1d):
    """y = (x - mean) / √(var + eps) · weight + bias, for each channel of each sample.

    With `track_running_stats` the means of a batch's statistics move the buffers, which are used in
    evaluation (Ulyanov et al., 2016).
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: Any = None, *,
        bias: bool = True,
    ) -> None:  # fmt: skip
        options = {"device": device, "dtype": dtype, "bias": bias}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, C, *) or (C, *) to the same, with C = num_features."""
        self._check(input)
        single = input.ndim == self.ranks[0]
        x = input.unsqueeze(0) if single else input
        if x.shape[1] != self.num_features:
            found = (
                f"expected input's size at dim={0 if single else 1} to match num_features "
                f"({self.num_features}), but got: {x.shape[1]}."
            )
            if self.affine:
                raise ValueError(found)
            warnings.warn(found, stacklevel=2)
        own = self.training or not self.track_running_stats
        share = 0.1 if self.momentum is None else self.momentum
        y = instance_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, own, share, self.eps
        )
        return y.squeeze(0) if single else y


class InstanceNorm2d(InstanceNorm1d):
    """The same for images: (N, C, H, W) or (C, H, W) to the same."""

    ranks = (3, 4)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """y = x / (k + alpha · mean of x² over `size` neighbouring channels) ** beta: (N, C, *)."""
    if input.ndim < 3:
        raise ValueError(f"expected input of 3 dimensions or more, got {input.ndim}")
    squares = ops.pad((input * input).movedim(1, -1), (size // 2, (size - 1) // 2))
    channels = input.shape[1]
    total: Any = sum(ops.narrow(squares, -1, start, channels) for start in range(size))
    return input / (total.movedim(-1, 1) * (alpha / size) + k) ** beta  # type: ignore[no-any-return]


class LocalResponseNorm(Module):
    """y = x / (k + alpha · mean of x² over `size` neighbouring channels) ** beta: (N, C, *).

    Source: Krizhevsky et al., 2012.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """y = (x - mean) / √(var + eps) · weight + bias for each channel of each sample: (N, C, *).

    ValueError for one value per channel, which has no variance.
    """
    if use_input_stats and math.prod(input.shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 spatial element when training, got input size {input.shape}"
        )
    samples, channels = input.shape[:2]
    if use_input_stats and running_mean is None and running_var is None:
        return F.group_norm(input, channels or 1, weight, bias, eps)
    mean, variance = (x if x is None else x.repeat(samples) for x in (running_mean, running_var))
    flat = input.reshape((1, samples * channels, *input.shape[2:]))
    y: Any = F.batch_norm(flat, mean, variance, None, None, use_input_stats, momentum, eps)
    if use_input_stats:
        for target, values in ((running_mean, mean), (running_var, variance)):
            if target is not None and values is not None:
                with no_grad():
                    target.copy_(values.reshape((samples, channels)).mean(0))
    y, shape = y.reshape(input.shape), (1, -1, *(1,) * (input.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)  # type: ignore[no-any-return]
