"""Draws that start from a tensor: fills in place, `bernoulli`, `multinomial`.

Without `generator=` they draw from `default_engine`, the stream of `nanotorch.default_generator`.
What they fill into a CUDA tensor is drawn on the CPU and moved, so that a seed means the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from nanotorch import backend
from nanotorch.autograd.grad_mode import is_grad_enabled, modes
from nanotorch.backend import Array, dtype as DType, mersenne
from nanotorch.primitive import Traced

HOST = backend.module_of(backend.CPU)
default_engine = mersenne.MersenneTwister()


class Options(TypedDict, total=False):
    """Keywords of the functions that make a tensor; `dtype` and `device` have their defaults."""

    dtype: DType | None
    device: backend.device | str | None
    requires_grad: bool


# `low` and `high` are what PyTorch calls `from` and `to`.


def uniform_(tensor: Any, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Any:
    """Fills with uniform numbers from `low` to `high`, which is excluded."""
    low, high, engine = float(low), float(high), engine_of(generator)
    greatest = float(HOST.finfo(kind_of("uniform_", {}, tensor.dtype)).max)
    if not low <= high:
        raise RuntimeError(f"uniform_: expected low <= high, got low={low:g}, high={high:g}")
    if not (-greatest <= low and high <= greatest and high - low <= greatest):
        raise RuntimeError(f"uniform_: {tensor.dtype} cannot hold the range {low:g} to {high:g}")
    return _write(tensor, lambda out: engine.uniform(out, low, high))


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
    """Fills with normal numbers of mean `mean` and standard deviation `std`."""
    mean, std, engine = float(mean), float(std), engine_of(generator)
    kind_of("normal_", {}, tensor.dtype)
    check_deviation("normal_", std)
    return _write(tensor, lambda out: engine.normal(out, mean, std))


def exponential_(tensor: Any, lambd: float = 1.0, *, generator: Any = None) -> Any:
    """Fills with numbers of density lambd exp(-lambd x), x > 0."""
    rate, engine = float(lambd), engine_of(generator)
    kind_of("exponential_", {}, tensor.dtype)
    if not rate > 0.0:
        raise RuntimeError(f"exponential_: expected lambd > 0, got {rate:g}")
    return _write(tensor, lambda out: engine.exponential(out, rate))


def bernoulli_(tensor: Any, p: Any = 0.5, *, generator: Any = None) -> Any:
    """Fills with 1 with probability `p`, else 0; a Tensor `p` broadcasts to the shape."""
    if modes.recorder is not None and isinstance(p, Traced):
        modes.recorder.refuse("draws with probabilities that are a tensor")
    return _write(tensor, lambda out: coins(out, p, generator))


def random_(tensor: Any, *bounds: int | None, to: int | None = None, generator: Any = None) -> Any:
    """Fills with integers: `random_(to)` from 0, `random_(low, to)` from `low`, each to `to` - 1.

    `random_()` and `random_(low, None)` go up to the greatest integer of the dtype, for a floating
    one to 2**24 (float32), 2**53 (float64) or 2**11 (float16).
    """
    engine, given = engine_of(generator), (*bounds, to) if to is not None else bounds
    if not given:
        return _write(tensor, engine.random)
    low, high = (0, *given) if len(given) == 1 else given
    if high is None:
        high = mersenne.last_integer(tensor.dtype.numpy) + 1
    limits = bounds_of("random_", (low, high), None, None)
    return _write(tensor, lambda out: integers("random_", out, limits, generator))


def bernoulli(input: Any, p: float | None = None, *, generator: Any = None) -> Any:
    """1 with probability `input`, else 0, in its shape and dtype; `p` gives another probability."""
    out = HOST.empty(input.shape, input.dtype.numpy)
    return _like(input, coins(out, input if p is None else p, generator))


def multinomial(
    input: Any,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Any = None,
) -> Any:
    """`num_samples` indices drawn in proportion to the weights `input`, (n) or (rows, n); int64."""
    weights, count = on_host(input), input.shape[-1] if input.shape else 0
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
    return _like(input, engine_of(generator).multinomial(weights, num_samples, replacement))


# What these and the functions of nanotorch.random share.


def engine_of(generator: Any) -> mersenne.MersenneTwister:
    """The stream of a Generator; the default one for None."""
    engine = default_engine if generator is None else getattr(generator, "_engine", None)
    if not isinstance(engine, mersenne.MersenneTwister):
        raise TypeError(f"generator: expected a Generator or None, got {type(generator).__name__}")
    return engine


def on_host(tensor: Any) -> Array:
    """The array of a tensor, on the CPU."""
    return backend.to_device(tensor._array, backend.CPU)


def _write(tensor: Any, fill: Callable[[Array], Array]) -> Any:
    """Draws into `tensor`'s memory, or beside it where autograd or another device takes part."""
    tensor._check_inplace()
    array = tensor._array
    if modes.recorder is not None:
        modes.recorder.drew(tensor, fill)
    if tensor.device.type == "cpu" and not (tensor.requires_grad and is_grad_enabled()):
        fill(array)
        tensor._bump()
        return tensor
    tensor.copy_(_like(tensor, fill(mersenne.empty_like(array, array.dtype))))
    return tensor


def _like(tensor: Any, drawn: Array) -> Any:
    """A new tensor around drawn values, on the device of `tensor`."""
    return tensor._wrap(backend.to_device(drawn, tensor.device))


def kind_of(
    name: str, options: Options, default: DType | None = None, floating: bool = True
) -> Any:
    """The NumPy dtype that `options` ask for, else `default`, after a check of the keywords."""
    if unknown := options.keys() - Options.__optional_keys__:
        raise TypeError(f"{name}: unknown keyword {', '.join(sorted(unknown))}")
    kind = options.get("dtype") or default or backend.get_default_dtype()
    if floating and not kind.is_floating_point:
        raise NotImplementedError(f"{name}: expected a floating point dtype, got {kind}")
    return kind.numpy


def check_deviation(name: str, std: float) -> None:
    """RuntimeError unless std >= 0."""
    if not std >= 0.0:
        raise RuntimeError(f"{name}: expected std of 0 or more, got {std:g}")


def coins(out: Array, p: Any, generator: Any) -> Array:
    """Fills `out` with 1 with probability `p`, a number or a tensor, else with 0."""
    chances: Any = p
    if isinstance(p, Traced):
        kind_of("bernoulli", {}, chances.dtype)
    probability = on_host(chances) if isinstance(p, Traced) else HOST.float64(p)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise RuntimeError(f"bernoulli: expected a probability from 0 to 1, got {p}")
    return engine_of(generator).bernoulli(out, probability)


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


def integers(name: str, out: Array, limits: tuple[int, int], generator: Any) -> Array:
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
    return engine_of(generator).integers(out, low, high)
