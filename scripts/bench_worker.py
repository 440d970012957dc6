"""One peer in a process of its own, started by bench.py: it sets up, prints a line of JSON, and
then answers each line that it reads with a measured time.

    python scripts/bench_worker.py step PEER CASE SECONDS [cuda]  microseconds per step
    python scripts/bench_worker.py job PEER NAME SECONDS          microseconds of a job
    python scripts/bench_worker.py growth nanotorch ""            times over what grows; no turns
    python scripts/bench_worker.py epoch PEER CASE BATCH          seconds of a shuffled epoch
    python scripts/bench_worker.py fit PEER DATA                  seconds of a fit to convergence
    python scripts/bench_worker.py layers PEER SECONDS            microseconds of what a line names
    python scripts/bench_worker.py memory PEER CASE               bytes that a step needs; no turns
    python scripts/bench_worker.py layer-memory PEER LAYER        the same of a layer
    python scripts/bench_worker.py device-memory PEER CASE        bytes of the GPU; no turns
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import math
import re
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import bench_cases
import bench_cuda
import bench_layers
import numpy as np
from bench_peers import Case, Program, build, data

L2 = 0.01
TOLERANCE = 1e-6  # of the largest slope, where a fit stops
WARM_UP = 3


def serve(ready: dict[str, Any], turn: Callable[[], float]) -> None:
    """Says what is ready, and answers every line with the time of one turn."""
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        print(turn(), flush=True)


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ready_program(peer: str, case: Case, device: str = "cpu") -> tuple[Program, Any, Any]:
    program = build(peer, case, device)
    x, y = data(case)
    return program, program.convert(x), program.convert(y)


def step(peer: str, case: Case, seconds: float, device: str) -> None:
    program, x, y = ready_program(peer, case, device)
    for _ in range(WARM_UP):
        result = program.step(x, y)
    loss = program.loss(result)
    at_once, call = program.many or (1, program.step)

    def run(count: int) -> None:
        for _ in range(count):
            result = call(x, y)
        program.loss(result)
        program.wait()

    run(WARM_UP)
    each = min(seconds_of(lambda: run(2)) / 2 for _ in range(3))
    count = max(1, int(seconds / max(each, 1e-7)))

    def turn() -> float:
        run(max(1, count // 10))  # the others have emptied the caches
        return seconds_of(lambda: run(count)) / (count * at_once) * 1e6

    serve({"loss": loss}, turn)


def job(peer: str, name: str, seconds: float) -> None:
    call = bench_cases.build(peer, name)
    results = [call() for _ in range(WARM_UP)]
    each = min(seconds_of(call) for _ in range(3))
    count = max(1, int(seconds / max(each, 1e-7)))

    def run(count: int) -> None:
        for _ in range(count):
            call()

    def turn() -> float:
        run(max(1, count // 10))
        return seconds_of(lambda: run(count)) / count * 1e6

    serve({"result": results[-1]}, turn)


def epoch(peer: str, case: Case, batch: int) -> None:
    program, x, y = ready_program(peer, case)
    generator = np.random.default_rng(2)

    def run() -> float:
        order = generator.permutation(case.rows)
        for start in range(0, case.rows, batch):
            rows = order[start : start + batch]
            result = program.step(program.rows(x, rows), program.rows(y, rows))
        return program.loss(result)

    run()
    loss = run()
    count = max(1, int(0.2 / seconds_of(run)))
    serve({"loss": loss}, lambda: seconds_of(lambda: [run() for _ in range(count)]) / count)


# --- whole fits -----------------------------------------------------------------------------------


def fit_data(name: str) -> tuple[Any, Any]:
    """Standardized features float64, and classes int64."""
    if re.fullmatch(r"\d+x\d+", name):
        rows, inputs = map(int, name.split("x"))
        generator = np.random.default_rng(0)
        x = generator.standard_normal((rows, inputs))
        z = x @ generator.standard_normal(inputs) / np.sqrt(inputs)
        return x, (z + generator.standard_normal(rows) > 0).astype(np.int64)
    from nanotorch.datasets import load

    table = load(name)
    x = np.asarray(table.features, np.float64)
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 0, spread, 1), np.asarray(table.target, np.int64)


def objective(w: Any, b: Any, x: Any, y: Any) -> float:
    """Mean log loss plus L2 / 2 * sum(w**2); w (outputs, inputs), one output for two classes."""
    z = x @ w.T + b
    if len(w) == 1:
        loss = np.logaddexp(0, np.where(y[:, None] == 1, -z, z)).mean()
    else:
        top = z.max(1)
        loss = (top + np.log(np.exp(z - top[:, None]).sum(1)) - z[np.arange(len(y)), y]).mean()
    return float(loss + L2 / 2 * np.square(w).sum())


def sklearn_fit(x: Any, y: Any) -> tuple[Any, Any]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (L2 * len(y)), tol=TOLERANCE, max_iter=5000).fit(x, y)
    return model.coef_, model.intercept_


def framework_fit(peer: str, x: Any, y: Any) -> tuple[Any, Any]:
    """LBFGS with the memory of scikit-learn's, 10 pairs, and the same stopping rule."""
    name, _, compiled = peer.partition("-")
    torch = importlib.import_module(name)
    outputs = 1 if y.max() == 1 else int(y.max()) + 1
    model = torch.nn.Linear(x.shape[1], outputs, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    inputs = torch.from_numpy(x)
    if outputs == 1:
        target = torch.from_numpy(y[:, None].astype(np.float64))
        criterion = torch.nn.BCEWithLogitsLoss()
    else:
        target, criterion = torch.from_numpy(y), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=5000,
        history_size=10,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Any:
        optimizer.zero_grad()
        loss = criterion(model(inputs), target) + L2 / 2 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(torch.compile(closure, pure=True) if compiled else closure)
    return model.weight.detach().numpy(), model.bias.detach().numpy()


def fit(peer: str, name: str) -> None:
    x, y = fit_data(name)
    call = sklearn_fit if peer == "scikit-learn" else lambda x, y: framework_fit(peer, x, y)
    found = objective(*call(x, y), x, y)
    serve({"objective": found}, lambda: seconds_of(lambda: call(x, y)))


# --- memory ---------------------------------------------------------------------------------------


def layers(peer: str, seconds: float) -> None:
    """Serves all layers, one after the other. A line is "LAYER, PASS" (forward, both): the first of
    its kind is answered with the layer's result, NaN where the peer cannot run it."""
    print(json.dumps({}), flush=True)
    now, turn = "", lambda: math.nan
    for line in map(str.strip, sys.stdin):
        if line == now:
            print(turn(), flush=True)
            continue
        now, (name, passes) = line, line.rsplit(", ", 1)
        try:
            result, turn = layer(peer, name, seconds, passes == "both")
        except Exception as error:
            print(f"{line}: {error}", file=sys.stderr)
            result = math.nan
        print(result, flush=True)


def layer(
    peer: str, name: str, seconds: float, backward: bool
) -> tuple[float, Callable[[], float]]:
    """The result of a layer, and a function that times it."""
    call = bench_layers.build(peer, name, backward)
    results = [call() for _ in range(WARM_UP + 2)]
    each = min(seconds_of(call) for _ in range(3))
    count = max(1, int(seconds / max(each, 1e-7)))

    def turn() -> float:
        call()
        return seconds_of(lambda: [call() for _ in range(count)]) / count * 1e6

    return results[0], turn


def memory(ready: Callable[[bool], Callable[[], Any]]) -> None:
    """What a step needs besides model and batch; counting_allocator.c must be preloaded.

    `ready` makes the call of a step, of a small one where its argument is True.
    """
    allocator = ctypes.CDLL(None)
    for name in ("counting_live", "counting_peak", "counting_calls"):
        getattr(allocator, name).restype = ctypes.c_longlong

    # A first model on few rows loads code and starts threads, which no step is to blame for.
    run = ready(True)
    for _ in range(WARM_UP):
        run()
    run = ready(False)
    gc.collect()
    before = allocator.counting_live()
    for _ in range(WARM_UP):
        run()
    gc.collect()
    gc.disable()
    allocator.counting_reset()
    run()
    run()
    peak, calls = allocator.counting_peak(), allocator.counting_calls() / 2
    held = allocator.counting_live()
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "step": max(peak - before, 0),  # bytes at the highest, gradients and plans included
        "fresh": max(peak - held, 0),  # bytes of them that a step allocates and gives back
        "calls": calls,  # of the allocator, in one step
        "process": whole,  # bytes of the whole process at the highest, libraries and batch included
    }
    print(json.dumps(found), flush=True)


def case_memory(peer: str, case: Case) -> None:
    def ready(small: bool) -> Callable[[], Any]:
        rows = min(case.rows, 16) if small else case.rows
        program, x, y = ready_program(peer, Case(rows, case.widths))
        return lambda: program.loss(program.step(x, y))

    memory(ready)


def device_memory(peer: str, case: Case) -> None:
    """What model, batch, steps and a library's own caches take of the GPU."""
    taken = bench_cuda.device_bytes_taken(peer)
    program, x, y = ready_program(peer, case, "cuda")
    _, call = program.many or (1, program.step)
    for _ in range(2 * WARM_UP):
        program.loss(call(x, y))
    program.wait()
    print(json.dumps({"taken": taken(), "batch": x.nbytes + y.nbytes}), flush=True)


def main() -> None:
    mode, peer, what, *rest = sys.argv[1:]
    if mode == "step":
        step(peer, Case.parse(what), float(rest[0]), rest[1] if len(rest) > 1 else "cpu")
    elif mode == "device-memory":
        device_memory(peer, Case.parse(what))
    elif mode == "epoch":
        epoch(peer, Case.parse(what), int(rest[0]))
    elif mode == "job":
        job(peer, what, float(rest[0]))
    elif mode == "growth":
        import bench_growth  # which imports NanoTorch, as other peers must not

        print(json.dumps(bench_growth.measure()), flush=True)
    elif mode == "fit":
        fit(peer, what)
    elif mode == "layers":
        layers(peer, float(what))
    elif mode == "layer-memory":
        memory(lambda small: bench_layers.build(peer, what, True))
    else:
        case_memory(peer, Case.parse(what))


if __name__ == "__main__":
    main()
