"""Runs random programs on NanoTorch and on PyTorch until they differ: `python scripts/fuzz.py
20000`.

Program number n is always the same one: `python scripts/fuzz.py 1 --first n` runs it again. With
`--corners` its values are NaN, infinities, kinks, zeros and nothing at all, and it copies tensors,
divides integers and changes modes in generators as well. With `--modules` they are programs of
layers, losses, optimizers and schedules; with `--steps` their steps are compiled by NanoTorch and
compared, bit for bit, with its eager ones. With `--device cuda` NanoTorch runs on a
GPU, or with `--look-alike` on the tests' imitation of CuPy; PyTorch stays on the CPU.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import torch
from fuzzing import CornerProgram, Difference, Program, shrunk
from fuzzing_modules import ModuleProgram, StepProgram

import nanotorch
from nanotorch import sampling
from nanotorch.backend import register_cuda_module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", type=int, nargs="?", default=2000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first program")
    parser.add_argument("--corners", action="store_true", help="programs at the corners")
    parser.add_argument("--modules", action="store_true", help="layers, optimizers and schedules")
    parser.add_argument("--steps", action="store_true", help="compiled steps beside eager ones")
    parser.add_argument("--length", type=int, default=20, help="lines per program")
    parser.add_argument("--keep-going", type=int, default=1, help="stop after so many differences")
    parser.add_argument("--device", default="cpu", help="where NanoTorch runs: cpu or cuda")
    parser.add_argument("--look-alike", action="store_true", help="cuda without a GPU")
    options = parser.parse_args()
    if options.look_alike:
        register_look_alike()
    nanotorch.set_default_device(options.device)
    if not options.steps:  # the numbers of the CPU's generator, which PyTorch draws
        sampling.default_cuda_engine = lambda place: sampling.default_engine
    torch.set_num_threads(1)
    started, found = time.perf_counter(), 0
    kinds = {"corners": CornerProgram, "modules": ModuleProgram, "steps": StepProgram}
    kind = next((kinds[name] for name in kinds if getattr(options, name)), Program)
    for number in range(options.first, options.first + options.programs):
        program = kind(random.Random(number), torch)
        try:
            program.run(options.length)
        except Difference as difference:
            found += 1
            print(f"\nprogram {number}:{shrunk(program, torch) or difference}")
            if found >= options.keep_going:
                break
    done, seconds = number + 1 - options.first, time.perf_counter() - started
    print(f"{done} programs, {found} differences, {seconds:.0f} s")
    return 1 if found else 0


def register_look_alike() -> None:
    """Puts the strict look-alike of CuPy and its cuBLAS in the place of a GPU."""
    import strict_cupy
    from strict_cupy.cublas import Library

    from nanotorch.backend.cuda import cublas

    cublas.libraries[strict_cupy] = cublas.declared(Library())
    register_cuda_module(strict_cupy)


if __name__ == "__main__":
    sys.exit(main())
