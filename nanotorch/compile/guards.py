"""What a recording took for granted of tensors, gradients and hooks: conditions, as one test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Guards:
    """Conditions as source text over constants, compiled into one test."""

    def __init__(self) -> None:
        self._constants: dict[str, Any] = {}
        self._conditions: list[str] = []

    def constant(self, value: Any) -> str:
        """A name for a value in the conditions."""
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def add(self, condition: str) -> None:
        """One more condition."""
        self._conditions.append(condition)

    def expression(self) -> str:
        """All conditions as one expression over the constants."""
        return " and ".join(self._conditions) or "True"

    def compiled(self) -> Callable[[], bool]:
        """One function that tells whether all conditions hold."""
        return self.built("holds", "", [f"return {self.expression()}"])

    def built(
        self, name: str, parameters: str, body: list[str], names: dict[str, Any] | None = None
    ) -> Callable[..., Any]:
        """A function of these lines, which may name the constants and what `names` holds."""
        lines = [f"def {name}({parameters}):", *(f"    {line}" for line in body)]
        scope = {**self._constants, **(names or {})}
        exec(compile("\n".join(lines) + "\n", f"<{name}>", "exec"), scope)
        return scope[name]  # type: ignore[no-any-return]
