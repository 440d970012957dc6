"""Recurrences over sequences: one primitive for all steps of a layer in one direction.

The rows of a batch of sequences lie step after step: first those of step 0, one for each sequence,
then those of step 1, and so on; `batch_sizes` counts the sequences of each step and never grows.
`pre`, the input's part of the gates, is computed for all rows before, so a step is one matrix
product with the hidden state and a few elementwise calls. Within a kernel each gate is a plane of
its own, (gates, rows, hidden), whose memory has no gaps. Going back, as many steps at once as stay
in the processor's cache are prepared; the weight's gradient is one product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.backend import HOST, Array
from nanotorch.backend.threads import ALONE, BETTER_ALONE
from nanotorch.nn.fused import Fused, push
from nanotorch.primitive import Primitive, apply

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}  # blocks of rows in the weights
CACHED = 1 << 16  # numbers in the gates of the steps that are prepared at once: 256 KB


class Recurrence(Fused):
    """y = the states after each step, of shape (1, rows, hidden), or (2, …) with an LSTM's cells

    With `with_gates`, an LSTM's four gates follow, as `of_steps` reads them: reverse needs them and
    computes them again where they are not there. The rules share one reverse pass, whose
    derivatives are those of `step_by_step`.
    """

    __slots__ = ()
    vjp = (
        lambda g, pre, h0, c0, weight, bias, y, mode, batch_sizes, backwards, index: cotangents(
            g, pre, h0, c0, weight, bias, y, mode, batch_sizes, backwards
        )[index],
    ) * 5
    jvp = (
        lambda t, pre, h0, c0, weight, bias, mode, batch_sizes, backwards, with_gates, index: push(
            t,
            index,
            [pre, h0, c0, weight, bias],
            lambda inputs: composed(inputs, (mode, batch_sizes, backwards), with_gates),
        ),
    ) * 5

    @staticmethod
    def kernel(
        xp: Any, pre: Array, h0: Array, c0: Array | None, weight: Array, bias: Array | None, *,
        mode: str, batch_sizes: tuple[int, ...], backwards: bool, with_gates: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        with_gates = with_gates and mode == "LSTM"
        shape = (6 if with_gates else 1 if c0 is None else 2, len(pre), weight.shape[1])
        y = xp.empty(shape, pre.dtype) if out is None else out
        cell = Cell(xp, mode, pre, weight, bias, batch_sizes[0])
        for now, before, going_on, size in steps(batch_sizes, backwards):
            h = state(xp, y[0], h0, before, going_on, size)
            if mode == "LSTM":
                c, next_c = state(xp, y[1], c0, before, going_on, size), y[1, now]
                i, f, n, o = cell.gates(h, now, of_steps(y[2:], now)[0] if with_gates else None)
                part = cell.room("part", 1, size)[0]
                xp.multiply(f, c, out=next_c)
                xp.multiply(i, n, out=part)
                next_c += part
                xp.tanh(next_c, out=part)
                xp.multiply(o, part, out=y[0, now])
            elif mode == "GRU":
                r, z, n = cell.gates(h, now)
                xp.subtract(h, n, out=r)
                r *= z
                xp.add(n, r, out=y[0, now])
            else:
                cell.gates(h, now, y[:1, now])
        return y

    @staticmethod
    def composition(inputs: Any, attributes: dict[str, Any]) -> Any:
        return composed(inputs, options_of(attributes), attributes["with_gates"])

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
        count = GATES[mode] + (mode == "GRU")
        shape = (rows + batch_sizes[0], max(count, 1) * width)
        out = xp.empty(shape, pre.dtype) if out is None else out
        below, result = out[rows:], planes(out[:rows], count)
        below[...] = 0
        at_once = CACHED // (count * width)
        cell = Cell(xp, mode, pre, weight, bias, max(at_once, batch_sizes[0]))
        back = blocks(xp, weight, batch_sizes[0])
        before = [rows_before(xp, *both, batch_sizes, backwards) for both in zip(y, (h0, c0))]
        dh_below, dc_below, dh_all, dc_all = xp.zeros((4, batch_sizes[0], width), pre.dtype)
        for piece in pieces(steps(batch_sizes, backwards)[::-1], at_once):
            start = min(step[0].start for step in piece)
            part = slice(start, max(step[0].stop for step in piece))
            # First the derivatives of all these rows; then, step by step, what multiplies them.
            rates, past = cell.rates([rows(part) for rows in before], y, part, len(piece))
            for now, _, _, size in piece:
                here = slice(now.start - start, now.stop - start)
                step, dh, dh_next = result[:, now], dh_all[:size], dh_below[:size]
                xp.add(g[0, now], dh_next, out=dh)
                if mode == "LSTM":
                    dc, dc_next = dc_all[:size], dc_below[:size]
                    xp.multiply(dh, past[0][here], out=dc)
                    dc += g[1, now]
                    dc += dc_next
                    xp.multiply(rates[:3, here], dc, out=step[:3])
                    xp.multiply(rates[3, here], dh, out=step[3])
                    xp.multiply(dc, past[1][here.start // size], out=dc_next)
                else:
                    xp.multiply(rates[:, here], dh, out=step)
                of_hidden = out[now, (count - GATES[mode]) * width :]
                xp.matmul(of_hidden, back, out=split(dh_next, back.shape[-1]))
                if mode == "GRU":
                    dh *= past[0][here]
                    dh_next += dh
        below[:, :width] = dh_below
        if c0 is not None:
            below[:, width : 2 * width] = dc_below
        return out


class Cell:
    """The gates of a layer, for the rows of a step or of several, in memory that is used again."""

    def __init__(
        self, xp: Any, mode: str, pre: Array, weight: Array, bias: Array | None, most_rows: int
    ) -> None:
        count, width = GATES[mode], weight.shape[1]
        self.xp, self.mode, self.width, self.dtype = xp, mode, width, pre.dtype
        self.pre = planes(pre, count)
        self.weights = weight.reshape(count, width, width).swapaxes(1, 2)
        self.blocks = blocks(xp, self.weights, most_rows)
        self.bias = None if bias is None else bias.reshape(count, 1, width)
        self.memory: dict[tuple[str, int], Array] = {}

    def room(self, name: str, count: int, rows: int) -> Array:
        """Memory for planes of that many rows: the same for the same name and size."""
        if (name, rows) not in self.memory:
            self.memory[name, rows] = self.xp.empty((count, rows, self.width), self.dtype)
        return self.memory[name, rows]

    def gates(self, h: Array, rows: slice, out: Array | None = None) -> Array:
        """The gates of these rows, after their nonlinearities, one plane for each.

        LSTM: input, forget, new, output. GRU: reset, update, new.
        """
        xp, pre = self.xp, self.pre[:, rows]
        x = self.room("gates", len(self.weights), len(h)) if out is None else out
        xp.matmul(h, self.blocks, out=split(x, self.blocks.shape[-1]))
        if self.bias is not None:
            x += self.bias
        if self.mode == "GRU":
            doors, new = x[:2], x[2]
            doors += pre[:2]
            doors *= 0.5
            xp.tanh(doors, out=doors)
            doors *= 0.5
            doors += 0.5
            new *= x[0]
            new += pre[2]
            xp.tanh(new, out=new)
            return x
        x += pre
        if self.mode == "RNN_RELU":
            xp.maximum(x, 0, out=x)
        elif self.mode == "RNN_TANH":
            xp.tanh(x, out=x)
        else:
            scale, shift = self.filled(len(h))
            x *= scale
            xp.tanh(x, out=x)
            x *= scale
            x += shift
        return x

    def filled(self, rows: int) -> tuple[Array, Array]:
        """The scale of each gate and its shift, in all elements: faster than to broadcast them."""
        if ("scale", rows) not in self.memory:
            scale, shift = self.room("scale", 4, rows), self.room("shift", 4, rows)
            scale.fill(0.5)  # σ(x) = (1 + tanh(x / 2)) / 2, which does not overflow
            scale[2].fill(1)
            self.xp.subtract(1, scale, out=shift)
        return self.memory["scale", rows], self.memory["shift", rows]

    def rates(
        self, before: list[Any], y: Array, rows: slice, count: int
    ) -> tuple[Array, list[Array]]:
        """What multiplies the state's cotangent, for the rows of `count` steps: on its way into the
        gates, one plane for each, and on its way past them. `before`: the states before these."""
        xp, h = self.xp, before[0]
        size = len(h)
        if self.mode.startswith("RNN"):
            rates = self.room("rates", 1, size)
            if self.mode == "RNN_RELU":
                rates[...] = y[:, rows] > 0
            else:
                xp.multiply(y[:, rows], y[:, rows], out=rates)
                xp.subtract(1, rates, out=rates)
            return rates, []
        rates, (past, other) = self.room("rates", 4, size), self.room("past", 2, size)
        if self.mode == "LSTM":
            bent = xp.tanh(y[1, rows], out=other)
            xp.multiply(bent, bent, out=past)
            xp.subtract(1, past, out=past)
            each = (count, size // count, self.width)  # the gates' order in memory
            if len(y) > 2:
                gates = of_steps(y[2:], rows, count).swapaxes(0, 1)
            else:
                gates = self.gates(h, rows).reshape(4, *each)
            i, f, n, o = gates
            slopes = rates.reshape(4, *each)
            xp.multiply(gates, gates, out=slopes)
            xp.subtract(gates[:2], slopes[:2], out=slopes[:2])
            xp.subtract(1, slopes[2], out=slopes[2])
            xp.subtract(o, slopes[3], out=slopes[3])
            factors = (n, before[1].reshape(each), i, bent.reshape(each))
            for slope, factor in zip(slopes, factors, strict=True):
                slope *= factor
            xp.multiply(past.reshape(each), o, out=past.reshape(each))
            return rates, [past, f]
        r, z, n = self.gates(h, rows)
        hidden = xp.matmul(h, self.weights[2], out=other)
        if self.bias is not None:
            hidden += self.bias[2]
        first, of_r, of_z, of_n = rates
        xp.multiply(n, n, out=of_n)
        xp.subtract(1, of_n, out=of_n)
        xp.subtract(1, z, out=past)
        xp.multiply(of_n, past, out=first)
        xp.multiply(first, r, out=of_n)
        xp.subtract(1, r, out=of_r)
        of_r *= of_n
        of_r *= hidden
        xp.subtract(h, n, out=of_z)
        of_z *= z
        of_z *= past
        return rates, [z]


def blocks(xp: Any, matrices: Array, rows: int) -> Array:
    """Matrices (…, inner, columns) as copies of blocks of their columns, (…, blocks, inner, size),
    by which so many rows are multiplied: on the CPU products so small that BLAS does not share
    them between threads, nor copies what it multiplies, are faster than a larger one."""
    inner, size = matrices.shape[-2:]
    if xp is HOST and rows * matrices.size <= BETTER_ALONE:
        while size % 64 == 0 and rows * inner * size > ALONE:
            size //= 2
    return xp.ascontiguousarray(split(matrices, size))


def split(x: Array, size: int) -> Array:
    """(…, rows, columns) as blocks of so many columns, (…, blocks, rows, size)."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size).swapaxes(-3, -2)


def of_steps(gates: Array, rows: slice, count: int = 1) -> Array:
    """The gates of so many steps of one size, (steps, gates, sequences, width), out of those of all
    rows: in memory, step follows step and in it gate follows gate."""
    number, _, width = gates.shape
    flat = gates.reshape(-1)[number * width * rows.start : number * width * rows.stop]
    return flat.reshape(count, number, (rows.stop - rows.start) // count, width)


def planes(rows: Array, count: int) -> Array:
    """Rows of `count` blocks as (count, rows, width), over the same memory."""
    return rows.reshape(len(rows), count, rows.shape[1] // count).swapaxes(0, 1)


def rows_before(
    xp: Any, states: Array, initial: Array, batch_sizes: Sequence[int], backwards: bool
) -> Callable[[slice], Array]:
    """A function from rows to the states before them."""
    count, end = batch_sizes[0], len(states)
    if batch_sizes[-1] != count:
        return state_before(states, initial, batch_sizes, backwards).__getitem__  # type: ignore[no-any-return]

    def rows(part: slice) -> Array:
        if backwards:
            start, stop = part.start + count, part.stop + count
            return states[start:stop] if stop <= end else xp.concatenate([states[start:], initial])
        start, stop = part.start - count, part.stop - count
        return states[start:stop] if start >= 0 else xp.concatenate([initial, states[:stop]])

    return rows


def pieces(order: list[Any], rows: int) -> list[list[Any]]:
    """The steps in runs of one size, of at most that many rows or of one step."""
    result: list[list[Any]] = []
    room = 0
    for step in order:
        if step[3] > room or step[3] != result[-1][-1][3]:
            result.append([])
            room = max(rows, step[3])
        result[-1].append(step)
        room -= step[3]
    return result


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
    states, count = ops.select(y, 0, 0), batch_sizes[0]
    if batch_sizes[-1] == count:  # without a copy of all states
        first, rest = (rows - count, 0) if backwards else (0, count)
        of_weight = ops.matmul(
            ops.transpose(ops.narrow(of_hidden, 0, rest, rows - count), 0, 1),
            ops.narrow(states, 0, count - rest, rows - count),
        ) + ops.matmul(ops.transpose(ops.narrow(of_hidden, 0, first, count), 0, 1), h0)
    else:
        h = state_before(states, h0, batch_sizes, backwards)
        of_weight = ops.matmul(ops.transpose(of_hidden, 0, 1), h)
    return [
        gates,
        ops.narrow(below, 1, 0, width),
        None if c0 is None else ops.narrow(below, 1, width, width),
        of_weight,
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


# --- the same from small ops ----------------------------------------------------------------------


def step(mode: str, pre: Any, hidden: Any, h: Any, c: Any) -> list[Any]:
    """[h], or [h, c, the four gates], after one step, from the gates of the input and of the hidden
    state."""
    if mode == "GRU":
        (a, b, x), (p, q, s) = ops.chunk(pre, 3, 1), ops.chunk(hidden, 3, 1)
        n = ops.tanh(x + ops.sigmoid(a + p) * s)
        return [n + ops.sigmoid(b + q) * (h - n)]
    gates = pre + hidden
    if mode != "LSTM":
        return [ops.tanh(gates) if mode == "RNN_TANH" else ops.relu(gates)]
    a, b, x, d = ops.chunk(gates, 4, 1)
    i, f, n, o = ops.sigmoid(a), ops.sigmoid(b), ops.tanh(x), ops.sigmoid(d)
    c = f * c + i * n
    return [o * ops.tanh(c), c, i, f, n, o]


def composed(
    inputs: Sequence[Any], options: tuple[str, tuple[int, ...], bool], with_gates: bool
) -> Any:
    """What `Recurrence` returns."""
    planes = step_by_step(inputs, options, with_gates)
    if len(planes) < 3:
        return ops.stack(planes)
    h, c, *gates = planes
    in_memory = ops.cat([
        x for step in zip(*(ops.split(gate, list(options[1])) for gate in gates), strict=True)
        for x in step
    ])  # fmt: skip
    return ops.cat([ops.stack([h, c]), ops.reshape(in_memory, (len(gates), *h.shape))])


def step_by_step(
    inputs: Sequence[Any], options: tuple[str, tuple[int, ...], bool], with_gates: bool = False,
    projection: Any = None,
) -> list[Any]:  # fmt: skip
    """[h] or [h, c] of all rows, and the gates where asked for; `projection` makes h smaller."""
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
        planes = step(mode, parts[k], ops.linear(h, weight, bias), h, c)
        if projection is not None:
            planes[0] = ops.linear(planes[0], projection)
        h, c = [*planes, None][:2]
        states.append(planes if with_gates else planes[:2])
    return [ops.cat(list(s)) for s in zip(*(states[::-1] if backwards else states), strict=True)]


def options_of(attributes: dict[str, Any]) -> tuple[str, tuple[int, ...], bool]:
    """(mode, batch_sizes, backwards) of a Recurrence."""
    return attributes["mode"], attributes["batch_sizes"], attributes["backwards"]
