"""gradient = sum w g / sum w: the gradients of several ranks, or shards of a batch, as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanotorch.autograd.grad_mode import no_grad
from nanotorch.distributed.group import the_world
from nanotorch.distributed.shards import Range, even_parts, subtrees, tree_sum
from nanotorch.distributed.world import Alone, DistError, World
from nanotorch.tensor import Tensor

Array = NDArray[Any]
NUMBERS = 2  # beside the gradients of a shard: sum w loss, sum w
SMALLEST = 1e-30  # sum of weights that is divided by: gradients of no weight are 0
AT_ONCE = 2**18  # bytes of a bucket that every rank gets whole; of larger ones each adds a slice,
FEW = 2  # unless ranks are so few that it moves no fewer bytes


class GradientSum:
    """Adds up the gradients of shards, in the order of the shards' tree, on every rank.

    Of each shard one flat row is kept: the gradients times the shard's weight, copied after
    backward, so that nothing hooks into it and compiled steps stay so. Beside it stand in float64
    w * loss and w, and for each parameter whether it has a gradient at all.

    - `count` shards, of which each rank has an even range; one for each rank if not given
    """

    def __init__(
        self, parameters: Iterable[Tensor], world: Alone | World, count: int | None = None
    ) -> None:
        self.parameters, self.world = list(parameters), world
        self.count = world.size if count is None else count
        self.ranges = even_parts(self.count, world.size)
        self.own = self.ranges[world.rank]
        self.weight = 0.0  # of all shards of the latest sum
        dtypes = [p.dtype.numpy for p in self.parameters if p.dtype.numpy.itemsize > 2]
        self._dtype = np.result_type(np.float32, *dtypes)
        ends = np.cumsum([p.numel() for p in self.parameters], dtype=np.int64)
        self._slices = [
            slice(int(end) - p.numel(), int(end))
            for p, end in zip(self.parameters, ends, strict=True)
        ]
        self._width = -(-int(ends[-1] if len(ends) else 0) // world.size) * world.size
        own = self.own[1] - self.own[0]
        self._rows = np.zeros((own, self._width), self._dtype)
        self._numbers = np.zeros((own, NUMBERS))
        self._parts = [self._cut(row) for row in self._rows]  # of each shard, by parameter
        self._has = np.zeros(len(self.parameters), np.uint8)
        self._trees = [list(subtrees(0, self.count, part)) for part in self.ranges]
        self._most = max(len(trees) for trees in self._trees)
        self._plan_additions()
        self._checked = world.size == 1

    def _cut(self, row: Array) -> list[Array]:
        """Views of a row, in the shapes of the parameters whose gradients lie in it."""
        return [
            row[place].reshape(p.shape)
            for p, place in zip(self.parameters, self._slices, strict=True)
        ]

    def _plan_additions(self) -> None:
        """The additions within this rank: which rows add up which, and where its sums come out."""
        self._additions: list[tuple[Array, Array]] = []
        first = self.own[0]

        def add(one: int, other: int) -> int:
            for values in (self._rows, self._numbers):
                self._additions.append((values[one], values[other]))
            return one

        def leaf(part: Range) -> int | None:
            return part[0] - first if part[1] - part[0] == 1 else None

        own_trees = self._trees[self.world.rank]
        self._sums = [tree_sum(tree, leaf, add) for tree in own_trees]

    def add(self, shard: int, loss: float, weight: float) -> None:
        """Take over the parameters' gradients, those of the mean over a shard, and its loss."""
        at = shard - self.own[0]
        for number, (parameter, part) in enumerate(zip(self.parameters, self._parts[at])):
            if (gradient := parameter.grad) is None:
                part.fill(0)
                continue
            if gradient.is_sparse:
                raise DistError(
                    "average_gradients: row-sparse gradients are not added up over ranks; leave "
                    "sparse=True out, or make them dense with parameter.grad.to_dense()"
                )
            self._has[number] = 1
            array = gradient._array if on_host(gradient) else gradient.detach().cpu()._array
            np.multiply(array, weight, out=part, casting="same_kind")
        self._numbers[at] = loss * weight, weight

    def add_nothing(self, shard: int) -> None:
        """A shard without rows."""
        self._rows[shard - self.own[0]] = 0
        self._numbers[shard - self.own[0]] = 0

    def finish(self, what: str, notes: Array | None = None) -> tuple[float, Array]:
        """Give every parameter the mean gradient; the mean loss, and the `notes` of all ranks.

        `notes` are numbers of float64 that travel along, as many on each rank.
        """
        mine = np.zeros(0) if notes is None else notes
        if not self._checked:
            self._check_layout(what, len(mine))
        sums, total, all_notes = self._sum(what, mine)
        self.weight = float(sums[1])
        divisor = max(self.weight, SMALLEST)
        np.divide(total, divisor, out=total)
        parts = self._parts[self._sums[0]] if self.world.size == 1 else self._cut(total)
        for parameter, mean, has in zip(self.parameters, parts, self._has.tolist()):
            if has:
                set_gradient(parameter, mean)
            else:
                parameter.grad = None
        self._has[:] = 0
        return float(sums[0]) / divisor, all_notes

    def _sum(self, what: str, notes: Array) -> tuple[Array, Array, Array]:
        """Sums of the numbers and of the rows over all shards, and the notes of all ranks."""
        for one, other in self._additions:
            one += other
        if self.world.size == 1:
            return self._numbers[self._sums[0]], self._rows[self._sums[0]], notes[None]
        return self._sum_over_ranks(what, notes)

    def _sum_over_ranks(self, what: str, notes: Array) -> tuple[Array, Array, Array]:
        world, trees, most, n = self.world, self._sums, self._most, len(notes)
        head = 8 * (n + NUMBERS * most) + len(self._has)
        head += -head % 8
        whole = world.size <= FEW or self._width * self._dtype.itemsize * most <= AT_ONCE
        message = np.zeros(
            head + (most * self._width * self._dtype.itemsize if whole else 0), np.uint8
        )
        floats = message[: 8 * (n + NUMBERS * most)].view(np.float64)
        floats[:n] = notes
        floats[n : n + NUMBERS * len(trees)] = self._numbers[trees].ravel()
        message[floats.nbytes : floats.nbytes + len(self._has)] = self._has
        if whole:
            body = message[head:].view(self._dtype).reshape(most, self._width)
            body[: len(trees)] = self._rows[trees]
        messages = world.gather(message, what)
        floats = np.ascontiguousarray(messages[:, : floats.nbytes]).view(np.float64)
        self._has = messages[:, floats.shape[1] * 8 :][:, : len(self._has)].max(axis=0)
        numbers = self._over_trees(floats[:, n:].reshape(world.size, most, NUMBERS))
        if whole:
            rows = messages[:, head:].view(self._dtype).reshape(world.size, most, self._width)
            return numbers, self._over_trees(rows), floats[:, :n]
        # Each rank adds one slice of every row, and all get the sums: as much is sent as received.
        slices = np.zeros((most, world.size, self._width // world.size), self._dtype)
        slices[: len(trees)] = self._rows[trees].reshape(len(trees), world.size, -1)
        mine = world.exchange(np.ascontiguousarray(slices.swapaxes(0, 1)), what)
        total = world.gather(self._over_trees(mine), what)
        return numbers, total.reshape(-1), floats[:, :n]

    def _over_trees(self, values: Array) -> Array:
        """The sum over (rank, tree, …) in the order of the tree over all shards."""
        known = {
            tree: values[rank, at]
            for rank, trees in enumerate(self._trees)
            for at, tree in enumerate(trees)
        }
        total: Array = tree_sum((0, self.count), known.get, np.add)
        return total

    def _check_layout(self, what: str, notes: int) -> None:
        """DistError unless all ranks add up the same parameters."""
        self._checked = True
        layout = [self.count, notes, len(self.parameters), self._width, self._dtype.itemsize]
        layouts = self.world.gather(np.array(layout), what)
        if (different := np.flatnonzero((layouts != layouts[0]).any(axis=1))).size:
            rank = int(different[0])
            raise DistError(
                f"average_gradients: rank {rank} has {layouts[rank, 2]} parameters of "
                f"{layouts[rank, 3]:,} numbers in all, rank 0 {layouts[0, 2]} of {layouts[0, 3]:,}"
            )


def on_host(gradient: Tensor) -> bool:
    """Whether NumPy can read a gradient as it is."""
    return type(gradient._array) is np.ndarray


def set_gradient(parameter: Tensor, mean: Array) -> None:
    """parameter.grad := mean, in the memory of the gradient that is there, if one is."""
    gradient = parameter.grad
    if gradient is None:
        values = Tensor._wrap(mean)
        parameter.grad = values.to(device=parameter.device, dtype=parameter.dtype, copy=True)
    elif on_host(gradient):
        np.copyto(gradient._array, mean, casting="same_kind")
        gradient._bump()
    else:
        with no_grad():
            gradient.copy_(Tensor._wrap(mean))


_sums: dict[Any, GradientSum] = {}


def average_gradients(parameters: Iterable[Tensor], loss: Any, weight: float = 1.0) -> Any:
    """p.grad = sum w p.grad / sum w over all ranks, after backward; returns sum w loss / sum w.

    - `loss`: a 0-dim Tensor or a number, the mean over this rank's rows
    - `weight`: that of the rank: the number of its rows, or the sum of their weights; 0 for a rank
      that has none, whatever its gradients

    A parameter without a gradient on a rank counts as 0 there, and stays without one if no rank has
    one. Bits are the same on all ranks. A group of one does nothing.

    >>> import nanotorch as nt
    >>> nt.distributed.init_process_group()
    >>> w = nt.tensor([1.0, 2.0], requires_grad=True)
    >>> loss = (w * w).mean()
    >>> loss.backward()
    >>> nt.distributed.average_gradients([w], loss, weight=32).item()
    2.5
    >>> nt.distributed.destroy_process_group()
    """
    world = the_world()
    if world.size == 1:
        return loss
    parameters = list(parameters)
    if weight < 0:
        raise ValueError(f"average_gradients: expected a weight of 0 or more, got {weight}")
    key = (id(world), *map(id, parameters))
    if key not in _sums:
        _sums.clear()  # one model at a time; of others the ids may be used again
        _sums[key] = GradientSum(parameters, world)
    gradients = _sums[key]
    if weight:
        gradients.add(world.rank, float(loss), float(weight))
    else:
        gradients.add_nothing(world.rank)
    mean, _ = gradients.finish("average_gradients")
    return loss.new_tensor(mean) if isinstance(loss, Tensor) else mean
