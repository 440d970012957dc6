"""Random tensors, with PyTorch's names and, for the same seed, PyTorch's CPU numbers.

Every function draws from `default_generator` unless `generator=` says otherwise. The numbers of a
CUDA tensor are drawn on the CPU and moved, so that a seed means the same on every device.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

from nanotorch import backend, sampling
from nanotorch.backend import Array, mersenne
from nanotorch.backend.dtypes import int64, uint8
from nanotorch.sampling import (
    HOST,
    Options,
    bernoulli as bernoulli,
    bernoulli_ as bernoulli_,
    exponential_ as exponential_,
    multinomial as multinomial,
    normal_ as normal_,
    random_ as random_,
    uniform_ as uniform_,
)
from nanotorch.tensor import Tensor

Size = int | Sequence[int]


class Generator:
    """A stream of random numbers of its own: the state of one mt19937 generator.

    >>> import nanotorch as nt
    >>> g = nt.Generator().manual_seed(0)
    >>> nt.randint(10, (5,), generator=g).tolist()
    [4, 9, 3, 0, 3]
    """

    def __init__(self, device: backend.device | str = "cpu") -> None:
        self.device = backend.device(device)
        self._engine = mersenne.MersenneTwister()

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
        """The state as 5056 values of uint8, byte for byte as PyTorch keeps it."""
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


default_generator = Generator()
default_generator._engine = sampling.default_engine
default_generator.seed()


def manual_seed(seed: int) -> Generator:
    """Starts the default generator's stream of `seed` and returns the generator."""
    return default_generator.manual_seed(int(seed))


def seed() -> int:
    """Starts the default generator at a seed that the operating system chooses; returns it."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed that the default generator was started with."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default generator's state, a uint8 Tensor of 5056 values."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Makes the default generator go on from a state that `get_rng_state` returned."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Sequence[int] | None = None, enabled: bool = True) -> Iterator[None]:
    """After the block the default generator is where it was before, unless `enabled` is False.

    `devices` is there for PyTorch's sake: all devices draw from the one default generator.
    """
    state = default_generator._engine.get_state()
    try:
        yield
    finally:
        if enabled:
            default_generator._engine.set_state(state)


# New tensors.


def rand(
    *sizes: Any,
    size: Size | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Uniform numbers from 0 to 1, which is excluded: `rand(2, 3)` or `rand((2, 3))`."""
    out = HOST.empty(_shape("rand", sizes, size), sampling.kind_of("rand", options))
    return _finish(sampling.engine_of(generator).uniform(out), options)


def randn(
    *sizes: Any,
    size: Size | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Normal numbers of mean 0 and variance 1: `randn(2, 3)` or `randn((2, 3))`."""
    out = HOST.empty(_shape("randn", sizes, size), sampling.kind_of("randn", options))
    return _finish(sampling.engine_of(generator).normal(out), options)


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
    out = HOST.empty(
        _shape("randint", (), size), sampling.kind_of("randint", options, int64, floating=False)
    )
    return _finish(
        sampling.integers(
            "randint", out, sampling.bounds_of("randint", bounds, low, high), generator
        ),
        options,
    )


def randperm(n: int, *, generator: Generator | None = None, **options: Unpack[Options]) -> Tensor:
    """The integers from 0 to `n` - 1 in random order, int64."""
    if not isinstance(n, int):
        raise TypeError(f"randperm: expected an int, got {type(n).__name__} {n!r}")
    kind = sampling.kind_of("randperm", options, int64, floating=False)
    if not 0 <= n <= mersenne.last_integer(kind) + 1:
        raise RuntimeError(f"randperm: expected n from 0 to what {kind} can count, got {n}")
    return _finish(sampling.engine_of(generator).permutation(n).astype(kind, copy=False), options)


def rand_like(
    input: Tensor, *, generator: Generator | None = None, **options: Unpack[Options]
) -> Tensor:
    """Uniform numbers from 0 to 1 in `input`'s shape, dtype, device and order of memory."""
    out = mersenne.empty_like(input._array, sampling.kind_of("rand_like", options, input.dtype))
    return _finish(sampling.engine_of(generator).uniform(out), options, input)


def randn_like(
    input: Tensor, *, generator: Generator | None = None, **options: Unpack[Options]
) -> Tensor:
    """Normal numbers of mean 0, variance 1 in `input`'s shape, dtype, device, order of memory."""
    out = mersenne.empty_like(input._array, sampling.kind_of("randn_like", options, input.dtype))
    return _finish(sampling.engine_of(generator).normal(out), options, input)


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
    out = mersenne.empty_like(input._array, kind)
    limits = sampling.bounds_of("randint_like", bounds, low, high)
    return _finish(sampling.integers("randint_like", out, limits, generator), options, input)


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
    engine = sampling.engine_of(generator)
    tensors = [each for each in (mean, std) if isinstance(each, Tensor)]
    if not isinstance(std, Tensor):
        sampling.check_deviation("normal", std)
    if not tensors:
        if size is None:
            raise TypeError("normal: expected a size with two numbers: normal(0.0, 1.0, (2, 3))")
        out = HOST.empty(_shape("normal", (), size), sampling.kind_of("normal", options))
        return _finish(engine.normal(out, float(mean), float(std)), options)
    if size is not None or options:
        raise TypeError("normal: a Tensor gives size, dtype and device; got them as arguments too")
    arrays = [sampling.on_host(each) for each in tensors]
    shape = HOST.broadcast_shapes(*[array.shape for array in arrays])
    out = HOST.empty(shape, sampling.kind_of("normal", {}, tensors[0].dtype))
    if isinstance(std, Tensor):
        if (arrays[-1] < 0).any():
            raise RuntimeError("normal: expected every std to be 0 or more")
        out[...] = engine.normal(out) * arrays[-1]
    else:
        engine.normal(out, 0.0, std)
    out += arrays[0] if isinstance(mean, Tensor) else out.dtype.type(mean)
    return _finish(out, {}, tensors[0])


# What the functions share.


def _finish(array: Array, options: Options, like: Tensor | None = None) -> Tensor:
    """The Tensor around drawn values, on the device of `options` or of `like`."""
    place = options.get("device")
    if place is None:
        place = backend.get_default_device() if like is None else like.device
    tensor = Tensor._wrap(backend.to_device(array, backend.device(place)))
    return tensor.requires_grad_() if options.get("requires_grad") else tensor


def _shape(name: str, sizes: tuple[Any, ...], size: Size | None) -> tuple[int, ...]:
    """The shape from `f(2, 3)`, `f((2, 3))` or `f(size=(2, 3))`."""
    if (size is None) != bool(sizes):
        raise TypeError(f"{name}: expected a size, once: {name}(2, 3) or {name}(size=(2, 3))")
    given = sizes if size is None else (size,)
    if len(given) == 1 and isinstance(given[0], tuple | list):
        given = tuple(given[0])
    if any(isinstance(length, bool) or not hasattr(length, "__index__") for length in given):
        raise TypeError(f"{name}: expected a size of ints, got {given}")
    shape = tuple(map(operator.index, given))
    if min(shape, default=0) < 0:
        raise RuntimeError(f"{name}: expected lengths of 0 or more, got size {shape}")
    return shape
