"""The graph as users meet it: leaf nodes, hooks over saved tensors, anomaly detection."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from nanotorch.autograd.grad_mode import Mode, modes
from nanotorch.primitive import Node


class AccumulateGrad(Node):
    """The end of an edge that leads to a leaf: where backward adds to the leaf's `.grad`."""

    __slots__ = ("variable",)

    def __init__(self, variable: Any) -> None:
        self.variable = variable
        self.edges, self.hooks, self.post_hooks = (), None, None

    @staticmethod
    def of(variable: Any) -> AccumulateGrad:
        """The one node of a leaf, made when it is asked for and forgotten with its last user."""
        held = variable._accumulate_grad
        node: AccumulateGrad | None = held() if held is not None else None
        if node is None:
            node = AccumulateGrad(variable)
            variable._accumulate_grad = weakref.ref(node)
        return node


class saved_tensors_hooks(Mode):  # noqa: N801 - PyTorch's name
    """What is kept for backward goes through `pack(tensor)`, and comes back through `unpack(packed)`."""

    field = "saved_hooks"

    def __init__(self, pack: Callable[[Any], Any], unpack: Callable[[Any], Any]) -> None:
        super().__init__((pack, unpack))


class set_detect_anomaly(Mode):  # noqa: N801 - PyTorch's name
    """Turns anomaly detection on or off: at once when called, or for a `with` block."""

    field = "anomaly"

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        super().__init__(mode)
        self._outer.append(modes.anomaly)
        modes.anomaly = mode

    def __enter__(self) -> None:
        modes.anomaly = self.value


class detect_anomaly(Mode):  # noqa: N801 - PyTorch's name
    """Errors of a backward pass name the forward line they come from, and NaN is an error."""

    field = "anomaly"

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(True)
