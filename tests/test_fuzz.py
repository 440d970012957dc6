"""Random programs do the same in NanoTorch and in PyTorch; `scripts/fuzz.py` runs many more of
them."""

from __future__ import annotations

from random import Random

import pytest
from fuzzing import Difference, Program, attempt
from hypothesis import given, settings, strategies as st


@pytest.mark.torch
@settings(max_examples=40)
@given(st.randoms(use_true_random=False))
def test_random_programs_do_the_same(random: Random) -> None:
    Program(random, pytest.importorskip("torch")).run(15)


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(80))
def test_numbered_programs_do_the_same(seed: int) -> None:
    Program(Random(seed), pytest.importorskip("torch")).run(20)


@pytest.mark.torch
@pytest.mark.parametrize(
    "line",
    [
        "x.mul_(2)",
        "x = t.tensor([1.0, 2.1])",
        "x.requires_grad_()",
        "x = x.double()",
        "x = x.view(2, 1)",
        "x.mul_(1)",
        "x.grad = x * 2",
    ],
)
def test_what_only_one_library_does_is_seen(line: str) -> None:
    program = Program(Random(0), pytest.importorskip("torch"))
    program.run_line("x = t.tensor([1.0, 2.0])")
    program.begin("x")
    assert attempt(compile(line, "<ours alone>", "exec"), program.ours) is None
    with pytest.raises(Difference, match=r"x = t\.tensor\(\[1\.0, 2\.0\]\)"):
        program.run_line("y = 1")
