"""Recurrences over sequences: one primitive for all steps of a layer in one direction.

The rows of a batch of sequences lie step after step: first those of step 0, one for each sequence,
then those of step 1, and so on; `batch_sizes` counts the sequences of each step and never grows.
`pre`, the input's part of the gates, is computed for all rows before, so a step is one matrix
product with the hidden state and a few elementwise calls. Within a kernel each gate is a plane of
its own, (gates, rows, hidden), whose memory has no gaps. Going back, as many steps at once as stay
in the processor's cache are prepared; the weight's gradient is one product.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nanotorch import ops
from nanotorch.backend import HOST, Array
from nanotorch.backend.threads import ALONE, BETTER_ALONE
from nanotorch.nn.fused import Fused, push
from nanotorch.primitive import Primitive, apply

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}  # blocks of rows in the weights
CACHED = 1 << 17  # numbers in the gates of the steps that are prepared at once: 512 KB


class Recurrence(Fused):
    """y = the states after each step, of shape (1, rows, hidden), or (2, …) with an LSTM's cells

    With `with_gates`, an LSTM's four gates follow, as `Run.planes` reads them: reverse needs them,
    and computes them again where they are not there. The rules share one reverse pass, whose
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
        for run in runs(batch_sizes, backwards):
            h, states = run.first(xp, y[0], h0), run.steps(y[0])
            if mode == "GRU" or (mode == "LSTM" and not with_gates):
                room = cell.room("gates", GATES[mode], run.size)
                gates, products = itertools.repeat(room), itertools.repeat(cell.product(room))
            else:
                gates = run.planes(y[2:]) if with_gates else states[:, None]
                products = cell.product(gates)
            each = zip(states, gates, products, run.steps(cell.pre), strict=False)
            if mode == "LSTM":
                c, cells = run.first(xp, y[1], c0), run.steps(y[1])
                part = cell.room("part", 1, run.size)[0]
                for (next_h, x, product, of_input), next_c in zip(each, cells, strict=True):
                    i, f, n, o = cell.gates(h, of_input, x, product)
                    xp.multiply(f, c, out=next_c)
                    xp.multiply(i, n, out=part)
                    next_c += part
                    xp.tanh(next_c, out=part)
                    xp.multiply(o, part, out=next_h)
                    h, c = next_h, next_c
            else:
                for next_h, x, product, of_input in each:
                    cell.gates(h, of_input, x, product)
                    if mode == "GRU":
                        r, z, n = x
                        xp.subtract(h, n, out=r)
                        r *= z
                        xp.add(n, r, out=next_h)
                    h = next_h
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
        at_once = max(CACHED // (count * width), batch_sizes[0])  # rows, of one step at least
        cell = Cell(xp, mode, pre, weight, bias, at_once)
        back = blocks(xp, weight, batch_sizes[0])
        dh_below, dc_below, dh_all, dc_all = xp.zeros((4, batch_sizes[0], width), pre.dtype)
        for run in reversed(runs(batch_sizes, backwards)):
            dh, dh_next, dc, dc_next = (x[: run.size] for x in (dh_all, dh_below, dc_all, dc_below))
            to_next = split(dh_next, back.shape[-1])
            g_h, into = run.steps(g[0]), run.steps(result)
            of_hidden = run.steps(out[:rows, (count - GATES[mode]) * width :])
            states = [run.steps(y[0])]
            first = [run.first(xp, y[0], h0)]
            gates = run.planes(y[2:]) if len(y) > 2 else run.steps(cell.pre)
            if mode == "LSTM":
                g_c = run.steps(g[1])
                states.append(run.steps(y[1]))
                first.append(run.first(xp, y[1], c0))
            for part, back_to_front in run.parts(at_once):
                # First what multiplies the cotangents in all these steps; then step by step.
                before = [earlier(xp, *both, part) for both in zip(states, first, strict=True)]
                after = [x[part] for x in states]
                rates, *past = cell.rates(before, after, gates[part], len(y) > 2)
                rates, *past = (x[::-1] for x in (rates, *past))
                each = [x[back_to_front] for x in (g_h, into, of_hidden)]
                if mode == "LSTM":
                    of_h, steps, of_step = each
                    arrays = of_h, g_c[back_to_front], *past, rates[:, :3], rates[:, 3]
                    for of_h, of_c, through, f, rate, rate_o, step, step_o, row in zip(
                        *arrays, steps[:, :3], steps[:, 3], of_step, strict=True
                    ):
                        xp.add(of_h, dh_next, out=dh)
                        xp.multiply(dh, through, out=dc)
                        dc += of_c
                        dc += dc_next
                        xp.multiply(rate, dc, out=step)
                        xp.multiply(rate_o, dh, out=step_o)
                        xp.multiply(dc, f, out=dc_next)
                        xp.matmul(row, back, out=to_next)
                else:
                    for of_h, step, row, rate, *update in zip(*each, rates, *past, strict=True):
                        xp.add(of_h, dh_next, out=dh)
                        xp.multiply(rate, dh, out=step)
                        xp.matmul(row, back, out=to_next)
                        if mode == "GRU":
                            dh *= update[0]
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
        self.blocks = blocks(xp, weight.reshape(count, width, width).swapaxes(1, 2), most_rows)
        self.bias = None if bias is None else bias.reshape(count, 1, width)
        self.half = xp.full((), 0.5, pre.dtype)
        self.memory: dict[tuple[str, Any], Array] = {}

    def room(self, name: str, count: int, rows: int | tuple[int, int]) -> Array:
        """Memory for planes of that many rows, or (steps, rows): the same for the same name and
        size."""
        if (name, rows) not in self.memory:
            shape = (count, *(rows if isinstance(rows, tuple) else (rows,)), self.width)
            self.memory[name, rows] = self.xp.empty(shape, self.dtype)
        return self.memory[name, rows]

    def product(self, x: Array) -> Array:
        """The memory of gates, (…, gates, rows, width), as `gates` writes the product there."""
        return split(x, self.blocks.shape[-1])

    def gates(
        self, h: Array, of_input: Array, x: Array, product: Array, hidden: Array | None = None
    ) -> Array:
        """x = the gates after the states h, with their nonlinearities, one plane for each.

        LSTM: input, forget, new, output. GRU: reset, update, new, whose part of h goes into
        `hidden` as well.
        """
        xp = self.xp
        xp.matmul(h, self.blocks, out=product)
        if self.bias is not None:
            x += self.bias
        if self.mode == "GRU":
            doors, new = x[:2], x[2]
            if hidden is not None:
                hidden[...] = new
            doors += of_input[:2]
            doors *= self.half
            xp.tanh(doors, out=doors)
            doors *= self.half
            doors += self.half
            new *= x[0]
            new += of_input[2]
            xp.tanh(new, out=new)
            return x
        x += of_input
        if self.mode == "RNN_RELU":
            xp.maximum(x, 0, out=x)
        elif self.mode == "RNN_TANH":
            xp.tanh(x, out=x)
        else:
            # σ(x) = (1 + tanh(x / 2)) / 2, which does not overflow: one call for all four
            doors, half = (x[:2], x[3]), self.half
            for door in doors:
                door *= half
            xp.tanh(x, out=x)
            for door in doors:
                door *= half
                door += half
        return x

    def rates(
        self, before: list[Array], after: list[Array], gates: Array, known: bool
    ) -> tuple[Array, ...]:
        """What multiplies the state's cotangent in each step: on its way into the gates, (steps,
        gates, sequences, width), and on its way past them.

        `before` and `after`: the states, (steps, sequences, width); `gates`: the input's part of
        them, or, if they are known, themselves.
        """
        xp, h, next_h = self.xp, before[0], after[0]
        steps, size = h.shape[:2]
        if self.mode.startswith("RNN"):
            (rates,) = self.room("rates", 1, (steps, size))
            if self.mode == "RNN_RELU":
                rates[...] = next_h > 0
            else:
                xp.multiply(next_h, next_h, out=rates)
                xp.subtract(1, rates, out=rates)
            return (rates[:, None],)
        rates = self.room("rates", 4, (steps, size))
        past, other = self.room("past", 2, (steps, size))
        if not known:
            x = self.room("gates", len(self.pre), steps * size)
            flat = h.reshape(steps * size, self.width), gates.swapaxes(0, 1).reshape(x.shape)
            hidden = other.reshape(flat[0].shape)
            gates = self.gates(*flat, x, self.product(x), hidden)
            gates = gates.reshape(len(x), steps, size, self.width).swapaxes(0, 1)
        if self.mode == "LSTM":
            # With h' = o tanh(c'), no derivative of a nonlinearity needs more than two calls.
            i, f, n, o = gates.swapaxes(0, 1)
            of_i, of_f, of_n, of_o = rates
            xp.tanh(after[1], out=other)
            xp.multiply(next_h, other, out=past)
            xp.subtract(o, past, out=past)
            xp.multiply(next_h, o, out=of_o)
            xp.subtract(next_h, of_o, out=of_o)
            xp.multiply(i, n, out=of_i)
            xp.multiply(of_i, n, out=of_n)
            xp.subtract(i, of_n, out=of_n)
            xp.multiply(f, before[1], out=of_f)
            for rate, gate in ((of_i, i), (of_f, f)):
                xp.multiply(rate, gate, out=other)
                rate -= other
            return rates.swapaxes(0, 1), past, f
        r, z, n = gates.swapaxes(0, 1)
        first, of_r, of_z, of_n = rates
        xp.multiply(n, n, out=of_n)
        xp.subtract(1, of_n, out=of_n)
        xp.subtract(1, z, out=past)
        xp.multiply(of_n, past, out=first)
        xp.multiply(first, r, out=of_n)
        xp.subtract(1, r, out=of_r)
        of_r *= of_n
        of_r *= other
        xp.subtract(h, n, out=of_z)
        of_z *= z
        of_z *= past
        return rates.swapaxes(0, 1), z


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


def planes(rows: Array, count: int) -> Array:
    """Rows of `count` blocks as (count, rows, width), over the same memory."""
    return rows.reshape(len(rows), count, rows.shape[1] // count).swapaxes(0, 1)


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


class Run(NamedTuple):
    """Steps of one size that are computed one after the other."""

    rows: slice  # of all its steps
    length: int  # how many steps
    size: int  # sequences in each
    previous: slice | None  # the rows of the step that is computed before the first
    backwards: bool  # whether the last rows come first

    def steps(self, x: Array) -> Array:
        """Its rows out of (…, rows, width) as (steps, …, sequences, width), in computing order."""
        x = x[..., self.rows, :]
        x = x.reshape(*x.shape[:-2], self.length, self.size, x.shape[-1])
        x = x if x.ndim == 3 else x.swapaxes(0, 1)
        return x[::-1] if self.backwards else x

    def planes(self, gates: Array) -> Array:
        """`steps` of an LSTM's gates, in whose memory step follows step and in it gate follows
        gate."""
        number, _, width = gates.shape
        flat = gates.reshape(-1)[number * width * self.rows.start : number * width * self.rows.stop]
        x = flat.reshape(self.length, number, self.size, width)
        return x[::-1] if self.backwards else x

    def first(self, xp: Any, states: Array, initial: Array) -> Array:
        """The states before its first step: sequences that begin with it have the initial ones."""
        if self.previous is None:
            return initial[: self.size]
        start = states[self.previous][: self.size]
        if len(start) == self.size:
            return start
        return xp.concatenate([start, initial[len(start) : self.size]])

    def parts(self, most_rows: int) -> Iterator[tuple[slice, slice]]:
        """Runs of steps of at most so many rows, the last one first: as they are and reversed."""
        most = max(most_rows // max(self.size, 1), 1)
        for stop in range(self.length, 0, -most):
            start = max(stop - most, 0)
            yield slice(start, stop), slice(stop - 1, start - 1 if start else None, -1)


@functools.lru_cache(maxsize=64)
def runs(batch_sizes: tuple[int, ...], backwards: bool) -> list[Run]:
    """The steps in computing order, as few runs as can be."""
    starts = [0, *itertools.accumulate(batch_sizes)]
    order = range(len(batch_sizes))
    result: list[Run] = []
    previous: slice | None = None
    for k in reversed(order) if backwards else order:
        now, size = slice(starts[k], starts[k + 1]), batch_sizes[k]
        last = result[-1] if result else None
        if last is not None and last.size == size:
            ends = (now.start, last.rows.stop) if backwards else (last.rows.start, now.stop)
            result[-1] = last._replace(rows=slice(*ends), length=last.length + 1)
        else:
            result.append(Run(now, 1, size, previous, backwards))
        previous = now
    return result


def earlier(xp: Any, states: Array, first: Array, part: slice) -> Array:
    """The states before these steps of a run, of which `first` is the one before all."""
    if part.start:
        return states[part.start - 1 : part.stop - 1]
    return xp.concatenate([first[None], states[: part.stop - 1]])


def state_before(states: Any, initial: Any, batch_sizes: Sequence[int], backwards: bool) -> Any:
    """The states before all steps, row by row."""
    count = batch_sizes[0]
    if batch_sizes[-1] == count:
        rest = ops.narrow(states, 0, count if backwards else 0, states.shape[0] - count)
        return ops.cat([rest, initial] if backwards else [initial, rest])
    pieces: list[list[Any]] = []
    for run in runs(batch_sizes, backwards):
        before, size, rows = run.previous, run.size, run.rows
        going_on = 0 if before is None else min(size, before.stop - before.start)
        from_before = [] if before is None else [ops.narrow(states, 0, before.start, going_on)]
        pieces.append([*from_before, ops.narrow(initial, 0, going_on, size - going_on)])
        start = rows.start + size if backwards else rows.start
        pieces.append([ops.narrow(states, 0, start, (run.length - 1) * size)])
    return ops.cat([x for piece in (reversed(pieces) if backwards else pieces) for x in piece])


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
