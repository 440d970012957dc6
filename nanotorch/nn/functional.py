"""The layers and losses as functions: `torch.nn.functional`.

Source: https://docs.pytorch.org/docs/stable/nn.functional.html
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nanotorch import ops, random
from nanotorch.autograd.grad_mode import in_precision, modes, no_grad
from nanotorch.backend import (
    HOST,
    array_module,
    counting,
    cuda_parts,
    finfo,
    fitting,
    on_device_of,
    order_of_memory,
)
from nanotorch.backend.dtypes import bool_
from nanotorch.backend.loading import on_demand, when_called
from nanotorch.nn.margins import (
    cosine_embedding_loss as cosine_embedding_loss,
    gaussian_nll_loss as gaussian_nll_loss,
    hinge_embedding_loss as hinge_embedding_loss,
    margin_ranking_loss as margin_ranking_loss,
    multi_margin_loss as multi_margin_loss,
    multilabel_soft_margin_loss as multilabel_soft_margin_loss,
    pairwise_distance as pairwise_distance,
    poisson_nll_loss as poisson_nll_loss,
    soft_margin_loss as soft_margin_loss,
    triplet_margin_loss as triplet_margin_loss,
)
from nanotorch.ops.operand_dtypes import alike, needs_floats, normed
from nanotorch.tensor import Tensor

Function = Callable[..., Tensor]

if TYPE_CHECKING:
    from nanotorch.nn.activations import glu as glu
    from nanotorch.nn.connectionist import ctc_loss as ctc_loss
    from nanotorch.nn.convolution import (
        conv1d as conv1d,
        conv2d as conv2d,
        conv_transpose1d as conv_transpose1d,
        conv_transpose2d as conv_transpose2d,
    )
    from nanotorch.nn.dropout import (
        alpha_dropout as alpha_dropout,
        dropout1d as dropout1d,
        dropout2d as dropout2d,
    )
    from nanotorch.nn.embedding import embedding_bag as embedding_bag
    from nanotorch.nn.folding import fold as fold, unfold as unfold
    from nanotorch.nn.multihead import (
        multi_head_attention_forward as multi_head_attention_forward,
    )
    from nanotorch.nn.normalization import (
        instance_norm as instance_norm,
        local_response_norm as local_response_norm,
    )
    from nanotorch.nn.pooling import (
        adaptive_avg_pool1d as adaptive_avg_pool1d,
        adaptive_avg_pool2d as adaptive_avg_pool2d,
        adaptive_max_pool1d as adaptive_max_pool1d,
        adaptive_max_pool2d as adaptive_max_pool2d,
        avg_pool1d as avg_pool1d,
        avg_pool2d as avg_pool2d,
        max_pool1d as max_pool1d,
        max_pool2d as max_pool2d,
    )
    from nanotorch.nn.reshaping import (
        channel_shuffle as channel_shuffle,
        pixel_shuffle as pixel_shuffle,
        pixel_unshuffle as pixel_unshuffle,
    )
    from nanotorch.nn.resizing import interpolate as interpolate, upsample as upsample
    from nanotorch.nn.scaled_dot_product import (
        scaled_dot_product_attention as scaled_dot_product_attention,
    )
else:
    __getattr__, __dir__ = on_demand(__name__)

# What takes PyTorch's arguments already is the op itself.
linear: Function = ops.linear
pad: Function = ops.pad
cosine_similarity: Function = ops.cosine_similarity
sigmoid: Function = ops.sigmoid
tanh: Function = ops.tanh
logsigmoid: Function = ops.logsigmoid
softplus: Function = ops.softplus
gelu: Function = ops.gelu
binary_cross_entropy: Function = ops.binary_cross_entropy
binary_cross_entropy_with_logits: Function = ops.binary_cross_entropy_with_logits
nll_loss: Function = ops.nll_loss
cross_entropy: Function = in_precision("full")(ops.cross_entropy)
_sparse_embedding: Function = when_called("nanotorch.ops.sparse", "embedding")

# Activations


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = max(x, 0), written into x where `inplace`."""
    return _apply(ops.relu, input, inplace)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x / (1 + exp(-x))"""
    return _apply(ops.silu, input, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """y = x where x > 0, else negative_slope · x"""
    return _apply(ops.leaky_relu, input, inplace, negative_slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """y = x where x > 0, else alpha · (exp(x) - 1)"""
    return _apply(ops.elu, input, inplace, alpha)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """y = min(max(x, min_val), max_val)"""
    return _apply(ops.activations.hardtanh, input, inplace, min_val, max_val)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """y = min(max(x, 0), 6)"""
    return hardtanh(input, 0.0, 6.0, inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = scale · elu(x, alpha), with the constants that keep mean 0 and variance 1."""
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return _apply(lambda x: ops.elu(x, alpha) * scale, input, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """y = x where x > 0, else alpha · (exp(x / alpha) - 1)"""
    needs_floats("celu", input)
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    if alpha < 0:
        return _apply(lambda x: ops.where(x > 0, x, ops.expm1(x / alpha) * alpha), input, inplace)
    return _apply(lambda x: ops.elu(x / alpha) * alpha, input, inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x · tanh(log(1 + exp(x)))"""
    return _apply(lambda x: x * ops.tanh(ops.softplus(x)), input, inplace)


def softsign(input: Tensor) -> Tensor:
    """y = x / (1 + |x|)"""
    result: Tensor = input / (1 + ops.abs(input))
    return result


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """y = min(max(x + 3, 0), 6) / 6"""
    needs_floats("hardsigmoid", input)
    return _apply(ops.activations.hardsigmoid, input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x · min(max(x + 3, 0), 6) / 6"""
    return _apply(ops.activations.hardswish, input, inplace)


def tanhshrink(input: Tensor) -> Tensor:
    """y = x - tanh(x)"""
    result: Tensor = input - ops.tanh(input)
    return result


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """y = x where |x| > lambd, else 0"""
    needs_floats("hardshrink", input)
    result: Tensor = ops.where(ops.abs(input) <= lambd, 0, input)
    return result


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """y = x moved towards 0 by lambd, and 0 within it"""
    needs_floats("softshrink", input)
    outside = input - ops.clamp(input, -lambd, lambd)
    result: Tensor = ops.where(outside == 0, 0, outside)
    return result


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """y = x where x > threshold, else value"""
    if input.dtype is bool_:
        raise NotImplementedError("threshold: expected numbers, got booleans")
    value = fitting(value, input._array.dtype)
    return _apply(lambda x: ops.where(x <= threshold, value, x), input, inplace)


@in_precision("short")
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """y = x where x > 0, else weight · x, with one weight or one for each index of dimension 1."""
    alike("prelu", input, weight)
    if weight.numel() != 1:
        channels = input.shape[1] if input.ndim > 1 else 1
        if weight.numel() != channels:
            raise RuntimeError(
                f"prelu: expected {channels} weights for input {tuple(input.shape)}, "
                f"got {weight.numel()}"
            )
        weight = weight.reshape((-1, *[1] * (input.ndim - 2)))
    elif not input.ndim:
        weight = weight.reshape(())
    result: Tensor = input * ops.where(input > 0, 1, weight)
    return result


def _apply(op: Function, input: Tensor, inplace: bool, *options: float) -> Tensor:
    """op(x), or x overwritten by it; the rule of the op may need x, so it is given a copy then."""
    if not inplace:
        return op(input, *options)
    written: Tensor = input.copy_(op(input.clone(), *options))
    return written


def softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """y = exp(x) / Σ exp(x) along `dim`"""
    result: Tensor = ops.softmax(input, _dimension("softmax", input, dim), dtype)
    return result


def softmin(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """y = exp(-x) / Σ exp(-x) along `dim`"""
    result: Tensor = ops.softmax(-input, _dimension("softmin", input, dim), dtype)
    return result


def log_softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """y = x - log Σ exp(x) along `dim`"""
    result: Tensor = ops.log_softmax(input, _dimension("log_softmax", input, dim), dtype)
    return result


def _dimension(name: str, input: Tensor, dim: int | None) -> int:
    """The dimension; where None, the one that PyTorch guesses, with its warning."""
    if dim is not None:
        return dim
    guess = 0 if input.ndim in (0, 1, 3) else 1
    warnings.warn(
        f"{name}: no dim was given and {guess} is assumed; write dim={guess}", stacklevel=3
    )
    return guess


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """y = softmax((logits + Gumbel noise) / tau): samples of a category that have a gradient.

    hard: ones and zeros, with the gradient of the soft samples. `eps` has no effect.
    Source: Jang, Gu and Poole (2017), https://arxiv.org/abs/1611.01144
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    noise = -ops.log(random.exponential_(ops.zeros_like(logits.detach())))
    soft: Tensor = ops.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    place = soft.argmax(dim, keepdim=True)
    chosen: Tensor = ops.zeros_like(soft).scatter(dim, place, 1.0)
    return chosen - soft.detach() + soft


# Layers


@in_precision("own")
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y_o = x1ᵀ W_o x2 + b_o: (*, in1) and (*, in2) with weight (out, in1, in2) to (*, out)."""
    y = ops.einsum("...i,oij,...j->...o", input1, weight, input2)
    result: Tensor = y if bias is None else y + bias
    return result


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element becomes 0 with probability p, else x / (1 - p); y = x where not `training`."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0 or input.numel() == 0:
        return input
    if p == 1:
        result: Tensor = input.mul_(0) if inplace else input * 0
        return result
    array = input._array
    with on_device_of(array):
        noise = Tensor._wrap(order_of_memory.empty_like(array_module(array), array, array.dtype))
        random.keep_(noise, 1 - p)
    result = input.mul_(noise) if inplace else input * noise
    return result


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """y = weight[x], with no gradient for the row `padding_idx`: integers (*) to (*, columns).

    With `sparse` the gradient of the weight, on the CPU, stores the rows of x alone. IndexError for
    a number that is no row; on a GPU when the host next waits for it.
    """
    if max_norm is not None or scale_grad_by_freq:
        name = "scale_grad_by_freq" if max_norm is None else "max_norm"
        raise NotImplementedError(f"embedding: {name} is not part of NanoTorch")
    if input._array.dtype.kind not in "iu":
        raise RuntimeError(f"embedding: expected indices of an integer dtype, got {input.dtype}")
    if weight.ndim != 2:
        raise RuntimeError(f"embedding: expected a weight of 2 dimensions, got {weight.ndim}")
    if sparse:
        padding = None if padding_idx is None else padding_idx % weight.shape[0]
        looked_up: Tensor = _sparse_embedding(weight, input, padding)
        return looked_up
    y: Tensor = ops.indexing.rows(weight, input)
    if padding_idx is None or not weight.requires_grad:
        return y
    is_padding = (input == padding_idx % weight.shape[0]).unsqueeze(-1)
    result: Tensor = ops.where(is_padding, y.detach(), y)
    return result


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean) / √(var + eps) · weight + bias, over the last dimensions.

    RuntimeError where the input's last sizes are others.
    """
    dims = _last_dimensions("layer_norm", input, normalized_shape)
    normed("layer_norm", input, weight, bias)
    wanted = getattr(input, "requires_grad", False) or getattr(weight, "requires_grad", False)
    scores = _scores(input, weight, dims, eps) if modes.grad and wanted else None
    if scores is not None or (weight is not None and _alike(input, weight)):
        fused: Tensor = ops.layer_norm(input, weight, bias, dims, eps, scores)
        return fused
    y = ops.standardize(input, dims, eps)
    return _scaled(y, weight, bias, y)


def _alike(input: Tensor, weight: Tensor | None) -> bool:
    """Whether the weight has the input's dtype, which may be another within autocast."""
    return weight is None or weight._array.dtype == input._array.dtype


def _scores(input: Tensor, weight: Tensor | None, dims: tuple[int, ...], eps: float) -> Any:
    """The standard scores by which the kernels of the CPU normalize; None where others do."""
    return ops.scores_of(input, dims, eps) if _alike(input, weight) else None


def _scaled(y: Tensor, weight: Tensor | None, bias: Tensor | None, like: Tensor) -> Tensor:
    """y · weight + bias, in the dtype of `like`: weights may be wider, as within autocast."""
    y = ops.affine(y, weight, bias)
    return y if y.dtype is like.dtype else y.to(like.dtype)


@ops.casting.rounded_once
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """y = x / √(mean(x²) + eps) · weight, over the last dimensions.

    eps None: that of the dtype, of halves that of float32.

    RuntimeError where the input's last sizes are others.
    """
    if not input.ndim:
        raise ValueError("rms_norm: expected an input of 1 or more dimensions, got ()")
    dims = _last_dimensions("rms_norm", input, normalized_shape)
    least = finfo(input.dtype).eps if eps is None else eps
    input = input.contiguous()  # as the result is to be
    y = input * ops.rsqrt(ops.mean_square(input, dims) + float(least))
    return _scaled(y, weight, None, input)


LEAST_BY_CHANNELS = 16  # elements of a channel, from which on its sums are worth taking apart


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean) / √(var + eps) · weight + bias, over groups of channels.

    Shapes: (N, C, *) to the same. RuntimeError where C is no multiple of `num_groups`, ValueError
    for a single group of one value, which has no variance.
    """
    values = math.prod(input.shape[:2]) // num_groups * math.prod(input.shape[2:])
    if input.ndim > 1 and values == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input {tuple(input.shape)}"
        )
    if input.ndim < 2 or input.shape[1] % num_groups:
        raise RuntimeError(
            f"group_norm: expected a number of channels divisible by {num_groups}, "
            f"got input {tuple(input.shape)}"
        )
    _for_each_channel("group_norm", input, weight=weight, bias=bias)
    normed("group_norm", input, weight, bias)
    size = math.prod(input.shape[2:])
    shape = (num_groups, input.shape[1] // num_groups, size)
    grouped = input.reshape((input.shape[0], *shape))
    if ops.takes_scores(grouped) and _alike(input, weight):
        scores = ops.scores_of(grouped, (-2, -1), eps) if modes.grad else None
        weight, bias = (p if p is None else p.reshape((*shape[:2], 1)) for p in (weight, bias))
        by_channels = scores is not None and size >= LEAST_BY_CHANNELS
        fused: Tensor = (
            ops.group_norm(grouped, weight, bias, scores, eps)
            if by_channels
            else ops.layer_norm(grouped, weight, bias, (-2, -1), eps, scores)
        )
        return fused.reshape(input.shape)
    grouped = grouped.reshape((input.shape[0], num_groups, shape[1] * size))
    y = ops.standardize(grouped, (-1,), eps).reshape(input.shape)
    weight, bias = (_across(p, input.ndim) for p in (weight, bias))
    return _scaled(y, weight, bias, y)


def _for_each_channel(name: str, input: Tensor, **parts: Tensor | None) -> None:
    """RuntimeError for what has not one value for each channel of the input."""
    for part, values in parts.items():
        if values is not None and values.numel() != input.shape[1] and input.numel():
            raise RuntimeError(
                f"{name}: expected {part} with one value for each of {input.shape[1]} channels, "
                f"got {values.numel()}"
            )


def _across(values: Any, ndim: int) -> Any:
    """One value per channel, in the shape that broadcasts to a batch of so many dimensions."""
    return values if values is None else values.reshape((1, -1, *[1] * (ndim - 2)))


def _last_dimensions(name: str, input: Tensor, sizes: Sequence[int]) -> tuple[int, ...]:
    """The last dimensions of the input, which must have the given sizes."""
    shape = tuple(sizes)
    if not shape or input._array.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"{name}: expected input of shape (*, {', '.join(map(str, shape))}), "
            f"got {tuple(input.shape)}"
        )
    return tuple(range(-len(shape), 0))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean) / √(var + eps) · weight + bias for each channel: (N, C, *) to the same.

    In training the batch gives mean and variance, and the running ones are updated in place.
    ValueError for a batch of one value per channel, which has no variance; RuntimeError for another
    number of channels than the rest has.
    """
    normed("batch_norm", input, running_mean, running_var, weight, bias)
    count = math.prod(n for d, n in enumerate(input.shape) if d != 1)
    if training and count == 1 and input.ndim:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input {tuple(input.shape)}"
        )
    if input.ndim < 2:
        raise IndexError(f"batch_norm: expected an input (N, C, *), got {tuple(input.shape)}")
    _for_each_channel(
        "batch_norm", input, running_mean=running_mean, running_var=running_var, weight=weight,
        bias=bias,
    )  # fmt: skip
    dims = (0, *range(2, input.ndim))
    if input.ndim > 2:
        weight, bias = (_across(p, input.ndim) for p in (weight, bias))
    if training:
        scores = _scores(input, weight, dims, eps)
        if input.numel() and running_mean is not None and running_var is not None:
            with no_grad():
                if scores is None:
                    variance, mean = ops.var_mean(input, dims)
                    running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
                    running_var.mul_(1 - momentum).add_(variance, alpha=momentum)
                else:
                    behind, channels = input.numel() + input.shape[1], input.shape[1]
                    _move(running_mean, scores, momentum, behind, 1.0)
                    _move(running_var, scores, momentum, behind + channels, count / (count - 1))
        if scores is not None:
            fused: Tensor = ops.batch_norm(input, weight, bias, scores, dims, eps)
            return fused
        y = ops.standardize(input, dims, eps) if input.numel() else input.clone()
    else:
        if running_mean is None or running_var is None:
            raise RuntimeError("batch_norm: evaluation needs running_mean and running_var")
        scale = _across(ops.rsqrt(running_var + eps), input.ndim)
        y = (input - _across(running_mean, input.ndim)) * scale
    return _scaled(y, weight, bias, input)


def _move(average: Tensor, scores: Any, share: float, behind: int, scale: float) -> None:
    """Moves a running statistic towards that of a batch, which is `behind` elements in the row."""
    average._apply_inplace(
        ops.normalization.MovingAverage, scores, share=share, behind=behind, scale=scale
    )


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """y = x / max(‖x‖ₚ, eps) along `dim`"""
    result: Tensor = input / ops.norm(input, p, dim, keepdim=True).clamp(min=eps)
    return result


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Zeros with a 1 at the place each integer names: (*) to (*, num_classes).

    RuntimeError for a class that is negative or too large; on a GPU, where `num_classes` is given,
    IndexError when the host next waits for it.
    """
    numbers = tensor._array
    if numbers.dtype.kind not in "iu":
        raise RuntimeError(
            f"one_hot is only applicable to index tensors of int64, got {tensor.dtype}"
        )
    checked = num_classes == -1 or tensor.device.type == "cpu"
    if num_classes == -1:
        if not numbers.size:
            raise RuntimeError("one_hot: can not infer the number of classes of an empty tensor")
        num_classes = int(numbers.max()) + 1
    if (
        checked
        and numbers.size
        and not (int(numbers.min()) >= 0 and int(numbers.max()) < num_classes)
    ):
        raise RuntimeError(
            f"one_hot: expected classes from 0 to {num_classes - 1}, "
            f"got {int(numbers.min())} to {int(numbers.max())}"
        )
    if type(numbers) is HOST.ndarray:
        hot = HOST.zeros((*numbers.shape, num_classes), numbers.dtype)
        hot.reshape(numbers.size, num_classes)[counting(numbers.size), numbers.reshape(-1)] = 1
        return Tensor._wrap(hot)
    with on_device_of(numbers):
        xp = array_module(numbers)
        if not checked and cuda_parts.kernels.available(xp):
            cuda_parts.indexing.check(xp, (num_classes,), [(0, numbers)], "one_hot")
        classes = xp.arange(num_classes)
        hot = order_of_memory.usual(xp, numbers)[..., None] == classes
        return Tensor._wrap(hot.astype(numbers.dtype))


# Losses


def _warn_of_sizes(input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size "
            f"({input.shape}): they are broadcast, which is likely not what is meant",
            stacklevel=3,
        )


def _weighted(losses: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    if weight.shape != input.shape:
        raise ValueError(
            f"expected weights of the input's shape {tuple(input.shape)}, got {tuple(weight.shape)}"
        )
    return losses * weight


def mse_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """(x - target)², with a UserWarning where the shapes differ.

    weight: one for each element of x; the mean then divides by their sum.
    """
    _warn_of_sizes(input, target)
    if weight is None:
        result: Tensor = ops.mse_loss(input, target, reduction)
        return result
    ops.loss_reductions.check_reduction(reduction)
    losses = _weighted((input - target) ** 2, input, weight)
    return (
        losses.sum() / weight.sum()
        if reduction == "mean"
        else ops.loss_reductions.total(losses, reduction)
    )


@in_precision("full")
def l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """|x - target|, with a UserWarning where the shapes differ.

    weight: one for each element of x; the mean then divides by their sum.
    """
    _warn_of_sizes(input, target)
    if weight is None:
        result: Tensor = ops.l1_loss(input, target, reduction)
        return result
    ops.loss_reductions.check_reduction(reduction)
    losses = _weighted((input - target).abs(), input, weight)
    return (
        losses.sum() / weight.sum()
        if reduction == "mean"
        else ops.loss_reductions.total(losses, reduction)
    )


@in_precision("full")
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(x - target)² / 2 within delta, delta · (|x - target| - delta / 2) beyond.

    weight: one for each element of x; the mean is still that over all elements.
    """
    _warn_of_sizes(input, target)
    if weight is None:
        result: Tensor = ops.huber_loss(input, target, reduction, delta)
        return result
    ops.loss_reductions.check_reduction(reduction)
    losses = _weighted(ops.huber_loss(input, target, "none", delta), input, weight)
    average: Tensor = ops.loss_reductions.total(losses, reduction)
    return average


@in_precision("full")
def smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """(x - target)² / (2 · beta) within beta, |x - target| - beta / 2 beyond."""
    _warn_of_sizes(input, target)
    result: Tensor = ops.smooth_l1_loss(input, target, reduction, beta)
    return result


@in_precision("full")
def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """target · (log target - x), with x log-probabilities; "batchmean" divides the sum by the batch
    size.

    "mean" divides by the number of elements, which is not the mathematical divergence: a
    UserWarning says so.
    """
    if reduction == "mean":
        warnings.warn(
            "kl_div: reduction 'mean' divides by batch size and support size; "
            "'batchmean' gives the divergence",
            stacklevel=2,
        )
    result: Tensor = ops.kl_div(input, target, reduction, log_target)
    return result
