"""Kernels that take another way where elements are many: the results are those of the plain one."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

import nanotorch as nt

Array = Any


def drawn(dtype: str, shape: tuple[int, ...]) -> Array:
    """Numbers of which many are equal; floats with zeros of both signs, infinities and NaN."""
    rng = numpy.random.default_rng(len(dtype) + sum(shape))
    if dtype == "wide":  # integers that leave no bits for places
        return rng.choice(numpy.array([-(2**63), -1, 0, 7, 2**63 - 1]), shape)
    x = numpy.asarray(rng.integers(-9, 9, shape) / 2).astype(dtype)
    if dtype.startswith("float"):
        special = numpy.array([0.0, -0.0, numpy.inf, -numpy.inf, numpy.nan, -numpy.nan])
        x = numpy.where(rng.random(shape) < 0.2, rng.choice(special, shape), x).astype(dtype)
    return x


# --- order ----------------------------------------------------------------------------------------

KINDS = ["float32", "float64", "float16", "int64", "wide", "int32", "uint8", "bool"]
SHAPES = [(40,), (5, 9), (3, 200), (200, 3), (2, 41, 6), (1, 1), (3, 0), ()]


def places_in_order(x: Array, dim: int, descending: bool) -> Array:
    """The indices of a stable sort."""
    if not x.ndim:
        return numpy.zeros((), int)
    if not descending:
        return numpy.argsort(x, dim, kind="stable")
    back = numpy.argsort(numpy.flip(x, dim), dim, kind="stable")
    return x.shape[dim] - 1 - numpy.flip(back, dim)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_elements_and_nan_have_the_places_of_a_stable_sort(
    kind: str, shape: tuple[int, ...]
) -> None:
    values = drawn(kind, shape)
    x = nt.tensor(values)
    for dim in range(len(shape)) or [0]:
        size = shape[dim] if shape else 1
        for descending in (False, True):
            order = places_in_order(values, dim, descending)
            numpy.testing.assert_array_equal(x.argsort(dim, descending).numpy(), order)
            for k in {min(n, size) for n in (0, 1, 2, 9, size // 5, size)}:
                first = order.take(range(k), dim) if shape else order
                places = x.topk(k, dim, descending).indices.numpy()
                numpy.testing.assert_array_equal(places, first)
        if shape and 0 not in shape:
            for k in {1, (size + 1) // 2, size}:
                place = places_in_order(values, dim, False).take(k - 1, dim)
                numpy.testing.assert_array_equal(x.kthvalue(k, dim).indices.numpy(), place)


# --- selection ------------------------------------------------------------------------------------

BROADCAST = [
    ((70, 50), (70, 50), (70, 50)), ((70, 50), (50,), ()), ((50,), (70, 50), (70, 1)),
    ((70, 1), (50,), (70, 50)), ((70, 50), (1,), (1, 1)), ((70, 1), (1, 50), ()),
]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shapes", BROADCAST, ids=str)
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_what_is_selected_keeps_its_bits_however_it_is_broadcast(
    kind: str, shapes: Any, turned: bool
) -> None:
    mask, a, b = (drawn(k, s) for k, s in zip(("bool", kind, kind), shapes, strict=True))
    if turned:
        mask, a, b = (numpy.asfortranarray(x) for x in (mask, a, b))
    for other in (b, 0, 1.5):
        y = nt.where(nt.tensor(mask), nt.tensor(a), other if other is not b else nt.tensor(b))
        expected = numpy.where(mask, a, other).astype(kind)
        assert y.numpy().tobytes() == expected.tobytes()


# --- running results, products, windows and copies ------------------------------------------------

LARGE = [(40, 300), (300, 40), (700, 5), (5, 700), (9, 31, 33), (3, 4, 900), (600,), (1, 999)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("kind", ["float32", "int32", "bool"])
def test_running_results_have_the_bits_of_one_after_the_other(
    kind: str, shape: tuple[int, ...], turned: bool
) -> None:
    values = drawn(kind, shape)
    if turned:
        values = numpy.asfortranarray(values)
    x, count = nt.tensor(values), numpy.arange(max(shape))
    for dim in range(len(shape)):
        wide = values if kind == "float32" else values.astype(int)
        for kernel, y in ((numpy.add, x.cumsum(dim)), (numpy.multiply, x.cumprod(dim))):
            with numpy.errstate(all="ignore"):
                expected = kernel.accumulate(wide, dim)
            numpy.testing.assert_array_equal(y.numpy(), expected)
        places = count[: shape[dim]].reshape([-1 if d == dim else 1 for d in range(len(shape))])
        for name, ufunc in (("cummax", numpy.maximum), ("cummin", numpy.minimum)):
            best = ufunc.accumulate(values, dim)
            hits = numpy.where((values == best) | (values != values), places, 0)
            found = getattr(x, name)(dim)
            numpy.testing.assert_array_equal(found[0].numpy(), best)
            numpy.testing.assert_array_equal(found[1].numpy(), numpy.maximum.accumulate(hits, dim))


@pytest.mark.parametrize("shape", [(32,), (33,), (2, 1000), (1000, 2), (3, 5, 67), (0, 40), (7,)])
@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "bool"])
def test_products_of_many_are_those_of_one_after_the_other(
    kind: str, shape: tuple[int, ...]
) -> None:
    values = numpy.random.default_rng(0).uniform(0.9, 1.1, shape)
    values = (values if kind.startswith("float") else values * 5).astype(kind)
    x = nt.tensor(values)
    for dim in (None, *range(len(shape))):
        for keepdim in (False, True) if dim is not None else (False,):
            y = x.prod() if dim is None else x.prod(dim, keepdim)
            expected = numpy.prod(values, dim, keepdims=keepdim)
            assert y.shape == expected.shape
            numpy.testing.assert_allclose(y.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("size, step", [(3, 1), (16, 1), (40, 7), (60, 1), (20, 20)])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_windows_long_and_short_are_those_of_pytorch(dim: int, size: int, step: int) -> None:
    x = numpy.random.default_rng(0).random((60, 61, 62))
    windows = numpy.lib.stride_tricks.sliding_window_view(x, size, dim)
    expected = windows[(*(slice(None),) * dim, slice(None, None, step))]
    numpy.testing.assert_array_equal(nt.tensor(x).unfold(dim, size, step).numpy(), expected)


@pytest.mark.parametrize("shape", [(512, 256), (256, 40), (64, 1024), (512, 33)], ids=str)
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8"])
def test_a_transposed_matrix_is_copied_as_it_is(kind: str, shape: tuple[int, ...]) -> None:
    values = drawn(kind, shape)
    x = nt.tensor(values).t()
    written = nt.zeros(shape[::-1], dtype=nt.float64).copy_(x)
    for y in (x.contiguous(), x.reshape(-1).reshape(x.shape), written):
        assert y.is_contiguous()
        numpy.testing.assert_array_equal(y.numpy(), values.T)


@pytest.mark.parametrize("name", ["amax", "amin", "prod"])
def test_short_rows_are_reduced_as_long_ones(name: str) -> None:
    values = drawn("float32", (300, 7))
    with numpy.errstate(all="ignore"):
        expected = getattr(numpy, name)(values, 1)
    for keepdim in (False, True):
        y = getattr(nt.tensor(values), name)(1, keepdim)
        numpy.testing.assert_array_equal(y.numpy().reshape(-1), expected)


# --- what is computed in pieces, or by slices -----------------------------------------------------


@pytest.mark.parametrize("name", ["remainder", "fmod", "floor_divide"])
@pytest.mark.parametrize("number", ["", "a", "b"])
def test_rests_of_many_are_those_of_few(name: str, number: str) -> None:
    a, b = drawn("float32", (60_000,)), numpy.roll(drawn("float32", (60_000,)), 7)
    rests = getattr(nt, name)
    few = []
    for start in range(0, 3_000, 200):
        parts = [nt.tensor(x[start : start + 200]) for x in (a, b)]
        few.append(rests(*(_or_number(number, *parts))).numpy())
    many = rests(*_or_number(number, nt.tensor(a), nt.tensor(b))).numpy()[:3_000]
    expected = numpy.concatenate(few)
    numpy.testing.assert_array_equal(many, expected)
    signs = numpy.signbit(many) == numpy.signbit(expected)
    assert (signs | numpy.isnan(many)).all()


def _or_number(which: str, a: Any, b: Any) -> tuple[Any, Any]:
    """The operands, one of which may be a number."""
    return (3.5 if which == "a" else a), (-1.5 if which == "b" else b)


PADS = [(2, 1), (0, 3), (1, 0), (0, 0), (-1, 2), (2, -1), (-1, -1), (3, 3), (-3, 0)]


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("amounts", PADS, ids=str)
def test_what_a_tensor_goes_on_as_is_pytorchs(amounts: tuple[int, int], mode: str) -> None:
    torch = pytest.importorskip("torch")
    results = []
    for t in (torch, nt):
        x = t.arange(64.0).reshape(2, 2, 4, 4).requires_grad_()
        limited = [min(n, 2) for n in amounts] if mode == "reflect" else list(amounts)
        y = t.nn.functional.pad(x, (*amounts, *limited), mode=mode)
        (y * t.arange(float(y.numel())).reshape(y.shape)).sum().backward()
        results.append((y.detach().numpy(), x.grad.numpy()))
    for ours, theirs in zip(results[1], results[0], strict=True):
        numpy.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_pad_that_only_cuts_off_may_leave_nothing(cut: int, mode: str) -> None:
    x = nt.arange(64.0).reshape(2, 2, 4, 4)
    y = nt.nn.functional.pad(x, (0, 0, 0, -cut), mode=mode)
    assert y.is_contiguous() and nt.equal(y, x[:, :, : 4 - cut])


@pytest.mark.parametrize("width", [1, 7, 40, 5000])
@pytest.mark.parametrize("name", ["amax", "amin", "prod"])
def test_rows_are_reduced_in_the_order_of_the_values(name: str, width: int) -> None:
    rng = numpy.random.default_rng(0)
    target, values = rng.random((30, width), "f"), rng.random((200, width), "f") + 0.5
    values[rng.random(values.shape) < 0.1] = numpy.nan
    rows = rng.integers(0, 30, 200)
    y = nt.tensor(target).index_reduce(0, nt.tensor(rows), nt.tensor(values), name)
    ufunc = {"amax": numpy.maximum, "amin": numpy.minimum, "prod": numpy.multiply}[name]
    expected = target.copy()
    for row, value in zip(rows, values, strict=True):
        expected[row] = ufunc(expected[row], value)
    numpy.testing.assert_allclose(y.numpy(), expected, rtol=1e-5 if name == "prod" else 0)
