"""What a function of the package takes beside its op: PyTorch's names for operands, and `out=`, a
tensor of the caller's into which the result is written."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nanotorch.backend.errors import check_shape
from nanotorch.backend.loading import loaded

# PyTorch's names for operands, and what they are called in ops; the first that an op has is meant.
OPERANDS = {
    "input": ("x", "a", "start", "values"),
    "other": ("b", "other"),
    "mat1": ("a",), "mat2": ("b",), "batch1": ("a",), "batch2": ("b",),
    "tensor": ("b", "x"), "tensor1": ("a",), "tensor2": ("b",),
    "vec": ("b",), "vec2": ("b",), "x1": ("a",), "x2": ("b",),
    "axis0": ("dim0",), "axis1": ("dim1",), "size": ("shape",),
    "split_size_or_sections": ("split_size",), "sorted_sequence": ("sequence",),
}  # fmt: skip


def named(title: str, *fields: str) -> Any:
    """The type of the results of an op that has several, which prints as PyTorch's."""
    fields_of = collections.namedtuple(title, fields)  # type: ignore[misc]
    return type(title, (fields_of,), {"__slots__": (), "__repr__": shown})


def shown(results: Any) -> str:
    """Named results as PyTorch prints them."""
    lines = [f"\n{name}={getattr(results, name)!r}" for name in results._fields]
    return f"torch.return_types.{type(results).__name__}({','.join(lines)})"


def write(y: Any, out: Any) -> Any:
    """Writes y into `out`, which takes its shape; RuntimeError where a gradient is wanted or the
    dtype of `out` is of a lower category."""
    if isinstance(out, tuple | list):
        results = [write(part, place) for part, place in zip(y, out, strict=True)]
        return type(y)(*results) if hasattr(y, "_fields") else tuple(results)
    if y.requires_grad or out.requires_grad:
        raise RuntimeError(
            "functions with out=... arguments don't support automatic differentiation, but one of "
            "the arguments requires grad."
        )
    check_category(y, out)
    if out.shape == y.shape:
        return out.copy_(y)
    if out.numel():
        warnings.warn(
            f"an output of shape {tuple(out.shape)} was resized to that of the result, "
            f"{tuple(y.shape)}, which is deprecated; bring a tensor of that shape, or an empty one",
            stacklevel=3,
        )
    out.data = y.to(out.dtype)
    return out


def check_category(y: Any, out: Any) -> None:
    """RuntimeError where `out` is of a lower category than y: bool, integer, floating, complex."""
    if y.dtype.category > out.dtype.category:
        raise RuntimeError(
            f"result type {y.dtype.title} can't be cast to the desired output type "
            f"{out.dtype.title}"
        )


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The method that writes function(x, …) over x."""

    def method(x: Any, *args: Any, **options: Any) -> Any:
        # A copy, since the rules of the function may need x as it was.
        wanted = any(getattr(operand, "requires_grad", False) for operand in (x, *args))
        y = function(x.clone() if wanted else x, *args, **options)
        check_category(y, x)
        check_shape(y, x)
        return x.copy_(y)

    named_after(function, method)
    method.__name__, method.__doc__ = f"{function.__name__}_", f"{function.__doc__} In place."
    return method


def public(function: Callable[..., Any], writes: bool) -> Callable[..., Any]:
    """The op as a function of the package: with PyTorch's names and, where it `writes`, `out`."""

    def names() -> tuple[str, ...]:
        code = loaded(function).__code__
        return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    def one(input: Any, *, out: Any = None) -> Any:
        return function(input) if out is None else write(function(input), out)

    def two(input: Any, other: Any, *, out: Any = None) -> Any:
        return function(input, other) if out is None else write(function(input, other), out)

    def several(*args: Any, out: Any = None, **options: Any) -> Any:
        if out is None and not options:  # nothing to be spelled otherwise
            return function(*args)
        if out is not None and not writes:
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument 'out'")
        try:
            y = function(*args, **options)
        except TypeError:
            known = names()
            spellings = {spelled(name, known, options): value for name, value in options.items()}
            if spellings.keys() == options.keys():
                raise
            y = function(*args, **spellings)
        return y if out is None else write(y, out)

    forms: dict[tuple[str, ...], Callable[..., Any]] = {("x",): one, ("a", "b"): two}
    of_primitive = function.__module__ == "nanotorch.primitive"  # made by its `function`
    return named_after(function, forms.get(names(), several) if of_primitive else several)


class Functions(Mapping[str, Callable[..., Any]]):
    """The functions of the package by name, each made from its op when it is first asked for."""

    def __init__(self, ops: dict[str, Callable[..., Any]], without_out: set[str]) -> None:
        self._ops, self._without_out = ops, without_out
        self._functions: dict[str, Callable[..., Any]] = {}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._functions:
            function = public(self._ops[name], writes=name not in self._without_out)
            self._functions.setdefault(name, function)
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ops)

    def __len__(self) -> int:
        return len(self._ops)


def named_after(function: Callable[..., Any], wrapper: Any) -> Callable[..., Any]:
    """The wrapper with the name, the text and the signature of the function, as `functools.wraps`
    gives them in five times the time; there are hundreds of them in an import."""
    wrapper.__name__, wrapper.__qualname__ = function.__name__, function.__qualname__
    wrapper.__module__, wrapper.__doc__ = function.__module__, function.__doc__
    wrapper.__wrapped__ = function
    wrapper.__dict__.update(function.__dict__)
    return wrapper  # type: ignore[no-any-return]


def spelled(name: str, names: tuple[str, ...], options: dict[str, Any]) -> str:
    """What the op calls an operand that PyTorch calls `name`."""
    candidates = () if name in names else OPERANDS.get(name, ())
    return next((c for c in candidates if c in names and c not in options), name)
