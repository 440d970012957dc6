"""The dtype of every mixture of operands is PyTorch's."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy
import pytest

import nanotorch

REAL = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
DTYPES = (*REAL, "complex64", "complex128")
NUMBERS = (True, 2, 2.0, 2j)


def operands(library: Any, complex_too: bool = True) -> Iterator[tuple[str, Any]]:
    """Tensors with dimensions and without, of every dtype, and Python numbers, by name."""
    for name in DTYPES if complex_too else REAL:
        dtype = getattr(library, name)
        yield f"{name} with dimensions", library.ones(2, dtype=dtype)
        yield f"{name} 0-dim", library.ones((), dtype=dtype)
    for number in NUMBERS if complex_too else NUMBERS[:3]:
        yield f"the number {number}", number


def table(library: Any, function: Callable[[Any, Any], Any], complex_too: bool) -> dict[Any, str]:
    """The dtype (or the error's class) of the function of every pair with a tensor."""
    found = {}
    for (one, a), (other, b) in product(operands(library, complex_too), repeat=2):
        if not hasattr(a, "dtype") and not hasattr(b, "dtype"):
            continue
        if "float16" in one + other and ("complex" in one + other or "j" in one + other):
            continue  # NumPy has no complex32
        try:
            result = function(a, b)
            found[one, other] = repr(getattr(result, "dtype", result))
        except (RuntimeError, TypeError) as error:
            found[one, other] = type(error).__name__
    return found


def assert_same(ours: dict[Any, str], theirs: dict[Any, str]) -> None:
    wrong = {pair: (ours[pair], theirs[pair]) for pair in theirs if ours[pair] != theirs[pair]}
    assert not wrong, f"{len(wrong)} of {len(theirs)}: {dict(list(wrong.items())[:10])}"


@pytest.mark.torch
@pytest.mark.parametrize("default", ["float32", "float64"])
def test_result_type_is_that_of_pytorch(default: str) -> None:
    torch = pytest.importorskip("torch")
    tables = []
    for library in (nanotorch, torch):
        before = library.get_default_dtype()
        library.set_default_dtype(getattr(library, default))
        try:
            tables.append(table(library, library.result_type, True))
        finally:
            library.set_default_dtype(before)
    assert_same(*tables)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["add", "mul", "truediv", "eq", "lt"])
def test_operators_give_the_dtype_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    function, complex_too = getattr(operator, name), name in ("add", "mul", "eq")
    assert_same(*(table(library, function, complex_too) for library in (nanotorch, torch)))


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["maximum", "minimum", "floor_divide", "remainder", "where", "pow"]
)
def test_functions_give_the_dtype_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    tables = []
    for library in (nanotorch, torch):

        def function(a: Any, b: Any, library: Any = library) -> Any:
            if name == "where":
                return library.where(library.tensor([True, False]), a, b)
            if name == "pow" and getattr(a, "dtype", a) in (library.bool, True):
                a = library.tensor(1)  # powers of booleans are numbers here
            return getattr(library, name)(a, b)

        tables.append(table(library, function, False))
    refused = {pair for pair, dtype in tables[1].items() if dtype.endswith("Error")}
    ours = {pair: dtype for pair, dtype in tables[0].items() if pair not in refused}
    theirs = {pair: dtype for pair, dtype in tables[1].items() if pair not in refused}
    assert_same(ours, theirs)


@pytest.mark.torch
def test_promote_types_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for a, b in product(DTYPES, repeat=2):
        one, other = (
            repr(t.promote_types(getattr(t, a), getattr(t, b))) for t in (nanotorch, torch)
        )
        assert one == other, (a, b)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["add_", "mul_", "sub_", "div_", "copy_", "fill_"])
def test_writing_in_place_keeps_the_dtype_or_refuses(name: str) -> None:
    torch = pytest.importorskip("torch")
    tables = []
    for library in (nanotorch, torch):

        def function(a: Any, b: Any) -> Any:
            if not hasattr(a, "dtype"):
                return None
            return getattr(a, name)(b)

        found = table(library, function, False)
        bools = {p for p in found if "bool" in p[0] + p[1] or "True" in p[1]}
        tables.append({p: v for p, v in found.items() if name != "sub_" or p not in bools})
    assert_same(*tables)


def test_python_numbers_never_widen() -> None:
    x = nanotorch.ones(2, dtype=nanotorch.float16)
    assert (x * 1.5).dtype is nanotorch.float16
    assert (x.to(nanotorch.int8) + 1).dtype is nanotorch.int8
    assert (nanotorch.ones(2, dtype=nanotorch.int32) * 0.5).dtype is nanotorch.float32


def test_numpy_scalars_count_as_python_numbers() -> None:
    x = nanotorch.ones(2)
    assert (x * numpy.float64(2)).dtype is nanotorch.float32
    assert (numpy.float64(2) * x).dtype is nanotorch.float32
    assert (nanotorch.tensor([1, 2]) * numpy.float64(0.5)).dtype is nanotorch.float32


def test_sums_of_integers_are_wide() -> None:
    for dtype in (nanotorch.bool, nanotorch.uint8, nanotorch.int32):
        assert nanotorch.ones(3, dtype=dtype).sum().dtype is nanotorch.int64
        assert nanotorch.ones(3, dtype=dtype).cumsum(0).dtype is nanotorch.int64
