"""What PyTorch refuses of an op's operands: several dtypes, and integers where numbers flow."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import promote_types
from nanotorch.node import Traced


def alike(op: str, first: Any, *others: Any) -> None:
    """RuntimeError for tensors of several dtypes, unless autocast will cast them.

    Raw arrays, which derivative rules compute on, pass, and so do numbers and None.
    """
    if not isinstance(first, Traced):
        return
    kind = first._array.dtype
    for other in others:
        if not isinstance(other, Traced) or other._array.dtype is kind:
            continue
        if other._array.dtype != kind:
            if first._mixes():
                continue
            raise RuntimeError(
                f"{op}: expected tensors of one dtype, got {first.dtype} and {other.dtype}"
            )


def needs_floats(op: str, x: Any) -> None:
    """NotImplementedError for a tensor of integers or booleans."""
    if isinstance(x, Traced) and x._array.dtype.kind not in "fVc":
        raise NotImplementedError(f"{op}: expected floating point numbers, got {x.dtype}")


def real_floats(op: str, x: Any, target: Any) -> None:
    """NotImplementedError unless the common dtype of a loss's operands is floating point."""
    if isinstance(x, Traced) and isinstance(target, Traced):
        if x._array.dtype is target._array.dtype and x._array.dtype.kind == "f":
            return
        kind = promote_types(x.dtype, target.dtype)
        if not kind.is_floating_point:
            raise NotImplementedError(
                f"{op}: expected floating point numbers, got {x.dtype} and {target.dtype}"
            )


def normed(op: str, x: Any, *weights: Any) -> None:
    """As `needs_floats` and `alike`; of a half the weights may be float32, as within autocast."""
    needs_floats(op, x)
    if x._array.dtype.itemsize != 2:
        alike(op, x, *weights)
