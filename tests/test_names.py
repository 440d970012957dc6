"""The list of names in `ops`: what becomes a function, a method, and a method that writes."""

from __future__ import annotations

from typing import Any

import pytest

import nanotorch as nt
from nanotorch import ops
from nanotorch.operators import elementwise_in_place

WRITING = sorted(elementwise_in_place())


@pytest.mark.parametrize("name", ops.FUNCTIONS)
def test_a_function_of_the_list_is_the_packages(name: str) -> None:
    assert getattr(nt, name) is ops.FUNCTIONS[name]


@pytest.mark.parametrize("name", ops.METHODS)
def test_a_method_of_the_list_is_the_tensors(name: str) -> None:
    assert getattr(nt.Tensor, name) is ops.METHODS[name]


def test_the_tables_name_what_is_there() -> None:
    tables = ops.INTERNAL | ops.FUNCTIONS_ONLY | ops.METHODS_ONLY
    assert {
        name for name in tables if name not in vars(ops).keys() | ops.ALIASES | ops.LATER.keys()
    } == set()
    assert not hasattr(nt, "cast") and not hasattr(nt.Tensor, "cat") and not hasattr(nt, "view")


@pytest.mark.parametrize("name", WRITING)
def test_a_name_that_ends_in_an_underscore_writes_what_the_op_gives(name: str) -> None:
    op = ops.METHODS[name[:-1]]
    operands = (
        [nt.tensor([0.5, 0.25])] if op.__code__.co_argcount == 2 and not op.__defaults__ else []
    )
    x = nt.tensor([0.3, 1.6] if "cosh" in name else [0.3, 0.6])
    expected = op(x, *operands)
    result = getattr(x, name)(*operands)
    assert result is x and x._version == 1
    assert x.isnan().tolist() == expected.isnan().tolist()
    assert x.nan_to_num().tolist() == expected.nan_to_num().tolist()


@pytest.mark.torch
@pytest.mark.parametrize("owner", ["functions", "methods"])
def test_every_name_is_pytorchs(owner: str) -> None:
    torch: Any = pytest.importorskip("torch")
    if owner == "functions":
        assert [name for name in ops.FUNCTIONS if not hasattr(torch, name)] == []
    else:
        names = [*ops.METHODS, *WRITING]
        assert [name for name in names if not hasattr(torch.Tensor, name)] == []
