"""The nodes of a graph of symbols."""

from __future__ import annotations

from typing import Any

from nanotorch.primitive import Primitive, Traced


class Expression(Traced):
    """A value to be computed: a variable, or a primitive applied to expressions and constants.

    `label` is what the user called it, None for most ops; `_array` stands in for an array that has
    no elements. What was declared of a variable is None where nothing was.
    """

    def __init__(
        self, primitive: type[Primitive] | None, inputs: tuple[Any, ...],
        attributes: dict[str, Any], array: Any, label: str | None = None,
    ) -> None:  # fmt: skip
        self.primitive, self.inputs, self.attributes = primitive, inputs, attributes
        self.label = label
        self.declared_shape: Any = None
        self.declared_dtype: Any = None
        self._array = array

    @property
    def op(self) -> type[Primitive]:
        """The primitive that computes the node."""
        if self.primitive is None:
            raise TypeError(f"{self.label!r} is a variable, which nothing computes")
        return self.primitive

    @property
    def title(self) -> str:
        """What the node computes."""
        return "variable" if self.primitive is None else self.primitive.title()

    def symbols(self) -> list[Any]:
        """Those of its inputs that are no constants."""
        return [x for x in self.inputs if isinstance(x, Expression)]
