"""The numbers of an update, such as its step size, where kernels read them: in arrays that live on.

On the host they are 0-dim arrays, one set for all parameters that step alike: NumPy takes them
faster than Python floats. On a CUDA device they are the rows of one array, so that a recorded or
captured kernel goes on to read what is written there for later steps.
"""

from __future__ import annotations

from typing import Any

from nanotorch.backend import HOST, cuda_parts, device, on_device

# None where the update has no such term; flags are not numbers, and are never rewritten.
Numbers = tuple[float | bool | None, ...]
NONE: Numbers = ()


def same_terms(old: Numbers, new: Numbers) -> bool:
    """Whether both have the same terms and flags, so that only values may differ."""
    for a, b in zip(old, new):
        if a is not b and (a is None or b is None or type(a) is bool or type(b) is bool):
            return False
    return True


class Scalars:
    """The numbers of an update as 0-dim arrays of the host; None and flags stay as they are."""

    __slots__ = ("arrays", "kind", "numbers")

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.numbers: Numbers = NONE
        self.arrays: tuple[Any, ...] = ()  # another tuple where other terms come in

    def rewrite(self, numbers: Numbers) -> None:
        """Writes the numbers that changed into their arrays."""
        if self.numbers and same_terms(self.numbers, numbers):
            for array, old, new in zip(self.arrays, self.numbers, numbers):
                if old != new:
                    array.fill(new)
        else:
            self.arrays = tuple(
                n if n is None or type(n) is bool else HOST.asarray(n, dtype=self.kind)
                for n in numbers
            )
        self.numbers = numbers


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
        self.noted = [[0.0] * width for _ in range(slots)]
        self.held = [[0.0] * width for _ in range(slots)]
        self.changed: set[int] = set()

    def views(self, slot: int, start: int, numbers: Numbers) -> tuple[Any, ...]:
        """The numbers from `start` on as 0-dim arrays; terms that are absent and flags as is."""
        row = self.lines[slot]
        return tuple(
            n if n is None or type(n) is bool else row[start + i : start + i + 1].reshape(())
            for i, n in enumerate(numbers)
        )

    def note(self, slot: int, start: int, numbers: Numbers) -> None:
        """Writes numbers down for the next `send`."""
        row = self.noted[slot]
        for position, number in enumerate(numbers, start):
            value = 0.0 if number is None else float(number)
            if row[position] != value:
                row[position] = value
                self.changed.add(slot)

    def send(self) -> None:
        """Brings to the device what has changed: each number travels as the argument of a kernel,
        so that nothing is copied and nobody waits."""
        if not self.changed:
            return
        differing = []
        for slot in self.changed:
            held, noted = self.held[slot], self.noted[slot]
            first = slot * len(noted)
            differing += [(first + i, b) for i, (a, b) in enumerate(zip(held, noted)) if a != b]
            held[:] = noted
        self.changed.clear()
        with on_device(self.place):
            if cuda_parts.kernels.available(self.xp):
                cuda_parts.tables.write_numbers(self.xp, self._flat, differing)
            else:
                for position, value in differing:
                    self._flat[position : position + 1].fill(value)
