"""What comes out at the corners: NaN, infinities, kinks, zeros, nothing at all.

Each row is a program of `t`, NanoTorch or PyTorch: both must give the same arrays, or an error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest

import nanotorch

INF, NAN = math.inf, math.nan
POINTS = [NAN, -INF, INF, 0.0, -0.0, -1000.0, 1000.0, -100.0, 100.0, -30.0, 30.0, -19.0, 19.0]
KINKS = [-6.0, -3.0, -1.0, -0.5, 0.5, 1.0, 3.0, 6.0, 2.5, -2.5]

Program = Callable[[Any], Any]
ROWS: dict[str, Program] = {}


def row(name: str, program: Program) -> None:
    assert name not in ROWS, name
    ROWS[name] = program


def values_of(result: Any) -> list[Any]:
    """The arrays in a result, in their order; what is no tensor as it is."""
    if isinstance(result, (tuple, list)):
        return [value for part in result for value in values_of(part)]
    return [result.detach().numpy(force=True) if hasattr(result, "detach") else result]


def outcome(program: Program, t: Any) -> Any:
    try:
        return values_of(program(t))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return error


def slopes(f: Callable[..., Any], *inputs: Any, order: int = 2, dtype: str = "float64") -> Program:
    """f's values, the slope of each input and, for `order` 2, the slopes of these slopes' sum."""

    def program(t: Any) -> Any:
        xs = [t.tensor(x, dtype=getattr(t, dtype), requires_grad=True) for x in inputs]
        y = f(t, *xs)
        results, level = [y], y
        for k in range(order):
            total = level.sum()
            grads: Any = [None] * len(xs)
            if total.requires_grad:
                grads = t.autograd.grad(total, xs, create_graph=k + 1 < order, allow_unused=True)
            grads = [t.zeros_like(x) if g is None else g for x, g in zip(xs, grads, strict=True)]
            results.append(grads)
            level = t.stack([g.sum() for g in grads])
        return results

    return program


# --- activations and losses at NaN, infinities and kinks ------------------------------------------

ACTIVATIONS: dict[str, Callable[[Any, Any], Any]] = {
    **{
        name: lambda t, x, name=name: getattr(t.nn.functional, name)(x)  # type: ignore[misc]
        for name in [
            "relu",
            "relu6",
            "hardtanh",
            "hardsigmoid",
            "hardswish",
            "hardshrink",
            "softshrink",
            "tanhshrink",
            "silu",
            "mish",
            "gelu",
            "elu",
            "selu",
            "celu",
            "leaky_relu",
            "softplus",
            "logsigmoid",
            "softsign",
        ]
    },
    "threshold": lambda t, x: t.nn.functional.threshold(x, 0.5, -7.0),
    "gelu tanh": lambda t, x: t.nn.functional.gelu(x, approximate="tanh"),
    "softplus 3": lambda t, x: t.nn.functional.softplus(x, beta=3, threshold=5),
    "prelu": lambda t, x: t.nn.functional.prelu(x, t.tensor([0.25], dtype=x.dtype)),
    "softmin": lambda t, x: t.nn.functional.softmin(t.stack([x, x * 2]), 0),
    "softmax": lambda t, x: t.softmax(t.stack([x, x * 2]), 0),
    "log_softmax": lambda t, x: t.log_softmax(t.stack([x, x * 2]), 0),
}
for name, f in ACTIVATIONS.items():
    row(f"{name} at the far ends", slopes(f, POINTS))
    row(f"{name} at kinks", slopes(f, KINKS))
    row(f"{name} at the far ends, float32", slopes(f, POINTS, dtype="float32"))

UNARY = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor frac log "
    "log10 log1p log2 logit neg reciprocal round rsqrt sigmoid sign sin sinh sqrt square tan "
    "tanh trunc"
)
for name in UNARY.split():
    f = lambda t, x, name=name: getattr(t, name)(x)
    row(f"{name} at the far ends", slopes(f, POINTS, order=1))
    row(f"{name} at kinks", slopes(f, KINKS, order=2))

PAIRS = [(a, b) for a in (NAN, -INF, INF, 0.0, -1.0, 2.0) for b in (NAN, -INF, INF, 0.0, 1.0, -2.0)]
LEFT, RIGHT = ([pair[i] for pair in PAIRS] for i in (0, 1))
BINARY = (
    "add sub mul div atan2 hypot logaddexp maximum minimum fmod remainder xlogy floor_divide pow"
)
for name in BINARY.split():
    row(
        f"{name} of corners",
        slopes(lambda t, a, b, n=name: getattr(t, n)(a, b), LEFT, RIGHT, order=1),
    )

LOSSES = {
    name: lambda t, a, b, r, name=name: getattr(t.nn.functional, name)(a, b, reduction=r)  # type: ignore[misc]
    for name in [
        "mse_loss",
        "l1_loss",
        "smooth_l1_loss",
        "huber_loss",
        "binary_cross_entropy_with_logits",
        "kl_div",
        "poisson_nll_loss",
    ]
}
ENDS = [0.0, 1.0, 0.5]
for name, loss in LOSSES.items():
    for reduction in ("none", "sum"):
        first = [x for x in (*POINTS, *KINKS) for _ in ENDS]
        second = [y for _ in (*POINTS, *KINKS) for y in ENDS]
        row(
            f"{name} {reduction}",
            slopes(lambda t, a, b, f=loss, r=reduction: f(t, a, b, r), first, second),
        )
row(
    "huber and smooth l1 without error",
    slopes(
        lambda t, a, b: (
            t.nn.functional.huber_loss(a, b) + t.nn.functional.smooth_l1_loss(a, b, beta=2.0)
        ),
        [1.0, 2.0, 5.0],
        [1.0, 2.5, 2.0],
    ),
)
row(
    "bce at the ends",
    slopes(
        lambda t, a, b: t.nn.functional.binary_cross_entropy(a, b, reduction="none"),
        [0.0, 1.0, 0.0, 1.0, 1e-40, 1 - 1e-16, 1e-300],
        [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0],
        order=1,
    ),
)
row(
    "bce at the ends, float32",
    slopes(
        lambda t, a, b: t.nn.functional.binary_cross_entropy(a, b, reduction="none"),
        [0.0, 1.0, 0.0, 1.0, 1e-40, 1e-45, 0.99999994],
        [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        order=1,
        dtype="float32",
    ),
)
for x, y in ((NAN, 0.0), (0.5, NAN), (-0.1, 1.0), (1.1, 1.0), (INF, 0.0)):
    row(
        f"bce of {x} and {y}",
        lambda t, x=x, y=y: t.nn.functional.binary_cross_entropy(t.tensor([x]), t.tensor([y])),
    )

F = lambda t: t.nn.functional
row(
    "hinge embedding at its kink",
    slopes(
        lambda t, x: F(t).hinge_embedding_loss(
            x, t.tensor([-1.0, -1, -1, 1], dtype=x.dtype), reduction="none"
        ),
        [1.0, 0.0, 2.0, 1.0],
    ),
)
row(
    "margin ranking at its kink",
    slopes(
        lambda t, a, b: F(t).margin_ranking_loss(
            a, b, t.tensor([1.0, 1, -1], dtype=a.dtype), margin=1.0, reduction="none"
        ),
        [2.0, 0.0, 0.0],
        [1.0, 0.0, 1.0],
    ),
)
row(
    "cosine embedding at its kink",
    slopes(
        lambda t, a, b: F(t).cosine_embedding_loss(
            a, b, t.tensor([-1.0, -1, 1], dtype=a.dtype), margin=0.0, reduction="none"
        ),
        [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]],
        [[0.0, 1.0], [1.0, -1.0], [1.0, 2.0]],
        order=1,
    ),
)
row(
    "triplet at its kink",
    slopes(
        lambda t, a, p, n: F(t).triplet_margin_loss(a, p, n, margin=1.0, eps=0.0, reduction="none"),
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 0.0], [1.0, 0.0]],
        [[2.0, 0.0], [0.0, 2.0]],
        order=1,
    ),
)
row(
    "multi margin at its kink",
    slopes(
        lambda t, x: F(t).multi_margin_loss(x, t.tensor([0, 1]), reduction="none"),
        [[1.0, 0.0, 0.5], [2.0, 3.0, 1.0]],
        order=1,
    ),
)
row(
    "clamp at its bounds",
    slopes(
        lambda t, x: t.clamp(x, -1.0, 1.0) + t.clamp(x, min=t.tensor(0.5, dtype=x.dtype)),
        [*KINKS, NAN, INF, -INF],
    ),
)

# --- every target ignored -------------------------------------------------------------------------

IGNORED = [-100, -100]
for name, options in {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing, sum": {"label_smoothing": 0.1, "reduction": "sum"},
}.items():
    row(
        f"cross entropy, all ignored, {name}",
        slopes(
            lambda t, x, o=options: F(t).cross_entropy(x, t.tensor(IGNORED), **o),
            [[1.0, 2.0], [3.0, 4.0]],
            order=1,
        ),
    )
    row(
        f"cross entropy, all ignored, weights, {name}",
        slopes(
            lambda t, x, o=options: F(t).cross_entropy(
                x, t.tensor(IGNORED), weight=t.tensor([1.0, 2.0], dtype=x.dtype), **o
            ),
            [[1.0, 2.0], [3.0, 4.0]],
            order=1,
        ),
    )
    row(
        f"cross entropy of a sequence, all ignored, {name}",
        slopes(
            lambda t, x, o=options: F(t).cross_entropy(x, t.tensor([IGNORED]), **o),
            [[[1.0, 2.0], [3.0, 4.0]]],
            order=1,
        ),
    )
    row(
        f"cross entropy of one row, ignored, {name}",
        slopes(
            lambda t, x, o=options: F(t).cross_entropy(x, t.tensor(-100), **o), [1.0, 2.0], order=1
        ),
    )
    row(
        f"cross entropy, ignored class 1, {name}",
        slopes(
            lambda t, x, o=options: F(t).cross_entropy(x, t.tensor([1, 1]), ignore_index=1, **o),
            [[1.0, 2.0], [3.0, 4.0]],
            order=1,
        ),
    )
    row(
        f"cross entropy, one ignored, {name}",
        slopes(
            lambda t, x, o=options: F(t).cross_entropy(x, t.tensor([-100, 1]), **o),
            [[1.0, 2.0], [3.0, 4.0]],
            order=2,
        ),
    )
row(
    "nll, all ignored",
    slopes(lambda t, x: F(t).nll_loss(x, t.tensor(IGNORED)), [[1.0, 2.0], [3.0, 4.0]]),
)
row("nll, one row, ignored", slopes(lambda t, x: F(t).nll_loss(x, t.tensor(-100)), [1.0, 2.0]))
row(
    "nll, weights of nothing",
    slopes(
        lambda t, x: F(t).nll_loss(x, t.tensor([0, 0]), weight=t.tensor([0.0, 1.0], dtype=x.dtype)),
        [[1.0, 2.0], [3.0, 4.0]],
        order=1,
    ),
)
row(
    "nll, infinite and ignored",
    slopes(lambda t, x: F(t).nll_loss(x, t.tensor([0, -100])), [[1.0, 2.0], [-INF, 4.0]], order=1),
)

# --- products with zeros --------------------------------------------------------------------------

ZEROS = ([2.0, 0.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [2.0, 5.0, 3.0], [0.0], [])
for x in ZEROS:
    row(f"prod of {x}", slopes(lambda t, x: t.prod(x), x))
    row(
        f"hessian of the product of {x}",
        lambda t, x=x: t.autograd.functional.hessian(
            lambda v: v.prod(), t.tensor(x, dtype=t.float64)
        ),
    )
    row(
        f"cumprod of {x}",
        slopes(lambda t, x: t.cumprod(x, 0) * t.arange(1, x.shape[0] + 1, dtype=x.dtype), x),
    )
    row(
        f"hessian of the running product of {x}",
        lambda t, x=x: t.autograd.functional.hessian(
            lambda v: (v.cumprod(0) * t.arange(1, v.shape[0] + 1, dtype=v.dtype)).sum(),
            t.tensor(x, dtype=t.float64),
        ),
    )
MATRIX = [[2.0, 0.0, 3.0], [0.0, 0.0, 1.0], [4.0, 5.0, 6.0]]
for dim in (0, 1, -1):
    for keepdim in (False, True):
        row(
            f"prod along {dim} {keepdim}",
            slopes(lambda t, x, d=dim, k=keepdim: t.prod(x, d, keepdim=k), MATRIX),
        )
    row(
        f"hessian of prod along {dim}",
        lambda t, d=dim: t.autograd.functional.hessian(
            lambda v: (v.prod(d) ** 2).sum(), t.tensor(MATRIX, dtype=t.float64)
        ),
    )
    row(
        f"hessian of cumprod along {dim}",
        lambda t, d=dim: t.autograd.functional.hessian(
            lambda v: (v.cumprod(d) ** 2).sum(), t.tensor(MATRIX, dtype=t.float64)
        ),
    )
row("prod of a number", slopes(lambda t, x: t.prod(x) + t.cumprod(x, 0), 0.0))

# --- xlogy ----------------------------------------------------------------------------------------

for number in (2.0, 0.0, NAN, INF):
    row(
        f"xlogy with {number} on the right",
        slopes(lambda t, a, n=number: t.xlogy(a, n), [0.0, 1.0, NAN, -2.0]),
    )
    row(
        f"xlogy with {number} on the left",
        slopes(lambda t, b, n=number: t.xlogy(n, b), [0.0, 1.0, NAN, 2.0, INF]),
    )
row(
    "xlogy of other dtypes",
    lambda t: (
        t.xlogy(t.tensor([1.0, 2.0]), t.tensor(3.0, dtype=t.float64)),
        t.xlogy(t.tensor([1, 0]), t.tensor([2, 0])),
        t.xlogy(t.tensor([1.0]), 2),
    ),
)
row(
    "xlogy, tangents",
    lambda t: t.func.jvp(
        t.xlogy,
        (t.tensor([0.0, 1.0, 0.0]), t.tensor([2.0, 3.0, NAN])),
        (t.tensor([1.0, 1.0, 1.0]), t.tensor([0.0, 1.0, 0.0])),
    ),
)
row(
    "xlogy, vmap",
    lambda t: t.func.vmap(t.func.grad(t.xlogy))(t.tensor([0.0, 1.0]), t.tensor([2.0, 3.0])),
)
row(
    "xlogy, second order",
    slopes(lambda t, a, b: t.xlogy(a, b), [0.0, 1.0, 0.0, 2.0], [2.0, 3.0, 0.0, 1.0]),
)

# --- long reductions in float16 -------------------------------------------------------------------

HALF_REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "mean": lambda t, x: x.mean(),
    "l1": lambda t, x: F(t).l1_loss(x, t.ones_like(x)),
    "mse": lambda t, x: F(t).mse_loss(x, t.ones_like(x)),
    "smooth l1": lambda t, x: F(t).smooth_l1_loss(x, t.ones_like(x)),
    "huber": lambda t, x: F(t).huber_loss(x, t.ones_like(x)),
    "bce with logits": lambda t, x: F(t).binary_cross_entropy_with_logits(x, t.ones_like(x)),
    "max": lambda t, x: x.max(),
    "min": lambda t, x: x.min(),
    "amax": lambda t, x: x.amax(),
    "amin": lambda t, x: x.amin(),
    "median": lambda t, x: x.median(),
    "infinity norm": lambda t, x: x.norm(INF),
    "-infinity norm": lambda t, x: x.norm(-INF),
    "amax along": lambda t, x: x.reshape(1, -1).amax(1).sum(),
    "mean along": lambda t, x: x.reshape(1, -1).mean(1).sum(),
    "cross entropy": lambda t, x: F(t).cross_entropy(
        x.reshape(-1, 1), t.zeros(70_000, dtype=t.int64)
    ),
    "nll": lambda t, x: F(t).nll_loss(x.reshape(-1, 1), t.zeros(70_000, dtype=t.int64)),
    "nanmean": lambda t, x: x.nanmean(),
}
for name, f in HALF_REDUCTIONS.items():
    for kind in ("float16", "bfloat16"):

        def gradient(t: Any, f: Any = f, kind: str = kind) -> Any:
            x = t.zeros(70_000, dtype=getattr(t, kind), requires_grad=True)
            f(t, x).backward()
            return x.grad[:3].float()

        row(f"{name} of 70,000 numbers of {kind}", gradient)

# --- sigmoid and its kin, far out -----------------------------------------------------------------

row("sigmoid's logarithm", lambda t: t.sigmoid(t.tensor([-1000.0, -104.0, -90.0, -88.8])).log())
row(
    "sigmoid of small floats", lambda t: t.sigmoid(t.tensor([-1000.0, -104.0, -90.0, -88.8, -87.0]))
)
row(
    "sigmoid of small doubles",
    lambda t: t.sigmoid(t.tensor([-1000.0, -745.0, -710.0, -709.0], dtype=t.float64)),
)
row(
    "sigmoid of small halves",
    lambda t: t.sigmoid(t.tensor([-1000.0, -20.0, -16.0, -11.5], dtype=t.float16)),
)
row(
    "bce of a sigmoid",
    slopes(
        lambda t, x: F(t).binary_cross_entropy(t.sigmoid(x), t.ones_like(x), reduction="none"),
        [-1000.0, -90.0, 50.0],
        order=1,
        dtype="float32",
    ),
)
row(
    "bce with weights, far out",
    slopes(
        lambda t, x: F(t).binary_cross_entropy_with_logits(
            x,
            t.tensor([1.0, 0, 1, 0], dtype=x.dtype),
            weight=t.tensor(2.0, dtype=x.dtype),
            pos_weight=t.tensor(3.0, dtype=x.dtype),
            reduction="none",
        ),
        [1000.0, 1000, -1000, -1000],
        order=2,
    ),
)

# --- determinants, logsumexp, logit, cosines ------------------------------------------------------

SINGULAR = [[1.0, 2.0], [2.0, 4.0]]
for name, x in {
    "regular": [[1.0, 2.0], [3.0, 4.0]],
    "singular": SINGULAR,
    "zero": [[0.0, 0.0], [0.0, 0.0]],
    "rank one of three": [[1.0, 2, 3], [2, 4, 6], [3, 6, 9]],
    "rank two of three": [[1.0, 2, 3], [4, 5, 6], [7, 8, 9.0]],
    "one of a batch": [[[1.0, 2], [3, 4]], SINGULAR, [[0.0, 1], [0, 0]]],
    "one number": [[0.0]],
}.items():
    row(f"det, {name}", slopes(lambda t, x: t.linalg.det(x), x, order=1))
EXTREMES = [
    [-INF, -INF],
    [INF, 0.0],
    [INF, INF],
    [NAN, 0.0],
    [-INF, 0.0],
    [1.0, 2.0],
    [INF, -INF],
    [NAN, INF],
]
row("logsumexp at the far ends", slopes(lambda t, x: t.logsumexp(x, 1), EXTREMES, order=1))
row("logsumexp of numbers", slopes(lambda t, x: t.logsumexp(x, 0), 1.5))
row("logit, out of bounds", slopes(lambda t, x: t.logit(x), [-0.5, 0.0, 0.3, 1.0, 1.5, NAN]))
row(
    "logit with eps",
    slopes(lambda t, x: t.logit(x, eps=0.1), [-0.5, 0.0, 0.05, 0.1, 0.3, 0.9, 0.95, 1.0, 1.5, NAN]),
)
row(
    "cosine similarity, far out",
    slopes(
        lambda t, a, b: F(t).cosine_similarity(a, b, dim=1),
        [[1e20, 1e20], [0.0, 0.0], [1e-30, 0.0], [1.0, 2.0]],
        [[1e20, 0.0], [1.0, 1.0], [1e-30, 1e-30], [3.0, 4.0]],
        order=1,
        dtype="float32",
    ),
)
for p in (0.0, 1.0, 2.0, 3.0, 0.5, INF, -INF):
    row(f"norm {p} at 0", slopes(lambda t, x, p=p: t.norm(x, p), [0.0, 0.0], order=1))
    row(
        f"norm {p} of numbers",
        slopes(lambda t, x, p=p: t.linalg.vector_norm(x, p), [3.0, -4.0, 0.0], order=1),
    )
row("norm's curvature at 0", slopes(lambda t, x: t.norm(x), [0.0, 0.0]))
for p in (3.0, 4.0):
    row(
        f"norm {p}'s curvature beside 0",
        lambda t, p=p: t.autograd.functional.hessian(
            lambda x: t.linalg.vector_norm(x, p), t.tensor([3.0, -4.0, 0.0], dtype=t.float64)
        ),
    )
for kind in ("float32", "float64", "float16"):
    for shape in ((3, 1), (1, 1), (1, 3)):
        for name, f in {
            "from the left": lambda x, z: x @ z,
            "from the right": lambda x, z: z.reshape(1, 1) @ x.reshape(1, -1),
            "in a layer": lambda x, z: x.reshape(-1, 1) @ z.T,
        }.items():
            row(
                f"{shape} NaN times one zero {name}, {kind}",
                lambda t, k=kind, s=shape, f=f: f(
                    t.full(s, NAN, dtype=getattr(t, k)).reshape(-1, 1),
                    t.zeros(1, 1, dtype=getattr(t, k)),
                ),
            )
for one in ("uint8", "int64", "float16"):
    for value in (1, 0.5):
        row(
            f"addcmul of {one} by {value}",
            lambda t, k=one, v=value: (
                lambda x, a: [t.addcmul(x, a, a, value=v), x.addcmul_(a, a, value=v)]
            )(t.ones(2), t.tensor([250, 3]).to(getattr(t, k))),
        )
row("variance of a NaN along no dimension", slopes(lambda t, x: t.var(x, 0), NAN, order=1))
row(
    "a quantile is no view",
    lambda t: t.quantile(t.tensor([1.0, 2.0]).requires_grad_() * 1, 0.25).detach_(),
)
row("norm's curvature", slopes(lambda t, x: t.norm(x), [3.0, 4.0]))

# --- integers -------------------------------------------------------------------------------------

INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
for kind in INTEGERS:
    for name, f in {
        "//": lambda x, z: x // z,
        "%": lambda x, z: x % z,
        "fmod": lambda x, z: x.fmod(z),
        "remainder": lambda x, z: x.remainder(z),
        "floor_divide": lambda x, z: x.floor_divide(z),
        "div floor": lambda x, z: x.div(z, rounding_mode="floor"),
        "div trunc": lambda x, z: x.div(z, rounding_mode="trunc"),
        "//=": lambda x, z: x.floor_divide_(z),
        "%=": lambda x, z: x.remainder_(z),
        "5 //": lambda x, z: 5 // (x * 0 + z),
        "5 %": lambda x, z: 5 % (x * 0 + z),
        "/": lambda x, z: x / z,
    }.items():
        for zero in ("tensor", "number", "one of several"):

            def divide(t: Any, f: Any = f, zero: str = zero, kind: str = kind) -> Any:
                x = t.tensor([7, 3, 0], dtype=getattr(t, kind))
                z = {
                    "tensor": t.zeros(3, dtype=x.dtype),
                    "number": 0,
                    "one of several": t.tensor([2, 0, 1], dtype=x.dtype),
                }[zero]
                return f(x, z)

            row(f"{kind} {name} 0 ({zero})", divide)
row(
    "floats divided by 0",
    lambda t: [
        t.tensor([1.0, 0.0, -1.0]) // 0,
        t.tensor([1.0, 0.0]) % 0,
        t.fmod(t.tensor([1.0]), 0),
    ],
)
row(
    "negative integers divided",
    lambda t: [
        t.tensor([-7, 7]) // 2,
        t.tensor([-7, 7]) % -3,
        t.fmod(t.tensor([-7, 7]), 3),
        t.div(t.tensor([-7, 7]), 2, rounding_mode="trunc"),
        t.div(t.tensor([-7.5, 7.0]), 2, rounding_mode="trunc"),
        t.tensor([-128], dtype=t.int8) // -1,
        t.div(t.tensor([-128], dtype=t.int8), 2, rounding_mode="trunc"),
    ],
)
row("booleans divided", lambda t: t.tensor([True]) // t.tensor([True]))

for name, f in {
    "int := nan": lambda t, x: x.__setitem__(0, NAN),
    "int := inf": lambda t, x: x.__setitem__(0, INF),
    "int filled with nan": lambda t, x: x.fill_(NAN),
    "int filled with inf": lambda t, x: x.fill_(-INF),
    "int masked with nan": lambda t, x: x.masked_fill_(x > 1, NAN),
    "int := 2.7": lambda t, x: x.__setitem__(0, 2.7),
    "int := -2.7": lambda t, x: x.__setitem__(slice(None), -2.7),
    "int index_fill 2.5": lambda t, x: x.index_fill_(0, t.tensor([0]), 2.5),
    "int of a nan tensor": lambda t, x: x.__setitem__(0, t.tensor(2.9)),
    "int := complex": lambda t, x: x.fill_(1 + 2j),
    "int index_put nan": lambda t, x: x.__setitem__(t.tensor([0]), NAN),
    "int scatter": lambda t, x: x.scatter_(0, t.tensor([0]), 2.5),
    "full int": lambda t, x: t.full((2,), NAN, dtype=x.dtype),
    "full_like": lambda t, x: t.full_like(x, INF),
}.items():
    for kind in ("int64", "int8", "uint8", "int32"):

        def write(t: Any, f: Any = f, kind: str = kind) -> Any:
            x = t.tensor([1, 2, 3], dtype=getattr(t, kind))
            y = f(t, x)
            return x if y is None else y

        row(f"{kind}: {name}", write)
for name, f in {
    "item": lambda t, x: x.__setitem__(0, 1 + 2j),
    "fill": lambda t, x: x.fill_(1 + 2j),
    "mask": lambda t, x: x.masked_fill_(x > 1, 1j),
    "copy": lambda t, x: x.copy_(t.tensor([1 + 2j, 2, 3])),
    "slice": lambda t, x: x.__setitem__(slice(0, 2), t.tensor([1 + 2j, 2])),
    "add": lambda t, x: x.add_(1j),
    "masked by a tensor": lambda t, x: x.masked_fill_(x > 1, t.tensor(1j)),
    "real": lambda t, x: x.__setitem__(0, complex(2, 0)),
}.items():
    row(
        f"float := complex, {name}",
        lambda t, f=f: (lambda x: (f(t, x), x)[1])(t.tensor([1.0, 2.0, 3.0])),
    )
for name, f in {
    "+ 200": lambda x: x + 200,
    "* 300": lambda x: x * 300,
    "- 200": lambda x: x - 200,
    "200 +": lambda x: 200 + x,
    "+= 200": lambda x: x.add_(200),
    "*= 300": lambda x: x.mul_(300),
    ":= 300": lambda x: (x.__setitem__(0, 300), x)[1],
    "fill 300": lambda x: x.fill_(300),
    "> 300": lambda x: x > 300,
    "== 300": lambda x: x == 300,
    "< -300": lambda x: x < -300,
    "& 300": lambda x: x & 300,
    "// 300": lambda x: x // 300,
    "% 300": lambda x: x % 300,
    "** 200": lambda x: x**3,
    "clamp": lambda x: x.clamp(max=300),
    "masked 300": lambda x: x.masked_fill(x > 1, 300),
    "- -1": lambda x: x - -1,
    "| -1": lambda x: x | -1,
}.items():
    for kind in ("int8", "uint8", "int16"):
        row(
            f"{kind} {name}",
            lambda t, f=f, kind=kind: f(t.tensor([100, 1, 3], dtype=getattr(t, kind))),
        )
row("full of 300 in int8", lambda t: t.full((2,), 300, dtype=t.int8))
row("tensor of 300 in int8", lambda t: t.tensor([300], dtype=t.int8))

# --- indexing -------------------------------------------------------------------------------------

KEYS: dict[str, Callable[[Any], Any]] = {
    "0, (1, 2)": lambda t: (0, (1, 2)),
    "((0, 1),)": lambda t: ((0, 1),),
    "(0, 1), (1, 0)": lambda t: ((0, 1), (1, 0)),
    "..., ...": lambda t: (..., ...),
    "..., 0, ...": lambda t: (..., 0, ...),
    "0, ..., ...": lambda t: (0, ..., ...),
    ":, [0, 1], ..., [0, 1]": lambda t: (slice(None), [0, 1], ..., [0, 1]),
    "[0, 1], ..., [0, 1], [1, 0]": lambda t: ([0, 1], ..., [0, 1], [1, 0]),
    "[0, 1], [1, 0], ..., [0, 1]": lambda t: ([0, 1], [1, 0], ..., [0, 1]),
    "[0, 1], ..., [0, 1]": lambda t: ([0, 1], ..., [0, 1]),
    "..., [0, 1], [0, 1]": lambda t: (..., [0, 1], [0, 1]),
    "[0, 1], :, [0, 1]": lambda t: ([0, 1], slice(None), [0, 1]),
    "0, :, [0, 1]": lambda t: (0, slice(None), [0, 1]),
    "[0, 1], 0, ..., [0, 1]": lambda t: ([0, 1], 0, ..., [0, 1]),
    ":, [0, 1], None, [0, 1]": lambda t: (slice(None), [0, 1], None, [0, 1]),
    "None, [0, 1], ..., [0, 1], [0, 1]": lambda t: (None, [0, 1], ..., [0, 1], [0, 1]),
    "byte mask": lambda t: t.tensor([1, 0], dtype=t.uint8),
    "byte mask of two": lambda t: t.tensor([[1, 0, 1], [0, 0, 1]], dtype=t.uint8),
    "byte mask and more": lambda t: (t.tensor([1, 0], dtype=t.uint8), ..., [0]),
    "True": lambda t: True,
    "False": lambda t: False,
    "None, True": lambda t: (None, True),
    "0, True": lambda t: (0, True),
    "mask, ..., list": lambda t: (t.tensor([True, True]), ..., [0, 1]),
    "mask of three": lambda t: t.ones(2, 3, 4) > 0,
    "empty list": lambda t: [],
    "list of lists": lambda t: [[0, 1], [1, 0]],
    "range": lambda t: range(2),
    "tensor of none": lambda t: t.zeros(0, dtype=t.int64),
    "0-dim tensor": lambda t: t.tensor(1),
    "list of booleans": lambda t: [True, False],
    "tuple of booleans": lambda t: ((True, False),),
    "too many": lambda t: (0, 0, 0, 0),
    "mask, list": lambda t: (t.tensor([[True, False, True], [False, True, False]]), [0, 1, 2]),
}
for name, key in KEYS.items():

    def read(t: Any, key: Any = key) -> Any:
        x = t.arange(24.0).reshape(2, 3, 4).requires_grad_()
        y = x[key(t)]
        (y * t.arange(1.0, y.numel() + 1).reshape(y.shape)).sum().backward()
        return y, x.grad

    def write(t: Any, key: Any = key) -> Any:
        x = t.arange(24.0).reshape(2, 3, 4)
        y = x[key(t)]
        x[key(t)] = t.arange(100.0, 100 + y.numel()).reshape(y.shape)
        return x

    def write_gradient(t: Any, key: Any = key) -> Any:
        x, base = t.arange(24.0).reshape(2, 3, 4).requires_grad_(), t.zeros(2, 3, 4)
        y = x[key(t)]
        base[key(t)] = y * 2
        (base * t.arange(24.0).reshape(2, 3, 4)).sum().backward()
        return base, x.grad

    row(f"x[{name}]", read)
    row(f"x[{name}] =", write)
    if name != "False":  # nothing is written, and PyTorch records nothing
        row(f"x[{name}] = y, gradients", write_gradient)

# --- 0-dim tensors and empty ones -----------------------------------------------------------------


def as_number(f: Callable[[Any, Any], Any]) -> Program:
    def program(t: Any) -> Any:
        x = t.tensor(2.5, requires_grad=True)
        y = f(t, x)
        values = [
            v
            for v in (y if isinstance(y, tuple) else (y,))
            if v.is_floating_point() and v.requires_grad
        ]
        if values:
            sum(v.sum() for v in values).backward()
        return y, x.grad if x.grad is not None else 0

    return program


for name, f in {
    "gather": lambda t, x: t.gather(x, 0, t.tensor(0)),
    "gather 1-dim": lambda t, x: t.gather(x, 0, t.tensor([0])),
    "scatter": lambda t, x: t.scatter(x, 0, t.tensor(0), t.tensor(7.0)),
    "scatter 1-dim": lambda t, x: t.scatter(x, 0, t.tensor([0]), t.tensor([7.0])),
    "scatter number": lambda t, x: t.scatter(x, 0, t.tensor(0), 7.0),
    "scatter_add": lambda t, x: t.scatter_add(x, 0, t.tensor(0), t.tensor(7.0)),
    "topk": lambda t, x: tuple(t.topk(x, 1)),
    "topk 0": lambda t, x: tuple(t.topk(x, 0)),
    "sort": lambda t, x: tuple(t.sort(x)),
    "argsort": lambda t, x: t.argsort(x),
    "median": lambda t, x: tuple(t.median(x, 0)),
    "max": lambda t, x: tuple(t.max(x, 0)),
    "min": lambda t, x: tuple(t.min(x, -1)),
    "cumsum": lambda t, x: t.cumsum(x, 0),
    "cumprod": lambda t, x: t.cumprod(x, 0),
    "logsumexp": lambda t, x: t.logsumexp(x, 0),
    "softmax": lambda t, x: t.softmax(x, 0),
    "index_select": lambda t, x: t.index_select(x, 0, t.tensor([0])),
    "index_fill": lambda t, x: t.index_fill(x, 0, t.tensor([0]), 9.0),
    "index_add": lambda t, x: t.index_add(x, 0, t.tensor([0]), t.tensor(3.0)),
    "index_copy": lambda t, x: t.index_copy(x, 0, t.tensor([0]), t.tensor([3.0])),
    "flip": lambda t, x: t.flip(x, (0,)),
    "prod": lambda t, x: t.prod(x, 0),
    "sum": lambda t, x: t.sum(x, 0),
    "mean": lambda t, x: t.mean(x, -1),
    "var": lambda t, x: t.var(x, 0, unbiased=False),
    "std": lambda t, x: t.std(x, dim=0, unbiased=False),
    "norm": lambda t, x: t.norm(x, 2, 0),
    "amax": lambda t, x: t.amax(x, 0),
    "quantile": lambda t, x: t.quantile(x, 0.3),
    "take": lambda t, x: t.take(x, t.tensor([0, 0])),
    "unsqueeze": lambda t, x: x.unsqueeze(0),
    "repeat": lambda t, x: x.repeat(3),
    "expand": lambda t, x: x.expand(3),
    "diff": lambda t, x: t.diff(x.reshape(1)),
    "roll": lambda t, x: t.roll(x, 1),
    "masked_select": lambda t, x: t.masked_select(x, t.tensor(True)),
    "argmax": lambda t, x: t.argmax(x, 0),
    "all": lambda t, x: t.all(x > 0, 0),
    "count_nonzero": lambda t, x: t.count_nonzero(x),
    "nonzero": lambda t, x: t.nonzero(x),
    "unique": lambda t, x: t.unique(x.detach()),
}.items():
    row(f"0-dim {name}", as_number(f))
row(
    "gather of a 0-dim tensor is a copy",
    lambda t: (lambda x: (t.gather(x, 0, t.tensor(0)).add_(5), x)[1])(t.tensor(1.0)),
)

EMPTY: dict[str, Callable[[Any, Any], Any]] = {
    "median": lambda t, x: t.median(x),
    "chunk": lambda t, x: list(t.chunk(x, 3)),
    "split": lambda t, x: list(t.split(x, 2)),
    "split 0": lambda t, x: list(t.split(x, 0)),
    "tensor_split": lambda t, x: (
        list(t.tensor_split(x, 3)) if hasattr(t, "tensor_split") else [x, x, x]
    ),
    "sum": lambda t, x: t.sum(x),
    "mean": lambda t, x: t.mean(x),
    "prod": lambda t, x: t.prod(x),
    "max": lambda t, x: t.max(x),
    "amax": lambda t, x: t.amax(x),
    "argmax": lambda t, x: t.argmax(x),
    "std": lambda t, x: t.std(x),
    "var": lambda t, x: t.var(x),
    "norm": lambda t, x: t.norm(x),
    "norm inf": lambda t, x: t.norm(x, INF),
    "logsumexp": lambda t, x: t.logsumexp(x, 0),
    "softmax": lambda t, x: t.softmax(x, 0),
    "sort": lambda t, x: list(t.sort(x)),
    "topk": lambda t, x: list(t.topk(x, 0)),
    "cumsum": lambda t, x: t.cumsum(x, 0),
    "cumprod": lambda t, x: t.cumprod(x, 0),
    "quantile": lambda t, x: t.quantile(x, 0.5),
    "unique": lambda t, x: t.unique(x),
    "nonzero": lambda t, x: t.nonzero(x),
    "all": lambda t, x: t.all(x),
    "any": lambda t, x: t.any(x),
    "dot": lambda t, x: t.dot(x, x),
    "outer": lambda t, x: t.outer(x, x),
    "mm": lambda t, x: t.zeros(2, 0) @ t.zeros(0, 3),
    "det": lambda t, x: t.linalg.det(t.zeros(0, 0)),
    "stack": lambda t, x: t.stack([x, x]),
    "cat": lambda t, x: t.cat([x, t.ones(2)]),
    "flip": lambda t, x: t.flip(x, (0,)),
    "roll": lambda t, x: t.roll(x, 1),
    "diff": lambda t, x: t.diff(x),
    "bincount": lambda t, x: t.bincount(x.long()),
    "mse": lambda t, x: F(t).mse_loss(x, x),
    "bce": lambda t, x: F(t).binary_cross_entropy_with_logits(x, x),
    "l1": lambda t, x: F(t).l1_loss(x, x),
    "nanmean": lambda t, x: x.nanmean(),
    "median along": lambda t, x: list(t.median(t.zeros(0, 2), 0)),
    "median along 1": lambda t, x: list(t.median(t.zeros(0, 2), 1)),
    "min along": lambda t, x: list(t.min(t.zeros(2, 0), 0)),
    "softmax 2": lambda t, x: t.softmax(t.zeros(2, 0), 1),
    "chunk 2": lambda t, x: list(t.chunk(t.zeros(0, 3), 2)),
    "chunk 1": lambda t, x: list(t.chunk(t.zeros(3, 0), 2, 1)),
    "split 0 of 3": lambda t, x: list(t.split(t.zeros(3), 0)),
}
for name, f in EMPTY.items():
    row(f"{name} of nothing", lambda t, f=f: f(t, t.zeros(0)))

for interpolation in ("linear", "lower", "higher", "nearest", "midpoint"):
    row(
        f"quantile, {interpolation}",
        slopes(
            lambda t, x, i=interpolation: t.quantile(
                x, t.tensor([0.0, 0.1, 0.375, 0.5, 0.9, 1.0], dtype=x.dtype), dim=0, interpolation=i
            ),
            [[3.0, 1], [1.0, NAN], [2.0, 5], [7.0, 4]],
            order=1,
        ),
    )
row(
    "quantile of NaN",
    lambda t: [
        t.quantile(t.tensor([1.0, NAN, 2.0]), 0.5),
    ],
)
row("quantile out of bounds", lambda t: t.quantile(t.tensor([1.0, 2.0]), 1.5))
for kind in (*INTEGERS, "bool"):
    row(
        f"{kind} shifted",
        lambda t, kind=kind: (
            lambda x: [x << 1, x >> 1, x << t.tensor([1, 0, 2]), 1 << x, x >> 9, x << 70]
        )(t.tensor([5, 3, 100]).to(getattr(t, kind))),
    )
row("floats shifted", lambda t: t.tensor([1.5]) << 2)
row(
    "shifted in place",
    lambda t: (lambda x: [x.__ilshift__(2).clone(), x.__irshift__(1)])(t.tensor([1, 2, 3])),
)
for reduce in ("add", "multiply"):
    row(
        f"scatter_ {reduce}, a number",
        lambda t, r=reduce: t.ones(4).scatter_(0, t.tensor([0, 0, 2]), 3.0, reduce=r),
    )
    row(
        f"scatter_ {reduce}, a tensor",
        lambda t, r=reduce: t.ones(4).scatter_(
            0, t.tensor([0, 0, 2]), t.tensor([2.0, 3.0, 4.0]), reduce=r
        ),
    )
row("scatter_ value=", lambda t: t.ones(4).scatter_(0, t.tensor([0, 2]), value=3.0))
row("scatter value=", lambda t: t.ones(4).scatter(0, t.tensor([0, 2]), value=3.0))
row(
    "scatter reduce=",
    lambda t: t.scatter(t.ones(4), 0, t.tensor([0, 2]), t.tensor([3.0, 4.0]), reduce="multiply"),
)
row(
    "strides of copies",
    lambda t: [
        [x.clone().stride(), x.contiguous().stride()]
        for x in (
            t.ones(3, 4).t(), t.ones(2, 3, 4).permute(1, 2, 0), t.ones(4, 6).t()[::2],
            t.ones(3, 4).expand(2, 3, 4),
        )
    ],
)  # fmt: skip
row("sign(nan)", slopes(lambda t, x: t.sign(x), [NAN, -0.0, INF]))
row(
    "strides of gradients of contiguous leaves",
    lambda t: [
        (lambda w: (f(w).sum().backward(), w.grad.stride(), w.grad.view(-1)))(
            t.arange(12.0).reshape(3, 4).detach().requires_grad_()
        )[1:]
        for f in (
            lambda w: t.ones(2, 4) @ w.t(), lambda w: w.t().softmax(0) * t.arange(3.0),
            lambda w: w.t()[[0, 1]] ** 2, lambda w: t.einsum("ij,kj->ki", w, t.ones(2, 4)),
        )
    ],
)  # fmt: skip
row(
    "strides of what is indexed",
    lambda t: [
        x[key].stride()
        for x in (
            t.arange(120.0).reshape(5, 4, 6), t.arange(120.0).reshape(5, 4, 6).permute(2, 0, 1),
            t.arange(240.0).reshape(5, 4, 12)[:, :, ::2], t.arange(120.0).reshape(4, 5, 6).mT,
        )
        for key in (
            (slice(None), 0, t.tensor([1, 2, 2])), t.tensor([[0, 1, 2], [2, 1, 0]]),
            (slice(None), t.tensor([0, 1, 2, 3]) > 1) if x.shape[1] == 4 else t.tensor([2, 0]),
            (..., [0, 2, 1]), (t.tensor([1, 0]), slice(1, None), t.tensor([[0], [2]])),
        )
    ],
)  # fmt: skip
row(
    "strides of tensors of arrays",
    lambda t: [
        [t.tensor(a).stride(), t.tensor(a, dtype=t.float32).stride(), t.as_tensor(a).stride()]
        for a in (numpy.arange(12.0).reshape(3, 4).T, numpy.zeros((6, 2), order="F")[::2])
    ],
)
row("einsum of a diagonal that is none", lambda t: t.einsum("ee,f->f", t.ones(1, 3), t.ones(2)))
row(
    "leaky_relu at infinity",
    lambda t: [
        t.nn.functional.leaky_relu(t.tensor([INF, -INF, NAN, -0.0, 1.0, -1.0]), slope)
        for slope in (0.0, 1e-46, 1e-30, 0.1, 1.0, 2.0, -0.5)
    ],
)
row("ravel", lambda t: [t.ones(4, 6).t().ravel().stride(), t.ones(4)[::2].ravel().stride()])
row(
    "index_fill_",
    lambda t: (lambda x: (x.index_fill_(1, t.tensor([0, 2]), -1.0), x))(t.zeros(2, 3)),
)
for order in (None, 1, 2, 3, 0, INF, -INF, -1, 0.5, "fro", "nuc", -2):
    row(
        f"linalg.norm {order} of a vector",
        slopes(lambda t, x, o=order: t.linalg.norm(x, o), [3.0, -4.0, 1.0], order=1),
    )
    row(
        f"linalg.norm {order} of a matrix",
        slopes(
            lambda t, x, o=order: t.linalg.norm(x, o),
            [[3.0, -4.0], [1.0, 2.0], [0.5, 7.0]],
            order=1,
        ),
    )
    row(
        f"linalg.norm {order} of matrices",
        slopes(
            lambda t, x, o=order: t.linalg.norm(x, o, dim=(0, 2), keepdim=True),
            [[[3.0, -4.0], [1.0, 2.0]], [[0.5, 7.0], [1.0, 5.0]]],
            order=1,
        ),
    )
    if order is not None:
        row(
            f"matrix_norm {order}",
            slopes(
                lambda t, x, o=order: t.linalg.matrix_norm(x, o),
                [[[3.0, -4.0], [1.0, 2.0]], [[0.5, 7.0], [1.0, 5.0]]],
                order=1,
            ),
        )
row(
    "solve, vectors in batches",
    slopes(
        lambda t, a, b: t.linalg.solve(a, b),
        [[[2.0, 1.0], [1.0, 3.0]], [[4.0, 0.5], [0.0, 1.0]]],
        [[1.0, 2.0], [3.0, 4.0]],
        order=1,
    ),
)
row(
    "solve, one vector",
    slopes(lambda t, a, b: t.linalg.solve(a, b), [[2.0, 1.0], [1.0, 3.0]], [1.0, 2.0], order=1),
)
row(
    "solve, matrix",
    slopes(
        lambda t, a, b: t.linalg.solve(a, b),
        [[2.0, 1.0], [1.0, 3.0]],
        [[1.0, 2.0], [4.0, 5]],
        order=1,
    ),
)
row(
    "solve, from the left",
    slopes(
        lambda t, a, b: t.linalg.solve(a, b, left=False),
        [[2.0, 1.0], [1.0, 3.0]],
        [[1.0, 2.0], [4.0, 5]],
        order=1,
    ),
)

for name in [
    "add",
    "sub",
    "mul",
    "div",
    "matmul",
    "maximum",
    "minimum",
    "atan2",
    "remainder",
    "floor_divide",
    "fmod",
    "pow",
    "eq",
    "gt",
    "logical_and",
]:
    row(
        f"{name}(out=)",
        lambda t, n=name: (
            lambda y: (
                getattr(t, n)(
                    t.tensor([[5.0, 2.0]]),
                    t.tensor([[2.0], [3.0]]) if n == "matmul" else t.tensor([[2.0, 3.0]]),
                    out=y,
                ),
                y,
            )
        )(t.empty(0, dtype=t.bool if n in ("eq", "gt", "logical_and") else t.float32)),
    )
for name in [
    "exp",
    "log",
    "sqrt",
    "abs",
    "neg",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "reciprocal",
    "square",
    "floor",
    "ceil",
    "round",
    "sign",
    "rsqrt",
]:
    row(
        f"{name}(out=)",
        lambda t, n=name: (lambda y: (getattr(t, n)(t.tensor([0.5, 0.25]), out=y), y))(t.empty(2)),
    )
for name, f in {
    "sum": lambda t, y: t.sum(t.ones(2, 3), 1, out=y),
    "mean": lambda t, y: t.mean(t.ones(2, 3), 1, out=y),
    "cat": lambda t, y: t.cat([t.ones(2), t.zeros(1)], out=y),
    "stack": lambda t, y: t.stack([t.ones(2), t.zeros(2)], out=y),
    "clamp": lambda t, y: t.clamp(t.tensor([1.0, 5.0]), max=2.0, out=y),
    "where": lambda t, y: t.where(
        t.tensor([True, False]), t.tensor([1.0, 2.0]), t.tensor([3.0, 4.0]), out=y
    ),
    "mm": lambda t, y: t.mm(t.ones(2, 2), t.ones(2, 2), out=y),
    "cumsum": lambda t, y: t.cumsum(t.ones(3), 0, out=y),
    "add alpha": lambda t, y: t.add(t.ones(2), t.ones(2), alpha=3, out=y),
    "index_select": lambda t, y: t.index_select(t.arange(3.0), 0, t.tensor([1]), out=y),
}.items():
    row(f"{name}(out=)", lambda t, f=f: (lambda y: (f(t, y), y))(t.empty(0)))
row(
    "out= of another dtype",
    lambda t: (lambda y: (t.add(t.ones(2), 1, out=y), y))(t.empty(2, dtype=t.float64)),
)
row("out= of integers", lambda t: t.add(t.ones(2), 1, out=t.empty(2, dtype=t.int64)))
row("out= that requires grad", lambda t: t.add(t.ones(2, requires_grad=True), 1, out=t.empty(2)))


# --- slopes at NaN, dimensions of numbers, dtypes that do not fit ---------------------------------

NANS = ([1.0, NAN, 3.0, NAN], [NAN], [INF, NAN], [-INF, NAN, -INF], [[1.0, NAN], [2.0, 3.0]])
for x in NANS:
    for name, f in {
        "max": lambda t, x: t.max(x),
        "min": lambda t, x: t.min(x),
        "median": lambda t, x: t.median(x),
        "amax": lambda t, x: t.amax(x),
        "infinity norm": lambda t, x: t.norm(x, INF),
        "-infinity norm": lambda t, x: t.norm(x, -INF),
        "infinity norm along": lambda t, x: t.norm(x, INF, 0),
        "norm 3": lambda t, x: t.norm(x, 3),
        "norm 0.5": lambda t, x: t.norm(x, 0.5),
        "var of few": lambda t, x: t.var(x, correction=x.numel()),
        "var of few along": lambda t, x: t.var(x, 0, correction=x.shape[0]),
    }.items():
        row(f"{name} of {x}", slopes(f, x, order=1))
row(
    "a NaN in the gradient of an extreme stays at its place",
    slopes(lambda t, x: t.max(x) * NAN + t.min(x) * INF + t.median(x), [1.0, 2.0, 3.0], order=1),
)
for p in (-1, 0.5, 1.5, 3):
    row(
        f"norm {p} with infinities",
        slopes(lambda t, x, p=p: t.norm(x, p), [INF, INF, 2.0, 0.0], order=1),
    )
    row(f"norm {p} of 0 and NaN", slopes(lambda t, x, p=p: t.norm(x, p), [0.0, NAN, 1.0], order=1))
for x in ([NAN], [INF], [0.0], NAN):
    row(f"cumprod of {x} alone", slopes(lambda t, x: t.cumprod(x, 0), x, order=1))
    row(f"product of {x} alone", slopes(lambda t, x: t.prod(x, 0) + t.prod(x), x, order=1))
row(
    "xlogy whose cotangent is 0",
    slopes(lambda t, a, b: t.xlogy(a, b)[:1], [1.0, 2.0], [2.0, -1.0], order=1),
)
row(
    "remainders of signed zeros",
    lambda t: t.copysign(
        t.ones(1),
        t.remainder(
            t.tensor([7.0, -7.0, 0.0, -0.0, 0.0, 5.0]), t.tensor([-1.0, 1.0, -2.0, 2.0, INF, INF])
        ),
    ),
)
row(
    "roots of -0 and -inf",
    lambda t: [t.tensor([-0.0, -INF, 0.0]) ** e for e in (0.5, -0.5, -1, 1.5)],
)
for weight in (0.25, 0.5, 0.75, 1.0):
    row(
        f"lerp by {weight} of infinities",
        lambda t, w=weight: [
            t.lerp(t.tensor([INF, 0.0, INF, 1.0]), t.tensor([0.0, INF, INF, 2.0]), v)
            for v in (w, t.tensor(w))
        ],
    )
for name, f in {
    "softmax": lambda t, x, d: t.softmax(x, d),
    "log_softmax": lambda t, x, d: t.log_softmax(x, d),
    "sort": lambda t, x, d: t.sort(x, d).values,
    "argsort": lambda t, x, d: t.argsort(x, d),
    "median": lambda t, x, d: t.median(x, d).values,
    "topk": lambda t, x, d: t.topk(x, 1, d).values,
    "quantile": lambda t, x, d: t.quantile(x, 0.5, d),
    "gather": lambda t, x, d: t.gather(x, d, t.zeros(x.shape, dtype=t.int64)),
}.items():
    for d in (-2, -1, 0, 1):
        row(f"{name} of a number along {d}", lambda t, f=f, d=d: f(t, t.tensor(2.0), d))
for d in (None, 0, 1):
    row(f"quantile of nothing along {d}", lambda t, d=d: t.quantile(t.zeros(2, 0), 0.5, d))
    row(f"quantile of no rows along {d}", lambda t, d=d: t.quantile(t.zeros(0, 2), 0.5, d))

BOUNDS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "clamp_ min": lambda t, x, b: x.clamp_(min=b),
    "clamp_ max": lambda t, x, b: x.clamp_(max=b),
    "clip_": lambda t, x, b: x.clip_(b),
    "clamp_min_": lambda t, x, b: x.clamp_min_(b),
    "clamp_max_": lambda t, x, b: x.clamp_max_(b),
}
for name, f in BOUNDS.items():
    row(
        f"{name} by a tensor",
        slopes(
            lambda t, x, b, f=f: f(t, x * 1, b),
            [1.0, -2.0, NAN, 5.0],
            [0.0, 0.0, 0.0, 5.0],
            order=1,
        ),
    )
    for kind in ("int64", "int8", "float16", "bfloat16"):
        for bound in (2, 2.5, NAN):
            row(
                f"{name} of {kind} by {bound}",
                lambda t, f=f, k=kind, b=bound: f(
                    t, t.tensor([1, -2, 3]).to(getattr(t, k)), t.tensor(b)
                ).double(),
            )
for kind in (*INTEGERS, "float32"):
    for options in (
        {"min": -1},
        {"max": -1},
        {"min": -1, "max": 1},
        {"min": 300},
        {"max": -300},
        {"min": 1.5},
    ):
        for name in ("clamp", "clamp_"):
            row(
                f"{name} of {kind} by {options}",
                lambda t, k=kind, n=name, o=options: getattr(
                    t.tensor([1, 0, 2]).to(getattr(t, k)), n
                )(**o),
            )
row("clamp_ by nothing", lambda t: t.ones(2).clamp_())
for name in ("cumprod_", "cumsum_", "tril_", "nan_to_num_"):
    arguments = {"cumprod_": (0,), "cumsum_": (0,)}.get(name, ())
    row(
        f"{name} where its rule needs what was there",
        slopes(
            lambda t, x, n=name, a=arguments: getattr(x * 2, n)(*a),
            [[2.0, 3.0], [4.0, 5.0]],
            order=1,
        ),
    )

for kind in ("int8", "uint8", "int32"):
    for value in (INF, NAN, 300.0, 2.5, 1 + 1j):
        for name, f in {
            "mask": lambda t, x, v: x.__setitem__(x > 1, v),
            "masked_fill_": lambda t, x, v: x.masked_fill_(x > 1, v),
            "index_fill_": lambda t, x, v: x.index_fill_(0, t.tensor([0]), v),
            "fill_": lambda t, x, v: x.fill_(v),
            "item": lambda t, x, v: x.__setitem__(0, v),
        }.items():
            if kind == "int8" or value != 300.0:  # which PyTorch's conversions wrap alike
                row(
                    f"{kind} := tensor of {value}, {name}",
                    lambda t, f=f, k=kind, v=value: (lambda x: (f(t, x, t.tensor(v)), x)[1])(
                        t.tensor([1, 2, 3], dtype=getattr(t, k))
                    ),
                )

MIXED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "index_put_": lambda t, x, y: x.index_put_((t.tensor([0]),), y),
    "added by index_put_": lambda t, x, y: x.index_put_((t.tensor([0]),), y, accumulate=True),
    "x[[0]] =": lambda t, x, y: (x.__setitem__([0], y), x)[1],
    "x[mask] =": lambda t, x, y: (x.__setitem__(x == x, t.cat([y, y])), x)[1],
    "index_copy_": lambda t, x, y: x.index_copy_(0, t.tensor([0]), y),
    "index_add_": lambda t, x, y: x.index_add_(0, t.tensor([0]), y),
    "scatter_": lambda t, x, y: x.scatter_(0, t.tensor([0]), y),
    "scatter_add_": lambda t, x, y: x.scatter_add_(0, t.tensor([0]), y),
    "scatter": lambda t, x, y: t.scatter(x, 0, t.tensor([0]), y),
    "linear": lambda t, x, y: F(t).linear(x, t.cat([y, y]).reshape(1, 2)),
    "linear, bias": lambda t, x, y: F(t).linear(x, x.reshape(1, 2), y),
    "masked_fill": lambda t, x, y: x.masked_fill(x == x, y[0]),
    "mse_loss": lambda t, x, y: F(t).mse_loss(x, t.cat([y, y]), reduction="sum"),
    "soft_margin_loss": lambda t, x, y: F(t).soft_margin_loss(x.double(), t.cat([y, y])),
    "multilabel_soft_margin_loss": lambda t, x, y: F(t).multilabel_soft_margin_loss(
        x.double(), t.cat([y, y])
    ),
}
for one in ("float16", "bfloat16", "float32", "float64", "int64"):
    for other in ("float16", "bfloat16", "float32", "float64", "int64", "bool"):
        for name, f in MIXED.items():

            def mix(t: Any, f: Any = f, one: str = one, other: str = other) -> Any:
                x = t.tensor([1, 0]).to(getattr(t, one))
                y = f(t, x, t.tensor([1]).to(getattr(t, other)))
                return str(y.dtype).removeprefix("torch."), y.double()

            row(f"{name}, {one} and {other}", mix)
for kind in ("float16", "bfloat16", "float32", "float64"):
    for options in ({}, {"nan": 2.0}, {"posinf": 1.0}, {"neginf": -3.0}):
        row(
            f"nan_to_num {kind} {options}",
            lambda t, k=kind, o=options: t.nan_to_num(
                t.tensor([NAN, INF, -INF, 1.0], dtype=getattr(t, k)), **o
            ).double(),
        )
    for name, f in {
        "add_": lambda x, y: x.add_(y),
        "pow_": lambda x, y: x.pow_(y),
        "addcmul_": lambda x, y: x.addcmul_(y, y),
        "lerp_": lambda x, y: x.lerp_(y, 0.5),
        "lerp_ by tensors": lambda x, y: x.lerp_(x.clone(), y),
        "clamp_": lambda x, y: x.clamp_(min=y),
        "copysign_": lambda x, y: x.copysign_(y),
    }.items():
        for shapes in ((), (1,)), ((1,), (1, 1)), ((3,), (1, 3)), ((2, 3), (3,)):
            row(
                f"{name} of shapes {shapes}, {kind}",
                lambda t, f=f, k=kind, s=shapes: f(
                    t.full(s[0], 2.0, dtype=getattr(t, k)), t.full(s[1], 3.0, dtype=getattr(t, k))
                ).double(),
            )


def searched(t: Any, start: float) -> Any:
    """L-BFGS with a line search from where the loss is NaN: the point and the evaluations."""
    x = t.tensor([start], dtype=t.float64, requires_grad=True)
    optimizer = t.optim.LBFGS([x], line_search_fn="strong_wolfe")
    evaluations = []

    def closure() -> Any:
        optimizer.zero_grad()
        loss = t.log(x - 1).sum()
        loss.backward()
        evaluations.append(1)
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return x, len(evaluations)


for start in (0.0, 0.5):
    row(f"a line search from NaN at {start}", lambda t, s=start: searched(t, s))

# --- modes, hooks, views of custom Functions, writes within transforms ----------------------------


def state(t: Any) -> str:
    return f"{t.is_grad_enabled()} {t.is_inference_mode_enabled()}"


for outer in ("no_grad", "enable_grad", "inference_mode"):
    for value in (True, False):

        def states(t: Any, outer: str = outer, value: bool = value) -> Any:
            log = []

            @t.inference_mode(value)
            def steps() -> Any:
                for _ in range(2):
                    log.append(state(t))
                    yield (t.ones(1, requires_grad=not value) * 2).requires_grad

            with getattr(t, outer)():
                for required in steps():
                    log.extend((str(required), state(t)))
                with t.inference_mode(mode=value):
                    log.append(state(t))
            return [*log, state(t)]

        row(f"inference_mode({value}) within {outer}", states)

for kind in ("float16", "float64", "int64", "float32"):
    for where in ("register_hook", "register_prehook"):

        def hooked(t: Any, kind: str = kind, where: str = where) -> Any:
            x = t.ones(2, requires_grad=True)
            y = x * 2
            change = lambda g: g.to(getattr(t, kind))
            if where == "register_hook":
                y.grad_fn.register_hook(
                    lambda inputs, outputs: tuple(map(change, inputs[:1])) + inputs[1:]
                )
            else:
                y.grad_fn.register_prehook(lambda outputs: tuple(map(change, outputs)))
            y.sum().backward()
            return x.grad

        row(f"a node's {where} returns {kind}", hooked)
for name, f in {
    "one too few": lambda g: g[:0],
    "a tensor": lambda g: g[0],
    "another shape": lambda g: (g[0][:1], *g[1:]),
    "more": lambda g: (*g, g[0]),
}.items():

    def hooked_badly(t: Any, f: Any = f) -> Any:
        x = t.ones(2, requires_grad=True)
        y = x * 2
        y.grad_fn.register_hook(lambda inputs, outputs: f(inputs))
        y.sum().backward()
        return x.grad

    row(f"a node's hook returns {name}", hooked_badly)

VIEWS: dict[str, Callable[[Any], Any]] = {
    "view": lambda x: x.view(-1),
    "itself": lambda x: x,
    "transpose": lambda x: x.t(),
    "copy": lambda x: x.clone(),
}
WRITES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "it": lambda t, x, y: y.mul_(2),
    "a part of it": lambda t, x, y: (y[0].mul_(2), y * 1)[1],
    "a view of it": lambda t, x, y: (y.reshape(-1).add_(1), y * 1)[1],
    "its base": lambda t, x, y: (x.mul_(2), y * 1)[1],
    "its base, used alone": lambda t, x, y: x.mul_(2),
    "nothing": lambda t, x, y: y * 2,
    "nothing, detached": lambda t, x, y: y.detach_(),
    "it, unrecorded": lambda t, x, y: (t.no_grad()(y.mul_)(2), y * 1)[1],
}
for view, show in VIEWS.items():
    for name, f in WRITES.items():

        def written(t: Any, show: Any = show, f: Any = f) -> Any:
            class Triple(t.autograd.Function):  # type: ignore[misc, name-defined]
                @staticmethod
                def forward(ctx: Any, x: Any) -> Any:
                    return show(x)

                @staticmethod
                def backward(ctx: Any, g: Any) -> Any:
                    return g.reshape(2, 3) * 3

            leaf = t.arange(6.0).reshape(2, 3).requires_grad_()
            x = leaf * 1
            y = Triple.apply(x)
            views = str(y._is_view())
            f(t, x, y).sum().backward()
            return [views, x, y, leaf.grad]

        row(f"a custom Function's {view}: written is {name}", written)

by_sample = lambda t, f: t.func.vmap(f)
TRANSFORMS: dict[str, Callable[[Any, Any], Any]] = {
    "grad": lambda t, f: t.func.grad(lambda x: f(x).sum()),
    "vjp": lambda t, f: lambda x: t.func.vjp(f, x)[0],
    "jvp": lambda t, f: lambda x: t.func.jvp(f, (x,), (x,)),
    "jacrev": lambda t, f: t.func.jacrev(f),
    "jacfwd": lambda t, f: t.func.jacfwd(f),
    "hessian": lambda t, f: t.func.hessian(lambda x: f(x).sum()),
    "vmap": by_sample,
}
for name, transform in TRANSFORMS.items():
    for what in ("x", "nothing"):

        def captured(t: Any, transform: Any = transform, what: str = what) -> Any:
            sums = t.zeros(3)

            def f(x: Any) -> Any:
                if what == "x":
                    sums.add_(x)
                return sums + x * x

            return transform(t, f)(t.ones(3, 3) if transform is by_sample else t.ones(3))

        row(f"{name} of a function that writes {what} to what it captures", captured)
for name in ("jacfwd", "jacrev"):
    row(
        f"{name} of nothing",
        lambda t, n=name: getattr(t.func, n)(lambda x: x.sum() * t.ones(2))(t.zeros(0)),
    )

DICTIONARIES: dict[str, Callable[[Any, Any], Any]] = {
    "as it is": lambda t, d: 0,
    "a number": lambda t, d: d.__setitem__("b", 4),
    "a tensor for a number": lambda t, d: d.__setitem__("b", t.ones(1)),
    "a number for a parameter": lambda t, d: d.__setitem__("a", 4),
    "None for a parameter": lambda t, d: d.__setitem__("a", None),
    "a key that is no name": lambda t, d: d.__setitem__("a.b", t.ones(1)),
    "a key that is no text": lambda t, d: d.__setitem__(1, t.ones(1)),
    "pop": lambda t, d: d.pop("b"),
    "popitem": lambda t, d: d.popitem()[0],
    "get": lambda t, d: str([d.get("b"), d.get("z"), d.get("z", 5)]),
    "setdefault": lambda t, d: [d.setdefault("b", 9), d.setdefault("z", t.ones(1))],
    "clear": lambda t, d: d.clear(),
    "copy": lambda t, d: repr(d.copy()),
    "reversed": lambda t, d: str(list(reversed(d))),
    "another inside": lambda t, d: d.__setitem__("m", t.nn.ParameterDict({"k": t.ones(1)})),
    "a module": lambda t, d: d.__setitem__("m", t.nn.ReLU()),
    "attributes": lambda t, d: [d.a, d.b],
}
for name, f in DICTIONARIES.items():

    def dictionary(t: Any, f: Any = f) -> Any:
        d = t.nn.ParameterDict({"a": t.ones(2), "b": 3, "c": None})
        result = f(t, d)
        return [str(result).replace("nano", ""), repr(d), str(list(d)), list(d.state_dict())]

    row(f"ParameterDict: {name}", dictionary)

# --- dtypes that are asked for, weights, slopes beside NaN ----------------------------------------

for kind in ("bool", "uint8", "int32", "int64", "float32"):
    for other in ("bool", "int8", "uint8", "int64", "float16", "float64"):
        for name in ("sum", "prod", "nanmean", "nansum", "cumsum", "cumprod"):
            if not (other == "bool" and name.startswith("cum")):  # PyTorch has no such kernel
                row(
                    f"{name} of {kind} as {other}",
                    lambda t, k=kind, o=other, n=name: getattr(
                        t.tensor([100, 100, 3]).to(getattr(t, k)), n
                    )(*((0,) if n.startswith("cum") else ()), dtype=getattr(t, o)),
                )
for reduction in ("none", "sum", "mean"):
    for name in ("mse_loss", "l1_loss", "huber_loss"):
        row(
            f"{name} with weights, {reduction}",
            slopes(
                lambda t, a, b, n=name, r=reduction: getattr(F(t), n)(
                    a, b, reduction=r, weight=t.tensor([0.0, 1, 2, 3], dtype=a.dtype)
                ),
                [1.0, 2, 5, 0],
                [1.0, 2.5, 2, 0],
            ),
        )
row("weights of another shape", lambda t: F(t).mse_loss(t.ones(2), t.ones(2), weight=t.ones(1)))
for one in ("bool", "int64", "float16", "float32", "float64", "complex64"):
    for other in ("bool", "int64", "bfloat16", "float32", "float64", "complex64"):
        for name in ("mse_loss", "huber_loss", "smooth_l1_loss"):
            row(
                f"{name} of {one} and {other}",
                lambda t, n=name, o=one, k=other: (
                    lambda y: [str(y.dtype).removeprefix("torch."), y.double()]
                )(
                    getattr(F(t), n)(
                        t.tensor([0, 1, 3]).to(getattr(t, o)), t.tensor([0, 1, 5]).to(getattr(t, k))
                    )
                ),
            )
for name, f in {
    "int32 targets": lambda t: F(t).nll_loss(t.ones(2, 3), t.zeros(2, dtype=t.int32)),
    "uint8 targets": lambda t: F(t).nll_loss(t.ones(2, 3), t.zeros(2, dtype=t.uint8)),
    "int8 targets": lambda t: F(t).cross_entropy(t.ones(2, 3), t.zeros(2, dtype=t.int8)),
    "two weights for three classes": lambda t: F(t).nll_loss(
        t.ones(2, 3), t.zeros(2, dtype=t.int64), t.ones(2)
    ),
    "a number": lambda t: F(t).nll_loss(t.tensor(1.0), t.tensor(0)),
}.items():
    row(f"nll of {name}", f)
for x in ([NAN, 0.0, 2.0], [INF, 0.0, 2.0], [NAN, 0.0, 0.0], [2.0, NAN, 3.0], [INF, 1.0, 0.5]):
    row(f"product of {x}, NaN times 0", slopes(lambda t, x: t.prod(x, 0), x, order=1))
for number in (True, False, 2, 0.5):
    row(
        f"log-products with {number}",
        slopes(lambda t, x, n=number: t.special.xlog1py(x, n) + t.xlogy(x, n), [0.0, 1.0, -2.0]),
    )
for base in (INF, 0.0, -1.0, NAN, 0.5):
    row(
        f"{base} to some power",
        slopes(lambda t, x, b=base: b**x, [0.0, 1, 2, -1, NAN, INF], order=1),
    )
row("beta is NaN", lambda t: F(t).smooth_l1_loss(t.ones(2), t.zeros(2), beta=NAN))

# --- numbers beside halves, and what is written ---------------------------------------------------

HALF_POINTS = [0.1, 0.3, 1 / 3, 1e-9, 65504.0, 2.0]
BESIDE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda x, v: x == v,
    "<": lambda x, v: x < v,
    ">=": lambda x, v: x >= v,
    "+": lambda x, v: x + v,
    "- from": lambda x, v: v - x,
    "*": lambda x, v: x * v,
    "/": lambda x, v: x / v,
    "/ of": lambda x, v: v / x,
    "//": lambda x, v: x // v,
    "// of": lambda x, v: v // x,
    "%": lambda x, v: x % v,
    "fmod": lambda x, v: x.fmod(v),
    "where": lambda x, v: x.where(x > 5, v),
}
for kind in ("float16", "bfloat16"):
    for v in (0.1, 1 / 3, 70_000.0, 1e-9):
        for name, f in BESIDE.items():
            for dim in ("number", "0-dim"):
                if not (dim == "0-dim" and name.startswith("/")):  # a reciprocal, in float64

                    def beside(
                        t: Any, f: Any = f, v: Any = v, kind: str = kind, dim: str = dim
                    ) -> Any:
                        x = t.tensor(HALF_POINTS).to(getattr(t, kind))
                        y = f(x, v if dim == "number" else t.tensor(v, dtype=t.float64))
                        return y if y.dtype is t.bool else y.float()

                    row(f"{kind} {name} the {dim} {v}", beside)
STORES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "fill_": lambda t, x, v: x.fill_(v),
    "masked_fill": lambda t, x, v: x.masked_fill(x > 0, v),
    "masked_fill_": lambda t, x, v: x.masked_fill_(x > 0, v),
    "x[0] =": lambda t, x, v: (x.__setitem__(0, v), x)[1],
    "x[:1] =": lambda t, x, v: (x.__setitem__(slice(0, 1), v), x)[1],
    "x[mask] =": lambda t, x, v: (x.__setitem__(x > 0, v), x)[1],
    "index_fill": lambda t, x, v: x.index_fill(0, t.tensor([0]), v),
    "scatter": lambda t, x, v: x.scatter(0, t.tensor([0]), v),
    "full_like": lambda t, x, v: t.full_like(x, v),
    "new_full": lambda t, x, v: x.new_full((2,), v),
    "clamp": lambda t, x, v: x.clamp(max=v),
    "where": lambda t, x, v: t.where(x > 0, x, v),
    "pad": lambda t, x, v: F(t).pad(x, (1, 1), value=v),
    "threshold": lambda t, x, v: F(t).threshold(x, 0.0, v),
    "tensor": lambda t, x, v: t.tensor([v], dtype=x.dtype),
}
for kind in ("float16", "bfloat16", "float32", "int8", "uint8", "int64", "bool"):
    for v in (70_000.0, -1e9, 1e39, 65_519.0, INF, NAN, 300, 2.7):
        for name, f in STORES.items():
            if not (name in ("x[mask] =",) and v == 1e39):  # infinite in PyTorch
                row(
                    f"{name} {v} in {kind}",
                    lambda t, f=f, k=kind, v=v: (
                        lambda y: [str(y.dtype).removeprefix("torch."), y.double()]
                    )(f(t, t.tensor([1, 0]).to(getattr(t, k)), v)),
                )
for name, f in {
    "nanmedian": lambda t, x: x.nanmedian(),
    "rms_norm": lambda t, x: F(t).rms_norm(x, (70_000,)).sum(),
}.items():
    for kind in ("float16", "bfloat16"):

        def long(t: Any, f: Any = f, kind: str = kind) -> Any:
            x = t.zeros(70_000, dtype=getattr(t, kind), requires_grad=True)
            y = f(t, x)
            y.backward()
            return y.float(), t.round(x.grad[:3].float(), decimals=5)

        row(f"{name} of 70,000 numbers of {kind}", long)
row("nanmedian and NaN", slopes(lambda t, x: x.nanmedian(), [NAN, 2.0, 1.0, NAN, 1.0, 3.0]))
row("nanmedian of NaN", slopes(lambda t, x: x.nanmedian(), [NAN, NAN], order=1))
row("nanmean of 70,000 numbers of float16, 0.5", lambda t: (t.ones(70_000).half() / 2).nanmean())
row(
    "glu of halves",
    lambda t: F(t).glu(t.tensor([INF, 1000.0, -20.5, 1e-3], dtype=t.float16)),
)
for weight in (INF, -0.5, 0.0, NAN):
    row(
        f"prelu by {weight}",
        slopes(
            lambda t, x, w=weight: F(t).prelu(x, t.tensor([w], dtype=x.dtype)),
            [1.0, -1.0, 3.0, INF, 0.0],
        ),
    )
for alpha in (-2.0, 0.5, 0.0):
    row(f"celu {alpha}", slopes(lambda t, x, a=alpha: F(t).celu(x, a), [1.0, -1.0, 3.0], order=1))
for margin in (0.0, -1.0, 0.5):
    row(
        f"triplet margin {margin}",
        lambda t, m=margin: [
            F(t).triplet_margin_loss(t.ones(1, 2), t.ones(1, 2), t.zeros(1, 2), margin=m),
            t.nn.TripletMarginLoss(margin=m)(t.ones(1, 2), t.ones(1, 2), t.zeros(1, 2)),
        ],
    )

# --- matrices with NaN, infinities and zeros, and none --------------------------------------------

REGULAR = [[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]]
WITH_NAN = [[4.0, NAN, 0.0], [NAN, 3.0, 1.0], [0.0, 1.0, 2.0]]
NAN_LAST = [[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, NAN]]
WITH_INF = [[INF, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]]
NOT_REGULAR = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]]
MATRICES: dict[str, Any] = {
    "regular": REGULAR,
    "with NaN": WITH_NAN,
    "with NaN at the end": NAN_LAST,
    "with inf": WITH_INF,
    "singular": NOT_REGULAR,
    "of zeros": [[0.0] * 3] * 3,
    "of a batch, one NaN": [REGULAR, WITH_NAN, REGULAR],
    "of a batch, one singular": [REGULAR, NOT_REGULAR],
    "of a batch, one inf": [WITH_INF, REGULAR],
    "of no rows": [],
    "of a batch of none": [[], []],
}
LINEAR: dict[str, Callable[[Any, Any], Any]] = {
    "det": lambda t, x: t.linalg.det(x),
    "slogdet": lambda t, x: tuple(t.linalg.slogdet(x)),
    "logdet": lambda t, x: t.logdet(x),
    "inv": lambda t, x: t.linalg.inv(x),
    "cholesky": lambda t, x: t.linalg.cholesky(x),
    "upper cholesky": lambda t, x: t.linalg.cholesky(x, upper=True),
    "cholesky_ex": lambda t, x: t.linalg.cholesky_ex(x)[1],
    "cholesky_inverse": lambda t, x: t.cholesky_inverse(x) if (x == x).all() else 0,
    "solve": lambda t, x: t.linalg.solve(x, t.ones(x.shape[-1], 2, dtype=x.dtype)),
    "solve_triangular": lambda t, x: t.linalg.solve_triangular(
        x, t.ones(x.shape[-1], 2, dtype=x.dtype), upper=True
    ),
    "matrix_exp": lambda t, x: t.matrix_exp(x),
    "matrix_power": lambda t, x: t.linalg.matrix_power(x, 3),
    "cond 1": lambda t, x: t.linalg.cond(x, 1),
    **{
        f"matrix_norm {o}": lambda t, x, o=o: t.linalg.matrix_norm(x, o)  # type: ignore[misc]
        for o in ("fro", 1, -1, INF, -INF)
    },
}
BY_SINGULAR_VALUES: dict[str, Callable[[Any, Any], Any]] = {
    "svdvals": lambda t, x: t.linalg.svdvals(x),
    "eigvalsh": lambda t, x: t.linalg.eigvalsh(x),
    "eigh": lambda t, x: t.linalg.eigh(x)[0],
    "pinv": lambda t, x: t.linalg.pinv(x),
    "matrix_rank": lambda t, x: t.linalg.matrix_rank(x),
    "cond": lambda t, x: 1 / t.linalg.cond(x) if (x != 0).any() else 0,  # of singular ones: large
    "lstsq": lambda t, x: t.linalg.lstsq(x, t.ones(*x.shape[:-1], 1, dtype=x.dtype))[0],
    **{
        f"matrix_norm {o}": lambda t, x, o=o: t.linalg.matrix_norm(x, o)  # type: ignore[misc]
        for o in ("nuc", 2, -2)
    },
}
for matrix, rows in MATRICES.items():
    for name, f in {**LINEAR, **BY_SINGULAR_VALUES}.items():
        if name in LINEAR or "inf" not in matrix:  # LAPACK may never end

            def decomposed(t: Any, f: Any = f, rows: Any = rows) -> Any:
                shape = numpy.shape(rows) if numpy.size(rows) else (*numpy.shape(rows)[:-1], 0, 0)
                x = t.tensor(rows, dtype=t.float64).reshape(tuple(map(int, shape)))
                y = f(t, x)
                rounded = lambda v: t.round(v, decimals=9) if v.is_floating_point() else v
                return [
                    rounded(v) if hasattr(v, "shape") else v
                    for v in (y if isinstance(y, tuple) else (y,))
                ]

            row(f"{name} of matrices {matrix}", decomposed)
for name, f in {
    "eigh": lambda t, x: t.linalg.eigh(x)[0],
    "svd": lambda t, x: t.linalg.svd(x)[1],
    "eigvalsh": lambda t, x: t.linalg.eigvalsh(x),
}.items():
    row(f"slopes of the values of {name}, all alike", slopes(f, [[2.0, 0.0], [0.0, 2.0]], order=1))

for shape in ((2, 3, 4), (2, 3, 4, 5)):
    for p in (0.0, 1.0):
        row(
            f"dropout2d of shape {shape}, {p}", lambda t, s=shape, p=p: F(t).dropout2d(t.ones(s), p)
        )

for target in (0.0, 2.0, -1.0, 1.0):
    row(
        f"cosine embedding with the target {target}",
        slopes(
            lambda t, a, b, y=target: F(t).cosine_embedding_loss(
                a, b, t.tensor([y], dtype=a.dtype), margin=0.1
            ),
            [[1.0, 2.0]],
            [[3.0, 1.0]],
            order=1,
        ),
    )

for exponent in ([0.5], [-0.5], [2.0], 0.5):
    row(
        f"{exponent} as the exponent of corners",
        lambda t, e=exponent: t.tensor([-INF, -0.0, 0.0, 4.0, -1.0, NAN]) ** t.tensor(e),
    )

# Rows in which PyTorch is not followed, and why.
DIFFERENT = {
    **dict.fromkeys(
        ["relu6 at the far ends", "hardtanh at the far ends", "hardshrink at the far ends",
         "softshrink at the far ends"],
        "PyTorch's slope at NaN is 0 or 1 by the place in the array; here 1",
    ),
    **dict.fromkeys(
        ["hardsigmoid at the far ends", "hardsigmoid at kinks",
         "hardsigmoid at the far ends, float32", "floor_divide of corners"],
        "PyTorch has no such derivative",
    ),
    **dict.fromkeys(
        ["mish at the far ends", "mish at the far ends, float32", "gelu at the far ends, float32",
         "softplus at the far ends, float32", "logsigmoid at the far ends, float32",
         "gelu tanh at kinks", "binary_cross_entropy_with_logits none", "logit with eps"],
        "PyTorch loses the value far out",
    ),
    **dict.fromkeys(
        ["det, singular", "det, rank one of three", "det, rank two of three",
         "det, one of a batch", "cosine similarity, far out", "nll of 70,000 numbers of float16",
         "nll of 70,000 numbers of bfloat16"],
        "PyTorch's is wrong; the values are below",
    ),
    **dict.fromkeys(
        ["bce at the ends", "cosine embedding at its kink"],
        "PyTorch's small constants are of float32",
    ),
    **dict.fromkeys(
        ["hessian of the product of []", "hessian of the running product of []",
         "jacfwd of nothing"],
        "PyTorch fails on nothing",
    ),
    **dict.fromkeys(
        [*(f"multilabel_soft_margin_loss, {kind} and bool" for kind in
           ("float16", "bfloat16", "float32", "float64", "int64"))],
        "PyTorch has no such kernel",
    ),
    "xlogy with nan on the right": "PyTorch's slope with a NaN as number is another than as tensor",
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in ROWS if name not in DIFFERENT])
def test_a_corner_is_pytorchs(name: str) -> None:
    import torch

    expected, got = outcome(ROWS[name], torch), outcome(ROWS[name], nanotorch)
    if isinstance(expected, Exception) or isinstance(got, Exception):
        assert isinstance(expected, Exception) and isinstance(got, Exception), (expected, got)
        return
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        if isinstance(a, str):
            assert a == b
            continue
        assert numpy.shape(a) == numpy.shape(b)
        assert getattr(a, "dtype", 0) == getattr(b, "dtype", 0)
        relative, absolute = {"f": (1e-5, 1e-37), "e": (1e-3, 1e-15)}.get(
            getattr(getattr(a, "dtype", None), "char", ""), (1e-8, 1e-15)
        )
        numpy.testing.assert_allclose(b, a, relative, absolute)


def test_every_difference_is_of_a_row() -> None:
    assert DIFFERENT.keys() - ROWS.keys() == set()


# --- where PyTorch is wrong, or has no value ------------------------------------------------------

nt = nanotorch


@pytest.mark.parametrize(
    ("matrix", "cofactors"),
    [
        ([[1.0, 2.0], [2.0, 4.0]], [[4.0, -2.0], [-2.0, 1.0]]),
        ([[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [-1.0, 0.0]]),
        ([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], [[-3.0, 6, -3], [6, -12, 6], [-3, 6, -3]]),
        ([[1.0, 2, 3], [2, 4, 6], [3, 6, 9]], [[0.0] * 3] * 3),
    ],
)
def test_the_slope_of_a_determinant_is_the_cofactors(matrix: Any, cofactors: Any) -> None:
    regular = numpy.eye(len(matrix)) * 2
    x = nt.tensor([matrix, regular.tolist()], dtype=nt.float64, requires_grad=True)
    nt.linalg.det(x).sum().backward()
    numpy.testing.assert_allclose(x.grad[0].numpy(), cofactors, 1e-12, 1e-12)
    numpy.testing.assert_allclose(x.grad[1].numpy(), regular * 2 ** len(matrix) / 4, 1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    ("logit", "target", "loss", "slope"),
    [(INF, 1.0, 0.0, 0.0), (INF, 0.0, INF, 1.0), (-INF, 0.0, 0.0, 0.0), (-INF, 1.0, INF, -1.0)],
)
def test_an_infinite_logit_is_right_or_infinitely_wrong(
    logit: float, target: float, loss: float, slope: float, reduction: str, weighted: bool
) -> None:
    x, t = nt.tensor([logit], requires_grad=True), nt.tensor([target])
    weight = nt.tensor([1.0]) if weighted else None
    y = F(nt).binary_cross_entropy_with_logits(x, t, reduction=reduction, pos_weight=weight)
    assert y.sum().item() == loss
    y.sum().backward()
    assert x.grad.tolist() == [slope]


def test_logsigmoid_is_curved_alike_on_both_sides() -> None:
    x = nt.tensor([-30.0, 30.0, -20.0, 20.0], requires_grad=True)
    (slope,) = nt.autograd.grad(F(nt).logsigmoid(x).sum(), x, create_graph=True)
    (curvature,) = nt.autograd.grad(slope.sum(), x)
    expected = -numpy.exp([-30.0, -30.0, -20.0, -20.0])
    numpy.testing.assert_allclose(curvature.numpy(), expected, 1e-6)


def test_the_cosine_of_large_vectors_is_that_of_small_ones() -> None:
    a, b = nt.tensor([[1e20, 1e20]], requires_grad=True), nt.tensor([[1e20, 0.0]])
    y = F(nt).cosine_similarity(a, b)
    y.sum().backward()
    assert y.item() == pytest.approx(0.5**0.5)
    numpy.testing.assert_allclose(a.grad.numpy(), [[0.5**1.5 * 1e-20, -(0.5**1.5) * 1e-20]], 1e-5)


@pytest.mark.parametrize("name", ["nll", "cross entropy"])
def test_a_mean_over_more_samples_than_float16_counts(name: str) -> None:
    x = nt.zeros(70_000, dtype=nt.float16, requires_grad=True)
    HALF_REDUCTIONS[name](nt, x).backward()
    assert x.grad[0].item() == pytest.approx(-1 / 70_000 if name == "nll" else 0.0, rel=2e-2)


@pytest.mark.parametrize("f", ["prod", "cumprod"])
def test_products_with_zeros_have_derivatives_of_every_order(f: str) -> None:
    x = nt.tensor([2.0, 0.0, 3.0, 0.0], dtype=nt.float64, requires_grad=True)
    y = x.prod() if f == "prod" else x.cumprod(0)
    for index in (1, 3, 0, 2):  # d4 (x0 x1 x2 x3) / dx1 dx3 dx0 dx2 = 1
        (slope,) = nt.autograd.grad(y.sum(), x, create_graph=True)
        y = slope[index]
    assert y.item() == 1.0


@pytest.mark.parametrize("x", [0.0, 1e-160, 1e-8, -1e-3, 0.3])
@pytest.mark.parametrize(
    ("order", "at_zero"), [(1, 0.0), (2, -(math.pi**2) / 3), (3, 0.0), (4, math.pi**4 / 5)]
)
def test_sinc_has_derivatives_of_every_order_beside_zero(
    x: float, order: int, at_zero: float
) -> None:
    point = nt.tensor(x, dtype=nt.float64, requires_grad=True)
    y = nt.sinc(point)
    for _ in range(order):
        (y,) = nt.autograd.grad(y, point, create_graph=True)
    # The derivative of that order of the integral of cos(pi x s) over s from 0 to 1.
    s = (numpy.arange(20_000) + 0.5) / 20_000
    expected = numpy.mean((math.pi * s) ** order * numpy.cos(math.pi * x * s + order * math.pi / 2))
    assert y.item() == pytest.approx(expected, rel=1e-7, abs=1e-7)
    if abs(x) < 1e-6:
        assert y.item() == pytest.approx(at_zero, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("join", [nt.cat, nt.stack])
def test_tensors_of_any_two_dtypes_can_be_joined(join: Callable[..., nt.Tensor]) -> None:
    kinds = [nt.bool, nt.uint8, nt.int64, nt.float16, nt.bfloat16, nt.float32, nt.float64]
    for first, second in itertools.product(kinds, kinds):
        y = join([nt.ones(2, dtype=first), nt.ones(2, dtype=second)])
        assert y.dtype == nt.promote_types(first, second)


@pytest.mark.parametrize("join", [nt.cat, nt.stack])
@pytest.mark.parametrize("odd", [None, 2, 2.0, "a"])
def test_what_is_no_tensor_is_named_beside_tensors(join: Any, odd: Any) -> None:
    for kind in (nt.float32, nt.float64, nt.int64):
        with pytest.raises(TypeError, match="expected Tensor as element 1, but got"):
            join([nt.ones(2, dtype=kind), odd])


def test_erf_of_float32_is_right_to_two_units_in_the_last_place() -> None:
    generator = numpy.random.default_rng(0)
    sizes = 10.0 ** generator.integers(-45, 39, 20_000)
    x = numpy.concatenate([numpy.linspace(-6, 6, 60_001), sizes, -sizes]).astype("f")
    exact = numpy.array([math.erf(value) for value in x.tolist()])
    unit = numpy.spacing(numpy.abs(exact).astype("f")).astype("d")
    assert (numpy.abs(nt.erf(nt.from_numpy(x)).numpy() - exact) <= 2 * unit).all()


def test_erf_keeps_signs_of_zero_and_what_is_no_number() -> None:
    x = [0.0, -0.0, math.inf, -math.inf, math.nan]
    for kind in (nt.float32, nt.float64):
        y = nt.erf(nt.tensor(x, dtype=kind)).tolist()
        assert [str(value) for value in y] == ["0.0", "-0.0", "1.0", "-1.0", "nan"]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_the_cosine_of_long_halves_does_not_overflow(kind: str) -> None:
    x = nt.ones(70_000, dtype=getattr(nt, kind))
    assert F(nt).cosine_similarity(x, x, dim=0).item() == 1.0


@pytest.mark.parametrize("name", ["logdet", "slogdet"])
def test_the_slope_of_a_logarithm_of_a_determinant_of_0_is_nan_in_its_matrix_alone(
    name: str,
) -> None:
    x = nt.tensor([SINGULAR, [[2.0, 0.0], [0.0, 4.0]]], requires_grad=True)
    y = nt.logdet(x) if name == "logdet" else nt.linalg.slogdet(x).logabsdet
    assert y.tolist()[0] == -INF
    y.sum().backward()
    assert x.grad[0].isnan().all()
    assert x.grad[1].tolist() == [[0.5, 0.0], [0.0, 0.25]]


def test_a_message_names_operands_without_names_by_their_shapes() -> None:
    with pytest.raises(RuntimeError, match=r"cat: inputs \(2,\) and \(2, 3\): "):
        nt.cat([nt.ones(2), nt.ones(2, 3)])


@pytest.mark.parametrize("choose", [lambda c: nt.where(c, 1, 2), lambda c: c.masked_fill(c, 0)])
def test_what_chooses_is_boolean_or_told(choose: Callable[[Any], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"expected a boolean \w+, got torch\.float32"):
        choose(nt.ones(2))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (40, 0, 2), (300, 401)])
def test_a_sum_of_booleans_counts_them_in_whatever_order_they_lie(
    shape: tuple[int, ...],
) -> None:
    """Eagerly and compiled, where the sum is written into memory of the plan."""
    numbers = numpy.random.default_rng(0).random(shape)
    flags = nt.from_numpy(numpy.asarray(numbers)) > 0.3

    def sums() -> list[Any]:
        seen = flags.T if flags.ndim == 2 else flags
        parts = (flags, seen, seen[::2] if flags.ndim else seen)
        return [x.sum() for x in parts] + [flags.sum() / 4, flags.logical_not().sum()]

    compiled, seen = nt.compile(sums), numbers.T if numbers.ndim == 2 else numbers
    part = seen[::2] if numbers.ndim else seen
    expected = int((numbers > 0.3).sum())
    for results in (sums(), *(compiled() for _ in range(4))):
        assert [y.shape for y in results] == [()] * 5
        assert [y.dtype for y in results[:3]] == [nt.int64] * 3
        assert results[0].item() == results[1].item() == expected
        assert results[3].item() == expected / 4
        assert results[4].item() == numbers.size - expected
        assert results[2].item() == int((part > 0.3).sum())
    assert flags.sum(keepdim=True).shape == (1,) * len(shape)


OUT_OF_RANGE: dict[str, Callable[..., Any]] = {
    "sum": lambda x, d: x.sum(d),
    "sum of several": lambda x, d: x.sum((0, d)),
    "mean": lambda x, d: x.mean(d),
    "nansum": lambda x, d: x.nansum(d),
    "amax": lambda x, d: x.amax((0, d)),
    "tensordot": lambda x, d: nt.tensordot(x, x, dims=([d], [0])),
    "matrix_norm": lambda x, d: nt.linalg.matrix_norm(x, dim=(0, d)),
    "weight_norm": lambda x, d: nt.nn.utils.weight_norm(nt.nn.Linear(2, 2), dim=d),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("d", [2, 3, -3, -4])
@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_dimension_out_of_range_is_refused(name: str, d: int, cuda: str) -> None:
    for place in ("cpu", "cuda"):
        with pytest.raises(IndexError, match="imension out of range"):
            OUT_OF_RANGE[name](nt.ones(2, 2, device=place), d)


WRITES: dict[str, Callable[[nt.Tensor], Any]] = {
    "add_": lambda x: x.add_(1),
    "an assignment": lambda x: x.__setitem__(0, 5.0),
    "a write to a row": lambda x: x[0].mul_(2),
    "a write to its transpose": lambda x: x.t().add_(1),
    "fill_diagonal_": lambda x: x.fill_diagonal_(0),
    "masked_fill_": lambda x: x.masked_fill_(x > 0, 1.0),
    "random numbers": lambda x: x.normal_(),
    "out=": lambda x: nt.add(nt.ones_like(x), 1, out=x),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_expanded_cannot_be_written_to(name: str, cuda: str) -> None:
    for place in ("cpu", "cuda"):
        x = nt.ones(1, 1, device=place)
        with pytest.raises(RuntimeError, match=r"more than one element .* clone\(\)"):
            WRITES[name](x.expand(3, 3))
        assert x.tolist() == [[1.0]]


def test_what_is_as_large_as_before_can_be_written_to(cuda: str) -> None:
    for place in ("cpu", "cuda"):
        x = nt.ones(1, 3, device=place)
        x.expand(1, 3).add_(1)
        assert x.tolist() == [[2.0, 2.0, 2.0]]


def test_an_operation_that_a_dtype_has_not_is_a_runtime_error(cuda: str) -> None:
    for place in ("cpu", "cuda"):
        x = nt.ones(3, device=place)
        with pytest.raises(RuntimeError, match="right_shift"):
            x >> x


QUOTIENTS: dict[str, Callable[..., Any]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "fmod": nt.fmod,
    "trunc": lambda a, b: nt.div(a, b, rounding_mode="trunc"),
    "// of a number": lambda a, b: 5 // a,
    "% of a number": lambda a, b: a % -2.5,
    "in place": lambda a, b: a.clone().floor_divide_(b),
}
DIVIDED = {
    "float": (0.0, -0.0, 1.0, -1.0, 0.1, 7.0, 1e17, 3.0, math.inf, -math.inf, math.nan),
    "int": (1, -1, 7, -7, 3, 2**31 - 1, 2**53 + 1, -(2**62) - 3),
}


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64", "int32"])
@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_gpu_divides_as_the_cpu_does(name: str, kind: str, cuda: str) -> None:
    values = [
        x
        for x in DIVIDED["int" if kind.startswith("int") else "float"]
        if kind != "int32" or abs(x) < 2**31
    ]
    pairs = nt.tensor(list(itertools.product(values, values)), dtype=getattr(nt, kind))
    expected = QUOTIENTS[name](*pairs.unbind(1))
    found = QUOTIENTS[name](*pairs.to("cuda").unbind(1)).cpu()
    assert found.dtype is expected.dtype
    for one, other in ((found, expected), (1 / found.double(), 1 / expected.double())):
        numpy.testing.assert_array_equal(one.double().numpy(), other.double().numpy())


def test_a_new_leading_dimension_has_no_size_to_keep(cuda: str) -> None:
    for place in ("cpu", "cuda"):
        with pytest.raises(RuntimeError, match="a new one in front has none"):
            nt.ones(3, device=place).expand(-1, 3)
        assert nt.ones(1, 3, device=place).expand(2, -1, -1).shape == (2, 1, 3)


ORDERED: dict[str, Callable[[nt.Tensor], Any]] = {
    "sort": lambda x: x.sort(0)[0],
    "argsort": lambda x: x.argsort(0, True),
    "median": lambda x: x.median(),
    "median along": lambda x: x.median(0)[0],
    "nanmedian": lambda x: x.nanmedian(),
    "kthvalue": lambda x: x.kthvalue(2, 0)[0],
    "topk": lambda x: x.topk(2, 0)[0],
    "quantile": lambda x: x.quantile(0.5),
    "nanquantile": lambda x: x.nanquantile(0.5, 0),
    "mode": lambda x: x.mode(0)[0],
    "unique": lambda x: x.unique(),
}


@pytest.mark.parametrize("kind", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", ORDERED)
def test_a_gpu_puts_nan_last_whatever_its_sign(name: str, kind: str, cuda: str) -> None:
    if name.endswith("quantile") and kind == "float16":
        return  # refused on each device
    x = nt.tensor([[2.0, math.inf], [-math.nan, math.nan], [-1.0, -math.nan]]).to(getattr(nt, kind))
    x = x * nt.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]]).to(x.dtype)
    expected, found = ORDERED[name](x), ORDERED[name](x.to("cuda")).cpu()
    numpy.testing.assert_array_equal(found.double().numpy(), expected.double().numpy())


@pytest.mark.parametrize("f", ["softshrink", "hardswish", "relu6", "hardshrink", "hardsigmoid"])
def test_where_an_activation_is_flat_no_infinite_cotangent_comes_through(f: str) -> None:
    x = nt.tensor([-7.0, 0.0], requires_grad=True)
    y = getattr(nt.nn.functional, f)(x)
    y.backward(nt.full((2,), math.inf))
    flat = {"softshrink": 1, "hardshrink": 1}.get(f, 0)
    assert x.grad is not None and x.grad[flat].item() == 0


def test_a_view_of_a_view_made_in_no_grad_cannot_be_written_to_either() -> None:
    x, value = nt.zeros(4, 3), nt.ones((), requires_grad=True)
    with nt.no_grad():
        view = x[:2]
    for part in (view, view[0]):
        with pytest.raises(RuntimeError, match="created in no_grad mode"):
            part += value


MINUS_ZEROS: dict[str, Callable[[str], nt.Tensor]] = {
    "full": lambda place: nt.full((2,), -0.0, device=place),
    "full_like": lambda place: nt.full_like(nt.ones(2, device=place), -0.0),
    "fill_": lambda place: nt.ones(2, device=place).fill_(-0.0),
    "a number": lambda place: nt.tensor(-0.0, device=place),
    "a number that moves": lambda place: nt.tensor(-0.0).to(place),
    "a list": lambda place: nt.tensor([-0.0], device=place),
}


@pytest.mark.parametrize("name", MINUS_ZEROS)
def test_zero_keeps_its_sign_on_each_device(name: str, cuda: str) -> None:
    for place in ("cpu", "cuda"):
        assert MINUS_ZEROS[name](place).signbit().all().item()


def test_integers_have_no_negative_powers(cuda: str) -> None:
    for place in ("cpu", "cuda"):
        x = nt.tensor([1, 2], device=place)
        for power in (
            lambda x: x**-2, lambda x: x.pow(-1), lambda x: (x > 1) ** -1, lambda x: x.pow_(-1),
            lambda x: x.__ipow__(-2),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="Integers to negative integer powers"):
                power(x)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_infinite_logit_is_right_or_infinitely_wrong_on_each_device(
    weighted: bool, cuda: str
) -> None:
    for place in ("cpu", "cuda"):
        x = nt.tensor([math.inf, -math.inf, math.inf], dtype=nt.float64, device=place)
        y = nt.tensor([1.0, 0.0, 0.0], dtype=nt.float64, device=place)
        weight = nt.full((3,), 2.0, dtype=nt.float64, device=place) if weighted else None
        loss = nt.nn.functional.binary_cross_entropy_with_logits(
            x, y, weight, pos_weight=weight, reduction="none"
        )
        assert loss.tolist() == [0.0, 0.0, math.inf]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_the_next_half_is_a_half(cuda: str) -> None:
    values = [0.0, -0.0, 1.0, -1.0, 65504.0, -65504.0, math.inf, -math.inf, math.nan, 2.0**-24]
    a, b = nt.tensor(list(itertools.product(values, values)), dtype=nt.float16).unbind(1)
    expected = nt.nextafter(a, b)
    assert expected[values.index(1.0) * len(values)].item() == 1 - 2**-11
    numpy.testing.assert_array_equal(expected.numpy(), numpy.nextafter(a.numpy(), b.numpy()))
    found = nt.nextafter(a.to("cuda"), b.to("cuda")).cpu()
    numpy.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert found.signbit()[expected == 0].tolist() == expected.signbit()[expected == 0].tolist()


ON_THE_DEVICE_THEY_NEED: dict[str, Callable[[], Any]] = {
    "pack_padded_sequence": lambda: nt.nn.utils.rnn.pad_packed_sequence(
        nt.nn.utils.rnn.pack_padded_sequence(nt.ones(3, 2, 1), [3, 1])
    ),
    "dropout of attention on the CPU": lambda: nt.nn.functional.scaled_dot_product_attention(
        *nt.ones(3, 1, 2, 4, device="cpu"), dropout_p=0.5
    ),
}


@pytest.mark.parametrize("name", ON_THE_DEVICE_THEY_NEED)
def test_a_default_device_leaves_the_library_its_own_tensors(name: str, cuda: str) -> None:
    with nt.device("cuda"):
        ON_THE_DEVICE_THEY_NEED[name]()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", ["int64", "float64"])
def test_what_was_promoted_is_multiplied_alike_in_eager_and_compiled_steps(
    kind: str, place: str, cuda: str
) -> None:
    with nt.device(place):
        nt.manual_seed(2)
        s = nt.ones((), requires_grad=True, dtype=nt.float64 if kind == "float64" else nt.float32)
        x, k = nt.arange(96).reshape(32, 3) % 7, nt.randn(32, 3)
        x = x if kind == "int64" else x.float() / 7

        def step(x: nt.Tensor, k: nt.Tensor) -> nt.Tensor:
            s.grad = None
            loss = ((x + s * x) * k).sum()
            loss.backward()
            return loss

        step(x, k)
        assert s.grad is not None and s.grad.dtype is s.dtype
        eager = s.grad.item()
        compiled = nt.compile(step, pure=True)
        for _ in range(3):
            compiled(x, k)
            assert s.grad.item() == eager


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (7,), (3, 5), (5, 0), (32, 1), (32, 32), (33, 32)]
)
def test_sums_of_few_floats_are_those_of_many(shape: tuple[int, ...], dtype: str) -> None:
    """Few are summed as a product with ones, in whatever order they lie, infinities included."""
    numbers = numpy.random.default_rng(0).standard_normal(shape).astype(dtype)
    infinite = numbers.copy()
    infinite.reshape(-1)[:1] = INF
    x, of_rows = nt.from_numpy(numbers), nt.zeros(shape[1:], dtype=getattr(nt, dtype))
    z = nt.from_numpy(infinite)

    def sums() -> list[Any]:
        whole = [x.sum(), x.T.sum() if x.ndim == 2 else x.sum()]
        whole.append(nt.nn.functional.l1_loss(x, x + 1))
        bias = of_rows.clone().requires_grad_()
        (bias + x).sum().backward()
        (repeated,) = nt.autograd.grad((bias * x).sum(), bias)
        return [*whole, z.sum(), bias.grad, repeated]

    compiled = nt.compile(sums)
    for results in (sums(), *(compiled() for _ in range(4))):
        total, transposed, apart, unbounded, ones, columns = (y.numpy() for y in results)
        wide = numbers.astype("float64")
        numpy.testing.assert_allclose(total, wide.sum(), rtol=1e-5, atol=1e-5)
        numpy.testing.assert_allclose(transposed, wide.sum(), rtol=1e-5, atol=1e-5)
        numpy.testing.assert_allclose(apart, 1.0 if numbers.size else numpy.nan, rtol=1e-6)
        assert unbounded == (INF if numbers.size else 0)
        assert (ones == (len(numbers) if numbers.ndim else 1)).all()
        expected = wide.sum(0) if numbers.ndim else wide
        numpy.testing.assert_allclose(columns, expected, rtol=1e-5, atol=1e-5)
        assert total.dtype == columns.dtype == numbers.dtype
