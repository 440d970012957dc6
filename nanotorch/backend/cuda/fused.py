"""Fused kernels of the ops: one launch in place of CuPy's five to fifteen.

Each function has the signature of the `kernel` that it stands in for and gives the same numbers.
It returns NotImplemented for what it does not do: weights, operands of several dtypes or shapes,
arrays that are not C-contiguous, empty ones; and where the array module compiles no kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from nanotorch.backend.cuda import checks
from nanotorch.backend.cuda.kernels import available, launch
from nanotorch.backend.cuda.tables import NOWHERE
from nanotorch.backend.devices import broadcast_shapes
from nanotorch.backend.order_of_memory import Reduction, reduction, usual

Array = Any
Kernel = Callable[..., Array]

REDUCTIONS = {name: numpy.int32(i) for i, name in enumerate(("none", "mean", "sum"))}
LOSSES = tuple(map(numpy.int32, range(3)))  # as elementwise.cuh counts them
ZERO, ONE = numpy.int32(0), numpy.int32(1)
SUM, ROOT, GREATEST, LEAST = map(numpy.int32, range(4))  # as columns.cu counts them
THREADS = 256
MANY = 256  # rows, from which on CuPy's sum of each keeps a device busy
# Sums over at most so many elements take one block and one launch.
ONE_BLOCK = 8192
# The most elements of a row, by the width in rows_to_one.cu.
WIDTHS = {"1": 32, "2": 256, "3": 1024}
WIDE = {"e": "f", "E": "f", "f": "f", "d": "d"}  # the dtype that sums are taken in


def alike(xp: Any, *arrays: Any) -> bool:
    """Whether kernels take these: floating, of one dtype and shape, C-contiguous, not empty."""
    first = arrays[0]
    if not first.size or first.dtype.char not in WIDE or not available(xp):
        return False
    form = first.dtype, first.shape
    return all((x.dtype, x.shape) == form and x.flags.c_contiguous for x in arrays)


def output(xp: Any, out: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """Memory for a result, C-contiguous: `out`, if it is so; otherwise new."""
    if out is not None and (out.shape, out.dtype) == (shape, dtype) and out.flags.c_contiguous:
        return out
    return xp.empty(shape, dtype)


def written(xp: Any, y: Array, out: Array | None) -> Array:
    """The result in the memory that was asked for."""
    if out is None or out is y:
        return y
    xp.copyto(out, y)
    return out


def grid_for(n: int) -> tuple[int]:
    """Blocks of THREADS threads for n elements, each thread at least one of them."""
    return (min(-(-n // THREADS), 2**16),)


def in_packs(*arrays: Array) -> tuple[int]:
    """The grid for arrays of one size, whose elements a thread takes as packs.cuh says."""
    return grid_for(-(-arrays[0].size // (8 if any(x.itemsize == 2 for x in arrays) else 4)))


# --- losses ---------------------------------------------------------------------------------------


def groups_of(n: int) -> int:
    """In how many groups n losses are added up: see elementwise.cuh."""
    return min(-(-n // 32), 16 * THREADS)


def elementwise_loss(which: Any) -> Kernel:
    """The losses of x against target, or their mean or sum."""

    def run(
        xp: Any, x: Array, target: Array, *weights: Any, reduction: str, out: Array | None = None
    ) -> Array:
        if any(w is not None for w in weights) or not alike(xp, x, target):
            return NotImplemented
        n, kind = x.size, x.dtype.char
        blocks, threads, groups = in_packs(x)[0], THREADS, groups_of(n)
        if reduction != "none":  # as many as n alone says
            blocks, threads = -(-groups // 8), THREADS
            if n <= ONE_BLOCK:
                blocks, threads = 1, min(32 * groups, 1024)
        y = output(xp, out, x.shape if reduction == "none" else (), x.dtype)
        several = blocks > 1 and reduction != "none"
        parts = xp.empty(groups, WIDE[kind]) if several else y
        numbers = numpy.int64(n), numpy.int32(groups), which, REDUCTIONS[reduction]
        launch(xp, "losses", "loss", kind, (blocks,), (threads,), (x, target, y, parts, *numbers))
        if several:
            quotient(xp, parts, groups, n if reduction == "mean" else 1, y)
        return written(xp, y, out)

    return run


def quotient(xp: Any, parts: Array, count: int, divisor: float | None, y: Array) -> None:
    """y := the sum of partial sums, divided by a number or (None) by those that follow them."""
    numbers = (numpy.int32(divisor is None), numpy.float64(divisor or 1))
    arguments = (parts, numpy.int64(count), *numbers, y)
    launch(xp, "losses", "quotient", y.dtype.char, (1,), (THREADS,), arguments)


def elementwise_reverse(which: Any) -> Kernel:
    """The cotangent of x, given g, that of the loss: one number, or one for each element."""

    def run(
        xp: Any, g: Array, x: Array, target: Array, *weights: Any, divisor: float | None,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        if any(w is not None for w in weights) or not (alike(xp, x, target) and alike(xp, g)):
            return NotImplemented
        if g.dtype != x.dtype or (g.ndim and g.shape != x.shape):
            return NotImplemented
        y = output(xp, out, x.shape, x.dtype)
        numbers = (numpy.int64(x.size), which, numpy.int32(g.ndim > 0), numpy.float64(divisor or 1))
        arguments, grid = (g, x, target, y, *numbers), in_packs(x)
        launch(xp, "losses", "loss_reverse", x.dtype.char, grid, (THREADS,), arguments)
        return written(xp, y, out)

    return run


bce_with_logits, mse, itself = map(elementwise_loss, LOSSES)
bce_with_logits_reverse, mse_reverse = map(elementwise_reverse, LOSSES[:2])


# --- losses of classes ----------------------------------------------------------------------------


def class_terms(
    xp: Any, x: Any, like: tuple[tuple[int, ...], Any], target: Array, weight: Any, ignored: int, *,
    plain: bool = True, op: str | None = None, out: Array | None = None,
) -> Array:  # fmt: skip
    """What classes.cu needs to know of each sample, (4, n); `like`: the shape and dtype of x, which
    has logarithms if `plain`, and may be nowhere."""
    (shape, dtype), n = like, target.size
    numbers = sizes(shape, n, ignored)
    grid, block, group = grid_for(n), (THREADS,), ONE
    if not plain:
        grid, block, group = threads_for_rows(n, int(numbers[1]), int(numbers[2]))
    terms = output(xp, out, (4, n), numpy.dtype(WIDE[dtype.char]))
    arguments = (x, target, NOWHERE if weight is None else weight, terms, *numbers)
    arguments += (numpy.int32(plain), group, *checks.arguments(xp, op))
    launch(xp, "classes", "class_terms", dtype.char, grid, block, arguments)
    return terms


def class_total(
    xp: Any, terms: Array, reduction: str, like: tuple[tuple[int, ...], Any], out: Array | None
) -> Array:
    """The losses of all samples, or their sum, or that by the sum of their weights."""
    y, sums = output(xp, out, like[0] if reduction == "none" else (), like[1]), terms[2:]
    if reduction == "none":
        xp.copyto(y, terms[2].reshape(y.shape), casting="unsafe")
        return written(xp, y, out)
    if sums.shape[1] > ONE_BLOCK:
        sums = xp.empty((2, 1), terms.dtype)
        for i in range(2):
            itself(xp, terms[2 + i], terms[2 + i], reduction="sum", out=sums[i].reshape(()))
    quotient(xp, sums, sums.shape[1], None if reduction == "mean" else 1, y)
    return written(xp, y, out)


def class_slope(
    xp: Any, g: Array, x: Any, terms: Any, target: Array, weight: Any, ignored: int,
    reduction: str, shape: tuple[int, ...], out: Array | None,
) -> Array:  # fmt: skip
    """The cotangent of x."""
    n, y, share, count = target.size, output(xp, out, shape, g.dtype), terms, 0
    if reduction == "mean":
        share, count = terms[3], n
        if n > ONE_BLOCK // 4:  # else every block adds up the weights by itself
            share, count = itself(xp, share, share, reduction="sum"), 1
    pointers = (g, x, terms, target, NOWHERE if weight is None else weight, share)
    numbers = (*sizes(shape, n, ignored), numpy.int32(g.ndim > 0))
    arguments, grid = (*pointers, numpy.int64(count), y, *numbers), grid_for(y.size)
    launch(xp, "classes", "class_reverse", g.dtype.char, grid, (THREADS,), arguments)
    return written(xp, y, out)


def takes_few_logits(xp: Any, x: Array, target: Array, weight: Any) -> bool:
    """Whether `class_loss` takes these: samples whose classes lie side by side."""
    few = x.ndim == 2 and len(x) <= 1024 and x.shape[1] <= 1024 and x.size <= 2**15
    return few and takes_classes(xp, x, target, weight)


def class_loss(
    xp: Any, *, x: Array, target: Array, g: Array, loss: Array, slopes: Array,
    weight: Any = NOWHERE, ignore_index: int, reduction: str,
) -> None:  # fmt: skip
    """The cross-entropy of few samples, and g times its slopes, in one launch."""
    n, classes = x.shape
    numbers = (*map(numpy.int32, (n, classes)), numpy.int64(ignore_index), REDUCTIONS[reduction])
    arrays, group = (g, x, target, weight, loss, slopes), threads_for_rows(n, classes, 1)[2]
    arguments = (*arrays, *numbers, group, *checks.arguments(xp, "nll_loss"))
    launch(xp, "classes", "class_loss", x.dtype.char, (1,), (1024,), arguments)


def takes_classes(xp: Any, x: Array, target: Array, weight: Any) -> bool:
    """Whether kernels take x, these class numbers and the weights of the classes."""
    if target.dtype.char not in "lq" or not target.size or not target.flags.c_contiguous:
        return False
    weighs = weight is None or (weight.dtype == x.dtype and bool(weight.flags.c_contiguous))
    return weighs and alike(xp, x)


def sizes(shape: tuple[int, ...], n: int, ignored: int) -> tuple[Any, ...]:
    """How many samples and classes, how many samples lie side by side, and the class to ignore."""
    classes = shape[0 if len(shape) == 1 else 1]
    inner = n // shape[0] if len(shape) > 2 else 1
    return numpy.int64(n), numpy.int64(classes), numpy.int64(inner), numpy.int64(ignored)


# --- casts and biases -----------------------------------------------------------------------------


def cast(xp: Any, x: Array, *, dtype: Any, out: Array | None = None) -> Array:
    kinds = x.dtype.char + dtype.char
    if x.dtype == dtype or dtype.char not in WIDE or not alike(xp, x):
        return NotImplemented
    y = output(xp, out, x.shape, dtype)
    arguments = (x, y, numpy.int64(x.size))
    launch(xp, "elements", "cast", kinds, in_packs(x, y), (THREADS,), arguments)
    return written(xp, y, out)


def add_row(xp: Any, x: Array, row: Array) -> None:
    """x += row, along the last dimension."""
    if not (alike(xp, x) and alike(xp, row) and row.dtype == x.dtype):
        xp.add(x, row, out=x)
        return
    arguments = (x, row, x, numpy.int64(x.size), numpy.int64(row.size))
    launch(xp, "elements", "add_row", x.dtype.char, in_packs(x), (THREADS,), arguments)


# --- rows -----------------------------------------------------------------------------------------


def along(kernel: str, logarithmic: Any) -> Kernel:
    """A kernel of rows along `dim`."""

    def run(xp: Any, *arrays: Array, dim: int, out: Array | None = None) -> Array:
        x = arrays[0]
        if not alike(xp, *arrays) or not -x.ndim <= dim < x.ndim:
            return NotImplemented
        n, inner = x.shape[dim], x.strides[dim] // x.itemsize if x.shape[dim] > 1 else 1
        rows = x.size // n
        grid, block, group = threads_for_rows(rows, n, inner)
        y = output(xp, out, x.shape, x.dtype)
        numbers = (numpy.int64(rows), numpy.int64(n), numpy.int64(inner), logarithmic)
        launch(xp, "softmax", kernel, x.dtype.char, grid, block, (*arrays, y, *numbers, group))
        return written(xp, y, out)

    return run


softmax, log_softmax = along("softmax", ZERO), along("softmax", ONE)
softmax_reverse = along("softmax_reverse", ZERO)
log_softmax_reverse = along("softmax_reverse", ONE)


def threads_for_rows(rows: int, n: int, inner: int) -> tuple[tuple[int], tuple[int], Any]:
    """Grid, block and how many threads share a row of n numbers that lie `inner` apart."""
    # Neighbouring threads read neighbouring numbers: of one row, or of rows side by side.
    alone = n < 4 or (inner >= 32 and (n <= 64 or rows >= 2048))
    if n > 1024 and not alone:
        threads = 256 if n <= 8192 else 512
        return (min(rows, 2**16),), (threads,), numpy.int32(threads)
    group, threads = (1 if alone else min(32, 1 << (n - 1).bit_length())), 128
    return (min(-(-rows * group // threads), 2**16),), (threads,), numpy.int32(group)


def are_last(dims: tuple[int, ...], ndim: int) -> bool:
    """Whether these are the last dimensions, all of them in one piece of memory."""
    return sorted(d % ndim for d in dims) == list(range(ndim - len(dims), ndim))


def launch_rows(
    xp: Any, kernel: str, x: Array, count: int, eps: float, arguments: tuple[Any, ...]
) -> None:
    """Launches a kernel of normalization.cu for the rows of x that `count` dimensions make up."""
    n = math.prod(x.shape[x.ndim - count :])
    rows = x.size // n
    grid, block, group = threads_for_rows(rows, n, 1)
    numbers = (numpy.int64(rows), numpy.int64(n), numpy.float64(eps), group)
    launch(xp, "normalization", kernel, x.dtype.char, grid, block, (*arguments, *numbers))


def layer_norm(
    xp: Any, x: Array, weight: Any = None, bias: Any = None, scores: Any = None, *,
    dims: tuple[int, ...], eps: float, sums: Any = None, out: Array | None = None,
) -> Array:  # fmt: skip
    factors = [a for a in (weight, bias) if a is not None]
    if not (alike(xp, x) and fits(xp, x, factors, dims)):
        return NotImplemented
    y = output(xp, out, x.shape, x.dtype)
    pointers = (NOWHERE if a is None else a for a in (weight, bias))
    launch_rows(xp, "layer_norm", x, len(dims), eps, (x, *pointers, y))
    return written(xp, y, out)


standardize = layer_norm


def fits(xp: Any, x: Array, factors: list[Array], dims: tuple[int, ...]) -> bool:
    """Whether x can be normalized over its last dimensions with this weight and bias."""
    row = x.shape[x.ndim - len(dims) :]
    return are_last(dims, x.ndim) and all(
        alike(xp, a) and (a.shape, a.dtype) == (row, x.dtype) for a in factors
    )


def layer_norm_reverse(
    xp: Any, g: Array, x: Array, weight: Any, s: Any = None, sums: Any = None, *,
    dims: tuple[int, ...], eps: float, out: Array | None = None,
) -> Array:  # fmt: skip
    if not (alike(xp, g, x) and fits(xp, x, [] if weight is None else [weight], dims)):
        return NotImplemented
    y = output(xp, out, x.shape, x.dtype)
    pointers = (NOWHERE if a is None else a for a in (weight, s))
    launch_rows(xp, "layer_norm_reverse", x, len(dims), eps, (g, x, *pointers, y))
    return written(xp, y, out)


def layer_norm_weight(
    xp: Any, g: Array, x: Array, scores: Any = None, sums: Any = None, *, dims: tuple[int, ...],
    eps: float, shape: tuple[int, ...], out: Array | None = None,
) -> Array:  # fmt: skip
    if not (alike(xp, g, x) and are_last(dims, x.ndim) and shape == x.shape[x.ndim - len(dims) :]):
        return NotImplemented
    rows = tuple(range(x.ndim - len(shape)))
    return total(xp, standardize(xp, x, dims=dims, eps=eps), g, dim=rows, shape=shape, out=out)


# --- columns --------------------------------------------------------------------------------------


def total(
    xp: Any, x: Array, g: Any = None, *, dim: Any = None, keepdim: bool = False, shape: Any = None,
    divisor: float = 1, centered: Any = False, result: Any = SUM, out: Array | None = None,
) -> Array:  # fmt: skip
    """The sum over `dim` of x, of x * g, or of the squares of x less its mean (`centered`: True, or
    the mean, as this gives it), over the divisor; or another result of columns.cu. CuPy's takes one
    block for a number, however many go into it."""
    plan = None
    if x.dtype.char in WIDE and x.size and x.ndim and available(xp):
        plan = reduction(x.shape, x.strides, dim)
    if plan is None or (g is not None and g.dtype != x.dtype):
        return NotImplemented
    outer, _, n = plan.steps[0]
    plain = g is None and centered is False and result == SUM and not plan.back
    if plain and n == 1 and outer >= MANY and len(plan.steps) == 1:
        return NotImplemented  # which CuPy does as well: rows of their own, one behind the other
    if centered is not False and not (plan.inner and (centered is True or not plan.back)):
        return NotImplemented
    means, given = NOWHERE, [None if a is None else a.transpose(plan.axes) for a in (x, g)]
    a, b = (NOWHERE if a is None else xp.ascontiguousarray(a) for a in given)
    if centered is not False:
        b, means = a, centered
    if centered is True:
        means = xp.empty(math.prod(plan.few), WIDE[x.dtype.char])
        add_up(xp, plan, a, means, divisor=x.size // means.size)
    shape = plan.shapes[keepdim] if shape is None else shape
    y = output(xp, None if plan.back else out, shape, x.dtype)
    add_up(xp, plan, a, y, b, means, divisor, result)
    if plan.back:
        y = usual(xp, y.reshape(plan.few).transpose(plan.back)).reshape(shape)
    return written(xp, y, out)


def add_up(
    xp: Any, plan: Reduction, x: Array, y: Array, g: Any = NOWHERE, means: Any = NOWHERE,
    divisor: float = 1, result: Any = SUM,
) -> None:  # fmt: skip
    """y := x, reduced step by step, each in one launch, or in two by partial results."""
    steps, period, plain = list(plan.steps), math.prod(plan.few), g is NOWHERE and divisor == 1
    if plain and x.size == steps[0][1] and x.dtype == y.dtype and result == SUM:
        itself(xp, x, x, reduction="sum", out=y)
        return
    while steps:
        outer, rows, n = steps.pop(0)
        width = min(n, THREADS)
        portion = max(ONE_BLOCK // 2 // width, -(-rows * outer // 512))  # of the sizes alone
        count, each = -(-rows // portion), 4 if x.itemsize == 2 and width == THREADS else 1
        steps[:0] = [(outer, count, n)] if count > 1 else []
        target = xp.empty(outer * count * n, WIDE[x.dtype.char]) if steps else y
        last = (SUM if result == ROOT else result, 1) if steps else (result, divisor)
        grid, numbers = (-(-n // width) * outer, count), (rows, n, portion, plan.inner or 1, period)
        arguments = (x, g, means, target, *map(numpy.int64, numbers), numpy.float64(last[1]))
        arguments += (*map(numpy.int32, (width, each)), last[0])
        kinds = x.dtype.char + target.dtype.char
        launch(xp, "columns", "column_sums", kinds, grid, (THREADS // each,), arguments)
        x, g, means = target, NOWHERE, NOWHERE


def distances(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
    if a.dtype != b.dtype or a.dtype.char not in WIDE or not (a.size and b.size and available(xp)):
        return NotImplemented
    batch, (m, k), n = broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2:], b.shape[-2]
    given = (xp.ascontiguousarray(xp.broadcast_to(x, (*batch, *x.shape[-2:]))) for x in (a, b))
    y = output(xp, out, (*batch, m, n), a.dtype)
    blocks = -(-m // 32) * -(-n // 32) * math.prod(batch)
    arguments = (*given, y, *map(numpy.int64, (m, n, k)))
    launch(xp, "distances", "distances", a.dtype.char, (blocks,), (THREADS,), arguments)
    return written(xp, y, out)


# --- one output -----------------------------------------------------------------------------------


def rows_to_one(
    xp: Any, x: Array, *, weight: Any = NOWHERE, bias: Any = NOWHERE, target: Any = NOWHERE,
    g: Any = NOWHERE, z: Any = NOWHERE, slopes: Any = NOWHERE, gradient: Any = NOWHERE,
    loss: Any = NOWHERE, bias_gradient: Any = NOWHERE, which: Any = LOSSES[0], divisor: float = 1,
) -> None:  # fmt: skip
    """What the arrays are there for, by one reading of x (n, k): see rows_to_one.cu. `loss` and
    `slopes` are those of g * loss(z, target) / divisor; the gradients are sums over the rows."""
    (n, k), kind = x.shape, x.dtype.char
    groups = groups_of(n)
    blocks = 1 if groups <= 8 else min(groups, 512)
    sums, gradients = NOWHERE, gradient
    if blocks > 1 and gradient is not NOWHERE:
        gradients = xp.empty((blocks, k), x.dtype)
        if loss is not NOWHERE:
            sums = xp.empty((2, groups), x.dtype)
    width = next(digit for digit, most in WIDTHS.items() if k <= most)
    arrays = (x, weight, bias, target, g, z, slopes, gradients, sums, loss, bias_gradient)
    numbers = (*map(numpy.int32, (k, groups)), which, numpy.float64(divisor))
    arguments = (*arrays, numpy.int64(n), *numbers)
    launch(xp, "rows_to_one", "rows_to_one", kind + width, (blocks,), (THREADS,), arguments)
    if gradients is not gradient:
        grid = (-(-k // 32) + (loss is not NOWHERE),)
        sizes = (*map(numpy.int32, (blocks, k, groups)), numpy.float64(divisor))
        launch(
            xp, "rows_to_one", "add_blocks", kind, grid, (1024,),
            (gradients, gradient, sums, loss, bias_gradient, *sizes),
        )  # fmt: skip


def takes_rows(xp: Any, x: Array) -> bool:
    """Whether the rows of x are worked on by `rows_to_one`."""
    return alike(xp, x) and x.ndim == 2 and x.shape[1] <= WIDTHS["3"] and x.dtype.char in "fd"


def takes_one_output(xp: Any, x: Array, weight: Array, bias: Array | None) -> bool:
    """Whether `rows_to_one` computes this linear layer."""
    parameters = [weight] if bias is None else [weight, bias]
    return (
        takes_rows(xp, x)
        and weight.shape == (1, x.shape[1])
        and all(a.dtype == x.dtype and alike(xp, a) for a in parameters)
    )
