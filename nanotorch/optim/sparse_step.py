"""The optimizer's step from row-sparse gradients: it costs by the rows and not by the table.

The rows that a gradient stores are taken out of the parameter and its state, updated by the
optimizer's own kernel, and put back. What the formula would do to the other rows is left out: SGD
and Adagrad do nothing there, and SparseAdam is defined so.
"""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, is_sparse
from nanotorch.backend.adding import put_rows
from nanotorch.backend.halves import widened
from nanotorch.backend.row_sparse import RowSparse, nothing
from nanotorch.backend.silence import silent
from nanotorch.optim.adagrad import Adagrad
from nanotorch.optim.adam import Adam
from nanotorch.optim.groups import Group
from nanotorch.optim.optimizer import Optimizer, Runner
from nanotorch.optim.sgd import SGD
from nanotorch.tensor import Tensor


class SparseRunner(Runner):
    """Makes the steps of an optimizer that takes row-sparse gradients alone."""

    def run(self, optimizer: Optimizer) -> None:
        for parameter in optimizer._parameters():
            if parameter._grad is not None and not is_sparse(parameter._grad._array):
                raise RuntimeError(
                    f"{type(optimizer).__name__} does not support dense gradients, please consider "
                    "Adam instead"
                )
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter._grad is not None:
                    update(optimizer, parameter, group)


@silent
def update(optimizer: Optimizer, parameter: Tensor, group: Group) -> None:
    """One step of one parameter, of dense values, that has a row-sparse gradient.

    RuntimeError where the optimizer, or one of its options, needs the whole gradient.
    """
    refuse_dense_formulas(optimizer, group)
    gradient: Any = parameter._grad._array.coalesced()  # type: ignore[union-attr]
    numbers = optimizer.numbers(group, *optimizer._count(parameter, group))
    if optimizer.kernel is SGD.kernel and group["momentum"]:
        with_momentum(optimizer, parameter, group, gradient, numbers)
    else:
        rows = gradient.rows
        arrays = [parameter._array, *optimizer._state_arrays(parameter, group)]
        copies = [None if array is None else widened(array.take(rows, axis=0)) for array in arrays]
        scratch = [HOST.empty_like(copies[0]) for _ in optimizer.scratch]
        arguments = optimizer.arguments(copies[1:], numbers, scratch)
        optimizer.kernel(HOST, copies[0], widened(gradient.values), *arguments)
        for array, values in zip(arrays, copies):
            if array is not None:
                put_rows(array, rows, values)
    parameter._bump()


def with_momentum(
    optimizer: Optimizer, parameter: Tensor, group: Group, gradient: RowSparse, numbers: Any
) -> None:
    """SGD with momentum: the running sum is row-sparse as well, of all rows that ever came up.

    They all move at each step, as PyTorch's do, so that the step costs by their number.
    """
    state = optimizer.state[parameter]
    if state.get("momentum_buffer") is None:
        state["momentum_buffer"] = Tensor._wrap(nothing(gradient))
    buffer = state["momentum_buffer"]._array
    if not is_sparse(buffer):  # of dense gradients before
        arguments = optimizer.arguments([buffer], numbers, [HOST.empty_like(buffer)])
        optimizer.kernel(HOST, parameter._array, gradient.to_dense(), *arguments)
        return
    arguments = optimizer.arguments([buffer], numbers, [nothing(gradient)])
    optimizer.kernel(HOST, parameter._array, gradient, *arguments)
    buffer.become(buffer.coalesced())


def refuse_dense_formulas(optimizer: Optimizer, group: Group) -> None:
    """RuntimeError where a step changes rows that the gradient does not store."""
    name, kernel = type(optimizer).__name__, optimizer.kernel
    by_rows = getattr(optimizer, "by_rows", False)
    if kernel is Adam.kernel and not by_rows:
        raise RuntimeError(
            "Adam does not support sparse gradients, please consider SparseAdam instead"
        )
    if kernel not in (SGD.kernel, Adagrad.kernel) and not by_rows:
        raise RuntimeError(f"{name} does not support sparse gradients")
    if group.get("weight_decay"):
        raise RuntimeError(
            f"{name}: weight_decay option is not compatible with sparse gradients, as it changes "
            "rows that a gradient does not store; set weight_decay=0"
        )
