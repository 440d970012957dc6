"""Random programs do the same in NanoTorch and in PyTorch; `scripts/fuzz.py` runs many more of
them."""

from __future__ import annotations

from random import Random

import pytest
from fuzzing import CornerProgram, Difference, Program, attempt
from fuzzing_modules import ModuleProgram, StepProgram
from hypothesis import given, settings, strategies as st

import nanotorch


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
@pytest.mark.parametrize("seed", range(80))
def test_numbered_programs_at_the_corners_do_the_same(seed: int) -> None:
    CornerProgram(Random(seed), pytest.importorskip("torch")).run(20)


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(60))
def test_numbered_programs_do_the_same_on_a_gpu(seed: int, cuda: str) -> None:
    nanotorch.set_default_device("cuda")
    try:
        for kind in (Program, CornerProgram):
            kind(Random(seed), pytest.importorskip("torch")).run(20)
    finally:
        nanotorch.set_default_device("cpu")


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(80))
def test_numbered_programs_of_layers_and_optimizers_do_the_same(seed: int) -> None:
    ModuleProgram(Random(seed), pytest.importorskip("torch")).run(20)


@pytest.mark.parametrize("seed", range(60))
def test_numbered_programs_of_compiled_steps_do_what_eager_ones_do(seed: int) -> None:
    StepProgram(Random(seed)).run(40)


CORNERS = (
    "nan", "inf", "[]", "70_000", "// 0", "deepcopy", "pickle", "hessian", "jvp", "vmap",
    "resumed(t.inference_mode", ".send(", "F.relu6", "cross_entropy", "float16",
)  # fmt: skip


@pytest.mark.torch
def test_programs_at_the_corners_have_all_of_them() -> None:
    lines = []
    for seed in range(400):
        program = CornerProgram(Random(seed), pytest.importorskip("torch"))
        program.run(20)
        lines += program.lines
    text = "\n".join(lines)
    for part in CORNERS:
        assert part in text, part


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
