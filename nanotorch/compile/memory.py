"""Memory of a plan: which block holds which array, from its first write to its last use."""

from __future__ import annotations

from collections.abc import Iterable

from nanotorch.backend import MODULES, Array


def root_of(array: Array) -> int:
    """The identity of the array that owns the memory."""
    while type(getattr(array, "base", None)) in MODULES:
        array = array.base
    return id(array)


class Memory:
    """Blocks that are handed on, within a plan, as soon as nothing needs what they hold.

    `last` says for each root, the array that owns the memory in the recording, after which position
    of the program nothing uses it.
    """

    def __init__(self) -> None:
        self.places: dict[int, Array] = {}  # where the plan keeps what an array of the record held
        self.blocks: list[Array] = []
        self.last: dict[int, int] = {}
        self._free: dict[int, list[Array]] = {}
        self._held: dict[int, Array] = {}  # the block of each root that is in use

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
        block = waiting.pop() if waiting else xp.empty(size, "u1")
        if not any(block is b for b in self.blocks):
            self.blocks.append(block)
        self._held[root_of(array)] = block
        # In the order of the recorded array's memory, in which sums were taken.
        order = sorted(range(array.ndim), key=lambda d: -array.strides[d])
        flat = block[: array.nbytes].view(array.dtype)
        ordered = flat.reshape([array.shape[d] for d in order])
        self.places[id(array)] = ordered.transpose([order.index(d) for d in range(array.ndim)])

    def apart(self, array: Array) -> None:
        """Gives an array memory of its own, that is not handed on."""
        self.places[id(array)] = MODULES[type(array)].zeros(array.shape, array.dtype)

    def is_held(self, array: Array) -> bool:
        """Whether the array has a block now."""
        return root_of(array) in self._held

    def dies(self, array: Array, position: int) -> bool:
        """Whether the block of this very array is free after that position."""
        root = root_of(array)
        return root == id(array) and root in self._held and self.last.get(root) == position

    def take_over(self, old: Array, new: Array) -> None:
        """Leaves `new` where `old` is, which is not used any more."""
        self._held[root_of(new)] = self._held.pop(root_of(old))
        self.places[id(new)] = self.places[id(old)]

    def release(self, arrays: Iterable[Array], position: int) -> None:
        """Frees the blocks of the arrays whose last use was at that position."""
        for array in arrays:
            root = root_of(array)
            if self.last.get(root) == position and root in self._held:
                block = self._held.pop(root)
                self._free.setdefault(block.nbytes, []).append(block)

    def bytes(self) -> int:
        """The bytes of all blocks."""
        return sum(block.nbytes for block in self.blocks)
