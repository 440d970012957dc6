"""What the lines of a plan's program stand for: kernels of a family, live calls, draws."""

from __future__ import annotations

from typing import Any, NamedTuple

# What the kernels of each module of `ops` have in common; those of other modules are elementwise.
FAMILIES = {
    "activations": "activations",
    "binary_losses": "losses",
    "indexing": "moving",
    "joining": "moving",
    "linalg": "matrix products",
    "losses": "losses",
    "normalization": "normalization",
    "reductions": "reductions",
    "regions": "moving",
    "shapes": "moving",
    "sorting": "reductions",
    "statistics": "reductions",
}
LIVE, RANDOM, ROWS = "live calls", "random numbers", "pass over rows"


class Line(NamedTuple):
    """One line of a plan's program, and what it stands for."""

    source: str
    step: int  # the lines of one kernel have the same one
    kernel: str  # the op's name, or that of the method that is called
    call: str = ""  # NumPy's function; "" where the kernel is called as a whole
    family: str = LIVE
    shape: tuple[int, ...] | None = None  # of what it writes
    dtype: str = ""
    bytes: int = 0  # read and written
    otherwise: bool = False  # runs only where a branch goes another way than in the recording
    within: tuple[str, ...] = ()  # the kernels of a pass
    where: Any = None  # the user's file and line


def family_of(module: str) -> str:
    """What the kernels of a module are."""
    return FAMILIES.get(module.rpartition(".")[2], "elementwise")


def call_name(call: Any) -> str:
    """The name of a live call, such as SGD.step."""
    function = call.func
    is_method = "." in function.__qualname__
    return f"{type(call.args[0]).__name__}.{function.__name__}" if is_method else function.__name__
