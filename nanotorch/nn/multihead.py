"""Attention with several heads (Vaswani et al., 2017): each attends in a part of the features."""

from __future__ import annotations

import math
import warnings
from typing import Any

from nanotorch import ops
from nanotorch.backend.dtypes import bool_
from nanotorch.creation import empty
from nanotorch.nn import functional as F, init
from nanotorch.nn.linear import Linear
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.nn.scaled_dot_product import scaled_dot_product_attention
from nanotorch.tensor import Tensor


class NonDynamicallyQuantizableLinear(Linear):
    """Linear, under the name that PyTorch prints for it here."""


class MultiheadAttention(Module):
    """y = W_o concat(heads) + b_o; a head is attention between parts of the projected inputs.

    in_proj_weight holds the projections of query, key and value one below the other; where `kdim`
    or `vdim` differ from `embed_dim`, each has a weight of its own. add_bias_kv: one more key and
    value, trained; add_zero_attn: one more of zeros. `dropout` is that of the weights.
    """

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
        add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
        vdim: int | None = None, batch_first: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                "embed_dim and num_heads must be greater than 0, got "
                f"embed_dim={embed_dim} and num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        shapes: dict[str, tuple[int, ...]] = {
            "q_proj_weight": (embed_dim, embed_dim),
            "k_proj_weight": (embed_dim, self.kdim),
            "v_proj_weight": (embed_dim, self.vdim),
            "in_proj_weight": (3 * embed_dim, embed_dim),
            "in_proj_bias": (3 * embed_dim,),
        }
        absent = [*shapes][:3] if self._qkv_same_embed_dim else ["in_proj_weight"]
        absent += [] if bias else ["in_proj_bias"]
        options = {"device": device, "dtype": dtype}
        for name, shape in shapes.items():
            here = name not in absent
            self.register_parameter(name, Parameter(empty(shape, **options)) if here else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, **options)
        for name in ("bias_k", "bias_v"):
            start = Parameter(empty((1, 1, embed_dim), **options)) if add_bias_kv else None
            setattr(self, name, start)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Draws the projections and the trained key and value anew; biases become 0."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if (weight := getattr(self, name)) is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None,
        average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """(output, weights): queries (L, N, E), keys (S, N, K), values (S, N, V) to (L, N, E).

        With `batch_first` N comes first, and a single sequence has no N. The weights are (N, L, S),
        averaged over the heads, else (N, H, L, S), or None where they are not needed: then all are
        never in memory. Masks, True or -inf where a key does not count: `key_padding_mask` (N, S);
        `attn_mask` (L, S) or (N · H, L, S). is_causal: the promise that `attn_mask` hides what
        comes later.
        """
        return _attend(
            query, key, value, self.embed_dim, self.num_heads, self.in_proj_weight,
            self.in_proj_bias, self.bias_k, self.bias_v, self.add_zero_attn, self.dropout,
            self.out_proj.weight, self.out_proj.bias, self.training, key_padding_mask, need_weights,
            attn_mask, [getattr(self, f"{name}_proj_weight") for name in "qkv"],
            average_attn_weights, is_causal, self.batch_first,
        )  # fmt: skip


def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
    bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """MultiheadAttention with the weights as arguments: (L, N, E) to (L, N, E)."""
    return _attend(
        query, key, value, embed_dim_to_check, num_heads,
        None if use_separate_proj_weight else in_proj_weight, in_proj_bias, bias_k, bias_v,
        add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, training, key_padding_mask,
        need_weights, attn_mask, [q_proj_weight, k_proj_weight, v_proj_weight],
        average_attn_weights, is_causal, batch_first=False,
    )  # fmt: skip


def _attend(
    query: Tensor, key: Tensor, value: Tensor, size: int, heads: int, weight: Tensor | None,
    bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, add_zero: bool,
    dropout: float, out_weight: Tensor, out_bias: Tensor | None, training: bool,
    padding: Tensor | None, need_weights: bool, mask: Tensor | None, separate: list[Any],
    average: bool, causal: bool, batch_first: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    _check(query, key, value, size, heads, weight is None, padding, mask)
    if causal and mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module "
            "method `generate_square_subsequent_mask` to create this mask."
        )
    single = query.ndim == 2
    axis = 0 if batch_first or single else 1  # of the batch
    if not single and key.shape[axis] != query.shape[axis]:
        raise RuntimeError(
            f"MultiheadAttention: expected as many samples in query and key, got "
            f"{query.shape[axis]} and {key.shape[axis]}"
        )
    projected = _project(query, key, value, weight, bias, separate)
    q, k, v = (x.unsqueeze(0) if single else x for x in projected)
    if padding is not None and single:
        padding = padding.unsqueeze(0)
    padding = as_added(padding, "key_padding_mask", query.dtype, mask, "attn_mask")
    shown_by_mask = causal and padding is None and not need_weights
    mask = None if shown_by_mask else as_added(mask, "attn_mask", query.dtype)
    if bias_k is not None and bias_v is not None:
        k, v = (_one_more(x, extra, axis) for x, extra in ((k, bias_k), (v, bias_v)))
    q, k, v = (_heads(x, heads, axis) for x in (q, k, v))
    if add_zero:
        k, v = (ops.pad(x, (0, 0, 0, 1)) for x in (k, v))
    extra = (bias_k is not None) + add_zero
    hidden = _merged(mask, padding, tuple(q.shape[:3]), k.shape[2], extra)
    dropout = dropout if training else 0.0
    if need_weights:
        scores = ops.matmul(q * math.sqrt(1.0 / q.shape[-1]), k.transpose(-2, -1))
        weights = ops.softmax(scores if hidden is None else scores + hidden, -1)
        if dropout:
            weights = F.dropout(weights, dropout)
        y = ops.matmul(weights, v)
        weights = weights.mean(1) if average else weights
        weights = weights.squeeze(0) if single else weights
    else:
        weights = None
        y = scaled_dot_product_attention(q, k, v, hidden, dropout, shown_by_mask)
    y = y.transpose(1, 2) if axis == 0 else y.permute(2, 0, 1, 3)
    y = F.linear(y.flatten(2), out_weight, out_bias)
    return y.squeeze(0) if single else y, weights


def _check(
    query: Tensor, key: Tensor, value: Tensor, size: int, heads: int, separate: bool,
    padding: Tensor | None, mask: Tensor | None,
) -> None:  # fmt: skip
    name = "MultiheadAttention"
    if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
        raise AssertionError(
            f"{name}: expected query, key and value of 3 dimensions, or of 2 for a single "
            f"sequence, got {query.ndim}, {key.ndim} and {value.ndim}"
        )
    single = query.ndim == 2
    if padding is not None and padding.ndim != query.ndim - 1:
        raise AssertionError(
            f"{name}: expected a key_padding_mask {'(S)' if single else '(N, S)'}, got "
            f"{tuple(padding.shape)}"
        )
    if mask is not None and mask.ndim not in (2, 3):
        raise RuntimeError(f"attn_mask's dimension {mask.ndim} is not supported")
    if query.shape[-1] != size:
        raise AssertionError(
            f"was expecting embedding dimension of {size}, but got {query.shape[-1]}"
        )
    if size % heads:
        raise AssertionError(f"embed_dim {size} not divisible by num_heads {heads}")
    last = -1 if separate else None
    if tuple(key.shape[:last]) != tuple(value.shape[:last]):
        raise AssertionError(
            f"key shape {tuple(key.shape)} does not match value shape {tuple(value.shape)}"
        )


def _project(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor | None, bias: Tensor | None,
    separate: list[Any],
) -> list[Tensor]:  # fmt: skip
    """Queries, keys and values in the features of the heads, in as few products as can be."""
    biases: Any = [None] * 3 if bias is None else ops.chunk(bias, 3)
    inputs = (query, key, value)
    if weight is None:
        return [F.linear(*each) for each in zip(inputs, separate, biases, strict=True)]
    if query is key and key is value:
        return list(ops.chunk(F.linear(query, weight, bias), 3, -1))
    if key is value:
        size = query.shape[-1]
        both = F.linear(key, weight[size:], None if bias is None else bias[size:])
        return [F.linear(query, weight[:size], biases[0]), *ops.chunk(both, 2, -1)]
    return [F.linear(*each) for each in zip(inputs, ops.chunk(weight, 3), biases, strict=True)]


def _one_more(x: Tensor, extra: Tensor, axis: int) -> Tensor:
    """Keys or values with one more of them, the same for the whole batch."""
    shape = (x.shape[0], 1, -1) if axis == 0 else (1, x.shape[1], -1)
    both: Tensor = ops.cat([x, extra.expand(*shape)], 1 - axis)
    return both


def _heads(x: Tensor, heads: int, axis: int) -> Tensor:
    """(N, L, E), or (L, N, E) where the batch's axis is 1, as (N, H, L, E / H)."""
    parts = x.unflatten(-1, (heads, -1))
    return parts.transpose(1, 2) if axis == 0 else parts.permute(1, 2, 0, 3)


def as_added(
    mask: Tensor | None, name: str, dtype: Any, other: Tensor | None = None, other_name: str = ""
) -> Tensor | None:
    """A mask as what is added to the scores: -inf where a boolean one is True.

    A UserWarning where the other mask is not of its dtype.
    """
    if mask is None:
        return None
    if mask.dtype is not bool_ and not mask.is_floating_point():
        raise AssertionError(f"only bool and floating types of {name} are supported")
    if other is not None and other.dtype != mask.dtype:
        warnings.warn(
            f"Support for mismatched {name} and {other_name} is deprecated. "
            "Use same type for both instead.",
            stacklevel=3,
        )
    if mask.is_floating_point():
        return mask
    added: Tensor = ops.where(mask, -math.inf, 0.0).to(dtype)
    return added


def _merged(
    mask: Tensor | None, padding: Tensor | None, shape: tuple[int, ...], columns: int, extra: int
) -> Tensor | None:
    """What is added to the scores (N, H, L, S): nothing for the last `extra` keys, which the layer
    itself appended."""
    number, heads, length = shape
    if mask is not None:
        sizes = (length, columns - extra)
        expected = sizes if mask.ndim == 2 else (number * heads, *sizes)
        if tuple(mask.shape) != expected:
            raise RuntimeError(
                f"The shape of the {mask.ndim}D attn_mask is {tuple(mask.shape)}, but should be "
                f"{expected}."
            )
        mask = ops.pad(mask, (0, extra)) if extra else mask
        mask = mask.reshape(-1, heads, length, columns) if mask.ndim == 3 else mask
    if padding is None:
        return mask
    if tuple(padding.shape) != (number, columns - extra):
        raise AssertionError(
            f"Expected key_padding_mask of shape {(number, columns - extra)}, but got "
            f"{tuple(padding.shape)}"
        )
    padding = ops.pad(padding, (0, extra)) if extra else padding
    padding = padding.reshape(number, 1, 1, columns)
    return padding if mask is None else mask + padding
