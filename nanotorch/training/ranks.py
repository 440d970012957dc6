"""What the ranks of a run do together, and which rows of a batch each of them computes.

Every batch is cut into shards, adjacent rows, as evenly as it goes, and every rank has a range of
them. A run that nothing started as one of several has one rank, and does as if this were not here.
Rank 0 decides and writes; what it decides reaches the others by `decided`, or with a step.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import nanotorch as nt
from nanotorch.distributed.group import the_world
from nanotorch.distributed.launcher import launched
from nanotorch.distributed.shards import even_parts
from nanotorch.distributed.world import Alone, DistError, World
from nanotorch.training.checkpoint import Checkpoint
from nanotorch.training.config.sections import Training
from nanotorch.training.errors import InputError
from nanotorch.training.model_file import array_bytes, arrays_in
from nanotorch.training.signals import StopSignals

Array = NDArray[Any]
Value = TypeVar("Value")
Batch = tuple[nt.Tensor, nt.Tensor, nt.Tensor | None]
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Ranks:
    """The ranks of a run and the shards of its batches; alone and without shards, one of each."""

    def __init__(self, world: Alone | World | None = None, shards: int | None = None) -> None:
        self.world = world or Alone()
        self.leads = self.world.rank == 0
        self.alone = self.world.size == 1
        self.shards = self.world.size if shards is None else shards
        self._fixed = shards is not None
        if self.shards < self.world.size:
            raise InputError(
                f"training.shards: {self.shards} shards are too few for {self.world.size} ranks"
            )
        self.own = even_parts(self.shards, self.world.size)[self.world.rank]
        self._wishes: dict[str, float] = {"signal": 0, "late": 0}
        self._late = False
        self._cuts: dict[int, list[tuple[int, slice]]] = {}  # by the rows of a batch

    @property
    def cuts(self) -> bool:
        """Whether a batch is more than one shard."""
        return self.shards > 1

    def device(self, wanted: str) -> str:
        """The device to ask for: shards are computed on the CPU."""
        if not self.cuts:
            return wanted
        if wanted.startswith("cuda"):
            words = "training.shards" if self._fixed else "a run on several ranks"
            raise InputError(f"device: {words} computes on the CPU, not on {wanted}")
        return "cpu"

    # --- rows ------------------------------------------------------------------------------------

    def span(self, rows: int, rank: int | None = None) -> tuple[int, int]:
        """Which rows of a batch a rank has, this one if not given."""
        parts = even_parts(rows, self.shards)
        rank = self.world.rank if rank is None else rank
        first, last = even_parts(self.shards, self.world.size)[rank]
        return parts[first][0], parts[last - 1][1]

    def cut(self, batch: Batch, rows: int) -> Iterator[tuple[int, Batch]]:
        """The shards of this rank that have rows, with their numbers, out of its own rows of a
        batch of so many."""
        if not self.cuts:
            yield 0, batch
            return
        for number, own in self._places(rows):
            inputs, target, weights = (  # data, which no graph need know as a part of a batch
                None if x is None else nt.Tensor._wrap(x._array[own]) for x in batch
            )
            yield number, (inputs, target, weights)  # type: ignore[misc]

    def _places(self, rows: int) -> list[tuple[int, slice]]:
        """Of each shard of this rank that has rows in a batch of so many: its number, and where
        they lie in this rank's own."""
        if rows not in self._cuts:
            parts = even_parts(rows, self.shards)[slice(*self.own)]
            start = parts[0][0]
            self._cuts[rows] = [
                (number, slice(begin - start, end - start))
                for number, (begin, end) in enumerate(parts, self.own[0])
                if begin < end
            ]
        return self._cuts[rows]

    def seed_shard(self, seed: int, *place: int) -> None:
        """Start the random numbers of a shard, which depend on its place and not on its rank."""
        if self.cuts:
            nt.manual_seed(zlib.crc32(repr((seed, *place)).encode()))

    # --- what rank 0 decides ---------------------------------------------------------------------

    def decided(self, compute: Callable[[], Value], what: str = "a decision of rank 0") -> Value:
        """What rank 0 computes, on every rank; numbers, text, lists and tables."""
        if self.alone:
            return compute()
        text = json.dumps(compute()).encode() if self.leads else b""
        value: Value = json.loads(self._bytes(text, what))
        return value

    def _bytes(self, content: bytes, what: str) -> bytes:
        size = self.world.broadcast(np.array([len(content)]), 0, what)
        buffer = np.zeros(int(size[0]), np.uint8)
        buffer[: len(content)] = np.frombuffer(content, np.uint8)
        return self.world.broadcast(buffer, 0, what).tobytes()

    def carried(self, late: bool) -> bool:
        """Whether rank 0 was `late` by its clock before the latest step, which carried its word."""
        if self.alone:
            return late
        self._wishes["late"] = late and not self._late
        return self._late

    def checkpoint(self, state: Checkpoint | None) -> Checkpoint | None:
        """The checkpoint that rank 0 has read, on every rank."""
        if self.alone:
            return state
        what = "the checkpoint to go on from"
        facts: Any = None
        if state is not None:
            facts = [str(state.folder), state.values, sorted(state.arrays)]
        facts = self.decided(lambda: facts, what)
        if facts is None:
            return None
        folder, values, names = facts
        arrays = {}
        for name in names:
            content = array_bytes(state.arrays[name]) if state is not None else b""
            arrays[name] = arrays_in(self._bytes(content, what))
        return state or Checkpoint(Path(folder), values, arrays)

    # --- what travels with a step ----------------------------------------------------------------

    def notes(self, step: int) -> Array:
        """What this rank says with a step: its number, a signal that came, and rank 0's clock."""
        return np.array([step, self._wishes["signal"], self._wishes["late"]])

    def read(self, notes: Array, signals: StopSignals) -> None:
        """Take up what all ranks said with a step: (ranks, 3)."""
        if self.alone:
            return
        if (notes[:, 0] != notes[0, 0]).any():
            said = ", ".join(f"rank {rank} {int(at)}" for rank, at in enumerate(notes[:, 0]))
            raise DistError(f"the ranks are in different steps: {said}")
        self._late = bool(notes[0, 2])
        if (number := int(notes[:, 1].max())) and signals.caught is None:
            signals.caught = signal.Signals(number).name

    def wish(self, number: int) -> None:
        """Tell the others with the next step that this signal has come; 0 for none."""
        self._wishes["signal"] = number

    # --- what must be alike ----------------------------------------------------------------------

    def require_same(self, what: str, facts: dict[str, Any]) -> None:
        """InputError where this rank's facts are not those of rank 0."""
        if self.alone:
            return
        facts = json.loads(json.dumps(facts))
        first = self.decided(lambda: facts, "the start")
        keys = [key for key in {**first, **facts} if first.get(key) != facts.get(key)]
        if keys:
            here, there = facts.get(keys[0]), first.get(keys[0])
            raise InputError(
                f"this rank has another {what} than rank 0: {', '.join(keys[:5])}: "
                f"{here!r}, rank 0 has {there!r}"
            )
        self.world.barrier("the start")

    def require_equal_weights(self, model: nt.nn.Module, when: str) -> None:
        """DistError where parameters or buffers of a rank are not those of rank 0, to the bit."""
        if self.alone:
            return
        names = list(model.state_dict())
        sums = [zlib.crc32(x.numpy().tobytes()) for x in model.state_dict().values()]
        all_sums = self.world.gather(np.array(sums, np.int64), when)
        differ = np.argwhere(all_sums != all_sums[0])
        if len(differ):
            rank, at = differ[0]
            raise DistError(
                f"{when}: {names[at]} of rank {rank} is not that of rank 0: the model changes it "
                f"by the rows of its own rank"
            )

    def refuse_batch_statistics(self, model: nt.nn.Module) -> None:
        """InputError for layers whose output depends on the other rows of a batch."""
        for name, module in model.named_modules() if self.cuts else ():
            if isinstance(module, nt.nn.BatchNorm1d) and (
                module.track_running_stats or not isinstance(module, nt.nn.InstanceNorm1d)
            ):
                raise InputError(
                    f"model: {name or 'the model'} is {type(module).__name__}, whose statistics "
                    f"are of a whole batch, and {self.words()} cut it: LayerNorm needs no batch"
                )

    # --- results ---------------------------------------------------------------------------------

    def pool(self, values: Array, rows: list[int], what: str) -> Array | None:
        """On rank 0 the rows of all ranks in the order of the data; None on the others.

        `values` are what this rank has of batches of so many `rows`, one after the other.
        """
        if self.alone:
            return values
        parts = self.world.collect(values, what)
        if parts is None:
            return None
        out = np.empty((sum(map(len, parts)), *values.shape[1:]), values.dtype)
        starts = np.cumsum([0, *rows[:-1]])
        for rank, part in enumerate(parts):
            spans = [self.span(count, rank) for count in rows]
            places = [np.arange(at + begin, at + end) for at, (begin, end) in zip(starts, spans)]
            out[np.concatenate(places)] = part
        return out

    def pool_shards(self, values: Array, what: str) -> Array | None:
        """On rank 0 (batch, shard, …) out of (batch, own shard, …); None on the others."""
        parts = self.world.collect(np.ascontiguousarray(values.swapaxes(0, 1)), what)
        return None if parts is None else np.concatenate(parts).swapaxes(0, 1)

    # --- threads ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """Within the block this rank computes with its share of the cores, or with one thread if
        the bits must not depend on that."""
        before = nt.get_num_threads()
        if self.cuts:
            nt.set_num_threads(self._threads())
        try:
            yield
        finally:
            if self.cuts:
                nt.set_num_threads(before)

    def _threads(self) -> int:
        if self._fixed:
            return 1
        for name in LIMITS:
            if os.environ.get(name, "").isdigit():
                return max(1, int(os.environ[name]))
        if not hasattr(os, "sched_getaffinity") or not isinstance(self.world, World):
            return max(1, (os.cpu_count() or 1) // self.world.size)
        mask = np.zeros(8192, np.uint8)
        mask[[core for core in os.sched_getaffinity(0) if core < len(mask)]] = 1
        masks = self.world.gather(mask, "the start")
        machines = self.world.machines
        here = [rank for rank, name in enumerate(machines) if name == machines[self.world.rank]]
        users = masks[here].sum(axis=0)  # of each core; launchers may bind a rank to some
        return max(1, int((mask / np.maximum(users, 1)).sum() + 1e-6))

    def words(self) -> str:
        """ "4 ranks", "8 shards on 4 ranks"."""
        ranks = "1 rank" if self.alone else f"{self.world.size} ranks"
        return f"{self.shards} shards on {ranks}" if self._fixed else ranks

    def signals(self) -> StopSignals:
        """Ctrl-C and SIGTERM of all ranks."""
        return StopSignals() if self.alone else SharedSignals(self)


class SharedSignals(StopSignals):
    """A signal that comes to any rank stops all of them at the same step.

    It becomes `caught` once all ranks know of it: with the next step, or when all of them check.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks
        self._noted = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True
        self._ranks.wish(number)

    def check(self) -> None:
        if self.caught is None:
            self._ranks.read(self._ranks.world.gather(self._ranks.notes(-1), "a check"), self)
        super().check()

    def forget(self) -> None:
        super().forget()
        self._noted = False
        self._ranks.wish(0)


def join(training: Training) -> Ranks:
    """The ranks that the launcher of this process started; InputError where they cannot join."""
    initialized = nt.distributed.is_initialized()
    if not initialized and launched()[1] == 1:
        return Ranks(None, training.shards)
    if not initialized:
        timeout = datetime.timedelta(seconds=training.rank_timeout)
        try:
            nt.distributed.init_process_group(timeout=timeout)
        except DistError as error:
            raise InputError(str(error)) from None
    return Ranks(the_world(), training.shards)
