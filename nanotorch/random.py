"""Random tensors, with PyTorch's names and, for the same seed, PyTorch's CPU numbers.

Every function draws from `default_generator` unless `generator=` says otherwise. The numbers of a
CUDA tensor are drawn on the CPU and moved, so that a seed means the same on every device.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict, Unpack

from nanotorch import backend
from nanotorch.autograd.grad_mode import is_grad_enabled
from nanotorch.backend import Array, dtype as DType, mersenne
from nanotorch.backend.dtypes import int64, uint8
from nanotorch.tensor import Tensor

Size = int | Sequence[int]
HOST = backend.module_of(backend.CPU)


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
        self._engine.set_state(_on_host(new_state).tobytes())
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


class Options(TypedDict, total=False):
    """Keywords of the functions that make a tensor; `dtype` and `device` have their defaults."""

    dtype: DType | None
    device: backend.device | str | None
    requires_grad: bool


# New tensors.


def rand(
    *sizes: Any,
    size: Size | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Uniform numbers from 0 to 1, which is excluded: `rand(2, 3)` or `rand((2, 3))`."""
    out = HOST.empty(_shape("rand", sizes, size), _kind("rand", options))
    return _finish(_engine(generator).uniform(out), options)


def randn(
    *sizes: Any,
    size: Size | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Normal numbers of mean 0 and variance 1: `randn(2, 3)` or `randn((2, 3))`."""
    out = HOST.empty(_shape("randn", sizes, size), _kind("randn", options))
    return _finish(_engine(generator).normal(out), options)


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
    out = HOST.empty(_shape("randint", (), size), _kind("randint", options, int64, floating=False))
    return _finish(
        _integers("randint", out, _bounds("randint", bounds, low, high), generator), options
    )


def randperm(n: int, *, generator: Generator | None = None, **options: Unpack[Options]) -> Tensor:
    """The integers from 0 to `n` - 1 in random order, int64."""
    if not isinstance(n, int):
        raise TypeError(f"randperm: expected an int, got {type(n).__name__} {n!r}")
    kind = _kind("randperm", options, int64, floating=False)
    if not 0 <= n <= mersenne.last_integer(kind) + 1:
        raise RuntimeError(f"randperm: expected n from 0 to what {kind} can count, got {n}")
    return _finish(_engine(generator).permutation(n).astype(kind, copy=False), options)


def rand_like(
    input: Tensor, *, generator: Generator | None = None, **options: Unpack[Options]
) -> Tensor:
    """Uniform numbers from 0 to 1 in `input`'s shape, dtype, device and order of memory."""
    out = mersenne.empty_like(input._array, _kind("rand_like", options, input.dtype))
    return _finish(_engine(generator).uniform(out), options, input)


def randn_like(
    input: Tensor, *, generator: Generator | None = None, **options: Unpack[Options]
) -> Tensor:
    """Normal numbers of mean 0, variance 1 in `input`'s shape, dtype, device, order of memory."""
    out = mersenne.empty_like(input._array, _kind("randn_like", options, input.dtype))
    return _finish(_engine(generator).normal(out), options, input)


def randint_like(
    input: Tensor,
    *bounds: int,
    low: int | None = None,
    high: int | None = None,
    generator: Generator | None = None,
    **options: Unpack[Options],
) -> Tensor:
    """Integers from `low` (0) to `high` - 1 in `input`'s shape, dtype, device, order of memory."""
    kind = _kind("randint_like", options, input.dtype, floating=False)
    out = mersenne.empty_like(input._array, kind)
    limits = _bounds("randint_like", bounds, low, high)
    return _finish(_integers("randint_like", out, limits, generator), options, input)


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
    engine = _engine(generator)
    tensors = [each for each in (mean, std) if isinstance(each, Tensor)]
    if not isinstance(std, Tensor):
        _deviation("normal", std)
    if not tensors:
        if size is None:
            raise TypeError("normal: expected a size with two numbers: normal(0.0, 1.0, (2, 3))")
        out = HOST.empty(_shape("normal", (), size), _kind("normal", options))
        return _finish(engine.normal(out, float(mean), float(std)), options)
    if size is not None or options:
        raise TypeError("normal: a Tensor gives size, dtype and device; got them as arguments too")
    arrays = [_on_host(each) for each in tensors]
    shape = HOST.broadcast_shapes(*[array.shape for array in arrays])
    out = HOST.empty(shape, _kind("normal", {}, tensors[0].dtype))
    if isinstance(std, Tensor):
        if (arrays[-1] < 0).any():
            raise RuntimeError("normal: expected every std to be 0 or more")
        out[...] = engine.normal(out) * arrays[-1]
    else:
        engine.normal(out, 0.0, std)
    out += arrays[0] if isinstance(mean, Tensor) else out.dtype.type(mean)
    return _finish(out, {}, tensors[0])


def bernoulli(
    input: Tensor, p: float | None = None, *, generator: Generator | None = None
) -> Tensor:
    """1 with probability `input`, else 0, in its shape and dtype; `p` gives another probability."""
    out = HOST.empty(input.shape, input.dtype.numpy)
    return _finish(_coins(out, input if p is None else p, generator), {}, input)


def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """`num_samples` indices drawn in proportion to the weights `input`, (n) or (rows, n); int64."""
    weights, count = _on_host(input), input.shape[-1] if input.shape else 0
    if weights.ndim not in (1, 2):
        raise RuntimeError(f"multinomial: expected 1 or 2 dimensions, got shape {weights.shape}")
    if not input.dtype.is_floating_point:
        raise RuntimeError(f"multinomial: expected a floating point dtype, got {input.dtype}")
    if num_samples <= 0 or (num_samples > count and not replacement):
        most = "or more" if replacement else f"to {count} without replacement"
        raise RuntimeError(f"multinomial: expected 1 {most} samples, got {num_samples}")
    if not ((weights >= 0) & (weights < HOST.inf)).all():
        raise RuntimeError("multinomial: expected finite weights of 0 or more; one is not")
    if not (weights.sum(-1) > 0).all():
        raise RuntimeError("multinomial: expected a positive sum of weights, got 0")
    return _finish(_engine(generator).multinomial(weights, num_samples, replacement), {}, input)


# Fills of existing tensors. `low` and `high` are what PyTorch calls `from` and `to`.


def uniform_(
    tensor: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fills with uniform numbers from `low` to `high`, which is excluded."""
    low, high, engine = float(low), float(high), _engine(generator)
    greatest = float(HOST.finfo(_kind("uniform_", {}, tensor.dtype)).max)
    if not low <= high:
        raise RuntimeError(f"uniform_: expected low <= high, got low={low:g}, high={high:g}")
    if not (-greatest <= low and high <= greatest and high - low <= greatest):
        raise RuntimeError(f"uniform_: {tensor.dtype} cannot hold the range {low:g} to {high:g}")
    return _write(tensor, lambda out: engine.uniform(out, low, high))


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fills with normal numbers of mean `mean` and standard deviation `std`."""
    mean, std, engine = float(mean), float(std), _engine(generator)
    _kind("normal_", {}, tensor.dtype)
    _deviation("normal_", std)
    return _write(tensor, lambda out: engine.normal(out, mean, std))


def exponential_(
    tensor: Tensor, lambd: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fills with numbers of density lambd exp(-lambd x), x > 0."""
    rate, engine = float(lambd), _engine(generator)
    _kind("exponential_", {}, tensor.dtype)
    if not rate > 0.0:
        raise RuntimeError(f"exponential_: expected lambd > 0, got {rate:g}")
    return _write(tensor, lambda out: engine.exponential(out, rate))


def bernoulli_(
    tensor: Tensor, p: Tensor | float = 0.5, *, generator: Generator | None = None
) -> Tensor:
    """Fills with 1 with probability `p`, else 0; a Tensor `p` broadcasts to the shape."""
    return _write(tensor, lambda out: _coins(out, p, generator))


def random_(
    tensor: Tensor, *bounds: int | None, to: int | None = None, generator: Generator | None = None
) -> Tensor:
    """Fills with integers: `random_(to)` from 0, `random_(low, to)` from `low`, each to `to` - 1.

    `random_()` and `random_(low, None)` go up to the greatest integer of the dtype, for a floating
    one to 2**24 (float32), 2**53 (float64) or 2**11 (float16).
    """
    engine, given = _engine(generator), (*bounds, to) if to is not None else bounds
    if not given:
        return _write(tensor, engine.random)
    low, high = (0, *given) if len(given) == 1 else given
    if high is None:
        high = mersenne.last_integer(tensor.dtype.numpy) + 1
    limits = _bounds("random_", (low, high), None, None)
    return _write(tensor, lambda out: _integers("random_", out, limits, generator))


# What the functions share.


def _engine(generator: Generator | None) -> mersenne.MersenneTwister:
    if generator is None:
        return default_generator._engine
    if not isinstance(generator, Generator):
        raise TypeError(f"generator: expected a Generator or None, got {type(generator).__name__}")
    return generator._engine


def _on_host(tensor: Tensor) -> Array:
    return backend.to_device(tensor._array, backend.CPU)


def _finish(array: Array, options: Options, like: Tensor | None = None) -> Tensor:
    """The Tensor around drawn values, on the device of `options` or of `like`."""
    place = options.get("device") or (backend.CPU if like is None else like.device)
    tensor = Tensor._wrap(backend.to_device(array, backend.device(place)))
    return tensor.requires_grad_() if options.get("requires_grad") else tensor


def _write(tensor: Tensor, fill: Callable[[Array], Array]) -> Tensor:
    """Draws into `tensor`'s memory, or beside it where autograd or another device takes part."""
    tensor._check_inplace()
    array = tensor._array
    if tensor.device.type == "cpu" and not (tensor.requires_grad and is_grad_enabled()):
        fill(array)
        tensor._bump()
        return tensor
    drawn = fill(mersenne.empty_like(array, array.dtype))
    tensor.copy_(Tensor._wrap(backend.to_device(drawn, tensor.device)))
    return tensor


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


def _kind(name: str, options: Options, default: DType | None = None, floating: bool = True) -> Any:
    """The NumPy dtype that `options` ask for, else `default`, after a check of the keywords."""
    if unknown := options.keys() - Options.__optional_keys__:
        raise TypeError(f"{name}: unknown keyword {', '.join(sorted(unknown))}")
    kind = options.get("dtype") or default or backend.get_default_dtype()
    if floating and not kind.is_floating_point:
        raise NotImplementedError(f"{name}: expected a floating point dtype, got {kind}")
    return kind.numpy


def _deviation(name: str, std: float) -> None:
    if not std >= 0.0:
        raise RuntimeError(f"{name}: expected std of 0 or more, got {std:g}")


def _coins(out: Array, p: Tensor | float, generator: Generator | None) -> Array:
    if isinstance(p, Tensor):
        _kind("bernoulli", {}, p.dtype)
    probability = _on_host(p) if isinstance(p, Tensor) else HOST.float64(p)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise RuntimeError(f"bernoulli: expected a probability from 0 to 1, got {p}")
    return _engine(generator).bernoulli(out, probability)


def _bounds(name: str, given: Sequence[Any], low: int | None, high: int | None) -> tuple[int, int]:
    """(low, high) from `f(high)` or `f(low, high)`, where either may be given by its name."""
    values = list(given)
    if low is None:
        low = values.pop(0) if len(values) > (high is None) else 0
    if high is None and values:
        high = values.pop()
    if values or not isinstance(low, int) or not isinstance(high, int):
        raise TypeError(f"{name}: expected int bounds, (high) or (low, high), got {tuple(given)}")
    if not -(2**63) <= low <= high <= 2**63:
        problem = "low < high" if low > high else "bounds of 64 bits"
        raise RuntimeError(f"{name}: expected {problem}, got low={low}, high={high}")
    return low, high


def _integers(name: str, out: Array, limits: tuple[int, int], generator: Generator | None) -> Array:
    """Draws from `low` to `high` - 1, integers that `out`'s dtype must be able to hold."""
    (low, high), kind = limits, out.dtype
    last = mersenne.last_integer(kind)
    first = {"f": -last, "i": -last - 1}.get(kind.kind, 0)
    if not low < high:
        raise RuntimeError(f"{name}: expected low < high, got low={low}, high={high}")
    if low < first or high - 1 > last:
        raise RuntimeError(
            f"{name}: {kind} holds the integers from {first} to {last}, got low={low}, high={high}"
        )
    return _engine(generator).integers(out, low, high)
