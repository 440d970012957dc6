"""The loss that a run minimizes: by the task, with class and row weights, and the penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.nn import functional as F
from nanotorch.training.config.sections import Loss, Penalty
from nanotorch.training.data.encoding import Target
from nanotorch.training.data.prepare import Part
from nanotorch.training.errors import InputError

Tensor = nt.Tensor


class Objective:
    """loss(outputs, target, weights): the mean over rows, weighted where weights are given.

    With weights w the mean is sum w_i l_i / sum w_i, as PyTorch's weighted cross-entropy has it.
    """

    def __init__(self, loss: Loss, target: Target, device: Any, dtype: Any) -> None:
        self.task = target.task
        self.label_smoothing = loss.label_smoothing
        self.pos_weight = _pos_weight(loss, target, device, dtype)
        if loss.label_smoothing and self.task == "regression":
            raise InputError("loss.label_smoothing: is for classes, and the target is numbers")

    def __call__(self, outputs: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            return self._loss(outputs, target, "mean")
        losses = self._loss(outputs, target, "none")
        if losses.dim() == 2:
            losses = losses.mean(dim=1)
        return (losses * weights).sum() / weights.sum()

    def _loss(self, outputs: Tensor, target: Tensor, reduction: str) -> Tensor:
        if self.task == "classes":
            return F.cross_entropy(
                outputs, target, reduction=reduction, label_smoothing=self.label_smoothing
            )
        if self.task == "regression":
            return F.mse_loss(outputs, target, reduction=reduction)
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(
            outputs, target, pos_weight=self.pos_weight, reduction=reduction
        )


def _pos_weight(loss: Loss, target: Target, device: Any, dtype: Any) -> Tensor | None:
    if loss.pos_weight is None:
        return None
    if target.task not in ("binary", "labels"):
        raise InputError(
            f"loss.pos_weight: is for binary and multi-label targets, not {target.task}"
        )
    values = loss.pos_weight if isinstance(loss.pos_weight, list) else [loss.pos_weight]
    if len(values) not in (1, target.outputs):
        raise InputError(
            f"loss.pos_weight: expected 1 or {target.outputs} numbers, given {len(values)}"
        )
    return nt.tensor(values, dtype=dtype, device=device)


def class_weights(loss: Loss, target: Target, train: Part) -> np.ndarray[Any, Any] | None:
    """The weight of each class, or None where all weigh one."""
    if loss.class_weight == "none":
        return None
    if target.task not in ("binary", "classes"):
        raise InputError(f"loss.class_weight: is for classes, not for {target.task}")
    count = len(target.classes)
    if isinstance(loss.class_weight, list):
        if len(loss.class_weight) != count:
            raise InputError(
                f"loss.class_weight: expected {count} numbers for the classes "
                f"{', '.join(target.classes[:8])}, given {len(loss.class_weight)}"
            )
        weights = np.asarray(loss.class_weight)
    else:
        rows = np.bincount(train.target.ravel().astype(np.int64), minlength=count)
        weights = len(train) / (count * rows)
    return None if (weights == 1).all() else weights


def row_weights(loss: Loss, target: Target, train: Part, part: Part) -> np.ndarray[Any, Any] | None:
    """Row weights of a part: those of its data times those that classes have in training."""
    by_class = class_weights(loss, target, train)
    if by_class is None:
        return part.weights
    weights = by_class[part.target.ravel().astype(np.int64)].astype(np.float32)
    return weights if part.weights is None else weights * part.weights


def make_penalty(
    penalty: Penalty, parameters: list[tuple[str, nt.nn.Parameter]]
) -> Callable[[], Tensor] | None:
    """l1 * sum |w| + l2 / 2 * sum w^2 over the given parameters; None where both are 0."""
    if not (penalty.l1 or penalty.l2):
        return None
    if not parameters:
        raise InputError(f"penalty.parameters: no parameter matches {penalty.parameters}")

    def total() -> Tensor:
        terms = []
        for _, parameter in parameters:
            if parameter.requires_grad:
                if penalty.l1:
                    terms.append(parameter.abs().sum() * penalty.l1)
                if penalty.l2:
                    terms.append((parameter * parameter).sum() * (penalty.l2 / 2))
        return sum(terms[1:], terms[0]) if terms else nt.zeros(())

    return total
