"""How compiling, and a compiled call, grow with operations, tensors, arguments and batch sizes.

    python scripts/bench_growth.py          the curves, in both modes: about a minute

Times are the processor's, so that other programs on the machine count little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import nanotorch as nt
from nanotorch import nn, optim

CALLS = 30  # of which the fastest counts
Curve = dict[str, dict[str, dict[str, float]]]  # mode, abscissa: seconds to compile, µs of a call


def operations(count: int) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """A chain of so many operations, forward and back."""
    w = nt.randn(8, requires_grad=True)

    def step() -> Any:
        w.grad, y = None, w
        for _ in range(count // 2):
            y = y * 0.99 + 0.01
        loss = y.sum()
        loss.backward()
        return loss

    return step, [()]


def tensors(count: int) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """A step of SGD on so many parameters."""
    ws = [nt.randn(4, requires_grad=True) for _ in range(count)]
    optimizer = optim.SGD(ws, lr=0.01)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = x.sum()
        for w in ws:
            loss = loss + (w * x).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step, [(nt.randn(4),)]


def arguments(count: int) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """A function of so many tensors, each of which is compared with those it was compiled for."""
    return lambda *xs: xs[0].detach() + xs[-1], [tuple(nt.randn(4) for _ in range(count))]


def shapes(count: int) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """Logistic regression on so many batch sizes in turn."""
    model = nn.Linear(30, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, [(nt.randn(n, 30), nt.rand(n, 1)) for n in range(1, count + 1)]


def modules(count: int) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """So many modules, whose modes and attributes a recording is guarded by."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))

    def step(x: Any) -> Any:
        with nt.no_grad():
            return model(x)

    return step, [(nt.randn(2, 4),)]


CURVES: dict[str, tuple[Callable[[int], Any], tuple[int, ...]]] = {
    "operations": (operations, (100, 1000, 10_000)),
    "tensors": (tensors, (20, 200, 2000)),
    "arguments": (arguments, (2, 16, 128)),
    "batch sizes": (shapes, (1, 8, 64)),
    "modules": (modules, (10, 100, 1000)),
}


def measure() -> dict[str, Curve]:
    """Of each curve, mode and abscissa: seconds until all is compiled, and µs of a later call."""
    found: dict[str, Curve] = {}
    for name, (make, points) in CURVES.items():
        found[name] = {}
        for mode in ("nanotorch", "nanotorch-matched", "nanotorch-compile"):
            line = found[name][mode] = {}
            for count in points:
                step, batches = make(count)
                run = step
                if mode != "nanotorch":
                    run = nt.compile(step, pure=mode == "nanotorch-compile")

                def calls(run: Any = run, batches: Any = batches) -> float:
                    start = time.process_time()
                    for batch in batches:
                        run(*batch)
                    return time.process_time() - start

                compiling = sum(calls() for _ in range(3))
                few = max(3, CALLS // len(batches))
                later = min(calls() for _ in range(few)) / len(batches)
                line[str(count)] = {"compiling": compiling, "call": later * 1e6}
    return found


if __name__ == "__main__":
    import bench_page

    print(bench_page.growth(measure()))
