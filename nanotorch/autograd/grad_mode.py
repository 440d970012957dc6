"""The modes that say what is recorded: per thread, as context managers and as decorators.

`no_grad`, `enable_grad`, `set_grad_enabled` and `inference_mode` mean what they mean in PyTorch
(https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from nanotorch.autograd.rings import (
    in_precision as in_precision,
    live as live,
    modes as modes,
)

Function = TypeVar("Function", bound=Callable[..., Any])


class Mode:
    """Sets one of the modes for a `with` block or for the calls of a decorated function."""

    field = "grad"

    def __init__(self, value: Any) -> None:
        self.value = value
        self._outer: list[Any] = []

    def __enter__(self) -> None:
        self._outer.append(getattr(modes, self.field))
        setattr(modes, self.field, self.value)

    def __exit__(self, *error: object) -> None:
        setattr(modes, self.field, self._outer.pop())

    def __call__(self, function: Function) -> Function:
        @functools.wraps(function)
        def in_mode(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        @functools.wraps(function)
        def resumed_in_mode(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            proceed: Callable[[], Any] = functools.partial(next, generator)
            while True:  # the mode holds while the generator runs, and not while it waits
                try:
                    with self._again():
                        value = proceed()
                except StopIteration as end:
                    return end.value
                try:
                    proceed = functools.partial(generator.send, (yield value))
                except GeneratorExit:
                    with self._again():
                        generator.close()
                    raise
                except BaseException as error:
                    proceed = functools.partial(generator.throw, error)

        if inspect.isgeneratorfunction(function):
            return resumed_in_mode  # type: ignore[return-value]
        return in_mode  # type: ignore[return-value]

    def _again(self) -> Mode:
        """A block like this one."""
        block = Mode.__new__(type(self))
        Mode.__init__(block, self.value)
        return block


def _decorating(make: type[Mode], function: Any) -> Any:
    """Lets `@no_grad` stand without its parentheses."""
    instance: Any = object.__new__(make)
    if callable(function):
        instance.__init__()
        return instance(function)
    return instance


class no_grad(Mode):  # noqa: N801 - PyTorch's name
    """Nothing is recorded inside: results do not require grad."""

    def __new__(cls, function: Any = None) -> Any:
        return _decorating(cls, function)

    def __init__(self, function: Any = None) -> None:
        super().__init__(False)


class enable_grad(Mode):  # noqa: N801 - PyTorch's name
    """Operations are recorded inside, even within `no_grad`."""

    def __new__(cls, function: Any = None) -> Any:
        return _decorating(cls, function)

    def __init__(self, function: Any = None) -> None:
        super().__init__(True)


class record(enable_grad):  # noqa: N801 - MXNet's name
    """What is computed inside is recorded: MXNet's name for `enable_grad`.

    Recording is on unless `pause` or `no_grad` turned it off: elsewhere this changes nothing.
    """


class pause(no_grad):  # noqa: N801 - MXNet's name
    """What is computed inside is not recorded: MXNet's name for `no_grad`."""


class set_grad_enabled(Mode):  # noqa: N801 - PyTorch's name
    """Turns recording on or off: at once when called, or for a block or a decorated function."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._outer.append(modes.grad)
        modes.grad = bool(mode)

    def __enter__(self) -> None:
        if not self._outer:
            self._outer.append(modes.grad)
        modes.grad = self.value

    def __call__(self, function: Function) -> Function:
        modes.grad = self._outer.pop()
        return super().__call__(function)


class inference_mode(Mode):  # noqa: N801 - PyTorch's name
    """`no_grad` whose results can never take part in a recorded computation later.

    With False operations are recorded inside, also within `no_grad` or an outer inference_mode.
    """

    field = "inference"

    def __new__(cls, mode: Any = True) -> Any:
        return _decorating(cls, mode)

    def __init__(self, mode: bool = True) -> None:
        self.mode = mode if isinstance(mode, bool) else True
        super().__init__(self.mode)
        self._grad = no_grad() if self.mode else enable_grad()

    def __enter__(self) -> None:
        super().__enter__()
        self._grad.__enter__()

    def __exit__(self, *error: object) -> None:
        self._grad.__exit__(*error)
        super().__exit__(*error)

    def _again(self) -> Mode:
        return inference_mode(self.value)


def is_grad_enabled() -> bool:
    """True where operations are recorded."""
    return modes.grad


def is_inference_mode_enabled() -> bool:
    """True inside `inference_mode`."""
    return modes.inference
