"""What a kernel asks of NumPy, call by call, so that a compiled plan can make the calls itself.

`calls_of` runs a kernel once on stand-ins of its operands, which note every call with the arrays it
reads and the one it writes. A plan then makes these calls directly: temporaries of kernels get
memory of the plan like all other values, and neither the kernel's Python code nor an allocation is
left in a replay. A stand-in knows only what can be noted; a kernel that asks for anything else (its
values, functions that cannot write to `out`) is refused, and called as a whole.

Where a kernel branches on a value, `Choice` notes the branch it took: a replay that finds another
value calls the kernel as a whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy
from numpy.lib.mixins import NDArrayOperatorsMixin

from nanotorch.backend import column_sums, dot
from nanotorch.backend.devices import RAW, Array, constant


class Call(NamedTuple):
    """function(*arguments, **keywords, out=out); copyto takes `out` first."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    out: Array
    kernel: Any = None  # that makes the call

    @property
    def elementwise(self) -> bool:
        """Whether each element of `out` is computed from the operands' elements at its place."""
        return isinstance(self.function, numpy.ufunc) and self.function.signature is None

    @property
    def arrays(self) -> list[Array]:
        """The arrays that it reads."""
        return arrays_in((*self.arguments, *self.keywords.values()))

    @property
    def name(self) -> str:
        """What NumPy calls the function."""
        name: str = self.function.__name__
        owner = getattr(self.function, "__self__", None)
        return f"{owner.__name__}.{name}" if isinstance(owner, numpy.ufunc) else name


class View(NamedTuple):
    """`out` shows memory of `base`: what its method, or its attribute, gave."""

    base: Array
    method: str
    arguments: tuple[Any, ...] | None  # None: an attribute
    out: Array

    def of(self, base: Array) -> Array:
        """The same view of another array of that form."""
        method = getattr(base, self.method)
        return method if self.arguments is None else method(*self.arguments)


class Choice(NamedTuple):
    """The kernel went on as it did because `value` was true, or was not."""

    value: Array
    outcome: bool
    kernel: Any = None


class Joint(NamedTuple):
    """A call in place of several kernels of a step, the first of which is `kernel`; by the names of
    its parameters, what it reads, and what it writes."""

    call: Callable[..., Any]
    kernel: Any
    title: str
    operands: dict[str, Array]
    outputs: dict[str, Array]
    numbers: dict[str, Any]


class Done(NamedTuple):
    """Marks where a lowered kernel ends; a branch before it may still call the whole kernel."""

    kernel: Any


Note = Call | View | Choice


class NotNoted(Exception):
    """A stand-in was asked for something that cannot be noted."""


def calls_of(
    kernel: Callable[..., Any], operands: tuple[Any, ...], attributes: dict[str, Any], out: Array
) -> list[Note] | None:
    """The calls with which the kernel fills `out` from its operands; None where it was refused,
    or does something else for stand-ins than for arrays.

    What `out` holds is left alone.
    """
    notes = Notes()
    result = StandIn(notes, out, numpy.empty_like(out))
    given = [StandIn(notes, a, a) if type(a) is numpy.ndarray else a for a in operands]
    try:
        y = kernel(numpy, *given, **attributes, out=result)
        expected = numpy.empty_like(out)
        kernel(numpy, *operands, **attributes, out=expected)
    except Exception:  # whatever it was: the kernel as a whole is right
        return None
    if y is not result or expected.tobytes() != result.values.tobytes():
        return None
    return notes.steps


def arrays_in(values: Any) -> list[Array]:
    """The arrays in nested tuples."""
    arrays: list[Array] = []
    for value in values:
        if type(value) is numpy.ndarray:
            arrays.append(value)
        elif isinstance(value, tuple):
            arrays += arrays_in(value)
    return arrays


class Notes:
    """The calls of one kernel, in order."""

    def __init__(self) -> None:
        self.steps: list[Note] = []

    def call(
        self, function: Any, arguments: Any, keywords: dict[str, Any], made: StandIn | Array
    ) -> StandIn:
        """Notes a call that has made a new array, or written to a stand-in."""
        if not isinstance(made, StandIn):
            array = numpy.asarray(made)
            made = StandIn(self, array, array)
        like = made.array if made.array.dtype.kind == "f" else None
        plain = tuple(self.plain(a, like) for a in arguments)
        named = {key: self.plain(a, None) for key, a in keywords.items()}
        self.steps.append(Call(function, plain, named, made.array))
        return made

    def plain(self, value: Any, like: Array | None) -> Any:
        """The array that a stand-in stands for; numbers beside floats become arrays, which NumPy
        takes faster."""
        if isinstance(value, StandIn):
            return value.array
        if isinstance(value, list | tuple):
            return tuple(self.plain(item, like) for item in value)
        if isinstance(value, numpy.ndarray):
            if value.flags.writeable:  # what is not is a constant of ours
                raise NotNoted("an array from nowhere")
        elif like is not None and type(value) in (int, float):
            return constant(like, value)
        return value


@functools.cache
def reduction(ufunc: numpy.ufunc) -> Callable[..., Any]:
    """ufunc.reduce, the same object each time."""
    return ufunc.reduce


def viewed(method: str) -> Any:
    """The method of a stand-in that shows its memory in another form."""
    return lambda x, *arguments: x._view(method, arguments)


def reduced(ufunc: numpy.ufunc) -> Any:
    """The method of a stand-in that reduces it by a function of two numbers."""
    return lambda x, axis=None, **options: ufunc.reduce(x, axis=axis, **options)


# What a stand-in has from the array that it stands for.
FORM = ("shape", "ndim", "size", "dtype", "strides", "itemsize", "nbytes", "flags")


class StandIn(NDArrayOperatorsMixin):
    """Stands for `array` in a kernel and notes what is asked of it; computes with `values`."""

    __slots__ = ("array", "notes", "values")

    def __init__(self, notes: Notes, array: Array, values: Array) -> None:
        self.notes, self.array, self.values = notes, array, values

    def __getattr__(self, name: str) -> Any:
        if name not in FORM:
            raise AttributeError(name)
        return getattr(self.values, name)

    def __len__(self) -> int:
        return len(self.values)

    def __bool__(self) -> bool:
        outcome = bool(self.values)
        self.notes.steps.append(Choice(self.array, outcome))
        return outcome

    # --- views ------------------------------------------------------------------------------------

    def _view(self, method: str, arguments: tuple[Any, ...] | None) -> StandIn:
        form = View(self.array, method, arguments, self.array)
        shown, values = form.of(self.array), form.of(self.values)
        if shown.size and not numpy.may_share_memory(shown, self.array):
            raise NotNoted("a copy")
        self.notes.steps.append(form._replace(out=shown))
        return StandIn(self.notes, shown, values)

    T = property(lambda self: self._view("T", None))

    reshape, transpose, swapaxes, view = map(viewed, ("reshape", "transpose", "swapaxes", "view"))

    def __getitem__(self, key: Any) -> StandIn:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(p, slice | int) or p is None or p is Ellipsis for p in parts):
            raise NotNoted("elements by number")
        return self._view("__getitem__", (key,))

    # --- writing ----------------------------------------------------------------------------------

    def __setitem__(self, key: Any, value: Any) -> None:
        copied(self.notes, self if key is Ellipsis else self[key], value, casting="unsafe")

    def fill(self, value: Any) -> None:
        copied(self.notes, self, value, casting="unsafe")

    # --- computing --------------------------------------------------------------------------------

    def astype(self, dtype: Any, copy: bool = True) -> StandIn:
        if not copy and self.dtype == dtype:
            return self
        values = numpy.empty_like(self.values, dtype)
        return copied(self.notes, StandIn(self.notes, values, values), self, casting="unsafe")

    def copy(self) -> StandIn:
        return self.astype(self.dtype)

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **keywords: Any
    ) -> StandIn | None:
        if method == "at" and ufunc.at in OUT_FIRST:
            filled(ufunc.at, self.notes, *inputs)
            return None
        if method not in ("__call__", "reduce") or any(
            isinstance(value, StandIn) for value in keywords.values()
        ):
            raise NotNoted(method)
        function = ufunc if method == "__call__" else reduction(ufunc)
        unset = {"keepdims": False}
        given = {k: v for k, v in keywords.items() if k == "axis" or v is not unset.get(k)}
        return computed(self.notes, function, inputs, given, out[0] if out else None)

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        if function in WITH_OUT:
            out = keywords.pop("out", None)
            return computed(self.notes, function, args, keywords, out)
        special = SPECIAL.get(function)
        if special is None:
            raise NotNoted(function.__name__)
        return special(self.notes, *args, **keywords)

    sum, prod, max, min = map(reduced, (numpy.add, numpy.multiply, numpy.maximum, numpy.minimum))

    def take(self, places: Any, mode: str) -> StandIn:
        return computed(self.notes, numpy.take, (self, places), {"mode": mode}, None)

    def dot(self, other: Any, out: Any = None) -> StandIn:
        return computed(self.notes, numpy.dot, (self, other), {}, out)

    def __array__(self, *args: Any, **keywords: Any) -> NoReturn:
        raise NotNoted("its values")

    __iter__ = __contains__ = __float__ = __int__ = __index__ = __complex__ = __array__


RAW[StandIn] = numpy  # kernels may be written with other ops, which take stand-ins as arrays


def computed(
    notes: Notes, function: Any, inputs: tuple[Any, ...], keywords: dict[str, Any], out: Any
) -> StandIn:
    """function(*inputs), noted."""
    values = values_of(inputs)
    if out is not None:
        if not isinstance(out, StandIn):
            raise NotNoted("memory from nowhere")
        function(*values, **keywords, out=out.values)
        return notes.call(function, inputs, keywords, out)
    result = function(*values, **keywords)
    if isinstance(result, tuple):
        raise NotNoted("several results")
    return notes.call(function, inputs, keywords, result)


def values_of(inputs: Any) -> Any:
    """What to compute with in place of stand-ins, in nested sequences."""
    return [
        x.values if isinstance(x, StandIn) else values_of(x) if isinstance(x, list | tuple) else x
        for x in inputs
    ]


def filled(write: Any, notes: Notes, target: Any, *sources: Any, **options: Any) -> StandIn:
    """write(target, *sources), noted as a call that writes its first argument."""
    if not isinstance(target, StandIn):
        raise NotNoted("memory from nowhere")
    write(*values_of((target, *sources)), **dict(zip(options, values_of(options.values()))))
    return notes.call(write, sources, options, target)


def copied(notes: Notes, target: Any, source: Any, **options: Any) -> StandIn:
    """numpy.copyto(target, source), noted."""
    if isinstance(source, StandIn) and source.dtype == getattr(target, "dtype", None):
        options.pop("casting", None)
    return filled(numpy.copyto, notes, target, source, **options)


def chosen(notes: Notes, condition: Any, a: Any, b: Any) -> StandIn:
    """numpy.where, as copies of b, and of a where the condition holds."""
    result = numpy.where(*values_of((condition, a, b)))
    made = copied(notes, StandIn(notes, result, result), b, casting="unsafe")
    return copied(notes, made, a, where=condition, casting="unsafe")


# Functions that write to `out` and take no other memory, and those noted in ways of their own.
WITH_OUT = {
    numpy.take,
    numpy.dot,
    dot,
    column_sums,
    numpy.mean,
    numpy.concatenate,
    numpy.stack,
    numpy.cumsum,
    numpy.einsum,
}
SPECIAL: dict[Any, Callable[..., Any]] = {
    numpy.copyto: copied,
    numpy.where: chosen,
    numpy.put: functools.partial(filled, numpy.put),
}
# Those that take what they write as their first argument.
OUT_FIRST = (numpy.copyto, numpy.put, numpy.subtract.at)
