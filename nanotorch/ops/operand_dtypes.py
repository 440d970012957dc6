"""What PyTorch refuses of an op's operands: several dtypes, and integers where numbers flow."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import promote_types


def alike(op: str, first: Any, *others: Any) -> None:
    """RuntimeError for tensors of several dtypes, unless autocast will cast them.

    Raw arrays, which derivative rules compute on, pass, and so do numbers and None.
    """
    if not hasattr(first, "_mixes"):
        return
    for other in others:
        if hasattr(other, "_mixes") and other._array.dtype != first._array.dtype:
            if first._mixes():
                continue
            raise RuntimeError(
                f"{op}: expected tensors of one dtype, got {first.dtype} and {other.dtype}"
            )


def needs_floats(op: str, x: Any) -> None:
    """NotImplementedError for a tensor of integers or booleans."""
    if hasattr(x, "_mixes") and x._array.dtype.kind not in "fVc":
        raise NotImplementedError(f"{op}: expected floating point numbers, got {x.dtype}")


def real_floats(op: str, x: Any, target: Any) -> None:
    """NotImplementedError unless the common dtype of a loss's operands is floating point."""
    if hasattr(x, "_mixes") and hasattr(target, "_mixes"):
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
