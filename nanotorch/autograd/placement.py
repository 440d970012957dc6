"""Where a computation runs: its operands are on one device, which is current meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import (
    HERE,
    HOST,
    MODULES,
    cuda_module,
    device,
    device_of,
    on_device,
    on_device_of,
)
from nanotorch.ops import move
from nanotorch.primitive import Primitive, Traced


def placed(
    primitive: type[Primitive], inputs: tuple[Any, ...], arrays: Sequence[Any], written: Any = None
) -> tuple[tuple[Any, ...], contextlib.AbstractContextManager[Any]] | None:
    """Operands on one device, and the context to compute in; None where all is so already.

    RuntimeError for operands on several devices, unless the primitive `moves` them; what is
    `written` to stays where it is.
    """
    numbers = [
        -1 if MODULES[type(a)] is HOST else a.device.id for a in arrays if type(a) in MODULES
    ]
    first = numbers[0] if numbers else -1
    if numbers.count(first) == len(numbers):
        if first < 0 or first == cuda_module().cuda.get_device_id():
            return None
        return inputs, on_device(device("cuda", first))
    places = [device_of(a) if type(a) in MODULES else None for a in arrays]
    whole = [p for p, a in zip(places, arrays) if p and (p.type == "cuda" or a.ndim)]
    target = places[0] if primitive.moves == "all" and places[0] else whole[0]
    moved = []
    for x, array, place in zip(inputs, arrays, places):
        if place is None or place == target:
            moved.append(x)
        elif x is not written and (
            primitive.moves == "all"
            or (primitive.moves and place.type == "cpu" and array.ndim == 0)
        ):
            moved.append(move(x, target))
        else:
            one, other = sorted((target, place), key=places.index)
            raise RuntimeError(
                f"{primitive.title()}: expected all tensors to be on the same device, but found at "
                f"least two devices, {one} and {other}"
            )
    return tuple(moved), HERE


def elsewhere(x: Any) -> contextlib.AbstractContextManager[Any]:
    """The context in which to compute with a tensor or an array: its device is current."""
    return on_device_of(x._array if isinstance(x, Traced) else x)
