"""State of an optimizer: the tensors that it keeps for each parameter, and their step count."""

from __future__ import annotations

from typing import Any

from nanotorch.backend import Array, array_module, device_of, get_default_dtype, on_device
from nanotorch.backend.dtypes import float32, float64
from nanotorch.creation import zeros
from nanotorch.tensor import Tensor


def state_array(state: dict[str, Any], name: str, parameter: Tensor, value: float = 0.0) -> Array:
    """The array of the state tensor `name`, made like the parameter, of `value`, if absent."""
    tensor = state.get(name)
    if tensor is None:
        array = parameter._array
        with on_device(device_of(array)):
            tensor = Tensor._wrap(array_module(array).full_like(array, value))
        state[name] = tensor
    return tensor._array


def zero_step() -> Tensor:
    """A step count of 0: a 0-dim tensor on the CPU, float32 unless the default dtype is float64."""
    dtype = float64 if get_default_dtype() is float64 else float32
    return zeros((), dtype=dtype, device="cpu")


def next_step(state: dict[str, Any]) -> float:
    """Counts one more step in state["step"] and returns the new count."""
    step = state.get("step")
    if not isinstance(step, Tensor):
        before, step = step, zero_step()
        step._array.fill(before or 0.0)
        state["step"] = step
    count: float = step._array.item() + 1.0
    step._array.fill(count)
    return count


def coming_step(state: dict[str, Any]) -> float:
    """What `next_step` will return."""
    step = state.get("step")
    return float(step._array.item() if isinstance(step, Tensor) else step or 0.0) + 1.0


Held = tuple[tuple[str, Array], ...]  # arrays of a parameter's state, with their names


def held_in(entry: dict[str, Any] | None, arrays: tuple[Array | None, ...]) -> Held:
    """The names under which a parameter's state keeps these arrays."""
    wanted = {id(array) for array in arrays if array is not None}
    return tuple(
        (name, value._array)
        for name, value in (entry or {}).items()
        if isinstance(value, Tensor) and id(value._array) in wanted
    )


def still_holds(entry: dict[str, Any] | None, held: Held) -> bool:
    """Whether the state keeps the same arrays under these names."""
    if entry is None:
        return not held
    for name, array in held:
        tensor = entry.get(name)
        if tensor is None or tensor._array is not array:
            return False
    return True


# Options of these types cannot change in place.
_PLAIN = (float, int, type(None))


def comparable(options: tuple[Any, ...] | None) -> bool:
    """Whether options that are equal to these later on still say the same."""
    return options is not None and all(
        all(isinstance(v, _PLAIN) for v in value)
        if type(value) is tuple
        else isinstance(value, _PLAIN)
        for value in options
    )


def taken_over(value: Any, parameter: Tensor, key: Any = None) -> Any:
    """A copy of a saved value: tensors but the step count get the parameter's dtype and device."""
    if isinstance(value, Tensor):
        if key == "step":
            return value.clone()
        dtype = parameter.dtype if parameter.is_floating_point() else value.dtype
        return value.detach().to(device=parameter.device, dtype=dtype, copy=True)
    if isinstance(value, dict):
        return {name: taken_over(entry, parameter, name) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(taken_over(entry, parameter) for entry in value)
    return value
