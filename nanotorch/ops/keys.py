"""What stands between the brackets of x[…], as a primitive's attributes and inputs.

A key is a tuple of slices, `...` and strings. Each string stands for an index tensor, which is an
input, and names the op that it is for.
"""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, MODULES, Array, device_of, is_array, to_device
from nanotorch.backend.errors import WRAPPING, out_of_range
from nanotorch.ops.casting import move
from nanotorch.ops.shapes import BasicIndex
from nanotorch.primitive import Traced, apply

HERE = "index"  # the op of x[…] itself
UNSIGNED = {size: HOST.dtype(f"u{size}") for size in (1, 2, 4, 8)}
WHOLE = {int, type(None)}  # the types of the ends of a slice that needs no conversion


def parsed(x: Any, key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A key as (items, index tensors): each index tensor is HERE among the items."""
    items, indices = [], []
    for item in key if isinstance(key, tuple) or is_like_tuple(key) else (key,):
        if isinstance(item, list | range | tuple):
            item = as_index(x, item)
        array: Any = getattr(item, "_array", item)
        if is_array(array) and array.dtype.char == "B":  # a mask from before there were booleans
            item = item != 0
            array = getattr(item, "_array", item)
        if item is None or item is Ellipsis or isinstance(item, slice) or type(item) is int:
            if isinstance(item, slice):
                item = whole_numbers(item)
            items.append(item)
        elif is_array(array) and array.ndim == 0 and array.dtype.kind in "iu":
            items.append(int(item))
        elif is_array(array) and array.dtype.kind in "iub":
            items.append(HERE)
            if on_host(array) and not on_host(x._array):
                item = move(item, device_of(x._array))  # as PyTorch does; not the other way round
            indices.append(item)
        elif isinstance(item, bool | HOST.bool):
            items.append(HERE)
            indices.append(to_device(HOST.asarray(bool(item)), device_of(x._array)))
        elif hasattr(item, "__index__") and not is_array(array):
            items.append(item.__index__())
        else:
            raise IndexError(
                "tensors used as indices must be long, int, byte or bool tensors; "
                f"got {getattr(item, 'dtype', type(item).__name__)}"
            )
    return without_ellipses(x, tuple(items), tuple(indices)), tuple(indices)


def is_plain(item: Any) -> bool:
    """Whether an item of a key is an int, or a slice of step 1 between ints."""
    kind = type(item)
    if kind is slice:
        return type(item.start) in WHOLE and type(item.stop) in WHOLE and item.step is None
    return kind is int


def is_like_tuple(key: Any) -> bool:
    """Whether a list stands for a tuple of indices, as PyTorch takes short lists of sequences."""
    if not isinstance(key, list) or len(key) >= 32:
        return False
    parts = (list, tuple, range, slice, Traced, HOST.ndarray)
    return any(item is None or item is Ellipsis or isinstance(item, parts) for item in key)


def without_ellipses(x: Any, items: tuple[Any, ...], indices: Any) -> tuple[Any, ...]:
    """The key with at most one `...`, and with none that stands for no dimension.

    For PyTorch such a one is nothing, while for NumPy it separates the index tensors around it.
    """
    if Ellipsis not in items:
        return items
    masks = [getattr(i, "_array", i) for i in indices]
    taken = sum(array.ndim if array.dtype.kind == "b" else 1 for array in masks)
    taken += sum(type(item) is int or isinstance(item, slice) for item in items)
    place = items.index(Ellipsis)
    rest = tuple(item for item in items[place + 1 :] if item is not Ellipsis)
    if taken >= x.ndim:
        return items[:place] + rest
    last = len(items) - 1 - items[::-1].index(Ellipsis)
    if last > place and any(item is not None for item in items[last + 1 :]):
        raise IndexError(f"an index can only have a single ellipsis ('...'), got {items}")
    return items[: place + 1] + rest


def on_host(array: Any) -> bool:
    """Whether an array, or what stands for one without values, is on the CPU."""
    return MODULES.get(type(array), HOST) is HOST


def as_index(x: Any, values: Any) -> Any:
    """A list used as an index, as an array beside x."""
    plain = [v.tolist() if isinstance(v, Traced) else v for v in values]  # type: ignore[attr-defined]
    array = HOST.array(plain) if len(plain) else HOST.zeros(0, HOST.int64)
    return to_device(array, device_of(x._array))


def whole_numbers(item: slice) -> slice:
    """A slice with plain ints; steps must be positive, as in PyTorch."""
    start, stop, step = (None if v is None else int(v) for v in (item.start, item.stop, item.step))
    if step is not None and step <= 0:
        raise ValueError("slice: step must be greater than zero")
    return slice(start, stop, step)


def located(x: Any, key: Any) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """x[key] in two steps, as PyTorch takes it: the view by ints, slices and None, then what is
    left of the key, and its index tensors."""
    items, indices = parsed(x, key)
    if all(item is HERE or item is Ellipsis or item == slice(None) for item in items):
        return x, items, indices
    if (
        not indices
        and x.ndim == 0
        and any(item is not None and item is not Ellipsis for item in items)
    ):
        raise IndexError("invalid index of a 0-dim tensor; use tensor.item() to read its number")
    first: list[Any] = []
    rest: list[Any] = []
    tensors = iter(indices)
    for item in items:
        if item is HERE:
            array = next(tensors)
            mask = getattr(array, "_array", array).dtype.kind == "b"
            first.extend([slice(None)] * (array.ndim if mask else 1))
        else:
            first.append(item)
        if type(item) is not int:
            rest.append(item if item is HERE or item is Ellipsis else slice(None))
    return apply(BasicIndex, x, key=tuple(first)), tuple(rest), indices


def along(dim: int, op: str) -> tuple[Any, ...]:
    """The key of an op that indexes one dimension."""
    return (*(slice(None),) * dim, op)


def filled(key: Any, indices: tuple[Array, ...]) -> tuple[Any, ...]:
    """The key with its index inputs in their places."""
    if len(key) == 1 and indices:
        return indices
    rest = iter(indices)
    return tuple(next(rest) if type(item) is str else item for item in key)


def op_of(key: Any) -> str:
    """The op that the index inputs of a key are given to."""
    return next(item for item in key if type(item) is str)


def axes(
    xp: Any, ndim: int, key: Any, indices: tuple[Array, ...]
) -> list[tuple[int, Array]] | None:
    """Which axis of a tensor each index input of a key is for; a mask as the places it shows.

    None for what CuPy and NumPy do themselves: masks alone, which name no place twice and none
    outside, masks of one element, and keys with more than whole dimensions beside the indices.
    """
    if not all(type(item) is str or item is Ellipsis or item == slice(None) for item in key):
        return None
    masks = [array.dtype.kind == "b" for array in indices]
    if all(masks) or any(mask and not array.ndim for mask, array in zip(masks, indices)):
        return None
    by_axis: list[tuple[int, Array]] = []
    taken = iter(axes_taken(ndim, key, indices))
    for mask, array in zip(masks, indices):
        by_axis += [(next(taken), a) for a in (xp.nonzero(array) if mask else (array,))]
    return by_axis


def axes_taken(ndim: int, key: Any, indices: tuple[Array, ...]) -> list[int]:
    """The axes of a tensor that the index inputs of a key are for, in their order."""
    lengths = [array.ndim if array.dtype.kind == "b" else 1 for array in indices]
    taken: list[int] = []
    rest, axis = iter(lengths), 0
    for item in key:
        if item is Ellipsis:
            axis += ndim - sum(lengths) - sum(isinstance(other, slice) for other in key)
        elif isinstance(item, slice):
            axis += 1
        else:
            length = next(rest)
            taken += range(axis, axis + length)
            axis += length
    return taken


def host_checked(xp: Any, shape: Any, key: Any, indices: tuple[Array, ...]) -> tuple[Array, ...]:
    """The indices, refused on the CPU where the op does not count negative ones from the end."""
    if xp is not HOST or not indices:
        return indices
    if len(key) == 1 and indices[0].dtype.kind != "b":
        refuse_outside(key[0], indices[0], shape[0])
    elif (op := op_of(key)) not in WRAPPING:
        for axis, index in axes(xp, len(shape), key, indices) or ():
            refuse_outside(op, index, shape[axis])
    return indices


def all_below(numbers: Array, count: int) -> bool:
    """Whether 0 <= numbers < count, of an array of the host: one comparison, since negative
    integers, seen without their sign, are huge."""
    if not numbers.size:
        return True
    numbers = numbers.view(UNSIGNED[numbers.itemsize])
    if type(numbers) is HOST.ndarray:  # by the place of the largest, in half the time
        return bool(numbers.item(numbers.argmax()) < count)
    return bool(numbers.max() < count)


def refuse_outside(op: str, index: Array, size: int) -> None:
    """IndexError, on the CPU, for an index outside of `size` places."""
    if op not in WRAPPING and not all_below(index, size):
        wrong = index[(index < 0) | (index >= size)].flat[0]
        raise out_of_range(op, int(wrong), size)
