"""Attention: softmax(query keyᵀ · scale + mask) value, the weights of which are never all there.

They are computed block by block: for some queries of some heads, of all keys. Backward computes
them again from queries and keys. So memory grows with the number of keys, not with its square.
Sources: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762; Dao et al. (2022),
https://arxiv.org/abs/2205.14135
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nanotorch import ops
from nanotorch.backend import HOST, Array
from nanotorch.backend.dtypes import bool_, float32, int64
from nanotorch.backend.halves import kernel_of
from nanotorch.backend.threads import get_num_threads, one_blas_thread
from nanotorch.backend.workers import side_by_side
from nanotorch.creation import empty
from nanotorch.nn import functional as F
from nanotorch.nn.fused import Fused, push
from nanotorch.ops.activations import Softmax, SoftmaxReverse
from nanotorch.ops.linalg import Bmm
from nanotorch.primitive import Primitive, apply
from nanotorch.tensor import Tensor

# So many bytes of weights are computed at once: on the CPU they stay in the cache.
HOST_BYTES, DEVICE_BYTES = 1 << 19, 1 << 28
FEWEST_ROWS = 16  # below which the products are slow
LARGEST = math.exp(40)  # sums of exp(scores) up to it, and down to 1 / it, need no maximum off
LOWEST = -3e38  # stands for the greatest score of a query that no key counts for
CAUSAL_ROWS = 64  # a block of that many queries needs no keys beyond its last query
THREADED = 1 << 19  # the weights for which threads pay


class Attention(Fused):
    """y = softmax(query keyᵀ · scale + mask) value, with dropout of the weights

    Queries (N, H, L, E), keys (N, H, S, E), values (N, H, S, V) give y (N, H, L, V). A boolean mask
    says which keys count, any other is added; its sizes are those of the weights, (N, H, L, S), or
    1.
    The weights of a query that no key counts for are 0. `seed`: two words that the noise starts
    from.
    """

    __slots__ = ()
    backward_name = "ScaledDotProductFlashAttentionForCpuBackward0"
    vjp = (
        *(
            lambda g, query, key, value, mask, seed, y, causal, scale, dropout, index: cotangents(
                g, query, key, value, mask, seed, y, (causal, scale, dropout)
            )[index],
        )
        * 3,
        None,
        None,
    )
    jvp = (
        *(
            lambda t, query, key, value, mask, seed, causal, scale, dropout, index: push(
                t,
                index,
                [query, key, value],
                lambda x: Attention.composition(
                    [*x, mask, seed], {"causal": causal, "scale": scale, "dropout": dropout}
                ),
            ),
        )
        * 3,
        None,
        None,
    )

    @staticmethod
    def kernel(
        xp: Any, query: Array, key: Array, value: Array, mask: Array | None, seed: Array | None, *,
        causal: bool, scale: float, dropout: float, out: Array | None = None,
    ) -> Array:  # fmt: skip
        number, heads, rows = query.shape[:3]
        if out is None:  # heads lie side by side, so that joining them copies nothing
            out = xp.empty((number, rows, heads, value.shape[3]), query.dtype).swapaxes(1, 2)
        y = out

        def work(block: Block, _: Any) -> None:
            weights, into = block.weights, y[block.queries]
            if block.noise is not None:
                weights *= block.noise
            product(xp, weights, value[block.keys], into)
            if block.total is not None:
                into /= repeated(xp, block.total, value.shape[3])

        for_blocks(work, xp, query, key, None, mask, seed, causal, scale, dropout)
        return out

    @staticmethod
    def composition(inputs: Any, attributes: dict[str, Any]) -> Any:
        query, key, value, mask, seed = inputs
        causal, scale, dropout = (attributes[name] for name in ("causal", "scale", "dropout"))
        return composed(
            query, key, value, mask, causal, scale, noise(query, key, seed, causal, dropout)
        )

    @staticmethod
    def cotangents(
        g: Any, inputs: Any, y: Any, attributes: dict[str, Any], wanted: Sequence[bool]
    ) -> Sequence[Any]:
        options: Any = tuple(attributes[name] for name in ("causal", "scale", "dropout"))
        query, key, value, mask, seed = inputs
        return cotangents(g, query, key, value, mask, seed, y, options, tuple(wanted[:3]))


class AttentionReverse(Primitive):
    """y = the cotangents of the wanted ones of query, key and value, one after the other

    They are in memory as Attention's output is: (N, L, H, E).
    """

    __slots__ = ()
    vjp = (None,) * 7

    @staticmethod
    def kernel(
        xp: Any, g: Array, query: Array, key: Array, value: Array, mask: Array | None,
        seed: Array | None, y: Array, *, causal: bool, scale: float, dropout: float,
        wanted: tuple[bool, ...], out: Array | None = None,
    ) -> Array:  # fmt: skip
        inputs = (query, key, value)
        sizes = [x.size if w else 0 for x, w in zip(inputs, wanted, strict=True)]
        out = xp.empty(sum(sizes), g.dtype) if out is None else out
        if not query.shape[2]:  # without queries there is no block
            out[...] = 0
        of_query, of_key, of_value = (
            part(out, place, sizes, x.shape) if w else None
            for place, (x, w) in enumerate(zip(inputs, wanted, strict=True))
        )

        def work(block: Block, values: Any) -> None:
            queries, keys, weights, total, chances, memory = block
            slope = g[queries]
            if total is not None:
                slope = slope / repeated(xp, total, value.shape[3])
            if of_value is not None:
                kept = weights if chances is None else weights * chances
                add_product(xp, kept.swapaxes(-1, -2), slope, of_value, block)
            if of_query is None and of_key is None:
                return
            slope = xp.multiply(slope, scale, out=None if total is None else slope)
            rate = memory.reshape(weights.shape)
            product(xp, slope, values[..., : keys[2].stop], rate)
            if chances is not None:
                rate *= chances
            if total is None:
                rate = kernel_of(SoftmaxReverse, xp, rate)(xp, rate, weights, dim=-1)
            else:
                rate -= row_sums(xp, slope * y[queries])
                rate *= weights
            if of_query is not None:
                product(xp, rate, key[keys], of_query[queries])
            if of_key is not None:
                add_product(xp, rate.swapaxes(-1, -2), query[queries], of_key, block)

        for_blocks(work, xp, query, key, value, mask, seed, causal, scale, dropout)
        return out


def add_product(xp: Any, a: Array, b: Array, totals: Array, block: Block) -> None:
    """Adds a @ b to the totals of the block's keys; the first block of rows begins them."""
    keys = block.keys
    if block.queries[2].start:
        place = totals[keys]
        place += product(xp, a, b)
        return
    product(xp, a, b, totals[keys])
    totals[(*keys[:2], slice(keys[2].stop, None))] = 0


class AttentionNoise(Primitive):
    """y = 1 / (1 - dropout) with probability 1 - dropout, else 0, for all weights (N, H, L, S)"""

    __slots__ = ()
    vjp = (None,) * 3

    @staticmethod
    def kernel(
        xp: Any, query: Array, key: Array, seed: Array, *, causal: bool, dropout: float,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        shape = (*query.shape[:3], key.shape[2])
        out = xp.empty(shape, query.dtype) if out is None else out
        out[...] = 0
        y = out

        def work(block: Block, _: Any) -> None:
            y[(*block.queries, block.keys[2])] = block.noise

        for_blocks(work, xp, query, key, None, None, seed, causal, 1.0, dropout)
        return out


class Block(NamedTuple):
    """The weights of some queries, and where these and their keys are."""

    queries: tuple[slice, ...]
    keys: tuple[slice, ...]
    weights: Array  # exp(scores), or exp(scores - the greatest of the row)
    total: Array | None  # their sum over the keys; None where they are divided by it
    noise: Array | None
    memory: Array  # of as many numbers, for reverse


def for_blocks(
    work: Callable[[Block, Any], None], xp: Any, query: Array, key: Array, value: Array | None,
    mask: Array | None, seed: Array | None, causal: bool, scale: float, dropout: float,
) -> None:  # fmt: skip
    """work(block, valueᵀ of its heads) for all blocks of the weights, on the CPU heads side by side
    in threads. Products with transposed copies are faster than with what is transposed in place."""
    (number, heads, length, _), columns = query.shape, key.shape[2]
    room = (HOST_BYTES if xp is HOST else DEVICE_BYTES) // query.dtype.itemsize
    rows = max(FEWEST_ROWS, room // max(columns, 1))
    if causal and columns > CAUSAL_ROWS:  # a GPU needs few launches more than few weights
        rows = min(rows, CAUSAL_ROWS if xp is HOST else max(CAUSAL_ROWS, -(-length // 4)))
    rows = even(length, rows)
    pairs = max(1, room // max(rows * columns, 1))
    heads_at_once = even(heads, pairs)
    numbers_at_once = even(number, pairs // heads_at_once if heads_at_once == heads else 1)
    groups = [(n, h) for n in slices(number, numbers_at_once) for h in slices(heads, heads_at_once)]

    triangle = None
    if causal:
        places = xp.arange(rows)
        triangle = hidden_by(xp, places > places[:, None], query.dtype)

    def run(first: int, step: int) -> None:
        arrays = 1 if value is None else 2
        memory = xp.empty((arrays, numbers_at_once * heads_at_once * rows * columns), query.dtype)
        for place in range(first, len(groups), step):
            draw = None
            if seed is not None:  # on the CPU alone: a GPU's dropout draws its own
                draw = HOST.random.Generator(HOST.random.SFC64([*seed.view("u8"), place]))
            scaled = key[groups[place]].swapaxes(-1, -2)
            values = None if value is None else value[groups[place]].swapaxes(-1, -2)
            if xp is HOST:
                scaled = scaled.copy("C")
                values = None if values is None else values.copy("C")
            scaled = xp.multiply(scaled, scale, out=scaled if xp is HOST else None)
            for r in slices(length, rows):
                queries = (*groups[place], r)
                weights = block(xp, query, scaled, mask, draw, queries, memory, triangle, dropout)
                work(weights, values)

    if xp is not HOST:
        run(0, 1)
        return
    count = min(get_num_threads(), len(groups))
    if number * heads * length * columns < THREADED:
        count = 1
    with one_blas_thread():  # the products of a block are small
        side_by_side(lambda worker: run(worker, count), count)


def block(
    xp: Any, query: Array, scaled: Array, mask: Array | None, draw: Any,
    queries: tuple[slice, slice, slice], memory: Array, triangle: Array | None, dropout: float,
) -> Block:  # fmt: skip
    """The weights of some queries, in `memory`; `scaled` is keyᵀ · scale of their heads; `triangle`
    is added to the scores of the queries' own keys where they are causal."""
    (n, h, r), columns = queries, scaled.shape[-1]
    limit = columns if triangle is None else min(columns, r.stop)
    x = query[queries]
    shape = (*x.shape[:3], limit)
    memory = memory[:, : math.prod(shape)]
    scores = memory[0].reshape(shape)

    def compute() -> None:
        product(xp, x, scaled[..., :limit], scores)
        if mask is not None:
            places = zip((n, h, r, slice(limit)), mask.shape, strict=True)
            shown = mask[tuple(s if size > 1 else slice(None) for s, size in places)]
            added = hidden_by(xp, ~shown, scores.dtype) if shown.dtype.kind == "b" else shown
            xp.add(scores, added, out=scores)
        if triangle is not None and r.start < limit:
            place = scores[..., r.start :]
            place += triangle[: shape[2], : limit - r.start]

    def sums(less: Any) -> Array:
        if less is not None:
            xp.subtract(scores, less, out=scores)
        return row_sums(xp, xp.exp(scores, out=scores))

    # To take the greatest score off is a third of the time for short rows, and rarely needed. On a
    # GPU the host would wait for the answer.
    compute()
    total = None
    if xp is not HOST and mask is None and limit:
        kernel_of(Softmax, xp, scores)(xp, scores, dim=-1, out=scores)
        return Block(queries, (n, h, slice(limit)), scores, None, None, memory[-1])
    if xp is HOST:
        total = sums(None)
        if total.size and not (total.min() > 1 / LARGEST and total.max() < LARGEST):
            total = None
            compute()
    if total is None:
        total = sums(xp.maximum(scores.max(-1, keepdims=True), LOWEST) if limit else None)
    if mask is not None or not limit:
        total += total == 0  # of a query that no key counts for
    chances = None
    if draw is not None:
        chances = draw.random(shape, scores.dtype)
        xp.less(chances, 1 - dropout, out=chances)
        chances *= 1 / (1 - dropout)
    return Block(queries, (n, h, slice(limit)), scores, total, chances, memory[-1])


def row_sums(xp: Any, x: Array) -> Array:
    """The sums over the last dimension, kept with size 1; BLAS adds short rows much faster."""
    return product(xp, x, xp.ones((x.shape[-1], 1), x.dtype))


def product(xp: Any, a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b; on a GPU by cuBLAS itself, which a graph can hold."""
    return xp.matmul(a, b, out=out) if xp is HOST else kernel_of(Bmm, xp, a)(xp, a, b, out=out)


def repeated(xp: Any, x: Array, times: int) -> Array:
    """x (N, H, L, 1) as (N, H, L, times), in memory as Attention's output is: to divide by it is
    several times faster than by x."""
    return xp.repeat(x.swapaxes(1, 2), times, -1).swapaxes(1, 2)


def hidden_by(xp: Any, hidden: Array, dtype: Any) -> Array:
    """-∞ where keys do not count, else 0: what is added to their scores."""
    return xp.where(hidden, dtype.type(-math.inf), dtype.type(0))


def even(count: int, most: int) -> int:
    """The size of parts of about one size, none of more than `most`."""
    return -(-count // max(-(-count // max(most, 1)), 1))


def slices(count: int, size: int) -> list[slice]:
    """The parts of a dimension."""
    return [slice(start, min(start + size, count)) for start in range(0, count, max(size, 1))]


def part(both: Any, place: int, sizes: Sequence[int], shape: Sequence[int]) -> Any:
    """One cotangent out of all of them: (N, H, L, E)."""
    number, heads, length, width = shape
    flat = ops.narrow(both, 0, sum(sizes[:place]), sizes[place])
    return ops.transpose(ops.reshape(flat, (number, length, heads, width)), 1, 2)


def cotangents(
    g: Any, query: Any, key: Any, value: Any, mask: Any, seed: Any, y: Any,
    options: tuple[bool, float, float], wanted: tuple[bool, ...] = (True, True, True),
) -> list[Any]:  # fmt: skip
    """The cotangents of query, key and value in Attention, of those that are wanted."""
    causal, scale, dropout = options
    both = apply(
        *(AttentionReverse, g, query, key, value, mask, seed, y),
        causal=causal, scale=scale, dropout=dropout, wanted=wanted,
    )  # fmt: skip
    inputs = (query, key, value)
    sizes = [math.prod(x.shape) if w else 0 for x, w in zip(inputs, wanted, strict=True)]
    parts = [
        part(both, place, sizes, x.shape) if w else None
        for place, (x, w) in enumerate(zip(inputs, wanted, strict=True))
    ]
    return [*parts, None, None]


# --- the same from small ops ----------------------------------------------------------------------


def noise(query: Any, key: Any, seed: Any, causal: bool, dropout: float) -> Any:
    """What Attention multiplies the weights with, or None."""
    if seed is None:
        return None
    return apply(AttentionNoise, query, key, seed, causal=causal, dropout=dropout)


def weights_of(query: Any, key: Any, mask: Any, causal: bool, scale: float) -> Any:
    """softmax(query keyᵀ · scale + mask), and 0 for a query that no key counts for."""
    scores = ops.matmul(query * scale, ops.transpose(key, -2, -1))
    if mask is not None:
        boolean = getattr(mask, "_array", mask).dtype.kind == "b"
        scores = ops.where(mask, scores, -math.inf) if boolean else scores + mask
    if causal:
        scores = ops.where(ops.tril(ops.ones_like(scores)) > 0, scores, -math.inf)
    if mask is None:
        return ops.softmax(scores, -1)
    hidden = ops.all(scores == -math.inf, -1, keepdim=True)
    return ops.where(hidden, 0.0, ops.softmax(ops.where(hidden, 0.0, scores), -1))


def composed(
    query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: float, noise: Any
) -> Any:
    """y = (softmax(query keyᵀ · scale + mask) · noise) value, all weights at once."""
    weights = weights_of(query, key, mask, causal, scale)
    return ops.matmul(weights if noise is None else weights * noise, value)


# --- the function ---------------------------------------------------------------------------------


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """y = softmax(query keyᵀ · scale + mask) value, in blocks; scale None: 1 / √E.

    Shapes: queries (*, L, E), keys (*, S, E), values (*, S, V) to (*, L, V). `attn_mask` broadcasts
    to (*, L, S): a boolean one says which keys count, any other is added. A query that no key
    counts for gives 0. is_causal: query i sees the keys up to i. enable_gqa: a head of keys and
    values may serve several heads of queries. dropout_p: the share of weights that become 0.
    RuntimeError for shapes, dtypes or options that do not go together.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
    """
    _check(query, key, value, attn_mask, dropout_p, is_causal)
    if enable_gqa:
        key, value = (_spread_heads(x, query) for x in (key, value))
    batch = _batch(query, key, value)
    query, key, value = (
        x if tuple(x.shape[:-2]) == batch else x.expand(*batch, *x.shape[-2:])
        for x in (query, key, value)
    )
    size = query.shape[-1]
    scale = (1 / math.sqrt(size) if size else 1.0) if scale is None else float(scale)
    if (
        (attn_mask is not None and attn_mask.requires_grad)
        or dropout_p == 1
        or (dropout_p and query.is_cuda)
    ):
        weights = weights_of(query, key, attn_mask, is_causal, scale)
        result: Tensor = ops.matmul(F.dropout(weights, dropout_p), value)
        return result
    seed = None
    if dropout_p:
        seed = empty((2,), dtype=int64, device=query.device).random_()
    inputs = [_four_dimensional(x, batch) for x in (query, key, value)]
    mask = None if attn_mask is None else _four_dimensional(attn_mask, batch)
    options = {"causal": bool(is_causal), "scale": scale, "dropout": float(dropout_p)}
    y: Tensor = apply(Attention, *inputs, mask, seed, **options)
    return y if len(batch) == 2 else y.reshape(*batch, *y.shape[-2:])


def _check(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool
) -> None:
    name, three = "scaled_dot_product_attention", (query, key, value)
    if min(x.ndim for x in three) < 2:
        raise RuntimeError(
            f"{name}: expected query, key and value of at least 2 dimensions, got "
            + ", ".join(str(x.ndim) for x in three)
        )
    if len({x.dtype for x in three}) > 1 and not query._mixes():
        raise RuntimeError(
            f"{name}: expected query, key and value of the same dtype, got "
            + ", ".join(str(x.dtype) for x in three)
        )
    if not all(x.is_floating_point() for x in three):
        raise RuntimeError(f"{name}: expected floating point numbers, got {query.dtype}")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            f"{name}: expected queries (*, L, E), keys (*, S, E) and values (*, S, V), got "
            + ", ".join(str(tuple(x.shape)) for x in three)
        )
    if not 0 <= dropout <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout}")
    if mask is None:
        return
    if causal:
        raise RuntimeError(f"{name}: Explicit attn_mask should not be set when is_causal=True")
    kinds = (bool_, float32, query.dtype)
    if mask.dtype not in kinds and not query._mixes():
        raise RuntimeError(
            f"{name}: expected an attn_mask of dtype bool, float32 or {query.dtype}, got "
            f"{mask.dtype}"
        )
    if mask.ndim < 2:
        raise IndexError(f"{name}: expected an attn_mask (*, L, S), got {tuple(mask.shape)}")
    for got, size in zip(mask.shape[-2:], (query.shape[-2], key.shape[-2]), strict=True):
        if got not in (1, size):
            raise RuntimeError(
                f"{name}: expected an attn_mask that broadcasts to (*, {query.shape[-2]}, "
                f"{key.shape[-2]}), got {tuple(mask.shape)}"
            )


def _batch(*inputs: Tensor) -> tuple[int, ...]:
    """The dimensions before the last two, which broadcast."""
    shapes = [tuple(x.shape[:-2]) for x in inputs]
    if shapes[0] == shapes[1] == shapes[2]:
        return shapes[0]
    try:
        return HOST.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(
            "scaled_dot_product_attention: expected query, key and value with dimensions before "
            f"the last two that broadcast, got {', '.join(map(str, shapes))}"
        ) from None


def _spread_heads(x: Tensor, query: Tensor) -> Tensor:
    """Keys or values with each head as often as it serves one of the queries' heads."""
    if x.ndim < 3 or query.ndim < 3 or query.shape[-3] % x.shape[-3]:
        raise RuntimeError(
            "scaled_dot_product_attention: the number of heads in key and value must divide the "
            f"number of heads in query, got query {tuple(query.shape)} and {tuple(x.shape)}"
        )
    times = query.shape[-3] // x.shape[-3]
    return x if times == 1 else x.repeat_interleave(times, -3)


def _four_dimensional(x: Tensor, batch: tuple[int, ...]) -> Tensor:
    """x, or a mask that broadcasts, as (N, H, rows, columns)."""
    if x.ndim < len(batch) + 2:
        x = x.reshape((1,) * (len(batch) + 2 - x.ndim) + tuple(x.shape))
    if len(batch) > 2:
        x = x.expand(*batch, *x.shape[-2:]).flatten(0, -4)
    while x.ndim < 4:
        x = x.unsqueeze(-3)
    return x
