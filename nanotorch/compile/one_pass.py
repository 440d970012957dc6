"""A linear layer with one output on a GPU, its loss and their gradients: one reading of the rows.

Five kernels of a step become one call, where nothing that they need comes from what they make. What
else reads the logits or their cotangent gets them, written beside. The bits are those of the
kernels one by one: `rows_to_one.cu` takes its sums in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nanotorch.backend import MODULES, Array
from nanotorch.backend.cuda import fused
from nanotorch.compile.memory import root_of
from nanotorch.compile.program import Joint, Recorded
from nanotorch.compile.recorder import Kernel, Live
from nanotorch.ops import binary_losses, broadcasting, losses, products

LOSSES = {
    binary_losses.BinaryCrossEntropyWithLogits: binary_losses.BinaryCrossEntropyWithLogitsReverse,
    losses.MseLoss: losses.MseLossReverse,
}


class Pass:
    """The kernels of one pass, as a recording has them; `bias` is that of the bias' gradient."""

    def __init__(
        self, linear: Kernel, loss: Kernel, slope: Kernel, weight: Kernel, bias: Kernel | None
    ) -> None:
        self.linear, self.loss, self.slope, self.weight, self.bias = (
            linear, loss, slope, weight, bias,
        )  # fmt: skip

    @property
    def kernels(self) -> list[Kernel]:
        kernels = (self.linear, self.loss, self.slope, self.weight, self.bias)
        return [kernel for kernel in kernels if kernel is not None]

    def joint(self, read: set[int]) -> Joint:
        """The call that computes all of it, and also those of z and the slopes that are read."""
        x, weight, bias = self.linear.operands
        operands = {"x": x, "weight": weight, "target": self.loss.operands[1]}
        operands["g"] = self.slope.operands[0]
        if bias is not None:
            operands["bias"] = bias
        outputs = {"loss": self.loss.out, "gradient": self.weight.out}
        if self.bias is not None:
            outputs["bias_gradient"] = self.bias.out
        beside = {"z": self.linear.out, "slopes": self.slope.out}
        outputs.update({name: a for name, a in beside.items() if root_of(a) in read})
        which = fused.LOSSES[list(LOSSES).index(self.loss.primitive)]
        numbers = {"which": which, "divisor": self.slope.attributes["divisor"] or 1}
        title = f"one pass over {len(x):,} rows"
        return Joint(fused.rows_to_one, self.linear, title, operands, outputs, numbers)


def joined(steps: Sequence[Recorded], escaping: set[int]) -> list[Any]:
    """The steps, with one call in place of each set of kernels that it can stand for.

    escaping: the identities of the memory that leaves the step.
    """
    found: list[Any] = list(steps)
    for linear in steps:
        if isinstance(linear, Kernel) and linear.primitive is products.LinearLayer:
            one = pass_from(linear, found)
            if one is not None:
                found = replaced(found, one, escaping) or found
    return found


def pass_from(linear: Kernel, steps: Sequence[Any]) -> Pass | None:
    """The kernels that follow from a linear layer, if they are those of a pass over its rows."""
    x, weight, bias = linear.operands
    if not fused.takes_one_output(linear.xp, x, weight, bias):
        return None

    def reader(primitive: type, array: Array, *others: Any, place: int = 0) -> Kernel | None:
        """The kernel that is given this memory, and the other operands after it."""
        for step in steps:
            if isinstance(step, Kernel) and step.primitive is primitive and not step.promotes:
                given = step.operands[place:]
                if root_of(given[0]) == root_of(array) and given[0].size == array.size:
                    if all(a is b for a, b in zip(others, given[1:])):
                        return step
        return None

    for primitive, reverse in LOSSES.items():
        loss = reader(primitive, linear.out)
        if loss is None:
            continue
        logits, target, *weights = loss.operands
        slope = reader(reverse, linear.out, target, place=1)
        mean = loss.attributes["reduction"] == "mean"
        if (
            slope is None
            or any(weight is not None for weight in weights)
            or not fused.alike(linear.xp, logits, target)
            or logits.dtype != x.dtype
            or slope.operands[0].shape != ()
            or slope.operands[0].dtype != x.dtype
            or loss.attributes["reduction"] == "none"
            or (slope.attributes["divisor"] or 1) != (len(x) if mean else 1)
        ):
            return None
        product = reader(products.Mm, slope.out, x)
        if product is None or product.operands[0].shape != (1, len(x)):
            return None
        total = reader(broadcasting.SumTo, slope.out)
        if total is not None and total.out.shape != (1,):
            total = None
        return Pass(linear, loss, slope, product, total)
    return None


def replaced(steps: list[Any], one: Pass, escaping: set[int]) -> list[Any] | None:
    """The steps with one call for those of the pass; None where something lies in between."""
    members = {id(kernel) for kernel in one.kernels}
    places = [i for i, step in enumerate(steps) if id(step) in members]
    between = [s for s in steps[places[0] : places[-1] + 1] if id(s) not in members]
    made = {root_of(kernel.out) for kernel in one.kernels}
    before, after = [], []
    for step in between:
        if not isinstance(step, Kernel) or step.into_existing:
            return None
        if made.isdisjoint(roots(step.operands)):
            before.append(step)
        else:
            made.add(root_of(step.out))
            after.append(step)
    inner = {root_of(one.linear.out), root_of(one.slope.out)}
    read = inner & escaping
    rest = list(read_of([*after, *steps[places[-1] + 1 :]], inner - escaping, read))[::-1]
    joint = one.joint(read)
    if not made.isdisjoint(roots(joint.operands.values())):
        return None
    return [*steps[: places[0]], *before, joint, *rest]


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
