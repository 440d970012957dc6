"""A compiled module: a step where no graph leaves it, and the module itself where one does."""

from __future__ import annotations

from typing import Any

from nanotorch.autograd.rings import modes


class CompiledModule:
    """A module whose calls are those of a compiled step; everything else is the module's own.

    A call whose result is to be walked back later is the module's: its nodes are needed, and making
    them late gains nothing. What gains is to compile the whole training step.
    """

    _step: Any

    def __init__(self, module: Any, step: Any) -> None:
        self.__dict__["module"], self.__dict__["_step"] = module, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.module, name, value)

    def __repr__(self) -> str:
        return f"compiled {self.module!r}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if modes.grad and any(p._requires_grad for p in self.module.parameters()):
            return self.module(*args, **kwargs)
        return self._step(*args, **kwargs)

    # As of a compiled function, of calls without gradients.
    plan = property(lambda self: self._step.plan)
    explain = property(lambda self: self._step.explain)
