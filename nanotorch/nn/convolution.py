"""Convolution and transposed convolution in one and two dimensions.

Three primitives, each bilinear, and each the derivative of the others: the output from input and
weight, the input's cotangent from the output's and the weight, the weight's from both. So any order
of derivative is one of them. A transposed convolution is the second. Each is one matrix product for
each part of the batch, with windows gathered as columns beside it, never more than im2col holds.
"""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops
from nanotorch.backend import HOST, Array
from nanotorch.backend.threads import ALONE
from nanotorch.creation import empty
from nanotorch.nn import init
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.nn.windows import Columns, Shape, Windows, each
from nanotorch.ops.operand_dtypes import alike
from nanotorch.primitive import Primitive, apply
from nanotorch.tensor import Tensor

MANY = 256  # elements of a sample, for which it pays to multiply it alone


class Convolution(Primitive):
    """y = x (N, C, *) convolved with weight (O, C / groups, *size), plus bias (O) or None"""

    __slots__ = ()
    backward_name = "ConvolutionBackward0"
    vjp = (
        lambda g, weight, x_shape, windows, groups: from_output(
            g, weight, x_shape[2:], windows, groups
        ),
        lambda g, x, windows, groups: apply(
            ConvolutionWeight, g, x, windows=windows, groups=groups
        ),
        lambda g: ops.sum(g, (0, *range(2, g.ndim))),
    )
    jvp = (
        lambda t, weight, windows, groups: convolve(t, weight, None, windows, groups),
        lambda t, x, windows, groups: convolve(x, t, None, windows, groups),
        lambda t, x: ops.reshape(t, (-1, *(1,) * (x.ndim - 2))),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, weight: Array, bias: Array | None, *, windows: Windows, groups: int,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        cols = Columns(xp, windows, x.shape[1], x.shape[2:], x.dtype, len(x))
        y = xp.empty((len(x), len(weight), *cols.counts), x.dtype) if out is None else out
        matrix = weight.reshape(groups, len(weight) // groups, -1)
        for part in cols.parts():
            columns = cols.gather(x[part]).reshape(groups, matrix.shape[2], -1)
            values = xp.matmul(matrix, columns).reshape(len(weight), -1)
            if bias is not None:
                values += bias[:, None]
            y[part] = cols.crop(values, part.stop - part.start)
        return y


class ConvolutionInput(Primitive):
    """y (N, C, *shape) = the cotangent of a convolution's input, x that of its output"""

    __slots__ = ()
    backward_name = "ConvolutionBackward0"
    vjp = (
        lambda g, weight, windows, groups: convolve(g, weight, None, windows, groups),
        lambda g, x, windows, groups: apply(
            ConvolutionWeight, x, g, windows=windows, groups=groups
        ),
        lambda g: ops.sum(g, (0, *range(2, g.ndim))),
    )
    jvp = (
        lambda t, weight, shape, windows, groups: from_output(t, weight, shape, windows, groups),
        lambda t, x, shape, windows, groups: from_output(x, t, shape, windows, groups),
        lambda t, x: ops.reshape(t, (-1, *(1,) * (x.ndim - 2))),
    )

    @staticmethod
    def kernel(
        xp: Any, x: Array, weight: Array, bias: Array | None, *, shape: Shape, windows: Windows,
        groups: int, out: Array | None = None,
    ) -> Array:  # fmt: skip
        channels = weight.shape[1] * groups
        cols = Columns(xp, windows, channels, shape, x.dtype, len(x))
        y = xp.empty((len(x), channels, *shape), x.dtype) if out is None else out
        matrix = weight.reshape(groups, len(weight) // groups, -1).swapaxes(1, 2)
        for part in cols.parts():
            rows = cols.spread(x[part]).reshape(groups, matrix.shape[2], -1)
            cols.scatter(xp.matmul(matrix, rows), y[part])
            if bias is not None:
                y[part] += bias.reshape(-1, *(1,) * len(shape))
        return y


class ConvolutionWeight(Primitive):
    """y (O, C / groups, *size) = the cotangent of the weight, from that of the output and x"""

    __slots__ = ()
    backward_name = "ConvolutionBackward0"
    vjp = (
        lambda h, x, windows, groups: convolve(x, h, None, windows, groups),
        lambda h, g, x_shape, windows, groups: from_output(g, h, x_shape[2:], windows, groups),
    )
    jvp = (
        lambda t, x, windows, groups: apply(
            ConvolutionWeight, t, x, windows=windows, groups=groups
        ),
        lambda t, g, windows, groups: apply(
            ConvolutionWeight, g, t, windows=windows, groups=groups
        ),
    )

    @staticmethod
    def kernel(
        xp: Any, g: Array, x: Array, *, windows: Windows, groups: int, out: Array | None = None
    ) -> Array:
        cols = Columns(xp, windows, x.shape[1], x.shape[2:], x.dtype, len(x))
        shape = (g.shape[1], x.shape[1] // groups, *windows.size)
        y = xp.empty(shape, x.dtype) if out is None else out
        y[...] = 0
        matrix = y.reshape(groups, g.shape[1] // groups, -1)
        for part in cols.parts():
            columns = cols.gather(x[part]).reshape(groups, matrix.shape[2], -1)
            rows = cols.spread(g[part]).reshape(groups, matrix.shape[1], -1)
            # The product with more rows than columns is the faster one of the two.
            matrix += inner_product(xp, columns, rows, part.stop - part.start).swapaxes(1, 2)
        return y


def inner_product(xp: Any, a: Array, b: Array, samples: int) -> Array:
    """a @ bᵀ of (groups, ·, elements), which are those of so many samples.

    On the CPU sample by sample, where BLAS takes one thread for each: a product of few rows and
    columns over many elements takes four times as long if it is shared between threads.
    """
    step = a.shape[2] // samples
    if xp is HOST and step >= MANY and a.shape[1] * b.shape[1] * step <= ALONE:
        a, b = (x.reshape(*x.shape[:2], samples, step).swapaxes(1, 2) for x in (a, b))
        return xp.add.reduce(xp.matmul(a, b.swapaxes(-1, -2)), axis=1)
    return xp.matmul(a, b.swapaxes(-1, -2))


def convolve(x: Any, weight: Any, bias: Any, windows: Windows, groups: int) -> Any:
    """x convolved with the weight, plus the bias."""
    return apply(Convolution, x, weight, bias, windows=windows, groups=groups)


def from_output(
    g: Any, weight: Any, shape: Shape, windows: Windows, groups: int, bias: Any = None
) -> Any:
    """What convolution's rule for its input gives, of spatial shape `shape`, plus the bias."""
    options = {"shape": tuple(shape), "windows": windows, "groups": groups}
    return apply(ConvolutionInput, g, weight, bias, **options)


# --- functions ------------------------------------------------------------------------------------


def _convolution(
    name: str, dims: int, input: Any, weight: Any, bias: Any, stride: Any, padding: Any,
    dilation: Any, groups: int,
) -> Any:  # fmt: skip
    """The convolution of (N, C, *) or (C, *) in `dims` dimensions."""
    x = _batched(name, dims, input, weight)
    if x.shape[1] != weight.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.shape)}, expected "
            f"input{list(x.shape)} to have {weight.shape[1] * groups} channels, but got "
            f"{x.shape[1]} channels instead"
        )
    size, step = tuple(weight.shape[2:]), each(stride, dims, name)
    spread = each(dilation, dims, name)
    if isinstance(padding, str):
        around = _named_padding(name, padding, size, step, spread)
    else:
        around = tuple((p, p) for p in each(padding, dims, name))
    windows = Windows(size, step, around, spread)
    if min(windows.counts(x.shape[2:])) <= 0:
        raise RuntimeError(
            f"{name}: the kernel, of size {size} with dilation {spread}, can't be greater than the "
            f"input with its padding, {windows.padded(x.shape[2:])}"
        )
    alike(name, input, bias)
    y = convolve(x, weight, bias, windows, groups)
    return y if x is input else y.squeeze(0)


def _batched(name: str, dims: int, input: Any, weight: Any) -> Any:
    """The input with a dimension for samples."""
    if input.ndim not in (dims + 1, dims + 2):
        raise RuntimeError(
            f"Expected {dims + 1}D (unbatched) or {dims + 2}D (batched) input to {name}, but got "
            f"input of size: {list(input.shape)}"
        )
    if weight.ndim != dims + 2:
        raise RuntimeError(
            f"{name}: expected a weight of {dims + 2} dimensions, got shape {tuple(weight.shape)}"
        )
    if input.dtype != weight.dtype and not input._mixes():
        raise RuntimeError(
            f"{name}: Input type ({input.dtype}) and weight type ({weight.dtype}) should be the "
            "same"
        )
    return input if input.ndim == dims + 2 else input.unsqueeze(0)


def _named_padding(
    name: str, padding: str, size: Shape, stride: Shape, dilation: Shape
) -> tuple[tuple[int, int], ...]:
    """ "valid": none; "same": as many windows as elements, the odd zero at the end."""
    if padding == "valid":
        return ((0, 0),) * len(size)
    if padding != "same":
        raise RuntimeError(f"{name}: expected padding 'valid' or 'same', got {padding!r}")
    if any(s != 1 for s in stride):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    totals = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolves (N, C, L) or (C, L) with a weight (O, C / groups, size)."""
    return _convolution("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolves (N, C, H, W) or (C, H, W) with a weight (O, C / groups, height, width)."""
    return _convolution("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]


def _transposed(
    name: str, dims: int, input: Any, weight: Any, bias: Any, stride: Any, padding: Any,
    output_padding: Any, groups: int, dilation: Any,
) -> Any:  # fmt: skip
    """The transposed convolution of (N, C, *) or (C, *) in `dims` dimensions."""
    x = _batched(name, dims, input, weight)
    if x.shape[1] != weight.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected "
            f"input{list(x.shape)} to have {weight.shape[0]} channels, but got {x.shape[1]} "
            "channels instead"
        )
    size, step = tuple(weight.shape[2:]), each(stride, dims, name)
    spread, around = each(dilation, dims, name), each(padding, dims, name)
    extra = each(output_padding, dims, name)
    if any(e >= max(s, d) for e, s, d in zip(extra, step, spread, strict=True)):
        raise RuntimeError(
            f"{name}: output padding must be smaller than either stride or dilation, but got "
            f"output_padding {extra}, stride {step} and dilation {spread}"
        )
    shape = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x.shape[2:], step, around, spread, size, extra, strict=True)
    )
    if min(shape) <= 0:
        raise RuntimeError(f"{name}: the output would have the shape {shape}, which is too small")
    pairs = tuple((p, p if e < s else p - e) for p, e, s in zip(around, extra, step, strict=True))
    beyond = tuple(max(-after, 0) for _, after in pairs)  # where no window reaches
    if any(beyond):
        pairs = tuple((p, max(after, 0)) for p, after in pairs)
        inner = tuple(n - b for n, b in zip(shape, beyond, strict=True))
        y = from_output(x, weight, inner, Windows(size, step, pairs, spread), groups, None)
        y = ops.pad(y, [n for b in reversed(beyond) for n in (0, b)])
        y = y if bias is None else y + bias.reshape((-1, *(1,) * dims))
    else:
        y = from_output(x, weight, shape, Windows(size, step, pairs, spread), groups, bias)
    return y if x is input else y.squeeze(0)


def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The transposed convolution of (N, C, L) or (C, L) with a weight (C, O / groups, size)."""
    return _transposed(  # type: ignore[no-any-return]
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups,
        dilation,
    )  # fmt: skip


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The transposed convolution of (N, C, H, W) or (C, H, W) with a weight (C, O / groups, *)."""
    return _transposed(  # type: ignore[no-any-return]
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups,
        dilation,
    )  # fmt: skip


# --- layers ---------------------------------------------------------------------------------------


class _ConvNd(Module):
    """What the convolutions share: `weight` and `bias` start uniform on ±1 / √(inputs of a sum)."""

    bias: Parameter | None
    dims: int
    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
        output_padding: Any = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        kind, dims = type(self).__name__, self.dims
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = each(kernel_size, dims, kind), each(stride, dims, kind)
        self.dilation, self.groups = each(dilation, dims, kind), groups
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(
                    f"Invalid padding string {padding!r}, should be one of 'valid', 'same'"
                )
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        self.padding = padding if isinstance(padding, str) else each(padding, dims, kind)
        modes = ("zeros",) if self.transposed else ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise ValueError(f"padding_mode must be one of {modes}, but got {padding_mode!r}")
        self.padding_mode = padding_mode
        self.output_padding = each(output_padding, dims, kind)
        first, second = out_channels, in_channels // groups
        if self.transposed:
            first, second = in_channels, out_channels // groups
        options = {"device": device, "dtype": dtype}
        self.weight = Parameter(empty((first, second, *self.kernel_size), **options))
        shift = Parameter(empty(out_channels, **options)) if bias else None
        self.register_parameter("bias", shift)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weight, then the bias, anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = self.weight.shape[1] * math.prod(self.kernel_size)
            bound = 1 / math.sqrt(fan_in) if fan_in else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (N, in_channels, *) to (N, out_channels, *), or both without N."""
        name, x = f"conv{self.dims}d", input
        around: Any = self.padding
        if self.padding_mode != "zeros":
            pairs: Any = [(p, p) for p in around]
            if isinstance(around, str):
                pairs = _named_padding(name, around, self.kernel_size, self.stride, self.dilation)
            x = ops.pad(x, [n for pair in reversed(pairs) for n in pair], self.padding_mode)
            around = 0
        return _convolution(  # type: ignore[no-any-return]
            name, self.dims, x, self.weight, self.bias, self.stride, around, self.dilation,
            self.groups,
        )  # fmt: skip

    def extra_repr(self) -> str:
        ones, zeros = (1,) * self.dims, (0,) * self.dims
        shown = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        ]
        for name, default in (
            *(("padding", zeros), ("dilation", ones), ("output_padding", zeros), ("groups", 1)),
        ):
            if getattr(self, name) != default:
                value = getattr(self, name)
                shown.append(f"{name}={value}")
        if self.bias is None:
            shown.append("bias=False")
        if self.padding_mode != "zeros":
            shown.append(f"padding_mode={self.padding_mode}")
        return ", ".join(shown)


class Conv1d(_ConvNd):
    """y = x convolved with weight (out_channels, in_channels / groups, size), plus bias."""

    dims = 1


class Conv2d(_ConvNd):
    """y = x convolved with weight (out_channels, in_channels / groups, *size), plus bias."""

    dims = 2


class _ConvTransposeNd(_ConvNd):
    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
        padding: Any = 0, output_padding: Any = 0, groups: int = 1, bias: bool = True,
        dilation: Any = 1, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype, output_padding,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Shapes: (N, in_channels, *) to (N, out_channels, *), or both without N.

        `output_size` chooses among the shapes that a convolution would map to the input's.
        """
        extra = self.output_padding
        if output_size is not None:
            extra = self._extra(input, tuple(output_size)[-self.dims :])
        return _transposed(  # type: ignore[no-any-return]
            f"conv_transpose{self.dims}d", self.dims, input, self.weight, self.bias, self.stride,
            self.padding, extra, self.groups, self.dilation,
        )  # fmt: skip

    def _extra(self, input: Tensor, wanted: Shape) -> Shape:
        """The output padding that gives the wanted size."""
        least = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self.dims :], self.stride, each(self.padding, self.dims, "padding"),
                self.dilation, self.kernel_size, strict=True,
            )
        )  # fmt: skip
        most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
        if not all(a <= w <= b for a, w, b in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"requested an output size of {wanted}, but valid sizes range from {least} to "
                f"{most} (for an input of {list(input.shape[-self.dims :])})"
            )
        return tuple(w - a for w, a in zip(wanted, least, strict=True))


class ConvTranspose1d(_ConvTransposeNd):
    """The transposed convolution with weight (in_channels, out_channels / groups, size)."""

    dims = 1


class ConvTranspose2d(_ConvTransposeNd):
    """The transposed convolution with weight (in_channels, out_channels / groups, *size)."""

    dims = 2
