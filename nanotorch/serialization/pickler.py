"""Writes objects as PyTorch's pickles: tensors by PyTorch's names, their memory beside the pickle.

PyTorch's functions are named without being imported, which Python's own pickler can do alone where
it is written in Python; hence `pickle._Pickler`.
"""

from __future__ import annotations

import functools
import pickle
from collections import OrderedDict
from typing import IO, Any, ClassVar, NamedTuple

import numpy

from nanotorch.backend import CPU, MODULES, device, device_of, dtype, dtype_of, to_device
from nanotorch.backend.dtypes import bfloat16
from nanotorch.nn.parameter import Buffer, Parameter
from nanotorch.tensor import Size, Tensor

Array = Any

# PyTorch's names for memory of a dtype: FloatStorage …. The other dtypes are in untyped memory.
STORAGES = {
    **{kind: dtype_of(kind).title for kind in ("float16", "float32", "float64", "bfloat16")},
    **{kind: dtype_of(kind).title for kind in ("uint8", "int8", "int16", "int32", "int64")},
    "bool": "Bool",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}


class Name:
    """A name of PyTorch's, written as a global without being imported."""

    def __init__(self, module: str, name: str) -> None:
        self.text = f"{module}\n{name}\n"

    def __call__(self) -> None:
        """Never called; the pickler asks whether it could be."""


@functools.cache
def torch_name(name: str) -> Name:
    """One object for each name, as the pickler writes an object once and then refers to it."""
    module, _, last = name.rpartition(".")
    return Name(module, last)


class Storage(NamedTuple):
    """The memory of tensors: its number in the archive, and what the pickle says of it."""

    kind: str
    key: str
    location: str
    elements: int


class Pickler(pickle._Pickler):
    """`dump(obj)` writes the pickle; `storages` then has the memory that it refers to."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: IO[bytes], protocol: int) -> None:
        super().__init__(file, protocol)
        self.storages: list[Array] = []
        self._entries: dict[int, tuple[Storage, dtype]] = {}

    def _save_name(self, name: Name) -> None:
        self.write(pickle.GLOBAL + name.text.encode())  # type: ignore[attr-defined]
        self.memoize(name)  # type: ignore[attr-defined]

    def _save_dtype(self, kind: dtype) -> None:
        self.save(torch_name(f"torch.{kind.name}"))  # type: ignore[attr-defined]

    dispatch[Name] = _save_name
    dispatch[dtype] = dispatch[type(bfloat16)] = _save_dtype

    def persistent_id(self, obj: Any) -> Any:
        """What stands in the pickle for memory, which is a record of its own."""
        if type(obj) is not Storage:
            return None
        return ("storage", torch_name(obj.kind), obj.key, obj.location, obj.elements)

    def reducer_override(self, obj: Any) -> Any:
        """The function and its arguments that make a tensor, size or device in PyTorch."""
        if isinstance(obj, Tensor):
            return self._tensor(obj)
        if type(obj) is Size:
            return torch_name("torch.Size"), (tuple(obj),)
        if type(obj) is device:
            place = (obj.type,) if obj.index is None else (obj.type, obj.index)
            return torch_name("torch.device"), place
        return NotImplemented

    def _tensor(self, x: Tensor) -> Any:
        array, kind = x._array, x.dtype
        if x.is_sparse:
            layout = _Call(torch_name("torch.serialization._get_layout"), (repr(x.layout),))
            parts = (x._indices(), x._values(), x.shape, x.is_coalesced())
            return torch_name("torch._utils._rebuild_sparse_tensor"), (layout, parts)
        hooks: OrderedDict[str, Any] = OrderedDict()
        storage, offset, strides = self._stored(array, kind)
        is_parameter, attributes = isinstance(x, Parameter), x._attributes()
        required = x.requires_grad and not is_parameter
        arguments: Any = (storage, offset, tuple(array.shape), strides, required, hooks)
        rebuild = torch_name("torch._utils._rebuild_tensor_v2")
        if kind.name not in STORAGES:
            rebuild, arguments = torch_name("torch._utils._rebuild_tensor_v3"), (*arguments, kind)
        if is_parameter:
            data = _Call(rebuild, arguments)
            if not attributes:
                make = torch_name("torch._utils._rebuild_parameter")
                return make, (data, x.requires_grad, hooks)
            make = torch_name("torch._utils._rebuild_parameter_with_state")
            return make, (data, x.requires_grad, hooks, attributes)
        if isinstance(x, Buffer):
            attributes = {"persistent": x.persistent, "_is_buffer": True, **attributes}
        elif not attributes:
            return rebuild, arguments
        make = torch_name("torch._tensor._rebuild_from_type_v2")
        return make, (rebuild, torch_name("torch.Tensor"), arguments, attributes)

    def _stored(self, array: Array, kind: dtype) -> tuple[Storage, int, tuple[int, ...]]:
        """The memory of an array, and its offset and strides there, in elements."""
        owner = _owner(array)
        offset, size = _address(array) - _address(owner), array.itemsize
        in_one_piece = owner.flags.c_contiguous or owner.flags.f_contiguous
        fractions = offset % size or owner.nbytes % size or any(s % size for s in array.strides)
        if not in_one_piece or fractions or any(stride < 0 for stride in array.strides):
            array = owner = array.copy()  # PyTorch's format cannot say how it lies in memory
            offset = 0
        if id(owner) not in self._entries:
            name = STORAGES.get(kind.name)
            name = "torch.storage.UntypedStorage" if name is None else f"torch.{name}Storage"
            count = owner.nbytes if kind.name not in STORAGES else owner.nbytes // size
            key, location = str(len(self.storages)), str(device_of(owner))
            self._entries[id(owner)] = Storage(name, key, location, count), kind
            self.storages.append(owner)
        storage, first_kind = self._entries[id(owner)]
        if first_kind is not kind:
            raise RuntimeError(
                f"save: two tensors show the same memory as {first_kind} and as {kind}, which "
                "PyTorch's format cannot hold; save a clone() of one of them"
            )
        return storage, offset // size, tuple(stride // size for stride in array.strides)


class _Call:
    """A value that is written as a call of a function."""

    def __init__(self, function: Name, arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _owner(array: Array) -> Array:
    """The array whose memory another one shows."""
    owner, part = array, array
    while (part := getattr(part, "base", None)) is not None:
        if type(part) in MODULES:
            owner = part
    return owner


def _address(array: Array) -> int:
    pointer = array.ctypes.data if isinstance(array, numpy.ndarray) else array.data.ptr
    return int(pointer)


def content(owner: Array) -> memoryview:
    """The bytes of an array's memory, in the order in which they lie there."""
    host = to_device(owner, CPU)
    return memoryview(host.ravel(order="K").view(numpy.uint8))
