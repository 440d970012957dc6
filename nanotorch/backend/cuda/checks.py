"""Indices out of range on a CUDA device: an error as on the CPU, raised when the host next waits.

A kernel cannot raise. One that meets an index outside of its tensor never follows it; it notes the
first one in its device's word of memory, and goes on. Whenever the host waits for the device anyway
(it reads a value, or synchronizes), a copy of the word travels along, and IndexError tells what it
holds. So no step waits for its checks, and only reads after a checking kernel copy the word.

How a kernel takes part (`checks.cuh` has the device functions, as `indexing.cu` uses them):

    #include "checks.cuh"
    place = place_of(index, size, wraps);              // -1 if it lies outside
    if (place < 0) flag(word, op, index, size);        // and compute as if it were another place

with `long long* word, int op` among its parameters, which the launch gives as `*arguments(xp, op)`.
The word lies at one address for good: a captured graph goes on noting there. `prepare` has it made
before a capture, and `mark` is to be called at each launch of a graph with checks in it.
"""

from __future__ import annotations

from typing import Any

import numpy

from nanotorch.backend.errors import CHECKED, out_of_range

_NUMBERS = {op: numpy.int32(number) for number, op in enumerate(CHECKED, 1)}
_UNCHECKED = numpy.int32(0)

_words: dict[tuple[Any, int], Any] = {}  # by array module and device: the word on the device
_copies: dict[tuple[Any, int], Any] = {}  # and pinned memory of the host for a copy of it
_marked: set[tuple[Any, int, int]] = set()  # modules, devices and streams with unread checks


def prepare(xp: Any) -> Any:
    """The word of the current device, made at the first call."""
    key = xp, xp.cuda.get_device_id()
    if key not in _words:
        _words[key] = xp.zeros(3, numpy.int64)
        memory = xp.cuda.alloc_pinned_memory(24)
        _copies[key] = numpy.frombuffer(memory, numpy.int64, 3)
    return _words[key]


def mark(xp: Any) -> None:
    """Says that a kernel with checks runs on the current stream of the current device."""
    cuda = xp.cuda
    _marked.add((xp, cuda.get_device_id(), cuda.get_current_stream().ptr))


def take_mark(xp: Any) -> bool:
    """Whether the current stream has unread checks; it is taken to have none from now on."""
    cuda = xp.cuda
    key = xp, cuda.get_device_id(), cuda.get_current_stream().ptr
    found = key in _marked
    _marked.discard(key)
    return found


def arguments(xp: Any, op: str | None) -> tuple[Any, Any]:
    """The two arguments of a kernel that is about to check for `op`; None: it need not note."""
    if op is None:
        return prepare(xp), _UNCHECKED
    mark(xp)
    return prepare(xp), _NUMBERS[op]


def to_host(xp: Any, array: Any) -> Any:
    """The array as NumPy's; IndexError if an index was out of range in what led to it."""
    if not _marked:
        return xp.asnumpy(array)
    number = int(array.device.id)
    with xp.cuda.Device(number):
        if not any(module is xp and device == number for module, device, _ in tuple(_marked)):
            return xp.asnumpy(array)
        word, copy = _words[xp, number], _copies[xp, number]
        word.get(out=copy, blocking=False)
        values = xp.asnumpy(array)  # which waits for the copy before it as well
        _marked.discard((xp, number, xp.cuda.get_current_stream().ptr))
        _raise(word, copy, number)
    return values


def after_waiting(xp: Any, number: int) -> None:
    """IndexError if an index was out of range in what device `number` has done; it is done."""
    found = {mark for mark in tuple(_marked) if mark[0] is xp and mark[1] == number}
    if found:
        _marked.difference_update(found)
        with xp.cuda.Device(number):
            _raise(_words[xp, number], _words[xp, number].get(), number)


def forget() -> None:
    """Starts anew, for another module in CuPy's place."""
    _words.clear()
    _copies.clear()
    _marked.clear()


def _raise(word: Any, copy: Any, number: int) -> None:
    op, index, size = map(int, copy)
    if op:
        word.fill(0)
        late = (
            f" (found on cuda:{number} after the fact: the host learns of it only when it waits "
            "for the device)"
        )
        raise out_of_range(list(CHECKED)[op - 1], index, size, late)
