"""Recomputing instead of keeping: what backward needs of a part of a model is computed again.

A checkpointed part keeps only its inputs. When backward reaches it, its forward runs a second time,
with the same random numbers, and what it keeps then serves the backward. Memory falls by what the
part would have kept; time grows by its forward. Source: Chen et al., Training Deep Nets with
Sublinear Memory Cost, https://arxiv.org/abs/1604.06174; the interface is that of
torch.utils.checkpoint.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from nanotorch.amp.autocast_mode import autocast_as, open_casts
from nanotorch.autograd.grad_mode import enable_grad, is_grad_enabled
from nanotorch.autograd.graph import saved_tensors_hooks
from nanotorch.random import fork_rng
from nanotorch.sampling import mark
from nanotorch.tensor import Tensor

Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


class CheckpointError(RuntimeError):
    """The second forward kept other tensors than the first."""


class _Enough(Exception):
    """Raised when all that backward needs has been recomputed."""


class Placeholder:
    """Stands in the graph for a value that was not kept: the `index`-th of its part."""

    __slots__ = ("__weakref__", "form", "index")

    def __init__(self, index: int, value: Tensor) -> None:
        self.index = index
        self.form = (tuple(value.shape), value.dtype, value.device)


class Part:
    """One call of a checkpointed function: how to run it again, and what that gave."""

    def __init__(self, rerun: Callable[[], Any], check: bool, early_stop: bool) -> None:
        self.rerun, self.check, self.early_stop = rerun, check, early_stop
        self.placeholders: list[weakref.ref[Placeholder]] = []
        # Values go with their placeholders, that is, with the nodes of the graph that need them.
        self.values: weakref.WeakKeyDictionary[Placeholder, Tensor] = weakref.WeakKeyDictionary()

    def pack(self, value: Tensor) -> Placeholder:
        """Notes that a value is needed, and does not keep it."""
        placeholder = Placeholder(len(self.placeholders), value)
        self.placeholders.append(weakref.ref(placeholder))
        return placeholder

    def unpack(self, placeholder: Placeholder) -> Tensor:
        """The value again, after a second forward if there was none yet."""
        if placeholder not in self.values:
            self.recompute()
        return self.values[placeholder]

    def recompute(self) -> None:
        """Runs the part again and takes what it keeps."""
        count = 0

        def take(value: Tensor) -> Tensor:
            nonlocal count
            if count == len(self.placeholders):
                raise CheckpointError(
                    "checkpoint: the second forward keeps more tensors than the first, which kept "
                    f"{count}; the function must compute the same each time"
                )
            placeholder = self.placeholders[count]()
            count += 1
            if placeholder is not None:
                self.compare(placeholder, value)
                self.values[placeholder] = value.detach()
            if self.early_stop and count == len(self.placeholders):
                raise _Enough
            return value

        try:
            with saved_tensors_hooks(take, lambda value: value), enable_grad():
                self.rerun()
        except _Enough:
            pass
        if count < len(self.placeholders):
            raise CheckpointError(
                f"checkpoint: the second forward keeps {count} tensors, the first kept "
                f"{len(self.placeholders)}; the function must compute the same each time"
            )

    def compare(self, placeholder: Placeholder, value: Tensor) -> None:
        """Refuses a value of another shape, dtype or device than the first time."""
        form = (tuple(value.shape), value.dtype, value.device)
        if self.check and form != placeholder.form:
            raise CheckpointError(
                f"checkpoint: the tensor kept at position {placeholder.index} was "
                f"{placeholder.form} in the first forward and is {form} in the second; the "
                "function must compute the same each time"
            )


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = False,
    context_fn: Contexts | None = None,
    determinism_check: str = "default",
    preserve_rng_state: bool = True,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """function(*args, **kwargs), whose intermediate values are recomputed in backward.

    Works with nested checkpoints, `autograd.grad`, higher derivatives and inputs that do not
    require grad. The arguments must not be changed in place before backward. preserve_rng_state:
    draw the same random numbers the second time. determinism_check: "default" compares shapes,
    dtypes and devices of both forwards, "none" does not; a difference is a CheckpointError.
    early_stop: end the second forward as soon as all is there that backward needs. context_fn:
    returns two context managers, for the first and for the second forward. use_reentrant: only
    False, the variant that PyTorch recommends.
    """
    if use_reentrant:
        raise ValueError(
            "checkpoint: use_reentrant=True is not offered; use_reentrant=False does all that it "
            "does"
        )
    if determinism_check not in ("default", "none"):
        raise ValueError(
            f"checkpoint: determinism_check must be 'default' or 'none', got {determinism_check!r}"
        )
    first, second = (nullcontext(), nullcontext()) if context_fn is None else context_fn()
    if not is_grad_enabled():
        with first:
            return function(*args, **kwargs)
    go_back, casts = mark() if preserve_rng_state else None, open_casts()

    def rerun() -> None:
        with fork_rng(enabled=go_back is not None), autocast_as(casts), second:
            if go_back is not None:
                go_back()
            function(*args, **kwargs)

    part = Part(rerun, determinism_check == "default", early_stop)
    with saved_tensors_hooks(part.pack, part.unpack), first:
        return function(*args, **kwargs)


def checkpoint_sequential(
    functions: Any,
    segments: int,
    input: Any,
    use_reentrant: bool | None = False,
    preserve_rng_state: bool = True,
) -> Any:
    """The functions one after the other, cut into `segments` parts of which all but the last are
    checkpointed.

    functions: a Sequential, or a list of functions of one argument.
    """
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)
    if not 1 <= segments <= len(steps):
        raise ValueError(
            f"checkpoint_sequential: expected between 1 and {len(steps)} segments, one function "
            f"each at least, got {segments}"
        )
    size = len(steps) // segments
    for start in range(0, size * (segments - 1), size):
        part = functools.partial(in_turn, steps[start : start + size])
        input = checkpoint(
            part, input, use_reentrant=use_reentrant, preserve_rng_state=preserve_rng_state
        )
    return in_turn(steps[size * (segments - 1) :], input)


def in_turn(steps: Sequence[Callable[[Any], Any]], value: Any) -> Any:
    """The value after all steps."""
    for step in steps:
        value = step(value)
    return value
