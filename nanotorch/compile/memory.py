"""Memory of a plan: which block holds which array, from its first write to its last use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nanotorch.backend import MODULES, Array


def root_of(array: Array) -> int:
    """The identity of the array that owns the memory."""
    while type(getattr(array, "base", None)) in MODULES:
        array = array.base
    return id(array)


def same_form(a: Array, b: Array) -> bool:
    """Whether two arrays lie in memory in the same way."""
    return (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)


class Value(NamedTuple):
    """An array of a plan: its block, and the lines of the program between which it is there."""

    block: int
    first: int
    last: int
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    stays: bool = True  # it leaves the step, and `last` means nothing


class Memory:
    """Blocks that are handed on, within a plan, as soon as nothing needs what they hold.

    `last` says for each root, the array that owns the memory in the recording, after which position
    of the program nothing uses it.
    """

    def __init__(self) -> None:
        self.places: dict[int, Array] = {}  # where the plan keeps what an array of the record held
        self.blocks: list[Array] = []
        self.values: list[Value] = []  # all that the blocks hold in the course of a replay
        self.line = 0  # of the program, which is being written
        self.last: dict[int, int] = {}
        self.model: Memory | None = None  # of a larger piece, in whose blocks to lie
        self.alone: set[int] = set()  # the roots whose block is to hold nothing else, ever
        self._free: dict[int, list[int]] = {}  # numbers of blocks, by size
        self._held: dict[int, int] = {}  # the number of the value of each root that is in use

    def begin(self, last: dict[int, int]) -> None:
        """Starts a program, of which these are the last uses."""
        self.last, self._free, self._held = last, {}, {}

    def place(self, array: Array) -> Array:
        """Where the plan keeps an array: in its own memory, or where it was, if from outside."""
        return self.places.get(id(array), array)

    def hold(self, array: Array) -> None:
        """Gives a root a block: one that is free and of the right size, or a new one."""
        xp = MODULES[type(array)]
        size = max(array.nbytes, 1)
        waiting = self._free.get(size)
        if not waiting or root_of(array) in self.alone:
            waiting = [len(self.blocks)]
            # Not what freed memory held, the values of the recording: a plan that reads what it has
            # not written would agree with it once.
            models = [] if self.model is None else self.model.blocks[len(self.blocks) :]
            fits = bool(models) and models[0].nbytes >= size
            self.blocks.append(models[0][:size] if fits else xp.full(size, 255, "u1"))
        number = waiting.pop()
        self._held[root_of(array)] = self._begins(array, number)
        self.places[id(array)] = laid_out(self.blocks[number], array)

    def may_take_over(self, old: Array, new: Array, position: int) -> bool:
        """Whether `new` may lie in the block of `old`, which nothing needs after that position."""
        root, alone = root_of(old), root_of(new) in self.alone
        dies = root == id(old) and root in self._held and self.last.get(root) == position
        return dies and (root in self.alone) == alone

    def take_over(self, old: Array, new: Array, same: bool = False) -> None:
        """Leaves `new` where `old` is, which is not used any more; `same`: as it is."""
        value = self._held.pop(root_of(old))
        self._held[root_of(new)] = value if same else self._begins(new, self._ends(value))
        self.places[id(new)] = self.places[id(old)]

    def release(self, arrays: Iterable[Array], position: int) -> list[Array]:
        """Frees the blocks of the arrays whose last use was at that position; the blocks."""
        freed: list[Array] = []
        for array in arrays:
            root = root_of(array)
            if self.last.get(root) == position and root in self._held and root not in self.alone:
                number = self._ends(self._held.pop(root))
                self._free.setdefault(self.blocks[number].nbytes, []).append(number)
                freed.append(self.blocks[number])
        return freed

    def _begins(self, array: Array, block: int) -> int:
        """Notes that a block holds the array from this line on; the number of the value."""
        form = (array.shape, array.dtype.name, array.nbytes)
        self.values.append(Value(block, self.line, self.line, *form))
        return len(self.values) - 1

    def _ends(self, number: int) -> int:
        """Notes that a value is not needed after this line; the number of its block."""
        self.values[number] = self.values[number]._replace(last=self.line, stays=False)
        return self.values[number].block


def laid_out(block: Array, array: Array) -> Array:
    """Memory of a block in the form of an array, its dimensions in the order of the array's memory.

    Sums are taken in that order, and the array's views are views of a block, too.
    """
    steps = [0, *(abs(step) for step in array.strides[::-1])]
    for d in range(1, len(steps)):
        steps[d] = steps[d] or steps[d - 1]  # what is repeated goes with the dimension after it
    order = sorted(range(array.ndim), key=lambda d: -steps[array.ndim - d])
    flat = block[: array.nbytes].view(array.dtype)
    ordered = flat.reshape([array.shape[d] for d in order])
    return ordered.transpose([order.index(d) for d in range(array.ndim)])
