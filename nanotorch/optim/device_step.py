"""One step of an optimizer on CUDA devices, in a part for the host and a part for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nanotorch.backend as backend
from nanotorch.backend import Array, array_module, device, device_of, on_device
from nanotorch.optim.numbers import Numbers, Rows, same_terms
from nanotorch.tensor import Tensor

if TYPE_CHECKING:
    from nanotorch.optim.optimizer import Optimizer


class Set:
    """Parameters of one group, on one device and of one dtype, that have made as many steps."""

    def __init__(self, index: int, group: dict[str, Any], place: device, step: float) -> None:
        self.index, self.group, self.place, self.step = index, group, place, step
        self.parameters: list[Tensor] = []
        self.arrays: list[Array] = []  # those of the parameters
        self.states: list[tuple[Array | None, ...]] = []  # none before the first step
        self.scratches: list[tuple[Array, ...]] = []
        self.numbers: Numbers = ()
        self.rows: Rows
        self.start = 0  # where its numbers stand in a row
        self.views: list[tuple[Any, ...]] = []  # of each slot


class DeviceStep:
    """A step of the parameters that have a gradient on a CUDA device now, in two parts.

    For every step: `advance(slot)` and, once for all slots, `send()` on the host; then
    `launch(slot)`, which only launches kernels. `slots` is the number of steps that may be sent
    for at once. Memory is taken here, and for the state at the first step by `advance`: never in
    `launch`, which updates from the gradients that the parameters have when it is called.
    """

    def __init__(self, optimizer: Optimizer, slots: int = 1) -> None:
        self.optimizer, self.slots = optimizer, slots
        self.state = optimizer.state
        self.members = members_of(optimizer)
        self.sets = self._sets()
        self._place_numbers()

    def _sets(self) -> list[Set]:
        found: dict[Any, Set] = {}
        optimizer = self.optimizer
        for parameter, group, index in self.members:
            array = parameter._array
            place = device_of(array)
            step = optimizer._coming_step(parameter, group)
            key = (index, place, array.dtype, step)
            one = found.setdefault(key, Set(index, group, place, step))
            one.parameters.append(parameter)
            one.arrays.append(array)
            one.numbers = optimizer._numbers(group, step)
            with on_device(place):
                one.scratches.append(optimizer._scratch_for(array))
        for one in found.values():
            if one.step > 1.0:
                self._find_state(one)
        return list(found.values())

    def _find_state(self, one: Set) -> None:
        """The state of a set; made at the first step, which its absence tells."""
        with on_device(one.place):
            one.states = [self.optimizer._arrays(p, one.group) for p in one.parameters]

    def _place_numbers(self) -> None:
        """Gives each set its place in the rows of its device and dtype."""
        width: dict[Any, int] = {}
        keys = []
        for one in self.sets:
            kind = one.arrays[0].dtype
            key = (one.place, "d" if kind.char == "d" else "f")
            one.start = width.get(key, 0)
            width[key] = one.start + len(one.numbers)
            keys.append(key)
        xp: Any = backend.cuda_module() if self.sets else None
        rows = {
            (place, kind): Rows(xp, place, kind, self.slots, total)
            for (place, kind), total in width.items()
        }
        self.rows = list(rows.values())
        for one, key in zip(self.sets, keys, strict=True):
            one.rows = rows[key]
            with on_device(one.place):
                one.views = [
                    one.rows.views(slot, one.start, one.numbers) for slot in range(self.slots)
                ]

    def is_for(self, members: list[tuple[Tensor, dict[str, Any], int]]) -> bool:
        """Whether these are its parameters."""
        return len(members) == len(self.members) and all(
            parameter is own and group is own_group
            for (parameter, group, _), (own, own_group, _) in zip(members, self.members)
        )

    def holds(self) -> bool:
        """Whether nothing has changed but values: the arrays, and the terms of the update.

        Where not, a new DeviceStep has to be made, and a captured `launch` captured again.
        """
        optimizer = self.optimizer
        groups = optimizer.param_groups
        if optimizer.state is not self.state:
            return False
        for one in self.sets:
            group = one.group
            if one.index >= len(groups) or groups[one.index] is not group:
                return False
            step = optimizer._coming_step(one.parameters[0], group)
            if not same_terms(one.numbers, optimizer._numbers(group, step)):
                return False
            for parameter, array in zip(one.parameters, one.arrays):
                if (
                    parameter._array is not array
                    or optimizer._coming_step(parameter, group) != step
                ):
                    return False
            for parameter, state in zip(one.parameters, one.states):
                if any(a is not b for a, b in zip(optimizer._arrays(parameter, group), state)):
                    return False
        return True

    # --- the host's part --------------------------------------------------------------------------

    def advance(self, slot: int = 0) -> None:
        """Counts one more step and notes its numbers for `slot`."""
        self.optimizer._step_count += 1
        self.note(slot)

    def note(self, slot: int) -> None:
        """Notes the numbers of the step that comes next for each parameter."""
        optimizer = self.optimizer
        for one in self.sets:
            group, step = one.group, 0.0
            for parameter in one.parameters:
                step = optimizer._next_step(parameter, group)
                parameter._bump()
            if not one.states:
                self._find_state(one)
            one.rows.note(slot, one.start, optimizer._numbers(group, step))

    def send(self) -> None:
        """Brings the noted numbers to the device, where they have changed."""
        for rows in self.rows:
            rows.send()

    # --- the device's part ------------------------------------------------------------------------

    def launch(self, slot: int = 0) -> None:
        """Updates the parameters from their gradients, by the numbers sent for `slot`."""
        kernel = self.optimizer.kernel
        for one in self.sets:
            numbers = one.views[slot]
            with on_device(one.place):
                for parameter, array, state, scratch in zip(
                    one.parameters, one.arrays, one.states, one.scratches
                ):
                    gradient: Any = parameter._grad
                    xp = array_module(array)
                    kernel(xp, array, gradient._array, *state, *scratch, *numbers)

    def step(self) -> None:
        """All of it at once, for a step that the optimizer has counted."""
        self.note(0)
        self.send()
        self.launch(0)


def members_of(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, Any], int]]:
    """The parameters that have a gradient on a CUDA device, each with its group and the number
    of it."""
    return [
        (parameter, group, index)
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if parameter._grad is not None and array_module(parameter._array) is not backend.HOST
    ]
