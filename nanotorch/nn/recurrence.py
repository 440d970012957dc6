"""Recurrences over sequences: one primitive for all steps of a layer in one direction.

The rows of a batch of sequences lie step after step: first those of step 0, one for each sequence,
then those of step 1, and so on; `batch_sizes` counts the sequences of each step and never grows.
`pre`, the input's part of the gates, is computed for all rows before, so a step is one matrix
product with the hidden state and a few elementwise calls. Going back, too, whatever can be computed
for all rows at once is: the weight's gradient is one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanotorch import ops
from nanotorch.backend import Array
from nanotorch.nn.fused import Fused, push
from nanotorch.primitive import Primitive, apply

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}  # blocks of rows in the weights


class Recurrence(Fused):
    """y = the states after each step, of shape (1, rows, hidden), or (2, …) with an LSTM's cells

    The rules share one reverse pass; derivatives of it are those of `step_by_step`.
    """

    __slots__ = ()
    vjp = (
        lambda g, pre, h0, c0, weight, bias, y, mode, batch_sizes, backwards, index: cotangents(
            g, pre, h0, c0, weight, bias, y, mode, batch_sizes, backwards
        )[index],
    ) * 5
    jvp = (
        lambda t, pre, h0, c0, weight, bias, mode, batch_sizes, backwards, index: push(
            t,
            index,
            [pre, h0, c0, weight, bias],
            lambda inputs: ops.stack(step_by_step(inputs, (mode, batch_sizes, backwards))),
        ),
    ) * 5

    @staticmethod
    def kernel(
        xp: Any, pre: Array, h0: Array, c0: Array | None, weight: Array, bias: Array | None, *,
        mode: str, batch_sizes: tuple[int, ...], backwards: bool, out: Array | None = None,
    ) -> Array:  # fmt: skip
        shape = (1 if c0 is None else 2, len(pre), weight.shape[1])
        y = xp.empty(shape, pre.dtype) if out is None else out
        for now, before, going_on, size in steps(batch_sizes, backwards):
            h = state(xp, y[0], h0, before, going_on, size)
            gates = open_gates(xp, pre[now], affine(h, weight, bias), mode)
            if mode == "LSTM":
                i, f, n, o = blocks(gates, 4)
                c = xp.multiply(f, state(xp, y[1], c0, before, going_on, size), out=y[1, now])
                c += i * n
                xp.multiply(o, xp.tanh(c), out=y[0, now])
            elif mode == "GRU":
                n, _, z = blocks(gates, 3)
                xp.add(n, z * (h - n), out=y[0, now])
            else:
                y[0, now] = gates
        return y

    @staticmethod
    def composition(inputs: Any, attributes: dict[str, Any]) -> Any:
        return ops.stack(step_by_step(inputs, options_of(attributes)))

    @staticmethod
    def cotangents(
        g: Any, inputs: Any, y: Any, attributes: dict[str, Any], wanted: Sequence[bool]
    ) -> Sequence[Any]:
        pre, h0, c0, weight, bias = inputs
        return cotangents(g, pre, h0, c0, weight, bias, y, *options_of(attributes))


class RecurrenceReverse(Primitive):
    """y = the cotangents of the gates, row by row, and below them those of the initial states

    A GRU's row has four blocks: of the new state as the input's gates see it, then those of the
    hidden state's three. The columns below hold h0's cotangent, and behind it c0's.
    """

    __slots__ = ()
    vjp = (None,) * 7

    @staticmethod
    def kernel(
        xp: Any, g: Array, pre: Array, h0: Array, c0: Array | None, weight: Array,
        bias: Array | None, y: Array, *, mode: str, batch_sizes: tuple[int, ...], backwards: bool,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        rows, width = len(pre), weight.shape[1]
        count = max(GATES[mode] + (mode == "GRU"), 1)
        shape = (rows + batch_sizes[0], count * width)
        out = xp.empty(shape, pre.dtype) if out is None else out
        gates, below = out[:rows].reshape(rows, count, width), out[rows:]
        below[...] = 0
        h = state_before(y[0], h0, batch_sizes, backwards)
        hidden = affine(h, weight, bias)
        # First the derivatives of all rows; then, step by step, what multiplies them.
        if mode == "LSTM":
            i, f, n, o = blocks(open_gates(xp, pre, hidden, mode), 4)
            c, bent = state_before(y[1], c0, batch_sizes, backwards), xp.tanh(y[1])
            for block, rate in enumerate(
                (n * i * (1 - i), c * f * (1 - f), i * (1 - n * n), bent * o * (1 - o))
            ):
                gates[:, block] = rate
            through = o * (1 - bent * bent)
        elif mode == "GRU":
            s = blocks(hidden, 3)[2].copy()
            n, r, z = blocks(open_gates(xp, pre, hidden, mode), 3)
            rate = (1 - z) * (1 - n * n)
            for block, value in enumerate(
                (rate, rate * s * r * (1 - r), (h - n) * z * (1 - z), rate * r)
            ):
                gates[:, block] = value
        else:
            gates[:, 0] = 1 - y[0] * y[0] if mode == "RNN_TANH" else y[0] > 0
        for now, _, _, size in reversed(steps(batch_sizes, backwards)):
            dh, step = g[0, now] + below[:size, :width], gates[now]
            if mode == "LSTM":
                dc = dh * through[now]
                dc += g[1, now]
                dc += below[:size, width : 2 * width]
                step[:, :3] *= dc[:, None]
                step[:, 3] *= dh
                xp.multiply(dc, f[now], out=below[:size, width : 2 * width])
            else:
                step *= dh[:, None]
            of_hidden = out[now, width:] if mode == "GRU" else out[now]
            xp.matmul(of_hidden, weight, out=below[:size, :width])
            if mode == "GRU":
                below[:size, :width] += dh * z[now]
        return out


def cotangents(
    g: Any, pre: Any, h0: Any, c0: Any, weight: Any, bias: Any, y: Any,
    mode: str, batch_sizes: tuple[int, ...], backwards: bool,
) -> list[Any]:  # fmt: skip
    """The cotangents of pre, h0, c0, weight and bias in Recurrence."""
    options = {"mode": mode, "batch_sizes": batch_sizes, "backwards": backwards}
    both = apply(RecurrenceReverse, g, pre, h0, c0, weight, bias, y, **options)
    rows, width = pre.shape[0], weight.shape[1]
    gates = of_hidden = ops.narrow(both, 0, 0, rows)
    below = ops.narrow(both, 0, rows, batch_sizes[0])
    if mode == "GRU":
        of_hidden = ops.narrow(gates, 1, width, 3 * width)
        first = ops.narrow(gates, 1, width, 2 * width)
        gates = ops.cat([first, ops.narrow(gates, 1, 0, width)], 1)
    h = state_before(ops.select(y, 0, 0), h0, batch_sizes, backwards)
    return [
        gates,
        ops.narrow(below, 1, 0, width),
        None if c0 is None else ops.narrow(below, 1, width, width),
        ops.matmul(ops.transpose(of_hidden, 0, 1), h),
        None if bias is None else ops.sum(of_hidden, 0),
    ]


def steps(
    batch_sizes: Sequence[int], backwards: bool
) -> list[tuple[slice, slice | None, int, int]]:
    """In the order of computing: the rows of the step, those of the step before, how many
    sequences go on from there, and how many there are; the rest start from the initial state."""
    starts = [0]
    for size in batch_sizes:
        starts.append(starts[-1] + size)
    order = range(len(batch_sizes))
    before: slice | None = None
    result = []
    for k in reversed(order) if backwards else order:
        now, size = slice(starts[k], starts[k + 1]), batch_sizes[k]
        going_on = 0 if before is None else min(size, before.stop - before.start)
        result.append((now, before, going_on, size))
        before = now
    return result


def state(
    xp: Any, states: Array, initial: Array, before: slice | None, going_on: int, size: int
) -> Array:
    """The state from which a step starts, one row for each of its sequences."""
    if before is None:
        return initial[:size]
    start = states[before][:going_on]
    return start if going_on == size else xp.concatenate([start, initial[going_on:size]])


def state_before(states: Any, initial: Any, batch_sizes: Sequence[int], backwards: bool) -> Any:
    """`state` for the rows of all steps."""
    count = batch_sizes[0]
    if batch_sizes[-1] == count:
        rest = ops.narrow(states, 0, count if backwards else 0, states.shape[0] - count)
        return ops.cat([rest, initial] if backwards else [initial, rest])
    pieces: list[list[Any]] = []
    for _, before, going_on, size in steps(batch_sizes, backwards):
        from_before = [] if before is None else [ops.narrow(states, 0, before.start, going_on)]
        pieces.append([*from_before, ops.narrow(initial, 0, going_on, size - going_on)])
    return ops.cat([x for step in (reversed(pieces) if backwards else pieces) for x in step])


def affine(h: Array, weight: Array, bias: Array | None) -> Array:
    """h weightᵀ + bias"""
    y = h @ weight.T
    if bias is not None:
        y += bias
    return y


def blocks(gates: Array, count: int) -> list[Array]:
    """The gates as that many blocks of columns."""
    width = gates.shape[1] // count
    return [gates[:, block * width : (block + 1) * width] for block in range(count)]


def open_gates(xp: Any, pre: Array, hidden: Array, mode: str) -> Array:
    """The gates after their nonlinearities, in the memory of `hidden`.

    LSTM: input, forget, new, output. GRU: new, reset, update. The logistic function is computed as
    (1 + tanh(x / 2)) / 2, which does not overflow.
    """
    if mode == "RNN_RELU":
        hidden += pre
        return xp.maximum(hidden, 0, out=hidden)
    if mode == "GRU":
        width = pre.shape[1] // 3
        logistic(xp, hidden[:, : 2 * width], pre[:, : 2 * width], 0.5, 0.5)
        r, z, n = blocks(hidden, 3)
        n = xp.tanh(pre[:, 2 * width :] + r * n)
        return xp.concatenate([n, r, z], 1)
    if mode == "LSTM":
        width = pre.shape[1] // 4
        scale = xp.full(4 * width, 0.5, pre.dtype)
        scale[2 * width : 3 * width] = 1
        return logistic(xp, hidden, pre, scale, 1 - scale)
    hidden += pre
    return xp.tanh(hidden, out=hidden)


def logistic(xp: Any, x: Array, y: Array, scale: Any, shift: Any) -> Array:
    """scale tanh(scale (x + y)) + shift, in the memory of x: for 1/2 the logistic function"""
    x += y
    x *= scale
    xp.tanh(x, out=x)
    x *= scale
    x += shift
    return x


# --- the same from small ops ----------------------------------------------------------------------


def step(mode: str, pre: Any, hidden: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """(h, c) after one step, from the gates of the input and of the hidden state."""
    if mode == "GRU":
        (a, b, x), (p, q, s) = ops.chunk(pre, 3, 1), ops.chunk(hidden, 3, 1)
        n = ops.tanh(x + ops.sigmoid(a + p) * s)
        return n + ops.sigmoid(b + q) * (h - n), None
    gates = pre + hidden
    if mode != "LSTM":
        return (ops.tanh(gates) if mode == "RNN_TANH" else ops.relu(gates)), None
    i, f, n, o = ops.chunk(gates, 4, 1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(n)
    return ops.sigmoid(o) * ops.tanh(c), c


def step_by_step(
    inputs: Sequence[Any], options: tuple[str, tuple[int, ...], bool], projection: Any = None
) -> list[Any]:
    """[h, c] (or [h]) after each step, as `Recurrence` has them; `projection` makes h smaller."""
    (pre, h0, c0, weight, bias), (mode, batch_sizes, backwards) = inputs, options
    parts, order = ops.split(pre, list(batch_sizes)), range(len(batch_sizes))
    h, c = h0, c0
    states: list[list[Any]] = []
    for k in reversed(order) if backwards else order:
        size, going_on = batch_sizes[k], h.shape[0] if states else 0
        h, c = (
            s if s is None or going_on == size else
            ops.cat([s, ops.narrow(start, 0, going_on, size - going_on)]) if 0 < going_on < size
            else ops.narrow(s, 0, 0, size)
            for s, start in ((h, h0), (c, c0))
        )  # fmt: skip
        h, c = step(mode, parts[k], ops.linear(h, weight, bias), h, c)
        if projection is not None:
            h = ops.linear(h, projection)
        states.append([h] if c is None else [h, c])
    return [ops.cat(list(s)) for s in zip(*(states[::-1] if backwards else states), strict=True)]


def options_of(attributes: dict[str, Any]) -> tuple[str, tuple[int, ...], bool]:
    """(mode, batch_sizes, backwards) of a Recurrence."""
    return attributes["mode"], attributes["batch_sizes"], attributes["backwards"]
