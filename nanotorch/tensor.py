"""The tensor: an array with its place in the graph. State here; all mathematics is in `ops`.

Methods that compute are the op functions themselves (`Tensor.exp` is `ops.exp`), and methods that
end in `_` apply a primitive in place. What a tensor is for the engine stands in the attributes with
a leading underscore, whose defaults belong to the class: making a tensor sets one attribute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from nanotorch import ops
from nanotorch.autograd.backward import backward as backward_of
from nanotorch.autograd.engine import bump, check_inplace, requires_grad
from nanotorch.autograd.grad_mode import modes
from nanotorch.autograd.graph import AccumulateGrad
from nanotorch.autograd.walk import retaining
from nanotorch.backend import (
    Array,
    device,
    device_of,
    dtype,
    dtype_of,
    get_default_dtype,
    on_device_of,
)
from nanotorch.conversions import Conversions
from nanotorch.primitive import Node, RemovableHandle
from nanotorch.printing import tensor_format, tensor_repr


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


class Tensor(Conversions):
    """An n-dimensional array that remembers how it was computed.

    Make one with `tensor`, `zeros`, `randn` …; `Tensor(data)` gives the default dtype, as in
    PyTorch.
    """

    _array: Array
    _requires_grad = False
    _grad: Tensor | None = None
    _node: Node | None = None  # what made it; None for a leaf
    _cell: list[int] | None = None  # [version], shared by all that show the same memory
    _base: Tensor | None = None  # of a view: whose memory it shows, …
    _path: Any = ()  # … how to get there from the base, …
    _seen = 0  # … and the version that its graph knows
    _made_in_no_grad = False
    _inference = False
    _tangent: Tensor | None = None
    _hooks: dict[int, Any] | None = None
    _post_hooks: dict[int, Any] | None = None
    _retains_grad: Any = None
    _accumulate_grad: Any = None

    __array_ufunc__ = None  # ndarray * tensor is our __rmul__, not an array of objects
    __array_priority__ = 1000

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
        return int(self._array.ndim)

    @property
    def dtype(self) -> dtype:
        """The type of the elements."""
        return dtype_of(self._array.dtype)

    @property
    def device(self) -> device:
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

    def stride(self, dim: int | None = None) -> Any:
        """How many elements lie between neighbours along each dimension, or along one."""
        steps = tuple(s // self._array.itemsize for s in self._array.strides)
        return steps if dim is None else steps[dim]

    def is_contiguous(self) -> bool:
        """Whether the elements lie in memory in the order of their indices."""
        return bool(self._array.flags.c_contiguous)

    def contiguous(self) -> Tensor:
        """Itself if contiguous, else a copy that is."""
        return self if self.is_contiguous() else self.clone()

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
        if modes.recorder is not None:
            modes.recorder.assigned(self, value)

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
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
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

    # --- as Python sees it ----------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        return ops.getitem(self, key)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return tensor_repr(self)

    def __format__(self, specification: str) -> str:
        return tensor_format(self, specification)

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
        with on_device_of(self._array):
            out._array, out._requires_grad = self._array.copy(), self._requires_grad
        if self._grad is not None:
            out._grad = self._grad.__deepcopy__(memo)
        return out

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.detach().cpu()._array, self._requires_grad)

    __hash__ = object.__hash__


def _restored(kind: type[Tensor], array: Array, required: bool) -> Tensor:
    out = object.__new__(kind)
    out._array, out._requires_grad = array, required
    return out
