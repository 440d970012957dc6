"""Reads a pickle without running what it asks for: an interpreter of the few operations it needs.

Why a file cannot make it do anything else:

- No name is ever imported. A GLOBAL is looked up in a table (`tensors.TABLE`, and what the user
  has added), and a name that is not there ends the reading.
- REDUCE and NEWOBJ, the operations that call, call functions of the table alone, known by their
  identity: no value that a file can build is one of them. Each checks the kinds of its arguments.
- BUILD sets attributes of an OrderedDict alone, and none that its class has. It calls no method
  of the file's choice, and neither do APPEND and SETITEM, which take lists and dicts alone.
- Memory is what is read from the file, and the objects that its operations make one at a time. The
  memo is a dict, so a huge index takes no more than a small one. What a call copies is counted, so
  that calls which copy one long value over and over end the reading; so do keys that would take
  exponential time to hash.
- There is no recursion: a deep nest takes as much memory as a flat list.
"""

from __future__ import annotations

import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from nanotorch.serialization.archive import refusal
from nanotorch.serialization.tensors import (
    CALLS,
    TABLE,
    Allowance,
    Storages,
    checked_key,
    set_attributes,
)

# The operations whose argument is the value, and those that mean a value.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {"TUPLE": tuple, "LIST": list}


class Unpickler:
    """`load(content)` gives the object of a pickle.

    `added`: values by the names that the user trusts beside those of the table.

    pickle.UnpicklingError in one line for a pickle that asks for more, or is damaged.
    """

    def __init__(self, name: str, storages: Storages, added: Mapping[str, Any]) -> None:
        self._name, self._storages, self._added = name, storages, added
        self._trusted = tuple(added.values())
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def load(self, content: bytes) -> Any:
        """The object that the pickle describes."""
        self._copies = Allowance(self._name, 2 * len(content) + 2**12)
        operations = pickletools.genops(content)
        while True:
            try:
                operation, argument, _ = next(operations)
                if operation.name == "STOP":
                    return self._stack.pop()
                if operation.name != "BINPERSID":
                    self._run(operation.name, argument)
                    continue
                identity = self._stack.pop()
            except pickle.UnpicklingError:
                raise
            except Exception as error:  # of many kinds, for so many ways to be damaged
                reason = ascii(str(error))[1:-1][:200] or type(error).__name__
                raise refusal(f"{self._name} has a damaged pickle: {reason}") from error
            # Outside: what a function given as map_location raises is the user's to see.
            self._stack.append(self._storages(identity))

    def _run(self, operation: str, argument: Any) -> None:
        """One operation."""
        stack = self._stack
        if operation in _VALUES:
            stack.append(argument)
        elif operation in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif operation in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif operation == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif operation == "MARK":
            self._below.append(stack)
            self._stack = []
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation in _EMPTY:
            stack.append(_EMPTY[operation]())
        elif operation in _TUPLES:
            count = _TUPLES[operation]
            stack[-count:] = [tuple(_last(stack, count))]
        elif operation in _FROM_MARK:
            self._from_mark(_FROM_MARK[operation])
        elif operation in ("GLOBAL", "STACK_GLOBAL"):
            parts = argument.split(" ", 1) if argument else [stack.pop(), stack.pop()][::-1]
            stack.append(self._named(".".join(parts)))
        elif operation in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = self._called(stack[-1], arguments, operation == "NEWOBJ")
        elif operation == "BUILD":
            state = stack.pop()
            self._build(stack[-1], state)
        elif operation in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            if operation.endswith("S"):
                items = self._from_mark(None)
            else:
                items = _last(stack, 1 if operation == "APPEND" else 2)
                del stack[-len(items) :]
            self._extend(self._stack[-1], items, operation)
        elif operation == "FROZENSET":
            self._from_mark(lambda items: frozenset(map(checked_key, items)))
        elif operation == "DICT":
            self._from_mark(lambda items: self._extend({}, items, operation))
        elif operation == "POP":
            stack.pop() if stack else self._from_mark(None)
        elif operation == "POP_MARK":
            self._from_mark(None)
        elif operation not in ("PROTO", "FRAME"):
            raise refusal(f"{self._name} asks for the operation {operation}, which is not allowed")

    def _from_mark(self, make: Callable[[list[Any]], Any] | None) -> list[Any]:
        """The values since the last mark; in their place, what `make` makes of them."""
        items, self._stack = self._stack, self._below.pop()
        if make is not None:
            self._stack.append(make(items))
        return items

    def _extend(self, owner: Any, items: list[Any], operation: str) -> Any:
        if operation.startswith("APPEND") and type(owner) is list:
            owner.extend(items)
        elif operation == "ADDITEMS" and type(owner) is set:
            owner.update(map(checked_key, items))
        elif operation in ("DICT", "SETITEM", "SETITEMS") and type(owner) in _DICTS:
            for key, value in zip(items[::2], items[1::2], strict=True):
                owner[checked_key(key)] = value
        else:
            raise refusal(
                f"{self._name} asks for {operation} of a {type(owner).__name__}, which is not "
                "allowed"
            )
        return owner

    def _named(self, name: str) -> Any:
        for table in (TABLE, self._added):
            if name in table:
                return table[name]
        raise refusal(
            f"{self._name} asks for {ascii(name)[1:-1][:120]}, which is none of the types that "
            "weights and plain data need; if you trust the file, weights_only=False lets it run "
            "any code, and serialization.add_safe_globals allows one class or function"
        )

    def _called(self, function: Any, arguments: Any, is_class: bool) -> Any:
        if not isinstance(arguments, tuple):
            raise TypeError("a call without a tuple of arguments")
        if any(function is trusted for trusted in self._trusted):
            return function.__new__(function, *arguments) if is_class else function(*arguments)
        make = CALLS.get(function) if callable(function) else None
        if make is None:
            raise refusal(f"{self._name} asks to call a {type(function).__name__}")
        for argument in arguments:
            if isinstance(argument, _SIZED):
                self._copies.spend(len(argument))
        return make(*arguments)

    def _build(self, owner: Any, state: Any) -> None:
        if type(owner) is OrderedDict:
            self._copies.spend(len(state))
            set_attributes(owner, state)
        elif isinstance(owner, numpy.dtype):
            if state[1] not in ("<", "|", "="):
                raise ValueError(f"a number of NumPy with the byte order {ascii(state[1])[:20]}")
        elif any(type(owner) is trusted for trusted in self._trusted):
            if hasattr(owner, "__setstate__"):
                owner.__setstate__(state)
            else:
                owner.__dict__.update(state)
        else:
            raise refusal(f"{self._name} asks to set the state of a {type(owner).__name__}")


_DICTS = (dict, OrderedDict, Counter)
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


def _last(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise ValueError("an operation without its operands")
    return stack[-count:]
