"""What a user is told when a kernel or a rule fails: the op, its operands' shapes, the line."""

from __future__ import annotations

import itertools
import linecache
import os
import sys
import types
from typing import Any

from nanotorch.autograd.rings import modes
from nanotorch.backend import AxisError
from nanotorch.backend.errors import LinAlgError, OutOfRange
from nanotorch.node import Node, Traced
from nanotorch.primitive import Primitive

PACKAGE = __file__.removesuffix(os.path.join("autograd", "errors.py"))
KERNEL_ERRORS = (ValueError, IndexError, TypeError, OverflowError)


def explained(primitive: type[Primitive], inputs: tuple[Any, ...], error: Exception) -> Exception:
    """The error a user sees for what a kernel raised: the op, its operands' shapes, the reason."""
    if isinstance(error, OutOfRange):  # which names its op itself, on a GPU another than this one
        return error
    names = itertools.chain(primitive.input_names, itertools.repeat(""))
    shapes = [
        f"{name} {tuple(x.shape)}".strip()
        for name, x in zip(names, inputs, strict=False)
        if hasattr(x, "shape")
    ]
    message = f"{primitive.title()}: {' and '.join(shapes)}: {error}"
    if isinstance(error, AxisError):
        return IndexError(f"Dimension out of range: {message}")
    if isinstance(error, IndexError):
        return IndexError(message)
    of_dtypes = ("ufunc", "boolean", "of arguments for cupy", "Cannot cast output")
    if isinstance(error, TypeError) and not any(part in str(error) for part in of_dtypes):
        return TypeError(message)
    return (LinAlgError if "LinAlgError" in type(error).__name__ else RuntimeError)(message)


# --- anomaly detection ----------------------------------------------------------------------------


def forward_lines() -> list[str]:
    """The calls that led to the op being applied, down to the last line outside this package."""
    lines: list[str] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if lines or frame.f_back is None or not file.startswith(PACKAGE):
            text = linecache.getline(file, line).strip()
            where = f'  File "{file}", line {line}, in {frame.f_code.co_name}\n'
            lines.append(f"{where}    {text}\n" if text else where)
        frame = frame.f_back
    return lines[::-1]


def with_forward_line(node: Node, error: Exception) -> Exception:
    """The error of a rule, with the line of the forward computation where that was remembered."""
    if modes.anomaly and hasattr(node, "trace"):
        lines = "".join(node.trace)
        return type(error)(f"{error}\nThe forward call that made {node.name()}:\n{lines}")
    return error


def check_finite(node: Node, g: Any) -> None:
    """Under anomaly detection: refuses a NaN as soon as a rule returns one."""
    array = g._array if isinstance(g, Traced) else g
    if array.shape is not None and bool((array != array).any()):
        lines = "".join(getattr(node, "trace", ["(made before anomaly detection was on)\n"]))
        raise RuntimeError(
            f"Function '{node.name()}' returned nan values in its gradients.\n"
            f"The forward call that made it:\n{lines}"
        )
