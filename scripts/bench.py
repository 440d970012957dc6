"""Times NanoTorch beside every peer that is installed: Markdown tables of medians and ratios.

    python scripts/bench.py                              everything, about 20 minutes
    python scripts/bench.py --quick                      a rough look, about 3 minutes
    python scripts/bench.py steps jobs growth            the cases of docs/performance.md's limits
    python scripts/bench.py layers                       each layer, forward and with backward
    python scripts/bench.py steps --cases S,M --peers nanotorch-compile,torch,numpy
    python scripts/bench.py --results figures.json && python scripts/bench_page.py figures.json
    python scripts/bench.py --device cuda                the steps on a GPU, and its memory

Each peer runs in a process of its own, since thread pools within one process fight, and the
processes take turns, so that a slow moment of the machine hits all of them. Only ratios within one
run count. All peers start from the same weights, and a loss that comes out differently is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import bench_cases
import bench_cuda
import bench_layers
import bench_page
from bench_peers import FLOORS, PEERS, Case

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("bench_worker.py")

CASES = {
    "S": Case(32, (30, 1)),
    "M": Case(128, (784, 10)),
    "L": Case(8192, (1024, 1)),
    "XL": Case(200_000, (256, 1)),
    "MLP": Case(128, (784, 256, 10)),
}
CUDA_CASES = {
    **CASES,
    "XXL": Case(1_000_000, (1024, 1)),
    "WIDE": Case(8192, (4096, 4096, 4096, 10)),
    "WIDE-tf32": Case(8192, (4096, 4096, 4096, 10), "tf32"),
    "WIDE-float16": Case(8192, (4096, 4096, 4096, 10), "float16"),
    "WIDE-bfloat16": Case(8192, (4096, 4096, 4096, 10), "bfloat16"),
}
CUDA_MEMORY = ("MLP", "XL", "WIDE")
EPOCHS = {"S": (Case(569, (30, 1)), 32), "MLP": (Case(20_000, (784, 256, 10)), 128)}
FITS = ("breast_cancer", "digits", "20000x100")
FIT_PEERS = {
    "nanotorch": "nanotorch",
    "nanotorch-compile": "nanotorch",
    "torch": "torch",
    "scikit-learn": "sklearn",
}
CURVES = {
    "batch": [Case(8 * 4**i, (256, 1)) for i in range(8)],
    "features": [Case(1024, (4 * 4**i, 1)) for i in range(7)],
    "depth": [Case(128, (256,) * (depth + 1) + (10,)) for depth in (1, 2, 4, 8, 16)],
}
CURVE_PEERS = ("nanotorch", "nanotorch-compile", "torch", "numpy", "jax")
# The package beside these scripts is the one that is measured, installed or not.
sys.path.insert(0, str(ROOT))

from nanotorch.backend import cuda_unavailable_reason

ENVIRONMENT = {**os.environ}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# Where no bytecode may be written, each process would compile its sources anew.
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)
RUNS = ("breast_cancer", "digits")
PARTS = ("steps", "jobs", "growth", "epochs", "fits", "layers", "processes", "memory", "curves")
CUDA_PARTS = ("steps", "memory")


def say(text: str) -> None:
    print(f"bench.py: {text}", file=sys.stderr, flush=True)


# --- workers --------------------------------------------------------------------------------------


class Failed(Exception):
    """A worker that came to an end; its last words."""


class Worker:
    """A process of bench_worker.py."""

    def __init__(self, *arguments: str, preload: str = "") -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        environment = {**ENVIRONMENT, "LD_PRELOAD": preload} if preload else ENVIRONMENT
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    @functools.cached_property
    def ready(self) -> dict[str, Any]:
        """What it says first, once it is set up."""
        return dict(json.loads(self._line()))

    def _line(self) -> str:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self._errors.seek(0)
            words = self._errors.read().strip().splitlines()
            self.close()
            raise Failed(words[-1] if words else "it ended without a word")
        return line

    def turn(self, what: str = "") -> float:
        print(what, file=self._process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._errors.close()


@contextlib.contextmanager
def workers(mode: str, peers: Sequence[str], *arguments: str) -> Iterator[dict[str, Worker]]:
    """A worker of each peer; one that cannot run this is left out with a word."""
    found: dict[str, Worker] = {}
    try:
        if "cuda" in arguments:  # many cores: they may set up side by side
            found = {peer: Worker(mode, peer, *arguments) for peer in peers}
        for peer in peers:
            try:
                worker = found.get(peer) or Worker(mode, peer, *arguments)
                found[peer] = worker
                worker.ready  # noqa: B018 (waits for it)
            except Failed as failure:
                del found[peer]
                say(f"{peer} cannot run {mode} {' '.join(arguments)}: {failure}")
        yield found
    finally:
        for worker in found.values():
            worker.close()


def take_turns(found: dict[str, Worker], turns: int, what: str = "") -> dict[str, list[float]]:
    """The times of `turns` rounds; the order within a round is another each time."""
    times: dict[str, list[float]] = {peer: [] for peer in found}
    for turn in range(turns):
        order = list(found)
        random.Random(turn).shuffle(order)
        for peer in order:
            time.sleep(0.06)  # the threads of the one before spin on for a while
            times[peer].append(found[peer].turn(what))
    return times


def check_same(what: str, values: dict[str, float], tolerance: float = 1e-3) -> None:
    """All peers must have computed the same, or they did not do the same work."""
    known = {peer: value for peer, value in values.items() if not math.isnan(value)}
    for peer, value in known.items():
        first = next(iter(known))
        if not math.isclose(value, known[first], rel_tol=tolerance):
            raise SystemExit(
                f"bench.py: {what}: {peer} found {value:.6f}, {first} {known[first]:.6f}"
            )


# --- the parts ------------------------------------------------------------------------------------


def steps(
    case: Case, peers: Sequence[str], turns: int, seconds: float, device: str = "cpu"
) -> dict[str, list[float]]:
    with workers("step", peers, str(case), str(seconds), device) as found:
        losses = {peer: w.ready["loss"] for peer, w in found.items()}
        check_same(f"loss of {case}", losses, 1e-3 if case.precision == "float32" else 1e-2)
        return take_turns(found, turns)


def jobs(name: str, peers: Sequence[str], turns: int, seconds: float) -> dict[str, list[float]]:
    with workers("job", peers, name, str(seconds)) as found:
        check_same(f"result of {name}", {peer: w.ready["result"] for peer, w in found.items()})
        return take_turns(found, turns)


def epochs(name: str, peers: Sequence[str], turns: int) -> dict[str, list[float]]:
    case, batch = EPOCHS[name]
    with workers("epoch", peers, str(case), str(batch)) as found:
        check_same(f"loss of epoch {name}", {peer: w.ready["loss"] for peer, w in found.items()})
        return take_turns(found, turns)


def fits(name: str, peers: Sequence[str], turns: int) -> dict[str, Any]:
    with workers("fit", peers, name) as found:
        objectives = {peer: w.ready["objective"] for peer, w in found.items()}
        check_same(f"objective of {name}", objectives)
        return {"seconds": take_turns(found, turns), "objective": objectives}


def processes(turns: int, runs: Sequence[str]) -> dict[str, list[float]]:
    """Wall seconds of fresh interpreters: empty, with an import, and whole training runs."""
    names = ["numpy", "nanotorch", "torch", "jax", "sklearn"]
    kinds = {"(nothing)": ["-c", "pass"]}
    for name in names:
        if importlib.util.find_spec(name) is not None:
            kinds[f"import {name}"] = ["-c", f"import {name}"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**ENVIRONMENT, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        for run in runs:
            config = f"configs/{run}.toml"
            kinds[f"train.py {config}"] = ["train.py", config, "--output.folder", f"{folder}/runs"]
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(turns + 1):  # the first one fills the caches, and is not counted
            for kind, arguments in kinds.items():
                command = [sys.executable, *arguments]
                start = time.perf_counter()
                try:
                    subprocess.run(
                        command,
                        check=True,
                        cwd=ROOT,
                        env=environment,
                        capture_output=True,
                        text=True,
                    )
                except subprocess.CalledProcessError as error:
                    words = error.stderr.strip().splitlines() or ["it ended without a word"]
                    raise SystemExit(f"bench.py: {kind} failed: {words[-1]}") from None
                if turn:
                    times[kind].append(time.perf_counter() - start)
    return times


def device_memory(cases: Sequence[str], peers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Bytes of the GPU that each peer takes, one process after the other."""
    found: dict[str, dict[str, Any]] = {}
    for case in cases:
        found[case] = {}
        for peer in peers:
            with workers("device-memory", [peer], str(CUDA_CASES[case])) as alone:
                found[case].update({name: worker.ready for name, worker in alone.items()})
    return found


def layers(peers: Sequence[str], turns: int, seconds: float) -> dict[str, Any]:
    """Microseconds of each layer, forward and with backward, and the memory of both."""
    times: dict[str, dict[str, list[float]]] = {}
    with workers("layers", peers, str(seconds)) as found:
        for name in bench_layers.LAYERS:
            for passes in ("forward", "both"):
                what = f"{name}, {passes}"
                results = {peer: worker.turn(what) for peer, worker in found.items()}
                check_same(what, results)
                able = {peer: found[peer] for peer in found if not math.isnan(results[peer])}
                for peer in found.keys() - able.keys():
                    say(f"{peer} cannot run {what}")
                times[name if passes == "both" else what] = take_turns(able, turns, what)
            say(f"layer {name} done")
    cases = {name: name for name in bench_layers.LAYERS | bench_layers.LENGTHS}
    return {"times": times, "memory": memory("layer-memory", cases, peers)}


def memory(mode: str, cases: dict[str, str], peers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Bytes and calls of the allocator; empty where the counting allocator cannot be built."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/counting.so"
        source = str(Path(__file__).with_name("counting_allocator.c"))
        try:
            command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, source]
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            say("memory is left out: it needs a C compiler, cc, and the GNU C library")
            return found
        for case in cases:
            found[case] = {}
            waiting: dict[str, Worker] = {}
            if mode == "layer-memory":  # side by side: counts do not depend on the time they take
                waiting = {p: Worker(mode, p, cases[case], preload=library) for p in peers}
            for peer in peers:
                try:
                    worker = waiting.get(peer) or Worker(mode, peer, cases[case], preload=library)
                    found[case][peer] = worker.ready
                except Failed as failure:
                    say(f"{peer} cannot run {mode} {case}: {failure}")
                    continue
                worker.close()
    return found


def describe_machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    versions = {"Python": platform.python_version()}
    for module in sorted({*PEERS.values(), "sklearn"}):
        distribution = {"sklearn": "scikit-learn"}.get(module, module)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[distribution] = importlib.metadata.version(distribution)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": model,
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "date": datetime.date.today().isoformat(),
        "load": round(os.getloadavg()[0], 2),
    }


# --- the command line -----------------------------------------------------------------------------


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", help=f"some of {', '.join(PARTS)}; all if none is named"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--cases",
        help=f"of steps and memory: some of {','.join(CUDA_CASES)}; "
        f"of jobs: {', '.join(bench_cases.NAMES)}",
    )
    parser.add_argument("--peers", help=f"some of {','.join([*PEERS, 'scikit-learn'])}")
    parser.add_argument("--turns", type=int, help="turns of each peer; default 9")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn; default 0.2")
    parser.add_argument("--quick", action="store_true", help="3 short turns, few points in curves")
    parser.add_argument("--results", metavar="FILE", help="add the times to this JSON file")
    options = parser.parse_args(arguments)

    def stop(message: str) -> NoReturn:
        parser.exit(2, f"bench.py: {message}\n")

    def chosen(text: str | None, known: Sequence[str], kind: str) -> list[str]:
        names = [name for name in (text or "").split(",") if name]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                stop(f"unknown {kind} {name!r}; there are {', '.join(known)}{hint}")
        return names

    if options.turns is not None and options.turns < 1:
        stop(f"--turns expects a positive number, got {options.turns}")
    if options.seconds <= 0:
        stop(f"--seconds expects a positive number, got {options.seconds}")
    on_gpu = options.device == "cuda"
    parts, cases = (CUDA_PARTS, CUDA_CASES) if on_gpu else (PARTS, CASES)
    options.parts = chosen(",".join(options.parts), parts, "part") or list(parts)
    names = bench_cases.NAMES if not on_gpu else ()
    asked = chosen(options.cases, [*cases, *names], "case") or [*cases, *names]
    options.cases = [name for name in asked if name in cases]
    options.jobs = [name for name in asked if name in names]
    if on_gpu and (reason := cuda_unavailable_reason()) is not None:
        stop(reason)
    modules = bench_cuda.PEERS if on_gpu else {**PEERS, **FIT_PEERS}
    asked = chosen(options.peers, list(modules), "peer")
    missing = [p for p in modules if importlib.util.find_spec(modules[p]) is None]
    for peer in asked:
        if peer in missing:
            stop(f"peer {peer} needs {modules[peer]}, which is not installed: pip install {peer}")
    if missing and not asked:
        say(f"not installed, left out: {', '.join(missing)}")
    options.peers = asked or [p for p in modules if p not in missing]
    options.turns = options.turns or (3 if options.quick else 9)
    options.seconds = min(options.seconds, 0.05) if options.quick else options.seconds
    return options


def measure_on_gpu(part: str, options: argparse.Namespace) -> Any:
    """What one part finds on the GPU."""
    if part == "memory":
        wanted = [case for case in CUDA_MEMORY if case in options.cases]
        return device_memory(wanted, options.peers)
    found = {}
    for case in options.cases:
        peers = [*options.peers, *bench_cuda.FLOORS]
        found[case] = steps(CUDA_CASES[case], peers, options.turns, options.seconds, "cuda")
        say(f"steps {case} done")
    return found


def measure(part: str, options: argparse.Namespace) -> Any:
    """What one part finds, in the form that bench_page.py reads."""
    if options.device == "cuda":
        return measure_on_gpu(part, options)
    peers = [peer for peer in options.peers if peer in PEERS]
    turns, seconds = options.turns, options.seconds
    if part == "steps":
        found = {}
        for case in options.cases:
            found[case] = steps(CASES[case], [*peers, *FLOORS], turns, seconds)
            say(f"steps {case} done")
        return found
    if part == "jobs":
        times = {}
        for name in options.jobs:
            able = [peer for peer in bench_cases.peers_of(name) if peer in peers]
            times[name] = jobs(name, able, turns, seconds)
            say(f"job {name} done")
        return times
    if part == "growth":
        with workers("growth", ["nanotorch"], "") as alone:
            return alone["nanotorch"].ready
    if part == "epochs":
        return {name: epochs(name, peers, turns) for name in EPOCHS}
    if part == "fits":
        fitting = [peer for peer in options.peers if peer in FIT_PEERS]
        return {name: fits(name, fitting, turns) for name in FITS}
    if part == "processes":
        return processes(turns, RUNS[:1] if options.quick else RUNS)
    if part == "memory":
        cases = {case: str(CASES[case]) for case in options.cases}
        return memory("memory", cases, [*(p for p in peers if p != bench_page.AHEAD), "gemms"])
    if part == "layers":
        return layers([p for p in bench_layers.PEERS if p in peers], turns, seconds)
    drawn = [peer for peer in CURVE_PEERS if peer in peers]
    curves: dict[str, dict[str, Any]] = {}
    for name, cases in CURVES.items():
        points = cases[1:-1:2] if options.quick else cases
        curves[name] = {}
        for case in points:
            times = steps(case, [*drawn, *FLOORS], min(turns, 5), min(seconds, 0.1))
            curves[name][str(case)] = times
        say(f"curve over {name} done")
    return curves


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    machine = describe_machine()
    if options.device == "cuda":
        machine["device"] = bench_cuda.describe_device()
    elif machine["load"] > 1:
        say(f"the machine is busy (load {machine['load']}): the times will be noisy")
    path = Path(options.results) if options.results else None
    results = json.loads(path.read_text()) if path and path.exists() else {}
    on_gpu, all_cases = options.device == "cuda", options.cases
    for part in options.parts:
        name = f"cuda-{part}" if on_gpu else part
        measured: dict[str, Any] = {}
        # On a lent device time may run out: what is there is kept case by case.
        for cases in [[case] for case in all_cases] if on_gpu else [all_cases]:
            options.cases = cases
            measured.update(measure(part, options))
            results.setdefault(name, {}).update(measured)  # what is measured anew replaces its own
            results.setdefault("machines", {})[name] = {**machine, "turns": options.turns}
            if path:
                path.write_text(json.dumps(results))
        print(bench_page.SECTIONS[name](measured), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench.py: interrupted")
