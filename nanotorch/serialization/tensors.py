"""Tensors from what a file says of them: memory, its place, and how a tensor lies in it.

The functions here are all that a pickle of PyTorch may call. Each takes values of any kind and says
ValueError or TypeError for those that make no tensor; none reads or writes outside its memory.
"""

from __future__ import annotations

import codecs
import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy

from nanotorch.backend import (
    CPU,
    device,
    dtype,
    dtypes,
    layout,
    sparse_coo,
    strided,
    to_device,
)
from nanotorch.backend.loading import when_called
from nanotorch.nn.parameter import Buffer, Parameter
from nanotorch.serialization.archive import Archive, refusal
from nanotorch.serialization.pickler import STORAGES
from nanotorch.tensor import Size, Tensor

Array = Any

row_sparse = when_called("nanotorch.backend.row_sparse", "RowSparse")
_KINDS = [dtypes.dtype_of(name) for name in (*STORAGES, "uint16", "uint32", "uint64")]


class StorageKind:
    """The kind of memory that a name such as torch.FloatStorage means, by the dtype of elements."""

    def __init__(self, kind: dtype) -> None:
        self.dtype = kind


class Allowance:
    """How much memory the copies that a file asks for may take, beside what is read from it."""

    def __init__(self, name: str, amount: int) -> None:
        self.name, self._rest = name, amount

    def spend(self, amount: int) -> None:
        """Counts a copy; UnpicklingError where all copies are much larger than the file."""
        self._rest -= amount
        if self._rest < 0:
            raise refusal(f"{self.name} asks for much more memory than its own size")


class Storages:
    """The memory of an archive's tensors: each record is read once, and moved to its device.

    A storage is a tensor of one dimension, which is what a function as `map_location` is given.
    """

    def __init__(self, archive: Archive, map_location: Any) -> None:
        self._archive, self._map = archive, map_location
        self._storages: dict[str, tuple[StorageKind, Tensor]] = {}
        order = archive.read("byteorder") if "byteorder" in archive else b"little"
        if order not in (b"little", b"big"):
            raise archive.damaged(f"the byte order is {order[:20]!r}")
        self._swapped = order != sys.byteorder.encode()

    def __call__(self, identity: Any) -> Tensor:
        """The storage that a pickle names; RuntimeError where there is no such."""
        match identity:
            case ("storage", StorageKind() as kind, str(key), str(location), int(count)):
                pass
            case _:
                raise refusal(f"{self._archive.name} asks for {_brief(identity)} as memory")
        if key not in self._storages:
            content = self._archive.read_array(f"data/{key}")
            self._storages[key] = kind, self._placed(self._elements(content, kind.dtype), location)
        first_kind, storage = self._storages[key]
        size = kind.dtype.itemsize * count
        if first_kind is not kind or storage._array.nbytes != size:
            raise self._archive.damaged(
                f"the record 'data/{key}' has {storage._array.nbytes} bytes of "
                f"{first_kind.dtype.name}, but {size} of {kind.dtype.name} are asked for"
            )
        return storage

    def _elements(self, content: Array, kind: dtype) -> Array:
        size = kind.itemsize // 2 if kind.is_complex else kind.itemsize
        if content.size % kind.itemsize:
            raise self._archive.damaged(f"{content.size} bytes hold no elements of {kind}")
        if self._swapped:
            content.view(f"u{size}").byteswap(inplace=True)
        return content != 0 if kind is dtypes.bool_ else content.view(kind.numpy)

    def _placed(self, array: Array, location: str) -> Tensor:
        """Memory on the device that `map_location` names for it, or on the one that it was on."""
        storage, where = Tensor._wrap(array), self._map
        if callable(where):
            moved = where(storage, location)
            if moved is not None:
                if not isinstance(moved, Tensor) or moved._array.nbytes != array.nbytes:
                    raise TypeError(
                        "load: expected map_location to return the storage that it was given, on "
                        f"some device, or None; got {_brief(moved)}"
                    )
                return moved
        elif isinstance(where, dict):
            location = where.get(location, location)
        elif where is not None:
            location = where
        try:
            return Tensor._wrap(to_device(array, device(location)))
        except RuntimeError as error:
            raise RuntimeError(
                f"load: {self._archive.name} holds tensors of {ascii(str(location))[1:-1]}, and "
                f"{error}; map_location='cpu' loads them here"
            ) from None


def _brief(value: Any) -> str:
    """What a value is, in a few words: none that it says of itself."""
    if isinstance(value, str | int | None):
        return ascii(value)[:60]
    return f"a {type(value).__name__}"


# --- the functions of PyTorch's pickles -----------------------------------------------------------


def tensor_v2(
    storage: Tensor, offset: int, size: Any, stride: Any, requires_grad: bool = False,
    hooks: Any = None, metadata: Any = None,
) -> Tensor:  # fmt: skip
    """A tensor over the memory of a storage; offset and strides count elements."""
    if not isinstance(storage, Tensor) or storage.dim() != 1 or not storage.is_contiguous():
        raise TypeError(f"expected a storage as the memory of a tensor, got {_brief(storage)}")
    array = _view(storage._array, offset, size, stride)
    for transformation in _flags(metadata):
        if array.size > storage.numel():
            raise ValueError("an expanded tensor cannot be conjugated or negated")
        array = array.conj() if transformation == "conj" else -array
    out = Tensor._wrap(array)
    if requires_grad:
        out.requires_grad = True
    return out


def tensor_v3(
    storage: Tensor, offset: int, size: Any, stride: Any, requires_grad: bool, hooks: Any,
    kind: dtype, metadata: Any = None,
) -> Tensor:  # fmt: skip
    """The same over memory without a dtype."""
    if not isinstance(storage, Tensor) or not isinstance(kind, dtype):
        raise TypeError(f"expected a storage and a dtype, got {_brief(storage)}, {_brief(kind)}")
    elements = Tensor._wrap(storage._array.view(kind.numpy))
    return tensor_v2(elements, offset, size, stride, requires_grad, hooks, metadata)


def layout_named(name: str) -> layout:
    """`strided` or `sparse_coo`, of which PyTorch writes the names."""
    known = {repr(kind): kind for kind in (strided, sparse_coo)}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"expected a layout, {' or '.join(known)}, got {_brief(name)}")
    return known[name]


def sparse_tensor(kind: layout, data: Any) -> Tensor:
    """A row-sparse tensor of indices (1, n), values (n, …), a size, and whether it is coalesced."""
    if kind is not sparse_coo or not isinstance(data, tuple) or len(data) not in (3, 4):
        raise ValueError(f"expected a tensor of layout {sparse_coo}, got {_brief(kind)}")
    indices, values, size = data[:3]
    if not isinstance(indices, Tensor) or not isinstance(values, Tensor):
        raise TypeError(f"expected tensors of indices and values, got {_brief(indices)}")
    shape = tuple(_integers(size))
    if any(n < 0 for n in shape):
        raise ValueError(f"expected sizes of a tensor, got {shape}")
    rows = indices._array
    if rows.dtype != numpy.int64 or rows.ndim != 2 or len(rows) != 1 or not shape:
        raise ValueError(
            "sparse tensors have one sparse dimension here: expected indices of shape (1, n), got "
            f"{tuple(rows.shape)}"
        )
    rows = rows[0]
    if values.shape != (len(rows), *shape[1:]):
        raise ValueError(f"values {tuple(values.shape)} do not fill {len(rows)} rows of {shape}")
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < shape[0]:
        raise ValueError(f"indices outside of {shape[0]} rows")
    rising = bool((rows[1:] > rows[:-1]).all()) and bool(data[3:] and data[3])
    return Tensor._wrap(row_sparse(rows, values._array, shape, rising))


def _flags(metadata: Any) -> list[str]:
    """The transformations that PyTorch had put off when it saved a tensor."""
    if not isinstance(metadata or {}, dict) or not {"conj", "neg"}.issuperset(metadata or {}):
        raise ValueError(f"expected 'conj' and 'neg' as metadata of a tensor, got {metadata!r:.60}")
    return [name for name, is_set in (metadata or {}).items() if is_set]


def _view(memory: Array, offset: Any, size: Any, stride: Any) -> Array:
    """The array of a size and strides that begins at an offset in memory."""
    numbers = [offset, *_integers(size), *_integers(stride)]
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor has another number of strides than sizes, or negative ones")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if math.prod(size) == 0:
        offset = 0
    elif last >= memory.size:
        raise ValueError(f"a tensor of shape {size} lies outside its memory")
    if isinstance(memory, numpy.ndarray):
        steps = [step * memory.itemsize for step in stride]
        return numpy.ndarray(size, memory.dtype, memory, offset * memory.itemsize, steps)
    # On a GPU: what is contiguous up to the order of its dimensions is a view, the rest a copy.
    order = sorted(range(len(size)), key=lambda i: (-stride[i], -size[i]))
    sizes = [size[i] for i in order]
    if all(
        size[i] == 1 or stride[i] == math.prod(sizes[place + 1 :]) for place, i in enumerate(order)
    ):
        dense = memory[offset : offset + math.prod(size)].reshape(sizes)
        return dense.transpose([order.index(i) for i in range(len(size))])
    if math.prod(size) > memory.size:
        raise ValueError(
            "an expanded tensor cannot be copied to a GPU; map_location='cpu' loads it"
        )
    host = _view(to_device(memory, CPU), offset, size, stride)
    return to_device(numpy.ascontiguousarray(host), Tensor._wrap(memory).device)


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise TypeError(f"expected sizes, got {_brief(values)}")
    return tuple(values)


def parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> Parameter:
    """A Parameter over a tensor, with the attributes that it had."""
    out = Parameter(data, bool(requires_grad))
    set_attributes(out, state or {})
    return out


def from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    """A tensor with the attributes that it had; a Buffer where they say so."""
    if function not in (tensor_v2, tensor_v3) or kind is not Tensor:
        raise TypeError(f"expected a tensor with attributes, got one of the class {kind!r:.60}")
    out: Tensor = function(*arguments)
    if isinstance(state, dict) and state.get("_is_buffer"):
        out = Buffer(out, persistent=bool(state.get("persistent", True)))
        state = {name: v for name, v in state.items() if name not in ("_is_buffer", "persistent")}
    set_attributes(out, state)
    return out


def set_attributes(owner: Any, state: Any) -> None:
    """Sets attributes, none of which the owner's class has itself."""
    if not isinstance(state, dict):
        raise TypeError(f"expected attributes in a dict, got {_brief(state)}")
    for name in state:
        if type(name) is not str or hasattr(owner, name) or name in Tensor.__annotations__:
            raise ValueError(f"an attribute {_brief(name)} would hide the class's own")
    owner.__dict__.update(state)


def _size(values: Any = ()) -> Size:
    return Size(int(n) for n in _integers(values))


def _device(kind: Any, index: Any = None) -> device:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise TypeError(f"expected a device's name and number, got {_brief(kind)}, {_brief(index)}")
    return device(kind, index)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    out: OrderedDict[Any, Any] = OrderedDict()
    for key, value in items:
        out[checked_key(key)] = value
    return out


def _counter(items: Any = ()) -> Counter[Any]:
    if not isinstance(items, dict):
        raise TypeError(f"expected a dict of counts, got {_brief(items)}")
    return Counter(items)


def _set(items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in _listed(items)}


def _frozen(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _listed(items: Any) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise TypeError(f"expected elements in a list, got {_brief(items)}")
    return list(items)


def _bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    return bytearray(encode(content, encoding) if isinstance(content, str) else _bytes(content))


def _bytes(content: Any = b"") -> bytes:
    if not isinstance(content, bytes):
        raise TypeError(f"expected bytes, got {_brief(content)}")
    return content


def _complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise TypeError("expected two floats for a complex number")
    return complex(real, imaginary)


def encode(text: Any, encoding: Any) -> bytes:
    """Bytes, which old protocols of pickle write as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError(f"expected text as latin1, got {_brief(text)} as {_brief(encoding)}")
    return codecs.encode(text, "latin1")


def numpy_dtype(name: Any, align: Any = False, copy: Any = True) -> numpy.dtype[Any]:
    """The dtype of one of NumPy's numbers: "f8", "i4", "b1" …."""
    if not isinstance(name, str) or name not in _NUMBERS:
        raise TypeError(f"expected the dtype of a number, got {_brief(name)}")
    return _NUMBERS[name]


_NUMBERS = {kind.numpy.str[1:]: kind.numpy for kind in _KINDS if kind is not dtypes.bfloat16}


def numpy_scalar(kind: Any, content: Any) -> Any:
    """One of NumPy's numbers, from its bytes."""
    if not isinstance(kind, numpy.dtype) or len(_bytes(content)) != kind.itemsize:
        raise TypeError(f"expected the bytes of a number, got {_brief(content)}")
    return numpy.frombuffer(content, kind)[0]


def checked_key(key: Any) -> Any:
    """A key of a dict or an element of a set: a plain value, or a tuple of few of them.

    Hashing a tuple walks all of it, as often as parts of it occur; hence the limit.
    """
    pending, count = [key], 0
    while pending:
        part = pending.pop()
        count += 1
        if isinstance(part, tuple):
            if len(part) > _PARTS:
                count += len(part)
            else:
                pending += part
        elif not isinstance(part, _PLAIN):
            raise TypeError(f"expected a plain value as a key, got {_brief(part)}")
        if count > _PARTS:
            raise ValueError(f"a key has more than {_PARTS} parts")
    return key


_PARTS = 1000
_PLAIN = (str, int, float, complex, bytes, type(None), dtype, device, numpy.generic, frozenset)

# What a pickle may name, and what stands for it. A class stands for itself, as a value; what is
# called in its place is in CALLS.
TABLE: dict[str, Any] = {
    "torch._utils._rebuild_tensor": tensor_v2,
    "torch._utils._rebuild_tensor_v2": tensor_v2,
    "torch._utils._rebuild_tensor_v3": tensor_v3,
    "torch._utils._rebuild_parameter": parameter,
    "torch._utils._rebuild_parameter_with_state": parameter,
    "torch._tensor._rebuild_from_type_v2": from_type,
    "torch._utils._rebuild_sparse_tensor": sparse_tensor,
    "torch.serialization._get_layout": layout_named,
    "torch.Tensor": Tensor,
    "torch.nn.parameter.Parameter": Parameter,
    "torch.Size": Size,
    "torch.device": device,
    "torch.storage.UntypedStorage": StorageKind(dtypes.uint8),
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "_codecs.encode": encode,
    "numpy.dtype": numpy_dtype,
    **{f"torch.{kind.name}": kind for kind in _KINDS},
    **{f"numpy.{core}.multiarray.scalar": numpy_scalar for core in ("core", "_core")},
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytes, bytearray, complex)
    },
}
for _name, _title in STORAGES.items():
    _kind = StorageKind(dtypes.dtype_of(_name))
    TABLE |= {f"torch.{_title}Storage": _kind, f"torch.cuda.{_title}Storage": _kind}

CALLS: dict[Any, Callable[..., Any]] = {
    **{function: function for function in (tensor_v2, tensor_v3, parameter, from_type, encode)},
    **{function: function for function in (sparse_tensor, layout_named)},
    numpy_dtype: numpy_dtype,
    numpy_scalar: numpy_scalar,
    Parameter: lambda data, requires_grad=True: parameter(data, requires_grad, None),
    Size: _size,
    device: _device,
    OrderedDict: _ordered,
    Counter: _counter,
    set: _set,
    frozenset: _frozen,
    bytes: _bytes,
    bytearray: _bytearray,
    complex: _complex,
}
