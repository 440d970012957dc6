"""Sequences of different lengths as one batch: padded to one length, or packed without padding.

Source: https://docs.pytorch.org/docs/stable/nn.html#module-torch.nn.utils
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from nanotorch import ops
from nanotorch.creation import arange, as_tensor, empty_like
from nanotorch.tensor import Tensor


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """Sequences without padding, made by `pack_padded_sequence` or `pack_sequence`.

    `data` (rows, *) holds the first elements of all sequences, longest sequence first, then the
    second elements, and so on; `batch_sizes` (int64, on the CPU) counts the elements of each step.
    `sorted_indices` put the user's sequences in that order, `unsorted_indices` put them back.
    """

    __slots__ = ()

    def __new__(
        cls, data: Tensor, batch_sizes: Tensor, sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:  # fmt: skip
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        if batch_sizes.is_cuda:
            raise ValueError(
                f"PackedSequence: batch_sizes should be on the CPU, got {batch_sizes.device}"
            )
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with `data` in another dtype or on another device: see `Tensor.to`."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        indices = [x if x is None else x.to(data.device) for x in self[2:]]
        return PackedSequence(data, self.batch_sizes, *indices)

    def cpu(self) -> PackedSequence:
        """The same on the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = "cuda") -> PackedSequence:
        """The same on a CUDA device."""
        return self.to(device)

    def double(self) -> PackedSequence:
        """The same with float64 data."""
        return self.to(self.data.double().dtype)

    def float(self) -> PackedSequence:
        """The same with float32 data."""
        return self.to(self.data.float().dtype)

    @property
    def is_cuda(self) -> bool:
        """Whether the data are on a CUDA device."""
        return self.data.is_cuda


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes this one; None for None."""
    if permutation is None:
        return None
    inverse = empty_like(permutation)
    inverse[permutation] = arange(len(permutation), device=permutation.device)
    return inverse


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs sequences (T, B, *), or (B, T, *) where `batch_first`, of the given lengths.

    lengths: B integers, a list or an int64 tensor on the CPU, in decreasing order unless
    `enforce_sorted` is False. RuntimeError for lengths that do not fit the input.
    """
    if isinstance(lengths, Tensor) and lengths.is_cuda:
        raise RuntimeError(
            "'lengths' argument should be a 1D CPU int64 tensor, but got one on "
            f"{lengths.device}; call lengths.cpu()"
        )
    numbers = [int(n) for n in lengths]
    padded = input.transpose(0, 1) if batch_first else input
    if len(numbers) != padded.shape[1]:
        raise RuntimeError(
            "Expected `len(lengths)` to be equal to batch_size, but got "
            f"{len(numbers)} (batch_size={padded.shape[1]})"
        )
    if min(numbers, default=0) <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' "
            "that is <= 0"
        )
    if max(numbers) > padded.shape[0]:
        raise RuntimeError(
            f"pack_padded_sequence: expected lengths of at most {padded.shape[0]}, the length of "
            f"the input, got {max(numbers)}"
        )
    order = None
    if not enforce_sorted:
        places = sorted(range(len(numbers)), key=lambda place: -numbers[place])
        numbers = [numbers[place] for place in places]
        order = as_tensor(places, device=input.device)
        padded = padded.index_select(1, order)
    elif numbers != sorted(numbers, reverse=True):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You "
            "can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence."
        )
    sizes = as_tensor([sum(n > step for n in numbers) for step in range(numbers[0])], device="cpu")
    data = padded[: numbers[0]][_present(sizes, len(numbers), input.device)]
    return PackedSequence(data, sizes, order)


def _present(batch_sizes: Tensor, batch: int, device: Any) -> Tensor:
    """Which of the (steps, sequences) have an element."""
    places = arange(batch, device=batch_sizes.device)
    mask: Tensor = places.unsqueeze(0) < batch_sizes.unsqueeze(1)
    return mask.to(device)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(padded sequences (T, B, *), or (B, T, *) where `batch_first`; their lengths, int64).

    The sequences are in the order in which they were packed. T is the longest length, or
    `total_length`; ValueError where that is shorter.
    """
    data, sizes, _, back = sequence
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None and total_length < steps:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but "
            f"got total_length={total_length} and max sequence length being {steps}"
        )
    present = _present(sizes, batch, data.device)
    shape = (total_length or steps, batch, *data.shape[1:])
    padded = data.new_full(shape, padding_value)
    padded[:steps][present] = data
    lengths = (arange(batch, device=sizes.device).unsqueeze(0) < sizes.unsqueeze(1)).sum(0)
    if back is not None:
        padded, lengths = padded.index_select(1, back), lengths[back.cpu()]
    return (padded.transpose(0, 1) if batch_first else padded), lengths


def pad_sequence(
    sequences: Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:  # fmt: skip
    """Sequences (L, *) as one tensor (T, B, *), or (B, T, *) where `batch_first`; T the longest."""
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            "pad_sequence: Expected iterable for input sequences, but got arg of type: "
            f"{type(sequences)}"
        )
    if padding_side not in ("left", "right"):
        raise ValueError(
            f"pad_sequence: expected padding_side 'left' or 'right', got {padding_side!r}"
        )
    parts = list(sequences)
    longest = max(len(x) for x in parts)
    padded = []
    for x in parts:
        padding = x.new_full((longest - len(x), *x.shape[1:]), padding_value)
        padded.append(ops.cat([x, padding] if padding_side == "right" else [padding, x]))
    return ops.stack(padded, 0 if batch_first else 1)  # type: ignore[no-any-return]


def pack_sequence(sequences: Iterable[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Packs sequences (L, *), in decreasing order of length unless `enforce_sorted` is False."""
    parts = list(sequences)
    lengths = [len(x) for x in parts]
    return pack_padded_sequence(pad_sequence(parts), lengths, enforce_sorted=enforce_sorted)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False
) -> list[Tensor]:
    """The sequences (L, *) that `pad_sequence` made one tensor of, from their lengths."""
    rows = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [x[: int(length)] for x, length in zip(rows, lengths, strict=True)]
