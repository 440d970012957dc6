"""What each kernel does with the rows of a batch: maps them one by one, sums over them, or neither.

An array is seen as `ROWS` (its first dimension counts the rows), `COLUMNS` (its second one does: a
transposed matrix), `SUM` (a sum over rows) or `WHOLE` (rows do not concern it). `role` says which
of these a kernel's output is.
"""

from __future__ import annotations

from collections.abc import Callable

from nanotorch.backend import MODULES
from nanotorch.compile.recorder import Kernel
from nanotorch.ops import (
    activations,
    binary_losses,
    broadcasting,
    casting,
    class_losses,
    comparisons,
    linalg,
    losses,
    products,
    shapes,
    sums,
)
from nanotorch.primitive import Elementwise

WHOLE, ROWS, COLUMNS, SUM = "whole", "rows", "columns", "sum"
Rule = Callable[[Kernel, list[str], int], str | None]


def role(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """What the output of a kernel is whose operands are of these kinds; None where its rows depend
    on one another, or on a sum over all."""
    if ROWS not in kinds and COLUMNS not in kinds:
        return SUM if SUM in kinds else WHOLE
    if SUM in kinds:
        return None
    rule = next((rule for those, rule in RULES if issubclass(step.primitive, those)), None)
    return None if rule is None else rule(step, kinds, rows)


def meet(step: Kernel, kinds: list[str], shape: tuple[int, ...], rows: int) -> bool:
    """Whether rows meet rows, or what is the same for all of them, in operands that are broadcast
    to a shape."""
    if not shape or shape[0] != rows:
        return False
    for array, kind in zip(step.operands, kinds, strict=True):
        if type(array) in MODULES:
            aligned = array.ndim == len(shape)
            if kind == COLUMNS or (kind == ROWS and not (aligned and array.shape[0] == rows)):
                return False
            if kind == WHOLE and aligned and array.shape[0] != 1:
                return False
    return True


def mapped(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """Elementwise with broadcasting."""
    return ROWS if meet(step, kinds, step.out.shape, rows) else None


def transposed(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """The transposition of a matrix of rows, and back."""
    before, after = step.operands[0].shape, step.out.shape
    if len(after) != 2:
        return None
    if before == after and before[0] != before[1]:
        return kinds[0]
    return COLUMNS if kinds[0] == ROWS else ROWS


def reshaped(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """A change of shape within each row."""
    before, after = step.operands[0].shape, step.out.shape
    if not before or not after or before[0] != rows or after[0] != rows:
        return None
    first = step.primitive is shapes.Squeeze and 0 in step.attributes["dims"]
    return None if first else ROWS


def reduced(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """A sum or mean: over rows, or within each of them."""
    before, after = step.operands[0].shape, step.out.shape
    if before[0] != rows:
        return None
    if step.primitive is broadcasting.SumTo:
        return ROWS if after and len(after) == len(before) and after[0] == rows else SUM
    if 0 not in sums.dims(before, step.attributes["dim"]):
        return ROWS
    return SUM if step.primitive is sums.Sum else None  # a mean over rows divides, too


def softmax(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """A softmax of each row, or its reverse."""
    within = step.attributes["dim"] % step.out.ndim != 0
    return ROWS if within and set(kinds) == {ROWS} else None


def product(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """A product of each row with what is the same for all of them, or a sum of such over rows."""
    if kinds[0] == ROWS and set(kinds[1:]) == {WHOLE} and step.operands[0].ndim > 1:
        return ROWS
    return SUM if kinds == [COLUMNS, ROWS] else None


def loss(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """An elementwise loss with its reduction."""
    if not meet(step, kinds, step.operands[0].shape, rows):
        return None
    return ROWS if step.attributes["reduction"] == "none" else SUM


def class_loss(step: Kernel, kinds: list[str], rows: int) -> str | None:
    """A loss of classes that weigh the same, what it shares with its reverse, or the reverse."""
    operands = zip(step.primitive.input_names, step.operands, kinds, strict=True)
    apart = [kind for name, a, kind in operands if name != "g" and type(a) in MODULES]
    if step.operands[-1] is not None or set(apart) != {ROWS}:
        return None
    return ROWS if step.out.shape else SUM


RULES: list[tuple[tuple[type, ...], Rule]] = [
    ((shapes.Permute, shapes.Transpose, shapes.T), transposed),
    ((shapes.View, shapes.UnsafeView, shapes.Reshape, broadcasting.Expand), reshaped),
    ((shapes.Squeeze, shapes.Unsqueeze), reshaped),
    ((sums.Sum, sums.Mean, broadcasting.SumTo), reduced),
    ((Elementwise, comparisons.Where, comparisons.MaskedFill), mapped),
    ((casting.Clone, casting.Contiguous, casting.ToCopy), mapped),
    ((activations.Softmax, activations.LogSoftmax), softmax),
    ((activations.SoftmaxReverse, activations.LogSoftmaxReverse), softmax),
    ((products.LinearLayer, products.Mm, linalg.Mv), product),
    ((binary_losses.BinaryCrossEntropyWithLogits,), loss),
    ((losses.BinaryCrossEntropy, losses.MseLoss), loss),
    ((losses.NllLoss, losses.NllLossReverse, class_losses.CrossEntropyTerms), class_loss),
    ((class_losses.CrossEntropy, class_losses.CrossEntropyReverse), class_loss),
]
