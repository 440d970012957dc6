"""A generated function: lines of Python, and the values that they name."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch.backend import HOST
from nanotorch.tensor import Tensor

# What all generated functions know. Their module's name is one of ours, so that NumPy is as silent
# about overflow as in an eager step.
COMMON: dict[str, Any] = {
    "__name__": "nanotorch.compile.step", "__builtins__": builtins, "HOST": HOST, "Tensor": Tensor,
    "ndarray": HOST.ndarray, "asarray": HOST.asarray, "empty": HOST.empty, "new": object.__new__,
    "wrap": Tensor._wrap, "references": sys.getrefcount,
}  # fmt: skip


class Source:
    """The constants of a generated function, by name."""

    def __init__(self, constants: dict[str, Any] | None = None) -> None:
        self.constants: dict[str, Any] = {**(constants or {})}
        self._constant_names: dict[tuple[str, int], str] = {}  # by prefix and identity

    def constant(self, value: Any, prefix: str = "c") -> str:
        """The name of a value in the lines; the same one each time."""
        key = prefix, id(value)
        name = self._constant_names.get(key)
        if name is None:
            name = self._constant_names[key] = f"{prefix}_{len(self.constants)}"
            self.constants[name] = value
        return name

    def function(self, head: str, lines: Sequence[str], title: str) -> Callable[..., Any]:
        """The function of that head, such as "run(x)", with these lines."""
        scope = {**COMMON, **self.constants}
        text = "\n    ".join([f"def {head}:", *lines])
        exec(compile(text + "\n", f"<compiled {title}>", "exec"), scope)
        return scope[head.partition("(")[0]]  # type: ignore[no-any-return]
