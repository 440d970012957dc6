"""Adam that treats the rows of a table alone that a row-sparse gradient stores."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nanotorch.backend import Array
from nanotorch.optim.adam import Adam, mix
from nanotorch.optim.groups import Group, Parameters, options_of
from nanotorch.optim.optimizer import Optimizer
from nanotorch.optim.sparse_step import SparseRunner


class SparseAdam(Optimizer):
    """w ← w - lr · √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + eps), in the rows that g stores.

    m and v are the running means of g and g², which stay as they are in the other rows; t counts
    all steps. State per parameter: "step", "exp_avg" (m), "exp_avg_sq" (v), as large as the table.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html

    Raises ValueError for a negative lr or eps and for betas outside [0, 1), and in `step`
    RuntimeError for a dense gradient.
    """

    class Numbers(NamedTuple):
        """`share1`, `share2`: 1 - beta."""

        step_size: float
        eps: float
        beta1: float
        share1: float
        beta2: float
        share2: float
        maximize: bool

    arrays = ("exp_avg", "exp_avg_sq")
    scratch = ("scratch", "direction")
    elementwise = True
    by_rows = True  # rows without a gradient stay as they are

    def __init__(
        self, params: Parameters, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, maximize: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, options_of(locals(), "lr", "eps"))

    def _start(self) -> None:
        super()._start()
        self._runner = SparseRunner()

    def numbers(self, group: Group, step: float) -> Numbers:
        """Both corrections are folded into the step size."""
        beta1, beta2 = group["betas"]
        size = float(group["lr"]) * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)
        shares = beta1, 1.0 - beta1, beta2, 1.0 - beta2
        return self.Numbers(size, group["eps"], *shares, bool(group["maximize"]))

    @staticmethod
    def kernel(
        xp: Any, parameter: Array, gradient: Array, exp_avg: Array, exp_avg_sq: Array,
        scratch: Array, direction: Array, step_size: Any, eps: Any, beta1: Any, share1: Any,
        beta2: Any, share2: Any, maximize: bool,
    ) -> None:  # fmt: skip
        """One update, in place."""
        if maximize:
            gradient = xp.negative(gradient, direction)
        mix(xp, exp_avg, beta1, gradient, share1, scratch)
        xp.multiply(gradient, gradient, scratch)
        mix(xp, exp_avg_sq, beta2, scratch, share2, scratch)
        xp.sqrt(exp_avg_sq, scratch)
        xp.add(scratch, eps, scratch)
        xp.divide(exp_avg, scratch, scratch)
        xp.multiply(scratch, step_size, scratch)
        xp.subtract(parameter, scratch, parameter)


class LazyAdam(Adam):
    """Adam that takes row-sparse gradients beside dense ones: it treats the rows that they store,
    and leaves means and weights of the others as they are, until they come up.

    Options and errors as `Adam`; weight decay goes with dense gradients alone.
    """

    by_rows = True
