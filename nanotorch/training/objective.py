"""The loss that a run minimizes: by the task, with class and row weights, and the penalty."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nanotorch as nt
from nanotorch.nn import functional as F
from nanotorch.training.config.sections import Loss, Penalty
from nanotorch.training.data.encoding import Target
from nanotorch.training.data.parts import AnyPart, class_counts
from nanotorch.training.errors import InputError

Tensor = nt.Tensor
SMALLEST = 1e-30  # sum of weights that a mean is divided by


class Objective:
    """loss(outputs, target, weights): the mean over rows, weighted where weights are given.

    With weights w the mean is sum w_i l_i / sum w_i, as PyTorch's weighted cross-entropy has it.
    """

    def __init__(self, loss: Loss, target: Target, device: Any, dtype: Any) -> None:
        pos_weight = _pos_weight(loss, target, device, dtype)
        smoothing = loss.label_smoothing
        if smoothing and target.task == "regression":
            raise InputError("loss.label_smoothing: is for classes, and the target is numbers")
        self._loss: Callable[..., Tensor] = F.binary_cross_entropy_with_logits
        if target.task == "classes":
            self._loss = partial(F.cross_entropy, label_smoothing=smoothing)
        elif target.task == "regression":
            self._loss = F.mse_loss
        elif pos_weight is not None or smoothing:
            self._loss = partial(_smoothed_binary, smoothing=smoothing, pos_weight=pos_weight)

    def __call__(self, outputs: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            return self._loss(outputs, target)
        losses = self._loss(outputs, target, reduction="none")
        if losses.dim() == 2:
            losses = losses.mean(dim=1)
        # A batch in which every row weighs 0 has the loss 0.
        mean: Tensor = (losses * weights).sum() / weights.sum().clamp(min=SMALLEST)
        return mean


def _smoothed_binary(
    outputs: Tensor,
    target: Tensor,
    smoothing: float,
    pos_weight: Tensor | None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross-entropy with targets 0 and 1 moved towards one half."""
    if smoothing:
        target = target * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(
        outputs, target, pos_weight=pos_weight, reduction=reduction
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
        count = f"1 or {target.outputs} numbers" if target.outputs > 1 else "1 number"
        raise InputError(f"loss.pos_weight: expected {count}, given {len(values)}")
    return nt.tensor(values, dtype=dtype, device=device)


def class_weights(loss: Loss, target: Target, train: AnyPart) -> NDArray[Any] | None:
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
        if not weights.any():
            raise InputError("loss.class_weight: every class weighs 0, nothing is learned")
    else:
        weights = len(train) / (count * class_counts(train, count))
    return None if (weights == 1).all() else weights


Weigh = Callable[[NDArray[Any], NDArray[Any] | None], NDArray[Any] | None]


def weighing(loss: Loss, target: Target, train: AnyPart) -> Weigh:
    """Row weights of rows with a target, given those of their data: times those that classes have
    in training; None where all weigh one."""
    by_class = class_weights(loss, target, train)

    def weigh(target: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any] | None:
        if by_class is None:
            return weights
        each: NDArray[Any] = by_class[target.ravel().astype(np.int64)].astype(np.float32)
        return each if weights is None else each * weights

    return weigh


class ElasticNet:
    """l1 * sum |w| + l2 / 2 * sum w^2 over the parameters that are trained.

    Its gradient, l1 * sign w + l2 * w, is known: it is added to that of the loss without a graph.
    """

    def __init__(self, penalty: Penalty, parameters: list[tuple[str, nt.nn.Parameter]]) -> None:
        self.l1, self.l2 = penalty.l1, penalty.l2
        self.parameters = [parameter for _, parameter in parameters]
        if (self.l1 or self.l2) and not self.parameters:
            raise InputError(f"penalty.parameters: no parameter matches {penalty.parameters}")

    def __bool__(self) -> bool:
        return bool(self.l1 or self.l2)

    def value(self) -> float:
        """The penalty itself, which a line search compares."""
        total = 0.0
        for parameter in self.parameters if self else ():
            if parameter.requires_grad:
                w = parameter._array.reshape(-1)  # not by ops: they take as long as a small step
                total += self.l2 / 2 * float(w @ w)
                total += self.l1 * float(abs(w).sum()) if self.l1 else 0.0
        return total

    def add_gradients(self, share: float = 1.0) -> None:
        """Add `share` of the penalty's gradient to the gradients of the parameters."""
        with nt.no_grad():
            for parameter in self.parameters:
                if parameter.grad is not None and parameter.requires_grad:
                    if self.l2:
                        parameter.grad.add_(parameter, alpha=self.l2 * share)
                    if self.l1:
                        parameter.grad.add_(parameter.sign(), alpha=self.l1 * share)
