"""The tensor: an array with its place in the graph. State here; all mathematics is in `ops`.

Methods that compute are the op functions themselves (`Tensor.exp` is `ops.exp`), and methods that
end in `_` apply a primitive in place. What a tensor is for the engine stands in the attributes with
a leading underscore, whose defaults belong to the class: making a tensor sets one attribute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from nanotorch import ops
from nanotorch.autograd.backward import backward as backward_of
from nanotorch.autograd.engine import requires_grad
from nanotorch.autograd.grad_mode import modes
from nanotorch.autograd.graph import AccumulateGrad
from nanotorch.autograd.inplace import become_view, bump, check_inplace, refresh
from nanotorch.autograd.walk import retaining
from nanotorch.backend import (
    CPU,
    HOST,
    Array,
    array_module,
    copy_of,
    device as Device,
    device_of,
    dtype as DType,
    dtype_of,
    fitting,
    get_default_dtype,
    is_array,
    is_pinned,
    layouts,
    module_of,
    on_device,
    on_device_of,
    pinned,
    tensor_type,
    to_device,
)
from nanotorch.backend.errors import NotANumber
from nanotorch.backend.loading import when_called
from nanotorch.node import Node, RemovableHandle, Traced
from nanotorch.operators import Operators

tensor_format = when_called("nanotorch.printing", "tensor_format")
tensor_repr = when_called("nanotorch.printing", "tensor_repr")
deepcopy = when_called("copy", "deepcopy")
shown = when_called("nanotorch.backend.memory", "shown")
to_copy = when_called("nanotorch.backend.memory", "to_copy")


class Size(tuple[int, ...]):
    """A shape: a tuple that prints as PyTorch's and counts its elements."""

    __slots__ = ()

    def numel(self) -> int:
        """The number of elements of a tensor of this shape."""
        return math.prod(self)

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        return Size(item) if isinstance(key, slice) else item

    def __add__(self, other: Any) -> Size:
        return Size(super().__add__(tuple(other)))


class Tensor(Operators):
    """An n-dimensional array that remembers how it was computed.

    Make one with `tensor`, `zeros`, `randn` …; `Tensor(data)` gives the default dtype, as in
    PyTorch.
    """

    _array: Array
    _new: Callable[[], Tensor]  # makes one that has no array yet
    _requires_grad = False
    _grad: Tensor | None = None
    _node: Node | None = None  # what made it; None for a leaf
    _cell: list[int] | None = None  # [version], shared by all that show the same memory
    _base: Tensor | None = None  # of a view: whose memory it shows, …
    _path: Any = ()  # … how to get there from the base, …
    _seen = 0  # … and the version that its graph knows
    _made_in_no_grad = False
    _inference = False
    _companion: Any = None  # what a ring keeps beside the value
    _hooks: dict[int, Any] | None = None
    _post_hooks: dict[int, Any] | None = None
    _retains_grad: Any = None
    _accumulate_grad: Any = None

    __array_priority__ = 1000  # ndarray * tensor is our __rmul__

    def __init__(self, *data: Any) -> None:
        kind = get_default_dtype().numpy
        if len(data) == 1 and not isinstance(data[0], int):
            values = data[0]._array if isinstance(data[0], Tensor) else numpy.array(data[0])
            self._array = values.astype(kind)
        else:
            self._array = numpy.zeros(data or 0, kind)

    @staticmethod
    def _wrap(array: Array) -> Tensor:
        out = object.__new__(Tensor)
        out._array = array
        return out

    _bump = bump
    _check_inplace = check_inplace
    _become_view_of = become_view
    _refresh = refresh

    def _accumulator(self) -> AccumulateGrad:
        return AccumulateGrad.of(self)

    # --- what it is ---------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        """The sizes of the dimensions."""
        return Size(self._array.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        if dim is None:
            return Size(self._array.shape)
        return self._array.shape[ops.shapes.dimension(dim, self._array.ndim)]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._array.ndim  # type: ignore[no-any-return]

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return dtype_of(self._array.dtype)

    @property
    def device(self) -> Device:
        """Where the elements are."""
        return device_of(self._array)

    def dim(self) -> int:
        """The number of dimensions."""
        return int(self._array.ndim)

    def numel(self) -> int:
        """The number of elements."""
        return int(self._array.size)

    nelement = numel

    def element_size(self) -> int:
        """Bytes per element."""
        return int(self._array.itemsize)

    itemsize = property(element_size, doc="Bytes per element.")
    nbytes = property(lambda self: self._array.size * self._array.itemsize, doc="Bytes of all.")
    is_cuda = property(lambda self: self.device.type == "cuda", doc="Whether it is on a GPU.")
    is_sparse = property(lambda self: layouts.is_sparse(self._array), doc="By rows, or not.")
    layout = property(lambda self: layouts.layout_of(self._array), doc="How it is stored.")

    def stride(self, dim: int | None = None) -> Any:
        """How many elements lie between neighbours along each dimension, or along one."""
        steps = tuple(s // self._array.itemsize for s in self._array.strides)
        return steps if dim is None else steps[dim]

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Whether the elements lie in memory in the order of their indices, the one format."""
        return bool(self._array.flags.c_contiguous)

    def contiguous(self, memory_format: Any = None) -> Tensor:
        """Itself if contiguous, else a copy that is."""
        return self if self.is_contiguous() else ops.casting.contiguous_copy(self)

    def data_ptr(self) -> int:
        """The address of the first element."""
        array = self._array
        return int(array.ctypes.data if isinstance(array, numpy.ndarray) else array.data.ptr)

    def is_floating_point(self) -> bool:
        """Whether the dtype is float16, bfloat16, float32 or float64."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the dtype is complex."""
        return self.dtype.is_complex

    # --- its place in the graph ----------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether operations on it are recorded."""
        return requires_grad(self)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.grad_fn is not None and not value:
            raise RuntimeError(
                "you can only change requires_grad flags of leaf variables; use detach() for a "
                "copy that is outside the graph"
            )
        if value and self._array.dtype.kind not in "fVc":
            raise RuntimeError(
                "only Tensors of floating point and complex dtype can require gradients, "
                f"got {self.dtype}"
            )
        if value and self._inference:
            raise RuntimeError(
                "Setting requires_grad=True on inference tensor outside InferenceMode is not "
                "allowed."
            )
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets `requires_grad` and returns itself."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad_fn(self) -> Node | None:
        """The node that made it; None for a leaf."""
        requires_grad(self)
        return self._node

    @property
    def is_leaf(self) -> bool:
        """Whether it was made by the user rather than by a recorded operation."""
        return self.grad_fn is None

    @property
    def grad(self) -> Tensor | None:
        """What backward has added up for this leaf; None before the first time."""
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(
                    "assigned grad expected to be a Tensor or None but got grad of type "
                    f"{type(value).__name__}"
                )
            if value._array.shape != self._array.shape:
                raise RuntimeError(
                    "assigned grad has data of a different size: expected "
                    f"{tuple(self._array.shape)}, got {tuple(value._array.shape)}"
                )
            if value._array.dtype != self._array.dtype:
                raise RuntimeError(
                    f"assigned grad has data of a different type: expected {self.dtype}, got "
                    f"{value.dtype}"
                )
        self._grad = value
        modes.listener.assigned(self, value)

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def data(self) -> Tensor:
        """The same memory outside the graph; changes through it go unnoticed by autograd."""
        return Tensor._wrap(self._array)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(value).__name__}")
        self._array = value._array

    @property
    def _version(self) -> int:
        return 0 if self._cell is None else self._cell[0]

    def _is_view(self) -> bool:
        return self._base is not None

    def backward(
        self, gradient: Tensor | None = None, retain_graph: bool | None = None,
        create_graph: bool = False, inputs: Any = None,
    ) -> None:  # fmt: skip
        """Adds the gradient of this tensor, weighted by `gradient` of its shape, to the leaves'
        `.grad`.

        A tensor of one element needs no `gradient`. The graph is freed unless `retain_graph`;
        `create_graph` records the backward pass for higher derivatives.
        """
        backward_of(self, gradient, retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same memory outside the graph; changes through it are noticed by autograd."""
        if self._cell is None:
            self._cell = [0]
        out = Tensor._wrap(self._array)
        out._cell = self._cell
        return out

    def detach_(self) -> Tensor:
        """Takes the tensor itself out of the graph: it becomes a leaf that does not require
        grad."""
        if self._base is not None:
            raise RuntimeError("Can't detach views in-place. Use detach() instead.")
        self._node, self._requires_grad = None, False
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Calls hook(grad) when the tensor's gradient is known; what it returns replaces the
        gradient."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        owner: Any = self if self._node is None else self._node
        field = "_hooks" if self._node is None else "hooks"
        if getattr(owner, field) is None:
            setattr(owner, field, {})
        hooks = getattr(owner, field)
        handle = RemovableHandle(hooks, hook)
        for key in [k for k, other in hooks.items() if other is self._retains_grad]:
            hooks[key] = hooks.pop(key)  # what is kept in .grad is what all hooks have made of it
        return handle

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Calls hook(tensor) after backward has added to the `.grad` of this leaf."""
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self.grad_fn is not None:
            raise RuntimeError(
                "post accumulate grad hooks cannot be registered on non-leaf tensors"
            )
        if self._post_hooks is None:
            self._post_hooks = {}
        return RemovableHandle(self._post_hooks, hook)

    def retain_grad(self) -> None:
        """Makes backward keep the gradient of this non-leaf in `.grad`."""
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self._node is not None and self._retains_grad is None:
            self._retains_grad = retaining(self)
            self.register_hook(self._retains_grad)

    def is_inference(self) -> bool:
        """Whether it was made in inference_mode, and so can never be part of a graph."""
        return self._inference

    retains_grad = property(lambda self: self._retains_grad is not None, doc="After retain_grad().")

    # --- its values in another form --------------------------------------------------------------

    @staticmethod
    def _tell_of_reading() -> None:
        modes.listener.read("reads the values of a tensor")

    def _on_host(self) -> Any:
        """The elements as NumPy's array, for reading."""
        array = self._array
        return array if isinstance(array, HOST.ndarray) else to_device(array, CPU)

    def numpy(self, *, force: bool = False) -> Any:
        """The elements as a NumPy array over the same memory; `force` detaches and copies to the
        host."""
        self._tell_of_reading()
        if force:
            return self.detach().cpu().numpy()
        if self.requires_grad:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() "
                "instead."
            )
        return layouts.as_numpy(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.numpy()
        return array if dtype is None and not copy else HOST.array(array, dtype=dtype, copy=copy)

    def __array_wrap__(self, array: Array, context: Any = None, return_scalar: bool = False) -> Any:
        """What a function of NumPy makes of a tensor is one; of booleans uint8, as in PyTorch."""
        return self._wrap(array.astype("uint8") if array.dtype.kind == "b" else array)

    def __dlpack__(self, *, stream: int | None = None, **wanted: Any) -> Any:
        """A capsule over the same memory, for another library's `from_dlpack`.

        `stream` is where that library will use it, and waits there for what the current stream
        was given: None and 1 are the default stream, 2 the thread's own, -1 asks for no order,
        anything else is the address of a CUDA stream. `wanted` is max_version, dl_device and copy.
        Source: https://dmlc.github.io/dlpack/latest/python_spec.html
        """
        self._tell_of_reading()
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        if stream is not None and type(stream) is not int:
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

    def __dlpack_device__(self) -> tuple[int, int]:
        """(type, number): type 1 is the CPU, 2 CUDA, 3 pinned memory of the CPU."""
        if self.is_pinned():
            return 3, 0
        kind, number = self._array.__dlpack_device__()
        return int(kind), int(number)

    def item(self) -> Any:
        """The one element as a Python number."""
        self._tell_of_reading()
        if self._array.size != 1:
            raise NotANumber(
                f"a Tensor with {self._array.size} elements cannot be converted to Scalar"
            )
        return self._on_host().item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        self._tell_of_reading()
        return self._on_host().tolist()

    def __bool__(self) -> bool:
        self._tell_of_reading()
        if self._array.size != 1:
            raise RuntimeError(
                "Boolean value of Tensor with "
                + ("no values" if self._array.size == 0 else "more than one value")
                + " is ambiguous"
            )
        return bool(self._on_host().item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        self._tell_of_reading()
        if self._array.dtype.kind not in "iub" or self._array.size != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self._on_host().item())

    def __len__(self) -> int:
        if not self._array.ndim:
            raise TypeError("len() of a 0-d tensor")
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        if not self._array.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __contains__(self, item: Any) -> bool:
        return bool((self == item).any())

    def to(self, *target: Any, copy: bool = False, non_blocking: bool = False, **named: Any) -> Any:
        """Itself in another dtype and on another device: to(dtype), to(device), to(device, dtype),
        to(other)."""
        flags = [what for what in target if isinstance(what, bool)]  # non_blocking, then copy
        non_blocking, copy = (non_blocking or flags[:1] == [True]), (copy or flags[1:] == [True])
        named.pop("memory_format", None)
        out = self
        what: Any
        for what in (*(what for what in target if not isinstance(what, bool)), *named.values()):
            if isinstance(what, Traced):
                out = ops.cast(
                    ops.move(out, device_of(what._array), non_blocking), what._array.dtype
                )
            elif isinstance(what, DType | type):
                out = ops.cast(out, dtype_of(what).numpy)
            elif isinstance(what, Device | str | int):
                out = ops.move(out, Device(what), non_blocking)
            elif what is not None:
                raise TypeError(
                    f"to: expected a dtype, a device or a Tensor, got {type(what).__name__} "
                    f"{what!r}"
                )
        return out.clone() if copy and out is self else out

    def type(self, kind: Any = None) -> Any:
        """The tensor in another dtype, or as a type such as `FloatTensor`; without one, the name
        of its type as PyTorch gives it."""
        if kind is None:
            package = "torch.cuda" if self.is_cuda else "torch"
            return f"{package}.{self.dtype.title}Tensor"
        target, place = tensor_type(kind)
        out = ops.cast(self, target.numpy)
        return out if place is None else ops.move(out, Device(place))

    def cpu(self) -> Any:
        """Itself on the CPU."""
        return ops.move(self, Device("cpu"))

    def cuda(self, index: Any = None, non_blocking: bool = False) -> Any:
        """Itself on a GPU."""
        place = Device("cuda" if index is None else index)
        return ops.move(self, place, non_blocking)

    def pin_memory(self) -> Any:
        """A copy in memory from which a GPU copies beside computing; itself if it lies there."""
        if self.is_cuda:
            raise RuntimeError(
                f"pin_memory: expected a tensor on the CPU, got one on {self.device}"
            )
        return self if self.is_pinned() else self._wrap(pinned(self._array))

    def is_pinned(self) -> bool:
        """Whether it lies in pinned memory; see `pin_memory`."""
        return not self.is_cuda and is_pinned(self._array)

    def type_as(self, other: Any) -> Any:
        """Itself in the dtype of `other`."""
        return ops.cast(self, other._array.dtype)

    # --- others like it -------------------------------------------------------------------------

    def new_full(
        self, size: Any, fill_value: Any, *, dtype: DType | None = None, device: Any = None,
        requires_grad: bool = False,
    ) -> Any:  # fmt: skip
        """One value everywhere, in the dtype and place of this tensor unless told otherwise."""
        place = self.device if device is None else Device(device)
        with on_device(place):
            kind = dtype_of(dtype or self.dtype).numpy
            value = fitting(fill_value, kind)
            array = module_of(place).full(ops.shapes.sizes((size,)), value, kind)
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
        self, data: Any, *, dtype: DType | None = None, device: Any = None,
        requires_grad: bool = False,
    ) -> Any:  # fmt: skip
        """A leaf with a copy of the data, in the dtype and place of this tensor."""
        values = getattr(data, "_array", data)
        module = array_module(values) if is_array(values) else HOST
        array = module.array(values, dtype=dtype_of(dtype or self.dtype).numpy)
        place = self.device if device is None else Device(device)
        out = self._wrap(to_device(array, place))
        return out.requires_grad_() if requires_grad else out

    # --- as Python sees it ----------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        tracked = self._requires_grad or self._base is not None
        if type(key) is int and not (tracked or modes.rings or modes.inference):
            try:  # what the engine would do, in half the time: a data set asks for every row
                out = self._wrap(self._array[key, ...])
            except IndexError:
                return ops.getitem(self, key)  # type: ignore[no-any-return] # which explains it
            out._become_view_of(self, ops.shapes.BasicIndex, {"key": (key,)})
            return out
        return ops.getitem(self, key)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return str(tensor_repr(self))

    _repr_html_ = when_called("nanotorch.viz.notebooks", "tensor_html")  # for Jupyter

    def __format__(self, specification: str) -> str:
        return str(tensor_format(self, specification))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                "protocol; use detach().clone()"
            )
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        out: Tensor = object.__new__(type(self))
        memo[id(self)] = out
        out._array, out._requires_grad = self._copied_array(memo), self._requires_grad
        out.__dict__.update(deepcopy(self._attributes(), memo))
        if self._grad is not None:
            out._grad = self._grad.__deepcopy__(memo)
        return out

    def _copied_array(self, memo: dict[int, Any]) -> Array:
        """A copy of the elements, in one copy of the memory that tensors of one deepcopy share."""
        if not isinstance(self._array, HOST.ndarray):
            return copy_of(self._array)
        owner, place = to_copy(self._array, keeps_order=True)
        return shown(deepcopy(owner, memo), place)

    def _attributes(self) -> dict[str, Any]:
        """What was set on this tensor and is not the engine's."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __reduce__(self) -> Any:
        owner, place = to_copy(self._on_host(), keeps_order=False)
        return _restored, (
            type(self), owner, self._requires_grad, tuple(place), self._attributes()
        )  # fmt: skip

    __hash__ = object.__hash__


Tensor._new = functools.partial(object.__new__, Tensor)  # the quickest way to make one


def _restored(
    kind: type[Tensor], owner: Array, required: bool, place: Any = None, attributes: Any = ()
) -> Tensor:
    """The tensor that a pickle holds; one of before says no place in its memory."""
    out = object.__new__(kind)
    out._array = owner if place is None else shown(owner, place)
    out._requires_grad = required
    out.__dict__.update(attributes)
    return out
