"""What tutorials of automatic differentiation do, cell by cell, printed character for character.

Each cell is a program that uses the name `torch`. It is run with NanoTorch under that name and,
where PyTorch is installed, with PyTorch itself; addresses of objects, which differ between any two
runs, are left out.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from textwrap import dedent
from typing import Any

import pytest
from document_cells import CELLS, Cell

import nanotorch


def printed_by(program: str, library: Any) -> str:
    """What a program prints when `torch` is the given library."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        # PyTorch warns of reading the gradient of what is no leaf.
        warnings.filterwarnings(
            "ignore", message="The .grad attribute of a Tensor that is not a leaf"
        )
        exec(dedent(program), {"torch": library})
    return re.sub(r"0x[0-9a-f]+", "0x…", out.getvalue())


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_prints_what_pytorch_prints(cell: Cell) -> None:
    assert printed_by(cell.program, nanotorch) == dedent(cell.printed).lstrip("\n")


@pytest.mark.torch
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_pytorch_itself_prints_what_is_written_here(cell: Cell) -> None:
    torch = pytest.importorskip("torch")
    assert printed_by(cell.program, torch) == dedent(cell.printed).lstrip("\n")


def test_an_explicit_graph_is_built_before_there_are_data() -> None:
    program = """
        from nanotorch import sym

        a = sym.var("a")
        b = sym.var("b")
        c = 2 * a + b
        print(c.list_arguments())
        print(c.debug_str())
        print(c.eval(a=torch.ones((2, 1)), b=torch.ones((2, 1))))
    """
    assert printed_by(program, nanotorch) == dedent(
        """\
        ['a', 'b']
        a: variable
        mul0 = mul(a, 2)
        b: variable
        add0 = add(mul0, b)
        outputs: add0
        tensor([[3.],
                [3.]])
        """
    )


def test_a_recorded_graph_is_built_while_computing() -> None:
    program = """
        a = torch.ones((2, 1), requires_grad=True)
        b = torch.ones((2, 1))
        with torch.no_grad():
            with torch.autograd.record():
                c = 2 * a + b
            print(c)
        c.backward(torch.ones_like(c))
        print(a.grad)
        with torch.autograd.pause():
            print(2 * a + b)
    """
    assert printed_by(program, nanotorch) == dedent(
        """\
        tensor([[3.],
                [3.]], grad_fn=<AddBackward0>)
        tensor([[2.],
                [2.]])
        tensor([[3.],
                [3.]])
        """
    )
