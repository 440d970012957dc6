"""Tensors as text, letter by letter as PyTorch prints them.

Printing happens in three steps: the corners that will be seen are brought to the host, every number
becomes a text of one common width, and the texts are bracketed from the innermost axis outwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nanotorch.autograd.grad_mode import modes
from nanotorch.backend import CPU, array_module, get_default_dtype, is_sparse, to_device
from nanotorch.backend.silence import silent

if TYPE_CHECKING:
    from nanotorch.tensor import Tensor


class PrintOptions:
    """How much of a tensor is shown, and how its numbers look; see `set_printoptions`."""

    def __init__(
        self,
        precision: int = 4,
        threshold: float = 1000,
        edgeitems: int = 3,
        linewidth: float = 80,
        sci_mode: bool | None = None,
    ) -> None:
        self.precision, self.sci_mode = precision, sci_mode
        self.threshold, self.edgeitems, self.linewidth = threshold, edgeitems, linewidth


PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}

_options = PROFILES["default"]


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: float | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors are printed, as `torch.set_printoptions` does; what is None stays as it is.

    precision: digits after the point. threshold: tensors with more elements are summarised.
    edgeitems: elements kept at either end of a summarised axis. linewidth: characters per line.
    profile: "default", "short" or "full", taken before the other arguments. sci_mode: True or
    False forces scientific notation on or off; None, also when it is left out, lets the values
    decide. Raises ValueError for an unknown profile or a negative number.
    """
    global _options
    if profile is not None and profile not in PROFILES:
        known = ", ".join(repr(name) for name in PROFILES)
        raise ValueError(f"set_printoptions: profile must be one of {known}, not {profile!r}")
    given: dict[str, Any] = {
        "precision": precision, "threshold": threshold,
        "edgeitems": edgeitems, "linewidth": linewidth,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    for name, value in changes.items():
        if not value >= 0:
            raise ValueError(f"set_printoptions: {name} must not be negative, got {value!r}")
    start = _options if profile is None else PROFILES[profile]
    _options = PrintOptions(**{**vars(start), **changes, "sci_mode": sci_mode})


def get_printoptions() -> dict[str, Any]:
    """The print options in force, by name."""
    return dict(vars(_options))


@contextmanager
def printoptions(**options: Any) -> Iterator[None]:
    """Set the print options of `set_printoptions` for one `with` block, and restore the former.

    >>> with printoptions(precision=2):
    ...     get_printoptions()["precision"]
    2
    """
    global _options
    former = _options
    set_printoptions(**options)
    try:
        yield
    finally:
        _options = former


# ---- numbers: a flat list of values becomes a flat list of texts and their common width ----


def _float_texts(values: Sequence[float], options: PrintOptions) -> tuple[list[str], int]:
    """Real numbers in one of three styles ("1.", "1.5000", "1.5000e+00"), aligned to the right."""
    magnitudes = [abs(value) for value in values if value and math.isfinite(value)]
    if not magnitudes:
        # Zeros, infinities and NaNs alone decide no style and no width.
        return [_integral_text(value) for value in values], 1
    smallest, largest = min(magnitudes), max(magnitudes)
    integral = all(magnitude.is_integer() for magnitude in magnitudes)
    scientific = options.sci_mode
    if scientific is None:
        scientific = (
            largest / smallest > 1000 or largest > 1e8 or (smallest < 1e-4 and not integral)
        )
    if scientific or not integral:
        style = f".{options.precision}{'e' if scientific else 'f'}"
        texts = [format(value, style) for value in values]
    else:
        texts = [_integral_text(value) for value in values]
    # Zeros, infinities and NaNs may stick out: they have no say in the width.
    width = max(len(text) for text, value in zip(texts, values) if value and math.isfinite(value))
    return [text.rjust(width) for text in texts], width


def _integral_text(value: float) -> str:
    return f"{value:.0f}." if math.isfinite(value) else f"{value}"


def _complex_texts(values: Sequence[complex], options: PrintOptions) -> tuple[list[str], int]:
    """Real parts aligned, imaginary parts not: that is how PyTorch writes `1.0000+2.j`."""
    reals, real_width = _float_texts([value.real for value in values], options)
    imaginaries, imaginary_width = _float_texts([value.imag for value in values], options)
    texts = []
    for real, imaginary in zip(reals, map(str.lstrip, imaginaries)):
        texts.append(f"{real}{imaginary}j" if imaginary[0] == "-" else f"{real}+{imaginary}j")
    return texts, real_width + imaginary_width + 1


def _texts(array: Any, options: PrintOptions) -> tuple[list[str], int]:
    """The elements of a host array in row order as texts, and the width they are counted with."""
    array = array.reshape(-1)
    if array.dtype.kind == "c":
        return _complex_texts(array.tolist(), options)
    if array.dtype.kind not in "biu":
        # bfloat16, too, becomes Python floats by way of a type that NumPy itself knows.
        return _float_texts(array.astype("float64").tolist(), options)
    texts = [str(value) for value in array.tolist()]
    width = max(map(len, texts))
    return [text.rjust(width) for text in texts], width


def number_texts(array: Any) -> list[str]:
    """The elements of a host array in row order, written as a printed tensor shows them."""
    return _texts(array, _options)[0]


# ---- layout: brackets, commas, line breaks, and "..." for what is left out ----


def _corners(array: Any, edgeitems: int) -> Any:
    """The `edgeitems` first and last entries of every axis longer than both together."""
    xp = array_module(array)
    for axis, size in enumerate(array.shape):
        if size > 2 * edgeitems:
            before = (slice(None),) * axis
            first, last = slice(edgeitems), slice(size - edgeitems, size)
            array = xp.concatenate([array[(*before, first)], array[(*before, last)]], axis=axis)
    return array


def _body(array: Any, indent: int, options: PrintOptions) -> str:
    """The bracketed numbers of an array with at least one element, `indent` characters in."""
    full_shape = array.shape
    if full_shape and array.size > options.threshold:
        if options.edgeitems == 0:
            return "[...]"
        array = _corners(array, options.edgeitems)
    blocks, width = _texts(to_device(array, CPU), options)
    room = (options.linewidth - (indent + array.ndim - 1)) / (width + 2)
    numbers_per_line = int(max(1, min(room, len(blocks) + 1)))
    # From the innermost axis outwards, the blocks along an axis become one block in brackets.
    for axis in reversed(range(array.ndim)):
        length, depth = array.shape[axis], array.ndim - 1 - axis
        # Rows break where they are full; matrices are one blank line apart, stacks of them two.
        dots, per_line, breaks = ("...", 1, depth) if depth else (" ...", numbers_per_line, 1)
        separator = "," + "\n" * breaks + " " * (indent + axis + 1)
        bracketed = []
        for start in range(0, len(blocks), length):
            group = blocks[start : start + length]
            if length < full_shape[axis]:
                group.insert(length // 2, dots)
            lines = [", ".join(group[i : i + per_line]) for i in range(0, len(group), per_line)]
            bracketed.append(f"[{separator.join(lines)}]")
        blocks = bracketed
    return blocks[0]


def _stored(array: Any, indent: int, options: PrintOptions) -> str:
    """The rows that a row-sparse array stores, and their values."""
    lines = []
    for name, part in (("indices", array.rows[None]), ("values", array.values)):
        opening = f"{name}=tensor("
        body = _body(part, indent + len(opening), options) if part.size else "[]"
        size = "" if part.size else f", size={part.shape}"
        lines.append(f"{opening}{body}{size})")
    return f",\n{' ' * indent}".join(lines)


def _with_suffixes(text: str, suffixes: list[str], indent: int, linewidth: float) -> str:
    """Append the suffixes, each on a new line where the last one would grow too long."""
    column = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if column + len(suffix) + 2 > linewidth:
            text += ",\n" + " " * indent + suffix
            column = indent + len(suffix)
        else:
            text += ", " + suffix
            column += len(suffix) + 2
    return text + ")"


@silent
def format_tensor(
    array: Any,
    *,
    prefix: str = "tensor(",
    default_dtype: str = "float32",
    device_name: str | None = None,
    requires_grad: bool = False,
    grad_fn_name: str | None = None,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The printed form of a NumPy or CuPy array, of which only the shown corners reach the host.

    The dtype is named unless it follows from the numbers: `default_dtype`, its complex partner,
    int64 and bool. `device_name` ("cuda:0") and `notes` (texts by name, such as a tangent's) are
    shown too; `grad_fn_name` ("AddBackward0") takes precedence over `requires_grad`.
    """
    options, name, indent = _options, array.dtype.name, len(prefix)
    suffixes = [] if device_name is None else [f"device='{device_name}'"]
    if is_sparse(array):
        suffixes += [f"size={tuple(array.shape)}", f"nnz={len(array.rows)}"]
        body, silent, shape_is_hidden = _stored(array, indent, options), {default_dtype}, False
    elif array.size == 0:
        body, silent, shape_is_hidden = "[]", {default_dtype}, array.ndim != 1
    else:
        body, shape_is_hidden = _body(array, indent, options), options.edgeitems == 0
        partner = "complex128" if default_dtype == "float64" else "complex64"
        silent = {default_dtype, partner, "int64", "bool"}
    if shape_is_hidden:
        suffixes.append(f"size={tuple(array.shape)}")
    if name not in silent:
        suffixes.append(f"dtype=torch.{name}")
    if is_sparse(array):
        suffixes.append("layout=torch.sparse_coo")
    if grad_fn_name is not None:
        suffixes.append(f"grad_fn=<{grad_fn_name}>")
    elif requires_grad:
        suffixes.append("requires_grad=True")
    suffixes += [f"{name}={text}" for name, text in notes.items()]
    text = prefix + body
    if is_sparse(array):  # what follows the values begins a line
        text += ",\n" + " " * indent + suffixes.pop(0)
    return _with_suffixes(text, suffixes, indent, options.linewidth)


def tensor_repr(tensor: Tensor, *, prefix: str = "tensor(") -> str:
    """The text of `repr(tensor)` and `print(tensor)`."""
    grad_fn = tensor.grad_fn
    notes = {name: x for ring in modes.rings for name, x in ring.note(tensor).items()}
    return format_tensor(
        tensor._array,
        prefix=prefix,
        default_dtype=get_default_dtype().name,
        device_name=None if tensor.device.type == "cpu" else str(tensor.device),
        requires_grad=tensor._requires_grad,
        grad_fn_name=None if grad_fn is None else grad_fn.name(),
        notes={name: tensor_repr(x) for name, x in notes.items()},
    )


def tensor_format(tensor: Tensor, specification: str) -> str:
    """What `format` and f-strings give: the number of a 0-dim tensor, else the printed tensor.

    Raises TypeError for a specification such as ".3f" on a tensor with dimensions.
    """
    text = "" if specification else str(tensor)
    # A subclass with a text of its own, such as Parameter, keeps it unless a number is asked for.
    if tensor._array.ndim == 0 and (specification or text.startswith("tensor(")):
        return format(tensor._on_host().item(), specification)
    if specification:
        raise TypeError(
            f"format: {specification!r} formats one number, but the tensor has shape "
            f"{tuple(tensor._array.shape)}; take one element or use .item()"
        )
    return text
