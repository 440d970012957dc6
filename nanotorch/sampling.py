"""Draws that start from a tensor: fills in place, `bernoulli`, `multinomial`.

Without `generator=` they draw from the default stream of the tensor's device: `default_engine` on
the CPU, a Philox stream on each GPU. A generator of the CPU draws for CUDA tensors too: PyTorch's
CPU numbers, which are then moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from nanotorch import backend
from nanotorch.autograd.grad_mode import is_grad_enabled, modes
from nanotorch.backend import HOST, Array, dtype as DType, mersenne, order_of_memory
from nanotorch.backend.silence import silent
from nanotorch.node import Traced

if TYPE_CHECKING:
    from nanotorch.backend.cuda.philox import Philox

    Engine = mersenne.MersenneTwister | Philox

default_engine = mersenne.MersenneTwister(int.from_bytes(os.urandom(8), "little"))
_cuda_engines: dict[tuple[Any, int], Philox] = {}  # by array module and number of the GPU
_cuda_seed: list[
    int
] = []  # the seed of streams that nothing has drawn from yet, once one was given


class Options(TypedDict, total=False):
    """Keywords of the functions that make a tensor; `dtype` and `device` have their defaults."""

    dtype: DType | None
    device: backend.device | str | None
    requires_grad: bool


# `low` and `high` are what PyTorch calls `from` and `to`.


def uniform_(tensor: Any, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Any:
    """Fills with uniform numbers from `low` to `high`, which is excluded."""
    low, high, engine = float(low), float(high), engine_of(generator, tensor.device)
    kind_of("uniform_", {}, tensor.dtype)
    greatest = backend.finfo(tensor.dtype).max
    if not low <= high:
        raise RuntimeError(f"uniform_: expected low <= high, got low={low:g}, high={high:g}")
    if not (-greatest <= low and high <= greatest and high - low <= greatest):
        raise RuntimeError(f"uniform_: {tensor.dtype} cannot hold the range {low:g} to {high:g}")
    return _write(tensor, engine, lambda out: engine.uniform(out, low, high))


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
    """Fills with normal numbers of mean `mean` and standard deviation `std`."""
    mean, std, engine = float(mean), float(std), engine_of(generator, tensor.device)
    kind_of("normal_", {}, tensor.dtype)
    check_deviation("normal_", std)
    return _write(tensor, engine, lambda out: engine.normal(out, mean, std))


def exponential_(tensor: Any, lambd: float = 1.0, *, generator: Any = None) -> Any:
    """Fills with numbers of density lambd exp(-lambd x), x > 0."""
    rate, engine = float(lambd), engine_of(generator, tensor.device)
    kind_of("exponential_", {}, tensor.dtype)
    if not rate > 0.0:
        raise RuntimeError(f"exponential_: expected lambd > 0, got {rate:g}")
    return _write(tensor, engine, lambda out: engine.exponential(out, rate))


def bernoulli_(tensor: Any, p: Any = 0.5, *, generator: Any = None) -> Any:
    """Fills with 1 with probability `p`, else 0; a Tensor `p` broadcasts to the shape."""
    if isinstance(p, Traced):
        modes.listener.read("draws with probabilities that are a tensor")
    engine = engine_of(generator, tensor.device)
    return _write(tensor, engine, lambda out: coins(out, p, engine))


def keep_(tensor: Any, p: float) -> Any:
    """Fills with 1 / p with probability `p`, else 0: what dropout multiplies with."""
    engine = engine_of(None, tensor.device)
    if isinstance(engine, mersenne.MersenneTwister):
        return bernoulli_(tensor, p).div_(p)
    return _write(tensor, engine, lambda out: engine.bernoulli(out, p, 1 / p))


def random_(tensor: Any, *bounds: int | None, to: int | None = None, generator: Any = None) -> Any:
    """Fills with integers: `random_(to)` from 0, `random_(low, to)` from `low`, each to `to` - 1.

    `random_()` and `random_(low, None)` go up to the greatest integer of the dtype, for a floating
    one to 2**24 (float32), 2**53 (float64) or 2**11 (float16).
    """
    engine = engine_of(generator, tensor.device)
    given = (*bounds, to) if to is not None else bounds
    if not given and isinstance(engine, mersenne.MersenneTwister):
        return _write(tensor, engine, engine.random)
    low, high = (0, *given) if len(given) == 1 else given or (0, None)
    if high is None:
        high = mersenne.last_integer(tensor.dtype.numpy) + 1
    limits = bounds_of("random_", (low, high), None, None)
    return _write(tensor, engine, lambda out: integers("random_", out, limits, engine))


def bernoulli(input: Any, p: float | None = None, *, generator: Any = None) -> Any:
    """1 with probability `input`, else 0, in its shape and dtype; `p` gives another probability."""
    engine = engine_of(generator, input.device)
    out = blank(engine, input.shape, input.dtype.numpy)
    return _like(input, coins(out, input if p is None else p, engine))


@silent
def _check_weights(weights: Array) -> None:
    if not ((weights >= 0) & (weights < HOST.inf)).all():
        raise RuntimeError("multinomial: expected finite weights of 0 or more; one is not")
    if not weights.any(-1).all():
        raise RuntimeError("multinomial: expected a positive sum of weights, got 0")


def multinomial(
    input: Any,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Any = None,
) -> Any:
    """`num_samples` indices drawn in proportion to the weights `input`, (n) or (rows, n); int64.

    RuntimeError for weights that are negative, not finite or all 0 (drawn on the CPU alone).
    """
    engine = engine_of(generator, input.device)
    weights, count = operand(input, engine), input.shape[-1] if input.shape else 0
    if weights.ndim not in (1, 2):
        raise RuntimeError(f"multinomial: expected 1 or 2 dimensions, got shape {weights.shape}")
    if not input.dtype.is_floating_point:
        raise RuntimeError(f"multinomial: expected a floating point dtype, got {input.dtype}")
    if num_samples <= 0 or (num_samples > count and not replacement):
        most = "or more" if replacement else f"to {count} without replacement"
        raise RuntimeError(f"multinomial: expected 1 {most} samples, got {num_samples}")
    if isinstance(engine, mersenne.MersenneTwister):
        _check_weights(weights)
    return _like(input, silent(engine.multinomial)(weights, num_samples, replacement))


# What these and the functions of nanotorch.random share.


def engine_of(generator: Any, place: backend.device = backend.CPU) -> Engine:
    """The stream of a Generator, which must be able to draw for that device; None: its default."""
    if generator is None:
        return default_engine if place.type == "cpu" else default_cuda_engine(place)
    engine: Engine | None = getattr(generator, "_engine", None)
    if engine is None:
        raise TypeError(f"generator: expected a Generator or None, got {type(generator).__name__}")
    if not isinstance(engine, mersenne.MersenneTwister) and engine.index != number_of(place):
        raise RuntimeError(
            f"generator: expected one of device {place}, got one of cuda:{engine.index}"
        )
    return engine


def host_engine(generator: Any) -> mersenne.MersenneTwister:
    """The stream of a Generator of the CPU; the default one for None."""
    engine = engine_of(generator)
    assert isinstance(engine, mersenne.MersenneTwister)  # engine_of has refused all others
    return engine


def number_of(place: backend.device) -> int:
    """The number of a GPU; the current one's where the device names none, -1 for the CPU."""
    if place.type == "cpu":
        return -1
    return int(backend.cuda_module().cuda.get_device_id()) if place.index is None else place.index


def cuda_engine(place: backend.device, seed: int) -> Engine:
    """A stream for a GPU; where kernels of ours cannot run, one of the CPU, whose numbers move."""
    module = backend.cuda_module()
    if not backend.cuda_parts.kernels.available(module):
        return mersenne.MersenneTwister(seed)
    engine: Philox = backend.cuda_parts.philox.Philox(module, number_of(place), seed)
    return engine


def default_cuda_engine(place: backend.device) -> Engine:
    """The stream that a GPU draws from by default, made at its first use."""
    module = backend.cuda_module()
    key = (module, number_of(place))
    engine: Engine | None = _cuda_engines.get(key)
    if engine is None:
        if not backend.cuda_parts.kernels.available(module):
            return default_engine
        if not _cuda_seed:
            _cuda_seed.append(int.from_bytes(os.urandom(8), "little"))
        with backend.on_device(place):  # which must be there
            made = backend.cuda_parts.philox.Philox(*key, _cuda_seed[0])
            engine = _cuda_engines.setdefault(key, made)
    return engine


def seed_cuda(seed: int) -> None:
    """Starts the default streams of all GPUs anew, those too that are made later."""
    _cuda_seed[:] = [seed]
    for engine in list(_cuda_engines.values()):
        engine.manual_seed(seed)


def count_of_draws() -> tuple[bytes, int]:
    """What differs as soon as something was drawn by default, on any device."""
    return default_engine.get_state(), sum(engine.draws for engine in _cuda_engines.values())


def mark() -> Callable[[], None]:
    """Where all default streams stand, without a wait: a function that goes back there."""
    state = default_engine.get_state()
    marks = {engine: engine.mark() for engine in _cuda_engines.values()}

    def go_back() -> None:
        default_engine.set_state(state)
        for engine in _cuda_engines.values():
            engine.go_back(marks.get(engine))

    return go_back


def blank(engine: Engine, shape: Sequence[int], kind: Any) -> Array:
    """An array that the engine can fill."""
    if isinstance(engine, mersenne.MersenneTwister):
        return HOST.empty(shape, kind)
    with backend.on_device(backend.device("cuda", engine.index)):
        return backend.cuda_module().empty(shape, kind)


def blank_like(engine: Engine, array: Array, kind: Any) -> Array:
    """An array that the engine can fill, in the shape of `array` and its order of axes."""
    if isinstance(engine, mersenne.MersenneTwister):
        return order_of_memory.empty_like(backend.HOST, array, kind)
    with backend.on_device_of(array):
        return order_of_memory.empty_like(backend.cuda_module(), array, kind)


def operand(tensor: Any, engine: Engine) -> Array:
    """The array of a tensor where the engine can compute with it."""
    return on_host(tensor) if isinstance(engine, mersenne.MersenneTwister) else tensor._array


def on_host(tensor: Any) -> Array:
    """The array of a tensor, on the CPU."""
    return backend.to_device(tensor._array, backend.CPU)


def _write(tensor: Any, engine: Engine, fill: Callable[[Array], Array]) -> Any:
    """Draws into `tensor`'s memory, or beside it where autograd or another device takes part."""
    tensor._check_inplace()
    array = tensor._array
    there = isinstance(engine, mersenne.MersenneTwister) == (tensor.device.type == "cpu")
    if there:
        modes.listener.drew(tensor, fill)
    else:
        modes.listener.read("draws the CPU's random numbers into a tensor of the GPU")
    if there and not (tensor.requires_grad and is_grad_enabled()):
        fill(array)
        tensor._bump()
        return tensor
    tensor.copy_(_like(tensor, fill(blank_like(engine, array, array.dtype))))
    return tensor


def _like(tensor: Any, drawn: Array) -> Any:
    """A new tensor around drawn values, on the device of `tensor`."""
    return tensor._wrap(backend.to_device(drawn, tensor.device))


def kind_of(
    name: str, options: Options, default: DType | None = None, floating: bool = True
) -> Any:
    """The NumPy dtype that `options` ask for, else `default`, after a check of the keywords."""
    if options and (unknown := options.keys() - Options.__optional_keys__):
        raise TypeError(f"{name}: unknown keyword {', '.join(sorted(unknown))}")
    kind = backend.dtype_of(options.get("dtype") or default or backend.get_default_dtype())
    if floating and not kind.is_floating_point:
        raise NotImplementedError(f"{name}: expected a floating point dtype, got {kind}")
    return kind.numpy


def check_deviation(name: str, std: float) -> None:
    """RuntimeError unless std >= 0."""
    if not std >= 0.0:
        raise RuntimeError(f"{name}: expected std of 0 or more, got {std:g}")


@silent
def coins(out: Array, p: Any, engine: Engine) -> Array:
    """Fills `out` with 1 with probability `p`, a number or a tensor, else with 0.

    RuntimeError for what is no probability; on a GPU a tensor is not checked, which would wait.
    """
    chances: Any = p
    if isinstance(p, Traced):
        kind_of("bernoulli", {}, chances.dtype)
        if not isinstance(engine, mersenne.MersenneTwister):
            return engine.bernoulli(out, backend.to_device(chances._array, backend.device_of(out)))
    probability = on_host(chances) if isinstance(p, Traced) else HOST.float64(p)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise RuntimeError(f"bernoulli: expected a probability from 0 to 1, got {p}")
    return engine.bernoulli(out, probability)


def bounds_of(
    name: str, given: Sequence[Any], low: int | None, high: int | None
) -> tuple[int, int]:
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


def integers(name: str, out: Array, limits: tuple[int, int], engine: Engine) -> Array:
    """Draws from `low` to `high` - 1, integers that `out`'s dtype must be able to hold."""
    (low, high), kind = limits, out.dtype
    last = mersenne.last_integer(kind)
    first = {"f": -last, "V": -last, "i": -last - 1}.get(kind.kind, 0)
    if not low < high:
        raise RuntimeError(f"{name}: expected low < high, got low={low}, high={high}")
    if low < first or high - 1 > last:
        raise RuntimeError(
            f"{name}: {kind} holds the integers from {first} to {last}, got low={low}, high={high}"
        )
    return engine.integers(out, low, high)
