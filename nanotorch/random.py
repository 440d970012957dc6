"""Random tensors, with PyTorch's names and, for the same seed, PyTorch's CPU numbers.

Every function draws from the default generator of the device where the tensor is made unless
`generator=` says otherwise: `default_generator` on the CPU, a Philox stream on each GPU. A
generator of the CPU draws for CUDA tensors too: the CPU's numbers, which are then moved.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

from nanotorch import backend, sampling
from nanotorch.backend import HOST, Array, mersenne
from nanotorch.backend.dtypes import int64, uint8
from nanotorch.creation import finished, maker
from nanotorch.sampling import (
    Options,
    bernoulli as bernoulli,
    bernoulli_ as bernoulli_,
    exponential_ as exponential_,
    keep_ as keep_,
    multinomial as multinomial,
    normal_ as normal_,
    random_ as random_,
    uniform_ as uniform_,
)
from nanotorch.tensor import Tensor

Size = int | Sequence[int]


class Generator:
    """A stream of random numbers of its own: mt19937 on the CPU, Philox on a GPU.

    >>> import nanotorch as nt
    >>> g = nt.Generator().manual_seed(0)
    >>> nt.randint(10, (5,), generator=g).tolist()
    [4, 9, 3, 0, 3]
    """

    def __init__(self, device: backend.device | str = "cpu") -> None:
        self.device = backend.device(device)
        self._engine: sampling.Engine = mersenne.MersenneTwister()
        if self.device.type == "cuda":
            if self.device.index is None:
                self.device = backend.device("cuda", sampling.number_of(self.device))
            self._engine = sampling.cuda_engine(self.device, mersenne.DEFAULT_SEED)

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream that belongs to `seed`, from -2**63 to 2**64 - 1; returns itself."""
        if not isinstance(seed, int):
            raise RuntimeError(f"manual_seed: expected an int, got {type(seed).__name__} {seed!r}")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"manual_seed: expected a seed from -2**63 to 2**64 - 1, got {seed}")
        self._engine.manual_seed(seed % 2**64)
        return self

    def seed(self) -> int:
        """Starts a stream that the operating system chooses and returns its seed."""
        seed = int.from_bytes(os.urandom(8), "little")
        self._engine.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed that the stream was started with."""
        return self._engine.initial_seed

    def get_state(self) -> Tensor:
        """The state as values of uint8, byte for byte as PyTorch keeps it: 5056, 16 for a GPU's."""
        return Tensor._wrap(HOST.frombuffer(bytearray(self._engine.get_state()), uint8.numpy))

    def set_state(self, new_state: Tensor) -> Generator:
        """Goes on from a state that `get_state` returned, here or in PyTorch; returns itself."""
        if not isinstance(new_state, Tensor) or new_state.dtype is not uint8:
            got = new_state.dtype if isinstance(new_state, Tensor) else type(new_state).__name__
            raise TypeError(f"set_state: expected a Tensor of dtype uint8, got {got}")
        self._engine.set_state(sampling.on_host(new_state).tobytes())
        return self

    def clone_state(self) -> Generator:
        """A new generator at the same point of the same stream."""
        return _restored(str(self.device), self._engine.get_state())

    def __reduce__(self) -> tuple[Callable[..., Generator], tuple[str, bytes]]:
        return _restored, (str(self.device), self._engine.get_state())


def _restored(device: str, state: bytes) -> Generator:
    generator = Generator(device)
    generator._engine.set_state(state)
    return generator


def _around(engine: sampling.Engine, place: backend.device) -> Generator:
    generator = Generator.__new__(Generator)
    generator.device, generator._engine = place, engine
    return generator


default_generator = _around(sampling.default_engine, backend.CPU)


def default_cuda_generator(device: backend.device) -> Generator:
    """The generator that a GPU draws from by default."""
    place = backend.device("cuda", sampling.number_of(device))
    return _around(sampling.default_cuda_engine(place), place)


def manual_seed(seed: int) -> Generator:
    """Starts the default generators of all devices at `seed`; returns the CPU's."""
    default_generator.manual_seed(int(seed))
    sampling.seed_cuda(int(seed) % 2**64)
    return default_generator


def seed() -> int:
    """Starts the default generators at a seed that the operating system chooses; returns it."""
    chosen = default_generator.seed()
    sampling.seed_cuda(chosen)
    return chosen


def initial_seed() -> int:
    """The seed that the CPU's default generator was started with."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The CPU's default generator's state, a uint8 Tensor of 5056 values."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Makes the CPU's default generator go on from a state that `get_rng_state` returned."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Sequence[int] | None = None, enabled: bool = True) -> Iterator[None]:
    """After the block all default generators are where they were, unless `enabled` is False.

    `devices` is there for PyTorch's sake: nothing waits, so that all of them can be kept.
    """
    go_back = sampling.mark() if enabled else None
    try:
        yield
    finally:
        if go_back is not None:
            go_back()


# New tensors.


@maker
def rand(
    *sizes: Any,
    size: Size | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Uniform numbers from 0 to 1, which is excluded: `rand(2, 3)` or `rand((2, 3))`."""
    engine, place = _drawn_by(generator, options)
    shape, kind = _shape("rand", sizes, size), sampling.kind_of("rand", options)
    return _finish(engine.uniform(sampling.blank(engine, shape, kind)), options, place)


@maker
def randn(
    *sizes: Any,
    size: Size | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Normal numbers of mean 0 and variance 1: `randn(2, 3)` or `randn((2, 3))`."""
    engine, place = _drawn_by(generator, options)
    shape, kind = _shape("randn", sizes, size), sampling.kind_of("randn", options)
    return _finish(engine.normal(sampling.blank(engine, shape, kind)), options, place)


@maker
def randint(
    *bounds_and_size: Any,
    low: int | None = None,
    high: int | None = None,
    size: Sequence[int] | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Integers to `high` - 1, int64: `randint(high, size)` or `randint(low, high, size)`."""
    bounds = list(bounds_and_size)
    if size is None and bounds:
        size = bounds.pop()
    if not isinstance(size, tuple | list):
        raise TypeError(f"randint: expected a tuple of ints as size, got {size!r}")
    engine, place = _drawn_by(generator, options)
    kind = sampling.kind_of("randint", options, int64, floating=False)
    out = sampling.blank(engine, _shape("randint", (), size), kind)
    limits = sampling.bounds_of("randint", bounds, low, high)
    return _finish(sampling.integers("randint", out, limits, engine), options, place)


@maker
def randperm(n: int, *, generator: Generator | None = None, **options: Unpack[Options]) -> Tensor:
    """The integers from 0 to `n` - 1 in random order, int64."""
    if not isinstance(n, int):
        raise TypeError(f"randperm: expected an int, got {type(n).__name__} {n!r}")
    kind = sampling.kind_of("randperm", options, int64, floating=False)
    if not 0 <= n <= mersenne.last_integer(kind) + 1:
        raise RuntimeError(f"randperm: expected n from 0 to what {kind} can count, got {n}")
    engine, place = _drawn_by(generator, options)
    order = engine.permutation(n)
    with backend.on_device_of(order):
        order = order.astype(kind, copy=False)
    return _finish(order, options, place)


@maker
def rand_like(
    input: Tensor, *, generator: Generator | None = None, **options: Unpack[Options]
) -> Tensor:
    """Uniform numbers from 0 to 1 in `input`'s shape, dtype, device and order of memory."""
    engine, place = _drawn_by(generator, options, input)
    kind = sampling.kind_of("rand_like", options, input.dtype)
    out = sampling.blank_like(engine, input._array, kind)
    return _finish(engine.uniform(out), options, place)


@maker
def randn_like(
    input: Tensor, *, generator: Generator | None = None, **options: Unpack[Options]
) -> Tensor:
    """Normal numbers of mean 0, variance 1 in `input`'s shape, dtype, device, order of memory."""
    engine, place = _drawn_by(generator, options, input)
    kind = sampling.kind_of("randn_like", options, input.dtype)
    out = sampling.blank_like(engine, input._array, kind)
    return _finish(engine.normal(out), options, place)


@maker
def randint_like(
    input: Tensor,
    *bounds: int,
    low: int | None = None,
    high: int | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Integers from `low` (0) to `high` - 1 in `input`'s shape, dtype, device, order of memory."""
    kind = sampling.kind_of("randint_like", options, input.dtype, floating=False)
    engine, place = _drawn_by(generator, options, input)
    out = sampling.blank_like(engine, input._array, kind)
    limits = sampling.bounds_of("randint_like", bounds, low, high)
    return _finish(sampling.integers("randint_like", out, limits, engine), options, place)


def normal(
    mean: Tensor | float = 0.0,
    std: Tensor | float = 1.0,
    size: Size | None = None,
    *,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Normal numbers of the given means and standard deviations.

    Two numbers need a `size`. Of a Tensor and a number, or of two Tensors whose shapes broadcast,
    the first Tensor gives dtype and device; no gradient flows back to them.
    """
    tensors = [each for each in (mean, std) if isinstance(each, Tensor)]
    if not isinstance(std, Tensor):
        sampling.check_deviation("normal", std)
    if not tensors:
        if size is None:
            raise TypeError("normal: expected a size with two numbers: normal(0.0, 1.0, (2, 3))")
        engine, place = _drawn_by(generator, options)
        out = sampling.blank(
            engine, _shape("normal", (), size), sampling.kind_of("normal", options)
        )
        return _finish(engine.normal(out, float(mean), float(std)), options, place)
    if size is not None or options:
        raise TypeError("normal: a Tensor gives size, dtype and device; got them as arguments too")
    engine, place = _drawn_by(generator, options, tensors[0])
    arrays = [sampling.operand(each, engine) for each in tensors]
    shape = HOST.broadcast_shapes(*[array.shape for array in arrays])
    out = sampling.blank(engine, shape, sampling.kind_of("normal", {}, tensors[0].dtype))
    with backend.on_device_of(out):
        if isinstance(std, Tensor):
            if backend.array_module(out) is HOST and (arrays[-1] < 0).any():
                raise RuntimeError("normal: expected every std to be 0 or more")
            out[...] = engine.normal(out) * arrays[-1]
        else:
            engine.normal(out, 0.0, std)
        out += arrays[0] if isinstance(mean, Tensor) else out.dtype.type(mean)
    return _finish(out, {}, place)


# What the functions share.


def _drawn_by(
    generator: Generator | None, options: Options, like: Tensor | None = None
) -> tuple[sampling.Engine, backend.device]:
    """The stream to draw from, and the device of `options` or of `like` to draw for."""
    given = options.get("device")
    default = backend.get_default_device() if like is None else like.device
    place = default if given is None else backend.device(given)
    return sampling.engine_of(generator, place), place


def _finish(array: Array, options: Options, place: backend.device) -> Tensor:
    """The Tensor around drawn values, on its device."""
    if place is not backend.CPU or type(array) is not HOST.ndarray:
        array = backend.to_device(array, place)
    return finished(array, bool(options.get("requires_grad")))


def _shape(name: str, sizes: tuple[Any, ...], size: Size | None) -> tuple[int, ...]:
    """The shape from `f(2, 3)`, `f((2, 3))` or `f(size=(2, 3))`."""
    if (size is None) != bool(sizes):
        raise TypeError(f"{name}: expected a size, once: {name}(2, 3) or {name}(size=(2, 3))")
    for length in sizes:
        if type(length) is not int or length < 0:
            break
    else:
        if size is None:
            return sizes
    given = sizes if size is None else (size,)
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = tuple(given[0])
    for length in given:
        if type(length) is not int and (
            isinstance(length, bool) or not hasattr(length, "__index__")
        ):
            raise TypeError(f"{name}: expected a size of ints, got {given}")
    shape = tuple(map(operator.index, given))
    if min(shape, default=0) < 0:
        raise RuntimeError(f"{name}: expected lengths of 0 or more, got size {shape}")
    return shape
