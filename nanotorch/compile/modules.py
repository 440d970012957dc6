"""A compiled module: a step where no graph leaves it, and the module itself where one does."""

from __future__ import annotations

import copy
from typing import Any

from nanotorch.autograd.rings import modes
from nanotorch.nn.module import Module


class OptimizedModule(Module):
    """A module whose calls are those of a compiled step; its attributes are those of the module,
    `_orig_mod`, and so its parameters have `_orig_mod.` before their names. `plan` and `explain`
    are those of a compiled function, of calls without gradients.

    A call whose result is to be walked back later is the module's: its nodes are needed, and making
    them late gains nothing. What gains is to compile the whole training step.
    """

    def __init__(self, module: Any, make: Any) -> None:
        super().__init__()
        self._step, self._make, self.training = make(module), make, module.training
        self._orig_mod = module  # from now on what is set is set there

    def __getattr__(self, name: str) -> Any:
        part = "_step" if name in ("plan", "explain") else "_orig_mod"
        return getattr(vars(self).get(part), name)

    def __setattr__(self, name: str, value: Any) -> None:
        known = "_orig_mod" not in self.__dict__ or name in self.__dict__ or hasattr(Module, name)
        (super() if known else self._orig_mod).__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> OptimizedModule:
        return OptimizedModule(copy.deepcopy(self._orig_mod, memo), self._make)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        if modes.grad and any(p._requires_grad for p in self._orig_mod.parameters()):
            return self._orig_mod(*args, **kwargs)
        return self._step(*args, **kwargs)
