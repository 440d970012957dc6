"""No warning and no error of NumPy's arithmetic: what overflows is inf and 0 / 0 is NaN, as in
PyTorch.

A filter holds back the warnings that come from this package, before whatever filters a program has
put there since. A program may ask for errors by `numpy.seterr(all="raise")`: that is for its own
arithmetic. What only computes is then done once more, without (`silently`); what writes asks before
(`silent`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy

P = ParamSpec("P")
R = TypeVar("R")

# What NumPy's arithmetic raises where a program asks for it.
NUMPY_ERRORS = (FloatingPointError, RuntimeWarning)


def hold_back() -> None:
    """Puts the filter of this package before all others, as `foremost`."""
    global foremost
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"nanotorch\.")
    foremost = warnings.filters[0]


foremost: Any
hold_back()
# Where NumPy keeps a program's settings; without it they are set aside at each call.
_settings: Any = getattr(getattr(numpy, "_core", None), "umath", None)
_settings = getattr(_settings, "_extobj_contextvar", None)
_harmless: Any = None if _settings is None else _settings.get()  # the last that were asked about


def silently(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """function(…), whose arithmetic raises and warns of nothing."""
    with numpy.errstate(all="ignore"):
        return function(*args, **kwargs)


def only_warns() -> bool:
    """Whether NumPy's arithmetic raises, prints and calls nothing, as a program has set it now."""
    global _harmless
    if _settings is None or not {"ignore", "warn"}.issuperset(numpy.geterr().values()):
        return False
    _harmless = _settings.get()
    return True


def is_silent() -> bool:
    """Whether NumPy's arithmetic is known to raise and warn of nothing, as nothing has changed."""
    return (
        warnings.filters[0] is foremost and _settings is not None and _settings.get() is _harmless
    )


def silent(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose arithmetic raises and warns of nothing."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if warnings.filters[0] is not foremost:
            hold_back()
        if (_settings is None or _settings.get() is not _harmless) and not only_warns():
            return silently(function, *args, **kwargs)
        return function(*args, **kwargs)

    return call
