"""What each kernel does with the rows of a batch: maps them one by one, sums over them, or neither.

An array is seen as `ROWS` (its first dimension counts the rows), `COLUMNS` (its second one does: a
transposed matrix), `SUM` (a sum over rows) or `WHOLE` (rows do not concern it). `role` says which
of these a kernel's output is, and how its attributes change when it is given only some of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

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
from nanotorch.primitive import Elementwise, Linear

WHOLE, ROWS, COLUMNS, SUM = "whole", "rows", "columns", "sum"


class Role(NamedTuple):
    """What the output is; attributes to change; the number to divide a sum by, at the end; and the
    operand to divide by the number of rows."""

    output: str
    attributes: Mapping[str, str] = MappingProxyType({})
    divisor: int = 1
    shared: int = -1


class NotRowWise(Exception):
    """A kernel whose rows depend on one another."""


def role(step: Kernel, kinds: list[str], rows: int) -> Role:
    """The role of a kernel whose operands are of these kinds; NotRowWise where it has none."""
    primitive, shape = step.primitive, step.out.shape
    if ROWS not in kinds and COLUMNS not in kinds:
        return Role(SUM if SUM in kinds else WHOLE)
    if SUM in kinds:
        raise NotRowWise(f"{primitive.title()} mixes rows with a sum over rows")
    if issubclass(primitive, Elementwise | comparisons.Where | comparisons.MaskedFill | Linear):
        if primitive in TRANSPOSING:
            return transposed(step, kinds)
        if primitive in RESHAPING:
            return reshaped(step, rows)
        if primitive in REDUCING:
            return reduced(step, rows)
        if primitive in PLAIN or issubclass(primitive, Elementwise):
            return mapped(step, kinds, rows)
    if primitive in (activations.Softmax, activations.LogSoftmax):
        if kinds == [ROWS] and step.attributes["dim"] % len(shape) != 0:
            return Role(ROWS)
    if primitive in (activations.SoftmaxReverse, activations.LogSoftmaxReverse):
        if kinds == [ROWS, ROWS] and step.attributes["dim"] % len(shape) != 0:
            return Role(ROWS)
    if primitive is products.LinearLayer and kinds[0] == ROWS and len(shape) > 1:
        if all(kind == WHOLE for kind in kinds[1:]):
            return Role(ROWS)
    if primitive in (products.Mm, linalg.Mv):
        if kinds == [ROWS, WHOLE]:
            return Role(ROWS)
        if kinds == [COLUMNS, ROWS]:
            return Role(SUM)
    if primitive in LOSSES:
        return loss(step, kinds, rows)
    if primitive in CLASS_LOSSES and step.operands[-1] is None:
        return class_loss(step, kinds)
    raise NotRowWise(f"{primitive.title()} is not known to treat rows one by one")


TRANSPOSING = (shapes.Permute, shapes.Transpose, shapes.T)
RESHAPING = (
    shapes.View,
    shapes.UnsafeView,
    shapes.Reshape,
    broadcasting.Expand,
    shapes.Squeeze,
    shapes.Unsqueeze,
)
REDUCING = (sums.Sum, sums.Mean, broadcasting.SumTo)
PLAIN = (
    comparisons.Where,
    comparisons.MaskedFill,
    casting.Clone,
    casting.Contiguous,
    casting.ToCopy,
)
CLASS_LOSSES = (  # whose last operand is the weights
    losses.NllLoss,
    losses.NllLossReverse,
    class_losses.CrossEntropyTerms,
    class_losses.CrossEntropy,
    class_losses.CrossEntropyReverse,
)
LOSSES = (binary_losses.BinaryCrossEntropyWithLogits, losses.MseLoss, losses.BinaryCrossEntropy)


def mapped(step: Kernel, kinds: list[str], rows: int) -> Role:
    """Elementwise with broadcasting: rows meet rows, or what is the same for all of them."""
    shape = step.out.shape
    if not shape or shape[0] != rows:
        raise NotRowWise(f"{step.primitive.title()}: its output has no rows")
    for array, kind in zip(step.operands, kinds, strict=True):
        if type(array) not in MODULES:
            continue
        aligned = array.ndim == len(shape)
        if kind == COLUMNS or (kind == ROWS and not (aligned and array.shape[0] == rows)):
            raise NotRowWise(f"{step.primitive.title()}: rows do not meet rows")
        if kind == WHOLE and aligned and array.shape[0] != 1:
            raise NotRowWise(f"{step.primitive.title()}: an operand differs from row to row")
    return Role(ROWS)


def transposed(step: Kernel, kinds: list[str]) -> Role:
    """The transposition of a matrix of rows, and back."""
    if step.out.ndim != 2:
        raise NotRowWise("a transposition of more than two dimensions")
    before, after = step.operands[0].shape, step.out.shape
    if before == after and before[0] != before[1]:
        return Role(kinds[0])
    return Role(COLUMNS if kinds[0] == ROWS else ROWS)


def reshaped(step: Kernel, rows: int) -> Role:
    """A change of shape within each row."""
    before, after = step.operands[0].shape, step.out.shape
    if not before or not after or before[0] != rows or after[0] != rows:
        raise NotRowWise(f"{step.primitive.title()} mixes rows")
    if "shape" in step.attributes:
        return Role(ROWS, {"shape": f"(n, {''.join(f'{n}, ' for n in after[1:])})"})
    if step.primitive is shapes.Squeeze and 0 in step.attributes["dims"]:
        raise NotRowWise("a squeeze of the first dimension")
    return Role(ROWS)


def reduced(step: Kernel, rows: int) -> Role:
    """A sum or mean: over rows, or within each of them."""
    before, after = step.operands[0].shape, step.out.shape
    if before[0] != rows:
        raise NotRowWise("a sum over transposed rows")
    if step.primitive is broadcasting.SumTo:
        if after and len(after) == len(before) and after[0] == rows:
            return Role(ROWS, {"shape": f"(n, {''.join(f'{n}, ' for n in after[1:])})"})
        return Role(SUM)
    dim = step.attributes["dim"]
    over = (
        None if dim is None else {d % len(before) for d in (dim if type(dim) is tuple else (dim,))}
    )
    if over is not None and 0 not in over:
        return Role(ROWS)
    if step.primitive is sums.Sum:
        return Role(SUM)
    raise NotRowWise("a mean over rows")


def loss(step: Kernel, kinds: list[str], rows: int) -> Role:
    """An elementwise loss with its reduction."""
    arrays = [(a, k) for a, k in zip(step.operands, kinds, strict=True) if type(a) in MODULES]
    shape = step.operands[0].shape
    for array, kind in arrays:
        if array.shape == shape and kind == ROWS:
            continue
        if kind != WHOLE or (array.ndim == len(shape) and array.shape[0] != 1):
            raise NotRowWise(f"{step.primitive.title()}: rows do not meet rows")
    reduction = step.attributes["reduction"]
    if reduction == "none":
        return Role(ROWS)
    mean = reduction == "mean"
    return Role(SUM, {"reduction": "'sum'"}, step.operands[0].size if mean else 1)


def class_loss(step: Kernel, kinds: list[str]) -> Role:
    """A loss of classes that weigh the same, what it shares with its reverse, or the reverse."""
    operands = dict(zip(step.primitive.input_names, zip(step.operands, kinds, strict=True)))
    for name, (array, kind) in operands.items():
        if name != "g" and type(array) in MODULES and kind != ROWS:
            raise NotRowWise(f"{step.primitive.title()}: rows do not meet rows")
    shape, mean = step.out.shape, step.attributes["reduction"] == "mean"
    if "g" in operands:
        inner = ", ".join(str(n) for n in shape[1:])
        attributes = {"shape": f"(n, {inner})"} if "shape" in step.attributes else {}
        if mean and operands["g"][1] == WHOLE:
            return Role(ROWS, {**attributes, "reduction": "'sum'"}, shared=0)
        return Role(ROWS, attributes)
    if shape:
        return Role(ROWS)
    return Role(SUM, {"reduction": "'sum'"}, operands["target"][0].size if mean else 1)
