"""The Transformer (Vaswani et al., 2017): encoders and decoders of attention and linear layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from nanotorch import ops
from nanotorch.autograd import is_grad_enabled
from nanotorch.creation import full
from nanotorch.nn import functional as F, init
from nanotorch.nn.activations import GELU, ReLU
from nanotorch.nn.containers import ModuleList
from nanotorch.nn.dropout import Dropout
from nanotorch.nn.linear import Linear
from nanotorch.nn.module import Module
from nanotorch.nn.multihead import MultiheadAttention, as_added
from nanotorch.nn.normalization import LayerNorm
from nanotorch.tensor import Tensor

Activation = str | Callable[[Tensor], Tensor]


class _Layer(Module):
    """What the layers of encoder and decoder share: two linear layers, and a norm and a dropout for
    each of their steps."""

    def __init__(
        self, attentions: tuple[str, ...], d_model: int, nhead: int, dim_feedforward: int,
        dropout: float, activation: Activation, layer_norm_eps: float, batch_first: bool,
        norm_first: bool, bias: bool, device: Any, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        for name in attentions:
            attention = MultiheadAttention(
                d_model, nhead, dropout, batch_first=batch_first, **options
            )
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, **options)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **options)
        self.norm_first = norm_first
        steps = range(1, len(attentions) + 2)
        for step in steps:
            setattr(self, f"norm{step}", LayerNorm(d_model, layer_norm_eps, **options))
        for step in steps:
            setattr(self, f"dropout{step}", Dropout(dropout))
        self.activation = _function(activation)

    def _step(self, number: int, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """x plus its change, with the norm of that step: before the change, or of the sum."""
        norm, dropout = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        if self.norm_first:
            return x + dropout(change(norm(x)))  # type: ignore[no-any-return]
        return norm(x + dropout(change(x)))  # type: ignore[no-any-return]

    def _feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return y


class TransformerEncoderLayer(_Layer):
    """Attention of a sequence to itself, then linear2(activation(linear1(x))), each with a norm.

    activation: "relu", "gelu" or a function. norm_first: the norm comes before each step.
    """

    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: Activation = F.relu, layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            ("self_attn",), d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps,
            batch_first, norm_first, bias, device, dtype,
        )  # fmt: skip

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None, is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """(S, N, E), or (N, S, E) where `batch_first`, or (S, E), to the same."""
        padding = as_added(
            src_key_padding_mask, "src_key_padding_mask", src.dtype, src_mask, "src_mask"
        )
        mask = as_added(src_mask, "src_mask", src.dtype)

        def to_itself(x: Tensor) -> Tensor:
            return self.self_attn(x, x, x, padding, False, mask, is_causal=is_causal)[0]

        x = self._step(1, src, to_itself)
        return self._step(2, x, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Attention of a sequence to itself and to a memory, then the two linear layers; see the
    encoder's."""

    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: Activation = F.relu, layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            ("self_attn", "multihead_attn"), d_model, nhead, dim_feedforward, dropout, activation,
            layer_norm_eps, batch_first, norm_first, bias, device, dtype,
        )  # fmt: skip

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None, tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None, tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """(T, N, E) and a memory (S, N, E) to (T, N, E), with N first where `batch_first`."""

        def to_itself(x: Tensor) -> Tensor:
            return self.self_attn(
                x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal
            )[0]

        def to_memory(x: Tensor) -> Tensor:
            return self.multihead_attn(
                *(x, memory, memory, memory_key_padding_mask, False, memory_mask),
                is_causal=memory_is_causal,
            )[0]

        x = self._step(2, self._step(1, tgt, to_itself), to_memory)
        return self._step(3, x, self._feed_forward)


class TransformerEncoder(Module):
    """Copies of an encoder layer one after the other, and a norm at the end where there is one.

    All copies start from the layer's numbers. In evaluation padded places become 0 before the norm
    where PyTorch makes them 0: with `enable_nested_tensor`, padding at the end, and no gradient.
    """

    def __init__(
        self, encoder_layer: Module, num_layers: int, norm: Module | None = None,
        enable_nested_tensor: bool = True, mask_check: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        """(S, N, E), or (N, S, E) where `batch_first`, or (S, E), to the same."""
        padding = as_added(src_key_padding_mask, "src_key_padding_mask", src.dtype, mask, "mask")
        added = as_added(mask, "mask", src.dtype)
        x = src
        for layer in self.layers:
            x = layer(x, src_mask=added, is_causal=bool(is_causal), src_key_padding_mask=padding)
        if padding is not None and mask is None and self._leaves_padding_out(src):
            x = _without_padding(x, padding)
        return x if self.norm is None else self.norm(x)

    def _leaves_padding_out(self, src: Tensor) -> bool:
        """Whether PyTorch would compute without the padded places, and fill them with 0."""
        layer: Any = self.layers[0]
        if not self.enable_nested_tensor or not isinstance(layer, TransformerEncoderLayer):
            return False
        attention = layer.self_attn
        fits = (
            not (layer.training or layer.norm_first or src._mixes())
            and src.ndim == 3
            and attention.batch_first
            and attention.num_heads % 2 == 0
            and attention.in_proj_bias is not None
            and _is_relu_or_gelu(layer.activation)
            and layer.norm1.eps == layer.norm2.eps
        )
        traced = is_grad_enabled() and any(x.requires_grad for x in (src, *layer.parameters()))
        return fits and not traced


class TransformerDecoder(Module):
    """Copies of a decoder layer one after the other, and a norm at the end where there is one."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None, tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None, tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """(T, N, E) and a memory (S, N, E) to (T, N, E), with N first where `batch_first`."""
        x = tgt
        for layer in self.layers:
            x = layer(
                x, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=bool(tgt_is_causal), memory_is_causal=memory_is_causal,
            )  # fmt: skip
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """An encoder of the source and a decoder of the target that attends to what that gives."""

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6,
        num_decoder_layers: int = 6, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: Activation = F.relu, custom_encoder: Module | None = None,
        custom_decoder: Module | None = None, layer_norm_eps: float = 1e-5,
        batch_first: bool = False, norm_first: bool = False, bias: bool = True, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        settings = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        settings = (*settings, batch_first, norm_first)  # type: ignore[assignment]

        def stack(many: Any, kind: Any, count: int) -> Any:
            layer = kind(*settings, **options)
            return many(layer, count, LayerNorm(d_model, layer_norm_eps, **options))

        self.encoder: Any = custom_encoder or stack(
            TransformerEncoder, TransformerEncoderLayer, num_encoder_layers
        )
        self.decoder: Any = custom_decoder or stack(
            TransformerDecoder, TransformerDecoderLayer, num_decoder_layers
        )
        self._reset_parameters()
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def _reset_parameters(self) -> None:
        """Draws all matrices anew, uniform by Glorot's bound."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self, src: Tensor, tgt: Tensor, src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None, tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None, src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """A source (S, N, E) and a target (T, N, E) to (T, N, E), with N first where `batch_first`.

        Masks (S, S), (T, T) and (T, S), padding (N, S) and (N, T): True or -inf hides a key.
        """
        axis = 0 if self.batch_first else 1
        if src.ndim == 3 and src.shape[axis] != tgt.shape[axis]:
            raise RuntimeError("the batch number of src and tgt must be equal")
        if not src.shape[-1] == tgt.shape[-1] == self.d_model:
            raise RuntimeError("the feature number of src and tgt must be equal to d_model")
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(  # type: ignore[no-any-return]
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """(sz, sz): -inf above the diagonal, else 0."""
        mask: Tensor = ops.triu(full((sz, sz), -math.inf, device=device, dtype=dtype), 1)
        return mask


def _function(activation: Activation) -> Callable[[Tensor], Tensor]:
    """The function that an activation names."""
    if not isinstance(activation, str):
        return activation
    if activation not in ("relu", "gelu"):
        raise RuntimeError(f"activation should be relu/gelu, not {activation}")
    return F.relu if activation == "relu" else F.gelu


def _is_relu_or_gelu(activation: Any) -> bool:
    return activation in (F.relu, F.gelu) or isinstance(activation, ReLU | GELU)


def _without_padding(x: Tensor, padding: Tensor) -> Tensor:
    """x (N, S, E) with 0 at padded places, if all of these are at the ends."""
    hidden = padding == -math.inf
    at_the_end = (hidden[:, :-1] <= hidden[:, 1:]).all()
    result: Tensor = ops.where((hidden & at_the_end).unsqueeze(-1), 0.0, x)
    return result
