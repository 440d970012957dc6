"""Shapes: views of the same memory, and the sums and copies that are their reverse.

A view's output shares its input's memory, so what is written into one shows in the other. Kernels
of views take no `out`: there is nothing to compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanotorch.backend import Array, dtype as DType, dtype_of, is_sparse
from nanotorch.ops.broadcasting import Expand
from nanotorch.ops.casting import contiguous_copy, into
from nanotorch.ops.regions import embed
from nanotorch.primitive import Linear, apply

Shape = tuple[int, ...]


class View(Linear):
    """y = x in another shape, element for element, in the same memory"""

    view = True
    vjp = (lambda g, x_shape: reshape(g, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, shape: Shape) -> Array:
        return x.reshape(shape)


class Reshape(View):
    """y = x in another shape as a reverse or internal step, copied where memory demands it"""

    view = False

    @staticmethod
    def kernel(xp: Any, x: Array, *, shape: Shape, out: Array | None = None) -> Array:
        return into(xp, x.reshape(shape), out)


class UnsafeView(Reshape):
    """y = x in another shape, where x is a fresh copy that nobody else holds"""


class Alias(Linear):
    """y = x, as a view of it"""

    view = True
    vjp = (lambda g: g,)

    @staticmethod
    def kernel(xp: Any, x: Array) -> Array:
        return x[...]


class Permute(Linear):
    """y = x with its dimensions in another order"""

    view = True
    vjp = (lambda g, order: apply(Permute, g, order=inverse(order)),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, order: Shape) -> Array:
        return x.transpose(order)


class Transpose(Linear):
    """y = x with two dimensions exchanged"""

    view = True
    vjp = (lambda g, dim0, dim1: apply(Transpose, g, dim0=dim0, dim1=dim1),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim0: int, dim1: int) -> Array:
        return x.swapaxes(dim0, dim1) if x.ndim else x[...]


class T(Transpose):
    """y = x transposed, of two dimensions at most"""

    vjp = (lambda g, dim0, dim1: apply(T, g, dim0=dim0, dim1=dim1),)


class Squeeze(Linear):
    """y = x without its dimensions of size 1: all, or those in `dims`"""

    view = True
    vjp = (lambda g, x_shape: reshape(g, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dims: Shape, origin: int) -> Array:
        return x.reshape(tuple(n for d, n in enumerate(x.shape) if d not in dims or n != 1))

    def name(self) -> str:
        return f"SqueezeBackward{self.attributes['origin']}"


class Unsqueeze(Linear):
    """y = x with a new dimension of size 1"""

    view = True
    vjp = (lambda g, x_shape: reshape(g, x_shape),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, dim: int) -> Array:
        shape = list(x.shape)
        shape.insert(dim, 1)
        return x.reshape(shape)


class BasicIndex(Linear):
    """y = x[key] for ints, slices, None and `...`: a view"""

    view = is_part = True
    vjp = (lambda g, x_shape, key: embed(g, x_shape, ((BasicIndex, {"key": key}),)),)

    @staticmethod
    def kernel(xp: Any, x: Array, *, key: tuple[Any, ...]) -> Array:
        return x[(*key, ...)] if Ellipsis not in key else x[key]

    def name(self) -> str:
        for item in reversed(self.attributes["key"]):
            if isinstance(item, int):
                return "SelectBackward0"
            if item is None:
                return "UnsqueezeBackward0"
            if isinstance(item, slice):
                return "SliceBackward0"
        return "AliasBackward0"


class Select(BasicIndex):
    """y = one slice of x along a dimension"""

    vjp = BasicIndex.vjp


class SplitPiece(BasicIndex):
    """y = one of the pieces that x is split into"""

    one_of_several = True
    vjp = BasicIndex.vjp

    def name(self) -> str:
        return "SplitBackward0"


class Unbound(BasicIndex):
    """y = one of the slices that x is taken apart into"""

    one_of_several = True
    vjp = BasicIndex.vjp

    def name(self) -> str:
        return "UnbindBackward0"


class Diagonal(Linear):
    """y = the diagonal of the dimensions dim1 and dim2, as the last dimension"""

    view = True
    vjp = (
        lambda g, x_shape, offset, dim1, dim2: embed(
            g, x_shape, ((Diagonal, {"offset": offset, "dim1": dim1, "dim2": dim2}),)
        ),
    )

    @staticmethod
    def kernel(xp: Any, x: Array, *, offset: int, dim1: int, dim2: int) -> Array:
        y = x.diagonal(offset, dim1, dim2)
        if not y.size:  # of which CuPy makes no view
            return x[(slice(0),) * x.ndim].reshape(y.shape)
        if not getattr(y.flags, "writeable", True):
            y.flags.writeable = True  # NumPy makes this view read-only; PyTorch's can be written to
        return y


# --- the functions --------------------------------------------------------------------------------


def sizes(shape: Sequence[Any]) -> Shape:
    """A shape given as f(2, 3), f((2, 3)) or f([2, 3])."""
    if len(shape) == 1:
        first = shape[0]
        if type(first) is int:
            return (first,)
        if not isinstance(first, int) and hasattr(first, "__iter__"):
            shape = first
    for n in shape:
        if type(n) is not int:
            return tuple(map(int, shape))
    return tuple(shape)


def resolve(shape: Shape, total: int, op: str) -> Shape:
    """The shape with its one -1, if any, filled in; RuntimeError where the elements do not fit."""
    if -1 in shape:
        if len(shape) == 1:
            return (total,)
        if shape.count(-1) > 1:
            raise RuntimeError(f"{op}: only one dimension can be inferred, got {list(shape)}")
        known, place = -math.prod(shape), shape.index(-1)
        if known and total % known == 0:
            return (*shape[:place], total // known, *shape[place + 1 :])
    elif math.prod(shape) == total and (not shape or min(shape) >= 0):
        return shape
    raise RuntimeError(f"{op}: shape {list(shape)} is invalid for input of size {total}")


def viewable(x: Any, shape: Shape) -> bool:
    """Whether x can take the shape without its elements being copied."""
    array = x._array
    if array.flags.c_contiguous or array.size == 0 or is_sparse(array):  # which refuses by itself
        return True
    return can_be_cut(array, shape)


def can_be_cut(array: Array, shape: Shape) -> bool:
    """Whether the runs of dimensions between which memory has gaps, or turns, are products of
    dimensions of the shape."""
    sizes, strides, wanted = list(array.shape), array.strides, list(shape)
    run, step = 1, array.itemsize  # the elements of a run, and the stride of its last dimension
    for d in range(array.ndim - 1, -1, -1):
        if sizes[d] == 1:
            continue
        if run == 1:
            step = strides[d]
        run *= sizes[d]
        before = next((e for e in range(d - 1, -1, -1) if sizes[e] != 1), None)
        if before is not None and strides[before] == run * step:
            continue
        while run > 1 and wanted:
            size = wanted.pop()
            if run % size:
                return False
            run //= size
    return True


def view(x: Any, *shape: Any) -> Any:
    """x in another shape, or in another dtype by the bits of its elements, in the same memory.

    RuntimeError where its strides do not allow it.
    """
    if len(shape) == 1 and isinstance(shape[0], DType | type):
        return _bits(x, dtype_of(shape[0]))
    wanted = resolve(sizes(shape), x._array.size, "view")
    if not (x._array.flags.c_contiguous or viewable(x, wanted)):
        raise RuntimeError(
            f"view: size {list(wanted)} is not compatible with the strides {x.stride()} of the "
            "tensor of "
            f"size {list(x.shape)}; use .reshape(...) instead"
        )
    return x._apply(View, (x,), {"shape": wanted})


def _bits(x: Any, kind: DType) -> Any:
    """The memory of x as elements of another dtype, outside the graph."""
    if x.dtype is kind:
        return view(x, x.shape)
    out = x.detach()
    try:
        out._array = x._array.view(kind.numpy)
    except ValueError as error:
        raise RuntimeError(
            f"view: {x.dtype} of shape {tuple(x.shape)} as {kind}: {error}"
        ) from None
    return out


def reshape(x: Any, *shape: Any) -> Any:
    """x in another shape: a view where its strides allow it, else a copy."""
    array = getattr(x, "_array", None)
    if array is None:
        return apply(Reshape, x, shape=sizes(shape))
    wanted = resolve(sizes(shape), array.size, "reshape")
    if array.flags.c_contiguous or viewable(x, wanted):
        return x._apply(View, (x,), {"shape": wanted})
    return apply(UnsafeView, contiguous_copy(x), shape=wanted)


def view_as(x: Any, other: Any) -> Any:
    """x in the shape of `other`, as a view."""
    return view(x, other.shape)


def reshape_as(x: Any, other: Any) -> Any:
    """x in the shape of `other`."""
    return reshape(x, other.shape)


def alias(x: Any) -> Any:
    """x as a view of itself."""
    return apply(Alias, x)


def dimension(dim: int, ndim: int) -> int:
    """`dim` counted from the front; IndexError outside of [-ndim, ndim - 1]."""
    bound = ndim or 1
    if not -bound <= dim < bound:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-bound}, {bound - 1}], but "
            f"got {dim})"
        )
    return dim % bound


def fill_diagonal_(x: Any, fill_value: Any) -> Any:
    """Writes a number into the diagonal of a matrix."""
    if x.ndim != 2:
        raise RuntimeError(f"fill_diagonal_: expected a matrix, got {x.ndim} dimensions")
    diagonal(x).fill_(fill_value)
    return x


def ndimension(x: Any) -> int:
    """The number of dimensions."""
    return int(x.ndim)


def required(dim: Any, axis: Any, op: str) -> Any:
    """`dim`, or NumPy's name for it; TypeError for neither."""
    if dim is None and axis is None:
        raise TypeError(f"{op}() missing 1 required positional argument: 'dim'")
    return axis if dim is None else dim


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """x with the dimensions from start_dim to end_dim made one."""
    first, last = dimension(start_dim, x.ndim), dimension(end_dim, x.ndim)
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if x.ndim == 0:
        return reshape(x, (1,))
    if first == last:
        return x
    middle = math.prod(x.shape[first : last + 1])
    return reshape(x, (*x.shape[:first], middle, *x.shape[last + 1 :]))


def unflatten(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    """x with one dimension taken apart into `sizes`."""
    place = dimension(dim, x.ndim)
    if not x.ndim or not sizes:
        raise RuntimeError(
            f"unflatten: expected a dimension and one size or more, got shape {tuple(x.shape)} and "
            f"sizes {tuple(sizes)}"
        )
    inner = resolve(tuple(sizes), x.shape[place], "unflatten")
    return view(x, (*x.shape[:place], *inner, *x.shape[place + 1 :]))


def expand(x: Any, *shape: Any) -> Any:
    """x repeated without copying to a larger shape, in which -1 keeps a size."""
    wanted = sizes(shape)
    extra = len(wanted) - len(x.shape)
    if -1 in wanted:
        wanted = tuple(
            x.shape[d - extra] if n == -1 and d >= extra else n for d, n in enumerate(wanted)
        )
    if min(wanted, default=0) < 0:
        raise RuntimeError(
            f"expand: a tensor of shape {tuple(x.shape)} has no size {list(shape)}: -1 keeps the "
            "size of a dimension, and a new one in front has none"
        )
    return apply(Expand, x, shape=wanted)


def expand_as(x: Any, other: Any) -> Any:
    """x repeated without copying to the shape of `other`."""
    return expand(x, other.shape)


def inverse(order: Shape) -> Shape:
    """The permutation that undoes `order`."""
    places = [0] * len(order)
    for place, d in enumerate(order):
        places[d] = place
    return tuple(places)


def permute(x: Any, *places: Any, dims: Any = None) -> Any:
    """x with its dimensions in another order: permute(1, 0), permute((1, 0)) or permute(dims=…)."""
    ndim = x.ndim
    order = tuple([dimension(d, ndim) for d in sizes(places if dims is None else (dims,))])
    if not len(order) == len(set(order)) == ndim:
        raise RuntimeError(f"permute: expected each of {ndim} dimensions once, got {list(order)}")
    return apply(Permute, x, order=order)


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """x with two dimensions exchanged."""
    ndim = x.ndim
    return apply(Transpose, x, dim0=dimension(dim0, ndim), dim1=dimension(dim1, ndim))


def t(x: Any) -> Any:
    """x transposed; x of two dimensions at most."""
    if x.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return apply(T, x, dim0=0, dim1=-1)


def movedim(x: Any, source: Any, destination: Any) -> Any:
    """x with one dimension, or several, moved to other places."""
    froms, tos = (
        [dimension(d, x.ndim) for d in ((ds,) if isinstance(ds, int) else ds)]
        for ds in (source, destination)
    )
    if x.ndim == 0:
        return alias(x)
    order = [d for d in range(x.ndim) if d not in froms]
    for place, d in sorted(zip(tos, froms, strict=True)):
        order.insert(place, d)
    return permute(x, tuple(order))


def squeeze(x: Any, dim: Any = None, *, axis: Any = None) -> Any:
    """x without its dimensions of size 1: all of them, or those named."""
    dim = dim if axis is None else axis
    if dim is None:
        return apply(Squeeze, x, dims=tuple(range(x.ndim)), origin=0)
    several = not isinstance(dim, int)
    dims = tuple(dimension(d, x.ndim) for d in (dim if several else (dim,)))
    return apply(Squeeze, x, dims=dims, origin=2 if several else 1)


def unsqueeze(x: Any, dim: Any = None, *, axis: Any = None) -> Any:
    """x with a new dimension of size 1 at `dim`."""
    return apply(Unsqueeze, x, dim=dimension(required(dim, axis, "unsqueeze"), x.ndim + 1))


def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    """The part of x from `start` on, `length` long, along `dim`."""
    if x.ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    place = dimension(dim, x.ndim)
    start = start + x.shape[place] if start < 0 else start
    if length < 0 or start + length > x.shape[place]:
        raise RuntimeError(
            f"narrow: start ({start}) + length ({length}) exceeds dimension size ({x.shape[place]})"
        )
    key = (*(slice(None),) * place, slice(start, start + length))
    return apply(BasicIndex, x, key=key)


def select(x: Any, dim: int, index: int) -> Any:
    """The slice of x at `index` along `dim`, without that dimension."""
    place = dimension(dim, x.ndim)
    if not -x.shape[place] <= index < x.shape[place]:
        raise IndexError(
            f"select(): index {index} out of range for tensor of size {list(x.shape)} at "
            f"dimension {place}"
        )
    return apply(Select, x, key=(*(slice(None),) * place, index))


def split(x: Any, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
    """x cut along `dim` into pieces of one size (the last may be smaller) or of the given sizes."""
    if x.ndim == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    place = dimension(dim, x.ndim)
    size = x.shape[place]
    if isinstance(split_size, int):
        if split_size < 0 or (split_size == 0 and size):
            raise RuntimeError(f"split: expected a positive split_size, got {split_size}")
        starts = range(0, size, split_size or 1)
        lengths = [min(split_size, size - at) for at in starts] or [0]
    else:
        lengths = list(split_size)
        if sum(lengths) != size:
            raise RuntimeError(
                f"split: sizes {lengths} sum to {sum(lengths)}, but dimension {dim} has size {size}"
            )
    pieces, at = [], 0
    for length in lengths:
        key = (*(slice(None),) * place, slice(at, at + length))
        pieces.append(apply(SplitPiece, x, key=key))
        at += length
    return tuple(pieces)


def chunk(x: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """x cut along `dim` into `chunks` pieces of equal size, but for the last."""
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    if x.ndim == 0:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    size = x.shape[dimension(dim, x.ndim)]
    return split(x, -(-size // chunks) if size else [0] * chunks, dim)


def unbind(x: Any, dim: int = 0) -> tuple[Any, ...]:
    """The slices of x along `dim`."""
    place = dimension(dim, x.ndim)
    front = (slice(None),) * place
    return tuple(apply(Unbound, x, key=(*front, i)) for i in range(x.shape[place]))


def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of two dimensions, as a view whose last dimension it is."""
    first, second = dimension(dim1, x.ndim), dimension(dim2, x.ndim)
    if first == second:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return apply(Diagonal, x, offset=offset, dim1=first, dim2=second)


def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Zeros, with the last dimension of x on the given diagonal of the dimensions dim1 and dim2."""
    first, second = dimension(dim1, x.ndim + 1), dimension(dim2, x.ndim + 1)
    shape = list(x.shape[:-1])
    for place in sorted((first, second)):
        shape.insert(place, x.shape[-1] + abs(offset))
    attributes = {"offset": offset, "dim1": first, "dim2": second}
    return embed(x, tuple(shape), ((Diagonal, attributes),))


def ravel(x: Any) -> Any:
    """x in one dimension, as a copy where it is not contiguous."""
    y = reshape(x, (-1,))
    return y if getattr(y, "_array", y).flags.c_contiguous else contiguous_copy(y)


def broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    """x repeated without copying to `shape`."""
    return expand(x, tuple(shape))
