"""The operators and methods of tensors: each is one line that names the op.

Methods that compute are the op functions themselves (`x.exp()` is `ops.exp(x)`); methods that end
in `_` write the result of a primitive into the tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from nanotorch import ops, sampling
from nanotorch.autograd.engine import apply
from nanotorch.autograd.inplace import apply_inplace
from nanotorch.autograd.rings import modes
from nanotorch.backend import dtypes
from nanotorch.node import Traced
from nanotorch.ops import (
    activations,
    arithmetic,
    casting,
    comparisons,
    division,
    elementwise,
    error_function,
    indexing,
    pairs,
    powers,
)
from nanotorch.primitive import Primitive

Operand = (Traced, int, float, complex, numpy.ndarray, numpy.generic)


def operator(primitive: type[Primitive]) -> Callable[[Any, Any], Any]:
    """The method of a binary operator."""

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, Operand):
            return NotImplemented
        return self._apply(primitive, (self, other), {})

    return method


def reflected(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The method of a binary operator whose left operand is not a tensor."""

    def method(self: Any, other: Any) -> Any:
        return function(other, self) if isinstance(other, Operand) else NotImplemented

    return method


def in_place(primitive: type[Primitive], **fixed: Any) -> Callable[..., Any]:
    """The method that writes primitive(self, operands) into self."""

    def method(self: Any, *operands: Any, **attributes: Any) -> Any:
        return apply_inplace(primitive, self, *operands, **fixed, **attributes)

    method.__doc__ = f"{primitive.__doc__}, in place."
    return method


def casting_to(kind: dtypes.dtype) -> Callable[[Any], Any]:
    """The method that gives a tensor in another dtype; itself where it has that already."""

    def method(self: Any) -> Any:
        return ops.cast(self, kind.numpy)

    method.__doc__ = f"Itself as {kind.name}."
    return method


class Casts(Traced):
    """The methods that are named after dtypes."""

    half = casting_to(dtypes.float16)
    bfloat16 = casting_to(dtypes.bfloat16)
    float = casting_to(dtypes.float32)
    double = casting_to(dtypes.float64)
    int = casting_to(dtypes.int32)
    long = casting_to(dtypes.int64)
    bool = casting_to(dtypes.bool_)


class Operators(Casts):
    """What a tensor can be asked to compute."""

    _apply = apply

    def _mixes(self) -> bool:
        return any(ring.casts for ring in modes.rings)

    __getitem__ = ops.getitem
    __setitem__ = ops.setitem

    __add__ = operator(arithmetic.Add)
    __radd__ = operator(arithmetic.Add)
    __sub__ = operator(arithmetic.Sub)
    __rsub__ = operator(arithmetic.Rsub)
    __mul__ = operator(arithmetic.Mul)
    __rmul__ = operator(arithmetic.Mul)
    __truediv__ = operator(arithmetic.Div)
    __rtruediv__ = reflected(lambda a, b: ops.reciprocal(b) * a)
    __floordiv__ = operator(division.FloorDivide)
    __rfloordiv__ = reflected(ops.floor_divide)
    __mod__ = operator(division.Remainder)
    __rmod__ = reflected(ops.remainder)
    __pow__ = ops.power
    __rpow__ = reflected(ops.power)
    __matmul__ = ops.matmul
    __rmatmul__ = reflected(ops.matmul)
    __neg__ = ops.neg
    __abs__ = ops.abs
    __invert__ = ops.bitwise_not
    __eq__ = operator(comparisons.Eq)
    __ne__ = operator(comparisons.Ne)
    __lt__ = operator(comparisons.Lt)
    __le__ = operator(comparisons.Le)
    __gt__ = operator(comparisons.Gt)
    __ge__ = operator(comparisons.Ge)
    __and__ = __rand__ = operator(comparisons.BitwiseAnd)
    __or__ = __ror__ = operator(comparisons.BitwiseOr)
    __xor__ = __rxor__ = operator(comparisons.BitwiseXor)
    __hash__ = object.__hash__

    def __pos__(self) -> Any:
        return self

    add = ops.add
    sub = ops.sub
    mul = ops.mul
    div = ops.div
    floor_divide = ops.floor_divide
    remainder = ops.remainder
    fmod = ops.fmod
    maximum = ops.maximum
    minimum = ops.minimum
    atan2 = ops.atan2
    hypot = ops.hypot
    logaddexp = ops.logaddexp
    xlogy = ops.xlogy
    lerp = ops.lerp
    addcmul = ops.addcmul
    addcdiv = ops.addcdiv

    eq = ops.eq
    ne = ops.ne
    lt = ops.lt
    le = ops.le
    gt = ops.gt
    ge = ops.ge
    logical_and = ops.logical_and
    logical_or = ops.logical_or
    logical_xor = ops.logical_xor
    logical_not = ops.logical_not
    bitwise_and = ops.bitwise_and
    bitwise_or = ops.bitwise_or
    bitwise_xor = ops.bitwise_xor
    bitwise_not = ops.bitwise_not
    isnan = ops.isnan
    isinf = ops.isinf
    isfinite = ops.isfinite
    isclose = ops.isclose
    allclose = ops.allclose
    equal = ops.equal
    masked_fill = ops.masked_fill
    nonzero = ops.nonzero

    neg = ops.neg
    abs = ops.abs
    sign = ops.sign
    reciprocal = ops.reciprocal
    exp = ops.exp
    exp2 = ops.exp2
    expm1 = ops.expm1
    log = ops.log
    log2 = ops.log2
    log10 = ops.log10
    log1p = ops.log1p
    sqrt = ops.sqrt
    rsqrt = ops.rsqrt
    sin = ops.sin
    cos = ops.cos
    tan = ops.tan
    asin = ops.asin
    acos = ops.acos
    atan = ops.atan
    sinh = ops.sinh
    cosh = ops.cosh
    tanh = ops.tanh
    asinh = ops.asinh
    acosh = ops.acosh
    atanh = ops.atanh
    erf = ops.erf
    erfc = ops.erfc
    frac = ops.frac
    logit = ops.logit
    floor = ops.floor
    ceil = ops.ceil
    trunc = ops.trunc
    round = ops.round
    nan_to_num = ops.nan_to_num
    square = ops.square
    clamp = ops.clamp

    sigmoid = ops.sigmoid
    relu = ops.relu
    softmax = ops.softmax
    log_softmax = ops.log_softmax

    sum = ops.sum
    mean = ops.mean
    prod = ops.prod
    max = ops.max
    min = ops.min
    amax = ops.amax
    amin = ops.amin
    argmax = ops.argmax
    argmin = ops.argmin
    argsort = ops.argsort
    sort = ops.sort
    topk = ops.topk
    median = ops.median
    quantile = ops.quantile
    unique = ops.unique
    bincount = ops.bincount
    all = ops.all
    any = ops.any
    logsumexp = ops.logsumexp
    cumsum = ops.cumsum
    cumprod = ops.cumprod
    diff = ops.diff
    nansum = ops.nansum
    nanmean = ops.nanmean
    var = ops.var
    std = ops.std
    norm = ops.norm
    count_nonzero = ops.count_nonzero

    view = ops.view
    view_as = ops.view_as
    reshape = ops.reshape
    reshape_as = ops.reshape_as
    flatten = ops.flatten
    unflatten = ops.unflatten
    expand = ops.expand
    expand_as = ops.expand_as
    permute = ops.permute
    transpose = ops.transpose
    t = ops.t
    movedim = moveaxis = ops.movedim
    squeeze = ops.squeeze
    unsqueeze = ops.unsqueeze
    narrow = ops.narrow
    select = ops.select
    split = ops.split
    chunk = ops.chunk
    unbind = ops.unbind
    diagonal = ops.diagonal
    diag_embed = ops.diag_embed
    ravel = ops.ravel
    broadcast_to = ops.broadcast_to

    repeat = ops.repeat
    tile = ops.tile
    repeat_interleave = ops.repeat_interleave
    tril = ops.tril
    triu = ops.triu

    gather = ops.gather
    scatter = ops.scatter
    scatter_add = ops.scatter_add
    index_select = ops.index_select
    index_put = ops.index_put
    index_add = ops.index_add
    masked_select = ops.masked_select
    index_copy = ops.index_copy
    index_fill = ops.index_fill
    take_along_dim = ops.take_along_dim
    take = ops.take
    flip = ops.flip
    fliplr = ops.fliplr
    flipud = ops.flipud
    roll = ops.roll

    matmul = ops.matmul
    mm = ops.mm
    bmm = ops.bmm
    mv = ops.mv
    dot = ops.dot
    outer = ops.outer
    addmm = ops.addmm
    baddbmm = ops.baddbmm
    inner = ops.inner
    inverse = ops.inv
    det = ops.det
    logdet = ops.logdet
    slogdet = ops.slogdet
    trace = ops.trace
    diag = ops.diag

    clone = ops.clone
    pow = ops.power
    subtract, multiply, divide, true_divide = ops.sub, ops.mul, ops.div, ops.div
    absolute, negative, clip = ops.abs, ops.neg, ops.clamp
    greater, greater_equal, less, less_equal = ops.gt, ops.ge, ops.lt, ops.le
    swapaxes = swapdims = ops.transpose

    T = property(
        lambda x: ops.permute(x, tuple(reversed(range(x.ndim)))), doc="Dimensions reversed."
    )
    mT = property(lambda x: ops.transpose(x, -2, -1), doc="The last two dimensions exchanged.")

    mul_ = in_place(arithmetic.Mul)
    div_ = in_place(arithmetic.Div)
    floor_divide_ = in_place(division.FloorDivide)
    remainder_ = in_place(division.Remainder)
    __iadd__, __isub__ = in_place(arithmetic.Add), in_place(arithmetic.Sub)
    __imul__, __itruediv__ = mul_, div_
    __ifloordiv__, __imod__ = floor_divide_, remainder_
    __iand__ = in_place(comparisons.BitwiseAnd)
    __ior__ = in_place(comparisons.BitwiseOr)
    __ixor__ = in_place(comparisons.BitwiseXor)

    neg_ = in_place(elementwise.Neg)
    sign_ = in_place(elementwise.Sign)
    exp2_ = in_place(elementwise.Exp2)
    log2_ = in_place(elementwise.Log2)
    log10_ = in_place(elementwise.Log10)
    tan_ = in_place(elementwise.Tan)
    atan_ = in_place(elementwise.Atan)
    erf_ = in_place(error_function.Erf)
    round_ = in_place(elementwise.Round)
    square_ = in_place(powers.Pow, exponent=2)
    abs_ = in_place(elementwise.Abs)
    reciprocal_ = in_place(elementwise.Reciprocal)
    exp_ = in_place(elementwise.Exp)
    expm1_ = in_place(elementwise.Expm1)
    log_ = in_place(elementwise.Log)
    log1p_ = in_place(elementwise.Log1p)
    sqrt_ = in_place(elementwise.Sqrt)
    rsqrt_ = in_place(elementwise.Rsqrt)
    sin_ = in_place(elementwise.Sin)
    cos_ = in_place(elementwise.Cos)
    tanh_ = in_place(elementwise.Tanh)
    floor_ = in_place(elementwise.Floor)
    ceil_ = in_place(elementwise.Ceil)
    trunc_ = in_place(elementwise.Trunc)
    sigmoid_ = in_place(activations.Sigmoid)
    relu_ = in_place(activations.Relu)
    copy_ = in_place(casting.Copy)
    fill_ = in_place(casting.Fill)
    zero_ = in_place(casting.Zero)
    masked_fill_ = in_place(comparisons.MaskedFill)

    uniform_ = sampling.uniform_
    normal_ = sampling.normal_
    exponential_ = sampling.exponential_
    bernoulli_ = sampling.bernoulli_
    random_ = sampling.random_
    bernoulli = sampling.bernoulli
    multinomial = sampling.multinomial

    def _apply_inplace(self, primitive: type[Primitive], *operands: Any, **attributes: Any) -> Any:
        return apply_inplace(primitive, self, *operands, **attributes)

    def add_(self, other: Any, *, alpha: float = 1) -> Any:
        """x + alpha * other, in place."""
        return apply_inplace(arithmetic.Add, self, other if alpha == 1 else other * alpha)

    def sub_(self, other: Any, *, alpha: float = 1) -> Any:
        """x - alpha * other, in place."""
        return apply_inplace(arithmetic.Sub, self, other if alpha == 1 else other * alpha)

    def addcmul_(self, a: Any, b: Any, *, value: float = 1) -> Any:
        """x + value * a * b, in place."""
        return self.add_(a * b, alpha=value)

    def addcdiv_(self, a: Any, b: Any, *, value: float = 1) -> Any:
        """x + value * a / b, in place."""
        return self.add_(a / b, alpha=value)

    def lerp_(self, end: Any, weight: Any) -> Any:
        """x + weight * (end - x), in place."""
        pairs.same_dtype(self, end, weight)
        if isinstance(weight, Traced):
            return apply_inplace(pairs.LerpTensor, self, end, weight)
        return apply_inplace(pairs.Lerp, self, end, weight=weight)

    def pow_(self, exponent: Any) -> Any:
        """x ** exponent, in place."""
        if isinstance(exponent, Traced):
            return apply_inplace(powers.PowTensor, self, exponent)
        return apply_inplace(powers.Pow, self, exponent=exponent)

    __ipow__ = pow_

    def clamp_(self, min: Any = None, max: Any = None) -> Any:
        """x held within [min, max], numbers, in place."""
        return apply_inplace(elementwise.Clamp, self, low=min, high=max)

    def scatter_(self, dim: int, index: Any, src: Any) -> Any:
        """Writes the elements of `src` (or a number) at `index` along `dim`."""
        return apply_inplace(indexing.Scatter, self, index, src, dim=dim, add=False)

    def scatter_add_(self, dim: int, index: Any, src: Any) -> Any:
        """Adds the elements of `src` at `index` along `dim`."""
        return apply_inplace(indexing.Scatter, self, index, src, dim=dim, add=True)

    def index_put_(self, indices: tuple[Any, ...], values: Any, accumulate: bool = False) -> Any:
        """Writes `values` at the index tensors, or adds them there."""
        key = ("index_put",) * len(indices)
        return apply_inplace(
            indexing.IndexPut, self, values, *indices, key=key, accumulate=accumulate
        )

    def index_add_(self: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
        """Adds the slices of `source`, times alpha, at `index` along `dim`."""
        key = ops.keys.along(ops.shapes.dimension(dim, self.ndim), "index_add")
        value = source if alpha == 1 else source * alpha
        return apply_inplace(indexing.IndexPut, self, value, index, key=key, accumulate=True)
