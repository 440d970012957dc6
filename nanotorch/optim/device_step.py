"""One step of an optimizer on CUDA devices, in a part for the host and a part for the device.

Where kernels of ours can be compiled, one launch updates up to 64 parameters
(`backend/cuda/optimizers.cu`); otherwise, and for parameters whose memory is not dense, the
optimizer's `kernel` runs on each. Both read their numbers from the memory of the device.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import nanotorch.backend as backend
from nanotorch.backend import (
    Array,
    array_module,
    cuda_parts,
    device,
    device_of,
    on_device,
    to_device,
)
from nanotorch.optim.numbers import Numbers, Rows, same_terms
from nanotorch.optim.state import Held, coming_step, comparable, held_in, still_holds
from nanotorch.tensor import Tensor

if TYPE_CHECKING:
    from nanotorch.optim.optimizer import Optimizer

Members = list[tuple[Tensor, dict[str, Any], int]]


class Set:
    """Parameters of one group, on one device and of one dtype, that have made as many steps."""

    def __init__(
        self, index: int, group: dict[str, Any], place: device, step: float, numbers: Numbers
    ) -> None:
        self.index, self.group, self.place, self.step = index, group, place, step
        self.numbers = numbers
        self.parameters: list[Tensor] = []
        self.arrays: list[Array] = []  # those of the parameters
        self.states: list[tuple[Array | None, ...]] = []  # none before the first step
        self.held: list[Held] = []  # the same by their names
        self.options: Any = None  # of the group when its terms were compared last
        self.noted: dict[int, Any] = {}  # by slot: the options and the step that it has numbers of
        self.fused = True
        self.turn = 0  # of a parameter that is listed several times; those of one launch have one
        self.rows: Rows
        self.start = 0  # where its numbers stand in a row


class FusedUpdate:
    """One launch for parameters of one device and dtype."""

    def __init__(
        self, optimizer: Optimizer, place: device, kind: str, flags: int, rows: Rows
    ) -> None:
        self.optimizer, self.place, self.kind, self.rows = optimizer, place, kind, rows
        self.flags = flags
        self.parameters: list[Tensor] = []
        self.arrays: list[Array] = []
        self.states: list[tuple[Array | None, ...]] = []
        self.starts: list[int] = []
        self.table: Any
        self.skips: Array | None = None

    def add(self, parameter: Tensor, array: Array, state: Any, start: int) -> None:
        self.parameters.append(parameter)
        self.arrays.append(array)
        self.states.append(state)
        self.starts.append(start)

    def make_table(self) -> None:
        """Notes where everything but the gradients lies."""
        made = cuda_parts.tables.Table([(a, None, *s) for a, s in zip(self.arrays, self.states)])
        made.numbers[: len(self.starts)] = self.starts
        if self.skips is not None:
            index = self.optimizer._skips.index
            made.index[: len(self.starts)] = [index[p] for p in self.parameters]
        self.table = made

    def launch(self, slot: int, scale: Array | None, found_inf: Array | None) -> None:
        table, copies = self.table, []
        with on_device(self.place):
            xp = array_module(self.arrays[0])
            for i, (parameter, array) in enumerate(zip(self.parameters, self.arrays)):
                gradient = parameter._grad._array  # type: ignore[union-attr]
                if not cuda_parts.tables.laid_out_as(gradient, array):
                    copy = xp.empty_like(array)
                    xp.copyto(copy, gradient)
                    copies.append((gradient, copy))
                    gradient = copy
                table.put(cuda_parts.tables.GRADIENT, i, gradient)
            nowhere = cuda_parts.tables.NOWHERE
            skips = nowhere if self.skips is None or found_inf is None else self.skips
            table.launch(
                xp, self.optimizer.cuda_kernel, self.kind, self.rows.lines[slot],
                nowhere if scale is None else to_device(scale, self.place),
                nowhere if found_inf is None else to_device(found_inf, self.place),
                skips, self.flags,
            )  # fmt: skip
            if scale is not None:
                for gradient, copy in copies:
                    xp.copyto(gradient, copy)


class PlainUpdate:
    """The optimizer's kernel on each parameter of a set."""

    def __init__(self, optimizer: Optimizer, one: Set, slots: int) -> None:
        self.optimizer, self.one = optimizer, one
        with on_device(one.place):
            self.scratches = [optimizer._scratch_for(array) for array in one.arrays]
            self.numbers = [one.rows.views(k, one.start, one.numbers) for k in range(slots)]

    def launch(self, slot: int, scale: Array | None, found_inf: Array | None) -> None:
        one, kernel, numbers = self.one, self.optimizer.kernel, self.numbers[slot]
        with on_device(one.place):
            for parameter, array, state, scratch in zip(
                one.parameters, one.arrays, one.states, self.scratches
            ):
                gradient: Any = parameter._grad
                xp = array_module(array)
                kernel(xp, array, gradient._array, *state, *scratch, *numbers)


class Skips:
    """How many of the steps that the host has counted were skipped on the devices.

    A step whose gradients overflowed changes nothing; the device alone knows. Kernels take the
    skipped steps off by themselves, and the host does when the state is asked for (`settle`).
    """

    def __init__(self, optimizer: Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.index = {parameter: i for i, parameter in enumerate(parameters)}
        self.counts: dict[device, Array] = {}

    def on(self, place: device) -> Array:
        """The counts of a device's parameters, each at the index of its parameter."""
        if place not in self.counts:
            with on_device(place):
                self.counts[place] = backend.module_of(place).zeros(len(self.index), "i")
        return self.counts[place]

    def settle(self, state: dict[Any, Any]) -> None:
        """Takes the skipped steps off the step counts; waits for the device."""
        for place, counts in self.counts.items():
            with on_device(place):
                found = to_device(counts, backend.CPU)
                counts.fill(0)
            for parameter, i in self.index.items():
                step = state.get(parameter, {}).get("step")
                if found[i] and step is not None:
                    step._array.fill(step._array.item() - float(found[i]))


class DeviceStep:
    """A step of the parameters that have a gradient on a CUDA device now, in two parts.

    For every step: `advance(slot)` and, once for all slots, `send()` on the host; then
    `launch(slot)`, which only launches kernels. `slots` is the number of steps that may be sent
    for at once. Memory is taken here, and for the state at the first step by `advance`: never in
    `launch`, which updates from the gradients that the parameters have when it is called.

    With `grad_scale` (0-dim float32) gradients are divided by it, and stay so; where `found_inf`
    (0-dim float32) is not 0, nothing is changed. ValueError for parameters whose memory is not
    dense, or where no kernels can be compiled, with either of them.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        slots: int = 1,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
    ) -> None:
        self.optimizer, self.slots = optimizer, slots
        self.grad_scale, self.found_inf = grad_scale, found_inf
        self.state = optimizer.state
        self.members = members_of(optimizer)
        self.skips = optimizer._skips if found_inf is not None else None
        self.sets = self._sets()
        self.rows = self._place_numbers()
        self._updates: list[FusedUpdate | PlainUpdate] = []
        self._make_ready()

    def _sets(self) -> list[Set]:
        found: dict[Any, Set] = {}
        optimizer, turns = self.optimizer, Counter[int]()
        for parameter, group, index in self.members:
            array = parameter._array
            place = device_of(array)
            step = optimizer._coming_step(parameter, group)
            fused = fuses(optimizer, array)
            if not fused:
                self._refuse_scaling(place, array)
            turn = turns[id(parameter)]
            turns[id(parameter)] += 1
            key = (index, place, array.dtype, step, fused, turn)
            one = found.get(key)
            if one is None:
                numbers = optimizer._numbers(group, step)
                one = found[key] = Set(index, group, place, step, numbers)
                one.fused, one.turn = fused, turn
            one.parameters.append(parameter)
            one.arrays.append(array)
        for one in found.values():
            if one.step > 1.0:
                self._find_state(one)
        return list(found.values())

    def _find_state(self, one: Set) -> None:
        """The state of a set; made at the first step, which its absence tells."""
        with on_device(one.place):
            one.states = [self.optimizer._arrays(p, one.group) for p in one.parameters]
        one.held = [held_in(self.state.get(p), s) for p, s in zip(one.parameters, one.states)]
        for array, state in zip(one.arrays, one.states):
            if not all(a is None or cuda_parts.tables.laid_out_as(a, array) for a in state):
                one.fused = False  # a state that was loaded in another order of memory
                self._refuse_scaling(one.place, array)

    def _refuse_scaling(self, place: device, array: Array) -> None:
        if self.grad_scale is not None or self.found_inf is not None:
            raise ValueError(
                f"{type(self.optimizer).__name__}: grad_scale and found_inf need parameters (and "
                "state) with dense floating-point memory and kernels that can be compiled; one of "
                f"shape {tuple(array.shape)} on {place} cannot be updated so"
            )

    def _place_numbers(self) -> list[Rows]:
        """Gives each set its place in the rows of its device: doubles for fused kernels, for others
        what NumPy's rules let stand beside the parameters."""
        width: dict[Any, int] = {}
        for one in self.sets:
            key = self._rows_key(one)
            one.start = width.get(key, 0)
            width[key] = one.start + len(self._noted(one, one.step))
        rows = {
            (place, kind): Rows(backend.module_of(place), place, kind, self.slots, total)
            for (place, kind), total in width.items()
        }
        for one in self.sets:
            one.rows = rows[self._rows_key(one)]
        return list(rows.values())

    @staticmethod
    def _rows_key(one: Set) -> tuple[device, str]:
        return one.place, "d" if one.fused or one.arrays[0].dtype.char == "d" else "f"

    def _noted(self, one: Set, step: float) -> Numbers:
        """The numbers of a step, and with `found_inf` those from which a kernel finds them
        itself."""
        numbers = self.optimizer._numbers(one.group, step)
        if self.skips is None:
            return numbers
        return numbers + self.optimizer._numbers_of_steps(one.group, step)

    def _make_ready(self) -> None:
        """Makes what `launch` runs, once all sets have their state."""
        if not all(one.states for one in self.sets):
            return
        fused: dict[Any, FusedUpdate] = {}
        for one in self.sets:
            if not one.fused:
                self._updates.append(PlainUpdate(self.optimizer, one, self.slots))
                continue
            kind = one.arrays[0].dtype.char
            for parameter, array, state in zip(one.parameters, one.arrays, one.states):
                flags = self.optimizer._flags(state, one.numbers)
                key = (one.place, kind, flags, one.turn)
                update = fused.get(key)
                if update is None or len(update.parameters) == cuda_parts.tables.MOST:
                    update = FusedUpdate(self.optimizer, one.place, kind, flags, one.rows)
                    if self.skips is not None:
                        update.skips = self.skips.on(one.place)
                    fused[key] = update
                    self._updates.append(update)
                update.add(parameter, array, state, one.start)
        for made in self._updates:
            if isinstance(made, FusedUpdate):
                made.make_table()

    def is_for(self, members: Members) -> bool:
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
        if self.skips is not None and self.skips is not optimizer._skips:
            return False
        for one in self.sets:
            group = one.group
            if one.index >= len(groups) or groups[one.index] is not group:
                return False
            options = optimizer.options(group) if optimizer.options else None
            if options != one.options or not comparable(options):
                step = optimizer._coming_step(one.parameters[0], group)
                if not same_terms(one.numbers, optimizer._numbers(group, step)):
                    return False
                for parameter, state in zip(one.parameters, one.states):
                    arrays = optimizer._arrays(parameter, group)
                    if any(a is not b for a, b in zip(arrays, state)):
                        return False
                one.options = options
            for parameter, array in zip(one.parameters, one.arrays):
                if parameter._array is not array:
                    return False
            if not optimizer._stateless(group) and not self._state_holds(one):
                return False
        return True

    def _state_holds(self, one: Set) -> bool:
        """Whether the state is where it was, and all parameters have made as many steps."""
        counts, steps = self.optimizer.counts_steps, set()
        for parameter, held in zip(one.parameters, one.held):
            entry = self.state.get(parameter)
            if not still_holds(entry, held):
                return False
            if counts:
                steps.add(coming_step(entry or {}))
        return len(steps) <= 1

    # --- the host's part --------------------------------------------------------------------------

    def advance(self, slot: int = 0) -> None:
        """Counts one more step and notes its numbers for `slot`."""
        self.optimizer._step_count += 1
        self.note(slot)

    def note(self, slot: int) -> None:
        """Notes the numbers of the step that comes next for each parameter."""
        optimizer = self.optimizer
        for one in self.sets:
            group, step = one.group, 2.0
            stateless = optimizer._stateless(group)
            for parameter in one.parameters:
                if not stateless:
                    step = optimizer._next_step(parameter, group)
                parameter._bump()
            if not one.states:
                self._find_state(one)
            options = optimizer.options(group) if optimizer.options else None
            if one.noted.get(slot) != (options, step):
                one.rows.note(slot, one.start, self._noted(one, step))
                one.noted[slot] = (options, step) if comparable(options) else None
        if not self._updates:
            self._make_ready()

    def send(self) -> None:
        """Brings the noted numbers to the device, where they have changed."""
        for rows in self.rows:
            rows.send()

    # --- the device's part ------------------------------------------------------------------------

    def launch(self, slot: int = 0) -> None:
        """Updates the parameters from their gradients, by the numbers sent for `slot`."""
        scale = None if self.grad_scale is None else self.grad_scale._array
        found_inf = None if self.found_inf is None else self.found_inf._array
        for update in self._updates:
            update.launch(slot, scale, found_inf)

    def step(self) -> None:
        """All of it at once, for a step that the optimizer has counted."""
        self.note(0)
        self.send()
        self.launch(0)


def fuses(optimizer: Optimizer, array: Array) -> bool:
    """Whether a fused kernel can update an array."""
    return bool(optimizer.cuda_kernel) and cuda_parts.tables.takes(array_module(array), array)


def members_of(optimizer: Optimizer) -> Members:
    """The parameters that have a gradient on a CUDA device, each with its group and the number
    of it."""
    return [
        (parameter, group, index)
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if parameter._grad is not None and array_module(parameter._array) is not backend.HOST
    ]
