"""Factorizations, special functions and scans beyond the table of ops: errors, accuracy, names."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest

import nanotorch as nt
from nanotorch.ops import LATER

# --- special functions, beside their values with 30 digits ----------------------------------------

# From mpmath with 30 digits.
VALUES: dict[str, tuple[tuple[float, float], ...]] = {
    "gammaln": (
        (1e-300, 690.7755278982137),
        (1e-05, 11.512919692895826),
        (0.3, 1.0957979948180756),
        (0.75, 0.20328095143129538),
        (0.9999, 5.7729791561193866e-05),
        (1.0001, -5.771334222047127e-05),
        (1.4999, -0.12078588195849393),
        (1.5, -0.12078223763524522),
        (1.9999, -4.227520877215346e-05),
        (2.0001, 4.2281658112919945e-05),
        (2.5, 0.2846828704729192),
        (3.7, 1.428072326665388),
        (7.99, 8.50501160608848),
        (8.0, 8.525161361065415),
        (9.99, 12.779315214350193),
        (10.0, 12.801827480081469),
        (30.5, 72.9534711841694),
        (100000.0, 1051287.7089736569),
        (1e300, 6.897755278982137e302),
        (-0.5, 1.2655121234846454),
        (-1.3, 1.2024757863901114),
        (-7.6, -8.56298627582828),
    ),
    "digamma": (
        (1e-05, -100000.57719921567),
        (0.3, -3.502524222200133),
        (0.9999, -0.5773801703298691),
        (1.0001, -0.5770511835143348),
        (1.4616, -3.110625123034165e-05),
        (1.47, 0.008066489011364869),
        (1.99, 0.41631470604541493),
        (2.01, 0.4292135520323155),
        (5.5, 1.6110931485817512),
        (9.99, 2.250700372831201),
        (10.0, 2.251752589066721),
        (100000.0, 11.512920464961896),
        (-0.3, 2.113309779635399),
        (-1.3, 2.8825405488661673),
        (-3.2, 5.635370221172645),
    ),
    "erfinv": (
        (1e-300, 8.86226925452758e-301),
        (-1e-05, -8.862269254759594e-06),
        (0.1, 0.08885599049425769),
        (0.3, 0.2724627147267543),
        (-0.49, -0.46586860023505733),
        (0.51, 0.4881220505159588),
        (0.7, 0.7328690779592167),
        (0.9, 1.1630871536766743),
        (-0.99, -1.8213863677184494),
        (0.999999, 3.458910737275499),
        (0.9999999999999, 5.261483331372676),
    ),
    "ndtr": (
        (-0.3, 0.3820885778110474),
        (0.2, 0.579259709439103),
        (0.7, 0.758036347776927),
        (1.5, 0.9331927987311419),
    ),
    "erfcx": (
        (0.1, 0.8964569799691267),
        (0.6, 0.567804717386587),
        (0.999, 0.4278569426214168),
        (1.001, 0.42731051843339507),
        (2.0, 0.25539567631050575),
        (5.0, 0.11070463773306863),
        (20.0, 0.02817434874105132),
        (27.9, 0.020208884621282616),
        (28.1, 0.02006523137719721),
        (100.0, 0.005641613782989433),
        (100000000.0, 5.641895835477562e-09),
    ),
}


def units(value: float, exact: float) -> float:
    """The error in units in the last place."""
    return abs(value - exact) / float(numpy.spacing(abs(exact)))


@pytest.mark.parametrize("name", VALUES)
def test_a_special_function_is_right_to_a_few_units_in_the_last_place(name: str) -> None:
    function = getattr(nt.special, name)
    points, exact = (numpy.array(column) for column in zip(*VALUES[name], strict=True))
    values = function(nt.tensor(points)).tolist()
    assert max(map(units, values, exact)) <= 5
    points = points[(abs(points) > 1e-30) & (abs(points) < 1e30)]
    single = points.astype(numpy.float32)
    close = function(nt.tensor(single.astype(numpy.float64))).numpy().astype(numpy.float32)
    assert function(nt.tensor(single)).tolist() == close.tolist()


def test_poles_and_ends_have_their_limits() -> None:
    ends = nt.tensor([0.0, -0.0, -1.0, float("inf"), float("nan")], dtype=nt.float64)
    inf = float("inf")
    assert nt.lgamma(ends)[:4].tolist() == [inf, inf, inf, inf]
    assert nt.digamma(ends)[:2].tolist() == [-inf, inf]
    assert nt.digamma(ends)[2].isnan() and nt.digamma(ends)[3] == inf
    assert nt.polygamma(1, ends)[:4].tolist() == [inf, inf, inf, 0.0]
    assert nt.erfinv(nt.tensor([-1.0, 0.0, 1.0])).tolist() == [-inf, 0.0, inf]
    assert nt.erfinv(nt.tensor(1.5)).isnan()
    assert nt.special.ndtri(nt.tensor([0.0, 0.5, 1.0])).tolist() == [-inf, 0.0, inf]
    assert all(f(ends)[4].isnan() for f in (nt.lgamma, nt.digamma, nt.special.erfcx))


def test_a_negative_order_of_polygamma_is_refused() -> None:
    with pytest.raises(RuntimeError, match="negative n, got -1"):
        nt.polygamma(-1, nt.ones(2))


# --- factorizations -------------------------------------------------------------------------------


def test_a_matrix_that_is_not_positive_definite_is_named() -> None:
    good = nt.eye(3)
    bad = nt.tensor([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(nt.linalg.LinAlgError, match=r"(?<!element 1\): )The .* order 2 is not"):
        nt.linalg.cholesky(bad)
    with pytest.raises(nt.linalg.LinAlgError, match=r"\(Batch element 1\): .* order 2 is not"):
        nt.linalg.cholesky(nt.stack([good, bad, good]))
    factors, info = nt.linalg.cholesky_ex(nt.stack([good, bad]))
    assert info.tolist() == [0, 2] and info.dtype is nt.int32
    assert factors[0].tolist() == good.tolist()
    with pytest.raises(nt.linalg.LinAlgError, match="order 2"):
        nt.linalg.cholesky_ex(bad, check_errors=True)


def test_inverses_without_an_error_say_where_there_is_none() -> None:
    singular = nt.tensor([[1.0, 2.0], [2.0, 4.0]])
    inverse, info = nt.linalg.inv_ex(nt.stack([nt.eye(2) * 2, singular]))
    assert info.tolist() == [0, 2] and inverse[0].tolist() == [[0.5, 0.0], [0.0, 0.5]]
    result = nt.linalg.solve_ex(singular, nt.ones(2, 1))
    assert result.info == 2
    with pytest.raises(nt.linalg.LinAlgError, match="diagonal element 2 is zero"):
        nt.linalg.solve_ex(singular, nt.ones(2, 1), check_errors=True)
    assert nt.linalg.cond(singular, 1) == float("inf")


UNSOLVABLE: dict[str, Callable[[Any], Any]] = {
    "inv": lambda x: nt.linalg.inv(x),
    "solve": lambda x: nt.linalg.solve(x, x),
    "matrix_power": lambda x: nt.linalg.matrix_power(x, -1),
    "tensorsolve": lambda x: nt.linalg.tensorsolve(x, x[0]),
    "svd": lambda x: nt.linalg.svd(x * float("nan")),
    "pinv": lambda x: nt.linalg.pinv(x * float("nan")),
}


@pytest.mark.parametrize("name", UNSOLVABLE)
def test_what_has_no_inverse_solution_or_factor_is_a_linalg_error(name: str) -> None:
    with pytest.raises(nt.linalg.LinAlgError, match=r"\(2, 2\)"):
        UNSOLVABLE[name](nt.zeros(2, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nt.linalg.svd(nt.ones(3)), "at least 2 dimensions"),
        (lambda: nt.linalg.svd(nt.ones(2, 2, dtype=nt.int64)), "floating point .* Got Long"),
        (lambda: nt.linalg.cholesky(nt.ones(2, 3)), "square matrices, but they are 2 by 3"),
        (lambda: nt.linalg.qr(nt.eye(2), "all"), "unrecognized mode 'all'"),
        (lambda: nt.linalg.eigh(nt.eye(2), "X"), "to be 'L' or 'U', but got X"),
        (
            lambda: nt.linalg.solve_triangular(nt.eye(2), nt.ones(3, 1), upper=True),
            r"AX = B \(2x2 and 3x1\)",
        ),
        (lambda: nt.linalg.lstsq(nt.eye(2), nt.ones(2, 1), driver="qr"), "gels, gelsy, .* got qr"),
        (lambda: nt.linalg.cross(nt.ones(4), nt.ones(4)), "length 3. Got 4 and 4"),
        (lambda: nt.kthvalue(nt.ones(3), 4), "k out of range"),
        (lambda: nt.hsplit(nt.ones(2, 3), 2), "not divisible by the split_size 2"),
        (lambda: nt.ones(4).as_strided((3, 3), (2, 1)), "need 7 elements, but there are 4"),
        (lambda: nt.logcumsumexp(nt.ones(3, dtype=nt.int64), 0), "floating-point dtype"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(call: Callable[[], Any], words: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_what_has_no_derivative_says_so_in_the_backward_pass() -> None:
    x = nt.randn(4, 2).requires_grad_()
    with pytest.raises(RuntimeError, match="not computed when mode='r'"):
        nt.linalg.qr(x, "r").R.sum().backward()
    with pytest.raises(RuntimeError, match="mode='complete' and nrows > ncols"):
        nt.linalg.qr(x, "complete").Q.sum().backward()


def test_a_singular_triangle_divides_by_zero_as_in_pytorch() -> None:
    a = nt.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert nt.linalg.solve_triangular(a, nt.ones(2, 1), upper=True).isinf().all()


def test_results_print_and_are_named_as_pytorchs() -> None:
    values, vectors = result = nt.linalg.eigh(nt.eye(2))
    assert result.eigenvalues is values and result.eigenvectors is vectors
    assert repr(nt.linalg.slogdet(nt.eye(2))) == (
        "torch.return_types.linalg_slogdet(\nsign=tensor(1.),\nlogabsdet=tensor(0.))"
    )
    x = nt.randn(3, 2).requires_grad_()
    assert "LinalgSvdBackward0" in str(nt.linalg.svd(x).U.grad_fn)
    assert repr(nt.cummax(nt.tensor([1.0, 2.0]), 0)).startswith("torch.return_types.cummax(")


OLD: dict[str, Callable[[], Any]] = {
    "linalg.cholesky": lambda: nt.cholesky(nt.eye(2)),
    "linalg.qr": lambda: nt.eye(2).qr(),
    "linalg.solve_triangular": lambda: nt.triangular_solve(nt.ones(2, 1), nt.eye(2)),
    "linalg.cross": lambda: nt.cross(nt.ones(3), nt.ones(3)),
}


@pytest.mark.parametrize("instead", OLD)
def test_a_name_of_before_warns_as_pytorch_does(instead: str) -> None:
    with pytest.warns(UserWarning, match=instead):
        OLD[instead]()


@pytest.mark.parametrize("name", ["symeig", "eig", "solve", "lstsq", "matrix_rank"])
def test_a_name_that_pytorch_removed_says_what_to_use(name: str) -> None:
    with pytest.raises(AttributeError, match=r"use (nanotorch|numpy)\.linalg"):
        getattr(nt, name)


# --- in place, views, loading ---------------------------------------------------------------------


def test_writing_to_a_view_by_strides_writes_to_its_base() -> None:
    x = nt.zeros(2, 3, requires_grad=True)
    y = x * 1
    y.as_strided((2,), (3,), 1).add_(nt.tensor([1.0, 2.0]))
    assert y.tolist() == [[0, 1, 0], [0, 2, 0]]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[1.0] * 3] * 2
    part = nt.arange(6.0)[2:]
    assert part.as_strided((2,), (1,)).tolist() == [2.0, 3.0]  # from where it begins itself
    assert part.as_strided((2,), (1,), 0).tolist() == [0.0, 1.0]


def test_methods_that_write_give_what_the_function_gives() -> None:
    x = nt.tensor([1.5, 2.5])
    assert x.clone().lgamma_().tolist() == nt.lgamma(x).tolist()
    assert x.clone().polygamma_(1).tolist() == nt.polygamma(1, x).tolist()
    assert nt.lgamma(x, out=nt.empty(2)).tolist() == nt.lgamma(input=x).tolist()


def test_conjugates_of_complex_numbers() -> None:
    x = nt.tensor([1 + 2j, 3.0])
    assert x.conj().tolist() == [1 - 2j, 3 + 0j] and nt.isreal(x).tolist() == [False, True]
    real = nt.ones(2)
    assert real.conj() is real


def test_rare_ops_load_when_they_are_first_called() -> None:
    files = sorted(set(LATER.values()))
    program = (
        "import sys, nanotorch as nt\n"
        f"files = {files}\n"
        "assert not [f for f in files if f'nanotorch.ops.{f}' in sys.modules]\n"
        "nt.kron(nt.eye(2), nt.eye(2))\n"
        "assert 'nanotorch.ops.matrices' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- beside PyTorch -------------------------------------------------------------------------------

CASES: dict[str, Callable[[Any], Any]] = {
    "full singular vectors": lambda t: abs(t.linalg.svd(t.ones(4, 2))[0][:, :1]),
    "cholesky upper": lambda t: t.linalg.cholesky(t.eye(3) + 1, upper=True),
    "old svd": lambda t: t.svd(t.tensor([[2.0, 0.0], [0.0, 1.0]]), compute_uv=False)[1],
    "matrix_rank tol": lambda t: t.linalg.matrix_rank(t.tensor([[2.0, 0.0], [0.0, 1.0]]), 1.5),
    "matrix_rank of a batch with bounds": lambda t: t.linalg.matrix_rank(
        t.stack([t.eye(2), t.eye(2)]), atol=t.tensor([0.5, 1.5])
    ),
    "pinv rcond": lambda t: t.linalg.pinv(t.tensor([[2.0, 0.0], [0.0, 1.0]]), 0.6),
    "cummax of equal ones and NaN": lambda t: t.cummax(
        t.tensor([1.0, 1.0, 0.0, float("nan"), 2.0, float("nan")]), 0
    ),
    "logcumsumexp from nothing": lambda t: t.logcumsumexp(
        t.tensor([-float("inf"), -float("inf"), 0.0, 1000.0]), 0
    ),
    "mode": lambda t: t.mode(t.tensor([[3, 1, 3, 1, 2], [0, 0, 5, 5, 5]])),
    "nanmedian": lambda t: t.nanmedian(t.tensor([[float("nan"), 3.0, 1.0], [2.0, 2.0, 5.0]]), 1),
    "nanquantile": lambda t: t.nanquantile(t.tensor([float("nan"), 3.0, 1.0, 2.0]), 0.25),
    "unique_consecutive dim": lambda t: t.unique_consecutive(
        t.tensor([[1, 1, 2], [3, 3, 3]]), True, True, dim=1
    ),
    "scatter_reduce of integers": lambda t: t.zeros(3, dtype=t.int64).scatter_reduce(
        0, t.tensor([0, 0, 2]), t.tensor([5, 2, -7]), "mean", include_self=False
    ),
    "kthvalue keepdim": lambda t: t.kthvalue(t.tensor([[3.0, 1.0, 2.0]]), 2, keepdim=True),
    "isin of a number": lambda t: t.isin(t.tensor([1, 2, 3]), 2, invert=True),
    "tensor_split beyond": lambda t: t.tensor_split(t.arange(5), (2, 7)),
    "combinations again": lambda t: t.combinations(t.arange(3), 2, with_replacement=True),
    "cov of one": lambda t: t.cov(t.tensor([1.0, 2.0, 4.0])),
    "gradient at places": lambda t: t.gradient(
        t.tensor([1.0, 4.0, 9.0, 25.0]), spacing=(t.tensor([1.0, 2.0, 3.0, 5.0]),)
    ),
    "deg2rad of integers": lambda t: t.deg2rad(t.tensor([180, 90])),
    "heaviside": lambda t: t.heaviside(t.tensor([-1.0, 0.0, 2.0]), t.tensor([0.5])),
    "frexp": lambda t: t.frexp(t.tensor([0.0, 1.0, -6.5])),
    "lstsq": lambda t: t.linalg.lstsq(
        t.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), t.tensor([[1.0], [2.0], [2.0]])
    ),
    "addmv without its first": lambda t: t.addmv(
        t.tensor([float("nan")] * 2), t.eye(2), t.ones(2), beta=0
    ),
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (CASES[name](library) for library in (nt, torch))
    if not isinstance(ours, tuple | list):
        ours, theirs = [ours], [theirs]
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (tuple(a.shape), repr(a.dtype)) == (tuple(b.shape), repr(b.dtype))
        numpy.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.torch
def test_named_results_have_the_fields_of_pytorchs() -> None:
    torch: Any = pytest.importorskip("torch")
    x = numpy.eye(3)
    calls = {
        "svd": (), "qr": (), "eigh": (), "slogdet": (), "inv_ex": (), "cholesky_ex": (),
    }  # fmt: skip
    for name in calls:
        ours = getattr(nt.linalg, name)(nt.tensor(x))
        theirs = getattr(torch.linalg, name)(torch.tensor(x))
        assert type(ours).__name__ == type(theirs).__name__
        assert [f for f in ours._fields if not hasattr(theirs, f)] == []


def by_minors(x: numpy.ndarray) -> numpy.ndarray:
    """The cofactors of a matrix, each by its minor."""
    n = len(x)
    minors = [[numpy.delete(numpy.delete(x, i, 0), j, 1) for j in range(n)] for i in range(n)]
    return numpy.array(
        [[(-1) ** (i + j) * numpy.linalg.det(minors[i][j]) for j in range(n)] for i in range(n)]
    )


SINGULAR = {
    "of rank 2": [[1.0, 2, 0], [0.5, -1, 3], [1.5, 1, 3]],
    "of rank 1": [[1.0, 2, 0], [2, 4, 0], [-1, -2, 0]],
    "of rank 0": numpy.zeros((3, 3)),
    "regular": [[1.0, 2, 0], [0.5, -1, 3], [2, 1, 1]],
    "of rank 2 and size 4": [[1.0, 2, 0, 1], [0, 1, 1, 0], [1, 3, 1, 1], [0, 0, 0, 0]],
}


@pytest.mark.parametrize("name", SINGULAR)
def test_the_second_derivative_of_det_holds_at_singular_matrices(name: str) -> None:
    x = numpy.array(SINGULAR[name])
    n, eps = len(x), 1e-5
    hessian = nt.autograd.functional.hessian(nt.linalg.det, nt.tensor(x)).numpy()
    for i in range(n):
        for j in range(n):
            step = numpy.zeros_like(x)
            step[i, j] = eps
            expected = (by_minors(x + step) - by_minors(x - step)) / (2 * eps)
            numpy.testing.assert_allclose(hessian[i, j], expected, atol=1e-8)
    both = nt.tensor(numpy.stack([x, numpy.eye(n) * 2]), requires_grad=True)
    (slope,) = nt.autograd.grad(nt.linalg.det(both).sum(), both, create_graph=True)
    (curved,) = nt.autograd.grad(slope[0, 0, 0], both)
    numpy.testing.assert_allclose(curved[0].numpy(), hessian[0, 0], atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_second_derivative_of_det_is_nan_where_a_matrix_is_not_finite(value: float) -> None:
    x = nt.tensor([[[value, 2.0], [2, 4]], [[1, 0], [0, 3]]], requires_grad=True)
    assert (nt.linalg.det(x) - nt.linalg.det(x)).isnan().tolist() == [True, False]
    (slope,) = nt.autograd.grad(nt.linalg.det(x).sum(), x, create_graph=True)
    (curved,) = nt.autograd.grad(slope[:, 0, 0].sum(), x)
    assert curved[0].isnan().all()
    assert nt.allclose(curved[1], nt.tensor([[0.0, 0], [0, 1]]), atol=1e-6)


def test_the_third_derivative_of_det() -> None:
    def curvature(x: nt.Tensor) -> nt.Tensor:
        (slope,) = nt.autograd.grad(nt.linalg.det(x).sum(), x, create_graph=True)
        return nt.autograd.grad(slope.pow(3).sum(), x, create_graph=True)[0]

    x = nt.randn(2, 3, 3, dtype=nt.float64, generator=nt.Generator().manual_seed(0))
    assert nt.autograd.gradcheck(curvature, (x.requires_grad_(),))
