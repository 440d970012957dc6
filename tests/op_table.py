"""The table of ops: every one with inputs it is tried on. Each row serves NanoTorch and PyTorch
alike.

A row's function takes the library first, then its inputs. An input is a shape with a domain, which
keeps the values away from where a function has no derivative.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import pytest

from nanotorch.ops import LATER

# So that the tests find the primitives of ops that load when they are first called.
for file in sorted(set(LATER.values())):
    importlib.import_module(f"nanotorch.ops.{file}")


@dataclass(frozen=True)
class Input:
    """One operand: its shape, and how to draw its values."""

    shape: tuple[int, ...]
    draw: Callable[[numpy.random.Generator, tuple[int, ...]], Any]
    differentiable: bool = True


@dataclass(frozen=True)
class Case:
    """One row: an op called in one way on inputs of given shapes."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Input, ...]
    smooth: bool = True  # has derivatives of the second order that say something
    needs: str = ""  # the module of a ring that it stands on
    floats: bool = False  # is compared on floating dtypes only
    single: bool = False  # PyTorch's constants are of float32, and so are its float64 results
    host: bool = False  # exists on the CPU alone

    def arrays(self) -> list[Any]:
        """The inputs as float64 (or index) arrays, the same in every run."""
        generator = numpy.random.default_rng(zlib.crc32(self.name.encode()))
        return [numpy.asarray(i.draw(generator, i.shape)) for i in self.inputs]


def domain(draw: Callable[[Any, tuple[int, ...]], Any], differentiable: bool = True) -> Any:
    """The function that makes an Input from a shape."""
    return lambda *shape: Input(shape, draw, differentiable)


real = domain(lambda r, s: r.normal(size=s))
positive = domain(lambda r, s: r.uniform(0.3, 3.0, s))
unit = domain(lambda r, s: r.uniform(-0.9, 0.9, s))
probability = domain(lambda r, s: r.uniform(0.1, 0.9, s))
above_one = domain(lambda r, s: r.uniform(1.2, 3.0, s))
away = domain(lambda r, s: r.choice([-1.0, 1.0], s) * r.uniform(0.3, 2.3, s))  # from 0
between = domain(lambda r, s: r.integers(-3, 3, s) + r.uniform(0.2, 0.4, s))  # whole numbers
wide = domain(lambda r, s: r.normal(size=s) * 20)
distinct = domain(lambda r, s: r.permutation(numpy.prod(s, dtype=int)).reshape(s) * 2 - 3.3)
invertible = domain(lambda r, s: r.normal(size=s) + 3 * numpy.eye(s[-1]))
symmetric = domain(
    lambda r, s: (lambda a: a @ a.swapaxes(-1, -2) + numpy.eye(s[-1]))(r.normal(size=s))
)
constant = domain(lambda r, s: r.normal(size=s), False)
boolean = domain(lambda r, s: r.random(s) < 0.5, False)
whole = domain(lambda r, s: r.integers(-5, 6, s), False)
count = domain(lambda r, s: r.integers(1, 5, s), False)


def below(n: int) -> Any:
    """Indices in [0, n)."""
    return domain(lambda r, s: r.integers(0, n, s), False)


def signed(n: int) -> Any:
    """Indices in [-n, n)."""
    return domain(lambda r, s: r.integers(-n, n, s), False)


def permutation(r: Any, s: tuple[int, ...]) -> Any:
    return r.permutation(s[0])


shuffled = domain(permutation, False)

CASES: list[Case] = []


def row(name: str, function: Callable[..., Any], *inputs: Input, **options: Any) -> None:
    """Adds a row; rows of one op are told apart by their shapes."""
    shapes = " ".join("x".join(map(str, i.shape)) or "0-dim" for i in inputs)
    CASES.append(Case(f"{name} {shapes}", function, inputs, **options))


def call(path: str) -> Callable[..., Any]:
    """The function of either library at that path, such as nn.functional.gelu."""

    def function(library: Any, *inputs: Any) -> Any:
        for part in path.split("."):
            library = getattr(library, part)
        return library(*inputs)

    return function


SHAPES: tuple[tuple[int, ...], ...] = ((3, 4), (), (0, 3))
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 4), (3, 4)), ((2, 1, 3), (4, 1)), ((), (3,)), ((3,), ()), ((0, 3), (1, 3)),
)  # fmt: skip

UNARY = {
    "neg": real, "abs": away, "sign": away, "reciprocal": away, "exp": real, "exp2": real,
    "expm1": real, "log": positive, "log2": positive, "log10": positive, "log1p": positive,
    "sqrt": positive, "rsqrt": positive, "sin": real, "cos": real, "tan": unit, "asin": unit,
    "acos": unit, "atan": real, "sinh": real, "cosh": real, "tanh": real, "asinh": real,
    "acosh": above_one, "atanh": unit, "erf": real, "erfc": real, "floor": between,
    "ceil": between, "trunc": between, "round": between, "frac": between, "square": real,
    "sigmoid": wide, "relu": away, "logit": probability, "nan_to_num": real, "clone": real,
    "nn.functional.elu": away, "nn.functional.gelu": real,
    "nn.functional.silu": real, "nn.functional.softplus": real, "nn.functional.leaky_relu": away,
    "nn.functional.logsigmoid": wide,
    "lgamma": positive, "digamma": positive, "erfinv": unit, "sinc": away, "deg2rad": real,
    "rad2deg": real, "positive": real, "angle": away, "conj": real,
    "special.erfcx": real, "special.ndtr": real, "special.ndtri": probability,
    "special.log_ndtr": real, "special.entr": probability, "special.expit": real,
    "signbit": real, "isposinf": real, "isneginf": real, "isreal": real,
    "isnan": real, "isinf": real, "isfinite": real, "logical_not": real,
}  # fmt: skip
for name, values in UNARY.items():
    for shape in SHAPES:
        row(name, call(name), values(*shape))
row("bitwise_not", call("bitwise_not"), boolean(3, 4))
row("bitwise_not", call("bitwise_not"), whole(5))

BINARY = {
    "add": (real, real), "sub": (real, real), "rsub": (real, real), "mul": (real, real),
    "div": (real, away), "pow": (positive, real), "maximum": (real, real),
    "minimum": (real, real), "atan2": (away, away), "remainder": (between, away),
    "fmod": (between, away), "floor_divide": (between, away), "hypot": (away, away),
    "copysign": (away, away), "logaddexp": (real, real), "xlogy": (positive, positive),
    "fmax": (real, real), "fmin": (real, real), "logaddexp2": (real, real),
    "special.xlog1py": (positive, positive), "float_power": (positive, real),
    "nextafter": (real, real), "ldexp": (real, unit),
    "eq": (real, real), "ne": (real, real), "lt": (real, real), "le": (real, real),
    "gt": (real, real), "ge": (real, real), "logical_and": (real, real),
    "logical_or": (real, real), "logical_xor": (real, real), "isclose": (real, real),
}  # fmt: skip
for name, (first, second) in BINARY.items():
    for one, two in PAIRS:
        row(name, call(name), first(*one), second(*two))
for name in ("bitwise_left_shift", "bitwise_right_shift"):
    row(name, call(name), whole(3, 4), count(4))
for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    row(name, call(name), whole(3, 4), whole(4))
    row(name, call(name), boolean(3), boolean(2, 1))

# Arithmetic with numbers, and the operators.
row("add a number", lambda t, x: x + 2, real(3, 4))
row("radd a number", lambda t, x: 2.5 + x, real(3, 4))
row("add alpha", lambda t, x, y: t.add(x, y, alpha=3), real(3, 4), real(4))
row("sub alpha", lambda t, x, y: t.sub(x, y, alpha=3), real(3, 4), real(4))
row("rsub a number", lambda t, x: 2 - x, real(3))
row("mul a number", lambda t, x: 3 * x * 2.0, real(3))
row("div a number", lambda t, x: x / 3 + 3 / x, away(3))
row("floor_divide a number", lambda t, x: x // 2, between(3, 4))
row("remainder of numbers", lambda t, x: x % 2 + 5 % x, between(3, 4))
row("div floor", lambda t, x, y: t.div(x, y, rounding_mode="floor"), between(3), away(3))
row("div trunc", lambda t, x, y: t.div(x, y, rounding_mode="trunc"), between(3), away(3))
for exponent in (-2, -1, 0, 1, 2, 3, 4, 0.5, -0.5, 2.7):
    row(f"pow {exponent}", lambda t, x, p=exponent: x**p, positive(3, 4))
for exponent in (-1, 2, 3):
    row(f"pow {exponent} of negatives", lambda t, x, p=exponent: x**p, away(3, 4))
row("pow of a number", lambda t, x: 2**x, real(3, 4))
row("pow of a float", lambda t, x: 2.5**x, real(3))
row("operators", lambda t, x, y: -x + abs(x) * y - x / y, away(3, 4), away(4))
row("comparison with a number", lambda t, x: (x > 0.5) & (x <= 2) | ~(x != 1), real(9))
row("round decimals", lambda t, x: t.round(x, decimals=1), real(7), smooth=False)
row("unfold", lambda t, x: x.unfold(0, 3, 2), real(8))
row("unfold of a dimension", lambda t, x: x.unfold(-2, 2, 1), real(2, 5, 3))
row("unfold apart", lambda t, x: x.unfold(1, 2, 3), real(2, 8))
row("where method", lambda t, x, y: x.where(x > 0, y), real(3, 4), real(4))
row("scatter value", lambda t, x, i: t.scatter(x, 0, i, value=2.5), real(4, 3), below(4)(2, 3))
row("sum axis", lambda t, x: t.sum(x, axis=(0, 2), keepdims=True), real(2, 3, 4))
row("mean axis", lambda t, x: x.mean(axis=1), real(2, 3))
row("std axis", lambda t, x: x.std(axis=1, keepdims=True), real(2, 3))
row("softmax axis", lambda t, x: t.softmax(x, axis=0), real(2, 3))
row("cat axis", lambda t, x, y: t.concatenate((x, y), axis=1), real(2, 3), real(2, 1))
row("max axis", lambda t, x: t.max(x, axis=1)[0], distinct(3, 4))
row("clamp", lambda t, x: t.clamp(x, -0.5, 0.5), real(9))
row("clamp below", lambda t, x: t.clamp(x, min=0.1), real(9))
row("clamp above", lambda t, x: x.clamp(max=0.1), real(9))
row("clamp tensors", lambda t, x, a, b: t.clamp(x, a, b), real(9), real(9), real(9))
row("clamp by one tensor", lambda t, x, a: t.clamp(x, max=a), real(3, 4), real(4))
row("elu alpha", lambda t, x: t.nn.functional.elu(x, alpha=0.7), away(9))
row("leaky_relu slope", lambda t, x: t.nn.functional.leaky_relu(x, 0.2), away(9))
row("softplus beta", lambda t, x: t.nn.functional.softplus(x, 2.0, 3.0), away(9))
row("gelu tanh", lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), real(9))
row("lerp", lambda t, a, b: t.lerp(a, b, 0.3), real(3, 4), real(3, 4))
row("lerp tensor", lambda t, a, b, w: t.lerp(a, b, w), real(3, 4), real(4), real(3, 4))
row("addcmul", lambda t, x, a, b: t.addcmul(x, a, b, value=3), real(3), real(3), real(3))
row("addcdiv", lambda t, x, a, b: t.addcdiv(x, a, b, value=0.5), real(3), real(3), away(3))
row("logit eps", lambda t, x: t.logit(x, 0.2), probability(9))

# Selection.
row("where", lambda t, c, a, b: t.where(c, a, b), boolean(3, 4), real(3, 4), real(4))
row("where number", lambda t, c, a: t.where(c, a, 2.0), boolean(3, 4), real(3, 1))
row("masked_fill", lambda t, x, m: x.masked_fill(m, 7.0), real(3, 4), boolean(4))
row("masked_fill tensor", lambda t, x, m, v: x.masked_fill(m, v), real(3, 4), boolean(3, 4), real())
row("masked_select", lambda t, x, m: t.masked_select(x, m), real(3, 4), boolean(4))
row("nonzero", lambda t, m: t.nonzero(m), boolean(3, 4))
row("nonzero as_tuple", lambda t, m: m.nonzero(as_tuple=True), boolean(3, 4))

# Reductions: over everything, over one dimension, over several.
for name, values in {
    "sum": real, "mean": real, "amax": distinct, "amin": distinct, "logsumexp": real,
    "var": real, "std": real, "norm": away, "all": real, "any": real, "count_nonzero": boolean,
    "nansum": real, "nanmean": real,
}.items():  # fmt: skip
    if name != "logsumexp":
        row(f"{name} of all", call(name), values(3, 4))
        row(f"{name} of all", call(name), values(2, 1, 3))
    options = {} if name != "norm" else {"p": 2}

    def along(dim: Any, keep: bool, name: str = name, options: Any = options) -> Any:
        keeping = {"keepdim": True} if keep else {}
        return lambda t, x: getattr(t, name)(x, **options, dim=dim, **keeping)

    for dim in (0, -1, (0, 2), (1,)):
        keeps = name != "count_nonzero" and dim != (1,)
        row(f"{name} dim={dim}", along(dim, False), values(2, 3, 2))
        row(f"{name} keepdim dim={dim}", along(dim, keeps), values(2, 3, 2))
for name in ("sum", "prod", "all", "any", "count_nonzero"):
    row(f"{name} of none", call(name), real(0, 3))
    row(f"{name} of one", call(name), real())
    row(f"{name} of none, dim", lambda t, x, f=call(name): f(t, x, 0), real(0, 3))
row("mean of one", lambda t, x: x.mean(), real())
row("mean of a 0-dim, dim", lambda t, x: x.mean(0), real())
row("sum dtype", lambda t, x: t.sum(x, 0, dtype=t.float64), real(3, 4))
row("prod of all", lambda t, x: x.prod(), away(3, 2))
row("prod dim", lambda t, x: t.prod(x, 1), away(3, 4))
row("prod keepdim", lambda t, x: t.prod(x, 0, keepdim=True), away(3, 4))
row("prod with a zero", lambda t, x: t.prod(x.masked_fill(x == x.max(), 0.0)), distinct(5))
for name in ("max", "min"):
    row(f"{name} of all", call(name), distinct(3, 4))
    row(f"{name} dim", lambda t, x, f=call(name): f(t, x, 1), distinct(3, 4))
    row(f"{name} keepdim", lambda t, x, n=name: getattr(t, n)(x, 0, keepdim=True), distinct(3, 4))
    row(f"{name} of a 0-dim", lambda t, x, f=call(name): f(t, x, 0), distinct())
    row(f"{name} of two", call(name), real(3, 4), real(4))
    row(f"arg{name} of all", call(f"arg{name}"), distinct(3, 4))
    row(f"arg{name} dim", lambda t, x, f=call(f"arg{name}"): f(t, x, 1), distinct(3, 4))
    row(f"arg{name} keepdim", lambda t, x, n=name: getattr(x, f"arg{n}")(-1, True), distinct(3, 4))
row("median of all", lambda t, x: t.median(x), distinct(3, 4))
row("median dim", lambda t, x: t.median(x, 1), distinct(3, 4))
row("median keepdim", lambda t, x: x.median(0, keepdim=True), distinct(3, 4))
row("quantile", lambda t, x: t.quantile(x, 0.3), distinct(3, 4))
row("quantile keepdim", lambda t, x: t.quantile(x, 0.3, dim=1, keepdim=True), distinct(3, 4))
row("quantile of all keepdim", lambda t, x: t.quantile(x, 0.3, keepdim=True), distinct(3, 4))
row(
    "quantile dim",
    lambda t, x, q: t.quantile(x, q, dim=1),
    distinct(3, 4),
    probability(2),
    smooth=False,
)
row("sort", lambda t, x: t.sort(x), distinct(3, 4))
row("sort descending", lambda t, x: x.sort(0, descending=True), distinct(3, 4))
row("argsort", lambda t, x: t.argsort(x, 1), distinct(3, 4))
row("argsort descending", lambda t, x: t.argsort(x, dim=0, descending=True), distinct(3, 4))
row("topk", lambda t, x: t.topk(x, 2), distinct(3, 4))
row("topk smallest", lambda t, x: t.topk(x, 2, dim=0, largest=False), distinct(3, 4))
row("unique", lambda t, x: t.unique(x, return_inverse=True, return_counts=True), whole(9))
row("unique float", lambda t, x: t.unique(x), constant(5))
row("bincount", lambda t, x: t.bincount(x, minlength=7), below(5)(9))
row("bincount weights", lambda t, x, w: t.bincount(x, w), below(5)(9), constant(9))
row(
    "searchsorted",
    lambda t, a, b: t.searchsorted(t.sort(a)[0], b),
    real(7),
    real(2, 3),
    smooth=False,
)
row(
    "bucketize",
    lambda t, a, b: t.bucketize(b, t.sort(a)[0], right=True),
    real(7),
    real(5),
    smooth=False,
)
for name in ("cumsum", "cumprod"):
    row(name, lambda t, x, f=call(name): f(t, x, 1), away(3, 4))
    row(name, lambda t, x, f=call(name): f(t, x, 0), away())
    row(f"{name} first", lambda t, x, n=name: getattr(x, n)(-3), away(2, 3, 2))
row("diff", lambda t, x: t.diff(x), real(3, 4))
row("diff n", lambda t, x: t.diff(x, 2, 0), real(4, 3))
row("var unbiased", lambda t, x: t.var(x, unbiased=False), real(3, 4))
row("var correction", lambda t, x: t.var(x, 1, correction=0), real(3, 4))
row("std dim unbiased", lambda t, x: x.std(1, False), real(3, 4))
row("var_mean", lambda t, x: t.var_mean(x, 1), real(3, 4))
row("std_mean", lambda t, x: t.std_mean(x, 1), real(3, 4))
for p in (0, 1, 2, 3, 1.5, float("inf"), -float("inf"), "fro"):
    row(f"norm p={p}", lambda t, x, p=p: t.norm(x, p), distinct(3, 4))
    row(f"norm p={p} dim", lambda t, x, p=p: x.norm(p, dim=1, keepdim=True), distinct(3, 4))
row("softmax", lambda t, x: t.softmax(x, 1), real(3, 4))
row("softmax 0-dim", lambda t, x: t.softmax(x, 0), real())
row("softmax dtype", lambda t, x: x.softmax(0, dtype=t.float64), real(3, 4))
row("log_softmax", lambda t, x: t.log_softmax(x, -1), wide(3, 4))
row("log_softmax first", lambda t, x: x.log_softmax(0), real(3, 4))
row("softmin", lambda t, x: t.nn.functional.softmin(x, 1), real(3, 4))
for name in ("hardtanh", "relu6", "hardswish"):
    row(name, call(f"nn.functional.{name}"), between(3, 4), smooth=name == "hardswish")
row("hardsigmoid", call("nn.functional.hardsigmoid"), between(3, 4), smooth=False, single=True)
for name in ("nuc", 2, -2, 1, math.inf):
    row(
        f"matrix_norm {name}",
        lambda t, x, p=name: t.linalg.matrix_norm(x, p),
        distinct(2, 3, 4),
        smooth=False,
    )
for mode in ("reflect", "replicate", "circular"):
    row(
        f"pad {mode}", lambda t, x, m=mode: t.nn.functional.pad(x, (1, 2), m), real(2, 3, 4),
        needs="nanotorch.nn.padding",
    )  # fmt: skip
row("normalize", lambda t, x: t.nn.functional.normalize(x), away(3, 4))
row(
    "layer_norm",
    lambda t, x, w, b: t.nn.functional.layer_norm(x, (4,), w, b), real(3, 4), real(4), real(4),
)  # fmt: skip
row("layer_norm of 2 dimensions", lambda t, x: t.nn.functional.layer_norm(x, (3, 4)), real(2, 3, 4))
# With tanh behind: the sum of the squares of what is standardized has no slope to compare.
row(
    "batch_norm",
    lambda t, x, w, b: t.nn.functional.batch_norm(x, None, None, w, b, True).tanh(),
    real(5, 3), real(3), real(3),
)  # fmt: skip
row(
    "batch_norm of images",
    lambda t, x, w, b: t.nn.functional.batch_norm(x, None, None, w, b, True).tanh(),
    real(2, 3, 2, 2), real(3), real(3),
)  # fmt: skip
row(
    "batch_norm without weights",
    lambda t, x: t.nn.functional.batch_norm(x, None, None, None, None, True).tanh(), real(5, 3),
)  # fmt: skip
row(
    "batch_norm in evaluation",
    lambda t, x, w, b: t.nn.functional.batch_norm(
        x, *t.tensor([[0.1, -0.2, 0.3], [1.0, 2.0, 3.0]], dtype=x.dtype), w, b
    ),
    real(5, 3), real(3), real(3),
)  # fmt: skip
row(
    "group_norm",
    lambda t, x, w, b: t.nn.functional.group_norm(x, 2, w, b),
    real(3, 4, 2), real(4), real(4),
)  # fmt: skip
row(
    "group_norm of images",
    lambda t, x, w, b: t.nn.functional.group_norm(x, 2, w, b).tanh(),
    real(2, 4, 4, 4), real(4), real(4),
)  # fmt: skip
row(
    "group_norm without weights",
    lambda t, x: t.nn.functional.group_norm(x, 2).tanh(), real(2, 4, 3),
)  # fmt: skip
row(
    "group_norm of images without weights",
    lambda t, x: t.nn.functional.group_norm(x, 2).tanh(), real(2, 4, 4, 4),
)  # fmt: skip
row("mean of squares", lambda t, x: t.nn.functional.rms_norm(x, (3, 4)), real(2, 3, 4))
row("cosine_similarity", lambda t, x, y: t.cosine_similarity(x, y), away(3, 4), away(3, 4))
row("cdist", lambda t, x, y: t.cdist(x, y), real(3, 4), real(2, 4))
row("cdist by products", lambda t, x, y: t.cdist(x, y), real(2, 4, 512), real(17, 512))
row("topk of many", lambda t, x: t.topk(x, 4)[0], distinct(4, 20))
row("topk of many first", lambda t, x: x.topk(3, 0, False)[0], distinct(20, 4))

# Shapes.
row("view", lambda t, x: x.view(2, -1), real(3, 4))
row("view 0-dim", lambda t, x: x.view(()), real(1, 1))
row("reshape", lambda t, x: t.reshape(x, (6, 2)), real(3, 4))
row("reshape of a transpose", lambda t, x: x.t().reshape(-1), real(3, 4))
row("flatten", lambda t, x: t.flatten(x, 1), real(2, 3, 4))
row("ravel", lambda t, x: t.ravel(x), real(2, 3))
row("unflatten", lambda t, x: t.unflatten(x, 1, (2, -1)), real(3, 4))
row("expand", lambda t, x: x.expand(2, 3, -1), real(3, 4))
row("expand ones", lambda t, x: x.expand(2, 3, 4), real(3, 1))
row("broadcast_to", lambda t, x: t.broadcast_to(x, (2, 3)), real(3))
row("broadcast_tensors", lambda t, x, y: t.broadcast_tensors(x, y), real(3), real(2, 1))
row("permute", lambda t, x: t.permute(x, (2, 0, 1)), real(2, 3, 4))
row("transpose", lambda t, x: x.transpose(0, -1), real(2, 3, 4))
row("t", lambda t, x: t.t(x), real(3, 4))
row("t of a vector", lambda t, x: x.t(), real(3))
row("T and mT", lambda t, x: x.T @ x + x.mT @ x, real(3, 4))
row("movedim", lambda t, x: t.movedim(x, 0, 2), real(2, 3, 4))
row("movedim several", lambda t, x: t.moveaxis(x, (0, 1), (2, 0)), real(2, 3, 4))
row("squeeze", lambda t, x: t.squeeze(x), real(3, 1, 4, 1))
row("squeeze dim", lambda t, x: x.squeeze(1), real(3, 1, 1))
row("squeeze dims", lambda t, x: t.squeeze(x, (1, 2)), real(3, 1, 1, 2))
row("unsqueeze", lambda t, x: t.unsqueeze(x, -1), real(3, 4))
row("narrow", lambda t, x: t.narrow(x, 1, 1, 2), real(3, 4))
row("select", lambda t, x: t.select(x, 1, -1), real(3, 4))
row("split", lambda t, x: t.split(x, 3), real(7, 2))
row("split sizes", lambda t, x: x.split([1, 3], 1), real(2, 4))
row("chunk", lambda t, x: t.chunk(x, 3, 1), real(2, 7))
row("unbind", lambda t, x: t.unbind(x, 1), real(2, 3))
row("diagonal", lambda t, x: t.diagonal(x, 1), real(3, 4))
row("diagonal dims", lambda t, x: x.diagonal(-1, 2, 0), real(3, 2, 4))
row("diag", lambda t, x: t.diag(x), real(3))
row("diag of a matrix", lambda t, x: t.diag(x, -1), real(3, 4))
row("diag_embed", lambda t, x: t.diag_embed(x, 1), real(2, 3))
row("as_strided by slices", lambda t, x: x[1:, ::2][..., 0], real(3, 4))
row("swapaxes", lambda t, x: t.swapaxes(x, 0, 1), real(3, 4))
row("to float64", lambda t, x: x.to(t.float64) * 2, real(3))
row("to int", lambda t, x: x.to(t.int32), real(3))
row("contiguous", lambda t, x: x.t().contiguous(), real(3, 4))

# Joining and repeating.
row("cat", lambda t, x, y: t.cat([x, y], 1), real(3, 4), real(3, 2))
row("cat negative", lambda t, x, y: t.cat((x, y), -2), real(3, 4), real(1, 4))
row("stack", lambda t, x, y: t.stack([x, y], 1), real(3, 4), real(3, 4))
row("stack last", lambda t, x, y, z: t.stack([x, y, z], -1), real(3), real(3), real(3))
row("hstack", lambda t, x, y: t.hstack([x, y]), real(3, 4), real(3, 1))
row("vstack", lambda t, x, y: t.vstack([x, y]), real(3), real(2, 3))
row("column_stack", lambda t, x, y: t.column_stack([x, y]), real(3), real(3, 2))
row("repeat", lambda t, x: x.repeat(2, 1, 3), real(2, 3))
row("tile", lambda t, x: t.tile(x, (2,)), real(2, 3))
row("repeat_interleave", lambda t, x: t.repeat_interleave(x, 2, dim=1), real(2, 3))
row("repeat_interleave flat", lambda t, x: x.repeat_interleave(3), real(2, 3))
row("repeat_interleave counts", lambda t, x, n: x.repeat_interleave(n, 0), real(4, 3), count(4))
row("tril", lambda t, x: t.tril(x), real(3, 4))
row("triu", lambda t, x: x.triu(1), real(2, 4, 3))
row("flip", lambda t, x: t.flip(x, (0, 1)), real(3, 4))
row("fliplr", lambda t, x: t.fliplr(t.flipud(x)), real(3, 4))
row("roll", lambda t, x: t.roll(x, 2), real(3, 4))
row("roll dims", lambda t, x: x.roll((1, -1), (0, 1)), real(3, 4))
row("meshgrid", lambda t, x, y: t.meshgrid(x, y, indexing="ij"), real(3), real(2))
row(
    "pad", lambda t, x: t.nn.functional.pad(x, (1, 2, 0, 1), value=0.5), real(3, 4),
    needs="nanotorch.nn.padding",
)  # fmt: skip

# Indexing.
row("getitem int", lambda t, x: x[1], real(3, 4))
row("getitem slice", lambda t, x: x[:, 1:3], real(3, 4))
row("getitem none", lambda t, x: x[None, ..., 0], real(3, 4))
row("getitem list", lambda t, x: x[[0, 2, 0]], real(3, 4))
row("getitem tensor", lambda t, x, i: x[i], real(3, 4), signed(3)(2, 5))
row("getitem tensors", lambda t, x, i, j: x[i, j], real(3, 4), below(3)(5), below(4)(5))
row("getitem mixed", lambda t, x, i: x[:, i, 1:], real(2, 3, 4), below(3)(2, 2))
row("getitem apart", lambda t, x, i, j: x[i, :, j], real(2, 3, 4), below(2)(5), below(4)(5))
row("getitem mask", lambda t, x, m: x[m], real(3, 4), boolean(3, 4))
row("getitem rows", lambda t, x, m: x[m], real(3, 4), boolean(3))
row("getitem number and mask", lambda t, x, m: x[1, m], real(3, 4), boolean(4))
row("gather", lambda t, x, i: t.gather(x, 1, i), real(3, 4), below(4)(3, 2))
row("gather smaller", lambda t, x, i: x.gather(0, i), real(3, 4), below(3)(5, 2))
row("gather 0-dim", lambda t, x, i: x.gather(0, i), real(), below(1)())
row("take_along_dim", lambda t, x, i: t.take_along_dim(x, i, 1), real(3, 4), below(4)(3, 2))
row(
    "scatter",
    lambda t, x, s: t.scatter(x, 1, t.tensor([[0, 2], [3, 1]]), s),
    real(3, 4),
    real(2, 2),
)
row(
    "scatter multiply",
    lambda t, x: t.scatter(x, 0, t.tensor([[1, 0]]), 2.5, reduce="multiply"),
    constant(3, 4),
)
row(
    "scatter add of a number",
    lambda t, x: x.scatter(0, t.tensor([[1, 0]]), 2.5, reduce="add"),
    real(3, 4),
)
row("scatter number", lambda t, x: x.scatter(0, t.tensor([[1, 0]]), 2.5), real(3, 4))
row(
    "scatter_add",
    lambda t, x, i, s: t.scatter_add(x, 0, i, s),
    real(3, 4),
    below(3)(5, 4),
    real(5, 4),
)
row("index_select", lambda t, x, i: t.index_select(x, 1, i), real(3, 4), below(4)(6))
row("index_add", lambda t, x, i, s: t.index_add(x, 1, i, s), real(3, 4), below(4)(6), real(3, 6))
row("index_copy", lambda t, x, i, s: t.index_copy(x, 0, i, s), real(3, 4), shuffled(3), real(3, 4))
row("index_fill", lambda t, x, i: x.index_fill(1, i, 2.0), real(3, 4), below(4)(2))
row("index_put", lambda t, x, v: t.index_put(x, (t.tensor([2, 0]),), v), real(3, 4), real(4))
row(
    "index_put accumulate",
    lambda t, x, i, v: x.index_put((i, i), v, accumulate=True), real(3, 4), below(3)(5), real(5),
)  # fmt: skip
row("take", lambda t, x, i: t.take(x, i), real(3, 4), signed(12)(2, 3))
row("embedding", lambda t, w, i: t.nn.functional.embedding(i, w), real(5, 3), below(5)(2, 4))
row("one_hot", lambda t, i: t.nn.functional.one_hot(i, 6), below(5)(2, 4))

# Products.
for one, two in (((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)),
                 ((2, 2, 3), (3, 4)),
                 ((2, 2, 3), (2, 3, 4)), ((3,), (2, 3, 4)), ((2, 2, 3), (3,)), ((2, 3), (5, 3, 4)),
                 ((5, 1, 2, 3), (4, 3, 2)), ((0, 3), (3, 2)), ((2, 0), (0, 3))):  # fmt: skip
    row("matmul", lambda t, a, b: a @ b, real(*one), real(*two))
row("mm", call("mm"), real(2, 3), real(3, 4))
row("bmm", call("bmm"), real(2, 2, 3), real(2, 3, 4))
row("mv", call("mv"), real(2, 3), real(3))
row("dot", call("dot"), real(3), real(3))
row("outer", call("outer"), real(3), real(4))
row("inner", call("inner"), real(2, 3), real(4, 3))
row("addmm", lambda t, c, a, b: t.addmm(c, a, b, beta=3, alpha=2), real(4), real(2, 3), real(3, 4))
row("baddbmm", call("baddbmm"), real(2, 2, 4), real(2, 2, 3), real(2, 3, 4))
for features in ((3,), (2, 3), (2, 5, 3)):
    row("linear", call("nn.functional.linear"), real(*features), real(4, 3), real(4))
    row("linear without bias", call("nn.functional.linear"), real(*features), real(4, 3))
row("bilinear", call("nn.functional.bilinear"), real(2, 3), real(2, 4), real(5, 3, 4), real(5))
for equation, shapes in {
    "ij,jk->ik": ((2, 3), (3, 4)), "bij,bjk->bik": ((2, 2, 3), (2, 3, 4)), "i,i": ((3,), (3,)),
    "ij->ji": ((2, 3),), "ij->": ((2, 3),), "ii->i": ((3, 3),), "ii": ((3, 3),),
    "...ij,jk->...ik": ((2, 2, 3), (3, 4)), "ij,ik,il->jkl": ((2, 3), (2, 2), (2, 4)),
    "bqhd,bkhd->bhqk": ((2, 3, 2, 4), (2, 2, 2, 4)), "bi,bi->b": ((2, 3), (2, 3)),
    "ij,kl->il": ((2, 3), (3, 2)), "i,j->ij": ((2,), (3,)), "iij->j": ((2, 2, 3),),
}.items():  # fmt: skip
    operands = [real(*shape) for shape in shapes]
    row(f"einsum {equation}", lambda t, *x, e=equation: t.einsum(e, *x), *operands, floats=True)
row("tensordot", lambda t, a, b: t.tensordot(a, b, 2), real(2, 3, 4), real(3, 4, 2))
row("tensordot dims", lambda t, a, b: t.tensordot(a, b, ([0], [1])), real(2, 3), real(4, 2))
row("inverse", call("inverse"), invertible(3, 3))
row("inverse batched", call("linalg.inv"), invertible(2, 3, 3))
row("solve", call("linalg.solve"), invertible(3, 3), real(3, 2))
row("solve vector", call("linalg.solve"), invertible(3, 3), real(3))
row("det", call("det"), invertible(3, 3))
row("det batched", call("det"), invertible(2, 3, 3))
row("logdet", call("logdet"), symmetric(3, 3))
row("slogdet", call("linalg.slogdet"), invertible(3, 3))
row("trace", call("trace"), real(3, 4))
row("vector_norm", lambda t, x: t.linalg.vector_norm(x, 3, dim=(0, 1)), away(3, 4))
row("matrix_power", lambda t, x: t.linalg.matrix_power(x, 3), real(3, 3))
row(
    "multi_dot",
    lambda t, a, b, c: t.linalg.multi_dot([a, b, c]),
    real(2, 3),
    real(3, 4),
    real(4, 2),
)

# Losses, each with every reduction.
for reduction in ("none", "mean", "sum"):

    def loss(name: str, reduction: str = reduction, **options: Any) -> Any:
        def function(t: Any, *inputs: Any) -> Any:
            made = {k: v(t, inputs[0]) if callable(v) else v for k, v in options.items()}
            return getattr(t.nn.functional, name)(*inputs, reduction=reduction, **made)

        return function

    def r(name: str, reduction: str = reduction) -> str:
        return f"{name} {reduction}"

    def class_weight(t: Any, x: Any) -> Any:
        return t.tensor([0.5, 2.0, 1.0, 1.5]).to(x.dtype)

    logits = "binary_cross_entropy_with_logits"
    row(r("mse_loss"), loss("mse_loss"), real(3, 4), real(3, 4))
    row(r("l1_loss"), loss("l1_loss"), real(3, 4), real(3, 4))
    row(r("huber_loss"), loss("huber_loss", delta=0.7), real(3, 4), real(3, 4))
    row(r("smooth_l1_loss"), loss("smooth_l1_loss", beta=0.7), real(3, 4), real(3, 4))
    divergence = "batchmean" if reduction == "mean" else reduction  # what PyTorch recommends
    row(r("kl_div"), loss("kl_div", divergence), real(3, 4), probability(3, 4))
    row(r("kl_div log"), loss("kl_div", divergence, log_target=True), real(3, 4), real(3, 4))
    row(
        r("binary_cross_entropy"),
        loss("binary_cross_entropy"),
        probability(3, 4),
        probability(3, 4),
    )
    row(r("binary_cross_entropy weight"), loss("binary_cross_entropy", weight=class_weight),
        probability(3, 4), probability(3, 4))  # fmt: skip
    row(r(logits), loss(logits), away(3, 4), probability(3, 4))
    row(r(f"{logits} 0-dim"), loss(logits), away(), probability())
    row(r(f"{logits} weights"), loss(logits, weight=class_weight, pos_weight=class_weight),
        away(3, 4), probability(3, 4))  # fmt: skip
    row(r("nll_loss"), loss("nll_loss"), real(5, 4), below(4)(5))
    row(r("nll_loss one"), loss("nll_loss"), real(4), below(4)())
    row(r("nll_loss weight"), loss("nll_loss", weight=class_weight), real(3, 4, 2), below(4)(3, 2))
    row(r("nll_loss ignore"), loss("nll_loss", ignore_index=1), real(9, 4), below(4)(9))
    row(r("cross_entropy"), loss("cross_entropy"), real(5, 4), below(4)(5))
    row(r("cross_entropy one"), loss("cross_entropy"), real(4), below(4)())
    row(r("cross_entropy smooth"), loss("cross_entropy", label_smoothing=0.2, weight=class_weight,
        ignore_index=2), real(9, 4), below(4)(9))  # fmt: skip
    row(r("cross_entropy probabilities"), loss("cross_entropy", weight=class_weight,
        label_smoothing=0.1), real(3, 4), probability(3, 4))  # fmt: skip
    row(r("cross_entropy images"), loss("cross_entropy"), real(2, 3, 2, 2), below(3)(2, 2, 2))
    row(r("cross_entropy weight"), loss("cross_entropy", weight=class_weight), real(3, 4, 2),
        below(4)(3, 2))  # fmt: skip
    row(r("cross_entropy ignore"), loss("cross_entropy", ignore_index=1), real(9, 4), below(4)(9))
    row(r("cross_entropy of many rows"), loss("cross_entropy"), real(64, 3), below(3)(64))
    row(r("cross_entropy of many rows ignore"), loss("cross_entropy", ignore_index=1), real(64, 3),
        below(3)(64))  # fmt: skip


# Linear algebra.
def linalg(name: str, *inputs: Input, change: Any = None, **options: Any) -> None:
    """A row of `linalg.name`, on what `change` makes of the first input."""

    def function(t: Any, x: Any, *others: Any) -> Any:
        y = getattr(t.linalg, name)(x if change is None else change(x), *others, **options)
        return tuple(y) if isinstance(y, tuple) else y

    text = " ".join(f"{key}={value}" for key, value in options.items())
    row(f"linalg.{name} {text}".rstrip(), function, *inputs, floats=True)


def both(x: Any) -> Any:
    """A symmetric matrix of the elements of x."""
    return x + x.mT


def sizes_of(name: str, **options: Any) -> Any:
    """Factors whose signs are free, as their sizes."""

    def function(t: Any, x: Any) -> Any:
        return tuple(part.abs() for part in getattr(t.linalg, name)(x, **options))

    return function


for shape in ((3, 3), (2, 3, 3)):
    linalg("cholesky", symmetric(*shape), change=lambda x: (x + x.mT) / 2)
    linalg("eigvalsh", symmetric(*shape), change=both)
    row("linalg.eigh", lambda t, x: sizes_of("eigh")(t, x + x.mT), symmetric(*shape), floats=True)
    for kind in (True, False):
        linalg("solve_triangular", invertible(*shape), real(3, 2), upper=kind)
        linalg("solve_triangular", invertible(*shape), real(2, 3), upper=kind, left=False)
    linalg("matrix_exp", real(*shape), change=lambda x: x.double())  # PyTorch overflows in halves
    linalg("cond", invertible(*shape))
    linalg("cond", constant(*shape), p=1)
    linalg("pinv", invertible(*shape))
    linalg("matrix_rank", constant(*shape))
linalg("cholesky", symmetric(3, 3), change=lambda x: (x + x.mT) / 2, upper=True)
linalg("cholesky_ex", symmetric(3, 3), change=lambda x: (x + x.mT) / 2)
linalg("cholesky", real(0, 0))
linalg("inv_ex", invertible(2, 3, 3))
linalg("solve_ex", invertible(3, 3), real(3, 2))
linalg("solve_ex", invertible(3, 3), real(3))
linalg("solve_triangular", invertible(3, 3), real(3, 2), upper=True, unitriangular=True)
for shape in ((3, 3), (4, 2), (2, 4), (2, 4, 3), (2, 3, 4), (0, 3), (3, 0)):
    row("linalg.qr", lambda t, x: tuple(t.linalg.qr(x)), real(*shape), floats=True)
    row("linalg.svd", sizes_of("svd", full_matrices=False), real(*shape), floats=True)
    linalg("svdvals", real(*shape))
    if 0 not in shape:
        linalg("pinv", real(*shape))
row("linalg.qr r", lambda t, x: t.linalg.qr(x.detach(), mode="r")[1], constant(4, 2), floats=True)
row("linalg.qr complete", lambda t, x: t.linalg.qr(x.detach(), mode="complete")[1], constant(4, 2),
    floats=True)  # fmt: skip
row("linalg.svd full", lambda t, x: sizes_of("svd")(t, x.detach()), constant(4, 2), floats=True)
row("pinv of none", call("linalg.pinv"), real(0, 3), floats=True)
linalg("pinv", symmetric(3, 3), change=both, hermitian=True)
linalg("matrix_rank", constant(4, 2))
for first, second in (((4, 2), (4, 3)), ((2, 4, 2), (2, 4, 3)), ((2, 4), (2, 3)), ((3, 3), (3, 2))):
    row("linalg.lstsq", lambda t, a, b: t.linalg.lstsq(a, b).solution, real(*first), real(*second),
        floats=True)  # fmt: skip
row("linalg.lstsq residuals", lambda t, a, b: tuple(t.linalg.lstsq(a, b, driver="gels")[:2]),
    real(4, 2), real(4, 3), floats=True)  # fmt: skip
row("linalg.lstsq ranks", lambda t, a, b: tuple(t.linalg.lstsq(a, b, driver="gelsd")),
    constant(4, 2), constant(4, 3), floats=True)  # fmt: skip


def factor(t: Any, x: Any) -> Any:
    """The Cholesky factor of the symmetric part of x."""
    return t.linalg.cholesky((x + x.mT) / 2)


row("cholesky_solve", lambda t, b, x: t.cholesky_solve(b, factor(t, x)), real(3, 2),
    symmetric(3, 3), floats=True)  # fmt: skip
row("cholesky_solve upper", lambda t, b, x: t.cholesky_solve(b, factor(t, x).mT, True),
    real(3, 2), symmetric(3, 3), floats=True)  # fmt: skip
row("cholesky_inverse", lambda t, x: t.cholesky_inverse(factor(t, x)), symmetric(3, 3),
    floats=True)  # fmt: skip
linalg("cross", real(2, 3), real(2, 3))
linalg("vecdot", real(2, 3), real(3))
linalg("vander", real(2, 3), N=4)
linalg("diagonal", real(2, 3, 4))
linalg("tensorinv", real(4, 2, 2), ind=1)
linalg("tensorsolve", real(2, 2, 4), real(2, 2))
row("kron", call("kron"), real(2, 3), real(4))
row("cross", lambda t, a, b: t.cross(a, b, dim=0), real(3, 2), real(3, 2))
row("addmv", lambda t, x, a, b: t.addmv(x, a, b, beta=3, alpha=2), real(2), real(2, 3), real(3))
row("addr", lambda t, x, a, b: t.addr(x, a, b, beta=3, alpha=2), real(2, 3), real(2), real(3))
row("addbmm", lambda t, x, a, b: t.addbmm(x, a, b, beta=0.5), real(2, 4), real(2, 2, 3),
    real(2, 3, 4), floats=True)  # fmt: skip
row("vdot", call("vdot"), real(3), real(3))
row("block_diag", lambda t, a, b: t.block_diag(a, b), real(2, 3), real(2))
row("cov", lambda t, x: t.cov(x), real(3, 5), floats=True)
row("cov weights", lambda t, x, n, w: t.cov(x, correction=0, fweights=n, aweights=w),
    real(2, 4), count(4), positive(4), floats=True)  # fmt: skip
row("corrcoef", lambda t, x: t.corrcoef(x), real(3, 5), floats=True)

# Special functions with further arguments.
for n in (0, 1, 2, 3):
    row(f"polygamma {n}", lambda t, x, n=n: t.polygamma(n, x), positive(3, 4), floats=True)
row("mvlgamma", lambda t, x: t.mvlgamma(x, 3), above_one(3, 4))
row("sgn", call("sgn"), constant(3, 4))
row("heaviside", call("heaviside"), constant(3, 4), constant(4))
row("frexp", lambda t, x: tuple(t.frexp(x)), away(3, 4), floats=True)
row("dist", lambda t, a, b: t.dist(a, b, 3), real(3, 4), real(4), floats=True)
row("renorm", lambda t, x: t.renorm(x, 2, 0, 1.0), real(3, 4), floats=True)

# Scans, integrals, differences.
for dim in (0, 1):
    row(f"logcumsumexp {dim}", lambda t, x, d=dim: t.logcumsumexp(x, d), real(3, 4))
row("logcumsumexp", lambda t, x: t.logcumsumexp(x, 0), real())
for name in ("cummax", "cummin"):
    row(name, lambda t, x, f=call(name): tuple(f(t, x, 1)), distinct(3, 4))
    row(name, lambda t, x, f=call(name): tuple(f(t, x, 0)), distinct())
row("trapezoid", lambda t, y: t.trapezoid(y, dx=0.5), real(3, 4), floats=True)
row("trapezoid at", lambda t, y, x: t.trapezoid(y, x), real(3, 4), real(4), floats=True)
row("cumulative_trapezoid", lambda t, y, x: t.cumulative_trapezoid(y, x, dim=0), real(3, 4),
    real(3), floats=True)  # fmt: skip
row("gradient", lambda t, x: tuple(t.gradient(x, spacing=0.5)), real(3, 4), floats=True)
row("gradient second order", lambda t, x: tuple(t.gradient(x, dim=1, edge_order=2)), real(3, 4),
    floats=True)  # fmt: skip

# Order.
row("kthvalue", lambda t, x: tuple(t.kthvalue(x, 2)), distinct(3, 4))
row("kthvalue", lambda t, x: tuple(t.kthvalue(x, 1)), distinct())
row("mode", lambda t, x: tuple(t.mode(x, 0)), distinct(3, 4), floats=True)
row("nanmedian of all", lambda t, x: t.nanmedian(x), distinct(3, 4))
row("nanmedian", lambda t, x: tuple(t.nanmedian(x, 1)), distinct(3, 4))
row("nanquantile", lambda t, x: t.nanquantile(x, 0.3, dim=1), distinct(3, 4))
row("aminmax", lambda t, x: tuple(t.aminmax(x, dim=1)), distinct(3, 4))
row("msort", call("msort"), distinct(3, 4))
row("argwhere", call("argwhere"), boolean(3, 4))
row("isin", call("isin"), whole(3, 4), whole(4))
row("unique_consecutive", lambda t, x: t.unique_consecutive(x, True, True), below(2)(9))

# Pieces.
row("tensor_split", lambda t, x: t.tensor_split(x, 3, 1), real(2, 7))
row("tensor_split at", lambda t, x: t.tensor_split(x, (1, 5), 1), real(2, 7))
row("hsplit", lambda t, x: t.hsplit(x, 2), real(2, 4))
row("vsplit", lambda t, x: t.vsplit(x, [1]), real(2, 4))
row("dsplit", lambda t, x: t.dsplit(x, 2), real(2, 3, 4))
row("split_with_sizes", lambda t, x: t.split_with_sizes(x, [1, 3], 1), real(2, 4))
row("atleast", lambda t, x: (t.atleast_1d(x), t.atleast_2d(x), t.atleast_3d(x)), real(3))
row("dstack", lambda t, x, y: t.dstack([x, y]), real(3), real(3))
for k in (-1, 0, 1, 2):
    row(f"rot90 {k}", lambda t, x, k=k: t.rot90(x, k, (0, 1)), real(2, 3))
row("narrow_copy", lambda t, x: t.narrow_copy(x, 1, 1, 2), real(3, 4))
row("sum_to_size", lambda t, x: x.sum_to_size(3, 1), real(2, 3, 4))
row("diagflat", lambda t, x: t.diagflat(x, 1), real(2, 2))
row("combinations", lambda t, x: t.combinations(x, 2), real(4))
row("cartesian_prod", lambda t, x, y: t.cartesian_prod(x, y), real(3), real(2))
row("fill", lambda t, x, v: t.fill(x, v), real(3, 4), real())
row("as_strided", lambda t, x: t.as_strided(x, (2, 3), (1, 2)), real(3, 4), host=True)
row("as_strided apart", lambda t, x: t.as_strided(x, (2, 2), (3, 1), 1), real(8), host=True)


# Scatters.
def index_reduce(t: Any, x: Any, index: Any, source: Any, reduce: str) -> Any:
    """As it is, without PyTorch's warning that it may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return t.index_reduce(x, 1, index, source, reduce)


for reduce in ("sum", "prod", "mean", "amax", "amin"):
    for alone in (False, True):
        row(f"scatter_reduce {reduce} {alone}",
            lambda t, x, i, s, r=reduce, a=not alone: t.scatter_reduce(
                x, 0, i, s, r, include_self=a),
            away(3, 4), below(3)(5, 4), away(5, 4), floats=True)  # fmt: skip
    if reduce != "sum":
        row(f"index_reduce {reduce}",
            lambda t, x, i, s, r=reduce: index_reduce(t, x, i, s, r),
            away(3, 4), below(4)(5), away(3, 5), floats=True)  # fmt: skip
row("masked_scatter", lambda t, x, m, s: t.masked_scatter(x, m, s), real(3, 4), boolean(3, 4),
    real(12))  # fmt: skip
row("put", lambda t, x, s: t.put(x, t.tensor([1, 5]), s), real(3, 4), real(2))
row("put add", lambda t, x, i, s: t.put(x, i, s, True), real(3, 4), signed(12)(5), real(5))
row("select_scatter", lambda t, x, s: t.select_scatter(x, s, 1, 2), real(3, 4), real(3))
row("slice_scatter", lambda t, x, s: t.slice_scatter(x, s, 1, 0, 4, 2), real(3, 4), real(3, 2))
row("diagonal_scatter", lambda t, x, s: t.diagonal_scatter(x, s), real(3, 4), real(3))

# In a copy of the package without a ring's files, what stands on them is not there to be tested.
CASES[:] = [case for case in CASES if not case.needs or importlib.util.find_spec(case.needs)]


def title(case: Case) -> str:
    """The name of the row without its shapes."""
    shapes = " ".join("x".join(map(str, i.shape)) or "0-dim" for i in case.inputs)
    return case.name.removesuffix(f" {shapes}")


def first_rows(cases: list[Case]) -> list[Case]:
    """The first row of each op."""
    return list({title(case): case for case in reversed(cases)}.values())


def every_day(cases: list[Case]) -> list[Any]:
    """The rows as parameters of a test: the first of each op are tried every day, the other shapes
    with the slow tests."""
    first = {case.name for case in first_rows(cases)}
    return [pytest.param(c, marks=[pytest.mark.slow] * (c.name not in first)) for c in cases]
