"""What a matched application gives away: a tensor whose value is there, and whose node is not yet.

Its node, and those of all that it was computed from, are made when somebody asks for one of them:
an operation that is not matched, a hook, `grad_fn`, a backward pass that is walked.
"""

from __future__ import annotations

from typing import Any

from nanotorch.node import Node
from nanotorch.tensor import Tensor


class Output(Tensor):
    """The output of an application that is part of a path: `_run` says of which call of the step,
    `_entry` of which application.

    It stays known as such until its place in the graph, or its array, is replaced.
    """

    _run: Any
    _entry: Any
    _requires_grad = True

    @property
    def _node(self) -> Node | None:
        fields = self.__dict__
        node: Node | None = fields.get("_own_node")
        if node is None:
            node = fields["_own_node"] = self._run.node(self._entry)
        return node

    @_node.setter
    def _node(self, node: Node | None) -> None:
        self._become_plain()
        self._node = node

    def _become_plain(self) -> None:
        """Turns into a tensor like any other."""
        node = self._node
        fields = self.__dict__
        fields.pop("_own_node"), fields.pop("_run"), fields.pop("_entry")
        fields.setdefault("_requires_grad", True)
        self.__class__ = Tensor  # type: ignore[assignment]
        self._node = node

    @property
    def data(self) -> Tensor:
        """As for every tensor; a replaced array has not been computed by the path."""
        return Tensor._wrap(self._array)

    @data.setter
    def data(self, value: Tensor) -> None:
        self._run.replace(self)
        self._become_plain()
        self.data = value

    def backward(
        self, gradient: Tensor | None = None, retain_graph: bool | None = None,
        create_graph: bool = False, inputs: Any = None,
    ) -> None:  # fmt: skip
        """As for every tensor, by the program of its path where there is one."""
        plain = gradient is None and inputs is None and not retain_graph and not create_graph
        if not (plain and self._run.backward(self)):
            super().backward(gradient, retain_graph, create_graph, inputs)

    def __reduce__(self) -> Any:
        make, (_, *state) = super().__reduce__()
        return make, (Tensor, *state)
