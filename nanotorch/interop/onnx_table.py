"""For each primitive the nodes of ONNX that compute it: a line, or a function of a few."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from nanotorch.interop.onnx_graph import Call, ExportError, Graph, Rows, element_type
from nanotorch.nn.pooling import divisor

Translator = Callable[..., Any]
TABLE: dict[str, Translator] = {}


def translates(*primitives: str) -> Callable[[Translator], Translator]:
    """Enters a translator for primitives of these names. It is called with the call, the names of
    the operands (numbers as they are) and the attributes, and returns the result's name."""

    def enter(translator: Translator) -> Translator:
        TABLE.update(dict.fromkeys(primitives, translator))
        return translator

    return enter


def _elementwise(op: str) -> Translator:
    """All operands in the result's dtype, into one node."""
    return lambda call, *operands: call.node(op, *map(call.cast, range(len(operands))))


# Primitives that are one node whose operands have the result's dtype, and ONNX's name if another.
ELEMENTWISE = """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Reciprocal Relu Round
    Sigmoid Sign Sin Sinh Sqrt Tan Tanh Add Sub Mul Div Hardswish=HardSwish Logistic=Sigmoid
    Maximum=Max AtLeast=Max Minimum=Min AtMost=Min PowTensor=Pow
"""
for _pair in ELEMENTWISE.split():
    _name, _, _op = _pair.partition("=")
    TABLE[_name] = _elementwise(_op or _name)
TABLE |= {
    "Isnan": lambda call, x: call.node("IsNaN", x),
    "Isinf": lambda call, x: call.node("IsInf", x),
    "LogicalNot": lambda call, x: call.node("Not", call.cast(0, bool)),
    "Rsub": lambda call, a, b: call.node("Sub", call.cast(1), call.cast(0)),
    "Hardsigmoid": lambda call, x: call.node("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "Elu": lambda call, x, alpha: call.node("Elu", x, alpha=float(alpha)),
    "Gelu": lambda call, x, approximate: call.node("Gelu", x, approximate=approximate),
    "GeluBy": lambda call, x, cdf: call.node("Mul", x, cdf),
    "LeakyRelu": lambda call, x, slope: call.node("LeakyRelu", x, alpha=float(slope)),
    "Silu": lambda call, x: call.node("Mul", x, call.node("Sigmoid", x)),
    "Softmax": lambda call, x, dim: call.node("Softmax", x, axis=dim),
    "LogSoftmax": lambda call, x, dim: call.node("LogSoftmax", x, axis=dim),
    "LogSigmoid": lambda call, x: call.node("Neg", call.node("Softplus", call.node("Neg", x))),
    "Exp2": lambda call, x: call.node("Pow", call.number(2), x),
    "Expm1": lambda call, x: call.node("Sub", call.node("Exp", x), call.number(1)),
    "Log1p": lambda call, x: call.node("Log", call.node("Add", x, call.number(1))),
    "Log2": lambda call, x: call.node("Mul", call.node("Log", x), call.number(1 / math.log(2))),
    "Log10": lambda call, x: call.node("Mul", call.node("Log", x), call.number(1 / math.log(10))),
    "Rsqrt": lambda call, x: call.node("Reciprocal", call.node("Sqrt", x)),
    "Erfc": lambda call, x: call.node("Sub", call.number(1), call.node("Erf", x)),
    "Trunc": lambda call, x: call.node(
        "Mul", call.node("Sign", x), call.node("Floor", call.node("Abs", x))
    ),
    "Logit": lambda call, x: call.node(
        "Log", call.node("Div", x, call.node("Sub", call.number(1), x))
    ),
    "Pow": lambda call, a, exponent: call.node("Pow", call.cast(0), call.number(exponent)),
    "PowBase": lambda call, a, base: call.node("Pow", call.number(base), call.cast(0)),
    "MeanSquare": lambda call, x, dims: call.node(
        "ReduceMean", call.node("Mul", x, x), call.graph.integers(*dims), keepdims=1
    ),
    "Permute": lambda call, x, order: call.node("Transpose", x, perm=order),
    "Gather": lambda call, x, index, dim: call.node("GatherElements", x, index, axis=dim),
    "Cumsum": lambda call, x, dim: call.node("CumSum", call.cast(0), call.graph.constant(dim)),
    "Tril": lambda call, x, k: call.node("Trilu", x, call.graph.constant(k), upper=0),
    "Triu": lambda call, x, k: call.node("Trilu", x, call.graph.constant(k), upper=1),
    "EinSum": lambda call, *inputs, equation: call.node("Einsum", *inputs, equation=equation),
    "ToCopy": lambda call, x, dtype: call.cast(0),
    "Det": lambda call, x: call.node("Det", x),
}
for _op in ("Clone", "Contiguous", "Alias", "ToDevice"):
    TABLE[_op] = lambda call, x, **attributes: x
for _op in ("SortAlong", "TopkAlong", "MedianAlong", "KthvalueAlong"):
    TABLE[_op] = TABLE["Gather"]


def _comparison(op: str) -> Translator:
    def translate(call: Call, a: Any, b: Any) -> Any:
        dtype = call.common()
        return call.node(op, call.cast(0, dtype), call.cast(1, dtype))

    return translate


TABLE |= {
    "Eq": _comparison("Equal"),
    "Gt": _comparison("Greater"),
    "Ge": _comparison("GreaterOrEqual"),
    "Lt": _comparison("Less"),
    "Le": _comparison("LessOrEqual"),
    "Ne": lambda call, a, b: call.node("Not", _comparison("Equal")(call, a, b)),
}


@translates("LogicalAnd", "LogicalOr", "LogicalXor", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
def _of_truths(call: Call, a: Any, b: Any) -> Any:
    name = call.kernel.primitive.__name__
    if call.dtype != bool:
        return call.node(name, call.cast(0), call.cast(1))
    op = name.removeprefix("Logical").removeprefix("Bitwise")
    return call.node(op, call.cast(0, bool), call.cast(1, bool))


@translates("BitwiseNot")
def _bitwise_not(call: Call, x: str) -> Any:
    return call.node("Not" if call.dtype == bool else "BitwiseNot", x)


@translates("Isfinite")
def _isfinite(call: Call, x: str) -> Any:
    return call.node("Not", call.node("Or", call.node("IsNaN", x), call.node("IsInf", x)))


@translates("Clamp", "Hardtanh")
def _clamp(call: Call, x: str, low: Any, high: Any) -> Any:
    ends = ["" if end is None else call.number(end) for end in (low, high)]
    return call.node("Clip", call.cast(0), *ends)


@translates("Softplus")
def _softplus(call: Call, x: str, beta: float, threshold: float) -> Any:
    if beta == 1:
        return call.node("Softplus", x)
    scale = call.number(beta)
    return call.node("Div", call.node("Softplus", call.node("Mul", x, scale)), scale)


@translates("Remainder", "FloorDivide", "Fmod", "TruncDivide")
def _division(call: Call, a: Any, b: Any) -> Any:
    name = call.kernel.primitive.__name__
    a, b = call.cast(0), call.cast(1)
    if name == "Fmod" or (name == "Remainder" and call.dtype.kind in "iu"):
        return call.node("Mod", a, b, fmod=int(name == "Fmod"))
    if call.dtype.kind in "iu":
        if name == "TruncDivide":
            return call.node("Div", a, b)
        rest = call.node("Mod", a, b)
        return call.node("Div", call.node("Sub", a, rest), b)
    quotient = call.node("Div", a, b)
    if name == "TruncDivide":
        return call.node(
            "Mul", call.node("Sign", quotient), call.node("Floor", call.node("Abs", quotient))
        )
    whole = call.node("Floor", quotient)
    return whole if name == "FloorDivide" else call.node("Sub", a, call.node("Mul", whole, b))


@translates("Where")
def _where(call: Call, condition: Any, a: Any, b: Any) -> Any:
    return call.node("Where", call.cast(0, bool), call.cast(1), call.cast(2))


@translates("MaskedFill")
def _masked_fill(call: Call, x: str, mask: str, value: Any) -> Any:
    return call.node("Where", call.cast(1, bool), call.cast(2), call.cast(0))


@translates("Lerp", "LerpTensor")
def _lerp(call: Call, a: str, b: str, weight: Any) -> Any:
    weight = call.number(weight) if isinstance(weight, float | int) else weight
    return call.node("Add", a, call.node("Mul", weight, call.node("Sub", b, a)))


@translates("Hypot")
def _hypot(call: Call, a: Any, b: Any) -> Any:
    squares = [call.node("Mul", x, x) for x in (call.cast(0), call.cast(1))]
    return call.node("Sqrt", call.node("Add", *squares))


@translates("Logaddexp")
def _logaddexp(call: Call, a: Any, b: Any) -> Any:
    a, b = call.cast(0), call.cast(1)
    apart = call.node("Neg", call.node("Abs", call.node("Sub", a, b)))
    rest = call.node("Softplus", apart)
    return call.node("Add", call.node("Max", a, b), rest)


@translates("Xlogy")
def _xlogy(call: Call, a: Any, b: Any) -> Any:
    a, b = call.cast(0), call.cast(1)
    zero = call.number(0)
    product = call.node("Mul", a, call.node("Log", b))
    return call.node("Where", call.node("Equal", a, zero), zero, product)


@translates("NanToNum")
def _nan_to_num(call: Call, x: str, nan: float, posinf: float | None, neginf: float | None) -> Any:
    limits = np.finfo(call.dtype)
    for value, limit, signs in ((posinf, limits.max, (0, 1)), (neginf, limits.min, (1, 0))):
        test = call.node("IsInf", x, detect_negative=signs[0], detect_positive=signs[1])
        x = call.node("Where", test, call.number(limit if value is None else value), x)
    return call.node("Where", call.node("IsNaN", x), call.number(nan), x)


@translates(
    "Sum", "Mean", "Prod", "Amax", "Amin", "Max", "Min", "LogSumExp", "AllOf", "AnyOf", "Norm"
)
def _reduction(call: Call, x: str, dim: Any = None, keepdim: bool = False, p: float = 2) -> Any:
    name = call.kernel.primitive.__name__
    ops = {"Amax": "Max", "Amin": "Min", "AllOf": "Min", "AnyOf": "Max"}
    if name == "Norm" and p not in (1, 2, math.inf):
        raise ExportError(f"order {p} has no counterpart in ONNX here")
    op = f"L{p:g}" if name == "Norm" else ops.get(name, name)
    if name in ("AllOf", "AnyOf"):
        x = call.node("Cast", call.cast(0, bool), to=element_type(np.int32))
    elif name == "Norm" and p == math.inf:
        op, x = "Max", call.node("Abs", x)
    else:
        x = call.cast(0)
    if call.x().ndim:
        dims = range(call.x().ndim) if dim is None else [dim] if isinstance(dim, int) else dim
        x = call.node(f"Reduce{op}", x, call.graph.integers(*dims), keepdims=int(keepdim))
    elif name == "Norm":
        x = call.node("Abs", x)
    return call.node("Cast", x, to=element_type(bool)) if name in ("AllOf", "AnyOf") else x


@translates("Magnitude")
def _magnitude(call: Call, x: str, dim: Any) -> Any:
    """A power of two near the largest |x| if that is above 2⁴⁰ and finite, else 1."""
    dims = range(call.x().ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    size = call.node("ReduceMax", call.node("Abs", x), call.graph.integers(*dims), keepdims=1)
    exponent = call.node("Mul", call.node("Log", size), call.number(1 / math.log(2)))
    power = call.node("Pow", call.number(2), call.node("Ceil", exponent))
    above = call.node("Greater", size, call.number(2.0**40))
    finite = call.node("Less", power, call.number(math.inf))
    return call.node("Where", call.node("And", above, finite), power, call.number(1))


@translates("Var", "Std")
def _variance(
    call: Call, x: str, dim: Any = None, correction: float = 1, keepdim: bool = False
) -> Any:
    name, shape = call.kernel.primitive.__name__, call.x().shape
    chosen = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = call.graph.integers(*chosen)
    apart = call.node("Sub", x, call.node("ReduceMean", x, dims, keepdims=1))
    total = call.node("ReduceSumSquare", apart, dims, keepdims=int(keepdim))
    size = call.node("ReduceProd", call.node("Gather", call.node("Shape", x), dims), keepdims=0)
    size = call.node("Cast", size, to=element_type(call.dtype))
    result = call.node("Div", total, call.node("Sub", size, call.number(correction)))
    return call.node("Sqrt", result) if name == "Std" else result


@translates("Argmax", "Argmin")
def _arg(call: Call, x: str, dim: int | None = None, keepdim: bool = False) -> Any:
    op = "ArgMax" if call.kernel.primitive.__name__ == "Argmax" else "ArgMin"
    if call.x().dtype == bool:
        x = call.cast(0, np.int32)
    if dim is None:
        x, dim, keepdim = call.node("Reshape", x, call.graph.integers(-1)), 0, False
    return call.node(op, x, axis=dim, keepdims=int(keepdim))


@translates("Argsort")
def _argsort(call: Call, x: str, dim: int = -1, descending: bool = False) -> Any:
    axis = dim % max(call.ndim, 1)
    size = call.node("Shape", x, start=axis, end=axis + 1)
    _, order = call.node("TopK", x, size, axis=axis, largest=int(descending), outputs=2)
    return order


@translates("Argfirst")
def _argfirst(call: Call, x: str, k: int, dim: int, descending: bool) -> Any:
    count = call.graph.integers(k)
    return call.node("TopK", x, count, axis=dim, largest=int(descending), outputs=2)[1]


@translates("Argkth")
def _argkth(call: Call, x: str, k: int, dim: int) -> Any:
    order, (start, end, axis) = _argfirst(call, x, k, dim, False), (k - 1, k, dim)
    return call.node("Slice", order, *(call.graph.integers(n) for n in (start, end, axis)))


# Shapes


@translates("Reshape", "View", "UnsafeView")
def _reshape(call: Call, x: str, shape: Any) -> Any:
    open_sizes = [isinstance(size, Rows) for size in shape]
    if sum(open_sizes) == 1 and 0 not in shape:  # ONNX finds the one size that is left open
        shape = tuple(-1 if isinstance(size, Rows) else size for size in shape)
        return call.node("Reshape", x, call.graph.integers(*shape))
    return call.node("Reshape", x, call.graph.shape(shape), allowzero=1)


@translates("Expand")
def _expand(call: Call, x: str, shape: Any) -> Any:
    return call.node("Expand", x, call.graph.shape(shape))


@translates("FullLike")
def _full_like(call: Call, x: str, value: Any) -> Any:
    return call.node("Expand", call.number(value), call.node("Shape", x))


@translates("Transpose", "T")
def _transpose(call: Call, x: str, dim0: int, dim1: int) -> Any:
    order = list(range(call.ndim))
    if call.ndim:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return call.node("Transpose", x, perm=order)


@translates("MaxAlong", "MinAlong")
def _extreme_along(call: Call, x: str, index: str, dim: int) -> Any:
    """The elements at places, which may lack the dimension that they are counted along."""
    lacking = call.x(1).ndim < call.x().ndim
    if lacking:
        index = call.node("Unsqueeze", index, call.graph.integers(dim))
    y = call.node("GatherElements", x, index, axis=dim)
    return call.node("Squeeze", y, call.graph.integers(dim)) if lacking else y


@translates("Squeeze")
def _squeeze(call: Call, x: str, dims: Any, origin: int) -> Any:
    ones = [d for d in dims if call.x().shape[d] == 1]
    return call.node("Squeeze", x, call.graph.integers(*ones)) if ones else x


@translates("Unsqueeze")
def _unsqueeze(call: Call, x: str, dim: int) -> Any:
    return call.node("Unsqueeze", x, call.graph.integers(dim))


@translates("BasicIndex", "Select", "SplitPiece", "Unbound")
def _basic_index(call: Call, x: str, key: Any) -> Any:
    """Slices, then the dimensions taken out by ints, then new ones."""
    key = key if Ellipsis in key else (*key, Ellipsis)
    used = sum(item is not None and item is not Ellipsis for item in key)
    whole = [slice(None)] * (call.x().ndim - used)
    place = key.index(Ellipsis)
    starts, ends, axes, steps, gone, new = [], [], [], [], [], []
    dim = result = 0
    for item in (*key[:place], *whole, *key[place + 1 :]):
        if item is None:
            new.append(result)
            result += 1
            continue
        if isinstance(item, slice):
            result += 1
            if item == slice(None):
                dim += 1
                continue
            start, stop, step = item.start or 0, item.stop, item.step or 1
            stop = 2**62 if stop is None else stop
        else:
            start, step = item, 1
            stop = 2**62 if item == -1 else _plus(item, 1)
            gone.append(dim)
        starts.append(start)
        ends.append(stop)
        axes.append(dim)
        steps.append(step)
        dim += 1
    shape, integers = call.graph.shape, call.graph.integers
    if axes:
        x = call.node("Slice", x, shape(starts), shape(ends), integers(*axes), integers(*steps))
    if gone:
        x = call.node("Squeeze", x, integers(*gone))
    if new:
        x = call.node("Unsqueeze", x, integers(*new))
    return x


def _plus(value: Any, number: int) -> Any:
    return Rows(value.factor, value.rest + number) if isinstance(value, Rows) else value + number


@translates("Index")
def _index(call: Call, x: str, *indices: str, key: Any) -> Any:
    """One index tensor along one dimension, or several along the first dimensions."""
    full = slice(None)
    places = [number for number, item in enumerate(key) if isinstance(item, str)]
    if Ellipsis in key[: places[-1]] or any(
        item != full for item in key if not isinstance(item, str) and item is not Ellipsis
    ):
        raise ExportError("this mixture of indices has no counterpart in ONNX here")
    if len(places) == 1:
        return call.node("Gather", x, indices[0], axis=places[0])
    return call.node("GatherND", x, _stacked(call, x, indices, places, call.kernel.operands[1:]))


def _stacked(call: Call, x: str, indices: Any, places: list[int], arrays: Any) -> Any:
    """Index tensors along the first dimensions as one, whose last dimension has one of each."""
    if places != list(range(len(places))):
        raise ExportError("index tensors that do not stand first have no counterpart in ONNX here")
    if any(index.shape != arrays[0].shape for index in arrays):
        raise ExportError("index tensors of several shapes have no counterpart in ONNX here")
    wrapped = []
    for axis, index in enumerate(indices):  # GatherND takes no negative numbers in all runtimes
        size = call.node("Shape", x, start=axis, end=axis + 1)
        negative = call.node("Less", index, call.graph.constant(0, dtype=arrays[axis].dtype))
        wrapped.append(call.node("Where", negative, call.node("Add", index, size), index))
    last = call.graph.integers(-1)
    return call.node("Concat", *(call.node("Unsqueeze", i, last) for i in wrapped), axis=-1)


@translates("IndexPut")
def _index_put(
    call: Call, x: str, value: str, *indices: str, key: Any, accumulate: bool = False
) -> Any:
    """Values at index tensors along the first dimensions, written or added there."""
    places = [number for number, item in enumerate(key) if isinstance(item, str)]
    others = [item for item in key if not isinstance(item, str)]
    base, values, *arrays = call.kernel.operands
    whole = all(item == slice(None) or item is Ellipsis for item in others)
    shape = (*arrays[0].shape, *base.shape[len(places) :])
    if not whole or getattr(values, "shape", None) != shape:
        raise ExportError("this write at indices has no counterpart in ONNX here")
    stacked = _stacked(call, x, indices, places, arrays)
    reduction = "add" if accumulate else "none"
    return call.node("ScatterND", x, stacked, value, reduction=reduction)


@translates("Flip")
def _flip(call: Call, x: str, dims: Any) -> Any:
    integers, count = call.graph.integers, len(dims)
    starts, ends = integers(*[-1] * count), integers(*[-(2**62)] * count)
    return call.node("Slice", x, starts, ends, integers(*dims), starts)


@translates("Roll")
def _roll(call: Call, x: str, shifts: Any, dims: Any) -> Any:
    pairs = zip(*((n,) if isinstance(n, int) else n for n in (shifts, dims)), strict=True)
    integers = call.graph.integers
    for shift, dim in pairs:
        if shift:
            cut = -(shift % max(call.x().shape[dim], 1))  # Slice counts from the end
            cuts = [(cut, 2**62), (0, cut)] if cut else [(0, 2**62)]
            parts = [
                call.node("Slice", x, integers(a), integers(b), integers(dim)) for a, b in cuts
            ]
            x = call.node("Concat", *parts, axis=dim)
    return x


@translates("Atan2")
def _atan2(call: Call, a: Any, b: Any) -> Any:
    """atan(a / b), and half a turn more where b is negative."""
    a, b = call.cast(0), call.cast(1)
    zero = call.number(0)
    turn = call.node(
        "Where", call.node("Less", a, zero), call.number(-math.pi), call.number(math.pi)
    )
    angle = call.node("Atan", call.node("Div", a, b))
    angle = call.node("Add", angle, call.node("Where", call.node("Less", b, zero), turn, zero))
    both = call.node("And", call.node("Equal", a, zero), call.node("Equal", b, zero))
    return call.node("Where", both, zero, angle)


@translates("Fill")
def _fill(call: Call, x: str, value: Any) -> Any:
    return call.node("Expand", call.cast(1), call.node("Shape", x))


@translates("Copy")
def _copy(call: Call, x: str, source: Any) -> Any:
    return call.node("Expand", call.cast(1), call.node("Shape", x))


@translates("Zero")
def _zero(call: Call, x: str) -> Any:
    return call.node("Expand", call.number(0), call.node("Shape", x))


@translates("CopySlices", "ConstantPad")
def _copy_slices(call: Call, base: str, value: Any, path: Any) -> Any:
    """The base with a value at the places that a view shows: their numbers say where."""
    node, integers = call.node, call.graph.integers
    size = node("Shape", base)
    count = node("ReduceProd", size, keepdims=0)
    ends = [call.graph.constant(n, dtype=np.int64) for n in (0, 1)]
    places = node("Reshape", node("Range", ends[0], count, ends[1]), size)
    shown = np.empty(call.x().shape, bool)  # as wide as the base, for the ranks on the way
    for view, attributes in path:
        kernel = call.kernel._replace(operands=(shown,), out=view.kernel(np, shown, **attributes))
        translator = TABLE.get(view.__name__)
        if translator is None:
            raise ExportError(f"a write through {view.title()} has no counterpart in ONNX here")
        places = translator(Call(call.graph, kernel, [places]), places, **attributes)
        shown = kernel.out
    flat = integers(-1)
    values = node("Reshape", node("Expand", call.cast(1), node("Shape", places)), flat)
    target = node(
        "ScatterElements", node("Reshape", base, flat), node("Reshape", places, flat), values
    )
    return node("Reshape", target, size)


@translates("Cat")
def _cat(call: Call, *inputs: Any, dim: int) -> Any:
    return call.node("Concat", *map(call.cast, range(len(inputs))), axis=dim)


@translates("Stack")
def _stack(call: Call, *inputs: Any, dim: int) -> Any:
    axis = call.graph.integers(dim)
    parts = [call.node("Unsqueeze", call.cast(n), axis) for n in range(len(inputs))]
    return call.node("Concat", *parts, axis=dim)


# Products


@translates("Mm", "Bmm", "BatchedMatMul", "Mv", "Dot")
def _matmul(call: Call, a: Any, b: Any) -> Any:
    return call.node("MatMul", call.cast(0), call.cast(1))


@translates("LinearLayer")
def _linear(call: Call, x: str, weight: str, bias: str | None) -> Any:
    x, weight = call.cast(0), call.cast(1)
    added = [] if bias is None else [call.cast(2)]
    if call.x().ndim == 2 and call.x(1).ndim == 2:
        return call.node("Gemm", x, weight, *added, transB=1)
    turned = call.node("Transpose", weight, perm=[1, 0]) if call.x(1).ndim == 2 else weight
    product = call.node("MatMul", x, turned)
    return call.node("Add", product, *added) if added else product


# Layers


@translates("Attention")
def _attention(
    call: Call, query: str, key: str, value: str, mask: Any, seed: Any,
    causal: bool, scale: float, dropout: float,
) -> Any:  # fmt: skip
    node, low = call.node, call.number(np.finfo(call.dtype).min)
    scores = node("MatMul", query, node("Transpose", key, perm=[0, 1, 3, 2]))
    scores = node("Mul", scores, call.number(scale))
    if mask is not None and call.x(3).dtype != bool:
        scores = node("Add", scores, call.cast(3))
    counts = mask if mask is not None and call.x(3).dtype == bool else None
    if causal:
        lower = node(
            "Trilu", node("Expand", call.graph.constant(True), node("Shape", scores)), upper=0
        )
        counts = lower if counts is None else node("And", counts, lower)
    if counts is not None:
        scores = node("Where", counts, scores, low)
    weights = node("Softmax", scores, axis=-1)
    if counts is not None:  # a query that no key counts for
        weights = node("Where", counts, weights, call.number(0))
    return node("MatMul", weights, value)


@translates("NormalCdf")
def _normal_cdf(call: Call, x: str) -> Any:
    above = call.node("Erf", call.node("Mul", x, call.number(0.5**0.5)))
    return call.node("Mul", call.number(0.5), call.node("Add", call.number(1), above))


@translates("LayerNorm", "BatchNorm")
def _layer_norm(
    call: Call, x: str, weight: Any, bias: Any, scores: Any, dims: Any, eps: float, sums: Any
) -> Any:
    shape = call.x().shape[len(call.x().shape) - len(dims) :]
    if weight is not None and call.x(1).shape == shape:
        inputs = [x, weight] + ([] if bias is None else [bias])
        return call.node("LayerNormalization", *inputs, axis=min(dims), epsilon=float(eps))
    y = _standardize(call, x, dims, eps)
    y = y if weight is None else call.node("Mul", y, weight)
    return y if bias is None else call.node("Add", y, bias)


@translates("Scores")
def _scores(call: Call, x: str, dims: Any, eps: float) -> Any:
    return call.node(
        "Concat",
        *(
            call.node("Reshape", part, call.graph.integers(-1))
            for part in _standardized(call, x, dims, eps)
        ),
        axis=0,
    )


@translates("Affine")
def _affine(call: Call, x: str, weight: str, bias: str) -> Any:
    return call.node("Add", call.node("Mul", x, weight), bias)


@translates("Standardize")
def _standardize(call: Call, x: str, dims: Any, eps: float) -> Any:
    return _standardized(call, x, dims, eps)[0]


def _standardized(call: Call, x: str, dims: Any, eps: float) -> tuple[Any, ...]:
    """Standardized x, the means, the variances and 1 / sqrt(var + eps)."""
    axes = call.graph.integers(*dims)
    mean = call.node("ReduceMean", x, axes, keepdims=1)
    apart = call.node("Sub", x, mean)
    variance = call.node("ReduceMean", call.node("Mul", apart, apart), axes, keepdims=1)
    deviation = call.node("Sqrt", call.node("Add", variance, call.number(eps)))
    return call.node("Div", apart, deviation), mean, variance, call.node("Reciprocal", deviation)


def _pads(padding: Any) -> list[int]:
    return [before for before, _ in padding] + [after for _, after in padding]


@translates("Convolution")
def _convolution(
    call: Call, x: str, weight: str, bias: str | None, windows: Any, groups: int
) -> Any:
    inputs = [x, weight] + ([] if bias is None else [bias])
    return call.node(
        "Conv",
        *inputs,
        kernel_shape=windows.size,
        strides=windows.stride,
        pads=_pads(windows.padding),
        dilations=windows.dilation,
        group=groups,
    )


@translates("ConvolutionInput")
def _transposed(
    call: Call, x: str, weight: str, bias: str | None, shape: Any, windows: Any, groups: int
) -> Any:
    inputs = [x, weight] + ([] if bias is None else [bias])
    spatial = zip(
        shape, call.x().shape[2:], windows.size, windows.stride, windows.padding, windows.dilation,
        strict=True,
    )  # fmt: skip
    beyond = [n + sum(p) - ((m - 1) * s + d * (k - 1) + 1) for n, m, k, s, p, d in spatial]
    return call.node(
        "ConvTranspose",
        *inputs,
        kernel_shape=windows.size,
        strides=windows.stride,
        pads=_pads(windows.padding),
        dilations=windows.dilation,
        output_padding=beyond,
        group=groups,
    )


@translates("Unfold")
def _unfold(call: Call, x: str, windows: Any = None, **attributes: Any) -> Any:
    """The windows of images, whose elements have fixed places among the pixels."""
    if windows is None:
        raise ExportError("windows along one dimension have no counterpart in ONNX here")
    pads = _pads(((0, 0), (0, 0), *windows.padding))
    padded, counts = windows.padded(call.x().shape[2:]), windows.counts(call.x().shape[2:])
    first = np.add.outer(
        np.arange(counts[0]) * windows.stride[0] * padded[1],
        np.arange(counts[1]) * windows.stride[1],
    )
    places = np.add.outer(windows.offsets(padded), first.ravel())
    integers = call.graph.integers
    pixels = call.node("Pad", x, integers(*pads)) if any(pads) else x
    pixels = call.node("Reshape", pixels, integers(0, 0, -1))
    columns = call.node("Gather", pixels, call.graph.constant(places), axis=2)
    return call.node("Reshape", columns, integers(0, -1, first.size))


@translates("Fold")
def _fold(call: Call, x: str, shape: Any, windows: Any = None, **attributes: Any) -> Any:
    if windows is None:
        raise ExportError("windows along one dimension have no counterpart in ONNX here")
    return call.node(
        "Col2Im",
        x,
        call.graph.integers(*shape),
        call.graph.integers(*windows.size),
        strides=windows.stride,
        pads=_pads(windows.padding),
        dilations=windows.dilation,
    )


@translates("MaxPool")
def _max_pool(call: Call, x: str, windows: Any) -> Any:
    return call.node(
        "MaxPool",
        x,
        kernel_shape=windows.size,
        strides=windows.stride,
        pads=_pads(windows.padding),
        dilations=windows.dilation,
    )


@translates("AveragePool")
def _average_pool(call: Call, x: str, windows: Any, divisors: Any) -> Any:
    """The mean over whole windows, which is scaled where another divisor is wanted."""
    mean = call.node(
        "AveragePool",
        x,
        kernel_shape=windows.size,
        strides=windows.stride,
        pads=_pads(windows.padding),
        count_include_pad=1,
        dilations=windows.dilation,
    )
    scale = math.prod(windows.size) / np.asarray(divisor(np, divisors, call.dtype))
    if (scale == 1).all():
        return mean
    return call.node("Mul", mean, call.graph.constant(scale.astype(call.dtype)))


@translates("Recurrence")
def _recurrence(
    call: Call, pre: str, h0: str, c0: str | None, weight: str, bias: str | None,
    mode: str, batch_sizes: Any, backwards: bool, with_gates: bool = False,
) -> Any:  # fmt: skip
    """A Scan over the steps, whose body is one step of the recurrence."""
    if len(set(batch_sizes)) != 1:
        raise ExportError("sequences of several lengths have no counterpart in ONNX here")
    graph, width = call.graph, call.x(3).shape[1]
    steps, gates = len(batch_sizes), call.x(0).shape[1]
    sequence = graph.node("Reshape", pre, graph.integers(steps, -1, gates))
    body = Graph(graph.values)
    kind, info = element_type(call.dtype), helper.make_tensor_value_info
    now, *states = [body.name(name) for name in (["now", "h"] if c0 is None else ["now", "h", "c"])]
    ins = [info(name, kind, [None, width]) for name in states] + [info(now, kind, [None, gates])]
    hidden = body.node("MatMul", states[0], body.constant(np.ascontiguousarray(call.x(3).T)))
    if bias is not None:
        hidden = body.node("Add", hidden, body.constant(call.x(4)))
    results = _step(body, mode, now, states, hidden)
    # A scan hands out what it carries under one name and what it collects under another.
    collected = [body.node("Identity", result) for result in results]
    outs = [info(name, kind, [None, width]) for name in (*results, *collected)]
    whole = graph.node(
        "Scan",
        *[h0, c0 or ""][: len(states)],
        sequence,
        outputs=2 * len(states),
        body=helper.make_graph(body.nodes, "step", ins, outs, body.initializers),
        num_scan_inputs=1,
        scan_input_directions=[int(backwards)],
        scan_output_directions=[int(backwards)] * len(states),
    )
    flat = graph.integers(1, -1, width)
    parts = [graph.node("Reshape", name, flat) for name in whole[len(states) :]]
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=0)


def _step(body: Graph, mode: str, now: str, states: list[str], hidden: str) -> list[str]:
    """The nodes of one step: the new h, and for an LSTM the new c."""
    node, h = body.node, states[0]

    def blocks(value: str, count: int) -> list[str]:
        return list(node("Split", value, outputs=count, axis=1, num_outputs=count))

    if mode.startswith("RNN"):
        return [node("Tanh" if mode == "RNN_TANH" else "Relu", node("Add", now, hidden))]
    if mode == "LSTM":
        i, f, n, o = blocks(node("Add", now, hidden), 4)
        i, f, o = (node("Sigmoid", gate) for gate in (i, f, o))
        c = node("Add", node("Mul", f, states[1]), node("Mul", i, node("Tanh", n)))
        return [node("Mul", o, node("Tanh", c)), c]
    (r1, z1, n1), (r2, z2, n2) = blocks(now, 3), blocks(hidden, 3)
    r, z = node("Sigmoid", node("Add", r1, r2)), node("Sigmoid", node("Add", z1, z2))
    n = node("Tanh", node("Add", n1, node("Mul", r, n2)))
    return [node("Add", n, node("Mul", z, node("Sub", h, n)))]
