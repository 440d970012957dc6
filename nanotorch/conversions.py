"""What a tensor becomes: numbers, lists, arrays, and tensors of other dtypes and places."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

from nanotorch import ops
from nanotorch.autograd.grad_mode import modes
from nanotorch.backend import (
    CPU,
    HOST,
    array_module,
    device as Device,
    device_of,
    dtype as DType,
    dtype_of,
    dtypes as kinds,
    is_array,
    is_pinned,
    module_of,
    on_device,
    on_device_of,
    pinned,
    to_device,
)
from nanotorch.operators import Operators
from nanotorch.primitive import Traced


class Conversions(Operators):
    """A tensor's methods that give it in another form."""

    def _read(self: Any) -> None:
        """Tells a compiler that values leave the tensors for Python."""
        if modes.recorder is not None:
            modes.recorder.refuse("reads the values of a tensor")

    def _on_host(self: Any) -> Any:
        """The elements as NumPy's array, for reading."""
        array = self._array
        return array if isinstance(array, HOST.ndarray) else to_device(array, CPU)

    def numpy(self: Any, *, force: builtins.bool = False) -> Any:
        """The elements as a NumPy array over the same memory; `force` detaches and copies to the
        host."""
        self._read()
        if force:
            return self.detach().cpu().numpy()
        if self.requires_grad:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() "
                "instead."
            )
        if not isinstance(self._array, HOST.ndarray):
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to "
                "copy the tensor to host memory first."
            )
        if self._array.dtype.char == "E":  # which NumPy does not know
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._array

    def __array__(self: Any, dtype: Any = None, copy: builtins.bool | None = None) -> Any:
        array = self.numpy()
        return array if dtype is None and not copy else HOST.array(array, dtype=dtype, copy=copy)

    def __dlpack__(self: Any, *, stream: builtins.int | None = None, **wanted: Any) -> Any:
        """A capsule over the same memory, for another library's `from_dlpack`.

        `stream` is where that library will use it, and waits there for what the current stream
        was given: None and 1 are the default stream, 2 the thread's own, -1 asks for no order,
        anything else is the address of a CUDA stream. `wanted` is max_version, dl_device and copy.
        Source: https://dmlc.github.io/dlpack/latest/python_spec.html
        """
        self._read()
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        if stream is not None and type(stream) is not builtins.int:
            raise TypeError(f"__dlpack__: expected an int as stream, got {type(stream).__name__}")
        wanted = {name: value for name, value in wanted.items() if value is not None}
        if not self.is_cuda:
            if stream not in (None, -1):
                raise BufferError(f"__dlpack__: the CPU has no streams, got stream={stream}")
            return self._array.__dlpack__(**wanted)
        if stream is not None and (stream < -1 or stream == 0):
            raise BufferError(
                f"__dlpack__: expected -1, 1, 2 or the address of a CUDA stream, got {stream}"
            )
        with on_device_of(self._array):
            return self._array.__dlpack__(stream=stream, **wanted)

    def __dlpack_device__(self: Any) -> tuple[builtins.int, builtins.int]:
        """(type, number): type 1 is the CPU, 2 CUDA, 3 pinned memory of the CPU."""
        if self.is_pinned():
            return 3, 0
        kind, number = self._array.__dlpack_device__()
        return builtins.int(kind), builtins.int(number)

    def item(self: Any) -> Any:
        """The one element as a Python number."""
        self._read()
        if self._array.size != 1:
            raise RuntimeError(
                f"a Tensor with {self._array.size} elements cannot be converted to Scalar"
            )
        return self._on_host().item()

    def tolist(self: Any) -> Any:
        """The elements as nested lists of Python numbers."""
        self._read()
        return self._on_host().tolist()

    def __bool__(self: Any) -> builtins.bool:
        self._read()
        if self._array.size != 1:
            raise RuntimeError(
                "Boolean value of Tensor with "
                + ("no values" if self._array.size == 0 else "more than one value")
                + " is ambiguous"
            )
        return bool(self._on_host().item())

    def __float__(self: Any) -> builtins.float:
        return float(self.item())

    def __int__(self: Any) -> builtins.int:
        return int(self.item())

    def __complex__(self: Any) -> complex:
        return complex(self.item())

    def __index__(self: Any) -> builtins.int:
        self._read()
        if self._array.dtype.kind not in "iub" or self._array.size != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self._on_host().item())

    def __len__(self: Any) -> builtins.int:
        if not self._array.ndim:
            raise TypeError("len() of a 0-d tensor")
        return len(self._array)

    def __iter__(self: Any) -> Iterator[Any]:
        if not self._array.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __contains__(self: Any, item: Any) -> builtins.bool:
        return bool((self == item).any())

    def to(
        self: Any,
        *target: Any,
        copy: builtins.bool = False,
        non_blocking: builtins.bool = False,
        **named: Any,
    ) -> Any:
        """Itself in another dtype and on another device: to(dtype), to(device), to(device, dtype),
        to(other)."""
        out = self
        what: Any
        for what in (*target, *named.values()):
            if isinstance(what, Traced):
                out = ops.cast(
                    ops.move(out, device_of(what._array), non_blocking), what._array.dtype
                )
            elif isinstance(what, DType):
                out = ops.cast(out, what.numpy)
            elif isinstance(what, Device | str | int) and not isinstance(what, builtins.bool):
                out = ops.move(out, Device(what), non_blocking)
            elif what is not None:
                raise TypeError(
                    f"to: expected a dtype, a device or a Tensor, got {type(what).__name__} "
                    f"{what!r}"
                )
        return out.clone() if copy and out is self else out

    def type(self: Any, kind: Any = None) -> Any:
        """The tensor in another dtype; without one, the name of its type as PyTorch gives it."""
        if kind is None:
            place = "torch.cuda." if self.is_cuda else "torch."
            return f"{place}{self.dtype.title}Tensor"
        return ops.cast(self, dtype_of(kind).numpy)

    def cpu(self: Any) -> Any:
        """Itself on the CPU."""
        return ops.move(self, Device("cpu"))

    def cuda(self: Any, index: Any = None, non_blocking: builtins.bool = False) -> Any:
        """Itself on a GPU."""
        place = Device("cuda" if index is None else index)
        return ops.move(self, place, non_blocking)

    def pin_memory(self: Any) -> Any:
        """A copy in memory from which a GPU copies beside computing; itself if it lies there."""
        if self.is_cuda:
            raise RuntimeError(
                f"pin_memory: expected a tensor on the CPU, got one on {self.device}"
            )
        return self if self.is_pinned() else self._wrap(pinned(self._array))

    def is_pinned(self: Any) -> builtins.bool:
        """Whether it lies in pinned memory; see `pin_memory`."""
        return not self.is_cuda and is_pinned(self._array)

    def type_as(self: Any, other: Any) -> Any:
        """Itself in the dtype of `other`."""
        return ops.cast(self, other._array.dtype)

    def float(self: Any) -> Any:
        """Itself as float32."""
        return ops.cast(self, kinds.float32.numpy)

    def double(self: Any) -> Any:
        """Itself as float64."""
        return ops.cast(self, kinds.float64.numpy)

    def half(self: Any) -> Any:
        """Itself as float16."""
        return ops.cast(self, kinds.float16.numpy)

    def bfloat16(self: Any) -> Any:
        """Itself as bfloat16, rounded to the nearest and, between two, to the even one."""
        return ops.cast(self, kinds.bfloat16.numpy)

    def long(self: Any) -> Any:
        """Itself as int64."""
        return ops.cast(self, kinds.int64.numpy)

    def int(self: Any) -> Any:
        """Itself as int32."""
        return ops.cast(self, kinds.int32.numpy)

    def bool(self: Any) -> Any:
        """Itself as booleans: whether each element is nonzero."""
        return ops.cast(self, kinds.bool_.numpy)

    # --- others like it -------------------------------------------------------------------------

    def new_full(
        self: Any, size: Any, fill_value: Any, *, dtype: DType | None = None, device: Any = None,
        requires_grad: builtins.bool = False,
    ) -> Any:  # fmt: skip
        """One value everywhere, in the dtype and place of this tensor unless told otherwise."""
        place = self.device if device is None else Device(device)
        with on_device(place):
            kind = (dtype or self.dtype).numpy
            array = module_of(place).full(ops.shapes.sizes((size,)), fill_value, kind)
        out = self._wrap(array)
        return out.requires_grad_() if requires_grad else out

    def new_zeros(self, *size: Any, **options: Any) -> Any:
        """Zeros in the dtype and place of this tensor, with the options of `new_full`."""
        return self.new_full(ops.shapes.sizes(size), 0, **options)

    def new_ones(self, *size: Any, **options: Any) -> Any:
        """Ones in the dtype and place of this tensor, with the options of `new_full`."""
        return self.new_full(ops.shapes.sizes(size), 1, **options)

    new_empty = new_zeros

    def new_tensor(
        self: Any, data: Any, *, dtype: DType | None = None, device: Any = None,
        requires_grad: builtins.bool = False,
    ) -> Any:  # fmt: skip
        """A leaf with a copy of the data, in the dtype and place of this tensor."""
        values = getattr(data, "_array", data)
        module = array_module(values) if is_array(values) else HOST
        array = module.array(values, dtype=(dtype or self.dtype).numpy)
        place = self.device if device is None else Device(device)
        out = self._wrap(to_device(array, place))
        return out.requires_grad_() if requires_grad else out
