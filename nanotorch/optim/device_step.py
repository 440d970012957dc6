"""The optimizer's step on CUDA devices, in a part for the host and a part of launches.

The host counts the step and brings its numbers to the device, then kernels are launched. A CUDA
graph holds the launches alone, and whoever replays it does the host's part before, so that rates,
schedules and step counts stay live:

    parts.launch(k)                                # captured once for each step k of a launch
    parts.holds(); parts.advance(k); parts.send()  # before each replay: check; each k; all at once

Where the rule has a CUDA kernel and it can be compiled, one launch updates up to 64 parameters
(`backend/cuda/optimizers.cu`); otherwise, and for parameters whose memory is not dense, the rule's
`kernel` runs on each. Both read their numbers from the memory of the device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

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
from nanotorch.optim import host_step as host
from nanotorch.optim.groups import Group
from nanotorch.optim.optimizer import Optimizer, Runner
from nanotorch.tensor import Tensor

Members = list[tuple[Tensor, Group, int]]


class Rows:
    """Numbers in the memory of a CUDA device: row k holds those of the k-th step of a launch.

    The host notes them (`note`) and sends what differs from what the device holds (`send`).
    """

    def __init__(self, xp: Any, place: device, kind: Any, slots: int, width: int) -> None:
        self.xp, self.place = xp, place
        with on_device(place):
            self.array = xp.zeros((slots, width), dtype=kind)
            self.lines = [self.array[k] for k in range(slots)]
            self._flat = self.array.reshape(-1)
        self.width = width
        self.latest = [0.0] * (slots * width)
        self.changed: dict[int, float] = {}  # what the device does not have yet, by position

    def views(self, slot: int, start: int, numbers: host.Numbers) -> tuple[Any, ...]:
        """The numbers from `start` on as 0-dim arrays; terms that are absent and flags as is."""
        row = self.lines[slot]
        return tuple(
            n if n is None or type(n) is bool else row[start + i : start + i + 1].reshape(())
            for i, n in enumerate(numbers)
        )

    def note(self, slot: int, start: int, numbers: host.Numbers) -> None:
        """Writes numbers down for the next `send`."""
        for position, number in enumerate(numbers, slot * self.width + start):
            value = 0.0 if number is None else float(number)
            if self.latest[position] != value:
                self.latest[position] = self.changed[position] = value

    def send(self) -> None:
        """Brings to the device what has changed: each number travels as the argument of a kernel,
        so that nothing is copied and nobody waits."""
        if not self.changed:
            return
        numbers = self.changed.items()
        with on_device(self.place):
            if cuda_parts.kernels.available(self.xp):
                cuda_parts.tables.write_numbers(self.xp, self._flat, numbers)
            else:
                for position, value in numbers:
                    self._flat[position : position + 1].fill(value)
        self.changed.clear()


class Set:
    """Parameters of one group, device and dtype with equal counters: they share their numbers."""

    def __init__(
        self, optimizer: Optimizer, index: int, group: Group, place: device, counts: Any
    ) -> None:
        self.index, self.group, self.place, self.counts = index, group, place, counts
        self.numbers: host.Numbers = optimizer.numbers(group, *counts)
        self.in_use = optimizer.arrays_in_use(group)
        self.parameters: list[Tensor] = []
        self.arrays: list[Array] = []  # those of the parameters
        self.states: list[tuple[Array | None, ...]] = []  # none before the first step
        self.checks: list[host.Checks] = []  # the same, if any, with names and tensors
        self.counters: list[Array] = []  # where counters stand that count by one
        self.read, self.length = host.options_in(group), len(group)
        self.options: Any = None  # of the group when its terms were compared last, if comparable
        self.sources: dict[int, Any] = {}  # by slot: the options and counters behind its numbers
        self.fused, self.begun, self.turn = True, True, 0
        self.rows: Rows
        self.start = 0  # where its numbers stand in a row

    def look_up(self, optimizer: Optimizer) -> None:
        """Looks up the parameters' state; missing arrays are made."""
        with on_device(self.place):
            self.states = [optimizer._state_arrays(p, self.group) for p in self.parameters]
        states = zip(self.parameters, self.states)
        checks = [host.checks_of(optimizer, p, state) for p, state in states]
        self.checks = checks if any(checks) else []
        if optimizer.counts_by_one():
            names = optimizer.counters
            counters = [a for checks in self.checks for name, _, a in checks if name in names]
            self.counters = counters if len(counters) == len(self.parameters) else []

    def count(self, optimizer: Optimizer) -> tuple[float, ...]:
        """Counts one more step of each parameter; returns the counters, which are the same."""
        counts: tuple[float, ...] = ()
        for counter in self.counters:
            counts = (counter.item() + 1.0,)
            counter.fill(*counts)
        # Without counters, what is counted is whether a step has been made: of all or of none.
        apart = self.parameters if optimizer.counters else self.parameters[:1]
        for parameter in [] if self.counters else apart:
            counts = optimizer._count(parameter, self.group)
        return counts


class FusedUpdate:
    """One launch for parameters of one device and dtype, each with the set that it is of."""

    def __init__(
        self, step: DeviceStep, members: list[tuple[Set, int]], kind: str, terms: int
    ) -> None:
        one = members[0][0]
        self.kernel, self.place, self.rows = step.optimizer.cuda_kernel, one.place, one.rows
        self.kind, self.terms = kind, terms
        self.parameters = [one.parameters[i] for one, i in members]
        self.arrays = [one.arrays[i] for one, i in members]
        rows = [(one.arrays[i], None, *one.states[i]) for one, i in members]
        self.table: Any = cuda_parts.tables.Table(rows)  # of everything but the gradients
        self.table.numbers[: len(members)] = [one.start for one, _ in members]
        self.skips: Array | None = None
        if step.skips is not None:
            self.skips = step.skips.on(self.place)
            self.table.index[: len(members)] = [step.skips.index[p] for p in self.parameters]

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
                xp, self.kernel, self.kind, self.rows.lines[slot],
                nowhere if scale is None else to_device(scale, self.place),
                nowhere if found_inf is None else to_device(found_inf, self.place),
                skips, self.terms,
            )  # fmt: skip
            if scale is not None:
                for gradient, copy in copies:
                    xp.copyto(gradient, copy)


class PlainUpdate:
    """The rule's kernel on each parameter of a set."""

    def __init__(self, optimizer: Optimizer, memory: host.Memory, one: Set, slots: int) -> None:
        self.one = one
        self.pieces: list[list[host.Piece]] = []  # by slot and parameter
        with on_device(one.place):
            for slot in range(slots):
                numbers = one.rows.views(slot, one.start, one.numbers)
                pieces = [
                    host.whole(optimizer, memory, [array, *state], numbers)
                    for array, state in zip(one.arrays, one.states)
                ]
                self.pieces.append(pieces)

    def launch(self, slot: int, scale: Array | None, found_inf: Array | None) -> None:
        with on_device(self.one.place):
            for parameter, piece in zip(self.one.parameters, self.pieces[slot]):
                gradient: Any = parameter._grad
                piece.run(gradient._array)


class Skips:
    """How many of the steps that the host has counted were skipped on the devices.

    A step whose gradients overflowed changes nothing; the device alone knows. Kernels take the
    skipped steps off by themselves, and the host does when the state is asked for (`settle`).
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.index = {parameter: i for i, parameter in enumerate(optimizer._parameters())}
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
                skipped = to_device(counts, backend.CPU)
                counts.fill(0)
            for parameter, i in self.index.items():
                step = state.get(parameter, {}).get("step")
                if skipped[i] and step is not None:
                    step._array.fill(step._array.item() - float(skipped[i]))


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

    def __init__(self, optimizer: Optimizer, devices: DeviceRunner, slots: int = 1) -> None:
        self.optimizer, self.devices, self.slots = optimizer, devices, slots
        self.take_scale()
        self.state = optimizer.state
        self.members = members_of(optimizer)
        self.skips = None if self.found_inf is None else devices.skips_of(optimizer)
        self.sets = self._sets()
        self.rows = self._place_numbers()
        self._updates: list[FusedUpdate | PlainUpdate] = []
        self._make_ready()

    def take_scale(self) -> None:
        """Notes what a gradient scaler has set for this step."""
        self.grad_scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        self.found_inf: Tensor | None = getattr(self.optimizer, "found_inf", None)

    def _sets(self) -> list[Set]:
        sets: dict[Any, Set] = {}
        optimizer, turns = self.optimizer, Counter[int]()
        for parameter, group, index in self.members:
            array = parameter._array
            place = device_of(array)
            counts = optimizer._next_counts(parameter, group)
            fused = self.devices.fuses(optimizer, array)
            if not fused:
                self._refuse_scaling(place, array)
            turn = turns[id(parameter)]  # a parameter that is listed twice is in two launches
            turns[id(parameter)] += 1
            state = self.state.get(parameter) or {}
            begun = all(state.get(name) is not None for name in optimizer.arrays_in_use(group))
            key = (index, place, array.dtype, counts, begun, fused, turn)
            one = sets.get(key)
            if one is None:
                one = sets[key] = Set(optimizer, index, group, place, counts)
                one.fused, one.turn = fused, turn
            one.parameters.append(parameter)
            one.arrays.append(array)
            one.begun = begun
        for one in sets.values():
            if one.begun:  # else the state is made in the first step
                self._look_up(one)
        return list(sets.values())

    def _look_up(self, one: Set) -> None:
        one.look_up(self.optimizer)
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
            width[key] = one.start + len(self._row(one, one.counts))
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

    def _row(self, one: Set, counts: tuple[float, ...]) -> host.Numbers:
        """The numbers of a step, and with `found_inf` those from which a kernel finds them
        itself."""
        optimizer, group = self.optimizer, one.group
        numbers: host.Numbers = optimizer.numbers(group, *counts)
        if not host.same_terms(one.numbers, numbers):
            raise RuntimeError(
                f"{type(optimizer).__name__}.numbers: expected the terms of the step before, as "
                "which are None, and booleans, may follow from options alone; "
                f"got {numbers} after {one.numbers}"
            )
        if self.skips is None:
            return tuple(numbers)
        return (*numbers, *optimizer.numbers_after_skips(group, *counts))

    def _make_ready(self) -> None:
        """Makes what `launch` runs, once all sets have their state."""
        if not all(one.states for one in self.sets):
            return
        launches: dict[Any, list[tuple[Set, int]]] = {}
        for one in self.sets:
            if not one.fused:
                memory = self.devices.memory
                self._updates.append(PlainUpdate(self.optimizer, memory, one, self.slots))
                continue
            # Bit i: whether the i-th number is a term of the update, or a flag that is set.
            present = (n is not None and n is not False for n in one.numbers)
            terms = sum(1 << i for i, term in enumerate(present) if term)
            key = (one.place, one.arrays[0].dtype.char, terms, one.turn)
            launches.setdefault(key, []).extend((one, i) for i in range(len(one.arrays)))
        most = cuda_parts.tables.MOST
        for (_, kind, terms, _), members in launches.items():
            for i in range(0, len(members), most):
                self._updates.append(FusedUpdate(self, members[i : i + most], kind, terms))

    def is_for(self, members: Members) -> bool:
        """Whether these are its parameters."""
        return ids_of(members) == ids_of(self.members)

    def holds(self) -> bool:
        """Whether nothing has changed but values: the arrays, and the terms of the update.

        Where not, a new DeviceStep has to be made, and a captured `launch` captured again.
        """
        optimizer = self.optimizer
        groups = optimizer.param_groups
        if optimizer.state is not self.state or (
            self.skips is not None and self.skips is not self.devices.skips_of(optimizer)
        ):
            return False
        for one in self.sets:
            group = one.group
            same = one.index < len(groups) and groups[one.index] is group
            if not same or len(group) != one.length:
                return False
            options = one.read(group)
            if options != one.options:
                counts = optimizer._next_counts(one.parameters[0], group)
                same = host.same_terms(one.numbers, optimizer.numbers(group, *counts))
                if not same or optimizer.arrays_in_use(group) != one.in_use:
                    return False
                one.options = options if host.comparable(options) else None
            for parameter, array in zip(one.parameters, one.arrays):
                if parameter._array is not array:
                    return False
            counters = set()
            for parameter, checks in zip(one.parameters, one.checks):
                if not host.state_holds(self.state.get(parameter), checks):
                    return False
                counters.add(tuple(a.item() for n, _, a in checks if n in optimizer.counters))
            if len(counters) > 1:
                return False
        return True

    # --- the host's part --------------------------------------------------------------------------

    def advance(self, slot: int = 0) -> None:
        """Counts one more step and notes its numbers for `slot`."""
        self.optimizer._step_count += 1
        self.note(slot)

    def note(self, slot: int) -> None:
        """Notes the numbers of the step that comes next for each parameter."""
        for one in self.sets:
            counts = one.count(self.optimizer)
            for parameter in one.parameters:
                parameter._bump()
            if not one.states:
                self._look_up(one)
            options = one.read(one.group)
            if one.sources.get(slot) != (options, counts):
                one.rows.note(slot, one.start, self._row(one, counts))
                one.sources[slot] = (options, counts) if host.comparable(options) else None
        if not self._updates:
            self._make_ready()

    def send(self) -> None:
        """Brings the numbers that have changed to the device."""
        for rows in self.rows:
            rows.send()

    # --- the device's part ------------------------------------------------------------------------

    def launch(self, slot: int = 0) -> None:
        """Updates the parameters from their gradients, by the numbers sent for `slot`."""
        scale = None if self.grad_scale is None else self.grad_scale._array
        found_inf = None if self.found_inf is None else self.found_inf._array
        for update in self._updates:
            update.launch(slot, scale, found_inf)


class DeviceRunner(Runner):
    """Makes the steps of an optimizer's parameters on CUDA devices."""

    def __init__(self, memory: host.Memory) -> None:
        self.memory = memory
        self._step: DeviceStep | None = None
        self._skips: Skips | None = None

    def run(self, optimizer: Optimizer) -> None:
        step = self._step
        if (
            step is None
            or (step.found_inf is None) != (getattr(optimizer, "found_inf", None) is None)
            or not step.is_for(members_of(optimizer))
            or not step.holds()
        ):
            step = self._step = DeviceStep(optimizer, self)
        step.take_scale()
        step.note(0)
        step.send()
        step.launch(0)

    def parts(self, optimizer: Optimizer, slots: int) -> DeviceStep:
        return DeviceStep(optimizer, self, slots)

    def fuses(self, optimizer: Optimizer, array: Array) -> bool:
        """Whether a CUDA kernel of ours can update an array."""
        takes: bool = cuda_parts.tables.takes(array_module(array), array)
        return bool(optimizer.cuda_kernel) and takes

    def settle(self, optimizer: Optimizer) -> None:
        if self._skips is not None:
            self._skips.settle(optimizer.state)

    def skips_of(self, optimizer: Optimizer) -> Skips:
        """The counts of skipped steps on the devices, for the parameters of now."""
        if self._skips is None or len(self._skips.index) != len(optimizer._parameters()):
            self.settle(optimizer)
            self._skips = Skips(optimizer)
        return self._skips


def ids_of(members: Members) -> list[tuple[int, int]]:
    """What tells two lists of parameters and their groups apart."""
    return [(id(parameter), id(group)) for parameter, group, _ in members]


def members_of(optimizer: Optimizer) -> Members:
    """The parameters that have a gradient on a CUDA device, each with its group and the number
    of it."""
    return [
        (parameter, group, index)
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
        if parameter._grad is not None and array_module(parameter._array) is not backend.HOST
    ]
