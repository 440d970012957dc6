"""Tables of vectors looked up by number, one by one or bag by bag."""

from __future__ import annotations

import math
from typing import Any, Self

from nanotorch import ops
from nanotorch.autograd.grad_mode import no_grad
from nanotorch.creation import arange, empty
from nanotorch.nn import functional as F, init
from nanotorch.nn.module import Module
from nanotorch.nn.parameter import Parameter
from nanotorch.tensor import Tensor


class Embedding(Module):
    """y = weight[x]: row x of a table of shape (num_embeddings, embedding_dim).

    The row `padding_idx` starts at 0 and gets no gradient. The table starts standard normal, or is
    `_weight`. With `sparse` its gradient stores the rows of x alone, which SGD, Adagrad and
    SparseAdam take: a step then costs by the rows and not by the table. `max_norm` and
    `scale_grad_by_freq` are left out.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
        max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False,
        sparse: bool = False, _weight: Tensor | None = None, _freeze: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        _refuse("Embedding", max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq)
        self.sparse = sparse
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Embedding: padding_idx must be within num_embeddings ({num_embeddings}), "
                    f"got {padding_idx}"
                )
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        shape = (num_embeddings, embedding_dim)
        if _weight is None:
            table = empty(shape, device=device, dtype=dtype)
            self.weight = Parameter(table, requires_grad=not _freeze)
            self.reset_parameters()
        else:
            if tuple(_weight.shape) != shape:
                raise ValueError(
                    f"Embedding: expected a weight of shape {shape}, got {tuple(_weight.shape)}"
                )
            self.weight = Parameter(_weight, requires_grad=not _freeze)

    def reset_parameters(self) -> None:
        """Draws the table anew; the padding row becomes 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx].fill_(0)

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None,
        max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:  # fmt: skip
        """A layer around an existing table of shape (rows, dim), not trained where `freeze`."""
        if embeddings.ndim != 2:
            raise ValueError(
                f"Embedding: expected a table of 2 dimensions, got shape {tuple(embeddings.shape)}"
            )
        rows, columns = embeddings.shape
        return cls(
            rows, columns, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse,
            embeddings, freeze,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: (*) of integers to (*, embedding_dim).

        IndexError for an integer that is no row; on a GPU when the host next waits for it.
        """
        return F.embedding(input, self.weight, self.padding_idx, sparse=self.sparse)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        sparse = ", sparse=True" if self.sparse else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{sparse}"


class EmbeddingBag(Module):
    """y = the sum, mean or maximum of the rows that a bag of numbers names.

    The row `padding_idx` starts at 0, counts in no bag and gets no gradient. The table starts
    standard normal, or is `_weight`. With `sparse` its gradient stores the rows of the bags alone,
    as in `Embedding`. `max_norm` and `scale_grad_by_freq` are left out.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, mode: str = "mean",
        sparse: bool = False, _weight: Tensor | None = None, include_last_offset: bool = False,
        padding_idx: int | None = None, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        _refuse("EmbeddingBag", max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq)
        table = Embedding(
            num_embeddings, embedding_dim, padding_idx, _weight=_weight, device=device, dtype=dtype
        )
        self.sparse = sparse
        self.num_embeddings, self.embedding_dim, self.mode = num_embeddings, embedding_dim, mode
        self.padding_idx, self.weight = table.padding_idx, table.weight
        self.include_last_offset = include_last_offset

    def reset_parameters(self) -> None:
        """Draws the table anew; the padding row becomes 0."""
        Embedding.reset_parameters(self)  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, mode: str = "mean",
        sparse: bool = False, include_last_offset: bool = False, padding_idx: int | None = None,
    ) -> Self:  # fmt: skip
        """A layer around an existing table of shape (rows, dim), not trained where `freeze`."""
        if embeddings.ndim != 2:
            raise ValueError(
                f"EmbeddingBag: expected a table of 2 dimensions, got {tuple(embeddings.shape)}"
            )
        layer = cls(
            embeddings.shape[0], embeddings.shape[1], max_norm, norm_type, scale_grad_by_freq, mode,
            sparse, embeddings, include_last_offset, padding_idx,
        )  # fmt: skip
        layer.weight.requires_grad_(not freeze)
        return layer

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Shapes: (bags, length), or (*) with the `offsets` (bags) where bags start, to
        (bags, embedding_dim)."""
        return embedding_bag(
            input, self.weight, offsets, mode=self.mode, sparse=self.sparse,
            per_sample_weights=per_sample_weights, include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}{padding}"


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean",
    sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """y = the sum, mean or maximum of the rows of `weight` that each bag names, 0 for empty bags.

    Bags are the rows of `input` (bags, length), or begin in `input` (*) at the `offsets`, of which
    the last may be the end (`include_last_offset`). A sum takes `per_sample_weights` like `input`.
    """
    _refuse("EmbeddingBag", max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq)
    if sparse and mode == "max":
        raise ValueError("max mode does not support sparse weights")
    _check_bags(input, weight, offsets, mode, per_sample_weights)
    if offsets is None:
        count, length = input.shape
        bags = ops.expand(_numbers(input, count).unsqueeze(-1), (count, length)).flatten()
    else:
        count = offsets.shape[0] - include_last_offset
        bags = ops.bucketize(_numbers(input, input.shape[0]), offsets[:count], right=True) - 1
    input = input.flatten()
    try:
        rows = F.embedding(input, weight, padding_idx, sparse=sparse)
    except IndexError as error:  # which PyTorch's bags raise as another class
        raise RuntimeError(f"embedding_bag: {error}") from None
    counts = None if padding_idx is None else (input != padding_idx % weight.shape[0])
    if mode == "max" and len(input):
        return _greatest(rows, bags, counts, count)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.flatten().unsqueeze(-1)
    if counts is not None:
        rows = ops.where(counts.unsqueeze(-1), rows, 0.0)
    if offsets is None:
        total: Tensor = ops.sum(rows.reshape(count, length, weight.shape[1]), 1)
    else:
        nothing = ops.zeros_like(weight[:1].expand(count, weight.shape[1]))
        total = ops.index_add(nothing, 0, bags, rows)
    if mode != "mean":
        return total
    ones = ops.ones_like(bags) if counts is None else counts.to(bags.dtype)
    sizes = ops.index_add(ops.zeros_like(_numbers(input, count)), 0, bags, ones)
    mean: Tensor = total / sizes.clamp(min=1).unsqueeze(-1).to(total.dtype)
    return mean


def _greatest(rows: Tensor, bags: Tensor, counts: Tensor | None, count: int) -> Tensor:
    """The maximum of each bag's rows, from the first of equal ones."""
    sizes = ops.bincount(bags, minlength=count)
    places = _numbers(bags, int(sizes.max()))
    member = places < sizes.unsqueeze(-1)  # (bags, the longest bag)
    index = ops.where(member, (sizes.cumsum(0) - sizes).unsqueeze(-1) + places, 0)
    if counts is not None:
        member = member & counts[index]
    values = ops.where(member.unsqueeze(-1), rows[index], -math.inf)
    greatest: Tensor = ops.where(member.any(1, keepdim=True), ops.max(values, 1)[0], 0.0)
    return greatest


def _numbers(like: Tensor, count: int) -> Tensor:
    """0, 1, …, count - 1 on the device of a tensor."""
    return arange(count, device=like.device)


def _check_bags(
    input: Tensor, weight: Tensor, offsets: Tensor | None, mode: str, factors: Tensor | None
) -> None:
    name = "embedding_bag"
    if factors is not None and factors.shape != input.shape:
        raise ValueError(
            f"{name}: per_sample_weights must have the same shape as the input "
            f"{tuple(input.shape)}, got {tuple(factors.shape)}"
        )
    if weight.ndim != 2:
        raise ValueError(f"{name}: weight has to be a 2D Tensor, got {weight.ndim}D")
    if input.ndim not in (1, 2):
        raise ValueError(f"{name}: input has to be 1D or 2D Tensor, got {input.ndim}D")
    if input.ndim == 2 and offsets is not None:
        raise ValueError(f"{name}: if input is 2D, then offsets has to be None")
    if input.ndim == 1 and (offsets is None or offsets.ndim != 1):
        raise ValueError(f"{name}: offsets has to be a 1D Tensor where input is 1D")
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"{name}: mode has to be one of sum, mean or max, got {mode!r}")
    if factors is not None and mode != "sum":
        raise NotImplementedError(
            f"{name}: per_sample_weights is only supported for mode='sum', got {mode!r}"
        )
    if offsets is not None and not offsets.is_cuda and len(offsets):
        first, last = int(offsets._array[0]), int(offsets._array.max())
        if first != 0 or last > len(input):
            raise RuntimeError(
                f"{name}: expected offsets from 0 to the length of the input ({len(input)}), got "
                f"{first} first and {last} at most"
            )


def _refuse(layer: str, **options: Any) -> None:
    """One line for options that are left out."""
    for name, value in options.items():
        if value not in (None, False):
            raise NotImplementedError(f"{layer}: {name} is not part of NanoTorch")
