"""The graph as users meet it: leaf nodes, hooks over saved tensors, anomaly detection."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from nanotorch.autograd.grad_mode import Mode, modes
from nanotorch.node import Node as Node


class AccumulateGrad(Node):
    """The end of an edge that leads to a leaf: where backward adds to the leaf's `.grad`."""

    def __init__(self, variable: Any) -> None:
        self.variable, self.edges = variable, ()

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
    """What is kept for backward goes through `pack_hook`, and comes back through `unpack_hook`.

    Of nested blocks the innermost counts. RuntimeError inside `disable_saved_tensors_hooks`.
    """

    field = "saved_hooks"

    def __init__(self, pack_hook: Callable[[Any], Any], unpack_hook: Callable[[Any], Any]) -> None:
        super().__init__((pack_hook, unpack_hook))

    def __enter__(self) -> None:
        if modes.hooks_refused is not None:
            raise RuntimeError(modes.hooks_refused)
        super().__enter__()


class save_on_cpu(saved_tensors_hooks):  # noqa: N801 - PyTorch's name
    """What is kept for backward is moved to the CPU, and back to its device when it is needed."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        super().__init__(
            lambda x: (x.device, x.detach().cpu() if x.is_cuda else x),
            lambda packed: packed[1].to(packed[0]),
        )


class allow_mutation_on_saved_tensors(saved_tensors_hooks):  # noqa: N801 - PyTorch's name
    """What is kept for backward is copied at once: the originals may be changed in place."""

    def __init__(self) -> None:
        super().__init__(lambda x: x.detach().clone(), lambda copy: copy)


class disable_saved_tensors_hooks(Mode):  # noqa: N801 - PyTorch's name
    """Inside, to open a block of saved-tensor hooks is a RuntimeError with this message."""

    field = "hooks_refused"

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)


def increment_version(tensor: Any) -> None:
    """Counts a change of memory that autograd did not see: of one tensor, or of several."""
    for x in tensor if isinstance(tensor, tuple | list) else (tensor,):
        if x._inference:
            raise RuntimeError("increment_version: inference tensors do not track a version")
        x._bump()


class set_detect_anomaly(Mode):  # noqa: N801 - PyTorch's name
    """Turns anomaly detection on or off: at once when called, or for a `with` block."""

    field = "anomaly"

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        super().__init__(watching(mode, check_nan))
        self._outer.append(modes.anomaly)
        modes.anomaly = self.value

    def __enter__(self) -> None:
        modes.anomaly = self.value


class detect_anomaly(Mode):  # noqa: N801 - PyTorch's name
    """Errors of a backward pass name the forward line they come from, and NaN is an error.

    With check_nan=False only what raises by itself is an error.
    """

    field = "anomaly"

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(watching(True, check_nan))


def watching(mode: bool, check_nan: bool) -> str:
    """What anomaly detection is to do: nothing (""), remember "lines", or refuse "nan" as well."""
    return ("nan" if check_nan else "lines") if mode else ""


def is_anomaly_enabled() -> bool:
    """True inside anomaly detection."""
    return bool(modes.anomaly)


def is_anomaly_check_nan_enabled() -> bool:
    """True inside anomaly detection that refuses NaN."""
    return modes.anomaly == "nan"
