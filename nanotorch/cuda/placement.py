"""Where a computation runs: a ring that brings its operands onto one device, current meanwhile.

It comes with CuPy, and is open in every thread from then on.
"""

from __future__ import annotations

import contextlib
from typing import Any

from nanotorch.autograd.engine import go_on
from nanotorch.autograd.inplace import go_on_writing
from nanotorch.autograd.rings import Ring, Rings, open_everywhere
from nanotorch.backend import (
    HERE,
    HOST,
    MODULES,
    cuda_module,
    device,
    device_of,
    on_device,
)
from nanotorch.node import Traced
from nanotorch.ops import move
from nanotorch.primitive import Primitive


class Placement(Ring):
    """Computes each primitive on one device."""

    rank = 30

    def __call__(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        inputs, there = placed(primitive, inputs)
        with there:
            return go_on(primitive, inputs, attributes, rest)

    def write(
        self, primitive: Any, inputs: tuple[Any, ...], attributes: dict[str, Any], rest: Rings
    ) -> Any:
        inputs, there = placed(primitive, inputs, inputs[0])
        with there:
            return go_on_writing(primitive, inputs, attributes, rest)


open_everywhere(Placement())


def placed(
    primitive: type[Primitive], inputs: tuple[Any, ...], target: Any = None
) -> tuple[tuple[Any, ...], contextlib.AbstractContextManager[Any]]:
    """The operands on one device, and the context to compute in.

    RuntimeError for operands on several devices, unless the primitive `moves` them; what is to be
    written to, the `target`, stays where it is.
    """
    arrays: list[Any] = [getattr(x, "_array", None) if isinstance(x, Traced) else x for x in inputs]
    numbers = [
        -1 if MODULES[type(a)] is HOST else a.device.id for a in arrays if type(a) in MODULES
    ]
    first = numbers[0] if numbers else -1
    if numbers.count(first) == len(numbers):
        if first < 0 or first == cuda_module().cuda.get_device_id():
            return inputs, HERE
        return inputs, on_device(device("cuda", first))
    places = [device_of(a) if type(a) in MODULES else None for a in arrays]
    whole = [p for p, a in zip(places, arrays) if p and (p.type == "cuda" or a.ndim)]
    there = places[0] if primitive.moves == "all" and places[0] else whole[0]
    moved = []
    for x, array, place in zip(inputs, arrays, places):
        if place is None or place == there:
            moved.append(x)
        elif x is not target and (
            primitive.moves == "all"
            or (primitive.moves and place.type == "cpu" and array.ndim == 0)
        ):
            moved.append(move(x, there))
        else:
            one, other = sorted((there, place), key=places.index)
            raise RuntimeError(
                f"{primitive.title()}: expected all tensors to be on the same device, but found at "
                f"least two devices, {one} and {other}"
            )
    return placed(primitive, tuple(moved), target)
