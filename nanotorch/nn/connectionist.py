"""Connectionist temporal classification (Graves et al., 2006): a loss over all alignments."""

from __future__ import annotations

import math
from typing import Any

from nanotorch import ops
from nanotorch.autograd.grad_mode import in_precision
from nanotorch.creation import arange, as_tensor
from nanotorch.ops.loss_reductions import check_reduction, total
from nanotorch.tensor import Tensor

NEVER = -1e30  # the logarithm of 0, whose slopes are numbers


@in_precision("full")
def ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean", zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """-log of the probability that the inputs, without repetitions and blanks, are the targets.

    log_probs (T, N, C), or (T, C) of one sample: log-softmax over the classes. targets: integers
    (N, S), or those of all samples one behind the other. The lengths: tensors or lists of N
    integers. The mean divides each loss by its target's length first. `zero_infinity`: 0 for a
    target that no alignment gives, which is infinite otherwise. RuntimeError where shapes differ.
    """
    check_reduction(reduction)
    single = log_probs.ndim == 2
    if single:
        log_probs, targets = log_probs.unsqueeze(1), targets.reshape(1, -1)
    steps, samples, classes = log_probs.shape
    place = log_probs.device
    lengths, sizes = (as_tensor(n).to(place).reshape(-1) for n in (input_lengths, target_lengths))
    if lengths.numel() != samples or sizes.numel() != samples:
        raise RuntimeError(
            f"ctc_loss: expected {samples} lengths of inputs and of targets, got "
            f"{lengths.numel()} and {sizes.numel()}"
        )
    if not 0 <= blank < classes:
        raise RuntimeError(f"ctc_loss: blank must be in label range, got {blank} of {classes}")
    if targets.ndim == 1:
        rows = ops.split(targets, sizes.tolist())
        longest = max((len(row) for row in rows), default=0)
        targets = ops.stack([ops.pad(row, (0, longest - len(row)), value=blank) for row in rows])
    targets = targets.to(place).long()
    if place.type == "cpu" and ((lengths > steps).any() or (sizes > targets.shape[1]).any()):
        raise RuntimeError(
            f"ctc_loss: expected lengths of up to {steps} inputs and {targets.shape[1]} targets, "
            f"got {lengths.tolist()} and {sizes.tolist()}"
        )
    within = arange(targets.shape[1], device=place) < sizes.unsqueeze(1)
    labels = targets.new_full((samples, 2 * targets.shape[1] + 1), blank)  # a blank beside each
    labels[:, 1::2] = ops.where(within, targets, blank)
    emitted = ops.gather(log_probs, 2, labels.expand(steps, *labels.shape))
    differs = (labels[:, 2:] != labels[:, :-2]) & (labels[:, 2:] != blank)
    leaps = ops.pad(ops.where(differs, 0.0, NEVER), (2, 0), value=NEVER).to(log_probs.dtype)
    first = arange(labels.shape[1], device=place) < 2
    paths = ops.where(first, emitted[0], NEVER)
    for step in range(1, steps):
        one, two = (ops.pad(paths, (n, 0), value=NEVER)[:, :-n] for n in (1, 2))
        longer = ops.logsumexp(ops.stack((paths, one, two[:, : labels.shape[1]] + leaps)), 0)
        paths = ops.where((step < lengths).unsqueeze(1), longer + emitted[step], paths)
    ends = (2 * sizes).unsqueeze(1) - arange(2, device=place)
    last = ops.where(ends < 0, NEVER, ops.gather(paths, 1, ends.clamp(min=0)))
    loss: Tensor = -ops.logsumexp(last, 1)
    loss = ops.where(loss > -NEVER / 2, 0.0 if zero_infinity else math.inf, loss)
    if reduction == "mean":
        loss = loss / sizes.clamp(min=1)
    loss = loss.squeeze(0) if single else loss
    return total(loss, reduction)  # type: ignore[no-any-return]
