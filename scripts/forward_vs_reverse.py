"""Measures what forward and reverse accumulation cost for a whole Jacobian, and draws it.

    python scripts/forward_vs_reverse.py [--output picture.png] [--width 4096]

The function maps n inputs over `depth` elementwise layers of `width` numbers to m outputs. Forward
mode needs one pass per input, whatever the outputs; reverse mode one pass per output, whatever the
inputs, and keeps every layer until it has walked back. Time is the processor's, the least of
several runs, so that a busy machine does not count; memory is the peak that tracemalloc sees above
what was there before. Takes about ten seconds.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib

import nanotorch as nt
from nanotorch import func

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import ScalarFormatter

ROOT = Path(__file__).resolve().parent.parent
MODES = {"forward": ("tab:orange", "o"), "reverse": ("tab:blue", "s")}


class Case(NamedTuple):
    """The sizes of one function."""

    inputs: int
    outputs: int
    depth: int


SWEEPS = {
    "inputs": [Case(n, 1, 50) for n in (1, 2, 4, 8, 16, 32, 64)],
    "outputs": [Case(1, m, 50) for m in (1, 2, 4, 8, 16, 32, 64)],
    "depth": [Case(1, 1, d) for d in (5, 10, 20, 40, 80, 160, 320)],
}


def network(case: Case, width: int) -> tuple[Callable[[nt.Tensor], nt.Tensor], nt.Tensor]:
    """A function of those sizes, and a point."""
    nt.manual_seed(0)
    spread = nt.randn(width, case.inputs)
    gather = nt.randn(case.outputs, width) / width
    scale = nt.rand(width)

    def function(x: nt.Tensor) -> nt.Tensor:
        h = spread @ x
        for _ in range(case.depth):
            h = nt.sin(h * scale)
        return gather @ h

    return function, nt.randn(case.inputs)


def forward_jacobian(function: Callable[[nt.Tensor], nt.Tensor], x: nt.Tensor) -> nt.Tensor:
    """The Jacobian column by column: one evaluation with a tangent for each input."""
    basis = nt.eye(x.numel())
    return nt.stack([func.jvp(function, (x,), (t,))[1] for t in basis], 1)


def reverse_jacobian(function: Callable[[nt.Tensor], nt.Tensor], x: nt.Tensor) -> nt.Tensor:
    """The Jacobian row by row: one evaluation, then a backward walk for each output."""
    y, pull = func.vjp(function, x)
    return nt.stack([pull(g)[0] for g in nt.eye(y.numel())])


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """The least processor time of several runs."""
    found = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return min(found)


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that a run holds at once, beyond what was held before."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - before


def measured(case: Case, width: int) -> dict[str, tuple[float, float]]:
    """(milliseconds, megabytes) of each mode, after a check that both give the same Jacobian."""
    function, x = network(case, width)
    kinds = {"forward": forward_jacobian, "reverse": reverse_jacobian}
    forward, reverse = (kind(function, x) for kind in kinds.values())
    if not nt.allclose(forward, reverse, rtol=1e-3, atol=1e-5):
        raise AssertionError(f"forward and reverse mode disagree for {case}")
    calls = {name: partial(kind, function, x) for name, kind in kinds.items()}
    return {name: (1e3 * seconds(call), 1e-6 * peak_bytes(call)) for name, call in calls.items()}


def draw(results: dict[str, list[dict[str, tuple[float, float]]]], path: Path) -> None:
    """Time above and memory below, over inputs, outputs and depth."""
    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.6), sharex="col", sharey="row")
    for column, (sweep, found) in enumerate(results.items()):
        sizes = [getattr(case, sweep) for case in SWEEPS[sweep]]
        for row, unit in enumerate(("milliseconds", "megabytes at the peak")):
            axis = axes[row, column]
            for name, (color, marker) in MODES.items():
                values = [entry[name][row] for entry in found]
                axis.plot(sizes, values, color=color, marker=marker, markersize=4, label=name)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.set_xticks(sizes)
            if column == 0:
                axis.set_ylabel(unit)
            if row == 1:
                axis.set_xlabel(f"number of {sweep}" if sweep != "depth" else "number of layers")
        fixed = SWEEPS[sweep][0]._asdict()
        words = {"inputs": "input", "outputs": "output", "depth": "layer"}
        rest = [f"{n} {words[k]}{'s' * (n > 1)}" for k, n in fixed.items() if k != sweep]
        axes[0, column].set_title(", ".join(rest), fontsize=10)
    axes[0, 0].legend()
    figure.suptitle("A whole Jacobian by forward and by reverse accumulation")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures forward against reverse accumulation.")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "images" / "forward_vs_reverse.png"
    )
    parser.add_argument("--width", type=int, default=4096, help="numbers per layer; default 4096")
    options = parser.parse_args()

    results: dict[str, list[dict[str, tuple[float, float]]]] = {}
    print(f"{'inputs':>7}{'outputs':>9}{'layers':>8}{'forward':>22}{'reverse':>22}")
    for sweep, cases in SWEEPS.items():
        results[sweep] = []
        for case in cases:
            found = measured(case, options.width)
            results[sweep].append(found)
            told = "".join(f"{ms:>11.2f} ms{mb:>6.2f} MB" for ms, mb in found.values())
            print(f"{case.inputs:>7}{case.outputs:>9}{case.depth:>8}{told}")
    draw(results, options.output)
    print(f"drawn in {options.output}")


if __name__ == "__main__":
    main()
