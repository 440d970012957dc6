"""`out=`: the result of a function written into a tensor that the caller brings."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any


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
    if y.dtype.category > out.dtype.category:
        raise RuntimeError(
            f"result type {y.dtype.title} can't be cast to the desired output type "
            f"{out.dtype.title}"
        )
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


def with_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with PyTorch's keyword `out`, at the cost of a call where that is None."""
    code = function.__code__
    plain = not (
        code.co_kwonlyargcount or function.__defaults__ or code.co_flags & inspect.CO_VARARGS
    )

    def one(x: Any, *, out: Any = None) -> Any:
        return function(x) if out is None else write(function(x), out)

    def two(a: Any, b: Any, *, out: Any = None) -> Any:
        return function(a, b) if out is None else write(function(a, b), out)

    def several(*args: Any, out: Any = None, **options: Any) -> Any:
        y = function(*args, **options)
        return y if out is None else write(y, out)

    forms: dict[tuple[str, ...], Callable[..., Any]] = {("x",): one, ("a", "b"): two}
    names = code.co_varnames[: code.co_argcount]
    return functools.wraps(function)(forms.get(names, several) if plain else several)
