"""Sorting and selecting along rows on a GPU: the CPU's indices, and one launch.

Runs the kernel of `order.cu` through g++ on the look-alike of CuPy; and, where there is a device,
on CuPy itself (`pytest -m gpu`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import strict_cupy
from strict_cupy.kernels import launched

import nanotorch as nt
from nanotorch.backend.cuda import indexing

pytestmark = pytest.mark.skipif(strict_cupy.COMPILER is None, reason="there is no g++")

KINDS = ["float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "uint8", "bool"]
SHAPES = {
    "a vector": ((300,), 0),
    "rows": ((3, 257), 1),
    "columns": ((70, 2), 0),
    "between": ((2, 33, 3), 1),
    "one": ((4, 1), 1),
    "a tile": ((1, 4096), 1),
}
OPS: dict[str, Callable[[Any, int], Any]] = {
    "argsort": lambda x, d: x.argsort(d),
    "descending": lambda x, d: x.argsort(d, descending=True),
    "sort": lambda x, d: x.sort(d),
    "topk": lambda x, d: x.topk(min(5, x.shape[d]), d),
    "last dim": lambda x, d: x.movedim(d, -1).sort(),
    "smallest": lambda x, d: x.topk(-(-x.shape[d] // 2), d, largest=False),
    "kthvalue": lambda x, d: x.kthvalue(-(-2 * x.shape[d] // 3), d),
    "median": lambda x, d: x.median(d),
    "median kept": lambda x, d: x.median(d, keepdim=True),
    "msort": lambda x, d: x.movedim(d, 0).msort(),
}


def drawn(shape: tuple[int, ...], kind: str, seed: int = 0) -> Any:
    """Values with many equals, both zeros, numbers too small to be normal, infinities and NaN."""
    generator = numpy.random.default_rng(seed)
    values = generator.integers(-40, 40, shape) * generator.choice([1, 1, 1000, 1e-40], shape)
    if "float" in kind:
        ends = [numpy.nan, -numpy.nan, numpy.inf, -numpy.inf, -0.0, 0.0]
        values = numpy.where(generator.random(shape) < 0.1, generator.choice(ends, shape), values)
        if len(shape) > 1:
            values[:1] = numpy.nan_to_num(values[:1])  # a row without NaN
    return nt.tensor(values).to(getattr(nt, kind))


def parts(y: Any) -> list[Any]:
    return list(y) if isinstance(y, tuple) else [y]


def assert_same(found: Any, expected: Any) -> None:
    for mine, other in zip(parts(found), parts(expected), strict=True):
        assert mine.dtype == other.dtype
        numpy.testing.assert_array_equal(mine.cpu().double().numpy(), other.double().numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", SHAPES)
@pytest.mark.parametrize("op", OPS)
def test_the_elements_and_their_indices_are_those_of_the_cpu(
    op: str, where: str, kind: str, cuda: str
) -> None:
    if kind == "bool" and op != "argsort":
        kind = "int8"
    shape, dim = SHAPES[where]
    x = drawn(shape, kind)
    assert_same(OPS[op](x.to("cuda"), dim), OPS[op](x, dim))


@pytest.mark.parametrize("kind", ["float32", "float64", "int32"])
@pytest.mark.parametrize("k", [1, 2, 255, 256, 257, 4096])
def test_the_first_of_long_rows_are_selected(k: int, kind: str, cuda: str) -> None:
    few = drawn((2, 9000), kind, k)  # of which many equal the last one
    many = nt.from_numpy(numpy.random.default_rng(k).standard_normal((2, 9000))).to(few.dtype)
    for x in (few, many):
        for largest in (True, False):
            assert_same(x.to("cuda").topk(k, largest=largest), x.topk(k, largest=largest))
        assert_same(x.to("cuda").kthvalue(2 * k), x.kthvalue(2 * k))


def test_what_the_kernel_does_not_take_is_sorted_all_the_same(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SORTED", 16)
    monkeypatch.setattr(indexing, "LONGEST", 8)
    for shape in ((20,), (3, 20), (3, 30), (0, 4), (3, 0)):
        x = drawn(shape, "float32")
        assert_same(x.to("cuda").sort(-1), x.sort(-1))
        assert_same(x.to("cuda").topk(min(18, shape[-1])), x.topk(min(18, shape[-1])))
    assert_same(drawn((4, 20), "float32").to("cuda").T.sort(0), drawn((4, 20), "float32").T.sort(0))


@pytest.mark.parametrize("op", ["argsort", "sort", "topk", "kthvalue", "median"])
def test_indices_are_one_launch_and_slopes_a_fill_and_one(op: str, cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("only the look-alike counts")
    x = nt.randn(4, 40, device="cuda").requires_grad_()
    for _ in range(2):
        launched.clear()
        y = OPS[op](x, 1)
        names = dict(launched)
        assert names.pop("first<float>") == 1
        assert set(names) <= {"take_along<unsigned int>"}
        if op != "argsort":
            launched.clear()
            y[0].sum().backward()
            assert dict(launched) == {"add_along<float>": 1}


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("where", SHAPES)
@pytest.mark.parametrize("op", ["cummax", "cummin"])
def test_running_extremes_are_those_of_the_cpu(op: str, where: str, kind: str, cuda: str) -> None:
    shape, dim = SHAPES[where]
    x = drawn(shape, kind)
    x = x.where(x.abs() > 1e-30, nt.zeros_like(x))  # a device takes what is tiny for 0
    assert_same(getattr(x.to("cuda"), op)(dim), getattr(x, op)(dim))


@pytest.mark.parametrize("where", SHAPES)
def test_running_sums_of_exponentials_are_those_of_the_cpu(where: str, cuda: str) -> None:
    shape, dim = SHAPES[where]
    finite = nt.randn(shape) * 100
    endless = nt.where(nt.rand(shape) < 0.01, nt.tensor(float("inf")), finite)
    empty = nt.where(nt.rand(shape) < 0.7, nt.tensor(-float("inf")), finite)
    for x in (finite, endless, empty, drawn(shape, "float32")):
        found, expected = x.to("cuda").logcumsumexp(dim).cpu(), x.logcumsumexp(dim)
        numpy.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_what_runs_along_rows_is_one_launch(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("only the look-alike counts")
    launched.clear()
    nt.randn(4, 300, device="cuda").logcumsumexp(1)
    nt.randn(4, 300, device="cuda").cummax(1)
    assert {n: k for n, k in launched.items() if "scan" in n} == {"scan<float>": 2}
