"""Random numbers on the CPU: the mt19937 stream and the draws that PyTorch makes from it.

A *word* is one raw 32-bit output of the generator (Matsumoto and Nishimura 1998). Every method says
how many words a value takes and what it makes of them, so that the same seed gives PyTorch's own
numbers: bit for bit, float64 normals and exponentials up to the last bit of `log` and `cos`. Draws
are written into an array that the caller allocated, in the order of its memory, not of its indices.
(PyTorch built with MKL on an Intel processor draws from a stream of MKL instead if the probability
of `bernoulli_` is a number, dropout included; its portable rule is kept here.)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from math import cos, log1p, sin, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from nanotorch.backend.order_of_memory import axes_by_stride, empty_like

if TYPE_CHECKING:  # the module is slow to import
    from numpy.typing import NDArray

    Array = NDArray[Any]

DEFAULT_SEED = 67280421310721
WORDS_OF_STATE = 624
# From this range on an integer takes two words; from this size on a swap of a permutation does.
TWO_WORD_RANGE = 1 << 28
TWO_WORD_PERMUTATION = (2**32 - 1) // 20
# Below this many swaps, a loop in Python is faster than the search for chains in arrays.
FEW_SWAPS = 1500
# Fills are made in pieces that stay in the processor's cache. A multiple of 16, for the normals.
PIECE = 1 << 15

# The 5056 bytes in which PyTorch keeps a CPU generator, so that states can be exchanged with it.
STATE = np.dtype(
    {
        "names": ["seed", "left", "seeded", "next", "words", "kept_normal", "has_kept_normal"],
        "formats": ["<u8", "<i4", "<i4", "<u8", ("<u8", WORDS_OF_STATE), "<f8", "<i4"],
        "offsets": [0, 8, 12, 16, 24, 5024, 5040],
        "itemsize": 5056,
    }
)


def _rounded(*numbers: float) -> list[float]:
    """The nearest float32 numbers."""
    return [float(np.float32(number)) for number in numbers]


# Coefficients of the single-precision functions of the Cephes library (Moshier 1992).
LOG = _rounded(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1)
LOG += _rounded(1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1)
LOG += _rounded(3.3333331174e-1)
SINE = _rounded(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COSINE = _rounded(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
LOG_2_HIGH, LOG_2_LOW = _rounded(0.693359375, -2.12194440e-4)
# Pi / 4 in three parts, so that whole multiples can be taken off an angle without loss.
QUARTER_PI = _rounded(0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)
TWO_PI, FOUR_OVER_PI = _rounded(2.0 * np.pi, 4.0 / np.pi)
SQRT_HALF_BITS = 0x3F3504F3
ANGLE_UNIT = 2.0 * math.pi * 2.0**-53  # of angles drawn with 53 bits


class MersenneTwister:
    """One stream of random words, its lock, its seed and the normal value kept for later."""

    __slots__ = ("lock", "initial_seed", "_stream", "_untouched", "_kept_normal")

    def __init__(self, seed: int = DEFAULT_SEED) -> None:
        self.lock = threading.RLock()
        self._stream: np.random.MT19937 | None = None
        self.manual_seed(seed)

    @property
    def _bits(self) -> np.random.MT19937:
        """NumPy's generator. numpy.random is slow to import: not before the first draw needs it."""
        with self.lock:
            if self._stream is None:
                self._stream = np.random.MT19937(0)
                # MT19937 mixes its seed; RandomState seeds by the plain recurrence, as PyTorch.
                np.random.RandomState(self._stream).seed(self.initial_seed & 0xFFFFFFFF)
            return self._stream

    def manual_seed(self, seed: int) -> None:
        """Start the stream anew; of the 64-bit seed the lower 32 bits choose the stream."""
        with self.lock:
            self.initial_seed = seed
            self._stream = None
            self._untouched = True
            self._kept_normal: float | None = None

    def get_state(self) -> bytes:
        """The stream's seed, position, words and kept normal value, as 5056 bytes."""
        with self.lock:
            inner = self._bits.state["state"]
            position = 0 if self._untouched else int(inner["pos"])
            record = np.zeros((), STATE)
            record["seed"], record["seeded"], record["words"] = self.initial_seed, 1, inner["key"]
            record["next"] = position
            record["left"] = 1 if self._untouched else WORDS_OF_STATE + 1 - position
            if self._kept_normal is not None:
                record["kept_normal"], record["has_kept_normal"] = self._kept_normal, 1
            return record.tobytes()

    def set_state(self, state: bytes) -> None:
        """Go on where `get_state` was called, here or in PyTorch; RuntimeError if none of it."""
        if len(state) != STATE.itemsize:
            raise RuntimeError(
                f"set_state: expected a state of {STATE.itemsize} bytes, got {len(state)}"
            )
        record = np.frombuffer(state, STATE)[0]
        left, position = int(record["left"]), int(record["next"])
        untouched = left == 1 and position == 0
        in_step = 1 <= position <= WORDS_OF_STATE and left == WORDS_OF_STATE + 1 - position
        if record["seeded"] != 1 or not (untouched or in_step):
            raise RuntimeError("set_state: Invalid mt19937 state; pass what get_state() returned")
        with self.lock:
            self.initial_seed = int(record["seed"])
            self._bits.state = {
                "bit_generator": "MT19937",
                "state": {
                    "key": record["words"].astype(np.uint32),
                    "pos": WORDS_OF_STATE if untouched else position,
                },
            }
            self._untouched = untouched
            kept = float(record["kept_normal"])
            self._kept_normal = kept if record["has_kept_normal"] else None

    # The words and the uniforms in [0, 1) made of them.

    def words(self, count: int) -> NDArray[np.uint32]:
        """The next `count` words."""
        if count:
            self._untouched = False
        return self._bits.random_raw(count).astype(np.uint32)

    def double_words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` pairs of words as 64-bit numbers, the first word of a pair on top."""
        if count:
            self._untouched = False
        pairs = self._bits.random_raw(2 * count).reshape(-1, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    def unit(self, count: int, dtype: np.dtype[Any]) -> Array:
        """Uniforms in [0, 1): 53 bits of two words for float64, 24 bits of one word for float32."""
        if dtype == np.float64:
            return (self.double_words(count) & np.uint64(2**53 - 1)) * 2.0**-53
        bits = self.words(count) & np.uint32(2**24 - 1)
        return bits.astype(np.float32) * np.float32(2.0**-24)

    # The draws. Each holds the lock, so that it is one uninterrupted run of the stream.

    def _fill(self, out: Array, draw: Callable[[int], Array]) -> Array:
        """Write the flat results of draw(count) into `out`, in the order of its memory."""
        target = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        with self.lock, np.errstate(over="ignore"):
            for start in range(0, out.size, PIECE):
                piece = target[start : start + PIECE]
                values = draw(piece.size)
                # float64 becomes float16 by way of float32, as in PyTorch.
                piece[...] = values.astype(np.float32) if out.dtype == np.float16 else values
        if not out.flags.c_contiguous:
            in_order = _by_stride(out, out)
            in_order[...] = target.reshape(in_order.shape)
        return out

    def uniform(self, out: Array, low: float = 0.0, high: float = 1.0) -> Array:
        """x = u (high - low) + low, rounded once, in `out`'s dtype; float16 computes in float32."""
        work, narrow = _working_dtype(out.dtype).type, out.dtype.type

        def draw(count: int) -> Array:
            values = self.unit(count, np.dtype(work))
            if low != 0.0 or high != 1.0:
                values = fused_multiply_add(values, work(high) - work(low), work(low))
            values = values.astype(out.dtype, copy=False)
            # Rounding may reach the upper bound, which is excluded.
            values[values == narrow(high)] = low
            return values

        return self._fill(out, draw)

    def normal(self, out: Array, mean: float = 0.0, std: float = 1.0) -> Array:
        """x = mean + std sqrt(-2 log(1 - u)) cos(2 pi v), its twin with sin (Box and Muller 1958).

        16 values or more in one contiguous piece: blocks of eight u, then eight v, in `out`'s own
        precision; the last block is drawn anew when it is not full. Anything else: pairs of float64
        uniforms, v before u; the twin that an odd count leaves over waits for the next such call.
        """
        dense = out.flags.c_contiguous
        if out.size < 16 and dense and mean == 0.0 and std == 1.0 and out.dtype.char in "fd":
            with self.lock:
                flat = out if out.ndim == 1 else out.reshape(-1)
                flat[:] = self._few_normals(out.size)
            return out
        if out.size < 16 or not dense:
            return self._fill(out, lambda count: _scaled(self._normal_pairs(count), mean, std))
        work, full = _working_dtype(out.dtype), out.size // 16 * 16
        flat = out.reshape(-1)
        with self.lock:
            self._fill(flat[:full], lambda count: _box_muller(self.unit(count, work), mean, std))
            if full < out.size:
                if work == out.dtype:
                    # PyTorch fills all of the array with uniforms first, the unfinished block too.
                    self.unit(out.size - full, work)
                self._fill(flat[-16:], lambda count: _box_muller(self.unit(16, work), mean, std))
        return out

    def _few_normals(self, count: int) -> list[float]:
        """What `_normal_pairs` gives, in a quarter of its time for a few: one after the other, by
        the C library, as PyTorch does."""
        values = [] if self._kept_normal is None else [self._kept_normal]
        self._kept_normal = None
        missing = count - len(values)
        if missing > 0:
            self._untouched = False
            bits = self._stream or self._bits
            words = iter(bits.random_raw(2 * missing + 2 * (missing % 2)).tolist())
            for a, b, c, d in zip(words, words, words, words):
                # The lower 53 bits of the two words, in floats, which hold them.
                angle = ((a & 2**21 - 1) * 2.0**32 + b) * ANGLE_UNIT
                radius = sqrt(-2.0 * log1p(((c & 2**21 - 1) * 2.0**32 + d) * -(2.0**-53)))
                values += radius * cos(angle), radius * sin(angle)
        if len(values) > count:
            self._kept_normal = values.pop()
        return values

    def _normal_pairs(self, count: int) -> NDArray[np.float64]:
        kept = [] if self._kept_normal is None else [self._kept_normal]
        self._kept_normal = None
        missing = count - len(kept)
        pairs = self.unit(missing + missing % 2, np.dtype(np.float64)).reshape(-1, 2)
        radius, angle = np.sqrt(-2.0 * np.log1p(-pairs[:, 1])), 2.0 * np.pi * pairs[:, 0]
        twins = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]).reshape(-1)
        if missing % 2:
            # By the C library, to the last bit: the kept value is part of the state.
            turn, spread = pairs[-1].tolist()
            self._kept_normal = sqrt(-2.0 * log1p(-spread)) * sin(2.0 * math.pi * turn)
        return np.concatenate([kept, twins[:missing]])

    def exponential(self, out: Array, rate: float = 1.0) -> Array:
        """x = -log(1 - u) / rate from a float64 uniform, whatever `out`'s floating dtype."""
        double = np.dtype(np.float64)
        return self._fill(out, lambda n: (-1.0 / rate) * np.log1p(-self.unit(n, double)))

    def bernoulli(self, out: Array, probability: float | Array) -> Array:
        """x = 1 if u < probability else 0, in any dtype.

        A number is compared with float64 uniforms, and so is a float64 array; an array of float32
        or float16 (its shape broadcasts to `out`'s) with float32 uniforms.
        """
        if not isinstance(probability, np.ndarray):
            double = np.dtype(np.float64)
            return self._fill(out, lambda n: self.unit(n, double) < probability)
        work = _working_dtype(probability.dtype)
        limits = _by_stride(np.broadcast_to(probability, out.shape), out)
        with self.lock:
            chosen = self.unit(out.size, work).reshape(limits.shape) < limits
        _by_stride(out, out)[...] = chosen
        return out

    def integers(self, out: Array, low: int, high: int) -> Array:
        """x = low + w mod (high - low), from one word, or from two if the range is 2**28 or more.

        The whole range of 64 bits takes the two words as they are.
        """
        width = high - low
        base = np.uint64(low & (2**64 - 1))

        def draw(count: int) -> Array:
            if width == 2**64:
                return self.double_words(count).view(np.int64)
            if width < TWO_WORD_RANGE:
                offsets = (self.words(count) % np.uint32(width)).astype(np.uint64)
            else:
                offsets = self.double_words(count) % np.uint64(width)
            # Unsigned sums wrap, which adds a negative base.
            return (offsets + base).view(np.int64)

        return self._fill(out, draw)

    def random(self, out: Array) -> Array:
        """Integers from 0 to `last_integer`, of two words for int64 and float64, else of one."""
        count_of = last_integer(out.dtype) + 1
        if out.dtype in (np.int64, np.float64):
            return self._fill(out, lambda count: self.double_words(count) % np.uint64(count_of))
        return self._fill(out, lambda count: self.words(count) % np.uint32(count_of))

    def random64(self) -> int:
        """One integer from 0 to 2**63 - 1, from two words: the seed that a sampler draws."""
        return int(self.random(np.empty((), np.int64)))

    def permutation(self, count: int) -> NDArray[np.int64]:
        """The numbers from 0 to count - 1, shuffled by the swaps of Fisher and Yates.

        A word for each swap but the last, which has no choice; from `TWO_WORD_PERMUTATION` on two
        words for each, swaps in the other direction.
        """
        steps = np.arange(count, dtype=np.int64)
        if count < TWO_WORD_PERMUTATION:
            # Step i swaps place i with one of the places from i on.
            partners = np.arange(count, dtype=np.int32)
            with self.lock:
                words = self.words(max(count - 1, 0))
            partners[:-1] += (words % (count - steps[:-1]).astype(np.uint32)).astype(np.int32)
            return apply_swaps(partners).astype(np.int64)
        # Step i swaps place i with one of the places up to i. Read backwards, in mirrored
        # places, these are swaps of the first kind, and what they make is the inverse.
        with self.lock:
            chosen = (self.double_words(count) % (steps + 1).view(np.uint64)).view(np.int64)
        mirrored = apply_swaps((count - 1) - chosen[::-1])
        inverse = np.empty_like(mirrored)
        inverse[mirrored] = steps
        return (count - 1) - inverse[::-1]

    def pass_over_permutation(self, count: int) -> None:
        """Draws the words that `permutation(count)` draws, and makes nothing of them."""
        with self.lock:
            if count < TWO_WORD_PERMUTATION:
                self.words(max(count - 1, 0))
            else:
                self.double_words(count)

    def multinomial(self, weights: Array, samples: int, replacement: bool) -> NDArray[np.int64]:
        """Indices into the last axis of `weights`, drawn in proportion to them, `samples` a row.

        Without replacement, or for one sample: where w / e is greatest, e exponential of mean 1.
        With replacement: a float64 uniform for each sample is looked up in its row's running sum.
        """
        if not replacement or samples == 1:
            exponential = self.exponential(empty_like(np, weights, weights.dtype))
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                return np.argsort(-(weights / exponential), kind="stable")[..., :samples]
        rows = weights.reshape(math.prod(weights.shape[:-1]), weights.shape[-1])
        running = np.cumsum(rows, axis=1, dtype=_working_dtype(weights.dtype))
        running /= running[:, -1:].copy()
        running[:, -1:] = 1.0
        with self.lock:
            unit = self.unit(len(rows) * samples, np.dtype(np.float64)).reshape(-1, samples)
        drawn = [np.searchsorted(row.astype(np.float64), u) for row, u in zip(running, unit)]
        return np.array(drawn, np.int64).reshape(*weights.shape[:-1], samples)


def _working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float64 computes in float64, everything shorter in float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def last_integer(dtype: np.dtype[Any]) -> int:
    """The greatest integer of an integer dtype; of a float the end of the unbroken run from 0."""
    if dtype.name == "bfloat16":  # with 7 bits of mantissa
        return 2**8
    if dtype.kind == "f":
        return int(2 ** (np.finfo(dtype).nmant + 1))
    return 1 if dtype == np.bool_ else int(np.iinfo(dtype).max)


def _by_stride(array: Array, like: Array) -> Array:
    """`array` with its axes in the order of `like`'s memory."""
    axes = None if like.flags.c_contiguous else axes_by_stride(like.shape, like.strides)
    return array if axes is None else array.transpose(axes)


def _box_muller(unit: Array, mean: float, std: float) -> Array:
    """Normals from blocks of 16 uniforms: eight u, eight v give eight cosines, eight sines."""
    blocks = unit.reshape(-1, 2, 8)
    if unit.dtype == np.float32:
        radius = _single(np.sqrt(-2.0 * _log(np.float32(1.0) - blocks[:, 0])))
        sine, cosine = _sine_and_cosine(_single(TWO_PI * blocks[:, 1].astype(np.float64)))
    else:
        radius, angle = np.sqrt(-2.0 * np.log(1.0 - blocks[:, 0])), 2.0 * np.pi * blocks[:, 1]
        sine, cosine = np.sin(angle), np.cos(angle)
    blocks[:, 0] = radius * cosine
    blocks[:, 1] = radius * sine
    return _scaled(unit, mean, std)


def _scaled(values: Array, mean: float, std: float) -> Array:
    if mean == 0.0 and std == 1.0:
        return values
    return fused_multiply_add(values, values.dtype.type(std), values.dtype.type(mean))


# Single-precision functions on float64 arrays that hold float32 values: a product of two is exact,
# so that a b + c is rounded once, as by PyTorch's vector instructions.


def _single(x: Array) -> Array:
    """x rounded to float32 in place."""
    x[...] = x.astype(np.float32)
    return x


def _fused(a: Array, b: Array | float, c: Array | float) -> Array:
    """a b + c rounded to float32."""
    total = a * b
    total += c
    return _single(total)


def _polynomial(x: Array, coefficients: list[float]) -> Array:
    value = _fused(x, coefficients[0], coefficients[1])
    for coefficient in coefficients[2:]:
        value *= x
        value += coefficient
        _single(value)
    return value


def _log(x: Array) -> Array:
    """log x for float32 in (0, 1], as k log 2 + log(1 + m), 1 + m from sqrt(1/2) to sqrt(2)."""
    bits = x.view(np.int32) - SQRT_HALF_BITS
    k = (bits >> 23).astype(np.float64)
    m = ((bits & 0x7FFFFF) + SQRT_HALF_BITS).view(np.float32).astype(np.float64) - 1.0
    square = _single(m * m)
    tail = _fused(_single(_polynomial(m, LOG) * m), square, _single(k * LOG_2_LOW))
    tail = _fused(square, -0.5, tail)
    return _fused(k, LOG_2_HIGH, _single(m + tail))


def _sine_and_cosine(angle: Array) -> tuple[Array, Array]:
    """sin and cos of 0 to 2 pi: from the nearest multiple of pi / 2, polynomials in the rest."""
    eighths = (_single(angle * FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    multiple, rest = eighths.astype(np.float64), angle
    for part in QUARTER_PI:
        rest = _fused(multiple, -part, rest)
    square = _single(rest * rest)
    sine = _fused(_single(_polynomial(square, SINE) * square), rest, rest)
    cosine = _single(_polynomial(square, COSINE) * square)
    cosine = _single(_fused(cosine, square, -0.5 * square) + 1.0)
    odd_quarter = eighths & 2 != 0
    return (
        np.where(odd_quarter, cosine, sine) * (1 - ((eighths & 4) >> 1)),
        np.where(odd_quarter, sine, cosine) * (1 - (((eighths + 2) & 4) >> 1)),
    )


def fused_multiply_add(a: Array, b: Any, c: Any) -> Array:
    """a b + c rounded once, in float32 or float64 (Boldo and Melquiond 2008)."""
    if a.dtype == np.float32:
        # The product is exact in float64; odd rounding keeps the sum off false ties.
        return _add_to_odd(a.astype(np.float64) * np.float64(b), np.float64(c)).astype(np.float32)
    product, product_rest = _exact_product(a, b)
    middle, middle_rest = _exact_sum(product_rest, c)
    total, total_rest = _exact_sum(product, middle)
    return total + _add_to_odd(middle_rest, total_rest)


def _exact_sum(a: Array, b: Any) -> tuple[Array, Array]:
    """s + e = a + b without error (Knuth 1969)."""
    s = a + b
    from_b = s - a
    return s, (a - (s - from_b)) + (b - from_b)


def _exact_product(a: Array, b: Any) -> tuple[Array, Array]:
    """p + e = a b without error in float64, by halves of 26 bits (Dekker 1971)."""
    p, split = a * b, 2.0**27 + 1.0
    a_high, b_high = split * a - (split * a - a), split * b - (split * b - b)
    a_low, b_low = a - a_high, b - b_high
    return p, a_low * b_low - (((p - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _add_to_odd(a: Array, b: Any) -> Array:
    """a + b in float64, where an inexact sum becomes the neighbour whose last bit is one."""
    s, rest = _exact_sum(a, b)
    if rest.any():
        even = (rest != 0.0) & (s.view(np.int64) & 1 == 0)
        s[even] = np.nextafter(s[even], np.where(rest[even] > 0.0, np.inf, -np.inf))
    return s


def apply_swaps(partners: Array) -> Array:
    """The array 0, 1, 2, ... after swapping places i and partners[i] >= i, for each i in turn.

    Many steps are not looped over: step i brings to place i what place partners[i] holds then: what
    the last step before i with that partner found in its own place, or partners[i] if none had it.
    """
    if len(partners) < FEW_SWAPS:
        order = list(range(len(partners)))
        for place, partner in enumerate(partners.tolist()):
            order[place], order[partner] = order[partner], order[place]
        return np.array(order, dtype=partners.dtype)
    steps = np.arange(len(partners), dtype=partners.dtype)
    before = np.full_like(steps, -1)
    latest = np.full_like(steps, -1)
    latest[partners] = steps
    # link[p]: the last step before p that put something into place p.
    link = latest.copy()
    # Of equal indices the last is the one written, so each round finds, for every partner, the
    # step before the one that the last round found.
    active, found = steps, latest[partners]
    while len(rest := np.flatnonzero(found != active)):
        active, after = active[rest], found[rest]
        latest[partners[active]] = active
        found = latest[partners[active]]
        before[after] = found
    to_itself = link == steps
    link[to_itself] = before[to_itself]
    # What step p finds in place p, step link[p] found in its place, and so on to the chain's end.
    origin = np.where(link < 0, steps, link)
    while not np.array_equal(further := origin[origin], origin):
        origin = further
    return np.where(before < 0, partners, origin[before])
