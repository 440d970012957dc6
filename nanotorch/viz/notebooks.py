"""How tensors and modules show themselves in a notebook, where a picture says more than text.

Jupyter asks for it by `_repr_html_`; a terminal never does. What is no better as a picture answers
None, and Jupyter shows the text.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from html import escape
from typing import Any

from nanotorch.autograd.grad_mode import modes
from nanotorch.backend import CPU, array_module, is_sparse, to_device
from nanotorch.printing import number_texts

NEGATIVE, POSITIVE = (47, 111, 179), (217, 98, 43)
ROWS, COLUMNS = 20, 12  # of a table that is shown whole
EDGE = 5  # rows and columns shown at each end of a longer one
PIXELS = 512  # of a picture, to each side
SMALLEST_IMAGE = 16  # pixels to each side: below, three matrices are more likely than colours
OPEN_ROWS = 40  # of a module's tree that is shown unfolded
CELL = "padding:1px 8px;text-align:right;border:0"
NOTE = "opacity:.7;font-size:90%"


# ---- tensors -----------------------------------------------------------------------------------


def tensor_html(tensor: Any) -> str | None:
    """A matrix as a table with a colour for each number, or, if it is large, as a picture; a tensor
    of shape (1 or 3, height, width) with values of an image as the image; None for all others."""
    array = tensor._array
    if is_sparse(array) or array.dtype.kind == "c":
        return None
    if any(ring.note(tensor) for ring in modes.rings):
        return None
    if _is_image(array):
        pixels = _thinned(array)
        pixels = pixels if array.dtype == "uint8" else (pixels * 255 + 0.5).astype("uint8")
        return _picture(array_module(array).moveaxis(pixels, 0, -1), tensor)
    if array.ndim != 2 or min(array.shape) < 2:
        return None
    if min(array.shape) > COLUMNS:
        return _heat_map(_thinned(array).astype("float64"), tensor)
    return _table(array, tensor)


def _is_image(array: Any) -> bool:
    if array.ndim != 3 or array.shape[0] not in (1, 3) or min(array.shape[1:]) < SMALLEST_IMAGE:
        return False
    if array.dtype == "uint8":
        return True
    return array.dtype.kind not in "biu" and bool(((array >= 0) & (array <= 1)).all())


def _caption(tensor: Any, *remarks: str) -> str:
    words = [f"{type(tensor).__name__} of shape {tuple(tensor.shape)}", str(tensor.dtype)]
    if tensor.device.type != "cpu":
        words.append(str(tensor.device))
    if tensor.grad_fn is not None:
        words.append(f"grad_fn=<{tensor.grad_fn.name()}>")
    elif tensor.requires_grad:
        words.append("requires_grad")
    return f'<div style="{NOTE}">{escape(", ".join([*words, *remarks]))}</div>'


def _table(array: Any, tensor: Any) -> str:
    """The numbers as the text shows them, the first and last where there are many."""
    places = [
        list(range(size)) if size <= most else [*range(EDGE), None, *range(size - EDGE, size)]
        for size, most in zip(array.shape, (ROWS, COLUMNS), strict=True)
    ]
    for axis, axis_places in enumerate(places):
        array = array.take([place for place in axis_places if place is not None], axis)
    array = to_device(array, CPU)
    values = array.astype("float64").ravel().tolist()
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    cells = iter(zip(number_texts(array), values, strict=True))
    heads = "".join(f'<th style="{CELL};{NOTE}">{_place(place)}</th>' for place in places[1])
    rows = [f"<tr><th></th>{heads}</tr>"]
    for row in places[0]:
        line = [f'<th style="{CELL};{NOTE}">{_place(row)}</th>']
        for column in places[1]:
            if row is None or column is None:
                line.append(f'<td style="{CELL}">{_place(None)}</td>')
            else:
                text, value = next(cells)
                line.append(f'<td style="{CELL};{_shade(value, largest)}">{text.strip()}</td>')
        rows.append(f"<tr>{''.join(line)}</tr>")
    style = "border-collapse:collapse;font-family:monospace"
    return f'<table style="{style}">{"".join(rows)}</table>{_caption(tensor)}'


def _place(place: int | None) -> str:
    return "…" if place is None else str(place)


def _shade(value: float, largest: float) -> str:
    """The colour behind a number, which lets light and dark themes through."""
    if not math.isfinite(value):
        return "background:rgba(128,128,128,.35)"
    if not value:
        return ""
    red, green, blue = POSITIVE if value > 0 else NEGATIVE
    return f"background:rgba({red},{green},{blue},{0.7 * abs(value) / largest:.2f})"


def _thinned(array: Any) -> Any:
    """The rows and columns of a matrix that are pixels of its picture, at equal distances."""
    steps = (slice(None, None, -(-size // PIXELS)) for size in array.shape[-2:])
    return array[(..., *steps)]


def _heat_map(values: Any, tensor: Any) -> str:
    """Numbers as colours: blue below zero, white at zero, orange above, grey where none is."""
    xp = array_module(values)
    finite = xp.isfinite(values)
    shown = xp.where(finite, values, 0)
    low, high = float(shown.min()), float(shown.max())
    share = xp.abs(shown)[..., None] / (max(-low, high) or 1.0)
    colour = xp.where((values < 0)[..., None], xp.asarray(NEGATIVE), xp.asarray(POSITIVE))
    pixels = 255 - share * (255 - colour)
    pixels = xp.where(finite[..., None], pixels, 160).astype("uint8")
    return _picture(pixels, tensor, f"from {low:.4g} to {high:.4g}")


def _picture(pixels: Any, tensor: Any, *remarks: str) -> str:
    shown = to_device(pixels, CPU)
    height, width = shown.shape[:2]
    factor = max(1, 256 // max(height, width))
    style = f"width:{width * factor}px;height:{height * factor}px;image-rendering:pixelated"
    thinned = (height, width) != tuple(tensor.shape[-2:])
    if thinned:
        remarks += (f"{height} rows and {width} columns of it shown",)
    data = base64.b64encode(png(shown)).decode()
    alt = escape(f"picture of a tensor of shape {tuple(tensor.shape)}")
    source = f"data:image/png;base64,{data}"
    return f'<img alt="{alt}" style="{style}" src="{source}">{_caption(tensor, *remarks)}'


def png(pixels: Any) -> bytes:
    """The PNG file of a uint8 array (height, width, 1 for grey or 3 for colours)."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---- modules -----------------------------------------------------------------------------------


def module_html(module: Any) -> str:
    """The tree of a module: of each part its parameters, their shapes, and which are frozen."""
    seen: set[int] = set()
    count = sum(1 for part in module.modules()) + sum(1 for _ in module.parameters())
    tree = _branch("", module, seen, "open", "open" if count <= OPEN_ROWS else "")
    return f'<div style="font-family:monospace;line-height:1.5">{tree}</div>'


def _branch(name: str, module: Any, seen: set[int], state: str, below: str) -> str:
    extra = " ".join(module.extra_repr().split())
    kind = (
        f"<b>{escape(type(module).__name__)}</b>({escape(extra)})"
        if extra
        else (f"<b>{escape(type(module).__name__)}</b>")
    )
    title = f"{escape(name)}: {kind}" if name else kind
    leaves = [_leaf(path, p, seen) for path, p in module.named_parameters(recurse=False)]
    leaves += [
        f'<div style="{NOTE}">{escape(path)} {tuple(buffer.shape)}, a buffer</div>'
        for path, buffer in module.named_buffers(recurse=False)
    ]
    branches = [_branch(path, part, seen, below, below) for path, part in module.named_children()]
    inside = "".join(leaves + branches)
    summary = f'{title} <span style="{NOTE}">{_sizes(module)}</span>'
    if not inside:
        return f'<div style="padding-left:1em">{summary}</div>'
    return (
        f"<details {state}><summary>{summary}</summary>"
        f'<div style="padding-left:2em">{inside}</div></details>'
    )


def _leaf(path: str, parameter: Any, seen: set[int]) -> str:
    again = ", shared with the one above" if id(parameter) in seen else ""
    seen.add(id(parameter))
    state = "trainable" if parameter.requires_grad else "frozen"
    colour = "{},{},{}".format(*(POSITIVE if parameter.requires_grad else NEGATIVE))
    badge = f"background:rgba({colour},.25);border-radius:4px;padding:0 5px"
    shape = f"{escape(path)} {tuple(parameter.shape)}"
    return f'<div>{shape} <span style="{badge}">{state}</span>{again}</div>'


def _sizes(module: Any) -> str:
    """How many numbers a module has, and how many of them are frozen."""
    parameters = list(module.parameters())
    total = sum(p.numel() for p in parameters)
    if not parameters:
        return "no parameters"
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    state = ", all trainable"
    if frozen:
        state = ", all frozen" if frozen == total else f", {frozen:,} of them frozen"
    return f"{total:,} parameter{'s' * (total != 1)}{state}"
