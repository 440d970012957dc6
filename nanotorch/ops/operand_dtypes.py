"""What PyTorch refuses of an op's operands: several dtypes, and integers where numbers flow."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import dtype_of, promote_types
from nanotorch.node import Traced


def alike(op: str, first: Any, *others: Any) -> None:
    """RuntimeError for tensors of several dtypes, unless autocast will cast them.

    Raw arrays, which derivative rules compute on, pass, and so do numbers and None.
    """
    if not isinstance(first, Traced):
        return
    kind = first._array.dtype
    for other in others:
        if isinstance(other, Traced) and other._array.dtype != kind and not first._mixes():
            raise RuntimeError(
                f"{op}: expected tensors of one dtype, got {dtype_of(kind)} and "
                f"{dtype_of(other._array.dtype)}"
            )


def needs_floats(op: str, x: Any) -> None:
    """NotImplementedError for a tensor of integers or booleans."""
    if isinstance(x, Traced) and x._array.dtype.kind not in "fVc":
        kind = dtype_of(x._array.dtype)
        raise NotImplementedError(f"{op}: expected floating point numbers, got {kind}")


def real_floats(op: str, x: Any, target: Any) -> None:
    """NotImplementedError unless the common dtype of a loss's operands is floating point."""
    if isinstance(x, Traced) and isinstance(target, Traced):
        kinds = dtype_of(x._array.dtype), dtype_of(target._array.dtype)
        if not promote_types(*kinds).is_floating_point:
            raise NotImplementedError(
                f"{op}: expected floating point numbers, got {kinds[0]} and {kinds[1]}"
            )


def normed(op: str, x: Any, *weights: Any) -> None:
    """As `needs_floats` and `alike`; of a half the weights may be float32, as within autocast."""
    needs_floats(op, x)
    if x._array.dtype.itemsize != 2:
        alike(op, x, *weights)
