"""Derivatives held against finite differences.

For inputs in float64 the central difference (f(x + eps) - f(x - eps)) / (2 eps) is right to about
1e-9, so a wrong rule shows. The signatures and tolerances are those of
https://docs.pytorch.org/docs/stable/generated/torch.autograd.gradcheck.gradcheck.html.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.backward import grad, several
from nanotorch.autograd.engine import requires_grad
from nanotorch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from nanotorch.autograd.grad_mode import enable_grad
from nanotorch.backend import on_device_of
from nanotorch.node import Traced

Func = Callable[..., Any]


class GradcheckError(RuntimeError):
    """A derivative is not what finite differences give."""


def gradcheck(
    func: Func,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
) -> bool:
    """True where the derivatives of func at the inputs agree with finite differences.

    inputs: one tensor or several; those that require grad are checked, and should be float64. A
    difference up to atol + rtol * |numerical| is accepted; a larger one is a GradcheckError that
    names the input, the output and both Jacobians (rows are elements of the input, columns of the
    output), or False without `raise_exception`. nondet_tol: how much two backward passes may
    differ. check_undefined_grad: backward must also do with cotangents for some of several outputs.
    check_batched_grad: the rows must be the same when asked for at once (is_grads_batched).
    check_forward_ad, check_backward_ad: which modes are checked. fast_mode: one product with fixed
    vectors from both sides instead of whole Jacobians.
    """
    if not (check_forward_ad or check_backward_ad):
        raise ValueError(
            "gradcheck: expected at least one of check_forward_ad and check_backward_ad to be True"
        )
    try:
        xs = several(inputs)
        checked = checked_inputs(xs)
        numerical = Numerical(func, xs, eps)
        compare = compare_products if fast_mode else compare_jacobians
        if check_backward_ad:
            if check_undefined_grad:
                accepts_missing(func, xs, checked)
            compare(func, xs, checked, numerical, "backward", atol, rtol)
            same_again(func, xs, checked, nondet_tol, check_grad_dtypes)
            if check_batched_grad:
                same_batched(func, xs, checked)
        if check_forward_ad:
            compare(func, xs, checked, numerical, "forward", atol, rtol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Func,
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
) -> bool:
    """True where the second derivatives of func agree with finite differences of the first.

    `gradcheck` of the function that maps inputs and cotangents to gradients. grad_outputs: the
    cotangents, fixed vectors unless given. gen_non_contig_grad_outputs: have them not contiguous.
    """
    xs = several(inputs)
    if grad_outputs is None:
        cotangents = [
            fixed_vector(y, gen_non_contig_grad_outputs).requires_grad_()
            for y in differentiable(evaluated(func, xs))
        ]
    else:
        cotangents = list(several(grad_outputs))
    count = len(xs)

    def gradients(*arguments: Any) -> Any:
        points = [
            x if requires_grad(x) else x.detach().requires_grad_() if wanted(origin) else x
            for x, origin in zip(arguments[:count], xs, strict=True)
        ]
        targets = [x for x in points if wanted(x)]
        outputs = differentiable(evaluated(func, points))
        with enable_grad():
            gradients = grad(
                outputs, targets, arguments[count:], create_graph=True, allow_unused=True
            )
        return tuple(g for g in gradients if g is not None)

    return gradcheck(
        gradients,
        (*xs, *cotangents),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        fast_mode=fast_mode,
    )


# --- what is checked ------------------------------------------------------------------------------


def wanted(x: Any) -> bool:
    """Whether x is a tensor to be differentiated by."""
    return isinstance(x, Traced) and requires_grad(x)


def checked_inputs(xs: Sequence[Any]) -> list[int]:
    """The places of the inputs that require grad; warns of those in less than float64."""
    places = [i for i, x in enumerate(xs) if wanted(x)]
    if not places:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them "
            "have requires_grad=True."
        )
    for place in places:
        kind = xs[place]._array.dtype
        if kind.kind == "c":
            raise ValueError(f"gradcheck: input {place} is complex, which is not supported")
        if kind.itemsize < 8:
            warnings.warn(
                f"gradcheck: input {place} requires gradient and is {xs[place].dtype}; finite "
                "differences need float64, the check will likely fail",
                stacklevel=3,
            )
    return places


def evaluated(func: Func, xs: Sequence[Any]) -> tuple[Any, ...]:
    """The outputs of func."""
    return several(func(*xs))


def differentiable(outputs: Sequence[Any]) -> list[Any]:
    """The outputs that have a derivative."""
    return [y for y in outputs if isinstance(y, Traced) and y._array.dtype.kind in "fV"]


def fixed_vector(x: Any, strided: bool = False) -> Any:
    """A tensor of x's shape with fixed values of mixed signs, none near 0."""
    size = x._array.size
    values = [math.copysign(0.5 + (0.37 * k) % 1.0, math.sin(1.3 * k + 1)) for k in range(size)]
    out = ops.zeros_like(x)
    if strided and size > 1:
        out = ops.stack([out, out], out.ndim)[..., 0]
    for place, value in zip(positions(out), values, strict=True):
        out._array[place] = value
    return out


def positions(x: Any) -> list[tuple[int, ...]]:
    """The indices of the elements, in order."""
    places: list[tuple[int, ...]] = [()]
    for size in x._array.shape:
        places = [(*place, k) for place in places for k in range(size)]
    return places


class Numerical:
    """Central differences of a function around its inputs."""

    def __init__(self, func: Func, xs: Sequence[Any], eps: float) -> None:
        self.func, self.xs, self.eps = func, xs, eps

    def along(self, index: int, direction: Any) -> list[Any]:
        """The change of every output per step along a direction of one input, as arrays."""
        outputs = []
        for sign in (1, -1):
            points = [
                x.detach().clone().requires_grad_(wanted(x)) if isinstance(x, Traced) else x  # type: ignore[attr-defined]
                for x in self.xs
            ]
            with on_device_of(direction._array):
                points[index]._array += sign * self.eps * direction._array
            with enable_grad():
                outputs.append(differentiable(evaluated(self.func, points)))
        pairs = zip(*outputs, strict=True)
        with on_device_of(direction._array):
            return [(p._array - n._array) / (2 * self.eps) for p, n in pairs]


def unit(x: Any, place: tuple[int, ...]) -> Any:
    """A tensor of x's shape with 1 at one place."""
    vector = ops.zeros_like(x)
    vector._array[place] = 1
    return vector


def analytical(
    func: Func, xs: Sequence[Any], checked: Sequence[int], mode: str
) -> list[list[list[Any]]]:
    """Jacobians [input][output] as rows: per input element in forward mode, else per output's."""
    if mode == "forward":
        return [
            transposed([forward(func, xs, i, unit(xs[i], p)) for p in positions(xs[i])])
            for i in checked
        ]
    jacobians: list[list[list[Any]]] = [[] for _ in checked]
    with enable_grad():
        outputs = differentiable(evaluated(func, xs))
        for y in outputs:
            rest = others(outputs, y)
            rows = [backward(y, xs, checked, unit(y, place), rest) for place in positions(y)]
            for j, i in enumerate(checked):
                jacobians[j].append([row[j] for row in rows] or [ops.zeros_like(xs[i])._array])
    return jacobians


def transposed(rows: Sequence[list[Any]]) -> list[Any]:
    """Rows of columns as columns of rows."""
    return [list(column) for column in zip(*rows, strict=True)]


def forward(func: Func, xs: Sequence[Any], index: int, direction: Any) -> list[Any]:
    """The tangents of the outputs by forward mode, as arrays."""
    with dual_level():
        duals = [
            make_dual(x.detach().requires_grad_(), direction) if i == index else x
            for i, x in enumerate(xs)
        ]
        pairs = [unpack_dual(y) for y in differentiable(evaluated(func, duals))]
        return [
            (ops.zeros_like(p.primal) if p.tangent is None else p.tangent)._array for p in pairs
        ]


def backward(
    y: Any, xs: Sequence[Any], checked: Sequence[int], g: Any, rest: Sequence[Any] = ()
) -> list[Any]:
    """The cotangents of the checked inputs by reverse mode, as arrays.

    `rest`: other outputs, which get a cotangent of zeros; those left out get none.
    """
    targets = [xs[i] for i in checked]
    if not requires_grad(y):
        return [ops.zeros_like(x)._array for x in targets]
    zeros = [ops.zeros_like(other) for other in rest]
    gradients = grad([y, *rest], targets, [g, *zeros], retain_graph=True, allow_unused=True)
    return [
        (ops.zeros_like(x) if d is None else d)._array
        for x, d in zip(targets, gradients, strict=True)
    ]


def others(outputs: Sequence[Any], y: Any) -> list[Any]:
    """The recorded outputs besides y."""
    return [other for other in outputs if other is not y and requires_grad(other)]


def matrix(x: Any, rows: Sequence[Any], by_input: bool) -> Any:
    """The Jacobian as a tensor with a row per input element and a column per output element."""
    flat = [ops.reshape(x._wrap(row), (-1,)) for row in rows]
    return ops.stack(flat, 0 if by_input else 1)


def compare_jacobians(
    func: Func,
    xs: Sequence[Any],
    checked: Sequence[int],
    numerical: Numerical,
    mode: str,
    atol: float,
    rtol: float,
) -> None:
    """Refuses a Jacobian that is not the numerical one."""
    jacobians = analytical(func, xs, checked, mode)
    for j, i in enumerate(checked):
        columns = transposed([numerical.along(i, unit(xs[i], p)) for p in positions(xs[i])])
        for k, column in enumerate(columns):
            if column[0].size == 0:
                continue
            expected = matrix(xs[i], column, True)
            analytic = matrix(xs[i], jacobians[j][k], mode == "forward")
            if not ops.allclose(analytic, expected, rtol, atol, equal_nan=True):
                how = " computed with forward mode" if mode == "forward" else ""
                raise GradcheckError(
                    f"Jacobian{how} mismatch for output {k} with respect to input {i},\n"
                    f"numerical:{expected}\nanalytical:{analytic}\n"
                )


def compare_products(
    func: Func,
    xs: Sequence[Any],
    checked: Sequence[int],
    numerical: Numerical,
    mode: str,
    atol: float,
    rtol: float,
) -> None:
    """Refuses a product u^T J v that is not the numerical one: one pass per input and output."""
    with enable_grad():
        outputs = differentiable(evaluated(func, xs))
    for j, i in enumerate(checked):
        u = fixed_vector(xs[i])
        moved = numerical.along(i, u)
        tangents = forward(func, xs, i, u) if mode == "forward" else []
        for k, y in enumerate(outputs):
            v = fixed_vector(y)
            expected = float((moved[k] * v._array).sum())
            if mode == "forward":
                given = float((tangents[k] * v._array).sum())
            else:
                given = float((backward(y, xs, checked, v, others(outputs, y))[j] * u._array).sum())
            size = max(y._array.size * xs[i]._array.size, 1)
            if not abs(given - expected) <= (atol + rtol * abs(expected)) * math.sqrt(size):
                raise GradcheckError(
                    f"Product with the Jacobian ({mode} mode) mismatch for output {k} with respect "
                    f"to input {i},\nnumerical:{expected}\nanalytical:{given}\n"
                    "(fast_mode=False shows the whole Jacobians)"
                )


def same_again(
    func: Func, xs: Sequence[Any], checked: Sequence[int], tolerance: float, check_dtypes: bool
) -> None:
    """Refuses a backward that gives other numbers, or another dtype, the second time."""
    with enable_grad():
        outputs = differentiable(evaluated(func, xs))
        for k, y in enumerate(outputs):
            v, rest = fixed_vector(y), others(outputs, y)
            first, second = (backward(y, xs, checked, v, rest) for _ in range(2))
            for i, a, b in zip(checked, first, second, strict=True):
                if a.size and float(abs(a - b).max()) > tolerance:
                    raise GradcheckError(
                        f"Backward of output {k} with respect to input {i} is not reentrant: twice "
                        f"the same cotangent gave different values. The tolerance was {tolerance}."
                    )
                if check_dtypes and a.dtype != xs[i]._array.dtype:
                    raise GradcheckError(
                        f"The gradient of output {k} with respect to input {i} is {a.dtype}, "
                        f"expected {xs[i].dtype}"
                    )


def accepts_missing(func: Func, xs: Sequence[Any], checked: Sequence[int]) -> None:
    """Refuses a backward that fails when only one of several outputs has a cotangent."""
    with enable_grad():
        outputs = differentiable(evaluated(func, xs))
        for k, y in enumerate(outputs):
            try:
                backward(y, xs, checked, fixed_vector(y))
            except Exception as error:
                raise GradcheckError(
                    "Expected backward to handle undefined output grads: with a cotangent for "
                    f"output {k} only it raised {type(error).__name__}: {error}"
                ) from error


def same_batched(func: Func, xs: Sequence[Any], checked: Sequence[int]) -> None:
    """Refuses gradients that are others when several cotangents are given at once."""
    targets = [xs[i] for i in checked]
    with enable_grad():
        for k, y in enumerate(differentiable(evaluated(func, xs))):
            if not requires_grad(y):
                continue
            pair = [fixed_vector(y), -fixed_vector(y)]
            at_once = grad(
                y,
                targets,
                ops.stack(pair),
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )
            for row, v in enumerate(pair):
                alone = backward(y, xs, checked, v)
                for i, together, expected in zip(checked, at_once, alone, strict=True):
                    if together is not None and not (together._array[row] == expected).all():
                        raise GradcheckError(
                            f"Batched gradients of output {k} with respect to input {i} differ"
                        )
