"""Kernels of a step on a GPU that one call stands for: losses with what comes before and after.

A linear layer with one output, its loss and their gradients are one reading of the rows; the
cross-entropy of few samples and its gradient are one launch. Several kernels of a recording become
one call, where nothing that they need comes from what they make. The bits are those of the kernels
one by one, whose sums are taken in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from nanotorch.backend import MODULES, Array
from nanotorch.backend.cuda import fused
from nanotorch.compile.calls import Joint
from nanotorch.compile.memory import root_of
from nanotorch.compile.program import Recorded
from nanotorch.compile.recorder import Kernel, Live
from nanotorch.ops import binary_losses, broadcasting, class_losses, losses, products

LOSSES = {
    binary_losses.BinaryCrossEntropyWithLogits: binary_losses.BinaryCrossEntropyWithLogitsReverse,
    losses.MseLoss: losses.MseLossReverse,
}


class Match(NamedTuple):
    """Kernels, in their order, and the call in their place; by the names of its parameters, what it
    writes besides for others that read it. What it cannot write nobody else may read."""

    kernels: list[Kernel]
    call: Joint
    beside: dict[str, Array]


def joined(steps: Sequence[Recorded], escaping: set[int]) -> list[Any]:
    """The steps, with one call in place of each set of kernels that it can stand for.

    escaping: the identities of the memory that leaves the step.
    """
    result: list[Any] = list(steps)
    for step in steps:
        if isinstance(step, Kernel) and step.primitive in FIRST:
            match = FIRST[step.primitive](step, result)
            if match is not None:
                result = replaced(result, match, escaping) or result
    return result


def reader(
    steps: Sequence[Any], primitive: type, array: Array, *others: Any, place: int = 0
) -> Kernel | None:
    """The kernel that is given the memory of an array, and the other operands after it."""
    for step in steps:
        if isinstance(step, Kernel) and step.primitive is primitive and not step.promotes:
            operands = step.operands[place:]
            if root_of(operands[0]) == root_of(array) and operands[0].size == array.size:
                if all(a is b for a, b in zip(others, operands[1:])):
                    return step
    return None


def pass_over_rows(linear: Kernel, steps: Sequence[Any]) -> Match | None:
    """A linear layer with one output, its loss, the slopes and the sums over rows behind it."""
    x, weight, bias = linear.operands
    if not fused.takes_one_output(linear.xp, x, weight, bias):
        return None
    of_logits = ((kind, reader(steps, kind, linear.out)) for kind in LOSSES)
    primitive, loss = next((pair for pair in of_logits if pair[1] is not None), (None, None))
    if primitive is None or loss is None:
        return None
    logits, target, *weights = loss.operands
    slope = reader(steps, LOSSES[primitive], linear.out, target, place=1)
    if slope is None or any(w is not None for w in weights):
        return None
    g, divisor, reduction = slope.operands[0], slope.attributes["divisor"] or 1, loss.attributes
    if (
        not fused.alike(linear.xp, logits, target)
        or {logits.dtype, g.dtype} != {x.dtype}
        or g.shape != ()
        or {"mean": len(x), "sum": 1}.get(reduction["reduction"]) != divisor
    ):
        return None
    product = reader(steps, products.Mm, slope.out, x)
    if product is None or product.operands[0].shape != (1, len(x)):
        return None
    operands = {"x": x, "weight": weight, "target": target, "g": g}
    outputs = {"loss": loss.out, "gradient": product.out}
    kernels = [linear, loss, slope, product]
    if bias is not None:
        operands["bias"] = bias
    total = reader(steps, broadcasting.SumTo, slope.out)
    if total is not None and total.out.shape == (1,):
        outputs["bias_gradient"] = total.out
        kernels.append(total)
    numbers = {"which": fused.LOSSES[list(LOSSES).index(primitive)], "divisor": divisor}
    title = f"one pass over {len(x):,} rows"
    call = Joint(fused.rows_to_one, linear, title, operands, outputs, numbers)
    return Match(kernels, call, {"z": linear.out, "slopes": slope.out})


def loss_of_classes(terms: Kernel, steps: Sequence[Any]) -> Match | None:
    """The cross-entropy of so few samples that one block takes them, and its gradient."""
    x, target, weight = terms.operands
    if not fused.takes_few_logits(terms.xp, x, target, weight):
        return None
    loss = reader(steps, class_losses.CrossEntropy, x, terms.out, target, weight)
    slope = reader(steps, class_losses.CrossEntropyReverse, x, terms.out, target, weight, place=1)
    if loss is None or slope is None or loss.operands[0] is not x:
        return None
    g = slope.operands[0]
    if g.shape != () or g.dtype != x.dtype or loss.attributes["reduction"] == "none":
        return None
    operands = {"x": x, "target": target, "g": g}
    if weight is not None:
        operands["weight"] = weight
    outputs = {"loss": loss.out, "slopes": slope.out}
    title = f"cross_entropy and its gradient {tuple(x.shape)}"
    call = Joint(fused.class_loss, terms, title, operands, outputs, loss.attributes)
    return Match([terms, loss, slope], call, {})


FIRST: dict[type, Callable[[Kernel, Sequence[Any]], Match | None]] = {
    products.LinearLayer: pass_over_rows,
    class_losses.CrossEntropyTerms: loss_of_classes,
}


def replaced(steps: list[Any], match: Match, escaping: set[int]) -> list[Any] | None:
    """The steps with the call; None where it has no place among them."""
    members = {id(kernel) for kernel in match.kernels}
    places = [i for i, step in enumerate(steps) if id(step) in members]
    between = [s for s in steps[places[0] : places[-1] + 1] if id(s) not in members]
    made = {root_of(kernel.out) for kernel in match.kernels}
    inner = made - roots(match.call.outputs.values())
    before, after = [], []
    for step in between:
        if not isinstance(step, Kernel) or step.into_existing:
            return None
        if made.isdisjoint(roots(step.operands)):
            before.append(step)
        else:
            made.add(root_of(step.out))
            after.append(step)
    read = inner & escaping
    rest = list(read_of([*after, *steps[places[-1] + 1 :]], inner - escaping, read))[::-1]
    beside = {name: a for name, a in match.beside.items() if root_of(a) in read}
    if not read <= roots(beside.values()):
        return None
    if not made.isdisjoint(roots(match.call.operands.values())):
        return None
    call = match.call._replace(outputs={**match.call.outputs, **beside})
    return [*steps[: places[0]], *before, call, *rest]


def read_of(steps: list[Any], inner: set[int], read: set[int]) -> Iterator[Any]:
    """From the last to the first, the steps without views of `inner` memory that nobody reads.

    The memory that is read for anything else joins `read`.
    """
    used: set[int] = set()
    for step in reversed(steps):
        if isinstance(step, Kernel):
            is_view = root_of(step.out) in inner and not step.into_existing
            if is_view and id(step.out) not in used:
                continue
            used |= {id(a) for a in step.operands}
            read |= inner & roots(step.operands)
        elif isinstance(step, Live):
            read |= inner & roots(a for _, a in step.gradients)
        yield step


def roots(values: Iterable[Any]) -> set[int]:
    """The identities of the memory of the arrays among some values."""
    return {root_of(a) for a in values if type(a) in MODULES}
