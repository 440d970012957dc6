"""The order of axes in memory that PyTorch gives to what is made like another array.

Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html#torch.memory_format
"""

from __future__ import annotations

from typing import Any


def axes_by_stride(array: Any) -> list[int]:
    """The axes from the longest stride to the shortest; those of stride 0 stay between the axes
    where they are."""
    strides, shape = array.strides, array.shape
    axes = list(range(array.ndim))[::-1]  # from the shortest on
    for last in range(1, len(axes)):
        place = last
        for other in range(last - 1, -1, -1):
            a, b = axes[other], axes[place]
            one, two = abs(strides[a]), abs(strides[b])
            if not one or not two or (one == two and shape[a] <= shape[b]):
                continue  # nothing says which of the two goes first
            if one < two:
                break
            axes[other], axes[place] = b, a
            place = other
    return axes[::-1]


def empty_like(xp: Any, array: Any, kind: Any) -> Any:
    """A dense array of the module in the shape of `array` and its order of axes."""
    if array.flags.c_contiguous:
        return xp.empty(array.shape, kind)
    axes = axes_by_stride(array)
    places = sorted(range(array.ndim), key=axes.__getitem__)
    return xp.empty([array.shape[axis] for axis in axes], kind).transpose(places)
