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
