"""Recurrent layers: RNN (Elman, 1990), LSTM (Hochreiter and Schmidhuber, 1997), GRU (Cho, 2014)."""

from __future__ import annotations

import math
import warnings
from typing import Any

from nanotorch import ops
from nanotorch.autograd.grad_mode import modes
from nanotorch.creation import empty
from nanotorch.nn import functional as F, init
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.nn.recurrence import GATES, Recurrence, step_by_step
from nanotorch.nn.utils.rnn import PackedSequence
from nanotorch.primitive import apply
from nanotorch.tensor import Tensor


def _draw(module: Any) -> None:
    """Draws all parameters uniform on ±1 / √hidden_size."""
    bound = 1.0 / math.sqrt(module.hidden_size) if module.hidden_size > 0 else 0
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)


def _zeros(weight: Tensor, shape: tuple[int, ...]) -> Any:
    """Zeros in the dtype and place of the weight, made by ops, which a compiled step replays."""
    return ops.zeros_like(weight[0, 0].expand(shape))


def _gates(
    x: Tensor, mode: str, weight: Tensor, bias: Tensor | None, hidden_bias: Tensor | None
) -> tuple[Any, Tensor | None]:
    """(the input's part of the gates, the bias of the hidden state that is not in it): only a GRU
    needs the two biases apart."""
    if bias is None or hidden_bias is None or mode == "GRU":
        return F.linear(x, weight, bias), hidden_bias
    return F.linear(x, weight, bias + hidden_bias), None


def _precision(gates: Tensor, weight: Tensor, wide: bool) -> Any:
    """The dtype of the steps: that of the gates, which autocast may have made narrower than the
    weights; on the CPU that of the weights for what PyTorch leaves `wide` there."""
    return weight.dtype if wide and not gates.is_cuda else gates.dtype


def _recurrence(inputs: list[Any], mode: str, batch_sizes: tuple[int, ...], backwards: bool) -> Any:
    """The states of all steps, and the gates where reverse will need them."""
    recorded = modes.grad and any(x is not None and x.requires_grad for x in inputs)
    options = {"mode": mode, "batch_sizes": batch_sizes, "backwards": backwards}
    return apply(Recurrence, *inputs, **options, with_gates=recorded)


class RNNBase(Module):
    """What RNN, LSTM and GRU share: layers of recurrences, in one direction or in both.

    The parameters of layer k are weight_ih_lk, weight_hh_lk, bias_ih_lk, bias_hh_lk (and
    weight_hr_lk with `proj_size`), those of the other direction end in _reverse. All start uniform
    on ±1 / √hidden_size.
    """

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = dropout, bidirectional, proj_size
        self._check()
        self.dropout = float(dropout)
        size, rows = proj_size or hidden_size, GATES[mode] * hidden_size
        self._names: list[list[str]] = []
        for layer in range(num_layers):
            columns = input_size if layer == 0 else size * (2 if bidirectional else 1)
            for suffix in ("", "_reverse") if bidirectional else ("",):
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, columns),
                    "weight_hh": (rows, size),
                    **({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}),
                    **({"weight_hr": (proj_size, hidden_size)} if proj_size else {}),
                }
                names = [f"{name}_l{layer}{suffix}" for name in shapes]
                for name, shape in zip(names, shapes.values(), strict=True):
                    setattr(self, name, Parameter(empty(shape, device=device, dtype=dtype)))
                self._names.append(names)
        self.reset_parameters()

    def _check(self) -> None:
        share = self.dropout
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an "
                f"element being zeroed, got {share!r}"
            )
        if share > 0 and self.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero "
                f"dropout expects num_layers greater than 1, but got dropout={share} and "
                f"num_layers={self.num_layers}",
                stacklevel=4,
            )
        for name, kind in (
            *(("bias", bool), ("batch_first", bool)),
            *(("input_size", int), ("hidden_size", int)),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name} should be of type {kind.__name__}, got: {type(value).__name__}"
                )
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than zero")
        if self.proj_size < 0:
            raise ValueError(
                "proj_size should be a positive integer or zero to disable projections"
            )
        if self.proj_size >= self.hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        _draw(self)

    def flatten_parameters(self) -> None:
        """Does nothing: the parameters need not lie in one piece of memory."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._names]

    def forward(self, input: Any, hx: Any = None) -> Any:
        """(output, state): for an input (T, N, input_size), or (N, T, input_size) where
        `batch_first`, an output (T, N, directions · size) and a state (layers · directions, N,
        size), or a pair of them for an LSTM. Without the dimension N for a single sequence; a
        PackedSequence gives one. `hx` is the state to start from, by default zeros.
        """
        packed = isinstance(input, PackedSequence)
        x: Any = input.data if packed else input
        if packed:
            batch_sizes, single = tuple(input.batch_sizes.tolist()), False
        else:
            if x.ndim not in (2, 3):
                raise ValueError(
                    f"{type(self).__name__}: Expected input to be 2D or 3D, got {x.ndim}D instead"
                )
            single = x.ndim == 2
            x = x.unsqueeze(1) if single else x.transpose(0, 1) if self.batch_first else x
            length, batch = x.shape[:2]
            if not length:
                raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
            batch_sizes, x = (batch,) * length, x.reshape(length * batch, x.shape[2])
        self._check_input(x)
        states = self._initial(x, hx, batch_sizes[0], single, input if packed else None)
        wide = self.mode == "GRU" or self.proj_size > 0 or (packed and self.mode == "LSTM")
        output, last = self._layers(x, states, batch_sizes, wide)
        if packed:
            if input.unsorted_indices is not None:
                last = [s.index_select(1, input.unsorted_indices) for s in last]
            result: Any = PackedSequence(output, *input[1:])
        else:
            result = output.reshape(length, batch, output.shape[1])
            if single:
                result, last = result.squeeze(1), [s.squeeze(1) for s in last]
            elif self.batch_first:
                result = result.transpose(0, 1)
        return result, (tuple(last) if self.mode == "LSTM" else last[0])

    def _check_input(self, x: Any) -> None:
        weight = self.all_weights[0][0]
        if x.dtype != weight.dtype and not x._mixes():
            raise ValueError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
            )
        if x.ndim != 2:  # the elements of a PackedSequence
            raise RuntimeError(f"input must have 2 dimensions, got {x.ndim}")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. Expected "
                f"{self.input_size}, got {x.shape[-1]}"
            )

    def _initial(
        self, x: Any, hx: Any, batch: int, single: bool, packed: PackedSequence | None
    ) -> list[Any]:
        """The states to start from, each (layers · directions, batch, size)."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        sizes = [self.proj_size or self.hidden_size]
        if self.mode == "LSTM":
            sizes.append(self.hidden_size)
        shapes = [(count, batch, size) for size in sizes]
        if hx is None:
            return [_zeros(self.all_weights[0][1], shape) for shape in shapes]
        states = list(hx) if self.mode == "LSTM" else [hx]
        for place, (state, shape) in enumerate(zip(states, shapes, strict=True)):
            if state.ndim != (2 if single else 3):
                raise RuntimeError(
                    f"For {'unbatched 2-D' if single else 'batched 3-D'} input, hx should also be "
                    f"{'2-D' if single else '3-D'} but got {state.ndim}-D tensor"
                )
            states[place] = state = state.unsqueeze(1) if single else state
            if tuple(state.shape) != shape:
                raise RuntimeError(
                    f"Expected hidden{f'[{place}]' if len(sizes) > 1 else ''} size {shape}, got "
                    f"{list(state.shape)}"
                )
            if packed is not None and packed.sorted_indices is not None:
                states[place] = state.index_select(1, packed.sorted_indices)
        return states

    def _layers(
        self, x: Any, states: list[Any], batch_sizes: tuple[int, ...], wide: bool
    ) -> tuple[Any, list[Any]]:
        """(the last layer's output, the last states of all) for rows x, step after step."""
        directions = 2 if self.bidirectional else 1
        last: list[list[Any]] = [[] for _ in states]
        for number, weights in enumerate(self.all_weights):
            if number % directions == 0:
                if number and self.dropout:
                    x = F.dropout(x, self.dropout, self.training)
                outputs: list[Any] = []
            backwards = number % directions == 1
            start = [s[number] for s in states]
            steps = self._run(x, start, weights, batch_sizes, backwards, wide)
            outputs.append(steps[0])
            for ends, values in zip(last, steps, strict=True):
                ends.append(_last(values, batch_sizes, backwards))
            if len(outputs) == directions:
                x = ops.cat(outputs, 1) if directions == 2 else outputs[0]
        return x, [ops.stack(ends) for ends in last]

    def _run(
        self, x: Any, start: list[Any], weights: list[Parameter], batch_sizes: tuple[int, ...],
        backwards: bool, wide: bool,
    ) -> list[Any]:  # fmt: skip
        """[h] or [h, c] after each step of one layer in one direction."""
        biases = weights[2:4] if self.bias else [None, None]
        pre, bias = _gates(x, self.mode, weights[0], *biases)
        kind = _precision(pre, weights[1], wide)
        tensors = [pre, *[*start, None][:2], weights[1], bias]
        inputs = [tensor if tensor is None else tensor.to(kind) for tensor in tensors]
        if self.proj_size:
            options = (self.mode, batch_sizes, backwards)
            return step_by_step(inputs, options, projection=weights[-1])
        y = _recurrence(inputs, self.mode, batch_sizes, backwards)
        return [y[place] for place in range(len(start))]

    def extra_repr(self) -> str:
        shown = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (
            *(("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False)),
            *(("dropout", 0), ("bidirectional", False)),
        ):
            value = getattr(self, name)
            if value != default:
                shown.append(f"{name}={value}")
        return ", ".join(shown)


def _last(values: Any, batch_sizes: tuple[int, ...], backwards: bool) -> Any:
    """The state of each sequence after its last step."""
    count = batch_sizes[0]
    if backwards:
        return values[:count]
    if batch_sizes[-1] == count:
        return values[-count:]
    starts = [sum(batch_sizes[:k]) for k in range(len(batch_sizes))]
    lengths = [sum(size > place for size in batch_sizes) for place in range(count)]
    return values[[starts[length - 1] + place for place, length in enumerate(lengths)]]


class RNN(RNNBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu with `nonlinearity="relu"`; see RNNBase."""

    def __init__(self, *args: Any, nonlinearity: str = "tanh", **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if len(args) > 3:  # PyTorch's fourth argument
            args, nonlinearity = (*args[:3], *args[4:]), args[3]
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """i, f, o = σ(W x + b + V h + d), n = tanh(…); c' = f c + i n; h' = o tanh(c'); see RNNBase.

    The state is a pair (h, c). With `proj_size`, h' is multiplied by weight_hr (Sak et al., 2014).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(RNNBase):
    """r, z = σ(W x + b + V h + d); n = tanh(W x + b + r (V h + d)); h' = (1 - z) n + z h."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)


class RNNCellBase(Module):
    """One step of a recurrence: weight_ih, weight_hh, bias_ih, bias_hh, uniform on ±1 / √hidden."""

    bias_ih: Parameter | None
    bias_hh: Parameter | None
    mode = ""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = GATES[self.mode] * hidden_size
        options = {"device": device, "dtype": dtype}
        self.weight_ih = Parameter(empty((rows, input_size), **options))
        self.weight_hh = Parameter(empty((rows, hidden_size), **options))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, **options)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        _draw(self)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """The next state: inputs (N, input_size) or (input_size) and states (N, hidden_size) or
        (hidden_size), of an LSTM a pair; zeros by default."""
        states = [] if hx is None else list(hx) if self.mode == "LSTM" else [hx]
        for name, value in (("input", input), *((f"hx[{i}]", s) for i, s in enumerate(states))):
            if value.ndim not in (1, 2):
                raise ValueError(
                    f"{type(self).__name__}: Expected {name} to be 1D or 2D, got {value.ndim}D "
                    "instead"
                )
        single = input.ndim == 1
        x = input.unsqueeze(0) if single else input
        if hx is None:
            shape = (x.shape[0], self.hidden_size)
            states = [_zeros(self.weight_hh, shape)] * (2 if self.mode == "LSTM" else 1)
        elif single:
            states = [s.unsqueeze(0) for s in states]
        for s in states:
            if tuple(s.shape) != (x.shape[0], self.hidden_size):
                raise RuntimeError(
                    f"{type(self).__name__}: expected a state of shape "
                    f"{(x.shape[0], self.hidden_size)}, got {tuple(s.shape)}"
                )
        pre, bias = _gates(x, self.mode, self.weight_ih, self.bias_ih, self.bias_hh)
        kind = _precision(pre, self.weight_hh, self.mode in ("LSTM", "GRU"))
        tensors = [pre, *[*states, None][:2], self.weight_hh, bias]
        inputs = [tensor if tensor is None else tensor.to(kind) for tensor in tensors]
        y = _recurrence(inputs, self.mode, (x.shape[0],), False)
        results = [y[place][0] if single else y[place] for place in range(len(states))]
        return tuple(results) if self.mode == "LSTM" else results[0]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}{'' if self.bias else ', bias=False'}"


class RNNCell(RNNCellBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu with `nonlinearity="relu"`."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}")
        object.__setattr__(self, "mode", f"RNN_{nonlinearity.upper()}")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        other = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + other


class LSTMCell(RNNCellBase):
    """(h', c') after one step of an LSTM from (h, c)."""

    mode = "LSTM"


class GRUCell(RNNCellBase):
    """h' after one step of a GRU from h."""

    mode = "GRU"
