"""Complex numbers: their parts, and gradients that are PyTorch's, conjugates of the slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest

import nanotorch as nt

Z = numpy.array([1 + 2j, 3 - 1j, -0.5 + 0.25j])
W = numpy.array([2 - 1j, 0.5 + 1j, 1j])
R = numpy.array([1.5, -2.0, 0.3])

# Functions of complex z and w, and of real r, with a real result.
CASES: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "mul": lambda t, z, w, r: (z * w * r).real.sum(),
    "div": lambda t, z, w, r: (w / z + z / r).imag.sum(),
    "power": lambda t, z, w, r: (z**3 + z**w).real.sum(),
    "exp": lambda t, z, w, r: (z.exp() + w.log()).imag.sum(),
    "sines": lambda t, z, w, r: (z.sin() * w.tanh()).real.sum(),
    "root": lambda t, z, w, r: (z.sqrt() + w.rsqrt() + w.square()).real.sum(),
    "abs": lambda t, z, w, r: ((z * w).abs() ** 2 + z.abs()).sum(),
    "angle": lambda t, z, w, r: (z.angle() * w.abs()).sum(),
    "sgn": lambda t, z, w, r: (z.sgn() * w).real.sum(),
    "conj": lambda t, z, w, r: (z.conj() * w * w).real.sum(),
    "adjoint": lambda t, z, w, r: (t.outer(z, w).H @ t.outer(z, z)).imag.sum(),
    "matrices": lambda t, z, w, r: (t.outer(z, w) @ t.outer(w, w)).abs().sum(),
    "linear": lambda t, z, w, r: t.nn.functional.linear(z, t.outer(w, w), w).imag.sum(),
    "einsum": lambda t, z, w, r: t.einsum("i,j->ij", z, w).real.pow(2).sum(),
    "vdot": lambda t, z, w, r: t.vdot(z, w).imag + t.dot(z, w).real,
    "inverse": lambda t, z, w, r: t.linalg.inv(t.diag(z) + t.outer(w, w)).real.sum(),
    "determinant": lambda t, z, w, r: t.linalg.det(t.diag(z) + t.outer(w, w)).imag,
    "sums": lambda t, z, w, r: z.mean().abs() + w.sum().angle() + z.cumsum(0).abs().sum(),
    "product": lambda t, z, w, r: z.prod().imag,
    "norm": lambda t, z, w, r: z.norm() + t.linalg.vector_norm(w, 3),
    "spread": lambda t, z, w, r: z.var() + w.std(),
    "joined": lambda t, z, w, r: (t.cat([z, w, r])[2:7] ** 2 * 1j).imag.sum(),
    "where": lambda t, z, w, r: t.where(r > 0, z, w).abs().sum(),
    "in place": lambda t, z, w, r: z.clone().mul_(w).add_(z).abs().sum(),
    "polar": lambda t, z, w, r: (t.polar(r.abs() + 1, r) * z).real.sum(),
    "complex": lambda t, z, w, r: (t.complex(r, r * 2) * z).imag.sum(),
    "imaginary": lambda t, z, w, r: (r * 1j * z).exp().real.sum(),
    "parts": lambda t, z, w, r: (t.view_as_real(z * w) * r[:2]).pow(2).sum(),
    "pairs": lambda t, z, w, r: (t.view_as_complex(t.view_as_real(z) * r[:2]) * w).imag.sum(),
    "cast": lambda t, z, w, r: (r.to(t.complex128) * z).abs().sum(),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_complex_numbers_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    results: list[Any] = []
    for library in (nt, torch):
        leaves = [library.tensor(values, requires_grad=True) for values in (Z, W, R)]
        y = CASES[name](library, *leaves)
        first = library.autograd.grad(y, leaves, create_graph=True, materialize_grads=True)
        total = sum(g.abs().pow(2).sum() for g in first)
        second = library.autograd.grad(total, leaves, materialize_grads=True)
        results.append([v.detach().resolve_conj().numpy() for v in (y, *first, *second)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        numpy.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "imag": lambda t: t.ones(2).imag,
    "view_as_real": lambda t: t.view_as_real(t.ones(2)),
    "view_as_complex": lambda t: t.view_as_complex(t.ones(3)),
    "view_as_complex of integers": lambda t: t.view_as_complex(t.ones(2, dtype=t.int64)),
    "complex of two dtypes": lambda t: t.complex(t.ones(2), t.ones(2, dtype=t.float64)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_complex_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError):
        REFUSED[name](nt)


def test_the_real_part_of_real_numbers_is_themselves() -> None:
    x = nt.ones(2)
    assert x.real is x
    assert nt.view_as_complex(nt.ones(1, 2)).dtype is nt.complex64
