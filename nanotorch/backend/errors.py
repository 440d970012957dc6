"""What several kernels refuse: indices out of range, in the same words on every device, and results
of more dimensions than the tensor they are written to."""

from __future__ import annotations

from typing import Any

# What an index is called in the ops that check theirs, and what it has to lie in. The kernels of
# a CUDA device know the ops by their numbers, counted from 1 in this order.
_PLACES = "a dimension of size {}"
CHECKED = {
    "index": ("index", _PLACES),
    "index_put": ("index", _PLACES),
    "index_select": ("index", _PLACES),
    "index_add": ("index", _PLACES),
    "index_copy": ("index", _PLACES),
    "index_fill": ("index", _PLACES),
    "take": ("index", "a tensor of {} elements"),
    "gather": ("index", _PLACES),
    "scatter": ("index", _PLACES),
    "scatter_add": ("index", _PLACES),
    "embedding": ("index", "a table of {} rows"),
    "nll_loss": ("target", "{} classes"),
    "one_hot": ("class", "{} classes"),
}  # fmt: skip
# Ops whose negative indices count from the end, as PyTorch has it; the others refuse them.
WRAPPING = ("index", "index_put", "index_fill", "take")


class LinAlgError(RuntimeError):
    """A matrix that has no such factor, inverse or solution."""


class NotANumber(RuntimeError, ValueError):
    """A tensor of several elements, or none, as a Python number: `x.item()` is a RuntimeError in
    PyTorch, and `float(x)` a ValueError."""


class OutOfRange(IndexError):
    """An index out of range, in the words of `out_of_range`."""


def out_of_range(op: str, index: int | None, size: int, where: str = "") -> OutOfRange:
    """The error for an index outside; without it, for any index into nothing."""
    name, places = CHECKED[op]
    which = f"{name} {index}" if index is not None else f"every {name}"
    return OutOfRange(f"{op}: {which} is out of range for {places.format(size)}{where}")


def check_shape(y: Any, out: Any) -> None:
    """RuntimeError where y has dimensions that `out` has not; NumPy's copyto drops those of 1."""
    if y.ndim > out.ndim:
        raise RuntimeError(
            f"output with shape {list(out.shape)} doesn't match the broadcast shape {list(y.shape)}"
        )
