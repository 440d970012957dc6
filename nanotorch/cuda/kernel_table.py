"""Which kernel of ours computes a primitive on a CUDA device, in place of CuPy's functions.

Each has the parameters of the primitive's `kernel`, and returns NotImplemented for what it leaves
to that. The table joins the package when CuPy is loaded: `LOADED_WITH_CUDA` in `backend.devices`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nanotorch.backend import Array, cuda_parts, is_array
from nanotorch.backend.cuda import (
    checks,
    cublas,
    fused,
    graphs,
    indexing as device,
    kernels,
    philox,
    tables,
    transfer,
)
from nanotorch.backend.dtypes import float64
from nanotorch.backend.halves import DEVICE_KERNELS, DEVICE_KINDS
from nanotorch.backend.order_of_memory import usual
from nanotorch.cuda import expressions
from nanotorch.ops import (
    activations,
    binary_losses,
    broadcasting,
    casting,
    class_losses,
    comparisons,
    contraction,
    cumulative,
    distances,
    indexing,
    linalg,
    losses,
    normalization,
    ordering,
    products,
    reductions,
    scans,
    sorting,
    statistics,
    sums,
)
from nanotorch.ops.casting import into
from nanotorch.ops.indexing import alike, copied, zeroed
from nanotorch.ops.keys import axes, op_of
from nanotorch.primitive import Elementwise

# --- reading and writing by index: one launch, and notes of what lies outside ---------------------


def read(xp: Any, x: Array, *indices: Array, key: Any, out: Array | None = None) -> Array:
    places = located(xp, x.ndim, key, indices)
    return device.read(xp, x, places, op_of(key), out) if places else NotImplemented


def add_at_key(
    xp: Any, g: Array, *indices: Array, key: Any, shape: Any, out: Array | None = None
) -> Array:
    places = located(xp, len(shape), key, indices)
    if not places:
        return NotImplemented
    return device.add(xp, zeroed(xp, shape, g.dtype, out), places, g, op_of(key))


def put(
    xp: Any, x: Array, value: Any, *indices: Array, key: Any, accumulate: bool = False,
    out: Array | None = None,
) -> Array:  # fmt: skip
    places = located(xp, x.ndim, key, indices)
    if not places or (is_array(value) and value.dtype != x.dtype):
        return NotImplemented
    if accumulate:
        return device.add(xp, copied(xp, x, out), places, value, op_of(key))
    device.check(xp, x.shape, places, op_of(key))
    return NotImplemented


def located(xp: Any, ndim: int, key: Any, indices: tuple[Array, ...]) -> Any:
    """The axis of each index; None where CuPy reads and writes itself."""
    return axes(xp, ndim, key, indices) if kernels.available(xp) else None


def gather(xp: Any, x: Array, index: Array, *, dim: int, out: Array | None = None) -> Array:
    if not alike(x, index) or not kernels.available(xp):
        return NotImplemented
    return device.gather(xp, x, dim, index, out)


def gather_reverse(
    xp: Any, g: Array, index: Array, *, dim: int, shape: Any, out: Array | None = None, **how: Any
) -> Array:
    if not shape or not kernels.available(xp):
        return NotImplemented
    return device.add_along(xp, zeroed(xp, shape, g.dtype, out), dim, index, g, "gather")


def scatter(
    xp: Any, x: Array, index: Array, source: Any, *, dim: int, add: bool, out: Array | None = None
) -> Array:
    if not alike(x, index) or (is_array(source) and source.dtype != x.dtype):
        return NotImplemented
    if not kernels.available(xp):
        return NotImplemented
    if not add:
        device.check(xp, x.shape, [(dim, index)], "scatter")
        return NotImplemented
    if is_array(source) and source.ndim:
        source = source[tuple(slice(n) for n in index.shape)]
    return device.add_along(xp, copied(xp, x, out), dim, index, source, "scatter_add")


def slices_at(xp: Any, index: Array, *, dim: int, shape: Any, out: Array | None = None) -> Array:
    if kernels.available(xp):
        device.check(xp, shape, [(dim, index)], "index_fill")
    return NotImplemented


def bincount(
    xp: Any, x: Array, weights: Array | None, *, minlength: int, out: Array | None = None
) -> Array:
    """Sums in the order of the elements: CuPy leaves the order to chance."""
    if weights is None or not kernels.available(xp):
        return NotImplemented
    size = max(minlength, int(x.max()) + 1 if x.size else 0)
    y = device.add(xp, xp.zeros(size, float64.numpy), [(0, x)], weights, None)
    return into(xp, y.astype(weights.dtype) if weights.dtype.char == "f" else y, out)


# --- the others -----------------------------------------------------------------------------------


def linear(xp: Any, x: Array, weight: Array, bias: Array | None, out: Array | None = None) -> Array:
    if fused.takes_one_output(xp, x, weight, bias):
        z = fused.output(xp, out, (len(x), 1), x.dtype)
        beside = {} if bias is None else {"bias": bias}
        fused.rows_to_one(xp, x, weight=weight, z=z, **beside)
        return fused.written(xp, z, out)
    y = cublas.matmul(xp, x, weight.T, out)
    if bias is not None and y is not NotImplemented:
        fused.add_row(xp, y, bias)
    return y


def mm(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
    if a.shape == (1, len(b)) and a.dtype == b.dtype:
        if fused.takes_rows(xp, b) and fused.alike(xp, a):
            y = fused.output(xp, out, (1, b.shape[1]), b.dtype)
            fused.rows_to_one(xp, b, slopes=a, gradient=y)
            return fused.written(xp, y, out)
    return cublas.matmul(xp, a, b, out)


def einsum(xp: Any, *inputs: Array, equation: str, out: Array | None = None) -> Array:
    y = contraction.einsum(xp, cublas.matmul, equation, inputs)
    return y if y is NotImplemented else into(xp, y, out)


def nll(
    xp: Any, x: Array, target: Array, weight: Any, *, ignore_index: int, reduction: str,
    out: Array | None = None,
) -> Array:  # fmt: skip
    if not fused.takes_classes(xp, x, target, weight):
        return unchecked_classes(xp, x.shape, target, ignore_index=ignore_index)
    like = x.shape, x.dtype
    terms = fused.class_terms(xp, x, like, target, weight, ignore_index, op="nll_loss")
    return fused.class_total(xp, terms, reduction, (target.shape, x.dtype), out)


def nll_reverse(
    xp: Any, g: Array, target: Array, weight: Any, *, ignore_index: int, reduction: str,
    shape: Any, out: Array | None = None,
) -> Array:  # fmt: skip
    expected = target.shape if reduction == "none" else ()
    if g.shape != expected or not fused.takes_classes(xp, g, target, weight):
        return unchecked_classes(xp, shape, target, ignore_index=ignore_index)
    terms = tables.NOWHERE
    if reduction == "mean":
        like = shape, g.dtype
        terms = fused.class_terms(xp, tables.NOWHERE, like, target, weight, ignore_index)
    given = (terms, target, weight, ignore_index, reduction, shape, out)
    return fused.class_slope(xp, g, tables.NOWHERE, *given)


def unchecked_classes(xp: Any, shape: Any, target: Array, *, ignore_index: int) -> Any:
    """NotImplemented, after a check of the classes: the kernel in Python makes none here."""
    if kernels.available(xp):
        classes = xp.where(target == ignore_index, 0, target)
        device.check(xp, (shape[0 if len(shape) == 1 else 1],), [(0, classes)], "nll_loss")
    return NotImplemented


def cross_entropy_terms(
    xp: Any, x: Array, target: Array, weight: Any, *, ignore_index: int, reduction: str,
    out: Array | None = None,
) -> Array:  # fmt: skip
    if not fused.takes_classes(xp, x, target, weight):
        return NotImplemented
    like, given = (x.shape, x.dtype), (target, weight, ignore_index)
    terms = fused.class_terms(xp, x, like, *given, plain=False, op="nll_loss", out=out)
    return fused.written(xp, terms, out)


def cross_entropy(
    xp: Any, x: Array, terms: Any, target: Array, weight: Any, *, reduction: str,
    out: Array | None = None, **how: Any,
) -> Array:  # fmt: skip
    if not fused.takes_classes(xp, x, target, weight):
        return NotImplemented
    if terms is None:
        terms = cross_entropy_terms(xp, x, target, weight, reduction=reduction, **how)
    return fused.class_total(xp, terms, reduction, (target.shape, x.dtype), out)


def cross_entropy_reverse(
    xp: Any, g: Array, x: Array, terms: Any, target: Array, weight: Any, *, ignore_index: int,
    reduction: str, out: Array | None = None,
) -> Array:  # fmt: skip
    if not fused.takes_classes(xp, x, target, weight):
        return NotImplemented
    how: dict[str, Any] = {"ignore_index": ignore_index, "reduction": reduction}
    if terms is None:
        terms = cross_entropy_terms(xp, x, target, weight, **how)
    g = g.astype(x.dtype, order="C", copy=False)  # ascontiguousarray makes one dimension of none
    return fused.class_slope(xp, g, x, terms, target, weight, ignore_index, reduction, x.shape, out)


def standardize_reverse(xp: Any, g: Array, x: Array, s: Array, **how: Any) -> Array:
    if not fused.alike(xp, x, s):
        return NotImplemented
    return fused.layer_norm_reverse(xp, g, x, None, s, **how)


def reduced(
    xp: Any, x: Array, *, dim: Any = None, shape: Any = None, p: float = 2, correction: Any = None,
    mean: bool = False, square: bool = False, **how: Any,
) -> Array:  # fmt: skip
    if p != 2 or (dim is shape is correction is None and not square and x.itemsize > 2):
        return NotImplemented  # of all to one number CuPy's own is as fast
    if shape is not None:
        sizes = (None,) * (x.ndim - len(shape)) + tuple(shape)
        dim = tuple(d for d, n in enumerate(sizes) if n != x.shape[d])
        if len(sizes) != x.ndim or any(sizes[d] not in (None, 1) for d in dim):
            return NotImplemented
    count = sums.count(x.shape, dim)
    divisor = count if mean else 1 if correction is None else max(count - correction, 0)
    centered, g = correction is not None, x if square else None
    how |= {"shape": shape, "divisor": divisor, "centered": centered}
    return fused.total(xp, x, g, dim=dim, **how)


# What `reduced` computes, and with which options.
REDUCED: dict[Any, dict[str, Any]] = {
    broadcasting.SumTo: {}, sums.Sum: {}, sums.Mean: {"mean": True}, statistics.Var: {},
    statistics.Std: {"result": fused.ROOT},
    statistics.Norm: {"result": fused.ROOT, "square": True},
    **{which: {"result": fused.GREATEST} for which in (reductions.Max, reductions.Amax)},
    **{which: {"result": fused.LEAST} for which in (reductions.Min, reductions.Amin)},
}  # fmt: skip

# Whose functions of CuPy do not write to `out` as NumPy's do: the minimum takes it for a dtype, and
# running sums come back in another array.
COPIED = (
    reductions.Min, reductions.Amin, statistics.Norm, cumulative.Cumsum, cumulative.Cumprod
)  # fmt: skip


def reduction(primitive: Any) -> Callable[..., Array]:
    """The kernel of a reduction whose result is put in the usual order of memory, and copied into
    `out` where CuPy cannot write there: it would give `out` the order of x's, or see COPIED."""

    def run(xp: Any, x: Array, *others: Any, out: Array | None = None, **attributes: Any) -> Array:
        y = NotImplemented
        if primitive in REDUCED:
            y = reduced(xp, x, out=out, **attributes, **REDUCED[primitive])
        if y is not NotImplemented or x.itemsize == 2:  # halves go without `out`
            return y
        if not x.flags.c_contiguous or (out is not None and primitive in COPIED):
            y = usual(xp, primitive.kernel(xp, x, *others, **attributes))
            y = into(xp, y, out)
        return y

    return run


KERNELS: dict[type, Callable[..., Any]] = {
    casting.ToCopy: fused.cast,
    activations.Softmax: fused.softmax, activations.SoftmaxReverse: fused.softmax_reverse,
    activations.LogSoftmax: fused.log_softmax,
    activations.LogSoftmaxReverse: fused.log_softmax_reverse,
    binary_losses.BinaryCrossEntropyWithLogits: fused.bce_with_logits,
    binary_losses.BinaryCrossEntropyWithLogitsReverse: fused.bce_with_logits_reverse,
    losses.MseLoss: fused.mse, losses.MseLossReverse: fused.mse_reverse,
    class_losses.CrossEntropyTerms: cross_entropy_terms, class_losses.CrossEntropy: cross_entropy,
    class_losses.CrossEntropyReverse: cross_entropy_reverse,
    losses.NllLoss: nll, losses.NllLossReverse: nll_reverse,
    normalization.Standardize: fused.standardize,
    normalization.StandardizeReverse: standardize_reverse,
    normalization.LayerNorm: fused.layer_norm,
    normalization.LayerNormReverse: fused.layer_norm_reverse,
    normalization.LayerNormWeight: fused.layer_norm_weight,
    **dict.fromkeys((linalg.Dot, linalg.Mv, linalg.Bmm, linalg.BatchedMatMul), cublas.matmul),
    distances.Cdist: fused.distances,
    products.Mm: mm, products.LinearLayer: linear,
    linalg.EinSum: einsum,
    indexing.Index: read, indexing.IndexAdd: add_at_key, indexing.IndexPut: put,
    **dict.fromkeys(
        (indexing.Gather, reductions.MaxAlong, reductions.MinAlong, sorting.SortAlong,
         sorting.TopkAlong, sorting.MedianAlong, ordering.KthvalueAlong, ordering.ModeAlong,
         ordering.NanmedianAlong, scans.CummaxAlong, scans.CumminAlong),
        gather,
    ),
    sorting.Argsort: device.first, sorting.Argfirst: device.first,
    scans.RunningExtreme: device.scan, scans.Logcumsumexp: device.scan,
    sorting.Argkth: functools.partial(device.first, alone=True),
    indexing.GatherReverse: gather_reverse, indexing.Scatter: scatter, indexing.SlicesAt: slices_at,
    sorting.Bincount: bincount,
    **{
        primitive: reduction(primitive)
        for primitive in (
            *REDUCED, reductions.Argmax, reductions.Argmin, reductions.AllOf, reductions.AnyOf,
            reductions.LogSumExp, cumulative.Prod, cumulative.Cumsum, cumulative.Cumprod,
        )
    },
}  # fmt: skip

DEVICE_KERNELS.update(KERNELS)
of_elements = expressions.kernel_of_elements, expressions.rules_of_elements
DEVICE_KINDS.update(dict.fromkeys((Elementwise, comparisons.Where, casting.Clone), of_elements))
vars(cuda_parts).update(
    checks=checks, evaluate=expressions.evaluate, graphs=graphs, indexing=device, kernels=kernels,
    philox=philox, tables=tables, total=fused.total, transfer=transfer,
)  # fmt: skip
