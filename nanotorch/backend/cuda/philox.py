"""Random numbers on a CUDA device: the Philox stream, drawn by the kernels of `philox.cu`.

A stream is a seed and an offset, and both lie in the device's memory: a draw reads them there and
moves the offset on, so that nothing is copied and what a CUDA graph replays draws new numbers. An
element depends on seed, offset and its own place alone, not on the GPU it is drawn by. PyTorch's
CUDA numbers depend on its launches and are not reproduced.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy

from nanotorch.backend.cuda import graphs, indexing, kernels
from nanotorch.backend.cuda.tables import NOWHERE
from nanotorch.backend.devices import device

Array = Any

THREADS = 256
MOST_BLOCKS = 4096
BYTES_OF_STATE = 16
# Integers are drawn by the size of their element alone.
SIGNED = {1: "b", 2: "h", 4: "i", 8: "l"}


class Philox:
    """One stream of a device, with the draws that `MersenneTwister` has on the CPU.

    Every draw fills a given array of the device, in the order of its memory, and returns it.
    """

    def __init__(self, xp: Any, index: int, seed: int) -> None:
        self.index, self.initial_seed = index, seed
        self._xp = xp
        self.draws = 0  # how many so far, as the host counts them
        self._lock = threading.RLock()
        self._state: Array = None  # {seed, offset, ticket} on the device, once something is drawn
        self._stage: graphs.Stage | None = None  # which knows the stream that drew last
        self.manual_seed(seed)

    def _here(self) -> Any:
        """The context in which the stream's GPU is the current one."""
        return self._xp.cuda.Device(self.index)

    # --- where the stream stands ------------------------------------------------------------------

    def manual_seed(self, seed: int) -> None:
        """Starts the stream anew."""
        self._set(seed, 0)

    def get_state(self) -> bytes:
        """Seed and offset as 16 bytes, as PyTorch keeps them; waits for the device."""
        with self._lock:
            if self._state is None:
                return numpy.array(self._begin, numpy.uint64).tobytes()
            with self._here():
                state: bytes = self._xp.asnumpy(self._state)[:2].tobytes()
            return state

    def set_state(self, state: bytes) -> None:
        """Goes on where `get_state` was called; RuntimeError for bytes that are no state."""
        if len(state) != BYTES_OF_STATE:
            raise RuntimeError(
                f"set_state: a CUDA generator's state has {BYTES_OF_STATE} bytes, got {len(state)}"
            )
        seed, offset = numpy.frombuffer(state, numpy.uint64).tolist()
        self._set(seed, offset)

    def mark(self) -> tuple[int, tuple[int, int], Array | None]:
        """Where the stream stands, kept on the device without a wait, for `go_back`."""
        with self._lock, self._here():
            state = None if self._state is None else self._in_turn().copy()
            return self.initial_seed, self._begin, state

    def go_back(self, mark: tuple[int, tuple[int, int], Array | None] | None) -> None:
        """Goes on where the mark was taken; None is the beginning."""
        seed, begin, state = mark or (self.initial_seed, (self.initial_seed, 0), None)
        with self._lock, self._here():
            self._set(*begin)
            self.initial_seed = seed
            if state is not None:
                self._xp.copyto(self._in_turn(), state)

    def _set(self, seed: int, offset: int) -> None:
        with self._lock:
            self.initial_seed, self._begin = seed, (seed, offset)
            if self._state is not None:
                with self._here():
                    self._write(self._in_turn())

    def _write(self, state: Array) -> None:
        """Writes the beginning: numbers as arguments of launches, so nothing is copied."""
        for place, value in enumerate((*self._begin, 0)):
            state[place : place + 1].fill(numpy.uint64(value))

    def _in_turn(self) -> Array:
        """The state, to be used after what another stream, or a graph on it, was given to draw."""
        if self._stage is None:
            self._stage = graphs.stage_of(self._xp, device("cuda", self.index))
        self._stage.in_turn()
        return self._state

    def _ready(self) -> Array:
        """The state on the device, which the first draw makes."""
        with self._lock:
            state = self._in_turn()
            if state is None:
                state = self._xp.empty(3, numpy.uint64)
                self._write(state)
                self._state = state
            return state

    def _fill(
        self, kernel: str, out: Array, each: int, *numbers: Any, kind: str | None = None
    ) -> Array:
        """Launches a kernel whose threads take `each` elements from a call of Philox."""
        if not out.size:
            return out
        with self._here():
            ordered = in_order_of_memory(out)
            target = ordered
            if not ordered.flags.c_contiguous:
                target = self._xp.empty(ordered.shape, out.dtype)
            if kind is None:
                integer = target.dtype.kind in "biu"
                kind = SIGNED[target.dtype.itemsize] if integer else target.dtype.char
            blocks = min(-(-target.size // (THREADS * each)), MOST_BLOCKS)
            arguments = (target, numpy.int64(target.size), self._ready(), *numbers)
            kernels.launch(self._xp, "philox", kernel, kind, (blocks,), (THREADS,), arguments)
            self.draws += 1
            if target is not ordered:
                ordered[...] = target
        return out

    # --- the draws --------------------------------------------------------------------------------

    def uniform(self, out: Array, low: float = 0.0, high: float = 1.0) -> Array:
        """x = u (high - low) + low, u of as many bits as the dtype holds: 8, 11, 24 or 53."""
        numbers = numpy.float64(low), numpy.float64(high)
        return self._fill("uniform", out, per_call(out), *numbers)

    def normal(self, out: Array, mean: float = 0.0, std: float = 1.0) -> Array:
        """x = mean + std sqrt(-2 log u) cos(2 pi v), its twin with sin (Box and Muller 1958)."""
        numbers = numpy.float64(mean), numpy.float64(std)
        return self._fill("normal", out, per_call(out), *numbers)

    def exponential(self, out: Array, rate: float = 1.0) -> Array:
        """x = -log(u) / rate."""
        return self._fill("exponentials", out, per_call(out), numpy.float64(rate))

    def bernoulli(self, out: Array, probability: Any, value: float = 1.0) -> Array:
        """x = `value` with a probability, a number, else 0; or 1 with those of an array."""
        chances, chance = NOWHERE, probability
        if isinstance(probability, self._xp.ndarray):
            with self._here():
                chances, chance = self._xp.empty_like(out, dtype=numpy.float64), 0
                chances[...] = probability
                chances = self._xp.ascontiguousarray(in_order_of_memory(chances))
        return self._fill("bernoulli", out, 4, chances, *map(numpy.float64, (chance, value)))

    def integers(self, out: Array, low: int, high: int) -> Array:
        """x = low + floor(u (high - low)), u of 64 bits."""
        width = (high - low) % 2**64  # 0 stands for the whole range of 64 bits
        return self._fill("integers", out, 2, numpy.int64(low), numpy.uint64(width))

    def permutation(self, count: int) -> Array:
        """The numbers from 0 to count - 1 in the order of random keys of 64 bits."""
        with self._here():
            keys = self.integers(self._xp.empty(count, numpy.int64), -(2**63), 2**63)
            return self._xp.argsort(keys) if count > 1 else self._xp.zeros(count, numpy.int64)

    def multinomial(self, weights: Array, samples: int, replacement: bool) -> Array:
        """Indices into the last axis of `weights`, drawn in proportion to them, `samples` a row.

        Without replacement, or for one sample: where w / e is greatest, e exponential of mean 1.
        With replacement: where the running sum of a row exceeds a uniform part of it.
        """
        with self._here():
            weights = self._xp.ascontiguousarray(weights, numpy.float64)
            if not replacement or samples == 1:
                exponential = self.exponential(self._xp.empty(weights.shape))
                ranks = self._xp.log(weights / exponential).astype("f")
                y = indexing.first(self._xp, ranks, k=samples, descending=True)
                if y is NotImplemented:
                    y = self._xp.argsort(-ranks, axis=-1)[..., :samples].copy()
                return y
            running = self._xp.cumsum(weights, axis=-1)
            out = self._xp.empty((*weights.shape[:-1], samples), numpy.int64)
            length = numpy.int64(weights.shape[-1])
            return self._fill("choice", out, 2, running, length, numpy.int64(samples), kind="")


def per_call(out: Array) -> int:
    """How many elements of a floating dtype one call of Philox gives."""
    return 2 if out.dtype.itemsize == 8 else 4


def in_order_of_memory(array: Array) -> Array:
    """The array with its axes in the order of its memory."""
    if array.flags.c_contiguous:
        return array
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return array.transpose(axes)
